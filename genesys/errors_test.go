package genesys

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func TestErrorBodiesOfAllKindsAreRead(t *testing.T) {
	for name, row := range map[string]struct {
		body string
		want Error
	}{
		"the platform's": {
			`{"message":"Rate limit exceeded the maximum. Retry the request in [42] seconds","code":"too.many.requests.retry.after","status":429,"contextId":"c1","details":[],"errors":[]}`,
			Error{Code: "too.many.requests.retry.after", Message: "Rate limit exceeded the maximum. Retry the request in [42] seconds", CorrelationID: "c1"},
		},
		"SCIM's, with a status in quotes": {
			`{"schemas":["urn:ietf:params:scim:api:messages:2.0:Error"],"status":"400","scimType":"invalidPath","detail":"no such path"}`,
			Error{SCIMType: "invalidPath", Message: "no such path"},
		},
		"OAuth's": {
			`{"error":"invalid_client","description":"client not found: x","error_description":"client not found"}`,
			Error{Code: "invalid_client", Message: "client not found"},
		},
		"OAuth's, the platform's way": {`{"error":"invalid_request","description":"rate limit exceeded; wait"}`, Error{Code: "invalid_request", Message: "rate limit exceeded; wait"}},
		"one field of a wrong type":   {`{"message":"no","code":17,"error":{"a":1}}`, Error{Message: "no"}},
		"HTML":                        {`<html><h1>502 Bad Gateway</h1></html>`, Error{}},
		"nothing":                     {``, Error{}},
		"half of it":                  {`{"message":"no","code":"ab`, Error{}},
		"an array":                    {`["no"]`, Error{}},
		"null":                        {`null`, Error{}},
		"a very deep one":             {strings.Repeat(`{"error":`, 20_000), Error{}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(row.want, *parseError([]byte(row.body))); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestAnErrorIsOneBoundedLine(t *testing.T) {
	e := statusError(answer{
		op: "read", status: 400, header: http.Header{}, correlationID: "abc",
		body: []byte(`{"code":"bad.request","scimType":"invalidValue","message":"first\nsecond\u001b[31m ` + strings.Repeat("ü", 300) + `"}`),
	}, nil)
	text := e.Error()
	if want := "genesys: read: 400 Bad Request bad.request invalidValue: first second [31m üüü"; !strings.HasPrefix(text, want) {
		t.Errorf("says %s", text)
	}
	if !strings.HasSuffix(text, "ü (correlation id abc)") {
		t.Errorf("ends %s", text)
	}
	if len(e.Message) > 300 || !utf8.ValidString(e.Message) {
		t.Errorf("message of %d bytes", len(e.Message))
	}
	for e, want := range map[*Error]string{
		{Op: "patch", Err: errors.New("connection refused")}: "genesys: patch: no answer: connection refused",
		{Op: "patch", Status: 599}:                           "genesys: patch: 599",
	} {
		if got := e.Error(); got != want {
			t.Errorf("says %q, want %q", got, want)
		}
	}
}

func TestTheTextOfARateLimitCountsOnlyForTokens(t *testing.T) {
	limit := Error{Op: "token", Status: 400, Code: "invalid_request", Message: "rate limit exceeded; wait"}
	if !errors.Is(&limit, ErrThrottled) || errors.Is(&limit, ErrUnauthorized) {
		t.Error("the token endpoint's rate limit is not taken for one")
	}
	for _, other := range []Error{
		{Op: "patch", Status: 400, Code: "invalid_request", Message: "rate limit exceeded; wait"},
		{Op: "token", Status: 401, Code: "invalid_request", Message: "rate limit exceeded; wait"},
		{Op: "token", Status: 400, Code: "invalid_client", Message: "rate limit exceeded; wait"},
		{Op: "token", Status: 400, Code: "invalid_request", Message: "grant_type missing"},
	} {
		if errors.Is(&other, ErrThrottled) {
			t.Errorf("%v is taken for a rate limit", &other)
		}
	}
}

func Test404IsAUserOnlyWhereOneWasAskedFor(t *testing.T) {
	for op, want := range map[string]bool{
		"find": true, "read": true, "patch": true, "read_batch": false, "skills": false, "schemas": false, "token": false,
	} {
		if got := errors.Is(&Error{Op: op, Status: 404}, ErrUserNotFound); got != want {
			t.Errorf("%s: %v", op, got)
		}
	}
}

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func TestRetryAfterIsReadInBothForms(t *testing.T) {
	for header, want := range map[string]time.Duration{
		"":                               0,
		"42":                             42 * time.Second,
		" 7 ":                            7 * time.Second,
		"0":                              time.Second,
		"-1":                             0,
		"1.5":                            0,
		"3600":                           time.Hour,
		"86401":                          24 * time.Hour,
		"9223372036854775807":            24 * time.Hour,
		"9999999999999999999999":         0,
		"Mon, 23 Nov 2026 12:00:30 GMT":  30 * time.Second,
		"Mon, 23 Nov 2026 11:59:00 GMT":  time.Second,
		"Monday, 23-Nov-26 12:01:00 GMT": time.Minute,
		"Mon Nov 23 12:02:00 2026":       2 * time.Minute,
		"Fri, 31 Dec 9999 23:59:59 GMT":  24 * time.Hour,
		"tomorrow":                       0,
	} {
		if got := retryAfter(header, noon); got != want {
			t.Errorf("%q: %v, want %v", header, got, want)
		}
	}
}

func FuzzRetryAfter(f *testing.F) {
	for _, s := range []string{"", "42", "-1", "1e9", "Mon, 23 Nov 2026 12:00:30 GMT", "9223372036854775808"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, header string) {
		if d := retryAfter(header, noon); d != 0 && (d < minRetryAfter || d > maxRetryAfter) {
			t.Errorf("%q: %v", header, d)
		}
	})
}

func FuzzErrorBody(f *testing.F) {
	for _, s := range []string{
		`{"message":"no","code":"c","contextId":"x"}`, `{"status":"409","scimType":"invalidVers","detail":"d"}`,
		`{"error":"invalid_client","error_description":"d"}`, `<html>`, `{`, `null`, `{"message":"\ud800\u0000"}`,
	} {
		f.Add([]byte(s), 400)
	}
	f.Fuzz(func(t *testing.T, body []byte, status int) {
		e := statusError(answer{op: opToken, status: status, body: body, header: http.Header{}}, []string{"hush-hush"})
		for _, s := range []string{e.Message, e.Code, e.SCIMType, e.CorrelationID} {
			if len(s) > maxMessage || !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) {
				t.Errorf("kept %q", s)
			}
		}
		if strings.Contains(e.Message, "hush-hush") {
			t.Error("the message has the secret")
		}
		if text := e.Error(); strings.ContainsFunc(text, unicode.IsControl) {
			t.Errorf("says %q", text)
		}
		if errors.Is(e, ErrThrottled) != (e.RetryAfter > 0) {
			t.Errorf("%v: wait %v", e, e.RetryAfter)
		}
	})
}
