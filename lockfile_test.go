package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// daemonCommand returns the command of a real daemon in a work dir.
func daemonCommand(t *testing.T, workDir, server string, args ...string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), eventually) // the limit for a daemon that does not end
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, self)
	cmd.Args = append([]string{daemonName, "--server", "ws://" + server, "--work-dir", workDir}, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "GORACE=" + quickRace}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	return cmd, &stderr
}

// startDialing starts a daemon and returns once it dials l, when its setup is
// complete. end stops it.
func startDialing(t *testing.T, workDir string, l net.Listener) (pid int, end func(syscall.Signal)) {
	t.Helper()
	cmd, stderr := daemonCommand(t, workDir, l.Addr().String())
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := l.(*net.TCPListener).SetDeadline(time.Now().Add(eventually)); err != nil {
		t.Fatal(err)
	}
	conn, err := l.Accept()
	if err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		t.Fatalf("the daemon did not dial: %v\n%s, want one dial", err, stderr)
	}
	ended := false
	end = func(sig syscall.Signal) {
		if ended {
			return
		}
		ended = true
		_ = cmd.Process.Signal(sig)
		_ = conn.Close()
		_ = cmd.Wait()
	}
	t.Cleanup(func() { end(syscall.SIGKILL) })
	return cmd.Process.Pid, end
}

// A second daemon in a work dir fails with an error and removes nothing there.
// After the first one has ended, even by SIGKILL, the next one starts.
func TestTwoDaemonsInOneWorkDir(t *testing.T) {
	skipShort(t, "waits 2 s for a lock")
	t.Parallel()
	workDir := filepath.Join(realTempDir(t), "work")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	first, end := startDialing(t, workDir, l)
	cloning := filepath.Join(workDir, reposDirName, tempPrefix+"x")
	if err := os.Mkdir(cloning, 0o700); err != nil {
		t.Fatal(err)
	}

	const nowhere = "127.0.0.1:1"
	second, stderr := daemonCommand(t, workDir, nowhere)
	exit, _ := errors.AsType[*exec.ExitError](second.Run())
	if exit == nil || exit.ExitCode() != exitFailure || !strings.Contains(stderr.String(), fmt.Sprintf("pid %d ", first)) || !strings.Contains(stderr.String(), "--work-dir") {
		t.Errorf("the second daemon: %v\n%s, want exit %d, the first one's pid and a hint", exit, stderr, exitFailure)
	}
	check, _ := daemonCommand(t, workDir, nowhere, "--check")
	if out, _ := check.Output(); !strings.Contains(string(out), "ok   path: "+workDir) { // it fails because there is no server
		t.Errorf("--check beside the daemon:\n%s, want the path to be ok", out)
	}
	if _, err := os.Stat(cloning); err != nil {
		t.Errorf("what the first daemon is cloning is gone: %v, want it there", err)
	}

	end(syscall.SIGKILL)
	_, end = startDialing(t, workDir, l)
	if _, err := os.Stat(cloning); err == nil {
		t.Error("the daemon after it did not clear the clone away, want it gone")
	}
	end(syscall.SIGTERM)
	_, _ = startDialing(t, workDir, l)
}

// TestLockTellsOfADeadHolder: a lock that was released is distinguished from
// one whose process ended.
func TestLockTellsOfADeadHolder(t *testing.T) {
	t.Parallel()
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for _, step := range []struct {
		what   string
		died   bool
		unlock func(*os.File) error
	}{
		{"the first holder", false, unlockFile},
		{"after one that gave it back", false, (*os.File).Close}, // as the kernel does for a killed process
		{"after one that was killed", true, unlockFile},
		{"after both", false, unlockFile},
	} {
		f, died, err := lockFile(root, "lock")
		if err != nil || died != step.died {
			t.Fatalf("%s: died %v, want %v, %v", step.what, died, step.died, err)
		}
		if err := step.unlock(f); err != nil {
			t.Fatal(err)
		}
	}
}

// A process that is killed while it starts another leaves its lock to the new
// one for a moment.
func TestLockThatIsHeldForAMoment(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		root, err := os.OpenRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		first, _, err := lockFile(root, "lock")
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		_, _, err = lockFile(root, "lock")
		if held, ok := errors.AsType[*heldError](err); !ok || held.pid != strconv.Itoa(os.Getpid()) || time.Since(begin) > lockWait+lockRetryInterval {
			t.Errorf("%v after %v, want a lock held by this process, at most %v later", err, time.Since(begin), lockWait+lockRetryInterval)
		}
		time.AfterFunc(lockWait/2, func() { _ = first.Close() })
		second, died, err := lockFile(root, "lock")
		if err != nil || !died {
			t.Fatalf("died %v, %v, want true and no error", died, err)
		}
		if err := second.Close(); err != nil {
			t.Error(err)
		}
	})
}
