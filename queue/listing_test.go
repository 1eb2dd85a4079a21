package queue_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"skillsync/queue"
	"skillsync/queue/queuetest"
)

// backwards lists all that a filter selects in pages, from the newest on.
func backwards(t testing.TB, l *queue.DeadLetters, f queue.Filter, from uint64, size int) (all []uint64) {
	t.Helper()
	for more := true; more; more = from != 0 {
		page, next, err := l.ListBack(t.Context(), f, from, size)
		ok(t, err)
		if len(page) > size || next != 0 && len(page) > 0 && next >= page[len(page)-1].Sequence {
			t.Fatalf("%d letters, and on from %d", len(page), next)
		}
		for _, d := range page {
			all = append(all, d.Sequence)
		}
		from = next
	}
	return all
}

// Most of the first 5,000 letters are of one reason, and of the others only every thousandth;
// stretches of them are gone.
func TestALongListIsTheSameFromBothEnds(t *testing.T) {
	b := queuetest.Run(t)
	l, js := b.DeadLetters(), raw(t, b)
	const letters = 8_000
	for i := range letters {
		reason := "old"
		if i >= 5_000 && i%1000 != 0 {
			reason = "new"
		}
		m := nats.NewMsg(queue.DeadSubject + "." + reason + "." + fmt.Sprint("EMP-", i%7000))
		for name, value := range map[string]string{"Employee": fmt.Sprint("EMP-", i%7000), "Reason": reason, "Error": "no answer", "Status": fmt.Sprint(500 + i%3)} {
			m.Header.Set("Skillsync-"+name, value)
		}
		if i == 3 {
			m.Header.Set("Skillsync-Error", "needle")
		}
		must[jetstream.PubAckFuture](t)(js.PublishMsgAsync(m))
	}
	<-js.PublishAsyncComplete()
	var gone []uint64
	for seq := uint64(6_000); seq < 6_300; seq++ {
		gone = append(gone, seq)
	}
	ok(t, l.DropAll(t.Context(), append(gone, 1, 2, letters)))

	for _, f := range []queue.Filter{
		{},
		{Reason: "old"},
		{Reason: "new"},
		{Reason: "none"},
		{Employee: "EMP-17"},
		{Reason: "new", Status: "502"},
		{Text: "needle"},
		{After: time.Now().Add(-time.Hour)},
		{Before: time.Now().Add(time.Hour)},
		{After: time.Now().Add(time.Hour)},
		{Before: time.Now().Add(-time.Hour)},
		{After: time.Time{}.Add(time.Second), Status: "500"},
	} {
		t.Run(f.String(), func(t *testing.T) {
			var want []uint64
			ok(t, l.Each(t.Context(), f, 0, 0, func(d queue.DeadLetter) error { want = append(want, d.Sequence); return nil }))
			slices.Reverse(want)
			if got := backwards(t, l, f, 0, 1000); !slices.Equal(got, want) {
				t.Errorf("%d letters from the newest on, %d from the first on", len(got), len(want))
			}
			for range 10 {
				from, size := rand.Uint64N(letters+100)+1, 1+rand.IntN(60)
				after := want[max(0, slices.IndexFunc(append(want, 0), func(seq uint64) bool { return seq <= from })):]
				page, next, err := l.ListBack(t.Context(), f, from, size)
				ok(t, err)
				for i, d := range page {
					if d.Sequence != after[i] {
						t.Fatalf("from %d back: letter %d, want %d", from, d.Sequence, after[i])
					}
				}
				if more := len(page) < len(after); more != (next != 0) || more && len(page) != size {
					t.Errorf("from %d back: %d of %d letters, and on from %d", from, len(page), size, next)
				}
			}
		})
	}
}

// Letters long before the time that a filter begins with are not read.
func TestAFilterByTimeBeginsInTheMiddleOfTheLetters(t *testing.T) {
	b := queuetest.Run(t)
	q := must[*queue.Queue](t)(b.Queue(t.Context()))
	for range 6 {
		dead(t, b, q, "EMP-1", "unverified")
		dead(t, b, q, "EMP-2", "rejected")
	}
	all := deadLetters(t, b, queue.Filter{})
	at := func(seq int) time.Time { return all[seq-1].At.Add(queue.ClockSlack) }
	for _, test := range []struct {
		f          queue.Filter
		from, want uint64
	}{
		{queue.Filter{}, 3, 3},
		{queue.Filter{After: at(5)}, 1, 5},
		{queue.Filter{After: at(5)}, 9, 9},
		{queue.Filter{After: at(5), Reason: "rejected"}, 1, 6},
		{queue.Filter{After: at(12).Add(1)}, 1, 0},
		{queue.Filter{After: time.Time{}.Add(1)}, 1, 1},
	} {
		if got := must[uint64](t)(queue.Since(t.Context(), b, test.f, test.from)); got != test.want {
			t.Errorf("%s, from %d: begins with %d, want %d", test.f, test.from, got, test.want)
		}
	}
}
