package main

import (
	"context"
	"slices"
	"strings"
)

// openrpcVersion is that of the specification, https://spec.open-rpc.org, which
// the document keeps to.
const openrpcVersion = "1.3.2"

// openrpcDocument describes a daemon's methods (OpenRPC Object). It is made from
// the table that the dispatcher calls and the Go types that it decodes into.
type openrpcDocument struct {
	OpenRPC    string            `json:"openrpc" doc:"version of the OpenRPC specification"`
	Info       openrpcInfo       `json:"info"`
	Methods    []openrpcMethod   `json:"methods" doc:"sorted by name"`
	Components openrpcComponents `json:"components"`
}

type openrpcInfo struct {
	Title       string `json:"title"`
	Version     string `json:"version" doc:"of the daemon"`
	Description string `json:"description"`
}

type openrpcComponents struct {
	Schemas map[string]*schema `json:"schemas" doc:"by name, what $ref refers to"`
}

type openrpcMethod struct {
	Name           string         `json:"name"`
	Summary        string         `json:"summary"`
	ParamStructure string         `json:"paramStructure" enum:"by-name"`
	Params         []openrpcValue `json:"params" doc:"the required ones first"`
	Result         openrpcValue   `json:"result"`
	Errors         []openrpcError `json:"errors" doc:"by number; data.code lists the names"`
}

// openrpcValue is a parameter or a result (Content Descriptor Object).
type openrpcValue struct {
	Name        string  `json:"name"`
	Description string  `json:"description,omitempty"`
	Required    bool    `json:"required,omitempty"`
	Schema      *schema `json:"schema"`
}

// openrpcError is an error by number: the specification wants numbers unique in
// a method, so the names that share one stand together.
type openrpcError struct {
	Code    int                `json:"code"`
	Message string             `json:"message"`
	Data    *openrpcErrorNames `json:"data,omitempty"`
}

type openrpcErrorNames struct {
	Code []errorCode `json:"code" doc:"what data.code of such an error may be"`
}

// newDiscovery adds rpc.discover to a table, which it describes, itself
// included (OpenRPC specification, Service Discovery Method).
func newDiscovery(table []*method) []*method {
	// Made when it is asked for: few daemons ever are, and all would carry it.
	discover := newMethod("rpc.discover", "Describe all methods as an OpenRPC document.",
		func(context.Context, none) (openrpcDocument, error) { return newOpenRPC(table), nil })
	table = append(table, discover)
	return table
}

func newOpenRPC(table []*method) openrpcDocument {
	types := newSchemas()
	d := openrpcDocument{
		OpenRPC: openrpcVersion,
		Info: openrpcInfo{
			Title: daemonName, Version: programVersion,
			Description: "JSON-RPC 2.0 over WebSocket: local files and git repositories for a remote server.",
		},
	}
	for _, m := range table {
		d.Methods = append(d.Methods, m.describe(types))
	}
	slices.SortFunc(d.Methods, func(a, b openrpcMethod) int { return strings.Compare(a.Name, b.Name) })
	d.Components.Schemas = types.named
	return d
}

func (m *method) describe(types *schemas) openrpcMethod {
	d := openrpcMethod{
		Name: m.name, Summary: m.summary, ParamStructure: "by-name",
		Params: []openrpcValue{}, Errors: m.describeErrors(),
	}
	for _, f := range m.paramFields() {
		value := types.field(f)
		value.Description = "" // the parameter has it
		if f.name == "timeout_ms" {
			value.Default = m.timeLimit().Milliseconds()
		}
		d.Params = append(d.Params, openrpcValue{Name: f.name, Description: f.doc, Required: !f.optional, Schema: value})
	}
	slices.SortStableFunc(d.Params, func(a, b openrpcValue) int {
		switch {
		case a.Required == b.Required:
			return 0
		case a.Required:
			return -1
		}
		return 1
	})
	result := types.of(m.resultType())
	name := "result"
	if rest, ok := strings.CutPrefix(result.Ref, schemaPlace); ok {
		name = rest
	}
	d.Result = openrpcValue{Name: name, Schema: result}
	return d
}

// describeErrors lists the errors, one entry for each number.
func (m *method) describeErrors() []openrpcError {
	own := ownMeanings()
	list := []openrpcError{
		{Code: codeInvalidParams, Message: own[codeInvalidParams]},
		{Code: codeInternal, Message: own[codeInternal]},
	}
	codes := m.errorCodes()
	for _, meaning := range errorMeanings() {
		if !slices.Contains(codes, meaning.code) {
			continue
		}
		last := &list[len(list)-1]
		if last.Code != meaning.code.number() {
			list = append(list, openrpcError{Code: meaning.code.number(), Message: meaning.when, Data: &openrpcErrorNames{[]errorCode{meaning.code}}})
			continue
		}
		last.Message += "; " + meaning.when
		last.Data.Code = append(last.Data.Code, meaning.code)
	}
	return list
}

// builtinMethods is the table of a daemon without handlers, to read and not to
// call.
func builtinMethods() []*method {
	return (&daemon{credentials: &credentials{}, cloner: &cloner{}, cfg: &daemonConfig{}}).methods()
}

// errorMeaning is when an error of that name is answered.
type errorMeaning struct {
	code errorCode
	when string
}

// errorMeanings are all named errors of the link, by number.
func errorMeanings() []errorMeaning {
	return []errorMeaning{
		{codeAccessDenied, "the path lies outside the allowed directories, whether it exists or not, or is a secret of the daemon"},
		{codeRepoNotFound, "the path is in no git repository"},
		{codeSourceNotFound, "no such file, directory or object"},
		{codeCommitNotFound, "no such branch, tag or commit"},
		{codeCommitNotAvailable, "the commit is known but beyond the depth of a shallow repository"},
		{codeGitFailed, "git said no: data has exit_code, stderr (its last 4 KiB, without secrets) and reason"},
		{codeServerBusy, "too many requests wait: ask again after data.retry_after_ms"},
		{codeTimeout, "the request took longer than its time limit"},
		{codeResultTooLarge, "the result, of data.bytes, does not fit in a message: ask for less at once"},
		{codeNotConfigured, "the method needs something that was not given at start, such as --work-dir"},
		{codeConflict, "what a cursor lists has changed, or the task_id is in use for something else"},
		{codeDaemonOffline, "from the server: the machine is not connected"},
		{codeAutoStartFailed, "from the server: the library's daemon did not start"},
		{codeCapacity, "from the server: as many daemons as allowed are busy"},
		{codeDraining, "the daemon is about to stop and has started nothing: ask for it anew"},
		{codeCancelled, "the request was cancelled"},
	}
}

// ownMeanings are the errors of JSON-RPC itself (its section 5.1).
func ownMeanings() map[int]string {
	return map[int]string{
		codeParseError:     "the message is not JSON in UTF-8",
		codeInvalidRequest: "the message is no request, its id is in use, or a batch is empty or too long",
		codeMethodNotFound: "there is no such method",
		codeInvalidParams:  "a parameter is missing or wrong: data.param names it",
		codeInternal:       "the daemon failed: its log has the cause",
	}
}

// errorCodes are the named errors that the method may answer with.
func (m *method) errorCodes() []errorCode {
	codes := []errorCode{codeResultTooLarge, codeDraining}
	if !m.inline {
		codes = append(codes, codeServerBusy, codeTimeout, codeConflict, codeCancelled)
	}
	for _, code := range m.errors {
		if !slices.Contains(codes, code) {
			codes = append(codes, code)
		}
	}
	return codes
}
