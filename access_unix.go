//go:build unix

package main

import (
	"errors"
	"syscall"
)

func isNotDirectory(err error) bool { return errors.Is(err, syscall.ENOTDIR) }
func isNameTooLong(err error) bool  { return errors.Is(err, syscall.ENAMETOOLONG) }
func isLinkLoop(err error) bool     { return errors.Is(err, syscall.ELOOP) }

// isNoDevice tells of an attempt to open a socket.
func isNoDevice(err error) bool {
	return errors.Is(err, syscall.ENXIO) || errors.Is(err, syscall.EOPNOTSUPP)
}
