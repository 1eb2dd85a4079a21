package main

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"skillsync/queue"
)

// browse gets a page of a console.
func browse(t *testing.T, url string) string {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Close = true
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v\n%s", url, resp.Status, err, body)
	}
	return string(body)
}

func TestTheConsoleShowsABrokerAndEndsWhenAsked(t *testing.T) {
	t.Parallel()
	server, b := startBroker(t, queue.Topology{})
	if _, err := b.Publish(t.Context(), queue.Message{EmployeeID: "EMP-1"}); err != nil {
		t.Fatal(err)
	}
	p := start(t, []string{"NATS_URL=" + server.URL(), "SKILLSYNC_CONSOLE_ADDRESS=localhost:0"}, "console")
	url := p.await(`console at (http://\S+)`)[1]
	if body := browse(t, url); !strings.Contains(body, "<dt>Waiting</dt><dd>1</dd>") {
		t.Errorf("the overview:\n%s", body)
	}
	_, errs, code := call(t, []string{"NATS_URL=" + server.URL()}, "", "console", "--address", strings.TrimPrefix(url, "http://"))
	if code != exitFailed || !strings.Contains(errs, "choose another address with --address") {
		t.Errorf("an address that is taken: exit code %d\n%s", code, errs)
	}
	p.signal(syscall.SIGTERM)
	if code := p.end(30 * time.Second); code != 0 {
		t.Errorf("the console ended with %d", code)
	}
}

func TestADemoThatStaysUpShowsItsDeadLettersOnAPage(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "one.csv")
	if err := os.WriteFile(file, []byte("employee_id,department\nTMP-1,Sales\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := start(t, nil, "demo", "--limit=6000", "--listen=127.0.0.1:0", "--file="+file)
	url := p.await(`(http://\S+) +the same on a page`)[1]
	if body := browse(t, url+"/dead"); !strings.Contains(body, "TMP-1") || !strings.Contains(body, "user_not_found") {
		t.Errorf("the dead letters:\n%s", body)
	}
	p.signal(syscall.SIGTERM)
	if code := p.end(30 * time.Second); code != 0 {
		t.Errorf("the demo ended with %d", code)
	}
}
