package main

import (
	"log/slog"
)

// inspector answers what a caller asks about repositories of the machine. It
// never writes to one, and nothing in one runs a program or leads outside the
// allowed directories.
type inspector struct {
	git     *gitRunner
	access  *access
	remotes *remotes
	log     *slog.Logger

	listings listingCache
}

func newInspector(git *gitRunner, access *access, remotes *remotes, log *slog.Logger) *inspector {
	return &inspector{git: git, access: access, remotes: remotes, log: log}
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

// open finds the repository that a path belongs to and makes its shadow, which
// the caller removes.
func (i *inspector) open(p pathParam, view shadowView) (*shadow, error) {
	repo, err := openRepository(i.access, p)
	if err != nil {
		return nil, err
	}
	return repo.shadow(view)
}

// notRepository is the answer for a path that belongs to no repository.
func notRepository(path string) *rpcError {
	return failure(codeRepoNotFound, "%s: not in a git repository that this daemon may read", showName(path))
}
