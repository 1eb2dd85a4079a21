package main

import (
	"fmt"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"skillsync/genesys"
	"skillsync/genesys/sandbox"
	"skillsync/queue"
	"skillsync/queue/queuetest"
)

// BenchmarkRecord is one record's way from the stream to its result: fetched, claimed, found, read,
// patched, verified, closed and acknowledged, at a sandbox without latency, lag or limit. Broker and
// sandbox run in the same process and share its cores. Every record is of another employee, so
// each one costs a lookup, too.
func BenchmarkRecord(b *testing.B) {
	broker := queuetest.Run(b, queue.Topology{AckWait: time.Minute})
	cfg := sandbox.Org(b.N)
	for i := range cfg.Users {
		cfg.Users[i].Skills = []sandbox.Skill{{Name: "Spanish", Proficiency: 3}} // as in a real org, nobody has none
	}
	org := sandbox.New(cfg)
	server := httptest.NewServer(org)
	b.Cleanup(server.Close)

	p := queue.Publisher{Broker: broker}
	for i := 1; i <= b.N; i++ {
		id := fmt.Sprintf("EMP-%04d", i)
		data := fmt.Appendf(nil, `{"employee_id":%q,"department":"Billing","role_level":"Level2"}`, id)
		if err := p.Send(b.Context(), queue.Message{EmployeeID: id, Data: data}, nil); err != nil {
			b.Fatal(err)
		}
	}
	if err := p.Flush(b.Context()); err != nil {
		b.Fatal(err)
	}
	f := benchFleet(b, broker, server.URL)
	b.ResetTimer()
	stop := runFleet(b, f, zerolog.Nop())
	settled(b, broker, b.N, 10*time.Minute, nil)
	b.StopTimer()
	stop()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
	b.ReportMetric(float64(org.Stats().Requests)/float64(b.N), "requests/record")
}

func benchFleet(b *testing.B, broker *queue.Broker, url string) *fleet {
	f := newFleet(b, broker, url)
	f.client.Profile = genesys.RoutingSkills
	f.worker.Provisioner.Settle = 0
	return f
}
