package genesys

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// A match is one user in the answer to a lookup.
type match struct {
	ID    string `json:"id"`
	Email string `json:"email"`
}

// findByQuery is Find in the custom-attributes profile.
func (c *Client) findByQuery(ctx context.Context, p Person) (string, error) {
	switch {
	case p.EmployeeID == "":
		return "", fmt.Errorf("%w: the record has neither user_id nor employee id", ErrNoLookup)
	case strings.ContainsAny(p.EmployeeID, `"\`):
		return "", fmt.Errorf("%w: an employee id with a quote or backslash cannot be looked up", ErrBadRequest)
	}
	query := url.Values{"query": {`externalId:"` + p.EmployeeID + `"`}}
	a, err := c.do(ctx, request{op: opFind, build: func() (*http.Request, error) {
		return c.get("/api/v2/users/search", query)
	}})
	if err != nil {
		return "", err
	}
	var found struct {
		Results  []match `json:"results"`
		Entities []match `json:"entities"`
	}
	if err := a.decode(&found); err != nil {
		return "", err
	}
	return one(append(found.Results, found.Entities...))
}

// findByExternalID is Find in the routing-skills profile: by external id if the Client knows the
// authority, else, or if there is no such user, by e-mail address.
func (c *Client) findByExternalID(ctx context.Context, p Person) (string, error) {
	byID := c.Authority != "" && p.EmployeeID != ""
	if !byID && p.Email == "" {
		return "", fmt.Errorf("%w: set GENESYS_EXTERNAL_ID_AUTHORITY, or give the record an email or a user_id", ErrNoLookup)
	}
	var unknown error
	if byID {
		id, err := c.lookUp(ctx, p.EmployeeID)
		if !errors.Is(err, ErrUserNotFound) || p.Email == "" {
			return id, err
		}
		unknown = err
	}
	id, err := c.searchEmail(ctx, p.Email)
	if err == ErrUserNotFound && unknown != nil { // an empty answer has no facts; the first refusal has
		err = fmt.Errorf("%w; nor is there one with the record's e-mail address", unknown)
	}
	return id, err
}

// externalIDs is the collection of users by authority and external id.
const externalIDs = "/api/v2/users/externalid/"

// lookUp asks for the user with an external id. The platform tells upper from lower case in both
// parts of it.
func (c *Client) lookUp(ctx context.Context, key string) (string, error) {
	path := externalIDs + escapeSegment(c.Authority) + "/" + escapeSegment(key)
	a, err := c.do(ctx, request{op: opFind, build: func() (*http.Request, error) { return c.get(path, nil) }})
	if err != nil {
		return "", err
	}
	var user match
	if err := a.decode(&user); err != nil {
		return "", err
	}
	return one([]match{user})
}

// searchEmail asks for the users with an e-mail address. The index that is searched may answer
// with more than was asked for, so that answers are compared once more.
func (c *Client) searchEmail(ctx context.Context, email string) (string, error) {
	type condition struct {
		Fields []string `json:"fields"`
		Value  string   `json:"value"`
		Type   string   `json:"type"`
	}
	search := struct {
		PageSize int         `json:"pageSize"`
		Query    []condition `json:"query"`
	}{25, []condition{{[]string{"email"}, email, "EXACT"}}}
	a, err := c.do(ctx, request{op: opFind, private: []string{email}, build: func() (*http.Request, error) {
		return c.document(http.MethodPost, "/api/v2/users/search", mediaTypeJSON, search)
	}})
	if err != nil {
		return "", err
	}
	var found struct {
		Results []match `json:"results"`
	}
	if err := a.decode(&found); err != nil {
		return "", err
	}
	var same []match
	for _, m := range found.Results {
		if strings.EqualFold(m.Email, email) {
			same = append(same, m)
		}
	}
	return one(same)
}

// one returns the id that all matches share.
func one(matches []match) (string, error) {
	id := ""
	for _, m := range matches {
		switch {
		case m.ID == "" || strings.EqualFold(m.ID, id):
		case id == "":
			id = m.ID
		default:
			return "", ErrAmbiguous
		}
	}
	if id == "" {
		return "", ErrUserNotFound
	}
	return id, nil
}

// escapeSegment escapes one segment of a path. "." and ".." as they are would be taken for steps
// in the path (RFC 3986 §3.3).
func escapeSegment(s string) string {
	if s == "." || s == ".." {
		return strings.ReplaceAll(s, ".", "%2E")
	}
	return url.PathEscape(s)
}
