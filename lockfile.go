package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"
)

const (
	// maxLockTries bounds how often a lock file may be replaced while it is
	// being locked, which hardly happens twice by chance.
	maxLockTries = 10
	// lockWait is how long to wait for a held lock, trying every
	// lockRetryInterval. When a process is killed while it starts another, the
	// new one inherits the lock until it executes its program, which takes some
	// milliseconds on an idle machine.
	lockWait          = time.Second
	lockRetryInterval = 10 * time.Millisecond
)

// heldError is returned for a lock that another process holds.
type heldError struct{ pid string } // "unknown" before the holder has written it

func (e *heldError) Error() string { return "the process with pid " + e.pid + " has the lock" }

// lockFile locks a file below root, creating it if necessary, and writes this
// process's pid into it. The kernel releases the lock when the file is closed
// or the process ends in any way. died reports that the previous holder did not
// release it with unlockFile: the process or the machine crashed. The error is
// a *heldError if another process holds the lock for longer than lockWait, and
// errors.ErrUnsupported if the file system has no locks.
func lockFile(root *os.Root, name string) (f *os.File, died bool, err error) {
	for begin := time.Now(); ; time.Sleep(lockRetryInterval) {
		f, died, err = lockFileNow(root, name)
		if _, held := errors.AsType[*heldError](err); !held || time.Since(begin) >= lockWait {
			return f, died, err
		}
	}
}

// lockFileNow is lockFile without waiting.
func lockFileNow(root *os.Root, name string) (f *os.File, died bool, err error) {
	// We never remove the file. If another program does so between open and
	// lock, our lock is on a file that no other process finds: retry with the
	// new file.
	for range maxLockTries {
		f, err := root.OpenFile(name, os.O_RDWR|os.O_CREATE|openNonblock, 0o600)
		if err != nil {
			return nil, false, fmt.Errorf("opening the lock file: %w", err)
		}
		held, err := tryLock(f)
		if err == nil && held {
			err = &heldError{pid: readLockHolder(f)}
		}
		if err != nil {
			_ = f.Close() // nothing was written
			return nil, false, err
		}
		mine, err1 := f.Stat()
		named, err2 := root.Stat(name)
		if err1 != nil || err2 != nil || !os.SameFile(mine, named) {
			_ = f.Close() // nothing was written
			continue
		}
		err = f.Truncate(0)
		if err == nil {
			_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
		}
		if err != nil {
			return nil, false, fmt.Errorf("writing the lock file: %w", errors.Join(err, f.Close()))
		}
		return f, mine.Size() > 0, nil
	}
	return nil, false, errors.New("the lock file was replaced too often while it was being locked")
}

// unlockFile releases a lock and tells the next holder, by an empty file, that
// this one ended in order.
func unlockFile(f *os.File) error { return errors.Join(f.Truncate(0), f.Close()) }

// readLockHolder returns the pid in the lock file, or "unknown" if it is not
// written yet.
func readLockHolder(f *os.File) string {
	buf := make([]byte, 32)
	n, _ := f.ReadAt(buf, 0) // a short read gives no valid number
	pid := string(bytes.TrimSpace(buf[:n]))
	if _, err := strconv.Atoi(pid); err != nil {
		return "unknown"
	}
	return pid
}
