package ratelimit

import "golang.org/x/time/rate"

// Local is the pace of a limit for one process by itself, without a fleet to share it with.
// Limit 0 is none.
func Local(limit int) *rate.Limiter {
	if limit <= 0 {
		return rate.NewLimiter(rate.Inf, 1)
	}
	p := paceOf(limit)
	return rate.NewLimiter(rate.Every(p.interval), p.burst)
}
