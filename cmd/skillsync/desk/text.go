package desk

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// HideValues keeps of a record its field names, the employee's and the user's id, and the
// version. What is no JSON object becomes a JSON string that says so.
func HideValues(data []byte) []byte {
	var fields map[string]any
	if json.Unmarshal(data, &fields) != nil {
		return fmt.Appendf(nil, "%q", fmt.Sprintf("(%d bytes that are no record; dlq show --values shows them)", len(data)))
	}
	for name, value := range fields {
		if _, isString := value.(string); isString && (name == "employee_id" || name == "user_id" || name == "version" || name == "updated_at") {
			continue
		}
		if _, isNumber := value.(float64); isNumber && name == "version" {
			continue
		}
		fields[name] = "…"
	}
	hidden, err := json.Marshal(fields)
	if err != nil {
		return nil
	}
	return hidden
}

// Indent is a record with one field a line; what is no JSON stays as it is.
func Indent(data []byte) string {
	var b bytes.Buffer
	if json.Indent(&b, data, "", "  ") != nil {
		return string(data)
	}
	return b.String()
}

// Printable keeps what a record carries from moving the terminal's cursor, or from turning the
// direction of the text beside it: what is not printable becomes "·".
func Printable(s string) string { return strings.Map(printable, s) }

func printable(r rune) rune {
	if r == ' ' || strconv.IsPrint(r) {
		return r
	}
	return '·'
}

// HowMany is a number of things.
func HowMany[N int | uint64](n N, of string) string {
	switch {
	case n == 1:
	case strings.HasSuffix(of, "s"):
		of += "es"
	default:
		of += "s"
	}
	return fmt.Sprintf("%d %s", n, of)
}

// Ago is a moment for a person.
func Ago(t time.Time) string {
	switch d := time.Since(t); {
	case d < time.Minute:
		return fmt.Sprintf("%d s ago", max(0, int(d.Seconds())))
	case d < time.Hour:
		return fmt.Sprintf("%d min ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h ago", int(d.Hours()))
	}
	return t.Format(time.DateOnly)
}

// A Skill is one line of the comparison; "" on a side that does not have it.
type Skill struct {
	Name, Expected, Actual string
	Note                   string // what differs, in words
}

// Compare puts the skills that a user should have beside those they have, by name. What is no
// list of skills is shown as it is.
func Compare(expected, actual json.RawMessage) (rows []Skill) {
	want, okWant := levels(expected)
	have, okHave := levels(actual)
	if !okWant || !okHave {
		return []Skill{{Name: "as stored", Expected: string(expected), Actual: string(actual)}}
	}
	names := maps.Clone(want)
	maps.Copy(names, have)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		row := Skill{Name: name, Expected: want[name], Actual: have[name]}
		switch {
		case row.Expected == row.Actual:
		case row.Actual == "":
			row.Note = "missing"
		case row.Expected == "":
			row.Note = "not asked for"
		default:
			row.Note = "differs"
		}
		rows = append(rows, row)
	}
	return rows
}

// levels reads the skills of a dead letter: of each name its level, or else its proficiency.
func levels(data json.RawMessage) (byName map[string]string, ok bool) {
	byName = map[string]string{}
	if len(data) == 0 {
		return byName, true
	}
	var skills []struct {
		Name        string
		Proficiency float64
		Level       string
	}
	if json.Unmarshal(data, &skills) != nil {
		return nil, false
	}
	for _, s := range skills {
		byName[s.Name] = s.Level
		if s.Level == "" {
			byName[s.Name] = strconv.FormatFloat(s.Proficiency, 'f', -1, 64)
		}
	}
	return byName, true
}

// InWords is a duration as people say it, to two units at most.
func InWords(d time.Duration) string {
	switch d = max(0, d); {
	case d < 2*time.Minute:
		return fmt.Sprintf("%.0f s", d.Seconds())
	case d < 2*time.Hour:
		return fmt.Sprintf("%.0f min", d.Minutes())
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h %d min", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}
