package employee

import (
	"bytes"
	_ "embed"
)

//go:embed employee.schema.json
var schema []byte

// Schema is the JSON Schema (draft 2020-12) of a record, for those who publish them. A record that
// it refuses, Decode refuses; its description lists the few checks that a schema cannot express.
func Schema() []byte { return bytes.Clone(schema) }
