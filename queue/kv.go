package queue

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
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
func (k *KV) Get(ctx context.Context, key string) (Entry, error) {
	if err := checkKey(key); err != nil {
		return Entry{}, err
	}
	reply, err := k.b.ask(ctx, "read", key, lastOn("KV_"+k.kv.Bucket(), k.subject(key)))
	if err != nil {
		return Entry{}, err
	}
	m, err := newest(reply)
	if err == nil && first(m.header, "KV-Operation") != "" { // the mark that a removed key leaves
		err = ErrNotFound
	}
	if err != nil {
		return Entry{}, fmt.Errorf("read %s: %w", key, err)
	}
	return Entry{Value: m.data, Revision: m.sequence, At: m.at}, nil
}

// checkKey refuses what is no key of a bucket (NATS ADR-8), and what a subject would take for more
// than one.
func checkKey(key string) error {
	legal := key != "" && key[0] != '.' && key[len(key)-1] != '.' && strings.IndexFunc(key, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("-/_=.", r)
	}) < 0
	if !legal {
		return fmt.Errorf("%w: %q", jetstream.ErrInvalidKey, key)
	}
	return nil
}

func (k *KV) subject(key string) string { return "$KV." + k.kv.Bucket() + "." + key }

// Update writes a key if its revision is still the one given, and returns the new one; revision 0
// creates the key. ErrConflict says that somebody else was first. After any other error the
// value may have been stored all the same: read again.
func (k *KV) Update(ctx context.Context, key string, value []byte, revision uint64) (written uint64, err error) {
	if err := checkKey(key); err != nil {
		return 0, err
	}
	msg := &nats.Msg{Subject: k.subject(key), Data: value, Header: nats.Header{
		jetstream.ExpectedLastSubjSeqHeader: {strconv.FormatUint(revision, 10)},
	}}
	reply, err := k.b.ask(ctx, "write", key, msg)
	if err != nil {
		return 0, refusedBy(err)
	}
	ack, err := pubAck(reply.Data)
	if errors.Is(err, ErrConflict) && revision == 0 {
		return k.createAgain(ctx, key, value)
	}
	if err != nil {
		return 0, fmt.Errorf("write %s: %w", key, err)
	}
	return ack.Sequence, nil
}

// createAgain creates a key over the mark that a removed one leaves.
func (k *KV) createAgain(ctx context.Context, key string, value []byte) (written uint64, err error) {
	err = k.b.once(ctx, "write "+key, func(ctx context.Context, _ *connection) (err error) {
		written, err = k.kv.Create(ctx, key, value)
		if errors.Is(err, jetstream.ErrKeyExists) || errors.Is(err, jetstream.ErrKeyRevisionMismatch) {
			return ErrConflict
		}
		return refusedBy(err)
	})
	return written, err
}

// Keys lists the keys, sorted; of more than 100,000 some.
func (k *KV) Keys(ctx context.Context) (keys []string, err error) {
	err = k.b.again(ctx, "list the keys of "+k.kv.Bucket(), func(ctx context.Context, _ *connection) error {
		tokens, err := k.b.tokens(ctx, "KV_"+k.kv.Bucket(), "$KV."+k.kv.Bucket())
		keys = slices.Sorted(maps.Keys(tokens))
		return err
	})
	return keys, err
}

// Purge removes a key and its value for good.
func (k *KV) Purge(ctx context.Context, key string) error {
	return k.b.again(ctx, "remove "+key, func(ctx context.Context, _ *connection) error { return k.kv.Purge(ctx, key) })
}

// forget removes a key without the mark that Purge leaves, for keys that nobody watches.
func (k *KV) forget(ctx context.Context, key string) error {
	return k.b.again(ctx, "remove "+key, func(ctx context.Context, _ *connection) error {
		s, err := k.b.js.Stream(ctx, "KV_"+k.kv.Bucket())
		if err != nil {
			return err
		}
		return s.Purge(ctx, jetstream.WithPurgeSubject(k.subject(key)))
	})
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
