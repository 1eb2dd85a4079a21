package main

import (
	"context"
	"errors"
	"net"
	"net/http"
	"syscall"
	"time"
)

// A server serves HTTP on one port until it is stopped.
type server struct {
	url  string
	http *http.Server
	done chan struct{}
}

// listen takes a port. With orFree, one of the loopback interface that is free stands in for one
// that is taken: good for a default, not for an address that somebody chose.
func listen(addr string, orFree bool) (net.Listener, error) {
	ln, err := net.Listen("tcp", addr)
	if errors.Is(err, syscall.EADDRINUSE) && orFree {
		return net.Listen("tcp", "127.0.0.1:0")
	}
	return ln, err
}

// startServer answers on ln with h. If that ends before stop is called, ended is told why.
func startServer(ln net.Listener, h http.Handler, ended func(error)) *server {
	s := &server{
		url:  "http://" + ln.Addr().String(),
		http: &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute},
		done: make(chan struct{}),
	}
	go func() {
		defer close(s.done)
		if err := s.http.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			ended(err)
		}
	}()
	return s
}

// stop gives requests that are being answered a second.
func (s *server) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if s.http.Shutdown(ctx) != nil {
		s.http.Close()
	}
	<-s.done
}
