package console

import (
	"fmt"
	"math"
	"strings"
	"sync"
	"time"

	"skillsync/cmd/skillsync/desk"
)

const (
	chartSpan   = 15 * time.Minute
	chartLeast  = time.Minute // a chart of less would show noise
	chartWidth  = 600
	chartHeight = 120
	// chartGap is the time without a sample after which a line is not drawn on.
	chartGap = 10 * time.Second
)

// A sample is a budget at one moment, in requests a minute.
type sample struct {
	at            time.Time
	allowed, used float64
}

// samples are those of the last chartSpan, by the budget's client.
type samples struct {
	mu sync.Mutex
	of map[string][]sample
}

func (s *samples) add(now time.Time, all []budget) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.of == nil {
		s.of = map[string][]sample{}
	}
	for _, b := range all {
		s.of[b.Client] = append(s.of[b.Client], sample{now, b.Now(), b.Used})
	}
	for client, list := range s.of {
		for len(list) > 0 && now.Sub(list[0].at) > chartSpan {
			list = list[1:]
		}
		if s.of[client] = list; len(list) == 0 {
			delete(s.of, client)
		}
	}
}

// A chart is what was allowed and used lately, as paths of an SVG and in words.
type chart struct {
	Width, Height       int
	Span                string  // of time, in words
	Top                 float64 // what the upper edge stands for, requests a minute
	Allowed, Used, Area string  // paths
	Text                string
}

// chart draws a budget's samples. Without any, its Text is empty.
func (s *samples) chart(client string) chart {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := s.of[client]
	if len(list) == 0 {
		return chart{}
	}
	least, most, top := math.Inf(1), 0.0, 1.0
	for _, p := range list {
		least, most, top = min(least, p.used), max(most, p.used), max(top, p.used, p.allowed)
	}
	last := list[len(list)-1]
	span := min(max(last.at.Sub(list[0].at), chartLeast), chartSpan)
	c := chart{Width: chartWidth, Height: chartHeight, Span: desk.InWords(span), Top: round(top)}
	c.Text = fmt.Sprintf("In the last %s: %s to %s requests in a minute. At the end %s are allowed.", c.Span, many(least), many(most), many(last.allowed))
	used, allowed := func(p sample) float64 { return p.used }, func(p sample) float64 { return p.allowed }
	c.Allowed = draw(list, span, c.Top, allowed, false)
	c.Used = draw(list, span, c.Top, used, false)
	c.Area = draw(list, span, c.Top, used, true)
	return c
}

// round is a number no smaller that people like at the edge of a chart: one digit and zeros.
func round(top float64) float64 {
	unit := math.Pow(10, math.Floor(math.Log10(top)))
	return math.Ceil(top/unit) * unit
}

// draw is the path of one value, or of the area below it. It begins anew after a gap, and leaves
// out points between others of the same height.
func draw(list []sample, span time.Duration, top float64, value func(sample) float64, area bool) string {
	var b strings.Builder
	now := list[len(list)-1].at
	x := func(p sample) int {
		return chartWidth - int(math.Round(chartWidth*now.Sub(p.at).Seconds()/span.Seconds()))
	}
	y := func(p sample) int { return chartHeight - int(math.Round(chartHeight*value(p)/top)) }
	for i, p := range list {
		first := i == 0 || p.at.Sub(list[i-1].at) > chartGap
		last := i == len(list)-1 || list[i+1].at.Sub(p.at) > chartGap
		switch {
		case first && area:
			fmt.Fprintf(&b, "M%d %dL%d %d", x(p), chartHeight, x(p), y(p))
		case first:
			fmt.Fprintf(&b, "M%d %dL%d %d", x(p), y(p), x(p), y(p))
		case last || y(p) != y(list[i-1]) || y(p) != y(list[i+1]):
			fmt.Fprintf(&b, "L%d %d", x(p), y(p))
		}
		if last && area {
			fmt.Fprintf(&b, "L%d %dZ", x(p), chartHeight)
		}
	}
	return b.String()
}
