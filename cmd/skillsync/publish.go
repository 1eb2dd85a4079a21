package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"skillsync/cmd/skillsync/desk"
	"skillsync/cmd/skillsync/tracing"
	"skillsync/queue"
	"skillsync/worker/employee"
)

type publishCmd struct {
	brokerFlags

	Files  []string `arg:"" name:"file" help:"CSV or JSON Lines files, also gzipped; - reads standard input."`
	Format string   `default:"auto" enum:"auto,csv,jsonl" help:"What the files hold (${enum}). Default: ${default}, by name or content."`
	Batch  string   `help:"Name of this run. The same rows under the same name are stored once within 24 hours. Default: made from the content."`
	DryRun bool     `env:"-" help:"Check every row, publish nothing."`
	JSON   bool     `name:"json" env:"-" help:"Print the summary as one JSON object."`
}

func (publishCmd) Help() string {
	return `A CSV file needs a header row with an employee_id column; the separator may be a comma, a semicolon or a tab.
Rows that are no records are named with their line and the reason, and the others are published; the exit code is 1 then.
Running it again with the same file stores nothing twice, so after any failure: run it again.
With OTEL_EXPORTER_OTLP_ENDPOINT set, each record begins a trace.`
}

// A rejection is one row that is no record.
type rejection struct {
	File   string `json:"file"`
	Line   int    `json:"line"`
	Reason string `json:"reason"`
}

// A publication is what became of the rows of all files.
type publication struct {
	Rows       int         `json:"rows"`
	Published  int         `json:"published"`  // newly stored
	Duplicates int         `json:"duplicates"` // stored before, by an earlier run
	Rejected   int         `json:"rejected"`
	Rejections []rejection `json:"rejections,omitempty"` // the first maxNamed
	Next       *place      `json:"next,omitempty"`       // the first row not stored, if the run stopped

	sequences map[uint64]bool // of the stored records; kept only for whoever asks (the demo)
}

// A place is one row of one file.
type place struct {
	File string `json:"file"`
	Line int    `json:"line"`
}

// maxNamed bounds the rejections kept for the summary. On the screen every one is named.
const maxNamed = 1000

func (c publishCmd) Run(p *program) error {
	run := publishing{batch: c.Batch, format: employee.Format(c.Format), say: p.err}
	if c.Format == "auto" {
		run.format = employee.Auto
	}
	if !c.DryRun {
		b, err := c.connect(p)
		if err != nil {
			return err
		}
		defer b.Close()
		run.publisher = &queue.Publisher{Broker: b}
		run.traces = tracing.Start(p.ctx, version(), p.log)
		defer run.traces.Stop(p.log)
	}
	err := run.files(p.ctx, c.Files, p.in)
	if c.JSON {
		if err := json.NewEncoder(p.out).Encode(run.publication); err != nil {
			return err
		}
	} else {
		fmt.Fprintln(p.out, run.summary(c.DryRun))
	}
	switch {
	case err != nil:
		return err
	case run.Rejected > 0:
		return &exitError{code: exitFailed}
	}
	return nil
}

func (r *publication) summary(dryRun bool) string {
	if dryRun {
		return fmt.Sprintf("%s: %d would be published, %d rejected", desk.HowMany(r.Rows, "row"), r.Rows-r.Rejected, r.Rejected)
	}
	text := fmt.Sprintf("%s: %d published, %d rejected", desk.HowMany(r.Rows, "row"), r.Published, r.Rejected)
	if r.Duplicates > 0 {
		text += fmt.Sprintf(", %d already published within 24 hours (name another --batch to publish them again)", r.Duplicates)
	}
	return text
}

// A publishing publishes the rows of files, in order. It keeps no more of them than the
// publisher has in flight.
type publishing struct {
	publication
	publisher *queue.Publisher // nil: only check
	traces    *tracing.Traces
	batch     string
	format    employee.Format
	say       io.Writer // rejections and progress
	keep      bool      // remember the sequences of stored records

	meter   *meter
	pending []place // rows sent and not yet acknowledged, oldest first
}

func (r *publishing) files(ctx context.Context, names []string, stdin io.Reader) error {
	r.meter = newMeter(r.say, "publish", "rows", 0)
	defer r.meter.done()
	for _, name := range names {
		if err := r.file(ctx, name, stdin); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return r.flush(ctx)
}

func (r *publishing) flush(ctx context.Context) error {
	if r.publisher == nil {
		return nil
	}
	return r.stopped(r.publisher.Flush(ctx))
}

func (r *publishing) file(ctx context.Context, name string, stdin io.Reader) error {
	if name == "-" {
		return r.rows(ctx, "standard input", r.format, r.batch, stdin)
	}
	f, err := os.Open(name)
	if err != nil {
		return errors.Unwrap(err) // the caller names the file
	}
	defer f.Close()
	batch := r.batch
	if batch == "" {
		if batch, err = digestOf(f); err != nil {
			return err
		}
	}
	format := r.format
	if format == employee.Auto {
		format = employee.FormatOf(name)
	}
	return r.rows(ctx, name, format, batch, f)
}

// digestOf names a file by its content, so that publishing it again is recognised, and an edited
// file is another one.
func digestOf(f io.ReadSeeker) (string, error) {
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return "", fmt.Errorf("%w; pipe it to standard input instead", err)
	}
	return hex.EncodeToString(h.Sum(nil)[:12]), nil
}

// rows publishes what r holds. Each row's message id is chained to those before it: the same
// rows in the same order get the same ids, while a row that comes back later in a file, after
// another one of the same employee, gets a new one.
func (r *publishing) rows(ctx context.Context, name string, format employee.Format, batch string, from io.Reader) error {
	chain := sha256.Sum256([]byte(batch))
	header := map[string][]string{}
	if batch != "" {
		header[queue.HeaderBatch] = []string{batch}
	}
	for row, err := range employee.ReadRows(from, format) {
		if err != nil {
			return errors.Join(err, r.flush(ctx))
		}
		if err := ctx.Err(); err != nil {
			return errors.Join(errors.New("interrupted"), r.flush(context.WithoutCancel(ctx)))
		}
		r.Rows++
		if row.Err != nil {
			r.reject(name, row)
			continue
		}
		chain = sha256.Sum256(append(chain[:], row.Data...))
		m := queue.Message{EmployeeID: row.ID, Data: row.Data, ID: hex.EncodeToString(chain[:16]), Header: header}
		if err := r.send(ctx, m, place{name, row.Line}); err != nil {
			return err
		}
	}
	return nil
}

func (r *publishing) reject(name string, row employee.Row) {
	r.Rejected++
	rejected := rejection{name, row.Line, row.Err.Error()}
	if len(r.Rejections) < maxNamed {
		r.Rejections = append(r.Rejections, rejected)
	}
	r.meter.clear()
	fmt.Fprintf(r.say, "%s:%d: rejected: %s\n", name, row.Line, rejected.Reason)
}

func (r *publishing) send(ctx context.Context, m queue.Message, at place) error {
	if r.publisher == nil {
		return nil
	}
	r.pending = append(r.pending, at)
	traced := r.traces.Publish(ctx, &m)
	return r.stopped(r.publisher.Send(ctx, m, func(ack queue.Ack, err error) {
		traced(ack, err)
		r.acknowledged(ack, err)
	}))
}

func (r *publishing) acknowledged(ack queue.Ack, err error) {
	at := r.pending[0]
	r.pending = r.pending[1:]
	switch {
	case err != nil:
		if r.Next == nil {
			r.Next = &at
		}
		return
	case ack.Duplicate:
		r.Duplicates++
	default:
		r.Published++
	}
	if r.keep {
		if r.sequences == nil {
			r.sequences = map[uint64]bool{}
		}
		r.sequences[ack.Sequence] = true
	}
	r.meter.set(r.Published+r.Duplicates, "")
}

// stopped says where the run came to and how to go on.
func (r *publishing) stopped(err error) error {
	if err == nil {
		return nil
	}
	cause := err
	if unsent := (*queue.UnsentError)(nil); errors.As(err, &unsent) {
		cause = unsent.Err
	}
	if r.Next == nil {
		return cause
	}
	advice := "run the same command again; what is stored already is not stored twice"
	switch {
	case errors.Is(err, queue.ErrFull):
		advice = "when the workers have made room, " + advice
	case errors.Is(err, queue.ErrForbidden):
		advice = "sign in as a user who may publish records (NATS_USER, and NATS_INBOX_PREFIX with it), and " + advice
	}
	return fmt.Errorf("%w\n%d rows are stored; the next one is %s, line %d. To go on: %s",
		cause, r.Published+r.Duplicates, r.Next.File, r.Next.Line, advice)
}
