package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// hiddenBoot is the boot of a process where /proc shows none, as under systemd's
// ProcSubset=pid. It proves nothing: what an earlier scheduler left there ends
// with its control group, and by itself when its standard input does.
const hiddenBoot = "hidden"

func bootID() (string, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if errors.Is(err, os.ErrNotExist) {
		return hiddenBoot, nil
	}
	return strings.TrimSpace(string(id)), err
}

// identify returns the identity of the process that has pid now.
func identify(pid int) (identity, error) {
	stat, err := readProcStat(pid)
	if err != nil {
		return identity{}, err
	}
	boot, err := bootID()
	if err != nil {
		return identity{}, err
	}
	id := identity{start: stat.start, boot: boot, group: stat.group}
	if fd, err := unix.PidfdOpen(pid, 0); err == nil { // on an old kernel the rest must do
		id.number = processNumber(fd)
		_ = unix.Close(fd)
	}
	return id, nil
}

// processNumber returns the inode of a pidfd. Since Linux 6.9 each process has an
// inode of its own, which is never used again. Before, all share one: comparing
// it proves nothing, and does no harm.
func processNumber(pidfd int) string {
	var stat unix.Stat_t
	if unix.Fstat(pidfd, &stat) != nil {
		return ""
	}
	return strconv.FormatUint(stat.Ino, 10)
}

// openPIDFD opens a handle of pid, and tries again while there are no free
// descriptors: a bare pid is no substitute, because it may belong to another
// process a moment later.
func openPIDFD(pid int) (int, error) {
	var err error
	for range proofTries {
		var fd int
		if fd, err = unix.PidfdOpen(pid, 0); err == nil {
			return fd, nil
		}
		if !lacksDescriptors(err) && !errors.Is(err, unix.ENOMEM) {
			break
		}
		time.Sleep(proofPause)
	}
	return -1, err
}

// endOrphan ends the recorded process and everything in its session: SIGTERM and
// SIGCONT, then SIGKILL. The handle is opened before the proof, and signals go
// through handles only: a process that reuses the pid is never signalled.
func endOrphan(r pidRecord) (orphanFate, error) {
	fd, err := openPIDFD(r.pid)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		return orphanGone, nil // the last two: the id of a thread
	}
	if errors.Is(err, unix.ENOSYS) {
		return awaitOrphan(r)
	}
	if err != nil {
		return "", fmt.Errorf("opening a handle of it: %w", err)
	}
	defer unix.Close(fd)
	stat, err := proveOrphan(r, fd)
	if err != nil {
		return "", fmt.Errorf("proving which process it is: %w", err)
	}
	if stat == nil {
		if exited(fd, 0) {
			return orphanGone, nil
		}
		return orphanStranger, nil
	}
	if exited(fd, 0) || stat.dead() {
		return orphanGone, nil
	}

	members := sessionMembers(r.pid, fd)
	_ = unix.PidfdSendSignal(fd, unix.SIGTERM, nil, 0) // an error means that it has ended
	_ = unix.PidfdSendSignal(fd, unix.SIGCONT, nil, 0)
	ended := exited(fd, orphanGrace)
	if !ended {
		closeAll(members)
		members = sessionMembers(r.pid, fd)
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
	}
	for _, member := range members {
		_ = unix.PidfdSendSignal(member, unix.SIGKILL, nil, 0)
	}
	closeAll(members)
	if !ended && !exited(fd, orphanGrace) {
		return "", errors.New("it does not end, not even by SIGKILL")
	}
	return orphanEnded, nil
}

// awaitOrphan is endOrphan for kernels without pidfd_open(2), before Linux 5.3. It
// sends no signal, because a pid alone can come to belong to another process. A
// daemon ends by itself when its scheduler has ended, so waiting is enough.
func awaitOrphan(r pidRecord) (orphanFate, error) {
	for deadline := time.Now().Add(orphanGrace); ; time.Sleep(proofPause) {
		stat, err := proveOrphan(r, -1)
		if err != nil {
			return "", fmt.Errorf("proving which process it is: %w", err)
		}
		if stat == nil || stat.dead() {
			return orphanGone, nil
		}
		if time.Now().After(deadline) {
			return "", fmt.Errorf("this kernel has no pidfd_open (Linux 5.3), without which it cannot be ended safely: run kill %d and start again", r.pid)
		}
	}
}

// proveOrphan compares the process that has the record's pid now, and that pidfd
// refers to unless it is -1, with the record. It returns nil when that is another process.
func proveOrphan(r pidRecord, pidfd int) (*procStat, error) {
	if number := processNumber(pidfd); r.number != "" && number != "" && r.number != number {
		return nil, nil
	}
	var err error
	for range proofTries {
		var boot string
		var stat procStat
		boot, err = bootID()
		if err == nil && (boot != r.boot || boot == hiddenBoot) {
			return nil, nil
		}
		if err == nil {
			stat, err = readProcStat(r.pid)
		}
		switch {
		case errors.Is(err, os.ErrNotExist), errors.Is(err, unix.ESRCH):
			return nil, nil
		case err == nil && (stat.start != r.start || stat.group != r.group):
			return nil, nil
		case err == nil:
			return &stat, nil
		case !lacksDescriptors(err):
			return nil, err
		}
		time.Sleep(proofPause)
	}
	return nil, err
}
