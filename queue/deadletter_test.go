package queue_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"skillsync/queue"
	"skillsync/queue/queuetest"
)

// dead makes a dead letter of one employee.
func dead(t testing.TB, b *queue.Broker, q *queue.Queue, employee, reason string) {
	t.Helper()
	must[queue.Ack](t)(b.Publish(t.Context(), queue.Message{EmployeeID: employee, Data: []byte(employee)}))
	ok(t, fetch(t, q, 1)[0].DeadLetter(t.Context(), queue.Failure{EmployeeID: employee, Reason: reason, Error: "a\r\nNats-Msg-Id: x"}))
}

func TestAWorkerThatDiesAfterTheCopyLeavesOneDeadLetter(t *testing.T) {
	admin, dying := withUsers(t, denied("$JS.ACK.>"))
	must[queue.Ack](t)(admin.Publish(t.Context(), queue.Message{EmployeeID: "EMP-1", Data: []byte("x")}))
	f := queue.Failure{EmployeeID: "EMP-1", Reason: "user_not_found"}
	d := fetch(t, must[*queue.Queue](t)(dying.Queue(t.Context())), 1)[0]
	if err := d.DeadLetter(short(t), f); !errors.Is(err, queue.ErrUnreachable) {
		t.Fatal("terminated without permission:", err)
	}
	if n := len(deadLetters(t, admin, queue.Filter{})); n != 1 || backlog(t, admin) != 1 {
		t.Fatalf("after the crash: %d dead letters, %d records", n, backlog(t, admin))
	}
	again := fetch(t, must[*queue.Queue](t)(admin.Queue(t.Context())), 1)[0]
	f.Reason = "unverified" // it may look different the second time
	ok(t, again.DeadLetter(t.Context(), f))
	status := must[queue.Status](t)(admin.Status(t.Context()))
	if status.Backlog != 0 || status.Dead["user_not_found"] != 1 || len(status.Dead) != 1 || status.Results[queue.OutcomeDead] != 1 {
		t.Errorf("%+v", status)
	}
}

func TestNothingIsTerminatedWithoutACopy(t *testing.T) {
	for name, subjects := range map[string]string{"no dead letter": "employees.dead.>", "no result": "employees.results.>"} {
		t.Run(name, func(t *testing.T) {
			admin, worker := withUsers(t, denied(subjects))
			must[queue.Ack](t)(admin.Publish(t.Context(), queue.Message{EmployeeID: "EMP-1"}))
			d := fetch(t, must[*queue.Queue](t)(worker.Queue(t.Context())), 1)[0]
			err := d.DeadLetter(short(t), queue.Failure{Reason: "bad_record"})
			if !errors.Is(err, queue.ErrUnreachable) || backlog(t, admin) != 1 {
				t.Errorf("error %v, %d records left", err, backlog(t, admin))
			}
		})
	}
}

func TestAFullDeadLetterStreamKeepsTheRecord(t *testing.T) {
	b := queuetest.Run(t, queue.Topology{AckWait: 2 * time.Second, DeadMaxBytes: 10 << 10})
	q := must[*queue.Queue](t)(b.Queue(t.Context()))
	must[queue.Ack](t)(b.Publish(t.Context(), queue.Message{EmployeeID: "EMP-1", Data: make([]byte, 20<<10)}))
	d := fetch(t, q, 1)[0]
	if err := d.DeadLetter(t.Context(), queue.Failure{Reason: "bad_record"}); !errors.Is(err, queue.ErrFull) {
		t.Error("error:", err)
	}
	ok(t, d.Retry(t.Context(), 0))
	if again := fetch(t, q, 1)[0]; again.Sequence != d.Sequence || len(again.Data) != 20<<10 {
		t.Error("the record is lost")
	}
}

func TestAReplayInterruptedAfterPublishingIsOneRecord(t *testing.T) {
	t.Parallel()
	admin, dying := withUsers(t, denied("$JS.API.STREAM.MSG.DELETE.>"))
	q := must[*queue.Queue](t)(admin.Queue(t.Context()))
	dead(t, admin, q, "EMP-1", "unverified")
	if err := queuetest.Replay(t.Context(), dying, 1); err == nil || !strings.Contains(err.Error(), "listed still") {
		t.Fatal("deleted without permission:", err)
	}
	ok(t, queuetest.Replay(t.Context(), admin, 1))
	if n := len(deadLetters(t, admin, queue.Filter{})); n != 0 || backlog(t, admin) != 1 {
		t.Errorf("%d dead letters, %d records", n, backlog(t, admin))
	}
}

func TestAReplayInterruptedBeforePublishingKeepsTheDeadLetter(t *testing.T) {
	t.Parallel()
	admin, dying := withUsers(t, denied("employees.records.>"))
	dead(t, admin, must[*queue.Queue](t)(admin.Queue(t.Context())), "EMP-1", "unverified")
	if err := queuetest.Replay(t.Context(), dying, 1); !errors.Is(err, queue.ErrForbidden) {
		t.Fatal("published without permission:", err)
	}
	if n := len(deadLetters(t, admin, queue.Filter{})); n != 1 || backlog(t, admin) != 0 {
		t.Errorf("%d dead letters, %d records", n, backlog(t, admin))
	}
}

func TestAReplayToAFullStreamKeepsTheDeadLetter(t *testing.T) {
	b := queuetest.Run(t, queue.Topology{MaxBytes: 2000})
	dead(t, b, must[*queue.Queue](t)(b.Queue(t.Context())), "EMP-1", "unverified")
	must[queue.Ack](t)(b.Publish(t.Context(), queue.Message{Data: make([]byte, 1850)}))
	replays := must[*queue.Replays](t)(b.Replays(t.Context()))
	rep := must[queue.Replay](t)(replays.Begin(t.Context(), queue.Replay{By: "ops"}))
	enough := errors.New("enough")
	ctx, stop := context.WithCancelCause(t.Context())
	rep, err := replays.Run(ctx, rep.Name, queue.Runner{Progress: func(queue.Replay) { stop(enough) }})
	if !errors.Is(err, enough) || rep.Published != 0 || rep.State != queue.ReplayRunning || !strings.Contains(rep.Why, "full") {
		t.Errorf("%+v, %v", rep, err)
	}
	if n := len(deadLetters(t, b, queue.Filter{})); n != 1 {
		t.Errorf("%d dead letters", n)
	}
}

func TestDeadLettersAreGroupedListedAndDropped(t *testing.T) {
	b := queuetest.Run(t)
	q := must[*queue.Queue](t)(b.Queue(t.Context()))
	l := b.DeadLetters()
	if groups := must[[]queue.Group](t)(l.Groups(t.Context())); len(groups) != 0 {
		t.Error("groups of nothing:", groups)
	}
	for i, reason := range []string{"unverified", "bad_record", "unverified", "no_attributes", "unverified", "bad_record"} {
		dead(t, b, q, fmt.Sprintf("EMP %d", i%3), reason)
	}
	var got []string
	for _, g := range must[[]queue.Group](t)(l.Groups(t.Context())) {
		got = append(got, fmt.Sprint(g.Reason, g.Count, g.First))
		if g.Oldest.IsZero() {
			t.Error("a group without a date:", g.Reason)
		}
	}
	if want := []string{"unverified3 1", "bad_record2 2", "no_attributes1 4"}; !slices.Equal(got, want) {
		t.Errorf("groups %v, want %v", got, want)
	}

	sequences := func(f queue.Filter) (all []uint64) {
		for from := uint64(1); from != 0; { // in pages of two
			page, next, err := l.List(t.Context(), f, from, 2)
			ok(t, err)
			for _, d := range page {
				all = append(all, d.Sequence)
			}
			from = next
		}
		back := backwards(t, l, f, 0, 2)
		if slices.Reverse(back); !slices.Equal(back, all) {
			t.Errorf("%+v: %v from the first on, %v from the newest on", f, all, back)
		}
		return all
	}
	for f, want := range map[queue.Filter][]uint64{
		{}:                     {1, 2, 3, 4, 5, 6},
		{Reason: "unverified"}: {1, 3, 5},
		{Employee: "EMP 0"}:    {1, 4},
		{Reason: "x"}:          nil,
		{Reason: "bad_record", Employee: "EMP 2"}: {6},
	} {
		if got := sequences(f); !slices.Equal(got, want) {
			t.Errorf("%+v: %v, want %v", f, got, want)
		}
	}

	d := must[queue.DeadLetter](t)(l.Get(t.Context(), 2))
	if d.EmployeeID != "EMP 1" || d.Error != "a  Nats-Msg-Id: x" || string(d.Data) != "EMP 1" || d.At.IsZero() {
		t.Errorf("%+v", d)
	}
	ok(t, l.Drop(t.Context(), 2))
	for name, err := range map[string]error{"drop": l.Drop(t.Context(), 2), "replay": queuetest.Replay(t.Context(), b, 2)} {
		if !errors.Is(err, queue.ErrNotFound) {
			t.Errorf("%s again: %v", name, err)
		}
	}
	if got := sequences(queue.Filter{}); !slices.Equal(got, []uint64{1, 3, 4, 5, 6}) {
		t.Error("after the drop:", got)
	}
}

func FuzzATextStaysOneLineOfAHeader(f *testing.F) {
	for _, text := range []string{"", "plain", "a\r\nNats-Msg-Id: x", "\x00\u0085\u2028", "üüüüüüü", "\xff\xfe", " padded "} {
		f.Add(text, 8)
	}
	f.Fuzz(func(t *testing.T, text string, limit int) {
		limit = max(limit%2000, 8)
		got := queue.Clean(text, limit)
		if len(got) > limit || !utf8.ValidString(got) || strings.ContainsFunc(got, unicode.IsControl) || strings.TrimSpace(got) != got {
			t.Errorf("%q became %q of %d bytes", text, got, len(got))
		}
	})
}

func TestResultsAreWatchedFromAPositionAndThroughAnOutage(t *testing.T) {
	b := queuetest.Run(t)
	via, proxy := through(t, b)
	q := must[*queue.Queue](t)(b.Queue(t.Context()))
	settle := func(n int) {
		for range n {
			must[queue.Ack](t)(b.Publish(t.Context(), queue.Message{EmployeeID: "EMP-1"}))
			ok(t, fetch(t, q, 1)[0].Ack(t.Context(), queue.Result{EmployeeID: "EMP-1", Outcome: queue.OutcomeUnchanged}))
		}
	}
	settle(3)
	after := must[uint64](t)(via.ResultsEnd(t.Context()))
	enough := errors.New("enough")
	var got []uint64
	first, done := make(chan struct{}), make(chan error)
	go func() {
		done <- via.Results(t.Context(), after, func(r queue.Result) error {
			if got = append(got, r.Sequence); len(got) == 1 {
				close(first)
			}
			if len(got) == 20 {
				return enough
			}
			return nil
		})
	}()
	settle(1)
	<-first
	proxy.Lose(false, true)
	settle(9)
	proxy.Restore()
	settle(10)
	if err := <-done; !errors.Is(err, enough) {
		t.Fatal(err)
	}
	for i, seq := range got {
		if seq != uint64(i+4) {
			t.Fatal("results of messages:", got)
		}
	}
	if counts := must[map[string]uint64](t)(b.Counts(t.Context())); counts[queue.OutcomeUnchanged] != 23 || counts[queue.OutcomeVerified] != 0 || len(counts) != 4 {
		t.Error(counts)
	}
}
