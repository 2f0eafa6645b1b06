package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"syscall"
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

// isOrphan tells an environment that holds mark and an owner that is gone, or
// that is this very process: a container's processes get the same ids again.
func isOrphan(environ []byte, mark string) bool {
	for variable := range bytes.SplitSeq(environ, []byte{0}) {
		value, ok := bytes.CutPrefix(variable, []byte(ownerVariable+"="))
		if !ok {
			continue
		}
		owner, dir, ok := bytes.Cut(value, []byte(":"))
		pid, err := strconv.Atoi(string(owner))
		return ok && err == nil && string(dir) == mark && (pid == os.Getpid() || syscall.Kill(pid, 0) == syscall.ESRCH)
	}
	return false
}
