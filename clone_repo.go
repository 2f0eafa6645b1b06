package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"sync"
)

// errRepoCorrupt means that git could not work with a repository of the store:
// it is cloned afresh.
var errRepoCorrupt = errors.New("the repository is corrupt")

// clonedRepo is one repository of the store during one run of vcs/clone, which
// holds the lock of its name. Whatever the run has to do, it builds the new
// state in a directory beside the old one and exchanges the two by a rename at
// the end: until then nothing changes for readers, and an error, a cancel or a
// kill at any moment leaves the old state as it was.
type clonedRepo struct {
	*cloner
	cloneJob
	progress *cloneProgress

	action cloneAction
	old    *cloneFacts // repository at the name; nil if there is none that can be used
	target cloneTarget // set by pickTarget
	clean  bool        // the files of the old state are those of its commit
	live   *treeIndex  // index of the old state, if its files were compared with it
	seal   cloneSeal   // of the old state, if it is clean
	temp   string      // name of the new state in the store; "" before it is begun and after it is installed
}

// cloneOrUpdate makes the repository match the wanted ref of the remote.
func (r *clonedRepo) cloneOrUpdate(ctx context.Context) (cloneResult, error) {
	state, err := r.store.stat(r.name)
	if err != nil {
		return cloneResult{}, err
	}
	if state == repoAbsent {
		r.action = actionCloned
		return r.cloneNew(ctx)
	}
	r.action = actionRecloned
	if state == repoBroken {
		return r.cloneNew(ctx)
	}
	r.old, err = r.readFacts()
	if err == nil && r.old.origin != r.remote.key() {
		return r.cloneNew(ctx)
	}
	if err == nil {
		var result cloneResult
		if result, err = r.update(ctx); errors.Is(err, errSpareStays) {
			r.discard()
			result, err = r.update(ctx) // the spare is used up
		}
		if err == nil {
			return result, nil
		}
	}
	if !errors.Is(err, errRepoCorrupt) {
		return cloneResult{}, err
	}
	r.cfg.log.WarnContext(ctx, "the repository is corrupt and is cloned anew", "name", r.name, "error", err)
	return r.cloneNew(ctx)
}

// update starts from the repository at the name. After errRepoCorrupt the caller
// uses cloneNew.
func (r *clonedRepo) update(ctx context.Context) (cloneResult, error) {
	clean, err := r.checkWhileAsking(ctx)
	if err != nil {
		return cloneResult{}, err
	}
	if r.target.empty && r.old.head.commit != "" {
		return r.cloneNew(ctx)
	}
	args, isShallow := []string(nil), r.old.shallow != ""
	upToDate := r.old.hasAll(r.target.refs(r.target.oid, r.target.commit)) && r.old.head.commit == r.target.commit
	if !r.target.empty && !(upToDate && (!isShallow || r.depth == 1)) {
		args = depthArgs(r.depth, r.old.head.commit == "", isShallow)
	}
	want := headState{commit: r.target.commit, branch: r.target.branch}
	if r.target.empty {
		want.branch = r.old.head.branch
	}
	if args == nil && clean && r.old.head == want && r.old.isExactly(r) {
		r.action = actionUnchanged
		r.store.seal(r.name, r.seal)
		return r.result(r.old.head, r.old.shallow, r.findLeftOut(r.name)), nil
	}
	if err := r.carryOver(); err != nil {
		return cloneResult{}, err
	}
	head := want
	if !r.target.empty {
		var links sync.WaitGroup
		var linked error
		if r.clean = clean; clean {
			// Ends when all files are linked, which is waited for before the checkout.
			links.Go(func() { linked = r.linkFiles(ctx) })
		} else if err := r.store.root.RemoveAll(r.temp + "/.git/index"); err != nil {
			return cloneResult{}, fmt.Errorf("leaving out the index: %w", err)
		}
		rev := r.target.commit
		if args != nil {
			if rev, err = r.fetch(ctx, args); err == nil {
				r.target.oid = rev
			}
		}
		if err == nil {
			head, err = r.checkoutWithinLimits(ctx, rev, &links)
		}
		links.Wait()
		if linked != nil && ctx.Err() == nil {
			err = linked
		}
		if err != nil {
			return cloneResult{}, err
		}
	}
	r.action = actionUpdated
	return r.finish(ctx, head)
}

// checkWhileAsking asks the remote for its refs and meanwhile checks that the
// repository at the name is complete. clean reports whether its files are those of
// its commit and its git directory is pristine.
func (r *clonedRepo) checkWhileAsking(ctx context.Context) (clean bool, err error) {
	checking, stop := context.WithCancel(ctx)
	defer stop()
	r.live, r.seal = nil, cloneSeal{stamp: r.old.stamp}
	seal, sealed := r.store.sealOf(r.name, r.old.stamp)
	if !sealed {
		if err := r.carryOver(); err != nil {
			return false, err
		}
	}
	var corrupt error
	var check sync.WaitGroup
	// Ends with its git processes, at the latest when checking is stopped.
	check.Go(func() {
		if sealed {
			clean = r.isUntouched(checking, seal)
		} else {
			clean, corrupt = r.checkWithGit(checking)
		}
	})
	err = r.pickTarget(ctx)
	if err != nil {
		stop()
	}
	check.Wait()
	switch {
	case err != nil:
		return false, err
	case sealed && !clean: // somebody touched it
		if err = r.carryOver(); err == nil {
			clean, err = r.checkWithGit(ctx)
		}
		return clean, err
	}
	return clean, corrupt
}

// checkWithGit is the check where nothing is known of the repository.
func (r *clonedRepo) checkWithGit(ctx context.Context) (clean bool, err error) {
	r.old.pristine = r.old.pristine && r.hasPlainIndex()
	if err := r.checkHistory(ctx); err != nil || !r.old.pristine {
		return false, err
	}
	return r.isClean(ctx)
}

// pickTarget asks the remote for its refs, once in a run.
func (r *clonedRepo) pickTarget(ctx context.Context) error {
	if r.target.known {
		return nil
	}
	mark := r.cfg.access.replaced.mark()
	list, err := r.remote.list(ctx)
	if err != nil {
		return err
	}
	if len(list.refs) == 0 && r.remote.scheme == "file" && r.cfg.access.replacedAt(mark, []string{r.remote.path}) {
		// The old state of a clone that is replaced has no refs while it is removed.
		return failure(codeConflict, "the repository at the URL was cloned or updated while it was read: ask again")
	}
	r.target, err = pickTarget(list, r.ref)
	return err
}

// finish writes refs, HEAD and configuration of the new state and installs it.
// From there on nothing fails: the new state is in its place.
func (r *clonedRepo) finish(ctx context.Context, head headState) (cloneResult, error) {
	if err := r.setRefs(head); err != nil {
		return cloneResult{}, err
	}
	if r.old != nil && r.old.packs >= maxPacks {
		if err := r.pack(ctx); err != nil {
			return cloneResult{}, err
		}
	}
	shallow, err := r.readFile("shallow")
	if err != nil {
		return cloneResult{}, err
	}
	if r.action == actionUpdated && r.old.head == head && r.old.shallow == shallow {
		r.action = actionUnchanged // local edits were discarded
	}
	missing := r.findLeftOut(r.temp)
	seal := r.newSeal()
	if ctx.Err() != nil {
		return cloneResult{}, context.Cause(ctx)
	}
	if err := r.install(); err != nil {
		return cloneResult{}, err
	}
	r.store.seal(r.name, seal)
	return r.result(head, shallow, missing), nil
}

// install exchanges the new state with the old one, which is then removed. If the
// removal fails, the next daemon does it.
func (r *clonedRepo) install() error {
	ended := r.cfg.access.replaced.begin(r.store.path(r.name))
	replaced, err := r.store.install(r.temp, r.name)
	ended()
	if err != nil {
		return err
	}
	if replaced {
		if err := r.store.retire(r.temp, r.name, r.clean, r.seal.dirs); err != nil {
			r.cfg.log.Warn("removing an old repository failed", "name", r.name, "error", err)
		}
	}
	r.temp = ""
	return nil
}

// result describes the repository.
func (r *clonedRepo) result(head headState, shallow string, missing []leftOut) cloneResult {
	result := cloneResult{
		Path: r.store.path(r.name), Name: r.name, URL: r.remote.String(), Action: r.action,
		IsEmpty: head.commit == "", IsShallow: shallow != "", LeftOut: missing,
	}
	if r.old != nil {
		result.PreviousCommit = optionalString(r.old.head.commit)
	}
	if head.branch != "" {
		result.Branch = &head.branch
	}
	if head.commit != "" {
		result.Commit = &head.commit
	}
	return result
}

// discard removes a new state that was not installed. If that fails, the next
// daemon does it.
func (r *clonedRepo) discard() {
	if r.temp == "" {
		return
	}
	if err := r.store.remove(r.temp); err != nil {
		r.cfg.log.Warn("removing a temporary directory failed", "error", err)
	}
	r.temp = ""
}

// command prepares a git command on the new state.
func (r *clonedRepo) command(args ...string) gitCommand { return r.in(gitCommand{args: args}, r.temp) }

// in makes c work with the new state's git directory on the files of the
// repository called name. Git never runs in a git directory that others could
// write to. Naming it keeps git from looking further up, and from refusing a
// volume of another user.
func (r *clonedRepo) in(c gitCommand, name string) gitCommand {
	c.dir, c.gitDir, c.workTree = r.store.path(name), r.store.path(r.temp+"/.git"), r.store.path(name)
	c.env = append(c.env, r.owner)
	return c
}

// git runs a local command that only reads the old state. Whatever git reports
// means that the repository is corrupt, unless the disk is full or a signal ended
// git.
func (r *clonedRepo) git(ctx context.Context, c gitCommand) error {
	_, err := r.cfg.git.run(ctx, c)
	if e, ok := errors.AsType[*gitError](err); ok && e.reason != gitDiskFull && e.reason != gitTooLarge && e.exit != -1 {
		return fmt.Errorf("%w: %w", errRepoCorrupt, err)
	}
	return err
}

// corruptIfGitSaysSo returns the error of a command that writes. It can fail for
// many reasons that a fresh clone would meet again, such as a file name that is
// too long for the file system.
func corruptIfGitSaysSo(err error) error {
	if e, ok := errors.AsType[*gitError](err); ok && e.reason == gitCorrupt {
		return fmt.Errorf("%w: %w", errRepoCorrupt, err)
	}
	return err
}

// maxCommitsWalked is how many commits checkHistory looks at: some milliseconds.
const maxCommitsWalked = 1000

// checkHistory returns an error when objects of the old commits are missing, or
// when the history ends where it should not: a shallow clone that lost the file
// .git/shallow looks like a full one.
func (r *clonedRepo) checkHistory(ctx context.Context) error {
	if r.old.head.commit == "" {
		return nil
	}
	return r.git(ctx, r.command("rev-list", "--objects", "--quiet", "--max-count="+strconv.Itoa(maxCommitsWalked), "--end-of-options", r.old.head.commit, "--"))
}

// isClean reports whether the files at the name are those of the old commit and
// no others are there. A submodule is an empty directory: git does not look into
// one, for it would run there. As in git with core.trustctime off, an edit that
// keeps a file's size, inode and modification time is not seen; only a program that
// sets the time back makes one.
func (r *clonedRepo) isClean(ctx context.Context) (bool, error) {
	clean := true
	c := r.in(gitCommand{args: []string{"status", "--porcelain", "-z", "--untracked-files=all", "--ignored", "--ignore-submodules=all", "--no-renames"}}, r.name)
	c.stdout = writerFunc(func(p []byte) (int, error) {
		clean = false
		return len(p), nil
	})
	if err := r.git(ctx, c); err != nil || !clean {
		return false, err
	}
	return !r.hasOthers(ctx), nil
}

// maxPacks is how many fetches are kept apart before they are packed together:
// each slows down every lookup a little.
const maxPacks = 40

// pack puts the packs of the new state together and drops what no ref needs.
func (r *clonedRepo) pack(ctx context.Context) error {
	c := r.command("gc", "-q", "--prune=now")
	c.config = []string{"gc.writeCommitGraph=false", "gc.packRefs=false", "repack.updateServerInfo=false"} // files that carryOver would not know
	_, err := r.cfg.git.run(ctx, c)
	return corruptIfGitSaysSo(err)
}

// headState is where a repository stands.
type headState struct {
	commit string // "" without commits
	branch string // short; "" when detached
}

// hasAll reports whether all these refs are there.
func (f *cloneFacts) hasAll(refs map[string]string) bool {
	for name, oid := range refs {
		if f.refs[name] != oid {
			return false
		}
	}
	return true
}

// isExactly reports whether refs and configuration are what the run would write.
func (f *cloneFacts) isExactly(r *clonedRepo) bool {
	want := r.target.refs(r.target.oid, r.target.commit)
	return maps.Equal(f.refs, want) && maps.Equal(f.symrefs, r.target.symrefs()) && f.config == r.config(f.settings, f.head.branch)
}
