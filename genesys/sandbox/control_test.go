package sandbox

import (
	"encoding/json"
	"strings"
	"testing"
)

// lines decodes JSON lines.
func lines[T any](t *testing.T, r reply) (out []T) {
	t.Helper()
	if r.err != nil || r.status != 200 {
		t.Fatalf("%d %s %v", r.status, r.body, r.err)
	}
	for line := range strings.Lines(r.body) {
		var v T
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			t.Fatalf("%v in %q", err, line)
		}
		out = append(out, v)
	}
	return out
}

func TestTheControlSurfaceShowsAndSteers(t *testing.T) {
	g := visitTCP(t, Org(7))
	stats := func() Stats { return lines[Stats](t, g.get("/_sandbox/stats"))[0] }

	if st := stats(); st.Requests != 1 || st.Users != 7 {
		t.Errorf("%+v", st)
	}
	if us := lines[User](t, g.get("/_sandbox/users")); len(us) != 7 || us[6].ExternalID != "EMP-0007" || listed(us[6].Skills) != "Spanish=3" {
		t.Errorf("%+v", us)
	}
	edited := g.do("POST", "/_sandbox/skills/EMP-0001", `[{"name":"Billing","proficiency":4}]`)
	if u := lines[User](t, edited)[0]; u.Version != 2 || listed(u.Skills) != "Billing=4" {
		t.Errorf("%+v", u)
	}
	if u := lines[User](t, g.get("/_sandbox/users/"+emp1))[0]; u.ExternalID != "EMP-0001" || listed(u.Skills) != "Billing=4" {
		t.Errorf("%+v", u)
	}

	injected := g.do("POST", "/_sandbox/faults", "patch:404:times=1\n\nread:500\n")
	if !strings.Contains(injected.body, `{"fault":"patch:404:times=1","seen":0,"fired":0}`) {
		t.Errorf("%s", injected.body)
	}
	g.patch(emp1, salesPatch).want(t, 404, "general.resource.not.found")
	if r := g.get("/_sandbox/faults"); !strings.Contains(r.body, `{"fault":"patch:404:times=1","seen":1,"fired":1}`) {
		t.Errorf("%s", r.body)
	}
	if r := g.do("DELETE", "/_sandbox/faults", ""); r.status != 200 || r.body != "" {
		t.Errorf("%d %s", r.status, r.body)
	}
	g.get("/api/v2/users").want(t, 200, "")

	g.do("POST", "/_sandbox/revoke", "")
	g.get("/api/v2/users").want(t, 401, "bad.credentials")

	log := lines[Request](t, g.get("/_sandbox/requests"))
	if len(log) != 4 || log[1].Op != "patch" || log[1].Status != 404 || log[3].Status != 401 {
		t.Errorf("%+v", log)
	}
	if st := stats(); st.Requests != 4 || st.MaxWindow60s != 4 {
		t.Errorf("control requests were counted: %+v", st)
	}
}

func TestTheControlSurfaceSaysWhatIsWrong(t *testing.T) {
	g := visit(t, one())
	tests := []struct {
		name, method, path, body string
		status                   int
		says                     string
	}{
		{"unknown control", "GET", "/_sandbox/nothing", "", 404, "no such control"},
		{"wrong method", "POST", "/_sandbox/stats", "", 404, "no such control"},
		{"unknown user", "GET", "/_sandbox/users/nobody", "", 404, "no such user"},
		{"edit of nobody", "POST", "/_sandbox/skills/nobody", "[]", 404, "no such user"},
		{"edit that is no list", "POST", "/_sandbox/skills/" + emp1, "{}", 400, "proficiency"},
		{"no fault", "POST", "/_sandbox/faults", "", 400, "reset-before"},
		{"one bad fault of two", "POST", "/_sandbox/faults", "any:500\nany:explode", 400, "unknown kind"},
		{"too many faults", "POST", "/_sandbox/faults", strings.Repeat("any:500\n", 100_000), 413, "too many"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if r := g.do(tt.method, tt.path, tt.body); r.status != tt.status || !strings.Contains(r.body, tt.says) {
				t.Errorf("%d %s", r.status, r.body)
			}
		})
	}
	if n := len(g.s.Faults()); n != 0 {
		t.Errorf("%d faults injected by refused requests", n)
	}
}
