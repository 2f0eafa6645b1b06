package main

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// gitOrphanPoll is how often the end of killed processes is looked for.
const gitOrphanPoll = 5 * time.Millisecond

// endGitOrphans kills the git processes whose daemon is gone, of the work dirs
// that ours names, and waits up to pipeDelay for their end. A process is held
// by its pidfd (where there is none, before Linux 5.3, by its pid) before it is
// looked at, so that no other can be hit.
func endGitOrphans(isOurs func(workDir string) bool) error {
	names, err := os.ReadDir("/proc")
	if err != nil {
		return fmt.Errorf("looking for git processes of an earlier daemon: %w", err)
	}
	// The pids of another namespace's marks say nothing here. Where links cannot
	// be read, nobody's environment can be.
	own, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return fmt.Errorf("looking for git processes of an earlier daemon: %w", err)
	}
	var killed []int
	for _, name := range names {
		pid, err := strconv.Atoi(name.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		p, err := os.FindProcess(pid)
		if err != nil {
			continue // it has ended
		}
		environ, err := os.ReadFile("/proc/" + name.Name() + "/environ")
		if err == nil && isGitOrphan(environ, isOurs) {
			space, err := os.Readlink("/proc/" + name.Name() + "/ns/pid")
			if err == nil && space == own && p.Signal(unix.SIGKILL) == nil {
				killed = append(killed, pid)
			}
		}
		_ = p.Release() // only frees the handle
	}
	for deadline := time.Now().Add(pipeDelay); !allGone(killed) && time.Now().Before(deadline); {
		time.Sleep(gitOrphanPoll)
	}
	return nil
}

func allGone(pids []int) bool {
	return !slices.ContainsFunc(pids, func(pid int) bool { return !isGone(pid) })
}

// isGitOrphan tells an environment with the mark of one of our work dirs and an
// owner that is gone, or that is this very process: a container's processes get
// the same ids again.
func isGitOrphan(environ []byte, isOurs func(workDir string) bool) bool {
	for variable := range bytes.SplitSeq(environ, []byte{0}) {
		value, ok := bytes.CutPrefix(variable, []byte(ownerVariable+"="))
		if !ok {
			continue
		}
		owner, dir, ok := bytes.Cut(value, []byte(":"))
		pid, err := strconv.Atoi(string(owner))
		return ok && err == nil && isOurs(string(dir)) && (pid == os.Getpid() || isGone(pid))
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
