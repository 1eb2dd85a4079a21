package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"skillsync/cmd/skillsync/desk"
)

type dlqExportCmd struct {
	brokerFlags
	selection
	Output string `env:"-" short:"o" type:"path" placeholder:"FILE" help:"Where to write, readable by you alone; it must not exist yet. Default: standard output."`
	Format string `env:"-" enum:"auto,jsonl,csv" default:"auto" help:"jsonl, csv, or auto: csv if the file is called so and jsonl otherwise. Default: ${default}."`
	Values bool   `env:"-" help:"With the records' values. They are personal data, and it is written down that you took them."`
}

func (dlqExportCmd) Help() string {
	return `Nothing is changed. A cell of a CSV file that a spreadsheet would take for a formula begins with an apostrophe.`
}

func (c dlqExportCmd) Run(p *program) (err error) {
	if err := c.check(false); err != nil {
		return err
	}
	d, stop, err := c.desk(p, deskRules{})
	if err != nil {
		return err
	}
	defer stop()
	s, err := c.letters(p.ctx, d.Broker)
	if err != nil {
		return err
	}
	count, err := d.Count(p.ctx, &s)
	if err != nil {
		return err
	}
	x := desk.Export{Selection: s, Format: c.format(), Values: c.Values, To: "standard output"}
	out := p.out
	if c.Output != "" {
		x.To = c.Output
		file, err := os.OpenFile(c.Output, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if errors.Is(err, os.ErrExist) {
			return misuse("%s is there already; choose another file with --output", c.Output)
		}
		if err != nil {
			return misuse("%w", err)
		}
		defer func() { err = errors.Join(err, file.Close()) }()
		out = io.Writer(file)
	}
	m := newMeter(p.err, "export", "dead letters", int(count))
	n, err := d.Export(p.ctx, operator(), x, out, func(n uint64) { m.set(int(n), "") })
	m.done()
	if err == nil && c.Output != "" {
		fmt.Fprintf(p.out, "%d dead letters written to %s\n", n, c.Output)
	}
	return err
}

func (c dlqExportCmd) format() string {
	switch {
	case c.Format != "auto":
		return c.Format
	case strings.HasSuffix(strings.ToLower(c.Output), ".csv"):
		return desk.CSV
	}
	return desk.JSONLines
}
