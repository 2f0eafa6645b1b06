package main

import (
	"errors"
	"os"

	"golang.org/x/sys/windows"
)

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
