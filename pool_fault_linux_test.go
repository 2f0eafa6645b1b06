package main

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestFaultTracerHelper is no test: it kills the process it traces in the moment
// in which that has forked, before parent or child do anything else.
func TestFaultTracerHelper(t *testing.T) {
	pid, err := strconv.Atoi(os.Getenv("FAULT_TEST_TRACED"))
	if err != nil {
		t.Skip("only as a child of another test")
	}
	runtime.LockOSThread() // one thread is the tracer
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, thread := range threads {
		tid, err := strconv.Atoi(thread.Name())
		if err != nil {
			t.Fatal(err)
		}
		const options = unix.PTRACE_O_TRACEFORK | unix.PTRACE_O_TRACEVFORK | unix.PTRACE_O_TRACECLONE
		if _, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(tid), 0, options, 0, 0); errno != 0 {
			fmt.Println("cannot trace:", errno)
			return
		}
	}
	fmt.Println("tracing")
	for held := 0; ; {
		var status unix.WaitStatus
		tid, err := unix.Wait4(-1, &status, unix.WALL, nil) // this process has no other children
		if err != nil && !errors.Is(err, unix.EINTR) {
			t.Fatal(err)
		}
		if err != nil || !status.Stopped() {
			continue
		}
		switch event := status >> 16; event {
		case unix.PTRACE_EVENT_FORK, unix.PTRACE_EVENT_VFORK:
			child, err := unix.PtraceGetEventMsg(tid)
			if err != nil {
				t.Fatal(err)
			}
			_ = unix.Kill(pid, unix.SIGKILL)
			for still := held == int(child); !still; still = err == nil { // until it stands still
				if _, err = unix.Wait4(int(child), &status, unix.WALL, nil); err != nil && !errors.Is(err, unix.EINTR) {
					break
				}
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := unix.PtraceDetach(int(child)); err != nil {
				t.Fatal(err)
			}
			fmt.Println("forked", child)
			return
		case 0: // a signal on its way
			_ = unix.PtraceCont(tid, int(status.StopSignal()))
		default:
			if _, err := os.Stat(fmt.Sprintf("/proc/%d/task/%d", pid, tid)); err != nil {
				held = tid // the child, told of before its parent's fork: it has to wait
				continue
			}
			_ = unix.PtraceCont(tid, 0)
		}
	}
}

// The scheduler is killed after the fork and before the record of the child is
// written: nobody knows of it, and it ends by itself.
func TestFaultSchedulerKilledRightAfterTheFork(t *testing.T) {
	t.Parallel()
	dir := realTempDir(t)
	h := openHouse(t, dir)
	h.ensure("first") // before the first start Go forks once to see what the kernel can do
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	tracer := exec.Command(self, "-test.run=^TestFaultTracerHelper$")
	tracer.Env = append(os.Environ(), "FAULT_TEST_TRACED="+strconv.Itoa(h.cmd.Process.Pid))
	out, err := tracer.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := tracer.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = tracer.Process.Kill() // it may have ended
		_ = tracer.Wait()
	}()
	lines := bufio.NewScanner(out)
	if !lines.Scan() || lines.Text() != "tracing" {
		t.Skip("a process may not be traced here: ", lines.Text())
	}
	conn, err := net.Dial("tcp", strings.TrimPrefix(h.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "PUT /daemons/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if !lines.Scan() || !strings.HasPrefix(lines.Text(), "forked ") {
		said := lines.Text()
		for lines.Scan() {
			said += "\n" + lines.Text()
		}
		t.Fatalf("got %s, want the tracer to kill the scheduler", said)
	}
	if code := h.exit(); code != -1 {
		t.Errorf("got exit %d, want an end by the signal", code)
	}
	if _, err := os.Stat(filepath.Join(h.workspace, "x", pidFileName)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("daemon.pid: got %v, want it not written yet", err)
	}
	log := filepath.Join(h.workspace, "x", logFileName)
	awaitThat(t, "the child ends with its input", func() bool { return len(h.processes()) == 0 })
	if text, err := os.ReadFile(log); err != nil || !strings.Contains(string(text), "reading the token from the scheduler: EOF") {
		t.Errorf("the child's log: got %q, %v, want the end of its input", text, err)
	}
	next := openHouse(t, dir) // it removes the record of the first
	next.ensure("x")
	next.wantNothingLeft()
}

// smallDisk is a directory on a disk of its own of 4 MiB.
func smallDisk(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(realTempDir(t), "disk")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=4m,mode=0700"); err != nil {
		t.Skip("mounting a small disk takes root: ", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil { // what still ends on it does not keep it
			t.Error(err)
		}
	})
	return dir
}

// fillDisk leaves no room on dir's disk until free is called.
func fillDisk(t *testing.T, dir string) (free func()) {
	t.Helper()
	path := filepath.Join(dir, "full")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	return func() {
		if err := os.Remove(path); err != nil {
			t.Error(err)
		}
	}
}

func TestFaultDiskFullInAClone(t *testing.T) {
	skipShort(t, "it takes seconds")
	t.Parallel()
	git := newGitServer(t)
	git.repo("big.git", map[string]string{"a": noise(6 << 20)})
	small := git.repo("small.git", map[string]string{"a": "1"})
	h := openHouse(t, smallDisk(t), "--min-free-disk", "0")
	pid := h.ensure("x")
	wantAnswer(t, h.askLater(http.MethodPost, "/libraries/x/rpc", cloneCall(git.address("small.git"))))
	_, a := callRPC(t, h.url+"/libraries/x", "vcs/clone", `{"url":"`+git.address("big.git")+`"}`)
	if a.Error == nil || a.Error.name() != codeGitFailed || a.Error.Data["reason"] != string(gitDiskFull) || !strings.Contains(a.Error.Message, "No space left on device") {
		t.Errorf("got %+v, want %s with the reason %s", a.Error, codeGitFailed, gitDiskFull)
	}
	entries, err := os.ReadDir(filepath.Join(h.workspace, "x", reposDirName))
	if err != nil || len(entries) != 1 || entries[0].Name() != "small" {
		t.Errorf("in the directory of clones: got %v, %v, want small alone", entries, err)
	}
	if h.ensure("x") != pid {
		t.Error("the daemon has another pid, want it to live on")
	}
	// The other clone is whole, and an update of it has room.
	small.commit("more", map[string]string{"a": "2"})
	if body := wantAnswer(t, h.askLater(http.MethodPost, "/libraries/x/rpc", cloneCall(git.address("small.git")))); !strings.Contains(body, small.head()) {
		t.Errorf("got %s, want the commit %s", body, small.head())
	}
	h.wantNothingLeft()
}

// contentAndMode returns the content and mode of a file, which must not change.
func contentAndMode(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(info.Mode(), " ", string(data))
}

func TestFaultDiskFullOnSmallFiles(t *testing.T) {
	t.Parallel()
	h := openHouse(t, smallDisk(t), "--min-free-disk", "0")
	setAuth := func(token string) *rpcError {
		_, a := callRPC(t, h.url+"/libraries/x", "config/setAuth", `{"host":"git.example.com","token":"`+token+`"}`)
		return a.Error
	}
	pid := h.ensure("x")
	if err := setAuth("the-old-token"); err != nil {
		t.Fatal(err)
	}
	h.want(http.StatusOK, http.MethodPut, "/libraries/bound", `{"machine_id":"laptop"}`)
	kept := map[string]string{}
	for _, path := range []string{filepath.Join(h.workspace, librariesFile), filepath.Join(h.workspace, "x", credentialsFileName)} {
		if kept[path] = contentAndMode(t, path); !strings.HasPrefix(kept[path], "-rw------- ") {
			t.Errorf("%s: got %s, want the mode 0600", path, kept[path])
		}
	}
	free := fillDisk(t, h.dir)
	if err := setAuth("the-new-token"); err == nil {
		t.Error("a token was stored on a full disk, want an error")
	} else if !strings.Contains(err.Message, "disk is full") || strings.Contains(err.Message, "token") {
		t.Errorf("got %+v, want that the disk is full, without the token", err)
	}
	// A change is a line at the end of the file, whose last block may have room.
	libraries, full := filepath.Join(h.workspace, librariesFile), false
	for i := 0; i < 30 && !full; i++ {
		kept[libraries] = contentAndMode(t, libraries)
		path := fmt.Sprintf("/libraries/more%d", i)
		status, body := h.ask(http.MethodPut, path, fmt.Sprintf(`{"machine_id":%q}`, strings.Repeat("m", maxMachineID)))
		want := http.StatusOK
		if full = status != http.StatusOK; full {
			want = http.StatusNotFound
		}
		if full && (status != http.StatusInternalServerError || !strings.Contains(body, "no space left on device")) {
			t.Errorf("PUT %s: got %d %s, want 500 with no space left on device", path, status, body)
		}
		h.want(want, http.MethodGet, path, "")
	}
	if !full {
		t.Error("30 libraries were bound on a full disk, want an error")
	}
	h.want(http.StatusServiceUnavailable, http.MethodPut, "/daemons/y", "", string(codeAutoStartFailed), "no space left on device")
	if n := strings.Count(strings.Join(h.processes(), "\n"), "--machine-id cloud_y"); n > 0 {
		t.Errorf("got %d daemons that are not recorded, want none", n)
	}
	h.want(http.StatusServiceUnavailable, http.MethodGet, "/health", "", `"status":"degraded"`)
	if _, a := callRPC(t, h.url+"/libraries/x", "config/get", "{}"); a.Error != nil || h.ensure("x") != pid {
		t.Errorf("the daemon that was there: got %v, want it untouched", a.Error)
	}
	for path, want := range kept {
		// The line end of the last binding belongs to the next one.
		if got := contentAndMode(t, path); strings.TrimSpace(got) != strings.TrimSpace(want) {
			t.Errorf("%s: got %s, want %s as before", path, got, want)
		}
		if names, err := filepath.Glob(filepath.Join(filepath.Dir(path), ".*.tmp-*")); err != nil || len(names) > 0 {
			t.Errorf("got the temporary files %v, %v, want none left", names, err)
		}
	}
	free()
	h.wantHealth(http.StatusOK)
	h.ensure("y")
	if err := setAuth("the-new-token"); err != nil {
		t.Error(err)
	}
	h.want(http.StatusOK, http.MethodPut, "/libraries/more", `{"machine_id":"laptop"}`)
	h.wantNothingLeft()
}

// A scheduler without free descriptors refuses new daemons, ends none, and serves
// again once there are some.
func TestFaultNoDescriptors(t *testing.T) {
	t.Parallel()
	h := openHouse(t, realTempDir(t))
	pid := h.ensure("there")
	// This connection is accepted before there are no descriptors.
	conn, err := net.Dial("tcp", strings.TrimPrefix(h.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	answers := bufio.NewReader(conn)
	ask := func(method, path string) *http.Response {
		t.Helper()
		if _, err := fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n", method, path); err != nil {
			t.Fatal(err)
		}
		_ = conn.SetReadDeadline(time.Now().Add(patience))
		response, err := http.ReadResponse(answers, nil)
		if err != nil {
			t.Fatal(err)
		}
		return response
	}
	closeBody := func(r *http.Response) { _ = r.Body.Close() } // it was read, or is of no use
	closeBody(ask(http.MethodGet, "/livez"))
	var old unix.Rlimit
	if err := unix.Prlimit(h.cmd.Process.Pid, unix.RLIMIT_NOFILE, nil, &old); err != nil {
		t.Fatal(err)
	}
	names, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", h.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for extra := range 6 { // each of them fails at another place of the start
		none := old
		none.Cur = uint64(len(names) + extra)
		if err := unix.Prlimit(h.cmd.Process.Pid, unix.RLIMIT_NOFILE, &none, nil); err != nil {
			t.Fatal(err)
		}
		r := ask(http.MethodPut, fmt.Sprint("/daemons/new", extra))
		if r.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("with %d descriptors left: got %s, want 503", extra, r.Status)
		}
		buf := make([]byte, 4096)
		n, _ := r.Body.Read(buf) // a short body comes at once
		if !strings.Contains(string(buf[:n]), "too many open files") {
			t.Errorf("with %d descriptors left: got %s, want the reason", extra, buf[:n])
		}
		closeBody(r)
	}
	// Now others take what is left, and one daemon dies unseen by /proc.
	none := old
	none.Cur = uint64(len(names))
	if err := unix.Prlimit(h.cmd.Process.Pid, unix.RLIMIT_NOFILE, &none, nil); err != nil {
		t.Fatal(err)
	}
	waiting, err := net.Dial("tcp", strings.TrimPrefix(h.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer waiting.Close()
	if _, err := fmt.Fprintf(waiting, "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	r := ask(http.MethodGet, "/daemons/there")
	if r.StatusCode != http.StatusOK || !alive(t, pid) {
		t.Errorf("the daemon that was there: got %s, alive %v, want 200 and alive", r.Status, alive(t, pid))
	}
	closeBody(r)
	if err := unix.Prlimit(h.cmd.Process.Pid, unix.RLIMIT_NOFILE, &old, nil); err != nil {
		t.Fatal(err)
	}
	_ = waiting.SetReadDeadline(time.Now().Add(patience))
	if r, err := http.ReadResponse(bufio.NewReader(waiting), nil); err != nil || r.StatusCode != http.StatusOK {
		t.Errorf("the client that waited: got %v, %v, want 200", r, err)
	} else {
		closeBody(r)
	}
	_ = waiting.Close()
	_ = conn.Close()
	h.ensure("new0")
	if h.ensure("there") != pid {
		t.Error("the daemon that was there was ended, want it untouched")
	}
	h.wantNothingLeft()
}

// memoryGroup is the file through which a process enters a control group of 64
// MiB; "" where none can be made.
func memoryGroup(t *testing.T) (procs string) {
	t.Helper()
	for root, limit := range map[string]string{"/sys/fs/cgroup/memory": "memory.limit_in_bytes", "/sys/fs/cgroup": "memory.max"} {
		dir := filepath.Join(root, fmt.Sprint("c4a-test-", os.Getpid()))
		if os.Mkdir(dir, 0o755) != nil {
			continue
		}
		// The root of the first version's hierarchies is a directory like any other.
		if _, err := os.Stat(filepath.Join(dir, limit)); err != nil {
			if err := os.Remove(dir); err != nil {
				t.Error(err)
			}
			continue
		}
		t.Cleanup(func() {
			// The group is gone once its last process is reaped.
			awaitThat(t, "the control group is removed", func() bool { err := os.Remove(dir); return err == nil || errors.Is(err, fs.ErrNotExist) })
		})
		if os.WriteFile(filepath.Join(dir, limit), []byte("67108864"), 0) == nil {
			_ = os.WriteFile(filepath.Join(dir, "memory.swap.max"), []byte("0"), 0) // where there is swap at all
			return filepath.Join(dir, "cgroup.procs")
		}
	}
	return ""
}

// A daemon is killed for its memory, or by another process: the error says so
// and the next ensure works.
func TestFaultOutOfMemory(t *testing.T) {
	skipShort(t, "it takes seconds")
	hungry := "read -r token\necho '{\"event\":\"ready\",\"pid\":'$$',\"instance_id\":\"i\"}'\nread -r op"
	procs := memoryGroup(t)
	if procs == "" {
		t.Log("no control group can be made: the test kills the daemon itself")
	} else {
		// The shell itself keeps what it reads: twice what the group may.
		hungry = "echo $$ >" + procs + "\n" + strings.Replace(hungry, "read -r op", "test -e fed || { : >fed; x=$(head -c 134217728 /dev/zero | tr '\\0' x); }\nread -r op", 1)
	}
	h := openHouse(t, realTempDir(t), "--daemon-bin", mixedDaemon(t, map[string]string{"hungry": hungry}))
	good := h.ensure("good")
	pid := h.ensure("hungry")
	if procs == "" {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	awaitThat(t, "the daemon is killed", func() bool { return h.status("hungry") == string(statusExited) })
	h.want(http.StatusOK, http.MethodGet, "/daemons/hungry", "", "ended with signal: killed", "out of memory?")
	if !strings.Contains(h.stderr.String(), "out of memory?") {
		t.Errorf("got the log %s, want the question about memory in it", h.stderr)
	}
	if again := h.ensure("hungry"); again == pid || h.ensure("good") != good {
		t.Errorf("got pid %d after %d, want another, and the daemon beside it untouched", again, pid)
	}
	h.wantNothingLeft()
}
