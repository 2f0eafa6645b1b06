package main

import (
	"errors"
	"io/fs"
	"os"
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

func (d *dirHandle) close() { _ = d.root.Close() } // nothing was written

// openDir opens the directory called name in d.
func (d *dirHandle) openDir(name string) (*dirHandle, error) {
	info, err := d.root.Lstat(name)
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
	info, err := d.root.Lstat(name)
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
	info, err := d.root.Lstat(name)
	if err != nil {
		return entryInfo{}, err
	}
	return entryInfo{mode: info.Mode(), size: info.Size(), mtime: info.ModTime()}, nil
}

// readlink returns the target of the symlink called name.
func (d *dirHandle) readlink(name string) (string, error) { return d.root.Readlink(name) }

// read calls each for every entry of the directory, in no order, and stops at
// the first error from each.
func (d *dirHandle) read(each func(name string, typ fs.FileMode) error) error {
	f, err := d.root.Open(".")
	if err != nil {
		return err
	}
	defer f.Close() // only read
	return eachName(f, func(name string) error { return each(name, typeUnknown) })
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
