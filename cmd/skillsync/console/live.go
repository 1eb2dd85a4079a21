package console

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"
)

// mostStreams is how many pages can be kept fresh at once.
const mostStreams = 100

// A feed is a page of which regions are kept fresh: the template of a region is "live-" and its id.
type feed struct {
	view    func(visit) (page, error)
	regions []string
}

func (c *Console) feed(name string) (feed, bool) {
	f, ok := map[string]feed{
		"overview": {c.overview, []string{"backlog", "budgets", "results", "groups"}},
		"replays":  {c.replays, []string{"replay-list"}},
		"replay":   {c.replay, []string{"progress", "steering", "replay-audit"}},
		"limit":    {c.limit, []string{"limits"}},
	}[name]
	return f, ok
}

// A fresh page is its regions as they were last.
type fresh struct {
	mu   sync.Mutex
	at   time.Time
	html [][]byte
	err  error // why there are none
}

// feeds are the pages that somebody looks on, by address and role, so that many who look on cost
// the broker no more than one.
type feeds struct {
	mu sync.Mutex
	of map[string]*fresh
}

func (f *feeds) get(key string) *fresh {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.of == nil || len(f.of) > 10*mostStreams {
		f.of = map[string]*fresh{} // whoever looks on fills it again
	}
	if f.of[key] == nil {
		f.of[key] = &fresh{}
	}
	return f.of[key]
}

// look renders the regions of a feed, unless that was done just now.
func (c *Console) look(v visit, f feed) ([][]byte, error) {
	one := c.feeds.get(v.r.URL.RawQuery + " " + string(v.Role))
	one.mu.Lock()
	defer one.mu.Unlock()
	if time.Since(one.at) < c.every()/2 {
		return one.html, one.err
	}
	html, err := f.render(v)
	if v.ctx().Err() == nil { // otherwise it says nothing to those who stay
		one.at, one.html, one.err = time.Now(), html, err
	}
	return html, err
}

func (f feed) render(v visit) ([][]byte, error) {
	ctx, cancel := context.WithTimeout(v.ctx(), 10*time.Second)
	defer cancel()
	v.r = v.r.WithContext(ctx)
	p, err := f.view(v)
	if err != nil {
		return nil, err
	}
	p.Who = v.who
	html := make([][]byte, len(f.regions))
	for i, id := range f.regions {
		html[i] = bytes.TrimSpace(markup("live-"+id, p))
	}
	return html, nil
}

// events keeps a page fresh: whenever a region has changed, it sends what is in it now. It ends
// with the request, the session, or Run.
func (c *Console) events(v visit) error {
	f, ok := c.feed(v.r.FormValue("page"))
	if !ok || v.r.Method == http.MethodHead {
		return &problem{code: http.StatusNotFound, title: "There are no such events", text: []string{"The address may be mistyped."}}
	}
	defer c.streams.Add(-1)
	if c.streams.Add(1) > mostStreams || c.over() {
		return &problem{code: http.StatusServiceUnavailable, title: "Too many pages are open", text: []string{"This one stays as it is until it is loaded again."}, retry: true}
	}
	s := stream{w: v.w, rc: http.NewResponseController(v.w)}
	v.w.Header().Set("Content-Type", "text/event-stream")
	out, expired := v.end()
	tick := time.NewTicker(c.every())
	defer tick.Stop()
	for {
		html, err := c.look(v, f)
		if s.send(f.regions, html, err) != nil {
			return nil // the browser has gone
		}
		select {
		case <-tick.C:
		case <-v.ctx().Done():
			return nil
		case <-c.ended:
			return nil
		case <-out:
			return nil
		case <-expired:
			return nil
		}
	}
}

// over tells whether Run has ended.
func (c *Console) over() bool {
	select {
	case <-c.ended:
		return true
	default:
		return false
	}
}

// end tells of the end of a visitor's session: it is signed out, or its time is up.
func (v visit) end() (out <-chan struct{}, expired <-chan time.Time) {
	if v.session == nil {
		return nil, nil
	}
	return v.session.over, time.After(time.Until(v.session.until))
}

// A stream is the events sent to one browser.
type stream struct {
	w    http.ResponseWriter
	rc   *http.ResponseController
	sent [][]byte
	said string
}

// send sends what has changed, and whether the broker answers.
func (s *stream) send(regions []string, html [][]byte, trouble error) error {
	var b bytes.Buffer
	for i, h := range html {
		if s.sent == nil || !bytes.Equal(h, s.sent[i]) {
			event(&b, regions[i], h)
		}
	}
	if html != nil {
		s.sent = html
	}
	state := "live"
	if trouble != nil {
		state = "out of date: " + explain(trouble).title
	}
	if s.said != state {
		s.said = state
		event(&b, "state", []byte(state))
	}
	if b.Len() == 0 {
		b.WriteString(":\n\n") // finds out whether the browser is there
	}
	_ = s.rc.SetWriteDeadline(time.Now().Add(10 * time.Second)) // where that cannot be set, a write may take longer
	if _, err := s.w.Write(b.Bytes()); err != nil {
		return err
	}
	return s.rc.Flush()
}

// event writes one event in the format of server-sent events, in which each line is marked.
func event(b *bytes.Buffer, name string, data []byte) {
	fmt.Fprintf(b, "event: %s\n", name)
	for line := range slices.Values(bytes.Split(data, []byte("\n"))) {
		fmt.Fprintf(b, "data: %s\n", line)
	}
	b.WriteByte('\n')
}
