//go:build linux || darwin

package main

import (
	"context"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// nodeDaemon returns a copy of examples/daemon.mjs that finds the package ws. The
// test is skipped without node or ws.
func nodeDaemon(t *testing.T) (script string) {
	t.Helper()
	if _, err := exec.LookPath("node"); err != nil {
		t.Skip("skipped: node is not installed (package nodejs)")
	}
	cache, _ := os.UserCacheDir() // "" leaves the others
	places := append(filepath.SplitList(os.Getenv("NODE_PATH")), "/usr/share/nodejs", filepath.Join(cache, "c4a-ci", "node-ws", "node_modules"))
	for _, place := range places {
		if _, err := os.Stat(filepath.Join(place, "ws", "package.json")); err != nil {
			continue
		}
		dir := t.TempDir()
		source, err := os.ReadFile("examples/daemon.mjs")
		if err == nil {
			script = filepath.Join(dir, "daemon.mjs")
			err = os.WriteFile(script, source, 0o600)
		}
		if err == nil {
			err = os.Mkdir(filepath.Join(dir, "node_modules"), 0o700)
		}
		if err == nil {
			err = os.Symlink(filepath.Join(place, "ws"), filepath.Join(dir, "node_modules", "ws"))
		}
		if err != nil {
			t.Fatal(err)
		}
		return script
	}
	t.Skipf("skipped: the package ws of node is not installed (Debian's node-ws; looked in %s)", strings.Join(places, ", "))
	return ""
}

// TestDaemonInNode: a daemon written in another language is a machine like any
// other. It serves calls, progress and cancels, its name cannot be taken by another,
// and a task goes on while its link is lost.
func TestDaemonInNode(t *testing.T) {
	skipShort(t, "runs node, and waits for a reconnect of at least a second")
	t.Parallel()
	script := nodeDaemon(t)
	s := newExampleScheduler(t)
	proxy := newFaultProxy(t, s.url())
	dial := func(address string) *startedProgram {
		cmd := exec.Command("node", script, "ws://"+address+linkPath, "node-1")
		return startCommand(t, "node", cmd, nil)
	}
	daemon := dial(proxy.address)
	printed := func(p *startedProgram, text string) {
		t.Helper()
		awaitThat(t, "node prints "+text, func() bool { return strings.Contains(p.stdout.String(), text+"\n") })
	}
	printed(daemon, "accepted")
	machine := func() string {
		_, body := askHTTP(t, http.MethodGet, s.url()+"/machines/node-1", "")
		return body
	}
	awaitThat(t, "the machine is online", func() bool { return strings.Contains(machine(), `"status":"online"`) })
	instance := field[string](t, []byte(machine()), "instance_id")

	rpc := s.url() + "/machines/node-1/rpc"
	for _, test := range []struct{ name, params, want string }{
		{"demo/echo", `{"a":["ä"]}`, `"result":{"a":["ä"]}`},
		{"demo/count", `{}`, `"code":-32602`},
		{"demo/none", `{}`, `"code":-32601`},
		{"demo/count", `{"to":1000,"timeout_ms":50}`, `"TIMEOUT"`},
	} {
		if _, body := askHTTP(t, http.MethodPost, rpc, `{"jsonrpc":"2.0","id":"x","method":"`+test.name+`","params":`+test.params+`}`); !strings.Contains(body, test.want) || !strings.Contains(body, `"id":"x"`) {
			t.Errorf("%s %s: got %s, want %s", test.name, test.params, body, test.want)
		}
	}

	// A second process of the same name is refused, and the first is not disturbed.
	second := dial(strings.TrimPrefix(s.url(), "http://"))
	awaitThat(t, "the second is refused", func() bool { return strings.Contains(second.stdout.String(), "refused: ") })
	if got := field[string](t, []byte(machine()), "instance_id"); got != instance {
		t.Errorf("got the instance %s, want still %s", got, instance)
	}
	_ = second.cmd.Process.Kill()

	// A client that goes away cancels its request.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	gone := make(chan struct{})
	go func() { // ends with ctx
		defer close(gone)
		r, _ := http.NewRequestWithContext(ctx, http.MethodPost, rpc, strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"demo/count","params":{"to":100000}}`))
		if response, err := http.DefaultClient.Do(r); err == nil {
			_ = response.Body.Close()
		}
	}()
	printed(daemon, "run 2 begins")
	cancel()
	<-gone
	printed(daemon, "run 2 is aborted")

	// A task goes on while its link is lost, and its caller gets its progress and
	// its result. Asked again it is answered from memory.
	const task = `{"jsonrpc":"2.0","id":1,"method":"demo/count","params":{"to":50,"task_id":"T"}}`
	streamed := make(chan string, 1)
	go func() { // ends with the call
		_, body := askHTTP(t, http.MethodPost, rpc, task, "Accept", "text/event-stream")
		streamed <- body
	}()
	printed(daemon, "run 3 begins")
	proxy.reset()
	body := <-streamed
	if !strings.Contains(body, `"result":{"to":50,"run":3}`) || !strings.Contains(body, "event: progress") {
		t.Errorf("after a lost link: got %s, want progress and the result of run 3", body)
	}
	if _, body := askHTTP(t, http.MethodPost, rpc, task); !strings.Contains(body, `"run":3`) {
		t.Errorf("the same task again: got %s, want the result of run 3", body)
	}
	if got := field[string](t, []byte(machine()), "instance_id"); got != instance || strings.Count(daemon.stdout.String(), "accepted\n") != 2 {
		t.Errorf("got the instance %s after %s, want still %s, accepted twice", got, daemon.stdout, instance)
	}
}
