package queue

import "context"

// Remove deletes a whole stream.
func Remove(ctx context.Context, b *Broker, stream string) error {
	return b.js.DeleteStream(ctx, stream)
}

// Clean makes a text fit for a header.
var Clean = clean

// LetGo takes a replay from a runner that died, as time would.
func LetGo(ctx context.Context, r *Replays, name string) {
	_, _ = r.change(ctx, name, func(rep *Replay) error { rep.Held = rep.Created; return nil })
}

// Tamper tries to remove what is in a stream, and returns nil if it could.
func Tamper(ctx context.Context, b *Broker, stream string) error {
	s, err := b.js.Stream(ctx, stream)
	if err != nil {
		return err
	}
	if err := s.DeleteMsg(ctx, 1); err == nil {
		return nil
	}
	return s.Purge(ctx)
}

// ClockSlack is how far the clocks of brokers may be apart.
const ClockSlack = clockSlack

// Since is the letter that reading begins with.
func Since(ctx context.Context, b *Broker, f Filter, from uint64) (uint64, error) {
	return b.DeadLetters().since(ctx, f, from)
}
