//go:build !linux

package main

import "os"

// isKernelFile reports whether f is on a kernel file system. Only Linux has
// such files under ordinary paths.
func isKernelFile(*os.File) bool { return false }
