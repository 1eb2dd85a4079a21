package genesys

import (
	"context"
	"net/http"
	"strings"
	"time"
)

// An Exchange is one request and its outcome.
type Exchange struct {
	Op            string // token, schemas, find, read, read_batch, patch, skills or limits
	Method        string
	Host          string // with its port, if that was given
	Status        int    // 0 if there was no answer
	Began         time.Time
	Took          time.Duration
	CorrelationID string // the platform's own id of the exchange, if it answered with one
	Err           error  // why there was no whole answer

	// Shared are the contexts of the other callers whose request it was too.
	Shared []context.Context

	path string
}

func exchanged(r request, req *http.Request, a answer, began time.Time, err error) Exchange {
	e := Exchange{
		Op: a.op, Method: req.Method, Host: req.URL.Host, Status: a.status, Began: began, Took: time.Since(began),
		CorrelationID: a.correlationID, Err: err, path: req.URL.EscapedPath(),
	}
	if r.batch != nil {
		e.Shared = r.batch.others
	}
	return e
}

// Route is the path with placeholders for everything that names a user. Together with Method it
// says which operation of the API was called, and no more.
func (e Exchange) Route() string {
	before, _, external := strings.Cut(e.path, externalIDs)
	if external {
		return before + externalIDs + "{authority}/{key}"
	}
	segments := strings.Split(e.path, "/")
	for i, s := range segments {
		if checkUserID(s) == nil {
			segments[i] = "{id}"
		}
	}
	return strings.Join(segments, "/")
}

// What a request is for: the values of Exchange.Op and Error.Op.
const (
	opToken     = "token"
	opSchemas   = "schemas"
	opFind      = "find"
	opRead      = "read"
	opReadBatch = "read_batch"
	opPatch     = "patch"
	opSkills    = "skills"
	opLimits    = "limits"
)

// Operations lists every value of Exchange.Op, for metrics that start at zero.
func Operations() []string {
	return []string{opToken, opSchemas, opFind, opRead, opReadBatch, opPatch, opSkills, opLimits}
}
