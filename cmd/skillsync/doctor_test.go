package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/rs/zerolog"

	"skillsync/cmd/skillsync/desk"
	"skillsync/genesys/sandbox"
	"skillsync/queue"
	"skillsync/queue/ratelimit"
)

// A page is what the doctor said, by the names of its checks.
type page map[string]check

// examined runs the doctor, and sees that its exit code is that of its findings and that it keeps
// secrets to itself.
func examined(t *testing.T, env []string, args ...string) page {
	t.Helper()
	out, errs, code := call(t, env, "", append([]string{"doctor", "--json"}, args...)...)
	var answer struct{ Checks []check }
	if err := json.Unmarshal([]byte(out), &answer); err != nil {
		t.Fatalf("%v in %s\n%s", err, out, errs)
	}
	p, want := page{}, 0
	for _, c := range answer.Checks {
		if _, twice := p[c.Name]; twice {
			t.Errorf("two checks are called %s", c.Name)
		}
		p[c.Name] = c
		if c.Status == checkFailed {
			want = exitFailed
		}
		if c.Status == checkFailed && c.Do == "" || c.Status == checkWarning && c.Do == "" || c.Status == checkOK && c.Do != "" || c.Found == "" || strings.Contains(c.Found+c.Do, "\n") {
			t.Errorf("not one line what was found, and one what to do: %+v", c)
		}
	}
	if code != want || errs != "" {
		t.Errorf("exit code %d, want %d; %s", code, want, errs)
	}
	if strings.Contains(out, "hush") || strings.Contains(out, "Jane") {
		t.Errorf("a secret or a value is shown: %s", out)
	}
	return p
}

// want sees that a check ended so, and that it says all of words.
func (p page) want(t *testing.T, name, status string, words ...string) {
	t.Helper()
	c, ok := p[name]
	if !ok || c.Status != status {
		t.Errorf("%s: %+v, want %s", name, c, status)
	}
	for _, w := range words {
		if !strings.Contains(c.Found+" / "+c.Do, w) {
			t.Errorf("%s does not say %q: %+v", name, w, c)
		}
	}
}

// wantAll sees that all checks but those named ended so.
func (p page) wantAll(t *testing.T, status string, but ...string) {
	t.Helper()
	for name := range p {
		if !strings.Contains(strings.Join(but, ","), name) {
			p.want(t, name, status)
		}
	}
}

func doctorOrg(t *testing.T) (*sandbox.Sandbox, string) {
	t.Helper()
	cfg := sandbox.Org(5)
	cfg.Limit = 300
	s := sandbox.New(cfg)
	return s, onPort(t, s)
}

func doctorBroker(t *testing.T) (*queue.Broker, string) {
	t.Helper()
	server, b := startBroker(t, queue.Topology{AckWait: 5 * time.Second})
	return b, server.URL()
}

func TestTheDoctorFindsNothingWhereNothingIsWrong(t *testing.T) {
	t.Parallel()
	b, url := doctorBroker(t)
	org, orgURL := doctorOrg(t)
	env := append(orgEnv(orgURL), "NATS_URL="+strings.Replace(url, "://", "://u:hush@", 1))
	p := examined(t, env)
	p.wantAll(t, checkOK, "sync to disk")
	p.want(t, "sync to disk", checkSkipped, "does not tell", "sync_interval: always")
	p.want(t, "connection", checkOK, url, "NATS "+natsserver.VERSION, "one server")
	p.want(t, "profile", checkOK, "routing-skills", "SCIM schemas")
	p.want(t, "fleet's limit", checkOK, "no worker")
	if len(p) != 20 {
		t.Errorf("%d checks", len(p))
	}

	kv, err := b.KV(t.Context(), queue.LimitsBucket)
	if err != nil {
		t.Fatal(err)
	}
	state, err := (&ratelimit.Bucket{Store: kv, Key: "sandbox"}).Read(t.Context())
	if paid, sent := state.Taken+state.TakenBefore, org.Stats().Requests; err != nil || sent == 0 || paid < sent {
		t.Errorf("%d requests, and %d paid from the fleet's budget, %v", sent, paid, err)
	}
	if org.Stats().Patches != 0 {
		t.Error("the doctor changed a user")
	}
}

func TestTheDoctorAsksTheServersHowTheySyncToDisk(t *testing.T) {
	t.Parallel()
	_, url := doctorBroker(t)
	_, orgURL := doctorOrg(t)
	monitored := func(jetStream, always bool) string {
		o := &natsserver.Options{Host: "127.0.0.1", Port: -1, HTTPHost: "127.0.0.1", HTTPPort: -1, NoSigs: true, NoLog: true, JetStream: jetStream, SyncAlways: always}
		if jetStream {
			o.StoreDir = t.TempDir()
		}
		return "http://" + natsServer(t, o).MonitorAddr().String()
	}
	always, seldom, without := monitored(true, true), monitored(true, false), monitored(false, false)
	for name, tt := range map[string]struct {
		urls, status string
		says         []string
		more         string // a variable
	}{
		"always":                 {always, checkOK, []string{"always, on 1 server"}, ""},
		"all of them":            {always + "," + always + "/", checkOK, []string{"always, on 2 servers"}, ""},
		"now and then":           {seldom, checkFailed, []string{"every 2m0s", seldom, "sync_interval: always"}, ""},
		"one of them":            {always + "," + seldom, checkFailed, []string{"every 2m0s", seldom}, ""},
		"three copies":           {seldom, checkWarning, []string{"every 2m0s"}, "SKILLSYNC_REPLICAS=3"},
		"a server without":       {without, checkWarning, []string{"without JetStream"}, ""},
		"another kind of server": {orgURL, checkWarning, []string{"not told", "NATS_MONITOR_URL"}, ""},
		"nobody":                 {"http://127.0.0.1:1", checkWarning, []string{"refused", "http: 8222"}, ""},
		"with a password":        {strings.Replace(seldom, "://", "://u:hush@", 1), checkFailed, []string{"every 2m0s", "u:xxxxx@"}, ""},
		"nonsense":               {"http://u:hush@[", checkWarning, []string{"no URL"}, ""},
		"no URL":                 {"nats:8222", checkWarning, []string{"NATS_MONITOR_URL"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			env := append(orgEnv(orgURL), "NATS_URL="+url, "NATS_MONITOR_URL="+tt.urls)
			if tt.more != "" {
				env = append(env, tt.more)
			}
			examined(t, env).want(t, "sync to disk", tt.status, tt.says...)
		})
	}
}

func TestTheDoctorReadsLikeAPage(t *testing.T) {
	t.Parallel()
	_, url := doctorBroker(t)
	_, orgURL := doctorOrg(t)
	out, _, code := call(t, append(orgEnv(orgURL), "NATS_URL="+url, "SKILLSYNC_LIMIT=500"), "", "doctor")
	at := 0
	for _, want := range []string{"Broker\n  ok ", "  skipped  sync to disk", " do: see that", "\n\nMapping\n", "\n\nGenesys Cloud\n", "failed   org's limit", " do: set SKILLSYNC_LIMIT=300", "\n\n18 ok, 0 warnings, 1 failed, 1 skipped\n"} {
		i := strings.Index(out[at:], want)
		if i < 0 {
			t.Fatalf("no %q, or not in its place: %s", want, out)
		}
		at += i
	}
	if code != exitFailed {
		t.Error("exit code", code)
	}
}

func TestTheDoctorTellsWhatIsWrongWithTheBroker(t *testing.T) {
	t.Parallel()
	_, orgURL := doctorOrg(t)
	with := func(url string) []string { return append(orgEnv(orgURL), "NATS_URL="+url) }
	brokers := []string{"JetStream", "sync to disk", "topology", "worker permissions", "operator permissions", "clock", "fleet's limit"}
	isSkipped := func(t *testing.T, p page, names ...string) {
		t.Helper()
		for _, name := range names {
			p.want(t, name, checkSkipped)
		}
	}
	t.Run("it is away", func(t *testing.T) {
		t.Parallel()
		p := examined(t, with("nats://u:hush@127.0.0.1:1"))
		p.want(t, "connection", checkFailed, "nats://127.0.0.1:1", "NATS_URL")
		isSkipped(t, p, brokers...)
		p.wantAll(t, checkOK, append(brokers, "connection")...) // the rest does not need it
	})
	t.Run("there is none", func(t *testing.T) {
		t.Parallel()
		p := examined(t, orgEnv(orgURL))
		p.want(t, "connection", checkFailed, "set NATS_URL")
		isSkipped(t, p, brokers...)
	})
	t.Run("JetStream is off", func(t *testing.T) {
		t.Parallel()
		p := examined(t, with(serveUsers(t, false)))
		p.want(t, "connection", checkOK)
		p.want(t, "JetStream", checkFailed, "off", "jetstream section")
		isSkipped(t, p, brokers[1:]...)
	})
	t.Run("it is not set up", func(t *testing.T) {
		t.Parallel()
		p := examined(t, with(serveBroker(t).URL()))
		p.want(t, "JetStream", checkOK)
		p.want(t, "topology", checkFailed, "stream EMPLOYEES does not exist", "and 5 more", "skillsync setup")
		isSkipped(t, p, "clock", "fleet's limit")
		p.want(t, "sign-in", checkOK)
	})
	t.Run("the topology differs", func(t *testing.T) {
		t.Parallel()
		_, url := doctorBroker(t)
		p := examined(t, with(url), "--ack-wait=30s")
		p.want(t, "topology", checkFailed, "consumer workers of EMPLOYEES: acknowledgement wait is 5s, should be 30s", "setup")
		p.wantAll(t, checkOK, "topology", "sync to disk")
	})
}

// serveUsers runs a broker whose users are an administrator, a worker and one who may do nothing,
// each with the password "hush".
func serveUsers(t *testing.T, jetStream bool) (url string) {
	t.Helper()
	publish, subscribe := queue.WorkerPermissions("_INBOX_worker")
	allow := func(publish, subscribe []string) *natsserver.Permissions {
		return &natsserver.Permissions{Publish: &natsserver.SubjectPermission{Allow: publish}, Subscribe: &natsserver.SubjectPermission{Allow: subscribe}}
	}
	o := &natsserver.Options{
		Host: "127.0.0.1", Port: -1, NoSigs: true, NoLog: true, JetStream: jetStream,
		Users: []*natsserver.User{
			{Username: "admin", Password: "hush"},
			{Username: "worker", Password: "hush", Permissions: allow(publish, subscribe)},
			{Username: "nobody", Password: "hush", Permissions: allow([]string{"nothing"}, []string{"_INBOX.>"})},
			{Username: "deaf", Password: "hush", Permissions: allow([]string{">"}, []string{"nothing"})},
		},
		NoAuthUser: "admin",
	}
	if jetStream {
		o.StoreDir = t.TempDir()
	}
	return natsServer(t, o).ClientURL()
}

func natsServer(t *testing.T, o *natsserver.Options) *natsserver.Server {
	t.Helper()
	s, err := natsserver.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("the broker does not start")
	}
	return s
}

func TestTheDoctorTellsWhatTheUserMayNot(t *testing.T) {
	t.Parallel()
	url := serveUsers(t, true)
	b, err := queue.Connect(t.Context(), queue.Config{URL: url, Wait: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	if _, err := b.Setup(t.Context(), queue.Topology{}); err != nil {
		t.Fatal(err)
	}
	_, orgURL := doctorOrg(t)
	as := func(user string) []string {
		return append(orgEnv(orgURL), "NATS_URL="+url, "NATS_USER="+user, "NATS_PASSWORD=hush")
	}
	t.Run("a worker", func(t *testing.T) {
		t.Parallel()
		p := examined(t, append(as("worker"), "NATS_INBOX_PREFIX=_INBOX_worker"))
		p.want(t, "worker permissions", checkOK)
		p.want(t, "operator permissions", checkSkipped, "worker's user", "$JS.API.STREAM.INFO.EMPLOYEES_AUDIT")
		p.want(t, "topology", checkOK, "may not look at the rest")
		p.wantAll(t, checkOK, "operator permissions", "sync to disk")
	})
	t.Run("one who may do nothing", func(t *testing.T) {
		t.Parallel()
		p := examined(t, as("nobody"))
		p.want(t, "worker permissions", checkFailed, "refused: $JS.API.STREAM.INFO.EMPLOYEES and ", "let the worker's user publish to $JS.API.STREAM.INFO.EMPLOYEES")
		p.want(t, "operator permissions", checkWarning, "refused: ")
		p.want(t, "topology", checkSkipped, "forbidden by the broker")
		p.want(t, "clock", checkSkipped)
		p.want(t, "sign-in", checkOK)
	})
	t.Run("one who gets no answers", func(t *testing.T) {
		t.Parallel()
		p := examined(t, as("deaf"))
		p.want(t, "JetStream", checkFailed, "forbidden by the broker", "_INBOX", "NATS_INBOX_PREFIX")
		p.want(t, "worker permissions", checkSkipped)
	})
	t.Run("a wrong password", func(t *testing.T) {
		t.Parallel()
		p := examined(t, append(orgEnv(orgURL), "NATS_URL="+url, "NATS_USER=worker", "NATS_PASSWORD=hush-hush"))
		p.want(t, "connection", checkFailed, "does not let us in", "NATS_USER")
	})
}

func TestTheDoctorTellsWhatIsWrongWithTheOrg(t *testing.T) {
	t.Parallel()
	_, url := doctorBroker(t)
	with := func(org string, more ...string) []string {
		return append(append(orgEnv(org), "NATS_URL="+url), more...)
	}
	faulty := func(t *testing.T, fault string) page {
		t.Helper()
		org, orgURL := doctorOrg(t)
		f, err := sandbox.ParseFault(fault)
		if err != nil {
			t.Fatal(err)
		}
		org.Inject(f)
		return examined(t, with(orgURL))
	}
	after := []string{"profile", "may read users", "may find users", "skills", "org's limit"}

	for name, look := range map[string]func(*testing.T){
		"the wrong secret": func(t *testing.T) {
			_, orgURL := doctorOrg(t)
			p := examined(t, with(orgURL, "GENESYS_CLIENT_SECRET=hush"))
			p.want(t, "sign-in", checkFailed, "401", "invalid_client", "GENESYS_CLIENT_SECRET")
			for _, name := range after {
				p.want(t, name, checkSkipped, "not signed in")
			}
			p.want(t, "API host", checkOK)
		},
		"no secret": func(t *testing.T) {
			_, orgURL := doctorOrg(t)
			p := examined(t, with(orgURL, "GENESYS_CLIENT_SECRET="))
			p.want(t, "OAuth client", checkFailed, "GENESYS_CLIENT_SECRET")
			p.want(t, "API host", checkOK)
			p.want(t, "sign-in", checkSkipped)
		},
		"an unknown region": func(t *testing.T) {
			p := examined(t, []string{"NATS_URL=" + url, "GENESYS_REGION=mars-north-1", "GENESYS_CLIENT_ID=x", "GENESYS_CLIENT_SECRET=hush"})
			p.want(t, "region", checkFailed, "mars-north-1", "eu-central-1", "GENESYS_REGION")
			p.want(t, "API host", checkSkipped)
			p.want(t, "sign-in", checkSkipped)
		},
		"nobody there": func(t *testing.T) {
			p := examined(t, with("http://127.0.0.1:1"))
			p.want(t, "API host", checkFailed, "127.0.0.1", "refused", "firewall")
			p.want(t, "sign-in", checkFailed, "no answer")
		},
		"a certificate that nobody trusts": func(t *testing.T) {
			p := examined(t, with(onTLS(t)))
			p.want(t, "API host", checkFailed, "certificate")
		},
		"a name that nobody has": func(t *testing.T) {
			p := examined(t, with("https://api.skillsync.invalid"))
			p.want(t, "API host", checkFailed, "no address of api.skillsync.invalid", "name server")
		},
		"the other contract": func(t *testing.T) {
			cfg := sandbox.Org(5)
			cfg.Serve = sandbox.CustomAttributes
			p := examined(t, with(onPort(t, sandbox.New(cfg))))
			p.want(t, "profile", checkOK, "custom-attributes", "404")
			p.want(t, "skills", checkSkipped, "no list of skills")
			p.want(t, "org's limit", checkSkipped, "does not tell its limits")
			p.wantAll(t, checkOK, "skills", "org's limit", "sync to disk")
		},
		"a profile that was set": func(t *testing.T) {
			_, orgURL := doctorOrg(t)
			examined(t, with(orgURL, "GENESYS_PROFILE=routing-skills")).want(t, "profile", checkOK, "set by GENESYS_PROFILE")
		},
		"no authority": func(t *testing.T) {
			_, orgURL := doctorOrg(t)
			examined(t, with(orgURL, "GENESYS_EXTERNAL_ID_AUTHORITY=")).want(t, "may find users", checkWarning, "GENESYS_EXTERNAL_ID_AUTHORITY")
		},
		"it may not list skills": func(t *testing.T) {
			p := faulty(t, "skills:403")
			p.want(t, "skills", checkFailed, "403", "missing.any.permissions", "give the OAuth client's role routing:skill:assign")
			p.wantAll(t, checkOK, "skills", "sync to disk")
		},
		"it may not read users": func(t *testing.T) {
			faulty(t, "read:403").want(t, "may read users", checkFailed, "403", "give the OAuth client's role")
		},
		"it may not find users": func(t *testing.T) {
			faulty(t, "find:403").want(t, "may find users", checkFailed, "403", "give the OAuth client's role")
		},
		"it may not read limits": func(t *testing.T) {
			faulty(t, "limits:403").want(t, "org's limit", checkSkipped, "may not read", "limits:organization:view")
		},
		"the org does not say": func(t *testing.T) {
			faulty(t, "schemas:503").want(t, "profile", checkFailed, "503", "GENESYS_PROFILE")
		},
		"a long refusal": func(t *testing.T) {
			_, ownURL := doctorBroker(t) // the fleet is paused by it
			org, orgURL := doctorOrg(t)
			org.Inject(sandbox.Fault{Op: "read", Kind: "429", RetryAfter: time.Hour})
			p := examined(t, append(orgEnv(orgURL), "NATS_URL="+ownURL))
			p.want(t, "may read users", checkFailed, "429", "skillsync limit")
			p.want(t, "may find users", checkFailed, "paused until", "skillsync limit")
			examined(t, append(orgEnv(orgURL), "NATS_URL="+ownURL)).want(t, "fleet's limit", checkWarning, "paused until", "limit resume")
			unknown := examined(t, append(orgEnv(orgURL), "NATS_URL="+ownURL, "GENESYS_CLIENT_ID="))
			unknown.want(t, "fleet's limit", checkSkipped, "no OAuth client") // rather than that nobody draws from it
		},
		"the limit is too high": func(t *testing.T) {
			_, ownURL := doctorBroker(t) // the first who pays tells the fleet its limit
			_, orgURL := doctorOrg(t)
			examined(t, append(orgEnv(orgURL), "NATS_URL="+ownURL, "SKILLSYNC_LIMIT=500")).want(t, "org's limit", checkFailed, "300", "500", "SKILLSYNC_LIMIT=300")
		},
		"the limit is too low": func(t *testing.T) {
			_, ownURL := doctorBroker(t) // the first who pays tells the fleet its limit
			_, orgURL := doctorOrg(t)
			examined(t, append(orgEnv(orgURL), "NATS_URL="+ownURL, "SKILLSYNC_LIMIT=200")).want(t, "org's limit", checkWarning, "300", "200")
		},
	} {
		t.Run(name, func(t *testing.T) { t.Parallel(); look(t) })
	}
}

// onTLS is an HTTPS server with a certificate of its own making.
func onTLS(t *testing.T) string {
	t.Helper()
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // it would complain of who does not trust it
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.URL
}

func TestTheDoctorTellsWhatIsWrongWithTheMapping(t *testing.T) {
	t.Parallel()
	_, url := doctorBroker(t)
	_, orgURL := doctorOrg(t)
	with := func(rules string) []string {
		return append(orgEnv(orgURL), "NATS_URL="+url, "SKILLSYNC_MAPPING="+write(t, "rules.yaml", rules))
	}
	p := examined(t, with("skills: [{skill: Tier 2 Suport, proficiency: 4, when: department == \"a\"}]\n"))
	p.want(t, "skills", checkFailed, `unknown skill "Tier 2 Suport" (did you mean "Tier 2 Support" or `, "create it in the org, or mend the mapping")
	p.want(t, "mapping tests", checkWarning, "there are none")

	p = examined(t, with("attributes: {department: department}\ntests:\n  - record: {employee_id: E1, department: Jane}\n    attributes: {department: Jane Doe}\n"))
	p.want(t, "mapping tests", checkFailed, "1 of 1 fail, the first in line 3", "skillsync mapping test")
	p.want(t, "skills", checkOK, "names none")

	p = examined(t, with("attributes:\n  department: departmnet\n"))
	p.want(t, "mapping", checkFailed, "rules.yaml:2", "departmnet")
	p.want(t, "mapping tests", checkSkipped, "no mapping")
	p.want(t, "skills", checkSkipped, "no mapping")
}

func TestTheDoctorComparesTheFleetsLimitWithItsOwn(t *testing.T) {
	t.Parallel()
	own := func(s ratelimit.State) check { return judgeBudget(desk.NewBudget("me", s, time.Now()), 300) }
	for name, tt := range map[string]struct {
		check
		status, says string
	}{
		"the same":            {own(ratelimit.State{Configured: 300}), checkOK, "as the workers are set to"},
		"another":             {own(ratelimit.State{Configured: 200}), checkWarning, "200 requests a minute, as the workers are set to; --limit is 300"},
		"an operator's":       {own(ratelimit.State{Configured: 300, Limit: 100}), checkWarning, "100 requests a minute, set by an operator; --limit is 300"},
		"an operator's equal": {own(ratelimit.State{Configured: 200, Limit: 300}), checkOK, "set by an operator"},
		"slowed":              {own(ratelimit.State{Configured: 300, Factor: .7, FactorAt: time.Now()}), checkWarning, "70 %"},
		"paused":              {own(ratelimit.State{Configured: 300, PausedUntil: time.Now().Add(time.Hour), Reason: "lunch"}), checkWarning, "lunch"},
	} {
		if tt.Status != tt.status || !strings.Contains(tt.Found, tt.says) {
			t.Errorf("%s: %+v", name, tt.check)
		}
	}
}

func TestAClockThatIsOffIsToldByHowMuch(t *testing.T) {
	t.Parallel()
	for offset, want := range map[time.Duration]check{
		4 * time.Millisecond:     {Status: checkOK, Found: "the broker's and this machine's agree"},
		900 * time.Millisecond:   {Status: checkOK, Found: "the broker's is 900ms ahead of this machine's"},
		-1500 * time.Millisecond: {Status: checkWarning, Found: "the broker's is 1.5s behind this machine's"},
		5 * time.Second:          {Status: checkWarning, Found: "the broker's is 5s ahead of this machine's"},
		-time.Hour:               {Status: checkFailed, Found: "the broker's is 1h0m0s behind this machine's"},
	} {
		if got := clockOff(offset); got.Status != want.Status || got.Found != want.Found {
			t.Errorf("%s: %+v", offset, got)
		}
	}
}

func TestSettingUpIsShownBeforeItIsDone(t *testing.T) {
	t.Parallel()
	broker := serveBroker(t)
	dry := func(args ...string) (string, int) {
		out, errs, code := call(t, []string{"NATS_URL=" + broker.URL()}, "", append([]string{"setup"}, args...)...)
		if errs != "" {
			t.Error(errs)
		}
		return out, code
	}
	for range 2 { // it changes nothing
		if out, code := dry("--dry-run"); code != exitFailed || strings.Count(out, "would be created") != 8 {
			t.Errorf("%d, %s", code, out)
		}
	}
	if out, code := dry("--json"); code != 0 || !strings.Contains(out, `{"changes":[{"of":"stream EMPLOYEES"},`) {
		t.Errorf("%d, %s", code, out)
	}
	if out, code := dry("--dry-run"); code != 0 || out != asItShouldBe+"\n" {
		t.Errorf("%d, %s", code, out)
	}
	if out, code := dry("--dry-run", "--ack-wait=30s"); code != exitFailed || out != "consumer workers of EMPLOYEES: acknowledgement wait would be changed from 1m0s to 30s\n" {
		t.Errorf("%d, %s", code, out)
	}
	want := `{"differences":[{"of":"consumer workers of EMPLOYEES","setting":"acknowledgement wait","is":"1m0s","want":"30s","changeable":true}]}` + "\n"
	if out, code := dry("--dry-run", "--ack-wait=30s", "--json"); code != exitFailed || out != want {
		t.Errorf("%d, %s", code, out)
	}
}

func TestWhatCannotBeChangedIsNotPromised(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	d := []queue.Difference{{Of: "stream EMPLOYEES", Setting: "retention", Is: "limits", Want: "workqueue"}}
	if err := writeDifferences(&out, d); err != nil || strings.Contains(out.String(), "would be") || !strings.Contains(out.String(), "retention is limits, should be workqueue, which the broker does not change") {
		t.Errorf("%v, %s", err, out.String())
	}
	if !strings.Contains(driftAdvice(d), "delete stream EMPLOYEES") {
		t.Error(driftAdvice(d))
	}
}

func TestTheDoctorEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	p := &program{ctx: ctx, out: &bytes.Buffer{}, err: &bytes.Buffer{}, log: zerolog.Nop()}
	if err := (doctorCmd{brokerFlags: brokerFlags{Store: t.TempDir()}}).Run(p); err == nil {
		t.Error("it goes on after Ctrl-C")
	}
}
