package embedded

import (
	"fmt"
	"sync"
)

// A logger passes on warnings and errors of the server, and drops the rest.
type logger struct {
	tell func(warning bool, text string)

	mu   sync.Mutex
	text string // the last one
	over bool   // the server cannot go on
}

func (l *logger) Noticef(string, ...any) {}
func (l *logger) Debugf(string, ...any)  {}
func (l *logger) Tracef(string, ...any)  {}

func (l *logger) Warnf(format string, v ...any)  { l.log(true, format, v) }
func (l *logger) Errorf(format string, v ...any) { l.log(false, format, v) }

// Fatalf is an error like others: the process is not the server's to end.
func (l *logger) Fatalf(format string, v ...any) {
	l.log(false, format, v)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.over = true
}

func (l *logger) log(warning bool, format string, v []any) {
	text := fmt.Sprintf(format, v...)
	l.mu.Lock()
	l.text = text
	l.mu.Unlock()
	if l.tell != nil {
		l.tell(warning, text)
	}
}

func (l *logger) last() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text
}

func (l *logger) gaveUp() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.over
}
