// Package worker is the job: what happens to one record between its lease and its settlement.
//
// A record is fetched, claimed in the ledger, provisioned, verified and then settled, in that
// order and settled last: a worker that dies anywhere leaves the lease to lapse and the record
// to be delivered again. What went wrong is turned into a verdict by one table (judge).
//
//	fetch → decode → superseded? → claim → find → plan → patch → settle → verify → close → ack
//	                                  │                                             │
//	                                  └──────── retry · give back · dead letter ────┘
//
// The package knows the queue and Genesys Cloud by small interfaces; it must not know NATS, HTTP
// or how either is configured.
package worker

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"skillsync/genesys"
	"skillsync/queue"
	"skillsync/queue/ledger"
)

// A Queue hands out deliveries: *queue.Queue.
type Queue interface {
	// Fetch asks for up to n records, hands each to handle as it arrives, and returns how many
	// came until the request ran out.
	Fetch(ctx context.Context, n int, wait time.Duration, handle func(*queue.Delivery)) (int, error)
	// Newer returns the last record that waits under the employee's key, if it is not d.
	Newer(ctx context.Context, d *queue.Delivery, key string) (data []byte, order queue.Order, ok bool, err error)
}

// A Worker applies records until it is told to stop. Queue, Ledger, Provisioner and Metrics must be set.
type Worker struct {
	Queue       Queue
	Ledger      *ledger.Ledger
	Provisioner *Provisioner
	Metrics     *Metrics
	Log         zerolog.Logger

	// Trace begins the trace of a delivery. The context it returns is the one under which the
	// delivery is worked on. nil: no traces
	Trace func(ctx context.Context, d *queue.Delivery) (context.Context, Span)

	// Name and App say in dead letters which worker of which release gave up.
	Name, App string

	// InFlight is how many records are held at once. Those that are patched wait for skills to
	// appear, at the cost of a goroutine and a timer; with the usual settle time of 3 s, a second
	// brings no more of them than a third of InFlight. Default 1536.
	InFlight int
	// Starting is how many of them are on their way to the patch. More would only wait for the
	// budget: of a backlog the first are to be done early, and what is not fetched yet can still
	// be superseded for free. Default 192, three times the requests that are out at once.
	Starting int
	// Attempts is how often a record may fail through its own fault before it becomes a dead
	// letter. Default 5.
	Attempts int
	// Lease is how long the broker waits for a held record before it delivers it again (the
	// consumer's AckWait). It is extended three times in that span. Default 60 s.
	Lease time.Duration
	// Hold is the longest a record is held, waiting included, before it is given back. Default 15 min.
	Hold time.Duration
	// Grace is how long held records may go on after a shutdown began. Those not patched yet are
	// given back at once; the others are verified, or given back at its end. Default 20 s.
	Grace time.Duration
	// Over says that what the worker stopped fetching for may be over: it tries one record then,
	// rather than within a minute. nil ok
	Over <-chan struct{}
	// Fresh is how long a verified state counts as still standing, so that the same state again
	// costs no request. Default 24 h; negative never.
	Fresh time.Duration

	gate      *gate
	slots     *slots
	starters  starters
	condition condition
}

// A Span is the trace of one delivery.
type Span interface {
	TraceID() string // for the log; "" if nobody will see the trace
	// End tells how the delivery was settled: verified, unchanged, superseded, retry, give_back,
	// abandon or dead_letter:reason. failure is what went wrong, in a word from a closed list.
	End(verdict string, attempt int, failure string)
}

const defaultFresh = 24 * time.Hour

// maxDelivered is the delivery after which a record is taken out of the way before any work: so
// many cannot be bad luck.
const maxDelivered = 200

// fetchWait is how long the broker holds a request for records that are not there yet. A shutdown
// waits for its end: what arrives in the meantime is given back rather than lost to its lease.
const fetchWait = time.Second

var (
	errShutdown      = errors.New("the worker is shutting down")
	errHalted        = errors.New("the worker has stopped fetching")
	errHeldTooLong   = errors.New("held for too long")
	errDeliveryCap   = fmt.Errorf("delivered more than %d times without coming to an end", maxDelivered)
	errAttemptsSpent = errors.New("every attempt ended with the worker rather than with a verdict")
)

// A panicError is a panic of a handler, with its stack for the log.
type panicError struct {
	value any
	stack []byte
}

func (e *panicError) Error() string { return fmt.Sprintf("panic: %v", e.value) }

// A brokerError is trouble with the broker, which is never a record's fault.
type brokerError struct{ error }

func (e *brokerError) Unwrap() error { return e.error }

// NotReady says why no record is being fetched; empty while records are.
func (w *Worker) NotReady() string { return w.condition.get() }

func (w *Worker) defaults() {
	w.InFlight = positive(w.InFlight, 1536)
	w.Starting = positive(w.Starting, 192)
	w.Attempts = positive(w.Attempts, 5)
	w.Lease = positive(w.Lease, time.Minute)
	w.Hold = positive(w.Hold, 15*time.Minute)
	w.Grace = positive(w.Grace, 20*time.Second)
	if w.Fresh == 0 {
		w.Fresh = defaultFresh
	}
}

func positive[T int | time.Duration](v, otherwise T) T {
	if v > 0 {
		return v
	}
	return otherwise
}

// Run fetches and handles records until ctx ends, then drains: it stops fetching, gives back
// what was not patched yet, lets the rest come to its end within Grace, and returns when all is
// quiet. Trouble with the broker is waited out, not returned.
func (w *Worker) Run(ctx context.Context) error {
	w.defaults()
	work, abort := context.WithCancelCause(context.WithoutCancel(ctx))
	defer abort(nil)
	w.gate, w.slots = newGate(work, w.Over), newSlots(w.InFlight, w.Starting)

	crew := newCrew(func(d *queue.Delivery) {
		defer w.slots.settled(1)
		defer w.Metrics.InFlight.Dec()
		w.handle(d)
	})
	defer context.AfterFunc(ctx, w.starters.stop)()
	w.fetch(ctx, crew)
	w.condition.set("shutting down")

	w.Log.Info().Stringer("grace", w.Grace).Msg("draining: nothing more is fetched, held records end or go back")

	// The last request for records may have used up to fetchWait of the grace.
	grace := time.AfterFunc(max(w.Grace-fetchWait, 0), func() { abort(errShutdown) })
	defer grace.Stop()
	crew.finish()
	return nil
}

// fetch takes slots before it asks for records, and returns when ctx ends.
func (w *Worker) fetch(ctx context.Context, crew *crew) {
	for {
		free, err := w.slots.take(ctx)
		if err != nil {
			return
		}
		n, err := w.gate.admit(ctx, free)
		w.slots.give(free - n)
		if err != nil {
			return
		}
		came, err := w.Queue.Fetch(ctx, n, fetchWait, func(d *queue.Delivery) {
			w.Metrics.InFlight.Inc()
			crew.take(d)
		})
		w.slots.give(n - came)
		if err != nil {
			w.brokerTrouble(ctx, err)
			continue
		}
		w.condition.set(w.gate.reason())
	}
}

// brokerTrouble says so once per outage and waits a moment.
func (w *Worker) brokerTrouble(ctx context.Context, err error) {
	if w.condition.set("cannot fetch records: " + err.Error()) {
		w.Log.Warn().Err(err).Msg("cannot fetch records; trying again until the broker answers")
	}
	_ = sleep(ctx, time.Second)
}

// handle carries one delivery from lease to settlement. Settling comes last: a worker that dies
// first leaves the lease to lapse and the record to be delivered again.
func (w *Worker) handle(d *queue.Delivery) {
	j := &job{delivery: d, started: time.Now()}
	round := w.gate.current()
	if w.Trace != nil {
		round, j.span = w.Trace(round, d)
	}
	held, release := w.hold(round, j)
	outcome, err := w.attempt(held, j)
	if err != nil && held.Err() != nil { // what it met while being stopped says nothing about the record
		err = context.Cause(held)
	}
	release()

	ctx := context.WithoutCancel(held) // a shutdown must not silence the result
	v := judge(outcome, err, attempt{
		number: j.attempt(), limit: w.Attempts, delivered: d.Delivered,
		breaker: w.gate.reason() != "", backoff: backoff,
	})
	w.steer(j, v, err)
	settleErr := w.settle(ctx, j, v, err)
	w.report(j, v, err, settleErr)
}

// attempt runs the handler and turns a panic into an error.
func (w *Worker) attempt(held context.Context, j *job) (outcome Outcome, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = &panicError{value: r, stack: debug.Stack()}
		}
	}()
	return w.apply(held, j)
}

// hold extends the lease and the claim until release is called. The context it returns ends when
// either is lost, when the record was held for too long, or with the round.
func (w *Worker) hold(round context.Context, j *job) (held context.Context, release func()) {
	held, cancel := context.WithCancelCause(round)
	j.lose = cancel
	until := time.Now().Add(w.Hold)
	var (
		extending sync.Mutex // so that release waits for an extension under way
		released  bool
		renew     *time.Timer
	)
	extending.Lock()
	renew = time.AfterFunc(min(w.Lease/3, w.Hold), func() {
		extending.Lock()
		defer extending.Unlock()
		switch {
		case released:
			return
		case !time.Now().Before(until):
			cancel(errHeldTooLong)
			return
		}
		next := w.Lease / 3
		if err := j.extend(held, w.Lease); errors.Is(err, ledger.ErrLost) || errors.Is(err, queue.ErrLeaseLost) {
			cancel(err)
			return
		} else if err != nil {
			next = w.Lease / 12
			w.Log.Warn().Err(err).Uint64("sequence", j.delivery.Sequence).Msg("lease not extended; trying again")
		}
		renew.Reset(min(next, time.Until(until)))
	})
	extending.Unlock()
	return held, func() {
		cancel(nil)
		renew.Stop()
		extending.Lock()
		released = true
		extending.Unlock()
	}
}

// steer lets the verdict decide whether the worker goes on fetching. Records that never got as
// far as Genesys Cloud tell nothing about it.
func (w *Worker) steer(j *job, v verdict, err error) {
	switch {
	case v.halt != "":
		w.halt(v.halt)
	case v.systems:
		if w.gate.note(j.key, origin(err)) {
			w.halt("most records fail at once: Genesys Cloud, or the way to it, is down")
		}
	case !j.asked, v.action == abandon, v.action == retry && !v.spends:
	default:
		w.gate.note(j.key, nil)
		if w.gate.open() {
			w.Log.Info().Msg("a record went through: fetching again")
		}
	}
}

// origin is the error of the request itself, which records that shared the request have in common.
func origin(err error) error {
	if api := (*genesys.Error)(nil); errors.As(err, &api) {
		return api
	}
	return err
}

func (w *Worker) halt(why string) {
	w.condition.set(why)
	if w.gate.shut(why) {
		w.Log.Error().Str("reason", why).Stringer("probe_every", probeEvery).Msg("stopped fetching; held records go back to the queue")
	}
}
