// Package desk is what operators see and do, whoever asks for it: the command line or the page.
//
// It knows how dead letters are looked at, mended, replayed, taken out and dropped, and sees that
// each of these is written down. It must not know NATS or Genesys Cloud, nor what is in a record:
// that it asks Rules and Org.
package desk

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"skillsync/queue"
)

// A Desk is what an operator works at. Broker, Letters, Replays and Rules must be set.
type Desk struct {
	Broker  *queue.Broker
	Letters *queue.DeadLetters
	Replays *queue.Replays
	Rules   Rules
	// Org is Genesys Cloud, to read only. nil: no dry runs.
	Org Org
}

// Open opens the desk of a broker. Rules and Org are the caller's to set.
func Open(ctx context.Context, b *queue.Broker) (*Desk, error) {
	replays, err := b.Replays(ctx)
	if err != nil {
		return nil, err
	}
	return &Desk{Broker: b, Letters: b.DeadLetters(), Replays: replays}, nil
}

// Rules are the mapping, and what a record has to look like.
type Rules interface {
	// Read tells whose record it is and how new it says it is; or why it is no record.
	Read(data []byte) (employee, version string, err error)
	// Map tells whether the mapping has an answer for a record.
	Map(data []byte) error
	// Alters tells whether the mapping gives a letter another outcome than it had.
	Alters(d *queue.DeadLetter) bool
	// Version is the mapping's.
	Version() string
}

// An Org tells what would become of records, by reading only.
type Org interface {
	// Prospects returns one for each letter, in their order. Each request pays from the budget that
	// the workers have.
	Prospects(ctx context.Context, letters []queue.DeadLetter) ([]Prospect, error)
}

// Verdicts of a dry run.
const (
	WouldChange = "would_change"
	NothingToDo = "nothing_to_do"
	Superseded  = "superseded"
	StillFails  = "still_fails"
)

// A Prospect is what would become of a dead letter if it were replayed now.
type Prospect struct {
	Letter     uint64          `json:"letter"`
	Employee   string          `json:"employee,omitempty"`
	Verdict    string          `json:"verdict"`
	Reason     string          `json:"reason,omitempty"` // that it would be a dead letter for again
	Why        string          `json:"why,omitempty"`
	UserID     string          `json:"user_id,omitempty"`
	Before     json.RawMessage `json:"before,omitempty"` // skills
	After      json.RawMessage `json:"after,omitempty"`
	Attributes []string        `json:"attributes,omitempty"` // that would be written, where they cannot be compared
	Requests   float64         `json:"requests"`             // that the replay would spend
}

// Diff is what would change, a skill a line.
func (p Prospect) Diff() []Skill { return Compare(p.After, p.Before) }

// ErrNoOrg says that nobody told the desk which Genesys Cloud org to ask.
var ErrNoOrg = errors.New("no Genesys Cloud org to ask: set GENESYS_CLIENT_ID and GENESYS_CLIENT_SECRET")

// A DryRun is what a replay would come to.
type DryRun struct {
	Prospects []Prospect     `json:"prospects"`
	Verdicts  map[string]int `json:"verdicts"`
	Requests  float64        `json:"requests"`
}

// DryRun asks the org what would become of letters, and changes nothing.
func (d *Desk) DryRun(ctx context.Context, letters []queue.DeadLetter) (DryRun, error) {
	run := DryRun{Verdicts: map[string]int{}}
	if d.Org == nil {
		return run, ErrNoOrg
	}
	var err error
	if run.Prospects, err = d.Org.Prospects(ctx, letters); err != nil {
		return run, fmt.Errorf("dry run: %w", err)
	}
	for _, p := range run.Prospects {
		run.Verdicts[p.Verdict]++
		run.Requests += p.Requests
	}
	return run, nil
}

// A Selection is the letters that something is done to: those named, or all that a filter selects.
type Selection struct {
	Letters []uint64
	Filter  queue.Filter
	Until   uint64 // of a filter's: those up to this sequence, so that what was counted is what is meant
}

// named are the letters named, oldest first and each once.
func (s Selection) named() []uint64 { return slices.Compact(slices.Sorted(slices.Values(s.Letters))) }

// Count counts a selection made by filter up to the letter that is the newest now, and sets Until.
func (d *Desk) Count(ctx context.Context, s *Selection) (uint64, error) {
	if len(s.Letters) > 0 {
		return uint64(len(s.named())), nil
	}
	if s.Until != 0 {
		return d.Letters.Count(ctx, s.Filter, s.Until)
	}
	last, err := d.Letters.Last(ctx)
	if err != nil {
		return 0, err
	}
	s.Until = last
	return d.Letters.Count(ctx, s.Filter, 0)
}

// Select calls do with every letter selected; those that are gone it passes over.
func (d *Desk) Select(ctx context.Context, s Selection, do func(queue.DeadLetter) error) error {
	if len(s.Letters) == 0 {
		return d.Letters.Each(ctx, s.Filter, 0, s.Until, do)
	}
	for _, seq := range s.named() {
		letter, err := d.Letters.Get(ctx, seq)
		if errors.Is(err, queue.ErrNotFound) {
			continue
		}
		if err == nil {
			err = do(letter)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// entry is what is written down of something done to a selection.
func (s Selection) entry(by, action, outcome string, count uint64) queue.AuditEntry {
	e := queue.AuditEntry{By: by, Action: action, Outcome: outcome, Count: count, Letters: s.Letters}
	switch len(s.Letters) {
	case 0:
		e.Filter = &s.Filter
	case 1:
		e.About = strconv.FormatUint(s.Letters[0], 10)
	}
	return e
}

// audited writes down that something begins, does it, and writes down how it ended. Nothing is done
// that could not be written down.
func (d *Desk) audited(ctx context.Context, e queue.AuditEntry, do func() (uint64, error)) error {
	e.Outcome = "begun"
	if err := d.Broker.Audit(ctx, e); err != nil {
		return err
	}
	count, err := do()
	e.Outcome, e.Count = "done", count
	if err != nil {
		e.Outcome = "failed: " + err.Error()
	}
	return errors.Join(err, d.Broker.Audit(context.WithoutCancel(ctx), e))
}

// dropAtOnce is how many letters are removed side by side.
const dropAtOnce = 256

// ErrCount says that there are not as many letters as somebody was told when asked.
var ErrCount = errors.New("the number of dead letters has changed")

// Drop removes the letters selected for good, if there are just as many as expected; told is called
// with how many are gone. It returns that number.
func (d *Desk) Drop(ctx context.Context, by string, s Selection, expected uint64, told func(uint64)) (dropped uint64, err error) {
	now, err := d.Count(ctx, &s)
	if err != nil {
		return 0, err
	}
	if now != expected {
		return 0, fmt.Errorf("drop: %w: %d, not %d; nothing was done", ErrCount, now, expected)
	}
	if now == 0 { // Until may be 0, too, and would let in what comes from here on
		return 0, nil
	}
	err = d.audited(ctx, s.entry(by, queue.ActedDrop, "", expected), func() (uint64, error) {
		var batch []uint64
		flush := func() error {
			if err := d.Letters.DropAll(ctx, batch); err != nil {
				return err
			}
			dropped += uint64(len(batch))
			told(dropped)
			batch = batch[:0]
			return nil
		}
		err := d.Select(ctx, s, func(letter queue.DeadLetter) error {
			if batch = append(batch, letter.Sequence); len(batch) < dropAtOnce {
				return nil
			}
			return flush()
		})
		if err == nil {
			err = flush()
		}
		return dropped, err
	})
	return dropped, err
}

// Reveal returns a letter with its record's values, which are personal data, and writes down that
// somebody has seen them.
func (d *Desk) Reveal(ctx context.Context, by string, seq uint64) (queue.DeadLetter, error) {
	letter, err := d.Letters.Get(ctx, seq)
	if err != nil {
		return letter, err
	}
	err = d.Broker.Audit(ctx, Selection{Letters: []uint64{seq}}.entry(by, queue.ActedReveal, "done", 1))
	if err != nil {
		return queue.DeadLetter{}, err
	}
	return letter, nil
}

// An EditError says what is wrong with an edited record.
type EditError struct{ Problem string }

func (e *EditError) Error() string { return e.Problem }

// A Draft is an edited record that may be sent.
type Draft struct {
	Employee string
	Fields   []string // that differ from the original
}

// Check tells whether data may be sent in place of the letter's record: it has to be a record that
// the mapping has an answer for, and no newer than the original says it is. The error is an
// *EditError, without personal data.
func (d *Desk) Check(letter queue.DeadLetter, data []byte) (Draft, error) {
	employee, version, err := d.Rules.Read(data)
	if err != nil {
		return Draft{}, &EditError{err.Error()}
	}
	if err := d.Rules.Map(data); err != nil {
		return Draft{}, &EditError{"the mapping has no answer for it: " + err.Error()}
	}
	if _, was, err := d.Rules.Read(letter.Data); err == nil && was != version {
		return Draft{}, &EditError{"version and updated_at say how new a record is, and have to stay as they are: a mended record must not win over a newer one"}
	}
	fields := changed(letter.Data, data)
	if len(fields) == 0 {
		return Draft{}, &EditError{"nothing was changed"}
	}
	return Draft{Employee: employee, Fields: fields}, nil
}

// changed names the fields that two records do not have in common.
func changed(was, is []byte) (names []string) {
	before, after := fields(was), fields(is)
	for name, value := range after {
		if old, there := before[name]; !there || !reflect.DeepEqual(old, value) {
			names = append(names, name)
		}
	}
	for name := range before {
		if _, stays := after[name]; !stays {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// fields reads a record, however its values are written and with or without the mark that some
// exports begin with; what is no record has no fields.
func fields(data []byte) (all map[string]any) {
	dec := json.NewDecoder(bytes.NewReader(bytes.TrimPrefix(data, []byte("\ufeff"))))
	dec.UseNumber()
	if dec.Decode(&all) != nil {
		return nil
	}
	return all
}

// Edit sends data in place of a letter's record, if Check lets it.
func (d *Desk) Edit(ctx context.Context, by string, seq uint64, data []byte) (queue.Replay, error) {
	letter, err := d.Letters.Get(ctx, seq)
	if err != nil {
		return queue.Replay{}, err
	}
	draft, err := d.Check(letter, data)
	if err != nil {
		return queue.Replay{}, err
	}
	return d.Replays.Edit(ctx, seq, data, draft.Employee, draft.Fields, by)
}

// Runner runs replays on behalf of this desk.
func (d *Desk) Runner(progress func(queue.Replay)) queue.Runner {
	return queue.Runner{Alters: d.Rules.Alters, Mapping: d.Rules.Version(), Progress: progress}
}

// An Estimate is what a replay will take.
type Estimate struct {
	Letters  uint64  `json:"letters"`
	Requests float64 `json:"requests"` // if every record changes something
	// PerMinute is how many records a minute will be done: as the budget and the replay's own pace
	// allow. 0 is as fast as it goes.
	PerMinute float64       `json:"records_per_minute"`
	Takes     time.Duration `json:"-"` // beside what waits in the queue already
	Seconds   float64       `json:"seconds"`
}

// Estimate reckons what a replay of that many letters takes at a pace, in records a minute.
func (d *Desk) Estimate(ctx context.Context, letters uint64, pace float64) (Estimate, error) {
	e := Estimate{Letters: letters, Requests: float64(letters) * PerChanged, PerMinute: pace}
	over, err := Look(ctx, d.Broker)
	if err != nil {
		return e, err
	}
	if allowed := Busiest(over.Budgets).Allowed / PerChanged; allowed > 0 && (pace == 0 || allowed < pace) {
		e.PerMinute = allowed
	}
	if e.PerMinute > 0 {
		e.Takes = time.Duration(float64(letters) / e.PerMinute * float64(time.Minute))
	}
	e.Seconds = e.Takes.Seconds()
	return e, nil
}

// String says it in a line.
func (e Estimate) String() string {
	text := HowMany(e.Letters, "record") + ", up to " + HowMany(uint64(math.Round(e.Requests)), "request")
	if e.PerMinute == 0 {
		return text + ", as fast as the workers go"
	}
	return text + fmt.Sprintf(", about %s at %.0f records a minute", InWords(e.Takes), e.PerMinute)
}

// Progress says in a line how far a replay has come.
func Progress(r queue.Replay) string {
	parts := []string{fmt.Sprintf("%d of %d published", r.Published, r.Total)}
	for _, p := range []struct {
		n    uint64
		what string
	}{
		{r.Looping, "passed over (looping)"},
		{r.Unaltered, "passed over (the mapping alters nothing)"},
		{r.Gone, "gone meanwhile"},
		{r.Failed, "refused by the broker"},
	} {
		if p.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", p.n, p.what))
		}
	}
	for _, outcome := range queue.Outcomes {
		if n := r.Outcomes[outcome]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, strings.ReplaceAll(outcome, "dead_letter", "dead letters again")))
		}
	}
	return strings.Join(parts, ", ")
}

// Left is how much longer a replay publishes, at the speed that it had so far; false if that cannot
// be told.
func Left(r queue.Replay, now time.Time) (time.Duration, bool) {
	looked, span := r.Looked(), now.Sub(r.Created)
	if r.State != queue.ReplayRunning || looked == 0 || looked >= r.Total || span <= 0 {
		return 0, false
	}
	return time.Duration(float64(span) * float64(r.Total-looked) / float64(looked)), true
}

// State is a replay's, in a word.
func State(r queue.Replay, now time.Time) string {
	switch {
	case r.Interrupted(now):
		return "interrupted"
	case r.State == queue.ReplayPublished && r.Published > 0 && r.Settled() >= r.Published:
		return "done"
	}
	return r.State
}

// Which says which letters a replay is of.
func Which(r queue.Replay) string {
	text := r.Filter.String()
	switch n := len(r.Letters); {
	case r.Edited:
		text = fmt.Sprintf("letter %d, edited", r.Letters[0])
	case n == 1:
		text = fmt.Sprintf("letter %d", r.Letters[0])
	case n > 1:
		text = fmt.Sprintf("%d letters", n)
	}
	if r.Mapping != "" {
		text += ", altered by mapping " + r.Mapping
	}
	if r.Force {
		text += ", looping ones too"
	}
	return text
}

// Pace is a pace in words, from records a minute.
func Pace(rate float64) string {
	if rate < 1 {
		return fmt.Sprintf("%.4g records an hour", rate*60)
	}
	return fmt.Sprintf("%.4g records a minute", rate)
}
