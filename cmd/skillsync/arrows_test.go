package main

import (
	"os/exec"
	"strings"
	"testing"
)

// The arrows of design section 2: who may know whom.
func TestPackagesKnowOnlyWhatTheyMay(t *testing.T) {
	const module = "skillsync/"
	forbidden := map[string][]string{
		"genesys":         {"queue", "worker", "cmd"},
		"genesys/sandbox": {"genesys", "queue", "worker", "cmd"}, // no code shared with the client it tests
		"queue":           {"genesys", "worker", "cmd"},
		"queue/ledger":    {"genesys", "worker", "cmd", "queue/ratelimit"},
		"queue/ratelimit": {"genesys", "worker", "cmd", "queue/ledger"},
		"queue/embedded":  {"genesys", "worker", "cmd"},
		"worker":          {"cmd", "genesys/sandbox", "queue/embedded", "queue/queuetest"},
		"worker/employee": {"genesys", "queue", "cmd"},
		"worker/mapping":  {"queue", "cmd", "genesys/sandbox"},

		"cmd/skillsync/console": {"genesys", "worker"},
	}
	for from, to := range forbidden {
		deps := goList(t, "-deps", "skillsync/"+from)
		for _, dep := range deps {
			name, ours := strings.CutPrefix(dep, module)
			for _, f := range to {
				if ours && name != from && (name == f || strings.HasPrefix(name, f+"/") && !strings.HasPrefix(from, f)) {
					t.Errorf("%s knows %s", from, name)
				}
			}
		}
	}
}

func TestOnlyTheQueueImportsNATS(t *testing.T) {
	lines := goList(t, "-f", `{{.ImportPath}}: {{join .Imports " "}}`, "skillsync/...")
	for _, line := range lines {
		pkg, imports, _ := strings.Cut(line, ": ")
		if strings.Contains(imports, "github.com/nats-io/") && !strings.HasPrefix(pkg, "skillsync/queue") {
			t.Errorf("%s imports NATS", pkg)
		}
	}
}

func goList(t *testing.T, args ...string) []string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", append([]string{"list"}, args...)...).Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	return strings.Split(strings.TrimSpace(string(out)), "\n")
}
