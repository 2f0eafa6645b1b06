//go:build unix

package main

import (
	"errors"
	"syscall"
)

// openNonblock keeps open from waiting for the other end of a named pipe, and
// from making a terminal ours.
const openNonblock = syscall.O_NONBLOCK | syscall.O_NOCTTY

func isNotDirectory(err error) bool { return errors.Is(err, syscall.ENOTDIR) }
func isNameTooLong(err error) bool  { return errors.Is(err, syscall.ENAMETOOLONG) }
func isLinkLoop(err error) bool     { return errors.Is(err, syscall.ELOOP) }

// isNoDevice tells of an attempt to open a socket.
func isNoDevice(err error) bool {
	return errors.Is(err, syscall.ENXIO) || errors.Is(err, syscall.EOPNOTSUPP)
}
