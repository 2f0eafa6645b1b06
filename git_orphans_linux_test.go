package main

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// gits lists the processes with this cloner's mark.
func (w *cloneWorld) gits() []string {
	files, _ := filepath.Glob("/proc/[0-9]*/environ") // the pattern is well-formed
	var found []string
	for _, file := range files {
		if environ, err := os.ReadFile(file); err == nil && bytes.Contains(environ, []byte(w.owner+"\x00")) {
			found = append(found, filepath.Dir(file))
		}
	}
	return found
}

// wantNoGit checks that no git process of the cloner is left.
func (w *cloneWorld) wantNoGit() {
	w.t.Helper()
	if left := w.gits(); len(left) > 0 {
		w.t.Errorf("processes are left: %v, want none", left)
	}
}

// The daemon stops while a clone waits for a remote that sends nothing.
func TestCloneDaemonStops(t *testing.T) {
	w := newCloneWorld(t)
	w.server.repo("lib", map[string]string{"a": "1"})
	reached := make(chan struct{}, 1)
	w.server.setHook(func(rw http.ResponseWriter, r *http.Request) bool {
		return len(w.temporaries()) > 0 && hang("", reached)(rw, r)
	})
	done := make(chan error, 1)
	go func() { // ends when the clone returns, which is waited for below
		_, err := w.try(cloneParams{URL: w.server.address("lib")})
		done <- err
	}()
	<-reached
	if len(w.gits()) == 0 {
		t.Error("no git runs, the test sees nothing, want one")
	}
	w.stop()
	w.wait()
	w.wantNoGit()
	w.noTemporaries()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}

// A lost link leaves the clone running, and a repeated request joins it.
func TestCloneLinkLost(t *testing.T) {
	t.Parallel()
	w := newCloneWorld(t)
	remote := w.server.repo("lib", map[string]string{"a": "1"})
	reached, release := make(chan struct{}, 1), make(chan struct{})
	w.server.setHook(func(http.ResponseWriter, *http.Request) bool {
		wake(reached)
		<-release
		return false
	})
	ctx, lose := context.WithCancelCause(t.Context())
	done := make(chan error, 1)
	p := cloneParams{URL: w.server.address("lib")}
	go func() { // ends when the link is lost
		_, err := w.tryIn(ctx, p)
		done <- err
	}()
	<-reached
	lose(errLinkLost)
	if err := <-done; !errors.Is(err, errLinkLost) {
		t.Errorf("got %v, want %v", err, errLinkLost)
	}
	if w.group.running() != 1 {
		t.Error("the clone has ended with its link, want it to go on")
	}
	close(release)
	if r := w.must(p, actionCloned, remote.head()); r.Path == "" {
		t.Errorf("joined: %+v, want its path", r)
	}
}

// The git processes of a killed daemon are ended by the next daemon, and no
// others are.
func TestEndOrphans(t *testing.T) {
	dir := realTempDir(t)
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	zombie := exec.Command("true")
	if err := zombie.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = zombie.Wait() }) // it has ended in order
	awaitExit(zombie.Process.Pid)
	start := func(owner string) (*exec.Cmd, <-chan struct{}) {
		cmd := exec.Command("sleep", "600")
		cmd.Env = []string{ownerVariable + "=" + owner}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() { // ends with the process, which the test's end kills
			defer close(ended)
			_ = cmd.Wait() // killed
		}()
		t.Cleanup(func() {
			_ = cmd.Process.Kill() // it may have ended
			<-ended
		})
		return cmd, ended
	}
	gone := strconv.Itoa(dead.ProcessState.Pid())
	_, orphan := start(gone + ":" + dir)
	_, unreaped := start(strconv.Itoa(zombie.Process.Pid) + ":" + dir)
	_, other := start(gone + ":" + dir + "x")
	_, alive := start(strconv.Itoa(os.Getppid()) + ":" + dir)
	if err := endGitOrphans(func(workDir string) bool { return workDir == dir }); err != nil {
		t.Fatal(err)
	}
	for _, ended := range []<-chan struct{}{orphan, unreaped} {
		select {
		case <-ended:
		case <-time.After(patience):
			t.Error("an orphan lives, want it ended")
		}
	}
	select {
	case <-other:
		t.Error("a process of another work dir was ended, want it to live")
	case <-alive:
		t.Error("a process of a living daemon was ended, want it to live")
	default:
	}
}

// The git process of a daemon in a container is not ours, even with our mark:
// the pid in the mark belongs to the container's namespace.
func TestEndOrphansOfThisNamespaceAlone(t *testing.T) {
	t.Parallel()
	dir := realTempDir(t)
	mark := ownerMark(1<<30, dir)
	p := startCommand(t, "unshare", inPIDNamespace(t, "env", mark, "sleep", "600"), nil)
	awaitThat(t, "the process in the namespace has its mark", func() bool {
		for _, pid := range childrenOf(t, p.cmd.Process.Pid) {
			environ, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/environ")
			if err == nil && isGitOrphan(environ, func(workDir string) bool { return workDir == dir }) {
				return true
			}
		}
		return false
	})
	sleeper := onlyChildOf(t, p.cmd.Process.Pid)
	if err := endGitOrphans(func(workDir string) bool { return workDir == dir }); err != nil {
		t.Fatal(err)
	}
	if isGone(sleeper) {
		t.Error("a process of another namespace was ended, want it to live")
	}
}
