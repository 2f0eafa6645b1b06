package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"sync"
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

// checkoutWithinLimits checks rev out, once the files are linked that links stands
// for, and meanwhile holds its tree against the limits, which ends the checkout: that
// reads the whole tree before it writes the first file. HEAD is detached then.
func (r *clonedRepo) checkoutWithinLimits(ctx context.Context, rev string, links *sync.WaitGroup) (headState, error) {
	r.progress.enter(phaseCheckout)
	running, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var counting sync.WaitGroup
	var counted error
	counting.Go(func() { // ends with git
		if counted = r.checkTree(running, rev); counted != nil {
			stop(counted)
		}
	})
	links.Wait()
	err := r.checkout(running, rev)
	counting.Wait()
	if counted != nil {
		err = counted
	}
	if err != nil {
		return headState{}, r.unlessNoCommit(ctx, rev, err)
	}
	text, err := r.readFile("HEAD")
	if err != nil {
		return headState{}, err
	}
	commit, _ := parseRefFile(text)
	if commit == "" {
		return headState{}, fmt.Errorf("%w: git checkout left no commit in HEAD", errRepoCorrupt)
	}
	return headState{commit: commit, branch: r.target.branch}, nil
}

// unlessNoCommit is the error of working with rev: COMMIT_NOT_FOUND when that is
// a tree or a file.
func (r *clonedRepo) unlessNoCommit(ctx context.Context, rev string, err error) error {
	if _, failed := errors.AsType[*gitError](err); !failed {
		return err
	}
	_, asked := r.cfg.git.run(ctx, r.command("rev-parse", "--verify", "--quiet", "--end-of-options", rev+"^{commit}"))
	if e, ok := errors.AsType[*gitError](asked); ok && e.exit == 1 {
		return failure(codeCommitNotFound, "what the remote has at %s is not a commit", r.target.source)
	}
	return corruptIfGitSaysSo(err)
}

// parallelFrom is the number of files from which a checkout is shared among
// workers; starting them costs more than a hundred files do.
const parallelFrom = 100

// checkout makes the files of the new state those of commit. Only files that the
// old state left clean are there.
func (r *clonedRepo) checkout(ctx context.Context, commit string) error {
	c := r.command("checkout", "--progress", "--force", "--detach", commit, "--")
	c.config = []string{
		"advice.detachedHead=false",
		"core.protectHFS=true",
		"core.protectNTFS=true", // a tree is the same danger on every system
		"checkout.workers=" + strconv.Itoa(runtime.GOMAXPROCS(0)),
		"checkout.thresholdForParallelism=" + strconv.Itoa(parallelFrom),
	}
	c.env = append(c.env, "GIT_PROGRESS_DELAY=0") // else silent for two seconds
	c.line = func(line string) { r.progress.line(line) }
	_, err := r.cfg.git.run(ctx, c)
	return err
}

// fetch brings the target and returns the object that the remote has there. It asks
// for the object that was listed, which saves a list (gitprotocol-v2(5)), and for the
// ref if that is gone. A server that hands out only its refs is asked for all of them;
// a dumb one for everything.
func (r *clonedRepo) fetch(ctx context.Context, args []string) (oid string, err error) {
	one := "+" + r.target.source + ":" + targetRef
	err = r.fetchOnce(ctx, args, "+"+r.target.oid+":"+targetRef)
	e, ok := errors.AsType[*gitError](err)
	if ok && r.target.oid != r.target.source && e.reason == gitNotFound {
		err = r.fetchOnce(ctx, args, one)
		e, ok = errors.AsType[*gitError](err)
	}
	switch {
	case !ok:
	case strings.Contains(e.stderr, "does not support shallow"):
		err = r.fetchOnce(ctx, []string{"--update-shallow"}, one)
	case strings.Contains(e.stderr, "unadvertised object"):
		if err = r.fetchOnce(ctx, []string{"--update-shallow"}, "+refs/heads/*:refs/daemon/heads/*", "+refs/tags/*:refs/daemon/tags/*"); err == nil {
			return r.target.oid, nil
		}
	case strings.Contains(e.stderr, "not our ref"), strings.Contains(e.stderr, noRemoteRef):
		return "", failure(codeCommitNotFound, "the remote has no %s", r.target.source)
	}
	if e, ok := errors.AsType[*gitError](err); ok && e.reason == gitCorrupt && !strings.Contains(e.stderr, "fsck error") {
		return "", fmt.Errorf("%w: %w", errRepoCorrupt, err)
	}
	if err != nil {
		return "", err
	}
	text, err := r.readFile(targetRef)
	if err != nil {
		return "", err
	}
	if oid, _ = parseRefFile(text); oid == "" {
		return "", fmt.Errorf("%w: git fetch left no %s", errRepoCorrupt, targetRef)
	}
	return oid, nil
}

func (r *clonedRepo) fetchOnce(ctx context.Context, args []string, refspecs ...string) error {
	all := append([]string{"fetch", "--progress", "--no-tags", "--force", "--no-recurse-submodules", "--no-auto-maintenance", "--no-write-fetch-head"}, args...)
	cmd := r.in(r.remote.command(append(append(all, "--end-of-options", r.remote.String()), refspecs...)...), r.temp)
	cmd.config = append(cmd.config, "fetch.unpackLimit=1") // always a pack: they are counted, loose objects are not
	return r.receive(ctx, cmd)
}

// receive runs a command that brings objects, and ends it at the limit.
func (r *clonedRepo) receive(ctx context.Context, cmd gitCommand) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	cmd.line = func(line string) {
		if count, ok := r.progress.line(line); ok && count.bytes > r.cfg.maxBytes {
			cancel(errCloneTooLarge)
		}
	}
	_, err := r.cfg.git.run(ctx, cmd)
	if errors.Is(context.Cause(ctx), errCloneTooLarge) { // git may have ended by itself meanwhile
		return gitFailure(gitTooLarge, "the remote sent more than %d bytes (--max-clone-bytes)", r.cfg.maxBytes)
	}
	return err
}

// cloneTarget is the ref or commit to clone, chosen from the refs of the remote.
type cloneTarget struct {
	source        string // argument of the fetch: a full ref name, HEAD or an object id
	oid           string // object that the remote has there
	commit        string // commit that oid leads to, if the remote sent it; for a branch oid itself
	branch        string // short, when source is a branch
	tag           string // short, when source is a tag
	defaultBranch string // short; "" when the remote's HEAD is detached
	known         bool   // the remote was asked
	sha256        bool   // the object format
	empty         bool   // the remote has no commits
}

// pickTarget finds ref, "" or HEAD for the default, among a remote's refs.
func pickTarget(list remoteRefs, ref string) (cloneTarget, error) {
	t := cloneTarget{known: true}
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
			t.set(found)
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
		t.set(found)
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

// set makes a ref the target.
func (t *cloneTarget) set(ref remoteRef) {
	t.source, t.oid, t.commit = ref.name, ref.oid, cmp.Or(ref.peeled, ref.oid)
	if branch, ok := strings.CutPrefix(ref.name, "refs/heads/"); ok {
		t.branch = branch
	} else if tag, ok := strings.CutPrefix(ref.name, "refs/tags/"); ok {
		t.tag = tag
	}
}

// refs returns the refs of a clone of the target by name, where oid was fetched and
// leads to commit.
func (t cloneTarget) refs(oid, commit string) map[string]string {
	switch {
	case t.branch != "":
		return map[string]string{"refs/heads/" + t.branch: commit, "refs/remotes/origin/" + t.branch: commit}
	case t.tag != "":
		return map[string]string{"refs/tags/" + t.tag: oid}
	}
	return map[string]string{} // HEAD, detached, holds it
}

// symrefs are the symbolic refs of a clone of the target.
func (t cloneTarget) symrefs() map[string]string {
	if t.branch == "" || t.branch != t.defaultBranch {
		return map[string]string{}
	}
	return map[string]string{originHead: "refs/remotes/origin/" + t.branch}
}

// maxTreeHeader bounds the fields before a path in the output of git ls-tree.
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
func (r *clonedRepo) checkTree(ctx context.Context, commit string) error {
	guard := &treeGuard{maxFiles: r.cfg.maxFiles, maxBytes: r.cfg.maxBytes}
	cmd := r.command("ls-tree", "-r", "-t", "-z", "--long", "--full-tree", "--end-of-options", commit)
	var stopped error
	cmd.stdout = writerFunc(func(p []byte) (int, error) {
		n, err := guard.Write(p)
		if err != nil {
			stopped = err
		}
		return n, err
	})
	_, err := r.cfg.git.run(ctx, cmd)
	switch {
	case errors.Is(stopped, errTreeLimit):
		return gitFailure(gitTooLarge, "the tree holds more than %d files or directories, or more than %d bytes (--max-clone-files, --max-clone-bytes)", r.cfg.maxFiles, r.cfg.maxBytes)
	case stopped != nil:
		return fmt.Errorf("counting the files of a commit: %w", stopped)
	case err != nil:
		return err
	case guard.missing > 0:
		return &gitError{command: "ls-tree", exit: 0, reason: gitCorrupt, summary: fmt.Sprintf("%d files of the commit are missing from the repository", guard.missing)}
	}
	return nil
}
