package mapping

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"skillsync/genesys"
)

// Merge is the whole set of skills that a user with current should have afterwards, sorted by name,
// and whether that is another set than current. Skills that no rule names stay as they are, unless
// the mapping removes them; a skill that rules name but want has not is taken away. Proficiencies
// are equal if they differ by less than a float's rounding.
func (m *Mapping) Merge(current, want []genesys.Skill) (target []genesys.Skill, changed bool) {
	target = slices.Clone(want)
	for _, s := range current {
		wanted := slices.ContainsFunc(target, named(s.Name))
		if !wanted && !m.remove && !m.owns(s.Name) {
			target = append(target, s)
		}
	}
	slices.SortFunc(target, byName)
	return target, !sameSet(current, target)
}

func (m *Mapping) owns(skill string) bool {
	_, found := slices.BinarySearch(m.owned, skill)
	return found
}

func sameSet(current, target []genesys.Skill) bool {
	if len(current) != len(target) {
		return false
	}
	sorted := slices.SortedFunc(slices.Values(current), byName)
	return slices.EqualFunc(sorted, target, func(a, b genesys.Skill) bool {
		return a.Name == b.Name && sameLevel(a, b)
	})
}

// sameLevel does not compare where the org tells proficiency in words ("Expert"): the words are the
// org's own and on no scale, so that the skill is there is all that can be known.
func sameLevel(a, b genesys.Skill) bool {
	return a.Level != "" || b.Level != "" || math.Abs(a.Proficiency-b.Proficiency) <= 1e-9
}

// A Mismatch is what is wrong with the skills of a user, sorted by name. The zero value is nothing.
type Mismatch struct {
	Missing  []genesys.Skill // wanted, not there
	Wrong    []WrongLevel    // there with another proficiency
	Unwanted []genesys.Skill // there, and by the mapping must not be
}

// A WrongLevel is a skill with another proficiency than is wanted.
type WrongLevel struct {
	Name       string
	Want, Have float64
}

// Compare tells what is missing from actual, and what the mapping would take away.
func (m *Mapping) Compare(want, actual []genesys.Skill) Mismatch {
	var out Mismatch
	for _, w := range want {
		i := slices.IndexFunc(actual, named(w.Name))
		switch {
		case i < 0:
			out.Missing = append(out.Missing, w)
		case !sameLevel(w, actual[i]):
			out.Wrong = append(out.Wrong, WrongLevel{Name: w.Name, Want: w.Proficiency, Have: actual[i].Proficiency})
		}
	}
	for _, a := range actual {
		if (m.remove || m.owns(a.Name)) && !slices.ContainsFunc(want, named(a.Name)) {
			out.Unwanted = append(out.Unwanted, a)
		}
	}
	slices.SortFunc(out.Missing, byName)
	slices.SortFunc(out.Wrong, func(a, b WrongLevel) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(out.Unwanted, byName)
	return out
}

// OK tells whether the skills are as wanted.
func (x Mismatch) OK() bool { return len(x.Missing)+len(x.Wrong)+len(x.Unwanted) == 0 }

// String says it in one line: `missing Billing 3; Sales is 2, not 4; unwanted Retention`.
func (x Mismatch) String() string {
	var parts []string
	for _, s := range x.Missing {
		parts = append(parts, fmt.Sprintf("missing %s %s", s.Name, formatLevel(s.Proficiency)))
	}
	for _, s := range x.Wrong {
		parts = append(parts, fmt.Sprintf("%s is %s, not %s", s.Name, formatLevel(s.Have), formatLevel(s.Want)))
	}
	for _, s := range x.Unwanted {
		parts = append(parts, "unwanted "+s.Name)
	}
	return strings.Join(parts, "; ")
}

// Digest stands for the state that a user of one profile gets by one version of the mapping: equal
// digests, equal state. It is the first 16 bytes of a SHA-256, in hexadecimal.
func (d Desired) Digest(mappingVersion, profile string) string {
	h := sha256.New()
	fmt.Fprintf(h, "%q %q\n", mappingVersion, profile)
	for _, a := range d.Attributes {
		fmt.Fprintf(h, "attribute %q %q\n", a.Name, a.Value)
	}
	for _, s := range d.Skills {
		fmt.Fprintf(h, "skill %q %s\n", s.Name, strconv.FormatFloat(s.Proficiency, 'g', -1, 64))
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}
