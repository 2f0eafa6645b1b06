package main

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/windows"
)

func isNotDirectory(err error) bool { return errors.Is(err, windows.ERROR_DIRECTORY) }
func isNameTooLong(err error) bool  { return errors.Is(err, windows.ERROR_FILENAME_EXCED_RANGE) }
func isLinkLoop(err error) bool     { return errors.Is(err, windows.ERROR_CANT_RESOLVE_FILENAME) }
func isNoDevice(error) bool         { return false }

// statDisk measures the disk that contains path.
func statDisk(path string) (diskUsage, error) {
	var available, total, free uint64
	name, err := windows.UTF16PtrFromString(path)
	if err == nil {
		err = windows.GetDiskFreeSpaceEx(name, &available, &total, &free)
	}
	if err != nil {
		return diskUsage{Path: path}, fmt.Errorf("measuring the disk of %s: %w", path, err)
	}
	return newDiskUsage(path, 1, total, free, available), nil
}

// explainOwner returns err: a directory has no uid.
func explainOwner(_ string, err error) error { return err }

// isJournal is false: there is no systemd.
func isJournal(*os.File, string) bool { return false }

// openNonblock has no meaning on Windows.
const openNonblock = 0

// tryLock locks f without waiting; held reports that another process has the
// lock. A locked range cannot be read by others, so the lock is far behind the
// pid, on the last byte that an offset can address.
func tryLock(f *os.File) (held bool, err error) {
	at := windows.Overlapped{Offset: 0xfffffffe, OffsetHigh: 0x7fffffff}
	err = windows.LockFileEx(windows.Handle(f.Fd()), windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0, &at)
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) {
		return true, nil
	}
	return false, err
}

// limitUnsent does nothing: Windows has no such option.
func limitUnsent(syscall.RawConn) {}

// passesDescriptors is false: os/exec does not support Cmd.ExtraFiles on
// Windows, so a handler cannot report progress.
const passesDescriptors = false

// terminalWidth returns the number of columns of the console f, and false if f is
// not a console.
func terminalWidth(f *os.File) (width int, isTerminal bool) {
	if f == nil {
		return 0, false
	}
	var info windows.ConsoleScreenBufferInfo
	if err := windows.GetConsoleScreenBufferInfo(windows.Handle(f.Fd()), &info); err != nil {
		return 0, false
	}
	return int(info.Size.X), true
}
