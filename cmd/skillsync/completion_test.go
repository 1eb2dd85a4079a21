package main

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

func TestBashCompletesCommandsFlagsAndValues(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		line string   // what was typed when Tab was pressed, word by word
		want []string // all that is offered
	}{
		{"skillsync dlq re", []string{"replay", "replays"}},
		{"skillsync dlq replays c", []string{"cancel"}},
		{"skillsync completion ", []string{"bash", "fish", "zsh"}},
		{"skillsync --log-level=info dlq replay --map", []string{"--mapping", "--mapping-changed"}},
		{"skillsync worker --nats-u", []string{"--nats-url", "--nats-user"}},
		{"skillsync worker --log-level de", []string{"debug"}},
		{"skillsync worker --log-level = de", []string{"debug"}},
		{"skillsync publish --log-format ", []string{"auto", "json", "text"}},
		{"skillsync worker --profile =", []string{"auto", "custom-attributes", "routing-skills"}},
		{"skillsync limit --js", []string{"--json"}},
		{"skillsync limit --nats-c", []string{"--nats-ca", "--nats-cert", "--nats-creds"}},
		{"skillsync version --nats", nil},
		{"skillsync worker --attempts ", nil},
		{"skillsync publish completion_t", []string{"completion_test.go"}},
		{"skillsync worker --mapping completion_t", []string{"completion_test.go"}},
	} {
		t.Run(row.line, func(t *testing.T) {
			t.Parallel()
			got := completeWith(t, "bash", `
				source "$1"; shift
				COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
				_skillsync
				printf '%s\n' "${COMPREPLY[@]}"`, row.line)
			slices.Sort(got)
			if !slices.Equal(got, row.want) {
				t.Errorf("offered %q, want %q", got, row.want)
			}
		})
	}
}

func TestBashTakesTheScriptForTheProgramsCompletion(t *testing.T) {
	t.Parallel()
	got := completeWith(t, "bash", `source <(cat "$1") && complete -p skillsync`, "")
	if want := []string{"complete -F _skillsync skillsync"}; !slices.Equal(got, want) {
		t.Errorf("bash says %q, want %q", got, want)
	}
}

// Functions of zsh's own that only work while a person completes are replaced; what they would be
// given is what is looked at.
func TestZshOffersCommandsFlagsAndValues(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"skillsync dlq re":                         "replay:Publish dead letters again",
		"skillsync dlq replay --":                  "--dry-run:",
		"skillsync worker --profile ":              "routing-skills",
		"skillsync publish --log-format ":          "auto",
		"skillsync publish --nats-creds ":          "files",
		"skillsync dlq --log-level debug replays ": "cancel:",
	} {
		got := completeWith(t, "zsh", `
			compdef() { } ; compset() { return 1 } ; _message() { } ; _files() { print files }
			compadd() { shift; print -l -- "$@" } ; _describe() { print -l -- ${(P)@[-1]} }
			source "$1"; shift
			words=("$@") CURRENT=$# PREFIX=${@[-1]}
			_skillsync`, line)
		if !slices.ContainsFunc(got, func(s string) bool { return strings.HasPrefix(s, want) }) {
			t.Errorf("%s: offered %q, want %q among them", line, got, want)
		}
	}
}

func TestFishCompletesCommandsFlagsAndValues(t *testing.T) {
	t.Parallel()
	for line, want := range map[string][]string{
		"skillsync dlq re":                      {"replay", "replays"},
		"skillsync dlq replays c":               {"cancel"},
		"skillsync dlq replay --map":            {"--mapping", "--mapping-changed"},
		"skillsync worker --nats-u":             {"--nats-url", "--nats-user"},
		"skillsync version --nats":              nil,
		"skillsync worker --log-level de":       {"debug"},
		"skillsync worker --profile r":          {"routing-skills"},
		"skillsync worker --profile=r":          {"--profile=routing-skills"},
		"skillsync completion ":                 {"bash", "fish", "zsh"},
		"skillsync publish completion_t":        {"completion_test.go"},
		"skillsync --log-level info dlq replay": {"replay", "replays"},
	} {
		got := completeWith(t, "fish", `source $argv[1]; complete -C (string join ' ' -- $argv[2..-1])`, line)
		for i := range got {
			got[i], _, _ = strings.Cut(got[i], "\t")
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s: offered %q, want %q", line, got, want)
		}
	}
}

// completeWith runs a shell's program with the completion script and the typed words, and returns
// the lines that it writes.
func completeWith(t *testing.T, shell, program, typed string) []string {
	t.Helper()
	if _, err := exec.LookPath(shell); err != nil {
		t.Skipf("no %s here", shell)
	}
	path := write(t, "script", completionScript(t, shell))
	args := []string{"-c", program, shell, path}
	switch shell {
	case "fish":
		args = []string{"--no-config", "-c", program, path}
	case "zsh":
		args = slices.Insert(args, 0, "-f")
	}
	out, err := exec.CommandContext(t.Context(), shell, append(args, strings.Split(typed, " ")...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", shell, err, out)
	}
	return strings.FieldsFunc(string(out), func(r rune) bool { return r == '\n' })
}

func completionScript(t *testing.T, shell string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), binary(t), "completion", shell).Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}
