package ratelimit

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var epoch = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// maxInWindow is the most of times that any 60 seconds hold, both ends included.
func maxInWindow(times []time.Time) int {
	slices.SortFunc(times, time.Time.Compare)
	most, first := 0, 0
	for i, t := range times {
		for t.Sub(times[first]) > window {
			first++
		}
		most = max(most, i-first+1)
	}
	return most
}

// drawn lets a hungry caller draw for span and returns when each request reached the org: at its
// slot, and delay later.
func drawn(p pace, span time.Duration, delay func(i int) time.Duration) []time.Time {
	var out []time.Time
	s := State{TAT: epoch.Add(-time.Hour)} // idle: the burst is there
	for now := epoch; now.Sub(epoch) < span; {
		next, got, wait := s.take(p, now, 1<<30)
		if wait > 0 {
			now = now.Add(wait)
			continue
		}
		s = next
		for ; got.left > 0; got.next() {
			out = append(out, got.due().Add(delay(len(out))))
		}
		now = latest(now, s.TAT)
	}
	return out
}

func TestNoWindowExceedsTheLimitAndNearlyAllOfItIsUsed(t *testing.T) {
	delays := map[string]func(int) time.Duration{
		"at once":                    func(int) time.Duration { return 0 },
		"50 ms on the way":           func(int) time.Duration { return 50 * time.Millisecond },
		"one in two 50 ms late":      func(i int) time.Duration { return time.Duration(i%2) * 50 * time.Millisecond },
		"the first minute very late": func(i int) time.Duration { return maxLate + 100*time.Millisecond },
	}
	for _, limit := range []int{1, 2, 10, 59, 60, 299, 300, 301, 3000, 100_000} {
		for name, delay := range delays {
			t.Run(fmt.Sprintf("%d a minute, %s", limit, name), func(t *testing.T) {
				span := 10 * time.Minute
				if limit > 1000 {
					span = 70 * time.Second
				}
				if limit < 10 {
					span = time.Hour // or the beginning outweighs the pace
				}
				times := drawn(paceOf(limit), span, delay)
				if most := maxInWindow(times); most > limit {
					t.Errorf("%d requests in one minute, the limit is %d", most, limit)
				}
				if used := float64(len(times)) / (float64(limit) * span.Minutes()); used < .95 {
					t.Errorf("only %.1f %% of the limit used", 100*used)
				}
			})
		}
	}
}

// The worst case that the margin is made for: everything of one minute is as late as it may be,
// and what follows is on time.
func TestLatenessWithinItsBoundIsPaidByTheMargin(t *testing.T) {
	for _, limit := range []int{1, 2, 10, 60, 299, 300, 3000, 100_000} {
		p := paceOf(limit)
		for _, late := range []time.Duration{50 * time.Millisecond, maxLate, maxLate + 150*time.Millisecond} {
			times := drawn(p, 2*time.Minute, func(int) time.Duration { return 0 })
			for i := range times {
				if times[i].Before(epoch.Add(time.Minute)) {
					times[i] = times[i].Add(late)
				}
			}
			if most := maxInWindow(times); most > limit {
				t.Errorf("limit %d, %s late: %d in one minute", limit, late, most)
			}
		}
	}
}

func TestPace(t *testing.T) {
	tests := []struct {
		limit     int
		perMinute float64
		burst     int
	}{
		{1, .98, 1},
		{60, 58.8, 1},
		{299, 293.02, 1},
		{300, 289, 5},
		{3000, 2935, 5},
		{100_000, 97_995, 5},
	}
	for _, test := range tests {
		p := paceOf(test.limit)
		got := float64(window) / float64(p.interval)
		if p.burst != test.burst || got > test.perMinute || got < test.perMinute*.9999 {
			t.Errorf("limit %d: %.3f a minute with a burst of %d, want %.3f and %d", test.limit, got, p.burst, test.perMinute, test.burst)
		}
	}
}

func TestAProcessByItselfKeepsTheSamePace(t *testing.T) {
	for _, limit := range []int{1, 60, 300, 3000} {
		l, now := Local(limit), epoch
		var times []time.Time
		for now.Before(epoch.Add(3 * time.Minute)) {
			now = now.Add(l.ReserveN(now, 1).DelayFrom(now))
			times = append(times, now)
		}
		if most := maxInWindow(times); most > limit {
			t.Errorf("limit %d: %d in one minute", limit, most)
		}
	}
	unlimited := Local(0)
	for range 1000 {
		if !unlimited.AllowN(epoch, 1) {
			t.Fatal("no limit, but a wait")
		}
	}
}

func TestTake(t *testing.T) {
	p := paceOf(300)
	T := p.interval
	ahead := func(d time.Duration) State { return State{TAT: epoch.Add(d), Epoch: 7} }
	tests := []struct {
		name  string
		state State
		want  int
		first time.Duration // of the first slot, from now
		n     int
		wait  time.Duration
	}{
		{"an idle bucket gives its burst and what lies in the look-ahead", ahead(-time.Hour), 100, -4 * T, 6, 0},
		{"no more than is asked for", ahead(-time.Hour), 2, -4 * T, 2, 0},
		{"a bucket in use gives what lies in the look-ahead", ahead(T), 100, T, 2, 0},
		{"one slot at least, even beyond the look-ahead", ahead(30 * time.Second), 1, 30 * time.Second, 1, 0},
		{"a queue of a minute is long enough", ahead(61 * time.Second), 1, 0, 0, time.Second},
		{"nothing during a pause", State{TAT: epoch, PausedUntil: epoch.Add(3 * time.Second)}, 1, 0, 0, 3 * time.Second},
		{"nothing saved up during a pause", State{TAT: epoch.Add(-time.Hour), PausedUntil: epoch.Add(-T / 2)}, 1, -T / 2, 1, 0},
		{"slower after a refusal", State{TAT: epoch, Factor: .5, FactorAt: epoch.Add(-time.Second)}, 100, 0, 1, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			next, got, wait := test.state.take(p, epoch, test.want)
			if wait != test.wait || got.left != test.n {
				t.Fatalf("%d slots and wait %s, want %d and %s", got.left, wait, test.n, test.wait)
			}
			if test.n == 0 {
				if diff := cmp.Diff(test.state, next); diff != "" {
					t.Fatalf("nothing was reserved, but the state changed:\n%s", diff)
				}
				return
			}
			if first := got.at.Sub(epoch); first != test.first {
				t.Errorf("first slot at %s, want %s", first, test.first)
			}
			if next.TAT != got.last().Add(got.every) || got.epoch != test.state.Epoch {
				t.Errorf("lot %+v does not end where the next begins, at %s", got, next.TAT)
			}
		})
	}
}

// The heart of it: whoever reserves whatever, slots are never closer than the pace allows.
func TestSlotsOfAnyHistoryKeepTheLimit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.SampledFrom([]int{1, 2, 7, 60, 299, 300, 1000}).Draw(t, "limit")
		p := paceOf(limit)
		now, s := epoch, State{TAT: epoch.Add(-time.Hour)}
		var used []time.Time
		t.Repeat(map[string]func(*rapid.T){
			"time passes": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(0, 20_000).Draw(t, "ms")) * time.Millisecond)
			},
			"somebody reserves": func(t *rapid.T) {
				next, got, wait := s.take(p, now, rapid.IntRange(1, 500).Draw(t, "want"))
				if (wait > 0) == (got.left > 0) {
					t.Fatalf("wait %s and %d slots", wait, got.left)
				}
				s = next
				for ; got.left > 0; got.next() {
					used = append(used, got.due().Add(time.Duration(rapid.IntRange(0, 1050).Draw(t, "late"))*time.Millisecond))
				}
			},
			"the org refuses one": func(t *rapid.T) {
				d := time.Duration(rapid.IntRange(0, 90).Draw(t, "seconds")) * time.Second
				s, _ = s.throttled(now, d, "")
			},
			"an operator resumes": func(*rapid.T) { s, _ = s.resumed(now) },
			"": func(t *rapid.T) {
				if most := maxInWindow(slices.Clone(used)); most > limit {
					t.Fatalf("%d in one minute, the limit is %d", most, limit)
				}
				if f := s.factor(now); f < minFactor || f > 1 {
					t.Fatalf("factor %f", f)
				}
				if _, what := s.mended(p, now); what != "" {
					t.Fatalf("%s of an honest state looks poisoned: %+v", what, s)
				}
			},
		})
	})
}

func TestPausesLengthenButNeverShorten(t *testing.T) {
	long, changed := State{Epoch: 1}.paused(epoch, 10*time.Second, "long")
	if !changed || long.Epoch != 2 || long.PausedUntil != epoch.Add(11*time.Second) { // to the next full second
		t.Fatalf("paused state %+v", long)
	}
	short, changed := long.paused(epoch, 5*time.Second, "short")
	if diff := cmp.Diff(long, short); changed || diff != "" {
		t.Fatalf("a shorter pause changed a longer one:\n%s", diff)
	}
	if longer, _ := long.paused(epoch.Add(5*time.Second), 10*time.Second, "longer"); longer.PausedUntil != epoch.Add(16*time.Second) || longer.Reason != "longer" {
		t.Fatalf("lengthened state %+v", longer)
	}
}

func TestNoPauseIsLongerThanADay(t *testing.T) {
	s, _ := State{}.paused(epoch, 1000*time.Hour, "")
	if got := s.PausedUntil.Sub(epoch); got > MaxPause+time.Second {
		t.Fatalf("paused for %s", got)
	}
	if _, what := s.mended(paceOf(300), epoch); what != "" {
		t.Fatal("the longest pause there is was taken for a broken clock's")
	}
}

func TestFactorFallsWithEachSurpriseAndClimbsBack(t *testing.T) {
	factors := func(s State, at ...time.Duration) (out []string) {
		for _, d := range at {
			out = append(out, fmt.Sprintf("%.2f", s.factor(epoch.Add(d))))
		}
		return out
	}
	once, _ := State{}.throttled(epoch, 10*time.Second, "") // paused until second 11
	crowd := once
	for i := range 64 {
		crowd, _ = crowd.throttled(epoch.Add(time.Duration(i)*10*time.Millisecond), 10*time.Second, "")
	}
	brief, _ := State{}.throttled(epoch, time.Second, "")                           // paused until second 2
	tail, _ := brief.throttled(epoch.Add(3*time.Second), time.Second, "")           // sent before anybody knew
	again, _ := brief.throttled(epoch.Add(6*time.Second), time.Second, "")          // sent afterwards: paused until second 8
	held, _ := once.paused(epoch.Add(101*time.Second), 100*time.Second, "operator") // until second 202
	low := State{}
	for i := range 20 {
		low, _ = low.throttled(epoch.Add(time.Duration(i-20)*10*time.Second), 0, "")
	}
	tests := []struct {
		name  string
		state State
		at    []time.Duration
		want  string
	}{
		{"never refused", State{}, []time.Duration{0, time.Hour}, "1.00 1.00"},
		{"one refusal", once, []time.Duration{0, 40 * time.Second, 41 * time.Second, 71 * time.Second, time.Hour}, "0.70 0.70 0.72 0.74 1.00"},
		{"64 refusals at once", crowd, []time.Duration{0, 12 * time.Second}, "0.70 0.70"},
		{"a late answer to the same moment", tail, []time.Duration{5 * time.Second}, "0.70"},
		{"refused again afterwards", again, []time.Duration{7 * time.Second, 38 * time.Second}, "0.49 0.51"},
		{"a pause by hand keeps what was regained", held, []time.Duration{102 * time.Second, 231 * time.Second, 232 * time.Second}, "0.76 0.76 0.78"},
		{"refused all the time", low, []time.Duration{0}, "0.10"},
		{"nonsense in the key", State{Factor: -3}, []time.Duration{0}, "1.00"},
		{"next to nothing in the key", State{Factor: 1e-9, FactorAt: epoch}, []time.Duration{0}, "0.10"},
	}
	for _, test := range tests {
		if got := strings.Join(factors(test.state, test.at...), " "); got != test.want {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
	}
}

func TestWhatOnlyABrokenClockCanHaveWrittenIsMended(t *testing.T) {
	p := paceOf(300)
	tests := []struct {
		name  string
		state State
		what  string
		tat   time.Duration // afterwards, from now
	}{
		{"a queue of a minute is honest", State{TAT: epoch.Add(time.Minute)}, "", time.Minute},
		{"an hour ahead is not", State{TAT: epoch.Add(time.Hour)}, "tat", 0},
		{"after a long pause it may be", State{TAT: epoch.Add(time.Hour), PausedUntil: epoch.Add(time.Hour)}, "", time.Hour},
		{"a pause of a year is none", State{TAT: epoch, PausedUntil: epoch.Add(8760 * time.Hour)}, "paused_until", 0},
		{"nor does it excuse the timestamp", State{TAT: epoch.Add(time.Hour), PausedUntil: epoch.Add(8760 * time.Hour)}, "tat", 0},
		{"a refusal in the future", State{TAT: epoch, Factor: .5, FactorAt: epoch.Add(time.Hour)}, "factor_at", 0},
		{"long ago is nothing special", State{TAT: epoch.Add(-8760 * time.Hour)}, "", -8760 * time.Hour},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, what := test.state.mended(p, epoch)
			if what != test.what || got.TAT != epoch.Add(test.tat) {
				t.Fatalf("repaired %q, tat %s", what, got.TAT.Sub(epoch))
			}
			if (got.Epoch != test.state.Epoch) != (what != "") {
				t.Error("slots of a poisoned state must be void, those of an honest one not")
			}
			if again, what := got.mended(p, epoch); what != "" {
				t.Errorf("still poisoned (%s) after the repair: %+v", what, again)
			}
			if _, lot, _ := got.take(p, epoch, 9); what == "tat" && lot.at.Before(epoch) {
				t.Error("a burst after a repair")
			}
		})
	}
}

func TestTheSlowestPaceIsNotTakenForABrokenClock(t *testing.T) {
	p := paceOf(1)
	s := State{TAT: epoch, Factor: minFactor, FactorAt: epoch}
	for now := epoch; now.Before(epoch.Add(time.Hour)); now = now.Add(time.Second) {
		if _, what := s.mended(p, now); what != "" {
			t.Fatalf("after %s: %s", now.Sub(epoch), what)
		}
		s, _, _ = s.take(p, now, 1)
	}
}

func TestStateSurvivesItsEncoding(t *testing.T) {
	want := State{Schema: 1, TAT: epoch, PausedUntil: epoch.Add(time.Second), Epoch: 3, Reason: "r", By: "b", Factor: .7, FactorAt: epoch}
	value, err := want.encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := decode(value)
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Fatalf("%v\n%s", err, diff)
	}
}

func TestDecodeTellsDamageFromANewerRelease(t *testing.T) {
	tests := []struct {
		value string
		want  error
	}{
		{`{"schema":1,"tat":"2026-03-01T12:00:00Z","epoch":1,"unknown":true}`, nil},
		{`{"schema":2,"tat":["another","thing"]}`, errNewer},
		{`{"tat":"2026-03-01T12:00:00Z"}`, errDamaged},
		{`{"schema":1,"tat":"noon"}`, errDamaged},
		{`garbage`, errDamaged},
		{``, errDamaged},
	}
	for _, test := range tests {
		if _, err := decode([]byte(test.value)); !errors.Is(err, test.want) {
			t.Errorf("%q: %v, want %v", test.value, err, test.want)
		}
	}
}

// Whatever is in the key: no panic, and the next reservation gets slots within a minute's reach.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"schema":1,"tat":"2026-03-01T12:00:00Z","epoch":1}`))
	f.Add([]byte(`{"schema":1,"tat":"9999-12-31T23:59:59Z","paused_until":"0001-01-01T00:00:00Z","factor":-1,"factor_at":"9999-01-01T00:00:00Z"}`))
	f.Add([]byte(`{"schema":1,"factor":1e308}`))
	f.Add([]byte("\xff\x00"))
	f.Fuzz(func(t *testing.T, value []byte) {
		s, err := decode(value)
		if err != nil {
			s = State{}.renewed(epoch)
		}
		p := paceOf(300)
		s, _ = s.mended(p, epoch)
		s, _ = s.resumed(epoch)
		at := epoch
		for range 3 { // at most: the queue, then a slot
			next, got, wait := s.take(p, at, 5)
			if got.left > 0 {
				if got.due().Before(epoch) || got.left > 6 {
					t.Fatalf("slots %+v", got)
				}
				if _, err := next.encode(); err != nil {
					t.Fatal(err)
				}
				return
			}
			at = at.Add(wait)
		}
		t.Fatalf("no slot within reach from %+v", s)
	})
}
