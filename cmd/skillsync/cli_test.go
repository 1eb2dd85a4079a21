package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"skillsync/genesys/sandbox"
	"skillsync/queue"
)

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Whatever a person gets wrong, the program says what happened, to what, and what to do next.
func TestBadInputGetsAClearErrorAndTheRightExitCode(t *testing.T) {
	t.Parallel()
	server, _ := startBroker(t, queue.Topology{})
	org := httptest.NewServer(sandbox.New(sandbox.Org(10)))
	t.Cleanup(org.Close)
	env := append(orgEnv(org.URL), "NATS_URL="+server.URL())
	with := func(more ...string) []string { return append(append([]string{}, env...), more...) }
	good := `{"employee_id":"EMP-0001","department":"Support-Tier2"}`
	reserved, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := reserved.Addr().String()
	reserved.Close()

	for _, row := range []struct {
		name  string
		env   []string
		args  []string
		stdin string
		code  int
		want  []string
	}{
		{"no command", env, nil, "", exitMisuse, []string{"expected one of"}},
		{"an unknown command", env, []string{"frobnicate"}, "", exitMisuse, []string{"frobnicate"}},
		{"an unknown flag", env, []string{"worker", "--frobnicate"}, "", exitMisuse, []string{"--frobnicate"}},
		{"no credentials", []string{"NATS_URL=" + server.URL()}, []string{"worker"}, "", exitMisuse, []string{"GENESYS_CLIENT_ID", "GENESYS_CLIENT_SECRET"}},
		{"a secret and its file", with("GENESYS_CLIENT_SECRET_FILE=/x"), []string{"worker"}, "", exitMisuse, []string{"both set"}},
		{"a secret file that is not there", []string{"GENESYS_CLIENT_ID=x", "GENESYS_CLIENT_SECRET_FILE=/nowhere/secret"}, []string{"apply", "-"}, good, exitMisuse, []string{"GENESYS_CLIENT_SECRET_FILE", "/nowhere/secret"}},
		{"an unknown region", []string{"GENESYS_CLIENT_ID=x", "GENESYS_CLIENT_SECRET=y", "GENESYS_REGION=mars-north-1"}, []string{"apply", "-"}, good, exitMisuse, []string{"GENESYS_REGION", "mars-north-1", "eu-central-1"}},
		{"a wrong secret", with("GENESYS_CLIENT_SECRET=wrong"), []string{"apply", "-"}, good, exitFailed, []string{"invalid_client", "401"}},
		{"an unknown profile", with("GENESYS_PROFILE=soap"), []string{"apply", "-"}, good, exitMisuse, []string{"soap"}},
		{"no broker", nil, []string{"status"}, "", exitMisuse, []string{"NATS_URL", "skillsync worker"}},
		{"a broker that does not answer", []string{"NATS_URL=nats://user:hush@" + nobody}, []string{"status"}, "", exitFailed, []string{"cannot reach the broker", nobody}},
		{"a broker that is not set up", []string{"NATS_URL=" + serveBroker(t).URL()}, []string{"status"}, "", exitFailed, []string{"skillsync setup"}},
		{"a mapping that is not there", with("SKILLSYNC_MAPPING=/nowhere/mapping.yaml"), []string{"worker"}, "", exitMisuse, []string{"/nowhere/mapping.yaml"}},
		{"an unknown key in the mapping", with("SKILLSYNC_MAPPING=" + write(t, "m.yaml", "attributes: {department: department}\nskilz: []\n")), []string{"worker"}, "", exitMisuse, []string{"m.yaml:2", "skilz"}},
		{"a field that no record can have", env, []string{"mapping", "test", write(t, "m.yaml", "attributes:\n  department: departmnet\n")}, "", exitFailed, []string{"m.yaml:2", "attributes.department", "departmnet", `"department"`}},
		{"a mapping whose test fails", env, []string{"mapping", "test", write(t, "m.yaml", "skills: [{skill: A, proficiency: 1, when: department == \"a\"}]\ntests:\n  - record: {employee_id: E1, department: b}\n    skills: {A: 1}\n")}, "", exitFailed, []string{"1 failed", "A"}},

		{"apply: malformed JSON", env, []string{"apply", "-"}, `{"employee_id":`, exitFailed, []string{"standard input", "record"}},
		{"apply: a wrong type", env, []string{"apply", "-"}, `{"employee_id":8842}`, exitFailed, []string{"employee_id", "string"}},
		{"apply: a body of 1 MiB", env, []string{"apply", "-"}, `{"employee_id":"E1","x":"` + strings.Repeat("x", 1<<20) + `"}`, exitFailed, []string{"64 KiB"}},
		{"apply: a user id that is no UUID", env, []string{"apply", "-", "--user-id=../../x"}, good, exitFailed, []string{"UUID"}},
		{"apply: nobody of that id", env, []string{"apply", "-"}, `{"employee_id":"EMP-9999","department":"Support-Tier2"}`, exitFailed, []string{"EMP-9999", "404"}},
		{"apply: no such file", env, []string{"apply", "/nowhere/record.json"}, "", exitMisuse, []string{"/nowhere/record.json"}},

		{"publish: no such file", env, []string{"publish", "/nowhere/x.csv"}, "", exitFailed, []string{"/nowhere/x.csv", "no such file"}},
		{"publish: an empty file", env, []string{"publish", write(t, "empty.csv", "")}, "", exitFailed, []string{"empty.csv", "empty"}},
		{"publish: a CSV without employee_id", env, []string{"publish", write(t, "x.csv", "name;department\nJane;Sales\n")}, "", exitFailed, []string{"employee_id", "name"}},
		{"publish: malformed JSON Lines", env, []string{"publish", write(t, "x.jsonl", good+"\n{\"employee_id\":\n"+good+"\n")}, "", exitFailed, []string{"x.jsonl:2: rejected", "2 published, 1 rejected"}},
		{"publish: a line of 1 MiB", env, []string{"publish", "-"}, good + "\n" + `{"employee_id":"E1","x":"` + strings.Repeat("x", 1<<20) + `"}` + "\n" + good + "\n", exitFailed, []string{"standard input:2: rejected", "1 rejected"}},
		{"publish: BOM and semicolons", env, []string{"publish", write(t, "bom.csv", "\ufeffEmployee ID;Department\r\nEMP-0001;Sales\r\n;Sales\r\nEMP-0002;\"Support; Tier 2\"\r\n")}, "", exitFailed, []string{"bom.csv:3: rejected: employee_id: is missing", "2 published, 1 rejected"}},

		{"dlq replay without a selection", env, []string{"dlq", "replay"}, "", exitMisuse, []string{"--all"}},
		{"dlq replay of what and all", env, []string{"dlq", "replay", "1", "--all"}, "", exitMisuse, []string{"not both"}},
		{"console: an address that others can reach", env, []string{"console", "--address=:0"}, "", exitMisuse, []string{"SKILLSYNC_CONSOLE_TOKEN_FILE", "127.0.0.1:8788"}},
		{"console: no address at all", env, []string{"console", "--address=here"}, "", exitMisuse, []string{"--address", "127.0.0.1:8788"}},
		{"dlq show of what is not there", env, []string{"dlq", "show", "99"}, "", exitFailed, []string{"99", "not found"}},
		{"sandbox with a fault nobody knows", nil, []string{"sandbox", "--fault=patch:explode"}, "", exitMisuse, []string{"explode", "reset-after"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			out, errs, code := call(t, row.env, row.stdin, row.args...)
			if code != row.code {
				t.Errorf("exit code %d, want %d", code, row.code)
			}
			for _, want := range row.want {
				if !strings.Contains(errs+out, want) {
					t.Errorf("nothing says %q", want)
				}
			}
			if strings.Contains(errs+out, "hush") || strings.Contains(errs+out, "Jane") {
				t.Error("a secret or a value is shown")
			}
			if t.Failed() {
				t.Logf("%s\n%s", tail(out, 2000), tail(errs, 2000))
			}
		})
	}
}

func TestTheVersionIsToldHoweverOneAsks(t *testing.T) {
	t.Parallel()
	for _, ask := range []string{"version", "--version"} {
		if out, errs, code := call(t, []string{"SKILLSYNC_VERSION=1"}, "", ask); code != 0 || out != version()+"\n" {
			t.Errorf("%s: exit code %d, %q\n%s", ask, code, out, errs)
		}
	}
}

func TestApplyShowsEveryStepAndSucceedsOnlyWhenVerified(t *testing.T) {
	t.Parallel()
	for _, profile := range []string{sandbox.RoutingSkills, sandbox.CustomAttributes} {
		t.Run(profile, func(t *testing.T) {
			t.Parallel()
			cfg := sandbox.Org(20)
			cfg.Serve, cfg.ReadLag = profile, 300*time.Millisecond
			cfg.Users[1].Drop = true
			org := sandbox.New(cfg)
			env := append(orgEnv(onPort(t, org)), "SKILLSYNC_SETTLE=100ms", "SKILLSYNC_VERIFY_TIMEOUT=2s")
			record := `{"employee_id":"EMP-0007","department":"Support-Tier2"}`
			out, errs, code := call(t, env, record, "apply", "-")
			if code != 0 {
				t.Fatalf("exit code %d\n%s%s", code, out, errs)
			}
			at := 0
			for _, step := range []string{"record ", "sign in ", "find ", "plan ", "patch ", "settle ", "verify ", "verified "} {
				i := strings.Index(out[at:], step)
				if i < 0 {
					t.Fatalf("step %q is missing, or out of place:\n%s", step, out)
				}
				at += i
			}
			if u, _ := org.User("EMP-0007"); fmt.Sprint(u.Skills) != "[{Spanish 3} {Tier 2 Support 4}]" {
				t.Errorf("the user has %v", u.Skills)
			}

			var result applied
			out, errs, code = call(t, env, `{"employee_id":"EMP-0002","department":"Support-Tier2"}`, "apply", "-", "--json")
			if err := json.Unmarshal([]byte(out), &result); err != nil || code != exitFailed || result.Outcome != "failed" {
				t.Errorf("a patch that stored nothing: exit code %d, %v\n%s%s", code, err, out, errs)
			}

			byID := append(env, "GENESYS_USER_ID="+sandbox.UserID("EMP-0003"))
			out, errs, code = call(t, byID, `{"employee_id":"NOT-IN-THE-ORG","department":"Support-Tier2"}`, "apply", "-", "--json")
			if err := json.Unmarshal([]byte(out), &result); err != nil || code != 0 || result.UserID != sandbox.UserID("EMP-0003") || result.Requests == 0 {
				t.Errorf("by user id: exit code %d, %v\n%s%s", code, err, out, errs)
			}
		})
	}
}

func TestTheStandaloneWorkerBringsABrokerThatOtherCommandsFind(t *testing.T) {
	t.Parallel()
	org := sandboxProcess(t, "--limit=0", "--read-lag=0s")
	env := append(orgEnv(org), "SKILLSYNC_STORE="+filepath.Join(t.TempDir(), "store"), "SKILLSYNC_LIMIT=0", "SKILLSYNC_SETTLE=10ms",
		"SKILLSYNC_NATS_LISTEN=127.0.0.1:0", "SKILLSYNC_VERIFY_TIMEOUT=1s", "SKILLSYNC_ATTEMPTS=1")
	first := start(t, env, "worker")
	first.await("fetching records")
	second := start(t, env, "worker") // in the same folder: it uses the broker of the first
	second.await("another process runs the broker")
	second.await("fetching records")

	records := `{"employee_id":"EMP-0001","department":"Support-Tier2"}` + "\n" + `{"employee_id":"TMP-1","department":"Support-Tier2"}` + "\n"
	out, errs, code := call(t, env, records, "publish", "-", "--json")
	var p publication
	if err := json.Unmarshal([]byte(out), &p); err != nil || code != 0 || p.Published != 2 {
		t.Fatalf("publish: exit code %d, %v\n%s%s", code, err, out, errs)
	}
	var status queue.Status
	for began := time.Now(); status.Results[queue.OutcomeVerified] != 1 || status.Dead["user_not_found"] != 1; {
		out, errs, code = call(t, env, "", "status", "--json")
		if err := json.Unmarshal([]byte(out), &status); err != nil || code != 0 {
			t.Fatalf("status: exit code %d, %v\n%s%s", code, err, out, errs)
		}
		if time.Since(began) > time.Minute {
			t.Fatalf("after a minute: %+v", status)
		}
	}

	out, _, code = call(t, env, "", "dlq", "ls")
	if code != 0 || !strings.Contains(out, "1 dead letter: user_not_found 1") || !strings.Contains(out, "TMP-1") {
		t.Errorf("dlq ls: exit code %d\n%s", code, out)
	}
	out, _, code = call(t, env, "", "dlq", "show", "1")
	if code != 0 || !strings.Contains(out, "user_not_found (permanent)") || strings.Contains(out, "Support-Tier2") {
		t.Errorf("dlq show: exit code %d\n%s", code, out)
	}
	if out, _, _ = call(t, env, "", "dlq", "show", "1", "--values", "--json"); !strings.Contains(out, `"department":"Support-Tier2"`) {
		t.Errorf("dlq show --values: %s", out)
	}
	if out, errs, code = call(t, env, "7\n", "dlq", "replay", "--all"); code == 0 || !strings.Contains(errs, "nothing was done") {
		t.Errorf("a wrong count: exit code %d\n%s%s", code, out, errs)
	}
	if out, errs, code = call(t, env, "1\n", "dlq", "replay", "--all", "--reason=user_not_found"); code != 0 || !strings.Contains(out, "1 replayed") {
		t.Errorf("dlq replay: exit code %d\n%s%s", code, out, errs)
	}
	for began := time.Now(); ; { // it fails again, and is listed with its replay
		out, _, _ = call(t, env, "", "dlq", "ls", "--json")
		var d queue.DeadLetter
		if json.Unmarshal([]byte(out), &d) == nil && d.Replays == 1 {
			if out, errs, code = call(t, env, "", "dlq", "drop", "--yes", fmt.Sprint(d.Sequence)); code != 0 || !strings.Contains(out, "1 dropped") {
				t.Errorf("dlq drop: exit code %d\n%s%s", code, out, errs)
			}
			break
		}
		if time.Since(began) > time.Minute {
			t.Fatalf("the replayed record did not come back:\n%s", out)
		}
	}
	if out, _, _ = call(t, env, "", "dlq", "ls"); !strings.Contains(out, "no dead letters") {
		t.Errorf("dlq ls in the end:\n%s", out)
	}
	second.signal(syscall.SIGTERM)
	second.end(30 * time.Second)
	first.signal(syscall.SIGTERM)
	if code := first.end(30 * time.Second); code != 0 {
		t.Errorf("the worker with the broker ended with %d", code)
	}
}

func TestAWorkerWaitsForItsBrokerAndSaysSo(t *testing.T) {
	t.Parallel()
	org := sandboxProcess(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	ln.Close()
	w := start(t, append(orgEnv(org), "NATS_URL=nats://"+addr), "worker")
	ready := w.await(`"address":"(http://[^"]+)"`)[1] + "/readyz"
	w.await("waiting for the broker")
	res, err := http.Get(ready)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("readyz says %s without a broker", res.Status)
	}
	server := serveBrokerAt(t, addr)
	w.await(`waiting for .*skillsync setup`)
	if _, errs, code := call(t, []string{"NATS_URL=" + server.URL()}, "", "setup"); code != 0 {
		t.Fatalf("setup: exit code %d: %s", code, errs)
	}
	w.await("fetching records")
	for began := time.Now(); ; {
		res, err := http.Get(ready)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode == http.StatusOK {
			break
		}
		if time.Since(began) > 30*time.Second {
			t.Fatalf("readyz still says %s", res.Status)
		}
	}
	w.signal(syscall.SIGTERM)
	if code := w.end(30 * time.Second); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func TestAWrongSecretIsSaidAndProbedNotGivenUp(t *testing.T) {
	t.Parallel()
	server, _ := startBroker(t, queue.Topology{})
	org := sandboxProcess(t)
	w := start(t, append(orgEnv(org), "NATS_URL="+server.URL(), "GENESYS_CLIENT_SECRET=wrong-secret"), "worker")
	ready := w.await(`"address":"(http://[^"]+)"`)[1] + "/readyz"
	w.await("invalid_client")
	res, err := http.Get(ready)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("readyz says %s", res.Status)
	}
	if strings.Contains(w.output(), "wrong-secret") {
		t.Error("the secret is in the log")
	}
	w.signal(syscall.SIGTERM)
	if code := w.end(10 * time.Second); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func TestAFullStreamStopsThePublisherWhichSaysWhatComesNext(t *testing.T) {
	t.Parallel()
	server, b := startBroker(t, queue.Topology{MaxBytes: 20_000})
	var csv strings.Builder
	csv.WriteString("employee_id,department\n")
	for i := range 1000 {
		fmt.Fprintf(&csv, "EMP-%04d,Sales\n", i)
	}
	file := write(t, "many.csv", csv.String())
	env := []string{"NATS_URL=" + server.URL()}
	out, errs, code := call(t, env, "", "publish", "--json", file)
	var p publication
	if err := json.Unmarshal([]byte(out), &p); err != nil || code != exitFailed || p.Next == nil || p.Published == 0 {
		t.Fatalf("exit code %d, %v\n%s%s", code, err, out, errs)
	}
	if p.Next.Line != p.Published+2 || !strings.Contains(errs, fmt.Sprintf("the next one is %s, line %d", file, p.Next.Line)) || !strings.Contains(errs, "full") {
		t.Errorf("%d rows are stored, and it says:\n%s", p.Published, errs)
	}
	if _, err := b.Setup(t.Context(), queue.Topology{MaxBytes: 10_000_000}); err != nil {
		t.Fatal(err)
	}
	out, errs, code = call(t, env, "", "publish", "--json", file)
	var again publication
	if err := json.Unmarshal([]byte(out), &again); err != nil || code != 0 || again.Published+p.Published != 1000 || again.Duplicates != p.Published {
		t.Errorf("again: exit code %d, %v\n%s%s", code, err, out, errs)
	}
}

func TestMetricsStartAtZeroAndHoldNoEmployee(t *testing.T) {
	t.Parallel()
	r := newRig(t, sandbox.Org(10))
	var f *fleet
	stop := r.start(func(made *fleet) { f = made })
	r.publish(1, 10, "Sales")
	r.settle(time.Minute)
	stop() // the last acknowledgement is counted
	families, err := f.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]float64{}
	for _, family := range families {
		for _, m := range family.Metric {
			name := family.GetName()
			for _, l := range m.Label {
				name += "," + l.GetValue()
			}
			if strings.Contains(name, "EMP-") {
				t.Errorf("an employee in a label: %s", name)
			}
			seen[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	for name, want := range map[string]float64{
		"skillsync_records_total,verified": 10, "skillsync_records_total,superseded": 0, "skillsync_dead_letters_total,unverified": 0,
		"skillsync_requests_total,patch,2xx": 10, "skillsync_requests_total,patch,429": 0, "skillsync_in_flight": 0,
	} {
		if got, ok := seen[name]; !ok || got != want {
			t.Errorf("%s is %v, %v; want %v", name, got, ok, want)
		}
	}
}
