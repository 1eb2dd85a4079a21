package helm_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// TestTheProgramKnowsItsSettings compares the variables that each container gets with the flags of
// the command that it runs.
func TestTheProgramKnowsItsSettings(t *testing.T) {
	known := settings(t)
	ours := regexp.MustCompile(`^(SKILLSYNC|NATS|GENESYS)_`)
	seen := map[string]bool{}
	each(t, func(t *testing.T, all []any) {
		for _, p := range pods(all) {
			c := p.template.Spec.Containers[0]
			command := c.Args[0]
			if known[command] == nil {
				t.Fatalf("%s runs %q, which is no command", p.name, command)
			}
			for _, v := range c.Env {
				if ours.MatchString(v.Name) && !known[command][v.Name] {
					t.Errorf("%s: skillsync %s does not know %s", p.name, command, v.Name)
				}
				seen[v.Name] = true
			}
		}
	})
	// So that the other direction holds, too: what a worker can be told, the chart can tell it.
	notForPods := regexp.MustCompile(`^(SKILLSYNC_STORE|SKILLSYNC_NATS_LISTEN|GENESYSCLOUD_.*|GENESYS_CLIENT_SECRET|NATS_PASSWORD)$`)
	for name := range known["worker"] {
		if !seen[name] && !notForPods.MatchString(name) {
			t.Errorf("no values file here makes the chart set %s", name)
		}
	}
}

// settings are the environment variables of each command, read from the tags in the program's
// source: to build it and to ask for --help would take longer than everything else here.
func settings(t *testing.T) map[string]map[string]bool {
	t.Helper()
	structs := map[string]*ast.StructType{}
	for _, file := range programFiles(t) {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			if spec, ok := n.(*ast.TypeSpec); ok {
				if s, ok := spec.Type.(*ast.StructType); ok {
					structs[spec.Name.Name] = s
				}
			}
			return true
		})
	}
	all := map[string]map[string]bool{}
	for _, command := range []string{"worker", "setup", "console"} {
		all[command] = map[string]bool{}
		collect(structs, command+"Cmd", "", all[command])
		collect(structs, "logFlags", "log-", all[command])
		if len(all[command]) < 10 {
			t.Fatalf("%s has the settings %v: this test does not understand the source any more", command, all[command])
		}
	}
	return all
}

var humps = regexp.MustCompile(`([a-z])([A-Z])`)

// collect adds the variables of a struct's flags, as kong names them.
func collect(structs map[string]*ast.StructType, name, prefix string, into map[string]bool) {
	s := structs[name]
	if s == nil {
		return
	}
	for _, field := range s.Fields.List {
		var tag reflect.StructTag
		if field.Tag != nil {
			text, _ := strconv.Unquote(field.Tag.Value)
			tag = reflect.StructTag(text)
		}
		if len(field.Names) == 0 { // embedded
			if id, ok := field.Type.(*ast.Ident); ok {
				collect(structs, id.Name, prefix+tag.Get("prefix"), into)
			}
			continue
		}
		if env := tag.Get("env"); env != "" {
			for _, one := range strings.Split(env, ",") {
				into[one] = true
			}
			continue
		}
		flag := tag.Get("name")
		if flag == "" {
			flag = strings.ToLower(humps.ReplaceAllString(field.Names[0].Name, "$1-$2"))
		}
		into["SKILLSYNC_"+strings.ToUpper(strings.ReplaceAll(prefix+flag, "-", "_"))] = true
	}
}

// programFiles are the files of package main without its tests.
func programFiles(t *testing.T) (files []string) {
	t.Helper()
	all, err := filepath.Glob("../../../cmd/skillsync/*.go")
	if err != nil || len(all) == 0 {
		t.Fatalf("the program's source is not where it was: %v", err)
	}
	for _, file := range all {
		if !strings.HasSuffix(file, "_test.go") {
			files = append(files, file)
		}
	}
	return files
}

// source is all that may name a metric.
func source(t *testing.T) string {
	t.Helper()
	files := append(programFiles(t), "../../../worker/metrics.go")
	var all strings.Builder
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(text)
	}
	return all.String()
}
