package ratelimit

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// A clock tells the broker's time: what the broker last said, plus what the monotonic clock of
// this machine has counted since. A step of the local wall clock does not move it.
type clock struct {
	mu     sync.Mutex
	ours   time.Time // when the broker answered, by the local clock; zero before the first answer
	theirs time.Time // what it said
}

// now is the broker's time, or the local one as long as the broker has not been asked.
func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.read()
}

func (c *clock) read() time.Time {
	if c.ours.IsZero() {
		return time.Now().UTC().Round(0)
	}
	return c.theirs.Add(time.Since(c.ours))
}

func (c *clock) known() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.ours.IsZero()
}

// ask sets the clock.
func (c *clock) ask(ctx context.Context, source func(context.Context) (time.Time, error)) error {
	if source == nil {
		source = func(context.Context) (time.Time, error) { return time.Now(), nil }
	}
	theirs, err := source(ctx)
	if err != nil {
		return fmt.Errorf("ask the broker for the time: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ours, c.theirs = time.Now(), theirs.UTC().Round(0) // Round: no monotonic reading of a clock that is not ours
	return nil
}

// atLeast moves the clock up to a time that the broker has written something at. It runs behind
// when the machine was suspended: the monotonic clock stands still then.
func (c *clock) atLeast(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.ours.IsZero() && t.After(c.read()) {
		c.ours, c.theirs = time.Now(), t.UTC().Round(0)
	}
}

// offset is how far the broker's clock is ahead of the local one.
func (c *clock) offset() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ours.IsZero() {
		return 0
	}
	return c.theirs.Sub(c.ours.Round(0))
}
