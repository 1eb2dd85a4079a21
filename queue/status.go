package queue

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// A Status is what an operator wants to know about the queue at one moment.
type Status struct {
	At          time.Time         `json:"at"`      // by the broker's clock
	Backlog     uint64            `json:"backlog"` // records not settled: Waiting, InFlight and Orphans
	Waiting     uint64            `json:"waiting"`
	InFlight    int               `json:"in_flight"`   // with a worker, or waiting for their retry
	Redelivered int               `json:"redelivered"` // of those in flight
	Orphans     uint64            `json:"orphans"`     // that no worker will get: something is wrong
	Oldest      time.Time         `json:"oldest,omitzero"`
	Bytes       uint64            `json:"bytes"`
	MaxBytes    int64             `json:"max_bytes,omitempty"` // 0 = no bound
	Pulls       int               `json:"pulls"`               // requests for records that wait: idle workers
	AckWait     time.Duration     `json:"ack_wait"`
	Paused      bool              `json:"paused"` // the consumer, by an operator
	Dead        map[string]uint64 `json:"dead"`   // dead letters by reason
	Results     map[string]uint64 `json:"results"`
}

// Status looks at everything.
func (b *Broker) Status(ctx context.Context) (st Status, err error) {
	ctx, cancel := b.within(ctx)
	defer cancel()
	if st, err = b.Backlog(ctx); err != nil {
		return Status{}, err
	}
	if st.Dead, err = b.deadReasons(ctx); err != nil {
		return Status{}, err
	}
	st.Results, err = b.Counts(ctx)
	return st, err
}

// looksForOrphans is how often Backlog looks, a moment apart, before it calls a record an orphan.
const looksForOrphans = 5

// Backlog looks at the work queue only: Dead and Results stay nil. The broker's consumer counts a
// record a moment after its stream does, so that one look is no proof that it never will.
func (b *Broker) Backlog(ctx context.Context) (st Status, err error) {
	for look := 1; ; look++ {
		err = b.again(ctx, "look at the queue", func(ctx context.Context, _ *connection) (err error) {
			st, err = b.backlog(ctx)
			return err
		})
		if err != nil || st.Orphans == 0 || look == looksForOrphans || pause(ctx) != nil {
			return st, err
		}
	}
}

func (b *Broker) backlog(ctx context.Context) (Status, error) {
	stream, err := b.js.Stream(ctx, Stream)
	if err != nil {
		return Status{}, err
	}
	before := stream.CachedInfo().State.Msgs
	consumer, err := stream.Consumer(ctx, Consumer)
	if err != nil {
		return Status{}, err
	}
	c := consumer.CachedInfo()
	after, err := stream.Info(ctx)
	if err != nil {
		return Status{}, err
	}
	s := Status{
		At: after.TimeStamp, Backlog: after.State.Msgs, Waiting: c.NumPending, InFlight: c.NumAckPending, Redelivered: c.NumRedelivered,
		Bytes: after.State.Bytes, MaxBytes: max(after.Config.MaxBytes, 0), Pulls: c.NumWaiting, AckWait: c.Config.AckWait, Paused: c.Paused,
	}
	if s.Backlog > 0 {
		s.Oldest = after.State.FirstTime
	}
	// The three are not one moment: what was published or settled between them is no orphan.
	known := c.NumPending + uint64(c.NumAckPending)
	if stayed := min(before, after.State.Msgs); stayed > known {
		s.Orphans = stayed - known
	}
	return s, nil
}

// Counts tells how many result events of each outcome are kept.
func (b *Broker) Counts(ctx context.Context) (map[string]uint64, error) {
	ctx, cancel := b.within(ctx)
	defer cancel()
	counts := map[string]uint64{}
	for _, outcome := range Outcomes {
		found, rest, err := b.scan(ctx, ResultsStream, ResultsSubject+"."+outcome+".*", 1, 1)
		if err != nil {
			return nil, fmt.Errorf("count results: %w", err)
		}
		counts[outcome] = rest + uint64(len(found))
	}
	return counts, nil
}

// tokens are what follows prefix in the subjects of a stream, from one page of them, which the
// broker bounds at 100,000.
func (b *Broker) tokens(ctx context.Context, stream, prefix string) (map[string]bool, error) {
	reply, err := b.nc.RequestWithContext(ctx, "$JS.API.STREAM.INFO."+stream, []byte(`{"subjects_filter":"`+prefix+`.>"}`))
	if err != nil {
		return nil, err
	}
	var info struct {
		State struct {
			Subjects map[string]uint64 `json:"subjects"`
		} `json:"state"`
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(reply.Data, &info); err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	if info.Error != nil {
		return nil, info.Error
	}
	tokens := map[string]bool{}
	for subject := range info.State.Subjects {
		t, _, _ := strings.Cut(strings.TrimPrefix(subject, prefix+"."), ".")
		tokens[t] = true
	}
	return tokens, nil
}

// A stored message is one as the broker keeps it.
type stored struct {
	subject  string
	sequence uint64
	at       time.Time
	header   map[string][]string
	data     []byte
}

// Settled tells how many records were settled since a time by the broker's clock, and when the
// first of them was.
func (b *Broker) Settled(ctx context.Context, since time.Time) (count uint64, first time.Time, err error) {
	start := fmt.Sprintf(`"start_time":%q`, since.UTC().Format(time.RFC3339Nano))
	found, rest, err := b.scanFrom(ctx, ResultsStream, ResultsSubject+".>", start, 1)
	if err != nil || len(found) == 0 {
		return 0, time.Time{}, err
	}
	return rest + 1, found[0].at, nil
}

// scan reads up to limit messages on the subjects of filter from a sequence on, and tells how
// many there are beyond them.
func (b *Broker) scan(ctx context.Context, stream, filter string, from uint64, limit int) (found []stored, rest uint64, err error) {
	return b.scanFrom(ctx, stream, filter, fmt.Sprintf(`"seq":%d`, from), limit)
}

// scanFrom is a batch of direct gets (NATS ADR-31), which loads nothing else. Where it begins is
// a member of the request.
func (b *Broker) scanFrom(ctx context.Context, stream, filter, start string, limit int) (found []stored, rest uint64, err error) {
	request := fmt.Sprintf(`{%s,"next_by_subj":%q,"batch":%d,"max_bytes":%d}`, start, filter, limit, 4<<20)
	err = b.again(ctx, "read "+stream, func(ctx context.Context, _ *connection) error {
		replies := make(chan *nats.Msg, limit+1)
		sub, err := b.nc.ChanSubscribe(b.nc.NewInbox(), replies)
		if err != nil {
			return err
		}
		defer func() { _ = sub.Unsubscribe() }() // fails only on a closed connection
		if err := b.nc.PublishRequest("$JS.API.DIRECT.GET."+stream, sub.Subject, []byte(request)); err != nil {
			return err
		}
		found, rest, err = batch(ctx, replies)
		return err
	})
	return found, rest, err
}

// batch reads the answers to a batch of direct gets.
func batch(ctx context.Context, replies <-chan *nats.Msg) (found []stored, rest uint64, err error) {
	for {
		select {
		case m := <-replies:
			switch status := m.Header.Get("Status"); status {
			case "":
				found = append(found, rawMessage(m))
			case "204": // that was all
				rest, err = strconv.ParseUint(m.Header.Get("Nats-Num-Pending"), 10, 64)
				return found, rest, err
			case "404":
				return nil, 0, nil
			case "503":
				return nil, 0, nats.ErrNoResponders
			default:
				return nil, 0, fmt.Errorf("%s %s", status, m.Header.Get("Description"))
			}
		case <-ctx.Done():
			return nil, 0, ctx.Err()
		}
	}
}

func rawMessage(m *nats.Msg) stored {
	s := stored{subject: m.Header.Get("Nats-Subject"), at: moment(m.Header.Get("Nats-Time-Stamp")), header: m.Header, data: m.Data}
	s.sequence, _ = strconv.ParseUint(m.Header.Get("Nats-Sequence"), 10, 64)
	return s
}
