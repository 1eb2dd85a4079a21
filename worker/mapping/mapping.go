// Package mapping knows the rules from an employee's record to the attributes and skills that the
// user in Genesys Cloud should have: how they are written (a YAML file of expressions), checked
// before the first record, applied to one record, and compared with what a user has.
//
// It must not know how records arrive, how users are found or written, or what happens to a record
// that cannot be mapped. It does no I/O except to read its file, and the same mapping and record
// give the same outcome anywhere and at any time.
package mapping

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/expr-lang/expr/vm"

	"skillsync/genesys"
	"skillsync/worker/employee"
)

// A Mapping is a checked mapping file. It does not change and may be used by any number of
// goroutines. It comes from Parse, Load or Default; its zero value is of no use.
type Mapping struct {
	attributes []attribute  // sorted by name
	skills     []skillRule  // in file order: of two that match for one skill the first wins
	remove     bool         // skills that no rule names
	owned      []string     // names of skills in rules, sorted, once each
	inputs     []inputField // what expressions read, sorted by name
	hasInput   bool         // an expression reads a field that is not an identity
	version    string
	tests      []test
}

type attribute struct {
	name string
	expr *expression
}

type skillRule struct {
	skill       string
	when        *expression // nil if the rule always applies
	proficiency *expression
}

// Desired is what the mapping wants of a user.
type Desired struct {
	Attributes []genesys.Attribute // sorted by name; without those whose value is empty
	Skills     []genesys.Skill     // sorted by name; those that rules give, not those that are left alone
}

// ErrNoAttributes says that a record has none of the fields that the mapping reads. Such a record
// is more likely cut short than an employee without any, so nothing is to be done on its word.
// The fields that only say which record it is (employee_id, user_id, version, updated_at) do not
// count as had. A mapping that reads no other field never gives this error.
var ErrNoAttributes = errors.New("the record has none of the fields that the mapping reads")

// maxSkills is what a user of Genesys Cloud can have (published limit "max skills per user").
const maxSkills = 50

// Version is a short hash of all that changes outcomes: two files of one version map every record
// to the same. Comments, tests and the order of unrelated rules do not change it.
func (m *Mapping) Version() string { return m.version }

// Owned is the names of the skills that rules give, sorted. Other skills of a user are not ours.
func (m *Mapping) Owned() []string { return slices.Clone(m.owned) }

// RemoveUnowned tells whether skills that no rule names are taken away.
func (m *Mapping) RemoveUnowned() bool { return m.remove }

// Desired applies the mapping to a record. An absent field is the zero value of its type. A number
// or boolean in a field of strings is its literal text; a string in a field of numbers or booleans
// is parsed. An attribute is left out if its value is empty, or if its expression reads fields and
// all of them are absent.
//
// The error is ErrNoAttributes, or an [*employee.InvalidError] if a field that is read cannot be
// understood or an expression has no result for the record. Both last until the record or the
// mapping is mended.
func (m *Mapping) Desired(rec employee.Record) (Desired, error) {
	in, err := read(rec, m.inputs)
	if err != nil {
		return Desired{}, err
	}
	if m.hasInput && !in.hasInput {
		return Desired{}, ErrNoAttributes
	}
	machine := machines.Get().(*vm.VM)
	defer machines.Put(machine)
	attributes, err := m.desiredAttributes(machine, in)
	if err != nil {
		return Desired{}, err
	}
	skills, err := m.desiredSkills(machine, in)
	if err != nil {
		return Desired{}, err
	}
	return Desired{Attributes: attributes, Skills: skills}, nil
}

// machines saves an allocation per expression; a VM is reset at the start of each run.
var machines = sync.Pool{New: func() any { return new(vm.VM) }}

func (m *Mapping) desiredAttributes(machine *vm.VM, in input) ([]genesys.Attribute, error) {
	var out []genesys.Attribute
	for _, a := range m.attributes {
		if a.expr.readsOnlyAbsent(in) {
			continue
		}
		value, err := a.expr.text(machine, in)
		if err != nil {
			return nil, err
		}
		if value != "" {
			out = append(out, genesys.Attribute{Name: a.name, Value: value})
		}
	}
	return out, nil
}

func (m *Mapping) desiredSkills(machine *vm.VM, in input) ([]genesys.Skill, error) {
	var out []genesys.Skill
	for _, rule := range m.skills {
		if slices.ContainsFunc(out, named(rule.skill)) {
			continue
		}
		applies, err := rule.applies(machine, in)
		if err != nil {
			return nil, err
		}
		if !applies {
			continue
		}
		proficiency, err := rule.proficiency.level(machine, in)
		if err != nil {
			return nil, err
		}
		out = append(out, genesys.Skill{Name: rule.skill, Proficiency: proficiency})
	}
	if len(out) > maxSkills {
		problem := fmt.Sprintf("has %d skills by the mapping; a user can have %d", len(out), maxSkills)
		return nil, &employee.InvalidError{Problem: problem}
	}
	slices.SortFunc(out, byName)
	return out, nil
}

func (r skillRule) applies(machine *vm.VM, in input) (bool, error) {
	if r.when == nil {
		return true, nil
	}
	return r.when.truth(machine, in)
}

func named(name string) func(genesys.Skill) bool {
	return func(s genesys.Skill) bool { return s.Name == name }
}

func byName(a, b genesys.Skill) int {
	return cmp.Or(strings.Compare(a.Name, b.Name), cmp.Compare(a.Proficiency, b.Proficiency))
}
