package queue

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// States of a replay.
const (
	ReplayRunning   = "running"
	ReplayPaused    = "paused"
	ReplayCancelled = "cancelled"
	ReplayPublished = "published" // every record is in the queue
)

var (
	// ErrReplayTaken says that another process runs the replay.
	ErrReplayTaken = errors.New("another process runs this replay")
	// ErrReplayState says that a replay is over, or not in a state where that can be done.
	ErrReplayState = errors.New("not possible now")
	// ErrReplayedMeanwhile says that somebody else has replayed the letter.
	ErrReplayedMeanwhile = errors.New("somebody else has replayed it meanwhile")
)

// A Replay is the publishing again of dead letters, under a name. It is kept by the broker, so that
// it can be paused, looked at and taken up again from anywhere.
//
// What is published of it stays counted whatever crashes: a batch of records is published, then
// the counts are written together with the letters they came from, and then these are removed.
type Replay struct {
	Name string `json:"name"` // letters, digits, "-" and "_", at most 64

	// What is replayed: the letters named, or else all that Filter selects, up to Until.
	Letters []uint64 `json:"letters,omitempty"`
	Filter  Filter   `json:"filter"`
	Until   uint64   `json:"until"`             // sequence; letters that came later are left alone
	Force   bool     `json:"force,omitempty"`   // looping ones, too
	Mapping string   `json:"mapping,omitempty"` // only those whose outcome this version of the mapping alters
	Edited  bool     `json:"edited,omitempty"`  // the one letter, with another record

	By      string    `json:"by"`
	Created time.Time `json:"created"`
	Rate    float64   `json:"rate,omitempty"` // records a minute; 0 is as fast as it goes
	State   string    `json:"state"`
	Why     string    `json:"why,omitempty"` // it is paused, or does not get on
	Ended   time.Time `json:"ended,omitzero"`

	Total     uint64 `json:"total"`     // letters selected when it began
	Published uint64 `json:"published"` // records, each once
	Looping   uint64 `json:"looping"`   // passed over because they came back too often
	Unaltered uint64 `json:"unaltered"` // passed over because the mapping alters nothing for them
	Gone      uint64 `json:"gone"`      // dropped or replayed by others meanwhile
	Failed    uint64 `json:"failed"`    // refused by the broker for good; still dead letters

	// Outcomes counts how the records ended that were published, by outcome; see Follow.
	Outcomes map[string]uint64 `json:"outcomes,omitempty"`
	Position uint64            `json:"position"` // of the last result that is in Outcomes

	Since    uint64    `json:"since"`              // position of the last result before it began
	Next     uint64    `json:"next"`               // sequence to go on from
	Ahead    []uint64  `json:"ahead,omitempty"`    // of those beyond it, what is published and counted already
	Removing []uint64  `json:"removing,omitempty"` // published, and perhaps still listed
	Runner   string    `json:"runner,omitempty"`   // the process that runs it …
	Held     time.Time `json:"held,omitzero"`      // … until then, unless it says more
}

// Looked is how many of the letters have been dealt with.
func (r *Replay) Looked() uint64 {
	return r.Published + r.Looping + r.Unaltered + r.Gone + r.Failed
}

// Settled is how many of the published records have come to an end.
func (r *Replay) Settled() (n uint64) {
	for _, count := range r.Outcomes {
		n += count
	}
	return n
}

// Interrupted tells whether it should run, and nobody runs it.
func (r *Replay) Interrupted(now time.Time) bool {
	return r.State == ReplayRunning && !now.Before(r.Held)
}

// Over tells whether nothing more will be published.
func (r *Replay) Over() bool { return r.State == ReplayCancelled || r.State == ReplayPublished }

// mostNamed is how many letters a replay can name one by one.
const mostNamed = 10_000

// Replays are the replays that the broker keeps.
type Replays struct {
	b       *Broker
	kv      *KV
	letters *DeadLetters
}

// Replays opens them.
func (b *Broker) Replays(ctx context.Context) (*Replays, error) {
	kv, err := b.KV(ctx, DeskBucket)
	if err != nil {
		return nil, err
	}
	return &Replays{b, kv, b.DeadLetters()}, nil
}

// Begin writes down a replay, of which Letters or Filter, Force, Mapping, By, Rate, and perhaps
// Name, Until and Total are set; Run does it. ErrConflict says that there is one of that name.
func (r *Replays) Begin(ctx context.Context, rep Replay) (Replay, error) {
	if err := r.complete(ctx, &rep); err != nil {
		return rep, fmt.Errorf("begin a replay: %w", err)
	}
	if _, err := r.read(ctx, rep.Name); err == nil {
		return rep, fmt.Errorf("begin replay %s: there is one of that name: %w", rep.Name, ErrConflict)
	}
	if err := r.b.Audit(ctx, rep.entry(rep.By, "begun")); err != nil {
		return rep, err
	}
	value, err := json.Marshal(rep)
	if err != nil {
		return rep, err
	}
	if _, err := r.kv.Update(ctx, rep.Name, value, 0); err != nil {
		return rep, fmt.Errorf("begin replay %s: %w", rep.Name, err)
	}
	return rep, r.tidy(ctx)
}

// keepReplays is how many replays are kept: they are read whenever somebody looks at the list. The
// audit has all of them.
const keepReplays = 200

// tidy removes the oldest replays that are over.
func (r *Replays) tidy(ctx context.Context) error {
	all, err := r.list(ctx)
	if err != nil || len(all) <= keepReplays {
		return err
	}
	for _, rep := range all[keepReplays:] {
		if !rep.Over() {
			continue
		}
		err := r.kv.forget(ctx, rep.Name)
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *Replays) complete(ctx context.Context, rep *Replay) (err error) {
	if err := rep.Filter.Check(); err != nil {
		return err
	}
	now, err := r.b.Now(ctx)
	if err != nil {
		return err
	}
	rep.Created, rep.State = now.UTC().Truncate(time.Millisecond), ReplayRunning
	if rep.Name == "" {
		rep.Name = "r" + rep.Created.Format("060102-150405-") + strings.ToLower(rand.Text()[:4])
	}
	slices.Sort(rep.Letters)
	rep.Letters = slices.Compact(rep.Letters)
	switch {
	case !plain(rep.Name):
		return fmt.Errorf("%w: the name %q is not made of 1 to 64 letters, digits, \"-\" and \"_\"", ErrFilter, rep.Name)
	case len(rep.Letters) > mostNamed:
		return fmt.Errorf("%w: a replay can name %d letters, not %d; use a filter", ErrFilter, mostNamed, len(rep.Letters))
	case rep.Rate < 0 || math.IsNaN(rep.Rate) || math.IsInf(rep.Rate, 0):
		return fmt.Errorf("%w: a pace of %v records a minute", ErrFilter, rep.Rate)
	}
	if n := len(rep.Letters); n > 0 {
		rep.Until, rep.Total = rep.Letters[n-1], uint64(n)
	}
	if rep.Until == 0 {
		if rep.Until, err = r.letters.Last(ctx); err != nil {
			return err
		}
	}
	if rep.Total == 0 && rep.Until > 0 {
		if rep.Total, err = r.letters.Count(ctx, rep.Filter, rep.Until); err != nil {
			return err
		}
	}
	rep.Since, err = r.b.ResultsEnd(ctx)
	rep.Position = rep.Since
	return err
}

// entry is what is written down about a replay.
func (r *Replay) entry(by, outcome string) AuditEntry {
	e := AuditEntry{By: by, Action: ActedReplay, About: r.Name, Outcome: outcome, Count: r.Total, Letters: r.Letters}
	if r.Edited {
		e.Action = ActedEdit
	}
	if outcome != "begun" {
		e.Count = r.Published
	}
	if len(r.Letters) == 0 {
		e.Filter = &r.Filter
	}
	if r.Mapping != "" {
		e.Detail = "those altered by mapping " + r.Mapping
	}
	return e
}

// Get returns a replay, or ErrNotFound.
func (r *Replays) Get(ctx context.Context, name string) (Replay, error) {
	rep, err := r.read(ctx, name)
	return rep.Replay, err
}

// A stored replay, with its revision.
type storedReplay struct {
	Replay
	revision uint64
}

func (r *Replays) read(ctx context.Context, name string) (rep storedReplay, err error) {
	if !plain(name) {
		return rep, fmt.Errorf("replay %q: %w", name, ErrNotFound)
	}
	e, err := r.kv.Get(ctx, name)
	if err != nil {
		return rep, fmt.Errorf("replay %s: %w", name, err)
	}
	if err := json.Unmarshal(e.Value, &rep.Replay); err != nil {
		return rep, fmt.Errorf("replay %s cannot be read: %w", name, err)
	}
	rep.revision = e.Revision
	return rep, nil
}

// List returns the replays, newest first; of more than limit the newest.
func (r *Replays) List(ctx context.Context, limit int) ([]Replay, error) {
	stored, err := r.list(ctx)
	if err != nil {
		return nil, err
	}
	all := make([]Replay, 0, len(stored))
	for _, rep := range stored[:min(len(stored), limit)] {
		all = append(all, rep.Replay)
	}
	return all, nil
}

func (r *Replays) list(ctx context.Context) ([]storedReplay, error) {
	keys, err := r.kv.Keys(ctx)
	if err != nil {
		return nil, err
	}
	all := make([]storedReplay, 0, len(keys))
	for _, name := range keys {
		if !plain(name) {
			continue // not a replay
		}
		rep, err := r.read(ctx, name)
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, rep)
	}
	slices.SortFunc(all, func(a, b storedReplay) int {
		return cmp.Or(b.Created.Compare(a.Created), strings.Compare(a.Name, b.Name))
	})
	return all, nil
}

// swapsOfReplay is how often a change is tried that others get in the way of.
const swapsOfReplay = 20

// change changes a replay by compare-and-swap; an error of do ends it.
func (r *Replays) change(ctx context.Context, name string, do func(*Replay) error) (Replay, error) {
	for n := 1; ; n++ {
		rep, err := r.read(ctx, name)
		if err != nil {
			return rep.Replay, err
		}
		if err := do(&rep.Replay); err != nil {
			return rep.Replay, err
		}
		value, err := json.Marshal(rep.Replay)
		if err != nil {
			return rep.Replay, err
		}
		if _, err = r.kv.Update(ctx, name, value, rep.revision); err == nil {
			return rep.Replay, nil
		}
		if !errors.Is(err, ErrConflict) || n == swapsOfReplay {
			return rep.Replay, fmt.Errorf("change replay %s: %w", name, err)
		}
		if err := pause(ctx); err != nil {
			return rep.Replay, err
		}
	}
}

// Pause holds a replay up until Resume. What is being published is finished.
func (r *Replays) Pause(ctx context.Context, name, by string) (Replay, error) {
	return r.steer(ctx, name, by, "paused", func(rep *Replay) error {
		rep.State, rep.Why = ReplayPaused, "paused by "+by
		return nil
	}, ReplayRunning)
}

// Resume lets a paused replay go on: somebody has to Run it.
func (r *Replays) Resume(ctx context.Context, name, by string) (Replay, error) {
	return r.steer(ctx, name, by, "resumed", func(rep *Replay) error {
		rep.State, rep.Why = ReplayRunning, ""
		return nil
	}, ReplayPaused)
}

// Cancel ends a replay. Letters that were not published stay where they are.
func (r *Replays) Cancel(ctx context.Context, name, by string) (Replay, error) {
	return r.steer(ctx, name, by, "cancelled", func(rep *Replay) error {
		rep.State, rep.Why, rep.Ended = ReplayCancelled, "cancelled by "+by, time.Now().UTC()
		return nil
	}, ReplayRunning, ReplayPaused)
}

// SetRate changes the pace, in records a minute; 0 is as fast as it goes.
func (r *Replays) SetRate(ctx context.Context, name, by string, rate float64) (Replay, error) {
	if rate < 0 || math.IsNaN(rate) || math.IsInf(rate, 0) {
		return Replay{}, fmt.Errorf("%w: a pace of %v records a minute", ErrFilter, rate)
	}
	return r.steer(ctx, name, by, "pace set to "+strconv.FormatFloat(rate, 'f', -1, 64)+" a minute", func(rep *Replay) error {
		rep.Rate = rate
		return nil
	}, ReplayRunning, ReplayPaused)
}

func (r *Replays) steer(ctx context.Context, name, by, outcome string, do func(*Replay) error, from ...string) (Replay, error) {
	rep, err := r.change(ctx, name, func(rep *Replay) error {
		if !slices.Contains(from, rep.State) {
			return fmt.Errorf("replay %s is %s: %w", name, rep.State, ErrReplayState)
		}
		return do(rep)
	})
	if err != nil {
		return rep, err
	}
	return rep, r.b.Audit(ctx, rep.entry(by, outcome))
}

// Edit publishes another record in place of a dead letter's, for the employee named, as a replay
// of its own. fields are the names of those that differ. The letter's place in the order stays, so
// that the record is superseded where the original would be.
func (r *Replays) Edit(ctx context.Context, seq uint64, data []byte, employee string, fields []string, by string) (Replay, error) {
	d, err := r.letters.Get(ctx, seq)
	if err != nil {
		return Replay{}, err
	}
	rep, err := r.Begin(ctx, Replay{Letters: []uint64{seq}, By: by, Edited: true})
	if err != nil {
		return rep, err
	}
	s, err := r.b.js.Stream(ctx, DeadStream)
	if err != nil {
		return rep, r.b.failed(ctx, "look at "+DeadStream, err)
	}
	if fields == nil {
		fields = []string{}
	}
	a := again{replay: rep.Name, by: by, at: rep.Created, since: rep.Since, data: data, edited: fields, employee: employee}
	err = r.publishOne(ctx, d, s.CachedInfo().Created.UnixNano(), a)
	if err != nil {
		_, ending := r.Cancel(ctx, rep.Name, by)
		return rep, errors.Join(fmt.Errorf("replay dead letter %d: %w", seq, err), ending)
	}
	rep, err = r.change(ctx, rep.Name, func(rep *Replay) error {
		rep.State, rep.Published, rep.Ended, rep.Removing = ReplayPublished, 1, time.Now().UTC(), []uint64{seq}
		return nil
	})
	if err == nil {
		err = r.letters.DropAll(ctx, rep.Removing)
	}
	if err != nil {
		return rep, fmt.Errorf("the edited record is published, but dead letter %d is listed still: %w", seq, err)
	}
	return rep, r.b.Audit(ctx, rep.entry(by, "published"))
}

// Follow brings the outcomes of a replay up to date with the results there are.
func (r *Replays) Follow(ctx context.Context, name string) (Replay, error) {
	rep, err := r.Get(ctx, name)
	if err != nil || rep.Over() && rep.Settled() >= rep.Published {
		return rep, err
	}
	end, err := r.b.ResultsEnd(ctx)
	if err != nil || end <= rep.Position {
		return rep, err
	}
	outcomes, err := r.b.outcomesOf(ctx, name, rep.Position+1, end)
	if err != nil {
		return rep, err
	}
	return r.change(ctx, name, func(now *Replay) error {
		if now.Position != rep.Position {
			return nil // somebody else has counted
		}
		now.Position = end
		for outcome, n := range outcomes {
			if now.Outcomes == nil {
				now.Outcomes = map[string]uint64{}
			}
			now.Outcomes[outcome] += n
		}
		return nil
	})
}

// outcomesOf counts the results of one replay between two positions, both included.
func (b *Broker) outcomesOf(ctx context.Context, name string, from, to uint64) (map[string]uint64, error) {
	counts := map[string]uint64{}
	for from <= to {
		found, _, err := b.scan(ctx, ResultsStream, ">", from, int(min(to-from+1, 500)))
		if err != nil {
			return nil, fmt.Errorf("read results: %w", err)
		}
		if len(found) == 0 {
			break
		}
		for _, m := range found {
			from = m.sequence + 1
			if m.sequence > to {
				break
			}
			var result Result
			if json.Unmarshal(m.data, &result) == nil && result.Replay == name {
				counts[result.Outcome]++
			}
		}
	}
	return counts, nil
}
