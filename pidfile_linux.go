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

func bootID() (string, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(id)), err
}

// identify tells which process pid is.
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
	if fd, err := unix.PidfdOpen(pid, 0); err == nil { // where it fails the rest has to do
		id.number = processNumber(fd)
		_ = unix.Close(fd)
	}
	return id, nil
}

// processNumber is the inode of a pidfd: since Linux 6.9 each process has one of
// its own, which is never given away again. Before, all share one, so that it
// tells nothing and does no harm either.
func processNumber(pidfd int) string {
	var stat unix.Stat_t
	if unix.Fstat(pidfd, &stat) != nil {
		return ""
	}
	return strconv.FormatUint(stat.Ino, 10)
}

// openPIDFD takes hold of pid, patient with a lack of descriptors: a bare pid
// is no substitute, it may be another's a moment later.
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

// endOrphan ends the recorded process and all that its session holds: SIGTERM
// and SIGCONT, then SIGKILL. The handle is opened before the proof, and only
// through handles is anything signalled: a pid that was reused stays
// untouched.
func endOrphan(r pidRecord) (orphanFate, error) {
	fd, err := openPIDFD(r.pid)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		return orphanGone, nil // the last two: the id of a thread
	}
	if err != nil {
		return "", fmt.Errorf("taking hold of it: %w", err)
	}
	defer unix.Close(fd)
	stat, err := proveOrphan(r, fd)
	if err != nil {
		return "", fmt.Errorf("proving what it is: %w", err)
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
	_ = unix.PidfdSendSignal(fd, unix.SIGTERM, nil, 0) // an error means that it is gone
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

// proveOrphan compares the live process of the record's pid, which pidfd holds,
// with the record; nil means that it is another one.
func proveOrphan(r pidRecord, pidfd int) (*procStat, error) {
	if number := processNumber(pidfd); r.number != "" && number != "" && r.number != number {
		return nil, nil
	}
	var err error
	for range proofTries {
		var boot string
		var stat procStat
		boot, err = bootID()
		if err == nil && boot != r.boot {
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
