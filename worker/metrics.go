package worker

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"skillsync/genesys"
)

// Metrics are the worker's own. Every label comes from a closed list and starts at zero, so that
// a rate over something that has never happened is zero rather than missing.
type Metrics struct {
	InFlight        prometheus.Gauge
	VerifyLag       prometheus.Histogram
	VerifyPolls     prometheus.Counter
	LedgerConflicts prometheus.Counter // for Ledger.Conflict

	records    *prometheus.CounterVec
	attempts   prometheus.Histogram
	retries    *prometheus.CounterVec
	deadByWhy  *prometheus.CounterVec
	deliveries *prometheus.CounterVec
	seconds    prometheus.Histogram
	unsettled  prometheus.Counter
	claimsLost prometheus.Counter
}

// NewMetrics registers the worker's metrics with reg.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	auto := promauto.With(reg)
	counter := func(name, help string) prometheus.Counter {
		return auto.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	counters := func(name, help, label string, values ...string) *prometheus.CounterVec {
		vec := auto.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{label})
		for _, v := range values {
			vec.WithLabelValues(v)
		}
		return vec
	}
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		return auto.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets})
	}
	reasons := make([]string, 0, len(Reasons()))
	for _, r := range Reasons() {
		reasons = append(reasons, string(r))
	}
	return &Metrics{
		InFlight:        auto.NewGauge(prometheus.GaugeOpts{Name: "skillsync_in_flight", Help: "Records held by this worker now."}),
		VerifyLag:       histogram("skillsync_verify_lag_seconds", "From the patch to the read that showed the skills.", []float64{.5, 1, 2, 3, 4, 5, 7.5, 10, 15, 20, 30, 45, 60}),
		VerifyPolls:     counter("skillsync_verify_polls_total", "Looks at a user's skills after a patch, until they were as wanted or the deadline had passed."),
		LedgerConflicts: counter("skillsync_ledger_conflicts_total", "Writes to the ledger that came too late, because something else had been written meanwhile; they are tried again."),

		records: counters("skillsync_records_total", "Records that came to an end, by outcome.",
			"outcome", string(Verified), string(Unchanged), string(Superseded), "dead_letter"),
		attempts: histogram("skillsync_record_attempts", "Attempts that records took which came to an end; those that ended before the first are not counted.", []float64{1, 2, 3, 4, 5, 10}),
		retries: counters("skillsync_retries_total", "Attempts that failed and are made again, by what they met.",
			"class", retryClasses...),
		deadByWhy: counters("skillsync_dead_letters_total", "Records that became dead letters, by reason.",
			"reason", reasons...),
		deliveries: counters("skillsync_deliveries_total", "Deliveries, by how they were settled.",
			"settlement", "ack", "retry", "give_back", "abandon", "dead_letter"),
		seconds:    histogram("skillsync_delivery_seconds", "From the fetch of a record to its settlement.", prometheus.ExponentialBuckets(.01, 2.5, 12)),
		unsettled:  counter("skillsync_settle_failures_total", "Settlements that the broker did not confirm; the record is delivered again."),
		claimsLost: counter("skillsync_claims_lost_total", "Claims that were lost to another worker, or ran out because the ledger could not be reached."),
	}
}

// settled counts a delivery by its verdict, which met err, and by whether it could be settled.
func (m *Metrics) settled(v verdict, attempt int, took time.Duration, err, settleErr error) {
	m.seconds.Observe(took.Seconds())
	if settleErr != nil {
		m.unsettled.Inc()
		return
	}
	switch v.action {
	case ack:
		m.deliveries.WithLabelValues("ack").Inc()
		m.ended(string(v.outcome), attempt)
	case deadLetter:
		m.deliveries.WithLabelValues("dead_letter").Inc()
		m.ended("dead_letter", attempt)
		m.deadByWhy.WithLabelValues(string(v.reason)).Inc()
	default:
		m.deliveries.WithLabelValues(v.String()).Inc()
		if v.spends {
			m.retries.WithLabelValues(retryClass(err)).Inc()
		}
	}
}

func (m *Metrics) ended(outcome string, attempt int) {
	m.records.WithLabelValues(outcome).Inc()
	if attempt > 0 {
		m.attempts.Observe(float64(attempt))
	}
}

// retryClasses is every value of retryClass.
var retryClasses = []string{"panic", "unverified", "stale", "server_error", "network", "timeout", "other"}

// retryClass is what an attempt met that is made again at its own price, in a word for metrics.
func retryClass(err error) string {
	var (
		api   *genesys.Error
		stuck *MismatchError
		bug   *panicError
	)
	switch {
	case errors.As(err, &bug):
		return "panic"
	case errors.As(err, &stuck):
		return "unverified"
	case errors.Is(err, genesys.ErrStale):
		return "stale"
	case errors.As(err, &api) && api.Status >= 500:
		return "server_error"
	case errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	case errors.As(err, &api) && api.Status == 0:
		return "network"
	}
	return "other"
}
