package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
)

// gitReader implements vcs/* and index/*, which read repositories on this
// machine. It never writes to a repository. Nothing in a repository can make it
// run a program or read outside the allowed directories.
type gitReader struct {
	git     *gitRunner
	access  *access
	remotes *remotes
	log     *slog.Logger

	listings keptLists // of index/manifest
	diffs    keptLists // of index/diff
}

func newGitReader(git *gitRunner, access *access, remotes *remotes, log *slog.Logger) *gitReader {
	return &gitReader{git: git, access: access, remotes: remotes, log: log}
}

// methods returns the vcs/* and index/* rows of the method table.
func (g *gitReader) methods() []*method {
	repo := []errorCode{codeAccessDenied, codeRepoNotFound, codeNotConfigured, codeGitFailed}
	commit := slices.Concat(repo, []errorCode{codeCommitNotFound, codeCommitNotAvailable})
	return []*method{
		newMethod("vcs/info", "Describe a repository and the state of its work tree.", g.info).fails(repo...),
		newMethod("vcs/refs", "List the references of a repository or a remote, page by page.", g.listRefs).fails(repo...),
		newMethod("vcs/log", "List the history of a revision, page by page.", g.history).fails(commit...),
		newMethod("vcs/diff", "Compare two commits, or a commit and the work tree, as patches, page by page.", g.patches).fails(commit...).fails(codeSourceNotFound),
		newMethod("vcs/blame", "Find the commit that each line of a file comes from.", g.blame).fails(commit...).fails(codeSourceNotFound),
		newMethod("index/manifest", "List the files of a commit, page by page.", g.manifest).fails(commit...).fails(codeSourceNotFound),
		newMethod("index/readBlobs", "Read many files of a commit in one request.", g.readBlobs).fails(commit...).fails(codeSourceNotFound),
		newMethod("index/diff", "List the changes between two commits, page by page.", g.diff).fails(commit...).fails(codeSourceNotFound),
	}
}

// open finds the repository that a path belongs to and creates a gitView of it,
// which the caller removes. If a part of the repository disappears meanwhile,
// it is read again.
func (g *gitReader) open(p pathParam, view gitViewKind) (*gitView, error) {
	for attempt := 1; ; attempt++ {
		repo, err := openRepository(g.access, p)
		if err != nil {
			return nil, err
		}
		v, err := repo.gitView(view)
		if !isMissing(err) {
			return v, err
		}
		if attempt == maxRepositoryReads {
			return nil, notRepository(repo.top.abs)
		}
	}
}

// notRepository is the error for a path that belongs to no repository.
func notRepository(path string) *rpcError {
	return failure(codeRepoNotFound, "%s: not in a git repository that this daemon may read", showName(path))
}

const (
	// maxRevision bounds a revision from the wire: a reference name, which is as
	// long as a path, and some operators.
	maxRevision = 4 << 10
	// maxBoundaryCommits bounds how many shallow commits are searched for
	// missing parents.
	maxBoundaryCommits = 1000
)

// checkRevision rejects the parts of gitrevisions(7) that are expensive or
// unsafe: searches through the whole history, the index, and everything that
// git could take for an option or a second line.
func checkRevision(name, rev string) error {
	switch {
	case rev == "":
		return invalidParam(name, "must not be empty")
	case len(rev) > maxRevision:
		return invalidParam(name, "must have at most %d bytes", maxRevision)
	case rev[0] == '-' || rev[0] == '^':
		return invalidParam(name, "a revision must not start with %q", rev[:1])
	case strings.Contains(rev, ".."):
		return invalidParam(name, "must be one revision, not a range")
	case strings.Contains(rev, "@{"):
		return invalidParam(name, "must not use the reflog: give a branch, a tag or a commit id")
	case strings.Contains(rev, "^{/"), strings.Contains(rev, "^@"), strings.Contains(rev, "^!"), strings.Contains(rev, "^-"):
		return invalidParam(name, "must name one commit: a branch, a tag or a commit id, optionally followed by ~ or ^ and a number")
	}
	for i := range len(rev) {
		c := rev[i]
		if c <= ' ' || c == 0x7f || strings.IndexByte(`:?*[\`, c) >= 0 {
			return invalidParam(name, "a revision must not contain %q", c)
		}
	}
	return nil
}

// commitOf resolves a revision to the id of its commit, or "" for HEAD of a
// repository without commits. The error is COMMIT_NOT_FOUND, or
// COMMIT_NOT_AVAILABLE if the commit lies beyond the depth of a shallow clone.
func (g *gitReader) commitOf(ctx context.Context, v *gitView, name, rev string) (string, error) {
	commits, _, err := g.resolve(ctx, v, namedRevision{name, rev})
	if err != nil {
		return "", err
	}
	return commits[0], nil
}

// namedRevision is a revision and the name of its parameter.
type namedRevision struct{ param, rev string }

// resolve resolves several revisions with one git process, like commitOf. It
// also returns the object that each has at the caller's path, which is empty if
// there is no commit or if the path contains a line break and cannot be passed
// to cat-file.
func (g *gitReader) resolve(ctx context.Context, v *gitView, revs ...namedRevision) (commits []string, at []objectInfo, err error) {
	commits, at = make([]string, len(revs)), make([]objectInfo, len(revs))
	direct := !strings.ContainsAny(v.repo.prefix, "\r\n")
	var names []string
	var indexes []int
	for n, r := range revs {
		if err := checkRevision(r.param, r.rev); err != nil {
			return nil, nil, err
		}
		if r.rev == "HEAD" && v.repo.head == "" {
			continue
		}
		if known, ok := v.repo.revs.find(r.rev); ok {
			commits[n], at[n] = known.commit, known.at
			continue
		}
		// A name on standard input cannot be taken for an option. The
		// references are the view's copies, so both lines see the same state.
		names, indexes = append(names, r.rev+"^{commit}"), append(indexes, n)
		if direct {
			names = append(names, r.rev+"^{commit}:"+v.repo.prefix)
		}
	}
	if len(names) == 0 {
		return commits, at, nil
	}
	objects, err := g.lookUp(ctx, v, names)
	if err != nil {
		return nil, nil, err
	}
	for _, n := range indexes {
		if objects[0].kind != "commit" {
			return nil, nil, g.unknownRevision(ctx, v, revs[n].rev)
		}
		commits[n], objects = objects[0].oid, objects[1:]
		if direct {
			at[n], objects = objects[0], objects[1:]
		}
		v.repo.revs.keep(revs[n].rev, knownRevision{commits[n], at[n]})
	}
	return commits, at, nil
}

// maxKnownRevisions bounds the revisions that are known of one repository.
const maxKnownRevisions = 50

// knownRevisions are revisions that git resolved in a state of a repository: they stay
// the same as long as it is kept.
type knownRevisions struct {
	mu    sync.Mutex
	known map[string]knownRevision // guarded by mu
}

// knownRevision is the commit of a revision, and what that has at the caller's path.
type knownRevision struct {
	commit string
	at     objectInfo
}

func (k *knownRevisions) find(rev string) (knownRevision, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	known, ok := k.known[rev]
	return known, ok
}

func (k *knownRevisions) keep(rev string, known knownRevision) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.known == nil || len(k.known) == maxKnownRevisions {
		k.known = map[string]knownRevision{}
	}
	k.known[rev] = known
}

// unknownRevision returns the error for a revision that has no commit here.
func (g *gitReader) unknownRevision(ctx context.Context, v *gitView, rev string) error {
	cut, err := g.isCutOff(ctx, v, rev)
	switch {
	case err != nil:
		return err
	case cut:
		return failure(codeCommitNotAvailable, "%s: lies beyond the depth of this shallow repository: fetch more history (vcs/clone with a larger depth, or 0 for all)", cleanText(rev))
	}
	return failure(codeCommitNotFound, "%s: no such commit in this repository", cleanText(rev))
}

// isCutOff reports whether an unknown revision is cut off by the shallow depth:
// it is an ancestor of a commit that is here, or a parent of a commit whose
// parents are missing.
func (g *gitReader) isCutOff(ctx context.Context, v *gitView, rev string) (bool, error) {
	boundary := strings.Fields(string(v.repo.shallow))
	if len(boundary) == 0 {
		return false, nil
	}
	boundary = boundary[:min(len(boundary), maxBoundaryCommits)]
	for _, oid := range boundary {
		if !isObjectID(oid) {
			return false, nil
		}
	}
	if isObjectID(rev) {
		cut := false
		err := g.git.readObjects(ctx, v.command(), boundary, maxCommitField, func(_ objectInfo, content string) error {
			cut = cut || strings.Contains(content, "\nparent "+rev+"\n")
			return nil
		})
		return cut, err
	}
	at := strings.IndexAny(rev, "~^")
	if at <= 0 {
		return false, nil
	}
	base, err := g.lookUp(ctx, v, []string{rev[:at] + "^{commit}"})
	if err != nil || base[0].kind != "commit" {
		return false, err
	}
	// If no boundary commit is among its ancestors, the history is complete.
	reached := false
	err = g.git.stream(ctx, v.command("rev-list", "--max-parents=0", "--end-of-options", base[0].oid, "--"), func(r *bufio.Reader) error {
		for {
			root, _, err := readUntil(r, '\n', maxObjectLine)
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			reached = reached || bytes.Contains(v.repo.shallow, root)
		}
	})
	return reached, err
}
