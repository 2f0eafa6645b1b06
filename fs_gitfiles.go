package main

import (
	"bufio"
	"context"
	"errors"
	"hash/fnv"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
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
		r := f.repositoryIn(dir.abs, false)
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

// headOf returns the commit that is checked out in the repository around at; nil
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

// list asks git which files of a repository are tracked or not ignored. Git
// lists all of them again for every page, so the cursor holds a checksum of
// their names to detect changes between pages.
func (g *globPage) list(f *fsService, r *repository) error {
	v, err := f.workTreeView(r)
	if err != nil {
		return err
	}
	defer v.remove()
	page := &topK{after: string(g.cursor.After), limit: g.limit}
	sum := uint64(0)
	command := v.command("ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate")
	command.dir = g.abs
	command.line = func(line string) {
		if isUnreadable(line) {
			g.skipped++
		}
	}
	command.check = func(ctx context.Context) error { return f.access.checkRules(ctx, r.work, g.at) }
	err = f.git.stream(g.ctx, command, func(out *bufio.Reader) error {
		return readRecords(out, func(record []byte) error {
			if err := g.tick(); err != nil {
				return err
			}
			rel := string(record)
			if strings.HasSuffix(rel, "/") || !safeRel(rel) || !g.filter.file(rel) || g.access.covers(filepath.Join(g.abs, rel)) {
				return nil // a nested repository, or filtered out
			}
			hash := fnv.New64a()
			_, _ = hash.Write(record) // a hash never fails
			sum += hash.Sum64()       // independent of the order: git prints untracked files first
			page.add(dirEntryName{key: rel, name: rel})
			return nil
		})
	})
	if _, special := errors.AsType[*specialRules](err); special {
		f.log.Warn("listing ignored files with git failed", "error", err)
		return g.listWithoutRules(f, r, v)
	}
	if err != nil {
		return err
	}
	state := strconv.FormatUint(sum, 36)
	if len(g.cursor.After) > 0 && g.cursor.State != state {
		return staleCursor()
	}
	g.cursor.State = state
	below := &statBelow{access: g.access, abs: g.abs, start: g.start, self: g.self}
	defer below.close()
	paths := page.sorted()
	for _, e := range paths {
		if err := g.tick(); err != nil {
			return err
		}
		info, err := below.lstat(e.name)
		if err != nil {
			if _, hidden := errors.AsType[*rpcError](err); !hidden && !errors.Is(err, fs.ErrNotExist) {
				g.skipped++ // no right to read it, or behind a symlink
			}
			continue
		}
		if err := g.add(e.name, info); errors.Is(err, errEnough) {
			return nil
		}
	}
	if g.more = page.more; g.more {
		g.cursor.After = []byte(paths[len(paths)-1].name)
	}
	return nil
}

// listWithoutRules is list for a work tree in which git would wait for a pipe
// named .gitignore: git lists the tracked files alone, for which it reads no
// rules, and a walk finds those that no rule ignores.
func (g *globPage) listWithoutRules(f *fsService, r *repository, v *gitView) error {
	g.tracked = map[string]bool{}
	command := v.command("ls-files", "-z", "--cached", "--deduplicate")
	command.dir = g.abs
	err := f.git.stream(g.ctx, command, func(out *bufio.Reader) error {
		return readRecords(out, func(record []byte) error {
			if err := g.tick(); err != nil {
				return err
			}
			// With the directories above it, which the walk must enter.
			for rel := string(record); rel != "." && !g.tracked[rel]; rel = path.Dir(rel) {
				g.tracked[rel] = true
			}
			return nil
		})
	})
	if err != nil {
		return err
	}
	if text, err := r.optional(r.common, filepath.Join("info", "exclude"), maxConfigFile); err == nil && r.work.abs == g.abs {
		g.rules = &ignoreRules{rules: parseIgnore(string(text))}
	}
	return g.walk(true)
}

// isUnreadable reports whether a line of git's standard error is about a file
// or directory that git passed over.
func isUnreadable(line string) bool {
	return strings.HasPrefix(line, "warning: could not open directory") || strings.HasPrefix(line, "error: ")
}
