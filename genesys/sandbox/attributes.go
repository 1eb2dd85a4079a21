package sandbox

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"
)

// patchAttributes answers PATCH /scim/v2/Users/{id} of the custom-attributes contract. The
// skills follow by the rules; this contract has neither ETags nor If-Match.
func (s *Sandbox) patchAttributes(c *call) answer {
	// That contract's own examples leave schemas out.
	u, ops, a, ok := s.decodeFor(c, false)
	if !ok {
		return a
	}
	return s.exclusively(c, u, func(now time.Duration) answer {
		attributes, p := editAttributes(u.attributes, ops)
		if p != nil {
			return c.scimFail(http.StatusBadRequest, p.scimType, p.detail)
		}
		if u.Drop || c.disturbed("drop", u) {
			return attributesAnswer(u, state{version: u.latest().version + 1}, attributes)
		}
		u.attributes = attributes
		st := s.store(u, now, u.latest().skills)
		u.provision = later(now, s.vary(s.cfg.ProvisionLag))
		s.log.count(func(st *Stats) { st.Patches++ })
		return attributesAnswer(u, st, attributes)
	})
}

// editAttributes returns a copy of the attributes with the operations applied, or the
// first problem: all or nothing.
func editAttributes(old map[string]string, ops []operation) (map[string]string, *problem) {
	attributes := map[string]string{}
	for k, v := range old {
		attributes[k] = v
	}
	for _, o := range ops {
		if o.path != attributesPath {
			return nil, problemf("invalidPath", "the path must be %s", attributesPath)
		}
		if o.op == "remove" {
			return nil, problemf("mutability", "customAttributes can be added and replaced")
		}
		given, p := decodeAttributes(o.value)
		if p != nil {
			return nil, p
		}
		if o.op == "replace" {
			clear(attributes)
		}
		for k, v := range given {
			attributes[k] = v
		}
	}
	return attributes, nil
}

// decodeAttributes reads {"attributes":[{"name":"department","value":"Sales"}]}.
func decodeAttributes(value json.RawMessage) (map[string]string, *problem) {
	var doc map[string][]map[string]*string
	if json.Unmarshal(value, &doc) != nil || doc["attributes"] == nil {
		return nil, problemf("invalidValue", `the value must be {"attributes":[{"name":"…","value":"…"}]}`)
	}
	out := map[string]string{}
	for _, a := range doc["attributes"] {
		name, value := a["name"], a["value"]
		if name == nil || value == nil || *name == "" {
			return nil, problemf("invalidValue", "an attribute needs a name and a value")
		}
		if _, twice := out[*name]; twice {
			return nil, problemf("invalidValue", "the attribute %q is given twice", *name)
		}
		out[*name] = *value
	}
	return out, nil
}

func attributesAnswer(u *user, st state, attributes map[string]string) answer {
	type attribute struct {
		Name  string `json:"name"`
		Value string `json:"value"`
	}
	list := []attribute{}
	for _, name := range sortedKeys(attributes) {
		list = append(list, attribute{name, attributes[name]})
	}
	body := scimBody(u, st, "/scim/v2/Users/")
	body["schemas"] = []string{urnCore, urnAttributes}
	body[urnAttributes] = map[string]any{"customAttributes": map[string]any{"attributes": list}}
	return encode(http.StatusOK, typeSCIM, body)
}

// assignedSkills answers GET /api/v2/users/{id}/routing/skills of the custom-attributes
// contract: all of them on one page, levels as text.
func (s *Sandbox) assignedSkills(c *call) answer {
	u := s.lookup(c.arg("id"))
	if u == nil {
		return c.notFound()
	}
	type named struct {
		ID   string `json:"id,omitempty"`
		Name string `json:"name"`
	}
	type entity struct {
		ID    string `json:"id"`
		Skill named  `json:"skill"`
		Level named  `json:"proficiencyLevel"`
	}
	list := []entity{}
	for _, sk := range s.read(u, usersSide).skills {
		id := s.org.skillID(sk.Name)
		list = append(list, entity{id, named{id, sk.Name}, named{Name: s.level(sk.Proficiency)}})
	}
	return ok(map[string]any{"entities": list, "pageSize": max(25, len(list)), "pageNumber": 1, "pageCount": 1, "total": len(list)})
}

func (s *Sandbox) level(proficiency float64) string {
	if word := s.cfg.Levels[proficiency]; word != "" {
		return word
	}
	return strconv.FormatFloat(proficiency, 'f', -1, 64)
}
