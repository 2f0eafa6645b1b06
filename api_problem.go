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
	// heldBack is how much of an answer net/http holds back until the handler returns
	// (bufferBeforeChunkingSize).
	heldBack = 2 << 10
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
	codeTooManyRequests  errorCode = "TOO_MANY_REQUESTS"
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
//
//go:noinline // it is called in many places, and each copy counts in the size of a release
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
	if len(body) > heldBack && status < http.StatusBadRequest {
		if err := callerRequestOf(w).addBytes(len(body)); err != nil {
			writeError(w, err)
			return
		}
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = send(w, append(body, '\n')) // the client may be gone
}

// send writes an answer to a client in pieces, of one part after the other. The
// error means that the client is gone, or does not read. net/http holds the last
// bytes back until the handler returns; api.ServeHTTP bounds the time for those.
func send(w http.ResponseWriter, parts ...[]byte) error {
	return sendUntil(context.Background(), w, parts...)
}

// sendUntil is send with a context whose end cuts the client off.
func sendUntil(ctx context.Context, w http.ResponseWriter, parts ...[]byte) error {
	all := 0
	for _, part := range parts {
		all += len(part)
	}
	control := http.NewResponseController(w)
	if ctx.Done() != nil {
		unregister := context.AfterFunc(ctx, func() { _ = control.SetWriteDeadline(time.Unix(1, 0)) })
		defer unregister()
	}
	end := time.Now().Add(sendLimit + time.Duration(all)*time.Second/sendRate)
	left := heldBack // bytes that may be written before the deadline is set
	if all > heldBack {
		left = 0
	}
	limit := func() error {
		_ = control.SetWriteDeadline(time.Now().Add(min(sendLimit, time.Until(end)))) // fails in tests without a connection
		left = sendPiece
		return context.Cause(ctx) // after it: the end of ctx sets a deadline too
	}
	for _, part := range parts {
		for len(part) > 0 {
			if left == 0 {
				if err := limit(); err != nil {
					return err
				}
			}
			piece := part[:min(len(part), left)]
			if _, err := w.Write(piece); err != nil {
				return err
			}
			left -= len(piece)
			part = part[len(piece):]
		}
	}
	return nil
}

// sendNow is send for a stream: what was written reaches the client at once, and
// the deadline does not outlast it.
func sendNow(w http.ResponseWriter, data []byte) error {
	return flushUntil(context.Background(), w, data)
}

// flushUntil is sendNow with a context whose end cuts the client off.
func flushUntil(ctx context.Context, w http.ResponseWriter, data []byte) error {
	control := http.NewResponseController(w)
	_ = control.SetWriteDeadline(time.Now().Add(sendLimit)) // there may be a header only
	defer func() { _ = control.SetWriteDeadline(time.Time{}) }()
	if err := sendUntil(ctx, w, data); err != nil {
		return err
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
	if e.code == codeTooManyRequests {
		return failure(codeServerBusy, "%s", e.message).with("retry_after_ms", e.retryAfter.Milliseconds())
	}
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

// readBody reads a request's body of at most limit bytes within bodyLimit, which
// api.ServeHTTP has set. The error is an *apiError; the part that was read is
// returned with it.
func readBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	body, err := readAll(http.MaxBytesReader(w, r.Body, limit), r.ContentLength)
	if err == nil {
		// Else a long request would end as if its client were gone.
		_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
		return body, nil
	}
	w.Header().Set("Connection", "close") // the rest of the body may still arrive
	if isAPIError(err) {                  // of countedBody
		return body, err
	}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return body, &apiError{code: codeBodyTooLarge, status: http.StatusRequestEntityTooLarge, message: fmt.Sprintf("the body is over %d MiB", limit>>20)}
	}
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		return body, badRequest("the body did not arrive within " + bodyLimit.String())
	}
	return body, badRequest("the body could not be read")
}

// readAll is io.ReadAll for a reader that should have the given number of bytes,
// -1 if that is not known.
func readAll(r io.Reader, size int64) ([]byte, error) {
	var buf bytes.Buffer
	if size > 0 && size <= maxRPCBody {
		buf.Grow(int(size) + bytes.MinRead) // what ReadFrom needs to see the end
	}
	_, err := buf.ReadFrom(r)
	return buf.Bytes(), err
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
