package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"
)

const (
	// maxAlternateDepth is git's own limit on chains of alternates.
	maxAlternateDepth = 5
	// maxGitPointer bounds the small files that lead from one directory of a
	// repository to another.
	maxGitPointer = 64 << 10
	// maxPackEntries bounds the names looked at in a local object store.
	maxPackEntries = 100_000
)

// checkLocal finds the repository at an allowed path and returns the path with
// its links resolved. Everything that git would read for it must be allowed as
// well: a .git file, a linked worktree's common directory, alternates and
// symbolic links can lead anywhere.
func (r *remotes) checkLocal(path string) (string, error) {
	top, err := r.access.resolvePath(path)
	if err != nil {
		return "", err
	}
	info, err := r.access.stat(top)
	if err != nil {
		return "", err
	}
	if !info.IsDir() {
		return "", failure(codeRepoNotFound, "%s is not a git repository", showName(top.abs))
	}
	gitDir := top
	if dot, err := r.access.resolvePath(filepath.Join(top.abs, ".git")); err != nil {
		return "", err
	} else if info, err := r.access.stat(dot); err == nil {
		if gitDir = dot; !info.IsDir() {
			target, err := r.pointer(dot, "gitdir: ", top.abs)
			if err != nil {
				return "", err
			}
			gitDir = target
		}
	}
	common := gitDir
	if file, err := r.access.resolvePath(filepath.Join(gitDir.abs, "commondir")); err != nil {
		return "", err
	} else if _, err := r.access.stat(file); err == nil {
		if common, err = r.pointer(file, "", gitDir.abs); err != nil {
			return "", err
		}
	}
	for _, name := range []string{"HEAD", "config", "packed-refs", "refs", "shallow"} {
		if _, err := r.access.resolvePath(filepath.Join(common.abs, name)); err != nil {
			return "", err
		}
	}
	if _, err := r.access.stat(mustBeInside(common, "refs")); err != nil {
		return "", failure(codeRepoNotFound, "%s is not a git repository", showName(top.abs))
	}
	return top.abs, r.checkObjects(filepath.Join(common.abs, "objects"), 0)
}

// mustBeInside is a place below p, for a name without links.
func mustBeInside(p place, name string) place {
	return place{root: p.root, rel: filepath.Join(p.rel, name), abs: filepath.Join(p.abs, name)}
}

// pointer follows a file that holds a path, relative to base.
func (r *remotes) pointer(file place, prefix, base string) (place, error) {
	text, err := r.readSmall(file)
	if err != nil {
		return place{}, err
	}
	target, ok := strings.CutPrefix(strings.TrimRight(text, "\r\n"), prefix)
	if !ok || target == "" || strings.ContainsRune(target, 0) {
		return place{}, failure(codeRepoNotFound, "%s leads to no git repository", showName(file.abs))
	}
	if !filepath.IsAbs(target) {
		target = filepath.Join(base, target)
	}
	return r.access.resolvePath(target)
}

// checkObjects wants an object store, its symbolic links and its alternates in
// allowed directories.
func (r *remotes) checkObjects(dir string, depth int) error {
	if depth > maxAlternateDepth {
		return failure(codeAccessDenied, "the repository's alternates are nested too deeply")
	}
	objects, err := r.access.resolvePath(dir)
	if err != nil {
		return err
	}
	for _, sub := range []string{".", "pack", "info"} {
		if err := r.checkLinks(filepath.Join(objects.abs, sub)); err != nil {
			return err
		}
	}
	file, err := r.access.resolvePath(filepath.Join(objects.abs, "info", "alternates"))
	if err != nil {
		return err
	}
	text, err := r.readSmall(file)
	if err != nil {
		if e, ok := errors.AsType[*rpcError](err); ok && e.name() == codeSourceNotFound {
			return nil
		}
		return err
	}
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		if line == "" || line[0] == '#' {
			continue
		}
		if line[0] == '"' {
			return failure(codeAccessDenied, "the repository has an alternate with a quoted name, which is not followed")
		}
		if !filepath.IsAbs(line) {
			line = filepath.Join(objects.abs, line)
		}
		if err := r.checkObjects(line, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// checkLinks wants the symbolic links directly in a directory to stay inside
// the allowed ones.
func (r *remotes) checkLinks(path string) error {
	dir, err := r.access.resolvePath(path)
	if err != nil {
		return err
	}
	f, info, err := r.access.openFile(dir)
	if err != nil || !info.IsDir() {
		if e, ok := errors.AsType[*rpcError](err); ok && e.name() == codeAccessDenied {
			return err
		}
		if err == nil {
			_ = f.Close() // nothing was written
		}
		return nil // git will say what is missing
	}
	defer f.Close()
	entries, err := f.ReadDir(maxPackEntries)
	if err != nil && !errors.Is(err, io.EOF) { // an empty directory
		return fmt.Errorf("reading %s: %w", showName(dir.abs), err)
	}
	if len(entries) == maxPackEntries {
		return failure(codeAccessDenied, "%s has too many files to be checked", showName(dir.abs))
	}
	for _, e := range entries {
		if e.Type()&fs.ModeSymlink == 0 {
			continue
		}
		if _, err := r.access.resolvePath(filepath.Join(dir.abs, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// readSmall reads a file of at most maxGitPointer bytes.
func (r *remotes) readSmall(p place) (string, error) {
	f, info, err := r.access.openFile(p)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if !info.Mode().IsRegular() || info.Size() > maxGitPointer {
		return "", failure(codeRepoNotFound, "%s is no file of a git repository", showName(p.abs))
	}
	data := make([]byte, maxGitPointer)
	n := 0
	for n < len(data) {
		m, err := f.Read(data[n:])
		n += m
		if err != nil || m == 0 {
			break // the end of a file this small
		}
	}
	return string(data[:n]), nil
}
