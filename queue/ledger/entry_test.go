package ledger

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"skillsync/queue"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// at is a record without a version of its own.
func at(seq uint64) Version { return Version{Order: queue.Order{Epoch: 1, Seq: seq}} }

// numbered is a record with a version of its own.
func numbered(n int64, seq uint64) Version {
	return Version{Kind: "version", N: n, Order: queue.Order{Epoch: 1, Seq: seq}}
}

func ptr[T any](v T) *T { return &v }

func TestVersionsCompare(t *testing.T) {
	stamped := func(n int64, seq uint64) Version {
		return Version{Kind: "updated_at", N: n, Order: queue.Order{Epoch: 1, Seq: seq}}
	}
	later := Version{Order: queue.Order{Epoch: 2, Seq: 1}}
	tests := []struct {
		name string
		v, w Version
		want int
	}{
		{"the higher number is newer", numbered(2, 1), numbered(1, 2), 1},
		{"of equal numbers, the one published last", numbered(1, 1), numbered(1, 2), -1},
		{"without numbers, the one published last", at(1), at(2), -1},
		{"if one has none, the one published last", numbered(9, 1), at(2), -1},
		{"if they are of two kinds, the one published last", numbered(9, 1), stamped(1, 2), -1},
		{"a stream made later is later", later, at(100), 1},
		{"a record and itself", numbered(3, 3), numbered(3, 3), 0},
		{"zero is a number", numbered(0, 2), numbered(-1, 3), 1},
	}
	for _, test := range tests {
		if got := test.v.Compare(test.w); got != test.want {
			t.Errorf("%s: %d", test.name, got)
		}
		if got := test.w.Compare(test.v); got != -test.want {
			t.Errorf("%s, the other way round: %d", test.name, got)
		}
	}
}

func TestVersionsAreShownWithTheirKind(t *testing.T) {
	if got := fmt.Sprint(numbered(7, 1), at(12)); got != "version=7 sequence=12" {
		t.Fatal(got)
	}
}

func TestTake(t *testing.T) {
	held := func(v Version, delivered int, until time.Duration) *claim {
		return &claim{Worker: "other", Write: "other/1", Version: v, Delivered: delivered, Until: noon.Add(until)}
	}
	failure := json.RawMessage(`{"reason":"x"}`)
	second := Request{Key: "E", Version: at(5), Delivered: 2}
	replayed := Request{Key: "E", Version: at(5), Delivered: 1, Replays: 1}
	tests := []struct {
		name  string
		entry entry
		r     Request
		want  error // nil: claimed
		tries int   // then
	}{
		{"nothing is known", entry{}, second, nil, 1},
		{"the last one was older", entry{Fence: ptr(at(4)), Settled: &settled{message{at(4).Order, 0}, "verified"}}, second, nil, 1},
		{"closed before its acknowledgement", entry{Fence: ptr(at(5)), Settled: &settled{message{at(5).Order, 0}, "verified"}}, second, &SettledError{"verified"}, 0},
		{"a replay of one that was closed", entry{Fence: ptr(at(5)), Settled: &settled{message{at(5).Order, 0}, "verified"}}, replayed, nil, 1},
		{"marked dead before its dead letter was stored", entry{Tries: []try{{Version: at(5), N: 5, Dead: failure}}}, second, &DeadError{Failure: failure}, 0},
		{"dead, though a newer one was applied since", entry{Fence: ptr(at(9)), Tries: []try{{Version: at(5), Dead: failure}}}, second, &DeadError{Failure: failure}, 0},
		{"a replay of a dead letter starts anew", entry{Tries: []try{{Version: at(5), N: 5, Dead: failure}}}, replayed, nil, 1},
		{"a newer one was applied", entry{Fence: ptr(at(6))}, second, ErrSuperseded, 0},
		{"a replay of a superseded one", entry{Fence: ptr(at(6))}, replayed, ErrSuperseded, 0},
		{"patched by an earlier attempt of its own", entry{Fence: ptr(at(5)), Tries: []try{{Version: at(5), N: 1, Patched: "d"}}}, second, nil, 2},
		{"attempts are counted on", entry{Tries: []try{{Version: at(5), N: 3}, {Version: at(6), N: 7}}}, second, nil, 4},

		{"another record is being worked on", entry{Claim: held(at(4), 1, time.Second)}, second, &BusyError{noon.Add(time.Second)}, 0},
		{"a newer record is being worked on", entry{Claim: held(at(6), 1, time.Second)}, second, &BusyError{noon.Add(time.Second)}, 0},
		{"superseded, whoever works", entry{Fence: ptr(at(7)), Claim: held(at(6), 1, time.Second)}, second, ErrSuperseded, 0},
		{"the lease was given to us", entry{Claim: held(at(5), 1, time.Second)}, second, nil, 1},
		{"our lease was given to another", entry{Claim: held(at(5), 3, time.Second)}, second, ErrLost, 0},
		{"that other one has run out", entry{Claim: held(at(5), 3, 0)}, second, nil, 1},
		{"the same delivery twice", entry{Claim: held(at(5), 2, time.Second)}, second, &BusyError{noon.Add(time.Second)}, 0},
		{"its replay is being worked on", entry{Claim: &claim{Version: at(5), Replays: 1, Delivered: 1, Until: noon.Add(time.Second)}}, second, &BusyError{noon.Add(time.Second)}, 0},
		{"an older one died at it", entry{Claim: held(at(4), 1, 0)}, second, nil, 1},
		{"a newer one died at it, and may have patched", entry{Claim: held(at(6), 1, 0)}, second, ErrSuperseded, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			e := test.entry
			err := e.take(test.r, "me", "me/1", noon, time.Minute)
			if diff := cmp.Diff(fmt.Sprintf("%T %v", test.want, test.want), fmt.Sprintf("%T %v", err, err)); diff != "" && !errors.Is(err, test.want) {
				t.Fatal(diff)
			}
			if test.want != nil {
				return
			}
			want := &claim{Worker: "me", Write: "me/1", Version: test.r.Version, Replays: test.r.Replays, Delivered: test.r.Delivered, Until: noon.Add(time.Minute)}
			if diff := cmp.Diff(want, e.Claim); diff != "" {
				t.Error(diff)
			}
			if try := e.find(test.r.message()); try.N != test.tries {
				t.Errorf("attempt %d, want %d", try.N, test.tries)
			}
		})
	}
}

func TestAWorkerThatDiedMayHavePatched(t *testing.T) {
	for name, dead := range map[string]Version{"at another record": at(4), "at this record": at(5)} {
		e := entry{
			Digest: "stands", VerifiedAt: noon, Fence: ptr(at(3)),
			Claim: &claim{Version: dead, Delivered: 1, Until: noon},
			Tries: []try{{Version: dead, N: 1}},
		}
		if err := e.take(Request{Version: at(5), Delivered: 2}, "me", "me/1", noon, time.Minute); err != nil {
			t.Fatal(name, err)
		}
		if e.Digest != "" || !e.VerifiedAt.IsZero() {
			t.Errorf("%s: what was verified before still counts", name)
		}
		if *e.Fence != dead {
			t.Errorf("%s: the fence is at %s", name, e.Fence)
		}
		if first := e.find(message{dead.Order, 0}).First; first != noon {
			t.Errorf("%s: its first failure was at %s", name, first)
		}
	}
}

// claimed is an entry with a claim for v, and a state that stands.
func claimed(v Version) entry {
	e := entry{Digest: "stands", VerifiedAt: noon.Add(-time.Hour), Fence: ptr(at(1))}
	if err := e.take(Request{Version: v, Delivered: 1}, "me", "me/1", noon, time.Minute); err != nil {
		panic(err)
	}
	return e
}

func TestEndsOfAClaim(t *testing.T) {
	failure := json.RawMessage(`{}`)
	tests := []struct {
		name    string
		end     func(*entry)
		digest  string // that stands afterwards
		fence   uint64
		n       int // attempts remembered
		first   time.Time
		patched string
	}{
		{"closed", func(e *entry) { e.close("verified", "new", noon) }, "new", 5, 0, time.Time{}, ""},
		{"patched and closed", func(e *entry) { e.patched("new"); e.close("verified", "new", noon) }, "new", 5, 0, time.Time{}, ""},
		{"released", func(e *entry) { e.giveBack(false, false, noon) }, "stands", 1, 1, noon, ""},
		{"released at no cost", func(e *entry) { e.giveBack(true, false, noon) }, "stands", 1, 0, time.Time{}, ""},
		{"released, perhaps patched", func(e *entry) { e.giveBack(false, true, noon) }, "", 5, 1, noon, ""},
		{"patched and released", func(e *entry) { e.patched("new"); e.giveBack(false, true, noon) }, "", 5, 1, noon, "new"},
		{"patched and released at no cost", func(e *entry) { e.patched("new"); e.giveBack(true, true, noon) }, "", 5, 0, time.Time{}, "new"},
		{"dead", func(e *entry) { e.bury(failure, false, noon) }, "stands", 1, 1, noon, ""},
		{"dead, perhaps patched", func(e *entry) { e.bury(failure, true, noon) }, "", 5, 1, noon, ""},
		{"patched, then disturbed, and closed", func(e *entry) { e.patched("new"); e.disturb(); e.close("verified", "new", noon) }, "", 5, 0, time.Time{}, ""},
		{"disturbed, then patched, and closed", func(e *entry) { e.disturb(); e.patched("new"); e.close("verified", "new", noon) }, "new", 5, 0, time.Time{}, ""},
		{"patched, then disturbed, and released", func(e *entry) { e.patched("new"); e.disturb(); e.giveBack(false, true, noon) }, "", 5, 1, noon, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			e := claimed(at(5))
			test.end(&e)
			if e.Claim != nil {
				t.Error("still claimed")
			}
			if e.Digest != test.digest || e.Fence.Order.Seq != test.fence || (e.Digest == "") != e.VerifiedAt.IsZero() {
				t.Errorf("digest %q verified at %s, fence %s", e.Digest, e.VerifiedAt, e.Fence)
			}
			var got try
			if known := e.find(message{at(5).Order, 0}); known != nil {
				got = *known
			}
			if got.N != test.n || got.First != test.first || got.Patched != test.patched {
				t.Errorf("remembered %+v", got)
			}
		})
	}
}

func TestClosingForgetsWhatTheFenceKeepsOutButNotTheDead(t *testing.T) {
	e := entry{Tries: []try{
		{Version: at(2), N: 3},
		{Version: at(3), N: 5, Dead: json.RawMessage(`{}`)},
		{Version: at(9), N: 1},
	}}
	if err := e.take(Request{Version: at(5), Delivered: 1}, "me", "me/1", noon, time.Minute); err != nil {
		t.Fatal(err)
	}
	e.close("verified", "d", noon)
	var left []uint64
	for _, t := range e.Tries {
		left = append(left, t.Version.Order.Seq)
	}
	if diff := cmp.Diff([]uint64{3, 9}, left); diff != "" {
		t.Fatal(diff)
	}
}

// long is JSON of n bytes.
func long(n int) json.RawMessage { return json.RawMessage(`"` + strings.Repeat("x", n-2) + `"`) }

func TestAnEntryIsOfBoundedSize(t *testing.T) {
	var e entry
	for seq := range uint64(50) {
		v := numbered(1<<62, 1<<62+seq)
		if err := e.take(Request{Version: v, Delivered: 1}, "worker", "worker/1", noon, time.Minute); err != nil {
			t.Fatal(err)
		}
		for range maxNotes {
			e.note(long(MaxNote))
		}
		e.bury(long(MaxFailure), true, noon)
	}
	value, err := json.Marshal(e)
	if err != nil || len(value) > maxTries*(MaxFailure+maxNotes*(MaxNote+1)+300)+1000 {
		t.Fatalf("%d bytes, %v", len(value), err)
	}
	if first := e.Tries[0].Version.Order.Seq - 1<<62; len(e.Tries) != maxTries || first != 42 {
		t.Fatalf("%d tries, the oldest of record %d", len(e.Tries), first)
	}
}

func TestOfManyNotesTheLastOnesAreKept(t *testing.T) {
	e := claimed(at(5))
	for n := range 20 {
		other := e.clone()
		e.note(json.RawMessage(fmt.Sprint(n)))
		other.note(json.RawMessage(`"another"`)) // a clone shares nothing that is written
	}
	if got := texts(e.find(message{at(5).Order, 0}).Notes); got != "[12 13 14 15 16 17 18 19]" {
		t.Errorf("kept %s", got)
	}
}

func TestWithoutAFailureAnEntryHoldsNothingOfNotes(t *testing.T) {
	e := claimed(at(5))
	e.note(nil)
	value, err := json.Marshal(e)
	if err != nil || strings.Contains(string(value), "notes") {
		t.Fatalf("%v: %s", err, value)
	}
}

func texts(notes []json.RawMessage) string {
	out := make([]string, len(notes))
	for i, n := range notes {
		out[i] = string(n)
	}
	return fmt.Sprint(out)
}

func TestDecodeTellsDamageFromANewerRelease(t *testing.T) {
	tests := []struct {
		value string
		want  error
	}{
		{`{"schema":1,"write":"w/1","unknown":[]}`, nil},
		{`{"schema":2,"write":{"another":"thing"}}`, errNewer},
		{`{"write":"w/1"}`, ErrDamaged},
		{`{"schema":1,"write":7}`, ErrDamaged},
		{`garbage`, ErrDamaged},
		{``, ErrDamaged},
	}
	for _, test := range tests {
		_, err := decode("EMP-1", []byte(test.value))
		if !errors.Is(err, test.want) || err != nil && !strings.Contains(err.Error(), "EMP-1") {
			t.Errorf("%q: %v, want %v", test.value, err, test.want)
		}
	}
}

// Whatever is stored: no panic, and what a change makes of it can be read again.
func FuzzDecode(f *testing.F) {
	e := claimed(numbered(3, 5))
	e.patched("d")
	e.Schema = schema
	seed, _ := json.Marshal(e)
	f.Add(seed)
	f.Add([]byte(`{"schema":1,"claim":{},"tries":[{},{"dead":{}},{"n":-1}],"settled":{},"fence":{}}`))
	f.Add([]byte(`{"schema":1,"tries":[{"version":{"kind":"version","n":9,"order":{"epoch":1,"seq":9}},"n":1,"notes":[{},null,"x"]}]}`))
	f.Add([]byte(`{"schema":1,"claim":null,"verified_at":"0000-01-01T00:00:00Z"}`))
	f.Fuzz(func(t *testing.T, value []byte) {
		e, err := decode("EMP-1", value)
		if err != nil {
			return
		}
		e.disturb()
		if e.take(Request{Version: numbered(9, 9), Delivered: 1}, "me", "me/1", noon, time.Minute) == nil {
			e.patched("d")
			e.note(json.RawMessage(`{}`))
			e.giveBack(false, true, noon)
		}
		value, err = json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decode("EMP-1", value); err != nil {
			t.Fatal(err)
		}
	})
}
