package worker

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"skillsync/genesys"
	"skillsync/queue/queuetest"
)

func TestALostReplyToAPatchIsSafe(t *testing.T) {
	inBubble(t, func(b *bench) {
		var n atomic.Int32
		b.org.afterPatch = func(string) error {
			if n.Add(1) == 1 {
				return &genesys.Error{Op: "patch", Err: errors.New("connection reset")}
			}
			return nil
		}
		defer b.start(b.worker("w"))()
		b.publish("E1", "a")
		b.settle(time.Minute)
		if got := b.org.has("E1"); got != "[A]" {
			t.Errorf("the user has %s", got)
		}
		if got := b.outcomes(); got["verified"]+got["unchanged"] != 1 {
			t.Errorf("outcomes %v", got)
		}
	})
}

func TestAPanicIsRetriedAndThenADeadLetter(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.org.onRead = func(string) error { panic("boom") }
		defer b.start(b.worker("w"))()
		b.publish("E1", "a")
		b.settle(time.Hour)
		b.wantOutcomes(map[string]int{"panic": 1})
	})
}

// Faults come in pairs, at every step that talks to the broker: it did not happen, and it
// happened but the reply was lost. Whatever happens, each record ends exactly once and right.
func TestBrokerFaultsAtEveryStepLoseAndRepeatNothing(t *testing.T) {
	ops := map[queuetest.Op][]queuetest.Fault{
		queuetest.Fetch:      {queuetest.Before},
		queuetest.Newer:      {queuetest.Before},
		queuetest.Ack:        {queuetest.Before, queuetest.Between, queuetest.After},
		queuetest.Retry:      {queuetest.Before, queuetest.After},
		queuetest.DeadLetter: {queuetest.Before, queuetest.Between, queuetest.After, queuetest.Full},
		queuetest.Extend:     {queuetest.Before, queuetest.After},
	}
	kvOps := map[queuetest.Op][]queuetest.Fault{
		queuetest.Get:    {queuetest.Before},
		queuetest.Update: {queuetest.Before, queuetest.After, queuetest.Conflict},
	}
	check := func(t *testing.T, plan func(*bench)) {
		inBubble(t, func(b *bench) {
			var n atomic.Int32
			b.org.onPatch = func(_ context.Context, user string) error {
				if user == "user-of-RETRIED" && n.Add(1) == 1 {
					return &genesys.Error{Op: "patch", Status: 500}
				}
				return nil
			}
			b.org.onFind = func(p genesys.Person) (string, error) {
				if p.EmployeeID == "UNKNOWN" {
					return "", genesys.ErrUserNotFound
				}
				return "user-of-" + p.EmployeeID, nil
			}
			plan(b)
			defer b.start(b.worker("w1"))()
			defer b.start(b.worker("w2"))()
			b.publish("E1", "a")
			b.publish("RETRIED", "b")
			b.publish("UNKNOWN", "c")
			b.publishRaw("BAD", []byte(`{`))
			b.settle(time.Hour)
			got := b.outcomes()
			if got["user_not_found"] != 1 || got["bad_record"] != 1 || got["verified"]+got["unchanged"] != 2 {
				t.Errorf("outcomes %v", got)
			}
			if b.org.has("E1") != "[A]" || b.org.has("RETRIED") != "[B]" {
				t.Errorf("E1 has %s, RETRIED has %s", b.org.has("E1"), b.org.has("RETRIED"))
			}
		})
	}
	for skip := range 6 {
		for op, faults := range ops {
			for _, fault := range faults {
				t.Run(fmt.Sprintf("%s fails in way %d after %d calls", op, fault, skip), func(t *testing.T) {
					check(t, func(b *bench) { b.queue.Fail(op, append(make([]queuetest.Fault, skip), fault)...) })
				})
			}
		}
		for op, faults := range kvOps {
			for _, fault := range faults {
				t.Run(fmt.Sprintf("%s of a key fails in way %d after %d calls", op, fault, skip), func(t *testing.T) {
					check(t, func(b *bench) { b.kv.Fail(op, append(make([]queuetest.Fault, skip), fault)...) })
				})
			}
		}
	}
}

func TestAFullDeadLetterStreamKeepsTheRecord(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.queue.Fail(queuetest.DeadLetter, queuetest.Full, queuetest.Full, queuetest.Full)
		defer b.start(b.worker("w"))()
		b.publishRaw("E1", []byte(`{`))
		time.Sleep(10 * time.Second)
		if b.queue.Waiting() != 1 || len(b.queue.Dead()) != 0 {
			t.Fatal("the record is gone")
		}
		b.settle(10 * time.Minute)
		b.wantOutcomes(map[string]int{"bad_record": 1})
	})
}

func TestADeadLetterStaysOneEvenIfItsRecordWouldGoThroughNow(t *testing.T) {
	inBubble(t, func(b *bench) {
		// The copy is stored, and the worker dies before the record is terminated.
		b.queue.Fail(queuetest.DeadLetter, queuetest.Between)
		b.queue.Fail(queuetest.Retry, queuetest.Before)
		var finds atomic.Int32
		b.org.onFind = func(p genesys.Person) (string, error) {
			if finds.Add(1) == 1 {
				return "", genesys.ErrUserNotFound
			}
			return "user-of-" + p.EmployeeID, nil
		}
		defer b.start(b.worker("w"))()
		b.publish("E1", "a")
		b.settle(10 * time.Minute)
		b.wantOutcomes(map[string]int{"user_not_found": 1})
		if n := b.org.patched("E1"); n != 0 {
			t.Errorf("patched %d times, though a dead letter waits to be replayed", n)
		}
	})
}
