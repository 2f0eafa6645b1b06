package main

import (
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
