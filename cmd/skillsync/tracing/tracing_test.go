package tracing

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"

	"skillsync/genesys"
	"skillsync/queue"
)

func TestMain(m *testing.M) {
	for _, variable := range os.Environ() { // that whoever runs the tests has set for programs
		if name, _, _ := strings.Cut(variable, "="); strings.HasPrefix(name, "OTEL_") {
			os.Unsetenv(name)
		}
	}
	os.Exit(m.Run())
}

// one publishes one record, and ends the tracing.
func one(traces *Traces, log zerolog.Logger) {
	m := queue.Message{Data: []byte("{}")}
	traces.Publish(context.Background(), &m)(queue.Ack{Sequence: 1}, nil)
	traces.Stop(log)
}

func TestTheEnvironmentDecidesWhetherAndHowTracesAreSent(t *testing.T) {
	var byHTTP, byGRPC atomic.Int64
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if r.Header.Get("X-Token") == "secret" {
			byHTTP.Add(1)
		}
	}))
	t.Cleanup(web.Close)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	collector.RegisterTraceServiceServer(server, counting{n: &byGRPC})
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)

	for name, tt := range map[string]struct {
		env        map[string]string
		http, grpc int64
		says       string // in the log; "" for nothing
	}{
		"nothing is set":            {},
		"a collector":               {env: map[string]string{"ENDPOINT": web.URL}, http: 1},
		"a collector of traces":     {env: map[string]string{"TRACES_ENDPOINT": web.URL + "/own/path"}, http: 1},
		"gRPC":                      {env: map[string]string{"ENDPOINT": "http://" + l.Addr().String(), "PROTOCOL": "grpc"}, grpc: 1},
		"gRPC for traces":           {env: map[string]string{"ENDPOINT": "http://" + l.Addr().String(), "PROTOCOL": "http/protobuf", "TRACES_PROTOCOL": "grpc"}, grpc: 1},
		"an unknown protocol":       {env: map[string]string{"ENDPOINT": web.URL, "PROTOCOL": "http/json"}, http: 1, says: "http/json"},
		"the SDK is off":            {env: map[string]string{"ENDPOINT": web.URL, "OTEL_SDK_DISABLED": "TRUE"}},
		"the exporter is none":      {env: map[string]string{"ENDPOINT": web.URL, "OTEL_TRACES_EXPORTER": "none"}},
		"the exporter is otlp":      {env: map[string]string{"ENDPOINT": web.URL, "OTEL_TRACES_EXPORTER": "otlp"}, http: 1},
		"an exporter that we lack":  {env: map[string]string{"ENDPOINT": web.URL, "OTEL_TRACES_EXPORTER": "zipkin"}, says: "zipkin"},
		"nothing is sampled":        {env: map[string]string{"ENDPOINT": web.URL, "OTEL_TRACES_SAMPLER": "always_off"}},
		"a sampler that is none":    {env: map[string]string{"ENDPOINT": web.URL, "OTEL_TRACES_SAMPLER": "sometimes"}, http: 1, says: "sometimes"},
		"nobody is at the endpoint": {env: map[string]string{"ENDPOINT": "http://127.0.0.1:1"}, says: "refused"},
		"the endpoint is no URL":    {env: map[string]string{"ENDPOINT": "collector\x7f:4318"}, says: "OTEL_EXPORTER_OTLP_ENDPOINT"},
		"the endpoint lacks http":   {env: map[string]string{"TRACES_ENDPOINT": "collector:4318"}, says: "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-token=secret")
			for key, value := range tt.env {
				if !strings.HasPrefix(key, "OTEL_") {
					key = "OTEL_EXPORTER_OTLP_" + key
				}
				t.Setenv(key, value)
			}
			byHTTP.Store(0)
			byGRPC.Store(0)
			var said bytes.Buffer
			log := zerolog.New(zerolog.SyncWriter(&said))
			start := time.Now()
			one(Start(t.Context(), "v1", log), log)
			if byHTTP.Load() != tt.http || byGRPC.Load() != tt.grpc {
				t.Errorf("%d by HTTP and %d by gRPC, want %d and %d", byHTTP.Load(), byGRPC.Load(), tt.http, tt.grpc)
			}
			if got := said.String(); tt.says == "" && got != "" || !strings.Contains(got, tt.says) || strings.Contains(got, "secret") {
				t.Errorf("the log says %q, want %q", got, tt.says)
			}
			if took := time.Since(start); took > stopWithin+3*time.Second {
				t.Errorf("it took %s", took)
			}
		})
	}
}

type counting struct {
	collector.UnimplementedTraceServiceServer
	n *atomic.Int64
}

func (c counting) Export(context.Context, *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	c.n.Add(1)
	return &collector.ExportTraceServiceResponse{}, nil
}

func TestADeliveryContinuesTheTraceInItsHeadersWhateverTheirCase(t *testing.T) {
	const id, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	for name, tt := range map[string]struct {
		header     map[string][]string
		trace      string // "": a new one
		isSampled  bool
		tracestate string
	}{
		"lower case":             {map[string][]string{"traceparent": {"00-" + id + "-" + parent + "-01"}}, id, true, ""},
		"canonical case":         {map[string][]string{"Traceparent": {"00-" + id + "-" + parent + "-01"}, "Tracestate": {"a=b"}}, id, true, "a=b"},
		"not sampled":            {map[string][]string{"traceparent": {"00-" + id + "-" + parent + "-00"}}, id, false, ""},
		"none":                   {nil, "", true, ""},
		"an empty one":           {map[string][]string{"traceparent": {}}, "", true, ""},
		"nonsense":               {map[string][]string{"traceparent": {"00-<script>"}}, "", true, ""},
		"an id of zeros":         {map[string][]string{"traceparent": {"00-" + strings.Repeat("0", 32) + "-" + parent + "-01"}}, "", true, ""},
		"a replay without trace": {map[string][]string{queue.HeaderReplay: {"r"}}, "", true, ""},
	} {
		t.Run(name, func(t *testing.T) {
			exporter := tracetest.NewInMemoryExporter()
			traces := New(sdktrace.WithSyncer(exporter), sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.AlwaysSample())))
			d := &queue.Delivery{Header: tt.header, Sequence: 7, Delivered: 2, Published: time.Now().Add(time.Hour)}
			if tt.header[queue.HeaderReplay] != nil {
				d.Replays = 1
			}
			ctx, span := traces.Process(t.Context(), d)
			sc := trace.SpanContextFromContext(ctx)
			if got := sc.TraceID().String(); (got == id) != (tt.trace == id) {
				t.Errorf("trace %s", got)
			}
			if (span.TraceID() != "") != tt.isSampled || sc.TraceState().String() != tt.tracestate {
				t.Errorf("id %q, state %q", span.TraceID(), sc.TraceState())
			}
			span.End("verified", 1, "")
			if n := len(exporter.GetSpans()); (n == 1) != tt.isSampled {
				t.Errorf("%d spans", n)
			}
			for _, s := range exporter.GetSpans() {
				if len(s.Links) > 0 && !s.Links[0].SpanContext.IsValid() {
					t.Error("a link to nothing")
				}
			}
		})
	}
}

func TestTheHeadersOfOneRecordAreNotThoseOfTheNext(t *testing.T) {
	exporter := tracetest.NewInMemoryExporter()
	traces := New(sdktrace.WithSyncer(exporter))
	shared := map[string][]string{queue.HeaderBatch: {"b"}}
	seen := map[string]bool{}
	for range 3 {
		m := queue.Message{Header: shared}
		traces.Publish(t.Context(), &m)(queue.Ack{Sequence: 1, Duplicate: true}, nil)
		sc := trace.SpanContextFromContext(propagation.TraceContext{}.Extract(t.Context(), headers(m.Header)))
		seen[sc.TraceID().String()] = true
	}
	if len(seen) != 3 || len(shared) != 1 || len(exporter.GetSpans()) != 3 {
		t.Errorf("%d traces, %d spans, %v", len(seen), len(exporter.GetSpans()), shared)
	}
}

func TestARequestThatFailedSaysHow(t *testing.T) {
	for want, e := range map[string]genesys.Exchange{
		"":        {Status: 204},
		"429":     {Status: 429},
		"503":     {Status: 503},
		"timeout": {Err: context.DeadlineExceeded},
		"network": {Status: 200, Err: io.ErrUnexpectedEOF},
	} {
		exporter := tracetest.NewInMemoryExporter()
		New(sdktrace.WithSyncer(exporter)).Exchange(t.Context(), e)
		got := ""
		for _, a := range exporter.GetSpans()[0].Attributes {
			if a.Key == "error.type" {
				got = a.Value.String()
			}
		}
		if got != want {
			t.Errorf("%+v is %q, want %q", e, got, want)
		}
	}
}

func TestASharedRequestIsShownBelowACallerWhoseTraceIsSeen(t *testing.T) {
	exporter := tracetest.NewInMemoryExporter()
	traces := New(sdktrace.WithSyncer(exporter), sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.AlwaysSample())))
	caller := func(flags string) context.Context {
		ctx, _ := traces.Process(t.Context(), &queue.Delivery{Header: map[string][]string{
			queue.HeaderTrace: {"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-" + flags},
		}})
		return ctx
	}
	unseen, seen, also := caller("00"), caller("01"), caller("01")
	traces.Exchange(unseen, genesys.Exchange{Status: 200, Shared: []context.Context{caller("00"), seen, also}})
	spans := exporter.GetSpans()
	if len(spans) != 1 || spans[0].Parent.SpanID() != trace.SpanContextFromContext(seen).SpanID() || len(spans[0].Links) != 3 {
		t.Fatalf("%+v", spans)
	}
	for _, l := range spans[0].Links {
		if l.SpanContext.SpanID() == spans[0].Parent.SpanID() {
			t.Error("it is linked with its parent")
		}
	}
}
