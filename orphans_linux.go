package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// endGitOrphans kills the git processes whose daemon is gone, of the work dirs
// that ours names, and waits for their end. A process is held by its pidfd
// before it is looked at, so that no other can be hit.
func endGitOrphans(ours func(workDir string) bool) error {
	names, err := os.ReadDir("/proc")
	if err != nil {
		return fmt.Errorf("looking for git processes of an earlier daemon: %w", err)
	}
	var killed []int
	for _, name := range names {
		pid, err := strconv.Atoi(name.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue // it has ended
		}
		environ, err := os.ReadFile("/proc/" + name.Name() + "/environ")
		if err == nil && isGitOrphan(environ, ours) && unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) == nil {
			killed = append(killed, fd)
			continue
		}
		_ = unix.Close(fd) // only a handle
	}
	for _, fd := range killed {
		exited(fd, pipeDelay)
	}
	closeAll(killed)
	return nil
}

// isGitOrphan tells an environment with the mark of one of our work dirs and an
// owner that is gone, or that is this very process: a container's processes get
// the same ids again.
func isGitOrphan(environ []byte, ours func(workDir string) bool) bool {
	for variable := range bytes.SplitSeq(environ, []byte{0}) {
		value, ok := bytes.CutPrefix(variable, []byte(ownerVariable+"="))
		if !ok {
			continue
		}
		owner, dir, ok := bytes.Cut(value, []byte(":"))
		pid, err := strconv.Atoi(string(owner))
		return ok && err == nil && ours(string(dir)) && (pid == os.Getpid() || isGone(pid))
	}
	return false
}

// isGone tells that no process has the pid, or a zombie that waits to be reaped.
func isGone(pid int) bool {
	if stat, err := readProcStat(pid); err == nil {
		return stat.dead()
	}
	return unix.Kill(pid, 0) == unix.ESRCH
}
