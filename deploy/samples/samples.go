// Package samples holds the records and the mapping of the demo. README.md beside it says which
// row is there for what.
package samples

import _ "embed"

// Employees is the file that the demo publishes.
//
//go:embed employees.csv
var Employees []byte

// Mapping is the mapping that the demo's worker uses.
//
//go:embed mapping.yaml
var Mapping []byte
