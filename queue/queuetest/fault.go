package queuetest

import (
	"errors"
	"fmt"
	"sync"

	"skillsync/queue"
)

// A Fault is how one call goes wrong. Faults come in pairs: it did not happen; it happened, but
// the reply was lost.
type Fault int

const (
	None   Fault = iota
	Before       // nothing happened; the error is queue.ErrUnreachable
	// Between: of Ack and DeadLetter, what comes first happened (result event, copy) and the last
	// step did not; queue.ErrUnreachable.
	Between
	After    // it happened; queue.ErrUnreachable all the same
	Conflict // of Update: somebody else was first; queue.ErrConflict
	Full     // of Publish and DeadLetter: queue.ErrFull
)

// Op names the calls that can go wrong.
type Op string

// The calls of a queue, and those of a KV.
const (
	Fetch      Op = "fetch"
	Newer      Op = "newer"
	Publish    Op = "publish"
	Extend     Op = "extend"
	Ack        Op = "ack"
	Retry      Op = "retry"
	DeadLetter Op = "dead-letter"

	Get    Op = "get"
	Update Op = "update"
)

// faults is the plan of what goes wrong; its zero value is that all goes well.
type faults struct {
	mu   sync.Mutex
	next map[Op][]Fault
	down bool
}

// Fail makes the next calls of op go wrong, one fault each; None lets one call pass.
func (f *faults) Fail(op Op, plan ...Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.next == nil {
		f.next = map[Op][]Fault{}
	}
	f.next[op] = append(f.next[op], plan...)
}

// Down makes every call fail as Before, until it is called with false.
func (f *faults) Down(down bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down = down
}

// Planned tells how many faults of op are still to come.
func (f *faults) Planned(op Op) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.next[op])
}

// take is what happens to this call of op.
func (f *faults) take(op Op) (Fault, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fault := None
	if f.down {
		fault = Before
	} else if plan := f.next[op]; len(plan) > 0 {
		fault, f.next[op] = plan[0], plan[1:]
	}
	switch fault {
	case None:
		return None, nil
	case Conflict:
		return fault, fmt.Errorf("%s: %w", op, queue.ErrConflict)
	case Full:
		return fault, fmt.Errorf("%s: %w", op, queue.ErrFull)
	}
	return fault, fmt.Errorf("%s: %w: %w", op, queue.ErrUnreachable, errPlanned)
}

var errPlanned = errors.New("planned by the test")
