// Package console is the operator's page: backlog, outcomes and dead letters in a browser. It
// reads, and changes nothing; what can be done about a dead letter it says as commands to type.
//
// It knows what the queue tells of itself and how to show that to a person, whatever a record or
// a dead letter holds. It must not know how to reach a broker, Genesys Cloud or the worker.
package console

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"html/template"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"skillsync/queue"
)

// pageSize is how many dead letters one page lists.
const pageSize = 50

// An Overview tells how the queue is as a whole.
type Overview interface {
	Status(ctx context.Context) (queue.Status, error)
	// Groups counts the dead letters by reason, most frequent first.
	Groups(ctx context.Context) ([]queue.Group, error)
}

// Letters are the dead letters, one by one.
type Letters interface {
	// List returns up to limit of them, oldest first, and the sequence to go on from, 0 after the last.
	List(ctx context.Context, f queue.Filter, from uint64, limit int) (page []queue.DeadLetter, next uint64, err error)
	// Get returns one of them, or queue.ErrNotFound.
	Get(ctx context.Context, seq uint64) (queue.DeadLetter, error)
}

// A Source is what the pages show.
type Source interface {
	Overview
	Letters
}

// A Console serves the pages. There is no sign-in: it answers only requests that are addressed to
// this machine's loopback interface, and is to listen nowhere else.
type Console struct {
	Source Source // must be set
}

// Handler serves the overview at /, the dead letters at /dead and one of them at /dead/{seq}.
func (c *Console) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/{$}", c.overview)
	mux.HandleFunc("/dead", c.list)
	mux.HandleFunc("/dead/{seq}", c.letter)
	mux.HandleFunc("/style.css", stylesheet)
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		fail(w, http.StatusNotFound, "There is no such page", "The address may be mistyped.")
	})
	return guard(mux)
}

// guard refuses what no operator's browser sends, and tells the browser what it may do with the
// rest: no scripts, no frames, nothing from elsewhere, nothing kept.
func guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-store")
		switch {
		case !loopback(r.Host):
			fail(w, http.StatusForbidden, "Not under this name", "The console answers only to localhost and loopback addresses, such as 127.0.0.1.")
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			h.Set("Allow", "GET, HEAD")
			fail(w, http.StatusMethodNotAllowed, "The console only reads", "Changes are made with skillsync dlq.")
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// loopback tells whether a Host header names this machine's loopback interface. A page from
// elsewhere can point a name of its own at 127.0.0.1 (DNS rebinding), but cannot hide that name.
func loopback(host string) bool {
	name, _, err := net.SplitHostPort(host)
	if err != nil { // no port: it is the default one
		name = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	}
	if strings.EqualFold(name, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(name)
	return err == nil && ip.IsLoopback()
}

func (c *Console) overview(w http.ResponseWriter, r *http.Request) {
	status, err := c.Source.Status(r.Context())
	if err != nil {
		unavailable(w, err)
		return
	}
	groups, err := c.Source.Groups(r.Context())
	if err != nil {
		unavailable(w, err)
		return
	}
	render(w, http.StatusOK, "overview", page{Title: "Overview", Here: "overview", Refresh: true, Body: struct {
		queue.Status
		Consumer string
		Outcomes []outcome
		Groups   []group
		Total    uint64
	}{status, queue.Consumer, outcomes(status), links(groups), total(groups)}})
}

// An outcome is how many results of one kind are kept.
type outcome struct {
	Name, Means string
	Count       uint64
}

func outcomes(s queue.Status) []outcome {
	return []outcome{
		{"Verified", "written, and read back as it should be", s.Results[queue.OutcomeVerified]},
		{"Unchanged", "right already; nothing was written", s.Results[queue.OutcomeUnchanged]},
		{"Superseded", "a newer record of the same employee won", s.Results[queue.OutcomeSuperseded]},
		{"Dead letter", "could not be applied; may have been replayed since", s.Results[queue.OutcomeDead]},
	}
}

// A group is the dead letters of one reason, and where they are listed.
type group struct {
	queue.Group
	Href string
}

func links(groups []queue.Group) []group {
	out := make([]group, len(groups))
	for i, g := range groups {
		out[i] = group{g, listing(queue.Filter{Reason: g.Reason}, 0)}
	}
	return out
}

func total(groups []queue.Group) (n uint64) {
	for _, g := range groups {
		n += g.Count
	}
	return n
}

// listing is the address of a page of the list.
func listing(f queue.Filter, from uint64) string {
	q := url.Values{}
	if f.Reason != "" {
		q.Set("reason", f.Reason)
	}
	if f.Employee != "" {
		q.Set("employee", f.Employee)
	}
	if from != 0 {
		q.Set("from", strconv.FormatUint(from, 10))
	}
	if len(q) == 0 {
		return "/dead"
	}
	return "/dead?" + q.Encode()
}

func (c *Console) list(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	f := queue.Filter{Reason: strings.TrimSpace(q.Get("reason")), Employee: strings.TrimSpace(q.Get("employee"))}
	var from uint64
	if text := q.Get("from"); text != "" {
		var err error
		if from, err = strconv.ParseUint(text, 10, 64); err != nil {
			fail(w, http.StatusBadRequest, "No such place in the list", "\"from\" takes the number of a dead letter.")
			return
		}
	}
	letters, next, err := c.Source.List(r.Context(), f, from, pageSize)
	if err != nil {
		unavailable(w, err)
		return
	}
	groups, err := c.Source.Groups(r.Context())
	if err != nil {
		unavailable(w, err)
		return
	}
	body := struct {
		Letters     []queue.DeadLetter
		Filter      queue.Filter
		Reasons     []string
		First, Next string // addresses of other pages; "" where there is none
	}{Letters: letters, Filter: f, Reasons: reasons(groups, f.Reason)}
	if from > 1 {
		body.First = listing(f, 0)
	}
	if next != 0 {
		body.Next = listing(f, next)
	}
	render(w, http.StatusOK, "list", page{Title: "Dead letters", Here: "dead", Body: body})
}

// reasons are what the filter offers: those there are, and the chosen one even if it has no letters.
func reasons(groups []queue.Group, chosen string) (all []string) {
	for _, g := range groups {
		all = append(all, g.Reason)
	}
	if chosen != "" && !slices.Contains(all, chosen) {
		all = append(all, chosen)
	}
	slices.Sort(all)
	return all
}

func (c *Console) letter(w http.ResponseWriter, r *http.Request) {
	text := r.PathValue("seq")
	seq, err := strconv.ParseUint(text, 10, 64)
	if err != nil || seq == 0 { // the broker counts from 1
		fail(w, http.StatusNotFound, "There is no such dead letter", "Dead letters have numbers; this is none.")
		return
	}
	d, err := c.Source.Get(r.Context(), seq)
	switch {
	case errors.Is(err, queue.ErrNotFound):
		fail(w, http.StatusNotFound, "There is no dead letter "+strconv.FormatUint(seq, 10), "It may have been replayed or dropped meanwhile.")
		return
	case err != nil:
		unavailable(w, err)
		return
	}
	render(w, http.StatusOK, "letter", page{Title: "Dead letter " + strconv.FormatUint(seq, 10), Here: "dead", Body: struct {
		queue.DeadLetter
		Skills   []skill
		Record   string
		Employee string // address of the list of the employee's dead letters
	}{d, compare(d.Expected, d.Actual), record(d.Data), listing(queue.Filter{Employee: d.EmployeeID}, 0)}})
}

//go:embed style.css
var style []byte

func stylesheet(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/css; charset=utf-8")
	_, _ = w.Write(style) // fails only if the browser has gone
}

//go:embed page.html
var pageHTML string

var pages = template.Must(template.New("").Funcs(template.FuncMap{"ago": Ago}).Parse(pageHTML))

// A page is what every template gets.
type page struct {
	Title   string
	Here    string // the entry of the navigation that it belongs to
	Refresh bool   // by itself, every five seconds
	Body    any
}

// unavailable says that the broker did not answer. The page tries again by itself.
func unavailable(w http.ResponseWriter, err error) {
	help := ""
	if errors.Is(err, queue.ErrNotSetUp) {
		help = "Run \"skillsync setup\" once, with an administrator's credentials."
	}
	w.Header().Set("Retry-After", "5")
	render(w, http.StatusServiceUnavailable, "problem", page{
		Title: "The broker does not answer", Refresh: true,
		Body: []string{"Nothing is lost by that: records stay with the broker.", err.Error(), help},
	})
}

func fail(w http.ResponseWriter, code int, title, text string) {
	render(w, code, "problem", page{Title: title, Body: []string{text}})
}

// render writes a page once it is whole. What is not printable in it came with somebody's data.
func render(w http.ResponseWriter, code int, name string, p page) {
	var b bytes.Buffer
	if err := pages.ExecuteTemplate(&b, name, p); err != nil {
		panic(err) // a template that does not fit its data
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(code)
	_, _ = w.Write(bytes.Map(visible, b.Bytes())) // fails only if the browser has gone
}

// visible is Printable for a whole page, whose own line breaks stay.
func visible(r rune) rune {
	if r == '\n' {
		return r
	}
	return printable(r)
}
