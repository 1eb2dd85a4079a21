package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"skillsync/queue"
)

// BenchmarkDeadLetters measures the operator's commands, each a process of its own, over b.N dead
// letters; of one run only, since each would have to be filled anew:
//
//	go test -run '^$' -bench DeadLetters -benchtime 1000000x -timeout 1h ./cmd/skillsync
func BenchmarkDeadLetters(b *testing.B) {
	if b.N < 1000 {
		return // the framework tries with one first
	}
	server, broker := startBroker(b, queue.Topology{})
	fillDead(b, server.URL(), b.N)
	env := []string{"NATS_URL=" + server.URL(), "HOME=" + b.TempDir(), "PATH=" + os.Getenv("PATH")}
	b.ResetTimer()
	for _, m := range []struct {
		name string
		rows int // that are written or done
		args []string
	}{
		{"groups", 0, []string{"dlq", "groups"}},
		{"first-page", 0, []string{"dlq", "ls", "--json"}},
		{"page-of-a-reason", 0, []string{"dlq", "ls", "--reason=rejected", "--json"}},
		{"page-from-the-middle", 0, []string{"dlq", "ls", "--json", "--from", strconv.Itoa(b.N / 2)}},
		{"newest", 0, []string{"dlq", "ls", "--newest", "--json"}},
		{"newest-of-a-reason", 0, []string{"dlq", "ls", "--newest", "--reason=rejected", "--json"}},
		{"filter-that-hits-often", 0, []string{"dlq", "ls", "--status=400", "--json"}},
		{"filter-that-hits-the-last", 0, []string{"dlq", "ls", "--text=needle", "--json"}},
		{"newest-that-hits-the-first", 0, []string{"dlq", "ls", "--newest", "--text=EMP-0000000", "--json"}},
		{"export", b.N, []string{"dlq", "export", "--all", "--values"}},
		{"replay", b.N, []string{"dlq", "replay", "--all", "--yes"}},
	} {
		f := measureCommand(b, env, m.args)
		b.ReportMetric(f.first.Seconds()*1000, m.name+"-ms")
		if m.rows > 0 {
			b.ReportMetric(float64(m.rows)/f.all.Seconds(), m.name+"/s")
		}
		b.ReportMetric(f.peak, m.name+"-MiB")
	}
	b.ReportMetric(0, "ns/op")
	status, err := broker.Status(b.Context())
	if err != nil || status.Waiting != uint64(b.N) || len(status.Dead) != 0 {
		b.Errorf("after the replay: %+v, %v", status, err)
	}
}

// A commandFigure is how long a command took to its first byte and in all, and its peak memory.
type commandFigure struct {
	first, all time.Duration
	peak       float64 // MiB
}

func measureCommand(b *testing.B, env, args []string) (f commandFigure) {
	b.Helper()
	cmd := exec.CommandContext(b.Context(), binary(b), args...)
	cmd.Env, cmd.Stderr = env, os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	began := time.Now()
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	peak := make(chan float64)
	go func() { peak <- watchMemory(cmd.Process.Pid) }()
	r := bufio.NewReader(out)
	if _, err := r.ReadByte(); err != nil {
		b.Fatalf("%v wrote nothing: %v", args, err)
	}
	f.first = time.Since(began)
	if _, err := io.Copy(io.Discard, r); err != nil {
		b.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		b.Fatalf("%v: %v", args, err)
	}
	f.all = time.Since(began)
	f.peak = <-peak
	return f
}

// watchMemory returns the peak memory of a process in MiB once that has ended. (What wait4 tells
// begins with the memory of the process that started it.)
func watchMemory(pid int) (peak float64) {
	for {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		_, after, ok := strings.Cut(string(status), "VmHWM:")
		var kib float64
		if n, _ := fmt.Sscan(after, &kib); err != nil || !ok || n != 1 {
			return peak
		}
		peak = kib / 1024
		time.Sleep(2 * time.Millisecond)
	}
}

// fillDead stores n dead letters of as many employees as workers would, without the workers.
func fillDead(b testing.TB, url string, n int) {
	b.Helper()
	nc, err := nats.Connect(url)
	if err != nil {
		b.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(4000))
	if err != nil {
		b.Fatal(err)
	}
	reasons := []string{"user_not_found", "skill_unknown", "unverified", "rejected", "retries_exhausted"}
	for i := range n {
		id, reason := fmt.Sprintf("EMP-%07d", i), reasons[i%len(reasons)]
		m := nats.NewMsg("employees.dead." + reason + "." + id)
		m.Data = fmt.Appendf(nil, `{"employee_id":%q,"department":"Support-Tier2","role_level":"Level3","location_code":"US-East","updated_at":"2026-11-23T09:30:00Z"}`, id)
		text := "find the user of employee " + id + ": genesys: 404 not found, correlation id 1b2c3d4e"
		if i == n-1 {
			text += " needle"
		}
		for name, value := range map[string]string{
			"Employee": id, "Reason": reason, "Class": "permanent", "Error": text, "Status": strconv.Itoa(400 + i%5), "Attempts": "5",
			"Correlation-Id": "1b2c3d4e-1b2c-1b2c-1b2c-1b2c3d4e5f60", "First-Failure": "2026-11-23T09:30:00.123456Z", "Last-Failure": "2026-11-23T09:34:00.123456Z",
			"Mapping": "0123456789abcdef", "Subject": "employees.records." + id, "Stream": queue.Stream, "Epoch": "1795000000000000000", "Sequence": strconv.Itoa(i + 1), "Replays": "0",
		} {
			m.Header.Set("Skillsync-"+name, value)
		}
		if _, err := js.PublishMsgAsync(m); err != nil {
			b.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
	defer cancel()
	select {
	case <-js.PublishAsyncComplete():
	case <-ctx.Done():
		b.Fatal("the dead letters are not stored")
	}
}
