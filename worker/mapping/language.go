package mapping

import (
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/expr-lang/expr"
	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/parser"
)

// The language of the mapping is expr's without what can loop, grow without bound, look at the
// clock or get at anything but the fields of one record. What is left costs about as much as it is
// long. The checker below allows by name; what expr adds in future is refused until it is looked at.

const (
	maxSource = 16 << 10 // bytes of one expression
	maxNodes  = 2000     // of its tree; a list of a thousand locations fits
	maxText   = 64 << 10 // bytes that replace may make of a field, as long as a whole record can be
)

var operators = []string{
	"==", "!=", "<", "<=", ">", ">=", "in", "matches", "contains", "startsWith", "endsWith",
	"and", "&&", "or", "||", "not", "!", "+", "-", "*", "/", "%", "**", "^",
}

// builtins are the functions of expr that mappings may use; replace and string are our own.
var builtins = []string{
	"abs", "ceil", "first", "float", "floor", "int", "last", "len", "lower", "max", "min",
	"round", "split", "trim", "trimPrefix", "trimSuffix", "upper",
}

func functionNames() []string {
	names := append(slices.Clone(builtins), "replace", "string")
	slices.Sort(names)
	return names
}

func functions() []expr.Option {
	options := []expr.Option{
		expr.DisableAllBuiltins(),
		expr.Function("replace", replace, new(func(string, string, string) string)),
		expr.Function("string", func(args ...any) (any, error) { return format(args[0]), nil },
			new(func(string) string), new(func(float64) string), new(func(int) string), new(func(bool) string)),
	}
	for _, name := range builtins {
		options = append(options, expr.EnableBuiltin(name))
	}
	return options
}

// replace is strings.ReplaceAll with a bound: expr's own can make gigabytes out of one record.
func replace(args ...any) (any, error) {
	text, old, with := args[0].(string), args[1].(string), args[2].(string)
	if len(text)+strings.Count(text, old)*(len(with)-len(old)) > maxText {
		return nil, errors.New("replace: the result is too long")
	}
	return strings.ReplaceAll(text, old, with), nil
}

func parseExpression(source string) (ast.Node, error) {
	if strings.TrimSpace(source) == "" {
		return nil, &sourceError{problem: "the expression is empty"}
	}
	if len(source) > maxSource {
		return nil, &sourceError{problem: "the expression is longer than 16 KiB"}
	}
	tree, err := parser.Parse(source)
	if err != nil {
		return nil, asSourceError(err)
	}
	return tree.Node, nil
}

// A checker walks over an expression before expr's own type checker does. It refuses what is not
// in the language, says what to write instead, and collects the fields that are read.
type checker struct {
	types fieldTypes
	reads []string
}

func (c *checker) check(node ast.Node) error {
	switch n := node.(type) {
	case *ast.StringNode, *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		return nil
	case *ast.IdentifierNode:
		return c.field(n)
	case *ast.UnaryNode:
		return c.all(n, n.Operator, n.Node)
	case *ast.BinaryNode:
		return c.binary(n)
	case *ast.ConditionalNode:
		return c.all(n, "", n.Cond, n.Exp1, n.Exp2)
	case *ast.ArrayNode:
		return c.list(n)
	case *ast.BuiltinNode:
		return c.call(n, n.Name, n.Arguments)
	case *ast.CallNode:
		return c.call(n, n.Callee.String(), n.Arguments)
	case *ast.ChainNode:
		return c.check(n.Node)
	case *ast.MemberNode:
		return c.member(n)
	case *ast.NilNode:
		return fail(n, `there is no nil; an absent field is "", 0 or false`)
	}
	return fail(node, "%s", refusal(node))
}

func refusal(node ast.Node) string {
	switch node.(type) {
	case *ast.SliceNode:
		return "slices can cut a character in two; use split, trimPrefix or trimSuffix"
	case *ast.VariableDeclaratorNode, *ast.SequenceNode:
		return "an expression is one expression, without let and ;"
	case *ast.MapNode:
		return "maps are not part of the language of mappings"
	}
	return "this is not part of the language of mappings"
}

// all checks the operator, if it is one, and the nodes.
func (c *checker) all(at ast.Node, operator string, nodes ...ast.Node) error {
	if operator != "" && !slices.Contains(operators, operator) {
		return fail(at, "the operator %s is not part of the language of mappings", operator)
	}
	for _, node := range nodes {
		if err := c.check(node); err != nil {
			return err
		}
	}
	return nil
}

func (c *checker) binary(n *ast.BinaryNode) error {
	if _, literal := n.Right.(*ast.StringNode); n.Operator == "matches" && !literal {
		return fail(n.Right, "the pattern of matches must be a literal, so that it can be checked now")
	}
	return c.all(n, n.Operator, n.Left, n.Right)
}

func (c *checker) field(n *ast.IdentifierNode) error {
	if _, known := c.types[n.Value]; known {
		c.reads = append(c.reads, n.Value)
		return nil
	}
	hint := ""
	if near := nearest(n.Value, c.types.names()); near != "" {
		hint = fmt.Sprintf("; did you mean %q?", near)
	} else {
		hint = fmt.Sprintf(`; if it is a text, write '"%s"'.`, n.Value)
	}
	return fail(n, `no record has a field %q%s Known fields: %s; declare others under "fields:"`,
		n.Value, hint, strings.Join(c.types.names(), ", "))
}

// list holds lists to literals of one kind: expr compares with a mixed one without a type check.
func (c *checker) list(n *ast.ArrayNode) error {
	kinds := map[string]bool{}
	for _, element := range n.Nodes {
		switch element.(type) {
		case *ast.StringNode:
			kinds["string"] = true
		case *ast.IntegerNode, *ast.FloatNode:
			kinds["number"] = true
		default:
			return fail(element, "a list holds literal strings or literal numbers")
		}
	}
	if len(kinds) != 1 {
		return fail(n, "a list holds literals of one type, and at least one")
	}
	return nil
}

func (c *checker) call(at ast.Node, name string, arguments []ast.Node) error {
	if names := functionNames(); !slices.Contains(names, name) {
		hint := ""
		if near := nearest(name, names); near != "" {
			hint = fmt.Sprintf("did you mean %q? ", near)
		}
		return fail(at, "there is no function %q; %sKnown functions: %s", name, hint, strings.Join(names, ", "))
	}
	return c.all(at, "", arguments...)
}

// member allows split(…)[1] and nothing else.
func (c *checker) member(n *ast.MemberNode) error {
	call, isCall := n.Node.(*ast.BuiltinNode)
	_, isIndex := n.Property.(*ast.IntegerNode)
	if isCall && isIndex && call.Name == "split" {
		return c.check(n.Node)
	}
	return fail(n, "records are flat: a field has no fields or elements (only split(…)[0] has)")
}

func fail(node ast.Node, format string, args ...any) error {
	return &sourceError{offset: node.Location().From, problem: fmt.Sprintf(format, args...)}
}

// checkTypes checks the type of the result, and that each conditional has one: expr gives a
// conditional with two types none, and lets it be compared with anything.
func checkTypes(root ast.Node, want []fieldType) error {
	var c conditionals
	ast.Walk(&root, &c)
	if c.err != nil {
		return c.err
	}
	if got := resultType(root); !slices.Contains(want, got) {
		names := make([]string, len(want))
		for i, typ := range want {
			names[i] = string(typ)
		}
		return fail(root, "must yield a %s, not a %s", strings.Join(names, " or "), got)
	}
	return nil
}

type conditionals struct{ err error }

func (c *conditionals) Visit(node *ast.Node) {
	n, ok := (*node).(*ast.ConditionalNode)
	if !ok || c.err != nil {
		return
	}
	if a, b := resultType(n.Exp1), resultType(n.Exp2); a != b {
		c.err = fail(n.Exp2, "yields a %s or a %s; both must be of one type", a, b)
	}
}

// resultType looks into conditionals, because 4 and 2.5 are both numbers, but not one type to expr.
func resultType(node ast.Node) fieldType {
	if n, ok := node.(*ast.ConditionalNode); ok {
		return resultType(n.Exp1)
	}
	switch node.Type().Kind() {
	case reflect.String:
		return stringField
	case reflect.Bool:
		return boolField
	case reflect.Int, reflect.Float64:
		return numberField
	case reflect.Slice:
		return "list"
	}
	return "value of no certain type"
}

var identifier = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// usable tells whether an expression can name the field: it is an identifier and no keyword.
func usable(field string) bool {
	tree, err := parser.Parse(field)
	if err != nil || !identifier.MatchString(field) {
		return false
	}
	_, ok := tree.Node.(*ast.IdentifierNode)
	return ok
}
