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

// statDisk looks at the disk of path.
func statDisk(path string) (diskUsage, error) {
	var available, total, free uint64
	name, err := windows.UTF16PtrFromString(path)
	if err == nil {
		err = windows.GetDiskFreeSpaceEx(name, &available, &total, &free)
	}
	if err != nil {
		return diskUsage{Path: path}, fmt.Errorf("looking at the disk of %s: %w", path, err)
	}
	return newDiskUsage(path, 1, total, free, available), nil
}

// openNonblock has no meaning on Windows.
const openNonblock = 0

// tryLock takes f's lock without waiting; held tells that another process has
// it. A lock keeps others from reading its range, so it lies far behind the
// pid: on the last byte that an offset can name.
func tryLock(f *os.File) (held bool, err error) {
	at := windows.Overlapped{Offset: 0xfffffffe, OffsetHigh: 0x7fffffff}
	err = windows.LockFileEx(windows.Handle(f.Fd()), windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0, &at)
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) {
		return true, nil
	}
	return false, err
}

// limitUnsent does nothing: there is no such option here.
func limitUnsent(syscall.RawConn) {}

// passesDescriptors is false: os/exec does not support Cmd.ExtraFiles here, so
// a handler runs without reports of progress.
const passesDescriptors = false
