package console

import (
	"cmp"
	"errors"
	"net/http"
	"time"

	"skillsync/cmd/skillsync/desk"
	"skillsync/queue"
)

// mostReplays is how many replays the list shows.
const mostReplays = 100

// A course is a replay and how it gets on.
type course struct {
	queue.Replay
	What  string
	State string // in a word
	Left  string // how much longer, in words
	Text  string // how far it is
}

func newCourse(r queue.Replay, now time.Time) course {
	of := course{Replay: r, What: describe(desk.Selection{Letters: r.Letters, Filter: r.Filter}), State: desk.State(r, now), Text: desk.Progress(r)}
	if left, ok := desk.Left(r, now); ok {
		of.Left = desk.InWords(left)
	}
	return of
}

// replays lists the newest replays.
func (c *Console) replays(v visit) (page, error) {
	all, err := c.Desk.Replays.List(v.ctx(), mostReplays)
	if err != nil {
		return page{}, err
	}
	now, err := c.Desk.Broker.Now(v.ctx())
	if err != nil {
		return page{}, err
	}
	p, body := page{Title: "Replays", Here: "replays"}, struct {
		Replays []course
		Most    int
	}{Most: mostReplays}
	for _, r := range all {
		body.Replays = append(body.Replays, newCourse(r, now))
		if !r.Over() {
			p.Live = "/events?page=replays"
		}
	}
	p.Body = body
	return p, nil
}

// replay shows one of them.
func (c *Console) replay(v visit) (page, error) {
	name := cmp.Or(v.r.PathValue("name"), v.r.FormValue("name"))
	r, err := c.Desk.Replays.Follow(v.ctx(), name)
	if errors.Is(err, queue.ErrNotFound) {
		err = &problem{code: http.StatusNotFound, title: "There is no such replay", text: []string{"Its name may be mistyped."}}
	}
	if err != nil {
		return page{}, err
	}
	now, err := c.Desk.Broker.Now(v.ctx())
	if err != nil {
		return page{}, err
	}
	audit, err := c.Desk.Broker.AuditAbout(v.ctx(), name)
	if err != nil {
		return page{}, err
	}
	return page{Title: "Replay " + name, Here: "replays", Live: "/events?page=replay&name=" + name, Typed: v.Role == Operator && !r.Over(), Body: &struct { // a pointer: some of the replay's methods need one
		course
		Letters  []uint64 // if they are few
		Outcomes []outcome
		Audit    []queue.AuditEntry
	}{newCourse(r, now), r.Letters[:min(len(r.Letters), pageSize)], outcomes(nil, r.Outcomes), audit}}, nil
}

// steer changes how a replay goes on.
func (c *Console) steer(v visit) (err error) {
	name, did := v.r.PathValue("name"), ""
	switch v.r.PathValue("do") {
	case "pause":
		did = "paused"
		_, err = c.Desk.Replays.Pause(v.ctx(), name, v.Name)
	case "resume":
		did = "resumed"
		_, err = c.Desk.Replays.Resume(v.ctx(), name, v.Name)
		c.wake()
	case "cancel":
		did = "cancelled"
		_, err = c.Desk.Replays.Cancel(v.ctx(), name, v.Name)
	case "pace":
		did = "pace"
		var rate float64
		if rate, err = pace(v.r.FormValue("pace")); err == nil {
			_, err = c.Desk.Replays.SetRate(v.ctx(), name, v.Name, rate)
		}
	default:
		return &problem{code: http.StatusNotFound, title: "There is no such page", text: []string{"The address may be mistyped."}}
	}
	if errors.Is(err, queue.ErrReplayState) {
		did, err = "late", nil
	}
	if err != nil {
		return err
	}
	return see(v, "/replays/"+name+"?did="+did)
}
