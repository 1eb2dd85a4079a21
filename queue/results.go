package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// publishResult stores the event that tells how a message ended: one per message, whatever is
// repeated after a crash.
func (b *Broker) publishResult(ctx context.Context, created int64, r Result) error {
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode the result: %w", err)
	}
	msg := nats.NewMsg(ResultsSubject + "." + token(r.Outcome) + "." + Key(r.EmployeeID))
	msg.Data = data
	msg.Header.Set(jetstream.MsgIDHeader, messageID("", created, r.Sequence))
	_, err = b.store(ctx, msg)
	return err
}

// messageID names a message for good: streams that are made anew count from 1 again.
func messageID(prefix string, created int64, seq uint64) string {
	return prefix + strconv.FormatInt(created, 10) + "-" + strconv.FormatUint(seq, 10)
}

// ResultsEnd is the position of the newest result event, 0 if there is none yet. To see the
// results of what one is about to publish, ask first, then publish, then watch from there.
func (b *Broker) ResultsEnd(ctx context.Context) (position uint64, err error) {
	err = b.again(ctx, "find the newest result", func(ctx context.Context, _ *connection) error {
		s, err := b.js.Stream(ctx, ResultsStream)
		if err == nil {
			position = s.CachedInfo().State.LastSeq
		}
		return err
	})
	return position, err
}

// Results calls each with every result event after the given position, in order, waiting for new
// ones. It returns when ctx ends, with its cause, or with the first error of each. Outages of
// the broker are bridged without a gap.
func (b *Broker) Results(ctx context.Context, after uint64, each func(Result) error) error {
	stop := errors.New("stop")
	for {
		var failed error
		err := b.follow(ctx, after, func(r Result) error {
			after = r.Position
			if failed = each(r); failed != nil {
				return stop
			}
			return nil
		})
		if errors.Is(err, stop) {
			return failed
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		b.log.Warn().Err(err).Msg("watching results is interrupted")
		if err := pause(ctx); err != nil {
			return err
		}
	}
}

// follow reads results until something goes wrong.
func (b *Broker) follow(ctx context.Context, after uint64, each func(Result) error) error {
	if err := b.Await(ctx); err != nil {
		return err
	}
	c, err := b.js.OrderedConsumer(ctx, ResultsStream, jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: after + 1,
	})
	if err != nil {
		return b.failed(ctx, "watch results", err)
	}
	messages, err := c.Messages()
	if err != nil {
		return b.failed(ctx, "watch results", err)
	}
	defer messages.Stop()
	for {
		msg, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return b.failed(ctx, "watch results", err)
		}
		r, err := result(msg)
		if err != nil {
			b.log.Warn().Err(err).Msg("unreadable result event skipped")
			continue
		}
		if err := each(r); err != nil {
			return err
		}
	}
}

func result(msg jetstream.Msg) (Result, error) {
	var r Result
	meta, err := msg.Metadata()
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(msg.Data(), &r); err != nil {
		return r, fmt.Errorf("result %d: %w", meta.Sequence.Stream, err)
	}
	r.Position = meta.Sequence.Stream
	return r, nil
}

// Recent returns up to limit results before a position (0 = all), newest first, of one employee if
// one is named, and the position to go on from, 0 if there are no more.
func (b *Broker) Recent(ctx context.Context, employee string, before uint64, limit int) (page []Result, next uint64, err error) {
	ctx, cancel := b.within(ctx)
	defer cancel()
	if employee != "" {
		page, err = b.resultsOf(ctx, employee, before, limit)
	} else {
		page, err = b.resultsBefore(ctx, before, limit)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("read results: %w", err)
	}
	slices.Reverse(page)
	if len(page) == limit {
		next = page[limit-1].Position
	}
	return page, next, nil
}

// resultsBefore are the last ones before a position; positions have gaps only where they have aged
// away.
func (b *Broker) resultsBefore(ctx context.Context, before uint64, limit int) ([]Result, error) {
	state, err := b.state(ctx, ResultsStream)
	if err != nil {
		return nil, err
	}
	if before == 0 || before > state.LastSeq {
		before = state.LastSeq + 1
	}
	from := max(state.FirstSeq, 1)
	if before > uint64(limit) {
		from = max(from, before-uint64(limit))
	}
	if before <= from {
		return nil, nil
	}
	found, _, err := b.scan(ctx, ResultsStream, ">", from, int(before-from))
	return readResults(found, before), err
}

func (b *Broker) resultsOf(ctx context.Context, employee string, before uint64, limit int) (last []Result, err error) {
	for from := uint64(1); ; {
		found, rest, err := b.scan(ctx, ResultsStream, ResultsSubject+".*."+Key(employee), from, 500)
		if err != nil {
			return nil, err
		}
		last = append(last, readResults(found, before)...)
		last = last[max(0, len(last)-limit):]
		if rest == 0 || len(found) == 0 {
			return last, nil
		}
		from = found[len(found)-1].sequence + 1
	}
}

func readResults(found []stored, before uint64) []Result {
	page := make([]Result, 0, len(found))
	for _, m := range found {
		var r Result
		if before != 0 && m.sequence >= before || json.Unmarshal(m.data, &r) != nil {
			continue
		}
		r.Position = m.sequence
		page = append(page, r)
	}
	return page
}

// CountsSince tells how many records ended with each outcome since a time by the broker's clock.
func (b *Broker) CountsSince(ctx context.Context, since time.Time) (map[string]uint64, error) {
	ctx, cancel := b.within(ctx)
	defer cancel()
	start := fmt.Sprintf(`"start_time":%q`, since.UTC().Format(time.RFC3339Nano))
	counts := map[string]uint64{}
	for _, outcome := range Outcomes {
		found, rest, err := b.scanFrom(ctx, ResultsStream, ResultsSubject+"."+outcome+".*", start, 1)
		if err != nil {
			return nil, fmt.Errorf("count results: %w", err)
		}
		counts[outcome] = rest + uint64(len(found))
	}
	return counts, nil
}
