package employee

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

var bom = []byte("\ufeff") // many Windows tools put one in front

// parseObject reads a flat JSON object. Nulls are kept, as nil. What encoding/json lets pass in
// silence is refused here: broken UTF-8, half a surrogate pair, a name that comes twice.
func parseObject(data []byte) (map[string]any, error) {
	if len(data) > MaxBytes {
		return nil, invalid("", "is larger than 64 KiB")
	}
	if !utf8.Valid(data) {
		return nil, invalid("", "is not valid UTF-8")
	}
	text := bytes.TrimSpace(bytes.TrimPrefix(data, bom))
	if len(text) == 0 {
		return nil, invalid("", "is empty")
	}
	if !json.Valid(text) {
		return nil, invalid("", fmt.Sprintf("is not valid JSON (stopped at byte %d)", syntaxOffset(data, text)))
	}
	if kind := kindOf(text[0]); kind != "an object" {
		return nil, invalid("", "must be a JSON object, not "+kind)
	}
	c := cursor{text: text}
	return c.object()
}

// syntaxOffset is the 1-based byte of data at which text, a part of it, stops being JSON.
func syntaxOffset(data, text []byte) int64 {
	var raw json.RawMessage
	var syntax *json.SyntaxError
	if errors.As(json.Unmarshal(text, &raw), &syntax) {
		return int64(bytes.Index(data, text)) + syntax.Offset
	}
	return int64(len(data))
}

func kindOf(first byte) string {
	switch first {
	case '{':
		return "an object"
	case '[':
		return "an array"
	case '"':
		return "a string"
	case 't', 'f':
		return "a boolean"
	case 'n':
		return "null"
	}
	return "a number"
}

// A cursor walks over JSON that json.Valid has accepted, so it has no syntax left to check.
type cursor struct {
	text []byte
	at   int
}

func (c *cursor) object() (map[string]any, error) {
	fields := make(map[string]any, 16)
	for c.at++; ; c.at++ { // past { at first, then past each comma
		if c.space() == '}' {
			return fields, nil
		}
		name, err := c.name()
		if err != nil {
			return nil, err
		}
		if _, twice := fields[name]; twice {
			return nil, invalid(name, "is there twice")
		}
		if len(fields) == MaxFields {
			return nil, invalid("", fmt.Sprintf("has more than %d fields", MaxFields))
		}
		c.space()
		c.at++ // past the colon
		if fields[name], err = c.scalar(name); err != nil {
			return nil, err
		}
		if c.space() == '}' {
			return fields, nil
		}
	}
}

// space skips white space and returns the byte behind it.
func (c *cursor) space() byte {
	for strings.IndexByte(" \t\r\n", c.text[c.at]) >= 0 {
		c.at++
	}
	return c.text[c.at]
}

func (c *cursor) name() (string, error) {
	name, ok := c.str()
	switch {
	case !ok:
		return "", invalid("", "has a field name with half a surrogate pair")
	case name == "":
		return "", invalid("", "has a field without a name")
	case len(name) > MaxNameBytes:
		return "", invalid("", fmt.Sprintf("has a field name longer than %d bytes", MaxNameBytes))
	case strings.ContainsFunc(name, unicode.IsControl):
		return "", invalid("", "has a field name with a control character")
	}
	return name, nil
}

func (c *cursor) scalar(field string) (any, error) {
	switch c.space() {
	case '"':
		s, ok := c.str()
		if !ok {
			return nil, invalid(field, "has half a surrogate pair")
		}
		return s, nil
	case '{', '[':
		return nil, invalid(field, "must not be "+kindOf(c.text[c.at])+"; records are flat")
	}
	start := c.at
	for strings.IndexByte(",} \t\r\n", c.text[c.at]) < 0 {
		c.at++
	}
	switch word := string(c.text[start:c.at]); word {
	case "null":
		return nil, nil
	case "true", "false":
		return word == "true", nil
	default:
		return json.Number(word), nil
	}
}

// str reads a string. It is not ok if the string escapes one half of a surrogate pair, which has
// no meaning in UTF-8 and which encoding/json would replace without a word (RFC 8259 §8.2).
func (c *cursor) str() (s string, ok bool) {
	start := c.at
	plain := true
	for c.at++; c.text[c.at] != '"'; c.at++ {
		if c.text[c.at] == '\\' {
			plain = false
			c.at++
		}
	}
	c.at++
	quoted := c.text[start:c.at]
	if plain {
		return string(quoted[1 : len(quoted)-1]), true
	}
	if loneSurrogate(quoted) || json.Unmarshal(quoted, &s) != nil {
		return "", false
	}
	return s, true
}

func loneSurrogate(quoted []byte) bool {
	for i := 0; i < len(quoted); i++ {
		if quoted[i] != '\\' {
			continue
		}
		i++ // now at the escaped byte
		r := escapedRune(quoted[i-1:])
		if !utf16.IsSurrogate(r) {
			continue
		}
		low := escapedRune(quoted[min(i+5, len(quoted)):])
		if utf16.DecodeRune(r, low) == unicode.ReplacementChar {
			return true
		}
		i += 6 // past the second half
	}
	return false
}

// escapedRune is the value of the \uXXXX that text begins with, or -1.
func escapedRune(text []byte) rune {
	if len(text) < 6 || text[0] != '\\' || text[1] != 'u' {
		return -1
	}
	n, err := strconv.ParseUint(string(text[2:6]), 16, 16)
	if err != nil {
		return -1
	}
	return rune(n)
}

// integer reads a JSON number as an int64 if it is one mathematically, as JSON Schema defines
// "integer" (draft 2020-12 §4.2.3): 3.0 and 3e0 are 3. Some exporters write every number as a float.
func integer(number string) (int64, bool) {
	if n, err := strconv.ParseInt(number, 10, 64); err == nil {
		return n, true
	}
	mantissa, exponent, _ := strings.Cut(strings.ToLower(number), "e")
	unsigned, negative := strings.CutPrefix(mantissa, "-")
	whole, fraction, _ := strings.Cut(unsigned, ".")
	significant := strings.TrimRight(whole+fraction, "0")
	if significant == "" {
		return 0, true
	}
	shift := 0
	if exponent != "" {
		var err error
		if shift, err = strconv.Atoi(exponent); err != nil {
			return 0, false
		}
	}
	if shift < -MaxBytes || shift > MaxBytes {
		return 0, false // no record is long enough to make up for it; also keeps the sum from overflowing
	}
	zeros := len(whole) + shift - len(significant)
	significant = strings.TrimLeft(significant, "0")
	if zeros < 0 || len(significant)+zeros > 19 {
		return 0, false
	}
	if negative {
		significant = "-" + significant
	}
	n, err := strconv.ParseInt(significant+strings.Repeat("0", zeros), 10, 64)
	return n, err == nil
}
