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

// gitOrphanPoll is the interval at which killed processes are checked.
const gitOrphanPoll = 5 * time.Millisecond

// endGitOrphans kills the git processes in our work dirs whose daemon no longer
// runs, and waits up to pipeDelay for them to end. Each process is opened by
// its pidfd before it is examined, so that a reused pid cannot hit another
// process. Before Linux 5.3 there are no pidfds and the pid alone is used.
func endGitOrphans(isOurs func(workDir string) bool) error {
	names, err := os.ReadDir("/proc")
	if err != nil {
		return fmt.Errorf("finding git processes of an earlier daemon: %w", err)
	}
	// A mark from another pid namespace holds a pid that means nothing here. If
	// the symlink of our own namespace cannot be read, neither can any
	// process's environment.
	own, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return fmt.Errorf("finding git processes of an earlier daemon: %w", err)
	}
	var killed []int
	for _, name := range names {
		pid, err := strconv.Atoi(name.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		p, err := os.FindProcess(pid)
		if err != nil {
			continue // the process has ended
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

// isGitOrphan reports whether an environment has the mark of one of our work
// dirs and an owner that no longer runs. An owner with our own pid counts too:
// in a restarted container, processes get the same pids again.
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

// isGone reports whether no process has the pid, or only a zombie that waits to
// be reaped.
func isGone(pid int) bool {
	if stat, err := readProcStat(pid); err == nil {
		return stat.dead()
	}
	return unix.Kill(pid, 0) == unix.ESRCH
}
