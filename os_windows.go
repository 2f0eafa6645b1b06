package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/windows"
)

// os and os.Root report some errors under the names of Unix.
func isNotDirectory(err error) bool {
	return errors.Is(err, windows.ERROR_DIRECTORY) || errors.Is(err, syscall.ENOTDIR)
}
func isNameTooLong(err error) bool {
	return errors.Is(err, windows.ERROR_FILENAME_EXCED_RANGE) || errors.Is(err, windows.ERROR_INVALID_NAME)
}
func isLinkLoop(err error) bool {
	return errors.Is(err, windows.ERROR_CANT_RESOLVE_FILENAME) || errors.Is(err, syscall.ELOOP)
}
func isNoDevice(error) bool { return false }

// isDiskFull reports whether err is for a disk or a quota that is used up.
func isDiskFull(err error) bool {
	return errors.Is(err, windows.ERROR_DISK_FULL) || errors.Is(err, windows.ERROR_HANDLE_DISK_FULL) || errors.Is(err, windows.ERROR_DISK_QUOTA_EXCEEDED)
}

// isShared reports whether another program has the file open, or a part of it
// locked, in a way that excludes this use.
func isShared(err error) bool {
	return errors.Is(err, windows.ERROR_SHARING_VIOLATION) || errors.Is(err, windows.ERROR_LOCK_VIOLATION)
}

const (
	// sharedWait is how long a rename waits for other programs to close the file.
	// Scanners and indexers open new files for some milliseconds.
	sharedWait          = 2 * time.Second
	sharedRetryInterval = 10 * time.Millisecond
)

// retryShared calls op again, for sharedWait, while another program has the file
// open. For a rename Windows reports that as missing permission, too.
func retryShared(op func() error) error {
	for begin := time.Now(); ; time.Sleep(sharedRetryInterval) {
		err := op()
		switch {
		case !isShared(err) && !errors.Is(err, windows.ERROR_ACCESS_DENIED):
			return err
		case time.Since(begin) >= sharedWait:
			return fmt.Errorf("%w: another program may have a file open there", err)
		}
	}
}

// replaceFile renames the file from to the name to, which it replaces, also if
// it has the read-only attribute.
func replaceFile(from, to string) error {
	if info, err := os.Lstat(to); err == nil && info.Mode().IsRegular() && info.Mode()&0o200 == 0 {
		if err := os.Chmod(to, 0o600); err != nil {
			return err
		}
	}
	return retryShared(func() error { return os.Rename(from, to) })
}

// emptyReplaced calls replace, which gives the name path to another file, and
// empties the former one: a hard link may still name it. An open file could not
// be replaced, so a link keeps hold of it; removeTemporaries deletes one that a
// killed process leaves. Without links on the file system there is no other name.
func emptyReplaced(path string, replace func() error) error {
	link := path + ".tmp-old"
	_ = os.Remove(link) // a former one
	if os.Link(path, link) != nil {
		return replace()
	}
	err := replace()
	if err == nil {
		err = os.Truncate(link, 0)
	}
	return errors.Join(err, os.Remove(link))
}

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

func acceptWaiting(net.Listener) []net.Conn { return nil }

// cpuSeconds returns 0: the scheduler, whose metrics have it, does not run on
// Windows.
func cpuSeconds() float64 { return 0 }

// levelSignals returns nothing: Windows has no such signal.
func levelSignals() []os.Signal { return nil }

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

// writeNow writes nothing: the goroutine that writes does it all.
func writeNow(syscall.RawConn, []byte) (int, error) { return 0, nil }

func canWrite(syscall.RawConn) bool { return false }
