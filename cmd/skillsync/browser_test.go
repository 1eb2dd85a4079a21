package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/rs/zerolog"

	"skillsync/cmd/skillsync/desk"
	"skillsync/genesys/sandbox"
	"skillsync/queue"
)

// needBrowser is set where a test that finds no browser must fail rather than be skipped.
const needBrowser = "SKILLSYNC_BROWSER_TESTS"

// screenshots is a folder to put the README's pictures into:
//
//	SKILLSYNC_SCREENSHOTS=$PWD/deploy/screenshots go test -count=1 -run Browser ./cmd/skillsync
const screenshots = "SKILLSYNC_SCREENSHOTS"

// A browser is Chromium with one page open. It fails its test for whatever goes wrong on a page.
type browser struct {
	*testing.T
	ctx  context.Context
	base string

	mu     sync.Mutex
	faults []string
}

// openBrowser starts Chromium, which is to see no host but base's.
func openBrowser(t *testing.T, base string) *browser {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		path, err = exec.LookPath("google-chrome")
	}
	if err != nil {
		if os.Getenv(needBrowser) != "" {
			t.Fatal("there is no chromium on this machine")
		}
		t.Skip("there is no chromium on this machine: apt-get install chromium")
	}
	options := append(
		chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.NoSandbox,
		chromedp.Flag("force-prefers-reduced-motion", true), chromedp.UserDataDir(t.TempDir()),
	)
	ctx, stop := chromedp.NewExecAllocator(context.WithoutCancel(t.Context()), options...)
	t.Cleanup(stop)
	ctx, stop = chromedp.NewContext(ctx)
	t.Cleanup(stop)
	b := &browser{T: t, ctx: ctx, base: base}
	if err := chromedp.Listen(ctx, b.hear); err != nil {
		t.Fatal(err)
	}
	b.do(
		protocol(network.Enable, network.EnableParams{}),
		protocol(runtime.Enable, cdp.Empty{}),
		protocol(cdplog.Enable, cdp.Empty{}),
	)
	return b
}

type action = chromedp.Action[chromedp.Void]

// protocol is a command of the DevTools protocol.
func protocol[P any](c cdp.Command[P, cdp.Empty], params P) action {
	return chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, c, params)
		return err
	})
}

// eval is what a script on the page comes to, in the end if it is a promise.
func eval[T any](b *browser, script string) T {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, 30*time.Second)
	defer cancel()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](script, chromedp.EvalAwaitPromise))
	if err != nil {
		b.Fatalf("%v\nof %s", err, script)
	}
	return v
}

// hear takes down what a page must not do.
func (b *browser) hear(event any) {
	switch e := event.(type) {
	case *network.EventRequestWillBeSent:
		if u, err := url.Parse(e.Request.URL); err != nil || u.Scheme != "data" && "http://"+u.Host != b.base {
			b.fault("a request to %s", e.Request.URL)
		}
	case *runtime.EventExceptionThrown:
		b.fault("an exception: %s %+v", e.ExceptionDetails.Text, e.ExceptionDetails.Exception)
	case *runtime.EventConsoleAPICalled:
		b.fault("the console says %s: %+v", e.Type, e.Args)
	case *cdplog.EventEntryAdded:
		if e.Entry.Level == cdplog.EntryLevelError && !strings.Contains(e.Entry.Text, "responded with a status of 4") { // a page that says what is wrong
			b.fault("the console has: %s (%s)", e.Entry.Text, e.Entry.URL)
		}
	}
}

func (b *browser) fault(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.faults = append(b.faults, fmt.Sprintf(format, args...))
}

func (b *browser) wantNoFaults() {
	b.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, fault := range b.faults {
		b.Error(fault)
	}
}

func (b *browser) do(actions ...action) {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, 30*time.Second)
	defer cancel()
	if err := chromedp.Do(ctx, actions...); err != nil {
		b.Fatalf("%v\non %s:\n%s", err, b.where(), tail(b.text(), 3000))
	}
}

func (b *browser) where() string {
	at, _ := chromedp.Run(b.ctx, chromedp.Location()) // empty where there is no page
	return at
}

// text is what a person can read.
func (b *browser) text() string {
	text, _ := chromedp.Run(b.ctx, chromedp.Evaluate[string](`[document.body.innerText, ...[...document.querySelectorAll("textarea")].map(t => t.value)].join("\n")`)) // empty where there is no page
	return text
}

func (b *browser) open(path string) {
	b.Helper()
	b.do(chromedp.Navigate(b.base+path), chromedp.WaitReady(chromedp.CSS("main")))
}

// press clicks on a link or button by its words, and waits for the page that follows.
func (b *browser) press(kind, words string) {
	b.Helper()
	before := b.where()
	quoted, _ := json.Marshal(words) // a string: it cannot fail
	script := fmt.Sprintf(`(() => {
		const found = [...document.querySelectorAll(%q)].find(e => (e.getAttribute("aria-label") || e.textContent).trim().startsWith(%s));
		if (!found) return false;
		document.documentElement.dataset.left = "1";
		found.focus();
		found.click();
		return true;
	})()`, kind, quoted)
	if !eval[bool](b, script) {
		b.Fatalf("there is no %s %q on %s:\n%s", kind, words, before, tail(b.text(), 3000))
	}
	b.do(chromedp.WaitReady(chromedp.CSS(`html:not([data-left]) main`)))
	// Without its styles it would not be the page that people see.
	eval[bool](b, `new Promise(done => document.readyState == "complete" ? done(true) : addEventListener("load", () => done(true)))`)
}

// see waits until the page says all of this.
func (b *browser) see(texts ...string) {
	b.Helper()
	for began := time.Now(); ; {
		text, missing := b.text(), ""
		for _, want := range texts {
			if !strings.Contains(text, want) {
				missing = want
			}
		}
		if missing == "" {
			return
		}
		if time.Since(began) > 30*time.Second {
			b.Fatalf("%s does not say %q:\n%s", b.where(), missing, tail(text, 4000))
		}
	}
}

func (b *browser) window(width, height int64, scheme string) {
	b.Helper()
	b.do(
		chromedp.EmulateViewport(width, height),
		protocol(emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}}),
	)
}

// picture takes the page as the README shows it.
func (b *browser) picture(name string) {
	b.Helper()
	dir := os.Getenv(screenshots)
	if dir == "" {
		return
	}
	png, err := chromedp.Run(b.ctx, chromedp.CaptureScreenshot())
	if err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name+".png"), png, 0o644); err != nil {
		b.Fatal(err)
	}
}

//go:embed testdata/accessible.js
var accessible string

// wantAccessible checks the page as it is for what people who cannot see or point need.
func (b *browser) wantAccessible() {
	b.Helper()
	for _, v := range eval[[]string](b, accessible) {
		b.Errorf("%s: %s", b.where(), v)
	}
}

// A stage is a whole system with dead letters, and its console.
func stage(t *testing.T) (r *rig, base string) {
	t.Helper()
	r = newRig(t, sandbox.Org(40))
	d, err := desk.Open(t.Context(), r.broker)
	if err != nil {
		t.Fatal(err)
	}
	f := newFleet(t, r.broker, r.orgURL)
	log := zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.WarnLevel)
	org, stopOrg, err := openOrg(&program{ctx: t.Context(), log: log}, r.broker, f.client, f.rules, 1200)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stopOrg)
	d.Rules, d.Org = deskRules{f.rules}, org
	s, err := startConsole(consolePage{addr: "127.0.0.1:0", log: log}, d, noWatcher)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.stop)
	return r, s.url
}

// bury makes a dead letter of a record before any worker sees it.
func (r *rig) bury(record string, f queue.Failure) {
	r.Helper()
	q, err := r.broker.Queue(r.Context())
	if err != nil {
		r.Fatal(err)
	}
	f.First, f.Last = time.Now().Add(-time.Minute), time.Now()
	if _, err := r.broker.Publish(r.Context(), queue.Message{EmployeeID: f.EmployeeID, Data: []byte(record), Header: map[string][]string{queue.HeaderBatch: {"monday.csv"}}}); err != nil {
		r.Fatal(err)
	}
	n, err := q.Fetch(r.Context(), 1, 10*time.Second, func(d *queue.Delivery) {
		if err := d.DeadLetter(r.Context(), f); err != nil {
			r.Error(err)
		}
	})
	if n != 1 {
		r.Fatalf("%d records came, %v", n, err)
	}
}

// buryAll makes what a Monday morning looks like.
func (r *rig) buryAll() {
	r.Helper()
	r.bury(`{"employee_id":"EMP-0001","department":"Suport-Tier2"}`, queue.Failure{
		EmployeeID: "EMP-0001", Reason: "unverified", Class: "exhausted", Status: 200, Attempts: 2, MappingVersion: "3f9a", CorrelationID: "1c9f0c52-6a60-4a0e-9d2b-5f5ad0f1c7aa",
		Error:    "the skills are not as expected 60s after the patch: missing Tier 2 Support 4",
		Expected: json.RawMessage(`[{"name":"Tier 2 Support","proficiency":4}]`), Actual: json.RawMessage(`[{"name":"Spanish","proficiency":3}]`),
		Tries: []queue.Try{
			{Number: 1, At: time.Now().Add(-time.Minute), Status: 503, CorrelationID: "b2b5f1f0-50b8-4b8e-8f0e-000000000001", Error: "patch user: genesys: 503 service unavailable", Worker: "worker-1"},
			{Number: 2, At: time.Now(), Status: 200, CorrelationID: "1c9f0c52-6a60-4a0e-9d2b-5f5ad0f1c7aa", Error: "the skills are not as expected", Worker: "worker-2"},
		},
	})
	for i := 2; i <= 8; i++ {
		id := fmt.Sprintf("EMP-%04d", i)
		r.bury(fmt.Sprintf(`{"employee_id":%q,"department":"Billing"}`, id), queue.Failure{
			EmployeeID: id, Reason: "retries_exhausted", Class: "exhausted", Status: 503, Attempts: 5, MappingVersion: "3f9a",
			CorrelationID: fmt.Sprintf("corr-%d", i), Error: "patch user: genesys: 503 service unavailable",
		})
	}
	r.bury(`{"employee_id":"TMP-77","department":"Sales"}`, queue.Failure{
		EmployeeID: "TMP-77", Reason: "user_not_found", Class: "permanent", Status: 404, Attempts: 1, MappingVersion: "3f9a", Error: "find the user of employee TMP-77: genesys: 404 not found",
	})
}

func TestAnOperatorMendsAndReplaysInABrowser(t *testing.T) {
	t.Parallel()
	r, base := stage(t)
	r.buryAll()
	r.start(func(f *fleet) { f.limit = 1200 })
	r.publish(10, 39, "Sales")
	r.settleAll(39)
	b := openBrowser(t, base)
	b.window(1280, 860, "light")

	b.open("/")
	b.see("unverified", "retries_exhausted", "Dead letters")
	b.wantAccessible()
	b.do(chromedp.EmulateViewport(1280, 1330))
	b.picture("overview")
	b.do(chromedp.EmulateViewport(1280, 860))
	b.press("a", "unverified")
	b.see("EMP-0001", "missing Tier 2 Support 4")
	b.press("a", "Dead letter 1")
	b.see("1c9f0c52-6a60-4a0e-9d2b-5f5ad0f1c7aa", "b2b5f1f0", "Spanish", "worker-1")
	if strings.Contains(b.text(), "Suport") {
		t.Error("a value is shown unasked")
	}
	b.wantAccessible()
	b.do(chromedp.EmulateViewport(1280, 1450))
	b.picture("letter")
	b.do(chromedp.EmulateViewport(1280, 860))

	b.press("button", "Edit the record")
	b.see("Suport-Tier2")
	b.wantAccessible()
	edit := func(from, to string) {
		eval[bool](b, fmt.Sprintf(`(() => { const t = document.querySelector("textarea"); t.value = t.value.replace(%q, %q); return true; })()`, from, to))
	}
	edit(`"employee_id"`, `"id"`)
	b.press("button", "Check")
	b.see("It cannot be sent", "employee_id")
	b.wantAccessible()
	edit(`"id"`, `"employee_id"`)
	edit("Suport", "Support")
	b.press("button", "Check")
	b.see("It may be sent; changed: department")
	b.press("button", "Replay the edited record")
	b.see("dead letter 1, with an edited record")
	b.see("1 of 1 published records have ended")
	if u, _ := r.sandbox.User("EMP-0001"); !strings.Contains(fmt.Sprint(u.Skills), "Tier 2 Support") {
		t.Errorf("the user has %v", u.Skills)
	}

	b.open("/dead?reason=retries_exhausted")
	b.see("EMP-0008")
	b.press("a", "Replay…")
	b.see("7 records, up to 7 requests")
	b.wantAccessible()
	b.press("button", "Dry run")
	b.see("Billing", "EMP-0002", "Nothing was changed")
	b.wantAccessible()
	b.press("a", "Replay…")
	b.do(chromedp.SetValue(chromedp.CSS("#name"), "monday-morning"), chromedp.SetValue(chromedp.CSS("#pace"), "300"))
	b.press("button", "Replay 7")
	b.see("monday-morning", "Pause")
	b.wantAccessible()
	b.see("7 of 7 published records have ended")
	b.picture("replay")
	b.see("7\twritten, and read back as it should be")
	b.open("/outcomes?employee=EMP-0002")
	b.see("verified", "monday-morning")
	b.press("a", "monday-morning")
	b.see("published")
	b.open("/dead/1")
	b.see("There is no dead letter 1", "edit")
	b.open("/dead")
	b.see("user_not_found")
	b.wantNoFaults()
}

// settleAll waits until there are n results.
func (r *rig) settleAll(n int) {
	r.Helper()
	settled(r.T, r.broker, n, time.Minute, nil)
}

// hostileText tries to leave what it is shown in, to turn the text around it and to break its lines.
const hostileText = `"'><script>document.title='owned'</script><img src=x onerror="document.title='owned'"> ` + "\u202egnp.exe\u2066\u200f\a\x1b[31m" + `{{.}} </textarea></pre></td>`

func TestAHostileRecordIsShownHarmlesslyInABrowser(t *testing.T) {
	t.Parallel()
	r, base := stage(t)
	record, err := json.Marshal(map[string]string{"employee_id": hostileText, hostileText: hostileText, "note": strings.Repeat("W", 60<<10)})
	if err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("W", 900)
	r.bury(string(record), queue.Failure{
		EmployeeID: hostileText, Reason: hostileText, Class: hostileText, Error: hostileText + long, Version: hostileText, MappingVersion: hostileText,
		CorrelationID: hostileText + long, Worker: hostileText, Attempts: 1, Expected: json.RawMessage(`[{"name":"</script><b>","proficiency":1}]`),
		Tries: []queue.Try{{Number: 1, At: time.Now(), Error: hostileText, Worker: hostileText}},
	})
	b := openBrowser(t, base)
	b.window(1280, 860, "light")
	pages := []string{"/", "/dead", "/dead?text=" + url.QueryEscape(hostileText), "/dead/1", "/outcomes", "/outcomes?employee=" + url.QueryEscape(hostileText), "/audit"}
	check := func() {
		t.Helper()
		state := eval[struct {
			Title  string
			Images int
			Wide   bool
		}](b, `({Title: document.title, Images: document.images.length, Wide: document.scrollingElement.scrollWidth > innerWidth})`)
		if strings.Contains(state.Title, "owned") || state.Images > 0 || state.Wide {
			t.Errorf("%s: %+v", b.where(), state)
		}
		if strings.ContainsAny(b.text(), "\u202e\u2066\u200f\a\x1b") {
			t.Errorf("%s moves the text about", b.where())
		}
		b.wantAccessible()
	}
	for _, path := range pages {
		b.open(path)
		check()
	}
	b.open("/dead/1")
	b.press("button", "Reveal values")
	b.see("WWWWWWWW", "<script>")
	check()
	b.press("button", "Edit the record")
	b.see("</textarea>")
	check()
	b.press("button", "Replay the edited record")
	b.see("It cannot be sent")
	check()
	b.wantNoFaults()
}

func TestEveryPageIsAccessibleInABrowserLightAndDarkLargeAndSmall(t *testing.T) {
	t.Parallel()
	r, base := stage(t)
	r.buryAll()
	if err := r.replay(8); err != nil {
		t.Fatal(err)
	}
	b := openBrowser(t, base)
	b.open("/replays")
	b.press(`th a`, "r")
	replay := strings.TrimPrefix(b.where(), base)
	type view struct {
		width  int64
		scheme string
	}
	views := []view{{1280, "dark"}, {360, "light"}}
	if os.Getenv(needBrowser) != "" { // with time to spare
		views = append(views, view{1280, "light"}, view{360, "dark"})
	}
	for _, view := range views {
		b.window(view.width, 860, view.scheme)
		for _, path := range []string{
			"/", "/dead", "/dead?status=5xx", "/dead?status=nonsense", "/dead/1", "/dead/8", "/dead/99", "/dead/replay?of=all", "/dead/drop?letter=1&letter=2", "/dead/export",
			"/replays", replay, "/limit", "/outcomes", "/audit", "/nowhere",
		} {
			b.open(path)
			b.wantAccessible()
			if eval[bool](b, `document.scrollingElement.scrollWidth > innerWidth`) {
				t.Errorf("%s scrolls sideways at %d pixels", path, view.width)
			}
		}
		if view.width == 1280 && view.scheme == "dark" {
			b.open("/dead")
			b.picture("dead-letters")
		}
	}
	b.wantNoFaults()
}

// replay replays one letter, unless the console does.
func (r *rig) replay(seq uint64) error {
	replays, err := r.broker.Replays(r.Context())
	if err != nil {
		return err
	}
	rep, err := replays.Begin(r.Context(), queue.Replay{Letters: []uint64{seq}, By: "ops"})
	if err == nil {
		_, err = replays.Run(r.Context(), rep.Name, queue.Runner{})
	}
	if errors.Is(err, queue.ErrReplayTaken) {
		err = nil // the console was faster
	}
	return err
}

// The page works with the keyboard alone: from the top by Tab to the link that is wanted.
func TestAKeyboardIsEnoughInABrowser(t *testing.T) {
	t.Parallel()
	r, base := stage(t)
	r.buryAll()
	b := openBrowser(t, base)
	b.window(1280, 860, "light")
	b.open("/")
	tab := func(until string) {
		t.Helper()
		for range 60 {
			b.do(chromedp.KeyEvent("\t"))
			at := eval[string](b, `(() => {
				const e = document.activeElement, style = getComputedStyle(e);
				if (style.outlineStyle === "none" && style.boxShadow === "none") return "not seen: " + e.outerHTML;
				if (window.last && !(last.compareDocumentPosition(e) & Node.DOCUMENT_POSITION_FOLLOWING) && last !== e) return "out of order: " + e.outerHTML;
				window.last = e;
				return (e.getAttribute("aria-label") || e.textContent).trim();
			})()`)
			if strings.HasPrefix(at, "not seen") || strings.HasPrefix(at, "out of order") {
				t.Fatal("the focus is ", at)
			}
			if strings.HasPrefix(at, until) {
				return
			}
		}
		t.Fatalf("Tab does not get to %q", until)
	}
	tab("Skip to the content")
	b.do(chromedp.KeyEvent("\r"))
	tab("retries_exhausted")
	b.do(chromedp.KeyEvent("\r"), chromedp.WaitReady(chromedp.CSS("#reason")))
	b.see("EMP-0002")
	tab("Dead letter 2") // its box
	b.do(chromedp.KeyEvent(" "))
	tab("Drop…")
	b.do(chromedp.KeyEvent("\r"))
	b.see("Type", "1")
	b.wantNoFaults()
}
