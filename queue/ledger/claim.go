package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"
)

// A Claim is the right to work on one employee until it is closed, buried or released. Each change
// is a compare-and-swap that fails with ErrLost once the claim is somebody else's. The exported
// fields are what the entry said when the claim was made, and for their holder to read. Its methods
// may be called by many goroutines.
type Claim struct {
	State
	Attempt int       // of this message, from 1
	First   time.Time // when its first attempt failed; zero on that one
	// Notes are those of the attempts that failed, oldest first; of many the last ones. An attempt
	// that ended with its worker left none.
	Notes []json.RawMessage
	// PatchedDigest is the state that an earlier attempt of this message patched, if it did.
	PatchedDigest string

	ledger *Ledger
	key    string
	write  string // the claim's identity

	mu     sync.Mutex
	at     revision
	user   string          // to be written with the next change
	note   json.RawMessage // to be written with the end of the claim
	over   bool
	until  time.Time // it counts as run out then, by the local clock
	expiry *time.Timer
	lose   func()
}

func newClaim(l *Ledger, r Request, write string, got revision, began time.Time) *Claim {
	c := &Claim{
		State:  got.state(),
		ledger: l, key: r.Key, write: write, at: got, lose: func() {},
	}
	if t := got.find(r.message()); t != nil {
		c.Attempt, c.First, c.Notes, c.PatchedDigest = t.N, t.First, t.Notes, t.Patched
	}
	if r.OnLost != nil {
		c.lose = sync.OnceFunc(r.OnLost)
	}
	c.expiry = time.AfterFunc(c.lasts(began), c.lose)
	return c
}

// lasts is how much longer a claim made or extended at began lasts: a little less than the others
// think, whose clocks may be ahead. c.mu is held.
func (c *Claim) lasts(began time.Time) time.Duration {
	ttl := c.ledger.ttl()
	c.until = began.Add(ttl - ttl/20)
	return time.Until(c.until)
}

// SetUser remembers the employee's user id. It is written with the next change.
func (c *Claim) SetUser(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.UserID, c.user = id, id
}

// SetNote remembers why the attempt failed, for whoever claims the message next: JSON of at most
// MaxNote bytes, without personal data. It is written when the claim ends at the price of the
// attempt, by Dead or by Release without refund. What is longer or no JSON is dropped: the end of
// an attempt must not fail for a note.
func (c *Claim) SetNote(why json.RawMessage) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(why) <= MaxNote && json.Valid(why) {
		c.note = why
	}
}

// Extend gives the claim another TTL from now. It does nothing once the claim has ended.
func (c *Claim) Extend(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		return nil
	}
	began := time.Now()
	err := c.change(ctx, func(e *entry) {
		held := *e.Claim
		held.Until = c.ledger.now().Add(c.ledger.ttl())
		e.Claim = &held
	})
	if err != nil {
		return fmt.Errorf("extend the claim of %s: %w", c.key, err)
	}
	c.expiry.Reset(c.lasts(began))
	return nil
}

// Patched notes that a patch to the state of digest went through: should the worker die, the next
// attempt need only verify.
func (c *Claim) Patched(ctx context.Context, digest string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.change(ctx, func(e *entry) { e.patched(digest) }); err != nil {
		return fmt.Errorf("note the patch of %s: %w", c.key, err)
	}
	return nil
}

// Close ends the claim: the record is applied, with outcome, and the state of digest was seen to
// stand at verifiedAt.
func (c *Claim) Close(ctx context.Context, outcome, digest string, verifiedAt time.Time) error {
	return c.end(ctx, "close", func(e *entry) {
		e.close(outcome, digest, verifiedAt.UTC().Truncate(time.Millisecond))
	})
}

// Dead ends the claim and marks the message as a dead letter: delivered again, it is to become the
// same one, with failure (JSON, at most 4 KiB, without personal data). patched tells whether a
// patch may have gone out.
func (c *Claim) Dead(ctx context.Context, failure json.RawMessage, patched bool) error {
	if len(failure) > MaxFailure || !json.Valid(failure) {
		return fmt.Errorf("bury %s: a failure must be JSON of at most %d bytes, not of %d", c.key, MaxFailure, len(failure))
	}
	return c.end(ctx, "bury", func(e *entry) {
		e.note(c.note)
		e.bury(failure, patched, c.ledger.now())
	})
}

// Release ends the claim without a result. refund gives the attempt back: it was not the record's
// fault. patched tells whether a patch may have gone out.
func (c *Claim) Release(ctx context.Context, refund, patched bool) error {
	return c.end(ctx, "release", func(e *entry) {
		if !refund {
			e.note(c.note)
		}
		e.giveBack(refund, patched, c.ledger.now())
	})
}

func (c *Claim) end(ctx context.Context, what string, change func(*entry)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.change(ctx, change); err != nil {
		return fmt.Errorf("%s the claim of %s: %w", what, c.key, err)
	}
	c.over = true
	c.expiry.Stop()
	return nil
}

// change is one compare-and-swap on the claimed entry. That others have written to the entry does
// not matter as long as the claim in it is this one. c.mu is held.
func (c *Claim) change(ctx context.Context, apply func(*entry)) error {
	if c.over {
		return errOver
	}
	got, _, err := c.ledger.swap(ctx, c.key, c.ledger.nextWrite(), c.at, func(e *entry) error {
		if e.Claim == nil || e.Claim.Write != c.write {
			return ErrLost
		}
		if c.user != "" {
			e.UserID = c.user
		}
		apply(e)
		return nil
	})
	if err == nil {
		c.at = got
		return nil
	}
	c.at = doubtful(c.at.number)
	if !errors.Is(err, ErrLost) && !time.Now().Before(c.until) {
		err = fmt.Errorf("%w: it ran out: %w", ErrLost, err)
	}
	if errors.Is(err, ErrLost) {
		c.expiry.Stop()
		c.lose()
	}
	return err
}
