package queue

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// A Filter selects dead letters; what is empty selects all. Reason and Employee are part of the
// subject, so that the broker finds them by its index; for everything else the letters are read.
type Filter struct {
	Reason   string    `json:"reason,omitempty"`
	Employee string    `json:"employee,omitempty"` // id
	Class    string    `json:"class,omitempty"`
	Status   string    `json:"status,omitempty"`  // HTTP: "404", "4xx", or "none" where there was no answer
	After    time.Time `json:"after,omitzero"`    // became a dead letter at that time or later, by the broker's clock
	Before   time.Time `json:"before,omitzero"`   // became one earlier
	Mapping  string    `json:"mapping,omitempty"` // version; "!" before it: any other
	Replays  string    `json:"replays,omitempty"` // "2", or "2+" for that and more
	Batch    string    `json:"batch,omitempty"`
	Text     string    `json:"text,omitempty"` // somewhere in the error, in capitals or not
}

// ErrFilter says that a filter is written wrongly.
var ErrFilter = errors.New("no such filter")

// Check tells whether the filter can be understood.
func (f Filter) Check() error {
	if !legalStatus(f.Status) {
		return fmt.Errorf("%w: status %q is not like 404, 4xx or none", ErrFilter, f.Status)
	}
	if _, err := strconv.ParseUint(strings.TrimSuffix(f.Replays, "+"), 10, 31); f.Replays != "" && err != nil {
		return fmt.Errorf("%w: replays %q is not like 2 or 2+", ErrFilter, f.Replays)
	}
	if !f.After.IsZero() && !f.Before.IsZero() && !f.After.Before(f.Before) {
		return fmt.Errorf("%w: nothing is from %s on and before %s", ErrFilter, f.After.Format(time.RFC3339), f.Before.Format(time.RFC3339))
	}
	return nil
}

func legalStatus(s string) bool {
	return s == "" || s == "none" ||
		len(s) == 3 && '1' <= s[0] && s[0] <= '5' && (s[1:] == "xx" || digit(s[1]) && digit(s[2]))
}

func digit(c byte) bool { return '0' <= c && c <= '9' }

// indexed tells whether the broker's index of subjects selects just what the filter does.
func (f Filter) indexed() bool { return f == Filter{Reason: f.Reason, Employee: f.Employee} }

// subject is that of all letters that the filter can select. ">" is the one that costs the broker
// no search.
func (f Filter) subject() string {
	if f.Reason == "" && f.Employee == "" {
		return ">"
	}
	reason, key := "*", "*"
	if f.Reason != "" {
		reason = token(f.Reason)
	}
	if f.Employee != "" {
		key = Key(f.Employee)
	}
	return DeadSubject + "." + reason + "." + key
}

// Match tells whether the filter selects a letter. The filter must pass Check.
func (f Filter) Match(d *DeadLetter) bool {
	switch {
	case f.Reason != "" && f.Reason != d.Reason && token(f.Reason) != token(d.Reason),
		f.Employee != "" && f.Employee != d.EmployeeID,
		f.Class != "" && f.Class != d.Class,
		!f.After.IsZero() && d.At.Before(f.After),
		!f.Before.IsZero() && !d.At.Before(f.Before),
		f.Batch != "" && f.Batch != d.Batch,
		f.Text != "" && !strings.Contains(strings.ToLower(d.Error), strings.ToLower(f.Text)):
		return false
	}
	return f.status(d.Status) && f.mapping(d.MappingVersion) && f.replays(d.Replays)
}

func (f Filter) status(is int) bool {
	switch {
	case f.Status == "":
		return true
	case f.Status == "none":
		return is == 0
	case strings.HasSuffix(f.Status, "xx"):
		return is/100 == int(f.Status[0]-'0')
	}
	return f.Status == strconv.Itoa(is)
}

func (f Filter) mapping(is string) bool {
	other, not := strings.CutPrefix(f.Mapping, "!")
	return f.Mapping == "" || (is == other) != not
}

func (f Filter) replays(is int) bool {
	least, orMore := strings.CutSuffix(f.Replays, "+")
	n, _ := strconv.Atoi(least) // Check has read it
	return f.Replays == "" || is == n || orMore && is > n
}

// String says what is selected, as in "reason user_not_found, status 4xx".
func (f Filter) String() string {
	var parts []string
	say := func(name, value string) {
		if value != "" {
			parts = append(parts, name+" "+value)
		}
	}
	day := func(t time.Time) string {
		if t.IsZero() {
			return ""
		}
		return t.UTC().Format(time.RFC3339)
	}
	say("reason", f.Reason)
	say("employee", f.Employee)
	say("class", f.Class)
	say("status", f.Status)
	say("from", day(f.After))
	say("before", day(f.Before))
	say("mapping", f.Mapping)
	say("replays", f.Replays)
	say("batch", f.Batch)
	if f.Text != "" {
		say("error with", strconv.Quote(f.Text))
	}
	if parts == nil {
		return "all"
	}
	return strings.Join(parts, ", ")
}
