package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/rs/zerolog"

	"skillsync/cmd/skillsync/desk"
	"skillsync/genesys"
	"skillsync/queue"
	"skillsync/worker/mapping"
)

type doctorCmd struct {
	brokerFlags
	topologyFlags
	orgFlags

	MonitorURL []string `group:"Broker" name:"nats-monitor-url" env:"NATS_MONITOR_URL" placeholder:"URL" help:"Monitoring ports of the NATS servers, such as http://127.0.0.1:8222, separated by commas. They alone tell how a server syncs to disk."`
	JSON       bool     `name:"json" env:"-" help:"Print one JSON object."`
}

func (doctorCmd) Help() string {
	return `Give it the settings of a worker. It looks at the broker, the mapping, Genesys Cloud and the limit, says what is wrong and what to do, and changes nothing. What it asks Genesys Cloud (about ten requests) pays from the budget of the fleet.

The exit code is 1 if a check failed, and 0 otherwise, also with warnings.`
}

func (c doctorCmd) Run(p *program) error {
	e := &examination{doctorCmd: c, program: *p, say: p.out}
	e.log = zerolog.Nop() // what would be logged is what is found
	if c.JSON {
		e.say = io.Discard
	}
	defer e.close()
	for _, s := range e.sections() {
		e.title(s.name)
		for _, st := range s.steps {
			e.take(st, s.patience)
			if p.ctx.Err() != nil {
				return context.Cause(p.ctx)
			}
		}
	}
	if c.JSON {
		if err := json.NewEncoder(p.out).Encode(map[string]any{"checks": e.checks}); err != nil {
			return err
		}
	}
	return e.sum()
}

// What can come of a check.
const (
	checkOK      = "ok"
	checkWarning = "warning"
	checkFailed  = "failed"
	checkSkipped = "skipped"
)

// A check is one question and what came of it.
type check struct {
	Name   string `json:"name"`
	Status string `json:"status"`
	Found  string `json:"found"`
	Do     string `json:"do"` // "" if it is ok, or if another check says it
}

// A step makes one check. needs tells what is missing for that, "" if nothing is; nil needs nothing.
type step struct {
	name  string
	needs func() string
	look  func(context.Context) check
}

type section struct {
	name     string
	patience time.Duration // with one check
	steps    []step
}

const (
	// brokerPatience is short enough that a time-out is still known to come from a refusal.
	brokerPatience = 5 * time.Second
	// orgPatience is for a grant and an answer, each of which may take 10 s.
	orgPatience = 20 * time.Second
)

// An examination makes the checks one after the other; what one has found, later ones use.
type examination struct {
	doctorCmd
	program

	say    io.Writer
	checks []check

	broker    *queue.Broker // nil: not reached
	jetStream bool
	offset    time.Duration    // of the broker's clock
	rules     *mapping.Mapping // nil: there are none
	api       string           // base URLs; "": the region is unknown
	login     string
	client    *genesys.Client // nil: it cannot be made of the settings
	signedIn  bool
	profile   genesys.Profile
	stops     []func()
}

func (e *examination) sections() []section {
	return []section{
		{"Broker", brokerPatience, []step{
			{"connection", nil, e.connection},
			{"JetStream", e.noBroker, e.jetStreamOn},
			{"sync to disk", e.noJetStream, e.syncToDisk},
			{"topology", e.noJetStream, e.asSetUp},
			{"worker permissions", e.noJetStream, e.workersRights},
			{"operator permissions", e.noJetStream, e.operatorsRights},
			{"clock", e.noJetStream, e.clock},
			{"fleet's limit", e.noJetStream, e.fleetsLimit}, // before the doctor itself draws from it
		}},
		{"Mapping", brokerPatience, []step{
			{"mapping", nil, e.readMapping},
			{"mapping tests", e.noRules, e.mappingTests},
		}},
		{"Genesys Cloud", orgPatience, []step{
			{"region", nil, e.region},
			{"API host", e.noHosts, e.apiHost},
			{"sign-in host", e.noHosts, e.loginHost},
			{"OAuth client", e.noHosts, e.oauthClient},
			{"sign-in", e.noClient, e.signIn},
			{"profile", e.noToken, e.contract},
			{"may read users", e.noProfile, e.mayReadUsers},
			{"may find users", e.noProfile, e.mayFindUsers},
			{"skills", e.noProfile, e.skillsExist},
			{"org's limit", e.noProfile, e.orgsLimit},
		}},
	}
}

func (e *examination) close() {
	for i := len(e.stops) - 1; i >= 0; i-- {
		e.stops[i]()
	}
}

// take makes one check and says at once what came of it: the next one may take long.
func (e *examination) take(s step, patience time.Duration) {
	var c check
	if lacking := s.needs; lacking != nil && lacking() != "" {
		c = skipped("", "%s", lacking())
	} else {
		ctx, cancel := context.WithTimeout(e.ctx, patience)
		c = s.look(ctx)
		cancel()
	}
	c.Name = s.name
	e.checks = append(e.checks, c)
	e.show(c)
}

var marks = map[string]string{checkOK: "✓", checkWarning: "!", checkFailed: "✗", checkSkipped: "–"}

func (e *examination) title(name string) {
	if len(e.checks) > 0 {
		fmt.Fprintln(e.say)
	}
	fmt.Fprintln(e.say, name)
}

func (e *examination) show(c check) {
	if isTerminal(e.say) {
		fmt.Fprintf(e.say, "  %s %-20s %s\n", marks[c.Status], c.Name, c.Found)
	} else {
		fmt.Fprintf(e.say, "  %-8s %-20s %s\n", c.Status, c.Name, c.Found)
	}
	switch {
	case c.Do == "":
	case isTerminal(e.say):
		fmt.Fprintf(e.say, "  %23s→ %s\n", "", c.Do)
	default:
		fmt.Fprintf(e.say, "  %30sdo: %s\n", "", c.Do)
	}
}

// sum ends the page, and gives the exit code.
func (e *examination) sum() error {
	n := map[string]int{}
	for _, c := range e.checks {
		n[c.Status]++
	}
	fmt.Fprintf(e.say, "\n%d ok, %s, %d failed, %d skipped\n", n[checkOK], desk.HowMany(n[checkWarning], "warning"), n[checkFailed], n[checkSkipped])
	if n[checkFailed] > 0 {
		return &exitError{code: exitFailed}
	}
	return nil
}

func found(format string, args ...any) check {
	return check{Status: checkOK, Found: fmt.Sprintf(format, args...)}
}

func warning(do, format string, args ...any) check {
	return check{Status: checkWarning, Found: fmt.Sprintf(format, args...), Do: do}
}

func failed(do, format string, args ...any) check {
	return check{Status: checkFailed, Found: fmt.Sprintf(format, args...), Do: do}
}

func skipped(do, format string, args ...any) check {
	return check{Status: checkSkipped, Found: fmt.Sprintf(format, args...), Do: do}
}
