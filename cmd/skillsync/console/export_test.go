package console

import (
	"maps"
	"slices"
	"time"

	"skillsync/cmd/skillsync/desk"
)

// Patterns are those of all pages behind the sign-in.
func (c *Console) Patterns() []string { return slices.Sorted(maps.Keys(c.routes())) }

// DryRun is the one that viewers may use though it is a POST.
const DryRun = dryRun

// MostStreams is how many pages can be kept fresh at once.
const MostStreams = mostStreams

// Draw is the chart of samples a moment apart each, as paths.
func Draw(allowed, used []float64, apart time.Duration) (line, area, words string) {
	s := samples{of: map[string][]sample{}}
	at := time.Now().Add(-time.Duration(len(used)-1) * apart)
	for i := range used {
		s.of["x"] = append(s.of["x"], sample{at.Add(time.Duration(i) * apart), allowed[i], used[i]})
	}
	c := s.chart("x")
	return c.Allowed, c.Area, c.Text
}

// OnlyHere and Escaped are what they are named for.
var (
	OnlyHere = onlyHere
	Escaped  = escaped
)

// Style is the style sheet.
func Style() string { return string(style) }

// EmptyPage is a page of the list that ends before a sequence without a letter.
func EmptyPage(before uint64, next string) string {
	return string(markup("list", page{Body: listing{SoFar: before, Next: next}}))
}

// Many writes a number, and Share a part of one.
var (
	Many  = many
	Share = share
)

// Kept tells how many samples of a budget are there after one was taken at each of these times.
func Kept(times ...time.Time) int {
	var s samples
	for i, at := range times {
		client := "x"
		if i == len(times)-1 {
			client = "y" // the last one is of another
		}
		s.add(at, []budget{{Budget: desk.Budget{Client: client}}})
	}
	return len(s.of["x"])
}
