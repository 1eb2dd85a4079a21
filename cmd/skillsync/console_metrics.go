package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/rs/zerolog"

	"skillsync/cmd/skillsync/desk"
	"skillsync/queue"
)

// startConsoleOps serves a console's health and metrics; addr may be empty, for nowhere.
func startConsoleOps(addr string, d *desk.Desk, log zerolog.Logger) (stop func(), err error) {
	if addr == "" {
		return func() {}, nil
	}
	reg := newRegistry()
	m := newConsoleMetrics(reg, d)
	registerReady(reg, "skillsync_console_ready", m.trouble.get)
	ops, err := serveOps(addr, false, reg, m.trouble.get, log)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { m.run(ctx) })
	return func() {
		cancel()
		ops.stop()
		running.Wait()
	}, nil
}

// consoleMetrics are what a console tells of the whole system: dead letters and replays, which
// workers may not read, and of backlog and budget the same as they, so that it is told without any
// of them running, too.
type consoleMetrics struct {
	desk    *desk.Desk
	trouble *phase // why the metrics are not up to date; empty while they are

	backlog                     backlogGauges
	inFlight, waited            prometheus.Gauge
	budget                      []prometheus.Gauge // as outlookMetrics
	letters, oldest, unfinished *prometheus.GaugeVec
}

const (
	// consoleLooksEvery is how often a console looks.
	consoleLooksEvery = 15 * time.Second
	// otherReason stands for all reasons that this release does not know, which are no closed list.
	otherReason = "other"
)

// toldReasons is every reason that metrics tell of.
func toldReasons() []string { return append(reasons(), otherReason) }

// unfinishedStates are those of replays that are not over.
var unfinishedStates = []string{queue.ReplayRunning, queue.ReplayPaused, "interrupted"}

func newConsoleMetrics(reg prometheus.Registerer, d *desk.Desk) *consoleMetrics {
	vec := func(name, help, label string, values []string) *prometheus.GaugeVec {
		v := promauto.With(reg).NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, []string{label})
		for _, value := range values {
			v.WithLabelValues(value)
		}
		return v
	}
	m := &consoleMetrics{
		desk: d, trouble: newPhase("it has not looked at the broker yet"), backlog: newBacklogGauges(reg),
		inFlight:   newGauge(reg, "skillsync_backlog_in_flight", "Records of the backlog that a worker holds, or that wait for their retry."),
		waited:     newGauge(reg, "skillsync_backlog_oldest_seconds", "How long the oldest record of the backlog has been there."),
		letters:    vec("skillsync_dead_letters", "Dead letters there are now, by reason.", "reason", toldReasons()),
		oldest:     vec("skillsync_dead_letter_oldest_seconds", "Age of the oldest dead letter, by reason; 0 if there is none.", "reason", toldReasons()),
		unfinished: vec("skillsync_replays", "Replays that are not over, by state.", "state", unfinishedStates),
	}
	for _, o := range outlookMetrics {
		m.budget = append(m.budget, newGauge(reg, o.name, o.help))
	}
	return m
}

// run looks until ctx ends.
func (m *consoleMetrics) run(ctx context.Context) {
	tick := time.NewTicker(consoleLooksEvery)
	defer tick.Stop()
	for {
		m.update(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// update looks once. What a broker that does not answer said last stays, and the console is not
// ready.
func (m *consoleMetrics) update(ctx context.Context) {
	why := ""
	if err := m.look(ctx); err != nil {
		why = err.Error()
	}
	m.trouble.set(why)
}

func (m *consoleMetrics) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, consoleLooksEvery)
	defer cancel()
	over, err := desk.Look(ctx, m.desk.Broker)
	if err != nil {
		return err
	}
	replays, err := m.desk.Replays.List(ctx, 1000)
	if err != nil {
		return err
	}
	if err := m.setLetters(ctx, over); err != nil {
		return err
	}
	m.setReplays(replays, over.At)
	m.backlog.set(over.Backlog, over.Forecast.Left)
	m.inFlight.Set(float64(over.InFlight))
	m.waited.Set(age(over.Oldest, over.At))
	budget := desk.Busiest(over.Budgets).Outlook
	for i, o := range outlookMetrics {
		m.budget[i].Set(o.value(budget, over.At))
	}
	return nil
}

// setLetters sets what is told of dead letters when all of it is known. Of each reason it reads
// the oldest letter only, by the broker's index.
func (m *consoleMetrics) setLetters(ctx context.Context, over desk.Overview) error {
	counts, ages := map[string]float64{}, map[string]float64{}
	known := toldReasons()
	for _, reason := range known {
		counts[reason] = 0
	}
	for reason, n := range over.Dead {
		first, _, err := m.desk.Letters.List(ctx, queue.Filter{Reason: reason}, 0, 1)
		if err != nil {
			return fmt.Errorf("look for the oldest dead letter: %w", err)
		}
		if _, ok := counts[reason]; !ok {
			reason = otherReason
		}
		counts[reason] += float64(n)
		if len(first) > 0 { // it may have gone meanwhile
			ages[reason] = max(ages[reason], age(first[0].At, over.At))
		}
	}
	for _, reason := range known {
		m.letters.WithLabelValues(reason).Set(counts[reason])
		m.oldest.WithLabelValues(reason).Set(ages[reason])
	}
	return nil
}

func (m *consoleMetrics) setReplays(all []queue.Replay, now time.Time) {
	counts := map[string]float64{}
	for _, r := range all {
		counts[desk.State(r, now)]++
	}
	for _, state := range unfinishedStates {
		m.unfinished.WithLabelValues(state).Set(counts[state])
	}
}

// age is how old something is in seconds, and 0 if there is nothing or it has just come.
func age(since, now time.Time) float64 {
	if since.IsZero() {
		return 0
	}
	return max(0, now.Sub(since).Seconds())
}
