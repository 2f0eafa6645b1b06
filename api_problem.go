package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"strconv"
	"time"
	"unicode/utf8"
)

const (
	// maxBody bounds a request's body (REFERENCE.md).
	maxBody = 1 << 20
	// maxRPCBody bounds a JSON-RPC request: maxBlobsAsked ids of 64 digits, or
	// as many paths of 100 bytes.
	maxRPCBody = 2 << 20
	// bodyLimit is how long a body may take to arrive.
	bodyLimit = 10 * time.Second
	// sendLimit bounds the time for each sendPiece of an answer: a client that does
	// not read must not keep an answer in memory for ever.
	sendLimit = 10 * time.Second
	sendPiece = 64 << 10
	// sendRate is how many bytes of a long answer a client must take each second,
	// on average: 16 MiB take at most 138 s.
	sendRate = 128 << 10
)

// Codes of the HTTP API, besides those that it shares with the link.
const (
	codeBadRequest       errorCode = "BAD_REQUEST"
	codeInvalidLibID     errorCode = "INVALID_LIB_ID"
	codeUnauthorized     errorCode = "UNAUTHORIZED"
	codeForbidden        errorCode = "FORBIDDEN"
	codeNotFound         errorCode = "NOT_FOUND"
	codeMethodNotAllowed errorCode = "METHOD_NOT_ALLOWED"
	codeDeleted          errorCode = "DELETED"
	codeBodyTooLarge     errorCode = "BODY_TOO_LARGE"
	codeSpawnTimeout     errorCode = "SPAWN_TIMEOUT"
	codeInternalError    errorCode = "INTERNAL" // 500: the cause is in the log
)

// problem is the body of an error (RFC 9457, section 3). Its type is about:blank,
// so title is the status in words; code is an extension.
type problem struct {
	Title  string    `json:"title" doc:"the status in words"`
	Status int       `json:"status"`
	Detail string    `json:"detail" doc:"one sentence"`
	Code   errorCode `json:"code" doc:"stable name"`
}

// writeJSON answers with v.
func writeJSON(w http.ResponseWriter, status int, v any) {
	writeBody(w, status, "application/json", v)
}

// writeProblem answers with an error. detail is one sentence for the caller and
// holds no secret.
func writeProblem(w http.ResponseWriter, status int, code errorCode, detail string) {
	writeBody(w, status, "application/problem+json", problem{http.StatusText(status), status, detail, code})
}

func writeBody(w http.ResponseWriter, status int, contentType string, v any) {
	body, err := json.Marshal(v)
	if err != nil { // only for a value that JSON cannot hold
		http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = send(w, append(body, '\n')) // the client may be gone
}

// send writes data to a client in pieces and flushes it. The error means that the
// client is gone, or does not read.
func send(w http.ResponseWriter, data []byte) error {
	return sendUntil(context.Background(), w, data)
}

// sendUntil is send with a context whose end cuts the client off.
func sendUntil(ctx context.Context, w http.ResponseWriter, data []byte) error {
	control := http.NewResponseController(w)
	defer func() { _ = control.SetWriteDeadline(time.Time{}) }() // the connection may serve another request
	unregister := context.AfterFunc(ctx, func() { _ = control.SetWriteDeadline(time.Unix(1, 0)) })
	defer unregister()
	end := time.Now().Add(sendLimit + time.Duration(len(data))*time.Second/sendRate)
	for {
		limit := time.Now().Add(sendLimit)
		if end.Before(limit) {
			limit = end
		}
		_ = control.SetWriteDeadline(limit) // fails in tests without a connection
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		piece := data[:min(len(data), sendPiece)]
		if _, err := w.Write(piece); err != nil {
			return err
		}
		if data = data[len(piece):]; len(data) == 0 {
			break
		}
	}
	if err := control.Flush(); !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	return nil
}

// apiError is a refusal by the scheduler: an HTTP problem, or through rpc a
// JSON-RPC error. Its message is one sentence for the caller and holds no secret.
type apiError struct {
	code       errorCode
	status     int // of HTTP
	message    string
	retryAfter time.Duration // advice for the caller; 0 gives none
	retryNow   bool          // the cause is over: another attempt may succeed at once
}

func (e *apiError) Error() string { return e.message }

// rpc is the error as a JSON-RPC answer carries it. A code that only the HTTP
// API has gets the number of a daemon that cannot be reached.
func (e *apiError) rpc() *rpcError {
	rpc := failure(e.code, "%s", e.message)
	if rpc.Code == codeInternal {
		rpc.Code = codeDaemonOffline.number()
	}
	return rpc
}

// setRetryAfter rounds up: a client that comes back early is refused again.
func (e *apiError) setRetryAfter(header http.Header) {
	if e.retryAfter > 0 {
		header.Set("Retry-After", strconv.Itoa(int(math.Ceil(e.retryAfter.Seconds()))))
	}
}

func isAPIError(err error) bool {
	_, ok := errors.AsType[*apiError](err)
	return ok
}

// writeError answers with an *apiError. The text of any other error is only for
// the log: it may name a path or a secret.
func writeError(w http.ResponseWriter, err error) {
	refusal, ok := errors.AsType[*apiError](err)
	switch {
	case ok:
		refusal.setRetryAfter(w.Header())
		writeProblem(w, refusal.status, refusal.code, refusal.message)
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		writeProblem(w, http.StatusServiceUnavailable, codeInternalError, "the request was given up; what it began goes on")
	default:
		writeProblem(w, http.StatusInternalServerError, codeInternalError, "internal error: see the scheduler's log")
	}
}

func badRequest(message string) *apiError {
	return &apiError{code: codeBadRequest, status: http.StatusBadRequest, message: message}
}

// readBody reads a request's body of at most limit bytes within bodyLimit. The
// error is an *apiError; the part that was read is returned with it.
func readBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(bodyLimit)) // fails in tests without a connection
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if err == nil {
		_ = control.SetReadDeadline(time.Time{}) // else a long request would end as if its client were gone
		return body, nil
	}
	w.Header().Set("Connection", "close") // the rest of the body may still arrive
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return body, &apiError{code: codeBodyTooLarge, status: http.StatusRequestEntityTooLarge, message: fmt.Sprintf("the body is over %d MiB", limit>>20)}
	}
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		return body, badRequest("the body did not arrive within " + bodyLimit.String())
	}
	return body, badRequest("the body could not be read")
}

// readJSON reads a body that is one JSON object into v; keys that it does not
// know are ignored. The error is an *apiError.
func readJSON(w http.ResponseWriter, r *http.Request, v any) error {
	body, err := readBody(w, r, maxBody)
	if err != nil {
		return err
	}
	if trimmed := bytes.TrimSpace(body); len(trimmed) == 0 || trimmed[0] != '{' {
		return badRequest("the body must be a JSON object")
	}
	if !utf8.Valid(body) {
		return badRequest("the body is not UTF-8")
	}
	err = decodeJSON(body, v)
	if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return badRequest(fmt.Sprintf("%q must be %s, not %s", e.Field, jsonTypeName(e.Type), e.Value))
	}
	if err != nil {
		return badRequest("the body: " + err.Error())
	}
	return nil
}
