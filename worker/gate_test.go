package worker

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"skillsync/genesys"
)

func TestRefusedCredentialsStopTheFetchingAndSpendNoAttempt(t *testing.T) {
	inBubble(t, func(b *bench) {
		var refused atomic.Bool
		var asked atomic.Int32
		refused.Store(true)
		b.org.onFind = func(p genesys.Person) (string, error) {
			asked.Add(1)
			if refused.Load() {
				return "", &genesys.Error{Op: "token", Status: 401, Code: "invalid_client"}
			}
			return "user-of-" + p.EmployeeID, nil
		}
		w := b.worker("w")
		w.InFlight = 4
		defer b.start(w)()
		for i := range 20 {
			b.publish(fmt.Sprint("E", i), "a")
		}
		time.Sleep(time.Second)
		if w.NotReady() == "" {
			t.Error("the worker says that it is ready")
		}
		early := asked.Load()
		time.Sleep(10 * time.Minute)
		if probes := asked.Load() - early; probes < 8 || probes > 12 {
			t.Errorf("%d probes in ten minutes", probes)
		}
		refused.Store(false)
		b.settle(10 * time.Minute)
		b.wantOutcomes(map[string]int{"verified": 20})
		for _, r := range b.queue.Results() {
			if r.Attempt != 1 {
				t.Errorf("record %d was verified at attempt %d", r.Sequence, r.Attempt)
			}
		}
		time.Sleep(2 * time.Second)
		if why := w.NotReady(); why != "" {
			t.Errorf("still not ready: %s", why)
		}
	})
}

func TestAnOutageOfEverythingDeadLettersNothing(t *testing.T) {
	inBubble(t, func(b *bench) {
		var down atomic.Bool
		down.Store(true)
		b.org.onRead = func(string) error {
			if down.Load() {
				return &genesys.Error{Op: "read_batch", Status: 503}
			}
			return nil
		}
		w := b.worker("w")
		w.InFlight = 50
		defer b.start(w)()
		for i := range 60 {
			b.publish(fmt.Sprint("E", i), "a")
		}
		time.Sleep(6 * time.Hour)
		if got := b.outcomes(); len(got) > 0 {
			t.Errorf("in the outage: %v", got)
		}
		down.Store(false)
		b.settle(time.Hour)
		b.wantOutcomes(map[string]int{"verified": 60})
	})
}

func TestAFailedBatchIsOneFailureToTheBreaker(t *testing.T) {
	inBubble(t, func(b *bench) {
		shared := &genesys.Error{Op: "read_batch", Status: 500}
		var failed sync.Map
		b.org.onRead = func(id string) error {
			if _, again := failed.LoadOrStore(id, true); !again {
				return shared
			}
			return nil
		}
		w := b.worker("w")
		defer b.start(w)()
		for i := range 60 {
			b.publish(fmt.Sprint("E", i), "a")
		}
		b.settle(30 * time.Second) // not after a minute of probing
		b.wantOutcomes(map[string]int{"verified": 60})
	})
}

func TestALongPauseGivesRecordsBackAndStopsTheFetching(t *testing.T) {
	inBubble(t, func(b *bench) {
		until := time.Now().Add(30 * time.Minute)
		b.org.onFind = func(p genesys.Person) (string, error) {
			if rest := time.Until(until); rest > 0 {
				return "", &genesys.Error{Op: "find", Status: 429, RetryAfter: rest}
			}
			return "user-of-" + p.EmployeeID, nil
		}
		w := b.worker("w")
		defer b.start(w)()
		for i := range 30 {
			b.publish(fmt.Sprint("E", i), "a")
		}
		time.Sleep(2 * time.Second)
		if w.NotReady() == "" {
			t.Error("the worker says that it is ready")
		}
		b.settle(time.Hour)
		b.wantOutcomes(map[string]int{"verified": 30})
		for _, r := range b.queue.Results() {
			if r.Attempt != 1 {
				t.Errorf("record %d was verified at attempt %d", r.Sequence, r.Attempt)
			}
		}
	})
}

func TestABrokerOutageIsWaitedOutAndSaid(t *testing.T) {
	inBubble(t, func(b *bench) {
		w := b.worker("w")
		b.queue.Down(true)
		defer b.start(w)()
		time.Sleep(10 * time.Second)
		if why := w.NotReady(); !strings.Contains(why, "cannot fetch records") {
			t.Errorf("not ready: %q", why)
		}
		b.queue.Down(false)
		b.publish("E1", "a")
		b.settle(time.Minute)
		b.wantOutcomes(map[string]int{"verified": 1})
		if why := w.NotReady(); why != "" {
			t.Errorf("still not ready: %s", why)
		}
	})
}
