package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"
)

const (
	// mcpToolTimeout is how long a tool may take. Clients give up after 60 s, and a
	// text that says so is better for a model than a client that does.
	mcpToolTimeout = 50 * time.Second
	// mcpMaxError bounds the text of an error, which may quote a remote server.
	mcpMaxError = 2000
)

// mcpTool is an entry of the table of tools.
type mcpTool struct {
	name       string
	methods    []string        // a machine without one of them does not have the tool
	right      rights          // that the caller needs besides rightMCP; 0 for a tool that only reads
	arguments  []jsonField     // in the order of the schema
	definition json.RawMessage // as tools/list shows it
	run        func(ctx context.Context, c *mcpCall, arguments json.RawMessage) (*mcpAnswer, error)
}

// mcpHints tells a client what a tool may do (schema.ts, ToolAnnotations).
type mcpHints struct {
	ReadOnly    bool `json:"readOnlyHint"`
	Destructive bool `json:"destructiveHint"`
	Idempotent  bool `json:"idempotentHint"`
	OpenWorld   bool `json:"openWorldHint"`
}

// mcpReads are the hints of the tools that only read.
type mcpReads struct {
	ReadOnly  bool `json:"readOnlyHint"`
	OpenWorld bool `json:"openWorldHint"`
}

// newMCPTool returns a tool that calls a typed function. P is a struct with the
// tags json and doc; its schema uses only keywords that all model providers take.
func newMCPTool[P any](name, description string, hints any, methods []string, run func(context.Context, *mcpCall, P) (*mcpAnswer, error)) *mcpTool {
	tool := newUntypedTool(name, description, hints, methods, reflect.TypeFor[P]())
	tool.run = func(ctx context.Context, c *mcpCall, arguments json.RawMessage) (*mcpAnswer, error) {
		var p P
		if err := tool.decode(arguments, &p); err != nil {
			return nil, err
		}
		return run(ctx, c, p)
	}
	return tool
}

// newUntypedTool returns a tool without its function. It is no part of newMCPTool, of
// which the program has a copy for each tool.
func newUntypedTool(name, description string, hints any, methods []string, params reflect.Type) *mcpTool {
	tool := &mcpTool{name: name, methods: methods, arguments: jsonFields(params)}
	input := &schema{Type: "object", Properties: map[string]*schema{}}
	types := newSchemas()
	for _, f := range tool.arguments {
		input.Properties[f.name] = types.field(f)
		if !f.optional {
			input.Required = append(input.Required, f.name)
		}
	}
	var buf bytes.Buffer
	_ = encodeJSON(&buf, struct { // strings and booleans: it does not fail
		Name        string  `json:"name"`
		Description string  `json:"description"`
		InputSchema *schema `json:"inputSchema"`
		Annotations any     `json:"annotations,omitempty"`
	}{name, description, input, hints})
	tool.definition = buf.Bytes()
	return tool
}

// needs marks a tool that may write: it is left out where only reading is allowed,
// and for callers without the right.
func (t *mcpTool) needs(right rights) *mcpTool {
	t.right = right
	return t
}

// protect runs the tool; a panic is an error.
func (t *mcpTool) protect(ctx context.Context, c *mcpCall, arguments json.RawMessage) (answer *mcpAnswer, err error) {
	defer recoverAs(&err)
	return t.run(ctx, c, arguments)
}

// mcpArgumentError is an argument that the tool does not take. The text names
// those that it does.
type mcpArgumentError struct{ message string }

func (e *mcpArgumentError) Error() string { return e.message }

//
//go:noinline // it is called in many places, and each copy counts in the size of a release
func badArgument(format string, args ...any) error {
	return &mcpArgumentError{fmt.Sprintf(format, args...)}
}

// decode reads the arguments of a call into v. Unknown and missing ones are
// errors: a model that guesses a name must hear of it.
func (t *mcpTool) decode(arguments json.RawMessage, v any) error {
	if len(arguments) == 0 || isNull(arguments) {
		arguments = json.RawMessage("{}")
	}
	if arguments[0] != '{' {
		return badArgument("arguments must be an object. %s", t.usage())
	}
	given := map[string]bool{}
	err := eachMember(arguments, func(name string, value json.RawMessage) error {
		if !slices.ContainsFunc(t.arguments, func(f jsonField) bool { return f.name == name }) {
			return badArgument("%q is not an argument of %s. %s", shownText(name), t.name, t.usage())
		}
		given[name] = !isNull(value)
		return nil
	})
	if err != nil {
		return err
	}
	for _, f := range t.arguments {
		if !f.optional && !given[f.name] {
			return badArgument("%s is missing. %s", f.name, t.usage())
		}
	}
	err = decodeJSON(arguments, v)
	if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return badArgument("%s must be %s, not %s. %s", e.Field, jsonTypeName(e.Type), e.Value, t.usage())
	}
	return err
}

// usage names the arguments of the tool.
func (t *mcpTool) usage() string {
	return "Arguments of " + t.name + ": " + describeFields(t.arguments) + "."
}

// describeFields returns the names and types of fields as a list for a model.
func describeFields(fields []jsonField) string {
	var list []string
	for _, f := range fields {
		kind := strings.TrimPrefix(strings.TrimPrefix(jsonTypeName(f.typ), "an "), "a ")
		switch {
		case len(f.types) > 0:
			kind = strings.Join(f.types, " or ")
		case f.typ.Kind() == reflect.Slice && f.typ.Elem().Kind() == reflect.String:
			kind = "array of strings"
		}
		if !f.optional {
			kind += ", required"
		}
		list = append(list, f.name+" ("+kind+")")
	}
	if list == nil {
		return "none"
	}
	return strings.Join(list, ", ")
}

// mcpCall is one call of a tool.
type mcpCall struct {
	*mcpAPI
	target   *mcpTarget
	progress func(mcpProgress) // nil if the client wants none
	byMethod bool              // the caller named a method and not a tool
}

// report sends progress to the client.
func (c *mcpCall) report(percent int, message string) {
	if c.progress != nil {
		c.progress(mcpProgress{Progress: float64(percent), Total: 100, Message: message})
	}
}

// newRPC builds a call of a daemon's method, through the same function as the
// body of a plain rpc request.
func (c *mcpCall) newRPC(method string, params any) (*call, error) {
	var buf bytes.Buffer
	request := struct {
		Version string `json:"jsonrpc"`
		ID      int    `json:"id"`
		Method  string `json:"method"`
		Params  any    `json:"params"`
	}{"2.0", 1, method, params}
	if err := encodeJSON(&buf, request); err != nil {
		return nil, err
	}
	call, err := parseCall(buf.Bytes(), c.hub.methods)
	if err != nil {
		return nil, err
	}
	call.libID, call.machineID, call.token = c.target.libID, c.target.machineID, c.target.caller.label()
	call.caller = c.target.callerID
	return call, nil
}

// ask calls a method of the target's daemon and decodes its result into v, within
// mcpToolTimeout.
func (c *mcpCall) ask(ctx context.Context, method string, params, v any) error {
	call, err := c.newRPC(method, params)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, mcpToolTimeout)
	defer cancel()
	result, err := c.hub.perform(ctx, call, c.target.find())
	if err != nil {
		return err
	}
	if err := decodeValid(result, v); err != nil {
		return fmt.Errorf("reading the result of %s: %w", method, err)
	}
	return nil
}

// errorText returns what a model is told of an error: its name, what happened, and
// what to do. It is false for an error of the scheduler itself. No text of a file
// is in it.
func (c *mcpCall) errorText(err error) (string, bool) {
	name, message := errorCode(""), ""
	refusal, isRefusal := errors.AsType[*apiError](err)
	answer, isAnswer := errors.AsType[*rpcError](err)
	_, isArgument := errors.AsType[*mcpArgumentError](err)
	switch {
	case isRefusal:
		name, message = refusal.code, refusal.message
	case isAnswer:
		name, message = answer.name(), answer.Message
		if !c.byMethod {
			message = toolNames(message)
		}
		if name == "" {
			name = jsonrpcName(answer.Code)
		}
		if reason, ok := answer.Data["reason"].(string); ok && name == codeGitFailed {
			name += errorCode(" (" + reason + ")")
		}
	case isArgument:
		name, message = "INVALID_ARGUMENTS", err.Error()
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		name, message = codeTimeout, "the request was given up before the answer came"
	default:
		return "", false
	}
	text := string(name) + ": " + strings.TrimPrefix(cleanText(message), "invalid params: ")
	text = cutText(text, mcpMaxError)
	if hint := c.hint(name); hint != "" {
		text = strings.TrimRight(text, ".") + ". " + hint
	}
	return text, true
}

// jsonrpcName names the errors that JSON-RPC itself defines.
func jsonrpcName(code int) errorCode {
	switch code {
	case codeInvalidParams:
		return "INVALID_PARAMS"
	case codeMethodNotFound:
		return "METHOD_NOT_FOUND"
	}
	return "INTERNAL"
}

// toolNames replaces the methods that a daemon's message names by the tools that a
// model knows.
func toolNames(message string) string {
	return strings.NewReplacer("config/get", "overview", "fs/repoScan", "overview", "fs/listDir", "tree", "fs/glob", "find_files", "fs/search", "search",
		"fs/readFile", "read_file", "vcs/log", "git_log", "vcs/diff", "git_diff", "vcs/clone", "clone_repo", "vcs/refs", "overview").Replace(message)
}

// hint says what to do after an error.
func (c *mcpCall) hint(name errorCode) string {
	switch name {
	case codeAccessDenied:
		return "Use overview: it lists the allowed directories."
	case codeSourceNotFound:
		return "Use find_files or tree to find the right path."
	case codeRepoNotFound:
		return "Use overview: it lists the repositories."
	case codeCommitNotFound:
		if c.target.readOnly {
			return "Use overview with this path: it lists branches and tags."
		}
		return "Use overview with this path: it lists branches and tags. A clone has one of them: for another use clone_repo with ref and a new name."
	case codeCommitNotAvailable:
		if c.target.readOnly {
			return "The clone is shallow: ask the user to fetch its history."
		}
		return "The clone is shallow: use clone_repo with depth 0 to fetch its history."
	case codeConflict:
		return "Call again without the cursor."
	case codeNotConfigured:
		return "Use an absolute path from overview. Cloning needs a daemon with --work-dir: tell the user."
	case codeDaemonOffline:
		return "The " + c.target.name + " is not connected now: tell the user, and do not try other tools."
	case codeAutoStartFailed, codeSpawnTimeout:
		return "The daemon could not be started: tell the user. The log of the scheduler has the cause."
	case codeServerBusy, codeCapacity, codeDraining, codeCancelled:
		return "Wait some seconds and call again."
	case codeTimeout:
		return "Ask for less: a subdirectory, fewer files or a narrower pattern."
	case codeResultTooLarge:
		return "Ask for less at once, with limit, lines, max_bytes or a narrower path."
	case codeDeleted:
		return "The library was deleted: tell the user."
	case "GIT_FAILED (auth)", "GIT_FAILED (forbidden)":
		return "The repository needs a token: tell the user to store one with config/setAuth. Do not ask for the token here."
	case "GIT_FAILED (not_found)":
		return "Check the URL and the ref; a private repository looks the same without a token."
	case "GIT_FAILED (network)", "GIT_FAILED (timeout)":
		return "The remote server cannot be reached from there: try once more, then tell the user."
	}
	return ""
}
