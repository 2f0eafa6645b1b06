package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"unsafe"

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
	_, err := killProcess(uint32(pid), 0)
	return errors.Join(err, killRest(pid))
}

// killRounds bounds how often the descendants of a process are listed, because
// one that is about to be killed may start another.
const killRounds = 5

// killRest kills the descendants of a process, which may have ended itself: its
// id cannot be reused, because os/exec holds a handle.
func killRest(pid int) error {
	leader, err := windows.OpenProcess(windows.PROCESS_QUERY_LIMITED_INFORMATION, false, uint32(pid))
	if err != nil {
		return fmt.Errorf("opening process %d: %w", pid, err)
	}
	defer windows.CloseHandle(leader)
	begun, err := processBegin(leader)
	if err != nil {
		return err
	}
	known := map[uint32]int64{uint32(pid): begun}
	for range killRounds {
		parents, err := processParents()
		if err != nil {
			return err
		}
		before := len(known)
		for grown := true; grown; {
			grown = false
			for child, parent := range parents {
				begun, ours := known[parent]
				if _, done := known[child]; !ours || done {
					continue
				}
				if begun, err := killProcess(child, begun); err == nil {
					known[child], grown = begun, true
				}
			}
		}
		if len(known) == before {
			return nil
		}
	}
	return nil
}

// processParents returns the id of the parent of every process. The parent may
// have ended, and its id may be that of another process meanwhile.
func processParents() (map[uint32]uint32, error) {
	snapshot, err := windows.CreateToolhelp32Snapshot(windows.TH32CS_SNAPPROCESS, 0)
	if err != nil {
		return nil, fmt.Errorf("listing the processes: %w", err)
	}
	defer windows.CloseHandle(snapshot)
	parents := map[uint32]uint32{}
	entry := windows.ProcessEntry32{Size: uint32(unsafe.Sizeof(windows.ProcessEntry32{}))}
	for err = windows.Process32First(snapshot, &entry); err == nil; err = windows.Process32Next(snapshot, &entry) {
		parents[entry.ProcessID] = entry.ParentProcessID
	}
	return parents, nil
}

// killProcess kills a process unless it began before since, so that it is no
// child of a process that began then. It returns when the process began.
func killProcess(pid uint32, since int64) (begun int64, err error) {
	h, err := windows.OpenProcess(windows.PROCESS_TERMINATE|windows.PROCESS_QUERY_LIMITED_INFORMATION, false, pid)
	if err != nil {
		return 0, fmt.Errorf("opening process %d: %w", pid, err)
	}
	defer windows.CloseHandle(h)
	if begun, err = processBegin(h); err != nil {
		return 0, err
	}
	if begun < since {
		return 0, fmt.Errorf("process %d is older than its parent", pid)
	}
	if err := windows.TerminateProcess(h, 1); err != nil {
		return 0, fmt.Errorf("ending process %d: %w", pid, err)
	}
	return begun, nil
}

// processBegin returns when a process began, in units of 100 ns.
func processBegin(h windows.Handle) (int64, error) {
	var begun, ended, kernel, user windows.Filetime
	if err := windows.GetProcessTimes(h, &begun, &ended, &kernel, &user); err != nil {
		return 0, fmt.Errorf("reading the start of a process: %w", err)
	}
	return begun.Nanoseconds() / 100, nil
}

// stopSignals returns the signals that ask a program to end.
func stopSignals() []os.Signal { return []os.Signal{os.Interrupt, syscall.SIGTERM} }
