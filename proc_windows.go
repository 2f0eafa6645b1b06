package main

import (
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"golang.org/x/sys/windows"
)

// setProcessGroup makes cmd the root of a group that Ctrl-C does not reach.
func setProcessGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{CreationFlags: windows.CREATE_NEW_PROCESS_GROUP}
}

// setSession is setProcessGroup: there are no sessions to lead.
func setSession(cmd *exec.Cmd) { setProcessGroup(cmd) }

// awaitExit returns when the process has ended. The open handle of os/exec
// keeps its id from being given away.
func awaitExit(pid int) {
	h, err := windows.OpenProcess(windows.SYNCHRONIZE, false, uint32(pid))
	if err != nil {
		return
	}
	defer windows.CloseHandle(h)
	_, _ = windows.WaitForSingleObject(h, windows.INFINITE)
}

// terminateGroup is killGroup: there is no polite signal for a program without
// a console of its own.
func terminateGroup(pid int) error { return killGroup(pid) }

// killGroup ends the process and its descendants.
func killGroup(pid int) error {
	return exec.Command("taskkill", "/T", "/F", "/PID", strconv.Itoa(pid)).Run()
}

// killRest does nothing: the tree of an ended process cannot be found by its
// id.
func killRest(int) error { return nil }

// stopSignals are the signals that ask a program to end.
func stopSignals() []os.Signal { return []os.Signal{os.Interrupt, syscall.SIGTERM} }
