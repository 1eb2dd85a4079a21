package queuetest_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"skillsync/queue"
	"skillsync/queue/queuetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestTheQueueInMemoryKeepsTheContract(t *testing.T) {
	queuetest.Suite(t, synctest.Test, func(t *testing.T) queuetest.Harness {
		return queuetest.InMemory(queuetest.NewMemory(&recorder{}, time.Minute))
	})
}

func TestTheBrokerKeepsTheContract(t *testing.T) {
	plain := func(t *testing.T, test func(*testing.T)) { test(t) }
	queuetest.Suite(t, plain, func(t *testing.T) queuetest.Harness {
		return queuetest.OnBroker(t, queuetest.Run(t, queue.Topology{AckWait: time.Second}))
	})
}

// A recorder is a test that is expected to fail.
type recorder struct{ errors []string }

func (r *recorder) Helper() {}
func (r *recorder) Errorf(format string, args ...any) {
	r.errors = append(r.errors, fmt.Sprintf(format, args...))
}
