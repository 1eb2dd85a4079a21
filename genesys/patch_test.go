package genesys

import (
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestThePatchOnTheWire(t *testing.T) {
	const (
		attributesPath = "/scim/v2/Users/" + userID
		skillsPath     = "/api/v2/scim/v2/users/" + userID
	)
	for name, row := range map[string]struct {
		profile Profile
		op      string
		patch   Patch
		path    string
		golden  string
	}{
		"attributes": {CustomAttributes, "", Patch{Attributes: []Attribute{
			{"department", "Support-Tier2"}, {"clearance_level", "Level3"}, {"region", "US-East"},
		}, Skills: []Skill{{Name: "not for this profile"}}}, attributesPath, "attributes-replace.json"},
		"attributes to add":     {CustomAttributes, "add", Patch{Attributes: []Attribute{{"department", `Größe "1"`}}}, attributesPath, "attributes-add.json"},
		"no attributes":         {CustomAttributes, "replace", Patch{}, attributesPath, "attributes-none.json"},
		"skills are decimals":   {RoutingSkills, "add", Patch{Skills: []Skill{{Name: "Billing", Proficiency: 4}, {Name: "Tier 2 Support", Proficiency: 3.5}, {Name: "Zertifikate"}}}, skillsPath, "skills.json"},
		"no skills is an array": {RoutingSkills, "", Patch{Version: "42"}, skillsPath, "skills-none.json"},
	} {
		t.Run(name, func(t *testing.T) {
			golden, err := os.ReadFile(filepath.Join("testdata", row.golden))
			if err != nil {
				t.Fatal(err)
			}
			var match []string
			if row.patch.Version != "" {
				match = []string{`"42"`}
			}
			o := newOrg(t, func(w http.ResponseWriter, r *http.Request) {
				if r.Method != http.MethodPatch || r.RequestURI != row.path {
					t.Errorf("%s %s, want PATCH %s", r.Method, r.RequestURI, row.path)
				}
				if diff := cmp.Diff(strings.TrimSpace(string(golden)), body(t, r)); diff != "" {
					t.Errorf("document, -want +got:\n%s", diff)
				}
				for header, want := range map[string][]string{
					"Authorization":   {"Bearer token-1"},
					"Content-Type":    {"application/scim+json"},
					"Accept":          {"application/scim+json"},
					"Accept-Language": {"en-US"},
					"If-Match":        match,
				} {
					if diff := cmp.Diff(want, r.Header[http.CanonicalHeaderKey(header)]); diff != "" {
						t.Errorf("%s, -want +got:\n%s", header, diff)
					}
				}
				w.Header().Set("ININ-Correlation-Id", "abc")
			})
			c := o.client()
			c.Profile, c.PatchOp = row.profile, row.op
			if id, err := c.Patch(t.Context(), userID, row.patch); err != nil || id != "abc" {
				t.Errorf("Patch: %q, %v", id, err)
			}
		})
	}
}

func TestAPatchWithoutAnswerBodyIsFine(t *testing.T) {
	o := newOrg(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	if _, err := o.client().Patch(t.Context(), userID, anyPatch); err != nil {
		t.Error(err)
	}
}

func TestAnIDThatIsNoUUIDIsNotSent(t *testing.T) {
	o := newOrg(t, func(_ http.ResponseWriter, r *http.Request) { t.Errorf("sent %s", r.RequestURI) })
	for name, id := range map[string]string{
		"empty":         "",
		"a path":        "../../../../api/v2/organizations/me/abc",
		"too short":     userID[1:],
		"too long":      userID + "0",
		"another digit": strings.Replace(userID, "3f", "3g", 1),
		"no hyphen":     strings.Replace(userID, "-", "0", 1),
		"only hyphens":  strings.Repeat("-", 36),
		"with a query":  userID[:35] + "?",
	} {
		t.Run(name, func(t *testing.T) {
			_, err := o.client().Patch(t.Context(), id, anyPatch)
			checkSentinel(t, err, ErrBadRequest)
			_, err = o.client().User(t.Context(), id)
			checkSentinel(t, err, ErrBadRequest)
		})
	}
	if err := checkUserID(strings.ToUpper(userID)); err != nil {
		t.Errorf("in upper case: %v", err)
	}
}

func TestAProficiencyThatIsNoNumberIsNotSent(t *testing.T) {
	for _, p := range []float64{math.NaN(), math.Inf(1)} {
		_, err := offline(nil).Patch(t.Context(), userID, Patch{Skills: []Skill{{Name: "Billing", Proficiency: p}}})
		checkSentinel(t, err, ErrBadRequest)
	}
}

func TestAttributeValuesAreNotInErrors(t *testing.T) {
	o := newOrg(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, `{"message":"value Support-Tier2 of department is not allowed in X"}`)
	})
	c := o.client()
	c.Profile = CustomAttributes
	_, err := c.Patch(t.Context(), userID, Patch{Attributes: []Attribute{{"department", "Support-Tier2"}, {"floor", "X"}}})
	if e, ok := errors.AsType[*Error](err); !ok || e.Message != "value … of department is not allowed in X" {
		t.Errorf("Patch: %v", err)
	}
}

func TestARefusedPatchNamesTheSkillsThatDoNotExist(t *testing.T) {
	for name, row := range map[string]struct {
		skills  []Skill
		refusal string
		list    int // status of the list of skills
		want    *UnknownSkillError
		lists   int
	}{
		"a misspelt one": {
			[]Skill{{Name: "Biling"}, {Name: "Sales"}},
			`{"code":"invalid.value"}`, 200,
			&UnknownSkillError{Names: []string{"Biling"}, Nearest: map[string][]string{"Biling": {"Billing"}}}, 1,
		},
		"the wrong case": {
			[]Skill{{Name: "tier 2 support"}},
			`{"code":"invalid.value"}`, 200,
			&UnknownSkillError{Names: []string{"tier 2 support"}, Nearest: map[string][]string{"tier 2 support": {"Tier 2 Support", "Tier 1 Support", "Tier 3 Support"}}}, 1,
		},
		"nothing near, and a deleted one": {
			[]Skill{{Name: "Zebra"}, {Name: "Gone"}},
			`{"code":"invalid.value"}`, 200,
			&UnknownSkillError{Names: []string{"Zebra", "Gone"}, Nearest: map[string][]string{"Zebra": nil, "Gone": nil}}, 1,
		},
		"all exist":                {[]Skill{{Name: "Sales"}}, `{"code":"invalid.value"}`, 200, nil, 1},
		"the list cannot be read":  {[]Skill{{Name: "Zebra"}}, `{"code":"invalid.value"}`, 403, nil, 1},
		"it was the version":       {[]Skill{{Name: "Zebra"}}, `{"scimType":"invalidVers"}`, 200, nil, 0},
		"no skill was asked for":   {nil, `{"code":"invalid.value"}`, 200, nil, 1},
		"the list is no list":      {[]Skill{{Name: "Zebra"}}, `{"code":"invalid.value"}`, 204, nil, 1},
		"the list is on two pages": {[]Skill{{Name: "Last"}}, `{"code":"invalid.value"}`, 200, nil, 1},
	} {
		t.Run(name, func(t *testing.T) {
			lists := 0
			o := newOrg(t, func(w http.ResponseWriter, r *http.Request) {
				switch {
				case r.Method == http.MethodPatch:
					w.WriteHeader(http.StatusBadRequest)
					fmt.Fprint(w, row.refusal)
				case r.URL.Query().Get("pageNumber") == "2":
					fmt.Fprint(w, `{"entities":[{"name":"Last"}],"pageNumber":2,"pageCount":2}`)
				default:
					lists++
					w.WriteHeader(row.list)
					if row.list != 204 {
						fmt.Fprint(w, `{"entities":[{"name":"Tier 2 Support"},{"name":"Tier 1 Support"},{"name":"Tier 3 Support"},
							{"name":"Tier 4 Support"},{"name":"Billing"},{"name":"Sales","state":"inactive"},{"name":"Gone","state":"deleted"}],"pageCount":2}`)
					}
				}
			})
			c := o.client()
			for range 2 { // the second time, a list that could be read is still known
				_, err := c.Patch(t.Context(), userID, Patch{Skills: row.skills})
				e, ok := errors.AsType[*Error](err)
				if !ok || e.Op != "patch" || e.Status != 400 {
					t.Errorf("Patch: %v, want the refusal in it", err)
				}
				got, ok := errors.AsType[*UnknownSkillError](err)
				if ok != (row.want != nil) || ok != errors.Is(err, ErrUnknownSkill) {
					t.Fatalf("Patch: %v, want %v", err, row.want)
				}
				if !ok {
					continue
				}
				if diff := cmp.Diff(row.want.Names, got.Names) + cmp.Diff(row.want.Nearest, got.Nearest); diff != "" {
					t.Errorf("-want +got:\n%s", diff)
				}
				if text := err.Error(); !strings.Contains(text, fmt.Sprintf("unknown skill %q", row.want.Names[0])) || !strings.Contains(text, "invalid.value") {
					t.Errorf("says %s", text)
				}
			}
			want := row.lists
			if row.list != 200 {
				want *= 2 // what could not be read is asked for again
			}
			if lists != want {
				t.Errorf("the list was asked for %d times, want %d", lists, want)
			}
		})
	}
}
