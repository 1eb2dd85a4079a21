// Package employee knows the record that ETL jobs publish: one employee as the HR system has it,
// a flat JSON object. It decodes and checks records, publishes their JSON Schema, and reads them
// out of the files ETL jobs have (CSV, JSON Lines).
//
// It must not know how records travel, what Genesys Cloud wants or what the mapping reads: a field
// that is not one of the five below is carried, not judged. Values are personal data, so no error
// of this package quotes one.
package employee

import (
	"encoding/json"
	"maps"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// The limits of a record. They keep one bad record from costing a worker its memory.
const (
	MaxBytes     = 64 << 10 // of the whole JSON text
	MaxFields    = 200      // including those that are null
	MaxNameBytes = 128      // of a field's name
	MaxIDBytes   = 128      // of employee_id
)

// A Record is what one employee is, not what changed: applying it twice changes nothing.
type Record struct {
	ID         string    // employee_id, never empty in a record without error
	UserID     string    // user_id, a UUID in lower case; empty if the record has none
	Email      string    // email, unchecked; empty if the record has none
	Version    int64     // version, if HasVersion
	HasVersion bool      // tells version 0 from none
	UpdatedAt  time.Time // updated_at in UTC; zero if the record has none

	// Fields is every field of the record that is not null, the five above included: a string, a
	// json.Number as it was written, or a bool. Names are any text of 1 to 128 bytes without
	// control characters, but an expression of the mapping reaches only those that are identifiers.
	Fields map[string]any
}

// An InvalidError says why a record cannot be used. The same record fails the same way every time.
type InvalidError struct {
	Field   string // the field at fault; empty if it is the record as a whole
	Problem string // what is wrong with it, without its value: "must be an integer"
}

func (e *InvalidError) Error() string {
	if e.Field == "" {
		return "record: " + e.Problem
	}
	return e.Field + ": " + e.Problem
}

// Decode reads one record: a flat JSON object (RFC 8259) of strings, numbers, booleans and nulls,
// null meaning that the field is absent. Only employee_id is required. For user_id, email, version
// and updated_at the empty string counts as absent too, because that is how exports write it.
//
// Every error is an [*InvalidError]. If the record has a usable employee_id in spite of the
// error, the returned Record has its ID, and nothing else, so that the report can name it.
func Decode(data []byte) (Record, error) {
	fields, err := parseObject(data)
	if err != nil {
		return Record{}, err
	}
	maps.DeleteFunc(fields, func(_ string, v any) bool { return v == nil })
	return newRecord(fields)
}

func newRecord(fields map[string]any) (Record, error) {
	id, err := decodeID(fields["employee_id"])
	if err != nil {
		return Record{}, err
	}
	r := Record{ID: id, Fields: fields}
	for _, decode := range []func() error{r.decodeUserID, r.decodeEmail, r.decodeVersion, r.decodeUpdatedAt} {
		if err := decode(); err != nil {
			return Record{ID: id}, err
		}
	}
	return r, nil
}

func decodeID(v any) (string, error) {
	const field = "employee_id"
	id, isString := v.(string)
	switch {
	case v == nil:
		return "", invalid(field, "is missing")
	case !isString:
		return "", invalid(field, `must be a string; write a number in quotes, like "8842"`)
	case id == "":
		return "", invalid(field, "is empty")
	case len(id) > MaxIDBytes:
		return "", invalid(field, "is longer than 128 bytes")
	case strings.ContainsFunc(id, unicode.IsControl):
		return "", invalid(field, "has a control character")
	case strings.TrimSpace(id) != id:
		return "", invalid(field, "begins or ends with a space")
	}
	return id, nil
}

var uuid = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)

func (r *Record) decodeUserID() error {
	id, err := r.optionalString("user_id")
	if err != nil {
		return err
	}
	if id != "" && !uuid.MatchString(id) {
		return invalid("user_id", "must be a UUID")
	}
	r.UserID = strings.ToLower(id)
	return nil
}

func (r *Record) decodeEmail() (err error) {
	r.Email, err = r.optionalString("email")
	return err
}

// digits is an integer in a cell of a CSV file, where everything is a string.
var digits = regexp.MustCompile(`^-?[0-9]{1,19}$`)

func (r *Record) decodeVersion() error {
	var ok bool
	switch v := r.Fields["version"].(type) {
	case nil:
		return nil
	case json.Number:
		r.Version, ok = integer(string(v))
	case string:
		if v == "" {
			return nil
		}
		var err error
		r.Version, err = strconv.ParseInt(v, 10, 64)
		ok = err == nil && digits.MatchString(v)
	}
	if !ok {
		return invalid("version", "must be an integer of at most 64 bits")
	}
	r.HasVersion = true
	return nil
}

// timestamp is RFC 3339 §5.6 with capital letters, or its full-date alone. time.Parse checks the
// calendar, but by itself takes texts that no other reader would ("12:00:00,5Z").
var timestamp = regexp.MustCompile(`^[0-9]{4}-[0-9]{2}-[0-9]{2}` +
	`(T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9]))?$`)

func (r *Record) decodeUpdatedAt() error {
	text, err := r.optionalString("updated_at")
	if text == "" || err != nil {
		return err
	}
	layout := time.DateOnly
	if len(text) > len(layout) {
		layout = time.RFC3339Nano
	}
	at, err := time.Parse(layout, text)
	if err != nil || !timestamp.MatchString(text) {
		return invalid("updated_at", "must be an RFC 3339 timestamp with a time zone, or a date YYYY-MM-DD")
	}
	r.UpdatedAt = at.UTC()
	return nil
}

func (r *Record) optionalString(field string) (string, error) {
	v, ok := r.Fields[field]
	if !ok {
		return "", nil
	}
	s, ok := v.(string)
	if !ok {
		return "", invalid(field, "must be a string")
	}
	return s, nil
}

func invalid(field, problem string) error {
	return &InvalidError{Field: field, Problem: problem}
}
