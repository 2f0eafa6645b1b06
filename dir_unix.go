//go:build unix

package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// dirHandle is an open directory. Names are looked up from its descriptor and
// symlinks are never followed. So swapping a directory for a symlink during a
// walk cannot lead the walk elsewhere.
type dirHandle struct {
	fd   int
	name string
	file *os.File // owns fd; nil if the handle itself does
	used bool     // names were read from it
}

func dirOf(f *os.File) *dirHandle { return &dirHandle{fd: int(f.Fd()), name: f.Name(), file: f} }

// openDir opens the directory at p.
func (a *access) openDir(p resolvedPath) (*dirHandle, error) {
	f, info, err := a.openFile(p)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		_ = f.Close() // nothing was written
		return nil, invalidParam("path", "is not a directory")
	}
	return dirOf(f), nil
}

//go:noinline // it is called in many places, and each copy counts in the size of a release
func (d *dirHandle) close() {
	if d.file != nil {
		_ = d.file.Close() // nothing was written
	} else {
		_ = unix.Close(d.fd) // likewise
	}
}

// openDir opens the directory called name in d. It does not follow a symlink.
func (d *dirHandle) openDir(name string) (*dirHandle, error) {
	fd, err := retryEINTR(func() (int, error) {
		return unix.Openat(d.fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return newDirHandle(fd, name), nil
}

// openFile opens the regular file called name in d. It does not follow a
// symlink. Nothing else is opened: a pipe has another end that would notice.
func (d *dirHandle) openFile(name string) (*os.File, error) {
	if info, err := d.lstat(name); err != nil {
		return nil, err
	} else if !info.mode.IsRegular() {
		return nil, &fs.PathError{Op: "open", Path: name, Err: errors.ErrUnsupported}
	}
	fd, err := retryEINTR(func() (int, error) {
		return unix.Openat(d.fd, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC|openNonblock, 0)
	})
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	f := os.NewFile(uintptr(fd), name)
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		_ = f.Close() // nothing was written
		return nil, &fs.PathError{Op: "open", Path: name, Err: errors.ErrUnsupported}
	}
	return f, nil
}

// lstatIn and statIn are those of root, which need no permission for the file
// itself.
func lstatIn(root *os.Root, path string) (fs.FileInfo, error) { return root.Lstat(path) }
func statIn(root *os.Root, path string) (fs.FileInfo, error)  { return root.Stat(path) }

// linkMode returns mode, in which every symlink is one.
func linkMode(_ *os.Root, _ string, mode fs.FileMode) fs.FileMode { return mode }

// longName returns the last element of path: a file has no other name here that
// the system makes up.
func longName(_ *os.Root, path string) (string, error) { return filepath.Base(path), nil }

// fileSize returns the size that the file system reports, also for a directory.
func fileSize(info fs.FileInfo) int64 { return info.Size() }

// info describes the directory itself.
func (d *dirHandle) info() (entryInfo, error) {
	var st unix.Stat_t
	if _, err := retryEINTR(func() (int, error) { return 0, unix.Fstat(d.fd, &st) }); err != nil {
		return entryInfo{}, &fs.PathError{Op: "stat", Path: d.name, Err: err}
	}
	return describe(&st), nil
}

// lstat describes the entry called name.
func (d *dirHandle) lstat(name string) (entryInfo, error) {
	var st unix.Stat_t
	_, err := retryEINTR(func() (int, error) {
		return 0, unix.Fstatat(d.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	})
	if err != nil {
		return entryInfo{}, &fs.PathError{Op: "stat", Path: name, Err: err}
	}
	return describe(&st), nil
}

// readlink returns the target of the symlink called name.
func (d *dirHandle) readlink(name string) (string, error) {
	buf := make([]byte, 4096) // PATH_MAX, the longest target on Linux
	n, err := retryEINTR(func() (int, error) { return unix.Readlinkat(d.fd, name, buf) })
	if err != nil {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: err}
	}
	return string(buf[:n]), nil
}

// retryEINTR calls f again while a signal interrupts it, which happens on some
// network file systems.
func retryEINTR(f func() (int, error)) (int, error) {
	for {
		n, err := f()
		if err != syscall.EINTR {
			return n, err
		}
	}
}

// openDirBelow opens the directory called name in root.
func openDirBelow(root *os.Root, name string) (*dirHandle, error) {
	f, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	return dirOf(f), nil
}

// mkdir makes the directory called name in d.
func (d *dirHandle) mkdir(name string) error {
	_, err := retryEINTR(func() (int, error) { return 0, unix.Mkdirat(d.fd, name, 0o777) })
	return err
}

// link gives the file or symbolic link called name in d the same name in to.
func (d *dirHandle) link(name string, to *dirHandle) error {
	_, err := retryEINTR(func() (int, error) {
		return 0, unix.Linkat(d.fd, name, to.fd, name, 0)
	})
	return err
}

// systemPath returns a path from the wire as the system takes it: unchanged.
func systemPath(path string) (string, error) { return path, nil }

// plainPath is for Windows, which has several forms of one path.
func plainPath(path string) string { return path }

// cutPath removes the directory dir from the front of a path.
func cutPath(path, dir string) (rest string, ok bool) { return strings.CutPrefix(path, dir) }

// nameFault returns nothing: a file can have every name.
func nameFault(string) string { return "" }

// sameCase is for Windows, where paths in upper and lower case are the same.
func sameCase(path string) string { return path }

// onVolume is for Windows, where a target can be absolute without a drive.
func onVolume(target, _ string) string { return target }

func describe(st *unix.Stat_t) entryInfo {
	return entryInfo{
		mode:    goMode(uint32(st.Mode)),
		size:    st.Size,
		mtime:   time.Unix(st.Mtim.Unix()),
		id:      fileID{dev: uint64(st.Dev), ino: st.Ino},
		changed: time.Unix(st.Ctim.Unix()),
	}
}

// goMode converts st_mode.
func goMode(mode uint32) fs.FileMode {
	m := fs.FileMode(mode & 0o777)
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
	case unix.S_IFDIR:
		m |= fs.ModeDir
	case unix.S_IFLNK:
		m |= fs.ModeSymlink
	case unix.S_IFIFO:
		m |= fs.ModeNamedPipe
	case unix.S_IFSOCK:
		m |= fs.ModeSocket
	case unix.S_IFCHR:
		m |= fs.ModeDevice | fs.ModeCharDevice
	case unix.S_IFBLK:
		m |= fs.ModeDevice
	default:
		m |= fs.ModeIrregular
	}
	if mode&unix.S_ISUID != 0 {
		m |= fs.ModeSetuid
	}
	if mode&unix.S_ISGID != 0 {
		m |= fs.ModeSetgid
	}
	if mode&unix.S_ISVTX != 0 {
		m |= fs.ModeSticky
	}
	return m
}

// fileIDAt returns the identity of the file at path, zero if it cannot be read.
func fileIDAt(path string) fileID {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return fileID{}
	}
	return describe(&st).id
}
