package main

import (
	"context"
	"net/http"
	"sync"

	"github.com/coder/websocket"
)

// This file ends what was opened with a token or a client certificate that has been
// revoked since: the streams of the HTTP API and the links of users' daemons. Calls
// that are in flight end by themselves.

// openStreams are the responses that last until their clients go away.
type openStreams struct {
	mu  sync.Mutex // guards the field below
	all map[*http.Request]context.CancelFunc
}

func (s *openStreams) add(r *http.Request, end context.CancelFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = map[*http.Request]context.CancelFunc{}
	}
	s.all[r] = end
}

func (s *openStreams) remove(r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, r)
}

// take removes the streams of which revoked is true, and returns them.
func (s *openStreams) take(revoked func(*http.Request) bool) map[*http.Request]context.CancelFunc {
	s.mu.Lock()
	defer s.mu.Unlock()
	taken := map[*http.Request]context.CancelFunc{}
	for r, end := range s.all {
		if revoked(r) {
			taken[r] = end
			delete(s.all, r)
		}
	}
	return taken
}

// revocable is the handler of a stream: it ends the context of the request when its
// token is removed or changed, or its certificate is no longer accepted.
//
//go:noinline // each copy counts in the size of a release
func (a *api) revocable(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, end := context.WithCancel(r.Context())
		defer end()
		a.streams.add(r, end)
		defer a.streams.remove(r)
		if a.revoked(r) { // since ServeHTTP checked it
			return
		}
		h(w, r.WithContext(ctx))
	}
}

// revoked reports whether a request that was accepted would not be accepted now, or
// would see other machines and libraries.
func (a *api) revoked(r *http.Request) bool {
	now := a.access.identify(r)
	return now == nil || !now.equal(callerOf(r)) || a.clients.chainOf(r, nil).revoked() != nil
}

// endRevoked ends the streams whose tokens or certificates are no longer valid. Their
// clients come back, and the answer says what is wrong.
func (a *api) endRevoked() {
	for r, end := range a.streams.take(a.revoked) {
		end()
		a.log.Warn("a stream was ended: its token was removed or changed, or its certificate is no longer accepted", withToken([]any{"route", r.Pattern}, callerOf(r).name)...)
	}
}

// revoked returns why a link may no longer be that of a machine, "" if it may. A
// machine id that is not known yet is "".
func (a *linkAdmission) revoked(machineID string) string {
	if a.token != nil {
		now := a.tokens.current(a.token)
		switch {
		case now == nil:
			return "the token " + a.token.name + " was removed from the tokens file"
		case !now.allows(rightDaemon):
			return "the token " + a.token.name + " lacks the right daemon"
		case machineID != "" && !now.mayUseMachine(machineID):
			return "the token " + a.token.name + " is not for this machine_id"
		}
	}
	if err := a.chain.revoked(); err != nil {
		return err.Error()
	}
	return ""
}

// endRevoked closes the links whose tokens or certificates are no longer valid, with
// 1008. Their daemons dial again, and end when the answer is 401 or 403.
func (h *hub) endRevoked() {
	for _, c := range h.openLinks() {
		machineID := ""
		if params := c.handshake(); params != nil {
			machineID = params.MachineID
		}
		reason := c.revoked(machineID)
		if reason == "" {
			continue
		}
		h.log.Warn("a link was closed", withToken([]any{"machine_id", shownText(machineID), "reason", reason}, c.token.label())...)
		h.wg.Go(func() { c.link.closeWith(websocket.StatusPolicyViolation, closeReason(reason)) }) // ends within closeTimeout
	}
}

// openLinks returns the open links; none once the hub is closed.
func (h *hub) openLinks() (open []*hubConn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil
	}
	for c := range h.conns {
		open = append(open, c)
	}
	return open
}
