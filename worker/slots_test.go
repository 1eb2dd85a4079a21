package worker

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// Two bounds, each by itself: records on their way to the patch, and records held. What waits for
// skills to appear does not keep others from starting, until as many are held as may be.
func TestNoMoreRecordsStartOrAreHeldThanAllowed(t *testing.T) {
	inBubble(t, func(b *bench) {
		var waiting, patched atomic.Int64
		grants := make(chan struct{})
		b.org.onPatch = func(ctx context.Context, _ string) error {
			waiting.Add(1)
			defer waiting.Add(-1)
			select {
			case <-grants:
				patched.Add(1)
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		w := b.worker("w")
		w.Starting, w.InFlight = 2, 5
		w.Provisioner.Settle = time.Minute
		defer b.start(w)()
		for i := range 12 {
			b.publish("E"+string(rune('A'+i)), "a")
		}
		want := func(wantWaiting, wantPatched int64) {
			t.Helper()
			time.Sleep(5 * time.Second) // a fetch lasts a second at most
			synctest.Wait()
			if waiting.Load() != wantWaiting || patched.Load() != wantPatched {
				t.Errorf("%d wait for their patch and %d are patched, want %d and %d", waiting.Load(), patched.Load(), wantWaiting, wantPatched)
			}
		}
		want(2, 0)
		grants <- struct{}{}
		want(2, 1) // one more has started in its place
		grants <- struct{}{}
		grants <- struct{}{}
		want(2, 3) // five are held
		grants <- struct{}{}
		grants <- struct{}{}
		want(0, 5) // and five it stays until the first is verified
		close(grants)
		b.settle(10 * time.Minute)
		b.wantOutcomes(map[string]int{"verified": 12})
	})
}
