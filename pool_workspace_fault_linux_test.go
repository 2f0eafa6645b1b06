package main

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestFaultWorkspaceOnAFullDisk(t *testing.T) {
	t.Parallel()
	dir := smallDisk(t)
	workspace := filepath.Join(dir, "workspace")
	free := fillDisk(t, dir)
	badWorkspace(t, workspace, "c4a-daemon-scheduler: ", workspace, "no space left on device")
	free()
	h := openHouse(t, dir, "--min-free-disk", "0")
	h.ensure("x")
	h.wantNothingLeft()
}

func TestFaultReadOnlyWorkspace(t *testing.T) {
	t.Parallel()
	dir := smallDisk(t)
	readOnly := func(flag uintptr) {
		t.Helper()
		if err := unix.Mount("", dir, "", unix.MS_REMOUNT|flag, "size=4m,mode=0700"); err != nil {
			t.Fatal(err)
		}
	}
	readOnly(unix.MS_RDONLY)
	badWorkspace(t, dir, dir, "read-only file system")
	badWorkspace(t, filepath.Join(dir, "below"), filepath.Join(dir, "below"), "read-only file system")
	readOnly(0)
	h := openHouse(t, dir, "--min-free-disk", "0")
	h.ensure("x")
	h.wantNothingLeft()
}

// A directory of somebody else: for an ordinary user, for whom permissions
// bind.
func TestFaultForeignWorkspace(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("becoming another user takes root")
	}
	const nobody = 65534
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := realTempDir(t)
	// Other users may not enter the directories of the test binary and the test.
	for at := dir; at != filepath.Clean(os.TempDir()) && at != "/"; at = filepath.Dir(at) {
		if err := os.Chmod(at, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	bin := filepath.Join(dir, "bin")
	if err := os.Link(self, bin); err != nil {
		t.Skip("the test binary cannot be linked: ", err)
	}
	foreign, own := filepath.Join(dir, "foreign"), filepath.Join(dir, "own")
	for _, path := range []string{foreign, own} {
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(own, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	run := func(workspace string) (*exec.Cmd, *syncBuffer) {
		cmd := exec.Command(bin, "--port", "0", "--workspace", workspace)
		cmd.Args[0], cmd.Dir, cmd.Env = schedulerName, own, []string{"PATH=" + os.Getenv("PATH"), "GORACE=" + quickRace}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		stderr := newSyncBuffer()
		cmd.Stderr = stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd, stderr
	}
	for _, workspace := range []string{foreign, filepath.Join(foreign, "below"), filepath.Join(dir, "beside")} {
		cmd, stderr := run(workspace)
		_ = cmd.Wait() // the status is looked at
		if text := stderr.String(); cmd.ProcessState.ExitCode() != exitFailure || !strings.Contains(text, "permission denied") || !strings.Contains(text, workspace) || strings.Count(text, "\n") != 1 {
			t.Errorf("%s: got %v %s, want exit 1 and one line that names it", workspace, cmd.ProcessState, text)
		}
	}
	if names, err := os.ReadDir(foreign); err != nil || len(names) > 0 {
		t.Errorf("in the foreign directory: got %v, %v, want nothing", names, err)
	}
	// One library's directory is somebody else's: the others have theirs.
	if err := os.Mkdir(filepath.Join(own, "foreign"), 0o700); err != nil {
		t.Fatal(err)
	}
	cmd, stderr := run(own)
	p := &startedProgram{t: t, cmd: cmd, done: make(chan struct{}), stdout: newSyncBuffer(), stderr: stderr}
	go func() {
		defer close(p.done)
		_ = cmd.Wait() // ends when it is stopped below
	}()
	t.Cleanup(func() { _ = cmd.Process.Kill(); <-p.done })
	_, rest, _ := strings.Cut(p.says("msg=listening"), "url=")
	address, _, _ := strings.Cut(rest, " ")
	h := &house{startedProgram: p, dir: own, workspace: own, url: address}
	h.descriptors = h.openDescriptors()
	h.ensure("good")
	h.want(http.StatusServiceUnavailable, http.MethodPut, "/daemons/foreign", "", string(codeAutoStartFailed), filepath.Join(own, "foreign"))
	h.ensure("good")
	h.wantNothingLeft()
	h.kill(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(patience):
		t.Error("the scheduler runs, want it ended")
	}
}
