package main

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// orphanPoll is how often to check whether an orphan has ended.
const orphanPoll = 20 * time.Millisecond

func kinfo(pid int) (*unix.KinfoProc, error) {
	k, err := unix.SysctlKinfoProc("kern.proc.pid", pid)
	if err != nil {
		return nil, err
	}
	if int(k.Proc.P_pid) != pid {
		return nil, unix.ESRCH
	}
	return k, nil
}

func startOf(k *unix.KinfoProc) string {
	return fmt.Sprintf("%d.%06d", k.Proc.P_starttime.Sec, k.Proc.P_starttime.Usec)
}

func bootID() (string, error) { return unix.Sysctl("kern.bootsessionuuid") }

// identify returns the identity of the process that has pid now.
func identify(pid int) (identity, error) {
	k, err := kinfo(pid)
	if err != nil {
		return identity{}, err
	}
	boot, err := bootID()
	if err != nil {
		return identity{}, err
	}
	return identity{start: startOf(k), boot: boot, group: int(k.Eproc.Pgid)}, nil
}

// isOrphan reports whether a process with the record's pid is alive, and whether
// it is the recorded one.
func isOrphan(r pidRecord) (alive, same bool) {
	k, err := kinfo(r.pid)
	if err != nil || k.Proc.P_stat == zombie {
		return false, false
	}
	id, err := identify(r.pid)
	return true, err == nil && id == r.identity
}

// endOrphan ends the recorded process group and the processes of its session:
// SIGTERM and SIGCONT, then SIGKILL, each right after the proof that the pid still
// belongs to the recorded process. macOS has no handle that would rule out a reuse
// in between; its start times are in microseconds.
func endOrphan(r pidRecord) (orphanFate, error) {
	alive, same := isOrphan(r)
	switch {
	case !alive:
		return orphanGone, nil
	case !same:
		return orphanStranger, nil
	}
	if err := terminateGroup(r.group); errors.Is(err, unix.EPERM) {
		return "", err
	}
	if awaitOrphan(r) {
		return orphanEnded, nil
	}
	if _, same := isOrphan(r); same {
		killSession(r.pid)
		_ = killGroup(r.group) // an error means that it has ended
	}
	if awaitOrphan(r) {
		return orphanEnded, nil
	}
	return "", errors.New("it does not end, not even by SIGKILL")
}

// awaitOrphan waits up to orphanGrace for the recorded process to end.
func awaitOrphan(r pidRecord) bool {
	for deadline := time.Now().Add(orphanGrace); ; time.Sleep(orphanPoll) {
		if _, same := isOrphan(r); !same {
			return true
		}
		if time.Now().After(deadline) {
			return false
		}
	}
}
