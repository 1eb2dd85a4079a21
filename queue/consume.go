package queue

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// A Queue hands out the records that wait, each to one worker at a time.
type Queue struct {
	b    *Broker
	open atomic.Pointer[opened]
}

// opened is what was true of stream and consumer when they were looked at, on one connection.
type opened struct {
	consumer jetstream.Consumer
	stream   jetstream.Stream
	created  int64 // the stream's, Unix nanoseconds
	ackWait  time.Duration
	conn     *connection
}

// Queue opens the work queue. It must have been set up.
func (b *Broker) Queue(ctx context.Context) (*Queue, error) {
	q := &Queue{b: b}
	ctx, done, err := b.startup(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	err = b.again(ctx, "open the queue", func(ctx context.Context, conn *connection) error {
		_, err := q.look(ctx, conn)
		return err
	})
	return q, err
}

// AckWait is the broker's: how long a delivery may go without Extend.
func (q *Queue) AckWait() time.Duration { return q.open.Load().ackWait }

// look finds out about stream and consumer once per connection, and again after an error: they
// may have been made anew.
func (q *Queue) look(ctx context.Context, conn *connection) (*opened, error) {
	if o := q.open.Load(); o != nil && o.conn == conn {
		return o, nil
	}
	stream, err := q.b.js.Stream(ctx, Stream)
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", Stream, err)
	}
	consumer, err := stream.Consumer(ctx, Consumer)
	if err != nil {
		return nil, fmt.Errorf("consumer %s: %w", Consumer, err)
	}
	o := &opened{
		consumer: consumer, stream: stream, conn: conn,
		created: stream.CachedInfo().Created.UnixNano(), ackWait: consumer.CachedInfo().Config.AckWait,
	}
	q.open.Store(o)
	return o, nil
}

// Fetch asks for up to n records and hands each to handle the moment it arrives; handle must
// return at once. The lease of a delivery starts when the broker sends it, so ask for no more
// than can be held. It returns when n have arrived, or the broker's word that no more come
// within wait (default 1s), with the number of records that came.
//
// The end of ctx does not cut a request short: what the broker sends would be lost to its lease.
// An error means that there is no broker, stream or consumer for now: pause, then ask again.
func (q *Queue) Fetch(ctx context.Context, n int, wait time.Duration, handle func(*Delivery)) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, context.Cause(ctx)
	}
	if wait <= 0 {
		wait = time.Second
	}
	var o *opened
	err := q.b.once(ctx, "fetch", func(ctx context.Context, conn *connection) (err error) {
		o, err = q.look(ctx, conn)
		return err
	})
	if err != nil {
		return 0, err
	}
	count, err := q.fetch(o, n, wait, handle)
	if err != nil {
		q.open.CompareAndSwap(o, &opened{ackWait: o.ackWait, created: o.created}) // look again
	}
	return count, q.b.failed(ctx, "fetch", err)
}

func (q *Queue) fetch(o *opened, n int, wait time.Duration, handle func(*Delivery)) (count int, err error) {
	batch, err := o.consumer.Fetch(n, jetstream.FetchMaxWait(wait))
	if err != nil {
		return 0, err
	}
	for msg := range batch.Messages() {
		d, err := q.delivery(o, msg)
		if err != nil {
			return count, err
		}
		count++
		handle(d)
	}
	if err = batch.Error(); errors.Is(err, jetstream.ErrNoHeartbeat) {
		err = nil // nothing came
	}
	return count, err
}

func (q *Queue) delivery(o *opened, msg jetstream.Msg) (*Delivery, error) {
	meta, err := msg.Metadata()
	if err != nil {
		return nil, fmt.Errorf("read where a message came from: %w", err)
	}
	l := &lease{b: q.b, reply: msg.Reply(), created: o.created, ackWait: o.ackWait}
	l.renewed.Store(ptr(time.Now()))
	d := &Delivery{
		Data: msg.Data(), Subject: msg.Subject(), Header: msg.Headers(), Sequence: meta.Sequence.Stream,
		Delivered: int(meta.NumDelivered), Published: meta.Timestamp, Lease: l,
	}
	d.Order, d.Replays = order(d.Header, Order{Epoch: o.created, Seq: d.Sequence})
	l.d = d
	return d, nil
}

// Newer looks for the last record of the same employee that waits or is being worked on, if it
// is another message than d. The key is the one of the employee; a record that was published
// with a key on its subject is compared with those on the same subject.
//
// What it returns was sent later in most cases, but not in all: Order tells, or the version in
// the data. A publisher that puts the wrong key on a subject mixes employees: see whose it is.
func (q *Queue) Newer(ctx context.Context, d *Delivery, key string) (data []byte, o Order, ok bool, err error) {
	subject := d.Subject
	if subject == RecordsSubject {
		subject += "." + key
	}
	reply, err := q.b.askAgain(ctx, "look for a newer record on", subject, lastOn(Stream, subject))
	if err != nil {
		return nil, Order{}, false, err
	}
	last, err := newest(reply)
	if errors.Is(err, ErrNotFound) {
		return nil, Order{}, false, nil
	}
	if err != nil || last.sequence == d.Sequence {
		return nil, Order{}, false, err
	}
	o, _ = order(last.header, Order{Epoch: q.open.Load().created, Seq: last.sequence})
	return last.data, o, true, nil
}

// A lease is the broker's side of a Delivery. Every word to the broker is confirmed by it; the
// acknowledgements of nats.go that are not would be lost unnoticed in a reconnect.
type lease struct {
	b       *Broker
	d       *Delivery
	reply   string // where the broker listens for what becomes of the message
	created int64  // the stream's
	ackWait time.Duration
	renewed atomic.Pointer[time.Time]
}

func (l *lease) Extend(ctx context.Context) error {
	if err := l.held(); err != nil {
		return err
	}
	before := time.Now()
	if err := l.sayAgain(ctx, "extend the lease of", "+WPI"); err != nil {
		return err
	}
	l.renewed.Store(&before)
	return nil
}

func (l *lease) Ack(ctx context.Context, r Result) error {
	if err := l.held(); err != nil {
		return err
	}
	if err := l.b.publishResult(ctx, l.created, r); err != nil {
		return err
	}
	return l.sayAgain(ctx, "acknowledge", "+ACK")
}

func (l *lease) Retry(ctx context.Context, after time.Duration) error {
	if err := l.held(); err != nil {
		return err
	}
	body := "-NAK"
	if after > 0 {
		body += fmt.Sprintf(` {"delay":%d}`, after.Nanoseconds())
	}
	_, err := l.b.ask(ctx, "give back", l.message(), l.word(body)) // once: see Delivery.Retry
	return err
}

func (l *lease) DeadLetter(ctx context.Context, f Failure) error {
	if err := l.held(); err != nil {
		return err
	}
	if _, err := l.b.store(ctx, deadLetter(l.d, f, l.created)); err != nil {
		return fmt.Errorf("dead-letter: %w", err)
	}
	if err := l.b.publishResult(ctx, l.created, l.d.Failed(f)); err != nil {
		return err
	}
	return l.sayAgain(ctx, "terminate", "+TERM "+token(f.Reason))
}

// held tells whether nobody else can have the record. The broker does not look: it takes an
// acknowledgement from anybody, and a late "give back" starts one more delivery. The broker's
// lease began when it sent the message, a little before ours: hence the twentieth.
func (l *lease) held() error {
	if time.Since(*l.renewed.Load()) >= l.ackWait-l.ackWait/20 {
		return ErrLeaseLost
	}
	return nil
}

// sayAgain tells the broker what becomes of the message, and waits for its confirmation.
func (l *lease) sayAgain(ctx context.Context, action, word string) error {
	_, err := l.b.askAgain(ctx, action, l.message(), l.word(word))
	return err
}

func (l *lease) word(word string) *nats.Msg { return &nats.Msg{Subject: l.reply, Data: []byte(word)} }

func (l *lease) message() string { return "message " + strconv.FormatUint(l.d.Sequence, 10) }

func ptr[T any](v T) *T { return &v }
