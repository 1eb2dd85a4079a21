package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"skillsync/cmd/skillsync/desk"
	"skillsync/queue"
)

// What the doctor asks the broker.

const runSetup = `run "skillsync setup" with an administrator's credentials`

func (e *examination) noBroker() string {
	if e.broker == nil {
		return "no connection to the broker"
	}
	return ""
}

func (e *examination) noJetStream() string {
	if e.broker != nil && !e.jetStream {
		return "no answer from JetStream: see above"
	}
	return e.noBroker()
}

func (e *examination) connection(context.Context) check {
	b, err := e.connect(&e.program)
	if err != nil {
		return failed(connectionAdvice(err), "%s", oneLine(err))
	}
	e.broker = b
	e.stops = append(e.stops, b.Close)
	s := b.Server()
	alone := "one server"
	if s.Cluster != "" {
		alone = fmt.Sprintf("cluster %s, %s known", s.Cluster, desk.HowMany(s.Known, "address"))
	}
	return found("%s, NATS %s, %s", s.URL, s.Version, alone)
}

func connectionAdvice(err error) string {
	if exit := (*exitError)(nil); errors.As(err, &exit) {
		return "set NATS_URL as the workers have it"
	}
	return "start the broker, or mend NATS_URL and the credentials (NATS_CREDS, NATS_NKEY, NATS_USER and NATS_PASSWORD, NATS_CA)"
}

func (e *examination) jetStreamOn(ctx context.Context) check {
	on, err := e.broker.JetStream(ctx)
	switch {
	case err != nil:
		return failed(permissionAdvice(err), "%s", oneLine(err))
	case !on:
		return failed("add a jetstream section to the server's configuration (or -js), and turn it on for the account of this user", "off, on this server or for this user's account")
	}
	e.jetStream = true
	return found("on")
}

const syncAlways = `set "sync_interval: always" in the server's jetstream section: the default of two minutes loses acknowledged records when the power fails`

// syncToDisk asks the servers' monitoring ports: clients are not told.
func (e *examination) syncToDisk(ctx context.Context) check {
	switch {
	case e.URL == "":
		return found("always: the broker that a worker brings along does so")
	case len(e.MonitorURL) == 0:
		return skipped(`see that the server's jetstream section has "sync_interval: always", or let --nats-monitor-url (NATS_MONITOR_URL) name its monitoring port`,
			"the broker does not tell its clients")
	}
	for _, monitor := range e.MonitorURL {
		u, err := url.Parse(strings.TrimSpace(monitor))
		if err != nil {
			return warning(`give NATS_MONITOR_URL as http://HOST:8222`, "not told: what is given is no URL") // it may hold a password
		}
		interval, err := syncIntervalOf(ctx, u)
		switch {
		case err != nil:
			return warning(`see that NATS_MONITOR_URL names the monitoring port ("http: 8222" in the server's configuration)`, "not told: %s", oneLine(err))
		case interval == 0:
		case e.Replicas >= 3: // it takes a power failure of two machines at once
			return warning(syncAlways, "every %s, at %s", interval, u.Redacted())
		default:
			return failed(syncAlways, "every %s, at %s", interval, u.Redacted())
		}
	}
	return found("always, on %s", desk.HowMany(len(e.MonitorURL), "server"))
}

// syncIntervalOf is how often a server syncs to disk; 0 for at every write.
func syncIntervalOf(ctx context.Context, monitor *url.URL) (time.Duration, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, monitor.JoinPath("jsz").String(), nil)
	if err != nil {
		return 0, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("%s answers %s", req.URL.Redacted(), res.Status)
	}
	var jsz struct { // of the server's JSInfo what is needed
		Config struct {
			Interval time.Duration `json:"sync_interval"`
			Always   bool          `json:"sync_always"`
		} `json:"config"`
	}
	switch err := json.NewDecoder(io.LimitReader(res.Body, 1<<20)).Decode(&jsz); {
	case err != nil:
		return 0, fmt.Errorf("%s does not answer as a NATS server does: %w", req.URL.Redacted(), err)
	case jsz.Config.Always:
		return 0, nil
	case jsz.Config.Interval == 0:
		return 0, fmt.Errorf("%s belongs to a server without JetStream", req.URL.Redacted())
	}
	return jsz.Config.Interval, nil
}

func (e *examination) asSetUp(ctx context.Context) check {
	differences, err := e.broker.Differences(ctx, e.topology())
	whole := "streams, consumer and buckets are as they should be"
	if errors.Is(err, queue.ErrForbidden) { // a worker's user may not see the operators' part
		whole = "what workers need is as it should be; this user may not look at the rest"
		differences, err = e.broker.Check(ctx, e.topology())
	}
	switch {
	case errors.Is(err, queue.ErrForbidden):
		return skipped("run the doctor with an administrator's credentials, too", "this user may not look: %s", oneLine(err))
	case err != nil:
		return failed("see that the servers of the cluster are up, and that the streams have leaders", "%s", oneLine(err))
	case len(differences) > 0:
		return failed(driftAdvice(differences), "%s", listed(differences))
	}
	return found("%s", whole)
}

func driftAdvice(differences []queue.Difference) string {
	for _, d := range differences {
		if d.Fixed() {
			return fmt.Sprintf(`the broker does not change the %s of what exists: delete %s once it is empty, then %s`, d.Setting, d.Of, runSetup)
		}
	}
	return runSetup + "; --dry-run shows what it would do"
}

// listed is the first few differences.
func listed(differences []queue.Difference) string {
	const most = 3
	var texts []string
	for _, d := range differences[:min(most, len(differences))] {
		texts = append(texts, d.String())
	}
	if more := len(differences) - most; more > 0 {
		texts = append(texts, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(texts, "; ")
}

// A user may be a worker's, an operator's or both; one that is neither is of no use.
func (e *examination) workersRights(ctx context.Context) check {
	refused, err := e.broker.Refused(ctx, queue.RoleWorker)
	if c, ok := answersRefused(err); ok {
		return c
	}
	if len(refused) == 0 {
		return found("may read all that a worker reads; what it may write shows only when it does")
	}
	do := "let the worker's user publish to " + refused[0] + " and the rest of what workers need"
	if others, err := e.broker.Refused(ctx, queue.RoleOperator); err == nil && len(others) == 0 {
		return warning("nothing if this is an operator's user; otherwise "+do, "refused: %s", shortly(refused))
	}
	return failed(do, "refused: %s", shortly(refused))
}

func (e *examination) operatorsRights(ctx context.Context) check {
	refused, err := e.broker.Refused(ctx, queue.RoleOperator)
	if c, ok := answersRefused(err); ok {
		return c
	}
	if len(refused) == 0 {
		return found("may read all that an operator reads; what it may write shows only when it does")
	}
	if others, err := e.broker.Refused(ctx, queue.RoleWorker); err == nil && len(others) == 0 {
		return skipped("", "this is a worker's user, who needs none: refused %s", shortly(refused))
	}
	return warning("let an operator's user publish to "+refused[0]+" and the rest of what operators need", "refused: %s", shortly(refused))
}

func answersRefused(err error) (check, bool) {
	if err == nil {
		return check{}, false
	}
	return failed(permissionAdvice(err), "%s", oneLine(err)), true
}

// permissionAdvice tells a broker that forbids answers from one that gives none: both time out.
func permissionAdvice(err error) string {
	if errors.Is(err, queue.ErrForbidden) {
		return "let the user subscribe to what its inbox needs: _INBOX.>, or set NATS_INBOX_PREFIX to what it may"
	}
	return "see that the broker is up and has a leader"
}

func shortly(subjects []string) string {
	if len(subjects) == 1 {
		return subjects[0]
	}
	return fmt.Sprintf("%s and %d more", subjects[0], len(subjects)-1)
}

func (e *examination) clock(ctx context.Context) check {
	offset, err := e.broker.Offset(ctx)
	switch {
	case errors.Is(err, queue.ErrForbidden), errors.Is(err, queue.ErrNotSetUp):
		return skipped("", "the stream that would tell the broker's time cannot be looked at: see above")
	case err != nil:
		return failed("see that the broker is up and has a leader", "%s", oneLine(err))
	}
	e.offset = offset
	return clockOff(offset)
}

// clockOff judges how far the broker's clock is ahead. Workers go by the broker's, and so it is
// times in logs and alerts that are wrong first.
func clockOff(offset time.Duration) check {
	const do = "set both machines by NTP (chronyc tracking, timedatectl)"
	side := "ahead of"
	if offset < 0 {
		side = "behind"
	}
	off := offset.Abs().Round(10 * time.Millisecond)
	text := fmt.Sprintf("the broker's is %s %s this machine's", off, side)
	switch {
	case off > 5*time.Second:
		return failed(do, "%s", text)
	case off > time.Second:
		return warning(do, "%s", text)
	}
	if off == 0 {
		text = "the broker's and this machine's agree"
	}
	return found("%s", text)
}

func (e *examination) fleetsLimit(ctx context.Context) check {
	budgets, err := desk.Budgets(ctx, e.broker, time.Now().Add(e.offset))
	if err != nil {
		return skipped("", "the fleet's budget cannot be read: %s", oneLine(err))
	}
	if e.ClientID == "" && len(budgets) > 0 {
		return skipped("", "no OAuth client")
	}
	for _, b := range budgets {
		if queue.Key(e.ClientID) == b.Client {
			return judgeBudget(b, e.Limit)
		}
	}
	return found("no worker has drawn from it yet")
}

func judgeBudget(b desk.Budget, own int) check {
	text := b.LimitText()
	switch {
	case b.PauseText() != "":
		return warning(`"skillsync limit resume" ends a pause that nobody needs`, "paused %s", b.PauseText())
	case b.SetBy == "operator" && b.Limit != own:
		return warning(`"skillsync limit set default" gives the workers back their own`, "%s; --limit is %d", text, own)
	case b.Limit != own:
		return warning("give all workers and this command one --limit (SKILLSYNC_LIMIT)", "%s; --limit is %d", text, own)
	case b.Limit > 0 && b.Slower() != "":
		return warning("nothing: it climbs back by itself; if it comes again, lower the limit", "%s; %.0f allowed now%s", text, b.Allowed, b.Slower())
	}
	return found("%s", text)
}

// oneLine is an error's text without breaks. Its own are for pages of text.
func oneLine(err error) string {
	return cmp.Or(strings.Join(strings.Fields(err.Error()), " "), "no reason given")
}
