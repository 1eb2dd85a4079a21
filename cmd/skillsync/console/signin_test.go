package console_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"skillsync/cmd/skillsync/console"
	"skillsync/queue"
)

var tokens = []console.Token{
	{Name: "vera", Role: console.Viewer, Secret: "see-secret"},
	{Name: "olga", Role: console.Operator, Secret: "do-secret"},
	{Name: "nobody", Role: console.Operator},
}

func bearer(secret string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+secret) }
}

// signIn returns the cookie that a browser gets.
func (b *bench) signIn(t testing.TB, secret string) *http.Cookie {
	t.Helper()
	w := b.ask(t, http.MethodPost, "/sign-in", form("token", secret))
	if w.Code != http.StatusSeeOther || len(w.Result().Cookies()) != 1 {
		t.Fatalf("sign-in: %d, %v\n%s", w.Code, w.Header(), w.Body)
	}
	return w.Result().Cookies()[0]
}

func cookie(c *http.Cookie) func(*http.Request) {
	return func(r *http.Request) { r.AddCookie(&http.Cookie{Name: c.Name, Value: c.Value}) }
}

func TestWhoeverHasATokenSignsInAndOut(t *testing.T) {
	b := open(t, func(c *console.Console) { c.Tokens, c.Secure = tokens, true })
	b.letters(t, 1, "unverified")
	elsewhere := func(r *http.Request) { r.Host = "console.example" }
	w := b.ask(t, http.MethodGet, "/dead/1?employee=EMP-1", nil, elsewhere)
	if to := w.Header().Get("Location"); w.Code != http.StatusSeeOther || to != "/sign-in?to=%2Fdead%2F1%3Femployee%3DEMP-1" {
		t.Errorf("without a session: %d, to %s", w.Code, to)
	}
	contains(t, b.page(t, "/sign-in?to=%2Fdead", elsewhere), `<label for="token">`, `type="password"`, `name="to" value="/dead"`)
	w = b.ask(t, http.MethodPost, "/sign-in", form("token", " do-secret ", "to", "/dead/1?employee=EMP-1"), elsewhere)
	if w.Code != http.StatusSeeOther || w.Header().Get("Location") != "/dead/1?employee=EMP-1" {
		t.Fatalf("sign-in: %d, %v", w.Code, w.Header())
	}
	c := w.Result().Cookies()[0]
	if c.Name != "__Host-skillsync" || !c.HttpOnly || !c.Secure || c.SameSite != http.SameSiteStrictMode || c.Path != "/" || c.MaxAge != 12*60*60 || len(c.Value) < 26 {
		t.Errorf("cookie %+v", c)
	}
	contains(t, b.page(t, "/dead/1", cookie(c), elsewhere), "<bdi>olga</bdi>", "Sign out")
	w = b.ask(t, http.MethodPost, "/sign-out", nil, cookie(c))
	if gone := w.Result().Cookies(); w.Code != http.StatusSeeOther || len(gone) != 1 || gone[0].MaxAge >= 0 {
		t.Errorf("sign-out: %d, %v", w.Code, gone)
	}
	if w := b.ask(t, http.MethodGet, "/", nil, cookie(c)); w.Code != http.StatusSeeOther {
		t.Errorf("after the sign-out: %d", w.Code)
	}
	contains(t, b.page(t, "/", bearer("see-secret")), "<bdi>vera</bdi> (may look only)")
	for _, target := range []string{"/style.css", "/app.js"} { // the sign-in page needs them
		if w := b.ask(t, http.MethodGet, target, nil); w.Code != http.StatusOK {
			t.Errorf("%s: %d", target, w.Code)
		}
	}
}

func TestACookieWithoutTLSIsNotMarkedSecure(t *testing.T) {
	b := open(t, func(c *console.Console) { c.Tokens = tokens })
	if c := b.signIn(t, "do-secret"); c.Secure || c.Name != "skillsync" || !c.HttpOnly {
		t.Errorf("cookie %+v", c)
	}
}

// A link from a chat comes without the cookie, which is for this site alone.
func TestALinkFromElsewhereAsksOnceMoreFromHere(t *testing.T) {
	b := open(t, func(c *console.Console) { c.Tokens = tokens })
	w := b.ask(t, http.MethodGet, "/dead/1?a=b", nil, func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") })
	if w.Code != http.StatusOK || w.Header().Get("Set-Cookie") != "" {
		t.Errorf("%d, %v", w.Code, w.Header())
	}
	contains(t, w.Body.String(), `content="0; url=/dead/1?a=b"`)
	w = b.ask(t, http.MethodGet, "/dead/1?a=b", nil, func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "same-origin") })
	if w.Code != http.StatusSeeOther {
		t.Errorf("the second time: %d", w.Code)
	}
}

func TestASignInLeadsNowhereElse(t *testing.T) {
	for to, want := range map[string]string{
		"": "/", "/": "/", "/dead?a=b": "/dead?a=b", "https://evil.example/": "/", "//evil.example": "/", "///evil.example": "/", `/\evil.example`: "/",
		"javascript:alert(1)": "/", "dead": "/", "/%2f/evil.example": "/", "/a\nb": "/", "https:/dead": "/",
	} {
		if got := console.OnlyHere(to); got != want {
			t.Errorf("%q leads to %q, want %q", to, got, want)
		}
	}
}

func TestWrongTokensAreRefusedAndSlowedDown(t *testing.T) {
	b := open(t, func(c *console.Console) { c.Tokens = tokens })
	session := b.signIn(t, "do-secret")
	for n, wrong := range []string{"", "see-secre", "see-secret2"} {
		w := b.ask(t, http.MethodPost, "/sign-in", form("token", wrong))
		if w.Code != http.StatusForbidden || len(w.Result().Cookies()) != 0 {
			t.Errorf("wrong token %d: %d, %v", n, w.Code, w.Header())
		}
		contains(t, w.Body.String(), "no token that the console knows")
	}
	for range 2 {
		if w := b.ask(t, http.MethodGet, "/", nil, bearer("wrong")); w.Code != http.StatusUnauthorized || w.Header().Get("WWW-Authenticate") == "" {
			t.Errorf("wrong bearer: %d", w.Code)
		}
	}
	for _, w := range []*httptest.ResponseRecorder{
		b.ask(t, http.MethodPost, "/sign-in", form("token", "do-secret")), b.ask(t, http.MethodGet, "/", nil, bearer("do-secret")),
	} {
		if w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") == "" {
			t.Errorf("the sixth try: %d", w.Code)
		}
		contains(t, w.Body.String(), "too many wrong tokens")
	}
	b.page(t, "/", cookie(session)) // whoever is in stays in
}

// every sends a POST to each address that changes something.
func (b *bench) every(t *testing.T, each func(target string)) {
	t.Helper()
	n := 0
	for _, pattern := range b.Patterns() {
		target, is := strings.CutPrefix(pattern, "POST ")
		if !is || pattern == console.DryRun {
			continue
		}
		n++
		for _, do := range []string{"pause", "resume", "cancel", "pace", "set", "default"} {
			each(strings.NewReplacer("{seq}", "1", "{name}", "r", "{do}", do).Replace(target))
		}
	}
	if n < 7 {
		t.Errorf("only %d ways to change something were tried", n)
	}
}

func TestViewersSeeAllButValuesAndChangeNothing(t *testing.T) {
	for name, change := range map[string]func(*console.Console){
		"a viewer's token":                        func(c *console.Console) { c.Tokens = tokens },
		"an operator's token, read only":          func(c *console.Console) { c.Tokens, c.ReadOnly = tokens, true },
		"no sign-in, and a console for read only": func(c *console.Console) { c.ReadOnly = true },
	} {
		t.Run(name, func(t *testing.T) {
			b := open(t, change)
			visitor := bearer("see-secret")
			if b.ReadOnly {
				visitor = bearer("do-secret")
			}
			b.letters(t, 1, "unverified")
			must[queue.Replay](t)(b.Desk.Replays.Begin(t.Context(), queue.Replay{Name: "r", By: "ops"}))
			b.limited(t, "client-1", 300)
			audit := len(b.audit(t))
			everything := url.Values{"count": {"1"}, "format": {"csv"}, "values": {"1"}, "client": {"client-1"}, "limit": {"7"}, "minutes": {"5"}, "record": {record("EMP-2")}, "do": {"replay"}, "letter": {"1"}}
			b.every(t, func(target string) {
				w := b.ask(t, http.MethodPost, target, everything, visitor)
				if w.Code != http.StatusForbidden {
					t.Errorf("POST %s: %d", target, w.Code)
				}
				contains(t, w.Body.String(), "Viewers may not do this", "Nothing was done")
				lacks(t, w.Body.String(), "jane@example.com")
			})
			if n := len(b.audit(t)); n != audit {
				t.Errorf("%d things were done", n-audit)
			}
			for _, target := range all {
				body := b.ask(t, http.MethodGet, target, nil, visitor).Body.String()
				contains(t, body, "(may look only)")
				lacks(t, body, "jane@example.com", "Reveal values", "Edit the record", "Set the limit", "Pause the fleet", "<button>Pause", "formaction=\"/dead/drop", `type="checkbox" name="letter"`, "for good</button>", "Download")
			}
			w := b.ask(t, http.MethodPost, "/dead/dry-run?letter=1", nil, visitor)
			if w.Code != http.StatusOK {
				t.Errorf("dry run: %d", w.Code)
			}
			contains(t, w.Body.String(), "would change something")
		})
	}
}

func TestAnOperatorMayDoAllOfThat(t *testing.T) {
	b := open(t, func(c *console.Console) { c.Tokens = tokens })
	b.every(t, func(target string) {
		if w := b.ask(t, http.MethodPost, target, nil, bearer("do-secret")); w.Code == http.StatusForbidden || w.Code == http.StatusSeeOther && strings.HasPrefix(w.Header().Get("Location"), "/sign-in") {
			t.Errorf("POST %s: %d", target, w.Code)
		}
	})
	b.every(t, func(target string) {
		if w := b.ask(t, http.MethodPost, target, nil); w.Code != http.StatusSeeOther || w.Header().Get("Location") != "/sign-in" {
			t.Errorf("without a sign-in, POST %s: %d", target, w.Code)
		}
	})
}

func (b *bench) audit(t testing.TB) []queue.AuditEntry {
	t.Helper()
	entries, _, err := b.broker.AuditLog(t.Context(), 0, 1000)
	ok(t, err)
	return entries
}

func TestASessionLastsTwelveHoursAndAWrongTokenCountsForAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bench{handler: (&console.Console{Tokens: tokens}).Handler()}
		session := b.signIn(t, "do-secret")
		inside := func() bool {
			return b.ask(t, http.MethodGet, "/dead/x", nil, cookie(session)).Code == http.StatusNotFound
		}
		for range 5 {
			b.ask(t, http.MethodPost, "/sign-in", form("token", "wrong"))
			time.Sleep(10 * time.Second) // in virtual time
		}
		if w := b.ask(t, http.MethodPost, "/sign-in", form("token", "do-secret")); w.Code != http.StatusTooManyRequests {
			t.Errorf("after 50 s: %d", w.Code)
		}
		time.Sleep(11 * time.Second)
		b.signIn(t, "do-secret") // the first of the five is forgotten
		time.Sleep(12*time.Hour - 62*time.Second)
		if !inside() {
			t.Error("the session has ended early")
		}
		time.Sleep(2 * time.Second)
		if inside() {
			t.Error("the session lasts longer than twelve hours")
		}
	})
}
