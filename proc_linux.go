package main

import (
	"bytes"
	"errors"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// awaitExit returns when the child has ended, and does not reap it.
func awaitExit(pid int) {
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// procStat is part of /proc/<pid>/stat (proc_pid_stat(5)).
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

// parseProcStat parses the line. The program's name, in parentheses, can
// contain spaces and parentheses, so the fields start behind the last one.
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

// exited waits up to limit for the process of the pidfd to end, and reports
// whether it has. A zombie has ended.
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

// sessionMembers opens a pidfd for every other process in the session or group
// that pid leads. Git runs in groups of its own, but in the session of its
// daemon. As long as the leader has not ended, its session number cannot be
// reused. If the pidfd leader shows that it has ended, the members found may
// belong to another session, and the list is empty. leader is -1 if pid is
// known to be unreaped.
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
	var fds []int
	for _, name := range names {
		member, err := strconv.Atoi(name)
		if err != nil || member == pid || member == os.Getpid() || !belongs(member) {
			continue
		}
		fd, err := unix.PidfdOpen(member, 0)
		if err != nil {
			continue
		}
		if !belongs(member) { // check again now that the pidfd is open
			_ = unix.Close(fd)
			continue
		}
		fds = append(fds, fd)
	}
	if leader >= 0 && exited(leader, 0) {
		closeAll(fds)
		return nil
	}
	return fds
}

func closeAll(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}

// killSession kills the remaining processes of a session. Its leader has ended
// and must not be reaped yet, so that the session number cannot be reused.
func killSession(pid int) {
	// A process that forks during the search can be missed once.
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
