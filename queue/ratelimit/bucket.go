// Package ratelimit is the token bucket that the whole fleet draws from.
//
// It is GCRA: one timestamp in one key that everybody shares says when the next slot is. A
// process that has callers waiting reserves the next few slots by one compare-and-swap, sleeps to
// each of them and lets one caller through. Whatever goes wrong (a crash, a lost answer, a pause)
// costs slots; none is used twice.
//
//	Wait ─┐                        ┌─ reserve: one swap for k slots ─▶ key
//	Wait ─┼─▶ queue ─▶ pump ───────┤
//	Wait ─┘      ▲      │ at slot  └─ watch: pauses, the others' swaps ◀─ key
//	             └──────┘ first in, first out
//
// gcra.go is the arithmetic and knows no I/O. The package must not know what the requests are,
// nor NATS.
package ratelimit

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/time/rate"

	"skillsync/queue"
)

// A Store is where the bucket's key lives: *queue.KV.
type Store interface {
	Get(ctx context.Context, key string) (queue.Entry, error)
	Update(ctx context.Context, key string, value []byte, revision uint64) (uint64, error)
	Watch(ctx context.Context, key string, changed func(queue.Entry)) error
}

// A Bucket hands out permission to send one request at a time, in no 60 seconds more than Limit
// over all processes that share Store and Key. Store and Key must be set; all processes must have
// the same Limit, unless an operator has set one for all by SetLimit. Nothing may be changed once
// it is in use.
//
// While the store does not answer nothing is granted. A process also keeps to the whole limit
// by itself, so that a damaged key cannot make it exceed that.
type Bucket struct {
	Store Store
	Key   string

	// Limit is the number of requests a minute that the org allows. 0 is none: then only pauses
	// hold anybody up, and the key is read but not written, but for what another limit left there.
	Limit int
	// Clock tells the broker's time at the moment it returns. nil is the local clock, which is
	// good enough only where all processes run on one machine: skew between them exceeds the
	// limit by as many requests as it is long.
	Clock func(context.Context) (time.Time, error)
	// MaxWait is the longest pause that Wait sits out. Default 1 minute.
	MaxWait time.Duration
	// Resumed is called when a pause is over, also before its time. It must return at once, and
	// not use the Bucket. nil ok
	Resumed func()
	// Name says in the key who wrote it last.
	Name string
	// Log is told of outages, pauses and repairs. The zero value is silent.
	Log zerolog.Logger

	once    sync.Once
	clock   clock
	local   *rate.Limiter
	wake    chan struct{} // something changed that the pump should look at
	writing chan struct{} // held by whoever swaps: one at a time per process
	open    atomic.Bool   // no limit and no pause: Wait need not ask
	granted atomic.Uint64

	mu      sync.Mutex
	limit   int // in force; 0 is none
	pace    pace
	differ  bool // another process was seen to be set to another limit
	phase   phase
	waiters list.List // of *waiter
	ready   bool      // the clock is set and the key was read
	shared  shared
	down    time.Time // since when the store does not answer; zero while it does
	stats   Snapshot  // counters only
}

type phase int

const (
	idle phase = iota
	running
	stopped
)

// ErrStopped says that the bucket's Run has ended: nothing will be granted any more.
var ErrStopped = errors.New("rate limit: bucket stopped")

// A PausedError says that the fleet is paused for longer than it is worth waiting.
type PausedError struct {
	Until  time.Time // broker's time
	Reason string
}

func (e *PausedError) Error() string {
	return fmt.Sprintf("rate limit: paused until %s: %s", e.Until.UTC().Format(time.RFC3339), e.Reason)
}

// A Snapshot is the bucket as this process sees it.
type Snapshot struct {
	Outlook
	Waiting     int           // callers in Wait
	Granted     uint64        // by this process
	Lost        uint64        // slots reserved that nobody used
	Conflicts   uint64        // swaps that another process won
	Repairs     uint64        // times the key held what only damage or a broken clock can have written
	Offset      time.Duration // broker's clock ahead of ours
	Unreachable bool          // the store does not answer; nothing is granted
}

// Snapshot may be called at any time.
func (b *Bucket) Snapshot() Snapshot {
	b.setup()
	now := b.clock.now()
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.stats
	s.Granted, s.Waiting = b.granted.Load(), b.waiters.Len()
	s.Offset, s.Unreachable = b.clock.offset(), !b.down.IsZero()
	s.Outlook = b.shared.outlook(b.Limit, now)
	return s
}

// setup makes what a struct literal cannot.
func (b *Bucket) setup() {
	b.once.Do(func() {
		if b.MaxWait <= 0 {
			b.MaxWait = time.Minute
		}
		b.wake = make(chan struct{}, 1)
		b.writing = make(chan struct{}, 1)
		b.keepTo(max(0, b.Limit))
	})
}

// keepTo makes limit the one in force. b.mu is held, or nobody else has b yet.
func (b *Bucket) keepTo(limit int) {
	b.limit, b.pace = limit, pace{}
	b.open.Store(false)
	local, burst := rate.Inf, 0
	if limit > 0 {
		b.pace = paceOf(limit)
		// Slots that come due together while this process was not scheduled go out together,
		// hence more burst than the pace has. It comes out of its margin of 2 %.
		local, burst = rate.Every(b.pace.interval), b.pace.burst+limit/100
	}
	b.local = rate.NewLimiter(local, burst)
}

// Run serves those who Wait until ctx ends, and returns when everything it started is quiet.
// It can run once. Trouble with the store is logged and waited out, not returned.
func (b *Bucket) Run(ctx context.Context) error {
	b.setup()
	if err := b.enterPhase(running); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var helpers sync.WaitGroup
	helpers.Go(func() { b.watch(ctx) })
	helpers.Go(func() { b.tend(ctx) })
	(&pump{Bucket: b, reserved: make(chan reservation, 1)}).run(ctx)
	cancel()
	helpers.Wait()
	return b.enterPhase(stopped)
}

func (b *Bucket) enterPhase(next phase) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if next != b.phase+1 {
		return errors.New("rate limit: a bucket runs once")
	}
	b.phase = next
	if next == stopped {
		b.open.Store(false)
		b.refuseAll(ErrStopped)
	}
	return nil
}

// A waiter is one call of Wait.
type waiter struct {
	place  *list.Element // nil when answered
	answer chan error
}

// Wait blocks until the caller may send one request: first come, first served within a process.
// A pause that lasts longer than MaxWait makes it return *PausedError at once. Until Run runs it
// blocks, and after Run has ended it returns ErrStopped.
func (b *Bucket) Wait(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if b.open.Load() {
		b.granted.Add(1)
		return nil
	}
	w, err := b.enqueue()
	if err != nil {
		return err
	}
	select {
	case err := <-w.answer:
		return err
	case <-ctx.Done():
		b.leave(w)
		return context.Cause(ctx)
	}
}

func (b *Bucket) enqueue() (*waiter, error) {
	b.setup()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.phase == stopped {
		return nil, ErrStopped
	}
	if err := b.tooLong(b.clock.now()); err != nil {
		return nil, err
	}
	w := &waiter{answer: make(chan error, 1)}
	w.place = b.waiters.PushBack(w)
	b.poke()
	return w, nil
}

// leave takes w out of the queue. A grant that came at the same moment goes to the next one.
func (b *Bucket) leave(w *waiter) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if w.place != nil {
		b.waiters.Remove(w.place)
		return
	}
	if <-w.answer != nil {
		return
	}
	b.granted.Add(^uint64(0))
	if b.waiters.Len() > 0 {
		b.grant()
	} else {
		b.stats.Lost++
	}
}

// grant lets the first waiter through. b.mu is held, and there is one.
func (b *Bucket) grant() {
	b.granted.Add(1)
	b.answerFirst(nil)
}

func (b *Bucket) refuseAll(err error) {
	for b.waiters.Len() > 0 {
		b.answerFirst(err)
	}
}

func (b *Bucket) answerFirst(err error) {
	w := b.waiters.Remove(b.waiters.Front()).(*waiter)
	w.place = nil
	w.answer <- err
}

// tooLong is a *PausedError if the fleet is paused for longer than MaxWait from now.
func (b *Bucket) tooLong(now time.Time) error {
	if until := b.shared.PausedUntil; b.ready && until.Sub(now) > b.MaxWait {
		return &PausedError{Until: until, Reason: b.shared.Reason}
	}
	return nil
}

// poke makes the pump look.
func (b *Bucket) poke() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// Pause holds the whole fleet for d from now, at most 24 hours; a longer pause in force stays.
// It needs no Run. It keeps trying for a few seconds, or until ctx ends.
func (b *Bucket) Pause(ctx context.Context, d time.Duration, reason string) error {
	return b.change(ctx, "pause the fleet", func(s State, now time.Time) (State, bool) {
		return s.paused(now, d, clean(reason))
	})
}

// Throttled is for a request that the org refused with 429: it pauses the fleet for d, and lets
// it go on at 70 % of its rate, which it regains by 2 % in each 30 seconds without a refusal.
// Refusals of requests that were out together count once.
func (b *Bucket) Throttled(ctx context.Context, d time.Duration, reason string) error {
	return b.change(ctx, "pause the fleet after a refusal", func(s State, now time.Time) (State, bool) {
		return s.throttled(now, d, clean(reason))
	})
}

// Resume ends a pause at once. A rate that was lowered climbs back as it would have.
func (b *Bucket) Resume(ctx context.Context) error {
	return b.change(ctx, "resume the fleet", State.resumed)
}

// SetLimit makes all processes keep to limit, in requests a minute, whatever they are set to
// themselves; 0 gives them back their own. It takes effect at once, a higher limit after the queue
// of slots reserved under the lower one: a minute at most.
func (b *Bucket) SetLimit(ctx context.Context, limit int) error {
	if limit < 0 || limit > maxLimit {
		return fmt.Errorf("set the limit: %d is not between 0 and %d requests a minute", limit, maxLimit)
	}
	return b.change(ctx, "set the limit", func(s State, _ time.Time) (State, bool) { return s.limited(limit) })
}

// Read fetches the state that the fleet shares; the zero State if nobody has written it yet. It
// needs no Run.
func (b *Bucket) Read(ctx context.Context) (State, error) {
	b.setup()
	got, err := b.fetch(ctx)
	return got.State, err
}
