package genesys

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// A Profile is a wire contract. What differs between the two is in [Client.wire] and
// [Client.ways]; nothing else asks for the profile.
type Profile string

const (
	// Auto asks the organization once, on first use, which of the others it speaks.
	Auto Profile = "auto"
	// CustomAttributes writes attributes of the user, from which rules in the organization
	// assign the skills.
	CustomAttributes Profile = "custom-attributes"
	// RoutingSkills writes the skills themselves, through the SCIM extension of the public
	// platform.
	RoutingSkills Profile = "routing-skills"
)

const (
	mediaTypeJSON = "application/json"
	mediaTypeSCIM = "application/scim+json" // RFC 7644 §3.1

	// extension is the platform's own part of a SCIM user.
	extension = "urn:ietf:params:scim:schemas:extension:genesys:purecloud:2.0:User"
	// customAttributes is the path of the attributes in the custom-attributes contract.
	customAttributes = "urn:ietf:params:scim:schemas:extension:genesyscloud:2.0:User:customAttributes"
)

// A wire is what a profile does its own way.
type wire struct {
	user  func(ctx context.Context, userID string) (User, error)
	patch func(ctx context.Context, userID string, p Patch) (correlationID string, err error)
	find  func(ctx context.Context, p Person) (userID string, err error)
}

func (c *Client) wire(ctx context.Context) (wire, error) {
	profile, err := c.Discover(ctx)
	if err != nil {
		return wire{}, err
	}
	if profile == CustomAttributes {
		return wire{user: c.userByLevels, patch: c.patchAttributes, find: c.findByQuery}, nil
	}
	return wire{user: c.userInBatch, patch: c.patchSkills, find: c.findByExternalID}, nil
}

// User returns a user's skills, and the version if the profile has one. It may share one request
// with other calls. Deleted skills are left out.
func (c *Client) User(ctx context.Context, userID string) (User, error) {
	if err := checkUserID(userID); err != nil {
		return User{}, err
	}
	w, err := c.wire(ctx)
	if err != nil {
		return User{}, err
	}
	return w.user(ctx, userID)
}

// Patch writes p to a user and returns the platform's id of the exchange, if there was one, also
// with an error. That it returned no error does not prove the write: read the user back.
//
// Until the request is granted, Patch ends with ctx. From then on it does not, for up to 15
// seconds, since the outcome would be unknown.
func (c *Client) Patch(ctx context.Context, userID string, p Patch) (correlationID string, err error) {
	if err := checkUserID(userID); err != nil {
		return "", err
	}
	w, err := c.wire(ctx)
	if err != nil {
		return "", err
	}
	return w.patch(ctx, userID, p)
}

// Find returns the id of the user that p describes: [ErrUserNotFound] if there is none,
// [ErrAmbiguous] if there are several, [ErrNoLookup] if p and the Client have nothing to look by.
func (c *Client) Find(ctx context.Context, p Person) (userID string, err error) {
	w, err := c.wire(ctx)
	if err != nil {
		return "", err
	}
	return w.find(ctx, p)
}

// Discover returns the profile of the organization: the Client's own, or for [Auto] the one that
// the organization's SCIM schemas show. An answer that shows neither is an error and never a
// guess, and the next call asks again.
func (c *Client) Discover(ctx context.Context) (Profile, error) {
	if c.once.Do(c.init); c.invalid != nil {
		return "", c.invalid
	}
	if c.Profile != "" && c.Profile != Auto {
		return c.Profile, nil
	}
	known := func(p Profile) bool { return p != "" }
	return c.discovered.get(ctx, opSchemas, known, c.discover)
}

func (c *Client) discover(ctx context.Context) (Profile, error) {
	a, err := c.do(ctx, request{op: opSchemas, build: func() (*http.Request, error) {
		return c.get("/api/v2/scim/v2/schemas", nil)
	}})
	if e, ok := errors.AsType[*Error](err); ok && e.Op == opSchemas && e.Status == http.StatusNotFound {
		c.forgetToken(signInBasic) // had before the profile was known, and without its scopes
		return CustomAttributes, nil
	}
	if err != nil {
		return "", fmt.Errorf("discover the profile (it can be set instead): %w", err)
	}
	var list struct {
		Resources []struct {
			ID string `json:"id"`
		}
	}
	if err := a.decode(&list); err != nil {
		return "", fmt.Errorf("discover the profile (it can be set instead): %w", err)
	}
	for _, schema := range list.Resources {
		if strings.EqualFold(schema.ID, extension) { // URNs ignore case in part (RFC 8141 §3.1)
			return RoutingSkills, nil
		}
	}
	return "", fmt.Errorf("discover the profile (it can be set instead): genesys: the organization has SCIM schemas, but none is %s", extension)
}

// checkProfile refuses settings that no profile has.
func (c *Client) checkProfile() error {
	switch c.Profile {
	case "", Auto, CustomAttributes, RoutingSkills:
	default:
		return fmt.Errorf("genesys: unknown profile %q: give %s, %s or %s", c.Profile, Auto, CustomAttributes, RoutingSkills)
	}
	switch c.PatchOp {
	case "", "replace", "add":
		return nil
	default:
		return fmt.Errorf("genesys: unknown patch operation %q: give replace or add", c.PatchOp)
	}
}

// checkUserID refuses what is not a UUID (RFC 9562 §4), and so what could lead a path astray.
func checkUserID(id string) error {
	if len(id) != 36 {
		return fmt.Errorf("%w: user id is not a UUID", ErrBadRequest)
	}
	for i := range len(id) {
		hyphen := i == 8 || i == 13 || i == 18 || i == 23
		if hyphen != (id[i] == '-') || !hyphen && !strings.Contains("0123456789abcdefABCDEF", id[i:i+1]) {
			return fmt.Errorf("%w: user id is not a UUID", ErrBadRequest)
		}
	}
	return nil
}

// userPath returns the path of a user below a collection.
func userPath(collection, userID, rest string) string {
	return collection + "/" + url.PathEscape(userID) + rest
}
