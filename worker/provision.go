package worker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"skillsync/genesys"
	"skillsync/worker/employee"
	"skillsync/worker/mapping"
)

// A Directory is where users live: *genesys.Client.
type Directory interface {
	Find(context.Context, genesys.Person) (userID string, err error)
	User(ctx context.Context, userID string) (genesys.User, error)
	Patch(ctx context.Context, userID string, p genesys.Patch) (correlationID string, err error)
}

// A Provisioner brings one user to what the mapping wants, and sees that it is so. It knows
// nothing of queues: the worker and `skillsync apply` both drive it, step by step.
type Provisioner struct {
	Directory Directory
	Mapping   *mapping.Mapping
	Profile   genesys.Profile // what Discover found

	// Settle is the wait between a patch and the first look at it. Default 3 s.
	Settle time.Duration
	// Deadline is how long after the patch the skills may take to appear. Default 60 s.
	Deadline time.Duration
	// Polled is called before each look at the skills after a patch. nil ok
	Polled func()
}

// A Plan is what has to be written to one user; nil when nothing has.
type Plan struct {
	Before, After []genesys.Skill // routing-skills: the user's skills now, and then
	Patch         genesys.Patch
}

// Known is what is known of a user before anything is read.
type Known int

const (
	Nothing  Known = iota
	Applied        // this very state was applied, and seen
	Doubtful       // something else may have been written that reads do not show yet
)

// A MismatchError says that a user's skills are not what they should be at the deadline.
type MismatchError struct {
	mapping.Mismatch
	Want, Have []genesys.Skill
	After      time.Duration // since the patch was sent or, on a later attempt, since polling began
}

func (e *MismatchError) Error() string {
	return fmt.Sprintf("the skills are not as expected %s after the patch: %s", e.After.Round(time.Second), e.Mismatch)
}

// Find tells the user's id: the record's own, else the one remembered, else by lookup.
func (p *Provisioner) Find(ctx context.Context, rec employee.Record, remembered string) (string, error) {
	switch {
	case rec.UserID != "":
		return rec.UserID, nil
	case remembered != "":
		return remembered, nil
	}
	userID, err := p.Directory.Find(ctx, genesys.Person{EmployeeID: rec.ID, Email: rec.Email})
	if err != nil {
		return "", fmt.Errorf("find the user of employee %s: %w", rec.ID, err)
	}
	return userID, nil
}

// Plan reads what the user has and returns what must be written, or nil if that is nothing.
// Where the state is Doubtful, a read that finds nothing to do is no proof, since it may lag: the
// patch is planned all the same, and its If-Match finds out.
// Custom attributes cannot be read back, and skills that happen to be right are no proof of them:
// there a patch is planned unless this very state is known to be Applied.
func (p *Provisioner) Plan(ctx context.Context, userID string, want mapping.Desired, known Known) (*Plan, error) {
	if p.Profile == genesys.CustomAttributes {
		return p.planAttributes(ctx, userID, want, known)
	}
	user, err := p.Directory.User(ctx, userID)
	if err != nil {
		return nil, err
	}
	target, changed := p.Mapping.Merge(user.Skills, want.Skills)
	if !changed && known != Doubtful {
		return nil, nil
	}
	return &Plan{
		Before: user.Skills,
		After:  target,
		Patch:  genesys.Patch{Skills: target, Version: user.Version},
	}, nil
}

func (p *Provisioner) planAttributes(ctx context.Context, userID string, want mapping.Desired, known Known) (*Plan, error) {
	if len(want.Attributes) == 0 {
		return nil, fmt.Errorf("nothing to write: %w", mapping.ErrNoAttributes)
	}
	if known == Applied {
		user, err := p.Directory.User(ctx, userID)
		if err != nil {
			return nil, err
		}
		if p.Mapping.Compare(want.Skills, user.Skills).OK() {
			return nil, nil
		}
	}
	return &Plan{Patch: genesys.Patch{Attributes: want.Attributes}}, nil
}

// maxStale bounds how often one attempt reads, plans and patches again because somebody else
// writes to the same user all the time, or the read side lags behind the version.
const maxStale = 5

// Patch plans and patches until the patch is taken, or nothing is left to write (a nil plan).
// On a stale version it reads and plans again: what others wrote meanwhile is kept.
func (p *Provisioner) Patch(ctx context.Context, userID string, want mapping.Desired, known Known) (plan *Plan, correlationID string, err error) {
	for try := 1; ; try++ {
		if plan, err = p.Plan(ctx, userID, want, known); plan == nil || err != nil {
			return nil, "", err
		}
		correlationID, err = p.Directory.Patch(ctx, userID, plan.Patch)
		if !errors.Is(err, genesys.ErrStale) || try == maxStale {
			return plan, correlationID, err
		}
		if err := sleep(ctx, grow(250*time.Millisecond, 4*time.Second, try)); err != nil {
			return nil, "", err
		}
	}
}

// Verify reads the user's skills until they are what they should be. It first waits for settle,
// then polls with growing gaps, and answers *MismatchError when a read made after the deadline
// still disagrees. It only ever reads: another patch would start the org's provisioning again.
// It returns what the user has, and how long that took to show.
func (p *Provisioner) Verify(ctx context.Context, userID string, want mapping.Desired, settle time.Duration) ([]genesys.Skill, time.Duration, error) {
	start := time.Now()
	if err := sleep(ctx, settle); err != nil {
		return nil, 0, err
	}
	for gap := time.Second; ; gap = min(gap*3/2, 10*time.Second) {
		asked := time.Since(start)
		if p.Polled != nil {
			p.Polled()
		}
		user, err := p.Directory.User(ctx, userID)
		if err != nil {
			return nil, 0, err
		}
		wrong := p.Mapping.Compare(want.Skills, user.Skills)
		if wrong.OK() {
			return user.Skills, time.Since(start), nil
		}
		if asked >= p.Deadline {
			return nil, 0, &MismatchError{Mismatch: wrong, Want: want.Skills, Have: user.Skills, After: time.Since(start)}
		}
		if err := sleep(ctx, min(gap, p.Deadline-asked)); err != nil {
			return nil, 0, err
		}
	}
}

// sleep waits for d, or tells why it could not.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return context.Cause(ctx)
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
