package main

import (
	"cmp"
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
			value.Default = cmp.Or(m.timeout, defaultMethodTimeout).Milliseconds()
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
