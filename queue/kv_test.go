package queue_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"skillsync/queue"
	"skillsync/queue/queuetest"
)

func TestAWatchResumesAfterTheBrokerIsStartedAgain(t *testing.T) {
	dir := t.TempDir()
	server := queuetest.Serve(t, dir, "127.0.0.1:0")
	b := queuetest.Connect(t, server.URL())
	must[[]queue.Change](t)(b.Setup(t.Context(), queue.Topology{}))
	kv := must[*queue.KV](t)(b.KV(t.Context(), queue.LimitsBucket))
	revision := must[uint64](t)(kv.Update(t.Context(), "k", []byte("1"), 0))

	ctx, cancel := context.WithCancelCause(t.Context())
	seen, done := make(chan string, 10), make(chan error)
	go func() { done <- kv.Watch(ctx, "k", func(e queue.Entry) { seen <- string(e.Value) }) }()
	if got := <-seen; got != "1" {
		t.Fatal("first told", got)
	}
	server.Shutdown()
	server = queuetest.Serve(t, dir, strings.TrimPrefix(server.URL(), "nats://"))
	t.Cleanup(server.Shutdown)
	_, err := kv.Update(t.Context(), "k", []byte("2"), revision) // waits for the connection
	for errors.Is(err, queue.ErrUnreachable) {                   // it was not known to be lost yet
		_, err = kv.Update(t.Context(), "k", []byte("2"), revision)
	}
	ok(t, err)
	if got := <-seen; got != "2" {
		t.Error("told", got)
	}
	stop := errors.New("stop")
	cancel(stop)
	if err := <-done; !errors.Is(err, stop) {
		t.Error("watch:", err)
	}
}

func TestABucketThatIsNotThereIsNamed(t *testing.T) {
	b := queuetest.Run(t)
	if _, err := b.KV(t.Context(), "nothing"); err == nil || !strings.Contains(err.Error(), "open bucket nothing") {
		t.Error("error:", err)
	}
}
