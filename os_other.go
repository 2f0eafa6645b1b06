//go:build !linux

package main

import "os"

// isKernelFile tells whether f is the kernel's own talk, not a file on a disk.
// Only Linux keeps such files under ordinary paths.
func isKernelFile(*os.File) bool { return false }
