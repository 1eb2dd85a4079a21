package queue

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"
)

// A Runner is the process that does a replay.
type Runner struct {
	// Alters tells whether the present mapping gives a letter another outcome than it had, and
	// Mapping is that mapping's version. They are needed only for a replay of what a mapping alters.
	Alters  func(*DeadLetter) bool
	Mapping string
	// Progress is told of the replay as it was written down last. nil ok
	Progress func(Replay)
	// Step is called before each thing that is done: "publish", "write", "remove". Tests die there.
	// nil ok
	Step func(string)
}

const (
	replayBatch = 256              // records that are published together
	replaySpan  = time.Second      // the longest time that a batch is collected at a pace
	replayHold  = 15 * time.Second // how long a replay is its runner's without a word from it
	replayWait  = 2 * time.Second  // before a record that could not be published is tried again
)

// errNotRunning ends a run because somebody has paused or cancelled the replay.
var errNotRunning = errors.New("the replay is not to run")

// Run does a replay until everything is published, somebody pauses or cancels it, or ctx ends; of
// these only the last is an error. What went wrong is tried again for as long as it may pass. A run
// that was interrupted anywhere, also by a crash, is continued by the next one: no record is lost
// and none is published twice. ErrReplayTaken says that somebody else runs it.
func (r *Replays) Run(ctx context.Context, name string, runner Runner) (Replay, error) {
	run, err := r.take(ctx, name, runner)
	if err != nil {
		return Replay{}, err
	}
	err = run.all(ctx)
	if errors.Is(err, errNotRunning) {
		err = nil
	}
	return run.end(ctx, err)
}

// A run is one process's doing of a replay.
type run struct {
	*Replays
	Runner
	id      string
	created int64 // of the stream of dead letters, Unix nanoseconds
	offset  time.Duration
	doubt   bool // the last runner died too long ago for the broker to know what it published last

	at    Replay // as it was written last
	wrote time.Time
	looks time.Time // when it was looked at last

	batch  []waiting
	began  time.Time // of the batch
	passed []passed  // since the replay was written last
	upTo   uint64    // every letter up to this sequence is in batch or passed
	pace   pacer
}

// A waiting letter is one that is to be published.
type waiting struct {
	DeadLetter
	read time.Time
}

// A passed letter needs nothing more, but for its place in the counts.
type passed struct {
	seq   uint64
	count func(*Replay) *uint64
}

func published(r *Replay) *uint64 { return &r.Published }
func looping(r *Replay) *uint64   { return &r.Looping }
func unaltered(r *Replay) *uint64 { return &r.Unaltered }
func gone(r *Replay) *uint64      { return &r.Gone }
func refused(r *Replay) *uint64   { return &r.Failed }

func (x *run) pass(seq uint64, count func(*Replay) *uint64) {
	x.passed = append(x.passed, passed{seq, count})
}

func (r *Replays) take(ctx context.Context, name string, runner Runner) (*run, error) {
	x := &run{Replays: r, Runner: runner, id: rand.Text()}
	if x.Step == nil {
		x.Step = func(string) {}
	}
	var err error
	if x.offset, err = r.b.Offset(ctx); err != nil {
		return nil, err
	}
	err = r.b.again(ctx, "look at "+DeadStream, func(ctx context.Context, _ *connection) error {
		s, err := r.b.js.Stream(ctx, DeadStream)
		if err == nil {
			x.created = s.CachedInfo().Created.UnixNano()
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	x.at, err = r.change(ctx, name, func(rep *Replay) error {
		switch {
		case rep.State != ReplayRunning:
			return fmt.Errorf("replay %s is %s: %w", name, rep.State, ErrReplayState)
		case rep.Runner != "" && x.now().Before(rep.Held):
			return fmt.Errorf("replay %s: %w", name, ErrReplayTaken)
		case rep.Edited:
			return fmt.Errorf("replay %s is of an edited record, which only its editor had; open the letter again: %w", name, ErrReplayState)
		case rep.Mapping != "" && rep.Mapping != runner.Mapping:
			return fmt.Errorf("replay %s is of what mapping %s alters, and the mapping here is %s: %w", name, rep.Mapping, runner.Mapping, ErrReplayState)
		}
		x.doubt = rep.Runner != "" && x.now().Sub(rep.Held) > window/2
		rep.Runner, rep.Held = x.id, x.now().Add(replayHold)
		return nil
	})
	x.wrote, x.looks = time.Now(), time.Now()
	x.pace.set(x.at.Rate)
	return x, err
}

func (x *run) now() time.Time { return time.Now().Add(x.offset).UTC() }

func (x *run) all(ctx context.Context) error {
	if err := x.remove(ctx); err != nil { // what the last runner left
		return err
	}
	if err := x.each(ctx); err != nil {
		return err
	}
	if err := x.flush(ctx); err != nil {
		return err
	}
	return x.write(ctx, step{next: x.at.Until + 1, over: true})
}

// each takes every letter that is left.
func (x *run) each(ctx context.Context) error {
	if len(x.at.Letters) == 0 {
		return x.letters.Each(ctx, x.at.Filter, x.at.Next, x.at.Until, func(d DeadLetter) error { return x.letter(ctx, d) })
	}
	for _, seq := range x.at.Letters {
		if seq < x.at.Next || slices.Contains(x.at.Ahead, seq) {
			continue
		}
		d, err := x.letters.Get(ctx, seq)
		if errors.Is(err, ErrNotFound) {
			x.pass(seq, gone)
			x.upTo = seq
			continue
		}
		if err == nil {
			err = x.letter(ctx, d)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// letter puts one into the batch, unless it is passed over, and publishes the batch when it is
// full or has taken long enough.
func (x *run) letter(ctx context.Context, d DeadLetter) error {
	switch {
	case x.at.Mapping != "" && !x.Alters(&d):
		x.pass(d.Sequence, unaltered)
	case d.Looping() && !x.at.Force && len(x.at.Letters) != 1:
		x.pass(d.Sequence, looping)
	default:
		read := time.Now()
		if err := x.wait(ctx); err != nil {
			return err
		}
		if len(x.batch) == 0 {
			x.began = time.Now()
		}
		x.batch = append(x.batch, waiting{d, read})
	}
	x.upTo = d.Sequence
	if len(x.batch) == replayBatch || len(x.batch) > 0 && x.at.Rate > 0 && time.Since(x.began) >= replaySpan {
		return x.flush(ctx)
	}
	return x.attend(ctx)
}

// wait keeps the pace.
func (x *run) wait(ctx context.Context) error {
	for {
		left := x.pace.next(time.Now())
		if left <= 0 {
			return nil
		}
		if len(x.batch) > 0 && time.Since(x.began)+left >= replaySpan {
			if err := x.flush(ctx); err != nil {
				return err
			}
		}
		if err := x.idle(ctx, min(left, replaySpan)); err != nil {
			return err
		}
	}
}

// idle waits, and attends to the replay.
func (x *run) idle(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return x.attend(ctx)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// attend sees whether the replay is still to run, and keeps it this runner's.
func (x *run) attend(ctx context.Context) error {
	if time.Since(x.looks) < time.Second {
		return context.Cause(ctx)
	}
	x.looks = time.Now()
	now, err := x.Get(ctx, x.at.Name)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return context.Cause(ctx) // the broker is away: so are those who would pause it
	}
	switch {
	case err != nil:
		return err
	case now.State != ReplayRunning:
		return errNotRunning
	case now.Runner != x.id:
		return fmt.Errorf("replay %s: %w", x.at.Name, ErrReplayTaken)
	}
	x.pace.set(now.Rate)
	x.at.Rate = now.Rate
	if time.Since(x.wrote) < replayHold/3 {
		return nil
	}
	next := x.at.Next
	if len(x.batch) == 0 {
		next = x.upTo + 1
	}
	return x.write(ctx, step{next: next})
}

// flush publishes the batch, writes down what became of it, and removes its letters. What fails for
// now is tried again until ctx ends or somebody ends the replay.
func (x *run) flush(ctx context.Context) error {
	for len(x.batch) > 0 {
		done, left, why := x.publish(ctx)
		x.batch = left
		next := x.upTo + 1
		if len(left) > 0 {
			next = left[0].Sequence
		}
		if err := x.write(ctx, step{done: done, next: next, why: why}); err != nil {
			return err
		}
		if err := x.remove(ctx); err != nil {
			return err
		}
		if why != nil && !passing(why) {
			return why
		}
		if len(left) > 0 {
			if err := x.idle(ctx, replayWait); err != nil {
				return err
			}
		}
	}
	return nil
}

// passing tells whether an error of the broker may pass by itself.
func passing(err error) bool {
	return (errors.Is(err, ErrUnreachable) || errors.Is(err, ErrFull)) && !errors.Is(err, ErrForbidden)
}

// publish publishes the batch. It returns the letters whose records are in the queue, and those
// that could not be published for now, with the reason.
func (x *run) publish(ctx context.Context) (done []uint64, left []waiting, why error) {
	x.Step("publish")
	// What is on its way is finished: a signal must not leave it in doubt.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), answerWait)
	defer cancel()
	ends := make([]error, len(x.batch))
	var all sync.WaitGroup
	for i := range x.batch {
		all.Go(func() { ends[i] = x.one(ctx, &x.batch[i]) })
	}
	all.Wait()
	for i, err := range ends {
		d := &x.batch[i]
		switch {
		case err == nil:
			x.pass(d.Sequence, published)
			done = append(done, d.Sequence)
		case errors.Is(err, ErrReplayedMeanwhile): // and is about to be removed by whoever did
			x.pass(d.Sequence, gone)
			done = append(done, d.Sequence)
		case errors.Is(err, ErrNotFound):
			x.pass(d.Sequence, gone)
		case errors.Is(err, ErrTooLarge):
			x.pass(d.Sequence, refused)
		default:
			left, why = append(left, *d), err
		}
	}
	x.doubt = false
	return done, left, why
}

// one publishes one record, if its letter is still there and nobody else has published it.
func (x *run) one(ctx context.Context, d *waiting) error {
	if time.Since(d.read) > time.Second {
		if _, err := x.letters.Get(ctx, d.Sequence); err != nil {
			return err
		}
	}
	if x.doubt {
		if mine, err := x.sentBefore(ctx, d.DeadLetter); mine || err != nil {
			return err
		}
	}
	return x.publishOne(ctx, d.DeadLetter, x.created, again{replay: x.at.Name, by: x.at.By, at: x.now(), since: x.at.Since})
}

// publishOne publishes the record of a letter. Of two replays of one letter the broker takes the
// first; the other one is told ErrReplayedMeanwhile.
func (r *Replays) publishOne(ctx context.Context, d DeadLetter, created int64, a again) error {
	msg := d.publishAgain(created, a)
	ack, err := r.b.store(ctx, msg)
	if err != nil || !ack.Duplicate {
		return err
	}
	m, err := r.b.at(ctx, Stream, ack.Sequence)
	if err == nil {
		if first(m.header, HeaderReplay) == a.replay {
			return nil // ours, whose acknowledgement was lost
		}
		return ErrReplayedMeanwhile
	}
	if !errors.Is(err, ErrNotFound) {
		return err
	}
	employee := d.EmployeeID
	if a.edited != nil {
		employee = a.employee
	}
	mine, err := r.b.hasResult(ctx, employee, a.since, func(result Result) bool {
		return result.Replay == a.replay && result.Sequence == ack.Sequence
	})
	if err == nil && !mine {
		err = ErrReplayedMeanwhile
	}
	return err
}

// sentBefore tells whether the record of a letter was published by this replay in a run that ended
// so long ago that the broker would not know: it waits in the queue then, or has a result.
func (x *run) sentBefore(ctx context.Context, d DeadLetter) (bool, error) {
	waits, _, err := x.b.scan(ctx, Stream, d.Subject, 1, 1000)
	if err != nil {
		return false, err
	}
	for _, m := range waits {
		if first(m.header, HeaderReplay) == x.at.Name && first(m.header, HeaderLetter) == strconv.FormatUint(d.Sequence, 10) {
			return true, nil
		}
	}
	return x.b.hasResult(ctx, d.EmployeeID, x.at.Since, func(result Result) bool {
		return result.Replay == x.at.Name && result.Letter == d.Sequence
	})
}

// hasResult looks for a result of an employee after a position.
func (b *Broker) hasResult(ctx context.Context, employee string, after uint64, is func(Result) bool) (bool, error) {
	for from := after + 1; ; {
		found, rest, err := b.scan(ctx, ResultsStream, ResultsSubject+".*."+Key(employee), from, 500)
		if err != nil {
			return false, err
		}
		for _, m := range found {
			from = m.sequence + 1
			var result Result
			if json.Unmarshal(m.data, &result) == nil && is(result) {
				return true, nil
			}
		}
		if rest == 0 {
			return false, nil
		}
	}
}

// A step is how far a replay has come.
type step struct {
	done []uint64 // letters to remove now: their records are in the queue
	next uint64   // sequence to go on from
	why  error    // it does not get on
	over bool     // everything is published
}

// write writes down what became of letters, and which of them have to be removed. It goes on trying
// while the broker is away, since what was published has to be counted.
func (x *run) write(ctx context.Context, to step) error {
	x.Step("write")
	for {
		at, err := x.change(context.WithoutCancel(ctx), x.at.Name, func(rep *Replay) error {
			if rep.Runner != x.id {
				return fmt.Errorf("replay %s: %w", x.at.Name, ErrReplayTaken)
			}
			x.apply(rep, to)
			return nil
		})
		if err == nil {
			x.at, x.wrote = at, time.Now()
			x.passed = slices.DeleteFunc(x.passed, x.counted)
			if x.Progress != nil {
				x.Progress(at)
			}
			return nil
		}
		if !passing(err) && !errors.Is(err, ErrConflict) || ctx.Err() != nil {
			return err
		}
		if err := pause(ctx); err != nil {
			return err
		}
	}
}

func (x *run) apply(rep *Replay, to step) {
	rep.Next = max(rep.Next, to.next)
	rep.Ahead = append(rep.Ahead, to.done...)
	rep.Ahead = slices.DeleteFunc(rep.Ahead, func(seq uint64) bool { return seq < rep.Next })
	rep.Removing, rep.Held = to.done, x.now().Add(replayHold)
	for _, p := range x.passed {
		if p.seq < rep.Next || slices.Contains(rep.Ahead, p.seq) {
			*p.count(rep)++
		}
	}
	if rep.State != ReplayRunning {
		return
	}
	rep.Why = ""
	if to.why != nil {
		rep.Why = clean(to.why.Error(), maxError)
	}
	if to.over {
		rep.State, rep.Ended = ReplayPublished, x.now()
	}
}

// counted tells whether a letter is in the counts that were written last.
func (x *run) counted(p passed) bool {
	return p.seq < x.at.Next || slices.Contains(x.at.Ahead, p.seq)
}

// remove removes the letters whose records are published and counted.
func (x *run) remove(ctx context.Context) error {
	x.Step("remove")
	for len(x.at.Removing) > 0 {
		err := x.letters.DropAll(context.WithoutCancel(ctx), x.at.Removing)
		if err == nil {
			x.at.Removing = nil
			break
		}
		if !passing(err) {
			return fmt.Errorf("the records are published again, but their dead letters are listed still: %w", err)
		}
		if err := x.idle(ctx, replayWait); err != nil {
			return err
		}
	}
	if x.at.State == ReplayPaused || x.at.State == ReplayCancelled {
		return errNotRunning
	}
	return context.Cause(ctx)
}

// end lets go of the replay. An error that would come again pauses it.
func (x *run) end(ctx context.Context, err error) (Replay, error) {
	fatal := err != nil && ctx.Err() == nil && !errors.Is(err, ErrReplayTaken)
	if errors.Is(err, ErrReplayTaken) {
		return x.at, err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), answerWait)
	defer cancel()
	at, ending := x.change(ctx, x.at.Name, func(rep *Replay) error {
		if rep.Runner != x.id {
			return nil
		}
		rep.Runner, rep.Held, rep.Removing = "", time.Time{}, x.at.Removing
		if fatal && rep.State == ReplayRunning {
			rep.State, rep.Why = ReplayPaused, clean(err.Error(), maxError)
		}
		return nil
	})
	if ending != nil {
		return x.at, errors.Join(err, ending)
	}
	if at.Over() && at.State == ReplayPublished {
		err = errors.Join(err, x.b.Audit(ctx, at.entry(at.By, "published")))
	}
	return at, err
}

// A pacer spaces records out evenly.
type pacer struct {
	rate float64 // a minute; 0 is as fast as it goes
	at   time.Time
}

func (p *pacer) set(rate float64) {
	if rate != p.rate {
		p.rate, p.at = rate, time.Time{}
	}
}

// next takes the next place if it has come, or tells how long it takes until then.
func (p *pacer) next(now time.Time) time.Duration {
	if p.rate <= 0 {
		return 0
	}
	if left := p.at.Sub(now); left > 0 {
		return left
	}
	gap := time.Duration(float64(time.Minute) / p.rate)
	if p.at = p.at.Add(gap); p.at.Before(now) { // it was held up: what was missed is not made up for
		p.at = now.Add(gap)
	}
	return 0
}
