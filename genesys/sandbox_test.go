package genesys_test

import (
	"context"
	"errors"
	"net/http/httptest"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/time/rate"

	"skillsync/genesys"
	"skillsync/genesys/sandbox"
)

// newClient returns a client of the sandbox, without sockets, that counts its grants.
func newClient(s *sandbox.Sandbox) (*genesys.Client, *atomic.Int64) {
	grants := new(atomic.Int64)
	return &genesys.Client{
		API: "http://sandbox", ClientID: "sandbox", ClientSecret: "sandbox", Authority: "hris",
		Transport: s.Transport(),
		Limiter: limiterFunc(func(context.Context) error {
			grants.Add(1)
			return nil
		}),
	}, grants
}

type limiterFunc func(context.Context) error

func (f limiterFunc) Wait(ctx context.Context) error { return f(ctx) }

// tier2 is the patch that makes a user Tier 2 Support 4, in either profile.
var tier2 = genesys.Patch{
	Attributes: []genesys.Attribute{{Name: "department", Value: "Support-Tier2"}},
	Skills:     []genesys.Skill{{Name: "Tier 2 Support", Proficiency: 4}},
}

func TestBothProfilesAgainstTheSandbox(t *testing.T) {
	for _, serve := range []string{sandbox.CustomAttributes, sandbox.RoutingSkills, sandbox.Both} {
		t.Run(serve, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				config := sandbox.Org(10)
				config.Serve = serve
				config.ReadLag, config.ProvisionLag = 7*time.Second, 4*time.Second
				config.PatchLatency, config.ReadLatency = 300*time.Millisecond, 100*time.Millisecond
				s := sandbox.New(config)
				c, grants := newClient(s)

				profile, err := c.Discover(t.Context())
				if want := serve; err != nil || string(profile) != want && want != sandbox.Both {
					t.Fatalf("Discover: %q, %v", profile, err)
				}
				id, err := c.Find(t.Context(), genesys.Person{EmployeeID: "EMP-0003"})
				if err != nil || id != sandbox.UserID("EMP-0003") {
					t.Fatalf("Find: %q, %v", id, err)
				}
				before, err := c.User(t.Context(), id)
				if err != nil || len(before.Skills) != 0 {
					t.Fatalf("User: %v, %v", before, err)
				}
				patch := tier2
				patch.Version = before.Version
				if correlation, err := c.Patch(t.Context(), id, patch); err != nil || correlation == "" {
					t.Fatalf("Patch: %q, %v", correlation, err)
				}
				start := time.Now()
				after := before
				for !slices.Equal(after.Skills, tier2.Skills) {
					if time.Since(start) > 20*time.Second {
						t.Fatalf("still has %v", after.Skills)
					}
					time.Sleep(time.Second)
					if after, err = c.User(t.Context(), id); err != nil {
						t.Fatal(err)
					}
				}
				if time.Since(start) < config.ReadLag {
					t.Errorf("read back after %v", time.Since(start))
				}
				if sent, paid := s.Stats().Requests, grants.Load(); int64(sent) != paid {
					t.Errorf("%d requests, %d grants", sent, paid)
				}
				schemas := 0 // the one path that an organization may lack
				if serve == sandbox.CustomAttributes {
					schemas = 1
				}
				if n := s.Stats().ByOp["other"]; n != schemas {
					t.Errorf("%d requests of something that does not exist", n)
				}
			})
		})
	}
}

func TestFindAgainstTheSandbox(t *testing.T) {
	const twins = "twins@example.com"
	config := sandbox.Org(3)
	config.Users = append(config.Users,
		sandbox.User{ID: sandbox.UserID("A"), ExternalID: "a/b ä%?", Email: twins},
		sandbox.User{ID: sandbox.UserID("B"), ExternalID: "same", Email: twins},
		sandbox.User{ID: sandbox.UserID("C"), ExternalID: "same"},
	)
	for name, row := range map[string]struct {
		serve     string
		authority string
		person    genesys.Person
		want      string
		is        error
	}{
		"by external id":              {sandbox.RoutingSkills, "hris", genesys.Person{EmployeeID: "EMP-0002"}, "EMP-0002", nil},
		"by a strange external id":    {sandbox.RoutingSkills, "hris", genesys.Person{EmployeeID: "a/b ä%?"}, "A", nil},
		"by e-mail in another case":   {sandbox.RoutingSkills, "", genesys.Person{EmployeeID: "x", Email: "EMP-0002@Example.com"}, "EMP-0002", nil},
		"by e-mail, two":              {sandbox.RoutingSkills, "", genesys.Person{Email: twins}, "", genesys.ErrAmbiguous},
		"by e-mail, none":             {sandbox.RoutingSkills, "hris", genesys.Person{EmployeeID: "x", Email: "x@example.com"}, "", genesys.ErrUserNotFound},
		"by external id, none":        {sandbox.RoutingSkills, "hris", genesys.Person{EmployeeID: "x"}, "", genesys.ErrUserNotFound},
		"by query":                    {sandbox.CustomAttributes, "", genesys.Person{EmployeeID: "EMP-0002"}, "EMP-0002", nil},
		"by query with strange signs": {sandbox.CustomAttributes, "", genesys.Person{EmployeeID: "a/b ä%?"}, "A", nil},
		"by query, none":              {sandbox.CustomAttributes, "", genesys.Person{EmployeeID: "x"}, "", genesys.ErrUserNotFound},
		"by query, two":               {sandbox.CustomAttributes, "", genesys.Person{EmployeeID: "same"}, "", genesys.ErrAmbiguous},
	} {
		t.Run(name, func(t *testing.T) {
			config.Serve = row.serve
			c, _ := newClient(sandbox.New(config))
			c.Authority = row.authority
			id, err := c.Find(t.Context(), row.person)
			want := ""
			if row.want != "" {
				want = sandbox.UserID(row.want)
			}
			if id != want || !errors.Is(err, row.is) {
				t.Errorf("Find: %q, %v, want %q, %v", id, err, want, row.is)
			}
		})
	}
}

// Each kind of fault, on a patch or on a read: what the caller learns, and what was stored.
func TestFaultsAreToldApart(t *testing.T) {
	const fine = -1
	for name, row := range map[string]struct {
		fault  string
		status int // of the *Error; fine: there is none
		is     error
		stored bool
		took   time.Duration
	}{
		"429 in seconds":          {"patch:429:retry-after=30:times=1", fine, nil, true, 30 * time.Second},
		"429 with a date":         {"patch:429:retry-after-date=30:times=1", fine, nil, true, 30 * time.Second},
		"429 without Retry-After": {"patch:429-bare:times=1", fine, nil, true, time.Minute},
		"429 twice":               {"patch:429:retry-after=30:times=2", fine, nil, true, time.Minute},
		"429 for an hour":         {"patch:429:retry-after=3600", 429, genesys.ErrThrottled, false, 0},
		"the token's limit":       {"token:oauth-limit:times=1", fine, nil, true, time.Minute},
		"400":                     {"patch:400", 400, nil, false, 0},
		"401 once":                {"patch:401:times=1", fine, nil, true, 0},
		"401 always":              {"patch:401", 401, genesys.ErrUnauthorized, false, 0},
		"a revoked token":         {"patch:revoke:times=1", fine, nil, true, 0},
		"403":                     {"patch:403", 403, genesys.ErrForbidden, false, 0},
		"403 in a division":       {"patch:403-division", 403, genesys.ErrDivision, false, 0},
		"404":                     {"patch:404", 404, genesys.ErrUserNotFound, false, 0},
		"408":                     {"patch:408", 408, nil, false, 0},
		"409":                     {"patch:409", 409, nil, false, 0},
		"412":                     {"patch:412", 412, genesys.ErrStale, false, 0},
		"413":                     {"patch:413", 413, nil, false, 0},
		"415":                     {"patch:415", 415, nil, false, 0},
		"500":                     {"patch:500", 500, nil, false, 0},
		"502 in HTML":             {"patch:html", 502, nil, false, 0},
		"503":                     {"patch:503", 503, nil, false, 0},
		"504":                     {"patch:504", 504, nil, false, 0},
		"stale as 400":            {"patch:stale", 400, genesys.ErrStale, false, 0},
		"stale as 409":            {"patch:stale:form=409", 409, genesys.ErrStale, false, 0},
		"stale as 412":            {"patch:stale:form=412", 412, genesys.ErrStale, false, 0},
		"cut off before":          {"patch:reset-before", 0, nil, false, 0},
		"cut off after":           {"patch:reset-after", 0, nil, true, 0},
		"too slow, but done":      {"patch:slow:for=20s", 0, context.DeadlineExceeded, true, 15 * time.Second},
		"slow":                    {"patch:slow:for=10s", fine, nil, true, 10 * time.Second},
		"dropped":                 {"patch:drop", fine, nil, false, 0},
	} {
		for _, serve := range []string{sandbox.CustomAttributes, sandbox.RoutingSkills} {
			t.Run(name+", "+serve, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					config := sandbox.Org(3)
					config.Serve = serve
					s := sandbox.New(config)
					fault, err := sandbox.ParseFault(row.fault)
					if err != nil {
						t.Fatal(err)
					}
					s.Inject(fault)
					c, grants := newClient(s)
					c.Profile = genesys.Profile(serve)
					start := time.Now()
					_, err = c.Patch(t.Context(), sandbox.UserID("EMP-0001"), tier2)
					if took := time.Since(start); took.Round(time.Second) != row.took {
						t.Errorf("took %v, want %v", took, row.took)
					}
					e, ok := errors.AsType[*genesys.Error](err)
					if ok && e.Status != row.status || !ok && row.status != fine {
						t.Errorf("Patch: %v, want status %d", err, row.status)
					}
					if row.is != nil && !errors.Is(err, row.is) {
						t.Errorf("Patch: %v, want %v", err, row.is)
					}
					if got := s.Stats().Patches == 1; got != row.stored {
						t.Errorf("stored: %v", got)
					}
					if sent, paid := s.Stats().Requests, grants.Load(); int64(sent) != paid {
						t.Errorf("%d requests, %d grants", sent, paid)
					}
				})
			})
		}
	}
}

func TestFaultsOfReads(t *testing.T) {
	for name, row := range map[string]struct {
		fault  string
		is     error
		fails  bool
		single int // reads besides the batch
	}{
		"none":                       {"", nil, false, 0},
		"skills left out":            {"read_batch:expand", nil, false, 1},
		"users left out":             {"read_batch:missing", nil, false, 1},
		"429":                        {"read:429:retry-after=5:times=1", nil, false, 0},
		"revoked":                    {"read:revoke:times=1", nil, false, 0},
		"cut off, and not repeated":  {"read:reset-after:times=1", nil, true, 0},
		"500":                        {"read:500:times=1", nil, true, 0},
		"slow":                       {"read:slow:for=11s:times=1", context.DeadlineExceeded, true, 0},
		"the batch does not find it": {"read_batch:404:times=1", nil, false, 1},
		"nothing finds it":           {"read:404", genesys.ErrUserNotFound, true, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				config := sandbox.Org(7)
				config.Serve = sandbox.RoutingSkills
				s := sandbox.New(config)
				if row.fault != "" {
					fault, err := sandbox.ParseFault(row.fault)
					if err != nil {
						t.Fatal(err)
					}
					s.Inject(fault)
				}
				c, grants := newClient(s)
				c.Profile = genesys.RoutingSkills
				u, err := c.User(t.Context(), sandbox.UserID("EMP-0007"))
				if (err != nil) != row.fails || row.is != nil && !errors.Is(err, row.is) {
					t.Errorf("User: %v", err)
				}
				if want := []genesys.Skill{{Name: "Spanish", Proficiency: 3}}; err == nil && !slices.Equal(u.Skills, want) {
					t.Errorf("User: %v", u)
				}
				if got := s.Stats().ByOp["read"]; got != row.single {
					t.Errorf("%d single reads, want %d", got, row.single)
				}
				if sent, paid := s.Stats().Requests, grants.Load(); int64(sent) != paid {
					t.Errorf("%d requests, %d grants", sent, paid)
				}
			})
		})
	}
}

func TestAMisspeltSkillAgainstTheSandbox(t *testing.T) {
	c, _ := newClient(sandbox.New(sandbox.Org(1)))
	_, err := c.Patch(t.Context(), sandbox.UserID("EMP-0001"), genesys.Patch{Skills: []genesys.Skill{{Name: "billing", Proficiency: 4}}})
	unknown, ok := errors.AsType[*genesys.UnknownSkillError](err)
	if !ok || unknown.Nearest["billing"][0] != "Billing" {
		t.Errorf("Patch: %v", err)
	}
}

// 600 changed users as a worker would do them, under the limit that the platform has: none is
// refused, and reads are next to free.
func TestAFleetOfUsersFitsTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 600
		config := sandbox.Org(n)
		config.Serve = sandbox.RoutingSkills
		config.Limit, config.LimitShared = 300, true
		config.ReadLatency, config.PatchLatency = 80*time.Millisecond, 250*time.Millisecond
		config.Seed = 1
		s := sandbox.New(config)
		c, _ := newClient(s)
		c.Limiter = rate.NewLimiter((0.98*300-5)/60, 5)
		start := time.Now()
		var wg sync.WaitGroup
		held := make(chan struct{}, 256)
		for _, u := range config.Users {
			held <- struct{}{}
			wg.Go(func() {
				defer func() { <-held }()
				id := sandbox.UserID(u.ExternalID)
				if _, err := c.Patch(t.Context(), id, tier2); err != nil {
					t.Error(err)
				}
				time.Sleep(3 * time.Second)
				if got, err := c.User(t.Context(), id); err != nil || !slices.Equal(got.Skills, tier2.Skills) {
					t.Errorf("User: %v, %v", got, err)
				}
			})
		}
		wg.Wait()
		stats := s.Stats()
		if stats.Refused429 != 0 || stats.MaxWindow60s > 300 {
			t.Errorf("%d refused, %d in a minute", stats.Refused429, stats.MaxWindow60s)
		}
		perRecord := float64(stats.Requests) / n
		t.Logf("%d requests in %v, %.3f each, %d in the busiest minute; %d batches",
			stats.Requests, time.Since(start), perRecord, stats.MaxWindow60s, stats.ByOp["read_batch"])
		if perRecord > 1.2 {
			t.Errorf("%.3f requests per user", perRecord)
		}
	})
}

func TestOverSockets(t *testing.T) {
	for _, serve := range []string{sandbox.CustomAttributes, sandbox.RoutingSkills} {
		t.Run(serve, func(t *testing.T) {
			config := sandbox.Org(200)
			config.Serve = serve
			s := sandbox.New(config)
			api, login := httptest.NewServer(s), httptest.NewServer(s.Login())
			t.Cleanup(api.Close)
			t.Cleanup(login.Close)
			c, grants := newClient(s)
			c.API, c.Login, c.Transport = api.URL, login.URL, nil
			for _, text := range []string{"patch:reset-before:times=3:after=20", "patch:reset-after:times=3:after=60", "patch:html:times=3:after=90", "patch:revoke:times=1:after=40"} {
				fault, err := sandbox.ParseFault(text)
				if err != nil {
					t.Fatal(err)
				}
				s.Inject(fault)
			}
			var failed atomic.Int64
			var wg sync.WaitGroup
			for _, u := range config.Users {
				wg.Go(func() {
					id := sandbox.UserID(u.ExternalID)
					for range 10 {
						if _, err := c.Patch(t.Context(), id, tier2); err == nil {
							break
						}
						failed.Add(1)
					}
					for range 10 {
						got, err := c.User(t.Context(), id)
						if err != nil {
							t.Error(err)
							return
						}
						if slices.Contains(got.Skills, tier2.Skills[0]) {
							return
						}
					}
					t.Errorf("%s was not provisioned", u.ExternalID)
				})
			}
			wg.Wait()
			if n := failed.Load(); n != 9 {
				t.Errorf("%d patches failed, want one for each fault but the revoked token", n)
			}
			// Requests that were granted just when the token was revoked may lose their grants.
			if sent, paid := int64(s.Stats().Requests), grants.Load(); paid < sent || paid > sent+64 {
				t.Errorf("%d requests, %d grants", sent, paid)
			}
		})
	}
}
