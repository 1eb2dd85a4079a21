package queue_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"skillsync/queue"
	"skillsync/queue/queuetest"
)

// letters makes n dead letters of employees EMP-0, EMP-1, … whose reasons take turns.
func letters(t testing.TB, b *queue.Broker, n int, reasons ...string) *queue.Queue {
	t.Helper()
	q := must[*queue.Queue](t)(b.Queue(t.Context()))
	for i := range n {
		dead(t, b, q, fmt.Sprintf("EMP-%d", i), reasons[i%len(reasons)])
	}
	return q
}

func begin(t testing.TB, b *queue.Broker, rep queue.Replay) (*queue.Replays, queue.Replay) {
	t.Helper()
	replays := must[*queue.Replays](t)(b.Replays(t.Context()))
	if rep.By == "" {
		rep.By = "ops"
	}
	return replays, must[queue.Replay](t)(replays.Begin(t.Context(), rep))
}

// records counts what waits in the queue by employee.
func records(t testing.TB, q *queue.Queue) map[string]int {
	t.Helper()
	n := map[string]int{}
	for {
		count, err := q.Fetch(t.Context(), 1000, 100*time.Millisecond, func(d *queue.Delivery) { n[string(d.Data)]++ })
		ok(t, err)
		if count == 0 {
			return n
		}
	}
}

func wantOnce(t testing.TB, got map[string]int, n int) {
	t.Helper()
	if len(got) != n {
		t.Errorf("%d records, want %d", len(got), n)
	}
	for employee, times := range got {
		if times != 1 {
			t.Errorf("the record of %s was published %d times", employee, times)
		}
	}
}

func TestAReplayPublishesWhatItsFilterSelectsAndNothingElse(t *testing.T) {
	b := queuetest.Run(t)
	q := letters(t, b, 20, "unverified", "bad_record")
	replays, rep := begin(t, b, queue.Replay{Filter: queue.Filter{Reason: "unverified"}, Name: "after-the-fix"})
	if rep.Total != 10 || rep.State != queue.ReplayRunning {
		t.Errorf("begun as %+v", rep)
	}
	dead(t, b, q, "EMP-late", "unverified") // it came after the replay began
	rep = must[queue.Replay](t)(replays.Run(t.Context(), rep.Name, queue.Runner{}))
	if rep.State != queue.ReplayPublished || rep.Published != 10 || rep.Looked() != 10 || rep.Ended.IsZero() {
		t.Errorf("ended as %+v", rep)
	}
	left := deadLetters(t, b, queue.Filter{})
	if len(left) != 11 || left[10].EmployeeID != "EMP-late" {
		t.Errorf("%d letters are left", len(left))
	}
	got := records(t, q)
	wantOnce(t, got, 10)
	if got["EMP-0"] != 1 || got["EMP-1"] != 0 {
		t.Errorf("published: %v", got)
	}
	if _, err := replays.Begin(t.Context(), queue.Replay{Name: "after-the-fix", By: "ops"}); !errors.Is(err, queue.ErrConflict) {
		t.Error("a second replay of that name:", err)
	}
	if _, err := replays.Run(t.Context(), rep.Name, queue.Runner{}); !errors.Is(err, queue.ErrReplayState) {
		t.Error("run again:", err)
	}
}

func TestAReplayedRecordRemembersItsLivesAndItsResultNamesTheReplay(t *testing.T) {
	b := queuetest.Run(t)
	q := letters(t, b, 1, "unverified")
	for n := 1; n <= 2; n++ {
		replays, rep := begin(t, b, queue.Replay{Letters: []uint64{uint64(n)}})
		must[queue.Replay](t)(replays.Run(t.Context(), rep.Name, queue.Runner{}))
		d := fetch(t, q, 1)[0]
		if d.Replays != n || d.Order.Seq != 1 {
			t.Errorf("replay %d: %+v", n, d)
		}
		ok(t, d.DeadLetter(t.Context(), queue.Failure{EmployeeID: "EMP-0", Reason: "user_not_found", Status: 404}))
		rep = must[queue.Replay](t)(replays.Follow(t.Context(), rep.Name))
		if rep.Outcomes[queue.OutcomeDead] != 1 || rep.Settled() != 1 {
			t.Errorf("outcomes of replay %d: %+v", n, rep)
		}
	}
	d := deadLetters(t, b, queue.Filter{})[0]
	if len(d.Lives) != 2 || d.Lives[0].Reason != "unverified" || d.Lives[0].Letter != 1 || d.Lives[0].By != "ops" ||
		d.Lives[1].Reason != "user_not_found" || d.Lives[1].Status != 404 || d.Lives[1].Letter != 2 || d.Lives[1].Replay == d.Lives[0].Replay {
		t.Errorf("lives %+v", d.Lives)
	}
}

func TestABulkReplayPassesOverLoopingRecordsUnlessForced(t *testing.T) {
	b := queuetest.Run(t)
	q := letters(t, b, 1, "unverified")
	for n := range queue.LoopAfter {
		ok(t, queuetest.Replay(t.Context(), b, uint64(n+1)))
		ok(t, fetch(t, q, 1)[0].DeadLetter(t.Context(), queue.Failure{EmployeeID: "EMP-0", Reason: "unverified"}))
	}
	dead(t, b, q, "EMP-1", "unverified")
	looping := deadLetters(t, b, queue.Filter{})[0]
	if !looping.Looping() {
		t.Fatalf("%d replays, and not looping", looping.Replays)
	}
	replays, rep := begin(t, b, queue.Replay{})
	rep = must[queue.Replay](t)(replays.Run(t.Context(), rep.Name, queue.Runner{}))
	if rep.Published != 1 || rep.Looping != 1 {
		t.Errorf("unforced: %+v", rep)
	}
	replays, rep = begin(t, b, queue.Replay{Force: true})
	rep = must[queue.Replay](t)(replays.Run(t.Context(), rep.Name, queue.Runner{}))
	if rep.Published != 1 || rep.Looping != 0 {
		t.Errorf("forced: %+v", rep)
	}
}

// A replay that dies at a step is taken up by the next run. Whatever step that is, every letter
// is in the end either still there or one record, and the counts say which.
func TestAReplayThatDiesAtAnyStepLosesNothingAndRepeatsNothing(t *testing.T) {
	const n = 600 // three batches
	for _, at := range []string{"publish", "write", "remove"} {
		for _, nth := range []int{1, 2, 3} {
			for _, named := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s %d, named %v", at, nth, named), func(t *testing.T) {
					t.Parallel()
					b := queuetest.Run(t)
					fill(t, b, n)
					rep := queue.Replay{}
					if named {
						for i := range n {
							rep.Letters = append(rep.Letters, uint64(i+1))
						}
					}
					replays, rep := begin(t, b, rep)
					seen := 0
					dies(func() {
						_, err := replays.Run(t.Context(), rep.Name, queue.Runner{Step: func(step string) {
							if step == at {
								if seen++; seen == nth {
									runtime.Goexit()
								}
							}
						}})
						t.Errorf("it lived: %v", err)
					})
					if _, err := replays.Run(t.Context(), rep.Name, queue.Runner{}); !errors.Is(err, queue.ErrReplayTaken) {
						t.Error("taken up while the dead one might live:", err)
					}
					queue.LetGo(t.Context(), replays, rep.Name)
					rep = must[queue.Replay](t)(replays.Run(t.Context(), rep.Name, queue.Runner{}))
					if rep.Published != n || rep.Looked() != n || rep.State != queue.ReplayPublished {
						t.Errorf("ended as %+v", rep)
					}
					if left := len(deadLetters(t, b, queue.Filter{})); left != 0 {
						t.Errorf("%d letters are left", left)
					}
					wantOnce(t, records(t, must[*queue.Queue](t)(b.Queue(t.Context()))), n)
				})
			}
		}
	}
}

// fill stores n dead letters without the detour over the queue.
func fill(t testing.TB, b *queue.Broker, n int) {
	t.Helper()
	q := must[*queue.Queue](t)(b.Queue(t.Context()))
	p := queue.Publisher{Broker: b}
	for i := range n {
		id := fmt.Sprintf("EMP-%d", i)
		ok(t, p.Send(t.Context(), queue.Message{EmployeeID: id, Data: []byte(id)}, nil))
	}
	ok(t, p.Flush(t.Context()))
	var all sync.WaitGroup
	for left := n; left > 0; {
		count, err := q.Fetch(t.Context(), min(left, 500), time.Second, func(d *queue.Delivery) {
			all.Go(func() {
				if err := d.DeadLetter(t.Context(), queue.Failure{EmployeeID: string(d.Data), Reason: "unverified"}); err != nil {
					t.Error(err)
				}
			})
		})
		ok(t, err)
		left -= count
	}
	all.Wait()
}

// dies runs do on a goroutine that may end half-way.
func dies(do func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		do()
	}()
	<-done
}

func TestTwoReplaysOfTheSameLettersPublishEachRecordOnce(t *testing.T) {
	b := queuetest.Run(t)
	fill(t, b, 500)
	replays, one := begin(t, b, queue.Replay{Name: "one"})
	_, two := begin(t, b, queue.Replay{Name: "two"})
	var all sync.WaitGroup
	for _, name := range []string{one.Name, two.Name} {
		all.Go(func() {
			if _, err := replays.Run(t.Context(), name, queue.Runner{}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	one, two = must[queue.Replay](t)(replays.Get(t.Context(), "one")), must[queue.Replay](t)(replays.Get(t.Context(), "two"))
	if one.Published+two.Published != 500 {
		t.Errorf("%d and %d published", one.Published, two.Published)
	}
	wantOnce(t, records(t, must[*queue.Queue](t)(b.Queue(t.Context()))), 500)
	if left := len(deadLetters(t, b, queue.Filter{})); left != 0 {
		t.Errorf("%d letters are left", left)
	}
}

func TestAReplayIsPausedResumedAndCancelledFromElsewhere(t *testing.T) {
	t.Parallel()
	b := queuetest.Run(t)
	fill(t, b, 300)
	replays, rep := begin(t, b, queue.Replay{Rate: 6000}) // a hundred a second
	run := func(until func(queue.Replay)) queue.Replay {
		return must[queue.Replay](t)(replays.Run(t.Context(), rep.Name, queue.Runner{Progress: until}))
	}
	once := sync.OnceFunc(func() { must[queue.Replay](t)(replays.Pause(t.Context(), rep.Name, "ops")) })
	rep = run(func(at queue.Replay) {
		if at.Published > 0 {
			once()
		}
	})
	if rep.State != queue.ReplayPaused || rep.Published == 0 || rep.Published == 300 || rep.Why != "paused by ops" || rep.Runner != "" {
		t.Errorf("paused as %+v", rep)
	}
	if left := uint64(len(deadLetters(t, b, queue.Filter{}))); left != 300-rep.Published {
		t.Errorf("%d letters are left of 300, %d published", left, rep.Published)
	}
	must[queue.Replay](t)(replays.SetRate(t.Context(), rep.Name, "ops", 0))
	if _, err := replays.Run(t.Context(), rep.Name, queue.Runner{}); !errors.Is(err, queue.ErrReplayState) {
		t.Error("run while paused:", err)
	}
	must[queue.Replay](t)(replays.Resume(t.Context(), rep.Name, "ops"))
	if rep = run(nil); rep.State != queue.ReplayPublished || rep.Published != 300 {
		t.Errorf("resumed, and ended as %+v", rep)
	}
	if _, err := replays.Cancel(t.Context(), rep.Name, "ops"); !errors.Is(err, queue.ErrReplayState) {
		t.Error("cancelled after its end:", err)
	}
	fill(t, b, 10)
	replays, rep = begin(t, b, queue.Replay{})
	must[queue.Replay](t)(replays.Cancel(t.Context(), rep.Name, "ops"))
	if _, err := replays.Run(t.Context(), rep.Name, queue.Runner{}); !errors.Is(err, queue.ErrReplayState) {
		t.Error("run after it was cancelled:", err)
	}
	if left := len(deadLetters(t, b, queue.Filter{})); left != 10 {
		t.Errorf("%d letters are left", left)
	}
}

func TestAReplayGoesOnThroughOutagesOfTheBroker(t *testing.T) {
	t.Parallel()
	b := queuetest.Run(t)
	fill(t, b, 2000)
	via, proxy := through(t, b)
	replays, rep := begin(t, via, queue.Replay{})
	cuts := 0
	rep = must[queue.Replay](t)(replays.Run(t.Context(), rep.Name, queue.Runner{Step: func(string) {
		if cuts < 6 && rand.N(3) == 0 {
			cuts++
			proxy.Lose(cuts%2 == 0, cuts%2 == 1)
			time.AfterFunc(50*time.Millisecond, proxy.Restore)
		}
	}}))
	if rep.Published != 2000 || rep.State != queue.ReplayPublished {
		t.Errorf("after %d cuts: %+v", cuts, rep)
	}
	wantOnce(t, records(t, must[*queue.Queue](t)(b.Queue(t.Context()))), 2000)
}

func TestAnEditedRecordTakesThePlaceOfItsOriginal(t *testing.T) {
	b := queuetest.Run(t)
	q := letters(t, b, 2, "bad_record")
	replays := must[*queue.Replays](t)(b.Replays(t.Context()))
	rep := must[queue.Replay](t)(replays.Edit(t.Context(), 1, []byte("mended"), "EMP-7", []string{"department"}, "ops"))
	if rep.Published != 1 || rep.State != queue.ReplayPublished || !rep.Edited {
		t.Errorf("%+v", rep)
	}
	if left := deadLetters(t, b, queue.Filter{}); len(left) != 1 || left[0].Sequence != 2 {
		t.Errorf("%d letters are left", len(left))
	}
	d := fetch(t, q, 1)[0]
	if string(d.Data) != "mended" || d.Subject != "employees.records.EMP-7" || d.Order.Seq != 1 || d.Replays != 1 {
		t.Errorf("%q on %s: %+v", d.Data, d.Subject, d)
	}
	ok(t, d.DeadLetter(t.Context(), queue.Failure{EmployeeID: "EMP-7", Reason: "unverified"}))
	back := deadLetters(t, b, queue.Filter{Employee: "EMP-7"})[0]
	if len(back.Lives) != 1 || !slices.Equal(back.Lives[0].Edited, []string{"department"}) || back.Lives[0].Letter != 1 {
		t.Errorf("%+v", back.Lives)
	}
	if _, err := replays.Edit(t.Context(), 1, nil, "EMP-7", nil, "ops"); !errors.Is(err, queue.ErrNotFound) {
		t.Error("edited again:", err)
	}
	entries := must[[]queue.AuditEntry](t)(b.AuditAbout(t.Context(), rep.Name))
	if len(entries) != 2 || entries[0].Outcome != "published" || entries[1].Outcome != "begun" || entries[1].Action != queue.ActedEdit {
		t.Errorf("%+v", entries)
	}
}

func TestAnEditThatComesSecondIsToldSo(t *testing.T) {
	t.Parallel()
	admin, dying := withUsers(t, denied("$JS.API.STREAM.MSG.DELETE.>"))
	letters(t, admin, 1, "bad_record")
	err := queuetest.Replay(t.Context(), dying, 1) // published, but listed still
	if err == nil {
		t.Fatal("deleted without permission")
	}
	replays := must[*queue.Replays](t)(admin.Replays(t.Context()))
	rep, err := replays.Edit(t.Context(), 1, []byte("mended"), "EMP-7", []string{"x"}, "ops")
	if !errors.Is(err, queue.ErrReplayedMeanwhile) {
		t.Fatal(err)
	}
	if rep = must[queue.Replay](t)(replays.Get(t.Context(), rep.Name)); rep.State != queue.ReplayCancelled || rep.Published != 0 {
		t.Errorf("%+v", rep)
	}
	if backlog(t, admin) != 1 {
		t.Errorf("%d records", backlog(t, admin))
	}
}

func TestAReplayOfWhatAMappingAltersAsksItOfEveryLetter(t *testing.T) {
	b := queuetest.Run(t)
	fill(t, b, 20)
	replays, rep := begin(t, b, queue.Replay{Mapping: "new"})
	if _, err := replays.Run(t.Context(), rep.Name, queue.Runner{Mapping: "other"}); !errors.Is(err, queue.ErrReplayState) {
		t.Error("run with another mapping:", err)
	}
	rep = must[queue.Replay](t)(replays.Run(t.Context(), rep.Name, queue.Runner{Mapping: "new", Alters: func(d *queue.DeadLetter) bool {
		return strings.HasSuffix(d.EmployeeID, "7")
	}}))
	if rep.Published != 2 || rep.Unaltered != 18 {
		t.Errorf("%+v", rep)
	}
}

func TestOnlyTheNewestReplaysThatAreOverAreKept(t *testing.T) {
	t.Parallel()
	b := queuetest.Run(t)
	dead(t, b, must[*queue.Queue](t)(b.Queue(t.Context())), "EMP-1", "unverified")
	replays, open := begin(t, b, queue.Replay{Name: "open"})
	for i := range 205 {
		_, rep := begin(t, b, queue.Replay{Name: fmt.Sprint("r", i), Until: 1, Total: 1})
		must[queue.Replay](t)(replays.Cancel(t.Context(), rep.Name, "ops"))
	}
	all := must[[]queue.Replay](t)(replays.List(t.Context(), 1000))
	if len(all) < 200 || len(all) > 203 || all[0].Name != "r204" || all[len(all)-1].Name != open.Name {
		t.Errorf("%d replays, from %s to %s", len(all), all[0].Name, all[len(all)-1].Name)
	}
}

func TestEveryPartOfAFilterSelects(t *testing.T) {
	b := queuetest.Run(t)
	q := must[*queue.Queue](t)(b.Queue(t.Context()))
	for i, f := range []queue.Failure{
		{EmployeeID: "E 1", Reason: "rejected", Class: "permanent", Status: 400, Error: "The Name is wrong", MappingVersion: "m1"},
		{EmployeeID: "E2", Reason: "rejected", Class: "permanent", Status: 422, Error: "no", MappingVersion: "m2"},
		{EmployeeID: "E2", Reason: "retries_exhausted", Class: "exhausted", Status: 503, Error: "unavailable", MappingVersion: "m2"},
		{EmployeeID: "E3", Reason: "retries_exhausted", Class: "exhausted", Error: "no answer: name", MappingVersion: "m2"},
	} {
		must[queue.Ack](t)(b.Publish(t.Context(), queue.Message{
			EmployeeID: f.EmployeeID, Data: []byte("x"), Header: map[string][]string{queue.HeaderBatch: {fmt.Sprintf("batch%d", i%2)}},
		}))
		ok(t, fetch(t, q, 1)[0].DeadLetter(t.Context(), f))
	}
	ok(t, queuetest.Replay(t.Context(), b, 1))
	ok(t, fetch(t, q, 1)[0].DeadLetter(t.Context(), queue.Failure{EmployeeID: "E 1", Reason: "rejected", Status: 400, MappingVersion: "m1"}))
	third := deadLetters(t, b, queue.Filter{})[1].At
	for f, want := range map[queue.Filter]string{
		{Class: "exhausted"}:                 "3 4",
		{Status: "4xx"}:                      "2 5",
		{Status: "400"}:                      "5",
		{Status: "none"}:                     "4",
		{Mapping: "m1"}:                      "5",
		{Mapping: "!m1"}:                     "2 3 4",
		{Replays: "0"}:                       "2 3 4",
		{Replays: "1+"}:                      "5",
		{Replays: "2"}:                       "",
		{Batch: "batch0"}:                    "3 5",
		{Text: "NAME"}:                       "4",
		{After: third}:                       "3 4 5",
		{Before: third}:                      "2",
		{Employee: "E2", Status: "5xx"}:      "3",
		{Reason: "rejected", Replays: "0"}:   "2",
		{Reason: "nothing", Class: "x"}:      "",
		{Class: "exhausted", Text: "nobody"}: "",
	} {
		ok(t, f.Check())
		got := ""
		for _, d := range deadLetters(t, b, f) {
			got += fmt.Sprintf(" %d", d.Sequence)
		}
		if got = strings.TrimSpace(got); got != want {
			t.Errorf("%s: %q, want %q", f, got, want)
		}
		if n := must[uint64](t)(b.DeadLetters().Count(t.Context(), f, 0)); n != uint64(len(strings.Fields(want))) {
			t.Errorf("%s: counted %d", f, n)
		}
	}
	for _, f := range []queue.Filter{{Status: "4x"}, {Status: "4xxx"}, {Status: "abc"}, {Replays: "x"}, {Replays: "-1"}, {Replays: "+"}, {After: third, Before: third}} {
		if err := f.Check(); !errors.Is(err, queue.ErrFilter) {
			t.Errorf("%+v: %v", f, err)
		}
		if _, _, err := b.DeadLetters().List(t.Context(), f, 0, 1); !errors.Is(err, queue.ErrFilter) {
			t.Errorf("%+v is listed: %v", f, err)
		}
	}
}

func TestGroupsTellStatusesFirstAndLastAndASample(t *testing.T) {
	b := queuetest.Run(t)
	q := must[*queue.Queue](t)(b.Queue(t.Context()))
	for i, status := range []int{404, 404, 0} {
		must[queue.Ack](t)(b.Publish(t.Context(), queue.Message{EmployeeID: fmt.Sprint(i), Data: []byte("secret")}))
		ok(t, fetch(t, q, 1)[0].DeadLetter(t.Context(), queue.Failure{EmployeeID: fmt.Sprint(i), Reason: "user not found", Status: status, Error: fmt.Sprint(i)}))
	}
	groups := must[[]queue.Group](t)(b.DeadLetters().Groups(t.Context()))
	if len(groups) != 1 {
		t.Fatal(groups)
	}
	g := groups[0]
	if g.Count != 3 || g.First != 1 || g.Last != 3 || g.Looked != 3 || !slices.Equal(g.Statuses, []queue.StatusCount{{404, 2}, {0, 1}}) ||
		g.Sample.Error != "2" || g.Sample.Data != nil || g.Oldest.After(g.Newest) {
		t.Errorf("%+v", g)
	}
}

func TestTheAuditIsReadBackwardsAndCannotBeChanged(t *testing.T) {
	b := queuetest.Run(t)
	for i := range 5 {
		ok(t, b.Audit(t.Context(), queue.AuditEntry{By: "a\r\nb", Action: queue.ActedReveal, About: fmt.Sprint(i), Outcome: "done", Letters: make([]uint64, 500)}))
	}
	var got []string
	for before := uint64(0); ; {
		page, next, err := b.AuditLog(t.Context(), before, 2)
		ok(t, err)
		for _, e := range page {
			if e.By != "a  b" || e.At.IsZero() || len(e.Letters) != 100 {
				t.Errorf("%+v", e)
			}
			got = append(got, e.About)
		}
		if before = next; next == 0 {
			break
		}
	}
	if want := "4 3 2 1 0"; strings.Join(got, " ") != want {
		t.Errorf("%v, want %s", got, want)
	}
	if about := must[[]queue.AuditEntry](t)(b.AuditOfLetter(t.Context(), 3)); len(about) != 1 || about[0].Position != 4 {
		t.Errorf("%+v", about)
	}
	if err := queue.Tamper(t.Context(), b, queue.AuditStream); err == nil {
		t.Error("an entry could be deleted, or all of them purged")
	}
}

func TestReadingLettersGoesOnThroughAnOutage(t *testing.T) {
	t.Parallel()
	b := queuetest.Run(t)
	fill(t, b, 1000)
	via, proxy := through(t, b)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	outage := func() {
		proxy.Lose(false, true)
		time.AfterFunc(50*time.Millisecond, proxy.Restore)
	}
	for name, read := range map[string]func(func(queue.DeadLetter) error) error{
		"each": func(do func(queue.DeadLetter) error) error {
			return via.DeadLetters().Each(ctx, queue.Filter{}, 11, 0, do)
		},
		"a list by time": func(do func(queue.DeadLetter) error) error {
			page, _, err := via.DeadLetters().List(ctx, queue.Filter{After: time.Now().Add(-time.Hour)}, 11, 1000)
			for _, d := range page {
				_ = do(d)
			}
			return err
		},
	} {
		var got []uint64
		outage()
		ok(t, read(func(d queue.DeadLetter) error {
			if got = append(got, d.Sequence); len(got)%300 == 0 {
				outage()
			}
			return nil
		}))
		if len(got) != 990 || !slices.IsSorted(got) || got[0] != 11 || got[989] != 1000 {
			t.Errorf("%s: %d letters", name, len(got))
		}
	}
}
