package sandbox

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// fifty are skills enough to be one too many with one more.
func fifty() (names []string, value string) {
	var items []string
	for i := range 50 {
		names = append(names, fmt.Sprintf("S%02d", i))
		items = append(items, fmt.Sprintf(`{"name":"S%02d","proficiency":1.0}`, i))
	}
	return names, "[" + strings.Join(items, ",") + "]"
}

func TestAPatchOfSkills(t *testing.T) {
	names, all := fifty()
	cfg := Config{
		Users:  []User{{ExternalID: "EMP-0001", Skills: []Skill{{"Spanish", 3}, {"Billing", 1}}}},
		Skills: append(names, "Sales", `Say "hi"`),
	}
	const billing = `[{"name":"Billing","proficiency":4.0}]`
	op := func(rest string) string { return patchHead + `{` + rest + `}]}` }
	tests := []struct {
		name, body string
		status     int
		code       string
		want       string // skills afterwards; "" = as before
	}{
		{"replace swaps the set", setSkills("replace", billing), 200, "", "Billing=4"},
		{"replace by nothing empties", setSkills("replace", "[]"), 200, "", "none"},
		{"add merges by name", setSkills("add", `[{"name":"Billing","proficiency":2.5},{"name":"Sales","proficiency":0.0}]`), 200, "", "Billing=2.5,Sales=0,Spanish=3"},
		{"remove empties", op(`"op":"remove","path":"` + urnSkills + `"`), 200, "", "none"},
		{"remove of one", op(`"op":"remove","path":"` + urnSkills + `[name eq \"Billing\"]"`), 200, "", "Spanish=3"},
		{"remove of one that is not there", op(`"op":"remove","path":"` + urnSkills + `[name eq \"Sales\"]"`), 400, "noTarget", ""},
		{"the operation has no case", setSkills("REPLACE", billing), 200, "", "Billing=4"},
		{"proficiency is optional", setSkills("replace", `[{"name":"Sales"}]`), 200, "", "Sales=0"},
		{"the value names the attribute", op(`"op":"add","value":{"` + urnUser + `":{"routingSkills":[{"name":"Sales","proficiency":1.0}]}}`), 200, "", "Billing=1,Sales=1,Spanish=3"},
		{"operations in order", patchHead + `{"op":"remove","path":"` + urnSkills + `"},{"op":"add","path":"` + urnSkills + `","value":` + billing + `}]}`, 200, "", "Billing=4"},
		{"PatchOp among other schemas", strings.Replace(setSkills("replace", billing), `["urn`, `["urn:x","urn`, 1), 200, "", "Billing=4"},
		{"fifty skills", setSkills("replace", all), 200, "", "*"},
		{"fifty skills and the two there are", setSkills("add", all), 400, "invalidValue", ""},
		{"fifty-one skills", setSkills("replace", strings.Replace(all, "[", `[{"name":"Sales","proficiency":1.0},`, 1)), 400, "invalidValue", ""},

		{"no schemas", `{"Operations":[{"op":"replace","path":"` + urnSkills + `","value":[]}]}`, 400, "invalidSyntax", ""},
		{"schemas without PatchOp", strings.Replace(setSkills("replace", billing), "PatchOp", "Patch", 1), 400, "invalidSyntax", ""},
		{"schemas as a string", strings.NewReplacer(`["urn`, `"urn`, `PatchOp"]`, `PatchOp"`).Replace(setSkills("replace", billing)), 400, "invalidSyntax", ""},
		{"lower-case operations", strings.Replace(setSkills("replace", billing), "Operations", "operations", 1), 400, "invalidSyntax", ""},
		{"no operations", patchHead + `]}`, 400, "invalidSyntax", ""},
		{"an operation that is no object", patchHead + `1]}`, 400, "invalidSyntax", ""},
		{"no op", op(`"path":"` + urnSkills + `","value":[]`), 400, "invalidSyntax", ""},
		{"unknown op", setSkills("move", billing), 400, "invalidSyntax", ""},
		{"op in capitals as a member", op(`"OP":"replace","path":"` + urnSkills + `","value":[]`), 400, "invalidSyntax", ""},
		{"no JSON", `{"schemas"`, 400, "invalidSyntax", ""},
		{"text behind the JSON", setSkills("replace", billing) + "x", 400, "invalidSyntax", ""},
		{"null", "null", 400, "invalidSyntax", ""},
		{"an empty body", "", 400, "invalidSyntax", ""},
		{"remove without a path", op(`"op":"remove"`), 400, "noTarget", ""},
		{"a path that is no string", op(`"op":"add","path":1,"value":[]`), 400, "invalidPath", ""},
		{"the short path", op(`"op":"replace","path":"routingSkills","value":[]`), 400, "invalidPath", ""},
		{"another attribute", op(`"op":"replace","path":"` + urnUser + `:routingLanguages","value":[]`), 400, "invalidPath", ""},
		{"an extension of no platform", op(`"op":"replace","path":"urn:ietf:params:scim:schemas:extension:genesyscloud:2.0:User:customAttributes","value":{"attributes":[]}`), 400, "invalidPath", ""},
		{"the value names another attribute", op(`"op":"add","value":{"` + urnUser + `":{"routingLanguages":[]}}`), 400, "invalidPath", ""},
		{"no value", op(`"op":"replace","path":"` + urnSkills + `"`), 400, "invalidValue", ""},
		{"a null value", setSkills("replace", "null"), 400, "invalidValue", ""},
		{"a value that is no array", setSkills("replace", `{"name":"Sales","proficiency":1.0}`), 400, "invalidValue", ""},
		{"an unknown skill", setSkills("replace", `[{"name":"Juggling","proficiency":1.0}]`), 400, "invalidValue", ""},
		{"a skill in the wrong case", setSkills("replace", `[{"name":"billing","proficiency":1.0}]`), 400, "invalidValue", ""},
		{"a skill without a name", setSkills("replace", `[{"proficiency":1.0}]`), 400, "invalidValue", ""},
		{"a skill twice", setSkills("replace", `[{"name":"Sales","proficiency":1.0},{"name":"Sales","proficiency":2.0}]`), 400, "invalidValue", ""},
		{"an integer", setSkills("replace", `[{"name":"Sales","proficiency":4}]`), 400, "invalidValue", ""},
		{"a number as text", setSkills("replace", `[{"name":"Sales","proficiency":"4.0"}]`), 400, "invalidValue", ""},
		{"below the scale", setSkills("replace", `[{"name":"Sales","proficiency":-0.1}]`), 400, "invalidValue", ""},
		{"above the scale", setSkills("replace", `[{"name":"Sales","proficiency":5.1}]`), 400, "invalidValue", ""},
		{"all or nothing", patchHead + `{"op":"add","path":"` + urnSkills + `","value":` + billing + `},{"op":"add","path":"x","value":1}]}`, 400, "invalidPath", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g := visit(t, cfg)
			r := g.patch(emp1, tt.body)
			r.want(t, tt.status, tt.code)
			got, version := g.skills(emp1), g.get("/api/v2/users/"+emp1).get(t, "version")
			if tt.status != 200 {
				if got != "Billing=1,Spanish=3" || version != 1.0 {
					t.Errorf("a refused patch changed the user: %s, version %v", got, version)
				}
				if r.get(t, "status") != "400" || r.get(t, "schemas", 0) != "urn:ietf:params:scim:api:messages:2.0:Error" || r.header.Get("Content-Type") != "application/scim+json" {
					t.Errorf("no SCIM error: %s", r.body)
				}
				return
			}
			want := strings.TrimPrefix(tt.want, "none")
			if tt.want != "*" && got != want {
				t.Errorf("skills %s, want %s", got, want)
			}
			if answered := join(r.get(t, urnUser, "routingSkills")); answered != got {
				t.Errorf("answered %s, stored %s", answered, got)
			}
			if version != 2.0 || r.get(t, "meta", "version") != "2" || r.header.Get("ETag") != `"2"` {
				t.Errorf("version %v, meta %v, ETag %s", version, r.get(t, "meta", "version"), r.header.Get("ETag"))
			}
		})
	}
}

func TestIntegersAreAcceptedWhereTheSwitchSaysSo(t *testing.T) {
	cfg := one()
	cfg.AllowIntegers = true
	g := visit(t, cfg)
	g.patch(emp1, setSkills("replace", `[{"name":"Sales","proficiency":4}]`)).want(t, 200, "")
	r := g.get("/api/v2/users/" + emp1 + "/routingskills")
	if !strings.Contains(r.body, `"proficiency":4.0`) {
		t.Errorf("no decimal in %s", r.body)
	}
}

func TestBothMediaTypesAreAcceptedAndNoOthers(t *testing.T) {
	g := visit(t, one())
	body := setSkills("replace", "[]")
	for typ, status := range map[string]int{
		"application/scim+json": 200, "application/json": 200, "application/json; charset=utf-8": 200,
		"": 415, "text/plain": 415, "application/xml": 415, "application/merge-patch+json": 415,
	} {
		g.patch(emp1, body, "Content-Type", typ).want(t, status, "unsupported.media.type")
	}
	g.do("PATCH", "/api/v2/scim/users/"+emp1, body, "Content-Type", "application/json").want(t, 200, "")
}

func TestAPatchOfSomebodyWhoCannotBePatched(t *testing.T) {
	g := visit(t, Config{
		Divisions: []string{"Home"},
		Users: []User{
			{ExternalID: "EMP-0001"},
			{ExternalID: "EMP-0002", State: "deleted"},
			{ExternalID: "EMP-0003", Division: "Elsewhere"},
			{ExternalID: "EMP-0004", State: "inactive"},
		},
	})
	body := setSkills("replace", "[]")
	g.patch(UserID("EMP-0001"), body).want(t, 200, "")
	g.patch(UserID("EMP-0002"), body).want(t, 404, "general.resource.not.found")
	g.patch(UserID("EMP-0003"), body).want(t, 403, "missing.division.permission")
	g.patch(UserID("EMP-0004"), body).want(t, 200, "")
	g.patch("EMP-0001", body).want(t, 404, "general.resource.not.found")
}

func TestAVersionIsHeldAgainstTheStoredOne(t *testing.T) {
	tests := []struct {
		name, form, header string
		status             int
		code               string
	}{
		{"the version", "", `"3"`, 200, ""},
		{"any version", "", `*`, 200, ""},
		{"one of several", "", `"1", "3"`, 200, ""},
		{"a stale one", "", `"2"`, 400, "invalidVers"},
		{"a stale one, as 409", "409", `"2"`, 409, "invalidVers"},
		{"a stale one, as 412", "412", `"2"`, 412, "general.conflict"},
		{"one from the future", "", `"4"`, 400, "invalidVers"},
		{"a weak one never matches", "", `W/"3"`, 400, "invalidVers"},
		{"one without quotes is malformed", "", `3`, 400, "bad.request"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g := visit(t, Config{Users: []User{{ExternalID: "EMP-0001", Version: 3}}, Stale: tt.form, Skills: []string{"Sales"}})
			r := g.patch(emp1, setSkills("replace", `[{"name":"Sales","proficiency":1.0}]`), "If-Match", tt.header)
			r.want(t, tt.status, tt.code)
			if changed := g.skills(emp1) != ""; changed != (tt.status == 200) {
				t.Errorf("changed: %v", changed)
			}
		})
	}
}

func TestAnOutsideEditMakesTheVersionStale(t *testing.T) {
	g := visit(t, one())
	v := g.get("/api/v2/scim/v2/users/" + emp1).header.Get("ETag")
	if !g.s.SetSkills("EMP-0001", []Skill{{"Spanish", 2}}) {
		t.Fatal("no such user")
	}
	g.patch(emp1, setSkills("replace", "[]"), "If-Match", v).want(t, 400, "invalidVers")
	if got := g.skills(emp1); got != "Spanish=2" {
		t.Errorf("skills %s", got)
	}
	if g.s.SetSkills("nobody", nil) {
		t.Error("edited nobody")
	}
}

func TestAnUnchangedSCIMUserIs304(t *testing.T) {
	g := visit(t, one())
	const path = "/api/v2/scim/v2/users/"
	r := g.get(path + emp1)
	r.want(t, 200, "")
	if r.header.Get("Content-Type") != "application/scim+json" || r.get(t, "meta", "version") != "1" || r.get(t, "active") != true {
		t.Errorf("%s", r.body)
	}
	if r.get(t, urnUser, "externalIds", 0, "value") != "EMP-0001" || r.get(t, urnUser, "externalIds", 0, "authority") != "hris" {
		t.Errorf("external ids: %s", r.body)
	}
	for tag, status := range map[string]int{`"1"`: 304, `W/"1"`: 304, `"0", "1"`: 304, `*`: 304, `"2"`: 200} {
		r := g.do("GET", path+emp1, "", "If-None-Match", tag)
		if r.status != status || r.header.Get("ETag") != `"1"` {
			t.Errorf("%s: %d, ETag %s", tag, r.status, r.header.Get("ETag"))
		}
	}
	g.get(path+"nobody").want(t, 404, "general.resource.not.found")
}

func TestTwoPatchesOfOneUserAtOnceConflict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := Org(2)
		cfg.PatchLatency = 2 * time.Second
		g := visit(t, cfg)
		body := setSkills("replace", `[{"name":"Sales","proficiency":1.0}]`)
		first, other := make(chan reply, 1), make(chan reply, 1)
		go func() { first <- g.patch(emp1, body) }()
		go func() { other <- g.patch(UserID("EMP-0002"), body) }()
		synctest.Wait()
		conflict := g.patch(emp1, body)
		conflict.want(t, 409, "")
		if conflict.get(t, "status") != "409" {
			t.Errorf("no SCIM error: %s", conflict.body)
		}
		g.get("/api/v2/users/"+emp1).want(t, 200, "") // reads go on
		if got := g.skills(emp1); got != "" {
			t.Errorf("took effect early: %s", got)
		}
		(<-first).want(t, 200, "")
		(<-other).want(t, 200, "")
		g.patch(emp1, body).want(t, 200, "")
	})
}

func TestAUserWhoDropsIsAnsweredAsIfDone(t *testing.T) {
	cfg := Config{Users: []User{{ExternalID: "EMP-0001", Drop: true}}, Skills: []string{"Sales"}, Rules: []Rule{{"department", "Sales", "Sales", 1}}}
	g := visit(t, cfg)
	r := g.patch(emp1, setSkills("replace", `[{"name":"Sales","proficiency":1.0}]`))
	r.want(t, 200, "")
	if got := join(r.get(t, urnUser, "routingSkills")); got != "Sales=1" {
		t.Errorf("answered %s", got)
	}
	g.patchAttributes(emp1, "replace", "department", "Sales").want(t, 200, "")
	if u, _ := g.s.User(emp1); len(u.Skills) != 0 || u.Version != 1 || len(u.Attributes) != 0 {
		t.Errorf("stored %+v", u)
	}
	if n := g.s.Stats().Patches; n != 0 {
		t.Errorf("%d patches counted as stored", n)
	}
}

func TestSchemasNameTheExtension(t *testing.T) {
	g := visit(t, one())
	r := g.get("/api/v2/scim/v2/schemas")
	r.want(t, 200, "")
	list := r.get(t, "Resources").([]any)
	if r.get(t, "totalResults") != float64(len(list)) || !strings.Contains(r.body, `"id":"`+urnUser+`"`) {
		t.Errorf("%s", r.body)
	}
}
