package console

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"skillsync/cmd/skillsync/desk"
	"skillsync/queue"
)

// pageSize is how many dead letters, results or audit entries one page lists.
const pageSize = 50

// newestFirst is the order that an address can ask for; without it the oldest come first.
const newestFirst = "newest"

// A listing is one page of the list.
type listing struct {
	Groups  []group
	Reasons []string
	Filter  queue.Filter
	Chosen  bool // there is a filter
	Newest  bool // the newest come first
	Letters []queue.DeadLetter
	Count   uint64 // of all that match; 0 if that would take long to find out
	First   string // addresses of other pages; "" where there is none
	Next    string
	SoFar   uint64 // sequence to go on from, if a page ends early

	Replay, Drop, Export string // of all that match
}

// list is the dead letters that a filter selects, a page of them.
func (c *Console) list(v visit) (page, error) {
	f, err := filter(v.r.Form)
	if err != nil {
		return page{}, err
	}
	from, err := optional("from", v.r.FormValue("from"))
	if err != nil {
		return page{}, err
	}
	order := strings.TrimSpace(v.r.FormValue("order"))
	list := c.Desk.Letters.List
	switch order {
	case "":
	case newestFirst:
		list = c.Desk.Letters.ListBack
	default:
		return page{}, fmt.Errorf("%w: \"order\" takes %s or nothing, not %q", queue.ErrFilter, newestFirst, order)
	}
	letters, next, err := list(v.ctx(), f, from, pageSize)
	if err != nil {
		return page{}, err
	}
	groups, err := c.Desk.Letters.Groups(v.ctx())
	if err != nil {
		return page{}, err
	}
	all := desk.Selection{Filter: f}
	body := listing{
		Groups: links(groups), Reasons: reasons(groups, f.Reason), Filter: f, Chosen: f != queue.Filter{}, Newest: order == newestFirst, Letters: letters,
		Replay: address("/dead/replay", all), Drop: address("/dead/drop", all), Export: address("/dead/export", all),
	}
	if body.Count, err = c.count(v, f, groups); err != nil {
		return page{}, err
	}
	if from > 1 || from == 1 && body.Newest {
		body.First = address("/dead", all, "order", order)
	}
	if next != 0 {
		body.Next = address("/dead", all, "order", order, "from", strconv.FormatUint(next, 10))
		if len(letters) < pageSize {
			body.SoFar = next
		}
	}
	return page{Title: "Dead letters", Here: "dead", Body: body}, nil
}

// count counts the letters of a filter, unless they would all have to be read for that.
func (c *Console) count(v visit, f queue.Filter, groups []queue.Group) (uint64, error) {
	switch {
	case f == queue.Filter{}:
		return total(groups), nil
	case f == queue.Filter{Reason: f.Reason, Employee: f.Employee}:
		return c.Desk.Letters.Count(v.ctx(), f, 0)
	}
	return 0, nil
}

// reasons are what the filter offers: those there are, and the chosen one even if it has no letters.
func reasons(groups []queue.Group, chosen string) (all []string) {
	for _, g := range groups {
		all = append(all, g.Reason)
	}
	if chosen != "" && !slices.Contains(all, chosen) {
		all = append(all, chosen)
	}
	slices.Sort(all)
	return all
}
