package sandbox

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func stateOrg() Config {
	return Config{Users: []User{
		{ID: "a", ExternalID: "E1", Name: "Ann", Skills: []Skill{{"Sales", 2}}},
		{ID: "i", ExternalID: "E2", Name: "Ivy", State: "inactive"},
		{ID: "d", ExternalID: "E3", Name: "Dee", State: "deleted"},
	}}
}

func ids(t *testing.T, r reply, key string) string {
	t.Helper()
	r.want(t, 200, "")
	var out []string
	for _, e := range r.get(t, key).([]any) {
		out = append(out, e.(map[string]any)["id"].(string))
	}
	return strings.Join(out, ",")
}

func TestABatchReadListsTheUsersThatFit(t *testing.T) {
	g := visit(t, stateOrg())
	tests := []struct{ name, query, want string }{
		{"active ones by default", "id=a&id=i&id=d", "a"},
		{"inactive ones", "id=a&id=i&id=d&state=inactive", "i"},
		{"all", "id=a&id=i&id=d&state=any", "a,i,d"},
		{"in the order asked for", "id=i&id=a&state=any", "i,a"},
		{"each once", "id=a&id=a", "a"},
		{"unknown ones are left out", "id=x&id=a", "a"},
		{"none", "id=x", ""},
		{"without ids everybody", "state=any", "a,i,d"},
		{"the second page", "state=any&pageSize=2&pageNumber=2", "d"},
		{"behind the last page", "state=any&pageSize=2&pageNumber=9223372036854775807", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := ids(t, g.get("/api/v2/users?"+tt.query), "entities"); got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
		})
	}
}

func TestSkillsComeOnlyWhenExpanded(t *testing.T) {
	g := visit(t, stateOrg())
	tests := []struct{ name, path, want string }{
		{"batch, not expanded", "/api/v2/users?id=a", ""},
		{"batch", "/api/v2/users?id=a&expand=skills", `"skills":[{"id"`},
		{"batch, several expands", "/api/v2/users?id=a&expand=groups,skills", `"skills":[{"id"`},
		{"no skills are an empty list", "/api/v2/users?id=i&expand=skills&state=any", `"skills":[]`},
		{"single", "/api/v2/users/a", ""},
		{"single, expanded", "/api/v2/users/a?expand=skills", `"skills":[{"id"`},
		{"by external id", "/api/v2/users/externalid/hris/E1?expand=skills", `"skills":[{"id"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := g.get(tt.path)
			r.want(t, 200, "")
			if has := strings.Contains(r.body, `"skills"`); has != (tt.want != "") || !strings.Contains(r.body, tt.want) {
				t.Errorf("%s", r.body)
			}
		})
	}
}

func TestABatchReadIsBounded(t *testing.T) {
	g := visit(t, Org(120))
	query := func(n int) string {
		q := url.Values{"expand": {"skills"}}
		for i := range n {
			q.Add("id", UserID(fmt.Sprintf("EMP-%04d", i+1)))
		}
		return "/api/v2/users?" + q.Encode()
	}
	g.get(query(101)).want(t, 400, "max.user.ids")
	full := g.get(query(100) + "&pageSize=100")
	if n := len(full.get(t, "entities").([]any)); n != 100 || full.get(t, "total") != 100.0 || full.get(t, "nextUri") != nil {
		t.Errorf("%d users, total %v, next %v", n, full.get(t, "total"), full.get(t, "nextUri"))
	}
	short := g.get(query(100)) // the default page size counts
	if n := len(short.get(t, "entities").([]any)); n != 25 || short.get(t, "pageCount") != 4.0 {
		t.Errorf("%d users without a page size, %v pages", n, short.get(t, "pageCount"))
	}
	for _, bad := range []string{"pageSize=0", "pageSize=501", "pageSize=x", "pageNumber=0", "state=gone"} {
		g.get("/api/v2/users?"+bad).want(t, 400, "invalid.value")
	}
}

func TestSkillsOfAUserArePaged(t *testing.T) {
	cfg := Config{Users: []User{{ID: "a"}}}
	for i := range 30 {
		cfg.Users[0].Skills = append(cfg.Users[0].Skills, Skill{fmt.Sprintf("S%02d", i), 4})
	}
	g := visit(t, cfg)
	const path = "/api/v2/users/a/routingskills"
	first := g.get(path)
	if len(first.get(t, "entities").([]any)) != 25 || first.get(t, "pageCount") != 2.0 || first.get(t, "total") != 30.0 || first.get(t, "pageNumber") != 1.0 {
		t.Fatalf("%s", first.body)
	}
	if !strings.Contains(first.body, `"name":"S00","proficiency":4.0,"state":"active"`) {
		t.Errorf("no float proficiency: %s", first.body)
	}
	next := first.get(t, "nextUri").(string)
	if next != path+"?pageSize=25&pageNumber=2" {
		t.Errorf("next %s", next)
	}
	second := g.get(next)
	if len(second.get(t, "entities").([]any)) != 5 || second.get(t, "nextUri") != nil || second.get(t, "previousUri") == nil {
		t.Errorf("%s", second.body)
	}
	g.get("/api/v2/users/x/routingskills").want(t, 404, "general.resource.not.found")
}

func TestSkillsOfTheOrganisationArePagedAndSorted(t *testing.T) {
	g := visit(t, Config{
		Skills: []string{"Sales", "Billing", "Sales"}, Users: []User{{ID: "a", Skills: []Skill{{"Spanish", 1}}}},
		Rules: []Rule{{"a", "b", "Assigned", 1}},
	})
	var names []string
	for path := "/api/v2/routing/skills?pageSize=3"; path != ""; {
		r := g.get(path)
		r.want(t, 200, "")
		for _, e := range r.get(t, "entities").([]any) {
			names = append(names, e.(map[string]any)["name"].(string))
		}
		path, _ = r.get(t, "nextUri").(string)
	}
	if got := strings.Join(names, ","); got != "Assigned,Billing,Sales,Spanish" {
		t.Errorf("%s", got)
	}
	if r := g.get("/api/v2/routing/skills"); r.get(t, "entities", 0, "state") != "active" || r.get(t, "entities", 0, "id") == "" {
		t.Errorf("%s", r.body)
	}
}

func TestAUserIsFoundByExternalID(t *testing.T) {
	g := visit(t, Config{Authority: "https://hr/x", Users: []User{{ID: "a", ExternalID: "E/1 ä"}, {ID: "d", ExternalID: "E3", State: "deleted"}}})
	at := func(authority, key string) string {
		return "/api/v2/users/externalid/" + url.PathEscape(authority) + "/" + url.PathEscape(key)
	}
	r := g.get(at("https://hr/x", "E/1 ä"))
	r.want(t, 200, "")
	if r.get(t, "id") != "a" || r.get(t, "version") != 1.0 {
		t.Errorf("%s", r.body)
	}
	for name, path := range map[string]string{
		"another case": at("https://hr/x", "e/1 ä"), "another authority": at("hris", "E/1 ä"),
		"a deleted user": at("https://hr/x", "E3"), "nobody": at("https://hr/x", "E9"),
	} {
		t.Run(name, func(t *testing.T) { g.get(path).want(t, 404, "general.resource.not.found") })
	}
}

func TestASingleReadFindsInactiveUsersAndNoDeletedOnes(t *testing.T) {
	g := visit(t, stateOrg())
	if r := g.get("/api/v2/users/i"); r.get(t, "state") != "inactive" {
		t.Errorf("%s", r.body)
	}
	g.get("/api/v2/users/d").want(t, 404, "general.resource.not.found")
}

func TestSearches(t *testing.T) {
	g := visit(t, Config{Users: []User{
		{ID: "a", ExternalID: "E1", Email: "Ann@example.com", Name: "Ann Lee"},
		{ID: "b", ExternalID: "E2", Email: "bob@example.com", Name: "Bob Lee", State: "inactive"},
		{ID: "c", ExternalID: "E3", Email: "ann@example.com", Name: "Ann Twin"},
		{ID: "d", ExternalID: "E4", Email: "dee@example.com", Name: "Dee", State: "deleted"},
	}})
	tests := []struct{ name, query, want string }{
		{"email, exactly, without case", `{"type":"EXACT","fields":["email"],"value":"ANN@example.com"}`, "a,c"},
		{"employee id", `{"type":"EXACT","fields":["hr.employeeId"],"value":"E2"}`, "b"},
		{"id", `{"type":"EXACT","fields":["id"],"value":"b"}`, "b"},
		{"no deleted users", `{"type":"EXACT","fields":["email"],"value":"dee@example.com"}`, ""},
		{"one of several values", `{"type":"EXACT","fields":["id"],"values":["a","b"]}`, "a,b"},
		{"in one of several fields", `{"type":"EXACT","fields":["name","id"],"value":"b"}`, "b"},
		{"a term", `{"type":"TERM","fields":["name"],"value":"lee"}`, "a,b"},
		{"the start", `{"type":"STARTS_WITH","fields":["name"],"value":"ann"}`, "a,c"},
		{"a part", `{"type":"CONTAINS","fields":["name"],"value":"wi"}`, "c"},
		{"and", `{"type":"EXACT","fields":["email"],"value":"ann@example.com"},{"type":"EXACT","fields":["hr.employeeId"],"value":"E3","operator":"AND"}`, "c"},
		{"or", `{"type":"EXACT","fields":["id"],"value":"a"},{"type":"EXACT","fields":["id"],"value":"b","operator":"OR"}`, "a,b"},
		{"not", `{"type":"TERM","fields":["name"],"value":"lee"},{"type":"EXACT","fields":["state"],"value":"inactive","operator":"NOT"}`, "a"},
		{"a group", `{"type":"TERM","fields":["name"],"value":"ann"},{"group":[{"type":"EXACT","fields":["id"],"value":"c"}]}`, "c"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := g.do("POST", "/api/v2/users/search", `{"query":[`+tt.query+`]}`, "Content-Type", "application/json")
			if got := ids(t, r, "results"); got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
		})
	}
	wrong := []struct{ name, body, code string }{
		{"no JSON", `{`, "bad.request"},
		{"no query", `{}`, "bad.request"},
		{"the external id is not searchable", `{"query":[{"type":"EXACT","fields":["externalId"],"value":"E1"}]}`, "invalid.property"},
		{"no type", `{"query":[{"fields":["email"],"value":"x"}]}`, "invalid.value"},
		{"unknown type", `{"query":[{"type":"LIKE","fields":["email"],"value":"x"}]}`, "invalid.value"},
		{"unknown operator", `{"query":[{"type":"EXACT","fields":["email"],"value":"x","operator":"XOR"}]}`, "invalid.value"},
		{"no value", `{"query":[{"type":"EXACT","fields":["email"]}]}`, "invalid.value"},
		{"no field", `{"query":[{"type":"EXACT","value":"x"}]}`, "invalid.value"},
		{"a page too large", `{"pageSize":501,"query":[{"type":"EXACT","fields":["id"],"value":"x"}]}`, "invalid.value"},
		{"groups without end", `{"query":[` + strings.Repeat(`{"group":[`, 10) + `{"type":"EXACT","fields":["id"],"value":"x"}` + strings.Repeat(`]}`, 10) + `]}`, "bad.request"},
	}
	for _, tt := range wrong {
		t.Run(tt.name, func(t *testing.T) {
			g.do("POST", "/api/v2/users/search", tt.body).want(t, 400, tt.code)
		})
	}
}

func TestASearchGoesOnByItsToken(t *testing.T) {
	g := visit(t, Org(5))
	var got []string
	r := g.do("POST", "/api/v2/users/search",
		`{"pageSize":2,"sortOrder":"DESC","sortBy":"email","expand":["skills"],"query":[{"type":"CONTAINS","fields":["email"],"value":"@"}]}`)
	for {
		r.want(t, 200, "")
		if r.get(t, "total") != 5.0 || r.get(t, "pageCount") != 3.0 || r.get(t, "results", 0, "skills") == nil {
			t.Fatalf("%s", r.body)
		}
		for _, u := range r.get(t, "results").([]any) {
			got = append(got, u.(map[string]any)["email"].(string)[4:8])
		}
		next, more := r.get(t, "nextPage").(string)
		if !more {
			break
		}
		r = g.get("/api/v2/users/search?q64=" + next)
	}
	if s := strings.Join(got, ","); s != "0005,0004,0003,0002,0001" {
		t.Errorf("%s", s)
	}
	if previous := g.get("/api/v2/users/search?q64=" + r.get(t, "previousPage").(string)); previous.get(t, "pageNumber") != 2.0 {
		t.Errorf("%s", previous.body)
	}
	g.get("/api/v2/users/search").want(t, 400, "bad.request")
	g.get("/api/v2/users/search?q64=!").want(t, 400, "bad.request")
}

func TestReadsLagBehindWrites(t *testing.T) {
	short := time.Second
	cfg := Config{
		Skills: []string{"Sales"}, ReadLag: 10 * time.Second, SCIMReadLag: 3 * time.Second,
		Users: []User{
			{ID: "usual", Skills: []Skill{{"Billing", 1}}},
			{ID: "quick", Skills: []Skill{{"Billing", 1}}, Lag: &short},
			{ID: "never", Skills: []Skill{{"Billing", 1}}, Never: true},
		},
	}
	tests := []struct {
		user        string
		users, scim time.Duration // until shown; 0 = never
	}{
		{"usual", 10 * time.Second, 3 * time.Second},
		{"quick", time.Second, 3 * time.Second},
		{"never", 0, 0},
	}
	for _, tt := range tests {
		t.Run(tt.user, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := visit(t, cfg)
				r := g.patch(tt.user, setSkills("replace", `[{"name":"Sales","proficiency":2.0}]`), "If-Match", `"1"`)
				r.want(t, 200, "")
				if got := join(r.get(t, urnUser, "routingSkills")); got != "Sales=2" || r.header.Get("ETag") != `"2"` {
					t.Errorf("answered %s", r.body)
				}
				if u, _ := g.s.User(tt.user); listed(u.Skills) != "Sales=2" || u.Version != 2 {
					t.Errorf("stored %+v", u)
				}
				for at := time.Duration(0); at <= 12*time.Second; at += time.Second {
					wantUsers, wantSCIM := "Billing=1 2", "Billing=1 2"
					if show := tt.users > 0 && at >= tt.users; !show {
						wantUsers = "Billing=1 1"
					} else {
						wantUsers = "Sales=2 2"
					}
					if show := tt.scim > 0 && at >= tt.scim; !show {
						wantSCIM = "Billing=1 1"
					} else {
						wantSCIM = "Sales=2 2"
					}
					if got := g.skills(tt.user) + " " + trim(g.get("/api/v2/users/"+tt.user).get(t, "version")); got != wantUsers {
						t.Errorf("after %s users show %s, want %s", at, got, wantUsers)
					}
					if got := join(g.get("/api/v2/users/"+tt.user+"/routingskills").get(t, "entities")); !strings.HasPrefix(wantUsers, got+" ") {
						t.Errorf("after %s routingskills show %s, want %s", at, got, wantUsers)
					}
					sc := g.get("/api/v2/scim/v2/users/" + tt.user)
					if got := join(sc.get(t, urnUser, "routingSkills")) + " " + sc.get(t, "meta", "version").(string); got != wantSCIM {
						t.Errorf("after %s SCIM shows %s, want %s", at, got, wantSCIM)
					}
					time.Sleep(time.Second)
				}
			})
		})
	}
}

func TestWritesInARowShowOneAfterTheOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := visit(t, Config{ReadLag: 10 * time.Second, Users: []User{{ID: "a"}}})
		for i := 1; i <= 5; i++ {
			g.s.SetSkills("a", []Skill{{"Sales", float64(i)}})
			time.Sleep(4 * time.Second)
		}
		// Written at 0, 4, 8, 12 and 16 s; now it is 20 s.
		for i, want := range []string{"Sales=3", "Sales=4", "Sales=5", "Sales=5"} {
			if got := g.skills("a"); got != want {
				t.Errorf("%d: %s, want %s", i, got, want)
			}
			time.Sleep(4 * time.Second)
		}
	})
}

func TestNoStateIsKeptThatNobodyCanSee(t *testing.T) {
	for name, u := range map[string]User{"usual": {ID: "a"}, "never": {ID: "a", Never: true}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := New(Config{Users: []User{u}, ReadLag: 5 * time.Second})
				for range 100 {
					s.SetSkills("a", []Skill{{"Sales", 1}})
					time.Sleep(time.Second)
				}
				if n := len(s.org.byID["a"].states); n > 7 {
					t.Errorf("%d states kept", n)
				}
			})
		})
	}
}

func TestALongestLagIsNever(t *testing.T) {
	for seed := range uint64(20) { // varied too, it does not wrap round to the past
		g := visit(t, Config{ReadLag: never, Users: []User{{ID: "a"}}, Seed: seed})
		g.s.SetSkills("a", []Skill{{"Sales", 1}})
		if got := g.skills("a"); got != "" {
			t.Errorf("seed %d: shown %s", seed, got)
		}
	}
}

func TestReadsNeverGoBackWhenLagsVary(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := visit(t, Config{ReadLag: 10 * time.Second, Seed: 5, Users: []User{{ID: "a"}}})
		seen := 0.0
		for i := range 200 {
			if i < 100 {
				g.s.SetSkills("a", nil)
			}
			v := g.get("/api/v2/users/a").get(t, "version").(float64)
			if v < seen {
				t.Fatalf("version %v after %v", v, seen)
			}
			seen = v
			time.Sleep(200 * time.Millisecond)
		}
		if seen != 101 {
			t.Errorf("ended at version %v", seen)
		}
	})
}
