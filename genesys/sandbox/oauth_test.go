package sandbox

import (
	"encoding/base64"
	"net/url"
	"testing"
	"testing/synctest"
	"time"
)

func basic(id, secret string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(id+":"+secret))
}

func TestSigningIn(t *testing.T) {
	grant := url.Values{"grant_type": {"client_credentials"}}
	with := func(pairs ...string) url.Values {
		v := url.Values{"grant_type": {"client_credentials"}}
		for i := 0; i+1 < len(pairs); i += 2 {
			v.Set(pairs[i], pairs[i+1])
		}
		return v
	}
	const both = "scim:users:write scim:users:read"
	tests := []struct {
		name    string
		serve   string
		form    url.Values
		headers []string
		status  int
		code    string
	}{
		{"Basic", RoutingSkills, grant, []string{"Authorization", basic("me", "s+e %")}, 200, ""},
		{"Basic, form-encoded", RoutingSkills, grant, []string{"Authorization", basic("me", url.QueryEscape("s+e %"))}, 200, ""},
		{"form", RoutingSkills, with("client_id", "me", "client_secret", "s+e %"), nil, 200, ""},
		{"a scope is ignored", RoutingSkills, with("client_id", "me", "client_secret", "s+e %", "scope", "nonsense"), nil, 200, ""},
		{"an unknown id", RoutingSkills, with("client_id", "you", "client_secret", "s+e %"), nil, 400, "invalid_client"},
		{"a wrong secret", RoutingSkills, with("client_id", "me", "client_secret", "x"), nil, 401, "invalid_client"},
		{"a wrong secret in Basic", Both, grant, []string{"Authorization", basic("me", "x")}, 401, "invalid_client"},
		{"no credentials", Both, grant, nil, 400, "invalid_request"},
		{"both methods at once", Both, with("client_id", "me", "client_secret", "s+e %"), []string{"Authorization", basic("me", "s+e %")}, 400, "invalid_request"},
		{"no grant", Both, url.Values{}, nil, 400, "invalid_request"},
		{"another grant", Both, url.Values{"grant_type": {"password"}}, nil, 400, "unsupported_grant_type"},
		{"JSON", Both, grant, []string{"Content-Type", "application/json"}, 400, "invalid_request"},
		{"no media type", Both, grant, []string{"Content-Type", ""}, 400, "invalid_request"},
		{"custom: form and scopes", CustomAttributes, with("client_id", "me", "client_secret", "s+e %", "scope", both), nil, 200, ""},
		{"custom: scopes the other way round", CustomAttributes, with("client_id", "me", "client_secret", "s+e %", "scope", "scim:users:read scim:users:write"), nil, 200, ""},
		{"custom: Basic", CustomAttributes, with("scope", both), []string{"Authorization", basic("me", "s+e %")}, 400, "invalid_request"},
		{"custom: one scope", CustomAttributes, with("client_id", "me", "client_secret", "s+e %", "scope", "scim:users:write"), nil, 400, "invalid_scope"},
		{"custom: no scope", CustomAttributes, with("client_id", "me", "client_secret", "s+e %"), nil, 400, "invalid_scope"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := New(Config{ClientID: "me", ClientSecret: "s+e %", Serve: tt.serve})
			g := visitWith(t, s)
			r := g.postToken(tt.form, tt.headers...)
			r.want(t, tt.status, tt.code)
			if tt.status >= 400 {
				if d := r.get(t, "description"); d == "" || d != r.get(t, "error_description") {
					t.Errorf("description: %s", r.body)
				}
				return
			}
			life := 86400.0
			if tt.serve == CustomAttributes {
				life = 3600
			}
			if r.get(t, "token_type") != "bearer" || r.get(t, "expires_in") != life || r.get(t, "refresh_token") != nil {
				t.Errorf("%s", r.body)
			}
		})
	}
}

func TestATokenEndsWithItsLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := one()
		cfg.TokenLife = 5 * time.Minute
		g := visit(t, cfg)
		time.Sleep(5*time.Minute - 1)
		g.get("/api/v2/users").want(t, 200, "")
		time.Sleep(time.Nanosecond)
		g.get("/api/v2/users").want(t, 401, "bad.credentials")
		g.signIn()
		g.get("/api/v2/users").want(t, 200, "")
		if n := len(g.s.tokens.valid); n != 1 {
			t.Errorf("%d tokens kept: the expired one was not dropped", n)
		}
	})
}

func TestRevokedTokensAreRefusedAndNewOnesAreNot(t *testing.T) {
	g := visit(t, one())
	g.s.RevokeTokens()
	g.get("/api/v2/users").want(t, 401, "bad.credentials")
	g.signIn()
	g.get("/api/v2/users").want(t, 200, "")
}

func TestARequestWithoutATokenIsTold(t *testing.T) {
	g := visit(t, one())
	for name, header := range map[string]string{"none": "", "another scheme": "Basic abc", "empty": "Bearer "} {
		t.Run(name, func(t *testing.T) {
			g.do("GET", "/api/v2/users", "", "Authorization", header).want(t, 401, "authentication.required")
		})
	}
	g.do("GET", "/nowhere", "", "Authorization", "bearer "+g.token).want(t, 404, "not.found") // the scheme has no case
}

func TestTooManyTokensAre400InAnySlidingMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := one()
		cfg.OAuthLimit = 3
		g := visit(t, cfg) // the first
		form := url.Values{"grant_type": {"client_credentials"}, "client_id": {"sandbox"}, "client_secret": {"sandbox"}}
		time.Sleep(20 * time.Second)
		g.postToken(form).want(t, 200, "")
		g.postToken(form).want(t, 200, "")
		time.Sleep(40*time.Second - 1)
		r := g.postToken(form)
		r.want(t, 400, "invalid_request")
		if d := r.get(t, "description").(string); len(d) < 20 || d[:20] != "rate limit exceeded;" {
			t.Errorf("description %q", d)
		}
		time.Sleep(time.Nanosecond) // the first one leaves the window
		g.postToken(form).want(t, 200, "")
		g.postToken(form).want(t, 400, "invalid_request")
		if st := g.s.Stats(); st.Tokens != 4 || st.Refused429 != 0 {
			t.Errorf("%+v", st)
		}
	})
}
