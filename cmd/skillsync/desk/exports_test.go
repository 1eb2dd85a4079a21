package desk_test

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"skillsync/cmd/skillsync/desk"
	"skillsync/queue"
	"skillsync/queue/queuetest"
)

func export(t testing.TB, d *desk.Desk, x desk.Export) (out string, n uint64) {
	t.Helper()
	var told []uint64
	var buffer bytes.Buffer
	n, err := d.Export(t.Context(), "ops", x, &buffer, func(n uint64) { told = append(told, n) })
	ok(t, err)
	if uint64(len(told)) != n || n > 0 && told[n-1] != n {
		t.Errorf("%d exported, told %v", n, told)
	}
	return buffer.String(), n
}

// table reads a CSV file: for each row its cells by column.
func table(t testing.TB, out string) (rows []map[string]string) {
	t.Helper()
	all := must[[][]string](t)(csv.NewReader(strings.NewReader(out)).ReadAll()) // it wants as many cells in each row
	for _, cells := range all[1:] {
		row := map[string]string{}
		for i, name := range all[0] {
			row[name] = cells[i]
		}
		rows = append(rows, row)
	}
	return rows
}

func TestAnExportHidesValuesUnlessAsked(t *testing.T) {
	b := queuetest.Run(t)
	d := open(t, b)
	letter(t, b, `{"employee_id":"EMP-1","version":7,"department":"Top-Secret","region":"Top-Secret"}`, queue.Failure{EmployeeID: "EMP-1", Reason: "unverified"})
	letter(t, b, `Top-Secret, no JSON`, queue.Failure{Reason: "bad_record"})
	letter(t, b, `["Top-Secret"]`, queue.Failure{Reason: "bad_record"})
	for _, format := range []string{desk.JSONLines, desk.CSV} {
		for values, times := range map[bool]int{false: 0, true: 4} {
			out, n := export(t, d, desk.Export{Format: format, Values: values})
			// In JSON a record is base64 where it is shown as it is stored: nothing may be there twice.
			if got := strings.Count(out, "Top-Secret"); got != times || n != 3 || strings.Contains(out, "VG9wLVNlY3Jld") || strings.Contains(out, `"data"`) {
				t.Errorf("%s, values %v: %d times, %d letters:\n%s", format, values, got, n, out)
			}
			for _, word := range []string{"EMP-1", "department", "unverified", "bad_record"} {
				if !strings.Contains(out, word) {
					t.Errorf("%s, values %v: %q is missing:\n%s", format, values, word, out)
				}
			}
		}
	}
}

func TestEveryLineOfAnExportIsALetterAsJSON(t *testing.T) {
	b := queuetest.Run(t)
	d := open(t, b)
	records := []string{`{"employee_id":"EMP-1","department":"a"}`, "no JSON \xff <&>", `"a string"`, "\ufeff{}"}
	for _, r := range records {
		letter(t, b, r, queue.Failure{EmployeeID: "EMP-1", Reason: "user not found", Status: 404, Error: "why", Expected: json.RawMessage(`[{"name":"Billing"}]`)})
	}
	out, n := export(t, d, desk.Export{Format: desk.JSONLines, Values: true})
	lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
	if n != 4 || len(lines) != 4 {
		t.Fatalf("%d letters:\n%s", n, out)
	}
	for i, line := range lines {
		var got struct {
			Sequence   uint64
			EmployeeID string `json:"employee_id"`
			Reason     string
			Status     int
			Error      string
			Looping    *bool
			Expected   json.RawMessage
			Record     json.RawMessage
		}
		ok(t, json.Unmarshal([]byte(line), &got))
		if got.Sequence != uint64(i+1) || got.EmployeeID != "EMP-1" || got.Reason != "user not found" || got.Status != 404 || got.Error != "why" ||
			got.Looping == nil || string(got.Expected) != `[{"name":"Billing"}]` {
			t.Errorf("%s", line)
		}
		want := records[i]
		if i == 1 || i == 3 { // a string, as far as JSON can hold it
			var text string
			ok(t, json.Unmarshal(got.Record, &text))
			if text != strings.ToValidUTF8(want, "\ufffd") {
				t.Errorf("%q, want %q", text, want)
			}
		} else if string(got.Record) != want {
			t.Errorf("%s, want %s", got.Record, want)
		}
	}
}

func TestAnExportWithoutLettersIsEmptyButForTheHeader(t *testing.T) {
	d := open(t, queuetest.Run(t))
	if out, n := export(t, d, desk.Export{Format: desk.JSONLines}); n != 0 || out != "" {
		t.Errorf("%d letters: %q", n, out)
	}
	out, n := export(t, d, desk.Export{Format: desk.CSV})
	if n != 0 || strings.Count(out, "\n") != 1 || !strings.HasPrefix(out, `"sequence","since","employee","reason",`) || !strings.HasSuffix(out, `,"record"`+"\r\n") {
		t.Errorf("%d letters: %q", n, out)
	}
}

func TestARowOfAnExportSaysAllThatIsKnown(t *testing.T) {
	b := queuetest.Run(t)
	d := open(t, b)
	first, last := time.Date(2026, 3, 1, 12, 0, 0, 5, time.UTC), time.Date(2026, 3, 1, 12, 30, 0, 0, time.UTC)
	letter(t, b, `{"employee_id":"E 1","department":"a,\"b\"\nc"}`, queue.Failure{
		EmployeeID: "E 1", Version: "7", Reason: "unverified", Class: "exhausted", Error: `say "no", twice`, Status: 200, CorrelationID: "c1", Attempts: 5,
		First: first, Last: last, MappingVersion: "m1", Expected: json.RawMessage(`[{"name":"Billing"}]`), Actual: json.RawMessage(`[]`), Worker: "w1",
	})
	out, _ := export(t, d, desk.Export{Format: desk.CSV, Values: true})
	row := table(t, out)[0]
	for name, want := range map[string]string{
		"sequence": "1", "employee": "E 1", "reason": "unverified", "class": "exhausted", "status": "200", "error": `say "no", twice`, "correlation_id": "c1",
		"attempts": "5", "replays": "0", "looping": "false", "first_failure": "2026-03-01T12:00:00.000000005Z", "last_failure": "2026-03-01T12:30:00Z",
		"mapping": "m1", "version": "7", "batch": "", "worker": "w1", "expected": `[{"name":"Billing"}]`, "actual": "[]",
		"record": `{"employee_id":"E 1","department":"a,\"b\"\nc"}`,
	} {
		if row[name] != want {
			t.Errorf("%s is %q, want %q", name, row[name], want)
		}
	}
	for _, name := range []string{"since", "published"} {
		if at, err := time.Parse(time.RFC3339Nano, row[name]); err != nil || time.Since(at) > time.Minute {
			t.Errorf("%s is %q, %v", name, row[name], err)
		}
	}
}

func TestNoCellOfAnExportIsAFormula(t *testing.T) {
	hostile := []string{
		"=1+1", "+1", "-1", "@SUM(A1)", "\t=1+1", "\tx", "\rx", "\n=1", "\r\n=1", "  =1+1", "   -1", "\u00a0=1", "\ufeff=1", "\u200b=1", "\x00=1",
		`"=1+1"`, `'=1+1`, `" '=1`, "＝1+1", "＋1", "－1", "＠SUM(A1)", " ＝1", "|calc", "%x", "=", "-", "@", `=HYPERLINK("http://evil.example","x")`, `=cmd|' /C calc'!A0`, "+49 30 1234",
	}
	harmless := []string{
		"text", "a=b", "1+1", "a-b", "a@b.example", "12", "1.5", " text", "  ", "'text'", `"text"`, `{"a":"=1+1"}`, "[]", "a\tb", "a\nb", "ä", "漢字", "(1)", "#x", "x,=1", "_", ".5", "/x", "*", "&x", "!", "…",
	}
	b := queuetest.Run(t)
	d := open(t, b)
	all := append(slices.Clone(hostile), harmless...)
	for _, cell := range all {
		letter(t, b, cell, queue.Failure{EmployeeID: "EMP-1", Reason: "bad_record", Error: cell})
	}
	out, n := export(t, d, desk.Export{Format: desk.CSV, Values: true})
	rows := table(t, out)
	if int(n) != len(all) || len(rows) != len(all) {
		t.Fatalf("%d letters, %d rows, want %d", n, len(rows), len(all))
	}
	for i, cell := range all {
		want := strings.ReplaceAll(cell, "\r\n", "\n") // as every reader of CSV has it
		if i < len(hostile) {
			want = "'" + want
		}
		if got := rows[i]["record"]; got != want {
			t.Errorf("%q became %q, want %q", cell, got, want)
		}
		if got := rows[i]["error"]; i < len(hostile) && strings.IndexAny(got, "=+-@\t\r\n") == 0 {
			t.Errorf("the error %q became %q", cell, got)
		}
	}
}

func TestAnExportTakesWhatIsSelectedOldestFirst(t *testing.T) {
	b := queuetest.Run(t)
	d := open(t, b)
	fill(t, b, 3, "unverified")
	fill(t, b, 3, "bad_record")
	for name, test := range map[string]struct {
		desk.Selection
		want string
	}{
		"all":                             {desk.Selection{}, "1 2 3 4 5 6"},
		"by reason":                       {desk.Selection{Filter: queue.Filter{Reason: "bad_record"}}, "4 5 6"},
		"by reason, up to a letter":       {desk.Selection{Filter: queue.Filter{Reason: "bad_record"}, Until: 5}, "4 5"},
		"by name":                         {desk.Selection{Letters: []uint64{2, 5}}, "2 5"},
		"by name, the other way round":    {desk.Selection{Letters: []uint64{5, 2}}, "2 5"},
		"by name, one of them twice":      {desk.Selection{Letters: []uint64{2, 5, 2}}, "2 5"},
		"by name, one of them not there":  {desk.Selection{Letters: []uint64{2, 99}}, "2"},
		"by a filter that selects nobody": {desk.Selection{Filter: queue.Filter{Class: "none"}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			out, _ := export(t, d, desk.Export{Selection: test.Selection, Format: desk.CSV})
			var got []string
			for _, row := range table(t, out) {
				got = append(got, row["sequence"])
			}
			if strings.Join(got, " ") != test.want {
				t.Errorf("%v, want %s", got, test.want)
			}
		})
	}
}

func TestAnExportIsWrittenDown(t *testing.T) {
	b := queuetest.Run(t)
	d := open(t, b)
	fill(t, b, 3, "unverified")
	export(t, d, desk.Export{Format: desk.JSONLines, To: "letters.jsonl"})
	export(t, d, desk.Export{Selection: desk.Selection{Letters: []uint64{2}}, Format: desk.CSV, Values: true, To: "standard output"})
	entries := audit(t, b)
	if got, want := acts(entries), "ops export begun 0, ops export done 3, ops export begun 0, ops export done 1"; got != want {
		t.Fatalf("written down: %s, want %s", got, want)
	}
	for i, want := range []string{"jsonl to letters.jsonl", "jsonl to letters.jsonl", "csv to standard output, with values", "csv to standard output, with values"} {
		if entries[i].Detail != want {
			t.Errorf("%+v, want %s", entries[i], want)
		}
	}
	if entries[1].Filter == nil || entries[3].About != "2" || !slices.Equal(entries[3].Letters, []uint64{2}) {
		t.Errorf("%+v", entries)
	}
}

// A full disk takes some bytes and then nothing more.
type full struct{ left int }

var errFull = errors.New("disk full")

func (f *full) Write(p []byte) (int, error) {
	if f.left -= len(p); f.left < 0 {
		return 0, errFull
	}
	return len(p), nil
}

func TestAnExportThatCannotBeWrittenIsWrittenDownAsFailed(t *testing.T) {
	b := queuetest.Run(t)
	d := open(t, b)
	fill(t, b, 500, "unverified")
	for _, format := range []string{desk.JSONLines, desk.CSV} {
		for _, room := range []int{0, 70 << 10} {
			if _, err := d.Export(t.Context(), "ops", desk.Export{Format: format, To: "a disk"}, &full{room}, func(uint64) {}); !errors.Is(err, errFull) {
				t.Errorf("%s, %d bytes: %v", format, room, err)
			}
			entries := audit(t, b)
			if last := entries[len(entries)-1]; !strings.HasPrefix(last.Outcome, "failed: ") || !strings.HasSuffix(last.Outcome, "disk full") {
				t.Errorf("%s, %d bytes: %+v", format, room, last)
			}
		}
	}
}

func TestAnExportOfAFilterThatCannotBeUnderstoodIsWrittenDownAsFailed(t *testing.T) {
	b := queuetest.Run(t)
	d := open(t, b)
	fill(t, b, 3, "unverified")
	_, err := d.Export(t.Context(), "ops", desk.Export{Selection: desk.Selection{Filter: queue.Filter{Status: "x"}}, Format: desk.CSV}, &bytes.Buffer{}, func(uint64) {})
	if !errors.Is(err, queue.ErrFilter) {
		t.Error("a filter that cannot be understood:", err)
	}
	if entries := audit(t, b); len(entries) != 2 || !strings.HasPrefix(entries[1].Outcome, "failed: no such filter") {
		t.Errorf("written down: %s", acts(entries))
	}
}
