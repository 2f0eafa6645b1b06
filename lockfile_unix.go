//go:build linux || darwin

package main

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// openNonblock keeps open from waiting for the other end of a named pipe, and
// from making a terminal ours.
const openNonblock = syscall.O_NONBLOCK | syscall.O_NOCTTY

// tryLock takes f's lock without waiting; held tells that another process has
// it. The lock belongs to the open file: a started program does not inherit
// it, for Go opens files close-on-exec.
func tryLock(f *os.File) (held bool, err error) {
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return false, nil
		case errors.Is(err, unix.EWOULDBLOCK):
			return true, nil
		case !errors.Is(err, unix.EINTR):
			return false, err
		}
	}
}
