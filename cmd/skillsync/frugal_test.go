package main

import (
	"os"
	"testing"
	"time"
)

// longTests tells whether tests are to be as large as the promise they are for, which takes
// minutes: .ci/run sets the variable.
func longTests() bool { return os.Getenv("SKILLSYNC_LONG_TESTS") != "" }

// What a publisher or a worker needs does not depend on how long the file or the queue is.
func TestMemoryGrowsNeitherWithTheFileNorWithTheBacklog(t *testing.T) {
	t.Parallel()
	if raceEnabled {
		t.Skip("the race detector has memory of its own; .ci/run runs this test without it")
	}
	const few, most = 1_000, 1.3
	many := 10_000
	if longTests() {
		many = 100_000
	}
	peaks := func(n int) (published, worked float64) {
		url := child(t, "broker", nil)
		g := newGround(t, url, child(t, "sandbox", orgOf{Users: n, Right: n, Instant: true}))
		took, published := publishFile(t, url, csvFile(t, n))
		t.Logf("publish: %d rows in %s, %.0f rows/s, peak %.1f MiB", n, took.Round(time.Millisecond), float64(n)/took.Seconds(), published)
		g.purge()
		g.store(1, n, mix{each: 1})
		start := time.Now()
		w := g.worker(0, mix{})
		g.emptied()
		worked = fleetUsage(t, []*os.Process{w}).peakMiB
		t.Logf("worker: %d records in %s, %.0f records/s, peak %.1f MiB", n, time.Since(start).Round(time.Millisecond), float64(n)/time.Since(start).Seconds(), worked)
		return published, worked
	}
	grown := func() (publish, worker float64) {
		p1, w1 := peaks(few)
		p2, w2 := peaks(many)
		return p2 / p1, w2 / w1
	}
	publish, worker := grown()
	if max(publish, worker) > most { // garbage piles up while a machine stands still; what is kept is there again
		publish, worker = grown()
	}
	if max(publish, worker) > most {
		t.Errorf("%d instead of %d: publish takes %.2f times the memory, worker %.2f times; want %.1f at most", many, few, publish, worker, most)
	}
}

// What the platform's limit makes scarce, measured at worker processes: a changed record costs one
// request and its share of the batched reads, an unchanged one that share, one that the ledger
// knows nothing; and a fleet uses its limit, without ever being refused.
func TestAFleetSparesRequestsAndUsesItsLimit(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector takes the time that a fleet would use its limit in; .ci/run runs this test without it")
	}
	t.Parallel()
	const limit, many = 3000, 3000
	few := 600 // twelve seconds: the burst at the beginning counts too much to tell the share
	if longTests() {
		few = many
	}
	for _, test := range []struct {
		mix     mix
		records int
		most    float64 // requests a record
	}{
		{mix{name: "changed", changed: 1, each: 1}, few, 1.05},
		{mix{name: "unchanged", each: 1}, many, .02},
		{mix{name: "known", each: 1, known: true}, many, 0},
		{mix{name: "each employee three times", changed: 1, each: 3}, few, 1.1 / 3},
	} {
		t.Run(test.mix.name, func(t *testing.T) {
			f := measureFleet(t, limit, 2, test.records, test.mix)
			t.Logf("%d records in %s, %.3f requests each, %.1f %% of the limit", test.records, f.took.Round(time.Millisecond), f.perRecord(), 100*f.share(limit))
			if f.perRecord() > test.most {
				t.Errorf("%.3f requests a record, want %.3f at most", f.perRecord(), test.most)
			}
			if f.refused > 0 || f.maxWindow > limit {
				t.Errorf("%d refused, %d requests in 60 s; the limit is %d", f.refused, f.maxWindow, limit)
			}
			if f.took > 30*time.Second && f.share(limit) < .95 {
				t.Errorf("only %.1f %% of the limit used", 100*f.share(limit))
			}
		})
	}
}
