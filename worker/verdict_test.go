package worker

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"skillsync/genesys"
	"skillsync/queue"
	"skillsync/queue/ledger"
	"skillsync/queue/ratelimit"
	"skillsync/worker/employee"
	"skillsync/worker/mapping"
)

func status(code int) error { return &genesys.Error{Op: "patch", Status: code} }

// The table of design section 7, row by row.
func TestEveryRowOfTheVerdictTable(t *testing.T) {
	const paused = 3 * time.Second
	retryFor := func(d time.Duration) verdict { return verdict{action: retry, after: d} }
	spent := func(d time.Duration) verdict { return verdict{action: retry, after: d, spends: true} }
	outage := func(d time.Duration) verdict {
		return verdict{action: retry, after: d, spends: true, systems: true}
	}

	first := attempt{number: 1, limit: 5, delivered: 1}
	last := attempt{number: 5, limit: 5, delivered: 9}
	broken := attempt{number: 5, limit: 5, delivered: 9, breaker: true}

	for _, row := range []struct {
		name    string
		outcome Outcome
		err     error
		on      attempt
		want    verdict
	}{
		{"verified", Verified, nil, first, verdict{action: ack, outcome: Verified}},
		{"unchanged", Unchanged, nil, first, verdict{action: ack, outcome: Unchanged}},
		{"superseded in the stream", Superseded, nil, first, verdict{action: ack, outcome: Superseded}},
		{"superseded by the ledger", "", fmt.Errorf("claim: %w", ledger.ErrSuperseded), first, verdict{action: ack, outcome: Superseded}},
		{"closed before, died before the acknowledgement", "", &ledger.SettledError{Outcome: "unchanged"}, first, verdict{action: ack, outcome: Unchanged}},

		{"given up before, died before the termination", "", &ledger.DeadError{Failure: []byte(`{"reason":"too_large","class":"permanent"}`)}, first, dead(TooLarge, Permanent)},
		{"given up before, for a reason nobody can read", "", &ledger.DeadError{}, first, dead(RetriesExhausted, Exhausted)},

		{"malformed", "", &employee.InvalidError{Field: "version", Problem: "must be an integer"}, first, dead(BadRecord, Permanent)},
		{"an id that no request can carry", "", genesys.ErrBadRequest, first, dead(BadRecord, Permanent)},
		{"nothing the mapping reads", "", fmt.Errorf("map: %w", mapping.ErrNoAttributes), first, dead(NoAttributes, Permanent)},
		{"no such user", "", genesys.ErrUserNotFound, first, dead(UserNotFound, Permanent)},
		{"nothing to look up by", "", genesys.ErrNoLookup, first, dead(UserNotFound, Permanent)},
		{"several users", "", genesys.ErrAmbiguous, first, dead(UserAmbiguous, Permanent)},
		{"unknown skill", "", &genesys.UnknownSkillError{Names: []string{"Biling"}}, first, dead(SkillUnknown, Permanent)},
		{"another division", "", &genesys.Error{Status: 403, Code: "missing.division.permission"}, first, dead(DivisionForbidden, Permanent)},
		{"400", "", status(400), first, dead(Rejected, Permanent)},
		{"404", "", status(404), first, dead(UserNotFound, Permanent)},
		{"405", "", status(405), first, dead(Rejected, Permanent)},
		{"413", "", status(413), first, dead(TooLarge, Permanent)},
		{"415", "", status(415), first, dead(MediaType, Permanent)},
		{"a redirect", "", status(302), first, dead(Rejected, Permanent)},

		{"408", "", status(408), first, outage(paused)},
		{"409", "", status(409), first, outage(paused)},
		{"412, a stale version", "", status(412), first, spent(paused)},
		{"500", "", status(500), first, outage(paused)},
		{"502", "", status(502), first, outage(paused)},
		{"503 that says when", "", &genesys.Error{Status: 503, RetryAfter: 40 * time.Second}, first, outage(40 * time.Second)},
		{"503 that says next week", "", &genesys.Error{Status: 503, RetryAfter: 100 * time.Hour}, first, outage(maxBackoff)},
		{"504", "", status(504), first, outage(paused)},
		{"no answer", "", &genesys.Error{Op: "patch", Err: errors.New("connection reset")}, first, outage(paused)},
		{"a time-out", "", fmt.Errorf("read: %w", context.DeadlineExceeded), first, outage(paused)},
		{"503 on the last attempt", "", status(503), last, verdict{action: deadLetter, reason: RetriesExhausted, class: Exhausted, systems: true}},
		{"503 while most records fail", "", status(503), broken, verdict{action: retry, after: 10 * probeEvery, systems: true}},
		{"an error nobody foresaw", "", errors.New("what?"), first, spent(paused)},
		{"an error nobody foresaw, again", "", errors.New("what?"), last, dead(RetriesExhausted, Exhausted)},

		{"skills not as expected", "", &MismatchError{}, first, spent(paused)},
		{"skills never as expected", "", &MismatchError{}, last, dead(Unverified, Exhausted)},
		{"skills not as expected while most records fail", "", &MismatchError{}, broken, dead(Unverified, Exhausted)},

		{"429", "", &genesys.Error{Status: 429, RetryAfter: 20 * time.Second}, last, retryFor(20 * time.Second)},
		{"429 for an hour", "", &genesys.Error{Status: 429, RetryAfter: time.Hour}, last, verdict{action: retry, after: maxBackoff, halt: "Genesys Cloud asks to wait (429)"}},
		{"401 after renewal", "", status(401), first, verdict{action: retry, after: probeEvery, halt: "Genesys Cloud refuses the OAuth client's credentials"}},
		{"403 without permission", "", &genesys.Error{Status: 403, Code: "missing.permissions"}, last, verdict{action: retry, after: 10 * probeEvery, halt: "the OAuth client lacks a permission"}},

		{"shutdown", "", errShutdown, last, retryFor(0)},
		{"the worker stopped fetching", "", errHalted, first, retryFor(probeEvery)},
		{"held for too long", "", errHeldTooLong, last, retryFor(brokerPause)},
		{"the broker does not answer", "", asBroker(queue.ErrUnreachable), last, retryFor(brokerPause)},
		{"lost claim", "", fmt.Errorf("close: %w", ledger.ErrLost), last, verdict{action: abandon}},
		{"lost lease", "", fmt.Errorf("extend: %w", queue.ErrLeaseLost), last, verdict{action: abandon}},
		{"another worker holds the employee", "", &ledger.BusyError{}, first, retryFor(2 * time.Second)},
		{"and still holds it", "", &ledger.BusyError{}, attempt{limit: 5, delivered: 4}, retryFor(16 * time.Second)},
		{"and goes on holding it", "", &ledger.BusyError{}, attempt{limit: 5, delivered: 100}, retryFor(time.Minute)},

		{"panic", "", &panicError{value: "x"}, first, spent(paused)},
		{"panic, every time", "", &panicError{value: "x"}, last, dead(Panicked, Poison)},
		{"delivered 200 times", "", errDeliveryCap, attempt{limit: 5, delivered: 201}, dead(DeliveryCap, Poison)},
		{"killed its worker, every time", "", errAttemptsSpent, attempt{number: 6, limit: 5}, dead(RetriesExhausted, Poison)},
	} {
		t.Run(row.name, func(t *testing.T) {
			row.on.backoff = func(int) time.Duration { return paused }
			if got := judge(row.outcome, row.err, row.on); got != row.want {
				t.Errorf("judge = %+v\nwant    %+v", got, row.want)
			}
		})
	}
}

func TestAPausedBudgetGivesTheRecordBackUntilThePauseEnds(t *testing.T) {
	v := judge("", &ratelimit.PausedError{Until: time.Now().Add(10 * time.Second)}, attempt{number: 5, limit: 5})
	if v.action != retry || v.spends || v.halt != "" || v.after > 10*time.Second || v.after < 9*time.Second {
		t.Errorf("a short pause: %+v", v)
	}
	v = judge("", &ratelimit.PausedError{Until: time.Now().Add(time.Hour)}, attempt{number: 5, limit: 5})
	if v.spends || v.halt == "" {
		t.Errorf("a long pause must stop the fetching and spend nothing: %+v", v)
	}
}

func TestBackoffGrowsWithJitterUpToFiveMinutes(t *testing.T) {
	for try := 1; try < 20; try++ {
		ceiling := min(1500*time.Millisecond<<try, maxBackoff)
		var most time.Duration
		for range 2000 {
			d := backoff(try)
			if d < 0 || d >= ceiling {
				t.Fatalf("attempt %d waits %s; at most %s", try, d, ceiling)
			}
			most = max(most, d)
		}
		if most < ceiling*9/10 {
			t.Errorf("attempt %d: 2000 draws stay below %s of %s", try, most, ceiling)
		}
	}
}

// Whatever the error, no verdict may lose a record: only success and a newer record acknowledge.
func TestNoErrorAcknowledgesARecord(t *testing.T) {
	for code := 300; code < 600; code++ {
		for _, number := range []int{1, 5} {
			v := judge("", status(code), attempt{number: number, limit: 5, backoff: backoff})
			if v.action == ack || v.action == abandon {
				t.Errorf("status %d: %+v", code, v)
			}
		}
	}
}
