package genesys

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// deleted is the state of a skill that is only still listed.
const deleted = "deleted"

// An entity is one skill in a list, in the form of either profile.
type entity struct {
	Name        string  `json:"name"` // routing-skills
	State       string  `json:"state"`
	Proficiency float64 `json:"proficiency"`
	Skill       struct {
		Name string `json:"name"`
	} `json:"skill"` // custom-attributes
	Level struct {
		Name string `json:"name"`
	} `json:"proficiencyLevel"`
}

// skill returns e as a skill of the routing-skills profile.
func (e entity) skill() Skill { return Skill{Name: e.Name, Proficiency: e.Proficiency} }

// leveled returns e as a skill of the custom-attributes profile.
func (e entity) leveled() Skill {
	s := Skill{Name: e.Skill.Name, Proficiency: e.Proficiency}
	if level := strings.TrimSpace(e.Level.Name); isNumber(level) {
		s.Proficiency, _ = strconv.ParseFloat(level, 64)
	} else {
		s.Level = level
	}
	return s
}

// isNumber reports whether s is a plain decimal: strconv also takes "Infinity" and the like for
// numbers, which here are words of the organization.
func isNumber(s string) bool {
	_, err := strconv.ParseFloat(s, 64)
	return err == nil && strings.Trim(s, "0123456789.") == ""
}

// assigned returns the skills of entities that are not deleted.
func assigned(entities []entity, convert func(entity) Skill) []Skill {
	var skills []Skill
	for _, e := range entities {
		if e.State != deleted {
			skills = append(skills, convert(e))
		}
	}
	return skills
}

// userByLevels is User in the custom-attributes profile.
func (c *Client) userByLevels(ctx context.Context, userID string) (User, error) {
	entities, err := c.list(ctx, opRead, userPath("/api/v2/users", userID, "/routing/skills"), 0)
	if err != nil {
		return User{}, err
	}
	return User{ID: userID, Skills: assigned(entities, entity.leveled)}, nil
}

// userAlone reads the skills of one user of the routing-skills profile. The answer has no
// version.
func (c *Client) userAlone(ctx context.Context, userID string) (User, error) {
	// A user has at most 50 skills, so this is one page.
	entities, err := c.list(ctx, opRead, userPath("/api/v2/users", userID, "/routingskills"), 50)
	if err != nil {
		return User{}, err
	}
	return User{ID: userID, Skills: assigned(entities, entity.skill)}, nil
}

// maxPages ends a list that claims to go on for ever.
const maxPages = 200

// list reads all pages of a list. A pageSize of 0 leaves it to the server.
func (c *Client) list(ctx context.Context, op, path string, pageSize int) ([]entity, error) {
	query := url.Values{}
	if pageSize > 0 {
		query.Set("pageSize", strconv.Itoa(pageSize))
		query.Set("pageNumber", "1")
	}
	var all []entity
	for n := 1; n <= maxPages; n++ {
		a, err := c.do(ctx, request{op: op, build: func() (*http.Request, error) { return c.get(path, query) }})
		if err != nil {
			return nil, err
		}
		var page page
		if err := a.decode(&page); err != nil {
			return nil, err
		}
		all = append(all, page.Entities...)
		if n < page.PageCount {
			query.Set("pageNumber", strconv.Itoa(n+1))
			continue
		}
		if page.PageCount > 0 || page.NextURI == "" {
			return all, nil
		}
		if path, query, err = c.follow(page.NextURI); err != nil {
			return nil, &Error{Op: op, Status: a.status, CorrelationID: a.correlationID, Err: err}
		}
	}
	return nil, fmt.Errorf("genesys: %s: list of more than %d pages", op, maxPages)
}

// A page is one page of a list.
type page struct {
	Entities  []entity `json:"entities"`
	PageCount int      `json:"pageCount"`
	NextURI   string   `json:"nextUri"`
}

// follow returns the path and query of the next page. A link to another host is refused: our
// token would go there.
func (c *Client) follow(link string) (string, url.Values, error) {
	base, err := url.Parse(c.api)
	if err != nil {
		return "", nil, err
	}
	next, err := base.Parse(link)
	if err != nil || next.Scheme != base.Scheme || next.Host != base.Host {
		return "", nil, fmt.Errorf("next page is not on the API's host")
	}
	path, ok := strings.CutPrefix(next.EscapedPath(), base.EscapedPath())
	if !ok {
		return "", nil, fmt.Errorf("next page is not below the API's URL")
	}
	return path, next.Query(), nil
}
