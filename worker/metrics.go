package worker

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are the worker's own. Every label comes from a closed list and starts at zero, so that
// a rate over something that has never happened is zero rather than missing.
type Metrics struct {
	InFlight  prometheus.Gauge
	VerifyLag prometheus.Histogram

	records    *prometheus.CounterVec
	deadByWhy  *prometheus.CounterVec
	deliveries *prometheus.CounterVec
	seconds    prometheus.Histogram
	unsettled  prometheus.Counter
}

// NewMetrics registers the worker's metrics with reg.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		InFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "skillsync_in_flight", Help: "Records held by this worker now.",
		}),
		VerifyLag: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "skillsync_verify_lag_seconds", Help: "From the patch to the read that showed the skills.",
			Buckets: []float64{.5, 1, 2, 3, 4, 5, 7.5, 10, 15, 20, 30, 45, 60},
		}),
		records: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "skillsync_records_total", Help: "Records that came to an end, by outcome.",
		}, []string{"outcome"}),
		deadByWhy: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "skillsync_dead_letters_total", Help: "Records that became dead letters, by reason.",
		}, []string{"reason"}),
		deliveries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "skillsync_deliveries_total", Help: "Deliveries, by how they were settled.",
		}, []string{"settlement"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "skillsync_delivery_seconds", Help: "From the fetch of a record to its settlement.",
			Buckets: prometheus.ExponentialBuckets(.01, 2.5, 12),
		}),
		unsettled: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "skillsync_settle_failures_total", Help: "Settlements that the broker did not confirm; the record is delivered again.",
		}),
	}
	for _, o := range []string{string(Verified), string(Unchanged), string(Superseded), "dead_letter"} {
		m.records.WithLabelValues(o)
	}
	for _, r := range Reasons() {
		m.deadByWhy.WithLabelValues(string(r))
	}
	for _, s := range []string{"ack", "retry", "give_back", "abandon", "dead_letter"} {
		m.deliveries.WithLabelValues(s)
	}
	reg.MustRegister(m.InFlight, m.VerifyLag, m.records, m.deadByWhy, m.deliveries, m.seconds, m.unsettled)
	return m
}

func (m *Metrics) settled(v verdict, took time.Duration, err error) {
	m.seconds.Observe(took.Seconds())
	if err != nil {
		m.unsettled.Inc()
		return
	}
	switch v.action {
	case ack:
		m.deliveries.WithLabelValues("ack").Inc()
		m.records.WithLabelValues(string(v.outcome)).Inc()
	case deadLetter:
		m.deliveries.WithLabelValues("dead_letter").Inc()
		m.records.WithLabelValues("dead_letter").Inc()
		m.deadByWhy.WithLabelValues(string(v.reason)).Inc()
	default:
		m.deliveries.WithLabelValues(v.String()).Inc()
	}
}
