package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"skillsync/cmd/skillsync/desk"
	"skillsync/queue"
)

type dlqReplayCmd struct {
	brokerFlags
	selection
	orgFlags

	Name           string `env:"-" help:"Name of the replay. Default: made of the time."`
	Rate           string `env:"-" placeholder:"PACE" help:"No more records than that: 100 (a minute), 5/s, 100/m or 1000/h. Default: as fast as it goes; the workers keep to the limit in any case."`
	Force          bool   `env:"-" help:"Also records that came back from three replays or more, which a replay of several passes over."`
	MappingChanged bool   `env:"-" help:"Only those whose outcome the present mapping (--mapping) alters."`
	DryRun         bool   `env:"-" help:"Ask Genesys Cloud what would become of each, reading only, and change nothing."`
	Wait           bool   `env:"-" help:"Also wait until every replayed record has its outcome; exit code 3 if some are dead letters again."`
	Yes            bool   `env:"-" short:"y" help:"Do not ask."`
	JSON           bool   `name:"json" env:"-" help:"Print the replay as one JSON object; with --dry-run one object for each letter, and the totals in the last line."`
}

func (dlqReplayCmd) Help() string {
	return `A replayed record keeps its place in the order: if a newer record of the same employee was applied meanwhile, it ends as superseded. Its attempts start again at one. Ctrl-C pauses a replay; "dlq replays resume NAME" goes on with it, also after a crash: no record is lost and none is published twice.`
}

func (c dlqReplayCmd) Run(p *program) error {
	if err := c.check(c.MappingChanged || c.DryRun); err != nil {
		return err
	}
	pace, err := parsePace(c.Rate)
	if err != nil {
		return err
	}
	rules, err := c.rules()
	if err != nil {
		return err
	}
	d, stop, err := c.desk(p, deskRules{rules})
	if err != nil {
		return err
	}
	defer stop()
	s, count, err := c.chosen(p.ctx, d)
	if err != nil {
		return err
	}
	say := p.out
	if c.JSON {
		say = p.err
	}
	if count == 0 {
		fmt.Fprintln(say, "no dead letters")
		return nil
	}
	if c.DryRun {
		return c.dryRun(p, d, s, count)
	}
	sent := count // at most
	if c.MappingChanged && !c.Yes {
		if sent, err = c.altered(p, d, s, count); err != nil {
			return err
		}
		if sent == 0 {
			fmt.Fprintf(say, "nothing to replay: of %s mapping %s alters none that did not come back too often (--force)\n", desk.HowMany(count, "dead letter"), d.Rules.Version())
			return nil
		}
	}
	if err := c.agree(p, d, s, sent, pace); err != nil {
		return err
	}
	rep := queue.Replay{
		Name: c.Name, Letters: s.Letters, Filter: s.Filter, Until: s.Until, Total: count,
		Force: c.Force, Rate: pace, By: operator(),
	}
	if c.MappingChanged {
		rep.Mapping = d.Rules.Version()
	}
	if rep, err = d.Replays.Begin(p.ctx, rep); errors.Is(err, queue.ErrFilter) {
		return &exitError{exitMisuse, err}
	} else if err != nil {
		return err
	}
	return running{p, d, c.JSON, c.Wait}.run(rep)
}

// passedOver tells whether the replay leaves a letter as it is.
func (c dlqReplayCmd) passedOver(d *desk.Desk, s desk.Selection, letter *queue.DeadLetter) bool {
	return letter.Looping() && !c.Force && len(s.Letters) != 1 || c.MappingChanged && !d.Rules.Alters(letter)
}

// altered counts the letters that will be sent, of count that are selected.
func (c dlqReplayCmd) altered(p *program, d *desk.Desk, s desk.Selection, count uint64) (sent uint64, err error) {
	m := newMeter(p.err, "mapping", "letters", int(count))
	defer m.done()
	looked := 0
	err = d.Select(p.ctx, s, func(letter queue.DeadLetter) error {
		if !c.passedOver(d, s, &letter) {
			sent++
		}
		looked++
		m.set(looked, "")
		return nil
	})
	return sent, err
}

// agree says what a replay takes, and asks if it is of a filter.
func (c dlqReplayCmd) agree(p *program, d *desk.Desk, s desk.Selection, count uint64, pace float64) error {
	estimate, err := d.Estimate(p.ctx, count, pace)
	if err != nil {
		return err
	}
	fmt.Fprintf(p.err, "%s\n", estimate)
	if len(s.Letters) > 0 || c.Yes {
		return nil
	}
	return confirm(p, "replay", count, s.Filter)
}

// parsePace reads a pace, in records a minute; 0 is none.
func parsePace(text string) (float64, error) {
	if text == "" {
		return 0, nil
	}
	number, unit, _ := strings.Cut(text, "/")
	n, err := strconv.ParseFloat(number, 64)
	times, known := map[string]float64{"": 1, "s": 60, "m": 1, "min": 1, "h": 1. / 60}[unit]
	if err != nil || !known || !(n > 0 && n < 1e9) {
		return 0, misuse("--rate: %q is not a pace such as 100 (a minute), 5/s, 100/m or 1000/h", text)
	}
	return n * times, nil
}

// A running replay is one that this process does, and shows.
type running struct {
	p    *program
	d    *desk.Desk
	json bool
	wait bool
}

func (r running) run(rep queue.Replay) error {
	if !r.json {
		fmt.Fprintf(r.p.err, "replay %s\n", rep.Name)
	}
	m := newMeter(r.p.err, "replay", "letters", int(rep.Total))
	rep, err := r.d.Replays.Run(r.p.ctx, rep.Name, r.d.Runner(func(at queue.Replay) { m.set(int(at.Looked()), replayText(at)) }))
	m.done()
	if r.p.ctx.Err() != nil && rep.State == queue.ReplayRunning {
		return r.interrupted(rep)
	}
	if err != nil {
		return err
	}
	if r.wait {
		if rep, err = r.settle(rep); err != nil {
			return err
		}
	}
	if err := r.say(rep); err != nil {
		return err
	}
	if rep.Failed > 0 {
		return fmt.Errorf("replay %s: %d records were refused by the broker as too large, and are dead letters still", rep.Name, rep.Failed)
	}
	if r.wait && rep.Outcomes[queue.OutcomeDead] > 0 {
		return &exitError{code: exitDeadLetters}
	}
	return nil
}

// interrupted pauses a replay that a signal ended, so that nobody else takes it up.
func (r running) interrupted(rep queue.Replay) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.p.ctx), 5*time.Second)
	defer cancel()
	paused, err := r.d.Replays.Pause(ctx, rep.Name, operator())
	if err != nil {
		return fmt.Errorf("replay %s is interrupted, and could not be paused: %w", rep.Name, err)
	}
	if r.json {
		err = json.NewEncoder(r.p.out).Encode(paused)
	}
	return errors.Join(err, &exitError{exitFailed, fmt.Errorf("replay %s is paused: %s; go on with \"skillsync dlq replays resume %s\"", rep.Name, desk.Progress(paused), rep.Name)})
}

// settle waits until every published record has its outcome.
func (r running) settle(rep queue.Replay) (queue.Replay, error) {
	m := newMeter(r.p.err, "worker", "records", int(rep.Published))
	defer m.done()
	for {
		at, err := r.d.Replays.Follow(r.p.ctx, rep.Name)
		if err != nil {
			return rep, unlessDone(r.p.ctx, err)
		}
		if at.Settled() >= at.Published {
			return at, nil
		}
		m.set(int(at.Settled()), desk.Progress(at))
		select {
		case <-r.p.ctx.Done():
			return at, &exitError{exitFailed, fmt.Errorf("the records of replay %s are in the queue; \"skillsync dlq replays show %s\" tells how they end", rep.Name, rep.Name)}
		case <-time.After(500 * time.Millisecond):
		}
	}
}

func (r running) say(rep queue.Replay) error {
	if r.json {
		return json.NewEncoder(r.p.out).Encode(rep)
	}
	fmt.Fprintf(r.p.out, "%d replayed\n", rep.Published)
	if rep.Published != rep.Total || r.wait {
		fmt.Fprintf(r.p.out, "%s\n", desk.Progress(rep))
	}
	if rep.State != queue.ReplayPublished {
		fmt.Fprintf(r.p.out, "%s: %s\n", rep.State, rep.Why)
	}
	if rep.Looping > 0 {
		fmt.Fprintf(r.p.out, "%d came back from %d replays or more: see why with \"dlq show\", or add --force\n", rep.Looping, queue.LoopAfter)
	}
	if !r.wait && rep.Published > 0 {
		fmt.Fprintf(r.p.out, "how they end: skillsync dlq replays show %s\n", rep.Name)
	}
	return nil
}

// replayText says in a line how far a running replay is.
func replayText(r queue.Replay) string {
	text := desk.Progress(r)
	if left, ok := desk.Left(r, time.Now()); ok {
		text += ", " + desk.InWords(left) + " left"
	}
	if r.Why != "" {
		text += ": " + desk.Printable(r.Why)
	}
	return text
}

// dryAtOnce is how many letters are asked about side by side: reads are batched by up to 100.
const dryAtOnce = 200

// dryRun shows what would become of each letter.
func (c dlqReplayCmd) dryRun(p *program, d *desk.Desk, s desk.Selection, count uint64) error {
	client, err := c.client()
	if err != nil {
		return err
	}
	org, stop, err := openOrg(p, d.Broker, client, d.Rules.(deskRules).m, c.Limit)
	if err != nil {
		return err
	}
	defer stop()
	d.Org = org
	total := desk.DryRun{Verdicts: map[string]int{}}
	var list prospects = &prospectTable{out: p.out}
	if c.JSON {
		list = prospectLines{json.NewEncoder(p.out)}
	}
	m := newMeter(p.err, "dry run", "letters", int(count))
	defer m.done()
	var batch []queue.DeadLetter
	done := 0
	flush := func() error {
		run, err := d.DryRun(p.ctx, batch)
		if err != nil {
			return err
		}
		m.clear()
		if err := list.add(run.Prospects); err != nil {
			return err
		}
		for verdict, n := range run.Verdicts {
			total.Verdicts[verdict] += n
		}
		total.Requests += run.Requests
		done += len(batch)
		m.set(done, "")
		batch = batch[:0]
		return nil
	}
	passed := 0
	err = d.Select(p.ctx, s, func(letter queue.DeadLetter) error {
		if c.passedOver(d, s, &letter) {
			passed++
			return nil
		}
		if batch = append(batch, letter); len(batch) < dryAtOnce {
			return nil
		}
		return flush()
	})
	if err == nil {
		err = flush()
	}
	if err != nil {
		return err
	}
	m.clear()
	return list.end(total, passed)
}

// prospects print what would become of letters.
type prospects interface {
	add([]desk.Prospect) error
	end(total desk.DryRun, passed int) error
}

type prospectLines struct{ enc *json.Encoder }

func (l prospectLines) add(all []desk.Prospect) error {
	for _, p := range all {
		if err := l.enc.Encode(p); err != nil {
			return err
		}
	}
	return nil
}

func (l prospectLines) end(total desk.DryRun, passed int) error {
	return l.enc.Encode(struct {
		Verdicts map[string]int `json:"verdicts"`
		Requests float64        `json:"requests"`
		Passed   int            `json:"passed_over"`
	}{total.Verdicts, total.Requests, passed})
}

type prospectTable struct {
	out   io.Writer
	began bool
}

func (t *prospectTable) add(all []desk.Prospect) error {
	w := tabwriter.NewWriter(t.out, 0, 8, 2, ' ', 0)
	if !t.began && len(all) > 0 {
		fmt.Fprintln(w, "SEQ\tEMPLOYEE\tWOULD\tWHY")
		t.began = true
	}
	for _, p := range all {
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\n", p.Letter, orDash(desk.Printable(p.Employee)), verdictText(p.Verdict), short(prospectText(p), 160))
	}
	return w.Flush()
}

func verdictText(verdict string) string {
	return strings.ReplaceAll(strings.TrimPrefix(verdict, "would_"), "_", " ")
}

// prospectText says what would change, or why nothing would.
func prospectText(p desk.Prospect) string {
	if len(p.Attributes) > 0 {
		return "write " + strings.Join(p.Attributes, ", ")
	}
	var parts []string
	if p.Verdict == desk.WouldChange {
		for _, s := range p.Diff() {
			switch {
			case s.Note == "":
			case s.Actual == "":
				parts = append(parts, "+ "+s.Name+" "+s.Expected)
			case s.Expected == "":
				parts = append(parts, "- "+s.Name+" "+s.Actual)
			default:
				parts = append(parts, s.Name+" "+s.Actual+" → "+s.Expected)
			}
		}
		return strings.Join(parts, ", ")
	}
	if p.Reason != "" {
		return p.Reason + ": " + p.Why
	}
	return p.Why
}

func (t *prospectTable) end(total desk.DryRun, passed int) error {
	if t.began {
		fmt.Fprintln(t.out)
	}
	for _, verdict := range []string{desk.WouldChange, desk.NothingToDo, desk.Superseded, desk.StillFails} {
		fmt.Fprintf(t.out, "%6d  %s\n", total.Verdicts[verdict], strings.ReplaceAll(verdict, "_", " "))
	}
	if passed > 0 {
		fmt.Fprintf(t.out, "%6d  passed over: looping, or not altered by the mapping\n", passed)
	}
	_, err := fmt.Fprintf(t.out, "a replay would spend about %.0f requests; nothing was changed\n", total.Requests)
	return err
}
