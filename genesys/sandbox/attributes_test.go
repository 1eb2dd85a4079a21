package sandbox

import (
	"testing"
	"testing/synctest"
	"time"
)

// assigned is the brief read side: name=level, in order.
func (g *guest) assigned(id string) string {
	g.t.Helper()
	r := g.get("/api/v2/users/" + id + "/routing/skills")
	r.want(g.t, 200, "")
	list, _ := r.get(g.t, "entities").([]any)
	var out string
	for _, e := range list {
		m := e.(map[string]any)
		out += m["skill"].(map[string]any)["name"].(string) + "=" + m["proficiencyLevel"].(map[string]any)["name"].(string) + ";"
	}
	return out
}

func TestAttributesBecomeSkillsByTheRules(t *testing.T) {
	rules := []Rule{
		{"department", "Support-Tier2", "Tier 2 Support", 4},
		{"department", "Sales", "Sales", 2.5},
		{"level", "3", "Sales", 3},
	}
	type write struct {
		op    string
		pairs []string
	}
	tests := []struct {
		name   string
		writes []write
		want   string
	}{
		{"no rule", []write{{"replace", []string{"department", "HR"}}}, "Spanish=3;"},
		{"one rule", []write{{"replace", []string{"department", "Support-Tier2"}}}, "Spanish=3;Tier 2 Support=4;"},
		{"a level that is not whole", []write{{"replace", []string{"department", "Sales"}}}, "Sales=2.5;Spanish=3;"},
		{"of two rules for a skill the higher", []write{{"replace", []string{"department", "Sales", "level", "3"}}}, "Sales=3;Spanish=3;"},
		{"add merges", []write{{"replace", []string{"department", "Support-Tier2"}}, {"add", []string{"level", "3"}}}, "Sales=3;Spanish=3;Tier 2 Support=4;"},
		{"replace swaps", []write{{"replace", []string{"department", "Support-Tier2"}}, {"replace", []string{"level", "3"}}}, "Sales=3;Spanish=3;"},
		{"nothing takes what rules own", []write{{"replace", []string{"department", "Sales"}}, {"replace", nil}}, "Spanish=3;"},
		{"add over an old value", []write{{"add", []string{"department", "Sales"}}, {"ADD", []string{"department", "Support-Tier2"}}}, "Spanish=3;Tier 2 Support=4;"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g := visit(t, Config{Serve: CustomAttributes, Rules: rules, Users: []User{{ExternalID: "EMP-0001", Skills: []Skill{{"Spanish", 3}}}}})
			for _, w := range tt.writes {
				g.patchAttributes(emp1, w.op, w.pairs...).want(t, 200, "")
			}
			if got := g.assigned(emp1); got != tt.want {
				t.Errorf("skills %s, want %s", got, tt.want)
			}
		})
	}
}

func TestAPatchOfAttributesThatIsWrong(t *testing.T) {
	const path = `urn:ietf:params:scim:schemas:extension:genesyscloud:2.0:User:customAttributes`
	op := func(rest string) string { return `{"Operations":[{` + rest + `}]}` }
	tests := []struct{ name, body, code string }{
		{"wrong schemas", `{"schemas":["x"],"Operations":[{"op":"add","path":"` + path + `","value":{"attributes":[]}}]}`, "invalidSyntax"},
		{"the platform's path", op(`"op":"add","path":"` + urnSkills + `","value":[]`), "invalidPath"},
		{"no path", op(`"op":"add","value":{"attributes":[]}`), "invalidPath"},
		{"remove", op(`"op":"remove","path":"` + path + `"`), "mutability"},
		{"a bare list", op(`"op":"add","path":"` + path + `","value":[]`), "invalidValue"},
		{"no attributes", op(`"op":"add","path":"` + path + `","value":{}`), "invalidValue"},
		{"a number as value", op(`"op":"add","path":"` + path + `","value":{"attributes":[{"name":"a","value":1}]}`), "invalidValue"},
		{"a null value", op(`"op":"add","path":"` + path + `","value":{"attributes":[{"name":"a","value":null}]}`), "invalidValue"},
		{"no name", op(`"op":"add","path":"` + path + `","value":{"attributes":[{"value":"x"}]}`), "invalidValue"},
		{"a name twice", op(`"op":"add","path":"` + path + `","value":{"attributes":[{"name":"a","value":"x"},{"name":"a","value":"y"}]}`), "invalidValue"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := one()
			cfg.Serve = CustomAttributes
			g := visit(t, cfg)
			g.do("PATCH", "/scim/v2/Users/"+emp1, tt.body, "Content-Type", "application/json").want(t, 400, tt.code)
			if u, _ := g.s.User(emp1); u.Version != 1 || len(u.Attributes) != 0 {
				t.Errorf("stored %+v", u)
			}
		})
	}
}

func TestTheAnswerToAttributesIsTheWholeUser(t *testing.T) {
	g := visit(t, one())
	r := g.patchAttributes(emp1, "replace", "region", "EMEA", "department", "Sales")
	r.want(t, 200, "")
	ext := "urn:ietf:params:scim:schemas:extension:genesyscloud:2.0:User"
	if r.get(t, ext, "customAttributes", "attributes", 0, "name") != "department" || r.get(t, "id") != emp1 || r.get(t, "externalId") != "EMP-0001" {
		t.Errorf("%s", r.body)
	}
}

func TestProvisioningTakesItsTimeAndAnotherPatchStartsItAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := one()
		cfg.ProvisionLag, cfg.ReadLag = 10*time.Second, 5*time.Second
		g := visit(t, cfg)
		g.patchAttributes(emp1, "replace", "department", "Sales").want(t, 200, "")
		time.Sleep(9 * time.Second)
		g.patchAttributes(emp1, "add", "department", "Billing").want(t, 200, "")
		time.Sleep(10*time.Second - 1)
		if u, _ := g.s.User(emp1); len(u.Skills) != 0 {
			t.Fatalf("the rules ran early: %s", listed(u.Skills))
		}
		time.Sleep(time.Nanosecond)
		if u, _ := g.s.User(emp1); listed(u.Skills) != "Billing=4" {
			t.Fatalf("stored %s", listed(u.Skills))
		}
		if got := g.assigned(emp1); got != "" {
			t.Fatalf("shown early: %s", got)
		}
		time.Sleep(5 * time.Second)
		if got := g.assigned(emp1); got != "Billing=4;" {
			t.Errorf("shown %s", got)
		}
	})
}

func TestRulesTakeEffectWhenDueAndNotWhenSomebodyLooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := one()
		cfg.ProvisionLag, cfg.ReadLag = time.Second, 5*time.Second
		g := visit(t, cfg)
		g.patchAttributes(emp1, "replace", "department", "Sales").want(t, 200, "")
		time.Sleep(6 * time.Second) // nobody looked at the end of the first second
		if got := g.assigned(emp1); got != "Sales=4;" {
			t.Errorf("shown %q", got)
		}
	})
}

func TestLevelsCanHaveTheOrganisationsOwnWords(t *testing.T) {
	cfg := one()
	cfg.Levels = map[float64]string{4: "Expert"}
	cfg.Users[0].Skills = []Skill{{"Sales", 4}, {"Billing", 3.5}}
	g := visit(t, cfg)
	if got := g.assigned(emp1); got != "Billing=3.5;Sales=Expert;" {
		t.Errorf("%s", got)
	}
}

func TestTheQuerySearchFindsByExternalID(t *testing.T) {
	cfg := Config{Serve: CustomAttributes, Users: []User{
		{ID: "a", ExternalID: "EMP-1"},
		{ID: "b", ExternalID: "EMP-2"},
		{ID: "c", ExternalID: "EMP-2"},
		{ID: "d", ExternalID: "EMP-3", State: "deleted"},
		{ID: "e", ExternalID: "EMP-4", Email: "E@example.com", State: "inactive"},
	}}
	g := visit(t, cfg)
	tests := []struct {
		name, query string
		status      int
		total       float64
		first       any
	}{
		{"one", `externalId%3A%22EMP-1%22`, 200, 1, "a"},
		{"two with one id", `externalId:%22EMP-2%22`, 200, 2, "b"},
		{"a deleted one", `externalId:%22EMP-3%22`, 200, 0, nil},
		{"an inactive one", `externalId:%22EMP-4%22`, 200, 1, "e"},
		{"another case", `externalId:%22emp-1%22`, 200, 0, nil},
		{"by email", `email:%22e@EXAMPLE.com%22`, 200, 1, "e"},
		{"no quotes", `externalId:EMP-1`, 400, 0, nil},
		{"an unknown field", `shoeSize:%2243%22`, 400, 0, nil},
		{"nothing", ``, 400, 0, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := g.get("/api/v2/users/search?query=" + tt.query)
			if r.status != tt.status {
				t.Fatalf("%d %s", r.status, r.body)
			}
			if tt.status == 200 && (r.get(t, "total") != tt.total || r.get(t, "results", 0, "id") != tt.first) {
				t.Errorf("%s", r.body)
			}
		})
	}
}

func TestTheQuerySearchIsNotOfThePlatform(t *testing.T) {
	cfg := one()
	cfg.Serve = RoutingSkills
	visit(t, cfg).get(`/api/v2/users/search?query=externalId:%22EMP-0001%22`).want(t, 400, "bad.request")
}

func TestRulesRunOnceForEachWriteOfAttributes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := one()
		cfg.ProvisionLag = time.Second
		g := visit(t, cfg)
		g.patchAttributes(emp1, "replace", "department", "Sales").want(t, 200, "")
		time.Sleep(time.Second)
		if got := g.assigned(emp1); got != "Sales=4;" {
			t.Fatalf("shown %s", got)
		}
		g.s.SetSkills(emp1, nil) // an administrator knows better
		time.Sleep(time.Hour)
		if got := g.assigned(emp1); got != "" {
			t.Errorf("the rules ran again: %s", got)
		}
	})
}

func TestRulesThatWereDueRunBeforeTheNextPatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := one()
		cfg.ProvisionLag = time.Second
		g := visit(t, cfg)
		g.patchAttributes(emp1, "replace", "department", "Sales").want(t, 200, "")
		time.Sleep(time.Second)
		g.patch(emp1, setSkills("replace", "[]"), "If-Match", `"3"`).want(t, 200, "") // attributes, rules
		if u, _ := g.s.User(emp1); len(u.Skills) != 0 || u.Version != 4 {
			t.Errorf("%+v", u)
		}
	})
}
