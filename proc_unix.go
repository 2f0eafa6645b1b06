//go:build unix

package main

import (
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// setProcessGroup makes cmd the leader of a process group of its own, unless
// setSession was called for it.
func setProcessGroup(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	}
}

// setSession makes cmd the leader of a session and a group of its own.
// Processes that it starts in further groups stay in its session and end with
// it.
func setSession(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
}

// terminateGroup sends SIGTERM, and SIGCONT so that a stopped process receives
// it.
func terminateGroup(pid int) error {
	err := unix.Kill(-pid, unix.SIGTERM)
	return errors.Join(err, unix.Kill(-pid, unix.SIGCONT))
}

func killGroup(pid int) error { return unix.Kill(-pid, unix.SIGKILL) }

// killRest kills the remaining processes of the group of an ended leader, and
// of its session if it led one.
func killRest(pid int) error {
	err := killGroup(pid)
	if session, sidErr := unix.Getsid(pid); sidErr == nil && session == pid {
		killSession(pid)
	}
	return err
}

// stopSignals returns the signals that ask a program to end: also that of a
// closed terminal, unless the program was started to survive it (nohup(1)).
func stopSignals() []os.Signal {
	signals := []os.Signal{syscall.SIGINT, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) {
		signals = append(signals, syscall.SIGHUP)
	}
	return signals
}
