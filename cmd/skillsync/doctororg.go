package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"skillsync/cmd/skillsync/desk"
	"skillsync/genesys"
	"skillsync/queue"
	"skillsync/queue/ratelimit"
)

// What the doctor asks of the mapping and of Genesys Cloud.

func (e *examination) noRules() string {
	if e.rules == nil {
		return "no mapping"
	}
	return ""
}

func (e *examination) readMapping(context.Context) check {
	m, err := e.orgFlags.rules()
	if err != nil {
		return failed(`mend the file; "skillsync mapping test FILE" checks it`, "%s", oneLine(err))
	}
	e.rules = m
	name := "the built-in one"
	if e.Mapping != "" {
		name = e.Mapping
	}
	return found("%s, version %s, with %s", name, m.Version(), desk.HowMany(len(m.Owned()), "skill"))
}

// mappingTests does not show what differs: values in a test may be somebody's.
func (e *examination) mappingTests(context.Context) check {
	results := e.rules.Test()
	bad, first := 0, 0
	for _, r := range results {
		if !r.OK {
			if bad++; bad == 1 {
				first = r.Line
			}
		}
	}
	switch {
	case bad > 0:
		return failed(`"skillsync mapping test" shows what differs; mend the rules or the tests`, "%d of %d fail, the first in line %d", bad, len(results), first)
	case len(results) == 0:
		return warning("write a few: records, and what should follow from them", "there are none")
	}
	return found("%d of %d pass", len(results), len(results))
}

func (e *examination) region(context.Context) check {
	text := strings.ToLower(e.Region)
	e.api, e.login = strings.TrimSuffix(e.APIURL, "/"), strings.TrimSuffix(e.LoginURL, "/")
	if e.api == "" {
		api, login, err := genesys.Hosts(e.Region)
		if err != nil {
			return failed("set GENESYS_REGION to the org's region", "%s", strings.TrimPrefix(oneLine(err), "genesys: "))
		}
		e.api, e.login = api, cmp.Or(e.login, login)
	} else {
		text = "GENESYS_API_URL is set and goes before it"
	}
	return found("%s", text)
}

func (e *examination) noHosts() string {
	if e.api == "" {
		return "the region is unknown"
	}
	return ""
}

func (e *examination) apiHost(ctx context.Context) check { return reach(ctx, e.api) }

func (e *examination) loginHost(ctx context.Context) check {
	if e.login == "" || e.login == e.api {
		return found("the same as the API's")
	}
	return reach(ctx, e.login)
}

func (e *examination) oauthClient(context.Context) check {
	client, err := e.orgFlags.client()
	if err != nil {
		return failed("set it as the workers have it", "%s", oneLine(err))
	}
	client.MaxWait = 5 * time.Second // a longer refusal is an answer
	e.client = client
	return found("id and secret are set")
}

func (e *examination) noClient() string {
	if e.client == nil {
		return cmp.Or(e.noHosts(), "no OAuth client")
	}
	return ""
}

// reach looks a host up and connects to it, up to the TLS handshake, which is no request yet and
// so costs none.
func reach(ctx context.Context, base string) check {
	u, err := url.Parse(base)
	if err != nil || u.Hostname() == "" {
		return failed("set it to a URL such as https://api.mypurecloud.de", "not the URL of a host")
	}
	if proxy, err := http.ProxyFromEnvironment(&http.Request{URL: u}); err != nil || proxy != nil {
		return skipped("", "%s is reached by way of a proxy (HTTPS_PROXY): the sign-in tells whether it works", u.Hostname())
	}
	addresses, err := net.DefaultResolver.LookupHost(ctx, u.Hostname())
	if err != nil {
		return failed("see whether this machine may ask its name server, and whether the host is right", "no address of %s: %s", u.Hostname(), oneLine(err))
	}
	took, err := shake(ctx, u)
	if err != nil {
		return failed("see whether a firewall or a proxy (HTTPS_PROXY) is between, and whether this machine trusts the certificate", "%s: %s", u.Hostname(), oneLine(err))
	}
	kind := "TLS"
	if u.Scheme != "https" {
		kind = "connection"
	}
	return found("%s, %s, %s in %d ms", u.Hostname(), desk.HowMany(len(addresses), "address"), kind, took.Milliseconds())
}

func shake(ctx context.Context, u *url.URL) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	port := u.Port()
	dial := (&tls.Dialer{Config: &tls.Config{MinVersion: tls.VersionTLS12}}).DialContext
	if u.Scheme == "http" {
		dial = (&net.Dialer{}).DialContext
	}
	if port == "" {
		port = u.Scheme
	}
	start := time.Now()
	conn, err := dial(ctx, "tcp", net.JoinHostPort(u.Hostname(), port))
	if err != nil {
		return 0, err
	}
	return time.Since(start), conn.Close()
}

func (e *examination) signIn(ctx context.Context) check {
	e.pay(ctx)
	err := e.client.SignIn(ctx)
	if err != nil {
		return failed(orgAdvice(err), "%s", orgError(err))
	}
	e.signedIn = true
	return found("a token was given")
}

// pay has requests paid from the fleet's budget. Where that cannot be had, a budget of our own has
// to do: the doctor is run because something is wrong.
func (e *examination) pay(ctx context.Context) {
	e.client.Limiter = ratelimit.Local(e.Limit)
	if e.broker == nil || !e.jetStream {
		return
	}
	store, err := e.broker.KV(ctx, queue.LimitsBucket)
	if err != nil {
		return
	}
	bucket := &ratelimit.Bucket{
		Store: store, Key: queue.Key(e.client.ClientID), Limit: e.Limit, Clock: e.broker.Now, Name: operator(),
		MaxWait: 5 * time.Second, // a pause is an answer
	}
	state, err := bucket.Read(ctx)
	if err != nil {
		return
	}
	if state.Configured > 0 {
		bucket.Limit = state.Configured // or the fleet would be told of our --limit
	}
	e.client.Limiter = bucket
	e.client.OnThrottle = func(ctx context.Context, d time.Duration) {
		_ = bucket.Throttled(context.WithoutCancel(ctx), d, "Genesys Cloud answered 429 to the doctor") // the check says it, too
	}
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var ended sync.WaitGroup
	ended.Go(func() { _ = bucket.Run(running) }) // ends with running
	e.stops = append(e.stops, func() { cancel(); ended.Wait() })
}

func (e *examination) noToken() string {
	if e.client != nil && !e.signedIn {
		return "not signed in"
	}
	return e.noClient()
}

func (e *examination) contract(ctx context.Context) check {
	profile, err := e.client.Discover(ctx)
	if err != nil {
		return failed(orgAdvice(err)+"; or set GENESYS_PROFILE", "%s", orgError(err))
	}
	e.profile = profile
	how := "the org's SCIM schemas list Genesys's extension"
	switch {
	case e.Profile != string(genesys.Auto):
		how = "set by GENESYS_PROFILE"
	case profile == genesys.CustomAttributes:
		how = "the org has no SCIM schemas (404)"
	}
	return found("%s: %s", profile, how)
}

func (e *examination) noProfile() string {
	if e.signedIn && e.profile == "" {
		return "the profile is not known"
	}
	return e.noToken()
}

// nobody is the id of no user (RFC 9562 §5.9): that it is not found shows that one may look.
const nobody = "00000000-0000-0000-0000-000000000000"

func (e *examination) mayReadUsers(ctx context.Context) check {
	_, err := e.client.User(ctx, nobody)
	if err != nil && !errors.Is(err, genesys.ErrUserNotFound) {
		return failed(orgAdvice(err), "%s", orgError(err))
	}
	if e.profile == genesys.RoutingSkills {
		return found("yes; whether it may assign skills (routing:skill:assign) only the first patch tells")
	}
	return found("yes; whether it may write attributes only the first patch tells")
}

func (e *examination) mayFindUsers(ctx context.Context) check {
	_, err := e.client.Find(ctx, genesys.Person{EmployeeID: "skillsync-doctor"})
	switch {
	case errors.Is(err, genesys.ErrNoLookup):
		return warning("set GENESYS_EXTERNAL_ID_AUTHORITY, unless every record has a user_id or an email",
			"not by employee id: the authority of the external ids is not set")
	case err != nil && !errors.Is(err, genesys.ErrUserNotFound):
		return failed(orgAdvice(err), "%s", orgError(err))
	}
	return found("yes, by external id")
}

func (e *examination) skillsExist(ctx context.Context) check {
	switch {
	case e.rules == nil:
		return skipped("", "no mapping")
	case e.profile != genesys.RoutingSkills:
		return skipped("see in the org that its provisioning rules assign the mapping's skills", "the %s contract has no list of skills", e.profile)
	case len(e.rules.Owned()) == 0:
		return found("the mapping names none")
	}
	known, err := e.client.SkillNames(ctx)
	if err != nil {
		return failed(orgAdvice(err), "%s", orgError(err))
	}
	var wanted []genesys.Skill
	for _, name := range e.rules.Owned() {
		wanted = append(wanted, genesys.Skill{Name: name})
	}
	if unknown := genesys.UnknownSkills(wanted, known); unknown != nil {
		return failed("create it in the org, or mend the mapping", "%s", strings.TrimPrefix(oneLine(unknown), "genesys: "))
	}
	return found("%s of the mapping, and the org has all of them", desk.HowMany(len(wanted), "skill"))
}

// permissions are what the platform's words name, such as routing:skill:view.
var permissions = regexp.MustCompile(`\b[a-zA-Z]+:[a-zA-Z]+:[a-zA-Z]+\b`)

// orgAdvice is what to do about an error of the org.
func orgAdvice(err error) string {
	var e *genesys.Error
	switch {
	case errors.Is(err, genesys.ErrThrottled), errors.As(err, new(*ratelimit.PausedError)):
		return "wait, or see \"skillsync limit\"; then run the doctor again"
	case errors.Is(err, genesys.ErrUnauthorized):
		return "mend GENESYS_CLIENT_ID and GENESYS_CLIENT_SECRET: an OAuth client of this region with the client credentials grant"
	case errors.Is(err, genesys.ErrForbidden), errors.Is(err, genesys.ErrDivision):
		errors.As(err, &e)
		if missing := permissions.FindAllString(e.Message, -1); len(missing) > 0 {
			return "give the OAuth client's role " + strings.Join(slices.Compact(missing), ", ")
		}
		return "give the OAuth client's role routing:skill:assign, directory:user:view and routing:skill:view in the users' divisions"
	case errors.As(err, &e) && e.CorrelationID != "":
		return "run the doctor again; if it stays, ask Genesys support with the correlation id"
	}
	return "see the hosts above"
}

// orgError is an error's text, and whether it was the limit that let nothing through.
func orgError(err error) string {
	if errors.Is(err, context.DeadlineExceeded) && !errors.As(err, new(*genesys.Error)) {
		return fmt.Sprintf("no answer, or no room in the limit, within %s", orgPatience)
	}
	return strings.TrimPrefix(oneLine(err), "genesys: ")
}

func (e *examination) orgsLimit(ctx context.Context) check {
	limits, err := e.client.Limits(ctx, genesys.LimitsOfAPI)
	const ask = "look in the org's limits for " + genesys.TokensPerMinute
	switch status := (*genesys.Error)(nil); {
	case errors.Is(err, genesys.ErrForbidden):
		return skipped(ask+", or give the OAuth client's role limits:organization:view", "this OAuth client may not read the org's limits")
	case errors.As(err, &status) && status.Status == http.StatusNotFound:
		return skipped(ask, "this org does not tell its limits")
	case err != nil:
		return failed(orgAdvice(err), "%s", orgError(err))
	}
	allowed, ok := limits[genesys.TokensPerMinute]
	if !ok {
		return skipped(ask, "this org names no limit for OAuth clients")
	}
	return limitAgainst(e.Limit, allowed)
}

// limitAgainst judges our limit by what the org allows.
func limitAgainst(own, allowed int) check {
	do := fmt.Sprintf("set SKILLSYNC_LIMIT=%d; \"skillsync limit set %d\" makes running workers keep to it at once", allowed, allowed)
	switch {
	case own <= 0:
		return failed(do, "the org allows %d requests a minute, and --limit is none", allowed)
	case own > allowed:
		return failed(do, "the org allows %d requests a minute, and --limit is %d: what is too much is refused (429)", allowed, own)
	case own < allowed:
		return warning(do, "the org allows %d requests a minute, and --limit uses %d of them", allowed, own)
	}
	return found("%d requests a minute, as --limit says", allowed)
}
