package main

import (
	linked "container/list"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
)

// This file is the server's end of one link, from the upgrade to the answer to its
// handshake.

// linkAdmission holds what the upgrade request of a link says about its machine.
type linkAdmission struct {
	child     string         // the machine id that its token is for; "" for a user's daemon
	token     *apiToken      // of a user's daemon, from the tokens file; nil without one
	tokens    *tokensFile    // nil without a token
	chain     *acceptedChain // nil where no certificate is required
	claimed   string         // the machine id of the header; "" without one
	certified string         // the machine id of its client certificate; "" without one
}

// hubConn is one daemon's link. It is the handler of its peer.
type hubConn struct {
	linkAdmission
	hub   *hub
	link  *link
	peer  *peer
	ready chan struct{} // closed when the handshake was accepted and answered
	done  chan struct{} // closed when the link has ended
	load  machineLoad
	pace  *rateLimit // of the messages that answer nothing

	leaving bool        // leave runs; guarded by the hub's lock
	late    *time.Timer // closes a link without a handshake

	unfinished *linked.Element // in the hub's list, whose lock guards it; nil if it is not there

	mu     sync.Mutex       // guards the field below
	params *handshakeParams // nil before the handshake
}

// serve runs a link from the upgrade to its end, in a goroutine of its own: that
// of the HTTP server holds the request.
func (h *hub) serve(conn *websocket.Conn, hooks *linkHooks, admitted linkAdmission) {
	hooks.guard.buffers = &h.frames
	l := newLink(conn, hooks, h.maxMessage, h.times, h.clock, h.log)
	c := &hubConn{linkAdmission: admitted, hub: h, link: l, ready: make(chan struct{}), done: make(chan struct{})}
	l.buffers = &h.buffers
	c.peer = newPeer(l, c, h.maxMessage, h.log)
	c.peer.lastID = firstRequestID()
	c.pace = newRateLimit(unaskedRate, unaskedBurst)
	c.pace.left = unaskedBegin
	c.peer.unasked, l.unasked = c.unasked, c.unasked
	oldest, ok := h.add(c)
	if !ok {
		l.close(websocket.StatusGoingAway, "the server stops")
		return
	}
	go c.run(oldest) // close waits for it
}

// run runs a link that add has counted. oldest, unless nil, has to make room.
func (c *hubConn) run(oldest *hubConn) {
	defer c.hub.wg.Done()
	if oldest != nil {
		_ = oldest.link.fail(errTooManyUnfinished)
	}
	c.late = time.AfterFunc(handshakeTimeout, func() {
		if c.handshake() == nil {
			c.link.sendClose(websocket.StatusPolicyViolation, "no handshake")
		}
	})
	err := c.peer.run()
	c.late.Stop()
	c.hub.drop(c, err)
	close(c.done)
	c.link.close(websocket.StatusNormalClosure, "")
}

// add counts a link among those that close ends; false when the hub is closed. It
// returns the link that has to make room, if there is one.
func (h *hub) add(c *hubConn) (oldest *hubConn, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, false
	}
	if c.child == "" {
		if oldest = h.oldestUnfinishedLocked(); oldest != nil {
			h.finishLocked(oldest) // the next one must find another
		}
		c.unfinished = h.unfinished.PushBack(c)
	}
	h.conns[c] = struct{}{}
	h.changed++
	h.wg.Add(1)
	return oldest, true
}

// oldestUnfinishedLocked returns the oldest link of a user's daemon whose
// handshake was not accepted yet, nil while there is room for another.
func (h *hub) oldestUnfinishedLocked() *hubConn {
	n := h.unfinished.Len()
	if n < maxUnfinished {
		return nil
	}
	oldest := h.unfinished.Front().Value.(*hubConn)
	if n < maxUnfinishedBurst && time.Since(oldest.link.began) < unfinishedGrace {
		return nil
	}
	return oldest
}

// finishLocked takes a link off those whose handshake was not accepted yet.
func (h *hub) finishLocked(c *hubConn) {
	if c.unfinished != nil {
		h.unfinished.Remove(c.unfinished)
		c.unfinished = nil
	}
}

// handshake returns what the daemon said of itself, nil before it did.
func (c *hubConn) handshake() *handshakeParams {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.params
}

// setHandshake keeps the first handshake and reports whether this is it.
func (c *hubConn) setHandshake(p *handshakeParams) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.params != nil {
		return false
	}
	c.params = p
	return true
}

// request takes the daemon's handshake, the only request that a daemon makes.
func (c *hubConn) request(r *incoming) {
	if r.method != handshakeMethod {
		r.answer(nil, &rpcError{Code: codeMethodNotFound, Message: fmt.Sprintf("method not found: %q", shownText(r.method))}, nil)
		return
	}
	var params handshakeParams
	if err := decodeParams(r.params, &params); err != nil {
		r.answer(nil, err, nil)
		return
	}
	c.hub.shareMethods(&params)
	if !c.setHandshake(&params) {
		r.answer(nil, &rpcError{Code: codeInvalidRequest, Message: "invalid request: the handshake was made already"}, nil)
		return
	}
	// Not in the reader: it may have to ping an older link first. Ends within
	// oldLinkTimeout.
	c.hub.wg.Go(func() { c.answerHandshake(r, params) })
}

// answerHandshake accepts or refuses the daemon. A refused link is closed with
// 1008.
func (c *hubConn) answerHandshake(r *incoming, params handshakeParams) {
	reason := c.objection(params)
	if reason == "" {
		reason = c.hub.register(c, params)
	}
	if reason != "" {
		c.hub.log.Warn("a daemon was refused", withToken([]any{"machine_id", shownText(params.MachineID), "reason", reason}, c.token.label())...)
		r.answer(handshakeResult{Reason: reason}, nil, func() {
			// Not here, in the link's writer. Ends within closeTimeout.
			c.hub.wg.Go(func() { c.link.sendClose(websocket.StatusPolicyViolation, closeReason(reason)) })
		})
		return
	}
	c.late.Stop()
	c.link.trust()
	r.answer(handshakeResult{
		Accepted: true, LibID: c.hub.libraryOf(params.MachineID),
		HeartbeatIntervalMS: c.hub.heartbeatInterval.Milliseconds(),
	}, nil, nil)
	close(c.ready)
}

// closeReason fits a text into a close frame (RFC 6455, section 5.5: 125
// bytes with the code).
func closeReason(text string) string {
	const most = 120
	return strings.ToValidUTF8(text[:min(len(text), most)], "")
}

// objection returns why a handshake can never be accepted, whatever else is
// connected; "" when it can.
func (c *hubConn) objection(params handshakeParams) string {
	switch {
	case params.ProtocolVersion != protocolVersion:
		return fmt.Sprintf("protocol_version %d is not supported, %d is", params.ProtocolVersion, protocolVersion)
	case params.check() != nil:
		return params.check().Error()
	case c.claimed != "" && c.claimed != params.MachineID:
		return "machine_id differs from the header " + machineIDHeader
	case c.certified != "" && c.certified != params.MachineID:
		return otherMachine(c.certified)
	case c.child != "" && c.child != params.MachineID:
		return "the token is for another machine_id"
	case c.child == "" && strings.HasPrefix(params.MachineID, cloudPrefix):
		return "machine ids that begin with " + cloudPrefix + " belong to the pool of this server"
	}
	return c.revoked(params.MachineID)
}

// otherMachine is why a daemon is refused whose certificate is for another machine.
func otherMachine(certified string) string {
	return fmt.Sprintf("the client certificate is for the machine id %q: set --machine-id to it", shownText(certified))
}

// register makes c the link of its machine, before the answer tells the daemon
// so. It returns a reason when another daemon keeps the machine id: a user's
// daemon that is alive is not replaced.
func (h *hub) register(c *hubConn, params handshakeParams) string {
	for {
		old, stranger, announce := h.tryRegister(c, params)
		switch {
		case announce != nil:
			announce()
			if stranger {
				h.wg.Go(func() { old.link.sendClose(closeReplaced, "replaced by another daemon of this machine id") }) // ends within closeTimeout
			} else if old != nil {
				_ = old.link.fail(errReplaced) // the same process came back: its old link is dead
			}
			return ""
		case old.link.ping(oldLinkTimeout) == nil:
			return fmt.Sprintf("a daemon with the machine_id %q is connected already: stop it, or choose another --machine-id", params.MachineID)
		}
		_ = old.link.fail(errPingTimeout)
		<-old.done // now the machine is free
	}
}

// tryRegister makes c the link of its machine unless a stranger, another daemon
// of the same machine id, may still be there. It returns the link before, and
// what announces the change; nil when there is none.
func (h *hub) tryRegister(c *hubConn, params handshakeParams) (old *hubConn, stranger bool, announce func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	m := h.machines[params.MachineID]
	if m == nil {
		m = &machine{changed: make(chan struct{})}
		h.machines[params.MachineID] = m
	}
	old = m.conn
	params.InstanceID = shownInstance(params.InstanceID)
	stranger = old != nil && m.view.InstanceID != params.InstanceID
	if stranger && c.child == "" {
		return old, stranger, nil
	}
	h.finishLocked(c)
	h.offline.remove(m)
	now := time.Now().UTC()
	m.view = machineView{
		handshakeParams: params, LibID: h.libraryOf(params.MachineID), Status: "online", ConnectedAt: &now,
	}
	return old, stranger, h.setConnLocked(m, c, "connected")
}
