//go:build !linux && !darwin

package main

import "syscall"

// limitUnsent does nothing: there is no such option here.
func limitUnsent(syscall.RawConn) {}
