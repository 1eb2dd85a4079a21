package employee

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"iter"
	"path/filepath"
	"strings"
)

// A Format is how a file writes its records.
type Format string

const (
	// Auto decides by the first character: { or [ is JSONLines, all else CSV.
	Auto Format = ""
	// CSV is a header row and one record a row (RFC 4180), as spreadsheets write it.
	CSV Format = "csv"
	// JSONLines is one JSON object a line. One array of objects, and objects over several lines
	// each (as jq prints them), are read too.
	JSONLines Format = "jsonl"
)

// FormatOf guesses the format from the name of a file; Auto if the name does not tell. A .gz at
// its end is ignored, because ReadRows unpacks gzip wherever it sees it.
func FormatOf(name string) Format {
	name = strings.TrimSuffix(strings.ToLower(name), ".gz")
	switch filepath.Ext(name) {
	case ".csv", ".tsv":
		return CSV
	case ".json", ".jsonl", ".ndjson":
		return JSONLines
	}
	return Auto
}

// A Row is one record of a file: either good, then Data passes Decode, or bad, then Err says why.
type Row struct {
	Line int    // the physical line at which the row starts, from 1
	Data []byte // the record as one line of JSON, the caller's to keep; nil if Err is set
	ID   string // its employee_id; for a bad row, only if it has a usable one
	Err  error  // an *InvalidError, or nil
}

// ReadRows reads a file of records, one at a time: its memory does not grow with the file, nor with
// a row of any length. A bad row is reported and the next one read. The error of the pair is for
// the file as a whole (unreadable, empty, a header without employee_id) and is the last one yielded.
//
// CSV needs a header row. Column names become field names in lower-case with underscores ("Employee
// ID" and "employee-id" are employee_id). The separator is the one that the header has most of:
// comma, semicolon or tab. Spaces around a cell do not count, an empty cell is an absent field, a
// row of empty cells is no row, and every value is a string.
func ReadRows(r io.Reader, f Format) iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		stopped := false
		emit := func(row Row) bool {
			stopped = !yield(row, nil)
			return !stopped
		}
		if err := readRows(r, f, emit); err != nil && !stopped {
			yield(Row{}, err)
		}
	}
}

func readRows(r io.Reader, f Format, emit func(Row) bool) error {
	in, err := open(r)
	if err != nil {
		return err
	}
	if f == Auto {
		f = sniff(in)
	}
	switch f {
	case CSV:
		return readCSV(in, emit)
	case JSONLines:
		return readJSON(in, emit)
	}
	return fmt.Errorf("unknown format %q: it is csv or jsonl", f)
}

// open unpacks gzip, skips a byte order mark, and refuses what is plainly something else. The
// buffer holds the longest line that can be a record, and its line end.
func open(r io.Reader) (*bufio.Reader, error) {
	in := bufio.NewReaderSize(r, MaxBytes+2)
	if magic, _ := in.Peek(2); bytes.Equal(magic, []byte{0x1f, 0x8b}) { // RFC 1952 §2.3.1
		unpacked, err := gzip.NewReader(in)
		if err != nil {
			return nil, fmt.Errorf("unpack gzip: %w", err)
		}
		in = bufio.NewReaderSize(unpacked, MaxBytes+2)
	}
	start, err := in.Peek(4)
	if err != nil && err != io.EOF {
		return nil, fmt.Errorf("read line 1: %w", err)
	}
	switch {
	case len(start) == 0:
		return nil, errEmpty
	case bytes.HasPrefix(start, []byte("\xff\xfe")), bytes.HasPrefix(start, []byte("\xfe\xff")):
		return nil, errors.New("the file is UTF-16; save it as UTF-8")
	case bytes.HasPrefix(start, []byte("PK\x03\x04")):
		return nil, errors.New("the file is a ZIP archive or a workbook (XLSX), not text")
	case bytes.HasPrefix(start, bom):
		in.Discard(len(bom)) // cannot fail: it was peeked
	}
	return in, nil
}

var errEmpty = errors.New("the file is empty")

func sniff(in *bufio.Reader) Format {
	start, _ := in.Peek(MaxBytes)
	start = bytes.TrimSpace(start)
	if len(start) > 0 && (start[0] == '{' || start[0] == '[') {
		return JSONLines
	}
	return CSV
}

// check makes a row of one JSON record. It keeps data.
func check(line int, data []byte) Row {
	data = bytes.TrimPrefix(data, bom) // of files put together from several
	rec, err := Decode(data)
	if err != nil {
		return Row{Line: line, ID: rec.ID, Err: err}
	}
	return Row{Line: line, ID: rec.ID, Data: data}
}

func badRow(line int, problem string) Row {
	return Row{Line: line, Err: invalid("", problem)}
}

const (
	tooLong = "is larger than 64 KiB"
	notUTF8 = "is not valid UTF-8; was the file saved as Windows-1252?"
)
