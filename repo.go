package main

import (
	"bytes"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
)

const (
	// maxSmallFile bounds HEAD, commondir, a .git file, alternates: names and
	// paths.
	maxSmallFile = 64 << 10
	// maxAlternateDepth is how deep git itself follows alternates.
	maxAlternateDepth = 5
	// maxAlternates bounds the object directories that one repository borrows:
	// with a few lines in each they would multiply.
	maxAlternates = 100
	// maxObjectDepth is how deep the directories below objects go:
	// info/commit-graphs and some room.
	maxObjectDepth = 4
	// maxSymrefHops bounds symbolic references to symbolic references, as git
	// does.
	maxSymrefHops = 5
)

// repository is one that may be inspected: its work tree, its git directory
// and all its objects lie in allowed directories.
type repository struct {
	access  *access
	top     resolvedPath // the work tree, or the bare repository itself
	prefix  string       // where the caller's path lies below top, "" for top itself
	bare    bool
	gitDir  resolvedPath // a linked worktree has its own
	common  resolvedPath // what all worktrees of the repository share
	objects resolvedPath

	config  gitSettings
	refs    []gitRef // direct ones, sorted by name
	symrefs map[string]string
	headRef string // what HEAD names, "" when detached
	head    string // the commit id of HEAD, "" without commits
	shallow []byte // the ids of the commits whose parents are cut off, a line each
	sha256  bool
	partial bool // a partial clone: some blobs are not here
}

// read takes in the small files of the repository and checks where its objects
// lie.
func (r *repository) read() error {
	if err := r.checkObjects(); err != nil {
		return err
	}
	if err := r.readConfig(); err != nil {
		return err
	}
	if storage, ok := r.config.get("extensions", "", "refstorage"); ok && !strings.EqualFold(storage, "files") {
		return gitFailure(gitOther, "%s: keeps its references in the %s format, which is not supported: git refs migrate --ref-format=files changes that", showName(r.top.abs), cleanText(storage))
	}
	var err error
	if r.shallow, err = r.optional(r.common, "shallow", maxPackedRefs); err != nil {
		return err
	}
	if err := r.readRefs(); err != nil {
		return err
	}
	if _, err := r.readHead(); err != nil {
		return err
	}
	switch {
	case r.headRef != "":
		r.head = r.refID(r.headRef)
	case r.head == "":
		return gitFailure(gitCorrupt, "%s: its HEAD is neither a reference nor a commit id", showName(r.top.abs))
	}
	return nil
}

// readConfig takes in the configuration. What stands before a mistake in it is
// there in spite of the error.
func (r *repository) readConfig() error {
	err := r.addConfig(r.common, "config")
	if err == nil && r.config.isTrue("extensions", "worktreeconfig") {
		err = r.addConfig(r.gitDir, "config.worktree")
	}
	format, _ := r.config.get("extensions", "", "objectformat")
	r.sha256 = strings.EqualFold(format, "sha256")
	_, r.partial = r.config.get("extensions", "", "partialclone")
	for _, v := range r.config {
		r.partial = r.partial || v.section == "remote" && v.name == "promisor"
	}
	return err
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

// readHead finds what HEAD names: headRef or, detached, head. It tells whether
// git takes the directory for a repository by it: both stay empty where HEAD
// names a reference that no branch can have, as reftable's does.
func (r *repository) readHead() (recognized bool, err error) {
	text, err := r.optional(r.gitDir, "HEAD", maxSmallFile)
	if err != nil {
		return false, err
	}
	r.head, r.headRef = parseRefFile(string(text))
	name, symbolic := strings.CutPrefix(string(text), "ref:")
	return r.head != "" || symbolic && strings.HasPrefix(strings.TrimLeft(name, " \t"), "refs/"), nil
}

// checkObjects makes sure that all objects, the borrowed ones too, lie in the
// allowed directories.
func (r *repository) checkObjects() error {
	stores, err := r.objectStores()
	if err != nil {
		return err
	}
	for _, store := range stores {
		if err := r.checkLinks(store, maxObjectDepth); err != nil {
			return err
		}
	}
	return nil
}

// objectStores are the repository's objects directory and all that it borrows
// (gitrepository-layout(5), objects/info/alternates). Each must be allowed.
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
					return nil, failure(codeAccessDenied, "%s: borrows from more than %d object directories, which this daemon does not follow", showName(r.top.abs), maxAlternates)
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

// alternatesOf are the directories that an objects directory names itself.
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
			return nil, failure(codeAccessDenied, "%s: has a quoted line in objects/info/alternates, which this daemon does not follow", showName(r.top.abs))
		}
		p, err := r.access.within(absoluteFrom(store.abs, line))
		if err != nil {
			return nil, err
		}
		if info, err := r.access.stat(p); err != nil || !info.IsDir() {
			continue // git goes on without it
		}
		alternates = append(alternates, p)
	}
	return alternates, nil
}

// checkLinks looks at the names below dir: a pack, an object or a directory of
// them may be a symbolic link, but not to somewhere else. depth bounds the
// directories below dir.
func (r *repository) checkLinks(dir resolvedPath, depth int) error {
	if depth < 0 {
		return denied()
	}
	entries, err := readDir(dir.root.dir, dir.rel)
	if err != nil {
		return r.access.wireError(err, dir.abs)
	}
	for _, e := range entries {
		sub := resolvedPath{root: dir.root, rel: filepath.Join(dir.rel, e.Name()), abs: filepath.Join(dir.abs, e.Name())}
		isDir := e.IsDir()
		if e.Type()&fs.ModeSymlink != 0 {
			if sub, err = r.access.within(sub.abs); err != nil {
				return err
			}
			info, err := r.access.stat(sub)
			isDir = err == nil && info.IsDir()
		}
		if isDir {
			if err := r.checkLinks(sub, depth-1); err != nil {
				return err
			}
		}
	}
	return nil
}

// optional reads a file of the repository that may be missing: nil then.
func (r *repository) optional(dir resolvedPath, name string, limit int64) ([]byte, error) {
	p, err := r.access.within(filepath.Join(dir.abs, name))
	if err != nil {
		return nil, err
	}
	data, err := r.access.readSmall(p, limit)
	if isMissing(err) {
		return nil, nil
	}
	return data, err
}

// readSmall reads a regular file of at most most bytes; the result is not nil.
func (a *access) readSmall(p resolvedPath, limit int64) ([]byte, error) {
	f, info, err := a.openFile(p)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info.IsDir() {
		return nil, notFound(p.abs)
	}
	var data bytes.Buffer
	data.Grow(int(min(info.Size(), limit)) + bytes.MinRead) // packed-refs can be large: read it without copies
	if _, err := data.ReadFrom(io.LimitReader(f, limit+1)); err != nil {
		return nil, a.wireError(err, p.abs)
	}
	if int64(data.Len()) > limit {
		return nil, gitFailure(gitTooLarge, "%s: is larger than %d bytes", showName(p.abs), limit)
	}
	return data.Bytes(), nil
}
