package desk_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"skillsync/cmd/skillsync/desk"
	"skillsync/queue"
	"skillsync/queue/queuetest"
)

// A hook is a webhook's other end.
type hook struct {
	*httptest.Server
	mu     sync.Mutex
	answer int // HTTP status; 0 is 204
	alerts []desk.Alert
	bodies [][]byte
	heads  []http.Header
}

func newHook(t testing.TB) *hook {
	h := &hook{}
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var a desk.Alert
		if err := errors.Join(err, json.Unmarshal(body, &a)); err != nil || r.Method != http.MethodPost {
			t.Errorf("%s %s: %v", r.Method, body, err)
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		h.alerts, h.bodies, h.heads = append(h.alerts, a), append(h.bodies, body), append(h.heads, r.Header)
		w.WriteHeader(cmp.Or(h.answer, http.StatusNoContent))
	}))
	t.Cleanup(h.Close)
	return h
}

func (h *hook) answers(status int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.answer = status
}

// told takes what came since the last time.
func (h *hook) told() (alerts []desk.Alert) {
	h.mu.Lock()
	defer h.mu.Unlock()
	alerts, h.alerts = h.alerts, nil
	return alerts
}

// words are alerts as the tables have them, by reason.
func words(alerts []desk.Alert) string {
	texts := make([]string, len(alerts))
	for i, a := range alerts {
		texts[i] = a.Reason + " " + strings.Join(a.Kinds, "+")
	}
	slices.Sort(texts)
	return strings.Join(texts, ", ")
}

// A scene is the dead letters and the time, as a test wants them.
type scene struct {
	mu     sync.Mutex
	now    time.Time
	groups []queue.Group
}

func newScene() *scene { return &scene{now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)} }

// set makes time pass, and the dead letters what "reason:count@age-of-the-oldest" says.
func (s *scene) set(t testing.TB, after time.Duration, letters string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now, s.groups = s.now.Add(after), nil
	for _, word := range strings.Fields(letters) {
		word, age, _ := strings.Cut(word, "@")
		reason, count, _ := strings.Cut(word, ":")
		g := queue.Group{Reason: reason, Newest: s.now, Oldest: s.now, Sample: queue.DeadLetter{Failure: queue.Failure{Reason: reason}}}
		if _, err := fmt.Sscan(count, &g.Count); err != nil {
			t.Fatal(word, err)
		}
		if age != "" {
			g.Oldest = s.now.Add(-must[time.Duration](t)(time.ParseDuration(age)))
		}
		s.groups = append(s.groups, g)
	}
}

func (s *scene) watcher(memory desk.Memory, tell func(context.Context, desk.Alert) error) *desk.Watcher {
	return &desk.Watcher{
		Memory: memory, Tell: tell,
		Groups: func(context.Context) ([]queue.Group, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			return slices.Clone(s.groups), nil
		},
		Now: func() time.Time {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.now
		},
	}
}

func deskKV(t testing.TB, b *queue.Broker) *queue.KV {
	t.Helper()
	return must[*queue.KV](t)(b.KV(t.Context(), queue.DeskBucket))
}

func TestAWatcherTellsWhatIsNewAndWhatPassesAThreshold(t *testing.T) {
	type look struct {
		after   time.Duration
		letters string
		told    string
	}
	const s, m, h = time.Second, time.Minute, time.Hour
	for name, test := range map[string]struct {
		count uint64
		age   time.Duration
		looks []look
	}{
		"what is there at the first look is new, once": {0, 0, []look{
			{0, "a:1", "a new_reason"}, {30 * s, "a:1", ""}, {5 * h, "a:7@9h", ""},
		}},
		"nothing at the first look, then a reason": {0, 0, []look{
			{0, "", ""}, {30 * s, "a:1", "a new_reason"}, {30 * s, "a:1", ""},
		}},
		"reasons are told one by one": {0, 0, []look{
			{0, "a:1", "a new_reason"}, {30 * s, "a:1 b:1", "b new_reason"}, {30 * s, "c:1 b:1", "c new_reason"}, {30 * s, "c:1 b:1", ""},
		}},
		"what comes back is new": {0, 0, []look{
			{0, "a:1", "a new_reason"}, {2 * h, "", ""}, {2 * h, "a:1", "a new_reason"}, {2 * h, "a:1", ""},
		}},
		"what comes back within the interval is told after it": {0, 0, []look{
			{0, "a:1", "a new_reason"}, {1 * m, "", ""}, {10 * m, "a:1", ""}, {40 * m, "a:1", ""}, {9 * m, "a:1", "a new_reason"}, {2 * h, "a:1", ""},
		}},
		"what comes back and goes within the interval is not told": {0, 0, []look{
			{0, "a:1", "a new_reason"}, {1 * m, "", ""}, {10 * m, "a:1", ""}, {40 * m, "", ""}, {9 * m, "", ""}, {h, "a:1", "a new_reason"},
		}},
		"a count is told when it passes": {10, 0, []look{
			{0, "a:9", "a new_reason"}, {2 * h, "a:10", "a count"}, {2 * h, "a:10", ""}, {2 * h, "a:20", ""},
		}},
		"a count is told again after it was below": {10, 0, []look{
			{0, "a:10", "a count+new_reason"}, {2 * h, "a:9", ""}, {m, "a:11", "a count"}, {2 * h, "a:12", ""},
		}},
		"a count that goes up and down is told once in the interval": {10, 0, []look{
			{0, "a:10", "a count+new_reason"}, {m, "a:9", ""}, {m, "a:10", ""}, {m, "a:9", ""}, {m, "a:10", ""}, {56 * m, "a:10", "a count"}, {m, "a:9", ""}, {m, "a:10", ""},
		}},
		"a count passed within the interval is told after it": {10, 0, []look{
			{0, "a:1", "a new_reason"}, {m, "a:10", ""}, {58 * m, "a:10", ""}, {m, "a:10", "a count"}, {2 * h, "a:10", ""},
		}},
		"a count that fell within the interval is not told": {10, 0, []look{
			{0, "a:1", "a new_reason"}, {m, "a:10", ""}, {2 * h, "a:9", ""},
		}},
		"an age is told when it passes": {0, 24 * h, []look{
			{0, "a:1@23h", "a new_reason"}, {h, "a:1@24h", "a age"}, {h, "a:1@25h", ""}, {h, "a:1@1h", ""}, {h, "a:1@24h", "a age"},
		}},
		"the oldest letter goes, and the next one grows old": {0, 24 * h, []look{
			{0, "a:2@24h", "a age+new_reason"}, {2 * h, "a:1@2h", ""}, {22 * h, "a:1@24h", "a age"},
		}},
		"all at once is one alert, the most serious first": {10, 24 * h, []look{
			{0, "a:10@24h b:1", "a count+age+new_reason, b new_reason"}, {2 * h, "a:10@26h b:1", ""},
		}},
		"without thresholds nothing passes them": {0, 0, []look{
			{0, "a:1000000@9999h", "a new_reason"}, {2 * h, "a:2000000@9999h", ""},
		}},
		"what comes back after a week and more is new": {0, 0, []look{
			{0, "a:1", "a new_reason"}, {h, "", ""}, {8 * 24 * h, "", ""}, {h, "a:1", "a new_reason"},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hook, scene := newHook(t), newScene()
			w := scene.watcher(deskKV(t, queuetest.Run(t)), (&desk.Webhook{URL: hook.URL}).Post)
			w.Count, w.Age = test.count, test.age
			for i, look := range test.looks {
				scene.set(t, look.after, look.letters)
				ok(t, w.Look(t.Context()))
				if got := words(hook.told()); got != look.told {
					t.Errorf("look %d, %q: told %q, want %q", i+1, look.letters, got, look.told)
				}
			}
		})
	}
}

// What was told is in the memory, not in the watcher: after each look another one takes over.
func TestAWatcherThatIsStartedAgainRepeatsNothing(t *testing.T) {
	hook, scene, kv := newHook(t), newScene(), deskKV(t, queuetest.Run(t))
	for _, letters := range []string{"a:1", "a:1", "a:1 b:1", "a:1 b:1"} {
		scene.set(t, time.Minute, letters)
		ok(t, scene.watcher(kv, (&desk.Webhook{URL: hook.URL}).Post).Look(t.Context()))
	}
	if got, want := words(hook.told()), "a new_reason, b new_reason"; got != want {
		t.Errorf("told %q, want %q", got, want)
	}
}

func TestManyWatchersTellOnce(t *testing.T) {
	hook, scene, b := newHook(t), newScene(), queuetest.Run(t)
	var watchers []*desk.Watcher
	for range 6 {
		w := scene.watcher(deskKV(t, queuetest.Connect(t, b.URL())), (&desk.Webhook{URL: hook.URL}).Post)
		w.Count = 10
		watchers = append(watchers, w)
	}
	for _, round := range []struct{ letters, told string }{
		{"a:1 b:10 c:1", "a new_reason, b count+new_reason, c new_reason"},
		{"a:10 b:10 c:1 d:1", "a count, d new_reason"},
		{"a:10 b:10 c:1 d:1", ""},
	} {
		scene.set(t, 2*time.Hour, round.letters)
		var all sync.WaitGroup
		for _, w := range watchers {
			all.Go(func() {
				if err := w.Look(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if got := words(hook.told()); got != round.told {
			t.Errorf("%q: told %q, want %q", round.letters, got, round.told)
		}
	}
}

func TestWatchersWithOtherThresholdsDoNotMakeEachOtherRepeat(t *testing.T) {
	hook, scene, kv := newHook(t), newScene(), deskKV(t, queuetest.Run(t))
	low, high := scene.watcher(kv, (&desk.Webhook{URL: hook.URL}).Post), scene.watcher(kv, (&desk.Webhook{URL: hook.URL}).Post)
	low.Count, high.Count = 10, 100
	for i, round := range []struct{ letters, told string }{
		{"a:50", "a count+new_reason"}, {"a:50", ""}, {"a:50", ""}, {"a:100", "a count"}, {"a:100", ""}, {"a:50", ""}, {"a:50", ""},
	} {
		scene.set(t, 2*time.Hour, round.letters)
		ok(t, errors.Join(low.Look(t.Context()), high.Look(t.Context())))
		if got := words(hook.told()); got != round.told {
			t.Errorf("round %d: told %q, want %q", i+1, got, round.told)
		}
	}
}

func TestAnAlertThatCannotBeToldIsTriedAgainWithGrowingGaps(t *testing.T) {
	hook, scene := newHook(t), newScene()
	w := scene.watcher(deskKV(t, queuetest.Run(t)), (&desk.Webhook{URL: hook.URL}).Post)
	hook.answers(http.StatusServiceUnavailable)
	var tried []int
	ids := map[string]bool{}
	for look := 1; look <= 400; look++ {
		if look == 300 {
			hook.answers(0)
		}
		scene.set(t, 30*time.Second, "a:1")
		err := w.Look(t.Context())
		for _, a := range hook.told() {
			tried = append(tried, look)
			ids[a.ID] = true
			if look < 300 && (err == nil || !strings.Contains(err.Error(), "503 Service Unavailable")) {
				t.Error("the error of look", look, "is", err)
			}
		}
	}
	if want := []int{1, 2, 4, 8, 16, 32, 64, 128, 192, 256, 320}; !slices.Equal(tried, want) {
		t.Errorf("tried with looks %v, want %v", tried, want)
	}
	if len(ids) != 1 {
		t.Errorf("%d ids for one alert", len(ids))
	}
	hook.answers(http.StatusServiceUnavailable)
	for range 2 { // another alert begins anew
		scene.set(t, 30*time.Second, "b:1")
		if err := w.Look(t.Context()); err == nil {
			t.Error("told in spite of a 503")
		}
	}
	if told := hook.told(); words(told) != "b new_reason, b new_reason" || ids[told[0].ID] {
		t.Errorf("another alert: %+v", told)
	}
}

func TestAnAlertIsForgivenItsFailuresWhenItIsTold(t *testing.T) {
	scene, kv, calls, fails := newScene(), queuetest.NewKV(), 0, true
	w := scene.watcher(kv, func(context.Context, desk.Alert) error {
		if calls++; fails {
			return errors.New("no way out")
		}
		return nil
	})
	look := func(after time.Duration, letters string) int {
		scene.set(t, after, letters)
		calls = 0
		_ = w.Look(t.Context()) // calls say how it went
		return calls
	}
	w.Count = 10
	for range 6 {
		look(30*time.Second, "a:1")
	}
	fails = false
	for range 10 {
		look(30*time.Second, "a:1")
	}
	fails = true
	if one, two, three := look(2*time.Hour, "a:10"), look(30*time.Second, "a:10"), look(30*time.Second, "a:10"); one != 1 || two != 1 || three != 0 {
		t.Errorf("%d, %d and %d calls", one, two, three)
	}
}

func TestFailuresAreForgottenWithTheirReason(t *testing.T) {
	scene, calls := newScene(), 0
	w := scene.watcher(queuetest.NewKV(), func(context.Context, desk.Alert) error { calls++; return errors.New("no way out") })
	look := func(letters string) {
		scene.set(t, 30*time.Second, letters)
		_ = w.Look(t.Context()) // calls say how it went
	}
	for range 9 {
		look("a:1")
	}
	look("")
	before := calls
	if look("a:1"); calls != before+1 {
		t.Errorf("%d calls, %d before", calls, before)
	}
}

func TestEachAlertHasAnIDOfItsOwn(t *testing.T) {
	scene, ids := newScene(), map[string]bool{}
	w := scene.watcher(queuetest.NewKV(), func(_ context.Context, a desk.Alert) error { ids[a.ID] = true; return nil })
	w.Count = 10
	for _, letters := range []string{"a:1", "a:10", "a:1", "a:10", "", "a:10"} {
		scene.set(t, 2*time.Hour, letters)
		ok(t, w.Look(t.Context()))
	}
	if len(ids) != 4 {
		t.Errorf("%d ids of 4 alerts", len(ids))
	}
}

func TestAnIntervalOfAMonthIsKept(t *testing.T) {
	scene, told := newScene(), 0
	w := scene.watcher(queuetest.NewKV(), func(context.Context, desk.Alert) error { told++; return nil })
	w.Interval = 30 * 24 * time.Hour
	for day, letters := range []string{"a:1", 1: "", 10: "", 11: "a:1", 29: "a:1"} {
		scene.set(t, 24*time.Hour, letters)
		if ok(t, w.Look(t.Context())); told != 1 {
			t.Fatalf("told %d times on day %d", told, day)
		}
	}
	scene.set(t, 24*time.Hour, "a:1")
	if ok(t, w.Look(t.Context())); told != 2 {
		t.Errorf("told %d times", told)
	}
}

func TestTheMemorySaysWhatWasToldAndSinceWhen(t *testing.T) {
	scene, kv := newScene(), deskKV(t, queuetest.Run(t))
	w := scene.watcher(kv, func(context.Context, desk.Alert) error { return nil })
	w.Count, w.Age = 10, 36*time.Hour
	for _, look := range []struct{ letters, memory string }{
		{"a:10@40h", `{"a":{"since":"2026-03-01T12:10:00Z","told":"2026-03-01T12:10:00Z","holds":["count 10","age 36h0m0s","new_reason"]}}`},
		{"a:1 ", `{"a":{"since":"2026-03-01T12:10:00Z","told":"2026-03-01T12:10:00Z","holds":["new_reason"]}}`},
		{"", `{"a":{"since":"2026-03-01T12:10:00Z","gone":"2026-03-01T12:30:00Z","told":"2026-03-01T12:10:00Z"}}`},
		{"", `{"a":{"since":"2026-03-01T12:10:00Z","gone":"2026-03-01T12:30:00Z","told":"2026-03-01T12:10:00Z"}}`},
		{"a:1", `{"a":{"since":"2026-03-01T12:50:00Z","told":"2026-03-01T12:10:00Z"}}`},
	} {
		scene.set(t, 10*time.Minute, look.letters)
		ok(t, w.Look(t.Context()))
		if got := string(must[queue.Entry](t)(kv.Get(t.Context(), "=told")).Value); got != look.memory {
			t.Errorf("%q: %s\nwant %s", look.letters, got, look.memory)
		}
	}
}

func TestWhatGoesWhileItIsToldIsNewWhenItComesBack(t *testing.T) {
	scene, kv, told := newScene(), queuetest.NewKV(), []string{}
	other := scene.watcher(kv, nil)
	w := scene.watcher(kv, func(_ context.Context, a desk.Alert) error {
		if told = append(told, a.ID); len(told) == 1 {
			scene.set(t, time.Second, "")
			ok(t, other.Look(t.Context()))
		}
		return nil
	})
	scene.set(t, 0, "a:1")
	ok(t, w.Look(t.Context()))
	for _, after := range []time.Duration{time.Minute, time.Hour, time.Hour} {
		scene.set(t, after, "a:1")
		ok(t, w.Look(t.Context()))
	}
	if len(told) != 2 || told[0] == told[1] {
		t.Errorf("told %v", told)
	}
}

// A watcher that took so long that its claim has lapsed does not disturb whoever has claimed it since.
func TestALateEndDoesNotTouchTheClaimOfAnother(t *testing.T) {
	for name, late := range map[string]error{"it could not tell": errors.New("no way out"), "it has told": nil} {
		t.Run(name, func(t *testing.T) {
			scene, kv := newScene(), queuetest.NewKV()
			began, end, ended := make(chan bool), make(chan bool), make(chan error)
			second := scene.watcher(kv, func(context.Context, desk.Alert) error {
				began <- true
				<-end
				return nil
			})
			first := scene.watcher(kv, func(context.Context, desk.Alert) error {
				scene.set(t, 61*time.Second, "a:1")
				go func() { ended <- second.Look(t.Context()) }()
				<-began
				return late
			})
			third := scene.watcher(kv, func(context.Context, desk.Alert) error { t.Error("told a third time"); return nil })
			scene.set(t, 0, "a:1")
			if err := first.Look(t.Context()); !errors.Is(err, late) {
				t.Error(err)
			}
			ok(t, third.Look(t.Context()))
			end <- true
			ok(t, <-ended)
			scene.set(t, 2*time.Hour, "a:1")
			ok(t, third.Look(t.Context()))
		})
	}
}

func TestTheIntervalIsFromTheLastAlertOn(t *testing.T) {
	scene, kv, told := newScene(), queuetest.NewKV(), 0
	count := func(context.Context, desk.Alert) error { told++; return nil }
	second := scene.watcher(kv, count)
	second.Count = 10
	first := scene.watcher(kv, func(context.Context, desk.Alert) error { // late: second has told it again
		scene.set(t, 10*time.Minute, "a:1")
		return second.Look(t.Context())
	})
	scene.set(t, 0, "a:1")
	ok(t, first.Look(t.Context()))
	for i, test := range []struct {
		after time.Duration
		told  int
	}{{59 * time.Minute, 1}, {time.Minute, 2}} {
		scene.set(t, test.after, "a:10")
		if ok(t, second.Look(t.Context())); told != test.told {
			t.Errorf("look %d: told %d times, want %d", i, told, test.told)
		}
	}
}

func TestAnAlertThatOneWatcherCannotTellIsToldByAnother(t *testing.T) {
	hook, scene, kv := newHook(t), newScene(), deskKV(t, queuetest.Run(t))
	scene.set(t, 0, "a:1 b:1")
	broken := scene.watcher(kv, func(context.Context, desk.Alert) error { return errors.New("no way out") })
	if err := broken.Look(t.Context()); err == nil {
		t.Error("a look that could not tell was fine")
	}
	ok(t, scene.watcher(kv, (&desk.Webhook{URL: hook.URL}).Post).Look(t.Context()))
	if got, want := words(hook.told()), "a new_reason, b new_reason"; got != want {
		t.Errorf("told %q, want %q", got, want)
	}
	ok(t, broken.Look(t.Context()))
}

func TestAWatcherThatDiesWhileItTellsLosesNothing(t *testing.T) {
	for name, arrived := range map[string]bool{"before the alert arrived": false, "after it": true} {
		t.Run(name, func(t *testing.T) {
			hook, scene, kv := newHook(t), newScene(), deskKV(t, queuetest.Run(t))
			post := (&desk.Webhook{URL: hook.URL}).Post
			scene.set(t, 0, "a:1")
			ok(t, scene.watcher(kv, func(ctx context.Context, a desk.Alert) error {
				if arrived {
					ok(t, post(ctx, a))
				}
				runtime.Goexit()
				return nil
			}).Look(t.Context()))
			first := hook.told()
			w := scene.watcher(kv, post)
			scene.set(t, 59*time.Second, "a:1")
			ok(t, w.Look(t.Context()))
			if early := hook.told(); len(early) != 0 {
				t.Error("told while the dead watcher might live:", words(early))
			}
			scene.set(t, time.Second, "a:1")
			ok(t, w.Look(t.Context()))
			again := hook.told()
			if words(again) != "a new_reason" || arrived && again[0].ID != first[0].ID {
				t.Errorf("told %v, then %v", first, again)
			}
			scene.set(t, 2*time.Hour, "a:1")
			ok(t, w.Look(t.Context()))
			if more := hook.told(); len(more) != 0 {
				t.Error("told a third time:", words(more))
			}
		})
	}
}

// Whatever goes wrong with the memory, each alert is told, and twice only if it is not known whether
// it arrived.
func TestFaultsOfTheMemoryDelayAnAlertAtMost(t *testing.T) {
	const none, before, after, conflict = queuetest.None, queuetest.Before, queuetest.After, queuetest.Conflict
	for name, test := range map[string]struct {
		get, update []queuetest.Fault
		fails       bool // the first look
		told        int  // by the first look
	}{
		"it cannot be read":                           {get: []queuetest.Fault{before}, fails: true},
		"the claim is not written":                    {update: []queuetest.Fault{before}, fails: true},
		"the claim is written, the answer lost":       {update: []queuetest.Fault{after}, fails: true},
		"somebody else was first with the claim":      {update: []queuetest.Fault{conflict}, told: 1},
		"the end is not written":                      {update: []queuetest.Fault{none, before}, fails: true, told: 1},
		"the end is written, the answer lost":         {update: []queuetest.Fault{none, after}, fails: true, told: 1},
		"somebody else was first with the end":        {update: []queuetest.Fault{none, conflict}, told: 1},
		"the memory cannot be read again for its end": {get: []queuetest.Fault{none, before}, fails: true, told: 1},
	} {
		t.Run(name, func(t *testing.T) {
			scene, kv, told := newScene(), queuetest.NewKV(), 0
			w := scene.watcher(kv, func(context.Context, desk.Alert) error { told++; return nil })
			kv.Fail(queuetest.Get, test.get...)
			kv.Fail(queuetest.Update, test.update...)
			scene.set(t, 0, "a:1")
			if err := w.Look(t.Context()); (err != nil) != test.fails || told != test.told {
				t.Errorf("told %d times, %v", told, err)
			}
			for range 3 {
				scene.set(t, 30*time.Second, "a:1")
				ok(t, w.Look(t.Context()))
			}
			scene.set(t, 2*time.Hour, "a:1")
			ok(t, w.Look(t.Context()))
			ok(t, scene.watcher(kv, func(context.Context, desk.Alert) error { told++; return nil }).Look(t.Context()))
			if told != 1 {
				t.Errorf("told %d times in the end", told)
			}
		})
	}
}

func TestALookThatFindsNothingNewWritesNothing(t *testing.T) {
	scene, kv := newScene(), queuetest.NewKV()
	w := scene.watcher(kv, func(context.Context, desk.Alert) error { return nil })
	ok(t, w.Look(t.Context()))
	if n := kv.Updates(); n != 0 {
		t.Errorf("%d writes without letters", n)
	}
	scene.set(t, 0, "a:1")
	ok(t, w.Look(t.Context()))
	before := kv.Updates()
	scene.set(t, time.Hour, "a:2")
	ok(t, w.Look(t.Context()))
	if n := kv.Updates(); n != before || n != 2 {
		t.Errorf("%d writes, %d before", n, before)
	}
}

func TestLettersThatCannotBeLookedAtChangeNothing(t *testing.T) {
	scene, kv := newScene(), queuetest.NewKV()
	told := 0
	w := scene.watcher(kv, func(context.Context, desk.Alert) error { told++; return nil })
	scene.set(t, 0, "a:1")
	ok(t, w.Look(t.Context()))
	look, away := w.Groups, errors.New("away")
	w.Groups = func(context.Context) ([]queue.Group, error) { return nil, away }
	if err := w.Look(t.Context()); !errors.Is(err, away) {
		t.Error(err)
	}
	w.Groups = look
	scene.set(t, 2*time.Hour, "a:1")
	ok(t, w.Look(t.Context()))
	if told != 1 {
		t.Errorf("told %d times: the reason counts as gone", told)
	}
}

// A reading of the letters that is older than what another watcher wrote meanwhile is not used.
func TestAnOlderReadingDoesNotWriteOverANewerOne(t *testing.T) {
	scene, kv, told := newScene(), queuetest.NewKV(), 0
	tell := func(context.Context, desk.Alert) error { told++; return nil }
	slow, quick := scene.watcher(kv, tell), scene.watcher(kv, tell)
	scene.set(t, 0, "a:1")
	ok(t, slow.Look(t.Context()))
	scene.set(t, 2*time.Hour, "a:1")
	read := slow.Groups
	slow.Groups = func(ctx context.Context) ([]queue.Group, error) {
		groups, err := read(ctx)
		slow.Groups = read
		scene.set(t, time.Second, "") // the letters go …
		ok(t, quick.Look(t.Context()))
		return append(groups, queue.Group{Reason: "b", Count: 1}), err // … but slow has seen them, and one that is gone, too
	}
	ok(t, slow.Look(t.Context()))
	if told != 1 {
		t.Errorf("told %d times", told)
	}
}

func TestTheMemoryIsBounded(t *testing.T) {
	scene, kv := newScene(), deskKV(t, queuetest.Run(t))
	told := map[string]int{}
	var mu sync.Mutex
	w := scene.watcher(kv, func(_ context.Context, a desk.Alert) error {
		mu.Lock()
		defer mu.Unlock()
		told[a.Reason]++
		return nil
	})
	var many strings.Builder
	for i := range 1500 {
		fmt.Fprintf(&many, "a-reason-with-quite-a-long-name-as-reasons-go-%d:1 ", i)
	}
	for look := range 40 {
		scene.set(t, time.Second, many.String())
		ok(t, w.Look(t.Context()))
		if most := 32 * (look + 1); len(told) > most {
			t.Fatalf("%d alerts at once", len(told))
		}
	}
	if e := must[queue.Entry](t)(kv.Get(t.Context(), "=told")); len(told) != 1000 || len(e.Value) > 500_000 {
		t.Errorf("%d reasons told, %d bytes remembered", len(told), len(e.Value))
	}
	for reason, n := range told {
		if n != 1 {
			t.Errorf("%s told %d times", reason, n)
		}
	}
	scene.set(t, time.Second, "")
	ok(t, w.Look(t.Context()))
	scene.set(t, 7*24*time.Hour, "")
	ok(t, w.Look(t.Context()))
	if e := must[queue.Entry](t)(kv.Get(t.Context(), "=told")); len(e.Value) < 100 {
		t.Error("forgotten too early")
	}
	scene.set(t, time.Second, "")
	ok(t, w.Look(t.Context()))
	if e := must[queue.Entry](t)(kv.Get(t.Context(), "=told")); string(e.Value) != "{}" {
		t.Errorf("%d bytes are remembered after a week", len(e.Value))
	}
}

func TestADamagedMemoryIsBegunAnew(t *testing.T) {
	for name, damaged := range map[string]string{
		"it is no JSON":           "\x00",
		"it is something else":    `{"a":[1]}`,
		"it is null":              `null`,
		"a reason is null":        `{"a":null}`,
		"a broken clock wrote it": `{"a":{"since":"2026-01-01T00:00:00Z","told":"2099-01-01T00:00:00Z","until":"2099-01-01T00:00:00Z"}}`,
	} {
		t.Run(name, func(t *testing.T) {
			hook, scene, kv := newHook(t), newScene(), deskKV(t, queuetest.Run(t))
			must[uint64](t)(kv.Update(t.Context(), "=told", []byte(damaged), 0))
			w := scene.watcher(kv, (&desk.Webhook{URL: hook.URL}).Post)
			for range 5 {
				scene.set(t, 30*time.Minute, "a:1")
				ok(t, w.Look(t.Context()))
			}
			if got := words(hook.told()); got != "a new_reason" {
				t.Errorf("told %q", got)
			}
		})
	}
}

func TestASlowWebhookDoesNotStopTheLooking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		scene, kv := newScene(), queuetest.NewKV()
		var looks, calls atomic.Int64
		w := scene.watcher(kv, func(ctx context.Context, _ desk.Alert) error {
			calls.Add(1)
			<-ctx.Done()
			return context.Cause(ctx)
		})
		w.Every, w.Now = 2*time.Second, nil
		groups := w.Groups
		w.Groups = func(ctx context.Context) ([]queue.Group, error) { looks.Add(1); return groups(ctx) }
		scene.set(t, 0, "a:1")
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- w.Run(ctx) }()
		until := func(after time.Duration, wantLooks, wantCalls int64) {
			t.Helper()
			time.Sleep(after)
			synctest.Wait()
			if looks.Load() != wantLooks || calls.Load() != wantCalls {
				t.Errorf("%d looks and %d calls, want %d and %d", looks.Load(), calls.Load(), wantLooks, wantCalls)
			}
		}
		until(14500*time.Millisecond, 8, 1) // the call takes 15 s, and nobody calls meanwhile
		until(2*time.Second, 9, 2)          // it has failed, and the next look tried again
		cancel()
		if err := <-ended; err != nil {
			t.Error("run:", err)
		}
		told := 0
		next := scene.watcher(kv, func(context.Context, desk.Alert) error { told++; return nil })
		next.Now = nil
		if ok(t, next.Look(t.Context())); told != 1 {
			t.Error("the watcher that ended has not given its claim back")
		}
	})
}

func TestARunGoesOnThroughTroubleWithTheBroker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		scene, kv := newScene(), queuetest.NewKV()
		told := make(chan desk.Alert, 10)
		w := scene.watcher(kv, func(_ context.Context, a desk.Alert) error { told <- a; return nil })
		w.Now = nil
		kv.Down(true)
		scene.set(t, 0, "a:1")
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- w.Run(ctx) }()
		time.Sleep(5 * time.Minute)
		kv.Down(false)
		began := time.Now()
		<-told
		if took := time.Since(began); took > 30*time.Second {
			t.Errorf("told %s after the broker was back", took)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error("run:", err)
		}
	})
}

// From a record to the webhook, with nothing in between that is not real.
func TestAnAlertSaysWhatThereIsAndNoValuesOfRecords(t *testing.T) {
	b, hook := queuetest.Run(t), newHook(t)
	letter(t, b, `{"employee_id":"EMP-1","department":"Top-Secret"}`, queue.Failure{EmployeeID: "EMP-1", Reason: "user not found", Status: 404, Error: "no user", CorrelationID: "c1"})
	letter(t, b, `{"employee_id":"EMP-2","department":"Top-Secret"}`, queue.Failure{
		EmployeeID: "EMP-2", Reason: "user not found", Status: 404, Error: "<!channel> see <http://evil.example|this> @here" + strings.Repeat("x", 300), CorrelationID: "c2",
	})
	w := &desk.Watcher{
		Groups: b.DeadLetters().Groups, Memory: deskKV(t, b), Tell: (&desk.Webhook{URL: hook.URL + "/services/T0/B0", Secret: "s3cret"}).Post, Count: 2, Age: time.Hour,
		Now: func() time.Time { return time.Now().Add(2 * time.Hour) },
	}
	ok(t, w.Look(t.Context()))
	told := hook.told()
	if len(told) != 1 {
		t.Fatal(told)
	}
	a, body, head := told[0], hook.bodies[0], hook.heads[0]
	if a.ID == "" || a.At.IsZero() || a.Kind != desk.AlertCount || words(told) != "user not found count+age+new_reason" || a.Threshold != "2" ||
		a.Count != 2 || a.Oldest.IsZero() || a.Newest.Before(a.Oldest) || a.Looked != 2 || !slices.Equal(a.Statuses, []queue.StatusCount{{Status: 404, Count: 2}}) {
		t.Errorf("%+v", a)
	}
	if a.Sample.Letter != 2 || a.Sample.EmployeeID != "EMP-2" || a.Sample.Status != 404 || a.Sample.CorrelationID != "c2" || !strings.HasPrefix(a.Sample.Error, "<!channel>") {
		t.Errorf("%+v", a.Sample)
	}
	want := "skillsync: 2 or more dead letters for user not found: 2, the oldest for 2 h 0 min; the newest: ‹!channel› see ‹http://evil.example|this› ＠herexxx"
	if !strings.HasPrefix(a.Text, want) || strings.ContainsAny(a.Text, "<>@\n") || len([]rune(a.Text)) > 350 {
		t.Errorf("%s\n%s", a.Text, want)
	}
	if bytes.Contains(body, []byte("Top-Secret")) || bytes.Contains(body, []byte("department")) {
		t.Errorf("it tells values: %s", body)
	}
	mac := hmac.New(sha256.New, []byte("s3cret"))
	mac.Write(body)
	for name, want := range map[string]string{
		"Content-Type": "application/json", "User-Agent": "skillsync", "X-Skillsync-Signature": "sha256=" + hex.EncodeToString(mac.Sum(nil)),
	} {
		if got := head.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	ok(t, w.Look(t.Context()))
	if again := hook.told(); len(again) != 0 {
		t.Error("told again:", words(again))
	}
}

func TestTheTextOfAnAlertIsALine(t *testing.T) {
	for name, test := range map[string]struct{ letters, want string }{
		"a new reason": {"a:3@2m", "skillsync: dead letters for a new reason, a: 3, the oldest for 2 min"},
		"a count":      {"a:10@90s", "skillsync: 10 or more dead letters for a: 10, the oldest for 90 s"},
		"an age":       {"a:1@73h", "skillsync: dead letters for a have waited for 36 h 0 min or longer: 1, the oldest for 3 days"},
	} {
		t.Run(name, func(t *testing.T) {
			scene, text := newScene(), ""
			w := scene.watcher(queuetest.NewKV(), func(_ context.Context, a desk.Alert) error { text = a.Text; return nil })
			w.Count, w.Age = 10, 36*time.Hour
			scene.set(t, 0, test.letters)
			ok(t, w.Look(t.Context()))
			if text != test.want {
				t.Errorf("%s\nwant %s", text, test.want)
			}
		})
	}
	a := newScene()
	w := a.watcher(queuetest.NewKV(), func(_ context.Context, a desk.Alert) error {
		if want := "the newest: one·two·[31mthree·"; !strings.HasSuffix(a.Text, want) || a.Reason != "a" {
			t.Errorf("%q about %q, want %q", a.Text, a.Reason, want)
		}
		return nil
	})
	a.set(t, 0, "a:1")
	a.groups[0].Sample.Error, a.groups[0].Sample.Reason = "one\ntwo\x1b[31mthree\u202e", "of another subject"
	ok(t, w.Look(t.Context()))
}

func TestAnyTwoHundredIsSuccessAndNothingElse(t *testing.T) {
	hook := newHook(t)
	for status, want := range map[int]string{
		200: "", 201: "", 204: "", 299: "",
		300: "300 Multiple Choices: redirects are not followed", 304: "304 Not Modified: redirects are not followed",
		400: "400 Bad Request", 404: "404 Not Found", 410: "410 Gone", 429: "429 Too Many Requests", 500: "500 Internal Server Error", 599: "599",
	} {
		hook.answers(status)
		err := (&desk.Webhook{URL: hook.URL}).Post(t.Context(), desk.Alert{})
		if want != "" {
			want = "post an alert to " + hook.URL + ": " + want
		}
		if got := fmt.Sprint(err); got != cmp.Or(want, "<nil>") {
			t.Errorf("%d: %s, want %s", status, got, cmp.Or(want, "no error"))
		}
	}
}

func TestWithoutASecretNothingIsSigned(t *testing.T) {
	hook := newHook(t)
	ok(t, (&desk.Webhook{URL: hook.URL, Client: hook.Client()}).Post(t.Context(), desk.Alert{}))
	if _, signed := hook.heads[0]["X-Skillsync-Signature"]; signed {
		t.Error("signed without a secret")
	}
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	elsewhere := newHook(t)
	for _, status := range []int{301, 302, 303, 307, 308} {
		from := httptest.NewServer(http.RedirectHandler(elsewhere.URL+"/secret", status))
		err := (&desk.Webhook{URL: from.URL, Client: from.Client()}).Post(t.Context(), desk.Alert{})
		from.Close()
		if err == nil || !strings.HasSuffix(err.Error(), ": redirects are not followed") || strings.Contains(err.Error(), "secret") {
			t.Errorf("%d: %v", status, err)
		}
	}
	if told := elsewhere.told(); len(told) != 0 {
		t.Error("followed")
	}
}

type transport func(*http.Request) (*http.Response, error)

func (t transport) RoundTrip(r *http.Request) (*http.Response, error) { return t(r) }

func TestAWebhookThatDoesNotAnswerIsGivenTenSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		silent := transport(func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		})
		began := time.Now()
		err := (&desk.Webhook{URL: "https://example.com/secret", Client: &http.Client{Transport: silent}}).Post(t.Context(), desk.Alert{})
		if took := time.Since(began); took != 10*time.Second || fmt.Sprint(err) != "post an alert to https://example.com: no answer in time" {
			t.Errorf("%v after %s", err, took)
		}
	})
}

func TestSecretsOfAWebhookAreInNoErrorAndNoLog(t *testing.T) {
	const secret = "hunter2"
	answer := func(status int, location string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", location+r.URL.Path)
			w.WriteHeader(status)
			fmt.Fprint(w, r.URL, r.Header)
		}
	}
	servers := map[string]*httptest.Server{
		"it is not found":               httptest.NewServer(answer(404, "")),
		"it redirects":                  httptest.NewServer(answer(302, "")),
		"it redirects where no URL is":  httptest.NewServer(answer(302, "http://[::1/%zz")),
		"its certificate is of nobody":  httptest.NewUnstartedServer(answer(204, "")),
		"it speaks something else":      httptest.NewTLSServer(answer(204, "")),
		"it hangs up":                   httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })),
		"nobody listens":                httptest.NewServer(answer(204, "")),
		"it answers what is no HTTP":    httptest.NewServer(http.HandlerFunc(gibberish)),
		"it answers a status of itself": httptest.NewServer(http.HandlerFunc(ownWords)),
	}
	servers["its certificate is of nobody"].Config.ErrorLog = nil
	servers["its certificate is of nobody"].StartTLS()
	servers["nobody listens"].Close()
	urls := map[string]string{}
	for name, server := range servers {
		u := must[*url.URL](t)(url.Parse(server.URL))
		u.User, u.Path, u.RawQuery = url.UserPassword("me", secret), "/services/"+secret, "token="+secret
		if name == "it speaks something else" {
			u.Scheme = "http"
		}
		urls[name] = u.String()
		defer server.Close()
	}
	urls["its host is unknown"] = "https://me:" + secret + "@nowhere.invalid/" + secret
	urls["its port is none"] = "https://me:" + secret + "@127.0.0.1:99999/" + secret
	urls["the URL is broken"] = "https://example.com:" + secret + "/" + secret
	urls["the URL is cut by a #"] = "https://me:hunter#2@example.com/" + secret
	urls["the URL has a bad escape"] = "https://example.com/%zz" + secret
	urls["the URL has a line break"] = "https://example.com/" + secret + "\n"
	urls["the URL has no scheme"] = secret + ":" + secret + "@example.com"
	for name, address := range urls {
		t.Run(name, func(t *testing.T) {
			scene, log := newScene(), &strings.Builder{}
			scene.set(t, 0, "a:1")
			w := scene.watcher(queuetest.NewKV(), (&desk.Webhook{URL: address, Secret: secret}).Post)
			w.Log = zerolog.New(log)
			err := w.Look(t.Context())
			if err == nil || strings.Contains(err.Error(), "hunter") || strings.Contains(err.Error(), "me:") {
				t.Error("error:", err)
			}
			if !strings.Contains(log.String(), "could not be told") || strings.Contains(log.String(), "hunter") {
				t.Error("log:", log)
			}
			t.Log(err)
		})
	}
}

func raw(w http.ResponseWriter, answer string) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		panic(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, answer)
}

func gibberish(w http.ResponseWriter, r *http.Request) { raw(w, r.URL.String()+"\r\n\r\n") }

func ownWords(w http.ResponseWriter, r *http.Request) {
	raw(w, "HTTP/1.1 400 "+r.URL.String()+"\r\nContent-Length: 0\r\n\r\n")
}

func TestAWebhooksURLIsChecked(t *testing.T) {
	for address, want := range map[string]string{
		"https://hooks.slack.com/services/T0/B0/x": "<nil>",
		"http://localhost:8080":                    "<nil>",
		"https://me:pass@example.com/?a=b":         "<nil>",
		"HTTPS://EXAMPLE.COM":                      "<nil>",
		"":                                         "the URL has to begin with https:// or http://",
		"hooks.slack.com/services/x":               "the URL has to begin with https:// or http://",
		"ftp://example.com":                        "the URL has to begin with https:// or http://",
		"file:///etc/passwd":                       "the URL has to begin with https:// or http://",
		"https:":                                   "the URL names no host, as https://example.com/hook does",
		"https:///hook":                            "the URL names no host, as https://example.com/hook does",
		"https://:80/hook":                         "the URL names no host, as https://example.com/hook does",
		"https:example.com":                        "the URL names no host, as https://example.com/hook does",
		"https://example.com/a#b":                  "the URL has a #, and what follows it would not be sent; if it belongs there, write %23",
		"https://example.com/%zz":                  "the URL cannot be read",
		"https://exa mple.com/":                    "the URL cannot be read",
		"https://example.com:x/":                   "the URL cannot be read",
	} {
		if got := fmt.Sprint(desk.CheckWebhook(address)); got != want {
			t.Errorf("%s: %s, want %s", address, got, want)
		}
	}
}
