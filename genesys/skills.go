package genesys

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// An UnknownSkillError is a patch that was refused, or would be, while some of its skills do not
// exist in the organization. It is [ErrUnknownSkill].
type UnknownSkillError struct {
	Names   []string            // skills that the organization does not have
	Nearest map[string][]string // up to three that it has, for each name, the likeliest first
	Err     error               // the refusal; nil if nothing was sent
}

func (e *UnknownSkillError) Error() string {
	said := make([]string, len(e.Names))
	for i, name := range e.Names {
		said[i] = fmt.Sprintf("%q", name)
		if near := e.Nearest[name]; len(near) > 0 {
			said[i] += fmt.Sprintf(" (did you mean %s?)", quoted(near))
		}
	}
	text := "genesys: unknown skill " + strings.Join(said, ", ")
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

func quoted(names []string) string {
	said := make([]string, len(names))
	for i, name := range names {
		said[i] = strconv.Quote(name)
	}
	return strings.Join(said, " or ")
}

// Unwrap returns the refusal.
func (e *UnknownSkillError) Unwrap() error { return e.Err }

// Is reports whether target is [ErrUnknownSkill].
func (e *UnknownSkillError) Is(target error) bool { return target == ErrUnknownSkill }

// explainSkills finds out whether a patch was refused for a skill that does not exist. Which
// code the platform uses for that is not documented, so the list of all skills decides.
func (c *Client) explainSkills(ctx context.Context, wanted []Skill, err error) error {
	e, ok := errors.AsType[*Error](err)
	if !ok || e.Op != opPatch || e.Status != http.StatusBadRequest || e.stale() {
		return err
	}
	known, listErr := c.SkillNames(ctx)
	if listErr != nil {
		return err // the refusal stands, explained or not
	}
	unknown := UnknownSkills(wanted, known)
	if unknown == nil {
		return err
	}
	unknown.Err = err
	return unknown
}

// UnknownSkills returns what of wanted is not among known, the names that [Client.SkillNames]
// returned, or nil if nothing is. Case matters.
func UnknownSkills(wanted []Skill, known []string) *UnknownSkillError {
	unknown := &UnknownSkillError{Nearest: map[string][]string{}}
	for _, s := range wanted {
		if !slices.Contains(known, s.Name) {
			unknown.Names = append(unknown.Names, s.Name)
			unknown.Nearest[s.Name] = nearest(s.Name, known)
		}
	}
	if unknown.Names == nil {
		return nil
	}
	return unknown
}

// A skillList is what SkillNames keeps.
type skillList struct {
	names []string
	read  time.Time // zero: never
}

// SkillNames returns the names of all skills of the organization, sorted. The list is kept for
// ten minutes. Only the routing-skills profile has one.
func (c *Client) SkillNames(ctx context.Context) ([]string, error) {
	return c.SkillNamesSince(ctx, time.Now().Add(-10*time.Minute))
}

// SkillNamesSince is SkillNames of a list that was read at since or later, for a caller who may
// just have made a skill. It is read anew if need be.
func (c *Client) SkillNamesSince(ctx context.Context, since time.Time) ([]string, error) {
	profile, err := c.Discover(ctx)
	if err != nil {
		return nil, err
	}
	if profile != RoutingSkills {
		return nil, fmt.Errorf("%w: the %s profile has no list of skills", ErrBadRequest, profile)
	}
	fresh := func(l skillList) bool { return !l.read.Before(since) }
	l, err := c.skills.get(ctx, opSkills, fresh, c.listSkills)
	return slices.Clone(l.names), err
}

func (c *Client) listSkills(ctx context.Context) (skillList, error) {
	l := skillList{read: time.Now()}
	skills, err := c.list(ctx, opSkills, "/api/v2/routing/skills", 100)
	if err != nil {
		return skillList{}, err
	}
	for _, s := range skills {
		if s.State != deleted {
			l.names = append(l.names, s.Name)
		}
	}
	slices.Sort(l.names)
	return l, nil
}

// nearest returns up to three of known that could have been meant by name, the likeliest first.
func nearest(name string, known []string) []string {
	type candidate struct {
		name     string
		distance int
	}
	var candidates []candidate
	folded := []rune(strings.ToLower(name))
	for _, k := range known {
		// Beyond half of its letters changed, another name was meant.
		if d := distance(folded, []rune(strings.ToLower(k))); d <= len(folded)/2 {
			candidates = append(candidates, candidate{k, d})
		}
	}
	slices.SortFunc(candidates, func(a, b candidate) int {
		return cmp.Or(a.distance-b.distance, strings.Compare(a.name, b.name))
	})
	var names []string
	for _, c := range candidates[:min(3, len(candidates))] {
		names = append(names, c.name)
	}
	return names
}

// distance is Levenshtein's: how many letters to insert, remove or change to make b of a.
func distance(a, b []rune) int {
	row := make([]int, len(b)+1) // the distances of a[:i] to each start of b
	for j := range row {
		row[j] = j
	}
	for i, ra := range a {
		diagonal := row[0]
		row[0] = i + 1
		for j, rb := range b {
			changed := diagonal
			if ra != rb {
				changed++
			}
			diagonal = row[j+1]
			row[j+1] = min(changed, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
