package worker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"skillsync/genesys"
	"skillsync/queue"
	"skillsync/queue/queuetest"
)

var errDead = errors.New("this worker is dead")

// A life is how many steps a worker gets to do before it dies, as by SIGKILL. Every call that
// leaves the worker is a step; the last one takes effect only if after says so. After that no
// call has any effect.
type life struct {
	mu    sync.Mutex
	left  int
	after bool
	died  chan struct{}
}

func newLife(steps int, after bool) *life {
	return &life{left: steps, after: after, died: make(chan struct{})}
}

// step does one call, unless the worker is dead.
func (l *life) step(do func() error) error {
	l.mu.Lock()
	l.left--
	left := l.left
	if left == 0 {
		close(l.died)
	}
	l.mu.Unlock()
	if left > 0 || left == 0 && l.after {
		if err := do(); left > 0 {
			return err
		}
	}
	return errDead
}

// A mortal is everything that a worker reaches the world by.
type mortal struct {
	*life
	queue *queuetest.Memory
	kv    *queuetest.KV
	org   *org
}

func (m mortal) Fetch(ctx context.Context, n int, wait time.Duration, handle func(*queue.Delivery)) (count int, err error) {
	select {
	case <-m.died:
		return 0, errDead
	default: // waiting for records is no step: there are any number of turns
	}
	return m.queue.Fetch(ctx, n, wait, func(d *queue.Delivery) {
		d.Lease = mortalLease{m.life, d.Lease}
		handle(d)
	})
}

func (m mortal) Newer(ctx context.Context, d *queue.Delivery, key string) (data []byte, o queue.Order, ok bool, err error) {
	err = m.step(func() (err error) { data, o, ok, err = m.queue.Newer(ctx, d, key); return err })
	return data, o, ok, err
}

func (m mortal) Get(ctx context.Context, key string) (e queue.Entry, err error) {
	err = m.step(func() (err error) { e, err = m.kv.Get(ctx, key); return err })
	return e, err
}

func (m mortal) Update(ctx context.Context, key string, value []byte, revision uint64) (n uint64, err error) {
	err = m.step(func() (err error) { n, err = m.kv.Update(ctx, key, value, revision); return err })
	return n, err
}

func (m mortal) Find(ctx context.Context, p genesys.Person) (id string, err error) {
	err = m.step(func() (err error) { id, err = m.org.Find(ctx, p); return err })
	return id, err
}

func (m mortal) User(ctx context.Context, id string) (u genesys.User, err error) {
	err = m.step(func() (err error) { u, err = m.org.User(ctx, id); return err })
	return u, err
}

func (m mortal) Patch(ctx context.Context, id string, p genesys.Patch) (c string, err error) {
	err = m.step(func() (err error) { c, err = m.org.Patch(ctx, id, p); return err })
	return c, err
}

type mortalLease struct {
	*life
	queue.Lease
}

func (l mortalLease) Extend(ctx context.Context) error {
	return l.step(func() error { return l.Lease.Extend(ctx) })
}

func (l mortalLease) Ack(ctx context.Context, r queue.Result) error {
	return l.step(func() error { return l.Lease.Ack(ctx, r) })
}

func (l mortalLease) Retry(ctx context.Context, after time.Duration) error {
	return l.step(func() error { return l.Lease.Retry(ctx, after) })
}

func (l mortalLease) DeadLetter(ctx context.Context, f queue.Failure) error {
	return l.step(func() error { return l.Lease.DeadLetter(ctx, f) })
}

// startMortal runs a worker that dies after so many steps, and holds so many records at most.
func (b *bench) startMortal(name string, l *life, inFlight int) (stop func()) {
	m := mortal{l, b.queue, b.kv, b.org}
	w := b.worker(name)
	w.Queue, w.Ledger.Store, w.Provisioner.Directory = m, m, m
	w.InFlight = inFlight
	return b.start(w)
}

// Records of one employee on two workers, in every order of publishing, with a crash of one of the
// workers at every step, before and after the step took effect: the newest record is what stands
// in the end, and each record ends exactly once. The one that dies holds one record, and the other
// worker gets the others; or it holds all, and the newer ones stop the older ones.
func TestACrashAtEveryStepLosesNothingAndLetsTheNewerRecordWin(t *testing.T) {
	versions := map[string][]int{"older first": {1, 2}, "newer first": {2, 1}, "three": {2, 1, 3}}
	for name, order := range versions {
		for _, keyed := range []bool{true, false} {
			for _, after := range []bool{false, true} {
				for _, held := range []int{1, 8} {
					t.Run(fmt.Sprintf("%s, keyed %t, after %t, %d held", name, keyed, after, held), func(t *testing.T) {
						steps := 1
						for crashAt(t, order, keyed, after, held, steps) {
							steps++
						}
						if steps < 7 { // look, read, claim, find, read, patch, …
							t.Errorf("the worker did only %d steps: hardly anything was tested", steps)
						}
					})
				}
			}
		}
	}
}

// crashAt tells whether the worker lived to see so many steps.
func crashAt(t *testing.T, order []int, keyed, after bool, held, steps int) (reached bool) {
	inBubble(t, func(b *bench) {
		newest, department := 0, ""
		for i, version := range order {
			d := string("abc"[i])
			if version > newest {
				newest, department = version, d
			}
			key := ""
			if keyed {
				key = "E1"
			}
			b.publishRaw(key, fmt.Appendf(nil, `{"employee_id":"E1","department":%q,"version":%d}`, d, version))
		}
		l := newLife(steps, after)
		stopVictim := b.startMortal("victim", l, held)
		synctest.Wait() // it has a record, and is dead or waits for skills to settle
		stopOther := b.start(b.worker("other"))
		b.settle(30 * time.Minute)
		want := map[string]string{"a": "[A]", "b": "[B]", "c": "[C]"}[department]
		if got := b.org.has("E1"); got != want {
			t.Errorf("crash at step %d: the user has %s, the newest record says %s", steps, got, want)
		}
		b.outcomes()
		for _, r := range b.queue.Results() {
			if r.Outcome == queue.OutcomeDead {
				t.Errorf("crash at step %d: record %d became a dead letter: %s", steps, r.Sequence, r.Reason)
			}
		}
		select {
		case <-l.died:
			reached = true
		default:
		}
		stopVictim()
		stopOther()
		synctest.Wait()
	})
	return reached && !t.Failed()
}
