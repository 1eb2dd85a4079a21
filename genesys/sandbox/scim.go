package sandbox

import (
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// patchSkills answers PATCH of a SCIM user on the platform.
func (s *Sandbox) patchSkills(c *call) answer {
	u, ops, a, ok := s.decodeFor(c, true)
	if !ok {
		return a
	}
	return s.exclusively(c, u, func(now time.Duration) answer {
		if a, ok := s.checkVersion(c, u.latest().version); !ok {
			return a
		}
		skills, p := editor{s.org.exists, s.cfg.AllowIntegers}.apply(u.latest().skills, ops)
		if p != nil {
			return c.scimFail(http.StatusBadRequest, p.scimType, p.detail)
		}
		if u.Drop || c.disturbed("drop", u) { // the lie: an answer as if it were stored
			return s.scimAnswer(u, state{version: u.latest().version + 1, skills: skills})
		}
		st := s.store(u, now, skills)
		s.log.count(func(st *Stats) { st.Patches++ })
		return s.scimAnswer(u, st)
	})
}

// decodeFor checks a patch as far as that needs no look at what the user has: media type,
// document, user, permission.
func (s *Sandbox) decodeFor(c *call, needSchemas bool) (*user, []operation, answer, bool) {
	typ, _, _ := mime.ParseMediaType(c.r.Header.Get("Content-Type"))
	if typ != typeSCIM && typ != typeJSON {
		return nil, nil, c.refuse(http.StatusUnsupportedMediaType, "415"), false
	}
	ops, p := decodePatch(c.body, needSchemas)
	if p != nil {
		return nil, nil, c.scimFail(http.StatusBadRequest, p.scimType, p.detail), false
	}
	u := s.lookup(c.arg("id"))
	if u == nil {
		return nil, nil, c.notFound(), false
	}
	if len(s.cfg.Divisions) > 0 && !slices.Contains(s.cfg.Divisions, u.Division) {
		return nil, nil, c.refuse(http.StatusForbidden, "403-division"), false
	}
	return u, ops, answer{}, true
}

// lookup finds a user by id who is not deleted.
func (s *Sandbox) lookup(id string) *user {
	if u := s.org.byID[id]; u != nil && u.State != "deleted" {
		return u
	}
	return nil
}

// exclusively runs a write after Config.PatchLatency; a second write of the user in that
// time is refused. A client that goes away does not stop a write.
func (s *Sandbox) exclusively(c *call, u *user, write func(now time.Duration) answer) answer {
	u.mu.Lock()
	if u.patching {
		u.mu.Unlock()
		return c.refuse(http.StatusConflict, "409")
	}
	u.patching = true
	u.mu.Unlock()

	time.Sleep(s.vary(s.cfg.PatchLatency)) // unlocked, so that reads go on

	u.mu.Lock()
	defer u.mu.Unlock()
	u.patching = false
	now := s.now()
	s.settle(u, now)
	return write(now)
}

// checkVersion holds If-Match (RFC 9110 §13.1.1) against the stored version. Weak tags
// never match there.
func (s *Sandbox) checkVersion(c *call, version int) (answer, bool) {
	header := c.r.Header.Values("If-Match")
	if len(header) == 0 {
		return answer{}, true
	}
	for tag := range strings.SplitSeq(strings.Join(header, ","), ",") {
		tag = strings.TrimSpace(tag)
		if tag == "*" || tag == etag(version) {
			return answer{}, true
		}
		if opaque := strings.TrimPrefix(tag, "W/"); len(opaque) < 2 || opaque[0] != '"' || opaque[len(opaque)-1] != '"' {
			return c.fail(http.StatusBadRequest, "bad.request", "If-Match must be a quoted version"), false
		}
	}
	return c.stale(s.cfg.Stale), false
}

func etag(version int) string { return `"` + strconv.Itoa(version) + `"` }

// scimUser answers GET of a SCIM user. It always gives all attributes, whatever the
// attributes parameter says.
func (s *Sandbox) scimUser(c *call) answer {
	u := s.lookup(c.arg("id"))
	if u == nil {
		return c.notFound()
	}
	st := s.read(u, scimSide)
	for tag := range strings.SplitSeq(strings.Join(c.r.Header.Values("If-None-Match"), ","), ",") {
		tag = strings.TrimPrefix(strings.TrimSpace(tag), "W/") // weak comparison: RFC 9110 §13.1.2
		if tag == "*" || tag == etag(st.version) {
			return answer{status: http.StatusNotModified}.with("ETag", etag(st.version))
		}
	}
	return s.scimAnswer(u, st)
}

type scimSkill struct {
	Name        string  `json:"name"`
	Proficiency decimal `json:"proficiency"`
}

func (s *Sandbox) scimAnswer(u *user, st state) answer {
	skills := make([]scimSkill, len(st.skills))
	for i, sk := range st.skills {
		skills[i] = scimSkill{sk.Name, decimal(sk.Proficiency)}
	}
	extension := map[string]any{"routingSkills": skills, "routingLanguages": []string{}}
	if u.ExternalID != "" {
		extension["externalIds"] = []map[string]string{{"authority": s.cfg.Authority, "value": u.ExternalID}}
	}
	body := scimBody(u, st, "/api/v2/scim/v2/users/")
	body["schemas"] = []string{urnCore, urnEnterprise, urnExtension}
	body[urnExtension] = extension
	return encode(http.StatusOK, typeSCIM, body).with("ETag", etag(st.version))
}

// scimBody is what SCIM users of both contracts share.
func scimBody(u *user, st state, base string) map[string]any {
	return map[string]any{
		"id":          u.ID,
		"externalId":  u.ExternalID,
		"userName":    u.Email,
		"displayName": u.Name,
		"active":      u.State == "active",
		"emails":      []map[string]any{{"value": u.Email, "type": "work", "primary": true}},
		"meta":        map[string]string{"resourceType": "User", "version": strconv.Itoa(st.version), "location": base + u.ID},
	}
}

// schemas answers GET of the schemas, by which a client tells the platform.
func (s *Sandbox) schemas(*call) answer {
	schema := func(id, name string, attributes ...string) map[string]any {
		list := []map[string]any{}
		for _, a := range attributes {
			list = append(list, map[string]any{"name": a, "multiValued": true, "mutability": "readWrite"})
		}
		return map[string]any{"id": id, "name": name, "attributes": list}
	}
	all := []map[string]any{
		schema(urnCore, "User", "emails"),
		schema(urnEnterprise, "EnterpriseUser"),
		schema(urnExtension, "UserExtension", "routingSkills", "routingLanguages", "externalIds"),
		schema("urn:ietf:params:scim:schemas:core:2.0:Group", "Group", "members"),
	}
	return encode(http.StatusOK, typeSCIM, map[string]any{
		"schemas": []string{urnList}, "totalResults": len(all), "startIndex": 1, "itemsPerPage": len(all), "Resources": all,
	})
}
