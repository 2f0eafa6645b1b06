//go:build linux || darwin

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// The tests of this file run the programs as a user does: processes of this test
// binary, real sockets, git over HTTP.

// startedProgram is a running program; its output is kept.
type startedProgram struct {
	t      testing.TB
	cmd    *exec.Cmd
	done   chan struct{}
	stdout *syncBuffer
	stderr *syncBuffer
}

// syncBuffer is a buffer for concurrent writers and readers.
type syncBuffer struct {
	mu   sync.Mutex
	data bytes.Buffer
	more chan struct{} // 1-buffered
}

func newSyncBuffer() *syncBuffer { return &syncBuffer{more: make(chan struct{}, 1)} }

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	wake(b.more)
	return b.data.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.data.String()
}

// start runs one of the programs with a clean environment and more variables.
func start(t testing.TB, name string, env []string, args ...string) *startedProgram {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, args...)
	cmd.Args[0] = name
	return startCommand(t, name, cmd, env)
}

// startCommand runs one of the programs by a command that lacks its environment,
// directory and output.
func startCommand(t testing.TB, name string, cmd *exec.Cmd, env []string) *startedProgram {
	t.Helper()
	p := &startedProgram{t: t, cmd: cmd, done: make(chan struct{}), stdout: newSyncBuffer(), stderr: newSyncBuffer()}
	p.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "TMPDIR=" + t.TempDir(), "GORACE=" + quickRace}, env...)
	p.cmd.Dir = t.TempDir()
	p.cmd.Stdout = p.stdout
	if p.cmd.Stderr == nil {
		p.cmd.Stderr = p.stderr
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait()
	}()
	t.Cleanup(func() {
		select {
		case <-p.done:
		default:
			_ = p.cmd.Process.Kill()
			<-p.done
		}
		if t.Failed() {
			t.Logf("%s %s\nstdout: %s\nstderr: %s", name, cmd.Args[1:], p.stdout, p.stderr)
		}
	})
	return p
}

// exit waits for the end and returns the status.
func (p *startedProgram) exit() int {
	p.t.Helper()
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		p.t.Fatalf("the program still runs after %v, want its end", patience)
		return -1
	}
}

// says waits for a line of standard error that holds text, and returns it.
func (p *startedProgram) says(text string) string {
	p.t.Helper()
	limit := time.After(patience)
	for {
		for line := range strings.Lines(p.stderr.String()) {
			if strings.Contains(line, text) && strings.HasSuffix(line, "\n") {
				return line
			}
		}
		select {
		case <-p.stderr.more:
		case <-p.done:
			if !strings.Contains(p.stderr.String(), text) {
				p.t.Fatalf("the program ended, want it to say %q first", text)
			}
		case <-limit:
			p.t.Fatalf("the program said nothing like it within %v, want %q", patience, text)
		}
	}
}

// startSchedulerProcess runs a scheduler on a free port and returns its URL.
func startSchedulerProcess(t *testing.T, env []string, args ...string) (*startedProgram, string) {
	t.Helper()
	workspace := filepath.Join(realTempDir(t), "workspace")
	// The tests must pass on a machine with a full disk.
	p := start(t, schedulerName, env, append([]string{"--port", "0", "--workspace", workspace, "--min-free-disk", "0"}, args...)...)
	return p, p.url()
}

// url waits until a scheduler listens and returns where.
func (p *startedProgram) url() string {
	p.t.Helper()
	_, rest, _ := strings.Cut(p.says("msg=listening"), "url=")
	url, _, _ := strings.Cut(rest, " ")
	return strings.TrimSpace(url)
}

// askHTTP makes an HTTP request and returns status and body.
func askHTTP(t testing.TB, method, url, body string, header ...string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	return doHTTP(t, r)
}

// doHTTP makes a request over a connection of its own and returns status and
// body.
func doHTTP(t testing.TB, r *http.Request) (int, string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(data)
}

// rpcAnswer is a decoded JSON-RPC answer.
type rpcAnswer struct {
	ID     json.RawMessage
	Result json.RawMessage
	Error  *rpcError
}

// callRPC calls a method over the hub's HTTP API.
func callRPC(t *testing.T, url, method, params string) (int, rpcAnswer) {
	t.Helper()
	status, body := askHTTP(t, http.MethodPost, url+"/rpc", `{"jsonrpc":"2.0","id":"x","method":"`+method+`","params":`+params+`}`)
	var a rpcAnswer
	if err := json.Unmarshal([]byte(body), &a); err != nil {
		t.Fatalf("%s: got status %d and %s, want a JSON-RPC answer", method, status, body)
	}
	return status, a
}

// field returns one value of a JSON object.
func field[T any](t testing.TB, data []byte, name string) (value T) {
	t.Helper()
	var object map[string]json.RawMessage
	if err := json.Unmarshal(data, &object); err != nil {
		t.Fatalf("got %s (%v), want a JSON object", data, err)
	}
	if err := json.Unmarshal(object[name], &value); err != nil {
		t.Fatalf("got %s (%v), want a value %q of type %T", data, err, name, value)
	}
	return value
}

// TestMainJob: the whole system does its job, from an HTTP request to the
// files of a repository that git served over HTTP.
func TestMainJob(t *testing.T) {
	t.Parallel()
	server := newGitServer(t)
	repo := server.repo("group/lib.git", map[string]string{"README.md": "hello\n"})
	scheduler, url := startSchedulerProcess(t, nil)

	status, a := callRPC(t, url+"/libraries/demo", "vcs/clone", `{"url":"`+server.address("group/lib.git")+`"}`)
	if status != 200 || a.Error != nil || string(a.ID) != `"x"` {
		t.Fatalf("vcs/clone: status %d, id %s, %v, want 200, the id \"x\" and no error", status, a.ID, a.Error)
	}
	if commit := field[string](t, a.Result, "commit"); commit != repo.head() {
		t.Errorf("the clone has commit %s, want %s", commit, repo.head())
	}
	_, a = callRPC(t, url+"/libraries/demo", "fs/readFile", `{"path":"repos/lib/README.md"}`)
	if a.Error != nil || field[string](t, a.Result, "content") != "hello\n" {
		t.Errorf("fs/readFile: got %s, %v, want the content of README.md", a.Result, a.Error)
	}

	status, body := askHTTP(t, http.MethodGet, url+"/daemons/demo", "")
	pid := field[int](t, []byte(body), "pid")
	if status != 200 || field[string](t, []byte(body), "status") != "ready" || field[string](t, []byte(body), "machine_id") != "cloud_demo" || !alive(t, pid) {
		t.Errorf("GET /daemons/demo: got status %d and %s, want 200 and the living daemon cloud_demo, ready", status, body)
	}
	workDir := field[string](t, []byte(body), "work_dir")
	awaitThat(t, "the clone and the size in /metrics", func() bool {
		_, text := askHTTP(t, http.MethodGet, url+"/metrics", "")
		return strings.Contains(text, "\nc4a_clones_total{result=\"ok\"} 1\n") && strings.Contains(text, "\nc4a_workspace_bytes ") &&
			strings.Contains(text, "\nc4a_daemon_spawns_total{result=\"ready\"} 1\n")
	})
	for _, route := range []string{"/health", "/machines", "/machines/cloud_demo", "/daemons"} {
		if status, body := askHTTP(t, http.MethodGet, url+route, ""); status != 200 || !json.Valid([]byte(body)) {
			t.Errorf("GET %s: got status %d and %s, want 200 and JSON", route, status, body)
		}
	}
	if status, body := askHTTP(t, http.MethodDelete, url+"/daemons/demo", ""); status != 204 {
		t.Errorf("DELETE: got status %d and %s, want 204", status, body)
	}
	if _, err := os.Stat(workDir); !errors.Is(err, os.ErrNotExist) || alive(t, pid) {
		t.Errorf("after DELETE: the work dir: %v, the daemon lives: %v, want neither", err, alive(t, pid))
	}
	if status, _ := askHTTP(t, http.MethodGet, url+"/daemons/demo", ""); status != 404 {
		t.Errorf("after DELETE: got status %d, want 404", status)
	}

	// Another one, which the scheduler takes along when it ends.
	_, body = askHTTP(t, http.MethodPost, url+"/daemons", `{"lib_id":"other"}`)
	pid = field[int](t, []byte(body), "pid")
	if err := scheduler.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := scheduler.exit(); code != 0 || alive(t, pid) {
		t.Errorf("exit %d, the daemon lives: %v, want 0 and no daemon", code, alive(t, pid))
	}
}

// TestDiskBelowTheFloorOfTheScheduler: below --min-free-disk the pool's daemons
// refuse clones, and /health is degraded.
func TestDiskBelowTheFloorOfTheScheduler(t *testing.T) {
	t.Parallel()
	server := newGitServer(t)
	server.repo("lib", map[string]string{"a": "1"})
	_, url := startSchedulerProcess(t, nil, "--min-free-disk", "100")
	if status, body := askHTTP(t, http.MethodGet, url+"/health", ""); status != 503 || field[string](t, []byte(body), "status") != "degraded" {
		t.Errorf("GET /health: got status %d and %s, want 503 and degraded", status, body)
	}
	status, a := callRPC(t, url+"/libraries/demo", "vcs/clone", `{"url":"`+server.address("lib")+`"}`)
	if status != 200 || a.Error == nil || a.Error.Data["reason"] != string(gitDiskFull) {
		t.Errorf("vcs/clone: got status %d and %v, want 200 and the reason %s", status, a.Error, gitDiskFull)
	}
	if _, a := callRPC(t, url+"/libraries/demo", "fs/listDir", `{"path":"repos"}`); a.Error != nil || string(a.Result) == "" {
		t.Errorf("fs/listDir needs no room: got %s, %v, want a result", a.Result, a.Error)
	}
}

// TestStreamedCall: progress and the result as Server-Sent Events.
func TestStreamedCall(t *testing.T) {
	t.Parallel()
	server := newGitServer(t)
	repo := server.repo("lib.git", map[string]string{"README.md": "hello\n"})
	_, url := startSchedulerProcess(t, nil)
	status, body := askHTTP(t, http.MethodPost, url+"/libraries/demo/rpc",
		`{"jsonrpc":"2.0","id":7,"method":"vcs/clone","params":{"task_id":"mine","url":"`+server.address("lib.git")+`"}}`, "Accept", "text/event-stream")
	if status != 200 {
		t.Fatalf("got status %d and %s, want 200", status, body)
	}
	var percents []int
	var result string
	name := ""
	for line := range strings.Lines(body) {
		line = strings.TrimSuffix(line, "\n")
		if n, ok := strings.CutPrefix(line, "event: "); ok {
			name = n
		}
		data, ok := strings.CutPrefix(line, "data: ")
		switch {
		case !ok:
		case name == "progress":
			var p taskProgress
			if err := json.Unmarshal([]byte(data), &p); err != nil || p.TaskID != "mine" || p.Method != "vcs/clone" {
				t.Errorf("got the progress %s (%v), want task_id mine and method vcs/clone", data, err)
			}
			percents = append(percents, p.Percent)
		case name == "result":
			result = data
		}
	}
	if len(percents) < 2 || percents[0] != 0 || percents[len(percents)-1] != 100 {
		t.Errorf("progress %v, want it to begin with 0 and to end with 100", percents)
	}
	var a rpcAnswer
	if err := json.Unmarshal([]byte(result), &a); err != nil || string(a.ID) != "7" || field[string](t, a.Result, "commit") != repo.head() {
		t.Errorf("got the result %s (%v), want id 7 and the commit %s", result, err, repo.head())
	}
}

// TestCallCommand: the README's first command.
func TestCallCommand(t *testing.T) {
	t.Parallel()
	repo := newTestRepo(t, map[string]string{"README.md": "hello\n"})
	// No scheduler listens at a port that was free a moment ago; another scheduler
	// may use the default port.
	p := start(t, schedulerName, nil, "call", "--allow", repo.dir, "demo", "vcs/clone", "url="+repo.dir)
	if code := p.exit(); code != 0 {
		if strings.Contains(p.stderr.String(), "a scheduler already listens at") || strings.Contains(p.stderr.String(), "is not a c4a-daemon-scheduler") {
			t.Skip("something listens on the scheduler's default port of this machine: " + p.stderr.String())
		}
		t.Fatalf("exit %d, want 0", code)
	}
	if commit := field[string](t, []byte(p.stdout.String()), "commit"); commit != repo.head() {
		t.Errorf("got %s, want the commit %s", p.stdout, repo.head())
	}
	for _, want := range []string{"no scheduler listens at http://127.0.0.1:5110", "the workspace is temporary"} {
		if !strings.Contains(p.stderr.String(), want) {
			t.Errorf("standard error is %s, want %q in it", p.stderr, want)
		}
	}
	if left, err := filepath.Glob(filepath.Join(p.cmd.Env[1][len("TMPDIR="):], "*")); err != nil || len(left) > 0 {
		t.Errorf("temporary files %v, %v, want none", left, err)
	}
}

// TestCallRunningScheduler: the client against a scheduler that runs, with a
// token.
func TestCallRunningScheduler(t *testing.T) {
	t.Parallel()
	repo := newTestRepo(t, map[string]string{"README.md": "hello\n"})
	_, url := startSchedulerProcess(t, []string{"C4A_API_TOKEN=s3cret-token"}, "--allow", repo.dir)
	for _, test := range []struct {
		args        []string
		token       string
		code        int
		stdout, err string
	}{
		{[]string{"--url", url, "demo", "fs/readFile", "path=" + repo.dir + "/README.md"}, "s3cret-token", 0, `"content": "hello\n"`, ""},
		{[]string{"--url", url, "demo", "fs/readFile", `{"path":"` + repo.dir + `/README.md","length":2}`}, "s3cret-token", 0, `"content": "he"`, ""},
		{[]string{"--url", url, "demo", "fs/readFile", "path=" + repo.dir + "/README.md", "length=2", "offset=1"}, "s3cret-token", 0, `"content": "el"`, ""},
		{[]string{"--url", url, "demo", "fs/stat", "paths=" + repo.dir, "paths=" + repo.dir + "/none"}, "s3cret-token", 0, `"exists": false`, ""},
		{[]string{"--url", url, "demo", "fs/readFile", "path=/etc/passwd"}, "s3cret-token", 1, "", "-32001 SOURCE_ACCESS_DENIED: "},
		{[]string{"--url", url, "demo", "no/such", "a=1"}, "s3cret-token", 1, "", "-32601: method not found"},
		{[]string{"--url", url, "demo", "fs/readFile", "path=x", "length=two"}, "s3cret-token", 2, "", "length must be an integer"},
		{[]string{"--url", url, "demo", "fs/readFile", "path=x", "path=y"}, "s3cret-token", 2, "", "path is given twice"},
		{[]string{"--url", url, "demo", "fs/readFile", "path"}, "s3cret-token", 2, "", "KEY=VALUE"},
		{[]string{"--url", url, "demo", "fs/readFile", "{"}, "s3cret-token", 2, "", "not a JSON object"},
		{[]string{"--url", url, "demo", "config/setAuth", `{"token":"s3cret"`}, "s3cret-token", 2, "", "not a JSON object"},
		{[]string{"--url", url, "demo"}, "s3cret-token", 2, "", "call needs LIB_ID METHOD"},
		{[]string{"--url", url, "../demo", "fs/stat"}, "s3cret-token", 2, "", "lib_id"},
		{[]string{"--url", "ftp://x", "demo", "fs/stat"}, "s3cret-token", 2, "", "--url"},
		{[]string{"--url", url, "--allow", repo.dir, "demo", "fs/stat"}, "s3cret-token", 2, "", "leave out --allow"},
		{[]string{"--url", url, "demo", "config/get"}, "wrong", 1, "", "UNAUTHORIZED"},
		{[]string{"--url", "http://127.0.0.1:1", "demo", "config/get"}, "", 1, "", "no scheduler listens at http://127.0.0.1:1"},
	} {
		p := start(t, schedulerName, []string{"C4A_API_TOKEN=" + test.token}, append([]string{"call"}, test.args...)...)
		code := p.exit()
		if code != test.code || !strings.Contains(p.stdout.String(), test.stdout) || !strings.Contains(p.stderr.String(), test.err) || (code != 0) != (p.stdout.String() == "") {
			t.Errorf("%v: exit %d, want %d\nstdout %s\nwant %q\nstderr %s\nwant %q", test.args, code, test.code, p.stdout, test.stdout, p.stderr, test.err)
		}
		if strings.Contains(p.stdout.String()+p.stderr.String(), "s3cret") {
			t.Errorf("%v shows the token, want it hidden", test.args)
		}
	}
	git := newGitServer(t)
	p := start(t, schedulerName, nil, "call", "--url", git.address(""), "demo", "config/get")
	if code := p.exit(); code != 1 || !strings.Contains(p.stderr.String(), "is not a c4a-daemon-scheduler") {
		t.Errorf("exit %d, want 1 and a hint: %s", code, p.stderr)
	}
}

// handWritten is a server for one daemon, written without this program's own
// peer and hub.
type handWritten struct {
	t    *testing.T
	conn *websocket.Conn
	got  chan map[string]json.RawMessage
}

// serveOneDaemon accepts each daemon that dials and its handshake.
func serveOneDaemon(t *testing.T) (address string, connected chan *handWritten) {
	t.Helper()
	connected = make(chan *handWritten, 1)
	server := newHTTPServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = conn.CloseNow() }() // an error of Read does not close it
		conn.SetReadLimit(defaultMaxMessage)
		s := &handWritten{t: t, conn: conn, got: make(chan map[string]json.RawMessage, 1000)}
		defer close(s.got)
		for {
			_, data, err := conn.Read(context.Background())
			if err != nil {
				return
			}
			var m map[string]json.RawMessage
			if err := json.Unmarshal(data, &m); err != nil {
				t.Errorf("the daemon sent %s, want JSON-RPC", data)
				return
			}
			if string(m["method"]) == `"daemon/handshake"` {
				s.say(`{"jsonrpc":"2.0","id":` + string(m["id"]) + `,"result":{"accepted":true,"lib_id":"lib_1"}}`)
				connected <- s
			}
			s.got <- m
		}
	}))
	return server, connected
}

func (s *handWritten) say(message string) {
	if err := s.conn.Write(context.Background(), websocket.MessageText, []byte(message)); err != nil {
		s.t.Error(err)
	}
}

// answer waits for the answer to an id and returns it with the messages before
// it.
func (s *handWritten) answer(id string) (answer rpcAnswer, told []map[string]json.RawMessage) {
	s.t.Helper()
	limit := time.After(patience)
	for {
		select {
		case m, ok := <-s.got:
			if !ok {
				s.t.Fatalf("the link ended, want the answer to %s", id)
			}
			if m["method"] != nil || string(m["id"]) != id {
				told = append(told, m)
				continue
			}
			answer.ID, answer.Result = m["id"], m["result"]
			if m["error"] != nil {
				answer.Error = &rpcError{}
				if err := json.Unmarshal(m["error"], answer.Error); err != nil {
					s.t.Fatal(err)
				}
			}
			return answer, told
		case <-limit:
			s.t.Fatalf("no answer to %s came within %v, want one", id, patience)
		}
	}
}

// TestDaemonAgainstHandWrittenServer: the daemon does the main job for a server
// that shares no code with it.
func TestDaemonAgainstHandWrittenServer(t *testing.T) {
	skipShort(t, "it takes about a second")
	t.Parallel()
	git := newGitServer(t)
	repo := git.repo("lib.git", map[string]string{"README.md": "hello\n"})
	git.requireAuth("oauth2", "s3cret-token")
	workDir := filepath.Join(realTempDir(t), "work")
	address, connected := serveOneDaemon(t)
	p := start(t, daemonName, []string{"C4A_TOKEN=link-s3cret"}, "--server", address, "--machine-id", "m 1", "--work-dir", workDir)
	var s *handWritten
	select {
	case s = <-connected:
	case <-time.After(patience):
		t.Fatalf("no daemon connected within %v, want one", patience)
	}
	first := <-s.got
	var hello handshakeParams
	if err := json.Unmarshal(first["params"], &hello); err != nil {
		t.Fatal(err)
	}
	if hello.MachineID != "m 1" || hello.PID != p.cmd.Process.Pid || hello.ProtocolVersion != 1 || *hello.WorkDir != workDir || hello.GitVersion == "" || len(hello.Methods) < 15 {
		t.Errorf("the handshake is %+v, want this process, its work dir, git and methods", hello)
	}
	host := strings.TrimPrefix(strings.TrimSuffix(git.address(""), "/"), "http://")
	s.say(`{"jsonrpc":"2.0","id":1,"method":"vcs/clone","params":{"url":"` + git.address("lib.git") + `"}}`)
	if a, _ := s.answer("1"); a.Error == nil || a.Error.name() != codeGitFailed || a.Error.Data["reason"] != "auth" || !strings.Contains(a.Error.Message, "config/setAuth") {
		t.Errorf("without a token: %+v, want %s, the reason auth and what to do", a.Error, codeGitFailed)
	}
	s.say(`{"jsonrpc":"2.0","id":2,"method":"config/setAuth","params":{"host":"` + host + `","protocol":"http","token":"s3cret-token"}}`)
	if a, _ := s.answer("2"); a.Error != nil {
		t.Fatalf("config/setAuth: %v, want no error", a.Error)
	}
	s.say(`{"jsonrpc":"2.0","id":"c","method":"vcs/clone","params":{"url":"` + git.address("lib.git") + `"}}`)
	a, told := s.answer(`"c"`)
	if a.Error != nil || field[string](t, a.Result, "commit") != repo.head() {
		t.Fatalf("vcs/clone: got %s, %v, want the commit %s", a.Result, a.Error, repo.head())
	}
	var percents []int
	for _, m := range told {
		if string(m["method"]) == `"task/progress"` {
			if id := field[string](t, m["params"], "task_id"); id != "c" {
				t.Errorf("progress of the task %q, want c", id)
			}
			percents = append(percents, field[int](t, m["params"], "percent"))
		}
	}
	if len(percents) < 2 || percents[0] != 0 || percents[len(percents)-1] != 100 {
		t.Errorf("progress %v, want it to begin with 0 and to end with 100", percents)
	}
	s.say(`{"jsonrpc":"2.0","id":3,"method":"fs/readFile","params":{"path":"repos/lib/README.md"}}`)
	if a, _ := s.answer("3"); a.Error != nil || field[string](t, a.Result, "content") != "hello\n" {
		t.Errorf("fs/readFile: got %s, %v, want the content of README.md", a.Result, a.Error)
	}
	s.say(`{"jsonrpc":"2.0","id":4,"method":"vcs/info","params":{"path":"repos/lib"}}`)
	if a, _ := s.answer("4"); a.Error != nil || field[string](t, a.Result, "head") != repo.head() {
		t.Errorf("vcs/info: got %s, %v, want the head %s", a.Result, a.Error, repo.head())
	}
	s.say(`{"jsonrpc":"2.0","id":5,"method":"config/get"}`)
	a, _ = s.answer("5")
	if a.Error != nil || strings.Contains(string(a.Result), "s3cret") || !strings.Contains(string(a.Result), host) {
		t.Errorf("config/get: got %s, %v, want the host %s and no token", a.Result, a.Error, host)
	}
	for _, path := range []string{".git-daemon.credentials", "repos/../.git-daemon.config", workDir + "/.git-daemon.credentials"} {
		s.say(`{"jsonrpc":"2.0","id":6,"method":"fs/readFile","params":{"path":"` + path + `"}}`)
		if a, _ := s.answer("6"); a.Error == nil || a.Error.name() != codeAccessDenied {
			t.Errorf("reading %s: got %s, %v, want %s", path, a.Result, a.Error, codeAccessDenied)
		}
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := p.exit(); code != 0 {
		t.Errorf("exit %d, want 0", code)
	}
	if strings.Contains(p.stderr.String(), "s3cret") {
		t.Errorf("the log holds a token, want it hidden: %s", p.stderr)
	}
}

// TestExitStatus: each way to end has its documented exit status.
func TestExitStatus(t *testing.T) {
	t.Parallel()
	refusing := newHTTPServer(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusUnauthorized) }))
	busy := newHTTPServer(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusBadGateway) }))
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name string
		env  []string
		args []string
		code int
		says string
	}{
		{daemonName, nil, nil, 2, "--server"},
		{daemonName, nil, []string{"--server", "ftp://h"}, 2, `scheme "ftp"`},
		{daemonName, []string{"C4A_SERVER=h:99999"}, nil, 2, `port "99999"`},
		{daemonName, nil, []string{"--server", "h", "extra"}, 2, `unexpected argument "extra"`},
		{daemonName, nil, []string{"--no-such"}, 2, "no-such"},
		{daemonName, nil, []string{"--server", "h", "--allow", "/no/such/dir"}, 2, "--allow"},
		{daemonName, nil, []string{"--server", "h", "--allow", file}, 2, "not a directory"},
		{daemonName, nil, []string{"--server", "h", "--machine-id", "cloud_x"}, 2, "--work-dir"},
		{daemonName, nil, []string{"--server", "h", "--machine-id", "a\nb"}, 2, "--machine-id"},
		{daemonName, nil, []string{"--server", "h", "--allow", longDirectories(t)}, 2, "the handshake would have"},
		{daemonName, nil, []string{"--server", "h", "--max-concurrent", "0"}, 2, "--max-concurrent"},
		{daemonName, nil, []string{"--server", "h", "--max-message", "1"}, 2, "--max-message"},
		{daemonName, nil, []string{"--server", "h", "--heartbeat-interval", "soon"}, 2, "heartbeat-interval"},
		{daemonName, []string{"C4A_HEARTBEAT_INTERVAL=soon"}, []string{"--server", "h"}, 2, "C4A_HEARTBEAT_INTERVAL"},
		{daemonName, nil, []string{"--server", "h", "--log-level", "loud"}, 2, "--log-level"},
		{daemonName, nil, []string{"--server", "h", "--log-format", "xml"}, 2, "--log-format"},
		{daemonName, nil, []string{"--server", "h", "--token-file", "/no/such"}, 2, "--token-file"},
		{daemonName, nil, []string{"--server", "h", "--token-file", file}, 2, "is empty"},
		{daemonName, []string{"C4A_TOKEN=a b"}, []string{"--server", "h"}, 2, "C4A_TOKEN"},
		{daemonName, nil, []string{"--server", "h", "--ca-file", file}, 2, "--ca-file"},
		{daemonName, nil, []string{"--server", busy, "--max-reconnect-attempts", "1"}, 3, "502 Bad Gateway"},
		{daemonName, nil, []string{"--server", refusing}, 4, "401 Unauthorized"},
		{daemonName, nil, []string{"--version"}, 0, ""},
		{daemonName, nil, []string{"--help"}, 0, ""},
		{daemonName, nil, []string{"--server", refusing, "--check"}, 1, ""},
		{daemonName, []string{"C4A_CHECK=true"}, []string{"--server", refusing}, 4, "this can be set by the flag only"},
		{schedulerName, nil, []string{"extra"}, 2, "extra"},
		{schedulerName, nil, []string{"--port", "70000"}, 2, "--port"},
		{schedulerName, nil, []string{"--host", "0.0.0.0"}, 2, "token"},
		{schedulerName, nil, []string{"--host", "unix:"}, 2, "--host"},
		{schedulerName, nil, []string{"--max-daemons", "0"}, 2, "--max-daemons"},
		{schedulerName, nil, []string{"--idle-timeout", "-1s"}, 2, "--idle-timeout"},
		{schedulerName, nil, []string{"--tls-cert", file}, 2, "--tls-key"},
		{schedulerName, nil, []string{"--tls-cert", file, "--tls-key", file}, 2, "--tls-cert"},
		{schedulerName, nil, []string{"--client-ca", file}, 2, "--client-ca needs --tls-cert"},
		{schedulerName, nil, []string{"--client-cert", file}, 2, "--client-key"},
		{schedulerName, nil, []string{"status", "--client-key", file}, 2, "--client-cert"},
		{daemonName, nil, []string{"--server", "h", "--client-key", file}, 2, "--client-cert and --client-key must be given together"},
		{daemonName, nil, []string{"--server", "h", "--client-cert", file, "--client-key", "/no/such"}, 2, "--client-key: reading "},
		{schedulerName, nil, []string{"--min-free-disk", "101"}, 2, "--min-free-disk"},
		{schedulerName, nil, []string{"--max-message", "1"}, 2, "--max-message"},
		{schedulerName, nil, []string{"--max-clone-bytes", "0"}, 2, "--max-clone-bytes"},
		{schedulerName, []string{"C4A_MAX_CLONE_FILES=0"}, nil, 2, "--max-clone-files"},
		{schedulerName, []string{"C4A_ALLOW_GIT_HOST=https://github.com"}, nil, 2, "must be a host, without scheme"},
		{schedulerName, nil, []string{"--server", "ftp://x"}, 2, "--server"},
		{schedulerName, nil, []string{"--workspace", file}, 1, "workspace"},
		{schedulerName, nil, []string{"--port", "1", "--healthcheck"}, 1, "querying the scheduler"},
		{schedulerName, nil, []string{"--version"}, 0, ""},
		{schedulerName, nil, []string{"--help"}, 0, ""},
		{schedulerName, nil, []string{"call"}, 2, "LIB_ID"},
		{schedulerName, nil, []string{"call", "--server", "h", "demo", "config/get"}, 2, "--server"},
		{schedulerName, nil, []string{"call", "--host", "unix:/no/such.sock", "demo", "config/get"}, 1, "unix:/no/such.sock"},
	} {
		p := start(t, test.name, test.env, test.args...)
		code := p.exit()
		if code != test.code || !strings.Contains(p.stderr.String(), test.says) || strings.Contains(p.stderr.String(), "goroutine") {
			t.Errorf("%s %v %v: exit %d, want %d: %s", test.name, test.env, test.args, code, test.code, p.stderr)
		}
		if code == 2 && strings.Count(p.stderr.String(), "\n") != 2 {
			t.Errorf("%s %v: standard error is %s, want a line and a hint", test.name, test.args, p.stderr)
		}
		if code == 0 && (p.stdout.String() == "" || p.stderr.String() != "") {
			t.Errorf("%s %v: got %q and %q on standard error, want text and nothing", test.name, test.args, p.stdout, p.stderr)
		}
	}
}

// longDirectories returns directories that do not fit in a handshake together.
func longDirectories(t *testing.T) string {
	t.Helper()
	var all []string
	for n := range 30 {
		path := filepath.Join(t.TempDir(), strings.Repeat("/"+strings.Repeat(string(rune('a'+n%26)), 240), 10))
		if err := os.MkdirAll(path, 0o700); err != nil {
			t.Fatal(err)
		}
		all = append(all, path)
	}
	return strings.Join(all, ",")
}
