package worker

import (
	"encoding/json"
	"slices"

	"skillsync/genesys"
	"skillsync/queue"
	"skillsync/worker/employee"
	"skillsync/worker/mapping"
)

// Alters tells whether the present mapping gives a dead letter another outcome than it had: it
// wants something else of the user, or has an answer where it had none, or none where it had one.
// A record that cannot be read is altered by no mapping.
//
// Letters of earlier releases do not say what was wanted. Where they list the expected skills,
// these are compared; otherwise they count as altered if the mapping has an answer.
func Alters(m *mapping.Mapping, d *queue.DeadLetter) bool {
	if d.MappingVersion == m.Version() {
		return false
	}
	rec, err := employee.Decode(d.Data)
	if err != nil {
		return false
	}
	want, err := m.Desired(rec)
	desired := ""
	if err == nil {
		desired = want.Digest("", "")
	}
	if d.Desired != "" || ofMapping(Reason(d.Reason)) {
		return desired != d.Desired
	}
	var expected []genesys.Skill
	if json.Unmarshal(d.Expected, &expected) == nil {
		return err != nil || !slices.Equal(expected, want.Skills)
	}
	return err == nil
}

// ofMapping tells whether a record that can be read is a dead letter for this reason because the
// mapping had no answer.
func ofMapping(r Reason) bool { return r == NoAttributes || r == BadRecord }
