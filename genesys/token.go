package genesys

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
)

// renewBefore is how long before its end a token is renewed, so that no request arrives with
// one that ended on the way. A token that lives for less than twice as long is renewed at half
// its life.
const renewBefore = time.Minute

// A token is one access token. It is usable until it ends or a request with it is refused.
type token struct {
	access  string
	way     signIn
	ends    time.Time // zero: never
	renewAt time.Time // zero: never
	refused atomic.Bool
}

// errTokenEnded says that the token stopped being usable while its request waited for a grant,
// and that there is no new one yet. To hold the grant until there is would break the rate (see
// send). It goes to the request for the new token, which may stand behind a whole queue of such
// grants; if that needs none, it is lost.
var errTokenEnded = errors.New("genesys: token ended")

// sign returns r with the token in its header that is current when r is granted, and tells which
// that was.
func (c *Client) sign(r request, used **token) request {
	build := r.build
	r.build = func() (*http.Request, error) {
		t := c.tokens.peek()
		if t.refused.Load() || !before(t.ends) {
			if give := c.needGrant.Swap(nil); give != nil {
				(*give)()
			}
			return nil, errTokenEnded
		}
		*used = t
		req, err := build()
		if err != nil {
			return nil, err
		}
		req.Header.Set("Authorization", "Bearer "+t.access)
		return req, nil
	}
	return r
}

// before reports whether t is still to come. The zero time always is.
func before(t time.Time) bool { return t.IsZero() || time.Now().Before(t) }

// token returns the current token, or a new one if that is refused or nearly over.
func (c *Client) token(ctx context.Context) (*token, error) {
	fresh := func(t *token) bool { return t != nil && !t.refused.Load() && before(t.renewAt) }
	return c.tokens.get(ctx, opToken, fresh, c.signIn)
}

// A signIn is a way to present the client's id and secret to the token endpoint (RFC 6749
// §2.3.1, §4.4).
type signIn int

const (
	signInBasic signIn = iota // what Genesys Cloud's own tools do: HTTP Basic, no scope
	signInForm                // form fields, with the scopes of the custom-attributes contract
)

// ways returns the ways to sign in, the likelier first. An Auto client has to sign in before it
// can ask for the profile, and so has two.
func (c *Client) ways() []signIn {
	switch {
	case c.Profile == RoutingSkills:
		return []signIn{signInBasic}
	case c.Profile == CustomAttributes:
		return []signIn{signInForm}
	case c.discovered.peek() == CustomAttributes:
		return []signIn{signInForm, signInBasic}
	default:
		return []signIn{signInBasic, signInForm}
	}
}

// signIn gets a new token. Its request needs no slot: the caller has one.
func (c *Client) signIn(ctx context.Context) (t *token, err error) {
	for _, way := range c.ways() {
		t, err = c.signInBy(ctx, way)
		e, ok := errors.AsType[*Error](err)
		if !ok || e.Status != http.StatusBadRequest && e.Status != http.StatusUnauthorized || e.throttled() {
			break
		}
		// Refused: invalid_client, or invalid_request where id and secret were looked for
		// elsewhere (RFC 6749 §5.2).
	}
	return t, err
}

// signInBy gets a new token in one way, and waits out rate limits of up to MaxWait.
func (c *Client) signInBy(ctx context.Context, way signIn) (*token, error) {
	for {
		t, err := c.requestToken(ctx, way)
		e, ok := errors.AsType[*Error](err)
		if !ok || !e.throttled() {
			return t, err
		}
		if err := c.pause(ctx, e); err != nil {
			return nil, err
		}
	}
}

// requestToken asks for a token once.
func (c *Client) requestToken(ctx context.Context, way signIn) (*token, error) {
	config := clientcredentials.Config{
		ClientID:     c.ClientID,
		ClientSecret: c.ClientSecret,
		TokenURL:     c.login + "/oauth/token",
		AuthStyle:    oauth2.AuthStyleInHeader,
	}
	if way == signInForm {
		config.AuthStyle = oauth2.AuthStyleInParams
		config.Scopes = []string{"scim:users:write", "scim:users:read"}
	}
	transport := tokenTransport{c: c}
	client := &http.Client{Transport: &transport, CheckRedirect: stay}
	got, err := config.Token(context.WithValue(ctx, oauth2.HTTPClient, client))
	switch {
	case transport.err != nil: // as it was, before net/http and oauth2 dressed it
		return nil, transport.err
	case err != nil: // its text may quote the answer, and with it a token
		a := transport.got
		return nil, &Error{Op: opToken, Status: a.status, CorrelationID: a.correlationID, Err: errors.New("answer without a usable token")}
	}
	t := &token{access: got.AccessToken, way: way, ends: got.Expiry}
	if life := time.Until(got.Expiry); !got.Expiry.IsZero() {
		t.renewAt = got.Expiry.Add(-min(renewBefore, life/2))
	}
	return t, nil
}

// A tokenTransport sends oauth2's one request through send, so that it waits for its grant like
// all others and its time-out begins after that. It keeps what came of it.
type tokenTransport struct {
	c   *Client
	got answer
	err error
}

func (t *tokenTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	t.got, t.err = t.c.send(req.Context(), request{
		op:      opToken,
		private: []string{t.c.ClientSecret},
		build:   func() (*http.Request, error) { return req, nil },
	})
	if t.err != nil {
		return nil, t.err
	}
	return &http.Response{
		StatusCode: t.got.status,
		Header:     http.Header{"Content-Type": {mediaTypeJSON}}, // whatever it says; oauth2 would take text for a form
		Body:       io.NopCloser(bytes.NewReader(t.got.body)),
		Request:    req,
	}, nil
}

// forgetToken has a token that was had in that way replaced before it is used again.
func (c *Client) forgetToken(way signIn) {
	if t := c.tokens.peek(); t != nil && t.way == way {
		t.refused.Store(true)
	}
}
