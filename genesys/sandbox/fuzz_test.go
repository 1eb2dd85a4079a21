package sandbox

import (
	"fmt"
	"math"
	"net/http"
	"strings"
	"testing"
)

// FuzzPatch holds what every patch of skills must keep, whatever its body.
func FuzzPatch(f *testing.F) {
	f.Add([]byte(salesPatch))
	f.Add([]byte(setSkills("add", `[{"name":"Billing","proficiency":4.5},{"name":"Sales"}]`)))
	f.Add([]byte(patchHead + `{"op":"Remove","path":"` + urnSkills + `[name eq \"Spanish\"]"}]}`))
	f.Add([]byte(patchHead + `{"op":"add","value":{"` + urnUser + `":{"routingSkills":[]}}}]}`))
	f.Add([]byte(`{"schemas":null,"Operations":{}}`))
	exists := map[string]string{"Sales": "s", "Billing": "b", "Spanish": "e"}
	before := []Skill{{"Billing", 1}, {"Spanish", 3}}
	f.Fuzz(func(t *testing.T, body []byte) {
		ops, p := decodePatch(body, true)
		if p == nil {
			var after []Skill
			if after, p = (editor{exists: exists}).apply(before, ops); p == nil {
				checkSkills(t, after, exists)
			}
		}
		if p != nil && (p.scimType == "" || p.detail == "") {
			t.Errorf("a problem without words: %+v", p)
		}
		if listed(before) != "Billing=1,Spanish=3" {
			t.Fatalf("changed in place: %s", listed(before))
		}
	})
}

func checkSkills(t *testing.T, skills []Skill, exists map[string]string) {
	t.Helper()
	for i, sk := range skills {
		if exists[sk.Name] == "" || sk.Proficiency < 0 || sk.Proficiency > 5 || math.IsNaN(sk.Proficiency) {
			t.Errorf("%+v", sk)
		}
		if i > 0 && skills[i-1].Name >= sk.Name {
			t.Errorf("unsorted or twice: %s", listed(skills))
		}
	}
}

// FuzzAttributes holds the same for the other contract.
func FuzzAttributes(f *testing.F) {
	f.Add([]byte(`{"Operations":[{"op":"add","path":"` + attributesPath + `","value":{"attributes":[{"name":"department","value":"Sales"}]}}]}`))
	f.Add([]byte(`{"Operations":[{"op":"replace","path":"` + attributesPath + `","value":{"attributes":[null]}}]}`))
	before := map[string]string{"region": "EMEA"}
	f.Fuzz(func(t *testing.T, body []byte) {
		ops, p := decodePatch(body, false)
		if p != nil {
			return
		}
		after, p := editAttributes(before, ops)
		if _, empty := after[""]; p == nil && empty {
			t.Error("an attribute without a name")
		}
		if len(before) != 1 || before["region"] != "EMEA" {
			t.Fatalf("changed in place: %v", before)
		}
	})
}

// FuzzRequest: no request makes the sandbox panic, and every answer has a status.
func FuzzRequest(f *testing.F) {
	f.Add("GET", "/api/v2/users?id=a&pageSize=1", []byte(nil))
	f.Add("POST", "/api/v2/users/search", []byte(`{"query":[{"type":"EXACT","fields":["id"],"value":"x"}]}`))
	f.Add("GET", "/api/v2/users/search?query=externalId:%22a%22", []byte(nil))
	f.Add("PATCH", "/scim/v2/Users/"+emp1, []byte(`{}`))
	f.Add("GET", "/api/v2/users/externalid/a%2Fb/%zz", []byte(nil))
	f.Add("POST", "/_sandbox/faults", []byte("any:500"))
	f.Fuzz(func(t *testing.T, method, path string, body []byte) {
		s := New(Org(1))
		req, err := http.NewRequestWithContext(t.Context(), method, "http://sandbox.test", strings.NewReader(string(body)))
		if err != nil || !strings.HasPrefix(path, "/") {
			t.Skip()
		}
		u, err := req.URL.Parse("http://sandbox.test" + path)
		if err != nil {
			t.Skip()
		}
		req.URL = u
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Authorization", "Bearer "+s.tokens.issue(0).secret)
		res, err := s.Transport().RoundTrip(req)
		if err != nil || res.StatusCode < 200 {
			t.Errorf("%s %s: %v %v", method, path, res, err)
		}
	})
}

// BenchmarkBatchRead and BenchmarkPatch measure the sandbox itself, so that what other
// benchmarks measure against it is the client.
func BenchmarkBatchRead(b *testing.B) {
	cfg := Org(100)
	var q strings.Builder
	for i := range cfg.Users {
		cfg.Users[i].Skills = []Skill{{"Billing", 4}, {"Sales", 3}, {"Spanish", 2}}
		fmt.Fprintf(&q, "&id=%s", UserID(cfg.Users[i].ExternalID))
	}
	benchmark(b, cfg, "GET", "/api/v2/users?expand=skills&pageSize=100"+q.String(), "")
}

func BenchmarkPatch(b *testing.B) {
	benchmark(b, Org(1), "PATCH", "/api/v2/scim/v2/users/"+emp1, salesPatch)
}

func benchmark(b *testing.B, cfg Config, method, path, body string) {
	cfg.Limit = 1 << 30
	s := New(cfg)
	token := s.tokens.issue(0).secret
	b.ReportAllocs()
	for b.Loop() {
		req, _ := http.NewRequestWithContext(b.Context(), method, "http://sandbox.test"+path, strings.NewReader(body))
		req.Header.Set("Authorization", "Bearer "+token)
		req.Header.Set("Content-Type", "application/json")
		w := &recorder{header: http.Header{}}
		s.ServeHTTP(w, req)
		if w.status != 200 {
			b.Fatal(w.status, w.body.String())
		}
	}
}
