package queuetest

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"skillsync/queue"
)

// A lease is the hold of one delivery on a message in memory.
type lease struct {
	m   *Memory
	msg *message
	d   *queue.Delivery
}

func (l *lease) Extend(ctx context.Context) error {
	return l.do(ctx, Extend, nil, func() { l.msg.free = time.Now().Add(l.m.ackWait) })
}

func (l *lease) Ack(ctx context.Context, r queue.Result) error {
	return l.do(ctx, Ack, func() { l.report(r) }, l.remove)
}

func (l *lease) Retry(ctx context.Context, after time.Duration) error {
	return l.do(ctx, Retry, nil, func() {
		l.msg.free = time.Now().Add(after)
		l.m.wake()
	})
}

func (l *lease) DeadLetter(ctx context.Context, f queue.Failure) error {
	return l.do(ctx, DeadLetter, func() {
		l.keep(f)
		l.report(l.d.Failed(f))
	}, l.remove)
}

// do is one call: what comes first, then the last step, or as much of it as the test allows.
func (l *lease) do(ctx context.Context, op Op, first, last func()) error {
	if err := ended(ctx, op); err != nil {
		return err
	}
	fault, planned := l.m.take(op)
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	if err := l.held(op); err != nil {
		return err
	}
	if first != nil && (planned == nil || fault == Between || fault == After) {
		first()
	}
	if planned == nil || fault == After {
		last()
	}
	return planned
}

// held tells whether nobody else can have the record. To speak of a lease that is gone is a
// mistake, but for Extend, which may find out so.
func (l *lease) held(op Op) error {
	if !slices.Contains(l.m.waiting, l.msg) {
		return nil // settled by a call whose answer was lost: the broker ignores the repetition
	}
	if l.msg.lease == l && time.Now().Before(l.msg.free) {
		return nil
	}
	if op != Extend {
		l.m.t.Helper()
		l.m.t.Errorf("%s of message %d after its lease is gone", op, l.msg.sequence)
	}
	return fmt.Errorf("%s: %w", op, queue.ErrLeaseLost)
}

func (l *lease) remove() {
	l.m.waiting = slices.DeleteFunc(l.m.waiting, func(m *message) bool { return m == l.msg })
}

func (l *lease) report(r queue.Result) {
	if l.m.settled[r.Sequence] {
		return
	}
	l.m.settled[r.Sequence] = true
	r.Position = uint64(len(l.m.results) + 1)
	l.m.results = append(l.m.results, r)
}

func (l *lease) keep(f queue.Failure) {
	if l.m.died[l.d.Sequence] {
		return
	}
	l.m.died[l.d.Sequence] = true
	l.m.deadSeq++
	dead := queue.DeadLetter{
		Sequence: l.m.deadSeq, At: time.Now(), Failure: f, Stream: queue.Stream, Subject: l.d.Subject,
		Order: l.d.Order, Published: l.d.Published, Replays: l.d.Replays, Batch: l.d.Batch(), Header: l.d.Header, Data: l.d.Data,
	}
	dead.Subject = cmp.Or(header(l.d.Header, queue.HeaderSubject), l.d.Subject)
	l.m.dead = append(l.m.dead, dead)
}
