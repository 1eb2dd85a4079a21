package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// start runs b until the test, or stop, ends it. It must be called in a bubble.
func start(t testing.TB, b *Bucket) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// idleKey is a store whose bucket has its burst.
func idleKey() *fakeStore {
	f := newStore()
	f.put(`{"schema":1,"tat":"1999-01-01T00:00:00Z","epoch":1}`)
	return f
}

// asked calls Wait in its own goroutine.
func asked(ctx context.Context, b *Bucket) <-chan error {
	answer := make(chan error, 1)
	go func() { answer <- b.Wait(ctx) }()
	return answer
}

func answered(t *testing.T, answer <-chan error) error {
	t.Helper()
	synctest.Wait()
	select {
	case err := <-answer:
		return err
	default:
		t.Fatal("still waiting")
		return nil
	}
}

func waiting(t *testing.T, answer <-chan error) {
	t.Helper()
	synctest.Wait()
	select {
	case err := <-answer:
		t.Fatalf("answered with %v, want it to wait", err)
	default:
	}
}

func TestGrantsComeInTheOrderOfAsking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &Bucket{Store: newStore(), Key: "client", Limit: 60}
		var mu sync.Mutex
		var order []int
		var callers sync.WaitGroup
		for i := range 10 {
			callers.Go(func() {
				if err := b.Wait(t.Context()); err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				order = append(order, i)
			})
			synctest.Wait() // it has taken its place
		}
		start(t, b)
		callers.Wait()
		if got := fmt.Sprint(order); got != "[0 1 2 3 4 5 6 7 8 9]" {
			t.Fatalf("granted in the order %s", got)
		}
	})
}

func TestAnIdleBucketGrantsItsBurstAtOnceThenKeepsPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &Bucket{Store: idleKey(), Key: "client", Limit: 300}
		start(t, b)
		synctest.Wait()
		began := time.Now()
		for i := range 20 {
			if err := b.Wait(t.Context()); err != nil {
				t.Fatal(err)
			}
			want := time.Duration(max(0, i-4)) * b.pace.interval
			if got := time.Since(began); got < want || got > want+time.Millisecond {
				t.Fatalf("grant %d after %s, want %s", i, got, want)
			}
		}
	})
}

func TestOneSwapServesManyWaiters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newStore()
		store.latency = func() time.Duration { return 2 * time.Millisecond }
		b := &Bucket{Store: store, Key: "client", Limit: 100_000}
		start(t, b)
		var callers sync.WaitGroup
		began := time.Now()
		const n = 5000
		for range n {
			callers.Go(func() {
				if err := b.Wait(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		callers.Wait()
		if took, ideal := time.Since(began), n*b.pace.interval; took > ideal*105/100 {
			t.Errorf("took %s, %s would be the full rate", took, ideal)
		}
		if swaps := store.swaps(); swaps > 20 {
			t.Errorf("%d swaps for %d grants", swaps, n)
		}
	})
}

func TestNothingIsGrantedBeforeRunOrAfterIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, limit := range []int{0, 300} {
			b := &Bucket{Store: newStore(), Key: "client", Limit: limit}
			early := asked(t.Context(), b)
			time.Sleep(time.Minute)
			waiting(t, early)
			stop := start(t, b)
			if err := answered(t, early); err != nil {
				t.Fatal(err)
			}
			if err := b.Pause(t.Context(), 30*time.Second, "test"); err != nil {
				t.Fatal(err)
			}
			held := asked(t.Context(), b)
			waiting(t, held)
			stop()
			if err := answered(t, held); !errors.Is(err, ErrStopped) {
				t.Fatalf("limit %d: a caller held at the end got %v", limit, err)
			}
			if err := b.Wait(t.Context()); !errors.Is(err, ErrStopped) {
				t.Fatalf("limit %d: a caller after the end got %v", limit, err)
			}
			if err := b.Run(t.Context()); err == nil {
				t.Fatal("ran a second time")
			}
		}
	})
}

func TestACallerWhoGaveUpLeavesItsPlaceToTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &Bucket{Store: newStore(), Key: "client", Limit: 60}
		start(t, b)
		if err := b.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		cause := errors.New("had enough")
		ctx, cancel := context.WithCancelCause(t.Context())
		first, second := asked(ctx, b), (<-chan error)(nil)
		synctest.Wait()
		second = asked(t.Context(), b)
		synctest.Wait()
		cancel(cause)
		if err := answered(t, first); !errors.Is(err, cause) {
			t.Fatalf("got %v, want the cause", err)
		}
		time.Sleep(b.pace.interval)
		if err := answered(t, second); err != nil {
			t.Fatal(err)
		}
		if s := b.Snapshot(); s.Granted != 2 || s.Lost != 0 || s.Waiting != 0 {
			t.Fatalf("snapshot %+v", s)
		}
	})
}

func TestAGrantThatCrossesACancellationGoesToTheNext(t *testing.T) {
	b := &Bucket{Key: "client", Limit: 60}
	first, _ := b.enqueue()
	second, _ := b.enqueue()
	b.mu.Lock()
	b.grant()
	b.mu.Unlock()
	b.leave(first)
	if len(second.answer) != 1 {
		t.Fatal("the next one did not get it")
	}
	b.leave(second) // nobody is left: now it is lost
	if s := b.Snapshot(); s.Granted != 0 || s.Lost != 1 {
		t.Fatalf("snapshot %+v", s)
	}
}

func TestSlotsNobodyUsesInTimeAreLostNotSaved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &Bucket{Store: newStore(), Key: "client", Limit: 300}
		start(t, b)
		ctx, cancel := context.WithCancel(t.Context())
		var crowd []<-chan error
		for range 3 {
			crowd = append(crowd, asked(ctx, b))
		}
		synctest.Wait()
		cancel()
		for _, c := range crowd {
			<-c
		}
		time.Sleep(maxLate + time.Second)
		began, granted := time.Now(), 0
		for time.Since(began) == 0 {
			if err := b.Wait(t.Context()); err != nil {
				t.Fatal(err)
			}
			granted++
		}
		if granted > b.pace.burst+1 {
			t.Errorf("%d grants at once after a rest; the burst is %d", granted, b.pace.burst)
		}
		if b.Snapshot().Lost == 0 {
			t.Error("no slot counted as lost")
		}
	})
}

func TestAPauseHoldsEveryProcessAndIsResumedAtPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newStore()
		a := &Bucket{Store: store, Key: "client", Limit: 300, Name: "a"}
		b := &Bucket{Store: store, Key: "client", Limit: 300, Name: "b"}
		start(t, a)
		start(t, b)
		var callers sync.WaitGroup
		var mu sync.Mutex
		var grants []time.Time
		for _, bucket := range []*Bucket{a, b} {
			for range 30 {
				callers.Go(func() {
					if err := bucket.Wait(t.Context()); err != nil {
						t.Error(err)
					}
					mu.Lock()
					defer mu.Unlock()
					grants = append(grants, time.Now())
				})
			}
		}
		time.Sleep(2 * time.Second)
		began := time.Now()
		if err := a.Pause(t.Context(), 20*time.Second, "org says\nwait"); err != nil {
			t.Fatal(err)
		}
		until := store.state(t).PausedUntil
		if got := until.Sub(began); got < 20*time.Second || got > 21*time.Second {
			t.Fatalf("paused for %s, want 20 s up to the next full second", got)
		}
		synctest.Wait()
		if s := b.Snapshot(); !s.PausedUntil.Equal(until) || s.Reason != "org says wait" {
			t.Fatalf("the other process has not learned of the pause: %+v", s)
		}
		callers.Wait()
		atOnce := 0
		for _, g := range grants {
			switch {
			case g.After(began) && g.Before(until):
				t.Errorf("granted %s into the pause", g.Sub(began))
			case !g.Before(until) && g.Sub(until) < a.pace.interval:
				atOnce++
			}
		}
		if atOnce != 1 {
			t.Errorf("%d grants in the first interval after the pause, want 1", atOnce)
		}
	})
}

func TestAPauseTooLongToSitOutIsAnError(t *testing.T) {
	for _, limit := range []int{0, 300} {
		t.Run(fmt.Sprintf("limit %d", limit), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &Bucket{Store: newStore(), Key: "client", Limit: limit, MaxWait: 10 * time.Second}
				start(t, b)
				if err := b.Pause(t.Context(), 5*time.Second, "short"); err != nil {
					t.Fatal(err)
				}
				held := asked(t.Context(), b)
				waiting(t, held)
				if err := b.Pause(t.Context(), 30*time.Second, "long"); err != nil {
					t.Fatal(err)
				}
				for _, err := range []error{answered(t, held), b.Wait(t.Context())} {
					var paused *PausedError
					if !errors.As(err, &paused) || paused.Reason != "long" || time.Until(paused.Until) < 30*time.Second {
						t.Fatalf("got %v, want the long pause", err)
					}
					if !strings.HasPrefix(paused.Error(), "rate limit: paused until 2000-01-01T00:00:3") {
						t.Fatal(paused)
					}
				}
				time.Sleep(21 * time.Second)
				rest := asked(t.Context(), b)
				waiting(t, rest)
				time.Sleep(10 * time.Second)
				if err := answered(t, rest); err != nil {
					t.Fatal(err)
				}
			})
		})
	}
}

func TestResumeEndsAPauseForAll(t *testing.T) {
	for _, limit := range []int{0, 300} {
		t.Run(fmt.Sprintf("limit %d", limit), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := newStore()
				b := &Bucket{Store: store, Key: "client", Limit: limit}
				operator := &Bucket{Store: store, Key: "client", Limit: limit} // never runs
				start(t, b)
				if err := operator.Pause(t.Context(), 40*time.Second, "maintenance"); err != nil {
					t.Fatal(err)
				}
				synctest.Wait() // the other has learned
				held := asked(t.Context(), b)
				waiting(t, held)
				if err := operator.Resume(t.Context()); err != nil {
					t.Fatal(err)
				}
				if err := answered(t, held); err != nil {
					t.Fatal(err)
				}
				state, err := operator.Read(t.Context())
				if err != nil || state.PausedUntil.After(time.Now()) || state.Reason != "" {
					t.Fatalf("state %+v, %v", state, err)
				}
			})
		})
	}
}

func TestTheEndOfAPauseIsToldOnceWhetherItComesInTimeOrBefore(t *testing.T) {
	for _, limit := range []int{300, 0} {
		synctest.Test(t, func(t *testing.T) {
			store := newStore()
			told := 0
			b := &Bucket{Store: store, Key: "client", Limit: limit, Resumed: func() { told++ }}
			start(t, b)
			want := func(n int) {
				t.Helper()
				synctest.Wait()
				if told != n {
					t.Fatalf("limit %d: told %d times, want %d", limit, told, n)
				}
			}
			want(0)
			for n := range 2 {
				if err := b.Pause(t.Context(), 10*time.Minute, ""); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Minute)
				want(2 * n)
				if err := b.Resume(t.Context()); err != nil {
					t.Fatal(err)
				}
				want(2*n + 1)
				if err := b.Pause(t.Context(), time.Minute, ""); err != nil {
					t.Fatal(err)
				}
				time.Sleep(2 * time.Minute)
				want(2*n + 2)
			}
		})
	}
}

func TestWithoutALimitNothingIsWrittenAndPausesAreLearned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newStore()
		b := &Bucket{Store: store, Key: "client"}
		start(t, b)
		for range 1000 {
			if err := b.Wait(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if s := b.Snapshot(); store.swaps() != 0 || s.Granted != 1000 || s.Allowed != 0 {
			t.Fatalf("%d swaps, snapshot %+v", store.swaps(), s)
		}
		other := &Bucket{Store: store, Key: "client"}
		if err := other.Throttled(t.Context(), 3*time.Second, "429"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // it has learned
		held := asked(t.Context(), b)
		waiting(t, held)
		time.Sleep(4 * time.Second)
		if err := answered(t, held); err != nil {
			t.Fatal(err)
		}
		if !b.open.Load() {
			t.Error("the short way stayed shut after the pause")
		}
	})
}

func TestAProcessThatStartsDuringAPauseKeepsToIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newStore()
		if err := (&Bucket{Store: store, Key: "client"}).Pause(t.Context(), 30*time.Second, "test"); err != nil {
			t.Fatal(err)
		}
		for _, limit := range []int{0, 60} {
			b := &Bucket{Store: store, Key: "client", Limit: limit}
			start(t, b)
			waiting(t, asked(t.Context(), b))
		}
		time.Sleep(time.Minute) // the callers end
	})
}

func TestManyRefusalsOfOneMomentAreOneSurprise(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newStore()
		store.latency = func() time.Duration { return time.Millisecond }
		fleet := make([]*Bucket, 4)
		for i := range fleet {
			fleet[i] = &Bucket{Store: store, Key: "client", Limit: 300}
			start(t, fleet[i])
		}
		time.Sleep(time.Second)
		before := store.swaps()
		var refusals sync.WaitGroup
		for i := range 64 {
			refusals.Go(func() {
				if err := fleet[i%4].Throttled(t.Context(), 2*time.Second, "429"); err != nil {
					t.Error(err)
				}
			})
		}
		refusals.Wait()
		s := store.state(t)
		if s.Factor != .7 {
			t.Errorf("factor %v after one surprise", s.Factor)
		}
		if swaps := store.swaps() - before; swaps > 8 {
			t.Errorf("%d swaps for one pause", swaps)
		}
		synctest.Wait()
		for _, b := range fleet {
			if got := b.Snapshot().Allowed; got < 202 || got > 203 {
				t.Errorf("%f a minute allowed, want 70 %% of 289", got)
			}
		}
	})
}
