package sandbox

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

func splitComma(s string) []string { return strings.Split(s, ",") }

// searchRequest is the body of POST /api/v2/users/search.
type searchRequest struct {
	PageSize   int         `json:"pageSize,omitempty"`
	PageNumber int         `json:"pageNumber,omitempty"`
	SortOrder  string      `json:"sortOrder,omitempty"`
	SortBy     string      `json:"sortBy,omitempty"`
	Expand     []string    `json:"expand,omitempty"`
	Query      []criterion `json:"query"`
}

type criterion struct {
	Fields   []string    `json:"fields,omitempty"`
	Value    string      `json:"value,omitempty"`
	Values   []string    `json:"values,omitempty"`
	Type     string      `json:"type,omitempty"`
	Operator string      `json:"operator,omitempty"`
	Group    []criterion `json:"group,omitempty"`
}

// searchable are the fields of the platform's index that the sandbox has. externalId is
// not one of them, there as here.
var searchable = map[string]func(*user) string{
	"email":         func(u *user) string { return u.Email },
	"username":      func(u *user) string { return u.Email },
	"name":          func(u *user) string { return u.Name },
	"id":            func(u *user) string { return u.ID },
	"state":         func(u *user) string { return u.State },
	"hr.employeeId": func(u *user) string { return u.ExternalID },
}

// comparisons by type; the index holds lower case.
var comparisons = map[string]func(field, value string) bool{
	"EXACT":       func(f, v string) bool { return f == v },
	"TERM":        func(f, v string) bool { return slices.Contains(strings.Fields(f), v) || f == v },
	"TERMS":       func(f, v string) bool { return slices.Contains(strings.Fields(f), v) || f == v },
	"STARTS_WITH": strings.HasPrefix,
	"CONTAINS":    strings.Contains,
}

const maxGroups = 8 // deep; ours

// searchByPost answers POST /api/v2/users/search.
func (s *Sandbox) searchByPost(c *call) answer {
	var req searchRequest
	if json.Unmarshal(c.body, &req) != nil {
		return c.refuse(http.StatusBadRequest, "400")
	}
	return s.search(c, req)
}

// searchByGet answers GET /api/v2/users/search: the platform's q64, which continues an
// earlier search, and the custom-attributes contract's query=externalId:"EMP-8842".
func (s *Sandbox) searchByGet(c *call) answer {
	q64, query := c.query.Get("q64"), c.query.Get("query")
	if query != "" && s.cfg.Serve != RoutingSkills {
		return s.searchByQuery(c, query)
	}
	text, err := base64.RawURLEncoding.DecodeString(q64)
	var req searchRequest
	if q64 == "" || s.cfg.Serve == CustomAttributes || err != nil || json.Unmarshal(text, &req) != nil {
		return c.refuse(http.StatusBadRequest, "400")
	}
	return s.search(c, req)
}

func (s *Sandbox) searchByQuery(c *call, query string) answer {
	field, quoted, _ := strings.Cut(query, ":")
	value, err := strconv.Unquote(quoted)
	if err != nil {
		return c.refuse(http.StatusBadRequest, "400")
	}
	var found []*user
	switch field {
	case "externalId":
		found = s.org.byExternal[value]
	case "email":
		found = s.org.byEmail[strings.ToLower(value)]
	default:
		return c.invalidValue("query")
	}
	results := []userEntity{}
	for _, u := range found {
		if u.State != "deleted" {
			results = append(results, s.entity(u, false))
		}
	}
	return ok(map[string]any{"results": results, "total": len(results)})
}

// search runs a search over the users who are not deleted.
func (s *Sandbox) search(c *call, req searchRequest) answer {
	if code := checkCriteria(req.Query, 0); code != "" {
		return c.fail(http.StatusBadRequest, code, "The search is not valid")
	}
	if req.PageSize < 0 || req.PageSize > largestPage || req.PageNumber < 0 {
		return c.invalidValue("page")
	}
	var found []*user
	for _, u := range s.candidates(req.Query) {
		if u.State != "deleted" && matchAll(u, req.Query) {
			found = append(found, u)
		}
	}
	req.sort(found)
	pg := part{size: req.PageSize, number: max(1, req.PageNumber), total: len(found)}
	if pg.size == 0 {
		pg.size = defaultPage
	}
	from, to := pg.bounds()
	results := make([]userEntity, 0, to-from)
	for _, u := range found[from:to] {
		results = append(results, s.entity(u, slices.Contains(req.Expand, "skills")))
	}
	out := map[string]any{
		"results": results, "total": pg.total, "pageCount": pg.count(), "pageSize": pg.size, "pageNumber": pg.number,
		"types": []string{"users"}, "currentPage": req.q64(pg.number),
	}
	if pg.number > 1 {
		out["previousPage"] = req.q64(pg.number - 1)
	}
	if pg.number < pg.count() {
		out["nextPage"] = req.q64(pg.number + 1)
	}
	return ok(out)
}

func (r searchRequest) q64(number int) string {
	r.PageNumber = number
	text, err := json.Marshal(r)
	if err != nil {
		panic("sandbox: encode search: " + err.Error()) // strings and numbers: cannot happen
	}
	return base64.RawURLEncoding.EncodeToString(text)
}

func (r searchRequest) sort(users []*user) {
	get := searchable[r.SortBy]
	if get == nil {
		get = searchable["name"]
	}
	slices.SortStableFunc(users, func(a, b *user) int {
		n := strings.Compare(strings.ToLower(get(a)), strings.ToLower(get(b)))
		if r.SortOrder == "DESC" {
			return -n
		}
		return n
	})
}

// checkCriteria returns the platform's code for what is wrong, "" if nothing is.
func checkCriteria(cs []criterion, depth int) string {
	if len(cs) == 0 || depth > maxGroups {
		return "bad.request"
	}
	for _, cr := range cs {
		if !slices.Contains([]string{"", "AND", "OR", "NOT"}, cr.Operator) {
			return "invalid.value"
		}
		if len(cr.Group) > 0 {
			if code := checkCriteria(cr.Group, depth+1); code != "" {
				return code
			}
			continue
		}
		if comparisons[cr.Type] == nil || len(cr.Fields) == 0 || len(cr.values()) == 0 {
			return "invalid.value"
		}
		for _, f := range cr.Fields {
			if searchable[f] == nil {
				return "invalid.property"
			}
		}
	}
	return ""
}

func (cr criterion) values() []string {
	if cr.Value != "" {
		return append([]string{cr.Value}, cr.Values...)
	}
	return cr.Values
}

// candidates narrows a search to few users where one of its parts is an exact match that
// an index has; else it is everybody.
func (s *Sandbox) candidates(cs []criterion) []*user {
	for _, cr := range cs {
		required := cr.Operator == "" || cr.Operator == "AND"
		if !required || cr.Type != "EXACT" || len(cr.Fields) != 1 || len(cr.values()) != 1 || anyOr(cs) {
			continue
		}
		switch value := cr.values()[0]; cr.Fields[0] {
		case "email", "username":
			return s.org.byEmail[strings.ToLower(value)]
		case "hr.employeeId":
			return s.org.byEmployee[strings.ToLower(value)]
		case "id":
			return s.byIDs([]string{value})
		}
	}
	return s.org.users
}

func anyOr(cs []criterion) bool {
	return slices.ContainsFunc(cs, func(cr criterion) bool { return cr.Operator == "OR" })
}

// matchAll is AND over the criteria; those marked OR are enough by themselves, those
// marked NOT must not hold.
func matchAll(u *user, cs []criterion) bool {
	all, required := true, false
	for _, cr := range cs {
		hit := cr.matches(u)
		switch cr.Operator {
		case "OR":
			if hit {
				return true
			}
			continue
		case "NOT":
			hit = !hit
		}
		required = true
		all = all && hit
	}
	return required && all
}

func (cr criterion) matches(u *user) bool {
	if len(cr.Group) > 0 {
		return matchAll(u, cr.Group)
	}
	compare := comparisons[cr.Type]
	for _, f := range cr.Fields {
		field := strings.ToLower(searchable[f](u))
		for _, v := range cr.values() {
			if field != "" && compare(field, strings.ToLower(v)) {
				return true
			}
		}
	}
	return false
}
