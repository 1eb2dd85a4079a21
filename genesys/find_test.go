package genesys

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFindByExternalID(t *testing.T) {
	for name, row := range map[string]struct{ authority, key, path string }{
		"plain":                 {"hris", "EMP-8842", "/hris/EMP-8842"},
		"with a slash":          {"a/b", "x/y", "/a%2Fb/x%2Fy"},
		"with an umlaut":        {"ä", "ö", "/%C3%A4/%C3%B6"},
		"with a percent":        {"50%", "%2F", "/50%25/%252F"},
		"with a question":       {"who?", "me?#", "/who%3F/me%3F%23"},
		"with spaces":           {"our hr", " 1 ", "/our%20hr/%201%20"},
		"that are steps":        {"..", ".", "/%2E%2E/%2E"},
		"that looks like a URL": {"https://hr.example", "1;2=3", "/https:%2F%2Fhr.example/1%3B2=3"},
	} {
		t.Run(name, func(t *testing.T) {
			o := newOrg(t, func(w http.ResponseWriter, r *http.Request) {
				if want := "/api/v2/users/externalid" + row.path; r.RequestURI != want {
					t.Errorf("asked for %s, want %s", r.RequestURI, want)
				}
				fmt.Fprintf(w, `{"id":%q}`, userID)
			})
			c := o.client()
			c.Authority = row.authority
			if id, err := c.Find(t.Context(), Person{EmployeeID: row.key}); id != userID || err != nil {
				t.Errorf("Find: %q, %v", id, err)
			}
		})
	}
}

func TestFindInTheRoutingSkillsProfile(t *testing.T) {
	const other = "00000000-0000-0000-0000-000000000002"
	user := func(id, email string) match { return match{ID: id, Email: email} }
	for name, row := range map[string]struct {
		authority string
		person    Person
		lookup    int // status of the lookup by external id
		found     []match
		want      string
		is        error
		asked     string
	}{
		"by external id":                       {"hris", Person{"E1", "a@b.c"}, 200, nil, userID, nil, "GET"},
		"by e-mail where there is no such id":  {"hris", Person{"E1", "a@b.c"}, 404, []match{user(other, "A@b.C")}, other, nil, "GET POST"},
		"by e-mail without an authority":       {"", Person{"E1", "a@b.c"}, 0, []match{user(other, "a@b.c")}, other, nil, "POST"},
		"by e-mail without an employee id":     {"hris", Person{"", "a@b.c"}, 0, []match{user(other, "a@b.c")}, other, nil, "POST"},
		"nobody has the id, and no e-mail":     {"hris", Person{"E1", ""}, 404, nil, "", ErrUserNotFound, "GET"},
		"nobody has either":                    {"hris", Person{"E1", "a@b.c"}, 404, nil, "", ErrUserNotFound, "GET POST"},
		"a lookup that fails is not a no":      {"hris", Person{"E1", "a@b.c"}, 403, nil, "", ErrForbidden, "GET"},
		"similar addresses are not the same":   {"", Person{"", "a@b.c"}, 0, []match{user(other, "aa@b.c"), user(userID, "")}, "", ErrUserNotFound, "POST"},
		"two users with the address":           {"", Person{"", "a@b.c"}, 0, []match{user(other, "a@b.c"), user(userID, "a@b.c")}, "", ErrAmbiguous, "POST"},
		"the same user twice":                  {"", Person{"", "a@b.c"}, 0, []match{user(other, "a@b.c"), user(other, "a@b.c")}, other, nil, "POST"},
		"nothing to look by":                   {"hris", Person{}, 0, nil, "", ErrNoLookup, ""},
		"an employee id without its authority": {"", Person{"E1", ""}, 0, nil, "", ErrNoLookup, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var asked []string
			o := newOrg(t, func(w http.ResponseWriter, r *http.Request) {
				asked = append(asked, r.Method)
				if r.Method == http.MethodGet {
					w.WriteHeader(row.lookup)
					fmt.Fprintf(w, `{"id":%q}`, userID)
					return
				}
				const want = `{"pageSize":25,"query":[{"fields":["email"],"value":"a@b.c","type":"EXACT"}]}`
				if diff := cmp.Diff(want, body(t, r)); diff != "" || r.RequestURI != "/api/v2/users/search" {
					t.Errorf("%s, -want +got:\n%s", r.RequestURI, diff)
				}
				_ = json.NewEncoder(w).Encode(map[string]any{"results": row.found, "total": len(row.found)})
			})
			c := o.client()
			c.Authority = row.authority
			id, err := c.Find(t.Context(), row.person)
			if id != row.want || (err == nil) != (row.is == nil) {
				t.Errorf("Find: %q, %v", id, err)
			}
			checkSentinel(t, err, row.is)
			if got := strings.Join(asked, " "); got != row.asked {
				t.Errorf("asked %q, want %q", got, row.asked)
			}
			if row.is == ErrNoLookup && !strings.Contains(err.Error(), "GENESYS_EXTERNAL_ID_AUTHORITY") {
				t.Errorf("%v does not say what to set", err)
			}
		})
	}
}

func TestFindInTheCustomAttributesProfile(t *testing.T) {
	const other = "00000000-0000-0000-0000-000000000002"
	for name, row := range map[string]struct {
		id, query, answer, want string
		is                      error
	}{
		"one in results":      {"EMP-8842", "externalId%3A%22EMP-8842%22", `{"results":[{"id":"` + userID + `"}]}`, userID, nil},
		"one in entities":     {"EMP-8842", "externalId%3A%22EMP-8842%22", `{"entities":[{"id":"` + userID + `"}]}`, userID, nil},
		"the same twice":      {"E", "externalId%3A%22E%22", `{"results":[{"id":"` + userID + `"},{"id":"` + strings.ToUpper(userID) + `"}]}`, userID, nil},
		"strange letters":     {"a/b ä&?%", "externalId%3A%22a%2Fb+%C3%A4%26%3F%25%22", `{"results":[{"id":"` + userID + `"}]}`, userID, nil},
		"none":                {"E", "externalId%3A%22E%22", `{"results":[]}`, "", ErrUserNotFound},
		"none, said bare":     {"E", "externalId%3A%22E%22", `{}`, "", ErrUserNotFound},
		"a result without id": {"E", "externalId%3A%22E%22", `{"results":[{}]}`, "", ErrUserNotFound},
		"two":                 {"E", "externalId%3A%22E%22", `{"results":[{"id":"` + userID + `"},{"id":"` + other + `"}]}`, "", ErrAmbiguous},
		"a quote":             {`E" OR "`, "", ``, "", ErrBadRequest},
		"a backslash":         {`E\`, "", ``, "", ErrBadRequest},
		"no id":               {"", "", ``, "", ErrNoLookup},
	} {
		t.Run(name, func(t *testing.T) {
			asked := ""
			o := newOrg(t, func(w http.ResponseWriter, r *http.Request) {
				asked = r.RequestURI
				fmt.Fprint(w, row.answer)
			})
			c := o.client()
			c.Profile = CustomAttributes
			id, err := c.Find(t.Context(), Person{EmployeeID: row.id, Email: "a@b.c"})
			if id != row.want || (err == nil) != (row.is == nil) {
				t.Errorf("Find: %q, %v", id, err)
			}
			checkSentinel(t, err, row.is)
			if row.query != "" && asked != "/api/v2/users/search?query="+row.query || row.query == "" && asked != "" {
				t.Errorf("asked %s", asked)
			}
		})
	}
}

func TestAnAddressIsNotInErrors(t *testing.T) {
	o := newOrg(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusInternalServerError)
		fmt.Fprint(w, `{"message":"cannot search for anna@example.com"}`)
	})
	_, err := o.client().Find(t.Context(), Person{Email: "anna@example.com"})
	if err == nil || strings.Contains(err.Error(), "anna") {
		t.Errorf("Find: %v", err)
	}
}
