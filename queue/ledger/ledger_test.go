package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"skillsync/queue"
	"skillsync/queue/queuetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const key = "EMP-8842"

func open(store Store, worker string) *Ledger {
	return &Ledger{Store: store, Worker: worker, Target: "org"}
}

// A watched is a claim, and lost is closed when it is.
type watched struct {
	*Claim
	lost chan struct{}
}

func mustClaim(t testing.TB, l *Ledger, v Version, delivered int) watched {
	t.Helper()
	lost := make(chan struct{})
	c, err := l.Claim(t.Context(), Request{Key: key, Version: v, Delivered: delivered, OnLost: func() { close(lost) }})
	if err != nil {
		t.Fatal(err)
	}
	return watched{c, lost}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func stored(t testing.TB, store Store) entry {
	t.Helper()
	got, err := store.Get(t.Context(), key)
	must(t, err)
	e, err := decode(key, got.Value)
	must(t, err)
	return e
}

func TestWhatIsClosedIsKnownToTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := queuetest.NewKV()
		a, b := open(store, "a"), open(store, "b")
		first := mustClaim(t, a, at(1), 1)
		if first.Attempt != 1 || first.UserID != "" || first.Digest != "" || first.PatchedDigest != "" || !first.First.IsZero() {
			t.Fatalf("a first claim knows something: %+v", first)
		}
		first.SetUser("user-1")
		must(t, first.Patched(t.Context(), "d1"))
		verified := time.Now()
		must(t, first.Close(t.Context(), "verified", "d1", verified))

		second := mustClaim(t, b, at(2), 1)
		if second.UserID != "user-1" || second.Digest != "d1" || !second.VerifiedAt.Equal(verified) || second.PatchedDigest != "" {
			t.Fatalf("the next claim knows %+v", second)
		}
		must(t, second.Release(t.Context(), false, false))
		var settled *SettledError
		if _, err := b.Claim(t.Context(), Request{Key: key, Version: at(1), Delivered: 2}); !errors.As(err, &settled) || settled.Outcome != "verified" {
			t.Fatalf("claiming it again: %v", err)
		}
	})
}

func TestAnAttemptThatPatchedNeedsOnlyVerifyTheNextTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := queuetest.NewKV()
		l := open(store, "a")
		c := mustClaim(t, l, at(1), 1)
		must(t, c.Patched(t.Context(), "d1"))
		failed := time.Now()
		must(t, c.Release(t.Context(), false, true))
		time.Sleep(time.Minute)
		again := mustClaim(t, l, at(1), 2)
		if again.PatchedDigest != "d1" || again.Attempt != 2 || !again.First.Equal(failed) {
			t.Fatalf("second attempt knows %+v", again)
		}
		must(t, again.Release(t.Context(), false, true))
		if _, err := l.Claim(t.Context(), Request{Key: key, Version: numbered(1, 0), Delivered: 1}); !errors.Is(err, ErrSuperseded) {
			t.Fatalf("an older record: %v", err)
		}
	})
}

func TestARefundGivesTheAttemptBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := open(queuetest.NewKV(), "a")
		for delivered, refund := range []bool{true, false, true, true, false} {
			must(t, mustClaim(t, l, at(1), delivered+1).Release(t.Context(), refund, false))
		}
		if c := mustClaim(t, l, at(1), 6); c.Attempt != 3 {
			t.Fatalf("attempt %d after two that count", c.Attempt)
		}
	})
}

func TestEveryAttemptThatCountsLeavesItsNote(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := queuetest.NewKV()
		l := open(store, "a")
		claim := func(delivered int, notes string) watched {
			t.Helper()
			c := mustClaim(t, l, at(1), delivered)
			if got := texts(c.Notes); got != notes {
				t.Errorf("delivery %d finds the notes %s, want %s", delivered, got, notes)
			}
			return c
		}
		c := claim(1, "[]")
		c.SetNote(json.RawMessage(`"one"`))
		must(t, c.Release(t.Context(), false, false))

		c = claim(2, `["one"]`)
		c.SetNote(json.RawMessage(`"refunded"`))
		must(t, c.Release(t.Context(), true, false))

		claim(3, `["one"]`) // its worker dies
		time.Sleep(time.Minute)

		c = claim(4, `["one"]`)
		c.SetNote(json.RawMessage(`"four"`))
		c.SetNote(long(MaxNote + 1))
		c.SetNote(json.RawMessage(`no JSON`))
		must(t, c.Extend(t.Context()))
		if notes := texts(stored(t, store).Tries[0].Notes); notes != `["one"]` {
			t.Errorf("noted before the attempt has ended: %s", notes)
		}
		must(t, c.Release(t.Context(), false, true))

		c = claim(5, `["one" "four"]`)
		c.SetNote(json.RawMessage(`"five"`))
		must(t, c.Dead(t.Context(), json.RawMessage(`{}`), true))
		var dead *DeadError
		if _, err := l.Claim(t.Context(), Request{Key: key, Version: at(1), Delivered: 6}); !errors.As(err, &dead) || texts(dead.Notes) != `["one" "four" "five"]` {
			t.Errorf("the dead letter has %v", err)
		}
		replay, err := l.Claim(t.Context(), Request{Key: key, Version: at(1), Replays: 1, Delivered: 1})
		if err != nil || len(replay.Notes) != 0 {
			t.Errorf("its replay begins with %v, %v", replay, err)
		}
	})
}

func TestANoteIsWrittenOnceThoughAnswersAreLost(t *testing.T) {
	for _, fault := range []queuetest.Fault{queuetest.Before, queuetest.After, queuetest.Conflict} {
		synctest.Test(t, func(t *testing.T) {
			store := queuetest.NewKV()
			l := open(store, "a")
			c := mustClaim(t, l, at(1), 1)
			c.SetNote(json.RawMessage(`"one"`))
			store.Fail(queuetest.Update, fault, fault)
			must(t, c.Release(t.Context(), false, false))
			if notes := texts(mustClaim(t, l, at(1), 2).Notes); notes != `["one"]` {
				t.Errorf("fault %d: %s", fault, notes)
			}
		})
	}
}

func TestALookTellsWhatAClaimWouldAndChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := queuetest.NewKV()
		l := open(store, "a")
		look := func(v Version, replays int) (State, error) {
			return l.Look(t.Context(), Request{Key: key, Version: v, Replays: replays})
		}
		if s, err := look(at(1), 0); err != nil || s != (State{}) {
			t.Errorf("of nobody: %+v, %v", s, err)
		}
		must(t, mustClaim(t, l, at(2), 1).Dead(t.Context(), json.RawMessage(`{}`), false))
		c := mustClaim(t, l, at(3), 1)
		c.SetUser("user-1")
		must(t, c.Close(t.Context(), "verified", "d", time.Now()))
		want := State{UserID: "user-1", Digest: "d", VerifiedAt: stored(t, store).VerifiedAt}

		held := mustClaim(t, l, at(4), 1) // and works on the employee
		writes := store.Updates()
		if s, err := look(at(4), 0); err != nil || s != want {
			t.Errorf("of a newer record: %+v, %v", s, err)
		}
		if _, err := look(at(2), 1); !errors.Is(err, ErrSuperseded) {
			t.Errorf("of an older one: %v", err)
		}
		var settled *SettledError
		if _, err := look(at(3), 0); !errors.As(err, &settled) {
			t.Errorf("of one that was closed: %v", err)
		}
		var dead *DeadError
		if _, err := look(at(2), 0); !errors.As(err, &dead) {
			t.Errorf("of a dead one: %v", err)
		}
		if n := store.Updates(); n != writes {
			t.Errorf("%d writes", n-writes)
		}
		must(t, held.Patched(t.Context(), "d2"))
		if s, err := look(at(5), 0); err != nil || !s.Doubtful || s.Digest != "" {
			t.Errorf("of one after a patch that nobody has seen yet: %+v, %v", s, err)
		}
		must(t, held.Release(t.Context(), true, true))

		store.Down(true)
		if _, err := look(at(5), 0); !errors.Is(err, queue.ErrUnreachable) {
			t.Errorf("without a store: %v", err)
		}
		store.Down(false)
		if _, err := store.Update(t.Context(), "DAMAGED", []byte("garbage"), 0); err != nil {
			t.Fatal(err)
		}
		if _, err := l.Look(t.Context(), Request{Key: "DAMAGED"}); !errors.Is(err, ErrDamaged) {
			t.Errorf("of a damaged entry: %v", err)
		}
	})
}

func TestADeadMarkOutlivesAReleaseAndANewerRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := open(queuetest.NewKV(), "a")
		must(t, mustClaim(t, l, at(1), 1).Dead(t.Context(), json.RawMessage(`{"reason":"user_not_found"}`), false))
		must(t, mustClaim(t, l, at(2), 1).Close(t.Context(), "verified", "d", time.Now()))
		var dead *DeadError
		_, err := l.Claim(t.Context(), Request{Key: key, Version: at(1), Delivered: 2})
		if !errors.As(err, &dead) || string(dead.Failure) != `{"reason":"user_not_found"}` {
			t.Fatalf("claiming a dead letter: %v", err)
		}
	})
}

func TestAFailureThatIsTooBigOrNoJSONIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := mustClaim(t, open(queuetest.NewKV(), "a"), at(1), 1)
		for _, failure := range []string{`"` + strings.Repeat("x", MaxFailure) + `"`, `not json`, ``} {
			if err := c.Dead(t.Context(), json.RawMessage(failure), false); err == nil {
				t.Errorf("took a failure of %d bytes", len(failure))
			}
		}
		must(t, c.Dead(t.Context(), json.RawMessage(`{}`), false)) // the claim is still good
	})
}

func TestAClaimIsHeldWhileItIsExtendedAndRunsOutOtherwise(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := queuetest.NewKV()
		a, b := open(store, "a"), open(store, "b")
		held := mustClaim(t, a, at(1), 1)
		other := Request{Key: key, Version: at(2), Delivered: 1}
		for range 10 {
			time.Sleep(40 * time.Second)
			must(t, held.Extend(t.Context()))
			var busy *BusyError
			if _, err := b.Claim(t.Context(), other); !errors.As(err, &busy) || time.Until(busy.Until) != time.Minute {
				t.Fatalf("claiming what is held: %v", err)
			}
		}
		time.Sleep(55 * time.Second)
		synctest.Wait()
		select {
		case <-held.lost:
			t.Fatal("lost before its time")
		default:
		}
		time.Sleep(4 * time.Second)
		<-held.lost // while the others still have to wait
		var busy *BusyError
		if _, err := b.Claim(t.Context(), other); !errors.As(err, &busy) {
			t.Fatalf("claiming what has nearly run out: %v", err)
		}
		time.Sleep(time.Second)
		if _, err := b.Claim(t.Context(), other); err != nil {
			t.Fatalf("claiming what has run out: %v", err)
		}
		for what, err := range map[string]error{
			"extend":  held.Extend(t.Context()),
			"patched": held.Patched(t.Context(), "d"),
			"close":   held.Close(t.Context(), "verified", "d", time.Now()),
			"dead":    held.Dead(t.Context(), json.RawMessage(`{}`), false),
			"release": held.Release(t.Context(), true, false),
		} {
			if !errors.Is(err, ErrLost) {
				t.Errorf("%s with a lost claim: %v", what, err)
			}
		}
	})
}

func TestAClaimTakenOverIsFoundLostAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := queuetest.NewKV()
		old := mustClaim(t, open(store, "a"), at(1), 1)
		mustClaim(t, open(store, "b"), at(1), 2)
		if err := old.Extend(t.Context()); !errors.Is(err, ErrLost) {
			t.Fatal(err)
		}
		<-old.lost
	})
}

func TestAnEndedClaimCannotBeUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := queuetest.NewKV()
		c := mustClaim(t, open(store, "a"), at(1), 1)
		must(t, c.Close(t.Context(), "verified", "d", time.Now()))
		writes := store.Updates()
		if err := c.Release(t.Context(), true, false); !errors.Is(err, errOver) {
			t.Errorf("released after its end: %v", err)
		}
		must(t, c.Extend(t.Context())) // the extender may come a moment late
		if store.Updates() != writes {
			t.Error("something was written")
		}
		time.Sleep(time.Hour)
		select {
		case <-c.lost:
			t.Error("a claim that ended was lost")
		default:
		}
	})
}

func TestAnEntryOfAnotherOrgIsAsGoodAsNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := queuetest.NewKV()
		l := open(store, "a")
		c := mustClaim(t, l, at(7), 1)
		c.SetUser("user-1")
		must(t, c.Close(t.Context(), "verified", "d", time.Now()))
		other := &Ledger{Store: store, Worker: "b", Target: "another org"}
		moved := mustClaim(t, other, at(3), 1)
		if moved.UserID != "" || moved.Digest != "" {
			t.Fatalf("knows of another org's user: %+v", moved)
		}
		must(t, moved.Close(t.Context(), "verified", "d3", time.Now()))
		if e := stored(t, store); e.Target != "another org" || e.Fence.Order.Seq != 3 {
			t.Fatalf("stored %+v", e)
		}
	})
}

func TestADisturbedStateIsNotTakenForUnchanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := queuetest.NewKV()
		l := open(store, "a")
		must(t, l.Disturb(t.Context(), key)) // of nothing
		if store.Updates() != 0 {
			t.Error("wrote an entry for nobody")
		}
		must(t, mustClaim(t, l, at(1), 1).Close(t.Context(), "verified", "d", time.Now()))
		must(t, l.Disturb(t.Context(), key))
		must(t, l.Disturb(t.Context(), key))
		c := mustClaim(t, l, at(2), 1)
		if c.Digest != "" {
			t.Fatal("the digest still stands")
		}

		// While somebody holds the employee: he keeps it, but what he closes does not count as verified.
		must(t, c.Patched(t.Context(), "d2"))
		must(t, open(store, "b").Disturb(t.Context(), key))
		must(t, c.Close(t.Context(), "verified", "d2", time.Now()))
		if e := stored(t, store); e.Digest != "" || e.Settled.Outcome != "verified" {
			t.Fatalf("stored %+v", e)
		}
	})
}

func TestADamagedEntryIsAnErrorThatNamesItsKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := queuetest.NewKV()
		if _, err := store.Update(t.Context(), key, []byte("garbage"), 0); err != nil {
			t.Fatal(err)
		}
		l := open(store, "a")
		began := time.Now()
		_, err := l.Claim(t.Context(), Request{Key: key, Version: at(1), Delivered: 1})
		if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), key) || time.Since(began) != 0 {
			t.Fatalf("after %s: %v", time.Since(began), err)
		}
		if store.Updates() != 1 {
			t.Error("overwritten")
		}
	})
}

func TestAWriteWhoseAnswerWasLostIsRecognised(t *testing.T) {
	uses := map[string]func(context.Context, *Claim) error{
		"extend":  func(ctx context.Context, c *Claim) error { return c.Extend(ctx) },
		"patched": func(ctx context.Context, c *Claim) error { return c.Patched(ctx, "d") },
		"close":   func(ctx context.Context, c *Claim) error { return c.Close(ctx, "verified", "d", time.Now()) },
		"dead":    func(ctx context.Context, c *Claim) error { return c.Dead(ctx, json.RawMessage(`{}`), true) },
		"release": func(ctx context.Context, c *Claim) error { return c.Release(ctx, false, false) },
	}
	for _, fault := range []queuetest.Fault{queuetest.Before, queuetest.After, queuetest.Conflict} {
		t.Run(fmt.Sprintf("claim, fault %d", fault), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := queuetest.NewKV()
				store.Fail(queuetest.Update, fault)
				c := mustClaim(t, open(store, "a"), at(1), 1)
				if c.Attempt != 1 {
					t.Errorf("attempt %d", c.Attempt)
				}
				must(t, c.Close(t.Context(), "verified", "d", time.Now()))
			})
		})
		for name, use := range uses {
			t.Run(fmt.Sprintf("%s, fault %d", name, fault), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					store := queuetest.NewKV()
					c := mustClaim(t, open(store, "a"), at(1), 1)
					store.Fail(queuetest.Update, fault)
					store.Fail(queuetest.Get, queuetest.Before)
					must(t, use(t.Context(), c.Claim))
					if n := store.Planned(queuetest.Update) + store.Planned(queuetest.Get); n != 0 {
						t.Errorf("%d faults were not met", n)
					}
				})
			})
		}
	}
}

func TestAClaimThatNobodyGotCostsNoAttempt(t *testing.T) {
	for name, version := range map[string]Version{"the same record": at(1), "a newer record": at(2)} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := &silent{KV: queuetest.NewKV()}
				l := open(store, "a")
				for delivered := range 3 {
					ctx, cancel := context.WithCancel(t.Context())
					store.leave = cancel
					if _, err := l.Claim(ctx, Request{Key: key, Version: at(1), Delivered: delivered + 1}); !errors.Is(err, queue.ErrUnreachable) {
						t.Fatalf("got %v", err)
					}
					if stored(t, store).Claim == nil {
						t.Fatal("the claim was not stored")
					}
				}
				store.leave = nil
				c := mustClaim(t, l, version, 4)
				if c.Attempt != 1 || !c.First.IsZero() {
					t.Fatalf("attempt %d, first failed at %s", c.Attempt, c.First)
				}
				if e := stored(t, store); e.Fence != nil || len(e.Tries) != 1 {
					t.Fatalf("something is left of it: %+v", e)
				}
			})
		})
	}
}

func TestAClaimIsRecognisedThoughSomebodyWroteAfterIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &silent{KV: queuetest.NewKV()}
		store.leave = func() {
			store.leave = nil
			must(t, open(store, "b").Disturb(t.Context(), key))
		}
		c := mustClaim(t, open(store, "a"), at(1), 1)
		if c.Attempt != 1 {
			t.Fatalf("attempt %d", c.Attempt)
		}
		must(t, c.Close(t.Context(), "verified", "d", time.Now()))
	})
}

// silent stores, but its caller is gone before the answer comes.
type silent struct {
	*queuetest.KV
	leave func()
}

func (s *silent) Update(ctx context.Context, key string, value []byte, revision uint64) (uint64, error) {
	now, err := s.KV.Update(ctx, key, value, revision)
	if leave := s.leave; leave != nil {
		leave()
		return 0, queue.ErrUnreachable
	}
	return now, err
}

func TestAReplicaThatIsBehindIsNotBelieved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &lagging{KV: queuetest.NewKV()}
		c := mustClaim(t, open(store, "a"), at(1), 1)
		must(t, c.Patched(t.Context(), "d"))
		store.behind = 3
		store.Fail(queuetest.Update, queuetest.Before)
		must(t, c.Extend(t.Context()))
		if store.behind != 0 {
			t.Error("the lagging replica was not asked")
		}
	})
}

// lagging answers the next few reads as if nothing had been written yet.
type lagging struct {
	*queuetest.KV
	behind int
}

func (s *lagging) Get(ctx context.Context, key string) (queue.Entry, error) {
	if s.behind > 0 {
		s.behind--
		return queue.Entry{}, queue.ErrNotFound
	}
	return s.KV.Get(ctx, key)
}

func TestAStoreThatStaysDownIsAnErrorAndAtLastALostClaim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := queuetest.NewKV()
		l := open(store, "a")
		c := mustClaim(t, l, at(1), 1)
		store.Down(true)
		if _, err := l.Claim(t.Context(), Request{Key: "EMP-2", Version: at(2), Delivered: 1}); !errors.Is(err, queue.ErrUnreachable) {
			t.Fatalf("claim: %v", err)
		}
		if err := c.Extend(t.Context()); errors.Is(err, ErrLost) || !errors.Is(err, queue.ErrUnreachable) {
			t.Fatalf("extend within its time: %v", err)
		}
		time.Sleep(time.Minute)
		if err := c.Extend(t.Context()); !errors.Is(err, ErrLost) {
			t.Fatalf("extend after its time: %v", err)
		}
		store.Down(false)
		must(t, c.Close(t.Context(), "verified", "d", time.Now())) // nobody was quicker: the swap proves it
	})
}

func TestTwoWorkersThatClaimAtOnceAreOneAfterTheOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := queuetest.NewKV()
		a, b := open(store, "a"), open(store, "b")
		conflicts := 0
		a.Conflict = func() { conflicts++ }
		var rival *Claim
		store.Hook = func(op queuetest.Op, _ string) {
			if op == queuetest.Update && rival == nil {
				store.Hook = nil
				rival = mustClaim(t, b, at(2), 1).Claim
			}
		}
		var busy *BusyError
		if _, err := a.Claim(t.Context(), Request{Key: key, Version: at(1), Delivered: 1}); !errors.As(err, &busy) {
			t.Fatalf("the slower one got %v", err)
		}
		if conflicts != 1 {
			t.Errorf("%d conflicts were told of, want 1", conflicts)
		}
		must(t, rival.Close(t.Context(), "verified", "d", time.Now()))
		if _, err := a.Claim(t.Context(), Request{Key: key, Version: at(1), Delivered: 2}); !errors.Is(err, ErrSuperseded) {
			t.Fatalf("then it got %v", err)
		}
	})
}

func TestTheBrokersClockDecidesWhatHasRunOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := queuetest.NewKV()
		late := open(store, "late")
		late.Now = func() time.Time { return time.Now().Add(-time.Hour) }
		c := mustClaim(t, late, at(1), 1)
		c.SetUser("u")
		if got := stored(t, store).Claim.Until; !got.Equal(late.Now().Add(time.Minute)) {
			t.Fatalf("claimed until %s", got)
		}
		if _, err := open(store, "b").Claim(t.Context(), Request{Key: key, Version: at(2), Delivered: 1}); err != nil {
			t.Fatal(err)
		}
	})
}

// BenchmarkRecord is all that the ledger does for one record that goes well.
func BenchmarkRecord(b *testing.B) {
	l := open(queuetest.NewKV(), "a")
	for i := 0; b.Loop(); i++ {
		c, err := l.Claim(b.Context(), Request{Key: key, Version: at(uint64(i)), Delivered: 1})
		if err == nil {
			err = errors.Join(c.Patched(b.Context(), "digest"), c.Close(b.Context(), "verified", "digest", time.Now()))
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}
