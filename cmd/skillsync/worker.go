package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"skillsync/cmd/skillsync/tracing"
	"skillsync/genesys"
	"skillsync/queue"
	"skillsync/queue/ledger"
	"skillsync/queue/ratelimit"
	"skillsync/worker"
	"skillsync/worker/mapping"
)

type workerCmd struct {
	brokerFlags
	topologyFlags
	orgFlags
	jobFlags

	Listen     string `default:"127.0.0.1:2112" help:"Where /livez, /readyz and /metrics are served. Default: ${default}."`
	NATSListen string `name:"nats-listen" default:"" placeholder:"HOST:PORT" help:"Where the broker in --store listens. Default: 127.0.0.1:4222, or a free port if that is taken."`
}

// jobFlags tune what happens to one record.
type jobFlags struct {
	InFlight      int           `default:"1536" help:"Records held at once; most of them are patched and wait for their skills to appear. Default: ${default}."`
	Concurrency   int           `name:"requests-at-once" default:"64" help:"Requests out at once. Default: ${default}."`
	Attempts      int           `default:"5" help:"How often a record may fail through its own fault before it is a dead letter. Default: ${default}."`
	Settle        time.Duration `default:"3s" help:"Wait between a patch and the first look at the skills. Default: ${default}."`
	VerifyTimeout time.Duration `default:"60s" help:"How long the skills may take to appear; then the attempt has failed. Default: ${default}."`
	VerifiedFor   time.Duration `default:"24h" help:"How long a verified state counts as standing, so that the same state again costs no request; 0 to look every time. Default: ${default}."`
	Grace         time.Duration `default:"20s" help:"How long held records may go on after SIGTERM. Default: ${default}."`
}

func (workerCmd) Help() string {
	return `SIGTERM drains: nothing more is fetched, records not patched yet go back at once, the others are verified or go back at the end of --grace. A second signal stops on the spot, which loses nothing either.
With OTEL_EXPORTER_OTLP_ENDPOINT set, each delivery is traced.`
}

func (c workerCmd) Run(p *program) error {
	client, err := c.client()
	if err != nil {
		return err
	}
	rules, err := c.rules()
	if err != nil {
		return err
	}
	url := c.URL
	embedded := url == ""
	if embedded {
		var stop func()
		if url, stop, err = c.ownBroker(p, c.NATSListen); err != nil {
			return err
		}
		defer stop()
	}
	config, err := c.config(url, p.log)
	if err != nil {
		return err
	}
	reg := newRegistry()
	w := &worker.Worker{Metrics: worker.NewMetrics(reg), Log: p.log}
	c.tune(w)
	starting := newPhase("connecting to the broker")
	notReady := func() string {
		if why := starting.get(); why != "" {
			return why
		}
		return w.NotReady()
	}
	registerReady(reg, "skillsync_worker_ready", notReady)
	ops, err := startOps(c.Listen, reg, notReady, p.log)
	if err != nil {
		return err
	}
	defer ops.stop()

	broker, err := queue.Connect(p.ctx, config)
	if err != nil {
		return err
	}
	defer broker.Close()
	if err := c.await(p, broker, c.topology(), embedded); err != nil {
		return unlessDone(p.ctx, err)
	}
	traces := tracing.Start(p.ctx, version(), p.log)
	defer traces.Stop(p.log)
	f := fleet{
		broker: broker, client: client, rules: rules, limit: c.Limit, atOnce: c.Concurrency,
		worker: w, reg: reg, traces: traces, starting: starting,
	}
	return f.run(p)
}

// tune carries the flags over to the worker, which has its metrics already.
func (f jobFlags) tune(w *worker.Worker) {
	w.InFlight, w.Attempts, w.Grace, w.Fresh = f.InFlight, f.Attempts, f.Grace, f.VerifiedFor
	if f.VerifiedFor <= 0 {
		w.Fresh = -1
	}
	w.Provisioner = &worker.Provisioner{Settle: f.Settle, Deadline: f.VerifyTimeout, Polled: w.Metrics.VerifyPolls.Inc}
}

// unlessDone hides errors that are only the shutdown seen from elsewhere.
func unlessDone(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// await waits for the broker, for as long as it takes, and sees that its topology is as it
// should be. Only a broker of our own is set up; one that others run is theirs to set up.
func (c workerCmd) await(p *program, b *queue.Broker, t queue.Topology, own bool) error {
	if err := b.Await(p.ctx); err != nil {
		return err
	}
	if own {
		_, err := b.Setup(p.ctx, t)
		return err
	}
	for said := false; ; said = true {
		differences, err := b.Check(p.ctx, t)
		switch {
		case errors.Is(err, queue.ErrUnreachable) && p.ctx.Err() == nil:
			p.log.Warn().Err(err).Msg("the broker does not answer; trying again")
		case err != nil:
			return err
		case len(differences) == 0:
			return nil
		case !onlyMissing(differences):
			return drifted(differences)
		case !said: // compose and charts start workers and setup side by side
			p.log.Warn().Str("missing", drifted(differences).Error()).Msg(`waiting for "skillsync setup"`)
		}
		select {
		case <-p.ctx.Done():
			return context.Cause(p.ctx)
		case <-time.After(2 * time.Second):
		}
	}
}

func onlyMissing(differences []queue.Difference) bool {
	for _, d := range differences {
		if d.Setting != "" {
			return false
		}
	}
	return true
}

func drifted(differences []queue.Difference) error {
	texts := make([]string, len(differences))
	for i, d := range differences {
		texts[i] = d.String()
	}
	return fmt.Errorf("the broker is not set up as this worker needs it; run \"skillsync setup\" with an administrator's credentials:\n  %s", strings.Join(texts, "\n  "))
}

// A fleet member: everything that one worker process runs.
type fleet struct {
	broker   *queue.Broker
	client   *genesys.Client
	rules    *mapping.Mapping
	limit    int
	atOnce   int
	worker   *worker.Worker
	reg      *prometheus.Registry
	traces   *tracing.Traces
	starting *phase
}

// run works until ctx ends, and returns when everything it started is quiet.
func (f *fleet) run(p *program) error {
	bucket, err := f.budget(p)
	if err != nil {
		return unlessDone(p.ctx, err)
	}
	f.client.Limiter, f.client.MaxInFlight, f.worker.Starting = timeLimiter(f.reg, bucket, f.traces), f.atOnce, startingAt(f.limit, f.atOnce)
	f.client.OnThrottle = func(ctx context.Context, d time.Duration) {
		if err := bucket.Throttled(context.WithoutCancel(ctx), d, "Genesys Cloud answered 429"); err != nil {
			p.log.Warn().Err(err).Msg("the fleet could not be told of a 429")
		}
	}
	f.client.Observe = observe(f.reg, f.traces)

	// The budget outlives the fetching: records that drain still spend requests.
	budget, stop := context.WithCancel(context.WithoutCancel(p.ctx))
	var running sync.WaitGroup
	running.Go(func() { f.report(p, "budget", bucket.Run(budget)) })
	clock := newClock(f.broker)
	running.Go(func() { clock.run(budget) })
	observer := newObserver(f.reg, observer{
		broker: f.broker, bucket: bucket, inFlight: f.worker.InFlight,
		perWorker: perWorkerMinute(f.worker.InFlight, f.atOnce, f.worker.Provisioner.Settle),
	})
	running.Go(func() { observer.run(budget) })
	defer running.Wait()
	defer stop()

	f.starting.set("asking Genesys Cloud which profile it speaks")
	profile, err := discover(p.ctx, p, f.client, func(err error) { f.starting.set(err.Error()) })
	if err != nil {
		return unlessDone(p.ctx, err)
	}
	if err := f.assemble(p.ctx, profile, clock); err != nil {
		return unlessDone(p.ctx, err)
	}
	f.starting.set("")
	p.log.Info().Str("mapping", f.rules.Version()).Int("limit_per_minute", f.limit).Msg("fetching records")
	err = f.worker.Run(p.ctx)
	p.log.Info().Msg("drained: no record is held any more")
	return err
}

func (f *fleet) report(p *program, what string, err error) {
	if err != nil && !errors.Is(err, context.Canceled) {
		p.log.Error().Err(err).Str("part", what).Msg("ended")
	}
}

// budget is the fleet's token bucket, one per OAuth client.
func (f *fleet) budget(p *program) (*ratelimit.Bucket, error) {
	store, err := f.broker.KV(p.ctx, queue.LimitsBucket)
	if err != nil {
		return nil, err
	}
	b := &ratelimit.Bucket{
		Store: store,
		Key:   queue.Key(f.client.ClientID),
		Limit: f.limit,
		Clock: f.broker.Now,
		Name:  name(),
		Log:   p.log,

		Resumed: f.pauses(),
	}
	registerBudget(f.reg, b)
	return b, nil
}

// startingAt is how many records are on their way to the patch. Under a low limit they are those
// of a third of a minute: enough for reads to be shared by many, and few enough that those fetched
// first are soon done.
func startingAt(limit, atOnce int) int {
	if limit <= 0 {
		return 3 * atOnce
	}
	return min(3*atOnce, max(32, limit/3))
}

// pauses makes what the bucket calls at the end of a pause: the worker, which may have stopped
// fetching, is to go on.
func (f *fleet) pauses() (over func()) {
	ch := make(chan struct{}, 1)
	f.worker.Over = ch
	return func() {
		select {
		case ch <- struct{}{}:
		default:
		}
	}
}

func (f *fleet) assemble(ctx context.Context, profile genesys.Profile, clock *clock) error {
	q, err := f.broker.Queue(ctx)
	if err != nil {
		return err
	}
	store, err := f.broker.KV(ctx, queue.LedgerBucket)
	if err != nil {
		return err
	}
	f.worker.Name, f.worker.App = name(), version()
	f.worker.Queue = q
	f.worker.Lease = q.AckWait()
	f.worker.Ledger = &ledger.Ledger{
		Store:  store,
		Worker: rand.Text(),
		Target: target(f.client.API),
		TTL:    q.AckWait(),
		Now:    clock.now,

		Conflict: f.worker.Metrics.LedgerConflicts.Inc,
	}
	f.worker.Provisioner.Directory = f.traces.Directory(f.client)
	if f.traces != nil {
		f.worker.Trace = f.traces.Process
	}
	f.worker.Provisioner.Mapping = f.rules
	f.worker.Provisioner.Profile = profile
	return nil
}

// name tells people which process this is.
func name() string {
	host, err := os.Hostname()
	if err != nil {
		host = "worker"
	}
	return fmt.Sprintf("%s/%d", host, os.Getpid())
}

// target names the org in the ledger: what was applied to one org says nothing about another.
func target(api string) string {
	sum := sha256.Sum256([]byte(strings.ToLower(api)))
	return hex.EncodeToString(sum[:6])
}

// outlookMetrics are what workers and consoles tell of the budget alike.
var outlookMetrics = []struct {
	name, help string
	value      func(o ratelimit.Outlook, now time.Time) float64 // now by the broker's clock
}{
	{"skillsync_budget_limit_per_minute", "The limit in force, in requests a minute for the whole fleet; 0 for none.", func(o ratelimit.Outlook, _ time.Time) float64 { return float64(o.Limit) }},
	{"skillsync_budget_allowed_per_minute", "Requests a minute that the whole fleet may send, now or after the pause; 0 without a limit.", func(o ratelimit.Outlook, _ time.Time) float64 { return o.Allowed }},
	{"skillsync_budget_used_per_minute", "Slots that the whole fleet took in the last 60 s; 0 without a limit.", func(o ratelimit.Outlook, _ time.Time) float64 { return o.Used }},
	{"skillsync_budget_paused_seconds", "How much longer the fleet is paused.", func(o ratelimit.Outlook, now time.Time) float64 { return max(0, o.PausedUntil.Sub(now).Seconds()) }},
}

// registerBudget shows the bucket as this process sees it.
func registerBudget(reg prometheus.Registerer, b *ratelimit.Bucket) {
	auto := promauto.With(reg)
	for _, m := range outlookMetrics {
		auto.NewGaugeFunc(prometheus.GaugeOpts{Name: m.name, Help: m.help}, func() float64 {
			s := b.Snapshot()
			return m.value(s.Outlook, time.Now().Add(s.Offset))
		})
	}
	gauge := func(name, help string, value func(ratelimit.Snapshot) float64) {
		auto.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return value(b.Snapshot()) })
	}
	gauge("skillsync_budget_waiting", "Requests of this worker that wait for the budget.", func(s ratelimit.Snapshot) float64 { return float64(s.Waiting) })
	gauge("skillsync_budget_unreachable", "1 while the budget cannot be reached, and this worker sends nothing.", func(s ratelimit.Snapshot) float64 { return oneIf(s.Unreachable) })
	gauge("skillsync_clock_offset_seconds", "How far the broker's clock is ahead of this machine's.", func(s ratelimit.Snapshot) float64 { return s.Offset.Seconds() })
	counter := func(name, help string, value func(ratelimit.Snapshot) uint64) {
		auto.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, func() float64 { return float64(value(b.Snapshot())) })
	}
	counter("skillsync_budget_granted_total", "Requests that this worker was granted.", func(s ratelimit.Snapshot) uint64 { return s.Granted })
	counter("skillsync_budget_lost_total", "Slots that this worker took from the budget and nobody used.", func(s ratelimit.Snapshot) uint64 { return s.Lost })
	counter("skillsync_budget_conflicts_total", "Reservations that came too late because another worker made one first; they are tried again.", func(s ratelimit.Snapshot) uint64 { return s.Conflicts })
	counter("skillsync_budget_repairs_total", "Times the budget held what only damage or a broken clock can have written.", func(s ratelimit.Snapshot) uint64 { return s.Repairs })
}

func oneIf(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

// A timedLimiter tells how long each granted request waited.
type timedLimiter struct {
	genesys.Limiter
	traces *tracing.Traces
	waited prometheus.Observer
}

func timeLimiter(reg prometheus.Registerer, l genesys.Limiter, traces *tracing.Traces) timedLimiter {
	return timedLimiter{l, traces, promauto.With(reg).NewHistogram(prometheus.HistogramOpts{
		Name: "skillsync_budget_wait_seconds", Help: "How long requests waited for the budget that were granted.",
		Buckets: []float64{.001, .01, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120},
	})}
}

func (l timedLimiter) Wait(ctx context.Context) error {
	start := time.Now()
	err := l.Limiter.Wait(ctx)
	if err == nil {
		l.waited.Observe(time.Since(start).Seconds())
		l.traces.Waited(ctx, start)
	}
	return err
}

// A phase is what a worker that does not fetch yet is busy with.
type phase struct{ what atomic.Pointer[string] }

func newPhase(what string) *phase {
	var p phase
	p.set(what)
	return &p
}

func (p *phase) set(what string) { p.what.Store(&what) }
func (p *phase) get() string     { return *p.what.Load() }

// A clock tells the broker's time without asking each time.
type clock struct {
	broker *queue.Broker
	offset atomic.Int64
}

func newClock(b *queue.Broker) *clock { return &clock{broker: b} }

func (c *clock) now() time.Time { return time.Now().Add(time.Duration(c.offset.Load())) }

// run asks for the broker's time once a minute.
func (c *clock) run(ctx context.Context) {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		if offset, err := c.broker.Offset(ctx); err == nil {
			c.offset.Store(int64(offset))
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
