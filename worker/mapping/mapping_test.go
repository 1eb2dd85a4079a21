package mapping

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"skillsync/genesys"
	"skillsync/worker/employee"
)

func decode(t testing.TB, doc string) employee.Record {
	t.Helper()
	rec, err := employee.Decode([]byte(doc))
	if err != nil {
		t.Fatal(err)
	}
	return rec
}

// record is a record with the fields, given as the inside of a JSON object.
func record(t testing.TB, fields string) employee.Record {
	t.Helper()
	return decode(t, strings.TrimSuffix(`{"employee_id":"E",`+fields, ",")+"}")
}

func TestTheDefaultMappingIsTheBriefs(t *testing.T) {
	m := Default()
	got, err := m.Desired(record(t, `"department":"Support-Tier2","role_level":"Level3","location_code":"US-East"`))
	if err != nil {
		t.Fatal(err)
	}
	want := Desired{
		Attributes: []genesys.Attribute{
			{Name: "clearance_level", Value: "Level3"}, {Name: "department", Value: "Support-Tier2"}, {Name: "region", Value: "US-East"},
		},
		Skills: []genesys.Skill{{Name: "Tier 2 Support", Proficiency: 4}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if diff := cmp.Diff([]string{"Tier 2 Support"}, m.Owned()); diff != "" {
		t.Errorf("owned (-want +got)\n%s", diff)
	}
	if m.RemoveUnowned() {
		t.Error("removes skills that no rule names")
	}
	for _, r := range m.Test() {
		if !r.OK {
			t.Errorf("its own test fails: %v", r.Diff)
		}
	}
}

func TestAttributesAreWhatTheirExpressionsYield(t *testing.T) {
	const fields = "fields: {grade: number, remote: bool, code: string, note: string}\nattributes:\n  x: |\n    "
	for _, test := range []struct{ name, expression, record, want string }{
		{"a string as it is", `team`, `"team":" Ä b "`, " Ä b "},
		{"a number without an exponent", `grade`, `"grade":1e6`, "1000000"},
		{"a fraction, shortest", `grade`, `"grade":2.50`, "2.5"},
		{"an integer from a function", `len(team)`, `"team":"abc"`, "3"},
		{"a boolean", `remote`, `"remote":false`, "false"},
		{"a comparison", `team == "x"`, `"team":"x"`, "true"},
		{"a number in a field of strings, as written", `code`, `"code":7.50`, "7.50"},
		{"a boolean in a field of strings", `code`, `"code":true`, "true"},
		{"a string in a field of numbers", `grade + 1`, `"grade":"2.5"`, "3.5"},
		{"a string in a field of booleans", `remote ? "home" : "office"`, `"remote":"TRUE"`, "home"},
		{"a version in quotes", `version`, `"version":"42","team":"x"`, "42"},
		{"an empty result is left out", `trim(team)`, `"team":"  "`, ""},
		{"a condition that yields nothing is left out", `remote ? "x" : ""`, `"remote":false`, ""},
		{"an absent field", `note`, `"team":"x","note":null`, ""},
		{"an empty field is absent", `note == ""`, `"note":"","team":"x"`, ""},
		{"all that is read is absent", `note + "-" + code`, `"team":"x"`, ""},
		{"something that is read is there", `note + "-" + code`, `"note":"n"`, "n-"},
		{"a constant", `"x"`, `"team":"t"`, "x"},
		{"a constant number", `7`, `"team":"t"`, "7"},
		{"functions of text", `upper(first(split(team, "-"))) + replace(code, "a", "") + last(split(team, "-"))`, `"team":"a-b","code":"xay"`, "Axyb"},
		{"an element of a split", `split(team, "-")[1]`, `"team":"a-b-c"`, "b"},
		{"a pipe", `team | trimPrefix("EU-") | lower()`, `"team":"EU-West"`, "west"},
		{"the text of a number", `"v" + string(grade) + string(remote) + string(len(team)) + string(code)`, `"grade":1e6,"remote":true,"team":"ab","code":"c"`, "v1000000true2c"},
		{"numbers of two types", `remote ? 4 : 2.5`, `"remote":true`, "4"},
		{"a number in a list", `grade in [1, 2]`, `"grade":1`, "true"},
		{"a fraction in a list", `grade in [1.5, 2]`, `"grade":2.0`, "true"},
		{"a string in a list", `team in ["a", "b"]`, `"team":"b"`, "true"},
		{"a list of strings", `"de" in split(code, ";")`, `"code":"fr;de"`, "true"},
		{"a pattern", `team matches "^EU-[A-Z]"`, `"team":"EU-West"`, "true"},
		{"arithmetic", `min(5, max(grade * 2 - 1, round(grade / 3)))`, `"grade":2`, "3"},
		{"integers", `int(grade) % 3`, `"grade":"8"`, "2"},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := parse(t, fields+test.expression+"\n  y: team\n")
			m.hasInput = false // not the subject here
			got, err := m.Desired(record(t, test.record))
			if err != nil {
				t.Fatal(err)
			}
			if value := attributeMap(got.Attributes)["x"]; value != test.want {
				t.Errorf("got %q, want %q", value, test.want)
			}
			if _, there := attributeMap(got.Attributes)["x"]; there != (test.want != "") {
				t.Errorf("left out: %v", !there)
			}
		})
	}
}

func TestARecordThatCannotBeMappedIsInvalidAndNoValueIsQuoted(t *testing.T) {
	const file = `
fields: {grade: number, remote: bool, code: string}
attributes: {%s}
skills:
  - {skill: A, proficiency: %s, when: %s}
`
	for _, test := range []struct{ name, attributes, proficiency, when, record, want string }{
		{"a word for a number", "x: grade", "1", "true", `"grade":"s3cret"`, "grade: must be a number"},
		{"a boolean for a number", "x: grade", "1", "true", `"grade":true`, "grade: must be a number"},
		{"a number too large", "x: grade", "1", "true", `"grade":1e999`, "grade: must be a number"},
		{"infinity", "x: grade", "1", "true", `"grade":"Inf"`, "grade: must be a number"},
		{"no number", "x: grade", "1", "true", `"grade":"NaN"`, "grade: must be a number"},
		{"a hexadecimal number", "x: grade", "1", "true", `"grade":"0x10"`, "grade: must be a number"},
		{"a word for a boolean", "x: remote", "1", "true", `"remote":"s3cret"`, "remote: must be true or false"},
		{"a number for a boolean", "x: remote", "1", "true", `"remote":1`, "remote: must be true or false"},
		{"a proficiency too high", "x: team", "grade", "true", `"grade":5.01`, "grade: skills[0].proficiency of the mapping gives no proficiency from 0 to 5 from it"},
		{"a proficiency that is infinite", "x: team", "1 / grade", "true", `"grade":0`, "grade: skills[0].proficiency of the mapping gives no proficiency from 0 to 5 from it"},
		{"a proficiency that is no number", "x: team", "grade / grade", "true", `"grade":0`, "grade: skills[0].proficiency of the mapping gives no proficiency from 0 to 5 from it"},
		{"an attribute that is infinite", "x: 1 / grade", "1", "true", `"grade":0`, "grade: attributes.x of the mapping gives no finite number from it"},
		{"a text that is no integer", "x: int(code)", "1", "true", `"code":"s3cret"`, "code: attributes.x of the mapping cannot be computed from it"},
		{"too few parts", `x: 'split(code, "-")[2]'`, "1", "true", `"code":"s3cret"`, "code: attributes.x of the mapping cannot be computed from it"},
		{"a division by zero in a condition", "x: team", "1", "1 % int(grade) == 0", `"grade":0`, "grade: skills[0].when of the mapping cannot be computed from it"},
		{"a replacement without bound", `x: 'replace(code, "", code)'`, "1", "true", `"code":"` + strings.Repeat("s3cret", 200) + `"`, "code: attributes.x of the mapping cannot be computed from it"},
		{"an expression of two fields", "x: int(code + team)", "1", "true", `"code":"s3cret"`, "code, team: attributes.x of the mapping cannot be computed from it"},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := parse(t, fmt.Sprintf(file, test.attributes, test.proficiency, test.when))
			got, err := m.Desired(record(t, test.record))
			var invalid *employee.InvalidError
			if !errors.As(err, &invalid) {
				t.Fatalf("%+v, %v; want an *employee.InvalidError", got, err)
			}
			if err.Error() != test.want {
				t.Errorf("got  %s\nwant %s", err, test.want)
			}
			again, err := Default().Desired(record(t, `"department":"x"`)) // with the same pooled VM
			if err != nil || len(again.Attributes) != 1 {
				t.Errorf("the next record suffers: %+v, %v", again, err)
			}
		})
	}
}

func TestOfSeveralBadFieldsTheFirstByNameIsReported(t *testing.T) {
	m := parse(t, "fields: {a: number, b: number, c: number, d: number}\nattributes: {x: d + c + b, y: a + d}\n")
	for range 20 {
		_, err := m.Desired(record(t, `"d":"x","c":"x","b":"x"`))
		if err == nil || err.Error() != "b: must be a number" {
			t.Fatal(err)
		}
	}
}

func TestARecordWithNothingToMapIsToldFromOneThatMatchesNoRule(t *testing.T) {
	const readsIdentity = "attributes: {a: employee_id, b: string(version)}\n"
	for _, test := range []struct {
		name, yaml, record string
		want               error
	}{
		{"nothing that is read", string(defaultYAML), `"team":"x"`, ErrNoAttributes},
		{"empty and null fields", string(defaultYAML), `"department":"","role_level":null`, ErrNoAttributes},
		{"one field that is read", string(defaultYAML), `"location_code":"x"`, nil},
		{
			"identity fields that are read", "attributes: {a: employee_id + team, b: updated_at, c: user_id, d: version}\n",
			`"version":1,"updated_at":"2026-03-01"`, ErrNoAttributes,
		},
		{"an email that is read", "attributes: {a: email, b: team}\n", `"email":"e@example.com"`, nil},
		{"a mapping of identities alone", readsIdentity, `"version":1`, nil},
		{"a mapping of constants alone", "attributes: {a: '\"x\"'}\n", `"team":"x"`, nil},
		{"a field that only a condition reads", "skills: [{skill: A, proficiency: 1, when: team == \"x\"}]\n", `"team":"y"`, nil},
		{"a field that only a proficiency reads", "fields: {grade: number}\nskills: [{skill: A, proficiency: grade}]\n", `"grade":3`, nil},
		{"zero is a value", "fields: {grade: number}\nskills: [{skill: A, proficiency: grade}]\n", `"grade":0`, nil},
		{"false is a value", "fields: {remote: bool}\nattributes: {a: remote}\n", `"remote":false`, nil},
	} {
		if _, err := parse(t, test.yaml).Desired(record(t, test.record)); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
	}
}

func TestTheFirstRuleThatAppliesToASkillWins(t *testing.T) {
	m := parse(t, `
fields: {grade: number}
skills:
  - {skill: B, proficiency: 4, when: team == "x" and grade > 1}
  - {skill: A, proficiency: 1, when: team != "none"}
  - {skill: B, proficiency: grade, when: team == "x"}
  - {skill: B, proficiency: 2}
  - {skill: C, proficiency: 2.5, when: team == "c"}
`)
	for fields, want := range map[string]string{
		`"team":"x","grade":2`:   "A 1, B 4",
		`"team":"x","grade":0.5`: "A 1, B 0.5",
		`"team":"y","grade":9`:   "A 1, B 2", // the proficiency of a rule that does not apply is not looked at
		`"team":"c"`:             "A 1, B 2, C 2.5",
		`"grade":1`:              "A 1, B 2", // an absent team is "", which is not "none"
		`"team":"none"`:          "B 2",
	} {
		got, err := m.Desired(record(t, fields))
		if err != nil {
			t.Errorf("%s: %v", fields, err)
		}
		if texts(got.Skills) != want {
			t.Errorf("%s: %s, want %s", fields, texts(got.Skills), want)
		}
	}
}

func TestMoreSkillsThanAUserCanHaveAreAnInvalidRecord(t *testing.T) {
	var b strings.Builder
	b.WriteString("skills:\n")
	for i := range 51 {
		fmt.Fprintf(&b, "  - {skill: S%02d, proficiency: 1, when: %q != team}\n", i, fmt.Sprint(i))
	}
	yaml := strings.ReplaceAll(b.String(), `when: "`, `when: '"`)
	yaml = strings.ReplaceAll(yaml, `team}`, `team'}`)
	m := parse(t, yaml)
	if got, err := m.Desired(record(t, `"team":"0"`)); err != nil || len(got.Skills) != 50 {
		t.Errorf("fifty: %d, %v", len(got.Skills), err)
	}
	_, err := m.Desired(record(t, `"team":"x"`))
	if want := "record: has 51 skills by the mapping; a user can have 50"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestDeclaredFieldsAndFieldsOfTestsAreKnown(t *testing.T) {
	for name, yaml := range map[string]string{
		"a list":                     "fields: [shoe, first]\nattributes: {a: shoe + first}\n",
		"a map":                      "fields: {shoe: number, hat: bool}\nattributes: {a: 'hat and shoe > 40'}\n",
		"a number in a test":         "attributes: {a: shoe > 40}\ntests: [{record: {employee_id: E, shoe: 41}}]\n",
		"a string in a test":         "attributes: {a: shoe == \"41\"}\ntests: [{record: {employee_id: E, shoe: \"41\"}}]\n",
		"a boolean in a test":        "attributes: {a: not shoe}\ntests: [{record: {employee_id: E, shoe: true}}]\n",
		"a declaration over a test":  "fields: {shoe: string}\nattributes: {a: shoe == \"41\"}\ntests: [{record: {employee_id: E, shoe: 41}}]\n",
		"a standard field redefined": "fields: {cost_center: number}\nattributes: {a: cost_center > 5}\n",
	} {
		if _, err := Parse("m", []byte(yaml)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestManyGoroutinesMayUseOneMapping(t *testing.T) {
	m := loadSample(t)
	good, _ := readSamples(t)
	var wg sync.WaitGroup
	for id, records := range good {
		want := skillText(t, m, records[0])
		wg.Go(func() {
			for range 20 {
				got, err := m.Desired(records[0])
				if err != nil || texts(got.Skills) != want {
					t.Errorf("%s: %v, %v; want %s", id, got.Skills, err, want)
				}
			}
		})
	}
	wg.Wait()
}

func TestTheCostOfARecordIsBounded(t *testing.T) {
	// 50 passes over a field of nearly 64 KiB, each replacing every character.
	expression := "team"
	for range 50 {
		expression = fmt.Sprintf("replace(%s, 'x', 'x')", expression)
	}
	m := parse(t, "attributes:\n  a: "+expression+` + upper(team) + string(team matches "(x+x+)+y")`+"\n")
	rec := record(t, `"team":"`+strings.Repeat("x", 60<<10)+`"`)
	start := time.Now()
	if _, err := m.Desired(rec); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > time.Minute {
		t.Errorf("it took %v", took)
	}
}

func BenchmarkDesired(b *testing.B) {
	sample, err := Load(samples + "mapping.yaml")
	if err != nil {
		b.Fatal(err)
	}
	rec := record(b, `"department":"Technical-Support","role_level":"Level3","location_code":"US-East","updated_at":"2026-03-01"`)
	for name, m := range map[string]*Mapping{"default": Default(), "sample": sample} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := m.Desired(rec); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
