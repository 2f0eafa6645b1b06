//go:build linux || darwin

package main

import (
	"context"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// routeExample describes a route of the HTTP API, with a request for
// REFERENCE.md. The requests run in this order.
type routeExample struct {
	pattern string // as the API registers it
	what    string
	path    string // "" for no example
	body    string
	accept  string
	first   func(s *exampleScheduler) // called after the response has started
	enough  string                    // text in an endless stream after which to stop reading
}

func routeExamples() []routeExample {
	return []routeExample{
		{pattern: "GET /{$}", what: "the status page; it asks for the API token itself"},
		{pattern: "GET /livez", what: "200 while the process runs", path: "/livez"},
		{pattern: "GET /readyz", what: "200 if the scheduler accepts work; 503 if it is stopping or cannot write to its workspace", path: "/readyz"},
		{pattern: "GET /events", what: "Server-Sent Events `daemon/status`, `task/progress` (with `machine_id`, `lib_id` and, as in `/activity`, `token`) and `pool/entry`; `Last-Event-ID` resumes the stream, with the event `reset` first if events were missed; of more than 256 streams, and of more than `--max-caller-streams` of one caller, the oldest ends. With `--peers`, `nodes=all` adds the events of the other schedulers; each has `node`, the ids are those of this stream, and a client that resumes gets `reset`", path: "/events",
			first: func(s *exampleScheduler) { s.ask("PUT", "/daemons/other", "") }, enough: "pool/entry"},
		{pattern: "POST /daemons", what: "starts the daemon of a library if it is not running and responds when it is ready: 201 to the request that started it, 200 to others", path: "/daemons", body: `{"lib_id":"demo"}`},
		{pattern: "PUT /daemons/{lib_id}", what: "the same, with the library in the path"},
		{pattern: "GET /daemons/{lib_id}", what: "returns one daemon; 404 if it is not running", path: "/daemons/demo2"},
		{pattern: "GET /daemons", what: "lists the daemons of the pool; `limit` (at most 1000) and `cursor` for pages; `next_cursor` is null at the end; with `--peers`, `nodes=all` adds those of the other schedulers: each has `node`, and `nodes` has each scheduler with `status` `ok` or `failed` and its `error`", path: "/daemons"},
		{pattern: "GET /daemons/{lib_id}/log", what: "the end of the daemon's log as text, at most `bytes` (65536); with `follow=1` what is added follows until the client closes the connection; kept after the daemon's end"},
		{pattern: "POST /daemons/{lib_id}/stop", what: "stops one daemon and keeps its directory; 404 if it is not running"},
		{pattern: "GET /activity", what: "the requests that run and what failed in the last hour, at most 1000 each", path: "/activity"},
		{pattern: "GET /openapi.json", what: "this API as an OpenAPI 3.1 document, made from the code"},
		{pattern: "GET /log-level", what: "the level of the log"},
		{pattern: "PUT /log-level", what: "sets the level of the log, here and in the daemons of the pool, until the next start", path: "/log-level", body: `{"level":"info"}`},
		{pattern: "POST /drain", what: "202: `/readyz` becomes 503, new work and `/ws/daemon` get 503 `DRAINING`, and the scheduler ends when it is idle. With `--cluster` other work is taken for 3 s more, then no connection is accepted and users' daemons are sent away when no call runs on their link"},
		{pattern: "GET /health", what: "health of the scheduler; 503 unless `status` is `ok`", path: "/health"},
		{pattern: "GET /install.sh", what: "the installer; it downloads from this server"},
		{pattern: "GET /bin/latest", what: "the version of this build"},
		{pattern: "GET /bin/{version}/{file}", what: "this build, laid out as a release: `SHA256SUMS`, `c4a-daemon_OS_ARCH` and `c4a-daemon-scheduler_OS_ARCH` for its own system; 404 for others"},
		{pattern: "GET /metrics", what: "metrics in the Prometheus text format: daemons by state, spawns by result, evictions by reason, clones, durations, size of the workspace, disk usage; of a hub also requests by method and code with their durations and bytes, failed clones by reason, machines, and what the heartbeats of the daemons say; process memory and CPU"},
		{pattern: "POST /libraries/{lib_id}/rpc", what: "sends a JSON-RPC request to a library: to the machine that it is bound to, or else to its daemon; with `Accept: text/event-stream` the response is a stream of progress and then the result",
			path: "/libraries/demo/rpc", body: `{"jsonrpc":"2.0","id":1,"method":"config/get"}`},
		{pattern: "POST /libraries/{lib_id}/rpc", path: "/libraries/demo/rpc", body: `{"jsonrpc":"2.0","id":2,"method":"fs/stat","params":{"path":"/etc"}}`, accept: "text/event-stream"},
		{pattern: "GET /machines", what: "lists the machines that are or were connected or have a library, each as below; `limit` (at most 1000) and `cursor` for pages; `next_cursor` is null at the end; `nodes=all` as for `/daemons`, where a machine that several schedulers know is shown as the one where it is online"},
		{pattern: "GET /machines/{machine_id}", what: "returns one machine: its handshake and its status; `instance_id` is a hash of that of the handshake", path: "/machines/cloud_demo"},
		{pattern: "POST /machines/{machine_id}/rpc", what: "sends a JSON-RPC request to a machine", path: "/machines/laptop/rpc", body: `{"jsonrpc":"2.0","id":1,"method":"config/get"}`},
		{pattern: "POST /machines/{machine_id}/release", what: "closes the link of a user's machine with 1001 when no call runs on it, so that its daemon dials again; 404 if it was not connected within the last 15 s. Schedulers with `--peers` ask each other for this"},
		{pattern: "POST /machines/{machine_id}/mcp", what: "a Model Context Protocol server for a machine ([docs/tools.md](docs/tools.md))"},
		{pattern: "POST /machines/{machine_id}/mcp/read", what: "the same without the tools that write"},
		{pattern: "POST /libraries/{lib_id}/mcp", what: "the same for a library, as above"},
		{pattern: "POST /libraries/{lib_id}/mcp/read", what: "the same without the tools that write"},
		{pattern: "/.well-known/", what: "404, also without a token: no metadata of OAuth"},
		{pattern: "GET /libraries", what: "lists the bindings, in pages as above", path: "/libraries?limit=10"},
		{pattern: "PUT /libraries/{lib_id}", what: "binds a library to a user's machine", path: "/libraries/mine", body: `{"machine_id":"laptop"}`},
		{pattern: "GET /libraries/{lib_id}", what: "returns the machine of a library; 404 if it is not bound", path: "/libraries/mine"},
		{pattern: "DELETE /libraries/{lib_id}", what: "removes the binding of a library", path: "/libraries/mine"},
		{pattern: "GET /ws/daemon", what: "WebSocket of the daemons (see Session)"},
		{pattern: "DELETE /daemons/{lib_id}", what: "stops a daemon and deletes its directory; 404 if neither exists", path: "/daemons/demo"},
		{pattern: "DELETE /daemons/{lib_id}", path: "/daemons/demo"},
		{pattern: "POST /stop", what: "stops all daemons and keeps their directories", path: "/stop"},
	}
}

// exampleScheduler is a scheduler with real daemons.
type exampleScheduler struct {
	*scheduler
	t    testing.TB
	http *http.Client
	root string // shown as /var/lib
}

func newExampleScheduler(t testing.TB, change ...func(*schedulerConfig)) *exampleScheduler {
	t.Helper()
	root := realTempDir(t)
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	cfg := &schedulerConfig{
		host: "127.0.0.1", workspace: filepath.Join(root, "c4a"), maxDaemons: defaultMaxDaemons, idleTimeout: defaultIdleTimeout,
		spawnTimeout: patience, stopTimeout: defaultStopTimeout, offlineThreshold: defaultOfflineThreshold,
		limitFlags: defaultLimits(), logs: logFlags{level: "info", format: "text"}, log: log,
	}
	for _, f := range change {
		f(cfg)
	}
	s, err := startScheduler(cfg, &program{getenv: os.Getenv, environ: os.Environ, times: defaultLinkTimes()})
	if err != nil {
		t.Fatal(err)
	}
	e := &exampleScheduler{scheduler: s, t: t, http: &http.Client{}, root: root}
	t.Cleanup(func() {
		e.http.CloseIdleConnections()
		s.stop(context.Background())
	})
	return e
}

func (e *exampleScheduler) send(ctx context.Context, method, path, body, accept string) *http.Response {
	e.t.Helper()
	r, err := http.NewRequestWithContext(ctx, method, e.url()+path, strings.NewReader(body))
	if err != nil {
		e.t.Fatal(err)
	}
	if accept != "" {
		r.Header.Set("Accept", accept)
	}
	response, err := e.http.Do(r)
	if err != nil {
		e.t.Fatal(err)
	}
	return response
}

func (e *exampleScheduler) ask(method, path, body string) {
	e.t.Helper()
	response := e.send(e.t.Context(), method, path, body, "")
	if _, err := readSome(response.Body, nil); err != nil || response.StatusCode >= 300 {
		e.t.Errorf("%s %s: %s %v", method, path, response.Status, err)
	}
	_ = response.Body.Close() // read to the end
}

// run sends the request of an example and returns it with its response, as
// REFERENCE.md shows them.
func (e *exampleScheduler) run(example routeExample) (request, answer string) {
	e.t.Helper()
	method, _, _ := strings.Cut(example.pattern, " ")
	request = method + " " + example.path + " HTTP/1.1\n"
	if example.accept != "" {
		request += "Accept: " + example.accept + "\n"
	}
	if example.body != "" {
		request += "\n" + pretty(example.body)
	}
	ctx, cancel := context.WithTimeout(e.t.Context(), patience)
	defer cancel()
	response := e.send(ctx, method, example.path, example.body, example.accept)
	defer response.Body.Close()
	if example.first != nil {
		example.first(e)
	}
	body, err := readSome(response.Body, func(text string) bool {
		_, rest, ok := strings.Cut(text, example.enough)
		return example.enough != "" && ok && strings.Contains(rest, "\n\n")
	})
	if err != nil {
		e.t.Fatalf("%s: %v", example.pattern, err)
	}
	if before, rest, ok := strings.Cut(body, example.enough); ok && example.enough != "" {
		one, _, _ := strings.Cut(rest, "\n\n")
		body = before + example.enough + one
	}
	body = sameEverywhere(strings.ReplaceAll(strings.TrimSpace(body), e.root, "/var/lib"))
	if example.accept == "" && example.enough == "" && body != "" {
		body = pretty(body)
	}
	return request, httpText(response, body)
}

// tokens writes the section on the tokens file.
func (r *reference) tokens() {
	r.say(`
### Tokens

The API token (--api-token-file) may do everything. A file of tokens (--tokens-file) has one token a line, and is read again when it
changes; a file that cannot be parsed leaves the tokens as they are:

~~~text
NAME sha256:HEX RIGHTS [machines=GLOB,…] [libraries=GLOB,…]
~~~

HEX is the SHA-256 hash of the token. %[1]sc4a-daemon-scheduler token NAME RIGHTS …%[1]s prints a new token and its line. RIGHTS is a list of:

| right | |
|---|---|
`, "`")
	what := map[string]string{
		"read":   "the GET routes",
		"call":   "JSON-RPC calls, except those of the right clone",
		"clone":  "calls of `vcs/clone` and `config/setAuth`",
		"manage": "starting, stopping and deleting daemons, binding libraries",
		"mcp":    "the tools for language models that read; with `clone` also clone_repo, with `call` also call_method",
		"daemon": "connecting as a user's daemon, with a machine id that a pattern of machines matches",
	}
	for _, name := range rightNames() {
		r.say("| `%s` | %s |\n", name, what[name])
	}
	r.say(`
A token with patterns is for the machines and libraries that they match (* is any text, ? one character), and lists show only those. With
patterns of one kind alone it is for nothing of the other kind. It may bind a library only to a machine that it is for as well, and cannot
use routes that concern all daemons. The machine id of a pool's daemon is cloud_ and the lib_id. A request that a token may not make gets 403.
Lines of the log about calls, changes and links, the events %[1]sdaemon/status%[1]s and %[1]stask/progress%[1]s and the entries of %[1]sGET /activity%[1]s have %[1]stoken%[1]s, the
name of the token of this file that was used. The token itself is in none of them.

Within a second or two of a change, links whose token was removed, or is not for that machine or for daemons any more, are closed with 1008: the daemon
dials again, is refused with 401 and ends with status 4, or repeats the handshake if only the machines have changed. %[1]sGET /events%[1]s and logs that are followed
end when their token was removed or changed; a client that comes back with %[1]sLast-Event-ID%[1]s misses nothing. Calls that are in flight go on.

### Client certificates

With --client-ca each request needs a client certificate of one of its authorities, on every address, except on the routes marked open.
Without one, or with one that is not valid, the answer is 403 with the reason. The certificate may have the extended key usage clientAuth
or none, and may be followed by those of authorities between it and the root. It does not take the place of the API token. The files of
--tls-cert, --tls-key and --client-ca are read again when they change; files that cannot be used leave those of before in force. Links
and streams of certificates that the new authorities do not accept end within a second or two, and the next request of an open connection is refused.

The first DNS name of a user's daemon's certificate is its machine id, in the same letters; a daemon that claims another is refused, and
a certificate without a DNS name or with a wildcard opens no link. If a daemon token or a tokens file is set the daemon needs its token
as well, otherwise the certificate is enough. The daemons of the pool need no certificate. A daemon reads --client-cert and --client-key
again for each connection. With --server the scheduler's daemons show its --client-cert, all the same one.
`, "`")
}

// http writes the section on the HTTP API, with an example for each route.
func (r *reference) http(t *testing.T) {
	s := newExampleScheduler(t)
	examples := routeExamples()
	r.say(`## HTTP API of the scheduler

Requests and responses are JSON; a body has at most %d MiB, a JSON-RPC request %d MiB. If an API token is set, every route requires
`+"`Authorization: Bearer TOKEN`"+`, except those marked open. A request whose `+"`Host`"+` header names another host, or whose
`+"`Origin`"+` is another site, gets 403. So does a request that a proxy forwarded (`+"`Forwarded`, `Via`, `X-Real-IP`, `X-Forwarded-*`"+`) while no
API token is set, except through a Unix socket.

| route | | |
|---|---|---|
`, maxBody>>20, maxRPCBody>>20)
	for _, e := range examples {
		if !slices.Contains(s.api.patterns, e.pattern) {
			t.Errorf("%s is in routeExamples but is not a route", e.pattern)
		}
		if e.what == "" {
			continue
		}
		open := ""
		if s.api.open[e.pattern] {
			open = "open"
		}
		r.say("| `%s` | %s | %s |\n", e.pattern, open, cell(e.what))
	}
	for _, pattern := range s.api.patterns {
		if !slices.ContainsFunc(examples, func(e routeExample) bool { return e.pattern == pattern }) {
			t.Errorf("%s is a route but is not in routeExamples: add it", pattern)
		}
	}
	r.tokens()
	r.say("\nA daemon of the pool is returned as this object:\n\n")
	r.fields("key", jsonFields(reflect.TypeFor[poolEntry]()), false)
	r.say("### Errors\n\nA request has one of two shapes of error. What a daemon answered to a JSON-RPC request is a JSON-RPC response with status 200, an\n" +
		"error of the method included. A JSON-RPC request that could not be delivered, or whose body is too large, has a JSON-RPC error as well,\n" +
		"under the id of the request, with status 404 (no such machine), 413, 429 (too much in flight: `SERVER_BUSY`), 503 (offline, at capacity, not\n" +
		"started) or 504 (no answer in time).\n" +
		"Every other error, such as a missing token, a body that is not a JSON-RPC request, and all errors of the other routes, is\n" +
		"`application/problem+json` (RFC 9457):\n\n")
	r.fields("key", jsonFields(reflect.TypeFor[problem]()), false)
	r.problems(t)
	r.say("### Limits\n\nThe limits of a caller are checked before a request does anything. A caller is a token of `--tokens-file`; of all other requests it is the\n" +
		"client's address (of IPv6 its first 64 bits), which behind a proxy is the proxy's. Clients of a Unix socket are one caller. Requests, the calls of\n" +
		"an MCP batch one by one, count until they are answered; bytes are those of bodies, and of answers until the client has taken them; streams are\n" +
		"those of `/events`, of a log with `follow=1` and of calls with `Accept: text/event-stream`. An answer that does not fit any more is refused, too:\n" +
		"ask again when others were taken. A caller gets 500 refusals a second after the first 100, and further ones wait; requests without a valid token\n" +
		"count as those of one caller. `/livez`, `/readyz` and `/health` are never refused. For one machine at most 2,000 calls wait, with 64 MiB\n" +
		"of params. While several callers have calls for one machine, its daemon gets 64 of them at a time, clones not counted, the same number from each\n" +
		"caller and at least 4, and the others wait; a caller alone has no such limit. After 10,000 handshakes at once, users' daemons are accepted at the rate of `--max-handshakes`.\n\n")
	for _, e := range examples {
		if e.path == "" {
			continue
		}
		request, answer := s.run(e)
		r.code("http", strings.TrimRight(request, "\n")+"\n\n"+answer)
	}
}

// problems writes the table of the error codes of the HTTP API.
func (r *reference) problems(t *testing.T) {
	explained := []struct {
		code   errorCode
		status int
		when   string
	}{
		{codeBadRequest, 400, "the body or a header is invalid; 426 for a request to `/ws/daemon` that is not an upgrade to WebSocket"},
		{codeInvalidLibID, 400, "a lib_id is 1 to 128 characters of A-Z a-z 0-9 . _ -, and does not begin with . or -"},
		{codeUnauthorized, 401, "the token is missing or invalid"},
		{codeForbidden, 403, "the Host or Origin header does not belong to this server, a proxy forwarded the request and no API token is set, the client certificate is missing or refused, or the token lacks a right"},
		{codeNotFound, 404, "the resource does not exist"},
		{codeMethodNotAllowed, 405, "the path does not support this method: see the Allow header"},
		{codeDeleted, 409, "the daemon was deleted in the meantime"},
		{codeBodyTooLarge, 413, "the body is too large"},
		{codeTooManyRequests, 429, "the caller has too much in flight, too many calls wait for the machine, or too many daemons connect: retry after Retry-After seconds"},
		{codeInternalError, 500, "internal error of the scheduler: its log has the cause"},
		{codeDraining, 503, "the scheduler drains: send the request again later, or to another"},
		{codeCapacity, 503, "every daemon is busy: retry after Retry-After seconds"},
		{codeAutoStartFailed, 503, "the daemon did not start: detail has the last lines of its log"},
		{codeSpawnTimeout, 504, "the daemon was not ready in time"},
	}
	r.say("| `code` | status | when |\n|---|---|---|\n")
	for _, e := range explained {
		r.say("| `%s` | %d | %s |\n", e.code, e.status, e.when)
	}
	r.say("\n")
	for _, name := range constantsOf(t, "api_problem.go", "errorCode") {
		if !slices.ContainsFunc(explained, func(e struct {
			code   errorCode
			status int
			when   string
		}) bool {
			return string(e.code) == name
		}) {
			t.Errorf("%s is not explained: add it to the table in problems", name)
		}
	}
}
