//go:build !linux

package main

import (
	"errors"
	"io"
	"os"
)

// runningImage is empty: only Linux has such a path.
const runningImage = ""

// isKernelFile reports whether f is on a kernel file system. Only Linux has
// such files under ordinary paths.
func isKernelFile(*os.File) bool { return false }

// isRemoteFile is for Linux, which alone has quick look-ups.
func isRemoteFile(*os.File) bool { return true }

// kernelMountsBelow returns nothing: see isKernelFile.
func kernelMountsBelow(string) []string { return nil }

// direntBatch is the number of names read at a time.
const direntBatch = 512

// eachName calls each for every remaining name in f and stops at the first
// error from each.
func eachName(f *os.File, each func(name string) error) error {
	for {
		names, err := f.Readdirnames(direntBatch)
		for _, name := range names {
			if err := each(name); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF), err == nil && len(names) == 0:
			return nil
		case err != nil:
			return err
		}
	}
}

// residentBytes returns 0: only Linux says it in a file.
func residentBytes() int64 { return 0 }

func ignoreConnects(int) error { return errors.ErrUnsupported }
