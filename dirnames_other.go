//go:build !linux

package main

import (
	"errors"
	"io"
	"io/fs"
	"os"
)

// direntBatch is the number of names read at a time.
const direntBatch = 512

// eachName calls each for every name in f from where it stands on, and stops at
// each's error.
func eachName(f *os.File, each func(name string, typ fs.FileMode) error) error {
	for {
		names, err := f.Readdirnames(direntBatch)
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
