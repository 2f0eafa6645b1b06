//go:build linux || darwin

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"
)

// startUserDaemon runs a user's daemon and waits until the scheduler at url
// knows it.
func startUserDaemon(t *testing.T, url, machineID string, env []string, args ...string) *startedProgram {
	t.Helper()
	p := start(t, daemonName, env, append([]string{"--server", url, "--machine-id", machineID}, args...)...)
	p.says("msg=connected")
	return p
}

// TestUserDaemon: a user's machine is bound to a library, serves calls and goes
// offline.
func TestUserDaemon(t *testing.T) {
	t.Parallel()
	repo := newTestRepo(t, map[string]string{"README.md": "hello\n"})
	_, url := startSchedulerProcess(t, nil)
	if status, a := callRPC(t, url+"/machines/laptop", "config/get", "{}"); status != 404 || a.Error.Code != -32010 {
		t.Errorf("a machine that never connected: got status %d and %v, want 404 and -32010", status, a.Error)
	}
	for _, body := range []string{``, `{}`, `{"machine_id":""}`, `{"machine_id":"cloud_x"}`, `{"machine_id":1}`, "{\"machine_id\":\"\xff\"}"} {
		if status, answer := askHTTP(t, http.MethodPut, url+"/libraries/lib_1", body); status != 400 || !strings.Contains(answer, `"BAD_REQUEST"`) {
			t.Errorf("PUT with %q: got status %d and %s, want 400 and BAD_REQUEST", body, status, answer)
		}
	}
	if status, _ := askHTTP(t, http.MethodGet, url+"/libraries/lib_1", ""); status != 404 {
		t.Errorf("an unbound library: got status %d, want 404", status)
	}
	if status, body := askHTTP(t, http.MethodPut, url+"/libraries/lib_1", `{"machine_id":"laptop"}`); status != 200 || body != `{"lib_id":"lib_1","machine_id":"laptop"}`+"\n" {
		t.Errorf("binding: got status %d and %s, want 200 and the binding", status, body)
	}
	if status, body := askHTTP(t, http.MethodPut, url+"/libraries/.x", `{"machine_id":"laptop"}`); status != 400 || !strings.Contains(body, "INVALID_LIB_ID") {
		t.Errorf("a library id that begins with a dot: got status %d and %s, want 400 and INVALID_LIB_ID", status, body)
	}

	d := startUserDaemon(t, url, "laptop", nil, "--allow", repo.dir)
	if line := d.says("msg=connected"); !strings.Contains(line, "lib_id=lib_1") {
		t.Errorf("the daemon logged %s, want lib_id=lib_1", line)
	}
	for _, target := range []string{"/machines/laptop", "/libraries/lib_1"} {
		status, a := callRPC(t, url+target, "fs/readFile", `{"path":"`+repo.dir+`/README.md"}`)
		if status != 200 || a.Error != nil || field[string](t, a.Result, "content") != "hello\n" {
			t.Errorf("fs/readFile by %s: got status %d, %s, %v, want 200 and the content", target, status, a.Result, a.Error)
		}
	}
	if _, body := askHTTP(t, http.MethodGet, url+"/machines/laptop", ""); field[string](t, []byte(body), "status") != "online" || field[string](t, []byte(body), "lib_id") != "lib_1" {
		t.Errorf("the machine is %s, want online with lib_1", body)
	}
	if status, body := askHTTP(t, http.MethodGet, url+"/daemons", ""); status != 200 || !strings.Contains(body, `"daemons":[]`) {
		t.Errorf("GET /daemons: got status %d and %s, want 200 and no daemon: a user's machine is not the pool's", status, body)
	}
	for _, body := range []string{``, `[]`, `{}`, `{"jsonrpc":"2.0","method":"fs/stat"}`, `{"jsonrpc":"2.0","id":true,"method":"fs/stat"}`} {
		if status, answer := askHTTP(t, http.MethodPost, url+"/machines/laptop/rpc", body); status != 400 || !strings.Contains(answer, `"BAD_REQUEST"`) {
			t.Errorf("the call %q: got status %d and %s, want 400 and BAD_REQUEST", body, status, answer)
		}
	}

	if err := d.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if code := d.exit(); code != 0 {
		t.Errorf("exit %d after SIGINT, want 0", code)
	}
	awaitThat(t, "the machine to be offline", func() bool {
		_, body := askHTTP(t, http.MethodGet, url+"/machines/laptop", "")
		return field[string](t, []byte(body), "status") == "offline"
	})
	if status, a := callRPC(t, url+"/libraries/lib_1", "config/get", "{}"); status != 503 || a.Error.name() != codeDaemonOffline {
		t.Errorf("a call to an offline machine: got status %d and %v, want 503 and %s", status, a.Error, codeDaemonOffline)
	}
	if status, _ := askHTTP(t, http.MethodDelete, url+"/libraries/lib_1", ""); status != 204 {
		t.Errorf("unbinding: got status %d, want 204", status)
	}
	if status, _ := askHTTP(t, http.MethodDelete, url+"/libraries/lib_1", ""); status != 404 {
		t.Errorf("unbinding again: got status %d, want 404", status)
	}
}

// TestBindingsOutliveTheScheduler: a restarted scheduler reads libraries.json, and
// a broken file ends it.
func TestBindingsOutliveTheScheduler(t *testing.T) {
	t.Parallel()
	workspace := filepath.Join(realTempDir(t), "ws")
	for round := range 2 {
		p := start(t, schedulerName, nil, "--port", "0", "--workspace", workspace)
		line := p.says("msg=listening")
		_, rest, _ := strings.Cut(line, "url=")
		url, _, _ := strings.Cut(rest, " ")
		if round == 0 {
			if status, body := askHTTP(t, http.MethodPut, url+"/libraries/a", `{"machine_id":"m"}`); status != 200 {
				t.Fatalf("binding: got status %d and %s, want 200", status, body)
			}
		} else if status, body := askHTTP(t, http.MethodGet, url+"/libraries/a", ""); status != 200 || !strings.Contains(body, `"m"`) {
			t.Errorf("after a restart: got status %d and %s, want 200 and the machine m", status, body)
		}
		// The machine is known: it is offline, and not unknown.
		for _, target := range []string{"/libraries/a/rpc", "/machines/m/rpc"} {
			if status, body := askHTTP(t, http.MethodPost, url+target, `{"jsonrpc":"2.0","id":1,"method":"config/get"}`); status != 503 || !strings.Contains(body, "DAEMON_OFFLINE") {
				t.Errorf("%s: got status %d and %s, want 503 and DAEMON_OFFLINE", target, status, body)
			}
		}
		for target, want := range map[string]string{
			"/machines/m": `"lib_id":"a","status":"offline","connected_at":null`, "/machines?limit=1": `"machine_id":"m"`, "/libraries?limit=1": `{"libraries":[{"lib_id":"a","machine_id":"m"}],"next_cursor":null}`,
		} {
			if status, body := askHTTP(t, http.MethodGet, url+target, ""); status != 200 || !strings.Contains(body, want) {
				t.Errorf("%s: got status %d and %s, want 200 and %s", target, status, body, want)
			}
		}
		for _, target := range []string{"/machines?limit=0", "/machines?limit=x", "/machines?cursor=%20", "/libraries?limit=1001"} {
			if status, body := askHTTP(t, http.MethodGet, url+target, ""); status != 400 {
				t.Errorf("%s: got status %d and %s, want 400", target, status, body)
			}
		}
		if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if code := p.exit(); code != 0 {
			t.Errorf("exit %d after SIGTERM, want 0", code)
		}
	}
	if err := os.WriteFile(filepath.Join(workspace, librariesFile), []byte("{not JSON"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := start(t, schedulerName, nil, "--port", "0", "--workspace", workspace)
	if code := p.exit(); code != 1 || !strings.Contains(p.stderr.String(), librariesFile) {
		t.Errorf("with a broken %s: exit %d and %s, want 1 and its name", librariesFile, code, p.stderr)
	}
}

// TestTokens: each token opens the routes and links that it is for, and no others.
func TestTokens(t *testing.T) {
	t.Parallel()
	_, url := startSchedulerProcess(t, []string{"C4A_API_TOKEN=api-s3cret", "C4A_DAEMON_TOKEN=daemon-s3cret"})
	for _, open := range []string{"/livez", "/readyz", "/health"} {
		if status, _ := askHTTP(t, http.MethodGet, url+open, ""); status != 200 {
			t.Errorf("GET %s without a token: got status %d, want 200", open, status)
		}
	}
	for _, route := range []string{"GET /daemons", "POST /daemons", "GET /machines", "PUT /libraries/x", "POST /libraries/x/rpc", "POST /stop", "GET /events"} {
		method, path, _ := strings.Cut(route, " ")
		for _, token := range []string{"", "wrong", "daemon-s3cret"} {
			if status, body := askHTTP(t, method, url+path, "", "Authorization", "Bearer "+token); status != 401 || !strings.Contains(body, "UNAUTHORIZED") {
				t.Errorf("%s with the token %q: got status %d and %s, want 401 and UNAUTHORIZED", route, token, status, body)
			}
		}
	}
	if status, _ := askHTTP(t, http.MethodGet, url+"/daemons", "", "Authorization", "Bearer api-s3cret"); status != 200 {
		t.Errorf("GET /daemons with the token: got status %d, want 200", status)
	}
	for _, header := range [][2]string{{"Origin", "http://evil.example"}, {"Origin", "null"}, {"Sec-Fetch-Site", "cross-site"}} {
		if status, _ := askHTTP(t, http.MethodGet, url+"/daemons", "", "Authorization", "Bearer api-s3cret", header[0], header[1]); status != 403 {
			t.Errorf("GET /daemons with %q: got status %d, want 403", header, status)
		}
		if status, _ := askHTTP(t, http.MethodGet, url+"/ws/daemon", "", header[0], header[1]); status != 403 {
			t.Errorf("GET /ws/daemon with %q: got status %d, want 403", header, status)
		}
	}

	// A user's daemon needs the daemon token; a child has its own.
	for _, token := range []string{"", "wrong", "api-s3cret"} {
		p := start(t, daemonName, []string{"C4A_TOKEN=" + token}, "--server", url, "--machine-id", "m")
		if code := p.exit(); code != 4 {
			t.Errorf("a daemon with the token %q: exit %d, want 4", token, code)
		}
	}
	startUserDaemon(t, url, "m", []string{"C4A_TOKEN=daemon-s3cret"})
	p := start(t, daemonName, []string{"C4A_TOKEN=daemon-s3cret"}, "--server", url, "--machine-id", "cloud_x", "--work-dir", t.TempDir(), "--max-reconnect-attempts", "1")
	if code := p.exit(); code != 3 || !strings.Contains(p.stderr.String(), "belong to the pool") {
		t.Errorf("a user's daemon that claims cloud_x: exit %d and %s, want 3 and the reason", code, p.stderr)
	}
	if status, body := askHTTP(t, http.MethodPost, url+"/daemons", `{"lib_id":"x"}`, "Authorization", "Bearer api-s3cret"); status != 201 {
		t.Errorf("POST /daemons with the token: got status %d and %s, want 201", status, body)
	}
}

// TestClientGoesAway: when an HTTP client disconnects, its request is cancelled and
// the daemon stays.
func TestClientGoesAway(t *testing.T) {
	t.Parallel()
	git, _, asked := newStalledGitServer(t)
	_, url := startSchedulerProcess(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/libraries/demo/rpc",
		strings.NewReader(cloneCall(git.address("lib.git"))))
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	failed := make(chan error, 1)
	go func() {
		_, err := client.Do(r)
		failed <- err
	}()
	select {
	case <-asked: // git waits for the server
	case <-time.After(patience):
		t.Fatalf("the git server got no request within %v, want the clone's", patience)
	}
	awaitThat(t, "the daemon to be busy", func() bool {
		_, body := askHTTP(t, http.MethodGet, url+"/daemons/demo", "")
		return field[bool](t, []byte(body), "busy")
	})
	cancel()
	if err := <-failed; err == nil {
		t.Error("the call to a killed scheduler was answered, want an error")
	}
	awaitThat(t, "the clone to be cancelled", func() bool {
		_, body := askHTTP(t, http.MethodGet, url+"/daemons/demo", "")
		return !field[bool](t, []byte(body), "busy")
	})
	_, a := callRPC(t, url+"/libraries/demo", "fs/listDir", `{"path":"repos"}`)
	if a.Error != nil || !strings.Contains(string(a.Result), `"entries":[]`) {
		t.Errorf("fs/listDir after the restart: got %s, %v, want no entries", a.Result, a.Error)
	}
}

// TestSchedulerIsKilled: the daemons of a killed scheduler end, and the next
// scheduler can use the workspace.
func TestSchedulerIsKilled(t *testing.T) {
	skipShort(t, "waits for a reconnect of processes, for seconds")
	t.Parallel()
	workspace := filepath.Join(realTempDir(t), "ws")
	p := start(t, schedulerName, nil, "--port", "0", "--workspace", workspace)
	_, rest, _ := strings.Cut(p.says("msg=listening"), "url=")
	url, _, _ := strings.Cut(rest, " ")
	var pids []int
	for _, id := range []string{"a", "b", "c"} {
		_, body := askHTTP(t, http.MethodPost, url+"/daemons", `{"lib_id":"`+id+`"}`)
		pids = append(pids, field[int](t, []byte(body), "pid"))
	}
	second := start(t, schedulerName, nil, "--port", "0", "--workspace", workspace)
	if code := second.exit(); code != 1 || !strings.Contains(second.stderr.String(), "pid") {
		t.Errorf("a second scheduler in the workspace: exit %d and %s, want 1 and the first one's pid", code, second.stderr)
	}
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	p.exit()
	awaitThat(t, "the daemons to end", func() bool {
		for _, pid := range pids {
			if alive(t, pid) {
				return false
			}
		}
		return true
	})
	p = start(t, schedulerName, nil, "--port", "0", "--workspace", workspace)
	_, rest, _ = strings.Cut(p.says("msg=listening"), "url=")
	url, _, _ = strings.Cut(rest, " ")
	if status, a := callRPC(t, url+"/libraries/a", "config/get", "{}"); status != 200 || a.Error != nil {
		t.Errorf("config/get: got status %d and %v, want 200", status, a.Error)
	}
}

// strangersLeave checks that connections to the port of the pool's daemons end by
// themselves, after a refusal and without a request.
func strangersLeave(t *testing.T, address string) {
	t.Helper()
	var all sync.WaitGroup
	for _, request := range []string{"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "GET " + linkPath + " HTTP/1.1\r\nHost: localhost\r\n\r\n", "", "GET /"} {
		all.Go(func() { // ends with the connection
			conn, err := net.Dial("tcp", address)
			if err != nil {
				t.Error(err)
				return
			}
			_, err = conn.Write([]byte(request))
			_ = conn.SetReadDeadline(time.Now().Add(patience))
			answer, readErr := io.ReadAll(conn)
			_ = conn.Close()
			if text := string(answer); err != nil || readErr != nil || strings.HasSuffix(request, "\r\n\r\n") && (!strings.HasPrefix(text, "HTTP/1.1 401") || !strings.Contains(text, "application/problem+json")) {
				t.Errorf("%q: got %q, %v, %v, want a problem and the end of the connection", request, answer, err, readErr)
			}
		})
	}
	all.Wait()
}

// TestUnixSocketScheduler: the API is served on a Unix socket, and the pool's
// daemons still connect.
func TestUnixSocketScheduler(t *testing.T) {
	skipShort(t, "it takes seconds")
	t.Parallel()
	dir := realTempDir(t)
	path := filepath.Join(dir, "s")
	for round := range 2 { // the second finds the stale file of the first
		p := start(t, schedulerName, nil, "--host", "unix:"+path, "--workspace", filepath.Join(dir, "ws"))
		p.says("msg=listening")
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		}}}
		response, err := client.Post("http://localhost/libraries/demo/rpc", "application/json", strings.NewReader(configCall))
		if err != nil {
			t.Fatal(err)
		}
		var a rpcAnswer
		err = json.NewDecoder(bufio.NewReader(response.Body)).Decode(&a)
		_ = response.Body.Close()
		if err != nil || a.Error != nil || field[string](t, a.Result, "machine_id") != "cloud_demo" {
			t.Errorf("config/get: got %s, %v, %v, want the machine cloud_demo", a.Result, a.Error, err)
		}
		// The mode of the socket says which users may connect, so the TCP port for the
		// pool's daemons must admit nobody else.
		if response, err = client.Get("http://localhost/daemons/demo"); err != nil {
			t.Fatal(err)
		}
		var entry poolEntry
		err = json.NewDecoder(response.Body).Decode(&entry)
		_ = response.Body.Close()
		if err != nil || entry.PID == 0 {
			t.Fatalf("the entry is %+v, %v, want one with a pid", entry, err)
		}
		if line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", entry.PID)); err == nil { // only Linux tells
			words := strings.Split(string(line), "\x00")
			server := words[slices.Index(words, "--server")+1]
			stranger := start(t, daemonName, nil, "--server", server, "--machine-id", "stranger")
			if code := stranger.exit(); code != exitRefused {
				t.Errorf("a user's daemon at the port of the pool: exit %d, want %d", code, exitRefused)
			}
			if round == 0 {
				strangersLeave(t, strings.TrimSuffix(strings.TrimPrefix(server, "ws://"), linkPath))
			}
		}
		health := start(t, schedulerName, nil, "--host", "unix:"+path, "--healthcheck")
		if code := health.exit(); code != 0 {
			t.Errorf("--healthcheck: exit %d, want 0", code)
		}
		if err := p.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		p.exit()
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := start(t, schedulerName, nil, "--host", "unix:"+path, "--workspace", filepath.Join(dir, "ws"))
	if code := p.exit(); code != 1 {
		t.Errorf("a file in the socket's place: exit %d, want 1", code)
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != "precious" {
		t.Errorf("the file in the socket's place is %q, %v, want it as it was", data, err)
	}
}

// TestExternalServer: with --server the pool's daemons dial that server with its
// token, and the hub's routes are missing.
func TestExternalServer(t *testing.T) {
	t.Parallel()
	tokens := make(chan string, 10)
	server := newHTTPServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tokens <- r.Header.Get("Authorization")
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = conn.CloseNow() }() // an error of Read does not close it
		for {
			_, data, err := conn.Read(context.Background())
			if err != nil {
				return
			}
			var m struct {
				ID     json.RawMessage
				Method string
			}
			if json.Unmarshal(data, &m) == nil && m.Method == handshakeMethod {
				_ = conn.Write(context.Background(), websocket.MessageText, []byte(`{"jsonrpc":"2.0","id":`+string(m.ID)+`,"result":{"accepted":true}}`))
			}
		}
	}))
	p, url := startSchedulerProcess(t, []string{"C4A_TOKEN=server-s3cret"}, "--server", server)
	status, body := askHTTP(t, http.MethodPost, url+"/daemons", `{"lib_id":"x"}`)
	if status != 201 || field[string](t, []byte(body), "status") != "ready" {
		t.Fatalf("POST /daemons: got status %d and %s, want 201 and ready", status, body)
	}
	if got := <-tokens; got != "Bearer server-s3cret" {
		t.Errorf("the child dialled with %q, want the token for --server", got)
	}
	pid := field[int](t, []byte(body), "pid")
	for _, file := range []string{"cmdline", "environ"} {
		data, err := os.ReadFile(filepath.Join("/proc", strings.TrimSpace(string(mustJSON(t, pid))), file))
		if err == nil && strings.Contains(string(data), "s3cret") {
			t.Errorf("%s of the child holds the token, want it hidden", file)
		}
	}
	if status, _ := askHTTP(t, http.MethodGet, url+"/machines", ""); status != 404 {
		t.Errorf("GET /machines with --server: got status %d, want 404", status)
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := p.exit(); code != 0 || alive(t, pid) {
		t.Errorf("exit %d, the child lives: %v, want 0 and no child", code, alive(t, pid))
	}
}

func mustJSON(t testing.TB, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestSignals: the first signal lets a running request end, the second cancels it.
func TestSignals(t *testing.T) {
	t.Parallel()
	git := newGitServer(t)
	git.repo("lib.git", map[string]string{"a": "1"})
	for _, signals := range []int{1, 2} {
		asked, release := make(chan struct{}, 10), make(chan struct{})
		git.setHook(func(_ http.ResponseWriter, r *http.Request) bool {
			if !strings.Contains(r.URL.RequestURI(), "info/refs") {
				return false
			}
			asked <- struct{}{}
			select {
			case <-release:
				return false
			case <-r.Context().Done():
				return true
			}
		})
		address, connected := serveOneDaemon(t)
		p := start(t, daemonName, nil, "--server", address, "--work-dir", filepath.Join(realTempDir(t), "w"), "--machine-id", "m")
		s := <-connected
		s.say(`{"jsonrpc":"2.0","id":1,"method":"vcs/clone","params":{"url":"` + git.address("lib.git") + `"}}`)
		<-asked
		if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		p.says("waiting for running requests")
		s.say(`{"jsonrpc":"2.0","id":2,"method":"config/get"}`)
		if a, _ := s.answer("2"); a.Error == nil || a.Error.name() != codeDraining {
			t.Errorf("a request to a stopping daemon: %+v, want %s", a.Error, codeDraining)
		}
		want := exitStopped
		if signals == 2 {
			want = exitFailure
			time.Sleep(2 * sameSignal) // a signal that comes sooner is the same one
			if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			if a, _ := s.answer("1"); a.Error == nil || a.Error.name() != codeCancelled {
				t.Errorf("the running request: %+v, want %s", a.Error, codeCancelled)
			}
		} else {
			close(release)
			if a, _ := s.answer("1"); a.Error != nil {
				t.Errorf("the running request: %v, want its result", a.Error)
			}
		}
		if code := p.exit(); code != want {
			t.Errorf("after %d signals: exit %d, want %d", signals, code, want)
		}
	}
}

// TestSystemdNotify: a daemon reports READY=1 only after an accepted handshake.
func TestSystemdNotify(t *testing.T) {
	t.Parallel()
	path := filepath.Join(realTempDir(t), "n")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	next := func() string {
		buf := make([]byte, 4096)
		if err := socket.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		n, err := socket.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:n])
	}
	address, connected := serveOneDaemon(t)
	p := start(t, daemonName, []string{"NOTIFY_SOCKET=" + path, "WATCHDOG_USEC=100000"}, "--server", address, "--machine-id", "m")
	<-connected
	seen := ""
	for !strings.Contains(seen, "WATCHDOG=1") || !strings.Contains(seen, "READY=1") {
		seen += next() + "\n"
	}
	if !strings.Contains(seen, "STATUS=connected to ") {
		t.Errorf("systemd was told %q, want STATUS=connected to …", seen)
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for seen = ""; !strings.Contains(seen, "STOPPING=1"); {
		seen += next() + "\n"
	}
	if code := p.exit(); code != 0 {
		t.Errorf("exit %d, want 0", code)
	}
}

// TestDaemonDiesInACall: the pool starts another daemon, which answers the call.
func TestDaemonDiesInACall(t *testing.T) {
	t.Parallel()
	git, repo, asked := newStalledGitServer(t)
	_, url := startSchedulerProcess(t, nil)
	answered := make(chan rpcAnswer, 1)
	go func() {
		_, a := callRPC(t, url+"/libraries/demo", "vcs/clone", `{"url":"`+git.address("lib.git")+`"}`)
		answered <- a
	}()
	<-asked
	_, body := askHTTP(t, http.MethodGet, url+"/daemons/demo", "")
	git.setHook(nil)
	if err := syscall.Kill(field[int](t, []byte(body), "pid"), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	select {
	case a := <-answered:
		if a.Error != nil || field[string](t, a.Result, "commit") != repo.head() {
			t.Errorf("the clone got %s, %v, want the commit %s", a.Result, a.Error, repo.head())
		}
	case <-time.After(patience):
		t.Fatalf("the call got no answer within %v, want one", patience)
	}
}

// TestBrokenStandardError: a daemon works on and stops normally after the reader of
// its log has gone.
func TestBrokenStandardError(t *testing.T) {
	t.Parallel()
	address, connected := serveOneDaemon(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "--server", address, "--machine-id", "m", "--log-level", "debug")
	cmd.Args[0], cmd.Dir, cmd.Stderr = daemonName, t.TempDir(), write
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = write.Close()
	s := <-connected
	_ = read.Close()
	for range 3 {
		s.say(`{"jsonrpc":"2.0","method":"a/notification that is logged"}`)
	}
	s.say(`{"jsonrpc":"2.0","id":1,"method":"config/get"}`)
	if a, _ := s.answer("1"); a.Error != nil {
		t.Errorf("request 1: %v, want a result", a.Error)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// TestSlowBody: a request that sends half of its body ends after bodyLimit, with
// its connection, on every route.
func TestSlowBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := newPipeNet()
		a := testAPI(t, nil)
		libs, err := openLibraries(filepath.Join(t.TempDir(), librariesFile), false, a.log)
		if err != nil {
			t.Fatal(err)
		}
		(&hubAPI{callRouter: callRouter{hub: newHub(hubConfig{log: a.log}), pool: a.pool, libraries: libs}, tokens: &childTokens{}, log: a.log}).register(a)
		server := &http.Server{Handler: a}
		served := make(chan struct{})
		go func() { defer close(served); _ = server.Serve(network) }()
		defer func() {
			_ = server.Close()
			<-served
		}()
		for _, test := range []struct{ route, status string }{
			{"POST /nothing", ""}, {"POST /health", ""}, {"GET /health", ""}, // the body is not read, and an answer may be lost with the connection
			{"POST /daemons", "HTTP/1.1 400"}, {"PUT /daemons/z", "HTTP/1.1 400"}, {"POST /libraries/x/rpc", "HTTP/1.1 400"},
		} {
			here, there := net.Pipe()
			network.conns <- there
			start := time.Now()
			if _, err := fmt.Fprintf(here, "%s HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n{", test.route); err != nil {
				t.Fatal(err)
			}
			_ = here.SetReadDeadline(start.Add(2 * bodyLimit))
			answer, err := io.ReadAll(here)
			_ = here.Close()
			if took := time.Since(start); err != nil || !strings.HasPrefix(string(answer), test.status) || took != bodyLimit {
				t.Errorf("half a body to %s: got %.40q, %v after %v, want status %s and the end of the connection after %v", test.route, answer, err, took, test.status, bodyLimit)
			}
		}
	})
}
