package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"skillsync/cmd/skillsync/desk"
	"skillsync/queue"
	"skillsync/worker/employee"
)

type dlqEditCmd struct {
	brokerFlags
	Sequence uint64 `arg:"" name:"seq" help:"Sequence, as listed by \"dlq ls\"."`
	File     string `env:"-" short:"f" placeholder:"FILE" help:"Take the mended record from this file, or from standard input (-), instead of opening an editor."`
	Editor   string `env:"VISUAL,EDITOR" default:"vi" help:"The editor to open. Default: ${default}."`
	Mapping  string `type:"path" placeholder:"FILE" help:"Mapping that must have an answer for the record. Default: the built-in one."`
	Check    bool   `env:"-" help:"Say whether the record may be sent, and send nothing."`
	JSON     bool   `name:"json" env:"-" help:"Print the replay as one JSON object."`
}

func (dlqEditCmd) Help() string {
	return `The record opens in $VISUAL or $EDITOR. It is sent when it is a record that the mapping has an answer for; otherwise the editor opens again with what is wrong. An empty file sends nothing. The mended record takes the place of the original in the order, so it may not say that it is newer. Its dead letter is removed, and what became of it is shown by "dlq audit SEQ" and "dlq replays".`
}

func (c dlqEditCmd) Run(p *program) error {
	rules, err := orgFlags{Mapping: c.Mapping}.rules()
	if err != nil {
		return err
	}
	d, stop, err := c.desk(p, deskRules{rules})
	if err != nil {
		return err
	}
	defer stop()
	letter, err := d.Reveal(p.ctx, operator(), c.Sequence)
	if err != nil {
		return whereabouts(p.ctx, d, c.Sequence, err)
	}
	data, draft, err := c.mend(p, d, letter)
	if err != nil {
		return err
	}
	if c.Check {
		fmt.Fprintf(p.out, "may be sent; changed: %s\n", strings.Join(draft.Fields, ", "))
		return nil
	}
	r, err := d.Edit(p.ctx, operator(), c.Sequence, data)
	if err != nil {
		return err
	}
	if c.JSON {
		return json.NewEncoder(p.out).Encode(r)
	}
	fmt.Fprintf(p.out, "sent, for employee %s; changed: %s\nhow it ends: skillsync dlq replays show %s\n", desk.Printable(draft.Employee), desk.Printable(strings.Join(draft.Fields, ", ")), r.Name)
	return nil
}

// mend gets the mended record, and sees that it may be sent.
func (c dlqEditCmd) mend(p *program, d *desk.Desk, letter queue.DeadLetter) ([]byte, desk.Draft, error) {
	if c.File != "" {
		data, err := c.read(p.in)
		if err != nil {
			return nil, desk.Draft{}, err
		}
		draft, err := d.Check(letter, data)
		return data, draft, err
	}
	if !isTerminal(p.out) && os.Getenv("VISUAL") == "" && os.Getenv("EDITOR") == "" {
		return nil, desk.Draft{}, misuse("there is no terminal to edit at; give the mended record with --file")
	}
	data, problem := []byte(desk.Indent(letter.Data)), ""
	for {
		edited, err := c.edit(p, data, problem)
		switch {
		case err != nil:
			return nil, desk.Draft{}, err
		case len(bytes.TrimSpace(edited)) == 0, problem != "" && bytes.Equal(edited, data):
			return nil, desk.Draft{}, &exitError{exitFailed, errors.New("nothing was sent")}
		}
		data = edited
		draft, err := d.Check(letter, data)
		if err == nil {
			return data, draft, nil
		}
		problem = err.Error()
		fmt.Fprintf(p.err, "not sent: %s\n", desk.Printable(problem))
	}
}

func (c dlqEditCmd) read(in io.Reader) ([]byte, error) {
	if c.File != "-" {
		file, err := os.Open(c.File)
		if err != nil {
			return nil, misuse("%w", err)
		}
		defer file.Close()
		in = file
	}
	return io.ReadAll(io.LimitReader(in, employee.MaxBytes+1))
}

// edit lets the person at the terminal change data. The file is theirs alone, and gone afterwards.
func (c dlqEditCmd) edit(p *program, data []byte, problem string) ([]byte, error) {
	dir, err := os.MkdirTemp("", "skillsync-edit-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "record.json")
	text := "# The record of dead letter " + fmt.Sprint(c.Sequence) + ". Lines that begin with # do not count; an empty file sends nothing.\n"
	if problem != "" {
		text += "# Not sent: " + desk.Printable(problem) + "\n"
	}
	if err := os.WriteFile(path, append([]byte(text), data...), 0o600); err != nil {
		return nil, err
	}
	command := editorCommand(c.Editor, path)
	editor := exec.CommandContext(p.ctx, command[0], command[1:]...)
	editor.Stdin, editor.Stdout, editor.Stderr = os.Stdin, p.err, p.err
	if err := editor.Run(); err != nil {
		return nil, fmt.Errorf("the editor %q ended with %w; nothing was sent", c.Editor, err)
	}
	edited, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return withoutComments(edited), nil
}

// editorCommand is how to open a file. An editor may come with options, as in "code --wait"; if any
// of it is quoted, the shell knows what that means.
func editorCommand(editor, path string) []string {
	if strings.ContainsAny(editor, `"'`) {
		return []string{"sh", "-c", editor + ` "$1"`, "sh", path}
	}
	return append(strings.Fields(editor), path)
}

func withoutComments(text []byte) []byte {
	var lines [][]byte
	for line := range bytes.Lines(text) {
		if !bytes.HasPrefix(line, []byte("#")) {
			lines = append(lines, line)
		}
	}
	return bytes.TrimSpace(bytes.Join(lines, nil))
}
