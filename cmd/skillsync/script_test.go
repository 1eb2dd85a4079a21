package main

import (
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/rs/zerolog"

	"skillsync/genesys/sandbox"
	"skillsync/queue"
	"skillsync/queue/queuetest"
)

// The sessions of an operator, each against a broker and a sandbox of its own. Beside what
// testscript has, there are:
//
//	dead EMPLOYEE REASON [name=value…]   makes a dead letter; status, class, error, mapping, batch, record, …
//	worker [stop]                        starts a worker that ends with the script, or stops it
//	settled N                            waits until there are N results
//	published REPLAY N                   waits until a replay has published N records
func TestAnOperatorsSessions(t *testing.T) {
	t.Parallel()
	program := filepath.Dir(binary(t))
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			return setupScript(t, env, program)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"dead": scriptDead, "worker": scriptWorker, "settled": scriptSettled, "published": scriptPublished,
		},
	})
}

// A scene is what a script runs against.
type scene struct {
	t      *testing.T
	broker *queue.Broker
	queue  *queue.Queue
	orgURL string
	stop   func() // the worker
}

type sceneKey struct{}

func setupScript(t *testing.T, env *testscript.Env, program string) error {
	dir, err := os.MkdirTemp("", "script-broker-")
	if err != nil {
		return err
	}
	env.Defer(func() { os.RemoveAll(dir) })
	server := queuetest.Serve(quiet{t}, dir, "127.0.0.1:0")
	env.Defer(server.Shutdown)
	b, err := queue.Connect(t.Context(), queue.Config{URL: server.URL(), Wait: 10 * time.Second})
	if err != nil {
		return err
	}
	env.Defer(b.Close)
	if _, err := b.Setup(t.Context(), queue.Topology{AckWait: 5 * time.Second}); err != nil {
		return err
	}
	q, err := b.Queue(t.Context())
	if err != nil {
		return err
	}
	org := httptest.NewServer(sandbox.New(sandbox.Org(20)))
	env.Defer(org.Close)
	env.Values[sceneKey{}] = &scene{t, b, q, org.URL, nil}
	env.Setenv("PATH", program+string(os.PathListSeparator)+os.Getenv("PATH"))
	env.Setenv("NATS_URL", server.URL())
	env.Setenv("TZ", "UTC")
	for _, setting := range append(orgEnv(org.URL), "SKILLSYNC_SETTLE=10ms", "SKILLSYNC_LIMIT=0", "SKILLSYNC_VERIFY_TIMEOUT=5s") {
		name, value, _ := strings.Cut(setting, "=")
		env.Setenv(name, value)
	}
	return nil
}

// quiet does not log to a test that may be over.
type quiet struct{ *testing.T }

func (quiet) Log(...any) {}

func scriptScene(ts *testscript.TestScript) *scene { return ts.Value(sceneKey{}).(*scene) }

func scriptDead(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: dead EMPLOYEE REASON [name=value…]")
	}
	s := scriptScene(ts)
	f := queue.Failure{
		EmployeeID: args[0], Reason: args[1], Class: "permanent", Error: "it failed", Attempts: 1, MappingVersion: "m1",
		CorrelationID: "corr-" + args[0], First: time.Now(), Last: time.Now(),
	}
	record, err := json.Marshal(map[string]string{"employee_id": args[0], "department": "Support-Tier2"})
	ts.Check(err)
	m := queue.Message{EmployeeID: args[0], Data: record, Header: map[string][]string{}}
	for _, arg := range args[2:] {
		name, value, _ := strings.Cut(arg, "=")
		switch name {
		case "status":
			f.Status, err = strconv.Atoi(value)
			ts.Check(err)
		case "class":
			f.Class = value
		case "error":
			f.Error = value
		case "mapping":
			f.MappingVersion = value
		case "desired":
			f.Desired = value
		case "tries":
			ts.Check(json.Unmarshal([]byte(value), &f.Tries))
		case "expected":
			f.Expected = json.RawMessage(value)
		case "actual":
			f.Actual = json.RawMessage(value)
		case "batch":
			m.Header[queue.HeaderBatch] = []string{value}
		case "record":
			m.Data = []byte(value)
		default:
			ts.Fatalf("dead: what is %q?", name)
		}
	}
	_, err = s.broker.Publish(s.t.Context(), m)
	ts.Check(err)
	n, err := s.queue.Fetch(s.t.Context(), 1, 5*time.Second, func(d *queue.Delivery) { err = d.DeadLetter(s.t.Context(), f) })
	if n != 1 {
		ts.Fatalf("dead: %d records came, %v", n, err)
	}
	ts.Check(err)
}

func scriptWorker(ts *testscript.TestScript, _ bool, args []string) {
	s := scriptScene(ts)
	if len(args) > 0 {
		s.stop()
		return
	}
	broker, err := queue.Connect(s.t.Context(), queue.Config{URL: s.broker.URL(), Wait: 10 * time.Second})
	ts.Check(err)
	stop := runFleet(s.t, newFleet(s.t, broker, s.orgURL), zerolog.Nop())
	s.stop = sync.OnceFunc(func() { stop(); broker.Close() })
	ts.Defer(s.stop)
}

func scriptSettled(ts *testscript.TestScript, _ bool, args []string) {
	n, err := strconv.Atoi(strings.Join(args, ""))
	ts.Check(err)
	s := scriptScene(ts)
	settled(s.t, s.broker, n, time.Minute, nil)
	for began := time.Now(); ; {
		status, err := s.broker.Status(s.t.Context())
		ts.Check(err)
		if status.Backlog == 0 {
			return
		}
		if time.Since(began) > 30*time.Second {
			ts.Fatalf("still in the queue: %s", fmt.Sprintf("%+v", status))
		}
	}
}

func scriptPublished(ts *testscript.TestScript, _ bool, args []string) {
	s := scriptScene(ts)
	n, err := strconv.ParseUint(args[1], 10, 64)
	ts.Check(err)
	replays, err := s.broker.Replays(s.t.Context())
	ts.Check(err)
	for began := time.Now(); ; {
		r, err := replays.Get(s.t.Context(), args[0])
		if err == nil && r.Published >= n {
			return
		}
		if time.Since(began) > 30*time.Second {
			ts.Fatalf("replay %s: %+v, %v", args[0], r, err)
		}
	}
}
