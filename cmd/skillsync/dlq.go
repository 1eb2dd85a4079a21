package main

import (
	"bufio"
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

type dlqCmd struct {
	Ls      dlqLsCmd      `cmd:"" default:"withargs" help:"List dead letters, the oldest first or the newest."`
	Groups  dlqGroupsCmd  `cmd:"" help:"Count dead letters by reason."`
	Show    dlqShowCmd    `cmd:"" help:"Show dead letters whole: record, skills, every attempt, earlier replays."`
	Edit    dlqEditCmd    `cmd:"" help:"Mend a record and replay it."`
	Replay  dlqReplayCmd  `cmd:"" help:"Publish dead letters again, in their original order, and remove them."`
	Replays dlqReplaysCmd `cmd:"" help:"Look at replays, pause, resume and cancel them."`
	Export  dlqExportCmd  `cmd:"" help:"Write dead letters to a file."`
	Drop    dlqDropCmd    `cmd:"" help:"Remove dead letters for good."`
	Audit   dlqAuditCmd   `cmd:"" help:"Show who did what."`
	Watch   dlqWatchCmd   `cmd:"" help:"Tell a webhook of new reasons, and when a count or an age passes a threshold."`
}

// deskFor connects to the broker and opens the desk; the mapping is the built-in one unless a
// command has another.
func (f brokerFlags) desk(p *program, rules deskRules) (d *desk.Desk, stop func(), err error) {
	b, err := f.connect(p)
	if err != nil {
		return nil, nil, err
	}
	d, err = desk.Open(p.ctx, b)
	if err != nil {
		b.Close()
		return nil, nil, err
	}
	d.Rules = rules
	return d, b.Close, nil
}

// filterFlags select dead letters.
type filterFlags struct {
	Reason    string `group:"Which" env:"-" help:"Only those of this reason."`
	Employee  string `group:"Which" env:"-" help:"Only those of this employee id."`
	Class     string `group:"Which" env:"-" enum:",permanent,exhausted,poison" default:"" help:"Only those of this class: permanent, exhausted or poison."`
	Status    string `group:"Which" env:"-" help:"Only those with this HTTP status: 404, 4xx, or none where there was no answer."`
	OlderThan string `group:"Which" env:"-" placeholder:"AGE" help:"Only those that became dead letters before that: 90m, 12h, 3d, or a time such as 2026-11-23T09:30:00Z."`
	NewerThan string `group:"Which" env:"-" placeholder:"AGE" help:"Only those that became dead letters since then."`
	ByMapping string `group:"Which" env:"-" placeholder:"VERSION" help:"Only those that failed under this version of the mapping; with ! before it, under any other."`
	Replayed  string `group:"Which" env:"-" placeholder:"N" help:"Only those replayed so often: 2, or 2+ for that and more."`
	Batch     string `group:"Which" env:"-" help:"Only those of this batch."`
	Text      string `group:"Which" env:"-" help:"Only those with this text in their error."`
}

func (f filterFlags) empty() bool { return f == filterFlags{} }

// filter is what the flags mean now, by the broker's clock.
func (f filterFlags) filter(ctx context.Context, b *queue.Broker) (queue.Filter, error) {
	q := queue.Filter{
		Reason: f.Reason, Employee: f.Employee, Class: f.Class, Status: f.Status,
		Mapping: f.ByMapping, Replays: f.Replayed, Batch: f.Batch, Text: f.Text,
	}
	if f.OlderThan != "" || f.NewerThan != "" {
		now, err := b.Now(ctx)
		if err == nil {
			q.Before, err = ago("--older-than", f.OlderThan, now)
		}
		if err == nil {
			q.After, err = ago("--newer-than", f.NewerThan, now)
		}
		if err != nil {
			return q, err
		}
	}
	if err := q.Check(); err != nil {
		return q, &exitError{exitMisuse, err}
	}
	return q, nil
}

// ago reads an age or a time.
func ago(flag, text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(layout, text); err == nil {
			return t.UTC(), nil
		}
	}
	d, err := time.ParseDuration(text)
	if days, ok := strings.CutSuffix(text, "d"); ok {
		var n float64
		n, err = strconv.ParseFloat(days, 64)
		d = time.Duration(n * 24 * float64(time.Hour))
	}
	if err != nil || d < 0 {
		return time.Time{}, misuse("%s: %q is neither an age, such as 90m, 12h or 3d, nor a time, such as 2026-11-23T09:30:00Z", flag, text)
	}
	return now.Add(-d).UTC(), nil
}

type dlqGroupsCmd struct {
	brokerFlags
	JSON bool `name:"json" env:"-" help:"One JSON object a line."`
}

func (c dlqGroupsCmd) Run(p *program) error {
	b, err := c.connect(p)
	if err != nil {
		return err
	}
	defer b.Close()
	groups, err := b.DeadLetters().Groups(p.ctx)
	if err != nil {
		return err
	}
	if c.JSON {
		return eachJSON(p.out, groups, func(g queue.Group) any { return g })
	}
	return writeGroups(p.out, groups)
}

func writeGroups(out io.Writer, groups []queue.Group) error {
	if len(groups) == 0 {
		_, err := fmt.Fprintln(out, "no dead letters")
		return err
	}
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "REASON\tCOUNT\tSTATUS\tFIRST SEEN\tLAST SEEN\tFOR EXAMPLE")
	for _, g := range groups {
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%d: %s\n", desk.Printable(g.Reason), g.Count, statuses(g), desk.Ago(g.Oldest), desk.Ago(g.Newest), g.Last, short(g.Sample.Error, 60))
	}
	return w.Flush()
}

// statuses says which HTTP statuses a group has, the most frequent first.
func statuses(g queue.Group) string {
	texts := make([]string, 0, len(g.Statuses))
	for _, s := range g.Statuses[:min(len(g.Statuses), 3)] {
		text := strconv.Itoa(s.Status)
		if s.Status == 0 {
			text = "none"
		}
		if len(g.Statuses) > 1 {
			text += fmt.Sprintf(" ×%d", s.Count)
		}
		texts = append(texts, text)
	}
	text := strings.Join(texts, ", ")
	if uint64(g.Looked) < g.Count {
		text += fmt.Sprintf(" (of the first %d)", g.Looked)
	}
	return text
}

type dlqLsCmd struct {
	brokerFlags
	filterFlags
	Newest bool   `env:"-" help:"Begin with the newest."`
	From   uint64 `env:"-" help:"Begin with this sequence."`
	Limit  int    `env:"-" name:"max" default:"50" help:"List at most this many. Default: ${default}."`
	JSON   bool   `name:"json" env:"-" help:"One JSON object a line, without the records."`
}

func (c dlqLsCmd) Run(p *program) error {
	if c.Limit < 1 {
		return misuse("--max is %d; it takes a number from 1 on", c.Limit)
	}
	b, err := c.connect(p)
	if err != nil {
		return err
	}
	defer b.Close()
	f, err := c.filter(p.ctx, b)
	if err != nil {
		return err
	}
	if !c.JSON && c.empty() && c.From == 0 {
		if err := c.groups(p, b); err != nil {
			return err
		}
	}
	var list lister = &tableLister{w: tabwriter.NewWriter(p.out, 0, 8, 2, ' ', 0)}
	if c.JSON {
		list = jsonLister{json.NewEncoder(p.out)}
	}
	count, next, err := c.each(p.ctx, b.DeadLetters(), f, list.add)
	if err == nil {
		err = list.end()
	}
	if err != nil {
		return err
	}
	switch {
	case c.JSON:
	case count == 0:
		fmt.Fprintln(p.out, "no dead letters")
	case next != 0:
		fmt.Fprintf(p.out, "more: add --from %d\n", next)
	}
	return nil
}

// each calls add with the letters to list, and tells how many they are and which one is the next, 0
// if there is none.
func (c dlqLsCmd) each(ctx context.Context, l *queue.DeadLetters, f queue.Filter, add func(queue.DeadLetter) error) (count int, next uint64, err error) {
	list := l.List
	if c.Newest {
		list = l.ListBack
	}
	for from := c.From; ; {
		page, on, err := list(ctx, f, from, min(c.Limit-count, 255)+1) // one more tells whether there is more
		if err != nil {
			return count, 0, err
		}
		for _, d := range page {
			if count == c.Limit {
				return count, d.Sequence, nil
			}
			if err := add(d); err != nil {
				return count, 0, err
			}
			count++
		}
		if from = on; from == 0 {
			return count, 0, nil
		}
	}
}

func (c dlqLsCmd) groups(p *program, b *queue.Broker) error {
	groups, err := b.DeadLetters().Groups(p.ctx)
	if err != nil || len(groups) == 0 {
		return err
	}
	texts := make([]string, len(groups))
	var all uint64
	for i, g := range groups {
		texts[i] = fmt.Sprintf("%s %d", desk.Printable(g.Reason), g.Count)
		all += g.Count
	}
	fmt.Fprintf(p.out, "%s: %s\n\n", desk.HowMany(all, "dead letter"), strings.Join(texts, ", "))
	return nil
}

// A lister prints letters as they come.
type lister interface {
	add(queue.DeadLetter) error
	end() error
}

type jsonLister struct{ enc *json.Encoder }

func (l jsonLister) add(d queue.DeadLetter) error {
	d.Data, d.Header = nil, nil
	return l.enc.Encode(desk.NewWhole(d))
}

func (jsonLister) end() error { return nil }

// A tableLister shows what it has once a table is worth it.
type tableLister struct {
	w     *tabwriter.Writer
	count int
}

const tableRows = 500

func (l *tableLister) add(d queue.DeadLetter) error {
	if l.count++; l.count == 1 {
		fmt.Fprintln(l.w, "SEQ\tSINCE\tEMPLOYEE\tREASON\tSTATUS\tTRIES\tREPLAYS\tWHY")
	}
	replays := strconv.Itoa(d.Replays)
	if d.Looping() {
		replays += " loops"
	}
	fmt.Fprintf(l.w, "%d\t%s\t%s\t%s\t%s\t%d\t%s\t%s\n", d.Sequence, desk.Ago(d.At), orDash(desk.Printable(d.EmployeeID)), desk.Printable(d.Reason), statusText(d.Status), d.Attempts, replays, short(d.Error, 80))
	if l.count%tableRows == 0 {
		return l.w.Flush()
	}
	return nil
}

func (l *tableLister) end() error { return l.w.Flush() }

type dlqShowCmd struct {
	brokerFlags
	Sequences []uint64 `arg:"" name:"seq" help:"Sequences, as listed by \"dlq ls\"."`
	Values    bool     `env:"-" help:"Show the record's values, too. They are personal data, and it is written down that you have seen them."`
	JSON      bool     `name:"json" env:"-" help:"One JSON object a line."`
}

func (c dlqShowCmd) Run(p *program) error {
	d, stop, err := c.desk(p, deskRules{})
	if err != nil {
		return err
	}
	defer stop()
	for _, seq := range c.Sequences {
		letter, err := c.letter(p.ctx, d, seq)
		if err != nil {
			return err
		}
		if c.JSON {
			err = json.NewEncoder(p.out).Encode(desk.NewWhole(letter))
		} else {
			err = showDeadLetter(p.out, letter)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (c dlqShowCmd) letter(ctx context.Context, d *desk.Desk, seq uint64) (queue.DeadLetter, error) {
	if c.Values {
		letter, err := d.Reveal(ctx, operator(), seq)
		return letter, whereabouts(ctx, d, seq, err)
	}
	letter, err := d.Letters.Get(ctx, seq)
	return desk.Hidden(letter), whereabouts(ctx, d, seq, err)
}

// whereabouts adds to the error of a letter that is gone what was done to it.
func whereabouts(ctx context.Context, d *desk.Desk, seq uint64, err error) error {
	if !errors.Is(err, queue.ErrNotFound) {
		return err
	}
	entries, readErr := d.Broker.AuditOfLetter(ctx, seq)
	if readErr != nil || len(entries) == 0 {
		return err
	}
	e := entries[0]
	return fmt.Errorf("%w (%s %s by %s, %s)", err, e.At.Format(time.RFC3339), e.Action, desk.Printable(e.By), desk.Printable(e.Outcome))
}

func showDeadLetter(out io.Writer, d queue.DeadLetter) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	row := func(name, format string, args ...any) {
		if text := fmt.Sprintf(format, args...); text != "" && text != "0" {
			fmt.Fprintf(w, "%s\t%s\n", name, desk.Printable(text))
		}
	}
	row("dead letter", "%d, since %s", d.Sequence, d.At.Format(time.RFC3339))
	row("employee", "%s", d.EmployeeID)
	row("reason", "%s (%s)", d.Reason, d.Class)
	row("error", "%s", d.Error)
	row("HTTP status", "%d", d.Status)
	row("correlation id", "%s", d.CorrelationID)
	row("trace", "%s", d.TraceID)
	for _, s := range desk.Compare(d.Expected, d.Actual) {
		row("skill", "%s: expected %s, is %s%s", s.Name, orDash(s.Expected), orDash(s.Actual), note(s.Note))
	}
	row("attempts", "%d, from %s to %s", d.Attempts, d.First.Format(time.RFC3339), d.Last.Format(time.RFC3339))
	for _, t := range d.Tries {
		row("  "+strconv.Itoa(t.Number), "%s  status %s  correlation id %s  %s", t.At.Format(time.RFC3339), statusText(t.Status), orDash(t.CorrelationID), t.Error)
	}
	row("mapping", "%s", d.MappingVersion)
	row("version", "%s", d.Version)
	row("published", "%s to %s as %d", d.Published.Format(time.RFC3339), d.Subject, d.Order.Seq)
	row("batch", "%s", d.Batch)
	if d.Looping() {
		row("replays", "%d: it loops, and a bulk replay passes over it unless forced", d.Replays)
	} else {
		row("replays", "%d", d.Replays)
	}
	for _, l := range d.Lives {
		row("  was "+strconv.FormatUint(l.Letter, 10), "%s (status %s) since %s; replayed %s by %s as %s%s", l.Reason, statusText(l.Status), l.At.Format(time.RFC3339), l.Replayed.Format(time.RFC3339), orDash(l.By), orDash(l.Replay), editedText(l.Edited))
	}
	row("record", "%s", d.Data)
	fmt.Fprintln(w)
	return w.Flush()
}

// statusText is an HTTP status, or a dash where there was no answer.
func statusText(status int) string {
	if status == 0 {
		return "-"
	}
	return strconv.Itoa(status)
}

func note(text string) string {
	if text == "" {
		return ""
	}
	return " (" + text + ")"
}

func editedText(fields []string) string {
	if fields == nil {
		return ""
	}
	return ", edited: " + strings.Join(fields, ", ")
}

// selection is what replay, export and drop work on: sequences, a filter, or everything.
type selection struct {
	filterFlags
	Sequences []uint64 `arg:"" optional:"" name:"seq" help:"Sequences, as listed by \"dlq ls\"."`
	All       bool     `group:"Which" env:"-" help:"All there are."`
}

// check lets nobody mean everything by saying nothing, unless the command says enough by itself.
// --all beside a filter is all that it matches.
func (s selection) check(enough bool) error {
	switch {
	case len(s.Sequences) > 0 && (s.All || !s.empty()):
		return misuse("name sequences or a filter, not both")
	case len(s.Sequences) == 0 && s.empty() && !s.All && !enough:
		return misuse("name the sequences that \"dlq ls\" shows, or a filter such as --reason, or add --all")
	}
	return nil
}

func (s selection) letters(ctx context.Context, b *queue.Broker) (desk.Selection, error) {
	f, err := s.filter(ctx, b)
	return desk.Selection{Letters: s.Sequences, Filter: f}, err
}

// chosen is what is to be replayed or dropped, and how many letters that are. Those that are named
// must be there.
func (s selection) chosen(ctx context.Context, d *desk.Desk) (of desk.Selection, count uint64, err error) {
	if of, err = s.letters(ctx, d.Broker); err != nil {
		return of, 0, err
	}
	for _, seq := range of.Letters {
		if _, err := d.Letters.Get(ctx, seq); err != nil {
			return of, 0, whereabouts(ctx, d, seq, err)
		}
	}
	count, err = d.Count(ctx, &of)
	return of, count, err
}

// confirm asks for the count before something that cannot be taken back.
func confirm(p *program, verb string, count uint64, of queue.Filter) error {
	about := ""
	if of != (queue.Filter{}) {
		about = " (" + desk.Printable(of.String()) + ")"
	}
	fmt.Fprintf(p.err, "%s %s%s? Type %d to go on: ", verb, desk.HowMany(count, "dead letter"), about, count)
	answer, _ := bufio.NewReader(p.in).ReadString('\n') // at the end of the input nobody agrees
	if strings.TrimSpace(answer) != strconv.FormatUint(count, 10) {
		return &exitError{exitFailed, errors.New("nothing was done")}
	}
	return nil
}

func eachJSON[T any](out io.Writer, items []T, view func(T) any) error {
	enc := json.NewEncoder(out)
	for _, item := range items {
		if err := enc.Encode(view(item)); err != nil {
			return err
		}
	}
	return nil
}

func short(s string, most int) string {
	s = desk.Printable(s)
	if r := []rune(s); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return s
}
