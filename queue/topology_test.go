package queue_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"pgregory.net/rapid"

	"skillsync/queue"
	"skillsync/queue/queuetest"
)

func TestSetupCreatesAllAndChangesNothingTheSecondTime(t *testing.T) {
	server := queuetest.Serve(t, t.TempDir(), "127.0.0.1:0")
	t.Cleanup(server.Shutdown)
	b := queuetest.Connect(t, server.URL())
	if missing := must[[]queue.Difference](t)(b.Check(t.Context(), queue.Topology{})); len(missing) != 6 || missing[0].String() != "stream EMPLOYEES does not exist" {
		t.Error("before:", missing)
	}
	for name, to := range map[string]queue.Topology{
		"defaults":   {},
		"the same":   {},
		"all chosen": {Replicas: 1, AckWait: time.Minute, MaxBytes: 1 << 20, DeadMaxBytes: 1 << 20, DeadMaxAge: 48 * time.Hour, ResultsMaxAge: 72 * time.Hour},
	} {
		must[[]queue.Change](t)(b.Setup(t.Context(), to))
		if again := must[[]queue.Change](t)(b.Setup(t.Context(), to)); len(again) != 0 {
			t.Errorf("%s: changed again: %v", name, again)
		}
		for _, t2 := range []queue.Topology{{}, to} {
			if drift := must[[]queue.Difference](t)(b.Check(t.Context(), t2)); len(drift) != 0 {
				t.Errorf("%s: drift: %v", name, drift)
			}
		}
	}
}

func TestDriftIsToldInWordsAndMended(t *testing.T) {
	b := queuetest.Run(t)
	js := raw(t, b)
	s := must[jetstream.Stream](t)(js.Stream(t.Context(), queue.Stream)).CachedInfo().Config
	s.Discard, s.Duplicates, s.Description, s.MaxMsgSize = jetstream.DiscardOld, time.Minute, "mine", -1
	must[jetstream.Stream](t)(js.UpdateStream(t.Context(), s))
	must[jetstream.Consumer](t)(js.UpdateConsumer(t.Context(), queue.Stream, jetstream.ConsumerConfig{
		Durable: queue.Consumer, AckPolicy: jetstream.AckExplicitPolicy, AckWait: 30 * time.Second, MaxDeliver: 5, BackOff: []time.Duration{time.Second},
	}))
	kv := must[jetstream.Stream](t)(js.Stream(t.Context(), "KV_"+queue.LedgerBucket)).CachedInfo().Config
	kv.MaxAge = time.Hour
	must[jetstream.Stream](t)(js.UpdateStream(t.Context(), kv))

	want := []string{
		"stream EMPLOYEES: discard policy is discardold, should be discardnew",
		"stream EMPLOYEES: duplicate window is 1m0s, should be 24h0m0s",
		"stream EMPLOYEES: maximum message size is unlimited, should be 2072576",
		"consumer workers of EMPLOYEES: acknowledgement wait is 1s, should be 2s", // BackOff replaces it
		"consumer workers of EMPLOYEES: maximum deliveries is 5, should be unlimited",
		"consumer workers of EMPLOYEES: backoff is [1s], should be []",
		"consumer workers of EMPLOYEES: maximum acknowledgements pending is 1000, should be 4096",
		"bucket skillsync_ledger: maximum age is 1h0m0s, should be none",
	}
	to := queue.Topology{AckWait: 2 * time.Second}
	var got []string
	for _, d := range must[[]queue.Difference](t)(b.Check(t.Context(), to)) {
		got = append(got, d.String())
	}
	for _, w := range want {
		if !slices.Contains(got, w) {
			t.Errorf("not told: %s", w)
		}
	}
	if len(got) != len(want) {
		t.Errorf("told: %s", strings.Join(got, "\n"))
	}
	if changes := must[[]queue.Change](t)(b.Setup(t.Context(), to)); len(changes) != len(want) || changes[0].String() != "stream EMPLOYEES: discard policy changed from discardold to discardnew" {
		t.Error("changes:", changes)
	}
	if drift := must[[]queue.Difference](t)(b.Check(t.Context(), to)); len(drift) != 0 {
		t.Error("drift left:", drift)
	}
	if s := must[jetstream.Stream](t)(js.Stream(t.Context(), queue.Stream)); s.CachedInfo().Config.Description != "mine" {
		t.Error("what is not ours was changed")
	}
}

func TestASettingThatCannotBeChangedIsNamed(t *testing.T) {
	server := queuetest.Serve(t, t.TempDir(), "127.0.0.1:0")
	t.Cleanup(server.Shutdown)
	b := queuetest.Connect(t, server.URL())
	must[jetstream.Stream](t)(raw(t, b).CreateStream(t.Context(), jetstream.StreamConfig{
		Name: queue.Stream, Subjects: []string{"employees.records", "employees.records.*"}, Discard: jetstream.DiscardNew,
		AllowDirect: true, Duplicates: 24 * time.Hour, MaxMsgSize: 1 << 20,
	}))
	_, err := b.Setup(t.Context(), queue.Topology{})
	if err == nil || !strings.Contains(err.Error(), "stream EMPLOYEES: retention is limits, should be workqueue") {
		t.Error("error:", err)
	}
}

func TestAWorkerNeedsNoMoreThanItsPermissions(t *testing.T) {
	publish, subscribe := queue.WorkerPermissions("_INBOX_worker")
	admin, b := withUsers(t, &server.Permissions{
		Publish: &server.SubjectPermission{Allow: publish}, Subscribe: &server.SubjectPermission{Allow: subscribe},
	})
	if drift := must[[]queue.Difference](t)(b.Check(t.Context(), queue.Topology{})); len(drift) != 0 {
		t.Error(drift)
	}
	must[time.Time](t)(b.Now(t.Context()))
	for range 3 {
		must[queue.Ack](t)(admin.Publish(t.Context(), queue.Message{EmployeeID: "EMP-1"}))
	}
	q := must[*queue.Queue](t)(b.Queue(t.Context()))
	all := fetch(t, q, 3)
	if _, _, newer, err := q.Newer(t.Context(), all[0], "EMP-1"); !newer || err != nil {
		t.Error("newer:", newer, err)
	}
	ok(t, all[0].Extend(t.Context()))
	ok(t, all[0].Ack(t.Context(), queue.Result{Outcome: queue.OutcomeVerified}))
	ok(t, all[1].Retry(t.Context(), time.Minute))
	ok(t, all[2].DeadLetter(t.Context(), queue.Failure{Reason: "bad_record"}))
	must[queue.Status](t)(b.Backlog(t.Context()))
	for _, bucket := range []string{queue.LedgerBucket, queue.LimitsBucket} {
		kv := must[*queue.KV](t)(b.KV(t.Context(), bucket))
		must[uint64](t)(kv.Update(t.Context(), "k", nil, 0))
		must[queue.Entry](t)(kv.Get(t.Context(), "k"))
		ctx, cancel := context.WithCancelCause(t.Context())
		seen := errors.New("seen")
		if err := kv.Watch(ctx, "k", func(queue.Entry) { cancel(seen) }); !errors.Is(err, seen) {
			t.Error("watch:", err)
		}
	}
}

func TestARefusedPermissionIsCalledByItsName(t *testing.T) {
	admin, b := withUsers(t, allowed("$JS.API.STREAM.INFO.*"))
	start := time.Now()
	for name, call := range map[string]func(context.Context) error{
		"check": func(ctx context.Context) error { _, err := b.Check(ctx, queue.Topology{}); return err },
		"queue": func(ctx context.Context) error { _, err := b.Queue(ctx); return err },
	} {
		err := call(t.Context())
		if !errors.Is(err, queue.ErrForbidden) || !strings.Contains(err.Error(), "$JS.API.CONSUMER.INFO.EMPLOYEES.workers") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if took := time.Since(start); took > 4*time.Second {
		t.Errorf("it took %v to say so", took)
	}
	_, err := b.Publish(short(t), queue.Message{EmployeeID: "EMP-1"})
	if !errors.Is(err, queue.ErrUnreachable) || !errors.Is(err, queue.ErrForbidden) || !strings.Contains(err.Error(), `"employees.records.EMP-1"`) {
		t.Error("publish:", err)
	}
	if backlog(t, admin) != 0 {
		t.Error("published all the same")
	}
}

func FuzzKeyIsLegalAndDoesNotCollide(f *testing.F) {
	for _, id := range []string{"", "=", "==", "EMP-1", "EMP 1", "a.b", "*", ">", "jörg", strings.Repeat("x", 64), strings.Repeat("x", 65), strings.Repeat("ü", 500), "\x00\xff"} {
		f.Add(id, "EMP-1")
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		ka, kb := queue.Key(a), queue.Key(b)
		if (ka == kb) != (a == b) {
			t.Errorf("%q and %q have the keys %q and %q", a, b, ka, kb)
		}
		legal(t.Errorf, ka)
	})
}

func TestKeyKeepsPlainIDsAsTheyAre(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id := rapid.StringMatching(`[A-Za-z0-9_-]{1,64}`).Draw(t, "id")
		if queue.Key(id) != id {
			t.Errorf("%q became %q", id, queue.Key(id))
		}
		other := rapid.String().Draw(t, "other")
		legal(t.Errorf, queue.Key(other))
		if other != id && queue.Key(other) == id {
			t.Errorf("%q has the key of %q", other, id)
		}
	})
	if queue.Key("") != "=" {
		t.Error("the key of nobody is", queue.Key(""))
	}
}

func legal(fail func(string, ...any), key string) {
	if key == "" || len(key) > 200 || !utf8.ValidString(key) || strings.ContainsFunc(key, func(r rune) bool {
		return !strings.ContainsRune("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-=", r)
	}) {
		fail("%q is no legal key", key)
	}
}

// raw is JetStream as somebody else uses it.
func raw(t testing.TB, b *queue.Broker) jetstream.JetStream {
	t.Helper()
	nc := must[*nats.Conn](t)(nats.Connect(b.URL()))
	t.Cleanup(func() {
		closed := make(chan struct{})
		nc.SetClosedHandler(func(*nats.Conn) { close(closed) })
		nc.Close()
		<-closed
	})
	return must[jetstream.JetStream](t)(jetstream.New(nc))
}

func TestDifferencesAreThoseThatSetupWouldChange(t *testing.T) {
	server := queuetest.Serve(t, t.TempDir(), "127.0.0.1:0")
	t.Cleanup(server.Shutdown)
	b := queuetest.Connect(t, server.URL())
	if all := must[[]queue.Difference](t)(b.Differences(t.Context(), queue.Topology{})); len(all) != 8 {
		t.Error("before:", all)
	}
	changes := must[[]queue.Change](t)(b.Setup(t.Context(), queue.Topology{}))
	if all := must[[]queue.Difference](t)(b.Differences(t.Context(), queue.Topology{})); len(all) != 0 || len(changes) != 8 {
		t.Error("after:", all, changes)
	}
	js := raw(t, b)
	ok(t, js.DeleteKeyValue(t.Context(), queue.DeskBucket))
	s := must[jetstream.Stream](t)(js.Stream(t.Context(), queue.ResultsStream)).CachedInfo().Config
	s.Discard = jetstream.DiscardNew
	must[jetstream.Stream](t)(js.UpdateStream(t.Context(), s))

	var want, got []string
	for _, d := range must[[]queue.Difference](t)(b.Differences(t.Context(), queue.Topology{})) {
		if d.Fixed() {
			t.Error("cannot be changed:", d)
		}
		want = append(want, d.Of+d.Setting+d.Is+d.Want)
	}
	if n := len(must[[]queue.Difference](t)(b.Differences(t.Context(), queue.Topology{}))); n != 2 {
		t.Error("looking changes something:", n)
	}
	for _, c := range must[[]queue.Change](t)(b.Setup(t.Context(), queue.Topology{})) {
		got = append(got, c.Of+c.Setting+c.From+c.To)
	}
	if !slices.Equal(got, want) {
		t.Errorf("Setup changed %q, and the differences were %q", got, want)
	}
}

// What is called fixed is what the broker refuses, and nothing else is.
func TestADifferenceThatCannotBeChangedIsMarked(t *testing.T) {
	for name, tt := range map[string]struct {
		stream   jetstream.StreamConfig
		consumer *jetstream.ConsumerConfig
		fixed    bool
	}{
		"retention": {stream: jetstream.StreamConfig{Name: queue.Stream}, fixed: true},
		"storage":   {stream: jetstream.StreamConfig{Name: queue.Stream, Retention: jetstream.WorkQueuePolicy, Storage: jetstream.MemoryStorage}, fixed: true},
		"deletion":  {stream: jetstream.StreamConfig{Name: queue.Stream, Retention: jetstream.WorkQueuePolicy, DenyDelete: true}, fixed: true},
		"purging":   {stream: jetstream.StreamConfig{Name: queue.Stream, Retention: jetstream.WorkQueuePolicy, DenyPurge: true}, fixed: true},
		"discard policy": {
			stream: jetstream.StreamConfig{Name: queue.Stream, Retention: jetstream.WorkQueuePolicy, Discard: jetstream.DiscardOld},
		},
		"maximum deliveries": {
			stream:   jetstream.StreamConfig{Name: queue.Stream, Retention: jetstream.WorkQueuePolicy},
			consumer: &jetstream.ConsumerConfig{Durable: queue.Consumer, AckPolicy: jetstream.AckExplicitPolicy, MaxDeliver: 3},
		},
	} {
		t.Run(name, func(t *testing.T) {
			server := queuetest.Serve(t, t.TempDir(), "127.0.0.1:0")
			t.Cleanup(server.Shutdown)
			b := queuetest.Connect(t, server.URL())
			js := raw(t, b)
			tt.stream.Subjects = []string{queue.RecordsSubject, queue.RecordsSubject + ".*"}
			must[jetstream.Stream](t)(js.CreateStream(t.Context(), tt.stream))
			if tt.consumer != nil {
				must[jetstream.Consumer](t)(js.CreateConsumer(t.Context(), queue.Stream, *tt.consumer))
			}
			all := must[[]queue.Difference](t)(b.Differences(t.Context(), queue.Topology{}))
			i := slices.IndexFunc(all, func(d queue.Difference) bool { return d.Setting == name })
			if i < 0 || all[i].Fixed() != tt.fixed {
				t.Errorf("%v", all)
			}
			if _, err := b.Setup(t.Context(), queue.Topology{}); (err != nil) != tt.fixed {
				t.Error("setup:", err)
			}
		})
	}
}
