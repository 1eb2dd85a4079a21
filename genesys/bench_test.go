package genesys_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"skillsync/genesys"
)

// newBenchClient returns a client of a server that answers at once.
func newBenchClient(b *testing.B) *genesys.Client {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/oauth/token":
			fmt.Fprint(w, `{"access_token":"t","token_type":"bearer","expires_in":86400}`)
		case r.Method == http.MethodGet:
			var users strings.Builder
			for i, id := range r.URL.Query()["id"] {
				if i > 0 {
					users.WriteByte(',')
				}
				fmt.Fprintf(&users, `{"id":%q,"version":7,"skills":[{"id":"s","name":"Billing","proficiency":4.0,"state":"active"}]}`, id)
			}
			fmt.Fprintf(w, `{"entities":[%s]}`, users.String())
		}
	}))
	b.Cleanup(srv.Close)
	return &genesys.Client{API: srv.URL, ClientID: "id", ClientSecret: "hush", Profile: genesys.RoutingSkills}
}

func BenchmarkPatch(b *testing.B) {
	c := newBenchClient(b)
	p := genesys.Patch{Skills: []genesys.Skill{{Name: "Billing", Proficiency: 4}, {Name: "Sales", Proficiency: 2.5}}, Version: "7"}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := c.Patch(b.Context(), "3f2504e0-4f89-41d3-9a0c-0305e82c3301", p); err != nil {
				b.Error(err)
			}
		}
	})
}

func BenchmarkBatchedReads(b *testing.B) {
	for _, callers := range []int{1, 16, 256} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			c := newBenchClient(b)
			requests := make(chan struct{}, 1<<20)
			c.Observe = func(context.Context, genesys.Exchange) {
				select {
				case requests <- struct{}{}:
				default:
				}
			}
			next := make(chan int, callers)
			done := make(chan struct{})
			for range callers {
				go func() {
					defer func() { done <- struct{}{} }()
					for i := range next {
						if _, err := c.User(b.Context(), fmt.Sprintf("3f2504e0-4f89-41d3-9a0c-%012d", i%1000)); err != nil {
							b.Error(err)
						}
					}
				}()
			}
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				next <- i
			}
			close(next)
			for range callers {
				<-done
			}
			b.ReportMetric(float64(len(requests))/float64(b.N), "requests/op")
		})
	}
}
