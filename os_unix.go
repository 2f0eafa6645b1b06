//go:build linux || darwin

package main

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// statDisk looks at the disk of path.
func statDisk(path string) (diskUsage, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return diskUsage{Path: path}, fmt.Errorf("looking at the disk of %s: %w", path, err)
	}
	return newDiskUsage(path, uint64(s.Bsize), s.Blocks, s.Bfree, s.Bavail), nil
}

func isNotDirectory(err error) bool { return errors.Is(err, syscall.ENOTDIR) }
func isNameTooLong(err error) bool  { return errors.Is(err, syscall.ENAMETOOLONG) }
func isLinkLoop(err error) bool     { return errors.Is(err, syscall.ELOOP) }

// isNoDevice tells of an attempt to open a socket.
func isNoDevice(err error) bool {
	return errors.Is(err, syscall.ENXIO) || errors.Is(err, syscall.EOPNOTSUPP)
}

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

// maxSocketUnsent is what the kernel may hold of a link that it has not sent:
// enough to keep any line busy between two writes.
const maxSocketUnsent = 128 << 10

// limitUnsent keeps the kernel from taking megabytes that a slow line needs
// minutes for. A ping would wait behind them, and the writer is woken only when
// a third of them has gone, so that a living link looks dead
// (TCP_NOTSENT_LOWAT, tcp(7)). A kernel that does not know it does without.
func limitUnsent(c syscall.RawConn) {
	_ = c.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, maxSocketUnsent)
	})
}

// passesDescriptors tells whether a program can get more than the three
// standard ones (os/exec, Cmd.ExtraFiles).
const passesDescriptors = true
