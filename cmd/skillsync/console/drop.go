package console

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"skillsync/cmd/skillsync/desk"
	"skillsync/queue"
)

func (c *Console) confirmDrop(v visit) (page, error) {
	q, err := c.ask(v, "/dead/drop")
	return page{Title: "Drop dead letters for good", Here: "dead", Body: q}, err
}

// drop removes letters, if somebody has typed how many they are.
func (c *Console) drop(v visit) error {
	s, err := selection(v.r.Form)
	if err != nil {
		return err
	}
	typed, err := strconv.ParseUint(strings.NewReplacer(",", "", " ", "").Replace(v.r.FormValue("count")), 10, 64)
	if err != nil {
		return c.askAgain(v, "Nothing was dropped: type the number of dead letters.")
	}
	_, err = c.Desk.Drop(v.ctx(), v.Name, s, typed, func(uint64) {})
	if errors.Is(err, desk.ErrCount) {
		return c.askAgain(v, fmt.Sprintf("Nothing was dropped: you typed %d, and that is not how many there are now.", typed))
	}
	if err != nil {
		return err
	}
	return see(v, address("/dead", desk.Selection{Filter: s.Filter}, "did", "dropped"))
}

// askAgain shows the question once more, with the number of now.
func (c *Console) askAgain(v visit, wrong string) error {
	v.r.Form.Del("until")
	q, err := c.ask(v, "/dead/drop")
	if err != nil {
		return err
	}
	q.Wrong = wrong
	c.render(v, http.StatusConflict, "drop", page{Title: "Drop dead letters for good", Here: "dead", Body: q})
	return nil
}

func (c *Console) confirmExport(v visit) (page, error) {
	q, err := c.ask(v, "/dead/export")
	return page{Title: "Export dead letters", Here: "dead", Body: q}, err
}

// export sends letters as a file.
func (c *Console) export(v visit) error {
	s, err := selection(v.r.Form)
	if err != nil {
		return err
	}
	x := desk.Export{Selection: s, Format: v.r.FormValue("format"), Values: v.r.FormValue("values") != "", To: "a browser"}
	kind := map[string]string{desk.CSV: "text/csv; charset=utf-8", desk.JSONLines: "application/jsonl; charset=utf-8"}[x.Format]
	if kind == "" {
		return fmt.Errorf("%w: \"format\" takes %s or %s, not %q", queue.ErrFilter, desk.CSV, desk.JSONLines, x.Format)
	}
	file := &download{w: v.w, kind: kind, name: time.Now().UTC().Format("skillsync-dead-letters-20060102T150405Z.") + x.Format}
	_, err = c.Desk.Export(v.ctx(), v.Name, x, file, func(uint64) {})
	switch {
	case err == nil:
		_, _ = file.Write(nil) // there may have been nothing to write
	case !file.begun:
		return err
	default:
		c.Log.Warn().Err(err).Msg("an export was cut short")
		panic(http.ErrAbortHandler) // the browser must not take it for whole
	}
	return nil
}

// A download is a file whose headers are sent with its first bytes: until then it can be a page that
// says what went wrong.
type download struct {
	w          http.ResponseWriter
	kind, name string
	begun      bool
}

func (d *download) Write(p []byte) (int, error) {
	if !d.begun {
		d.begun = true
		d.w.Header().Set("Content-Type", d.kind)
		d.w.Header().Set("Content-Disposition", `attachment; filename="`+d.name+`"`)
	}
	return d.w.Write(p)
}
