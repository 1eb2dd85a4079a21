package mapping

import (
	"encoding/json"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"skillsync/worker/employee"
)

// A fieldType is what a field of records holds, and so what expressions may do with it.
type fieldType string

const (
	stringField fieldType = "string"
	numberField fieldType = "number"
	boolField   fieldType = "bool"
)

type fieldTypes map[string]fieldType

// standardFields need no declaration: the five of every record, and what HR systems usually
// export. A mapping may declare one of the latter anew, with another type.
var standardFields = fieldTypes{
	"employee_id": stringField,
	"user_id":     stringField,
	"email":       stringField,
	"version":     numberField,
	"updated_at":  stringField,

	"department":      stringField,
	"role_level":      stringField,
	"location_code":   stringField,
	"title":           stringField,
	"name":            stringField,
	"manager":         stringField,
	"location":        stringField,
	"team":            stringField,
	"cost_center":     stringField,
	"employment_type": stringField,
	"language":        stringField,
	"start_date":      stringField,
	"region":          stringField,
}

// recordFields are the fields whose types the record itself fixes.
var recordFields = []string{"employee_id", "user_id", "email", "version", "updated_at"}

// identityFields say which record it is. To have them is not to have something to map.
var identityFields = []string{"employee_id", "user_id", "version", "updated_at"}

func isIdentity(field string) bool { return slices.Contains(identityFields, field) }

func (types fieldTypes) names() []string {
	names := make([]string, 0, len(types))
	for name := range types {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// env is the environment against which expressions are checked: a zero value of each field.
func (types fieldTypes) env() map[string]any {
	env := make(map[string]any, len(types))
	for name, typ := range types {
		env[name] = typ.zero()
	}
	return env
}

func (typ fieldType) zero() any {
	switch typ {
	case numberField:
		return 0.0
	case boolField:
		return false
	}
	return ""
}

// An input is one record as expressions see it.
type input struct {
	values   map[string]any  // of each field that is read, the zero value if it is absent
	present  map[string]bool // the fields that are there and not empty
	hasInput bool            // one of them is not an identity
}

// An inputField is a field that some expression reads.
type inputField struct {
	Name string
	Type fieldType
}

func read(rec employee.Record, fields []inputField) (input, error) {
	in := input{values: make(map[string]any, len(fields)), present: make(map[string]bool, len(fields))}
	for _, f := range fields {
		raw := rec.Fields[f.Name]
		if raw == nil || raw == "" {
			in.values[f.Name] = f.Type.zero()
			continue
		}
		value, ok := f.Type.convert(raw)
		if !ok {
			return input{}, &employee.InvalidError{Field: f.Name, Problem: f.Type.demand()}
		}
		in.values[f.Name] = value
		in.present[f.Name] = true
		in.hasInput = in.hasInput || !isIdentity(f.Name)
	}
	return in, nil
}

// convert makes a value of the type out of any scalar of a record, if that can be done without
// guessing. Files like CSV know only strings, and exports differ in what they put in quotes.
func (typ fieldType) convert(raw any) (value any, ok bool) {
	switch typ {
	case numberField:
		return toNumber(raw)
	case boolField:
		return toBool(raw)
	}
	switch v := raw.(type) {
	case string:
		return v, true
	case json.Number:
		return string(v), true
	case bool:
		return strconv.FormatBool(v), true
	}
	return nil, false
}

// decimal leaves out what strconv would take too: hexadecimal, underscores, infinity.
var decimal = regexp.MustCompile(`^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$`)

func toNumber(raw any) (any, bool) {
	var text string
	switch v := raw.(type) {
	case string:
		text = v
	case json.Number:
		text = string(v)
	}
	n, err := strconv.ParseFloat(text, 64)
	return n, err == nil && !math.IsInf(n, 0) && decimal.MatchString(text)
}

func toBool(raw any) (any, bool) {
	switch v := raw.(type) {
	case bool:
		return v, true
	case string:
		return strings.EqualFold(v, "true"), strings.EqualFold(v, "true") || strings.EqualFold(v, "false")
	}
	return nil, false
}

func (typ fieldType) demand() string {
	switch typ {
	case numberField:
		return "must be a number"
	case boolField:
		return "must be true or false"
	}
	return "must be a string"
}

// nearest is the candidate that name is most likely a misspelling of, or "".
func nearest(name string, candidates []string) string {
	best, least := "", max(1, len(name)/3)+1
	for _, candidate := range candidates {
		if d := distance(strings.ToLower(name), strings.ToLower(candidate)); d < least {
			best, least = candidate, d
		}
	}
	return best
}

// distance is how many bytes have to be put in, left out or changed to make b of a (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, diagonal+1, row[j]+1)
		}
	}
	return row[len(b)]
}
