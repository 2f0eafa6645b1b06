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

// routeExample is a route of the HTTP API and a request that the reference
// shows; they run in this order.
type routeExample struct {
	pattern string // as the API registers it
	what    string
	path    string // "" shows no example
	body    string
	accept  string
	first   func(s *exampleScheduler) // runs when the answer has begun
	enough  string                    // ends a stream that has no end
}

func routeExamples() []routeExample {
	return []routeExample{
		{pattern: "GET /livez", what: "the program runs", path: "/livez"},
		{pattern: "GET /readyz", what: "it can take work: 503 when it stops or cannot write to its workspace", path: "/readyz"},
		{pattern: "GET /events", what: "Server-Sent Events: `daemon/status`, `task/progress`, `pool/entry`; `Last-Event-ID` resumes", path: "/events",
			first: func(s *exampleScheduler) { s.ask("PUT", "/daemons/other", "") }, enough: "pool/entry"},
		{pattern: "POST /daemons", what: "the daemon of a library, started if need be, when it is ready: 201 to the request that started it, else 200", path: "/daemons", body: `{"lib_id":"demo"}`},
		{pattern: "PUT /daemons/{lib_id}", what: "the same"},
		{pattern: "GET /daemons/{lib_id}", what: "one daemon; 404 when none runs", path: "/daemons/demo2"},
		{pattern: "GET /daemons", what: "all daemons", path: "/daemons"},
		{pattern: "GET /health", what: "503 unless `status` is `ok`", path: "/health"},
		{pattern: "GET /metrics", what: "Prometheus text format: daemons by state, spawns by result, evictions by reason, clones, durations, the workspace and its disk"},
		{pattern: "POST /libraries/{lib_id}/rpc", what: "a JSON-RPC request to a library: to the machine it is bound to, else to its daemon; with `Accept: text/event-stream` progress comes, then the result",
			path: "/libraries/demo/rpc", body: `{"jsonrpc":"2.0","id":1,"method":"config/get"}`},
		{pattern: "POST /libraries/{lib_id}/rpc", path: "/libraries/demo/rpc", body: `{"jsonrpc":"2.0","id":2,"method":"fs/stat","params":{"path":"/etc"}}`, accept: "text/event-stream"},
		{pattern: "GET /machines", what: "all machines that are or were connected, as below"},
		{pattern: "GET /machines/{machine_id}", what: "one of them: its handshake and how it is", path: "/machines/cloud_demo"},
		{pattern: "POST /machines/{machine_id}/rpc", what: "a JSON-RPC request to one machine", path: "/machines/laptop/rpc", body: `{"jsonrpc":"2.0","id":1,"method":"config/get"}`},
		{pattern: "PUT /libraries/{lib_id}", what: "binds a library to a user's machine", path: "/libraries/mine", body: `{"machine_id":"laptop"}`},
		{pattern: "GET /libraries/{lib_id}", what: "its machine; 404 without one", path: "/libraries/mine"},
		{pattern: "DELETE /libraries/{lib_id}", what: "frees it", path: "/libraries/mine"},
		{pattern: "GET /ws/daemon", what: "the daemons' WebSocket (see Session)"},
		{pattern: "DELETE /daemons/{lib_id}", what: "stops a daemon and deletes its directory; 404 where there is neither", path: "/daemons/demo"},
		{pattern: "DELETE /daemons/{lib_id}", path: "/daemons/demo"},
		{pattern: "POST /stop", what: "ends all daemons, keeps their directories", path: "/stop"},
	}
}

// exampleScheduler is a real one with real daemons.
type exampleScheduler struct {
	*scheduler
	t    testing.TB
	http *http.Client
	root string // stands for /var/lib
}

func newExampleScheduler(t testing.TB) *exampleScheduler {
	t.Helper()
	root := realTempDir(t)
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	cfg := &schedulerConfig{
		host: "127.0.0.1", workspace: filepath.Join(root, "c4a"), maxDaemons: defaultMaxDaemons, idleTimeout: defaultIdleTimeout,
		spawnTimeout: patience, stopTimeout: defaultStopTimeout, offlineThreshold: defaultOfflineThreshold,
		logs: logFlags{level: "info", format: "text"}, log: log,
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

// run is a request and its answer as the reference shows them.
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

// http is the routes of the scheduler, each with an example.
func (r *reference) http(t *testing.T) {
	s := newExampleScheduler(t)
	examples := routeExamples()
	r.say(`## HTTP API of the scheduler

JSON in and out, bodies of at most %d MiB. With an API token every route needs `+"`Authorization: Bearer TOKEN`"+`, except those
marked open. A `+"`Host`"+` header that names another host, and an `+"`Origin`"+` of another page, get 403.

| route | | |
|---|---|---|
`, maxBody>>20)
	for _, e := range examples {
		if !slices.Contains(s.api.patterns, e.pattern) {
			t.Errorf("the reference describes %s, which is no route", e.pattern)
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
			t.Errorf("%s is not described: add it to routeExamples", pattern)
		}
	}
	r.say("\nA daemon of the pool:\n\n")
	r.fields("key", jsonFields(reflect.TypeFor[poolEntry]()), false)
	r.say("An error is `application/problem+json` (RFC 9457):\n\n")
	r.fields("key", jsonFields(reflect.TypeFor[problem]()), false)
	r.problems(t)
	for _, e := range examples {
		if e.path == "" {
			continue
		}
		request, answer := s.run(e)
		r.code("http", strings.TrimRight(request, "\n")+"\n\n"+answer)
	}
}

// problems is the codes of the HTTP API.
func (r *reference) problems(t *testing.T) {
	explained := []struct {
		code   errorCode
		status int
		when   string
	}{
		{codeBadRequest, 400, "the body or a header is wrong"},
		{codeInvalidLibID, 400, "a lib_id is 1 to 128 of A-Z a-z 0-9 . _ -, not beginning with . or -"},
		{codeUnauthorized, 401, "the token is missing or wrong"},
		{codeForbidden, 403, "a Host or Origin that is not this server's"},
		{codeNotFound, 404, "nothing there"},
		{codeMethodNotAllowed, 405, "the path has other methods: see Allow"},
		{codeDeleted, 409, "the daemon was deleted meanwhile"},
		{codeBodyTooLarge, 413, "the body is too large"},
		{codeInternalError, 500, "the scheduler failed: its log has the cause"},
		{codeCapacity, 503, "every daemon is busy: ask again after Retry-After seconds"},
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
			t.Errorf("%s is not explained", name)
		}
	}
}
