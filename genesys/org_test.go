package genesys

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/time/rate"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var _ Limiter = (*rate.Limiter)(nil)

const userID = "3f2504e0-4f89-41d3-9a0c-0305e82c3301"

// idOf returns the n-th of many user ids.
func idOf(n int) string { return fmt.Sprintf("3f2504e0-4f89-41d3-9a0c-%012d", n) }

// An org is one organization as a server. It hands out tokens; the rest is the test's. At the
// end of the test it checks that each request paid one grant and was observed once.
type org struct {
	*httptest.Server
	requests atomic.Int64
	tokens   atomic.Int64
	grants   counter
	observed atomic.Int64
}

func newOrg(t *testing.T, api http.HandlerFunc) *org {
	t.Helper()
	o := &org{}
	o.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		o.requests.Add(1)
		if r.URL.Path == "/oauth/token" {
			fmt.Fprintf(w, `{"access_token":"token-%d","token_type":"bearer","expires_in":86400}`, o.tokens.Add(1))
			return
		}
		api(w, r)
	}))
	t.Cleanup(func() {
		o.Close()
		if r, g, s := o.requests.Load(), o.grants.n.Load(), o.observed.Load(); r != g || r != s {
			t.Errorf("%d requests, %d grants, %d observed", r, g, s)
		}
	})
	return o
}

// client returns a Client of o in the routing-skills profile.
func (o *org) client() *Client {
	return &Client{
		API: o.URL, ClientID: "id", ClientSecret: "hush", Profile: RoutingSkills,
		Limiter: &o.grants,
		Observe: func(context.Context, Exchange) { o.observed.Add(1) },
	}
}

// A counter is a limiter that grants at once and counts.
type counter struct{ n atomic.Int64 }

func (c *counter) Wait(ctx context.Context) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	c.n.Add(1)
	return nil
}

// A roundTrips plays the server without a socket, for tests in virtual time.
type roundTrips func(*http.Request) (*http.Response, error)

func (f roundTrips) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// offline returns a Client whose requests go to serve; tokens, which live for a day, are had
// without asking it.
func offline(serve roundTrips) *Client {
	return &Client{
		API: "http://org.test", ClientID: "id", ClientSecret: "hush", Profile: RoutingSkills,
		Transport: roundTrips(func(r *http.Request) (*http.Response, error) {
			if r.URL.Path == "/oauth/token" {
				return reply(200, `{"access_token":"t","token_type":"bearer","expires_in":86400}`), nil
			}
			return serve(r)
		}),
	}
}

// reply makes an answer. Headers are given as "Name: value".
func reply(status int, body string, headers ...string) *http.Response {
	h := http.Header{"Content-Type": {"application/json"}}
	for _, line := range headers {
		name, value, _ := strings.Cut(line, ": ")
		h.Set(name, value)
	}
	return &http.Response{StatusCode: status, Header: h, Body: io.NopCloser(strings.NewReader(body))}
}

// answerLater answers after d, unless the request ends before.
func answerLater(r *http.Request, d time.Duration, res *http.Response) (*http.Response, error) {
	select {
	case <-time.After(d):
		return res, nil
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
}

// body returns a request's body.
func body(t *testing.T, r *http.Request) string {
	t.Helper()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

// usersPage answers a batch: each id has one skill, except where skills says otherwise.
func usersPage(w http.ResponseWriter, ids []string, skills func(id string) any) {
	type user struct {
		ID      string `json:"id"`
		Version int    `json:"version"`
		Skills  any    `json:"skills,omitempty"`
	}
	var users []user
	for _, id := range ids {
		users = append(users, user{id, 7, skills(id)})
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"entities": users, "pageCount": 1})
}

// billing is the skill list that most users of these tests have.
func billing(string) any {
	return []map[string]any{{"id": "s1", "name": "Billing", "proficiency": 4.0, "state": "active"}}
}

// each runs f n times at once and waits.
func each(n int, f func(i int)) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { f(i) })
	}
	wg.Wait()
}
