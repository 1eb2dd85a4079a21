package console

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"skillsync/cmd/skillsync/desk"
	"skillsync/queue"
)

//go:embed style.css
var style []byte

//go:embed app.js
var script []byte

//go:embed pages
var pageFiles embed.FS

// pages is made when first needed: every worker has this package in it, and shows no page.
var pages = sync.OnceValue(func() *template.Template {
	return template.Must(template.New("").Funcs(template.FuncMap{
		"ago": desk.Ago, "many": many, "letter": letterAddress, "words": words, "minute": minute, "verdict": verdict, "iso": iso, "about": about,
	}).ParseFS(pageFiles, "pages/*.html"))
})

// A page is what every template gets.
type page struct {
	Title string
	Here  string // the entry of the navigation that it belongs to
	Retry bool   // it asks for itself again every five seconds
	Live  string // where the events come from that keep it fresh; empty: it stays as it is
	Typed bool   // somebody may be typing there: without a script, it must not be loaded again
	Did   string // what was just done, in words
	Who   who
	Body  any
}

// Operator tells whether the page shows what changes something.
func (p page) Operator() bool { return p.Who.Role == Operator }

// SignedIn tells whether there is a session that can be ended.
func (p page) SignedIn() bool { return p.Who.session != nil }

// done are the things that a page is told to say by a code in its address.
var done = map[string]string{
	"begun":     "The replay has begun.",
	"already":   "This replay had been begun already; nothing was begun a second time.",
	"edited":    "The edited record is in the queue.",
	"dropped":   "The dead letters are gone; the audit says how many they were.",
	"paused":    "Paused.",
	"resumed":   "Resumed.",
	"cancelled": "Cancelled: what was not published stays a dead letter.",
	"pace":      "The pace is set.",
	"late":      "Nothing was changed: the replay is over, or somebody was quicker.",
	"limit":     "The limit is set.",
}

// show is a request for a page.
func (c *Console) show(name string, view func(visit) (page, error)) func(visit) error {
	return func(v visit) error {
		p, err := view(v)
		if err == nil {
			c.render(v, http.StatusOK, name, p)
		}
		return err
	}
}

// render writes a page once it is whole.
func (c *Console) render(v visit, code int, name string, p page) {
	p.Who, p.Did = v.who, done[v.r.URL.Query().Get("did")]
	v.w.Header().Set("Content-Type", "text/html; charset=utf-8")
	v.w.WriteHeader(code)
	_, _ = v.w.Write(markup(name, p)) // fails only if the browser has gone
}

// markup is a template filled in. What is not printable in it came with somebody's data.
func markup(name string, p page) []byte {
	var b bytes.Buffer
	if err := pages().ExecuteTemplate(&b, name, p); err != nil {
		panic(err) // a template that does not fit its data
	}
	return bytes.Map(visible, b.Bytes())
}

// visible is desk.Printable for a whole page, whose own line breaks stay.
func visible(r rune) rune {
	if r == '\n' || r == ' ' || strconv.IsPrint(r) {
		return r
	}
	return '·'
}

// static serves one embedded file.
func static(kind string, data []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", kind+"; charset=utf-8")
		_, _ = w.Write(data) // fails only if the browser has gone
	}
}

// see sends the browser on to a page that shows what came of its request.
func see(v visit, address string) error {
	http.Redirect(v.w, v.r, address, http.StatusSeeOther)
	return nil
}

// A problem is a page that says what went wrong.
type problem struct {
	code  int
	title string
	text  []string
	retry bool
}

func (p *problem) Error() string { return p.title + ": " + strings.Join(p.text, " ") }

// fail shows what went wrong.
func (c *Console) fail(v visit, err error) {
	p := explain(err)
	if p.code >= http.StatusInternalServerError {
		c.Log.Warn().Err(err).Str("path", v.r.URL.Path).Msg("a page could not be shown")
	}
	if p.retry {
		v.w.Header().Set("Retry-After", "5")
	}
	c.render(v, p.code, "problem", page{Title: p.title, Retry: p.retry && v.r.Method == http.MethodGet, Body: p.text})
}

// explain finds the page for an error.
func explain(err error) *problem {
	var p *problem
	text := []string{err.Error()}
	switch {
	case errors.As(err, &p):
		return p
	case errors.Is(err, queue.ErrFilter):
		return &problem{code: http.StatusBadRequest, title: "This cannot be asked for", text: text}
	case errors.Is(err, queue.ErrNotFound):
		return &problem{code: http.StatusNotFound, title: "There is no such thing", text: text}
	case errors.Is(err, queue.ErrReplayState), errors.Is(err, queue.ErrReplayTaken), errors.Is(err, queue.ErrReplayedMeanwhile), errors.Is(err, queue.ErrConflict):
		return &problem{code: http.StatusConflict, title: "Somebody was quicker", text: text}
	case errors.Is(err, desk.ErrNoOrg):
		return &problem{code: http.StatusNotImplemented, title: "There is no org to ask", text: text}
	case errors.Is(err, queue.ErrNotSetUp):
		return unavailable("The broker is not set up", err, "Run \"skillsync setup\" once, with an administrator's credentials.")
	case errors.Is(err, queue.ErrForbidden):
		return &problem{code: http.StatusBadGateway, title: "The broker does not allow it", text: text}
	case errors.Is(err, queue.ErrUnreachable):
		return unavailable("The broker does not answer", err, "")
	}
	return &problem{code: http.StatusBadGateway, title: "It did not work", text: text}
}

func unavailable(title string, err error, help string) *problem {
	text := []string{"Nothing is lost by that: records stay with the broker.", err.Error(), help}
	return &problem{code: http.StatusServiceUnavailable, title: title, text: text, retry: true}
}

// many is a number with its thousands set apart.
func many(n any) string {
	digits := fmt.Sprint(n)
	if f, ok := n.(float64); ok {
		digits = strconv.FormatFloat(f, 'f', 0, 64)
	}
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

// words are an identifier of ours as people read it.
func words(s string) string { return strings.ReplaceAll(s, "_", " ") }

// minute is a time as a field of a form has it, empty for none.
func minute(t time.Time) string {
	switch {
	case t.IsZero():
		return ""
	case t.Truncate(time.Minute).Equal(t):
		return t.UTC().Format(minuteLayout)
	}
	return t.UTC().Format(secondLayout)
}

// about is the address of what an audit entry is about; empty if that has no page.
func about(e queue.AuditEntry) string {
	seq, err := strconv.ParseUint(e.About, 10, 64)
	switch {
	case e.About == "":
		return ""
	case e.Action == queue.ActedReplay, e.Action == queue.ActedEdit:
		return "/replays/" + url.PathEscape(e.About)
	case e.Action == queue.ActedLimit:
		return "/limit"
	case err == nil:
		return letterAddress(seq, "")
	}
	return ""
}

// iso is a time for programs.
func iso(t time.Time) string { return t.UTC().Format(time.RFC3339) }
