package ratelimit

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
)

// callersOf keeps so many hungry callers at each bucket until stop is called.
func callersOf(t *testing.T, j *journal, each int, buckets ...*Bucket) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var callers sync.WaitGroup
	for i, b := range buckets {
		for range each {
			callers.Go(func() { hungry(ctx, b, i, j) })
		}
	}
	return func() {
		cancel()
		callers.Wait()
	}
}

func TestALimitThatAnOperatorSetsHoldsForAllAtOnceAndCanBeTakenBack(t *testing.T) {
	for _, own := range []int{300, 0} {
		t.Run(fmt.Sprintf("processes set to %d", own), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := newStore()
				a, b := &Bucket{Store: store, Key: "client", Limit: own}, &Bucket{Store: store, Key: "client", Limit: own}
				start(t, a)
				start(t, b)
				operator := &Bucket{Store: store, Key: "client", Name: "operator"}
				if own > 0 {
					var j journal
					stop := callersOf(t, &j, 8, a, b)
					time.Sleep(time.Minute)
					stop()
				}
				if err := operator.SetLimit(t.Context(), 60); err != nil {
					t.Fatal(err)
				}
				synctest.Wait() // they have learned
				var lowered journal
				stop := callersOf(t, &lowered, 8, a, b)
				time.Sleep(5 * time.Minute)
				state, err := operator.Read(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if o := state.Outlook(time.Now()); o.Limit != 60 || o.Allowed < 58 || o.Allowed > 59 || o.Used < 56 || o.Used > 63 {
					t.Errorf("the operator sees %+v", o)
				}
				stop()
				if most, n := maxInWindow(lowered.arrived), len(lowered.arrived); most > 60 || n < 5*57 {
					t.Errorf("%d requests in a minute, %d in five; the limit is 60", most, n)
				}
				if err := operator.SetLimit(t.Context(), 0); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				if got := a.Snapshot().Limit; got != own {
					t.Errorf("taken back, the limit is %d, want %d", got, own)
				}
				if own > 0 {
					time.Sleep(time.Minute) // the queue of slots reserved under the lower one
					var again journal
					stop := callersOf(t, &again, 8, a, b)
					time.Sleep(2 * time.Minute)
					stop()
					if n := len(again.arrived); n < 2*285 {
						t.Errorf("%d requests in two minutes at a limit of %d again", n, own)
					}
					return
				}
				for range 1000 { // at once: the clock of the bubble stands still
					if err := b.Wait(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
			})
		})
	}
}

func TestALimitThatIsNoneIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newStore()
		operator := &Bucket{Store: store, Key: "client"}
		for _, limit := range []int{-1, maxLimit + 1} {
			if err := operator.SetLimit(t.Context(), limit); err == nil || store.swaps() != 0 {
				t.Errorf("%d: %v, %d swaps", limit, err, store.swaps())
			}
		}
		if got := (State{Limit: maxLimit + 1}).limit(300); got != 300 {
			t.Errorf("a limit of %d in the key counts as %d", maxLimit+1, got)
		}
	})
}

// One process has all the work of its own, the others something now and then: the limit is used
// all the same, none waits long, and no window sees more.
func TestUnevenLoadUsesTheLimitAndLetsTheQuietOnesThrough(t *testing.T) {
	for _, test := range []struct{ processes, limit int }{{4, 300}, {16, 300}, {16, 3000}} {
		t.Run(fmt.Sprintf("%d processes at %d a minute", test.processes, test.limit), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := newStore()
				store.latency = func() time.Duration { return rand.N(3 * time.Millisecond) }
				ctx, cancel := context.WithCancel(t.Context())
				var (
					j       journal
					callers sync.WaitGroup
					mu      sync.Mutex
					longest time.Duration
				)
				for i := range test.processes {
					b := &Bucket{Store: store, Key: "client", Limit: test.limit}
					start(t, b)
					if i == 0 {
						for range 64 {
							callers.Go(func() { hungry(ctx, b, i, &j) })
						}
						continue
					}
					callers.Go(func() {
						for sleep(ctx, rand.N(20*time.Second)) {
							asked := time.Now()
							if b.Wait(ctx) != nil {
								return
							}
							mu.Lock()
							longest = max(longest, time.Since(asked))
							mu.Unlock()
							j.note(i, time.Now().Add(rand.N(50*time.Millisecond)))
						}
					})
				}
				const span = 4 * time.Minute
				time.Sleep(span)
				cancel()
				callers.Wait()
				if most := maxInWindow(j.arrived); most > test.limit {
					t.Errorf("%d requests in one minute", most)
				}
				if used := float64(len(j.arrived)) / (float64(test.limit) * span.Minutes()); used < .95 {
					t.Errorf("only %.1f %% of the limit used", 100*used)
				}
				if longest > 5*time.Second {
					t.Errorf("a process with one request waited %s for it", longest)
				}
			})
		})
	}
}

func TestWhatIsUsedIsCountedOverTheLastMinute(t *testing.T) {
	at := func(minute, second int) time.Time { return time.Unix(int64(minute)*60+int64(second), 0) }
	var s State
	s.count(at(100, 30), 200)
	s.count(at(101, 10), 40)
	s.count(at(100, 59), 10) // a slot saved up
	tests := []struct {
		at   time.Time
		want float64
	}{
		{at(100, 59), 200},
		{at(101, 15), 50 + 150},
		{at(101, 30), 50 + 100},
		{at(102, 0), 50},
		{at(102, 30), 25},
		{at(103, 0), 0},
		{at(999, 0), 0},
	}
	for _, test := range tests {
		if got := s.used(test.at); got != test.want {
			t.Errorf("%s: %.1f, want %.1f", test.at.UTC().Format(time.TimeOnly), got, test.want)
		}
	}
	s.count(at(105, 0), 7)
	if got := s.used(at(105, 0)); got != 7 {
		t.Errorf("after a rest: %.1f, want 7", got)
	}
}

// A process without a limit tells those who look on, if the key says otherwise: also when a process
// with one, which it takes the place of, reserves for a while after it has started.
func TestALimitThatIsNoLongerConfiguredIsNotTold(t *testing.T) {
	for _, overlap := range []time.Duration{0, 10 * time.Second, 3 * askEvery} {
		t.Run(overlap.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := newStore()
				before := &Bucket{Store: store, Key: "client", Limit: 300}
				stop := start(t, before)
				if err := before.Wait(t.Context()); err != nil {
					t.Fatal(err)
				}
				now := &Bucket{Store: store, Key: "client"}
				start(t, now)
				for range overlap / time.Second {
					time.Sleep(time.Second)
					if err := before.Wait(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				stop()
				if err := now.Wait(t.Context()); err != nil {
					t.Fatal(err)
				}
				time.Sleep(askEvery + changeWithin)
				state, err := now.Read(t.Context())
				if err != nil || state.Outlook(time.Now()).Limit != 0 {
					t.Errorf("%+v, %v", state, err)
				}
			})
		})
	}
}

func TestProcessesThatAreSetToDifferentLimitsSaySoOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newStore()
		var said bytes.Buffer
		a := &Bucket{Store: store, Key: "client", Limit: 300, Name: "a", Log: zerolog.New(zerolog.SyncWriter(&said))}
		b := &Bucket{Store: store, Key: "client", Limit: 600, Name: "b"}
		stopA := start(t, a)
		start(t, b)
		for range 20 {
			for _, bucket := range []*Bucket{a, b} {
				if err := bucket.Wait(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
		}
		synctest.Wait()
		stopA()
		if n := strings.Count(said.String(), "set to another limit"); n != 1 {
			t.Errorf("said %d times:\n%s", n, said.String())
		}
	})
}
