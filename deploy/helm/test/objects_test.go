package helm_test

import (
	"maps"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	apps "k8s.io/api/apps/v1"
	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/yaml"
)

// kinds are all that the chart may render. Secrets are not among them.
var kinds = map[string]func() any{
	"v1 ConfigMap":                            func() any { return new(core.ConfigMap) },
	"v1 Service":                              func() any { return new(core.Service) },
	"apps/v1 Deployment":                      func() any { return new(apps.Deployment) },
	"batch/v1 Job":                            func() any { return new(batch.Job) },
	"policy/v1 PodDisruptionBudget":           func() any { return new(policy.PodDisruptionBudget) },
	"networking.k8s.io/v1 NetworkPolicy":      func() any { return new(networking.NetworkPolicy) },
	"monitoring.coreos.com/v1 ServiceMonitor": func() any { return new(monitoring.ServiceMonitor) },
	"monitoring.coreos.com/v1 PrometheusRule": func() any { return new(monitoring.PrometheusRule) },
	"keda.sh/v1alpha1 ScaledObject":           func() any { return new(scaledObject) },
}

// A scaledObject is what the chart uses of KEDA's type of that name. KEDA's own module is not
// imported, because it brings the clients of everything that KEDA can scale by.
type scaledObject struct {
	meta.TypeMeta   `json:",inline"`
	meta.ObjectMeta `json:"metadata"`
	Spec            struct {
		ScaleTargetRef struct {
			Name string `json:"name"`
		} `json:"scaleTargetRef"`
		MinReplicaCount *int32 `json:"minReplicaCount"`
		MaxReplicaCount *int32 `json:"maxReplicaCount"`
		PollingInterval *int32 `json:"pollingInterval"`
		CooldownPeriod  *int32 `json:"cooldownPeriod"`
		Fallback        struct {
			FailureThreshold int32 `json:"failureThreshold"`
			Replicas         int32 `json:"replicas"`
		} `json:"fallback"`
		Triggers []struct {
			Type              string            `json:"type"`
			Metadata          map[string]string `json:"metadata"` // strings only: a number is an error of the API server's
			AuthenticationRef *struct {
				Name string `json:"name"`
			} `json:"authenticationRef"`
		} `json:"triggers"`
	} `json:"spec"`
}

// objectsOf decodes everything that a rendering has, and fails about a field that its type does not
// have.
func objectsOf(t *testing.T, name string) (all []any) {
	t.Helper()
	if rendered[name] == "" { // helm takes its time
		rendered[name] = render(t, chart, renderings[name])
	}
	names := map[string]bool{}
	for doc := range strings.SplitSeq("\n"+rendered[name], "\n---\n") {
		if strings.TrimSpace(doc) == "" {
			continue
		}
		var head struct {
			meta.TypeMeta `json:",inline"`
			Metadata      meta.ObjectMeta `json:"metadata"`
		}
		if err := yaml.Unmarshal([]byte(doc), &head); err != nil {
			t.Fatalf("%v\n%s", err, doc)
		}
		kind := head.APIVersion + " " + head.Kind
		id := kind + " " + head.Metadata.Name
		if names[id] {
			t.Errorf("%s is rendered twice", id)
		}
		names[id] = true
		create := kinds[kind]
		if create == nil {
			t.Fatalf("%s: the chart is not to render that kind\n%s", id, doc)
		}
		o := create()
		if err := yaml.UnmarshalStrict([]byte(doc), o); err != nil {
			t.Errorf("%s: %v", id, err)
		}
		all = append(all, o)
	}
	return all
}

// rendered are renderings that a test has asked for before.
var rendered = map[string]string{}

// of are the objects of one type.
func of[T any](all []any) (some []*T) {
	for _, o := range all {
		if o, ok := o.(*T); ok {
			some = append(some, o)
		}
	}
	return some
}

// A pod is what a Deployment or a Job makes.
type pod struct {
	name     string
	template core.PodTemplateSpec
}

func pods(all []any) (some []pod) {
	for _, d := range of[apps.Deployment](all) {
		some = append(some, pod{d.Name, d.Spec.Template})
	}
	for _, j := range of[batch.Job](all) {
		some = append(some, pod{j.Name, j.Spec.Template})
	}
	return some
}

// each runs a test for every rendering.
func each(t *testing.T, test func(t *testing.T, all []any)) {
	for name := range renderings {
		t.Run(name, func(t *testing.T) { test(t, objectsOf(t, name)) })
	}
}

func TestObjectsAreThere(t *testing.T) {
	count := func(all []any) map[string]int {
		return map[string]int{
			"deployments": len(of[apps.Deployment](all)), "jobs": len(of[batch.Job](all)), "services": len(of[core.Service](all)),
			"mappings": len(of[core.ConfigMap](all)), "budgets": len(of[policy.PodDisruptionBudget](all)),
			"policies": len(of[networking.NetworkPolicy](all)), "monitors": len(of[monitoring.ServiceMonitor](all)),
			"rules": len(of[monitoring.PrometheusRule](all)), "scalers": len(of[scaledObject](all)),
		}
	}
	for name, want := range map[string]map[string]int{
		"default": {"deployments": 1, "jobs": 1, "budgets": 1},
		"full":    {"deployments": 2, "jobs": 1, "services": 3, "mappings": 1, "budgets": 1, "policies": 3, "monitors": 1, "rules": 1, "scalers": 1},
		"other":   {"deployments": 2, "services": 3, "monitors": 1, "scalers": 1},
	} {
		got := count(objectsOf(t, name))
		maps.DeleteFunc(got, func(_ string, n int) bool { return n == 0 })
		if !maps.Equal(got, want) {
			t.Errorf("%s: %v; want %v", name, got, want)
		}
	}
}

func TestPodsAreLockedDown(t *testing.T) {
	each(t, func(t *testing.T, all []any) {
		for _, p := range pods(all) {
			spec := p.template.Spec
			if s := spec.SecurityContext; s == nil || !*s.RunAsNonRoot || *s.RunAsUser != 65532 || *s.RunAsGroup != 65532 ||
				s.SeccompProfile.Type != core.SeccompProfileTypeRuntimeDefault {
				t.Errorf("%s: security context %+v", p.name, s)
			}
			if spec.AutomountServiceAccountToken == nil || *spec.AutomountServiceAccountToken {
				t.Errorf("%s: gets a service account's token", p.name)
			}
			if spec.EnableServiceLinks == nil || *spec.EnableServiceLinks {
				t.Errorf("%s: gets variables like SKILLSYNC_PORT", p.name)
			}
			for _, c := range spec.Containers {
				if s := c.SecurityContext; s == nil || !*s.ReadOnlyRootFilesystem || *s.AllowPrivilegeEscalation ||
					!slices.Equal(s.Capabilities.Drop, []core.Capability{"ALL"}) || len(s.Capabilities.Add) != 0 {
					t.Errorf("%s: security context of the container %+v", p.name, s)
				}
				if c.Resources.Requests.Cpu().IsZero() || c.Resources.Requests.Memory().IsZero() || c.Resources.Limits.Memory().IsZero() {
					t.Errorf("%s: resources %+v", p.name, c.Resources)
				}
			}
		}
	})
}

// Held records get SKILLSYNC_GRACE; what follows takes a few seconds more.
func TestKubernetesWaitsForTheDrain(t *testing.T) {
	each(t, func(t *testing.T, all []any) {
		for _, d := range of[apps.Deployment](all) {
			spec := d.Spec.Template.Spec
			for _, v := range spec.Containers[0].Env {
				if v.Name != "SKILLSYNC_GRACE" {
					continue
				}
				grace, err := time.ParseDuration(v.Value)
				if err != nil {
					t.Fatal(err)
				}
				if given := time.Duration(*spec.TerminationGracePeriodSeconds) * time.Second; given < grace+10*time.Second {
					t.Errorf("%s is killed after %s, but its records may go on for %s", d.Name, given, grace)
				}
			}
		}
	})
}

// Every path in a variable is that of a file which a volume has, and every file is named by one.
func TestFilesAreWhereTheProgramLooks(t *testing.T) {
	each(t, func(t *testing.T, all []any) {
		for _, p := range pods(all) {
			c := p.template.Spec.Containers[0]
			mounted := map[string]bool{}
			for _, m := range c.VolumeMounts {
				i := slices.IndexFunc(p.template.Spec.Volumes, func(v core.Volume) bool { return v.Name == m.Name })
				if i < 0 {
					t.Fatalf("%s: mounts %s, which is no volume", p.name, m.Name)
				}
				for _, item := range items(p.template.Spec.Volumes[i]) {
					mounted[path.Join(m.MountPath, item.Path)] = true
				}
			}
			for _, v := range c.Env {
				if !strings.HasPrefix(v.Value, "/") {
					continue
				}
				if !mounted[v.Value] {
					t.Errorf("%s: %s is %s, which nothing is mounted at", p.name, v.Name, v.Value)
				}
				delete(mounted, v.Value)
			}
			for left := range mounted {
				t.Errorf("%s: no variable says %s", p.name, left)
			}
			if len(c.VolumeMounts) != len(p.template.Spec.Volumes) {
				t.Errorf("%s: %d volumes and %d mounts", p.name, len(p.template.Spec.Volumes), len(c.VolumeMounts))
			}
		}
	})
}

func items(v core.Volume) (all []core.KeyToPath) {
	if v.ConfigMap != nil {
		all = append(all, v.ConfigMap.Items...)
	}
	if v.Projected != nil {
		for _, s := range v.Projected.Sources {
			if s.Secret != nil {
				all = append(all, s.Secret.Items...)
			}
			if s.ConfigMap != nil {
				all = append(all, s.ConfigMap.Items...)
			}
		}
	}
	return all
}

// What may be a secret is a file or a reference, never a value.
func TestSecretsAreReferences(t *testing.T) {
	secret := regexp.MustCompile(`PASSWORD|SECRET|TOKEN|CREDS|NKEY|_KEY$|WEBHOOK`)
	each(t, func(t *testing.T, all []any) {
		for _, p := range pods(all) {
			for _, v := range p.template.Spec.Containers[0].Env {
				if secret.MatchString(v.Name) && !strings.HasPrefix(v.Value, "/run/secrets/") {
					t.Errorf("%s: %s has a value", p.name, v.Name)
				}
			}
		}
	})
}

// Everything that selects pods selects those that it is for, and ports are those that they have.
func TestSelectors(t *testing.T) {
	each(t, func(t *testing.T, all []any) {
		everyPod := pods(all)
		one := func(what string, s *meta.LabelSelector) core.PodSpec {
			t.Helper()
			selector, err := meta.LabelSelectorAsSelector(s)
			if err != nil {
				t.Fatal(err)
			}
			var found []pod
			for _, p := range everyPod {
				if selector.Matches(labels.Set(p.template.Labels)) {
					found = append(found, p)
				}
			}
			if len(found) != 1 {
				t.Fatalf("%s selects %d kinds of pods", what, len(found))
			}
			return found[0].template.Spec
		}
		hasPort := func(what string, spec core.PodSpec, name string) {
			t.Helper()
			if !slices.ContainsFunc(spec.Containers[0].Ports, func(p core.ContainerPort) bool { return p.Name == name }) {
				t.Errorf("%s: the pod has no port %q", what, name)
			}
		}
		for _, d := range of[apps.Deployment](all) {
			spec := one(d.Name, d.Spec.Selector)
			for _, c := range spec.TopologySpreadConstraints {
				one(d.Name+"'s spread", c.LabelSelector)
			}
			c := spec.Containers[0]
			for _, probe := range []*core.Probe{c.LivenessProbe, c.ReadinessProbe} {
				hasPort(d.Name+"'s probe", spec, probe.HTTPGet.Port.StrVal)
			}
			if live, ready := c.LivenessProbe.HTTPGet.Path, c.ReadinessProbe.HTTPGet.Path; live != "/livez" || ready != "/readyz" {
				t.Errorf("%s: probes of %s and %s", d.Name, live, ready)
			}
		}
		for _, b := range of[policy.PodDisruptionBudget](all) {
			one(b.Name, b.Spec.Selector)
		}
		for _, s := range of[core.Service](all) {
			spec := one(s.Name, &meta.LabelSelector{MatchLabels: s.Spec.Selector})
			for _, p := range s.Spec.Ports {
				hasPort(s.Name, spec, p.TargetPort.StrVal)
			}
		}
		for _, n := range of[networking.NetworkPolicy](all) {
			spec := one(n.Name, &n.Spec.PodSelector)
			for _, rule := range n.Spec.Ingress {
				for _, p := range rule.Ports {
					hasPort(n.Name, spec, p.Port.StrVal)
				}
			}
		}
		for _, m := range of[monitoring.ServiceMonitor](all) {
			selector, _ := meta.LabelSelectorAsSelector(&m.Spec.Selector)
			for _, s := range of[core.Service](all) {
				if want := strings.HasSuffix(s.Name, "-metrics"); selector.Matches(labels.Set(s.Labels)) != want {
					t.Errorf("that the monitor takes %s is not %t", s.Name, want)
				}
			}
		}
		for _, s := range of[scaledObject](all) {
			if !slices.ContainsFunc(of[apps.Deployment](all), func(d *apps.Deployment) bool {
				return d.Name == s.Spec.ScaleTargetRef.Name && d.Spec.Replicas == nil
			}) {
				t.Errorf("%s scales %s, which is no Deployment without a number of its own", s.Name, s.Spec.ScaleTargetRef.Name)
			}
		}
	})
}

// The job runs before anything else of the release is there, so it may need nothing of it.
func TestSetupNeedsNothingOfTheRelease(t *testing.T) {
	each(t, func(t *testing.T, all []any) {
		hooks := map[string]string{}
		for _, n := range of[networking.NetworkPolicy](all) {
			hooks[n.Name] = n.Annotations["helm.sh/hook-weight"]
		}
		for _, j := range of[batch.Job](all) {
			if j.Annotations["helm.sh/hook"] != "pre-install,pre-upgrade" {
				t.Errorf("%s is no hook: %v", j.Name, j.Annotations)
			}
			if weight, ok := hooks[j.Name]; ok && weight != "-1" {
				t.Errorf("the policy of %s has the weight %q; it must come first", j.Name, weight)
			}
			for _, v := range j.Spec.Template.Spec.Volumes {
				if v.ConfigMap != nil {
					t.Errorf("%s needs the ConfigMap %s", j.Name, v.ConfigMap.Name)
				}
			}
		}
	})
}

func TestLongNamesFit(t *testing.T) {
	out := render(t, chart, renderings["full"], "--set", "fullnameOverride="+strings.Repeat("long-name", 10))
	for _, m := range regexp.MustCompile(`(?m)^  name: (.*)$`).FindAllStringSubmatch(out, -1) {
		if len(m[1]) > 63 {
			t.Errorf("%s has %d characters", m[1], len(m[1]))
		}
	}
}

// Streams, consumer and metrics have the names that the program gives them.
func TestNamesAreThoseOfTheProgram(t *testing.T) {
	topology, err := os.ReadFile("../../../queue/topology.go")
	if err != nil {
		t.Fatal(err)
	}
	known := source(t)
	each(t, func(t *testing.T, all []any) {
		var queries []string
		for _, s := range of[scaledObject](all) {
			for _, trigger := range s.Spec.Triggers {
				queries = append(queries, trigger.Metadata["query"])
				for key, constant := range map[string]string{"stream": "Stream", "consumer": "Consumer"} {
					name := trigger.Metadata[key]
					if name != "" && !regexp.MustCompile(`\b`+constant+`\s+= "`+name+`"`).Match(topology) {
						t.Errorf("%s %q is not the program's", key, name)
					}
				}
			}
		}
		for _, r := range of[monitoring.PrometheusRule](all) {
			for _, rule := range r.Spec.Groups[0].Rules { // the others are the user's
				queries = append(queries, rule.Expr.String())
			}
		}
		for _, q := range queries {
			for _, name := range regexp.MustCompile(`skillsync_[a-z_]+`).FindAllString(q, -1) {
				name = strings.TrimSuffix(name, "_bucket")
				if !strings.Contains(known, `"`+name+`"`) {
					t.Errorf("the program has no metric %s", name)
				}
			}
			if n := len(everyMetric.FindAllString(q, -1)); n != len(inNamespace.FindAllString(q, -1)) {
				t.Errorf("not all of the %d metrics are this namespace's: %s", n, q)
			}
		}
	})
}

var (
	everyMetric = regexp.MustCompile(`skillsync_[a-z_]+|\bup\b`)
	inNamespace = regexp.MustCompile(`(skillsync_[a-z_]+|\bup)\{namespace="hr"[,}]`)
)

// TestAlertsAreThose compares the chart's copy, which helm cannot do without, with the original.
func TestAlertsAreThose(t *testing.T) {
	original, err := os.ReadFile("../../prometheus/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	const file = chart + "/files/alerts.yaml"
	if *update {
		if err := os.WriteFile(file, original, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	copied, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(original), string(copied)); d != "" {
		t.Errorf("the chart's alerts are not those of deploy/prometheus; \"go test -update\" copies them (-original +copy):\n%s", d)
	}
}

// TestOneAlertIsLeftOut: with no worker while there is nothing to do, that there is none is no news.
func TestOneAlertIsLeftOut(t *testing.T) {
	const name = "SkillsyncNoWorkerReady"
	if strings.Contains(render(t, chart, renderings["full"]), name) {
		t.Errorf("%s is there with keda.minReplicas 0", name)
	}
	if !strings.Contains(render(t, chart, renderings["full"], "--set", "keda.minReplicas=1"), name) {
		t.Errorf("%s is not there with keda.minReplicas 1", name)
	}
}
