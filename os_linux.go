package main

import (
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// runningImage is a path to the executable of this process that works even if
// the file was replaced or removed (proc(5)).
const runningImage = "/proc/self/exe"

// Magic numbers of fs/configfs/mount.c, fs/fuse/control.c and ipc/mqueue.c.
const (
	configfsMagic = 0x62656570
	fusectlMagic  = 0x65735543
	mqueueMagic   = 0x19800202
)

// isKernelFile reports whether f is on a kernel file system such as /proc
// instead of a disk: /proc/self/environ would reveal the daemon's secrets.
func isKernelFile(f *os.File) bool { return isKernelFD(int(f.Fd())) }

func isKernelFD(fd int) bool {
	var s unix.Statfs_t
	if err := unix.Fstatfs(fd, &s); err != nil {
		return true
	}
	switch int64(s.Type) {
	case unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.DEBUGFS_MAGIC, unix.TRACEFS_MAGIC,
		unix.SECURITYFS_MAGIC, unix.CGROUP_SUPER_MAGIC, unix.CGROUP2_SUPER_MAGIC, unix.DEVPTS_SUPER_MAGIC,
		unix.BPF_FS_MAGIC, unix.SELINUX_MAGIC, unix.EFIVARFS_MAGIC, unix.NSFS_MAGIC, unix.BINFMTFS_MAGIC,
		unix.PSTOREFS_MAGIC, unix.AUTOFS_SUPER_MAGIC, unix.RDTGROUP_SUPER_MAGIC, unix.SMACK_MAGIC, unix.XENFS_SUPER_MAGIC,
		configfsMagic, fusectlMagic, mqueueMagic:
		return true
	}
	return false
}

// isRemoteFile reports whether f is on a file system whose files others can change
// without this kernel: it describes them as they were some seconds ago.
func isRemoteFile(f *os.File) bool {
	var s unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &s); err != nil {
		return true
	}
	switch int64(s.Type) {
	case unix.NFS_SUPER_MAGIC, unix.SMB_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC, unix.CEPH_SUPER_MAGIC,
		unix.FUSE_SUPER_MAGIC, unix.V9FS_MAGIC, unix.AFS_SUPER_MAGIC, unix.CODA_SUPER_MAGIC, unix.OCFS2_SUPER_MAGIC, unix.NCP_SUPER_MAGIC:
		return true
	}
	return false
}

// kernelMountsBelow returns where the kernel's file systems are mounted below
// dir, relative to it (proc_pid_mountinfo(5)). It looks at no file of a mounted
// file system, which could block.
func kernelMountsBelow(dir string) []string {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil // without /proc the other ones are not mounted either
	}
	var mounts []string
	for line := range strings.Lines(string(text)) {
		before, after, ok := strings.Cut(line, " - ")
		fields, types := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 5 || len(types) < 1 || !isKernelType(types[0]) {
			continue
		}
		rel, err := filepath.Rel(dir, unescapeMount(fields[4]))
		if err == nil && rel != "." && filepath.IsLocal(rel) && !slices.ContainsFunc(mounts, func(above string) bool { return strings.HasPrefix(rel, above+"/") }) {
			mounts = append(mounts, rel)
		}
	}
	return mounts
}

// isKernelType reports whether isKernelFile holds for the files of a file
// system type.
func isKernelType(name string) bool {
	return slices.Contains([]string{
		"proc", "sysfs", "debugfs", "tracefs", "securityfs", "cgroup", "cgroup2", "devpts", "bpf", "selinuxfs", "efivarfs", "nsfs",
		"binfmt_misc", "pstore", "autofs", "resctrl", "smackfs", "xenfs", "configfs", "fusectl", "mqueue",
	}, name)
}

// unescapeMount decodes the octal escapes of white space and backslashes in a
// path of mountinfo.
func unescapeMount(path string) string {
	var b strings.Builder
	for i := 0; i < len(path); i++ {
		if path[i] == '\\' && i+3 < len(path) {
			if c, err := strconv.ParseUint(path[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(path[i])
	}
	return b.String()
}

// residentBytes returns the resident memory of this process (proc_pid_statm(5)), 0
// if it is not known.
func residentBytes() int64 {
	data, err := os.ReadFile("/proc/self/statm")
	fields := strings.Fields(string(data))
	if err != nil || len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.ParseInt(fields[1], 10, 64) // 0 if it is not a number
	return pages * int64(os.Getpagesize())
}

// ignoreConnects has a listening TCP socket ignore the first packet of connections
// (SYN without ACK, RFC 9293, section 3.1), which the clients repeat after a second.
// Handshakes that have begun go on. It is a filter in classic BPF on the TCP segment
// (SO_ATTACH_FILTER, socket(7)).
func ignoreConnects(listening int) error {
	const flags, syn, ack = 13, 0x02, 0x10
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: flags},
		{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: syn | ack},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: syn, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K},
		{Code: unix.BPF_RET | unix.BPF_K, K: math.MaxUint32},
	}
	return unix.SetsockoptSockFprog(listening, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
}
