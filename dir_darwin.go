package main

import (
	"errors"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// newDirHandle returns the handle of a descriptor, with a file: only that reads names.
func newDirHandle(fd int, name string) *dirHandle { return dirOf(os.NewFile(uintptr(fd), name)) }

// isKernel returns false: macOS has no such file systems under ordinary paths.
func (d *dirHandle) isKernel() bool { return false }

// read calls each for every entry of the directory except "." and "..", in no
// order, and stops at the first error from each. Types are unknown: lstat
// reports them.
func (d *dirHandle) read(each func(name string, typ fs.FileMode) error) error {
	if _, err := d.file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return eachName(d.file, func(name string) error { return each(name, typeUnknown) })
}

// readInodes is read with the inode of each entry.
func (d *dirHandle) readInodes(each func(name string, typ fs.FileMode, inode uint64) error) error {
	return d.read(func(name string, _ fs.FileMode) error {
		info, err := d.lstat(name)
		if err != nil {
			return nil // removed since
		}
		return each(name, info.mode.Type(), info.id.ino)
	})
}

// exchangeNames swaps what two names stand for, in one step (renameatx_np(2));
// errors.ErrUnsupported where the file system cannot.
func exchangeNames(fromDir *os.File, from string, toDir *os.File, to string) error {
	_, err := retryEINTR(func() (int, error) {
		return 0, unix.RenameatxNp(int(fromDir.Fd()), from, int(toDir.Fd()), to, unix.RENAME_SWAP)
	})
	if err == unix.EINVAL || err == unix.ENOTSUP {
		return errors.ErrUnsupported
	}
	return err
}

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
