package worker

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"skillsync/genesys"
	"skillsync/queue"
)

// A diary is told of every delivery, as a tracer is.
type diary struct {
	mu    sync.Mutex
	begun int
	ended []string
}

type inDiary struct{}

func (y *diary) trace(ctx context.Context, d *queue.Delivery) (context.Context, Span) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.begun++
	return context.WithValue(ctx, inDiary{}, d.Sequence), page{y, d.Sequence}
}

type page struct {
	*diary
	sequence uint64
}

func (p page) TraceID() string { return fmt.Sprint("trace-", p.sequence) }

func (p page) End(verdict string, attempt int, failure string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = append(p.ended, fmt.Sprintf("%d %s %d %s", p.sequence, verdict, attempt, failure))
}

func TestEachDeliveryIsTracedOnceWithItsVerdict(t *testing.T) {
	inBubble(t, func(b *bench) {
		var y diary
		w := b.worker("w")
		w.Trace = y.trace
		failed := false
		b.org.onPatch = func(ctx context.Context, _ string) error {
			if ctx.Value(inDiary{}) == nil {
				t.Error("a patch outside of its trace")
			}
			if failed {
				return nil
			}
			failed = true
			return &genesys.Error{Op: "patch", Status: 503}
		}
		b.org.onFind = func(p genesys.Person) (string, error) {
			if p.EmployeeID == "nobody" {
				return "", genesys.ErrUserNotFound
			}
			return "user of " + p.EmployeeID, nil
		}
		stop := b.start(w)
		b.publish("E1", "a")
		b.settle(10 * time.Minute)
		b.publish("E1", "a")
		b.publish("nobody", "a")
		b.publishRaw("E2", []byte("{"))
		b.settle(10 * time.Minute)
		stop()
		want := []string{
			"1 retry 1 server_error", "1 verified 2 ", "2 unchanged 1 ",
			"3 dead_letter:user_not_found 1 user_not_found", "4 dead_letter:bad_record 0 bad_record",
		}
		slices.Sort(y.ended)
		if diff := cmp.Diff(want, y.ended); diff != "" || y.begun != len(want) {
			t.Errorf("%d begun; -want +got:\n%s", y.begun, diff)
		}
		for _, d := range b.queue.Dead() {
			if want := fmt.Sprint("trace-", d.Order.Seq); d.TraceID != want {
				t.Errorf("a dead letter names the trace %q, want %q", d.TraceID, want)
			}
		}
	})
}
