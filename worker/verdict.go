package worker

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"time"

	"skillsync/genesys"
	"skillsync/queue"
	"skillsync/queue/ledger"
	"skillsync/queue/ratelimit"
	"skillsync/worker/employee"
	"skillsync/worker/mapping"
)

// An Outcome is how a record ended well.
type Outcome string

const (
	Verified   Outcome = "verified"   // patched, and read back as it should be
	Unchanged  Outcome = "unchanged"  // was already as it should be
	Superseded Outcome = "superseded" // a newer record of the same employee won
)

// A Reason is why a record became a dead letter: a word for subjects, metrics and people.
type Reason string

const (
	BadRecord         Reason = "bad_record"         // not a record, or a field that cannot be read
	NoAttributes      Reason = "no_attributes"      // none of the fields the mapping reads
	UserNotFound      Reason = "user_not_found"     // no such user
	UserAmbiguous     Reason = "user_ambiguous"     // several users answer to it
	SkillUnknown      Reason = "skill_unknown"      // the org has no skill of that name
	Rejected          Reason = "rejected"           // Genesys Cloud refuses the request as it stands (400 and its kin)
	DivisionForbidden Reason = "division_forbidden" // the OAuth client may not touch users of that division
	TooLarge          Reason = "too_large"          // 413
	MediaType         Reason = "media_type"         // 415
	RetriesExhausted  Reason = "retries_exhausted"  // a transient failure, every time
	Unverified        Reason = "unverified"         // patched, but never seen as it should be
	Panicked          Reason = "panic"              // a bug of ours that this record brings out
	DeliveryCap       Reason = "delivery_cap"       // delivered over and over without coming to an end
)

// Reasons lists every reason, for metrics that start at zero and for help texts.
func Reasons() []Reason {
	return []Reason{
		BadRecord, NoAttributes, UserNotFound, UserAmbiguous, SkillUnknown, Rejected, DivisionForbidden,
		TooLarge, MediaType, RetriesExhausted, Unverified, Panicked, DeliveryCap,
	}
}

// A Class says what kind of ending a dead letter had, which decides what a replay can hope for.
type Class string

const (
	Permanent Class = "permanent" // will fail the same way until somebody changes something
	Exhausted Class = "exhausted" // might pass now
	Poison    Class = "poison"    // breaks the worker
)

type action int

const (
	deadLetter action = iota // the zero verdict keeps the record for a human
	ack
	retry
	abandon // somebody else has the record: touch nothing
)

// A verdict is what the worker decides about one delivery.
type verdict struct {
	action  action
	outcome Outcome       // ack
	reason  Reason        // dead letter
	class   Class         // dead letter
	after   time.Duration // retry: how long from now
	spends  bool          // retry: the attempt counts; else it is given back
	systems bool          // the failure is the platform's rather than the record's: the breaker counts it
	halt    string        // not empty: why no worker should fetch until this has passed
}

// An attempt is what judge has to know beside the error.
type attempt struct {
	number    int  // of this record, from 1; 0 if it was never claimed
	limit     int  // attempts in all
	delivered int  // times the broker delivered it
	breaker   bool // most records are failing
	backoff   func(int) time.Duration
}

const (
	maxBackoff  = 5 * time.Minute
	probeEvery  = time.Minute     // how often one record is let through while the worker has stopped fetching
	brokerPause = 5 * time.Second // before a record that met broker trouble is tried again
	busyFirst   = 2 * time.Second
	busyMost    = time.Minute
)

// judge is the one table from what happened to what is done about it (design section 7).
// It decides on facts that errors carry, never on their text.
func judge(outcome Outcome, err error, a attempt) verdict {
	var (
		api     *genesys.Error
		invalid *employee.InvalidError
		settled *ledger.SettledError
		given   *ledger.DeadError
		busy    *ledger.BusyError
		paused  *ratelimit.PausedError
		stuck   *MismatchError
		bug     *panicError
		broker  *brokerError
	)
	switch {
	case err == nil:
		return verdict{action: ack, outcome: outcome}
	case errors.As(err, &settled): // closed by an earlier delivery that died before its acknowledgement
		return verdict{action: ack, outcome: Outcome(settled.Outcome)}
	case errors.As(err, &given): // given up by an earlier delivery that died before the record was terminated
		f := givenUp(given)
		return dead(Reason(f.Reason), Class(f.Class))
	case errors.Is(err, ledger.ErrSuperseded):
		return verdict{action: ack, outcome: Superseded}

	case errors.Is(err, errDeliveryCap):
		return dead(DeliveryCap, Poison)
	case errors.Is(err, errAttemptsSpent): // it kept dying with its worker, so no verdict was ever reached
		return dead(RetriesExhausted, Poison)
	case errors.As(err, &invalid), errors.Is(err, genesys.ErrBadRequest):
		return dead(BadRecord, Permanent)
	case errors.Is(err, mapping.ErrNoAttributes):
		return dead(NoAttributes, Permanent)

	case errors.Is(err, ledger.ErrLost), errors.Is(err, queue.ErrLeaseLost):
		return verdict{action: abandon}
	case errors.As(err, &busy):
		return verdict{action: retry, after: grow(busyFirst, busyMost, a.delivered)}
	case errors.Is(err, errShutdown):
		return verdict{action: retry}
	case errors.Is(err, errHalted):
		return verdict{action: retry, after: a.outWait()}
	case errors.Is(err, errHeldTooLong):
		return verdict{action: retry, after: brokerPause}
	case errors.As(err, &broker):
		return verdict{action: retry, after: brokerPause}
	case errors.As(err, &paused):
		return wait(time.Until(paused.Until), "the request budget is paused")
	case errors.Is(err, genesys.ErrThrottled):
		errors.As(err, &api)
		return wait(api.RetryAfter, "Genesys Cloud asks to wait (429)")
	case errors.Is(err, genesys.ErrUnauthorized):
		return verdict{action: retry, after: a.outWait(), halt: "Genesys Cloud refuses the OAuth client's credentials"}
	case errors.Is(err, genesys.ErrForbidden):
		return verdict{action: retry, after: a.outWait(), halt: "the OAuth client lacks a permission"}

	case errors.Is(err, genesys.ErrUserNotFound), errors.Is(err, genesys.ErrNoLookup):
		return dead(UserNotFound, Permanent)
	case errors.Is(err, genesys.ErrAmbiguous):
		return dead(UserAmbiguous, Permanent)
	case errors.Is(err, genesys.ErrUnknownSkill):
		return dead(SkillUnknown, Permanent)
	case errors.Is(err, genesys.ErrDivision):
		return dead(DivisionForbidden, Permanent)
	case errors.As(err, &stuck):
		return a.again(Unverified, Exhausted, verdict{})
	case errors.As(err, &bug):
		return a.again(Panicked, Poison, verdict{})
	case errors.Is(err, genesys.ErrStale):
		return a.again(RetriesExhausted, Exhausted, verdict{})
	case errors.As(err, &api) && permanent(api.Status):
		return dead(refusal(api.Status), Permanent)
	case errors.As(err, &api): // 408, 409, 5xx, no answer at all
		return a.again(RetriesExhausted, Exhausted, verdict{systems: true, after: min(api.RetryAfter, maxBackoff)})
	case errors.Is(err, context.DeadlineExceeded):
		return a.again(RetriesExhausted, Exhausted, verdict{systems: true})
	default: // unknown to us: a few tries, then a human
		return a.again(RetriesExhausted, Exhausted, verdict{})
	}
}

// again retries at the price of an attempt, or dead-letters when that was the last one. While
// most records fail the fault is not this record's: it comes back later and pays nothing.
func (a attempt) again(reason Reason, class Class, v verdict) verdict {
	v.action = retry
	switch {
	case v.systems && a.breaker:
		v.after = max(v.after, a.outWait())
	case a.number >= a.limit:
		v = verdict{action: deadLetter, reason: reason, class: class, systems: v.systems}
	default:
		v.spends = true
		v.after = max(v.after, a.backoff(a.number))
	}
	return v
}

// outWait is how long a record stays away while the worker has stopped fetching. It grows, so
// that a long outage does not take the same record to the delivery cap by probing with it.
func (a attempt) outWait() time.Duration {
	return grow(probeEvery, 10*probeEvery, a.delivered)
}

func dead(reason Reason, class Class) verdict {
	return verdict{action: deadLetter, reason: reason, class: class}
}

// givenUp is the failure that bury left in the ledger.
func givenUp(e *ledger.DeadError) (f queue.Failure) {
	if json.Unmarshal(e.Failure, &f) != nil || f.Reason == "" {
		f = queue.Failure{Reason: string(RetriesExhausted), Class: string(Exhausted), Error: e.Error()}
	}
	f.Tries = tries(e.Notes)
	return f
}

// wait gives the record back for as long as the platform asked. Beyond what a held record may
// wait for, nobody should fetch either.
func wait(d time.Duration, why string) verdict {
	v := verdict{action: retry, after: min(max(d, time.Second), maxBackoff)}
	if d > probeEvery {
		v.halt = why
	}
	return v
}

// permanent tells whether a status will be the same however often the request is sent.
func permanent(status int) bool {
	switch status {
	case 408, 409, 412, 425, 429:
		return false
	}
	return status >= 300 && status < 500
}

func refusal(status int) Reason {
	switch status {
	case 404:
		return UserNotFound
	case 413:
		return TooLarge
	case 415:
		return MediaType
	}
	return Rejected
}

// backoff is 1.5 s · 2^attempt with full jitter, at most five minutes: records that failed
// together must not come back together.
func backoff(number int) time.Duration {
	return rand.N(grow(1500*time.Millisecond, maxBackoff, number+1))
}

// grow doubles first for every try after the first, up to most.
func grow(first, most time.Duration, try int) time.Duration {
	for ; try > 1 && first < most; try-- {
		first *= 2
	}
	return min(first, most)
}
