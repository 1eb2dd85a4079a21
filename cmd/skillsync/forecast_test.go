package main

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"skillsync/cmd/skillsync/desk"
	"skillsync/genesys/sandbox"
	"skillsync/queue"
	"skillsync/queue/ratelimit"
)

func TestForesee(t *testing.T) {
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	limited := ratelimit.Outlook{Limit: 300, Allowed: 289, Used: 280}
	paused := limited
	paused.PausedUntil = now.Add(10 * time.Minute)
	over := limited
	over.PausedUntil = now.Add(-10 * time.Minute)
	tests := []struct {
		name             string
		backlog, settled uint64
		span             time.Duration
		budget           ratelimit.Outlook
		want             string // records a minute, measured, left
	}{
		{"nothing waits", 0, 100, time.Minute, limited, "100 true 0s"},
		{"as fast as lately", 12_000, 300, time.Minute, limited, "300 true 40m0s"},
		{"unchanged records are done faster than the limit", 12_000, 3000, 30 * time.Second, limited, "6000 true 2m0s"},
		{"too short a time to tell", 2890, 4, 2 * time.Second, limited, "275 false 10m30s"},
		{"nothing settled yet", 2890, 0, time.Minute, limited, "275 false 10m30s"},
		{"a pause comes on top", 2890, 0, time.Minute, paused, "275 false 20m30s"},
		{"a pause that is over does not", 2890, 0, time.Minute, over, "275 false 10m30s"},
		{"no limit, measured", 2000, 1000, time.Minute, ratelimit.Outlook{}, "1000 true 2m0s"},
		{"no limit, no worker", 5, 0, time.Minute, ratelimit.Outlook{}, "0 false forever"},
		{"more than anybody waits for", math.MaxUint64, 1, time.Minute, limited, "1 true forever"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := desk.Foresee(test.backlog, test.settled, test.span, test.budget, now)
			left := f.Left.String()
			if f.Left == desk.Forever {
				left = "forever"
			}
			if got := fmt.Sprintf("%.0f %t %s", f.PerMinute, f.Measured, left); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

func TestUsefulWorkers(t *testing.T) {
	perWorker := perWorkerMinute(1536, 64, 3*time.Second) // the defaults
	if perWorker != 64*60 {
		t.Errorf("a worker is good for %.0f requests a minute", perWorker)
	}
	tests := []struct {
		name     string
		backlog  uint64
		allowed  float64
		inFlight int
		want     int
	}{
		{"nothing to do", 0, 289, 1536, 0},
		{"one record", 1, 289, 1536, 1},
		{"a million records at the platform's limit", 1_000_000, 289, 1536, 1},
		{"at ten times the limit", 1_000_000, 2935, 1536, 1},
		{"at a limit that takes two", 1_000_000, 5875, 1536, 2},
		{"a high limit and little to do", 100, 100_000, 1536, 1},
		{"without a limit, no more than may hold a record", 1_000_000, 0, 1536, 3},
		{"nor more than are done within a minute", 4000, 0, 64, 2},
	}
	for _, test := range tests {
		if got := usefulWorkers(test.backlog, test.allowed, perWorker, test.inFlight); got != test.want {
			t.Errorf("%s: %d, want %d", test.name, got, test.want)
		}
	}
}

func TestTheObserverTellsTheBacklogAndWhoIsUseful(t *testing.T) {
	_, b := startBroker(t, queue.Topology{})
	bucket := &ratelimit.Bucket{Limit: 300}
	reg := prometheus.NewRegistry()
	o := newObserver(reg, observer{broker: b, bucket: bucket, inFlight: 1536, perWorker: 3840})
	want := func(records, seconds, useful float64) { // seconds to within ten: this test takes time, too
		t.Helper()
		if err := o.look(t.Context()); err != nil {
			t.Fatal(err)
		}
		got := gauges(t, reg)
		if got["skillsync_backlog_records"] != records || math.Abs(got["skillsync_backlog_seconds"]-seconds) > 10 || got["skillsync_useful_workers"] != useful {
			t.Errorf("metrics %v, want %.0f records, %.0f s, %.0f workers", got, records, seconds, useful)
		}
	}
	want(0, 0, 0)
	p := queue.Publisher{Broker: b}
	for i := range 550 {
		if err := p.Send(t.Context(), queue.Message{EmployeeID: fmt.Sprint(i), Data: []byte("{}")}, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	want(550, 120, 1) // at 289 a minute, and 1.05 requests each

	q, err := b.Queue(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := q.Fetch(t.Context(), 50, time.Second, func(d *queue.Delivery) {
		if err := d.Ack(t.Context(), queue.Result{EmployeeID: "1", Outcome: queue.OutcomeUnchanged}); err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	o.samples[0].at = o.samples[0].at.Add(-10 * time.Second) // as if it had looked ten seconds ago
	want(500, 100, 1)                                        // 50 in ten seconds, and ten times as many are left

	n, first, err := b.Settled(t.Context(), time.Now().Add(-time.Minute))
	if err != nil || n != 50 || time.Since(first) > time.Minute {
		t.Errorf("%d settled in the last minute, since %s, %v", n, first, err)
	}
	if n, _, err := b.Settled(t.Context(), time.Now().Add(time.Minute)); err != nil || n != 0 {
		t.Errorf("%d settled in the future, %v", n, err)
	}
}

func TestSamplesOfAStreamThatWasMadeAnewAreForgotten(t *testing.T) {
	var o observer
	start := time.Now()
	for i, settled := range []uint64{100, 110, 120, 130, 140, 150, 160, 170, 5} {
		o.remember(sample{start.Add(time.Duration(i) * observeEvery), settled})
		if age := o.samples[len(o.samples)-1].at.Sub(o.samples[0].at); age > desk.Lately {
			t.Errorf("a sample of %s ago is kept", age)
		}
	}
	if len(o.samples) != 1 {
		t.Errorf("%d samples, of more than one stream", len(o.samples))
	}
}

func gauges(t *testing.T, reg *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		got[f.GetName()] = f.GetMetric()[0].GetGauge().GetValue()
	}
	return got
}

// What an operator sees and does about the limit, while a worker process runs.
func TestAnOperatorSeesAndSteersTheLimit(t *testing.T) {
	t.Parallel()
	server, b := startBroker(t, queue.Topology{})
	org := onPort(t, sandbox.New(sandbox.Org(50)))
	env := []string{"NATS_URL=" + server.URL()}
	run := func(code int, contains string, args ...string) string {
		t.Helper()
		out, errs, got := call(t, env, "", args...)
		if got != code {
			t.Fatalf("%v: exit code %d, want %d\n%s%s", args, got, code, out, errs)
		}
		if !strings.Contains(out+errs, contains) {
			t.Fatalf("%v does not say %q:\n%s%s", args, contains, out, errs)
		}
		return out
	}
	run(0, "no worker has drawn from a limit yet", "limit")
	run(exitMisuse, "name the OAuth client with --client-id", "limit", "resume")

	w := start(t, append(orgEnv(org), "NATS_URL="+server.URL(), "SKILLSYNC_LIMIT=600", "SKILLSYNC_SETTLE=50ms", "SKILLSYNC_LOG_FORMAT=json"), "worker")
	w.await("fetching records")
	publishOne(t, b, "EMP-0001")
	settled(t, b, 1, time.Minute, nil)

	run(0, "600 requests a minute, as the workers are set to", "limit", "show")
	run(0, "nothing waits", "status")
	run(0, "600 requests a minute, as the workers are set to; 583 allowed now", "status")
	run(0, "120 requests a minute, set by an operator", "limit", "set", "120")
	w.await("the limit of the fleet has changed")
	run(0, `"limit":120,"allowed_per_minute":117.6`, "limit", "show", "--json")
	run(0, ": under repair", "limit", "pause", "5m", "--reason", "under repair")
	w.await("the fleet is paused")

	publishOne(t, b, "EMP-0002")
	run(0, "under repair", "status")
	var r struct {
		Backlog     int      `json:"backlog"`
		SecondsLeft *float64 `json:"seconds_left"`
		Budgets     []struct {
			Reason string `json:"reason"`
		} `json:"budgets"`
	}
	if err := json.Unmarshal([]byte(run(0, "", "status", "--json")), &r); err != nil {
		t.Fatal(err)
	}
	if r.Backlog != 1 || r.SecondsLeft == nil || *r.SecondsLeft < 200 || len(r.Budgets) != 1 || r.Budgets[0].Reason != "under repair" {
		t.Errorf("status during a pause: %+v", r)
	}
	run(0, "paused      no", "limit", "resume")
	run(0, "600 requests a minute, as the workers are set to", "limit", "set", "default")

	for _, args := range [][]string{
		{"limit", "set", "none"}, {"limit", "set", "0"}, {"limit", "pause", "0s"}, {"limit", "pause", "25h"}, {"limit", "pause", "soon"},
	} {
		run(exitMisuse, "", args...)
	}
}

func TestDurationsAreSaidInWords(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0 s", 43 * time.Second: "43 s", 119 * time.Second: "119 s", 43 * time.Minute: "43 min",
		3*time.Hour + 5*time.Minute: "3 h 5 min", 100 * time.Hour: "4 days",
	} {
		if got := desk.InWords(d); got != want {
			t.Errorf("%s is %q, want %q", d, got, want)
		}
	}
}

// A backlog that nobody works on has no end to tell.
func TestStatusWithoutAWorkerSaysSo(t *testing.T) {
	t.Parallel()
	server, b := startBroker(t, queue.Topology{})
	publishOne(t, b, "EMP-0001")
	out, errs, code := call(t, []string{"NATS_URL=" + server.URL()}, "", "status")
	if code != 0 {
		t.Fatalf("exit code %d\n%s%s", code, out, errs)
	}
	if want := "cannot be told: nothing was settled in the last minute; does a worker run?"; !strings.Contains(out, want) {
		t.Errorf("no %q in:\n%s", want, out)
	}
}

func publishOne(t *testing.T, b *queue.Broker, id string) {
	t.Helper()
	data := fmt.Appendf(nil, `{"employee_id":%q,"department":"Support-Tier2"}`, id)
	if _, err := b.Publish(t.Context(), queue.Message{EmployeeID: id, Data: data}); err != nil {
		t.Fatal(err)
	}
}
