package queue_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"skillsync/queue"
	"skillsync/queue/queuetest"
)

func TestStatusAddsUp(t *testing.T) {
	b := queuetest.Run(t, queue.Topology{AckWait: time.Minute, MaxBytes: 1 << 20})
	q := must[*queue.Queue](t)(b.Queue(t.Context()))
	empty := must[queue.Status](t)(b.Status(t.Context()))
	if empty.Backlog != 0 || !empty.Oldest.IsZero() || len(empty.Dead) != 0 || time.Since(empty.At).Abs() > time.Minute {
		t.Errorf("empty: %+v", empty)
	}
	for range 10 {
		must[queue.Ack](t)(b.Publish(t.Context(), queue.Message{EmployeeID: "EMP-1"}))
	}
	all := fetch(t, q, 6) // two stay with a worker
	ok(t, all[0].Ack(t.Context(), queue.Result{EmployeeID: "EMP-1", Outcome: queue.OutcomeVerified}))
	ok(t, all[1].DeadLetter(t.Context(), queue.Failure{EmployeeID: "EMP-1", Reason: "bad_record"}))
	ok(t, all[2].DeadLetter(t.Context(), queue.Failure{EmployeeID: "EMP-1", Reason: "bad_record"}))
	ok(t, all[3].Retry(t.Context(), time.Hour)) // in flight, too
	got := must[queue.Status](t)(b.Status(t.Context()))
	if got.Oldest.IsZero() || got.Bytes == 0 {
		t.Errorf("%+v", got)
	}
	got.At, got.Oldest, got.Bytes = time.Time{}, time.Time{}, 0
	want := queue.Status{
		Backlog: 7, Waiting: 4, InFlight: 3, MaxBytes: 1 << 20, AckWait: time.Minute, Dead: map[string]uint64{"bad_record": 2},
		Results: map[string]uint64{
			queue.OutcomeVerified: 1, queue.OutcomeUnchanged: 0, queue.OutcomeSuperseded: 0, queue.OutcomeDead: 2,
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// The broker's consumer counts a record a moment after the stream has stored it.
func TestARecordThatWasPublishedJustNowIsNoOrphan(t *testing.T) {
	b := queuetest.Run(t)
	for n := range uint64(200) {
		must[queue.Ack](t)(b.Publish(t.Context(), queue.Message{EmployeeID: "EMP-1"}))
		if s := must[queue.Status](t)(b.Backlog(t.Context())); s.Orphans != 0 || s.Waiting != n+1 || s.Backlog != n+1 {
			t.Fatalf("after %d records: %+v", n+1, s)
		}
	}
}

func TestARecordThatNoWorkerWillGetIsAnOrphan(t *testing.T) {
	b := queuetest.Run(t)
	js := raw(t, b)
	must[jetstream.Consumer](t)(js.UpdateConsumer(t.Context(), queue.Stream, jetstream.ConsumerConfig{
		Durable: queue.Consumer, AckPolicy: jetstream.AckExplicitPolicy, AckWait: 100 * time.Millisecond, MaxDeliver: 1, MaxAckPending: 4096,
	}))
	exhausted := must[*nats.Subscription](t)(js.Conn().SubscribeSync("$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.>"))
	must[queue.Ack](t)(b.Publish(t.Context(), queue.Message{EmployeeID: "EMP-1"}))
	q := must[*queue.Queue](t)(b.Queue(t.Context()))
	fetch(t, q, 1)[0].Abandon()
	if n, err := q.Fetch(t.Context(), 1, time.Second, nil); n != 0 || err != nil {
		t.Fatal(n, err)
	}
	must[*nats.Msg](t)(exhausted.NextMsg(10 * time.Second))
	if s := must[queue.Status](t)(b.Backlog(t.Context())); s.Orphans != 1 || s.Backlog != 1 || s.Waiting != 0 || s.InFlight != 0 {
		t.Errorf("%+v", s)
	}
}
