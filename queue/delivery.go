package queue

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Headers of a record, a replayed record and a dead letter. Names that begin with "Nats-" belong to the broker.
const (
	HeaderBatch   = "Skillsync-Batch"    // set by publishers: the file or run a record belongs to
	HeaderSubject = "Skillsync-Subject"  // where the record was first published
	HeaderStream  = "Skillsync-Stream"   // in which stream
	HeaderEpoch   = "Skillsync-Epoch"    // when that stream was created, see Order
	HeaderSeq     = "Skillsync-Sequence" // at which place of it, see Order
	HeaderTime    = "Skillsync-Time"     // and when, by the broker's clock
	HeaderReplays = "Skillsync-Replays"  // how often it was replayed from the dead letters
	HeaderReplay  = "Skillsync-Replay"   // the name of the last of these replays
	HeaderLetter  = "Skillsync-Letter"   // the dead letter that it was replayed from
	headerLives   = "Skillsync-Lives"    // what it was as a dead letter: JSON, see Life
	HeaderTrace   = "traceparent"        // W3C Trace Context, in lower case as it asks for; kept through everything
)

// Outcomes of a record: every one ends as exactly one of these.
const (
	OutcomeVerified   = "verified"
	OutcomeUnchanged  = "unchanged"
	OutcomeSuperseded = "superseded" // a newer record of the same employee won
	OutcomeDead       = "dead_letter"
)

// Outcomes lists all of them.
var Outcomes = []string{OutcomeVerified, OutcomeUnchanged, OutcomeSuperseded, OutcomeDead}

var (
	// ErrSettled says that a delivery was settled before: it is settled exactly once.
	ErrSettled = errors.New("the delivery is settled already")
	// ErrLeaseLost says that the lease has run out or was given up: somebody else may have the
	// record by now, and this delivery must not touch it any more.
	ErrLeaseLost = errors.New("the lease of the delivery is lost")
)

// A Result is the event that tells the world how one message ended.
// Ack completes Sequence, Order, Batch, Replay, Letter and At from the delivery.
type Result struct {
	EmployeeID     string    `json:"employee_id"`
	Sequence       uint64    `json:"sequence"` // of the message in the stream it was consumed from
	Order          Order     `json:"order"`    // of its first publication
	Outcome        string    `json:"outcome"`
	Reason         string    `json:"reason,omitempty"`
	Attempt        int       `json:"attempt,omitempty"`
	CorrelationID  string    `json:"correlation_id,omitempty"`
	MappingVersion string    `json:"mapping_version,omitempty"`
	At             time.Time `json:"at"`
	Seconds        float64   `json:"seconds,omitempty"` // from the record's publication to its settlement
	Batch          string    `json:"batch,omitempty"`
	Replay         string    `json:"replay,omitempty"` // name of the replay that published the message
	Letter         uint64    `json:"letter,omitempty"` // dead letter that it was replayed from

	// Position is the place of the event among the results, set by whoever reads it.
	Position uint64 `json:"-"`
}

// A Failure says why a record became a dead letter.
// It must hold no secret and no personal data; Error is cut to 1 KiB, Expected and Actual to 4 KiB.
type Failure struct {
	EmployeeID     string          `json:"employee_id,omitempty"` // "" if the record cannot be read
	Version        string          `json:"version,omitempty"`     // the record's own, as text
	Reason         string          `json:"reason"`                // of the verdict table; part of the subject
	Class          string          `json:"class,omitempty"`       // permanent, exhausted, …
	Error          string          `json:"error,omitempty"`
	Status         int             `json:"status,omitempty"` // HTTP
	CorrelationID  string          `json:"correlation_id,omitempty"`
	TraceID        string          `json:"trace_id,omitempty"` // OpenTelemetry's, if the last delivery was traced
	Attempts       int             `json:"attempts,omitempty"`
	First          time.Time       `json:"first,omitzero"` // failure
	Last           time.Time       `json:"last,omitzero"`
	MappingVersion string          `json:"mapping_version,omitempty"`
	Expected       json.RawMessage `json:"expected,omitempty"` // skills
	Actual         json.RawMessage `json:"actual,omitempty"`
	Tries          []Try           `json:"tries,omitempty"`   // the attempts, oldest first; of many the last ones
	Desired        string          `json:"desired,omitempty"` // stands for what the mapping wanted; empty if it had no answer
	Seconds        float64         `json:"seconds,omitempty"`
	Worker         string          `json:"worker,omitempty"`
	App            string          `json:"app,omitempty"` // version of skillsync
}

// A Lease is the hold that one delivery has on its message. The broker's is behind every
// delivery of Queue.Fetch; tests bring their own.
type Lease interface {
	Extend(ctx context.Context) error
	Ack(ctx context.Context, r Result) error
	Retry(ctx context.Context, after time.Duration) error
	DeadLetter(ctx context.Context, f Failure) error
}

// A Delivery is one try at a record. It ends by exactly one of Ack, Retry and DeadLetter, or by
// Abandon; until then its lease has to be extended, or the broker delivers the record again.
//
// An Ack or DeadLetter that returns an error may or may not have taken effect. It may be repeated,
// or another settlement tried, while the lease lasts: the broker ignores what comes for a message
// that is gone. After a settlement that succeeded all others return ErrSettled, and after the lease
// has lapsed ErrLeaseLost.
type Delivery struct {
	Data      []byte
	Subject   string
	Header    map[string][]string
	Sequence  uint64    // of this message
	Order     Order     // of the record's first publication, kept through replays
	Delivered int       // times the broker delivered the message, this one included
	Published time.Time // this message, by the broker's clock
	Replays   int       // times the record was replayed from the dead letters

	Lease Lease // the hold on the message; set by whoever makes the delivery
	// OnMisuse is told of a settlement after the one that succeeded, or after Abandon: a mistake
	// of the caller, on which tests fail. nil ok
	OnMisuse func(error)

	mu    sync.Mutex
	state state
}

type state int

const (
	held state = iota
	settling
	settled
	abandoned
)

// Extend gives the delivery another AckWait from now. ErrLeaseLost says that it comes too late.
func (d *Delivery) Extend(ctx context.Context) error {
	d.mu.Lock()
	state := d.state
	d.mu.Unlock()
	if err := state.err(); err != nil && state != settling {
		return err
	}
	return d.Lease.Extend(ctx)
}

// Ack ends the delivery as done: the result event is stored, then the message is removed, and
// the broker confirms both.
func (d *Delivery) Ack(ctx context.Context, r Result) error {
	return d.settle(func() error { return d.Lease.Ack(ctx, d.result(r)) })
}

// Retry gives the record back, to be delivered again after the time given. It ends the delivery
// even if it returns an error: the broker may have heard it, and saying it twice would start a
// delivery too many. If it has not, the record comes again when the lease lapses.
func (d *Delivery) Retry(ctx context.Context, after time.Duration) error {
	err := d.settle(func() error { return d.Lease.Retry(ctx, after) })
	if err != nil {
		d.Abandon()
	}
	return err
}

// DeadLetter keeps the record for a person to look at: a copy is stored among the dead letters,
// then the result event, and last the message is terminated. Until the copy is stored, nothing
// is terminated, and repeated after any interruption it still leaves one dead letter.
func (d *Delivery) DeadLetter(ctx context.Context, f Failure) error {
	return d.settle(func() error { return d.Lease.DeadLetter(ctx, f) })
}

// Abandon lets go of a record whose lease is lost, without a word to the broker: a late "give
// back" would start another delivery while its new holder works.
func (d *Delivery) Abandon() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.state != settled {
		d.state = abandoned
	}
}

// Batch is the run that the record belongs to, "" if its publisher named none.
func (d *Delivery) Batch() string { return first(d.Header, HeaderBatch) }

func (d *Delivery) settle(do func() error) (err error) {
	d.mu.Lock()
	if err := d.state.err(); err != nil {
		d.mu.Unlock()
		if d.OnMisuse != nil {
			d.OnMisuse(err)
		}
		return err
	}
	d.state = settling
	d.mu.Unlock()

	next := held // also if do panics
	defer func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.state == settling || next == settled {
			d.state = next
		}
	}()
	if err = do(); err == nil {
		next = settled
	}
	return err
}

func (s state) err() error {
	switch s {
	case settling, settled:
		return ErrSettled
	case abandoned:
		return ErrLeaseLost
	}
	return nil
}

func (d *Delivery) result(r Result) Result {
	r.Sequence, r.Order, r.Batch = d.Sequence, d.Order, d.Batch()
	r.Replay = first(d.Header, HeaderReplay)
	r.Letter, _ = strconv.ParseUint(first(d.Header, HeaderLetter), 10, 64) // 0 if it was not replayed
	if r.At.IsZero() {
		r.At = time.Now().UTC()
	}
	return r
}

// Failed is the result event of a record that became a dead letter.
func (d *Delivery) Failed(f Failure) Result {
	return d.result(Result{
		EmployeeID: f.EmployeeID, Outcome: OutcomeDead, Reason: f.Reason, Attempt: f.Attempts,
		CorrelationID: f.CorrelationID, MappingVersion: f.MappingVersion, Seconds: f.Seconds,
	})
}

// order reads where a replayed record was first published; a record that was not replayed is
// where it is.
func order(header map[string][]string, here Order) (o Order, replays int) {
	replays, _ = strconv.Atoi(first(header, HeaderReplays))
	epoch, err1 := strconv.ParseInt(first(header, HeaderEpoch), 10, 64)
	seq, err2 := strconv.ParseUint(first(header, HeaderSeq), 10, 64)
	if replays < 1 || err1 != nil || err2 != nil {
		return here, max(replays, 0)
	}
	return Order{Epoch: epoch, Seq: seq}, replays
}

// first is the first value of a header, whatever the case of its name: publishers in other
// languages do not agree on one.
func first(header map[string][]string, name string) string {
	if v := header[name]; len(v) > 0 {
		return v[0]
	}
	for k, v := range header {
		if len(v) > 0 && strings.EqualFold(k, name) {
			return v[0]
		}
	}
	return ""
}
