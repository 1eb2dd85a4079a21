package worker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"skillsync/genesys"
)

func TestEachAttemptThatFailsIsCountedUnderWhatItMet(t *testing.T) {
	tests := map[string]error{
		"panic":        &panicError{value: "bug"},
		"unverified":   &MismatchError{},
		"stale":        &genesys.Error{Op: "patch", Status: 412},
		"server_error": &genesys.Error{Op: "read", Status: 503},
		"network":      &genesys.Error{Op: "read", Err: errors.New("connection refused")},
		"timeout":      &genesys.Error{Op: "read", Err: context.DeadlineExceeded},
		"other":        &genesys.Error{Op: "patch", Status: 408},
	}
	for want, err := range tests {
		if got := retryClass(fmt.Errorf("patch the user: %w", err)); got != want {
			t.Errorf("%v is %s, want %s", err, got, want)
		}
		if !slices.Contains(retryClasses, want) {
			t.Errorf("%s is not there from the start", want)
		}
	}
	if len(retryClasses) != len(tests) {
		t.Errorf("%d classes, want %d", len(retryClasses), len(tests))
	}
	if got := retryClass(errors.New("unknown")); got != "other" {
		t.Errorf("an unknown error is %s", got)
	}
}

func TestARecordThatNeedsARetryAndManyLooksIsCountedSo(t *testing.T) {
	inBubble(t, func(b *bench) {
		reg := prometheus.NewPedanticRegistry()
		w := b.worker("w")
		w.Metrics = NewMetrics(reg)
		w.Provisioner.Polled = w.Metrics.VerifyPolls.Inc
		b.org.lag = 10 * time.Second
		failed := false
		b.org.onPatch = func(context.Context, string) error {
			if failed {
				return nil
			}
			failed = true
			return &genesys.Error{Op: "patch", Status: 503}
		}
		stop := b.start(w)
		b.publish("E1", "a")
		b.settle(10 * time.Minute)
		stop()
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]float64{}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				name := f.GetName()
				for _, l := range m.GetLabel() {
					name += " " + l.GetValue()
				}
				got[name] = m.GetCounter().GetValue() + m.GetHistogram().GetSampleSum()
			}
		}
		for name, want := range map[string]float64{
			"skillsync_records_total verified": 1, "skillsync_record_attempts": 2,
			"skillsync_retries_total server_error": 1, "skillsync_retries_total panic": 0,
			"skillsync_verify_polls_total": 5, // 3, 4, 5.5, 7.75 and 11.1 s after the patch
			"skillsync_claims_lost_total":  0, "skillsync_ledger_conflicts_total": 0,
		} {
			if v, ok := got[name]; !ok || v != want {
				t.Errorf("%s is %g (%t), want %g", name, v, ok, want)
			}
		}
	})
}
