package console_test

import (
	"context"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"skillsync/cmd/skillsync/desk"
	"skillsync/queue"
)

func formName(t testing.TB, body string) string {
	t.Helper()
	m := regexp.MustCompile(`name="form" value="([A-Za-z0-9_-]{20,64})"`).FindStringSubmatch(body)
	if m == nil {
		t.Fatalf("the form has no name:\n%s", body)
	}
	return m[1]
}

func (b *bench) replays(t testing.TB) []queue.Replay {
	t.Helper()
	return must[[]queue.Replay](t)(b.Desk.Replays.List(t.Context(), 100))
}

func TestAReplayIsConfirmedBegunOnceAndShown(t *testing.T) {
	b := open(t)
	b.letters(t, 5, "unverified", "bad_record")
	body := b.page(t, "/dead/replay?reason=unverified")
	contains(t, body, "reason unverified", "3 records, up to 3 requests", "Replay 3 dead letters", `action="/dead/replay?reason=unverified&amp;until=5"`, `name="total" value="3"`, "map-2", "3 replays or more")
	if other := b.page(t, "/dead/replay?reason=unverified"); formName(t, other) == formName(t, body) {
		t.Error("two forms have one name")
	}
	b.dead(t, queue.Message{}, failure("EMP-late")) // after the question
	f := form("form", formName(t, body), "name", "", "total", "3", "pace", "600.5", "force", "1", "altered", "1")
	to := b.post(t, "/dead/replay?reason=unverified&until=5", f)
	if again := b.post(t, "/dead/replay?reason=unverified&until=5", f); again != strings.Replace(to, "begun", "already", 1) {
		t.Errorf("sent twice, it leads to %s, then to %s", to, again)
	}
	all := b.replays(t)
	if len(all) != 1 {
		t.Fatalf("%d replays were begun", len(all))
	}
	r := all[0]
	if r.Name != formName(t, body) || r.By != "ops" || r.Until != 5 || r.Total != 3 || r.Rate != 600.5 || !r.Force || r.Mapping != "map-2" || r.Filter.Reason != "unverified" {
		t.Errorf("begun as %+v", r)
	}
	contains(t, b.page(t, to), "The replay has begun.", "<strong>interrupted</strong>", "600.5 records a minute", "Pause", "mapping <code>map-2</code>", "0 of 3 published", "begun")
	contains(t, b.page(t, "/replays/"+r.Name+"?did=already"), "nothing was begun a second time")
	b.run(t, r.Name)
	for range 3 {
		d := b.next(t)
		ok(t, d.Ack(t.Context(), queue.Result{EmployeeID: "EMP-1", Outcome: queue.OutcomeVerified}))
	}
	body = b.page(t, "/replays/"+r.Name)
	contains(t, body, "<strong>done</strong>", "3 of 3 published", `verified</th><td class="number">3</td>`, "3 of 3 published records have ended")
	lacks(t, body, "Steer it", "Its letters")
	contains(t, b.page(t, "/replays"), `<a href="/replays/`+r.Name+`"`, "<td>done</td>", "reason unverified", `value="3"`)
	contains(t, b.page(t, "/outcomes"), `<a href="/replays/`+r.Name+`"`, `<a href="/dead/1?employee=EMP-1">1</a>`)
}

func TestANamedReplayIsNotTakenForAnotherOfThatName(t *testing.T) {
	b := open(t)
	b.letters(t, 2, "unverified")
	first := form("name", "after-the-fix", "form", "a")
	if to := b.post(t, "/dead/replay?letter=1", first); to != "/replays/after-the-fix?did=begun" {
		t.Error("leads to", to)
	}
	if to := b.post(t, "/dead/replay?letter=1", first); to != "/replays/after-the-fix?did=already" {
		t.Error("sent again, it leads to", to)
	}
	w := b.ask(t, http.MethodPost, "/dead/replay?letter=2", first)
	if w.Code != http.StatusConflict {
		t.Error("another of that name:", w.Code)
	}
	contains(t, w.Body.String(), "The name is taken")
	for _, wrong := range []string{"a b", "a.b", strings.Repeat("a", 65), "../x"} {
		if w := b.ask(t, http.MethodPost, "/dead/replay?letter=2", form("name", wrong)); w.Code != http.StatusBadRequest {
			t.Errorf("named %q: %d", wrong, w.Code)
		}
	}
	for _, wrong := range []string{"-1", "fast", "NaN"} {
		if w := b.ask(t, http.MethodPost, "/dead/replay?letter=2", form("pace", wrong)); w.Code != http.StatusBadRequest {
			t.Errorf("pace %q: %d", wrong, w.Code)
		}
	}
	if n := len(b.replays(t)); n != 1 {
		t.Errorf("%d replays were begun", n)
	}
	contains(t, b.page(t, "/dead/replay?letter=77&reason=none"), "dead letter 77")
	contains(t, b.page(t, "/dead/replay?reason=none"), "There are none.")
	contains(t, b.page(t, "/dead/replay?letter=2&letter=1"), "2 dead letters: 1, 2")
}

func TestTheCrewIsWokenForAReplayThatIsBegunOrResumed(t *testing.T) {
	b := open(t)
	b.letters(t, 2, "unverified")
	b.Crew = &desk.Crew{Desk: b.Desk}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); b.Crew.Run(ctx) }()
	defer func() { cancel(); <-done }()
	b.post(t, "/dead/replay?letter=1", form("name", "one"))
	ok(t, b.next(t).Ack(t.Context(), queue.Result{EmployeeID: "EMP-1", Outcome: queue.OutcomeVerified})) // it was published
}

func TestAReplayIsPausedPacedResumedAndCancelled(t *testing.T) {
	b := open(t)
	b.letters(t, 1, "unverified")
	must[queue.Replay](t)(b.Desk.Replays.Begin(t.Context(), queue.Replay{Name: "r", By: "somebody", Letters: []uint64{1}}))
	contains(t, b.page(t, "/replays/r"), `<a href="/dead/1">1</a>`, `action="/replays/r/pause"`, `action="/replays/r/cancel"`)
	for _, step := range []struct{ do, did, state string }{
		{"resume", "late", queue.ReplayRunning},
		{"pause", "paused", queue.ReplayPaused},
		{"pause", "late", queue.ReplayPaused},
		{"pace", "pace", queue.ReplayPaused},
		{"resume", "resumed", queue.ReplayRunning},
		{"cancel", "cancelled", queue.ReplayCancelled},
		{"cancel", "late", queue.ReplayCancelled},
	} {
		if to := b.post(t, "/replays/r/"+step.do, form("pace", "30")); to != "/replays/r?did="+step.did {
			t.Errorf("%s leads to %s", step.do, to)
		}
		r := must[queue.Replay](t)(b.Desk.Replays.Get(t.Context(), "r"))
		if r.State != step.state {
			t.Errorf("after %s it is %s", step.do, r.State)
		}
		body := b.page(t, "/replays/r?did="+step.did)
		contains(t, body, `role="status"`)
		if step.state == queue.ReplayPaused {
			contains(t, body, `action="/replays/r/resume"`, "paused by ops")
		}
	}
	if r := must[queue.Replay](t)(b.Desk.Replays.Get(t.Context(), "r")); r.Rate != 30 {
		t.Errorf("the pace is %v", r.Rate)
	}
	if w := b.ask(t, http.MethodPost, "/replays/r/pace", form("pace", "-3")); w.Code != http.StatusBadRequest {
		t.Error("a pace below zero:", w.Code)
	}
	body := b.page(t, "/replays/r")
	contains(t, body, "cancelled by ops", "pace set to 30 a minute", "<bdi>somebody</bdi>")
	lacks(t, body, "Steer it")
	contains(t, b.page(t, "/dead/1"), "<h1>Dead letter 1</h1>")
}

func TestADryRunTellsWhatAReplayWouldComeTo(t *testing.T) {
	b := open(t)
	b.looping(t, "EMP-1") // letter 4
	b.letters(t, 3, "unverified")
	f := failure("EMP-9")
	f.MappingVersion = "map-2"
	b.dead(t, queue.Message{}, f) // letter 8, which the mapping does not alter
	asked := 0
	b.Desk.Org = prospects(func(d queue.DeadLetter) desk.Prospect {
		asked++
		if d.Sequence == 6 {
			return desk.Prospect{Letter: 6, Verdict: desk.StillFails, Reason: "user_not_found", Why: "no user EMP-2", Requests: .5}
		}
		return billing(d)
	})
	dry := func(target string, pairs ...string) string {
		w := b.ask(t, http.MethodPost, target, form(pairs...))
		if w.Code != http.StatusOK {
			t.Errorf("%s: %d\n%s", target, w.Code, w.Body)
		}
		return w.Body.String()
	}
	body := dry("/dead/dry-run?status=4xx")
	contains(
		t, body, "<dt>would change something</dt><dd>4</dd>", "<dt>would fail again</dt><dd>1</dd>", "<dt>Requests it would spend</dt><dd>4</dd>",
		"would fail again: user_not_found", "no user EMP-2", "<bdi>Billing</bdi>: <bdi>1</bdi> → <bdi>4</bdi>", "loops: passed over", `href="/dead/replay?status=4xx"`,
	)
	lacks(t, body, "Only the first")
	lacks(t, dry("/dead/dry-run?status=4xx", "force", "1"), "loops: passed over")
	lacks(t, dry("/dead/dry-run", "of", "ticked", "letter", "4"), "loops: passed over")
	lacks(t, dry("/dead/dry-run", "altered", "1"), `href="/dead/8`)
	contains(t, dry("/dead/dry-run?letter=1"), "There are none.")
	if n := len(b.replays(t)) - queue.LoopAfter; n != 0 {
		t.Errorf("%d replays were begun", n)
	}
	asked = 0
	b.letters(t, 200, "bad_record")
	contains(t, dry("/dead/dry-run"), "Only the first 200 were looked at", "skillsync dlq replay --dry-run")
	if asked != 200 {
		t.Errorf("%d letters were looked at", asked)
	}
	b.Desk.Org = nil
	w := b.ask(t, http.MethodPost, "/dead/dry-run", nil)
	if w.Code != http.StatusNotImplemented {
		t.Error("without an org:", w.Code)
	}
	contains(t, w.Body.String(), "GENESYS_CLIENT_ID")
}

func TestTheLimitIsSetPausedAndResumedForTheClientNamed(t *testing.T) {
	b := open(t)
	contains(t, b.page(t, "/limit"), "No worker has drawn from a limit yet.")
	b.limited(t, "client-1", 300)
	b.limited(t, "client-2", 300)
	b.limited(t, "not a key", 300)
	state := func(client string) desk.Budget {
		all := must[[]desk.Budget](t)(desk.Budgets(t.Context(), b.broker, must[time.Time](t)(b.broker.Now(t.Context()))))
		return all[slices.IndexFunc(all, func(x desk.Budget) bool { return x.Client == client })]
	}
	contains(t, b.page(t, "/limit"), "<bdi>client-2</bdi>", "300 requests a minute, set by an operator", "can be changed with <code>skillsync limit</code> only", "none</dd>")
	post := func(do, did string, pairs ...string) {
		if to := b.post(t, "/limit/"+do, form(append(pairs, "client", "client-2")...)); to != "/limit?did="+did {
			t.Errorf("%s leads to %s", do, to)
		}
	}
	post("set", "limit", "limit", "1200")
	if s := state("client-2"); s.Limit != 1200 || s.By != "ops" {
		t.Errorf("set: %+v", s)
	}
	post("pause", "paused", "minutes", "90", "reason", "a release")
	if s := state("client-2"); s.PauseText() == "" || !strings.Contains(s.PauseText(), "a release") {
		t.Errorf("paused: %+v", s)
	}
	contains(t, b.page(t, "/limit?did=paused"), "Paused.", "a release", "<dt>Allowed now</dt><dd>0 a minute</dd>")
	post("resume", "resumed")
	post("default", "limit")
	if s := state("client-2"); s.Limit != 0 || s.PauseText() != "" {
		t.Errorf("resumed and given back: %+v", s)
	}
	if s := state("client-1"); s.Limit != 300 {
		t.Errorf("the other: %+v", s)
	}
	for _, wrong := range [][]string{{"set", "limit", "0"}, {"set", "limit", "x"}, {"set", "limit", "10000001"}, {"pause", "minutes", "1441"}, {"pause", "minutes", ""}} {
		w := b.ask(t, http.MethodPost, "/limit/"+wrong[0], form(wrong[1], wrong[2], "client", "client-1"))
		if w.Code != http.StatusBadRequest {
			t.Errorf("%v: %d", wrong, w.Code)
		}
		contains(t, w.Body.String(), wrong[1], "whole number from 1")
	}
	for _, client := range []string{"", "client-3", "not a key", queue.Key("not a key")} {
		if w := b.ask(t, http.MethodPost, "/limit/set", form("client", client, "limit", "5")); w.Code != http.StatusNotFound {
			t.Errorf("client %q: %d", client, w.Code)
		}
	}
	contains(t, b.page(t, "/audit"), "set to 1200 requests a minute", "paused for 1h30m0s: a release", `<a href="/limit"><bdi>client-2</bdi>`)
}

func TestASelectionOfManyLettersIsSaidInShort(t *testing.T) {
	b := open(t)
	query := ""
	for i := range 30 {
		query += fmt.Sprintf("&letter=%d", i+1)
	}
	contains(t, b.page(t, "/dead/drop?of=ticked"+query), "30 dead letters: 1, 2, 3,", "19, 20 and 10 more", "Type 30 to go on")
}
