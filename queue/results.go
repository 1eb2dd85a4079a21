package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// publishResult stores the event that tells how a message ended: one per message, whatever is
// repeated after a crash.
func (b *Broker) publishResult(ctx context.Context, created int64, r Result) error {
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode the result: %w", err)
	}
	msg := nats.NewMsg(ResultsSubject + "." + token(r.Outcome) + "." + Key(r.EmployeeID))
	msg.Data = data
	msg.Header.Set(jetstream.MsgIDHeader, messageID("", created, r.Sequence))
	_, err = b.store(ctx, msg)
	return err
}

// messageID names a message for good: streams that are made anew count from 1 again.
func messageID(prefix string, created int64, seq uint64) string {
	return prefix + strconv.FormatInt(created, 10) + "-" + strconv.FormatUint(seq, 10)
}

// ResultsEnd is the position of the newest result event, 0 if there is none yet. To see the
// results of what one is about to publish, ask first, then publish, then watch from there.
func (b *Broker) ResultsEnd(ctx context.Context) (position uint64, err error) {
	err = b.again(ctx, "find the newest result", func(ctx context.Context, _ *connection) error {
		s, err := b.js.Stream(ctx, ResultsStream)
		if err == nil {
			position = s.CachedInfo().State.LastSeq
		}
		return err
	})
	return position, err
}

// Results calls each with every result event after the given position, in order, waiting for new
// ones. It returns when ctx ends, with its cause, or with the first error of each. Outages of
// the broker are bridged without a gap.
func (b *Broker) Results(ctx context.Context, after uint64, each func(Result) error) error {
	stop := errors.New("stop")
	for {
		var failed error
		err := b.follow(ctx, after, func(r Result) error {
			after = r.Position
			if failed = each(r); failed != nil {
				return stop
			}
			return nil
		})
		if errors.Is(err, stop) {
			return failed
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		b.log.Warn().Err(err).Msg("watching results is interrupted")
		if err := pause(ctx); err != nil {
			return err
		}
	}
}

// follow reads results until something goes wrong.
func (b *Broker) follow(ctx context.Context, after uint64, each func(Result) error) error {
	if err := b.Await(ctx); err != nil {
		return err
	}
	c, err := b.js.OrderedConsumer(ctx, ResultsStream, jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: after + 1,
	})
	if err != nil {
		return b.failed(ctx, "watch results", err)
	}
	messages, err := c.Messages()
	if err != nil {
		return b.failed(ctx, "watch results", err)
	}
	defer messages.Stop()
	for {
		msg, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return b.failed(ctx, "watch results", err)
		}
		r, err := result(msg)
		if err != nil {
			b.log.Warn().Err(err).Msg("unreadable result event skipped")
			continue
		}
		if err := each(r); err != nil {
			return err
		}
	}
}

func result(msg jetstream.Msg) (Result, error) {
	var r Result
	meta, err := msg.Metadata()
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(msg.Data(), &r); err != nil {
		return r, fmt.Errorf("result %d: %w", meta.Sequence.Stream, err)
	}
	r.Position = meta.Sequence.Stream
	return r, nil
}
