package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"skillsync/genesys"
	"skillsync/genesys/sandbox"
	"skillsync/queue"
	"skillsync/queue/embedded"
	"skillsync/queue/queuetest"
	"skillsync/worker"
	"skillsync/worker/mapping"
)

var build struct {
	sync.Once
	path string
	err  error
	out  []byte
}

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" { // a child of a benchmark
		if err := playRole(role); err != nil {
			panic(err)
		}
		os.Exit(0)
	}
	dir, err := os.MkdirTemp("", "skillsync-test-")
	if err != nil {
		panic(err)
	}
	build.path = filepath.Join(dir, "skillsync")
	code := m.Run()
	os.RemoveAll(dir)
	if code == 0 {
		err := goleak.Find()
		for try := 1; err != nil && try < 5; try++ { // a browser on a busy machine takes its time to end
			err = goleak.Find()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// binary is the program, built once for all tests that start it as a process.
func binary(t testing.TB) string {
	t.Helper()
	build.Do(func() {
		args := []string{"build", "-o", build.path}
		if raceEnabled {
			args = append(args, "-race")
		}
		build.out, build.err = exec.Command("go", append(args, ".")...).CombinedOutput()
	})
	if build.err != nil {
		t.Fatalf("go build: %v\n%s", build.err, build.out)
	}
	return build.path
}

// A process is the program, running.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	done chan struct{}

	mu    sync.Mutex
	out   bytes.Buffer
	lines chan string // of both outputs, for await
}

// start runs the program with nothing in its environment but what is given.
func start(t *testing.T, env []string, args ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: exec.Command(binary(t), args...), done: make(chan struct{}), lines: make(chan string, 4096)}
	p.cmd.Env = append([]string{"HOME=" + t.TempDir(), "PATH=" + os.Getenv("PATH")}, env...)
	p.cmd.Dir = t.TempDir()
	r, w := io.Pipe()
	p.cmd.Stdout, p.cmd.Stderr = w, w
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.lines)
		s := bufio.NewScanner(r)
		s.Buffer(nil, 1<<20)
		for s.Scan() {
			p.mu.Lock()
			p.out.WriteString(s.Text() + "\n")
			p.mu.Unlock()
			select {
			case p.lines <- s.Text():
			default: // nobody awaits that much
			}
		}
	}()
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait() // the tests look at ProcessState
		w.Close()
	}()
	t.Cleanup(func() {
		p.signal(syscall.SIGKILL)
		<-p.done
		for range p.lines {
		}
		if t.Failed() {
			t.Logf("%s:\n%s", strings.Join(args, " "), tail(p.output(), 6000))
		}
	})
	return p
}

func tail(s string, n int) string {
	if len(s) > n {
		return "…" + s[len(s)-n:]
	}
	return s
}

func (p *process) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String()
}

func (p *process) signal(s os.Signal) { _ = p.cmd.Process.Signal(s) } // it may have ended

// await returns the first match of a line that is yet to come.
func (p *process) await(pattern string) []string {
	p.t.Helper()
	re := regexp.MustCompile(pattern)
	timeout := time.After(time.Minute)
	for {
		select {
		case line, ok := <-p.lines:
			if !ok {
				p.t.Fatalf("ended without a line like %s:\n%s", pattern, tail(p.output(), 4000))
			}
			if m := re.FindStringSubmatch(line); m != nil {
				return m
			}
		case <-timeout:
			p.t.Fatalf("no line like %s in a minute:\n%s", pattern, tail(p.output(), 4000))
		}
	}
}

// end waits for the process and returns its exit code.
func (p *process) end(within time.Duration) int {
	p.t.Helper()
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(within):
		p.t.Fatalf("still running after %s:\n%s", within, tail(p.output(), 4000))
		return -1
	}
}

// call runs the program to its end and returns standard output, standard error and exit code.
func call(t *testing.T, env []string, stdin string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), binary(t), args...)
	cmd.Env = append([]string{"HOME=" + t.TempDir(), "PATH=" + os.Getenv("PATH")}, env...)
	cmd.Dir = t.TempDir()
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	_ = cmd.Run() // the exit code says it
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// startBroker runs a broker in the test process, and sets it up.
func startBroker(t testing.TB, topology queue.Topology) (*embedded.Server, *queue.Broker) {
	t.Helper()
	server := serveBroker(t)
	b := queuetest.Connect(t, server.URL())
	if _, err := b.Setup(t.Context(), topology); err != nil {
		t.Fatal(err)
	}
	return server, b
}

func serveBroker(t testing.TB) *embedded.Server { return serveBrokerAt(t, "127.0.0.1:0") }

// serveBrokerAt runs a broker that nobody set up.
func serveBrokerAt(t testing.TB, addr string) *embedded.Server {
	t.Helper()
	server := queuetest.Serve(t, t.TempDir(), addr)
	t.Cleanup(server.Shutdown)
	return server
}

// orgEnv points a process at an org.
func orgEnv(url string) []string {
	return []string{
		"GENESYS_API_URL=" + url, "GENESYS_CLIENT_ID=sandbox", "GENESYS_CLIENT_SECRET=sandbox",
		"GENESYS_EXTERNAL_ID_AUTHORITY=hris", "SKILLSYNC_LISTEN=127.0.0.1:0",
	}
}

// settled collects results until n records have one, and checks that none has two.
func settled(t testing.TB, b *queue.Broker, n int, within time.Duration, each func(done int)) map[uint64]queue.Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	results := map[uint64]queue.Result{}
	enough := fmt.Errorf("all settled")
	err := b.Results(ctx, 0, func(r queue.Result) error {
		if before, twice := results[r.Sequence]; twice {
			t.Errorf("record %d ended as %s and as %s", r.Sequence, before.Outcome, r.Outcome)
		}
		results[r.Sequence] = r
		if each != nil {
			each(len(results))
		}
		if len(results) == n {
			return enough
		}
		return nil
	})
	if err != enough {
		st, _ := b.Status(t.Context())
		t.Fatalf("%d of %d records settled in %s: %v (%+v)", len(results), n, within, err, st)
	}
	return results
}

// emptied waits for the last acknowledgements: they come after the results.
func emptied(t *testing.T, b *queue.Broker) queue.Status {
	t.Helper()
	for began := time.Now(); ; {
		status, err := b.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if status.Backlog == 0 {
			return status
		}
		if time.Since(began) > 30*time.Second {
			t.Fatalf("every record has a result, and some are still in the queue: %+v", status)
		}
	}
}

// count is the results by outcome, dead letters by reason.
func count(results map[uint64]queue.Result) map[string]int {
	n := map[string]int{}
	for _, r := range results {
		if r.Outcome == queue.OutcomeDead {
			n[r.Reason]++
		} else {
			n[r.Outcome]++
		}
	}
	return n
}

func wantCount(t *testing.T, results map[uint64]queue.Result, want map[string]int) {
	t.Helper()
	if got := count(results); !maps.Equal(got, want) {
		t.Errorf("outcomes %v, want %v", got, want)
	}
}

// A rig is a fleet of workers in this process, against a real broker and a sandbox over HTTP.
type rig struct {
	*testing.T
	broker  *queue.Broker
	url     string
	sandbox *sandbox.Sandbox
	orgURL  string
	count   int
}

func newRig(t *testing.T, cfg sandbox.Config) *rig {
	t.Helper()
	server, b := startBroker(t, queue.Topology{AckWait: 5 * time.Second})
	s := sandbox.New(cfg)
	return &rig{T: t, broker: b, url: server.URL(), sandbox: s, orgURL: onPort(t, s)}
}

func onPort(t *testing.T, h http.Handler) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

const testRules = `
attributes: {department: department}
skills:
  - {skill: Tier 2 Support, proficiency: 4, when: department == "Support-Tier2"}
  - {skill: Billing, proficiency: 4, when: department == "Billing"}
  - {skill: Sales, proficiency: 4, when: department == "Sales"}
`

// start runs one worker like `skillsync worker` does; change may alter it first. The worker has a
// connection of its own.
func (r *rig) start(change func(*fleet)) (stop func()) {
	r.Helper()
	broker, err := queue.Connect(r.Context(), queue.Config{URL: r.url, Wait: 10 * time.Second})
	if err != nil {
		r.Fatal(err)
	}
	f := newFleet(r, broker, r.orgURL)
	if change != nil {
		change(f)
	}
	stopFleet := runFleet(r, f, zerolog.New(zerolog.NewTestWriter(r.T)).Level(zerolog.WarnLevel))
	stop = sync.OnceFunc(func() {
		stopFleet()
		broker.Close()
	})
	r.Cleanup(stop)
	return stop
}

// newFleet is a worker that is less patient than in production.
func newFleet(t testing.TB, broker *queue.Broker, orgURL string) *fleet {
	t.Helper()
	rules, err := mapping.Parse("rules.yaml", []byte(testRules))
	if err != nil {
		t.Fatal(err)
	}
	reg := newRegistry()
	w := &worker.Worker{Metrics: worker.NewMetrics(reg)}
	jobFlags{InFlight: 1536, Attempts: 5, Settle: 50 * time.Millisecond, VerifyTimeout: 10 * time.Second, VerifiedFor: time.Hour, Grace: 5 * time.Second}.tune(w)
	return &fleet{
		broker: broker, rules: rules, atOnce: 64, worker: w, reg: reg, starting: newPhase(""),
		client: &genesys.Client{API: orgURL, ClientID: "sandbox", ClientSecret: "sandbox", Authority: "hris"},
	}
}

// runFleet runs a worker until stop is called, or the test ends.
func runFleet(t testing.TB, f *fleet, log zerolog.Logger) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	f.worker.Log = log
	done := make(chan error, 1)
	go func() { done <- f.run(&program{ctx: ctx, log: log, out: io.Discard, err: io.Discard}) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("worker: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// publish stores records of employees EMP-<from> to EMP-<to> in one department.
func (r *rig) publish(from, to int, department string) {
	r.Helper()
	p := queue.Publisher{Broker: r.broker}
	for i := from; i <= to; i++ {
		id := fmt.Sprintf("EMP-%04d", i)
		data, err := json.Marshal(map[string]string{"employee_id": id, "department": department})
		if err != nil {
			r.Fatal(err)
		}
		if err := p.Send(r.Context(), queue.Message{EmployeeID: id, Data: data}, nil); err != nil {
			r.Fatal(err)
		}
		r.count++
	}
	if err := p.Flush(r.Context()); err != nil {
		r.Fatal(err)
	}
}

func (r *rig) settle(within time.Duration) map[uint64]queue.Result {
	r.Helper()
	return settled(r.T, r.broker, r.count, within, nil)
}

// patches counts by user, from the sandbox's own log.
func (r *rig) patches() map[string]int {
	n := map[string]int{}
	for _, q := range r.sandbox.Requests() {
		if q.Op == "patch" && q.Status == http.StatusOK {
			n[q.User]++
		}
	}
	return n
}

func (r *rig) wantOnePatchEach(n int) {
	r.Helper()
	patches := r.patches()
	if len(patches) != n {
		r.Errorf("%d users were patched, want %d", len(patches), n)
	}
	for user, times := range patches {
		if times != 1 {
			r.Errorf("user %s was patched %d times", user, times)
		}
	}
}
