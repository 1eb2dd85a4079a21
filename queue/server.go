package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// A Server is what the server that a Broker is connected to says of itself.
type Server struct {
	URL     string // without credentials
	Version string
	Cluster string // its name; "" if the server is alone
	Known   int    // addresses of servers that are known, this one's included
}

// Server tells who is at the other end; its zero value but for URL says that there is no connection.
func (b *Broker) Server() Server {
	return Server{
		URL: b.URL(), Version: b.nc.ConnectedServerVersion(), Cluster: b.nc.ConnectedClusterName(), Known: len(b.nc.Servers()),
	}
}

// JetStream tells whether there is JetStream for this user: on the server, or on another one that
// it passes requests on to, and in the user's account. Where the user may not ask, the server's
// word for itself has to do.
func (b *Broker) JetStream(ctx context.Context) (bool, error) {
	reply, err := b.try(ctx, "$JS.API.STREAM.INFO."+Stream)
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return false, nil
	case errors.Is(err, ErrForbidden) && !errors.Is(err, ErrUnreachable): // the request, not its answer
		on, _ := b.nc.ConnectedServerJetStream()
		return on, nil
	case err != nil:
		return false, err
	}
	var answer struct {
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(reply.Data, &answer); err != nil {
		return false, fmt.Errorf("ask for JetStream: %w", err)
	}
	off := answer.Error != nil && (answer.Error.ErrorCode == jetstream.JSErrCodeJetStreamNotEnabled ||
		answer.Error.ErrorCode == jetstream.JSErrCodeJetStreamNotEnabledForAccount)
	return !off, nil
}

// A Role is what a user of the broker does for skillsync.
type Role string

const (
	RoleWorker   Role = "worker"
	RoleOperator Role = "operator"
)

// Refused tries the reads that a role needs and returns the subjects that the broker does not let
// this user publish to. It changes nothing, and so it cannot tell what the role needs beside: to
// fetch and settle records, and to write keys, dead letters, results or audit entries. An error is
// one for all of them: no broker, or no permission to get answers.
func (b *Broker) Refused(ctx context.Context, role Role) (refused []string, err error) {
	for _, subject := range reads(role) {
		_, err := b.try(ctx, subject)
		switch {
		case errors.Is(err, ErrUnreachable):
			return nil, err // with ErrForbidden: the answers are what is not let through
		case errors.Is(err, ErrForbidden):
			refused = append(refused, subject)
		}
	}
	return refused, nil
}

// reads are the subjects of requests that a role makes and that change nothing.
func reads(role Role) (subjects []string) {
	publish, _ := WorkerPermissions("")
	if role == RoleOperator {
		publish, _ = OperatorPermissions("")
	}
	for _, s := range publish {
		for _, harmless := range []string{"$JS.API.STREAM.INFO.", "$JS.API.CONSUMER.INFO.", "$JS.API.DIRECT.GET."} {
			if strings.HasPrefix(s, harmless) {
				// The last message on a subject that has none.
				subjects = append(subjects, strings.Replace(s, ">", "skillsync.doctor", 1))
			}
		}
	}
	return subjects
}

// try makes one request that changes nothing, whatever the answer is. A permission that is refused
// ends it at once.
func (b *Broker) try(ctx context.Context, subject string) (reply *nats.Msg, err error) {
	ctx, cancel := b.within(ctx)
	defer cancel()
	ctx, done, err := b.startup(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	reply, err = b.nc.RequestWithContext(ctx, subject, []byte(`{}`))
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return nil, fmt.Errorf("try %s: %w", subject, err)
	case err == nil:
		return reply, nil
	}
	err = b.failed(ctx, "try "+subject, err)
	// Only the text tells a request that was refused from the subscription to answers.
	if errors.Is(err, ErrForbidden) && !errors.Is(err, ErrUnreachable) && strings.Contains(err.Error(), "for Subscription to") {
		err = fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	return nil, err
}
