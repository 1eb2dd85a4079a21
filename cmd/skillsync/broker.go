package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/rs/zerolog"

	"skillsync/queue"
	"skillsync/queue/embedded"
	"skillsync/worker"
)

// brokerFlags say where NATS is, and as whom to sign in there.
type brokerFlags struct {
	URL          string `group:"Broker" name:"nats-url" env:"NATS_URL" placeholder:"URL" help:"NATS servers, separated by commas. Without it: the broker that a worker keeps in --store."`
	Store        string `group:"Broker" type:"path" default:"skillsync-data" help:"Folder of the broker that a worker brings along. Default: ${default}."`
	Creds        string `group:"Broker" name:"nats-creds" env:"NATS_CREDS" type:"path" placeholder:"FILE" help:"Credentials file (JWT and seed)."`
	NKey         string `group:"Broker" name:"nats-nkey" env:"NATS_NKEY" type:"path" placeholder:"FILE" help:"File with the seed of an NKey."`
	User         string `group:"Broker" name:"nats-user" env:"NATS_USER" help:"User name."`
	Password     string `group:"Broker" name:"nats-password" env:"NATS_PASSWORD" help:"Password. Better by environment or file than on the command line."`
	PasswordFile string `group:"Broker" name:"nats-password-file" env:"NATS_PASSWORD_FILE" type:"path" placeholder:"FILE" help:"File that holds the password."`
	CA           string `group:"Broker" name:"nats-ca" env:"NATS_CA" type:"path" placeholder:"FILE" help:"Certificate authority to trust, beside the system's."`
	Cert         string `group:"Broker" name:"nats-cert" env:"NATS_CERT" type:"path" placeholder:"FILE" help:"Client certificate."`
	Key          string `group:"Broker" name:"nats-key" env:"NATS_KEY" type:"path" placeholder:"FILE" help:"Its private key."`
	InboxPrefix  string `group:"Broker" name:"nats-inbox-prefix" env:"NATS_INBOX_PREFIX" help:"Prefix of reply subjects, for users that may not subscribe to _INBOX."`
}

// topologyFlags are what an operator may choose about streams and consumer.
type topologyFlags struct {
	Replicas     int           `group:"Streams" help:"Copies of everything: 1, or 3 on a cluster. Default: 1, or what is there."`
	AckWait      time.Duration `group:"Streams" help:"How long a worker may be silent about a record before another one gets it. Default: 60s, or what is there."`
	MaxBytes     int64         `group:"Streams" help:"Most bytes of records that may wait; beyond it publishers are refused. Default: no limit."`
	DeadMaxBytes int64         `group:"Streams" help:"Most bytes of dead letters. Default: no limit."`
	DeadMaxAge   time.Duration `group:"Streams" help:"How long dead letters are kept. Default: until somebody deals with them."`
}

func (f topologyFlags) topology() queue.Topology {
	return queue.Topology{
		Replicas: f.Replicas, AckWait: f.AckWait, MaxBytes: f.MaxBytes,
		DeadMaxBytes: f.DeadMaxBytes, DeadMaxAge: f.DeadMaxAge,
	}
}

func (f brokerFlags) config(url string, log zerolog.Logger) (queue.Config, error) {
	password, err := fromFile("NATS_PASSWORD", f.Password, f.PasswordFile)
	if err != nil {
		return queue.Config{}, err
	}
	return queue.Config{
		URL: url, Name: "skillsync", CredsFile: f.Creds, NKeyFile: f.NKey, User: f.User, Password: password,
		CAFile: f.CA, CertFile: f.Cert, KeyFile: f.Key, InboxPrefix: f.InboxPrefix, Log: log,
		Reasons: reasons(),
	}, nil
}

// connect is for commands that do one thing and end: they wait a few seconds for a broker and
// then say what is wrong.
func (f brokerFlags) connect(p *program) (*queue.Broker, error) {
	url := f.URL
	if url == "" {
		running, ok := embedded.Find(f.Store)
		if !ok {
			return nil, misuse("no broker: set NATS_URL, or start \"skillsync worker\" (it brings a broker along, in %s)", f.Store)
		}
		url = running
	}
	log := p.log
	if log.GetLevel() == zerolog.InfoLevel {
		log = log.Level(zerolog.WarnLevel) // that it connected is no news to somebody who waits for an answer
	}
	config, err := f.config(url, log)
	if err != nil {
		return nil, err
	}
	config.Wait = 5 * time.Second
	return queue.Connect(p.ctx, config)
}

// ownBroker starts the broker in the store folder, or finds the one that another process runs
// there. stop ends what was started.
func (f brokerFlags) ownBroker(p *program, listen string) (url string, stop func(), err error) {
	s, err := embedded.Start(embedded.Options{Dir: f.Store, Listen: listen, Log: brokerLog(p.log)})
	if locked := (*embedded.LockedError)(nil); errors.As(err, &locked) && locked.URL != "" {
		p.log.Info().Str("url", locked.URL).Str("store", f.Store).Msg("another process runs the broker of this folder; using it")
		return locked.URL, func() {}, nil
	}
	if err != nil {
		return "", nil, fmt.Errorf("start the broker in %s: %w", f.Store, err)
	}
	p.log.Info().Str("url", s.URL()).Str("store", f.Store).Msg("broker started")
	return s.URL(), s.Shutdown, nil
}

// brokerLog passes on what a broker of our own complains about.
func brokerLog(log zerolog.Logger) func(warning bool, text string) {
	return func(warning bool, text string) {
		level := zerolog.ErrorLevel
		if warning {
			level = zerolog.WarnLevel
		}
		log.WithLevel(level).Str("part", "broker").Msg(text)
	}
}

type setupCmd struct {
	brokerFlags
	topologyFlags

	DryRun bool `name:"dry-run" env:"-" help:"Say what would be done, and do nothing. The exit code is 1 if there is anything."`
	JSON   bool `name:"json" env:"-" help:"Print one JSON object."`
}

func (setupCmd) Help() string {
	return `It can be run again at any time: what is as it should be is left alone. Workers never change a broker; they refuse to run when it differs, and say what differs.

With --dry-run the exit code is 0 if nothing differs and 1 if something does.`
}

func (c setupCmd) Run(p *program) error {
	b, err := c.connect(p)
	if err != nil {
		return err
	}
	defer b.Close()
	ctx, cancel := context.WithTimeout(p.ctx, time.Minute)
	defer cancel()
	if c.DryRun {
		return c.preview(ctx, p, b)
	}
	changes, err := b.Setup(ctx, c.topology())
	if c.JSON {
		return errors.Join(err, json.NewEncoder(p.out).Encode(setUp{Changes: changed(changes)}))
	}
	for _, change := range changes {
		fmt.Fprintln(p.out, change)
	}
	if err != nil {
		return err
	}
	if len(changes) == 0 {
		fmt.Fprintln(p.out, asItShouldBe)
	}
	return nil
}

const asItShouldBe = "everything is as it should be"

// preview says what setup would do.
func (c setupCmd) preview(ctx context.Context, p *program, b *queue.Broker) error {
	differences, err := b.Differences(ctx, c.topology())
	if err != nil {
		return err
	}
	if c.JSON {
		err = json.NewEncoder(p.out).Encode(wouldSetUp{Differences: differing(differences)})
	} else {
		err = writeDifferences(p.out, differences)
	}
	if err == nil && len(differences) > 0 {
		return &exitError{code: exitFailed}
	}
	return err
}

func writeDifferences(out io.Writer, differences []queue.Difference) error {
	for _, d := range differences {
		text := fmt.Sprintf("%s: %s would be changed from %s to %s", d.Of, d.Setting, d.Is, d.Want)
		switch {
		case d.Setting == "":
			text = d.Of + " would be created"
		case d.Fixed():
			text = d.String() + ", which the broker does not change on what exists: delete it once it is empty, and run setup"
		}
		if _, err := fmt.Fprintln(out, text); err != nil {
			return err
		}
	}
	if len(differences) == 0 {
		_, err := fmt.Fprintln(out, asItShouldBe)
		return err
	}
	return nil
}

// setUp is what setup did, and wouldSetUp what it would do, as JSON.
type (
	setUp struct {
		Changes []setUpChange `json:"changes"`
	}
	setUpChange struct {
		Of      string `json:"of"`
		Setting string `json:"setting,omitempty"` // "" if the whole thing was created
		From    string `json:"from,omitempty"`
		To      string `json:"to,omitempty"`
	}
	wouldSetUp struct {
		Differences []setUpDifference `json:"differences"`
	}
	setUpDifference struct {
		Of         string `json:"of"`
		Setting    string `json:"setting,omitempty"` // "" if the whole thing is missing
		Is         string `json:"is,omitempty"`
		Want       string `json:"want,omitempty"`
		Changeable bool   `json:"changeable"`
	}
)

func changed(changes []queue.Change) []setUpChange {
	all := make([]setUpChange, len(changes))
	for i, c := range changes {
		all[i] = setUpChange{c.Of, c.Setting, c.From, c.To}
	}
	return all
}

func differing(differences []queue.Difference) []setUpDifference {
	all := make([]setUpDifference, len(differences))
	for i, d := range differences {
		all[i] = setUpDifference{d.Of, d.Setting, d.Is, d.Want, !d.Fixed()}
	}
	return all
}

// reasons are those that workers give dead letters.
func reasons() []string {
	all := worker.Reasons()
	texts := make([]string, len(all))
	for i, r := range all {
		texts[i] = string(r)
	}
	return texts
}
