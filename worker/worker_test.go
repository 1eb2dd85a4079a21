package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"skillsync/genesys"
	"skillsync/queue"
	"skillsync/queue/queuetest"
)

func TestAChangedRecordIsPatchedOnceAndVerified(t *testing.T) {
	inBubble(t, func(b *bench) {
		defer b.start(b.worker("w"))()
		b.publish("E1", "a")
		b.settle(time.Minute)
		b.wantOutcomes(map[string]int{"verified": 1})
		if got, n := b.org.has("E1"), b.org.patched("E1"); got != "[A]" || n != 1 {
			t.Errorf("the user has %s after %d patches", got, n)
		}
	})
}

func TestASkillThatAppearsLateIsPolledForAndPatchedOnce(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.org.lag = 20 * time.Second
		defer b.start(b.worker("w"))()
		b.publish("E1", "a")
		b.settle(time.Minute)
		b.wantOutcomes(map[string]int{"verified": 1})
		if n := b.org.patched("E1"); n != 1 {
			t.Errorf("%d patches", n)
		}
		if r := b.queue.Results()[0]; r.Attempt != 1 {
			t.Errorf("waiting spent attempts: verified at attempt %d", r.Attempt)
		}
		if b.org.reads < 4 {
			t.Errorf("only %d reads: it was not polled", b.org.reads)
		}
	})
}

func TestAPatchThatStoredNothingEndsUnverifiedAfterOnePatch(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.org.lag = 1000 * time.Hour
		defer b.start(b.worker("w"))()
		b.publish("E1", "a")
		b.settle(time.Hour)
		b.wantOutcomes(map[string]int{"unverified": 1})
		if n := b.org.patched("E1"); n != 1 {
			t.Errorf("%d patches; only the read may be repeated", n)
		}
		dead := b.queue.Dead()[0]
		if string(dead.Expected) != `[{"name":"A","proficiency":1}]` || string(dead.Actual) != `[]` || dead.Attempts != 5 {
			t.Errorf("the dead letter says expected %s, actual %s, %d attempts", dead.Expected, dead.Actual, dead.Attempts)
		}
	})
}

func TestARecordThatIsRightAlreadyCostsNoPatchAndTheSecondTimeNoRequest(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.org.set(b.org.user("user-of-E1"), []genesys.Skill{{Name: "A", Proficiency: 1}})
		defer b.start(b.worker("w"))()
		b.publish("E1", "a")
		b.settle(time.Minute)
		before := b.org.reads + b.org.finds
		b.publish("E1", "a")
		b.settle(time.Minute)
		b.wantOutcomes(map[string]int{"unchanged": 2})
		if n := b.org.patched("E1"); n != 0 {
			t.Errorf("%d patches", n)
		}
		if after := b.org.reads + b.org.finds; after != before {
			t.Errorf("the same state again cost %d requests", after-before)
		}
	})
}

func TestASkillSetByHandBetweenReadAndPatchSurvives(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.org.onPatch = func(context.Context, string) error {
			b.org.onPatch = nil
			b.org.mu.Lock()
			defer b.org.mu.Unlock()
			b.org.set(b.org.user("user-of-E1"), []genesys.Skill{{Name: "By hand", Proficiency: 5}})
			return nil
		}
		defer b.start(b.worker("w"))()
		b.publish("E1", "a")
		b.settle(time.Minute)
		b.wantOutcomes(map[string]int{"verified": 1})
		if got := b.org.has("E1"); got != "[A By hand]" {
			t.Errorf("the user has %s", got)
		}
		if r := b.queue.Results()[0]; r.Attempt != 1 {
			t.Errorf("a stale version spent attempts: %d", r.Attempt)
		}
	})
}

func TestOutagesAreRetriedAndTheDeadLetterKeepsTheFacts(t *testing.T) {
	outage := &genesys.Error{Op: "patch", Status: 503, Code: "service.unavailable", CorrelationID: "c-1"}
	t.Run("two failures, then success", func(t *testing.T) {
		inBubble(t, func(b *bench) {
			var n atomic.Int32
			b.org.onPatch = func(context.Context, string) error {
				if n.Add(1) <= 2 {
					return outage
				}
				return nil
			}
			defer b.start(b.worker("w"))()
			b.publish("E1", "a")
			b.settle(time.Minute)
			b.wantOutcomes(map[string]int{"verified": 1})
			if r := b.queue.Results()[0]; r.Attempt != 3 {
				t.Errorf("verified at attempt %d", r.Attempt)
			}
		})
	})
	t.Run("for ever", func(t *testing.T) {
		inBubble(t, func(b *bench) {
			b.org.onPatch = func(context.Context, string) error { return outage }
			defer b.start(b.worker("w"))()
			b.publish("E1", "a")
			b.settle(time.Hour)
			b.wantOutcomes(map[string]int{"retries_exhausted": 1})
			dead := b.queue.Dead()[0]
			if dead.Status != 503 || dead.CorrelationID != "c-1" || dead.Attempts != 5 || dead.EmployeeID != "E1" || dead.Last.Before(dead.First) {
				t.Errorf("the dead letter says %+v", dead.Failure)
			}
		})
	})
}

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

func TestBadRecordsAreDeadLettersBeforeAnythingElse(t *testing.T) {
	for name, row := range map[string]struct{ data, reason string }{
		"no JSON":            {`{"employee_id":`, "bad_record"},
		"a wrong type":       {`{"employee_id":8842}`, "bad_record"},
		"no employee":        {`{"department":"a"}`, "bad_record"},
		"nested":             {`{"employee_id":"E1","department":{"name":"a"}}`, "bad_record"},
		"a duplicate key":    {`{"employee_id":"E1","department":"a","department":"b"}`, "bad_record"},
		"invalid UTF-8":      {"{\"employee_id\":\"E1\",\"department\":\"\xff\"}", "bad_record"},
		"one MiB":            {`{"employee_id":"E1","department":"` + strings.Repeat("x", 1<<20) + `"}`, "bad_record"},
		"empty":              {``, "bad_record"},
		"nothing to map":     {`{"employee_id":"E1","shoe_size":"44"}`, "no_attributes"},
		"a user id, no UUID": {`{"employee_id":"E1","department":"a","user_id":"../x"}`, "bad_record"},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				defer b.start(b.worker("w"))()
				b.publishRaw("E1", []byte(row.data))
				b.settle(time.Minute)
				b.wantOutcomes(map[string]int{row.reason: 1})
				if got := string(b.queue.Dead()[0].Data); got != row.data {
					t.Errorf("the dead letter holds %d bytes of %d", len(got), len(row.data))
				}
				if n := b.org.finds + b.org.reads; n > 0 {
					t.Errorf("it cost %d requests", n)
				}
			})
		})
	}
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

func TestNewerWinsInEveryOrder(t *testing.T) {
	v := func(n int) map[string]any { return map[string]any{"version": n} }
	at := func(s string) map[string]any { return map[string]any{"updated_at": s} }
	t.Run("the older record waits behind the newer one", func(t *testing.T) {
		inBubble(t, func(b *bench) {
			defer b.start(b.worker("w"))()
			b.publish("E1", "b", v(2))
			b.settle(time.Minute)
			b.publish("E1", "a", v(1))
			b.settle(time.Minute)
			b.wantOutcomes(map[string]int{"verified": 1, "superseded": 1})
			if got := b.org.has("E1"); got != "[B]" {
				t.Errorf("the user has %s", got)
			}
		})
	})
	t.Run("the newer record waits in the stream", func(t *testing.T) {
		inBubble(t, func(b *bench) {
			b.publish("E1", "a")
			b.publish("E1", "b")
			b.publish("E1", "c")
			defer b.start(b.worker("w"))()
			b.settle(time.Minute)
			b.wantOutcomes(map[string]int{"superseded": 2, "verified": 1})
			if got, n := b.org.has("E1"), b.org.patched("E1"); got != "[C]" || n != 1 {
				t.Errorf("the user has %s after %d patches", got, n)
			}
		})
	})
	t.Run("time stamps decide over the order of publishing", func(t *testing.T) {
		inBubble(t, func(b *bench) {
			b.publish("E1", "b", at("2026-11-23T10:00:00Z"))
			b.publish("E1", "a", at("2026-11-23T10:00:00+02:00"))
			defer b.start(b.worker("w"))()
			b.settle(3 * time.Minute)
			b.outcomes() // the older one may have come first, and then it is verified too
			if got := b.org.has("E1"); got != "[B]" {
				t.Errorf("the user has %s", got)
			}
		})
	})
	t.Run("a replay of an older record", func(t *testing.T) {
		inBubble(t, func(b *bench) {
			fail := true
			b.org.onFind = func(p genesys.Person) (string, error) {
				if fail {
					return "", genesys.ErrUserNotFound
				}
				return "user-of-" + p.EmployeeID, nil
			}
			defer b.start(b.worker("w"))()
			b.publish("E1", "a")
			b.settle(time.Minute)
			fail = false
			b.publish("E1", "b")
			b.settle(time.Minute)
			if err := b.queue.Replay(b.Context(), b.queue.Dead()[0].Sequence); err != nil {
				t.Fatal(err)
			}
			b.settle(time.Minute)
			if got := b.org.has("E1"); got != "[B]" {
				t.Errorf("the user has %s", got)
			}
			if last := b.queue.Results()[2]; last.Outcome != queue.OutcomeSuperseded {
				t.Errorf("the replay ended as %s", last.Outcome)
			}
		})
	})
	t.Run("a newer record that cannot be applied does not hide an older one that can", func(t *testing.T) {
		inBubble(t, func(b *bench) {
			b.publish("E1", "a")
			b.publishRaw("E1", []byte(`{"employee_id":"E1","department":7,"department":8}`))
			defer b.start(b.worker("w"))()
			b.settle(time.Minute)
			b.wantOutcomes(map[string]int{"verified": 1, "bad_record": 1})
		})
	})
}

func TestTwoWorkersNeverHoldOneEmployeeAtOnce(t *testing.T) {
	inBubble(t, func(b *bench) {
		var busy, most atomic.Int32
		b.org.onPatch = func(context.Context, string) error {
			most.Store(max(most.Load(), busy.Add(1)))
			time.Sleep(2 * time.Second)
			busy.Add(-1)
			return nil
		}
		defer b.start(b.worker("w1"))()
		defer b.start(b.worker("w2"))()
		for i := range 6 { // without a key on the subject nothing is superseded in the stream
			data, _ := json.Marshal(map[string]any{"employee_id": "E1", "department": string("abc"[i%3])})
			b.publishRaw("", data)
		}
		b.settle(10 * time.Minute)
		if most.Load() > 1 {
			t.Errorf("%d patches of one user at once", most.Load())
		}
		if got := b.org.has("E1"); got != "[C]" {
			t.Errorf("the user has %s, the newest record says C", got)
		}
		b.outcomes()
	})
}

func TestALongWaitKeepsTheLease(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.org.onPatch = func(context.Context, string) error {
			time.Sleep(5 * time.Minute) // the budget is dry
			return nil
		}
		defer b.start(b.worker("w1"))()
		defer b.start(b.worker("w2"))()
		b.publish("E1", "a")
		b.settle(10 * time.Minute)
		b.wantOutcomes(map[string]int{"verified": 1})
		if n := b.org.patched("E1"); n != 1 {
			t.Errorf("%d patches", n)
		}
	})
}

func TestARecordHeldForTooLongIsGivenBackWithItsAttempt(t *testing.T) {
	inBubble(t, func(b *bench) {
		var stuck atomic.Bool
		stuck.Store(true)
		b.org.onPatch = func(ctx context.Context, _ string) error {
			if !stuck.Load() {
				return nil
			}
			<-ctx.Done()
			return ctx.Err()
		}
		w := b.worker("w")
		w.Hold = time.Minute
		defer b.start(w)()
		b.publish("E1", "a")
		time.Sleep(10 * time.Minute)
		stuck.Store(false)
		b.settle(3 * time.Minute)
		b.wantOutcomes(map[string]int{"verified": 1})
		if r := b.queue.Results()[0]; r.Attempt != 1 {
			t.Errorf("verified at attempt %d; waiting must not spend any", r.Attempt)
		}
	})
}

func TestADrainGivesUnpatchedRecordsBackAtOnceAndLetsPatchedOnesFinish(t *testing.T) {
	inBubble(t, func(b *bench) {
		hold := make(chan struct{})
		b.org.onPatch = func(ctx context.Context, user string) error {
			if user != "user-of-WAITS" {
				return nil
			}
			select { // like a request that waits for the budget
			case <-hold:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		stop := b.start(b.worker("w1"))
		b.publish("PATCHED", "a")
		b.publish("WAITS", "a")
		time.Sleep(time.Second)
		if b.org.patched("PATCHED") != 1 {
			t.Fatal("not patched yet")
		}
		began := time.Now()
		stop()
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("the drain took %s; the settle time is 3 s", took)
		}
		if got := b.outcomes(); got["verified"] != 1 || b.queue.Waiting() != 1 {
			t.Errorf("after the drain: %v, %d waiting", got, b.queue.Waiting())
		}
		close(hold)
		defer b.start(b.worker("w2"))()
		b.settle(5 * time.Second) // at once: not after a lease or a claim lapsed
		b.wantOutcomes(map[string]int{"verified": 2})
		if r := b.queue.Results()[1]; r.Attempt != 1 {
			t.Errorf("the shutdown spent an attempt: verified at %d", r.Attempt)
		}
	})
}

func TestWhatIsNotVerifiedWithinTheGraceGoesBackAndIsNotPatchedAgain(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.org.lag = 50 * time.Second
		w := b.worker("w1")
		w.Grace = 10 * time.Second
		stop := b.start(w)
		b.publish("E1", "a")
		time.Sleep(5 * time.Second)
		began := time.Now()
		stop()
		if took := time.Since(began); took > w.Grace+time.Second {
			t.Errorf("the drain took %s of %s", took, w.Grace)
		}
		defer b.start(b.worker("w2"))()
		b.settle(time.Minute)
		b.wantOutcomes(map[string]int{"verified": 1})
		if n := b.org.patched("E1"); n != 1 {
			t.Errorf("%d patches", n)
		}
	})
}

func TestRefusedCredentialsStopTheFetchingAndSpendNoAttempt(t *testing.T) {
	inBubble(t, func(b *bench) {
		var refused atomic.Bool
		var asked atomic.Int32
		refused.Store(true)
		b.org.onFind = func(p genesys.Person) (string, error) {
			asked.Add(1)
			if refused.Load() {
				return "", &genesys.Error{Op: "token", Status: 401, Code: "invalid_client"}
			}
			return "user-of-" + p.EmployeeID, nil
		}
		w := b.worker("w")
		w.InFlight = 4
		defer b.start(w)()
		for i := range 20 {
			b.publish(fmt.Sprint("E", i), "a")
		}
		time.Sleep(time.Second)
		if w.NotReady() == "" {
			t.Error("the worker says that it is ready")
		}
		early := asked.Load()
		time.Sleep(10 * time.Minute)
		if probes := asked.Load() - early; probes < 8 || probes > 12 {
			t.Errorf("%d probes in ten minutes", probes)
		}
		refused.Store(false)
		b.settle(10 * time.Minute)
		b.wantOutcomes(map[string]int{"verified": 20})
		for _, r := range b.queue.Results() {
			if r.Attempt != 1 {
				t.Errorf("record %d was verified at attempt %d", r.Sequence, r.Attempt)
			}
		}
		time.Sleep(2 * time.Second)
		if why := w.NotReady(); why != "" {
			t.Errorf("still not ready: %s", why)
		}
	})
}

func TestAnOutageOfEverythingDeadLettersNothing(t *testing.T) {
	inBubble(t, func(b *bench) {
		var down atomic.Bool
		down.Store(true)
		b.org.onRead = func(string) error {
			if down.Load() {
				return &genesys.Error{Op: "read_batch", Status: 503}
			}
			return nil
		}
		w := b.worker("w")
		w.InFlight = 50
		defer b.start(w)()
		for i := range 60 {
			b.publish(fmt.Sprint("E", i), "a")
		}
		time.Sleep(6 * time.Hour)
		if got := b.outcomes(); len(got) > 0 {
			t.Errorf("in the outage: %v", got)
		}
		down.Store(false)
		b.settle(time.Hour)
		b.wantOutcomes(map[string]int{"verified": 60})
	})
}

func TestAFailedBatchIsOneFailureToTheBreaker(t *testing.T) {
	inBubble(t, func(b *bench) {
		shared := &genesys.Error{Op: "read_batch", Status: 500}
		var failed sync.Map
		b.org.onRead = func(id string) error {
			if _, again := failed.LoadOrStore(id, true); !again {
				return shared
			}
			return nil
		}
		w := b.worker("w")
		defer b.start(w)()
		for i := range 60 {
			b.publish(fmt.Sprint("E", i), "a")
		}
		b.settle(30 * time.Second) // not after a minute of probing
		b.wantOutcomes(map[string]int{"verified": 60})
	})
}

func TestALongPauseGivesRecordsBackAndStopsTheFetching(t *testing.T) {
	inBubble(t, func(b *bench) {
		until := time.Now().Add(30 * time.Minute)
		b.org.onFind = func(p genesys.Person) (string, error) {
			if rest := time.Until(until); rest > 0 {
				return "", &genesys.Error{Op: "find", Status: 429, RetryAfter: rest}
			}
			return "user-of-" + p.EmployeeID, nil
		}
		w := b.worker("w")
		defer b.start(w)()
		for i := range 30 {
			b.publish(fmt.Sprint("E", i), "a")
		}
		time.Sleep(2 * time.Second)
		if w.NotReady() == "" {
			t.Error("the worker says that it is ready")
		}
		b.settle(time.Hour)
		b.wantOutcomes(map[string]int{"verified": 30})
		for _, r := range b.queue.Results() {
			if r.Attempt != 1 {
				t.Errorf("record %d was verified at attempt %d", r.Sequence, r.Attempt)
			}
		}
	})
}

func TestACachedUserThatIsGoneIsLookedUpOnceMore(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.org.onFind = func(p genesys.Person) (string, error) { return fmt.Sprint("user-", b.org.finds), nil }
		b.org.onRead = func(id string) error {
			if id == "user-1" && b.org.finds == 1 && b.count == 2 {
				return genesys.ErrUserNotFound
			}
			return nil
		}
		defer b.start(b.worker("w"))()
		b.publish("E1", "a")
		b.settle(time.Minute)
		b.publish("E1", "b")
		b.settle(time.Minute)
		b.wantOutcomes(map[string]int{"verified": 2})
		if b.org.finds != 2 {
			t.Errorf("%d lookups", b.org.finds)
		}
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

func TestABrokerOutageIsWaitedOutAndSaid(t *testing.T) {
	inBubble(t, func(b *bench) {
		w := b.worker("w")
		b.queue.Down(true)
		defer b.start(w)()
		time.Sleep(10 * time.Second)
		if why := w.NotReady(); !strings.Contains(why, "cannot fetch records") {
			t.Errorf("not ready: %q", why)
		}
		b.queue.Down(false)
		b.publish("E1", "a")
		b.settle(time.Minute)
		b.wantOutcomes(map[string]int{"verified": 1})
		if why := w.NotReady(); why != "" {
			t.Errorf("still not ready: %s", why)
		}
	})
}

func TestTheCustomAttributesProfilePatchesUnlessTheLedgerKnowsTheState(t *testing.T) {
	inBubble(t, func(b *bench) {
		// The org's rules give the skills; here they are there before anything is written.
		b.org.set(b.org.user("user-of-E1"), []genesys.Skill{{Name: "A", Proficiency: 1}})
		var attributes []string
		w := b.worker("w")
		w.Provisioner.Profile = genesys.CustomAttributes
		w.Provisioner.Directory = attributesOnly{b.org, &attributes}
		w.Fresh = time.Hour
		defer b.start(w)()
		b.publish("E1", "a")
		b.settle(time.Minute)
		b.publish("E1", "a")
		b.settle(time.Minute)
		b.wantOutcomes(map[string]int{"verified": 1, "unchanged": 1})
		if len(attributes) != 1 {
			t.Errorf("written: %q; skills that happen to be right are no proof, and the ledger is", attributes)
		}
		reads := b.org.reads
		time.Sleep(2 * time.Hour)
		b.publish("E1", "a")
		b.settle(time.Minute)
		if len(attributes) != 1 || b.org.reads != reads+1 {
			t.Errorf("an old entry: %d patches, %d reads; a read must decide", len(attributes), b.org.reads-reads)
		}
	})
}

// attributesOnly is an org that takes attributes and gives skills as it pleases.
type attributesOnly struct {
	*org
	written *[]string
}

func (a attributesOnly) Patch(_ context.Context, _ string, p genesys.Patch) (string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	*a.written = append(*a.written, fmt.Sprint(p.Attributes))
	return "", nil
}

func TestNoValueOfARecordGetsIntoTheLogOrTheDeadLetter(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.org.onPatch = func(context.Context, string) error {
			return &genesys.Error{Op: "patch", Status: 400, Message: `value "Jane Q. Secret" of jane@example.com in a is wrong`}
		}
		var mu sync.Mutex
		var log strings.Builder
		w := b.worker("w")
		w.Log = w.Log.Output(writer(func(p []byte) (int, error) {
			mu.Lock()
			defer mu.Unlock()
			return log.Write(p)
		}))
		defer b.start(w)()
		b.publish("E1", "a", map[string]any{"name": "Jane Q. Secret", "email": "jane@example.com"})
		b.settle(time.Minute)
		b.wantOutcomes(map[string]int{"rejected": 1})
		mu.Lock()
		defer mu.Unlock()
		for where, text := range map[string]string{"log": log.String(), "dead letter": b.queue.Dead()[0].Error} {
			if strings.Contains(text, "Jane") || strings.Contains(text, "example.com") {
				t.Errorf("%s: %s", where, text)
			}
			if !strings.Contains(text, "‹name›") {
				t.Errorf("%s does not say whose value it was: %s", where, text)
			}
		}
		if !strings.Contains(log.String(), `"key":"E1"`) {
			t.Errorf("the log does not name the employee: %s", log.String())
		}
	})
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

func TestEachDeliveryWritesOneLogEvent(t *testing.T) {
	inBubble(t, func(b *bench) {
		var mu sync.Mutex
		var verdicts []string
		var n atomic.Int32
		b.org.onPatch = func(context.Context, string) error {
			if n.Add(1) == 1 {
				return &genesys.Error{Op: "patch", Status: 500}
			}
			return nil
		}
		w := b.worker("w")
		w.Log = w.Log.Output(writer(func(p []byte) (int, error) {
			var e struct{ Message, Verdict string }
			if json.Unmarshal(p, &e) == nil && e.Message == "record" {
				mu.Lock()
				defer mu.Unlock()
				verdicts = append(verdicts, e.Verdict)
			}
			return len(p), nil
		}))
		defer b.start(w)()
		b.publish("E1", "a")
		b.settle(time.Minute)
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		if got := fmt.Sprint(verdicts); got != "[retry verified]" {
			t.Errorf("logged %s", got)
		}
	})
}
