package worker

import (
	"context"
	"slices"
	"sync"
	"time"
)

// A gate decides whether the worker may fetch. It shuts when the trouble is not a record's (the
// credentials are refused, a permission is missing, most records fail at once): then fetching
// more would only burn requests and attempts. While it is shut one record a minute goes through
// to probe; the first that does well opens it.
type gate struct {
	mu      sync.Mutex
	why     string    // empty while open
	probe   time.Time // when the next record may go through
	changed chan struct{}
	over    <-chan struct{} // says that what it is shut for may be over

	// Whoever holds a record while the gate shuts gives it back: round ends then.
	parent context.Context
	round  context.Context
	end    context.CancelCauseFunc

	recent []sample // what the breaker goes by
}

// A sample is how one request to Genesys Cloud ended for a record.
type sample struct {
	key string // the employee's
	err error  // nil if it did well
}

// The breaker opens when four of five recent samples are failures, and at least eight different
// ones of different employees: a few stubborn records are not an outage, and a failed batch that
// a hundred records share is one failure.
const (
	breakerMemory = 16
	breakerLeast  = 8
)

func newGate(work context.Context, over <-chan struct{}) *gate {
	g := &gate{parent: work, changed: make(chan struct{}), over: over}
	g.round, g.end = context.WithCancelCause(work)
	return g
}

// admit blocks until records may be fetched and returns how many of want.
func (g *gate) admit(ctx context.Context, want int) (int, error) {
	for {
		g.mu.Lock()
		shut, rest, changed := g.why != "", time.Until(g.probe), g.changed
		if shut && rest <= 0 {
			g.probe = time.Now().Add(probeEvery)
			g.beginRound()
		}
		g.mu.Unlock()
		switch {
		case !shut:
			return want, nil
		case rest <= 0:
			return 1, nil
		}
		timer := time.NewTimer(rest)
		select {
		case <-ctx.Done():
			timer.Stop()
			return 0, context.Cause(ctx)
		case <-changed:
			timer.Stop()
		case <-g.over:
			timer.Stop()
			g.mu.Lock()
			g.probe = time.Now()
			g.mu.Unlock()
		case <-timer.C:
		}
	}
}

// shut closes the gate and ends the round: records held now are given back.
func (g *gate) shut(why string) (wasOpen bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	wasOpen = g.why == ""
	g.why, g.probe = why, time.Now().Add(probeEvery)
	g.end(errHalted)
	return wasOpen
}

// open lets everything through again.
func (g *gate) open() (wasShut bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.why == "" {
		return false
	}
	g.why, g.recent = "", nil
	g.beginRound()
	close(g.changed)
	g.changed = make(chan struct{})
	return true
}

func (g *gate) beginRound() {
	if g.round.Err() == nil {
		return
	}
	g.round, g.end = context.WithCancelCause(g.parent)
}

// current is the context of the present round.
func (g *gate) current() context.Context {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.round
}

// reason says why the gate is shut; empty while it is open.
func (g *gate) reason() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.why
}

// note remembers how a record fared and tells whether most records are failing. err is nil for
// one that did well.
func (g *gate) note(key string, err error) (broken bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err != nil && slices.ContainsFunc(g.recent, func(s sample) bool { return s.err == err }) {
		return false
	}
	g.recent = append(g.recent, sample{key, err})
	if len(g.recent) > breakerMemory {
		g.recent = slices.Delete(g.recent, 0, len(g.recent)-breakerMemory)
	}
	failures, employees := 0, map[string]bool{}
	for _, s := range g.recent {
		if s.err != nil {
			failures++
			employees[s.key] = true
		}
	}
	return err != nil && len(employees) >= breakerLeast && failures*5 >= len(g.recent)*4
}
