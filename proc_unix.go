//go:build unix

package main

import (
	"errors"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// setProcessGroup makes cmd the leader of a group of its own, unless setSession
// has done so.
func setProcessGroup(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	}
}

// setSession makes cmd the leader of a session, and a group, of its own. What
// it starts in further groups stays in its session and ends with it.
func setSession(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
}

// terminateGroup sends SIGTERM; SIGCONT lets a stopped process receive it.
func terminateGroup(pid int) error {
	err := unix.Kill(-pid, unix.SIGTERM)
	return errors.Join(err, unix.Kill(-pid, unix.SIGCONT))
}

func killGroup(pid int) error { return unix.Kill(-pid, unix.SIGKILL) }

// killRest ends what the ended leader left in its group, and in its session
// where it led one.
func killRest(pid int) error {
	err := killGroup(pid)
	if session, sidErr := unix.Getsid(pid); sidErr == nil && session == pid {
		killSession(pid)
	}
	return err
}

// stopSignals are the signals that ask a program to end.
func stopSignals() []os.Signal { return []os.Signal{syscall.SIGINT, syscall.SIGTERM} }
