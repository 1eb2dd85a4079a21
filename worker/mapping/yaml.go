package mapping

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

const (
	maxFile  = 1 << 20 // bytes
	maxDepth = 32      // of brackets and dashes; a mapping needs four
)

// An Error is one mistake in a mapping file.
type Error struct {
	File         string // as it was given to Parse
	Line, Column int    // from 1; the column counts characters
	Rule         string // the place in the document, like "skills[0].when"; empty for the whole of it
	Problem      string
}

func (e *Error) Error() string {
	at := fmt.Sprintf("%s:%d:%d: ", e.File, e.Line, e.Column)
	if e.Rule != "" {
		at += e.Rule + ": "
	}
	return at + e.Problem
}

// A document is a YAML file of which each mistake is noted with its place, so that an operator sees
// all of them at once. It takes the part of YAML that a mapping needs: no anchors, aliases, merge
// keys and tags, so what is written is what is there, and no alias can blow a file up.
type document struct {
	file  string
	lines []string
	errs  []error
}

// A node is a place in the document.
type node struct {
	ast.Node
	rule string
}

// An entry is one "key: value".
type entry struct {
	key   string
	at    node // the key
	value node
}

func (d *document) failAt(line, column int, rule, format string, args ...any) {
	d.errs = append(d.errs, &Error{File: d.file, Line: line, Column: column, Rule: rule, Problem: fmt.Sprintf(format, args...)})
}

func (d *document) fail(n node, format string, args ...any) {
	line, column := position(n.Node)
	d.failAt(line, column, n.rule, format, args...)
}

// position is where a node begins. The token of a mapping in block style is its first colon.
func position(n ast.Node) (line, column int) {
	if m, ok := n.(*ast.MappingNode); ok && !m.IsFlowStyle && len(m.Values) > 0 {
		n = m.Values[0].Key
	}
	at := n.GetToken().Position
	return at.Line, max(at.Column, 1)
}

// open parses the file into its root node. It is not ok if there is none to work with.
func (d *document) open(data []byte) (root node, ok bool) {
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	text := lineBreaks.Replace(string(data))
	d.lines = strings.Split(text, "\n")
	switch {
	case len(data) > maxFile:
		d.failAt(1, 1, "", "the file is larger than 1 MiB")
		return node{}, false
	case !utf8.ValidString(text):
		d.failAt(1, 1, "", "the file is not valid UTF-8")
		return node{}, false
	}
	tokens := lexer.Tokenize(text)
	if t := tooDeep(tokens); t != nil {
		d.failAt(t.Position.Line, t.Position.Column, "", "nested more than %d deep", maxDepth)
		return node{}, false
	}
	file, err := parser.Parse(tokens, 0)
	if err != nil {
		d.syntax(err)
		return node{}, false
	}
	return d.body(file)
}

var lineBreaks = strings.NewReplacer("\r\n", "\n", "\r", "\n") // as YAML 1.2 §5.4 reads them

// tooDeep is the token at which brackets or the dashes of one line are nested too deep, or nil. The
// parser's time grows with the square of the depth: a file of dashes would keep it busy for hours.
func tooDeep(tokens token.Tokens) *token.Token {
	brackets, dashes, line := 0, 0, 0
	for _, t := range tokens {
		if t.Position.Line != line {
			line, dashes = t.Position.Line, 0
		}
		switch t.Type {
		case token.SequenceStartType, token.MappingStartType:
			brackets++
		case token.SequenceEndType, token.MappingEndType:
			brackets--
		case token.SequenceEntryType, token.MappingKeyType:
			dashes++
		}
		if max(brackets, dashes) > maxDepth {
			return t
		}
	}
	return nil
}

func (d *document) syntax(err error) {
	line, column, problem := 1, 1, err.Error()
	var at yaml.Error
	if errors.As(err, &at) {
		problem = at.GetMessage()
		if t := at.GetToken(); t != nil {
			line, column = t.Position.Line, t.Position.Column
		}
	}
	d.failAt(line, column, "", "%s", problem)
}

func (d *document) body(file *ast.File) (node, bool) {
	var bodies []ast.Node
	for _, doc := range file.Docs {
		if doc.Body != nil {
			bodies = append(bodies, doc.Body)
		}
	}
	switch len(bodies) {
	case 0:
		d.failAt(1, 1, "", "the file is empty")
		return node{}, false
	case 1:
		return node{Node: bodies[0]}, true
	}
	d.fail(node{Node: bodies[1]}, "there is more than one document; a mapping is one")
	return node{}, false
}

// entries is the entries of a mapping in file order. Those with known keys, if any are given, are
// all that may be there.
func (d *document) entries(n node, what string, known ...string) []entry {
	m, ok := n.Node.(*ast.MappingNode)
	if !ok {
		d.fail(n, "must be %s, not %s", what, kind(n.Node))
		return nil
	}
	var entries []entry
	for _, pair := range m.Values {
		if e, ok := d.entry(n, pair); ok && d.isKnown(e, known) {
			entries = append(entries, e)
		}
	}
	return entries
}

func (d *document) entry(parent node, pair *ast.MappingValueNode) (entry, bool) {
	at := node{Node: pair.Key, rule: parent.rule}
	key, ok := pair.Key.(*ast.StringNode)
	if !ok {
		d.fail(at, "the key must be a string, not %s", kind(pair.Key))
		return entry{}, false
	}
	at.rule = join(parent.rule, key.Value)
	return entry{key: key.Value, at: at, value: node{Node: pair.Value, rule: at.rule}}, true
}

func (d *document) isKnown(e entry, known []string) bool {
	if len(known) == 0 || slices.Contains(known, e.key) {
		return true
	}
	hint := ""
	if near := nearest(e.key, known); near != "" {
		hint = fmt.Sprintf("did you mean %q? ", near)
	}
	d.fail(e.at, "unknown key; %sKnown keys: %s", hint, strings.Join(known, ", "))
	return false
}

func join(rule, key string) string {
	if rule == "" {
		return key
	}
	return rule + "." + key
}

// items is the elements of a list.
func (d *document) items(n node) []node {
	list, ok := n.Node.(*ast.SequenceNode)
	if !ok {
		d.fail(n, "must be a list, not %s", kind(n.Node))
		return nil
	}
	items := make([]node, len(list.Values))
	for i, value := range list.Values {
		items[i] = node{Node: value, rule: fmt.Sprintf("%s[%d]", n.rule, i)}
	}
	return items
}

// text is a scalar as it is written, without quotes.
func (d *document) text(n node) (string, bool) {
	switch s := n.Node.(type) {
	case *ast.StringNode:
		return s.Value, true
	case *ast.LiteralNode:
		return strings.TrimRight(s.Value.Value, "\n"), true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		return n.GetToken().Value, true
	}
	d.fail(n, "must be a string, a number or a boolean, not %s", kind(n.Node))
	return "", false
}

// name is a text that is not empty and has no spaces around it.
func (d *document) name(n node) (string, bool) {
	text, ok := d.text(n)
	if ok && (text == "" || strings.TrimSpace(text) != text) {
		d.fail(n, "must not be empty, nor begin or end with a space")
		return "", false
	}
	return text, ok
}

// scalar is a value as a record has it: a string, a json.Number, a bool, or nil.
func (d *document) scalar(n node) (any, bool) {
	switch s := n.Node.(type) {
	case *ast.NullNode:
		return nil, true
	case *ast.BoolNode:
		return s.Value, true
	case *ast.IntegerNode:
		return json.Number(fmt.Sprint(s.Value)), true
	case *ast.FloatNode:
		if text := n.GetToken().Value; json.Valid([]byte(text)) {
			return json.Number(text), true // 1.50 stays 1.50
		}
		return json.Number(strconv.FormatFloat(s.Value, 'g', -1, 64)), true
	}
	return d.text(n)
}

func kind(n ast.Node) string {
	switch n.(type) {
	case *ast.MappingNode:
		return "a map"
	case *ast.SequenceNode:
		return "a list"
	case *ast.NullNode:
		return "nothing"
	case *ast.AliasNode, *ast.AnchorNode, *ast.MergeKeyNode:
		return "an anchor or alias (they are not supported here)"
	case *ast.TagNode:
		return "a value with a tag (they are not supported here)"
	case *ast.DirectiveNode:
		return "a directive"
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return "a number"
	case *ast.BoolNode:
		return "a boolean"
	case *ast.MappingKeyNode:
		return "a complex key"
	}
	return "a string"
}

// locate is the place of a character of a scalar, as near as the way it is written allows.
func (d *document) locate(n node, text string, offset int) (line, column int) {
	line, column = position(n.Node)
	before := string([]rune(text)[:min(offset, utf8.RuneCountInString(text))])
	if literal, ok := n.Node.(*ast.LiteralNode); ok {
		return d.locateInBlock(literal, line, column, before)
	}
	if line > len(d.lines) {
		return line, column
	}
	source := []rune(d.lines[line-1])
	start := string(source[min(column-1, len(source)):])
	switch {
	case strings.HasPrefix(start, text):
		return line, column + utf8.RuneCountInString(before)
	case start != "" && strings.HasPrefix(start[1:], text): // in quotes
		return line, column + 1 + utf8.RuneCountInString(before)
	}
	return line, column // escapes or line breaks: the beginning will do
}

// locateInBlock does so in a block scalar that keeps its line breaks ("|").
func (d *document) locateInBlock(literal *ast.LiteralNode, line, column int, before string) (int, int) {
	inLine := before[strings.LastIndexByte(before, '\n')+1:]
	at := line + strings.Count(before, "\n")                                     // the first line of text is the one below the "|"
	if !strings.HasPrefix(literal.GetToken().Value, "|") || at >= len(d.lines) { // folded: no telling
		return line, column
	}
	indent := 0 // of the block, which its first line that is not blank has
	for _, first := range d.lines[line:] {
		if text := strings.TrimLeft(first, " "); text != "" {
			indent = len(first) - len(text)
			break
		}
	}
	return at + 1, indent + utf8.RuneCountInString(inLine) + 1
}
