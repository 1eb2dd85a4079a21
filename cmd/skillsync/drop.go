package main

import (
	"encoding/json"
	"errors"
	"fmt"
)

type dlqDropCmd struct {
	brokerFlags
	selection
	Yes  bool `env:"-" short:"y" help:"Do not ask."`
	JSON bool `name:"json" env:"-" help:"Print how many were dropped as one JSON object."`
}

func (dlqDropCmd) Help() string {
	return `A record that is dropped is gone: it is in no queue and can be replayed by nobody. Export first what you may want to see again.`
}

func (c dlqDropCmd) Run(p *program) error {
	if err := c.check(false); err != nil {
		return err
	}
	d, stop, err := c.desk(p, deskRules{})
	if err != nil {
		return err
	}
	defer stop()
	s, count, err := c.chosen(p.ctx, d)
	if err != nil {
		return err
	}
	if count == 0 && !c.JSON {
		fmt.Fprintln(p.out, "no dead letters")
		return nil
	}
	if !c.Yes && count > 0 {
		if err := confirm(p, "drop", count, s.Filter); err != nil {
			return err
		}
	}
	m := newMeter(p.err, "drop", "dead letters", int(count))
	dropped, err := d.Drop(p.ctx, operator(), s, count, func(n uint64) { m.set(int(n), "") })
	m.done()
	if c.JSON {
		return errors.Join(err, json.NewEncoder(p.out).Encode(map[string]uint64{"dropped": dropped}))
	}
	fmt.Fprintf(p.out, "%d dropped\n", dropped)
	return err
}
