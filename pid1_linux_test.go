package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// inPIDNamespace returns a command that is process 1 of a pid namespace, as in
// a container.
func inPIDNamespace(t *testing.T, program string, args ...string) *exec.Cmd {
	t.Helper()
	unshare, err := exec.LookPath("unshare")
	if err != nil || os.Geteuid() != 0 {
		t.Skip("a pid namespace needs root and unshare(1)")
	}
	if out, err := exec.Command(unshare, "--pid", "--fork", "--mount-proc", "true").CombinedOutput(); err != nil {
		t.Skipf("there are no pid namespaces here: %v %s", err, out)
	}
	return exec.Command(unshare, append([]string{"--pid", "--fork", "--mount-proc", "--kill-child", program}, args...)...)
}

// startAsProcess1 runs one of the programs as process 1 and returns its pid
// outside the namespace.
func startAsProcess1(t *testing.T, name string, args ...string) (p *startedProgram, pid func() int) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), name)
	if err := os.Symlink(self, link); err != nil {
		t.Fatal(err)
	}
	p = startCommand(t, name, inPIDNamespace(t, link, args...), nil)
	return p, func() int { return onlyChildOf(t, p.cmd.Process.Pid) }
}

func onlyChildOf(t *testing.T, pid int) int {
	t.Helper()
	children := childrenOf(t, pid)
	if len(children) != 1 {
		t.Fatalf("process %d has the children %v, want one child", pid, children)
	}
	return children[0]
}

// childrenOf lists the children of all threads of a process, including zombies
// (proc_tid_children(5)).
func childrenOf(t *testing.T, pid int) []int {
	t.Helper()
	lists, err := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/task/*/children")
	if err != nil || len(lists) == 0 {
		t.Fatalf("process %d has no threads: %v, want at least one", pid, err)
	}
	var text strings.Builder
	for _, list := range lists {
		children, _ := os.ReadFile(list) // the thread may have ended
		text.Write(children)
	}
	var pids []int
	for word := range strings.FieldsSeq(text.String()) {
		n, err := strconv.Atoi(word)
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, n)
	}
	return pids
}

// TestProcess1ReapsOrphans: a daemon that a method leaves behind becomes a
// child of process 1, and its zombie is reaped.
func TestProcess1ReapsOrphans(t *testing.T) {
	t.Parallel()
	b := newSocketBench(t, nil)
	dir := t.TempDir()
	script := filepath.Join(dir, "orphan")
	begun, end := filepath.Join(dir, "begun"), filepath.Join(dir, "end")
	for _, fifo := range []string{begun, end} {
		if err := syscall.Mkfifo(fifo, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// It leaves its session, so that the daemon does not end it with the
	// script. The script waits until it has left.
	writeProgram(t, script, "setsid sh -c 'echo > "+begun+"; read line < "+end+"' >/dev/null 2>&1 </dev/null &\nread line < "+begun+"\necho 1\n")
	p, pid := startAsProcess1(t, daemonName, "--server", b.server.String(), "--allow", dir, "--machine-id", "m", "--handler", "test/orphan="+script)
	p.says("msg=connected")
	if _, err := b.hub.perform(t.Context(), newCall(t, "test/orphan", "{}"), b.hub.machineTarget("m")); err != nil {
		t.Fatal(err)
	}
	first := pid()
	awaitThat(t, "the orphan beside the daemon below process 1", func() bool { return len(childrenOf(t, first)) == 2 })
	// It ends when the other end of the pipe is opened.
	if err := os.WriteFile(end, []byte("end\n"), 0); err != nil {
		t.Fatal(err)
	}
	awaitThat(t, "the daemon alone", func() bool { return len(childrenOf(t, first)) == 1 })
	if err := syscall.Kill(first, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := p.exit(); code != exitStopped {
		t.Errorf("exit %d after SIGTERM to process 1, want %d", code, exitStopped)
	}
}

// TestProcess1HandsOnStatusAndSignals: process 1 forwards signals to the
// program and exits with its status.
func TestProcess1HandsOnStatusAndSignals(t *testing.T) {
	t.Parallel()
	p, _ := startAsProcess1(t, daemonName, "--no-such-flag")
	if code := p.exit(); code != exitUsage {
		t.Errorf("exit %d after a usage error, want %d", code, exitUsage)
	}
	p, pid := startAsProcess1(t, schedulerName, "--port", "0", "--workspace", filepath.Join(realTempDir(t), "w"))
	p.says("msg=listening")
	if err := syscall.Kill(pid(), syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if code := p.exit(); code != exitStopped {
		t.Errorf("exit %d after SIGINT, want %d", code, exitStopped)
	}
	if text := p.stderr.String(); !strings.Contains(text, "msg=stopping") {
		t.Errorf("it did not stop by itself: %s, want msg=stopping", text)
	}
}
