package main

import (
	"fmt"
	"strings"

	"github.com/alecthomas/kong"
)

// manualCmd prints the page that "man skillsync" shows.
type manualCmd struct{}

func (manualCmd) Help() string {
	return "To look at it: skillsync manual | man -l -\n\nTo keep it: skillsync manual >/usr/local/share/man/man1/skillsync.1"
}

func (manualCmd) Run(p *program, k *kong.Context) error {
	_, err := fmt.Fprint(p.out, manualPage(referenceOf(k.Model)))
	return err
}

func manualPage(r reference) string {
	var b strings.Builder
	// Without a date and a version, so that the same commands give the same page.
	b.WriteString(".TH SKILLSYNC 1 \"\" \"skillsync\" \"User Commands\"\n.nh\n.ad l\n.SH NAME\nskillsync \\- keep the routing skills of Genesys Cloud users true to what HR systems say\n")
	b.WriteString(".SH SYNOPSIS\n.B skillsync\n.I command\n[\\fIarguments\\fR] [\\fIflags\\fR]\n.SH DESCRIPTION\n")
	b.WriteString(roffText(r.About))
	b.WriteString(".SH COMMANDS\n")
	for _, c := range r.Commands {
		b.WriteString(roffCommand(c))
	}
	b.WriteString(".SH FLAGS OF EVERY COMMAND\n" + roffFlags(r.Common))
	b.WriteString(".SH FLAGS OF SEVERAL COMMANDS\n")
	for _, g := range r.Groups {
		b.WriteString(".SS " + roffLine(g.Title) + "\n" + roffFlags(g.Flags))
	}
	b.WriteString(".SH EXIT STATUS\n")
	for _, e := range exitCodes {
		fmt.Fprintf(&b, ".TP\n.B %d\n%s\n", e.code, roffLine(e.means))
	}
	return b.String()
}

var exitCodes = []struct {
	code  int
	means string
}{
	{0, "Done."},
	{exitFailed, "Failed; standard error says why."},
	{exitMisuse, "The command line or a setting is wrong."},
	{exitDeadLetters, "Done, with dead letters (demo --exit)."},
}

func roffCommand(c command) string {
	var b strings.Builder
	fmt.Fprintf(&b, ".SS %s\n%s", roffLine(c.Path+c.Usage), roffText(c.Help))
	if c.ByItself != "" {
		b.WriteString(roffText("Without a sub-command: " + c.ByItself + "."))
	}
	if c.Detail != "" {
		b.WriteString(roffText(c.Detail))
	}
	for _, a := range c.Args {
		fmt.Fprintf(&b, ".TP\n.I %s\n%s\n", roffLine(a.Name), roffLine(a.Help))
	}
	b.WriteString(roffFlags(c.Flags))
	if len(c.Groups) > 0 {
		b.WriteString(".PP\nAlso the flags under " + roffLine(strings.Join(c.Groups, ", ")) + ".\n")
	}
	return b.String()
}

func roffFlags(flags []option) string {
	var b strings.Builder
	for _, f := range flags {
		fmt.Fprintf(&b, ".TP\n\\fB%s\\fR%s\n%s\n", roffLine(f.names()), roffValue(f), roffLine(f.Help))
		if f.Default != "" {
			b.WriteString("Default: " + roffLine(f.Default) + ".\n")
		}
		if len(f.Envs) > 0 {
			b.WriteString("Environment: " + roffLine(strings.Join(f.Envs, ", ")) + ".\n")
		}
	}
	return b.String()
}

func (f option) names() string {
	if f.Short != "" {
		return "-" + f.Short + ", --" + f.Name
	}
	return "--" + f.Name
}

func roffValue(f option) string {
	if f.Value == "" {
		return ""
	}
	return "=\\fI" + roffLine(f.Value) + "\\fR"
}

// roffText is paragraphs; those that are indented are shown as they are.
func roffText(text string) string {
	var b strings.Builder
	for _, paragraph := range strings.Split(strings.TrimSpace(text), "\n\n") {
		lines := strings.Split(paragraph, "\n")
		asIs := strings.HasPrefix(paragraph, "    ")
		if asIs {
			b.WriteString(".PP\n.nf\n")
		} else {
			b.WriteString(".PP\n")
		}
		for _, line := range lines {
			b.WriteString(roffLine(line) + "\n")
		}
		if asIs {
			b.WriteString(".fi\n")
		}
	}
	return b.String()
}

var roffEscapes = strings.NewReplacer(`\`, `\e`, "-", `\-`, "…", `\[u2026]`, "–", `\(en`)

// roffLine escapes what roff would take for its own.
func roffLine(line string) string {
	line = roffEscapes.Replace(line)
	if strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'") {
		return `\&` + line
	}
	return line
}
