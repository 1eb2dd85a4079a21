package queuetest

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"skillsync/queue"
)

// TB is what Memory needs of a test, so that a test of Memory can look on.
type TB interface {
	Helper()
	Errorf(format string, args ...any)
}

// A Memory is a work queue in memory, with dead letters and results, and faults on demand. Leases
// and delays run on time.Now, so it works in synctest bubbles; it has no goroutines. It fails the
// test when a delivery is settled twice, or after its lease is gone.
type Memory struct {
	faults

	t       TB
	ackWait time.Duration
	epoch   int64

	mu       sync.Mutex
	sequence uint64
	waiting  []*message        // not settled, by sequence
	known    map[string]uint64 // ids
	results  []queue.Result
	settled  map[uint64]bool // messages that have a result
	dead     []queue.DeadLetter
	died     map[uint64]bool // messages that have a dead letter
	deadSeq  uint64
	changed  chan struct{} // closed when something may be fetched that could not be before
}

type message struct {
	sequence  uint64
	subject   string
	header    map[string][]string
	data      []byte
	published time.Time
	delivered int
	lease     *lease    // the last one
	free      time.Time // when it may be delivered (again)
}

// NewMemory makes an empty queue. The lease of a delivery is ackWait, 0 means one minute.
func NewMemory(t TB, ackWait time.Duration) *Memory {
	return &Memory{
		t: t, ackWait: cmp.Or(ackWait, time.Minute), epoch: time.Now().UnixNano(),
		known: map[string]uint64{}, settled: map[uint64]bool{}, died: map[uint64]bool{}, changed: make(chan struct{}),
	}
}

// AckWait is how long a delivery may go without Extend.
func (m *Memory) AckWait() time.Duration { return m.ackWait }

// Publish stores a record, once per ID.
func (m *Memory) Publish(ctx context.Context, msg queue.Message) (queue.Ack, error) {
	if err := ended(ctx, Publish); err != nil {
		return queue.Ack{}, err
	}
	fault, planned := m.take(Publish)
	if planned != nil && fault != After {
		return queue.Ack{}, planned
	}
	subject := queue.RecordsSubject
	if msg.EmployeeID != "" {
		subject += "." + queue.Key(msg.EmployeeID)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	ack := m.store(subject, msg.ID, msg.Header, msg.Data)
	if planned != nil {
		return queue.Ack{}, planned
	}
	return ack, nil
}

func (m *Memory) store(subject, id string, header map[string][]string, data []byte) queue.Ack {
	if seq, ok := m.known[id]; ok && id != "" {
		return queue.Ack{Sequence: seq, Duplicate: true}
	}
	m.sequence++
	m.known[id] = m.sequence
	m.waiting = append(m.waiting, &message{
		sequence: m.sequence, subject: subject, header: maps.Clone(header), data: slices.Clone(data), published: time.Now(),
	})
	m.wake()
	return queue.Ack{Sequence: m.sequence}
}

// Fetch hands out up to n records as they become free, until wait is over.
func (m *Memory) Fetch(ctx context.Context, n int, wait time.Duration, handle func(*queue.Delivery)) (int, error) {
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	if _, err := m.take(Fetch); err != nil {
		return 0, err
	}
	over := time.NewTimer(cmp.Or(max(wait, 0), time.Second))
	defer over.Stop()
	for count := 0; ; {
		d, free, changed := m.deliver()
		if d != nil {
			handle(d)
			if count++; count == n {
				return count, nil
			}
			continue
		}
		if !m.sleep(free, changed, over) {
			return count, nil
		}
	}
}

// sleep waits for a record to become free; false if the request is over first.
func (m *Memory) sleep(free time.Time, changed <-chan struct{}, over *time.Timer) bool {
	var due <-chan time.Time
	if !free.IsZero() {
		t := time.NewTimer(time.Until(free))
		defer t.Stop()
		due = t.C
	}
	select {
	case <-changed:
	case <-due:
	case <-over.C:
		return false
	}
	return true
}

// deliver leases the first record that is free. If there is none it tells when one will be.
func (m *Memory) deliver() (d *queue.Delivery, free time.Time, changed <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	for _, msg := range m.waiting {
		if !now.Before(msg.free) {
			return m.leased(msg, now), time.Time{}, nil
		}
		if free.IsZero() || msg.free.Before(free) {
			free = msg.free
		}
	}
	return nil, free, m.changed
}

func (m *Memory) leased(msg *message, now time.Time) *queue.Delivery {
	msg.delivered++
	msg.free = now.Add(m.ackWait)
	l := &lease{m: m, msg: msg}
	msg.lease = l
	d := &queue.Delivery{
		Data: slices.Clone(msg.data), Subject: msg.subject, Header: maps.Clone(msg.header), Sequence: msg.sequence,
		Delivered: msg.delivered, Published: msg.published, Lease: l,
		OnMisuse: func(err error) {
			m.t.Helper()
			m.t.Errorf("message %d is settled again: %v", msg.sequence, err)
		},
	}
	d.Order, d.Replays = m.order(msg)
	l.d = d
	return d
}

func (m *Memory) order(msg *message) (queue.Order, int) {
	replays, _ := strconv.Atoi(header(msg.header, queue.HeaderReplays))
	if replays == 0 {
		return queue.Order{Epoch: m.epoch, Seq: msg.sequence}, 0
	}
	var o queue.Order
	o.Epoch, _ = strconv.ParseInt(header(msg.header, queue.HeaderEpoch), 10, 64)
	o.Seq, _ = strconv.ParseUint(header(msg.header, queue.HeaderSeq), 10, 64)
	return o, replays
}

// Newer returns the last record on the subject of d, or under the key, if it is another one.
func (m *Memory) Newer(ctx context.Context, d *queue.Delivery, key string) (data []byte, o queue.Order, ok bool, err error) {
	if err := ended(ctx, Newer); err != nil {
		return nil, queue.Order{}, false, err
	}
	if _, err := m.take(Newer); err != nil {
		return nil, queue.Order{}, false, err
	}
	subject := d.Subject
	if subject == queue.RecordsSubject {
		subject += "." + key
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, msg := range slices.Backward(m.waiting) {
		if msg.subject != subject {
			continue
		}
		if msg.sequence == d.Sequence {
			break
		}
		o, _ := m.order(msg)
		return slices.Clone(msg.data), o, true, nil
	}
	return nil, queue.Order{}, false, nil
}

// Waiting counts the records that are not settled, those with a worker included.
func (m *Memory) Waiting() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.waiting)
}

// Results returns the result events so far, in order.
func (m *Memory) Results() []queue.Result {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.results)
}

// Dead returns the dead letters, oldest first.
func (m *Memory) Dead() []queue.DeadLetter {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.dead)
}

// Replay publishes a dead letter again in its original order, and removes it.
func (m *Memory) Replay(_ context.Context, seq uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	i := slices.IndexFunc(m.dead, func(d queue.DeadLetter) bool { return d.Sequence == seq })
	if i < 0 {
		return fmt.Errorf("read dead letter %d: %w", seq, queue.ErrNotFound)
	}
	d := m.dead[i]
	h := maps.Clone(d.Header)
	if h == nil {
		h = map[string][]string{}
	}
	h[queue.HeaderEpoch] = []string{strconv.FormatInt(d.Order.Epoch, 10)}
	h[queue.HeaderSeq] = []string{strconv.FormatUint(d.Order.Seq, 10)}
	h[queue.HeaderReplays] = []string{strconv.Itoa(d.Replays + 1)}
	m.store(d.Subject, fmt.Sprintf("replay:%d:%d", seq, d.Replays+1), h, d.Data)
	m.dead = slices.Delete(m.dead, i, i+1)
	return nil
}

func (m *Memory) wake() {
	close(m.changed)
	m.changed = make(chan struct{})
}

func header(h map[string][]string, name string) string {
	if v := h[name]; len(v) > 0 {
		return v[0]
	}
	return ""
}
