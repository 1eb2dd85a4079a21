package queue

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// DeadLetters is what could not be applied and waits for a person.
type DeadLetters struct{ b *Broker }

// DeadLetters opens the dead letters.
func (b *Broker) DeadLetters() *DeadLetters { return &DeadLetters{b} }

// A Group is all dead letters of one reason.
type Group struct {
	Reason string    `json:"reason"`
	Count  uint64    `json:"count"`
	Oldest time.Time `json:"oldest"`
	Newest time.Time `json:"newest"`
	First  uint64    `json:"first"` // sequence of the oldest
	Last   uint64    `json:"last"`  // and of the newest
	// Statuses counts the HTTP statuses of the oldest Looked letters, which are all unless there
	// are many: the broker counts by reason, and to know more the letters have to be read.
	Statuses []StatusCount `json:"statuses"`
	Looked   int           `json:"looked"`
	Sample   DeadLetter    `json:"sample"` // the newest, without its record
}

// A StatusCount is how many letters have one HTTP status; 0 is no answer at all.
type StatusCount struct {
	Status int `json:"status"`
	Count  int `json:"count"`
}

// lookedAt is how many letters of a group are read for their statuses.
const lookedAt = 100

// Groups tells what there is by reason, most frequent first. It takes the same time for a million
// letters as for the broker to walk its index once.
func (l *DeadLetters) Groups(ctx context.Context) ([]Group, error) {
	ctx, cancel := l.b.within(ctx)
	defer cancel()
	groups := []Group{}
	err := l.b.eachReason(ctx, func(reason string) (uint64, error) {
		g, err := l.group(ctx, reason)
		if g.Count > 0 {
			groups = append(groups, g)
		}
		return g.Count, err
	})
	if err != nil {
		return nil, fmt.Errorf("group dead letters: %w", err)
	}
	slices.SortFunc(groups, func(x, y Group) int {
		return cmp.Or(cmp.Compare(y.Count, x.Count), cmp.Compare(x.Reason, y.Reason))
	})
	return groups, nil
}

func (l *DeadLetters) group(ctx context.Context, reason string) (Group, error) {
	g := Group{Reason: reason}
	subject := DeadSubject + "." + reason + ".*"
	found, rest, err := l.b.scan(ctx, DeadStream, subject, 1, lookedAt)
	if err != nil || len(found) == 0 {
		return g, err
	}
	g.Count, g.Looked = rest+uint64(len(found)), len(found)
	g.Oldest, g.First = found[0].at, found[0].sequence
	statuses := map[int]int{}
	for _, m := range found {
		statuses[readFailure(m.header).Status]++
	}
	for status, n := range statuses {
		g.Statuses = append(g.Statuses, StatusCount{status, n})
	}
	slices.SortFunc(g.Statuses, func(x, y StatusCount) int {
		return cmp.Or(cmp.Compare(y.Count, x.Count), cmp.Compare(x.Status, y.Status))
	})
	newest := found[len(found)-1]
	if rest > 0 {
		if newest, err = l.b.last(ctx, DeadStream, subject); errors.Is(err, ErrNotFound) {
			return g, nil // all of them were removed just now
		} else if err != nil {
			return g, err
		}
	}
	g.Newest, g.Last = newest.at, newest.sequence
	g.Sample = readDeadLetter(newest)
	g.Sample.Data, g.Sample.Header = nil, nil
	return g, nil
}

// deadReasons counts dead letters by reason, in the form it has in subjects.
func (b *Broker) deadReasons(ctx context.Context) (map[string]uint64, error) {
	counts := map[string]uint64{}
	err := b.eachReason(ctx, func(reason string) (uint64, error) {
		found, rest, err := b.scan(ctx, DeadStream, DeadSubject+"."+reason+".*", 1, 1)
		n := rest + uint64(len(found))
		if n > 0 {
			counts[reason] = n
		}
		return n, err
	})
	if err != nil {
		return nil, fmt.Errorf("count dead letters: %w", err)
	}
	return counts, nil
}

// eachReason calls look, which tells how many letters it has found, for every reason that dead
// letters may have. Only if there are more letters than were found for the reasons it knows does it
// look for others among the subjects, of which the broker must gather all.
func (b *Broker) eachReason(ctx context.Context, look func(reason string) (uint64, error)) error {
	known, found := b.reasons(), uint64(0)
	for _, reason := range known {
		n, err := look(reason)
		if err != nil {
			return err
		}
		found += n
	}
	state, err := b.state(ctx, DeadStream)
	if err != nil || found >= state.Msgs {
		return err
	}
	var tokens map[string]bool
	err = b.again(ctx, "list the subjects of "+DeadStream, func(ctx context.Context, _ *connection) (err error) {
		tokens, err = b.tokens(ctx, DeadStream, DeadSubject)
		return err
	})
	if err != nil {
		return err
	}
	for reason := range tokens {
		if slices.Contains(known, reason) {
			continue
		}
		b.learn(reason)
		if _, err := look(reason); err != nil {
			return err
		}
	}
	return nil
}

// reasons are those that dead letters are known to have.
func (b *Broker) reasons() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.knownReasons)
}

func (b *Broker) learn(reason string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !slices.Contains(b.knownReasons, reason) {
		b.knownReasons = append(b.knownReasons, reason)
	}
}

// state is the broker's account of a stream.
func (b *Broker) state(ctx context.Context, stream string) (state jetstream.StreamState, err error) {
	err = b.again(ctx, "look at "+stream, func(ctx context.Context, _ *connection) error {
		s, err := b.js.Stream(ctx, stream)
		if err == nil {
			state = s.CachedInfo().State
		}
		return err
	})
	return state, err
}

// stretch is how many letters one List reads at most where it has to read them to select. It
// takes well under a second.
const stretch = 50_000

// List returns up to limit dead letters, oldest first, from the given sequence on (0 = the
// first), and the sequence to go on from, 0 after the last. What comes or goes meanwhile does
// not disturb the paging. A filter that letters have to be read for may end a page early, even
// empty: go on from next. A filter by time begins and ends with the first letters from then, within
// a minute: that is how far the broker's clock may have jumped back.
func (l *DeadLetters) List(ctx context.Context, f Filter, from uint64, limit int) (page []DeadLetter, next uint64, err error) {
	if err := f.Check(); err != nil {
		return nil, 0, err
	}
	ctx, cancel := l.b.within(ctx)
	defer cancel()
	if f.indexed() {
		return l.page(ctx, f, from, limit)
	}
	enough, read := errors.New("enough"), 0
	err = l.read(ctx, f, from, 0, func(d DeadLetter) error {
		next = d.Sequence
		if len(page) == limit || read == stretch {
			return enough
		}
		read++
		if f.Match(&d) {
			page = append(page, d)
		}
		return nil
	})
	switch {
	case err == nil:
		next = 0
	case !errors.Is(err, enough):
		return nil, 0, fmt.Errorf("list dead letters: %w", err)
	}
	return page, next, nil
}

// page is List by the broker's index.
func (l *DeadLetters) page(ctx context.Context, f Filter, from uint64, limit int) (page []DeadLetter, next uint64, err error) {
	for next = max(from, 1); next != 0 && len(page) < limit; {
		messages, rest, err := l.b.scan(ctx, DeadStream, f.subject(), next, min(limit-len(page), 256))
		if err != nil {
			return nil, 0, fmt.Errorf("list dead letters: %w", err)
		}
		for _, m := range messages {
			page = append(page, readDeadLetter(m))
			next = m.sequence + 1
		}
		if rest == 0 {
			next = 0
		}
	}
	return page, next, nil
}

// backAtOnce is how many letters ListBack reads at most to find the last of them.
const backAtOnce = 2048

// ListBack is List from the newest on: newest first, from the given sequence back (0 = the newest),
// and the sequence to go on from, 0 after the first letter.
func (l *DeadLetters) ListBack(ctx context.Context, f Filter, from uint64, limit int) (page []DeadLetter, next uint64, err error) {
	if err := f.Check(); err != nil {
		return nil, 0, err
	}
	ctx, cancel := l.b.within(ctx)
	defer cancel()
	state, err := l.b.state(ctx, DeadStream)
	if err != nil {
		return nil, 0, fmt.Errorf("list dead letters: %w", err)
	}
	oldest, err := l.since(ctx, f, max(state.FirstSeq, 1))
	if err != nil || oldest == 0 {
		return nil, 0, err
	}
	if next = state.LastSeq; from != 0 {
		next = min(next, from)
	}
	tooMany := errors.New("too many")
	// The broker reads forwards only. So it gets a span of sequences that grows while little is found in it.
	span := uint64(2 * limit)
	for read := 0; next >= oldest && len(page) <= limit && read < stretch; {
		first := max(oldest, next-min(next, span)+1)
		var found []DeadLetter
		n := 0
		err := l.read(ctx, f, first, next, func(d DeadLetter) error {
			if n++; n > backAtOnce {
				return tooMany
			}
			if !f.Match(&d) {
				return nil
			}
			if found = append(found, d); len(page)+len(found) > limit+1 {
				found = found[1:]
			}
			return nil
		})
		switch {
		case errors.Is(err, tooMany):
			span /= 2
			continue
		case err != nil:
			return nil, 0, fmt.Errorf("list dead letters: %w", err)
		case n < backAtOnce/2:
			span *= 2
		}
		slices.Reverse(found)
		page, next, read = append(page, found...), first-1, read+n
	}
	switch {
	case len(page) > limit:
		return page[:limit], page[limit].Sequence, nil
	case next < oldest:
		next = 0
	}
	return page, next, nil
}

// Count tells how many letters a filter selects, of those up to a sequence (0 = all there are).
// Unless the index has the answer, it reads them all.
func (l *DeadLetters) Count(ctx context.Context, f Filter, until uint64) (n uint64, err error) {
	if err := f.Check(); err != nil {
		return 0, err
	}
	if f.indexed() && until == 0 {
		found, rest, err := l.b.scan(ctx, DeadStream, f.subject(), 1, 1)
		return rest + uint64(len(found)), err
	}
	err = l.Each(ctx, f, 0, until, func(DeadLetter) error { n++; return nil })
	return n, err
}

// Last is the sequence of the newest dead letter there ever was, 0 if there was none.
func (l *DeadLetters) Last(ctx context.Context) (uint64, error) {
	state, err := l.b.state(ctx, DeadStream)
	return state.LastSeq, err
}

// Each calls do with every letter that the filter selects, oldest first, from one sequence to
// another (0: from the first, to the one that is the last when Each begins). It takes as long as it
// takes, ends with the first error of do, and bridges outages of the broker. Unlike List it reads
// them all for a filter by time, too: what is done to letters must not depend on the broker's clock
// never having jumped back.
func (l *DeadLetters) Each(ctx context.Context, f Filter, from, until uint64, do func(DeadLetter) error) error {
	if err := f.Check(); err != nil {
		return err
	}
	if until == 0 {
		last, err := l.Last(ctx)
		if err != nil || last == 0 {
			return err
		}
		until = last
	}
	whenever := f
	whenever.After, whenever.Before = time.Time{}, time.Time{}
	return l.read(ctx, whenever, from, until, func(d DeadLetter) error {
		if !f.Match(&d) {
			return nil
		}
		return do(d)
	})
}

// readAtOnce is how many letters one request asks for: each can be as large as a message.
const readAtOnce = 256

// read calls do with every letter on the filter's subject, by way of a consumer of its own: to page
// with direct gets, the broker would search its index once for each page.
func (l *DeadLetters) read(ctx context.Context, f Filter, from, until uint64, do func(DeadLetter) error) error {
	next := max(from, 1)
	for {
		end, failed, err := l.readOn(ctx, f, &next, until, do)
		if end || failed != nil {
			return failed
		}
		if !errors.Is(err, ErrUnreachable) || ctx.Err() != nil {
			return err
		}
		if err := pause(ctx); err != nil {
			return err
		}
	}
}

// clockSlack is how far the clocks of brokers may be apart: when another one comes to lead the
// stream, the times of its messages can jump back.
const clockSlack = time.Minute

// since is the first sequence from one on that the filter can select by its time, 0 if there is none.
func (l *DeadLetters) since(ctx context.Context, f Filter, from uint64) (uint64, error) {
	if f.After.Before(time.Unix(0, 0)) { // whose nanoseconds the broker need not be able to count
		return from, nil
	}
	start := fmt.Sprintf(`"start_time":%q`, f.After.Add(-clockSlack).UTC().Format(time.RFC3339Nano))
	found, _, err := l.b.scanFrom(ctx, DeadStream, f.subject(), start, 1)
	if err != nil || len(found) == 0 {
		return 0, err
	}
	return max(from, found[0].sequence), nil
}

// readOn reads until the end, an error of do, or trouble with the broker.
func (l *DeadLetters) readOn(ctx context.Context, f Filter, next *uint64, until uint64, do func(DeadLetter) error) (end bool, failed, err error) {
	first, err := l.since(ctx, f, *next)
	if err != nil || first == 0 {
		return err == nil, nil, err
	}
	*next = first
	config := jetstream.ConsumerConfig{
		AckPolicy: jetstream.AckNonePolicy, DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: *next,
		MemoryStorage: true, Replicas: 1, InactiveThreshold: 30 * time.Second, MaxDeliver: 1,
	}
	if subject := f.subject(); subject != ">" {
		config.FilterSubject = subject
	}
	var consumer jetstream.Consumer
	err = l.b.once(ctx, "read dead letters", func(ctx context.Context, _ *connection) (err error) {
		consumer, err = l.b.js.CreateConsumer(ctx, DeadStream, config)
		return err
	})
	if err != nil {
		return false, nil, err
	}
	defer func() { // if this fails, the broker removes it half a minute later
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), replyWait)
		defer cancel()
		_ = l.b.js.DeleteConsumer(ctx, DeadStream, consumer.CachedInfo().Name)
	}()
	for seen := uint64(0); ; {
		batch, err := consumer.FetchNoWait(readAtOnce) // one after the other: of two the broker would fill both by turns
		if err != nil {
			return false, nil, l.b.failed(ctx, "read dead letters", err)
		}
		before, lost := seen, false
		for msg := range batch.Messages() {
			if end || lost || failed != nil {
				continue // what was asked for has to be taken
			}
			d, place, err := deadLetterOf(msg)
			switch seen++; {
			case err != nil:
				failed = err
			case place != seen: // one was sent, and did not arrive
				lost = true
			case until != 0 && d.Sequence > until, !f.Before.IsZero() && d.At.After(f.Before.Add(clockSlack)):
				end = true
			default:
				*next = d.Sequence + 1
				failed = do(d)
			}
		}
		if failed == nil {
			failed = context.Cause(ctx)
		}
		if end || failed != nil {
			return true, failed, nil
		}
		if err := batch.Error(); err != nil || lost {
			return false, nil, fmt.Errorf("read dead letters: %w: %w", ErrUnreachable, cmp.Or(err, errLost))
		}
		if seen == before { // the end, or an answer that was lost
			left, _, err := l.b.scan(ctx, DeadStream, f.subject(), *next, 1)
			if err != nil || len(left) == 0 {
				return err == nil, nil, err
			}
			return false, nil, fmt.Errorf("read dead letters: %w", ErrUnreachable)
		}
	}
}

// deadLetterOf also tells the letter's place among those that the consumer has sent, from 1.
func deadLetterOf(msg jetstream.Msg) (d DeadLetter, place uint64, err error) {
	meta, err := msg.Metadata()
	if err != nil {
		return d, 0, err
	}
	return readDeadLetter(stored{msg.Subject(), meta.Sequence.Stream, meta.Timestamp, msg.Headers(), msg.Data()}), meta.Sequence.Consumer, nil
}

// Get returns one dead letter, or ErrNotFound.
func (l *DeadLetters) Get(ctx context.Context, seq uint64) (DeadLetter, error) {
	m, err := l.b.at(ctx, DeadStream, seq)
	if err != nil {
		return DeadLetter{}, fmt.Errorf("read dead letter %d: %w", seq, err)
	}
	return readDeadLetter(m), nil
}

// at reads one message of a stream, or returns ErrNotFound.
func (b *Broker) at(ctx context.Context, stream string, seq uint64) (stored, error) {
	ctx, cancel := b.within(ctx)
	defer cancel()
	request := &nats.Msg{Subject: "$JS.API.DIRECT.GET." + stream, Data: fmt.Appendf(nil, `{"seq":%d}`, max(seq, 1))}
	reply, err := b.askAgain(ctx, "read", stream, request)
	if err != nil {
		return stored{}, err
	}
	m, err := newest(reply)
	if err == nil && m.sequence != seq { // there is none of number 0
		err = ErrNotFound
	}
	return m, err
}

// last is the newest message on the subjects of a filter.
func (b *Broker) last(ctx context.Context, stream, filter string) (stored, error) {
	request := &nats.Msg{Subject: "$JS.API.DIRECT.GET." + stream, Data: fmt.Appendf(nil, `{"last_by_subj":%q}`, filter)}
	reply, err := b.askAgain(ctx, "read", stream, request)
	if err != nil {
		return stored{}, err
	}
	return newest(reply)
}

// Drop removes a dead letter for good. ErrNotFound if there is none.
func (l *DeadLetters) Drop(ctx context.Context, seq uint64) error {
	ctx, cancel := l.b.within(ctx)
	defer cancel()
	reply, err := l.b.askAgain(ctx, "remove dead letter", strconv.FormatUint(seq, 10), &nats.Msg{
		Subject: "$JS.API.STREAM.MSG.DELETE." + DeadStream, Data: fmt.Appendf(nil, `{"seq":%d,"no_erase":true}`, seq),
	})
	if err != nil {
		return err
	}
	var answer struct {
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(reply.Data, &answer); err != nil {
		return fmt.Errorf("remove dead letter %d: read the answer: %w", seq, err)
	}
	if answer.Error == nil {
		return nil
	}
	if _, err := l.b.at(ctx, DeadStream, seq); errors.Is(err, ErrNotFound) {
		return fmt.Errorf("remove dead letter %d: %w", seq, ErrNotFound)
	}
	return fmt.Errorf("remove dead letter %d: %w", seq, answer.Error)
}

// DropAll removes letters, or finds them removed already.
func (l *DeadLetters) DropAll(ctx context.Context, sequences []uint64) error {
	ends := make([]error, len(sequences))
	var all sync.WaitGroup
	for i, seq := range sequences {
		all.Go(func() {
			if ends[i] = l.Drop(ctx, seq); errors.Is(ends[i], ErrNotFound) {
				ends[i] = nil
			}
		})
	}
	all.Wait()
	return errors.Join(ends...)
}
