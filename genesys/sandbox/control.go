package sandbox

import (
	"encoding/json"
	"net/http"
	"strings"
)

// controlPrefix is where a test steers a sandbox that runs in another process:
//
//	GET    /_sandbox/stats         Stats
//	GET    /_sandbox/users         every User as stored now, one JSON object a line
//	GET    /_sandbox/users/{id}    one User, by id or external id
//	GET    /_sandbox/requests      the log, one Request a line
//	GET    /_sandbox/faults        what was injected: text form, requests seen and fired on
//	POST   /_sandbox/faults        faults in their text form, one a line
//	DELETE /_sandbox/faults        clears them
//	POST   /_sandbox/revoke        all tokens
//	POST   /_sandbox/skills/{id}   an outside edit: [{"name":"Billing","proficiency":4}]
//
// Errors are plain text.
const controlPrefix = "/_sandbox/"

func (s *Sandbox) control(w http.ResponseWriter, r *http.Request) {
	path, arg, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, controlPrefix), "/")
	serve := map[string]func(http.ResponseWriter, *http.Request, string){
		"GET stats":     func(w http.ResponseWriter, _ *http.Request, _ string) { writeLines(w, []Stats{s.Stats()}) },
		"GET users":     s.controlUsers,
		"GET requests":  func(w http.ResponseWriter, _ *http.Request, _ string) { writeLines(w, s.Requests()) },
		"GET faults":    func(w http.ResponseWriter, _ *http.Request, _ string) { s.writeFaults(w) },
		"POST faults":   s.controlInject,
		"DELETE faults": func(w http.ResponseWriter, _ *http.Request, _ string) { s.ClearFaults(); s.writeFaults(w) },
		"POST revoke": func(w http.ResponseWriter, _ *http.Request, _ string) {
			s.RevokeTokens()
			writeLines(w, []Stats{s.Stats()})
		},
		"POST skills": s.controlSkills,
	}[r.Method+" "+path]
	if serve == nil {
		http.Error(w, "no such control: see the documentation of the sandbox", http.StatusNotFound)
		return
	}
	serve(w, r, arg)
}

// writeLines writes one JSON object a line.
func writeLines[T any](w http.ResponseWriter, list []T) {
	w.Header().Set("Content-Type", typeJSON)
	enc := json.NewEncoder(w)
	for _, v := range list {
		if enc.Encode(v) != nil {
			return // the reader has gone
		}
	}
}

func (s *Sandbox) controlUsers(w http.ResponseWriter, _ *http.Request, id string) {
	if id == "" {
		users := make([]User, len(s.org.users))
		for i, u := range s.org.users {
			users[i] = s.stored(u)
		}
		writeLines(w, users)
		return
	}
	u, found := s.User(id)
	if !found {
		http.Error(w, "no such user", http.StatusNotFound)
		return
	}
	writeLines(w, []User{u})
}

func (s *Sandbox) controlInject(w http.ResponseWriter, r *http.Request, _ string) {
	c := &call{r: r}
	if c.readBody() {
		http.Error(w, "too many faults", http.StatusRequestEntityTooLarge)
		return
	}
	var parsed []Fault
	for line := range strings.Lines(string(c.body)) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		f, err := ParseFault(line)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		parsed = append(parsed, f)
	}
	if len(parsed) == 0 {
		http.Error(w, "no fault\n"+FaultHelp, http.StatusBadRequest)
		return
	}
	for _, f := range parsed { // all or none
		s.Inject(f)
	}
	s.writeFaults(w)
}

func (s *Sandbox) writeFaults(w http.ResponseWriter) {
	type line struct {
		Fault string `json:"fault"`
		Seen  int    `json:"seen"`
		Fired int    `json:"fired"`
	}
	var lines []line
	for _, in := range s.Faults() {
		lines = append(lines, line{in.Fault.String(), in.Seen, in.Fired})
	}
	writeLines(w, lines)
}

func (s *Sandbox) controlSkills(w http.ResponseWriter, r *http.Request, id string) {
	c := &call{r: r}
	var skills []Skill
	if c.readBody() || json.Unmarshal(c.body, &skills) != nil {
		http.Error(w, `want [{"name":"Billing","proficiency":4}]`, http.StatusBadRequest)
		return
	}
	if !s.SetSkills(id, skills) {
		http.Error(w, "no such user", http.StatusNotFound)
		return
	}
	s.controlUsers(w, r, id)
}
