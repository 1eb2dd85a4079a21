package main

import (
	"context"
	"log"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"skillsync/genesys/sandbox"
)

// tenLines is what the README shows to people who publish from Go.
func tenLines(ctx context.Context, url string, record []byte) {
	nc, err := nats.Connect(url)
	if err != nil {
		log.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		log.Fatal(err)
	}
	// The acknowledgement is the broker's promise: from now on the record is skillsync's business.
	if _, err := js.Publish(ctx, "employees.records.EMP-0001", record, jetstream.WithMsgID("hr-2026-11-23-EMP-0001")); err != nil {
		log.Fatal(err)
	}
}

func TestAPlainNATSClientIsAFirstClassProducer(t *testing.T) {
	t.Parallel()
	r := newRig(t, sandbox.Org(10))
	tenLines(t.Context(), r.url, []byte(`{"employee_id":"EMP-0001","department":"Support-Tier2"}`))
	tenLines(t.Context(), r.url, []byte(`{"employee_id":"EMP-0001","department":"Support-Tier2"}`)) // the same message id: stored once

	nc, err := nats.Connect(r.url) // and without a key, by request and reply, like `nats req`
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	for _, body := range []string{`{"employee_id":"EMP-0002","department":"Billing"}`, `no JSON at all`} {
		reply, err := nc.RequestWithContext(t.Context(), "employees.records", []byte(body))
		if err != nil || !strings.Contains(string(reply.Data), `"stream":"EMPLOYEES"`) {
			t.Fatalf("reply %v, %v", reply, err)
		}
	}
	r.start(nil)
	r.count = 3
	wantCount(t, r.settle(time.Minute), map[string]int{"verified": 2, "bad_record": 1})
}

func TestTheREADMEShowsTheGoThatIsTested(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("producer_test.go")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)```go\n(.*?)```").FindSubmatch(readme)
	if block == nil {
		t.Fatal("the README shows no Go")
	}
	for line := range strings.Lines(string(block[1])) {
		if !strings.Contains(string(source), strings.TrimSpace(line)) {
			t.Errorf("not tested: %s", line)
		}
	}
}
