package desk

import (
	"math"
	"time"

	"skillsync/queue/ratelimit"
)

// A Forecast is when the backlog will be done, if all goes on as it does.
type Forecast struct {
	PerMinute float64       // records; 0 if that is not known
	Measured  bool          // PerMinute is what was settled lately; otherwise it is what the budget allows
	Left      time.Duration // a pause included; Forever if PerMinute is not known
}

const (
	// Lately is the time over which the rate of settling is measured.
	Lately = time.Minute
	// leastSpan is the shortest time that a rate is worked out from.
	leastSpan = 5 * time.Second
	// PerChanged is what a record costs that changes something: a patch, and its share of the
	// batches that read before and after it.
	PerChanged = 1.05
	// Forever is more than anybody waits for.
	Forever = time.Duration(math.MaxInt64)
)

// Foresee works out when backlog records are done. settled is how many were in the last span.
func Foresee(backlog, settled uint64, span time.Duration, budget ratelimit.Outlook, now time.Time) Forecast {
	var f Forecast
	switch {
	case settled > 0 && span >= leastSpan:
		f.PerMinute, f.Measured = float64(settled)/span.Minutes(), true
	case budget.Allowed > 0:
		f.PerMinute = budget.Allowed / PerChanged
	}
	if backlog == 0 {
		return f
	}
	minutes := float64(backlog) / f.PerMinute
	if pause := budget.PausedUntil.Sub(now); !budget.PausedUntil.IsZero() && pause > 0 {
		minutes += pause.Minutes()
	}
	if minutes >= Forever.Minutes() { // as is anything divided by a rate of 0
		f.Left = Forever
		return f
	}
	f.Left = time.Duration(minutes * float64(time.Minute))
	return f
}
