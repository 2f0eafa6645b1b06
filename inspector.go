package main

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"path/filepath"
	"strings"
)

// inspector answers what a caller asks about repositories of the machine. It
// never writes to one, and nothing in one runs a program or leads outside the
// allowed directories.
type inspector struct {
	git    *gitRunner
	access *access
	log    *slog.Logger

	// lsRemote is the output of git ls-remote --symref for a URL, which it
	// checks; nil where the daemon speaks to no remotes.
	lsRemote func(ctx context.Context, url string) ([]byte, error)

	listings listingCache
}

func newInspector(git *gitRunner, access *access, log *slog.Logger) *inspector {
	return &inspector{git: git, access: access, log: log}
}

// methods are the inspector's rows of the method table.
func (i *inspector) methods() []*method {
	return []*method{
		newMethod("vcs/info", "What a repository is and how it stands.", i.info),
		newMethod("vcs/refs", "The references of a repository or a remote.", i.listRefs),
		newMethod("vcs/log", "The commits that a revision leads to.", i.history),
		newMethod("index/manifest", "The files of a commit.", i.manifest),
		newMethod("index/readBlobs", "The contents of many files of a commit at once.", i.readBlobs),
		newMethod("index/diff", "What differs between two commits.", i.diff),
	}
}

// notRepository is the answer for a path that belongs to no repository.
func notRepository(path string) *rpcError {
	return failure(codeRepoNotFound, "%s: not in a git repository that this daemon may read", showName(path))
}

// open finds the repository that p belongs to: the one at p, or in a parent
// directory that is allowed too. A directory with a .git counts before a bare
// repository below it, as with git's safe.bareRepository=explicit: a bare one
// inside somebody's work tree came with its files.
func (i *inspector) open(p pathParam) (*repository, error) {
	start, err := i.access.resolve(p)
	if err == nil {
		_, err = i.access.stat(start)
	}
	if e, ok := errors.AsType[*rpcError](err); ok && e.name() == codeSourceNotFound {
		return nil, failure(codeRepoNotFound, "%s", e.Message)
	}
	if err != nil {
		return nil, err
	}
	var found *repository
	for dir, ok := start, true; ok; dir, ok = i.parent(dir) {
		r, err := i.repositoryAt(dir)
		if err != nil {
			return nil, err
		}
		if r != nil && (found == nil || !r.bare) {
			found = r
		}
		if r != nil && !r.bare {
			break
		}
	}
	if found == nil {
		return nil, notRepository(start.abs)
	}
	rel, err := filepath.Rel(found.top.abs, start.abs)
	if err != nil || !filepath.IsLocal(rel) {
		return nil, notRepository(start.abs)
	}
	if rel != "." {
		found.prefix = filepath.ToSlash(rel)
	}
	// Inside a git directory there is nothing to list by path.
	for part := range strings.SplitSeq(found.prefix, "/") {
		if strings.EqualFold(part, ".git") || part != "" && found.bare {
			return nil, failure(codeRepoNotFound, "%s: lies inside a git directory: give the path of the repository", showName(start.abs))
		}
	}
	if err := found.read(); err != nil {
		return nil, err
	}
	return found, nil
}

// parent is the directory above, unless that is not allowed.
func (i *inspector) parent(dir place) (place, bool) {
	above := filepath.Dir(dir.abs)
	if above == dir.abs {
		return place{}, false
	}
	up, err := i.access.within(above)
	return up, err == nil && up.abs == above
}

// repositoryAt is the repository whose top is dir, nil when it is none.
func (i *inspector) repositoryAt(dir place) (*repository, error) {
	_, err := dir.root.dir.Lstat(filepath.Join(dir.rel, ".git"))
	if err == nil {
		git, err := i.gitDirOf(dir)
		if err != nil {
			return nil, err
		}
		if r, err := i.layout(dir, git); r != nil || err != nil {
			return r, err
		}
	} else if !errors.Is(err, fs.ErrNotExist) && !isNotDirectory(err) {
		return nil, i.access.wireError(err, dir.abs)
	}
	if strings.EqualFold(filepath.Base(dir.abs), ".git") {
		return nil, nil // belongs to the directory above
	}
	r, err := i.layout(dir, dir)
	if r != nil {
		r.bare = true
	}
	return r, err
}

// gitDirOf is what the .git of dir is or, as a file, names
// (gitrepository-layout(5)).
func (i *inspector) gitDirOf(dir place) (place, error) {
	dotGit, err := i.access.within(filepath.Join(dir.abs, ".git"))
	if err != nil {
		return place{}, err
	}
	info, err := i.access.stat(dotGit)
	if err != nil || info.IsDir() {
		return dotGit, err
	}
	text, err := i.access.readSmall(dotGit, maxSmallFile)
	if err != nil {
		return place{}, err
	}
	target, ok := strings.CutPrefix(strings.TrimRight(string(text), "\r\n"), "gitdir: ")
	if !ok || target == "" {
		return place{}, failure(codeRepoNotFound, "%s: its .git file does not name a git directory", showName(dir.abs))
	}
	git, err := i.access.within(absoluteFrom(dir.abs, target))
	if err != nil {
		return place{}, err
	}
	r, err := i.layout(dir, git)
	if err == nil && r == nil {
		err = failure(codeRepoNotFound, "%s: its .git file names a directory that is no git directory", showName(dir.abs))
	}
	return git, err
}

// layout tells whether git is a git directory, and where its parts lie; each
// must be allowed. nil when it is none.
func (i *inspector) layout(top, git place) (*repository, error) {
	if _, err := git.root.dir.Lstat(filepath.Join(git.rel, "HEAD")); err != nil {
		return nil, nil
	}
	r := &repository{access: i.access, top: top, gitDir: git, common: git}
	if text, err := r.optional(git, "commondir", maxSmallFile); err != nil {
		return nil, err
	} else if text != nil {
		if r.common, err = i.access.within(absoluteFrom(git.abs, strings.TrimRight(string(text), "\r\n"))); err != nil {
			return nil, err
		}
	}
	for _, name := range []string{"objects", "refs"} {
		if _, err := r.common.root.dir.Lstat(filepath.Join(r.common.rel, name)); err != nil {
			return nil, nil
		}
		part, err := i.access.within(filepath.Join(r.common.abs, name))
		if err != nil {
			return nil, err
		}
		if info, err := i.access.stat(part); err != nil || !info.IsDir() {
			return nil, nil
		}
		if name == "objects" {
			r.objects = part
		}
	}
	return r, nil
}

// absoluteFrom is a path as written in a file of dir.
func absoluteFrom(dir, path string) string {
	path = filepath.FromSlash(path)
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(dir, path)
}
