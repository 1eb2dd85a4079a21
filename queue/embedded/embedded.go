// Package embedded runs a NATS server with JetStream inside this process, for zero set-up. It
// knows the server, its folder and who may use it; it must not know what is stored there.
package embedded

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

const (
	lockFile = "skillsync.lock"
	urlFile  = "nats.url"

	defaultListen = "127.0.0.1:4222"
	maxPayload    = 2 << 20 // a record of 1 MiB and all that a dead letter adds to it
)

// ErrLocked says that another process has a server running in the folder: connect to that one.
// The error is a *LockedError.
var ErrLocked = errors.New("in use by another process")

// A LockedError tells where the other server is.
type LockedError struct {
	Dir string
	URL string // "" while it starts
}

func (e *LockedError) Error() string {
	text := "data folder " + e.Dir + " is " + ErrLocked.Error()
	if e.URL != "" {
		text += ", whose broker is at " + e.URL
	}
	return text
}

func (e *LockedError) Is(target error) bool { return target == ErrLocked }

// Options of a server. Only Dir is needed.
type Options struct {
	Dir string // holds the messages; made if it does not exist; one server at a time
	// Listen is host:port, on loopback only, as there is no password. Default: 127.0.0.1:4222,
	// or any free port if that one is taken. Port 0 takes any free one.
	Listen   string
	MaxBytes int64 // of all messages; default: most of the free space on the disk
	// Log is told of warnings and errors of the server; nil = nobody.
	Log func(warning bool, text string)
	// NoSync trades safety for speed: what was acknowledged may be lost when the machine (not
	// the process) stops. For tests.
	NoSync bool
}

// A Server is running until Shutdown.
type Server struct {
	server *server.Server
	lock   *os.File
	dir    string
}

// Start starts a server and returns when it is ready.
func Start(o Options) (*Server, error) {
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the data folder: %w", err)
	}
	// NATS does not lock its store: two servers in one folder would both accept messages, and lose them.
	lock, err := takeLock(filepath.Join(o.Dir, lockFile))
	if errors.Is(err, ErrLocked) {
		return nil, &LockedError{Dir: o.Dir, URL: readURL(o.Dir)}
	}
	if err != nil {
		return nil, fmt.Errorf("lock the data folder: %w", err)
	}
	s := &Server{lock: lock, dir: o.Dir}
	if err := s.start(o); err != nil {
		s.Shutdown()
		return nil, fmt.Errorf("start the broker: %w", err)
	}
	return s, nil
}

func (s *Server) start(o Options) (err error) {
	host, port, err := listen(o.Listen)
	if err != nil {
		return err
	}
	s.server, err = server.NewServer(&server.Options{
		ServerName: "skillsync",
		Host:       host,
		Port:       port,
		JetStream:  true,
		StoreDir:   o.Dir,
		// An acknowledgement means "on disk": by default the server leaves it to the operating
		// system for two minutes.
		SyncAlways:        !o.NoSync,
		MaxPayload:        maxPayload,
		JetStreamMaxStore: o.MaxBytes,
		NoSigs:            true, // signals are for the process that embeds it
	})
	if err != nil {
		return err
	}
	log := &logger{tell: o.Log}
	s.server.SetLoggerV2(log, false, false, false)
	s.server.Start()
	for deadline := time.Now().Add(30 * time.Second); !s.server.ReadyForConnections(50 * time.Millisecond); {
		if log.gaveUp() || time.Now().After(deadline) {
			return fmt.Errorf("it gave up: %s", log.last())
		}
	}
	return os.WriteFile(filepath.Join(s.dir, urlFile), []byte(s.URL()+"\n"), 0o600)
}

// URL is where clients connect to.
func (s *Server) URL() string { return s.server.ClientURL() }

// Shutdown stops the server and returns when its files are closed and the folder is free.
func (s *Server) Shutdown() {
	if s.server != nil {
		s.server.Shutdown()
		s.server.WaitForShutdown()
	}
	_ = os.Remove(filepath.Join(s.dir, urlFile)) // without the lock it means nothing anyway
	_ = s.lock.Close()                           // frees the lock
}

// Find tells where a server that runs in the folder is, be it of this process or of another.
func Find(dir string) (url string, ok bool) {
	f, err := os.Open(filepath.Join(dir, lockFile))
	if err != nil {
		return "", false
	}
	defer f.Close()
	if !lockedByOther(f) {
		return "", false // what nats.url says is left from a process that was killed
	}
	url = readURL(dir)
	return url, url != ""
}

func readURL(dir string) string {
	data, _ := os.ReadFile(filepath.Join(dir, urlFile)) // a server that starts has none yet
	return strings.TrimSpace(string(data))
}

// listen finds the address: the server would not say why it cannot have one.
func listen(address string) (host string, port int, err error) {
	fallback := address == ""
	if fallback {
		address = defaultListen
	}
	host, _, err = net.SplitHostPort(address)
	if err != nil {
		return "", 0, err
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return "", 0, fmt.Errorf("%s is not a loopback address: the embedded broker asks for no password, run a NATS server for that", host)
	}
	l, err := net.Listen("tcp", address)
	if err != nil && fallback {
		l, err = net.Listen("tcp", net.JoinHostPort(host, "0"))
	}
	if err != nil {
		return "", 0, err
	}
	defer l.Close()
	_, text, _ := net.SplitHostPort(l.Addr().String())
	port, err = strconv.Atoi(text)
	return host, port, err
}
