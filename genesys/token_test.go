package genesys

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestARefusedTokenIsReplacedOnceForAll(t *testing.T) {
	const n = 64
	var arrived sync.WaitGroup
	arrived.Add(n)
	o := newOrg(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "Bearer token-1" {
			arrived.Done()
			arrived.Wait() // all are out when the first is refused
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
	c := o.client()
	each(n, func(int) {
		if _, err := c.Patch(t.Context(), userID, anyPatch); err != nil {
			t.Error(err)
		}
	})
	if got := o.tokens.Load(); got != 2 {
		t.Errorf("%d tokens, want the first and one new one", got)
	}
	if got := o.requests.Load(); got != 2+2*n {
		t.Errorf("%d requests, want two tokens and two patches of each caller", got)
	}
}

func TestATokenRefusedTwiceIsTheCallersProblem(t *testing.T) {
	o := newOrg(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) })
	c := o.client()
	for call := range 2 {
		_, err := c.Patch(t.Context(), userID, anyPatch)
		checkSentinel(t, err, ErrUnauthorized)
		if got := o.tokens.Load(); got != int64(2*call+2) {
			t.Errorf("%d tokens after call %d", got, call+1)
		}
	}
}

func TestATokenIsRenewedBeforeItsEnd(t *testing.T) {
	for name, row := range map[string]struct{ life, renewed time.Duration }{
		"a minute before":                  {time.Hour, 59 * time.Minute},
		"at half the life of a short one":  {80 * time.Second, 40 * time.Second},
		"never if it is not said to end":   {0, 0},
		"a minute before, of the shortest": {300 * time.Second, 240 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, tokens := offline(nil), 0
				c.Transport = roundTrips(func(r *http.Request) (*http.Response, error) {
					if r.URL.Path == "/oauth/token" {
						tokens++
						return reply(200, fmt.Sprintf(`{"access_token":"t","expires_in":%d}`, row.life/time.Second)), nil
					}
					return reply(200, `{}`), nil
				})
				patch := func() {
					if _, err := c.Patch(t.Context(), userID, anyPatch); err != nil {
						t.Fatal(err)
					}
				}
				patch()
				if row.life == 0 {
					time.Sleep(10_000 * time.Hour)
					if patch(); tokens != 1 {
						t.Errorf("%d tokens", tokens)
					}
					return
				}
				time.Sleep(row.renewed - time.Second)
				if patch(); tokens != 1 {
					t.Errorf("%d tokens a second before the renewal", tokens)
				}
				time.Sleep(time.Second)
				if patch(); tokens != 2 {
					t.Errorf("%d tokens at the renewal", tokens)
				}
			})
		})
	}
}

// A token that ends while its request waits for a grant must not be sent, and the grant must not
// be kept while a new one is fetched.
func TestATokenThatEndsInTheQueueCostsAFreshGrant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var granted time.Time
		waits := []time.Duration{0, 400 * time.Second, 0, 7 * time.Second} // token, patch, token, patch
		c := offline(nil)
		c.Limiter = limiterFunc(func(context.Context) error {
			time.Sleep(waits[0])
			waits, granted = waits[1:], time.Now()
			return nil
		})
		tokens := 0
		c.Transport = roundTrips(func(r *http.Request) (*http.Response, error) {
			if time.Since(granted) != 0 {
				t.Errorf("%s left %v after its grant", r.URL.Path, time.Since(granted))
			}
			if r.URL.Path == "/oauth/token" {
				tokens++
				return answerLater(r, 3*time.Second, reply(200, fmt.Sprintf(`{"access_token":"t%d","expires_in":300}`, tokens)))
			}
			if got := r.Header.Get("Authorization"); got != "Bearer t2" {
				t.Errorf("sent with %s", got)
			}
			return reply(200, `{}`), nil
		})
		if _, err := c.Patch(t.Context(), userID, anyPatch); err != nil {
			t.Fatal(err)
		}
		if len(waits) != 0 || tokens != 2 {
			t.Errorf("%d grants left, %d tokens", len(waits), tokens)
		}
	})
}

// Where the limiter grants in turn, the request for a new token stands last, behind requests
// that all need it.
func TestARefusedTokenCostsNoneOfTheGrantsThatAreWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 20
		var grants, requests atomic.Int64
		tick := make(chan struct{})
		c := offline(nil)
		c.Limiter = limiterFunc(func(ctx context.Context) error {
			select {
			case <-tick:
				grants.Add(1)
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		var tokens atomic.Int64
		c.Transport = roundTrips(func(r *http.Request) (*http.Response, error) {
			requests.Add(1)
			if r.URL.Path == "/oauth/token" {
				return reply(200, fmt.Sprintf(`{"access_token":"t%d"}`, tokens.Add(1))), nil
			}
			if r.Header.Get("Authorization") == "Bearer t1" {
				return reply(401, ``), nil
			}
			return reply(200, `{}`), nil
		})
		var wg sync.WaitGroup
		for range n {
			wg.Go(func() {
				if _, err := c.Patch(t.Context(), userID, anyPatch); err != nil {
					t.Error(err)
				}
			})
		}
		done := make(chan struct{})
		go func() { wg.Wait(); close(done) }()
		for running := true; running; {
			synctest.Wait()
			select {
			case tick <- struct{}{}:
			case <-done:
				running = false
			}
		}
		if got := tokens.Load(); got != 2 {
			t.Errorf("%d tokens", got)
		}
		if g, r := grants.Load(), requests.Load(); g != r || r != n+3 {
			t.Errorf("%d grants for %d requests, want %d: two tokens, and one patch twice", g, r, n+3)
		}
	})
}

func TestAFailedSignInIsSharedByThoseWhoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, asked := offline(nil), 0
		c.Transport = roundTrips(func(r *http.Request) (*http.Response, error) {
			asked++
			return answerLater(r, time.Second, reply(503, ``))
		})
		each(10, func(int) {
			_, err := c.Patch(t.Context(), userID, anyPatch)
			if e, ok := errors.AsType[*Error](err); !ok || e.Op != "token" || e.Status != 503 {
				t.Errorf("Patch: %v", err)
			}
		})
		if asked != 1 {
			t.Errorf("asked %d times", asked)
		}
	})
}

func TestASignInWhoseCallerLeftIsTakenOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := offline(func(*http.Request) (*http.Response, error) { return reply(200, `{}`), nil })
		c.Limiter = slowLimiter(time.Minute)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := c.Patch(ctx, userID, anyPatch); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("the one who left: %v", err)
			}
		})
		synctest.Wait()
		wg.Go(func() {
			if _, err := c.Patch(t.Context(), userID, anyPatch); err != nil {
				t.Errorf("the one who stayed: %v", err)
			}
		})
		wg.Go(func() {
			if _, err := c.Patch(ctx, userID, anyPatch); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("another one who left: %v", err)
			}
		})
		wg.Wait()
	})
}

func TestAThrottledSignInIsWaitedOutOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []time.Duration
		c, tokens := offline(nil), 0
		c.OnThrottle = func(_ context.Context, d time.Duration) { told = append(told, d) }
		c.Transport = roundTrips(func(r *http.Request) (*http.Response, error) {
			if r.URL.Path != "/oauth/token" {
				return reply(200, `{}`), nil
			}
			if tokens++; tokens == 1 {
				return reply(400, `{"error":"invalid_request","description":"Rate limit exceeded; try later"}`), nil
			}
			return reply(200, `{"access_token":"t"}`), nil
		})
		start := time.Now()
		each(10, func(int) {
			if _, err := c.Patch(t.Context(), userID, anyPatch); err != nil {
				t.Error(err)
			}
		})
		if took := time.Since(start); took != time.Minute || len(told) != 1 || told[0] != time.Minute {
			t.Errorf("took %v, told %v", took, told)
		}
	})
}

func TestASignInThrottledForLongIsAnError(t *testing.T) {
	c, told := offline(nil), 0
	c.OnThrottle = func(context.Context, time.Duration) { told++ }
	c.Transport = roundTrips(func(*http.Request) (*http.Response, error) { return reply(429, ``, "Retry-After: 3600"), nil })
	_, err := c.Patch(t.Context(), userID, anyPatch)
	checkSentinel(t, err, ErrThrottled)
	if told != 1 {
		t.Errorf("told %d times", told)
	}
}

// seen is what arrived at a token endpoint.
type seen struct {
	way   string // basic or form
	scope string
	grant string
}

// signInServer accepts the client id and secret in some ways and knows what it was asked.
func signInServer(t *testing.T, accepts ...string) (*httptest.Server, *[]seen) {
	var asked []seen
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/oauth/token" {
			w.WriteHeader(http.StatusNotFound) // no schemas: custom attributes
			return
		}
		form, _ := url.ParseQuery(body(t, r))
		s := seen{way: "none", scope: form.Get("scope"), grant: form.Get("grant_type")}
		switch {
		case r.Header.Get("Authorization") == "Basic "+base64.StdEncoding.EncodeToString([]byte("id:hush")):
			s.way = "basic"
		case form.Get("client_id") == "id" && form.Get("client_secret") == "hush":
			s.way = "form"
		}
		asked = append(asked, s)
		w.Header().Set("Content-Type", "application/json")
		if strings.Contains(strings.Join(accepts, " "), s.way) {
			_, _ = io.WriteString(w, `{"access_token":"t","token_type":"bearer","expires_in":3600}`)
			return
		}
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, `{"error":"invalid_client","error_description":"authentication failed for hush"}`)
	}))
	t.Cleanup(srv.Close)
	return srv, &asked
}

func TestAProfileHasItsWayToSignIn(t *testing.T) {
	const scopes = "scim:users:write scim:users:read"
	basic, form := seen{"basic", "", "client_credentials"}, seen{"form", scopes, "client_credentials"}
	for name, row := range map[string]struct {
		profile Profile
		accepts []string
		asked   []seen
		is      error
	}{
		"routing skills":                              {RoutingSkills, []string{"basic"}, []seen{basic}, nil},
		"routing skills, refused":                     {RoutingSkills, []string{"form"}, []seen{basic}, ErrUnauthorized},
		"custom attributes":                           {CustomAttributes, []string{"form"}, []seen{form}, nil},
		"custom attributes, refused":                  {CustomAttributes, []string{"basic"}, []seen{form}, ErrUnauthorized},
		"auto where only the form is taken":           {Auto, []string{"form"}, []seen{basic, form}, nil},
		"auto with a wrong secret":                    {Auto, nil, []seen{basic, form}, ErrUnauthorized},
		"auto, custom attributes: again, with scopes": {Auto, []string{"basic", "form"}, []seen{basic, form}, nil},
		"auto where only basic is taken":              {Auto, []string{"basic"}, []seen{basic, form, basic}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			srv, asked := signInServer(t, row.accepts...)
			c := &Client{API: srv.URL, ClientID: "id", ClientSecret: "hush", Profile: row.profile}
			_, err := c.Patch(t.Context(), userID, anyPatch)
			if row.is == nil {
				checkSentinel(t, err, ErrUserNotFound) // signed in; the server has no users
			} else {
				checkSentinel(t, err, row.is)
				if strings.Contains(err.Error(), "hush") {
					t.Errorf("%v has the secret", err)
				}
			}
			if got := fmt.Sprint(*asked); got != fmt.Sprint(row.asked) {
				t.Errorf("asked %v, want %v", got, row.asked)
			}
		})
	}
}

func TestASignInThatFailsConcernsTheClient(t *testing.T) {
	for name, row := range map[string]struct {
		status int
		body   string
		is     error
		code   string
	}{
		"an unknown client":       {400, `{"error":"invalid_client","description":"client not found: id"}`, ErrUnauthorized, "invalid_client"},
		"a wrong secret":          {401, `{"error":"invalid_client","error_description":"authentication failed"}`, ErrUnauthorized, "invalid_client"},
		"a scope nobody has":      {400, `{"error":"invalid_scope"}`, ErrUnauthorized, "invalid_scope"},
		"a forbidden network":     {403, `{"code":"ip.not.authorized"}`, ErrUnauthorized, "ip.not.authorized"},
		"no such path":            {404, `<html>`, ErrUnauthorized, ""},
		"a redirect":              {302, ``, ErrUnauthorized, ""},
		"a time-out of the proxy": {408, ``, nil, ""},
		"a broken server":         {500, `{"error":"server_error"}`, nil, "server_error"},
		"200 without a token":     {200, `{"token_type":"bearer","scope":"leak-me"}`, nil, ""},
		"200 in HTML":             {200, `<html>leak-me</html>`, nil, ""},
		"200 with an error":       {200, `{"error":"leak-me"}`, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			c := &Client{API: "http://org.test", Profile: RoutingSkills}
			c.Transport = roundTrips(func(*http.Request) (*http.Response, error) {
				return reply(row.status, row.body, "Location: http://org.test/x", "ININ-Correlation-Id: abc"), nil
			})
			_, err := c.Patch(t.Context(), userID, anyPatch)
			e, ok := errors.AsType[*Error](err)
			if !ok || e.Op != "token" || e.Status != row.status || e.Code != row.code || e.CorrelationID != "abc" {
				t.Errorf("Patch: %v", err)
			}
			if strings.Contains(err.Error(), "leak-me") {
				t.Errorf("%v quotes the answer", err)
			}
			checkSentinel(t, err, row.is)
		})
	}
}
