package genesys

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
)

// Where the organization says how many requests a minute one token of a client may make (the
// platform's published limits).
const (
	LimitsOfAPI     = "platform.api"
	TokensPerMinute = "client.credentials.token.rate.per.minute"
)

// Limits returns the limits that are in force for the organization in a namespace, by their keys.
// Clients may lack the permission ([ErrForbidden]), and organizations the namespace: then the
// [*Error] has the status 404.
func (c *Client) Limits(ctx context.Context, namespace string) (map[string]int, error) {
	if c.once.Do(c.init); c.invalid != nil {
		return nil, c.invalid
	}
	a, err := c.do(ctx, request{op: opLimits, build: func() (*http.Request, error) {
		return c.get("/api/v2/organizations/limits/namespaces/"+url.PathEscape(namespace), nil)
	}})
	if err != nil {
		return nil, fmt.Errorf("read the limits of the organization: %w", err)
	}
	var list struct {
		Entities []struct {
			Key   string `json:"key"`
			Value int    `json:"value"`
		} `json:"entities"`
	}
	if err := a.decode(&list); err != nil {
		return nil, fmt.Errorf("read the limits of the organization: %w", err)
	}
	limits := make(map[string]int, len(list.Entities))
	for _, l := range list.Entities {
		limits[l.Key] = l.Value
	}
	return limits, nil
}

// SignIn gets a token if there is no usable one yet, for whoever wants to know whether the
// client's id and secret are good before asking for anything.
func (c *Client) SignIn(ctx context.Context) error {
	if c.once.Do(c.init); c.invalid != nil {
		return c.invalid
	}
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	case <-ctx.Done():
		return interrupted(ctx, opToken)
	}
	_, err := c.token(ctx)
	return err
}
