package main

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"time"

	"skillsync/cmd/skillsync/desk"
	"skillsync/genesys"
	"skillsync/queue"
	"skillsync/queue/ledger"
	"skillsync/queue/ratelimit"
	"skillsync/worker"
	"skillsync/worker/mapping"
)

// A deskOrg is Genesys Cloud as the desk may use it: to read, from the budget that all workers
// share.
type deskOrg struct {
	client *genesys.Client
	broker *queue.Broker
	rules  *mapping.Mapping
	newer  func(context.Context, *queue.Delivery, string) ([]byte, queue.Order, bool, error)
}

// openOrg opens an org for dry runs. limit is that of the workers, in case none of them has drawn
// from the budget yet.
func openOrg(p *program, b *queue.Broker, client *genesys.Client, rules *mapping.Mapping, limit int) (org *deskOrg, stop func(), err error) {
	store, err := b.KV(p.ctx, queue.LimitsBucket)
	if err != nil {
		return nil, nil, err
	}
	q, err := b.Queue(p.ctx)
	if err != nil {
		return nil, nil, err
	}
	bucket := &ratelimit.Bucket{Store: store, Key: queue.Key(client.ClientID), Limit: limit, Clock: b.Now, Name: operator(), Log: p.log}
	if state, err := bucket.Read(p.ctx); err == nil {
		bucket.Limit = cmp.Or(state.Configured, limit)
	}
	client.Limiter = bucket
	client.OnThrottle = func(ctx context.Context, d time.Duration) {
		if err := bucket.Throttled(context.WithoutCancel(ctx), d, "Genesys Cloud answered 429 to a dry run"); err != nil {
			p.log.Warn().Err(err).Msg("the fleet could not be told of a 429")
		}
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(p.ctx))
	var running sync.WaitGroup
	running.Go(func() {
		if err := bucket.Run(ctx); err != nil && !errors.Is(err, context.Canceled) {
			p.log.Error().Err(err).Str("part", "budget").Msg("ended")
		}
	})
	return &deskOrg{client, b, rules, q.Newer}, func() { cancel(); running.Wait() }, nil
}

// Prospects asks about all letters at once, so that their reads share requests.
func (o *deskOrg) Prospects(ctx context.Context, letters []queue.DeadLetter) ([]desk.Prospect, error) {
	preview, err := o.previewer(ctx)
	if err != nil {
		return nil, err
	}
	out, errs := make([]desk.Prospect, len(letters)), make([]error, len(letters))
	var all sync.WaitGroup
	for i := range letters {
		all.Go(func() {
			found, err := preview.Preview(ctx, &letters[i])
			out[i], errs[i] = prospect(&letters[i], found), err
		})
	}
	all.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (o *deskOrg) previewer(ctx context.Context) (*worker.Previewer, error) {
	profile, err := o.client.Discover(ctx)
	if err != nil {
		return nil, err
	}
	store, err := o.broker.KV(ctx, queue.LedgerBucket)
	if err != nil {
		return nil, err
	}
	p := &worker.Previewer{
		Provisioner: &worker.Provisioner{Directory: o.client, Mapping: o.rules, Profile: profile},
		Ledger:      &ledger.Ledger{Store: store, Target: target(o.client.API)},
		Newer:       o.newer,
	}
	if profile == genesys.RoutingSkills {
		// Somebody may just have created the skill that is missing: a list from before does not do.
		asked := time.Now()
		p.Skills = func(ctx context.Context) ([]string, error) { return o.client.SkillNamesSince(ctx, asked) }
	}
	return p, nil
}

func prospect(d *queue.DeadLetter, p worker.Prospect) desk.Prospect {
	out := desk.Prospect{
		Letter: d.Sequence, Employee: d.EmployeeID, Verdict: string(p.Fate), Reason: string(p.Reason), Why: p.Why,
		UserID: p.UserID, Attributes: p.Attributes, Requests: p.Requests,
	}
	if p.Before != nil || p.After != nil {
		out.Before, out.After = worker.Levels(p.Before), worker.Levels(p.After)
	}
	return out
}
