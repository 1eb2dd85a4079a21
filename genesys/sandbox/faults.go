package sandbox

import (
	"bytes"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Injected is a fault and what became of it.
type Injected struct {
	Fault Fault
	Seen  int // matching requests, those it let pass included
	Fired int // requests it fell on
}

// faults are those that were injected, in that order.
type faults struct {
	any atomic.Bool // spares requests the lock while there is none
	mu  sync.Mutex
	all []*Injected
}

// Inject adds a fault. It panics on one that cannot be: an unknown kind or operation.
func (s *Sandbox) Inject(f Fault) {
	if _, err := f.check(); err != nil {
		panic("sandbox: inject fault: " + err.Error())
	}
	s.faults.mu.Lock()
	defer s.faults.mu.Unlock()
	s.faults.all = append(s.faults.all, &Injected{Fault: f})
	s.faults.any.Store(true)
}

// ClearFaults removes all faults.
func (s *Sandbox) ClearFaults() {
	s.faults.mu.Lock()
	defer s.faults.mu.Unlock()
	s.faults.all = nil
	s.faults.any.Store(false)
}

// Faults returns what was injected and not cleared, used up or not.
func (s *Sandbox) Faults() []Injected {
	s.faults.mu.Lock()
	defer s.faults.mu.Unlock()
	var out []Injected
	for _, in := range s.faults.all {
		out = append(out, *in)
	}
	return out
}

// take returns the fault that falls on a request. A fault behind the one that falls does
// not see the request.
func (fs *faults) take(c *call, find func(string) *user) (Fault, bool) {
	if !fs.any.Load() {
		return Fault{}, false
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for _, in := range fs.all {
		f := in.Fault
		if f.Times > 0 && in.Fired >= f.Times || !f.matches(c, find) {
			continue
		}
		in.Seen++
		if in.Seen > f.After {
			in.Fired++
			return f, true
		}
	}
	return Fault{}, false
}

func (f Fault) matches(c *call, find func(string) *user) bool {
	op := c.op()
	if f.Op != "any" && f.Op != op && !(f.Op == opRead && op == opReadBatch) {
		return false
	}
	if f.User == "" {
		return true
	}
	u := find(f.User)
	if u == nil {
		return c.mentions(f.User)
	}
	return c.mentions(u.ID) || c.mentions(u.ExternalID) || c.mentions(u.Email)
}

// mentions reports whether a request is about a user: in its path, its query or, where a
// search has its words, its body.
func (c *call) mentions(name string) bool {
	if name == "" {
		return false
	}
	if slices.Contains(c.args, name) || slices.Contains(c.query["id"], name) {
		return true
	}
	quoted := strconv.Quote(name)
	return c.route.op == opFind && (strings.Contains(c.query.Get("query"), quoted) || bytes.Contains(c.body, []byte(quoted)))
}

// named reports whether this is one of the user's names in a fault's filter.
func (u *user) named(name string) bool { return name == u.ID || name == u.ExternalID }

// disturb carries a request through a fault.
func (s *Sandbox) disturb(c *call, f Fault) answer {
	switch f.Kind {
	case "reset-before":
		return answer{}
	case "reset-after":
		s.work(c)
		return answer{}
	case "slow":
		a := s.work(c)
		if f.For == 0 {
			f.For = time.Second
		}
		if !pause(c, f.For) {
			return answer{}
		}
		return a
	case "drop", "expand", "missing":
		c.fault = &f
		return s.work(c)
	case "revoke":
		if c.token != nil {
			s.tokens.revoke(c.token)
		}
		return c.refuse(http.StatusUnauthorized, "401")
	case "stale":
		return c.stale(f.Form)
	case "oauth-limit":
		return c.oauthLimited()
	case "html":
		return answer{status: http.StatusBadGateway, typ: "text/html", body: []byte(page)}
	case "429":
		return retryAfter(c.refuse429(max(time.Second, f.RetryAfter)), f)
	case "429-bare":
		return c.refuse(http.StatusTooManyRequests, f.Kind)
	}
	status, _ := strconv.Atoi(f.Kind[:3]) // the kinds left are status codes: see kinds
	a := c.refuse(status, f.Kind)
	if f.RetryAfter > 0 || f.HTTPDate {
		a = retryAfter(a.with("Retry-After", wholeSeconds(f.RetryAfter)), f)
	}
	return a
}

const page = "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n<center><h1>502 Bad Gateway</h1></center>\r\n</body>\r\n</html>\r\n"

func wholeSeconds(d time.Duration) string { return strconv.Itoa(int(math.Ceil(d.Seconds()))) }

// refuse429 is a 429 in the form of the endpoint.
func (c *call) refuse429(after time.Duration) answer {
	if c.route.op == opToken {
		return c.refuse(http.StatusTooManyRequests, "429").with("Retry-After", wholeSeconds(after))
	}
	return c.throttled(int(math.Ceil(after.Seconds())))
}

// retryAfter turns the header into a date if the fault wants one (RFC 9110 §10.2.3).
func retryAfter(a answer, f Fault) answer {
	if f.HTTPDate {
		a = a.with("Retry-After", time.Now().Add(f.RetryAfter).UTC().Format(http.TimeFormat))
	}
	return a
}

// refusals are the platform's code and message by fault kind.
var refusals = map[string][2]string{
	"400":          {"bad.request", "The request could not be understood by the server due to malformed syntax."},
	"401":          {"bad.credentials", "Invalid login credentials."},
	"403":          {"missing.any.permissions", "Unable to perform the requested action. You must have at least one of the following permissions assigned: [routing:skill:assign]"},
	"403-division": {"missing.division.permission", "Unable to perform the requested action. You are missing the permission routing:skill:assign in the division of the user"},
	"404":          {"general.resource.not.found", "Unable to find resource"},
	"408":          {"client.timeout", "The client did not produce a request within the server timeout limit."},
	"409":          {"request.conflict", "The request conflicts with the current state of the target resource."},
	"412":          {"precondition.failed", "A precondition of the request does not hold."},
	"413":          {"request.entity.too.large", "The request is over the size limit"},
	"415":          {"unsupported.media.type", "Unsupported Media Type - Unsupported or incorrect media type, such as an incorrect Content-Type value in the header."},
	"429":          {"too.many.requests", "Rate limit exceeded the maximum"},
	"429-bare":     {"too.many.requests", "Rate limit exceeded the maximum"},
	"500":          {"internal.server.error", "The server encountered an unexpected condition which prevented it from fulfilling the request."},
	"503":          {"service.unavailable", "Service Unavailable - The server is currently unavailable (because it is overloaded or down for maintenance)."},
	"504":          {"request.timeout", "The request timed out."},
}

// refuse is an error in the form of the endpoint: the login host's, SCIM's for a conflict
// on a SCIM path, else an ErrorBody.
func (c *call) refuse(status int, kind string) answer {
	r, known := refusals[kind]
	if !known {
		panic(fmt.Sprintf("sandbox: fault kind %q has no answer", kind)) // a test goes through all kinds
	}
	switch {
	case c.route.op == opToken:
		return c.oauthFail(status, oauthCode(status), r[1])
	case status == http.StatusConflict && strings.Contains(c.route.pattern, "scim"):
		return c.scimFail(status, "", r[1])
	}
	return c.fail(status, r[0], r[1])
}

func oauthCode(status int) string {
	switch {
	case status == http.StatusUnauthorized:
		return "invalid_client"
	case status == http.StatusForbidden:
		return "unauthorized_client"
	case status >= 500:
		return "server_error"
	}
	return "invalid_request"
}
