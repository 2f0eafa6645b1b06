package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"
	"unicode/utf8"
)

// callGrace is what the hub waits longer than the daemon, which knows the
// limit too and answers with TIMEOUT itself.
const callGrace = 5 * time.Second

// drainPause is how long a daemon that drains is left before it is asked once
// more: an answer takes a millisecond or so.
const drainPause = 100 * time.Millisecond

// call is one request on its way from a caller to a daemon.
type call struct {
	id      json.RawMessage // the caller's
	method  string
	params  json.RawMessage
	taskID  string
	timeout time.Duration
	via     atomic.Pointer[hubConn] // the link that it went out by last
}

// target finds the daemon for a call. again tells that the one before was lost
// or drains.
type target func(ctx context.Context, again bool) (*hubConn, error)

// parseCall reads the body of an rpc request: one JSON-RPC request with an id.
// The params get a task_id, so that a call sent again never runs twice in one
// daemon.
func parseCall(body []byte) (*call, error) {
	var m envelope
	if !utf8.Valid(body) {
		return nil, errors.New("the body is not UTF-8")
	}
	if err := json.Unmarshal(body, &m); err != nil {
		return nil, errors.New("the body is not a JSON-RPC request object")
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
	c.timeout = defaultMethodTimeout
	if c.method == cloneMethod {
		c.timeout = cloneMethodTimeout
	}
	var common commonParams
	if decodeParams(c.params, &common) != nil {
		return c, nil // the daemon says what is wrong
	}
	if t := common.TimeoutMS; t != nil && *t > 0 && *t <= maxRequestTimeout.Milliseconds() {
		c.timeout = time.Duration(*t) * time.Millisecond
	}
	if common.TaskID != nil {
		c.taskID = *common.TaskID
		return c, nil
	}
	c.taskID = randomHex(16)
	var buf bytes.Buffer
	fmt.Fprintf(&buf, `{"task_id":%q`, c.taskID)
	if rest := bytes.TrimLeft(c.params[1:], " \t\r\n"); len(rest) > 0 && rest[0] != '}' {
		buf.WriteByte(',')
	}
	buf.Write(c.params[1:])
	c.params = buf.Bytes()
	return c, nil
}

// perform sends the call and sends it again when a link is lost before the
// answer, at most twice. A daemon that drains has not begun: its successor is
// asked, or itself when it was told to go on, within returnTimeout. The result
// is the daemon's raw one; the error is the daemon's *rpcError, or a
// *apiError.
func (h *hub) perform(ctx context.Context, c *call, find target) (json.RawMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout+callGrace)
	defer cancel()
	var draining time.Time // the first no of a daemon that drains
	for resends := 0; ; {
		conn, err := find(ctx, resends > 0 || !draining.IsZero())
		if err != nil {
			return nil, deliveryError(err)
		}
		c.via.Store(conn)
		result, err := conn.peer.call(ctx, c.method, c.params)
		e, isAnswer := errors.AsType[*rpcError](err)
		switch {
		case isAnswer && e.name() == codeDraining && (draining.IsZero() || time.Since(draining) < returnTimeout):
			if draining.IsZero() {
				draining = time.Now()
			}
			// The link of a daemon that drains ends soon, and its successor has
			// another. But it may have been told to stay.
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
			<-conn.done // else the lost link would be found again; the reader has ended, so this is at once
			h.log.Info("the link was lost before the answer, sending the request again", "method", showName(c.method), "task_id", showName(c.taskID))
		default:
			return nil, deliveryError(err)
		}
	}
}

// machineTarget finds the daemon of one machine.
func (h *hub) machineTarget(machineID string) target {
	return func(ctx context.Context, again bool) (*hubConn, error) {
		wait := time.Duration(0)
		if again {
			wait = returnTimeout
		}
		return h.connected(ctx, machineID, wait, nil)
	}
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
		return err // the client went away: nobody reads the answer
	}
	return &apiError{code: codeDaemonOffline, status: http.StatusServiceUnavailable, message: fmt.Sprintf("the daemon is not connected: %v", err)}
}
