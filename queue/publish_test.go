package queue_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"skillsync/queue"
	"skillsync/queue/queuetest"
)

func TestARecordPublishedTwiceIsStoredOnce(t *testing.T) {
	b := queuetest.Run(t)
	m := queue.Message{EmployeeID: "EMP-1", Data: []byte("{}"), ID: "EMP-1:7"}
	first := must[queue.Ack](t)(b.Publish(t.Context(), m))
	second := must[queue.Ack](t)(b.Publish(t.Context(), m))
	if first.Duplicate || !second.Duplicate || second.Sequence != first.Sequence || backlog(t, b) != 1 {
		t.Errorf("first %+v, second %+v, %d stored", first, second, backlog(t, b))
	}
}

func TestAPublisherKeepsTheOrderAndHearsOfEveryRecord(t *testing.T) {
	b := queuetest.Run(t)
	p := &queue.Publisher{Broker: b, MaxPending: 7}
	var acks []queue.Ack
	for i := range 100 {
		ok(t, p.Send(t.Context(), queue.Message{EmployeeID: fmt.Sprint(i), Data: fmt.Append(nil, i)}, func(a queue.Ack, err error) {
			ok(t, err)
			acks = append(acks, a)
		}))
		if pending := i + 1 - len(acks); pending > 7 {
			t.Fatalf("%d records pending", pending)
		}
	}
	ok(t, p.Flush(t.Context()))
	for i, a := range acks {
		if a.Sequence != uint64(i+1) {
			t.Fatalf("record %d is stored as %d", i, a.Sequence)
		}
	}
	if len(acks) != 100 || backlog(t, b) != 100 {
		t.Errorf("%d acknowledged, %d stored", len(acks), backlog(t, b))
	}
	ok(t, p.Send(t.Context(), queue.Message{EmployeeID: "once more"}, nil)) // a flushed publisher goes on
	ok(t, p.Flush(t.Context()))
}

func TestAFullStreamStopsThePublisherAtTheFirstRecordNotStored(t *testing.T) {
	b := queuetest.Run(t, queue.Topology{MaxBytes: 64 << 10})
	p := &queue.Publisher{Broker: b, MaxPending: 16}
	stored, refused := 0, 0
	var err error
	for i := 0; err == nil && i < 1000; i++ {
		err = p.Send(t.Context(), queue.Message{EmployeeID: fmt.Sprint(i), Data: make([]byte, 1000)}, func(_ queue.Ack, err error) {
			if err == nil && refused == 0 {
				stored++
			} else if err != nil {
				refused++
			}
		})
	}
	var unsent *queue.UnsentError
	if !errors.Is(err, queue.ErrFull) || !errors.As(err, &unsent) {
		t.Fatal("error:", err)
	}
	if unsent.Index != stored || uint64(stored) != backlog(t, b) || refused == 0 {
		t.Errorf("stopped at %d; %d stored by our count, %d by the broker's; %d refused", unsent.Index, stored, backlog(t, b), refused)
	}
	if again := p.Send(t.Context(), queue.Message{}, nil); !errors.Is(again, queue.ErrFull) || !errors.Is(p.Flush(t.Context()), queue.ErrFull) {
		t.Error("a publisher that stopped goes on:", again)
	}
	if _, err := b.Publish(t.Context(), queue.Message{Data: make([]byte, 1000)}); !errors.Is(err, queue.ErrFull) {
		t.Error("single:", err)
	}
}

func TestATooLargeRecordIsRefusedByName(t *testing.T) {
	b := queuetest.Run(t)
	for name, size := range map[string]int64{
		"more than the broker takes":                       b.MaxPayload() + 1,
		"more than leaves room for a dead letter's header": b.MaxPayload() - 1000,
	} {
		m := queue.Message{EmployeeID: "EMP-1", Data: make([]byte, size)}
		if _, err := b.Publish(t.Context(), m); !errors.Is(err, queue.ErrTooLarge) {
			t.Errorf("%s: %v", name, err)
		}
		p := &queue.Publisher{Broker: b}
		ok(t, p.Send(t.Context(), queue.Message{EmployeeID: "EMP-1"}, nil))
		if err := errors.Join(p.Send(t.Context(), m, nil), p.Flush(t.Context())); !errors.Is(err, queue.ErrTooLarge) || !strings.Contains(err.Error(), "record 2") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAPublisherBridgesAnOutageWithoutACopy(t *testing.T) {
	b := queuetest.Run(t)
	for name, lose := range map[string][2]bool{"requests lost": {true, false}, "answers lost": {false, true}} {
		t.Run(name, func(t *testing.T) {
			before := backlog(t, b)
			via, proxy := through(t, b)
			p := &queue.Publisher{Broker: via}
			next := 0
			for i := range 50 {
				if i == 20 {
					proxy.Lose(lose[0], lose[1])
				}
				ok(t, p.Send(t.Context(), queue.Message{Data: fmt.Append(nil, i)}, func(_ queue.Ack, err error) {
					ok(t, err)
					next++
				}))
			}
			proxy.Restore()
			ok(t, p.Flush(t.Context()))
			if next != 50 || backlog(t, b)-before != 50 {
				t.Errorf("%d acknowledged, %d stored", next, backlog(t, b)-before)
			}
		})
	}
}

func TestAPublisherThatLosesTheBrokerSaysSo(t *testing.T) {
	server := queuetest.Serve(t, t.TempDir(), "127.0.0.1:0")
	b := queuetest.Connect(t, server.URL())
	must[[]queue.Change](t)(b.Setup(t.Context(), queue.Topology{}))
	p := &queue.Publisher{Broker: b, Timeout: 200 * time.Millisecond}
	ok(t, p.Send(t.Context(), queue.Message{EmployeeID: "EMP-1"}, nil))
	ok(t, p.Flush(t.Context()))
	ok(t, p.Send(t.Context(), queue.Message{EmployeeID: "EMP-2"}, nil))
	ok(t, p.Flush(t.Context()))
	server.Shutdown()
	_, err := b.Publish(short(t), queue.Message{EmployeeID: "EMP-3"})
	if !errors.Is(err, queue.ErrUnreachable) {
		t.Error("single:", err)
	}
	if err := errors.Join(p.Send(short(t), queue.Message{EmployeeID: "EMP-3"}, nil), p.Flush(t.Context())); !errors.Is(err, queue.ErrUnreachable) {
		t.Error("publisher:", err)
	}
}

func TestAnUnansweredPublicationIsSentAgainUntilTheTimeout(t *testing.T) {
	b := queuetest.Run(t)
	via, proxy := through(t, b)
	p := &queue.Publisher{Broker: via, Timeout: 300 * time.Millisecond}
	ok(t, p.Send(t.Context(), queue.Message{EmployeeID: "EMP-1"}, nil))
	ok(t, p.Flush(t.Context()))
	ok(t, p.Send(t.Context(), queue.Message{EmployeeID: "EMP-2"}, nil))
	proxy.Lose(true, true)
	ok(t, p.Send(t.Context(), queue.Message{EmployeeID: "EMP-3"}, nil))
	err := p.Flush(t.Context())
	proxy.Restore()
	var unsent *queue.UnsentError
	if !errors.As(err, &unsent) || !errors.Is(err, queue.ErrUnreachable) {
		t.Fatal("error:", err)
	}
	if unsent.Index != 1 && unsent.Index != 2 { // the second may have been answered before
		t.Error("stopped at", unsent.Index)
	}
}
