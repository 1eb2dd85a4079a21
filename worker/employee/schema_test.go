package employee

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"pgregory.net/rapid"
)

func compileSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(Schema()))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource("employee.schema.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("employee.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func accepts(s *jsonschema.Schema, doc []byte) bool {
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(bytes.TrimPrefix(doc, bom)))
	return err == nil && s.Validate(v) == nil
}

// inexpressible are the refusals that the schema's description lists as beyond it.
var inexpressible = map[string]bool{
	"invalid UTF-8":                  true,
	"a name twice":                   true,
	"a name twice, one escaped":      true,
	"a name twice, first null":       true,
	"half a pair in a value":         true,
	"the wrong half in a value":      true,
	"two first halves":               true,
	"half a pair in a name":          true,
	"a long employee_id":             true, // in bytes, not in characters
	"a version of 65 bits in quotes": true,
	"a tiny fraction":                true, // the exponent is more than the validator takes
	"a huge version":                 true, // likewise
}

func TestTheSchemaRefusesWhatDecodeRefuses(t *testing.T) {
	s := compileSchema(t)
	for _, test := range refused {
		if inexpressible[test.name] {
			continue
		}
		if accepts(s, []byte(test.doc)) {
			t.Errorf("the schema accepts %s", test.name)
		}
	}
}

func TestTheExamplesOfTheSchemaAreGood(t *testing.T) {
	var doc struct {
		Examples   []json.RawMessage
		Properties map[string]struct{ Examples []json.RawMessage }
	}
	if err := json.Unmarshal(Schema(), &doc); err != nil {
		t.Fatal(err)
	}
	for name, property := range doc.Properties {
		for _, value := range property.Examples {
			record := fmt.Sprintf(`{"employee_id":"a",%q:%s}`, name, value)
			if name == "employee_id" {
				record = fmt.Sprintf(`{"employee_id":%s}`, value)
			}
			doc.Examples = append(doc.Examples, json.RawMessage(record))
		}
	}
	if len(doc.Examples) < 6 {
		t.Fatalf("only %d examples", len(doc.Examples))
	}
	s := compileSchema(t)
	for _, record := range doc.Examples {
		if _, err := Decode(record); err != nil {
			t.Errorf("%s: %v", record, err)
		}
		if !accepts(s, record) {
			t.Errorf("%s: refused by the schema itself", record)
		}
	}
}

func TestSchemaAndDecodeGiveTheSameVerdict(t *testing.T) {
	s := compileSchema(t)
	rapid.Check(t, func(t *rapid.T) {
		doc := []byte(anyRecord(t))
		_, err := Decode(doc)
		if byDecode, bySchema := err == nil, accepts(s, doc); byDecode != bySchema {
			t.Fatalf("%s\nDecode: %v\nschema accepts: %v", doc, err, bySchema)
		}
	})
}

// anyRecord is JSON with values that are right, nearly right and wrong for their field.
func anyRecord(t *rapid.T) string {
	text := rapid.OneOf(
		rapid.StringN(0, 12, 40),
		rapid.StringMatching(`[ \x{a0}\x{2028}]?[A-Za-z-]{0,6}[\x00\x7f\x{85} \x{3000}]?`),
		rapid.StringMatching(`[0-9]{4}-[0-1][0-9]-[0-3][0-9](T[0-2][0-9]:[0-6][0-9]:[0-6][0-9](\.[0-9]{0,10})?(Z|z|[+-][0-2][0-9]:[0-6][0-9])?)?`),
		rapid.StringMatching(`[0-9a-fA-F]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-fg]{12}`),
		rapid.StringMatching(`[+-]?[0-9]{1,18}`),
		rapid.SampledFrom([]string{"", "EMP-8842", "2026-02-29", "2024-02-29", strings.Repeat("x", 128), strings.Repeat("x", 129)}),
	)
	value := rapid.OneOf(
		rapid.Map(text, func(s string) string { return string(appendQuoted(nil, s)) }),
		rapid.StringMatching(`-?(0|[1-9][0-9]{0,19})(\.[0-9]{1,4})?([eE][+-]?[0-9]{1,2})?`),
		rapid.SampledFrom([]string{`null`, `true`, `false`, `{}`, `[]`, `{"a":[1]}`}),
	)
	names := rapid.SliceOfNDistinct(rapid.OneOf(
		rapid.SampledFrom([]string{"employee_id", "user_id", "email", "version", "updated_at", "department"}),
		rapid.StringN(0, 3, 12),
	), 0, 6, rapid.ID).Draw(t, "names")
	fields := make([]string, 0, len(names)+1)
	for _, name := range names {
		fields = append(fields, string(appendQuoted(nil, name))+":"+value.Draw(t, name))
	}
	if !strings.Contains(strings.Join(names, " "), "employee_id") {
		fields = append(fields, `"employee_id":"EMP-1"`)
	}
	return "{" + strings.Join(fields, ",") + "}"
}
