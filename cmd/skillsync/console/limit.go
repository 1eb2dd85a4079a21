package console

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"skillsync/queue"
)

// limit shows what the fleet may send, for each OAuth client.
func (c *Console) limit(v visit) (page, error) {
	all, err := c.budgets(v.ctx())
	return page{Title: "Limit", Here: "limit", Live: "/events?page=limit", Typed: v.Role == Operator, Body: all}, err
}

// setLimit sets a limit, or pauses or resumes the fleet.
func (c *Console) setLimit(v visit) error {
	all, err := c.budgets(v.ctx())
	if err != nil {
		return err
	}
	client := v.r.FormValue("client")
	if !known(all, client) {
		return &problem{code: http.StatusNotFound, title: "There is no such OAuth client", text: []string{fmt.Sprintf("No worker has drawn from a limit of %q. Nothing was changed.", client)}}
	}
	// With the broker away, the desk would wait for it.
	ctx, cancel := context.WithTimeout(v.ctx(), 10*time.Second)
	defer cancel()
	did := "limit"
	switch v.r.PathValue("do") {
	case "set":
		var limit int
		if limit, err = between("limit", v.r.FormValue("limit"), 1, 10_000_000); err == nil {
			_, err = c.Desk.SetLimit(ctx, v.Name, client, limit)
		}
	case "default":
		_, err = c.Desk.SetLimit(ctx, v.Name, client, 0)
	case "pause":
		did = "paused"
		var minutes int
		if minutes, err = between("minutes", v.r.FormValue("minutes"), 1, 24*60); err == nil {
			_, err = c.Desk.PauseFleet(ctx, v.Name, client, time.Duration(minutes)*time.Minute, strings.TrimSpace(v.r.FormValue("reason")))
		}
	case "resume":
		did = "resumed"
		_, err = c.Desk.ResumeFleet(ctx, v.Name, client)
	default:
		err = &problem{code: http.StatusNotFound, title: "There is no such page", text: []string{"The address may be mistyped."}}
	}
	if err != nil {
		return err
	}
	return see(v, "/limit?did="+did)
}

// between reads a whole number within bounds.
func between(name, text string, least, most int) (int, error) {
	n, err := strconv.Atoi(strings.TrimSpace(text))
	if err != nil || n < least || n > most {
		return 0, fmt.Errorf("%w: %q takes a whole number from %d to %d, not %q", queue.ErrFilter, name, least, most, text)
	}
	return n, nil
}
