package main

import (
	"context"
	"errors"
	"maps"
	"net"
	"sync"
	"syscall"
	"time"
)

// This file is how a scheduler ends without a failed call. It drains: it starts no
// new work and ends when it is idle. With --cluster a proxy has other schedulers for
// the work, and none is refused: a proxy that would send a POST again after a 503
// would also do so after an answer that was cut, when the call may have run. Every
// proxy passes over a scheduler that it cannot connect to. So draining begins with
// drainNotice, in which /readyz fails and work is taken. After it no connections are
// accepted, and the users' daemons are sent away as soon as no call runs on their
// link.

const (
	// drainPoll is how often a draining scheduler looks whether it is idle.
	drainPoll = 250 * time.Millisecond
	// drainNotice is how long a proxy has to notice that /readyz fails: three looks,
	// one a second.
	drainNotice = 3 * time.Second
	// drainLimit bounds the drain that SIGTERM begins. With the time to stop it stays
	// below the 30 s after which Kubernetes kills a container.
	drainLimit = 20 * time.Second
)

// drain does the work of api.drain. It closes idle when no request runs, no daemon
// of the pool works and, with --cluster, no user's daemon is connected. It gives up
// when ctx ends.
func (s *scheduler) drain(ctx context.Context) {
	if s.cfg.cluster {
		select {
		case <-time.After(drainNotice):
		case <-ctx.Done():
			return
		}
		s.main.end() // what comes on open connections is still served: it cannot go elsewhere
	}
	ticker := time.NewTicker(drainPoll)
	defer ticker.Stop()
	for {
		if s.cfg.cluster { // a request that has just arrived is counted at the next look
			select {
			case <-ticker.C:
			case <-ctx.Done():
				return
			}
		}
		if n := s.pool.counts(); (!s.cfg.cluster || s.hub.sendAway()) && s.requests.count() == 0 && n.Busy == 0 && n.Starting == 0 {
			close(s.idle)
			return
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// drainBefore drains for drainLimit at most, before the scheduler stops because of a
// SIGTERM, until force ends.
func (s *scheduler) drainBefore(stopping, force context.Context) {
	cause, _ := errors.AsType[*signalError](context.Cause(stopping))
	if !s.cfg.cluster || cause == nil || cause.signal != syscall.SIGTERM {
		return
	}
	s.api.drain()
	select {
	case <-s.idle:
	case <-force.Done():
	case <-time.After(drainLimit):
		s.cfg.log.Warn("requests still run after the time to drain", "after_ms", drainLimit.Milliseconds())
	}
}

// sendAway closes the links of users' daemons on which no call runs, with 1001, and
// reports whether none is left. The daemons dial again.
func (h *hub) sendAway() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	left := false
	for c := range maps.Keys(h.conns) {
		if c.child != "" {
			continue
		}
		left = true
		h.leaveLocked(c)
	}
	return !left
}

// endingListener is a listener that can end without resetting connections.
type endingListener struct {
	net.Listener
	mu    sync.Mutex // held while end works; guards the fields below
	ended bool
	rest  []net.Conn // to be accepted after the end
}

func (l *endingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil {
		return conn, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.rest); n > 0 {
		conn, l.rest = l.rest[n-1], l.rest[:n-1]
		return conn, nil
	}
	if l.ended {
		err = net.ErrClosed
	}
	return nil, err
}

// end closes the listener. Connections that the system has accepted meanwhile, on
// which a request may have been sent, are still served.
func (l *endingListener) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	l.rest = acceptWaiting(l.Listener)
	_ = l.Close() // no new connections
}
