package mapping

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/expr-lang/expr"
	"github.com/expr-lang/expr/file"
	"github.com/expr-lang/expr/vm"

	"skillsync/worker/employee"
)

// An expression is the right-hand side of a rule, compiled and checked.
type expression struct {
	where   string   // its rule, for errors: "skills[0].when"
	source  string   // as in the file, without the spaces around it
	reads   []string // the fields it reads, sorted, once each
	program *vm.Program
}

// compile checks an expression against the fields that records have and the types it may yield.
// The error is a *sourceError.
func compile(where, source string, types fieldTypes, want ...fieldType) (*expression, error) {
	tree, err := parseExpression(source)
	if err != nil {
		return nil, err
	}
	c := checker{types: types}
	if err := c.check(tree); err != nil {
		return nil, err
	}
	options := append(functions(), expr.Env(types.env()), expr.MaxNodes(maxNodes))
	// The optimizer's result no longer has all types, so they are taken from a program without it.
	plain, err := expr.Compile(source, append(options, expr.Optimize(false))...)
	if err != nil {
		return nil, asSourceError(err)
	}
	if err := checkTypes(plain.Node(), want); err != nil {
		return nil, err
	}
	program, err := expr.Compile(source, options...)
	if err != nil {
		return nil, asSourceError(err)
	}
	slices.Sort(c.reads)
	return &expression{where: where, source: strings.TrimSpace(source), reads: slices.Compact(c.reads), program: program}, nil
}

// A sourceError is a mistake in an expression.
type sourceError struct {
	offset  int // of the place, in characters from 0
	problem string
}

func (e *sourceError) Error() string { return e.problem }

// goType is expr's name for our numbers in its messages.
var goType = regexp.MustCompile(`\b(types?|and|use|got) (float64|int)\b`)

func asSourceError(err error) error {
	var at *file.Error
	if !errors.As(err, &at) {
		return &sourceError{problem: err.Error()}
	}
	return &sourceError{offset: at.From, problem: strings.TrimSpace(goType.ReplaceAllString(at.Message, "$1 number"))}
}

func (x *expression) readsOnlyAbsent(in input) bool {
	return len(x.reads) > 0 && !slices.ContainsFunc(x.reads, func(f string) bool { return in.present[f] })
}

// run computes the expression. What expr says of an error quotes values, so it is not passed on.
func (x *expression) run(machine *vm.VM, in input) (any, error) {
	out, err := machine.Run(x.program, in.values)
	if err != nil {
		return nil, x.invalid("cannot be computed")
	}
	return out, nil
}

// invalid says that the expression has no use for the fields it reads.
func (x *expression) invalid(problem string) error {
	return &employee.InvalidError{
		Field:   strings.Join(x.reads, ", "),
		Problem: fmt.Sprintf("%s of the mapping %s from it", x.where, problem),
	}
}

func (x *expression) truth(machine *vm.VM, in input) (bool, error) {
	out, err := x.run(machine, in)
	if err != nil {
		return false, err
	}
	return out == true, nil
}

// level is the result as a proficiency.
func (x *expression) level(machine *vm.VM, in input) (float64, error) {
	out, err := x.run(machine, in)
	if err != nil {
		return 0, err
	}
	level, _ := number(out)
	if !validLevel(level) {
		return 0, x.invalid("gives no proficiency from 0 to 5")
	}
	return level, nil
}

func validLevel(level float64) bool { return level >= 0 && level <= 5 } // false for NaN

// text is the result as an attribute's value.
func (x *expression) text(machine *vm.VM, in input) (string, error) {
	out, err := x.run(machine, in)
	if err != nil {
		return "", err
	}
	if n, ok := number(out); ok && (math.IsInf(n, 0) || math.IsNaN(n)) {
		return "", x.invalid("gives no finite number")
	}
	return format(out), nil
}

func number(v any) (float64, bool) {
	switch v := v.(type) {
	case float64:
		return v, true
	case int:
		return float64(v), true
	}
	return 0, false
}

// format writes numbers as people do: 7, not 7.0, and never with an exponent.
func format(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case bool:
		return strconv.FormatBool(v)
	}
	n, _ := number(v)
	return strconv.FormatFloat(n, 'f', -1, 64)
}
