package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"
)

// This file is the wire form of the Model Context Protocol
// (https://modelcontextprotocol.io/specification): requests with their checks,
// results and errors. Two eras share one endpoint. In the modern one each request
// carries the version and the client's capabilities; the legacy one begins with
// initialize. Neither needs a session here.

// mcpModern is the version of the modern era.
const mcpModern = "2026-07-28"

// mcpBatches is the only version with JSON-RPC batches. A request without a
// version has it (2026-07-28, basic/transports/streamable-http).
const mcpBatches = "2025-03-26"

// maxMCPBatch bounds the requests of a batch, as on a link.
const maxMCPBatch = 100

// mcpLegacy returns the versions of the legacy era, the newest first.
func mcpLegacy() []string { return []string{"2025-11-25", "2025-06-18", mcpBatches} }

// Keys of _meta (2026-07-28, basic/index).
const (
	mcpVersionKey      = "io.modelcontextprotocol/protocolVersion"
	mcpCapabilitiesKey = "io.modelcontextprotocol/clientCapabilities"
)

// Codes that the protocol adds to those of JSON-RPC (2026-07-28, basic/index).
const (
	codeMCPHeader  = -32020
	codeMCPVersion = -32022
)

// Methods of the protocol.
const (
	mcpDiscover   = "server/discover"
	mcpInitialize = "initialize"
	mcpPing       = "ping"
	mcpListTools  = "tools/list"
	mcpCallTool   = "tools/call"
)

// mcpRequest is one request that passed the checks.
type mcpRequest struct {
	id     json.RawMessage // a string or an integer
	method string
	params mcpParams
	modern bool
	token  json.RawMessage // that progress is sent under; nil if none is wanted
}

// mcpParams is the union of the params of all methods that the server has.
type mcpParams struct {
	Meta            json.RawMessage `json:"_meta"`
	Name            json.RawMessage `json:"name"`
	Arguments       json.RawMessage `json:"arguments"`
	Cursor          json.RawMessage `json:"cursor"`
	ProtocolVersion json.RawMessage `json:"protocolVersion"`
}

// tool returns the name of the tool that tools/call names, "" for none.
func (p *mcpParams) tool() string { return mcpString(p.Name) }

// mcpString returns the value of a JSON string, "" for anything else.
func mcpString(raw json.RawMessage) (text string) {
	if len(raw) > 0 && raw[0] == '"' {
		_ = decodeJSON(raw, &text) // valid, because the message is
	}
	return text
}

// mcpFault is a request that is answered with a JSON-RPC error. As the error of a
// tool it is the answer to its call.
type mcpFault struct {
	status int             // of HTTP
	id     json.RawMessage // nil if it could not be read
	err    *rpcError
}

func (f *mcpFault) Error() string { return f.err.Message }

//
//go:noinline // it is called in many places, and each copy counts in the size of a release
func newMCPFault(status int, id json.RawMessage, code int, format string, args ...any) *mcpFault {
	return &mcpFault{status, id, &rpcError{Code: code, Message: fmt.Sprintf(format, args...)}}
}

// answer is the error as a JSON-RPC response. Without an id it has no member id:
// null is not allowed (2026-07-28, schema.ts, JSONRPCErrorResponse).
func (f *mcpFault) answer() []byte {
	var buf bytes.Buffer
	writeAnswer(&buf, f.id, nil, f.err)
	if f.id == nil {
		return bytes.Replace(buf.Bytes(), []byte(`"id":,`), nil, 1)
	}
	return buf.Bytes()
}

// mcpHeader returns the value of a header without blanks around it, and whether
// it was sent. Several values are one with a comma (RFC 9110, section 5.2).
func mcpHeader(header http.Header, name string) (string, bool) {
	values := header.Values(name)
	return strings.Trim(strings.Join(values, ", "), " \t"), len(values) > 0
}

// mcpMessages returns the messages of a body: one, or those of a batch.
func mcpMessages(header http.Header, body []byte) (messages []json.RawMessage, batch bool, fault *mcpFault) {
	body = bytes.TrimSpace(body)
	switch {
	case !utf8.Valid(body):
		return nil, false, newMCPFault(http.StatusBadRequest, nil, codeParseError, "Parse error: the body is not UTF-8")
	case !json.Valid(body):
		return nil, false, newMCPFault(http.StatusBadRequest, nil, codeParseError, "Parse error: the body is not JSON")
	case body[0] != '[':
		return []json.RawMessage{body}, false, nil
	}
	if version, sent := mcpHeader(header, "MCP-Protocol-Version"); sent && version != mcpBatches {
		return nil, false, newMCPFault(http.StatusBadRequest, nil, codeInvalidRequest, "Invalid request: batches ended with version %s: send one request in each POST", mcpBatches)
	}
	_ = eachElement(body, func(message json.RawMessage) error { // only the function fails
		messages = append(messages, message)
		return nil
	})
	if len(messages) == 0 || len(messages) > maxMCPBatch {
		return nil, false, newMCPFault(http.StatusBadRequest, nil, codeInvalidRequest, "Invalid request: a batch has 1 to %d requests, not %d", maxMCPBatch, len(messages))
	}
	return messages, true, nil
}

// parseMCP reads and checks one message. It returns nil for a message that has no
// answer: a notification, or a response of a legacy client.
func parseMCP(header http.Header, message json.RawMessage) (*mcpRequest, *mcpFault) {
	if message[0] != '{' {
		return nil, newMCPFault(http.StatusBadRequest, nil, codeInvalidRequest, "Invalid request: a message is an object")
	}
	m, err := decodeEnvelope(message)
	if err != nil {
		return nil, newMCPFault(http.StatusBadRequest, nil, codeParseError, "Parse error: %v", err)
	}
	q := &mcpRequest{}
	if mcpValidID(m.ID) {
		q.id = m.ID
	}
	switch {
	case mcpString(m.Version) != "2.0":
		return nil, newMCPFault(http.StatusBadRequest, q.id, codeInvalidRequest, `Invalid request: "jsonrpc" must be "2.0"`)
	case m.ID == nil || m.Method == nil:
		return nil, nil
	case q.id == nil:
		return nil, newMCPFault(http.StatusBadRequest, nil, codeInvalidRequest, "Invalid request: an id is a string or an integer")
	}
	if q.method = mcpString(m.Method); q.method == "" {
		return nil, newMCPFault(http.StatusBadRequest, q.id, codeInvalidRequest, `Invalid request: "method" must be a string`)
	}
	params := m.Params
	if len(params) == 0 || params[0] != '{' {
		params = json.RawMessage("{}")
	}
	meta := map[string]json.RawMessage{}
	_ = decodeJSON(params, &q.params) // an object, and each field takes any value
	if len(q.params.Meta) > 0 && q.params.Meta[0] == '{' {
		_ = decodeJSON(q.params.Meta, &meta) // likewise
	}
	if token := meta["progressToken"]; mcpValidID(token) {
		q.token = token
	}
	version, sent := mcpHeader(header, "MCP-Protocol-Version")
	q.modern = meta[mcpVersionKey] != nil || sent && !slices.Contains(mcpLegacy(), version) || q.method == mcpDiscover
	if q.modern {
		if fault := checkModern(header, q, meta); fault != nil {
			return nil, fault
		}
	}
	if len(m.Params) > 0 && m.Params[0] != '{' {
		return nil, newMCPFault(http.StatusOK, q.id, codeInvalidParams, "Invalid params: params must be an object")
	}
	return q, nil
}

// mcpValidID reports whether a request may have the id, or a progress token the
// value: strings and integers.
func mcpValidID(id json.RawMessage) bool {
	if len(id) == 0 {
		return false
	}
	if id[0] == '"' {
		return true
	}
	_, ok := parseInteger(id)
	return ok
}

// checkModern holds the headers of a modern request against its body, so that a
// proxy that routes by headers and the server agree (2026-07-28,
// basic/transports/streamable-http).
func checkModern(header http.Header, q *mcpRequest, meta map[string]json.RawMessage) *mcpFault {
	refuse := func(code int, format string, args ...any) *mcpFault {
		return newMCPFault(http.StatusBadRequest, q.id, code, format, args...)
	}
	inBody := mcpString(meta[mcpVersionKey])
	version, sent := mcpHeader(header, "MCP-Protocol-Version")
	switch {
	case !sent:
		return refuse(codeMCPHeader, "Header mismatch: MCP-Protocol-Version is missing")
	case inBody == "" && !slices.Contains(append(mcpLegacy(), mcpModern), version):
		return refuseVersion(q.id, version)
	case inBody == "":
		return refuse(codeInvalidParams, "Invalid params: _meta must have %s, a string", mcpVersionKey)
	case version != inBody:
		return refuse(codeMCPHeader, "Header mismatch: MCP-Protocol-Version %q and _meta %q", shownText(version), shownText(inBody))
	case version != mcpModern:
		return refuseVersion(q.id, version)
	}
	if method, _ := mcpHeader(header, "Mcp-Method"); method != q.method {
		return refuse(codeMCPHeader, "Header mismatch: Mcp-Method %q and method %q", shownText(method), shownText(q.method))
	}
	if q.method == mcpCallTool {
		name, ok := decodeMCPHeader(header)
		if !ok || name != q.params.tool() || name == "" {
			return refuse(codeMCPHeader, "Header mismatch: Mcp-Name %q and params.name %q", shownText(name), shownText(q.params.tool()))
		}
	}
	if capabilities := meta[mcpCapabilitiesKey]; len(capabilities) == 0 || capabilities[0] != '{' {
		return refuse(codeInvalidParams, "Invalid params: _meta must have %s, an object", mcpCapabilitiesKey)
	}
	return nil
}

// refuseVersion answers a version that the server does not speak.
func refuseVersion(id json.RawMessage, version string) *mcpFault {
	fault := newMCPFault(http.StatusBadRequest, id, codeMCPVersion, "Unsupported protocol version")
	fault.err.Data = map[string]any{"supported": []string{mcpModern}, "requested": shownText(version)}
	return fault
}

// decodeMCPHeader returns the value of Mcp-Name; one that no header can hold is
// sent as =?base64?…?= of its UTF-8.
func decodeMCPHeader(header http.Header) (string, bool) {
	value, _ := mcpHeader(header, "Mcp-Name")
	inner, ok := strings.CutPrefix(value, "=?base64?")
	if !ok {
		return value, true
	}
	inner, ok = strings.CutSuffix(inner, "?=")
	text, err := base64.StdEncoding.DecodeString(inner)
	if !ok || err != nil || !utf8.Valid(text) {
		return value, false
	}
	return string(text), true
}

// mcpResult is a result that has more members in the modern era.
type mcpResult interface{ setModern() }

// mcpHead is the members that each modern result begins with (2026-07-28,
// basic/index, ResultType).
type mcpHead struct {
	ResultType string   `json:"resultType,omitempty"`
	Meta       *mcpMeta `json:"_meta,omitempty"`
}

type mcpMeta struct {
	ServerInfo mcpServerInfo `json:"io.modelcontextprotocol/serverInfo"`
}

type mcpServerInfo struct {
	Name    string `json:"name"`
	Version string `json:"version"`
}

func newMCPServerInfo() mcpServerInfo { return mcpServerInfo{"c4a", programVersion()} }

func (h *mcpHead) setModern() {
	h.ResultType, h.Meta = "complete", &mcpMeta{newMCPServerInfo()}
}

// mcpCapabilities declares tools that do not change while a client is connected.
type mcpCapabilities struct {
	Tools struct{} `json:"tools"`
}

// mcpInitialized is the result of initialize.
type mcpInitialized struct {
	ProtocolVersion string          `json:"protocolVersion"`
	Capabilities    mcpCapabilities `json:"capabilities"`
	ServerInfo      mcpServerInfo   `json:"serverInfo"`
	Instructions    string          `json:"instructions"`
}

// mcpDiscovery is the result of server/discover.
type mcpDiscovery struct {
	mcpHead
	SupportedVersions []string        `json:"supportedVersions"`
	Capabilities      mcpCapabilities `json:"capabilities"`
	Instructions      string          `json:"instructions"`
	TTLMS             int             `json:"ttlMs"`
	CacheScope        string          `json:"cacheScope"`
}

// mcpToolList is the result of tools/list.
type mcpToolList struct {
	mcpHead
	Tools      []json.RawMessage `json:"tools"`
	TTLMS      int               `json:"ttlMs,omitempty"`
	CacheScope string            `json:"cacheScope,omitempty"`
}

// How long a client may keep an answer, in milliseconds.
const (
	mcpDiscoverTTL = 60 * 60 * 1000
	mcpToolsTTL    = 5 * 60 * 1000 // a daemon may come back with other methods
)

func (l *mcpToolList) setModern() {
	l.mcpHead.setModern()
	l.TTLMS, l.CacheScope = mcpToolsTTL, "private"
}

// mcpAnswer is the result of tools/call.
type mcpAnswer struct {
	mcpHead
	Content []any `json:"content"`
	IsError bool  `json:"isError,omitempty"`
}

type mcpText struct {
	Type string `json:"type"`
	Text string `json:"text"`
}

type mcpImage struct {
	Type     string `json:"type"`
	Data     []byte `json:"data"`
	MIMEType string `json:"mimeType"`
}

// textAnswer returns an answer that is one text.
func textAnswer(text string) *mcpAnswer {
	return &mcpAnswer{Content: []any{mcpText{"text", text}}}
}

// mcpProgress is the params of notifications/progress.
type mcpProgress struct {
	Token    json.RawMessage `json:"progressToken"`
	Progress float64         `json:"progress"`
	Total    float64         `json:"total,omitempty"`
	Message  string          `json:"message,omitempty"`
}
