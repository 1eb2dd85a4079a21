package desk

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"skillsync/queue"
	"skillsync/queue/ratelimit"
)

// ErrClient says that it is not clear which OAuth client's limit is meant.
var ErrClient = errors.New("it is not clear which OAuth client is meant")

// SetLimit makes all workers keep to a limit, in requests a minute; 0 gives it back to what they
// are set to themselves. client is the OAuth client's id or that of a Budget,
// or empty for the only one there is.
func (d *Desk) SetLimit(ctx context.Context, by, client string, limit int) (Budget, error) {
	what := fmt.Sprintf("set to %d requests a minute", limit)
	if limit == 0 {
		what = "set to what the workers are set to"
	}
	return d.limit(ctx, by, client, what, func(b *ratelimit.Bucket) error { return b.SetLimit(ctx, limit) })
}

// PauseFleet sends nothing for a while. A longer pause in force stays.
func (d *Desk) PauseFleet(ctx context.Context, by, client string, span time.Duration, reason string) (Budget, error) {
	return d.limit(ctx, by, client, "paused for "+span.String()+": "+reason, func(b *ratelimit.Bucket) error { return b.Pause(ctx, span, reason) })
}

// ResumeFleet ends a pause at once.
func (d *Desk) ResumeFleet(ctx context.Context, by, client string) (Budget, error) {
	return d.limit(ctx, by, client, "resumed", func(b *ratelimit.Bucket) error { return b.Resume(ctx) })
}

func (d *Desk) limit(ctx context.Context, by, client, what string, do func(*ratelimit.Bucket) error) (Budget, error) {
	kv, err := d.Broker.KV(ctx, queue.LimitsBucket)
	if err != nil {
		return Budget{}, err
	}
	key, err := limitKey(ctx, kv, client)
	if err != nil {
		return Budget{}, err
	}
	bucket := &ratelimit.Bucket{Store: kv, Key: key, Clock: d.Broker.Now, Name: by}
	e := queue.AuditEntry{By: by, Action: queue.ActedLimit, About: key, Detail: what}
	if err := d.audited(ctx, e, func() (uint64, error) { return 0, do(bucket) }); err != nil {
		return Budget{}, err
	}
	now, err := d.Broker.Now(ctx)
	if err != nil {
		return Budget{}, err
	}
	s, err := bucket.Read(ctx)
	return NewBudget(key, s, now), err
}

// limitKey is that of the OAuth client meant.
func limitKey(ctx context.Context, kv *queue.KV, client string) (string, error) {
	keys, err := kv.Keys(ctx)
	switch {
	case err != nil:
		return "", err
	case slices.Contains(keys, client): // as a Budget names it
		return client, nil
	case client != "":
		return queue.Key(client), nil
	case len(keys) == 0:
		return "", fmt.Errorf("%w: no worker has drawn from a limit yet; name the OAuth client", ErrClient)
	case len(keys) > 1:
		return "", fmt.Errorf("%w: there are limits of several (%s); name one", ErrClient, strings.Join(keys, ", "))
	}
	return keys[0], nil
}
