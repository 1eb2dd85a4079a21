package main

import (
	"compress/gzip"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"skillsync/cmd/skillsync/tracing"
	"skillsync/genesys/sandbox"
	"skillsync/queue"
)

// spans are what an exporter was given.
type spans []sdktrace.ReadOnlySpan

func (s spans) where(is func(sdktrace.ReadOnlySpan) bool) (found spans) {
	for _, span := range s {
		if is(span) {
			found = append(found, span)
		}
	}
	return found
}

func (s spans) named(name string) spans {
	return s.where(func(span sdktrace.ReadOnlySpan) bool { return span.Name() == name })
}

func (s spans) of(id trace.TraceID) spans {
	return s.where(func(span sdktrace.ReadOnlySpan) bool { return span.SpanContext().TraceID() == id })
}

func (s spans) with(key, value string) spans {
	return s.where(func(span sdktrace.ReadOnlySpan) bool { return attributeOf(span, key) == value })
}

func (s spans) below(parent sdktrace.ReadOnlySpan) spans {
	return s.where(func(span sdktrace.ReadOnlySpan) bool {
		return span.Parent().SpanID() == parent.SpanContext().SpanID()
	})
}

func (s spans) names() []string {
	names := make([]string, len(s))
	for i, span := range s {
		names[i] = span.Name()
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// root is the one span of a trace that has no parent; all others must have theirs in the trace.
func (s spans) root(t *testing.T) sdktrace.ReadOnlySpan {
	t.Helper()
	var roots spans
	for _, span := range s {
		switch parent := span.Parent(); {
		case !parent.IsValid():
			roots = append(roots, span)
		case len(s.where(func(p sdktrace.ReadOnlySpan) bool { return p.SpanContext().SpanID() == parent.SpanID() })) != 1:
			t.Errorf("%s has its parent elsewhere", span.Name())
		}
	}
	if len(roots) != 1 {
		t.Fatalf("%d spans without a parent: %s", len(roots), roots.names())
	}
	return roots[0]
}

func attributeOf(span sdktrace.ReadOnlySpan, key string) string {
	for _, a := range span.Attributes() {
		if string(a.Key) == key {
			return a.Value.String()
		}
	}
	return ""
}

// A tracedRig is a fleet, and a publisher, whose spans are kept.
type tracedRig struct {
	*rig
	traces   *tracing.Traces
	exporter *tracetest.InMemoryExporter
}

func newTracedRig(t *testing.T) *tracedRig {
	exporter := tracetest.NewInMemoryExporter()
	return &tracedRig{newRig(t, sandbox.Org(100)), tracing.New(sdktrace.WithSyncer(exporter), sdktrace.WithSampler(sdktrace.AlwaysSample())), exporter}
}

func (r *tracedRig) publish(csv string) {
	r.Helper()
	run := publishing{publisher: &queue.Publisher{Broker: r.broker}, traces: r.traces, say: io.Discard}
	run.meter = newMeter(io.Discard, "publish", "rows", 0)
	if err := run.rows(r.Context(), "employees.csv", "csv", "monday", strings.NewReader(csv)); err != nil {
		r.Fatal(err)
	}
	if err := run.flush(r.Context()); err != nil {
		r.Fatal(err)
	}
	r.count += run.Published
}

func (r *tracedRig) startTraced() (stop func()) {
	return r.start(func(f *fleet) { f.traces = r.traces })
}

func (r *tracedRig) spans() (all spans) {
	for _, s := range r.exporter.GetSpans().Snapshots() {
		all = append(all, s)
	}
	return all
}

func TestOneTraceFollowsARecordFromItsPublisherToItsVerification(t *testing.T) {
	t.Parallel()
	r := newTracedRig(t)
	r.publish("employee_id,department,email\nEMP-0001,Billing,jane.doe@example.com\n")
	stop := r.startTraced()
	r.settle(time.Minute)
	stop()

	published := r.spans().named("publish employees.records")
	if len(published) != 1 {
		t.Fatalf("%d spans of a publisher", len(published))
	}
	one := r.spans().of(published[0].SpanContext().TraceID())
	if root := one.root(t); root.Name() != "publish employees.records" || root.SpanKind() != trace.SpanKindProducer {
		t.Errorf("it begins with %s", root.Name())
	}
	processed := one.below(published[0])
	if len(processed) != 1 || processed[0].SpanKind() != trace.SpanKindConsumer || !processed[0].Parent().IsRemote() {
		t.Fatalf("what follows the publisher: %s", processed.names())
	}
	for key, want := range map[string]string{
		"messaging.system": "nats", "messaging.operation.name": "process", "messaging.operation.type": "process",
		"messaging.destination.name": "employees.records", "messaging.destination.subscription.name": "workers",
		"skillsync.batch": "monday", "skillsync.sequence": "1", "skillsync.delivery": "1", "skillsync.attempt": "1",
		"skillsync.verdict": "verified", "error.type": "",
	} {
		if got := attributeOf(processed[0], key); got != want {
			t.Errorf("%s of the delivery is %q, want %q", key, got, want)
		}
	}
	// Its own requests, and no other's: each step has a span, with its requests below it.
	if diff := slices.Compare(one.below(processed[0]).names(), []string{"find user", "patch user", "read skills"}); diff != 0 {
		t.Errorf("steps: %s", one.below(processed[0]).names())
	}
	for step, request := range map[string]string{
		"find user": "GET /api/v2/users/externalid/{authority}/{key}", "patch user": "PATCH /api/v2/scim/v2/users/{id}", "read skills": "GET /api/v2/users",
	} {
		for _, span := range one.named(step) {
			requests := one.below(span).named(request)
			if len(requests) != 1 || requests[0].SpanKind() != trace.SpanKindClient || attributeOf(requests[0], "http.response.status_code") != "200" ||
				attributeOf(requests[0], "server.address") != "127.0.0.1" || attributeOf(requests[0], "skillsync.genesys.correlation_id") == "" {
				t.Errorf("below %s: %s", step, one.below(span).names())
			}
		}
	}
	if reads := len(one.named("read skills")); reads < 2 {
		t.Errorf("%d reads: one is before the patch, and one verifies it", reads)
	}
	if sent, traced := r.sandbox.Stats().Requests, len(r.spans().where(func(s sdktrace.ReadOnlySpan) bool { return s.SpanKind() == trace.SpanKindClient })); sent != traced {
		t.Errorf("%d requests were sent, and %d traced", sent, traced)
	}
	if got := attributeOf(published[0], "skillsync.sequence"); got != "1" || published[0].Status().Code == codes.Error {
		t.Errorf("the publisher's span: %v", published[0].Attributes())
	}
}

func TestAReadThatRecordsShareIsLinkedWithAllOfThem(t *testing.T) {
	t.Parallel()
	r := newTracedRig(t)
	var csv strings.Builder
	csv.WriteString("employee_id,department\n")
	for i := range 40 {
		fmt.Fprintf(&csv, "EMP-%04d,Billing\n", i+1)
	}
	r.publish(csv.String())
	stop := r.startTraced()
	r.settle(time.Minute)
	stop()
	all, shared := r.spans(), 0
	if n := len(all.named("publish employees.records")); n != 40 {
		t.Errorf("%d traces begin with a publisher", n)
	}
	for _, published := range all.named("publish employees.records") {
		all.of(published.SpanContext().TraceID()).root(t)
	}
	for _, read := range all.named("read skills") {
		switch own := all.below(read).named("GET /api/v2/users"); {
		case len(own) == 1:
		case len(read.Links()) != 1:
			t.Errorf("a read with %d requests and %d links", len(own), len(read.Links()))
		default:
			shared++
			request := all.where(func(s sdktrace.ReadOnlySpan) bool {
				return s.SpanContext().SpanID() == read.Links()[0].SpanContext.SpanID()
			})
			back := len(request) == 1 && slices.ContainsFunc(request[0].Links(), func(l sdktrace.Link) bool { return l.SpanContext.SpanID() == read.SpanContext().SpanID() })
			if !back || request[0].Name() != "GET /api/v2/users" {
				t.Errorf("a read is linked to %s, and that not to the read", request.names())
			}
		}
	}
	if shared == 0 {
		t.Error("no read was shared")
	}
}

func TestAReplayIsATraceOfItsOwnLinkedToTheFirst(t *testing.T) {
	t.Parallel()
	r := newTracedRig(t)
	r.publish("employee_id,department\nEMP-9999,Billing\n") // nobody knows them
	stop := r.startTraced()
	r.settle(time.Minute)
	stop()
	first := r.spans().named("publish employees.records")[0]
	dead := r.spans().named("process employees.records").with("skillsync.verdict", "dead_letter:user_not_found")
	if len(dead) != 1 || dead[0].Status().Code != codes.Error || attributeOf(dead[0], "error.type") != "user_not_found" || dead[0].Parent().SpanID() != first.SpanContext().SpanID() {
		t.Fatalf("deliveries that failed: %v", dead)
	}
	env := []string{"NATS_URL=" + r.url}
	if out, _, _ := call(t, env, "", "dlq", "show", "1"); !strings.Contains(out, first.SpanContext().TraceID().String()) {
		t.Errorf("the dead letter does not name the trace:\n%s", out)
	}
	if _, errs, code := call(t, env, "", "dlq", "replay", "--all", "--yes", "--name", "again"); code != 0 {
		t.Fatalf("replay: %d, %s", code, errs)
	}
	r.exporter.Reset()
	r.count++
	stop = r.startTraced()
	r.settle(time.Minute)
	stop()
	again := r.spans().named("process employees.records")
	if len(again) != 1 || again[0].Parent().IsValid() || again[0].SpanContext().TraceID() == first.SpanContext().TraceID() {
		t.Fatalf("deliveries after the replay: %v", again)
	}
	if links := again[0].Links(); len(links) != 1 || links[0].SpanContext.SpanID() != first.SpanContext().SpanID() {
		t.Errorf("links: %v", links)
	}
	if attributeOf(again[0], "skillsync.replay") != "again" || attributeOf(again[0], "skillsync.replays") != "1" {
		t.Errorf("%v", again[0].Attributes())
	}
}

func TestTracesHoldNothingPersonal(t *testing.T) {
	t.Parallel()
	r := newTracedRig(t)
	r.sandbox.Inject(sandbox.Fault{Op: "patch", Kind: "500", Times: 1})
	r.publish("employee_id,department,email\nEMP-0001,Billing,jane.doe@example.com\nEMP-9999,Sales,john.doe@example.com\nEMP-0002,\"Support-Tier2\",\n")
	stop := r.startTraced()
	r.settle(time.Minute)
	stop()
	secret := []string{"EMP-", "jane.doe", "john.doe", "example.com", "Billing", "Sales", "Support-Tier2", "Bearer"}
	for _, q := range r.sandbox.Requests() {
		if q.User != "" {
			secret = append(secret, q.User)
		}
	}
	look := func(span sdktrace.ReadOnlySpan, what string) {
		for _, s := range secret {
			if strings.Contains(what, s) {
				t.Errorf("%s tells %q in %q", span.Name(), s, what)
			}
		}
	}
	attributes := func(span sdktrace.ReadOnlySpan, set []attribute.KeyValue) {
		for _, a := range set {
			look(span, string(a.Key)+"="+a.Value.String())
		}
	}
	failed := 0
	for _, span := range r.spans() {
		look(span, span.Name())
		look(span, span.Status().Description)
		attributes(span, span.Attributes())
		for _, e := range span.Events() {
			look(span, e.Name)
			attributes(span, e.Attributes)
		}
		for _, l := range span.Links() {
			attributes(span, l.Attributes)
		}
		if span.Status().Code == codes.Error {
			failed++
		}
	}
	if failed < 4 { // the patch that failed, its step and its delivery; the lookup of nobody
		t.Errorf("%d spans failed", failed)
	}
}

// A traceCollector takes what OTLP exporters send over HTTP.
type traceCollector struct {
	mu    sync.Mutex
	spans []*otlp.Span
	from  map[string]bool // values of service.name
}

func (c *traceCollector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		var err error
		if body, err = gzip.NewReader(r.Body); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
	}
	data, err := io.ReadAll(body)
	var sent collector.ExportTraceServiceRequest
	if err == nil {
		err = proto.Unmarshal(data, &sent)
	}
	if err != nil || r.URL.Path != "/v1/traces" {
		http.Error(w, fmt.Sprint(r.URL.Path, err), http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, from := range sent.ResourceSpans {
		for _, a := range from.Resource.Attributes {
			if a.Key == "service.name" {
				c.from[a.Value.GetStringValue()] = true
			}
		}
		for _, scope := range from.ScopeSpans {
			c.spans = append(c.spans, scope.Spans...)
		}
	}
}

func TestPublisherAndWorkerProcessesSendOneTraceToTheCollector(t *testing.T) {
	t.Parallel()
	server, b := startBroker(t, queue.Topology{})
	c := &traceCollector{from: map[string]bool{}}
	env := append(orgEnv(onPort(t, sandbox.New(sandbox.Org(10)))), "NATS_URL="+server.URL(), "SKILLSYNC_SETTLE=50ms")
	traced := func(service string) []string {
		return append(slices.Clone(env), "OTEL_EXPORTER_OTLP_ENDPOINT="+onPort(t, c), "OTEL_SERVICE_NAME="+service)
	}
	publishAll(t, append(traced("etl"), "OTEL_SDK_DISABLED=true", "SKILLSYNC_BATCH=off"), 1) // no trace of this one, which the next supersedes
	publishAll(t, traced("etl"), 1)
	w := start(t, append(traced("workers"), "SKILLSYNC_LOG_FORMAT=json"), "worker")
	settled(t, b, 2, time.Minute, nil)
	w.signal(syscall.SIGTERM)
	if code := w.end(30 * time.Second); code != 0 {
		t.Fatalf("worker: %d, %s", code, w.output())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.from["etl"] || !c.from["workers"] {
		t.Errorf("spans came from %v", c.from)
	}
	var published *otlp.Span
	for _, s := range c.spans {
		if s.Name == "publish employees.records" {
			if published != nil {
				t.Fatal("a publisher was told to be silent, and was not")
			}
			published = s
		}
	}
	if published == nil {
		t.Fatalf("no publisher among %d spans", len(c.spans))
	}
	id := string(published.TraceId)
	ids, names := map[string]bool{}, map[string]bool{}
	for _, s := range c.spans {
		if string(s.TraceId) == id {
			ids[string(s.SpanId)], names[s.Name] = true, true
		}
	}
	for _, s := range c.spans {
		if string(s.TraceId) == id && len(s.ParentSpanId) > 0 && !ids[string(s.ParentSpanId)] {
			t.Errorf("%s has its parent elsewhere", s.Name)
		}
	}
	for _, want := range []string{"process employees.records", "find user", "patch user", "PATCH /api/v2/scim/v2/users/{id}"} {
		if !names[want] {
			t.Errorf("%s is missing in %v", want, names)
		}
	}
	if log := w.output(); !strings.Contains(log, `"trace_id":"`+hex.EncodeToString(published.TraceId)+`"`) {
		t.Errorf("the worker's log does not name the trace:\n%s", tail(log, 2000))
	}
}

func TestWithoutACollectorNothingIsTraced(t *testing.T) {
	t.Parallel()
	r := newTracedRig(t)
	r.traces = nil
	r.publish("employee_id,department\nEMP-0001,Billing\n")
	q, err := r.broker.Queue(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var header map[string][]string
	if n, err := q.Fetch(t.Context(), 1, time.Second, func(d *queue.Delivery) { header = d.Header; d.Abandon() }); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	if _, traced := header[queue.HeaderTrace]; traced || header[queue.HeaderBatch] == nil {
		t.Errorf("headers: %v", header)
	}
}
