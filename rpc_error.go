package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"strings"
)

// Codes of JSON-RPC 2.0, section 5.1.
const (
	codeParseError     = -32700
	codeInvalidRequest = -32600
	codeMethodNotFound = -32601
	codeInvalidParams  = -32602
	codeInternal       = -32603
)

// errorCode is the stable name of an error, sent as data.code. Several names
// share one number.
type errorCode string

const (
	codeCancelled          errorCode = "REQUEST_CANCELLED"
	codeAccessDenied       errorCode = "SOURCE_ACCESS_DENIED"
	codeRepoNotFound       errorCode = "REPO_PATH_NOT_FOUND"
	codeSourceNotFound     errorCode = "SOURCE_NOT_FOUND"
	codeCommitNotFound     errorCode = "COMMIT_NOT_FOUND"
	codeCommitNotAvailable errorCode = "COMMIT_NOT_AVAILABLE"
	codeGitFailed          errorCode = "GIT_FAILED"
	codeServerBusy         errorCode = "SERVER_BUSY"
	codeTimeout            errorCode = "TIMEOUT"
	codeResultTooLarge     errorCode = "RESULT_TOO_LARGE"
	codeNotConfigured      errorCode = "NOT_CONFIGURED"
	codeConflict           errorCode = "CONFLICT"
	codeDaemonOffline      errorCode = "DAEMON_OFFLINE"
	codeAutoStartFailed    errorCode = "DAEMON_AUTO_START_FAILED"
	codeCapacity           errorCode = "CAPACITY"
	codeDraining           errorCode = "DRAINING"
)

// number returns the JSON-RPC error code of the name.
func (c errorCode) number() int {
	switch c {
	case codeCancelled:
		return -32800 // RequestCancelled of the Language Server Protocol
	case codeAccessDenied:
		return -32001
	case codeRepoNotFound, codeSourceNotFound:
		return -32002
	case codeCommitNotFound, codeCommitNotAvailable:
		return -32003
	case codeGitFailed:
		return -32004
	case codeServerBusy:
		return -32005
	case codeTimeout:
		return -32006
	case codeResultTooLarge:
		return -32007
	case codeNotConfigured:
		return -32008
	case codeConflict:
		return -32009
	case codeDaemonOffline, codeAutoStartFailed, codeCapacity:
		return -32010
	case codeDraining:
		return -32011
	}
	return codeInternal
}

// rpcError is an error that is sent to the caller as it is: its message is a
// single sentence without secrets.
type rpcError struct {
	Code    int            `json:"code" doc:"error number"`
	Message string         `json:"message" doc:"single sentence for people"`
	Data    map[string]any `json:"data,omitempty" doc:"code is the name of the error; more keys depend on it"`
}

func (e *rpcError) Error() string { return e.Message }

// name returns data.code, or "" for an error that JSON-RPC itself defines.
func (e *rpcError) name() errorCode {
	switch name := e.Data["code"].(type) {
	case errorCode:
		return name
	case string: // as decoded from JSON
		return errorCode(name)
	}
	return ""
}

// failure returns an error with the code and message.
func failure(code errorCode, format string, args ...any) *rpcError {
	return &rpcError{
		Code:    code.number(),
		Message: fmt.Sprintf(format, args...),
		Data:    map[string]any{"code": code},
	}
}

// with returns a copy of the error with key set to value in its data.
//
//go:noinline // each copy counts in the size of a release
func (e *rpcError) with(key string, value any) *rpcError {
	data := map[string]any{}
	maps.Copy(data, e.Data)
	data[key] = value
	return &rpcError{Code: e.Code, Message: e.Message, Data: data}
}

// invalidParam returns an invalid params error (-32602) that names the
// parameter in its message and in data.param.
//
//go:noinline // it is called in many places, and each copy counts in the size of a release
func invalidParam(name, format string, args ...any) *rpcError {
	return &rpcError{
		Code:    codeInvalidParams,
		Message: "invalid params: " + name + ": " + fmt.Sprintf(format, args...),
		Data:    map[string]any{"param": name},
	}
}

// asRPCError converts an error to one that may be sent. An error that is not an
// *rpcError becomes -32603 without its text, which may contain a path or a
// secret; the caller logs it instead.
func asRPCError(err error) *rpcError {
	if e, ok := errors.AsType[*rpcError](err); ok {
		return e
	}
	if e, ok := errors.AsType[*gitError](err); ok {
		return e.rpc()
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return failure(codeTimeout, "the request took longer than its time limit")
	case errors.Is(err, context.Canceled):
		return failure(codeCancelled, "the request was cancelled")
	case isDiskFull(err):
		// A caller can act on this and on the next internal cause.
		return &rpcError{Code: codeInternal, Message: "the daemon's disk is full: see its log"}
	case errors.Is(err, errNoTempDir):
		return &rpcError{Code: codeInternal, Message: "the daemon has no directory for temporary files: see its log"}
	}
	return &rpcError{Code: codeInternal, Message: "internal error: see the daemon's log"}
}

// decodeParams decodes params by name into v. Absent params and null mean {}. It
// returns an invalid params error for an array or a value of the wrong type.
func decodeParams(params json.RawMessage, v any) error {
	if len(params) == 0 || isNull(params) {
		params = json.RawMessage("{}")
	}
	if params[0] != '{' {
		return &rpcError{Code: codeInvalidParams, Message: "invalid params: params must be an object, by name"}
	}
	err := decodeJSON(params, v)
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		invalid := invalidParam(e.Field, "must be %s, not %s", jsonTypeName(e.Type), e.Value)
		name, _, _ := strings.Cut(e.Field, ".")
		return invalid.with("param", name)
	}
	if e, ok := errors.AsType[*rpcError](err); ok {
		return e
	}
	return &rpcError{Code: codeInvalidParams, Message: "invalid params: " + err.Error()}
}

// recoverAs converts a panic to an error, which is logged: one malformed
// repository must not end the daemon. Functions that run a method defer it.
func recoverAs(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
	}
}
