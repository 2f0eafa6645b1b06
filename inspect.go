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
)

// gitReader answers what a caller asks about repositories of the machine. It
// never writes to one, and nothing in one runs a program or leads outside the
// allowed directories.
type gitReader struct {
	git     *gitRunner
	access  *access
	remotes *remotes
	log     *slog.Logger

	listings listingCache
}

func newGitReader(git *gitRunner, access *access, remotes *remotes, log *slog.Logger) *gitReader {
	return &gitReader{git: git, access: access, remotes: remotes, log: log}
}

// methods are gitReader's rows of the method table.
func (g *gitReader) methods() []*method {
	repo := []errorCode{codeAccessDenied, codeRepoNotFound, codeNotConfigured, codeGitFailed}
	commit := slices.Concat(repo, []errorCode{codeCommitNotFound, codeCommitNotAvailable})
	return []*method{
		newMethod("vcs/info", "Tell what a repository is and how it stands.", g.info).fails(repo...),
		newMethod("vcs/refs", "List the references of a repository or a remote, page by page.", g.listRefs).fails(repo...),
		newMethod("vcs/log", "List the commits that a revision leads to, page by page.", g.history).fails(commit...),
		newMethod("index/manifest", "List the files of a commit, page by page.", g.manifest).fails(commit...).fails(codeSourceNotFound),
		newMethod("index/readBlobs", "Read many files of a commit at once.", g.readBlobs).fails(commit...).fails(codeSourceNotFound),
		newMethod("index/diff", "List what differs between two commits, page by page.", g.diff).fails(commit...).fails(codeSourceNotFound),
	}
}

// open finds the repository that a path belongs to and makes its gitView, which
// the caller removes.
func (g *gitReader) open(p pathParam, view gitViewKind) (*gitView, error) {
	repo, err := openRepository(g.access, p)
	if err != nil {
		return nil, err
	}
	return repo.gitView(view)
}

// notRepository is the answer for a path that belongs to no repository.
func notRepository(path string) *rpcError {
	return failure(codeRepoNotFound, "%s: not in a git repository that this daemon may read", showName(path))
}

const (
	// maxRevision bounds a revision from the wire: a reference name is a path,
	// the rest are operators.
	maxRevision = 1024
	// maxBoundaryCommits bounds the shallow commits that are looked into for
	// the parents that are cut off.
	maxBoundaryCommits = 1000
)

// checkRevision refuses what gitrevisions(7) knows but no caller may ask for:
// searches through the whole history, the index, and everything that could be
// an option or a second line.
func checkRevision(name, rev string) error {
	switch {
	case rev == "":
		return invalidParam(name, "must not be empty")
	case len(rev) > maxRevision:
		return invalidParam(name, "must have at most %d bytes", maxRevision)
	case rev[0] == '-' || rev[0] == '^':
		return invalidParam(name, "a revision does not begin with %q", rev[:1])
	case strings.Contains(rev, ".."):
		return invalidParam(name, "must be one revision, not a range")
	case strings.Contains(rev, "@{"):
		return invalidParam(name, "the reflog is not looked into: give a branch, a tag or a commit id")
	case strings.Contains(rev, "^{/"), strings.Contains(rev, "^@"), strings.Contains(rev, "^!"), strings.Contains(rev, "^-"):
		return invalidParam(name, "must name one commit: a branch, a tag or a commit id, with ~ or ^ and a number behind it")
	}
	for i := range len(rev) {
		c := rev[i]
		if c <= ' ' || c == 0x7f || strings.IndexByte(`:?*[\`, c) >= 0 {
			return invalidParam(name, "a revision has no %q", c)
		}
	}
	return nil
}

// commitOf resolves a revision to the id of its commit, "" for HEAD of a
// repository without commits. The error is COMMIT_NOT_FOUND, or
// COMMIT_NOT_AVAILABLE for one that the shallow depth cut off.
func (g *gitReader) commitOf(ctx context.Context, v *gitView, name, rev string) (string, error) {
	commits, _, err := g.resolve(ctx, v, namedRevision{name, rev})
	if err != nil {
		return "", err
	}
	return commits[0], nil
}

// namedRevision is a revision and the param that it came in.
type namedRevision struct{ param, rev string }

// resolve is commitOf for several revisions, with one git for all, and what
// each has at the caller's path: nothing where it has no commit, or where a
// line break in the path keeps it from being asked for.
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
		// On standard input a name can be nothing but a name. The references are
		// the view's: both lines see the same.
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
	}
	return commits, at, nil
}

// unknownRevision is the error for a revision that has no commit here.
func (g *gitReader) unknownRevision(ctx context.Context, v *gitView, rev string) error {
	cut, err := g.isCutOff(ctx, v, rev)
	switch {
	case err != nil:
		return err
	case cut:
		return failure(codeCommitNotAvailable, "%s: is beyond the depth of this shallow repository: fetch more of its history (vcs/clone with a larger depth, 0 for all)", cleanText(rev))
	}
	return failure(codeCommitNotFound, "%s: no such commit in this repository", cleanText(rev))
}

// isCutOff tells whether an unknown revision is known to have existed: an
// ancestor of a commit that is here, or a parent of one whose parents are not.
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
	// Without the boundary among its ancestors its history is complete here.
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
