package sandbox

import (
	"sync"
	"time"
)

// ring holds the times of the last cap admitted requests. A request fits when fewer than
// cap were admitted in the span before it. Its cost does not depend on cap.
type ring struct {
	span   time.Duration
	cap    int // 0 = no limit
	times  []time.Duration
	oldest int
}

// free returns 0 when a request at now fits, else how long until one does.
func (r *ring) free(now time.Duration) time.Duration {
	if r.cap == 0 || len(r.times) < r.cap {
		return 0
	}
	return max(0, r.times[r.oldest]+r.span-now)
}

func (r *ring) add(now time.Duration) {
	switch {
	case r.cap == 0:
	case len(r.times) < r.cap:
		r.times = append(r.times, now)
	default:
		r.times[r.oldest] = now
		r.oldest = (r.oldest + 1) % r.cap
	}
}

// quota is a minute's and a second's limit, taken together: a request that one of them
// refuses is not charged to the other. Refused requests are not charged at all.
type quota struct {
	mu             sync.Mutex
	minute, second ring
}

func newQuota(perMinute, perSecond int) *quota {
	return &quota{
		minute: ring{span: time.Minute, cap: perMinute},
		second: ring{span: time.Second, cap: perSecond},
	}
}

// take admits a request now, or returns how long until one would be. The clock is read
// under the lock so that times are in order.
func (q *quota) take(clock func() time.Duration) (wait time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := clock()
	wait = max(q.minute.free(now), q.second.free(now))
	if wait == 0 {
		q.minute.add(now)
		q.second.add(now)
	}
	return wait
}

// limits answers GET /api/v2/organizations/limits/namespaces/{namespace}: the limits in force, of
// which the sandbox has one. Without a limit the list is empty.
func (s *Sandbox) limits(c *call) answer {
	type limit struct {
		Key       string `json:"key"`
		Namespace string `json:"namespace"`
		Value     int    `json:"value"`
	}
	namespace := c.arg("namespace")
	if namespace != "platform.api" {
		return c.notFound()
	}
	all := []limit{}
	if s.cfg.Limit > 0 {
		all = append(all, limit{"client.credentials.token.rate.per.minute", namespace, s.cfg.Limit})
	}
	return ok(map[string]any{"entities": all})
}

// peak finds the largest number of requests in any sliding window of length span. A
// window is open at its start: requests exactly span apart are never in one.
type peak struct {
	span  time.Duration
	times []time.Duration // times[head:] are in the window that ends now
	head  int
	max   int
}

func (p *peak) add(now time.Duration) {
	p.times = append(p.times, now)
	for p.times[p.head] <= now-p.span {
		p.head++
	}
	p.max = max(p.max, len(p.times)-p.head)
	if p.head > len(p.times)/2 && p.head > 1024 { // amortised: moves fewer than it dropped
		p.times = append(p.times[:0], p.times[p.head:]...)
		p.head = 0
	}
}
