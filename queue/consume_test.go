package queue_test

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"skillsync/queue"
	"skillsync/queue/queuetest"
)

func TestAConsumerResumesAfterTheBrokerIsStartedAgain(t *testing.T) {
	dir := t.TempDir()
	server := queuetest.Serve(t, dir, "127.0.0.1:0")
	address := strings.TrimPrefix(server.URL(), "nats://")
	states := make(chan bool, 10)
	b := must[*queue.Broker](t)(queue.Connect(t.Context(), queue.Config{
		URL: server.URL(), Wait: 5 * time.Second, OnState: func(connected bool) { states <- connected },
	}))
	defer b.Close()
	must[[]queue.Change](t)(b.Setup(t.Context(), queue.Topology{AckWait: time.Second}))
	for _, id := range []string{"EMP-1", "EMP-2", "EMP-3"} {
		must[queue.Ack](t)(b.Publish(t.Context(), queue.Message{EmployeeID: id}))
	}
	q := must[*queue.Queue](t)(b.Queue(t.Context()))
	held := fetch(t, q, 2)
	ok(t, held[0].Ack(t.Context(), queue.Result{Outcome: queue.OutcomeVerified}))

	server.Shutdown()
	if <-states != true || <-states != false {
		t.Error("the states are not told in order")
	}
	if _, err := q.Fetch(short(t), 1, 0, nil); !errors.Is(err, queue.ErrUnreachable) {
		t.Error("fetch without a broker:", err)
	}
	if err := held[1].Extend(short(t)); !errors.Is(err, queue.ErrUnreachable) {
		t.Error("extend without a broker:", err)
	}
	server = queuetest.Serve(t, dir, address)
	defer server.Shutdown()
	if !<-states || !b.Connected() {
		t.Error("not connected again")
	}
	var got []uint64
	for len(got) < 2 {
		for _, d := range fetch(t, q, 1) {
			got = append(got, d.Sequence)
			if d.Order.Epoch != held[0].Order.Epoch {
				t.Error("the epoch of the stream changed")
			}
			ok(t, d.Ack(t.Context(), queue.Result{Outcome: queue.OutcomeVerified}))
		}
	}
	if got[0]+got[1] != 5 || backlog(t, b) != 0 {
		t.Errorf("messages %v came, %d are left", got, backlog(t, b))
	}
}

func TestASettlementThatNeverArrivedCanBeRepeated(t *testing.T) {
	settle(t, true, false)
}

func TestASettlementWhoseAnswerWasLostCanBeRepeated(t *testing.T) {
	settle(t, false, true)
}

// settle loses requests or answers in the middle of each settlement, then repeats it.
func settle(t *testing.T, requests, answers bool) {
	b := queuetest.Run(t, queue.Topology{AckWait: 20 * time.Second})
	via, proxy := through(t, b)
	q := must[*queue.Queue](t)(via.Queue(t.Context()))
	for range 2 {
		must[queue.Ack](t)(b.Publish(t.Context(), queue.Message{EmployeeID: "EMP-1"}))
	}
	all := fetch(t, q, 2)
	result := queue.Result{EmployeeID: "EMP-1", Outcome: queue.OutcomeVerified}
	failure := queue.Failure{EmployeeID: "EMP-1", Reason: "user_not_found"}

	proxy.Lose(requests, answers)
	for name, err := range map[string]error{
		"extend":      all[0].Extend(short(t)),
		"ack":         all[0].Ack(short(t), result),
		"dead letter": all[1].DeadLetter(short(t), failure),
	} {
		if !errors.Is(err, queue.ErrUnreachable) {
			t.Errorf("%s: %v", name, err)
		}
	}
	proxy.Restore()
	ok(t, all[0].Ack(t.Context(), result))
	ok(t, all[1].DeadLetter(t.Context(), failure))

	status := must[queue.Status](t)(b.Status(t.Context()))
	if status.Backlog != 0 || status.Dead["user_not_found"] != 1 || status.Results[queue.OutcomeVerified] != 1 || status.Results[queue.OutcomeDead] != 1 {
		t.Errorf("%+v", status)
	}
}

func TestAGiveBackThatFailsIsNotRepeated(t *testing.T) {
	b := queuetest.Run(t, queue.Topology{AckWait: 20 * time.Second})
	via, proxy := through(t, b)
	q := must[*queue.Queue](t)(via.Queue(t.Context()))
	must[queue.Ack](t)(b.Publish(t.Context(), queue.Message{EmployeeID: "EMP-1"}))
	d := fetch(t, q, 1)[0]
	proxy.Lose(false, true)
	if err := d.Retry(short(t), 0); !errors.Is(err, queue.ErrUnreachable) {
		t.Error("error:", err)
	}
	proxy.Restore()
	if err := d.Retry(t.Context(), 0); !errors.Is(err, queue.ErrLeaseLost) {
		t.Error("repeated:", err)
	}
	if again := fetch(t, q, 1)[0]; again.Delivered != 2 { // the broker had heard it
		t.Errorf("delivered %d times", again.Delivered)
	}
}

func TestAStreamThatIsMadeAnewIsNoticed(t *testing.T) {
	b := queuetest.Run(t)
	q := must[*queue.Queue](t)(b.Queue(t.Context()))
	must[queue.Ack](t)(b.Publish(t.Context(), queue.Message{EmployeeID: "EMP-1"}))
	old := fetch(t, q, 1)[0]
	ok(t, queue.Remove(t.Context(), b, queue.Stream))
	if _, err := q.Fetch(t.Context(), 1, 100*time.Millisecond, nil); err == nil {
		t.Error("no error without a stream")
	}
	must[[]queue.Change](t)(b.Setup(t.Context(), queue.Topology{AckWait: 2 * time.Second}))
	must[queue.Ack](t)(b.Publish(t.Context(), queue.Message{EmployeeID: "EMP-1"}))
	if d := fetch(t, q, 1)[0]; d.Sequence != 1 || d.Order.Compare(old.Order) <= 0 {
		t.Errorf("%+v is not after %+v", d.Order, old.Order)
	}
}

func TestABodyOfOneMebibyteIsDeadLetteredIntact(t *testing.T) {
	b := queuetest.Run(t)
	q := must[*queue.Queue](t)(b.Queue(t.Context()))
	body := bytes.Repeat([]byte{0, '\n', 0xff, 'x'}, 1<<18)
	must[queue.Ack](t)(b.Publish(t.Context(), queue.Message{Data: body}))
	ok(t, fetch(t, q, 1)[0].DeadLetter(t.Context(), queue.Failure{Reason: "bad_record"}))
	dead := deadLetters(t, b, queue.Filter{})
	if len(dead) != 1 || !bytes.Equal(dead[0].Data, body) || dead[0].EmployeeID != "" {
		t.Fatalf("%d dead letters", len(dead))
	}
}

func TestTheLargestRecordThatGetsInGetsOutAgain(t *testing.T) {
	b := queuetest.Run(t)
	q := must[*queue.Queue](t)(b.Queue(t.Context()))
	size := int(b.MaxPayload()) - 24<<10 - 500 // its own headers count, too
	must[queue.Ack](t)(b.Publish(t.Context(), queue.Message{
		EmployeeID: strings.Repeat("ü", 60), Data: make([]byte, size), Header: map[string][]string{"X-Own": {strings.Repeat("h", 300)}},
	}))
	long := strings.Repeat("<ü\r\n>", 10_000)
	skills := []byte(`["` + strings.Repeat("x", 4000) + `"]`)
	tries := slices.Repeat([]queue.Try{{Number: 1, At: time.Now(), Error: strings.Repeat("x", 300)}}, 20)
	ok(t, fetch(t, q, 1)[0].DeadLetter(t.Context(), queue.Failure{
		EmployeeID: long, Version: long, Reason: long, Class: long, Error: long, Status: 500, CorrelationID: long, Attempts: 5, First: time.Now(), Last: time.Now(),
		MappingVersion: long, Expected: skills, Actual: skills, Tries: tries, Desired: long, Worker: long, App: long,
	}))
	if dead := deadLetters(t, b, queue.Filter{}); len(dead) != 1 || len(dead[0].Data) != size {
		t.Fatalf("%d dead letters", len(dead))
	}
}
