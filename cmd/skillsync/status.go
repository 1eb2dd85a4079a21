package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"skillsync/cmd/skillsync/desk"
	"skillsync/queue"
)

// clearScreen begins at the top of an empty screen.
const clearScreen = "\x1b[H\x1b[2J"

type statusCmd struct {
	brokerFlags
	Watch bool          `env:"-" short:"w" help:"Show it again and again until Ctrl-C."`
	Every time.Duration `env:"-" default:"2s" help:"How often with --watch. Default: ${default}."`
	JSON  bool          `name:"json" env:"-" help:"Print one JSON object, with --watch one a line."`
}

func (c statusCmd) Run(p *program) error {
	b, err := c.connect(p)
	if err != nil {
		return err
	}
	defer b.Close()
	for {
		r, err := desk.Look(p.ctx, b)
		if err != nil {
			return unlessDone(p.ctx, err)
		}
		if c.JSON {
			err = json.NewEncoder(p.out).Encode(r)
		} else {
			if c.Watch && isTerminal(p.out) {
				fmt.Fprint(p.out, clearScreen)
			}
			err = writeOverview(p.out, r)
		}
		if err != nil || !c.Watch {
			return err
		}
		select {
		case <-p.ctx.Done():
			return nil
		case <-time.After(max(c.Every, 100*time.Millisecond)):
		}
	}
}

func writeOverview(out io.Writer, r desk.Overview) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	backlog := fmt.Sprintf("%d waiting, %d in flight or waiting for their retry", r.Waiting, r.InFlight)
	if r.Backlog > 0 {
		backlog += ", the oldest " + desk.Ago(r.Oldest)
	}
	fmt.Fprintf(w, "backlog\t%s\n", backlog)
	fmt.Fprintf(w, "done\t%s\n", r.DoneText())
	if r.Orphans > 0 {
		fmt.Fprintf(w, "orphans\t%d that no worker gets: run \"skillsync setup\"\n", r.Orphans)
	}
	for _, b := range r.Budgets {
		name := "limit"
		if len(r.Budgets) > 1 {
			name += " of " + b.Client
		}
		text := b.LimitText()
		if b.Limit > 0 {
			text += fmt.Sprintf("; %.0f allowed now%s, %.0f used in the last minute", b.Allowed, b.Slower(), b.Used)
		}
		fmt.Fprintf(w, "%s\t%s\n", name, text)
		if pause := b.PauseText(); pause != "" {
			fmt.Fprintf(w, "paused\t%s\n", pause)
		}
	}
	if r.Paused {
		fmt.Fprintf(w, "paused\tthe consumer %q is paused on the broker\n", queue.Consumer)
	}
	fmt.Fprintf(w, "idle\t%s waiting for records\n", desk.HowMany(r.Pulls, "worker"))
	fmt.Fprintf(w, "settled\t%d verified, %d unchanged, %d superseded (results kept)\n",
		r.Results[queue.OutcomeVerified], r.Results[queue.OutcomeUnchanged], r.Results[queue.OutcomeSuperseded])
	var dead []string
	for _, reason := range slices.Sorted(maps.Keys(r.Dead)) {
		dead = append(dead, fmt.Sprintf("%s %d", reason, r.Dead[reason]))
	}
	if dead == nil {
		dead = []string{"none"}
	}
	fmt.Fprintf(w, "dead letters\t%s\n", strings.Join(dead, ", "))
	return w.Flush()
}
