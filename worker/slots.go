package worker

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"skillsync/queue"
)

// Slots bound how many records are held at once, and how many of those are on their way to the
// patch. A record takes one of each before it is fetched, so that no lease runs while it waits for
// a handler; it gives the second back when it is patched, and the first when it is settled.
type slots struct {
	held, starting atomic.Int64  // free ones
	most           int64         // that are taken at once
	freed          chan struct{} // says that one of them may have risen
}

func newSlots(held, starting int) *slots {
	s := &slots{most: int64(min(held, starting, mostAtOnce)), freed: make(chan struct{}, 1)}
	s.held.Store(int64(held))
	s.starting.Store(int64(starting))
	return s
}

const (
	// mostAtOnce bounds one request for records: enough to keep two cores busy, few enough that a
	// second worker finds work too.
	mostAtOnce = 128
	// gather is how long a request for fewer waits for more slots: at a high rate they become
	// free one by one, and a request for each would cost more than the records.
	gather = 4 * time.Millisecond
)

// take waits until slots are free and takes all that are, up to mostAtOnce.
func (s *slots) take(ctx context.Context) (int, error) {
	for gathered := false; ; {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		n := min(s.held.Load(), s.starting.Load(), s.most)
		switch {
		case n == s.most, n > 0 && gathered:
			s.held.Add(-n) // only the fetching goroutine takes, so neither can have fallen since
			s.starting.Add(-n)
			return int(n), nil
		case n > 0:
			gathered = true
			_ = sleep(ctx, gather) // looked at above
		default:
			select {
			case <-s.freed:
			case <-ctx.Done():
			}
		}
	}
}

// give puts back n slots of each kind that were not used.
func (s *slots) give(n int) {
	s.starting.Add(int64(n))
	s.settled(n)
}

// passed says that a record is past its patch.
func (s *slots) passed() {
	s.starting.Add(1)
	s.wake()
}

// settled says that n records are held no longer.
func (s *slots) settled(n int) {
	s.held.Add(int64(n))
	s.wake()
}

func (s *slots) wake() {
	select {
	case s.freed <- struct{}{}:
	default:
	}
}

// A crew handles deliveries, each on a goroutine of its own. One that is done takes the next
// delivery, since its stack has grown already.
type crew struct {
	handle  func(*queue.Delivery)
	next    chan *queue.Delivery
	members sync.WaitGroup
}

func newCrew(handle func(*queue.Delivery)) *crew {
	return &crew{handle: handle, next: make(chan *queue.Delivery)}
}

// take returns at once.
func (c *crew) take(d *queue.Delivery) {
	select {
	case c.next <- d:
	default: // all are busy
		c.members.Go(func() {
			for more := true; more; d, more = <-c.next {
				c.handle(d)
			}
		})
	}
}

// finish waits until everything taken is handled. Nothing may be taken any more.
func (c *crew) finish() {
	close(c.next)
	c.members.Wait()
}
