package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"skillsync/cmd/skillsync/desk"
	"skillsync/cmd/skillsync/tracing"
	"skillsync/deploy/samples"
	"skillsync/genesys"
	"skillsync/genesys/sandbox"
	"skillsync/queue"
	"skillsync/queue/embedded"
	"skillsync/worker"
	"skillsync/worker/mapping"
)

type demoCmd struct {
	Limit   int    `default:"1200" help:"Requests a minute, for the sandbox and the worker's budget alike; 0 for none. Default: ${default}."`
	File    string `env:"-" type:"path" placeholder:"FILE" help:"Records to publish. Default: 200 sample records."`
	Exit    bool   `env:"-" help:"End when all is settled; exit code 3 if there are dead letters."`
	JSON    bool   `name:"json" env:"-" help:"Print the summary as one JSON object on standard output."`
	Verbose bool   `env:"-" short:"v" help:"Show the worker's log."`
	Listen  string `default:"127.0.0.1:2112" help:"Where /livez, /readyz and /metrics are served. Default: ${default}."`
}

func (demoCmd) Help() string {
	return `Nothing outside this machine is touched, whatever the environment says: the Genesys Cloud is a sandbox in this process. Its data is gone when the demo ends. Only traces go out, if OTEL_EXPORTER_OTLP_ENDPOINT names a collector.`
}

// A summary is what a batch came to.
type summary struct {
	Published  int            `json:"published"`
	Rejected   int            `json:"rejected"`
	Verified   int            `json:"verified"`
	Unchanged  int            `json:"unchanged"`
	Superseded int            `json:"superseded"`
	Dead       map[string]int `json:"dead"`
	Requests   int            `json:"requests"`
	Refused    int            `json:"refused_429"`
	Limit      int            `json:"limit_per_minute"`
	MaxWindow  int            `json:"max_window_60s"`
	Seconds    float64        `json:"seconds"`
}

func (s summary) dead() (n int) {
	for _, count := range s.Dead {
		n += count
	}
	return n
}

func (s summary) settled() int { return s.Verified + s.Unchanged + s.Superseded + s.dead() }

func (s *summary) count(r queue.Result) {
	switch r.Outcome {
	case queue.OutcomeVerified:
		s.Verified++
	case queue.OutcomeUnchanged:
		s.Unchanged++
	case queue.OutcomeSuperseded:
		s.Superseded++
	case queue.OutcomeDead:
		s.Dead[r.Reason]++
	}
}

func (c demoCmd) Run(p *program) error {
	if c.Limit < 0 {
		return misuse("--limit is %d; it takes requests a minute, or 0 for none", c.Limit)
	}
	d, err := c.start(p)
	if err != nil {
		return err
	}
	defer d.stop()
	s, err := d.batch(p)
	if err != nil {
		return unlessDone(p.ctx, err)
	}
	if c.JSON {
		if err := json.NewEncoder(p.out).Encode(s); err != nil {
			return err
		}
	} else {
		fmt.Fprint(p.out, s.text())
	}
	if !c.Exit {
		d.sayNext(p.err)
		<-p.ctx.Done()
		return nil
	}
	if s.dead() > 0 {
		return &exitError{code: exitDeadLetters}
	}
	return nil
}

// A demo is the whole system in one process.
type demo struct {
	cmd     demoCmd
	server  *embedded.Server
	org     *sandbox.Sandbox
	orgURL  string
	broker  *queue.Broker
	ops     *server
	console *consoleServer // nil with --exit
	traces  *tracing.Traces
	stop    func() // ends everything that was started, last first
}

func (c demoCmd) start(p *program) (_ *demo, err error) {
	d := &demo{cmd: c}
	var started []func()
	d.stop = sync.OnceFunc(func() {
		for _, stop := range slices.Backward(started) {
			stop()
		}
	})
	defer func() {
		if err != nil {
			d.stop()
		}
	}()

	dir, err := os.MkdirTemp("", "skillsync-demo-")
	if err != nil {
		return nil, err
	}
	started = append(started, func() { os.RemoveAll(dir) })
	if d.server, err = embedded.Start(embedded.Options{Dir: dir}); err != nil {
		return nil, fmt.Errorf("start the broker: %w", err)
	}
	started = append(started, d.server.Shutdown)

	cfg := sampleOrg(10_000)
	cfg.Limit, cfg.ReadLag, cfg.ProvisionLag = c.Limit, 500*time.Millisecond, 500*time.Millisecond
	cfg.PatchLatency, cfg.ReadLatency = 20*time.Millisecond, 5*time.Millisecond
	d.org = sandbox.New(cfg)
	org, err := serveSandbox(d.org, "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	d.orgURL = org.url
	started = append(started, org.stop)

	log := zerolog.Nop()
	if c.Verbose {
		log = p.log
	}
	if d.broker, err = queue.Connect(p.ctx, queue.Config{URL: d.server.URL(), Wait: 10 * time.Second, Log: log, Reasons: reasons()}); err != nil {
		return nil, err
	}
	started = append(started, d.broker.Close)
	if _, err = d.broker.Setup(p.ctx, queue.Topology{}); err != nil {
		return nil, err
	}
	d.traces = tracing.Start(p.ctx, version(), p.log)
	started = append(started, func() { d.traces.Stop(p.log) })
	stopWorker, err := d.startWorker(p, log)
	if err != nil {
		return nil, err
	}
	started = append(started, stopWorker)
	if !c.Exit {
		stopConsole, err := d.startConsole(p, log)
		if err != nil {
			return nil, err
		}
		started = append(started, stopConsole)
	}
	d.introduce(p.err)
	return d, nil
}

// startWorker runs a worker like the one of `skillsync worker`, but less patient: nobody watches
// a demo for the minutes after which a record is given up in production.
func (d *demo) startWorker(p *program, log zerolog.Logger) (stop func(), err error) {
	rules, err := mapping.Parse("mapping.yaml", samples.Mapping)
	if err != nil {
		return nil, err
	}
	reg := newRegistry()
	w := &worker.Worker{Metrics: worker.NewMetrics(reg), Log: log, Grace: time.Second}
	jobFlags{InFlight: 1536, Attempts: 2, Settle: time.Second, VerifyTimeout: 5 * time.Second, VerifiedFor: 24 * time.Hour, Grace: time.Second}.tune(w)
	d.ops, err = startOps(d.cmd.Listen, reg, w.NotReady, log)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(p.ctx))
	inner := *p
	inner.ctx, inner.log = ctx, log
	f := fleet{
		broker: d.broker, rules: rules, limit: d.cmd.Limit, atOnce: 64, worker: w, reg: reg, starting: newPhase(""),
		client: d.client(), traces: d.traces,
	}
	done := make(chan error, 1)
	go func() { done <- f.run(&inner) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			fmt.Fprintf(p.err, "worker: %v\n", err)
		}
		d.ops.stop()
	}, nil
}

// startConsole serves the page, with the sandbox to make dry runs against.
func (d *demo) startConsole(p *program, log zerolog.Logger) (stop func(), err error) {
	inner := *p
	inner.log = log
	rules, err := mapping.Parse("mapping.yaml", samples.Mapping)
	if err != nil {
		return nil, err
	}
	desk, err := desk.Open(p.ctx, d.broker)
	if err != nil {
		return nil, err
	}
	org, stopOrg, err := openOrg(&inner, d.broker, d.client(), rules, d.cmd.Limit)
	if err != nil {
		return nil, err
	}
	desk.Rules, desk.Org = deskRules{rules}, org
	if d.console, err = startConsole(consolePage{addr: defaultConsole, orFree: true, log: log}, desk, noWatcher); err != nil {
		stopOrg()
		return nil, err
	}
	return func() { d.console.stop(); stopOrg() }, nil
}

func (d *demo) client() *genesys.Client {
	return &genesys.Client{API: d.orgURL, ClientID: "sandbox", ClientSecret: "sandbox", Authority: "hris"}
}

func (d *demo) introduce(w io.Writer) {
	limit := "no limit"
	if d.cmd.Limit > 0 {
		limit = fmt.Sprintf("%d requests a minute", d.cmd.Limit)
	}
	fmt.Fprintf(w, `The whole system in one process; nothing outside this machine is touched.
  broker   %s   (NATS with JetStream)
  sandbox  %s   (a Genesys Cloud with 10,000 users; %s)
  worker   %s/metrics

`, d.server.URL(), d.orgURL, limit, d.ops.url)
}

// batch publishes the records and waits until every one of them is settled.
func (d *demo) batch(p *program) (*summary, error) {
	start := time.Now()
	run := publishing{say: p.err, keep: true}
	name, err := d.publish(p, &run)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(p.err, "%s: %s\n\n", name, run.summary(false))

	s := &summary{Published: run.Published + run.Duplicates, Rejected: run.Rejected, Limit: d.cmd.Limit, Dead: map[string]int{}}
	if err := d.follow(p, s, run.sequences); err != nil {
		return nil, err
	}
	stats := d.org.Stats()
	s.Requests, s.Refused, s.MaxWindow = stats.Requests, stats.Refused429, stats.MaxWindow60s
	s.Seconds = float64(time.Since(start).Milliseconds()) / 1000
	return s, nil
}

func (d *demo) publish(p *program, run *publishing) (name string, err error) {
	run.publisher, run.traces = &queue.Publisher{Broker: d.broker}, d.traces
	if d.cmd.File != "" {
		return filepath.Base(d.cmd.File), run.files(p.ctx, []string{d.cmd.File}, p.in)
	}
	run.meter = newMeter(p.err, "publish", "rows", 0)
	defer run.meter.done()
	name = "employees.csv"
	if err := run.rows(p.ctx, name, "csv", "", bytes.NewReader(samples.Employees)); err != nil {
		return name, err
	}
	return name, run.flush(p.ctx)
}

// follow counts results until there is one for each of the sequences.
func (d *demo) follow(p *program, s *summary, sequences map[uint64]bool) error {
	m := newMeter(p.err, "worker ", "records", s.Published)
	m.every = 2 * time.Second
	defer m.done()
	if len(sequences) == 0 {
		return nil
	}
	done := errors.New("all settled")
	err := d.broker.Results(p.ctx, 0, func(r queue.Result) error {
		if !sequences[r.Sequence] {
			return nil
		}
		delete(sequences, r.Sequence)
		s.count(r)
		m.set(s.settled(), fmt.Sprintf("%d verified, %d unchanged, %d superseded, %d dead letters; %d requests",
			s.Verified, s.Unchanged, s.Superseded, s.dead(), d.org.Stats().Requests))
		if len(sequences) == 0 {
			return done
		}
		return nil
	})
	if errors.Is(err, done) {
		return nil
	}
	return err
}

func (s summary) text() string {
	var b strings.Builder
	row := func(name string, n int, format string, args ...any) {
		fmt.Fprintf(&b, "  %-13s %5d   %s\n", name, n, fmt.Sprintf(format, args...))
	}
	fmt.Fprintf(&b, "%d records settled in %.1f s\n", s.settled(), s.Seconds)
	row("verified", s.Verified, "patched, and read back as they should be")
	row("unchanged", s.Unchanged, "were right already; nothing was written")
	row("superseded", s.Superseded, "a newer record of the same employee won")
	var reasons []string
	for _, reason := range slices.Sorted(maps.Keys(s.Dead)) {
		reasons = append(reasons, fmt.Sprintf("%s %d", reason, s.Dead[reason]))
	}
	row("dead letters", s.dead(), "%s", strings.Join(reasons, ", "))
	if s.Rejected > 0 {
		row("rejected", s.Rejected, "rows that are no records, named above; not published")
	}
	if s.Limit == 0 {
		row("requests", s.Requests, "without a limit; %d refused (429)", s.Refused)
		return b.String()
	}
	row("requests", s.Requests, "at most %d in any 60 s, %d allowed; %d refused (429)", s.MaxWindow, s.Limit, s.Refused)
	fmt.Fprintf(&b, "  At %d requests a minute, %d requests take at least %.1f s.\n", s.Limit, s.Requests, float64(s.Requests)*60/float64(s.Limit))
	return b.String()
}

func (d *demo) sayNext(w io.Writer) {
	self := invocation()
	fmt.Fprintf(w, `
The demo stays up until Ctrl-C. In another terminal:
  export NATS_URL=%s
  %s dlq groups             the dead letters by reason; dlq ls, dlq show 1
  %s dlq replay --all       try them again
  %s status                 backlog and outcomes
  %s   the same on a page, where dead letters are also mended and tried out
  echo '{"employee_id":"EMP-0500","department":"Billing"}' | %s publish -
  curl %s/_sandbox/users/EMP-0500
`, d.server.URL(), self, self, self, d.console.url, self, d.orgURL)
}

// invocation is how the person at the terminal started this program.
func invocation() string {
	path, err := os.Executable()
	if err != nil || strings.Contains(path, string(filepath.Separator)+"go-build") {
		return "go run ./cmd/skillsync"
	}
	return os.Args[0]
}
