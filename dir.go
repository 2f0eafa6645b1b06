package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"time"
)

// typeUnknown is the type of a directory entry for which the file system
// reported only the name.
const typeUnknown = ^fs.FileMode(0)

// entryInfo describes a file; a symlink itself, not its target.
type entryInfo struct {
	mode  fs.FileMode
	size  int64
	mtime time.Time
	id    fileID

	changed time.Time // of its content or of what is known of it; mtime on Windows
}

// fileID identifies a file on this machine. It is zero where the system has no
// cheap identity (Windows), and a zero fileID equals none.
type fileID struct{ dev, ino uint64 }

func (id fileID) known() bool { return id != fileID{} }

// secretIDs returns the current identities of the daemon's own files, so that a
// listing need not stat them for each entry.
func (a *access) secretIDs() []fileID {
	a.mu.Lock()
	secrets := slices.Clone(a.secrets)
	a.mu.Unlock()
	var ids []fileID
	for _, path := range secrets {
		if id := fileIDAt(path); id.known() {
			ids = append(ids, id)
		}
	}
	return ids
}

// dirEntryName is a name in a directory and its type, if known. Entries are
// sorted by key.
type dirEntryName struct {
	key, name string
	typ       fs.FileMode
}

// byKey sorts entries, in less code than slices.SortFunc.
type byKey []dirEntryName

func (l byKey) Len() int           { return len(l) }
func (l byKey) Less(i, j int) bool { return l[i].key < l[j].key }
func (l byKey) Swap(i, j int)      { l[i], l[j] = l[j], l[i] }

// topK keeps the limit entries with the smallest keys after `after`. However
// many are added, it holds at most twice as many.
type topK struct {
	after string
	limit int

	kept []dirEntryName
	last string // once limit entries are kept: the largest key among them
	more bool   // there are further entries
}

func (k *topK) add(e dirEntryName) {
	switch {
	case e.key <= k.after:
		return
	case k.last != "" && e.key > k.last:
		k.more = true
		return
	}
	k.kept = append(k.kept, e)
	if len(k.kept) >= 2*k.limit {
		k.sorted()
		k.last = k.kept[len(k.kept)-1].key
	}
}

// sorted returns the entries in the bytewise order of their keys.
func (k *topK) sorted() []dirEntryName {
	sort.Sort(byKey(k.kept))
	if len(k.kept) > k.limit {
		clear(k.kept[k.limit:]) // free the strings
		k.kept, k.more = k.kept[:k.limit], true
	}
	return k.kept
}

// namesAfter reads the directory from its start and returns the first limit
// entries whose keys follow after, in bytewise order; more reports whether
// others follow. keep is called for every entry: it returns its key and its
// type as far as known, or false to leave it out.
func (d *dirHandle) namesAfter(ctx context.Context, after string, limit int, keep func(name string, typ fs.FileMode) (e dirEntryName, ok bool)) (names []dirEntryName, more bool, err error) {
	page := topK{after: after, limit: limit}
	seen := 0
	err = d.read(func(name string, typ fs.FileMode) error {
		// Checking each time would cost as much as reading the entry.
		if seen++; seen%1024 == 0 {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			beat(ctx)
		}
		if e, ok := keep(name, typ); ok {
			page.add(e)
		}
		return nil
	})
	if err != nil {
		return nil, false, err
	}
	names = page.sorted()
	return names, page.more, nil
}

// chunkSize returns how many names of one directory a walk keeps in memory at a
// depth: fewer further down, so that nested large directories need only some
// megabytes.
func chunkSize(depth int) int { return max(64<<10>>min(depth, 30), 256) }

// typeOf returns typ, or the type from lstat if typ is unknown. An entry that
// no longer exists is irregular.
func (d *dirHandle) typeOf(name string, typ fs.FileMode) fs.FileMode {
	if typ != typeUnknown {
		return typ
	}
	info, err := d.lstat(name)
	if err != nil {
		return fs.ModeIrregular
	}
	return info.mode.Type()
}

// directoryState returns a fingerprint of a directory. It changes when an entry
// is added, removed or renamed, or the directory is replaced. The modification
// time in it has the file system's resolution of some milliseconds, so two
// quick changes can look like one.
func directoryState(path string, info entryInfo) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%d\x00%d\x00%d", path, info.id.dev, info.id.ino, info.mtime.UnixNano()))
	return hex.EncodeToString(sum[:8])
}

// child opens the directory called name in d, which parent describes. It
// returns nil if the directory is the root of one of the kernel's own file
// systems, such as proc. Every other file system is entered.
func (d *dirHandle) child(name string, parent entryInfo) (*dirHandle, entryInfo, error) {
	sub, err := d.openDir(name)
	if err != nil {
		return nil, entryInfo{}, err
	}
	self, err := sub.info()
	if err == nil && (self.id.dev == parent.id.dev || !sub.isKernel()) {
		return sub, self, nil
	}
	sub.close()
	return nil, entryInfo{}, err
}

// maxStatDirs bounds the directories that a statBelow holds open.
const maxStatDirs = 64

// statBelow stats files below a directory without following symlinks or
// entering the kernel's own file systems. It keeps the directories of the last
// path open, so callers ask in the order of the paths.
type statBelow struct {
	access *access
	abs    string // absolute path of start
	start  *dirHandle
	self   entryInfo // describes start
	open   []statDir // from start to the directory of the last path
	last   string    // that directory, with a slash

	secrets []fileID  // nil until needed
	denies  bool      // a path below may be denied; set with secrets
	changed time.Time // last change of a directory that was entered
}

// statDir is an open directory. Its name is that in the directory before it; the
// last one of maxStatDirs has several elements.
type statDir struct {
	name string
	dir  *dirHandle
	self entryInfo
}

func (s *statBelow) lstat(rel string) (entryInfo, error) {
	if s.secrets == nil {
		s.secrets, s.denies = append([]fileID{}, s.access.secretIDs()...), s.access.deniesBelow(s.abs)
	}
	dir, name := path.Split(rel)
	if dir != s.last {
		s.last = "/" // none, should it fail
		if err := s.enter(strings.TrimSuffix(dir, "/")); err != nil {
			return entryInfo{}, err
		}
		s.last = dir
	}
	at, _ := s.current()
	return at.lstat(name)
}

// current returns the last open directory.
func (s *statBelow) current() (*dirHandle, entryInfo) {
	if len(s.open) == 0 {
		return s.start, s.self
	}
	last := s.open[len(s.open)-1]
	return last.dir, last.self
}

// enter opens the directories of rel that are not open yet, and closes others.
func (s *statBelow) enter(rel string) error {
	var names []string
	if rel != "" {
		names = strings.SplitN(rel, "/", maxStatDirs)
	}
	same := 0
	for same < len(s.open) && same < len(names) && s.open[same].name == names[same] {
		same++
	}
	s.closeFrom(same)
	for n, name := range names[same:] {
		at, self := s.current()
		next, err := s.openBelow(at, self, strings.Join(names[:same+n], "/"), name)
		if err != nil {
			return err
		}
		s.open = append(s.open, next)
	}
	return nil
}

// openBelow opens the directory called name, of one or more elements, in at, whose
// path is dir.
func (s *statBelow) openBelow(at *dirHandle, self entryInfo, dir, name string) (statDir, error) {
	first := at
	for element := range strings.SplitSeq(name, "/") {
		next, info, err := at.child(element, self)
		if at != first {
			at.close()
		}
		dir = path.Join(dir, element)
		switch {
		case err != nil:
		case next == nil:
			err = errors.ErrUnsupported
		case info.id.known() && slices.Contains(s.secrets, info.id), s.denies && s.access.covers(filepath.Join(s.abs, dir)):
			next.close()
			err = denied()
		}
		if err != nil {
			return statDir{}, err
		}
		at, self = next, info
		if info.changed.After(s.changed) {
			s.changed = info.changed
		}
	}
	return statDir{name: name, dir: at, self: self}, nil
}

func (s *statBelow) close() { s.closeFrom(0) }

//
//go:noinline // each copy counts in the size of a release
func (s *statBelow) closeFrom(n int) {
	for _, d := range s.open[n:] {
		d.dir.close()
	}
	s.open = s.open[:n]
}

// safeRel reports whether a relative path printed by git may be looked up: it
// stays below its directory and names none of the daemon's own files.
func safeRel(rel string) bool {
	return filepath.IsLocal(filepath.FromSlash(rel)) && !hasSecretName(rel)
}

// readDir returns the names and types of the entries of a directory below root, in no
// order. It describes no entry whose type the directory has, as os.Root would.
func readDir(root *os.Root, rel string) ([]dirEntryName, error) {
	d, err := openDirBelow(root, rel)
	if err != nil {
		return nil, err
	}
	defer d.close()
	var entries []dirEntryName
	err = d.read(func(name string, typ fs.FileMode) error {
		if typ == typeUnknown {
			info, err := d.lstat(name)
			if errors.Is(err, fs.ErrNotExist) {
				return nil // removed since it was listed
			}
			if err != nil {
				return err
			}
			typ = info.mode.Type()
		}
		entries = append(entries, dirEntryName{name: name, typ: typ})
		return nil
	})
	return entries, err
}
