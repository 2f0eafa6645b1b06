package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

const (
	// targetRef receives what is fetched: a name of our own, so that no branch
	// of the remote can stand in its way (feat against feat/sub).
	targetRef = "refs/daemon/target"
	// originHead names the remote's default branch (git-remote(1), set-head).
	originHead = "refs/remotes/origin/HEAD"
	// parallelFrom is the number of files from which a checkout is shared among
	// workers; starting them costs more than a hundred files do.
	parallelFrom = 100
	// maxPacks is how many fetches are kept apart before they are packed
	// together: each slows down every lookup a little.
	maxPacks = 40
)

// errRepoCorrupt tells that git could not work with a repository of ours: it
// is cloned afresh.
var errRepoCorrupt = errors.New("the repository is corrupt")

// workTree is a repository in the store with its files.
type workTree struct {
	git   *gitRunner
	dir   string // absolute
	owner string // marks the processes, see ownerMark
}

// command prepares a git command in the repository.
func (w workTree) command(args ...string) gitCommand { return w.in(gitCommand{args: args}) }

// in makes c work in the repository. Naming its directory keeps git from
// looking further up, and from refusing a volume of another user.
func (w workTree) in(c gitCommand) gitCommand {
	c.dir, c.gitDir, c.workTree = w.dir, w.dir+"/.git", w.dir
	c.env = append(c.env, w.owner)
	return c
}

// run runs a local command. Whatever git says but that the disk is full means
// that the repository is corrupt.
func (w workTree) run(ctx context.Context, c gitCommand) (string, error) {
	out, err := w.git.run(ctx, c)
	return strings.TrimSuffix(string(out), "\n"), corruptUnlessFull(err)
}

func corruptUnlessFull(err error) error {
	if e, ok := errors.AsType[*gitError](err); ok && e.reason != gitDiskFull && e.reason != gitTooLarge {
		return fmt.Errorf("%w: %w", errRepoCorrupt, err)
	}
	return err
}

// ask runs a local command that says no with exit status 1 and prints nothing.
func (w workTree) ask(ctx context.Context, args ...string) (string, error) {
	out, err := w.git.run(ctx, w.command(args...))
	if e, ok := errors.AsType[*gitError](err); ok && e.exit == 1 {
		return "", nil
	}
	return strings.TrimSuffix(string(out), "\n"), corruptUnlessFull(err)
}

// create makes an empty repository in the directory.
func (w workTree) create(ctx context.Context, sha256 bool) error {
	args := []string{"init", "-q", "--template=", "--initial-branch=main"}
	if sha256 {
		args = append(args, "--object-format=sha256")
	}
	// Not with GIT_DIR: init would write the work tree's path into the config.
	_, err := w.git.run(ctx, gitCommand{args: append(args, "--", w.dir), dir: w.dir, env: []string{w.owner}})
	return err
}

// headState is where a repository stands.
type headState struct {
	commit string // "" without commits
	branch string // short; "" when detached
}

func (w workTree) head(ctx context.Context) (headState, error) {
	commit, err := w.ask(ctx, "rev-parse", "--verify", "--quiet", "--end-of-options", "HEAD^{commit}")
	if err != nil {
		return headState{}, err
	}
	ref, err := w.ask(ctx, "symbolic-ref", "--quiet", "HEAD")
	if err != nil {
		return headState{}, err
	}
	branch, _ := strings.CutPrefix(ref, "refs/heads/")
	return headState{commit: commit, branch: branch}, nil
}

// commitOf is the commit that ref leads to, through tags; "" when it leads to
// none.
func (w workTree) commitOf(ctx context.Context, ref string) (string, error) {
	return w.ask(ctx, "rev-parse", "--verify", "--quiet", "--end-of-options", ref+"^{commit}")
}

// origin is the key of the remote that the repository was cloned from.
func (w workTree) origin(ctx context.Context) (string, error) {
	settings, err := w.settings(ctx)
	if err != nil {
		return "", err
	}
	u, err := parseRemoteURL(settings["remote.origin.url"])
	if err != nil {
		return "", fmt.Errorf("%w: %w", errRepoCorrupt, err)
	}
	return u.key(), nil
}

// settings is the repository's own configuration, the last value of each.
func (w workTree) settings(ctx context.Context) (map[string]string, error) {
	out, err := w.run(ctx, w.command("config", "--file", w.dir+"/.git/config", "--no-includes", "-z", "--list"))
	if err != nil {
		return nil, err
	}
	settings := map[string]string{}
	for entry := range strings.SplitSeq(out, "\x00") {
		if key, value, ok := strings.Cut(entry, "\n"); ok {
			settings[key] = value
		}
	}
	return settings, nil
}

// maxForeign bounds the settings that are taken out one by one.
const maxForeign = 100

// tame takes every setting out of the configuration that is not the cloner's
// own: a filter, an include or a hook of somebody who may write there would run
// a program beside the credentials.
func (w workTree) tame(ctx context.Context) error {
	settings, err := w.settings(ctx)
	if err != nil {
		return err
	}
	foreign := 0
	for key := range settings {
		section, _, _ := strings.Cut(key, ".")
		switch {
		case section == "branch":
			continue
		case slices.Contains([]string{"core.repositoryformatversion", "core.filemode", "core.bare", "core.logallrefupdates",
			"core.symlinks", "core.ignorecase", "core.precomposeunicode", "extensions.objectformat", "remote.origin.url", "remote.origin.fetch"}, key):
			continue
		}
		if foreign++; foreign > maxForeign {
			return fmt.Errorf("%w: its configuration is somebody else's", errRepoCorrupt)
		}
		if _, err := w.run(ctx, w.command("config", "--file", w.dir+"/.git/config", "--no-includes", "--unset-all", key)); err != nil {
			return err
		}
	}
	return nil
}

// configure makes origin what a person expects to find: the URL without
// credentials, the usual refspec, an upstream for the branch.
func (w workTree) configure(ctx context.Context, u remoteURL, branch string) error {
	have, err := w.settings(ctx)
	if err != nil {
		return err
	}
	want := [][2]string{
		{"remote.origin.url", u.String()},
		{"remote.origin.fetch", "+refs/heads/*:refs/remotes/origin/*"},
	}
	if branch != "" {
		want = append(want, [2]string{"branch." + branch + ".remote", "origin"}, [2]string{"branch." + branch + ".merge", "refs/heads/" + branch})
	}
	for _, setting := range want {
		if have[setting[0]] == setting[1] {
			continue
		}
		if _, err := w.run(ctx, w.command("config", "--file", w.dir+"/.git/config", "--replace-all", setting[0], setting[1])); err != nil {
			return err
		}
	}
	return nil
}

// refs lists the repository's refs and what they are at.
func (w workTree) refs(ctx context.Context) (map[string]string, error) {
	out, err := w.run(ctx, w.command("for-each-ref", "--format=%(refname) %(objectname)"))
	if err != nil {
		return nil, err
	}
	refs := map[string]string{}
	for line := range strings.Lines(out) {
		if name, oid, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			refs[name] = oid
		}
	}
	return refs, nil
}

// checkout makes the files those of commit, with HEAD detached. Local edits and
// untracked files go.
func (w workTree) checkout(ctx context.Context, commit string, line func(string)) error {
	c := w.command("checkout", "--progress", "--force", "--detach", commit, "--")
	c.config = []string{
		"advice.detachedHead=false",
		"core.protectHFS=true",
		"core.protectNTFS=true", // a tree is the same danger on every system
		"checkout.workers=" + strconv.Itoa(runtime.GOMAXPROCS(0)),
		"checkout.thresholdForParallelism=" + strconv.Itoa(parallelFrom),
	}
	c.env = append(c.env, "GIT_PROGRESS_DELAY=0") // else silent for two seconds
	c.line = line
	if _, err := w.run(ctx, c); err != nil {
		return err
	}
	return w.clean(ctx)
}

// clean removes what is not tracked, repositories included (the second f).
func (w workTree) clean(ctx context.Context) error {
	_, err := w.run(ctx, w.command("clean", "-ffdxq"))
	return err
}

// settle makes the refs exactly want, and head a branch or "" for none. HEAD
// is detached while it works.
func (w workTree) settle(ctx context.Context, want map[string]string, branch string, defaultBranch string) error {
	have, err := w.refs(ctx)
	if err != nil {
		return err
	}
	// Two transactions: one cannot delete feat and make feat/sub. The new ones come
	// first where they can, or somebody who reads meanwhile finds none.
	var deletes, updates strings.Builder
	gone, made := map[string]bool{}, map[string]bool{}
	for name := range have {
		keep := name == originHead && branch != "" && branch == defaultBranch // set below
		if _, ok := want[name]; !ok && !keep {
			fmt.Fprintf(&deletes, "option no-deref\ndelete %s\n", name)
			gone[name] = true
		}
	}
	for name, oid := range want {
		if have[name] != oid {
			fmt.Fprintf(&updates, "option no-deref\nupdate %s %s\n", name, oid)
			made[name] = true
		}
	}
	scripts := []string{updates.String(), deletes.String()}
	if anyBelow(gone, made) || anyBelow(made, gone) {
		slices.Reverse(scripts)
	}
	for _, script := range scripts {
		if script == "" {
			continue
		}
		c := w.command("update-ref", "--stdin")
		c.stdin = strings.NewReader(script)
		if _, err := w.run(ctx, c); err != nil {
			return err
		}
	}
	if branch == "" {
		return nil
	}
	if _, err := w.run(ctx, w.command("symbolic-ref", "-m", "checkout", "HEAD", "refs/heads/"+branch)); err != nil {
		return err
	}
	if branch == defaultBranch {
		_, err = w.run(ctx, w.command("symbolic-ref", originHead, "refs/remotes/origin/"+branch))
	}
	return err
}

// pack puts the repository's packs together and drops what no ref needs.
func (w workTree) pack(ctx context.Context) error {
	if _, err := w.run(ctx, w.command("reflog", "expire", "--expire=now", "--all")); err != nil {
		return err
	}
	_, err := w.run(ctx, w.command("gc", "-q", "--prune=now"))
	return err
}

// anyBelow tells whether one of the refs is a directory in the name of another:
// feat of feat/sub.
func anyBelow(refs, others map[string]bool) bool {
	for name := range others {
		for end := strings.LastIndexByte(name, '/'); end > 0; end = strings.LastIndexByte(name[:end], '/') {
			if refs[name[:end]] {
				return true
			}
		}
	}
	return false
}

// maxCommitsWalked is how many commits whole looks at: some milliseconds.
const maxCommitsWalked = 1000

// whole tells by an error when the history of commit ends where it should not: a
// shallow clone that lost the file that says so looks like a full one.
func (w workTree) whole(ctx context.Context, commit string) error {
	_, err := w.run(ctx, w.command("rev-list", "--quiet", "--max-count="+strconv.Itoa(maxCommitsWalked), "--end-of-options", commit, "--"))
	return err
}
