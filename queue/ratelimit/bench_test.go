package ratelimit

import (
	"context"
	"testing"
	"time"
)

// BenchmarkTake is the arithmetic alone.
func BenchmarkTake(b *testing.B) {
	p, s := paceOf(300), State{TAT: epoch}
	now := epoch
	for b.Loop() {
		next, _, wait := s.take(p, now, 1)
		s, now = next, now.Add(wait)
	}
}

// BenchmarkReserve is one reservation: arithmetic, encoding and a swap in a store without latency.
func BenchmarkReserve(b *testing.B) {
	bucket := &Bucket{Store: newStore(), Key: "client", Limit: 1_000_000_000}
	bucket.setup()
	bucket.phase = running
	for b.Loop() {
		if r := bucket.reserve(b.Context(), 1); r.left != 1 && r.again == 0 {
			b.Fatal(r.err)
		}
	}
}

// BenchmarkWait is one grant from a bucket that is never dry.
func BenchmarkWait(b *testing.B) {
	for name, limit := range map[string]int{"limit": 1_000_000_000, "no limit": 0} {
		b.Run(name, func(b *testing.B) {
			bucket := &Bucket{Store: newStore(), Key: "client", Limit: limit}
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan error, 1)
			go func() { done <- bucket.Run(ctx) }()
			defer func() { cancel(); <-done }()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := bucket.Wait(b.Context()); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}

// BenchmarkKeepingUp is how many grants a second one process manages at a limit of 1,000,000 a
// minute (16,333 a second), against a store that takes a millisecond.
func BenchmarkKeepingUp(b *testing.B) {
	store := newStore()
	store.latency = func() time.Duration { return 500 * time.Microsecond }
	bucket := &Bucket{Store: store, Key: "client", Limit: 1_000_000}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- bucket.Run(ctx) }()
	defer func() { cancel(); <-done }()
	b.SetParallelism(256)
	began := time.Now()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := bucket.Wait(b.Context()); err != nil {
				b.Error(err)
			}
		}
	})
	b.ReportMetric(float64(b.N)/time.Since(began).Seconds(), "grants/s")
}
