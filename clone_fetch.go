package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// depthArgs are the options of git fetch for a wanted depth. A complete history
// is never cut off.
func depthArgs(depth int, isNew, isShallow bool) []string {
	switch {
	case depth > 0 && (isNew || isShallow):
		return []string{"--depth=" + strconv.Itoa(depth)}
	case isShallow:
		return []string{"--unshallow"}
	}
	return []string{"--update-shallow"} // the remote may be a shallow clone itself
}

// take fetches the target (args nil: it is there), holds its tree against the
// limits, checks it out and sets refs and configuration. It returns the commit.
func (c *cloner) take(ctx context.Context, job cloneJob, target cloneTarget, w workTree, args []string, bar *cloneProgress) (string, error) {
	from := target.commit
	if args != nil {
		from = targetRef
		if err := c.fetch(ctx, job, target, w, args, bar); err != nil {
			return "", err
		}
	}
	commit, err := w.commitOf(ctx, from)
	if err != nil {
		return "", err
	}
	if commit == "" {
		return "", failure(codeCommitNotFound, "what the remote has at %s is not a commit", target.source)
	}
	oid := target.oid
	if args != nil {
		if oid, err = w.ask(ctx, "rev-parse", "--verify", "--quiet", targetRef); err != nil {
			return "", err
		}
	}
	bar.enter(phaseCheckout)
	if err := c.checkTree(ctx, w, commit); err != nil {
		return "", corruptUnlessFull(err)
	}
	if err := w.checkout(ctx, commit, func(line string) { bar.line(line) }); err != nil {
		return "", err
	}
	if err := w.settle(ctx, target.refs(oid, commit), target.branch, target.defaultBranch); err != nil {
		return "", err
	}
	return commit, w.configure(ctx, job.remote.remoteURL, target.branch)
}

// fetch brings the target to targetRef. A server that hands out only its refs
// is asked for all of them; a dumb one for everything.
func (c *cloner) fetch(ctx context.Context, job cloneJob, target cloneTarget, w workTree, args []string, bar *cloneProgress) error {
	err := c.fetchOnce(ctx, job, w, args, bar, "+"+target.source+":"+targetRef)
	e, ok := errors.AsType[*gitError](err)
	switch {
	case !ok:
		return err
	case strings.Contains(e.stderr, "does not support shallow"):
		err = c.fetchOnce(ctx, job, w, []string{"--update-shallow"}, bar, "+"+target.source+":"+targetRef)
	case strings.Contains(e.stderr, "unadvertised object"):
		if err = c.fetchOnce(ctx, job, w, []string{"--update-shallow"}, bar, "+refs/heads/*:refs/daemon/heads/*", "+refs/tags/*:refs/daemon/tags/*"); err != nil {
			break
		}
		if _, err = w.git.run(ctx, w.command("update-ref", targetRef, target.oid)); err != nil {
			return failure(codeCommitNotFound, "the remote has no commit %s", target.oid)
		}
	case strings.Contains(e.stderr, "not our ref"), strings.Contains(e.stderr, "couldn't find remote ref"):
		return failure(codeCommitNotFound, "the remote has no %s", target.source)
	}
	if e, ok := errors.AsType[*gitError](err); ok && (e.reason == gitCorrupt || e.reason == gitOther) {
		return fmt.Errorf("%w: %w", errRepoCorrupt, err)
	}
	return err
}

func (c *cloner) fetchOnce(ctx context.Context, job cloneJob, w workTree, args []string, bar *cloneProgress, refspecs ...string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	all := append([]string{"fetch", "--progress", "--no-tags", "--force", "--no-recurse-submodules", "--no-auto-maintenance", "--no-write-fetch-head"}, args...)
	cmd := w.in(job.remote.command(append(append(all, "--end-of-options", job.remote.String()), refspecs...)...))
	cmd.config = append(cmd.config, "fetch.unpackLimit=1") // always a pack: they are counted, loose objects are not
	cmd.line = func(line string) {
		if count, ok := bar.line(line); ok && count.bytes > c.cfg.maxBytes {
			cancel(errCloneTooLarge)
		}
	}
	_, err := c.cfg.git.run(ctx, cmd)
	if errors.Is(err, errCloneTooLarge) {
		return gitFailure(gitTooLarge, "the remote sent more than %d bytes (--max-clone-bytes)", c.cfg.maxBytes)
	}
	return err
}

// cloneTarget is what a clone is to stand at, chosen from what the remote
// offers.
type cloneTarget struct {
	source        string // what is fetched: a full ref name, HEAD or an object id
	oid           string // what the remote says it is at
	commit        string // where oid leads, if the remote told; for a branch the same
	branch        string // short, when source is a branch
	tag           string // short, when source is a tag
	defaultBranch string // short; "" when the remote's HEAD is detached
	sha256        bool   // the object format
	empty         bool   // the remote has no commits
}

// pickTarget finds ref, "" or HEAD for the default, among a remote's refs.
func pickTarget(list remoteRefs, ref string) (cloneTarget, error) {
	t := cloneTarget{}
	t.defaultBranch, _ = strings.CutPrefix(list.head, "refs/heads/")
	if len(list.refs) > 0 {
		t.sha256 = len(list.refs[0].oid) == 64
	}
	if ref == "" || ref == "HEAD" {
		return t.pickDefault(list)
	}
	if id := strings.ToLower(ref); isObjectID(id) {
		t.source, t.oid, t.commit, t.sha256 = id, id, id, len(id) == 64
		return t, nil
	}
	for _, name := range []string{"refs/heads/" + ref, "refs/tags/" + ref, ref} {
		if found, ok := list.find(name); ok {
			t.take(found)
			return t, nil
		}
	}
	if strings.Trim(strings.ToLower(ref), "0123456789abcdef") == "" && len(ref) >= 4 {
		return t, failure(codeCommitNotFound, "the remote has no branch or tag %s; a commit must be given by its full id", ref)
	}
	return t, failure(codeCommitNotFound, "the remote has no branch or tag %s", ref)
}

func (t cloneTarget) pickDefault(list remoteRefs) (cloneTarget, error) {
	if found, ok := list.find(list.head); ok {
		t.take(found)
		return t, nil
	}
	switch {
	case list.headOID != "": // detached
		t.source, t.oid, t.commit, t.sha256 = "HEAD", list.headOID, list.headOID, len(list.headOID) == 64
	case len(list.refs) == 0:
		t.empty = true
	default:
		return t, failure(codeCommitNotFound, "the remote's HEAD names a branch without commits: give ref")
	}
	return t, nil
}

func (t *cloneTarget) take(ref remoteRef) {
	t.source, t.oid, t.commit = ref.name, ref.oid, cmp.Or(ref.peeled, ref.oid)
	if branch, ok := strings.CutPrefix(ref.name, "refs/heads/"); ok {
		t.branch = branch
	} else if tag, ok := strings.CutPrefix(ref.name, "refs/tags/"); ok {
		t.tag = tag
	}
}

// refs are those that a clone of the target has, at what was fetched: oid, and
// the commit that it leads to.
func (t cloneTarget) refs(oid, commit string) map[string]string {
	switch {
	case t.branch != "":
		return map[string]string{"refs/heads/" + t.branch: commit, "refs/remotes/origin/" + t.branch: commit}
	case t.tag != "":
		return map[string]string{"refs/tags/" + t.tag: oid}
	}
	return map[string]string{} // HEAD, detached, holds it
}

// maxTreeHeader bounds what stands before a path in the output of git ls-tree.
const maxTreeHeader = 256

var (
	errTreeLimit   = errors.New("the tree is over the limits")
	errTreeCorrupt = errors.New("git ls-tree printed something else")
)

// treeGuard counts the output of git ls-tree -r -t -z --long as it comes, and
// stops git at a limit: 200 KB of objects can stand for ten million files,
// which a checkout would write one by one.
type treeGuard struct {
	maxFiles int
	maxBytes int64

	files, dirs int
	bytes       int64
	missing     int // blobs that are in a tree and not in the repository

	header []byte
	inPath bool
}

func (g *treeGuard) Write(p []byte) (int, error) {
	total := len(p)
	for len(p) > 0 {
		if g.inPath {
			end := bytes.IndexByte(p, 0)
			if end < 0 {
				return total, nil
			}
			p, g.inPath = p[end+1:], false
			continue
		}
		end := bytes.IndexByte(p, '\t')
		part := p
		if end >= 0 {
			part = p[:end]
		}
		if len(g.header)+len(part) > maxTreeHeader {
			return 0, errTreeCorrupt
		}
		g.header = append(g.header, part...)
		if end < 0 {
			return total, nil
		}
		if err := g.entry(); err != nil {
			return 0, err
		}
		p, g.inPath, g.header = p[end+1:], true, g.header[:0]
	}
	return total, nil
}

// entry counts "100644 blob <oid>    1234".
func (g *treeGuard) entry() error {
	fields := bytes.Fields(g.header)
	if len(fields) != 4 {
		return errTreeCorrupt
	}
	switch size := string(fields[3]); {
	case string(fields[1]) == "tree":
		g.dirs++
	case size == "-": // a submodule: an empty directory
		g.files++
	case size == "BAD": // git's word for an object that it cannot read
		g.files++
		g.missing++
	default:
		n, err := strconv.ParseInt(size, 10, 64)
		if err != nil || n < 0 {
			return errTreeCorrupt
		}
		g.files++
		g.bytes += min(n, g.maxBytes+1)
	}
	if g.files > g.maxFiles || g.dirs > g.maxFiles || g.bytes > g.maxBytes {
		return errTreeLimit
	}
	return nil
}

// checkTree holds a commit's tree against the limits before it is checked
// out. A blob that is missing is a *gitError for a corrupt repository.
func (c *cloner) checkTree(ctx context.Context, w workTree, commit string) error {
	guard := &treeGuard{maxFiles: c.cfg.maxFiles, maxBytes: c.cfg.maxBytes}
	cmd := w.command("ls-tree", "-r", "-t", "-z", "--long", "--full-tree", "--end-of-options", commit)
	var stopped error
	cmd.stdout = writerFunc(func(p []byte) (int, error) {
		n, err := guard.Write(p)
		if err != nil {
			stopped = err
		}
		return n, err
	})
	_, err := c.cfg.git.run(ctx, cmd)
	switch {
	case errors.Is(stopped, errTreeLimit):
		return gitFailure(gitTooLarge, "the tree holds more than %d files or directories, or more than %d bytes (--max-clone-files, --max-clone-bytes)", c.cfg.maxFiles, c.cfg.maxBytes)
	case stopped != nil:
		return fmt.Errorf("counting the files of a commit: %w", stopped)
	case err != nil:
		return err
	case guard.missing > 0:
		return &gitError{command: "ls-tree", exit: 0, reason: gitCorrupt, summary: fmt.Sprintf("%d files of the commit are missing from the repository", guard.missing)}
	}
	return nil
}
