package genesys

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// maxBatch is how many users one request may ask for: GET /api/v2/users answers 400
	// max.user.ids to more.
	maxBatch = 100
	// minTurn is how long a batch keeps its turn at least: without a limit and with a quick org,
	// batches would be small and many. It never matters where requests are limited: 20 ms for
	// each is 3,000 a minute.
	minTurn = 20 * time.Millisecond
	// pageOfSkills is the length at which an expanded list of skills may have been cut: it is
	// the default page of the list that it stands for.
	pageOfSkills = 25
)

// reads gathers callers of User that can share a request.
//
// A caller joins the open batch, or opens one. A batch has one goroutine, which lives until the
// batch is answered: it waits its turn, then for a token and a grant, and seals the batch, which
// takes no more callers from then on, so that each grant is used for all who wait at that moment.
// A batch has its turn when no other is out, or when it is full: where no limiter makes them
// wait, callers gather while an answer is on its way.
type reads struct {
	out  chan struct{} // has an element while a batch has its turn
	mu   sync.Mutex
	open *batch // nil: none
}

// A batch is one request for the skills of many users.
type batch struct {
	waiting map[string]int    // callers by user id; guarded by reads.mu
	callers int               // guarded by reads.mu
	others  []context.Context // of callers after the first; not written to once sealed
	ids     []string          // set once sealed
	full    chan struct{}     // closed when nobody else can join
	cancel  context.CancelFunc
	done    chan struct{}

	users map[string]listedUser // by lower-case id; set before done is closed
	err   error                 // set before done is closed
}

// userInBatch is User in the routing-skills profile. What the batch leaves open is read singly:
// a user that it does not list, since it may have been left out, and a list of skills that is
// missing or empty, since expands are best effort.
func (c *Client) userInBatch(ctx context.Context, userID string) (User, error) {
	if ctx.Err() != nil {
		return User{}, interrupted(ctx, opReadBatch)
	}
	key := strings.ToLower(userID)
	b := c.join(ctx, key)
	select {
	case <-b.done:
	case <-ctx.Done():
		c.leave(b, key)
		return User{}, interrupted(ctx, opReadBatch)
	}
	listed, ok := b.users[key]
	switch {
	case b.err != nil && !isOneUsersFault(b.err):
		return User{}, b.err
	case ok && listed.complete():
		return User{ID: userID, Version: listed.Version.String(), Skills: assigned(listed.Skills, entity.skill)}, nil
	}
	u, err := c.userAlone(ctx, userID)
	u.Version = listed.Version.String()
	return u, err
}

// isOneUsersFault reports a refusal that may be due to one user of a batch, for which the others
// must not suffer.
func isOneUsersFault(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Op == opReadBatch &&
		(e.Status == http.StatusBadRequest || e.Status == http.StatusNotFound || e.Is(ErrDivision))
}

// join adds a caller to the open batch.
func (c *Client) join(ctx context.Context, key string) *batch {
	r := &c.reads
	r.mu.Lock()
	defer r.mu.Unlock()
	b := r.open
	if b == nil || b.isFull() && b.waiting[key] == 0 {
		b = &batch{waiting: map[string]int{}, full: make(chan struct{}), done: make(chan struct{})}
		ctx, b.cancel = context.WithCancel(context.WithoutCancel(ctx)) // it is not this caller's alone
		r.open = b
		go c.readBatch(ctx, b)
	} else {
		b.others = append(b.others, ctx)
	}
	b.waiting[key]++
	b.callers++
	if len(b.waiting) == maxBatch && !b.isFull() {
		close(b.full)
	}
	return b
}

func (b *batch) isFull() bool {
	select {
	case <-b.full:
		return true
	default:
		return false
	}
}

// leave takes a caller away. A batch that nobody waits for any more is given up.
func (c *Client) leave(b *batch, key string) {
	r := &c.reads
	r.mu.Lock()
	if b.waiting[key]--; b.waiting[key] == 0 {
		delete(b.waiting, key)
	}
	b.callers--
	last := b.callers == 0
	if last && r.open == b {
		r.open = nil
	}
	r.mu.Unlock()
	if last {
		b.cancel()
		<-b.done
	}
}

// seal closes b to further callers and returns the ids it is for. Sent again, it is for the same.
func (c *Client) seal(b *batch) []string {
	r := &c.reads
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.open == b {
		r.open = nil
	}
	if b.ids == nil {
		b.ids = slices.Sorted(maps.Keys(b.waiting))
	}
	return b.ids
}

// readBatch sends b when it is its turn, and answers all its callers.
func (c *Client) readBatch(ctx context.Context, b *batch) {
	defer b.cancel()
	defer close(b.done)
	defer c.seal(b) // if it failed before it was sent
	select {
	case c.reads.out <- struct{}{}:
		defer c.endTurn(time.Now())
	case <-b.full:
	case <-ctx.Done():
		b.err = interrupted(ctx, opReadBatch)
		return
	}
	a, err := c.do(ctx, request{op: opReadBatch, batch: b, build: func() (*http.Request, error) {
		ids := c.seal(b)
		if len(ids) == 0 { // the last caller left at this very moment
			return nil, context.Canceled
		}
		return c.get("/api/v2/users", url.Values{
			"id": ids, "expand": {"skills"}, "pageSize": {"100"},
			"state": {"any"}, // by default users who are not active are left out
		})
	}})
	if err != nil {
		b.err = err
		return
	}
	b.users, b.err = decodeUsers(a)
}

// endTurn lets the next batch go, minTurn after began at the earliest.
func (c *Client) endTurn(began time.Time) {
	end := func() { <-c.reads.out }
	if rest := time.Until(began.Add(minTurn)); rest > 0 {
		time.AfterFunc(rest, end)
	} else {
		end()
	}
}

// A listedUser is one user in the answer to a batch.
type listedUser struct {
	ID      string      `json:"id"`
	Version json.Number `json:"version"`
	Skills  []entity    `json:"skills"`
}

// complete reports whether the skills are all that the user has, as far as one can tell.
func (u listedUser) complete() bool { return len(u.Skills) > 0 && len(u.Skills) != pageOfSkills }

func decodeUsers(a answer) (map[string]listedUser, error) {
	var list struct {
		Entities []listedUser `json:"entities"`
	}
	if err := a.decode(&list); err != nil {
		return nil, err
	}
	users := make(map[string]listedUser, len(list.Entities))
	for _, u := range list.Entities {
		users[strings.ToLower(u.ID)] = u
	}
	return users, nil
}
