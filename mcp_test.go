//go:build linux || darwin

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// fixtureTools returns the tools that the official conformance suite looks for by
// name.
func fixtureTools() []*mcpTool {
	tool := func(name string, run func(context.Context, *mcpCall) (*mcpAnswer, error)) *mcpTool {
		return newMCPTool(name, "A tool of the conformance suite.", nil, nil, func(ctx context.Context, c *mcpCall, _ none) (*mcpAnswer, error) { return run(ctx, c) })
	}
	answer := func(content ...any) func(context.Context, *mcpCall) (*mcpAnswer, error) {
		return func(context.Context, *mcpCall) (*mcpAnswer, error) { return &mcpAnswer{Content: content}, nil }
	}
	png := []byte("\x89PNG\r\n\x1a\n")
	type resource struct {
		URI      string `json:"uri"`
		MIMEType string `json:"mimeType"`
		Text     string `json:"text"`
	}
	embedded := struct {
		Type     string   `json:"type"`
		Resource resource `json:"resource"`
	}{"resource", resource{"test://embedded-resource", "text/plain", "This is an embedded resource content."}}
	return []*mcpTool{
		tool("test_simple_text", answer(mcpText{"text", "This is a simple text response for testing."})),
		tool("test_image_content", answer(mcpImage{"image", png, "image/png"})),
		tool("test_audio_content", answer(mcpImage{"audio", []byte("RIFF\x00\x00\x00\x00WAVE"), "audio/wav"})),
		tool("test_embedded_resource", answer(embedded)),
		tool("test_multiple_content_types", answer(mcpText{"text", "Multiple content types test:"}, mcpImage{"image", png, "image/png"}, embedded)),
		tool("test_error_handling", func(context.Context, *mcpCall) (*mcpAnswer, error) {
			return nil, failure(codeSourceNotFound, "This tool intentionally returns an error for testing")
		}),
		tool("test_tool_with_progress", func(_ context.Context, c *mcpCall) (*mcpAnswer, error) {
			for _, percent := range []int{0, 50, 50, 100} {
				c.report(percent, "working")
			}
			return textAnswer("done"), nil
		}),
		tool("test_missing_capability", func(context.Context, *mcpCall) (*mcpAnswer, error) {
			fault := newMCPFault(http.StatusBadRequest, nil, -32021, "Missing required client capability")
			fault.err.Data = map[string]any{"requiredCapabilities": map[string]any{"sampling": struct{}{}}}
			return nil, fault
		}),
		tool("test_streaming_elicitation", answer(mcpText{"text", "done"})),
		tool("test_logging_tool", answer(mcpText{"text", "done"})),
		tool("test_slow", func(ctx context.Context, _ *mcpCall) (*mcpAnswer, error) {
			select {
			case <-time.After(40 * time.Second):
				return textAnswer("done"), nil
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
		}),
		tool("test_bug", func(context.Context, *mcpCall) (*mcpAnswer, error) { return nil, errors.New("secret detail") }),
		tool("test_panic", func(context.Context, *mcpCall) (*mcpAnswer, error) { panic("secret detail") }),
	}
}

// newMCPHandler returns the HTTP API with the routes of the protocol alone. It
// knows the machine laptop, which is offline, and its library lib.
func newMCPHandler(t testing.TB, tools []*mcpTool, configure ...func(*apiConfig)) (*api, *mcpAPI) {
	t.Helper()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	h := newHub(hubConfig{log: log, methods: methodsByName(builtinMethods())})
	h.bound("laptop", "lib")
	libs := &libraries{}
	libs.apply([]binding{{"lib", "laptop"}}, true)
	m := newMCPAPI(&hubAPI{callRouter: callRouter{hub: h, libraries: libs}, log: log}, tools)
	t.Cleanup(m.close)
	cfg := apiConfig{events: newEvents(log), log: log}
	for _, f := range configure {
		f(&cfg)
	}
	a := newAPI(cfg)
	m.register(a)
	return a, m
}

// TestMCPFixtures serves the fixture tools for the official tooling: it writes its
// address to the file that MCP_FIXTURES names, and ends when its standard input
// does. See scripts/test-mcp.sh.
func TestMCPFixtures(t *testing.T) {
	file := os.Getenv("MCP_FIXTURES")
	if file == "" {
		t.Skip("for scripts/test-mcp.sh: MCP_FIXTURES is not set")
	}
	a, _ := newMCPHandler(t, fixtureTools())
	server := httptest.NewServer(a)
	defer server.Close()
	if err := os.WriteFile(file, []byte(server.URL), 0o600); err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// mcpExchange is a response as the tests look at it.
type mcpExchange struct {
	status int
	header http.Header
	body   string
}

// postMCP sends a body with headers "Name: value".
func postMCP(h http.Handler, path, body string, headers ...string) mcpExchange {
	r := httptest.NewRequest(http.MethodPost, "http://localhost"+path, strings.NewReader(body))
	for _, line := range headers {
		name, value, _ := strings.Cut(line, ":")
		r.Header.Add(name, value)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return mcpExchange{w.Code, w.Header(), w.Body.String()}
}

// modern returns a request of the modern era with its headers. member is added to
// its params.
func modern(method, member string) (body string, headers []string) {
	if member != "" {
		member += ","
	}
	body = fmt.Sprintf(`{"jsonrpc":"2.0","id":7,"method":%q,"params":{%s"_meta":{%q:%q,%q:{}}}}`, method, member, mcpVersionKey, mcpModern, mcpCapabilitiesKey)
	headers = []string{"MCP-Protocol-Version: " + mcpModern, "Mcp-Method: " + method}
	var params struct {
		Params struct{ Name string }
	}
	if json.Unmarshal([]byte(body), &params) == nil && params.Params.Name != "" {
		headers = append(headers, "Mcp-Name: "+params.Params.Name)
	}
	return body, headers
}

// TestMCPWire goes through the checks of a request in their order, in both eras.
func TestMCPWire(t *testing.T) {
	t.Parallel()
	a, _ := newMCPHandler(t, fixtureTools())
	meta := func(version string) string {
		return fmt.Sprintf(`"_meta":{%q:%s,%q:{}}`, mcpVersionKey, version, mcpCapabilitiesKey)
	}
	call := func(name string, rest ...string) string {
		return `{"jsonrpc":"2.0","id":"x","method":"tools/call","params":{"name":` + name + `,` + strings.Join(append(rest, meta(`"2026-07-28"`)), ",") + `}}`
	}
	version, legacy := "MCP-Protocol-Version: 2026-07-28", "MCP-Protocol-Version: 2025-11-25"
	for _, test := range []struct {
		name, body string
		headers    []string
		status     int
		want       string // in the body; "" for no body
	}{
		{"empty", ``, nil, 400, `-32700`},
		{"not JSON", `{"jsonrpc":`, nil, 400, `{"jsonrpc":"2.0","error":{"code":-32700,`},
		{"not UTF-8", "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"\xff\"}", nil, 400, `-32700`},
		{"too large", `{"a":"` + strings.Repeat("x", maxBody) + `"}`, nil, 400, `over 1 MiB`},
		{"a string", `"x"`, nil, 400, `-32600`},
		{"no version", `{"id":1,"method":"ping"}`, nil, 400, `"id":1,"error":{"code":-32600`},
		{"version 1.0", `{"jsonrpc":"1.0","id":1,"method":"ping"}`, nil, 400, `-32600`},
		{"notification", `{"jsonrpc":"2.0","method":"notifications/initialized"}`, nil, 202, ``},
		{"cancel", `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}`, []string{legacy}, 202, ``},
		{"response", `{"jsonrpc":"2.0","id":1,"result":{}}`, nil, 202, ``},
		{"id null", `{"jsonrpc":"2.0","id":null,"method":"ping"}`, nil, 400, `{"jsonrpc":"2.0","error":{"code":-32600`},
		{"id true", `{"jsonrpc":"2.0","id":true,"method":"ping"}`, nil, 400, `-32600`},
		{"id array", `{"jsonrpc":"2.0","id":[1],"method":"ping"}`, nil, 400, `-32600`},
		{"id fraction", `{"jsonrpc":"2.0","id":1.5,"method":"ping"}`, nil, 400, `-32600`},
		{"id string", `{"jsonrpc":"2.0","id":"a\u0000","method":"ping"}`, nil, 200, `{"jsonrpc":"2.0","id":"a\u0000","result":{}}`},
		{"id large", `{"jsonrpc":"2.0","id":9007199254740993,"method":"ping"}`, nil, 200, `"id":9007199254740993,`},
		{"method number", `{"jsonrpc":"2.0","id":1,"method":2}`, nil, 400, `-32600`},
		{"params array", `{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}`, nil, 200, `-32602`},
		{"names in capitals", `{"jsonrpc":"2.0","ID":1,"method":"ping"}`, nil, 202, ``},

		{"initialize", `{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{}}}`, nil, 200, `{"jsonrpc":"2.0","id":0,"result":{"protocolVersion":"2025-06-18","capabilities":{"tools":{}},"serverInfo":{"name":"c4a",`},
		{"initialize, oldest", `{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-03-26"}}`, nil, 200, `"protocolVersion":"2025-03-26"`},
		{"initialize, unknown", `{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2024-11-05"}}`, nil, 200, `"protocolVersion":"2025-11-25"`},
		{"initialize, none", `{"jsonrpc":"2.0","id":0,"method":"initialize"}`, nil, 200, `"protocolVersion":"2025-11-25"`},
		{"ping", `{"jsonrpc":"2.0","id":1,"method":"ping"}`, []string{legacy}, 200, `{"jsonrpc":"2.0","id":1,"result":{}}`},
		{"legacy list", `{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{}}`, []string{legacy}, 200, `"id":1,"result":{"tools":[{"name":"test_simple_text"`},
		{"legacy call", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"test_simple_text"}}`, []string{legacy}, 200, `{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"This is a simple text response for testing."}]}}`},
		{"legacy unknown method", `{"jsonrpc":"2.0","id":1,"method":"resources/list"}`, []string{legacy}, 200, `-32601`},
		{"legacy unknown tool", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x"}}`, []string{legacy}, 200, `{"code":-32602,"message":"Unknown tool: x"}`},
		{"legacy no tool", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":1}}`, []string{legacy}, 200, `-32602`},
		{"unknown version", `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`, []string{"MCP-Protocol-Version: 1999-01-01"}, 400, `{"code":-32022,"message":"Unsupported protocol version","data":{"requested":"1999-01-01","supported":["2026-07-28"]}}`},
		{"cursor", `{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"cursor":"x"}}`, nil, 200, `-32602`},

		{"modern without meta", `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`, []string{version}, 400, `-32602`},
		{"modern without header", `{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{` + meta(`"2026-07-28"`) + `}}`, nil, 400, `-32020`},
		{"versions disagree", `{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{` + meta(`"2026-07-28"`) + `}}`, []string{legacy}, 400, `-32020`},
		{"modern unknown version", `{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{` + meta(`"2099-01-01"`) + `}}`, []string{"MCP-Protocol-Version: 2099-01-01"}, 400, `-32022`},
		{"version is a number", `{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{` + meta(`1`) + `}}`, []string{version}, 400, `-32602`},
		{"two versions", `{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{` + meta(`"2026-07-28"`) + `}}`, []string{version, version}, 400, `-32020`},
		{"no Mcp-Method", `{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{` + meta(`"2026-07-28"`) + `}}`, []string{version}, 400, `-32020`},
		{"Mcp-Method in capitals", `{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{` + meta(`"2026-07-28"`) + `}}`, []string{version, "Mcp-Method: TOOLS/LIST"}, 400, `-32020`},
		{"blanks around values", `{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{` + meta(`"2026-07-28"`) + `}}`, []string{version + " ", "mcp-method: \t tools/list "}, 200, `"resultType":"complete"`},
		{"no capabilities", `{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}`, []string{version, "Mcp-Method: tools/list"}, 400, `-32602`},
		{"no Mcp-Name", call(`"test_simple_text"`), []string{version, "Mcp-Method: tools/call"}, 400, `"id":"x","error":{"code":-32020`},
		{"another Mcp-Name", call(`"test_simple_text"`), []string{version, "Mcp-Method: tools/call", "Mcp-Name: y"}, 400, `-32020`},
		{"Mcp-Name in base64", call(`"test_simple_text"`), []string{version, "Mcp-Method: tools/call", "Mcp-Name: =?base64?dGVzdF9zaW1wbGVfdGV4dA==?="}, 200, `"resultType":"complete"`},
		{"broken base64", call(`"test_simple_text"`), []string{version, "Mcp-Method: tools/call", "Mcp-Name: =?base64?dGVzdF9zaW1wbGVfdGV4dA?="}, 400, `-32020`},
		{"name in the body is base64", call(`"=?base64?eA==?="`), []string{version, "Mcp-Method: tools/call", "Mcp-Name: x"}, 400, `-32020`},
		{"the last of two names counts", call(`"a","name":"test_simple_text"`), []string{version, "Mcp-Method: tools/call", "Mcp-Name: a"}, 400, `-32020`},
		{"modern unknown tool", call(`"x"`), []string{version, "Mcp-Method: tools/call", "Mcp-Name: x"}, 200, `Unknown tool: x`},

		{"a bug", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"test_bug"}}`, nil, 200, `{"code":-32603,"message":"Internal error: see the scheduler's log"}`},
		{"a panic", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"test_panic"}}`, nil, 200, `-32603`},
		{"a refusal", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"test_error_handling"}}`, nil, 200, `"isError":true`},

		{"batch", `[{"jsonrpc":"2.0","id":1,"method":"ping"},{"jsonrpc":"2.0","method":"notifications/initialized"},{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"test_simple_text"}},7]`, nil, 200, `"id":1,"result":{}},{"jsonrpc":"2.0","id":2,"result":{"content"`},
		{"batch of notifications", `[{"jsonrpc":"2.0","method":"notifications/initialized"}]`, []string{"MCP-Protocol-Version: 2025-03-26"}, 202, ``},
		{"batch with initialize", `[{"jsonrpc":"2.0","id":1,"method":"initialize"}]`, nil, 200, `-32600`},
		{"empty batch", `[]`, nil, 400, `-32600`},
		{"long batch", `[` + strings.TrimSuffix(strings.Repeat("1,", 101), ",") + `]`, nil, 400, `1 to 100`},
		{"batch of a later version", `[{"jsonrpc":"2.0","id":1,"method":"ping"}]`, []string{legacy}, 400, `batches ended`},
		{"modern batch", `[{"jsonrpc":"2.0","id":1,"method":"ping"}]`, []string{version}, 400, `batches ended`},
	} {
		got := postMCP(a, "/machines/laptop/mcp", test.body, test.headers...)
		if got.status != test.status || !strings.Contains(got.body, test.want) || (test.want == "") != (got.body == "") {
			t.Errorf("%s: got status %d and %s, want %d and %q", test.name, got.status, got.body, test.status, test.want)
		}
		if strings.Contains(got.body, "secret") {
			t.Errorf("%s: got %s, want no text of the cause", test.name, got.body)
		}
		if got.header.Get("Mcp-Session-Id") != "" {
			t.Errorf("%s: got a session, want none", test.name)
		}
	}
	for _, method := range []string{"initialize", "ping", "logging/setLevel", "resources/list", "subscriptions/listen"} {
		body, headers := modern(method, "")
		if got := postMCP(a, "/libraries/lib/mcp", body, headers...); got.status != 404 || !strings.Contains(got.body, `"id":7,"error":{"code":-32601`) {
			t.Errorf("modern %s: got status %d and %s, want 404 and -32601", method, got.status, got.body)
		}
	}
	body, headers := modern("server/discover", "")
	if got := postMCP(a, "/libraries/lib/mcp", body, headers...); got.status != 200 || !strings.Contains(got.body, `"supportedVersions":["2026-07-28"],"capabilities":{"tools":{}},`) || !strings.Contains(got.body, `"resultType":"complete"`) {
		t.Errorf("server/discover: got status %d and %s, want the version", got.status, got.body)
	}
}

// TestMCPRoutes: only POST, unknown machines before any message, and no metadata
// of OAuth.
func TestMCPRoutes(t *testing.T) {
	t.Parallel()
	a, _ := newMCPHandler(t, newMCPTools(), func(c *apiConfig) { c.token = "secret" })
	ping := `{"jsonrpc":"2.0","id":1,"method":"ping"}`
	for _, test := range []struct {
		method, path, token string
		status              int
		want                string
	}{
		{"POST", "/machines/laptop/mcp", "secret", 200, `"result":{}`},
		{"POST", "/machines/laptop/mcp/read", "secret", 200, `"result":{}`},
		{"POST", "/libraries/lib/mcp", "secret", 200, `"result":{}`},
		{"POST", "/libraries/new/mcp/read", "secret", 200, `"result":{}`}, // starts nothing
		{"POST", "/machines/laptop/mcp", "", 401, "UNAUTHORIZED"},
		{"GET", "/machines/laptop/mcp", "secret", 405, "only POST"},
		{"DELETE", "/libraries/lib/mcp/read", "secret", 405, "only POST"},
		{"POST", "/machines/other/mcp", "secret", 404, `"code":"NOT_FOUND"`},
		{"POST", "/libraries/.x/mcp", "secret", 400, `"code":"INVALID_LIB_ID"`},
		{"GET", "/.well-known/oauth-protected-resource/machines/laptop/mcp", "", 404, "NOT_FOUND"},
		{"GET", "/.well-known/oauth-authorization-server", "", 404, "NOT_FOUND"},
		{"POST", "/.well-known/openid-configuration", "", 404, "NOT_FOUND"},
		{"GET", "/metrics", "", 401, "UNAUTHORIZED"},
	} {
		r := httptest.NewRequest(test.method, "http://localhost"+test.path, strings.NewReader(ping))
		if test.token != "" {
			r.Header.Set("Authorization", "Bearer "+test.token)
		}
		w := httptest.NewRecorder()
		a.ServeHTTP(w, r)
		if w.Code != test.status || !strings.Contains(w.Body.String(), test.want) {
			t.Errorf("%s %s: got status %d and %s, want %d and %s", test.method, test.path, w.Code, w.Body, test.status, test.want)
		}
		if challenge := w.Header().Get("WWW-Authenticate"); test.status == 401 && challenge != "Bearer" {
			t.Errorf("%s %s: got the challenge %q, want Bearer without metadata", test.method, test.path, challenge)
		}
	}
	r := httptest.NewRequest(http.MethodPost, "http://localhost/machines/laptop/mcp", strings.NewReader(ping))
	r.Header.Set("Origin", "http://evil.example")
	w := httptest.NewRecorder()
	if a.ServeHTTP(w, r); w.Code != 403 {
		t.Errorf("a foreign origin: got status %d, want 403", w.Code)
	}
}

// TestMCPToolList holds the table against the limits of clients and providers.
func TestMCPToolList(t *testing.T) {
	t.Parallel()
	a, m := newMCPHandler(t, newMCPTools())
	body, headers := modern("tools/list", "")
	list := postMCP(a, "/machines/laptop/mcp", body, headers...)
	if len(list.body) > 10_000 {
		t.Errorf("tools/list has %d bytes, want at most 10,000", len(list.body))
	}
	t.Logf("tools/list has %d bytes", len(list.body))
	for _, keyword := range []string{"$ref", "anyOf", "oneOf", "allOf", "additionalProperties", `"type":[`, "outputSchema", "_base64", "task_id", "timeout_ms"} {
		if strings.Contains(list.body, keyword) {
			t.Errorf("tools/list has %s, which a client or provider refuses", keyword)
		}
	}
	for _, tool := range m.tools {
		var definition struct {
			Description string
			InputSchema struct{ Type string }
		}
		if err := json.Unmarshal(tool.definition, &definition); err != nil || definition.InputSchema.Type != "object" {
			t.Errorf("%s: got %s, %v, want a schema of an object", tool.name, tool.definition, err)
		}
		if len(tool.name) > 20 || strings.Trim(tool.name, "abcdefghijklmnopqrstuvwxyz_") != "" {
			t.Errorf("the tool %q must have at most 20 lower-case letters and underscores", tool.name)
		}
		if len(definition.Description) > 353 {
			t.Errorf("%s: the description has %d bytes, want at most 353", tool.name, len(definition.Description))
		}
	}
	names := func(path string) string {
		var list struct {
			Result struct{ Tools []struct{ Name string } }
		}
		answer := postMCP(a, path, `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`)
		if err := json.Unmarshal([]byte(answer.body), &list); err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, tool := range list.Result.Tools {
			names = append(names, tool.Name)
		}
		return strings.Join(names, " ")
	}
	read := "overview tree find_files search read_file git_log git_diff"
	if got := names("/libraries/lib/mcp"); got != read+" clone_repo call_method" {
		t.Errorf("got the tools %s, want all nine", got)
	}
	if got := names("/libraries/lib/mcp/read"); got != read {
		t.Errorf("got the tools %s for reading, want %s", got, read)
	}
	call := `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"clone_repo","arguments":{"url":"https://example.com/r.git"}}}`
	if got := postMCP(a, "/libraries/lib/mcp/read", call); !strings.Contains(got.body, "Unknown tool: clone_repo") {
		t.Errorf("clone_repo where only reading is allowed: got %s, want an unknown tool", got.body)
	}
	m.hub.machines["laptop"].view.Methods = []string{"config/get", "fs/readFile"}
	if got, want := names("/machines/laptop/mcp"), "overview read_file call_method"; got != want {
		t.Errorf("got the tools %q of a machine with two methods, want %q", got, want)
	}
	if got := names("/libraries/other/mcp"); got != read+" clone_repo call_method" {
		t.Errorf("got the tools %s of a library that was never started, want all nine", got)
	}
}

// TestMCPRights: a token opens the tools that its rights allow, on the machines and
// libraries that it is for.
func TestMCPRights(t *testing.T) {
	t.Parallel()
	tokens := testTokens(t, "tools mcp", "clones mcp,clone", "calls mcp,call machines=laptop", "all mcp,call,clone libraries=lib", "reads read,call")
	a, _ := newMCPHandler(t, newMCPTools(), func(c *apiConfig) { c.tokens = tokens })
	for _, test := range []struct {
		token, path string
		status      int
		want        string // the tools that may write
	}{
		{"TOOLS", "/libraries/lib/mcp", 200, ""},
		{"CLONES", "/libraries/lib/mcp", 200, "clone_repo"},
		{"CLONES", "/libraries/lib/mcp/read", 200, ""},
		{"CALLS", "/machines/laptop/mcp", 200, "call_method"},
		{"CALLS", "/libraries/other/mcp", 403, ""},
		{"ALL", "/libraries/lib/mcp", 200, "clone_repo call_method"},
		{"ALL", "/libraries/other/mcp/read", 403, ""},
		{"ALL", "/machines/laptop/mcp", 403, ""},
		{"READS", "/libraries/lib/mcp", 403, ""},
		{"WRONG", "/libraries/lib/mcp", 401, ""},
	} {
		got := postMCP(a, test.path, `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`, "Authorization:Bearer "+test.token)
		var writers []string
		for _, name := range []string{"clone_repo", "call_method"} {
			if strings.Contains(got.body, `{"name":"`+name+`"`) {
				writers = append(writers, name)
			}
		}
		if got.status != test.status || strings.Join(writers, " ") != test.want {
			t.Errorf("%s as %s: got status %d and %q, want %d and %q", test.path, test.token, got.status, writers, test.status, test.want)
		}
	}
	for token, want := range map[string]string{"CALLS": "FORBIDDEN: ", "TOOLS": "Unknown tool: call_method"} {
		got := postMCP(a, "/machines/laptop/mcp", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"call_method","arguments":{"method":"config/setAuth","params":{"host":"x","token":"y"}}}}`, "Authorization:Bearer "+token)
		if !strings.Contains(got.body, want) {
			t.Errorf("config/setAuth as %s: got %s, want %s", token, got.body, want)
		}
	}
}

// TestMCPOffline: a machine that is not connected is the error of a tool, which a
// model can report, and not of the server.
func TestMCPOffline(t *testing.T) {
	t.Parallel()
	a, _ := newMCPHandler(t, newMCPTools())
	got := postMCP(a, "/machines/laptop/mcp", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"overview"}}`)
	if got.status != 200 || !strings.Contains(got.body, `"isError":true`) || !strings.Contains(got.body, "DAEMON_OFFLINE: ") || !strings.Contains(got.body, "tell the user") {
		t.Errorf("got status %d and %s, want the error of a tool that names the machine", got.status, got.body)
	}
}

// TestMCPProgress: progress rises, and without a token or without a client that
// takes a stream the answer is JSON.
func TestMCPProgress(t *testing.T) {
	t.Parallel()
	a, _ := newMCPHandler(t, fixtureTools())
	call := func(meta, accept string) mcpExchange {
		return postMCP(a, "/machines/laptop/mcp", `{"jsonrpc":"2.0","id":"c","method":"tools/call","params":{"name":"test_tool_with_progress"`+meta+`}}`, "Accept: "+accept)
	}
	both := "application/json, text/event-stream"
	for _, token := range []string{`7`, `"abc"`} {
		got := call(`,"_meta":{"progressToken":`+token+`}`, both)
		want := ""
		for _, percent := range []string{"0", "50", "100"} {
			want += `event: message` + "\n" + `data: {"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":` + token + `,"progress":` + percent + `,"total":100,"message":"working"}}` + "\n\n"
		}
		want += `event: message` + "\n" + `data: {"jsonrpc":"2.0","id":"c","result":{"content":[{"type":"text","text":"done"}]}}` + "\n\n"
		if got.body != want || got.header.Get("Content-Type") != "text/event-stream" || got.header.Get("X-Accel-Buffering") != "no" {
			t.Errorf("token %s: got %v\n%s, want\n%s", token, got.header, got.body, want)
		}
	}
	for _, test := range []struct{ meta, accept string }{{"", both}, {`,"_meta":{"progressToken":null}`, both}, {`,"_meta":{"progressToken":1}`, "application/json"}} {
		if got := call(test.meta, test.accept); got.header.Get("Content-Type") != "application/json" || strings.Contains(got.body, "progress") {
			t.Errorf("%+v: got %v %s, want JSON", test, got.header, got.body)
		}
	}
}

// TestMCPStreamBegins: an answer that takes long becomes a stream, so that proxies
// keep it open; a client that leaves cancels its call.
func TestMCPStreamBegins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, m := newMCPHandler(t, fixtureTools())
		defer m.close() // inside the bubble
		slow := `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"test_slow"}}`
		got := postMCP(a, "/machines/laptop/mcp", slow, "Accept: text/event-stream")
		if want := ":\n\n:\n\nevent: message\ndata: {\"jsonrpc\":\"2.0\",\"id\":1,"; !strings.HasPrefix(got.body, want) {
			t.Errorf("got %q, want it to begin with %q", got.body, want)
		}
		if got := postMCP(a, "/machines/laptop/mcp", slow, "Accept: application/json"); got.header.Get("Content-Type") != "application/json" {
			t.Errorf("got %v for a client that takes no stream, want JSON", got.header)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		r := httptest.NewRequestWithContext(ctx, http.MethodPost, "http://localhost/machines/laptop/mcp", strings.NewReader(slow))
		w, began := httptest.NewRecorder(), time.Now()
		a.ServeHTTP(w, r)
		if took := time.Since(began); took != time.Second || w.Body.Len() > 0 {
			t.Errorf("the client left after 1 s: got the end after %v and %q, want it at once and nothing", took, w.Body)
		}
	})
}

func FuzzMCPRequest(f *testing.F) {
	body, headers := modern("tools/call", `"name":"overview","arguments":{}`)
	f.Add([]byte(body), strings.TrimPrefix(headers[0], "MCP-Protocol-Version: "), "tools/call", "overview")
	f.Add([]byte(`[{"jsonrpc":"2.0","id":1,"method":"ping"}]`), "", "", "")
	f.Add([]byte(`{"jsonrpc":"2.0","id":1e400,"method":"tools/call","params":{"name":"search","arguments":{"path":[{}]},"_meta":[]}}`), "2025-11-25", "", "=?base64?//?=")
	a, _ := newMCPHandler(f, newMCPTools())
	f.Fuzz(func(t *testing.T, body []byte, version, method, name string) {
		r := httptest.NewRequest(http.MethodPost, "http://localhost/machines/laptop/mcp", bytes.NewReader(body))
		for key, value := range map[string]string{"MCP-Protocol-Version": version, "Mcp-Method": method, "Mcp-Name": name} {
			if value != "" {
				r.Header.Set(key, value)
			}
		}
		w := httptest.NewRecorder()
		a.ServeHTTP(w, r)
		switch w.Code {
		case 200, 400, 404:
			if !json.Valid(w.Body.Bytes()) {
				t.Errorf("%q: got %q, want JSON", body, w.Body)
			}
		case 202:
			if w.Body.Len() > 0 {
				t.Errorf("%q: got %q, want nothing", body, w.Body)
			}
		default:
			t.Errorf("%q: got status %d, want 200, 202, 400 or 404", body, w.Code)
		}
	})
}

// newMCPPost returns a call of a tool under a context.
func newMCPPost(ctx context.Context, path, tool, arguments string) *http.Request {
	body := fmt.Sprintf(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":%q,"arguments":%s}}`, tool, arguments)
	return httptest.NewRequestWithContext(ctx, http.MethodPost, "http://localhost"+path, strings.NewReader(body))
}
