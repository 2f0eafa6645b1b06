package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// infoParams are the params of vcs/info.
type infoParams struct {
	pathParam
}

// infoResult is the result of vcs/info.
type infoResult struct {
	Path          string       `json:"path" doc:"absolute path, symlinks resolved"`
	PathBase64    string       `json:"path_base64,omitempty" doc:"base64 of the path; only if it is not valid UTF-8"`
	Head          *string      `json:"head" doc:"commit id; null if there are no commits"`
	Branch        *string      `json:"branch" doc:"short name; null if HEAD is detached"`
	DefaultBranch *string      `json:"default_branch" doc:"default branch of origin; null if unknown"`
	Remotes       []remoteInfo `json:"remotes" doc:"sorted by name"`
	IsBare        bool         `json:"is_bare" doc:"true if the repository has no work tree, as git rev-parse --is-bare-repository reports it"`
	IsShallow     bool         `json:"is_shallow" doc:"true if the history is truncated"`
	Dirty         *dirtyCounts `json:"dirty" doc:"changed paths of the work tree; null without a work tree that is allowed, or if a .gitignore or .gitattributes in it is not a regular file"`
	Ahead         *int         `json:"ahead" doc:"commits that the branch has and its upstream lacks; null without upstream"`
	Behind        *int         `json:"behind" doc:"commits that the upstream has and the branch lacks; null without upstream"`
	LastCommit    *commitEntry `json:"last_commit" doc:"the commit of HEAD; null if there are no commits"`
}

// remoteInfo is a configured remote. Its URL has no credentials.
type remoteInfo struct {
	Name string `json:"name"`
	URL  string `json:"url" doc:"URL without credentials"`
}

// info implements vcs/info.
func (g *gitReader) info(ctx context.Context, p infoParams) (infoResult, error) {
	v, err := g.open(p.pathParam, indexView)
	if err != nil {
		return infoResult{}, err
	}
	defer v.remove()
	repo := v.repo
	result := infoResult{
		Path:          showName(repo.top.abs),
		PathBase64:    nameBase64(repo.top.abs),
		Head:          optionalString(repo.head),
		Branch:        optionalString(repo.branch()),
		DefaultBranch: optionalString(repo.defaultBranch()),
		Remotes:       repo.remotes(),
		IsBare:        repo.bare,
		IsShallow:     len(repo.shallow) > 0,
	}
	var wg sync.WaitGroup
	var status workStatus
	var statusErr error
	if repo.work.abs != "" {
		// Ends when git status ends; waited for below.
		wg.Go(func() { status, statusErr = g.status(ctx, v) })
	}
	last, err := g.lastCommit(ctx, v)
	wg.Wait()
	special, held := errors.AsType[*specialRules](statusErr)
	if held {
		g.log.Warn("reading the state of a work tree failed", "error", special)
		statusErr = nil
	}
	if err = errors.Join(err, statusErr); err != nil {
		return infoResult{}, err
	}
	result.LastCommit = last
	if repo.work.abs != "" && !held {
		result.Dirty, result.Ahead, result.Behind = &status.dirty, status.ahead, status.behind
	}
	return result, nil
}

// lastCommit returns the commit of HEAD, or nil if there is none.
func (g *gitReader) lastCommit(ctx context.Context, v *gitView) (*commitEntry, error) {
	if v.repo.head == "" {
		return nil, nil
	}
	var last commitEntry
	err := g.git.stream(ctx, v.command(logArgs("--max-count=1", "--end-of-options", v.repo.head, "--")...), func(r *bufio.Reader) (err error) {
		last, err = readCommit(r)
		last.IsBoundary = v.repo.boundary()[last.OID]
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return err
	})
	return &last, err
}

// branch returns the short name of the current branch, or "" if HEAD is
// detached.
func (r *repository) branch() string {
	name, ok := strings.CutPrefix(r.headRef, "refs/heads/")
	if !ok {
		return ""
	}
	return name
}

// defaultBranch returns the branch that the remote's HEAD names, as git clone
// or git remote set-head recorded it. For a bare repository without one it
// returns the current branch, and otherwise "".
func (r *repository) defaultBranch() string {
	names := []string{"origin"}
	for _, remote := range r.remotes() {
		names = append(names, remote.Name)
	}
	for _, name := range names {
		base := "refs/remotes/" + name + "/"
		if branch, ok := strings.CutPrefix(r.symrefs[base+"HEAD"], base); ok {
			return branch
		}
	}
	if r.bare {
		return r.branch()
	}
	return ""
}

// remotes returns the configured remotes, sorted by name.
func (r *repository) remotes() []remoteInfo {
	remotes := []remoteInfo{}
	for _, v := range r.config {
		if v.section != "remote" || v.name != "url" || v.subsection == "" {
			continue
		}
		if slices.ContainsFunc(remotes, func(known remoteInfo) bool { return known.Name == v.subsection }) {
			continue // git fetches from the first of several URLs
		}
		remotes = append(remotes, remoteInfo{Name: v.subsection, URL: withoutCredentials(v.value)})
	}
	for n := range remotes {
		remotes[n].Name = cleanText(remotes[n].Name)
	}
	sortBy(remotes, func(a, b remoteInfo) int { return strings.Compare(a.Name, b.Name) })
	return remotes
}

// remoteURL returns the URL of origin, or else of the first configured remote,
// without credentials; "" if there is no remote.
func (r *repository) remoteURL() string {
	first := ""
	for _, v := range r.config {
		switch {
		case v.section != "remote" || v.name != "url" || v.subsection == "":
		case v.subsection == "origin":
			return withoutCredentials(v.value)
		case first == "":
			first = v.value
		}
	}
	return withoutCredentials(first)
}

// withoutCredentials removes the credentials from a remote's URL. A user name
// without a password is kept for ssh only, where it is not secret; everywhere
// else it can be a token.
func withoutCredentials(remote string) string {
	remote = cleanText(remote)
	scheme, rest, ok := strings.Cut(remote, "://")
	if !ok {
		// user@host:path; a password does not belong there, so drop it
		host, path, _ := strings.Cut(remote, "@")
		if strings.Contains(host, ":") && path != "" {
			return path
		}
		return remote
	}
	end := strings.IndexAny(rest, "/?#")
	if end < 0 {
		end = len(rest)
	}
	if !strings.Contains(rest[:end], "@") && strings.Contains(rest[:end], ":") {
		// The text before a slash in a password would look like a host and a
		// port.
		if u, err := url.Parse(scheme + "://" + rest[:end]); err != nil || u.Port() == "" {
			end = len(rest)
		}
	}
	at := strings.LastIndexByte(rest[:end], '@')
	user := ""
	if at >= 0 && strings.HasSuffix(scheme, "ssh") {
		if name, _, secret := strings.Cut(rest[:at], ":"); !secret {
			user = name + "@"
		}
	}
	rest = user + rest[at+1:]
	if strings.HasPrefix(scheme, "http") {
		rest, _, _ = strings.Cut(rest, "?") // the query can contain a token too
		rest, _, _ = strings.Cut(rest, "#")
	}
	return scheme + "://" + rest
}

// optionalString returns a pointer to s, or nil, which is null in JSON, if s is
// empty.
func optionalString(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// dirtyCounts counts the paths of a work tree that differ from the last commit.
// A path can count both as staged and as unstaged. An untracked directory
// counts as one path.
type dirtyCounts struct {
	Staged     int `json:"staged" doc:"paths with changes in the index"`
	Unstaged   int `json:"unstaged" doc:"paths with changes that are not in the index"`
	Untracked  int `json:"untracked" doc:"untracked paths; a directory counts as one"`
	Conflicted int `json:"conflicted" doc:"paths with merge conflicts"`
}

// workStatus is the result of git status --porcelain=v2 --branch.
type workStatus struct {
	dirty         dirtyCounts
	ahead, behind *int // nil without an upstream
}

// status compares the work tree, the index and the last commit.
func (g *gitReader) status(ctx context.Context, v *gitView) (workStatus, error) {
	submodules := "--ignore-submodules=all"
	if ok, err := g.submodulesAllowed(ctx, v); err != nil {
		return workStatus{}, err
	} else if ok {
		submodules = "--ignore-submodules=dirty"
	}
	var w workStatus
	command := v.command("status", "--porcelain=v2", "-z", "--branch", "--untracked-files=normal", "--no-renames", submodules)
	command.check = func(ctx context.Context) error { return g.access.checkRules(ctx, v.repo.work, v.repo.work) }
	err := g.git.stream(ctx, command, func(r *bufio.Reader) error {
		return readRecords(r, w.add)
	})
	if isMissing(err) {
		err = notRepository(v.repo.top.abs)
	}
	return w, err
}

// add counts one record (git-status(1), Porcelain Format Version 2).
func (w *workStatus) add(record []byte) error {
	if len(record) < 2 {
		return badOutput("status", record)
	}
	switch record[0] {
	case '#':
		if text, ok := bytes.CutPrefix(record, []byte("# branch.ab ")); ok {
			var ahead, behind int
			if n, err := fmt.Sscanf(string(text), "+%d -%d", &ahead, &behind); n != 2 || err != nil {
				return badOutput("status", record)
			}
			w.ahead, w.behind = &ahead, &behind
		}
	case '1':
		if len(record) < 4 || record[1] != ' ' {
			return badOutput("status", record)
		}
		if record[2] != '.' {
			w.dirty.Staged++
		}
		if record[3] != '.' {
			w.dirty.Unstaged++
		}
	case 'u':
		w.dirty.Conflicted++
	case '?':
		w.dirty.Untracked++
	case '!':
	default:
		return badOutput("status", record)
	}
	return nil
}

// submodulesAllowed reports whether git may look at the commits that submodules
// are on. It reads the git directory of each, wherever its .git file leads, so
// all of them must be allowed. A repository without a .gitmodules is assumed to
// have no submodules.
func (g *gitReader) submodulesAllowed(ctx context.Context, v *gitView) (bool, error) {
	top := v.repo.work
	if _, err := top.root.dir.Lstat(filepath.Join(top.rel, ".gitmodules")); err != nil {
		return false, nil
	}
	allowed := true
	err := g.git.stream(ctx, v.command("ls-files", "-z", "--stage"), func(r *bufio.Reader) error {
		return readRecords(r, func(record []byte) error {
			mode, path, ok := bytes.Cut(record, []byte("\t"))
			if !ok {
				return badOutput("ls-files", record)
			}
			if allowed && bytes.HasPrefix(mode, []byte("160000 ")) {
				allowed = g.allowedSubmodule(top, string(path))
			}
			return nil
		})
	})
	return allowed, err
}

// allowedSubmodule reports whether everything that git would read of a
// submodule lies in allowed directories.
func (g *gitReader) allowedSubmodule(top resolvedPath, path string) bool {
	dir, err := g.access.within(filepath.Join(top.abs, filepath.FromSlash(path)))
	if err != nil {
		return false
	}
	if _, err := dir.root.dir.Lstat(filepath.Join(dir.rel, ".git")); err != nil {
		return isMissing(g.access.wireError(err, dir.abs)) // not initialized
	}
	r, err := repositoryAt(g.access, dir)
	return err == nil && r != nil && r.checkObjects() == nil && r.checkGitDir() == nil
}
