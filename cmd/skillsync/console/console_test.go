package console_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os/exec"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"skillsync/cmd/skillsync/console"
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

// rules are a mapping that wants a department, and alters what another version made.
type rules struct{}

func (rules) Read(data []byte) (employee, version string, err error) {
	var r struct {
		EmployeeID string      `json:"employee_id"`
		Version    json.Number `json:"version"`
	}
	if json.Unmarshal(data, &r) != nil || r.EmployeeID == "" {
		return "", "", errors.New("employee_id: must be there")
	}
	return r.EmployeeID, r.Version.String(), nil
}

func (rules) Map(data []byte) error {
	if !strings.Contains(string(data), `"department"`) {
		return errors.New("no department")
	}
	return nil
}

func (r rules) Alters(d *queue.DeadLetter) bool { return d.MappingVersion != r.Version() }
func (rules) Version() string                   { return "map-2" }

// prospects are an org that tells of each letter what a function does.
type prospects func(queue.DeadLetter) desk.Prospect

func (f prospects) Prospects(_ context.Context, letters []queue.DeadLetter) (all []desk.Prospect, err error) {
	for _, d := range letters {
		all = append(all, f(d))
	}
	return all, nil
}

// billing is that each replay would change one skill.
func billing(d queue.DeadLetter) desk.Prospect {
	return desk.Prospect{
		Letter: d.Sequence, Employee: d.EmployeeID, Verdict: desk.WouldChange, Requests: 1,
		Before: json.RawMessage(`[{"name":"Billing","proficiency":1}]`), After: json.RawMessage(`[{"name":"Billing","proficiency":4}]`),
	}
}

// A bench is a console at a real broker.
type bench struct {
	*console.Console
	broker  *queue.Broker
	queue   *queue.Queue
	handler http.Handler
}

func open(t *testing.T, change ...func(*console.Console)) *bench {
	t.Helper()
	b := &bench{broker: queuetest.Run(t)}
	b.queue = must[*queue.Queue](t)(b.broker.Queue(t.Context()))
	d := must[*desk.Desk](t)(desk.Open(t.Context(), b.broker))
	d.Rules, d.Org = rules{}, prospects(billing)
	b.Console = &console.Console{Desk: d, User: "ops"}
	for _, c := range change {
		c(b.Console)
	}
	b.handler = b.Handler()
	return b
}

// record is the one of an employee, with a value that nobody is to see.
func record(employee string) string {
	return fmt.Sprintf(`{"employee_id":%q,"email":"jane@example.com","department":"Support"}`, employee)
}

// failure is one with everything that a dead letter can say.
func failure(employee string) queue.Failure {
	at := time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC)
	return queue.Failure{
		EmployeeID: employee, Version: "42", Reason: "unverified", Class: "exhausted", Error: "the skills are not as expected",
		Status: 418, CorrelationID: "corr-1", Attempts: 2, First: at.Add(time.Minute), Last: at.Add(2 * time.Minute), MappingVersion: "map-1", Worker: "worker-1",
		Tries: []queue.Try{
			{Number: 1, At: at.Add(time.Minute), Status: 503, CorrelationID: "corr-0", Error: "no answer", Worker: "worker-0"},
			{Number: 2, At: at.Add(2 * time.Minute), Status: 418, CorrelationID: "corr-1", Error: "the skills are not as expected", Worker: "worker-1"},
		},
		Expected: json.RawMessage(`[{"name":"Billing","proficiency":4},{"name":"Chat","proficiency":3},{"name":"French","proficiency":2.5}]`),
		Actual:   json.RawMessage(`[{"name":"Chat","proficiency":1},{"name":"French","proficiency":2.5},{"name":"Sales","proficiency":0,"level":"Level 2"}]`),
	}
}

// next is the next delivery.
func (b *bench) next(t testing.TB) (d *queue.Delivery) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); d == nil; {
		_, err := b.queue.Fetch(t.Context(), 1, time.Second, func(one *queue.Delivery) { d = one })
		if err != nil || time.Now().After(deadline) {
			t.Fatal("no record comes:", err)
		}
	}
	return d
}

// dead makes a dead letter.
func (b *bench) dead(t testing.TB, m queue.Message, f queue.Failure) {
	t.Helper()
	m.EmployeeID = f.EmployeeID
	if m.Data == nil {
		m.Data = []byte(record(f.EmployeeID))
	}
	must[queue.Ack](t)(b.broker.Publish(t.Context(), m))
	ok(t, b.next(t).DeadLetter(t.Context(), f))
}

// letters makes n dead letters of employees EMP-1, EMP-2, … whose reasons take turns.
func (b *bench) letters(t testing.TB, n int, reasons ...string) {
	t.Helper()
	for i := range n {
		f := failure(fmt.Sprintf("EMP-%d", i+1))
		f.Reason = reasons[i%len(reasons)]
		b.dead(t, queue.Message{}, f)
	}
}

// run does a replay.
func (b *bench) run(t testing.TB, name string) queue.Replay {
	t.Helper()
	return must[queue.Replay](t)(b.Desk.Replays.Run(t.Context(), name, b.Desk.Runner(nil)))
}

// looping makes dead letter LoopAfter+1, which came back from LoopAfter replays.
func (b *bench) looping(t testing.TB, employee string) {
	t.Helper()
	b.dead(t, queue.Message{}, failure(employee))
	for n := range queue.LoopAfter {
		ok(t, queuetest.Replay(t.Context(), b.broker, uint64(n+1)))
		ok(t, b.next(t).DeadLetter(t.Context(), failure(employee)))
	}
}

// limited makes a budget for a client.
func (b *bench) limited(t testing.TB, client string, limit int) {
	t.Helper()
	must[desk.Budget](t)(b.Desk.SetLimit(t.Context(), "somebody", client, limit))
}

// ask sends a request as a browser on this machine does, changed as the test wants.
func (b *bench) ask(t testing.TB, method, target string, form url.Values, change ...func(*http.Request)) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, target, strings.NewReader(form.Encode()))
	r.Host = "127.0.0.1:8788"
	if method == http.MethodPost {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Sec-Fetch-Site", "same-origin")
	}
	for _, c := range change {
		c(r)
	}
	w := httptest.NewRecorder()
	b.handler.ServeHTTP(w, r)
	return w
}

// page gets a page that has to be there.
func (b *bench) page(t testing.TB, target string, change ...func(*http.Request)) string {
	t.Helper()
	w := b.ask(t, http.MethodGet, target, nil, change...)
	if w.Code != http.StatusOK || w.Header().Get("Content-Type") != "text/html; charset=utf-8" {
		t.Fatalf("GET %s: %d, %s\n%s", target, w.Code, w.Header().Get("Content-Type"), w.Body)
	}
	return w.Body.String()
}

// post sends a form, and returns where it leads.
func (b *bench) post(t testing.TB, target string, form url.Values) string {
	t.Helper()
	w := b.ask(t, http.MethodPost, target, form)
	if w.Code != http.StatusSeeOther {
		t.Fatalf("POST %s: %d\n%s", target, w.Code, w.Body)
	}
	return w.Header().Get("Location")
}

func contains(t testing.TB, body string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if !strings.Contains(body, text) {
			t.Errorf("lacks %q:\n%s", text, body)
		}
	}
}

func lacks(t testing.TB, body string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if strings.Contains(body, text) {
			t.Errorf("holds %q:\n%s", text, body)
		}
	}
}

func TestTheOverviewTellsBacklogBudgetOutcomesAndDeadLettersByReason(t *testing.T) {
	b := open(t)
	contains(t, b.page(t, "/"), "None: every record", "No worker has drawn", "<dd>–</dd>", "Done: nothing waits")
	b.letters(t, 3, "user_not_found", "unverified", "user_not_found")
	must[queue.Ack](t)(b.broker.Publish(t.Context(), queue.Message{EmployeeID: "EMP-9"}))
	b.limited(t, "client-1", 1200)
	must[desk.Budget](t)(b.Desk.PauseFleet(t.Context(), "ops", "client-1", time.Minute, "a release <b>"))
	body := b.page(t, "/")
	contains(
		t, body, "<dt>Waiting</dt><dd>1</dd>", "1200 requests a minute, set by an operator", "<strong>Paused</strong> until", "a release &lt;b&gt;",
		`dead letter</th><td class="number">3</td><td class="number">3</td>`, `verified</th><td class="number">0</td>`,
		`<a href="/dead?reason=user_not_found">user_not_found</a></th><td class="number">2</td>`, `<a href="/dead?reason=unverified">`, "3 in all",
		`418 × 2`, `<td class="number">67 %</td>`, `name="viewport"`, `<noscript><meta http-equiv="refresh" content="5"></noscript>`, `data-live="/events?page=overview"`, ` aria-current="page">Overview`,
	)
	lacks(t, body, "consumer “", "setup", "style=", "jane@example.com")
}

func TestALetterIsShownWholeButForItsValues(t *testing.T) {
	b := open(t)
	b.dead(t, queue.Message{Header: map[string][]string{queue.HeaderBatch: {"employees.csv"}}}, failure("EMP-1"))
	body := b.page(t, "/dead/1")
	contains(
		t, body, "<h1>Dead letter 1</h1>", "unverified (exhausted)", "the skills are not as expected", "418", "corr-1",
		"<dt>Attempts</dt><dd>2</dd>", "2026-11-23 08:01:00 UTC", "2026-11-23 08:02:00 UTC", "map-1", "42", "worker-1",
		"<dt>Replays</dt><dd>0</dd>", "employees.csv", `<a href="/dead?employee=EMP-1">`, "employee_id&#34;: &#34;EMP-1", "email", "department",
		`503</td><td class="id"><code>corr-0</code></td><td class="id"><bdi>worker-0</bdi></td><td class="long"><bdi>no answer</bdi>`,
		`href="/dead/replay?letter=1"`, `href="/dead/drop?letter=1"`, `action="/dead/dry-run?letter=1"`, "Nobody has done anything",
		`<bdi>Billing</bdi></th><td>4</td><td>–</td><td>missing</td>`,
		`<bdi>Chat</bdi></th><td>3</td><td>1</td><td>differs</td>`,
		`<bdi>French</bdi></th><td>2.5</td><td>2.5</td><td></td>`,
		`<bdi>Sales</bdi></th><td>–</td><td>Level 2</td><td>not asked for</td>`,
	)
	lacks(t, body, "jane@example.com", "Support", "loops", `rel="next"`)
	b.dead(t, queue.Message{}, failure("EMP-2"))
	contains(t, b.page(t, "/dead/1"), `<a href="/dead/2?employee=EMP-2" rel="next">`)
}

func TestALetterThatSaysLittleIsShownToo(t *testing.T) {
	b := open(t)
	for seq, row := range []struct {
		name, data, want string
		failure          queue.Failure
	}{
		{"no record", "jane@example.com", "16 bytes that are no record", queue.Failure{}},
		{"no employee", "{}", "not known", queue.Failure{}},
		{"skills that were too long", "{}", "too long", queue.Failure{Expected: json.RawMessage(`"too long"`)}},
		{"nested values", `{"employee_id":{"a":"jane@example.com"},"version":["jane@example.com"]}`, "employee_id", queue.Failure{}},
		{"a list, not a record", `["jane@example.com"]`, "no record", queue.Failure{}},
	} {
		t.Run(row.name, func(t *testing.T) {
			row.failure.Reason = "bad_record"
			b.dead(t, queue.Message{Data: []byte(row.data)}, row.failure)
			body := b.page(t, fmt.Sprintf("/dead/%d", seq+1))
			contains(t, body, row.want)
			lacks(t, body, "jane@example.com", "0001-01-01")
		})
	}
}

// hostile tries to leave the element and the attribute it is shown in, to turn the text around,
// and to ring the bell.
const hostile = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>\u202egnp.exe\u2066\u200f\a\x1b[31m"

// all are addresses of every page, about a letter 1, another that is gone, and a replay r.
var all = []string{
	"/", "/dead", "/dead?from=2", "/dead?order=newest&from=1", "/dead/1", "/dead/3", "/dead/replay", "/dead/replay?letter=1", "/dead/drop", "/dead/drop?letter=1", "/dead/export",
	"/replays", "/replays/r", "/limit", "/outcomes", "/audit",
}

// notThere are those of them that say so.
var notThere = map[string]bool{"/dead/3": true}

func TestHostileTextIsOnlyText(t *testing.T) {
	b := open(t)
	f := queue.Failure{
		EmployeeID: hostile, Version: hostile, Reason: hostile, Class: hostile, Error: hostile, CorrelationID: hostile, MappingVersion: hostile, Worker: hostile, App: hostile,
		Tries: []queue.Try{{Number: 1, Error: hostile, CorrelationID: hostile, Worker: hostile}},
	}
	f.Expected = must[[]byte](t)(json.Marshal([]map[string]any{{"name": hostile, "level": hostile}}))
	f.Actual = json.RawMessage(`"` + "</td><script>\u202e" + `"`)
	data := must[[]byte](t)(json.Marshal(map[string]string{"employee_id": hostile, hostile: "x", "department": hostile}))
	m := queue.Message{Data: data, Header: map[string][]string{queue.HeaderBatch: {hostile}, queue.HeaderReplay: {hostile}}}
	for range 3 { // letter 3 is replayed, and comes back as letter 4
		b.dead(t, m, f)
	}
	filter := queue.Filter{Batch: hostile, Mapping: hostile, Text: hostile}
	must[queue.Replay](t)(b.Desk.Replays.Begin(t.Context(), queue.Replay{Name: "r", By: hostile, Filter: filter}))
	must[queue.Replay](t)(b.Desk.Replays.Pause(t.Context(), "r", hostile))
	must[queue.Replay](t)(b.Desk.Replays.Begin(t.Context(), queue.Replay{Name: "r2", By: hostile, Letters: []uint64{3}}))
	b.run(t, "r2")
	ok(t, b.next(t).DeadLetter(t.Context(), f))
	b.limited(t, "client-1", 300)
	must[desk.Budget](t)(b.Desk.PauseFleet(t.Context(), hostile, "client-1", time.Hour, hostile))
	ok(t, b.broker.Audit(t.Context(), queue.AuditEntry{By: hostile, Action: hostile, About: hostile, Outcome: hostile, Detail: hostile, Filter: &filter}))
	b.Desk.Org = prospects(func(d queue.DeadLetter) desk.Prospect {
		return desk.Prospect{Letter: d.Sequence, Employee: hostile, Verdict: desk.StillFails, Reason: hostile, Why: hostile, After: f.Expected, Attributes: []string{hostile}}
	})
	harmless := func(t *testing.T, w *httptest.ResponseRecorder) {
		t.Helper()
		body := strings.Replace(w.Body.String(), `<script src="/app.js" defer></script>`, "", 1)
		lacks(t, body, "<script", "<img", `" onfocus`, "\u202e", "\u2066", "\u200f", "\a", "\x1b", "\r", "\x00", "style=")
	}
	query := "?reason=%3Cscript%3E%22%27%E2%80%AE%07&employee=%22%20onfocus=%22alert(1)%E2%80%AE%00&class=%22%3E%3Cscript%3E&batch=%22%20onfocus=%22&mapping=%3Cscript%3E&text=%E2%80%AE%22%20onfocus=%22&before=%3Cscript%3E&replays=%3Cscript%3E&status=%3Cscript%3E"
	for _, target := range append(all, "/dead"+query, "/dead?reason=%3Cscript%3E%22%27%E2%80%AE", "/dead/1"+query, "/dead/4", "/dead/replay"+query, "/outcomes"+query, "/outcomes?before=%3Cscript%3E",
		"/?did=%3Cscript%3E", "/replays/%3Cscript%3E", "/nowhere%3Cscript%3E", "/dead/3?employee="+url.QueryEscape(hostile)) {
		w := b.ask(t, http.MethodGet, target, nil)
		if w.Code >= 500 {
			t.Errorf("%s: %d\n%s", target, w.Code, w.Body)
		}
		harmless(t, w)
	}
	for _, target := range []string{"/", "/dead", "/dead/1", "/dead/4", "/replays/r", "/outcomes", "/audit", "/limit", "/dead/replay?batch=" + url.QueryEscape(hostile)} {
		contains(t, b.page(t, target), "&lt;script&gt;", "·")
	}
	for _, target := range []string{"/dead/dry-run?letter=1", "/dead/1/reveal", "/dead/1/edit-form", "/dead/1/edit"} {
		w := b.ask(t, http.MethodPost, target, url.Values{"record": {hostile + "\r\n</textarea>\u202e"}})
		harmless(t, w)
		contains(t, w.Body.String(), "&lt;script&gt;")
	}
	harmless(t, b.ask(t, http.MethodPost, "/limit/set", url.Values{"client": {"client-1"}, "limit": {hostile}}))
	harmless(t, b.ask(t, http.MethodPost, "/limit/set", url.Values{"client": {hostile}}))
}

func TestAFieldOf60KiBFitsOnItsPage(t *testing.T) {
	b := open(t)
	long := strings.Repeat("x", 60<<10)
	for i := range 50 {
		f := failure(fmt.Sprintf("EMP-%d", i))
		f.Error = strings.Repeat("e", 60<<10)
		b.dead(t, queue.Message{Data: fmt.Appendf(nil, `{"employee_id":"EMP-1","department":%q,%q:1}`, long, long)}, f)
	}
	if n := len(b.page(t, "/dead")); n > 200<<10 {
		t.Errorf("the list has %d bytes", n)
	}
	if n := len(b.page(t, "/dead/1")); n > 100<<10 {
		t.Errorf("the letter has %d bytes", n)
	}
	w := b.ask(t, http.MethodPost, "/dead/1/reveal", nil)
	contains(t, w.Body.String(), long)
}

func TestWhatIsNotThereIs404AndABrokerThatIsAway503(t *testing.T) {
	b := open(t)
	for _, target := range []string{"/dead/2", "/dead/0", "/dead/-1", "/dead/x", "/dead/%3Cscript%3E", "/dead/", "/favicon.ico", "/dead/1/2", "/replays/none", "/replays/%20", "/events", "/events?page=none"} {
		w := b.ask(t, http.MethodGet, target, nil)
		if w.Code != http.StatusNotFound || !strings.Contains(w.Body.String(), "<h1>There ") {
			t.Errorf("%s: %d\n%s", target, w.Code, w.Body)
		}
	}
	for _, target := range []string{"/replays/none/pause", "/replays/none/burn", "/limit/set", "/dead/7/reveal", "/dead/7/edit", "/dead/x/edit-form"} {
		if w := b.ask(t, http.MethodPost, target, url.Values{"client": {"none"}}); w.Code != http.StatusNotFound {
			t.Errorf("POST %s: %d\n%s", target, w.Code, w.Body)
		}
	}
	b.broker.Close()
	for _, target := range []string{"/", "/dead", "/dead/1", "/replays", "/replays/r", "/limit", "/outcomes", "/audit", "/dead/replay"} {
		w := b.ask(t, http.MethodGet, target, nil)
		if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
			t.Errorf("%s: %d, %v", target, w.Code, w.Header())
		}
		contains(t, w.Body.String(), "The broker does not answer", "broker unreachable", `<meta http-equiv="refresh" content="5">`)
	}
	lacks(t, b.ask(t, http.MethodPost, "/dead/1/reveal", nil).Body.String(), "http-equiv")
}

func TestABrokerThatIsNotSetUpIsToldWithWhatToDo(t *testing.T) {
	server := queuetest.Serve(t, t.TempDir(), "127.0.0.1:0")
	t.Cleanup(server.Shutdown)
	broker := queuetest.Connect(t, server.URL())
	b := &bench{handler: (&console.Console{Desk: &desk.Desk{Broker: broker, Letters: broker.DeadLetters(), Rules: rules{}}}).Handler()}
	w := b.ask(t, http.MethodGet, "/", nil)
	if w.Code != http.StatusServiceUnavailable {
		t.Errorf("%d", w.Code)
	}
	contains(t, w.Body.String(), "skillsync setup")
}

func TestAFilterThatIsWrongIsToldByItsField(t *testing.T) {
	b := open(t)
	for query, field := range map[string]string{
		"status=999x": "status", "replays=some": "replays", "after=yesterday": "after", "before=1": "before", "letter=x": "letter", "letter=0": "letter", "until=-1": "until",
		"of=ticked": "no dead letter is ticked", "after=2026-11-23T08:00&before=2026-11-23T07:00": "from",
	} {
		w := b.ask(t, http.MethodGet, "/dead/replay?"+query, nil)
		if w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), field) {
			t.Errorf("%s: %d\n%s", query, w.Code, w.Body)
		}
	}
	for _, target := range []string{"/dead?from=x", "/dead?from=-1", "/dead?from=99999999999999999999", "/outcomes?before=x", "/audit?before=0", "/dead?status=x", "/dead?order=x"} {
		if w := b.ask(t, http.MethodGet, target, nil); w.Code != http.StatusBadRequest {
			t.Errorf("%s: %d", target, w.Code)
		}
	}
}

func TestEveryAnswerTellsTheBrowserToBeCareful(t *testing.T) {
	b := open(t)
	careful := func(what string, h http.Header) {
		for name, want := range map[string]string{
			"Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
			"X-Content-Type-Options":  "nosniff", "Referrer-Policy": "same-origin", "Cache-Control": "no-store",
		} {
			if h.Get(name) != want {
				t.Errorf("%s: %s is %q", what, name, h.Get(name))
			}
		}
	}
	for _, target := range append(all, "/style.css", "/app.js", "/nowhere", "/events", "/sign-in") {
		careful(target, b.ask(t, http.MethodGet, target, nil).Header())
		careful("POST "+target, b.ask(t, http.MethodPost, target, nil).Header())
		careful("PUT "+target, b.ask(t, http.MethodPut, target, nil).Header())
	}
	for target, kind := range map[string]string{"/style.css": "text/css; charset=utf-8", "/app.js": "text/javascript; charset=utf-8"} {
		if w := b.ask(t, http.MethodGet, target, nil); w.Code != http.StatusOK || w.Header().Get("Content-Type") != kind {
			t.Errorf("%s: %d, %v", target, w.Code, w.Header())
		}
	}
}

func TestOnlyLoopbackNamesAreAnsweredWithoutASignIn(t *testing.T) {
	b := open(t)
	b.letters(t, 1, "unverified")
	for host, want := range map[string]int{
		"127.0.0.1:8788": 200, "127.8.9.1:1": 200, "localhost:8788": 200, "LOCALHOST:8788": 200, "[::1]:8788": 200, "localhost": 200, "[::1]": 200,
		"evil.example:8788": 403, "localhost.evil.example:8788": 403, "127.0.0.1.evil.example": 403, "192.0.2.1:8788": 403,
		"0.0.0.0:8788": 403, "[::]:8788": 403, "": 403, ":8788": 403, "127.1:8788": 403, "2130706433": 403, "127.0.0.1:1:2": 403,
	} {
		w := b.ask(t, http.MethodGet, "/dead", nil, func(r *http.Request) { r.Host = host })
		if w.Code != want || want == 403 && strings.Contains(w.Body.String(), "unverified") {
			t.Errorf("%q: %d, want %d", host, w.Code, want)
		}
	}
}

func TestARequestFromAnotherSiteChangesNothing(t *testing.T) {
	b := open(t)
	b.letters(t, 1, "unverified")
	for name, header := range map[string]map[string]string{
		"a page of another site": {"Sec-Fetch-Site": "cross-site"}, "a page of a neighbour": {"Sec-Fetch-Site": "same-site"},
		"an old browser": {"Sec-Fetch-Site": "", "Origin": "https://evil.example"}, "a page without an origin": {"Sec-Fetch-Site": "", "Origin": "null"},
	} {
		for target, form := range map[string]url.Values{"/dead/drop?letter=1": {"count": {"1"}}, "/dead/replay?letter=1": {"form": {"x"}}, "/dead/dry-run?letter=1": nil, "/sign-in": nil} {
			w := b.ask(t, http.MethodPost, target, form, func(r *http.Request) {
				for k, v := range header {
					r.Header.Set(k, v)
				}
			})
			if w.Code != http.StatusForbidden {
				t.Errorf("%s, %s: %d", name, target, w.Code)
			}
		}
	}
	if n := must[uint64](t)(b.Desk.Letters.Count(t.Context(), queue.Filter{}, 0)); n != 1 {
		t.Errorf("%d letters are left", n)
	}
	if all := must[[]queue.Replay](t)(b.Desk.Replays.List(t.Context(), 10)); len(all) != 0 {
		t.Errorf("replays were begun: %v", all)
	}
}

func TestOnlyGetHeadAndPostAreAnswered(t *testing.T) {
	b := open(t)
	for _, method := range []string{"PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "BREW"} {
		for _, target := range []string{"/", "/dead", "/dead/1", "/style.css", "/nowhere"} {
			w := b.ask(t, method, target, nil, func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "same-origin") })
			if w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != "GET, HEAD, POST" {
				t.Errorf("%s %s: %d", method, target, w.Code)
			}
		}
	}
	for _, target := range []string{"/", "/dead", "/style.css", "/events?page=overview"} {
		if w := b.ask(t, http.MethodHead, target, nil); w.Code >= 500 {
			t.Errorf("HEAD %s: %d", target, w.Code)
		}
	}
}

// Ids are for one thing each, every control has a label, and headings come in order.
func TestEveryPageIsWellFormed(t *testing.T) {
	b := open(t, func(c *console.Console) { c.Tokens = tokens })
	b.looping(t, "EMP-1") // letters 1 to 3 are gone, 4 is there
	b.dead(t, queue.Message{}, failure("EMP-2"))
	must[queue.Replay](t)(b.Desk.Replays.Begin(t.Context(), queue.Replay{Name: "r", By: "ops", Letters: []uint64{5}}))
	b.limited(t, "client-1", 300)
	b.limited(t, "client-2", 300)
	for _, target := range all {
		target = strings.NewReplacer("/dead/1", "/dead/4", "letter=1", "letter=4").Replace(target)
		w := b.ask(t, http.MethodGet, target, nil, bearer("see-secret"))
		if (w.Code == http.StatusOK) == notThere[target] {
			t.Errorf("%s: %d\n%s", target, w.Code, w.Body)
		}
		wellFormed(t, target, w.Body.String())
		w = b.ask(t, http.MethodGet, target, nil, bearer("do-secret"))
		wellFormed(t, target, w.Body.String())
	}
	for _, target := range []string{"/dead/4/reveal", "/dead/4/edit-form", "/dead/dry-run", "/dead/drop", "/limit/set"} {
		wellFormed(t, target, b.ask(t, http.MethodPost, target, nil, bearer("do-secret")).Body.String())
	}
	wellFormed(t, "/sign-in", b.ask(t, http.MethodGet, "/sign-in", nil).Body.String())
}

func TestTheConsoleKnowsNeitherGenesysNorTheWorker(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "skillsync/cmd/skillsync/console").Output()
	ok(t, err)
	for dep := range strings.FieldsSeq(string(out)) {
		if strings.HasPrefix(dep, "skillsync/genesys") || strings.HasPrefix(dep, "skillsync/worker") {
			t.Errorf("it knows %s", dep)
		}
	}
}

func form(pairs ...string) url.Values {
	v := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		v.Add(pairs[i], pairs[i+1])
	}
	return v
}
