package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
	"unicode"

	"skillsync/queue"
)

const (
	callTimeout  = time.Second     // of one call to the store; a swap that took longer may have got slots that are too late
	changeWithin = 5 * time.Second // how long Pause and Resume try
	askEvery     = time.Minute     // the broker's time
)

// shared is what this process last saw of the key.
type shared struct {
	State
	rev   uint64
	known bool // read at least once
	stale bool // somebody is known to have changed it since, or may have
}

// A reservation is how one attempt to reserve slots went.
type reservation struct {
	lot
	again time.Duration // if there was none to have: when to try again
	err   error
}

// reserve makes one attempt to get up to want slots. With want 0 it only sees to it that the
// clock is set and the key read.
func (b *Bucket) reserve(ctx context.Context, want int) reservation {
	if err := b.startWriting(ctx); err != nil {
		return reservation{err: err}
	}
	defer b.doneWriting()
	have, err := b.current(ctx)
	if err != nil {
		return reservation{err: err}
	}
	limit := have.limit(b.Limit)
	if limit == 0 || want <= 0 {
		return reservation{}
	}
	next, got, wait := have.take(paceOf(limit), b.clock.now(), want)
	if got.left == 0 {
		return reservation{again: wait}
	}
	next.Configured = max(0, b.Limit)
	if err := b.swap(ctx, next, have.rev); err != nil {
		return reservation{err: err} // even if it was stored: then these slots are lost
	}
	return reservation{lot: got}
}

// change applies f to the shared state until that is stored, or f finds nothing to change.
func (b *Bucket) change(ctx context.Context, what string, f func(State, time.Time) (State, bool)) error {
	b.setup()
	ctx, cancel := context.WithTimeout(ctx, changeWithin)
	defer cancel()
	for try := 1; ; try++ {
		err := b.changeOnce(ctx, f)
		if err == nil {
			return nil
		}
		if !sleep(ctx, backoff(err, try)) {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
}

func (b *Bucket) changeOnce(ctx context.Context, f func(State, time.Time) (State, bool)) error {
	if err := b.startWriting(ctx); err != nil {
		return err
	}
	defer b.doneWriting()
	have, err := b.current(ctx)
	if err != nil {
		return err
	}
	next, changed := f(have.State, b.clock.now())
	if !changed {
		return nil
	}
	return b.swap(ctx, next, have.rev)
}

// startWriting keeps this process from competing with itself.
func (b *Bucket) startWriting(ctx context.Context) error {
	select {
	case b.writing <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (b *Bucket) doneWriting() { <-b.writing }

// current is the shared state as far as this process knows it, read anew if that is in doubt.
// It is only a hint; the swap decides.
func (b *Bucket) current(ctx context.Context) (shared, error) {
	if !b.clock.known() {
		if err := b.ask(ctx); err != nil {
			b.reached(ctx, err)
			return shared{}, err
		}
	}
	b.mu.Lock()
	fresh := b.phase == running && b.shared.known && !b.shared.stale
	b.mu.Unlock()
	if !fresh {
		got, err := b.fetch(ctx)
		b.reached(ctx, err)
		if err != nil && !errors.Is(err, errDamaged) {
			return shared{}, err
		}
		b.replace(got, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mend()
	b.ready = true
	return b.shared, nil
}

// fetch reads the key. A missing one has revision 0.
func (b *Bucket) fetch(ctx context.Context) (shared, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	e, err := b.Store.Get(ctx, b.Key)
	if errors.Is(err, queue.ErrNotFound) {
		return shared{known: true}, nil
	} else if err != nil {
		return shared{}, fmt.Errorf("read the rate limit's key: %w", err)
	}
	s, err := decode(e.Value)
	if err != nil {
		err = fmt.Errorf("read the rate limit's key: %w", err)
	}
	return shared{State: s, rev: e.Revision, known: true}, err
}

// replace takes what was fetched for true, even if its revision is lower than the last one: the
// bucket may have been made anew. Only what the watch brought meanwhile is better.
func (b *Bucket) replace(got shared, damage error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.shared.known && !b.shared.stale && b.phase == running {
		return
	}
	if damage != nil || got.rev == 0 {
		if damage != nil || b.shared.rev != 0 {
			b.stats.Repairs++
			b.Log.Warn().AnErr("damage", damage).Msg("the rate limit's key is damaged or gone; starting again without a burst")
		}
		got.State = b.shared.renewed(b.clock.now())
	}
	b.adopt(got)
}

// swap writes next over revision rev.
func (b *Bucket) swap(ctx context.Context, next State, rev uint64) error {
	next.By = b.Name
	value, err := next.encode()
	if err != nil {
		return fmt.Errorf("encode the rate limit's state: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	got, err := b.Store.Update(ctx, b.Key, value, rev)
	b.reached(ctx, err)
	b.mu.Lock()
	defer b.mu.Unlock()
	if err == nil {
		if got > b.shared.rev || b.shared.stale {
			b.adopt(shared{State: next, rev: got, known: true})
		}
		return nil
	}
	if errors.Is(err, queue.ErrConflict) {
		b.stats.Conflicts++
	}
	if b.shared.rev == rev { // else the watch has brought a newer one already
		b.shared.stale = true
	}
	return fmt.Errorf("reserve in the rate limit's key: %w", err)
}

// learn takes what the watch brings: other processes' swaps, and our own.
func (b *Bucket) learn(e queue.Entry) {
	if b.Clock != nil {
		b.clock.atLeast(e.At)
	}
	s, err := decode(e.Value)
	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil || b.shared.known && e.Revision <= b.shared.rev {
		return // damage is found by the next swap, which fails, and repaired before the one after it
	}
	b.adopt(shared{State: s, rev: e.Revision, known: true})
	if b.ready {
		b.mend()
	}
}

// adopt makes s what this process goes by. b.mu is held.
func (b *Bucket) adopt(s shared) {
	news := s.Epoch != b.shared.Epoch
	b.shared = s
	if b.granted.Load() > 0 && s.Limit == 0 && s.Configured > 0 && s.Configured != b.Limit && !b.differ {
		b.differ = true
		b.Log.Warn().Int("limit_per_minute", b.Limit).Int("other", s.Configured).Str("by", s.By).
			Msg("another process is set to another limit; give all the same")
	}
	if limit := s.limit(b.Limit); limit != b.limit {
		b.Log.Info().Int("limit_per_minute", limit).Str("by", s.By).Msg("the limit of the fleet has changed")
		b.keepTo(limit)
	}
	if s.PausedUntil.After(b.clock.now()) {
		b.open.Store(false)
		if news {
			b.Log.Warn().Time("until", s.PausedUntil).Str("reason", s.Reason).Str("by", s.By).Msg("the fleet is paused")
		}
	}
	b.poke()
}

// mend repairs what this process goes by; its next swap repairs the key. b.mu is held.
func (b *Bucket) mend() {
	s, what := b.shared.mended(b.pace, b.clock.now())
	if what == "" {
		return
	}
	b.stats.Repairs++
	b.Log.Warn().Str("field", what).Str("by", b.shared.By).Msg("a broken clock wrote to the rate limit's key; repaired")
	b.shared.State = s
}

// reached notes whether the store answers, and logs the begin and the end of an outage.
func (b *Bucket) reached(ctx context.Context, err error) {
	answered := err == nil || errors.Is(err, queue.ErrConflict) || errors.Is(err, errDamaged)
	if !answered && errors.Is(ctx.Err(), context.Canceled) {
		return // we hung up ourselves
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case answered && !b.down.IsZero():
		b.Log.Info().Stringer("after", time.Since(b.down).Round(time.Millisecond)).Msg("the rate limit's store answers again")
		b.down = time.Time{}
	case !answered && b.down.IsZero():
		b.Log.Warn().Err(err).Msg("the rate limit's store does not answer: no requests until it does")
		b.down = time.Now()
	}
}

// watch follows the key until ctx ends.
func (b *Bucket) watch(ctx context.Context) {
	for try := 1; ; try++ {
		err := b.Store.Watch(ctx, b.Key, b.learn)
		if ctx.Err() != nil {
			return
		}
		b.Log.Warn().Err(err).Msg("lost sight of the rate limit's key; watching it again")
		if !sleep(ctx, min(time.Second<<min(try, 6), 30*time.Second)) {
			return
		}
	}
}

// tend does every minute what has no caller who waits for it. What fails is done a minute later.
func (b *Bucket) tend(ctx context.Context) {
	for b.retract(ctx); sleep(ctx, askEvery); b.retract(ctx) {
		if err := b.ask(ctx); err != nil {
			b.Log.Debug().Err(err).Msg("the clock was not compared with the broker's")
		}
		b.poke()
	}
}

// retract takes a limit out of the key that processes of another time were set to, if this one is
// set to none: it reserves nothing, and so would never say otherwise to those who look on.
func (b *Bucket) retract(ctx context.Context) {
	if b.Limit > 0 {
		return
	}
	err := b.change(ctx, "tell that no limit is configured", func(s State, _ time.Time) (State, bool) {
		changed := s.Configured > 0
		s.Configured = 0
		return s, changed
	})
	if err != nil {
		b.Log.Debug().Err(err).Msg("the rate limit's key tells a limit that is no longer configured")
	}
}

func (b *Bucket) ask(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return b.clock.ask(ctx, b.Clock)
}

// backoff is the wait after the try'th failure in a row. A lost race is over soon; a store that
// does not answer needs time. The jitter keeps the losers of one race from meeting in the next.
func backoff(err error, try int) time.Duration {
	if errors.Is(err, queue.ErrConflict) {
		return rand.N(min(2*time.Millisecond<<min(try, 10), 100*time.Millisecond))
	}
	most := min(50*time.Millisecond<<min(try, 10), 2*time.Second)
	return most/2 + rand.N(most/2)
}

// sleep waits for d and tells whether ctx still lives.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// clean makes a reason fit for logs and terminals.
func clean(reason string) string {
	reason = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(reason, "?"))
	if runes := []rune(reason); len(runes) > 200 {
		reason = string(runes[:200])
	}
	return reason
}
