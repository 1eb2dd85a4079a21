package queue_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"skillsync/queue"
	"skillsync/queue/queuetest"
)

func TestABrokerTellsWhoItIs(t *testing.T) {
	b := queuetest.Run(t)
	s := b.Server()
	if s.URL != b.URL() || s.Version != server.VERSION || s.Cluster != "" || s.Known != 1 {
		t.Errorf("%+v", s)
	}
	if on := must[bool](t)(b.JetStream(t.Context())); !on {
		t.Error("JetStream is on, and it says off")
	}
}

func TestJetStreamIsOffOnTheServerOrInTheAccount(t *testing.T) {
	account := server.NewAccount("nothing")
	for name, o := range map[string]*server.Options{
		"server": {},
		"account": {
			JetStream: true, StoreDir: t.TempDir(), Accounts: []*server.Account{account},
			Users: []*server.User{{Username: "u", Password: "p", Account: account}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			o.Host, o.Port, o.NoSigs, o.NoLog = "127.0.0.1", -1, true, true
			s := must[*server.Server](t)(server.NewServer(o))
			s.Start()
			t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
			if !s.ReadyForConnections(10 * time.Second) {
				t.Fatal("the broker does not start")
			}
			b := must[*queue.Broker](t)(queue.Connect(t.Context(), queue.Config{URL: s.ClientURL(), User: "u", Password: "p", Wait: 5 * time.Second}))
			t.Cleanup(b.Close)
			if on := must[bool](t)(b.JetStream(t.Context())); on {
				t.Error("JetStream is off, and it says on")
			}
		})
	}
}

func TestEachRoleIsTriedByItsReads(t *testing.T) {
	publish, subscribe := queue.WorkerPermissions("_INBOX_worker")
	worker := &server.Permissions{
		Publish: &server.SubjectPermission{Allow: publish}, Subscribe: &server.SubjectPermission{Allow: subscribe},
	}
	refusedTo := func(b *queue.Broker, role queue.Role) []string {
		return must[[]string](t)(b.Refused(t.Context(), role))
	}
	admin, b := withUsers(t, worker)
	for _, role := range []queue.Role{queue.RoleWorker, queue.RoleOperator} {
		if refused := refusedTo(admin, role); len(refused) != 0 {
			t.Errorf("the administrator as %s: %v", role, refused)
		}
	}
	if refused := refusedTo(b, queue.RoleWorker); len(refused) != 0 {
		t.Error("a worker:", refused)
	}
	refused := refusedTo(b, queue.RoleOperator)
	for _, want := range []string{"$JS.API.STREAM.INFO.EMPLOYEES_AUDIT", "$JS.API.DIRECT.GET.EMPLOYEES_DEAD", "$JS.API.DIRECT.GET.KV_skillsync_desk.skillsync.doctor"} {
		if !slices.Contains(refused, want) {
			t.Errorf("a worker as an operator: %v, without %s", refused, want)
		}
	}
	if slices.Contains(refused, "$JS.API.STREAM.INFO.EMPLOYEES") {
		t.Error("a worker as an operator:", refused)
	}
	if !must[bool](t)(b.JetStream(t.Context())) {
		t.Error("JetStream is on")
	}
}

func TestAUserWithoutAnswersIsToldSo(t *testing.T) {
	_, b := withUsers(t, &server.Permissions{Subscribe: &server.SubjectPermission{Deny: []string{">"}}})
	_, err := b.Refused(short(t), queue.RoleWorker)
	if !errors.Is(err, queue.ErrForbidden) || !strings.Contains(err.Error(), "_INBOX_worker") {
		t.Error(err)
	}
}
