package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"text/tabwriter"
	"time"

	"skillsync/cmd/skillsync/desk"
	"skillsync/queue"
	"skillsync/queue/ratelimit"
)

type limitCmd struct {
	Show   limitShowCmd   `cmd:"" default:"withargs" help:"What the fleet may send, what it sends, and whether it is paused."`
	Set    limitSetCmd    `cmd:"" help:"Make all workers keep to a limit, whatever they are set to themselves."`
	Pause  limitPauseCmd  `cmd:"" help:"Send nothing for a while."`
	Resume limitResumeCmd `cmd:"" help:"End a pause at once."`
}

// limitFlags say whose limit it is: there is one for each OAuth client.
type limitFlags struct {
	brokerFlags
	ClientID string `env:"GENESYS_CLIENT_ID,GENESYSCLOUD_OAUTHCLIENT_ID" help:"OAuth client whose requests are meant. Default: the only one there is."`
	JSON     bool   `name:"json" env:"-" help:"Print one JSON object for each OAuth client, one a line."`
}

type limitShowCmd struct{ limitFlags }

func (c limitShowCmd) Run(p *program) error {
	b, err := c.connect(p)
	if err != nil {
		return err
	}
	defer b.Close()
	now, err := b.Now(p.ctx)
	if err != nil {
		return err
	}
	all, err := desk.Budgets(p.ctx, b, now)
	if err != nil {
		return err
	}
	shown := all[:0]
	for _, budget := range all {
		if c.ClientID == "" || queue.Key(c.ClientID) == budget.Client {
			shown = append(shown, budget)
		}
	}
	if c.JSON {
		return eachJSON(p.out, shown, func(b desk.Budget) any { return b })
	}
	if len(shown) == 0 {
		fmt.Fprintln(p.out, "no worker has drawn from a limit yet")
		return nil
	}
	for i, budget := range shown {
		if i > 0 {
			fmt.Fprintln(p.out)
		}
		if err := showBudget(p, budget); err != nil {
			return err
		}
	}
	return nil
}

func showBudget(p *program, b desk.Budget) error {
	w := tabwriter.NewWriter(p.out, 0, 8, 2, ' ', 0)
	fmt.Fprintf(w, "client\t%s\n", b.Client)
	fmt.Fprintf(w, "limit\t%s\n", b.LimitText())
	if b.Limit > 0 {
		fmt.Fprintf(w, "allowed\t%.0f a minute%s\n", b.Allowed, b.Slower())
		fmt.Fprintf(w, "used\t%.0f in the last minute\n", b.Used)
	}
	fmt.Fprintf(w, "paused\t%s\n", cmp.Or(b.PauseText(), "no"))
	fmt.Fprintf(w, "written by\t%s\n", orDash(desk.Printable(b.By)))
	return w.Flush()
}

// change changes one budget and shows it.
func (c limitFlags) change(p *program, do func(*desk.Desk) (desk.Budget, error)) error {
	d, stop, err := c.desk(p, deskRules{})
	if err != nil {
		return err
	}
	defer stop()
	budget, err := do(d)
	if errors.Is(err, desk.ErrClient) {
		return misuse("%w with --client-id", err)
	}
	if err != nil {
		return err
	}
	if c.JSON {
		return json.NewEncoder(p.out).Encode(budget)
	}
	return showBudget(p, budget)
}

// operator names who changes something.
func operator() string {
	host, err := os.Hostname()
	if err != nil {
		host = "somewhere"
	}
	name := strconv.Itoa(os.Getuid())
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	return name + "@" + host
}

type limitSetCmd struct {
	limitFlags
	Limit string `arg:"" help:"Requests a minute for all workers together, or \"default\" for what the workers are set to themselves."`
}

func (limitSetCmd) Help() string {
	return `It takes effect at once, without a restart, and outlives the workers: until "limit set default". A higher limit needs up to a minute to be used.`
}

func (c limitSetCmd) Run(p *program) error {
	limit := 0
	if c.Limit != "default" {
		var err error
		if limit, err = strconv.Atoi(c.Limit); err != nil || limit < 1 {
			return misuse("limit set: %q is not a number of requests a minute from 1 on, nor \"default\"", c.Limit)
		}
	}
	return c.change(p, func(d *desk.Desk) (desk.Budget, error) { return d.SetLimit(p.ctx, operator(), c.ClientID, limit) })
}

type limitPauseCmd struct {
	limitFlags
	For    time.Duration `arg:"" name:"duration" help:"For how long, as in 90s, 10m or 2h; at most 24h. A longer pause in force stays."`
	Reason string        `env:"-" default:"an operator paused the fleet" help:"Shown to whoever looks. Default: ${default}."`
}

func (limitPauseCmd) Help() string {
	return `Nothing is lost and no attempt is spent. In a pause of more than a minute workers give their records back and fetch no others.`
}

func (c limitPauseCmd) Run(p *program) error {
	if c.For <= 0 || c.For > ratelimit.MaxPause {
		return misuse("limit pause: %s is not a time of up to %.0f hours", c.For, ratelimit.MaxPause.Hours())
	}
	return c.change(p, func(d *desk.Desk) (desk.Budget, error) {
		return d.PauseFleet(p.ctx, operator(), c.ClientID, c.For, c.Reason)
	})
}

type limitResumeCmd struct{ limitFlags }

func (c limitResumeCmd) Run(p *program) error {
	return c.change(p, func(d *desk.Desk) (desk.Budget, error) { return d.ResumeFleet(p.ctx, operator(), c.ClientID) })
}
