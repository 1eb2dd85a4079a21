package employee

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"iter"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

// report writes rows as an operator would see them: "line: data" or "line: error".
func report(rows iter.Seq2[Row, error]) []string {
	var lines []string
	for row, err := range rows {
		switch {
		case err != nil:
			lines = append(lines, "file: "+err.Error())
		case row.Err != nil:
			lines = append(lines, fmt.Sprintf("%d: [%s] %v", row.Line, row.ID, row.Err))
		default:
			lines = append(lines, fmt.Sprintf("%d: [%s] %s", row.Line, row.ID, row.Data))
		}
	}
	return lines
}

var long = strings.Repeat("x", MaxBytes+1)

func TestRowsOfAFileAreReadOrNamed(t *testing.T) {
	for _, test := range []struct {
		name, file string
		want       []string
	}{
		{
			"plain CSV", "employee_id,department\nE1,Sales\nE2,Billing\n",
			[]string{`2: [E1] {"employee_id":"E1","department":"Sales"}`, `3: [E2] {"employee_id":"E2","department":"Billing"}`},
		},
		{
			"CSV from a spreadsheet: mark, CRLF, semicolons, no line end", "\ufeffEmployee ID;Role Level;E-Mail\r\nE1;Level 3;a@example.com\r\n\r\nE2;;",
			[]string{`2: [E1] {"employee_id":"E1","role_level":"Level 3","e_mail":"a@example.com"}`, `4: [E2] {"employee_id":"E2"}`},
		},
		{
			"tabs, and commas that are text", "employee-id\tteam\nE1\ta, b, c\n",
			[]string{`2: [E1] {"employee_id":"E1","team":"a, b, c"}`},
		},
		{
			"a separator in a quoted name does not count", "employee_id,\"a;b;c\"\nE1,x;y\n",
			[]string{`2: [E1] {"employee_id":"E1","a;b;c":"x;y"}`},
		},
		{
			"quotes", "employee_id,note\nE1,\"a \"\"b\"\", c\"\nE2, \"d\" \nE3,5\" tall\n",
			[]string{
				`2: [E1] {"employee_id":"E1","note":"a \"b\", c"}`,
				`3: [E2] {"employee_id":"E2","note":"d"}`,
				`4: [E3] {"employee_id":"E3","note":"5\" tall"}`,
			},
		},
		{
			"a line break in a cell", "employee_id,note\nE1,\"two\r\nlines\t\\\"\nE2,x\n",
			[]string{`2: [E1] {"employee_id":"E1","note":"two\u000d\u000alines\u0009\\"}`, `4: [E2] {"employee_id":"E2","note":"x"}`},
		},
		{
			"blank rows, and spaces around cells", "\n\nemployee_id,team\n\n , \n,\n E1 ,\u00a0a b \n",
			[]string{`7: [E1] {"employee_id":"E1","team":"a b"}`},
		},
		{
			"ragged rows", "employee_id,team\nE1\nE2,a,b\nE3,\"a\n\",b\nE4,c\n",
			[]string{
				`2: [] record: has 1 cells, the header has 2`,
				`3: [] record: has 3 cells, the header has 2`,
				`4: [] record: has 3 cells, the header has 2 (lines 4 to 5)`,
				`6: [E4] {"employee_id":"E4","team":"c"}`,
			},
		},
		{
			"rows that Decode refuses", "employee_id,version,team\n,1,a\nE2,x,b\n",
			[]string{`2: [] employee_id: is missing`, `3: [E2] version: must be an integer of at most 64 bits`},
		},
		{
			"Windows-1252", "employee_id,name\nE1,M\xfcller\nE2,Meyer\n",
			[]string{
				`2: [] record: is not valid UTF-8; was the file saved as Windows-1252?`,
				`3: [E2] {"employee_id":"E2","name":"Meyer"}`,
			},
		},
		{
			"a long row", "employee_id,note\nE1," + long + "\nE2,b\n",
			[]string{`2: [] record: is larger than 64 KiB`, `3: [E2] {"employee_id":"E2","note":"b"}`},
		},
		{
			"a long row whose quoted text looks like rows", "employee_id,note\nE1,\"" + long + "\nE9,stolen\n\"\nE2,b\n",
			[]string{`2: [] record: is larger than 64 KiB (lines 2 to 4)`, `5: [E2] {"employee_id":"E2","note":"b"}`},
		},
		{
			"a row of separators", "employee_id,note\n" + strings.Repeat(",", MaxBytes+1) + "\nE2,b\n",
			[]string{`2: [] record: is larger than 64 KiB`, `3: [E2] {"employee_id":"E2","note":"b"}`},
		},
		{
			"a row that only JSON makes too long", "employee_id,note\nE1," + strings.Repeat("\\", MaxBytes/2) + "\n",
			[]string{`2: [] record: is larger than 64 KiB`},
		},
		{
			"a stray quote", "employee_id,note\nE1,\"a\nE2,\"b\"\nE3,c\n",
			[]string{
				`2: [] record: has text behind a closing quote; a quote inside quotes is written twice (lines 2 to 3)`,
				`4: [E3] {"employee_id":"E3","note":"c"}`,
			},
		},
		{
			"a quote that is never closed", "employee_id,note\nE1,\"a\nE2,b",
			[]string{`2: [] record: has a quote that is never closed (lines 2 to 3)`},
		},
		{"a header alone", "employee_id,note\n", nil},
		{"nothing", "", []string{`file: the file is empty`}},
		{"white space", " \n\n", []string{`file: the file is empty`}},
		{"a byte order mark", "\ufeff", []string{`file: the file is empty`}},
		{
			"a header without employee_id", "EmployeeNumber,Cost Center\n1,2\n",
			[]string{`file: line 1: no column is named employee_id; found: employeenumber, cost_center`},
		},
		{
			"no header, so that it is not quoted", "E1,jane@example.com\n",
			[]string{`file: line 1: no column is named employee_id; is the first row a header?`},
		},
		{
			"a header of many columns", "a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q,r,s,t,u,v,w,x,y\n",
			[]string{`file: line 1: no column is named employee_id; found: a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t and 5 more`},
		},
		{"a name twice", "employee_id,Team,x,TEAM\n", []string{`file: line 1: columns 2 and 4 have the same name`}},
		{"a column without a name", "employee_id,team, \n", []string{`file: line 1: column 3 has no name`}},
		{"a header with a line break", "employee_id,\"a\nb\"\n", []string{`file: line 1: the name of column 2 has a control character`}},
		{"a long name", "employee_id," + strings.Repeat("n", 129) + "\n", []string{`file: line 1: the name of column 2 is longer than 128 bytes`}},
		{"a long header", "employee_id," + long + "\n", []string{`file: line 1: the header is larger than 64 KiB`}},
		{"a header in Windows-1252", "employee_id,stra\xdfe\n", []string{`file: line 1: the header is not valid UTF-8; was the file saved as Windows-1252?`}},
		{"UTF-16", "\xff\xfee\x00m\x00", []string{`file: the file is UTF-16; save it as UTF-8`}},
		{"a workbook", "PK\x03\x04...", []string{`file: the file is a ZIP archive or a workbook (XLSX), not text`}},
		{
			"JSON Lines", "\n{\"employee_id\":\"E1\"}\r\n \n  {\"employee_id\": \"E2\", \"version\": 3}  \nnull\n{\"employee_id\":\"E3\",\"version\":\"x\"}\n{\"employee_id\":\"E4\"}",
			[]string{
				`2: [E1] {"employee_id":"E1"}`,
				`4: [E2] {"employee_id": "E2", "version": 3}`,
				`5: [] record: must be a JSON object, not null`,
				`6: [E3] version: must be an integer of at most 64 bits`,
				`7: [E4] {"employee_id":"E4"}`,
			},
		},
		{
			"a long line", "{\"employee_id\":\"" + long + long + "\"}\n{\"employee_id\":\"E2\"}\n",
			[]string{`1: [] record: is larger than 64 KiB`, `2: [E2] {"employee_id":"E2"}`},
		},
		{
			"a broken line", "{\"employee_id\":\"E1\"\n{\"employee_id\":\"E2\"}\n",
			[]string{`1: [] record: is not valid JSON (stopped at byte 19)`, `2: [E2] {"employee_id":"E2"}`},
		},
		{
			"an array", " [\n {\"employee_id\": \"E,1\"},\n {\"employee_id\":\n \"]E2}\\\"\"}\n,\"E3\",{\"employee_id\":\"E4\",\"x\":[1,2]}]\n",
			[]string{
				`2: [E,1] {"employee_id":"E,1"}`,
				`3: []E2}"] {"employee_id":"]E2}\""}`,
				`5: [] record: must be a JSON object, not a string`,
				`5: [] x: must not be an array; records are flat`,
			},
		},
		{"an empty array", "[ ]\n", nil},
		{
			"an array with a comma too many", `[{"employee_id":"E1"},]`,
			[]string{`1: [E1] {"employee_id":"E1"}`, `1: [] record: is empty`},
		},
		{
			"an array with a long element", `[{"employee_id":"` + long + `"},{"employee_id":"E2"}]`,
			[]string{`1: [] record: is larger than 64 KiB`, `1: [E2] {"employee_id":"E2"}`},
		},
		{
			"an array cut off between elements", "[{\"employee_id\":\"E1\"},\n",
			[]string{`1: [E1] {"employee_id":"E1"}`, `file: line 2: the array is not closed; is the file cut off?`},
		},
		{
			"an array cut off in an element", `[{"employee_id":"E1"`,
			[]string{`1: [] record: is not valid JSON (stopped at byte 19)`, `file: line 1: the array is not closed; is the file cut off?`},
		},
		{
			"something behind an array", "[{\"employee_id\":\"E1\"}]\n{}",
			[]string{`1: [E1] {"employee_id":"E1"}`, `file: line 2: something follows the array`},
		},
		{
			"objects over several lines", "{\n  \"employee_id\": \"}E1\"\n}\n{\n  \"employee_id\": \"E2\"\n} {\"employee_id\":\"E3\"}\noops\n{\"employee_id\":\"E4\"}\n{\n",
			[]string{
				`1: [}E1] {"employee_id":"}E1"}`,
				`4: [E2] {"employee_id":"E2"}`,
				`6: [E3] {"employee_id":"E3"}`,
				`7: [] record: is not valid JSON (stopped at byte 1)`,
				`8: [E4] {"employee_id":"E4"}`,
				`9: [] record: is not valid JSON (stopped at byte 1)`,
			},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			whole := report(ReadRows(strings.NewReader(test.file), Auto))
			if diff := cmp.Diff(test.want, whole); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			piecewise := report(ReadRows(iotest.OneByteReader(strings.NewReader(test.file)), Auto))
			if diff := cmp.Diff(whole, piecewise); diff != "" {
				t.Errorf("read byte by byte (-whole +piecewise)\n%s", diff)
			}
			packed := report(ReadRows(bytes.NewReader(gzipped(t, test.file)), Auto))
			if diff := cmp.Diff(whole, packed); diff != "" {
				t.Errorf("read from gzip (-plain +packed)\n%s", diff)
			}
		})
	}
}

func gzipped(t *testing.T, text string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	io.WriteString(w, text)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestTheNameOfAFileTellsItsFormat(t *testing.T) {
	for name, want := range map[string]Format{
		"a/employees.csv": CSV, "EMPLOYEES.CSV": CSV, "x.tsv": CSV, "x.csv.gz": CSV,
		"x.json": JSONLines, "x.jsonl": JSONLines, "x.NDJSON": JSONLines, "x.jsonl.gz": JSONLines,
		"-": Auto, "": Auto, "x.txt": Auto, "csv": Auto,
	} {
		if got := FormatOf(name); got != want {
			t.Errorf("FormatOf(%q) = %q, want %q", name, got, want)
		}
	}
}

func TestAGivenFormatIsNotGuessed(t *testing.T) {
	got := report(ReadRows(strings.NewReader("[a],employee_id\n1,E1\n"), CSV))
	want := []string{`2: [E1] {"[a]":"1","employee_id":"E1"}`}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	got = report(ReadRows(strings.NewReader("x"), "yaml"))
	want = []string{`file: unknown format "yaml": it is csv or jsonl`}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestAReaderThatBreaksEndsTheFileAfterItsGoodRows(t *testing.T) {
	broken := errors.New("disk on fire")
	for name, start := range map[string]string{
		"CSV":        "employee_id\nE1\nE2",
		"JSON Lines": "{\"employee_id\":\"E1\"}\n{",
		"an array":   "[\n{\"employee_id\":\"E1\"},\n{\"",
		"objects":    "{\n\"employee_id\":\"E1\"}{\"",
	} {
		var rows int
		var last error
		for row, err := range ReadRows(io.MultiReader(strings.NewReader(start), iotest.ErrReader(broken)), Auto) {
			if last = err; err == nil && row.Err == nil {
				rows++
			}
		}
		if rows != 1 || !errors.Is(last, broken) {
			t.Errorf("%s: %d rows, then %v", name, rows, last)
		}
	}
	for _, err := range ReadRows(iotest.ErrReader(broken), Auto) {
		if !errors.Is(err, broken) {
			t.Errorf("nothing could be read: %v", err)
		}
	}
	packed := gzipped(t, "employee_id\nE1\n")
	got := report(ReadRows(bytes.NewReader(packed[:len(packed)-4]), Auto))
	if last := got[len(got)-1]; !strings.HasSuffix(last, "unexpected EOF") {
		t.Errorf("a gzip file cut off: %q", got)
	}
}

func TestTheCallerMayStopAtAnyRow(t *testing.T) {
	for name, file := range map[string]string{
		"CSV":        "employee_id\nE1\nE2\n",
		"JSON Lines": "{\"employee_id\":\"E1\"}\n{\"employee_id\":\"E2\"}\n",
		"an array":   `[{"employee_id":"E1"},{"employee_id":"E2"}`,
		"objects":    "{\n\"employee_id\":\"E1\"}{\"employee_id\":\"E2\"}",
	} {
		rows := 0
		for range ReadRows(strings.NewReader(file), Auto) {
			rows++
			break // the iterator panics if it goes on
		}
		if rows != 1 {
			t.Errorf("%s: %d rows", name, rows)
		}
	}
}

// endless is a row of any size, made as it is read.
type endless struct{ left int }

func (e *endless) Read(p []byte) (int, error) {
	if e.left == 0 {
		return 0, io.EOF
	}
	n := min(len(p), e.left)
	for i := range p[:n] {
		p[i] = 'x'
	}
	e.left -= n
	return n, nil
}

func TestMemoryDoesNotGrowWithARow(t *testing.T) {
	const size = 4 << 20
	for name, start := range map[string]string{
		"a cell":        "employee_id,note\nE1,",
		"a quoted cell": "employee_id,note\nE1,\"",
		"a line":        "{}\n{\"employee_id\":\"",
		"an element":    "[{\"employee_id\":\"",
		"a header":      "employee_id",
	} {
		in := io.MultiReader(strings.NewReader(start), &endless{left: size})
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		var errs int
		for row, err := range ReadRows(in, Auto) {
			if row.Err != nil || err != nil {
				errs++
			}
		}
		runtime.ReadMemStats(&after)
		if errs == 0 {
			t.Errorf("%s of %d bytes was not refused", name, size)
		}
		if spent := after.TotalAlloc - before.TotalAlloc; spent > size/4 {
			t.Errorf("%s of %d bytes cost %d bytes of memory", name, size, spent)
		}
	}
}

func FuzzReadRows(f *testing.F) {
	f.Add([]byte("employee_id;note\nE1;\"a\n\"\"b\"\"\"\n;\nE2"), "csv")
	f.Add([]byte("{\"employee_id\":\"E1\"}\n{"), "jsonl")
	f.Add([]byte("[{\"employee_id\":\"E1\"},1]"), "")
	f.Add([]byte("{\n\"employee_id\":\"E1\"}\nx\n{}"), "")
	f.Add([]byte("\x1f\x8b"), "")
	f.Fuzz(func(t *testing.T, file []byte, format string) {
		lines := bytes.Count(file, []byte("\n")) + 1
		last := 0
		var fatal error
		for row, err := range ReadRows(bytes.NewReader(file), Format(format)) {
			if fatal != nil {
				t.Fatalf("a row after %v", fatal)
			}
			if fatal = err; err != nil {
				continue
			}
			packed := bytes.HasPrefix(file, []byte{0x1f, 0x8b})
			if row.Line < last || row.Line < 1 || row.Line > lines && !packed {
				t.Fatalf("line %d after line %d, of %d", row.Line, last, lines)
			}
			last = row.Line
			checkRow(t, row)
		}
	})
}

func checkRow(t *testing.T, row Row) {
	t.Helper()
	var invalid *InvalidError
	if row.Err != nil {
		if !errors.As(row.Err, &invalid) || row.Data != nil {
			t.Fatalf("a bad row with error %v and data %q", row.Err, row.Data)
		}
		return
	}
	rec, err := Decode(row.Data)
	if err != nil || rec.ID != row.ID {
		t.Fatalf("a good row of %q that decodes to %q, %v: %s", row.ID, rec.ID, err, row.Data)
	}
	if bytes.ContainsAny(row.Data, "\n") {
		t.Fatalf("data of several lines: %s", row.Data)
	}
}

func BenchmarkReadRows(b *testing.B) {
	const rows = 1000
	var csv, lines bytes.Buffer
	csv.WriteString("employee_id,email,department,role_level,location_code,updated_at\n")
	for i := range rows {
		fmt.Fprintf(&csv, "EMP-%04d,emp-%04d@example.com,Support-Tier2,Level3,US-East,2026-03-01T09:30:00Z\n", i, i)
	}
	for row := range ReadRows(bytes.NewReader(csv.Bytes()), CSV) {
		lines.Write(append(row.Data, '\n'))
	}
	for name, file := range map[string][]byte{"csv": csv.Bytes(), "jsonl": lines.Bytes()} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(file)))
			b.ReportAllocs()
			for b.Loop() {
				for row, err := range ReadRows(bytes.NewReader(file), Auto) {
					if err != nil || row.Err != nil {
						b.Fatal(err, row.Err)
					}
				}
			}
			b.ReportMetric(rows*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
		})
	}
}
