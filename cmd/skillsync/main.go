// Command skillsync keeps the routing skills of Genesys Cloud users true to what HR systems say:
// it consumes employee records from NATS JetStream, patches users over SCIM within a request
// budget that all workers share, and verifies the result before it acknowledges a record.
//
// Each command has a file of its own. This is the only package that builds things: it reads
// settings, makes clients and hands them to the packages that do the work.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
	"github.com/rs/zerolog"
	"golang.org/x/term"

	"skillsync/queue"
)

type cli struct {
	Demo    demoCmd    `cmd:"" help:"Everything in one process: broker, sandbox Genesys Cloud, worker and 200 sample records."`
	Worker  workerCmd  `cmd:"" help:"Consume employee records and apply them. Without --nats-url it brings its own broker."`
	Publish publishCmd `cmd:"" help:"Publish employee records from CSV or JSON Lines."`
	Apply   applyCmd   `cmd:"" help:"Apply one record now, without the queue, and show every step."`
	Status  statusCmd  `cmd:"" help:"Backlog and when it will be done, the limit and its use, outcomes and dead letters."`
	DLQ     dlqCmd     `cmd:"" name:"dlq" help:"Look at dead letters; mend, replay, export and drop them."`
	Limit   limitCmd   `cmd:"" help:"Look at the request limit of the fleet, change it, pause and resume."`
	Console consoleCmd `cmd:"" help:"The operator's page: backlog, limit, outcomes, and all about dead letters."`
	Setup   setupCmd   `cmd:"" help:"Create the streams, the consumer and the buckets on a broker, or bring them up to date."`
	Doctor  doctorCmd  `cmd:"" help:"What is wrong with broker, mapping, Genesys Cloud and limit, and what to do about it."`
	Health  healthCmd  `cmd:"" help:"Ask a worker or a console on this machine whether it is well; for the health checks of containers."`
	Mapping mappingCmd `cmd:"" help:"Check a mapping."`
	Sandbox sandboxCmd `cmd:"" help:"A Genesys Cloud that runs on this machine, with its limits, its lag and its faults."`
	Version versionCmd `cmd:"" help:"Print the version."`
	Papers  papers     `embed:""`

	ShowVersion kong.VersionFlag `name:"version" hidden:"" env:"-" help:"Print the version."` // what one types first

	Log logFlags `embed:"" prefix:"log-"`
}

type logFlags struct {
	Level  string `default:"info" enum:"debug,info,warn,error" help:"Least severe log line to write (${enum}). Default: ${default}."`
	Format string `default:"auto" enum:"auto,json,text" help:"json, text, or auto: text on a terminal and JSON elsewhere. Default: ${default}."`
}

// Exit codes (design section 8). Misuse of the command line is 2.
const (
	exitFailed      = 1
	exitMisuse      = 2
	exitDeadLetters = 3
)

// An exitError ends the program with a code of its own; a nil err says nothing more.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}
func (e *exitError) Unwrap() error { return e.err }

// misuse is an error of the person who typed the command.
func misuse(format string, args ...any) error {
	return &exitError{exitMisuse, fmt.Errorf(format, args...)}
}

// A program is what every command needs: where to write, and how to log.
type program struct {
	ctx context.Context
	in  io.Reader
	out io.Writer // results
	err io.Writer // progress and logs
	log zerolog.Logger
}

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	var c cli
	parser, err := kong.New(&c,
		kong.Name("skillsync"),
		kong.Description("Keeps the routing skills of Genesys Cloud users true to what HR systems say.\n\n"+
			"Every flag can also be set by the environment variable shown beside it; secrets can come from a file (…_FILE)."),
		kong.DefaultEnvars("SKILLSYNC"), kong.Vars{"version": version()},
		kong.UsageOnError(),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, Tree: true}),
	)
	if err != nil {
		panic(err) // a command is declared wrongly
	}
	ktx, err := parser.Parse(args)
	if err != nil {
		fmt.Fprintf(os.Stderr, "skillsync: %v\nType \"skillsync --help\" for the commands and their flags.\n", err)
		return exitMisuse
	}
	ctx, stop := signals()
	defer stop()
	p := &program{ctx: ctx, in: os.Stdin, out: os.Stdout, err: os.Stderr, log: c.Log.logger(os.Stderr)}
	// Without ktx: it has the model of all commands and flags, a megabyte that a worker would keep.
	if command, ok := ktx.Selected().Target.Addr().Interface().(interface{ Run(*program) error }); ok {
		return p.exitCode(command.Run(p))
	}
	return p.exitCode(ktx.Run(p)) // it asked for the model
}

func (p *program) exitCode(err error) int {
	var exit *exitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		if exit.err != nil {
			fmt.Fprintf(p.err, "skillsync: %v\n", exit.err)
		}
		return exit.code
	}
	fmt.Fprintf(p.err, "skillsync: %v\n", err)
	if errors.Is(err, queue.ErrNotSetUp) {
		fmt.Fprintln(p.err, "Run \"skillsync setup\" once, with an administrator's credentials.")
	}
	return exitFailed
}

// signals returns a context that ends with the first SIGINT or SIGTERM. The second one ends the
// program on the spot: whoever sends it does not want to wait for held records.
func signals() (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ch := make(chan os.Signal, 2)
	signal.Notify(ch, os.Interrupt, syscall.SIGTERM)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if _, ok := <-ch; !ok {
			return
		}
		cancel()
		if _, ok := <-ch; ok {
			fmt.Fprintln(os.Stderr, "skillsync: second signal: stopped at once; held records are delivered again when their lease lapses")
			os.Exit(130)
		}
	}()
	return ctx, func() { signal.Stop(ch); close(ch); <-done; cancel() }
}

func (f logFlags) logger(w *os.File) zerolog.Logger {
	level, err := zerolog.ParseLevel(f.Level)
	if err != nil {
		level = zerolog.InfoLevel // kong has checked the name
	}
	zerolog.TimeFieldFormat = time.RFC3339Nano
	var out io.Writer = w
	if f.Format == "text" || f.Format == "auto" && isTerminal(w) {
		out = zerolog.ConsoleWriter{Out: w, TimeFormat: time.TimeOnly, NoColor: !isTerminal(w)}
	}
	return zerolog.New(out).Level(level).With().Timestamp().Logger()
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

type versionCmd struct{}

func (versionCmd) Run(p *program) error {
	_, err := fmt.Fprintln(p.out, version())
	return err
}

// stamped is set by release builds (-ldflags "-X main.stamped=v1.2.3").
var stamped string

func version() string {
	if stamped != "" {
		return stamped
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}
