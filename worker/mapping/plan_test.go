package mapping

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"skillsync/genesys"
)

const twoSkills = "skills:\n  - {skill: A, proficiency: 1, when: team == \"a\"}\n  - {skill: B, proficiency: 2, when: team == \"b\"}\n"

func skill(name string, level float64) genesys.Skill {
	return genesys.Skill{Name: name, Proficiency: level}
}

type skills = []genesys.Skill

func TestMergeKeepsWhatNoRuleNames(t *testing.T) {
	for _, test := range []struct {
		name                       string
		current, want, keep        skills
		keepChanged, removeChanged bool
	}{
		{"nothing to nothing", nil, nil, skills{}, false, false},
		{"a new skill", nil, skills{skill("A", 1)}, skills{skill("A", 1)}, true, true},
		{"the same skills in another order", skills{skill("B", 2), skill("A", 1)}, skills{skill("A", 1), skill("B", 2)}, skills{skill("A", 1), skill("B", 2)}, false, false},
		{"another proficiency", skills{skill("A", 2)}, skills{skill("A", 1)}, skills{skill("A", 1)}, true, true},
		{"a proficiency off by rounding", skills{skill("A", 1+1e-12)}, skills{skill("A", 1)}, skills{skill("A", 1)}, false, false},
		{"a skill that rules name and do not give", skills{skill("A", 1), skill("B", 2)}, skills{skill("A", 1)}, skills{skill("A", 1)}, true, true},
		{"a skill set by hand", skills{skill("Z", 3), skill("A", 1)}, skills{skill("A", 1)}, skills{skill("A", 1), skill("Z", 3)}, false, true},
		{"a skill set by hand, and no rule applies", skills{skill("A", 1), skill("Z", 3)}, nil, skills{skill("Z", 3)}, true, true},
		{"a name in another case is another skill", skills{skill("a", 3)}, skills{skill("A", 1)}, skills{skill("A", 1), skill("a", 3)}, true, true},
		{"a level in words", skills{{Name: "A", Level: "Expert"}}, skills{skill("A", 1)}, skills{skill("A", 1)}, false, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := slices.Clone(test.current)
			got, changed := parse(t, twoSkills).Merge(test.current, test.want)
			if diff := cmp.Diff(test.keep, append(skills{}, got...)); diff != "" || changed != test.keepChanged {
				t.Errorf("keep: changed %v, want %v (-want +got)\n%s", changed, test.keepChanged, diff)
			}
			got, changed = parse(t, twoSkills+"unowned: remove\n").Merge(test.current, test.want)
			if diff := cmp.Diff(append(skills{}, test.want...), append(skills{}, got...)); diff != "" || changed != test.removeChanged {
				t.Errorf("remove: changed %v, want %v (-want +got)\n%s", changed, test.removeChanged, diff)
			}
			if diff := cmp.Diff(before, test.current); diff != "" {
				t.Errorf("the argument was changed\n%s", diff)
			}
		})
	}
}

func TestCompareTellsMissingWrongAndUnwanted(t *testing.T) {
	for _, test := range []struct {
		name         string
		want, actual skills
		keep, remove string
	}{
		{"as wanted", skills{skill("A", 1)}, skills{skill("A", 1)}, "", ""},
		{"nothing there", skills{skill("B", 2.5), skill("A", 1)}, nil, "missing A 1; missing B 2.5", "missing A 1; missing B 2.5"},
		{"another proficiency", skills{skill("A", 1)}, skills{skill("A", 2)}, "A is 2, not 1", "A is 2, not 1"},
		{"a level in words", skills{skill("A", 1)}, skills{{Name: "A", Level: "Expert"}}, "", ""},
		{"a level in words of a skill that must not be", nil, skills{{Name: "A", Level: "Expert"}}, "unwanted A", "unwanted A"},
		{"a skill set by hand", skills{skill("A", 1)}, skills{skill("Z", 3), skill("A", 1)}, "", "unwanted Z"},
		{
			"all at once",
			skills{skill("A", 1), skill("C", 0)},
			skills{skill("Z", 1), skill("B", 2), skill("A", 4.5)},
			"missing C 0; A is 4.5, not 1; unwanted B", "missing C 0; A is 4.5, not 1; unwanted B; unwanted Z",
		},
	} {
		got := parse(t, twoSkills).Compare(test.want, test.actual)
		if got.String() != test.keep || got.OK() != (test.keep == "") {
			t.Errorf("%s: keep: %s, want %s", test.name, got, test.keep)
		}
		got = parse(t, twoSkills+"unowned: remove\n").Compare(test.want, test.actual)
		if got.String() != test.remove || got.OK() != (test.remove == "") {
			t.Errorf("%s: remove: %s, want %s", test.name, got, test.remove)
		}
	}
}

func TestMergeHoldsItsPromisesForAnySkills(t *testing.T) {
	keep, remove := parse(t, twoSkills), parse(t, twoSkills+"unowned: remove\n")
	set := func(names ...string) *rapid.Generator[skills] {
		one := rapid.Custom(func(t *rapid.T) genesys.Skill {
			return skill(rapid.SampledFrom(names).Draw(t, "name"), float64(rapid.IntRange(0, 10).Draw(t, "level"))/2)
		})
		return rapid.SliceOfNDistinct(one, 0, len(names), func(s genesys.Skill) string { return s.Name })
	}
	rapid.Check(t, func(t *rapid.T) {
		current := set("A", "B", "X", "Y", "Z").Draw(t, "current")
		want := set("A", "B").Draw(t, "want")
		for _, m := range []*Mapping{keep, remove} {
			target, changed := m.Merge(current, want)
			if again, changedAgain := m.Merge(target, want); changedAgain || !cmp.Equal(again, target) {
				t.Fatalf("a second merge changes %v to %v", target, again)
			}
			if x := m.Compare(want, target); !x.OK() {
				t.Fatalf("the target is not as wanted: %s", x)
			}
			if x := m.Compare(want, current); x.OK() == changed {
				t.Fatalf("changed is %v, but: %q", changed, x)
			}
			if !slices.IsSortedFunc(target, byName) {
				t.Fatalf("not sorted: %v", target)
			}
		}
		target, _ := keep.Merge(current, want)
		for _, s := range current {
			if !keep.owns(s.Name) && !slices.Contains(target, s) {
				t.Fatalf("%v was set by hand and is taken away", s)
			}
		}
		if target, _ := remove.Merge(current, want); len(target) != len(want) {
			t.Fatalf("more or less than is wanted: %v", target)
		}
	})
}

func TestADigestStandsForOneState(t *testing.T) {
	state := func(value string, level float64) Desired {
		return Desired{Attributes: []genesys.Attribute{{Name: "a", Value: value}}, Skills: skills{skill("A", level)}}
	}
	base := state("x", 4).Digest("v1", "routing-skills")
	if len(base) != 32 {
		t.Errorf("%q has not 32 characters", base)
	}
	if again := state("x", 4).Digest("v1", "routing-skills"); again != base {
		t.Error("the same state has two digests")
	}
	for name, other := range map[string]string{
		"another value":       state("y", 4).Digest("v1", "routing-skills"),
		"another proficiency": state("x", 4.5).Digest("v1", "routing-skills"),
		"another mapping":     state("x", 4).Digest("v2", "routing-skills"),
		"another profile":     state("x", 4).Digest("v1", "custom-attributes"),
		"no attributes":       Desired{Skills: skills{skill("A", 4)}}.Digest("v1", "routing-skills"),
		"a value that looks like the next line": Desired{
			Attributes: []genesys.Attribute{{Name: "a", Value: "x\"\nskill \"A\" 4"}},
		}.Digest("v1", "routing-skills"),
	} {
		if other == base {
			t.Errorf("%s has the same digest", name)
		}
	}
}
