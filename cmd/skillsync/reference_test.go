package main

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write deploy/reference.md anew")

func TestReferenceIsUpToDate(t *testing.T) {
	t.Parallel()
	const path = "../../deploy/reference.md"
	want := markdown(ourReference(t))
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(got), "\n"), strings.Split(want, "\n")); diff != "" {
		t.Errorf("deploy/reference.md is out of date (go test ./cmd/skillsync -run Reference -update writes it):\n%s", diff)
	}
}

func TestReferenceHasEveryFlagOfEveryCommandOnce(t *testing.T) {
	t.Parallel()
	r := ourReference(t)
	app := ourKong(t).Model
	for _, n := range app.Leaves(true) {
		i := slices.IndexFunc(r.Commands, func(c command) bool { return c.Path == n.FullPath() })
		if i < 0 {
			t.Errorf("%s is not in it", n.FullPath())
			continue
		}
		var got, want []string
		for _, f := range r.all(r.Commands[i]) {
			got = append(got, f.Name)
		}
		for _, flags := range n.AllFlags(true) {
			for _, f := range flags {
				want = append(want, f.Name)
			}
		}
		slices.Sort(got)
		slices.Sort(want)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s:\n%s", n.FullPath(), diff)
		}
	}
}

func TestTheManualPageHasNoMistakesThatRoffFinds(t *testing.T) {
	t.Parallel()
	page, err := exec.CommandContext(t.Context(), binary(t), "manual").Output()
	if err != nil {
		t.Fatal(err)
	}
	if want := manualPage(ourReference(t)); string(page) != want {
		t.Error("the program prints another page than the one made from its commands here")
	}
	if _, err := exec.LookPath("groff"); err != nil {
		t.Skip("no groff here")
	}
	groff := exec.CommandContext(t.Context(), "groff", "-man", "-Tutf8", "-k", "-ww", "-P-cbou")
	groff.Stdin = strings.NewReader(string(page))
	var complaints strings.Builder
	groff.Stderr = &complaints
	text, err := groff.Output()
	if err != nil || complaints.Len() > 0 {
		t.Fatalf("groff: %v\n%s", err, complaints.String())
	}
	for _, want := range []string{"skillsync dlq replay", "--nats-url", "SKILLSYNC_VERIFY_TIMEOUT", "EXIT STATUS"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("%q is not on the page", want)
		}
	}
}

func ourKong(t *testing.T) *kong.Kong {
	t.Helper()
	// As in run, as far as it concerns names and help.
	k, err := kong.New(new(cli), kong.Name("skillsync"), kong.DefaultEnvars("SKILLSYNC"),
		kong.Description("Keeps the routing skills of Genesys Cloud users true to what HR systems say.\n\n"+
			"Every flag can also be set by the environment variable shown beside it; secrets can come from a file (…_FILE)."))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func ourReference(t *testing.T) reference { return referenceOf(ourKong(t).Model) }

// all are the flags that a command takes, wherever they are listed.
func (r reference) all(c command) []option {
	flags := append(slices.Clone(r.Common), c.Flags...)
	for _, g := range r.Groups {
		if slices.Contains(c.Groups, g.Title) {
			flags = append(flags, g.Flags...)
		}
	}
	return flags
}

// markdown is deploy/reference.md.
func markdown(r reference) string {
	var b strings.Builder
	b.WriteString("# Commands, flags and variables\n\n" +
		"<!-- Made from the commands themselves: go test ./cmd/skillsync -run Reference -update -->\n\n" +
		"A flag wins over its environment variable, and that over the default. Durations are written as `90s`, `10m` or `24h`.\n" +
		"What each command is for, and in which order, is in the [README](../README.md).\n\n")
	b.WriteString("| command | |\n|---|---|\n")
	for _, c := range r.Commands {
		fmt.Fprintf(&b, "| [`%s`](#%s) | %s |\n", c.Path, anchor(c.Path), cell(c.Help))
	}
	b.WriteString("\nExit codes: ")
	for i, e := range exitCodes {
		if i > 0 {
			b.WriteString(" ")
		}
		fmt.Fprintf(&b, "**%d** %s", e.code, strings.ToLower(e.means[:1])+e.means[1:])
	}
	b.WriteString("\n\n")
	for _, c := range r.Commands {
		b.WriteString(markdownCommand(c))
	}
	b.WriteString("## Flags of every command\n\n" + flagTable(r.Common))
	b.WriteString("## Flags of several commands\n\n")
	for _, g := range r.Groups {
		fmt.Fprintf(&b, "### %s\n\n%s", g.Title, flagTable(g.Flags))
	}
	return b.String() + variableTable(r)
}

func markdownCommand(c command) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s\n\n%s\n\n", strings.Repeat("#", min(strings.Count(c.Path, " ")+1, 4)), c.Path, c.Help)
	if len(c.Subs) > 0 {
		return b.String() + subCommands(c)
	}
	fmt.Fprintf(&b, "```\n%s%s [flags]\n```\n\n", c.Path, c.Usage)
	if c.Detail != "" {
		b.WriteString(c.Detail + "\n\n")
	}
	if len(c.Args) > 0 {
		b.WriteString("| argument | |\n|---|---|\n")
		for _, a := range c.Args {
			fmt.Fprintf(&b, "| `%s` | %s |\n", a.Name, cell(a.Help))
		}
		b.WriteString("\n")
	}
	b.WriteString(flagTable(c.Flags))
	if len(c.Groups) > 0 {
		var links []string
		for _, title := range c.Groups {
			links = append(links, fmt.Sprintf("[%s](#%s)", title, anchor(title)))
		}
		b.WriteString("Also the flags of " + strings.Join(links, ", ") + ".\n\n")
	}
	return b.String()
}

func subCommands(c command) string {
	var links []string
	for _, s := range c.Subs {
		links = append(links, fmt.Sprintf("[%s](#%s)", s.Path[strings.LastIndexByte(s.Path, ' ')+1:], anchor(s.Path)))
	}
	line := "Sub-commands: " + strings.Join(links, ", ") + "."
	if c.ByItself != "" {
		line += " Without one: `" + c.ByItself + "`."
	}
	return line + "\n\n"
}

func flagTable(flags []option) string {
	if len(flags) == 0 {
		return ""
	}
	var b strings.Builder
	b.WriteString("| flag | variable | default | |\n|---|---|---|---|\n")
	for _, f := range flags {
		name := f.names()
		if f.Value != "" {
			name += "=" + f.Value
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", name, code(f.Envs), standard(f), cell(f.Help))
	}
	return b.String() + "\n"
}

func standard(f option) string {
	switch {
	case f.Plain:
		return code([]string{f.Default})
	case f.Default == "":
		return "–"
	}
	return cell(f.Default)
}

// variableTable is for whoever finds a variable somewhere and wonders what reads it.
func variableTable(r reference) string {
	flags, readers := map[string][]string{}, map[string][]string{}
	for _, c := range r.Commands {
		if len(c.Subs) > 0 {
			continue
		}
		for _, f := range r.all(c) {
			for _, env := range f.Envs {
				if !slices.Contains(flags[env], "--"+f.Name) {
					flags[env] = append(flags[env], "--"+f.Name)
				}
				readers[env] = append(readers[env], strings.TrimPrefix(c.Path, "skillsync "))
			}
		}
	}
	var b strings.Builder
	b.WriteString("## Environment variables\n\n| variable | flag | commands |\n|---|---|---|\n")
	for _, env := range slices.Sorted(maps.Keys(flags)) {
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", env, code(flags[env]), readersOf(r, readers[env]))
	}
	return b.String()
}

func readersOf(r reference, readers []string) string {
	slices.Sort(readers)
	readers = slices.Compact(readers)
	for _, g := range r.Groups {
		of := slices.Clone(g.Of)
		for i := range of {
			of[i] = strings.TrimPrefix(of[i], "skillsync ")
		}
		slices.Sort(of)
		if slices.Equal(of, readers) {
			return fmt.Sprintf("those with the flags of [%s](#%s)", g.Title, anchor(g.Title))
		}
	}
	leaves := 0
	for _, c := range r.Commands {
		if len(c.Subs) == 0 {
			leaves++
		}
	}
	if len(readers) == leaves {
		return "all"
	}
	return code(readers)
}

func code(words []string) string {
	if len(words) == 0 {
		return "–"
	}
	return "`" + strings.Join(words, "`, `") + "`"
}

// cell escapes what would end a table's cell.
func cell(text string) string { return strings.ReplaceAll(text, "|", `\|`) }

// anchor is how a heading is linked to.
func anchor(heading string) string { return strings.ToLower(strings.ReplaceAll(heading, " ", "-")) }
