package sandbox

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// kind is what a fault does.
type kind struct {
	name, help string
	op         string   // the only operation it can fall on; "" = any
	keys       []string // besides times, after and user
}

// kinds of faults. The pairs matter: for each loss there is one before the work was done
// and one after it.
var kinds = []kind{
	{name: "429", help: "too many requests; retry-after=SECONDS (default 1) or retry-after-date=SECONDS for the HTTP-date form", keys: []string{"retry-after", "retry-after-date"}},
	{name: "429-bare", help: "too many requests, without Retry-After"},
	{name: "400", help: "bad.request"},
	{name: "401", help: "bad.credentials, for this request only"},
	{name: "403", help: "missing.any.permissions: concerns the whole client"},
	{name: "403-division", help: "missing.division.permission: concerns the user"},
	{name: "404", help: "general.resource.not.found"},
	{name: "408", help: "client.timeout"},
	{name: "409", help: "a conflict that is not about versions; a SCIM error on SCIM paths"},
	{name: "412", help: "precondition failed"},
	{name: "413", help: "request.entity.too.large"},
	{name: "415", help: "unsupported.media.type"},
	{name: "500", help: "internal.server.error"},
	{name: "503", help: "service.unavailable; Retry-After only with retry-after=SECONDS", keys: []string{"retry-after", "retry-after-date"}},
	{name: "504", help: "request.timeout"},
	{name: "html", help: "502 with a page instead of JSON"},
	{name: "reset-before", help: "the connection is reset and nothing was done"},
	{name: "reset-after", help: "it was done, then the connection is reset instead of the answer"},
	{name: "slow", help: "it is done at once and answered after for=DURATION (default 1s)", keys: []string{"for"}},
	{name: "revoke", help: "401 bad.credentials, and from then on for every request with that token"},
	{name: "oauth-limit", op: opToken, help: "400 invalid_request, rate limit exceeded: how the login host throttles"},
	{name: "stale", op: opPatch, help: "the version is refused, whatever it is; form=400 (default, invalidVers), 409 or 412", keys: []string{"form"}},
	{name: "drop", op: opPatch, help: "answered 200, as if done; nothing is stored"},
	{name: "expand", op: opReadBatch, help: "a batch read lists the users without their skills"},
	{name: "missing", op: opReadBatch, help: "a batch read leaves the users out"},
}

// faultOps are the operations a fault may be limited to.
var faultOps = []string{"any", opToken, opSchemas, opFind, opRead, opReadBatch, opPatch, opSkills, opLimits}

// Fault is something that goes wrong. Its text form is OP:KIND[:KEY=VALUE]…, such as
//
//	patch:reset-after:times=1
//	read:429:retry-after=3600
//	any:503:after=10:times=3
//
// See [FaultHelp] for the kinds. Requests that the gates refuse (bad token, over the limit,
// no such path) meet no faults, and a request meets at most one: the first injected that
// matches.
type Fault struct {
	Op    string // token, schemas, find, read (single and batch), read_batch, patch, skills or limits; "" or any = all
	Kind  string
	User  string // id or external id; "" = all. In a batch read expand and missing then concern this user only
	Times int    // matching requests it falls on; 0 = until cleared
	After int    // matching requests it lets pass first

	RetryAfter time.Duration // 429, 503: in whole seconds. 0 = 1 s for 429, no header for 503
	HTTPDate   bool          // Retry-After as a date instead of seconds
	For        time.Duration // slow. Default 1 s
	Form       string        // stale: 400 (default), 409 or 412
}

// FaultHelp describes the text form and every kind, for a command's help.
var FaultHelp = faultHelp()

func faultHelp() string {
	var b strings.Builder
	b.WriteString("OP:KIND[:KEY=VALUE]…   e.g. patch:reset-after:times=1, read:429:retry-after=3600\n")
	fmt.Fprintf(&b, "OP    %s\n", strings.Join(faultOps, ", "))
	b.WriteString("KEY   times=N (requests it falls on; default until cleared), after=N (let N pass first), user=ID\nKIND\n")
	for _, k := range kinds {
		fmt.Fprintf(&b, "  %-13s %s\n", k.name, k.help)
	}
	return b.String()
}

// ParseFault reads the text form of a fault. Its errors say what would be right.
func ParseFault(text string) (Fault, error) {
	parts := strings.Split(strings.TrimSpace(text), ":")
	if len(parts) < 2 {
		return Fault{}, fmt.Errorf("fault %q: want OP:KIND[:KEY=VALUE]…, such as patch:reset-after:times=1; ops: %s; kinds: %s",
			text, strings.Join(faultOps, ", "), kindNames())
	}
	f := Fault{Op: parts[0], Kind: parts[1]}
	k, err := f.check()
	if err != nil {
		return Fault{}, fmt.Errorf("fault %q: %w", text, err)
	}
	for _, part := range parts[2:] {
		key, value, _ := strings.Cut(part, "=")
		if err := f.set(k, key, value); err != nil {
			return Fault{}, fmt.Errorf("fault %q: %w", text, err)
		}
	}
	return f, nil
}

func kindNames() string {
	var names []string
	for _, k := range kinds {
		names = append(names, k.name)
	}
	return strings.Join(names, ", ")
}

// check finds the fault's kind and fits its operation to it.
func (f *Fault) check() (kind, error) {
	i := slices.IndexFunc(kinds, func(k kind) bool { return k.name == f.Kind })
	if i < 0 {
		return kind{}, fmt.Errorf("unknown kind %q; kinds: %s", f.Kind, kindNames())
	}
	k := kinds[i]
	if f.Op == "" {
		f.Op = "any"
	}
	if !slices.Contains(faultOps, f.Op) {
		return kind{}, fmt.Errorf("unknown op %q; ops: %s", f.Op, strings.Join(faultOps, ", "))
	}
	if k.op != "" {
		if f.Op != "any" && f.Op != k.op && !(f.Op == opRead && k.op == opReadBatch) {
			return kind{}, fmt.Errorf("%s falls on %s only, not on %s", k.name, k.op, f.Op)
		}
		f.Op = k.op
	}
	if f.Form != "" && !slices.Contains(staleForms, f.Form) {
		return kind{}, fmt.Errorf("form: want %s", strings.Join(staleForms, ", "))
	}
	if f.Times < 0 || f.After < 0 || f.RetryAfter < 0 || f.For < 0 {
		return kind{}, fmt.Errorf("times, after and durations: want no negative value")
	}
	return k, nil
}

// longest bounds times in the text form: 30 days is beyond any Retry-After.
const longest = 30 * 24 * time.Hour

// set takes one KEY=VALUE.
func (f *Fault) set(k kind, key, value string) error {
	known := append([]string{"times", "after", "user"}, k.keys...)
	if !slices.Contains(known, key) {
		return fmt.Errorf("unknown key %q for %s; keys: %s", key, k.name, strings.Join(known, ", "))
	}
	switch key {
	case "user":
		if f.User = strings.TrimSpace(value); f.User == "" {
			return fmt.Errorf("user: want an id or external id")
		}
		return nil
	case "form":
		if f.Form = value; !slices.Contains(staleForms, value) {
			return fmt.Errorf("form: want %s", strings.Join(staleForms, ", "))
		}
		return nil
	case "for":
		d, err := time.ParseDuration(value)
		if err != nil || d <= 0 || d > longest {
			return fmt.Errorf("for: want a duration such as 250ms, at most %s", longest)
		}
		f.For = d
		return nil
	}
	n, err := strconv.Atoi(value)
	if err != nil || n < 0 {
		return fmt.Errorf("%s: want a whole number", key)
	}
	switch key {
	case "times":
		f.Times = n
	case "after":
		f.After = n
	default: // retry-after, retry-after-date
		if n > int(longest.Seconds()) {
			return fmt.Errorf("%s: want seconds, at most %d", key, int(longest.Seconds()))
		}
		f.RetryAfter, f.HTTPDate = time.Duration(n)*time.Second, key == "retry-after-date"
	}
	return nil
}

// String is the text form: ParseFault reads it back.
func (f Fault) String() string {
	op := f.Op
	if op == "" {
		op = "any"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s:%s", op, f.Kind)
	num := func(key string, n int) {
		if n != 0 {
			fmt.Fprintf(&b, ":%s=%d", key, n)
		}
	}
	num("times", f.Times)
	num("after", f.After)
	if f.HTTPDate {
		fmt.Fprintf(&b, ":retry-after-date=%d", int(f.RetryAfter.Seconds()))
	} else {
		num("retry-after", int(f.RetryAfter.Seconds()))
	}
	if f.For != 0 {
		fmt.Fprintf(&b, ":for=%s", f.For)
	}
	if f.Form != "" {
		fmt.Fprintf(&b, ":form=%s", f.Form)
	}
	if f.User != "" {
		fmt.Fprintf(&b, ":user=%s", f.User)
	}
	return b.String()
}
