package queue_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"go.uber.org/goleak"

	"skillsync/queue"
	"skillsync/queue/queuetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// fetch returns n records, or fails if they do not come.
func fetch(t testing.TB, q *queue.Queue, n int) (all []*queue.Delivery) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); len(all) < n; {
		_, err := q.Fetch(t.Context(), n-len(all), time.Second, func(d *queue.Delivery) { all = append(all, d) })
		if errors.Is(err, queue.ErrUnreachable) && time.Now().Before(deadline) {
			continue // the connection is lost, and not everybody has heard of it yet: ask again
		}
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("%d of %d records came, %v", len(all), n, err)
		}
	}
	return all
}

func short(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

func backlog(t testing.TB, b *queue.Broker) uint64 {
	t.Helper()
	return must[queue.Status](t)(b.Status(t.Context())).Backlog
}

func deadLetters(t testing.TB, b *queue.Broker, f queue.Filter) []queue.DeadLetter {
	t.Helper()
	page, _, err := b.DeadLetters().List(t.Context(), f, 0, 1000)
	ok(t, err)
	return page
}

// withUsers starts a broker whose user "worker" has the permissions given; "admin" may do all.
func withUsers(t testing.TB, worker *server.Permissions) (admin, restricted *queue.Broker) {
	t.Helper()
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true,
		Users: []*server.User{{Username: "admin", Password: "a"}, {Username: "worker", Password: "w", Permissions: worker}},
	})
	ok(t, err)
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("the broker does not start")
	}
	connect := func(user, password string) *queue.Broker {
		b := must[*queue.Broker](t)(queue.Connect(t.Context(), queue.Config{
			URL: s.ClientURL(), User: user, Password: password, Wait: 5 * time.Second, InboxPrefix: "_INBOX_" + user,
		}))
		t.Cleanup(b.Close)
		return b
	}
	admin = connect("admin", "a")
	must[[]queue.Change](t)(admin.Setup(t.Context(), queue.Topology{AckWait: time.Second}))
	return admin, connect("worker", "w")
}

func allowed(subjects ...string) *server.Permissions {
	return &server.Permissions{
		Publish:   &server.SubjectPermission{Allow: subjects},
		Subscribe: &server.SubjectPermission{Allow: []string{"_INBOX_worker.>"}},
	}
}

func denied(subjects ...string) *server.Permissions {
	return &server.Permissions{Publish: &server.SubjectPermission{Deny: subjects}}
}

// through connects to a broker that has been set up, by way of a proxy.
func through(t testing.TB, b *queue.Broker) (*queue.Broker, *queuetest.Proxy) {
	t.Helper()
	p := queuetest.NewProxy(t, b.URL())
	return queuetest.Connect(t, p.URL()), p
}

func BenchmarkFetchAndAck(b *testing.B) {
	broker := queuetest.Run(b, queue.Topology{})
	p := &queue.Publisher{Broker: broker}
	for i := range b.N {
		ok(b, p.Send(b.Context(), queue.Message{EmployeeID: fmt.Sprint(i), Data: make([]byte, 300)}, nil))
	}
	ok(b, p.Flush(b.Context()))
	q := must[*queue.Queue](b)(broker.Queue(b.Context()))
	slots := make(chan struct{}, 128)
	var acked atomic.Int64
	b.ResetTimer()
	for fetched := 0; fetched < b.N; {
		slots <- struct{}{}
		n := 1
		for n < cap(slots) && fetched+n < b.N {
			select {
			case slots <- struct{}{}:
				n++
				continue
			default:
			}
			break
		}
		count, err := q.Fetch(b.Context(), n, time.Second, func(d *queue.Delivery) {
			go func() {
				defer func() { <-slots }()
				if err := d.Ack(b.Context(), queue.Result{EmployeeID: "EMP", Outcome: queue.OutcomeVerified}); err != nil {
					b.Error(err)
				}
				acked.Add(1)
			}()
		})
		ok(b, err)
		fetched += count
		for range n - count {
			<-slots
		}
	}
	for range cap(slots) {
		slots <- struct{}{}
	}
	b.ReportMetric(float64(acked.Load())/b.Elapsed().Seconds(), "records/s")
}

func BenchmarkPublisher(b *testing.B) {
	p := &queue.Publisher{Broker: queuetest.Run(b, queue.Topology{})}
	for i := range b.N {
		ok(b, p.Send(b.Context(), queue.Message{EmployeeID: fmt.Sprint(i), Data: make([]byte, 300)}, nil))
	}
	ok(b, p.Flush(b.Context()))
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
}
