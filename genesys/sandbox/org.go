package sandbox

import (
	"crypto/sha1" //nolint:gosec // UUID version 5 is defined by SHA-1 (RFC 9562 §5.5)
	"fmt"
	"slices"
	"strings"
	"time"
)

// User is a user of the organisation.
type User struct {
	ID         string            `json:"id"`                    // default UserID(ExternalID)
	ExternalID string            `json:"external_id,omitempty"` // also hr.employeeId in searches
	Email      string            `json:"email,omitempty"`
	Name       string            `json:"name,omitempty"`
	State      string            `json:"state"`                // active (default), inactive, deleted
	Division   string            `json:"division"`             // default Home
	Version    int               `json:"version"`              // default 1; any write bumps it
	Skills     []Skill           `json:"skills"`               // sorted by name
	Attributes map[string]string `json:"attributes,omitempty"` // custom-attributes only

	// Lag replaces Config.ReadLag for this user.
	Lag *time.Duration `json:"-"`
	// Never: writes are answered 200 and stored but never appear on any read.
	Never bool `json:"never,omitempty"`
	// Drop: a patch is answered 200, as if done, and stores nothing.
	Drop bool `json:"drop,omitempty"`
}

// Skill is a routing skill of a user, 0.0 to 5.0.
type Skill struct {
	Name        string  `json:"name"`
	Proficiency float64 `json:"proficiency"`
}

// Rule assigns a skill to every user whose attribute has the value. Where two rules give
// one skill, the higher proficiency counts.
type Rule struct {
	Attribute, Equals, Skill string
	Proficiency              float64
}

// Org returns an organisation of n users for demonstrations, tests and benchmarks, always
// the same for the same n:
//
//   - users EMP-0001 … EMP-n with ids UserID(ExternalID) and emails emp-0001@example.com;
//     every seventh has Spanish 3, made by hand: no rule names it;
//   - rules for the attributes department, clearance_level and region, among them
//     department=Support-Tier2 → Tier 2 Support 4.
func Org(n int) Config {
	cfg := Config{
		Skills: []string{
			"Tier 1 Support", "Tier 2 Support", "Tier 3 Support", "Technical Support", "Billing", "Sales", "Retention",
			"Collections", "Escalations", "VIP", "US East", "US West", "EMEA", "APAC",
			"Spanish", "French", "German", "Italian", "Portuguese", "Japanese", "Chat", "Email", "Fraud", "Onboarding", "Warranty", "Training",
		},
		Rules: []Rule{
			{"department", "Support-Tier1", "Tier 1 Support", 3},
			{"department", "Support-Tier2", "Tier 2 Support", 4},
			{"department", "Support-Tier3", "Tier 3 Support", 5},
			{"department", "Tech-Support", "Technical Support", 4},
			{"department", "Billing", "Billing", 4},
			{"department", "Sales", "Sales", 4},
			{"department", "Retention", "Retention", 4},
			{"clearance_level", "Level3", "Escalations", 3},
			{"clearance_level", "Level4", "Escalations", 4},
			{"clearance_level", "Level5", "VIP", 5},
			{"region", "US-East", "US East", 5},
			{"region", "US-West", "US West", 5},
			{"region", "EMEA", "EMEA", 5},
			{"region", "APAC", "APAC", 5},
		},
	}
	for i := 1; i <= n; i++ {
		u := User{
			ExternalID: fmt.Sprintf("EMP-%04d", i),
			Email:      fmt.Sprintf("emp-%04d@example.com", i),
			Name:       fmt.Sprintf("Employee %04d", i),
		}
		if i%7 == 0 {
			u.Skills = []Skill{{"Spanish", 3}}
		}
		cfg.Users = append(cfg.Users, u)
	}
	return cfg
}

// UserID is the id that a user with this employee id has unless Config says otherwise.
func UserID(employeeID string) string { return uuid5("user:" + employeeID) }

// uuid5 is a name-based UUID (RFC 9562 §5.5) in a namespace of our own.
func uuid5(name string) string {
	h := sha1.Sum([]byte("genesys-sandbox" + name)) //nolint:gosec // see the import
	h[6] = h[6]&0x0f | 0x50
	h[8] = h[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", h[0:4], h[4:6], h[6:8], h[8:10], h[10:16])
}

// org is the directory: who exists does not change after New, so finding a user takes no
// lock. What a user has is behind the user's own lock.
type org struct {
	users      []*user
	byID       map[string]*user
	byExternal map[string][]*user
	byEmployee map[string][]*user // by external id in lower case, as the search index has it
	byEmail    map[string][]*user // by lower-case address
	skills     []string           // sorted
	exists     map[string]string  // ids of the skills by name
	owned      map[string]bool    // skills that rules name
}

func newOrg(cfg Config) org {
	o := org{
		byID:       make(map[string]*user, len(cfg.Users)),
		byExternal: make(map[string][]*user, len(cfg.Users)),
		byEmployee: make(map[string][]*user, len(cfg.Users)),
		byEmail:    make(map[string][]*user, len(cfg.Users)),
		exists:     map[string]string{},
		owned:      map[string]bool{},
	}
	for i, u := range cfg.Users {
		o.addUser(i, u)
	}
	for _, r := range cfg.Rules {
		o.owned[r.Skill] = true
		o.addSkill(r.Skill)
	}
	for _, name := range cfg.Skills {
		o.addSkill(name)
	}
	slices.Sort(o.skills)
	return o
}

func (o *org) addSkill(name string) {
	if o.exists[name] == "" {
		o.exists[name] = uuid5("skill:" + name)
		o.skills = append(o.skills, name)
	}
}

func (o *org) addUser(i int, cfg User) {
	u := newUser(i, cfg)
	if o.byID[u.ID] != nil {
		panic(fmt.Sprintf("sandbox: two users with the id %s", u.ID))
	}
	o.users = append(o.users, u)
	o.byID[u.ID] = u
	if u.ExternalID != "" {
		o.byExternal[u.ExternalID] = append(o.byExternal[u.ExternalID], u)
		key := strings.ToLower(u.ExternalID)
		o.byEmployee[key] = append(o.byEmployee[key], u)
	}
	if u.Email != "" {
		key := strings.ToLower(u.Email)
		o.byEmail[key] = append(o.byEmail[key], u)
	}
	for _, sk := range u.latest().skills {
		o.addSkill(sk.Name)
	}
}

// skillID is the id of a skill; also of one that only an outside edit knows.
func (o *org) skillID(name string) string {
	if id := o.exists[name]; id != "" {
		return id
	}
	return uuid5("skill:" + name)
}

// find returns the user with this id or external id, nil if there is none. Where several
// share an external id it is the first.
func (o *org) find(idOrExternalID string) *user {
	if u := o.byID[idOrExternalID]; u != nil {
		return u
	}
	if us := o.byExternal[idOrExternalID]; len(us) > 0 {
		return us[0]
	}
	return nil
}
