package sandbox

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"strconv"
	"sync"
	"time"
)

// never is a time that does not come.
const never = time.Duration(math.MaxInt64)

// side is a view of a user; each lags behind the store by its own time.
type side int

const (
	usersSide side = iota // the users API
	scimSide
)

// state is a user after one write. Its skills are never changed in place.
type state struct {
	version int
	skills  []Skill          // sorted by name
	visible [2]time.Duration // since the sandbox's start, by side
}

// user is a User with its recent past: states holds the oldest state that some side still
// shows up to the one that is stored.
type user struct {
	User // Skills, Attributes and Version as configured; the fields below hold what they are now

	division ref

	mu         sync.Mutex
	patching   bool // a patch is in flight
	attributes map[string]string
	provision  time.Duration // when the rules run; never = nothing to do
	states     []state
}

func newUser(i int, cfg User) *user {
	orElse := func(s *string, v string) {
		if *s == "" {
			*s = v
		}
	}
	if cfg.ExternalID == "" {
		orElse(&cfg.ID, uuid5("user#"+strconv.Itoa(i)))
	}
	orElse(&cfg.ID, UserID(cfg.ExternalID))
	orElse(&cfg.State, "active")
	orElse(&cfg.Division, "Home")
	cfg.Version = max(1, cfg.Version)
	u := &user{User: cfg, division: ref{uuid5("division:" + cfg.Division), cfg.Division}, attributes: maps.Clone(cfg.Attributes), provision: never}
	u.states = []state{{version: cfg.Version, skills: sorted(cfg.Skills)}}
	return u
}

// sorted returns a copy of the skills in the order of their names.
func sorted(skills []Skill) []Skill {
	out := append(make([]Skill, 0, len(skills)), skills...)
	slices.SortFunc(out, func(a, b Skill) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// latest is what is stored. The user's lock is held.
func (u *user) latest() state { return u.states[len(u.states)-1] }

// shown is what a side shows at now: the newest state that has come through, so that reads
// never go back where lags vary. The user's lock is held.
func (u *user) shown(now time.Duration, sd side) state {
	for i := len(u.states) - 1; i > 0; i-- {
		if u.states[i].visible[sd] <= now {
			return u.states[i]
		}
	}
	return u.states[0]
}

// read returns what a side shows of the user now.
func (s *Sandbox) read(u *user, sd side) state {
	now := s.now()
	u.mu.Lock()
	defer u.mu.Unlock()
	s.settle(u, now)
	return u.shown(now, sd)
}

// store writes skills at the time at, bumping the version. The user's lock is held.
func (s *Sandbox) store(u *user, at time.Duration, skills []Skill) state {
	st := state{version: u.latest().version + 1, skills: skills}
	lag := [2]time.Duration{usersSide: s.cfg.ReadLag, scimSide: s.cfg.SCIMReadLag}
	if u.Lag != nil {
		lag[usersSide] = *u.Lag
	}
	for sd := range st.visible {
		st.visible[sd] = never
		if !u.Never {
			st.visible[sd] = later(at, s.vary(lag[sd]))
		}
	}
	u.forget(at)
	u.states = append(u.states, st)
	return st
}

// later is at+d, never at most: a lag may be the longest duration there is.
func later(at, d time.Duration) time.Duration {
	if d > never-at {
		return never
	}
	return at + max(0, d)
}

// forget drops states that no side shows at now or will show later.
func (u *user) forget(now time.Duration) {
	shown := func(sd side) int { return u.shown(now, sd).version }
	oldest := min(shown(usersSide), shown(scimSide))
	u.states = slices.DeleteFunc(u.states, func(st state) bool {
		return st.version < oldest || st.visible == [2]time.Duration{never, never}
	})
}

// settle runs the rules if they are due. They take effect when they were due, not when
// somebody looks. The user's lock is held.
func (s *Sandbox) settle(u *user, now time.Duration) {
	at := u.provision
	if at > now {
		return
	}
	u.provision = never
	skills := s.provisioned(u)
	if !slices.Equal(skills, u.latest().skills) {
		s.store(u, at, skills)
	}
}

// provisioned returns the user's skills with those that rules own as the rules want them.
func (s *Sandbox) provisioned(u *user) []Skill {
	give := map[string]float64{}
	for _, r := range s.cfg.Rules {
		if v, ok := u.attributes[r.Attribute]; ok && v == r.Equals {
			give[r.Skill] = max(give[r.Skill], r.Proficiency)
		}
	}
	var skills []Skill
	for _, sk := range u.latest().skills {
		if !s.org.owned[sk.Name] {
			skills = append(skills, sk)
		}
	}
	for name, p := range give {
		skills = append(skills, Skill{name, p})
	}
	return sorted(skills)
}

// User returns a user as stored now, whatever the reads show yet; by id or external id.
func (s *Sandbox) User(idOrExternalID string) (User, bool) {
	u := s.org.find(idOrExternalID)
	if u == nil {
		return User{}, false
	}
	return s.stored(u), true
}

func (s *Sandbox) stored(u *user) User {
	u.mu.Lock()
	defer u.mu.Unlock()
	s.settle(u, s.now())
	out, st := u.User, u.latest()
	out.Version, out.Skills, out.Attributes = st.version, slices.Clone(st.skills), maps.Clone(u.attributes)
	return out
}

// SetSkills is an edit by somebody else, such as an administrator: it replaces the skills
// and bumps the version. Skills new to the organisation are not added to it. It reports
// whether the user exists.
func (s *Sandbox) SetSkills(idOrExternalID string, skills []Skill) bool {
	u := s.org.find(idOrExternalID)
	if u == nil {
		return false
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	now := s.now()
	s.settle(u, now)
	s.store(u, now, sorted(skills))
	return true
}
