package queue

// What each role's NATS user must be allowed to publish and to subscribe to, and no more.
// inboxPrefix is that user's Config.InboxPrefix: each has its own, so that none can read the
// answers that another one gets. deploy/nats/users.conf is the same as a configuration of the
// server; a test compares the two. Who runs Setup needs all permissions.

// PublisherPermissions are for the ETL jobs that publish records. They cannot read anything, not
// even what they have published.
func PublisherPermissions(inboxPrefix string) (publish, subscribe []string) {
	return []string{RecordsSubject, RecordsSubject + ".*"}, inbox(inboxPrefix)
}

// WorkerPermissions are for workers. They cannot create, change or delete streams, publish
// records, or read dead letters, results or the audit.
func WorkerPermissions(inboxPrefix string) (publish, subscribe []string) {
	publish = []string{
		"$JS.API.STREAM.INFO." + Stream, // for Check, the epoch and the broker's clock
		"$JS.API.STREAM.INFO." + DeadStream,
		"$JS.API.STREAM.INFO." + ResultsStream,
		"$JS.API.CONSUMER.INFO." + Stream + "." + Consumer,
		"$JS.API.CONSUMER.MSG.NEXT." + Stream + "." + Consumer,
		"$JS.API.DIRECT.GET." + Stream + ".>", // for Newer
		"$JS.ACK." + Stream + "." + Consumer + ".>",
		"$JS.ACK.*.*." + Stream + "." + Consumer + ".>", // the form that servers are to use later
		DeadSubject + ".*.*",
		ResultsSubject + ".*.*",
	}
	for _, bucket := range []string{LedgerBucket, LimitsBucket} {
		publish = append(publish, readsKeys(bucket)...)
		publish = append(publish, "$KV."+bucket+".>")
		publish = append(publish, watchesKeys(bucket)...)
	}
	return publish, inbox(inboxPrefix)
}

// OperatorPermissions are for people: the console, and the commands dlq, limit, status and doctor.
// They cannot create, change or purge streams, remove records, results or audit entries, take
// records from the workers, or write to the ledger.
func OperatorPermissions(inboxPrefix string) (publish, subscribe []string) {
	publish = []string{
		"$JS.API.STREAM.INFO." + Stream,
		"$JS.API.STREAM.INFO." + DeadStream,
		"$JS.API.STREAM.INFO." + ResultsStream,
		"$JS.API.STREAM.INFO." + AuditStream,
		"$JS.API.CONSUMER.INFO." + Stream + "." + Consumer, // for the backlog; MSG.NEXT would take records
		"$JS.API.DIRECT.GET." + Stream,                     // whether a replayed record waits
		"$JS.API.DIRECT.GET." + Stream + ".>",              // for Newer, in dry runs
		"$JS.API.DIRECT.GET." + DeadStream,
		"$JS.API.DIRECT.GET." + ResultsStream,
		"$JS.API.DIRECT.GET." + AuditStream,
		"$JS.API.CONSUMER.CREATE." + DeadStream + ".>", // for Each; on ".>", since the filter may be part of the subject
		"$JS.API.CONSUMER.MSG.NEXT." + DeadStream + ".*",
		"$JS.API.CONSUMER.DELETE." + DeadStream + ".*",
		"$JS.API.STREAM.MSG.DELETE." + DeadStream, // what was replayed or dropped
		RecordsSubject, // replays and mended records
		RecordsSubject + ".*",
		AuditSubject + ".*.*",
	}
	publish = append(publish, readsKeys(LedgerBucket)...)
	for _, bucket := range []string{LimitsBucket, DeskBucket} {
		publish = append(publish, readsKeys(bucket)...)
		publish = append(publish, "$KV."+bucket+".>")
	}
	publish = append(publish, watchesKeys(LimitsBucket)...)          // dry runs pay from the budget
	publish = append(publish, "$JS.API.STREAM.PURGE.KV_"+DeskBucket) // old replays are forgotten
	return publish, inbox(inboxPrefix)
}

func inbox(prefix string) []string { return []string{prefix + ".>"} }

func readsKeys(bucket string) []string {
	return []string{"$JS.API.STREAM.INFO.KV_" + bucket, "$JS.API.DIRECT.GET.KV_" + bucket + ".>"}
}

func watchesKeys(bucket string) []string {
	return []string{
		"$JS.API.CONSUMER.CREATE.KV_" + bucket + ".*.$KV." + bucket + ".>",
		"$JS.API.CONSUMER.DELETE.KV_" + bucket + ".*",
		"$JS.FC.KV_" + bucket + ".>",
	}
}
