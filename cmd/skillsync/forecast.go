package main

import (
	"context"
	"math"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"skillsync/cmd/skillsync/desk"
	"skillsync/queue"
	"skillsync/queue/ratelimit"
)

// usefulWorkers is how many workers the backlog can keep busy, and no more: each can send
// perWorker requests a minute, and all together no more than allowed (0: no limit) and no more
// than it takes to be done within a minute. They never hold more than queue.MaxInFlight records.
func usefulWorkers(backlog uint64, allowed, perWorker float64, inFlight int) int {
	if backlog == 0 {
		return 0
	}
	requests := float64(backlog) * desk.PerChanged
	if allowed > 0 {
		requests = min(requests, allowed)
	}
	holding := math.Ceil(queue.MaxInFlight / float64(max(inFlight, 1)))
	return int(max(1, min(math.Ceil(requests/max(perWorker, 1)), holding)))
}

// perWorkerMinute is how many requests a minute one worker is good for at least: each takes up to
// a second, and so does whatever a record waits for beside its settle time.
func perWorkerMinute(inFlight, atOnce int, settle time.Duration) float64 {
	return 60 * min(float64(inFlight)/(settle+time.Second).Seconds(), float64(atOnce))
}

// An observer looks at the backlog now and then, for the metrics.
type observer struct {
	broker    *queue.Broker
	bucket    *ratelimit.Bucket
	inFlight  int
	perWorker float64

	backlog backlogGauges
	useful  prometheus.Gauge
	samples []sample // of the last minute, oldest first
}

// A sample is how many records had been settled at a time.
type sample struct {
	at      time.Time
	settled uint64
}

// observeEvery is how often an observer looks.
const observeEvery = 10 * time.Second

func newObserver(reg prometheus.Registerer, o observer) *observer {
	o.backlog = newBacklogGauges(reg)
	o.useful = newGauge(reg, "skillsync_useful_workers", "Workers that the backlog and the limit can keep busy: more of them settle nothing sooner.")
	return &o
}

func newGauge(reg prometheus.Registerer, name, help string) prometheus.Gauge {
	return promauto.With(reg).NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
}

// backlogGauges are what workers and consoles tell of the backlog alike.
type backlogGauges struct{ records, seconds prometheus.Gauge }

func newBacklogGauges(reg prometheus.Registerer) backlogGauges {
	return backlogGauges{
		newGauge(reg, "skillsync_backlog_records", "Records in the queue that are not settled."),
		newGauge(reg, "skillsync_backlog_seconds", "Until the backlog is done, at the rate of the last minute or else at the allowed one; +Inf if neither is known."),
	}
}

func (g backlogGauges) set(backlog uint64, left time.Duration) {
	g.records.Set(float64(backlog))
	if left == desk.Forever {
		g.seconds.Set(math.Inf(1))
		return
	}
	g.seconds.Set(left.Seconds())
}

// run looks until ctx ends. What a broker that does not answer said last stays.
func (o *observer) run(ctx context.Context) {
	tick := time.NewTicker(observeEvery)
	defer tick.Stop()
	for {
		_ = o.look(ctx) // the broker's own log says what is wrong with it
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (o *observer) look(ctx context.Context) error {
	status, err := o.broker.Backlog(ctx)
	if err != nil {
		return err
	}
	settled, err := o.broker.ResultsEnd(ctx)
	if err != nil {
		return err
	}
	o.remember(sample{status.At, settled})
	span := status.At.Sub(o.samples[0].at)
	budget := o.bucket.Snapshot().Outlook
	f := desk.Foresee(status.Backlog, settled-o.samples[0].settled, span, budget, status.At)
	o.backlog.set(status.Backlog, f.Left)
	o.useful.Set(float64(usefulWorkers(status.Backlog, budget.Allowed, o.perWorker, o.inFlight)))
	return nil
}

// remember keeps the samples of the last minute. A stream that was made anew counts from 1 again.
func (o *observer) remember(s sample) {
	if n := len(o.samples); n > 0 && s.settled < o.samples[n-1].settled {
		o.samples = nil
	}
	o.samples = append(o.samples, s)
	for s.at.Sub(o.samples[0].at) > desk.Lately {
		o.samples = o.samples[1:]
	}
}
