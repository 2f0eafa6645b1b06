//go:build linux || darwin

package main

import (
	"syscall"

	"golang.org/x/sys/unix"
)

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
