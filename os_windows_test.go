package main

import (
	"fmt"
	"testing"

	"golang.org/x/sys/windows"
)

// A full disk and a used up quota are told to the caller.
func TestWindowsDiskFull(t *testing.T) {
	for _, cause := range []error{windows.ERROR_DISK_FULL, windows.ERROR_HANDLE_DISK_FULL, windows.ERROR_DISK_QUOTA_EXCEEDED} {
		for _, err := range []error{fmt.Errorf("writing: %w", cause), &tempDirError{causes: []error{cause}}} {
			if got := asRPCError(err).Message; got != "the daemon's disk is full: see its log" {
				t.Errorf("%v: got %q, want that the disk is full", err, got)
			}
		}
	}
}
