package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

const (
	// maxUnsentAnswers bounds the answers of daemons that wait for their clients to read
	// them, in bytes. Each may have 16 MiB, and a slow client may take two minutes
	// for it.
	maxUnsentAnswers = 128 << 20
	// slowAfter is how old an answer must be before it can be cut off for this: a
	// client that reads needs less.
	slowAfter = 2 * time.Second
)

// errTooSlow cuts off a client.
var errTooSlow = errors.New("the client reads its answer too slowly, and others wait")

// unsentAnswers are the answers that are being sent. Above maxUnsentAnswers the
// oldest are cut off.
type unsentAnswers struct {
	mu      sync.Mutex // guards the fields below
	bytes   int
	answers []*unsentAnswer // the oldest first
}

type unsentAnswer struct {
	bytes  int
	since  time.Time
	cutOff context.CancelCauseFunc
	gone   bool
}

// send sends an answer to a client, as the function send does. A short one is not
// counted: it is with net/http, and costs no more than its connection.
func (u *unsentAnswers) send(w http.ResponseWriter, parts ...[]byte) error {
	all := 0
	for _, part := range parts {
		all += len(part)
	}
	if all <= heldBack {
		return send(w, parts...)
	}
	ctx, cutOff := context.WithCancelCause(context.Background())
	defer cutOff(nil)
	a := u.add(all, cutOff)
	defer u.remove(a)
	return sendUntil(ctx, w, parts...)
}

// sendNow is send for a stream, as the function sendNow is.
func (u *unsentAnswers) sendNow(w http.ResponseWriter, data []byte) error {
	ctx, cutOff := context.WithCancelCause(context.Background())
	defer cutOff(nil)
	a := u.add(len(data), cutOff)
	defer u.remove(a)
	return flushUntil(ctx, w, data)
}

func (u *unsentAnswers) add(bytes int, cutOff context.CancelCauseFunc) *unsentAnswer {
	a := &unsentAnswer{bytes: bytes, since: time.Now(), cutOff: cutOff}
	u.mu.Lock()
	u.answers = append(u.answers, a)
	u.bytes += bytes
	over := u.bytes > maxUnsentAnswers
	u.mu.Unlock()
	if over {
		u.trim()
		time.AfterFunc(slowAfter, u.trim) // those that are too young now
	}
	return a
}

func (u *unsentAnswers) remove(a *unsentAnswer) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.removeLocked(a)
}

func (u *unsentAnswers) removeLocked(a *unsentAnswer) {
	if a.gone {
		return
	}
	a.gone = true
	u.bytes -= a.bytes
	for i := range u.answers {
		if u.answers[i] == a {
			u.answers = append(u.answers[:i], u.answers[i+1:]...)
			return
		}
	}
}

// trim cuts off the oldest answers while there are too many bytes.
func (u *unsentAnswers) trim() {
	u.mu.Lock()
	defer u.mu.Unlock()
	for u.bytes > maxUnsentAnswers && time.Since(u.answers[0].since) >= slowAfter {
		oldest := u.answers[0]
		u.removeLocked(oldest)
		oldest.cutOff(errTooSlow)
	}
}

// acceptLogger logs why a listener accepts no connections: without descriptors
// nobody gets in, and net/http only waits and tries again.
type acceptLogger struct {
	net.Listener
	log  *slog.Logger
	next time.Time // when to log again; the goroutine that accepts uses it
}

// acceptLogPause is the time between two log lines about it.
const acceptLogPause = 30 * time.Second

func (l *acceptLogger) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil && !errors.Is(err, net.ErrClosed) && time.Now().After(l.next) {
		l.next = time.Now().Add(acceptLogPause)
		l.log.Warn("connections cannot be accepted", "address", l.Addr().String(), "error", err)
	}
	return conn, err
}
