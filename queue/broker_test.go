package queue_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/rs/zerolog"

	"skillsync/queue"
	"skillsync/queue/queuetest"
)

// free is an address where nobody listens.
func free(t testing.TB) string {
	t.Helper()
	l := must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0"))
	defer l.Close()
	return l.Addr().String()
}

func TestAnUnreachableBrokerIsNamedWithoutCredentials(t *testing.T) {
	address := free(t)
	_, err := queue.Connect(t.Context(), queue.Config{URL: "nats://me:secret@" + address, Wait: 200 * time.Millisecond})
	if err == nil {
		t.Fatal("connected")
	}
	want := "cannot reach the broker at nats://" + address + ": "
	if text := err.Error(); !strings.HasPrefix(text, want) || !strings.HasSuffix(text, "; is it running? (NATS_URL)") || strings.Contains(text, "secret") {
		t.Error(text)
	}
}

func TestAWorkerWaitsForTheBrokerAndSaysSo(t *testing.T) {
	address := free(t)
	var log lines
	states := make(chan bool, 10)
	b := must[*queue.Broker](t)(queue.Connect(t.Context(), queue.Config{
		URL: "nats://" + address, Log: zerolog.New(&log), OnState: func(connected bool) { states <- connected },
	}))
	defer b.Close()
	if b.Connected() {
		t.Fatal("connected to nobody")
	}
	if _, err := b.Check(short(t), queue.Topology{}); !errors.Is(err, queue.ErrUnreachable) {
		t.Error("check:", err)
	}
	server := queuetest.Serve(t, t.TempDir(), address)
	defer server.Shutdown()
	if !<-states || !b.Connected() {
		t.Error("not connected")
	}
	must[[]queue.Change](t)(b.Setup(t.Context(), queue.Topology{}))
	if text := log.String(); !strings.Contains(text, "waiting for the broker") || !strings.Contains(text, "connected to the broker") {
		t.Error("log:", text)
	}
}

func TestWrongCredentialsAreNotAnUnreachableBroker(t *testing.T) {
	admin, _ := withUsers(t, nil)
	start := time.Now()
	_, err := queue.Connect(t.Context(), queue.Config{URL: admin.URL(), User: "worker", Password: "guess", Wait: 10 * time.Second})
	if err == nil || !strings.Contains(err.Error(), "does not let us in") || strings.Contains(err.Error(), "guess") {
		t.Error("error:", err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("it took %v to say so", took)
	}
}

func TestAWorkerWithWrongCredentialsWaitsAndSaysWhy(t *testing.T) {
	admin, _ := withUsers(t, nil)
	var log lines
	b := must[*queue.Broker](t)(queue.Connect(t.Context(), queue.Config{
		URL: admin.URL(), User: "worker", Password: "guess", Log: zerolog.New(&log),
	}))
	defer b.Close()
	err := b.Await(short(t))
	if !errors.Is(err, queue.ErrUnreachable) || !strings.Contains(strings.ToLower(err.Error()+log.String()), "authorization violation") {
		t.Errorf("%v; log %s", err, log.String())
	}
	if strings.Contains(err.Error()+log.String(), "guess") {
		t.Error("the password is shown")
	}
}

func TestTLSTrustsTheAuthorityGivenAndNoOther(t *testing.T) {
	ca, cert, key := certificate(t)
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: -1, NoSigs: true, NoLog: true, TLS: true, TLSTimeout: 5, TLSVerify: true,
		TLSConfig: must[*tls.Config](t)(server.GenTLSConfig(&server.TLSConfigOpts{CertFile: cert, KeyFile: key, CaFile: ca, Verify: true})),
	})
	ok(t, err)
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("the broker does not start")
	}
	url := strings.Replace(s.ClientURL(), "nats://", "tls://", 1)
	b := must[*queue.Broker](t)(queue.Connect(t.Context(), queue.Config{URL: url, CAFile: ca, CertFile: cert, KeyFile: key, Wait: 5 * time.Second}))
	b.Close()
	for name, c := range map[string]queue.Config{
		"an authority nobody trusts": {URL: url, CertFile: cert, KeyFile: key, Wait: 100 * time.Millisecond},
		"no certificate of our own":  {URL: url, CAFile: ca, Wait: 100 * time.Millisecond},
		"a file that is not there":   {URL: url, CAFile: "nothing.pem", Wait: 100 * time.Millisecond},
	} {
		if b, err := queue.Connect(t.Context(), c); err == nil {
			b.Close()
			t.Errorf("%s: connected", name)
		}
	}
}

// certificate makes one for 127.0.0.1 that is its own authority.
func certificate(t testing.TB) (ca, cert, key string) {
	t.Helper()
	private := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der := must[[]byte](t)(x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private))
	secret := must[[]byte](t)(x509.MarshalPKCS8PrivateKey(private))
	cert, key = filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "key.pem")
	ok(t, os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	ok(t, os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), 0o600))
	return cert, cert, key
}

func TestARequestInALostConnectionDoesNotWaitForItsTimeLimit(t *testing.T) {
	b := queuetest.Run(t)
	via, proxy := through(t, b)
	kv := must[*queue.KV](t)(via.KV(t.Context(), queue.LimitsBucket))
	proxy.Lose(false, true)
	failed := make(chan error)
	go func() {
		_, err := kv.Update(context.WithoutCancel(t.Context()), "k", []byte("1"), 0)
		failed <- err
	}()
	own := must[*queue.KV](t)(b.KV(t.Context(), queue.LimitsBucket))
	ctx, cancel := context.WithCancel(t.Context())
	_ = own.Watch(ctx, "k", func(queue.Entry) { cancel() }) // it happened …
	start := time.Now()
	proxy.Restore() // … but the reply is lost
	if err := <-failed; !errors.Is(err, queue.ErrUnreachable) || time.Since(start) > 4*time.Second {
		t.Errorf("after %v: %v", time.Since(start), err)
	}
	if _, err := kv.Update(t.Context(), "k", []byte("1"), 0); !errors.Is(err, queue.ErrConflict) {
		t.Error("said again:", err)
	}
}

func TestTheBrokersClockIsKnown(t *testing.T) {
	b := queuetest.Run(t)
	offset := must[time.Duration](t)(b.Offset(t.Context()))
	if offset.Abs() > time.Second { // the same machine
		t.Error("offset", offset)
	}
	if now := must[time.Time](t)(b.Now(t.Context())); time.Since(now).Abs() > time.Second {
		t.Error("now", now)
	}
}

func TestAClosedBrokerAnswersAtOnce(t *testing.T) {
	b := queuetest.Run(t)
	b.Close()
	start := time.Now()
	if _, err := b.Publish(t.Context(), queue.Message{EmployeeID: "EMP-1"}); !errors.Is(err, queue.ErrUnreachable) || time.Since(start) > time.Second {
		t.Errorf("after %v: %v", time.Since(start), err)
	}
	b.Close() // harmless
}

// lines is a log that may be read while it is written.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
