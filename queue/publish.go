package queue

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

var (
	// ErrFull says that a stream has no room: nothing was stored. Go on when the workers have made some.
	ErrFull = errors.New("the stream is full")
	// ErrTooLarge says that the broker takes no message of that size.
	ErrTooLarge = errors.New("the message is too large")
)

// Errors of the broker that nats.go has no names for (nats-server, server/errors.json).
const (
	codeAccountResources = 10002 // resource limits exceeded for account
	codeResources        = 10023 // insufficient resources
	codeStorage          = 10047 // insufficient storage resources available
	codeTooLarge         = 10054 // message size exceeds maximum allowed
	codeStoreFailed      = 10077 // maximum bytes or messages exceeded
	codeWrongSequence    = 10071 // wrong last sequence
	codeSequenceInFlight = 10164 // the same, from a replicated stream that has another write under way
)

// A Message is one record to be published.
type Message struct {
	EmployeeID string // whose record it is; "" publishes to the subject without a key
	Data       []byte
	// ID makes a repetition within 24 hours harmless: the broker keeps one message of each.
	// Default: a random one, so that Publisher may repeat it after an outage.
	ID     string
	Header map[string][]string // HeaderBatch, HeaderTrace, the publisher's own
}

// An Ack is the broker's word that it has stored a message.
type Ack struct {
	Sequence  uint64
	Duplicate bool // a message of this ID was stored before
}

// Publish stores one record and returns when the broker has it. ErrFull, ErrTooLarge and
// ErrUnreachable tell why not; after the last it may be stored all the same.
func (b *Broker) Publish(ctx context.Context, m Message) (Ack, error) {
	return b.store(ctx, m.msg())
}

func (m Message) msg() *nats.Msg {
	msg := nats.NewMsg(RecordsSubject)
	if m.EmployeeID != "" {
		msg.Subject += "." + Key(m.EmployeeID)
	}
	msg.Data = m.Data
	maps.Copy(msg.Header, m.Header)
	if m.ID == "" {
		m.ID = rand.Text()
	}
	msg.Header.Set(jetstream.MsgIDHeader, m.ID)
	return msg
}

// store publishes and waits for the acknowledgement. The message has an id: a repetition after
// an outage is recognised.
func (b *Broker) store(ctx context.Context, msg *nats.Msg) (Ack, error) {
	reply, err := b.askAgain(ctx, "publish to", msg.Subject, msg)
	if err != nil {
		return Ack{}, refusedBy(err)
	}
	ack, err := pubAck(reply.Data)
	if err != nil {
		return Ack{}, fmt.Errorf("publish to %s: %w", msg.Subject, err)
	}
	return ack, nil
}

// refusedBy recognises what the broker says no to.
func refusedBy(err error) error {
	if errors.Is(err, nats.ErrMaxPayload) {
		return fmt.Errorf("%w: %w", ErrTooLarge, err)
	}
	var api *jetstream.APIError
	if !errors.As(err, &api) {
		return err
	}
	switch api.ErrorCode {
	case codeTooLarge:
		return fmt.Errorf("%w: %w", ErrTooLarge, err)
	case codeWrongSequence, codeSequenceInFlight:
		return ErrConflict
	case codeStoreFailed, codeStorage, codeResources, codeAccountResources:
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	return err
}

// A Publisher stores many records quickly: it does not wait for one acknowledgement before it
// sends the next record, yet for all of them in the end. It is for one goroutine.
//
// Records are stored in the order sent. An outage of the broker shorter than Timeout is bridged.
// At the first record that is not stored it stops for good; the error is an *UnsentError.
type Publisher struct {
	Broker     *Broker
	MaxPending int           // records sent and not yet acknowledged; default 512
	Timeout    time.Duration // longest time without any acknowledgement; default 30s

	replies chan *nats.Msg
	sub     *nats.Subscription
	inbox   string // what is answered to inbox.<n> is about record n
	opened  time.Time
	conn    *connection // that pending was written to
	pending []*sent     // oldest first
	settled int         // records before those
	again   <-chan time.Time
	failed  error
}

type sent struct {
	msg      *nats.Msg
	done     func(Ack, error)
	answered bool
	ack      Ack
	err      error
}

// An UnsentError says at which record a Publisher stopped.
type UnsentError struct {
	Index int // of the first record not stored, counted from 0 in the order of Send
	Err   error
}

func (e *UnsentError) Error() string {
	return fmt.Sprintf("record %d is not stored: %v", e.Index+1, e.Err)
}

func (e *UnsentError) Unwrap() error { return e.Err }

// Send hands a record over. done, if not nil, is told what became of it, in the order of Send,
// from within this or a later call of Send or Flush.
func (p *Publisher) Send(ctx context.Context, m Message, done func(Ack, error)) error {
	if err := p.open(ctx); err != nil {
		return err
	}
	p.collect()
	for p.failed == nil && len(p.pending) > 0 && (len(p.pending) >= p.limit() || p.pending[0].answered) {
		p.settle(ctx)
	}
	if p.failed != nil {
		return p.failed
	}
	s := &sent{msg: m.msg(), done: done}
	p.pending = append(p.pending, s)
	p.write(s, p.settled+len(p.pending)-1)
	return nil
}

// Flush returns when every record sent is acknowledged, or with the error that stopped it.
func (p *Publisher) Flush(ctx context.Context) error {
	for p.failed == nil && len(p.pending) > 0 {
		p.settle(ctx)
	}
	if p.sub != nil {
		_ = p.sub.Unsubscribe() // fails only on a closed connection, where there is nothing left to do
		p.sub = nil
	}
	return p.failed
}

func (p *Publisher) limit() int {
	if p.MaxPending <= 0 {
		return 512
	}
	return p.MaxPending
}

func (p *Publisher) open(ctx context.Context) error {
	if p.failed != nil || p.sub != nil {
		return p.failed
	}
	err := p.Broker.once(ctx, "publish", func(_ context.Context, conn *connection) (err error) {
		p.opened, p.conn, p.inbox = time.Now(), conn, p.Broker.nc.NewInbox()
		p.replies = make(chan *nats.Msg, 4*p.limit()) // answers to what is sent, and once more to what is sent again
		p.sub, err = p.Broker.nc.ChanSubscribe(p.inbox+".*", p.replies)
		return err
	})
	if err != nil {
		p.failed = &UnsentError{Index: p.settled, Err: err}
	}
	return p.failed
}

// write puts a message on the wire. If that fails the connection is gone, and settle will see it.
func (p *Publisher) write(s *sent, n int) {
	s.msg.Reply = p.inbox + "." + strconv.Itoa(n)
	if err := p.Broker.nc.PublishMsg(s.msg); errors.Is(err, nats.ErrMaxPayload) {
		s.answered, s.err = true, p.Broker.failed(context.Background(), "publish to "+s.msg.Subject, refusedBy(err))
	}
}

// settle waits for the answer to the oldest record.
func (p *Publisher) settle(ctx context.Context) {
	timeout := p.Timeout
	if timeout <= 0 {
		timeout = 30 * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	oldest := p.pending[0]
	for !oldest.answered {
		if err := p.await(ctx); err != nil {
			oldest.answered, oldest.err = true, p.Broker.failed(ctx, "publish to "+oldest.msg.Subject, err)
		}
	}
	if oldest.err != nil {
		p.stop(ctx)
		return
	}
	p.pop()
}

// await waits for something to happen. When a connection was lost, or no stream answered, it
// sends again all that is pending, in order: the broker knows by their ids those it has.
func (p *Publisher) await(ctx context.Context) error {
	conn, changed := p.Broker.current()
	if conn != nil && conn != p.conn {
		p.conn = conn
		p.resend()
	}
	refused := p.Broker.lastRefusal()
	if p.concerns(refused) {
		return refused.err
	}
	select {
	case m := <-p.replies:
		p.answer(m)
	case <-refused.ch: // the next turn sees of what
	case <-p.again:
		p.resend()
	case <-changed:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}

// concerns tells whether a permission was refused that one of the records, or the answers to them,
// need.
func (p *Publisher) concerns(r refusal) bool {
	if r.err == nil || r.at.Before(p.opened) {
		return false
	}
	text := r.err.Error()
	return strings.Contains(text, p.inbox) || slices.ContainsFunc(p.pending, func(s *sent) bool {
		return strings.Contains(text, strconv.Quote(s.msg.Subject))
	})
}

func (p *Publisher) resend() {
	p.again = nil
	for i, s := range p.pending {
		if !s.answered {
			p.write(s, p.settled+i)
		}
	}
}

// collect takes the answers that are there.
func (p *Publisher) collect() {
	for {
		select {
		case m := <-p.replies:
			p.answer(m)
		default:
			return
		}
	}
}

func (p *Publisher) answer(m *nats.Msg) {
	n, err := strconv.Atoi(strings.TrimPrefix(m.Subject, p.inbox+"."))
	if i := n - p.settled; err != nil || i < 0 || i >= len(p.pending) || p.pending[i].answered {
		return // to a record sent twice
	} else if m.Header.Get("Status") == "503" {
		p.again = time.After(250 * time.Millisecond) // no stream there: it starts, or elects a leader
	} else {
		s := p.pending[i]
		s.answered = true
		s.ack, s.err = pubAck(m.Data)
		if s.err != nil {
			s.err = fmt.Errorf("publish to %s: %w", s.msg.Subject, s.err)
		}
	}
}

func pubAck(data []byte) (Ack, error) {
	// The common form, {"stream":"…", "seq":7}, is read without reflection: a record has four.
	if _, rest, ok := bytes.Cut(data, []byte(`"seq":`)); ok && bytes.HasPrefix(data, []byte(`{"stream":"`)) {
		if seq, err := strconv.ParseUint(string(bytes.TrimSuffix(rest, []byte("}"))), 10, 64); err == nil {
			return Ack{Sequence: seq}, nil
		}
	}
	var answer struct { // of jetstream.PubAck what is needed
		Seq       uint64              `json:"seq"`
		Duplicate bool                `json:"duplicate"`
		Error     *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(data, &answer); err != nil {
		return Ack{}, fmt.Errorf("read the acknowledgement: %w", err)
	}
	if answer.Error != nil {
		return Ack{}, refusedBy(answer.Error)
	}
	return Ack{Sequence: answer.Seq, Duplicate: answer.Duplicate}, nil
}

func (p *Publisher) pop() {
	s := p.pending[0]
	p.pending = p.pending[1:]
	p.settled++
	if s.done != nil {
		s.done(s.ack, s.err)
	}
}

// stop ends it all at the oldest record. Those behind it are on their way: what became of them
// is found out as far as a short time allows.
func (p *Publisher) stop(ctx context.Context) {
	p.failed = &UnsentError{Index: p.settled, Err: p.pending[0].err}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	for len(p.pending) > 0 {
		for s := p.pending[0]; !s.answered; {
			select {
			case m := <-p.replies:
				p.answer(m)
			case <-ctx.Done():
				s.answered, s.err = true, fmt.Errorf("publish to %s: %w: no answer", s.msg.Subject, ErrUnreachable)
			}
		}
		p.pop()
	}
}
