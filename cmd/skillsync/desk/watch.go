package desk

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	mathrand "math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"skillsync/queue"
)

// A Watcher looks at the dead letters and tells of what somebody should know: a reason that was not
// there before, and a count or an age that passes its threshold. Groups, Memory and Tell must be
// set, and nothing may be changed once it is in use.
//
// However many watchers share a Memory, an alert is told by one of them, and there is one at most
// about a reason in Interval; what comes up earlier waits, and is told then if it still holds.
//
// To tell, a watcher first claims the alert in the Memory for a minute, then tells, then writes
// down that it is told. If telling fails it gives the claim back, and it is told with the next look
// of whoever is first. A watcher that dies in between costs a minute's delay, or, if the alert had
// arrived, one repetition; none is lost. Repetitions have the ID of the first.
type Watcher struct {
	Groups func(context.Context) ([]queue.Group, error)
	Memory Memory
	// Tell must end when its context does. Its error is logged: it must hold no secret.
	Tell func(context.Context, Alert) error

	Every    time.Duration // between looks; default 30 seconds
	Interval time.Duration // between two alerts about one reason; default 1 hour
	Count    uint64        // so many letters of a reason are told of; 0 is never
	Age      time.Duration // a reason whose oldest letter is as old is told of; 0 is never
	Log      zerolog.Logger
	// Now is the broker's time. nil is the local clock, which is good enough to within seconds.
	Now func() time.Time

	mu       sync.Mutex
	looks    int                // how many there were
	ends     []*ending          // to be written down
	settling bool               // somebody writes them down
	fails    map[string]failing // by reason: what could not be told from here
}

// A Memory is where watchers remember what was told: *queue.KV of queue.DeskBucket.
type Memory interface {
	Get(ctx context.Context, key string) (queue.Entry, error)
	Update(ctx context.Context, key string, value []byte, revision uint64) (uint64, error)
}

// Kinds of alerts, the most serious first.
const (
	AlertCount = "count"      // many letters have the reason
	AlertAge   = "age"        // one of them has waited for long
	AlertNew   = "new_reason" // there were none of that reason before
)

// An Alert is what somebody should know of the dead letters of one reason. It holds employee ids,
// and nothing else from records.
type Alert struct {
	ID        string              `json:"id"` // the same whenever this alert is told
	At        time.Time           `json:"at"` // by the broker's clock
	Kind      string              `json:"kind"`
	Kinds     []string            `json:"kinds"`               // all that came up, Kind first
	Threshold string              `json:"threshold,omitempty"` // that was passed: letters, or a time like 24h0m0s
	Reason    string              `json:"reason"`
	Count     uint64              `json:"count"`
	Oldest    time.Time           `json:"oldest"`
	Newest    time.Time           `json:"newest"`
	Statuses  []queue.StatusCount `json:"statuses"` // of the oldest Looked letters
	Looked    int                 `json:"looked"`
	Sample    Sample              `json:"sample"`
	Text      string              `json:"text"` // all of it in a line, as chats take it
}

// A Sample is the newest letter of a reason.
type Sample struct {
	Letter        uint64 `json:"letter"`
	EmployeeID    string `json:"employee_id,omitempty"`
	Status        int    `json:"status,omitempty"`
	Error         string `json:"error,omitempty"`
	CorrelationID string `json:"correlation_id,omitempty"`
}

const (
	toldKey     = "=told"          // no replay has a name with "="
	tellWait    = 15 * time.Second // for Tell; more than a Webhook takes
	writeWait   = 5 * time.Second  // to write down what came of it
	claimFor    = time.Minute      // outlasts both
	forgetAfter = 7 * 24 * time.Hour
	skew        = time.Minute // a time that is further ahead was written by a broken clock

	mostAlerts   = 32   // that one look tells; the rest is for the next
	mostReasons  = 1000 // that are remembered; beyond them new ones are not told
	mostSkipped  = 63   // looks without telling, after failures
	swapsOfTold  = 20
	errorInAText = 200 // characters
)

// Run looks until ctx ends, and returns when all is quiet. What goes wrong is logged and tried
// again. Looking does not wait for what is being told.
func (w *Watcher) Run(ctx context.Context) error {
	var telling sync.WaitGroup
	defer telling.Wait()
	tick := time.NewTicker(orDefault(w.Every, 30*time.Second))
	defer tick.Stop()
	for {
		claims, err := w.look(ctx)
		if err != nil && ctx.Err() == nil {
			w.Log.Warn().Err(err).Msg("the dead letters could not be watched; trying again")
		}
		for _, c := range claims {
			telling.Go(func() { _ = w.tell(ctx, c) }) // it has logged the error
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Look looks once, tells what is to be told, and returns when that is done.
func (w *Watcher) Look(ctx context.Context) error {
	claims, err := w.look(ctx)
	ends := make([]error, len(claims))
	var telling sync.WaitGroup
	for i, c := range claims {
		telling.Go(func() { ends[i] = w.tell(ctx, c) })
	}
	telling.Wait()
	return errors.Join(append(ends, err)...)
}

// A claim is an alert that is this watcher's to tell.
type claim struct {
	Alert
	key   string // of the reason in the memory
	holds []string
	until time.Time
}

// look brings the memory up to date and claims what is to be told. The memory is read before the
// letters, so that nobody who saw less of them writes over what somebody saw later.
func (w *Watcher) look(ctx context.Context) (claims []claim, err error) {
	w.mu.Lock()
	w.looks++
	w.mu.Unlock()
	err = w.change(ctx, func(m memory) error {
		groups, err := w.Groups(ctx)
		if err != nil {
			return fmt.Errorf("look at the dead letters: %w", err)
		}
		claims = w.judge(m, groups, w.now())
		return nil
	})
	if err != nil {
		return nil, err // what was claimed is not certain; it lapses
	}
	return claims, nil
}

// judge makes the memory what the groups are, and claims what is to be told.
func (w *Watcher) judge(m memory, groups []queue.Group, now time.Time) (claims []claim) {
	here := map[string]bool{}
	for _, g := range groups {
		here[g.Reason] = true
		k := m[g.Reason]
		if k == nil && len(m) >= mostReasons {
			continue
		}
		if k == nil {
			k = &known{Since: now}
			m[g.Reason] = k
		}
		k.seen(now)
		if due := k.due(w.conditions(g, now)); len(due) > 0 && len(claims) < mostAlerts && w.may(g.Reason, k, now) {
			claims = append(claims, k.claim(g, due, now))
		}
	}
	interval := w.interval()
	maps.DeleteFunc(m, func(reason string, k *known) bool {
		return !here[reason] && k.forgotten(now, interval)
	})
	w.forget(here)
	return claims
}

// A condition is something about a reason that is told once for as long as it holds.
type condition struct {
	kind, threshold string
	holds           bool
}

// name is the condition in the memory. The threshold is a part of it, for watchers that have
// different ones.
func (c condition) name() string { return strings.TrimSpace(c.kind + " " + c.threshold) }

// conditions are those of this watcher, the most serious first.
func (w *Watcher) conditions(g queue.Group, now time.Time) []condition {
	all := make([]condition, 0, 3)
	if w.Count > 0 {
		all = append(all, condition{AlertCount, strconv.FormatUint(w.Count, 10), g.Count >= w.Count})
	}
	if w.Age > 0 {
		all = append(all, condition{AlertAge, w.Age.String(), now.Sub(g.Oldest) >= w.Age})
	}
	return append(all, condition{AlertNew, "", true})
}

// may tells whether there may be an alert now.
func (w *Watcher) may(reason string, k *known, now time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !now.Before(k.Until) && now.Sub(k.Told) >= w.interval() && w.looks >= w.fails[reason].until
}

func (w *Watcher) interval() time.Duration { return orDefault(w.Interval, time.Hour) }

func (w *Watcher) now() time.Time {
	now := time.Now
	if w.Now != nil {
		now = w.Now
	}
	return now().UTC().Truncate(time.Millisecond)
}

func orDefault(d, otherwise time.Duration) time.Duration {
	if d > 0 {
		return d
	}
	return otherwise
}

// tell tells an alert and writes down what came of it. What cannot be written now is written with
// the next look.
func (w *Watcher) tell(ctx context.Context, c claim) error {
	sending, cancel := context.WithTimeout(ctx, tellWait)
	defer cancel()
	told := w.Tell(sending, c.Alert)
	w.end(ctx, c, told)
	written := w.settle(ctx)
	if written != nil {
		w.Log.Warn().Err(written).Str("reason", c.Reason).Msg("what came of an alert is not written down yet")
	}
	if told != nil {
		told = fmt.Errorf("tell of the dead letters for %s: %w", Printable(c.Reason), told)
	}
	return errors.Join(told, written)
}

// settle writes down what has ended. While one does, he takes along what ends meanwhile.
func (w *Watcher) settle(ctx context.Context) (err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.settling {
		return nil
	}
	w.settling = true
	for err == nil && len(w.ends) > 0 {
		w.mu.Unlock()
		err = w.writeEnds(ctx)
		w.mu.Lock()
	}
	w.settling = false
	return err
}

func (w *Watcher) writeEnds(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeWait)
	defer cancel()
	return w.change(ctx, func(memory) error { return nil })
}

// An ending is what came of a claim and is not yet in the memory.
type ending struct {
	claim
	told bool
}

// A failing is how often in a row a reason could not be told, and the look that tries again. Other
// watchers, which may reach whom this one does not, go by their own.
type failing struct{ times, until int }

// end notes what came of a claim.
func (w *Watcher) end(ctx context.Context, c claim, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ends = append(w.ends, &ending{claim: c, told: err == nil})
	if err == nil {
		delete(w.fails, c.key)
		w.Log.Info().Str("reason", c.Reason).Str("kind", c.Kind).Uint64("count", c.Count).Msg("told of dead letters")
		return
	}
	if ctx.Err() != nil {
		return // we hung up ourselves
	}
	f := w.fails[c.key]
	skip := min(1<<min(f.times, 30)-1, mostSkipped)
	if w.fails == nil {
		w.fails = map[string]failing{}
	}
	w.fails[c.key] = failing{f.times + 1, w.looks + skip + 1}
	w.Log.Warn().Err(err).Str("reason", c.Reason).Str("kind", c.Kind).Int("failures", f.times+1).Int("looks_skipped", skip).
		Msg("an alert about dead letters could not be told; trying again")
}

// forget drops what is known of reasons that are not there any more.
func (w *Watcher) forget(here map[string]bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	maps.DeleteFunc(w.fails, func(reason string, _ failing) bool { return !here[reason] })
}

func (w *Watcher) ended() []*ending {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.ends)
}

func (w *Watcher) written(ends []*ending) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ends = slices.DeleteFunc(w.ends, func(e *ending) bool { return slices.Contains(ends, e) })
}

// change writes down what has ended and what do changes, by compare-and-swap; do may be called
// several times, and its error ends it.
func (w *Watcher) change(ctx context.Context, do func(memory) error) error {
	for n := 1; ; n++ {
		err := w.changeOnce(ctx, do)
		if !errors.Is(err, queue.ErrConflict) || n == swapsOfTold {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(mathrand.N(time.Duration(n) * 10 * time.Millisecond)): // the losers of one race part
		}
	}
}

func (w *Watcher) changeOnce(ctx context.Context, do func(memory) error) error {
	m, was, err := w.remember(ctx)
	if err != nil {
		return err
	}
	ends := w.ended()
	for _, e := range ends {
		m.end(e)
	}
	if err := do(m); err != nil {
		return err
	}
	value, err := json.Marshal(m)
	if err != nil {
		return err
	}
	nothing := len(m) == 0 && was.Revision == 0
	if !nothing && !bytes.Equal(value, was.Value) {
		if _, err := w.Memory.Update(ctx, toldKey, value, was.Revision); err != nil {
			return fmt.Errorf("write down what was told of dead letters: %w", err)
		}
	}
	w.written(ends)
	return nil
}

// remember reads the memory. One that cannot be read is begun anew: it is better to tell twice
// than never again.
func (w *Watcher) remember(ctx context.Context) (memory, queue.Entry, error) {
	e, err := w.Memory.Get(ctx, toldKey)
	if err != nil && !errors.Is(err, queue.ErrNotFound) {
		return nil, e, fmt.Errorf("read what was told of dead letters: %w", err)
	}
	m := memory{}
	if e.Revision == 0 {
		return m, e, nil
	}
	if err := json.Unmarshal(e.Value, &m); err != nil || m == nil { // null makes it nil
		w.Log.Warn().Err(err).Msg("what was told of dead letters cannot be read: all of it counts as new")
		return memory{}, e, nil
	}
	maps.DeleteFunc(m, func(_ string, k *known) bool { return k == nil })
	return m, e, nil
}

// A memory is what watchers know, by reason as it is in subjects.
type memory map[string]*known

// What is known of one reason.
type known struct {
	Since   time.Time `json:"since"`             // there are letters since then, as far as anybody looked
	Gone    time.Time `json:"gone,omitzero"`     // there are none since then
	Told    time.Time `json:"told,omitzero"`     // the last alert
	Holds   []string  `json:"holds,omitempty"`   // conditions that were told, and hold since
	Telling []string  `json:"telling,omitempty"` // conditions that somebody is telling …
	Until   time.Time `json:"until,omitzero"`    // … until then, unless he says more
	ID      string    `json:"id,omitempty"`      // of the alert that is or was being told, and is not told
}

// seen notes that there are letters.
func (k *known) seen(now time.Time) {
	if !k.Gone.IsZero() {
		k.Since, k.Gone = now, time.Time{}
	}
	if k.Told.Sub(now) > skew {
		k.Told = now
	}
	if k.Until.Sub(now) > claimFor+skew {
		k.Until = now
	}
}

// forgotten notes that there are no letters, and tells whether that is so for long enough.
func (k *known) forgotten(now time.Time, interval time.Duration) bool {
	if k.Gone.IsZero() || k.Gone.Sub(now) > skew {
		k.Gone = now
	}
	k.Holds, k.Telling, k.ID = nil, nil, ""
	return now.Sub(k.Gone) > forgetAfter && now.Sub(k.Told) > interval
}

// due drops the conditions that hold no longer, and returns those that are to be told.
func (k *known) due(all []condition) (due []condition) {
	for _, c := range all {
		is := func(name string) bool { return name == c.name() }
		switch {
		case !c.holds:
			k.Holds, k.Telling = slices.DeleteFunc(k.Holds, is), slices.DeleteFunc(k.Telling, is)
		case !slices.ContainsFunc(k.Holds, is):
			due = append(due, c)
		}
	}
	return due
}

// claim makes an alert of what is due.
func (k *known) claim(g queue.Group, due []condition, now time.Time) claim {
	k.ID = cmp.Or(k.ID, rand.Text())
	k.Until, k.Telling = now.Add(claimFor), nil
	c := claim{key: g.Reason, until: k.Until, Alert: Alert{
		ID: k.ID, At: now, Kind: due[0].kind, Threshold: due[0].threshold,
		Reason: g.Reason, Count: g.Count, Oldest: g.Oldest, Newest: g.Newest, Statuses: g.Statuses, Looked: g.Looked,
		Sample: Sample{
			Letter: g.Sample.Sequence, EmployeeID: g.Sample.EmployeeID, Status: g.Sample.Status,
			Error: g.Sample.Error, CorrelationID: g.Sample.CorrelationID,
		},
	}}
	if queue.Key(g.Sample.Reason) == g.Reason {
		c.Reason = g.Sample.Reason // the group's is as a subject has it
	}
	for _, d := range due {
		c.holds, c.Kinds = append(c.holds, d.name()), append(c.Kinds, d.kind)
	}
	k.Telling = slices.Clone(c.holds)
	c.Text = c.text()
	return c
}

// end takes over what came of a claim. What has ceased to hold since is not remembered as told.
func (m memory) end(e *ending) {
	k := m[e.key]
	if k == nil {
		return
	}
	if e.told {
		for _, name := range e.holds {
			if slices.Contains(k.Telling, name) && !slices.Contains(k.Holds, name) {
				k.Holds = append(k.Holds, name)
			}
		}
		if k.ID == e.ID {
			k.ID = ""
		}
		if e.At.After(k.Told) {
			k.Told = e.At
		}
	}
	if k.Until.Equal(e.until) { // else somebody else has claimed it meanwhile
		k.Until, k.Telling = time.Time{}, nil
	}
}

// text says it in a line. What is in it from elsewhere can call nobody in a chat and link nowhere.
func (a Alert) text() string {
	var what string
	switch a.Kind {
	case AlertCount:
		what = a.Threshold + " or more dead letters for " + a.Reason
	case AlertAge:
		age, _ := time.ParseDuration(a.Threshold) // it is one
		what = "dead letters for " + a.Reason + " have waited for " + InWords(age) + " or longer"
	default:
		what = "dead letters for a new reason, " + a.Reason
	}
	text := fmt.Sprintf("skillsync: %s: %d, the oldest for %s", what, a.Count, InWords(a.At.Sub(a.Oldest)))
	if runes := []rune(a.Sample.Error); len(runes) > errorInAText {
		text += "; the newest: " + string(runes[:errorInAText]) + "…"
	} else if len(runes) > 0 {
		text += "; the newest: " + a.Sample.Error
	}
	return quiet.Replace(Printable(text))
}

var quiet = strings.NewReplacer("<", "‹", ">", "›", "@", "＠")
