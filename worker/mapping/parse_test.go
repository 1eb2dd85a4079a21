package mapping

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// parse is Parse for files that are right.
func parse(t testing.TB, yaml string) *Mapping {
	t.Helper()
	m, err := Parse("mapping.yaml", []byte(yaml))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

const known = `Known fields: cost_center, department, email, employee_id, employment_type, language, location, location_code, ` +
	`manager, name, region, role_level, start_date, team, title, updated_at, user_id, version; declare others under "fields:"`

const knownFunctions = `Known functions: abs, ceil, first, float, floor, int, last, len, lower, max, min, replace, ` +
	`round, split, string, trim, trimPrefix, trimSuffix, upper`

// mistakes is every mistake a file can have, with what the operator reads.
var mistakes = []struct{ name, yaml, want string }{
	{"nothing", "", `1:1: the file is empty`},
	{"comments alone", "# rules to come\n", `1:1: the file is empty`},
	{"two documents", "attributes: {a: team}\n---\nattributes: {a: team}\n", `3:1: there is more than one document; a mapping is one`},
	{"no YAML", "attributes: [", `1:13: sequence end token ']' not found`},
	{"a tab", "attributes:\n\ta: team\n", `2:1: found character '	' that cannot start any token`},
	{"a key twice", "unowned: keep\nunowned: keep\n", `2:1: mapping key "unowned" already defined at [1:1]`},
	{"a list", "- a\n", `1:1: must be a map, not a list`},
	{"a word", "attributes", `1:1: must be a map, not a string`},
	{"no rule", "unowned: keep\n", `1:1: there is no rule; give attributes, skills, or both`},
	{"an empty section", "attributes: {a: team}\nskills:\n", `2:1: skills: is empty; leave it out instead`},
	{"an unknown key", "attribute:\n  a: team\n", `1:1: attribute: unknown key; did you mean "attributes"? Known keys: attributes, skills, unowned, fields, tests`},
	{
		"an unknown key in a rule", "skills:\n  - skill: Billing\n    level: 3\n    wen: department == \"x\"\n",
		`3:5: skills[0].level: unknown key; Known keys: skill, proficiency, when` + "\n" +
			`4:5: skills[0].wen: unknown key; did you mean "when"? Known keys: skill, proficiency, when`,
	},
	{"an alias", "attributes: {a: &x team, b: *x}\n", `1:17: attributes.a: must be a string, a number or a boolean, not an anchor or alias (they are not supported here)` + "\n" +
		`1:29: attributes.b: must be a string, a number or a boolean, not an anchor or alias (they are not supported here)`},
	{"a merge key", "attributes:\n  <<: {a: team}\n", `2:3: attributes: the key must be a string, not an anchor or alias (they are not supported here)`},
	{"a tag", "attributes: {a: !!str team}\n", `1:17: attributes.a: must be a string, a number or a boolean, not a value with a tag (they are not supported here)`},
	{"a number as key", "attributes: {1: team}\n", `1:14: attributes: the key must be a string, not a number`},
	{"a missing value", "attributes:\n  a:\n  b: team\n", `2:5: attributes.a: must be a string, a number or a boolean, not nothing`},
	{"an attribute without a name", "attributes: {\"\": team}\n", `1:14: attributes.: the name of an attribute must not be empty, nor begin or end with a space`},
	{"an empty expression", "attributes: {a: \"\"}\n", `1:17: attributes.a: the expression is empty`},
	{"a constant without a value", "attributes: {a: 'int(\"x\")', b: 1 / 0}\n", `1:17: attributes.a: cannot be computed` + "\n" + `1:32: attributes.b: cannot be computed`},
	{"attributes as a list", "attributes:\n  - a\n", `2:3: attributes: must be a map from attribute to expression, not a list`},
	{"skills as a map", "skills:\n  Billing: 3\n", `2:3: skills: must be a list, not a map`},
	{"a rule that is a word", "skills: [Billing]\n", `1:10: skills[0]: must be a map with skill, proficiency and when, not a string`},
	{"no skill", "skills:\n  - proficiency: 3\n", `2:5: skills[0]: has no skill`},
	{"no proficiency", "skills:\n  - when: team == \"x\"\n    skill: Billing\n", `2:5: skills[0]: has no proficiency`},
	{"a skill with spaces around", "skills:\n  - {skill: \" Billing\", proficiency: 3}\n", `2:13: skills[0].skill: must not be empty, nor begin or end with a space`},
	{"a proficiency too high", "skills:\n  - {skill: Billing, proficiency: 5.5}\n", `2:35: skills[0].proficiency: must be from 0 to 5`},
	{"a proficiency too low", "skills:\n  - {skill: Billing, proficiency: -1}\n", `2:35: skills[0].proficiency: must be from 0 to 5`},
	{"a constant proficiency too high", "skills:\n  - {skill: Billing, proficiency: 2 * 3}\n", `2:35: skills[0].proficiency: must be from 0 to 5`},
	{"a proficiency that is none", "skills:\n  - {skill: Billing, proficiency: team}\n", `2:35: skills[0].proficiency: must yield a number, not a string`},
	{"a rule that never applies", "skills:\n  - {skill: A, proficiency: 3}\n  - {skill: A, proficiency: 4, when: team == \"x\"}\n", `3:5: skills[1]: can never apply: skills[0] gives "A" to everyone, and the first rule wins`},
	{"another word for unowned", "attributes: {a: team}\nunowned: delete\n", `2:10: unowned: must be keep or remove`},
	{"a field that is a keyword", "fields: [in]\nattributes: {a: team}\n", `1:10: fields[0]: "in" cannot be named in an expression: letters, digits and underscores, and no word of the language`},
	{"a field that is no identifier", "fields: {cost centre: string}\nattributes: {a: team}\n", `1:10: fields.cost centre: "cost centre" cannot be named in an expression: letters, digits and underscores, and no word of the language`},
	{"a field of another type", "fields: {grade: integer}\nattributes: {a: team}\n", `1:17: fields.grade: must be string, number or bool`},
	{"a fixed field declared otherwise", "fields: {version: string}\nattributes: {a: team}\n", `1:10: fields.version: version is a number in every record`},
	{
		"all mistakes at once", "attributes:\n  a: tem\n  b: 1 +\nskills:\n  - skill: Billing\n    proficiency: 7\n",
		`2:6: attributes.a: no record has a field "tem"; did you mean "team"? ` + known + "\n" +
			`3:8: attributes.b: unexpected token EOF` + "\n" +
			`6:18: skills[0].proficiency: must be from 0 to 5`,
	},

	{"a test without a record", "attributes: {a: team}\ntests:\n  - name: x\n", `3:5: tests[0]: has no record`},
	{"a test with an unknown key", "attributes: {a: team}\ntests:\n  - record: {employee_id: E}\n    skill: {}\n", `4:5: tests[0].skill: unknown key; did you mean "skills"? Known keys: name, record, attributes, skills, error`},
	{"a test with a record that is none", "attributes: {a: team}\ntests:\n  - record: {team: x}\n", `3:13: tests[0].record: employee_id: is missing`},
	{"a test with a nested record", "attributes: {a: team}\ntests:\n  - record: {employee_id: E, manager: {name: x}}\n", `3:39: tests[0].record.manager: must be a string, a number or a boolean, not a map`},
	{"a test with a word for a level", "attributes: {a: team}\ntests:\n  - record: {employee_id: E}\n    skills: {Billing: high}\n", `4:23: tests[0].skills.Billing: must be a number from 0 to 5`},
	{"a test with another error", "attributes: {a: team}\ntests:\n  - record: {employee_id: E}\n    error: invalid\n", `4:12: tests[0].error: must be no_attributes`},
	{
		"a field of two types in tests", "attributes: {a: team}\ntests:\n  - record: {employee_id: E, grade: 3}\n  - record: {employee_id: E, grade: high}\n",
		`4:37: tests[1].record.grade: is a string here and a number in a test above; declare its type under "fields:"`,
	},
}

// expressionMistakes are mistakes in the right-hand side of a rule, with the column in it from 1.
var expressionMistakes = []struct {
	source string
	column int
	want   string
}{
	{`departmnet == "Sales"`, 1, `no record has a field "departmnet"; did you mean "department"? ` + known},
	{`team == "x" and departmnet == "y"`, 17, `no record has a field "departmnet"; did you mean "department"? ` + known},
	{`Support`, 1, `no record has a field "Support"; if it is a text, write '"Support"'. ` + known},
	{`$env.department == "x"`, 6, `records are flat: a field has no fields or elements (only split(…)[0] has)`},
	{`department.name == "x"`, 12, `records are flat: a field has no fields or elements (only split(…)[0] has)`},
	{`department?.name == "x"`, 13, `records are flat: a field has no fields or elements (only split(…)[0] has)`},
	{`department[0] == "x"`, 11, `records are flat: a field has no fields or elements (only split(…)[0] has)`},
	{`split(team, "-")[len(team)] == "x"`, 17, `records are flat: a field has no fields or elements (only split(…)[0] has)`},
	{`department[0:3] == "x"`, 11, `slices can cut a character in two; use split, trimPrefix or trimSuffix`},
	{`department == 3`, 12, `invalid operation: == (mismatched types string and number)`},
	{`version == "3"`, 9, `invalid operation: == (mismatched types number and string)`},
	{`department in [1, 2]`, 12, `cannot use string as type number in array`},
	{`department in ["a", 2]`, 15, `a list holds literals of one type, and at least one`},
	{`department in []`, 15, `a list holds literals of one type, and at least one`},
	{`department in [team]`, 16, `a list holds literal strings or literal numbers`},
	{`department == (version > 3 ? "x" : 4)`, 36, `yields a string or a number; both must be of one type`},
	{`department == nil`, 15, `there is no nil; an absent field is "", 0 or false`},
	{`(department ?? "x") == "y"`, 13, `the operator ?? is not part of the language of mappings`},
	{`version in 1..3`, 13, `the operator .. is not part of the language of mappings`},
	{`let x = department; x == "y"`, 5, `an expression is one expression, without let and ;`},
	{`department == "x"; true`, 12, `an expression is one expression, without let and ;`},
	{`department in {"a": 1}`, 15, `maps are not part of the language of mappings`},
	{`any(split(team, ","), # == "x")`, 1, `there is no function "any"; Known functions: abs`},
	{`now() > 3`, 1, `there is no function "now"; Known functions: abs`},
	{`lowr(team) == "x"`, 1, `there is no function "lowr"; did you mean "lower"? ` + knownFunctions},
	{`team.lower() == "x"`, 6, `there is no function "team.lower"`},
	{`repeat(team, 1000000) == "x"`, 1, `there is no function "repeat"`},
	{`fromJSON(team).x == "x"`, 16, `records are flat`},
	{`lower(version) == "x"`, 7, `cannot use number as argument (type string) to call lower`},
	{`lower(team, team) == "x"`, 1, `too many arguments to call lower`},
	{`replace(team, "x") == "x"`, 1, `not enough arguments to call replace`},
	{`team matches "["`, 6, "error parsing regexp: missing closing ]: `[`"},
	{`team matches department`, 14, `the pattern of matches must be a literal, so that it can be checked now`},
	{`not team`, 1, `invalid operation: not (mismatched type string)`},
	{`department`, 1, `must yield a bool, not a string`},
	{`len(department)`, 1, `must yield a bool, not a number`},
	{`split(team, "-")`, 1, `must yield a bool, not a list`},
	{`department ==`, 13, `unexpected token EOF`},
	{`department = "x"`, 12, `unexpected token Operator("=")`},
	{`department == "x`, 17, `literal not terminated`},
	{`department == ‘x’`, 15, `unrecognized character: U+2018 '‘'`},
	{strings.Repeat("(", 10), 10, `unexpected token EOF`},
	{strings.Repeat("not ", 5000) + "true", 1, `the expression is longer than 16 KiB`},
	{`team in ["a"` + strings.Repeat(`,"a"`, 2000) + `]`, 0, `compilation failed: expression exceeds maximum allowed nodes`},
}

func TestEveryMistakeIsNamedWithItsPlace(t *testing.T) {
	for _, test := range mistakes {
		t.Run(test.name, func(t *testing.T) {
			_, err := Parse("mapping.yaml", []byte(test.yaml))
			if err == nil {
				t.Fatal("no error")
			}
			want := "mapping.yaml:" + strings.ReplaceAll(test.want, "\n", "\nmapping.yaml:")
			if diff := cmp.Diff(want, err.Error()); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			_, err = Parse("mapping.yaml", []byte(strings.ReplaceAll(test.yaml, "\n", "\r\n")))
			if err == nil || err.Error() != want {
				t.Errorf("with CRLF: %v", err)
			}
		})
	}
}

func TestAMistakeInAnExpressionIsNamedWithItsPlace(t *testing.T) {
	for _, test := range expressionMistakes {
		name := test.source[:min(len(test.source), 40)]
		t.Run(name, func(t *testing.T) {
			_, err := Parse("mapping.yaml", []byte("skills:\n  - skill: Billing\n    proficiency: 3\n    when: |\n      "+test.source+"\n"))
			var at *Error
			if !errors.As(err, &at) {
				t.Fatalf("%v is no *Error", err)
			}
			if !strings.HasPrefix(at.Problem, test.want) {
				t.Errorf("got  %s\nwant %s", at.Problem, test.want)
			}
			if column := at.Column - 6; test.column > 0 && (at.Line != 5 || column != test.column) {
				t.Errorf("at line %d, column %d of the expression; want line 5, %d", at.Line, column, test.column)
			}
			if at.Rule != "skills[0].when" || at.File != "mapping.yaml" {
				t.Errorf("rule %s of %s", at.Rule, at.File)
			}
		})
	}
}

func TestAPlaceInAnExpressionIsFoundHoweverYAMLWritesIt(t *testing.T) {
	for name, test := range map[string]struct {
		yaml         string
		line, column int
	}{
		"plain":                      {`a: team + tem`, 2, 13},
		"in double quotes":           {`a: "team + tem"`, 2, 14},
		"in single quotes":           {`a: 'team + tem'`, 2, 14},
		"in quotes with an escape":   {`a: "'é' \x2b tem"`, 2, 6},
		"behind wide characters":     {`a: '"日本" + tem'`, 2, 14},
		"in a block":                 {"a: |\n\n    team +\n      tem\n", 5, 7},
		"in a folded block":          {"a: >-\n    team +\n    tem\n", 2, 6},
		"over lines without a block": {"a: team +\n    tem\n", 2, 6},
	} {
		_, err := Parse("mapping.yaml", []byte("attributes:\n  "+test.yaml+"\n"))
		var at *Error
		if !errors.As(err, &at) {
			t.Errorf("%s: %v is no *Error", name, err)
			continue
		}
		if at.Line != test.line || at.Column != test.column {
			t.Errorf("%s: at %d:%d, want %d:%d", name, at.Line, at.Column, test.line, test.column)
		}
	}
}

func TestTheVersionChangesWithOutcomesAndWithNothingElse(t *testing.T) {
	const base = `
attributes: {a: team, b: grade}
skills:
  - {skill: A, proficiency: 3, when: team == "x"}
  - {skill: A, proficiency: 4, when: team == "y"}
  - {skill: B, proficiency: 1}
unowned: keep
fields: {grade: number}
`
	want := parse(t, base).Version()
	if len(want) != 12 {
		t.Errorf("version %q has not 12 characters", want)
	}
	for name, change := range map[string][2]string{
		"a comment":                          {"unowned: keep", "unowned: keep # as it is"},
		"the default written out":            {"unowned: keep\n", ""},
		"a test":                             {"unowned: keep\n", "tests: [{record: {employee_id: E, shoe: 42}}]\n"},
		"the order of attributes":            {"a: team, b: grade", "b: grade, a: team"},
		"the order of rules of other skills": {"skills:\n", "skills:\n  - {skill: B, proficiency: 1}\n#"},
		"another way to write it":            {"attributes: {a: team, b: grade}", "attributes:\n  b: 'grade'\n  a: \"team \""},
		"a field that is not read":           {"fields: {grade: number}", "fields: {grade: number, shoe: number}"},
	} {
		changed := strings.Replace(base, change[0], change[1], 1)
		if name == "the order of rules of other skills" {
			changed = strings.Replace(base, "  - {skill: B, proficiency: 1}\n", "", 1)
			changed = strings.Replace(changed, "skills:\n", "skills:\n  - {skill: B, proficiency: 1}\n", 1)
		}
		if changed == base {
			t.Fatalf("%s: the test changes nothing", name)
		}
		if got := parse(t, changed).Version(); got != want {
			t.Errorf("%s changes the version", name)
		}
	}
	for name, change := range map[string][2]string{
		"an attribute's name":           {"a: team", "c: team"},
		"an attribute's expression":     {"a: team", "a: title"},
		"a skill's name":                {"skill: B", "skill: C"},
		"a proficiency":                 {"proficiency: 1", "proficiency: 2"},
		"a condition":                   {`"x"`, `"z"`},
		"the first of two rules":        {`"x"`, `"y" and true`},
		"unowned":                       {"keep", "remove"},
		"the type of a field it reads":  {"grade: number", "grade: string"},
		"a condition that is left out":  {`, when: team == "y"`, ""},
		"a rule that is left out":       {"  - {skill: B, proficiency: 1}\n", ""},
		"an attribute that is left out": {"a: team, ", ""},
	} {
		changed := strings.Replace(base, change[0], change[1], 1)
		if changed == base {
			t.Fatalf("%s: the test changes nothing", name)
		}
		if got := parse(t, changed).Version(); got == want {
			t.Errorf("%s does not change the version", name)
		}
	}
}

func TestAFileIsRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "m.yaml")
	if err := os.WriteFile(path, []byte("\ufeffattributes: {a: tem}\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); err == nil || !strings.HasPrefix(err.Error(), path+":1:17: attributes.a: ") {
		t.Errorf("got %v", err)
	}
	if _, err := Load(path + "x"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
	if err := os.WriteFile(path, []byte(strings.Repeat("#", maxFile+1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); err == nil || !strings.HasSuffix(err.Error(), "the file is larger than 1 MiB") {
		t.Errorf("a large file: %v", err)
	}
}

func TestAFileThatIsNoTextIsRefused(t *testing.T) {
	for name, file := range map[string]string{
		"not valid UTF-8": "attributes: {a: \"\xff\"}",
		"nested more":     "a: " + strings.Repeat("[", 1<<18),
		"nested more ":    strings.Repeat("- ", 1<<18),
		"nested more  ":   strings.Repeat("{a: ", 1<<17),
	} {
		start := time.Now()
		_, err := Parse("m", []byte(file))
		if err == nil || !strings.Contains(err.Error(), strings.TrimSpace(name)) {
			t.Errorf("%s: %v", name, err)
		}
		if took := time.Since(start); took > time.Minute {
			t.Errorf("%s: it took %v to find out", name, took)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(string(defaultYAML))
	f.Add("attributes:\r A: A")
	for _, test := range mistakes {
		f.Add(test.yaml)
	}
	for _, test := range expressionMistakes {
		f.Add("attributes:\n  a: " + test.source)
	}
	f.Fuzz(func(t *testing.T, file string) {
		m, err := Parse("m", []byte(file))
		if err == nil {
			m.Test() // compiled programs must not panic either
			return
		}
		for _, one := range err.(interface{ Unwrap() []error }).Unwrap() {
			var at *Error
			if !errors.As(one, &at) || at.Line < 1 || at.Column < 1 || at.Problem == "" {
				t.Fatalf("an error without a place: %v", one)
			}
		}
	})
}
