package console

import (
	"context"
	"fmt"
	"slices"
	"time"

	"skillsync/cmd/skillsync/desk"
	"skillsync/queue"
)

// overview is how everything does.
func (c *Console) overview(v visit) (page, error) {
	over, err := desk.Look(v.ctx(), c.Desk.Broker)
	if err != nil {
		return page{}, err
	}
	groups, err := c.Desk.Letters.Groups(v.ctx())
	if err != nil {
		return page{}, err
	}
	hour, err := c.Desk.Broker.CountsSince(v.ctx(), over.At.Add(-time.Hour))
	if err != nil {
		return page{}, err
	}
	return page{Title: "Overview", Here: "overview", Live: "/events?page=overview", Body: struct {
		desk.Overview
		Consumer string
		Budgets  []budget
		Outcomes []outcome
		Groups   []group
		Total    uint64
	}{over, queue.Consumer, c.charted(over.Budgets), outcomes(hour, over.Results), links(groups), total(groups)}}, nil
}

// An outcome is how many records ended in one way.
type outcome struct {
	Name, Means string
	Hour, Kept  uint64
}

var means = map[string]string{
	queue.OutcomeVerified:   "written, and read back as it should be",
	queue.OutcomeUnchanged:  "right already; nothing was written",
	queue.OutcomeSuperseded: "a newer record of the same employee won",
	queue.OutcomeDead:       "could not be applied; may have been replayed since",
}

func outcomes(hour, kept map[string]uint64) (all []outcome) {
	for _, name := range queue.Outcomes {
		all = append(all, outcome{name, means[name], hour[name], kept[name]})
	}
	return all
}

// A group is the dead letters of one reason, and where they are listed.
type group struct {
	queue.Group
	Href  string
	Share string // of all
}

func links(groups []queue.Group) []group {
	out, all := make([]group, len(groups)), total(groups)
	for i, g := range groups {
		out[i] = group{g, address("/dead", desk.Selection{Filter: queue.Filter{Reason: g.Reason}}), share(g.Count, all)}
	}
	return out
}

// share is in whole percent; a few are not told as none, nor nearly all as all.
func share(part, all uint64) string {
	switch percent := 100 * float64(part) / float64(all); {
	case percent < 1:
		return "< 1 %"
	case percent > 99 && part < all:
		return "> 99 %"
	default:
		return fmt.Sprintf("%.0f %%", percent)
	}
}

func total(groups []queue.Group) (n uint64) {
	for _, g := range groups {
		n += g.Count
	}
	return n
}

// A budget is one with its chart.
type budget struct {
	desk.Budget
	Chart chart
	// Foreign says that the client's id is not its key's: then the limit cannot be set here.
	Foreign bool
}

// Now is what may be sent a minute at this moment.
func (b budget) Now() float64 {
	if b.PauseText() != "" {
		return 0
	}
	return b.Allowed
}

func (c *Console) charted(all []desk.Budget) []budget {
	out := make([]budget, len(all))
	for i, b := range all {
		out[i] = budget{b, c.samples.chart(b.Client), queue.Key(b.Client) != b.Client}
	}
	return out
}

// budgets reads all of them. With the broker away it does not wait for it.
func (c *Console) budgets(ctx context.Context) ([]budget, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	now, err := c.Desk.Broker.Now(ctx)
	if err != nil {
		return nil, err
	}
	all, err := desk.Budgets(ctx, c.Desk.Broker, now)
	return c.charted(all), err
}

// sample remembers how the budgets are now.
func (c *Console) sample(ctx context.Context) {
	all, err := c.budgets(ctx)
	if err != nil {
		return // a gap in the chart
	}
	c.samples.add(time.Now(), all)
}

// known tells whether a budget is there.
func known(all []budget, client string) bool {
	return slices.ContainsFunc(all, func(b budget) bool { return b.Client == client && !b.Foreign })
}
