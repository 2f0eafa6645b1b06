package main

import (
	"io"
	"io/fs"
)

// read calls each for every entry from the start of the directory on, in no
// order, but for "." and "..". It stops at each's error and returns it. Types
// are not told: lstat does.
func (d *dirHandle) read(each func(name string, typ fs.FileMode) error) error {
	if _, err := d.f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return eachName(d.f, each)
}
