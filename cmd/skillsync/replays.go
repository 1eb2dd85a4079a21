package main

import (
	"context"
	"encoding/json"
	"fmt"
	"text/tabwriter"
	"time"

	"skillsync/cmd/skillsync/desk"
	"skillsync/queue"
)

type dlqReplaysCmd struct {
	Ls     replaysLsCmd     `cmd:"" default:"withargs" help:"List replays, newest first."`
	Show   replaysShowCmd   `cmd:"" help:"Show a replay, and how its records ended so far."`
	Pause  replaysPauseCmd  `cmd:"" help:"Hold a replay up."`
	Resume replaysResumeCmd `cmd:"" help:"Go on with a replay that was paused or interrupted."`
	Pace   replaysPaceCmd   `cmd:"" help:"Change the pace of a replay."`
	Cancel replaysCancelCmd `cmd:"" help:"End a replay; what was not published stays a dead letter."`
}

type replaysLsCmd struct {
	brokerFlags
	Limit int  `env:"-" name:"max" default:"50" help:"List at most this many. Default: ${default}."`
	JSON  bool `name:"json" env:"-" help:"One JSON object a line."`
}

func (c replaysLsCmd) Run(p *program) error {
	d, stop, err := c.desk(p, deskRules{})
	if err != nil {
		return err
	}
	defer stop()
	all, err := d.Replays.List(p.ctx, max(c.Limit, 1))
	if err != nil {
		return err
	}
	for i := range all { // how their records ended so far
		if all[i], err = d.Replays.Follow(p.ctx, all[i].Name); err != nil {
			return err
		}
	}
	if c.JSON {
		return eachJSON(p.out, all, func(r queue.Replay) any { return r })
	}
	if len(all) == 0 {
		fmt.Fprintln(p.out, "no replays")
		return nil
	}
	now, err := d.Broker.Now(p.ctx)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(p.out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tBEGUN\tBY\tSTATE\tPUBLISHED\tOF\tWHICH")
	for _, r := range all {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%d\t%s\n", r.Name, desk.Ago(r.Created), desk.Printable(r.By), desk.State(r, now), r.Published, r.Total, short(desk.Which(r), 60))
	}
	return w.Flush()
}

// A replayRef names a replay.
type replayRef struct {
	brokerFlags
	Name string `arg:"" help:"Name of the replay, as listed by \"dlq replays\"."`
	JSON bool   `name:"json" env:"-" help:"Print the replay as one JSON object."`
}

// show prints a replay as it is now.
func (c replayRef) show(p *program, d *desk.Desk, r queue.Replay) error {
	if c.JSON {
		return json.NewEncoder(p.out).Encode(r)
	}
	now, err := d.Broker.Now(p.ctx)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(p.out, 0, 8, 2, ' ', 0)
	fmt.Fprintf(w, "replay\t%s\n", r.Name)
	fmt.Fprintf(w, "begun\t%s by %s\n", r.Created.Format(time.RFC3339), desk.Printable(r.By))
	fmt.Fprintf(w, "which\t%s\n", desk.Printable(desk.Which(r)))
	fmt.Fprintf(w, "state\t%s\n", desk.State(r, now))
	if r.Why != "" {
		fmt.Fprintf(w, "why\t%s\n", desk.Printable(r.Why))
	}
	if r.Rate > 0 {
		fmt.Fprintf(w, "pace\t%s\n", desk.Pace(r.Rate))
	}
	fmt.Fprintf(w, "progress\t%s\n", desk.Progress(r))
	if left, ok := desk.Left(r, now); ok {
		fmt.Fprintf(w, "left\tabout %s\n", desk.InWords(left))
	}
	if waiting := r.Published - min(r.Published, r.Settled()); waiting > 0 {
		fmt.Fprintf(w, "in the queue\t%d\n", waiting)
	}
	return w.Flush()
}

// change does something to a replay, and shows it.
func (c replayRef) change(p *program, do func(context.Context, *queue.Replays) (queue.Replay, error)) error {
	d, stop, err := c.desk(p, deskRules{})
	if err != nil {
		return err
	}
	defer stop()
	r, err := do(p.ctx, d.Replays)
	if err != nil {
		return err
	}
	return c.show(p, d, r)
}

type replaysShowCmd struct {
	replayRef
	Watch bool `env:"-" short:"w" help:"Show it again and again, until all its records have ended or Ctrl-C."`
}

func (c replaysShowCmd) Run(p *program) error {
	d, stop, err := c.desk(p, deskRules{})
	if err != nil {
		return err
	}
	defer stop()
	for {
		r, err := d.Replays.Follow(p.ctx, c.Name)
		if err != nil {
			return unlessDone(p.ctx, err)
		}
		if c.Watch && !c.JSON && isTerminal(p.out) {
			fmt.Fprint(p.out, clearScreen)
		}
		if err := c.show(p, d, r); err != nil {
			return err
		}
		if !c.Watch || r.Over() && r.Settled() >= r.Published {
			return nil
		}
		select {
		case <-p.ctx.Done():
			return nil
		case <-time.After(2 * time.Second):
		}
	}
}

type replaysPauseCmd struct{ replayRef }

func (c replaysPauseCmd) Run(p *program) error {
	return c.change(p, func(ctx context.Context, r *queue.Replays) (queue.Replay, error) {
		return r.Pause(ctx, c.Name, operator())
	})
}

type replaysCancelCmd struct{ replayRef }

func (c replaysCancelCmd) Run(p *program) error {
	return c.change(p, func(ctx context.Context, r *queue.Replays) (queue.Replay, error) {
		return r.Cancel(ctx, c.Name, operator())
	})
}

type replaysPaceCmd struct {
	replayRef
	Rate string `arg:"" help:"100 (a minute), 5/s, 100/m or 1000/h; \"none\" for as fast as it goes."`
}

func (c replaysPaceCmd) Run(p *program) error {
	rate := c.Rate
	if rate == "none" {
		rate = ""
	}
	pace, err := parsePace(rate)
	if err != nil {
		return err
	}
	return c.change(p, func(ctx context.Context, r *queue.Replays) (queue.Replay, error) {
		return r.SetRate(ctx, c.Name, operator(), pace)
	})
}

type replaysResumeCmd struct {
	replayRef
	Mapping string `type:"path" placeholder:"FILE" help:"The mapping, for a replay of what it alters. Default: the built-in one."`
	Wait    bool   `env:"-" help:"Also wait until every replayed record has its outcome; exit code 3 if some are dead letters again."`
}

func (c replaysResumeCmd) Run(p *program) error {
	rules, err := orgFlags{Mapping: c.Mapping}.rules()
	if err != nil {
		return err
	}
	d, stop, err := c.desk(p, deskRules{rules})
	if err != nil {
		return err
	}
	defer stop()
	r, err := d.Replays.Get(p.ctx, c.Name)
	if err != nil {
		return err
	}
	if r.State == queue.ReplayRunning { // it is taken up if nobody runs it
		err = c.released(p, d, r)
	} else {
		r, err = d.Replays.Resume(p.ctx, c.Name, operator())
	}
	if err != nil {
		return err
	}
	return running{p, d, c.JSON, c.Wait}.run(r)
}

// released waits for a moment in which nobody runs the replay. A process that died has it for some
// seconds more; one that lives keeps it.
func (c replaysResumeCmd) released(p *program, d *desk.Desk, r queue.Replay) error {
	held := r.Held
	for said := false; ; said = true {
		now, err := d.Broker.Now(p.ctx)
		if err != nil || r.State != queue.ReplayRunning || r.Interrupted(now) {
			return err
		}
		if r.Held.After(held) {
			return fmt.Errorf("replay %s: %w; pause it first to go on with it from here", r.Name, queue.ErrReplayTaken)
		}
		if !said {
			fmt.Fprintf(p.err, "seeing whether the process that ran it is still there; this takes %s at most\n", desk.InWords(held.Sub(now)))
		}
		select {
		case <-p.ctx.Done():
			return context.Cause(p.ctx)
		case <-time.After(500 * time.Millisecond):
		}
		if r, err = d.Replays.Get(p.ctx, r.Name); err != nil {
			return err
		}
	}
}
