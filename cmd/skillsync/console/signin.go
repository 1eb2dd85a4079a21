package console

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

const (
	sessionLasts = 12 * time.Hour
	// wrongTries is how many wrong tokens are looked at in a minute, whoever sends them.
	wrongTries = 5
)

var (
	errNotSignedIn  = errors.New("nobody has signed in")
	errWrongToken   = errors.New("this is no token that the console knows")
	errTooManyTries = errors.New("there were too many wrong tokens; the next try is possible in a minute")
)

// A session is one browser that has signed in.
type session struct {
	who   who
	until time.Time
	over  chan struct{} // closed when it is signed out
}

// sessions are those that are open, by the cookie's value, and the times of the latest wrong tries.
type sessions struct {
	mu    sync.Mutex
	open  map[string]*session
	wrong []time.Time
}

func (s *sessions) begin(w who) (id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil {
		s.open = map[string]*session{}
	}
	for id, other := range s.open {
		if time.Now().After(other.until) {
			delete(s.open, id)
		}
	}
	id = rand.Text()
	s.open[id] = &session{who: w, until: time.Now().Add(sessionLasts), over: make(chan struct{})}
	return id
}

func (s *sessions) find(id string) *session {
	s.mu.Lock()
	defer s.mu.Unlock()
	if one := s.open[id]; one != nil && time.Now().Before(one.until) {
		return one
	}
	return nil
}

func (s *sessions) end(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if one := s.open[id]; one != nil {
		close(one.over)
		delete(s.open, id)
	}
}

// try finds whose token it is. While there were too many wrong ones it does not look.
func (c *Console) try(secret string) (who, error) {
	s := &c.sessions
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.wrong) > 0 && time.Since(s.wrong[0]) > time.Minute {
		s.wrong = s.wrong[1:]
	}
	if len(s.wrong) >= wrongTries {
		return who{}, errTooManyTries
	}
	given, found := sha256.Sum256([]byte(secret)), who{}
	for _, t := range c.Tokens {
		sum := sha256.Sum256([]byte(t.Secret))
		if t.Secret != "" && subtle.ConstantTimeCompare(sum[:], given[:]) == 1 {
			found = who{Name: t.Name, Role: c.role(t.Role)}
		}
	}
	if found.Role == "" {
		s.wrong = append(s.wrong, time.Now())
		c.Log.Warn().Msg("somebody tried a wrong token")
		return who{}, errWrongToken
	}
	return found, nil
}

func (c *Console) role(given Role) Role {
	if given != Operator || c.ReadOnly {
		return Viewer
	}
	return Operator
}

// whose tells who makes a request.
func (c *Console) whose(r *http.Request) (who, error) {
	if len(c.Tokens) == 0 {
		name := c.User
		if name == "" {
			name = "console"
		}
		return who{Name: name, Role: c.role(Operator)}, nil
	}
	if scheme, secret, _ := strings.Cut(r.Header.Get("Authorization"), " "); strings.EqualFold(scheme, "Bearer") {
		return c.try(secret)
	}
	if cookie, err := r.Cookie(c.cookieName()); err == nil {
		if s := c.sessions.find(cookie.Value); s != nil {
			w := s.who
			w.session = s
			return w, nil
		}
	}
	return who{}, errNotSignedIn
}

// askForSignIn answers whoever has not signed in.
func (c *Console) askForSignIn(v visit, err error) {
	here, to := onlyHere(v.r.URL.RequestURI()), "/sign-in"
	if v.r.Method == http.MethodGet {
		to += "?" + url.Values{"to": {here}}.Encode()
	}
	switch {
	case errors.Is(err, errTooManyTries):
		tooMany(v.w)
		c.fail(v, &problem{code: http.StatusTooManyRequests, title: "Too many wrong tokens", text: []string{err.Error()}})
	case errors.Is(err, errWrongToken), v.r.URL.Path == "/events":
		v.w.Header().Set("WWW-Authenticate", `Bearer realm="skillsync"`)
		c.fail(v, &problem{code: http.StatusUnauthorized, title: "Sign in first", text: []string{err.Error()}})
	case v.r.Method == http.MethodGet && v.r.Header.Get("Sec-Fetch-Site") == "cross-site":
		// A link from elsewhere comes without the cookie (SameSite=Strict). Asked for from a page of
		// ours, the same address comes with it.
		c.render(v, http.StatusOK, "again", page{Title: "One moment", Body: here})
	default:
		_ = see(v, to)
	}
}

func tooMany(w http.ResponseWriter) { w.Header().Set("Retry-After", "60") }

func (c *Console) signInForm(w http.ResponseWriter, r *http.Request) {
	if len(c.Tokens) == 0 {
		_ = see(visit{w: w, r: r}, "/")
		return
	}
	c.askForToken(visit{w: w, r: r}, http.StatusOK, nil)
}

func (c *Console) askForToken(v visit, code int, err error) {
	c.render(v, code, "sign-in", page{Title: "Sign in", Body: struct {
		To    string
		Wrong error
	}{v.r.FormValue("to"), err}})
}

func (c *Console) signIn(w http.ResponseWriter, r *http.Request) {
	v := visit{w: w, r: r}
	r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
	found, err := c.try(strings.TrimSpace(r.PostFormValue("token")))
	switch {
	case errors.Is(err, errTooManyTries):
		tooMany(w)
		c.askForToken(v, http.StatusTooManyRequests, err)
		return
	case err != nil:
		c.askForToken(v, http.StatusForbidden, err)
		return
	}
	c.Log.Info().Str("name", found.Name).Str("role", string(found.Role)).Msg("signed in")
	c.setCookie(w, c.sessions.begin(found), int(sessionLasts.Seconds()))
	_ = see(v, onlyHere(r.FormValue("to")))
}

func (c *Console) signOut(w http.ResponseWriter, r *http.Request) {
	if cookie, err := r.Cookie(c.cookieName()); err == nil {
		c.sessions.end(cookie.Value)
	}
	c.setCookie(w, "", -1)
	_ = see(visit{w: w, r: r}, "/sign-in")
}

// onlyHere is an address of this console, whatever somebody wrote into a link.
func onlyHere(address string) string {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "" || u.Host != "" || !strings.HasPrefix(u.Path, "/") || strings.HasPrefix(u.Path, "//") || strings.Contains(address, `\`) {
		return "/"
	}
	return u.RequestURI()
}

// cookieName has the prefix with which browsers take the cookie from nobody but this very host.
func (c *Console) cookieName() string {
	if c.Secure {
		return "__Host-skillsync"
	}
	return "skillsync"
}

func (c *Console) setCookie(w http.ResponseWriter, value string, maxAge int) {
	http.SetCookie(w, &http.Cookie{
		Name: c.cookieName(), Value: value, Path: "/", MaxAge: maxAge,
		HttpOnly: true, SameSite: http.SameSiteStrictMode, Secure: c.Secure,
	})
}
