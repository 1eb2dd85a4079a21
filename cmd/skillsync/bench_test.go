package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"skillsync/genesys"
	"skillsync/genesys/sandbox"
	"skillsync/queue"
	"skillsync/queue/embedded"
	"skillsync/queue/queuetest"
)

// BenchmarkFleet is a backlog of b.N records on its way through a fleet, with broker and sandbox
// as processes of their own, so that CPU and memory are the workers'. Steady state: the records
// carry user ids, and nobody in the org is without skills. For figures that mean something:
//
//	go test -run '^$' -bench Fleet/limit=0 -benchtime 5000x ./cmd/skillsync
//	go test -run '^$' -bench Fleet/limit=3000 -benchtime 6000x ./cmd/skillsync
//	go test -run '^$' -bench Fleet/limit=300 -benchtime 900x ./cmd/skillsync
func BenchmarkFleet(b *testing.B) {
	for _, limit := range []int{0, 3000, 300} {
		for _, workers := range []int{1, 4} {
			for _, mix := range []mix{
				{name: "changed", changed: 1, each: 1},
				{name: "unchanged", changed: 0, each: 1},
				{name: "tenth", changed: .1, each: 1},
				{name: "thrice", changed: 1, each: 3},
				{name: "attributes", changed: 1, each: 1, profile: genesys.CustomAttributes},
			} {
				b.Run(fmt.Sprintf("limit=%d/workers=%d/%s", limit, workers, mix.name), func(b *testing.B) {
					benchFleet(b, limit, workers, mix)
				})
			}
		}
	}
}

// BenchmarkRecord is one record's way through a worker, at a sandbox without latency or limit.
//
//	go test -run '^$' -bench Record -benchtime 5000x ./cmd/skillsync
func BenchmarkRecord(b *testing.B) {
	benchFleet(b, 0, 1, mix{name: "instant", changed: 1, each: 1, instant: true})
}

// A mix is what the records of a backlog are like.
type mix struct {
	name    string
	changed float64         // share of employees whose user is not yet as the record says
	each    int             // records of each employee, the newest last
	profile genesys.Profile // default routing-skills
	instant bool            // the org answers at once, where a patch takes 20 ms and a read 5 ms otherwise
}

func benchFleet(b *testing.B, limit, workers int, m mix) {
	employees := (b.N + m.each - 1) / m.each
	url := child(b, "broker", nil)
	org := child(b, "sandbox", orgOf{Users: employees, Right: int(float64(employees) * (1 - m.changed)), Limit: limit, Instant: m.instant})
	broker := queuetest.Connect(b, url)
	if _, err := broker.Setup(b.Context(), queue.Topology{AckWait: time.Minute}); err != nil {
		b.Fatal(err)
	}
	publishMix(b, broker, employees, m)

	// The token is there before the clock starts, as it is in a fleet that has run for a while.
	before := usage()
	b.ResetTimer()
	for range workers {
		f := newFleet(b, queuetest.Connect(b, url), org)
		f.limit, f.client.Profile = limit, genesys.RoutingSkills
		if m.profile != "" {
			f.client.Profile = m.profile
		}
		f.worker.Provisioner.Settle = 0
		defer runFleet(b, f, zerolog.Nop())()
	}
	settled(b, broker, b.N, time.Hour, nil)
	b.StopTimer()
	after := usage()

	var stats sandbox.Stats
	get(b, org+"/_sandbox/stats", &stats)
	tokens := stats.ByOp["token"]
	records, seconds := float64(b.N), b.Elapsed().Seconds()
	b.ReportMetric(records/seconds, "records/s")
	b.ReportMetric(float64(stats.Requests-tokens)/records, "requests/record")
	b.ReportMetric(float64(stats.Refused429), "refused")
	b.ReportMetric((after.cpu-before.cpu).Seconds()*1000/records, "cpu-ms/record")
	b.ReportMetric(after.peakMiB, "peak-MiB")
	if limit > 0 && seconds > 60 {
		b.ReportMetric(100*float64(stats.MaxWindow60s)/float64(limit), "%limit")
	}
}

// publishMix stores the backlog, in the order in which it is to be overtaken.
func publishMix(b *testing.B, broker *queue.Broker, employees int, m mix) {
	p := queue.Publisher{Broker: broker}
	sent := 0
	for round := range m.each {
		for i := 1; i <= employees && sent < b.N; i++ {
			id := fmt.Sprintf("EMP-%04d", i)
			data := fmt.Appendf(nil, `{"employee_id":%q,"user_id":%q,"department":"Billing","version":%d}`, id, sandbox.UserID(id), round)
			if err := p.Send(b.Context(), queue.Message{EmployeeID: id, Data: data}, nil); err != nil {
				b.Fatal(err)
			}
			sent++
		}
	}
	if err := p.Flush(b.Context()); err != nil {
		b.Fatal(err)
	}
}

// An orgOf is what the sandbox of a benchmark is told.
type orgOf struct {
	Users, Right, Limit int // Right: so many have just what their records say
	Instant             bool
}

func (o orgOf) config() sandbox.Config {
	cfg := sandbox.Org(o.Users)
	for i := range cfg.Users {
		cfg.Users[i].Skills = []sandbox.Skill{{Name: "Spanish", Proficiency: 3}}
		if i < o.Right {
			cfg.Users[i].Skills = append(cfg.Users[i].Skills, sandbox.Skill{Name: "Billing", Proficiency: 4})
		}
	}
	cfg.Limit, cfg.LimitShared = o.Limit, true
	if !o.Instant {
		cfg.PatchLatency, cfg.ReadLatency = 20*time.Millisecond, 5*time.Millisecond
	}
	return cfg
}

const roleVariable = "SKILLSYNC_TEST_ROLE"

// child runs this test binary in another role, and returns the URL where it answers.
func child(b *testing.B, role string, config any) (url string) {
	b.Helper()
	text, err := json.Marshal(config)
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleVariable+"="+role, "SKILLSYNC_TEST_CONFIG="+string(text))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // Wait tells if it was gone
		if err := cmd.Wait(); err != nil {
			b.Errorf("%s: %v", role, err)
		}
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		b.Fatalf("%s: %v", role, err)
	}
	return strings.TrimSpace(line)
}

// playRole is main of a child.
func playRole(role string) error {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	switch role {
	case "broker":
		dir, err := os.MkdirTemp("", "skillsync-bench-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		s, err := embedded.Start(embedded.Options{Dir: dir, Listen: "127.0.0.1:0", NoSync: true})
		if err != nil {
			return err
		}
		defer s.Shutdown()
		fmt.Println(s.URL())
	case "sandbox":
		var o orgOf
		if err := json.Unmarshal([]byte(os.Getenv("SKILLSYNC_TEST_CONFIG")), &o); err != nil {
			return err
		}
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		s := startServer(ln, sandbox.New(o.config()), func(err error) { panic(err) })
		defer s.stop()
		fmt.Println(s.url)
	}
	<-stop
	return nil
}

type rusage struct {
	cpu     time.Duration
	peakMiB float64
}

// usage is what this process has used so far.
func usage() rusage {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err) // the kernel knows this process
	}
	return rusage{time.Duration(u.Utime.Nano() + u.Stime.Nano()), float64(u.Maxrss) / 1024}
}
