package queue

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// replyWait is how long one request waits for a connection, and then for its reply. An election of
// the broker takes longer, and is bridged by asking again.
const replyWait = 2 * time.Second

// ask sends a request as soon as there is a connection, and returns the reply. It gives up when
// that connection is lost, when nothing comes for replyWait, or when ctx ends: then what was
// asked for may have been done or not. It is for what every record does several times: once
// does the same for the requests of nats.go, at the price of three contexts a request.
func (b *Broker) ask(ctx context.Context, action, object string, msg *nats.Msg) (*nats.Msg, error) {
	reply, err := b.exchange(ctx, msg)
	if err != nil {
		return nil, b.failed(ctx, action+" "+object, err)
	}
	return reply, nil
}

// askAgain is ask for what may be done twice without harm: while time is left, it is done until
// there is an answer.
func (b *Broker) askAgain(ctx context.Context, action, object string, msg *nats.Msg) (reply *nats.Msg, err error) {
	reply, err = b.ask(ctx, action, object, msg)
	if !errors.Is(err, ErrUnreachable) {
		return reply, err
	}
	err = b.again(ctx, action+" "+object, func(ctx context.Context, _ *connection) error {
		reply, err = b.exchange(ctx, msg)
		return err
	})
	return reply, err
}

func (b *Broker) exchange(ctx context.Context, msg *nats.Msg) (*nats.Msg, error) {
	conn, _ := b.current()
	if conn == nil {
		var err error
		if conn, err = b.awaitBriefly(ctx); err != nil {
			return nil, err
		}
	}
	w := b.mail.expect()
	defer b.mail.forget(w)
	msg.Reply = w.address
	if err := b.nc.PublishMsg(msg); err != nil {
		return nil, err
	}
	select {
	case m := <-w.reply:
		if len(m.Data) == 0 && m.Header.Get("Status") == "503" {
			return nil, nats.ErrNoResponders
		}
		return m, nil
	case <-conn.Done():
		return nil, fmt.Errorf("%w: %w", ErrUnreachable, errLost)
	case <-w.late.C:
		return nil, context.DeadlineExceeded
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (b *Broker) awaitBriefly(ctx context.Context) (*connection, error) {
	ctx, cancel := context.WithTimeout(ctx, replyWait)
	defer cancel()
	return b.await(ctx)
}

// lastOn is the request for the newest message on a subject, which any replica answers.
func lastOn(stream, subject string) *nats.Msg {
	return &nats.Msg{Subject: "$JS.API.DIRECT.GET." + stream + "." + subject}
}

// newest reads the answer to lastOn: the message, or ErrNotFound.
func newest(m *nats.Msg) (stored, error) {
	switch status := m.Header.Get("Status"); status {
	case "":
		return rawMessage(m), nil
	case "404":
		return stored{}, ErrNotFound
	default:
		return stored{}, fmt.Errorf("the broker answered %s %s", status, m.Header.Get("Description"))
	}
}

// A mailbox receives replies. Each request has an address of its own below that of the mailbox.
type mailbox struct {
	prefix string // of addresses, with the dot

	mu      sync.Mutex
	next    uint64
	waiting map[string]*awaited // by address
	idle    sync.Pool           // of *awaited
}

// An awaited is a reply that somebody waits for.
type awaited struct {
	address string
	reply   chan *nats.Msg
	late    *time.Timer // fires when it has not come for replyWait
}

func openMailbox(nc *nats.Conn) (*mailbox, error) {
	m := &mailbox{prefix: nc.NewInbox() + ".", waiting: map[string]*awaited{}}
	_, err := nc.Subscribe(m.prefix+"*", m.deliver)
	return m, err
}

// expect makes an address; forget has to follow.
func (m *mailbox) expect() *awaited {
	w, ok := m.idle.Get().(*awaited)
	if ok {
		w.late.Reset(replyWait)
	} else {
		w = &awaited{reply: make(chan *nats.Msg, 1), late: time.NewTimer(replyWait)}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.next++
	w.address = m.prefix + strconv.FormatUint(m.next, 36)
	m.waiting[w.address] = w
	return w
}

func (m *mailbox) forget(w *awaited) {
	w.late.Stop()
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.waiting, w.address)
	select {
	case <-w.reply: // it came after all; the next one to use w must not find it
	default:
	}
	m.idle.Put(w)
}

func (m *mailbox) deliver(msg *nats.Msg) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if w := m.waiting[msg.Subject]; w != nil { // nil: nobody waits for it any more
		delete(m.waiting, msg.Subject)
		w.reply <- msg
	}
}
