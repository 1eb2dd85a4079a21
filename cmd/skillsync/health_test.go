package main

import (
	"bytes"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestHealthIsWhatAServerSaysOfItself(t *testing.T) {
	t.Parallel()
	done := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/unready":
			http.Error(w, "not ready: no broker", http.StatusServiceUnavailable)
		case "/elsewhere":
			http.Redirect(w, r, "/", http.StatusFound)
		case "/silent":
			<-done
		}
	}))
	t.Cleanup(s.Close)
	t.Cleanup(func() { close(done) }) // before the server waits for its answers
	nobody := httptest.NewServer(nil)
	nobody.Close()
	for name, row := range map[string]struct{ url, want string }{
		"well":        {s.URL + "/", ""},
		"unwell":      {s.URL + "/unready", "503 Service Unavailable: not ready: no broker"},
		"a redirect":  {s.URL + "/elsewhere", "302 Found"},
		"silence":     {s.URL + "/silent", "deadline exceeded"},
		"nobody":      {nobody.URL, "connection refused"},
		"no address":  {"http://%", "invalid URL"},
		"not an HTTP": {"file:///etc/hosts", "unsupported protocol"},
	} {
		c := healthCmd{URL: row.url, Timeout: 200 * time.Millisecond}
		err := c.Run(&program{ctx: t.Context(), out: &bytes.Buffer{}})
		if row.want == "" && err != nil || row.want != "" && (err == nil || !strings.Contains(err.Error(), row.want)) {
			t.Errorf("%s: %v", name, err)
		}
		if exit := (*exitError)(nil); errors.As(err, &exit) != (name == "no address") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
