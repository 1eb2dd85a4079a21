package sandbox

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"syscall"
)

// Transport returns a RoundTripper that hands requests to the sandbox without a socket,
// so that a client can be tested in a testing/synctest bubble. A cut connection is a
// connection reset error; a request whose context ends returns at once while the sandbox
// finishes it, as a server does.
func (s *Sandbox) Transport() http.RoundTripper { return transport{s} }

type transport struct{ handler http.Handler }

func (t transport) RoundTrip(req *http.Request) (*http.Response, error) {
	var body []byte
	if req.Body != nil {
		var err error
		body, err = io.ReadAll(req.Body)
		_ = req.Body.Close() // a RoundTripper must, and the bytes are here
		if err != nil {
			return nil, err
		}
	}
	in := req.Clone(req.Context())
	in.Body = io.NopCloser(bytes.NewReader(body))
	in.RequestURI = req.URL.RequestURI()
	in.RemoteAddr = "sandbox"
	if in.Host == "" {
		in.Host = req.URL.Host
	}
	answered := make(chan *http.Response, 1) // so that nobody waits for a client that has gone
	go func() { answered <- t.serve(in) }()
	select {
	case <-req.Context().Done():
		return nil, req.Context().Err()
	case res := <-answered:
		if res == nil {
			return nil, &net.OpError{Op: "read", Net: "tcp", Err: syscall.ECONNRESET}
		}
		res.Request = req
		return res, nil
	}
}

// serve returns nil when the connection was cut.
func (t transport) serve(req *http.Request) (res *http.Response) {
	defer func() {
		switch p := recover(); p {
		case nil:
		case http.ErrAbortHandler:
			res = nil
		default:
			panic(p)
		}
	}()
	w := &recorder{header: http.Header{}}
	t.handler.ServeHTTP(w, req)
	return w.response()
}

// recorder is an http.ResponseWriter into memory. (That of net/http/httptest brings a
// command-line flag into every program that imports it.)
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (w *recorder) Header() http.Header { return w.header }

func (w *recorder) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
}

func (w *recorder) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(p)
}

func (w *recorder) response() *http.Response {
	w.WriteHeader(http.StatusOK)
	return &http.Response{
		Status: http.StatusText(w.status), StatusCode: w.status,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: w.header, ContentLength: int64(w.body.Len()), Body: io.NopCloser(&w.body),
	}
}
