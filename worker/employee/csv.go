package employee

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

func readCSV(in *bufio.Reader, emit func(Row) bool) error {
	s := splitter{in: in, separator: guessSeparator(in)}
	columns, err := readHeader(&s)
	if err != nil {
		return err
	}
	for {
		err := s.next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if !emit(csvRow(&s, columns)) {
			return nil
		}
	}
}

// guessSeparator takes the separator that the first line has most of outside quotes. Spreadsheets
// in languages with a decimal comma write semicolons.
func guessSeparator(in *bufio.Reader) byte {
	head, _ := in.Peek(MaxBytes)
	line, _, _ := bytes.Cut(bytes.TrimLeft(head, "\r\n"), []byte("\n"))
	count := map[byte]int{}
	quoted := false
	for _, c := range line {
		if c == '"' {
			quoted = !quoted
		} else if !quoted {
			count[c]++
		}
	}
	best := byte(',')
	for _, c := range []byte(";\t") {
		if count[c] > count[best] {
			best = c
		}
	}
	return best
}

func readHeader(s *splitter) ([]string, error) {
	err := s.next()
	if err == io.EOF {
		return nil, errEmpty
	}
	if err != nil {
		return nil, err
	}
	if s.problem != "" {
		return nil, fmt.Errorf("line %d: the header %s", s.start, s.problem)
	}
	columns := make([]string, s.cells())
	seen := map[string]int{}
	for i := range columns {
		name := fieldName(s.cell(i))
		switch {
		case name == "":
			return nil, fmt.Errorf("line %d: column %d has no name", s.start, i+1)
		case seen[name] > 0:
			return nil, fmt.Errorf("line %d: columns %d and %d have the same name", s.start, seen[name], i+1)
		case len(name) > MaxNameBytes:
			return nil, fmt.Errorf("line %d: the name of column %d is longer than %d bytes", s.start, i+1, MaxNameBytes)
		case strings.ContainsFunc(name, unicode.IsControl):
			return nil, fmt.Errorf("line %d: the name of column %d has a control character", s.start, i+1)
		}
		columns[i] = name
		seen[name] = i + 1
	}
	if seen["employee_id"] == 0 {
		return nil, fmt.Errorf("line %d: no column is named employee_id; %s", s.start, describe(columns))
	}
	return columns, nil
}

// describe lists the columns, but not so many that the message cannot be read, and not where they
// look like a first record: that would be a person's data.
func describe(columns []string) string {
	const most = 20
	for _, name := range columns {
		if !headerLike.MatchString(name) {
			return "is the first row a header?"
		}
	}
	if more := len(columns) - most; more > 0 {
		return fmt.Sprintf("found: %s and %d more", strings.Join(columns[:most], ", "), more)
	}
	return "found: " + strings.Join(columns, ", ")
}

var headerLike = regexp.MustCompile(`^\p{L}[\p{L}_]*[0-9]?$`)

// fieldName makes "Employee ID", "employee-id" and "EMPLOYEE_ID" employee_id.
func fieldName(header string) string {
	words := strings.FieldsFunc(strings.ToLower(header), func(r rune) bool {
		return r == ' ' || r == '-' || r == '.' || r == '_' || r == '/'
	})
	return strings.Join(words, "_")
}

func csvRow(s *splitter, columns []string) Row {
	if s.problem != "" {
		return badRow(s.start, s.problem)
	}
	if s.cells() != len(columns) {
		return badRow(s.start, fmt.Sprintf("has %d cells, the header has %d%s", s.cells(), len(columns), s.span()))
	}
	data := make([]byte, 0, len(s.text)+16*len(columns))
	for i, name := range columns {
		value := s.cell(i)
		if value == "" {
			continue
		}
		data = append(data, ',')
		data = appendQuoted(data, name)
		data = append(data, ':')
		data = appendQuoted(data, value)
	}
	data[0] = '{' // there is a value: rows of empty cells are skipped
	return check(s.start, append(data, '}'))
}

// appendQuoted appends s, which is valid UTF-8, as a JSON string.
func appendQuoted(data []byte, s string) []byte {
	const hex = "0123456789abcdef"
	data = append(data, '"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			data = append(data, '\\', c)
		case c < ' ':
			data = append(data, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		default:
			data = append(data, c)
		}
	}
	return append(data, '"')
}

// A splitter cuts CSV into rows and rows into cells. encoding/csv would do but for two things: it
// holds a row of any length in memory, and after a stray quote it gives up the rest of the file.
type splitter struct {
	in        *bufio.Reader
	separator byte
	line      int // physical lines read

	// The row that next has read.
	start   int    // its first line
	text    []byte // its cells, one behind the other, unquoted
	ends    []int  // where in text each cell ends
	problem string // what is wrong with it; its cells are then of no use

	size  int  // of the row in the file, in bytes
	over  bool // it was too large to be kept
	state state
}

type state int

const (
	before  state = iota // in the spaces at the start of a cell
	bare                 // in a cell without quotes, where a quote is a character like any other
	quoted               // between quotes
	closing              // behind a quote in a quoted cell: the end of it, or the first of two
	broken               // behind a mistake: up to the end of the line nothing is understood
)

// next reads the next row that is not blank. The error is io.EOF at the end, or the reader's.
func (s *splitter) next() error {
	for {
		if err := s.read(); err != nil {
			return err
		}
		if s.problem != "" || len(bytes.TrimSpace(s.text)) > 0 {
			return nil
		}
	}
}

func (s *splitter) read() error {
	s.text, s.ends, s.problem = s.text[:0], s.ends[:0], ""
	s.start, s.size, s.over, s.state = s.line+1, 0, false, before
	for {
		chunk, err := s.in.ReadSlice('\n') // a part of a line if the buffer is full
		for _, c := range chunk {
			s.take(c)
		}
		ended := err == nil
		if ended || err == io.EOF && len(chunk) > 0 {
			s.line++
		}
		switch {
		case err == io.EOF && s.size == 0:
			return io.EOF
		case err != nil && err != io.EOF && err != bufio.ErrBufferFull:
			return fmt.Errorf("read line %d: %w", s.line+1, err)
		case err == io.EOF || ended && s.state != quoted:
			s.finish()
			return nil
		}
	}
}

// take moves the state machine on by one byte. It keeps counting quotes in a row that is too long
// to be kept, so that no text between quotes is ever taken for a row.
func (s *splitter) take(c byte) {
	s.size++
	switch s.state {
	case before, bare:
		switch {
		case c == s.separator:
			s.endCell()
		case c == '\n': // the end of the row; finish ends the cell
		case c == '"' && s.state == before:
			s.state = quoted
		case c == ' ' && s.state == before:
		default:
			s.state = bare
			s.keep(c)
		}
	case quoted:
		if c == '"' {
			s.state = closing
			return
		}
		s.keep(c)
	case closing:
		switch c {
		case s.separator:
			s.endCell()
		case '"':
			s.state = quoted
			s.keep(c)
		case ' ', '\r', '\n':
		default:
			s.state = broken
		}
	}
}

func (s *splitter) keep(c byte) {
	if s.size > MaxBytes {
		s.over = true
		return
	}
	s.text = append(s.text, c)
}

func (s *splitter) endCell() {
	s.state = before
	if s.size > MaxBytes {
		s.over = true
		return
	}
	s.ends = append(s.ends, len(s.text))
}

func (s *splitter) finish() {
	switch {
	case s.state == quoted:
		s.problem = "has a quote that is never closed" + s.span()
	case s.state == broken:
		s.problem = "has text behind a closing quote; a quote inside quotes is written twice" + s.span()
	case s.over:
		s.problem = tooLong + s.span()
	case !utf8.Valid(s.text):
		s.problem = notUTF8 + s.span()
	}
	s.ends = append(s.ends, len(s.text))
}

// span names the lines of a row of several, since all of them are lost with it.
func (s *splitter) span() string {
	if s.line <= s.start {
		return ""
	}
	return fmt.Sprintf(" (lines %d to %d)", s.start, s.line)
}

func (s *splitter) cells() int { return len(s.ends) }

func (s *splitter) cell(i int) string {
	start := 0
	if i > 0 {
		start = s.ends[i-1]
	}
	return string(bytes.TrimSpace(s.text[start:s.ends[i]]))
}
