package queuetest

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"skillsync/queue"
)

// Bucket is what a KV can do.
type Bucket interface {
	Get(ctx context.Context, key string) (queue.Entry, error)
	Update(ctx context.Context, key string, value []byte, revision uint64) (uint64, error)
	Purge(ctx context.Context, key string) error
	Watch(ctx context.Context, key string, changed func(queue.Entry)) error
}

// KVSuite is what every KV keeps to. open gives an empty one.
func KVSuite(t *testing.T, open func(*testing.T) Bucket) {
	for _, test := range []struct {
		name string
		run  func(kvSuite)
	}{
		{"a key is read as it was written", kvSuite.read},
		{"a key is created once", kvSuite.create},
		{"a key that somebody else changed is not overwritten", kvSuite.conflict},
		{"one of many who write at once wins", kvSuite.race},
		{"a removed key can be created again", kvSuite.purge},
		{"an illegal key is refused", kvSuite.illegal},
		{"a watch tells the current value and then each change", kvSuite.watch},
		{"a watch of a key that does not exist yet tells its creation", kvSuite.watchNew},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(kvSuite{t, open(t)}) })
	}
}

type kvSuite struct {
	*testing.T
	Bucket
}

func (s kvSuite) write(key, value string, revision uint64) uint64 {
	s.Helper()
	written, err := s.Update(s.Context(), key, []byte(value), revision)
	if err != nil {
		s.Fatal(err)
	}
	return written
}

func (s kvSuite) reads(key, want string) queue.Entry {
	s.Helper()
	e, err := s.Get(s.Context(), key)
	if err != nil || string(e.Value) != want {
		s.Fatalf("%s is %q, %v; want %q", key, e.Value, err, want)
	}
	return e
}

func (s kvSuite) is(err, want error) {
	s.Helper()
	if !errors.Is(err, want) {
		s.Errorf("error %v, want %v", err, want)
	}
}

func (s kvSuite) read() {
	_, err := s.Get(s.Context(), "k")
	s.is(err, queue.ErrNotFound)
	revision := s.write("k", "1", 0)
	other := s.write("=a_b-C", "x", 0)
	e := s.reads("k", "1")
	if e.Revision != revision || other <= revision {
		s.Errorf("revisions: read %d, written %d and %d", e.Revision, revision, other)
	}
	if age := time.Since(e.At).Abs(); age > time.Minute {
		s.Errorf("written %v ago", age)
	}
	e.Value[0] = 'x' // it is ours
	s.reads("k", "1")
}

func (s kvSuite) create() {
	s.write("k", "1", 0)
	_, err := s.Update(s.Context(), "k", []byte("2"), 0)
	s.is(err, queue.ErrConflict)
	s.reads("k", "1")
}

func (s kvSuite) conflict() {
	first := s.write("k", "1", 0)
	second := s.write("k", "2", first)
	for _, revision := range []uint64{first, second + 1, 0} {
		_, err := s.Update(s.Context(), "k", []byte("3"), revision)
		s.is(err, queue.ErrConflict)
	}
	_, err := s.Update(s.Context(), "new", []byte("3"), second)
	s.is(err, queue.ErrConflict)
	s.reads("k", "2")
}

func (s kvSuite) race() {
	revision := s.write("k", "0", 0)
	results := make(chan error)
	for range 8 {
		go func() {
			_, err := s.Update(s.Context(), "k", []byte("1"), revision)
			results <- err
		}()
	}
	won := 0
	for range 8 {
		if err := <-results; err == nil {
			won++
		} else {
			s.is(err, queue.ErrConflict)
		}
	}
	if won != 1 {
		s.Errorf("%d won", won)
	}
}

func (s kvSuite) purge() {
	revision := s.write("k", "1", 0)
	if err := s.Purge(s.Context(), "k"); err != nil {
		s.Fatal(err)
	}
	_, err := s.Get(s.Context(), "k")
	s.is(err, queue.ErrNotFound)
	_, err = s.Update(s.Context(), "k", []byte("2"), revision)
	s.is(err, queue.ErrConflict)
	if again := s.write("k", "2", 0); again <= revision {
		s.Errorf("revision %d after %d", again, revision)
	}
	s.reads("k", "2")
}

func (s kvSuite) illegal() {
	for _, key := range []string{"", "a b", "x@corp.com", "jörg", ".a", "a.", strings.Repeat("*", 2)} {
		if _, err := s.Update(s.Context(), key, nil, 0); err == nil {
			s.Errorf("%q is written", key)
		}
		if _, err := s.Get(s.Context(), key); err == nil {
			s.Errorf("%q is read", key)
		}
	}
}

func (s kvSuite) watch() {
	revision := s.write("k", "1", 0)
	s.write("other", "x", 0)
	ctx, cancel := context.WithCancelCause(s.Context())
	seen := make(chan queue.Entry)
	done := make(chan error)
	go func() { done <- s.Watch(ctx, "k", func(e queue.Entry) { seen <- e }) }()
	for _, value := range []string{"1", "2", "3"} {
		e := <-seen
		if string(e.Value) != value || e.Revision != revision || e.At.IsZero() {
			s.Fatalf("told %q at %d, want %q at %d", e.Value, e.Revision, value, revision)
		}
		if value != "3" {
			revision = s.write("k", string(value[0]+1), revision)
		}
	}
	why := errors.New("enough")
	cancel(why)
	s.is(<-done, why)
}

func (s kvSuite) watchNew() {
	ctx, cancel := context.WithCancel(s.Context())
	seen := make(chan queue.Entry)
	done := make(chan error)
	go func() { done <- s.Watch(ctx, "k", func(e queue.Entry) { seen <- e }) }()
	revision := s.write("k", "1", 0)
	if e := <-seen; e.Revision != revision {
		s.Errorf("told %+v", e)
	}
	cancel()
	s.is(<-done, context.Canceled)
}
