package tracing

import (
	"context"
	"maps"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"skillsync/queue"
	"skillsync/worker"
)

// Attributes that the semantic conventions have no names for.
const (
	batchKey         = attribute.Key("skillsync.batch")          // that the publisher named
	sequenceKey      = attribute.Key("skillsync.sequence")       // of the message in its stream
	duplicateKey     = attribute.Key("skillsync.duplicate")      // the broker had the message already
	deliveryKey      = attribute.Key("skillsync.delivery")       // how often the message was delivered
	queuedKey        = attribute.Key("skillsync.queued_seconds") // from its publication to this delivery
	attemptKey       = attribute.Key("skillsync.attempt")
	verdictKey       = attribute.Key("skillsync.verdict") // how the delivery was settled
	replayKey        = attribute.Key("skillsync.replay")  // the name of the replay that published the message
	replaysKey       = attribute.Key("skillsync.replays") // how often the record was replayed
	correlationIDKey = attribute.Key("skillsync.genesys.correlation_id")
	operationKey     = attribute.Key("skillsync.genesys.operation")
	sharedKey        = attribute.Key("skillsync.shared_by") // how many callers share a request
)

// messaging is what all spans of messages have (OpenTelemetry semantic conventions for messaging
// spans). The subject without the employee's key stands for the destination.
func messaging(name string, kind attribute.KeyValue, size int) trace.SpanStartEventOption {
	return trace.WithAttributes(
		semconv.MessagingSystemKey.String("nats"),
		semconv.MessagingOperationName(name),
		kind,
		semconv.MessagingDestinationName(queue.RecordsSubject),
		semconv.MessagingMessageBodySize(size),
	)
}

// Publish begins the trace of a record that is about to be published, and writes it into the
// message's headers. The function it returns is to be called with the broker's answer.
func (t *Traces) Publish(ctx context.Context, m *queue.Message) func(queue.Ack, error) {
	if t == nil {
		return func(queue.Ack, error) {}
	}
	ctx, span := t.tracer.Start(ctx, "publish "+queue.RecordsSubject, trace.WithSpanKind(trace.SpanKindProducer),
		messaging("publish", semconv.MessagingOperationTypeSend, len(m.Data)))
	if batch := m.Header[queue.HeaderBatch]; len(batch) > 0 {
		span.SetAttributes(batchKey.String(batch[0]))
	}
	m.Header = maps.Clone(m.Header) // it may be the one of all records
	if m.Header == nil {
		m.Header = map[string][]string{}
	}
	propagation.TraceContext{}.Inject(ctx, headers(m.Header))
	return func(ack queue.Ack, err error) {
		if err != nil {
			fail(span, "not_stored")
		} else {
			span.SetAttributes(sequenceKey.Int64(int64(ack.Sequence)))
		}
		if ack.Duplicate { // the message that is stored belongs to another trace
			span.SetAttributes(duplicateKey.Bool(true))
		}
		span.End()
	}
}

// Process begins the span of one delivery: Worker.Trace. It continues the trace of the record's
// publisher, so that all deliveries of a message are in one trace. A record that was replayed, be
// it weeks later, has a trace of its own, which is linked to the first.
func (t *Traces) Process(ctx context.Context, d *queue.Delivery) (context.Context, worker.Span) {
	published := propagation.TraceContext{}.Extract(ctx, headers(d.Header))
	options := []trace.SpanStartOption{
		trace.WithSpanKind(trace.SpanKindConsumer),
		messaging("process", semconv.MessagingOperationTypeProcess, len(d.Data)),
		trace.WithAttributes(
			semconv.MessagingDestinationSubscriptionName(queue.Consumer),
			sequenceKey.Int64(int64(d.Sequence)),
			deliveryKey.Int(d.Delivered),
			queuedKey.Float64(max(0, time.Since(d.Published).Seconds())),
		),
	}
	if batch := d.Batch(); batch != "" {
		options = append(options, trace.WithAttributes(batchKey.String(batch)))
	}
	if d.Replays > 0 {
		options = append(options, trace.WithNewRoot(), trace.WithLinks(trace.LinkFromContext(published)),
			trace.WithAttributes(replaysKey.Int(d.Replays), replayKey.String(headers(d.Header).Get(queue.HeaderReplay))))
	}
	ctx, span := t.tracer.Start(published, "process "+queue.RecordsSubject, options...)
	return ctx, delivery{span}
}

type delivery struct{ trace.Span }

func (d delivery) TraceID() string {
	if sc := d.SpanContext(); sc.IsSampled() {
		return sc.TraceID().String()
	}
	return ""
}

func (d delivery) End(verdict string, attempt int, failure string) {
	d.SetAttributes(verdictKey.String(verdict))
	if attempt > 0 {
		d.SetAttributes(attemptKey.Int(attempt))
	}
	if failure != "" {
		fail(d.Span, failure)
	}
	d.Span.End()
}

// fail marks a span as failed. The description stays empty: texts of errors are for the log.
func fail(span trace.Span, kind string) {
	span.SetAttributes(semconv.ErrorTypeKey.String(kind))
	span.SetStatus(codes.Error, "")
}

// Headers of a message carry a trace. Publishers in other languages do not agree on upper and
// lower case.
type headers map[string][]string

func (h headers) Get(name string) string {
	for k, v := range h {
		if len(v) > 0 && strings.EqualFold(k, name) {
			return v[0]
		}
	}
	return ""
}

func (h headers) Set(name, value string) { h[name] = []string{value} }

func (h headers) Keys() (names []string) {
	for k := range h {
		names = append(names, k)
	}
	return names
}
