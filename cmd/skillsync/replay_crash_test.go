package main

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"skillsync/queue"
)

func TestAReplayWhoseProcessIsKilledGoesOnWhereItWas(t *testing.T) {
	if !longTests() {
		t.Skip("it waits until a dead process has lost its replay: set SKILLSYNC_LONG_TESTS=1")
	}
	t.Parallel()
	const n = 3000
	server, b := startBroker(t, queue.Topology{})
	fillDead(t, server.URL(), n)
	env := []string{"NATS_URL=" + server.URL()}
	replays, err := b.Replays(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	published := func(name string, least uint64) queue.Replay {
		t.Helper()
		for began := time.Now(); ; {
			r, err := replays.Get(t.Context(), name)
			if err == nil && r.Published >= least {
				return r
			}
			if time.Since(began) > time.Minute {
				t.Fatalf("%+v, %v", r, err)
			}
		}
	}
	p := start(t, env, "dlq", "replay", "--all", "--yes", "--name=crash", "--rate=500/s")
	published("crash", 500)
	p.signal(syscall.SIGKILL)
	p.end(10 * time.Second)

	p = start(t, env, "dlq", "replays", "resume", "crash")
	p.await("seeing whether the process that ran it is still there")
	published("crash", 1500)
	_, errs, code := call(t, env, "", "dlq", "replays", "resume", "crash") // one that lives keeps it
	if code != exitFailed || !strings.Contains(errs, "another process runs this replay; pause it first") {
		t.Errorf("resumed a second time: exit code %d\n%s", code, errs)
	}
	p.signal(syscall.SIGTERM)
	if code := p.end(10 * time.Second); code != exitFailed || !strings.Contains(p.output(), "skillsync dlq replays resume crash") {
		t.Errorf("interrupted: exit code %d\n%s", code, p.output())
	}
	out, errs, code := call(t, env, "", "dlq", "replays", "resume", "crash")
	if code != 0 || !strings.Contains(out, "3000 replayed") {
		t.Errorf("in the end: exit code %d\n%s%s", code, out, errs)
	}
	status, err := b.Status(t.Context())
	if err != nil || status.Waiting != n || len(status.Dead) != 0 {
		t.Errorf("%d records are in the queue, and dead letters %v (%v)", status.Waiting, status.Dead, err)
	}
	q, err := b.Queue(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	for left := n; left > 0; {
		count, err := q.Fetch(t.Context(), min(left, 1000), time.Second, func(d *queue.Delivery) { seen[d.Subject]++ })
		if err != nil || count == 0 {
			t.Fatalf("%d records are missing, %v", left, err)
		}
		left -= count
	}
	for subject, times := range seen {
		if times != 1 {
			t.Errorf("%s was published %d times", subject, times)
		}
	}
}
