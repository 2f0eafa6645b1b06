package main

import (
	"bytes"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const (
	// maxSmallFile bounds HEAD, commondir, a .git file and similar files, which
	// hold names and paths.
	maxSmallFile = 64 << 10
	// maxAlternateDepth is how many levels of alternates git itself follows.
	maxAlternateDepth = 5
	// maxAlternates bounds the object directories that one repository borrows:
	// a few lines in each of them would multiply.
	maxAlternates = 100
	// maxObjectDepth bounds the depth of directories below objects: that of
	// info/commit-graphs and some reserve.
	maxObjectDepth = 4
	// maxSymrefHops bounds symbolic references to symbolic references, as git
	// does.
	maxSymrefHops = 5
)

// repository is a repository that may be inspected: its work tree, its git
// directory and all its objects lie in allowed directories.
type repository struct {
	access  *access
	top     resolvedPath // the directory with the .git, or the git directory itself if there is none
	dotGit  bool         // found by its .git
	work    resolvedPath // the work tree; empty if there is none, or if it is not allowed
	prefix  string       // the caller's path relative to the work tree, "" for its top
	bare    bool         // as git rev-parse --is-bare-repository reports it
	gitDir  resolvedPath // a linked work tree has its own
	common  resolvedPath // shared by all work trees of the repository
	objects resolvedPath

	config  gitSettings
	refs    []gitRef // without symbolic references, sorted by name
	symrefs map[string]string
	headRef string // the reference that HEAD names, "" when detached
	head    string // commit id of HEAD, "" without commits
	shallow []byte // ids of the commits whose parents are missing, one per line
	sha256  bool

	seen    *looks     // what it was read from; nil once it is read
	listing refListing // its references, for vcs/refs
	revs    knownRevisions
}

// read reads the small files of the repository and checks where its objects
// are.
func (r *repository) read() error {
	if err := r.checkObjects(); err != nil {
		return err
	}
	if err := r.readConfig(); err != nil {
		return err
	}
	if storage, ok := r.config.get("extensions", "", "refstorage"); ok && !strings.EqualFold(storage, "files") {
		return gitFailure(gitOther, "%s: uses the unsupported %s format for references: convert it with git refs migrate --ref-format=files", showName(r.top.abs), cleanText(storage))
	}
	var err error
	if r.shallow, err = r.optional(r.common, "shallow", maxPackedRefs); err != nil {
		return err
	}
	return r.readHeadAndRefs()
}

// fixed returns the commit that a revision stands for where that is known without
// git: that of HEAD, or a full id itself. It is "" for any other one.
func (r *repository) fixed(rev string) string {
	switch {
	case rev == "HEAD":
		return r.head
	case isObjectID(rev):
		return rev
	}
	return ""
}

// maxHeadReads bounds the readings of a HEAD that changes all the time.
const maxHeadReads = 5

// readHeadAndRefs reads HEAD and all references. A HEAD that names no
// reference is read again, because it may have moved to another branch, which
// was created or renamed meanwhile. If it did not move, it is a branch without
// commits.
func (r *repository) readHeadAndRefs() error {
	before := ""
	for range maxHeadReads {
		if _, err := r.readHead(); err != nil {
			return err
		}
		if r.headRef == "" && r.head == "" {
			return gitFailure(gitCorrupt, "%s: HEAD is neither a reference nor a commit id", showName(r.top.abs))
		}
		if r.headRef != "" && r.headRef == before {
			return nil
		}
		if err := r.readRefs(); err != nil {
			return err
		}
		if r.headRef == "" {
			return nil
		}
		if r.head = r.refID(r.headRef); r.head != "" {
			return nil
		}
		before = r.headRef
	}
	return nil
}

// readConfig reads the configuration and what it says of the work tree. If it
// contains a syntax error, the variables before the error are still set.
func (r *repository) readConfig() error {
	r.config = nil
	err := r.addConfig(r.common, "config")
	ownConfig := err == nil && r.config.isTrue("extensions", "worktreeconfig")
	if ownConfig {
		err = r.addConfig(r.gitDir, "config.worktree")
	}
	format, _ := r.config.get("extensions", "", "objectformat")
	r.sha256 = strings.EqualFold(format, "sha256")
	r.findWorkTree(ownConfig)
	return err
}

// findWorkTree sets bare and work as git does (git-config(1), core.bare and
// core.worktree). A linked work tree ignores both variables, unless it has a
// configuration of its own (git-worktree(1), CONFIGURATION FILE).
func (r *repository) findWorkTree(ownConfig bool) {
	_, set := r.config.get("core", "", "bare")
	r.bare = set && r.config.isTrue("core", "bare")
	tree, elsewhere := r.config.get("core", "", "worktree")
	if r.common.abs != r.gitDir.abs && !ownConfig {
		r.bare, set, elsewhere = false, false, false
	}
	r.work = resolvedPath{}
	switch {
	case r.bare: // and git refuses to use core.worktree
	case elsewhere:
		if at, isDir, err := r.dirAt(absoluteFrom(r.gitDir.abs, tree)); err == nil && isDir {
			r.work = at
		}
	case r.dotGit:
		r.work = r.top
	default:
		r.bare = !set
	}
}

// relative returns the path of at relative to the work tree, with slashes and ""
// for its top, and false if at is not inside it.
func (r *repository) relative(at resolvedPath) (string, bool) {
	if r.work.abs == "" {
		return "", false
	}
	rel, err := filepath.Rel(r.work.abs, at.abs)
	if err != nil || !filepath.IsLocal(rel) {
		return "", false
	}
	if rel == "." {
		return "", true
	}
	return filepath.ToSlash(rel), true
}

func (r *repository) addConfig(dir resolvedPath, name string) error {
	text, err := r.optional(dir, name, maxConfigFile)
	if err != nil {
		return err
	}
	settings, err := parseGitConfig(string(text))
	r.config = append(r.config, settings...)
	if err != nil {
		return gitFailure(gitCorrupt, "%s: reading its configuration: %v", showName(r.top.abs), err)
	}
	return nil
}

// readHead sets headRef, or head if HEAD is detached. It reports whether git
// would recognize the directory as a repository by its HEAD. For a HEAD that
// names a reference that no branch can have, as in the reftable format, it
// reports true and sets neither.
func (r *repository) readHead() (recognized bool, err error) {
	r.head, r.headRef = "", ""
	// HEAD can be a symlink instead of a symbolic reference
	// (gitrepository-layout(5)); git only looks at its text.
	if target, err := r.gitDir.root.dir.Readlink(filepath.Join(r.gitDir.rel, "HEAD")); err == nil {
		r.seen.miss()
		if target = filepath.ToSlash(target); isRefName(target) {
			r.headRef = target
			return true, nil
		}
		_, err := r.access.within(filepath.Join(r.gitDir.abs, "HEAD"))
		return false, err
	}
	text, err := r.optional(r.gitDir, "HEAD", maxSmallFile)
	if err != nil {
		return false, err
	}
	r.head, r.headRef = parseRefFile(string(text))
	name, symbolic := strings.CutPrefix(string(text), "ref:")
	return r.head != "" || symbolic && strings.HasPrefix(strings.TrimLeft(name, " \t"), "refs/"), nil
}

// checkObjects returns an error unless all objects, borrowed ones included, lie
// in allowed directories.
func (r *repository) checkObjects() error {
	stores, err := r.objectStores()
	if err != nil {
		return err
	}
	check := linkCheck{access: r.access, linkedDirs: true, seen: map[string]bool{}, look: func(path string) { r.look(path, false) }}
	for _, store := range stores {
		if err := check.below(store, maxObjectDepth); err != nil {
			return err
		}
	}
	return nil
}

// objectStores returns the repository's objects directory and all that it
// borrows (gitrepository-layout(5), objects/info/alternates). Each must be
// allowed.
func (r *repository) objectStores() ([]resolvedPath, error) {
	stores := []resolvedPath{r.objects}
	level := stores
	for range maxAlternateDepth + 1 {
		var next []resolvedPath
		for _, store := range level {
			more, err := r.alternatesOf(store)
			if err != nil {
				return nil, err
			}
			for _, p := range more {
				if slices.ContainsFunc(stores, func(known resolvedPath) bool { return known.abs == p.abs }) {
					continue
				}
				if len(stores) > maxAlternates {
					return nil, failure(codeAccessDenied, "%s: borrows from more than %d object directories, the most that this daemon follows", showName(r.top.abs), maxAlternates)
				}
				stores, next = append(stores, p), append(next, p)
			}
		}
		if len(next) == 0 {
			return stores, nil
		}
		level = next
	}
	return nil, denied()
}

// alternatesOf returns the directories listed in the alternates file of one
// objects directory.
func (r *repository) alternatesOf(store resolvedPath) ([]resolvedPath, error) {
	text, err := r.optional(store, filepath.Join("info", "alternates"), maxConfigFile)
	if err != nil {
		return nil, err
	}
	var alternates []resolvedPath
	for line := range strings.SplitSeq(string(text), "\n") {
		if line == "" || line[0] == '#' {
			continue
		}
		if line[0] == '"' {
			return nil, failure(codeAccessDenied, "%s: has a quoted line in objects/info/alternates, which this daemon does not support", showName(r.top.abs))
		}
		p, isDir, err := r.dirAt(absoluteFrom(store.abs, line))
		if err != nil {
			return nil, err
		}
		if !isDir {
			continue // git ignores it too
		}
		alternates = append(alternates, p)
	}
	return alternates, nil
}

// boundary returns the ids of the commits whose parents are missing.
func (r *repository) boundary() map[string]bool {
	ids := map[string]bool{}
	for _, id := range strings.Fields(string(r.shallow)) {
		ids[id] = true
	}
	return ids
}

// optional reads a file of the repository, and returns nil if it does not
// exist.
func (r *repository) optional(dir resolvedPath, name string, limit int64) ([]byte, error) {
	path := filepath.Join(dir.abs, name)
	if r.look(path, false).found == missing {
		return nil, nil
	}
	if p, f, info, ok := r.access.openPlain(path, limit); ok {
		defer f.Close() // only read
		if r.seen != nil {
			r.seen.bytes += int(info.Size())
		}
		return r.access.readOpen(p, f, info, limit)
	}
	p, err := r.access.within(path)
	if err != nil {
		return nil, err
	}
	if info, err := r.access.stat(p); err == nil && !info.Mode().IsRegular() && !info.IsDir() {
		return nil, notRegular(p.abs)
	}
	data, err := r.access.readSmall(p, limit)
	if isMissing(err) {
		return nil, nil
	}
	return data, err
}

// readSmall reads a regular file of at most limit bytes. Without an error the
// result is not nil.
func (a *access) readSmall(p resolvedPath, limit int64) ([]byte, error) {
	f, info, err := a.openFile(p)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info.IsDir() {
		return nil, notFound(p.abs)
	}
	return a.readOpen(p, f, info, limit)
}

// readOpen is readSmall for the open file at p.
func (a *access) readOpen(p resolvedPath, f *os.File, info fs.FileInfo, limit int64) ([]byte, error) {
	var data bytes.Buffer
	data.Grow(int(min(info.Size(), limit)) + bytes.MinRead) // avoid copies: packed-refs can be large
	if _, err := data.ReadFrom(io.LimitReader(f, limit+1)); err != nil {
		return nil, a.wireError(err, p.abs)
	}
	if int64(data.Len()) > limit {
		return nil, gitFailure(gitTooLarge, "%s: is larger than %d bytes", showName(p.abs), limit)
	}
	return data.Bytes(), nil
}
