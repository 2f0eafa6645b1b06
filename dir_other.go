//go:build unix && !linux

package main

import (
	"errors"
	"io"
	"io/fs"
)

// direntBatch is the number of names read at a time.
const direntBatch = 512

// read calls each for every entry from the start of the directory on, in no
// order, but for "." and "..". It stops at each's error and returns it. Types
// are not told: lstat does.
func (d *dirHandle) read(each func(name string, typ fs.FileMode) error) error {
	if _, err := d.f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	for {
		names, err := d.f.Readdirnames(direntBatch)
		for _, name := range names {
			if err := each(name, typeUnknown); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF), err == nil && len(names) == 0:
			return nil
		case err != nil:
			return err
		}
	}
}
