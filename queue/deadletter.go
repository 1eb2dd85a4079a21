package queue

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Headers that a dead letter has besides those of its record. They are taken off in a replay.
const (
	headerEmployee    = "Skillsync-Employee"
	headerVersion     = "Skillsync-Version"
	headerReason      = "Skillsync-Reason"
	headerClass       = "Skillsync-Class"
	headerError       = "Skillsync-Error"
	headerStatus      = "Skillsync-Status"
	headerCorrelation = "Skillsync-Correlation-Id"
	headerAttempts    = "Skillsync-Attempts"
	headerFirst       = "Skillsync-First-Failure"
	headerLast        = "Skillsync-Last-Failure"
	headerMapping     = "Skillsync-Mapping"
	headerExpected    = "Skillsync-Expected"
	headerActual      = "Skillsync-Actual"
	headerWorker      = "Skillsync-Worker"
	headerApp         = "Skillsync-App"
)

// Bounds of what goes into headers: all of them together stay below room.
const (
	maxError  = 1 << 10
	maxSkills = 4 << 10
	maxText   = 256
)

// A DeadLetter is a record that could not be applied, and why.
type DeadLetter struct {
	Sequence uint64    `json:"sequence"` // among the dead letters: what Get, Replay and Drop take
	At       time.Time `json:"at"`       // when it became one, by the broker's clock
	Failure
	Subject   string              `json:"subject"` // where the record was first published
	Stream    string              `json:"stream"`
	Order     Order               `json:"order"`
	Published time.Time           `json:"published,omitzero"`
	Replays   int                 `json:"replays"`
	Batch     string              `json:"batch,omitempty"`
	Header    map[string][]string `json:"header,omitempty"` // the record's own, and where it was first published
	Data      []byte              `json:"data,omitempty"`   // the record, unchanged
}

// deadLetter is the copy of a record that goes to the dead letters. However often it is made
// of one message, the broker keeps one.
func deadLetter(d *Delivery, f Failure, created int64) *nats.Msg {
	msg := nats.NewMsg(DeadSubject + "." + token(f.Reason) + "." + Key(f.EmployeeID))
	msg.Data = d.Data
	keep(msg.Header, d.Header)
	if _, replayed := msg.Header[HeaderSubject]; !replayed || d.Replays == 0 {
		msg.Header.Set(HeaderSubject, d.Subject)
		msg.Header.Set(HeaderStream, Stream)
		msg.Header.Set(HeaderTime, d.Published.UTC().Format(time.RFC3339Nano))
	}
	msg.Header.Set(HeaderEpoch, strconv.FormatInt(d.Order.Epoch, 10))
	msg.Header.Set(HeaderSeq, strconv.FormatUint(d.Order.Seq, 10))
	msg.Header.Set(HeaderReplays, strconv.Itoa(d.Replays))
	f.write(msg.Header)
	msg.Header.Set(jetstream.MsgIDHeader, messageID("", created, d.Sequence))
	return msg
}

// keep copies the headers of a record, without the broker's own and without what a dead letter
// says about its failure.
func keep(to, from map[string][]string) {
	for name, values := range from {
		switch {
		case len(name) >= 5 && strings.EqualFold(name[:5], "Nats-"):
		case ofFailure[strings.ToLower(name)]:
		default:
			to[name] = values
		}
	}
}

var ofFailure = func() map[string]bool {
	set := map[string]bool{}
	for _, name := range []string{
		headerEmployee, headerVersion, headerReason, headerClass, headerError, headerStatus, headerCorrelation,
		headerAttempts, headerFirst, headerLast, headerMapping, headerExpected, headerActual, headerWorker, headerApp,
	} {
		set[strings.ToLower(name)] = true
	}
	return set
}()

func (f Failure) write(h nats.Header) {
	set := func(name, value string, limit int) {
		if value = clean(value, limit); value != "" {
			h.Set(name, value)
		}
	}
	number := func(name string, n int) {
		if n != 0 {
			h.Set(name, strconv.Itoa(n))
		}
	}
	moment := func(name string, t time.Time) {
		if !t.IsZero() {
			h.Set(name, t.UTC().Format(time.RFC3339Nano))
		}
	}
	set(headerEmployee, f.EmployeeID, maxText)
	set(headerVersion, f.Version, maxText)
	set(headerReason, f.Reason, maxText)
	set(headerClass, f.Class, maxText)
	set(headerError, f.Error, maxError)
	number(headerStatus, f.Status)
	set(headerCorrelation, f.CorrelationID, maxText)
	number(headerAttempts, f.Attempts)
	moment(headerFirst, f.First)
	moment(headerLast, f.Last)
	set(headerMapping, f.MappingVersion, maxText)
	set(headerExpected, oneLine(f.Expected), maxSkills)
	set(headerActual, oneLine(f.Actual), maxSkills)
	set(headerWorker, f.Worker, maxText)
	set(headerApp, f.App, maxText)
}

func readFailure(h map[string][]string) Failure {
	number := func(name string) int { n, _ := strconv.Atoi(first(h, name)); return n }
	return Failure{
		EmployeeID: first(h, headerEmployee), Version: first(h, headerVersion),
		Reason: first(h, headerReason), Class: first(h, headerClass), Error: first(h, headerError),
		Status: number(headerStatus), CorrelationID: first(h, headerCorrelation), Attempts: number(headerAttempts),
		First: moment(first(h, headerFirst)), Last: moment(first(h, headerLast)), MappingVersion: first(h, headerMapping),
		Expected: readJSON(first(h, headerExpected)), Actual: readJSON(first(h, headerActual)),
		Worker: first(h, headerWorker), App: first(h, headerApp),
	}
}

func readDeadLetter(m stored) DeadLetter {
	d := DeadLetter{
		Sequence: m.sequence, At: m.at, Failure: readFailure(m.header), Data: m.data,
		Subject: first(m.header, HeaderSubject), Stream: first(m.header, HeaderStream),
		Published: moment(first(m.header, HeaderTime)), Batch: first(m.header, HeaderBatch), Header: map[string][]string{},
	}
	d.Order.Epoch, _ = strconv.ParseInt(first(m.header, HeaderEpoch), 10, 64)
	d.Order.Seq, _ = strconv.ParseUint(first(m.header, HeaderSeq), 10, 64)
	d.Replays, _ = strconv.Atoi(first(m.header, HeaderReplays))
	keep(d.Header, m.header)
	return d
}

// replay is the record of a dead letter, to be published again: with its original order, so that
// it does not overwrite what is newer, and with an id of its own, because the first one is known.
func (d DeadLetter) replay(created int64) *nats.Msg {
	msg := nats.NewMsg(d.Subject)
	if d.Subject != RecordsSubject && !strings.HasPrefix(d.Subject, RecordsSubject+".") {
		msg.Subject = RecordsSubject // not a dead letter of ours, or somebody edited it
	}
	msg.Data = d.Data
	keep(msg.Header, d.Header)
	msg.Header.Set(HeaderReplays, strconv.Itoa(d.Replays+1))
	msg.Header.Set(jetstream.MsgIDHeader, messageID("replay:", created, d.Sequence)+":"+strconv.Itoa(d.Replays+1))
	return msg
}

// DeadLetters is what could not be applied and waits for a person.
type DeadLetters struct{ b *Broker }

// DeadLetters opens the dead letters.
func (b *Broker) DeadLetters() *DeadLetters { return &DeadLetters{b} }

// A Group is all dead letters of one reason.
type Group struct {
	Reason string    `json:"reason"`
	Count  uint64    `json:"count"`
	Oldest time.Time `json:"oldest"`
	First  uint64    `json:"first"` // sequence of the oldest
}

// Groups counts by reason, most frequent first.
func (l *DeadLetters) Groups(ctx context.Context) ([]Group, error) {
	return l.b.groups(ctx, DeadStream, DeadSubject)
}

// A Filter selects dead letters; what is empty selects all.
type Filter struct {
	Reason   string
	Employee string // id
}

func (f Filter) subject() string {
	reason, key := "*", "*"
	if f.Reason != "" {
		reason = token(f.Reason)
	}
	if f.Employee != "" {
		key = Key(f.Employee)
	}
	return DeadSubject + "." + reason + "." + key
}

// List returns up to limit dead letters, oldest first, from the given sequence on (0 = the
// first), and the sequence to go on from, 0 after the last. What comes or goes meanwhile does
// not disturb the paging.
func (l *DeadLetters) List(ctx context.Context, f Filter, from uint64, limit int) (page []DeadLetter, next uint64, err error) {
	ctx, cancel := l.b.within(ctx)
	defer cancel()
	for next = max(from, 1); next != 0 && len(page) < limit; {
		messages, rest, err := l.b.scan(ctx, DeadStream, f.subject(), next, min(limit-len(page), 256))
		if err != nil {
			return nil, 0, fmt.Errorf("list dead letters: %w", err)
		}
		for _, m := range messages {
			page = append(page, readDeadLetter(m))
			next = m.sequence + 1
		}
		if rest == 0 {
			next = 0
		}
	}
	return page, next, nil
}

// Get returns one dead letter, or ErrNotFound.
func (l *DeadLetters) Get(ctx context.Context, seq uint64) (DeadLetter, error) {
	d, _, err := l.get(ctx, seq)
	return d, err
}

func (l *DeadLetters) get(ctx context.Context, seq uint64) (d DeadLetter, s jetstream.Stream, err error) {
	err = l.b.again(ctx, "read dead letter "+strconv.FormatUint(seq, 10), func(ctx context.Context, _ *connection) (err error) {
		if s, err = l.b.js.Stream(ctx, DeadStream); err != nil {
			return err
		}
		m, err := s.GetMsg(ctx, seq)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return ErrNotFound
		}
		if err == nil {
			d = readDeadLetter(stored{m.Subject, m.Sequence, m.Time, m.Header, m.Data})
		}
		return err
	})
	return d, s, err
}

// Replay publishes the record again, in its original order, and removes the dead letter once the
// broker has it. Interrupted anywhere, it can be run again: the broker recognises the second
// copy for 24 hours, and its order gives it away afterwards.
func (l *DeadLetters) Replay(ctx context.Context, seq uint64) error {
	d, s, err := l.get(ctx, seq)
	if err != nil {
		return err
	}
	if _, err := l.b.store(ctx, d.replay(s.CachedInfo().Created.UnixNano())); err != nil {
		return fmt.Errorf("replay dead letter %d: %w", seq, err)
	}
	if err := l.remove(ctx, s, seq); err != nil {
		return fmt.Errorf("the record is published again, but its dead letter is listed still: %w", err)
	}
	return nil
}

// Drop removes a dead letter for good. ErrNotFound if there is none.
func (l *DeadLetters) Drop(ctx context.Context, seq uint64) error {
	_, s, err := l.get(ctx, seq)
	if err != nil {
		return err
	}
	return l.remove(ctx, s, seq)
}

// remove deletes a dead letter, or finds it deleted already.
func (l *DeadLetters) remove(ctx context.Context, s jetstream.Stream, seq uint64) error {
	return l.b.again(ctx, "remove dead letter "+strconv.FormatUint(seq, 10), func(ctx context.Context, _ *connection) error {
		err := s.DeleteMsg(ctx, seq)
		if err == nil {
			return nil
		}
		if _, gone := s.GetMsg(ctx, seq); errors.Is(gone, jetstream.ErrMsgNotFound) {
			return nil
		}
		return err
	})
}

// token is a reason or an outcome as part of a subject.
func token(s string) string { return Key(s) }

// clean makes a text fit for a header: one line, valid UTF-8, no more than limit bytes.
func clean(s string, limit int) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == utf8.RuneError {
			return ' '
		}
		return r
	}, s)
	if len(s) > limit {
		for s = s[:limit-len("…")]; !utf8.ValidString(s); {
			s = s[:len(s)-1]
		}
		s += "…"
	}
	return strings.TrimSpace(s)
}

// oneLine is JSON fit for a header, or a word in its place.
func oneLine(v json.RawMessage) string {
	var b bytes.Buffer
	if len(v) == 0 || json.Compact(&b, v) != nil {
		return ""
	}
	if b.Len() > maxSkills {
		return `"too long"`
	}
	return b.String()
}

func readJSON(s string) json.RawMessage {
	if !json.Valid([]byte(s)) {
		return nil
	}
	return json.RawMessage(s)
}

func moment(s string) time.Time {
	t, _ := time.Parse(time.RFC3339Nano, s) // the zero time if it is not there
	return t
}
