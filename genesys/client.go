// Package genesys knows Genesys Cloud: where it lives, how to sign in, how to find a user, read
// the user's routing skills and write what provisions them, and what its errors mean. It speaks
// two wire contracts, one per [Profile].
//
// It does not know where employee records come from, what should follow from them, or when a
// failed call is worth another try: its errors carry the facts and the caller decides. The only
// things it does on its own account are to wait out a short rate limit and to renew its token.
package genesys

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A Limiter grants requests, one at a time. [golang.org/x/time/rate.Limiter] is one.
type Limiter interface {
	// Wait returns nil once the caller may send one request, at once. It returns early, with an
	// error, when ctx ends.
	Wait(ctx context.Context) error
}

// A Client talks to one Genesys Cloud organization as one OAuth client. Its fields must not be
// changed after the first call; its methods may be called from many goroutines. A Client holds
// no goroutine while no call is under way.
//
// Errors are [*Error] where a request was sent, and match this package's sentinels with
// [errors.Is]. No error carries a token, a secret, an e-mail address or an attribute value.
type Client struct {
	API   string // base URL, "https://api.mypurecloud.de"; see [Hosts]
	Login string // base URL for signing in; default: API

	ClientID     string
	ClientSecret string

	Profile   Profile // default [Auto]: asked of the organization on first use
	Authority string  // external-id authority that employee ids are kept under (RoutingSkills)
	PatchOp   string  // "replace" (default) or "add" (CustomAttributes)

	// Limiter grants every request, the ones for tokens and lists included. Default: none.
	Limiter Limiter
	// OnThrottle is told of each refusal for the rate limit, before the Client waits.
	OnThrottle func(ctx context.Context, retryAfter time.Duration)
	// MaxWait is the longest Retry-After that a call waits out by itself. Default: 1 minute.
	// A longer one is returned as an error that is [ErrThrottled].
	MaxWait time.Duration
	// MaxInFlight is how many requests are out at once. Default: 64.
	MaxInFlight int
	// Transport sends the requests. Default: an [http.Transport] of the Client's own.
	Transport http.RoundTripper
	// Observe is told of each request after it was sent, from the goroutine that sent it. ctx has
	// the values of the caller's.
	Observe func(ctx context.Context, e Exchange)

	once       sync.Once
	invalid    error  // what makes the Client unusable; set by init
	api, login string // base URLs without a slash at the end
	transport  http.RoundTripper
	slots      chan struct{} // one element for each request that is out or waits for its grant
	tokens     shared[*token]
	needGrant  atomic.Pointer[context.CancelFunc] // to call with a grant to spare; nil: nobody needs one
	discovered shared[Profile]
	skills     shared[skillList]
	reads      reads
}

const (
	readTimeout  = 10 * time.Second // also for tokens
	patchTimeout = 15 * time.Second

	// maxAnswer bounds what is read of an answer. The largest expected one, 100 users with 50
	// skills each, is about 2 MB.
	maxAnswer = 8 << 20
)

// A request is one request still to be built.
type request struct {
	op      string
	private []string // must not come back in the text of an error
	batch   *batch   // whose request it is, if it is one
	// build makes the request. It is called once the request is granted, and again for each
	// time it is sent again.
	build func() (*http.Request, error)
}

// An answer is one whole answer.
type answer struct {
	op            string
	status        int
	header        http.Header
	body          []byte
	correlationID string
}

// do gets r answered with a 2xx. It signs in anew, once, if the token is refused, and waits out
// rate limits of up to MaxWait. Everything else that goes wrong is the caller's to judge.
func (c *Client) do(ctx context.Context, r request) (answer, error) {
	for signedIn := false; ; {
		a, err := c.signed(ctx, r)
		e, ok := errors.AsType[*Error](err)
		switch {
		case !ok || e.Op != r.op: // nil, or no token: that one was waited for already
			return a, err
		case e.Status == http.StatusUnauthorized && !signedIn:
			signedIn = true
		case e.throttled():
			if err := c.pause(ctx, e); err != nil {
				return a, err
			}
		default:
			return a, err
		}
	}
}

// signed takes a slot and sends r once with a token.
func (c *Client) signed(ctx context.Context, r request) (answer, error) {
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	case <-ctx.Done():
		return answer{}, interrupted(ctx, r.op)
	}
	for {
		if _, err := c.token(ctx); err != nil {
			return answer{}, err
		}
		var used *token
		a, err := c.send(ctx, c.sign(r, &used))
		if e, ok := errors.AsType[*Error](err); ok && e.Status == http.StatusUnauthorized {
			used.refused.Store(true)
		}
		if err != errTokenEnded {
			return a, err
		}
	}
}

// send waits for a grant, builds r, sends it and reads its whole answer. Nothing else in this
// package reaches the network, so that nothing goes round the limit: one grant, one request. An
// answer that is no 2xx is an [*Error].
//
// A grant is used at once or lost. Whatever takes time is done before asking for one (a token),
// since requests that were granted over a minute and leave together break the very limit that
// they waited for.
func (c *Client) send(ctx context.Context, r request) (answer, error) {
	if err := c.wait(ctx, r.op); err != nil {
		return answer{}, err
	}
	req, err := r.build()
	if err != nil {
		return answer{}, err
	}
	sending, cancel := r.timeout(ctx)
	defer cancel()

	start := time.Now()
	a, err := c.exchange(req.WithContext(sending), r.op)
	if c.Observe != nil {
		c.Observe(ctx, exchanged(r, req, a, start, err))
	}
	if err != nil {
		return a, transportError(sending, a, err)
	}
	if a.status/100 == 2 {
		return a, nil
	}
	e := statusError(a, r.private)
	if e.throttled() && c.OnThrottle != nil {
		c.OnThrottle(ctx, e.RetryAfter)
	}
	return a, e
}

// wait returns once the limiter grants one request. One for a token also takes the grant of a
// request that cannot use it (see errTokenEnded).
func (c *Client) wait(ctx context.Context, op string) (err error) {
	waiting := ctx
	if op == opToken {
		var given context.CancelFunc
		waiting, given = context.WithCancel(ctx)
		defer given()
		c.needGrant.Store(&given)
		defer c.needGrant.Store(nil)
	}
	if c.Limiter != nil {
		err = c.Limiter.Wait(waiting)
	}
	switch {
	case ctx.Err() != nil:
		return interrupted(ctx, op)
	case err != nil && waiting.Err() == nil:
		return fmt.Errorf("genesys: %s: wait for the rate limit: %w", op, err)
	default:
		return nil
	}
}

// timeout returns the context of the exchange itself, which begins with the grant.
func (r request) timeout(ctx context.Context) (context.Context, context.CancelFunc) {
	if r.op == opPatch {
		// Cut off on its way, a patch may have happened or not.
		return context.WithTimeout(context.WithoutCancel(ctx), patchTimeout)
	}
	return context.WithTimeout(ctx, readTimeout)
}

// exchange sends req and reads its answer. What it learned before an error is in the answer.
func (c *Client) exchange(req *http.Request, op string) (answer, error) {
	a := answer{op: op}
	res, err := c.transport.RoundTrip(req) // an http.Client would add redirects, which nobody granted
	if err != nil {
		return a, err
	}
	defer res.Body.Close()
	a.status, a.header = res.StatusCode, res.Header
	a.correlationID = clean(res.Header.Get("ININ-Correlation-Id"))
	taken := op == opPatch && a.status/100 == 2 // its answer proves nothing, so nobody reads it
	a.body, err = readAll(res.Body, !taken)
	return a, err
}

// buffers are for readAll, whose answers of many users would each grow one anew.
var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// readAll reads an answer to its end, or the connection could not be used again.
func readAll(body io.Reader, keep bool) ([]byte, error) {
	b := buffers.Get().(*bytes.Buffer)
	defer func() {
		if b.Cap() <= 256<<10 { // a rare giant is not kept
			b.Reset()
			buffers.Put(b)
		}
	}()
	_, err := b.ReadFrom(io.LimitReader(body, maxAnswer+1))
	if err == nil && b.Len() > maxAnswer {
		err = fmt.Errorf("answer of more than %d bytes", maxAnswer)
	}
	if !keep {
		return nil, err
	}
	return bytes.Clone(b.Bytes()), err
}

// pause waits for as long as e asks to be left alone. It returns e if that is too long.
func (c *Client) pause(ctx context.Context, e *Error) error {
	if e.RetryAfter > cmp.Or(c.MaxWait, time.Minute) {
		return e
	}
	select {
	case <-time.After(e.RetryAfter):
		return nil
	case <-ctx.Done():
		return interrupted(ctx, e.Op)
	}
}

// get makes a GET of path, which must be escaped.
func (c *Client) get(path string, query url.Values) (*http.Request, error) {
	u := c.api + path
	if len(query) > 0 {
		u += "?" + query.Encode()
	}
	req, err := http.NewRequest(http.MethodGet, u, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %s is no path", ErrBadRequest, path)
	}
	// net/http by itself repeats a GET that broke on a used connection, unless it has a body
	// that cannot be had again. HTTP/1 finds this one empty and sends a GET without a body.
	req.Body = emptyBody{}
	req.Header.Set("Accept", "application/json")
	decorate(req)
	return req, nil
}

// document makes a request with a JSON document as its body.
func (c *Client) document(method, path, mediaType string, document any) (*http.Request, error) {
	body, err := json.Marshal(document)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadRequest, err)
	}
	req, err := http.NewRequest(method, c.api+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("%w: %s is no path", ErrBadRequest, path)
	}
	req.Header.Set("Content-Type", mediaType)
	req.Header.Set("Accept", mediaType)
	decorate(req)
	return req, nil
}

// decorate sets the headers that all requests of the API have.
func decorate(req *http.Request) {
	req.Header.Set("Accept-Language", "en-US") // Is(ErrStale) has to read a message
	req.Header.Set("User-Agent", "skillsync")
}

type emptyBody struct{}

func (emptyBody) Read([]byte) (int, error) { return 0, io.EOF }
func (emptyBody) Close() error             { return nil }

// decode reads the JSON of an answer into v.
func (a answer) decode(v any) error {
	if err := json.Unmarshal(a.body, v); err != nil {
		return &Error{Op: a.op, Status: a.status, CorrelationID: a.correlationID, Err: fmt.Errorf("decode the answer: %w", err)}
	}
	return nil
}

// init fills in the defaults.
func (c *Client) init() {
	c.api = strings.TrimRight(c.API, "/")
	c.login = strings.TrimRight(cmp.Or(c.Login, c.API), "/")
	c.invalid = errors.Join(checkBase("API", c.api), checkBase("Login", c.login), c.checkProfile())
	inFlight := cmp.Or(max(0, c.MaxInFlight), 64)
	c.slots = make(chan struct{}, inFlight)
	c.reads.out = make(chan struct{}, 1)
	c.transport = c.Transport
	if c.transport == nil {
		c.transport = newTransport(inFlight)
	}
}

// stay makes an answer of a redirect: following it would be a request that nobody granted.
func stay(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

func checkBase(name, base string) error {
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return fmt.Errorf("genesys: Client.%s is not the URL of a host", name)
	}
	return nil
}

// newTransport returns the transport of a Client with that many requests in flight.
func newTransport(inFlight int) *http.Transport {
	// HTTP/1 only: there, and not in HTTP/2, a GET can be kept from being repeated behind our
	// back without a trace on the wire (see get). A few requests a second gain nothing from
	// sharing a connection.
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	return &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:     &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout: 5 * time.Second,
		Protocols:           &protocols,
		MaxIdleConns:        2 * inFlight, // two hosts: API and sign-in
		MaxIdleConnsPerHost: inFlight,
		// Shorter than the 60 s after which load balancers of the platform's provider hang up
		// by default: a request on a connection that is just being closed fails.
		IdleConnTimeout: 30 * time.Second,
	}
}
