package mapping

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/goccy/go-yaml/ast"

	"skillsync/genesys"
	"skillsync/worker/employee"
)

// A test is one of the file's own: a record, and what the mapping should want for it.
type test struct {
	line         int
	name         string
	record       employee.Record
	attributes   map[string]string  // nil: not checked
	skills       map[string]float64 // nil: not checked
	noAttributes bool               // ErrNoAttributes is expected
}

// A TestResult is the outcome of one test of the mapping file.
type TestResult struct {
	Line int    // of the test in the file
	Name string // its name, or else the employee id of its record
	OK   bool
	Diff []string // what is not as expected, a line each; empty if OK
}

// Test runs the tests of the mapping file, in file order. A test has a record (a flat map), and any of
//
//	name:        instead of the employee id in the report
//	attributes:  all that the user should get, name: value; not checked if left out
//	skills:      all that rules should give, name: proficiency; {} for none, not checked if left out
//	error:       no_attributes, if the record should be refused as having nothing to map
func (m *Mapping) Test() []TestResult {
	results := make([]TestResult, len(m.tests))
	for i, t := range m.tests {
		diff := t.run(m)
		results[i] = TestResult{Line: t.line, Name: t.name, OK: len(diff) == 0, Diff: diff}
	}
	return results
}

func (t test) run(m *Mapping) []string {
	desired, err := m.Desired(t.record)
	switch {
	case t.noAttributes && errors.Is(err, ErrNoAttributes):
		return nil
	case err != nil:
		return []string{err.Error()}
	case t.noAttributes:
		return []string{"error: want no_attributes, got none"}
	}
	var diff []string
	if t.attributes != nil {
		diff = append(diff, difference("attributes", t.attributes, attributeMap(desired.Attributes), strconv.Quote)...)
	}
	if t.skills != nil {
		diff = append(diff, difference("skills", t.skills, skillMap(desired.Skills), formatLevel)...)
	}
	return diff
}

func difference[V comparable](what string, want, got map[string]V, show func(V) string) []string {
	names := slices.Sorted(maps.Keys(want))
	for name := range got {
		if _, ok := want[name]; !ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	var diff []string
	for _, name := range names {
		w, wanted := want[name]
		g, there := got[name]
		switch {
		case !there:
			diff = append(diff, fmt.Sprintf("%s.%s: want %s, got none", what, name, show(w)))
		case !wanted:
			diff = append(diff, fmt.Sprintf("%s.%s: want none, got %s", what, name, show(g)))
		case w != g:
			diff = append(diff, fmt.Sprintf("%s.%s: want %s, got %s", what, name, show(w), show(g)))
		}
	}
	return diff
}

func attributeMap(attributes []genesys.Attribute) map[string]string {
	out := map[string]string{}
	for _, a := range attributes {
		out[a.Name] = a.Value
	}
	return out
}

func skillMap(skills []genesys.Skill) map[string]float64 {
	out := map[string]float64{}
	for _, s := range skills {
		out[s.Name] = s.Proficiency
	}
	return out
}

// tests reads the tests. The fields of their records become known, with the types they have there.
func (d *document) tests(n node, types fieldTypes) []test {
	found := fieldTypes{}
	var out []test
	for _, item := range d.items(n) {
		out = append(out, d.test(item, types, found))
	}
	maps.Copy(types, found)
	return out
}

func (d *document) test(n node, types, found fieldTypes) (t test) {
	t.line, _ = position(n.Node)
	mistakes := len(d.errs)
	hasRecord := false
	for _, e := range d.entries(n, "a map with a record", "name", "record", "attributes", "skills", "error") {
		switch e.key {
		case "name":
			t.name, _ = d.name(e.value)
		case "record":
			hasRecord = true
			t.record = d.record(e.value, types, found)
		case "attributes":
			t.attributes = map[string]string{}
			for _, a := range d.entries(e.value, "a map from attribute to value") {
				t.attributes[a.key], _ = d.text(a.value)
			}
		case "skills":
			t.skills = d.expectedSkills(e.value)
		case "error":
			t.noAttributes = d.expectedError(e.value)
		}
	}
	if !hasRecord && len(d.errs) == mistakes {
		d.fail(n, "has no record")
	}
	if t.name == "" {
		t.name = t.record.ID
	}
	return t
}

// record makes a record of a map, by the same way as a record that arrives.
func (d *document) record(n node, types, found fieldTypes) employee.Record {
	mistakes := len(d.errs)
	fields := map[string]any{}
	for _, e := range d.entries(n, "a map from field to value") {
		value, ok := d.scalar(e.value)
		if !ok {
			continue
		}
		fields[e.key] = value
		d.learn(e, value, types, found)
	}
	if len(d.errs) > mistakes {
		return employee.Record{}
	}
	data, err := json.Marshal(fields)
	if err != nil {
		d.fail(n, "is no record: %v", err)
		return employee.Record{}
	}
	rec, err := employee.Decode(data)
	if err != nil {
		d.fail(n, "%v", err)
	}
	return rec
}

// learn notes the type of a field that is neither standard nor declared.
func (d *document) learn(e entry, value any, types, found fieldTypes) {
	if _, known := types[e.key]; known || value == nil || !usable(e.key) {
		return
	}
	typ := stringField
	switch value.(type) {
	case json.Number:
		typ = numberField
	case bool:
		typ = boolField
	}
	if before, ok := found[e.key]; ok && before != typ {
		d.fail(e.value, `is a %s here and a %s in a test above; declare its type under "fields:"`, typ, before)
		return
	}
	found[e.key] = typ
}

func (d *document) expectedSkills(n node) map[string]float64 {
	skills := map[string]float64{}
	for _, e := range d.entries(n, "a map from skill to proficiency") {
		var level float64
		switch v := e.value.Node.(type) {
		case *ast.IntegerNode:
			level, _ = strconv.ParseFloat(fmt.Sprint(v.Value), 64)
		case *ast.FloatNode:
			level = v.Value
		default:
			level = -1
		}
		if !validLevel(level) {
			d.fail(e.value, "must be a number from 0 to 5")
		}
		skills[e.key] = level
	}
	return skills
}

func (d *document) expectedError(n node) bool {
	text, ok := d.text(n)
	if ok && text != "no_attributes" {
		d.fail(n, "must be no_attributes")
	}
	return ok
}

func formatLevel(level float64) string {
	return strconv.FormatFloat(level, 'f', -1, 64)
}
