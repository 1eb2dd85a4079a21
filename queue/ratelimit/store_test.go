package ratelimit

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"skillsync/queue"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errDown = errors.New("store is down")

// A fault is what happens to one call of the fake store.
type fault int

const (
	works     fault = iota
	refused         // it did not happen
	replyLost       // it happened, but the caller gets an error
	hangs           // it did not happen, and no answer comes
)

// fakeStore is one key in memory, with the contract of queue.KV.
type fakeStore struct {
	latency func() time.Duration  // of each call; nil is none
	fault   func(op string) fault // nil is none

	mu      sync.Mutex
	entry   queue.Entry
	last    uint64        // revisions go on when a key is deleted
	changed chan struct{} // closed at each change
	updates int
	watches int
}

func newStore() *fakeStore { return &fakeStore{changed: make(chan struct{})} }

func (f *fakeStore) Get(ctx context.Context, _ string) (e queue.Entry, err error) {
	err = f.call(ctx, "get", func() error {
		if f.entry.Revision == 0 {
			return queue.ErrNotFound
		}
		e = f.entry
		return nil
	})
	return e, err
}

func (f *fakeStore) Update(ctx context.Context, _ string, value []byte, revision uint64) (now uint64, err error) {
	err = f.call(ctx, "update", func() error {
		f.updates++
		if f.entry.Revision != revision {
			return queue.ErrConflict
		}
		f.store(value)
		now = f.last
		return nil
	})
	return now, err
}

func (f *fakeStore) Watch(ctx context.Context, _ string, changed func(queue.Entry)) error {
	f.mu.Lock()
	f.watches++
	f.mu.Unlock()
	for seen := uint64(0); ; {
		f.mu.Lock()
		e, more := f.entry, f.changed
		f.mu.Unlock()
		if e.Revision > seen {
			seen = e.Revision
			if err := f.pause(ctx); err != nil {
				return err
			}
			changed(e)
			continue
		}
		select {
		case <-more:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (f *fakeStore) call(ctx context.Context, op string, do func() error) error {
	outcome := works
	if f.fault != nil {
		outcome = f.fault(op)
	}
	if err := f.pause(ctx); err != nil {
		return err
	}
	switch outcome {
	case refused:
		return errDown
	case hangs:
		<-ctx.Done()
		return ctx.Err()
	}
	f.mu.Lock()
	err := do()
	f.mu.Unlock()
	if lag := f.pause(ctx); lag != nil {
		return lag // done, but the caller has gone
	}
	if outcome == replyLost {
		return errDown
	}
	return err
}

func (f *fakeStore) pause(ctx context.Context) error {
	if f.latency == nil {
		return ctx.Err()
	}
	if !sleep(ctx, f.latency()) {
		return ctx.Err()
	}
	return nil
}

// store needs f.mu.
func (f *fakeStore) store(value []byte) {
	f.last++
	f.entry = queue.Entry{Value: value, Revision: f.last, At: time.Now()}
	close(f.changed)
	f.changed = make(chan struct{})
}

// put writes whatever the test likes, as a hand or a broken process would.
func (f *fakeStore) put(value string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.store([]byte(value))
}

// delete leaves no key, and tells no watcher.
func (f *fakeStore) delete() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.entry = queue.Entry{}
}

func (f *fakeStore) state(t testing.TB) State {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	s, err := decode(f.entry.Value)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (f *fakeStore) swaps() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.updates
}
