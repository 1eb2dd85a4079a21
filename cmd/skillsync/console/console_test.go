package console_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"skillsync/cmd/skillsync/console"
	"skillsync/queue"
	"skillsync/queue/queuetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A fake is a source in memory.
type fake struct {
	status  queue.Status
	groups  []queue.Group
	letters []queue.DeadLetter
	err     error // of every call

	asked []string // what List was asked for
}

func (f *fake) Status(context.Context) (queue.Status, error)  { return f.status, f.err }
func (f *fake) Groups(context.Context) ([]queue.Group, error) { return f.groups, f.err }

func (f *fake) List(_ context.Context, filter queue.Filter, from uint64, limit int) (page []queue.DeadLetter, next uint64, err error) {
	f.asked = append(f.asked, fmt.Sprintf("%q %q %d %d", filter.Reason, filter.Employee, from, limit))
	for _, d := range f.letters {
		if d.Sequence < from {
			continue
		}
		if len(page) == limit {
			return page, page[limit-1].Sequence + 1, f.err
		}
		page = append(page, d)
	}
	return page, 0, f.err
}

func (f *fake) Get(_ context.Context, seq uint64) (queue.DeadLetter, error) {
	for _, d := range f.letters {
		if d.Sequence == seq {
			return d, f.err
		}
	}
	if f.err != nil {
		return queue.DeadLetter{}, f.err
	}
	return queue.DeadLetter{}, fmt.Errorf("read dead letter: %w", queue.ErrNotFound)
}

// ask sends a request as a browser on this machine does, changed as the test wants.
func ask(t *testing.T, s console.Source, method, target string, change ...func(*http.Request)) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, target, nil)
	r.Host = "127.0.0.1:8788"
	for _, c := range change {
		c(r)
	}
	w := httptest.NewRecorder()
	(&console.Console{Source: s}).Handler().ServeHTTP(w, r)
	return w
}

// page gets a page that has to be there.
func page(t *testing.T, s console.Source, target string) string {
	t.Helper()
	w := ask(t, s, http.MethodGet, target)
	if w.Code != http.StatusOK || w.Header().Get("Content-Type") != "text/html; charset=utf-8" {
		t.Fatalf("GET %s: %d, %s\n%s", target, w.Code, w.Header().Get("Content-Type"), w.Body)
	}
	return w.Body.String()
}

func contains(t *testing.T, body string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if !strings.Contains(body, text) {
			t.Errorf("lacks %q:\n%s", text, body)
		}
	}
}

func lacks(t *testing.T, body string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if strings.Contains(body, text) {
			t.Errorf("holds %q:\n%s", text, body)
		}
	}
}

// letter is one with everything that a dead letter can say.
func letter(seq uint64) queue.DeadLetter {
	at := time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC)
	return queue.DeadLetter{
		Sequence: seq, At: at.Add(time.Hour), Published: at, Replays: 7, Batch: "employees.csv",
		Failure: queue.Failure{
			EmployeeID: "EMP-1", Version: "42", Reason: "unverified", Class: "exhausted", Error: "the skills are not as expected",
			Status: 418, CorrelationID: "corr-1", Attempts: 5, First: at.Add(time.Minute), Last: at.Add(2 * time.Minute), MappingVersion: "map-1",
			Expected: json.RawMessage(`[{"name":"Billing","proficiency":4},{"name":"Chat","proficiency":3},{"name":"French","proficiency":2.5}]`),
			Actual:   json.RawMessage(`[{"name":"Chat","proficiency":1},{"name":"French","proficiency":2.5},{"name":"Sales","proficiency":0,"level":"Level 2"}]`),
		},
		Data: []byte(`{"employee_id":"EMP-1","email":"jane@example.com","department":"Support"}`),
	}
}

func TestTheOverviewTellsBacklogWorkersOutcomesAndDeadLettersByReason(t *testing.T) {
	s := &fake{
		status: queue.Status{
			Waiting: 1234, InFlight: 56, Backlog: 1290, Oldest: time.Now().Add(-7*time.Minute - time.Second), Pulls: 3,
			Results: map[string]uint64{queue.OutcomeVerified: 146, queue.OutcomeUnchanged: 25, queue.OutcomeSuperseded: 15, queue.OutcomeDead: 10},
		},
		groups: []queue.Group{{Reason: "user_not_found", Count: 6, Oldest: time.Now()}, {Reason: "unverified", Count: 4, Oldest: time.Now()}},
	}
	body := page(t, s, "/")
	contains(t, body, "<dd>1234</dd>", "<dd>56 ", "7 min ago", "<dd>3 ",
		`Verified</th><td class="number">146`, `Unchanged</th><td class="number">25`, `Superseded</th><td class="number">15`, `Dead letter</th><td class="number">10`,
		`<a href="/dead?reason=user_not_found">user_not_found</a></th><td class="number">6<`, `<a href="/dead?reason=unverified">`, "10 in all",
		`<meta http-equiv="refresh" content="5">`, `name="viewport"`)
	lacks(t, body, "paused", "setup", "<script", "style=")

	s.status, s.groups = queue.Status{Paused: true, Orphans: 17}, nil
	contains(t, page(t, s, "/"), "is paused", "17 records that no worker gets", "None: every record", "<dd>–</dd>")
}

func TestTheListPagesThroughAllLettersAndKeepsItsFilter(t *testing.T) {
	s := &fake{groups: []queue.Group{{Reason: "unverified", Count: 120}, {Reason: "bad_record", Count: 1}}}
	for seq := uint64(2); seq <= 240; seq += 2 {
		s.letters = append(s.letters, letter(seq))
	}
	body := page(t, s, "/dead?reason=unverified&employee=+EMP-1+")
	contains(t, body, `<a href="/dead/2"`, `<a href="/dead/100"`, `<a href="/dead?employee=EMP-1&amp;from=101&amp;reason=unverified" rel="next">`,
		`<option value="unverified" selected>`, `<option value="bad_record">`, `name="employee" value="EMP-1"`, `<label for="reason">`, `<label for="employee">`, `method="get"`)
	lacks(t, body, `<a href="/dead/102"`, "From the first", `http-equiv="refresh"`)

	s.letters = s.letters[1:] // somebody dropped the first meanwhile
	body = page(t, s, "/dead?reason=unverified&employee=EMP-1&from=101")
	contains(t, body, `<a href="/dead/102"`, `<a href="/dead/200"`, "from=201", `<a href="/dead?employee=EMP-1&amp;reason=unverified">From the first`)
	lacks(t, body, `<a href="/dead/100"`, `<a href="/dead/202"`)
	lacks(t, page(t, s, "/dead?from=201"), `rel="next"`)
	contains(t, page(t, s, "/dead?from=999"), "No dead letters from here on.")
	contains(t, page(t, &fake{}, "/dead?reason=gone"), "No dead letters of that reason", `<option value="gone" selected>`)

	if want := `"unverified" "EMP-1" 0 50,"unverified" "EMP-1" 101 50`; strings.Join(s.asked[:2], ",") != want {
		t.Errorf("asked for %q, want %s", s.asked[:2], want)
	}
	for _, from := range []string{"x", "-1", "1e3", "99999999999999999999"} {
		if w := ask(t, s, http.MethodGet, "/dead?from="+from); w.Code != http.StatusBadRequest {
			t.Errorf("from=%s: %d", from, w.Code)
		}
	}
}

func TestALetterIsShownWholeButForItsValues(t *testing.T) {
	body := page(t, &fake{letters: []queue.DeadLetter{letter(12)}}, "/dead/12")
	contains(t, body, "<h1>Dead letter 12</h1>", "unverified (exhausted)", "the skills are not as expected", "418", "corr-1",
		"<dt>Attempts</dt><dd>5</dd>", "2026-11-23 08:01:00 UTC", "2026-11-23 08:02:00 UTC", "2026-11-23 09:00:00 UTC", "map-1", "42",
		"<dt>Replays</dt><dd>7</dd>", "employees.csv", `<a href="/dead?employee=EMP-1">`,
		"<code>skillsync dlq replay 12</code>", "<code>skillsync dlq drop 12</code>", "employee_id&#34;: &#34;EMP-1", "email", "department")
	lacks(t, body, "jane@example.com", "Support", "<form")
	for _, row := range []string{
		`<bdi>Billing</bdi></th><td>4</td><td>–</td><td>missing</td>`,
		`<bdi>Chat</bdi></th><td>3</td><td>1</td><td>differs</td>`,
		`<bdi>French</bdi></th><td>2.5</td><td>2.5</td><td></td>`,
		`<bdi>Sales</bdi></th><td>–</td><td>Level 2</td><td>not asked for</td>`,
	} {
		contains(t, body, row)
	}
}

func TestALetterThatSaysLittleIsShownToo(t *testing.T) {
	for name, row := range map[string]struct {
		letter queue.DeadLetter
		want   string
	}{
		"no record":            {queue.DeadLetter{Data: []byte("jane@example.com")}, "16 bytes that are no record"},
		"no employee":          {queue.DeadLetter{}, "not known"},
		"skills cut short":     {queue.DeadLetter{Failure: queue.Failure{Expected: json.RawMessage(`"too long"`)}}, "too long"},
		"nested values":        {queue.DeadLetter{Data: []byte(`{"employee_id":{"a":"jane@example.com"},"version":["jane@example.com"]}`)}, "employee_id"},
		"a list, not a record": {queue.DeadLetter{Data: []byte(`["jane@example.com"]`)}, "no record"},
	} {
		t.Run(name, func(t *testing.T) {
			row.letter.Sequence, row.letter.At = 1, time.Now()
			body := page(t, &fake{letters: []queue.DeadLetter{row.letter}}, "/dead/1")
			contains(t, body, row.want)
			lacks(t, body, "jane@example.com", "0001-01-01")
		})
	}
}

// hostile tries to leave the element and the attribute it is shown in, to turn the text around,
// and to ring the bell.
const hostile = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>\u202egnp.exe\u2066\u200f\a\x1b[31m\r"

func TestHostileTextIsOnlyText(t *testing.T) {
	d := letter(1)
	d.EmployeeID, d.Reason, d.Class, d.Error, d.CorrelationID, d.Version, d.MappingVersion, d.Batch = hostile, hostile, hostile, hostile, hostile, hostile, hostile, hostile
	skills, err := json.Marshal([]map[string]any{{"name": hostile, "level": hostile}})
	if err != nil {
		t.Fatal(err)
	}
	d.Expected, d.Actual = skills, json.RawMessage(`"`+"</td><script>\u202e"+`"`)
	if d.Data, err = json.Marshal(map[string]string{"employee_id": hostile, hostile: "x"}); err != nil {
		t.Fatal(err)
	}
	named := d // with skills that can be compared
	named.Sequence, named.Actual = 2, skills
	s := &fake{letters: []queue.DeadLetter{d, named}, groups: []queue.Group{{Reason: hostile, Count: 1}}}
	query := "?reason=%3Cscript%3E%22%27%E2%80%AE%07&employee=%22%20onfocus=%22alert(1)%E2%80%AE%00"
	for _, target := range []string{"/", "/dead", "/dead" + query, "/dead/1", "/dead/2"} {
		t.Run(target, func(t *testing.T) {
			body := page(t, s, target)
			lacks(t, body, "<script", "<img", `" onfocus`, "\u202e", "\u2066", "\u200f", "\a", "\x1b", "\r", "\x00")
			contains(t, body, "&lt;script&gt;", "·")
		})
	}
	s.err = fmt.Errorf("broken: %s", hostile)
	w := ask(t, s, http.MethodGet, "/")
	lacks(t, w.Body.String(), "<script", "\u202e", "\x1b")
}

func TestWhatIsNotThereIs404AndABrokerThatIsAway503(t *testing.T) {
	there := &fake{letters: []queue.DeadLetter{letter(1)}}
	for _, target := range []string{"/dead/2", "/dead/0", "/dead/-1", "/dead/x", "/dead/%3Cscript%3E", "/dead/", "/favicon.ico", "/dead/1/2"} {
		w := ask(t, there, http.MethodGet, target)
		if w.Code != http.StatusNotFound || !strings.Contains(w.Body.String(), "<h1>There is no") {
			t.Errorf("%s: %d\n%s", target, w.Code, w.Body)
		}
	}
	away := &fake{err: fmt.Errorf("look at the queue: %w: no answer", queue.ErrUnreachable)}
	for _, target := range []string{"/", "/dead", "/dead/1"} {
		w := ask(t, away, http.MethodGet, target)
		if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
			t.Errorf("%s: %d, %v", target, w.Code, w.Header())
		}
		contains(t, w.Body.String(), "The broker does not answer", "look at the queue: broker unreachable", `http-equiv="refresh"`)
	}
	away.err = queue.ErrNotSetUp
	contains(t, ask(t, away, http.MethodGet, "/").Body.String(), "skillsync setup")
}

func TestEveryAnswerTellsTheBrowserToBeCareful(t *testing.T) {
	s := &fake{letters: []queue.DeadLetter{letter(1)}}
	for _, target := range []string{"/", "/dead", "/dead/1", "/dead/2", "/style.css", "/nowhere"} {
		h := ask(t, s, http.MethodGet, target).Header()
		for name, want := range map[string]string{
			"Content-Security-Policy": "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
			"X-Content-Type-Options":  "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store",
		} {
			if h.Get(name) != want {
				t.Errorf("%s: %s is %q", target, name, h.Get(name))
			}
		}
	}
	w := ask(t, s, http.MethodGet, "/style.css")
	if w.Code != http.StatusOK || w.Header().Get("Content-Type") != "text/css; charset=utf-8" || !strings.Contains(w.Body.String(), "prefers-color-scheme: dark") {
		t.Errorf("style sheet: %d, %v", w.Code, w.Header())
	}
}

func TestOnlyLoopbackNamesAreAnswered(t *testing.T) {
	for host, want := range map[string]int{
		"127.0.0.1:8788": 200, "127.8.9.1:1": 200, "localhost:8788": 200, "LOCALHOST:8788": 200, "[::1]:8788": 200, "localhost": 200, "[::1]": 200,
		"evil.example:8788": 403, "localhost.evil.example:8788": 403, "127.0.0.1.evil.example": 403, "192.0.2.1:8788": 403,
		"0.0.0.0:8788": 403, "[::]:8788": 403, "": 403, ":8788": 403, "127.1:8788": 403, "2130706433": 403, "127.0.0.1:1:2": 403,
	} {
		w := ask(t, &fake{groups: []queue.Group{{Reason: "unverified"}}}, http.MethodGet, "/", func(r *http.Request) { r.Host = host })
		if w.Code != want || want == 403 && strings.Contains(w.Body.String(), "unverified") {
			t.Errorf("%q: %d, want %d", host, w.Code, want)
		}
	}
}

func TestNothingButReadingIsAllowed(t *testing.T) {
	s := &fake{letters: []queue.DeadLetter{letter(1)}}
	for _, method := range []string{"POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "BREW"} {
		for _, target := range []string{"/", "/dead", "/dead/1", "/style.css", "/nowhere"} {
			w := ask(t, s, method, target)
			if w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != "GET, HEAD" {
				t.Errorf("%s %s: %d", method, target, w.Code)
			}
		}
	}
	if w := ask(t, s, http.MethodHead, "/dead/1"); w.Code != http.StatusOK {
		t.Error("HEAD:", w.Code)
	}
}

// live is a real broker, as the program hands it over.
type live struct {
	*queue.Broker
	*queue.DeadLetters
}

func TestThePagesShowWhatABrokerHolds(t *testing.T) {
	b := queuetest.Run(t)
	q, err := b.Queue(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i := range 52 { // the last one stays in the queue
		id := fmt.Sprintf("EMP %d", i)
		if _, err := b.Publish(t.Context(), queue.Message{EmployeeID: id, Data: fmt.Appendf(nil, `{"employee_id":%q,"email":"jane@example.com"}`, id)}); err != nil {
			t.Fatal(err)
		}
	}
	for settled := 0; settled < 51; {
		var held []*queue.Delivery
		if _, err := q.Fetch(t.Context(), 51-settled, time.Second, func(d *queue.Delivery) { held = append(held, d) }); err != nil {
			t.Fatal(err)
		}
		for _, d := range held {
			f := queue.Failure{EmployeeID: fmt.Sprintf("EMP %d", d.Sequence-1), Reason: "unverified", Error: "<b>" + hostile, Attempts: 5, Expected: json.RawMessage(`[{"name":"A","proficiency":1}]`)}
			if err := d.DeadLetter(t.Context(), f); err != nil {
				t.Fatal(err)
			}
			settled++
		}
	}
	s := live{b, b.DeadLetters()}
	contains(t, page(t, s, "/"), `<a href="/dead?reason=unverified">unverified</a></th><td class="number">51<`, "<dt>Waiting</dt><dd>1</dd>", `Dead letter</th><td class="number">51<`)
	contains(t, page(t, s, "/dead?reason=unverified"), "EMP 0", "EMP 49", `<a href="/dead?from=51&amp;reason=unverified" rel="next">`)
	contains(t, page(t, s, "/dead?from=51"), "EMP 50", `<a href="/dead/51"`)
	lacks(t, page(t, s, "/dead?employee=EMP+7"), "EMP 8", `rel="next"`)
	body := page(t, s, "/dead/8")
	contains(t, body, "EMP 7", "<bdi>A</bdi></th><td>1</td><td>–</td><td>missing</td>", "&lt;script&gt;", "skillsync dlq replay 8")
	lacks(t, body, "jane@example.com", "<b>", "<script", "\u202e")
	if w := ask(t, s, http.MethodGet, "/dead/52"); w.Code != http.StatusNotFound {
		t.Error("a letter that is not there:", w.Code)
	}
	b.Close()
	if w := ask(t, s, http.MethodGet, "/"); w.Code != http.StatusServiceUnavailable {
		t.Error("without a broker:", w.Code)
	}
}
