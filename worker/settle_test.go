package worker

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"skillsync/genesys"
	"skillsync/queue"
	"skillsync/queue/ledger"
	"skillsync/queue/queuetest"
)

// told is a dead letter's tries in short.
func told(tries []queue.Try) string {
	var out []string
	for _, t := range tries {
		out = append(out, fmt.Sprintf("%d:%d:%s", t.Number, t.Status, t.CorrelationID))
	}
	return strings.Join(out, " ")
}

func TestADeadLetterTellsOfEveryAttemptThatCounted(t *testing.T) {
	inBubble(t, func(b *bench) {
		var n atomic.Int32
		b.org.onPatch = func(context.Context, string) error {
			n := int(n.Add(1))
			status := map[int]int{2: 429, 4: 0, 6: 502}[n] // the second is given back
			if n%2 == 1 {
				status = 500 + n
			}
			return &genesys.Error{Op: "patch", Status: status, CorrelationID: fmt.Sprint("c", n)}
		}
		w := b.worker("w")
		w.Name = "w"
		defer b.start(w)()
		b.publish("E1", "a")
		b.settle(time.Hour)
		dead := b.queue.Dead()[0]
		if got := told(dead.Tries); got != "1:501:c1 2:503:c3 3:0:c4 4:505:c5 5:502:c6" {
			t.Errorf("the dead letter tells of %s", got)
		}
		last := dead.Tries[4]
		if last.Status != dead.Status || last.CorrelationID != dead.CorrelationID || last.Number != dead.Attempts {
			t.Errorf("the last is %+v, of a dead letter that says %+v", last, dead.Failure)
		}
		for i, try := range dead.Tries {
			if try.Worker != "w" || !strings.HasPrefix(try.Error, "genesys: patch: ") {
				t.Errorf("told: %+v", try)
			}
			if i > 0 && !try.At.After(dead.Tries[i-1].At) || try.At.Before(dead.First.Truncate(time.Millisecond)) || try.At.After(dead.Last) {
				t.Errorf("attempt %d failed at %s, of %s to %s", try.Number, try.At, dead.First, dead.Last)
			}
		}

		if err := b.queue.Replay(b.Context(), dead.Sequence); err != nil {
			t.Fatal(err)
		}
		b.count++
		b.settle(time.Hour)
		if again := b.queue.Dead()[0].Tries; len(again) != 5 || again[0].Number != 1 || again[0].CorrelationID != "c7" {
			t.Errorf("after its replay the dead letter tells of %s", told(again))
		}
	})
}

func TestAnAttemptThatDiedWithItsWorkerIsAGapInTheNumbers(t *testing.T) {
	inBubble(t, func(b *bench) {
		l := newLife(6, false)
		stop := b.startMortal("victim", l, 1)
		b.publish("E1", "a")
		<-l.died
		stop()
		b.org.onPatch = func(context.Context, string) error {
			return &genesys.Error{Op: "patch", Status: 400, CorrelationID: "c"}
		}
		w := b.worker("other")
		w.Name = "other"
		defer b.start(w)()
		b.settle(10 * time.Minute)
		b.wantOutcomes(map[string]int{"rejected": 1})
		if tries := b.queue.Dead()[0].Tries; told(tries) != "2:400:c" || tries[0].Worker != "other" {
			t.Errorf("the dead letter tells of %+v", tries)
		}
	})
}

func TestADeadLetterMadeFromTheLedgersMarkTellsOfItsAttempts(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.org.lag = 1000 * time.Hour
		b.queue.Fail(queuetest.DeadLetter, queuetest.Before)
		defer b.start(b.worker("w"))()
		b.publish("E1", "a")
		b.settle(time.Hour)
		b.wantOutcomes(map[string]int{"unverified": 1})
		dead := b.queue.Dead()[0]
		if got := told(dead.Tries); got != "1:0:correlation 2:0: 3:0: 4:0: 5:0:" {
			t.Errorf("the dead letter tells of %s", got)
		}
		if string(dead.Expected) != `[{"name":"A","proficiency":1}]` || dead.Desired == "" {
			t.Errorf("the dead letter says %+v", dead.Failure)
		}
	})
}

func TestADeadLetterSaysTheSameOfWhatTwoMappingsWantAlike(t *testing.T) {
	died := func(rules string, fields map[string]any) (f queue.Failure) {
		inBubble(t, func(b *bench) {
			b.org.onFind = func(genesys.Person) (string, error) { return "", genesys.ErrUserNotFound }
			w := b.worker("w")
			w.Provisioner.Mapping = parse(t, rules)
			defer b.start(w)()
			b.publish("E1", "a", fields)
			b.settle(time.Minute)
			f = b.queue.Dead()[0].Failure
		})
		return f
	}
	one, other := died(rules, nil), died(rules+"\n  - {skill: D, proficiency: 3, when: department == \"d\"}", nil)
	if one.Desired == "" || one.Desired != other.Desired || one.MappingVersion == other.MappingVersion {
		t.Errorf("%q by mapping %s, %q by mapping %s", one.Desired, one.MappingVersion, other.Desired, other.MappingVersion)
	}
	if changed := died(rules, map[string]any{"department": "b"}); changed.Desired == one.Desired {
		t.Error("another department, and the same is wanted")
	}
	if none := died(rules, map[string]any{"department": nil}); none.Reason != string(NoAttributes) || none.Desired != "" {
		t.Errorf("of a record without answer: %+v", none)
	}
}

func TestMarksAndNotesFitWhateverIsInThem(t *testing.T) {
	try := queue.Try{Number: 1, At: time.Now(), Status: 503, CorrelationID: strings.Repeat("c", 100), Error: strings.Repeat("&", 200), Worker: strings.Repeat("w", 60)}
	skills := json.RawMessage(`["` + strings.Repeat("s", 2000) + `"]`)
	f := queue.Failure{Reason: "unverified", Error: strings.Repeat("<", 1<<10), Expected: skills, Actual: skills, Tries: []queue.Try{try}}
	var marked queue.Failure
	data := mark(f)
	if err := json.Unmarshal(data, &marked); err != nil || len(data) > ledger.MaxFailure {
		t.Fatalf("%d bytes, %v", len(data), err)
	}
	if marked.Reason != f.Reason || !strings.HasPrefix(marked.Error, "<<<") || f.Tries == nil {
		t.Errorf("marked %+v", marked)
	}
	f.Error, f.Actual = "short", nil
	if data := string(mark(f)); !strings.Contains(data, "sss") || strings.Contains(data, `"tries"`) {
		t.Errorf("what fits and is nowhere else is left out: %s", data)
	}

	var noted queue.Try
	data = within(ledger.MaxNote, &try, &try.Error)
	if err := json.Unmarshal(data, &noted); err != nil || len(data) > ledger.MaxNote || !strings.HasPrefix(noted.Error, "&&&") {
		t.Errorf("%d bytes, %v: %+v", len(data), err, noted)
	}
}

func TestANoteOfAnotherKindIsPassedOver(t *testing.T) {
	got := tries([]json.RawMessage{[]byte(`{"number":1}`), []byte(`"words"`), []byte(`null`), []byte(`{}`), []byte(`{"number":4,"new":[]}`)})
	if told(got) != "1:0: 4:0:" {
		t.Errorf("read %s", told(got))
	}
}
