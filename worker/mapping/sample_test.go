package mapping

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"skillsync/genesys"
	"skillsync/worker/employee"
)

const samples = "../../deploy/samples/"

func readSamples(t *testing.T) (good map[string][]employee.Record, bad []string) {
	t.Helper()
	f, err := os.Open(samples + "employees.csv")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	good = map[string][]employee.Record{}
	for row, err := range employee.ReadRows(f, employee.FormatOf(f.Name())) {
		if err != nil {
			t.Fatal(err)
		}
		if row.Err != nil {
			bad = append(bad, fmt.Sprintf("[%s] %v", row.ID, row.Err))
			continue
		}
		rec, err := employee.Decode(row.Data)
		if err != nil {
			t.Fatal(err)
		}
		good[rec.ID] = append(good[rec.ID], rec)
	}
	return good, bad
}

func ids(format string, from, to, step int) (ids []string) {
	for n := from; n <= to; n += step {
		ids = append(ids, fmt.Sprintf(format, n))
	}
	return ids
}

func TestTheSampleEmployeesAreWhatTheirReadmeSays(t *testing.T) {
	good, bad := readSamples(t)
	want := []string{
		"[] employee_id: is missing",
		"[EMP-0181] updated_at: must be an RFC 3339 timestamp with a time zone, or a date YYYY-MM-DD",
		"[] record: has 4 cells, the header has 9",
		"[EMP-0183] user_id: must be a UUID",
	}
	if diff := cmp.Diff(want, bad); diff != "" {
		t.Errorf("malformed rows (-want +got)\n%s", diff)
	}
	classes := slices.Concat(
		[]string{"EMP-8842"}, ids("EMP-%04d", 1, 170, 1), ids("EMP-%04d", 191, 194, 1), ids("TMP-%03d", 1, 6, 1))
	twice := ids("EMP-%04d", 3, 129, 9)
	rows := len(bad)
	for _, id := range classes {
		rows += len(good[id])
		times := 1
		if slices.Contains(twice, id) {
			times = 2
		}
		if len(good[id]) != times {
			t.Errorf("%s has %d rows, want %d", id, len(good[id]), times)
		}
		delete(good, id)
	}
	if rows != 200 || len(good) > 0 {
		t.Errorf("%d rows, want 200; not accounted for: %d employees", rows, len(good))
	}
}

func TestTheSecondRowOfASampleEmployeeIsNewerAndDifferent(t *testing.T) {
	good, _ := readSamples(t)
	m := loadSample(t)
	for id, records := range good {
		if len(records) < 2 {
			continue
		}
		first, second := records[0], records[1]
		if !second.UpdatedAt.After(first.UpdatedAt) {
			t.Errorf("%s: the second row is not newer", id)
		}
		if skillText(t, m, first) == skillText(t, m, second) {
			t.Errorf("%s: both rows want the same skills", id)
		}
	}
}

func TestTheSampleMappingGivesEachClassOfEmployeesItsSkills(t *testing.T) {
	good, _ := readSamples(t)
	m := loadSample(t)
	for id, records := range good {
		got := skillText(t, m, records[0])
		switch {
		case id == "EMP-8842" && got != "Tier 2 Support 4",
			id >= "EMP-0141" && id <= "EMP-0165" && got != "Billing 3",
			id >= "EMP-0191" && id <= "EMP-0194" && got == "",
			strings.HasPrefix(id, "EMP-0") && got == "":
			t.Errorf("%s gets %q", id, got)
		}
	}
}

func TestTheSampleMappingOwnsNoSkillThatIsSetByHand(t *testing.T) {
	want := []string{"Billing", "Retention", "Sales", "Technical Support", "Tier 1 Support", "Tier 2 Support"}
	m := loadSample(t)
	if diff := cmp.Diff(want, m.Owned()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if m.RemoveUnowned() {
		t.Error("skills set by hand would be removed")
	}
}

func TestTheSampleMappingPassesItsOwnTests(t *testing.T) {
	results := loadSample(t).Test()
	if len(results) != 7 {
		t.Errorf("%d tests, want 7", len(results))
	}
	for _, r := range results {
		if !r.OK {
			t.Errorf("line %d, %s: %s", r.Line, r.Name, strings.Join(r.Diff, "; "))
		}
	}
}

func loadSample(t *testing.T) *Mapping {
	t.Helper()
	m, err := Load(samples + "mapping.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func skillText(t *testing.T, m *Mapping, rec employee.Record) string {
	t.Helper()
	d, err := m.Desired(rec)
	if err != nil {
		t.Fatalf("%s: %v", rec.ID, err)
	}
	return texts(d.Skills)
}

func texts(skills []genesys.Skill) string {
	out := make([]string, len(skills))
	for i, s := range skills {
		out[i] = s.Name + " " + formatLevel(s.Proficiency)
	}
	return strings.Join(out, ", ")
}
