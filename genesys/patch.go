package genesys

import (
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
)

// A patchDocument is the body of a SCIM PATCH (RFC 7644 §3.5.2).
type patchDocument struct {
	Schemas    []string         `json:"schemas"`
	Operations []patchOperation `json:"Operations"`
}

type patchOperation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value"`
}

func newPatchDocument(op, path string, value any) patchDocument {
	return patchDocument{
		Schemas:    []string{"urn:ietf:params:scim:api:messages:2.0:PatchOp"},
		Operations: []patchOperation{{Op: op, Path: path, Value: value}},
	}
}

// attributesDocument sets attributes of the custom-attributes contract.
func attributesDocument(op string, attributes []Attribute) patchDocument {
	type attribute struct {
		Name  string `json:"name"`
		Value string `json:"value"`
	}
	list := make([]attribute, len(attributes)) // not nil: an empty list is []
	for i, a := range attributes {
		list[i] = attribute(a)
	}
	return newPatchDocument(cmp.Or(op, "replace"), customAttributes, map[string]any{"attributes": list})
}

// skillsDocument replaces the whole set of a user's skills: without a filter in its path, replace
// takes all old values away (RFC 7644 §3.5.2.3).
func skillsDocument(skills []Skill) patchDocument {
	type skill struct {
		Name        string      `json:"name"`
		Proficiency json.Number `json:"proficiency"`
	}
	list := make([]skill, len(skills))
	for i, s := range skills {
		list[i] = skill{s.Name, decimal(s.Proficiency)}
	}
	return newPatchDocument("replace", extension+":routingSkills", list)
}

// decimal is a number with a decimal point, as in 4.0: to strict SCIM servers 4 is an integer and
// not a decimal (RFC 7643 §2.3.3). What is no number cannot be marshalled.
func decimal(f float64) json.Number {
	s := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0" // "NaN.0" and "+Inf.0" are as little JSON as without it
	}
	return json.Number(s)
}

// patchAttributes is Patch in the custom-attributes profile.
func (c *Client) patchAttributes(ctx context.Context, userID string, p Patch) (string, error) {
	private := make([]string, len(p.Attributes))
	for i, a := range p.Attributes {
		private[i] = a.Value
	}
	path := userPath("/scim/v2/Users", userID, "")
	return c.patch(ctx, path, p.Version, private, attributesDocument(c.PatchOp, p.Attributes))
}

// patchSkills is Patch in the routing-skills profile.
func (c *Client) patchSkills(ctx context.Context, userID string, p Patch) (string, error) {
	path := userPath("/api/v2/scim/v2/users", userID, "")
	id, err := c.patch(ctx, path, p.Version, nil, skillsDocument(p.Skills))
	return id, c.explainSkills(ctx, p.Skills, err)
}

func (c *Client) patch(ctx context.Context, path, version string, private []string, document patchDocument) (string, error) {
	a, err := c.do(ctx, request{op: opPatch, private: private, build: func() (*http.Request, error) {
		req, err := c.document(http.MethodPatch, path, mediaTypeSCIM, document)
		if err == nil && version != "" {
			req.Header.Set("If-Match", `"`+version+`"`) // an entity-tag is quoted (RFC 9110 §8.8.3)
		}
		return req, err
	}})
	return a.correlationID, err
}
