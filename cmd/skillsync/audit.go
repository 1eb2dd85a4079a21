package main

import (
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"skillsync/cmd/skillsync/desk"
	"skillsync/queue"
)

type dlqAuditCmd struct {
	brokerFlags
	About  string `arg:"" optional:"" help:"Only entries about this: the sequence of a dead letter, the name of a replay, or an OAuth client."`
	Limit  int    `env:"-" name:"max" default:"50" help:"Show at most this many. Default: ${default}."`
	Before uint64 `env:"-" help:"Only entries before this position."`
	JSON   bool   `name:"json" env:"-" help:"One JSON object a line."`
}

func (dlqAuditCmd) Help() string {
	return `Every replay, edit, drop, export and reveal is written down, and every change of the limit: before it is done, and how it ended. The newest entries come first. The broker lets nobody change or delete them.`
}

func (c dlqAuditCmd) Run(p *program) error {
	if c.Limit < 1 {
		return misuse("--max is %d; it takes a number from 1 on", c.Limit)
	}
	b, err := c.connect(p)
	if err != nil {
		return err
	}
	defer b.Close()
	var (
		entries []queue.AuditEntry
		next    uint64
	)
	seq, notALetter := strconv.ParseUint(c.About, 10, 64)
	switch {
	case c.About == "":
		entries, next, err = b.AuditLog(p.ctx, c.Before, c.Limit)
	case notALetter == nil:
		entries, err = b.AuditOfLetter(p.ctx, seq)
	default:
		entries, err = b.AuditAbout(p.ctx, c.About)
	}
	if err != nil {
		return err
	}
	entries = entries[:min(len(entries), c.Limit)]
	if c.JSON {
		return eachJSON(p.out, entries, func(e queue.AuditEntry) any { return e })
	}
	if len(entries) == 0 {
		fmt.Fprintln(p.out, "nothing is written down")
		return nil
	}
	w := tabwriter.NewWriter(p.out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "WHEN\tWHO\tWHAT\tABOUT\tCOUNT\tOUTCOME")
	for _, e := range entries {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\n", e.At.Format(time.RFC3339), desk.Printable(e.By), e.Action, auditAbout(e), e.Count, short(auditOutcome(e), 100))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if next != 0 {
		fmt.Fprintf(p.out, "more: add --before %d\n", next)
	}
	return nil
}

func auditOutcome(e queue.AuditEntry) string {
	if e.Detail == "" {
		return e.Outcome
	}
	return e.Outcome + ": " + e.Detail
}

// auditAbout says in a line what an entry is about.
func auditAbout(e queue.AuditEntry) string {
	var parts []string
	if e.About != "" {
		parts = append(parts, e.About)
	}
	switch {
	case e.Filter != nil:
		parts = append(parts, e.Filter.String())
	case len(e.Letters) > 0 && e.About != strconv.FormatUint(e.Letters[0], 10):
		texts := make([]string, 0, 5)
		for _, seq := range e.Letters[:min(len(e.Letters), 5)] {
			texts = append(texts, strconv.FormatUint(seq, 10))
		}
		if len(e.Letters) > 5 {
			texts = append(texts, "…")
		}
		parts = append(parts, "letters "+strings.Join(texts, " "))
	}
	return short(orDash(strings.Join(parts, ", ")), 60)
}
