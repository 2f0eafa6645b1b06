//go:build linux || darwin

package main

import (
	"io"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// lateReader reads from a socket into memory that it borrows when there is
// something to read.
type lateReader struct {
	conn    net.Conn
	raw     syscall.RawConn
	attempt func(fd uintptr) (done bool) // made once, so that a read allocates nothing
	n       int
	err     error
}

// newLateReader returns a reader of a TCP or Unix connection, nil for any other.
func newLateReader(conn net.Conn, memory lender) *lateReader {
	switch conn.(type) {
	case *net.TCPConn, *net.UnixConn:
	default:
		return nil
	}
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		return nil
	}
	r := &lateReader{conn: conn, raw: raw}
	r.attempt = func(fd uintptr) bool {
		for {
			r.n, r.err = unix.Read(int(fd), memory.borrow())
			if r.err != unix.EINTR {
				break
			}
		}
		if r.err == unix.EAGAIN {
			memory.giveBack()
			return false
		}
		return true
	}
	return r
}

// read waits until something can be read, and reads it. Calls must not overlap.
func (r *lateReader) read() (int, error) {
	r.n, r.err = 0, nil
	err := r.raw.Read(r.attempt)
	switch {
	case err != nil:
		return 0, err
	case r.err != nil:
		return 0, &net.OpError{Op: "read", Net: r.conn.LocalAddr().Network(), Source: r.conn.LocalAddr(), Addr: r.conn.RemoteAddr(), Err: os.NewSyscallError("read", r.err)}
	case r.n == 0:
		return 0, io.EOF
	}
	return r.n, nil
}
