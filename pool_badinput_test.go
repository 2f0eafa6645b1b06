//go:build linux || darwin

package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// This file gives a real scheduler what it cannot work with: each time there is
// a clear error, in the API and in the log, and nothing else is harmed.

// Programs that are no daemon, beside one that is.
func TestFaultDaemonPrograms(t *testing.T) {
	t.Parallel()
	const (
		failed  = http.StatusServiceUnavailable
		timeout = http.StatusGatewayTimeout
	)
	programs := []struct {
		name, script string
		status       int
		says         string // beside the code
	}{
		{"crash", "read -r token; echo 'boom: no such thing' >&2; exit 4", failed, "the server refused it); its last log lines:\\nboom: no such thing"},
		{"ends-well", "exit 0", failed, "exit status 0"},
		{"signal", "kill -9 $$", failed, "signal: killed"},
		{"hang", "exec sleep 1000", timeout, logFileName},
		{"reads", "while read -r op; do :; done; exec sleep 1000", timeout, logFileName},
		{"stubborn", "trap '' TERM HUP INT; while :; do sleep 1000; done", timeout, logFileName},
		{"mute", "exec >&- 2>&-; exec sleep 1000", timeout, logFileName},
		{"no-input", "exec <&-; exec sleep 1000", timeout, logFileName},
		{"rubbish", "head -c 300000 /dev/urandom; exit 1", failed, "exit status 1"},
		{"zeros", "head -c 3000000 /dev/zero; exec sleep 1000", timeout, logFileName},
		{"other-json", `echo '[1]'; echo '"ready"'; echo '{"event":5}'; echo '{"Event":"unknown"}'; echo null; exec sleep 1000`, timeout, logFileName},
		{"loud", "head -c 3000000 /dev/zero | tr '\\0' x >&2; exit 1", failed, "xxxx"},
		{"escapes", `printf '\033[2J\033]0;owned\007 \033[31mred\n' >&2; exit 1`, failed, "red"},
		{"leaves", "sleep 1000 & exit 3", failed, "exit status 3"},
		{"ready-late", "echo rubbish; echo '{}'; " + scriptGood, http.StatusCreated, `"status":"ready"`},
	}
	bad := map[string]string{"good": scriptGood}
	for _, p := range programs {
		bad[p.name] = p.script
	}
	h := openHouse(t, realTempDir(t), "--daemon-bin", mixedDaemon(t, bad), "--spawn-timeout", "3s", "--stop-timeout", "300ms")
	good := h.ensure("good")
	var answers []<-chan answer
	for _, p := range programs {
		answers = append(answers, h.askLater(http.MethodPut, "/daemons/"+p.name, ""))
	}
	for i, p := range programs {
		a := <-answers[i]
		code := map[int]errorCode{failed: codeAutoStartFailed, timeout: codeSpawnTimeout}[p.status]
		if a.status != p.status || !strings.Contains(a.body, string(code)) || !strings.Contains(a.body, p.says) || strings.ContainsAny(a.body, "\x1b\x07") || strings.Contains(a.body, `\u001b`) {
			t.Errorf("%s: %d %.1000s", p.name, a.status, a.body)
		}
		if code != "" {
			h.says(`msg="a daemon died" lib_id=` + p.name + " ")
		}
		if len(a.body) > 3*maxLastLog {
			t.Errorf("%s: an answer of %d bytes", p.name, len(a.body))
		}
		if info, err := os.Stat(filepath.Join(h.workspace, p.name, logFileName)); err != nil || info.Size() > maxChildLog {
			t.Errorf("%s: the log: %v, %v", p.name, info, err)
		}
	}
	if h.ensure("good") != good || !alive(t, good) {
		t.Error("the daemon beside them was harmed")
	}
	h.wantNothingLeft()
}

func TestFaultDaemonProgramThatCannotRun(t *testing.T) {
	t.Parallel()
	dir := realTempDir(t)
	for name, mode := range map[string]os.FileMode{"not-executable": 0o644, "no-format": 0o755} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("\x00\x01\x02"), mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct{ bin, says string }{
		{filepath.Join(dir, "missing"), "no such file or directory"},
		{"no-such-program-in-the-path", "executable file not found"},
		{dir, "permission denied"},
		{filepath.Join(dir, "not-executable"), "permission denied"},
		{filepath.Join(dir, "no-format"), "exec format error"},
	} {
		h := openHouse(t, realTempDir(t), "--daemon-bin", test.bin)
		h.want(http.StatusServiceUnavailable, http.MethodPut, "/daemons/x", "", string(codeAutoStartFailed), test.says)
		if !strings.Contains(h.says("a daemon died"), test.says) {
			t.Errorf("%s: the log does not say %q", test.bin, test.says)
		}
		h.want(http.StatusOK, http.MethodGet, "/daemons/x", "", `"status":"exited"`, test.says)
		h.wantNothingLeft()
	}
}

// badWorkspace starts a scheduler in a directory that it cannot have.
func badWorkspace(t *testing.T, dir string, says ...string) {
	t.Helper()
	p := start(t, schedulerName, nil, "--port", "0", "--workspace", dir)
	code := p.exit()
	for _, text := range says {
		if !strings.Contains(p.stderr.String(), text) {
			t.Errorf("standard error does not say %q: %s", text, p.stderr)
		}
	}
	if code != exitFailure || strings.Count(p.stderr.String(), "\n") != 1 || p.stdout.String() != "" {
		t.Errorf("exit %d: %s%s", code, p.stdout, p.stderr)
	}
}

func TestFaultWorkspaceIsAFile(t *testing.T) {
	t.Parallel()
	file := filepath.Join(realTempDir(t), "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	badWorkspace(t, file, file, "not a directory")
	badWorkspace(t, filepath.Join(file, "below"), file, "not a directory")
	if data, err := os.ReadFile(file); string(data) != "precious" {
		t.Errorf("the file: %q, %v", data, err)
	}
	lock := filepath.Join(realTempDir(t), lockFileName)
	if err := os.Mkdir(lock, 0o700); err != nil {
		t.Fatal(err)
	}
	badWorkspace(t, filepath.Dir(lock), filepath.Dir(lock), "is a directory")
}

// The bindings are a regular file, or none: a pipe would be waited for, and a
// device has no end.
func TestFaultLibrariesAreNoFile(t *testing.T) {
	t.Parallel()
	for _, make := range []func(path string) error{
		func(path string) error { return syscall.Mkfifo(path, 0o600) },
		func(path string) error { return os.Mkdir(path, 0o700) },
		func(path string) error { return os.Symlink("/dev/zero", path) },
		func(path string) error { return os.Truncate(path, maxLibrariesFile+1) },
		func(path string) error { return os.WriteFile(path, []byte(`{"a":1}`), 0o600) },
	} {
		dir := realTempDir(t)
		path := filepath.Join(dir, librariesFile)
		if err := make(path); errors.Is(err, os.ErrNotExist) {
			err = errors.Join(os.WriteFile(path, nil, 0o600), make(path))
			if err != nil {
				t.Fatal(err)
			}
		} else if err != nil {
			t.Fatal(err)
		}
		badWorkspace(t, dir, path)
	}
}

// The workspace is moved away while the scheduler runs: it says so, and works
// again once it is back.
func TestFaultWorkspaceMoved(t *testing.T) {
	t.Parallel()
	h := openHouse(t, realTempDir(t))
	away := h.workspace + "-away"
	if err := os.Rename(h.workspace, away); err != nil {
		t.Fatal(err)
	}
	h.want(http.StatusServiceUnavailable, http.MethodGet, "/readyz", "", "degraded")
	if err := os.Mkdir(h.workspace, 0o700); err != nil {
		t.Fatal(err)
	}
	h.want(http.StatusServiceUnavailable, http.MethodGet, "/readyz", "", "degraded")
	h.wantHealth(http.StatusServiceUnavailable)
	h.says("another directory has taken the place")
	if err := errors.Join(os.Remove(h.workspace), os.Rename(away, h.workspace)); err != nil {
		t.Fatal(err)
	}
	h.want(http.StatusOK, http.MethodGet, "/readyz", "")
	h.ensure("x")
	h.wantNothingLeft()
}

// A library's directory is deleted under its daemon: DELETE ends the daemon.
func TestFaultWorkDirDeleted(t *testing.T) {
	t.Parallel()
	h := openHouse(t, realTempDir(t))
	pid := h.ensure("x")
	if err := os.RemoveAll(filepath.Join(h.workspace, "x")); err != nil {
		t.Fatal(err)
	}
	h.want(http.StatusNoContent, http.MethodDelete, "/daemons/x", "")
	if alive(t, pid) {
		t.Error("it still runs")
	}
	h.want(http.StatusNotFound, http.MethodDelete, "/daemons/x", "")
	h.ensure("x")
	h.wantNothingLeft()
}

// A program that says that it is ready, and never dialled.
func TestFaultReadyWithoutALink(t *testing.T) {
	t.Parallel()
	h := openHouse(t, realTempDir(t), "--daemon-bin", mixedDaemon(t, map[string]string{"liar": scriptGood}))
	h.want(http.StatusServiceUnavailable, http.MethodPost, "/libraries/liar/rpc", configCall, string(codeDaemonOffline))
	h.wantNothingLeft()
}

// A client that has closed its half of the connection may still read: it gets
// an answer, and not an empty success.
func TestFaultHalfClosedClient(t *testing.T) {
	t.Parallel()
	h := openHouse(t, realTempDir(t))
	h.ensure("x")
	for _, accept := range []string{"*/*", "text/event-stream"} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(h.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "POST /libraries/x/rpc HTTP/1.1\r\nHost: localhost\r\nAccept: %s\r\nContent-Length: %d\r\n\r\n%s", accept, len(configCall), configCall)
		if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		_ = conn.SetReadDeadline(time.Now().Add(patience))
		answer, err := io.ReadAll(conn)
		if text := string(answer); err != nil || !strings.Contains(text, `"jsonrpc":"2.0","id":1`) {
			t.Errorf("%s: %v %s", accept, err, text)
		}
		_ = conn.Close() // only read
	}
	h.wantNothingLeft()
}

// A client that asks and does not read is let go, and its answer with it.
func TestFaultClientThatDoesNotRead(t *testing.T) {
	if testing.Short() {
		t.Skip("takes as long as a piece of an answer may: 10 s")
	}
	t.Parallel()
	dir := realTempDir(t)
	large := filepath.Join(dir, "large")
	if err := os.WriteFile(large, []byte(strings.Repeat("x", 8<<20)), 0o600); err != nil {
		t.Fatal(err)
	}
	h := openHouse(t, realTempDir(t), "--allow", dir)
	h.ensure("x")
	before := h.openDescriptors()
	call := `{"jsonrpc":"2.0","id":1,"method":"fs/readFile","params":{"max_bytes":8388608,"path":"` + large + `"}}`
	for _, accept := range []string{"*/*", "text/event-stream"} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(h.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.(*net.TCPConn).SetReadBuffer(4096) // the kernel's smallest will do
		fmt.Fprintf(conn, "POST /libraries/x/rpc HTTP/1.1\r\nHost: localhost\r\nAccept: %s\r\nContent-Length: %d\r\n\r\n%s", accept, len(call), call)
	}
	awaitThat(t, "the calls have come", func() bool { return before == 0 || h.openDescriptors() > before })
	awaitThat(t, "they are given up", func() bool { return h.openDescriptors() <= before })
	h.wantNothingLeft()
}

// What stands in the way of one library's directory is no other's problem.
func TestFaultWorkDirIsAFile(t *testing.T) {
	t.Parallel()
	h := openHouse(t, realTempDir(t))
	good := h.ensure("good")
	file := filepath.Join(h.workspace, "x")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	h.want(http.StatusServiceUnavailable, http.MethodPut, "/daemons/x", "", string(codeAutoStartFailed), file+" is not a directory")
	if data, err := os.ReadFile(file); string(data) != "precious" {
		t.Errorf("the file: %q, %v", data, err)
	}
	h.want(http.StatusNoContent, http.MethodDelete, "/daemons/x", "")
	h.ensure("x")
	if h.ensure("good") != good {
		t.Error("the daemon beside it was harmed")
	}
	h.wantNothingLeft()
}

// No lib_id is a way out of the workspace, whichever route it takes.
func TestFaultLibIDs(t *testing.T) {
	t.Parallel()
	h := openHouse(t, realTempDir(t))
	percent := func(id string) string { return strings.ReplaceAll(url.PathEscape(id), ".", "%2E") }
	for _, id := range []string{
		".", "..", ".hidden", "-flag", "--server=x", "a/b", "../x", "/etc", `a\b`, `..\x`, "a b", "a\tb", "a\nb", "a\x00b", "a\x7fb", "\xff", "ä", "日本", "a:b",
		"a*", "a?", "a%2Fb", "a%00", "$HOME", "`id`", "a;b", "a&b", "a|b", "~", "a'b", `a"b`, "<b>", "CON:", librariesFile, lockFileName, trashPrefix + "x", writableFile,
		strings.Repeat("x", maxLibID+1), strings.Repeat("x", 4000),
	} {
		if status, body := h.ask(http.MethodPost, "/daemons", string(mustJSON(t, map[string]string{"lib_id": id}))); status != http.StatusBadRequest || !strings.Contains(body, string(codeInvalidLibID)) {
			t.Errorf("POST /daemons with %q: %d %s", id, status, body)
		}
		for _, route := range []struct{ method, before, after, body string }{
			{http.MethodPut, "/daemons/", "", ""},
			{http.MethodGet, "/daemons/", "", ""},
			{http.MethodDelete, "/daemons/", "", ""},
			{http.MethodPut, "/libraries/", "", `{"machine_id":"m"}`},
			{http.MethodPost, "/libraries/", "/rpc", configCall},
		} {
			status, body := h.ask(route.method, route.before+percent(id)+route.after, route.body)
			if status != http.StatusBadRequest || !strings.Contains(body, string(codeInvalidLibID)) {
				t.Errorf("%s %s with %q: %d %s", route.method, route.before, id, status, body)
			}
		}
	}
	for _, id := range []string{"a", "A.b-c_9", "libraries.json.bak", strings.Repeat("x", maxLibID)} {
		h.want(http.StatusCreated, http.MethodPut, "/daemons/"+id, "")
		h.want(http.StatusNoContent, http.MethodDelete, "/daemons/"+percent(id), "")
	}
	names, err := os.ReadDir(h.workspace)
	if err != nil || len(names) != 1 || names[0].Name() != lockFileName {
		t.Errorf("in the workspace: %v, %v", names, err)
	}
	h.wantNothingLeft()
}

// Bodies that are no JSON, or not the JSON that is wanted, or too large.
func TestFaultBodies(t *testing.T) {
	t.Parallel()
	h := openHouse(t, realTempDir(t))
	for _, route := range []struct{ method, path string }{
		{http.MethodPost, "/daemons"}, {http.MethodPut, "/libraries/x"}, {http.MethodPost, "/libraries/x/rpc"}, {http.MethodPost, "/machines/m/rpc"},
	} {
		isRPC := strings.HasSuffix(route.path, "/rpc")
		for _, body := range []string{
			"", " ", "{", "}", `{"lib_id":`, `{"lib_id":"x"`, `{"lib_id":"x"}{}`, `{"lib_id":"x"},`, "null", "true", "1", `"x"`, "x", "\x00", "\xff\xfe{\x00}\x00", "\xef\xbb\xbf{}",
			"{\"lib_id\":\"\xff\",\"machine_id\":\"\xff\",\"method\":\"\xff\"}", `{"lib_id":1,"machine_id":1,"method":1}`, `{"lib_id":null}`, `{"lib_id":["x"],"machine_id":{},"method":{}}`,
			strings.Repeat("[", 100_000), strings.Repeat(`{"a":`, 100_000), "{}",
		} {
			status, answer := h.ask(route.method, route.path, body)
			if isRPC && (status == http.StatusOK || status >= 500) || !isRPC && status != http.StatusBadRequest {
				t.Errorf("%s %s %.40q: %d %s", route.method, route.path, body, status, answer)
			}
			if !strings.Contains(answer, `"code"`) {
				t.Errorf("%s %s %.40q: no code in %s", route.method, route.path, body, answer)
			}
		}
		large := `{"lib_id":"` + strings.Repeat("x", maxBody) + `"}`
		for _, chunked := range []bool{false, true} {
			if status, answer := sendBody(t, route.method, h.url+route.path, large, chunked); status != http.StatusRequestEntityTooLarge {
				t.Errorf("%s %s, too large, chunked %v: %d %s", route.method, route.path, chunked, status, answer)
			}
		}
	}
	h.want(http.StatusOK, http.MethodGet, "/daemons", "", `"daemons":[]`)
	h.wantNothingLeft()
}

// sendBody sends a body of a length that is told, or that is not.
func sendBody(t *testing.T, method, url, body string, chunked bool) (int, string) {
	t.Helper()
	var reader io.Reader = strings.NewReader(body)
	if chunked {
		reader = io.MultiReader(reader) // hides the length
	}
	r, err := http.NewRequestWithContext(t.Context(), method, url, reader)
	if err != nil {
		t.Fatal(err)
	}
	return doHTTP(t, r)
}

// A header that does not come to its end is cut off, and others are served
// meanwhile.
func TestFaultSlowHeaders(t *testing.T) {
	if testing.Short() {
		t.Skip("takes as long as a header may: 5 s")
	}
	t.Parallel()
	h := openHouse(t, realTempDir(t))
	const slow = 100
	ended := make(chan error, slow)
	for i := range slow {
		conn, err := net.Dial("tcp", strings.TrimPrefix(h.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, "PUT /daemons/x HTTP/1.1\r\nHost: localhost\r\nX-Slow: "[:i%50]); err != nil {
			t.Fatal(err)
		}
		go func() { // ends with the connection, or at the deadline
			_ = conn.SetReadDeadline(time.Now().Add(patience))
			_, err := io.ReadAll(conn)
			ended <- err
		}()
	}
	h.want(http.StatusOK, http.MethodGet, "/health", "", `"running":0`)
	h.ensure("x")
	open := 0
	for range slow {
		if err := <-ended; errors.Is(err, os.ErrDeadlineExceeded) {
			open++
		}
	}
	if open > 0 {
		t.Errorf("%d connections are still open", open)
	}
	// One header that is too large.
	status, answer := askHTTP(t, http.MethodGet, h.url+"/health", "", "X-Large", strings.Repeat("x", 4*maxHeader))
	if status != http.StatusRequestHeaderFieldsTooLarge {
		t.Error(fmt.Sprint(status, " ", answer))
	}
	h.wantNothingLeft()
}
