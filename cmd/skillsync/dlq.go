package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"skillsync/cmd/skillsync/console"
	"skillsync/queue"
)

type dlqCmd struct {
	Ls     dlqLsCmd     `cmd:"" default:"withargs" help:"List dead letters, oldest first."`
	Show   dlqShowCmd   `cmd:"" help:"Show dead letters whole."`
	Replay dlqReplayCmd `cmd:"" help:"Publish dead letters again, in their original order, and remove them."`
	Drop   dlqDropCmd   `cmd:"" help:"Remove dead letters for good."`
}

// filterFlags select dead letters.
type filterFlags struct {
	Reason   string `env:"-" help:"Only those of this reason."`
	Employee string `env:"-" help:"Only those of this employee id."`
}

func (f filterFlags) filter() queue.Filter {
	return queue.Filter{Reason: f.Reason, Employee: f.Employee}
}

func (f filterFlags) empty() bool { return f == filterFlags{} }

type dlqLsCmd struct {
	brokerFlags
	filterFlags
	From  uint64 `env:"-" help:"Begin with this sequence."`
	Limit int    `env:"-" name:"max" default:"50" help:"List at most this many. Default: ${default}."`
	JSON  bool   `name:"json" env:"-" help:"One JSON object a line, without the records."`
}

func (c dlqLsCmd) Run(p *program) error {
	b, err := c.connect(p)
	if err != nil {
		return err
	}
	defer b.Close()
	page, next, err := b.DeadLetters().List(p.ctx, c.filter(), c.From, c.Limit)
	if err != nil {
		return err
	}
	if c.JSON {
		return eachJSON(p.out, page, func(d queue.DeadLetter) any { d.Data, d.Header = nil, nil; return d })
	}
	if len(page) == 0 {
		fmt.Fprintln(p.out, "no dead letters")
		return nil
	}
	if c.empty() && c.From == 0 {
		if err := c.groups(p, b); err != nil {
			return err
		}
	}
	w := tabwriter.NewWriter(p.out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "SEQ\tSINCE\tEMPLOYEE\tREASON\tTRIES\tREPLAYS\tWHY")
	for _, d := range page {
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%d\t%d\t%s\n", d.Sequence, console.Ago(d.At), orDash(d.EmployeeID), d.Reason, d.Attempts, d.Replays, short(d.Error, 90))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if next != 0 {
		fmt.Fprintf(p.out, "more: add --from %d\n", next)
	}
	return nil
}

func (c dlqLsCmd) groups(p *program, b *queue.Broker) error {
	groups, err := b.DeadLetters().Groups(p.ctx)
	if err != nil {
		return err
	}
	texts := make([]string, len(groups))
	var all uint64
	for i, g := range groups {
		texts[i] = fmt.Sprintf("%s %d", g.Reason, g.Count)
		all += g.Count
	}
	fmt.Fprintf(p.out, "%d dead letters: %s\n\n", all, strings.Join(texts, ", "))
	return nil
}

type dlqShowCmd struct {
	brokerFlags
	Sequences []uint64 `arg:"" name:"seq" help:"Sequences, as listed by \"dlq ls\"."`
	Values    bool     `env:"-" help:"Show the record's values, too. They are personal data."`
	JSON      bool     `name:"json" env:"-" help:"One JSON object a line."`
}

func (c dlqShowCmd) Run(p *program) error {
	b, err := c.connect(p)
	if err != nil {
		return err
	}
	defer b.Close()
	for _, seq := range c.Sequences {
		d, err := b.DeadLetters().Get(p.ctx, seq)
		if err != nil {
			return err
		}
		if !c.Values {
			d.Data = console.HideValues(d.Data)
		}
		if c.JSON {
			err = eachJSON(p.out, []queue.DeadLetter{d}, func(d queue.DeadLetter) any {
				return struct {
					queue.DeadLetter
					Data json.RawMessage `json:"record,omitempty"`
				}{d, rawJSON(d.Data)}
			})
		} else {
			err = showDeadLetter(p.out, d)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// rawJSON is data as part of a JSON document: itself, or as a string if it is no JSON.
func rawJSON(data []byte) json.RawMessage {
	if json.Valid(data) {
		return data
	}
	quoted, err := json.Marshal(string(data))
	if err != nil {
		return nil
	}
	return quoted
}

func showDeadLetter(out io.Writer, d queue.DeadLetter) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	row := func(name, format string, args ...any) {
		if text := fmt.Sprintf(format, args...); text != "" && text != "0" {
			fmt.Fprintf(w, "%s\t%s\n", name, console.Printable(text))
		}
	}
	row("dead letter", "%d, since %s", d.Sequence, d.At.Format(time.RFC3339))
	row("employee", "%s", d.EmployeeID)
	row("reason", "%s (%s)", d.Reason, d.Class)
	row("error", "%s", d.Error)
	row("HTTP status", "%d", d.Status)
	row("correlation id", "%s", d.CorrelationID)
	row("expected", "%s", d.Expected)
	row("actual", "%s", d.Actual)
	row("attempts", "%d, from %s to %s", d.Attempts, d.First.Format(time.RFC3339), d.Last.Format(time.RFC3339))
	row("mapping", "%s", d.MappingVersion)
	row("version", "%s", d.Version)
	row("published", "%s to %s as %d", d.Published.Format(time.RFC3339), d.Subject, d.Order.Seq)
	row("batch", "%s", d.Batch)
	row("replays", "%d", d.Replays)
	row("record", "%s", d.Data)
	fmt.Fprintln(w)
	return w.Flush()
}

// selection is what replay and drop work on: sequences, a filter, or everything.
type selection struct {
	filterFlags
	Sequences []uint64 `arg:"" optional:"" name:"seq" help:"Sequences, as listed by \"dlq ls\"."`
	All       bool     `env:"-" help:"All that the filter matches; without a filter, all there are."`
	Yes       bool     `env:"-" short:"y" help:"Do not ask."`
}

func (s selection) check() error {
	switch {
	case len(s.Sequences) > 0 && (s.All || !s.empty()):
		return misuse("name sequences, or a filter with --all, not both")
	case len(s.Sequences) == 0 && !s.All:
		return misuse("name the sequences that \"dlq ls\" shows, or add --all")
	}
	return nil
}

// each calls do with every sequence selected. Those that appear while it runs are left alone, so
// that a record which fails again is not taken twice.
func (s selection) each(p *program, b *queue.Broker, do func(seq uint64) error) error {
	if !s.All {
		for _, seq := range s.Sequences {
			if err := do(seq); err != nil {
				return err
			}
		}
		return nil
	}
	started, err := b.Now(p.ctx)
	if err != nil {
		return err
	}
	for from := uint64(0); ; {
		page, next, err := b.DeadLetters().List(p.ctx, s.filter(), from, 100)
		if err != nil {
			return err
		}
		for _, d := range page {
			if d.At.After(started) {
				return nil
			}
			if err := do(d.Sequence); err != nil && !errors.Is(err, queue.ErrNotFound) {
				return err
			}
		}
		if from = next; from == 0 {
			return nil
		}
	}
}

// confirm asks before something that cannot be undone.
func (s selection) confirm(p *program, l *queue.DeadLetters, verb string) error {
	if s.Yes {
		return nil
	}
	count := uint64(len(s.Sequences))
	if s.All {
		groups, err := l.Groups(p.ctx)
		if err != nil {
			return err
		}
		for _, g := range groups {
			if s.Reason == "" || s.Reason == g.Reason {
				count += g.Count
			}
		}
	}
	about := ""
	if s.Employee != "" {
		about = " (of them, those of employee " + s.Employee + ")"
	}
	fmt.Fprintf(p.err, "%s %d dead letters%s? Type %d to go on: ", verb, count, about, count)
	answer, _ := bufio.NewReader(p.in).ReadString('\n')
	if strings.TrimSpace(answer) != strconv.FormatUint(count, 10) {
		return &exitError{exitFailed, errors.New("nothing was done")}
	}
	return nil
}

type dlqReplayCmd struct {
	brokerFlags
	selection
}

func (dlqReplayCmd) Help() string {
	return `A replayed record keeps its place in the order: if a newer record of the same employee was applied meanwhile, it ends as superseded. Its attempts start again at one. Interrupted anywhere, run it again: no record is lost and none is replayed twice.`
}

func (c dlqReplayCmd) Run(p *program) error {
	return c.change(p, c.brokerFlags, "replay", "replayed", func(b *queue.Broker, seq uint64) error {
		replays, err := b.Replays(p.ctx)
		if err != nil {
			return err
		}
		rep, err := replays.Begin(p.ctx, queue.Replay{Letters: []uint64{seq}, Force: true, By: "dlq replay"})
		if err != nil {
			return err
		}
		_, err = replays.Run(p.ctx, rep.Name, queue.Runner{})
		return err
	})
}

type dlqDropCmd struct {
	brokerFlags
	selection
}

func (c dlqDropCmd) Run(p *program) error {
	return c.change(p, c.brokerFlags, "drop", "dropped", func(b *queue.Broker, seq uint64) error { return b.DeadLetters().Drop(p.ctx, seq) })
}

// change asks if need be, and does one thing to every dead letter selected.
func (s selection) change(p *program, f brokerFlags, verb, done string, do func(*queue.Broker, uint64) error) error {
	if err := s.check(); err != nil {
		return err
	}
	b, err := f.connect(p)
	if err != nil {
		return err
	}
	defer b.Close()
	l := b.DeadLetters()
	if s.All || verb == "drop" {
		if err := s.confirm(p, l, verb); err != nil {
			return err
		}
	}
	n := 0
	err = s.each(p, b, func(seq uint64) error {
		err := do(b, seq)
		if err == nil {
			n++
		}
		return err
	})
	fmt.Fprintf(p.out, "%d %s\n", n, done)
	return err
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
	s = console.Printable(s)
	if r := []rune(s); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return s
}
