package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TestOrphanHelper is no test: it ends the recorded orphan of its workspace
// while it can open no file, for ever or for a moment.
func TestOrphanHelper(t *testing.T) {
	text := os.Getenv("POOL_TEST_ORPHAN")
	if text == "" {
		t.Skip("only as a child of another test")
	}
	record, err := parsePIDRecord(text)
	if err != nil {
		t.Fatal(err)
	}
	// The runtime's poller wants descriptors of its own, once.
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	none := limit
	none.Cur = 0
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	if os.Getenv("POOL_TEST_FREED") != "" {
		time.AfterFunc(3*proofPause, func() { _ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit) })
	}
	fate, err := endOrphan(record)
	fmt.Printf("fate=%q error=%v emfile=%v\n", fate, err, errors.Is(err, syscall.EMFILE))
}

// Without a descriptor there is no proof, and a pid alone
// may belong to another process.
func TestOrphanWithoutADescriptorToProveIt(t *testing.T) {
	skipShort(t, "waits 2 s for processes that ignore SIGTERM")
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		freed, want string
		lives       bool
	}{
		{"", "emfile=true", true},
		{"1", `fate="ended"`, false},
	} {
		orphan := startOrphan(t, t.TempDir(), "x", "echo; exec sleep 1000")
		id, err := identify(orphan.pid())
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(self, "-test.run=^TestOrphanHelper$")
		cmd.Env = append(os.Environ(), "POOL_TEST_ORPHAN="+pidRecord{orphan.pid(), id}.text(), "POOL_TEST_FREED="+test.freed)
		out, err := cmd.CombinedOutput()
		if !strings.Contains(string(out), test.want) || alive(t, orphan.pid()) != test.lives {
			t.Errorf("freed %q: got %s, %v, the orphan lives %v, want %q, %v", test.freed, out, err, alive(t, orphan.pid()), test.want, test.lives)
		}
	}
}

// A stopped orphan cannot take its SIGTERM: it is continued, and ends by itself
// instead of being killed.
func TestStoppedOrphanEndsInOrder(t *testing.T) {
	t.Parallel()
	workspace := t.TempDir()
	mark := filepath.Join(workspace, "x", "ended")
	orphan := startOrphan(t, workspace, "x", "trap 'echo > "+mark+"; exit' TERM; echo; while :; do sleep 0.01; done")
	if err := syscall.Kill(orphan.pid(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	id, err := identify(orphan.pid())
	if err != nil {
		t.Fatal(err)
	}
	fate, err := endOrphan(pidRecord{orphan.pid(), id})
	if _, statErr := os.Stat(mark); fate != orphanEnded || err != nil || statErr != nil {
		t.Errorf("got %q, %v and the mark %v, want it ended by its own SIGTERM handler", fate, err, statErr)
	}
}

// TestOrphanOldKernelHelper is no test: it ends the recorded orphan as on a
// kernel without pidfd_open.
func TestOrphanOldKernelHelper(t *testing.T) {
	text := os.Getenv("POOL_TEST_OLD_KERNEL")
	if text == "" {
		t.Skip("only as a child of another test")
	}
	record, err := parsePIDRecord(text)
	if err != nil {
		t.Fatal(err)
	}
	runtime.LockOSThread()       // the filter is for this thread
	filter := []unix.SockFilter{ // see seccomp(2)
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}, // the number of the system call
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_PIDFD_OPEN, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0); err != nil {
		t.Fatal(err)
	}
	fate, err := endOrphan(record)
	fmt.Printf("fate=%q error=%v\n", fate, err)
}

// On a kernel without pidfds a scheduler starts after a crash, and signals no
// process by a pid alone.
func TestOrphanOnAnOldKernel(t *testing.T) {
	skipShort(t, "it takes seconds")
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	orphan := startOrphan(t, t.TempDir(), "x", "echo; exec sleep 1000")
	id, err := identify(orphan.pid())
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		lives bool
		want  string
	}{
		{true, fmt.Sprintf("run kill %d and start again", orphan.pid())},
		{false, `fate="gone" error=<nil>`},
	} {
		if !test.lives {
			orphan.kill()
			<-orphan.done
		}
		cmd := exec.Command(self, "-test.run=^TestOrphanOldKernelHelper$")
		cmd.Env = append(os.Environ(), "POOL_TEST_OLD_KERNEL="+pidRecord{orphan.pid(), id}.text())
		out, err := cmd.CombinedOutput()
		if !strings.Contains(string(out), test.want) || alive(t, orphan.pid()) != test.lives {
			t.Errorf("got %s, %v, the orphan lives %v, want %q, %v", out, err, alive(t, orphan.pid()), test.want, test.lives)
		}
	}
}

// A kernel before 6.9, or a version before this one, recorded no number.
func TestOrphanRecordedWithoutANumber(t *testing.T) {
	orphan := startOrphan(t, t.TempDir(), "x", "echo; exec sleep 1000")
	id, err := identify(orphan.pid())
	if err != nil {
		t.Fatal(err)
	}
	id.number = ""
	if fate, err := endOrphan(pidRecord{orphan.pid(), id}); fate != orphanEnded || err != nil || !hasEnded(orphan) {
		t.Errorf("got the fate %q, %v, want %q", fate, err, orphanEnded)
	}
}

func TestParseProcStat(t *testing.T) {
	line := "4711 (a) (b c) S 1 4711 4712 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 12345 1 1\n"
	got, err := parseProcStat([]byte(line))
	if want := (procStat{state: 'S', group: 4711, session: 4712, start: "12345"}); err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	for _, text := range []string{"", "4711", "4711 (a) S 1", "4711 (a", strings.Replace(line, "4712", "x", 1)} {
		if got, err := parseProcStat([]byte(text)); err == nil {
			t.Errorf("%q: got %+v, want an error", text, got)
		}
	}
}

func FuzzParseProcStat(f *testing.F) {
	f.Add([]byte("1 (x) S 1 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 12345 1"))
	f.Add([]byte(")"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := parseProcStat(data)
		if err != nil {
			return
		}
		// The name, which is the program's own choice, decides nothing.
		if again, err := parseProcStat(append([]byte("2 (a) R 3 4 5 ("), data...)); err != nil || again != s {
			t.Errorf("%q: got %+v, %v with another name, want %+v", data, again, err, s)
		}
		line := fmt.Sprintf("1 (x) %s 0 %d %d%s %s", []byte{s.state}, s.group, s.session, strings.Repeat(" x", 15), s.start)
		if again, err := parseProcStat([]byte(line)); err != nil || again != s {
			t.Errorf("%q: got %+v, %v, want %+v", line, again, err, s)
		}
	})
}

// A process that got the pid of a dead daemon within the 10 ms that are the
// unit of its start is still a stranger.
func TestFaultPIDReusedInTheSameTick(t *testing.T) {
	t.Parallel()
	last, err := os.OpenFile("/proc/sys/kernel/ns_last_pid", os.O_WRONLY, 0)
	if err != nil {
		t.Skip("choosing the next pid takes root: ", err)
	}
	defer last.Close()
	sleeper := func() *process {
		cmd := exec.Command("sleep", "1000")
		setSession(cmd)
		p, err := startProcess(cmd)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { p.kill(); <-p.done })
		return p
	}
	const tries, triesForTheTick = 300, 200
	for try := range tries {
		first := sleeper()
		record := pidRecord{pid: first.pid()}
		if record.identity, err = identify(first.pid()); err != nil {
			t.Fatal(err)
		}
		first.kill()
		<-first.done
		if _, err := last.WriteAt([]byte(strconv.Itoa(first.pid()-1)), 0); err != nil {
			t.Skip("choosing the next pid: ", err)
		}
		second := sleeper()
		id, err := identify(second.pid())
		if err != nil {
			t.Fatal(err)
		}
		// On a busy machine others get the pid, or the tick is over.
		if second.pid() != first.pid() || (id.start != record.start && try < triesForTheTick) {
			second.kill()
			<-second.done
			continue
		}
		if id.number == record.number {
			t.Skip("this kernel, before 6.9, has no number of its own for each process")
		}
		record.start = id.start // where no try was fast enough: what the next one might have been
		workspace := t.TempDir()
		path := filepath.Join(workspace, "x", pidFileName)
		if err := errors.Join(os.Mkdir(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(record.text()), 0o600)); err != nil {
			t.Fatal(err)
		}
		testPoolIn(t, workspace)
		if !alive(t, second.pid()) {
			t.Error("a stranger was killed, want it untouched")
		}
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the record: got %v, want it removed", err)
		}
		return
	}
	t.Skip("others on this machine take every pid first")
}
