package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync/atomic"
	"time"
	"unicode/utf8"
)

// This file is the way of a call to a daemon: find it, send, wait for the answer,
// and send again where a link was lost.

const (
	// callGrace is how much longer than the daemon the hub waits: the daemon knows
	// the limit too, and its own TIMEOUT says more.
	callGrace = 5 * time.Second
	// drainPause is how long the hub waits before it asks a draining daemon again:
	// whether it ends or resumes is mostly known within milliseconds.
	drainPause = 100 * time.Millisecond
)

// call is one request on its way from a caller to a daemon.
type call struct {
	id      json.RawMessage // the caller's
	method  string
	params  json.RawMessage
	taskID  string // "" for a call that only reads, unless the caller gave one
	timeout time.Duration
	watch   *progressWatch          // nil if no caller wants the progress
	message []byte                  // the daemon's answer, of which the result is a part
	via     atomic.Pointer[hubConn] // the link that it went out by last
	caller  string                  // as callerOfRequest names it; "" where it has no limits

	// What GET /activity and the log show; set before perform.
	libID, machineID string // of the route
	token            string // the name of the caller's token; "" without one
	began            time.Time
	progress         atomic.Pointer[progress] // the last one
}

// idText returns the caller's id as progress names it (progressSender).
func (c *call) idText() string {
	var text string
	if decodeJSON(c.id, &text) != nil {
		return string(c.id) // a number
	}
	return text
}

// sending returns what notes the id of a request before it is sent by a link;
// nil if no caller wants the progress.
func (c *call) sending(h *hub, conn *hubConn) func(id string) {
	if c.watch == nil {
		return nil
	}
	return func(id string) { h.expect(c.watch, progressName{conn, cmp.Or(c.taskID, id)}) }
}

// target finds the daemon for a call. again reports that the one before was lost
// or is draining.
type target func(ctx context.Context, again bool) (*hubConn, error)

// callRouter knows where the daemon of a library is.
type callRouter struct {
	hub       *hub
	pool      *pool
	libraries *libraries
}

// libraryTarget finds the daemon of a library: that of the machine it is bound
// to, else the pool's, which is started if need be.
func (r *callRouter) libraryTarget(libID string) target {
	if machineID, ok := r.libraries.get(libID); ok {
		return r.hub.machineTarget(machineID)
	}
	return r.poolTarget(libID)
}

func (r *callRouter) poolTarget(libID string) target {
	var last *entry // that the call went to
	return func(ctx context.Context, _ bool) (*hubConn, error) {
		for begin, retried := time.Now(), false; ; {
			if last != nil && r.pool.deleted(last) {
				return nil, errDeleted(libID) // a call must not bring it back
			}
			daemon, err := r.pool.ensure(ctx, libID)
			if e, ok := errors.AsType[*apiError](err); ok && e.retryNow && !retried {
				retried = true // the request has reached no daemon: the next may well serve it
				continue
			}
			if err != nil {
				return nil, err
			}
			last = daemon.entry
			// Ready means that the handshake was accepted: the link is there, or was lost
			// since and comes back, or the daemon has died and the pool is about to notice.
			conn, err := r.hub.connected(ctx, daemon.view.MachineID, returnTimeout, last.gone)
			switch {
			case errors.Is(err, errUnknownMachine):
				return nil, errOffline // its program said that it is ready, and never dialled
			case errors.Is(err, errOffline) && time.Since(begin) < returnTimeout:
				// Another daemon is started in its place.
			default:
				return conn, err
			}
		}
	}
}

// machineTarget finds the daemon of one machine. One that is not connected is
// waited for only where the call has reached it before.
func (h *hub) machineTarget(machineID string) target {
	return func(ctx context.Context, again bool) (*hubConn, error) {
		wait := time.Duration(0)
		if again {
			wait = returnTimeout
		}
		return h.connected(ctx, machineID, wait, nil)
	}
}

// readID returns the id of a JSON-RPC request of which only the start was read,
// or nil if the id is not in it.
func readID(start []byte) json.RawMessage {
	d := json.NewDecoder(bytes.NewReader(start))
	if open, err := d.Token(); err != nil || open != json.Delim('{') {
		return nil
	}
	for {
		name, err := d.Token()
		if err != nil {
			return nil
		}
		var value json.RawMessage
		if d.Decode(&value) != nil {
			return nil
		}
		if name == "id" {
			if !utf8.Valid(value) || !validID(value) {
				return nil
			}
			return value
		}
	}
}

// parseCall reads the body of an rpc request: one JSON-RPC request with an id.
// methods has the built-in methods. The params of a clone, and of a method that a
// handler added, get a task_id, so that a call that is sent again never runs twice
// in one daemon. All others may run twice, and a daemon that remembered each of
// them for a minute would soon spend its memory on that.
func parseCall(body []byte, methods map[string]*method) (*call, error) {
	m, ok := scanEnvelope(body)
	if !ok && !utf8.Valid(body) {
		return nil, errors.New("the body is not UTF-8")
	}
	if !ok {
		var err error
		if m, err = decodeEnvelope(body); err != nil {
			return nil, errors.New("the body is not a JSON-RPC request object")
		}
	}
	method, err := m.request()
	switch {
	case err != nil:
		return nil, err
	case m.ID == nil:
		return nil, errors.New(`"id" is missing: a notification has no answer`)
	}
	c := &call{id: m.ID, method: method, params: m.Params}
	if c.params == nil {
		c.params = json.RawMessage("{}")
	}
	known := methods[method]
	c.timeout = known.timeLimit()
	if known != nil && !known.clones && !mentionsCommon(c.params) {
		return c, nil
	}
	var common commonParams
	if decodeParams(c.params, &common) != nil {
		return c, nil // the daemon refuses it, and says why
	}
	if t := common.TimeoutMS; t != nil && *t > 0 && *t <= maxRequestTimeout.Milliseconds() {
		c.timeout = time.Duration(*t) * time.Millisecond
	}
	if common.TaskID != nil {
		c.taskID = *common.TaskID
		return c, nil
	}
	if known != nil && !known.clones {
		return c, nil
	}
	c.taskID = randomHex(16)
	// Last, because the last of two members with one name counts: the caller may
	// have sent "task_id":null.
	begin := bytes.TrimRight(c.params[:len(c.params)-1], " \t\r\n")
	comma := ","
	if len(begin) == 1 {
		comma = ""
	}
	c.params = fmt.Appendf(slices.Clip(begin), `%s"task_id":%q}`, comma, c.taskID)
	return c, nil
}

// mentionsCommon reports whether params may have a member of commonParams. Most have
// none, and decoding them costs more than looking.
func mentionsCommon(params json.RawMessage) bool {
	return bytes.Contains(params, []byte("task_id")) || bytes.Contains(params, []byte("timeout_ms")) ||
		bytes.IndexByte(params, '\\') >= 0 // a name may be written with escapes
}

// perform sends the call, and sends it again when a link is lost before the
// answer, at most maxResends times. A daemon that is draining has not begun the
// request: for returnTimeout its successor is asked, or the daemon itself, which
// may have resumed. The result is the daemon's, as raw JSON, which the caller may
// keep until it calls giveBack; the error is the daemon's *rpcError, or that of
// deliveryError.
func (h *hub) perform(ctx context.Context, c *call, find target) (result json.RawMessage, err error) {
	end := h.begin(c)
	defer func() { end(result, err) }()
	ctx, cancel := context.WithTimeout(ctx, c.timeout+callGrace)
	defer cancel()
	var draining time.Time // when a daemon first refused because it drains
	for resends := 0; ; {
		conn, err := find(ctx, resends > 0 || !draining.IsZero())
		if err != nil {
			return nil, deliveryError(err)
		}
		if err := conn.load.begin(len(c.params)); err != nil {
			return nil, err
		}
		if c.method != cloneMethod {
			if err := conn.load.enter(ctx, c.caller, conn.done); err != nil {
				conn.load.end(len(c.params))
				return nil, deliveryError(err)
			}
		}
		c.via.Store(conn)
		r := conn.peer.exchange(ctx, c.method, c.params, c.sending(h, conn))
		if c.method != cloneMethod {
			conn.load.leave(c.caller)
		}
		conn.load.end(len(c.params))
		result, err := r.result, r.err
		c.message = r.message
		e, isAnswer := errors.AsType[*rpcError](err)
		switch {
		case isAnswer && e.name() == codeDraining && (draining.IsZero() || time.Since(draining) < returnTimeout):
			if draining.IsZero() {
				draining = time.Now()
			}
			// The link of a draining daemon ends soon, and its successor has another. But
			// the daemon may also have been told to resume.
			select {
			case <-conn.done:
			case <-time.After(drainPause):
			case <-ctx.Done():
				return nil, deliveryError(context.Cause(ctx))
			}
		case err == nil, isAnswer:
			return result, err
		case errors.Is(err, errLinkLost) && resends < maxResends:
			resends++
			<-conn.done // at once, for its reader has ended; else the lost link would be found again
			h.log.Info("the link was lost before the answer, sending the request again", "method", shownText(c.method), "task_id", shownText(c.taskID))
		default:
			return nil, deliveryError(err)
		}
	}
}

// giveBack lends the memory of a call's result to the next message. The caller
// must not use the result any more. It need not be called.
func (h *hub) giveBack(c *call) {
	h.buffers.put(c.message)
	c.message = nil
}

// deliveryError turns the hub's own failure into the caller's answer: an
// *apiError, a daemon's *rpcError, or the error of a client that went away.
func deliveryError(err error) error {
	_, isAnswer := errors.AsType[*rpcError](err)
	switch {
	case isAPIError(err), isAnswer:
		return err
	case errors.Is(err, errUnknownMachine):
		return &apiError{code: codeDaemonOffline, status: http.StatusNotFound, message: "no such machine was ever connected: GET /machines lists them"}
	case errors.Is(err, context.DeadlineExceeded):
		return &apiError{code: codeTimeout, status: http.StatusGatewayTimeout, message: "the daemon did not answer in time"}
	case errors.Is(err, context.Canceled):
		return err // the client went away and reads no answer
	}
	return &apiError{code: codeDaemonOffline, status: http.StatusServiceUnavailable, message: fmt.Sprintf("the daemon is not connected: %v", err)}
}
