package main

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// awaitExit returns when the child has ended, and does not reap it: a kqueue
// reports the exit of a zombie.
func awaitExit(pid int) {
	queue, err := unix.Kqueue()
	if err != nil {
		return
	}
	defer unix.Close(queue)
	changes := []unix.Kevent_t{{Ident: uint64(pid), Filter: unix.EVFILT_PROC, Flags: unix.EV_ADD | unix.EV_ONESHOT, Fflags: unix.NOTE_EXIT}}
	events := make([]unix.Kevent_t, 1)
	for {
		n, err := unix.Kevent(queue, changes, events, nil)
		if n > 0 || (err != nil && !errors.Is(err, unix.EINTR)) {
			return
		}
		changes = nil
	}
}

// zombie is the state of a process in kinfo_proc that has ended and is not yet
// reaped (sys/proc.h, SZOMB).
const zombie = 5

// killSession kills the remaining processes of the session that pid leads or
// led.
func killSession(pid int) {
	all, err := unix.SysctlKinfoProcSlice("kern.proc.all")
	if err != nil {
		return
	}
	for _, k := range all {
		member := int(k.Proc.P_pid)
		if member <= 1 || member == pid || member == os.Getpid() || k.Proc.P_stat == zombie {
			continue
		}
		if sid, err := unix.Getsid(member); err == nil && sid == pid {
			_ = unix.Kill(member, unix.SIGKILL)
		}
	}
}
