package console

import (
	"net/url"
	"strconv"
	"strings"

	"skillsync/queue"
)

// outcomes lists how records ended, newest first.
func (c *Console) outcomes(v visit) (page, error) {
	before, err := optional("before", v.r.FormValue("before"))
	if err != nil {
		return page{}, err
	}
	employee := strings.TrimSpace(v.r.FormValue("employee"))
	results, next, err := c.Desk.Broker.Recent(v.ctx(), employee, before, pageSize)
	if err != nil {
		return page{}, err
	}
	q := url.Values{}
	if employee != "" {
		q.Set("employee", employee)
	}
	return page{Title: "Outcomes", Here: "outcomes", Body: struct {
		Employee string
		Results  []queue.Result
		paging
	}{employee, results, older("/outcomes", q, before, next)}}, nil
}

// audit lists what was done by whom, newest first.
func (c *Console) audit(v visit) (page, error) {
	before, err := optional("before", v.r.FormValue("before"))
	if err != nil {
		return page{}, err
	}
	entries, next, err := c.Desk.Broker.AuditLog(v.ctx(), before, pageSize)
	if err != nil {
		return page{}, err
	}
	return page{Title: "Audit", Here: "audit", Body: struct {
		Entries []queue.AuditEntry
		paging
	}{entries, older("/audit", url.Values{}, before, next)}}, nil
}

// paging is the addresses of other pages of a list that begins with the newest; "" where there is
// none.
type paging struct{ Newest, Older string }

func older(path string, q url.Values, before, next uint64) (p paging) {
	if before != 0 {
		p.Newest = path + "?" + q.Encode()
	}
	if next != 0 {
		q.Set("before", strconv.FormatUint(next, 10))
		p.Older = path + "?" + q.Encode()
	}
	return p
}
