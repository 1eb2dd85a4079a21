package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"skillsync/queue"
	"skillsync/queue/queuetest"
)

// The model is one employee, a broker with a few records of theirs, an org that remembers every
// patch, and workers that are driven step by step, crash anywhere and do not hear every answer.

const (
	lease       = time.Minute
	maxAttempts = 3
)

// A letter is one record in the model's broker.
type letter struct {
	version   Version
	delivered int
	leased    time.Time // until when
	ended     string    // how it was acknowledged
	begun     int       // attempts that a worker has begun, less refunds
	failed    []int     // deliveries that ended at the price of an attempt, as far as their workers know
	tried     []int     // and those that tried to
	closed    bool      // a Close or Dead of it succeeded, as far as its worker knows
}

// stage is how far a worker has come with its letter.
type stage int

const (
	free stage = iota
	claimedStage
	patchedStage // the patch is out, but not noted
	notedStage
	closedStage // only the acknowledgement is missing
)

type hand struct {
	ledger    *Ledger
	stage     stage
	letter    *letter
	delivered int
	claim     *Claim
	outcome   string
	lost      chan struct{} // closed when the claim is
	patching  bool
	refunded  bool
	ending    bool // it has tried to give the claim up, and does nothing else from then on
}

type model struct {
	store   *queuetest.KV
	letters []*letter
	hands   []*hand
	starts  int
	org     []Version // every patch, in order
	wrong   string    // the first broken promise
}

func (m *model) fail(format string, args ...any) {
	if m.wrong == "" {
		m.wrong = fmt.Sprintf(format, args...)
	}
}

func (m *model) employ(i int) {
	m.starts++
	m.hands[i] = &hand{ledger: &Ledger{Store: m.store, Worker: fmt.Sprintf("w%d", m.starts), Target: "org", TTL: lease}}
}

// alive tells whether h may still send anything.
func (h *hand) alive() bool {
	select {
	case <-h.lost:
		return false
	default:
		return true
	}
}

func (m *model) deliver(h *hand, pick int) {
	var ready []*letter
	for _, l := range m.letters {
		if l.ended == "" && !time.Now().Before(l.leased) {
			ready = append(ready, l)
		}
	}
	if len(ready) == 0 {
		return
	}
	l := ready[pick%len(ready)]
	l.delivered++
	l.leased = time.Now().Add(lease)
	h.letter, h.delivered, h.patching = l, l.delivered, false
	h.refunded, h.ending = false, false
	lost := make(chan struct{})
	claim, err := h.ledger.Claim(context.Background(), Request{Key: key, Version: l.version, Delivered: l.delivered, OnLost: func() { close(lost) }})
	h.claim, h.lost = claim, lost
	var (
		settled *SettledError
		dead    *DeadError
	)
	switch {
	case err == nil:
		h.stage = claimedStage
		m.claimed(h)
	case errors.As(err, &settled):
		m.acknowledge(h, settled.Outcome)
	case errors.As(err, &dead):
		m.noted(l, dead.Notes)
		m.acknowledge(h, "dead")
	case errors.Is(err, ErrSuperseded):
		m.acknowledge(h, "superseded")
	case errors.Is(err, ErrLost):
		h.stage = free
	default: // busy, or the store
		h.nak()
	}
}

func (m *model) claimed(h *hand) {
	if h.letter.closed {
		m.fail("record %s was claimed after its end", h.letter.version)
	}
	if h.claim.Attempt <= h.letter.begun {
		m.fail("attempt %d of record %s, but %d were begun before", h.claim.Attempt, h.letter.version, h.letter.begun)
	}
	m.noted(h.letter, h.claim.Notes)
	if len(h.claim.Notes) >= h.claim.Attempt {
		m.fail("attempt %d of record %s finds notes of %d earlier ones", h.claim.Attempt, h.letter.version, len(h.claim.Notes))
	}
	h.letter.begun++
	for _, o := range m.hands {
		if o != h && o.stage != free && o.stage != closedStage && o.letter != h.letter && !o.ending && o.alive() {
			m.fail("records %s and %s are claimed at the same time", h.letter.version, o.letter.version)
		}
	}
}

// noted checks the notes of a record, which are numbers of deliveries: each that failed is told of
// once and in order, and none that did not fail.
func (m *model) noted(l *letter, notes []json.RawMessage) {
	var told []int
	for _, note := range notes {
		var n int
		if err := json.Unmarshal(note, &n); err != nil || len(told) > 0 && n <= told[len(told)-1] || !slices.Contains(l.tried, n) {
			m.fail("record %s has the notes %s, but %d tried to leave one", l.version, notes, l.tried)
		}
		told = append(told, n)
	}
	for _, n := range l.failed {
		if !slices.Contains(told, n) {
			m.fail("record %s has the notes %s, and that of delivery %d is lost", l.version, notes, n)
		}
	}
}

// note leaves one, which is to be kept only if the attempt counts.
func (h *hand) note(counts bool) {
	h.claim.SetNote(json.RawMessage(strconv.Itoa(h.delivered)))
	if counts {
		h.letter.tried = append(h.letter.tried, h.delivered)
	}
}

func (h *hand) nak() {
	if h.letter.delivered == h.delivered { // a nak of an old delivery would be a mistake of ours
		h.letter.leased = time.Now().Add(2 * time.Second)
	}
	h.stage = free
}

func (m *model) acknowledge(h *hand, outcome string) {
	if h.letter.ended == "" {
		h.letter.ended = outcome
	}
	h.stage = free
}

// step is the next thing that a worker does for its letter.
func (m *model) step(h *hand, luck int) {
	ctx := context.Background()
	var err error
	switch h.stage {
	case free:
		m.deliver(h, luck)
	case claimedStage:
		switch {
		case h.claim.Attempt > maxAttempts:
			m.bury(h)
		case h.ending:
			m.release(h, false)
		case h.claim.PatchedDigest != "":
			h.stage = notedStage
		case !h.alive(): // it stops by itself
			h.stage = free
		default:
			m.patch(h)
		}
	case patchedStage:
		if err = h.claim.Patched(ctx, h.letter.version.String()); err == nil {
			h.stage = notedStage
		}
	case notedStage:
		if luck%3 == 0 || h.ending { // not as expected yet: another attempt
			m.release(h, false)
			break
		}
		h.ending = true
		if err = h.claim.Close(ctx, "verified", h.letter.version.String(), time.Now()); err == nil {
			m.closed(h, "verified")
		}
	case closedStage:
		m.acknowledge(h, h.outcome)
	}
	m.mind(h, err)
}

func (m *model) patch(h *hand) {
	v := h.letter.version
	if h.letter.closed {
		m.fail("record %s was patched after its end", v)
	}
	for _, before := range m.org {
		if v.Compare(before) < 0 {
			m.fail("record %s was patched over the newer %s", v, before)
		}
	}
	m.org = append(m.org, v)
	h.patching, h.stage = true, patchedStage
}

func (m *model) closed(h *hand, outcome string) {
	h.letter.closed, h.outcome, h.stage = true, outcome, closedStage
}

func (m *model) bury(h *hand) {
	h.ending = true
	h.note(true)
	err := h.claim.Dead(context.Background(), json.RawMessage(`{}`), h.patching)
	if err == nil {
		h.letter.failed = append(h.letter.failed, h.delivered)
		m.closed(h, "dead")
	}
	m.mind(h, err)
}

func (m *model) release(h *hand, refund bool) {
	if refund && !h.refunded { // once asked for, it may have been given, whatever the answer
		h.letter.begun--
		h.refunded = true
	}
	h.ending = true
	h.note(!refund)
	err := h.claim.Release(context.Background(), refund, h.patching)
	if err == nil {
		if !refund {
			h.letter.failed = append(h.letter.failed, h.delivered)
		}
		h.nak()
	}
	m.mind(h, err)
}

// mind does what a worker does about an error: leave a lost record alone, else try again later.
func (m *model) mind(h *hand, err error) {
	if !errors.Is(err, ErrLost) {
		return
	}
	if h.patching {
		_ = h.ledger.Disturb(context.Background(), key)
	}
	h.stage = free
}

func (m *model) extend(h *hand) {
	if h.stage == free || h.stage == closedStage {
		return
	}
	err := h.claim.Extend(context.Background())
	if err == nil && h.letter.delivered == h.delivered {
		h.letter.leased = time.Now().Add(lease)
	}
	m.mind(h, err)
}

// A move is one thing that happens in the model.
type move struct {
	What string
	Hand int
	Luck int
}

var moves = []string{
	"step", "step", "step", "step", "step", "step", "extend", "crash", "give back", "pass",
	"write fails", "write unheard", "read fails", "time",
}

func (m *model) play(v move) {
	h := m.hands[v.Hand%len(m.hands)]
	switch v.What {
	case "step":
		m.step(h, v.Luck)
	case "extend":
		m.extend(h)
	case "crash":
		m.employ(v.Hand % len(m.hands))
	case "give back":
		if h.stage == claimedStage || h.stage == notedStage {
			m.release(h, true)
		}
	case "write fails":
		m.store.Fail(queuetest.Update, queuetest.Before)
	case "write unheard":
		m.store.Fail(queuetest.Update, queuetest.After)
	case "read fails":
		m.store.Fail(queuetest.Get, slices.Repeat([]queuetest.Fault{queuetest.Before}, 1+v.Luck%swaps)...)
	case "time":
		time.Sleep(time.Duration(v.Luck) * time.Second)
		synctest.Wait() // who has lost its claim knows
	}
}

// finish lets the workers work on in peace until every record has ended.
func (m *model) finish() {
	for range 200 {
		for _, h := range m.hands {
			for range 6 {
				m.step(h, 1)
			}
		}
		if !slices.ContainsFunc(m.letters, func(l *letter) bool { return l.ended == "" }) {
			return
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
	}
	m.fail("after half an hour in peace there are records without an end")
}

func (m *model) check() {
	newest := slices.MaxFunc(m.letters, func(a, b *letter) int { return a.version.Compare(b.version) })
	if newest.ended == "superseded" {
		m.fail("the newest record, %s, was superseded", newest.version)
	}
	if newest.ended == "verified" && (len(m.org) == 0 || m.org[len(m.org)-1] != newest.version) {
		m.fail("the newest record, %s, does not stand at the end: %s", newest.version, m.org)
	}
	for _, l := range m.letters {
		if l.ended == "verified" && !slices.Contains(m.org, l.version) {
			m.fail("record %s counts as verified and was never patched", l.version)
		}
	}
	if len(m.org) > 0 {
		got, err := m.store.Get(context.Background(), key)
		for errors.Is(err, queue.ErrUnreachable) { // a fault that nobody has met
			got, err = m.store.Get(context.Background(), key)
		}
		e, err := decode(key, got.Value)
		last := m.org[len(m.org)-1]
		if err != nil || e.Digest != "" && e.Digest != last.String() {
			m.fail("the ledger says that %s stands, but %s was patched last (%v)", e.Digest, last, err)
		}
	}
}

func TestNewerWinsAndNoAttemptIsLostWhateverHappens(t *testing.T) {
	for name, version := range map[string]func(i, n int) Version{
		"records with versions":    func(i, n int) Version { return numbered(int64(n), uint64(i)) },
		"records without versions": func(i, _ int) Version { return at(uint64(i)) },
	} {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) {
				numbers := rapid.SliceOfN(rapid.IntRange(1, 3), 1, 4).Draw(rt, "numbers")
				workers := rapid.IntRange(1, 3).Draw(rt, "workers")
				script := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) move {
					return move{
						rapid.SampledFrom(moves).Draw(t, "what"),
						rapid.IntRange(0, workers-1).Draw(t, "hand"),
						rapid.IntRange(0, 40).Draw(t, "luck"),
					}
				}), 0, 120).Draw(rt, "script")

				m := &model{hands: make([]*hand, workers)}
				for i, n := range numbers {
					m.letters = append(m.letters, &letter{version: version(i+1, n)})
				}
				synctest.Test(t, func(t *testing.T) {
					m.store = queuetest.NewKV()
					for i := range m.hands {
						m.employ(i)
					}
					for _, v := range script {
						m.play(v)
					}
					m.finish()
					m.check()
				})
				if m.wrong != "" {
					rt.Fatal(m.wrong)
				}
			})
		})
	}
}
