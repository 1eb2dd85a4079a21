package desk

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"skillsync/queue"
)

// Formats of an export.
const (
	JSONLines = "jsonl"
	CSV       = "csv"
)

// An Export is letters to be written out.
type Export struct {
	Selection
	Format string // JSONLines or CSV
	Values bool   // with the records' values, which are personal data
	To     string // what is written to, for the audit
}

// Export writes letters out, oldest first, and returns how many.
func (d *Desk) Export(ctx context.Context, by string, x Export, w io.Writer, told func(uint64)) (n uint64, err error) {
	out := bufio.NewWriterSize(w, 1<<16)
	write, end := exportJSON(out), func() error { return nil }
	if x.Format == CSV {
		write, end = exportCSV(out)
	}
	e := x.entry(by, queue.ActedExport, "", 0)
	e.Detail = x.Format + " to " + x.To
	if x.Values {
		e.Detail += ", with values"
	}
	err = d.audited(ctx, e, func() (uint64, error) {
		err := d.Select(ctx, x.Selection, func(letter queue.DeadLetter) error {
			if !x.Values {
				letter = Hidden(letter)
			}
			if err := write(letter); err != nil {
				return fmt.Errorf("write dead letter %d: %w", letter.Sequence, err)
			}
			n++
			told(n)
			return nil
		})
		if err == nil {
			err = end()
		}
		if err == nil {
			err = out.Flush()
		}
		return n, err
	})
	return n, err
}

// Hidden is a letter without what is personal in it: its record's values, and the headers of whoever
// published it.
func Hidden(d queue.DeadLetter) queue.DeadLetter {
	d.Data, d.Header = HideValues(d.Data), nil
	return d
}

// Whole is a letter as JSON, with its record as a part of it.
type Whole struct {
	queue.DeadLetter
	Looping bool            `json:"looping"`
	Data    json.RawMessage `json:"record,omitempty"` // a string if it is no JSON
}

// NewWhole is a letter ready to be written as JSON.
func NewWhole(d queue.DeadLetter) Whole {
	w := Whole{DeadLetter: d, Looping: d.Looping(), Data: d.Data}
	w.DeadLetter.Data = nil // encoding/json would write both: they have other names
	if len(d.Data) > 0 && !json.Valid(d.Data) {
		quoted, err := json.Marshal(string(d.Data))
		if err != nil {
			quoted = nil
		}
		w.Data = quoted
	}
	return w
}

func exportJSON(w io.Writer) func(queue.DeadLetter) error {
	enc := json.NewEncoder(w)
	return func(d queue.DeadLetter) error { return enc.Encode(NewWhole(d)) }
}

var csvHeader = []string{
	"sequence", "since", "employee", "reason", "class", "status", "error", "correlation_id", "attempts", "replays", "looping",
	"first_failure", "last_failure", "mapping", "version", "batch", "published", "worker", "expected", "actual", "record",
}

func exportCSV(w *bufio.Writer) (write func(queue.DeadLetter) error, end func() error) {
	began := false
	begin := func() error {
		if began {
			return nil
		}
		began = true
		return writeRow(w, csvHeader)
	}
	write = func(d queue.DeadLetter) error {
		if err := begin(); err != nil {
			return err
		}
		return writeRow(w, []string{
			strconv.FormatUint(d.Sequence, 10), stamp(d.At), d.EmployeeID, d.Reason, d.Class, strconv.Itoa(d.Status), d.Error, d.CorrelationID,
			strconv.Itoa(d.Attempts), strconv.Itoa(d.Replays), strconv.FormatBool(d.Looping()), stamp(d.First), stamp(d.Last), d.MappingVersion,
			d.Version, d.Batch, stamp(d.Published), d.Worker, string(d.Expected), string(d.Actual), string(d.Data),
		})
	}
	return write, begin
}

// writeRow writes a row as RFC 4180 has it, with every cell in quotes: a spreadsheet that takes
// semicolons for commas must not find a formula behind one.
func writeRow(w *bufio.Writer, cells []string) error {
	quoted := make([]string, len(cells))
	for i, cell := range cells {
		quoted[i] = `"` + strings.ReplaceAll(harmless(cell), `"`, `""`) + `"`
	}
	_, err := w.WriteString(strings.Join(quoted, ",") + "\r\n")
	return err
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// harmless keeps a spreadsheet from taking a cell for a formula: it puts an apostrophe before what
// begins like one, also behind spaces and what else a spreadsheet does not count (OWASP, CSV
// Injection).
func harmless(cell string) string {
	trimmed := strings.TrimLeft(cell, " \u00a0\ufeff\u200b\x00\"'")
	if cell == "" || !strings.ContainsRune("\t\r\n", rune(cell[0])) && (trimmed == "" || !strings.ContainsRune("=+-@\t\r\n|%＝＋－＠", []rune(trimmed)[0])) {
		return cell
	}
	return "'" + cell
}
