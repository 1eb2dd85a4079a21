package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"skillsync/cmd/skillsync/tracing"
	"skillsync/genesys"
	"skillsync/worker/mapping"
)

// orgFlags say which Genesys Cloud org to talk to, and as whom.
type orgFlags struct {
	Region       string `group:"Genesys Cloud" env:"GENESYS_REGION,GENESYSCLOUD_REGION" default:"us-east-1" help:"AWS region name in either spelling, or a Genesys Cloud domain. Default: ${default}."`
	APIURL       string `group:"Genesys Cloud" name:"api-url" env:"GENESYS_API_URL" help:"Base URL of the API, instead of the region's."`
	LoginURL     string `group:"Genesys Cloud" name:"login-url" env:"GENESYS_LOGIN_URL" help:"Base URL of the sign-in. Default: the region's, or --api-url when only that is set."`
	ClientID     string `group:"Genesys Cloud" env:"GENESYS_CLIENT_ID,GENESYSCLOUD_OAUTHCLIENT_ID" help:"OAuth client (client credentials grant)."`
	ClientSecret string `group:"Genesys Cloud" env:"GENESYS_CLIENT_SECRET,GENESYSCLOUD_OAUTHCLIENT_SECRET" help:"Its secret. Better by environment or file than on the command line."`
	SecretFile   string `group:"Genesys Cloud" name:"client-secret-file" env:"GENESYS_CLIENT_SECRET_FILE" placeholder:"FILE" help:"File that holds the secret."`
	Profile      string `group:"Genesys Cloud" env:"GENESYS_PROFILE" default:"auto" enum:"auto,custom-attributes,routing-skills" help:"Which wire contract the org speaks (${enum}); auto asks it once. Default: ${default}."`
	Authority    string `group:"Genesys Cloud" name:"external-id-authority" env:"GENESYS_EXTERNAL_ID_AUTHORITY" help:"Authority under which the org keeps employee ids as external ids."`
	PatchOp      string `group:"Genesys Cloud" name:"patch-op" env:"GENESYS_PATCH_OP" default:"replace" enum:"replace,add" help:"custom-attributes only: the SCIM operation (${enum}). Default: ${default}."`

	Mapping string `type:"path" placeholder:"FILE" help:"Mapping from records to attributes and skills (YAML). Default: the built-in one, see \"skillsync mapping show\"."`
	Limit   int    `default:"300" help:"Requests a minute that the org allows this OAuth client; all workers share them. 0 for no limit. Default: ${default}."`
}

// client makes the Genesys Cloud client that the settings describe.
func (f orgFlags) client() (*genesys.Client, error) {
	secret, err := fromFile("GENESYS_CLIENT_SECRET", f.ClientSecret, f.SecretFile)
	if err != nil {
		return nil, err
	}
	api, login := strings.TrimSuffix(f.APIURL, "/"), strings.TrimSuffix(f.LoginURL, "/")
	if api == "" {
		regionAPI, regionLogin, err := genesys.Hosts(f.Region)
		if err != nil {
			return nil, &exitError{exitMisuse, fmt.Errorf("GENESYS_REGION: %w", err)}
		}
		api = regionAPI
		if login == "" {
			login = regionLogin
		}
	}
	if f.ClientID == "" || secret == "" {
		return nil, misuse("set GENESYS_CLIENT_ID and GENESYS_CLIENT_SECRET (or GENESYS_CLIENT_SECRET_FILE) to an OAuth client with the client credentials grant")
	}
	if f.Limit < 0 {
		return nil, misuse("--limit is %d; it takes requests a minute, or 0 for none", f.Limit)
	}
	return &genesys.Client{
		API: api, Login: login, ClientID: f.ClientID, ClientSecret: secret,
		Profile: genesys.Profile(f.Profile), Authority: f.Authority, PatchOp: f.PatchOp,
	}, nil
}

// rules loads the mapping.
func (f orgFlags) rules() (*mapping.Mapping, error) {
	if f.Mapping == "" {
		return mapping.Default(), nil
	}
	m, err := mapping.Load(f.Mapping)
	if err != nil {
		return nil, &exitError{exitMisuse, err}
	}
	return m, nil
}

// fromFile is a secret given directly or by the path of a file, and never both.
func fromFile(name, value, path string) (string, error) {
	switch {
	case path == "":
		return value, nil
	case value != "":
		return "", misuse("%s and %s_FILE are both set; set one", name, name)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return "", misuse("%s_FILE: %w", name, err)
	}
	return strings.TrimRight(string(data), "\r\n"), nil
}

// discover asks the org which contract it speaks, and goes on asking while the trouble may pass.
func discover(ctx context.Context, p *program, c *genesys.Client, waiting func(error)) (genesys.Profile, error) {
	const first, most = 2 * time.Second, time.Minute
	for gap := first; ; gap = min(gap*2, most) {
		profile, err := c.Discover(ctx)
		if err == nil {
			p.log.Info().Str("profile", string(profile)).Str("api", c.API).Msg("Genesys Cloud answers")
			return profile, nil
		}
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		if errors.Is(err, genesys.ErrUnauthorized) {
			gap = most
		}
		waiting(err)
		p.log.Error().Err(err).Stringer("again_in", gap).Msg("no records are fetched until Genesys Cloud lets us in")
		select {
		case <-ctx.Done():
			return "", context.Cause(ctx)
		case <-time.After(gap):
		}
	}
}

// observe counts every request by what it was for and how it was answered, and traces it.
func observe(reg prometheus.Registerer, traces *tracing.Traces) func(context.Context, genesys.Exchange) {
	requests := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "skillsync_requests_total", Help: "Requests sent to Genesys Cloud, by operation and status (none: no answer came).",
	}, []string{"op", "status"})
	seconds := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "skillsync_request_seconds", Help: "From sending a request to the end of its answer.",
		Buckets: prometheus.ExponentialBuckets(.005, 2, 12),
	}, []string{"op"})
	for _, op := range genesys.Operations() {
		for _, status := range statusClasses {
			requests.WithLabelValues(op, status)
		}
		seconds.WithLabelValues(op)
	}
	reg.MustRegister(requests, seconds)
	return func(ctx context.Context, e genesys.Exchange) {
		traces.Exchange(ctx, e)
		requests.WithLabelValues(e.Op, statusClass(e.Status)).Inc()
		seconds.WithLabelValues(e.Op).Observe(e.Took.Seconds())
	}
}

// statusClasses is every value of statusClass.
var statusClasses = []string{"2xx", "3xx", "401", "403", "429", "4xx", "5xx", "none"}

// statusClass is an HTTP status for metrics: by itself where an alert asks for it, else its class.
func statusClass(status int) string {
	switch status {
	case 0:
		return "none"
	case 401, 403, 429:
		return strconv.Itoa(status)
	}
	return strconv.Itoa(status/100) + "xx"
}
