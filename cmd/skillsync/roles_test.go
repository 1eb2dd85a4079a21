package main

import (
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"

	"skillsync/genesys/sandbox"
	"skillsync/queue"
)

// serveRoles runs a broker from deploy/nats/nats.conf, and tells how each of its users signs in.
func serveRoles(t *testing.T) (as func(user string) []string) {
	t.Helper()
	for _, user := range []string{"ETL", "WORKER", "OPERATOR", "ADMIN"} {
		t.Setenv("NATS_"+user+"_PASSWORD", "secret-of-"+strings.ToLower(user))
	}
	o, err := natsserver.ProcessConfigFile(filepath.Join("..", "..", "deploy", "nats", "nats.conf"))
	if err != nil {
		t.Fatal(err)
	}
	o.Host, o.Port, o.HTTPPort, o.StoreDir, o.NoSigs, o.NoLog = "127.0.0.1", -1, 0, t.TempDir(), true, true
	s, err := natsserver.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("the broker does not start")
	}
	return func(user string) []string {
		return []string{
			"NATS_URL=" + s.ClientURL(), "NATS_USER=" + user, "NATS_PASSWORD_FILE=" + write(t, user, "secret-of-"+user+"\n"),
			"NATS_INBOX_PREFIX=_INBOX_" + user,
		}
	}
}

func TestEachRoleRunsItsCommandsAndIsToldWhatIsNotItsOwn(t *testing.T) {
	as := serveRoles(t)
	org := httptest.NewServer(sandbox.New(sandbox.Org(20)))
	t.Cleanup(org.Close)
	env := func(user string) []string {
		return append(append(as(user), orgEnv(org.URL)...), "SKILLSYNC_SETTLE=10ms", "SKILLSYNC_LIMIT=6000", "EDITOR=sed -i s/TMP-[0-9]/EMP-0002/")
	}
	may := func(user string, want string, args ...string) {
		t.Helper()
		out, errs, code := call(t, env(user), "", args...)
		if code != 0 || !strings.Contains(out+errs, want) {
			t.Errorf("%s, %s: exit %d, without %q\n%s%s", user, strings.Join(args, " "), code, want, out, errs)
		}
	}
	var denials sync.WaitGroup // each takes as long as a request waits
	defer denials.Wait()
	deny := func(user, subject string, args ...string) {
		began := time.Now()
		out, errs, code := call(t, env(user), "", args...)
		if code != exitFailed || !strings.Contains(errs, "forbidden by the broker") || !strings.Contains(errs, subject) {
			t.Errorf("%s, %s: exit %d after %v\n%s%s", user, strings.Join(args, " "), code, time.Since(began), out, errs)
		}
	}
	records := write(t, "records.jsonl", `{"employee_id":"EMP-0001","department":"Support-Tier2"}
{"employee_id":"TMP-1","department":"Support-Tier2"}
{"employee_id":"TMP-2","department":"Support-Tier2"}
{"employee_id":"TMP-3","department":"Support-Tier2"}
`)

	forbidden := func(user, subject string, args ...string) {
		denials.Go(func() { deny(user, subject, args...) })
	}
	deny("operator", "STREAM.CREATE.EMPLOYEES", "setup")
	may("admin", "stream EMPLOYEES created", "setup")
	start(t, env("worker"), "worker").await("fetching records")
	may("etl", "4 published", "publish", records)
	b, err := queue.Connect(t.Context(), queue.Config{
		URL: strings.TrimPrefix(as("admin")[0], "NATS_URL="), User: "admin", Password: "secret-of-admin", Wait: 5 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	settled(t, b, 4, time.Minute, nil)
	emptied(t, b)

	console := start(t, append(env("operator"), "SKILLSYNC_CONSOLE_LISTEN=127.0.0.1:0"), "console", "--address", "127.0.0.1:0")
	ready := healthCmd{URL: console.await(`"address":"(http://[^"]+)"`)[1] + "/readyz", Timeout: 5 * time.Second}
	for began := time.Now(); ready.Run(&program{ctx: t.Context()}) != nil; {
		if time.Since(began) > 20*time.Second {
			t.Fatal("the console does not become ready")
		}
	}
	may("operator", "user_not_found 3", "status")
	may("operator", "user_not_found", "dlq", "groups")
	may("operator", "TMP-1", "dlq", "ls", "--text", "e", "--status", "404")
	may("operator", "Support-Tier2", "dlq", "show", "1", "--values")
	may("operator", "still fails", "dlq", "replay", "--all", "--dry-run")
	may("operator", "TMP-1", "dlq", "export", "--all")
	may("operator", "", "dlq", "drop", "1", "--yes")
	may("operator", "EMP-0002", "dlq", "edit", "2")
	may("operator", "1 replayed", "dlq", "replay", "--all", "--yes")
	may("operator", "done", "dlq", "replays")
	may("operator", "drop", "dlq", "audit")
	may("operator", "client", "limit")
	may("operator", "100", "limit", "set", "100")
	may("operator", "paused", "limit", "pause", "10m")
	may("operator", "no", "limit", "resume")

	forbidden("operator", "STREAM.UPDATE.EMPLOYEES", "setup", "--max-bytes", "1000000")
	forbidden("worker", "DIRECT.GET.EMPLOYEES_DEAD", "dlq", "ls")
	forbidden("worker", `Publish to "employees.records.`, "publish", "--batch", "other", records)
	forbidden("etl", "STREAM.INFO.EMPLOYEES", "status")
	forbidden("etl", "DIRECT.GET.EMPLOYEES_DEAD", "dlq", "ls")
	forbidden("etl", "STREAM.INFO", "limit", "set", "1")
	forbidden("etl", "STREAM.INFO", "worker")
}
