package main

import (
	"fmt"

	"golang.org/x/sys/windows"
)

// statDisk looks at the disk of path.
func statDisk(path string) (diskUsage, error) {
	var available, total, free uint64
	name, err := windows.UTF16PtrFromString(path)
	if err == nil {
		err = windows.GetDiskFreeSpaceEx(name, &available, &total, &free)
	}
	if err != nil {
		return diskUsage{Path: path}, fmt.Errorf("looking at the disk of %s: %w", path, err)
	}
	return newDiskUsage(path, 1, total, free, available), nil
}
