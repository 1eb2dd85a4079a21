package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"skillsync/cmd/skillsync/console"
	"skillsync/queue"
)

type statusCmd struct {
	brokerFlags
	Watch bool          `env:"-" short:"w" help:"Show it again and again until Ctrl-C."`
	Every time.Duration `env:"-" default:"2s" help:"How often with --watch. Default: ${default}."`
	JSON  bool          `name:"json" env:"-" help:"Print one JSON object, with --watch one a line."`
}

// A report is all that status says.
type report struct {
	queue.Status
	Budgets []budget `json:"budgets"`
	// SettledLastMinute counts what was settled in the last minute.
	SettledLastMinute uint64     `json:"settled_last_minute"`
	PerMinute         float64    `json:"records_per_minute,omitempty"` // that DoneAt reckons with
	SecondsLeft       *float64   `json:"seconds_left,omitempty"`       // missing if it cannot be told
	DoneAt            *time.Time `json:"done_at,omitempty"`

	forecast forecast
}

func (c statusCmd) Run(p *program) error {
	b, err := c.connect(p)
	if err != nil {
		return err
	}
	defer b.Close()
	for {
		r, err := look(p.ctx, b)
		if err != nil {
			return unlessDone(p.ctx, err)
		}
		if c.JSON {
			err = json.NewEncoder(p.out).Encode(r)
		} else {
			if c.Watch && isTerminal(p.out) {
				fmt.Fprint(p.out, "\x1b[H\x1b[2J") // from the top of an empty screen
			}
			err = r.write(p.out)
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

// look gathers a report.
func look(ctx context.Context, b *queue.Broker) (r report, err error) {
	if r.Status, err = b.Status(ctx); err != nil {
		return r, err
	}
	if r.Budgets, err = budgets(ctx, b, r.At); err != nil {
		return r, err
	}
	var first time.Time
	if r.SettledLastMinute, first, err = b.Settled(ctx, r.At.Add(-lately)); err != nil {
		return r, err
	}
	r.forecast = foresee(r.Backlog, r.SettledLastMinute, r.At.Sub(first), busiest(r.Budgets).Outlook, r.At)
	r.PerMinute = math.Round(r.forecast.PerMinute)
	if r.forecast.Left < forever {
		seconds, at := math.Round(r.forecast.Left.Seconds()), r.At.Add(r.forecast.Left).Truncate(time.Second)
		r.SecondsLeft, r.DoneAt = &seconds, &at
	}
	return r, nil
}

// busiest is the budget that the backlog is worked off with, as far as one can tell.
func busiest(all []budget) (b budget) {
	for i, other := range all {
		if i == 0 || other.Used > b.Used {
			b = other
		}
	}
	return b
}

func (r report) write(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	backlog := fmt.Sprintf("%d waiting, %d in flight or waiting for their retry", r.Waiting, r.InFlight)
	if r.Backlog > 0 {
		backlog += ", the oldest " + console.Ago(r.Oldest)
	}
	fmt.Fprintf(w, "backlog\t%s\n", backlog)
	fmt.Fprintf(w, "done\t%s\n", r.doneText())
	if r.Orphans > 0 {
		fmt.Fprintf(w, "orphans\t%d that no worker gets: run \"skillsync setup\"\n", r.Orphans)
	}
	for _, b := range r.Budgets {
		name := "limit"
		if len(r.Budgets) > 1 {
			name += " of " + b.Client
		}
		text := b.limitText()
		if b.Limit > 0 {
			text += fmt.Sprintf("; %.0f allowed now%s, %.0f used in the last minute", b.Allowed, b.slower(), b.Used)
		}
		fmt.Fprintf(w, "%s\t%s\n", name, text)
		if pause := b.pauseText(); pause != "" {
			fmt.Fprintf(w, "paused\t%s\n", pause)
		}
	}
	if r.Paused {
		fmt.Fprintf(w, "paused\tthe consumer %q is paused on the broker\n", queue.Consumer)
	}
	fmt.Fprintf(w, "idle\t%d workers wait for records\n", r.Pulls)
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

// doneText says when the backlog will be done, and what that rests on.
func (r report) doneText() string {
	f := r.forecast
	switch {
	case r.Backlog == 0:
		return "nothing waits"
	case f.Left == forever:
		return "cannot be told: nothing was settled in the last minute; does a worker run?"
	}
	text := fmt.Sprintf("in about %s (%s)", inWords(f.Left), r.DoneAt.Local().Format("Mon 15:04"))
	if f.Measured {
		return text + fmt.Sprintf(", at the %.0f records a minute of the last minute", f.PerMinute)
	}
	text += fmt.Sprintf(" at best, at the %.0f changed records a minute that the limit allows", f.PerMinute)
	if r.SettledLastMinute == 0 {
		text += "; nothing was settled in the last minute"
	}
	return text
}

// inWords is a duration as people say it, to two units at most.
func inWords(d time.Duration) string {
	switch d = max(0, d); {
	case d < 2*time.Minute:
		return fmt.Sprintf("%.0f s", d.Seconds())
	case d < 2*time.Hour:
		return fmt.Sprintf("%.0f min", d.Minutes())
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h %d min", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}
