package main

import (
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"golang.org/x/sys/windows"
)

// setProcessGroup puts cmd into a new process group, which Ctrl-C does not
// reach.
func setProcessGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{CreationFlags: windows.CREATE_NEW_PROCESS_GROUP}
}

// setSession is setProcessGroup, because Windows has no such sessions.
func setSession(cmd *exec.Cmd) { setProcessGroup(cmd) }

// awaitExit returns when the process has ended. Its id cannot be reused,
// because os/exec holds a handle.
func awaitExit(pid int) {
	h, err := windows.OpenProcess(windows.SYNCHRONIZE, false, uint32(pid))
	if err != nil {
		return
	}
	defer windows.CloseHandle(h)
	_, _ = windows.WaitForSingleObject(h, windows.INFINITE)
}

// terminateGroup is killGroup, because a program without a console cannot be
// asked to end.
func terminateGroup(pid int) error { return killGroup(pid) }

// killGroup kills the process and its descendants.
func killGroup(pid int) error {
	return exec.Command("taskkill", "/T", "/F", "/PID", strconv.Itoa(pid)).Run()
}

// killRest does nothing, because the descendants of an ended process cannot be
// found by its id.
func killRest(int) error { return nil }

// stopSignals returns the signals that ask a program to end.
func stopSignals() []os.Signal { return []os.Signal{os.Interrupt, syscall.SIGTERM} }
