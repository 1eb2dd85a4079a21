package ratelimit

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"skillsync/queue"
)

func TestNoStoreNoGrantsAndRecoveryByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		var down atomic.Bool
		store := newStore()
		store.fault = func(string) fault {
			if down.Load() {
				return []fault{refused, hangs}[time.Now().UnixNano()&1]
			}
			return works
		}
		b := &Bucket{Store: store, Key: "client", Limit: 300, Log: zerolog.New(&log)}
		stop := start(t, b)
		if err := b.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		down.Store(true)
		held := asked(t.Context(), b)
		time.Sleep(time.Hour)
		waiting(t, held)
		if !b.Snapshot().Unreachable {
			t.Error("the snapshot does not show the outage")
		}
		down.Store(false)
		time.Sleep(4 * time.Second)
		if err := answered(t, held); err != nil {
			t.Fatal(err)
		}
		if b.Snapshot().Unreachable {
			t.Error("the snapshot still shows an outage")
		}
		stop()
		if n := strings.Count(log.String(), "does not answer"); n != 1 {
			t.Errorf("the outage was logged %d times:\n%s", n, &log)
		}
		if n := strings.Count(log.String(), "answers again"); n != 1 {
			t.Errorf("its end was logged %d times", n)
		}
	})
}

func TestASwapWithoutAnAnswerCostsSlotsButNeverRepeatsThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newStore()
		lose := true
		store.fault = func(op string) fault {
			if op == "update" && lose {
				lose = false
				return replyLost
			}
			return works
		}
		b := &Bucket{Store: store, Key: "client", Limit: 60}
		began := time.Now()
		start(t, b)
		if err := b.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := time.Since(began); got < b.pace.interval {
			t.Fatalf("granted after %s: the slot whose answer was lost was used", got)
		}
	})
}

func TestADamagedKeyIsStartedAgainWithoutABurst(t *testing.T) {
	for _, damage := range []string{"garbage", `{"schema":1,"tat":"2000-01-01T01:00:00Z","epoch":9}`, "deleted"} {
		t.Run(damage, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := newStore()
				b := &Bucket{Store: store, Key: "client", Limit: 300}
				start(t, b)
				time.Sleep(time.Second)
				if err := b.Wait(t.Context()); err != nil {
					t.Fatal(err)
				}
				time.Sleep(10 * time.Second)
				if damage == "deleted" {
					store.delete()
				} else {
					store.put(damage)
				}
				synctest.Wait()
				began := time.Now()
				for i := range 5 {
					if err := b.Wait(t.Context()); err != nil {
						t.Fatal(err)
					}
					if got, least := time.Since(began), time.Duration(i)*b.pace.interval; got < least || got > least+time.Second {
						t.Fatalf("grant %d after %s, want %s", i, got, least)
					}
				}
				if b.Snapshot().Repairs != 1 {
					t.Errorf("%d repairs counted", b.Snapshot().Repairs)
				}
				store.state(t) // it can be read again
			})
		})
	}
}

func TestDamageDoesNotMakeTheFleetForgetWhatItKnows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newStore()
		b := &Bucket{Store: store, Key: "client", Limit: 300}
		start(t, b)
		if err := b.Throttled(t.Context(), 30*time.Second, "429"); err != nil {
			t.Fatal(err)
		}
		before := store.state(t)
		store.put("garbage")
		held := asked(t.Context(), b)
		time.Sleep(29 * time.Second)
		waiting(t, held)
		time.Sleep(3 * time.Second)
		if err := answered(t, held); err != nil {
			t.Fatal(err)
		}
		if after := store.state(t); after.Factor != before.Factor || !after.PausedUntil.Equal(before.PausedUntil) || after.Epoch == before.Epoch {
			t.Fatalf("repaired to %+v, it was %+v", after, before)
		}
	})
}

func TestAPauseOfAYearHoldsNobodyUp(t *testing.T) {
	for _, limit := range []int{0, 300} {
		synctest.Test(t, func(t *testing.T) {
			store := newStore()
			b := &Bucket{Store: store, Key: "client", Limit: limit}
			start(t, b)
			synctest.Wait()
			store.put(`{"schema":1,"tat":"2000-01-01T00:00:00Z","paused_until":"2001-01-01T00:00:00Z","epoch":9}`)
			synctest.Wait()
			if err := answered(t, asked(t.Context(), b)); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestStoppingWaitsForTheStoreAndIsNoOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		store := &slowToHangUp{fakeStore: newStore()}
		b := &Bucket{Store: store, Key: "client", Limit: 300, Log: zerolog.New(&log)}
		stop := start(t, b)
		held := asked(t.Context(), b)
		waiting(t, held)
		if store.calls.Load() != 1 {
			t.Fatal("the store was not asked")
		}
		stop()
		if n := store.calls.Load(); n != 0 {
			t.Errorf("%d calls go on after the end", n)
		}
		if err := answered(t, held); !errors.Is(err, ErrStopped) {
			t.Error(err)
		}
		if log.Len() > 0 {
			t.Errorf("logged %s", &log)
		}
	})
}

// slowToHangUp is a store that notices only after a while that its caller has gone.
type slowToHangUp struct {
	*fakeStore
	calls atomic.Int32
}

func (s *slowToHangUp) Get(ctx context.Context, _ string) (queue.Entry, error) {
	s.calls.Add(1)
	defer s.calls.Add(-1)
	<-ctx.Done()
	time.Sleep(3 * time.Second)
	return queue.Entry{}, ctx.Err()
}

// The answer to a call may be older than what the watch brought while it was on its way.
func TestNewsOvertakesAnswers(t *testing.T) {
	news := queue.Entry{Revision: 7, Value: []byte(`{"schema":1,"tat":"2026-01-01T00:00:00Z","epoch":7}`)}
	store := &overtaken{fakeStore: newStore()}
	b := &Bucket{Store: store, Key: "client", Limit: 300}
	b.setup()
	b.phase = running
	store.overtake = func() { b.learn(news) }

	store.put(`{"schema":1,"tat":"2026-01-01T00:00:00Z","epoch":1}`)
	if got, err := b.current(t.Context()); err != nil || got.Epoch != 7 {
		t.Errorf("after a read it goes by %+v, %v", got, err)
	}
	b.shared = shared{rev: 1, known: true}
	if err := b.swap(t.Context(), State{Epoch: 2}, 1); err != nil || b.shared.Epoch != 7 {
		t.Errorf("after a swap it goes by %+v, %v", b.shared, err)
	}
}

type overtaken struct {
	*fakeStore
	overtake func()
}

func (s *overtaken) Get(ctx context.Context, key string) (queue.Entry, error) {
	defer s.overtake()
	return s.fakeStore.Get(ctx, key)
}

func (s *overtaken) Update(ctx context.Context, key string, value []byte, revision uint64) (uint64, error) {
	defer s.overtake()
	return s.fakeStore.Update(ctx, key, value, revision)
}

func TestAKeyOfANewerReleaseIsNotTouched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newStore()
		store.put(`{"schema":2}`)
		b := &Bucket{Store: store, Key: "client", Limit: 300}
		start(t, b)
		held := asked(t.Context(), b)
		time.Sleep(time.Minute)
		waiting(t, held)
		if store.swaps() != 0 {
			t.Error("overwritten")
		}
		if err := b.Pause(t.Context(), time.Second, ""); !errors.Is(err, errNewer) {
			t.Errorf("pause: %v", err)
		}
	})
}

func TestTheBucketGoesByTheBrokersTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newStore()
		const ahead = 3 * time.Hour
		b := &Bucket{Store: store, Key: "client", Limit: 300, Clock: func(context.Context) (time.Time, error) {
			return time.Now().Add(ahead), nil
		}}
		start(t, b)
		if err := b.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := b.Snapshot().Offset; got != ahead {
			t.Errorf("offset %s", got)
		}
		if got := time.Until(store.state(t).TAT); got < ahead || got > ahead+time.Second {
			t.Errorf("timestamp %s ahead of the local clock", got)
		}
	})
}

func TestWithoutTheBrokersTimeNothingIsGranted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var known atomic.Bool
		b := &Bucket{Store: newStore(), Key: "client", Limit: 300, Clock: func(context.Context) (time.Time, error) {
			if known.Load() {
				return time.Now(), nil
			}
			return time.Time{}, errDown
		}}
		start(t, b)
		held := asked(t.Context(), b)
		time.Sleep(time.Minute)
		waiting(t, held)
		known.Store(true)
		time.Sleep(3 * time.Second)
		if err := answered(t, held); err != nil {
			t.Fatal(err)
		}
	})
}

func TestSlotsInHandAreVoidWhenTheBrokersClockIsSetBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var back atomic.Int64
		store := newStore()
		b := &Bucket{Store: store, Key: "client", Limit: 10, Clock: func(context.Context) (time.Time, error) {
			return time.Now().Add(-time.Duration(back.Load())), nil
		}}
		start(t, b)
		if err := b.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(58 * time.Second)
		if err := b.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		held := asked(t.Context(), b) // its slot is 6 s away, the clock is set in 2
		back.Store(int64(5 * time.Hour))
		time.Sleep(20 * time.Second)
		if err := answered(t, held); err != nil {
			t.Fatal(err)
		}
	})
}

func TestAClockThatFellBehindIsMovedUpByWhatTheBrokerWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newStore()
		b := &Bucket{Store: store, Key: "client", Limit: 300, Clock: func(context.Context) (time.Time, error) {
			return time.Now().Add(-10 * time.Minute), nil // as after a suspension
		}}
		start(t, b)
		synctest.Wait()
		store.put(`{"schema":1,"tat":"1999-01-01T00:00:00Z","epoch":1}`)
		synctest.Wait()
		if got := b.Snapshot().Offset; got != 0 {
			t.Fatalf("offset %s", got)
		}
	})
}

func TestAWatchThatEndsIsTakenUpAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &brokenWatch{fakeStore: newStore()}
		b := &Bucket{Store: store, Key: "client"}
		start(t, b)
		synctest.Wait()
		if err := (&Bucket{Store: store, Key: "client"}).Pause(t.Context(), 50*time.Second, ""); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		held := asked(t.Context(), b)
		waiting(t, held)
		time.Sleep(time.Minute)
		if err := answered(t, held); err != nil {
			t.Fatal(err)
		}
	})
}

func TestSlotsFromBeforeARepairAreVoid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newStore()
		a := &Bucket{Store: store, Key: "client", Limit: 10}
		b := &Bucket{Store: store, Key: "client", Limit: 10}
		start(t, a)
		start(t, b)
		if err := a.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		held := asked(t.Context(), a) // it has a slot, six seconds away
		time.Sleep(3 * time.Second)
		store.put(`{"schema":1,"tat":"2000-01-01T05:00:00Z","epoch":1}`)
		synctest.Wait()
		if err := b.Wait(t.Context()); err != nil { // begins anew, now
			t.Fatal(err)
		}
		time.Sleep(a.pace.interval - time.Second)
		waiting(t, held)
		time.Sleep(2 * time.Second)
		if err := answered(t, held); err != nil {
			t.Fatal(err)
		}
	})
}

func TestAPauseFoundOnlyByASwapEndsWithItsResumption(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &blindWatch{fakeStore: newStore(), see: make(chan struct{})}
		b := &Bucket{Store: store, Key: "client", Limit: 300}
		operator := &Bucket{Store: store, Key: "client", Limit: 300}
		start(t, b)
		if err := b.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := operator.Pause(t.Context(), 40*time.Second, "maintenance"); err != nil {
			t.Fatal(err)
		}
		held := asked(t.Context(), b)
		time.Sleep(time.Second)
		waiting(t, held)
		if n := b.Snapshot().Conflicts; n != 1 {
			t.Errorf("%d conflicts counted", n)
		}
		close(store.see)
		if err := operator.Resume(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if err := answered(t, held); err != nil {
			t.Fatal(err)
		}
	})
}

// blindWatch is a store whose watch shows nothing for a while.
type blindWatch struct {
	*fakeStore
	see chan struct{}
}

func (s *blindWatch) Watch(ctx context.Context, key string, changed func(queue.Entry)) error {
	select {
	case <-s.see:
		return s.fakeStore.Watch(ctx, key, changed)
	case <-ctx.Done():
		return ctx.Err()
	}
}

func TestOldNewsIsNotLearned(t *testing.T) {
	b := &Bucket{Key: "client", Limit: 300}
	b.setup()
	b.learn(queue.Entry{Revision: 5, Value: []byte(`{"schema":1,"epoch":5}`)})
	b.learn(queue.Entry{Revision: 4, Value: []byte(`{"schema":1,"epoch":4}`)})
	if b.shared.Epoch != 5 || b.shared.rev != 5 {
		t.Fatalf("goes by %+v", b.shared)
	}
}

// brokenWatch is a store whose first watch fails.
type brokenWatch struct {
	*fakeStore
	failed bool
}

func (s *brokenWatch) Watch(ctx context.Context, key string, changed func(queue.Entry)) error {
	if !s.failed {
		s.failed = true
		return errDown
	}
	return s.fakeStore.Watch(ctx, key, changed)
}
