package worker

import (
	"context"
	"sync"

	"skillsync/queue/ledger"
)

// Starters are the records on their way to the patch in this worker. A shutdown stops them at
// once, while those that are patched may go on; and a newer record of an employee stops an older
// one, which waits for the budget, say, before it has cost a patch. Between workers the ledger
// keeps records of one employee apart.
type starters struct {
	mu      sync.Mutex
	stopped bool
	jobs    map[*job]struct{}
	leading map[string]*job // by employee's key; each is one of jobs
}

func (s *starters) add(j *job) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		j.stop(errShutdown)
		return
	}
	if s.jobs == nil {
		s.jobs, s.leading = map[*job]struct{}{}, map[string]*job{}
	}
	s.jobs[j] = struct{}{}
}

func (s *starters) remove(j *job) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.jobs, j)
	if s.leading[j.key] == j {
		delete(s.leading, j.key)
	}
	close(j.passed)
}

// stop ends the way of all.
func (s *starters) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
	for j := range s.jobs {
		j.stop(errShutdown)
	}
}

// lead makes j, which is decoded, the one of its employee here. It stops an older one and waits
// until that has come off its way, and returns ledger.ErrSuperseded if there is a newer one.
// supersedes tells whether one record makes another one needless.
func (s *starters) lead(ctx context.Context, j *job, supersedes func(one, other *job) bool) error {
	for {
		other := s.leader(j)
		switch {
		case other == j:
			return nil
		case supersedes(other, j):
			return ledger.ErrSuperseded
		case !supersedes(j, other):
			return nil // the same record again, or one that cannot be applied: the ledger sorts them out
		}
		other.stop(ledger.ErrSuperseded)
		select {
		case <-other.passed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// leader is the one that leads for j's employee: j itself if nobody does yet.
func (s *starters) leader(j *job) *job {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leading[j.key] == nil && !s.stopped {
		s.leading[j.key] = j
	}
	if other := s.leading[j.key]; other != nil {
		return other
	}
	return j
}
