// Package helm_test renders the chart in deploy/helm/skillsync and looks at what comes out. It is a
// module of its own, so that the program does not depend on Kubernetes.
//
// It needs helm: in the PATH, or named by HELM. run.sh installs it.
package helm_test

import (
	"bytes"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write the golden files anew")

const chart = "../skillsync"

// renderings are the values files that everything is tested with, by the name of the golden file.
var renderings = map[string]string{
	"default": filepath.Join(chart, "ci", "default-values.yaml"),
	"full":    filepath.Join(chart, "ci", "full-values.yaml"),
	"other":   filepath.Join("testdata", "other-values.yaml"),
}

// helm runs helm and returns what it prints, and its complaints.
func helm(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	program := os.Getenv("HELM")
	if program == "" {
		program = "helm"
	}
	path, err := exec.LookPath(program)
	if err != nil {
		t.Fatalf("these tests need helm: %v\nput it into the PATH, or its path into HELM; run.sh installs it", err)
	}
	var out, complaints bytes.Buffer
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Stdout, cmd.Stderr = &out, &complaints
	err = cmd.Run()
	return out.String(), complaints.String(), err
}

// render is "helm template" with a values file and more arguments.
func render(t *testing.T, dir, values string, more ...string) string {
	t.Helper()
	args := append([]string{"template", "demo", dir, "--namespace", "hr", "--values", values}, more...)
	out, complaints, err := helm(t, args...)
	if err != nil {
		t.Fatalf("helm %s: %v\n%s", strings.Join(args, " "), err, complaints)
	}
	return out
}

// golden compares with testdata/NAME, or writes it.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v; \"go test -update\" writes it", err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("what the chart renders differs from %s (-want +got); if that is right, \"go test -update\" and look at the diff:\n%s", path, d)
	}
}

func TestRendersAsBefore(t *testing.T) {
	for name, values := range renderings {
		t.Run(name, func(t *testing.T) { golden(t, name+".golden.yaml", render(t, chart, values)) })
	}
}

// TestNotes renders the notes as an object of a copy of the chart: helm shows them only to those
// who have a cluster.
func TestNotes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "skillsync")
	if err := os.CopyFS(dir, os.DirFS(chart)); err != nil {
		t.Fatal(err)
	}
	notes, err := os.ReadFile(filepath.Join(dir, "templates", "NOTES.txt"))
	if err != nil {
		t.Fatal(err)
	}
	object := `{{- define "notes" }}` + string(notes) + `{{ end -}}` + "\nkind: Notes\ntext: {{ include \"notes\" . | toJson }}\n"
	if err := os.WriteFile(filepath.Join(dir, "templates", "zz-notes.yaml"), []byte(object), 0o644); err != nil {
		t.Fatal(err)
	}
	var texts strings.Builder
	for _, name := range []string{"default", "full", "other"} {
		out := render(t, dir, renderings[name], "--show-only", "templates/zz-notes.yaml")
		var got struct{ Text string }
		if err := yaml.Unmarshal([]byte(out), &got); err != nil {
			t.Fatal(err)
		}
		texts.WriteString("== " + name + "\n" + got.Text + "\n\n")
	}
	golden(t, "notes.golden.txt", texts.String())
}

// TestRefuses tries values that cannot work: the message must say which value is meant.
func TestRefuses(t *testing.T) {
	set := func(pairs ...string) (args []string) {
		for _, p := range pairs {
			args = append(args, "--set", p)
		}
		return args
	}
	for _, tt := range []struct {
		name string
		args []string
		want string
	}{
		{"no broker", set("nats.url="), "nats.url is missing"},
		{"no secret of the org", set("genesys.existingSecret="), "genesys.existingSecret is missing"},
		{"no client id", set("genesys.clientId="), "genesys.clientId is missing"},
		{"a password in the URL", set("nats.url=nats://worker:pw@nats:4222"), "nats.url holds a password"},
		{"two ways to sign in", set("nats.auth.existingSecret=s", "nats.auth.credsKey=a", "nats.auth.nkeyKey=b"), "nats.auth: set one of credsKey, nkeyKey and passwordKey"},
		{"no way to sign in", set("nats.auth.existingSecret=s"), "nats.auth: set one of credsKey, nkeyKey and passwordKey"},
		{"a key of no secret", set("nats.auth.credsKey=a"), "nats.auth.existingSecret is missing"},
		{"a password of nobody", set("nats.auth.existingSecret=s", "nats.auth.passwordKey=a"), "nats.auth: user and passwordKey go together"},
		{"setup cannot sign in", set("setup.auth.existingSecret=s"), "setup.auth: set one of"},
		{"two authorities", set("nats.tls.caSecret=a", "nats.tls.caConfigMap=b"), "nats.tls: caSecret and caConfigMap are both set"},
		{"two mappings", set("mapping.value=a", "mapping.existingConfigMap=b"), "mapping: value and existingConfigMap are both set"},
		{"a page without tokens", set("console.enabled=true"), "console.tokens.existingSecret is missing"},
		{"no monitoring to ask", set("keda.enabled=true"), "keda.natsJetstream.monitoringEndpoint is missing"},
		{"no Prometheus to ask", set("keda.enabled=true", "keda.scaler=prometheus"), "keda.prometheus.serverAddress is missing"},
		{"nobody wakes the workers", set("keda.enabled=true", "keda.scaler=prometheus", "keda.prometheus.serverAddress=http://p", "keda.minReplicas=0"), "nobody would tell of new records"},
		{"more at least than at most", set("keda.enabled=true", "keda.minReplicas=3"), "keda.minReplicas is more than keda.maxReplicas"},
		{"an unknown scaler", set("keda.scaler=cpu"), "/keda/scaler"},
		{"a slip of the pen", set("nats.ulr=x"), "'ulr' not allowed"},
		{"no duration", set("worker.settle=3"), "/worker/settle"},
		{"a negative limit", set("genesys.limit=-1"), "/genesys/limit"},
		{"a secret as a value", set("genesys.clientSecret=x"), "'clientSecret' not allowed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			args := append([]string{"template", "demo", chart, "--values", renderings["default"]}, tt.args...)
			_, complaints, err := helm(t, args...)
			if err == nil || !strings.Contains(complaints, tt.want) {
				t.Errorf("helm %s: %v, %q; want a message with %q", strings.Join(args, " "), err, complaints, tt.want)
			}
		})
	}
}

// TestRequiredValuesAreAskedFor renders the chart as it is, without any values.
func TestRequiredValuesAreAskedFor(t *testing.T) {
	_, complaints, err := helm(t, "template", "demo", chart)
	if err == nil || !strings.Contains(complaints, "nats.url is missing") {
		t.Errorf("%v, %q; want a message about nats.url", err, complaints)
	}
}

// TestEveryValueIsExplained looks for a comment above or beside each value, and for each value in
// the schema. (That the schema knows every value helm checks by itself.)
func TestEveryValueIsExplained(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(chart, "values.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	key := regexp.MustCompile(`^( *)[A-Za-z]+:(.*)$`)
	lines := strings.Split(string(text), "\n")
	for i, line := range lines {
		m := key.FindStringSubmatch(line)
		switch {
		case m == nil, i == 0:
		case strings.Contains(line, " # "), strings.HasPrefix(strings.TrimSpace(lines[i-1]), "#"):
		case m[2] == "": // a group, whose values are explained one by one
		case partOfObject.MatchString(line):
		default:
			t.Errorf("values.yaml:%d: no comment says what this is for: %s", i+1, line)
		}
	}

	var values, schema map[string]any
	if err := yaml.Unmarshal(text, &values); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(chart, "values.schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.UnmarshalStrict(data, &schema); err != nil {
		t.Fatal(err)
	}
	inSchema(t, schema, schema, values, "")
}

// partOfObject matches lines of what goes into an object of Kubernetes as it stands; the comment is
// above the whole.
var partOfObject = regexp.MustCompile(`^ +(requests|limits|periodSeconds|timeoutSeconds|failureThreshold|type: RollingUpdate|rollingUpdate|runAs[A-Za-z]+|fsGroup|seccompProfile|allowPrivilegeEscalation|readOnlyRootFilesystem|capabilities)\b`)

func inSchema(t *testing.T, root, schema map[string]any, values any, path string) {
	if ref, ok := schema["$ref"].(string); ok {
		schema = root["definitions"].(map[string]any)[strings.TrimPrefix(ref, "#/definitions/")].(map[string]any)
	}
	properties, ok := schema["properties"].(map[string]any)
	if !ok || schema["additionalProperties"] != false {
		return
	}
	for name, property := range properties {
		value, ok := values.(map[string]any)[name]
		if !ok && path+name != "global" && !strings.HasSuffix(path, "resources.") {
			t.Errorf("values.schema.json has %s%s, which values.yaml does not have", path, name)
			continue
		}
		if ok && value != nil {
			inSchema(t, root, property.(map[string]any), value, path+name+".")
		}
	}
}
