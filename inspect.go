package main

import (
	"log/slog"
	"slices"
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
	repo := []errorCode{codeAccessDenied, codeRepoNotFound, codeNotConfigured, codeGitFailed}
	commit := slices.Concat(repo, []errorCode{codeCommitNotFound, codeCommitNotAvailable})
	return []*method{
		newMethod("vcs/info", "Tell what a repository is and how it stands.", i.info).fails(repo...),
		newMethod("vcs/refs", "List the references of a repository or a remote, page by page.", i.listRefs).fails(repo...),
		newMethod("vcs/log", "List the commits that a revision leads to, page by page.", i.history).fails(commit...),
		newMethod("index/manifest", "List the files of a commit, page by page.", i.manifest).fails(commit...).fails(codeSourceNotFound),
		newMethod("index/readBlobs", "Read many files of a commit at once.", i.readBlobs).fails(commit...).fails(codeSourceNotFound),
		newMethod("index/diff", "List what differs between two commits, page by page.", i.diff).fails(commit...).fails(codeSourceNotFound),
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
