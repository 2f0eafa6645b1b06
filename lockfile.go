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
	// maxLockTries bounds how often a lock file may be replaced while it is being
	// locked: nobody does so twice by chance.
	maxLockTries = 10
	// lockPatience is how long a held lock is waited for, asked for each lockPause:
	// a process that is killed while it starts another leaves the lock to that one
	// until its program begins, some milliseconds on a machine at rest.
	lockWait          = time.Second
	lockRetryInterval = 10 * time.Millisecond
)

// heldError tells that another process has the lock.
type heldError struct{ pid string } // "unknown" before the holder has written it

func (e *heldError) Error() string { return "the process with pid " + e.pid + " has the lock" }

// lockFile locks a file of root, made if need be, and writes this process's pid
// into it. The lock is the kernel's: it ends with the process, however that
// ends, and when the file is closed. died tells that the last holder did not
// give it back by unlockFile: it was killed, or the machine was. A *heldError
// names another holder, after lockPatience; an error that is
// errors.ErrUnsupported says that there are no locks here.
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
	// The file is never removed by us. When somebody else did so between open
	// and lock, the lock is on a file that nobody else finds: take the new one.
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
	return nil, false, errors.New("the lock file keeps changing")
}

// unlockFile gives a lock back: the next holder knows that nothing was left in
// the middle.
func unlockFile(f *os.File) error { return errors.Join(f.Truncate(0), f.Close()) }

// readLockHolder is the pid in the lock file, "unknown" before it is written.
func readLockHolder(f *os.File) string {
	buf := make([]byte, 32)
	n, _ := f.ReadAt(buf, 0) // what is missing is no number
	pid := string(bytes.TrimSpace(buf[:n]))
	if _, err := strconv.Atoi(pid); err != nil {
		return "unknown"
	}
	return pid
}
