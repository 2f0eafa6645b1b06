package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// unfinishedName returns the start of the temporary names of the file with the
// given name. They are hidden, and a protected prefix stays at the start.
func unfinishedName(name string) string {
	if !strings.HasPrefix(name, ".") {
		name = "." + name
	}
	return name + ".tmp-"
}

// removeUnfinished deletes what killed processes left of writing the file at path.
// No process may be writing it.
func removeUnfinished(path string) error {
	dir := filepath.Dir(path)
	names, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("looking for unfinished files: %w", err)
	}
	unfinished := unfinishedName(filepath.Base(path))
	for _, name := range names {
		// Earlier versions wrote a second dot.
		if !strings.HasPrefix(name.Name(), unfinished) && !strings.HasPrefix(name.Name(), "."+unfinished) || !name.Type().IsRegular() {
			continue
		}
		if err := os.Remove(filepath.Join(dir, name.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("removing an unfinished file: %w", err)
		}
	}
	return nil
}

// writeFileAtomic replaces the file at path. Readers see either the old or the
// new content, and a full disk leaves the old. The file has the mode perm from
// the start, whatever the umask. removeUnfinished deletes what a killed process
// leaves of it.
func writeFileAtomic(path string, data []byte, perm fs.FileMode) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), unfinishedName(filepath.Base(path))+"*") // mode 0600
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			_ = f.Close() // a second close is harmless
			_ = os.Remove(f.Name())
			err = fmt.Errorf("writing %s: %w", path, err)
		}
	}()
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Chmod(perm); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// readRegular reads all of f, at most limit bytes. Other kinds of file may be
// endless or block, so open f with openNonblock.
func readRegular(f *os.File, limit int64) ([]byte, error) {
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, errors.New("not a regular file")
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("larger than %d bytes", limit)
	}
	return data, err
}

// readUntil reads up to the delimiter end and returns the bytes before it,
// which are valid until the next read. It keeps at most limit bytes and skips
// the rest; cut reports that it did. The bound keeps one line of a foreign
// program from filling the memory. At the end of the input it returns io.EOF,
// or io.ErrUnexpectedEOF with the bytes after the last delimiter.
func readUntil(r *bufio.Reader, end byte, limit int) (part []byte, cut bool, err error) {
	var kept []byte
	for {
		piece, err := r.ReadSlice(end)
		if err == nil {
			piece = piece[:len(piece)-1]
		}
		if room := limit - len(kept); len(piece) > room {
			piece, cut = piece[:room], true
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			kept = append(kept, piece...)
			continue
		case kept != nil:
			piece = append(kept, piece...)
		}
		if errors.Is(err, io.EOF) && len(piece) > 0 {
			err = io.ErrUnexpectedEOF
		}
		return piece, cut, err
	}
}
