package embedded_test

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"skillsync/queue"
	"skillsync/queue/embedded"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T, o embedded.Options) *embedded.Server {
	t.Helper()
	s, err := embedded.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Shutdown)
	return s
}

func connect(t *testing.T, url string) *queue.Broker {
	t.Helper()
	b, err := queue.Connect(t.Context(), queue.Config{URL: url, Wait: 10e9})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

func TestTwoServersCannotShareAFolder(t *testing.T) {
	dir := t.TempDir()
	first := start(t, embedded.Options{Dir: dir, Listen: "127.0.0.1:0"})
	_, err := embedded.Start(embedded.Options{Dir: dir, Listen: "127.0.0.1:0"})
	var locked *embedded.LockedError
	if !errors.Is(err, embedded.ErrLocked) || !errors.As(err, &locked) || locked.URL != first.URL() {
		t.Fatal("error:", err)
	}
	if url, ok := embedded.Find(dir); !ok || url != first.URL() {
		t.Errorf("found %q, %v", url, ok)
	}
	connect(t, locked.URL) // so a second process uses the first one's
	first.Shutdown()
	if url, ok := embedded.Find(dir); ok {
		t.Errorf("found %q after it stopped", url)
	}
	if _, err := os.Stat(filepath.Join(dir, "nats.url")); !errors.Is(err, os.ErrNotExist) {
		t.Error("the address is left behind:", err)
	}
	start(t, embedded.Options{Dir: dir, Listen: "127.0.0.1:0"})
}

func TestAnAddressLeftByAKilledProcessIsIgnored(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"nats.url", "skillsync.lock"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("nats://127.0.0.1:1\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if url, ok := embedded.Find(dir); ok {
		t.Errorf("found %q", url)
	}
	s := start(t, embedded.Options{Dir: dir, Listen: "127.0.0.1:0"})
	if url, ok := embedded.Find(dir); !ok || url != s.URL() {
		t.Errorf("found %q, %v", url, ok)
	}
}

func TestThereIsNothingToFindInAFolderNeverUsed(t *testing.T) {
	if url, ok := embedded.Find(filepath.Join(t.TempDir(), "none")); ok {
		t.Errorf("found %q", url)
	}
}

func TestRecordsOutliveTheServer(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "by it")
	s := start(t, embedded.Options{Dir: dir, Listen: "127.0.0.1:0"})
	b := connect(t, s.URL())
	if _, err := b.Setup(t.Context(), queue.Topology{}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Publish(t.Context(), queue.Message{EmployeeID: "EMP-1"}); err != nil {
		t.Fatal(err)
	}
	b.Close()
	s.Shutdown()
	b = connect(t, start(t, embedded.Options{Dir: dir, Listen: "127.0.0.1:0"}).URL())
	if status, err := b.Status(t.Context()); err != nil || status.Backlog != 1 {
		t.Errorf("%+v, %v", status, err)
	}
}

func TestOnlyTheOwnerReadsTheAddress(t *testing.T) {
	dir := t.TempDir()
	start(t, embedded.Options{Dir: dir, Listen: "127.0.0.1:0"})
	info, err := os.Stat(filepath.Join(dir, "nats.url"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Error(info.Mode(), err)
	}
}

func TestTheUsualPortIsLeftToWhoeverHasIt(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:4222") // or somebody has it already
	if err == nil {
		defer l.Close()
	}
	s := start(t, embedded.Options{Dir: t.TempDir()})
	if !strings.HasPrefix(s.URL(), "nats://127.0.0.1:") || strings.HasSuffix(s.URL(), ":4222") {
		t.Error(s.URL())
	}
	connect(t, s.URL())
}

func TestAnAddressThatCannotBeHadIsRefused(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dir := t.TempDir()
	for listen, want := range map[string]string{
		"0.0.0.0:4222":      "not a loopback address",
		"example.com:4222":  "not a loopback address",
		"4222":              "missing port",
		l.Addr().String():   "address already in use",
		"127.0.0.1:nowhere": "unknown port",
	} {
		if _, err := embedded.Start(embedded.Options{Dir: dir, Listen: listen}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", listen, err)
		}
	}
	start(t, embedded.Options{Dir: dir, Listen: "localhost:0"}) // the folder is free again
}

func TestWhatTheServerWarnsOfIsPassedOn(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "jetstream"), nil, 0o600); err != nil { // where it wants a folder
		t.Fatal(err)
	}
	var told []string
	_, err := embedded.Start(embedded.Options{Dir: dir, Listen: "127.0.0.1:0", Log: func(_ bool, text string) { told = append(told, text) }})
	if err == nil || len(told) == 0 {
		t.Errorf("error %v, told %q", err, told)
	}
}
