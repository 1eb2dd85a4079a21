package sandbox

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

const (
	tokenPath = "/oauth/token"
	bodyLimit = 512_000 // request.bytes.max of the platform
)

// call is one request on its way.
type call struct {
	r             *http.Request
	arrived       time.Time
	correlationID string
	query         url.Values

	route   *route   // nil: no such path or method
	allowed []string // methods, where only the method is wrong
	args    []string // wildcards of the route's pattern
	token   *token   // nil for the token endpoint and bad tokens
	body    []byte
	fault   *Fault // that disturbs the work itself: drop, expand, missing
}

// arg returns the value of a wildcard such as "id", "" if the route has none.
func (c *call) arg(name string) string {
	if c.route == nil {
		return ""
	}
	n := 0
	for _, seg := range c.route.segments {
		if !strings.HasPrefix(seg, "{") {
			continue
		}
		if seg == "{"+name+"}" {
			return c.args[n]
		}
		n++
	}
	return ""
}

func (c *call) op() string {
	if c.route == nil {
		return "other"
	}
	if c.route.op == opRead && c.route.batch {
		return opReadBatch
	}
	return c.route.op
}

// ids are the users of a batch read.
func (c *call) ids() []string {
	if c.op() != opReadBatch {
		return nil
	}
	return c.query["id"]
}

// disturbed reports whether a fault of this kind fell on this user of this request.
func (c *call) disturbed(kind string, u *user) bool {
	return c.fault != nil && c.fault.Kind == kind && (c.fault.User == "" || u.named(c.fault.User))
}

// arrive counts a request and finds its route.
func (s *Sandbox) arrive(r *http.Request) *call {
	c := &call{r: r, arrived: time.Now(), correlationID: uuid4(), query: r.URL.Query()}
	s.match(c)
	s.log.arrive(c.op(), s.now)
	return c
}

// answer takes a request through the platform's gates in their order: who is it (401), has
// it sent too much (429), is it too large (413), does the path exist (404, 405). Faults
// come after the gates and before the work.
func (s *Sandbox) answer(c *call) answer {
	tooLarge := c.readBody()
	if c.r.URL.Path != tokenPath {
		if a, ok := s.admit(c); !ok {
			return a
		}
	} else if wait := s.tokens.oauth.take(s.now); wait > 0 {
		return c.oauthLimited()
	}
	if tooLarge {
		return c.fail(http.StatusRequestEntityTooLarge, "request.entity.too.large", "The request is over the size limit")
	}
	if c.route == nil {
		return c.noRoute()
	}
	f, hit := s.faults.take(c, s.org.find)
	if !hit {
		return s.work(c)
	}
	return s.disturb(c, f)
}

// work does what the request asks.
func (s *Sandbox) work(c *call) answer {
	if c.route.op != opPatch { // a patch waits while it holds its user
		if !pause(c, s.vary(s.cfg.ReadLatency)) {
			return answer{}
		}
	}
	return c.route.serve(s, c)
}

// pause waits; it returns false when the client has gone meanwhile.
func pause(c *call, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-c.r.Context().Done():
		return false
	}
}

// readBody reads at most bodyLimit bytes and reports whether there are more.
func (c *call) readBody() (tooLarge bool) {
	if c.r.Body == nil {
		return false
	}
	// A body that breaks off is an incomplete document, which its decoder refuses.
	c.body, _ = io.ReadAll(io.LimitReader(c.r.Body, bodyLimit+1))
	return len(c.body) > bodyLimit
}

// admit checks the token and the limits.
func (s *Sandbox) admit(c *call) (answer, bool) {
	scheme, secret, _ := strings.Cut(c.r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "bearer") || secret == "" {
		return c.fail(http.StatusUnauthorized, "authentication.required",
			"No authentication bearer token specified in authorization header."), false
	}
	if c.token = s.tokens.find(secret, s.now()); c.token == nil {
		return c.badCredentials(), false
	}
	wait := c.token.quota.take(s.now)
	if wait == 0 {
		return answer{}, true
	}
	s.log.count(func(st *Stats) { st.Refused429++ })
	return c.throttled(int(math.Ceil(wait.Seconds()))), false
}

func (c *call) noRoute() answer {
	if c.allowed == nil {
		return c.fail(http.StatusNotFound, "not.found", "HTTP 404 Not Found")
	}
	slices.Sort(c.allowed)
	return c.fail(http.StatusMethodNotAllowed, "method.not.allowed", "HTTP 405 Method Not Allowed").
		with("Allow", strings.Join(c.allowed, ", "))
}

// entry is the request's line in the log.
func (c *call) entry(a answer) Request {
	e := Request{
		Time: c.arrived, Op: c.op(), Path: c.r.URL.Path, Method: c.r.Method, Status: a.status,
		User: c.arg("id"), Users: len(c.ids()), CorrelationID: c.correlationID,
	}
	if c.route != nil {
		e.Path = c.route.pattern
	}
	if c.token != nil {
		e.Token = c.token.short
	}
	if e.Op == opPatch {
		e.RequestBody = string(c.body[:min(len(c.body), loggedBody)])
	}
	return e
}

// uuid4 is a random UUID (RFC 9562 §5.4).
func uuid4() string {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], rand.Uint64())
	binary.BigEndian.PutUint64(b[8:], rand.Uint64())
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16])
}
