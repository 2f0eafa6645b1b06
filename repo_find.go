package main

import (
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
	"time"
)

// openRepository finds and reads the repository that p belongs to: the one at
// p, or in an allowed parent directory. A directory with a .git takes
// precedence over a bare repository below it, as with git's
// safe.bareRepository=explicit, because a bare repository inside a work tree
// may have come with its files.
//
// If a file of the repository disappears while it is read, because git or
// somebody replaces it, the repository is read again.
//
// The result is shared with other requests, which must not change it.
func openRepository(a *access, p pathParam) (*repository, error) {
	path, err := p.text("path")
	if err != nil {
		return nil, err
	}
	if r := a.views.findRepo(path); r != nil {
		return r, nil
	}
	for attempt := 1; ; attempt++ {
		r, err := findRepository(a, path)
		switch {
		case err == nil:
			a.views.keepRepo(path, r)
			return r, nil
		case !isMissing(err):
			return nil, err
		case attempt == maxRepositoryReads:
			return nil, failure(codeRepoNotFound, "%s: parts of the repository disappeared while it was read", showName(path))
		}
	}
}

// maxRepositoryReads bounds the readings of a repository that changes all the
// time.
const maxRepositoryReads = 3

// findRepository finds and reads the repository once. The error is
// SOURCE_NOT_FOUND if a part of it has disappeared.
func findRepository(a *access, path string) (*repository, error) {
	start, err := a.resolvePath(path)
	if err == nil {
		_, err = a.stat(start)
	}
	if e, ok := errors.AsType[*rpcError](err); ok && e.name() == codeSourceNotFound {
		return nil, failure(codeRepoNotFound, "%s", e.Message)
	}
	if err != nil {
		return nil, err
	}
	var found *repository
	for dir, ok := start, true; ok; dir, ok = parentOf(a, dir) {
		r, err := repositoryAt(a, dir)
		if err != nil {
			return nil, err
		}
		if r == nil {
			continue
		}
		// A .git file can name the git directory that was found already.
		if found == nil || r.dotGit && r.gitDir.abs != found.gitDir.abs {
			found = r
		}
		if r.dotGit {
			break
		}
	}
	if found == nil {
		return nil, notRepository(start.abs)
	}
	if err := found.read(); err != nil {
		return nil, err
	}
	found.lookAround(path, start)
	prefix, inside := found.relative(start)
	// Nothing inside a git directory can be listed by path.
	for _, git := range []resolvedPath{found.gitDir, found.common} {
		if rel, err := filepath.Rel(git.abs, start.abs); err == nil && filepath.IsLocal(rel) && (rel != "." || found.dotGit) {
			return nil, insideGitDir(start)
		}
	}
	for part := range strings.SplitSeq(prefix, "/") {
		if strings.EqualFold(part, ".git") {
			return nil, insideGitDir(start)
		}
	}
	// As with git, a path outside the work tree stands for its top.
	if inside {
		found.prefix = prefix
	}
	return found, nil
}

func insideGitDir(start resolvedPath) *rpcError {
	return failure(codeRepoNotFound, "%s: is inside a git directory: give the path of the repository", showName(start.abs))
}

// parentOf returns the parent directory, and false if it is not allowed.
func parentOf(a *access, dir resolvedPath) (resolvedPath, bool) {
	above := filepath.Dir(dir.abs)
	if above == dir.abs {
		return resolvedPath{}, false
	}
	up, err := a.within(above)
	return up, err == nil && up.abs == above
}

// repositoryAt returns the repository that has its .git in dir, or is dir, or
// nil.
func repositoryAt(a *access, dir resolvedPath) (*repository, error) {
	if r, err := workTreeAt(a, dir); r != nil || err != nil {
		return r, err
	}
	if strings.EqualFold(filepath.Base(dir.abs), ".git") {
		return nil, nil // belongs to the directory above
	}
	return gitDirAt(a, dir)
}

// workTreeAt returns the repository whose .git is in dir, or nil.
func workTreeAt(a *access, dir resolvedPath) (*repository, error) {
	name := filepath.Join(dir.rel, ".git")
	if quick := &dir.root.quick; quick.file != nil { // most directories have none: os.Root would open each one above
		if _, _, err := statBeneath(quick.fd, name); errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
	}
	_, err := dir.root.dir.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) || isNotDirectory(err) {
		return nil, nil
	}
	if err != nil {
		return nil, a.wireError(err, dir.abs)
	}
	git, err := gitDirOf(a, dir)
	if err != nil {
		return nil, err
	}
	r, err := layoutOf(a, dir, git)
	if r != nil {
		r.dotGit = true
	}
	return r, err
}

// gitDirAt returns the repository whose git directory is dir, or nil. It is
// usually bare.
func gitDirAt(a *access, dir resolvedPath) (*repository, error) { return layoutOf(a, dir, dir) }

// gitDirOf returns the git directory of the work tree dir: its .git, or the
// directory that a .git file names (gitrepository-layout(5)).
func gitDirOf(a *access, dir resolvedPath) (resolvedPath, error) {
	dotGit, err := a.within(filepath.Join(dir.abs, ".git"))
	if err != nil {
		return resolvedPath{}, err
	}
	info, err := a.stat(dotGit)
	if err != nil || info.IsDir() {
		return dotGit, err
	}
	if !info.Mode().IsRegular() {
		return resolvedPath{}, failure(codeRepoNotFound, "%s: its .git is neither a directory nor a regular file", showName(dir.abs))
	}
	text, err := a.readSmall(dotGit, maxSmallFile)
	if err != nil {
		return resolvedPath{}, err
	}
	target := parseGitFile(string(text))
	if target == "" {
		return resolvedPath{}, failure(codeRepoNotFound, "%s: the .git file does not name a directory", showName(dir.abs))
	}
	git, err := a.within(absoluteFrom(dir.abs, target))
	if err != nil {
		return resolvedPath{}, err
	}
	r, err := layoutOf(a, dir, git)
	if err == nil && r == nil {
		err = failure(codeRepoNotFound, "%s: the .git file names a directory that is not a git directory", showName(dir.abs))
	}
	return git, err
}

// parseGitFile returns the path in a .git file, or "" if the text has another
// format.
func parseGitFile(text string) string {
	target, ok := strings.CutPrefix(strings.TrimRight(text, "\r\n"), "gitdir: ")
	if !ok || strings.ContainsAny(target, "\x00\n") {
		return ""
	}
	return target
}

// layoutOf returns a repository with the locations of its parts if git is a git
// directory, and nil otherwise. Each part must be allowed.
func layoutOf(a *access, top, git resolvedPath) (*repository, error) {
	if _, err := git.root.dir.Lstat(filepath.Join(git.rel, "HEAD")); err != nil {
		return nil, nil
	}
	r := &repository{access: a, top: top, gitDir: git, common: git, seen: &looks{began: time.Now()}}
	if text, err := r.optional(git, "commondir", maxSmallFile); err != nil {
		return nil, err
	} else if text != nil {
		if r.common, err = a.within(absoluteFrom(git.abs, strings.TrimRight(string(text), "\r\n"))); err != nil {
			return nil, err
		}
	}
	for _, name := range []string{"objects", "refs"} {
		part, isDir, err := r.dirAt(filepath.Join(r.common.abs, name))
		if err != nil || !isDir {
			return nil, err
		}
		if name == "objects" {
			r.objects = part
		}
	}
	return r, nil
}

// dirAt returns where a path leads, and whether it is a directory. The error is that
// of a path that is not allowed.
func (r *repository) dirAt(path string) (at resolvedPath, isDir bool, err error) {
	r.look(path, true)
	if at, err = r.access.within(path); err != nil {
		return at, false, err
	}
	info, err := r.access.stat(at)
	return at, err == nil && info.IsDir(), nil
}

// absoluteFrom makes a path absolute that was read from a file in dir.
func absoluteFrom(dir, path string) string {
	path = filepath.FromSlash(path)
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(dir, path)
}
