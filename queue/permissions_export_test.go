package queue

import "context"

// Forget removes a replay that is over, as Begin does when there are many.
func Forget(ctx context.Context, r *Replays, name string) error { return r.kv.forget(ctx, name) }

// Request asks the broker for anything, and tells only whether it let us.
func Request(ctx context.Context, b *Broker, subject, body string) error {
	ctx, done, err := b.startup(ctx)
	if err != nil {
		return err
	}
	defer done()
	_, err = b.nc.RequestWithContext(ctx, subject, []byte(body))
	return b.failed(ctx, "ask "+subject, err)
}
