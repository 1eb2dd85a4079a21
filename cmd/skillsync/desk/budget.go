package desk

import (
	"context"
	"fmt"
	"time"

	"skillsync/queue"
	"skillsync/queue/ratelimit"
)

// A Budget is the limit of one OAuth client, as all who look on see it.
type Budget struct {
	Client string `json:"client"` // its id, or the key made of it where that is no legal token
	SetBy  string `json:"set_by"` // operator, or workers
	By     string `json:"by,omitempty"`
	ratelimit.Outlook
	now time.Time
}

// NewBudget is the budget that a state comes to.
func NewBudget(client string, s ratelimit.State, now time.Time) Budget {
	b := Budget{Client: client, SetBy: "workers", By: s.By, Outlook: s.Outlook(now), now: now}
	if s.Limit > 0 && s.Limit == b.Limit {
		b.SetBy = "operator"
	}
	return b
}

// LimitText is what the workers are to keep to, in words.
func (b Budget) LimitText() string {
	switch {
	case b.Limit == 0:
		return "none: the workers are set to no limit"
	case b.SetBy == "operator":
		return fmt.Sprintf("%d requests a minute, set by an operator", b.Limit)
	}
	return fmt.Sprintf("%d requests a minute, as the workers are set to", b.Limit)
}

// PauseText is until when and why nothing is sent; empty while it is.
func (b Budget) PauseText() string {
	if b.PausedUntil.IsZero() {
		return ""
	}
	text := fmt.Sprintf("until %s (in %s)", b.PausedUntil.Local().Format(time.TimeOnly), InWords(b.PausedUntil.Sub(b.now)))
	if b.Reason != "" {
		text += ": " + Printable(b.Reason)
	}
	return text
}

// Budgets reads those of all OAuth clients.
func Budgets(ctx context.Context, b *queue.Broker, now time.Time) ([]Budget, error) {
	kv, err := b.KV(ctx, queue.LimitsBucket)
	if err != nil {
		return nil, err
	}
	keys, err := kv.Keys(ctx)
	if err != nil {
		return nil, err
	}
	all := make([]Budget, 0, len(keys))
	for _, key := range keys {
		s, err := (&ratelimit.Bucket{Store: kv, Key: key}).Read(ctx)
		if err != nil {
			return nil, err
		}
		all = append(all, NewBudget(key, s, now))
	}
	return all, nil
}

// Slower says so while the fleet recovers from a refusal.
func (b Budget) Slower() string {
	full := (ratelimit.State{Configured: b.Limit}).Outlook(b.now).Allowed
	if b.Allowed >= full*.995 {
		return ""
	}
	return fmt.Sprintf(" (%.0f %% of what the limit gives: Genesys Cloud refused requests, and the rate climbs back)", 100*b.Allowed/full)
}
