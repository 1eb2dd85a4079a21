package queue

// WorkerPermissions are the subjects that a worker's NATS user must be allowed to publish and to
// subscribe to, and no more; inboxPrefix is Config.InboxPrefix. It cannot create or delete
// streams, publish records, or read dead letters.
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
		DeadSubject + ".>",
		ResultsSubject + ".>",
	}
	for _, bucket := range []string{LedgerBucket, LimitsBucket} {
		publish = append(publish,
			"$JS.API.STREAM.INFO.KV_"+bucket,
			"$JS.API.DIRECT.GET.KV_"+bucket+".>",
			"$KV."+bucket+".>",
			"$JS.API.CONSUMER.CREATE.KV_"+bucket+".*.$KV."+bucket+".>", // for Watch
			"$JS.API.CONSUMER.DELETE.KV_"+bucket+".*",
			"$JS.FC.KV_"+bucket+".>",
		)
	}
	return publish, []string{inboxPrefix + ".>"}
}
