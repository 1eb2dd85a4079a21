package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"skillsync/genesys"
	"skillsync/queue"
	"skillsync/queue/ledger"
	"skillsync/worker/employee"
)

// settleWithin bounds the ledger write and the settlement together. What cannot be settled in it
// is delivered again when its lease lapses, and the ledger remembers how far it had come.
const settleWithin = 15 * time.Second

// settle carries out the verdict: the ledger first, the broker last.
func (w *Worker) settle(ctx context.Context, j *job, v verdict, err error) error {
	ctx, cancel := context.WithTimeout(ctx, settleWithin)
	defer cancel()
	switch v.action {
	case ack:
		return j.delivery.Ack(ctx, w.result(j, string(v.outcome)))
	case retry:
		if v.spends {
			j.note(w.try(j, err))
		}
		if lost := w.release(ctx, j, !v.spends); lost {
			return w.abandon(ctx, j)
		}
		return j.delivery.Retry(ctx, v.after)
	case abandon:
		return w.abandon(ctx, j)
	default:
		return w.bury(ctx, j, v, err)
	}
}

// release gives up the claim of a record without a result, so that whoever gets the employee next
// need not wait for it to lapse.
func (w *Worker) release(ctx context.Context, j *job, refund bool) (lost bool) {
	c := j.claimed()
	if c == nil {
		return false
	}
	err := c.Release(ctx, refund, j.patching)
	if err != nil && !errors.Is(err, ledger.ErrLost) {
		w.Log.Warn().Err(err).Str("key", j.key).Msg("claim not released; it will lapse")
	}
	return errors.Is(err, ledger.ErrLost)
}

// abandon leaves a record to whoever has it now. An acknowledgement or a nak of ours would end or
// repeat the work of that other worker. If a patch of ours may have crossed theirs, the state in
// the ledger is no longer to be relied on.
func (w *Worker) abandon(ctx context.Context, j *job) error {
	j.delivery.Abandon()
	if !j.patching {
		return nil
	}
	return w.Ledger.Disturb(ctx, j.key)
}

// bury marks the dead letter in the ledger before the copy is made: a worker that dies in between
// must not leave the record to end a second time, and otherwise.
func (w *Worker) bury(ctx context.Context, j *job, v verdict, err error) error {
	f := w.failure(j, v, err)
	if c := j.claimed(); c != nil {
		j.note(f.Tries[len(f.Tries)-1])
		if err := c.Dead(ctx, mark(f), j.patching); errors.Is(err, ledger.ErrLost) {
			return w.abandon(ctx, j)
		} else if err != nil {
			return errors.Join(err, j.delivery.Retry(ctx, brokerPause))
		}
	}
	if err := j.delivery.DeadLetter(ctx, f); err != nil {
		return fmt.Errorf("dead letter not stored, the record stays in the queue: %w", errors.Join(err, j.delivery.Retry(ctx, deadLetterPause)))
	}
	return nil
}

// mark is what the ledger remembers of a failure: all of it, unless that is too much. The tries are
// among the ledger's notes already.
func mark(f queue.Failure) json.RawMessage {
	f.Tries = nil
	if data, err := json.Marshal(f); err == nil && len(data) <= ledger.MaxFailure {
		return data
	}
	f.Expected, f.Actual = nil, nil // the copy among the dead letters has them
	return within(ledger.MaxFailure, &f, &f.Error)
}

// within is v as JSON of at most limit bytes, at the cost of text, which is part of v. Quotes and
// the like take more bytes in JSON than in the text.
func within(limit int, v any, text *string) json.RawMessage {
	data, _ := json.Marshal(v) // texts, times and numbers only: it cannot fail
	for len(data) > limit && len(*text) > len("…") {
		*text = cut(*text, max(0, len(*text)/2-len("…")))
		data, _ = json.Marshal(v)
	}
	return data
}

// note tells the next attempts of this one. Without a claim there is nothing to tell it by: what
// has failed then fails before any attempt.
func (j *job) note(t queue.Try) {
	if c := j.claimed(); c != nil {
		c.SetNote(within(ledger.MaxNote, &t, &t.Error))
	}
}

// tries reads what was noted, but for what another release may have noted otherwise.
func tries(notes []json.RawMessage) (out []queue.Try) {
	for _, note := range notes {
		var t queue.Try
		if json.Unmarshal(note, &t) == nil && t.Number > 0 {
			out = append(out, t)
		}
	}
	return out
}

// try is this attempt, which has failed with err.
func (w *Worker) try(j *job, err error) queue.Try {
	t := queue.Try{
		Number:        max(j.attempt(), 1),
		At:            time.Now().UTC().Truncate(time.Millisecond),
		CorrelationID: j.correlation,
		Error:         cut(explain(j.rec, err), 200),
		Worker:        w.Name,
	}
	if api := (*genesys.Error)(nil); errors.As(err, &api) {
		t.Status, t.CorrelationID = api.Status, api.CorrelationID
	}
	return t
}

// deadLetterPause is the wait before a dead letter that could not be stored is tried again: the
// stream is full or down, and somebody has to look.
const deadLetterPause = 30 * time.Second

func (w *Worker) result(j *job, outcome string) queue.Result {
	return queue.Result{
		EmployeeID:     j.rec.ID,
		Outcome:        outcome,
		Attempt:        j.attempt(),
		CorrelationID:  j.correlation,
		MappingVersion: w.Provisioner.Mapping.Version(),
		Seconds:        time.Since(j.delivery.Published).Seconds(),
	}
}

// failure gathers what a person will want to know of the dead letter.
func (w *Worker) failure(j *job, v verdict, err error) queue.Failure {
	if given := (*ledger.DeadError)(nil); errors.As(err, &given) {
		return givenUp(given)
	}
	now, this := time.Now().UTC(), w.try(j, err)
	f := queue.Failure{
		EmployeeID:     j.rec.ID,
		Reason:         string(v.reason),
		Class:          string(v.class),
		Error:          cut(explain(j.rec, err), 1<<10),
		Status:         this.Status,
		CorrelationID:  this.CorrelationID,
		TraceID:        j.traceID(),
		Attempts:       this.Number,
		First:          now,
		Last:           now,
		MappingVersion: w.Provisioner.Mapping.Version(),
		Version:        j.version.String(),
		Seconds:        time.Since(j.delivery.Published).Seconds(),
		Worker:         w.Name,
		App:            w.App,
	}
	if c := j.claimed(); c != nil {
		f.Tries = tries(c.Notes)
		if !c.First.IsZero() {
			f.First = c.First
		}
	}
	f.Tries = append(f.Tries, this)
	if j.digest != "" { // the mapping has an answer; another version of it may have the same
		f.Desired = j.want.Digest("", "")
	}
	if stuck := (*MismatchError)(nil); errors.As(err, &stuck) {
		f.Expected, f.Actual = Levels(stuck.Want), Levels(stuck.Have)
	}
	return f
}

// Levels is a set of skills as JSON, for a person and for a replay that wants to compare.
func Levels(skills []genesys.Skill) json.RawMessage {
	type level struct {
		Name        string  `json:"name"`
		Proficiency float64 `json:"proficiency"`
		Level       string  `json:"level,omitempty"`
	}
	out := make([]level, len(skills))
	for i, s := range skills {
		out[i] = level(s)
	}
	data, err := json.Marshal(out)
	if err != nil {
		return nil // a proficiency that is no number; the error's text has it
	}
	return data
}

// explain is the error's text without the record's values: Genesys Cloud repeats what it refuses.
// Skill names are no secret, though a department may be called like one.
func explain(rec employee.Record, err error) string {
	if err == nil {
		return ""
	}
	if stuck := (*MismatchError)(nil); errors.As(err, &stuck) {
		return err.Error()
	}
	if unknown := (*genesys.UnknownSkillError)(nil); errors.As(err, &unknown) {
		said := *unknown
		if said.Err != nil {
			said.Err = errors.New(scrub(said.Err.Error(), rec))
		}
		return said.Error()
	}
	return scrub(err.Error(), rec)
}

// cut keeps the first n bytes of a text, give or take a character.
func cut(text string, n int) string {
	if len(text) <= n {
		return text
	}
	return strings.ToValidUTF8(text[:n], "") + "…"
}

var address = regexp.MustCompile(`[^\s"'<>@]+@[^\s"'<>@]+`)

// scrub replaces every value of the record that occurs in text by the field's name, and whatever
// looks like a mail address. The employee id stays: it is the one identifier that is shown.
func scrub(text string, rec employee.Record) string {
	type value struct{ field, text string }
	var values []value
	for field, v := range rec.Fields {
		if s, ok := v.(string); ok && len(s) >= 3 && s != rec.ID && s != rec.UserID {
			values = append(values, value{field, s})
		}
	}
	// Longest first: one value may contain another.
	slices.SortFunc(values, func(a, b value) int {
		if d := len(b.text) - len(a.text); d != 0 {
			return d
		}
		return strings.Compare(a.field, b.field)
	})
	for _, v := range values {
		text = strings.ReplaceAll(text, v.text, "‹"+v.field+"›")
	}
	return address.ReplaceAllString(text, "‹address›")
}

// report writes the one log event of a delivery, and counts it.
func (w *Worker) report(j *job, v verdict, err, settleErr error) {
	took := time.Since(j.started)
	w.Metrics.settled(v, j.attempt(), took, err, settleErr)
	e := w.level(v, settleErr).
		Uint64("sequence", j.delivery.Sequence).
		Str("key", j.key).
		Stringer("version", j.version).
		Int("attempt", j.attempt()).
		Int("delivery", j.delivery.Delivered).
		Str("verdict", v.String()).
		Float64("seconds", took.Seconds())
	if j.correlation != "" {
		e = e.Str("correlation_id", j.correlation)
	}
	if v.action == retry {
		e = e.Float64("after_seconds", v.after.Seconds())
	}
	if err != nil && v.action != ack {
		e = e.Str("error", explain(j.rec, err))
	}
	if bug := (*panicError)(nil); errors.As(err, &bug) {
		e = e.Bytes("stack", bug.stack)
	}
	if settleErr != nil {
		e = e.AnErr("settle_error", settleErr)
	}
	if id := j.traceID(); id != "" {
		e = e.Str("trace_id", id)
	}
	if j.span != nil {
		j.span.End(v.String(), j.attempt(), v.failure(err, settleErr))
	}
	e.Msg("record")
}

// failure is what a trace tells of an attempt that went wrong.
func (v verdict) failure(err, settleErr error) string {
	switch {
	case settleErr != nil:
		return "not_settled"
	case v.action == deadLetter:
		return string(v.reason)
	case v.spends:
		return retryClass(err)
	}
	return ""
}

func (w *Worker) level(v verdict, settleErr error) *zerolog.Event {
	switch {
	case settleErr != nil, v.action == deadLetter:
		return w.Log.Error()
	case v.spends:
		return w.Log.Warn()
	}
	return w.Log.Info()
}

// String names the verdict for logs and metrics.
func (v verdict) String() string {
	switch v.action {
	case ack:
		return string(v.outcome)
	case retry:
		if v.spends {
			return "retry"
		}
		return "give_back"
	case abandon:
		return "abandon"
	}
	return "dead_letter:" + string(v.reason)
}
