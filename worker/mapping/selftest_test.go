package mapping

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestAFailingTestOfTheFileSaysWhatDiffers(t *testing.T) {
	m := parse(t, `
attributes: {a: team, b: title, n: grade}
skills:
  - {skill: X, proficiency: 3, when: team == "x"}
  - {skill: Y, proficiency: 2.5, when: team == "x"}
tests:
  - record: {employee_id: E1, team: x, grade: 3}
    attributes: {a: x, n: 3}
    skills: {X: 3, Y: 2.5}
  - name: nothing is checked
    record: {employee_id: E2, team: x}
  - record: {employee_id: E3, team: x, title: t}
    attributes: {a: y, c: z}
    skills: {X: 4, Z: 1}
  - record: {employee_id: E4, team: x}
    attributes: {}
    skills: {}
  - record: {employee_id: E5}
    error: no_attributes
  - record: {employee_id: E6, team: x}
    error: no_attributes
  - record: {employee_id: E7}
    skills: {}
  - record: {employee_id: E8, grade: high, team: ~}
    skills: {}
fields: {grade: number}
`)
	want := []TestResult{
		{Line: 7, Name: "E1", OK: true},
		{Line: 10, Name: "nothing is checked", OK: true},
		{Line: 12, Name: "E3", Diff: []string{
			`attributes.a: want "y", got "x"`,
			`attributes.b: want none, got "t"`,
			`attributes.c: want "z", got none`,
			`skills.X: want 4, got 3`,
			`skills.Y: want none, got 2.5`,
			`skills.Z: want 1, got none`,
		}},
		{Line: 15, Name: "E4", Diff: []string{
			`attributes.a: want none, got "x"`,
			`skills.X: want none, got 3`,
			`skills.Y: want none, got 2.5`,
		}},
		{Line: 18, Name: "E5", OK: true},
		{Line: 20, Name: "E6", Diff: []string{`error: want no_attributes, got none`}},
		{Line: 22, Name: "E7", Diff: []string{`the record has none of the fields that the mapping reads`}},
		{Line: 24, Name: "E8", Diff: []string{`grade: must be a number`}},
	}
	if diff := cmp.Diff(want, m.Test()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestARecordOfATestKeepsItsNumbersAsWritten(t *testing.T) {
	m := parse(t, `
attributes: {a: team, b: title, c: string(version), d: region}
tests:
  - record: {employee_id: E, team: 1.50, title: 0x10, version: 9007199254740992, region: 2026-03-01}
    attributes: {a: "1.50", b: "16", c: "9007199254740992", d: 2026-03-01}
`)
	for _, r := range m.Test() {
		if !r.OK {
			t.Error(r.Diff)
		}
	}
}
