package sandbox

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// guest is a client that knows nothing but HTTP.
type guest struct {
	t      *testing.T
	s      *Sandbox
	base   string
	client *http.Client
	token  string
}

type reply struct {
	status int
	header http.Header
	body   string
	err    error
}

// visit makes a sandbox and signs in, without sockets.
func visit(t *testing.T, cfg Config) *guest {
	t.Helper()
	s := New(cfg)
	g := &guest{t: t, s: s, base: "http://sandbox.test", client: &http.Client{Transport: s.Transport()}}
	g.signIn()
	return g
}

// visitTCP is visit over real connections.
func visitTCP(t *testing.T, cfg Config) *guest {
	t.Helper()
	s := New(cfg)
	srv := httptest.NewServer(s)
	t.Cleanup(srv.Close)
	t.Cleanup(srv.Client().CloseIdleConnections)
	g := &guest{t: t, s: s, base: srv.URL, client: srv.Client()}
	g.signIn()
	return g
}

func (g *guest) signIn() {
	g.t.Helper()
	r := g.postToken(url.Values{
		"grant_type": {"client_credentials"}, "client_id": {g.s.cfg.ClientID}, "client_secret": {g.s.cfg.ClientSecret},
		"scope": {"scim:users:write scim:users:read"},
	})
	g.token = r.get(g.t, "access_token").(string)
}

func (g *guest) postToken(form url.Values, headers ...string) reply {
	g.t.Helper()
	return g.do("POST", "/oauth/token", form.Encode(), append([]string{"Content-Type", "application/x-www-form-urlencoded"}, headers...)...)
}

// do sends a request; headers are name, value, name, value …
func (g *guest) do(method, path, body string, headers ...string) reply {
	g.t.Helper()
	req, err := http.NewRequestWithContext(g.t.Context(), method, g.base+path, strings.NewReader(body))
	if err != nil {
		g.t.Fatal(err)
	}
	if g.token != "" && path != "/oauth/token" {
		req.Header.Set("Authorization", "Bearer "+g.token)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := g.client.Do(req)
	if err != nil {
		return reply{err: err}
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return reply{res.StatusCode, res.Header, string(b), err}
}

func (g *guest) get(path string) reply { g.t.Helper(); return g.do("GET", path, "") }

func (g *guest) patch(id, body string, headers ...string) reply {
	g.t.Helper()
	return g.do("PATCH", "/api/v2/scim/v2/users/"+id, body, append([]string{"Content-Type", "application/scim+json"}, headers...)...)
}

func (g *guest) patchAttributes(id, op string, pairs ...string) reply {
	g.t.Helper()
	var list []string
	for i := 0; i+1 < len(pairs); i += 2 {
		list = append(list, `{"name":"`+pairs[i]+`","value":"`+pairs[i+1]+`"}`)
	}
	body := `{"Operations":[{"op":"` + op + `","path":"urn:ietf:params:scim:schemas:extension:genesyscloud:2.0:User:customAttributes","value":{"attributes":[` + strings.Join(list, ",") + `]}}]}`
	return g.do("PATCH", "/scim/v2/Users/"+id, body, "Content-Type", "application/scim+json")
}

// get follows keys and indices into the JSON body; nil where there is nothing.
func (r reply) get(t *testing.T, path ...any) any {
	t.Helper()
	if r.err != nil {
		t.Fatal(r.err)
	}
	var v any
	if err := json.Unmarshal([]byte(r.body), &v); err != nil {
		t.Fatalf("%v in %d %q", err, r.status, r.body)
	}
	for _, p := range path {
		switch p := p.(type) {
		case string:
			m, _ := v.(map[string]any)
			v = m[p]
		case int:
			l, _ := v.([]any)
			if p >= len(l) {
				return nil
			}
			v = l[p]
		}
	}
	return v
}

// code is the vendor's word for an error, in whichever of the three forms it came.
func (r reply) code(t *testing.T) string {
	t.Helper()
	for _, key := range []string{"code", "scimType", "error"} {
		if v, is := r.get(t, key).(string); is {
			return v
		}
	}
	return ""
}

func (r reply) want(t *testing.T, status int, code string) {
	t.Helper()
	if r.err != nil {
		t.Fatal(r.err)
	}
	if r.status != status {
		t.Fatalf("status %d, want %d: %s", r.status, status, r.body)
	}
	if status >= 400 && r.code(t) != code {
		t.Fatalf("code %q, want %q: %s", r.code(t), code, r.body)
	}
}

// skills is the batch-read skills of one user as name=proficiency, sorted, "" for none.
func (g *guest) skills(id string) string {
	g.t.Helper()
	r := g.get("/api/v2/users?state=any&expand=skills&pageSize=100&id=" + id)
	r.want(g.t, 200, "")
	return join(r.get(g.t, "entities", 0, "skills"))
}

func join(list any) string {
	var out []string
	skills, _ := list.([]any)
	for _, sk := range skills {
		m := sk.(map[string]any)
		out = append(out, m["name"].(string)+"="+trim(m["proficiency"]))
	}
	return strings.Join(out, ",")
}

func trim(v any) string { b, _ := json.Marshal(v); return string(b) }

func listed(skills []Skill) string {
	var out []string
	for _, sk := range skills {
		out = append(out, sk.Name+"="+trim(sk.Proficiency))
	}
	return strings.Join(out, ",")
}

const (
	patchHead = `{"schemas":["urn:ietf:params:scim:api:messages:2.0:PatchOp"],"Operations":[`
	urnUser   = `urn:ietf:params:scim:schemas:extension:genesys:purecloud:2.0:User`
	urnSkills = urnUser + `:routingSkills`
)

// setSkills is the body of a patch with one operation on the skills.
func setSkills(op, value string) string {
	return patchHead + `{"op":"` + op + `","path":"` + urnSkills + `","value":` + value + `}]}`
}

func one() Config { return Org(1) }

var emp1 = UserID("EMP-0001")

func TestEachContractHasItsOwnPathsAndNoOthers(t *testing.T) {
	const custom, platform = CustomAttributes, RoutingSkills
	paths := []struct{ name, method, path, contract string }{
		{"patch of attributes", "PATCH", "/scim/v2/Users/" + emp1, custom},
		{"assigned skills", "GET", "/api/v2/users/" + emp1 + "/routing/skills", custom},
		{"schemas", "GET", "/api/v2/scim/v2/schemas", platform},
		{"schemas, old path", "GET", "/api/v2/scim/schemas", platform},
		{"patch of skills", "PATCH", "/api/v2/scim/v2/users/" + emp1, platform},
		{"patch of skills, old path", "PATCH", "/api/v2/scim/users/" + emp1, platform},
		{"SCIM user", "GET", "/api/v2/scim/v2/users/" + emp1, platform},
		{"users", "GET", "/api/v2/users", platform},
		{"user", "GET", "/api/v2/users/" + emp1, platform},
		{"skills of a user", "GET", "/api/v2/users/" + emp1 + "/routingskills", platform},
		{"external id", "GET", "/api/v2/users/externalid/hris/EMP-0001", platform},
		{"search", "POST", "/api/v2/users/search", platform},
		{"skills of the organisation", "GET", "/api/v2/routing/skills", platform},
		{"search by query", "GET", "/api/v2/users/search", Both},
		{"a path of none", "GET", "/api/v2/scim/v2/Users/" + emp1, ""},
		{"a trailing slash", "GET", "/api/v2/users/", ""},
		{"an empty id", "GET", "/api/v2/users//routingskills", ""},
		{"another case", "GET", "/API/v2/users", ""},
		{"SCIM bulk", "POST", "/api/v2/scim/v2/bulk", ""},
	}
	for _, serve := range []string{Both, custom, platform} {
		cfg := one()
		cfg.Serve = serve
		g := visit(t, cfg)
		for _, p := range paths {
			t.Run(serve+" has "+p.name, func(t *testing.T) {
				exists := p.contract == Both || p.contract == serve || serve == Both && p.contract != ""
				if r := g.do(p.method, p.path, ""); (r.status != 404 && r.status != 405) != exists {
					t.Errorf("%s %s: %d, exists %v", p.method, p.path, r.status, exists)
				}
			})
		}
	}
}

func TestAWrongMethodSaysWhichAreRight(t *testing.T) {
	g := visit(t, one())
	for path, allow := range map[string]string{
		"/oauth/token":                   "POST",
		"/api/v2/users":                  "GET",
		"/api/v2/users/search":           "GET, POST",
		"/api/v2/scim/v2/users/" + emp1:  "GET, PATCH",
		"/scim/v2/Users/" + emp1:         "PATCH",
		"/api/v2/users/" + emp1:          "GET",
		"/api/v2/users/externalid/hris/": "", // no such path
	} {
		r := g.do("DELETE", path, "")
		if allow == "" {
			r.want(t, 404, "not.found")
			continue
		}
		r.want(t, 405, "method.not.allowed")
		if r.header.Get("Allow") != allow {
			t.Errorf("%s allows %q, want %q", path, r.header.Get("Allow"), allow)
		}
	}
}

func TestEveryAnswerHasACorrelationIDThatErrorsRepeat(t *testing.T) {
	g := visit(t, one())
	uuid := regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	seen := map[string]bool{}
	for _, r := range []reply{
		g.get("/api/v2/users/" + emp1), g.get("/api/v2/users/nobody"), g.get("/nowhere"), g.patch(emp1, "{}"),
		g.postToken(nil), g.do("PUT", "/api/v2/users", ""), g.do("GET", "/api/v2/users", "", "Authorization", "Bearer x"),
	} {
		id := r.header.Get("ININ-Correlation-Id")
		if !uuid.MatchString(id) || seen[id] {
			t.Errorf("%d: correlation id %q", r.status, id)
		}
		seen[id] = true
		if ctx := r.get(t, "contextId"); ctx != nil && ctx != id {
			t.Errorf("contextId %v, header %s", ctx, id)
		}
		for name := range r.header {
			if strings.Contains(strings.ToLower(name), "ratelimit") {
				t.Errorf("a budget header: %s", name)
			}
		}
	}
}

func TestAnErrorBodyHasTheVendorsShape(t *testing.T) {
	g := visit(t, one())
	r := g.get("/api/v2/users/nobody")
	want := `{"message":"Unable to find resource","code":"general.resource.not.found","status":404,"contextId":"` +
		r.header.Get("ININ-Correlation-Id") + `","details":[],"errors":[]}`
	if r.body != want || r.header.Get("Content-Type") != "application/json" {
		t.Errorf("%s %s\nwant %s", r.header.Get("Content-Type"), r.body, want)
	}
}

func TestABodyOverTheLimitIsRefusedAndOneAtItIsNot(t *testing.T) {
	g := visit(t, one())
	body := setSkills("replace", "[]")
	g.patch(emp1, body+strings.Repeat(" ", 512_000-len(body))).want(t, 200, "")
	g.patch(emp1, body+strings.Repeat(" ", 512_001-len(body))).want(t, 413, "request.entity.too.large")
}

func TestTheLogAndTheCountersSayWhatHappened(t *testing.T) {
	g := visit(t, one())
	body := setSkills("replace", `[{"name":"Billing","proficiency":4.0}]`)
	patched := g.patch(emp1, body)
	g.get("/api/v2/users?id=a&id=b")
	g.get("/api/v2/users/" + emp1 + "/routingskills")
	g.get("/nowhere")
	g.get("/_sandbox/stats") // counts nowhere

	log := g.s.Requests()
	if len(log) != 5 {
		t.Fatalf("%d lines: %+v", len(log), log)
	}
	p := log[1]
	if p.Op != "patch" || p.Path != "/api/v2/scim/v2/users/{id}" || p.User != emp1 || p.Token != "t1" || p.Status != 200 ||
		p.Method != "PATCH" || p.RequestBody != body || p.CorrelationID != patched.header.Get("ININ-Correlation-Id") || p.Time.IsZero() {
		t.Errorf("%+v", p)
	}
	if b := log[2]; b.Op != "read_batch" || b.Users != 2 || b.RequestBody != "" {
		t.Errorf("%+v", b)
	}
	if o := log[4]; o.Op != "other" || o.Path != "/nowhere" || o.Status != 404 {
		t.Errorf("%+v", o)
	}
	st := g.s.Stats()
	got := trim(st)
	want := `{"requests":5,"by_op":{"other":1,"patch":1,"read":1,"read_batch":1,"token":1},"by_status":{"200":4,"404":1},` +
		`"refused_429":0,"max_window_60s":5,"max_window_1s":5,"in_flight":0,"max_in_flight":1,"patches":1,"tokens":1,"users":1}`
	if got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}

func TestTheLogIsBoundedAndTheCountersAreNot(t *testing.T) {
	j := newJournal()
	clock := func() time.Duration { return 0 }
	for i := range logged + 3 {
		j.arrive("read", clock)
		j.leave(Request{Users: i})
	}
	got := j.requests()
	if len(got) != logged || got[0].Users != 3 || got[logged-1].Users != logged+2 {
		t.Errorf("%d lines, %d to %d", len(got), got[0].Users, got[len(got)-1].Users)
	}
	if n := j.snapshot().Requests; n != logged+3 {
		t.Errorf("%d requests", n)
	}

	g := visit(t, one())
	g.patch(emp1, strings.Repeat(" ", 100_000))
	if n := len(g.s.Requests()[1].RequestBody); n != loggedBody {
		t.Errorf("%d bytes of a body kept", n)
	}
}

func TestAConfigurationThatCannotBePanics(t *testing.T) {
	for name, cfg := range map[string]Config{
		"two users with one id": {Users: []User{{ID: "a"}, {ID: "a"}}},
		"unknown contract":      {Serve: "rest"},
		"unknown stale form":    {Stale: "418"},
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("accepted")
				}
			}()
			New(cfg)
		})
	}
}

func TestTheReadyMadeOrganisationIsAlwaysTheSame(t *testing.T) {
	s := New(Org(8842))
	u, found := s.User("EMP-8842")
	if !found || u.ID != UserID("EMP-8842") || u.Email != "emp-8842@example.com" || u.State != "active" {
		t.Errorf("%+v", u)
	}
	if !regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-5[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(u.ID) {
		t.Errorf("id %s is no version 5 UUID", u.ID)
	}
	for id, want := range map[string]string{"EMP-0006": "", "EMP-0007": "Spanish=3", "EMP-0014": "Spanish=3"} {
		if u, _ := s.User(id); listed(u.Skills) != want {
			t.Errorf("%s has %q, want %q", id, listed(u.Skills), want)
		}
	}
	for _, r := range Org(0).Rules {
		if r.Skill == "Spanish" {
			t.Error("a rule names Spanish")
		}
	}
}

func TestManyRequestsAtOnceAreAllAnswered(t *testing.T) {
	cfg := Org(64)
	cfg.Limit, cfg.LimitPerSecond = 1_000_000, 1_000_000
	g := visitTCP(t, cfg)
	g.s.Inject(Fault{Kind: "500", Op: "schemas"})
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			id := g.s.org.users[i].ID
			for range 5 {
				if r := g.patch(id, setSkills("replace", `[{"name":"Billing","proficiency":4.0}]`)); r.status != 200 && r.status != 409 {
					t.Errorf("patch: %d %s %v", r.status, r.body, r.err)
				}
				if r := g.get("/api/v2/users?expand=skills&id=" + id); r.status != 200 {
					t.Errorf("read: %d %v", r.status, r.err)
				}
				g.s.SetSkills(id, []Skill{{"Sales", 2}})
				g.s.User(id)
				g.get("/api/v2/scim/v2/schemas")
			}
		})
	}
	wg.Wait()
	st := g.s.Stats()
	if st.Requests != 1+64*5*3 || st.InFlight != 0 || st.MaxWindow60s > st.Requests || len(g.s.Requests()) != st.Requests {
		t.Errorf("%+v", st)
	}
}

func TestTheLoginHandlerServesTokensOnly(t *testing.T) {
	g := visit(t, one())
	login := &http.Client{Transport: transport{g.s.Login()}}
	g.client = login
	g.signIn()
	if r := g.get("/api/v2/users"); r.status != 404 {
		t.Errorf("the API on the login host: %d", r.status)
	}
}

func TestLatenciesVaryAroundTheirValueAndRepeatably(t *testing.T) {
	draw := func(seed uint64) (out []time.Duration) {
		s := New(Config{Seed: seed})
		for range 1000 {
			out = append(out, s.vary(time.Second))
		}
		return out
	}
	a, b := draw(7), draw(7)
	var sum time.Duration
	for i := range a {
		if a[i] != b[i] {
			t.Fatal("not repeatable")
		}
		if a[i] < time.Second/2 || a[i] > 3*time.Second/2 {
			t.Fatalf("%s", a[i])
		}
		sum += a[i]
	}
	if mean := sum / 1000; mean < 950*time.Millisecond || mean > 1050*time.Millisecond {
		t.Errorf("mean %s", mean)
	}
	if exact := draw(0); exact[0] != time.Second || exact[999] != time.Second {
		t.Error("seed 0 varies")
	}
}

func TestReadsTakeTheReadLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := one()
		cfg.ReadLatency = 3 * time.Second
		g := visit(t, cfg)
		start := time.Now()
		g.get("/api/v2/users/"+emp1).want(t, 200, "")
		if took := time.Since(start); took != 3*time.Second {
			t.Errorf("took %s", took)
		}
	})
}

// visitWith is a visit that has not signed in.
func visitWith(t *testing.T, s *Sandbox) *guest {
	return &guest{t: t, s: s, base: "http://sandbox.test", client: &http.Client{Transport: s.Transport()}}
}
