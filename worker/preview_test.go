package worker

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"skillsync/genesys"
	"skillsync/queue"
	"skillsync/queue/queuetest"
)

const uuid = "6d5f3a10-0000-4000-8000-000000000001"

var otherDivision = &genesys.Error{Op: "patch", Status: 403, Code: "missing.division.permission"}

// A metered org adds up what is asked of it, in requests, and fails as the test wants.
type metered struct {
	Directory
	read float64 // what one costs

	mu    sync.Mutex
	spent float64
	fault func(op, who string) error // who is a user or, when one is looked up, an employee
}

func (m *metered) ask(cost float64, op, who string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.spent += cost
	if m.fault == nil {
		return nil
	}
	return m.fault(op, who)
}

func (m *metered) Find(ctx context.Context, p genesys.Person) (string, error) {
	if err := m.ask(oneRequest, "find", p.EmployeeID); err != nil {
		return "", err
	}
	return m.Directory.Find(ctx, p)
}

func (m *metered) User(ctx context.Context, id string) (genesys.User, error) {
	if err := m.ask(m.read, "read", id); err != nil {
		return genesys.User{}, err
	}
	return m.Directory.User(ctx, id)
}

func (m *metered) Patch(ctx context.Context, id string, p genesys.Patch) (string, error) {
	if err := m.ask(oneRequest, "patch", id); err != nil {
		return "", err
	}
	return m.Directory.Patch(ctx, id, p)
}

// A stage is a bench with a dead letter of E1, version 5, department a, before its replay.
type stage struct {
	*bench
	org    *metered
	worker *Worker
	stop   func()
}

func newStage(b *bench, profile genesys.Profile) *stage {
	s := &stage{bench: b, org: &metered{Directory: b.org, read: sharedRead}}
	if profile == genesys.CustomAttributes {
		s.org.Directory, s.org.read = attributesOnly{b.org, new([]string)}, oneRequest
	}
	s.start("w1", profile)
	return s
}

func (s *stage) start(name string, profile genesys.Profile) {
	s.worker = s.bench.worker(name)
	s.worker.Provisioner.Directory, s.worker.Provisioner.Profile = s.org, profile
	s.worker.InFlight = 1 // records end in the order of publishing, so that the replay comes last
	s.stop = s.bench.start(s.worker)
}

// apply takes a record of E1 to its end.
func (s *stage) apply(department string, version int, more ...map[string]any) {
	s.Helper()
	s.publish("E1", department, append(more, map[string]any{"version": version})...)
	s.settle(time.Hour)
}

// kill makes the dead letter.
func (s *stage) kill(more map[string]any) {
	s.Helper()
	s.org.fault = func(string, string) error { return otherDivision }
	s.apply("a", 5, more)
	s.org.fault = nil
}

func (s *stage) has(user string, skills ...genesys.Skill) {
	s.bench.org.mu.Lock()
	defer s.bench.org.mu.Unlock()
	s.bench.org.set(s.bench.org.user(user), skills)
}

func (s *stage) previewer() *Previewer {
	return &Previewer{Provisioner: s.worker.Provisioner, Ledger: s.worker.Ledger, Newer: s.queue.Newer, Fresh: s.worker.Fresh}
}

// unwritten checks that what is done reads only.
func (s *stage) unwritten(do func()) {
	s.Helper()
	entries := func() string {
		e, err := s.kv.Get(context.Background(), "E1")
		if err != nil && !errors.Is(err, queue.ErrNotFound) {
			return err.Error()
		}
		return fmt.Sprint(s.kv.Updates(), e.Revision, " ", string(e.Value))
	}
	state := func() string {
		s.bench.org.mu.Lock()
		defer s.bench.org.mu.Unlock()
		return fmt.Sprint(s.bench.org.patches, s.queue.Waiting(), len(s.queue.Dead()), len(s.queue.Results()))
	}
	before := entries() + state()
	do()
	if diff := cmp.Diff(before, entries()+state()); diff != "" {
		s.Errorf("a preview has written:\n%s", diff)
	}
}

func failsFor(user string, err error) func(op, who string) error {
	return func(_, who string) error {
		if who == user {
			return err
		}
		return nil
	}
}

// Each situation is previewed, and then replayed: what was foreseen must come, at the price foreseen.
func TestAPreviewForetellsWhatTheReplayComesTo(t *testing.T) {
	a, second := genesys.Skill{Name: "A", Proficiency: 1}, genesys.Skill{Name: "B", Proficiency: 2}
	gone := &genesys.Error{Op: "read", Status: 404}
	const remembered = "user-of-E1"
	for _, row := range []struct {
		name    string
		profile genesys.Profile
		record  map[string]any
		data    string       // instead of the record
		before  func(*stage) // the record fails
		after   func(*stage) // it has failed
		queued  func(*stage) // with no worker running
		skills  []string     // that the org has; nil for no such list

		want    Prospect
		why     string // part of it
		outcome string // of the replay
	}{
		{
			name: "a user who is to be looked up, and lacks a skill",
			want: Prospect{Fate: WouldChange, UserID: remembered, After: []genesys.Skill{a}, Requests: 2.02}, outcome: "verified",
		},
		{
			name: "a user who is remembered", before: func(s *stage) { s.apply("b", 3) },
			want:    Prospect{Fate: WouldChange, UserID: remembered, Before: []genesys.Skill{second}, After: []genesys.Skill{a}, Requests: 1.02},
			outcome: "verified",
		},
		{
			name: "a user whom the record names, with a skill that no rule does", record: map[string]any{"user_id": uuid},
			after:   func(s *stage) { s.has(uuid, genesys.Skill{Name: "Z", Proficiency: 4}) },
			want:    Prospect{Fate: WouldChange, UserID: uuid, Before: []genesys.Skill{{Name: "Z", Proficiency: 4}}, After: []genesys.Skill{a, {Name: "Z", Proficiency: 4}}, Requests: 1.02},
			outcome: "verified",
		},
		{
			name: "the org has the skill", skills: []string{"A", "B"},
			want: Prospect{Fate: WouldChange, UserID: remembered, After: []genesys.Skill{a}, Requests: 2.02}, outcome: "verified",
		},
		{
			name: "a user who has it all", after: func(s *stage) { s.has(remembered, a) }, skills: []string{},
			want: Prospect{Fate: NothingToDo, UserID: remembered, Requests: 1.01}, why: "has it all", outcome: "unchanged",
		},
		{
			name: "the state was verified since, by an older record", after: func(s *stage) { s.apply("a", 4) },
			want: Prospect{Fate: NothingToDo, UserID: remembered}, why: "verified not long ago", outcome: "unchanged",
		},
		{
			name: "the state was verified since, and long ago", after: func(s *stage) { s.apply("a", 4); time.Sleep(25 * time.Hour) },
			want: Prospect{Fate: NothingToDo, UserID: remembered, Requests: 0.01}, why: "has it all", outcome: "unchanged",
		},
		{
			name: "a user who has it all, though something may have been written",
			after: func(s *stage) {
				s.apply("a", 4)
				if err := s.worker.Ledger.Disturb(s.Context(), "E1"); err != nil {
					s.Error(err)
				}
			},
			want: Prospect{Fate: NothingToDo, UserID: remembered, Requests: 1.02}, why: "to be sure", outcome: "verified",
		},
		{
			name: "a newer record waits", queued: func(s *stage) { s.publish("E1", "b", map[string]any{"version": 6}) },
			want: Prospect{Fate: WouldSupersede}, why: "newer record", outcome: "superseded",
		},
		{
			name: "an older record waits", queued: func(s *stage) { s.publish("E1", "b", map[string]any{"version": 4}) },
			want: Prospect{Fate: WouldChange, UserID: remembered, After: []genesys.Skill{a}, Requests: 2.02}, outcome: "verified",
		},
		{
			name: "a newer record waits that cannot be applied", queued: func(s *stage) { s.publish("E1", "", map[string]any{"version": 6, "department": nil}) },
			want: Prospect{Fate: WouldChange, UserID: remembered, After: []genesys.Skill{a}, Requests: 2.02}, outcome: "verified",
		},
		{
			name: "a newer record was applied", after: func(s *stage) { s.apply("b", 6) },
			want: Prospect{Fate: WouldSupersede}, why: "newer record", outcome: "superseded",
		},
		{
			name: "a record that cannot be read", data: `{"employee_id":"E1","department":7,"department":8}`,
			want: Prospect{Fate: StillFails, Reason: BadRecord}, why: "department", outcome: "bad_record",
		},
		{
			name: "nothing to map", data: `{"employee_id":"E1","shoe_size":"44"}`,
			want: Prospect{Fate: StillFails, Reason: NoAttributes}, why: "none of the fields", outcome: "no_attributes",
		},
		{
			name: "no such user", after: func(s *stage) { s.org.fault = failsFor("E1", genesys.ErrUserNotFound) },
			want: Prospect{Fate: StillFails, Reason: UserNotFound, Requests: 1}, why: "find the user of employee E1", outcome: "user_not_found",
		},
		{
			name: "several users", after: func(s *stage) { s.org.fault = failsFor("E1", genesys.ErrAmbiguous) },
			want: Prospect{Fate: StillFails, Reason: UserAmbiguous, Requests: 1}, why: "more than one", outcome: "user_ambiguous",
		},
		{
			name: "a user of another division", after: func(s *stage) { s.org.fault = failsFor(remembered, otherDivision) },
			want: Prospect{Fate: StillFails, Reason: DivisionForbidden, UserID: remembered, Requests: 1.01}, why: "403", outcome: "division_forbidden",
		},
		{
			name: "a user who is named and not there", record: map[string]any{"user_id": uuid}, after: func(s *stage) { s.org.fault = failsFor(uuid, gone) },
			want: Prospect{Fate: StillFails, Reason: UserNotFound, UserID: uuid, Requests: 0.01}, why: "404", outcome: "user_not_found",
		},
		{
			name: "a user who is remembered and gone, and has a new id", before: func(s *stage) { s.apply("b", 3) },
			after: func(s *stage) {
				s.org.fault = failsFor(remembered, gone)
				s.bench.org.onFind = func(genesys.Person) (string, error) { return "user-2", nil }
			},
			want: Prospect{Fate: WouldChange, UserID: "user-2", After: []genesys.Skill{a}, Requests: 2.03}, outcome: "verified",
		},
		{
			name: "a skill that the org does not have", before: func(s *stage) { s.apply("b", 3) }, skills: []string{"B", "a"},
			after: func(s *stage) {
				s.bench.org.onPatch = func(context.Context, string) error { return &genesys.UnknownSkillError{Names: []string{"A"}} }
			},
			want: Prospect{Fate: StillFails, Reason: SkillUnknown, UserID: remembered, Requests: 1.01}, why: `unknown skill "A" (did you mean "a"?)`, outcome: "skill_unknown",
		},

		{
			name: "attributes of a user who is to be looked up", profile: genesys.CustomAttributes, after: func(s *stage) { s.has(remembered, a) },
			want: Prospect{Fate: WouldChange, UserID: remembered, Attributes: []string{"department"}, Requests: 3}, outcome: "verified",
		},
		{
			name: "attributes of a user who is named", profile: genesys.CustomAttributes, record: map[string]any{"user_id": uuid}, after: func(s *stage) { s.has(uuid, a) },
			want: Prospect{Fate: WouldChange, UserID: uuid, Attributes: []string{"department"}, Requests: 2}, outcome: "verified",
		},
		{
			name: "attributes of a user who is named and not there", profile: genesys.CustomAttributes, record: map[string]any{"user_id": uuid},
			after: func(s *stage) { s.org.fault = failsFor(uuid, gone) },
			want:  Prospect{Fate: StillFails, Reason: UserNotFound, UserID: uuid, Requests: 1}, why: "404", outcome: "user_not_found",
		},
		{
			name: "attributes of a user who is remembered and gone, and has a new id", profile: genesys.CustomAttributes,
			before: func(s *stage) { s.has(remembered, second); s.apply("b", 3) },
			after: func(s *stage) {
				s.org.fault = failsFor(remembered, gone)
				s.bench.org.onFind = func(genesys.Person) (string, error) { return "user-2", nil }
				s.has("user-2", a)
			},
			want: Prospect{Fate: WouldChange, UserID: "user-2", Attributes: []string{"department"}, Requests: 4}, outcome: "verified",
		},
		{
			name: "attributes that the ledger knows as written, and the skills fit", profile: genesys.CustomAttributes,
			after: func(s *stage) { s.has(remembered, a); s.apply("a", 4); time.Sleep(25 * time.Hour) },
			want:  Prospect{Fate: NothingToDo, UserID: remembered, Requests: 1}, why: "has it all", outcome: "unchanged",
		},
		{
			name: "attributes that the ledger knows as written, and the skills do not fit any more", profile: genesys.CustomAttributes,
			after: func(s *stage) {
				s.has(remembered, a)
				s.apply("a", 4)
				time.Sleep(25 * time.Hour)
				s.has(remembered)
				s.org.fault = func(op, _ string) error { // the org's own provisioning
					if op == "patch" {
						s.has(remembered, a)
					}
					return nil
				}
			},
			want: Prospect{Fate: WouldChange, UserID: remembered, Attributes: []string{"department"}, Requests: 3}, outcome: "verified",
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				profile := genesys.RoutingSkills
				if row.profile != "" {
					profile = row.profile
				}
				s := newStage(b, profile)
				for _, step := range []func(*stage){
					row.before,
					func(s *stage) {
						if row.data != "" {
							s.publishRaw("E1", []byte(row.data))
							s.settle(time.Minute)
							return
						}
						s.kill(row.record)
					},
					row.after,
					func(s *stage) { s.stop() },
					row.queued,
				} {
					if step != nil {
						step(s)
					}
				}
				letter := s.queue.Dead()[0]
				p := s.previewer()
				if row.skills != nil {
					p.Skills = func(context.Context) ([]string, error) { return row.skills, nil }
				}
				s.unwritten(func() {
					got, err := p.Preview(t.Context(), &letter)
					if err != nil {
						t.Fatal(err)
					}
					if !strings.Contains(got.Why, row.why) || (got.Why == "") != (row.why == "") {
						t.Errorf("says %q, want %q in it", got.Why, row.why)
					}
					got.Why, got.Requests = "", math.Round(got.Requests*100)/100
					if diff := cmp.Diff(row.want, got); diff != "" {
						t.Errorf("-want +got:\n%s", diff)
					}
				})

				if err := s.queue.Replay(t.Context(), letter.Sequence); err != nil {
					t.Fatal(err)
				}
				alone := row.queued == nil
				s.org.spent = 0
				s.start("w2", profile)
				defer s.stop()
				s.settle(time.Hour)
				ends := slices.DeleteFunc(s.queue.Results(), func(r queue.Result) bool { return r.Order != letter.Order })
				last := ends[len(ends)-1]
				if got := strings.TrimPrefix(last.Outcome, queue.OutcomeDead) + last.Reason; got != row.outcome {
					t.Errorf("the replay ended as %s, want %s", got, row.outcome)
				}
				if alone && math.Abs(s.org.spent-row.want.Requests) > 1e-9 {
					t.Errorf("the replay spent %.2f requests, foreseen %.2f", s.org.spent, row.want.Requests)
				}
			})
		})
	}
}

func TestAPreviewThatCannotBeHadIsAnErrorAndNoProspect(t *testing.T) {
	org := func(err error) func(*stage, *Previewer) {
		return func(s *stage, _ *Previewer) { s.org.fault = func(string, string) error { return err } }
	}
	for name, row := range map[string]struct {
		spoil func(*stage, *Previewer)
		want  error
	}{
		"credentials": {org(&genesys.Error{Op: "read", Status: 401}), genesys.ErrUnauthorized},
		"permission":  {org(&genesys.Error{Op: "read", Status: 403, Code: "missing.permissions"}), genesys.ErrForbidden},
		"rate limit":  {org(&genesys.Error{Op: "read", Status: 429, RetryAfter: time.Second}), genesys.ErrThrottled},
		"outage":      {org(&genesys.Error{Op: "read", Status: 503}), nil},
		"no answer":   {org(&genesys.Error{Op: "read", Err: errors.New("connection reset")}), nil},
		"time-out":    {org(context.DeadlineExceeded), context.DeadlineExceeded},
		"no ledger":   {func(s *stage, _ *Previewer) { s.kv.Fail(queuetest.Get, queuetest.Before) }, queue.ErrUnreachable},
		"no queue":    {func(s *stage, _ *Previewer) { s.queue.Fail(queuetest.Newer, queuetest.Before) }, queue.ErrUnreachable},
		"no skills list": {func(_ *stage, p *Previewer) {
			p.Skills = func(context.Context) ([]string, error) { return nil, genesys.ErrBadRequest }
		}, genesys.ErrBadRequest},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				s := newStage(b, genesys.RoutingSkills)
				s.kill(nil)
				s.stop()
				p := s.previewer()
				row.spoil(s, p)
				got, err := p.Preview(t.Context(), &s.queue.Dead()[0])
				if err == nil || row.want != nil && !errors.Is(err, row.want) || !strings.HasPrefix(err.Error(), "preview dead letter 1: ") {
					t.Errorf("the error is %v", err)
				}
				if diff := cmp.Diff(Prospect{}, got); diff != "" {
					t.Errorf("it foretells %+v", got)
				}
			})
		})
	}
}

func TestAPreviewSaysNoValueOfTheRecord(t *testing.T) {
	inBubble(t, func(b *bench) {
		s := newStage(b, genesys.RoutingSkills)
		s.kill(map[string]any{"name": "Jane Q. Secret", "email": "jane@example.com"})
		s.stop()
		s.org.fault = failsFor("user-of-E1", &genesys.Error{Op: "read", Status: 400, Message: `"Jane Q. Secret" of jane@example.com is wrong`})
		got, err := s.previewer().Preview(t.Context(), &s.queue.Dead()[0])
		if err != nil || strings.Contains(got.Why, "Jane") || strings.Contains(got.Why, "example.com") || !strings.Contains(got.Why, "‹name›") {
			t.Errorf("says %q, %v", got.Why, err)
		}
	})
}

func TestManyPreviewsAtOnceAreTheSameAndWriteNothing(t *testing.T) {
	inBubble(t, func(b *bench) {
		s := newStage(b, genesys.RoutingSkills)
		s.kill(nil)
		s.stop()
		p, letter := s.previewer(), s.queue.Dead()[0]
		p.Newer = nil
		p.Skills = func(context.Context) ([]string, error) { return []string{"A"}, nil }
		s.unwritten(func() {
			var all sync.WaitGroup
			for range 50 {
				all.Go(func() {
					got, err := p.Preview(t.Context(), &letter)
					if err != nil || got.Fate != WouldChange || got.Requests < 2.01 || got.Requests > 2.03 {
						t.Errorf("%+v, %v", got, err)
					}
				})
			}
			all.Wait()
		})
	})
}

func TestAPreviewCannotPatch(t *testing.T) {
	if _, err := (&readOnly{Directory: &org{}}).Patch(t.Context(), "user", genesys.Patch{}); !errors.Is(err, errReadOnly) {
		t.Error(err)
	}
}
