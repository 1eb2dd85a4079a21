package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"skillsync/genesys"
	"skillsync/queue/ratelimit"
	"skillsync/worker"
	"skillsync/worker/employee"
	"skillsync/worker/mapping"
)

type applyCmd struct {
	orgFlags

	Record        string        `arg:"" help:"File with one record as JSON; - reads standard input."`
	UserID        string        `env:"GENESYS_USER_ID" help:"The user's id, instead of a lookup."`
	Settle        time.Duration `default:"3s" help:"Wait between the patch and the first look. Default: ${default}."`
	VerifyTimeout time.Duration `default:"60s" help:"How long the skills may take to appear. Default: ${default}."`
	JSON          bool          `name:"json" env:"-" help:"Print the outcome as one JSON object."`
}

func (applyCmd) Help() string {
	return `The exit code is 0 only when Genesys Cloud, asked afterwards, says what it should. The request budget is this process's own: --limit less what the workers use.`
}

// applied is what became of the one record.
type applied struct {
	EmployeeID    string          `json:"employee_id"`
	UserID        string          `json:"user_id,omitempty"`
	Profile       genesys.Profile `json:"profile,omitempty"`
	Outcome       string          `json:"outcome"` // verified, unchanged or failed
	Error         string          `json:"error,omitempty"`
	CorrelationID string          `json:"correlation_id,omitempty"`
	Requests      int             `json:"requests"`
	Seconds       float64         `json:"seconds"`
}

func (c applyCmd) Run(p *program) error {
	rec, err := c.read(p.in)
	if err != nil {
		return err
	}
	client, err := c.client()
	if err != nil {
		return err
	}
	rules, err := c.rules()
	if err != nil {
		return err
	}
	a := &applying{
		applied: applied{EmployeeID: rec.ID},
		say:     p.out,
		steps:   worker.Provisioner{Directory: client, Mapping: rules, Settle: c.Settle, Deadline: c.VerifyTimeout},
	}
	if c.JSON {
		a.say = p.err
	}
	client.Limiter = ratelimit.Local(c.Limit)
	client.Observe = func(context.Context, genesys.Exchange) { a.Requests++ }
	start := time.Now()
	err = a.run(p.ctx, client, rec)
	a.Seconds = time.Since(start).Seconds()
	if err != nil {
		a.Outcome, a.Error = "failed", err.Error()
	}
	if c.JSON {
		if err := json.NewEncoder(p.out).Encode(a.applied); err != nil {
			return err
		}
	}
	return err
}

// read gets the record, and the user id that the command line gives for it.
func (c applyCmd) read(stdin io.Reader) (employee.Record, error) {
	in, name := stdin, "standard input"
	if c.Record != "-" {
		f, err := os.Open(c.Record)
		if err != nil {
			return employee.Record{}, misuse("%w", err)
		}
		defer f.Close()
		in, name = f, c.Record
	}
	data, err := io.ReadAll(io.LimitReader(in, employee.MaxBytes+1))
	if err != nil {
		return employee.Record{}, err
	}
	rec, err := employee.Decode(data)
	if err != nil {
		return rec, fmt.Errorf("%s: %w", name, err)
	}
	if c.UserID != "" {
		rec.UserID = c.UserID
	}
	return rec, nil
}

// An applying takes one record through the steps that a worker takes, and shows each.
type applying struct {
	applied
	say   io.Writer
	steps worker.Provisioner
}

func (a *applying) step(name, format string, args ...any) {
	fmt.Fprintf(a.say, "%-8s %s\n", name, fmt.Sprintf(format, args...))
}

func (a *applying) run(ctx context.Context, client *genesys.Client, rec employee.Record) error {
	want, err := a.steps.Mapping.Desired(rec)
	if err != nil {
		return err
	}
	a.step("record", "employee %s; wants %s", rec.ID, wishes(want))
	if a.Profile, err = client.Discover(ctx); err != nil {
		return err
	}
	a.steps.Profile = a.Profile
	a.step("sign in", "%s speaks %s", client.API, a.Profile)
	if a.UserID, err = a.steps.Find(ctx, rec, ""); err != nil {
		return err
	}
	a.step("find", "user %s", a.UserID)

	plan, correlation, err := a.steps.Patch(ctx, a.UserID, want, worker.Nothing)
	a.CorrelationID = correlation
	if err != nil {
		return err
	}
	if plan == nil {
		a.Outcome = string(worker.Unchanged)
		a.step("plan", "nothing to do: the user has just these skills")
		return nil
	}
	a.step("plan", "%s", difference(plan, want))
	a.step("patch", "accepted, correlation id %s", orDash(correlation))
	a.step("settle", "%s", a.steps.Settle)
	have, lag, err := a.steps.Verify(ctx, a.UserID, want, a.steps.Settle)
	if stuck := (*worker.MismatchError)(nil); errors.As(err, &stuck) {
		a.step("verify", "expected %s; the user has %s", skillList(stuck.Want), skillList(stuck.Have))
	}
	if err != nil {
		return err
	}
	a.step("verify", "the user has %s, seen %.1f s after the patch", skillList(have), lag.Seconds())
	a.Outcome = string(worker.Verified)
	a.step("verified", "in %d requests", a.Requests)
	return nil
}

// wishes names what a mapping wants; values of attributes are personal data.
func wishes(want mapping.Desired) string {
	names := make([]string, len(want.Attributes))
	for i, a := range want.Attributes {
		names[i] = a.Name
	}
	return fmt.Sprintf("attributes %s; skills %s", orDash(strings.Join(names, ", ")), skillList(want.Skills))
}

func difference(plan *worker.Plan, want mapping.Desired) string {
	if len(plan.Patch.Attributes) > 0 {
		return fmt.Sprintf("write %d attributes", len(want.Attributes))
	}
	return fmt.Sprintf("from %s to %s", skillList(plan.Before), skillList(plan.After))
}

func skillList(skills []genesys.Skill) string {
	texts := make([]string, len(skills))
	for i, s := range skills {
		texts[i] = s.Name + " " + strconv.FormatFloat(s.Proficiency, 'f', -1, 64)
		if s.Level != "" {
			texts[i] = s.Name + " " + s.Level
		}
	}
	if len(texts) == 0 {
		return "no skills"
	}
	return strings.Join(texts, ", ")
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
