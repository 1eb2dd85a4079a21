package main

import (
	"context"
	"encoding/json"
	"errors"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/prometheus/client_golang/prometheus"

	"skillsync/genesys"
	"skillsync/genesys/sandbox"
	"skillsync/queue"
	"skillsync/worker"
)

// exported are the metrics that running processes serve, by name, with the values of their labels.
type exported map[string][]string

var (
	sampleLine  = regexp.MustCompile(`(?m)^([a-z_]+)(?:\{(.*)\})? \S+$`)
	labelValue  = regexp.MustCompile(`(\w+)="([^"]*)"`)
	metricName  = regexp.MustCompile(`\b(?:skillsync|process|go)_[a-z0-9_]+\b`)
	alertInTest = regexp.MustCompile(`alertname="(\w+)"`)
)

// scrape reads what a process exports.
func (e exported) scrape(t *testing.T, url string) {
	t.Helper()
	for _, line := range sampleLine.FindAllStringSubmatch(browse(t, url+"/metrics"), -1) {
		labels := e[line[1]]
		for _, l := range labelValue.FindAllStringSubmatch(line[2], -1) {
			if l[1] != "le" {
				labels = append(labels, l[2])
			}
		}
		e[line[1]] = labels
	}
}

// export runs a worker and a console, and reads what they export.
func export(t *testing.T) exported {
	t.Helper()
	server, b := startBroker(t, queue.Topology{})
	env := append(orgEnv(onPort(t, sandbox.New(sandbox.Org(1)))), "NATS_URL="+server.URL(), "SKILLSYNC_SETTLE=50ms", "SKILLSYNC_LOG_FORMAT=json",
		"SKILLSYNC_CONSOLE_ADDRESS=127.0.0.1:0", "SKILLSYNC_CONSOLE_LISTEN=127.0.0.1:0")
	const address = `"address":"(http[^"]+)".*health and metrics`
	w := start(t, env, "worker")
	workerURL := w.await(address)[1]
	w.await("fetching records")
	publishOne(t, b, "EMP-0001")
	settled(t, b, 1, time.Minute, nil)
	c := start(t, env, "console")
	consoleURL := c.await(address)[1]

	all := exported{}
	all.scrape(t, workerURL)
	if slices.Contains(all["skillsync_dead_letters"], "unverified") {
		t.Error("a worker tells of dead letters, which it may not read")
	}
	all.scrape(t, consoleURL)
	return all
}

// What dashboard, alerts and runbook ask for is there, from the start.
func TestEveryMetricThatSomebodyLooksAtIsExported(t *testing.T) {
	t.Parallel()
	all := export(t)
	for _, file := range []string{"grafana/skillsync.json", "prometheus/alerts.yaml", "runbook.md"} {
		text := string(readTop(t, "deploy/"+file))
		if file == "grafana/skillsync.json" {
			text = strings.Join(board(t).exprs(), "\n")
		}
		for _, name := range metricName.FindAllString(text, -1) {
			if _, ok := all[name]; !ok && name != "skillsync_limits" && name != "skillsync_ledger" { // buckets
				t.Errorf("%s: nobody exports %s", file, name)
			}
		}
	}
	reasons, ops := toldReasons(), genesys.Operations()
	for name, want := range map[string][]string{
		"skillsync_dead_letters": reasons, "skillsync_dead_letter_oldest_seconds": reasons,
		"skillsync_dead_letters_total":        reasons[:len(worker.Reasons())],
		"skillsync_request_seconds_count":     ops,
		"skillsync_requests_total":            append(slices.Clone(ops), statusClasses...),
		"skillsync_records_total":             queue.Outcomes,
		"skillsync_retries_total":             {"panic", "unverified", "stale", "server_error", "network", "timeout", "other"},
		"skillsync_replays":                   unfinishedStates,
		"skillsync_deliveries_total":          {"ack", "retry", "give_back", "abandon", "dead_letter"},
		"skillsync_budget_wait_seconds_count": nil,
	} {
		want, got := slices.Compact(slices.Sorted(slices.Values(want))), slices.Compact(slices.Sorted(slices.Values(all[name])))
		if !slices.Equal(got, want) {
			t.Errorf("%s has the labels %v from the start, want %v", name, got, want)
		}
	}
}

// A limiter grants or refuses everything.
type limiter struct{ err error }

func (l limiter) Wait(context.Context) error { return l.err }

func TestOnlyRequestsThatAreGrantedCountAsHavingWaited(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	l := timeLimiter(reg, limiter{}, nil)
	if err := l.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	refusal := errors.New("paused")
	l.Limiter = limiter{refusal}
	if err := l.Wait(t.Context()); !errors.Is(err, refusal) {
		t.Errorf("the refusal is %v", err)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	if n := families[0].GetMetric()[0].GetHistogram().GetSampleCount(); n != 1 {
		t.Errorf("%d requests waited, want 1", n)
	}
}

func TestEveryPanelSaysWhatItShows(t *testing.T) {
	d := board(t)
	if d.UID != "skillsync" || len(d.Templating.List) != 1 || d.Templating.List[0].Type != "datasource" {
		t.Errorf("dashboard %q with the variables %v", d.UID, d.Templating.List)
	}
	ids := map[int]bool{}
	for _, p := range d.Panels {
		if ids[p.ID] {
			t.Errorf("panel %d is there twice", p.ID)
		}
		ids[p.ID] = true
		if p.Title == "" {
			t.Errorf("panel %d has no title", p.ID)
		}
		if p.Type == "row" {
			continue
		}
		if p.Description == "" || p.FieldConfig.Defaults.Unit == "" || len(p.Targets) == 0 {
			t.Errorf("panel %q has description %q, unit %q and %d queries", p.Title, p.Description, p.FieldConfig.Defaults.Unit, len(p.Targets))
		}
		for _, target := range p.Targets {
			if target.Datasource.UID != "${datasource}" {
				t.Errorf("panel %q asks %q rather than the source that was chosen", p.Title, target.Datasource.UID)
			}
		}
	}
}

func TestEveryAlertHasItsSectionInTheRunbookAndItsTest(t *testing.T) {
	var file struct {
		Groups []struct {
			Rules []struct {
				Alert       string            `yaml:"alert"`
				Expr        string            `yaml:"expr"`
				Labels      map[string]string `yaml:"labels"`
				Annotations map[string]string `yaml:"annotations"`
			} `yaml:"rules"`
		} `yaml:"groups"`
	}
	if err := yaml.Unmarshal(readTop(t, "deploy/prometheus/alerts.yaml"), &file); err != nil {
		t.Fatal(err)
	}
	var tested []string
	for _, m := range alertInTest.FindAllSubmatch(readTop(t, "deploy/prometheus/alerts_test.yaml"), -1) {
		tested = append(tested, string(m[1]))
	}
	sections := map[string]string{}
	for _, text := range strings.Split(string(readTop(t, "deploy/runbook.md")), "\n## ")[1:] {
		title, body, _ := strings.Cut(text, "\n")
		sections[title] = body
	}
	for _, group := range file.Groups {
		for _, rule := range group.Rules {
			body := sections[rule.Alert]
			for _, part := range []string{"**Means**", "**Look**", "**Do**"} {
				if !strings.Contains(body, part) {
					t.Errorf("the runbook's section %s does not say %s", rule.Alert, part)
				}
			}
			delete(sections, rule.Alert)
			if !slices.Contains(tested, rule.Alert) {
				t.Errorf("alerts_test.yaml never lets %s fire", rule.Alert)
			}
			if want := "deploy/runbook.md#" + strings.ToLower(rule.Alert); rule.Annotations["runbook"] != want {
				t.Errorf("%s names the section %q, not %s", rule.Alert, rule.Annotations["runbook"], want)
			}
			if rule.Annotations["summary"] == "" || rule.Annotations["description"] == "" {
				t.Errorf("%s says nothing", rule.Alert)
			}
			if s := rule.Labels["severity"]; s != "critical" && s != "warning" {
				t.Errorf("%s has the severity %q", rule.Alert, s)
			}
		}
	}
	for title := range sections {
		t.Errorf("the runbook has a section %s, and there is no such alert", title)
	}
}

// A dashboard is as much of one as the tests look at.
type dashboard struct {
	UID        string `json:"uid"`
	Templating struct {
		List []struct {
			Type string `json:"type"`
		} `json:"list"`
	} `json:"templating"`
	Panels []struct {
		ID          int    `json:"id"`
		Type        string `json:"type"`
		Title       string `json:"title"`
		Description string `json:"description"`
		FieldConfig struct {
			Defaults struct {
				Unit string `json:"unit"`
			} `json:"defaults"`
		} `json:"fieldConfig"`
		Targets []struct {
			Expr       string `json:"expr"`
			Datasource struct {
				UID string `json:"uid"`
			} `json:"datasource"`
		} `json:"targets"`
	} `json:"panels"`
}

func board(t *testing.T) (d dashboard) {
	t.Helper()
	if err := json.Unmarshal(readTop(t, "deploy/grafana/skillsync.json"), &d); err != nil {
		t.Fatal(err)
	}
	return d
}

func (d dashboard) exprs() (all []string) {
	for _, p := range d.Panels {
		for _, target := range p.Targets {
			all = append(all, target.Expr)
		}
	}
	return all
}
