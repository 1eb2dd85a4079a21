package genesys

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// anyPatch is a patch for tests of what surrounds it.
var anyPatch = Patch{Skills: []Skill{{Name: "Billing", Proficiency: 4}}}

func TestAStatusBecomesAnErrorWithItsFacts(t *testing.T) {
	const vendor = `{"message":"no","code":"some.code","status":400,"contextId":"in-body"}`
	for name, row := range map[string]struct {
		status int
		body   string
		is     error // the one sentinel that it is
		want   Error
	}{
		"301 is not followed":        {301, ``, nil, Error{}},
		"304":                        {304, ``, nil, Error{}},
		"400":                        {400, vendor, nil, Error{Code: "some.code", Message: "no"}},
		"400 invalidVers":            {400, `{"status":"400","scimType":"invalidVers","detail":"old"}`, ErrStale, Error{SCIMType: "invalidVers", Message: "old"}},
		"400 with the text of stale": {400, `{"code":"client.failed.request","message":"version does not match the current version"}`, ErrStale, Error{Code: "client.failed.request", Message: "version does not match the current version"}},
		"401, for the second time":   {401, `{"code":"bad.credentials"}`, ErrUnauthorized, Error{Code: "bad.credentials"}},
		"403":                        {403, `{"code":"missing.any.permissions"}`, ErrForbidden, Error{Code: "missing.any.permissions"}},
		"403 in a division":          {403, `{"code":"missing.division.permission"}`, ErrDivision, Error{Code: "missing.division.permission"}},
		"403 in any division":        {403, `{"code":"missing.any.division.permissions"}`, ErrDivision, Error{Code: "missing.any.division.permissions"}},
		"404":                        {404, `{"code":"not.found"}`, ErrUserNotFound, Error{Code: "not.found"}},
		"408":                        {408, `{"code":"client.timeout"}`, nil, Error{Code: "client.timeout"}},
		"409 of another sort":        {409, `{"code":"request.conflict"}`, nil, Error{Code: "request.conflict"}},
		"409 as SCIM has it":         {409, `{"status":"409","detail":"Version does not match current version"}`, ErrStale, Error{Message: "Version does not match current version"}},
		"412":                        {412, ``, ErrStale, Error{}},
		"413":                        {413, `{"code":"request.entity.too.large"}`, nil, Error{Code: "request.entity.too.large"}},
		"415":                        {415, `{"code":"unsupported.media.type"}`, nil, Error{Code: "unsupported.media.type"}},
		"429 for an hour":            {429, `{"code":"too.many.requests.retry.after"}`, ErrThrottled, Error{Code: "too.many.requests.retry.after", RetryAfter: time.Hour}},
		"500":                        {500, `{"code":"internal.server.error"}`, nil, Error{Code: "internal.server.error"}},
		"502 in HTML":                {502, `<html><body>Bad gateway</body></html>`, nil, Error{}},
		"503 that says when":         {503, `{"code":"service.unavailable"}`, nil, Error{Code: "service.unavailable", RetryAfter: time.Hour}},
		"504":                        {504, `{"code":"request.timeout"}`, nil, Error{Code: "request.timeout"}},
		"599, which nobody knows":    {599, `{`, nil, Error{}},
	} {
		t.Run(name, func(t *testing.T) {
			o := newOrg(t, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("ININ-Correlation-Id", "in-header")
				w.Header().Set("Location", "/elsewhere")
				if row.status == 429 || row.status == 503 {
					w.Header().Set("Retry-After", "3600")
				}
				if r.Method == http.MethodGet { // the list of skills, asked for after a 400
					fmt.Fprint(w, `{"entities":[{"name":"Billing"}],"pageCount":1}`)
					return
				}
				w.WriteHeader(row.status)
				_, _ = io.WriteString(w, row.body)
			})
			id, err := o.client().Patch(t.Context(), userID, anyPatch)
			var got *Error
			if !errors.As(err, &got) {
				t.Fatalf("Patch: %v, want an *Error", err)
			}
			row.want.Op, row.want.Status, row.want.CorrelationID = "patch", row.status, "in-header"
			if diff := cmp.Diff(row.want, *got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			if id != "in-header" {
				t.Errorf("correlation id %q is not returned", id)
			}
			checkSentinel(t, err, row.is)
		})
	}
}

// checkSentinel checks that err is want and no other sentinel.
func checkSentinel(t *testing.T, err, want error) {
	t.Helper()
	for _, s := range []error{
		ErrThrottled, ErrUnauthorized, ErrForbidden, ErrDivision, ErrUserNotFound,
		ErrAmbiguous, ErrStale, ErrUnknownSkill, ErrBadRequest, ErrNoLookup,
	} {
		if is := errors.Is(err, s); is != (s == want) {
			t.Errorf("errors.Is(%v, %v) is %v", err, s, is)
		}
	}
}

func TestAThrottledCallWaitsAndPaysAgain(t *testing.T) {
	for name, row := range map[string]struct {
		header string
		want   time.Duration
	}{
		"seconds":             {"Retry-After: 42", 42 * time.Second},
		"a date":              {"Retry-After: Sat, 01 Jan 2000 00:00:30 GMT", 30 * time.Second}, // bubbles begin at midnight
		"none":                {"X-Other: 1", time.Minute},
		"nothing to wait for": {"Retry-After: 0", time.Second},
		"nonsense":            {"Retry-After: soon", time.Minute},
		"less than nothing":   {"Retry-After: -5", time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var grants counter
				var told []time.Duration
				refused := false
				c := offline(func(*http.Request) (*http.Response, error) {
					if !refused {
						refused = true
						return reply(429, `{"code":"too.many.requests.retry.after"}`, row.header), nil
					}
					return reply(200, `{}`), nil
				})
				c.Limiter = &grants
				c.OnThrottle = func(_ context.Context, after time.Duration) { told = append(told, after) }
				start := time.Now()
				if _, err := c.Patch(t.Context(), userID, anyPatch); err != nil {
					t.Fatal(err)
				}
				if took := time.Since(start); took != row.want {
					t.Errorf("waited %v, want %v", took, row.want)
				}
				if diff := cmp.Diff([]time.Duration{row.want}, told); diff != "" {
					t.Errorf("OnThrottle, -want +got:\n%s", diff)
				}
				if n := grants.n.Load(); n != 3 {
					t.Errorf("%d grants for a token and two patches", n)
				}
			})
		})
	}
}

func TestMaxWaitDecidesWhatIsWaitedOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		throttled := 0
		c := offline(func(*http.Request) (*http.Response, error) { return reply(429, ``, "Retry-After: 11"), nil })
		c.MaxWait = 10 * time.Second
		c.OnThrottle = func(context.Context, time.Duration) { throttled++ }
		start := time.Now()
		_, err := c.Patch(t.Context(), userID, anyPatch)
		checkSentinel(t, err, ErrThrottled)
		if took := time.Since(start); took != 0 || throttled != 1 {
			t.Errorf("waited %v, told %d times", took, throttled)
		}
	})
}

func TestAWaitForARateLimitEndsWithItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := offline(func(*http.Request) (*http.Response, error) { return reply(429, ``, "Retry-After: 50"), nil })
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		start := time.Now()
		_, err := c.Patch(ctx, userID, anyPatch)
		if took := time.Since(start); !errors.Is(err, context.DeadlineExceeded) || took != 20*time.Second {
			t.Errorf("Patch: %v after %v", err, took)
		}
	})
}

// slowLimiter grants after d.
type slowLimiter time.Duration

func (d slowLimiter) Wait(ctx context.Context) error {
	select {
	case <-time.After(time.Duration(d)):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func TestTimeoutsBeginWithTheGrant(t *testing.T) {
	user := func(ctx context.Context, c *Client) error { _, err := c.User(ctx, userID); return err }
	patch := func(ctx context.Context, c *Client) error { _, err := c.Patch(ctx, userID, anyPatch); return err }
	for name, row := range map[string]struct {
		call func(context.Context, *Client) error
		took time.Duration
		fine bool
	}{
		"a read in time":    {user, 9 * time.Second, true},
		"a read too slow":   {user, 11 * time.Second, false},
		"a patch in time":   {patch, 14 * time.Second, true},
		"a patch too slow":  {patch, 16 * time.Second, false},
		"a token, too slow": {patch, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := offline(func(r *http.Request) (*http.Response, error) {
					return answerLater(r, row.took, reply(200, `{"entities":[{"id":"`+userID+`","skills":[{"name":"A"}]}]}`))
				})
				if row.took == 0 {
					c.Transport = roundTrips(func(r *http.Request) (*http.Response, error) {
						return answerLater(r, 11*time.Second, reply(200, `{"access_token":"t"}`))
					})
				}
				c.Limiter = slowLimiter(time.Minute)
				err := row.call(t.Context(), c)
				if row.fine != (err == nil) || !row.fine && !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("after %v: %v", row.took, err)
				}
			})
		})
	}
}

func TestAPatchOnceGrantedOutlivesItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		c := offline(func(r *http.Request) (*http.Response, error) {
			cancel()
			return answerLater(r, time.Second, reply(200, `{}`, "ININ-Correlation-Id: abc"))
		})
		if id, err := c.Patch(ctx, userID, anyPatch); err != nil || id != "abc" {
			t.Errorf("Patch: %q, %v", id, err)
		}
	})
}

func TestAnEndedCallerSendsNothing(t *testing.T) {
	o := newOrg(t, func(http.ResponseWriter, *http.Request) {})
	c := o.client()
	c.Limiter = nil
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, patch := c.Patch(ctx, userID, anyPatch)
	_, user := c.User(ctx, userID)
	_, names := c.SkillNames(ctx)
	for _, err := range []error{patch, user, names} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%v, want canceled", err)
		}
	}
}

func TestAReadIsCutOffWithItsCaller(t *testing.T) {
	arrived := make(chan struct{})
	o := newOrg(t, func(_ http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-r.Context().Done()
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-arrived
		cancel()
	}()
	if _, err := o.client().SkillNames(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("SkillNames: %v, want canceled", err)
	}
}

func TestALimiterThatFailsLetsNothingThrough(t *testing.T) {
	o := newOrg(t, func(http.ResponseWriter, *http.Request) {})
	c := o.client()
	broken := errors.New("bucket unreachable")
	c.Limiter = limiterFunc(func(context.Context) error { return broken })
	if _, err := c.Patch(t.Context(), userID, anyPatch); !errors.Is(err, broken) {
		t.Errorf("Patch: %v", err)
	}
	if _, err := c.User(t.Context(), userID); !errors.Is(err, broken) {
		t.Errorf("User: %v", err)
	}
}

type limiterFunc func(context.Context) error

func (f limiterFunc) Wait(ctx context.Context) error { return f(ctx) }

// A server that hangs up after it read the request may have done what it was asked. net/http
// would send a GET again, without a grant.
func TestARequestOnABrokenUsedConnectionIsNotRepeated(t *testing.T) {
	for name, linger := range map[string]int{"closed": -1, "reset": 0} {
		t.Run(name, func(t *testing.T) {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			var wg sync.WaitGroup
			var requests atomic.Int64
			serve := func(conn net.Conn) {
				defer conn.Close()
				for in := bufio.NewReader(conn); ; {
					r, err := http.ReadRequest(in)
					if err != nil {
						return
					}
					_, _ = io.Copy(io.Discard, r.Body)
					if requests.Add(1) == 2 {
						_ = conn.(*net.TCPConn).SetLinger(linger)
						return
					}
					const token = `{"access_token":"t","entities":[]}`
					fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(token), token)
				}
			}
			wg.Go(func() {
				for {
					conn, err := listener.Accept()
					if err != nil {
						return
					}
					wg.Go(func() { serve(conn) })
				}
			})
			transport := newTransport(1)
			c := &Client{API: "http://" + listener.Addr().String(), Profile: RoutingSkills, Transport: transport}
			_, err = c.SkillNames(t.Context())
			var e *Error
			if !errors.As(err, &e) || e.Status != 0 || e.Op != "skills" {
				t.Errorf("SkillNames: %v, want no answer", err)
			}
			transport.CloseIdleConnections()
			listener.Close()
			wg.Wait()
			if n := requests.Load(); n != 2 {
				t.Errorf("%d requests arrived, want a token and a list", n)
			}
		})
	}
}

func TestAGetHasNoBodyOnTheWire(t *testing.T) {
	o := newOrg(t, func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 || len(r.TransferEncoding) > 0 || r.Header.Get("Content-Length") != "" {
			t.Errorf("length %d, transfer encoding %v", r.ContentLength, r.TransferEncoding)
		}
		if got := r.Header.Get("Accept") + " " + r.Header.Get("Accept-Language"); got != "application/json en-US" {
			t.Errorf("accepts %s", got)
		}
		fmt.Fprint(w, `{"entities":[]}`)
	})
	if _, err := o.client().SkillNames(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestConnectionsAreUsedAgainAlsoAfterErrors(t *testing.T) {
	var connections sync.Map
	o := newOrg(t, func(w http.ResponseWriter, r *http.Request) {
		connections.Store(r.RemoteAddr, true)
		http.Error(w, strings.Repeat("x", 100_000), http.StatusServiceUnavailable)
	})
	c := o.client()
	for range 5 {
		if _, err := c.Patch(t.Context(), userID, anyPatch); err == nil {
			t.Fatal("no error")
		}
	}
	n := 0
	connections.Range(func(any, any) bool { n++; return true })
	if n != 1 {
		t.Errorf("%d connections for five patches in a row", n)
	}
}

func TestAnswersThatBreakOffAreErrors(t *testing.T) {
	for name, row := range map[string]struct {
		answer func(w http.ResponseWriter)
		cause  error
	}{
		"too large": {func(w http.ResponseWriter) { _, _ = io.Copy(w, io.LimitReader(zeros{}, maxAnswer+1)) }, nil},
		"cut short": {func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, `{"entities":`)
		}, io.ErrUnexpectedEOF},
		"half a document": {func(w http.ResponseWriter) { _, _ = io.WriteString(w, `{"entities":`) }, nil},
		"of another type": {func(w http.ResponseWriter) { _, _ = io.WriteString(w, `{"entities":7}`) }, nil},
		"a web page":      {func(w http.ResponseWriter) { _, _ = io.WriteString(w, `<html>Log in to the hotel</html>`) }, nil},
		"empty":           {func(http.ResponseWriter) {}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			o := newOrg(t, func(w http.ResponseWriter, _ *http.Request) { row.answer(w) })
			_, err := o.client().SkillNames(t.Context())
			var e *Error
			if !errors.As(err, &e) || e.Status != 200 || e.Err == nil || row.cause != nil && !errors.Is(err, row.cause) {
				t.Errorf("SkillNames: %v", err)
			}
			if strings.Contains(err.Error(), "hotel") {
				t.Errorf("%v quotes the answer", err)
			}
			checkSentinel(t, err, nil)
		})
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestAMissingServerIsATransportErrorWithoutQuery(t *testing.T) {
	c := &Client{API: "http://127.0.0.1:1", ClientSecret: "hush-hush", Profile: CustomAttributes, Limiter: &counter{}}
	_, err := c.Find(t.Context(), Person{EmployeeID: "EMP-8842"})
	var op *net.OpError
	if !errors.As(err, &op) {
		t.Fatalf("Find: %v, want a net.OpError inside", err)
	}
	for _, secret := range []string{"hush", "query", "oauth", "externalId"} {
		if strings.Contains(err.Error(), secret) {
			t.Errorf("%v has %q", err, secret)
		}
	}
	checkSentinel(t, err, nil)
}

func TestNoMoreRequestsAreOutThanAllowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out, most atomic.Int64
		c := offline(func(r *http.Request) (*http.Response, error) {
			most.Store(max(most.Load(), out.Add(1)))
			defer out.Add(-1)
			return answerLater(r, time.Second, reply(200, `{}`))
		})
		c.MaxInFlight = 3
		start := time.Now()
		each(9, func(int) {
			if _, err := c.Patch(t.Context(), userID, anyPatch); err != nil {
				t.Error(err)
			}
		})
		if took := time.Since(start); most.Load() != 3 || took != 3*time.Second {
			t.Errorf("%d at once, all in %v", most.Load(), took)
		}
	})
}

func TestSettingsThatCannotWorkAreSaid(t *testing.T) {
	for name, c := range map[string]*Client{
		"no URL":               {},
		"a URL without scheme": {API: "api.mypurecloud.de"},
		"a login URL of files": {API: "http://localhost", Login: "file:///x"},
		"an unknown profile":   {API: "http://localhost", Profile: "scim"},
		"an unknown operation": {API: "http://localhost", PatchOp: "remove"},
	} {
		t.Run(name, func(t *testing.T) {
			if p, err := c.Discover(t.Context()); err == nil {
				t.Errorf("Discover: %q", p)
			}
			if _, err := c.Patch(t.Context(), userID, anyPatch); err == nil {
				t.Error("Patch: no error")
			}
		})
	}
}

func TestExchangesSayWhatTheyWereFor(t *testing.T) {
	o := newOrg(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ININ-Correlation-Id", "abc")
		switch {
		case r.Method == http.MethodPatch:
		case r.URL.Path == "/api/v2/users":
			usersPage(w, nil, billing)
		case strings.Contains(r.URL.Path, "externalid"):
			fmt.Fprint(w, `{"id":"`+userID+`"}`)
		case strings.Contains(r.URL.Path, "schemas"):
			fmt.Fprintf(w, `{"Resources":[{"id":%q}]}`, extension)
		default:
			fmt.Fprint(w, `{"entities":[]}`)
		}
	})
	c := o.client()
	c.Profile, c.Authority = Auto, "hris"
	type caller struct{}
	ctx := context.WithValue(t.Context(), caller{}, "me")
	var ops, calls []string
	c.Observe = func(ctx context.Context, e Exchange) {
		o.observed.Add(1)
		ops = append(ops, e.Op)
		calls = append(calls, e.Method+" "+e.Route())
		if ctx.Value(caller{}) != "me" {
			t.Errorf("%s: not the caller's context", e.Op)
		}
		if time.Since(e.Began) < e.Took || "http://"+e.Host != c.API || e.Err != nil || len(e.Shared) > 0 {
			t.Errorf("%+v", e)
		}
		if e.Status != 200 || e.Took <= 0 || (e.CorrelationID == "abc") != (e.Op != "token") {
			t.Errorf("%+v", e)
		}
	}
	_, err1 := c.User(ctx, userID)
	_, err2 := c.Patch(ctx, userID, anyPatch)
	_, err3 := c.Find(ctx, Person{EmployeeID: "E1"})
	_, err4 := c.SkillNames(ctx)
	_, err5 := c.Limits(ctx, LimitsOfAPI)
	if err := errors.Join(err1, err2, err3, err4, err5); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"token", "schemas", "read_batch", "read", "patch", "find", "skills", "limits"}, ops); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	want := []string{
		"POST /oauth/token", "GET /api/v2/scim/v2/schemas", "GET /api/v2/users", "GET /api/v2/users/{id}/routingskills",
		"PATCH /api/v2/scim/v2/users/{id}", "GET /api/v2/users/externalid/{authority}/{key}", "GET /api/v2/routing/skills",
		"GET /api/v2/organizations/limits/namespaces/platform.api",
	}
	if diff := cmp.Diff(want, calls); diff != "" {
		t.Errorf("calls, -want +got:\n%s", diff)
	}
	slices.Sort(ops)
	if diff := cmp.Diff(slices.Sorted(slices.Values(Operations())), ops); diff != "" {
		t.Errorf("Operations, -want +got:\n%s", diff)
	}
}
