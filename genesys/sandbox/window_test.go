package sandbox

import (
	"math/rand/v2"
	"net/url"
	"strconv"
	"testing"
	"testing/synctest"
	"time"
)

func TestTheLimitHoldsInAnySlidingMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := one()
		cfg.Limit = 10
		g := visit(t, cfg)
		read := func() reply { return g.get("/api/v2/users") }
		for i := range 10 { // at 0, 3, …, 27 s
			if r := read(); r.status != 200 {
				t.Fatalf("request %d: %d", i, r.status)
			}
			time.Sleep(3 * time.Second)
		}
		r := read() // at 30 s
		r.want(t, 429, "too.many.requests.retry.after")
		if r.header.Get("Retry-After") != "30" {
			t.Errorf("Retry-After %s", r.header.Get("Retry-After"))
		}
		want := `{"message":"Rate limit exceeded the maximum. Retry the request in [30] seconds","code":"too.many.requests.retry.after","status":429,"contextId":"` +
			r.header.Get("ININ-Correlation-Id") + `","details":[],"errors":[]}`
		if r.body != want {
			t.Errorf("%s\nwant %s", r.body, want)
		}
		time.Sleep(29*time.Second + time.Second/2) // 59.5 s: rounded up, so that waiting it out is enough
		if r := read(); r.status != 429 || r.header.Get("Retry-After") != "1" {
			t.Errorf("%d, Retry-After %s", r.status, r.header.Get("Retry-After"))
		}
		time.Sleep(time.Second / 2) // 60 s: the first has left, the refused ones never counted
		read().want(t, 200, "")
		read().want(t, 429, "too.many.requests.retry.after")
		if st := g.s.Stats(); st.Refused429 != 3 || st.MaxWindow60s != 13 {
			t.Errorf("%+v", st) // 1 token, 10 granted, 2 refused in the first 59.5 s, or 9 + 1 + 3
		}
	})
}

func TestAllPathsShareTheLimitAndTheTokenPathDoesNot(t *testing.T) {
	cfg := one()
	cfg.Limit = 4
	g := visit(t, cfg)
	g.get("/api/v2/users").want(t, 200, "")
	g.patch(emp1, "{}").want(t, 400, "invalidSyntax")
	g.get("/nowhere").want(t, 404, "not.found")
	g.do("PUT", "/api/v2/users", "").want(t, 405, "method.not.allowed")
	g.get("/api/v2/routing/skills").want(t, 429, "too.many.requests.retry.after")
	first := g.token
	g.signIn() // not refused, and the new token has its own limit
	g.get("/api/v2/users").want(t, 200, "")
	g.token = first
	g.get("/api/v2/users").want(t, 429, "too.many.requests.retry.after")
}

func TestTokensShareTheLimitWhereTheSwitchSaysSo(t *testing.T) {
	cfg := one()
	cfg.Limit, cfg.LimitShared = 2, true
	g := visit(t, cfg)
	g.get("/api/v2/users").want(t, 200, "")
	g.signIn()
	g.get("/api/v2/users").want(t, 200, "")
	g.get("/api/v2/users").want(t, 429, "too.many.requests.retry.after")
}

func TestTheLimitOfASecondIsASlidingOneToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := one()
		cfg.Limit, cfg.LimitPerSecond = 300, 5
		g := visit(t, cfg)
		for range 5 {
			g.get("/api/v2/users").want(t, 200, "")
			time.Sleep(100 * time.Millisecond)
		}
		r := g.get("/api/v2/users")
		r.want(t, 429, "too.many.requests.retry.after")
		if r.header.Get("Retry-After") != "1" {
			t.Errorf("Retry-After %s", r.header.Get("Retry-After"))
		}
		time.Sleep(500 * time.Millisecond)
		g.get("/api/v2/users").want(t, 200, "")
		g.get("/api/v2/users").want(t, 429, "too.many.requests.retry.after")
	})
}

func TestARefusedRequestMeetsNoFaultAndChangesNothing(t *testing.T) {
	cfg := one()
	cfg.Limit = 1
	g := visit(t, cfg)
	g.s.Inject(Fault{Kind: "500", Op: "patch"})
	g.get("/api/v2/users").want(t, 200, "")
	g.patch(emp1, setSkills("replace", "[]")).want(t, 429, "too.many.requests.retry.after")
	g.do("GET", "/api/v2/users", "", "Authorization", "Bearer x").want(t, 401, "bad.credentials")
	if f := g.s.Faults()[0]; f.Seen != 0 {
		t.Errorf("%+v", f)
	}
}

// The quota and the peak against a count by brute force.
func TestTheWindowsAgreeWithACount(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	const limit = 20
	q := newQuota(limit, 0)
	p := peak{span: time.Minute}
	var now time.Duration
	var admitted, arrived []time.Duration
	within := func(times []time.Duration) (n int) {
		for _, at := range times {
			if at > now-time.Minute {
				n++
			}
		}
		return n
	}
	most := 0
	for range 5000 {
		now += time.Duration(rng.IntN(8)) * time.Second
		wait := q.take(func() time.Duration { return now })
		if free := within(admitted) < limit; free != (wait == 0) {
			t.Fatalf("at %s: %d admitted in the window, wait %s", now, within(admitted), wait)
		}
		if wait == 0 {
			admitted = append(admitted, now)
		}
		arrived = append(arrived, now)
		p.add(now)
		if most = max(most, within(arrived)); p.max != most {
			t.Fatalf("at %s: peak %d, counted %d", now, p.max, most)
		}
	}
	if len(p.times) > 2*1024+limit {
		t.Errorf("the peak keeps %d times", len(p.times))
	}
}

func TestTheStatisticsSeeTokensInTheirWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := one()
		cfg.OAuthLimit = 1
		g := visit(t, cfg)
		for range 4 {
			g.postToken(url.Values{"grant_type": {"client_credentials"}}).want(t, 400, "invalid_request")
		}
		time.Sleep(time.Minute)
		g.get("/api/v2/users")
		if st := g.s.Stats(); st.MaxWindow60s != 5 || st.Requests != 6 || st.ByOp["token"] != 5 {
			t.Errorf("%+v", st)
		}
	})
}

func TestRetryAfterIsAlwaysEnough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := one()
		cfg.Limit = 3
		g := visit(t, cfg)
		for i := range 50 {
			r := g.get("/api/v2/users")
			if r.status == 429 {
				n, err := strconv.Atoi(r.header.Get("Retry-After"))
				if err != nil || n < 1 || n > 60 {
					t.Fatalf("Retry-After %q", r.header.Get("Retry-After"))
				}
				time.Sleep(time.Duration(n) * time.Second)
				g.get("/api/v2/users").want(t, 200, "")
			}
			time.Sleep(time.Duration(i*37%5000) * time.Millisecond)
		}
	})
}
