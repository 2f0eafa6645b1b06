package main

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"time"
)

// begin notes that a call is on its way. The returned function notes its end: it
// logs and counts the call, and keeps why it failed.
func (h *hub) begin(c *call) (end func(json.RawMessage, error)) {
	c.began = time.Now()
	h.requests.begin(c)
	return func(result json.RawMessage, err error) {
		h.requests.end(c)
		took := time.Since(c.began)
		code, reason := callCode(err)
		if err != nil && code != string(codeCancelled) {
			h.requests.failed(failedRequest{
				Method: shownText(c.method), LibID: c.libID, MachineID: c.machine(), TaskID: shownText(c.taskID),
				Token: c.token, At: time.Now().UTC(), DurationMS: took.Milliseconds(), Code: code, Reason: reason, Message: err.Error(),
			})
		}
		h.calls.observe(c.method, code, reason, took, len(c.params), len(result))
		h.logCall(c, len(result), code, reason, took, err)
	}
}

// machine returns the id of the machine that has the call, or of the one that it is
// for.
func (c *call) machine() string {
	if via := c.via.Load(); via != nil {
		if params := via.handshake(); params != nil {
			return params.MachineID
		}
	}
	return c.machineID
}

// callCode returns the name of an error of a call, or its number where it has none;
// "OK" for nil. reason is that of a git command that failed.
func callCode(err error) (code, reason string) {
	rpc, isRPC := errors.AsType[*rpcError](err)
	refusal, isRefusal := errors.AsType[*apiError](err)
	switch {
	case err == nil:
		return "OK", ""
	case isRefusal:
		return string(refusal.rpc().name()), ""
	case isRPC && rpc.name() != "":
		text, _ := rpc.Data["reason"].(string)
		return string(rpc.name()), shownText(text)
	case isRPC:
		return strconv.Itoa(rpc.Code), ""
	case errors.Is(err, context.Canceled):
		return string(codeCancelled), ""
	}
	return http.StatusText(http.StatusInternalServerError), ""
}

// logCall writes the line of a call: at info for a clone, at debug for any other.
func (h *hub) logCall(c *call, bytes int, code, reason string, took time.Duration, err error) {
	level, text := slog.LevelDebug, "a request ended"
	if c.method == cloneMethod {
		level, text = slog.LevelInfo, "a clone ended"
	}
	if !h.log.Enabled(context.Background(), level) {
		return
	}
	args := withToken([]any{
		"method", shownText(c.method), "machine_id", c.machine(), "lib_id", c.libID, "task_id", shownText(c.taskID),
		"duration_ms", took.Milliseconds(), "bytes", bytes, "code", code,
	}, c.token)
	if reason != "" {
		args = append(args, "reason", reason)
	}
	if err != nil {
		args = append(args, "error", shownText(err.Error()))
	}
	h.log.Log(context.Background(), level, text, args...)
}
