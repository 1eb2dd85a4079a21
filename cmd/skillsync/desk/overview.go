package desk

import (
	"context"
	"fmt"
	"math"
	"time"

	"skillsync/queue"
)

// An Overview is how the whole system does.
type Overview struct {
	queue.Status
	Budgets []Budget `json:"budgets"`
	// SettledLastMinute counts what was settled in the last minute.
	SettledLastMinute uint64     `json:"settled_last_minute"`
	PerMinute         float64    `json:"records_per_minute,omitempty"` // that DoneAt reckons with
	SecondsLeft       *float64   `json:"seconds_left,omitempty"`       // missing if it cannot be told
	DoneAt            *time.Time `json:"done_at,omitempty"`

	Forecast Forecast `json:"-"`
}

// Look gathers an overview.
func Look(ctx context.Context, b *queue.Broker) (r Overview, err error) {
	if r.Status, err = b.Status(ctx); err != nil {
		return r, err
	}
	if r.Budgets, err = Budgets(ctx, b, r.At); err != nil {
		return r, err
	}
	var first time.Time
	if r.SettledLastMinute, first, err = b.Settled(ctx, r.At.Add(-Lately)); err != nil {
		return r, err
	}
	r.Forecast = Foresee(r.Backlog, r.SettledLastMinute, r.At.Sub(first), Busiest(r.Budgets).Outlook, r.At)
	r.PerMinute = math.Round(r.Forecast.PerMinute)
	if r.Forecast.Left < Forever {
		seconds, at := math.Round(r.Forecast.Left.Seconds()), r.At.Add(r.Forecast.Left).Truncate(time.Second)
		r.SecondsLeft, r.DoneAt = &seconds, &at
	}
	return r, nil
}

// Busiest is the budget that the backlog is worked off with, as far as one can tell.
func Busiest(all []Budget) (b Budget) {
	for i, other := range all {
		if i == 0 || other.Used > b.Used {
			b = other
		}
	}
	return b
}

// DoneText says when the backlog will be done, and what that rests on.
func (r Overview) DoneText() string {
	f := r.Forecast
	switch {
	case r.Backlog == 0:
		return "nothing waits"
	case f.Left == Forever:
		return "cannot be told: nothing was settled in the last minute; does a worker run?"
	}
	text := fmt.Sprintf("in about %s (%s)", InWords(f.Left), r.DoneAt.Local().Format("Mon 15:04"))
	if f.Measured {
		return text + fmt.Sprintf(", at the %.0f records a minute of the last minute", f.PerMinute)
	}
	text += fmt.Sprintf(" at best, at the %.0f changed records a minute that the limit allows", f.PerMinute)
	if r.SettledLastMinute == 0 {
		text += "; nothing was settled in the last minute"
	}
	return text
}
