package desk

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"skillsync/queue"
)

// A Crew runs replays in the background: those that are begun here, and those that lost their
// runner elsewhere.
type Crew struct {
	Desk *Desk
	Log  zerolog.Logger

	once sync.Once
	wake chan struct{}
}

// crewEvery is how often a Crew looks for replays that nobody runs.
const crewEvery = 5 * time.Second

// Wake makes the crew look at once: a replay was begun or resumed.
func (c *Crew) Wake() {
	c.setup()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *Crew) setup() { c.once.Do(func() { c.wake = make(chan struct{}, 1) }) }

// Run works until ctx ends, and returns when all is quiet. Replays that are not done by then wait
// for whoever takes them up.
func (c *Crew) Run(ctx context.Context) {
	c.setup()
	var (
		all     sync.WaitGroup
		mu      sync.Mutex
		running = map[string]bool{}
	)
	defer all.Wait()
	tick := time.NewTicker(crewEvery)
	defer tick.Stop()
	for {
		for _, name := range c.idle(ctx) {
			mu.Lock()
			ours := running[name]
			running[name] = true
			mu.Unlock()
			if ours {
				continue
			}
			all.Go(func() {
				c.do(ctx, name)
				mu.Lock()
				defer mu.Unlock()
				delete(running, name)
			})
		}
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
		case <-tick.C:
		}
	}
}

// idle names the replays that should run and that nobody runs, as far as they can be run here.
func (c *Crew) idle(ctx context.Context) (names []string) {
	all, err := c.Desk.Replays.List(ctx, 1000)
	if err != nil || len(all) == 0 {
		return nil // the broker's own log says what is wrong with it
	}
	now, err := c.Desk.Broker.Now(ctx)
	if err != nil {
		return nil
	}
	for _, r := range all {
		if r.Interrupted(now) && !r.Edited && (r.Mapping == "" || r.Mapping == c.Desk.Rules.Version()) {
			names = append(names, r.Name)
		}
	}
	return names
}

func (c *Crew) do(ctx context.Context, name string) {
	r, err := c.Desk.Replays.Run(ctx, name, c.Desk.Runner(nil))
	switch {
	case errors.Is(err, queue.ErrReplayTaken), errors.Is(err, queue.ErrReplayState), ctx.Err() != nil:
	case err != nil:
		c.Log.Error().Err(err).Str("replay", name).Msg("replay stopped")
	default:
		c.Log.Info().Str("replay", name).Str("state", r.State).Uint64("published", r.Published).Msg("replay ended")
	}
}
