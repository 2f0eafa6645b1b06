//go:build !linux && !darwin

package main

// statDisk looks at the disk of path.
func statDisk(path string) (diskUsage, error) { return diskUsage{Path: path}, errNotSupported }
