package queuetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"skillsync/queue"
)

// A Harness is a queue with what is around it.
type Harness struct {
	Queue interface {
		AckWait() time.Duration
		Fetch(ctx context.Context, n int, wait time.Duration, handle func(*queue.Delivery)) (int, error)
		Newer(ctx context.Context, d *queue.Delivery, key string) ([]byte, queue.Order, bool, error)
	}
	Publish func(context.Context, queue.Message) (queue.Ack, error)
	Replay  func(ctx context.Context, deadLetter uint64) error
	Results func() []queue.Result
	Dead    func() []queue.DeadLetter
	Waiting func() int // records not settled
}

// OnBroker is the harness of a broker.
func OnBroker(t *testing.T, b *queue.Broker) Harness {
	t.Helper()
	q, err := b.Queue(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return Harness{
		Queue: q, Publish: b.Publish,
		Replay:  func(ctx context.Context, seq uint64) error { return Replay(ctx, b, seq) },
		Results: func() []queue.Result { return results(t, b) },
		Dead: func() []queue.DeadLetter {
			page, _, err := b.DeadLetters().List(t.Context(), queue.Filter{}, 0, 1000)
			if err != nil {
				t.Fatal(err)
			}
			return page
		},
		Waiting: func() int {
			s, err := b.Status(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return int(s.Backlog)
		},
	}
}

// Replay replays one dead letter.
func Replay(ctx context.Context, b *queue.Broker, seq uint64) error {
	if _, err := b.DeadLetters().Get(ctx, seq); err != nil {
		return err
	}
	replays, err := b.Replays(ctx)
	if err != nil {
		return err
	}
	rep, err := replays.Begin(ctx, queue.Replay{Letters: []uint64{seq}, By: "a test"})
	if err != nil {
		return err
	}
	_, err = replays.Run(ctx, rep.Name, queue.Runner{})
	return err
}

func results(t *testing.T, b *queue.Broker) (all []queue.Result) {
	t.Helper()
	end, err := b.ResultsEnd(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if end == 0 {
		return nil
	}
	enough := errors.New("enough")
	err = b.Results(t.Context(), 0, func(r queue.Result) error {
		if all = append(all, r); r.Position >= end {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) {
		t.Fatal(err)
	}
	return all
}

// InMemory is the harness of a queue in memory.
func InMemory(m *Memory) Harness {
	return Harness{Queue: m, Publish: m.Publish, Replay: m.Replay, Results: m.Results, Dead: m.Dead, Waiting: m.Waiting}
}

// Suite is what every queue keeps to. Each test runs within bubble: synctest.Test for a queue
// that needs no network, or one that just calls the test.
func Suite(t *testing.T, bubble func(*testing.T, func(*testing.T)), open func(*testing.T) Harness) {
	for _, test := range []struct {
		name string
		run  func(suite)
	}{
		{"records come in the order published", suite.order},
		{"an id is stored once", suite.duplicate},
		{"every record goes to one of many workers", suite.once},
		{"nothing comes of an empty queue", suite.empty},
		{"an ended context asks for nothing", suite.canceled},
		{"an acknowledged record is gone and has a result", suite.ack},
		{"a lapsed lease brings the record again", suite.lapse},
		{"a late word is refused", suite.late},
		{"an extended lease does not lapse", suite.extend},
		{"a record given back comes again", suite.retry},
		{"a record given back for later comes later", suite.delayed},
		{"a delivery is settled once", suite.settledOnce},
		{"an abandoned delivery is left alone", suite.abandon},
		{"a dead letter keeps the record and the reason", suite.deadLetter},
		{"a replay keeps the order", suite.replay},
		{"a newer record is found", suite.newer},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T) { test.run(suite{t, open(t)}) })
		})
	}
}

type suite struct {
	*testing.T
	Harness
}

func (s suite) publish(m queue.Message) queue.Ack {
	s.Helper()
	ack, err := s.Publish(s.Context(), m)
	if err != nil {
		s.Fatal(err)
	}
	return ack
}

func (s suite) fetch(n int, wait time.Duration) (all []*queue.Delivery) {
	s.Helper()
	count, err := s.Queue.Fetch(s.Context(), n, wait, func(d *queue.Delivery) { all = append(all, d) })
	if err != nil || count != len(all) {
		s.Fatalf("fetch: %d of %d, %v", len(all), count, err)
	}
	return all
}

// one fetches the record that must come.
func (s suite) one() *queue.Delivery {
	s.Helper()
	all := s.fetch(1, 2*s.Queue.AckWait()+10*time.Second)
	if len(all) != 1 {
		s.Fatal("no record came")
	}
	return all[0]
}

func (s suite) none(wait time.Duration) {
	s.Helper()
	for _, d := range s.fetch(1, wait) {
		s.Errorf("message %d came for the %d. time", d.Sequence, d.Delivered)
	}
}

func (s suite) ok(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s suite) is(err, want error) {
	s.Helper()
	if !errors.Is(err, want) {
		s.Errorf("error %v, want %v", err, want)
	}
}

func (s suite) order() {
	for _, id := range []string{"EMP-1", "EMP-2", "", "EMP 4"} {
		s.publish(queue.Message{EmployeeID: id, Data: []byte(id), Header: map[string][]string{queue.HeaderBatch: {"b"}, "X-Own": {"1"}}})
	}
	all := s.fetch(4, time.Second)
	for i, want := range []string{"EMP-1", "EMP-2", "", "EMP 4"} {
		d := all[i]
		if string(d.Data) != want || d.Sequence != uint64(i+1) || d.Order.Seq != d.Sequence || d.Delivered != 1 {
			s.Errorf("%d. delivery: %q at %d, %+v, delivered %d times", i+1, d.Data, d.Sequence, d.Order, d.Delivered)
		}
		if d.Batch() != "b" || d.Header["X-Own"][0] != "1" {
			s.Errorf("headers: %v", d.Header)
		}
		if age := time.Since(d.Published); age < -time.Minute || age > time.Minute {
			s.Errorf("published %v ago", age)
		}
	}
	if all[0].Subject != "employees.records.EMP-1" || all[2].Subject != "employees.records" || all[3].Subject != "employees.records."+queue.Key("EMP 4") {
		s.Error("subjects:", all[0].Subject, all[2].Subject, all[3].Subject)
	}
}

func (s suite) duplicate() {
	a := s.publish(queue.Message{EmployeeID: "EMP-1", ID: "one"})
	b := s.publish(queue.Message{EmployeeID: "EMP-1", ID: "one"})
	if a.Duplicate || !b.Duplicate || a.Sequence != b.Sequence {
		s.Errorf("first %+v, second %+v", a, b)
	}
	s.ok(s.one().Ack(s.Context(), queue.Result{Outcome: queue.OutcomeVerified}))
	if c := s.publish(queue.Message{EmployeeID: "EMP-1", ID: "one"}); !c.Duplicate {
		s.Error("the id is forgotten when the record is done")
	}
	if n := s.Waiting(); n != 0 {
		s.Errorf("%d records wait", n)
	}
}

func (s suite) once() {
	const records = 200
	for i := range records {
		s.publish(queue.Message{EmployeeID: fmt.Sprint(i)})
	}
	var mu sync.Mutex
	seen := map[uint64]int{}
	var workers sync.WaitGroup
	for range 4 {
		workers.Go(func() {
			for {
				n, err := s.Queue.Fetch(s.Context(), 7, 200*time.Millisecond, func(d *queue.Delivery) {
					mu.Lock()
					seen[d.Sequence]++
					mu.Unlock()
					if err := d.Ack(s.Context(), queue.Result{Outcome: queue.OutcomeUnchanged}); err != nil {
						s.Error(err)
					}
				})
				if n == 0 || err != nil {
					return
				}
			}
		})
	}
	workers.Wait()
	for seq := range uint64(records) {
		if seen[seq+1] != 1 {
			s.Errorf("message %d was delivered %d times", seq+1, seen[seq+1])
		}
	}
}

func (s suite) empty() {
	start := time.Now()
	s.none(200 * time.Millisecond)
	if took := time.Since(start); took < 200*time.Millisecond {
		s.Errorf("gave up after %v", took)
	}
}

func (s suite) canceled() {
	s.publish(queue.Message{EmployeeID: "EMP-1"})
	why := errors.New("shutting down")
	ctx, cancel := context.WithCancelCause(s.Context())
	cancel(why)
	_, err := s.Queue.Fetch(ctx, 1, time.Second, func(*queue.Delivery) { s.Error("a record came") })
	s.is(err, why)
}

func (s suite) ack() {
	s.publish(queue.Message{EmployeeID: "EMP-1", Header: map[string][]string{queue.HeaderBatch: {"b7"}}})
	d := s.one()
	s.ok(d.Ack(s.Context(), queue.Result{
		EmployeeID: "EMP-1", Outcome: queue.OutcomeVerified, Attempt: 2, CorrelationID: "c", MappingVersion: "m", Seconds: 1.5,
	}))
	if n := s.Waiting(); n != 0 {
		s.Errorf("%d records wait", n)
	}
	all := s.Results()
	if len(all) != 1 {
		s.Fatalf("results: %+v", all)
	}
	if all[0].At.IsZero() {
		s.Error("the result has no time")
	}
	all[0].At = time.Time{}
	want := queue.Result{
		EmployeeID: "EMP-1", Sequence: 1, Order: d.Order, Outcome: queue.OutcomeVerified, Attempt: 2,
		CorrelationID: "c", MappingVersion: "m", Seconds: 1.5, Batch: "b7", Position: 1,
	}
	if diff := cmp.Diff(want, all[0]); diff != "" {
		s.Error(diff)
	}
}

func (s suite) lapse() {
	s.publish(queue.Message{EmployeeID: "EMP-1"})
	start := time.Now()
	s.one()
	again := s.one()
	if again.Sequence != 1 || again.Delivered != 2 {
		s.Errorf("message %d came for the %d. time", again.Sequence, again.Delivered)
	}
	if took := time.Since(start); took < s.Queue.AckWait() {
		s.Errorf("came again after %v", took)
	}
	s.ok(again.Ack(s.Context(), queue.Result{Outcome: queue.OutcomeVerified}))
}

func (s suite) late() {
	for range 4 {
		s.publish(queue.Message{EmployeeID: "EMP-1"})
	}
	late := s.fetch(4, time.Second)
	now := s.fetch(4, 2*s.Queue.AckWait())
	if len(late) != 4 || len(now) != 4 {
		s.Fatalf("%d records came, and %d came again", len(late), len(now))
	}
	s.is(late[0].Extend(s.Context()), queue.ErrLeaseLost)
	s.is(late[1].Ack(s.Context(), queue.Result{Outcome: queue.OutcomeVerified}), queue.ErrLeaseLost)
	s.is(late[2].Retry(s.Context(), 0), queue.ErrLeaseLost)
	s.is(late[3].DeadLetter(s.Context(), queue.Failure{Reason: "late"}), queue.ErrLeaseLost)
	if len(s.Dead()) != 0 || len(s.Results()) != 0 || s.Waiting() != 4 {
		s.Error("a late word did something")
	}
	for _, d := range now {
		s.ok(d.Ack(s.Context(), queue.Result{Outcome: queue.OutcomeVerified}))
	}
}

func (s suite) extend() {
	s.publish(queue.Message{EmployeeID: "EMP-1"})
	d := s.one()
	done := make(chan struct{})
	go func() {
		defer close(done)
		beat := time.NewTicker(s.Queue.AckWait() / 4)
		defer beat.Stop()
		for range 8 {
			<-beat.C
			if err := d.Extend(s.Context()); err != nil {
				s.Error(err)
			}
		}
	}()
	s.none(s.Queue.AckWait() * 7 / 4)
	<-done
	s.ok(d.Ack(s.Context(), queue.Result{Outcome: queue.OutcomeVerified}))
	s.is(d.Extend(s.Context()), queue.ErrSettled)
}

func (s suite) retry() {
	s.publish(queue.Message{EmployeeID: "EMP-1"})
	start := time.Now()
	s.ok(s.one().Retry(s.Context(), 0))
	again := s.one()
	if took := time.Since(start); again.Delivered != 2 || took >= s.Queue.AckWait() {
		s.Errorf("delivery %d after %v", again.Delivered, took)
	}
	s.ok(again.Ack(s.Context(), queue.Result{Outcome: queue.OutcomeVerified}))
}

func (s suite) delayed() {
	s.publish(queue.Message{EmployeeID: "EMP-1"})
	s.publish(queue.Message{EmployeeID: "EMP-2"})
	start, delay := time.Now(), s.Queue.AckWait()*3/2 // longer than a lease, too
	s.ok(s.one().Retry(s.Context(), delay))
	other := s.one()
	if other.Sequence != 2 {
		s.Error("a record that waits holds up another")
	}
	s.ok(other.Ack(s.Context(), queue.Result{Outcome: queue.OutcomeVerified}))
	again := s.one()
	if took := time.Since(start); again.Sequence != 1 || took < delay {
		s.Errorf("message %d after %v", again.Sequence, took)
	}
	s.ok(again.Ack(s.Context(), queue.Result{Outcome: queue.OutcomeVerified}))
}

func (s suite) settledOnce() {
	s.publish(queue.Message{EmployeeID: "EMP-1"})
	d := s.one()
	s.ok(d.Ack(s.Context(), queue.Result{Outcome: queue.OutcomeVerified}))
	s.is(d.Ack(s.Context(), queue.Result{}), queue.ErrSettled)
	s.is(d.Retry(s.Context(), 0), queue.ErrSettled)
	s.is(d.DeadLetter(s.Context(), queue.Failure{Reason: "bad_record"}), queue.ErrSettled)
	if len(s.Results()) != 1 || len(s.Dead()) != 0 {
		s.Error("the second settlement did something")
	}
}

func (s suite) abandon() {
	s.publish(queue.Message{EmployeeID: "EMP-1"})
	start := time.Now()
	d := s.one()
	d.Abandon()
	s.is(d.Extend(s.Context()), queue.ErrLeaseLost)
	s.is(d.Ack(s.Context(), queue.Result{}), queue.ErrLeaseLost)
	s.is(d.Retry(s.Context(), 0), queue.ErrLeaseLost)
	again := s.one()
	if took := time.Since(start); took < s.Queue.AckWait() {
		s.Errorf("came again after %v", took)
	}
	s.ok(again.Ack(s.Context(), queue.Result{Outcome: queue.OutcomeVerified}))
}

func (s suite) deadLetter() {
	own := map[string][]string{"X-Own": {"kept"}, queue.HeaderBatch: {"b"}, queue.HeaderTrace: {"00-1-2-01"}}
	s.publish(queue.Message{EmployeeID: "EMP-1", Data: []byte(`{"a":1}`), Header: own, ID: "id"})
	d := s.one()
	f := queue.Failure{
		EmployeeID: "EMP-1", Version: "7", Reason: "unverified", Class: "exhausted", Error: "not as expected", Status: 200, CorrelationID: "c", TraceID: "4bf92f3577b34da6a3ce929d0e0e4736",
		Attempts: 5, First: d.Published.UTC(), Last: d.Published.Add(time.Minute).UTC(), MappingVersion: "m",
		Expected: json.RawMessage(`[{"name":"Billing"}]`), Actual: json.RawMessage(`[]`), Worker: "w", App: "v1",
	}
	s.ok(d.DeadLetter(s.Context(), f))
	if n := s.Waiting(); n != 0 {
		s.Errorf("%d records wait", n)
	}
	dead := s.Dead()
	if len(dead) != 1 {
		s.Fatalf("%d dead letters", len(dead))
	}
	if diff := cmp.Diff(f, dead[0].Failure); diff != "" {
		s.Error(diff)
	}
	got := dead[0]
	if string(got.Data) != `{"a":1}` || got.Order != d.Order || got.Subject != d.Subject || got.Batch != "b" || !got.Published.Equal(d.Published) {
		s.Errorf("%+v", got)
	}
	for name, values := range own {
		if !slices.Equal(got.Header[name], values) {
			s.Errorf("header %s: %v", name, got.Header[name])
		}
	}
	r := s.Results()
	if len(r) != 1 || r[0].Outcome != queue.OutcomeDead || r[0].Reason != "unverified" || r[0].Attempt != 5 || r[0].Batch != "b" {
		s.Errorf("results: %+v", r)
	}
}

func (s suite) replay() {
	s.publish(queue.Message{EmployeeID: "EMP-1", Data: []byte("older"), ID: "id", Header: map[string][]string{"X-Own": {"kept"}}})
	s.publish(queue.Message{EmployeeID: "EMP-1", Data: []byte("newer")})
	d := s.one()
	for replays := 1; replays <= 2; replays++ { // the second time it is a dead letter of a replay
		s.ok(d.DeadLetter(s.Context(), queue.Failure{EmployeeID: "EMP-1", Reason: "unverified"}))
		dead := s.Dead()
		if len(dead) != 1 || dead[0].Replays != replays-1 {
			s.Fatalf("dead letters: %+v", dead)
		}
		s.ok(s.Replay(s.Context(), dead[0].Sequence))
		s.is(s.Replay(s.Context(), dead[0].Sequence), queue.ErrNotFound)
		if replays == 1 {
			s.ok(s.one().Ack(s.Context(), queue.Result{Outcome: queue.OutcomeVerified}))
		}
		d = s.one()
		if string(d.Data) != "older" || d.Order.Seq != 1 || d.Sequence == 1 || d.Replays != replays || d.Subject != "employees.records.EMP-1" {
			s.Fatalf("replayed: %q %+v at %d, %d replays, on %s", d.Data, d.Order, d.Sequence, d.Replays, d.Subject)
		}
		if d.Header["X-Own"][0] != "kept" {
			s.Errorf("headers: %v", d.Header)
		}
	}
	s.ok(d.Ack(s.Context(), queue.Result{Outcome: queue.OutcomeSuperseded}))
	if n := len(s.Results()); n != 4 {
		s.Errorf("%d results", n)
	}
}

func (s suite) newer() {
	s.publish(queue.Message{EmployeeID: "EMP-1", Data: []byte("a")})
	first := s.one()
	if _, _, ok, err := s.Queue.Newer(s.Context(), first, "EMP-1"); ok || err != nil {
		s.Errorf("newer than itself: %v, %v", ok, err)
	}
	s.publish(queue.Message{EmployeeID: "EMP-2", Data: []byte("other")})
	s.publish(queue.Message{Data: []byte("b")})
	s.publish(queue.Message{EmployeeID: "EMP-1", Data: []byte("c")})
	bare := s.fetch(2, time.Second)[1]
	for _, d := range []*queue.Delivery{first, bare} {
		data, order, ok, err := s.Queue.Newer(s.Context(), d, "EMP-1")
		if string(data) != "c" || order.Seq != 4 || order.Epoch != d.Order.Epoch || !ok || err != nil {
			s.Errorf("newer than %d: %q %+v, %v, %v", d.Sequence, data, order, ok, err)
		}
	}
	if _, _, ok, err := s.Queue.Newer(s.Context(), bare, "EMP-9"); ok || err != nil {
		s.Errorf("of an employee without records: %v, %v", ok, err)
	}
}
