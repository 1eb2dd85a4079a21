package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"skillsync/genesys/sandbox"
	"skillsync/queue"
	"skillsync/queue/queuetest"
)

// get reads JSON from the sandbox's control surface.
func get(t testing.TB, url string, into any) {
	t.Helper()
	res, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: %s %v", url, res.Status, err)
	}
	if err := json.Unmarshal(body, into); err != nil {
		t.Fatalf("GET %s: %v", url, err)
	}
}

func sandboxProcess(t *testing.T, flags ...string) (url string) {
	t.Helper()
	p := start(t, nil, append([]string{"sandbox", "--address", "127.0.0.1:0"}, flags...)...)
	return p.await(`^sandbox Genesys Cloud at (\S+) `)[1]
}

// A batch is 2,000 records and what they must come to.
type batch struct {
	file   string
	newest map[string]string // employee: department of the newest record
	dead   int
}

var departments = map[string]string{"Support-Tier2": "Tier 2 Support", "Billing": "Billing", "Sales": "Sales"}

// write makes the file: 1,480 employees, 400 of them a second time with a newer record and 80 of
// them with an older one, and 40 employees nobody knows. Most carry their user id, so that the
// run is about patches and reads.
func writeBatch(t *testing.T) batch {
	b := batch{file: filepath.Join(t.TempDir(), "employees.csv"), newest: map[string]string{}}
	names := []string{"Support-Tier2", "Billing", "Sales"}
	var csv strings.Builder
	csv.WriteString("employee_id;user_id;department;updated_at\n")
	row := func(id, department string, minute int) {
		user := ""
		if minute%5 > 0 {
			user = sandbox.UserID(id)
		}
		fmt.Fprintf(&csv, "%s;%s;%s;2026-11-23T%02d:%02d:00Z\n", id, user, department, 10+minute/60%10, minute%60)
	}
	emp := func(i int) string { return fmt.Sprintf("EMP-%04d", i+200) } // behind the sample's special ones
	for i := 1; i <= 1480; i++ {
		b.newest[emp(i)] = names[i%3]
		row(emp(i), names[i%3], i%600)
	}
	for i := 1; i <= 400; i++ {
		b.newest[emp(i)] = names[(i+1)%3]
		fmt.Fprintf(&csv, "%s;%s;%s;2026-11-24T00:00:00Z\n", emp(i), sandbox.UserID(emp(i)), names[(i+1)%3])
	}
	for i := 401; i <= 480; i++ {
		fmt.Fprintf(&csv, "%s;%s;%s;2020-01-01\n", emp(i), sandbox.UserID(emp(i)), names[(i+2)%3])
	}
	for i := 1; i <= 40; i++ {
		fmt.Fprintf(&csv, "TMP-%03d;;Billing;2026-11-23\n", i)
		b.dead++
	}
	if err := os.WriteFile(b.file, []byte(csv.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return b
}

// The whole program as processes: sandbox, broker, three workers and 2,000 records; one worker is
// killed in the middle and started again.
func TestThreeWorkersOneKilledEveryRecordEndsOnceNewestWinsTheLimitHolds(t *testing.T) {
	t.Parallel()
	const records, limit = 2000, 3600
	server, b := startBroker(t, queue.Topology{AckWait: 5 * time.Second})
	org := sandboxProcess(t, "--users=1680", fmt.Sprint("--limit=", limit), "--read-lag=300ms", "--patch-latency=5ms", "--read-latency=2ms")

	rules := filepath.Join(t.TempDir(), "mapping.yaml")
	if err := os.WriteFile(rules, []byte(testRules), 0o600); err != nil {
		t.Fatal(err)
	}
	env := append(orgEnv(org), "NATS_URL="+server.URL(), "SKILLSYNC_MAPPING="+rules, fmt.Sprint("SKILLSYNC_LIMIT=", limit), "SKILLSYNC_SETTLE=400ms")
	work := writeBatch(t)
	out, errs, code := call(t, env, "", "publish", work.file)
	if code != 0 || !strings.Contains(out, "2000 published") {
		t.Fatalf("publish: exit code %d\n%s%s", code, out, errs)
	}
	if out, errs, code = call(t, env, "", "publish", work.file); code != 0 || !strings.Contains(out, "0 published") {
		t.Errorf("publish again: exit code %d\n%s%s", code, out, errs)
	}

	var workers []*process
	for range 3 {
		workers = append(workers, start(t, env, "worker"))
	}
	var kill sync.Once
	results := settled(t, b, records, 4*time.Minute, func(done int) {
		if done >= records/3 {
			kill.Do(func() {
				workers[0].signal(syscall.SIGKILL)
				workers[0].end(10 * time.Second)
				workers[0] = start(t, env, "worker")
			})
		}
	})

	got := count(results)
	t.Logf("outcomes %v", got)
	if got["user_not_found"] != work.dead || got["verified"]+got["unchanged"]+got["superseded"] != records-work.dead {
		t.Errorf("outcomes %v", got)
	}
	if got["superseded"] < 400 {
		t.Errorf("%d superseded; 400 records have a newer one behind them in the stream", got["superseded"])
	}
	if status := emptied(t, b); status.Dead["user_not_found"] != uint64(work.dead) {
		t.Errorf("in the end: %+v", status)
	}
	for employee, department := range work.newest {
		var user sandbox.User
		get(t, org+"/_sandbox/users/"+employee, &user)
		if !strings.Contains(fmt.Sprint(user.Skills), departments[department]) || strings.Contains(fmt.Sprint(user.Skills), "{Tier 1") {
			t.Errorf("%s has %v, its newest record says %s", employee, user.Skills, department)
		}
		for other, skill := range departments {
			if other != department && strings.Contains(fmt.Sprint(user.Skills), skill) {
				t.Errorf("%s still has %s, its newest record says %s", employee, skill, department)
			}
		}
	}
	var stats sandbox.Stats
	get(t, org+"/_sandbox/stats", &stats)
	t.Logf("%d requests, at most %d in 60 s of %d, %v", stats.Requests, stats.MaxWindow60s, limit, stats.ByOp)
	if stats.MaxWindow60s > limit || stats.Refused429 > 0 {
		t.Errorf("at most %d requests in 60 s, %d allowed; %d refused", stats.MaxWindow60s, limit, stats.Refused429)
	}
	for _, w := range workers {
		w.signal(syscall.SIGTERM)
	}
	for _, w := range workers {
		if code := w.end(30 * time.Second); code != 0 {
			t.Errorf("a worker ended with %d:\n%s", code, tail(w.output(), 2000))
		}
		if strings.Contains(w.output(), "DATA RACE") {
			t.Errorf("data race:\n%s", tail(w.output(), 4000))
		}
	}
}

// patchedOrg is a sandbox in this process that tells when n patches have been stored.
func patchedOrg(t *testing.T, cfg sandbox.Config, n int) (url string, stored <-chan struct{}) {
	t.Helper()
	org := sandbox.New(cfg)
	reached := make(chan struct{})
	var once sync.Once
	return onPort(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		org.ServeHTTP(w, r)
		if org.Stats().Patches >= n {
			once.Do(func() { close(reached) })
		}
	})), reached
}

func await(t *testing.T, what string, happened <-chan struct{}) {
	t.Helper()
	select {
	case <-happened:
	case <-time.After(time.Minute):
		t.Fatalf("no %s in a minute", what)
	}
}

func publishAll(t *testing.T, env []string, employees int) {
	t.Helper()
	var records strings.Builder
	for i := 1; i <= employees; i++ {
		fmt.Fprintf(&records, `{"employee_id":"EMP-%04d","department":"Support-Tier2"}`+"\n", i)
	}
	if _, errs, code := call(t, env, records.String(), "publish", "-"); code != 0 {
		t.Fatalf("publish: exit code %d: %s", code, errs)
	}
}

func TestSIGKILLToOneOfTwoWorkersIsMadeGoodOneLeaseLater(t *testing.T) {
	t.Parallel()
	const lease = 4 * time.Second
	server, b := startBroker(t, queue.Topology{AckWait: lease})
	cfg := sandbox.Org(100)
	cfg.ReadLag = time.Second
	org, half := patchedOrg(t, cfg, 50)
	env := append(orgEnv(org), "NATS_URL="+server.URL(), "SKILLSYNC_LIMIT=0", "SKILLSYNC_SETTLE=2s")
	victim := start(t, env, "worker")
	victim.await("fetching records")
	publishAll(t, env, 100)
	await(t, "50 patches", half) // and none of them can be verified yet
	killed := time.Now()
	victim.signal(syscall.SIGKILL)
	start(t, env, "worker")
	got := count(settled(t, b, 100, time.Minute, nil))
	if got["verified"]+got["unchanged"] != 100 { // unchanged: killed between the patch and the note of it
		t.Errorf("outcomes %v", got)
	}
	if took := time.Since(killed); took > lease+20*time.Second {
		t.Errorf("all done %s after the kill; the lease is %s", took, lease)
	}
}

// The process that is killed is a worker and the broker of all: everything that was acknowledged
// must be on its disk.
func TestSIGKILLToTheBrokerLosesAndRepeatsNothing(t *testing.T) {
	t.Parallel()
	cfg := sandbox.Org(300)
	cfg.ReadLag = 300 * time.Millisecond
	org, some := patchedOrg(t, cfg, 60)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	ln.Close()
	env := append(orgEnv(org), "SKILLSYNC_LIMIT=0", "SKILLSYNC_SETTLE=200ms", "SKILLSYNC_ACK_WAIT=4s")
	own := append(append([]string{}, env...), "SKILLSYNC_STORE="+filepath.Join(t.TempDir(), "store"), "SKILLSYNC_NATS_LISTEN="+addr)
	env = append(env, "NATS_URL=nats://"+addr)

	broker := start(t, own, "worker")
	broker.await("fetching records")
	start(t, env, "worker").await("fetching records")
	publishAll(t, env, 300)
	await(t, "60 patches", some)
	broker.signal(syscall.SIGKILL)
	broker.end(10 * time.Second)
	start(t, own, "worker").await("fetching records")

	b := queuetest.Connect(t, "nats://"+addr)
	got := count(settled(t, b, 300, 2*time.Minute, nil))
	if got["verified"]+got["unchanged"] != 300 {
		t.Errorf("outcomes %v", got)
	}
	if status := emptied(t, b); len(status.Dead) != 0 {
		t.Errorf("in the end: %+v", status)
	}
}

func TestSIGTERMEndsAWorkerProcessWithinItsGraceWithEveryRecordBackInTheQueue(t *testing.T) {
	t.Parallel()
	server, b := startBroker(t, queue.Topology{AckWait: 30 * time.Second})
	cfg := sandbox.Org(20)
	cfg.ReadLag = time.Hour // nothing will ever be verified
	org, all := patchedOrg(t, cfg, 20)
	env := append(orgEnv(org), "NATS_URL="+server.URL(), "SKILLSYNC_LIMIT=0", "SKILLSYNC_SETTLE=1s", "SKILLSYNC_GRACE=2s")
	w := start(t, env, "worker")
	w.await("fetching records")
	publishAll(t, env, 20)
	await(t, "20 patches", all)
	w.signal(syscall.SIGTERM)
	if code := w.end(10 * time.Second); code != 0 {
		t.Errorf("exit code %d", code)
	}
	wantFree(t, b, 20)
}

func TestASecondSignalEndsAWorkerProcessAtOnce(t *testing.T) {
	t.Parallel()
	server, _ := startBroker(t, queue.Topology{AckWait: 30 * time.Second})
	cfg := sandbox.Org(20)
	cfg.ReadLag = time.Hour
	org, all := patchedOrg(t, cfg, 20)
	env := append(orgEnv(org), "NATS_URL="+server.URL(), "SKILLSYNC_LIMIT=0", "SKILLSYNC_GRACE=10m")
	w := start(t, env, "worker")
	w.await("fetching records")
	publishAll(t, env, 20)
	await(t, "20 patches", all)
	w.signal(syscall.SIGTERM)
	w.await("draining") // two signals in one moment can be one
	w.signal(syscall.SIGTERM)
	if code := w.end(5 * time.Second); code != 130 {
		t.Errorf("exit code %d", code)
	}
}

// wantFree sees that n records can be had at once: no lease has to lapse first.
func wantFree(t *testing.T, b *queue.Broker, n int) {
	t.Helper()
	q, err := b.Queue(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []*queue.Delivery
	if _, err := q.Fetch(t.Context(), n+1, 2*time.Second, func(d *queue.Delivery) { got = append(got, d) }); err != nil {
		t.Fatal(err)
	}
	if len(got) != n {
		t.Errorf("%d records are free, want %d", len(got), n)
	}
	for _, d := range got {
		if err := d.Retry(t.Context(), 0); err != nil {
			t.Error(err)
		}
	}
}

func TestTheDemoDoesTheWholeJob(t *testing.T) {
	t.Parallel()
	out, errs, code := call(t, nil, "", "demo", "--exit", "--json", "--limit=6000", "--listen=127.0.0.1:0")
	if code != exitDeadLetters {
		t.Fatalf("exit code %d\n%s", code, errs)
	}
	var s summary
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		t.Fatalf("%v in %q", err, out)
	}
	want := summary{
		Published: 196, Rejected: 4, Verified: 146, Unchanged: 25, Superseded: 15,
		Dead: map[string]int{"user_not_found": 6, "unverified": 4}, Limit: 6000,
		Requests: s.Requests, MaxWindow: s.MaxWindow, Seconds: s.Seconds,
	}
	if fmt.Sprint(s) != fmt.Sprint(want) {
		t.Errorf("summary %+v\nwant    %+v", s, want)
	}
	if s.Requests < 150 || s.MaxWindow > s.Limit || s.MaxWindow < 1 || s.Seconds <= 0 {
		t.Errorf("summary %+v", s)
	}
	for _, text := range []string{"employees.csv:34: rejected: employee_id: is missing", "196 published, 4 rejected"} {
		if !strings.Contains(errs, text) {
			t.Errorf("standard error lacks %q:\n%s", text, errs)
		}
	}
}
