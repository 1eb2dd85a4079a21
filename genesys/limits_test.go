package genesys_test

import (
	"errors"
	"maps"
	"testing"

	"skillsync/genesys"
	"skillsync/genesys/sandbox"
)

func TestTheLimitsOfTheOrganizationAreRead(t *testing.T) {
	config := sandbox.Org(1)
	config.Limit = 180
	s := sandbox.New(config)
	c, grants := newClient(s)
	limits, err := c.Limits(t.Context(), genesys.LimitsOfAPI)
	if want := map[string]int{genesys.TokensPerMinute: 180}; err != nil || !maps.Equal(limits, want) {
		t.Errorf("%v, %v", limits, err)
	}
	if grants.Load() != 2 {
		t.Errorf("%d grants for a token and a list", grants.Load())
	}
	_, err = c.Limits(t.Context(), "a/b")
	if e, ok := errors.AsType[*genesys.Error](err); !ok || e.Status != 404 {
		t.Error("a namespace that is not there:", err)
	}
	s.Inject(sandbox.Fault{Op: "limits", Kind: "403"})
	if _, err := c.Limits(t.Context(), genesys.LimitsOfAPI); !errors.Is(err, genesys.ErrForbidden) {
		t.Error("without the permission:", err)
	}
}

func TestAnOrganizationWithoutALimitNamesNone(t *testing.T) {
	config := sandbox.Org(1)
	config.Limit = 0
	c, _ := newClient(sandbox.New(config))
	if limits, err := c.Limits(t.Context(), genesys.LimitsOfAPI); err != nil || len(limits) != 0 {
		t.Errorf("%v, %v", limits, err)
	}
}

func TestSignInTellsWhetherTheCredentialsAreGood(t *testing.T) {
	s := sandbox.New(sandbox.Org(1))
	c, grants := newClient(s)
	for range 2 {
		if err := c.SignIn(t.Context()); err != nil || grants.Load() != 1 {
			t.Errorf("%v after %d grants", err, grants.Load())
		}
	}
	c, _ = newClient(s)
	c.ClientSecret = "wrong"
	if err := c.SignIn(t.Context()); !errors.Is(err, genesys.ErrUnauthorized) {
		t.Error("a wrong secret:", err)
	}
	if err := (&genesys.Client{}).SignIn(t.Context()); err == nil {
		t.Error("a client that cannot work signed in")
	}
}
