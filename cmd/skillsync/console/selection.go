package console

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"skillsync/cmd/skillsync/desk"
	"skillsync/queue"
)

// Times in addresses are UTC, as a datetime-local field has them.
const (
	minuteLayout = "2006-01-02T15:04"
	secondLayout = "2006-01-02T15:04:05"
)

// selection reads which letters an address or a form means: those named by "letter", else all that
// the filter selects. A form of ticked letters has "of=ticked", and means none if none is ticked.
func selection(q url.Values) (s desk.Selection, err error) {
	for _, text := range q["letter"] {
		seq, err := number("letter", text)
		if err != nil {
			return s, err
		}
		s.Letters = append(s.Letters, seq)
	}
	slices.Sort(s.Letters)
	s.Letters = slices.Compact(s.Letters)
	if q.Get("of") == "ticked" && len(s.Letters) == 0 {
		return s, fmt.Errorf("%w: no dead letter is ticked", queue.ErrFilter)
	}
	if s.Until, err = optional("until", q.Get("until")); err != nil {
		return s, err
	}
	s.Filter, err = filter(q)
	return s, err
}

func filter(q url.Values) (f queue.Filter, err error) {
	get := func(name string) string { return strings.TrimSpace(q.Get(name)) }
	f = queue.Filter{
		Reason: get("reason"), Employee: get("employee"), Class: get("class"), Status: get("status"),
		Mapping: get("mapping"), Replays: get("replays"), Batch: get("batch"), Text: get("text"),
	}
	if f.After, err = moment("after", get("after")); err != nil {
		return f, err
	}
	if f.Before, err = moment("before", get("before")); err != nil {
		return f, err
	}
	return f, f.Check()
}

func moment(name, text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{minuteLayout, secondLayout, time.RFC3339} {
		if t, err := time.Parse(layout, text); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, fmt.Errorf("%w: %q takes a time in UTC like %s, not %q", queue.ErrFilter, name, minuteLayout, text)
}

// number reads a sequence or a position; the broker counts from 1.
func number(name, text string) (uint64, error) {
	n, err := strconv.ParseUint(strings.TrimSpace(text), 10, 64)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%w: %q takes a number from 1, not %q", queue.ErrFilter, name, text)
	}
	return n, nil
}

// optional is number, or 0 for no text.
func optional(name, text string) (uint64, error) {
	if text == "" {
		return 0, nil
	}
	return number(name, text)
}

// address is that of a page about a selection, and more of its query as names and values in turn.
// It is all ASCII: what is not printable in a filter gets through to the next page as it is.
func address(path string, s desk.Selection, more ...string) string {
	q, f := url.Values{}, s.Filter
	set := func(name, value string) {
		if value != "" {
			q.Set(name, value)
		}
	}
	for _, seq := range s.Letters {
		q.Add("letter", strconv.FormatUint(seq, 10))
	}
	if s.Until != 0 {
		set("until", strconv.FormatUint(s.Until, 10))
	}
	set("reason", f.Reason)
	set("employee", f.Employee)
	set("class", f.Class)
	set("status", f.Status)
	set("after", minute(f.After))
	set("before", minute(f.Before))
	set("mapping", f.Mapping)
	set("replays", f.Replays)
	set("batch", f.Batch)
	set("text", f.Text)
	for pair := range slices.Chunk(more, 2) {
		set(pair[0], pair[1])
	}
	if len(q) == 0 {
		return path
	}
	return path + "?" + q.Encode()
}

// letterAddress is that of a letter. The employee helps to tell what became of it once it is gone.
func letterAddress(seq uint64, employee string) string {
	return address("/dead/"+strconv.FormatUint(seq, 10), desk.Selection{Filter: queue.Filter{Employee: employee}})
}

// describe says in words what a selection means.
func describe(s desk.Selection) string {
	switch n := len(s.Letters); {
	case n == 1:
		return fmt.Sprintf("dead letter %d", s.Letters[0])
	case n > 1:
		texts := make([]string, min(n, 20))
		for i := range texts {
			texts[i] = strconv.FormatUint(s.Letters[i], 10)
		}
		text := fmt.Sprintf("%d dead letters: %s", n, strings.Join(texts, ", "))
		if n > len(texts) {
			text += fmt.Sprintf(" and %d more", n-len(texts))
		}
		return text
	case s.Filter == queue.Filter{}:
		return "all dead letters"
	}
	return "dead letters with " + s.Filter.String()
}
