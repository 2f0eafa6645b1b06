package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
)

// This file is the workspace on the disk: one directory for each lib_id. All of
// it is reached through an os.Root, so that a symlink in it cannot lead a
// deletion elsewhere.

const (
	// maxLibID leaves room, in a file name's 255 bytes, for trashPrefix.
	maxLibID = 128
	// librariesFile holds the bindings of libraries, beside the work dirs.
	librariesFile = "libraries.json"
	// trashPrefix begins the names of directories that are being deleted: no lib_id
	// begins with a dot.
	trashPrefix = ".deleted-"
	// writableFile is written and removed to check that the workspace takes files.
	writableFile = ".writable"
)

// errRemoved reports a directory that does not exist.
var errRemoved = errors.New("there is no such directory")

// validLibID reports whether id can be the name of a directory on every system
// and is not one of our own.
func validLibID(id string) bool {
	if id == "" || len(id) > maxLibID || id[0] == '.' || id[0] == '-' || id == librariesFile {
		return false
	}
	for i := range len(id) {
		c := id[i]
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && !strings.ContainsRune("._-", rune(c)) {
			return false
		}
	}
	return true
}

// machineIDOf returns the machine_id of a library's daemon in the pool.
func machineIDOf(libID string) string { return cloudPrefix + libID }

func checkLibID(id string) error {
	if validLibID(id) {
		return nil
	}
	return &apiError{code: codeInvalidLibID, status: http.StatusBadRequest,
		message: fmt.Sprintf("a lib_id is 1 to %d of A-Z a-z 0-9 . _ -, does not start with . or - and is not %s", maxLibID, librariesFile)}
}

// foldsCase reports whether root's file system finds a file by its name in
// another case.
func foldsCase(root *os.Root) bool {
	a, err1 := root.Lstat(lockFileName)
	b, err2 := root.Lstat(strings.ToUpper(lockFileName))
	return err1 == nil && err2 == nil && os.SameFile(a, b)
}

// errSameName refuses libID where the file system takes it for other.
func errSameName(libID, other string) *apiError {
	return &apiError{code: codeInvalidLibID, status: http.StatusBadRequest,
		message: fmt.Sprintf("the file system cannot tell %s from %s, which is there already", libID, other)}
}

// sameName returns another entry's lib_id that differs from libID only in case.
func (s *poolState) sameName(libID string) string {
	for other := range s.entries {
		if other != libID && strings.EqualFold(other, libID) {
			return other
		}
	}
	return ""
}

// checkSameName refuses libID beside a directory whose name differs only in
// case: its daemon would work in there. It needs no lock: as long as libID has
// an entry, no such directory is made.
func (p *pool) checkSameName(libID string) error {
	if !p.folds {
		return nil
	}
	names, err := fs.ReadDir(p.root.FS(), ".")
	if err != nil {
		return fmt.Errorf("reading the workspace: %w", err)
	}
	for _, name := range names {
		if name.Name() != libID && strings.EqualFold(name.Name(), libID) {
			return errSameName(libID, name.Name())
		}
	}
	return nil
}

// makeWorkDir makes libID's directory, or takes the one that is there. A link or
// a file of that name is refused. The error is an *apiError where the file
// system cannot tell libID from another.
func (p *pool) makeWorkDir(libID string) error {
	if err := p.checkSameName(libID); err != nil {
		return err
	}
	err := p.root.Mkdir(libID, 0o700)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("making the work dir: %w", err)
	}
	info, err := p.root.Lstat(libID)
	if err != nil {
		return fmt.Errorf("opening the work dir: %w", err)
	}
	if !info.IsDir() {
		return fmt.Errorf("opening the work dir: %s is not a directory: remove it", p.workDir(libID))
	}
	if info.Mode().Perm() != 0o700 {
		if err := p.root.Chmod(libID, 0o700); err != nil {
			return fmt.Errorf("making the work dir private: %w", err)
		}
	}
	return nil
}

func (p *pool) workDir(libID string) string { return filepath.Join(p.workspace, libID) }

// removeWorkDir deletes libID's directory. It is renamed first: a scheduler that
// is killed meanwhile leaves no half of it to the next daemon. A symlink is
// removed, not followed.
func (p *pool) removeWorkDir(libID string) error {
	trash := trashPrefix + libID
	if err := p.root.RemoveAll(trash); err != nil {
		return fmt.Errorf("deleting the work dir of %s: %w", libID, err)
	}
	err := p.root.Rename(libID, trash)
	if errors.Is(err, fs.ErrNotExist) {
		return errRemoved
	}
	if err == nil {
		err = p.root.RemoveAll(trash)
	}
	if err != nil {
		return fmt.Errorf("deleting the work dir of %s: %w", libID, err)
	}
	return nil
}

// emptyTrash deletes the directories that a killed scheduler was deleting, until
// ctx ends: they may hold millions of files.
func (p *pool) emptyTrash(ctx context.Context) {
	names, err := fs.ReadDir(p.root.FS(), ".")
	for _, name := range names {
		if strings.HasPrefix(name.Name(), trashPrefix) {
			err = errors.Join(err, removeTree(ctx, p.root, name.Name()))
		}
	}
	if err != nil && ctx.Err() == nil {
		p.log.Warn("deleting the remains of deleted work dirs failed", "error", err)
	}
}

// writable returns why the workspace takes no files, nil if it does.
func (p *pool) writable() error {
	named, err := os.Stat(p.workspace)
	if err != nil {
		return fmt.Errorf("checking the workspace: %w", err)
	}
	own, err := p.root.Stat(".")
	if err != nil {
		return fmt.Errorf("checking the workspace: %w", err)
	}
	if !os.SameFile(own, named) {
		return fmt.Errorf("another directory has taken the place of the workspace %s: restart the scheduler", p.workspace)
	}
	f, err := p.root.OpenFile(writableFile, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("writing to the workspace: %w", err)
	}
	_, err = f.WriteString("x") // a full disk still makes empty files
	err = errors.Join(err, f.Close())
	if removeErr := p.root.Remove(writableFile); !errors.Is(removeErr, fs.ErrNotExist) {
		err = errors.Join(err, removeErr) // another check may have removed it
	}
	if err != nil {
		return fmt.Errorf("writing to the workspace: %w", err)
	}
	return nil
}
