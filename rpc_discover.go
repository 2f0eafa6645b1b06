package main

import (
	"context"
	"slices"
	"strings"
)

// openrpcVersion is the version of the OpenRPC specification
// (https://spec.open-rpc.org) that the document follows.
const openrpcVersion = "1.3.2"

// openrpcDocument describes the methods of a daemon (OpenRPC Object). It is
// built from the table that the dispatcher calls and from the Go types of
// params and results.
type openrpcDocument struct {
	OpenRPC    string            `json:"openrpc" doc:"version of the OpenRPC specification"`
	Info       openrpcInfo       `json:"info"`
	Methods    []openrpcMethod   `json:"methods" doc:"sorted by name"`
	Components openrpcComponents `json:"components"`
}

// plainObject declares that the schemas in a document, which hold schemas, are not
// described.
func (openrpcDocument) plainObject() {}

type openrpcInfo struct {
	Title       string `json:"title"`
	Version     string `json:"version" doc:"daemon version"`
	Description string `json:"description"`
}

type openrpcComponents struct {
	Schemas map[string]*schema `json:"schemas" doc:"schemas that $ref refers to, by name"`
}

type openrpcMethod struct {
	Name           string         `json:"name"`
	Summary        string         `json:"summary"`
	ParamStructure string         `json:"paramStructure" enum:"by-name"`
	Params         []openrpcValue `json:"params" doc:"required parameters first"`
	Result         openrpcValue   `json:"result"`
	Errors         []openrpcError `json:"errors" doc:"one entry for each number; data.code lists the names"`
}

// openrpcValue describes a parameter or a result (Content Descriptor Object).
type openrpcValue struct {
	Name        string  `json:"name"`
	Description string  `json:"description,omitempty"`
	Required    bool    `json:"required,omitempty"`
	Schema      *schema `json:"schema"`
}

// openrpcError describes all errors with one number: the specification requires
// numbers to be unique within a method, and several named errors share a
// number.
type openrpcError struct {
	Code    int                `json:"code"`
	Message string             `json:"message"`
	Data    *openrpcErrorNames `json:"data,omitempty"`
}

type openrpcErrorNames struct {
	Code []errorCode `json:"code" doc:"possible values of data.code"`
}

// newDiscovery adds rpc.discover to a table of methods and returns it. The
// document describes rpc.discover too (OpenRPC specification, Service Discovery
// Method).
func newDiscovery(table []*method) []*method {
	// The document is built for each request: most daemons never need it, so
	// none should keep it in memory.
	discover := newMethod("rpc.discover", "Describe all methods in an OpenRPC document.",
		func(context.Context, none) (openrpcDocument, error) { return newOpenRPC(table), nil })
	table = append(table, discover)
	return table
}

func newOpenRPC(table []*method) openrpcDocument {
	types := newSchemas()
	d := openrpcDocument{
		OpenRPC: openrpcVersion,
		Info: openrpcInfo{
			Title: daemonName, Version: programVersion(),
			Description: "JSON-RPC 2.0 over WebSocket: local files and git repositories for a remote server.",
		},
	}
	for _, m := range table {
		d.Methods = append(d.Methods, m.describe(types))
	}
	sortBy(d.Methods, func(a, b openrpcMethod) int { return strings.Compare(a.Name, b.Name) })
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
		value.Description = "" // it is the description of the parameter
		if f.name == "timeout_ms" {
			value.Default = m.timeLimit().Milliseconds()
		}
		d.Params = append(d.Params, openrpcValue{Name: f.name, Description: f.doc, Required: !f.optional, Schema: value})
	}
	sortStableBy(d.Params, func(a, b openrpcValue) int {
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
	if rest, ok := strings.CutPrefix(result.Ref, schemaRefPrefix); ok {
		name = rest
	}
	d.Result = openrpcValue{Name: name, Schema: result}
	return d
}

// describeErrors returns the errors of the method, one entry for each number.
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

// builtinMethods returns the methods of a daemon without handlers. They can be
// described but not called.
func builtinMethods() []*method {
	return (&daemon{credentials: &credentials{}, cloner: &cloner{}, cfg: &daemonConfig{}}).methods()
}

// errorMeaning explains when an error is returned.
type errorMeaning struct {
	code errorCode
	when string
}

// errorMeanings returns all named errors, by number.
func errorMeanings() []errorMeaning {
	return []errorMeaning{
		{codeAccessDenied, "the path is outside the allowed directories, whether it exists or not, or is a credentials file of the daemon"},
		{codeRepoNotFound, "the path is not in a git repository"},
		{codeSourceNotFound, "no such file, directory or object"},
		{codeCommitNotFound, "no such branch, tag or commit"},
		{codeCommitNotAvailable, "the commit exists but is beyond the depth of this shallow repository"},
		{codeGitFailed, "a git command failed: data has exit_code, stderr (the last 4 KiB, without secrets) and reason"},
		{codeServerBusy, "too many requests are waiting: retry after data.retry_after_ms"},
		{codeTimeout, "the request took longer than its time limit"},
		{codeResultTooLarge, "the result has data.bytes bytes and does not fit in a message: request less at once"},
		{codeNotConfigured, "the method needs a flag that the daemon was started without, such as --work-dir"},
		{codeConflict, "the list behind a cursor has changed, or the task_id belongs to another request, or on Windows another program keeps the file to itself"},
		{codeDaemonOffline, "sent by the server: the machine is not connected"},
		{codeAutoStartFailed, "sent by the server: the daemon of the library did not start"},
		{codeCapacity, "sent by the server: the maximum number of daemons is running and all are busy"},
		{codeDraining, "the daemon is stopping and did not start the request: send it again"},
		{codeCancelled, "the request was cancelled"},
	}
}

// ownMeanings returns the errors that JSON-RPC itself defines (section 5.1).
func ownMeanings() map[int]string {
	return map[int]string{
		codeParseError:     "the message is not valid JSON in UTF-8",
		codeInvalidRequest: "the message is not a valid request, its id is in use, or a batch is empty or too long",
		codeMethodNotFound: "the method does not exist",
		codeInvalidParams:  "a parameter is missing or invalid: data.param names it",
		codeInternal:       "internal error of the daemon: its log has the cause",
	}
}

// errorCodes returns the named errors that the method may return.
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
