package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"skillsync/genesys"
	"skillsync/genesys/sandbox"
	"skillsync/queue"
	"skillsync/queue/queuetest"
)

// BenchmarkFleet is a backlog of b.N records on its way through a fleet of worker processes, with
// broker and sandbox as processes of their own. CPU and memory are the workers', memory that of
// the largest. Steady state: workers are signed in, records carry user ids, nobody in the org is
// without skills. The clock runs from the first delivery until the queue is empty. For figures
// that mean something:
//
//	go test -run '^$' -bench Fleet/limit=0 -benchtime 5000x ./cmd/skillsync
//	go test -run '^$' -bench Fleet/limit=3000 -benchtime 9000x -timeout 2h ./cmd/skillsync
//	go test -run '^$' -bench Fleet/limit=300 -benchtime 900x -timeout 2h ./cmd/skillsync
func BenchmarkFleet(b *testing.B) {
	for _, limit := range []int{0, 3000, 300} {
		for _, workers := range []int{1, 4} {
			for _, m := range []mix{
				{name: "changed", changed: 1, each: 1},
				{name: "unchanged", changed: 0, each: 1},
				{name: "known", changed: 0, each: 1, known: true},
				{name: "tenth", changed: .1, each: 1},
				{name: "thrice", changed: 1, each: 3},
				{name: "attributes", changed: 1, each: 1, profile: genesys.CustomAttributes},
				{name: "settling", changed: 1, each: 1, settle: 3 * time.Second},
			} {
				b.Run(fmt.Sprintf("limit=%d/workers=%d/%s", limit, workers, m.name), func(b *testing.B) {
					benchFleet(b, limit, workers, m)
				})
			}
		}
	}
}

// A mix is what the records of a backlog are like.
type mix struct {
	name    string
	changed float64         // share of employees whose user is not yet as the record says
	each    int             // records of each employee, the newest last
	known   bool            // the ledger knows every state as verified
	profile genesys.Profile // default routing-skills
	settle  time.Duration
	instant bool // the org answers at once, where a patch takes 20 ms and a read 5 ms otherwise
}

func (m mix) org(employees, limit int) orgOf {
	return orgOf{Users: employees, Right: int(float64(employees) * (1 - m.changed)), Limit: limit, Instant: m.instant}
}

func (m mix) employees(records int) int { return (records + m.each - 1) / m.each }

func benchFleet(b *testing.B, limit, workers int, m mix) {
	measureFleet(b, limit, workers, b.N, m).report(b, limit)
}

// measureFleet sends a backlog through a fleet that is ready for it.
func measureFleet(t testing.TB, limit, workers, records int, m mix) figures {
	t.Helper()
	employees := m.employees(records)
	url := child(t, "broker", nil)
	org := child(t, "sandbox", m.org(employees+1, limit))
	g := newGround(t, url, org)
	fleet := make([]*os.Process, workers)
	for i := range fleet {
		fleet[i] = g.worker(limit, m)
	}
	g.store(employees+1, 1, mix{each: 1}) // one more: signs in, opens connections
	if m.known {
		g.store(1, records, m)
	}
	g.emptied()

	g.hold()
	g.store(1, records, m)
	return g.measure(fleet, records)
}

// BenchmarkBare is the loop that one would write by hand: nats.go, 64 records at once, a patch and
// a read each, no shared limit, no order, no ledger. It is what BenchmarkFleet/limit=0/workers=1/changed
// is to be compared with, in one run:
//
//	go test -run '^$' -bench 'Bare|Fleet/limit=0/workers=1/changed' -benchtime 5000x ./cmd/skillsync
func BenchmarkBare(b *testing.B) {
	m := mix{changed: 1, each: 1}
	url := child(b, "broker", nil)
	org := child(b, "sandbox", m.org(b.N+1, 0))
	g := newGround(b, url, org)
	g.store(b.N+1, 1, m)
	loop := childProcess(b, "bare", bareOf{NATS: url, Org: org})
	g.emptied()

	g.hold()
	g.store(1, b.N, m)
	g.measure([]*os.Process{loop.cmd.Process}, b.N).report(b, 0)
}

// BenchmarkRecord is one record's way through a worker in this process, for profiles; the sandbox
// has neither latency nor limit.
//
//	go test -run '^$' -bench Record -benchtime 5000x -cpuprofile cpu.out ./cmd/skillsync
func BenchmarkRecord(b *testing.B) {
	m := mix{changed: 1, each: 1, instant: true}
	url := child(b, "broker", nil)
	org := child(b, "sandbox", m.org(b.N, 0))
	g := newGround(b, url, org)
	g.store(1, b.N, m)
	f := newFleet(b, queuetest.Connect(b, url), org)
	f.client.Profile, f.worker.Provisioner.Settle = genesys.RoutingSkills, 0
	b.ResetTimer()
	stop := runFleet(b, f, zerolog.Nop())
	g.emptied()
	b.StopTimer()
	stop()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
}

// BenchmarkPublish is `skillsync publish` of a CSV file with b.N rows.
//
//	go test -run '^$' -bench Publish -benchtime 100000x ./cmd/skillsync
func BenchmarkPublish(b *testing.B) {
	g := newGround(b, child(b, "broker", nil), "")
	file := csvFile(b, b.N)
	b.ResetTimer()
	took, peak := publishFile(b, g.url, file)
	b.StopTimer()
	b.ReportMetric(float64(b.N)/took.Seconds(), "rows/s")
	b.ReportMetric(peak, "peak-MiB")
}

// A ground is where a fleet is measured.
type ground struct {
	testing.TB
	url, org string
	broker   *queue.Broker
	js       jetstream.JetStream
	rules    string // mapping file
	stored   int
	round    int
}

func newGround(b testing.TB, url, org string) *ground {
	g := &ground{TB: b, url: url, org: org, broker: queuetest.Connect(b, url), rules: filepath.Join(b.TempDir(), "mapping.yaml")}
	if _, err := g.broker.Setup(b.Context(), queue.Topology{}); err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(g.rules, []byte(testRules), 0o600); err != nil {
		b.Fatal(err)
	}
	nc, err := nats.Connect(url)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(nc.Close)
	if g.js, err = jetstream.New(nc); err != nil {
		b.Fatal(err)
	}
	return g
}

// worker starts a worker process, with its log in a file as in production, and returns when it
// fetches records.
func (g *ground) worker(limit int, m mix) *os.Process {
	g.Helper()
	profile := genesys.RoutingSkills
	if m.profile != "" {
		profile = m.profile
	}
	log, err := os.Create(filepath.Join(g.TempDir(), "worker.log"))
	if err != nil {
		g.Fatal(err)
	}
	cmd := exec.Command(binary(g), "worker")
	cmd.Stderr = log
	cmd.Dir = g.TempDir()
	cmd.Env = append(orgEnv(g.org), "NATS_URL="+g.url, "GENESYS_PROFILE="+string(profile), "SKILLSYNC_MAPPING="+g.rules,
		fmt.Sprint("SKILLSYNC_LIMIT=", limit), fmt.Sprint("SKILLSYNC_SETTLE=", m.settle))
	if err := cmd.Start(); err != nil {
		g.Fatal(err)
	}
	g.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // Wait tells if it was gone
		if err := cmd.Wait(); err != nil {
			text, _ := os.ReadFile(log.Name())
			g.Errorf("worker: %v\n%s", err, tail(string(text), 2000))
		}
		log.Close()
	})
	g.until("a worker fetches records", func() bool {
		text, err := os.ReadFile(log.Name())
		return err == nil && bytes.Contains(text, []byte("fetching records"))
	})
	return cmd.Process
}

// until looks again and again: what is waited for happens in other processes.
func (g *ground) until(what string, done func() bool) {
	g.Helper()
	for began := time.Now(); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Since(began) > time.Hour {
			g.Fatalf("not in an hour: %s", what)
		}
	}
}

// store publishes records of employees from one on, in the order in which they are overtaken.
func (g *ground) store(from, records int, m mix) {
	g.Helper()
	g.round++
	p := queue.Publisher{Broker: g.broker}
	employees := m.employees(records)
	for i := range records {
		id := fmt.Sprintf("EMP-%04d", from+i%employees)
		data := fmt.Appendf(nil, `{"employee_id":%q,"user_id":%q,"department":"Billing","version":%d}`, id, sandbox.UserID(id), 100*g.round+i/employees)
		if err := p.Send(g.Context(), queue.Message{EmployeeID: id, Data: data}, nil); err != nil {
			g.Fatal(err)
		}
	}
	if err := p.Flush(g.Context()); err != nil {
		g.Fatal(err)
	}
	g.stored += records
}

func (g *ground) emptied() {
	g.Helper()
	g.until("the queue is empty", func() bool {
		s, err := g.js.Stream(g.Context(), queue.Stream)
		if err != nil {
			g.Fatal(err)
		}
		return s.CachedInfo().State.Msgs == 0
	})
}

func (g *ground) purge() {
	g.Helper()
	s, err := g.js.Stream(g.Context(), queue.Stream)
	if err == nil {
		err = s.Purge(g.Context())
	}
	if err != nil {
		g.Fatal(err)
	}
}

// hold keeps the records from the workers until measure lets them go.
func (g *ground) hold() {
	g.Helper()
	if _, err := g.js.PauseConsumer(g.Context(), queue.Stream, queue.Consumer, time.Now().Add(time.Hour)); err != nil {
		g.Fatal(err)
	}
}

// figures are what became of a backlog.
type figures struct {
	records, requests, refused, maxWindow int
	took                                  time.Duration
	usage
}

// measure lets the records go, and returns when none is left.
func (g *ground) measure(fleet []*os.Process, records int) figures {
	g.Helper()
	before, cpu := g.stats(), fleetUsage(g, fleet).cpu
	if _, err := g.js.ResumeConsumer(g.Context(), queue.Stream, queue.Consumer); err != nil {
		g.Fatal(err)
	}
	g.until("the first record is delivered", func() bool {
		c, err := g.js.Consumer(g.Context(), queue.Stream, queue.Consumer)
		if err != nil {
			g.Fatal(err)
		}
		return int(c.CachedInfo().NumPending) < records
	})
	start := time.Now()
	g.emptied()
	f := figures{records: records, took: time.Since(start), usage: fleetUsage(g, fleet)}
	f.cpu -= cpu
	after := g.stats()
	f.requests, f.refused, f.maxWindow = after.Requests-before.Requests, after.Refused429, after.MaxWindow60s
	return f
}

// perRecord is how many requests a record cost.
func (f figures) perRecord() float64 { return float64(f.requests) / float64(f.records) }

// share is how much of the limit was used, from the first delivery to the empty queue.
func (f figures) share(limit int) float64 {
	return float64(f.requests) / (float64(limit) * f.took.Minutes())
}

func (f figures) report(b *testing.B, limit int) {
	b.ReportMetric(0, "ns/op") // with what comes before and after, it says nothing
	b.ReportMetric(float64(f.records)/f.took.Minutes(), "records/min")
	b.ReportMetric(f.perRecord(), "requests/record")
	b.ReportMetric(float64(f.refused), "refused")
	b.ReportMetric(f.cpu.Seconds()*1000/float64(f.records), "cpu-s/1000")
	b.ReportMetric(f.peakMiB, "peak-MiB")
	if limit > 0 && f.took > 15*time.Second { // else the burst at the beginning counts too much
		b.ReportMetric(100*f.share(limit), "%limit")
		b.ReportMetric(float64(f.maxWindow), "max/60s")
	}
}

func (g *ground) stats() (s sandbox.Stats) {
	get(g, g.org+"/_sandbox/stats", &s)
	return s
}

// usage is what processes have used so far.
type usage struct {
	cpu     time.Duration // together
	peakMiB float64       // of the largest
}

// fleetUsage reads proc(5).
func fleetUsage(t testing.TB, fleet []*os.Process) (u usage) {
	t.Helper()
	for _, p := range fleet {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.Pid))
		if errors.Is(err, os.ErrNotExist) {
			t.Skip("CPU and memory of other processes are read from /proc, which this system has not")
		}
		fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:]) // the name before it may hold blanks
		for _, ticks := range fields[11:13] {                           // utime and stime, in hundredths of a second
			n, err := strconv.Atoi(string(ticks))
			if err != nil {
				t.Fatal(err)
			}
			u.cpu += time.Duration(n) * 10 * time.Millisecond
		}
		u.peakMiB = max(u.peakMiB, peakMiB(p))
	}
	return u
}

// peakMiB is the most memory that a process has had, or 0 if it has ended. Unlike what the kernel
// tells at its end, that does not count what its parent had when it was started.
func peakMiB(p *os.Process) (peak float64) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Pid))
	if err != nil {
		return 0
	}
	if _, rest, ok := bytes.Cut(status, []byte("VmHWM:")); ok {
		_, _ = fmt.Sscan(string(rest), &peak) // in KiB; of a process that is ending there is none
	}
	return peak / 1024
}

// csvFile has a row each of as many employees, as an HR system exports them.
func csvFile(t testing.TB, rows int) string {
	t.Helper()
	var text bytes.Buffer
	text.WriteString("employee_id,email,department,role_level,location_code,updated_at\n")
	for i := range rows {
		fmt.Fprintf(&text, "EMP-%06d,emp-%06d@example.com,Support-Tier2,Level3,US-East,2026-11-23T09:30:00Z\n", i, i)
	}
	path := filepath.Join(t.TempDir(), "employees.csv")
	if err := os.WriteFile(path, text.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// publishFile runs `skillsync publish`, and tells how long that took and its peak memory.
func publishFile(t testing.TB, url, file string) (took time.Duration, peak float64) {
	t.Helper()
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), binary(t), "publish", file)
	cmd.Env = []string{"NATS_URL=" + url}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	start := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for {
		select {
		case <-look.C:
			peak = max(peak, peakMiB(cmd.Process))
		case err := <-done:
			if err != nil {
				t.Fatalf("publish: %v\n%s", err, out.String())
			}
			return time.Since(start), peak
		}
	}
}
