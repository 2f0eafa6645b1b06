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

// secretPrefix is the start of the names of the daemon's own files, which hold
// credentials and configuration. No method reads, lists or writes them.
const secretPrefix = ".git-daemon."

// tempPattern is the name of a temporary file for path, as os.CreateTemp takes
// it. It has the prefix that every method denies, because the file holds the same
// secrets as the one that it becomes.
func tempPattern(path string) string {
	return secretPrefix + strings.TrimPrefix(filepath.Base(path), secretPrefix) + ".tmp-*"
}

// removeTemporaries removes what processes that were killed in writeFileAtomic
// left beside path. No other process may be writing the file.
func removeTemporaries(path string) error {
	former := "." + filepath.Base(path) + ".tmp-*" // as earlier versions called them
	dir, err := os.ReadDir(filepath.Dir(path))
	errs := []error{err}
	for _, entry := range dir {
		for _, pattern := range []string{tempPattern(path), former} {
			if strings.HasPrefix(entry.Name(), strings.TrimSuffix(pattern, "*")) && entry.Type().IsRegular() {
				errs = append(errs, os.Remove(filepath.Join(filepath.Dir(path), entry.Name())))
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("removing temporary files of %s: %w", path, err)
	}
	return nil
}

// writeFileAtomic replaces the file at path. Readers see either the old or the
// new content, and a full disk leaves the old. The file has the mode perm from
// the start, whatever the umask. removeTemporaries deletes what a killed process
// leaves of it.
func writeFileAtomic(path string, data []byte, perm fs.FileMode) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), tempPattern(path)) // mode 0600
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
	return replaceFile(f.Name(), path)
}

// renameIn is root.Rename that waits for other programs where they can keep a
// file or a directory from being renamed (Windows).
//
//go:noinline // each copy counts in the size of a release
func renameIn(root *os.Root, from, to string) error {
	return retryShared(func() error { return root.Rename(from, to) })
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

// maxGivenFile bounds a file that the operator names: a token, or the certificates
// of all known authorities.
const maxGivenFile = 16 << 20

// readGiven reads a file that the operator names. It may be a pipe, such as the
// shell's <(command); the program waits for its writer.
func readGiven(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxGivenFile+1))
	if err == nil && len(data) > maxGivenFile {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxGivenFile)
	}
	return data, err
}

// readRegularAt is readRegular for the file at path.
func readRegularAt(path string, limit int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|openNonblock, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readRegular(f, limit)
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
