package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// direntBufferSize is the buffer of getdents64(2): few system calls for a large
	// directory, little memory for a deep walk.
	direntBufferSize = 32 << 10
	// firstDirents is the buffer for the first names: it is on the stack, and most
	// directories need no other.
	firstDirents = 4 << 10
	maxDirent    = 280 // bytes of an entry with a name of 255
)

// newDirHandle returns the handle of a descriptor. An os.File would cost two more
// system calls: it asks whether it can wait for the descriptor.
func newDirHandle(fd int, name string) *dirHandle { return &dirHandle{fd: fd, name: name} }

// isKernel reports whether the directory is on a file system of the kernel.
func (d *dirHandle) isKernel() bool { return isKernelFD(d.fd) }

// read calls each for every entry of the directory except "." and "..", in no
// order, and stops at the first error from each.
func (d *dirHandle) read(each func(name string, typ fs.FileMode) error) error {
	return d.readInodes(func(name string, typ fs.FileMode, _ uint64) error { return each(name, typ) })
}

// readInodes is read with the inode of each entry, which is 0 where the system does
// not tell.
func (d *dirHandle) readInodes(each func(name string, typ fs.FileMode, inode uint64) error) error {
	if d.used {
		if _, err := unix.Seek(d.fd, 0, 0); err != nil {
			return &fs.PathError{Op: "seek", Path: d.name, Err: err}
		}
	}
	d.used = true
	var first [firstDirents]byte
	buf := first[:]
	for {
		n, err := retryEINTR(func() (int, error) { return unix.Getdents(d.fd, buf) })
		if err != nil {
			return &fs.PathError{Op: "readdir", Path: d.name, Err: err}
		}
		if n <= 0 {
			return nil
		}
		for rest := buf[:n]; len(rest) > 0; {
			const header = int(unsafe.Offsetof(unix.Dirent{}.Name))
			if len(rest) < header {
				return fmt.Errorf("reading directory %s: short entry", d.name)
			}
			size := int(binary.NativeEndian.Uint16(rest[unsafe.Offsetof(unix.Dirent{}.Reclen):]))
			if size < header || size > len(rest) {
				return fmt.Errorf("reading directory %s: entry of %d bytes", d.name, size)
			}
			name, typ := string(rest[header:size]), rest[unsafe.Offsetof(unix.Dirent{}.Type)]
			inode := binary.NativeEndian.Uint64(rest)
			rest = rest[size:]
			if i := strings.IndexByte(name, 0); i >= 0 {
				name = name[:i]
			}
			if name == "." || name == ".." || name == "" {
				continue
			}
			if err := each(name, direntType(typ), inode); err != nil {
				return err
			}
		}
		if len(buf) == firstDirents && n > firstDirents-maxDirent {
			buf = make([]byte, direntBufferSize)
		}
	}
}

// direntType converts d_type.
func direntType(typ byte) fs.FileMode {
	switch typ {
	case unix.DT_REG:
		return 0
	case unix.DT_DIR:
		return fs.ModeDir
	case unix.DT_LNK:
		return fs.ModeSymlink
	case unix.DT_FIFO:
		return fs.ModeNamedPipe
	case unix.DT_SOCK:
		return fs.ModeSocket
	case unix.DT_CHR:
		return fs.ModeDevice | fs.ModeCharDevice
	case unix.DT_BLK:
		return fs.ModeDevice
	}
	return typeUnknown // some file systems do not report it
}

// exchangeNames swaps what two names stand for, in one step (renameat2(2));
// errors.ErrUnsupported where the kernel or the file system cannot.
func exchangeNames(fromDir *os.File, from string, toDir *os.File, to string) error {
	_, err := retryEINTR(func() (int, error) {
		return 0, unix.Renameat2(int(fromDir.Fd()), from, int(toDir.Fd()), to, unix.RENAME_EXCHANGE)
	})
	if err == unix.EINVAL || err == unix.ENOSYS {
		return errors.ErrUnsupported
	}
	return err
}

// statBeneath describes the file called rel below a directory, and returns the
// number of its hard links. It fails for symlinks and for other mounts, and with
// errors.ErrUnsupported where the kernel (before 5.6) or a filter of system calls
// does not know openat2(2).
func statBeneath(dir uintptr, rel string) (info entryInfo, links uint64, err error) {
	file, err := openat2Beneath(dir, rel, unix.O_PATH)
	if err == unix.ENOSYS || err == unix.EPERM {
		return info, 0, errors.ErrUnsupported
	}
	if err != nil {
		return info, 0, err
	}
	var st unix.Stat_t
	err = unix.Fstat(file, &st)
	_ = unix.Close(file) // nothing was written
	return describe(&st), uint64(st.Nlink), err
}

// statEachBeneath calls each with the description of each of the files in the directory
// called rel below a directory, until it returns false. It fails like statBeneath, but
// describes symlinks and other mounts.
func statEachBeneath(dir uintptr, rel string, names []string, each func(n int, info entryInfo, err error) bool) error {
	at, err := openat2Beneath(dir, rel, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer unix.Close(at) // nothing was written
	for n, name := range names {
		var st unix.Stat_t
		err := unix.Fstatat(at, name, &st, unix.AT_SYMLINK_NOFOLLOW)
		if !each(n, describe(&st), err) {
			break
		}
	}
	return nil
}

// openBeneath opens the file called rel below a directory for reading, and returns
// its identity. It fails like statBeneath.
func openBeneath(dir uintptr, rel string) (file *os.File, id fileID, err error) {
	fd, err := openat2Beneath(dir, rel, unix.O_RDONLY|uint64(openNonblock))
	if err != nil {
		return nil, id, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		_ = unix.Close(fd) // only read
		return nil, id, err
	}
	return os.NewFile(uintptr(fd), rel), describe(&st).id, nil
}

func openat2Beneath(dir uintptr, rel string, flags uint64) (int, error) {
	return unix.Openat2(int(dir), rel, &unix.OpenHow{
		Flags:   flags | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	})
}
