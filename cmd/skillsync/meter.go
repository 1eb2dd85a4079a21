package main

import (
	"fmt"
	"io"
	"time"

	"github.com/schollz/progressbar/v3"
)

// A meter shows how far a job has come: a bar on a terminal, a plain line now and then elsewhere.
type meter struct {
	w     io.Writer
	bar   *progressbar.ProgressBar // nil when w is no terminal
	label string
	unit  string
	total int // 0 if unknown
	start time.Time
	last  time.Time
	every time.Duration
}

func newMeter(w io.Writer, label, unit string, total int) *meter {
	m := &meter{w: w, label: label, unit: unit, total: total, start: time.Now(), last: time.Now(), every: 5 * time.Second}
	if isTerminal(w) {
		n := total
		if n == 0 {
			n = -1 // a spinner
		}
		m.bar = progressbar.NewOptions(n,
			progressbar.OptionSetWriter(w),
			progressbar.OptionSetDescription(label),
			progressbar.OptionShowCount(),
			progressbar.OptionSetItsString(unit),
			progressbar.OptionThrottle(100*time.Millisecond),
			progressbar.OptionClearOnFinish(),
			progressbar.OptionFullWidth(),
		)
	}
	return m
}

// set shows that n are done; text says more about them.
func (m *meter) set(n int, text string) {
	if m.bar != nil {
		m.bar.Describe(m.label + "  " + text)
		_ = m.bar.Set(n) // a terminal that went away must not stop the job
		return
	}
	if now := time.Now(); now.Sub(m.last) >= m.every {
		m.last = now
		m.line(n, text)
	}
}

func (m *meter) line(n int, text string) {
	of := ""
	if m.total > 0 {
		of = fmt.Sprintf(" of %d", m.total)
	}
	if text != "" {
		text = ": " + text
	}
	fmt.Fprintf(m.w, "%s %4.0f s  %d%s %s%s\n", m.label, time.Since(m.start).Seconds(), n, of, m.unit, text)
}

// clear makes room for a line of text; the next set draws the bar again.
func (m *meter) clear() {
	if m.bar != nil {
		_ = m.bar.Clear()
	}
}

// done takes the bar away.
func (m *meter) done() {
	if m.bar != nil {
		_ = m.bar.Finish()
		_ = m.bar.Clear()
	}
}
