package console

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"skillsync/cmd/skillsync/desk"
	"skillsync/queue"
)

// A question is what is about to be done to letters, before it is.
type question struct {
	What   string // in words
	Count  uint64
	Action string // address that the form is sent to, with the selection in its query
	Back   string

	// Of a replay:
	Several  bool // the guard against loops is for more than one letter
	Estimate string
	DryRun   string // address
	Name     string // unguessable: the form sent twice begins one replay
	Mapping  string // version of the present one
	Loop     int

	Wrong string // why nothing was done, when it was asked for before
}

// ask makes the question about a selection. It counts the letters, and fixes which are meant: none
// that come later.
func (c *Console) ask(v visit, action string) (question, error) {
	s, err := selection(v.r.Form)
	if err != nil {
		return question{}, err
	}
	q := question{What: describe(s), Several: len(s.Letters) != 1, Back: address("/dead", desk.Selection{Filter: s.Filter})}
	if !q.Several {
		q.Back = letterAddress(s.Letters[0], "")
	}
	q.Count, err = c.Desk.Count(v.ctx(), &s)
	q.Action, q.DryRun = address(action, s), address("/dead/dry-run", s)
	return q, err
}

func (c *Console) confirmReplay(v visit) (page, error) {
	q, err := c.ask(v, "/dead/replay")
	if err != nil {
		return page{}, err
	}
	estimate, err := c.Desk.Estimate(v.ctx(), q.Count, 0)
	if err != nil {
		return page{}, err
	}
	q.Estimate, q.Mapping, q.Loop = estimate.String(), c.Desk.Rules.Version(), queue.LoopAfter
	q.Name = time.Now().UTC().Format("r060102-150405-") + strings.ToLower(rand.Text()[:12])
	return page{Title: "Replay dead letters", Here: "dead", Body: q}, nil
}

// beginReplay begins a replay once, however often its form is sent.
func (c *Console) beginReplay(v visit) error {
	s, err := selection(v.r.Form)
	if err != nil {
		return err
	}
	chosen := strings.TrimSpace(v.r.FormValue("name"))
	rep := queue.Replay{
		Name: cmp.Or(chosen, v.r.FormValue("form")), Letters: s.Letters, Filter: s.Filter, Until: s.Until,
		Force: v.r.FormValue("force") != "", By: v.Name,
	}
	if v.r.FormValue("altered") != "" {
		rep.Mapping = c.Desk.Rules.Version()
	}
	if rep.Total, err = optional("total", v.r.FormValue("total")); err != nil {
		return err
	}
	if rep.Rate, err = pace(v.r.FormValue("pace")); err != nil {
		return err
	}
	begun, err := c.Desk.Replays.Begin(v.ctx(), rep)
	if errors.Is(err, queue.ErrConflict) {
		return c.already(v, rep, chosen)
	}
	if err != nil {
		return err
	}
	c.wake()
	return see(v, "/replays/"+begun.Name+"?did=begun")
}

// already shows the replay that was begun by the same form before; or says that the chosen name is
// that of another.
func (c *Console) already(v visit, rep queue.Replay, chosen string) error {
	old, err := c.Desk.Replays.Get(v.ctx(), rep.Name)
	if err != nil {
		return err
	}
	if chosen != "" && (old.By != rep.By || old.Filter != rep.Filter || rep.Until != 0 && old.Until != rep.Until || !slices.Equal(old.Letters, rep.Letters)) {
		return &problem{code: http.StatusConflict, title: "The name is taken", text: []string{fmt.Sprintf("There is another replay named %s; nothing was begun. Go back and choose another name.", rep.Name)}}
	}
	return see(v, "/replays/"+rep.Name+"?did=already")
}

func (c *Console) wake() {
	if c.Crew != nil {
		c.Crew.Wake()
	}
}

// pace reads records a minute; no text is 0, as fast as it goes.
func pace(text string) (float64, error) {
	text = strings.TrimSpace(text)
	if text == "" {
		return 0, nil
	}
	rate, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return 0, fmt.Errorf("%w: the pace takes records a minute, not %q", queue.ErrFilter, text)
	}
	return rate, nil
}

// mostDry is how many letters a dry run looks at; the command line knows no such bound.
const mostDry = 200

// A dry run as it is shown.
type dry struct {
	desk.DryRun
	What   string
	Totals []tally
	Loops  map[uint64]bool
	Most   int // that are looked at; 0 if these are all
	Replay string
}

// A tally is how many letters have a verdict.
type tally struct {
	Verdict string
	Count   int
}

// dryRun shows what a replay would come to.
func (c *Console) dryRun(v visit) (page, error) {
	s, err := selection(v.r.Form)
	if err != nil {
		return page{}, err
	}
	if c.Desk.Org == nil {
		return page{}, desk.ErrNoOrg
	}
	letters, err := c.first(v, s)
	if err != nil {
		return page{}, err
	}
	run, err := c.Desk.DryRun(v.ctx(), letters)
	if err != nil {
		return page{}, err
	}
	loops := map[uint64]bool{} // those that the replay would pass over
	for _, d := range letters {
		loops[d.Sequence] = d.Looping() && len(s.Letters) != 1 && v.r.FormValue("force") == ""
	}
	body := dry{What: describe(s), DryRun: run, Loops: loops, Replay: address("/dead/replay", s)}
	for _, name := range []string{desk.WouldChange, desk.NothingToDo, desk.Superseded, desk.StillFails} {
		body.Totals = append(body.Totals, tally{name, run.Verdicts[name]})
	}
	if len(letters) == mostDry {
		body.Most = mostDry
	}
	return page{Title: "Dry run", Here: "dead", Body: body}, nil
}

// first are the letters of a selection that a dry run looks at: the first ones that the mapping
// alters, if only these are to be replayed.
func (c *Console) first(v visit, s desk.Selection) (letters []queue.DeadLetter, err error) {
	altered, enough := v.r.FormValue("altered") != "", errors.New("enough")
	err = c.Desk.Select(v.ctx(), s, func(d queue.DeadLetter) error {
		if !altered || c.Desk.Rules.Alters(&d) {
			letters = append(letters, d)
		}
		if len(letters) == mostDry {
			return enough
		}
		return nil
	})
	if errors.Is(err, enough) {
		err = nil
	}
	return letters, err
}

// verdict says in words what a dry run found.
func verdict(of string) string {
	return map[string]string{
		desk.WouldChange: "would change something", desk.NothingToDo: "nothing to do", desk.Superseded: "superseded by a newer record",
		desk.StillFails: "would fail again",
	}[of]
}
