package queuetest

import (
	"net"
	"strings"
	"sync"
	"testing"
)

// A Proxy stands between a broker and its clients, to lose on demand what they say.
type Proxy struct {
	listener net.Listener
	target   string

	mu       sync.Mutex
	requests bool // lost
	answers  bool // lost
	conns    map[net.Conn]bool
	running  sync.WaitGroup
}

// NewProxy listens until the test ends; broker is the URL of a server.
func NewProxy(t testing.TB, broker string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{listener: l, target: strings.TrimPrefix(broker, "nats://"), conns: map[net.Conn]bool{}}
	accepting := make(chan struct{})
	go func() {
		defer close(accepting)
		p.accept()
	}()
	t.Cleanup(func() {
		l.Close()
		<-accepting
		p.Restore()
		p.running.Wait()
	})
	return p
}

// URL is where clients connect to.
func (p *Proxy) URL() string { return "nats://" + p.listener.Addr().String() }

// Lose drops what is said in a direction from now on: requests never arrive ("it did not
// happen"), answers never come back ("it happened, but the reply was lost").
func (p *Proxy) Lose(requests, answers bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.requests, p.answers = requests, answers
}

// Restore loses nothing more, and breaks all connections so that no half of a message is left on
// one. Clients may connect again at once.
func (p *Proxy) Restore() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.requests, p.answers = false, false
	for c := range p.conns {
		c.Close()
	}
	clear(p.conns)
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.target)
		if err != nil {
			client.Close()
			continue
		}
		p.mu.Lock()
		p.conns[client], p.conns[server] = true, true
		p.mu.Unlock()
		p.running.Go(func() { p.pipe(server, client, &p.requests) })
		p.running.Go(func() { p.pipe(client, server, &p.answers) })
	}
}

func (p *Proxy) pipe(to, from net.Conn, lost *bool) {
	defer to.Close()
	defer from.Close()
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		p.mu.Lock()
		drop := *lost
		p.mu.Unlock()
		if !drop {
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
