//go:build linux || darwin

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// house is a scheduler's process, where it lives, and what it held before the
// fault.
type house struct {
	*startedProgram
	dir         string // the workspace and, in some tests, user daemons' work dirs
	workspace   string
	url         string
	descriptors int
}

// openHouse starts a scheduler in dir/workspace.
func openHouse(t *testing.T, dir string, args ...string) *house {
	t.Helper()
	h := &house{dir: dir, workspace: filepath.Join(dir, "workspace")}
	t.Cleanup(h.clear) // after the scheduler is killed
	h.startedProgram = start(t, schedulerName, nil, append([]string{"--port", "0", "--workspace", h.workspace, "--min-free-disk", "0"}, args...)...)
	h.url = h.startedProgram.url()
	h.wantHealth(http.StatusOK)
	h.descriptors = h.openDescriptors()
	return h
}

// ask is one request to the scheduler.
func (h *house) ask(method, path, body string) (int, string) {
	h.t.Helper()
	return askHTTP(h.t, method, h.url+path, body)
}

// want is ask with the status that must come; it returns the body.
func (h *house) want(status int, method, path, body string, texts ...string) string {
	h.t.Helper()
	got, answer := h.ask(method, path, body)
	if got != status {
		h.t.Errorf("%s %s: got %d %s, want %d", method, path, got, answer, status)
	}
	for _, text := range texts {
		if !strings.Contains(answer, text) {
			h.t.Errorf("%s %s: got %s, want %q in it", method, path, answer, text)
		}
	}
	return answer
}

func (h *house) wantHealth(status int) {
	h.t.Helper()
	h.want(status, http.MethodGet, "/health", "")
}

// ensure starts libID's daemon, or takes the one that is there.
func (h *house) ensure(libID string) (pid int) {
	h.t.Helper()
	status, body := h.ask(http.MethodPut, "/daemons/"+libID, "")
	if status != http.StatusCreated && status != http.StatusOK {
		h.t.Fatalf("ensure %s: got %d %s, want 200 or 201", libID, status, body)
	}
	return field[int](h.t, []byte(body), "pid")
}

func (h *house) kill(signal syscall.Signal) {
	h.t.Helper()
	if err := h.cmd.Process.Signal(signal); err != nil {
		h.t.Fatal(err)
	}
}

// openDescriptors counts the scheduler's; 0 where /proc does not tell.
func (h *house) openDescriptors() int {
	dir := fmt.Sprintf("/proc/%d/fd", h.cmd.Process.Pid)
	names, _ := os.ReadDir(dir) // no /proc, no names
	n := 0
	for _, name := range names {
		target, err := os.Readlink(filepath.Join(dir, name.Name()))
		if err == nil && !strings.HasPrefix(target, "anon_inode:[event") { // the runtime's poller
			n++
		}
	}
	return n
}

// processes lists what runs in the house, but the scheduler: daemons, git, and
// whatever they started. It is known by its directory, its command line or its
// environment; none where /proc does not tell.
func (h *house) processes() []string {
	all, _ := filepath.Glob("/proc/[0-9]*") // the pattern is well-formed
	var found []string
	for _, dir := range all {
		pid := filepath.Base(dir)
		if pid == fmt.Sprint(os.Getpid()) || (h.startedProgram != nil && pid == fmt.Sprint(h.cmd.Process.Pid)) {
			continue
		}
		line, _ := os.ReadFile(dir + "/cmdline") // it may have ended
		environ, _ := os.ReadFile(dir + "/environ")
		cwd, _ := os.Readlink(dir + "/cwd")
		if strings.Contains(string(line)+"\x00"+string(environ)+"\x00"+cwd, h.dir) {
			found = append(found, pid+" "+strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return found
}

// clear ends what a test that failed has left.
func (h *house) clear() {
	for _, p := range h.processes() {
		var pid int
		if _, err := fmt.Sscan(p, &pid); err == nil {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
		}
	}
}

// wantNothingLeft checks what every fault must leave: a scheduler that is well
// or has ended, and, once its daemons are told to stop, no process, no lock and
// no descriptor.
func (h *house) wantNothingLeft() {
	h.t.Helper()
	select {
	case <-h.done:
		root, err := os.OpenRoot(h.workspace)
		if err != nil {
			h.t.Fatal(err)
		}
		lock, err := lockWorkspace(root)
		if err != nil {
			h.t.Error(err)
		} else {
			_ = lock.Close()
		}
		_ = root.Close()
	default:
		h.want(http.StatusNoContent, http.MethodPost, "/stop", "")
		h.want(http.StatusOK, http.MethodGet, "/health", "", `"status":"ok"`, `"running":0`)
		awaitThat(h.t, "the scheduler's descriptors are as before", func() bool { return h.openDescriptors() <= h.descriptors })
	}
	awaitThat(h.t, "no process is left", func() bool { return len(h.processes()) == 0 })
	locks, err := filepath.Glob(filepath.Join(h.workspace, "*", workLockName))
	for _, path := range locks {
		lock, _, lockErr := lockWorkDir(filepath.Dir(path), testLog(h.t))
		err = errors.Join(err, lockErr)
		if lock != nil {
			_ = lock.Close()
		}
	}
	if records, globErr := filepath.Glob(filepath.Join(h.workspace, "*", pidFileName)); globErr != nil || len(records) > 0 {
		h.t.Errorf("got the records %v, %v, want none left", records, globErr)
	}
	if err != nil {
		h.t.Error(err)
	}
}

// mixedDaemon is a --daemon-bin that is the real daemon, but for lib_ids that
// begin with a name of bad: those run that script, which may go on as the real
// daemon by execDaemon.
func mixedDaemon(t *testing.T, bad map[string]string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Symlink(self, filepath.Join(dir, daemonName)); err != nil {
		t.Fatal(err)
	}
	var script strings.Builder
	fmt.Fprintf(&script, "PATH='%s':$PATH\ncase \"$*\" in\n", dir)
	for name, text := range bad {
		fmt.Fprintf(&script, "*' cloud_%s'*)\n%s\nexit ;;\n", name, text)
	}
	script.WriteString("esac\n" + execDaemon)
	return writeScript(t, script.String())
}

// execDaemon ends a script of mixedDaemon as the real daemon.
const execDaemon = `exec ` + daemonName + ` "$@"`

// wantPortFree checks that the scheduler's port can be taken again.
func (h *house) wantPortFree() {
	h.t.Helper()
	l, err := net.Listen("tcp", strings.TrimPrefix(h.url, "http://"))
	if err != nil {
		h.t.Error(err)
		return
	}
	_ = l.Close()
}

// answer is the response to an HTTP request, or the error.
type answer struct {
	status int
	body   string
}

// askLater makes a request whose answer comes later.
func (h *house) askLater(method, path, body string) <-chan answer {
	ch := make(chan answer, 1)
	go func() { // ends with the answer, or with askHTTP's limit
		defer close(ch) // a failure is no answer
		status, text := askHTTP(h.t, method, h.url+path, body)
		ch <- answer{status, text}
	}()
	return ch
}

// askInVain posts a request whose answer may never come.
func (h *house) askInVain(ctx context.Context, path, body string) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, h.url+path, strings.NewReader(body))
	if err != nil {
		h.t.Error(err)
		return
	}
	transport := &http.Transport{DisableKeepAlives: true}
	if response, err := transport.RoundTrip(r); err == nil {
		_ = response.Body.Close() // what it says is of no interest
	}
}

// status is a lib_id's, "" where it is in no pool.
func (h *house) status(libID string) string {
	h.t.Helper()
	status, body := h.ask(http.MethodGet, "/daemons/"+libID, "")
	if status != http.StatusOK {
		return ""
	}
	return field[string](h.t, []byte(body), "status")
}
