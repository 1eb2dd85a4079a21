package main

import (
	"context"
	"math"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"skillsync/queue"
	"skillsync/queue/ratelimit"
)

// A forecast is when the backlog will be done, if all goes on as it does.
type forecast struct {
	PerMinute float64       // records; 0 if that is not known
	Measured  bool          // PerMinute is what was settled lately; otherwise it is what the budget allows
	Left      time.Duration // a pause included; forever if PerMinute is not known
}

const (
	// lately is the time over which the rate of settling is measured.
	lately = time.Minute
	// leastSpan is the shortest time that a rate is worked out from.
	leastSpan = 5 * time.Second
	// perChanged is what a record costs that changes something: a patch, and its share of the
	// batches that read before and after it.
	perChanged = 1.05
	// forever is more than anybody waits for.
	forever = time.Duration(math.MaxInt64)
)

// foresee works out when backlog records are done. settled is how many were in the last span.
func foresee(backlog, settled uint64, span time.Duration, budget ratelimit.Outlook, now time.Time) forecast {
	var f forecast
	switch {
	case settled > 0 && span >= leastSpan:
		f.PerMinute, f.Measured = float64(settled)/span.Minutes(), true
	case budget.Allowed > 0:
		f.PerMinute = budget.Allowed / perChanged
	}
	if backlog == 0 {
		return f
	}
	minutes := float64(backlog) / f.PerMinute
	if pause := budget.PausedUntil.Sub(now); !budget.PausedUntil.IsZero() && pause > 0 {
		minutes += pause.Minutes()
	}
	if minutes >= forever.Minutes() { // as is anything divided by a rate of 0
		f.Left = forever
		return f
	}
	f.Left = time.Duration(minutes * float64(time.Minute))
	return f
}

// usefulWorkers is how many workers the backlog can keep busy, and no more: each can send
// perWorker requests a minute, and all together no more than allowed (0: no limit) and no more
// than it takes to be done within a minute. They never hold more than queue.MaxInFlight records.
func usefulWorkers(backlog uint64, allowed, perWorker float64, inFlight int) int {
	if backlog == 0 {
		return 0
	}
	requests := float64(backlog) * perChanged
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

	records, seconds, useful prometheus.Gauge
	samples                  []sample // of the last minute, oldest first
}

// A sample is how many records had been settled at a time.
type sample struct {
	at      time.Time
	settled uint64
}

// observeEvery is how often an observer looks.
const observeEvery = 10 * time.Second

func newObserver(reg prometheus.Registerer, o observer) *observer {
	gauge := func(name, help string) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
		reg.MustRegister(g)
		return g
	}
	o.records = gauge("skillsync_backlog_records", "Records in the queue that are not settled.")
	o.seconds = gauge("skillsync_backlog_seconds", "Until the backlog is done, at the rate of the last minute or else at the allowed one; +Inf if neither is known.")
	o.useful = gauge("skillsync_useful_workers", "Workers that the backlog and the limit can keep busy: more of them settle nothing sooner.")
	return &o
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
	f := foresee(status.Backlog, settled-o.samples[0].settled, span, budget, status.At)
	o.records.Set(float64(status.Backlog))
	o.seconds.Set(f.Left.Seconds())
	if f.Left == forever {
		o.seconds.Set(math.Inf(1))
	}
	o.useful.Set(float64(usefulWorkers(status.Backlog, budget.Allowed, o.perWorker, o.inFlight)))
	return nil
}

// remember keeps the samples of the last minute. A stream that was made anew counts from 1 again.
func (o *observer) remember(s sample) {
	if n := len(o.samples); n > 0 && s.settled < o.samples[n-1].settled {
		o.samples = nil
	}
	o.samples = append(o.samples, s)
	for s.at.Sub(o.samples[0].at) > lately {
		o.samples = o.samples[1:]
	}
}
