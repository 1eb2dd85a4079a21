package main

import (
	"fmt"
	"net"

	"skillsync/cmd/skillsync/console"
	"skillsync/queue"
)

const defaultConsole = "127.0.0.1:8788"

type consoleCmd struct {
	brokerFlags
	Address string `env:"SKILLSYNC_CONSOLE_ADDRESS" default:"127.0.0.1:8788" help:"Where to listen: host and port of the loopback interface. Default: ${default}."`
}

func (consoleCmd) Help() string {
	return `The page shows the backlog, outcomes and dead letters, and changes nothing. It has no sign-in yet, so it can be reached from this machine only.`
}

func (c consoleCmd) Run(p *program) error {
	addr, err := loopback(c.Address)
	if err != nil {
		return err
	}
	b, err := c.connect(p)
	if err != nil {
		return err
	}
	defer b.Close()
	s, err := startConsole(addr, false, b)
	if err != nil {
		return err
	}
	defer s.stop()
	fmt.Fprintf(p.out, "console at %s\n", s.url)
	<-p.ctx.Done()
	return nil
}

// loopback resolves an address, and refuses one that other machines could reach.
func loopback(addr string) (string, error) {
	tcp, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		return "", misuse("console: %w; --address takes a host and a port, such as %s", err, defaultConsole)
	}
	if !tcp.IP.IsLoopback() {
		return "", misuse("console: %q can be reached from other machines, and there is no sign-in yet; choose a loopback address, such as %s", addr, defaultConsole)
	}
	return tcp.String(), nil
}

// startConsole serves the page on addr, or with orFree on a free port where addr is taken.
func startConsole(addr string, orFree bool, b *queue.Broker) (*server, error) {
	ln, err := listen(addr, orFree)
	if err != nil {
		return nil, fmt.Errorf("console: %w; choose another address with --address", err)
	}
	c := &console.Console{Source: consoleSource{b, b.DeadLetters()}}
	return startServer(ln, c.Handler(), func(err error) { panic(err) }), nil // nothing but stop ends it
}

// A consoleSource is a broker with its dead letters.
type consoleSource struct {
	*queue.Broker
	*queue.DeadLetters
}
