// Package queue is what skillsync knows of JetStream: connection, streams, records on their way
// to the workers and from there to results or dead letters, and compare-and-swap storage.
// It is the only code that imports nats.go. It must not know Genesys Cloud, what is in a record,
// or when a record is to be tried again.
package queue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
)

var (
	// ErrUnreachable says that there was no connection to the broker, or no answer from it. What
	// was asked for may have been done all the same.
	ErrUnreachable = errors.New("broker unreachable")
	// ErrForbidden says that the broker does not let this user do that; the text says what.
	ErrForbidden = errors.New("forbidden by the broker")
	// ErrNotSetUp says that a stream, consumer or bucket does not exist.
	ErrNotSetUp = errors.New("the broker is not set up")
)

// answerWait is how long one request to the broker may take if the caller sets no limit.
const answerWait = 5 * time.Second

// Config is how to reach a broker. Only URL is needed.
type Config struct {
	URL  string // one or more, separated by commas
	Name string // shown in the broker's connection list; default "skillsync"

	CredsFile      string // JWT and seed
	NKeyFile       string // seed of an NKey
	User, Password string
	CAFile         string // whom to trust besides the system's authorities
	CertFile       string // our own certificate …
	KeyFile        string // … and its key
	InboxPrefix    string // of reply subjects, for users who may not subscribe to all of _INBOX.>

	// Wait is how long Connect tries to get the first connection. 0 returns at once and keeps
	// trying in the background for good, as a worker wants it; see Connected.
	Wait time.Duration

	// Reasons are those that dead letters are expected to have, so that counting them by reason
	// need not begin with a look at every subject there is. Others are found, more slowly.
	Reasons []string

	Log     zerolog.Logger       // connection events; the zero value is silent
	OnState func(connected bool) // told of every change of Connected, in order; nil ok
}

// A Broker is a connection to NATS. It reconnects by itself, for ever; what is asked of it
// meanwhile waits until its context ends.
type Broker struct {
	nc      *nats.Conn
	js      jetstream.JetStream
	mail    *mailbox
	log     zerolog.Logger
	onState func(bool)
	closed  chan struct{}

	telling  sync.Mutex // keeps what OnState is told in order
	mu       sync.Mutex
	conn     *connection   // nil if there is none
	changed  chan struct{} // closed when conn changes
	refused  refusal       // the last one
	complain time.Time     // when to log the next failed attempt to connect

	knownReasons []string // of dead letters, as tokens
}

// A connection is one of those that a Broker has over time: what lived on an older one has to be
// set up again, and what was asked on it gets no answer any more.
type connection struct {
	context.Context // ends with it
	lost            context.CancelCauseFunc
}

var errLost = errors.New("connection lost")

// A refusal is a permission that the broker did not grant. It comes apart from the request that
// wanted it, which gets no answer at all.
type refusal struct {
	err error
	at  time.Time
	ch  chan struct{} // closed when it happens
}

// Connect opens a connection.
func Connect(ctx context.Context, c Config) (*Broker, error) {
	b := &Broker{
		log: c.Log, onState: c.OnState, closed: make(chan struct{}),
		changed: make(chan struct{}), refused: refusal{ch: make(chan struct{})},
	}
	for _, reason := range c.Reasons {
		b.knownReasons = append(b.knownReasons, token(reason))
	}
	options, err := b.options(c)
	if err != nil {
		return nil, err
	}
	if b.nc, err = b.dial(ctx, c, options); err != nil {
		return nil, err
	}
	if b.js, err = jetstream.New(b.nc, jetstream.WithDefaultTimeout(answerWait)); err == nil {
		b.mail, err = openMailbox(b.nc)
	}
	if err != nil {
		b.nc.Close()
		return nil, err
	}
	if b.nc.IsConnected() {
		if err := b.Await(ctx); err != nil { // its callback comes on another goroutine
			b.Close()
			return nil, err
		}
	}
	return b, nil
}

func (b *Broker) dial(ctx context.Context, c Config, options []nats.Option) (*nats.Conn, error) {
	unreachable := func(err error) error {
		return fmt.Errorf("cannot reach the broker at %s: %w; is it running? (NATS_URL)", bare(c.URL), err)
	}
	if c.Wait <= 0 {
		nc, err := nats.Connect(c.URL, append(options, nats.RetryOnFailedConnect(true))...)
		if err != nil {
			return nil, unreachable(err)
		}
		return nc, nil
	}
	ctx, cancel := context.WithTimeout(ctx, c.Wait)
	defer cancel()
	for {
		nc, err := nats.Connect(c.URL, options...)
		switch {
		case err == nil:
			return nc, nil
		case errors.Is(err, nats.ErrAuthorization) || errors.Is(err, nats.ErrAuthExpired):
			return nil, fmt.Errorf("the broker at %s does not let us in: %w", bare(c.URL), err)
		}
		select {
		case <-ctx.Done():
			return nil, unreachable(err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (b *Broker) options(c Config) ([]nats.Option, error) {
	o := []nats.Option{
		nats.Name(cmp.Or(c.Name, "skillsync")),
		nats.MaxReconnects(-1),
		nats.IgnoreAuthErrorAbort(), // wrong credentials may be put right on the broker's side
		nats.CustomReconnectDelay(reconnectDelay),
		nats.PingInterval(20 * time.Second),
		nats.DrainTimeout(5 * time.Second), // for Close
		// Nothing is kept for later: an acknowledgement or a "give back" that arrives after an
		// outage would be one for a record that somebody else holds by then.
		nats.ReconnectBufSize(-1),
		nats.ConnectHandler(func(*nats.Conn) { b.up("connected to the broker") }),
		nats.ReconnectHandler(func(*nats.Conn) { b.up("connected to the broker again") }),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) { b.down(err) }),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) { b.stillDown(c.URL, err) }),
		nats.ClosedHandler(func(*nats.Conn) { b.set(false); close(b.closed) }),
		nats.LameDuckModeHandler(func(*nats.Conn) { b.log.Warn().Msg("broker is about to shut down") }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { b.asyncError(err) }),
	}
	if c.InboxPrefix != "" {
		o = append(o, nats.CustomInboxPrefix(c.InboxPrefix))
	}
	if c.User != "" {
		o = append(o, nats.UserInfo(c.User, c.Password))
	}
	if c.CredsFile != "" {
		o = append(o, nats.UserCredentials(c.CredsFile))
	}
	if c.CAFile != "" {
		o = append(o, nats.RootCAs(c.CAFile))
	}
	if c.CertFile != "" || c.KeyFile != "" {
		o = append(o, nats.ClientCert(c.CertFile, c.KeyFile))
	}
	if c.NKeyFile != "" {
		nkey, err := nats.NkeyOptionFromSeed(c.NKeyFile)
		if err != nil {
			return nil, fmt.Errorf("read the NKey: %w", err)
		}
		o = append(o, nkey)
	}
	return o, nil
}

// Close lets answers under way arrive, then disconnects. It returns when all is quiet.
func (b *Broker) Close() {
	if b.nc.Drain() != nil {
		b.nc.Close() // not connected: nothing to wait for
	}
	<-b.closed
}

// Connected tells whether there is a connection right now.
func (b *Broker) Connected() bool {
	conn, _ := b.current()
	return conn != nil
}

// URL is where the broker is, without credentials: the server connected to, if there is one.
func (b *Broker) URL() string {
	return bare(cmp.Or(b.nc.ConnectedUrl(), strings.Join(b.nc.Servers(), ",")))
}

// MaxPayload is the largest message that the broker takes, in bytes; 0 before the first connection.
func (b *Broker) MaxPayload() int64 { return b.nc.MaxPayload() }

// Await waits for a connection, at most until ctx ends.
func (b *Broker) Await(ctx context.Context) error {
	_, err := b.await(ctx)
	return err
}

func (b *Broker) await(ctx context.Context) (*connection, error) {
	for {
		conn, changed := b.current()
		if conn != nil {
			return conn, nil
		}
		select {
		case <-changed:
		case <-b.closed:
			return nil, fmt.Errorf("%w: the connection is closed", ErrUnreachable)
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", ErrUnreachable, cmp.Or(b.nc.LastError(), context.Cause(ctx)))
		}
	}
}

// Offset is how far the broker's clock is ahead of ours, to within half the time of one request.
func (b *Broker) Offset(ctx context.Context) (offset time.Duration, err error) {
	err = b.once(ctx, "ask the broker for the time", func(ctx context.Context, _ *connection) error {
		asked := time.Now()
		s, err := b.js.Stream(ctx, Stream)
		if err == nil {
			offset = s.CachedInfo().TimeStamp.Sub(asked.Add(time.Since(asked) / 2))
		}
		return err
	})
	return offset, err
}

// Now is the time by the broker's clock.
func (b *Broker) Now(ctx context.Context) (time.Time, error) {
	offset, err := b.Offset(ctx)
	return time.Now().Add(offset), err
}

// once makes a request, as soon as there is a connection, and gives up on it when that is lost:
// then it may have been done or not. If the caller sets no time limit, it has answerWait.
func (b *Broker) once(ctx context.Context, action string, do func(context.Context, *connection) error) error {
	ctx, cancel := b.within(ctx)
	defer cancel()
	conn, err := b.await(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", action, err)
	}
	ctx, lost := context.WithCancelCause(ctx)
	defer lost(nil)
	defer context.AfterFunc(conn, func() { lost(errLost) })()
	return b.failed(ctx, action, do(ctx, conn))
}

// again is once for what may be done twice without harm: while time is left, it is done until
// there is an answer.
func (b *Broker) again(ctx context.Context, action string, do func(context.Context, *connection) error) error {
	ctx, cancel := b.within(ctx)
	defer cancel()
	for {
		err := b.once(ctx, action, do)
		if !errors.Is(err, ErrUnreachable) || b.nc.IsClosed() || pause(ctx) != nil {
			return err
		}
	}
}

// within sets the time limit for a caller that has none.
func (b *Broker) within(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, answerWait)
}

// pause keeps what is tried again and again from spinning.
func pause(ctx context.Context) error {
	t := time.NewTimer(100 * time.Millisecond)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// startup prepares for a few requests one after the other, at a time when nothing else is asked
// of the broker: the first permission that is refused ends them, rather than a time-out.
func (b *Broker) startup(ctx context.Context) (context.Context, context.CancelFunc, error) {
	if err := b.Await(ctx); err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	refused := b.lastRefusal().ch
	go func() {
		select {
		case <-refused:
			cancel(b.lastRefusal().err)
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(nil) }, nil
}

func (b *Broker) lastRefusal() refusal {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.refused
}

// failed puts words to an error of a request.
func (b *Broker) failed(ctx context.Context, action string, err error) error {
	cause := context.Cause(ctx)
	switch {
	case err == nil:
		return nil
	case errors.Is(cause, ErrForbidden):
		return fmt.Errorf("%s: %w", action, cause)
	case errors.Is(cause, errLost):
		return fmt.Errorf("%s: %w: %w", action, ErrUnreachable, cause)
	case errors.Is(err, nats.ErrTimeout), errors.Is(err, context.DeadlineExceeded):
		// The broker does not answer what it forbids: it says so elsewhere.
		if refused := b.lastRefusal(); time.Since(refused.at) < 2*answerWait {
			return fmt.Errorf("%s: %w: no answer, and lately: %w", action, ErrUnreachable, refused.err)
		}
		return fmt.Errorf("%s: %w: no answer: %w", action, ErrUnreachable, err)
	}
	for _, silence := range []error{
		nats.ErrConnectionClosed, nats.ErrConnectionReconnecting, nats.ErrReconnectBufExceeded, nats.ErrDisconnected,
	} {
		if errors.Is(err, silence) {
			return fmt.Errorf("%s: %w: %w", action, ErrUnreachable, err)
		}
	}
	for _, missing := range []error{jetstream.ErrStreamNotFound, jetstream.ErrConsumerNotFound, jetstream.ErrBucketNotFound} {
		if errors.Is(err, missing) {
			return fmt.Errorf("%s: %w: %w", action, ErrNotSetUp, err)
		}
	}
	if errors.Is(err, nats.ErrNoResponders) || errors.Is(err, jetstream.ErrNoStreamResponse) {
		return fmt.Errorf("%s: %w: nothing answers there: not set up, or without a leader for now: %w", action, ErrUnreachable, err)
	}
	return fmt.Errorf("%s: %w", action, err)
}

func (b *Broker) current() (conn *connection, changed <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.conn, b.changed
}

func (b *Broker) set(connected bool) (changed bool) {
	b.telling.Lock()
	defer b.telling.Unlock()
	b.mu.Lock()
	changed = connected == (b.conn == nil)
	if changed && connected {
		b.conn = &connection{}
		b.conn.Context, b.conn.lost = context.WithCancelCause(context.Background())
	} else if changed {
		b.conn.lost(errLost)
		b.conn = nil
	}
	if changed {
		close(b.changed)
		b.changed = make(chan struct{})
	}
	b.mu.Unlock()
	if changed && b.onState != nil {
		b.onState(connected)
	}
	return changed
}

func (b *Broker) up(text string) {
	b.set(true)
	b.log.Info().Msg(text)
}

func (b *Broker) down(err error) {
	if b.set(false) && err != nil {
		b.log.Warn().Err(err).Msg("connection to the broker lost")
	}
}

// stillDown logs a failed attempt to connect: the first, and then one a minute.
func (b *Broker) stillDown(urls string, err error) {
	b.mu.Lock()
	quiet := time.Now().Before(b.complain)
	if !quiet {
		b.complain = time.Now().Add(time.Minute)
	}
	b.mu.Unlock()
	if !quiet {
		b.log.Warn().Err(err).Str("url", bare(urls)).Msg("waiting for the broker")
	}
}

func (b *Broker) asyncError(err error) {
	if !errors.Is(err, nats.ErrPermissionViolation) {
		b.log.Warn().Err(err).Msg("the broker reports an error")
		return
	}
	b.mu.Lock()
	b.refused.err, b.refused.at = fmt.Errorf("%w: %w", ErrForbidden, err), time.Now()
	close(b.refused.ch)
	b.refused.ch = make(chan struct{})
	b.mu.Unlock()
	b.log.Error().Err(err).Msg("the broker refuses a permission")
}

// reconnectDelay is the pause before the next round of attempts to connect: short after a blip, at
// most 5s, and spread so that a fleet does not come back in one moment.
func reconnectDelay(rounds int) time.Duration {
	most := min(100*time.Millisecond<<min(rounds, 10), 5*time.Second)
	return most/2 + rand.N(most/2)
}

// bare takes the credentials out of URLs.
func bare(urls string) string {
	list := strings.Split(urls, ",")
	for i, s := range list {
		s = strings.TrimSpace(s)
		if !strings.Contains(s, "://") {
			s = "nats://" + s
		}
		u, err := url.Parse(s)
		if err != nil {
			list[i] = "(unreadable address)" // it may hold a password
			continue
		}
		u.User = nil
		list[i] = u.String()
	}
	return strings.Join(list, ",")
}
