//go:build linux || darwin

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// statDisk measures the disk that contains path.
func statDisk(path string) (diskUsage, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return diskUsage{Path: path}, fmt.Errorf("measuring the disk of %s: %w", path, err)
	}
	return newDiskUsage(path, uint64(s.Bsize), s.Blocks, s.Bfree, s.Bavail), nil
}

func isNotDirectory(err error) bool { return errors.Is(err, syscall.ENOTDIR) }
func isNameTooLong(err error) bool  { return errors.Is(err, syscall.ENAMETOOLONG) }
func isLinkLoop(err error) bool     { return errors.Is(err, syscall.ELOOP) }

// isNoDevice reports whether err comes from opening a socket.
func isNoDevice(err error) bool {
	return errors.Is(err, syscall.ENXIO) || errors.Is(err, syscall.EOPNOTSUPP)
}

// isDiskFull reports whether err is for a disk or a quota that is used up.
func isDiskFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// isShared is false: here no program can keep others from opening a file.
func isShared(error) bool { return false }

// retryShared is op: see isShared.
func retryShared(op func() error) error { return op() }

// replaceFile renames the file from to the name to, which it replaces.
func replaceFile(from, to string) error { return os.Rename(from, to) }

// emptyReplaced calls replace, which gives the name path to another file, and
// empties the former one: a hard link may still name it.
func emptyReplaced(path string, replace func() error) error {
	old, err := os.OpenFile(path, os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return replace()
	}
	if err != nil {
		return err
	}
	if err = replace(); err == nil {
		err = old.Truncate(0)
	}
	return errors.Join(err, old.Close())
}

// explainOwner adds to the error of a use of dir what to do, where dir belongs to
// another user or its file system is read-only.
func explainOwner(dir string, err error) error {
	if errors.Is(err, syscall.EROFS) {
		return fmt.Errorf("%w: mount a volume at %s or choose another directory", err, dir)
	}
	if !errors.Is(err, syscall.EACCES) && !errors.Is(err, syscall.EPERM) {
		return err
	}
	info, statErr := os.Stat(dir)
	if statErr != nil {
		return err
	}
	s, ok := info.Sys().(*syscall.Stat_t)
	uid := os.Geteuid()
	if !ok || int(s.Uid) == uid {
		return err
	}
	return fmt.Errorf("%w: %s belongs to uid %d and this program runs as uid %d: run chown -R %d %s, or choose another directory",
		err, dir, s.Uid, uid, uid, dir)
}

// isJournal reports whether f is the stream to systemd's journal that
// JOURNAL_STREAM names by device and inode (systemd.exec(5)).
func isJournal(f *os.File, stream string) bool {
	if f == nil || stream == "" {
		return false
	}
	info, err := f.Stat()
	if err != nil {
		return false
	}
	s, ok := info.Sys().(*syscall.Stat_t)
	return ok && stream == fmt.Sprintf("%d:%d", s.Dev, s.Ino)
}

// openNonblock keeps open from blocking on a named pipe, and from making a
// terminal the controlling terminal.
const openNonblock = syscall.O_NONBLOCK | syscall.O_NOCTTY

// tryLock locks f without waiting; held reports that another process has the
// lock. The lock belongs to the open file, and started programs do not inherit
// it because Go opens files close-on-exec.
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

// maxWaiting bounds the connections that acceptWaiting takes: the backlog of a
// listener on Linux.
const maxWaiting = 4096

// handshakeOnTheWay is how long the TCP handshake of a client may still take: some
// round trips of a proxy and the schedulers behind it.
const handshakeOnTheWay = 50 * time.Millisecond

// acceptWaiting has a listener refuse connections, and returns those that the system
// has accepted already, which a close would reset. Where the system can, it first
// ignores new ones for a moment, in which the others are accepted.
func acceptWaiting(l net.Listener) (conns []net.Conn) {
	listener, ok := l.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := listener.SyscallConn()
	if err != nil {
		return nil // it is closed
	}
	ignored := false
	_ = raw.Control(func(listening uintptr) { ignored = ignoreConnects(int(listening)) == nil })
	if ignored {
		time.Sleep(handshakeOnTheWay)
	}
	var fds []int
	syscall.ForkLock.RLock() // until they are close-on-exec
	_ = raw.Control(func(listening uintptr) {
		for len(fds) < maxWaiting {
			fd, _, err := unix.Accept(int(listening))
			if err == nil {
				fds = append(fds, fd)
			} else if !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.ECONNABORTED) {
				break
			}
		}
		_ = unix.Shutdown(int(listening), unix.SHUT_RDWR) // fails on macOS
	})
	for _, fd := range fds {
		unix.CloseOnExec(fd)
	}
	syscall.ForkLock.RUnlock()
	for _, fd := range fds {
		f := os.NewFile(uintptr(fd), "")
		if conn, err := net.FileConn(f); err == nil {
			conns = append(conns, conn)
		}
		_ = f.Close() // conn has a copy
	}
	return conns
}

// maxSocketUnsent bounds the unsent data of a link in the kernel: enough to
// keep any line busy between two writes.
const maxSocketUnsent = 128 << 10

// limitUnsent keeps the kernel from buffering megabytes of unsent data, which a
// slow line needs minutes to send. A ping would wait behind them, and the
// writer would wake up only after a third of them is sent, so that a working
// link looks dead (TCP_NOTSENT_LOWAT, tcp(7)). A kernel without this option
// works without the limit.
func limitUnsent(c syscall.RawConn) {
	_ = c.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, maxSocketUnsent)
	})
}

// writeNow writes to a socket what the kernel takes without waiting.
func writeNow(c syscall.RawConn, p []byte) (n int, err error) {
	rawErr := c.Write(func(fd uintptr) bool {
		n, err = unix.Write(int(fd), p)
		return true
	})
	if err == unix.EAGAIN || err == unix.EINTR {
		return 0, nil
	}
	return max(n, 0), errors.Join(err, rawErr)
}

// canWrite reports whether the kernel has room in the buffer of a socket.
func canWrite(c syscall.RawConn) (ok bool) {
	err := c.Control(func(fd uintptr) {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		n, err := unix.Poll(poll, 0)
		ok = err == nil && n == 1 && poll[0].Revents == unix.POLLOUT
	})
	return ok && err == nil
}

// passesDescriptors reports whether a program can inherit more than the three
// standard descriptors (os/exec, Cmd.ExtraFiles).
const passesDescriptors = true

// cpuSeconds returns the processor time that this process has used.
func cpuSeconds() float64 {
	var used unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &used) != nil {
		return 0
	}
	return float64(used.Utime.Nano()+used.Stime.Nano()) / 1e9
}

// levelSignals returns the signals that toggle the level of the log.
func levelSignals() []os.Signal { return []os.Signal{syscall.SIGUSR1} }

// terminalWidth returns the number of columns of the terminal f, and false if f is
// not a terminal.
func terminalWidth(f *os.File) (width int, isTerminal bool) {
	if f == nil {
		return 0, false
	}
	conn, err := f.SyscallConn()
	if err != nil {
		return 0, false
	}
	// Not f.Fd, which would make f block and deadlines fail.
	_ = conn.Control(func(fd uintptr) {
		if size, err := unix.IoctlGetWinsize(int(fd), unix.TIOCGWINSZ); err == nil {
			width, isTerminal = int(size.Col), true
		}
	})
	if isTerminal && width == 0 {
		width = plainWidth
	}
	return width, isTerminal
}
