package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
)

// executable is the file of this running program, held open from the start: an
// upgrade that replaces or removes it leaves the scheduler with its own version,
// for the daemons that it starts and for the machines that it serves it to.
type executable struct {
	path string // where it was at the start
	file *os.File
	info os.FileInfo
	log  *slog.Logger
	// sum returns the SHA-256 of the file in hexadecimal.
	sum func() (string, error)

	mu     sync.Mutex
	warned bool     // the log says that a restart is due
	copied *tempDir // with a copy, for systems without runningImage
}

// openExecutable opens the file of this program. The caller closes it.
func openExecutable(log *slog.Logger) (*executable, error) {
	path, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding this program, to run it as the daemon: %w", err)
	}
	source := path
	if runningImage != "" {
		source = runningImage // path may have been replaced since this process began
	}
	file, err := os.Open(source)
	if err != nil {
		return nil, fmt.Errorf("opening this program, to run it as the daemon: %w", err)
	}
	info, err := file.Stat()
	if err != nil {
		_ = file.Close() // it was only read
		return nil, fmt.Errorf("opening this program, to run it as the daemon: %w", err)
	}
	e := &executable{path: path, file: file, info: info, log: log}
	e.sum = sync.OnceValues(func() (string, error) {
		hash := sha256.New()
		if _, err := io.Copy(hash, e.reader()); err != nil {
			return "", fmt.Errorf("reading this program: %w", err)
		}
		return hex.EncodeToString(hash.Sum(nil)), nil
	})
	return e, nil
}

// reader reads the file from its beginning, independently of other readers.
func (e *executable) reader() *io.SectionReader {
	return io.NewSectionReader(e.file, 0, e.info.Size())
}

// replaced reports whether another file, or none, is now where the program was:
// a restart is due. The first time it says so in the log.
func (e *executable) replaced() bool {
	info, err := os.Stat(e.path)
	if err == nil && os.SameFile(info, e.info) {
		return false
	}
	e.mu.Lock()
	first := !e.warned
	e.warned = true
	e.mu.Unlock()
	if first {
		e.log.Warn("the program's file was replaced or removed: daemons of the running version are started until a restart, which is due", "path", e.path, "version", programVersion())
	}
	return true
}

// program returns a path at which this very program can be started.
func (e *executable) program() (string, error) {
	switch {
	case !e.replaced():
		return e.path, nil
	case runningImage != "":
		return runningImage, nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.copied == nil {
		dir, err := e.copyTo()
		if err != nil {
			return "", fmt.Errorf("copying this program, whose file was replaced: %w", err)
		}
		e.copied = dir
	}
	return filepath.Join(e.copied.path, daemonName), nil
}

// copyTo writes a copy of the program into a new directory and returns the
// directory.
func (e *executable) copyTo() (*tempDir, error) {
	dir, err := (&tempDirs{}).make(programTemp)
	if err != nil {
		return nil, err
	}
	file, err := os.OpenFile(filepath.Join(dir.path, daemonName), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o700)
	if err == nil {
		_, err = io.Copy(file, e.reader())
		err = errors.Join(err, file.Close())
	}
	if err != nil {
		dir.remove()
		return nil, err
	}
	return dir, nil
}

// close closes the file and removes the copy.
func (e *executable) close() {
	_ = e.file.Close() // it was only read
	if e.copied != nil {
		e.copied.remove()
	}
}
