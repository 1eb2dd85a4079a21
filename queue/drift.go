package queue

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// A setting is one thing that skillsync decides about a configuration C: how to say it, and how
// to put it right. What is not listed below is left as the server or an operator made it.
type setting[C any] struct {
	name string
	say  func(*C) string
	set  func(to, want *C)
}

// differences says what of is is not as wanted.
func differences[C any](of string, settings []setting[C], is, want *C) []Difference {
	var found []Difference
	for _, s := range settings {
		if a, b := s.say(is), s.say(want); a != b {
			found = append(found, Difference{Of: of, Setting: s.name, Is: a, Want: b})
		}
	}
	return found
}

// mend is what is there, with the settings put right.
func mend[C any](settings []setting[C], is, want *C) *C {
	to := *is
	for _, s := range settings {
		s.set(&to, want)
	}
	return &to
}

type (
	streamConfig   = jetstream.StreamConfig
	consumerConfig = jetstream.ConsumerConfig
)

var (
	storage = setting[streamConfig]{
		"storage", func(c *streamConfig) string { return word(c.Storage) },
		func(to, want *streamConfig) { to.Storage = want.Storage },
	}
	replicas = setting[streamConfig]{
		"replicas", func(c *streamConfig) string { return strconv.Itoa(max(c.Replicas, 1)) },
		func(to, want *streamConfig) { to.Replicas = want.Replicas },
	}
	maxBytes = setting[streamConfig]{
		"maximum bytes", func(c *streamConfig) string { return limit(c.MaxBytes) },
		func(to, want *streamConfig) { to.MaxBytes = want.MaxBytes },
	}
	maxAge = setting[streamConfig]{
		"maximum age", func(c *streamConfig) string { return duration(c.MaxAge) },
		func(to, want *streamConfig) { to.MaxAge = want.MaxAge },
	}
	perSubject = setting[streamConfig]{
		"messages per subject", func(c *streamConfig) string { return limit(c.MaxMsgsPerSubject) },
		func(to, want *streamConfig) { to.MaxMsgsPerSubject = want.MaxMsgsPerSubject },
	}
	direct = setting[streamConfig]{
		"direct access", func(c *streamConfig) string { return onOff(c.AllowDirect) },
		func(to, want *streamConfig) { to.AllowDirect = want.AllowDirect },
	}
)

var streamSettings = []setting[streamConfig]{
	storage, replicas, maxBytes, maxAge, perSubject, direct,
	{
		"subjects", func(c *streamConfig) string { return strings.Join(c.Subjects, " ") },
		func(to, want *streamConfig) { to.Subjects = want.Subjects },
	},
	{
		"retention", func(c *streamConfig) string { return word(c.Retention) },
		func(to, want *streamConfig) { to.Retention = want.Retention },
	},
	{
		"discard policy", func(c *streamConfig) string { return word(c.Discard) },
		func(to, want *streamConfig) { to.Discard = want.Discard },
	},
	{
		"duplicate window", func(c *streamConfig) string { return duration(c.Duplicates) },
		func(to, want *streamConfig) { to.Duplicates = want.Duplicates },
	},
	{
		"maximum messages", func(c *streamConfig) string { return limit(c.MaxMsgs) },
		func(to, want *streamConfig) { to.MaxMsgs = want.MaxMsgs },
	},
	{
		"maximum message size", func(c *streamConfig) string { return limit(int64(c.MaxMsgSize)) },
		func(to, want *streamConfig) { to.MaxMsgSize = want.MaxMsgSize },
	},
	{ // a dead letter that is replayed or dropped is deleted
		"deletion", func(c *streamConfig) string { return onOff(!c.DenyDelete && !c.Sealed) },
		func(to, want *streamConfig) { to.DenyDelete, to.Sealed = want.DenyDelete, want.Sealed },
	},
	{
		"purging", func(c *streamConfig) string { return onOff(!c.DenyPurge) },
		func(to, want *streamConfig) { to.DenyPurge = want.DenyPurge },
	},
}

// A ledger entry that ages away or is pushed out would let an older record win.
var bucketSettings = []setting[streamConfig]{storage, replicas, maxBytes, maxAge, perSubject, direct}

var consumerSettings = []setting[consumerConfig]{
	{
		"deliver policy", func(c *consumerConfig) string { return word(c.DeliverPolicy) },
		func(to, want *consumerConfig) { to.DeliverPolicy = want.DeliverPolicy },
	},
	{
		"acknowledgement policy", func(c *consumerConfig) string { return word(c.AckPolicy) },
		func(to, want *consumerConfig) { to.AckPolicy = want.AckPolicy },
	},
	{
		"acknowledgement wait", func(c *consumerConfig) string { return duration(c.AckWait) },
		func(to, want *consumerConfig) { to.AckWait = want.AckWait },
	},
	{
		"maximum deliveries", func(c *consumerConfig) string { return limit(int64(c.MaxDeliver)) },
		func(to, want *consumerConfig) { to.MaxDeliver = want.MaxDeliver },
	},
	{
		"backoff", func(c *consumerConfig) string { return fmt.Sprint(c.BackOff) },
		func(to, want *consumerConfig) { to.BackOff = want.BackOff },
	},
	{
		"maximum acknowledgements pending", func(c *consumerConfig) string { return limit(int64(c.MaxAckPending)) },
		func(to, want *consumerConfig) { to.MaxAckPending = want.MaxAckPending },
	},
	{
		"filter", func(c *consumerConfig) string {
			return strings.Trim(fmt.Sprint(c.FilterSubject, " ", c.FilterSubjects), " []")
		},
		func(to, want *consumerConfig) {
			to.FilterSubject, to.FilterSubjects = want.FilterSubject, want.FilterSubjects
		},
	},
	{ // the consumer outlives every worker
		"inactivity threshold", func(c *consumerConfig) string { return duration(c.InactiveThreshold) },
		func(to, want *consumerConfig) { to.InactiveThreshold = want.InactiveThreshold },
	},
	{
		"headers only", func(c *consumerConfig) string { return onOff(c.HeadersOnly) },
		func(to, want *consumerConfig) { to.HeadersOnly = want.HeadersOnly },
	},
}

// word is NATS's own word for a policy: "workqueue", "limits", "discardnew", …
func word(v fmt.Stringer) string { return strings.ToLower(v.String()) }

// limit writes a number of which the server takes 0 and -1 for none.
func limit(n int64) string {
	if n <= 0 {
		return "unlimited"
	}
	return strconv.FormatInt(n, 10)
}

func duration(d time.Duration) string {
	if d == 0 {
		return "none"
	}
	return d.String()
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}
