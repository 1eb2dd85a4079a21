package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"

	"github.com/rs/zerolog"

	"skillsync/cmd/skillsync/console"
	"skillsync/cmd/skillsync/desk"
)

const defaultConsole = "127.0.0.1:8788"

type consoleCmd struct {
	brokerFlags
	orgFlags
	alertFlags

	Address         string `group:"Page" env:"SKILLSYNC_CONSOLE_ADDRESS" default:"127.0.0.1:8788" help:"Where to listen. Other than on the loopback interface a token is needed. Default: ${default}."`
	Token           string `group:"Page" env:"SKILLSYNC_CONSOLE_TOKEN" help:"What operators sign in with. Better by file than on the command line."`
	TokenFile       string `group:"Page" env:"SKILLSYNC_CONSOLE_TOKEN_FILE" type:"path" placeholder:"FILE" help:"File with a token, or with one operator a line: a name and a token."`
	ViewerToken     string `group:"Page" env:"SKILLSYNC_CONSOLE_VIEWER_TOKEN" help:"What those sign in with who may look, but see no personal values and change nothing."`
	ViewerTokenFile string `group:"Page" env:"SKILLSYNC_CONSOLE_VIEWER_TOKEN_FILE" type:"path" placeholder:"FILE" help:"The same as a file."`
	ReadOnly        bool   `group:"Page" env:"SKILLSYNC_CONSOLE_READ_ONLY" help:"Nobody changes anything, whoever signs in."`
	TLSCert         string `group:"Page" env:"SKILLSYNC_CONSOLE_TLS_CERT" type:"path" placeholder:"FILE" help:"Certificate to serve HTTPS with."`
	TLSKey          string `group:"Page" env:"SKILLSYNC_CONSOLE_TLS_KEY" type:"path" placeholder:"FILE" help:"Its private key."`
	Listen          string `group:"Page" env:"SKILLSYNC_CONSOLE_LISTEN" placeholder:"HOST:PORT" help:"Where /livez, /readyz and /metrics are served, without a token; they hold counts only. Default: nowhere."`
}

func (consoleCmd) Help() string {
	return `The page shows backlog, limit, outcomes and dead letters, and lets operators mend, replay, export and drop dead letters and steer the limit; everything they do is written down. It also goes on with replays that lost the process which ran them. On the loopback interface it needs no sign-in; elsewhere it needs a token, and TLS of its own or of a proxy. For dry runs it needs the OAuth client's credentials, of which it reads only.`
}

func (c consoleCmd) Run(p *program) error {
	page, err := c.page()
	if err != nil {
		return err
	}
	rules, err := c.rules()
	if err != nil {
		return err
	}
	d, stop, err := c.desk(p, deskRules{rules})
	if err != nil {
		return err
	}
	defer stop()
	if c.ClientID != "" {
		client, err := c.client()
		if err != nil {
			return err
		}
		org, stopOrg, err := openOrg(p, d.Broker, client, rules, c.Limit)
		if err != nil {
			return err
		}
		defer stopOrg()
		d.Org = org
	}
	page.log = p.log
	s, err := startConsole(page, d, c.watcher)
	if err != nil {
		return err
	}
	defer s.stop()
	stopOps, err := startConsoleOps(c.Listen, d, p.log)
	if err != nil {
		return err
	}
	defer stopOps()
	fmt.Fprintf(p.out, "console at %s\n", s.url)
	<-p.ctx.Done()
	return nil
}

// A consolePage is how the page is served.
type consolePage struct {
	addr     string
	orFree   bool // where addr is taken, on a free port
	tokens   []console.Token
	readOnly bool
	tls      *tls.Config
	log      zerolog.Logger
}

// page checks the flags that say how the page is served.
func (c consoleCmd) page() (consolePage, error) {
	page := consolePage{readOnly: c.ReadOnly}
	for _, t := range []struct {
		role              console.Role
		name, value, file string
	}{
		{console.Operator, "SKILLSYNC_CONSOLE_TOKEN", c.Token, c.TokenFile},
		{console.Viewer, "SKILLSYNC_CONSOLE_VIEWER_TOKEN", c.ViewerToken, c.ViewerTokenFile},
	} {
		text, err := fromFile(t.name, t.value, t.file)
		if err != nil {
			return page, err
		}
		tokens, err := readTokens(t.role, t.name, text)
		if err != nil {
			return page, err
		}
		page.tokens = append(page.tokens, tokens...)
	}
	tcp, err := net.ResolveTCPAddr("tcp", c.Address)
	if err != nil {
		return page, misuse("console: %w; --address takes a host and a port, such as %s", err, defaultConsole)
	}
	if !tcp.IP.IsLoopback() && len(page.tokens) == 0 {
		return page, misuse("console: %q can be reached from other machines: set SKILLSYNC_CONSOLE_TOKEN_FILE, or choose a loopback address, such as %s", c.Address, defaultConsole)
	}
	page.addr = tcp.String()
	if c.TLSCert == "" && c.TLSKey == "" {
		return page, nil
	}
	pair, err := tls.LoadX509KeyPair(c.TLSCert, c.TLSKey)
	if err != nil {
		return page, misuse("console: the certificate: %w", err)
	}
	page.tls = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	return page, nil
}

// leastToken is the shortest token that cannot be guessed.
const leastToken = 16

// readTokens reads a token, or one a line with the name of whose it is before it.
func readTokens(role console.Role, setting, text string) (tokens []console.Token, err error) {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		t := console.Token{Name: string(role), Role: role, Secret: fields[len(fields)-1]}
		if len(fields) > 1 {
			t.Name = strings.Join(fields[:len(fields)-1], " ")
		}
		if len(t.Secret) < leastToken {
			return nil, misuse("%s: a token has at least %d characters; \"openssl rand -hex 32\" makes one", setting, leastToken)
		}
		tokens = append(tokens, t)
	}
	return tokens, nil
}

// A consoleServer is the page, what it does in the background, and the port that it is served on.
type consoleServer struct {
	url  string
	stop func()
}

// startConsole serves the page of a desk, and runs its replays and alerts.
func startConsole(page consolePage, d *desk.Desk, watcher func(*desk.Desk, zerolog.Logger) (*desk.Watcher, error)) (*consoleServer, error) {
	watch, err := watcher(d, page.log)
	if err != nil {
		return nil, err
	}
	ln, err := listen(page.addr, page.orFree)
	if err != nil {
		return nil, fmt.Errorf("console: %w; choose another address with --address", err)
	}
	if page.tls != nil {
		ln = tls.NewListener(ln, page.tls)
	}
	crew := &desk.Crew{Desk: d, Log: page.log}
	c := &console.Console{
		Desk: d, Crew: crew, Tokens: page.tokens, User: operator(), ReadOnly: page.readOnly, Secure: page.tls != nil, Log: page.log,
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { c.Run(ctx) })
	if !page.readOnly {
		running.Go(func() { crew.Run(ctx) })
	}
	if watch != nil {
		running.Go(func() {
			if err := watch.Run(ctx); err != nil && !errors.Is(err, context.Canceled) {
				page.log.Error().Err(err).Str("part", "alerts").Msg("ended")
			}
		})
	}
	s := startServer(ln, c.Handler(), func(err error) { panic(err) }) // nothing but stop ends it
	url := s.url
	if page.tls != nil {
		url = strings.Replace(url, "http://", "https://", 1)
	}
	return &consoleServer{url, func() {
		cancel() // ends event streams, so that the server need not wait for them
		s.stop()
		running.Wait()
	}}, nil
}

// noWatcher is for a console that alerts nobody.
func noWatcher(*desk.Desk, zerolog.Logger) (*desk.Watcher, error) { return nil, nil }
