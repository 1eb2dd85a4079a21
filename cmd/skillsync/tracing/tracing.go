// Package tracing tells OpenTelemetry what becomes of each record: one trace from its publisher,
// over the headers of its message, through every delivery and every request to Genesys Cloud.
//
// It is off unless the environment names a collector; then the packages that do the work are
// handed nothing of it, and pay nothing. Spans hold no personal data: no field of a record, no
// employee id, no user id, and no text of an error.
package tracing

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"github.com/rs/zerolog"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// Traces makes the spans of one process. A nil *Traces is off: its methods do nothing, but for
// Process, which a worker that is not traced must not be given.
type Traces struct {
	provider *sdktrace.TracerProvider
	tracer   trace.Tracer
}

// Start begins tracing if the environment asks for it, and returns nil if it does not.
//
// It is asked for by OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, unless
// OTEL_SDK_DISABLED is true or OTEL_TRACES_EXPORTER is none. The other variables of the OTLP
// exporter and the SDK hold as well, for protocol, headers, certificates, sampling, batching and
// resource (https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/).
// What is wrong with them is a warning in the log: no record waits for its trace.
func Start(ctx context.Context, version string, log zerolog.Logger) *Traces {
	if !wanted(log) {
		return nil
	}
	often := log.Sample(&zerolog.BurstSampler{Burst: 1, Period: time.Minute}) // a collector may be down for hours
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		often.Warn().Err(err).Msg("traces are incomplete")
	}))
	otel.SetLogger(logr.FromSlogHandler(zerolog.NewSlogHandler(log.Level(zerolog.WarnLevel))))
	exporter, err := exporter(ctx, log)
	if err != nil {
		log.Warn().Err(err).Msg("no traces are sent: see to the OTEL_EXPORTER_OTLP_… variables")
		return nil
	}
	about, err := resource.New(ctx,
		resource.WithAttributes(semconv.ServiceName("skillsync"), semconv.ServiceVersion(version)),
		resource.WithHost(), resource.WithTelemetrySDK(),
		resource.WithFromEnv(), // last, for it wins
	)
	if err != nil {
		log.Warn().Err(err).Msg("traces do not say all about where they come from")
	}
	return New(sdktrace.WithBatcher(exporter, batching()...), sdktrace.WithResource(about))
}

// New returns traces that are sent as the options say.
func New(options ...sdktrace.TracerProviderOption) *Traces {
	provider := sdktrace.NewTracerProvider(options...)
	return &Traces{provider, provider.Tracer("skillsync")}
}

func wanted(log zerolog.Logger) bool {
	name := "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
	if os.Getenv(name) == "" {
		name = "OTEL_EXPORTER_OTLP_ENDPOINT"
	}
	endpoint := os.Getenv(name)
	if endpoint == "" || strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") {
		return false
	}
	switch exporter := os.Getenv("OTEL_TRACES_EXPORTER"); exporter {
	case "", "otlp":
	case "none":
		return false
	default:
		log.Warn().Str("OTEL_TRACES_EXPORTER", exporter).Msg("no traces are sent: the exporters are otlp and none")
		return false
	}
	// The SDK would go on with an address of its own.
	if u, err := url.Parse(endpoint); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		log.Warn().Str(name, endpoint).Msg("no traces are sent: the endpoint must be a URL such as http://localhost:4318")
		return false
	}
	return true
}

func exporter(ctx context.Context, log zerolog.Logger) (sdktrace.SpanExporter, error) {
	const byHTTP = "http/protobuf"
	protocol := cmp.Or(os.Getenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"), os.Getenv("OTEL_EXPORTER_OTLP_PROTOCOL"), byHTTP)
	var client otlptrace.Client
	switch protocol {
	case "grpc":
		client = otlptracegrpc.NewClient()
	case byHTTP:
		client = otlptracehttp.NewClient()
	default:
		log.Warn().Str("OTEL_EXPORTER_OTLP_PROTOCOL", protocol).Msg("traces are sent by " + byHTTP + "; the other protocol is grpc")
		client = otlptracehttp.NewClient()
	}
	return otlptrace.New(ctx, client)
}

// batching sizes the queue of spans for the rate at which records are published, unless the
// environment does: what does not fit into it is not traced, since nothing waits for a collector.
func batching() (options []sdktrace.BatchSpanProcessorOption) {
	if os.Getenv("OTEL_BSP_MAX_QUEUE_SIZE") == "" {
		options = append(options, sdktrace.WithMaxQueueSize(1<<15))
	}
	if os.Getenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE") == "" {
		options = append(options, sdktrace.WithMaxExportBatchSize(1<<11))
	}
	return options
}

// stopWithin bounds what the end of the process waits for the collector.
const stopWithin = 5 * time.Second

// Stop sends what is not sent yet, for 5 seconds at most, and ends the tracing.
func (t *Traces) Stop(log zerolog.Logger) {
	if t == nil {
		return
	}
	ctx, cancel := context.WithTimeoutCause(context.Background(), stopWithin, fmt.Errorf("the collector took longer than %s", stopWithin))
	defer cancel()
	if err := t.provider.Shutdown(ctx); err != nil {
		log.Warn().Err(err).Msg("the last traces could not be sent")
	}
}
