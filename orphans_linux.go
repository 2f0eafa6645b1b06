package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// endGitOrphans kills the git processes that carry mark in their environment and
// that an earlier daemon left: killed itself, it could not end them, and one
// with a silent remote stays for ever. A process is held by its pidfd before
// it is looked at, so that no other can be hit.
func endGitOrphans(mark string) error {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return fmt.Errorf("looking for git processes of an earlier daemon: %w", err)
	}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		p, err := os.FindProcess(pid)
		if err != nil {
			continue // it has ended
		}
		environ, err := os.ReadFile("/proc/" + entry.Name() + "/environ")
		if err == nil && isOrphan(environ, mark) {
			_ = p.Signal(syscall.SIGKILL) // an error means that it has ended
		}
		_ = p.Release() // only frees the handle
	}
	return nil
}

// isOrphan tells an environment that holds mark and an owner that has ended, or
// that is this very process: a container's processes get the same ids again.
func isOrphan(environ []byte, mark string) bool {
	for variable := range bytes.SplitSeq(environ, []byte{0}) {
		value, ok := bytes.CutPrefix(variable, []byte(ownerVariable+"="))
		if !ok {
			continue
		}
		owner, dir, ok := bytes.Cut(value, []byte(":"))
		pid, err := strconv.Atoi(string(owner))
		return ok && err == nil && string(dir) == mark && (pid == os.Getpid() || hasExited(pid))
	}
	return false
}

// hasExited tells a process that is gone, or that has ended and waits to be
// reaped: its parent may never do it, as many a container's first process.
func hasExited(pid int) bool {
	if syscall.Kill(pid, 0) == syscall.ESRCH {
		return true
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return false // a kernel before 5.3
	}
	defer unix.Close(fd)
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	return err == nil && n > 0 // pidfd_open(2): readable once it has ended
}
