package genesys

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
)

// Not even a panic of the one who fetches leaves the others waiting.
func TestAFetchThatPanicsIsTakenOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s shared[int]
		fresh := func(n int) bool { return n != 0 }
		fetching, panicking := make(chan struct{}), make(chan struct{})
		go func() {
			defer func() {
				if recover() == nil {
					t.Error("the panic was swallowed")
				}
			}()
			_, _ = s.get(t.Context(), "test", fresh, func(context.Context) (int, error) {
				close(fetching)
				<-panicking
				panic("limiter broke")
			})
		}()
		<-fetching
		go func() {
			synctest.Wait() // the other waits
			close(panicking)
		}()
		n, err := s.get(t.Context(), "test", fresh, func(context.Context) (int, error) { return 7, nil })
		if n != 7 || err != nil || s.peek() != 7 {
			t.Errorf("%d, %v", n, err)
		}
	})
}

func TestAValueSurvivesAFailedFetch(t *testing.T) {
	s := shared[int]{value: 3}
	broken := errors.New("broken")
	_, err := s.get(t.Context(), "test", func(int) bool { return false }, func(context.Context) (int, error) { return 0, broken })
	if !errors.Is(err, broken) || s.peek() != 3 {
		t.Errorf("%d, %v", s.peek(), err)
	}
}
