// Package console is the operator's page: backlog, budget, dead letters, replays and what was done
// by whom, in a browser. What it changes, it changes by way of the desk, which writes it down.
//
// It knows how to show all of that to a person, whatever a record or a dead letter holds, and who
// may do what. It must not know how to reach a broker, Genesys Cloud or the worker.
package console

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"skillsync/cmd/skillsync/desk"
)

// A Console serves the pages. It must not be copied.
type Console struct {
	Desk *desk.Desk // must be set
	// Crew is woken when a replay is begun or resumed. nil: nobody is; whoever runs a crew finds
	// the replay a few seconds later.
	Crew *desk.Crew
	// Tokens are what people sign in with. Empty: there is no sign-in; then only requests that are
	// addressed to this machine's loopback interface are answered, and everybody is an operator.
	Tokens []Token
	// User is who acts where there is no sign-in; what is done is written down under that name.
	// Default: console.
	User string
	// ReadOnly makes everybody a viewer.
	ReadOnly bool
	// Secure says that browsers come by way of TLS: the session's cookie is sent no other way.
	Secure bool
	// Every is how often open pages are brought up to date, and the chart gets a point. Default 2 s;
	// less costs the broker more.
	Every time.Duration
	Log   zerolog.Logger // sign-ins, and requests that went wrong; the zero value is silent

	setup    sync.Once
	ended    chan struct{} // closed when Run ends
	sessions sessions
	samples  samples
	feeds    feeds
	streams  atomic.Int32 // event streams that are open
}

// A Role is what somebody may do.
type Role string

const (
	// Viewer may see everything but personal values, and change nothing. So may any other role
	// than Operator.
	Viewer Role = "viewer"
	// Operator may do everything.
	Operator Role = "operator"
)

// A Token is what one person or program signs in with.
type Token struct {
	Name   string // who that is; what is done is written down under it
	Role   Role
	Secret string // empty: nobody can sign in with it
}

// who makes a request.
type who struct {
	Name    string
	Role    Role
	session *session // nil: there is no sign-in, or a bearer token stands for one
}

// A visit is one request, and who makes it.
type visit struct {
	w http.ResponseWriter
	r *http.Request
	who
}

func (v visit) ctx() context.Context { return v.r.Context() }

// dryRun is the one thing that viewers may ask for by POST: it spends requests, but changes nothing.
const dryRun = "POST /dead/dry-run"

// routes are all pages behind the sign-in. What is asked for by POST is for operators only, but for
// dryRun.
func (c *Console) routes() map[string]func(visit) error {
	return map[string]func(visit) error{
		"GET /{$}":    c.show("overview", c.overview),
		"GET /events": c.events,

		"GET /dead":                  c.show("list", c.list),
		"GET /dead/{seq}":            c.letter,
		"POST /dead/{seq}/reveal":    c.reveal,
		"POST /dead/{seq}/edit-form": c.editForm,
		"POST /dead/{seq}/edit":      c.edit,

		"GET /dead/replay":  c.show("confirm-replay", c.confirmReplay),
		"POST /dead/replay": c.beginReplay,
		dryRun:              c.show("dry-run", c.dryRun),
		"GET /dead/drop":    c.show("drop", c.confirmDrop),
		"POST /dead/drop":   c.drop,
		"GET /dead/export":  c.show("export", c.confirmExport),
		"POST /dead/export": c.export,

		"GET /replays":              c.show("replays", c.replays),
		"GET /replays/{name}":       c.show("replay", c.replay),
		"POST /replays/{name}/{do}": c.steer,

		"GET /limit":       c.show("limit", c.limit),
		"POST /limit/{do}": c.setLimit,

		"GET /outcomes": c.show("outcomes", c.outcomes),
		"GET /audit":    c.show("audit", c.audit),
	}
}

// Handler serves the pages.
func (c *Console) Handler() http.Handler {
	c.init()
	mux := http.NewServeMux()
	for pattern, do := range c.routes() {
		mux.HandleFunc(pattern, c.serve(pattern, do))
	}
	mux.HandleFunc("GET /sign-in", c.signInForm)
	mux.HandleFunc("POST /sign-in", c.signIn)
	mux.HandleFunc("POST /sign-out", c.signOut)
	mux.HandleFunc("GET /style.css", static("text/css", style))
	mux.HandleFunc("GET /app.js", static("text/javascript", script))
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		c.fail(visit{w: w, r: r}, &problem{code: http.StatusNotFound, title: "There is no such page", text: []string{"The address may be mistyped."}})
	})
	return c.guard(mux)
}

func (c *Console) init() { c.setup.Do(func() { c.ended = make(chan struct{}) }) }

func (c *Console) every() time.Duration {
	if c.Every > 0 {
		return c.Every
	}
	return 2 * time.Second
}

// Run gathers what the chart shows, until ctx ends. Then it ends all event streams, which a server
// that shuts down would wait for; so end it first. It is to be called once.
func (c *Console) Run(ctx context.Context) {
	c.init()
	defer close(c.ended)
	tick := time.NewTicker(c.every())
	defer tick.Stop()
	for {
		c.sample(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// most is how large a request's body may be: an edited record of the largest size, encoded.
const most = 8 << 20

// serve lets a page be seen by those who may.
func (c *Console) serve(pattern string, do func(visit) error) http.HandlerFunc {
	changes := strings.HasPrefix(pattern, http.MethodPost) && pattern != dryRun
	return func(w http.ResponseWriter, r *http.Request) {
		v := visit{w: w, r: r}
		var err error
		if v.who, err = c.whose(r); err != nil {
			c.askForSignIn(v, err)
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, most)
		switch err := r.ParseForm(); {
		case changes && v.Role != Operator:
			c.fail(v, c.viewersMayNot())
		case err != nil:
			c.fail(v, &problem{code: http.StatusBadRequest, title: "This cannot be read", text: []string{err.Error()}})
		default:
			if err := do(v); err != nil {
				c.fail(v, err)
			}
		}
	}
}

func (c *Console) viewersMayNot() *problem {
	p := &problem{
		code: http.StatusForbidden, title: "Viewers may not do this",
		text: []string{"Nothing was done. You may see everything but personal values; to change something takes the token of an operator."},
	}
	if c.ReadOnly {
		p.text = []string{"Nothing was done. This console was started to be read only."}
	}
	return p
}

// guard refuses what no operator's browser sends, and tells the browser what it may do with the
// rest: nothing from elsewhere, nothing inline, no frames, nothing kept.
func (c *Console) guard(next http.Handler) http.Handler {
	refuse := func(title, text string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c.fail(visit{w: w, r: r}, &problem{code: http.StatusForbidden, title: title, text: []string{text}})
		})
	}
	ours := http.NewCrossOriginProtection()
	ours.SetDenyHandler(refuse("Not from another page", "Nothing was done: the request came from a page of another site."))
	next = ours.Handler(next)
	notHere := refuse("Not under this name", "Without a sign-in, the console answers only to localhost and loopback addresses, such as 127.0.0.1.")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		// Not no-referrer: with it, browsers send forms from the origin "null" (Fetch, "append a request
		// Origin header"), and where there is neither TLS nor localhost that is all there is to know
		// our own pages by.
		h.Set("Referrer-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		switch {
		case len(c.Tokens) == 0 && !loopback(r.Host):
			notHere.ServeHTTP(w, r)
		case r.Method != http.MethodGet && r.Method != http.MethodHead && r.Method != http.MethodPost:
			h.Set("Allow", "GET, HEAD, POST")
			c.fail(visit{w: w, r: r}, &problem{code: http.StatusMethodNotAllowed, title: "No such method", text: []string{"The console knows GET, HEAD and POST."}})
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
