package queuetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"regexp"
	"sync"
	"time"

	"skillsync/queue"
)

// A KV is a bucket in memory, with the contract of queue.KV and faults on demand
// (Get, Update; Down for all).
type KV struct {
	faults

	// Hook, if set, is called before each Get and Update, without a lock: a test can let
	// somebody else be quicker.
	Hook func(op Op, key string)

	mu       sync.Mutex
	revision uint64
	entries  map[string]queue.Entry
	changed  chan struct{} // closed at each change
	updates  int
}

// NewKV makes an empty bucket.
func NewKV() *KV {
	return &KV{entries: map[string]queue.Entry{}, changed: make(chan struct{})}
}

// Get reads a key, or returns queue.ErrNotFound.
func (k *KV) Get(ctx context.Context, key string) (queue.Entry, error) {
	if err := k.begin(ctx, Get, key); err != nil {
		return queue.Entry{}, err
	}
	if _, err := k.take(Get); err != nil {
		return queue.Entry{}, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	e, ok := k.entries[key]
	if !ok {
		return queue.Entry{}, fmt.Errorf("read %s: %w", key, queue.ErrNotFound)
	}
	return clone(e), nil
}

// Update writes a key if its revision is still the one given; revision 0 creates it.
func (k *KV) Update(ctx context.Context, key string, value []byte, revision uint64) (uint64, error) {
	if err := k.begin(ctx, Update, key); err != nil {
		return 0, err
	}
	fault, planned := k.take(Update)
	if planned != nil && fault != After {
		return 0, planned
	}
	written, err := k.write(key, value, revision)
	if planned != nil {
		return 0, planned
	}
	return written, err
}

func (k *KV) write(key string, value []byte, revision uint64) (uint64, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.entries[key].Revision != revision {
		return 0, fmt.Errorf("write %s: %w", key, queue.ErrConflict)
	}
	k.revision++
	k.updates++
	k.entries[key] = queue.Entry{Value: bytes.Clone(value), Revision: k.revision, At: time.Now()}
	close(k.changed)
	k.changed = make(chan struct{})
	return k.revision, nil
}

// Purge removes a key.
func (k *KV) Purge(ctx context.Context, key string) error {
	if err := k.begin(ctx, Update, key); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.entries, key)
	return nil
}

// Watch calls changed with the current value, if there is one, then with each change; of changes
// in quick succession with the last. It returns when ctx ends, with its cause.
func (k *KV) Watch(ctx context.Context, key string, changed func(queue.Entry)) error {
	var last uint64
	for {
		k.mu.Lock()
		e, again := clone(k.entries[key]), k.changed
		k.mu.Unlock()
		if e.Revision != last {
			last = e.Revision
			if last != 0 {
				changed(e)
			}
			continue
		}
		select {
		case <-again:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Updates counts what was written.
func (k *KV) Updates() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.updates
}

func (k *KV) begin(ctx context.Context, op Op, key string) error {
	if k.Hook != nil {
		k.Hook(op, key)
	}
	if !legal.MatchString(key) {
		return fmt.Errorf("%s %q: not a legal key, use queue.Key", op, key)
	}
	return ended(ctx, op)
}

var legal = regexp.MustCompile(`^[-/_=a-zA-Z0-9]([-/_=.a-zA-Z0-9]*[-/_=a-zA-Z0-9])?$`)

// ended is the error of a call whose context is over.
func ended(ctx context.Context, op Op) error {
	switch err := ctx.Err(); {
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s: %w: %w", op, queue.ErrUnreachable, err)
	case err != nil:
		return fmt.Errorf("%s: %w", op, context.Cause(ctx))
	}
	return nil
}

func clone(e queue.Entry) queue.Entry {
	e.Value = bytes.Clone(e.Value)
	return e
}
