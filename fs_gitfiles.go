package main

import (
	"path/filepath"
	"slices"
	"strings"
)

// maxNamedGitDirs bounds the directories whose .git one walk reads.
const maxNamedGitDirs = 100_000

// workTreeOf returns the repository whose work tree contains the directory at,
// looking up through the allowed directories, or nil. A .git that leads
// nowhere, or outside the allowed directories, is ignored. A broken
// configuration does not fail the request: what it says up to the error counts.
func (f *fsService) workTreeOf(at resolvedPath) *repository {
	for dir, ok := at, true; ok; dir, ok = parentOf(f.access, dir) {
		r := f.repositoryAt(dir, workTreeAt)
		if r == nil {
			continue
		}
		if err := r.readConfig(); err != nil {
			f.log.Debug("reading a repository's configuration failed", "path", r.top.abs, "error", err)
		}
		if _, inside := r.relative(at); !inside {
			return nil // bare, or its work tree is elsewhere
		}
		return r
	}
	return nil
}

// headOf returns the commit that is checked out in the repository around a directory; nil
// outside a repository, and in one without commits.
func (f *fsService) headOf(at resolvedPath) *string {
	r := f.workTreeOf(at)
	if r == nil {
		return nil
	}
	head := r.head
	if r.headRef != "" {
		head = r.readRef(r.headRef)
	}
	return optionalString(head)
}

// namedGitDirs are the git directories below the start of a walk that .git files
// name, such as .bare beside linked work trees. Like a .git directory they hold
// nothing that belongs to the files.
type namedGitDirs struct {
	access *access
	start  string          // absolute path
	read   map[string]bool // directories whose .git was read
	paths  []string        // the git directories, relative to start
}

// readIn reads the .git file of a directory, if it has one. dir is relative to
// the start, "" for the start itself.
func (n *namedGitDirs) readIn(dir string) {
	if n.read[dir] || len(n.read) > maxNamedGitDirs {
		return
	}
	if n.read == nil {
		n.read = map[string]bool{}
	}
	n.read[dir] = true
	abs := filepath.Join(n.start, filepath.FromSlash(dir))
	at, err := n.access.within(filepath.Join(abs, ".git"))
	if err != nil {
		return
	}
	text, err := n.access.readSmall(at, maxSmallFile)
	if err != nil {
		return // a directory, or none
	}
	target := parseGitFile(string(text))
	if target == "" {
		return
	}
	rel, err := filepath.Rel(n.start, absoluteFrom(abs, target))
	if err == nil && rel != "." && filepath.IsLocal(rel) {
		n.paths = append(n.paths, filepath.ToSlash(rel))
	}
}

// contains reports whether a path, relative to the start, is one of the git
// directories or lies in one.
func (n *namedGitDirs) contains(path string) bool {
	return slices.ContainsFunc(n.paths, func(dir string) bool {
		rest, ok := strings.CutPrefix(path, dir)
		return ok && (rest == "" || rest[0] == '/')
	})
}

// containsFile is contains for a file, after the .git files in all directories
// above it were read.
func (n *namedGitDirs) containsFile(path string) bool {
	n.readIn("")
	for at, c := range path {
		if c == '/' {
			n.readIn(path[:at])
		}
	}
	return n.contains(path)
}

// workTreeView returns a gitView with which git lists or searches r's files.
// The view has no objects, because checking each object directory for symlinks
// is slow and git does not need them, except for a sparse index, which refers
// to trees. Unreachable objects do not fail the request; the view then leaves
// them out.
func (f *fsService) workTreeView(r *repository) (*gitView, error) {
	sparse := r.config.isTrue("core", "sparsecheckout")
	if sparse {
		if err := r.checkObjects(); err != nil {
			f.log.Debug("checking a repository's objects failed", "path", r.top.abs, "error", err)
			sparse = false
		}
	}
	if !sparse {
		r.objects = resolvedPath{}
	}
	return r.gitView(indexView)
}

// isUnreadable reports whether a line of git's standard error is about a file
// or directory that git passed over.
func isUnreadable(line string) bool {
	return strings.HasPrefix(line, "warning: could not open directory") || strings.HasPrefix(line, "error: ")
}
