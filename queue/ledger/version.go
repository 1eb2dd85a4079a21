package ledger

import (
	"cmp"
	"fmt"

	"skillsync/queue"
)

// A Version tells which of two records of one employee is newer.
type Version struct {
	Kind  string      `json:"kind,omitempty"` // what N is: "version", "updated_at", or "" for a record that has neither
	N     int64       `json:"n,omitempty"`
	Order queue.Order `json:"order"`
}

// Compare is negative if v is older than w, and positive if it is newer. Numbers of the same kind
// decide; where one of the two has none, the places in the stream do. It is 0 only for one and
// the same record.
func (v Version) Compare(w Version) int {
	if v.Kind != "" && v.Kind == w.Kind {
		return cmp.Or(cmp.Compare(v.N, w.N), v.Order.Compare(w.Order))
	}
	return v.Order.Compare(w.Order)
}

func (v Version) String() string {
	if v.Kind == "" {
		return fmt.Sprintf("sequence=%d", v.Order.Seq)
	}
	return fmt.Sprintf("%s=%d", v.Kind, v.N)
}
