//go:build linux || darwin

package main

import (
	"fmt"

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
