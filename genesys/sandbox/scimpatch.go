package sandbox

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

const (
	urnPatchOp      = "urn:ietf:params:scim:api:messages:2.0:PatchOp"
	urnError        = "urn:ietf:params:scim:api:messages:2.0:Error"
	urnList         = "urn:ietf:params:scim:api:messages:2.0:ListResponse"
	urnCore         = "urn:ietf:params:scim:schemas:core:2.0:User"
	urnEnterprise   = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"
	urnExtension    = "urn:ietf:params:scim:schemas:extension:genesys:purecloud:2.0:User"
	urnAttributes   = "urn:ietf:params:scim:schemas:extension:genesyscloud:2.0:User"
	skillsPath      = urnExtension + ":routingSkills"
	attributesPath  = urnAttributes + ":customAttributes"
	maxSkills       = 50  // per user, of the platform
	maxOperations   = 100 // ours: the platform's is not documented
	bestProficiency = 5.0
)

// operation is one of a PATCH request (RFC 7644 §3.5.2).
type operation struct {
	op    string // add, replace or remove
	path  string
	value json.RawMessage // nil = absent
}

// problem is a refusal of a patch; scimType as in RFC 7644 §3.12.
type problem struct{ scimType, detail string }

func problemf(scimType, format string, args ...any) *problem {
	return &problem{scimType, fmt.Sprintf(format, args...)}
}

// decodePatch reads a PATCH body. Member names are compared with case, as the vendor's
// document spells them, so it does not decode into structs: encoding/json ignores case.
func decodePatch(body []byte, needSchemas bool) ([]operation, *problem) {
	var doc map[string]json.RawMessage
	if json.Unmarshal(body, &doc) != nil || doc == nil {
		return nil, problemf("invalidSyntax", "the body is not a JSON object")
	}
	if p := checkSchemas(doc, needSchemas); p != nil {
		return nil, p
	}
	var raw []map[string]json.RawMessage
	if json.Unmarshal(doc["Operations"], &raw) != nil || len(raw) == 0 {
		return nil, problemf("invalidSyntax", "Operations must be a non-empty array of objects")
	}
	if len(raw) > maxOperations {
		return nil, problemf("tooMany", "more than %d operations", maxOperations)
	}
	ops := make([]operation, len(raw))
	for i, r := range raw {
		var p *problem
		if ops[i], p = decodeOperation(r); p != nil {
			return nil, p
		}
	}
	return ops, nil
}

func checkSchemas(doc map[string]json.RawMessage, need bool) *problem {
	raw, present := doc["schemas"]
	if !present && !need {
		return nil
	}
	var schemas []string
	if json.Unmarshal(raw, &schemas) != nil || !slices.Contains(schemas, urnPatchOp) {
		return problemf("invalidSyntax", "schemas must contain %s", urnPatchOp)
	}
	return nil
}

func decodeOperation(raw map[string]json.RawMessage) (operation, *problem) {
	var o operation
	if json.Unmarshal(raw["op"], &o.op) != nil {
		return o, problemf("invalidSyntax", "op must be a string")
	}
	o.op = strings.ToLower(o.op)
	if !slices.Contains([]string{"add", "replace", "remove"}, o.op) {
		return o, problemf("invalidSyntax", "op must be add, replace or remove")
	}
	if p, present := raw["path"]; present && json.Unmarshal(p, &o.path) != nil {
		return o, problemf("invalidPath", "path must be a string")
	}
	if o.op == "remove" {
		if o.path == "" { // RFC 7644 §3.5.2.2
			return o, problemf("noTarget", "remove needs a path")
		}
		return o, nil
	}
	value, present := raw["value"]
	if !present || bytes.Equal(value, []byte("null")) {
		return o, problemf("invalidValue", "%s needs a value", o.op)
	}
	o.value = value
	return o, nil
}

// editor applies operations to a user's skills.
type editor struct {
	exists        map[string]string // skills of the organisation by name
	allowIntegers bool
}

// apply returns the skills after all operations, or the first problem: all or nothing.
func (e editor) apply(skills []Skill, ops []operation) ([]Skill, *problem) {
	skills = slices.Clone(skills)
	for _, o := range ops {
		var p *problem
		if skills, p = e.one(skills, o); p != nil {
			return nil, p
		}
		if len(skills) > maxSkills {
			return nil, problemf("invalidValue", "more than %d skills", maxSkills)
		}
	}
	return sorted(skills), nil
}

func (e editor) one(skills []Skill, o operation) ([]Skill, *problem) {
	if name, filtered := skillFilter(o.path); filtered && o.op == "remove" {
		i := indexOf(skills, name)
		if i < 0 {
			return nil, problemf("noTarget", "no such value")
		}
		return slices.Delete(skills, i, i+1), nil
	}
	if o.path == "" { // RFC 7644 §3.5.2.1: the value then says which attributes
		var p *problem
		if o.value, p = pathless(o.value); p != nil {
			return nil, p
		}
	} else if o.path != skillsPath {
		return nil, problemf("invalidPath", "the path is not an attribute that can be changed")
	}
	if o.op == "remove" {
		return []Skill{}, nil
	}
	given, p := e.skills(o.value)
	if p != nil || o.op == "replace" {
		return given, p
	}
	return merge(skills, given), nil
}

// merge adds skills by name; a skill that is there gets the new proficiency.
func merge(skills, given []Skill) []Skill {
	for _, sk := range given {
		if i := indexOf(skills, sk.Name); i >= 0 {
			skills[i] = sk
		} else {
			skills = append(skills, sk)
		}
	}
	return skills
}

func indexOf(skills []Skill, name string) int {
	return slices.IndexFunc(skills, func(sk Skill) bool { return sk.Name == name })
}

// skillFilter takes the name out of …:routingSkills[name eq "Billing"].
func skillFilter(path string) (name string, ok bool) {
	filter, ok := strings.CutPrefix(path, skillsPath+`[name eq `)
	if filter, closed := strings.CutSuffix(filter, "]"); ok && closed {
		name, err := strconv.Unquote(filter)
		return name, err == nil
	}
	return "", false
}

// pathless takes the skills out of {"urn:…:User": {"routingSkills": […]}}.
func pathless(value json.RawMessage) (json.RawMessage, *problem) {
	var outer map[string]map[string]json.RawMessage
	if json.Unmarshal(value, &outer) != nil {
		return nil, problemf("invalidValue", "without a path the value must be an object of attributes")
	}
	inner := outer[urnExtension]
	if len(outer) != 1 || len(inner) != 1 || inner["routingSkills"] == nil {
		return nil, problemf("invalidPath", "the value names an attribute that cannot be changed")
	}
	return inner["routingSkills"], nil
}

// skills reads the value of routingSkills.
func (e editor) skills(value json.RawMessage) ([]Skill, *problem) {
	var raw []map[string]json.RawMessage
	if json.Unmarshal(value, &raw) != nil || raw == nil {
		return nil, problemf("invalidValue", "routingSkills must be an array of objects")
	}
	if len(raw) > maxSkills {
		return nil, problemf("invalidValue", "more than %d skills", maxSkills)
	}
	skills := make([]Skill, 0, len(raw))
	for _, r := range raw {
		var sk Skill
		if json.Unmarshal(r["name"], &sk.Name) != nil || sk.Name == "" {
			return nil, problemf("invalidValue", "name must be a string")
		}
		if e.exists[sk.Name] == "" {
			return nil, problemf("invalidValue", "Routing skill %q does not exist", sk.Name)
		}
		if indexOf(skills, sk.Name) >= 0 {
			return nil, problemf("invalidValue", "routing skill %q is given twice", sk.Name)
		}
		var p *problem
		if sk.Proficiency, p = e.proficiency(r["proficiency"]); p != nil {
			return nil, p
		}
		skills = append(skills, sk)
	}
	return skills, nil
}

// proficiency is optional, a JSON number from 0.0 to 5.0 and written as a decimal.
func (e editor) proficiency(raw json.RawMessage) (float64, *problem) {
	if raw == nil || bytes.Equal(raw, []byte("null")) {
		return 0, nil
	}
	var p float64
	if json.Unmarshal(raw, &p) != nil {
		return 0, problemf("invalidValue", "proficiency must be a number")
	}
	if !e.allowIntegers && !bytes.ContainsAny(raw, ".eE") {
		return 0, problemf("invalidValue", "proficiency must be a decimal, such as 4.0")
	}
	if p < 0 || p > bestProficiency {
		return 0, problemf("invalidValue", "proficiency must be between 0.0 and 5.0")
	}
	return p, nil
}
