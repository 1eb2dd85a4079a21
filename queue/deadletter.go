package queue

import (
	"bytes"
	"encoding/json"
	"slices"
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
	headerTraceID     = "Skillsync-Trace-Id"
	headerAttempts    = "Skillsync-Attempts"
	headerFirst       = "Skillsync-First-Failure"
	headerLast        = "Skillsync-Last-Failure"
	headerMapping     = "Skillsync-Mapping"
	headerExpected    = "Skillsync-Expected"
	headerActual      = "Skillsync-Actual"
	headerTries       = "Skillsync-Tries"
	headerDesired     = "Skillsync-Desired"
	headerWorker      = "Skillsync-Worker"
	headerApp         = "Skillsync-App"
)

// Bounds of what goes into headers: all of them together stay below room.
const (
	maxError  = 1 << 10
	maxSkills = 4 << 10
	maxText   = 256
	maxTries  = 3 << 10
	maxLives  = 3 << 10
)

// LoopAfter is how many replays a record may come back from before it counts as looping: then a
// bulk replay passes over it unless it is forced.
const LoopAfter = 3

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
	Lives     []Life              `json:"lives,omitempty"` // as dead letters before this one, oldest first; of many the last ones
	Batch     string              `json:"batch,omitempty"`
	Header    map[string][]string `json:"header,omitempty"` // the record's own, and where it was first published
	Data      []byte              `json:"data,omitempty"`   // the record, unchanged
}

// Looping tells whether the record has come back too often for a bulk replay.
func (d *DeadLetter) Looping() bool { return d.Replays >= LoopAfter }

// A Life is one time that a record was a dead letter, and how it was replayed from there.
type Life struct {
	Letter        uint64    `json:"letter"` // its sequence among the dead letters
	At            time.Time `json:"at"`     // when it became one
	Reason        string    `json:"reason"`
	Status        int       `json:"status,omitempty"`
	Error         string    `json:"error,omitempty"`
	CorrelationID string    `json:"correlation_id,omitempty"`
	Attempts      int       `json:"attempts,omitempty"`
	Replayed      time.Time `json:"replayed"`
	By            string    `json:"by,omitempty"`
	Replay        string    `json:"replay,omitempty"` // its name
	Edited        []string  `json:"edited,omitempty"` // fields that were changed then
}

// A Try is one attempt that failed.
type Try struct {
	Number        int       `json:"number"` // from 1
	At            time.Time `json:"at"`     // when it failed
	Status        int       `json:"status,omitempty"`
	CorrelationID string    `json:"correlation_id,omitempty"`
	Error         string    `json:"error,omitempty"`
	Worker        string    `json:"worker,omitempty"`
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
		headerTraceID, headerAttempts, headerFirst, headerLast, headerMapping, headerExpected, headerActual, headerTries, headerDesired,
		headerWorker, headerApp,
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
	set(headerTraceID, f.TraceID, 32)
	number(headerAttempts, f.Attempts)
	moment(headerFirst, f.First)
	moment(headerLast, f.Last)
	set(headerMapping, f.MappingVersion, maxText)
	set(headerExpected, oneLine(f.Expected), maxSkills)
	set(headerActual, oneLine(f.Actual), maxSkills)
	set(headerTries, lastOf(f.Tries, maxTries), maxTries)
	set(headerDesired, f.Desired, maxText)
	set(headerWorker, f.Worker, maxText)
	set(headerApp, f.App, maxText)
}

// own is the value of a header that this package has written itself.
func own(h map[string][]string, name string) string {
	if v := h[name]; len(v) > 0 {
		return v[0]
	}
	return ""
}

func readFailure(h map[string][]string) Failure {
	number := func(name string) int { n, _ := strconv.Atoi(own(h, name)); return n }
	return Failure{
		EmployeeID: own(h, headerEmployee), Version: own(h, headerVersion),
		Reason: own(h, headerReason), Class: own(h, headerClass), Error: own(h, headerError),
		Status: number(headerStatus), CorrelationID: own(h, headerCorrelation), TraceID: own(h, headerTraceID), Attempts: number(headerAttempts),
		First: moment(own(h, headerFirst)), Last: moment(own(h, headerLast)), MappingVersion: own(h, headerMapping),
		Expected: readJSON(own(h, headerExpected)), Actual: readJSON(own(h, headerActual)),
		Tries: readList[Try](own(h, headerTries)), Desired: own(h, headerDesired),
		Worker: own(h, headerWorker), App: own(h, headerApp),
	}
}

func readDeadLetter(m stored) DeadLetter {
	d := DeadLetter{
		Sequence: m.sequence, At: m.at, Failure: readFailure(m.header), Data: m.data,
		Subject: own(m.header, HeaderSubject), Stream: own(m.header, HeaderStream),
		Published: moment(own(m.header, HeaderTime)), Batch: first(m.header, HeaderBatch), Header: map[string][]string{},
	}
	d.Order.Epoch, _ = strconv.ParseInt(own(m.header, HeaderEpoch), 10, 64)
	d.Order.Seq, _ = strconv.ParseUint(own(m.header, HeaderSeq), 10, 64)
	d.Replays, _ = strconv.Atoi(own(m.header, HeaderReplays))
	d.Lives = readList[Life](own(m.header, headerLives))
	keep(d.Header, m.header)
	return d
}

// An again is how one dead letter is published again.
type again struct {
	replay string // its name
	since  uint64 // position of the last result before it began
	by     string
	at     time.Time

	edited   []string // fields that are changed; nil if the record goes as it is
	data     []byte   // if edited: what goes in its place
	employee string   // and whose that is
}

// publishAgain is the record of a dead letter, to be published again: with its original order, so
// that it does not overwrite what is newer, and with an id of its own, because the first one is
// known. Two replays of one letter have the same id, whoever begins them: one record comes of it.
func (d *DeadLetter) publishAgain(created int64, a again) *nats.Msg {
	msg := nats.NewMsg(d.Subject)
	if d.Subject != RecordsSubject && !strings.HasPrefix(d.Subject, RecordsSubject+".") {
		msg.Subject = RecordsSubject // not a dead letter of ours, or somebody edited it
	}
	msg.Data = d.Data
	if a.edited != nil {
		msg.Data = a.data
		msg.Subject = RecordsSubject + "." + Key(a.employee)
	}
	keep(msg.Header, d.Header)
	msg.Header.Set(HeaderReplays, strconv.Itoa(d.Replays+1))
	msg.Header.Set(HeaderReplay, clean(a.replay, maxText))
	msg.Header.Set(HeaderLetter, strconv.FormatUint(d.Sequence, 10))
	msg.Header.Set(headerLives, lastOf(append(slices.Clone(d.Lives), d.life(a)), maxLives))
	msg.Header.Set(jetstream.MsgIDHeader, messageID("replay:", created, d.Sequence)+":"+strconv.Itoa(d.Replays+1))
	return msg
}

func (d *DeadLetter) life(a again) Life {
	return Life{
		Letter: d.Sequence, At: d.At, Reason: d.Reason, Status: d.Status, Error: clean(d.Error, maxText), CorrelationID: d.CorrelationID,
		Attempts: d.Attempts, Replayed: a.at, By: clean(a.by, maxText), Replay: a.replay, Edited: a.edited,
	}
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

// lastOf is a list as one line of JSON: as many of its last items as limit bytes hold.
func lastOf[T any](items []T, limit int) string {
	for ; len(items) > 0; items = items[1:] {
		line, err := json.Marshal(items)
		if err == nil && len(line) <= limit {
			return string(line)
		}
	}
	return ""
}

// readList reads what lastOf wrote, or nothing.
func readList[T any](line string) (items []T) {
	if json.Unmarshal([]byte(line), &items) != nil {
		return nil
	}
	return items
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
