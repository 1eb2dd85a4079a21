package mapping

import (
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/expr-lang/expr/vm"
	"github.com/goccy/go-yaml/ast"
)

//go:embed default.yaml
var defaultYAML []byte

// DefaultYAML is the source of the built-in mapping, a start for one's own.
func DefaultYAML() []byte { return slices.Clone(defaultYAML) }

// Default is the built-in mapping, for which no file is needed.
func Default() *Mapping { return parseDefault() }

var parseDefault = sync.OnceValue(func() *Mapping {
	m, err := Parse("default.yaml", defaultYAML)
	if err != nil {
		panic(err) // a test parses it
	}
	return m
})

// Load reads and checks a mapping file.
func Load(path string) (*Mapping, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read mapping: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read mapping %s: %w", path, err)
	}
	return Parse(path, data)
}

// Parse checks a mapping file; name is for error messages. The error joins one [*Error] for each
// mistake, in the order of the file as far as it was understood.
//
//	fields:      names of further fields that records carry, as a list (strings) or as
//	             name: string, number or bool. Fields in records of tests are known too.
//	attributes:  attribute name: expression that yields a string, number or boolean.
//	skills:      a list of rules: skill, proficiency (0 to 5, a number or an expression that
//	             yields one; there is no default) and when (an expression that yields a boolean;
//	             without it the rule always applies). The first rule that applies to a skill wins.
//	unowned:     keep (default) or remove skills that no rule names.
//	tests:       records and what is expected for them; see Test.
func Parse(name string, data []byte) (*Mapping, error) {
	d := &document{file: name}
	m := &Mapping{}
	if root, ok := d.open(data); ok {
		d.mapping(m, root)
	}
	if len(d.errs) > 0 {
		slices.SortStableFunc(d.errs, byPosition)
		return nil, errors.Join(d.errs...)
	}
	m.finish()
	return m, nil
}

func byPosition(a, b error) int {
	x, y := a.(*Error), b.(*Error)
	if x.Line != y.Line {
		return x.Line - y.Line
	}
	return x.Column - y.Column
}

func (d *document) mapping(m *Mapping, root node) {
	sections := map[string]node{}
	for _, e := range d.entries(root, "a map", "attributes", "skills", "unowned", "fields", "tests") {
		if _, empty := e.value.Node.(*ast.NullNode); empty {
			d.fail(e.at, "is empty; leave it out instead")
			continue
		}
		sections[e.key] = e.value
	}
	if len(d.errs) > 0 {
		return // what would follow are mostly consequences
	}
	types := d.fieldTypes(sections["fields"])
	if tests, ok := sections["tests"]; ok {
		m.tests = d.tests(tests, types)
	}
	if attributes, ok := sections["attributes"]; ok {
		m.attributes = d.attributes(attributes, types)
	}
	if skills, ok := sections["skills"]; ok {
		m.skills = d.skills(skills, types)
	}
	if unowned, ok := sections["unowned"]; ok {
		m.remove = d.unowned(unowned)
	}
	if len(d.errs) == 0 && len(m.attributes)+len(m.skills) == 0 {
		d.fail(root, "there is no rule; give attributes, skills, or both")
	}
	m.inputs = types.readBy(m.expressions())
}

// fieldTypes is the standard fields and those that the file declares.
func (d *document) fieldTypes(declared node) fieldTypes {
	types := fieldTypes{}
	for name, typ := range standardFields {
		types[name] = typ
	}
	switch declared.Node.(type) {
	case nil:
	case *ast.SequenceNode:
		for _, item := range d.items(declared) {
			if name, ok := d.text(item); ok {
				d.declare(types, item, name, stringField)
			}
		}
	default:
		for _, e := range d.entries(declared, "a list of names, or a map from name to type") {
			typ, _ := d.text(e.value)
			switch t := fieldType(typ); t {
			case stringField, numberField, boolField:
				d.declare(types, e.at, e.key, t)
			default:
				d.fail(e.value, "must be string, number or bool")
			}
		}
	}
	return types
}

func (d *document) declare(types fieldTypes, at node, name string, typ fieldType) {
	switch {
	case !usable(name):
		d.fail(at, "%q cannot be named in an expression: letters, digits and underscores, and no word of the language", name)
	case slices.Contains(recordFields, name) && types[name] != typ:
		d.fail(at, "%s is a %s in every record", name, types[name])
	default:
		types[name] = typ
	}
}

func (d *document) attributes(n node, types fieldTypes) []attribute {
	var out []attribute
	for _, e := range d.entries(n, "a map from attribute to expression") {
		if e.key == "" || strings.TrimSpace(e.key) != e.key {
			d.fail(e.at, "the name of an attribute must not be empty, nor begin or end with a space")
		}
		if x := d.expression(e.value, types, stringField, numberField, boolField); x != nil {
			out = append(out, attribute{name: e.key, expr: x})
		}
	}
	slices.SortFunc(out, func(a, b attribute) int { return strings.Compare(a.name, b.name) })
	return out
}

func (d *document) skills(n node, types fieldTypes) []skillRule {
	var out []skillRule
	always := map[string]string{} // skill to the rule that always applies
	for _, item := range d.items(n) {
		rule, ok := d.skillRule(item, types)
		if !ok {
			continue
		}
		if earlier := always[rule.skill]; earlier != "" {
			d.fail(item, "can never apply: %s gives %q to everyone, and the first rule wins", earlier, rule.skill)
		}
		if rule.when == nil {
			always[rule.skill] = item.rule
		}
		out = append(out, rule)
	}
	return out
}

func (d *document) skillRule(n node, types fieldTypes) (rule skillRule, ok bool) {
	mistakes := len(d.errs)
	given := map[string]bool{}
	for _, e := range d.entries(n, "a map with skill, proficiency and when", "skill", "proficiency", "when") {
		given[e.key] = true
		switch e.key {
		case "skill":
			rule.skill, _ = d.name(e.value)
		case "proficiency":
			rule.proficiency = d.proficiency(e.value, types)
		case "when":
			rule.when = d.expression(e.value, types, boolField)
		}
	}
	if len(d.errs) > mistakes {
		return rule, false
	}
	for _, required := range []string{"skill", "proficiency"} {
		if !given[required] {
			d.fail(n, "has no %s", required)
		}
	}
	return rule, len(d.errs) == mistakes
}

// proficiency is an expression too. One that reads no field is checked now.
func (d *document) proficiency(n node, types fieldTypes) *expression {
	x := d.expression(n, types, numberField)
	if x == nil || len(x.reads) > 0 {
		return x
	}
	if _, err := x.level(new(vm.VM), input{}); err != nil {
		d.fail(n, "must be from 0 to 5")
		return nil
	}
	return x
}

func (d *document) expression(n node, types fieldTypes, want ...fieldType) *expression {
	source, ok := d.text(n)
	if !ok {
		return nil
	}
	x, err := compile(n.rule, source, types, want...)
	var at *sourceError
	if errors.As(err, &at) {
		line, column := d.locate(n, source, at.offset)
		d.failAt(line, column, n.rule, "%s", at.problem)
		return nil
	}
	if len(x.reads) > 0 {
		return x
	}
	if _, err := x.text(new(vm.VM), input{}); err != nil { // a constant has no record to blame
		d.fail(n, "cannot be computed")
		return nil
	}
	return x
}

func (d *document) unowned(n node) (remove bool) {
	text, ok := d.text(n)
	if ok && text != "keep" && text != "remove" {
		d.fail(n, "must be keep or remove")
	}
	return text == "remove"
}

func (m *Mapping) expressions() []*expression {
	var all []*expression
	for _, a := range m.attributes {
		all = append(all, a.expr)
	}
	for _, rule := range m.skills {
		all = append(all, rule.proficiency)
		if rule.when != nil {
			all = append(all, rule.when)
		}
	}
	return all
}

// readBy is the fields that the expressions read, sorted by name.
func (types fieldTypes) readBy(all []*expression) []inputField {
	used := fieldTypes{}
	for _, x := range all {
		for _, field := range x.reads {
			used[field] = types[field]
		}
	}
	var inputs []inputField
	for _, name := range used.names() {
		inputs = append(inputs, inputField{Name: name, Type: used[name]})
	}
	return inputs
}

// finish computes what follows from the rules.
func (m *Mapping) finish() {
	for _, rule := range m.skills {
		m.owned = append(m.owned, rule.skill)
	}
	slices.Sort(m.owned)
	m.owned = slices.Compact(m.owned)
	for _, f := range m.inputs {
		m.hasInput = m.hasInput || !isIdentity(f.Name)
	}
	m.version = m.hash()
}

// hash covers what changes outcomes: expressions as written, rules for one skill in their order,
// and the types of the fields that are read.
func (m *Mapping) hash() string {
	type rule struct{ Skill, Proficiency, When string }
	content := struct {
		Attributes map[string]string
		Skills     []rule
		Remove     bool
		Fields     []inputField
	}{map[string]string{}, nil, m.remove, m.inputs}
	for _, a := range m.attributes {
		content.Attributes[a.name] = a.expr.source
	}
	for _, r := range m.skills {
		when := ""
		if r.when != nil {
			when = r.when.source
		}
		content.Skills = append(content.Skills, rule{r.skill, r.proficiency.source, when})
	}
	slices.SortStableFunc(content.Skills, func(a, b rule) int { return strings.Compare(a.Skill, b.Skill) })
	canonical, err := json.Marshal(content) // maps come out sorted
	if err != nil {
		panic(err) // strings and booleans alone
	}
	sum := sha256.Sum256(canonical)
	return hex.EncodeToString(sum[:6])
}
