package main

import (
	"net/http"
	"reflect"
	"strconv"
	"strings"
)

// openapiVersion is the version of the OpenAPI Specification
// (https://spec.openapis.org/oas/v3.1.0) that the document follows.
const openapiVersion = "3.1.0"

// routeDoc describes a route for GET /openapi.json.
type routeDoc struct {
	pattern string // as the API registers it
	summary string
	status  int    // of the usual answer; 0 means 200
	body    any    // a value of the type of the request's JSON; nil for none
	answer  any    // a value of the type of the answer's JSON; nil for none
	content string // media type of an answer that is not JSON
	query   []string
}

// Bodies and lists that have no other type.
type (
	libraryBody struct {
		LibID string `json:"lib_id"`
	}
	machineBody struct {
		MachineID string `json:"machine_id"`
	}
	statusBody struct {
		Status string `json:"status"`
	}
	daemonList struct {
		Daemons    []poolEntry `json:"daemons"`
		Max        int         `json:"max" doc:"how many daemons there may be"`
		NextCursor *string     `json:"next_cursor" doc:"cursor of the next page; null at the end"`
		Nodes      []nodeView  `json:"nodes,omitempty" doc:"with nodes=all, the schedulers that were asked"`
	}
	machineList struct {
		Machines   []machineView `json:"machines"`
		NextCursor *string       `json:"next_cursor" doc:"cursor of the next page; null at the end"`
		Nodes      []nodeView    `json:"nodes,omitempty" doc:"with nodes=all, the schedulers that were asked"`
	}
	libraryList struct {
		Libraries  []binding `json:"libraries"`
		NextCursor *string   `json:"next_cursor" doc:"cursor of the next page; null at the end"`
	}
)

// rpcRequestBody and rpcAnswerBody are JSON-RPC 2.0 (rpc.discover describes the
// methods).
type rpcRequestBody struct {
	JSONRPC string         `json:"jsonrpc" enum:"2.0"`
	ID      any            `json:"id" doc:"string, number or null"`
	Method  string         `json:"method"`
	Params  map[string]any `json:"params,omitempty"`
}

type rpcAnswerBody struct {
	JSONRPC string         `json:"jsonrpc" enum:"2.0"`
	ID      any            `json:"id"`
	Result  any            `json:"result,omitempty"`
	Error   map[string]any `json:"error,omitempty" doc:"code, message, data"`
}

// routeDocs describes all routes of the API.
func routeDocs() []routeDoc {
	const text, stream = "text/plain", "text/event-stream"
	page, nodes := []string{"limit", "cursor"}, []string{"nodes"}
	return []routeDoc{
		{pattern: "GET /{$}", summary: "The status page.", content: "text/html"},
		{pattern: "GET /livez", summary: "Whether the process runs.", answer: statusBody{}},
		{pattern: "GET /readyz", summary: "Whether the scheduler accepts work.", answer: statusBody{}},
		{pattern: "GET /health", summary: "The health of the scheduler.", answer: healthView{}},
		{pattern: "GET /metrics", summary: "Metrics in the Prometheus text format.", content: text},
		{pattern: "GET /openapi.json", summary: "This document.", answer: map[string]any{}},
		{pattern: "GET /events", summary: "Server-Sent Events: daemon/status, task/progress, pool/entry.", content: stream, query: nodes},
		{pattern: "GET /activity", summary: "What runs, and what failed in the last hour.", answer: activityView{}},
		{pattern: "GET /daemons", summary: "The daemons of the pool.", answer: daemonList{}, query: append(nodes, page...)},
		{pattern: "POST /daemons", summary: "Starts the daemon of a library; 200 if it runs already.", status: http.StatusCreated, body: libraryBody{}, answer: poolEntry{}},
		{pattern: "PUT /daemons/{lib_id}", summary: "Starts the daemon of a library; 200 if it runs already.", status: http.StatusCreated, answer: poolEntry{}},
		{pattern: "GET /daemons/{lib_id}", summary: "One daemon of the pool.", answer: poolEntry{}},
		{pattern: "DELETE /daemons/{lib_id}", summary: "Stops a daemon and deletes its directory.", status: http.StatusNoContent},
		{pattern: "GET /daemons/{lib_id}/log", summary: "The end of a daemon's log.", content: text, query: []string{"bytes", "follow"}},
		{pattern: "POST /daemons/{lib_id}/stop", summary: "Stops a daemon and keeps its directory.", status: http.StatusNoContent},
		{pattern: "POST /stop", summary: "Stops all daemons and keeps their directories.", status: http.StatusNoContent},
		{pattern: "POST /drain", summary: "Takes no new work and ends when idle.", status: http.StatusAccepted, answer: statusBody{}},
		{pattern: "GET /log-level", summary: "The level of the log.", answer: logLevel{}},
		{pattern: "PUT /log-level", summary: "Sets the level of the log, here and in the daemons of the pool.", body: logLevel{}, answer: logLevel{}},
		{pattern: "GET /machines", summary: "The machines that are or were connected.", answer: machineList{}, query: append(nodes, page...)},
		{pattern: "GET /machines/{machine_id}", summary: "One machine.", answer: machineView{}},
		{pattern: "POST /machines/{machine_id}/rpc", summary: "A JSON-RPC request to a machine.", body: rpcRequestBody{}, answer: rpcAnswerBody{}},
		{pattern: "POST /machines/{machine_id}/release", summary: "Closes the link of a machine when no call runs on it, so that it dials again.", status: http.StatusNoContent},
		{pattern: "POST /machines/{machine_id}/mcp", summary: "A Model Context Protocol server for a machine.", body: rpcRequestBody{}, answer: rpcAnswerBody{}},
		{pattern: "POST /machines/{machine_id}/mcp/read", summary: "The same, without tools that write.", body: rpcRequestBody{}, answer: rpcAnswerBody{}},
		{pattern: "GET /libraries", summary: "The bindings of libraries to machines.", answer: libraryList{}, query: page},
		{pattern: "PUT /libraries/{lib_id}", summary: "Binds a library to a machine.", body: machineBody{}, answer: binding{}},
		{pattern: "GET /libraries/{lib_id}", summary: "The binding of a library.", answer: binding{}},
		{pattern: "DELETE /libraries/{lib_id}", summary: "Removes the binding of a library.", status: http.StatusNoContent},
		{pattern: "POST /libraries/{lib_id}/rpc", summary: "A JSON-RPC request to a library: to its machine, or to its daemon.", body: rpcRequestBody{}, answer: rpcAnswerBody{}},
		{pattern: "POST /libraries/{lib_id}/mcp", summary: "A Model Context Protocol server for a library.", body: rpcRequestBody{}, answer: rpcAnswerBody{}},
		{pattern: "POST /libraries/{lib_id}/mcp/read", summary: "The same, without tools that write.", body: rpcRequestBody{}, answer: rpcAnswerBody{}},
		{pattern: "GET " + linkPath, summary: "The WebSocket of daemons.", status: http.StatusSwitchingProtocols},
		{pattern: "GET /install.sh", summary: "The installer, which downloads from this server.", content: "text/x-shellscript"},
		{pattern: "GET /bin/latest", summary: "The version of this build.", content: text},
		{pattern: "GET /bin/{version}/{file}", summary: "This build, laid out as a release.", content: "application/octet-stream"},
	}
}

// openapi returns the document of the routes that this API has.
func (a *api) openapi() map[string]any {
	types := newSchemas()
	paths := map[string]map[string]any{}
	for _, d := range routeDocs() {
		if !a.has(d.pattern) {
			continue // of the hub, which is absent with --server
		}
		method, path, _ := strings.Cut(d.pattern, " ")
		path = strings.TrimSuffix(path, "{$}")
		if paths[path] == nil {
			paths[path] = map[string]any{}
		}
		paths[path][strings.ToLower(method)] = a.operation(&d, path, types)
	}
	problemSchema := types.of(reflect.TypeFor[problem]())
	return map[string]any{
		"openapi": openapiVersion,
		"info":    map[string]any{"title": schedulerName, "version": a.version, "description": "A pool of c4a-daemons, and the server that they dial.", "license": map[string]string{"name": "MIT", "identifier": "MIT"}},
		"paths":   paths,
		"components": map[string]any{
			"schemas":         types.named,
			"securitySchemes": map[string]any{"token": map[string]string{"type": "http", "scheme": "bearer"}},
			"responses": map[string]any{"Problem": map[string]any{
				"description": "A refusal (RFC 9457).", "content": map[string]any{"application/problem+json": map[string]any{"schema": problemSchema}},
			}},
		},
		"security": []any{map[string]any{"token": []string{}}},
	}
}

func (a *api) has(pattern string) bool {
	for _, p := range a.patterns {
		if p == pattern {
			return true
		}
	}
	return false
}

// operation describes one route (Operation Object).
func (a *api) operation(d *routeDoc, path string, types *schemas) map[string]any {
	parameters := []any{}
	parameter := func(name, in string, required bool) {
		kind := "string"
		if name == "limit" || name == "bytes" {
			kind = "integer"
		}
		parameters = append(parameters, map[string]any{"name": name, "in": in, "required": required, "schema": map[string]string{"type": kind}})
	}
	for part := range strings.SplitSeq(path, "/") {
		if name, ok := strings.CutPrefix(part, "{"); ok {
			parameter(strings.TrimSuffix(name, "}"), "path", true)
		}
	}
	for _, name := range d.query {
		parameter(name, "query", false)
	}
	status, content := d.status, d.content
	if status == 0 {
		status = http.StatusOK
	}
	answer := map[string]any{"description": http.StatusText(status)}
	if d.answer != nil {
		answer["content"] = map[string]any{"application/json": map[string]any{"schema": types.of(reflect.TypeOf(d.answer))}}
	} else if content != "" {
		answer["content"] = map[string]any{content: map[string]any{"schema": map[string]string{"type": "string"}}}
	}
	method, _, _ := strings.Cut(d.pattern, " ")
	operation := map[string]any{
		"operationId": strings.Trim(strings.NewReplacer("/", "_", "{", "", "}", "", ".", "_", "-", "_").Replace(strings.ToLower(method)+path), "_"),
		"summary":     d.summary, "parameters": parameters,
		"responses": map[string]any{strconv.Itoa(status): answer, "default": map[string]string{"$ref": "#/components/responses/Problem"}},
	}
	if d.body != nil {
		operation["requestBody"] = map[string]any{"required": true, "content": map[string]any{"application/json": map[string]any{"schema": types.of(reflect.TypeOf(d.body))}}}
	}
	if a.open[d.pattern] {
		operation["security"] = []any{}
	}
	return operation
}

// GET /openapi.json
func (a *api) getOpenAPI(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, a.openapi())
}
