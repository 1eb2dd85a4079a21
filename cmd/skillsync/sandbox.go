package main

import (
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"skillsync/genesys/sandbox"
)

type sandboxCmd struct {
	Address      string        `aliases:"port" default:"127.0.0.1:8780" help:"Where to listen: host:port, or a port of the loopback interface; 0 takes a free one. Default: ${default}."`
	Serve        string        `default:"both" enum:"both,custom-attributes,routing-skills" help:"Which contracts exist (${enum}); every other path answers 404. Default: ${default}."`
	Users        int           `default:"10000" help:"Users in the org: EMP-0001 and so on. Default: ${default}."`
	Limit        int           `default:"300" help:"Requests a token may send in any sliding 60 seconds; 0 for no limit. Default: ${default}."`
	PerSecond    int           `name:"limit-per-second" help:"A second limit, in any sliding second; 0 for none."`
	OAuthLimit   int           `name:"oauth-limit" help:"Tokens a minute; 0 for no limit."`
	TokenLife    time.Duration `default:"24h" help:"How long a token is good for. Default: ${default}."`
	ReadLag      time.Duration `default:"1s" help:"From a write until reads show it. Default: ${default}."`
	ProvisionLag time.Duration `default:"1s" help:"From a write of attributes until the org's rules have run. Default: ${default}."`
	PatchLatency time.Duration `default:"20ms" help:"How long a patch takes. Default: ${default}."`
	ReadLatency  time.Duration `default:"5ms" help:"How long every other request takes. Default: ${default}."`
	Seed         uint64        `help:"Vary lags and latencies by a half, repeatably; 0 keeps them exact."`
	Stale        string        `default:"400" enum:"400,409,412" help:"How a stale If-Match is answered (${enum}). Default: ${default}."`
	Fault        []string      `sep:"none" placeholder:"FAULT" help:"A fault to inject from the start; may be repeated. See below."`
}

func (sandboxCmd) Help() string {
	return `It signs in with client id "sandbox" and secret "sandbox". External ids are kept under the authority "hris".

Faults:

` + indented(sandbox.FaultHelp) + `

Faults can be injected while it runs, too:

    curl -d 'patch:reset-after:times=3' http://127.0.0.1:8780/_sandbox/faults

What it counted and what its users have:

    curl http://127.0.0.1:8780/_sandbox/stats
    curl http://127.0.0.1:8780/_sandbox/users/EMP-0001`
}

// indented keeps the lines of a text apart, where help texts are wrapped.
func indented(text string) string {
	return "    " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n    ")
}

func (c sandboxCmd) Run(p *program) error {
	cfg := sampleOrg(c.Users)
	cfg.Serve, cfg.Limit, cfg.LimitPerSecond, cfg.OAuthLimit, cfg.TokenLife = c.Serve, c.Limit, c.PerSecond, c.OAuthLimit, c.TokenLife
	cfg.ReadLag, cfg.ProvisionLag, cfg.PatchLatency, cfg.ReadLatency = c.ReadLag, c.ProvisionLag, c.PatchLatency, c.ReadLatency
	cfg.Seed, cfg.Stale = c.Seed, c.Stale
	org := sandbox.New(cfg)
	for _, text := range c.Fault {
		fault, err := sandbox.ParseFault(text)
		if err != nil {
			return misuse("--fault: %w", err)
		}
		org.Inject(fault)
	}
	addr := c.Address
	if _, err := strconv.ParseUint(addr, 10, 16); err == nil {
		addr = net.JoinHostPort("127.0.0.1", addr)
	}
	s, err := serveSandbox(org, addr)
	if err != nil {
		return err
	}
	defer s.stop()
	fmt.Fprintf(p.out, "sandbox Genesys Cloud at %s (%d users, %s)\n", s.url, c.Users, c.Serve)
	fmt.Fprintf(p.out, "\nTo use it:\n  export GENESYS_API_URL=%s GENESYS_CLIENT_ID=sandbox GENESYS_CLIENT_SECRET=sandbox GENESYS_EXTERNAL_ID_AUTHORITY=hris\n", s.url)
	<-p.ctx.Done()
	return nil
}

// serveSandbox puts a sandbox on a port.
func serveSandbox(h http.Handler, addr string) (*server, error) {
	ln, err := listen(addr, false)
	if err != nil {
		return nil, fmt.Errorf("sandbox: %w; choose another address with --address", err)
	}
	return startServer(ln, h, func(err error) { panic(err) }), nil // nothing but stop ends it
}

// sampleOrg is the org that deploy/samples/employees.csv is about (see the README there): everybody
// has a skill that was set by hand, some have just the skills that their records ask for, and some
// never show what was written.
func sampleOrg(users int) sandbox.Config {
	cfg := sandbox.Org(users)
	for i := range cfg.Users {
		u := &cfg.Users[i]
		u.Skills = append(u.Skills, sandbox.Skill{Name: "Chat", Proficiency: 3})
		switch {
		case "EMP-0141" <= u.ExternalID && u.ExternalID <= "EMP-0165" && len(u.ExternalID) == len("EMP-0165"):
			u.Skills = append(u.Skills, sandbox.Skill{Name: "Billing", Proficiency: 3})
		case "EMP-0191" <= u.ExternalID && u.ExternalID <= "EMP-0194" && len(u.ExternalID) == len("EMP-0194"):
			u.Never = true
		}
	}
	return cfg
}
