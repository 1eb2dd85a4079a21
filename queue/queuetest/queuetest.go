// Package queuetest provides queues to test against: a real broker in this process, and one in
// memory that is strict, runs in synctest bubbles and fails on demand. Suite holds both to the
// same contract. It must not know what is in a record.
package queuetest

import (
	"context"
	"testing"
	"time"

	"skillsync/queue"
	"skillsync/queue/embedded"
)

// Run starts a broker in this process and sets it up, all of it gone when the test ends. With no
// topology given, all is default but a lease of two seconds.
func Run(t testing.TB, topology ...queue.Topology) *queue.Broker {
	t.Helper()
	server := Serve(t, t.TempDir(), "127.0.0.1:0")
	t.Cleanup(server.Shutdown)
	b := Connect(t, server.URL())
	to := queue.Topology{AckWait: 2 * time.Second}
	if len(topology) > 0 {
		to = topology[0]
	}
	if _, err := b.Setup(t.Context(), to); err != nil {
		t.Fatal(err)
	}
	return b
}

// Serve starts a server that the test shuts down itself.
func Serve(t testing.TB, dir, listen string) *embedded.Server {
	t.Helper()
	server, err := embedded.Start(embedded.Options{
		Dir: dir, Listen: listen, NoSync: true,
		Log: func(_ bool, text string) { t.Log("broker:", text) },
	})
	if err != nil {
		t.Fatal(err)
	}
	return server
}

// Connect connects to a server until the test ends.
func Connect(t testing.TB, url string) *queue.Broker {
	t.Helper()
	b, err := queue.Connect(context.WithoutCancel(t.Context()), queue.Config{URL: url, Name: t.Name(), Wait: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}
