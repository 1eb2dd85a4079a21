package worker

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"skillsync/genesys"
	"skillsync/queue"
	"skillsync/queue/ledger"
	"skillsync/queue/queuetest"
	"skillsync/worker/mapping"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rules give one skill per department, so that a test sees by the skill which record was applied.
const rules = `
attributes: {department: department}
skills:
  - {skill: A, proficiency: 1, when: department == "a"}
  - {skill: B, proficiency: 2, when: department == "b"}
  - {skill: C, proficiency: 3, when: department == "c"}
`

// An org is a directory in memory: every user exists, patches show after lag, and what goes wrong
// is up to the test.
type org struct {
	lag time.Duration

	// What happens instead of, before and after a call; nil for nothing. onPatch is asked before
	// the write, and afterPatch may turn its success into an error: the reply was lost.
	onFind     func(genesys.Person) (string, error)
	onRead     func(userID string) error
	onPatch    func(ctx context.Context, userID string) error
	afterPatch func(userID string) error

	mu      sync.Mutex
	users   map[string]*orgUser
	finds   int
	reads   int
	patches map[string]int
}

type orgUser struct {
	version      int
	now          []genesys.Skill
	shown        []genesys.Skill // what reads answer, and
	shownVersion int             // with which version
	since        time.Time       // when now was written
}

func (o *org) user(id string) *orgUser {
	if o.users == nil {
		o.users, o.patches = map[string]*orgUser{}, map[string]int{}
	}
	u := o.users[id]
	if u == nil {
		u = &orgUser{version: 1, shownVersion: 1, since: time.Now().Add(-time.Hour)}
		o.users[id] = u
	}
	if time.Since(u.since) >= o.lag {
		u.shown, u.shownVersion = u.now, u.version
	}
	return u
}

func (o *org) Find(_ context.Context, p genesys.Person) (string, error) {
	o.mu.Lock()
	o.finds++
	o.mu.Unlock()
	if o.onFind != nil {
		return o.onFind(p)
	}
	return "user-of-" + p.EmployeeID, nil
}

func (o *org) User(ctx context.Context, id string) (genesys.User, error) {
	if ctx.Err() != nil {
		return genesys.User{}, ctx.Err()
	}
	o.mu.Lock()
	o.reads++
	o.mu.Unlock()
	if o.onRead != nil {
		if err := o.onRead(id); err != nil {
			return genesys.User{}, err
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	u := o.user(id)
	return genesys.User{ID: id, Version: fmt.Sprint(u.shownVersion), Skills: slices.Clone(u.shown)}, nil
}

func (o *org) Patch(ctx context.Context, id string, p genesys.Patch) (string, error) {
	if o.onPatch != nil {
		if err := o.onPatch(ctx, id); err != nil {
			return "", err
		}
	}
	o.mu.Lock()
	u := o.user(id)
	if p.Version != "" && p.Version != fmt.Sprint(u.version) {
		o.mu.Unlock()
		return "", &genesys.Error{Op: "patch", Status: 412}
	}
	o.patches[id]++
	o.set(u, p.Skills)
	o.mu.Unlock()
	if o.afterPatch != nil {
		return "", o.afterPatch(id)
	}
	return "correlation", nil
}

func (o *org) set(u *orgUser, skills []genesys.Skill) {
	u.version++
	u.now, u.since = slices.Clone(skills), time.Now()
	if o.lag == 0 {
		u.shown, u.shownVersion = u.now, u.version
	}
}

// has tells what a user has in the end.
func (o *org) has(employee string) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	var names []string
	for _, s := range o.user("user-of-" + employee).now {
		names = append(names, s.Name)
	}
	slices.Sort(names)
	return fmt.Sprint(names)
}

func (o *org) patched(employee string) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.patches["user-of-"+employee]
}

// A bench is a worker's whole surroundings in virtual time.
type bench struct {
	*testing.T
	org   *org
	queue *queuetest.Memory
	kv    *queuetest.KV
	count int // records published
}

// inBubble runs a test in virtual time, with nothing started yet.
func inBubble(t *testing.T, test func(*bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		test(&bench{T: t, org: &org{}, queue: queuetest.NewMemory(t, time.Minute), kv: queuetest.NewKV()})
	})
}

func (b *bench) worker(name string) *Worker {
	return &Worker{
		Queue:       b.queue,
		Ledger:      &ledger.Ledger{Store: b.kv, Worker: name, Target: "org", TTL: time.Minute},
		Provisioner: &Provisioner{Directory: b.org, Mapping: parse(b, rules), Profile: genesys.RoutingSkills, Settle: 3 * time.Second, Deadline: time.Minute},
		Metrics:     NewMetrics(prometheus.NewRegistry()),
		Log:         zerolog.New(zerolog.NewTestWriter(b.T)),
	}
}

func parse(t testing.TB, rules string) *mapping.Mapping {
	t.Helper()
	m, err := mapping.Parse("rules.yaml", []byte(rules))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// start runs w; stop drains it and waits for that.
func (b *bench) start(w *Worker) (stop func()) {
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	return sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			b.Errorf("Run: %v", err)
		}
	})
}

// publish stores a record of an employee; fields beside employee_id and department are optional.
func (b *bench) publish(employee, department string, more ...map[string]any) {
	b.Helper()
	fields := map[string]any{"employee_id": employee, "department": department}
	for _, m := range more {
		maps.Copy(fields, m)
	}
	data, err := json.Marshal(fields)
	if err != nil {
		b.Fatal(err)
	}
	b.publishRaw(employee, data)
}

func (b *bench) publishRaw(employee string, data []byte) {
	b.Helper()
	if _, err := b.queue.Publish(b.Context(), queue.Message{EmployeeID: employee, Data: data}); err != nil {
		b.Fatal(err)
	}
	b.count++
}

// settle waits, in virtual time, until nothing waits any more.
func (b *bench) settle(within time.Duration) {
	b.Helper()
	for start := time.Now(); b.queue.Waiting() > 0; {
		if time.Since(start) > within {
			b.Fatalf("%d records are not settled after %s", b.queue.Waiting(), within)
		}
		time.Sleep(100 * time.Millisecond) // virtual
	}
	synctest.Wait()
}

// outcomes are the results by outcome, after checking promise 1 whole: every record that is not
// waiting has exactly one result, and a dead letter just when the result says so.
func (b *bench) outcomes() map[string]int {
	b.Helper()
	got, dead := map[string]int{}, 0
	seen := map[uint64]bool{}
	for _, r := range b.queue.Results() {
		if seen[r.Sequence] {
			b.Errorf("record %d has two results", r.Sequence)
		}
		seen[r.Sequence] = true
		name := r.Outcome
		if name == queue.OutcomeDead {
			dead++
			name = r.Reason
		}
		got[name]++
	}
	if len(seen)+b.queue.Waiting() != b.count {
		b.Errorf("%d records published, %d have a result, %d wait", b.count, len(seen), b.queue.Waiting())
	}
	if n := len(b.queue.Dead()); n != dead {
		b.Errorf("%d dead letters, %d results that say so", n, dead)
	}
	return got
}

func (b *bench) wantOutcomes(want map[string]int) {
	b.Helper()
	if got := b.outcomes(); !maps.Equal(got, want) {
		b.Errorf("outcomes %v, want %v", got, want)
	}
}
