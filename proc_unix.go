//go:build unix

package main

import (
	"errors"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// setProcessGroup makes cmd the leader of a group of its own.
func setProcessGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
}

// terminateGroup sends SIGTERM; SIGCONT lets a stopped process receive it.
func terminateGroup(pid int) error {
	err := unix.Kill(-pid, unix.SIGTERM)
	return errors.Join(err, unix.Kill(-pid, unix.SIGCONT))
}

func killGroup(pid int) error { return unix.Kill(-pid, unix.SIGKILL) }

// killRest ends what the ended leader left in its group.
func killRest(pid int) error { return killGroup(pid) }

// stopSignals are the signals that ask a program to end.
func stopSignals() []os.Signal { return []os.Signal{syscall.SIGINT, syscall.SIGTERM} }
