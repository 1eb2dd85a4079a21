package sandbox

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
)

const (
	maxIDs      = 100 // of GET /api/v2/users
	defaultPage = 25
	largestPage = 500
)

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }

type ref struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

type userEntity struct {
	ID       string         `json:"id"`
	Name     string         `json:"name"`
	Email    string         `json:"email"`
	Username string         `json:"username"`
	State    string         `json:"state"`
	Version  int            `json:"version"`
	Division ref            `json:"division"`
	Skills   *[]skillEntity `json:"skills,omitempty"` // nil = not expanded
	SelfURI  string         `json:"selfUri"`
}

type skillEntity struct {
	ID          string  `json:"id"`
	Name        string  `json:"name"`
	Proficiency decimal `json:"proficiency"`
	State       string  `json:"state"`
	SkillURI    string  `json:"skillUri"`
	SelfURI     string  `json:"selfUri"`
}

// entity is a user as the users API shows it now.
func (s *Sandbox) entity(u *user, expandSkills bool) userEntity {
	st := s.read(u, usersSide)
	e := userEntity{
		ID: u.ID, Name: u.Name, Email: u.Email, Username: u.Email, State: u.State, Version: st.version,
		Division: u.division, SelfURI: "/api/v2/users/" + u.ID,
	}
	if expandSkills {
		skills := s.skillEntities(u, st.skills)
		e.Skills = &skills
	}
	return e
}

func (s *Sandbox) skillEntities(u *user, skills []Skill) []skillEntity {
	out := make([]skillEntity, len(skills))
	for i, sk := range skills {
		id := s.org.skillID(sk.Name)
		out[i] = skillEntity{
			ID: id, Name: sk.Name, Proficiency: decimal(sk.Proficiency), State: "active",
			SkillURI: "/api/v2/routing/skills/" + id, SelfURI: "/api/v2/users/" + u.ID + "/routingskills/" + id,
		}
	}
	return out
}

// part is a page of a list of total entities.
type part struct{ size, number, total int }

// pageOf reads pageSize and pageNumber.
func (c *call) pageOf(total int) (part, answer, bool) {
	pg := part{defaultPage, 1, total}
	for name, to := range map[string]*int{"pageSize": &pg.size, "pageNumber": &pg.number} {
		text := c.query.Get(name)
		if text == "" {
			continue
		}
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || name == "pageSize" && n > largestPage {
			return pg, c.invalidValue(name), false
		}
		*to = n
	}
	return pg, answer{}, true
}

func (p part) count() int { return (p.total + p.size - 1) / p.size }

// bounds are the entities of this page; none behind the last.
func (p part) bounds() (from, to int) {
	if p.number > p.count() { // also keeps the product below from overflowing
		return p.total, p.total
	}
	from = (p.number - 1) * p.size
	return from, min(from+p.size, p.total)
}

// listing is the platform's envelope of a list.
type listing struct {
	Entities    any    `json:"entities"`
	PageSize    int    `json:"pageSize"`
	PageNumber  int    `json:"pageNumber"`
	Total       int    `json:"total"`
	PageCount   int    `json:"pageCount"`
	FirstURI    string `json:"firstUri"`
	PreviousURI string `json:"previousUri,omitempty"`
	NextURI     string `json:"nextUri,omitempty"`
	LastURI     string `json:"lastUri"`
	SelfURI     string `json:"selfUri"`
}

func (p part) list(c *call, entities any) answer {
	q := maps.Clone(c.query)
	q.Set("pageSize", strconv.Itoa(p.size))
	q.Del("pageNumber")
	base := c.r.URL.EscapedPath() + "?" + q.Encode() + "&pageNumber="
	uri := func(number int) string { return base + strconv.Itoa(number) }
	l := listing{
		Entities: entities, PageSize: p.size, PageNumber: p.number, Total: p.total, PageCount: p.count(),
		FirstURI: uri(1), LastURI: uri(max(1, p.count())), SelfURI: uri(p.number),
	}
	if p.number > 1 {
		l.PreviousURI = uri(p.number - 1)
	}
	if p.number < p.count() {
		l.NextURI = uri(p.number + 1)
	}
	return ok(l)
}

// listUsers answers GET /api/v2/users. The page size counts for lists of ids too: a client
// that asks for 100 ids without it gets 25.
func (s *Sandbox) listUsers(c *call) answer {
	ids := c.query["id"]
	if len(ids) > maxIDs {
		return c.fail(http.StatusBadRequest, "max.user.ids", fmt.Sprintf("Only %d user ids can be requested at a time", maxIDs))
	}
	wanted, a, ok := c.stateFilter()
	if !ok {
		return a
	}
	users := s.org.users
	if len(ids) > 0 {
		users = s.byIDs(ids)
	}
	users = slices.DeleteFunc(slices.Clone(users), func(u *user) bool {
		return wanted != "any" && u.State != wanted || c.disturbed("missing", u)
	})
	pg, a, ok := c.pageOf(len(users))
	if !ok {
		return a
	}
	from, to := pg.bounds()
	entities := make([]userEntity, 0, to-from)
	for _, u := range users[from:to] {
		entities = append(entities, s.entity(u, c.expands("skills") && !c.disturbed("expand", u)))
	}
	return pg.list(c, entities)
}

// byIDs returns the users that exist, each once.
func (s *Sandbox) byIDs(ids []string) []*user {
	var users []*user
	seen := make(map[string]bool, len(ids))
	for _, id := range ids {
		if u := s.org.byID[id]; u != nil && !seen[id] {
			seen[id] = true
			users = append(users, u)
		}
	}
	return users
}

// stateFilter reads state; by default users who are not active vanish silently.
func (c *call) stateFilter() (string, answer, bool) {
	switch st := c.query.Get("state"); st {
	case "":
		return "active", answer{}, true
	case "active", "inactive", "deleted", "any":
		return st, answer{}, true
	}
	return "", c.invalidValue("state"), false
}

// expands reports whether expand has the word; given once per word or with commas.
func (c *call) expands(word string) bool {
	for _, v := range c.query["expand"] {
		if slices.Contains(splitComma(v), word) {
			return true
		}
	}
	return false
}

// getUser answers GET /api/v2/users/{id}; inactive users are found here, deleted ones not.
func (s *Sandbox) getUser(c *call) answer {
	u := s.lookup(c.arg("id"))
	if u == nil {
		return c.notFound()
	}
	return ok(s.entity(u, c.expands("skills")))
}

// userByExternalID answers GET /api/v2/users/externalid/{authority}/{key}, with case.
func (s *Sandbox) userByExternalID(c *call) answer {
	if c.arg("authority") != s.cfg.Authority {
		return c.notFound()
	}
	for _, u := range s.org.byExternal[c.arg("key")] {
		if u.State != "deleted" {
			return ok(s.entity(u, c.expands("skills")))
		}
	}
	return c.notFound()
}

// routingSkills answers GET /api/v2/users/{id}/routingskills.
func (s *Sandbox) routingSkills(c *call) answer {
	u := s.lookup(c.arg("id"))
	if u == nil {
		return c.notFound()
	}
	skills := s.skillEntities(u, s.read(u, usersSide).skills)
	pg, a, ok := c.pageOf(len(skills))
	if !ok {
		return a
	}
	from, to := pg.bounds()
	return pg.list(c, skills[from:to])
}

// listSkills answers GET /api/v2/routing/skills: the skills of the organisation.
func (s *Sandbox) listSkills(c *call) answer {
	pg, a, ok := c.pageOf(len(s.org.skills))
	if !ok {
		return a
	}
	type skill struct {
		ID      string `json:"id"`
		Name    string `json:"name"`
		State   string `json:"state"`
		SelfURI string `json:"selfUri"`
	}
	from, to := pg.bounds()
	list := make([]skill, 0, to-from)
	for _, name := range s.org.skills[from:to] {
		id := s.org.skillID(name)
		list = append(list, skill{id, name, "active", "/api/v2/routing/skills/" + id})
	}
	return pg.list(c, list)
}
