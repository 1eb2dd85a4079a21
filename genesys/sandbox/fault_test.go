package sandbox

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func (g *guest) inject(texts ...string) {
	g.t.Helper()
	for _, text := range texts {
		f, err := ParseFault(text)
		if err != nil {
			g.t.Fatal(err)
		}
		g.s.Inject(f)
	}
}

var salesPatch = setSkills("replace", `[{"name":"Sales","proficiency":2.0}]`)

func TestAFaultThatIsAnAnswer(t *testing.T) {
	const batch = "/api/v2/users"
	tests := []struct {
		fault      string
		method     string
		path       string
		status     int
		code       string
		retryAfter string
		scim       bool // the SCIM form of an error
	}{
		{"any:400", "GET", batch, 400, "bad.request", "", false},
		{"any:401", "GET", batch, 401, "bad.credentials", "", false},
		{"any:403", "GET", batch, 403, "missing.any.permissions", "", false},
		{"any:403-division", "PATCH", "/api/v2/scim/v2/users/" + emp1, 403, "missing.division.permission", "", false},
		{"any:404", "GET", batch, 404, "general.resource.not.found", "", false},
		{"any:408", "GET", batch, 408, "client.timeout", "", false},
		{"any:409", "GET", batch, 409, "request.conflict", "", false},
		{"any:409", "PATCH", "/api/v2/scim/v2/users/" + emp1, 409, "", "", true},
		{"any:409", "PATCH", "/scim/v2/Users/" + emp1, 409, "", "", true},
		{"any:412", "PATCH", "/api/v2/scim/v2/users/" + emp1, 412, "precondition.failed", "", false},
		{"any:413", "GET", batch, 413, "request.entity.too.large", "", false},
		{"any:415", "GET", batch, 415, "unsupported.media.type", "", false},
		{"any:500", "GET", batch, 500, "internal.server.error", "", false},
		{"any:503", "GET", batch, 503, "service.unavailable", "", false},
		{"any:503:retry-after=7", "GET", batch, 503, "service.unavailable", "7", false},
		{"any:504", "GET", batch, 504, "request.timeout", "", false},
		{"any:429", "GET", batch, 429, "too.many.requests.retry.after", "1", false},
		{"any:429:retry-after=3600", "PATCH", "/api/v2/scim/v2/users/" + emp1, 429, "too.many.requests.retry.after", "3600", false},
		{"any:429-bare", "GET", batch, 429, "too.many.requests", "", false},
		{"patch:stale", "PATCH", "/api/v2/scim/v2/users/" + emp1, 400, "invalidVers", "", true},
		{"patch:stale:form=409", "PATCH", "/api/v2/scim/v2/users/" + emp1, 409, "invalidVers", "", true},
		{"patch:stale:form=412", "PATCH", "/api/v2/scim/v2/users/" + emp1, 412, "general.conflict", "", false},
		{"token:oauth-limit", "POST", "/oauth/token", 400, "invalid_request", "", false},
		{"token:500", "POST", "/oauth/token", 500, "server_error", "", false},
		{"token:401", "POST", "/oauth/token", 401, "invalid_client", "", false},
		{"token:403", "POST", "/oauth/token", 403, "unauthorized_client", "", false},
		{"token:429:retry-after=9", "POST", "/oauth/token", 429, "invalid_request", "9", false},
		{"schemas:503", "GET", "/api/v2/scim/v2/schemas", 503, "service.unavailable", "", false},
		{"find:504", "GET", "/api/v2/users/externalid/hris/EMP-0001", 504, "request.timeout", "", false},
		{"skills:500", "GET", "/api/v2/routing/skills", 500, "internal.server.error", "", false},
		{"read:500", "GET", "/api/v2/users/" + emp1 + "/routingskills", 500, "internal.server.error", "", false},
	}
	for _, tt := range tests {
		t.Run(tt.fault+" on "+tt.method, func(t *testing.T) {
			g := visit(t, one())
			g.inject(tt.fault)
			r := g.do(tt.method, tt.path, salesPatch, "Content-Type", "application/json")
			r.want(t, tt.status, tt.code)
			if got := r.header.Get("Retry-After"); got != tt.retryAfter {
				t.Errorf("Retry-After %q, want %q", got, tt.retryAfter)
			}
			if isSCIM := r.get(t, "schemas") != nil; isSCIM != tt.scim {
				t.Errorf("the form is wrong: %s", r.body)
			}
			if _, isText := r.get(t, "status").(string); isText != tt.scim {
				t.Errorf("the status is of the wrong type: %s", r.body)
			}
			if u, _ := g.s.User(emp1); len(u.Skills) != 0 || len(u.Attributes) != 0 {
				t.Error("it was done all the same")
			}
		})
	}
}

func TestEveryKindOfFaultCanFallOnEveryOperation(t *testing.T) {
	requests := map[string]func(*guest) reply{
		opToken:     func(g *guest) reply { return g.postToken(url.Values{}) },
		opSchemas:   func(g *guest) reply { return g.get("/api/v2/scim/v2/schemas") },
		opFind:      func(g *guest) reply { return g.get("/api/v2/users/externalid/hris/EMP-0001") },
		opRead:      func(g *guest) reply { return g.get("/api/v2/users/" + emp1) },
		opReadBatch: func(g *guest) reply { return g.get("/api/v2/users") },
		opPatch:     func(g *guest) reply { return g.patch(emp1, salesPatch) },
		opSkills:    func(g *guest) reply { return g.get("/api/v2/routing/skills") },
		opLimits:    func(g *guest) reply { return g.get("/api/v2/organizations/limits/namespaces/platform.api") },
	}
	for _, k := range kinds {
		for op, send := range requests {
			t.Run(k.name+" on "+op, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					g := visit(t, one())
					f := Fault{Kind: k.name, Op: op, Times: 1}
					if _, err := f.check(); err != nil || f.Op != op {
						t.Skip("not for this operation")
					}
					g.s.Inject(f)
					send(g)
					if in := g.s.Faults()[0]; in.Fired != 1 {
						t.Errorf("%+v", in)
					}
				})
			})
		}
	}
}

func TestRetryAfterCanBeADate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := visit(t, one())
		g.inject("read:429:retry-after-date=90:times=1", "read:503:retry-after-date=30:times=1")
		for _, want := range []time.Duration{90 * time.Second, 30 * time.Second} {
			at, err := http.ParseTime(g.get("/api/v2/users").header.Get("Retry-After"))
			if err != nil || time.Until(at) != want {
				t.Errorf("in %s, want %s (%v)", time.Until(at), want, err)
			}
		}
	})
}

func TestABrokenProxyAnswersAPage(t *testing.T) {
	g := visit(t, one())
	g.inject("any:html")
	r := g.patch(emp1, salesPatch)
	if r.status != 502 || r.header.Get("Content-Type") != "text/html" || !strings.HasPrefix(r.body, "<html>") || r.header.Get("ININ-Correlation-Id") == "" {
		t.Errorf("%d %s", r.status, r.body)
	}
}

// The pair: nothing happened, and it happened but nobody was told. Both look the same.
func TestAResetBeforeOrAfterTheWork(t *testing.T) {
	for _, over := range []struct {
		name  string
		visit func(*testing.T, Config) *guest
	}{{"over TCP", visitTCP}, {"in process", visit}} {
		for _, tt := range []struct{ fault, want string }{
			{"patch:reset-before:times=1", ""},
			{"patch:reset-after:times=1", "Sales=2"},
		} {
			t.Run(tt.fault+" "+over.name, func(t *testing.T) {
				g := over.visit(t, one())
				g.inject(tt.fault)
				r := g.patch(emp1, salesPatch)
				if !errors.Is(r.err, syscall.ECONNRESET) {
					t.Errorf("error %v, status %d", r.err, r.status)
				}
				if u, _ := g.s.User(emp1); listed(u.Skills) != tt.want {
					t.Errorf("stored %q, want %q", listed(u.Skills), tt.want)
				}
				log := g.s.Requests()
				if last := log[len(log)-1]; last.Status != 0 || last.Op != "patch" {
					t.Errorf("%+v", last)
				}
				g.patch(emp1, salesPatch).want(t, 200, "") // once only
			})
		}
	}
}

func TestALostTokenAnswerStillIssuedTheToken(t *testing.T) {
	for fault, tokens := range map[string]int{"token:reset-before": 1, "token:reset-after": 2} {
		g := visit(t, one())
		g.inject(fault)
		form := url.Values{"grant_type": {"client_credentials"}, "client_id": {"sandbox"}, "client_secret": {"sandbox"}}
		if r := g.postToken(form); r.err == nil {
			t.Errorf("%s: answered %d", fault, r.status)
		}
		if st := g.s.Stats(); st.Tokens != tokens {
			t.Errorf("%s: %d tokens", fault, st.Tokens)
		}
	}
}

func TestASlowAnswerComesLateButTheWorkIsDoneAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := visit(t, one())
		g.inject("patch:slow:for=20s")
		start := time.Now()
		answered := make(chan reply, 1)
		go func() { answered <- g.patch(emp1, salesPatch) }()
		synctest.Wait()
		if u, _ := g.s.User(emp1); listed(u.Skills) != "Sales=2" {
			t.Errorf("stored %q", listed(u.Skills))
		}
		(<-answered).want(t, 200, "")
		if took := time.Since(start); took != 20*time.Second {
			t.Errorf("took %s", took)
		}
	})
}

func TestAClientThatGivesUpOnASlowAnswerIsNotWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := visit(t, one())
		g.inject("patch:slow:for=720h")
		g.client.Timeout = 10 * time.Second
		start := time.Now()
		if r := g.patch(emp1, salesPatch); r.err == nil {
			t.Errorf("answered %d", r.status)
		}
		synctest.Wait()
		if time.Since(start) != 10*time.Second || g.s.Stats().InFlight != 0 {
			t.Errorf("after %s: %+v", time.Since(start), g.s.Stats())
		}
	})
}

func TestAWriteGoesOnWhenItsClientHasGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := one()
		cfg.PatchLatency = time.Minute
		g := visit(t, cfg)
		g.client.Timeout = 10 * time.Second
		if r := g.patch(emp1, salesPatch); r.err == nil {
			t.Errorf("answered %d", r.status)
		}
		time.Sleep(50 * time.Second)
		synctest.Wait()
		if u, _ := g.s.User(emp1); listed(u.Skills) != "Sales=2" {
			t.Errorf("stored %q", listed(u.Skills))
		}
	})
}

func TestARevokedTokenStaysRevoked(t *testing.T) {
	g := visit(t, one())
	other := g.token
	g.signIn()
	g.inject("patch:revoke:times=1")
	g.patch(emp1, salesPatch).want(t, 401, "bad.credentials")
	g.get("/api/v2/users").want(t, 401, "bad.credentials")
	g.token = other // the others are still good
	g.get("/api/v2/users").want(t, 200, "")
}

func TestADroppedPatchLooksDone(t *testing.T) {
	g := visit(t, one())
	g.inject("patch:drop:times=1")
	r := g.patch(emp1, salesPatch)
	r.want(t, 200, "")
	if got := join(r.get(t, urnUser, "routingSkills")); got != "Sales=2" {
		t.Errorf("answered %s", got)
	}
	if got := g.skills(emp1); got != "" {
		t.Errorf("stored %s", got)
	}
	g.patch(emp1, salesPatch, "If-Match", `"1"`).want(t, 200, "")

	g.inject("any:drop:times=1")
	g.patchAttributes(emp1, "replace", "department", "Billing").want(t, 200, "")
	if u, _ := g.s.User(emp1); len(u.Attributes) != 0 {
		t.Errorf("stored %v", u.Attributes)
	}
}

func TestABatchReadThatIsNotWhole(t *testing.T) {
	cfg := Org(3)
	for i := range cfg.Users {
		cfg.Users[i].Skills = []Skill{{"Sales", 1}}
	}
	query := "/api/v2/users?expand=skills&pageSize=100"
	for _, u := range cfg.Users {
		query += "&id=" + UserID(u.ExternalID)
	}
	show := func(t *testing.T, r reply) string {
		r.want(t, 200, "")
		var out []string
		for _, e := range r.get(t, "entities").([]any) {
			m := e.(map[string]any)
			skills, expanded := m["skills"]
			text := "-"
			if expanded {
				text = join(skills)
			}
			out = append(out, m["email"].(string)[4:8]+" "+text)
		}
		return strings.Join(out, ", ")
	}
	for _, tt := range []struct{ name, fault, want string }{
		{"whole", "", "0001 Sales=1, 0002 Sales=1, 0003 Sales=1"},
		{"one user missing", "read:missing:user=EMP-0002", "0001 Sales=1, 0003 Sales=1"},
		{"all missing", "read_batch:missing", ""},
		{"one without skills", "any:expand:user=" + UserID("EMP-0003"), "0001 Sales=1, 0002 Sales=1, 0003 -"},
		{"all without skills", "read:expand", "0001 -, 0002 -, 0003 -"},
		{"somebody who was not asked for", "read:missing:user=EMP-0009", "0001 Sales=1, 0002 Sales=1, 0003 Sales=1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := visit(t, cfg)
			if tt.fault != "" {
				g.inject(tt.fault)
			}
			if got := show(t, g.get(query)); got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
			single := g.get("/api/v2/users/" + emp1 + "/routingskills") // the single read is whole
			if got := join(single.get(t, "entities")); got != "Sales=1" {
				t.Errorf("single read %s", got)
			}
		})
	}
}

func TestAFaultFallsWhereItIsAimed(t *testing.T) {
	second := UserID("EMP-0002")
	tests := []struct {
		name  string
		fault string
		send  func(*guest) reply
		hit   bool
	}{
		{"its operation", "schemas:500", func(g *guest) reply { return g.get("/api/v2/scim/v2/schemas") }, true},
		{"another operation", "schemas:500", func(g *guest) reply { return g.get("/api/v2/users") }, false},
		{"a batch is a read", "read:500", func(g *guest) reply { return g.get("/api/v2/users") }, true},
		{"a single read is no batch", "read_batch:500", func(g *guest) reply { return g.get("/api/v2/users/" + emp1) }, false},
		{"a SCIM GET is a read", "read:500", func(g *guest) reply { return g.get("/api/v2/scim/v2/users/" + emp1) }, true},
		{"its user", "any:500:user=EMP-0001", func(g *guest) reply { return g.get("/api/v2/users/" + emp1) }, true},
		{"another user", "any:500:user=EMP-0001", func(g *guest) reply { return g.get("/api/v2/users/" + second) }, false},
		{"its user among others", "any:500:user=" + second, func(g *guest) reply { return g.get("/api/v2/users?id=" + emp1 + "&id=" + second) }, true},
		{"its user by external id", "find:500:user=" + emp1, func(g *guest) reply { return g.get("/api/v2/users/externalid/hris/EMP-0001") }, true},
		{"its user by query", "find:500:user=EMP-0001", func(g *guest) reply { return g.get("/api/v2/users/search?query=externalId:%22EMP-0001%22") }, true},
		{"its user by search", "find:500:user=EMP-0001", func(g *guest) reply {
			return g.do("POST", "/api/v2/users/search", `{"query":[{"type":"EXACT","fields":["email"],"value":"emp-0001@example.com"}]}`)
		}, true},
		{"another by search", "find:500:user=EMP-0002", func(g *guest) reply {
			return g.do("POST", "/api/v2/users/search", `{"query":[{"type":"EXACT","fields":["email"],"value":"emp-0001@example.com"}]}`)
		}, false},
		{"somebody who does not exist", "find:500:user=EMP-9999", func(g *guest) reply { return g.get("/api/v2/users/externalid/hris/EMP-9999") }, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g := visit(t, Org(2))
			g.inject(tt.fault)
			if r := tt.send(g); (r.status == 500) != tt.hit {
				t.Errorf("%d %s", r.status, r.body)
			}
		})
	}
}

func TestFaultsAreCountedAndTakeTurns(t *testing.T) {
	g := visit(t, one())
	g.inject("read:500:after=1:times=2", "read:503:times=1", "patch:404")
	var got []int
	for range 5 {
		got = append(got, g.get("/api/v2/users").status)
	}
	// The first lets one pass, which the second takes.
	if !slices.Equal(got, []int{503, 500, 500, 200, 200}) {
		t.Errorf("%v", got)
	}
	if in := g.s.Faults(); in[0].Seen != 3 || in[0].Fired != 2 || in[1].Fired != 1 || in[2].Seen != 0 {
		t.Errorf("%+v", in)
	}
	g.s.Inject(Fault{Kind: "500"})
	g.s.ClearFaults()
	g.get("/api/v2/users").want(t, 200, "")
	if n := len(g.s.Faults()); n != 0 {
		t.Errorf("%d faults left", n)
	}
}

func TestTheTextFormOfAFault(t *testing.T) {
	tests := []struct {
		text string
		want Fault
	}{
		{"patch:reset-after:times=1", Fault{Op: "patch", Kind: "reset-after", Times: 1}},
		{"read:429:retry-after=3600", Fault{Op: "read", Kind: "429", RetryAfter: time.Hour}},
		{" any:429:retry-after-date=5:after=2 ", Fault{Op: "any", Kind: "429", RetryAfter: 5 * time.Second, HTTPDate: true, After: 2}},
		{":500", Fault{Op: "any", Kind: "500"}},
		{"any:drop:user=EMP-0001", Fault{Op: "patch", Kind: "drop", User: "EMP-0001"}},
		{"read:expand", Fault{Op: "read_batch", Kind: "expand"}},
		{"patch:stale:form=412", Fault{Op: "patch", Kind: "stale", Form: "412"}},
		{"find:slow:for=250ms", Fault{Op: "find", Kind: "slow", For: 250 * time.Millisecond}},
	}
	for _, tt := range tests {
		t.Run(tt.text, func(t *testing.T) {
			got, err := ParseFault(tt.text)
			if err != nil || got != tt.want {
				t.Fatalf("%+v, %v; want %+v", got, err, tt.want)
			}
			if again, err := ParseFault(got.String()); err != nil || again != got {
				t.Errorf("%s reads back as %+v, %v", got, again, err)
			}
		})
	}
	wrong := []struct{ name, text, says string }{
		{"nothing", "", "reset-before"},
		{"no kind", "patch", "kinds: 429, 429-bare"},
		{"unknown kind", "patch:explode", `unknown kind "explode"; kinds: 429`},
		{"unknown op", "delete:500", `unknown op "delete"; ops: any, token`},
		{"unknown key", "patch:500:retry-after=1", "keys: times, after, user"},
		{"a number that is none", "patch:500:times=many", "times: want a whole number"},
		{"a negative number", "patch:500:after=-1", "after: want a whole number"},
		{"no value", "patch:500:times", "times: want a whole number"},
		{"a duration that is none", "any:slow:for=5", "want a duration such as 250ms"},
		{"a Retry-After beyond reason", "any:429:retry-after=99999999", "want seconds, at most 2592000"},
		{"unknown form", "patch:stale:form=500", "want 400, 409, 412"},
		{"no user", "patch:500:user=", "want an id"},
		{"a kind that cannot fall there", "read:drop", "drop falls on patch only, not on read"},
		{"a single read is not expanded", "find:expand", "expand falls on read_batch only"},
	}
	for _, tt := range wrong {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := ParseFault(tt.text); err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("error %v, want one with %q", err, tt.says)
			}
		})
	}
}

func TestInjectingWhatCannotBePanics(t *testing.T) {
	for name, f := range map[string]Fault{
		"unknown kind": {Kind: "explode"}, "unknown op": {Kind: "500", Op: "delete"}, "unknown form": {Kind: "stale", Form: "x"},
		"wrong op": {Kind: "drop", Op: "read"}, "negative": {Kind: "500", Times: -1},
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("accepted")
				}
			}()
			New(Config{}).Inject(f)
		})
	}
}

func TestTheHelpNamesEveryKindAndOperation(t *testing.T) {
	help := FaultHelp
	for _, k := range kinds {
		if !strings.Contains(help, "  "+k.name+" ") || k.help == "" {
			t.Errorf("%s is missing", k.name)
		}
	}
	for _, op := range faultOps {
		if !strings.Contains(help, op) {
			t.Errorf("%s is missing", op)
		}
	}
}

func FuzzParseFault(f *testing.F) {
	for _, s := range []string{"patch:reset-after:times=1", "read:429:retry-after=3600", "any:slow:for=1s:user=a:after=3", "patch:stale:form=409", "::", "a:b:c=d"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := ParseFault(text)
		if err != nil {
			return
		}
		if again, err := ParseFault(got.String()); err != nil || again != got {
			t.Errorf("%q: %+v reads back as %+v, %v", text, got, again, err)
		}
		New(Config{}).Inject(got) // whatever parses can be injected
	})
}
