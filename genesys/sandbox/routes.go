package sandbox

import (
	"net/http"
	"net/url"
	"strings"
)

// Operations, as the log, the counters and the filter of faults name them.
const (
	opToken     = "token"
	opSchemas   = "schemas"
	opFind      = "find"
	opRead      = "read"
	opReadBatch = "read_batch" // in the log and the counters; a filter "read" means it too
	opPatch     = "patch"
	opSkills    = "skills"
	opLimits    = "limits"
)

// route is a path of one contract, or of both.
type route struct {
	method, pattern string
	op              string
	batch           bool
	contract        string // "" = both
	serve           func(*Sandbox, *call) answer
	segments        []string
}

// routesOf returns the paths of a contract. Where two patterns fit, the first wins.
func routesOf(contract string) []route {
	all := []route{
		{method: http.MethodPost, pattern: tokenPath, op: opToken, serve: (*Sandbox).token},
		{method: http.MethodGet, pattern: "/api/v2/users/search", op: opFind, serve: (*Sandbox).searchByGet},

		{method: http.MethodPatch, pattern: "/scim/v2/Users/{id}", op: opPatch, contract: CustomAttributes, serve: (*Sandbox).patchAttributes},
		{method: http.MethodGet, pattern: "/api/v2/users/{id}/routing/skills", op: opRead, contract: CustomAttributes, serve: (*Sandbox).assignedSkills},

		{method: http.MethodGet, pattern: "/api/v2/scim/schemas", op: opSchemas, contract: RoutingSkills, serve: (*Sandbox).schemas},
		{method: http.MethodGet, pattern: "/api/v2/scim/v2/schemas", op: opSchemas, contract: RoutingSkills, serve: (*Sandbox).schemas},
		{method: http.MethodGet, pattern: "/api/v2/scim/users/{id}", op: opRead, contract: RoutingSkills, serve: (*Sandbox).scimUser},
		{method: http.MethodGet, pattern: "/api/v2/scim/v2/users/{id}", op: opRead, contract: RoutingSkills, serve: (*Sandbox).scimUser},
		{method: http.MethodPatch, pattern: "/api/v2/scim/users/{id}", op: opPatch, contract: RoutingSkills, serve: (*Sandbox).patchSkills},
		{method: http.MethodPatch, pattern: "/api/v2/scim/v2/users/{id}", op: opPatch, contract: RoutingSkills, serve: (*Sandbox).patchSkills},
		{method: http.MethodGet, pattern: "/api/v2/users", op: opRead, batch: true, contract: RoutingSkills, serve: (*Sandbox).listUsers},
		{method: http.MethodPost, pattern: "/api/v2/users/search", op: opFind, contract: RoutingSkills, serve: (*Sandbox).searchByPost},
		{method: http.MethodGet, pattern: "/api/v2/users/externalid/{authority}/{key}", op: opFind, contract: RoutingSkills, serve: (*Sandbox).userByExternalID},
		{method: http.MethodGet, pattern: "/api/v2/users/{id}/routingskills", op: opRead, contract: RoutingSkills, serve: (*Sandbox).routingSkills},
		{method: http.MethodGet, pattern: "/api/v2/users/{id}", op: opRead, contract: RoutingSkills, serve: (*Sandbox).getUser},
		{method: http.MethodGet, pattern: "/api/v2/routing/skills", op: opSkills, contract: RoutingSkills, serve: (*Sandbox).listSkills},
		{method: http.MethodGet, pattern: "/api/v2/organizations/limits/namespaces/{namespace}", op: opLimits, contract: RoutingSkills, serve: (*Sandbox).limits},
	}
	var out []route
	for _, rt := range all {
		if contract == Both || rt.contract == "" || rt.contract == contract {
			rt.segments = strings.Split(rt.pattern, "/")
			out = append(out, rt)
		}
	}
	return out
}

// match finds the route of a request; paths are compared with case, as the platform's are.
func (s *Sandbox) match(c *call) {
	// The escaped path, so that %2F stays inside its segment.
	segments := strings.Split(c.r.URL.EscapedPath(), "/")
	var seen string // the first pattern that fits owns the path
	for i := range s.routes {
		rt := &s.routes[i]
		args, fits := rt.fits(segments)
		if !fits || seen != "" && seen != rt.pattern {
			continue
		}
		if rt.method == c.r.Method {
			c.route, c.args, c.allowed = rt, args, nil
			return
		}
		seen = rt.pattern
		c.allowed = append(c.allowed, rt.method)
	}
}

func (rt *route) fits(segments []string) (args []string, fits bool) {
	if len(segments) != len(rt.segments) {
		return nil, false
	}
	for i, seg := range rt.segments {
		if !strings.HasPrefix(seg, "{") {
			if seg != segments[i] {
				return nil, false
			}
			continue
		}
		arg, err := url.PathUnescape(segments[i])
		if err != nil || arg == "" {
			return nil, false
		}
		args = append(args, arg)
	}
	return args, true
}
