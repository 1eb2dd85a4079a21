package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"skillsync/genesys"
	"skillsync/queue"
)

func TestNewerWinsInEveryOrder(t *testing.T) {
	v := func(n int) map[string]any { return map[string]any{"version": n} }
	at := func(s string) map[string]any { return map[string]any{"updated_at": s} }
	t.Run("the older record waits behind the newer one", func(t *testing.T) {
		inBubble(t, func(b *bench) {
			defer b.start(b.worker("w"))()
			b.publish("E1", "b", v(2))
			b.settle(time.Minute)
			b.publish("E1", "a", v(1))
			b.settle(time.Minute)
			b.wantOutcomes(map[string]int{"verified": 1, "superseded": 1})
			if got := b.org.has("E1"); got != "[B]" {
				t.Errorf("the user has %s", got)
			}
		})
	})
	t.Run("the newer record waits in the stream", func(t *testing.T) {
		inBubble(t, func(b *bench) {
			b.publish("E1", "a")
			b.publish("E1", "b")
			b.publish("E1", "c")
			defer b.start(b.worker("w"))()
			b.settle(time.Minute)
			b.wantOutcomes(map[string]int{"superseded": 2, "verified": 1})
			if got, n := b.org.has("E1"), b.org.patched("E1"); got != "[C]" || n != 1 {
				t.Errorf("the user has %s after %d patches", got, n)
			}
		})
	})
	t.Run("time stamps decide over the order of publishing", func(t *testing.T) {
		inBubble(t, func(b *bench) {
			b.publish("E1", "b", at("2026-11-23T10:00:00Z"))
			b.publish("E1", "a", at("2026-11-23T10:00:00+02:00"))
			defer b.start(b.worker("w"))()
			b.settle(3 * time.Minute)
			b.outcomes() // the older one may have come first, and then it is verified too
			if got := b.org.has("E1"); got != "[B]" {
				t.Errorf("the user has %s", got)
			}
		})
	})
	t.Run("a replay of an older record", func(t *testing.T) {
		inBubble(t, func(b *bench) {
			fail := true
			b.org.onFind = func(p genesys.Person) (string, error) {
				if fail {
					return "", genesys.ErrUserNotFound
				}
				return "user-of-" + p.EmployeeID, nil
			}
			defer b.start(b.worker("w"))()
			b.publish("E1", "a")
			b.settle(time.Minute)
			fail = false
			b.publish("E1", "b")
			b.settle(time.Minute)
			if err := b.queue.Replay(b.Context(), b.queue.Dead()[0].Sequence); err != nil {
				t.Fatal(err)
			}
			b.settle(time.Minute)
			if got := b.org.has("E1"); got != "[B]" {
				t.Errorf("the user has %s", got)
			}
			if last := b.queue.Results()[2]; last.Outcome != queue.OutcomeSuperseded {
				t.Errorf("the replay ended as %s", last.Outcome)
			}
		})
	})
	t.Run("a newer record that cannot be applied does not hide an older one that can", func(t *testing.T) {
		inBubble(t, func(b *bench) {
			b.publish("E1", "a")
			b.publishRaw("E1", []byte(`{"employee_id":"E1","department":7,"department":8}`))
			defer b.start(b.worker("w"))()
			b.settle(time.Minute)
			b.wantOutcomes(map[string]int{"verified": 1, "bad_record": 1})
		})
	})
}

func TestTwoWorkersNeverHoldOneEmployeeAtOnce(t *testing.T) {
	inBubble(t, func(b *bench) {
		var busy, most atomic.Int32
		b.org.onPatch = func(context.Context, string) error {
			most.Store(max(most.Load(), busy.Add(1)))
			time.Sleep(2 * time.Second)
			busy.Add(-1)
			return nil
		}
		defer b.start(b.worker("w1"))()
		defer b.start(b.worker("w2"))()
		for i := range 6 { // without a key on the subject nothing is superseded in the stream
			data, _ := json.Marshal(map[string]any{"employee_id": "E1", "department": string("abc"[i%3])})
			b.publishRaw("", data)
		}
		b.settle(10 * time.Minute)
		if most.Load() > 1 {
			t.Errorf("%d patches of one user at once", most.Load())
		}
		if got := b.org.has("E1"); got != "[C]" {
			t.Errorf("the user has %s, the newest record says C", got)
		}
		b.outcomes()
	})
}

// The read side still shows what was there before the older record's write. To a newer record that
// wants just that, it must not look as if there were nothing to do.
func TestALaggingReadIsNoProofWhenAnOlderWriteMayBeOut(t *testing.T) {
	prepare := func(b *bench) {
		b.org.set(b.org.user("user-of-E1"), []genesys.Skill{{Name: "A", Proficiency: 1}})
		b.org.user("user-of-E1")
		b.org.lag = 10 * time.Second
	}
	check := func(b *bench) {
		b.Helper()
		b.settle(10 * time.Minute)
		b.outcomes()
		if got := b.org.has("E1"); got != "[A]" {
			b.Errorf("the user has %s, the newest record says A", got)
		}
	}
	t.Run("the reply to the older patch was lost", func(t *testing.T) {
		inBubble(t, func(b *bench) {
			prepare(b)
			var once sync.Once
			b.org.afterPatch = func(string) (err error) {
				once.Do(func() { err = &genesys.Error{Op: "patch", Err: errors.New("connection reset")} })
				return err
			}
			defer b.start(b.worker("w"))()
			b.publish("E1", "b")
			synctest.Wait() // patched, and waits for its retry
			b.publish("E1", "a")
			check(b)
		})
	})
	t.Run("the older record was given back between patch and verification", func(t *testing.T) {
		inBubble(t, func(b *bench) {
			prepare(b)
			w := b.worker("w1")
			w.Grace = time.Millisecond
			stop := b.start(w)
			b.publish("E1", "b")
			time.Sleep(time.Second)
			stop()
			b.publish("E1", "a")
			defer b.start(b.worker("w2"))()
			check(b)
		})
	})
}

// With a newer record of the employee in the same worker, an older one costs no patch: not even
// if no key on the subject gives it away, and not even if it waits for its request already.
func TestANewerRecordStopsAnOlderOneThatHasNotBeenPatched(t *testing.T) {
	for _, keyed := range []bool{true, false} {
		key := ""
		if keyed {
			key = "E1"
		}
		record := func(version int, department string) []byte {
			return fmt.Appendf(nil, `{"employee_id":"E1","department":%q,"version":%d}`, department, version)
		}
		t.Run(fmt.Sprintf("all there from the start, keyed %t", keyed), func(t *testing.T) {
			for _, order := range [][]int{{1, 2, 3}, {3, 2, 1}, {2, 3, 1}} {
				inBubble(t, func(b *bench) {
					for _, version := range order {
						b.publishRaw(key, record(version, string("abc"[version-1])))
					}
					b.org.onPatch = func(ctx context.Context, _ string) error {
						return sleep(ctx, 10*time.Millisecond) // for its grant
					}
					defer b.start(b.worker("w"))()
					b.settle(time.Minute)
					b.wantOutcomes(map[string]int{"superseded": 2, "verified": 1})
					if got, n := b.org.has("E1"), b.org.patched("E1"); got != "[C]" || n != 1 {
						t.Errorf("order %v: the user has %s after %d patches", order, got, n)
					}
				})
			}
		})
		t.Run(fmt.Sprintf("the older one waits for its request, keyed %t", keyed), func(t *testing.T) {
			inBubble(t, func(b *bench) {
				waits := make(chan struct{})
				b.org.onPatch = func(ctx context.Context, _ string) error {
					select {
					case <-waits:
						return nil
					default:
						close(waits)
						<-ctx.Done()
						return fmt.Errorf("patch: wait for the rate limit: %w", ctx.Err())
					}
				}
				start := time.Now()
				defer b.start(b.worker("w"))()
				b.publishRaw(key, record(1, "a"))
				<-waits
				b.publishRaw(key, record(2, "b"))
				b.settle(time.Minute)
				b.wantOutcomes(map[string]int{"superseded": 1, "verified": 1})
				if got, n := b.org.has("E1"), b.org.patched("E1"); got != "[B]" || n != 1 {
					t.Errorf("the user has %s after %d patches", got, n)
				}
				if took := time.Since(start); took > 5*time.Second {
					t.Errorf("the newer one took %s: it waited for the claim of the older one", took)
				}
			})
		})
		t.Run(fmt.Sprintf("one that cannot be applied stops nobody, keyed %t", keyed), func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.publishRaw(key, record(1, "a"))
				b.publishRaw(key, []byte(`{"employee_id":"E1","version":2}`))
				defer b.start(b.worker("w"))()
				b.settle(10 * time.Minute)
				b.wantOutcomes(map[string]int{"no_attributes": 1, "verified": 1})
				if got := b.org.has("E1"); got != "[A]" {
					t.Errorf("the user has %s", got)
				}
			})
		})
	}
}
