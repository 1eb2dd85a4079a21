// Package ledger keeps one entry per employee: what was applied last, who works on the employee
// now, and how often a record has been tried.
//
// Whoever handles a record first claims its employee, by compare-and-swap, and gives the claim up
// with the record's result. That is what keeps an older record from overwriting a newer one, two
// workers from patching one user, and a record that kills its worker from doing so for ever.
//
//	            ┌──────────────────── Release ───────────────────┐
//	            ▼                                                │
//	free ──▶ claimed ──▶ Patched ──▶ Close ──▶ settled: SettledError
//	  ▲         │           │
//	  │         └───────────┴──────▶ Dead ───▶ dead: DeadError
//	  └── run out, or delivered to somebody else: the fence is raised, it may have patched
//
// A claim cannot fence Genesys Cloud: a worker that was suspended between looking at its claim and
// sending its patch patches late. It finds out afterwards, and says so with Disturb.
//
// entry.go has the rules and knows no I/O. The package must not know what is in a record, what a
// failure means, or NATS.
package ledger

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"skillsync/queue"
)

// A Store is where the entries live: *queue.KV. Its calls end by themselves within seconds.
type Store interface {
	Get(ctx context.Context, key string) (queue.Entry, error)
	Update(ctx context.Context, key string, value []byte, revision uint64) (uint64, error)
}

// swaps is how often one change is tried before it is an error.
const swaps = 8

// A Ledger reads and writes entries. Store, Worker and Target must be set. It may be used by many
// goroutines.
type Ledger struct {
	Store Store
	// Worker names this process. It must be another one after each start.
	Worker string
	// Target names the org. User ids, digests and fences hold for one org only: an entry of another
	// one is taken for empty, and overwritten.
	Target string
	// TTL is the life of a claim that is not extended: the consumer's AckWait, so that it runs out
	// together with the lease. Default 1 minute.
	TTL time.Duration
	// Now is the broker's time. nil is time.Now, which is good enough only for one machine.
	Now func() time.Time
	// Conflict is called for each write that is tried again because another one came first. nil ok
	Conflict func()

	writes  atomic.Uint64
	mu      sync.Mutex
	unclear map[string]string // by key: the write of a Claim that ended without knowing whether it was stored
}

// A Request is one delivery that wants to be worked on.
type Request struct {
	Key       string  // the employee's
	Version   Version // of the record
	Replays   int     // times it was replayed from the dead letters: each replay starts with no attempts and no mark
	Delivered int     // times the broker delivered the message
	// OnLost is called once if the claim is found to be lost, or runs out because it could not be
	// extended in time: stop before anything else is sent. It must not use the claim. nil ok
	OnLost func()
}

func (r Request) message() message { return message{r.Version.Order, r.Replays} }

var (
	// ErrSuperseded says that a newer record of the employee was applied, or may have been.
	ErrSuperseded = errors.New("superseded by a newer record")
	// ErrLost says that the claim is somebody else's by now, and with it the record: stop, write
	// nothing and leave the delivery alone. If a patch may have gone out, call Disturb.
	ErrLost = errors.New("claim lost")
	// ErrDamaged says that an entry cannot be read. It is not repaired: it may hold the fence that
	// keeps an older record out. Deleting the key lets the next record be applied as the first.
	ErrDamaged = errors.New("cannot be read; delete it to begin anew")
	// errNewer says the same of an entry that nothing is wrong with.
	errNewer = errors.New("written by a newer release; update this one")
	// errOver is a use of a claim after its end.
	errOver = errors.New("claim used after its end")
)

// A SettledError says that this very message was closed before: its worker died before the
// acknowledgement.
type SettledError struct{ Outcome string }

func (e *SettledError) Error() string { return "settled before: " + e.Outcome }

// A DeadError says that this very message was marked as a dead letter before.
type DeadError struct {
	Failure json.RawMessage
	Notes   []json.RawMessage // of its attempts, as in Claim
}

func (e *DeadError) Error() string { return "a dead letter already" }

// A BusyError says that another worker, or this one for another record, holds the employee.
type BusyError struct{ Until time.Time }

func (e *BusyError) Error() string {
	return "another record of the employee is being worked on until " + e.Until.UTC().Format(time.RFC3339)
}

// Claim claims the employee for one delivery and counts the attempt. It returns ErrSuperseded,
// *SettledError, *DeadError, *BusyError or ErrLost if the delivery has no business here; any other
// error is the store's, and no attempt was spent.
func (l *Ledger) Claim(ctx context.Context, r Request) (*Claim, error) {
	write, orphan, began := l.nextWrite(), l.orphan(r.Key), time.Now()
	got, unclear, err := l.swap(ctx, r.Key, write, doubtful(0), func(e *entry) error {
		if c := e.Claim; c != nil && (c.Write == orphan || c.Write == write) {
			e.giveBack(true, false, l.now()) // stored, but nobody ever got it
		}
		return e.take(r, l.Worker, write, l.now(), l.ttl())
	})
	if err != nil {
		if unclear {
			l.setOrphan(r.Key, write)
		}
		return nil, claimError(r.Key, err)
	}
	l.setOrphan(r.Key, "")
	return newClaim(l, r, write, got, began), nil
}

func claimError(key string, err error) error {
	var (
		settled *SettledError
		dead    *DeadError
		busy    *BusyError
	)
	if errors.As(err, &settled) || errors.As(err, &dead) || errors.As(err, &busy) || errors.Is(err, ErrSuperseded) {
		return err // an answer, not a failure
	}
	return fmt.Errorf("claim %s: %w", key, err)
}

// A State is what the ledger knows of an employee. Nobody is kept from changing it.
type State struct {
	UserID     string // if it is known
	Digest     string // the state that was verified last and stands; empty if none does
	VerifiedAt time.Time
	// Doubtful tells that something may have been written that no read has shown yet: a read that
	// lags behind may still show what was there before.
	Doubtful bool
}

// Look tells what a delivery would find, and counts, claims and writes nothing. Its errors are
// those of Claim, except that it does not mind who works on the employee.
func (l *Ledger) Look(ctx context.Context, r Request) (State, error) {
	stored, err := l.read(ctx, r.Key)
	if final := (*finalError)(nil); errors.As(err, &final) {
		err = final.error
	}
	if err != nil {
		return State{}, fmt.Errorf("look at %s: %w", r.Key, err)
	}
	if err := stored.refuses(r); err != nil {
		return State{}, err
	}
	return stored.state(), nil
}

// Disturb says that a patch may have gone out after its claim was lost. What the entry knows of
// the user's state is worth nothing from then on: the next record is not taken for unchanged, and
// one that was patched is patched again when it is tried again.
func (l *Ledger) Disturb(ctx context.Context, key string) error {
	_, _, err := l.swap(ctx, key, l.nextWrite(), doubtful(0), func(e *entry) error {
		if !e.disturb() {
			return errNothing
		}
		return nil
	})
	if err != nil && !errors.Is(err, errNothing) {
		return fmt.Errorf("disturb %s: %w", key, err)
	}
	return nil
}

var errNothing = errors.New("nothing to change")

// A revision is an entry as it was stored.
type revision struct {
	entry
	number uint64
	doubt  bool // only the number is known, or an earlier one
}

func doubtful(number uint64) revision { return revision{number: number, doubt: true} }

// errBehind is a read that was answered by a replica which has not heard of the latest yet.
var errBehind = errors.New("the store's answer is out of date")

// swap changes the entry of key by compare-and-swap, beginning with from, or with what is stored
// if that is in doubt. An error of change ends it. After a write whose answer was lost it looks
// whether the write is there. If it ends with an error, unclear tells whether it may have written
// all the same.
func (l *Ledger) swap(ctx context.Context, key, write string, from revision, change func(*entry) error) (_ revision, unclear bool, _ error) {
	for n := 1; ; n++ {
		got, ambiguous, err := l.swapOnce(ctx, key, write, from, change)
		if err == nil {
			return got, false, nil
		}
		unclear = unclear || ambiguous
		var final *finalError
		if errors.As(err, &final) {
			return revision{}, unclear, final.error
		}
		if n == swaps || !sleep(ctx, backoff(n)) {
			return revision{}, unclear, err
		}
		from = doubtful(from.number)
	}
}

// A finalError is one that another try would not change.
type finalError struct{ error }

func (l *Ledger) swapOnce(ctx context.Context, key, write string, from revision, change func(*entry) error) (_ revision, ambiguous bool, _ error) {
	if from.doubt {
		stored, err := l.read(ctx, key)
		switch {
		case err != nil:
			return revision{}, false, err
		case stored.number < from.number:
			return revision{}, false, errBehind
		case stored.Write == write:
			return stored, false, nil // it was stored; only the answer was lost
		}
		from = stored
	}
	next := from.clone()
	if err := change(&next); err != nil {
		return revision{}, false, &finalError{err}
	}
	next.Schema, next.Target, next.Write = schema, l.Target, write
	value, err := json.Marshal(next)
	if err != nil {
		return revision{}, false, &finalError{err}
	}
	number, err := l.Store.Update(ctx, key, value, from.number)
	if err != nil {
		conflict := errors.Is(err, queue.ErrConflict)
		if conflict && l.Conflict != nil {
			l.Conflict()
		}
		return revision{}, !conflict, fmt.Errorf("write ledger entry: %w", err)
	}
	return revision{entry: next, number: number}, false, nil
}

func (l *Ledger) read(ctx context.Context, key string) (revision, error) {
	stored, err := l.Store.Get(ctx, key)
	if errors.Is(err, queue.ErrNotFound) {
		return revision{}, nil
	} else if err != nil {
		return revision{}, fmt.Errorf("read ledger entry: %w", err)
	}
	e, err := decode(key, stored.Value)
	if err != nil {
		return revision{}, &finalError{err}
	}
	if e.Target != l.Target {
		e = entry{}
	}
	return revision{entry: e, number: stored.Revision}, nil
}

func (l *Ledger) nextWrite() string {
	return l.Worker + "/" + strconv.FormatUint(l.writes.Add(1), 10)
}

func (l *Ledger) ttl() time.Duration { return cmp.Or(l.TTL, time.Minute) }

func (l *Ledger) now() time.Time {
	now := time.Now
	if l.Now != nil {
		now = l.Now
	}
	return now().UTC().Truncate(time.Millisecond)
}

func (l *Ledger) orphan(key string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return cmp.Or(l.unclear[key], "none")
}

func (l *Ledger) setOrphan(key, write string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case write == "":
		delete(l.unclear, key)
	case l.unclear == nil:
		l.unclear = map[string]string{key: write}
	default:
		l.unclear[key] = write
	}
}

// backoff is the wait before the n'th try is repeated. The jitter keeps losers of one race from
// meeting in the next.
func backoff(n int) time.Duration {
	most := min(5*time.Millisecond<<n, 500*time.Millisecond)
	return most/4 + rand.N(most*3/4)
}

func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}
