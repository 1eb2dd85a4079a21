package genesys

import (
	"context"
	"sync"
)

// A shared is a value that many callers use and one of them at a time fetches. Its zero value
// holds nothing yet.
type shared[T any] struct {
	mu      sync.Mutex
	value   T
	current *fetch[T] // nil: nobody is fetching
}

// A fetch is one attempt at a new value. Its other fields are set before done is closed.
type fetch[T any] struct {
	done      chan struct{}
	value     T
	err       error
	abandoned bool // the caller that fetched went away
}

// get returns the value if it is fresh, and otherwise the outcome of one fetch, which all who
// ask in the meantime share, be it an error. Only a fetch that failed because its own caller
// went away is nobody else's: another caller fetches.
func (s *shared[T]) get(ctx context.Context, op string, fresh func(T) bool, fetchValue func(context.Context) (T, error)) (T, error) {
	for {
		s.mu.Lock()
		if fresh(s.value) {
			defer s.mu.Unlock()
			return s.value, nil
		}
		f, mine := s.current, s.current == nil
		if mine {
			f = &fetch[T]{done: make(chan struct{}), abandoned: true}
			s.current = f
		}
		s.mu.Unlock()

		if mine {
			return s.lead(ctx, f, fetchValue)
		}
		select {
		case <-f.done:
			if !f.abandoned {
				return f.value, f.err
			}
		case <-ctx.Done():
			var none T
			return none, interrupted(ctx, op)
		}
	}
}

// lead fetches on behalf of all who wait for f.
func (s *shared[T]) lead(ctx context.Context, f *fetch[T], fetchValue func(context.Context) (T, error)) (T, error) {
	defer func() { // also if fetchValue panics: those who wait must not wait for ever
		s.mu.Lock()
		defer s.mu.Unlock()
		if f.err == nil && !f.abandoned {
			s.value = f.value
		}
		s.current = nil
		close(f.done)
	}()
	f.value, f.err = fetchValue(ctx)
	f.abandoned = f.err != nil && ctx.Err() != nil
	return f.value, f.err
}

// peek returns the value, fresh or not.
func (s *shared[T]) peek() T {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.value
}
