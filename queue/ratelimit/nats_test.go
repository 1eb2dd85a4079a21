package ratelimit

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"skillsync/queue"
	"skillsync/queue/queuetest"
)

// The one test against a real broker: four processes' worth of clients, each with its own
// connection, and a limit high enough for a few seconds to say something.
func TestFourProcessesShareOneKeyOfARealBroker(t *testing.T) {
	const (
		processes = 4
		limit     = 60_000
		grants    = 2000 // two seconds' worth, and what was waited for already
	)
	broker := queuetest.Run(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var (
		j       journal
		running sync.WaitGroup
		callers sync.WaitGroup
		b       *Bucket
	)
	began := time.Now()
	for i := range processes {
		own := queuetest.Connect(t, broker.URL())
		kv, err := own.KV(t.Context(), queue.LimitsBucket)
		if err != nil {
			t.Fatal(err)
		}
		b = &Bucket{Store: kv, Key: "client", Limit: limit, Clock: own.Now}
		bucket := b
		running.Go(func() {
			if err := bucket.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		for range 64 {
			callers.Go(func() {
				for j.count() < grants && bucket.Wait(ctx) == nil {
					j.note(i, time.Now())
				}
			})
		}
	}
	callers.Wait()
	took := time.Since(began)
	if err := b.Pause(t.Context(), time.Minute, "enough"); err != nil {
		t.Fatal(err)
	}
	cancel()
	running.Wait()

	// Grants may be late but never early: the i'th is at its slot or after. The clocks of the
	// processes may differ by as much as a few answers of the broker take.
	const clocks = 50 * time.Millisecond
	slices.SortFunc(j.arrived, time.Time.Compare)
	for i, at := range j.arrived {
		if early := time.Duration(i-b.pace.burst)*b.pace.interval - at.Sub(began); early > clocks {
			t.Fatalf("grant %d came %s before its slot", i, early)
		}
	}
	for i := range processes {
		if share := len(j.by[i]); share < grants/processes/3 {
			t.Errorf("process %d got only %d of %d", i, share, grants)
		}
	}
	ideal := time.Duration(len(j.arrived)) * b.pace.interval
	t.Logf("%d grants in %s, %.1f %% of the pace; last process: %+v", len(j.arrived), took.Round(time.Millisecond), 100*ideal.Seconds()/took.Seconds(), b.Snapshot())
	if took > 3*ideal { // a busy machine is slower, a bucket that does not work much more so
		t.Errorf("took %s, want about %s", took, ideal)
	}
}
