package main

import (
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"time"
)

const (
	// maxLooks bounds the files of a repository that are described again for each
	// request.
	maxLooks = 1000
	// clockTick is longer than the tick of the clock that Linux takes the times of files
	// from (10 ms with CONFIG_HZ=100). A time that is not a multiple of coarseTime comes from
	// a file system that does not round them to more.
	clockTick  = 50 * time.Millisecond
	coarseTime = 10 * time.Millisecond
)

// sight says what look finds at a path.
type sight int

const (
	unclear sight = iota // the path is not plain, or cannot be read
	missing
	present
)

// lookedAt describes what a repository depends on at one path.
type lookedAt struct {
	path  string
	found sight
	place bool      // only the file's identity counts, and info has nothing else
	info  entryInfo // zero unless it is present
}

// looks records what the reading of a repository depends on, each before it is read.
type looks struct {
	began   time.Time
	list    []*lookedAt
	bytes   int  // of the content of files
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
func (r *repository) look(path string, place bool) *lookedAt {
	l := r.access.lookPlain(path, place)
	switch {
	case r.seen == nil:
	case l.found == unclear, len(r.seen.list) == maxLooks:
		r.seen.miss()
	default:
		r.seen.list = append(r.seen.list, l)
	}
	return l
}

// lookPlain describes the file at a plain path, in which no symlink is followed.
func (a *access) lookPlain(path string, place bool) *lookedAt {
	l := &lookedAt{path: path, place: place}
	root, rel, ok := a.quickPath(path)
	if !ok || root.quick.isRemote {
		return l
	}
	l.set(a.describePlain(root, rel))
	return l
}

// set sets what was found: a description, or an error.
func (l *lookedAt) set(info entryInfo, err error) {
	switch {
	case err == nil && l.place:
		l.found, l.info = present, entryInfo{mode: info.mode, id: info.id}
	case err == nil:
		l.found, l.info = present, info
	case errors.Is(err, fs.ErrNotExist), isNotDirectory(err):
		l.found = missing
	}
}

// isSettled reports whether another change of the file would be seen: one within the
// resolution of its time may not.
func (l *lookedAt) isSettled(began time.Time) bool {
	resolution := clockDifference
	if l.info.changed.Nanosecond()%int(coarseTime) != 0 {
		resolution = clockTick
	}
	return l.found == missing || l.place || l.info.changed.Before(began.Add(-resolution))
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
	for dir, ok := start, true; ok; dir, ok = parentOf(r.access, dir) {
		dotGit := filepath.Join(dir.abs, ".git")
		found := r.look(dotGit, r.access.lookPlain(dotGit, true).info.mode.IsDir()).found
		if r.dotGit && dir.abs == r.top.abs {
			return
		}
		above = above || dir.abs == r.top.abs
		if found == missing && !above {
			found = r.look(filepath.Join(dir.abs, "HEAD"), false).found
		}
		if found != missing {
			r.seen.miss()
		}
	}
}

// memory is about the size of the repository in memory.
func (r *repository) memory() int {
	const ref, setting = 400, 200 // with what vcs/refs keeps
	return r.seen.bytes + ref*(len(r.refs)+len(r.symrefs)) + setting*len(r.config)
}

// keptRepo is a repository that was read, which takes longer than a page of most
// listings. It is not changed any more.
type keptRepo struct {
	given string // path of the requests
	repo  *repository
	looks []*lookedAt
}

// findRepo returns the repository for the path of a request, if each file that it was
// read from is as it was; otherwise nil.
func (k *keptViews) findRepo(given string) *repository {
	k.mu.Lock()
	kept := k.takeRepoLocked(given)
	if kept != nil {
		k.addRepoLocked(kept)
	}
	k.mu.Unlock()
	if kept == nil {
		return nil
	}
	for rest := kept.looks; len(rest) > 0; {
		n := 1
		for dir := filepath.Dir(rest[0].path); n < len(rest) && filepath.Dir(rest[n].path) == dir; n++ {
		}
		if !kept.repo.access.areSame(rest[:n]) {
			return nil
		}
		rest = rest[n:]
	}
	return kept.repo
}

// areSame reports whether the files at paths in one directory are as they were.
func (a *access) areSame(looks []*lookedAt) bool {
	const few = 3 // to look for without opening the directory
	if len(looks) <= few {
		for _, l := range looks {
			if *a.lookPlain(l.path, l.place) != *l {
				return false
			}
		}
		return true
	}
	root, rel, ok := a.quickPath(filepath.Dir(looks[0].path))
	if !ok {
		return false
	}
	names := make([]string, len(looks))
	for n, l := range looks {
		names[n] = filepath.Base(l.path)
	}
	same := 0
	err := statEachBeneath(root.quick.fd, rel, names, func(n int, info entryInfo, err error) bool {
		now := lookedAt{path: looks[n].path, place: looks[n].place}
		now.set(info, err)
		if now == *looks[n] {
			same++
		}
		return same == n+1
	})
	return err == nil && same == len(looks)
}

// keepRepo keeps a repository that was just read, in place of an older state, if a
// change of it would be seen.
func (k *keptViews) keepRepo(given string, r *repository) {
	seen := r.seen
	keep := !seen.partial && r.memory() <= maxKeptView
	r.seen = nil // from now on requests share it
	for _, l := range seen.list {
		keep = keep && l.isSettled(seen.began)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.takeRepoLocked(given)
	if keep && !k.closed {
		k.addRepoLocked(&keptRepo{given, r, seen.list})
	}
}

//go:noinline // each copy counts in the size of a release
func (k *keptViews) takeRepoLocked(given string) *keptRepo {
	for n, kept := range k.repos {
		if kept.given == given {
			k.repos = slices.Delete(k.repos, n, n+1)
			return kept
		}
	}
	return nil
}

func (k *keptViews) addRepoLocked(kept *keptRepo) {
	if k.repos = append(k.repos, kept); len(k.repos) > maxKeptViews {
		k.repos = slices.Delete(k.repos, 0, 1)
	}
	k.restLocked()
}
