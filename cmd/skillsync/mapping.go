package main

import (
	"fmt"
	"strings"

	"skillsync/worker/mapping"
)

type mappingCmd struct {
	Test mappingTestCmd `cmd:"" help:"Compile a mapping and run its tests."`
	Show mappingShowCmd `cmd:"" help:"Print the built-in mapping, a start for one's own."`
}

type mappingTestCmd struct {
	File string `arg:"" optional:"" name:"file" type:"path" help:"Mapping to test. Default: SKILLSYNC_MAPPING, else the built-in one."`

	Mapping string `hidden:"" type:"path"`
}

func (c mappingTestCmd) Run(p *program) error {
	m, name := mapping.Default(), "built-in mapping"
	for _, file := range []string{c.Mapping, c.File} { // the argument wins
		if file == "" {
			continue
		}
		var err error
		if m, err = mapping.Load(file); err != nil {
			return err
		}
		name = file
	}
	failed := 0
	results := m.Test()
	for _, r := range results {
		if !r.OK {
			failed++
			fmt.Fprintf(p.out, "%s:%d: %s\n  %s\n", name, r.Line, r.Name, strings.Join(r.Diff, "\n  "))
		}
	}
	fmt.Fprintf(p.out, "%s: version %s, %d tests, %d failed\n", name, m.Version(), len(results), failed)
	if failed > 0 {
		return &exitError{code: exitFailed}
	}
	return nil
}

type mappingShowCmd struct{}

func (mappingShowCmd) Run(p *program) error {
	_, err := p.out.Write(mapping.DefaultYAML())
	return err
}
