package ratelimit

import (
	"context"
	"time"
)

// A pump is the one goroutine that hands out slots. It has at most one reservation under way,
// and orders the next lot while the last one is being used up.
type pump struct {
	*Bucket
	lots      []lot
	reserved  chan reservation
	busy      bool      // a reservation is under way
	paused    bool      // the fleet was, at the last turn
	failures  int       // in a row
	notBefore time.Time // of the next reservation, by the local clock
}

const forever = time.Hour // until something happens

func (p *pump) run(ctx context.Context) {
	timer := time.NewTimer(p.turn(ctx))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			if p.busy {
				<-p.reserved
			}
			return
		case <-p.wake:
		case <-timer.C:
		case r := <-p.reserved:
			p.receive(r)
		}
		timer.Reset(p.turn(ctx))
	}
}

func (p *pump) receive(r reservation) {
	p.busy = false
	switch {
	case r.err != nil:
		p.failures++
		p.notBefore = time.Now().Add(backoff(r.err, p.failures))
		return
	case r.left > 0:
		p.lots = append(p.lots, r.lot)
	}
	p.failures = 0
	p.notBefore = time.Now().Add(r.again)
}

// turn does what can be done now and tells how long to sleep if nothing happens before.
func (p *pump) turn(ctx context.Context) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.clock.now()
	if p.ready {
		pause := p.shared.PausedUntil.Sub(now)
		if p.paused && pause <= 0 && p.Resumed != nil {
			p.Resumed()
		}
		if p.paused = pause > 0; p.paused {
			return p.sitOut(now, pause)
		}
		if p.limit == 0 {
			return p.letAllThrough()
		}
	}
	return min(p.hand(now), p.order(ctx, now))
}

// sitOut waits for the end of a pause, or for news of it. Slots from before it are void.
func (p *pump) sitOut(now time.Time, pause time.Duration) time.Duration {
	p.loseAll()
	if err := p.tooLong(now); err != nil {
		p.refuseAll(err)
	}
	return pause
}

func (p *pump) letAllThrough() time.Duration {
	p.loseAll()
	for p.waiters.Len() > 0 {
		p.grant()
	}
	p.open.Store(true)
	return forever
}

// hand gives due slots to waiters and returns how long it is to the next one.
func (p *pump) hand(now time.Time) time.Duration {
	for len(p.lots) > 0 {
		l := &p.lots[0]
		late := now.Sub(l.due())
		switch {
		case l.left == 0:
			p.lots = p.lots[1:]
		case l.epoch != p.shared.Epoch, late < -p.pace.tooFar(): // void; or the clock was set back
			p.lose(l, l.left)
		case late > maxLate:
			p.lose(l, 1)
		case p.waiters.Len() == 0: // whoever comes before it is too late may have it
			return forever
		case late < 0:
			return -late
		default:
			if wait := p.overdrawn(); wait > 0 {
				return wait
			}
			p.grant()
			l.next()
		}
	}
	return forever
}

func (p *pump) loseAll() {
	for i := range p.lots {
		p.lose(&p.lots[i], p.lots[i].left)
	}
	p.lots, p.notBefore = nil, time.Time{}
}

func (p *pump) lose(l *lot, n int) {
	for range n {
		l.next()
	}
	p.stats.Lost += uint64(n)
}

// overdrawn takes a token from the local limiter, or tells when there will be one.
func (p *pump) overdrawn() time.Duration {
	r := p.local.Reserve()
	wait := r.Delay()
	if wait > 0 {
		r.Cancel()
	}
	return wait
}

// order starts a reservation if more callers wait than slots are in hand, and these are nearly
// used up; or returns how long it is until one may be started.
func (p *pump) order(ctx context.Context, now time.Time) time.Duration {
	want := p.waiters.Len()
	for _, l := range p.lots {
		want -= l.left
	}
	if p.busy || p.ready && want <= 0 {
		return forever // each of which ends with a wake
	}
	wait := time.Until(p.notBefore)
	if n := len(p.lots); n > 0 {
		wait = max(wait, p.lots[n-1].last().Sub(now)-lookAhead/2)
	}
	if wait > 0 {
		return wait
	}
	p.busy = true
	go func() { p.reserved <- p.reserve(ctx, want) }()
	return forever
}
