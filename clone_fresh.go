package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
)

// cloneNew clones without using the repository at the name.
func (r *clonedRepo) cloneNew(ctx context.Context) (cloneResult, error) {
	r.discard()
	r.old = nil
	rev, err := r.fetchAtOnce(ctx)
	if err == nil && rev == "" {
		rev, err = r.fetchListed(ctx)
	}
	head := headState{branch: cmp.Or(r.target.defaultBranch, "main")}
	if err == nil && !r.target.empty {
		head, err = r.checkoutWithinLimits(ctx, rev, &sync.WaitGroup{})
	}
	if err != nil {
		return cloneResult{}, err
	}
	return r.finish(ctx, head)
}

// fetchAtOnce brings the target with git clone, which lists and fetches over one
// connection. rev is "" where only fetchListed finds the target or the cause of a
// failure; nothing is left of the new state then.
func (r *clonedRepo) fetchAtOnce(ctx context.Context) (rev string, err error) {
	if r.target.known || isObjectID(strings.ToLower(r.ref)) || strings.HasPrefix(r.ref, "refs/") {
		return "", nil
	}
	if err := r.makeTemp(); err != nil {
		return "", err
	}
	args := []string{"clone", "--progress", "--no-checkout", "--single-branch", "--no-tags", "--template="}
	if r.depth > 0 {
		args = append(args, fmt.Sprint("--depth=", r.depth))
	}
	if r.ref != "" && r.ref != "HEAD" {
		args = append(args, "--branch="+r.ref)
	}
	cmd := r.remote.command(append(args, "--end-of-options", r.remote.String(), r.store.path(r.temp))...)
	cmd.dir = r.store.dir
	cmd.config = append(cmd.config, "core.logAllRefUpdates=false")
	err = r.receive(ctx, cmd)
	if e, ok := errors.AsType[*gitError](err); ok {
		if isUnclear(e) {
			err = nil
		}
		r.discard()
		return "", err
	}
	if err == nil {
		err = r.readCloned()
	}
	if err == nil && !r.target.known {
		r.discard()
	}
	return r.target.oid, err
}

// isUnclear reports whether git clone failed for a cause that fetchListed names, or
// does not meet: a redirect, a ref that is neither a branch nor a tag with commits, or
// a server without shallow clones.
func isUnclear(e *gitError) bool {
	switch e.reason {
	case gitMoved:
		return true
	case gitOther:
		return httpStatus(e.stderr) == 0
	}
	return strings.Contains(e.stderr, "not found in upstream") || strings.Contains(e.stderr, "not a commit")
}

// readCloned makes what git clone left the target; that stays unknown if it is
// not a branch or tag with commits, or a detached HEAD.
func (r *clonedRepo) readCloned() error {
	head, err1 := r.readFile("HEAD")
	packed, err2 := r.readFile("packed-refs")
	remoteHead, err3 := r.readFile(originHead)
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	t := cloneTarget{source: "HEAD", known: true}
	oid, name := parseRefFile(head)
	switch branch, onBranch := strings.CutPrefix(name, "refs/heads/"); {
	case onBranch:
		t.source, t.branch = name, branch
		name = "refs/remotes/origin/" + branch
		if _, target := parseRefFile(remoteHead); target == name {
			t.defaultBranch = branch
		}
	case r.ref != "" && r.ref != "HEAD":
		t.tag, name = r.ref, "refs/tags/"+r.ref
		t.source = name
	}
	t.oid, t.commit = oid, oid
	for _, ref := range parsePackedRefs(packed) {
		if ref.name == name {
			t.oid, t.commit = ref.oid, cmp.Or(oid, ref.oid)
		}
	}
	if t.commit == "" {
		return nil
	}
	t.sha256 = len(t.oid) == 64
	r.target = t
	return r.writeOwn()
}

// fetchListed brings the target that the list of the remote's refs has.
func (r *clonedRepo) fetchListed(ctx context.Context) (rev string, err error) {
	if err := r.pickTarget(ctx); err != nil {
		return "", err
	}
	if err := r.create(ctx); err != nil || r.target.empty {
		return "", err
	}
	rev, err = r.fetch(ctx, depthArgs(r.depth, true, false))
	r.target.oid = rev
	return rev, err
}

// create makes an empty repository for the new state.
func (r *clonedRepo) create(ctx context.Context) error {
	if err := r.makeTemp(); err != nil {
		return err
	}
	args := []string{"init", "-q", "--template=", "--initial-branch=main"}
	if r.target.sha256 {
		args = append(args, "--object-format=sha256")
	}
	// Not with GIT_DIR: init would write the work tree's path into the config.
	dir := r.store.path(r.temp)
	if _, err := r.cfg.git.run(ctx, gitCommand{args: append(args, "--", dir), dir: dir, env: []string{r.owner}}); err != nil {
		return err
	}
	return r.writeOwn()
}

// writeOwn gives the new state the cloner's configuration and attributes in place of
// those that git wrote.
func (r *clonedRepo) writeOwn() error {
	settings, err := r.settings()
	if err != nil {
		return err
	}
	return r.writeFiles(map[string]string{"config": r.config(settings, ""), "info/attributes": cloneAttributes})
}

// settings reads the configuration of the new state.
func (r *clonedRepo) settings() (gitSettings, error) {
	text, err := r.readFile("config")
	if err != nil {
		return nil, err
	}
	settings, err := parseGitConfig(text)
	if err != nil {
		return nil, fmt.Errorf("reading the configuration of a new repository: %w", err)
	}
	return settings, nil
}
