package ledger

import (
	"cmp"
	"fmt"
	"time"

	"skillsync/queue"
)

// What a record can say of its own age.
const (
	ByVersion   = "version"    // N is an integer of the publisher's
	ByUpdatedAt = "updated_at" // N is microseconds since 1970, which holds any year that can be written
)

// A Version tells which of two records of one employee is newer.
type Version struct {
	Kind  string      `json:"kind,omitempty"` // what N is: ByVersion, ByUpdatedAt, or "" for a record that has neither
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
	switch v.Kind {
	case "":
		return fmt.Sprintf("sequence=%d", v.Order.Seq)
	case ByUpdatedAt:
		return "updated_at=" + time.UnixMicro(v.N).UTC().Format(time.RFC3339Nano)
	}
	return fmt.Sprintf("%s=%d", v.Kind, v.N)
}
