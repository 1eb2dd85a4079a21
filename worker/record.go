package worker

import (
	"context"
	"errors"
	"sync"
	"time"

	"skillsync/genesys"
	"skillsync/queue"
	"skillsync/queue/ledger"
	"skillsync/worker/employee"
	"skillsync/worker/mapping"
)

// A job is one delivery while it is worked on, and what has been found out about it.
type job struct {
	delivery *queue.Delivery
	started  time.Time
	span     Span // nil: none

	rec     employee.Record
	version ledger.Version
	want    mapping.Desired
	digest  string
	settle  time.Duration // to wait before the first look
	key     string        // the employee's, empty until the record is decoded

	lose   context.CancelCauseFunc // ends the context that the record is held under
	stop   context.CancelCauseFunc // ends its way to the patch, if it is on it
	passed chan struct{}           // closed when it is not any more

	mu          sync.Mutex // guards claim against the extender
	claim       *ledger.Claim
	correlation string // of the last exchange that decided something
	patching    bool   // a patch may have gone out
	asked       bool   // Genesys Cloud was asked something
}

func (j *job) claimed() *ledger.Claim {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.claim
}

// attempt is the number of this try, from 1, or 0 if the record was never claimed.
func (j *job) attempt() int {
	if c := j.claimed(); c != nil {
		return c.Attempt
	}
	return 0
}

func (j *job) traceID() string {
	if j.span == nil {
		return ""
	}
	return j.span.TraceID()
}

// extend renews the claim first: a lease without a claim would keep the record from others and
// protect nobody.
func (j *job) extend(ctx context.Context, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within/4)
	defer cancel()
	if c := j.claimed(); c != nil {
		if err := c.Extend(ctx); err != nil {
			return err
		}
	}
	return j.delivery.Extend(ctx)
}

// apply is the way of one record (design section 3) up to and including the closing of its ledger
// entry. held ends when the record must be let go. From a shutdown on nothing new is patched.
func (w *Worker) apply(held context.Context, j *job) (Outcome, error) {
	done, err := w.untilPatched(held, j)
	if err != nil || done != "" {
		return done, err
	}
	return w.verify(held, j)
}

// untilPatched takes a record as far as its patch, or to an outcome that needs none.
func (w *Worker) untilPatched(ctx context.Context, j *job) (done Outcome, err error) {
	ctx, j.stop = context.WithCancelCause(ctx)
	j.passed = make(chan struct{})
	w.starters.add(j)
	defer func() {
		err = cause(ctx, err)
		if errors.Is(err, ledger.ErrSuperseded) && w.release(context.WithoutCancel(ctx), j, true) {
			err = ledger.ErrLost
		}
		w.starters.remove(j) // after the release: who waits for it claims next
		j.stop(nil)
		w.slots.passed()
	}()
	if j.delivery.Delivered > maxDelivered {
		return "", errDeliveryCap
	}
	if err := j.decode(); err != nil {
		return "", err
	}
	if err := w.starters.lead(ctx, j, w.supersedes); err != nil {
		return "", err
	}
	if newer, err := newerWaits(ctx, w.Queue.Newer, w.Provisioner.Mapping, j); err != nil {
		return "", err
	} else if newer {
		return Superseded, nil
	}
	if err := w.take(ctx, j); err != nil {
		return "", err
	}
	if err := j.desire(w.Provisioner); err != nil {
		return "", err
	}
	if j.claim.PatchedDigest == j.digest {
		return "", nil // by an earlier delivery, which also waited for it to settle, or began to
	}
	if stands(j.claim.State, j.digest, w.Fresh) {
		return Unchanged, w.close(ctx, j, Unchanged, j.claim.VerifiedAt)
	}
	patched, err := w.patch(ctx, j)
	if err != nil {
		return "", err
	}
	if !patched { // a read has just shown that everything is as it should be
		return Unchanged, w.close(ctx, j, Unchanged, time.Now())
	}
	j.settle = w.Provisioner.Settle
	return "", nil
}

// cause tells why ctx ended, if it has, in place of err: what a step met while being stopped says
// nothing about the record.
func cause(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

func (j *job) decode() (err error) {
	if j.rec, err = employee.Decode(j.delivery.Data); err != nil {
		return err
	}
	j.key = queue.Key(j.rec.ID)
	j.version = versionOf(j.rec, j.delivery.Order)
	return nil
}

// desire maps the record to what its user should have. It comes after the claim, so that a
// record which cannot be mapped leaves its mark in the ledger like every other dead letter.
func (j *job) desire(p *Provisioner) (err error) {
	if j.want, err = p.Mapping.Desired(j.rec); err != nil {
		return err
	}
	j.digest = j.want.Digest(p.Mapping.Version(), string(p.Profile))
	return nil
}

// versionOf is the record's own version or time stamp, else its place in the stream.
func versionOf(rec employee.Record, order queue.Order) ledger.Version {
	switch {
	case rec.HasVersion:
		return ledger.Version{Kind: ledger.ByVersion, N: rec.Version, Order: order}
	case !rec.UpdatedAt.IsZero():
		return ledger.Version{Kind: ledger.ByUpdatedAt, N: rec.UpdatedAt.UnixMicro(), Order: order}
	}
	return ledger.Version{Order: order}
}

// supersedes tells whether one record is newer than another one of the same employee, so that the
// other need not cost a request. One that would not get as far as a patch does not count: then
// the other one is the best there is.
func (w *Worker) supersedes(one, other *job) bool {
	return supersedes(w.Provisioner.Mapping, one, other)
}

func supersedes(m *mapping.Mapping, one, other *job) bool {
	if one.version.Compare(other.version) <= 0 || one.rec.ID != other.rec.ID {
		return false
	}
	_, err := m.Desired(one.rec)
	return err == nil
}

// newer is Queue.Newer.
type newer func(ctx context.Context, d *queue.Delivery, key string) (data []byte, order queue.Order, ok bool, err error)

// newerWaits tells whether a record that supersedes this one is in the stream.
func newerWaits(ctx context.Context, look newer, m *mapping.Mapping, j *job) (bool, error) {
	data, order, ok, err := look(ctx, j.delivery, j.key)
	if err != nil || !ok {
		return false, asBroker(err)
	}
	rec, err := employee.Decode(data)
	if err != nil {
		return false, nil
	}
	return supersedes(m, &job{rec: rec, version: versionOf(rec, order)}, j), nil
}

// take claims the employee for this record, and counts the attempt.
func (w *Worker) take(ctx context.Context, j *job) error {
	c, err := w.Ledger.Claim(ctx, ledger.Request{
		Key: j.key, Version: j.version, Replays: j.delivery.Replays, Delivered: j.delivery.Delivered,
		OnLost: func() {
			w.Metrics.claimsLost.Inc()
			j.lose(ledger.ErrLost)
		},
	})
	if err != nil {
		return asBroker(err)
	}
	j.mu.Lock()
	j.claim = c
	j.mu.Unlock()
	if c.Attempt > w.Attempts {
		return errAttemptsSpent
	}
	return nil
}

// stands tells whether the ledger knows the state of digest as verified not long ago.
func stands(s ledger.State, digest string, fresh time.Duration) bool {
	return fresh > 0 && s.Digest == digest && time.Since(s.VerifiedAt) < fresh
}

// patch finds the user and writes what is missing. It tells whether anything was written. A user
// id from the ledger that turns out to be gone is looked up once more.
func (w *Worker) patch(ctx context.Context, j *job) (bool, error) {
	remembered := j.claim.UserID
	done, err := w.patchUser(ctx, j, remembered)
	if j.gone(remembered, err) {
		return w.patchUser(ctx, j, "")
	}
	return done, err
}

// gone tells whether the user who was remembered is not there any more.
func (j *job) gone(remembered string, err error) bool {
	return remembered != "" && j.rec.UserID == "" && errors.Is(err, genesys.ErrUserNotFound)
}

func (w *Worker) patchUser(ctx context.Context, j *job, remembered string) (bool, error) {
	p := w.Provisioner
	j.asked = true
	userID, err := p.Find(ctx, j.rec, remembered)
	if err != nil {
		return false, err
	}
	j.claim.SetUser(userID)
	plan, correlation, err := p.Patch(ctx, userID, j.want, known(j.claim.State, j.digest))
	j.correlation = correlation
	j.patching = plan != nil
	if err != nil || plan == nil {
		return false, err
	}
	// The patch is out: whatever stops this delivery now, the next one must know.
	return true, asBroker(j.claim.Patched(context.WithoutCancel(ctx), j.digest))
}

// known is what the ledger knows of a user who is to get the state of digest.
func known(s ledger.State, digest string) Known {
	switch {
	case s.Doubtful:
		return Doubtful
	case s.Digest == digest:
		return Applied
	}
	return Nothing
}

// verify reads until the user is as wanted, and closes the ledger entry.
func (w *Worker) verify(ctx context.Context, j *job) (Outcome, error) {
	j.asked = true
	_, lag, err := w.Provisioner.Verify(ctx, j.claim.UserID, j.want, j.settle)
	if err != nil {
		return "", err
	}
	w.Metrics.VerifyLag.Observe(lag.Seconds())
	return Verified, w.close(ctx, j, Verified, time.Now())
}

// close writes the ledger entry; only the acknowledgement is left after it.
func (w *Worker) close(ctx context.Context, j *job, outcome Outcome, verifiedAt time.Time) error {
	return asBroker(j.claim.Close(context.WithoutCancel(ctx), string(outcome), j.digest, verifiedAt))
}

// asBroker marks an error of the ledger or the stream, but for those that are answers.
func asBroker(err error) error {
	var (
		settled *ledger.SettledError
		dead    *ledger.DeadError
		busy    *ledger.BusyError
	)
	switch {
	case err == nil,
		errors.Is(err, ledger.ErrSuperseded), errors.Is(err, ledger.ErrLost),
		errors.As(err, &settled), errors.As(err, &dead), errors.As(err, &busy):
		return err
	}
	return &brokerError{err}
}
