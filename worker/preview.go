package worker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"skillsync/genesys"
	"skillsync/queue"
	"skillsync/queue/ledger"
)

// A Fate is what a replay of a dead letter would come to.
type Fate string

const (
	WouldChange    Fate = "would_change"  // its user is not as it wants, and would be patched
	NothingToDo    Fate = "nothing_to_do" // its user is as it wants
	WouldSupersede Fate = "superseded"    // a newer record of the employee has won, or will
	StillFails     Fate = "still_fails"   // it would be a dead letter again
)

// A Prospect is what would become of a record if it were replayed now.
type Prospect struct {
	Fate   Fate
	Reason Reason // still_fails: of the dead letter that it would be
	Why    string // in words, without the record's values; empty where the other fields say it all
	UserID string // as far as it is known

	Before, After []genesys.Skill // would_change in routing-skills: the user's skills now, and then
	Attributes    []string        // would_change in custom-attributes: names of those to be written

	// Requests is about what the replay would spend of the budget. A read that records share is
	// counted as a hundredth.
	Requests float64
}

const (
	oneRequest = 1.0
	sharedRead = 0.01 // a batch has up to 100 users; in a bulk replay, where it matters, it does
)

// A Previewer tells what replays would come to, by reads only: it patches nothing, claims nothing
// and leaves the ledger as it is. Provisioner and Ledger must be set. It may be used by many
// goroutines.
type Previewer struct {
	Provisioner *Provisioner
	Ledger      *ledger.Ledger
	// Newer is Queue.Newer. nil looks for no newer records in the queue.
	Newer func(ctx context.Context, d *queue.Delivery, key string) (data []byte, order queue.Order, ok bool, err error)
	// Skills is the names of all skills that the org has. nil where the profile has no such list:
	// then a skill that does not exist is not foreseen.
	Skills func(context.Context) ([]string, error)
	// Fresh is that of the workers, with the same default.
	Fresh time.Duration
}

// A preview is one dead letter while it is looked at.
type preview struct {
	*Previewer
	org   *readOnly
	steps Provisioner // as the Previewer's, but on org
	j     *job
}

// Preview takes the way of a worker (design section 3) as far as the patch. Its error is what may
// pass by itself, or is not the record's fault: no network, a missing permission, the rate limit.
//
// What a replay with edits would come to is told by a d with the edited Data, and with another
// Subject if it becomes another employee's.
func (p *Previewer) Preview(ctx context.Context, d *queue.DeadLetter) (Prospect, error) {
	v := preview{
		Previewer: p, org: &readOnly{Directory: p.Provisioner.Directory, read: sharedRead}, steps: *p.Provisioner,
		j: &job{delivery: &queue.Delivery{Data: d.Data, Subject: d.Subject, Header: d.Header, Order: d.Order, Replays: d.Replays + 1}},
	}
	if v.steps.Profile == genesys.CustomAttributes {
		v.org.read = oneRequest // there are no batches
	}
	v.steps.Directory = v.org
	out, err := v.prospect(ctx)
	if err != nil {
		return Prospect{}, fmt.Errorf("preview dead letter %d: %w", d.Sequence, err)
	}
	out.Requests += v.org.spent
	return out, nil
}

func (v *preview) prospect(ctx context.Context) (Prospect, error) {
	state, err := v.begin(ctx)
	if err != nil {
		return v.ended("", err)
	}
	if stands(state, v.j.digest, cmp.Or(v.Fresh, defaultFresh)) {
		return Prospect{Fate: NothingToDo, UserID: state.UserID, Why: "this very state was verified not long ago"}, nil
	}
	userID, plan, err := v.plan(ctx, state)
	if err != nil {
		return v.ended(userID, err)
	}
	out := v.compare(plan, userID)
	if out.Fate != WouldChange || v.Skills == nil {
		return out, nil
	}
	return v.nameable(ctx, out)
}

// begin is all that comes before the first request, in the order of Worker.untilPatched.
func (v *preview) begin(ctx context.Context) (ledger.State, error) {
	if err := v.j.decode(); err != nil {
		return ledger.State{}, err
	}
	if v.Newer != nil {
		if newer, err := newerWaits(ctx, v.Newer, v.steps.Mapping, v.j); err != nil {
			return ledger.State{}, err
		} else if newer {
			return ledger.State{}, ledger.ErrSuperseded
		}
	}
	state, err := v.Ledger.Look(ctx, ledger.Request{Key: v.j.key, Version: v.j.version, Replays: v.j.delivery.Replays})
	if err != nil {
		return ledger.State{}, asBroker(err)
	}
	return state, v.j.desire(&v.steps)
}

// plan finds the user and what has to be written, as Worker.patch does.
func (v *preview) plan(ctx context.Context, state ledger.State) (userID string, plan *Plan, err error) {
	userID, plan, err = v.planUser(ctx, state, state.UserID)
	if v.j.gone(state.UserID, err) {
		return v.planUser(ctx, state, "")
	}
	return userID, plan, err
}

func (v *preview) planUser(ctx context.Context, state ledger.State, remembered string) (userID string, plan *Plan, err error) {
	if userID, err = v.steps.Find(ctx, v.j.rec, remembered); err != nil {
		return "", nil, err
	}
	plan, err = v.steps.Plan(ctx, userID, v.j.want, known(state, v.j.digest))
	if err == nil && v.org.spent == 0 {
		err = v.exists(ctx, userID)
	}
	return userID, plan, err
}

// exists asks for a user of whom nothing was asked: a worker's patch would be the first to find out
// whether there is one. It costs the replay nothing, unless that patch is refused.
func (v *preview) exists(ctx context.Context, userID string) error {
	_, err := v.org.Directory.User(ctx, userID)
	if err != nil {
		v.org.spent += oneRequest
	}
	return err
}

// compare tells what comes of a plan.
func (v *preview) compare(plan *Plan, userID string) Prospect {
	out := Prospect{Fate: NothingToDo, UserID: userID, Why: "the user has it all already"}
	if plan == nil {
		return out
	}
	out.Requests = oneRequest + v.org.read // the patch, and the read that verifies it
	for _, a := range plan.Patch.Attributes {
		out.Attributes = append(out.Attributes, a.Name)
	}
	_, changed := v.steps.Mapping.Merge(plan.Before, v.j.want.Skills)
	if out.Attributes == nil && !changed {
		out.Why += "; as something may have been written that no read shows yet, the worker patches to be sure"
		return out
	}
	out.Fate, out.Why, out.Before, out.After = WouldChange, "", plan.Before, plan.After
	return out
}

// nameable sees whether the org has the skills that would be written. An error of the list says
// nothing about the record.
func (v *preview) nameable(ctx context.Context, out Prospect) (Prospect, error) {
	names, err := v.Skills(ctx)
	if err != nil {
		return Prospect{}, err
	}
	unknown := genesys.UnknownSkills(v.j.want.Skills, names)
	if unknown == nil {
		return out, nil
	}
	failing, err := v.ended(out.UserID, unknown)
	failing.Requests = oneRequest // the patch that would be refused
	return failing, err
}

// ended is what an error on the way comes to by the verdict table, or that error if it may pass.
func (v *preview) ended(userID string, err error) (Prospect, error) {
	out := Prospect{UserID: userID, Why: explain(v.j.rec, err)}
	switch verdict := judge("", err, attempt{number: 1, limit: 2, backoff: backoff}); verdict.action {
	case ack:
		out.Fate = WouldSupersede
	case deadLetter:
		out.Fate, out.Reason = StillFails, verdict.reason
	default:
		return Prospect{}, err
	}
	return out, nil
}

// A readOnly is a Directory that cannot be written, and counts what its use costs.
type readOnly struct {
	Directory
	read  float64 // what one costs
	spent float64
}

var errReadOnly = errors.New("a preview does not write")

// Find counts a lookup: that of a preview is not remembered, so that the replay looks up again.
func (r *readOnly) Find(ctx context.Context, who genesys.Person) (string, error) {
	r.spent += oneRequest
	return r.Directory.Find(ctx, who)
}

func (r *readOnly) User(ctx context.Context, userID string) (genesys.User, error) {
	r.spent += r.read
	return r.Directory.User(ctx, userID)
}

func (*readOnly) Patch(context.Context, string, genesys.Patch) (string, error) {
	return "", errReadOnly
}
