package worker

import (
	"encoding/json"
	"fmt"
	"testing"

	"skillsync/queue"
	"skillsync/worker/mapping"
)

func TestWhatAMappingAlters(t *testing.T) {
	const extra = "\n  - {skill: D, proficiency: 3, when: department == \"d\"}"
	var (
		before   = parse(t, rules)
		alike    = parse(t, rules+extra) // wants the same of departments a to c
		other    = parse(t, "attributes: {department: department}\nskills:\n  - {skill: A, proficiency: 2, when: department == \"a\"}")
		none     = parse(t, "attributes: {team: team}") // reads another field
		mended   = parse(t, "attributes: {department: department, team: team}\nskills: []")
		unmended = parse(t, "attributes: {region: region}")
	)
	record := func(fields string) []byte { return fmt.Appendf(nil, `{"employee_id":"E1",%s}`, fields) }
	a, team := record(`"department":"a"`), record(`"team":"t"`)
	letter := func(data []byte, f queue.Failure) *queue.DeadLetter {
		f.MappingVersion = before.Version()
		return &queue.DeadLetter{Data: data, Failure: f}
	}
	wanted := func(reason Reason) queue.Failure {
		j := &job{delivery: &queue.Delivery{Data: a}}
		if err := j.decode(); err != nil {
			t.Fatal(err)
		}
		want, err := before.Desired(j.rec)
		if err != nil {
			t.Fatal(err)
		}
		return queue.Failure{Reason: string(reason), Desired: want.Digest("", "")}
	}
	expected := func(skills string) queue.Failure {
		return queue.Failure{Reason: string(Unverified), Expected: json.RawMessage(skills)}
	}
	noAnswer := queue.Failure{Reason: string(NoAttributes)}
	unknown := queue.Failure{Reason: string(RetriesExhausted)}

	for _, row := range []struct {
		name   string
		letter *queue.DeadLetter
		by     *mapping.Mapping
		want   bool
	}{
		{"the mapping that it died by", letter(a, wanted(SkillUnknown)), before, false},
		{"the mapping that it died by, of an early letter", letter(a, unknown), before, false},
		{"one that wants the same", letter(a, wanted(SkillUnknown)), alike, false},
		{"one that wants something else", letter(a, wanted(SkillUnknown)), other, true},
		{"one that has no answer any more", letter(a, wanted(SkillUnknown)), none, true},
		{"an id that no request can carry, and the same is wanted", letter(a, wanted(BadRecord)), alike, false},

		{"one that has an answer now", letter(team, noAnswer), mended, true},
		{"one that has no answer either", letter(team, noAnswer), unmended, false},
		{"an expression that has a result now", letter(a, queue.Failure{Reason: string(BadRecord)}), alike, true},
		{"a record that cannot be read", letter([]byte(`{"employee_id":`), queue.Failure{Reason: string(BadRecord)}), other, false},

		{"an early letter that expects the same", letter(a, expected(`[{"name":"A","proficiency":1}]`)), alike, false},
		{"an early letter that expects something else", letter(a, expected(`[{"name":"A","proficiency":1}]`)), other, true},
		{"an early letter that expected none", letter(a, expected(`[]`)), mended, false},
		{"an early letter that expected something, and there is no answer", letter(a, expected(`[]`)), none, true},
		{"an early letter with a list that was too long", letter(a, expected(`"too long"`)), alike, true},
		{"an early letter that says nothing", letter(a, unknown), alike, true},
		{"an early letter that says nothing, and there is no answer", letter(a, unknown), none, false},
	} {
		if got := Alters(row.by, row.letter); got != row.want {
			t.Errorf("%s: %t", row.name, got)
		}
	}
}
