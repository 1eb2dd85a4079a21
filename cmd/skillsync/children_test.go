package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"skillsync/genesys/sandbox"
	"skillsync/queue"
	"skillsync/queue/embedded"
)

const roleVariable = "SKILLSYNC_TEST_ROLE"

// A helper is this test binary in another role.
type helper struct {
	cmd *exec.Cmd
	url string // where it answers
}

// child runs this test binary in another role, and returns the URL where it answers.
func child(b testing.TB, role string, config any) (url string) {
	b.Helper()
	return childProcess(b, role, config).url
}

func childProcess(b testing.TB, role string, config any) helper {
	b.Helper()
	text, err := json.Marshal(config)
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleVariable+"="+role, "SKILLSYNC_TEST_CONFIG="+string(text))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // Wait tells if it was gone
		if err := cmd.Wait(); err != nil {
			b.Errorf("%s: %v", role, err)
		}
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		b.Fatalf("%s: %v", role, err)
	}
	return helper{cmd, strings.TrimSpace(line)}
}

// playRole is main of a child.
func playRole(role string) error {
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()
	config := []byte(os.Getenv("SKILLSYNC_TEST_CONFIG"))
	switch role {
	case "broker":
		return playBroker(ctx)
	case "sandbox":
		var o orgOf
		if err := json.Unmarshal(config, &o); err != nil {
			return err
		}
		return playSandbox(ctx, o)
	case "bare":
		var o bareOf
		if err := json.Unmarshal(config, &o); err != nil {
			return err
		}
		return playBare(ctx, o)
	}
	return fmt.Errorf("no role %q", role)
}

func playBroker(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "skillsync-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	s, err := embedded.Start(embedded.Options{Dir: dir, Listen: "127.0.0.1:0", NoSync: true})
	if err != nil {
		return err
	}
	defer s.Shutdown()
	fmt.Println(s.URL())
	<-ctx.Done()
	return nil
}

// An orgOf is what the sandbox of a benchmark is told.
type orgOf struct {
	Users, Right, Limit int // Right: so many have just what their records say
	Instant             bool
}

func (o orgOf) config() sandbox.Config {
	cfg := sandbox.Org(o.Users)
	for i := range cfg.Users {
		cfg.Users[i].Skills = []sandbox.Skill{{Name: "Spanish", Proficiency: 3}}
		if i < o.Right {
			cfg.Users[i].Skills = append(cfg.Users[i].Skills, sandbox.Skill{Name: "Billing", Proficiency: 4})
		}
	}
	cfg.Limit, cfg.LimitShared = o.Limit, true
	if !o.Instant {
		cfg.PatchLatency, cfg.ReadLatency = 20*time.Millisecond, 5*time.Millisecond
	}
	return cfg
}

func playSandbox(ctx context.Context, o orgOf) error {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s := startServer(ln, sandbox.New(o.config()), func(err error) { panic(err) })
	defer s.stop()
	fmt.Println(s.url)
	<-ctx.Done()
	return nil
}

// A bareOf is what the hand-written loop is told.
type bareOf struct{ NATS, Org string }

// playBare is the loop that one would write without skillsync.
func playBare(ctx context.Context, o bareOf) error {
	nc, err := nats.Connect(o.NATS)
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	consumer, err := js.Consumer(ctx, queue.Stream, queue.Consumer)
	if err != nil {
		return err
	}
	const atOnce = 64
	loop := bareLoop{org: o.Org, http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: atOnce}}}
	if err := loop.signIn(ctx); err != nil {
		return err
	}
	records := make(chan jetstream.Msg)
	var handlers sync.WaitGroup
	failed := make(chan error, atOnce)
	for range atOnce {
		handlers.Go(func() {
			for msg := range records {
				if err := loop.handle(ctx, msg); err != nil && ctx.Err() == nil {
					failed <- err
					return
				}
			}
		})
	}
	consuming, err := consumer.Consume(func(msg jetstream.Msg) { records <- msg })
	if err != nil {
		return err
	}
	fmt.Println("working")
	select {
	case err = <-failed:
	case <-ctx.Done():
	}
	consuming.Drain()
	<-consuming.Closed()
	close(records)
	handlers.Wait()
	return err
}

type bareLoop struct {
	org, token string
	http       *http.Client
}

func (l *bareLoop) signIn(ctx context.Context) error {
	var answer struct {
		Token string `json:"access_token"`
	}
	form := url.Values{"grant_type": {"client_credentials"}}.Encode()
	err := l.call(ctx, http.MethodPost, "/oauth/token", "application/x-www-form-urlencoded", []byte(form), &answer)
	l.token = answer.Token
	return err
}

// handle patches a user, reads the skills back, and acknowledges.
func (l *bareLoop) handle(ctx context.Context, msg jetstream.Msg) error {
	var rec struct {
		UserID     string `json:"user_id"`
		Department string `json:"department"`
	}
	if err := json.Unmarshal(msg.Data(), &rec); err != nil {
		return err
	}
	patch := []byte(`{"schemas":["urn:ietf:params:scim:api:messages:2.0:PatchOp"],"Operations":[{"op":"replace",` +
		`"path":"urn:ietf:params:scim:schemas:extension:genesys:purecloud:2.0:User:routingSkills",` +
		`"value":[{"name":"Spanish","proficiency":3.0},{"name":"` + rec.Department + `","proficiency":4.0}]}]}`)
	if err := l.call(ctx, http.MethodPatch, "/api/v2/scim/v2/users/"+rec.UserID, "application/scim+json", patch, nil); err != nil {
		return err
	}
	var skills struct {
		Entities []struct {
			Name string `json:"name"`
		} `json:"entities"`
	}
	if err := l.call(ctx, http.MethodGet, "/api/v2/users/"+rec.UserID+"/routingskills", "", nil, &skills); err != nil {
		return err
	}
	for _, s := range skills.Entities {
		if s.Name == rec.Department {
			return msg.Ack()
		}
	}
	return errors.New("not verified")
}

func (l *bareLoop) call(ctx context.Context, method, path, contentType string, body []byte, into any) error {
	req, err := http.NewRequestWithContext(ctx, method, l.org+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	if l.token != "" {
		req.Header.Set("Authorization", "Bearer "+l.token)
	} else {
		req.SetBasicAuth("sandbox", "sandbox")
	}
	res, err := l.http.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	switch {
	case err != nil:
		return err
	case res.StatusCode/100 != 2:
		return fmt.Errorf("%s %s: %s", method, path, res.Status)
	case into == nil:
		return nil
	}
	return json.Unmarshal(answer, into)
}
