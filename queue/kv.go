package queue

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
)

// A KV is a bucket of keys that change by compare-and-swap.
//
// Reads are answered by any replica, which may be behind: what Get returns is a hint, Update
// decides. After ErrConflict, back off before reading again.
type KV struct {
	b  *Broker
	kv jetstream.KeyValue
}

// KV opens a bucket. It must have been set up.
func (b *Broker) KV(ctx context.Context, bucket string) (*KV, error) {
	ctx, done, err := b.startup(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	kv, err := b.js.KeyValue(ctx, bucket)
	if err != nil {
		return nil, b.failed(ctx, "open bucket "+bucket, err)
	}
	return &KV{b: b, kv: kv}, nil
}

// Get reads a key, or returns ErrNotFound.
func (k *KV) Get(ctx context.Context, key string) (found Entry, err error) {
	err = k.b.again(ctx, "read "+key, func(ctx context.Context, _ *connection) error {
		e, err := k.kv.Get(ctx, key)
		if errors.Is(err, jetstream.ErrKeyNotFound) { // of a deleted key, too
			return ErrNotFound
		}
		if err == nil {
			found = entry(e)
		}
		return err
	})
	return found, err
}

// Update writes a key if its revision is still the one given, and returns the new one; revision 0
// creates the key. ErrConflict says that somebody else was first. After any other error the
// value may have been stored all the same: read again.
func (k *KV) Update(ctx context.Context, key string, value []byte, revision uint64) (written uint64, err error) {
	err = k.b.once(ctx, "write "+key, func(ctx context.Context, _ *connection) (err error) {
		if revision == 0 {
			written, err = k.kv.Create(ctx, key, value) // also over the mark that a removed key leaves
		} else {
			written, err = k.kv.Update(ctx, key, value, revision)
		}
		// 10071, or 10164 from a replicated stream that has another write under way.
		if errors.Is(err, jetstream.ErrKeyExists) || errors.Is(err, jetstream.ErrKeyRevisionMismatch) {
			return ErrConflict
		}
		return refusedBy(err)
	})
	return written, err
}

// Purge removes a key and its value for good.
func (k *KV) Purge(ctx context.Context, key string) error {
	return k.b.again(ctx, "remove "+key, func(ctx context.Context, _ *connection) error { return k.kv.Purge(ctx, key) })
}

// Watch calls changed with the current value of a key, if it has one, and then with each change,
// from this goroutine; changes in quick succession may come as the last of them. It returns when
// ctx ends, with its cause. After an outage of the broker it starts afresh by itself, with the
// value of then.
func (k *KV) Watch(ctx context.Context, key string, changed func(Entry)) error {
	var last uint64
	tell := func(e Entry) {
		if e.Revision != last {
			last = e.Revision
			changed(e)
		}
	}
	for {
		if err := k.watch(ctx, key, tell); err != nil && ctx.Err() == nil {
			k.b.log.Warn().Err(err).Str("key", key).Msg("watching a key is interrupted")
		}
		if err := pause(ctx); err != nil {
			return err
		}
	}
}

// watch watches on one connection.
func (k *KV) watch(ctx context.Context, key string, tell func(Entry)) error {
	conn, err := k.b.await(ctx)
	if err != nil {
		return err
	}
	w, err := k.kv.Watch(ctx, key)
	if err != nil {
		return k.b.failed(ctx, "watch "+key, err)
	}
	defer func() { _ = w.Stop() }() // fails only on a closed connection
	for {
		select {
		case e, ok := <-w.Updates():
			if !ok {
				return fmt.Errorf("watch %s: ended by the broker", key)
			}
			if e != nil && e.Operation() == jetstream.KeyValuePut { // nil: that was the current value
				tell(entry(e))
			}
		case <-conn.Done():
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

func entry(e jetstream.KeyValueEntry) Entry {
	return Entry{Value: e.Value(), Revision: e.Revision(), At: e.Created()}
}
