package main

import (
	"io"
	"io/fs"
)

// read calls each for every entry of the directory except "." and "..", in no
// order, and stops at the first error from each. Types are unknown: lstat
// reports them.
func (d *dirHandle) read(each func(name string, typ fs.FileMode) error) error {
	if _, err := d.f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return eachName(d.f, func(name string) error { return each(name, typeUnknown) })
}
