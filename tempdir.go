package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// tempFallback is the directory in a work dir that takes the temporary files
	// when TMPDIR does not.
	tempFallback = ".git-daemon.tmp"
	// maxTempTries bounds how often a new directory may be removed by a program
	// that starts at the same moment, which hardly happens twice by chance.
	maxTempTries = 10
	// unlockedTempAge is the age at which a temporary directory counts as left
	// behind where locks cannot tell. No call takes that long.
	unlockedTempAge = 7 * 24 * time.Hour
)

// tempPatterns are the patterns (os.MkdirTemp) of all temporary directories.
const (
	inspectTemp = "c4a-inspect-*"
	emptyTemp   = "c4a-empty-*"
	callTemp    = "c4a-call-*"
	probeTemp   = "c4a-probe-*"
	programTemp = "c4a-program-*"
)

// tempDirs makes the temporary directories of a program: in TMPDIR or, where that
// is missing or not writable, in the work dir.
type tempDirs struct {
	workDir string // "" for none

	mu     sync.Mutex
	parent string // of the last directory; "" before the first
}

// tempDir is a temporary directory. It is locked, so that other processes leave it
// alone for as long as this one lives; the lock also keeps systemd-tmpfiles(8)
// away.
type tempDir struct {
	path string
	lock *os.File
}

// parents returns the directories to try.
func (t *tempDirs) parents() []string {
	temp := os.TempDir()
	if abs, err := filepath.Abs(temp); err == nil {
		temp = abs // git runs elsewhere
	}
	parents := []string{temp}
	if t.workDir != "" {
		parents = append(parents, filepath.Join(t.workDir, tempFallback))
	}
	return parents
}

// make creates a temporary directory; the caller removes it. The error says what
// to do.
func (t *tempDirs) make(pattern string) (*tempDir, error) {
	var causes []error
	for i, parent := range t.parents() {
		if i > 0 {
			if err := os.Mkdir(parent, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
				causes = append(causes, err)
				continue
			}
		}
		dir, err := makeTempDir(parent, pattern)
		if err == nil {
			t.use(parent)
			return dir, nil
		}
		causes = append(causes, err)
	}
	return nil, &tempDirError{causes}
}

// errNoTempDir reports that no directory takes temporary files.
var errNoTempDir = errors.New("creating a temporary directory")

// tempDirError is an errNoTempDir with a cause for each directory that was tried.
// It hides their kind, except for a full disk: a missing TMPDIR is not a missing
// file of a request.
type tempDirError struct{ causes []error }

func (e *tempDirError) Error() string {
	var text []string
	for _, cause := range e.causes {
		text = append(text, cause.Error())
	}
	return fmt.Sprintf("%v: %s: set TMPDIR to a writable directory", errNoTempDir, strings.Join(text, "; "))
}

func (e *tempDirError) Is(target error) bool {
	return target == errNoTempDir || isDiskFull(target) && errors.Is(errors.Join(e.causes...), target)
}

func (t *tempDirs) use(parent string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.parent = parent
}

// dir returns an existing directory for the temporary files of other programs: the
// one that took the last temporary directory, if it still exists. It is the root
// directory when there is none.
func (t *tempDirs) dir() string {
	for _, parent := range append([]string{t.last()}, t.parents()...) {
		if info, err := os.Stat(parent); err == nil && info.IsDir() {
			return parent
		}
	}
	return string(filepath.Separator)
}

func (t *tempDirs) last() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.parent
}

// probe creates a temporary directory and removes it again.
func (t *tempDirs) probe() error {
	dir, err := t.make(probeTemp)
	if err == nil {
		dir.remove()
	}
	return err
}

// makeTempDir creates and locks a directory in parent.
func makeTempDir(parent, pattern string) (*tempDir, error) {
	for range maxTempTries {
		path, err := os.MkdirTemp(parent, pattern)
		if err != nil {
			return nil, err
		}
		lock, held, err := lockTempDir(path)
		if held || errors.Is(err, fs.ErrNotExist) {
			continue // a sweep has got it
		}
		return &tempDir{path: path, lock: lock}, nil // without a lock where there are none
	}
	return nil, fmt.Errorf("the directories in %s are removed as soon as they are made", parent)
}

// lockTempDir locks the directory at path, if the system locks directories. held
// reports that another process has the lock. lock is nil without one.
func lockTempDir(path string) (lock *os.File, held bool, err error) {
	lock, err = os.OpenFile(path, os.O_RDONLY|openNonblock, 0)
	if err != nil {
		return nil, false, err
	}
	held, err = tryLock(lock)
	if err == nil && !held {
		mine, err1 := lock.Stat()
		named, err2 := os.Lstat(path)
		if err1 == nil && err2 == nil && os.SameFile(mine, named) {
			return lock, false, nil
		}
		err = fs.ErrNotExist
	}
	_ = lock.Close() // a directory: nothing was written
	return nil, held, err
}

// remove deletes the directory.
func (d *tempDir) remove() {
	_ = os.RemoveAll(d.path) // the next sweep takes what is left
	if d.lock != nil {
		_ = d.lock.Close() // a directory: nothing was written
	}
}

// sweep deletes the temporary directories that killed processes have left, until
// ctx ends.
func (t *tempDirs) sweep(ctx context.Context, log *slog.Logger) {
	for _, parent := range t.parents() {
		names, err := os.ReadDir(parent)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
			continue // then nothing of ours is there
		}
		for _, name := range names {
			if name.IsDir() && isTempName(name.Name()) {
				err = errors.Join(err, sweepTempDir(ctx, parent, name))
			}
		}
		if err != nil && ctx.Err() == nil {
			log.Debug("deleting old temporary directories failed", "dir", parent, "error", err)
		}
	}
}

func isTempName(name string) bool {
	return slices.ContainsFunc([]string{inspectTemp, emptyTemp, callTemp, probeTemp, programTemp}, func(pattern string) bool {
		return strings.HasPrefix(name, strings.TrimSuffix(pattern, "*"))
	})
}

// sweepTempDir deletes a directory that no process uses.
func sweepTempDir(ctx context.Context, parent string, name fs.DirEntry) error {
	lock, held, err := lockTempDir(filepath.Join(parent, name.Name()))
	switch {
	case held:
		return nil
	case err != nil:
		info, err := name.Info()
		if err != nil || time.Since(info.ModTime()) < unlockedTempAge {
			return err
		}
	default:
		defer lock.Close()
	}
	root, err := os.OpenRoot(parent)
	if err != nil {
		return err
	}
	defer root.Close()
	return removeTree(ctx, root, name.Name())
}

// maxRemoveDepth bounds the directories that removeTree holds open.
const maxRemoveDepth = 64

// ownerRights let the owner of a directory list and change it.
const ownerRights = 0o700

// removeTree is root.RemoveAll that stops when ctx ends, and empties directories that
// were made read-only. Trees that are deeper
// than maxRemoveDepth are deleted from there on in one go.
//
//go:noinline // each copy counts in the size of a release
func removeTree(ctx context.Context, root *os.Root, name string) error {
	return removeTreeAt(ctx, root, name, 0)
}

func removeTreeAt(ctx context.Context, root *os.Root, name string, depth int) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	err := root.Remove(name)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	info, statErr := root.Lstat(name)
	if statErr != nil || !info.IsDir() || depth == maxRemoveDepth {
		return root.RemoveAll(name)
	}
	if info.Mode()&ownerRights != ownerRights {
		_ = root.Chmod(name, ownerRights) // else nothing in it can be removed, which is an error below
	}
	dir, err := root.OpenRoot(name)
	if err != nil {
		return root.RemoveAll(name) // a directory that may not be read
	}
	err = removeEntries(ctx, dir, depth)
	_ = dir.Close() // nothing was written; Windows keeps the name of an open directory
	if err != nil {
		return err
	}
	return root.RemoveAll(name)
}

// removeEntries deletes what is in dir.
func removeEntries(ctx context.Context, dir *os.Root, depth int) error {
	names, err := fs.ReadDir(dir.FS(), ".")
	if err != nil {
		return err
	}
	for _, child := range names {
		if err := removeTreeAt(ctx, dir, child.Name(), depth+1); err != nil {
			return err
		}
	}
	return nil
}
