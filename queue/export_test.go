package queue

import "context"

// Remove deletes a whole stream.
func Remove(ctx context.Context, b *Broker, stream string) error {
	return b.js.DeleteStream(ctx, stream)
}

// Clean makes a text fit for a header.
var Clean = clean
