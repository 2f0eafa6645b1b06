package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// procStat is what /proc/<pid>/stat tells (proc_pid_stat(5)).
type procStat struct {
	state   byte // 'Z' and 'X' are dead
	group   int
	session int
	start   string // clock ticks after boot, 10 ms each
}

func (s procStat) dead() bool { return s.state == 'Z' || s.state == 'X' || s.state == 'x' }

func readProcStat(pid int) (procStat, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return procStat{}, err
	}
	return parseProcStat(data)
}

// parseProcStat reads the line. The program's name, in parentheses, may itself
// hold spaces and parentheses: the fields begin behind the last one.
func parseProcStat(data []byte) (procStat, error) {
	end := bytes.LastIndexByte(data, ')')
	fields := strings.Fields(string(data[end+1:]))
	if end < 0 || len(fields) < 20 || len(fields[0]) != 1 {
		return procStat{}, errors.New("unreadable process status")
	}
	s := procStat{state: fields[0][0], start: fields[19]} // fields 3 and 22
	var err1, err2 error
	s.group, err1 = strconv.Atoi(fields[2])
	s.session, err2 = strconv.Atoi(fields[3])
	return s, errors.Join(err1, err2)
}

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
		if !errors.Is(err, unix.EMFILE) && !errors.Is(err, unix.ENFILE) && !errors.Is(err, unix.ENOMEM) {
			break
		}
		time.Sleep(proofPause)
	}
	return -1, err
}

// exited waits up to limit for the process of fd to end. A zombie has ended.
func exited(fd int, limit time.Duration) bool {
	deadline := time.Now().Add(limit)
	for {
		left := max(0, time.Until(deadline))
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int((left+time.Millisecond-1)/time.Millisecond))
		if n > 0 {
			return true
		}
		if left == 0 || (err != nil && !errors.Is(err, unix.EINTR)) {
			return false
		}
	}
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
		case !errors.Is(err, unix.EMFILE) && !errors.Is(err, unix.ENFILE):
			return nil, err
		}
		time.Sleep(proofPause)
	}
	return nil, err
}

// sessionMembers takes hold of every other process in the session or group
// that pid leads: git runs in groups of its own, but in its daemon's session.
// While the leader, held by leader, lives, the session's number is its alone;
// when it has ended meanwhile, nothing is proven and the list is empty.
func sessionMembers(pid, leader int) []int {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil
	}
	belongs := func(member int) bool {
		stat, err := readProcStat(member)
		return err == nil && (stat.session == pid || stat.group == pid) && !stat.dead()
	}
	var held []int
	for _, name := range names {
		member, err := strconv.Atoi(name)
		if err != nil || member == pid || member == os.Getpid() || !belongs(member) {
			continue
		}
		fd, err := unix.PidfdOpen(member, 0)
		if err != nil {
			continue
		}
		if !belongs(member) { // asked again with the handle open
			_ = unix.Close(fd)
			continue
		}
		held = append(held, fd)
	}
	if leader >= 0 && exited(leader, 0) {
		closeAll(held)
		return nil
	}
	return held
}

func closeAll(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}

// killSession ends what is left in the session of its ended, not yet reaped
// leader, which keeps the session's number from being given away.
func killSession(pid int) {
	// A process that forks while it is looked for may escape one look.
	for range 3 {
		members := sessionMembers(pid, -1)
		for _, member := range members {
			_ = unix.PidfdSendSignal(member, unix.SIGKILL, nil, 0)
		}
		for _, member := range members {
			exited(member, pipeDelay)
		}
		closeAll(members)
		if len(members) == 0 {
			return
		}
	}
}
