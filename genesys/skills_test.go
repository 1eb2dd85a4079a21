package genesys

import (
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestSkillNamesAreKeptForTenMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lists atomic.Int64
		c := offline(func(r *http.Request) (*http.Response, error) {
			lists.Add(1)
			return answerLater(r, time.Second, reply(200, `{"entities":[{"name":"Sales"},{"name":"Billing"}],"pageCount":1}`))
		})
		each(10, func(int) {
			names, err := c.SkillNames(t.Context())
			if diff := cmp.Diff([]string{"Billing", "Sales"}, names); diff != "" || err != nil {
				t.Errorf("%v, -want +got:\n%s", err, diff)
			}
			if len(names) > 0 {
				names[0] = "mine" // what is handed out is the caller's own
			}
		})
		time.Sleep(10*time.Minute - time.Second)
		if _, err := c.SkillNames(t.Context()); err != nil || lists.Load() != 1 {
			t.Errorf("%v after %d lists", err, lists.Load())
		}
		time.Sleep(2 * time.Second)
		if _, err := c.SkillNames(t.Context()); err != nil || lists.Load() != 2 {
			t.Errorf("%v after %d lists", err, lists.Load())
		}
	})
}

func TestSkillNamesAreReadAnewForWhoeverMayHaveMadeOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lists int
		c := offline(func(r *http.Request) (*http.Response, error) {
			lists++
			return answerLater(r, time.Second, reply(200, `{"entities":[{"name":"Sales"}],"pageCount":1}`))
		})
		for range 2 {
			if _, err := c.SkillNamesSince(t.Context(), time.Now()); err != nil {
				t.Error(err)
			}
		}
		asked := time.Now()
		time.Sleep(time.Second)
		for range 2 {
			if _, err := c.SkillNamesSince(t.Context(), asked); err != nil || lists != 3 {
				t.Errorf("%v after %d lists", err, lists)
			}
		}
		if _, err := c.SkillNames(t.Context()); err != nil || lists != 3 {
			t.Errorf("%v after %d lists", err, lists)
		}
	})
}

func TestUnknownSkillsAreNamedWithWhatMayBeMeant(t *testing.T) {
	known := []string{"Billing", "Sales"}
	wanted := func(names ...string) (skills []Skill) {
		for _, name := range names {
			skills = append(skills, Skill{Name: name})
		}
		return skills
	}
	if e := UnknownSkills(wanted("Sales", "Billing"), known); e != nil {
		t.Errorf("of known ones: %v", e)
	}
	if e := UnknownSkills(nil, nil); e != nil {
		t.Errorf("of none: %v", e)
	}
	e := UnknownSkills(wanted("Sales", "billing", "Zebra"), known)
	checkSentinel(t, e, ErrUnknownSkill)
	want := `genesys: unknown skill "billing" (did you mean "Billing"?), "Zebra"`
	if e == nil || e.Error() != want {
		t.Errorf("%v, want %s", e, want)
	}
}

func TestCustomAttributesHaveNoSkillNames(t *testing.T) {
	c := offline(nil)
	c.Profile = CustomAttributes
	_, err := c.SkillNames(t.Context())
	checkSentinel(t, err, ErrBadRequest)
}

func TestDistanceCountsChangedLetters(t *testing.T) {
	for _, row := range []struct {
		a, b string
		want int
	}{
		{"", "", 0},
		{"", "abc", 3},
		{"kitten", "sitting", 3},
		{"flaw", "lawn", 2},
		{"größe", "große", 1},
	} {
		if got := distance([]rune(row.a), []rune(row.b)); got != row.want {
			t.Errorf("from %q to %q: %d, want %d", row.a, row.b, got, row.want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := rapid.String().Draw(t, "a"), rapid.String().Draw(t, "b"), rapid.String().Draw(t, "c")
		ab, ba := distance([]rune(a), []rune(b)), distance([]rune(b), []rune(a))
		if ab != ba || (ab == 0) != (string([]rune(a)) == string([]rune(b))) {
			t.Fatalf("%d there, %d back", ab, ba)
		}
		if ac, cb := distance([]rune(a), []rune(c)), distance([]rune(c), []rune(b)); ab > ac+cb {
			t.Fatalf("%d, but %d + %d by a third", ab, ac, cb)
		}
	})
}
