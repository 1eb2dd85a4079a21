package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"skillsync/cmd/skillsync/console"
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

// A budget is the limit of one OAuth client, as all who look on see it.
type budget struct {
	Client string `json:"client"` // its id, or the key made of it where that is no legal token
	SetBy  string `json:"set_by"` // operator, or workers
	By     string `json:"by,omitempty"`
	ratelimit.Outlook
	now time.Time
}

func newBudget(client string, s ratelimit.State, now time.Time) budget {
	b := budget{Client: client, SetBy: "workers", By: s.By, Outlook: s.Outlook(now), now: now}
	if s.Limit > 0 && s.Limit == b.Limit {
		b.SetBy = "operator"
	}
	return b
}

// limitText is what the workers are to keep to, in words.
func (b budget) limitText() string {
	switch {
	case b.Limit == 0:
		return "none: the workers are set to no limit"
	case b.SetBy == "operator":
		return fmt.Sprintf("%d requests a minute, set by an operator", b.Limit)
	}
	return fmt.Sprintf("%d requests a minute, as the workers are set to", b.Limit)
}

// pauseText is until when and why nothing is sent; empty while it is.
func (b budget) pauseText() string {
	if b.PausedUntil.IsZero() {
		return ""
	}
	text := fmt.Sprintf("until %s (in %s)", b.PausedUntil.Local().Format(time.TimeOnly), inWords(b.PausedUntil.Sub(b.now)))
	if b.Reason != "" {
		text += ": " + console.Printable(b.Reason)
	}
	return text
}

// budgets reads those of all OAuth clients.
func budgets(ctx context.Context, b *queue.Broker, now time.Time) ([]budget, error) {
	kv, err := b.KV(ctx, queue.LimitsBucket)
	if err != nil {
		return nil, err
	}
	keys, err := kv.Keys(ctx)
	if err != nil {
		return nil, err
	}
	all := make([]budget, 0, len(keys))
	for _, key := range keys {
		s, err := (&ratelimit.Bucket{Store: kv, Key: key}).Read(ctx)
		if err != nil {
			return nil, err
		}
		all = append(all, newBudget(key, s, now))
	}
	return all, nil
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
	all, err := budgets(p.ctx, b, now)
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
		return eachJSON(p.out, shown, func(b budget) any { return b })
	}
	if len(shown) == 0 {
		fmt.Fprintln(p.out, "no worker has drawn from a limit yet")
		return nil
	}
	for i, budget := range shown {
		if i > 0 {
			fmt.Fprintln(p.out)
		}
		if err := budget.show(p); err != nil {
			return err
		}
	}
	return nil
}

func (b budget) show(p *program) error {
	w := tabwriter.NewWriter(p.out, 0, 8, 2, ' ', 0)
	fmt.Fprintf(w, "client\t%s\n", b.Client)
	fmt.Fprintf(w, "limit\t%s\n", b.limitText())
	if b.Limit > 0 {
		fmt.Fprintf(w, "allowed\t%.0f a minute%s\n", b.Allowed, b.slower())
		fmt.Fprintf(w, "used\t%.0f in the last minute\n", b.Used)
	}
	fmt.Fprintf(w, "paused\t%s\n", cmp.Or(b.pauseText(), "no"))
	fmt.Fprintf(w, "written by\t%s\n", orDash(console.Printable(b.By)))
	return w.Flush()
}

// slower says so while the fleet recovers from a refusal.
func (b budget) slower() string {
	full := (ratelimit.State{Configured: b.Limit}).Outlook(b.now).Allowed
	if b.Allowed >= full*.995 {
		return ""
	}
	return fmt.Sprintf(" (%.0f %% of what the limit gives: Genesys Cloud refused requests, and the rate climbs back)", 100*b.Allowed/full)
}

// change changes one budget and shows it.
func (c limitFlags) change(p *program, do func(context.Context, *ratelimit.Bucket) error) error {
	b, err := c.connect(p)
	if err != nil {
		return err
	}
	defer b.Close()
	kv, err := b.KV(p.ctx, queue.LimitsBucket)
	if err != nil {
		return err
	}
	key, err := c.key(p.ctx, kv)
	if err != nil {
		return err
	}
	bucket := &ratelimit.Bucket{Store: kv, Key: key, Clock: b.Now, Name: operator()}
	if err := do(p.ctx, bucket); err != nil {
		return err
	}
	now, err := b.Now(p.ctx)
	if err != nil {
		return err
	}
	s, err := bucket.Read(p.ctx)
	if err != nil {
		return err
	}
	budget := newBudget(key, s, now)
	if c.JSON {
		return json.NewEncoder(p.out).Encode(budget)
	}
	return budget.show(p)
}

// key is that of the OAuth client meant.
func (c limitFlags) key(ctx context.Context, kv *queue.KV) (string, error) {
	if c.ClientID != "" {
		return queue.Key(c.ClientID), nil
	}
	keys, err := kv.Keys(ctx)
	switch {
	case err != nil:
		return "", err
	case len(keys) == 0:
		return "", misuse("no worker has drawn from a limit yet; name the OAuth client with --client-id")
	case len(keys) > 1:
		return "", misuse("there are limits of several OAuth clients (%s); name one with --client-id", strings.Join(keys, ", "))
	}
	return keys[0], nil
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
	return c.change(p, func(ctx context.Context, b *ratelimit.Bucket) error { return b.SetLimit(ctx, limit) })
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
	return c.change(p, func(ctx context.Context, b *ratelimit.Bucket) error { return b.Pause(ctx, c.For, c.Reason) })
}

type limitResumeCmd struct{ limitFlags }

func (c limitResumeCmd) Run(p *program) error {
	return c.change(p, func(ctx context.Context, b *ratelimit.Bucket) error { return b.Resume(ctx) })
}
