package console

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"

	"skillsync/cmd/skillsync/desk"
	"skillsync/queue"
)

// sequence is the letter that a request is about.
func sequence(v visit) (uint64, error) {
	seq, err := strconv.ParseUint(v.r.PathValue("seq"), 10, 64)
	if err != nil || seq == 0 { // the broker counts from 1
		return 0, &problem{code: http.StatusNotFound, title: "There is no such dead letter", text: []string{"Dead letters have numbers; this is none."}}
	}
	return seq, nil
}

// letter shows one dead letter, without the values of its record.
func (c *Console) letter(v visit) error {
	seq, err := sequence(v)
	if err != nil {
		return err
	}
	d, err := c.Desk.Letters.Get(v.ctx(), seq)
	if err != nil {
		return c.orGone(v, seq, err)
	}
	d.Data = desk.HideValues(d.Data)
	return c.showLetter(v, d, false)
}

// reveal shows it with the values, in this one answer.
func (c *Console) reveal(v visit) error {
	seq, err := sequence(v)
	if err != nil {
		return err
	}
	d, err := c.Desk.Reveal(v.ctx(), v.Name, seq)
	if err != nil {
		return c.orGone(v, seq, err)
	}
	return c.showLetter(v, d, true)
}

func (c *Console) showLetter(v visit, d queue.DeadLetter, revealed bool) error {
	audit, err := c.Desk.Broker.AuditOfLetter(v.ctx(), d.Sequence)
	if err != nil {
		return err
	}
	next, _, err := c.Desk.Letters.List(v.ctx(), queue.Filter{}, d.Sequence+1, 1)
	if err != nil {
		return err
	}
	it := desk.Selection{Letters: []uint64{d.Sequence}}
	body := struct {
		queue.DeadLetter
		Looping              bool
		Skills               []desk.Skill
		Record               string
		Revealed             bool
		OfEmployee           string
		Audit                []queue.AuditEntry
		Next                 string // address of the one after it
		Replay, DryRun, Drop string
	}{
		DeadLetter: d, Looping: d.Looping(), Skills: desk.Compare(d.Expected, d.Actual), Record: desk.Indent(d.Data), Revealed: revealed,
		OfEmployee: address("/dead", desk.Selection{Filter: queue.Filter{Employee: d.EmployeeID}}), Audit: audit,
		Replay: address("/dead/replay", it), DryRun: address("/dead/dry-run", it), Drop: address("/dead/drop", it),
	}
	if len(next) > 0 {
		body.Next = letterAddress(next[0].Sequence, next[0].EmployeeID)
	}
	c.render(v, http.StatusOK, "letter", page{Title: fmt.Sprintf("Dead letter %d", d.Sequence), Here: "dead", Body: body})
	return nil
}

// lookedBack is how many of the newest results are searched for a letter that is gone.
const lookedBack = 500

// orGone shows what became of a letter if it is not there any more.
func (c *Console) orGone(v visit, seq uint64, err error) error {
	if !errors.Is(err, queue.ErrNotFound) {
		return err
	}
	audit, err := c.Desk.Broker.AuditOfLetter(v.ctx(), seq)
	if err != nil {
		return err
	}
	results, _, err := c.Desk.Broker.Recent(v.ctx(), v.r.FormValue("employee"), 0, lookedBack)
	if err != nil {
		return err
	}
	results = slices.DeleteFunc(results, func(r queue.Result) bool { return r.Letter != seq })
	c.render(v, http.StatusNotFound, "gone", page{Title: "There is no dead letter " + strconv.FormatUint(seq, 10), Here: "dead", Body: struct {
		Audit   []queue.AuditEntry
		Results []queue.Result
	}{audit, results}})
	return nil
}

// An editing is a record on its way to be mended.
type editing struct {
	Letter  queue.DeadLetter
	Record  string
	Problem string   // with the record as it is
	Checked bool     // and found to be one that may be sent
	Fields  []string // that were changed
}

// editForm shows a record with its values, to be changed.
func (c *Console) editForm(v visit) error {
	seq, err := sequence(v)
	if err != nil {
		return err
	}
	d, err := c.Desk.Reveal(v.ctx(), v.Name, seq)
	if err != nil {
		return c.orGone(v, seq, err)
	}
	c.showEditing(v, http.StatusOK, editing{Letter: d, Record: escaped(desk.Indent(d.Data))})
	return nil
}

func (c *Console) showEditing(v visit, code int, e editing) {
	c.render(v, code, "edit", page{Title: fmt.Sprintf("Edit the record of dead letter %d", e.Letter.Sequence), Here: "dead", Body: e})
}

// edit checks an edited record, and sends it if that was asked for.
func (c *Console) edit(v visit) error {
	seq, err := sequence(v)
	if err != nil {
		return err
	}
	e := editing{Record: v.r.PostFormValue("record")}
	if e.Letter, err = c.Desk.Letters.Get(v.ctx(), seq); err != nil {
		return c.orGone(v, seq, err)
	}
	draft, err := c.Desk.Check(e.Letter, []byte(e.Record))
	if err == nil && v.r.PostFormValue("do") == "replay" {
		return c.sendEdited(v, seq, []byte(e.Record))
	}
	var wrong *desk.EditError
	if err != nil && !errors.As(err, &wrong) {
		return err
	}
	code := http.StatusOK
	if e.Checked, e.Fields = err == nil, draft.Fields; err != nil {
		code, e.Problem = http.StatusUnprocessableEntity, wrong.Problem
	}
	e.Record = escaped(e.Record)
	c.showEditing(v, code, e)
	return nil
}

func (c *Console) sendEdited(v visit, seq uint64, record []byte) error {
	rep, err := c.Desk.Edit(v.ctx(), v.Name, seq, record)
	if err != nil {
		return c.orGone(v, seq, err)
	}
	return see(v, "/replays/"+rep.Name+"?did=edited")
}

// escaped writes what is not printable in a JSON text as JSON does (RFC 8259, section 7): on the
// page it would become a dot, and with the dot it would be sent. Control characters are there only
// between the strings.
func escaped(text string) string {
	var b strings.Builder
	for _, r := range text {
		switch {
		case r == '\r':
		case r == '\t':
			b.WriteByte(' ')
		case visible(r) == r || r < ' ':
			b.WriteRune(r)
		case r > 0xFFFF:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&b, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}
