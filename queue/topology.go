package queue

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Names of what Setup creates.
const (
	Stream        = "EMPLOYEES"
	Consumer      = "workers"
	DeadStream    = "EMPLOYEES_DEAD"
	ResultsStream = "EMPLOYEES_RESULTS"
	AuditStream   = "EMPLOYEES_AUDIT"
	LedgerBucket  = "skillsync_ledger"
	LimitsBucket  = "skillsync_limits"
	DeskBucket    = "skillsync_desk"
)

// Subjects. Records are published to RecordsSubject, or below it with the employee's Key; dead
// letters live at DeadSubject.<reason>.<key>, result events at ResultsSubject.<outcome>.<key>, and
// what operators did at AuditSubject.<action>.<about>.
const (
	RecordsSubject = "employees.records"
	DeadSubject    = "employees.dead"
	ResultsSubject = "employees.results"
	AuditSubject   = "employees.audit"
)

// MaxInFlight is how many records all workers together can hold. Those that wait for their retry
// count too: there is room for many of them beside those being worked on.
const MaxInFlight = 4096

const (
	// window is for how long a repeated Nats-Msg-Id is recognised. A day outlasts every
	// repetition that follows a crash, and a publisher that is run again the same day.
	window = 24 * time.Hour
	// room is what a dead letter may be larger than its record: the headers that say why.
	room = 24 << 10

	defaultAckWait       = 60 * time.Second
	defaultResultsMaxAge = 7 * 24 * time.Hour
)

// Key is the form of an employee id that is legal in subjects and keys of the ledger: the id
// itself if it consists of 1 to 64 letters, digits, "_" and "-", otherwise "=" and base64url.
// Ids that would be too long that way become "==" and their SHA-256. Different ids have different
// keys. Key("") is "=": the key of records whose employee is not known.
func Key(employeeID string) string {
	if plain(employeeID) {
		return employeeID
	}
	if key := "=" + base64.RawURLEncoding.EncodeToString([]byte(employeeID)); len(key) <= 200 {
		return key
	}
	sum := sha256.Sum256([]byte(employeeID))
	return "==" + base64.RawURLEncoding.EncodeToString(sum[:])
}

func plain(s string) bool {
	return 0 < len(s) && len(s) <= 64 && strings.IndexFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_' && r != '-'
	}) < 0
}

// Topology is what an operator may choose about streams, consumer and buckets. Setup brings the
// broker there; Check accepts whatever is there for each field that is zero.
type Topology struct {
	// Replicas of everything: 1 by default, 3 on a cluster that is to survive the loss of a server.
	Replicas int
	// AckWait is how long a worker may be silent about a record before it is delivered again;
	// default 60s. It must outlast an election of the broker (up to 10s) several times.
	AckWait time.Duration
	// MaxBytes bounds the records that wait; at the bound publishers are told ErrFull. Default: no bound.
	MaxBytes int64
	// DeadMaxBytes bounds the dead letters; at the bound nothing more is dead-lettered, and the
	// workers keep the records. Default: no bound.
	DeadMaxBytes int64
	// DeadMaxAge is for how long dead letters are kept. Default: until somebody deals with them.
	DeadMaxAge time.Duration
	// ResultsMaxAge is for how long result events are kept; default 7 days, at least one.
	ResultsMaxAge time.Duration
}

// records is the work queue.
func (t Topology) records(maxPayload int64) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:        Stream,
		Description: "Employee records that wait to be applied",
		Subjects:    []string{RecordsSubject, RecordsSubject + ".*"},
		// A record that is done is gone: what is in the stream is the backlog, and no personal data stays behind.
		Retention: jetstream.WorkQueuePolicy,
		Storage:   jetstream.FileStorage,
		// A full stream refuses new records, loudly, rather than dropping old ones silently.
		Discard:  jetstream.DiscardNew,
		MaxBytes: orNone(t.MaxBytes),
		// Every record that gets in must be able to get out again as a dead letter, with its headers.
		MaxMsgSize:  int32(max(maxPayload-room, 1<<10)),
		AllowDirect: true, // for Newer, which needs no more than that one permission
		Duplicates:  window,
		Replicas:    max(t.Replicas, 1),
		MaxMsgs:     -1, MaxMsgsPerSubject: -1, MaxConsumers: -1,
	}
}

// workers is the one consumer of the work queue, shared by all workers.
func (t Topology) workers() jetstream.ConsumerConfig {
	ackWait := t.AckWait
	if ackWait == 0 {
		ackWait = defaultAckWait
	}
	return jetstream.ConsumerConfig{
		Durable:       Consumer,
		Description:   "All workers of skillsync",
		DeliverPolicy: jetstream.DeliverAllPolicy,
		AckPolicy:     jetstream.AckExplicitPolicy,
		AckWait:       ackWait,
		// Attempts are counted in the ledger. A message that reaches MaxDeliver stays in the stream and no worker gets it again.
		MaxDeliver: -1,
		// No BackOff: it would replace AckWait, and with a delayed Nak it gives wrong delays.
		BackOff:       nil,
		MaxAckPending: MaxInFlight,
	}
}

func (t Topology) dead() jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:        DeadStream,
		Description: "Employee records that could not be applied, and why",
		Subjects:    []string{DeadSubject + ".*.*"},
		Retention:   jetstream.LimitsPolicy,
		Storage:     jetstream.FileStorage,
		// Evidence is never dropped to make room: a full stream refuses, and the worker keeps the record.
		Discard:     jetstream.DiscardNew,
		MaxBytes:    orNone(t.DeadMaxBytes),
		MaxAge:      t.DeadMaxAge,
		AllowDirect: true,
		Duplicates:  window, // a copy repeated after a crash is one dead letter
		Replicas:    max(t.Replicas, 1),
		MaxMsgs:     -1, MaxMsgsPerSubject: -1, MaxMsgSize: -1, MaxConsumers: -1,
	}
}

func (t Topology) results() jetstream.StreamConfig {
	age := t.ResultsMaxAge
	if age == 0 {
		age = defaultResultsMaxAge
	}
	return jetstream.StreamConfig{
		Name:        ResultsStream,
		Description: "How each employee record ended",
		Subjects:    []string{ResultsSubject + ".*.*"},
		Retention:   jetstream.LimitsPolicy,
		Storage:     jetstream.FileStorage,
		Discard:     jetstream.DiscardOld, // a report about the past must not stop the work
		MaxBytes:    -1,
		MaxAge:      age,
		AllowDirect: true,
		Duplicates:  window, // an event repeated after a crash is one event; the broker wants it <= MaxAge
		Replicas:    max(t.Replicas, 1),
		MaxMsgs:     -1, MaxMsgsPerSubject: -1, MaxMsgSize: -1, MaxConsumers: -1,
	}
}

func (t Topology) audit() jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:        AuditStream,
		Description: "What operators did to dead letters and limits",
		Subjects:    []string{AuditSubject + ".*.*"},
		Retention:   jetstream.LimitsPolicy,
		Storage:     jetstream.FileStorage,
		// What was done once stays written: nobody can delete or purge entries, an administrator
		// included, short of removing the stream.
		DenyDelete:  true,
		DenyPurge:   true,
		Discard:     jetstream.DiscardNew,
		MaxBytes:    -1,
		AllowDirect: true,
		Duplicates:  window, // an entry repeated after an outage is one entry
		Replicas:    max(t.Replicas, 1),
		MaxMsgs:     -1, MaxMsgsPerSubject: -1, MaxMsgSize: -1, MaxConsumers: -1,
	}
}

func (t Topology) bucket(name, description string) jetstream.KeyValueConfig {
	return jetstream.KeyValueConfig{
		Bucket: name, Description: description, Replicas: max(t.Replicas, 1), Storage: jetstream.FileStorage,
		History: 1, // compare-and-swap needs the newest revision only
	}
}

func orNone(limit int64) int64 {
	if limit == 0 {
		return -1
	}
	return limit
}

// A Difference is one setting of the broker that is not what it should be.
type Difference struct {
	Of      string // "stream EMPLOYEES"
	Setting string // "" if the whole thing is missing
	Is      string
	Want    string
}

func (d Difference) String() string {
	if d.Setting == "" {
		return d.Of + " does not exist"
	}
	return fmt.Sprintf("%s: %s is %s, should be %s", d.Of, d.Setting, d.Is, d.Want)
}

// Fixed says that the broker refuses to change this setting on what exists: only to delete it and
// to run Setup again helps.
func (d Difference) Fixed() bool {
	switch d.Setting {
	case "storage", "deliver policy", "acknowledgement policy":
		return true
	case "retention":
		return d.Is == "workqueue" || d.Want == "workqueue"
	case "deletion", "purging": // once denied, denied for good
		return d.Want == "on"
	}
	return false
}

// A Change is one thing that Setup did.
type Change struct {
	Of      string
	Setting string // "" if the whole thing was created
	From    string
	To      string
}

func (c Change) String() string {
	if c.Setting == "" {
		return c.Of + " created"
	}
	return fmt.Sprintf("%s: %s changed from %s to %s", c.Of, c.Setting, c.From, c.To)
}

// Setup creates what is missing and changes what differs, as far as the broker allows; it may be
// run again at any time. Some settings cannot be changed on a stream that exists (retention,
// storage): then the error names them, and what was changed before is returned with it.
func (b *Broker) Setup(ctx context.Context, t Topology) ([]Change, error) {
	ctx, done, err := b.startup(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	var changes []Change
	for _, p := range append(b.parts(t), b.deskParts(t)...) {
		differences, err := p.compare(ctx)
		if err == nil && len(differences) > 0 {
			err = p.apply(ctx, missing(differences))
		}
		if err != nil {
			return changes, b.failed(ctx, p.of, withDifferences(err, differences))
		}
		for _, d := range differences {
			changes = append(changes, Change{Of: d.Of, Setting: d.Setting, From: d.Is, To: d.Want})
		}
	}
	return changes, nil
}

// Check compares what workers need with what is there. They refuse to start on any difference.
func (b *Broker) Check(ctx context.Context, t Topology) ([]Difference, error) {
	return b.compare(ctx, b.parts(t))
}

// Differences is what Setup would change: Check, and the same for what only operators need. It
// takes an administrator's or an operator's permissions; a worker's do not do.
func (b *Broker) Differences(ctx context.Context, t Topology) ([]Difference, error) {
	return b.compare(ctx, append(b.parts(t), b.deskParts(t)...))
}

func (b *Broker) compare(ctx context.Context, parts []part) ([]Difference, error) {
	ctx, done, err := b.startup(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	var all []Difference
	for _, p := range parts {
		differences, err := p.compare(ctx)
		if err != nil {
			return nil, b.failed(ctx, p.of, err)
		}
		all = append(all, differences...)
	}
	return all, nil
}

func missing(d []Difference) bool { return len(d) == 1 && d[0].Setting == "" }

func withDifferences(err error, differences []Difference) error {
	if len(differences) == 0 {
		return err
	}
	texts := make([]string, len(differences))
	for i, d := range differences {
		texts[i] = d.String()
	}
	return fmt.Errorf("%s: %w", strings.Join(texts, "; "), err)
}

// A part is one stream, consumer or bucket: how to compare it, and how to make it so.
type part struct {
	of      string
	compare func(context.Context) ([]Difference, error)
	apply   func(ctx context.Context, create bool) error
}

// chosen says which of the settings that are left to the operator were made explicitly: the
// others are accepted as they are.
type chosen struct{ replicas, maxBytes, maxAge bool }

func (b *Broker) parts(t Topology) []part {
	replicas := t.Replicas != 0
	parts := []part{
		b.streamPart(t.records(b.nc.MaxPayload()), chosen{replicas: replicas, maxBytes: t.MaxBytes != 0, maxAge: true}), // none: a record that ages away is lost
		b.consumerPart(t.workers(), t.AckWait != 0),
		b.streamPart(t.dead(), chosen{replicas: replicas, maxBytes: t.DeadMaxBytes != 0, maxAge: t.DeadMaxAge != 0}),
		b.streamPart(t.results(), chosen{replicas: replicas, maxAge: t.ResultsMaxAge != 0}),
	}
	return append(
		parts,
		b.bucketPart(t.bucket(LedgerBucket, "What was applied last to each employee, and who is working on it"), replicas),
		b.bucketPart(t.bucket(LimitsBucket, "The token bucket of each OAuth client"), replicas),
	)
}

// deskParts are what only operators need.
func (b *Broker) deskParts(t Topology) []part {
	replicas := t.Replicas != 0
	return []part{
		b.streamPart(t.audit(), chosen{replicas: replicas, maxAge: true}),
		b.bucketPart(t.bucket(DeskBucket, "Replays of dead letters, and what was said about dead letters by webhook"), replicas),
	}
}

func (b *Broker) streamPart(want jetstream.StreamConfig, chosen chosen) part {
	var is jetstream.StreamConfig // as compare found it
	of := "stream " + want.Name
	return part{
		of: of,
		compare: func(ctx context.Context) ([]Difference, error) {
			s, err := b.js.Stream(ctx, want.Name)
			if errors.Is(err, jetstream.ErrStreamNotFound) {
				return []Difference{{Of: of}}, nil
			}
			if err != nil {
				return nil, err
			}
			is = s.CachedInfo().Config
			accept(is, &want, chosen)
			return differences(of, streamSettings, &is, &want), nil
		},
		apply: func(ctx context.Context, create bool) error {
			if create {
				_, err := b.js.CreateStream(ctx, want)
				return err
			}
			_, err := b.js.UpdateStream(ctx, *mend(streamSettings, &is, &want))
			return err
		},
	}
}

// accept takes over what is there where nobody chose otherwise.
func accept(is jetstream.StreamConfig, want *jetstream.StreamConfig, chosen chosen) {
	if !chosen.replicas {
		want.Replicas = is.Replicas
	}
	if !chosen.maxBytes {
		want.MaxBytes = is.MaxBytes
	}
	if !chosen.maxAge {
		want.MaxAge = is.MaxAge
	}
	if is.MaxMsgSize > 0 && (want.MaxMsgSize < 0 || is.MaxMsgSize < want.MaxMsgSize) {
		want.MaxMsgSize = is.MaxMsgSize // smaller is safe
	}
}

func (b *Broker) consumerPart(want jetstream.ConsumerConfig, ackWaitChosen bool) part {
	var is jetstream.ConsumerConfig
	of := "consumer " + Consumer + " of " + Stream
	return part{
		of: of,
		compare: func(ctx context.Context) ([]Difference, error) {
			c, err := b.js.Consumer(ctx, Stream, Consumer)
			if errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrStreamNotFound) {
				return []Difference{{Of: of}}, nil
			}
			if err != nil {
				return nil, err
			}
			if is = c.CachedInfo().Config; !ackWaitChosen {
				want.AckWait = is.AckWait
			}
			return differences(of, consumerSettings, &is, &want), nil
		},
		apply: func(ctx context.Context, create bool) error {
			to := &want
			if !create {
				to = mend(consumerSettings, &is, &want)
			}
			_, err := b.js.CreateOrUpdateConsumer(ctx, Stream, *to)
			return err
		},
	}
}

func (b *Broker) bucketPart(want jetstream.KeyValueConfig, replicasChosen bool) part {
	var is jetstream.StreamConfig
	of := "bucket " + want.Bucket
	stream := jetstream.StreamConfig{
		MaxMsgsPerSubject: int64(want.History), Storage: want.Storage, MaxBytes: -1, AllowDirect: true, Replicas: want.Replicas,
	}
	return part{
		of: of,
		compare: func(ctx context.Context) ([]Difference, error) {
			s, err := b.js.Stream(ctx, "KV_"+want.Bucket)
			if errors.Is(err, jetstream.ErrStreamNotFound) {
				return []Difference{{Of: of}}, nil
			}
			if err != nil {
				return nil, err
			}
			if is = s.CachedInfo().Config; !replicasChosen {
				stream.Replicas = is.Replicas
			}
			return differences(of, bucketSettings, &is, &stream), nil
		},
		apply: func(ctx context.Context, create bool) error {
			if create {
				_, err := b.js.CreateKeyValue(ctx, want)
				return err
			}
			_, err := b.js.UpdateStream(ctx, *mend(bucketSettings, &is, &stream))
			return err
		},
	}
}
