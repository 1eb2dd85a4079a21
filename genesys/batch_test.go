package genesys

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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

var someSkills = []Skill{{Name: "Billing", Proficiency: 4}}

// page100 answers a batch as usersPage does, without a socket.
func page100(r *http.Request) *http.Response {
	var users []string
	for _, id := range r.URL.Query()["id"] {
		users = append(users, fmt.Sprintf(`{"id":%q,"version":7,"skills":[{"name":"Billing","proficiency":4}]}`, id))
	}
	return reply(200, `{"entities":[`+strings.Join(users, ",")+`]}`)
}

func TestCallersWhoWaitShareARequest(t *testing.T) {
	for name, row := range map[string]struct {
		users, callers int // callers of each user
		sizes          []int
	}{
		"one":                      {1, 1, []int{1}},
		"two who ask for the same": {1, 2, []int{1}},
		"a full batch":             {100, 3, []int{100}},
		"one more":                 {101, 1, []int{1, 100}},
		"many":                     {250, 1, []int{50, 100, 100}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { shareRequests(t, row.users, row.callers, row.sizes) })
		})
	}
}

// shareRequests has callers ask while no grant is to be had, and then checks what was sent.
func shareRequests(t *testing.T, users, callers int, want []int) {
	grant := make(chan struct{})
	var mu sync.Mutex
	var sizes []int
	c := offline(func(r *http.Request) (*http.Response, error) {
		q := r.URL.Query()
		if got := q.Get("expand") + q.Get("state") + q.Get("pageSize") + r.URL.Path; got != "skillsany100/api/v2/users" {
			t.Errorf("asked for %s", r.URL)
		}
		mu.Lock()
		defer mu.Unlock()
		sizes = append(sizes, len(q["id"]))
		return page100(r), nil
	})
	c.Limiter = limiterFunc(func(context.Context) error { <-grant; return nil })
	var wg sync.WaitGroup
	for i := range users * callers {
		wg.Go(func() {
			id := idOf(i % users)
			u, err := c.User(t.Context(), id)
			if diff := cmp.Diff(User{ID: id, Version: "7", Skills: someSkills}, u); diff != "" || err != nil {
				t.Errorf("%v, -want +got:\n%s", err, diff)
			}
		})
	}
	synctest.Wait() // all have joined
	close(grant)
	wg.Wait()
	slices.Sort(sizes)
	if diff := cmp.Diff(want, sizes); diff != "" {
		t.Errorf("sizes of batches, -want +got:\n%s", diff)
	}
}

func TestABatchTellsWhoSharesIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		grant := make(chan struct{})
		c := offline(func(r *http.Request) (*http.Response, error) { return page100(r), nil })
		c.Limiter = limiterFunc(func(context.Context) error { <-grant; return nil })
		type caller struct{}
		var exchanges [][]any
		c.Observe = func(ctx context.Context, e Exchange) {
			callers := []any{ctx.Value(caller{})}
			for _, other := range e.Shared {
				callers = append(callers, other.Value(caller{}))
			}
			exchanges = append(exchanges, callers)
		}
		var wg sync.WaitGroup
		for i := range 3 {
			wg.Go(func() {
				if _, err := c.User(context.WithValue(t.Context(), caller{}, i), idOf(i%2)); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait() // it has joined
		}
		close(grant)
		wg.Wait()
		if diff := cmp.Diff([][]any{{0}, {0, 1, 2}}, exchanges); diff != "" {
			t.Errorf("callers of the requests for a token and for the users, -want +got:\n%s", diff)
		}
	})
}

func TestABatchTakesCallersUntilItsGrant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sizes []int
		c := offline(func(r *http.Request) (*http.Response, error) {
			sizes = append(sizes, len(r.URL.Query()["id"]))
			return answerLater(r, 10*time.Millisecond, page100(r))
		})
		c.Limiter = slowLimiter(975 * time.Millisecond)
		var wg sync.WaitGroup
		for i := range 30 { // one joins each 100 ms; the token takes the first grant
			wg.Go(func() {
				time.Sleep(time.Duration(i)*100*time.Millisecond + time.Millisecond)
				if _, err := c.User(t.Context(), idOf(i)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if diff := cmp.Diff([]int{20, 10}, sizes); diff != "" {
			t.Errorf("sizes of batches, -want +got:\n%s", diff)
		}
	})
}

func TestWithoutALimitCallersGatherWhileABatchIsOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sizes []int
		c := offline(func(r *http.Request) (*http.Response, error) {
			if r.URL.Path == "/api/v2/users" {
				sizes = append(sizes, len(r.URL.Query()["id"]))
				return answerLater(r, 1030*time.Millisecond, page100(r)) // never just when one joins
			}
			return page100(r), nil
		})
		each(30, func(i int) { // one joins each 100 ms
			time.Sleep(time.Duration(i)*100*time.Millisecond + time.Millisecond)
			if _, err := c.User(t.Context(), idOf(i)); err != nil {
				t.Error(err)
			}
		})
		if diff := cmp.Diff([]int{1, 10, 10, 9}, sizes); diff != "" {
			t.Errorf("sizes of batches, -want +got:\n%s", diff)
		}
	})
}

func TestAFullBatchWaitsForNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 500
		var requests atomic.Int64
		c := offline(func(r *http.Request) (*http.Response, error) {
			requests.Add(1)
			return answerLater(r, time.Second, page100(r))
		})
		start := time.Now()
		each(n, func(i int) {
			if _, err := c.User(t.Context(), idOf(i)); err != nil {
				t.Error(err)
			}
		})
		// The first batch may leave with fewer, and then the last one waits for it.
		if took := time.Since(start); requests.Load() > n/maxBatch+1 || took > 2*time.Second {
			t.Errorf("%d requests in %s", requests.Load(), took)
		}
	})
}

func TestAloneACallerDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := offline(func(r *http.Request) (*http.Response, error) { return page100(r), nil })
		start := time.Now()
		if _, err := c.User(t.Context(), userID); err != nil || time.Since(start) != 0 {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

func TestWhatABatchLeavesOpenIsReadSingly(t *testing.T) {
	two := `[{"name":"Billing","proficiency":4.0,"state":"active"},{"name":"Old","proficiency":1,"state":"deleted"},{"name":"Sales","proficiency":2.5,"state":"inactive"}]`
	many := func(n int) string {
		var all []string
		for i := range n {
			all = append(all, fmt.Sprintf(`{"name":"S%02d","proficiency":1}`, i))
		}
		return "[" + strings.Join(all, ",") + "]"
	}
	skills := []Skill{{Name: "Billing", Proficiency: 4}, {Name: "Sales", Proficiency: 2.5}}
	alone := []Skill{{Name: "Alone", Proficiency: 3}}
	for name, row := range map[string]struct {
		listed string
		want   User
		single bool
	}{
		"listed with skills":                {`{"id":"ID","version":7,"skills":` + two + `}`, User{Version: "7", Skills: skills}, false},
		"listed in another case":            {`{"id":"` + strings.ToUpper(userID) + `","version":7,"skills":` + two + `}`, User{Version: "7", Skills: skills}, false},
		"listed without a version":          {`{"id":"ID","skills":` + two + `}`, User{Skills: skills}, false},
		"listed with a version in quotes":   {`{"id":"ID","version":"7","skills":` + two + `}`, User{Version: "7", Skills: skills}, false},
		"all skills deleted":                {`{"id":"ID","version":7,"skills":[{"name":"Old","state":"deleted"}]}`, User{Version: "7"}, false},
		"more skills than a page":           {`{"id":"ID","version":7,"skills":` + many(26) + `}`, User{Version: "7"}, false},
		"not listed":                        {`{"id":"` + idOf(1) + `","version":9,"skills":` + two + `}`, User{Skills: alone}, true},
		"nobody listed":                     {``, User{Skills: alone}, true},
		"listed without skills":             {`{"id":"ID","version":7}`, User{Version: "7", Skills: alone}, true},
		"listed with no skills":             {`{"id":"ID","version":7,"skills":[]}`, User{Version: "7", Skills: alone}, true},
		"listed with null":                  {`{"id":"ID","version":7,"skills":null}`, User{Version: "7", Skills: alone}, true},
		"listed with just a page of skills": {`{"id":"ID","version":7,"skills":` + many(25) + `}`, User{Version: "7", Skills: alone}, true},
	} {
		t.Run(name, func(t *testing.T) {
			single := false
			o := newOrg(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/api/v2/users" {
					fmt.Fprintf(w, `{"entities":[%s]}`, strings.ReplaceAll(row.listed, "ID", userID))
					return
				}
				single = true
				if want := "/api/v2/users/" + userID + "/routingskills?pageNumber=1&pageSize=50"; r.RequestURI != want {
					t.Errorf("asked for %s, want %s", r.RequestURI, want)
				}
				fmt.Fprint(w, `{"entities":[{"name":"Alone","proficiency":3.0}],"pageCount":1}`)
			})
			got, err := o.client().User(t.Context(), userID)
			row.want.ID = userID
			if strings.HasPrefix(name, "more") {
				if len(got.Skills) != 26 {
					t.Errorf("%d skills", len(got.Skills))
				}
				got.Skills = nil
			}
			if diff := cmp.Diff(row.want, got); diff != "" || err != nil {
				t.Errorf("%v, -want +got:\n%s", err, diff)
			}
			if single != row.single {
				t.Errorf("read singly: %v", single)
			}
		})
	}
}

func TestAUserWhoDoesNotExistIsNotFound(t *testing.T) {
	o := newOrg(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/api/v2/users" {
			fmt.Fprint(w, `{"entities":[]}`)
			return
		}
		w.WriteHeader(http.StatusNotFound)
	})
	_, err := o.client().User(t.Context(), userID)
	checkSentinel(t, err, ErrUserNotFound)
}

func TestAnErrorOfABatchIsEveryCallers(t *testing.T) {
	for name, row := range map[string]struct {
		answer func() *http.Response
		single bool
	}{
		"500":             {func() *http.Response { return reply(500, `{}`) }, false},
		"403":             {func() *http.Response { return reply(403, `{"code":"missing.permissions"}`) }, false},
		"half a document": {func() *http.Response { return reply(200, `{"entities":[`) }, false},
		// One user can be to blame for these, and the others must not pay for it.
		"400":               {func() *http.Response { return reply(400, `{}`) }, true},
		"404":               {func() *http.Response { return reply(404, `{}`) }, true},
		"403 in a division": {func() *http.Response { return reply(403, `{"code":"missing.division.permission"}`) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var batches, singles atomic.Int64
				c := offline(func(r *http.Request) (*http.Response, error) {
					if r.URL.Path != "/api/v2/users" {
						singles.Add(1)
						if strings.Contains(r.URL.Path, idOf(3)) {
							return reply(404, ``), nil
						}
						return reply(200, `{"entities":[{"name":"Billing","proficiency":4}]}`), nil
					}
					batches.Add(1)
					return row.answer(), nil
				})
				c.Limiter = slowLimiter(time.Second)
				each(10, func(i int) {
					u, err := c.User(t.Context(), idOf(i))
					switch {
					case !row.single:
						if e, ok := errors.AsType[*Error](err); !ok || e.Op != "read_batch" {
							t.Errorf("User: %v", err)
						}
					case i == 3:
						checkSentinel(t, err, ErrUserNotFound)
					case err != nil || !cmp.Equal(u.Skills, someSkills):
						t.Errorf("User: %v, %v", u, err)
					}
				})
				if b, s := batches.Load(), singles.Load(); b != 1 || (s == 10) != row.single {
					t.Errorf("%d batches, %d single reads", b, s)
				}
			})
		})
	}
}

func TestACallerWhoLeavesABatchDisturbsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked []string
		c := offline(func(r *http.Request) (*http.Response, error) {
			asked = r.URL.Query()["id"]
			return answerLater(r, time.Second, page100(r))
		})
		c.Limiter = slowLimiter(time.Second) // token at 1 s, batch sealed at 2 s and answered at 3 s
		leaves := map[int]time.Duration{0: 500 * time.Millisecond, 1: 1500 * time.Millisecond, 2: 2500 * time.Millisecond}
		start := time.Now()
		each(5, func(i int) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			if d, ok := leaves[i]; ok {
				ctx, cancel = context.WithTimeout(t.Context(), d)
			}
			defer cancel()
			_, err := c.User(ctx, idOf(i))
			if d, ok := leaves[i]; ok {
				if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != d {
					t.Errorf("caller %d: %v after %v", i, err, time.Since(start))
				}
			} else if err != nil || time.Since(start) != 3*time.Second {
				t.Errorf("caller %d: %v after %v", i, err, time.Since(start))
			}
		})
		if diff := cmp.Diff([]string{idOf(2), idOf(3), idOf(4)}, asked); diff != "" {
			t.Errorf("asked for, -want +got:\n%s", diff)
		}
	})
}

func TestABatchThatEverybodyLeftIsNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var grants atomic.Int64
		c := offline(func(r *http.Request) (*http.Response, error) { return page100(r), nil })
		c.Limiter = limiterFunc(func(ctx context.Context) error {
			err := slowLimiter(time.Second).Wait(ctx)
			if err == nil {
				grants.Add(1)
			}
			return err
		})
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer cancel()
		each(10, func(i int) {
			if _, err := c.User(ctx, idOf(i)); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("User: %v", err)
			}
		})
		if n := grants.Load(); n != 1 {
			t.Errorf("%d grants, want one for the token", n)
		}
		// The next caller finds no trace of it.
		if u, err := c.User(t.Context(), idOf(1)); err != nil || u.Version != "7" {
			t.Errorf("User: %v, %v", u, err)
		}
	})
}

func TestABatchRefusedForItsTokenAsksForTheSameUsersAgain(t *testing.T) {
	var asked []string
	o := newOrg(t, func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.RawQuery)
		if r.Header.Get("Authorization") == "Bearer token-1" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		usersPage(w, r.URL.Query()["id"], billing)
	})
	if _, err := o.client().User(t.Context(), userID); err != nil {
		t.Fatal(err)
	}
	if len(asked) != 2 || asked[0] != asked[1] {
		t.Errorf("asked %q", asked)
	}
}

func TestAUserOfTheCustomAttributesProfile(t *testing.T) {
	const path = "/api/v2/users/" + userID + "/routing/skills"
	item := func(name, level string) string {
		return fmt.Sprintf(`{"skill":{"name":%q},"proficiencyLevel":{"name":%q}}`, name, level)
	}
	for name, row := range map[string]struct {
		pages map[string]string // by request
		want  []Skill
	}{
		"levels that are numbers": {
			map[string]string{path: `{"entities":[` + item("A", "4") + `,` + item("B", "4.0") + `,` + item("C", " 3.5 ") + `]}`},
			[]Skill{{Name: "A", Proficiency: 4}, {Name: "B", Proficiency: 4}, {Name: "C", Proficiency: 3.5}},
		},
		"levels that are words": {
			map[string]string{path: `{"entities":[` + item("A", "Expert") + `,` + item("B", "Infinity") + `,` + item("C", "0x1p4") + `]}`},
			[]Skill{{Name: "A", Level: "Expert"}, {Name: "B", Level: "Infinity"}, {Name: "C", Level: "0x1p4"}},
		},
		"no level, a number, a deleted one": {
			map[string]string{path: `{"entities":[{"skill":{"name":"A"}},{"skill":{"name":"B"},"proficiency":2},{"skill":{"name":"C"},"state":"deleted"}]}`},
			[]Skill{{Name: "A"}, {Name: "B", Proficiency: 2}},
		},
		"none": {map[string]string{path: `{"entities":[]}`}, nil},
		"pages that are counted": {
			map[string]string{
				path:                   `{"entities":[` + item("A", "1") + `],"pageCount":3}`,
				path + "?pageNumber=2": `{"entities":[],"pageCount":3}`,
				path + "?pageNumber=3": `{"entities":[` + item("B", "2") + `],"pageCount":3,"nextUri":"` + path + `?cursor=never"}`,
			},
			[]Skill{{Name: "A", Proficiency: 1}, {Name: "B", Proficiency: 2}},
		},
		"pages that are linked": {
			map[string]string{
				path:                   `{"entities":[` + item("A", "1") + `],"nextUri":"` + path + `?cursor=x%2Fy"}`,
				path + "?cursor=x%2Fy": `{"entities":[` + item("B", "2") + `],"nextUri":"HOST` + path + `?cursor=z"}`,
				path + "?cursor=z":     `{"entities":[` + item("C", "3") + `]}`,
			},
			[]Skill{{Name: "A", Proficiency: 1}, {Name: "B", Proficiency: 2}, {Name: "C", Proficiency: 3}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var o *org
			o = newOrg(t, func(w http.ResponseWriter, r *http.Request) {
				page, ok := row.pages[r.RequestURI]
				if !ok {
					t.Errorf("asked for %s", r.RequestURI)
				}
				_, _ = io.WriteString(w, strings.ReplaceAll(page, "HOST", o.URL))
			})
			c := o.client()
			c.Profile = CustomAttributes
			got, err := c.User(t.Context(), userID)
			if diff := cmp.Diff(User{ID: userID, Skills: row.want}, got); diff != "" || err != nil {
				t.Errorf("%v, -want +got:\n%s", err, diff)
			}
			if n := o.requests.Load(); n != int64(len(row.pages)+1) {
				t.Errorf("%d requests", n)
			}
		})
	}
}

func TestAListThatLeadsAstrayIsAnError(t *testing.T) {
	for name, page := range map[string]string{
		"to another host":   `{"nextUri":"https://evil.example/api/v2/users"}`,
		"to another scheme": `{"nextUri":"file:///etc/passwd"}`,
		"to no URL":         `{"nextUri":"http://[::1"}`,
		"round in a circle": `{"nextUri":"/api/v2/users/` + userID + `/routing/skills"}`,
		"on for ever":       `{"pageCount":2000000000}`,
	} {
		t.Run(name, func(t *testing.T) {
			o := newOrg(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, page) })
			c := o.client()
			c.Profile = CustomAttributes
			_, err := c.User(t.Context(), userID)
			if err == nil || strings.Contains(err.Error(), "evil") {
				t.Errorf("User: %v", err)
			}
			if n := o.requests.Load(); n > maxPages+1 {
				t.Errorf("%d requests", n)
			}
		})
	}
}

func FuzzUsersPage(f *testing.F) {
	f.Add([]byte(`{"entities":[{"id":"x","version":7,"skills":[{"name":"A","proficiency":4.0,"state":"active"}]}]}`))
	f.Add([]byte(`{"entities":[{"id":"x","version":"7","skills":null},null,{}]}`))
	f.Add([]byte(`{"entities":{}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		users, err := decodeUsers(answer{op: opReadBatch, status: 200, body: body})
		if err == nil && !json.Valid(body) {
			t.Errorf("accepted %q", body)
		}
		for _, u := range users {
			for _, s := range assigned(u.Skills, entity.leveled) {
				if s.Level != "" && isNumber(s.Level) {
					t.Errorf("level %q is a number", s.Level)
				}
			}
		}
	})
}
