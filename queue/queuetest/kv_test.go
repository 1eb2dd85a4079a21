package queuetest_test

import (
	"errors"
	"testing"
	"time"

	"skillsync/queue"
	"skillsync/queue/queuetest"
)

func TestTheKVInMemoryKeepsTheContract(t *testing.T) {
	queuetest.KVSuite(t, func(*testing.T) queuetest.Bucket { return queuetest.NewKV() })
}

func TestTheKVOfTheBrokerKeepsTheContract(t *testing.T) {
	queuetest.KVSuite(t, func(t *testing.T) queuetest.Bucket {
		kv, err := queuetest.Run(t).KV(t.Context(), queue.LedgerBucket)
		if err != nil {
			t.Fatal(err)
		}
		return kv
	})
}

func TestTheKVInMemoryFailsOnDemand(t *testing.T) {
	for name, test := range map[string]struct {
		fault  queuetest.Fault
		err    error
		stored bool
	}{
		"it did not happen":                   {queuetest.Before, queue.ErrUnreachable, false},
		"it happened, but the reply was lost": {queuetest.After, queue.ErrUnreachable, true},
		"somebody else was first":             {queuetest.Conflict, queue.ErrConflict, false},
		"the fault is none":                   {queuetest.None, nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			kv := queuetest.NewKV()
			kv.Fail(queuetest.Update, test.fault)
			if _, err := kv.Update(t.Context(), "k", []byte("1"), 0); !errors.Is(err, test.err) {
				t.Error("error:", err)
			}
			if _, err := kv.Get(t.Context(), "k"); (err == nil) != test.stored {
				t.Error("afterwards:", err)
			}
		})
	}
	kv := queuetest.NewKV()
	kv.Down(true)
	if _, err := kv.Get(t.Context(), "k"); !errors.Is(err, queue.ErrUnreachable) {
		t.Error("down:", err)
	}
	kv.Down(false)
	if _, err := kv.Get(t.Context(), "k"); !errors.Is(err, queue.ErrNotFound) {
		t.Error("up again:", err)
	}
}

func TestSomebodyElseCanBeQuicker(t *testing.T) {
	kv := queuetest.NewKV()
	kv.Hook = func(op queuetest.Op, key string) {
		kv.Hook = nil
		if _, err := kv.Update(t.Context(), key, []byte("theirs"), 0); err != nil {
			t.Error(err)
		}
	}
	if _, err := kv.Update(t.Context(), "k", []byte("ours"), 0); !errors.Is(err, queue.ErrConflict) || kv.Updates() != 1 {
		t.Error("error:", err)
	}
}

func TestTheQueueInMemoryIsStrict(t *testing.T) {
	for name, misuse := range map[string]func(*queue.Delivery){
		"settled twice": func(d *queue.Delivery) {
			_ = d.Ack(t.Context(), queue.Result{})
			_ = d.Retry(t.Context(), 0)
		},
		"settled after it was abandoned": func(d *queue.Delivery) {
			d.Abandon()
			_ = d.Ack(t.Context(), queue.Result{})
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := &recorder{}
			m := queuetest.NewMemory(r, time.Minute)
			misuse(fetch(t, m))
			if len(r.errors) != 1 {
				t.Error("told the test:", r.errors)
			}
		})
	}
}

func TestTheQueueInMemoryFailsOnDemand(t *testing.T) {
	for name, test := range map[string]struct {
		op                     queuetest.Op
		fault                  queuetest.Fault
		waiting, dead, results int
	}{
		"the acknowledgement did not happen":         {queuetest.Ack, queuetest.Before, 1, 0, 0},
		"only the result of the acknowledgement did": {queuetest.Ack, queuetest.Between, 1, 0, 1},
		"the reply to the acknowledgement was lost":  {queuetest.Ack, queuetest.After, 0, 0, 1},
		"the dead letter did not happen":             {queuetest.DeadLetter, queuetest.Before, 1, 0, 0},
		"the dead letters are full":                  {queuetest.DeadLetter, queuetest.Full, 1, 0, 0},
		"only the copy of the dead letter was made":  {queuetest.DeadLetter, queuetest.Between, 1, 1, 1},
		"the reply to the dead letter was lost":      {queuetest.DeadLetter, queuetest.After, 0, 1, 1},
	} {
		t.Run(name, func(t *testing.T) {
			m := queuetest.NewMemory(t, time.Minute)
			d := fetch(t, m)
			settle := func() error { return d.Ack(t.Context(), queue.Result{}) }
			if test.op == queuetest.DeadLetter {
				settle = func() error { return d.DeadLetter(t.Context(), queue.Failure{Reason: "r"}) }
			}
			m.Fail(test.op, test.fault)
			if err := settle(); err == nil || m.Planned(test.op) != 0 {
				t.Error("it did not fail")
			}
			if m.Waiting() != test.waiting || len(m.Dead()) != test.dead || len(m.Results()) != test.results {
				t.Errorf("%d wait, %d dead, %d results", m.Waiting(), len(m.Dead()), len(m.Results()))
			}
			if err := settle(); err != nil || m.Waiting() != 0 || len(m.Results()) != 1 || len(m.Dead()) > 1 {
				t.Errorf("repeated: %v, %d wait, %d dead, %d results", err, m.Waiting(), len(m.Dead()), len(m.Results()))
			}
		})
	}
}

func fetch(t *testing.T, m *queuetest.Memory) (d *queue.Delivery) {
	t.Helper()
	if _, err := m.Publish(t.Context(), queue.Message{EmployeeID: "EMP-1"}); err != nil {
		t.Fatal(err)
	}
	if n, err := m.Fetch(t.Context(), 1, time.Second, func(got *queue.Delivery) { d = got }); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	return d
}
