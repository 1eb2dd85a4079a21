package employee

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestARecordIsDecodedWithAllItsFields(t *testing.T) {
	got, err := Decode([]byte(`{
		"employee_id": "EMP-8842", "user_id": "6F1D2C3B-4a5e-4f60-8172-93a4b5c6d7e8",
		"email": "emp-8842@example.com", "version": 42, "updated_at": "2026-03-01T09:30:00+02:00",
		"department": "Support-Tier2", "grade": 7.50, "remote": true, "team": null, "cost centre": "\u00e9\ud83d\ude00"
	}`))
	if err != nil {
		t.Fatal(err)
	}
	want := Record{
		ID:         "EMP-8842",
		UserID:     "6f1d2c3b-4a5e-4f60-8172-93a4b5c6d7e8",
		Email:      "emp-8842@example.com",
		Version:    42,
		HasVersion: true,
		UpdatedAt:  time.Date(2026, 3, 1, 7, 30, 0, 0, time.UTC),
		Fields: map[string]any{
			"employee_id": "EMP-8842",
			"user_id":     "6F1D2C3B-4a5e-4f60-8172-93a4b5c6d7e8",
			"email":       "emp-8842@example.com",
			"version":     json.Number("42"),
			"updated_at":  "2026-03-01T09:30:00+02:00",
			"department":  "Support-Tier2",
			"grade":       json.Number("7.50"),
			"remote":      true,
			"cost centre": "é😀",
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestOptionalFieldsMayBeEmptyOrNull(t *testing.T) {
	for _, absent := range []string{`""`, `null`} {
		doc := fmt.Sprintf(`{"employee_id":"E","user_id":%[1]s,"email":%[1]s,"version":%[1]s,"updated_at":%[1]s}`, absent)
		got, err := Decode([]byte(doc))
		if err != nil {
			t.Errorf("%s: %v", absent, err)
		}
		if got.UserID != "" || got.Email != "" || got.HasVersion || !got.UpdatedAt.IsZero() {
			t.Errorf("%s: not absent: %+v", absent, got)
		}
	}
}

func TestAVersionIsAnIntegerInAnySpelling(t *testing.T) {
	for text, want := range map[string]int64{
		`0`: 0, `-0`: 0, `42`: 42, `"42"`: 42, `"007"`: 7, `-3`: -3, `"-3"`: -3, `3.0`: 3, `3e0`: 3, `1.50e1`: 15,
		`0.05E+2`: 5, `-12.5e1`: -125, `100e-2`: 1, `5000000e-6`: 5, `0e999999999`: 0, `0.000`: 0,
		`9223372036854775807`: 1<<63 - 1, `-9223372036854775808`: -1 << 63, `"9223372036854775807"`: 1<<63 - 1,
		`9223372036854775807.0`: 1<<63 - 1, `9007199254740993.0`: 9007199254740993,
	} {
		got, err := Decode([]byte(`{"employee_id":"E","version":` + text + `}`))
		if err != nil || got.Version != want || !got.HasVersion {
			t.Errorf("version %s: %d, %v; want %d", text, got.Version, err, want)
		}
	}
}

func TestAnUpdateTimeIsATimestampOrADateInUTC(t *testing.T) {
	for text, want := range map[string]time.Time{
		"2026-03-01":                     time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC),
		"2024-02-29":                     time.Date(2024, 2, 29, 0, 0, 0, 0, time.UTC),
		"2026-03-01T00:00:00Z":           time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC),
		"2026-03-01T00:30:00.5+01:00":    time.Date(2026, 2, 28, 23, 30, 0, 5e8, time.UTC),
		"2026-03-01T00:00:00.123456789Z": time.Date(2026, 3, 1, 0, 0, 0, 123456789, time.UTC),
	} {
		got, err := Decode([]byte(`{"employee_id":"E","updated_at":"` + text + `"}`))
		if err != nil || got.UpdatedAt != want {
			t.Errorf("%s: %v, %v; want %v", text, got.UpdatedAt, err, want)
		}
	}
}

// refused is every reason to refuse a record. Each value that must not be quoted is "s3cret".
var refused = []struct{ name, doc, want string }{
	{"nothing", ``, `record: is empty`},
	{"white space", " \n", `record: is empty`},
	{"a byte order mark alone", "\ufeff", `record: is empty`},
	{"no JSON", `s3cret`, `record: is not valid JSON (stopped at byte 1)`},
	{"cut off", `{"employee_id":"s3cret`, `record: is not valid JSON (stopped at byte 22)`},
	{"two records", `{"employee_id":"a"} {"employee_id":"s3cret"}`, `record: is not valid JSON (stopped at byte 21)`},
	{"single quotes", `{'employee_id':'s3cret'}`, `record: is not valid JSON (stopped at byte 2)`},
	{"a comment", `{} // s3cret`, `record: is not valid JSON (stopped at byte 4)`},
	{"a leading zero", `{"employee_id":"a","n":01}`, `record: is not valid JSON (stopped at byte 25)`},
	{"a raw control character", "{\"employee_id\":\"a\n\"}", `record: is not valid JSON (stopped at byte 18)`},
	{"an array", `[{"employee_id":"s3cret"}]`, `record: must be a JSON object, not an array`},
	{"a string", `"s3cret"`, `record: must be a JSON object, not a string`},
	{"a number", `-42`, `record: must be a JSON object, not a number`},
	{"a boolean", `true`, `record: must be a JSON object, not a boolean`},
	{"null", `null`, `record: must be a JSON object, not null`},
	{"invalid UTF-8", "{\"employee_id\":\"s3cret\xff\"}", `record: is not valid UTF-8`},
	{"an object in a field", `{"employee_id":"a","manager":{"name":"s3cret"}}`, `manager: must not be an object; records are flat`},
	{"an array in a field", `{"employee_id":"a","languages":["s3cret"]}`, `languages: must not be an array; records are flat`},
	{"a name twice", `{"employee_id":"a","team":"s3cret","team":"s3cret"}`, `team: is there twice`},
	{"a name twice, one escaped", `{"employee_id":"a","\u0061":1,"a":2}`, `a: is there twice`},
	{"a name twice, first null", `{"employee_id":"a","team":null,"team":"s3cret"}`, `team: is there twice`},
	{"a field without a name", `{"employee_id":"a","":"s3cret"}`, `record: has a field without a name`},
	{"a control character in a name", `{"employee_id":"a","s3cret\n":1}`, `record: has a field name with a control character`},
	{"a long name", `{"employee_id":"a","` + strings.Repeat("s3cret", 22) + `":1}`, `record: has a field name longer than 128 bytes`},
	{"half a pair in a value", `{"employee_id":"a","team":"s3cret\ud800"}`, `team: has half a surrogate pair`},
	{"the wrong half in a value", `{"employee_id":"a","team":"\udc00s3cret"}`, `team: has half a surrogate pair`},
	{"two first halves", `{"employee_id":"a","team":"\ud800\ud800"}`, `team: has half a surrogate pair`},
	{"half a pair in a name", `{"employee_id":"a","\ud800":1}`, `record: has a field name with half a surrogate pair`},
	{"no employee_id", `{"department":"s3cret"}`, `employee_id: is missing`},
	{"an empty object", `{}`, `employee_id: is missing`},
	{"a null employee_id", `{"employee_id":null}`, `employee_id: is missing`},
	{"an empty employee_id", `{"employee_id":""}`, `employee_id: is empty`},
	{"a number for employee_id", `{"employee_id":55555}`, `employee_id: must be a string; write a number in quotes, like "8842"`},
	{"a boolean for employee_id", `{"employee_id":true}`, `employee_id: must be a string; write a number in quotes, like "8842"`},
	{"a long employee_id", `{"employee_id":"` + strings.Repeat("é", 65) + `"}`, `employee_id: is longer than 128 bytes`},
	{"a control character in employee_id", `{"employee_id":"s3cret\u0000"}`, `employee_id: has a control character`},
	{"a space before employee_id", `{"employee_id":" s3cret"}`, `employee_id: begins or ends with a space`},
	{"a wide space behind employee_id", `{"employee_id":"s3cret\u2003"}`, `employee_id: begins or ends with a space`},
	{"no UUID", `{"employee_id":"a","user_id":"s3cret"}`, `user_id: must be a UUID`},
	{"a UUID in braces", `{"employee_id":"a","user_id":"{6f1d2c3b-4a5e-4f60-8172-93a4b5c6d7e8}"}`, `user_id: must be a UUID`},
	{"a number for user_id", `{"employee_id":"a","user_id":1}`, `user_id: must be a string`},
	{"a boolean for email", `{"employee_id":"a","email":false}`, `email: must be a string`},
	{"a word for version", `{"employee_id":"a","version":"s3cret"}`, `version: must be an integer of at most 64 bits`},
	{"a boolean for version", `{"employee_id":"a","version":true}`, `version: must be an integer of at most 64 bits`},
	{"a fraction", `{"employee_id":"a","version":1.5}`, `version: must be an integer of at most 64 bits`},
	{"a tiny fraction", `{"employee_id":"a","version":1e-999999999999}`, `version: must be an integer of at most 64 bits`},
	{"a version of 65 bits", `{"employee_id":"a","version":9223372036854775808}`, `version: must be an integer of at most 64 bits`},
	{"a version of 65 bits in quotes", `{"employee_id":"a","version":"9223372036854775808"}`, `version: must be an integer of at most 64 bits`},
	{"a huge version", `{"employee_id":"a","version":1e99999999}`, `version: must be an integer of at most 64 bits`},
	{"a fraction in quotes", `{"employee_id":"a","version":"3.0"}`, `version: must be an integer of at most 64 bits`},
	{"a sign in quotes", `{"employee_id":"a","version":"+3"}`, `version: must be an integer of at most 64 bits`},
	{"a time that is none", `{"employee_id":"a","updated_at":"s3cret"}`, badTime},
	{"a day that is none", `{"employee_id":"a","updated_at":"2026-02-29"}`, badTime},
	{"a time without a zone", `{"employee_id":"a","updated_at":"2026-03-01T09:30:00"}`, badTime},
	{"a comma for a point", `{"employee_id":"a","updated_at":"2026-03-01T09:30:00,5Z"}`, badTime},
	{"a single-digit hour", `{"employee_id":"a","updated_at":"2026-03-01T9:30:00Z"}`, badTime},
	{"a leap second", `{"employee_id":"a","updated_at":"2016-12-31T23:59:60Z"}`, badTime},
	{"a number for updated_at", `{"employee_id":"a","updated_at":1772357400}`, `updated_at: must be a string`},
}

const badTime = `updated_at: must be an RFC 3339 timestamp with a time zone, or a date YYYY-MM-DD`

func TestARefusalNamesTheFieldAndNeverAValue(t *testing.T) {
	for _, test := range refused {
		t.Run(test.name, func(t *testing.T) {
			_, err := Decode([]byte(test.doc))
			var invalid *InvalidError
			if !errors.As(err, &invalid) {
				t.Fatalf("%v is no *InvalidError", err)
			}
			if err.Error() != test.want {
				t.Errorf("got  %s\nwant %s", err, test.want)
			}
			if strings.Contains(err.Error(), "s3cret") {
				t.Errorf("quotes the value: %s", err)
			}
		})
	}
}

func TestTheLimitsAreInclusive(t *testing.T) {
	fields := func(n int) string {
		var b strings.Builder
		b.WriteString(`{"employee_id":"a"`)
		for i := range n - 1 {
			fmt.Fprintf(&b, `,"f%d":null`, i)
		}
		return b.String() + `}`
	}
	pad := func(n int) string {
		doc := `{"employee_id":"a","note":""}`
		return doc[:len(doc)-2] + strings.Repeat("x", n-len(doc)) + `"}`
	}
	for _, test := range []struct {
		name, largest, tooLarge, want string
	}{
		{"bytes", pad(MaxBytes), pad(MaxBytes + 1), `record: is larger than 64 KiB`},
		{"fields", fields(200), fields(201), `record: has more than 200 fields`},
		{
			"employee_id", `{"employee_id":"` + strings.Repeat("x", 128) + `"}`,
			`{"employee_id":"` + strings.Repeat("x", 129) + `"}`, `employee_id: is longer than 128 bytes`,
		},
		{
			"a name", `{"employee_id":"a","` + strings.Repeat("n", 128) + `":1}`,
			`{"employee_id":"a","` + strings.Repeat("n", 129) + `":1}`, `record: has a field name longer than 128 bytes`,
		},
	} {
		if _, err := Decode([]byte(test.largest)); err != nil {
			t.Errorf("%s: the largest: %v", test.name, err)
		}
		if _, err := Decode([]byte(test.tooLarge)); err == nil || err.Error() != test.want {
			t.Errorf("%s: got %v, want %s", test.name, err, test.want)
		}
	}
}

func TestAByteOrderMarkInFrontIsTolerated(t *testing.T) {
	if got, err := Decode([]byte("\ufeff{\"employee_id\":\"a\"}")); err != nil || got.ID != "a" {
		t.Errorf("got %q, %v", got.ID, err)
	}
}

func TestABadRecordWithAUsableIDIsReportedUnderIt(t *testing.T) {
	got, err := Decode([]byte(`{"employee_id":"EMP-1","version":"x"}`))
	if err == nil || got.ID != "EMP-1" || got.Fields != nil {
		t.Errorf("got %+v, %v; want the ID alone, and an error", got, err)
	}
}

func FuzzDecode(f *testing.F) {
	for _, test := range refused {
		f.Add([]byte(test.doc))
	}
	f.Add([]byte(`{"employee_id":"a","s":"\ud83d\ude00\\u","n":-1.5e+3,"b":true,"z":null}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := Decode(data)
		if err != nil {
			var invalid *InvalidError
			if !errors.As(err, &invalid) {
				t.Fatalf("%v is no *InvalidError", err)
			}
			return
		}
		agreesWithEncodingJSON(t, data, got)
	})
}

// agreesWithEncodingJSON holds that what Decode accepts, the standard library reads the same way.
func agreesWithEncodingJSON(t *testing.T, data []byte, got Record) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(bytes.TrimPrefix(data, bom)))
	d.UseNumber()
	var want map[string]any
	if err := d.Decode(&want); err != nil {
		t.Fatalf("encoding/json refuses what Decode accepts: %v", err)
	}
	for name, v := range want {
		if v == nil {
			delete(want, name)
		}
	}
	if diff := cmp.Diff(want, got.Fields); diff != "" {
		t.Errorf("(-encoding/json +Decode)\n%s", diff)
	}
	if got.ID == "" || got.ID != want["employee_id"] {
		t.Errorf("ID %q, employee_id %v", got.ID, want["employee_id"])
	}
}

func BenchmarkDecode(b *testing.B) {
	data := []byte(`{"employee_id":"EMP-8842","email":"emp-8842@example.com","updated_at":"2026-03-01T09:30:00Z",` +
		`"department":"Support-Tier2","role_level":"Level3","location_code":"US-East","remote":true,"grade":7}`)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Decode(data); err != nil {
			b.Fatal(err)
		}
	}
}
