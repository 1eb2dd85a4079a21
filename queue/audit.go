package queue

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Actions of operators that are written down.
const (
	ActedReplay = "replay"
	ActedEdit   = "edit"
	ActedDrop   = "drop"
	ActedExport = "export"
	ActedReveal = "reveal"
	ActedLimit  = "limit"
)

// An AuditEntry says what somebody did. It must hold no personal data.
type AuditEntry struct {
	Position uint64    `json:"position"` // among the entries, set by the broker
	At       time.Time `json:"at"`       // by the broker's clock
	By       string    `json:"by"`
	Action   string    `json:"action"`
	About    string    `json:"about,omitempty"`   // sequence of a dead letter, name of a replay or file, an OAuth client
	Outcome  string    `json:"outcome"`           // begun, done, or why not
	Filter   *Filter   `json:"filter,omitempty"`  // what it was done to, if that was not one letter
	Letters  []uint64  `json:"letters,omitempty"` // or these; of many the first
	Count    uint64    `json:"count"`             // of letters
	Detail   string    `json:"detail,omitempty"`
}

// mostLetters is how many sequences an entry lists.
const mostLetters = 100

// Audit writes an entry down for good. Nothing that has to be written down may be done before this
// has returned nil.
func (b *Broker) Audit(ctx context.Context, e AuditEntry) error {
	ctx, cancel := b.within(ctx)
	defer cancel()
	e.Position, e.At = 0, time.Time{}
	e.By, e.Outcome, e.Detail = clean(e.By, maxText), clean(e.Outcome, maxError), clean(e.Detail, maxError)
	e.Letters = slices.Clip(e.Letters[:min(len(e.Letters), mostLetters)])
	data, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("write the audit entry: %w", err)
	}
	msg := nats.NewMsg(AuditSubject + "." + token(e.Action) + "." + Key(e.About))
	msg.Data = data
	msg.Header.Set(jetstream.MsgIDHeader, rand.Text())
	if _, err := b.store(ctx, msg); err != nil {
		return fmt.Errorf("write the audit entry: %w", err)
	}
	return nil
}

// AuditLog returns up to limit entries, newest first, that come before a position (0 = all), and
// the position to go on from, 0 after the first entry.
func (b *Broker) AuditLog(ctx context.Context, before uint64, limit int) (page []AuditEntry, next uint64, err error) {
	ctx, cancel := b.within(ctx)
	defer cancel()
	state, err := b.state(ctx, AuditStream)
	if err != nil {
		return nil, 0, err
	}
	if before == 0 || before > state.LastSeq {
		before = state.LastSeq + 1
	}
	from := max(state.FirstSeq, 1)
	if before > uint64(limit) { // positions have no gaps: nothing is deleted
		from = max(from, before-uint64(limit))
	}
	if before <= from {
		return nil, 0, nil
	}
	found, _, err := b.scan(ctx, AuditStream, ">", from, int(before-from))
	if err != nil {
		return nil, 0, err
	}
	page = readAudit(found)
	if from > max(state.FirstSeq, 1) {
		next = from
	}
	return page, next, nil
}

// AuditAbout returns the entries about one letter, replay or whatever else, newest first; of more
// than a thousand the first.
func (b *Broker) AuditAbout(ctx context.Context, about string) ([]AuditEntry, error) {
	ctx, cancel := b.within(ctx)
	defer cancel()
	found, _, err := b.scan(ctx, AuditStream, AuditSubject+".*."+Key(about), 1, 1000)
	return readAudit(found), err
}

// lookedBack is how many of the newest entries are searched for a letter that they list.
const lookedBack = 500

// AuditOfLetter returns the entries about a dead letter, newest first. Those about several letters,
// or a replay that names them, are found if they are among the newest.
func (b *Broker) AuditOfLetter(ctx context.Context, seq uint64) ([]AuditEntry, error) {
	about := strconv.FormatUint(seq, 10)
	entries, err := b.AuditAbout(ctx, about)
	if err != nil {
		return nil, err
	}
	latest, _, err := b.AuditLog(ctx, 0, lookedBack)
	if err != nil {
		return nil, err
	}
	for _, e := range latest {
		if e.About != about && slices.Contains(e.Letters, seq) {
			entries = append(entries, e)
		}
	}
	slices.SortFunc(entries, func(x, y AuditEntry) int { return cmp.Compare(y.Position, x.Position) })
	return entries, nil
}

func readAudit(found []stored) []AuditEntry {
	page := make([]AuditEntry, 0, len(found))
	for _, m := range slices.Backward(found) {
		var e AuditEntry
		if json.Unmarshal(m.data, &e) != nil {
			e = AuditEntry{Action: "unknown", Outcome: "an entry that cannot be read"}
		}
		e.Position, e.At = m.sequence, m.at
		page = append(page, e)
	}
	return page
}
