package worker

import (
	"context"
	"sync/atomic"
)

// Slots bound how many records are held at once.
type slots struct {
	free  atomic.Int64
	freed chan struct{} // says that free may have risen
}

func newSlots(n int) *slots {
	s := &slots{freed: make(chan struct{}, 1)}
	s.give(n)
	return s
}

// mostAtOnce bounds one pull: enough to keep two cores busy, few enough that a second worker
// finds work too.
const mostAtOnce = 128

// take waits until a slot is free and takes all that are, up to mostAtOnce.
func (s *slots) take(ctx context.Context) (int, error) {
	for {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		if n := min(s.free.Load(), mostAtOnce); n > 0 {
			s.free.Add(-n) // only the fetching goroutine takes, so it cannot have fallen since
			return int(n), nil
		}
		select {
		case <-s.freed:
		case <-ctx.Done():
		}
	}
}

// give puts n slots back.
func (s *slots) give(n int) {
	s.free.Add(int64(n))
	select {
	case s.freed <- struct{}{}:
	default:
	}
}

// A condition is why the worker is not ready; empty when it is.
type condition struct{ why atomic.Pointer[string] }

// set tells whether that is news: whether there was no trouble before.
func (c *condition) set(why string) (news bool) {
	old := c.why.Swap(&why)
	return why != "" && (old == nil || *old == "")
}

func (c *condition) get() string {
	if why := c.why.Load(); why != nil {
		return *why
	}
	return "starting"
}
