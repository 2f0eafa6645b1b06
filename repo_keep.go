package main

import (
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"time"
)

// maxLooks bounds the files of a repository that are described again for each request.
const maxLooks = 1000

// sight is what look finds at a path.
type sight int

const (
	unclear sight = iota // the path is not plain, or cannot be read
	missing
	present
)

// lookedAt is what a repository depends on at one path.
type lookedAt struct {
	path  string
	at    sight
	info  entryInfo
	place bool // only the file's identity counts
}

// looks records what the reading of a repository depends on, each before it is read.
type looks struct {
	began   time.Time
	list    []lookedAt
	partial bool // something was read that cannot be recorded
}

// miss notes that something cannot be recorded.
func (l *looks) miss() {
	if l != nil {
		l.partial = true
	}
}

// look describes the file at an absolute path of the repository. While the repository
// is being read, it records what the file is, so that a later request can find out
// whether it has changed; for a place, only whether it is the same file.
func (r *repository) look(path string, place bool) (at resolvedPath, info entryInfo, s sight) {
	at, info, s = r.access.lookPlain(path)
	switch {
	case r.seen == nil:
	case s == unclear, s == present && at.root.quick.isRemote, len(r.seen.list) == maxLooks:
		r.seen.miss()
	default:
		r.seen.list = append(r.seen.list, lookedAt{path: path, at: s, info: info, place: place})
	}
	return at, info, s
}

// lookPlain describes the file at a plain path, in which no symlink is followed.
func (a *access) lookPlain(path string) (at resolvedPath, info entryInfo, s sight) {
	root, rel, ok := a.quickPath(path)
	if !ok || root.quick.isKernel {
		return at, info, unclear
	}
	switch info, err := a.describePlain(root, rel); {
	case err == nil:
		return resolvedPath{root: root, rel: rel, abs: filepath.Join(root.real, rel)}, info, present
	case errors.Is(err, fs.ErrNotExist), isNotDirectory(err):
		return at, entryInfo{}, missing
	}
	return at, entryInfo{}, unclear
}

// isSame reports whether the file is as it was.
func (l *lookedAt) isSame(a *access) bool {
	_, now, s := a.lookPlain(l.path)
	if s != l.at || now.id != l.info.id || now.mode != l.info.mode {
		return false
	}
	return l.place || now.size == l.info.size && now.mtime.Equal(l.info.mtime) && now.changed.Equal(l.info.changed)
}

// isSettled reports whether another change of the file would be seen: one within the
// resolution of its time may not.
func (l *lookedAt) isSettled(began time.Time) bool {
	return l.at == missing || l.place || l.info.changed.Before(began.Add(-clockDifference))
}

// lookAround records how the repository was found for the path given, which leads to
// start.
func (r *repository) lookAround(given string, start resolvedPath) {
	if !filepath.IsAbs(given) {
		given = filepath.Join(r.access.workDir, given)
	}
	if filepath.Clean(given) != start.abs {
		r.seen.miss() // a symlink
	}
	if start.rel != "." { // the allowed directory itself is held open
		r.look(start.abs, true)
	}
	above := false // the top of a repository without a .git, which has none above it
	for dir, ok := start, true; ok && !r.seen.partial; dir, ok = parentOf(r.access, dir) {
		dotGit := filepath.Join(dir.abs, ".git")
		_, info, _ := r.access.lookPlain(dotGit)
		_, _, s := r.look(dotGit, info.mode.IsDir())
		if r.dotGit && dir.abs == r.top.abs {
			return
		}
		above = above || dir.abs == r.top.abs
		if s == missing && !above {
			_, _, s = r.look(filepath.Join(dir.abs, "HEAD"), false)
		}
		if s != missing {
			r.seen.miss()
		}
	}
}

// memory is about the size of the repository in memory.
func (r *repository) memory() int {
	const entry, listed = 100, 200 // bytes beside the texts
	size := len(r.shallow)
	for _, ref := range r.refs {
		size += len(ref.name) + len(ref.oid) + len(ref.peeled) + entry + listed
	}
	for name, target := range r.symrefs {
		size += len(name) + len(target) + entry + listed
	}
	for _, s := range r.config {
		size += len(s.subsection) + len(s.value) + entry
	}
	return size
}

// keptRepo is a repository that was read, which takes longer than a page of most
// listings. It is not changed any more.
type keptRepo struct {
	given string // path of the requests
	repo  *repository
	looks []lookedAt
}

// findRepo returns the repository for the path of a request, if each file that it was
// read from is as it was; otherwise nil.
func (k *keptViews) findRepo(given string) *repository {
	k.mu.Lock()
	at := slices.IndexFunc(k.repos, func(r keptRepo) bool { return r.given == given })
	if at < 0 {
		k.mu.Unlock()
		return nil
	}
	kept := k.repos[at]
	k.repos = append(slices.Delete(k.repos, at, at+1), kept)
	k.restLocked()
	k.mu.Unlock()
	for n := range kept.looks {
		if !kept.looks[n].isSame(kept.repo.access) {
			return nil
		}
	}
	return kept.repo
}

// keepRepo keeps a repository that was just read, in place of an older state, if a
// change of it would be seen.
func (k *keptViews) keepRepo(given string, r *repository) {
	seen := r.seen
	r.seen = nil // from now on requests share it
	keep := !seen.partial && r.memory() <= maxKeptView
	for n := range seen.list {
		keep = keep && seen.list[n].isSettled(seen.began)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.repos = slices.DeleteFunc(k.repos, func(old keptRepo) bool { return old.given == given })
	if keep && !k.closed {
		if k.repos = append(k.repos, keptRepo{given, r, seen.list}); len(k.repos) > maxKeptViews {
			k.repos = slices.Delete(k.repos, 0, 1)
		}
		k.restLocked()
	}
}
