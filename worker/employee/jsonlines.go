package employee

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// readJSON reads a record a line, unless the file begins with [ (an array) or with a line that is
// only { (objects over several lines each).
func readJSON(in *bufio.Reader, emit func(Row) bool) error {
	head, _ := in.Peek(MaxBytes)
	head = bytes.TrimLeft(head, " \t\r\n")
	first, _, _ := bytes.Cut(head, []byte("\n"))
	switch first = bytes.TrimSpace(first); {
	case len(first) > 0 && first[0] == '[':
		return readArray(in, emit)
	case string(first) == "{":
		return readObjects(in, emit)
	}
	return readLines(in, emit)
}

func readLines(in *bufio.Reader, emit func(Row) bool) error {
	blank := true
	for line := 1; ; line++ {
		text, long, err := readLine(in)
		if err != nil && err != io.EOF {
			return fmt.Errorf("read line %d: %w", line, err)
		}
		if long || len(text) > 0 {
			blank = false
			row := badRow(line, tooLong)
			if !long {
				row = check(line, bytes.Clone(text))
			}
			if !emit(row) {
				return nil
			}
		}
		if err == io.EOF {
			break
		}
	}
	if blank {
		return errEmpty
	}
	return nil
}

// readLine reads a line and trims it. Of a line that is too long for the buffer it keeps nothing.
func readLine(in *bufio.Reader) (text []byte, long bool, err error) {
	text, err = in.ReadSlice('\n')
	for err == bufio.ErrBufferFull {
		long = true
		_, err = in.ReadSlice('\n')
	}
	if long {
		return nil, true, err
	}
	return bytes.TrimSpace(text), false, err
}

// readArray reads [{…}, {…}] element by element.
func readArray(in *bufio.Reader, emit func(Row) bool) error {
	s := scanner{in: in, line: 1}
	s.nonSpace() // the opening bracket, which readJSON has seen
	for first := true; ; first = false {
		row, last, err := s.element()
		if first && last == ']' && row.empty() {
			return s.end()
		}
		cut := errors.Is(err, io.EOF)
		if err != nil && !cut {
			return err
		}
		if !(cut && row.empty()) && !emit(row.row()) {
			return nil
		}
		switch {
		case cut:
			return fmt.Errorf("line %d: the array is not closed; is the file cut off?", s.line)
		case last == ']':
			return s.end()
		}
	}
}

// readObjects reads {…} {…}, with any white space inside and between.
func readObjects(in *bufio.Reader, emit func(Row) bool) error {
	s := scanner{in: in, line: 1}
	for {
		row, err := s.object()
		cut := errors.Is(err, io.EOF)
		if err != nil && !cut {
			return err
		}
		if !(cut && row.empty()) && !emit(row.row()) {
			return nil
		}
		if cut {
			return nil
		}
	}
}

// A scanner cuts JSON texts out of a stream, by brackets and quotes alone; Decode is the judge of
// what is between them.
type scanner struct {
	in   *bufio.Reader
	line int
}

// A jsonText is one value as the file has it, or its size if it is too large to be kept.
type jsonText struct {
	line int
	text []byte
	size int

	depth   int  // of brackets
	quoted  bool // in a string
	escaped bool // behind a backslash
}

// element reads up to the comma or the bracket that ends an element, and says which.
func (s *scanner) element() (jsonText, byte, error) {
	c, err := s.nonSpace()
	t := jsonText{line: s.line}
	for ; err == nil; c, err = s.byte() {
		if t.depth == 0 && !t.quoted && (c == ',' || c == ']') {
			return t, c, nil
		}
		t.take(c)
	}
	return t, 0, err
}

// object reads up to the bracket that closes an object, or if there is none to the end of the line.
func (s *scanner) object() (jsonText, error) {
	c, err := s.nonSpace()
	t := jsonText{line: s.line}
	isObject := c == '{'
	for ; err == nil; c, err = s.byte() {
		if !isObject && c == '\n' {
			return t, nil
		}
		t.take(c)
		if isObject && t.depth == 0 && !t.quoted {
			return t, nil
		}
	}
	return t, err
}

// end checks that only white space follows.
func (s *scanner) end() error {
	switch _, err := s.nonSpace(); {
	case err == nil:
		return fmt.Errorf("line %d: something follows the array", s.line)
	case errors.Is(err, io.EOF):
		return nil
	default:
		return err
	}
}

func (s *scanner) nonSpace() (byte, error) {
	for {
		c, err := s.byte()
		if err != nil || c != ' ' && c != '\t' && c != '\r' && c != '\n' {
			return c, err
		}
	}
}

func (s *scanner) byte() (byte, error) {
	c, err := s.in.ReadByte()
	if err != nil {
		return 0, fmt.Errorf("read line %d: %w", s.line, err)
	}
	if c == '\n' {
		s.line++
	}
	return c, nil
}

func (t *jsonText) take(c byte) {
	t.size++
	if t.size <= MaxBytes {
		t.text = append(t.text, c)
	}
	switch {
	case t.escaped:
		t.escaped = false
	case t.quoted && c == '\\':
		t.escaped = true
	case c == '"':
		t.quoted = !t.quoted
	case t.quoted:
	case c == '{' || c == '[':
		t.depth++
	case (c == '}' || c == ']') && t.depth > 0:
		t.depth--
	}
}

func (t *jsonText) empty() bool { return t.size == 0 }

func (t *jsonText) row() Row {
	if t.size > MaxBytes {
		return badRow(t.line, tooLong)
	}
	row := check(t.line, t.text)
	if row.Err == nil {
		var compact bytes.Buffer
		json.Compact(&compact, row.Data) // cannot fail: Decode has accepted it
		row.Data = compact.Bytes()
	}
	return row
}
