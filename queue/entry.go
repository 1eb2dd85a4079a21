package queue

import (
	"cmp"
	"errors"
	"time"
)

// An Entry is one revision of one key.
type Entry struct {
	Value    []byte
	Revision uint64
	At       time.Time // the broker's clock when it stored the revision
}

var (
	// ErrNotFound says that a key, a message or a dead letter does not exist.
	ErrNotFound = errors.New("not found")
	// ErrConflict says that somebody else changed the key since the revision given: read again.
	ErrConflict = errors.New("changed by somebody else")
)

// An Order tells which of two records was published first. It is the place of the record in
// the stream it was first published to, and a replay keeps it.
type Order struct {
	Epoch int64  `json:"epoch"` // creation of that stream, Unix nanoseconds: sequences start again with a new stream
	Seq   uint64 `json:"seq"`
}

// Compare is negative if o was published before p, and positive if after.
func (o Order) Compare(p Order) int {
	return cmp.Or(cmp.Compare(o.Epoch, p.Epoch), cmp.Compare(o.Seq, p.Seq))
}
