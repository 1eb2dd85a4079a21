package genesys

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// Conditions that errors of this package match with [errors.Is].
var (
	// ErrThrottled: refused for the rate limit. The [*Error] says how long to wait.
	ErrThrottled = errors.New("genesys: rate limit reached")
	// ErrUnauthorized: the client's id and secret, or the token had for them, are not accepted.
	ErrUnauthorized = errors.New("genesys: sign-in refused")
	// ErrForbidden: the client lacks a permission, whoever the user is.
	ErrForbidden = errors.New("genesys: permission missing")
	// ErrDivision: the client lacks a permission in the division of this one user.
	ErrDivision = errors.New("genesys: no permission in the user's division")
	// ErrUserNotFound: there is no such user.
	ErrUserNotFound = errors.New("genesys: user not found")
	// ErrAmbiguous: more than one user was found.
	ErrAmbiguous = errors.New("genesys: more than one user found")
	// ErrStale: the user changed since the version that the patch was made for.
	ErrStale = errors.New("genesys: user changed meanwhile")
	// ErrUnknownSkill: the organization has no skill of that name; see [UnknownSkillError].
	ErrUnknownSkill = errors.New("genesys: unknown skill")
	// ErrBadRequest: the call made no sense and nothing was sent.
	ErrBadRequest = errors.New("genesys: bad request")
	// ErrNoLookup: nothing is known that this user could be found by.
	ErrNoLookup = errors.New("genesys: nothing to look the user up by")
)

// An Error is a request that got no answer, or one that is not what was asked for.
type Error struct {
	Op            string        // what the request was for; see Exchange.Op
	Status        int           // HTTP status; 0 if there was no answer
	Code          string        // the platform's or OAuth's error code
	SCIMType      string        // RFC 7644 §3.12
	Message       string        // the platform's words: at most 300 bytes, no control characters
	RetryAfter    time.Duration // how long to wait; 0 if the answer does not say
	CorrelationID string        // what the platform's support asks for
	Err           error         // why there is no usable answer; nil if the platform refused
}

func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "genesys: %s: ", e.Op)
	if e.Status == 0 {
		b.WriteString("no answer")
	} else {
		b.WriteString(strings.TrimSpace(fmt.Sprintf("%d %s", e.Status, http.StatusText(e.Status))))
	}
	for _, code := range []string{e.Code, e.SCIMType} {
		if code != "" {
			b.WriteString(" " + code)
		}
	}
	if e.Message != "" {
		b.WriteString(": " + e.Message)
	}
	if e.Err != nil {
		b.WriteString(": " + e.Err.Error())
	}
	if e.CorrelationID != "" {
		b.WriteString(" (correlation id " + e.CorrelationID + ")")
	}
	return b.String()
}

// Unwrap returns why there is no usable answer, such as [context.DeadlineExceeded].
func (e *Error) Unwrap() error { return e.Err }

// Is reports whether e is the condition target.
func (e *Error) Is(target error) bool {
	division := strings.Contains(e.Code, "division") // missing.division.permission and the like
	switch target {
	case ErrThrottled:
		return e.throttled()
	case ErrUnauthorized:
		// Whatever refuses a sign-in concerns the client and not the record at hand.
		signIn := e.Op == opToken && e.Status >= 300 && e.Status < 500
		return (e.Status == http.StatusUnauthorized || signIn) && e.Status != http.StatusRequestTimeout && !e.throttled()
	case ErrForbidden:
		return e.Status == http.StatusForbidden && !division && e.Op != opToken
	case ErrDivision:
		return e.Status == http.StatusForbidden && division
	case ErrUserNotFound:
		return e.Status == http.StatusNotFound && (e.Op == opFind || e.Op == opRead || e.Op == opPatch)
	case ErrStale:
		return e.stale()
	}
	return false
}

// throttled reports a refusal for the rate limit. The token endpoint has no 429: it answers 400
// invalid_request, and only its text tells that from a malformed request (as Genesys's Terraform
// provider does, genesyscloud/provider/provider.go).
func (e *Error) throttled() bool {
	return e.Status == http.StatusTooManyRequests ||
		e.Op == opToken && e.Status == http.StatusBadRequest && e.Code == "invalid_request" &&
			strings.Contains(strings.ToLower(e.Message), "rate limit exceeded")
}

// stale reports a failed If-Match. The platform's documents name three statuses for it: 412, 409
// and 400 with scimType invalidVers (RFC 7644 §3.14 and the API's own description).
func (e *Error) stale() bool {
	switch e.Status {
	case http.StatusPreconditionFailed:
		return true
	case http.StatusConflict, http.StatusBadRequest:
		// Where the scimType is missing only the text is left: "version supplied does not
		// match the current version of the user".
		text := strings.ToLower(e.Message)
		return e.SCIMType == "invalidVers" || strings.Contains(text, "not match") && strings.Contains(text, "current version")
	}
	return false
}

// statusError makes an Error of an answer that is no 2xx.
func statusError(a answer, private []string) *Error {
	e := parseError(a.body)
	e.Op, e.Status = a.op, a.status
	e.Message = tidy(e.Message, private)
	e.CorrelationID = cmp.Or(a.correlationID, e.CorrelationID)
	e.RetryAfter = retryAfter(a.header.Get("Retry-After"), time.Now())
	if e.RetryAfter == 0 && e.throttled() {
		e.RetryAfter = bareRetryAfter
	}
	return e
}

// parseError reads the error forms of the platform (ErrorBody), of SCIM (RFC 7644 §3.12) and of
// OAuth (RFC 6749 §5.2). Of anything else, such as a proxy's HTML, nothing is kept.
func parseError(body []byte) *Error {
	var b struct {
		Message          string // ErrorBody
		Code             string
		ContextID        string `json:"contextId"`
		Detail           string // SCIM
		SCIMType         string `json:"scimType"`
		Error            string // OAuth
		ErrorDescription string `json:"error_description"`
		Description      string
	}
	_ = json.Unmarshal(body, &b) // a field of an unexpected type leaves the others readable
	return &Error{
		Code:          clean(cmp.Or(b.Code, b.Error)),
		SCIMType:      clean(b.SCIMType),
		Message:       cmp.Or(b.Message, b.Detail, b.ErrorDescription, b.Description),
		CorrelationID: clean(b.ContextID),
	}
}

// transportError makes an Error of a request without a whole answer. The text of err must not
// name the URL, whose query can hold an employee's data.
func transportError(ctx context.Context, a answer, err error) *Error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	if ctx.Err() != nil {
		err = ctx.Err() // not its cause, which callers know and errors.Is would not
	}
	return &Error{Op: a.op, Status: a.status, CorrelationID: a.correlationID, Err: err}
}

// interrupted says that ctx ended before a request was sent.
func interrupted(ctx context.Context, op string) error {
	return fmt.Errorf("genesys: %s: %w", op, ctx.Err())
}

const (
	maxMessage = 300 // bytes of the platform's words that an Error keeps
	maxID      = 100 // bytes of a code or id
)

// tidy makes one bounded line of a message and takes out what must not be in it.
func tidy(message string, private []string) string {
	for _, p := range private {
		if len(p) >= 3 { // shorter ones say nothing and are part of any other word
			message = strings.ReplaceAll(message, p, "…")
		}
	}
	return cut(message, maxMessage)
}

// clean makes a bounded word of a code or id.
func clean(s string) string { return cut(s, maxID) }

// cut returns s as valid UTF-8 without control characters, in at most n bytes.
func cut(s string, n int) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	s = strings.TrimSpace(s)
	if len(s) > n {
		s = strings.ToValidUTF8(s[:n], "")
	}
	return s
}

const (
	// bareRetryAfter is for a 429 that does not say how long, and for the token endpoint, which
	// never does: the platform counts requests per minute.
	bareRetryAfter = time.Minute
	// A Retry-After of nothing must not make a busy loop; one of more than a day is a mistake.
	minRetryAfter = time.Second
	maxRetryAfter = 24 * time.Hour
)

// retryAfter reads a Retry-After header, seconds or a date (RFC 9110 §10.2.3). It is 0 if there
// is none to be understood.
func retryAfter(header string, now time.Time) time.Duration {
	header = strings.TrimSpace(header)
	if header == "" {
		return 0
	}
	if seconds, err := strconv.ParseInt(header, 10, 64); err == nil {
		if seconds < 0 {
			return 0
		}
		return clamp(time.Duration(min(seconds, int64(maxRetryAfter/time.Second))) * time.Second)
	}
	if date, err := http.ParseTime(header); err == nil {
		return clamp(date.Sub(now))
	}
	return 0
}

func clamp(d time.Duration) time.Duration { return min(max(d, minRetryAfter), maxRetryAfter) }
