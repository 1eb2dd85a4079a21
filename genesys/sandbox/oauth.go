package sandbox

import (
	"crypto/rand"
	"crypto/subtle"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

// scopes that the custom-attributes contract asks for. The platform has none for client
// credentials and ignores them.
var scopes = []string{"scim:users:read", "scim:users:write"}

// token is an access token and what it may still send.
type token struct {
	secret  string
	short   string // in the log
	expires time.Duration
	quota   *quota
}

// tokens are the ones that were issued and are neither revoked nor long expired.
type tokens struct {
	cfg    Config
	oauth  *quota
	shared *quota // Config.LimitShared

	mu     sync.RWMutex
	valid  map[string]*token
	issued []*token // in the order of expiry, which is that of issue
	count  int
}

func newTokens(cfg Config) *tokens {
	t := &tokens{cfg: cfg, oauth: newQuota(cfg.OAuthLimit, 0), valid: map[string]*token{}}
	if cfg.LimitShared {
		t.shared = newQuota(cfg.Limit, cfg.LimitPerSecond)
	}
	return t
}

func (t *tokens) issue(now time.Duration) *token {
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(t.issued) > 0 && t.issued[0].expires <= now {
		delete(t.valid, t.issued[0].secret)
		t.issued = t.issued[1:]
	}
	t.count++
	tk := &token{secret: rand.Text(), short: "t" + strconv.Itoa(t.count), expires: later(now, t.cfg.TokenLife), quota: t.shared}
	if tk.quota == nil {
		tk.quota = newQuota(t.cfg.Limit, t.cfg.LimitPerSecond)
	}
	t.valid[tk.secret] = tk
	t.issued = append(t.issued, tk)
	return tk
}

// find returns the token, nil if it is unknown, revoked or expired.
func (t *tokens) find(secret string, now time.Duration) *token {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if tk := t.valid[secret]; tk != nil && now < tk.expires {
		return tk
	}
	return nil
}

func (t *tokens) revoke(tk *token) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.valid, tk.secret)
}

func (t *tokens) revokeAll() {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.valid)
	t.issued = nil
}

func (c *call) oauthLimited() answer {
	// 400, not 429: the platform's login host answers so.
	return c.oauthFail(http.StatusBadRequest, "invalid_request", "rate limit exceeded; too many token requests, try again later")
}

// token answers POST /oauth/token: the client credentials grant of RFC 6749 §4.4.
func (s *Sandbox) token(c *call) answer {
	typ, _, _ := mime.ParseMediaType(c.r.Header.Get("Content-Type"))
	form, err := url.ParseQuery(string(c.body))
	if typ != "application/x-www-form-urlencoded" || err != nil {
		return c.oauthFail(http.StatusBadRequest, "invalid_request", "the body must be a form")
	}
	switch form.Get("grant_type") {
	case "client_credentials":
	case "":
		return c.oauthFail(http.StatusBadRequest, "invalid_request", "grant_type is missing")
	default:
		return c.oauthFail(http.StatusBadRequest, "unsupported_grant_type", "only client_credentials is supported")
	}
	if a, ok := s.signIn(c, form); !ok {
		return a
	}
	tk := s.tokens.issue(s.now())
	s.log.count(func(st *Stats) { st.Tokens++ })
	c.token = tk
	return ok(map[string]any{
		"access_token": tk.secret, "token_type": "bearer", "expires_in": int(s.cfg.TokenLife.Seconds()),
	}).with("Cache-Control", "no-store")
}

// signIn checks the client's credentials and scopes.
func (s *Sandbox) signIn(c *call, form url.Values) (answer, bool) {
	id, secret, basic := c.r.BasicAuth()
	_, posted := form["client_secret"]
	switch {
	case basic && posted: // RFC 6749 §2.3: not more than one method
		return c.oauthFail(http.StatusBadRequest, "invalid_request", "credentials in the header and in the form"), false
	case s.cfg.Serve == CustomAttributes && !posted:
		return c.oauthFail(http.StatusBadRequest, "invalid_request", "client_id and client_secret must be form fields"), false
	case !basic:
		id, secret = form.Get("client_id"), form.Get("client_secret")
	}
	if id == "" {
		return c.oauthFail(http.StatusBadRequest, "invalid_request", "client_id is missing"), false
	}
	if !same(id, s.cfg.ClientID, basic) {
		return c.oauthFail(http.StatusBadRequest, "invalid_client", "client not found: "+id), false
	}
	if !same(secret, s.cfg.ClientSecret, basic) {
		return c.oauthFail(http.StatusUnauthorized, "invalid_client", "authentication failed"), false
	}
	if s.cfg.Serve == CustomAttributes && !scoped(form.Get("scope")) {
		return c.oauthFail(http.StatusBadRequest, "invalid_scope", "the scopes "+strings.Join(scopes, " ")+" are needed"), false
	}
	return answer{}, true
}

// same compares a credential. In a Basic header RFC 6749 §2.3.1 has it form-encoded and
// the vendor's SDKs do not, so both are good.
func same(got, want string, basic bool) bool {
	if basic {
		if plain, err := url.QueryUnescape(got); err == nil && plain == want {
			return true
		}
	}
	return subtle.ConstantTimeCompare([]byte(got), []byte(want)) == 1
}

func scoped(scope string) bool {
	has := map[string]bool{}
	for _, sc := range strings.Fields(scope) {
		has[sc] = true
	}
	return has[scopes[0]] && has[scopes[1]]
}
