package ratelimit

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// journal notes when requests reached the org, and whose they were.
type journal struct {
	mu      sync.Mutex
	arrived []time.Time
	by      map[int][]time.Time
	calm    time.Time // since when all is well
	rate    float64   // what was allowed a minute then
}

const calmFor = 3 * time.Minute

func (j *journal) note(process int, at time.Time) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.by == nil {
		j.by = map[int][]time.Time{}
	}
	j.arrived = append(j.arrived, at)
	j.by[process] = append(j.by[process], at)
}

func (j *journal) count() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.arrived)
}

// hungry calls Wait again and again until ctx ends; every request is up to 50 ms on its way.
func hungry(ctx context.Context, b *Bucket, process int, j *journal) {
	for b.Wait(ctx) == nil {
		j.note(process, time.Now().Add(rand.N(50*time.Millisecond)))
	}
}

func TestAFleetKeepsTheLimitUsesItAndSharesItFairly(t *testing.T) {
	tests := []struct{ processes, callers, limit int }{
		{1, 64, 60},
		{1, 64, 300},
		{4, 64, 60},
		{4, 16, 300},
		{16, 64, 300},
		{4, 64, 3000},
		{16, 64, 3000},
		{4, 512, 100_000},
	}
	for _, test := range tests {
		t.Run(fmt.Sprintf("%d processes at %d a minute", test.processes, test.limit), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := newStore()
				store.latency = func() time.Duration { return rand.N(3 * time.Millisecond) }
				ctx, cancel := context.WithCancel(t.Context())
				var j journal
				var callers sync.WaitGroup
				stops := make([]func(), test.processes)
				for i := range test.processes {
					b := &Bucket{Store: store, Key: "client", Limit: test.limit}
					stops[i] = start(t, b)
					for range test.callers {
						callers.Go(func() { hungry(ctx, b, i, &j) })
					}
				}
				span := 3 * time.Minute
				if test.limit > 10_000 {
					span = 20 * time.Second // a hundred thousand grants would take too long
				}
				time.Sleep(span)
				cancel()
				callers.Wait()
				for _, stop := range stops {
					stop()
				}
				if most := maxInWindow(j.arrived); float64(most) > float64(test.limit)*min(1, span.Minutes()) {
					t.Errorf("%d requests in one minute, or in %s", most, span)
				}
				if used := float64(len(j.arrived)) / (float64(test.limit) * span.Minutes()); used < .95 {
					t.Errorf("only %.1f %% of the limit used", 100*used)
				}
				fair := float64(len(j.arrived)) / float64(test.processes)
				for i := range test.processes {
					if share := float64(len(j.by[i])) / fair; share < .7 || share > 1.3 {
						t.Errorf("process %d got %.2f of its fair share", i, share)
					}
				}
			})
		})
	}
}

// check runs a property that takes its time n times, unless the command line asks for another number.
func check(t *testing.T, n int, property func(*rapid.T)) {
	checks := flag.Lookup("rapid.checks")
	if checks.Value.String() == checks.DefValue {
		defer func() { _ = checks.Value.Set(checks.DefValue) }()
		_ = checks.Value.Set(strconv.Itoa(n))
	}
	rapid.Check(t, property)
}

// A storm is what one run of the property test suffers.
type storm struct {
	limit     int
	processes int
	skew      []time.Duration // of each process's idea of the broker's time
	latency   time.Duration
	faults    []fault // of the calls to the store, over and over
	events    []event
}

// An event happens after a while, to one process.
type event struct {
	after   time.Duration
	what    string
	process int
	d       time.Duration
}

func someStorm(t *rapid.T, events ...string) storm {
	s := storm{
		limit:     rapid.SampledFrom([]int{1, 10, 60, 300}).Draw(t, "limit"),
		processes: rapid.IntRange(1, 5).Draw(t, "processes"),
		latency:   time.Duration(rapid.IntRange(0, 300).Draw(t, "latency ms")) * time.Millisecond,
		faults: rapid.SliceOfN(rapid.SampledFrom([]fault{
			works, works, works, works, refused, replyLost, hangs,
		}), 1, 30).Draw(t, "faults"),
	}
	s.faults = append(s.faults, works)
	for range s.processes {
		s.skew = append(s.skew, time.Duration(rapid.IntRange(-40, 40).Draw(t, "skew ms"))*time.Millisecond)
	}
	s.events = rapid.SliceOfN(rapid.Custom(func(t *rapid.T) event {
		return event{
			after:   time.Duration(rapid.IntRange(0, 20_000).Draw(t, "after ms")) * time.Millisecond,
			what:    rapid.SampledFrom(events).Draw(t, "what"),
			process: rapid.IntRange(0, s.processes-1).Draw(t, "process"),
			d:       time.Duration(rapid.IntRange(0, 30).Draw(t, "seconds")) * time.Second,
		}
	}), 0, 12).Draw(t, "events")
	return s
}

// Whatever happens, no minute sees more than the limit; and when all is well again, the limit is
// used again.
func TestNoStormMakesTheFleetExceedTheLimitOrStopForGood(t *testing.T) {
	check(t, 25, func(rt *rapid.T) {
		s := someStorm(rt, "crash", "outage", "throttled", "pause", "resume")
		var j *journal
		synctest.Test(t, func(t *testing.T) { j = s.rage(t) })
		if most := maxInWindow(slices.Clone(j.arrived)); most > s.limit {
			rt.Fatalf("%d requests in one minute, the limit is %d", most, s.limit)
		}
		j.checkRecovery(rt, s.limit)
	})
}

// Slots that were out when the key was damaged may be given out again. Even so no process sends
// more than the limit by itself, and the fleet finds its way back.
func TestADamagedKeyMakesNoProcessExceedTheLimit(t *testing.T) {
	check(t, 25, func(rt *rapid.T) {
		s := someStorm(rt, "damage", "delete", "set back", "outage", "pause")
		var j *journal
		synctest.Test(t, func(t *testing.T) { j = s.rage(t) })
		for i, own := range j.by {
			if most := maxInWindow(slices.Clone(own)); most > s.limit {
				rt.Fatalf("process %d sent %d requests in one minute, the limit is %d", i, most, s.limit)
			}
		}
		j.checkRecovery(rt, s.limit)
	})
}

// checkRecovery looks at the calm after the storm.
func (j *journal) checkRecovery(t *rapid.T, limit int) {
	end := j.calm.Add(calmFor)
	calm := slices.DeleteFunc(slices.Clone(j.arrived), func(at time.Time) bool {
		return at.Before(j.calm) || !at.Before(end)
	})
	if want := .95*j.rate*calmFor.Minutes() - 1; float64(len(calm)) < want {
		t.Fatalf("%d requests in calm weather, want %.1f", len(calm), want)
	}
	if most := maxInWindow(calm); most > limit {
		t.Fatalf("in calm weather %d requests in one minute, the limit is %d", most, limit)
	}
}

func (s storm) rage(t *testing.T) *journal {
	store := newStore()
	var calm, down atomic.Bool
	var calls atomic.Int64
	store.latency = func() time.Duration {
		if calm.Load() {
			return rand.N(3 * time.Millisecond)
		}
		return rand.N(s.latency + 1)
	}
	store.fault = func(op string) fault {
		switch {
		case calm.Load():
			return works
		case down.Load():
			return refused
		}
		return s.faults[int(calls.Add(1))%len(s.faults)]
	}

	ctx, cancel := context.WithCancel(t.Context())
	var j journal
	var callers sync.WaitGroup
	buckets, stops := make([]*Bucket, s.processes), make([]func(), s.processes)
	launch := func(i int) {
		life, die := context.WithCancel(ctx)
		b := &Bucket{Store: store, Key: "client", Limit: s.limit, Clock: func(context.Context) (time.Time, error) {
			return time.Now().Add(s.skew[i]), nil
		}}
		done := start(t, b)
		buckets[i], stops[i] = b, func() { die(); done() }
		for range 20 {
			callers.Go(func() {
				for life.Err() == nil {
					hungry(life, b, i, &j) // ends with a long pause, too
					sleep(life, time.Second)
				}
			})
		}
	}
	for i := range s.processes {
		launch(i)
	}
	for _, e := range s.events {
		time.Sleep(e.after)
		switch e.what {
		case "crash":
			stops[e.process]()
			launch(e.process)
		case "outage":
			down.Store(true)
			time.Sleep(e.d)
			down.Store(false)
		case "throttled":
			_ = buckets[e.process].Throttled(ctx, e.d, "429")
		case "pause":
			_ = buckets[e.process].Pause(ctx, 3*e.d, "operator")
		case "resume":
			_ = buckets[e.process].Resume(ctx)
		case "damage":
			store.put("garbage")
		case "set back":
			store.put(`{"schema":1,"tat":"1999-01-01T00:00:00Z","epoch":1}`)
		case "delete":
			store.delete()
		}
	}
	calm.Store(true)
	_ = buckets[0].Resume(ctx)
	time.Sleep(2 * time.Minute) // a refusal may be some minutes ago: the rate is still climbing
	j.calm, j.rate = time.Now(), buckets[0].Snapshot().Allowed
	time.Sleep(calmFor)
	cancel()
	callers.Wait()
	for _, stop := range stops {
		stop()
	}
	return &j
}
