package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

const (
	// maxIncludeDepth is how many levels of included configuration git follows.
	maxIncludeDepth = 10
	// maxIncludes bounds the files that one configuration includes: a few lines
	// in each of them would multiply.
	maxIncludes = 100
)

// linkCheck checks the files that git opens by itself in a repository: git
// follows every symlink, and waits for the writer of a FIFO.
type linkCheck struct {
	access     *access
	linkedDirs bool            // a symlink may lead to a directory; below refs git would list one that contains itself until the path is too long
	seen       map[string]bool // directories that were checked: many symlinks can lead to one
	look       func(string)    // called with each path before it is read; may be nil
}

// below returns an error if a symlink below dir leads outside the allowed
// directories, or if a file is not a regular one. depth bounds the directories
// below dir.
func (l *linkCheck) below(dir resolvedPath, depth int) error {
	if depth < 0 {
		return denied()
	}
	if l.seen[dir.abs] {
		return nil
	}
	l.seen[dir.abs] = true
	l.lookAt(dir.abs)
	entries, err := readDir(dir.root.dir, dir.rel)
	if errors.Is(err, fs.ErrNotExist) || isNotDirectory(err) {
		return nil // git repack deletes directories that have become empty
	}
	if err != nil {
		return l.access.wireError(err, dir.abs)
	}
	for _, e := range entries {
		if e.typ.IsRegular() {
			continue
		}
		sub := resolvedPath{root: dir.root, rel: filepath.Join(dir.rel, e.name), abs: filepath.Join(dir.abs, e.name)}
		isDir := e.typ.IsDir()
		switch {
		case e.typ&fs.ModeSymlink != 0:
			l.lookAt(sub.abs)
			if sub, isDir, err = l.follow(sub.abs); err != nil {
				return err
			}
			if isDir && !l.linkedDirs {
				return gitFailure(gitCorrupt, "%s: is a symbolic link to a directory", showName(filepath.Join(dir.abs, e.name)))
			}
		case !isDir:
			return notRegular(sub.abs)
		}
		if isDir {
			if err := l.below(sub, depth-1); err != nil {
				return err
			}
		}
	}
	return nil
}

func (l *linkCheck) lookAt(path string) {
	if l.look != nil {
		l.look(path)
	}
}

// follow returns what the path leads to, and whether that is a directory. It may
// not exist.
func (l *linkCheck) follow(path string) (to resolvedPath, isDir bool, err error) {
	if to, err = l.access.within(path); err != nil {
		return to, false, err
	}
	info, err := l.access.stat(to)
	if err == nil && !info.Mode().IsRegular() && !info.IsDir() {
		return to, false, notRegular(to.abs)
	}
	if err == nil && !info.IsDir() {
		err = l.canRead(to)
	}
	if isMissing(err) {
		return to, false, nil
	}
	return to, err == nil && info.IsDir(), err
}

// canRead returns an error unless the file can be opened and is none of the
// kernel's, which can block and tell what no method may read.
func (l *linkCheck) canRead(p resolvedPath) error {
	f, _, err := l.access.openFile(p)
	if err == nil {
		_ = f.Close() // only read
	}
	return err
}

func notRegular(path string) error {
	return gitFailure(gitCorrupt, "%s: is not a regular file", showName(path))
}

// checkGitDir returns an error unless everything besides objects that git opens in
// the repository lies in an allowed directory and can be read at once. It is for a
// git that uses the repository's own configuration and references: git-upload-pack
// of a local remote, and git status in a submodule.
func (r *repository) checkGitDir() error {
	check := linkCheck{access: r.access, seen: map[string]bool{}}
	config := configCheck{linkCheck: &check, files: map[string]bool{}}
	for _, dir := range []string{r.common.abs, r.gitDir.abs} {
		for _, name := range []string{"HEAD", "shallow", "packed-refs", "index", ".gitattributes", "info/grafts", "info/attributes", "info/exclude", "info/sparse-checkout"} {
			if _, _, err := check.follow(filepath.Join(dir, filepath.FromSlash(name))); err != nil {
				return err
			}
		}
		for _, name := range []string{"config", "config.worktree"} {
			if err := config.file(filepath.Join(dir, name), maxIncludeDepth); err != nil {
				return err
			}
		}
		refs, _, err := check.follow(filepath.Join(dir, "refs"))
		if err == nil {
			err = check.below(refs, maxRefDepth)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// configCheck checks the files that a configuration names.
type configCheck struct {
	*linkCheck
	files map[string]bool // that were checked
}

// file returns an error if the configuration file at path, or a file that it
// includes (git-config(1), INCLUDES), leads outside or is not a regular one. depth
// bounds the included files that include others.
func (c *configCheck) file(path string, depth int) error {
	at, isDir, err := c.follow(path)
	if err != nil || isDir || c.files[at.abs] {
		return err
	}
	c.files[at.abs] = true
	if depth < 0 || len(c.files) > maxIncludes {
		return gitFailure(gitTooLarge, "%s: the configuration includes more files than this daemon follows", showName(path))
	}
	text, err := c.access.readSmall(at, maxConfigFile)
	if isMissing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	settings, _ := parseGitConfig(string(text)) // git reports a syntax error itself, after it has followed what is above
	for _, s := range settings {
		isInclude := s.name == "path" && (s.section == "include" || s.section == "includeif")
		isRules := (s.name == "attributesfile" || s.name == "excludesfile") && s.section == "core"
		if !isInclude && !isRules {
			continue
		}
		switch {
		case s.value == os.DevNull, strings.HasPrefix(s.value, "~/"): // git runs without a HOME
			continue
		case strings.HasPrefix(s.value, "~"), strings.HasPrefix(s.value, "%("):
			err = denied()
		case isInclude:
			err = c.file(absoluteFrom(filepath.Dir(at.abs), s.value), depth-1)
		default:
			_, _, err = c.follow(absoluteFrom(filepath.Dir(at.abs), s.value))
		}
		if e, ok := errors.AsType[*rpcError](err); ok && e.name() == codeAccessDenied {
			return failure(codeAccessDenied, "%s: names a file outside the directories that this daemon may read: %s", showName(at.abs), showName(s.value))
		}
		if err != nil {
			return err
		}
	}
	return nil
}
