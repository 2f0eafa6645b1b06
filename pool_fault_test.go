//go:build linux || darwin

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// scriptDeaf does not care for the end of its input, but for SIGTERM.
const scriptDeaf = `read -r token
echo '{"event":"ready","pid":'$$',"instance_id":"i"}'
exec sleep 1000`

// The kernel takes the scheduler away: whatever its daemons are like, none is
// left once the next scheduler listens.
func TestFaultSchedulerKilled(t *testing.T) {
	skipShort(t, "kills schedulers for some 4 s")
	t.Parallel()
	for _, test := range []struct {
		name, script string
		stay         bool // until the next scheduler comes
	}{
		{"real ones", "", false},
		{"they ignore the end of input", scriptDeaf, true},
		{"they ignore SIGTERM too", scriptStubborn, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			bad := map[string]string{}
			if test.script != "" {
				bad["lib"] = test.script
			}
			dir, bin := realTempDir(t), mixedDaemon(t, bad)
			h := openHouse(t, dir, "--daemon-bin", bin)
			var pids []int
			for i := range 5 {
				pids = append(pids, h.ensure(fmt.Sprint("lib", i)))
			}
			h.kill(syscall.SIGKILL)
			h.exit()
			if !test.stay {
				awaitThat(t, "the daemons end with their input", func() bool { return len(h.processes()) == 0 })
			}
			next := openHouse(t, dir, "--daemon-bin", bin)
			for _, pid := range pids {
				if alive(t, pid) {
					t.Errorf("process %d lives while the next scheduler listens, want it ended before", pid)
				}
				if fate := fmt.Sprintf("pid=%d fate=ended", pid); test.stay != strings.Contains(next.stderr.String(), fate) {
					t.Errorf("%q in the log: got %v, want %v", fate, !test.stay, test.stay)
				}
			}
			next.ensure("lib0")
			next.wantNothingLeft()
		})
	}
}

func TestFaultSchedulerStopsTwenty(t *testing.T) {
	skipShort(t, "stops twenty daemons, for 2 s")
	t.Parallel()
	h := openHouse(t, realTempDir(t), "--daemon-bin", mixedDaemon(t, map[string]string{"stubborn": scriptStubborn}), "--spawn-timeout", "60s")
	var pids []int
	for i := range 20 {
		name := "real"
		if i%4 == 0 {
			name = "stubborn"
		}
		pids = append(pids, h.ensure(fmt.Sprint(name, i)))
	}
	h.kill(syscall.SIGTERM)
	if code := h.exit(); code != exitStopped {
		t.Errorf("got exit %d, want %d", code, exitStopped)
	}
	for _, pid := range pids {
		if alive(t, pid) {
			t.Errorf("process %d lives, want it ended", pid)
		}
	}
	if killed := strings.Count(h.stderr.String(), "did not stop in time and is killed"); killed != 5 {
		t.Errorf("got %d killed, want the 5 that ignore SIGTERM", killed)
	}
	h.wantPortFree()
	h.wantNothingLeft()
}

func TestFaultSecondSignal(t *testing.T) {
	t.Parallel()
	h := openHouse(t, realTempDir(t), "--daemon-bin", mixedDaemon(t, map[string]string{"stubborn": scriptStubborn}), "--stop-timeout", "24h")
	pids := []int{h.ensure("stubborn1"), h.ensure("stubborn2")}
	h.kill(syscall.SIGTERM)
	h.says("msg=stopping")
	time.Sleep(2 * sameSignal) // a signal that comes sooner is the same one
	h.kill(syscall.SIGTERM)
	if code := h.exit(); code != exitFailure {
		t.Errorf("got exit %d, want %d", code, exitFailure)
	}
	for _, pid := range pids {
		if alive(t, pid) {
			t.Errorf("process %d lives, want it killed", pid)
		}
	}
	h.wantPortFree()
	h.wantNothingLeft()
}

func TestFaultDeleteDuringSpawn(t *testing.T) {
	t.Parallel()
	h := openHouse(t, realTempDir(t), "--daemon-bin", mixedDaemon(t, map[string]string{"hang": "exec sleep 1000"}), "--spawn-timeout", "24h")
	joined := h.askLater(http.MethodPut, "/daemons/hang", "")
	awaitThat(t, "it starts", func() bool { return h.status("hang") == string(statusStarting) })
	h.want(http.StatusNoContent, http.MethodDelete, "/daemons/hang", "")
	if a := <-joined; a.status != http.StatusConflict || !strings.Contains(a.body, string(codeDeleted)) {
		t.Errorf("got %d %s, want 409 %s", a.status, a.body, codeDeleted)
	}
	if _, err := os.Stat(filepath.Join(h.workspace, "hang")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the directory: got %v, want it removed", err)
	}
	h.wantNothingLeft()
}

func TestFaultStoppedDaemonIsDeleted(t *testing.T) {
	t.Parallel()
	h := openHouse(t, realTempDir(t), "--stop-timeout", "24h")
	pid := h.ensure("x")
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	// Without SIGCONT this would last until SIGKILL, a day from now.
	h.want(http.StatusNoContent, http.MethodDelete, "/daemons/x", "")
	if alive(t, pid) {
		t.Error("the daemon lives, want it ended")
	}
	h.wantNothingLeft()
}

func TestFaultEnsureDuringStop(t *testing.T) {
	skipShort(t, "it takes about a second")
	t.Parallel()
	h := openHouse(t, realTempDir(t), "--daemon-bin", mixedDaemon(t, map[string]string{"stubborn": scriptStubborn}), "--stop-timeout", "300ms")
	first := h.ensure("stubborn")
	stopped := h.askLater(http.MethodPost, "/stop", "")
	awaitThat(t, "it stops", func() bool { return h.status("stubborn") != string(statusReady) })
	if second := h.ensure("stubborn"); second == first || alive(t, first) || !alive(t, second) {
		t.Errorf("got the first, %d, alive %v and the second, %d, alive %v, want another process in the first one's place", first, alive(t, first), second, alive(t, second))
	}
	if a := <-stopped; a.status != http.StatusNoContent {
		t.Errorf("POST /stop: got %d %s, want 204", a.status, a.body)
	}
	h.wantNothingLeft()
}

func TestFaultHundredEnsures(t *testing.T) {
	t.Parallel()
	h := openHouse(t, realTempDir(t))
	var mu sync.Mutex
	var statuses, pids []int
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			status, body := h.ask(http.MethodPut, "/daemons/x", "")
			pid := field[int](t, []byte(body), "pid")
			mu.Lock()
			defer mu.Unlock()
			statuses, pids = append(statuses, status), append(pids, pid)
		})
	}
	wg.Wait()
	slices.Sort(statuses)
	slices.Sort(pids)
	if statuses[98] != http.StatusOK || statuses[99] != http.StatusCreated || pids[0] != pids[99] {
		t.Errorf("got the statuses %v and the pids %v, want one 201, the others 200, and one pid", statuses, pids)
	}
	h.wantNothingLeft()
}

// A daemon that dies again and again is started with growing pauses, however
// often it is asked for.
func TestFaultCrashLoop(t *testing.T) {
	skipShort(t, "it takes seconds")
	t.Parallel()
	h := openHouse(t, realTempDir(t), "--daemon-bin", mixedDaemon(t, map[string]string{"crash": "echo x >>starts; exit 4", "good": scriptGood}), "--spawn-timeout", "1900ms")
	good := h.ensure("good")
	for range 30 { // those that would wait longer than --spawn-timeout return at once
		h.want(http.StatusServiceUnavailable, http.MethodPut, "/daemons/crash", "", string(codeAutoStartFailed), "exit status 4")
	}
	starts, err := os.ReadFile(filepath.Join(h.workspace, "crash", "starts"))
	if n := strings.Count(string(starts), "x"); err != nil || n < 2 || n > 10 {
		t.Errorf("got %d starts, %v, want 2 to 10", n, err)
	}
	if h.ensure("good") != good {
		t.Error("the daemon beside it has another pid, want it untouched")
	}
	h.wantNothingLeft()
}

// With one place for two libraries each call ends the other's daemon, which has
// just answered. That must not cause a refusal, unless the machine is too busy
// for the daemon to notice.
func TestFaultOneSlotForTwo(t *testing.T) {
	skipShort(t, "it takes seconds")
	t.Parallel()
	h := openHouse(t, realTempDir(t), "--max-daemons", "1")
	refused := 0
	for n := range 60 {
		status, body := h.ask(http.MethodPost, fmt.Sprintf("/libraries/lib%d/rpc", n%2), configCall)
		switch {
		case status == http.StatusServiceUnavailable && strings.Contains(body, string(codeCapacity)):
			refused++
		case status != http.StatusOK || strings.Contains(body, `"error"`):
			t.Errorf("got %d %s, want a result or %s", status, body, codeCapacity)
		}
	}
	if refused > 5 {
		t.Errorf("got %d calls refused, want at most 5", refused)
	}
	h.wantNothingLeft()
}

// A call that runs when its library is deleted does not bring it back, not even
// when its daemon had to be killed.
func TestFaultDeletedUnderACall(t *testing.T) {
	t.Parallel()
	git, _, asked := newStalledGitServer(t)
	h := openHouse(t, realTempDir(t), "--stop-timeout", "100ms")
	h.ensure("x")
	cloned := h.askLater(http.MethodPost, "/libraries/x/rpc", cloneCall(git.address("lib.git")))
	<-asked
	git.setHook(nil)
	h.want(http.StatusNoContent, http.MethodDelete, "/daemons/x", "")
	if a := <-cloned; a.status != http.StatusConflict || !strings.Contains(a.body, string(codeDeleted)) {
		t.Errorf("got %d %s, want 409 %s", a.status, a.body, codeDeleted)
	}
	h.want(http.StatusOK, http.MethodGet, "/daemons", "", `"daemons":[]`)
	if _, err := os.Stat(filepath.Join(h.workspace, "x")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the directory: got %v, want it gone for good", err)
	}
	h.wantNothingLeft()
}

// A daemon that is killed once while it starts costs its callers nothing: the
// next one answers. An ensure returns the crash.
func TestFaultKilledWhileStarting(t *testing.T) {
	t.Parallel()
	const once = "[ -e died ] || { touch died; kill -9 $$; }\n" + execDaemon
	h := openHouse(t, realTempDir(t), "--daemon-bin", mixedDaemon(t, map[string]string{"once": once, "crash": "echo x >>starts; exit 4"}))
	var answers []<-chan answer
	for range 10 {
		answers = append(answers, h.askLater(http.MethodPost, "/libraries/once/rpc", configCall))
	}
	for _, answered := range answers {
		wantAnswer(t, answered)
	}
	h.want(http.StatusServiceUnavailable, http.MethodPut, "/daemons/once-ensured", "", string(codeAutoStartFailed), "signal: killed")
	h.want(http.StatusServiceUnavailable, http.MethodPost, "/libraries/crash/rpc", configCall, string(codeAutoStartFailed), "exit status 4")
	if starts, err := os.ReadFile(filepath.Join(h.workspace, "crash", "starts")); err != nil || strings.Count(string(starts), "x") != 2 {
		t.Errorf("got the starts %q, %v, want 2", starts, err)
	}
	h.wantNothingLeft()
}

// wantAnswer waits for the answer to a call.
func wantAnswer(t *testing.T, answered <-chan answer) string {
	t.Helper()
	a := <-answered
	if a.status != http.StatusOK || strings.Contains(a.body, `"error"`) {
		t.Errorf("got %d %s, want a result", a.status, a.body)
	}
	return a.body
}

// configCall is a JSON-RPC call of config/get.
const configCall = `{"jsonrpc":"2.0","id":1,"method":"config/get"}`

// Programs that are no daemon, beside one that is.
func TestFaultDaemonPrograms(t *testing.T) {
	skipShort(t, "waits 3 s for daemon programs that do not work")
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
			t.Errorf("%s: got %d %.1000s, want %d %s with %q and no control characters", p.name, a.status, a.body, p.status, code, p.says)
		}
		if code != "" {
			h.says(`msg="a daemon died" lib_id=` + p.name + " ")
		}
		if len(a.body) > 3*maxLastLog {
			t.Errorf("%s: got an answer of %d bytes, want at most %d", p.name, len(a.body), 3*maxLastLog)
		}
		if info, err := os.Stat(filepath.Join(h.workspace, p.name, logFileName)); err != nil || info.Size() > maxChildLog {
			t.Errorf("%s: the log: got %v, %v, want at most %d bytes", p.name, info, err, maxChildLog)
		}
	}
	if h.ensure("good") != good || !alive(t, good) {
		t.Error("the daemon beside them was ended, want it untouched")
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
			t.Errorf("%s: got the log %q, want %q in it", test.bin, h.stderr.String(), test.says)
		}
		h.want(http.StatusOK, http.MethodGet, "/daemons/x", "", `"status":"exited"`, test.says)
		h.wantNothingLeft()
	}
}

// A program that says that it is ready, and never dialled.
func TestFaultReadyWithoutALink(t *testing.T) {
	t.Parallel()
	h := openHouse(t, realTempDir(t), "--daemon-bin", mixedDaemon(t, map[string]string{"liar": scriptGood}))
	h.want(http.StatusServiceUnavailable, http.MethodPost, "/libraries/liar/rpc", configCall, string(codeDaemonOffline))
	h.wantNothingLeft()
}
