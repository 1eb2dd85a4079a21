package console_test

import (
	"encoding/csv"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"skillsync/cmd/skillsync/console"
	"skillsync/queue"
	"skillsync/queue/queuetest"
)

// listed are the letters that a list shows, without those of the groups above it.
func listed(body string) (numbers []string) {
	_, list, _ := strings.Cut(body, "<h2>List</h2>")
	for _, m := range regexp.MustCompile(`name="letter" value="(\d+)"`).FindAllStringSubmatch(list, -1) {
		numbers = append(numbers, m[1])
	}
	return numbers
}

func TestTheListPagesThroughAllLettersAndKeepsItsFilter(t *testing.T) {
	b := open(t)
	b.letters(t, 120, "unverified", "bad_record")
	body := b.page(t, "/dead?reason=unverified&employee=")
	if got := listed(body); len(got) != 50 || got[0] != "1" || got[49] != "99" {
		t.Errorf("the first page lists %v", got)
	}
	contains(
		t, body, `href="/dead?from=100&amp;reason=unverified" rel="next">Next page`, `<option value="unverified" selected>`, `<option value="bad_record">`, `method="get"`,
		"All 60 that match", `href="/dead/replay?reason=unverified"`, `href="/dead/drop?reason=unverified"`, `href="/dead/export?reason=unverified"`,
		`<a href="/dead?reason=bad_record">bad_record</a></th><td class="number">60</td><td>418 × 60</td>`, "the skills are not as expected", `<a href="/dead/119?employee=EMP-119"`,
	)
	lacks(t, body, "From the first", `<meta http-equiv="refresh"`, "jane@example.com")
	body = b.page(t, "/dead?from=100&reason=unverified")
	if got := listed(body); len(got) != 10 || got[0] != "101" {
		t.Errorf("the second page lists %v", got)
	}
	contains(t, body, `<a href="/dead?reason=unverified">From the first`)
	lacks(t, body, `rel="next"`)
	contains(t, b.page(t, "/dead?from=999"), "No dead letters from here on.")
	contains(t, b.page(t, "/dead?reason=gone"), "No dead letters that match", `<option value="gone" selected>`)
	if got := listed(b.page(t, "/dead?employee=+EMP-7+")); !slices.Equal(got, []string{"7"}) {
		t.Errorf("of EMP-7: %v", got)
	}
}

func TestTheListCanBeginWithTheNewest(t *testing.T) {
	b := open(t)
	b.letters(t, 120, "unverified", "bad_record")
	body := b.page(t, "/dead?reason=unverified&order=newest")
	if got := listed(body); len(got) != 50 || got[0] != "119" || got[49] != "21" {
		t.Errorf("the first page lists %v", got)
	}
	contains(t, body, `<option value="newest" selected>`, `href="/dead?from=19&amp;order=newest&amp;reason=unverified" rel="next">Next page`, "All 60 that match")
	lacks(t, body, "From the ")
	body = b.page(t, "/dead?from=19&order=newest&reason=unverified")
	if got := listed(body); len(got) != 10 || got[0] != "19" || got[9] != "1" {
		t.Errorf("the second page lists %v", got)
	}
	contains(t, body, `<a href="/dead?order=newest&amp;reason=unverified">From the newest`)
	lacks(t, body, `rel="next"`)
	if w := b.ask(t, http.MethodGet, "/dead?order=random", nil); w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), "takes newest or nothing") {
		t.Errorf("another order: %d\n%s", w.Code, w.Body)
	}
}

func TestEveryFieldOfTheFilterSelects(t *testing.T) {
	b := open(t)
	b.looping(t, "EMP-1") // letter 4
	b.dead(t, queue.Message{Header: map[string][]string{queue.HeaderBatch: {"June\u00a02026.csv"}}}, queue.Failure{EmployeeID: "EMP-2", Reason: "user_not_found", Class: "permanent", Status: 404, Error: "No such USER", MappingVersion: "map-2"})
	b.dead(t, queue.Message{}, queue.Failure{EmployeeID: "EMP-3", Reason: "bad_record", MappingVersion: "map-2"})
	soon := url.QueryEscape(time.Now().UTC().Add(time.Hour).Format("2006-01-02T15:04"))
	for query, want := range map[string][]string{
		"": {"4", "5", "6"}, "reason=bad_record": {"6"}, "employee=EMP-1": {"4"}, "class=permanent": {"5"}, "status=404": {"5"}, "status=4xx": {"4", "5"}, "status=none": {"6"},
		"after=" + soon: nil, "before=" + soon: {"4", "5", "6"}, "after=2020-01-01T00:00": {"4", "5", "6"}, "before=2020-01-01T00:00:30": nil,
		"mapping=map-1": {"4"}, "mapping=!map-1": {"5", "6"}, "replays=3": {"4"}, "replays=1%2B": {"4"}, "replays=0": {"5", "6"},
		"batch=June%C2%A02026.csv": {"5"}, "text=such+user": {"5"}, "status=4xx&text=such": {"5"},
	} {
		if got := listed(b.page(t, "/dead?"+query)); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", query, got, want)
		}
	}
	body := b.page(t, "/dead?after=2020-01-01T00:00&before=2099-01-01T10:30&replays=3%2B&mapping=map-1&status=4xx&class=exhausted&text=skills")
	contains(t, body, `value="2020-01-01T00:00"`, `value="2099-01-01T10:30"`, `value="3&#43;"`, `value="map-1"`, `value="4xx"`, `value="exhausted"`, `value="skills"`, `3 <span class="tag">loops`,
		`href="/dead/replay?after=2020-01-01T00%3A00&amp;before=2099-01-01T10%3A30&amp;class=exhausted&amp;mapping=map-1&amp;replays=3%2B&amp;status=4xx&amp;text=skills"`)
	contains(t, b.page(t, "/dead/4"), "It has come back from 3 replays", "Earlier replays", "<bdi>a test</bdi>", `<a href="/dead/3?employee=EMP-1"`)
	// What is not printable gets through all pages.
	contains(t, b.page(t, "/dead/drop?batch=June%C2%A02026.csv"), `action="/dead/drop?batch=June%C2%A02026.csv&amp;until=6"`, "Drop 1 for good")
}

// A list that has to read letters to select may end a page early.
func TestAnEmptyPageThatIsNotTheLastSaysHowToSearchOn(t *testing.T) {
	body := console.EmptyPage(3, "/dead?from=3")
	contains(t, body, `<a href="/dead?from=3" rel="next">Search on from no. 3</a>`, "None before no. 3.")
	lacks(t, body, "No dead letters")
}

func TestALetterThatIsGoneSaysWhatBecameOfIt(t *testing.T) {
	b := open(t)
	b.letters(t, 3, "unverified")
	if w := b.ask(t, http.MethodPost, "/dead/1/reveal", nil); w.Code != http.StatusOK {
		t.Fatal(w.Code)
	}
	rep := must[queue.Replay](t)(b.Desk.Replays.Begin(t.Context(), queue.Replay{Name: "r", Letters: []uint64{1, 3}, By: "ops"}))
	b.run(t, rep.Name)
	for range 2 {
		d := b.next(t)
		employee, _, err := rules{}.Read(d.Data)
		ok(t, err)
		ok(t, d.Ack(t.Context(), queue.Result{EmployeeID: employee, Outcome: queue.OutcomeVerified}))
	}
	b.post(t, "/dead/drop?letter=2", form("count", "1"))
	gone := func(target string) string {
		w := b.ask(t, http.MethodGet, target, nil)
		if w.Code != http.StatusNotFound {
			t.Errorf("%s: %d", target, w.Code)
		}
		return w.Body.String()
	}
	for _, target := range []string{"/dead/1", "/dead/1?employee=EMP-1"} {
		contains(t, gone(target), "There is no dead letter 1", ">reveal</td>", `<a href="/replays/r"><bdi>r</bdi></a>`, "<td>verified</td>", `<a href="/dead/1?employee=EMP-1">1</a>`)
	}
	body := gone("/dead/2")
	contains(t, body, ">drop</td>", "done")
	lacks(t, body, "verified", "/replays/r")
	contains(t, gone("/dead/99"), "There may never have been one")
}

func TestValuesAreShownOnceAndThatIsWrittenDown(t *testing.T) {
	b := open(t)
	b.letters(t, 1, "unverified")
	w := b.ask(t, http.MethodPost, "/dead/1/reveal", nil)
	contains(t, w.Body.String(), "jane@example.com", "written down")
	lacks(t, w.Body.String(), "Reveal values")
	body := b.page(t, "/dead/1")
	lacks(t, body, "jane@example.com")
	contains(t, body, ">reveal</td>", "<bdi>ops</bdi>")
	if e := b.audit(t); len(e) != 1 || e[0].Action != queue.ActedReveal || e[0].By != "ops" || e[0].About != "1" {
		t.Errorf("audit: %+v", e)
	}
}

func TestARecordIsEditedCheckedAndReplayed(t *testing.T) {
	b := open(t)
	b.dead(t, queue.Message{Data: []byte("{\"employee_id\":\"EMP-1\",\"version\":7,\"city\":\"S\u00e3o\u00a0Paulo\",\"department\":\"Suport\"}")}, failure("EMP-1"))
	body := b.ask(t, http.MethodPost, "/dead/1/edit-form", nil).Body.String()
	contains(t, body, "<textarea", "Suport", `São\u00a0Paulo`, "written down")
	mended := `{"employee_id":"EMP-1","version":7,"city":"S\u00e3o\u00a0Paulo",` + "\r\n\t" + `"department":"Support"}`
	for record, problem := range map[string]string{
		`{`:                                   "employee_id: must be there",
		`{"employee_id":"EMP-1","version":7}`: "no department",
		strings.Replace(mended, "7", "8", 1):  "have to stay as they are",
		"{\"employee_id\":\"EMP-1\",\"version\":7,\"city\":\"S\u00e3o\u00a0Paulo\",\"department\":\"Suport\"}": "nothing was changed",
	} {
		for _, do := range []string{"check", "replay"} {
			w := b.ask(t, http.MethodPost, "/dead/1/edit", form("record", record, "do", do))
			if w.Code != http.StatusUnprocessableEntity {
				t.Errorf("%s: %d", record, w.Code)
			}
			contains(t, w.Body.String(), "It cannot be sent", problem, "<textarea")
		}
	}
	w := b.ask(t, http.MethodPost, "/dead/1/edit", form("record", mended, "do", "check"))
	contains(t, w.Body.String(), "It may be sent; changed: ", "<bdi>department</bdi>", "Support")
	lacks(t, w.Body.String(), "·")
	if n := len(must[[]queue.Replay](t)(b.Desk.Replays.List(t.Context(), 10))); n != 0 {
		t.Errorf("%d replays were begun", n)
	}
	to := b.post(t, "/dead/1/edit", form("record", mended, "do", "replay"))
	contains(t, b.page(t, to), "The edited record is in the queue.", "with an edited record")
	d := b.next(t)
	if string(d.Data) != mended {
		t.Errorf("sent: %s", d.Data)
	}
	ok(t, d.DeadLetter(t.Context(), failure("EMP-1")))
	contains(t, b.page(t, "/dead/2"), "<bdi>department</bdi>")
	if w := b.ask(t, http.MethodPost, "/dead/1/edit", form("record", mended, "do", "replay")); w.Code != http.StatusNotFound {
		t.Errorf("sent a second time: %d", w.Code)
	}
	e := b.audit(t)
	if len(e) != 3 || e[2].Action != queue.ActedReveal || e[1].Action != queue.ActedEdit || e[0].Outcome != "published" {
		t.Errorf("audit: %+v", e)
	}
}

func TestWhatIsNotPrintableIsEscapedInARecordToBeEdited(t *testing.T) {
	for text, want := range map[string]string{
		"{\n  \"a\": \"é\"\n}": "{\n  \"a\": \"é\"\n}", "a\u00a0b": `a\u00a0b`, "a\u202eb": `a\u202eb`, "\U000e0001": `\udb40\udc01`, "a\r\n\tb": "a\n b", "\u007f": `\u007f`,
	} {
		if got := console.Escaped(text); got != want {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
	}
}

func TestLettersAreDroppedOnlyIfTheirNumberIsTyped(t *testing.T) {
	b := open(t)
	b.letters(t, 4, "unverified", "bad_record")
	body := b.page(t, "/dead/drop?reason=unverified")
	contains(t, body, "reason unverified", "Type 2 to go on", `action="/dead/drop?reason=unverified&amp;until=4"`)
	for _, typed := range []string{"", "two", "1", "3", "-2"} {
		w := b.ask(t, http.MethodPost, "/dead/drop?reason=unverified&until=4", form("count", typed))
		if w.Code != http.StatusConflict {
			t.Errorf("typed %q: %d", typed, w.Code)
		}
		contains(t, w.Body.String(), "Nothing was dropped", "Type 2 to go on")
	}
	ok(t, queuetest.Replay(t.Context(), b.broker, 1)) // somebody was quicker
	w := b.ask(t, http.MethodPost, "/dead/drop?reason=unverified&until=4", form("count", "2"))
	contains(t, w.Body.String(), "that is not how many there are now", "Type 1 to go on")
	to := b.post(t, "/dead/drop?reason=unverified&until=4", form("count", "1"))
	if to != "/dead?did=dropped&reason=unverified" {
		t.Error("leads to", to)
	}
	contains(t, b.page(t, to), "The dead letters are gone")
	if got := listed(b.page(t, "/dead")); !slices.Equal(got, []string{"2", "4"}) {
		t.Errorf("left: %v", got)
	}
	b.post(t, "/dead/drop?letter=4&letter=2&letter=4", form("count", "2"))
	contains(t, b.page(t, "/dead/drop"), "There are none.")
}

func TestAnExportIsAFileWithValuesOnlyIfAskedFor(t *testing.T) {
	b := open(t)
	f := failure("EMP-1")
	f.Error = "=HYPERLINK(1)"
	b.dead(t, queue.Message{}, f)
	b.dead(t, queue.Message{}, failure("EMP-2"))
	contains(t, b.page(t, "/dead/export?employee=EMP-1"), "1 letter.", `action="/dead/export?employee=EMP-1&amp;until=2"`, `name="values"`)
	export := func(target string, pairs ...string) string {
		w := b.ask(t, http.MethodPost, target, form(pairs...))
		name := regexp.MustCompile(`^attachment; filename="skillsync-dead-letters-\d{8}T\d{6}Z\.(csv|jsonl)"$`)
		if disposition := w.Header().Get("Content-Disposition"); w.Code != http.StatusOK || !name.MatchString(disposition) {
			t.Errorf("%s: %d, %s", target, w.Code, disposition)
		}
		return w.Header().Get("Content-Type") + "\n" + w.Body.String()
	}
	kind, rows, _ := strings.Cut(export("/dead/export?until=2", "format", "csv"), "\n")
	all := must[[][]string](t)(csv.NewReader(strings.NewReader(rows)).ReadAll())
	if kind != "text/csv; charset=utf-8" || len(all) != 3 || all[1][6] != "'=HYPERLINK(1)" {
		t.Errorf("%s %v", kind, all)
	}
	lacks(t, rows, "jane@example.com")
	lines := export("/dead/export?letter=2", "format", "jsonl", "values", "1")
	contains(t, lines, "application/jsonl", "jane@example.com")
	lacks(t, lines, "EMP-1")
	export("/dead/export?reason=none", "format", "jsonl") // an empty file is one, too
	if w := b.ask(t, http.MethodPost, "/dead/export", form("format", "xlsx")); w.Code != http.StatusBadRequest {
		t.Error("another format:", w.Code)
	}
	e := b.audit(t)
	if len(e) != 6 || e[2].Detail != "jsonl to a browser, with values" || e[2].Count != 1 || e[2].Outcome != "done" {
		t.Errorf("audit: %+v", e)
	}
	b.broker.Close()
	if w := b.ask(t, http.MethodPost, "/dead/export", form("format", "csv")); w.Code != http.StatusServiceUnavailable || w.Header().Get("Content-Disposition") != "" {
		t.Errorf("without a broker: %d, %v", w.Code, w.Header())
	}
}

func TestOutcomesAndAuditArePagedFromTheNewest(t *testing.T) {
	b := open(t)
	for i := range 60 {
		employee := fmt.Sprintf("EMP-%d", i%2)
		must[queue.Ack](t)(b.broker.Publish(t.Context(), queue.Message{EmployeeID: employee, Header: map[string][]string{queue.HeaderBatch: {"b.csv"}}}))
		ok(t, b.next(t).Ack(t.Context(), queue.Result{EmployeeID: employee, Outcome: queue.OutcomeVerified, CorrelationID: fmt.Sprintf("corr-%d.", i), Attempt: 1, Seconds: 2.25}))
		ok(t, b.broker.Audit(t.Context(), queue.AuditEntry{By: fmt.Sprintf("ops-%d.", i), Action: queue.ActedReveal, About: "1", Outcome: "done"}))
	}
	body := b.page(t, "/outcomes")
	contains(t, body, "corr-59.", "corr-10.", `rel="next"`, "b.csv", "2.2", "<td>verified</td>")
	lacks(t, body, "corr-9.", "Newest")
	body = b.page(t, "/outcomes?before=11")
	contains(t, body, "corr-9.", "corr-0.", `<a href="/outcomes?">Newest</a>`)
	lacks(t, body, "corr-10.", `rel="next"`)
	body = b.page(t, "/outcomes?employee=EMP-1")
	contains(t, body, "corr-59.", `value="EMP-1"`)
	lacks(t, body, "corr-58.")
	body = b.page(t, "/audit")
	contains(t, body, "ops-59.", "ops-10.", `href="/audit?before=11" rel="next"`, `<a href="/dead/1">`)
	lacks(t, body, "ops-9.")
	contains(t, b.page(t, "/audit?before=11"), "ops-9.", "ops-0.", "Newest")
}

// A gone is a browser that takes nothing more.
type gone struct{ *httptest.ResponseRecorder }

func (gone) Write([]byte) (int, error) { return 0, errors.New("gone") }

func TestAnExportThatIsCutShortIsNotTakenForWhole(t *testing.T) {
	b := open(t)
	b.letters(t, 1, "unverified")
	defer func() {
		if caught := recover(); caught != http.ErrAbortHandler {
			t.Errorf("it ended with %v", caught)
		}
		if e := b.audit(t); !strings.HasPrefix(e[0].Outcome, "failed: ") {
			t.Errorf("audit: %+v", e)
		}
	}()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/dead/export?format=csv", nil)
	r.Host = "localhost"
	b.handler.ServeHTTP(gone{httptest.NewRecorder()}, r)
}

func TestThousandsAreSetApart(t *testing.T) {
	for n, want := range map[any]string{0: "0", 7: "7", 999: "999", uint64(1000): "1,000", 1234567: "1,234,567", 288.6: "289", 1e6: "1,000,000"} {
		if got := console.Many(n); got != want {
			t.Errorf("%v is written %s, want %s", n, got, want)
		}
	}
}

func TestAShareIsRoundedButNeverToNoneOrAll(t *testing.T) {
	for part, want := range map[uint64]string{1: "< 1 %", 9: "< 1 %", 10: "1 %", 777: "78 %", 990: "99 %", 994: "> 99 %", 999: "> 99 %", 1000: "100 %"} {
		if got := console.Share(part, 1000); got != want {
			t.Errorf("%d of 1000 is %s, want %s", part, got, want)
		}
	}
}
