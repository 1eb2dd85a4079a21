package worker

import (
	"context"
	"sync/atomic"
	"testing"
	"time"
)

func TestALongWaitKeepsTheLease(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.org.onPatch = func(context.Context, string) error {
			time.Sleep(5 * time.Minute) // the budget is dry
			return nil
		}
		defer b.start(b.worker("w1"))()
		defer b.start(b.worker("w2"))()
		b.publish("E1", "a")
		b.settle(10 * time.Minute)
		b.wantOutcomes(map[string]int{"verified": 1})
		if n := b.org.patched("E1"); n != 1 {
			t.Errorf("%d patches", n)
		}
	})
}

func TestARecordHeldForTooLongIsGivenBackWithItsAttempt(t *testing.T) {
	inBubble(t, func(b *bench) {
		var stuck atomic.Bool
		stuck.Store(true)
		b.org.onPatch = func(ctx context.Context, _ string) error {
			if !stuck.Load() {
				return nil
			}
			<-ctx.Done()
			return ctx.Err()
		}
		w := b.worker("w")
		w.Hold = time.Minute
		defer b.start(w)()
		b.publish("E1", "a")
		time.Sleep(10 * time.Minute)
		stuck.Store(false)
		b.settle(3 * time.Minute)
		b.wantOutcomes(map[string]int{"verified": 1})
		if r := b.queue.Results()[0]; r.Attempt != 1 {
			t.Errorf("verified at attempt %d; waiting must not spend any", r.Attempt)
		}
	})
}

func TestADrainGivesUnpatchedRecordsBackAtOnceAndLetsPatchedOnesFinish(t *testing.T) {
	inBubble(t, func(b *bench) {
		hold := make(chan struct{})
		b.org.onPatch = func(ctx context.Context, user string) error {
			if user != "user-of-WAITS" {
				return nil
			}
			select { // like a request that waits for the budget
			case <-hold:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		stop := b.start(b.worker("w1"))
		b.publish("PATCHED", "a")
		b.publish("WAITS", "a")
		time.Sleep(time.Second)
		if b.org.patched("PATCHED") != 1 {
			t.Fatal("not patched yet")
		}
		began := time.Now()
		stop()
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("the drain took %s; the settle time is 3 s", took)
		}
		if got := b.outcomes(); got["verified"] != 1 || b.queue.Waiting() != 1 {
			t.Errorf("after the drain: %v, %d waiting", got, b.queue.Waiting())
		}
		close(hold)
		defer b.start(b.worker("w2"))()
		b.settle(5 * time.Second) // at once: not after a lease or a claim lapsed
		b.wantOutcomes(map[string]int{"verified": 2})
		if r := b.queue.Results()[1]; r.Attempt != 1 {
			t.Errorf("the shutdown spent an attempt: verified at %d", r.Attempt)
		}
	})
}

func TestWhatIsNotVerifiedWithinTheGraceGoesBackAndIsNotPatchedAgain(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.org.lag = 50 * time.Second
		w := b.worker("w1")
		w.Grace = 10 * time.Second
		stop := b.start(w)
		b.publish("E1", "a")
		time.Sleep(5 * time.Second)
		began := time.Now()
		stop()
		if took := time.Since(began); took > w.Grace+time.Second {
			t.Errorf("the drain took %s of %s", took, w.Grace)
		}
		defer b.start(b.worker("w2"))()
		b.settle(time.Minute)
		b.wantOutcomes(map[string]int{"verified": 1})
		if n := b.org.patched("E1"); n != 1 {
			t.Errorf("%d patches", n)
		}
	})
}
