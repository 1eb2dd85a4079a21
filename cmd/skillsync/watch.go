package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/rs/zerolog"

	"skillsync/cmd/skillsync/desk"
	"skillsync/queue"
)

// alertFlags say whom to tell of dead letters, and when.
type alertFlags struct {
	Webhook       string        `group:"Alerts" env:"SKILLSYNC_WEBHOOK" placeholder:"URL" help:"Where to POST alerts as JSON. It may hold a secret: better by environment or file than on the command line."`
	WebhookFile   string        `group:"Alerts" env:"SKILLSYNC_WEBHOOK_FILE" type:"path" placeholder:"FILE" help:"File that holds the URL."`
	WebhookSecret string        `group:"Alerts" name:"webhook-secret-file" env:"SKILLSYNC_WEBHOOK_SECRET_FILE" type:"path" placeholder:"FILE" help:"File with a secret to sign alerts with: header X-Skillsync-Signature, HMAC-SHA256 of the body."`
	AlertCount    uint64        `group:"Alerts" env:"SKILLSYNC_ALERT_COUNT" help:"Tell when there are so many dead letters of one reason. Default: never."`
	AlertAge      time.Duration `group:"Alerts" env:"SKILLSYNC_ALERT_AGE" help:"Tell when the oldest dead letter of a reason is as old as that. Default: never."`
	AlertInterval time.Duration `group:"Alerts" env:"SKILLSYNC_ALERT_INTERVAL" default:"1h" help:"At most one alert about a reason in that time. Default: ${default}."`
}

// watcher is what tells of dead letters, or nil if nobody is to be told.
func (f alertFlags) watcher(d *desk.Desk, log zerolog.Logger) (*desk.Watcher, error) {
	url, err := fromFile("SKILLSYNC_WEBHOOK", f.Webhook, f.WebhookFile)
	if err != nil || url == "" {
		return nil, err
	}
	if err := desk.CheckWebhook(url); err != nil {
		return nil, misuse("SKILLSYNC_WEBHOOK: %w", err)
	}
	secret, err := fromFile("SKILLSYNC_WEBHOOK_SECRET", "", f.WebhookSecret)
	if err != nil {
		return nil, err
	}
	hook := &desk.Webhook{URL: url, Secret: secret}
	return f.watch(d, hook.Post, log)
}

type dlqWatchCmd struct {
	brokerFlags
	alertFlags
	Every time.Duration `env:"-" default:"30s" help:"How often to look. Default: ${default}."`
	Once  bool          `env:"-" help:"Look once and end, for a cron job."`
	JSON  bool          `name:"json" env:"-" help:"Print each alert as one JSON object, too."`
}

func (dlqWatchCmd) Help() string {
	return `An alert tells of a reason that was not there before, and of a count or an age that passed its threshold; at most one for each reason and --alert-interval, however many processes watch. "skillsync console" does the same when it is given a webhook.`
}

func (c dlqWatchCmd) Run(p *program) error {
	d, stop, err := c.desk(p, deskRules{})
	if err != nil {
		return err
	}
	defer stop()
	w, err := c.watcher(d, p.log)
	if err != nil {
		return err
	}
	if w == nil { // whoever reads the output is told
		w, err = c.watch(d, func(context.Context, desk.Alert) error { return nil }, p.log)
		if err != nil {
			return err
		}
	}
	w.Every = c.Every
	post := w.Tell
	w.Tell = func(ctx context.Context, a desk.Alert) error {
		if err := post(ctx, a); err != nil {
			return err
		}
		if c.JSON {
			return json.NewEncoder(p.out).Encode(a)
		}
		_, err := fmt.Fprintln(p.out, desk.Printable(a.Text))
		return err
	}
	if c.Once {
		return w.Look(p.ctx)
	}
	return unlessDone(p.ctx, w.Run(p.ctx))
}

func (f alertFlags) watch(d *desk.Desk, tell func(context.Context, desk.Alert) error, log zerolog.Logger) (*desk.Watcher, error) {
	memory, err := d.Broker.KV(context.Background(), queue.DeskBucket)
	if err != nil {
		return nil, err
	}
	offset, err := d.Broker.Offset(context.Background()) // what it drifts by in a month does not matter here
	if err != nil {
		return nil, err
	}
	return &desk.Watcher{
		Groups: d.Letters.Groups, Memory: memory, Tell: tell, Interval: f.AlertInterval, Count: f.AlertCount, Age: f.AlertAge,
		Log: log, Now: func() time.Time { return time.Now().Add(offset) },
	}, nil
}
