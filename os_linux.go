package main

import (
	"os"

	"golang.org/x/sys/unix"
)

// runningImage is a path to the executable of this process that works even if
// the file was replaced or removed (proc(5)).
const runningImage = "/proc/self/exe"

// isKernelFile reports whether f is on a kernel file system such as /proc
// instead of a disk: /proc/self/environ would reveal the daemon's secrets.
func isKernelFile(f *os.File) bool {
	var s unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &s); err != nil {
		return true
	}
	switch int64(s.Type) {
	case unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.DEBUGFS_MAGIC, unix.TRACEFS_MAGIC,
		unix.SECURITYFS_MAGIC, unix.CGROUP_SUPER_MAGIC, unix.CGROUP2_SUPER_MAGIC, unix.DEVPTS_SUPER_MAGIC,
		unix.BPF_FS_MAGIC, unix.SELINUX_MAGIC, unix.EFIVARFS_MAGIC, unix.NSFS_MAGIC:
		return true
	}
	return false
}
