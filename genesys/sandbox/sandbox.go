// Package sandbox is a Genesys Cloud that runs on localhost: its sign-in, its user and
// skill endpoints, its limits, its lag and its faults, as one [http.Handler].
//
// It knows two wire contracts. "routing-skills" is the public platform, written from the
// vendor's OpenAPI description and SDKs, RFC 7644 (SCIM) and RFC 6749 (OAuth 2.0);
// "custom-attributes" is an organisation whose provisioning rules turn SCIM custom
// attributes into skills. Where the public sources leave an answer open, the sandbox is
// the stricter of the possible servers, or has a switch in [Config].
//
// It must not know our client: it shares no code with it, so that each checks the other.
// It keeps everything in memory and works without goroutines and timers of its own: lag and provisioning are worked
// out from the clock when somebody looks, so it also runs in a testing/synctest bubble
// (see [Sandbox.Transport]).
package sandbox

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// The contracts that Config.Serve names.
const (
	Both             = "both"
	CustomAttributes = "custom-attributes"
	RoutingSkills    = "routing-skills"
)

// Config describes the organisation and how it behaves. The zero value is an empty
// organisation without limits, lag or latency. See [Org] for a populated one.
type Config struct {
	// ClientID and ClientSecret of the one OAuth client. Default "sandbox" each.
	ClientID, ClientSecret string

	// Serve names the contract whose paths exist; every other path is 404. Default Both.
	Serve string

	// Users, and the skills that exist in the organisation. Skills that a user has or a
	// rule assigns exist without being listed.
	Users  []User
	Skills []string

	// Rules turn attributes into skills in the custom-attributes contract. The skills
	// that rules name belong to them: assigned when a rule matches, taken away when none
	// does any more. Other skills are left alone.
	Rules []Rule

	// Limit is the number of requests a token may send in any sliding 60 s, all paths
	// together. Over it: 429 with Retry-After. 0 = none. Requests for a token are subject
	// to OAuthLimit instead.
	Limit int
	// LimitPerSecond is a second, sliding 1-s limit: over it 429 with Retry-After: 1.
	// 0 = none.
	LimitPerSecond int
	// LimitShared makes all tokens draw on one limit, as if it were the client's.
	// Default: each token has its own, as on the platform.
	LimitShared bool
	// OAuthLimit is the number of tokens in any sliding 60 s. Over it 400 invalid_request
	// "rate limit exceeded; …" as on the platform. 0 = none.
	OAuthLimit int

	// TokenLife is how long a token is good for. Default 24 h, as on the platform;
	// one hour when only custom-attributes is served.
	TokenLife time.Duration

	// ReadLag is the time from a write until the users API shows it (batch read, single
	// read, routingskills, routing/skills); the old skills and the old version are
	// served meanwhile. Outside edits lag like any write.
	ReadLag time.Duration
	// SCIMReadLag is the same for GET on the SCIM user. Conditional writes always see the
	// stored version.
	SCIMReadLag time.Duration
	// ProvisionLag is the time from a write of attributes until the rules have run. Each
	// write of attributes starts it anew. ReadLag comes on top.
	ProvisionLag time.Duration
	// PatchLatency is the time from the arrival of a patch until it takes effect and is
	// answered. A second patch of the same user in that time is refused with 409.
	PatchLatency time.Duration
	// ReadLatency is the time every other request takes.
	ReadLatency time.Duration
	// Seed makes lags and latencies vary from half to one and a half times their value,
	// in a repeatable sequence. 0 = exact values.
	Seed uint64

	// Authority is the external-id authority under which ExternalID is found.
	// Default "hris".
	Authority string
	// Divisions the client may write in. Patching a user of another division is 403
	// missing.division.permission. Empty = all.
	Divisions []string
	// Stale is the answer to a stale If-Match: "400" (invalidVers), "409" (ScimError) or
	// "412": the vendor's documents name all three. Default "400".
	Stale string
	// AllowIntegers accepts the integer 4 where SCIM wants the decimal 4.0. Default:
	// refused, as strict SCIM servers do (RFC 7643 §2.3.3).
	AllowIntegers bool
	// Levels are the organisation's own words for proficiency levels in the
	// custom-attributes contract. Default: the number as text, such as "4".
	Levels map[float64]string
}

func (c Config) withDefaults() Config {
	def := func(s *string, v string) {
		if *s == "" {
			*s = v
		}
	}
	def(&c.ClientID, "sandbox")
	def(&c.ClientSecret, "sandbox")
	def(&c.Serve, Both)
	def(&c.Authority, "hris")
	def(&c.Stale, "400")
	if c.TokenLife == 0 {
		c.TokenLife = 24 * time.Hour
		if c.Serve == CustomAttributes {
			c.TokenLife = time.Hour
		}
	}
	if !slices.Contains([]string{Both, CustomAttributes, RoutingSkills}, c.Serve) {
		panic(fmt.Sprintf("sandbox: unknown contract %q", c.Serve))
	}
	if !slices.Contains(staleForms, c.Stale) {
		panic(fmt.Sprintf("sandbox: unknown stale form %q", c.Stale))
	}
	return c
}

// Sandbox is one organisation. All its methods may be called from any goroutine.
type Sandbox struct {
	cfg    Config
	start  time.Time
	routes []route
	org    org
	tokens *tokens
	faults faults
	log    *journal
	draws  atomic.Uint64 // jitter drawn so far
}

// New makes the organisation that cfg describes. It panics on a configuration that cannot
// be: an unknown contract or two users with one id.
func New(cfg Config) *Sandbox {
	s := &Sandbox{cfg: cfg.withDefaults(), start: time.Now()}
	s.org = newOrg(s.cfg)
	s.routes = routesOf(s.cfg.Serve)
	s.tokens = newTokens(s.cfg)
	s.log = newJournal()
	return s
}

// ServeHTTP answers the API and, under the same base URL, POST /oauth/token. Paths under
// /_sandbox/ are the control surface (see control.go): they are never counted, limited or
// disturbed by faults.
func (s *Sandbox) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, controlPrefix) {
		s.control(w, r)
		return
	}
	c := s.arrive(r)
	a := s.answer(c)
	// Logged before it is sent: whoever has the answer also finds it in the log.
	s.log.leave(c.entry(a))
	a.send(w, c.correlationID)
}

// Login serves POST /oauth/token alone, for a client that signs in on a host of its own.
func (s *Sandbox) Login() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != tokenPath {
			http.NotFound(w, r)
			return
		}
		s.ServeHTTP(w, r)
	})
}

// Stats returns the counters so far.
func (s *Sandbox) Stats() Stats {
	st := s.log.snapshot()
	st.Users = len(s.org.users)
	return st
}

// Requests returns the log, oldest first: the last 100,000 requests that were answered
// (or whose connection was cut), in the order of their answers.
func (s *Sandbox) Requests() []Request { return s.log.requests() }

// RevokeTokens makes every token issued so far answer 401 bad.credentials.
func (s *Sandbox) RevokeTokens() { s.tokens.revokeAll() }

// now is the time since the sandbox was made; monotonic, so a step of the wall clock
// neither opens nor closes a window.
func (s *Sandbox) now() time.Duration { return time.Since(s.start) }

// vary applies Config.Seed to a lag or latency.
func (s *Sandbox) vary(d time.Duration) time.Duration {
	if s.cfg.Seed == 0 || d <= 0 {
		return d
	}
	// splitmix64: a good 64-bit draw from a counter, so that no lock is needed.
	x := s.cfg.Seed + s.draws.Add(1)*0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	x ^= x >> 31
	return later(d/2, time.Duration(float64(d)*(float64(x>>11)/(1<<53))))
}
