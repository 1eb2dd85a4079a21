package queue_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"skillsync/queue"
)

// settings are what the files in deploy/nats take from the environment.
var settings = map[string]string{
	"NATS_ETL_PASSWORD": "e-secret", "NATS_WORKER_PASSWORD": "w-secret", "NATS_OPERATOR_PASSWORD": "o-secret",
	"NATS_ADMIN_PASSWORD": "a-secret", "NATS_ROUTE_PASSWORD": "r-secret",
	"NATS_SERVER_NAME": "nats-1", "NATS_ROUTES": "[]",
}

func conf(name string) string { return filepath.Join("..", "deploy", "nats", name) }

// configured reads a configuration of the server as nats-server does.
func configured(t testing.TB, path string) *server.Options {
	t.Helper()
	for name, value := range settings {
		if _, set := os.LookupEnv(name); !set {
			t.Setenv(name, value)
		}
	}
	o := must[*server.Options](t)(server.ProcessConfigFile(path))
	if !o.SyncAlways || o.StoreDir != "/data" || o.MaxPayload != 2<<20 {
		t.Errorf("%s: sync always %v, store %s, payload %d", path, o.SyncAlways, o.StoreDir, o.MaxPayload)
	}
	return o
}

// served starts a server of that configuration, on a free port and in a folder of its own.
func served(t testing.TB, o *server.Options) *server.Server {
	t.Helper()
	o.Host, o.Port, o.HTTPPort, o.StoreDir, o.NoSigs, o.NoLog = "127.0.0.1", -1, 0, t.TempDir(), true, true
	s := must[*server.Server](t)(server.NewServer(o))
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("the broker does not start")
	}
	return s
}

func login(s *server.Server, user, password string) queue.Config {
	return queue.Config{URL: s.ClientURL(), User: user, Password: password, Wait: 5 * time.Second, InboxPrefix: "_INBOX_" + user}
}

func enter(t testing.TB, c queue.Config) *queue.Broker {
	t.Helper()
	b := must[*queue.Broker](t)(queue.Connect(t.Context(), c))
	t.Cleanup(b.Close)
	return b
}

// roles starts a broker from deploy/nats/nats.conf, which the administrator sets up.
func roles(t testing.TB) (as func(user string) *queue.Broker, s *server.Server) {
	t.Helper()
	s = served(t, configured(t, conf("nats.conf")))
	as = func(user string) *queue.Broker {
		return enter(t, login(s, user, settings["NATS_"+strings.ToUpper(user)+"_PASSWORD"]))
	}
	must[[]queue.Change](t)(as("admin").Setup(t.Context(), queue.Topology{}))
	return as, s
}

func TestTheConfiguredUsersMayDoWhatTheirRolesNeedAndNoMore(t *testing.T) {
	for _, name := range []string{"nats.conf", "cluster.conf"} {
		users := map[string]*server.User{}
		for _, u := range configured(t, conf(name)).Users {
			users[u.Username] = u
		}
		for user, need := range map[string]func(string) (publish, subscribe []string){
			"etl": queue.PublisherPermissions, "worker": queue.WorkerPermissions, "operator": queue.OperatorPermissions,
		} {
			is := users[user]
			if is == nil || is.Permissions == nil {
				t.Errorf("%s: %s is not there, or may do all", name, user)
				continue
			}
			publish, subscribe := need("_INBOX_" + user)
			same(t, name+": "+user+" publishes", is.Permissions.Publish, publish)
			same(t, name+": "+user+" subscribes", is.Permissions.Subscribe, subscribe)
			if is.Permissions.Response != nil {
				t.Errorf("%s: %s may answer anything", name, user)
			}
		}
		if len(users) != 4 || users["admin"].Permissions != nil {
			t.Errorf("%s: %d users, the administrator may %v", name, len(users), users["admin"].Permissions)
		}
	}
}

func same(t *testing.T, what string, is *server.SubjectPermission, want []string) {
	t.Helper()
	if is == nil || len(is.Deny) != 0 || !slices.Equal(slices.Sorted(slices.Values(is.Allow)), slices.Sorted(slices.Values(want))) {
		t.Errorf("%s\n%v\nand should\n%v", what, is, want)
	}
}

func TestNobodyGetsInWithoutAPassword(t *testing.T) {
	_, s := roles(t)
	for name, c := range map[string]queue.Config{
		"nobody": {URL: s.ClientURL(), Wait: time.Second}, "a wrong password": login(s, "worker", "e-secret"), "none": login(s, "admin", ""),
	} {
		if b, err := queue.Connect(t.Context(), c); err == nil {
			b.Close()
			t.Errorf("%s gets in", name)
		}
	}
}

// A deed is something that a user tries. Each has a connection of its own: what one is refused must
// not pass for the reason of another's failure.
type deed struct {
	what string
	do   func(context.Context, *queue.Broker) error
}

func request(subject, body string) func(context.Context, *queue.Broker) error {
	return func(ctx context.Context, b *queue.Broker) error { return queue.Request(ctx, b, subject, body) }
}

func api(call, body string) deed { return deed{call, request("$JS.API."+call, body)} }

// shaping is what only an administrator may do.
var shaping = []deed{
	api("STREAM.CREATE.OTHER", `{"name":"OTHER"}`),
	api("STREAM.UPDATE.EMPLOYEES", `{}`),
	api("STREAM.UPDATE.EMPLOYEES_AUDIT", `{}`),
	api("STREAM.DELETE.EMPLOYEES", ``),
	api("STREAM.DELETE.EMPLOYEES_AUDIT", ``),
	api("STREAM.DELETE.KV_skillsync_desk", ``),
	api("STREAM.PURGE.EMPLOYEES", ``),
	api("STREAM.PURGE.EMPLOYEES_DEAD", ``),
	api("STREAM.PURGE.EMPLOYEES_RESULTS", ``),
	api("STREAM.PURGE.EMPLOYEES_AUDIT", ``),
	api("STREAM.PURGE.KV_skillsync_ledger", ``),
	api("STREAM.PURGE.KV_skillsync_limits", ``),
	api("STREAM.MSG.DELETE.EMPLOYEES", `{"seq":1}`),
	api("STREAM.MSG.DELETE.EMPLOYEES_RESULTS", `{"seq":1}`),
	api("STREAM.MSG.DELETE.EMPLOYEES_AUDIT", `{"seq":1}`),
	api("STREAM.MSG.GET.EMPLOYEES", `{"seq":1}`),
	api("STREAM.MSG.GET.EMPLOYEES_DEAD", `{"seq":1}`),
	api("STREAM.SNAPSHOT.EMPLOYEES_DEAD", `{}`),
	api("STREAM.NAMES", ``),
	api("INFO", ``),
	api("CONSUMER.CREATE.EMPLOYEES.spy", `{}`),
	api("CONSUMER.DELETE.EMPLOYEES.workers", ``),
	api("CONSUMER.PAUSE.EMPLOYEES.workers", `{}`),
	{"$KV.other.x", request("$KV.other.x", "")},
	{"_INBOX_admin.x", request("_INBOX_admin.x", "")},
}

func wantRefused(t *testing.T, as func(string) *queue.Broker, user string, deeds ...deed) {
	t.Helper()
	for _, d := range deeds {
		if err := d.do(t.Context(), as(user)); !errors.Is(err, queue.ErrForbidden) {
			t.Errorf("%s, %s: %v", user, d.what, err)
		}
	}
}

func TestTheETLUserPublishesRecordsAndDoesNothingElse(t *testing.T) {
	as, _ := roles(t)
	etl := as("etl")
	must[queue.Ack](t)(etl.Publish(t.Context(), queue.Message{EmployeeID: "EMP-1", Data: []byte("x")}))
	must[queue.Ack](t)(etl.Publish(t.Context(), queue.Message{Data: []byte("x")}))
	p := queue.Publisher{Broker: etl}
	ok(t, p.Send(t.Context(), queue.Message{EmployeeID: "EMP 2"}, nil))
	ok(t, p.Flush(t.Context()))
	wantRefused(t, as, "etl", append(slices.Clone(shaping), operatorOnly...)...)
	wantRefused(t, as, "etl", workerOnly...)
	if n := backlog(t, as("admin")); n != 3 {
		t.Errorf("%d records are stored", n)
	}
}

// operatorOnly is what neither ETL jobs nor workers may do.
var operatorOnly = []deed{
	api("DIRECT.GET.EMPLOYEES_DEAD", `{"seq":1}`),
	api("DIRECT.GET.EMPLOYEES_RESULTS", `{"seq":1}`),
	api("DIRECT.GET.EMPLOYEES_AUDIT", `{"seq":1}`),
	api("STREAM.INFO.EMPLOYEES_AUDIT", ``),
	api("STREAM.INFO.KV_skillsync_desk", ``),
	api("CONSUMER.CREATE.EMPLOYEES_DEAD.x", `{}`),
	api("STREAM.MSG.DELETE.EMPLOYEES_DEAD", `{"seq":1}`),
	api("STREAM.PURGE.KV_skillsync_desk", ``),
	{"audit", func(ctx context.Context, b *queue.Broker) error {
		return b.Audit(ctx, queue.AuditEntry{By: "x", Action: queue.ActedDrop})
	}},
	{"desk", request("$KV.skillsync_desk.x", "{}")},
}

// workerOnly is what neither ETL jobs nor operators may do.
var workerOnly = []deed{
	api("CONSUMER.MSG.NEXT.EMPLOYEES.workers", `{"batch":1}`),
	{"a dead letter", request("employees.dead.bad_record.EMP-1", "x")},
	{"a result", request("employees.results.verified.EMP-1", "{}")},
	{"the ledger", request("$KV.skillsync_ledger.EMP-1", "{}")},
	{"an acknowledgement", request("$JS.ACK.EMPLOYEES.workers.1.1.1.1.0", "+ACK")},
}

func TestAWorkerMayNeitherReadDeadLettersNorPublishRecords(t *testing.T) {
	as, _ := roles(t) // that it can do its work: TestAWorkerNeedsNoMoreThanItsPermissions
	wantRefused(t, as, "worker", append(slices.Clone(shaping), operatorOnly...)...)
	wantRefused(t, as, "worker", deed{"a record", request("employees.records.EMP-1", "x")})
	if refused := must[[]string](t)(as("worker").Refused(t.Context(), queue.RoleWorker)); len(refused) != 0 {
		t.Error(refused)
	}
}

func TestAnOperatorDoesAllOfTheDeskAndShapesNothing(t *testing.T) {
	as, _ := roles(t)
	worker, ops := as("worker"), as("operator")
	q := must[*queue.Queue](t)(worker.Queue(t.Context()))
	for i, reason := range []string{"unverified", "bad_record", "unverified", "odd"} {
		id := fmt.Sprint("EMP-", i)
		must[queue.Ack](t)(as("etl").Publish(t.Context(), queue.Message{EmployeeID: id, Data: []byte(id)}))
		ok(t, fetch(t, q, 1)[0].DeadLetter(t.Context(), queue.Failure{EmployeeID: id, Reason: reason, Status: 404, Error: "no"}))
	}
	looks(t, ops)
	replaysAndDrops(t, ops, q)
	steersAndWrites(t, ops)
	if drift := must[[]queue.Difference](t)(ops.Differences(t.Context(), queue.Topology{})); len(drift) != 0 {
		t.Error(drift)
	}
	if refused := must[[]string](t)(ops.Refused(t.Context(), queue.RoleOperator)); len(refused) != 0 {
		t.Error(refused)
	}
	wantRefused(t, as, "operator", append(slices.Clone(shaping), workerOnly...)...)
	if err := queue.Tamper(t.Context(), as("operator"), queue.AuditStream); !errors.Is(err, queue.ErrForbidden) && !errors.Is(err, nats.ErrTimeout) && !errors.Is(err, context.DeadlineExceeded) {
		t.Error("the audit:", err)
	}
}

// looks does all that only reads.
func looks(t *testing.T, ops *queue.Broker) {
	t.Helper()
	if st := must[queue.Status](t)(ops.Status(t.Context())); st.Dead["unverified"] != 2 || st.Dead["odd"] != 1 || st.Results[queue.OutcomeDead] != 4 {
		t.Errorf("%+v", st)
	}
	letters := ops.DeadLetters()
	if groups := must[[]queue.Group](t)(letters.Groups(t.Context())); len(groups) != 3 {
		t.Errorf("%+v", groups)
	}
	for name, f := range map[string]queue.Filter{"by the index": {Reason: "unverified"}, "by reading": {Reason: "unverified", Status: "4xx"}} {
		if page := deadLetters(t, ops, f); len(page) != 2 {
			t.Errorf("%s: %d", name, len(page))
		}
	}
	if n := len(deadLetters(t, ops, queue.Filter{Text: "NO"})); n != 4 { // read without a subject
		t.Errorf("%d letters say no", n)
	}
	must[queue.DeadLetter](t)(letters.Get(t.Context(), 1))
	results, _, err := ops.Recent(t.Context(), "EMP-1", 0, 10)
	if ok(t, err); len(results) != 1 {
		t.Errorf("%d results", len(results))
	}
	must[map[string]uint64](t)(ops.CountsSince(t.Context(), time.Now().Add(-time.Hour)))
	_, _, err = ops.Settled(t.Context(), time.Now().Add(-time.Hour))
	ok(t, err)
	must[uint64](t)(ops.ResultsEnd(t.Context()))
	must[time.Time](t)(ops.Now(t.Context()))
	q := must[*queue.Queue](t)(ops.Queue(t.Context())) // for dry runs
	_, _, _, err = q.Newer(t.Context(), &queue.Delivery{Subject: "employees.records.EMP-1"}, "EMP-1")
	ok(t, err)
	ledger := must[*queue.KV](t)(ops.KV(t.Context(), queue.LedgerBucket))
	if _, err := ledger.Get(t.Context(), "EMP-1"); !errors.Is(err, queue.ErrNotFound) {
		t.Error("ledger:", err)
	}
}

// replaysAndDrops does all that changes dead letters.
func replaysAndDrops(t *testing.T, ops *queue.Broker, q *queue.Queue) {
	t.Helper()
	for _, rep := range []queue.Replay{{Letters: []uint64{1}}, {Filter: queue.Filter{Reason: "unverified", Status: "404"}}} {
		replays, rep := begin(t, ops, rep)
		rep = must[queue.Replay](t)(replays.Run(t.Context(), rep.Name, queue.Runner{}))
		if rep.Published != 1 {
			t.Errorf("%+v", rep)
		}
		ok(t, fetch(t, q, 1)[0].Ack(t.Context(), queue.Result{Outcome: queue.OutcomeVerified, Replay: rep.Name}))
		if rep = must[queue.Replay](t)(replays.Follow(t.Context(), rep.Name)); rep.Settled() != 1 {
			t.Errorf("%+v", rep)
		}
	}
	replays, rep := begin(t, ops, queue.Replay{Letters: []uint64{4}, Rate: 1})
	must[queue.Replay](t)(replays.Pause(t.Context(), rep.Name, "ops"))
	must[queue.Replay](t)(replays.SetRate(t.Context(), rep.Name, "ops", 2))
	must[queue.Replay](t)(replays.Resume(t.Context(), rep.Name, "ops"))
	must[queue.Replay](t)(replays.Cancel(t.Context(), rep.Name, "ops"))
	if all := must[[]queue.Replay](t)(replays.List(t.Context(), 10)); len(all) != 3 {
		t.Errorf("%d replays", len(all))
	}
	ok(t, queue.Forget(t.Context(), replays, rep.Name))
	must[queue.Replay](t)(replays.Edit(t.Context(), 2, []byte("EMP-1"), "EMP-1", []string{"department"}, "ops"))
	ok(t, ops.DeadLetters().Drop(t.Context(), 4))
	if left := deadLetters(t, ops, queue.Filter{}); len(left) != 0 {
		t.Errorf("%d letters are left", len(left))
	}
}

// steersAndWrites changes the limit, and writes and reads the audit.
func steersAndWrites(t *testing.T, ops *queue.Broker) {
	t.Helper()
	limits := must[*queue.KV](t)(ops.KV(t.Context(), queue.LimitsBucket))
	must[uint64](t)(limits.Update(t.Context(), "client", []byte("{}"), 0))
	must[[]string](t)(limits.Keys(t.Context()))
	ctx, cancel := context.WithCancelCause(t.Context())
	seen := errors.New("seen")
	if err := limits.Watch(ctx, "client", func(queue.Entry) { cancel(seen) }); !errors.Is(err, seen) {
		t.Error("watch:", err)
	}
	ok(t, ops.Audit(t.Context(), queue.AuditEntry{By: "ops", Action: queue.ActedLimit, About: "client"}))
	page, _, err := ops.AuditLog(t.Context(), 0, 100)
	if ok(t, err); len(page) < 8 {
		t.Errorf("%d entries", len(page))
	}
	must[[]queue.AuditEntry](t)(ops.AuditOfLetter(t.Context(), 2))
	desk := must[*queue.KV](t)(ops.KV(t.Context(), queue.DeskBucket))
	must[uint64](t)(desk.Update(t.Context(), "alerts.memory", []byte("{}"), 0))
	ok(t, desk.Purge(t.Context(), "alerts.memory"))
	must[uint64](t)(desk.Update(t.Context(), "alerts.memory", []byte("{}"), 0)) // over the mark that is left
}

func TestAPublisherWithoutPermissionIsToldAtOnce(t *testing.T) {
	_, s := roles(t)
	elsewhere := login(s, "etl", settings["NATS_ETL_PASSWORD"])
	elsewhere.InboxPrefix = "" // where it may not listen for answers
	for subject, c := range map[string]queue.Config{
		`"employees.records.EMP-`: login(s, "worker", settings["NATS_WORKER_PASSWORD"]), `"_INBOX.`: elsewhere,
	} {
		p := queue.Publisher{Broker: enter(t, c), Timeout: time.Hour}
		err := p.Send(t.Context(), queue.Message{EmployeeID: "EMP-1"}, nil)
		for n := 2; err == nil && n < 100; n++ { // each of them is refused
			err = p.Send(t.Context(), queue.Message{EmployeeID: fmt.Sprint("EMP-", n)}, nil)
		}
		if err == nil {
			err = p.Flush(t.Context())
		}
		if !errors.Is(err, queue.ErrForbidden) || !strings.Contains(err.Error(), subject) {
			t.Errorf("%s: %v", subject, err)
		}
	}
}

func TestWithTLSOnlyClientsThatTrustTheBrokerGetIn(t *testing.T) {
	ca, cert, key := certificate(t)
	t.Setenv("NATS_TLS_CERT", cert)
	t.Setenv("NATS_TLS_KEY", key)
	s := served(t, configured(t, conf("tls.conf")))
	c := login(s, "admin", settings["NATS_ADMIN_PASSWORD"])
	c.Wait = time.Second
	if b, err := queue.Connect(t.Context(), c); err == nil {
		b.Close()
		t.Error("it trusts an authority that nobody knows")
	}
	c.CAFile = ca
	must[[]queue.Change](t)(enter(t, c).Setup(t.Context(), queue.Topology{}))
}

func TestANKeyStandsInForAPassword(t *testing.T) {
	// deploy/nats/README.md says to write the line like this; the seed is of this test only.
	const seed, public = "SUAEBIGMY4LY6YVJACFGM2RT7YDQSOFRZJPN35LATUIDIZNPGFW5NZ23YA", "UAD27TB3X7I4UFKD4DFY5N7HQTMOUK2SPRWV6KHBJ3ARNYUWPX6XA2E4"
	dir := t.TempDir()
	for _, name := range []string{"nats.conf", "users.conf"} {
		text := string(must[[]byte](t)(os.ReadFile(conf(name))))
		text = strings.Replace(text, "user: worker, password: $NATS_WORKER_PASSWORD,", "nkey: "+public+",", 1)
		ok(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	s := served(t, configured(t, filepath.Join(dir, "nats.conf")))
	admin := enter(t, login(s, "admin", settings["NATS_ADMIN_PASSWORD"]))
	must[[]queue.Change](t)(admin.Setup(t.Context(), queue.Topology{}))
	file := filepath.Join(dir, "seed")
	ok(t, os.WriteFile(file, []byte(seed), 0o600))
	b := enter(t, queue.Config{URL: s.ClientURL(), NKeyFile: file, Wait: 5 * time.Second, InboxPrefix: "_INBOX_worker"})
	if refused := must[[]string](t)(b.Refused(t.Context(), queue.RoleWorker)); len(refused) != 0 {
		t.Error(refused)
	}
}

func TestThreeBrokersOfTheClusterConfigurationKeepEverythingThreeTimes(t *testing.T) {
	var routes, ports []string
	for range 3 { // ports that are free, instead of the file's one port of three machines
		ln := must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0"))
		routes = append(routes, fmt.Sprintf("%q", "nats://route:r-secret@"+ln.Addr().String()))
		_, port, err := net.SplitHostPort(ln.Addr().String())
		ok(t, err)
		ports = append(ports, port)
		ok(t, ln.Close())
	}
	t.Setenv("NATS_ROUTES", "["+strings.Join(routes, ", ")+"]")
	var first *server.Server
	for i, port := range ports {
		t.Setenv("NATS_SERVER_NAME", fmt.Sprint("nats-", i+1))
		o := configured(t, conf("cluster.conf"))
		o.Cluster.Host, o.Cluster.Port = "127.0.0.1", must[int](t)(strconv.Atoi(port))
		if s := served(t, o); first == nil {
			first = s
		}
	}
	admin := enter(t, login(first, "admin", settings["NATS_ADMIN_PASSWORD"]))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for { // what is asked before they have elected a leader gets no answer
		once, end := context.WithTimeout(ctx, 3*time.Second)
		_, err := admin.Setup(once, queue.Topology{Replicas: 3})
		if end(); err == nil {
			break
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
	}
	if drift := must[[]queue.Difference](t)(admin.Differences(ctx, queue.Topology{Replicas: 3})); len(drift) != 0 {
		t.Error(drift)
	}
	etl := enter(t, login(first, "etl", settings["NATS_ETL_PASSWORD"]))
	must[queue.Ack](t)(etl.Publish(ctx, queue.Message{EmployeeID: "EMP-1"}))
}
