package console_test

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"skillsync/cmd/skillsync/console"
	"skillsync/queue"
)

// served is a console that listens and runs, until the test ends or stop is called.
type served struct {
	*bench
	url  string
	stop func() // ends Run, and waits for it
}

func serve(t *testing.T, change ...func(*console.Console)) *served {
	t.Helper()
	b := open(t, append(change, func(c *console.Console) { c.Every = 20 * time.Millisecond })...)
	server := httptest.NewServer(b.handler)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); b.Run(ctx) }()
	s := &served{bench: b, url: server.URL, stop: func() { cancel(); <-done }}
	t.Cleanup(func() { s.stop(); server.Close() })
	return s
}

// An event is what a browser gets.
type event struct{ name, data string }

// listen opens a stream; its channel is closed when the stream ends.
func (s *served) listen(t *testing.T, query string, change ...func(*http.Request)) <-chan event {
	t.Helper()
	r := must[*http.Request](t)(http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+"/events?"+query, nil))
	for _, c := range change {
		c(r)
	}
	resp := must[*http.Response](t)(http.DefaultClient.Do(r))
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("events: %s, %v", resp.Status, resp.Header)
	}
	events := make(chan event)
	done := make(chan struct{})
	t.Cleanup(func() { resp.Body.Close(); <-done; http.DefaultClient.CloseIdleConnections() })
	go func() {
		defer close(done)
		defer close(events)
		read(t.Context(), resp.Body, events)
	}()
	return events
}

func read(ctx context.Context, body io.Reader, events chan<- event) {
	var e event
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ": ")
		switch {
		case name == "event":
			e.name = value
		case name == "data":
			e.data += value + "\n"
		case lines.Text() == "" && e.name != "":
			select {
			case events <- e:
			case <-ctx.Done():
				return
			}
			e = event{}
		}
	}
}

// await waits for an event of that name with a text in it.
func await(t *testing.T, events <-chan event, name, text string) string {
	t.Helper()
	late := time.After(20 * time.Second)
	for {
		select {
		case e, open := <-events:
			if !open {
				t.Fatalf("the stream ended before %s with %q came", name, text)
			}
			if e.name == name && strings.Contains(e.data, text) {
				return e.data
			}
		case <-late:
			t.Fatalf("%s with %q does not come", name, text)
		}
	}
}

// ends waits for the end of a stream.
func ends(t *testing.T, events <-chan event) {
	t.Helper()
	late := time.After(20 * time.Second)
	for {
		select {
		case _, open := <-events:
			if !open {
				return
			}
		case <-late:
			t.Fatal("the stream does not end")
		}
	}
}

func TestAnOpenPageIsToldWhatChanges(t *testing.T) {
	s := serve(t)
	events := s.listen(t, "page=overview")
	await(t, events, "backlog", "<dt>Waiting</dt><dd>0</dd>")
	await(t, events, "state", "live")
	must[queue.Ack](t)(s.broker.Publish(t.Context(), queue.Message{EmployeeID: "EMP-1"}))
	await(t, events, "backlog", "<dt>Waiting</dt><dd>1</dd>")
	s.limited(t, "client-1", 300)
	chart := await(t, events, "budgets", "<svg")
	contains(t, chart, "0 to 0 requests in a minute. At the end 289 are allowed.", "<title", "<desc", `class="allowed" d="M600 `)
	s.broker.Close()
	await(t, events, "state", "out of date: The broker does not answer")
	s.stop()
	ends(t, events)
}

func TestARegionIsSentOnlyWhenItHasChanged(t *testing.T) {
	s := serve(t)
	must[queue.Replay](t)(s.Desk.Replays.Begin(t.Context(), queue.Replay{Name: "r", By: "ops"}))
	events := s.listen(t, "page=replay&name=r")
	var names []string
	for e := range events {
		names = append(names, e.name)
		if len(names) == 4 {
			must[queue.Replay](t)(s.Desk.Replays.Pause(t.Context(), "r", "ops"))
		}
		if e.name == "replay-audit" && strings.Contains(e.data, "paused") {
			break
		}
	}
	slices.Sort(names)
	if got := strings.Join(slices.Compact(names), " "); got != "progress replay-audit state steering" || len(names) > 9 {
		t.Errorf("sent: %v", names)
	}
}

func TestViewersAreSentNoControls(t *testing.T) {
	s := serve(t, func(c *console.Console) { c.Tokens = tokens })
	must[queue.Replay](t)(s.Desk.Replays.Begin(t.Context(), queue.Replay{Name: "r", By: "ops"}))
	await(t, s.listen(t, "page=replay&name=r", bearer("do-secret")), "steering", "Cancel")
	if html := await(t, s.listen(t, "page=replay&name=r", bearer("see-secret")), "steering", ""); strings.Contains(html, "Cancel") {
		t.Errorf("a viewer is sent %s", html)
	}
}

func TestAStreamEndsWithItsSession(t *testing.T) {
	s := serve(t, func(c *console.Console) { c.Tokens = tokens })
	session := s.signIn(t, "see-secret")
	events := s.listen(t, "page=limit", cookie(session))
	await(t, events, "state", "live")
	s.ask(t, http.MethodPost, "/sign-out", nil, cookie(session))
	ends(t, events)
	w := s.ask(t, http.MethodGet, "/events?page=limit", nil, cookie(session))
	if w.Code != http.StatusUnauthorized {
		t.Error("after the sign-out:", w.Code)
	}
}

func TestOnlySoManyStreamsAreOpenAtOnce(t *testing.T) {
	s := serve(t)
	var all []<-chan event
	for range console.MostStreams {
		all = append(all, s.listen(t, "page=limit"))
	}
	w := s.ask(t, http.MethodGet, "/events?page=limit", nil)
	if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
		t.Errorf("one more: %d", w.Code)
	}
	s.stop()
	for _, events := range all {
		ends(t, events)
	}
	if w := s.ask(t, http.MethodGet, "/events?page=limit", nil); w.Code != http.StatusServiceUnavailable {
		t.Errorf("after the end: %d", w.Code)
	}
}

func TestTheChartLeavesOutWhatLiesOnALine(t *testing.T) {
	for name, row := range map[string]struct {
		allowed, used []float64
		apart         time.Duration
		line, area    string
	}{
		"one sample":      {[]float64{100}, []float64{50}, time.Second, "M600 0L600 0", "M600 120L600 60L600 120Z"},
		"a constant":      {[]float64{100, 100, 100, 100}, []float64{0, 0, 0, 0}, 3 * time.Second, "M510 0L510 0L600 0", "M510 120L510 120L600 120L600 120Z"},
		"a step":          {[]float64{100, 100, 50, 50}, []float64{0, 50, 50, 50}, 3 * time.Second, "M510 0L510 0L540 0L570 60L600 60", "M510 120L510 120L540 60L600 60L600 120Z"},
		"a gap":           {[]float64{100, 100}, []float64{0, 0}, time.Minute, "M0 0L0 0M600 0L600 0", "M0 120L0 120L0 120ZM600 120L600 120L600 120Z"},
		"nothing allowed": {[]float64{0}, []float64{0}, time.Second, "M600 120L600 120", "M600 120L600 120L600 120Z"},
	} {
		line, area, words := console.Draw(row.allowed, row.used, row.apart)
		if line != row.line || area != row.area || words == "" {
			t.Errorf("%s:\n%s\n%s\n%s", name, line, area, words)
		}
	}
}

func TestTheChartForgetsWhatIsOlderThan15Minutes(t *testing.T) {
	now := time.Now()
	for want, ago := range map[int][]time.Duration{
		0: {20 * time.Minute, 16 * time.Minute, 0}, 1: {20 * time.Minute, 14 * time.Minute, 0}, 2: {14 * time.Minute, time.Minute, 0},
	} {
		var times []time.Time
		for _, d := range ago {
			times = append(times, now.Add(-d))
		}
		if got := console.Kept(times...); got != want {
			t.Errorf("%v ago: %d are kept, want %d", ago, got, want)
		}
	}
}
