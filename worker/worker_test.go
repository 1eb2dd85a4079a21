package worker

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"skillsync/genesys"
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

func TestACachedUserThatIsGoneIsLookedUpOnceMore(t *testing.T) {
	inBubble(t, func(b *bench) {
		var finds atomic.Int32
		var gone atomic.Bool
		b.org.onFind = func(genesys.Person) (string, error) { return fmt.Sprint("user-", finds.Add(1)), nil }
		b.org.onRead = func(id string) error {
			if id == "user-1" && gone.Load() {
				return genesys.ErrUserNotFound
			}
			return nil
		}
		defer b.start(b.worker("w"))()
		b.publish("E1", "a")
		b.settle(time.Minute)
		gone.Store(true)
		b.publish("E1", "b")
		b.settle(time.Minute)
		b.wantOutcomes(map[string]int{"verified": 2})
		if n := finds.Load(); n != 2 {
			t.Errorf("%d lookups", n)
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
		dead := b.queue.Dead()[0]
		for where, text := range map[string]string{"log": log.String(), "dead letter": dead.Error, "its try": dead.Tries[0].Error} {
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

func TestTheNearestSkillIsNamedEvenIfADepartmentIsCalledLikeIt(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.org.onPatch = func(context.Context, string) error {
			return &genesys.UnknownSkillError{
				Names: []string{"Biling"}, Nearest: map[string][]string{"Biling": {"Billing"}},
				Err: &genesys.Error{Op: "patch", Status: 400, Message: "Jane Q. Secret has no such skill"},
			}
		}
		defer b.start(b.worker("w"))()
		b.publish("E1", "a", map[string]any{"team": "Billing", "name": "Jane Q. Secret"})
		b.settle(time.Minute)
		b.wantOutcomes(map[string]int{"skill_unknown": 1})
		if text := b.queue.Dead()[0].Error; !strings.Contains(text, `did you mean "Billing"?`) || strings.Contains(text, "Jane") {
			t.Errorf("the dead letter says %s", text)
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
