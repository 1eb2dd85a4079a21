package sandbox

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
)

const (
	typeJSON = "application/json"
	typeSCIM = "application/scim+json"
)

// answer is a whole answer, made before a byte of it is sent, so that a fault may keep it
// back after the work was done. Status 0 cuts the connection.
type answer struct {
	status int
	typ    string
	header []string // name, value, name, value …
	body   []byte
}

// with adds a header.
func (a answer) with(name, value string) answer {
	a.header = append(a.header, name, value)
	return a
}

func (a answer) send(w http.ResponseWriter, correlationID string) {
	if a.status == 0 {
		cut(w)
		return
	}
	h := w.Header()
	h.Set("ININ-Correlation-Id", correlationID)
	if a.typ != "" {
		h.Set("Content-Type", a.typ)
	}
	for i := 0; i+1 < len(a.header); i += 2 {
		h.Set(a.header[i], a.header[i+1])
	}
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body) // a client that has gone needs no answer
}

// cut resets the connection: what a client sees when a proxy or a server dies.
func cut(w http.ResponseWriter) {
	if hj, ok := w.(http.Hijacker); ok {
		if conn, _, err := hj.Hijack(); err == nil {
			if tcp, ok := conn.(*net.TCPConn); ok {
				_ = tcp.SetLinger(0) // close with RST instead of FIN
			}
			_ = conn.Close()
			return
		}
	}
	panic(http.ErrAbortHandler) // HTTP/2, or a caller without a connection
}

func encode(status int, typ string, v any) answer {
	body, err := json.Marshal(v)
	if err != nil {
		panic("sandbox: encode answer: " + err.Error()) // our own types: cannot happen
	}
	return answer{status: status, typ: typ, body: body}
}

func ok(v any) answer { return encode(http.StatusOK, typeJSON, v) }

// errorBody is the platform's ErrorBody, in the order of its fields on the wire.
type errorBody struct {
	Message   string   `json:"message"`
	Code      string   `json:"code"`
	Status    int      `json:"status"`
	ContextID string   `json:"contextId"`
	Details   []string `json:"details"`
	Errors    []string `json:"errors"`
}

// fail is an ErrorBody whose contextId is the correlation id.
func (c *call) fail(status int, code, message string) answer {
	return encode(status, typeJSON, errorBody{message, code, status, c.correlationID, []string{}, []string{}})
}

// scimFail is a SCIM error (RFC 7644 §3.12): its status is a string.
func (c *call) scimFail(status int, scimType, detail string) answer {
	return encode(status, typeSCIM, struct {
		Schemas  []string `json:"schemas"`
		Status   string   `json:"status"`
		ScimType string   `json:"scimType,omitempty"`
		Detail   string   `json:"detail"`
	}{[]string{urnError}, strconv.Itoa(status), scimType, detail})
}

// oauthFail is the login host's error, which has two fields for one text.
func (c *call) oauthFail(status int, code, description string) answer {
	return encode(status, typeJSON, struct {
		Error            string `json:"error"`
		Description      string `json:"description"`
		ErrorDescription string `json:"error_description"`
	}{code, description, description}).with("Cache-Control", "no-store")
}

// throttled is the platform's 429 since 2021-11, Retry-After in whole seconds.
func (c *call) throttled(seconds int) answer {
	msg := fmt.Sprintf("Rate limit exceeded the maximum. Retry the request in [%d] seconds", seconds)
	return c.fail(http.StatusTooManyRequests, "too.many.requests.retry.after", msg).
		with("Retry-After", strconv.Itoa(seconds))
}

func (c *call) notFound() answer {
	return c.fail(http.StatusNotFound, "general.resource.not.found", "Unable to find resource")
}

func (c *call) badCredentials() answer {
	return c.fail(http.StatusUnauthorized, "bad.credentials", "Invalid login credentials.")
}

func (c *call) invalidValue(what string) answer {
	return c.fail(http.StatusBadRequest, "invalid.value", "Value ["+what+"] is not valid")
}

const staleText = "Version does not match current version"

// stale is the answer to a version that is not the stored one, in one of staleForms.
func (c *call) stale(form string) answer {
	switch form {
	case "409":
		return c.scimFail(http.StatusConflict, "invalidVers", staleText)
	case "412":
		return c.fail(http.StatusPreconditionFailed, "general.conflict",
			"The version supplied does not match the current version of the user")
	default:
		return c.scimFail(http.StatusBadRequest, "invalidVers", staleText)
	}
}

var staleForms = []string{"400", "409", "412"}

// decimal is a number that JSON shows with a decimal part, as the platform's doubles do.
type decimal float64

func (d decimal) MarshalJSON() ([]byte, error) {
	text := strconv.FormatFloat(float64(d), 'f', -1, 64)
	if !strings.Contains(text, ".") {
		text += ".0"
	}
	return []byte(text), nil
}
