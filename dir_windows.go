package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/windows"
)

// dirHandle is an open directory. Names are looked up from its handle. Symlinks
// are not followed: lstat detects them, and os.Root refuses those that lead
// outside.
type dirHandle struct{ root *os.Root }

// openDir opens the directory at p.
func (a *access) openDir(p resolvedPath) (*dirHandle, error) {
	f, info, err := a.openFile(p)
	if err != nil {
		return nil, err
	}
	_ = f.Close() // nothing was written
	if !info.IsDir() {
		return nil, invalidParam("path", "is not a directory")
	}
	root, err := p.root.dir.OpenRoot(p.rel)
	if err != nil {
		return nil, a.wireError(err, p.abs)
	}
	return &dirHandle{root: root}, nil
}

//go:noinline // it is called in many places, and each copy counts in the size of a release
func (d *dirHandle) close() { _ = d.root.Close() } // nothing was written

// openDir opens the directory called name in d.
func (d *dirHandle) openDir(name string) (*dirHandle, error) {
	info, err := lstatIn(d.root, name)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return nil, &fs.PathError{Op: "open", Path: name, Err: errors.ErrUnsupported}
	}
	root, err := d.root.OpenRoot(name)
	if err != nil {
		return nil, err
	}
	return &dirHandle{root: root}, nil
}

// openFile opens the regular file called name in d.
func (d *dirHandle) openFile(name string) (*os.File, error) {
	info, err := lstatIn(d.root, name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "open", Path: name, Err: errors.ErrUnsupported}
	}
	return d.root.Open(name)
}

// isKernel returns false: Windows has no such file systems.
func (d *dirHandle) isKernel() bool { return false }

// info describes the directory itself.
func (d *dirHandle) info() (entryInfo, error) { return d.lstat(".") }

// lstat describes the entry called name.
func (d *dirHandle) lstat(name string) (entryInfo, error) {
	info, err := lstatIn(d.root, name)
	if err != nil {
		return entryInfo{}, err
	}
	return entryInfo{mode: linkMode(d.root, name, info.Mode()), size: fileSize(info), mtime: info.ModTime(), changed: info.ModTime()}, nil
}

// lstatIn is root.Lstat, which opens the file. Where another program or the
// permissions prevent that, the directory describes it: a home directory always
// has such files.
func lstatIn(root *os.Root, path string) (fs.FileInfo, error) {
	info, err := root.Lstat(path)
	if isShared(err) || errors.Is(err, fs.ErrPermission) {
		if listed := listedInfo(root, path); listed != nil {
			return listed, nil
		}
	}
	return info, err
}

// statIn is root.Stat for a path without symlinks; see lstatIn.
func statIn(root *os.Root, path string) (fs.FileInfo, error) {
	info, err := root.Stat(path)
	if isShared(err) || errors.Is(err, fs.ErrPermission) {
		if listed := listedInfo(root, path); listed != nil {
			return listed, nil
		}
	}
	return info, err
}

// listedInfo describes the file at path as its directory lists it, or returns nil.
func listedInfo(root *os.Root, path string) fs.FileInfo {
	dir, err := root.Open(filepath.Dir(path))
	if err != nil {
		return nil
	}
	defer dir.Close() // only read
	for {
		entries, err := dir.ReadDir(direntBatch)
		for _, e := range entries {
			if strings.EqualFold(e.Name(), filepath.Base(path)) {
				info, err := e.Info()
				if err != nil {
					return nil
				}
				return info
			}
		}
		if err != nil || len(entries) == 0 {
			return nil
		}
	}
}

// systemPath returns a path from the wire as the system takes it.
func systemPath(path string) (string, error) { return windowsPath(path) }

// plainPath returns a path that the operator gave in the form in which paths are
// compared.
func plainPath(path string) string { return plainWindowsPath(path) }

// cutPath removes the directory dir from the front of a path.
func cutPath(path, dir string) (rest string, ok bool) { return cutWindowsPath(path, dir) }

// nameFault says why a file cannot have the name, or returns "".
func nameFault(name string) string { return windowsNameFault(name) }

// sameCase returns the same text for paths that differ in upper and lower case.
func sameCase(path string) string { return strings.ToLower(path) }

// onVolume completes the target of a symlink that begins with a backslash: it is
// on the same drive as base.
func onVolume(target, base string) string {
	if target != "" && os.IsPathSeparator(target[0]) && !filepath.IsAbs(target) {
		return filepath.VolumeName(base) + target
	}
	return target
}

// linkMode returns the mode of the entry called name in root, for which os
// reports mode. A junction (mount point) is a symlink, as it leads elsewhere; os
// calls it irregular, like other reparse points.
func linkMode(root *os.Root, name string, mode fs.FileMode) fs.FileMode {
	if mode&fs.ModeIrregular == 0 || mode.IsDir() {
		return mode
	}
	if _, err := root.Readlink(name); err != nil {
		return mode
	}
	return mode&^fs.ModeType | fs.ModeSymlink
}

// longName returns the name of the file at path in root as its directory lists
// it. The file system makes up a second, short name (PROGRA~1) for a long one;
// the rules for names hold for the long one.
func longName(root *os.Root, path string) (string, error) {
	name := filepath.Base(path)
	if !strings.Contains(name, "~") {
		return name, nil
	}
	f, err := root.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()           // only its name was asked for
	const withoutVolume = 0x4 // FILE_NAME_NORMALIZED | VOLUME_NAME_NONE
	buf := make([]uint16, windows.MAX_LONG_PATH)
	n, err := windows.GetFinalPathNameByHandle(windows.Handle(f.Fd()), &buf[0], uint32(len(buf)), withoutVolume)
	if err != nil {
		return "", &fs.PathError{Op: "open", Path: path, Err: err}
	}
	long := filepath.Base(windows.UTF16ToString(buf[:n]))
	if strings.EqualFold(long, name) {
		return name, nil
	}
	return long, nil
}

// fileSize returns 0 for a directory: what Windows reports depends on the file
// system and means nothing.
func fileSize(info fs.FileInfo) int64 {
	if info.IsDir() {
		return 0
	}
	return info.Size()
}

// readlink returns the target of the symlink called name.
func (d *dirHandle) readlink(name string) (string, error) { return d.root.Readlink(name) }

// read calls each for every entry of the directory, in no order, and stops at
// the first error from each. It leaves out names that no Windows program can
// open, such as aux or a name with a dot at its end: another system wrote them.
func (d *dirHandle) read(each func(name string, typ fs.FileMode) error) error {
	f, err := d.root.Open(".")
	if err != nil {
		return err
	}
	defer f.Close() // only read
	return eachName(f, func(name string) error {
		if nameFault(name) != "" {
			return nil
		}
		return each(name, typeUnknown)
	})
}

// readInodes is read; the system does not tell inodes.
func (d *dirHandle) readInodes(each func(name string, typ fs.FileMode, inode uint64) error) error {
	return d.read(func(name string, typ fs.FileMode) error { return each(name, typ, 0) })
}

// fileIDAt returns zero: Windows has no cheap identity. openFile compares the
// files themselves.
func fileIDAt(string) fileID { return fileID{} }

// openDirBelow opens the directory called name in root.
func openDirBelow(root *os.Root, name string) (*dirHandle, error) {
	below, err := root.OpenRoot(name)
	if err != nil {
		return nil, err
	}
	return &dirHandle{root: below}, nil
}

// mkdir makes the directory called name in d.
func (d *dirHandle) mkdir(name string) error { return d.root.Mkdir(name, 0o777) }

// link has no form here that cannot be led elsewhere.
func (d *dirHandle) link(string, *dirHandle) error { return errors.ErrUnsupported }

// exchangeNames has no form here.
func exchangeNames(*os.File, string, *os.File, string) error { return errors.ErrUnsupported }

// statBeneath and its like are for Linux, which can look a path up in one step.
func statBeneath(uintptr, string) (entryInfo, uint64, error) {
	return entryInfo{}, 0, errors.ErrUnsupported
}

func statEachBeneath(uintptr, string, []string, func(int, entryInfo, error) bool) error {
	return errors.ErrUnsupported
}

func openBeneath(uintptr, string) (*os.File, fileID, error) {
	return nil, fileID{}, errors.ErrUnsupported
}
