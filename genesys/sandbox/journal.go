package sandbox

import (
	"maps"
	"sync"
	"time"
)

// logged bounds the request log; the counters are exact whatever its size.
const logged = 100_000

// loggedBody bounds the body in a line of the log; a patch of 50 skills has 3 KiB.
const loggedBody = 8 << 10

// Request is one line of the log.
type Request struct {
	Time          time.Time `json:"time"` // of arrival
	Token         string    `json:"token,omitempty"`
	Op            string    `json:"op"`   // token, schemas, find, read, read_batch, patch, skills, limits; other for a path or method that does not exist
	Path          string    `json:"path"` // template such as /api/v2/users/{id}; the path itself when there is none
	Method        string    `json:"method"`
	User          string    `json:"user,omitempty"`  // id in the path
	Users         int       `json:"users,omitempty"` // ids in a batch
	Status        int       `json:"status"`          // 0 = the connection was cut
	CorrelationID string    `json:"correlation_id"`
	RequestBody   string    `json:"request_body,omitempty"` // of patches, its first 8 KiB
}

// Stats are the counters. Control requests are in none of them.
type Stats struct {
	Requests     int            `json:"requests"`       // that arrived, refused ones included
	ByOp         map[string]int `json:"by_op"`          // the same by Request.Op
	ByStatus     map[int]int    `json:"by_status"`      // answers; 0 = the connection was cut
	Refused429   int            `json:"refused_429"`    // refused by a limit; injected faults are in ByStatus only
	MaxWindow60s int            `json:"max_window_60s"` // most requests that arrived in any sliding 60 s, tokens included
	MaxWindow1s  int            `json:"max_window_1s"`
	InFlight     int            `json:"in_flight"`
	MaxInFlight  int            `json:"max_in_flight"`
	Patches      int            `json:"patches"` // writes that were stored
	Tokens       int            `json:"tokens"`  // issued
	Users        int            `json:"users"`
}

// journal counts and logs. Its lock is held for a few assignments, never while waiting.
type journal struct {
	mu             sync.Mutex
	stats          Stats
	minute, second peak
	ring           []Request
	oldest         int
}

func newJournal() *journal {
	return &journal{
		stats:  Stats{ByOp: map[string]int{}, ByStatus: map[int]int{}},
		minute: peak{span: time.Minute},
		second: peak{span: time.Second},
	}
}

func (j *journal) arrive(op string, clock func() time.Duration) {
	j.mu.Lock()
	defer j.mu.Unlock()
	now := clock() // under the lock, so that the windows see times in order
	j.minute.add(now)
	j.second.add(now)
	j.stats.Requests++
	j.stats.ByOp[op]++
	j.stats.InFlight++
	j.stats.MaxInFlight = max(j.stats.MaxInFlight, j.stats.InFlight)
}

func (j *journal) leave(r Request) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.stats.InFlight--
	j.stats.ByStatus[r.Status]++
	if len(j.ring) < logged {
		j.ring = append(j.ring, r)
		return
	}
	j.ring[j.oldest] = r
	j.oldest = (j.oldest + 1) % logged
}

// count changes counters other than those of arrive and leave.
func (j *journal) count(change func(*Stats)) {
	j.mu.Lock()
	defer j.mu.Unlock()
	change(&j.stats)
}

func (j *journal) snapshot() Stats {
	j.mu.Lock()
	defer j.mu.Unlock()
	st := j.stats
	st.ByOp, st.ByStatus = maps.Clone(st.ByOp), maps.Clone(st.ByStatus)
	st.MaxWindow60s, st.MaxWindow1s = j.minute.max, j.second.max
	return st
}

func (j *journal) requests() []Request {
	j.mu.Lock()
	defer j.mu.Unlock()
	out := make([]Request, 0, len(j.ring))
	return append(append(out, j.ring[j.oldest:]...), j.ring[:j.oldest]...)
}
