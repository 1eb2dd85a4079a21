package main

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"skillsync/cmd/skillsync/desk"
	"skillsync/genesys/sandbox"
	"skillsync/queue"
)

func TestAConsoleTellsOfDeadLettersBacklogAndReplays(t *testing.T) {
	t.Parallel()
	r := newRig(t, sandbox.Org(1))
	d, err := desk.Open(t.Context(), r.broker)
	if err != nil {
		t.Fatal(err)
	}
	reg := prometheus.NewPedanticRegistry()
	m := newConsoleMetrics(reg, d)
	look := func() map[string]float64 {
		t.Helper()
		if err := m.look(t.Context()); err != nil {
			t.Fatal(err)
		}
		return series(t, reg)
	}
	want := func(got map[string]float64, values map[string]float64) {
		t.Helper()
		for name, value := range values {
			if v, ok := got[name]; !ok || v != value {
				t.Errorf("%s is %g (%t), want %g", name, v, ok, value)
			}
		}
	}
	got := look()
	for _, reason := range toldReasons() {
		want(got, map[string]float64{
			"skillsync_dead_letters{" + reason + "}": 0, "skillsync_dead_letter_oldest_seconds{" + reason + "}": 0,
		})
	}

	r.buryAll()
	r.bury(`{"employee_id":"EMP-9"}`, queue.Failure{EmployeeID: "EMP-9", Reason: "of_a_later_release", Class: "permanent"})
	publishOne(t, r.broker, "EMP-0001")
	if _, err := d.Replays.Begin(t.Context(), queue.Replay{Name: "monday", Filter: queue.Filter{Reason: "unverified"}, By: "test"}); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Replays.Pause(t.Context(), "monday", "test"); err != nil {
		t.Fatal(err)
	}
	got = look()
	want(got, map[string]float64{
		"skillsync_dead_letters{retries_exhausted}": 7, "skillsync_dead_letters{unverified}": 1,
		"skillsync_dead_letters{panic}": 0, "skillsync_dead_letters{other}": 1,
		"skillsync_backlog_records": 1, "skillsync_replays{paused}": 1, "skillsync_replays{running}": 0,
	})
	if age := got["skillsync_dead_letter_oldest_seconds{retries_exhausted}"]; age <= 0 || age > time.Minute.Seconds() {
		t.Errorf("the oldest is %g s old", age)
	}

	if err := d.Letters.Drop(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	want(look(), map[string]float64{
		"skillsync_dead_letters{unverified}": 0, "skillsync_dead_letter_oldest_seconds{unverified}": 0,
	})
}

// series are the values of all gauges and counters, by name and labels.
func series(t *testing.T, reg prometheus.Gatherer) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += "{" + l.GetValue() + "}"
			}
			all[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return all
}

func TestAConsoleThatDoesNotSeeTheBrokerIsNotReady(t *testing.T) {
	t.Parallel()
	server, b := startBroker(t, queue.Topology{})
	d, err := desk.Open(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	m := newConsoleMetrics(prometheus.NewPedanticRegistry(), d)
	if m.trouble.get() == "" {
		t.Error("it is ready before it has looked")
	}
	m.update(t.Context())
	if why := m.trouble.get(); why != "" {
		t.Errorf("not ready: %s", why)
	}
	server.Shutdown()
	brief, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	m.update(brief)
	if why := m.trouble.get(); !strings.Contains(why, "broker") {
		t.Errorf("without a broker: %q", why)
	}
}
