package genesys

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestTheProfileIsDiscovered(t *testing.T) {
	for name, row := range map[string]struct {
		status int
		body   string
		want   Profile
		is     error
	}{
		"the platform's schemas":  {200, `{"Resources":[{"id":"urn:ietf:params:scim:schemas:core:2.0:User"},{"id":"` + extension + `"}]}`, RoutingSkills, nil},
		"in another case":         {200, `{"Resources":[{"id":"` + strings.ToLower(extension) + `"}]}`, RoutingSkills, nil},
		"no such path":            {404, `{"code":"not.found"}`, CustomAttributes, nil},
		"schemas of another sort": {200, `{"Resources":[{"id":"urn:ietf:params:scim:schemas:core:2.0:User"}]}`, "", nil},
		"no schemas":              {200, `{}`, "", nil},
		"a web page":              {200, `<html>`, "", nil},
		"no permission":           {403, `{"code":"missing.permissions"}`, "", ErrForbidden},
		"refused token":           {401, ``, "", ErrUnauthorized},
		"a broken server":         {500, ``, "", nil},
		"a redirect":              {302, ``, "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			asked := 0
			o := newOrg(t, func(w http.ResponseWriter, r *http.Request) {
				if r.RequestURI != "/api/v2/scim/v2/schemas" || r.Method != http.MethodGet {
					t.Errorf("%s %s", r.Method, r.RequestURI)
				}
				asked++
				w.WriteHeader(row.status)
				fmt.Fprint(w, row.body)
			})
			c := o.client()
			c.Profile = ""
			first := 0
			for call := range 2 {
				got, err := c.Discover(t.Context())
				if got != row.want || (err == nil) != (row.want != "") {
					t.Errorf("Discover: %q, %v", got, err)
				}
				checkSentinel(t, err, row.is)
				if err != nil && !strings.Contains(err.Error(), "discover the profile") {
					t.Errorf("says %v", err)
				}
				if call == 0 {
					first = asked
				}
			}
			if again := asked > first; again != (row.want == "") {
				t.Errorf("asked again: %v", again)
			}
		})
	}
}

func TestASetProfileIsNotAskedFor(t *testing.T) {
	o := newOrg(t, func(http.ResponseWriter, *http.Request) { t.Error("asked") })
	for _, p := range []Profile{CustomAttributes, RoutingSkills} {
		c := o.client()
		c.Profile = p
		if got, err := c.Discover(t.Context()); got != p || err != nil {
			t.Errorf("Discover: %q, %v", got, err)
		}
	}
}

func TestOneDiscoveryServesAllWhoAsk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int64
		c := offline(func(r *http.Request) (*http.Response, error) {
			if r.URL.Path == "/api/v2/scim/v2/schemas" {
				asked.Add(1)
				return answerLater(r, time.Second, reply(200, `{"Resources":[{"id":"`+extension+`"}]}`))
			}
			return page100(r), nil
		})
		c.Profile = Auto
		ctx, cancel := context.WithTimeout(t.Context(), time.Second/2)
		defer cancel()
		each(20, func(i int) {
			if i == 0 { // perhaps the one who asks
				if _, err := c.User(ctx, idOf(i)); !errors.Is(err, context.DeadlineExceeded) {
					t.Error(err)
				}
			} else if _, err := c.User(t.Context(), idOf(i)); err != nil {
				t.Error(err)
			}
		})
		if n := asked.Load(); n > 2 {
			t.Errorf("asked %d times", n)
		}
	})
}
