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
	if raceEnabled {
		t.Skip("the race detector has memory of its own; .ci/run runs this test without it")
	}
	const few = 1_000
	many := 10_000
	if longTests() {
		many = 100_000
	}
	published, worked := map[int]float64{}, map[int]float64{}
	for _, n := range []int{few, many} {
		url := child(t, "broker", nil)
		g := newGround(t, url, child(t, "sandbox", orgOf{Users: n, Right: n, Instant: true}))
		took, peak := publishFile(t, url, csvFile(t, n))
		published[n] = peak
		t.Logf("publish: %d rows in %s, %.0f rows/s, peak %.1f MiB", n, took.Round(time.Millisecond), float64(n)/took.Seconds(), peak)
		g.purge()
		g.store(1, n, mix{each: 1})
		start := time.Now()
		w := g.worker(0, mix{})
		g.emptied()
		worked[n] = fleetUsage(t, []*os.Process{w}).peakMiB
		t.Logf("worker: %d records in %s, %.0f records/s, peak %.1f MiB", n, time.Since(start).Round(time.Millisecond), float64(n)/time.Since(start).Seconds(), worked[n])
	}
	for what, peak := range map[string]map[int]float64{"publish": published, "worker": worked} {
		if ratio := peak[many] / peak[few]; ratio > 1.3 {
			t.Errorf("%s: %.1f MiB for %d, %.1f MiB for %d: %.2f times as much", what, peak[few], few, peak[many], many, ratio)
		}
	}
}
