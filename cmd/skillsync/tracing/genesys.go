package tracing

import (
	"context"
	"errors"
	"net"
	"slices"
	"strconv"
	"time"

	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"skillsync/genesys"
	"skillsync/worker"
)

// Directory makes a span of each step that d takes for a record. The requests that a step needs
// are below it; one that several records share is below one of them, and linked with the others.
func (t *Traces) Directory(d worker.Directory) worker.Directory {
	if t == nil {
		return d
	}
	return directory{t, d}
}

type directory struct {
	traces *Traces
	worker.Directory
}

func (d directory) Find(ctx context.Context, p genesys.Person) (id string, err error) {
	ctx, end := d.traces.step(ctx, "find user")
	defer func() { end(err) }()
	return d.Directory.Find(ctx, p)
}

func (d directory) User(ctx context.Context, id string) (user genesys.User, err error) {
	ctx, end := d.traces.step(ctx, "read skills")
	defer func() { end(err) }()
	return d.Directory.User(ctx, id)
}

func (d directory) Patch(ctx context.Context, id string, p genesys.Patch) (correlationID string, err error) {
	ctx, end := d.traces.step(ctx, "patch user")
	defer func() { end(err) }()
	return d.Directory.Patch(ctx, id, p)
}

func (t *Traces) step(ctx context.Context, name string) (context.Context, func(error)) {
	ctx, span := t.tracer.Start(ctx, name)
	return ctx, func(err error) {
		if err != nil {
			fail(span, errorType(err))
		}
		span.End()
	}
}

// Exchange makes a span of one request, which has been sent: genesys.Client.Observe. The trace is
// not passed on to Genesys Cloud, which belongs to somebody else. Of the URL it has the template:
// paths and queries name people.
func (t *Traces) Exchange(ctx context.Context, e genesys.Exchange) {
	if t == nil {
		return
	}
	route := e.Route()
	host, port := hostAndPort(e.Host)
	ctx, others := placed(ctx, e.Shared)
	links := make([]trace.Link, 0, len(others))
	for _, other := range others {
		links = append(links, trace.LinkFromContext(other))
	}
	_, span := t.tracer.Start(ctx, e.Method+" "+route, trace.WithSpanKind(trace.SpanKindClient),
		trace.WithTimestamp(e.Began), trace.WithLinks(links...), trace.WithAttributes(
			semconv.HTTPRequestMethodKey.String(e.Method),
			semconv.URLTemplate(route),
			semconv.ServerAddress(host),
			operationKey.String(e.Op),
		))
	if port != 0 {
		span.SetAttributes(semconv.ServerPort(port))
	}
	if e.CorrelationID != "" {
		span.SetAttributes(correlationIDKey.String(e.CorrelationID))
	}
	if len(e.Shared) > 0 {
		span.SetAttributes(sharedKey.Int(1 + len(e.Shared)))
	}
	if e.Status != 0 {
		span.SetAttributes(semconv.HTTPResponseStatusCode(e.Status))
	}
	switch {
	case e.Status >= 400:
		fail(span, strconv.Itoa(e.Status))
	case e.Err != nil: // no answer, or half of one
		fail(span, errorType(&genesys.Error{Op: e.Op, Err: e.Err}))
	}
	for _, other := range others {
		trace.SpanFromContext(other).AddLink(trace.Link{SpanContext: span.SpanContext()})
	}
	span.End(trace.WithTimestamp(e.Began.Add(e.Took)))
}

// placed chooses below which of its callers a shared request is shown: the first whose trace will be
// seen, or those of all others would be linked with nothing.
func placed(first context.Context, shared []context.Context) (at context.Context, others []context.Context) {
	seen := func(ctx context.Context) bool { return trace.SpanContextFromContext(ctx).IsSampled() }
	i := slices.IndexFunc(shared, seen)
	if seen(first) || i < 0 {
		return first, shared
	}
	others = slices.Clone(shared)
	others[i] = first
	return shared[i], others
}

// Waited makes a span of a wait for the budget, which began then and has just ended. Short ones
// are none.
func (t *Traces) Waited(ctx context.Context, began time.Time) {
	if t == nil || time.Since(began) < time.Millisecond {
		return
	}
	_, span := t.tracer.Start(ctx, "wait for budget", trace.WithTimestamp(began))
	span.End()
}

func hostAndPort(hostport string) (host string, port int) {
	host, number, err := net.SplitHostPort(hostport)
	if err != nil {
		return hostport, 0
	}
	port, _ = strconv.Atoi(number) // of a URL that was parsed
	return host, port
}

// errorType is what went wrong, in a word from a closed list or a status.
func errorType(err error) string {
	var api *genesys.Error
	switch {
	case errors.As(err, &api) && api.Status > 0:
		return strconv.Itoa(api.Status)
	case errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	case errors.Is(err, context.Canceled):
		return "canceled"
	case errors.As(err, &api):
		return "network"
	}
	return semconv.ErrorTypeOther.Value.AsString()
}
