package ratelimit

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"
)

const (
	window = time.Minute // what a limit counts requests in

	// lookAhead is how far into the future one reservation reaches: short, so that a process which
	// dies takes few slots with it; long enough that one swap serves many waiters at a high limit.
	lookAhead = 500 * time.Millisecond
	// maxAhead bounds the queue of the whole fleet: nobody reserves a slot that is further away. It
	// is also what tells an honest timestamp from one that a broken clock wrote.
	maxAhead = time.Minute
	// maxLate is how late after its time a slot may be used. The others draw at the full rate all
	// the while, so a late request counts in a window that is full without it; the margin of a pace
	// pays for this much.
	maxLate = time.Second
	// poisonSlack is how much further ahead than any slot a timestamp must be to be disbelieved.
	poisonSlack = time.Minute

	echo      = 5 * time.Second // refusals this long after the first are answers to requests of the same moment
	minFactor = 0.1             // the slowest a throttled fleet gets
	setback   = 0.7             // what is left of the rate after a refusal
	climb     = 0.02            // regained in each climbEvery without one
	schema    = 1
)

const climbEvery = 30 * time.Second

// MaxPause is the longest pause there is; an operator who wants more renews it.
const MaxPause = 24 * time.Hour

var (
	errDamaged = errors.New("not a state of this bucket")
	errNewer   = errors.New("written by a newer release; update this one")
)

// A pace is what a limit comes to: a slot every interval, and how many an idle bucket gives at once.
type pace struct {
	interval time.Duration
	burst    int
}

// paceOf keeps every window of 60 s at or below limit, wherever it begins.
//
// Slots are an interval T apart, and up to burst of them may be used at once. A request reaches
// the org up to d after its slot (handed out late, on its way), so a window has seen at most
//
//	⌊(60 s + d) / T⌋ + burst
//
// requests. With
//
//	T = 60 s / (0.98·limit − 5), burst 5    for a limit of 300 and more
//	T = 60 s /  0.98·limit,      burst 1    below: a burst would cost too much of it
//
// that is at most limit for every d up to 1.2 s: maxLate for us, the rest for the network and for
// the error of our clock. 96 % of a limit of 300 is used, 98 % of a small or a big one.
func paceOf(limit int) pace {
	perMinute, burst := 0.98*float64(limit), 1
	if limit >= 300 {
		perMinute, burst = perMinute-5, 5
	}
	return pace{interval: time.Duration(math.Ceil(float64(window) / perMinute)), burst: burst}
}

// at is the interval while the fleet keeps to factor of its rate.
func (p pace) at(factor float64) time.Duration {
	return time.Duration(math.Ceil(float64(p.interval) / factor))
}

// tooFar is how far ahead of now no honest timestamp can be: the furthest slot, reserved at the
// slowest rate, and some slack.
func (p pace) tooFar() time.Duration {
	return maxAhead + p.at(minFactor) + poisonSlack
}

// State is what the fleet shares: the value of the bucket's key.
type State struct {
	Schema int `json:"schema"`
	// TAT is the theoretical arrival time of GCRA: when the next slot is, if the bucket is not idle.
	TAT time.Time `json:"tat"`
	// PausedUntil is when the last pause ends or ended. No slot is earlier.
	PausedUntil time.Time `json:"paused_until,omitzero"`
	// Epoch changes with every pause, resumption, repair and limit. Slots reserved in another one are void.
	Epoch  uint64 `json:"epoch"`
	Reason string `json:"reason,omitempty"` // of the last pause
	By     string `json:"by,omitempty"`     // who wrote this
	// Factor is the share of its rate that the fleet kept to at FactorAt, after a refusal by the
	// org; 0 is all of it.
	Factor   float64   `json:"factor,omitempty"`
	FactorAt time.Time `json:"factor_at,omitzero"`

	// Limit is the requests a minute that an operator set in place of the processes' own; 0 is none set.
	Limit int `json:"limit,omitempty"`
	// Configured is the limit that the process which reserved last is set to itself, for whoever
	// looks on; 0 is none.
	Configured int `json:"configured,omitempty"`

	// Minute, in minutes since 1970, is the one that Taken slots fell in, after TakenBefore in the
	// one before.
	Minute      int64 `json:"minute,omitempty"`
	Taken       int   `json:"taken,omitempty"`
	TakenBefore int   `json:"taken_before,omitempty"`
}

func tenth(f float64) float64 { return math.Round(10*f) / 10 }

// maxLimit is more than any org allows: what is beyond it in a key is damage.
const maxLimit = 10_000_000

// limit is what the fleet keeps to where its processes are set to own; 0 is no limit.
func (s State) limit(own int) int {
	if s.Limit > 0 && s.Limit <= maxLimit {
		return s.Limit
	}
	return max(0, own)
}

// limited is s with the limit that an operator sets, or without it, and whether that changes anything.
func (s State) limited(limit int) (State, bool) {
	if s.Limit == limit {
		return s, false
	}
	s.Limit = limit
	s.Epoch++ // slots of another pace are void
	return s, true
}

// An Outlook is what a State comes to at one moment. Rates are to a tenth.
type Outlook struct {
	Limit       int       `json:"limit"`                 // requests a minute in force; 0 is none
	Allowed     float64   `json:"allowed_per_minute"`    // that the fleet may send, now or after the pause; 0 without a limit
	Used        float64   `json:"used_per_minute"`       // slots that the fleet took in the last 60 s, to within a few; 0 without a limit
	PausedUntil time.Time `json:"paused_until,omitzero"` // zero while not paused
	Reason      string    `json:"reason,omitempty"`      // of the pause
}

// Outlook tells what s means at a time by the broker's clock.
func (s State) Outlook(now time.Time) Outlook { return s.outlook(s.Configured, now) }

func (s State) outlook(own int, now time.Time) Outlook {
	o := Outlook{Limit: s.limit(own)}
	if s.PausedUntil.After(now) {
		o.PausedUntil, o.Reason = s.PausedUntil, s.Reason
	}
	if o.Limit > 0 {
		o.Used = tenth(s.used(now))
		o.Allowed = tenth(float64(window) / float64(paceOf(o.Limit).at(s.factor(now))))
	}
	return o
}

func (s State) encode() ([]byte, error) {
	s.Schema = schema
	return json.Marshal(s)
}

func decode(value []byte) (State, error) {
	var s State
	err := json.Unmarshal(value, &s)
	if err == nil && s.Schema == schema {
		return s, nil
	}
	var head struct{ Schema int } // by itself: of the rest a newer release may have made anything
	switch headErr := json.Unmarshal(value, &head); {
	case headErr == nil && head.Schema > schema:
		return State{}, errNewer
	case err == nil:
		err = fmt.Errorf("schema %d", s.Schema)
	}
	return State{}, fmt.Errorf("%w: %w", errDamaged, err)
}

// renewed is what takes the place of a state that is gone or damaged. It begins now and without a
// burst, keeps what this process knew of the old one, and voids every slot that is out.
func (s State) renewed(now time.Time) State {
	s.TAT = latest(s.TAT, now)
	s.Epoch = max(s.Epoch+1, uint64(max(now.Unix(), 0)))
	return s
}

// mended is s without what only a broken clock can have written: a pause longer than there is one
// is none, and a timestamp further ahead than any slot starts again from now, without a burst.
// what names the repair; it is empty where there was nothing to do.
func (s State) mended(p pace, now time.Time) (_ State, what string) {
	if s.PausedUntil.Sub(now) > MaxPause+poisonSlack {
		s.PausedUntil, what = time.Time{}, "paused_until"
	}
	if s.FactorAt.Sub(now) > poisonSlack {
		s.FactorAt, what = now, "factor_at"
	}
	if s.TAT.Sub(latest(now, s.PausedUntil)) > p.tooFar() {
		s.TAT, what = now, "tat"
	}
	if what != "" {
		s.Epoch++
	}
	return s, what
}

// A lot is the slots that one reservation got. The zero lot has none.
type lot struct {
	at    time.Time // of the next slot
	every time.Duration
	left  int
	since time.Time // when it was reserved: slots before that are the burst, due at once
	epoch uint64
}

// last is the time of the last slot.
func (l lot) last() time.Time { return l.at.Add(time.Duration(l.left-1) * l.every) }

// due is when the next slot may be used, at the earliest.
func (l lot) due() time.Time { return latest(l.at, l.since) }

// next takes the first slot off.
func (l *lot) next() { l.at, l.left = l.at.Add(l.every), l.left-1 }

// take reserves at least one slot and up to want, as many as are free within the look-ahead. If
// that is not possible yet, wait says when to try again, and there is nothing to write.
func (s State) take(p pace, now time.Time, want int) (_ State, got lot, wait time.Duration) {
	if paused := s.PausedUntil.Sub(now); paused > 0 {
		return s, lot{}, paused
	}
	every := p.at(s.factor(now))
	idle := now.Add(-time.Duration(p.burst-1) * every) // an idle bucket saves up its burst and no more
	at := latest(s.TAT, idle, s.PausedUntil)
	if ahead := at.Sub(now); ahead > maxAhead {
		return s, lot{}, ahead - maxAhead
	}
	n := int(latest(at, now).Add(lookAhead).Sub(at) / every)
	n = max(1, min(n, want))
	s.TAT = at.Add(time.Duration(n) * every)
	s.count(latest(at, now), n)
	return s, lot{at: at, every: every, left: n, since: now, epoch: s.Epoch}, 0
}

// count notes n slots taken at t.
func (s *State) count(t time.Time, n int) {
	switch minute := t.Unix() / 60; {
	case minute <= s.Minute:
		s.Taken += n
	case minute == s.Minute+1:
		s.Minute, s.Taken, s.TakenBefore = minute, n, s.Taken
	default:
		s.Minute, s.Taken, s.TakenBefore = minute, n, 0
	}
}

// used is how many slots fell in the last 60 s, as if those of a minute were spread evenly.
func (s State) used(now time.Time) float64 {
	gone := float64(now.UnixNano()%int64(window)) / float64(window) // of this minute
	switch minute := now.Unix() / 60; {
	case minute < s.Minute: // what is taken is still to come
		return float64(s.TakenBefore)
	case minute == s.Minute:
		return float64(s.Taken) + (1-gone)*float64(s.TakenBefore)
	case minute == s.Minute+1:
		return (1 - gone) * float64(s.Taken)
	}
	return 0
}

// factor is the share of its rate that the fleet may use now.
func (s State) factor(now time.Time) float64 {
	if s.Factor <= 0 || s.Factor >= 1 {
		return 1
	}
	clean := max(0, now.Sub(latest(s.FactorAt, s.PausedUntil)))
	return min(1, max(s.Factor, minFactor)+climb*float64(clean/climbEvery))
}

// paused is s with a pause of at least d, and whether that changes anything. It ends on a full
// second, so that the many processes refused at one moment agree on one pause.
func (s State) paused(now time.Time, d time.Duration, reason string) (State, bool) {
	until := now.Add(min(max(d, 0), MaxPause)).Truncate(time.Second).Add(time.Second)
	if !until.After(s.PausedUntil) {
		return s, false
	}
	s.Factor, s.FactorAt = s.held(now)
	s.PausedUntil, s.Reason = until, reason
	s.Epoch++
	return s, true
}

// throttled is s after the org refused a request: paused, and slower from then on. What is
// refused during a pause, or a moment after the first refusal, was sent before anybody knew: it
// may lengthen the pause, but one surprise costs the rate once.
func (s State) throttled(now time.Time, d time.Duration, reason string) (State, bool) {
	surprise := !now.Before(s.PausedUntil) && now.Sub(s.FactorAt) >= echo
	next, changed := s.paused(now, d, reason)
	if surprise {
		next.Factor, next.FactorAt = max(minFactor, s.factor(now)*setback), now
	}
	return next, changed
}

// resumed is s without its pause, and whether it had one.
func (s State) resumed(now time.Time) (State, bool) {
	if !s.PausedUntil.After(now) {
		return s, false
	}
	s.PausedUntil, s.Reason = now, "" // not the zero time: nothing is saved up during a pause
	s.Epoch++
	return s, true
}

// held is the factor as it has to be stored when PausedUntil, from which it climbs, is about to move.
func (s State) held(now time.Time) (float64, time.Time) {
	f := s.factor(now)
	if f >= 1 {
		f = 0
	}
	return f, s.FactorAt
}

func latest(t time.Time, others ...time.Time) time.Time {
	for _, o := range others {
		if o.After(t) {
			t = o
		}
	}
	return t
}
