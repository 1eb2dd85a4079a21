package ledger

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"skillsync/queue"
)

const (
	schema   = 1
	maxTries = 8 // records of one employee whose attempts are remembered
	maxNotes = 8 // attempts of one record that are told of; of more the last ones
)

// What Claim.Dead and Claim.SetNote take, in bytes.
const (
	MaxFailure = 4 << 10
	MaxNote    = 512
)

// An entry is what the ledger knows of one employee. Its methods are the rules: no I/O, no clock.
// It holds no name, address or attribute value.
type entry struct {
	Schema int    `json:"schema"`
	Target string `json:"target,omitempty"`
	// Write names the write that made this revision. Whoever did not hear whether a write of his
	// was stored finds out by it.
	Write string `json:"write"`

	UserID string `json:"user_id,omitempty"`
	// Digest is the state that was verified last, and stands. It is empty as soon as a patch that
	// was never verified may have gone out.
	Digest     string    `json:"digest,omitempty"`
	VerifiedAt time.Time `json:"verified_at,omitzero"`
	// Fence is the newest version that was patched, or may have been. Nothing older gets past it.
	Fence *Version `json:"fence,omitempty"`

	Claim   *claim   `json:"claim,omitempty"`
	Settled *settled `json:"settled,omitempty"` // the record closed last
	Tries   []try    `json:"tries,omitempty"`   // records not closed yet; the one claimed last is the last
}

// A message is one publication of a record: a replay of a dead letter is another one, and starts anew.
type message struct {
	Order   queue.Order `json:"order"`
	Replays int         `json:"replays,omitempty"`
}

// A claim is who works on the employee.
type claim struct {
	Worker    string    `json:"worker"`
	Write     string    `json:"write"` // the write that made the claim: its identity
	Version   Version   `json:"version"`
	Replays   int       `json:"replays,omitempty"`
	Delivered int       `json:"delivered"`
	Until     time.Time `json:"until"`
	Disturbed bool      `json:"disturbed,omitempty"` // somebody else may have patched meanwhile
}

func (c *claim) message() message { return message{c.Version.Order, c.Replays} }

// A settled is a message that was closed, and how.
type settled struct {
	message
	Outcome string `json:"outcome"`
}

// A try is what happened to one message so far.
type try struct {
	Version Version         `json:"version"`
	Replays int             `json:"replays,omitempty"`
	N       int             `json:"n"`                     // attempts begun, less those refunded
	First   time.Time       `json:"first_failed,omitzero"` // when the first of them failed
	Patched string          `json:"patched,omitempty"`     // digest of what was patched
	Dead    json.RawMessage `json:"dead,omitempty"`        // why it is a dead letter

	Notes []json.RawMessage `json:"notes,omitempty"` // why attempts failed, oldest first
}

func (t try) message() message { return message{t.Version.Order, t.Replays} }

func decode(key string, value []byte) (entry, error) {
	var e entry
	err := json.Unmarshal(value, &e)
	if err == nil && e.Schema == schema {
		return e, nil
	}
	var head struct{ Schema int } // by itself: of the rest a newer release may have made anything
	switch headErr := json.Unmarshal(value, &head); {
	case headErr == nil && head.Schema > schema:
		return entry{}, fmt.Errorf("ledger entry %s: %w", key, errNewer)
	case err == nil:
		err = fmt.Errorf("schema %d", e.Schema)
	}
	return entry{}, fmt.Errorf("ledger entry %s: %w: %w", key, ErrDamaged, err)
}

// clone is a copy that can be changed without changing e.
func (e entry) clone() entry {
	e.Tries = slices.Clone(e.Tries)
	return e
}

// refuses tells why r has no business here, whoever works on the employee.
func (e *entry) refuses(r Request) error {
	if e.Settled != nil && e.Settled.message == r.message() {
		return &SettledError{Outcome: e.Settled.Outcome}
	}
	if t := e.find(r.message()); t != nil && t.Dead != nil {
		return &DeadError{Failure: t.Dead, Notes: t.Notes}
	}
	if e.fenced(r.Version) {
		return ErrSuperseded
	}
	return nil
}

// take lets worker claim the employee for r, or tells why it may not.
func (e *entry) take(r Request, worker, write string, now time.Time, ttl time.Duration) error {
	if err := e.refuses(r); err != nil {
		return err
	}
	if e.Claim != nil {
		if err := e.oust(r, now); err != nil {
			return err
		}
		if e.fenced(r.Version) { // by what the other one may have done
			return ErrSuperseded
		}
	}
	e.begin(r).N++
	e.Claim = &claim{
		Worker: worker, Write: write, Version: r.Version, Replays: r.Replays,
		Delivered: r.Delivered, Until: now.Add(ttl),
	}
	return nil
}

// oust takes the claim away from a worker that cannot be working on it any more. It may have
// died a moment after its patch went out.
func (e *entry) oust(r Request, now time.Time) error {
	c := e.Claim
	same := c.message() == r.message()
	switch {
	case same && c.Delivered < r.Delivered: // the broker has given its lease to us
	case !now.Before(c.Until):
	case same && c.Delivered > r.Delivered: // the broker has given our lease to him
		return fmt.Errorf("%w: delivery %d, and delivery %d is under way", ErrLost, r.Delivered, c.Delivered)
	default:
		return &BusyError{Until: c.Until}
	}
	if t := e.find(c.message()); t != nil {
		t.failed(now)
	}
	e.mayHavePatched(c.Version)
	e.Claim = nil
	return nil
}

// mayHavePatched notes that a patch of v may be out: older records stay out from now on, and
// what stood before stands no longer.
func (e *entry) mayHavePatched(v Version) {
	e.raise(v)
	e.Digest, e.VerifiedAt = "", time.Time{}
}

func (e *entry) raise(v Version) {
	if e.Fence == nil || v.Compare(*e.Fence) > 0 {
		e.Fence = &v
	}
}

func (e *entry) fenced(v Version) bool { return e.Fence != nil && v.Compare(*e.Fence) < 0 }

func (e *entry) find(m message) *try {
	for i := range e.Tries {
		if e.Tries[i].message() == m {
			return &e.Tries[i]
		}
	}
	return nil
}

// begin is the try of r, moved to the end, or a new one in place of the oldest.
func (e *entry) begin(r Request) *try {
	t := try{Version: r.Version, Replays: r.Replays}
	if known := e.find(r.message()); known != nil {
		t = *known
		e.forget(r.message())
	}
	e.Tries = append(e.Tries, t)
	if drop := len(e.Tries) - maxTries; drop > 0 {
		e.Tries = slices.Delete(e.Tries, 0, drop)
	}
	return &e.Tries[len(e.Tries)-1]
}

func (e *entry) forget(m message) {
	e.Tries = slices.DeleteFunc(e.Tries, func(t try) bool { return t.message() == m })
}

// patched notes that a patch of the claimed record went through.
func (e *entry) patched(digest string) {
	e.mayHavePatched(e.Claim.Version)
	if t := e.find(e.Claim.message()); t != nil {
		t.Patched = digest
	}
	c := *e.Claim
	c.Disturbed = false // ours is the last patch again
	e.Claim = &c
}

// close notes that the claimed record was applied.
func (e *entry) close(outcome, digest string, verifiedAt time.Time) {
	c := e.Claim
	e.raise(c.Version)
	e.Digest, e.VerifiedAt = digest, verifiedAt
	if c.Disturbed {
		e.Digest, e.VerifiedAt = "", time.Time{}
	}
	e.Settled = &settled{c.message(), outcome}
	e.forget(c.message())
	// Those the fence keeps out need no memory, but a dead letter must end as one.
	e.Tries = slices.DeleteFunc(e.Tries, func(t try) bool { return t.Dead == nil && e.fenced(t.Version) })
	e.Claim = nil
}

// note keeps why the present attempt failed; nil keeps nothing.
func (e *entry) note(why json.RawMessage) {
	t := e.find(e.Claim.message())
	if t == nil || why == nil {
		return
	}
	last := t.Notes[max(0, len(t.Notes)-maxNotes+1):]
	t.Notes = append(slices.Clip(last), why) // into an array of its own: clones share the old one
}

// bury marks the claimed record as a dead letter.
func (e *entry) bury(failure json.RawMessage, patched bool, now time.Time) {
	if t := e.find(e.Claim.message()); t != nil {
		t.failed(now)
		t.Dead, t.Patched = failure, ""
	}
	e.release(patched)
}

// giveBack ends the claim without a result.
func (e *entry) giveBack(refund, patched bool, now time.Time) {
	if t := e.find(e.Claim.message()); t != nil {
		if refund {
			t.N = max(0, t.N-1)
		} else {
			t.failed(now)
		}
		if t.N == 0 && t.Patched == "" {
			e.forget(t.message())
		}
	}
	e.release(patched)
}

func (e *entry) release(patched bool) {
	if patched {
		e.mayHavePatched(e.Claim.Version)
	}
	e.Claim = nil
}

// disturb notes that somebody without a claim may have patched, and tells whether that is news.
func (e *entry) disturb() (news bool) {
	news = e.Digest != ""
	e.Digest, e.VerifiedAt = "", time.Time{}
	for i := range e.Tries {
		news = news || e.Tries[i].Patched != ""
		e.Tries[i].Patched = ""
	}
	if e.Claim != nil && !e.Claim.Disturbed {
		c := *e.Claim
		c.Disturbed = true
		e.Claim, news = &c, true
	}
	return news
}

// state is what a record can know of its employee before it is worked on.
func (e *entry) state() State {
	return State{
		UserID: e.UserID, Digest: e.Digest, VerifiedAt: e.VerifiedAt,
		Doubtful: e.Fence != nil && e.Digest == "",
	}
}

func (t *try) failed(now time.Time) {
	if t.First.IsZero() {
		t.First = now
	}
}
