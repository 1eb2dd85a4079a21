package desk_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"skillsync/cmd/skillsync/desk"
	"skillsync/queue"
	"skillsync/queue/queuetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// letter makes a dead letter of a record.
func letter(t testing.TB, b *queue.Broker, record string, f queue.Failure) {
	t.Helper()
	must[queue.Ack](t)(b.Publish(t.Context(), queue.Message{EmployeeID: f.EmployeeID, Data: []byte(record)}))
	q := must[*queue.Queue](t)(b.Queue(t.Context()))
	ok(t, fetch(t, q, 1)[0].DeadLetter(t.Context(), f))
}

// fetch returns n records, or fails if they do not come.
func fetch(t testing.TB, q *queue.Queue, n int) (all []*queue.Delivery) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); len(all) < n; {
		_, err := q.Fetch(t.Context(), n-len(all), time.Second, func(d *queue.Delivery) { all = append(all, d) })
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("%d of %d records came, %v", len(all), n, err)
		}
	}
	return all
}

// fill makes n dead letters of one reason.
func fill(t testing.TB, b *queue.Broker, n int, reason string) {
	t.Helper()
	q := must[*queue.Queue](t)(b.Queue(t.Context()))
	p := queue.Publisher{Broker: b}
	for i := range n {
		ok(t, p.Send(t.Context(), queue.Message{EmployeeID: fmt.Sprintf("EMP-%d", i), Data: record(fmt.Sprintf("EMP-%d", i), 1, "x")}, nil))
	}
	ok(t, p.Flush(t.Context()))
	var all sync.WaitGroup
	for _, d := range fetch(t, q, n) {
		all.Go(func() {
			if err := d.DeadLetter(t.Context(), queue.Failure{EmployeeID: strings.TrimPrefix(d.Subject, queue.RecordsSubject+"."), Reason: reason}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

func record(employee string, version int, department string) []byte {
	return fmt.Appendf(nil, `{"employee_id":%q,"version":%d,"department":%q}`, employee, version, department)
}

// rules are a mapping that needs a department, and alters what was not found.
type rules struct{}

func (rules) Read(data []byte) (employee, version string, err error) {
	var r struct {
		EmployeeID string `json:"employee_id"`
		Version    json.Number
	}
	if json.Unmarshal(bytes.TrimPrefix(data, []byte("\ufeff")), &r) != nil || r.EmployeeID == "" {
		return "", "", errors.New("employee_id is missing")
	}
	return r.EmployeeID, r.Version.String(), nil
}

func (rules) Map(data []byte) error {
	if !bytes.Contains(data, []byte(`"department"`)) {
		return errors.New("department is missing")
	}
	return nil
}

func (rules) Alters(d *queue.DeadLetter) bool { return d.Reason == "user_not_found" }

func (rules) Version() string { return "m2" }

func open(t testing.TB, b *queue.Broker) *desk.Desk {
	t.Helper()
	d := must[*desk.Desk](t)(desk.Open(t.Context(), b))
	d.Rules = rules{}
	return d
}

// cut is the desk of a broker that reads, and whose every entry in the audit is lost.
func cut(t testing.TB, b *queue.Broker) *desk.Desk {
	t.Helper()
	d, proxy := open(t, b), queuetest.NewProxy(t, b.URL())
	d.Broker = queuetest.Connect(t, proxy.URL())
	proxy.Lose(true, true)
	t.Cleanup(proxy.Restore) // to close what is connected through it
	return d
}

func left(t testing.TB, d *desk.Desk) (sequences []uint64) {
	t.Helper()
	ok(t, d.Letters.Each(t.Context(), queue.Filter{}, 0, 0, func(l queue.DeadLetter) error {
		sequences = append(sequences, l.Sequence)
		return nil
	}))
	return sequences
}

// audit is what was written down, oldest first.
func audit(t testing.TB, b *queue.Broker) []queue.AuditEntry {
	t.Helper()
	entries, _, err := b.AuditLog(t.Context(), 0, 1000)
	ok(t, err)
	slices.Reverse(entries)
	return entries
}

// acts are audit entries in short.
func acts(entries []queue.AuditEntry) string {
	texts := make([]string, len(entries))
	for i, e := range entries {
		texts[i] = fmt.Sprintf("%s %s %s %d", e.By, e.Action, e.Outcome, e.Count)
	}
	return strings.Join(texts, ", ")
}

func TestADropRemovesWhatItsFilterSelectedWhenItWasCounted(t *testing.T) {
	b := queuetest.Run(t)
	d := open(t, b)
	fill(t, b, 300, "unverified")
	fill(t, b, 2, "bad_record")
	s := desk.Selection{Filter: queue.Filter{Reason: "unverified"}}
	if n := must[uint64](t)(d.Count(t.Context(), &s)); n != 300 || s.Until != 302 {
		t.Errorf("counted %d up to %d", n, s.Until)
	}
	fill(t, b, 3, "unverified") // after the count
	var told []uint64
	if n := must[uint64](t)(d.Drop(t.Context(), "ops", s, 300, func(n uint64) { told = append(told, n) })); n != 300 {
		t.Errorf("%d dropped", n)
	}
	if !slices.Equal(told, []uint64{256, 300}) {
		t.Errorf("told of %v", told)
	}
	if got := left(t, d); !slices.Equal(got, []uint64{301, 302, 303, 304, 305}) {
		t.Errorf("left are %v", got)
	}
	entries := audit(t, b)
	if got, want := acts(entries), "ops drop begun 300, ops drop done 300"; got != want {
		t.Errorf("written down: %s, want %s", got, want)
	}
	for _, e := range entries {
		if e.Filter == nil || e.Filter.Reason != "unverified" || len(e.Letters) != 0 {
			t.Errorf("%+v", e)
		}
	}
}

func TestADropRemovesTheLettersNamed(t *testing.T) {
	b := queuetest.Run(t)
	d := open(t, b)
	fill(t, b, 5, "unverified")
	drop := func(expected uint64, letters ...uint64) uint64 {
		t.Helper()
		return must[uint64](t)(d.Drop(t.Context(), "ops", desk.Selection{Letters: letters}, expected, func(uint64) {}))
	}
	if n := drop(2, 4, 2); n != 2 {
		t.Errorf("%d dropped", n)
	}
	if n := drop(2, 2, 3); n != 1 { // 2 is gone
		t.Errorf("%d dropped", n)
	}
	if got := left(t, d); !slices.Equal(got, []uint64{1, 5}) {
		t.Errorf("left are %v", got)
	}
	if n := drop(1, 5); n != 1 {
		t.Errorf("%d dropped", n)
	}
	if got, want := acts(audit(t, b)), "ops drop begun 2, ops drop done 2, ops drop begun 2, ops drop done 1, ops drop begun 1, ops drop done 1"; got != want {
		t.Errorf("written down: %s, want %s", got, want)
	}
	if about := must[[]queue.AuditEntry](t)(b.AuditOfLetter(t.Context(), 5)); len(about) != 2 || !slices.Equal(about[0].Letters, []uint64{5}) || about[0].Filter != nil {
		t.Errorf("%+v", about)
	}
}

func TestALetterThatIsNamedTwiceIsOne(t *testing.T) {
	b := queuetest.Run(t)
	d := open(t, b)
	fill(t, b, 3, "unverified")
	s := desk.Selection{Letters: []uint64{3, 1, 3}}
	if n := must[uint64](t)(d.Count(t.Context(), &s)); n != 2 {
		t.Errorf("counted %d", n)
	}
	if n := must[uint64](t)(d.Drop(t.Context(), "ops", s, 2, func(uint64) {})); n != 2 {
		t.Errorf("%d dropped", n)
	}
}

func TestADropOfAnotherNumberThanExpectedDoesNothing(t *testing.T) {
	b := queuetest.Run(t)
	d := open(t, b)
	fill(t, b, 5, "unverified")
	for expected, s := range map[uint64]desk.Selection{
		4: {Filter: queue.Filter{Reason: "unverified"}},
		6: {},
		2: {Letters: []uint64{1}},
		3: {Until: 2},
		0: {Filter: queue.Filter{Class: ""}},
	} {
		n, err := d.Drop(t.Context(), "ops", s, expected, func(uint64) { t.Error("told of something") })
		if !errors.Is(err, desk.ErrCount) || n != 0 {
			t.Errorf("%+v: %d, %v", s, n, err)
		}
	}
	if got := len(left(t, d)); got != 5 {
		t.Errorf("%d letters are left", got)
	}
	if entries := audit(t, b); len(entries) != 0 {
		t.Errorf("written down: %s", acts(entries))
	}
}

func TestADropOfNothingTouchesNothing(t *testing.T) {
	b := queuetest.Run(t)
	d := open(t, b)
	if n := must[uint64](t)(d.Drop(t.Context(), "ops", desk.Selection{}, 0, func(uint64) {})); n != 0 {
		t.Errorf("%d dropped", n)
	}
	if entries := audit(t, b); len(entries) != 0 { // it would go on to what comes meanwhile
		t.Errorf("written down: %s", acts(entries))
	}
}

func TestWhatCannotBeWrittenDownIsNotDone(t *testing.T) {
	b := queuetest.Run(t)
	fill(t, b, 2, "unverified")
	d, out := cut(t, b), &bytes.Buffer{}
	for name, do := range map[string]func(context.Context) error{
		"drop": func(ctx context.Context) error {
			_, err := d.Drop(ctx, "ops", desk.Selection{}, 2, func(uint64) {})
			return err
		},
		"export": func(ctx context.Context) error {
			_, err := d.Export(ctx, "ops", desk.Export{Format: desk.CSV}, out, func(uint64) {})
			return err
		},
		"reveal": func(ctx context.Context) error {
			letter, err := d.Reveal(ctx, "ops", 1)
			if letter.Data != nil || letter.Sequence != 0 {
				t.Errorf("revealed %+v", letter)
			}
			return err
		},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		if err := do(ctx); err == nil || !strings.Contains(err.Error(), "write the audit entry") {
			t.Errorf("%s: %v", name, err)
		}
		cancel()
	}
	if out.Len() != 0 || len(left(t, open(t, b))) != 2 {
		t.Errorf("exported %q", out)
	}
}

func TestWhoeverRevealsALetterIsWrittenDown(t *testing.T) {
	b := queuetest.Run(t)
	d := open(t, b)
	letter(t, b, `{"employee_id":"EMP-1","department":"Secret"}`, queue.Failure{EmployeeID: "EMP-1", Reason: "unverified"})
	if got := must[queue.DeadLetter](t)(d.Reveal(t.Context(), "ops", 1)); !bytes.Contains(got.Data, []byte("Secret")) {
		t.Errorf("%s", got.Data)
	}
	if got, want := acts(must[[]queue.AuditEntry](t)(b.AuditOfLetter(t.Context(), 1))), "ops reveal done 1"; got != want {
		t.Errorf("written down: %s, want %s", got, want)
	}
	if _, err := d.Reveal(t.Context(), "ops", 2); !errors.Is(err, queue.ErrNotFound) {
		t.Error("a letter that is not there:", err)
	}
	if n := len(audit(t, b)); n != 1 {
		t.Errorf("%d entries", n)
	}
}

func TestAnEditIsChecked(t *testing.T) {
	const was = `{"employee_id":"EMP-1","version":7,"department":"a","region":"b"}`
	for name, test := range map[string]struct {
		was, is string
		problem string
		fields  string
	}{
		"a field differs":                    {was, `{"employee_id":"EMP-1","version":7,"department":"c","region":"b"}`, "", "department"},
		"a field is new":                     {was, `{"employee_id":"EMP-1","version":7,"department":"a","region":"b","team":null}`, "", "team"},
		"a field is gone":                    {was, `{"employee_id":"EMP-1","version":7,"department":"a"}`, "", "region"},
		"several fields differ":              {was, `{"employee_id":"EMP-2","version":7,"department":"c","z":1}`, "", "department employee_id region z"},
		"the original is no record":          {"garbage", `{"employee_id":"EMP-1","version":9,"department":"a"}`, "", "department employee_id version"},
		"the original lacks a field":         {`{"department":"a"}`, `{"employee_id":"EMP-1","department":"a"}`, "", "employee_id"},
		"nothing differs":                    {was, was, "nothing was changed", ""},
		"only the spacing differs":           {was, "{ \"version\": 7,\n\"employee_id\": \"EMP-1\",\n\"region\":\"b\",\"department\":\"a\" }\n", "nothing was changed", ""},
		"a byte order mark is put on":        {was, "\ufeff" + was, "nothing was changed", ""},
		"a byte order mark is taken off":     {"\ufeff" + was, was, "nothing was changed", ""},
		"a field differs behind a mark":      {"\ufeff" + was, "\ufeff" + `{"employee_id":"EMP-1","version":7,"department":"c","region":"b"}`, "", "department"},
		"a value is written another way":     {was, `{"employee_id":"EMP-1","version":7,"department":"\u0061","region":"b"}`, "nothing was changed", ""},
		"a number differs in its last digit": {`{"employee_id":"EMP-1","n":9007199254740993}`, `{"employee_id":"EMP-1","n":9007199254740992,"department":"a"}`, "", "department n"},
		"the version differs":                {was, `{"employee_id":"EMP-1","version":8,"department":"a","region":"b"}`, "version and updated_at", ""},
		"the version is gone":                {was, `{"employee_id":"EMP-1","department":"c","region":"b"}`, "version and updated_at", ""},
		"it is no record":                    {was, `{"department":"a"}`, "employee_id is missing", ""},
		"it is no JSON":                      {was, `{`, "employee_id is missing", ""},
		"the mapping has no answer":          {was, `{"employee_id":"EMP-1","version":7}`, "the mapping has no answer for it: department is missing", ""},
	} {
		t.Run(name, func(t *testing.T) {
			draft, err := (&desk.Desk{Rules: rules{}}).Check(queue.DeadLetter{Data: []byte(test.was)}, []byte(test.is))
			if test.problem == "" {
				if err != nil || strings.Join(draft.Fields, " ") != test.fields || !strings.Contains(test.is, draft.Employee) || draft.Employee == "" {
					t.Errorf("%+v, %v", draft, err)
				}
				return
			}
			var edit *desk.EditError
			if !errors.As(err, &edit) || !strings.HasPrefix(edit.Problem, test.problem) {
				t.Errorf("%+v, %v", draft, err)
			}
		})
	}
}

func TestAnEditIsSentInPlaceOfTheRecord(t *testing.T) {
	b := queuetest.Run(t)
	d := open(t, b)
	letter(t, b, string(record("EMP-1", 7, "a")), queue.Failure{EmployeeID: "EMP-1", Reason: "unverified"})
	var edit *desk.EditError
	if _, err := d.Edit(t.Context(), "ops", 1, record("EMP-1", 8, "c")); !errors.As(err, &edit) {
		t.Error("a newer version:", err)
	}
	if got := left(t, d); len(got) != 1 {
		t.Fatalf("left are %v", got)
	}
	rep := must[queue.Replay](t)(d.Edit(t.Context(), "ops", 1, record("EMP-1", 7, "c")))
	if rep.State != queue.ReplayPublished || rep.Published != 1 || rep.By != "ops" {
		t.Errorf("%+v", rep)
	}
	q := must[*queue.Queue](t)(b.Queue(t.Context()))
	if got := fetch(t, q, 1)[0]; !bytes.Equal(got.Data, record("EMP-1", 7, "c")) || got.Order.Seq != 1 {
		t.Errorf("%s, %+v", got.Data, got.Order)
	}
	if got, want := acts(audit(t, b)), "ops edit begun 1, ops edit published 1"; got != want {
		t.Errorf("written down: %s, want %s", got, want)
	}
	if _, err := d.Edit(t.Context(), "ops", 1, record("EMP-1", 7, "d")); !errors.Is(err, queue.ErrNotFound) {
		t.Error("edited again:", err)
	}
}

// An oracle answers in the place of Genesys Cloud.
type oracle func([]queue.DeadLetter) ([]desk.Prospect, error)

func (o oracle) Prospects(_ context.Context, letters []queue.DeadLetter) ([]desk.Prospect, error) {
	return o(letters)
}

func TestADryRunAddsUpWhatTheOrgSays(t *testing.T) {
	d := &desk.Desk{}
	if _, err := d.DryRun(t.Context(), nil); !errors.Is(err, desk.ErrNoOrg) {
		t.Error("without an org:", err)
	}
	d.Org = oracle(func(letters []queue.DeadLetter) (all []desk.Prospect, err error) {
		for i, l := range letters {
			verdict := []string{desk.WouldChange, desk.NothingToDo}[i%2]
			all = append(all, desk.Prospect{Letter: l.Sequence, Verdict: verdict, Requests: float64(1 - i%2)})
		}
		return all, nil
	})
	run := must[desk.DryRun](t)(d.DryRun(t.Context(), make([]queue.DeadLetter, 5)))
	if len(run.Prospects) != 5 || run.Verdicts[desk.WouldChange] != 3 || run.Verdicts[desk.NothingToDo] != 2 || run.Requests != 3 {
		t.Errorf("%+v", run)
	}
	away := errors.New("away")
	d.Org = oracle(func([]queue.DeadLetter) ([]desk.Prospect, error) { return nil, away })
	if _, err := d.DryRun(t.Context(), nil); !errors.Is(err, away) {
		t.Error("an org that does not answer:", err)
	}
}

func TestAnEstimateGoesByTheSlowerOfBudgetAndPace(t *testing.T) {
	b := queuetest.Run(t)
	d := open(t, b)
	want := func(letters uint64, pace, perMinute float64, text string) {
		t.Helper()
		e := must[desk.Estimate](t)(d.Estimate(t.Context(), letters, pace))
		if e.PerMinute != perMinute || e.String() != text || e.Seconds != e.Takes.Seconds() || e.Letters != letters {
			t.Errorf("%+v\n%s", e, e)
		}
	}
	want(1000, 0, 0, "1000 records, up to 1050 requests, as fast as the workers go")
	want(1000, 50, 50, "1000 records, up to 1050 requests, about 20 min at 50 records a minute")
	must[desk.Budget](t)(d.SetLimit(t.Context(), "ops", "client", 300))
	allowed := 289 / desk.PerChanged
	want(1000, 0, allowed, "1000 records, up to 1050 requests, about 4 min at 275 records a minute")
	want(1000, 50, 50, "1000 records, up to 1050 requests, about 20 min at 50 records a minute")
	want(1000, 500, allowed, "1000 records, up to 1050 requests, about 4 min at 275 records a minute")
	want(0, 0, allowed, "0 records, up to 0 requests, about 0 s at 275 records a minute")
}

func TestTheProgressOfAReplayIsALine(t *testing.T) {
	for want, rep := range map[string]queue.Replay{
		"0 of 0 published":                           {},
		"3 of 10 published":                          {Total: 10, Published: 3},
		"3 of 10 published, 1 passed over (looping)": {Total: 10, Published: 3, Looping: 1},
		"1 of 9 published, 2 passed over (the mapping alters nothing), 3 gone meanwhile, 1 refused by the broker": {
			Total: 9, Published: 1, Unaltered: 2, Gone: 3, Failed: 1,
		},
		"6 of 6 published, 2 verified, 1 unchanged, 3 dead letters again": {
			Total: 6, Published: 6, Outcomes: map[string]uint64{queue.OutcomeVerified: 2, queue.OutcomeUnchanged: 1, queue.OutcomeDead: 3, queue.OutcomeSuperseded: 0},
		},
	} {
		if got := desk.Progress(rep); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

func TestWhatIsLeftOfAReplayIsReckonedFromItsSpeed(t *testing.T) {
	now := time.Now()
	began := now.Add(-time.Minute)
	for name, test := range map[string]struct {
		queue.Replay
		left time.Duration
		ok   bool
	}{
		"a quarter is done":            {queue.Replay{State: queue.ReplayRunning, Created: began, Total: 100, Published: 20, Looping: 5}, 3 * time.Minute, true},
		"nothing is done":              {queue.Replay{State: queue.ReplayRunning, Created: began, Total: 100}, 0, false},
		"all is done":                  {queue.Replay{State: queue.ReplayRunning, Created: began, Total: 100, Published: 100}, 0, false},
		"more is done than there were": {queue.Replay{State: queue.ReplayRunning, Created: began, Total: 100, Published: 101}, 0, false},
		"it is paused":                 {queue.Replay{State: queue.ReplayPaused, Created: began, Total: 100, Published: 20}, 0, false},
		"it begins in the future":      {queue.Replay{State: queue.ReplayRunning, Created: now.Add(time.Second), Total: 100, Published: 20}, 0, false},
	} {
		if left, ok := desk.Left(test.Replay, now); left != test.left || ok != test.ok {
			t.Errorf("%s: %s, %v", name, left, ok)
		}
	}
}

func TestTheLimitOfTheOnlyClientNeedsNoName(t *testing.T) {
	b := queuetest.Run(t)
	d := open(t, b)
	if _, err := d.SetLimit(t.Context(), "ops", "", 300); !errors.Is(err, desk.ErrClient) {
		t.Error("without any client:", err)
	}
	if entries := audit(t, b); len(entries) != 0 {
		t.Errorf("written down: %s", acts(entries))
	}
	must[desk.Budget](t)(d.SetLimit(t.Context(), "ops", "one", 300))
	got := must[desk.Budget](t)(d.SetLimit(t.Context(), "ops", "", 600))
	if got.Client != "one" || got.SetBy != "operator" || got.By != "ops" || got.Limit != 600 || !got.PausedUntil.IsZero() {
		t.Errorf("%+v", got)
	}
	got = must[desk.Budget](t)(d.PauseFleet(t.Context(), "ops", "", 10*time.Minute, "maintenance"))
	if left := time.Until(got.PausedUntil); left < 9*time.Minute || left > 11*time.Minute || got.Reason != "maintenance" || got.Limit != 600 {
		t.Errorf("%+v", got)
	}
	if text := got.PauseText(); !strings.HasSuffix(text, "(in 10 min): maintenance") {
		t.Error(text)
	}
	got = must[desk.Budget](t)(d.PauseFleet(t.Context(), "ops", "", time.Minute, "shorter"))
	if got.Reason != "maintenance" {
		t.Errorf("a shorter pause took the place of a longer one: %+v", got)
	}
	if got = must[desk.Budget](t)(d.ResumeFleet(t.Context(), "ops", "")); !got.PausedUntil.IsZero() || got.PauseText() != "" {
		t.Errorf("%+v", got)
	}
	if got = must[desk.Budget](t)(d.SetLimit(t.Context(), "ops", "", 0)); got.SetBy != "workers" || got.Limit != 0 {
		t.Errorf("%+v", got)
	}
	var said []string
	for _, e := range must[[]queue.AuditEntry](t)(b.AuditAbout(t.Context(), "one")) {
		if e.Action != queue.ActedLimit || e.By != "ops" {
			t.Errorf("%+v", e)
		}
		said = append(said, e.Outcome+": "+e.Detail)
	}
	slices.Reverse(said)
	var want []string
	for _, detail := range []string{
		"set to 300 requests a minute", "set to 600 requests a minute", "paused for 10m0s: maintenance", "paused for 1m0s: shorter", "resumed", "set to what the workers are set to",
	} {
		want = append(want, "begun: "+detail, "done: "+detail)
	}
	if !slices.Equal(said, want) {
		t.Errorf("written down:\n%s", strings.Join(said, "\n"))
	}
}

func TestOfSeveralClientsOneHasToBeNamed(t *testing.T) {
	b := queuetest.Run(t)
	d := open(t, b)
	for client, limit := range map[string]int{"one": 100, "the other": 200} {
		must[desk.Budget](t)(d.SetLimit(t.Context(), "ops", client, limit))
	}
	before := len(audit(t, b))
	for name, do := range map[string]func() (desk.Budget, error){
		"set":    func() (desk.Budget, error) { return d.SetLimit(t.Context(), "ops", "", 300) },
		"pause":  func() (desk.Budget, error) { return d.PauseFleet(t.Context(), "ops", "", time.Minute, "why") },
		"resume": func() (desk.Budget, error) { return d.ResumeFleet(t.Context(), "ops", "") },
	} {
		if _, err := do(); !errors.Is(err, desk.ErrClient) || !strings.Contains(err.Error(), "one") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := len(audit(t, b)); n != before {
		t.Errorf("%d entries, %d before", n, before)
	}
	got := must[desk.Budget](t)(d.PauseFleet(t.Context(), "ops", "the other", time.Minute, "why"))
	if got.Limit != 200 || got.PausedUntil.IsZero() {
		t.Errorf("%+v", got)
	}
	for _, b := range must[[]desk.Budget](t)(desk.Budgets(t.Context(), b, time.Now())) {
		if paused := !b.PausedUntil.IsZero(); paused != (b.Client == queue.Key("the other")) {
			t.Errorf("%+v", b)
		}
	}
}

func TestALimitThatCannotBeSetIsWrittenDownAsFailed(t *testing.T) {
	b := queuetest.Run(t)
	d := open(t, b)
	if _, err := d.SetLimit(t.Context(), "ops", "one", -1); err == nil {
		t.Error("set to less than nothing")
	}
	entries := must[[]queue.AuditEntry](t)(b.AuditAbout(t.Context(), "one"))
	if len(entries) != 2 || !strings.HasPrefix(entries[0].Outcome, "failed: set the limit: -1 is not between") {
		t.Errorf("%+v", entries)
	}
}

// crew runs one until the test, or stop, ends it.
func crew(t testing.TB, d *desk.Desk) (c *desk.Crew, stop func()) {
	t.Helper()
	c = &desk.Crew{Desk: d}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c.Run(ctx)
	}()
	stop = func() { cancel(); <-ended }
	t.Cleanup(stop)
	return c, stop
}

// await returns a replay as soon as it is as wanted.
func await(t testing.TB, b *queue.Broker, name string, is func(queue.Replay) bool) (rep queue.Replay) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	kv := must[*queue.KV](t)(b.KV(t.Context(), queue.DeskBucket))
	_ = kv.Watch(ctx, name, func(e queue.Entry) {
		var now queue.Replay
		if ctx.Err() == nil && json.Unmarshal(e.Value, &now) == nil {
			if rep = now; is(rep) {
				cancel()
			}
		}
	})
	if !is(rep) {
		t.Fatalf("replay %s has come to %+v", name, rep)
	}
	return rep
}

func published(rep queue.Replay) bool { return rep.State == queue.ReplayPublished && rep.Runner == "" }

func begin(t testing.TB, d *desk.Desk, rep queue.Replay) queue.Replay {
	t.Helper()
	rep.By = "ops"
	return must[queue.Replay](t)(d.Replays.Begin(t.Context(), rep))
}

// once fails unless each of n records waits in the queue just once.
func once(t testing.TB, b *queue.Broker, n int) {
	t.Helper()
	times := map[string]int{}
	for _, d := range fetch(t, must[*queue.Queue](t)(b.Queue(t.Context())), n) {
		times[string(d.Data)]++
	}
	if backlog := must[queue.Status](t)(b.Status(t.Context())).Backlog; backlog != uint64(n) || len(times) != n {
		t.Errorf("%d records of %d wait, want %d", backlog, len(times), n)
	}
}

func TestACrewRunsAReplayThatWasBegun(t *testing.T) {
	b := queuetest.Run(t)
	d := open(t, b)
	fill(t, b, 20, "unverified")
	c, _ := crew(t, d)
	rep := begin(t, d, queue.Replay{})
	c.Wake()
	if rep = await(t, b, rep.Name, published); rep.Published != 20 {
		t.Errorf("%+v", rep)
	}
	once(t, b, 20)
}

func TestACrewAdoptsAReplayWhoseRunnerDied(t *testing.T) {
	b := queuetest.Run(t)
	d := open(t, b)
	fill(t, b, 600, "unverified")
	rep := begin(t, d, queue.Replay{})
	died := make(chan struct{})
	go func() {
		defer close(died)
		runner, writes := d.Runner(nil), 0
		runner.Step = func(step string) {
			if step == "remove" {
				if writes++; writes == 2 {
					runtime.Goexit()
				}
			}
		}
		_, err := d.Replays.Run(t.Context(), rep.Name, runner)
		t.Error("it lived:", err)
	}()
	<-died
	lapse(t, b, rep.Name)
	crew(t, d)
	if rep = await(t, b, rep.Name, published); rep.Published != 600 {
		t.Errorf("%+v", rep)
	}
	once(t, b, 600)
	if got := left(t, d); len(got) != 0 {
		t.Errorf("left are %v", got)
	}
}

// lapse takes a replay from a runner that died, as time would.
func lapse(t testing.TB, b *queue.Broker, name string) {
	t.Helper()
	kv := deskKV(t, b)
	e := must[queue.Entry](t)(kv.Get(t.Context(), name))
	var rep queue.Replay
	ok(t, json.Unmarshal(e.Value, &rep))
	if rep.Runner == "" || rep.Held.IsZero() {
		t.Fatalf("nobody runs %+v", rep)
	}
	rep.Held = rep.Created
	must[uint64](t)(kv.Update(t.Context(), name, must[[]byte](t)(json.Marshal(rep)), e.Revision))
}

func TestACrewLeavesAloneWhatIsNotItsOwn(t *testing.T) {
	b := queuetest.Run(t)
	d := open(t, b)
	fill(t, b, 2, "unverified")
	fill(t, b, 3, "user_not_found")
	paused, other, ours := begin(t, d, queue.Replay{Name: "paused"}), begin(t, d, queue.Replay{Name: "other", Mapping: "m1"}), begin(t, d, queue.Replay{Name: "ours", Mapping: "m2"})
	must[queue.Replay](t)(d.Replays.Pause(t.Context(), paused.Name, "ops"))
	crew(t, d)
	if rep := await(t, b, ours.Name, published); rep.Published != 3 || rep.Unaltered != 2 {
		t.Errorf("%+v", rep)
	}
	for _, name := range []string{paused.Name, other.Name} {
		if rep := must[queue.Replay](t)(d.Replays.Get(t.Context(), name)); rep.Looked() != 0 || rep.Runner != "" || !rep.Held.IsZero() {
			t.Errorf("%+v", rep)
		}
	}
}

func TestACrewStopsWithItsContextAndAnotherGoesOn(t *testing.T) {
	b := queuetest.Run(t)
	d := open(t, b)
	fill(t, b, 20, "unverified")
	rep := begin(t, d, queue.Replay{Rate: 120}) // ten seconds
	_, stop := crew(t, d)
	await(t, b, rep.Name, func(rep queue.Replay) bool { return rep.Published > 0 })
	stop()
	rep = must[queue.Replay](t)(d.Replays.Get(t.Context(), rep.Name))
	if rep.State != queue.ReplayRunning || rep.Runner != "" || rep.Published == 20 {
		t.Errorf("stopped as %+v", rep)
	}
	must[queue.Replay](t)(d.Replays.SetRate(t.Context(), rep.Name, "ops", 0))
	crew(t, d)
	if rep = await(t, b, rep.Name, published); rep.Published != 20 {
		t.Errorf("%+v", rep)
	}
	once(t, b, 20)
}

func TestTwoCrewsPublishEachRecordOnce(t *testing.T) {
	b := queuetest.Run(t)
	d := open(t, b)
	fill(t, b, 300, "unverified")
	one, two := begin(t, d, queue.Replay{Name: "one"}), begin(t, d, queue.Replay{Name: "two"})
	crew(t, d)
	crew(t, open(t, queuetest.Connect(t, b.URL())))
	one, two = await(t, b, one.Name, published), await(t, b, two.Name, published)
	if one.Published+two.Published != 300 {
		t.Errorf("%d and %d published", one.Published, two.Published)
	}
	once(t, b, 300)
}
