package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// typeUnknown is the type of a directory entry of which the file system did
// not tell more than the name.
const typeUnknown = ^fs.FileMode(0)

// entryInfo is what there is to know of a file, of a link itself.
type entryInfo struct {
	mode  fs.FileMode
	size  int64
	mtime time.Time
	id    fileID
}

// fileID tells files apart on one machine. It is zero where the system has no
// cheap one (Windows), and then equals nothing.
type fileID struct{ dev, ino uint64 }

func (id fileID) known() bool { return id != fileID{} }

// secretIDs are the identities of the daemon's own files as they are now, for
// listings that would otherwise ask for each entry.
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

// dirEntryName is a name in a directory, with its type where it is known. key
// is what it is sorted by.
type dirEntryName struct {
	key, name string
	typ       fs.FileMode
}

// topK keeps the entries with the topK keys that follow `after`, at
// most `most` of them. It holds no more than twice as many, however many it is
// given.
type topK struct {
	after string
	limit int

	kept []dirEntryName
	last string // once there are `most`: the largest key that can still be among them
	more bool   // others follow
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

// sorted gives the entries in the order of their keys' bytes.
func (k *topK) sorted() []dirEntryName {
	slices.SortFunc(k.kept, func(x, y dirEntryName) int { return cmp.Compare(x.key, y.key) })
	if len(k.kept) > k.limit {
		clear(k.kept[k.limit:]) // lets the strings go
		k.kept, k.more = k.kept[:k.limit], true
	}
	return k.kept
}

// namesAfter reads the directory from its start and returns the entries whose
// keys follow after, in the order of their bytes, at most `most` of them; more
// tells that others follow. keep sees every entry; it gives its key and its
// type as far as it knows it, or leaves it out.
func (d *dirHandle) namesAfter(ctx context.Context, after string, limit int, keep func(name string, typ fs.FileMode) (e dirEntryName, ok bool)) (names []dirEntryName, more bool, err error) {
	page := topK{after: after, limit: limit}
	seen := 0
	err = d.read(func(name string, typ fs.FileMode) error {
		// Asking each time would cost as much as reading the entry.
		if seen++; seen%1024 == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
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

// chunkSize is how many names of one directory a walk holds at a depth: less
// further down, so that a chain of large directories stays within some
// megabytes.
func chunkSize(depth int) int { return max(64<<10>>min(depth, 30), 256) }

// typeOf is typ, or what lstat tells where the directory did not; an entry
// that is gone by then is irregular.
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

// directoryState names a directory and its entries as they are: it changes
// when an entry is added, removed or renamed (the time of change is that of
// the file system, some milliseconds coarse), or the directory is replaced.
func directoryState(path string, info entryInfo) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%d\x00%d\x00%d", path, info.id.dev, info.id.ino, info.mtime.UnixNano()))
	return hex.EncodeToString(sum[:8])
}

// statBelow describes files below a directory, asked for in the order of their
// paths, without following a link or leaving the file system on the way.
type statBelow struct {
	start *dirHandle
	dev   uint64
	rel   string // the directory that is open
	dir   *dirHandle
}

func (s *statBelow) lstat(rel string) (entryInfo, error) {
	dir, name := path.Split(rel)
	if s.dir == nil || dir != s.rel {
		s.close()
		if err := s.open(dir); err != nil {
			return entryInfo{}, err
		}
	}
	return s.dir.lstat(name)
}

func (s *statBelow) open(rel string) error {
	at := s.start
	for name := range strings.SplitSeq(strings.TrimSuffix(rel, "/"), "/") {
		if name == "" {
			name = "."
		}
		next, err := at.openDir(name)
		if at != s.start {
			at.close()
		}
		if err != nil {
			return err
		}
		at = next
	}
	self, err := at.info()
	if err == nil && self.id.dev != s.dev {
		err = errors.ErrUnsupported // another file system
	}
	if err != nil {
		at.close()
		return err
	}
	s.rel, s.dir = rel, at
	return nil
}

func (s *statBelow) close() {
	if s.dir != nil {
		s.dir.close()
		s.dir = nil
	}
}

// safeRel tells a path as git prints it that is fit to be looked up.
func safeRel(rel string) bool {
	return filepath.IsLocal(filepath.FromSlash(rel)) && !hasSecretName(rel)
}

// direntBatch is the number of names read at a time.
const direntBatch = 512

// eachName calls each for every name in f from where it stands on, and stops at
// each's error.
func eachName(f *os.File, each func(name string, typ fs.FileMode) error) error {
	for {
		names, err := f.Readdirnames(direntBatch)
		for _, name := range names {
			if err := each(name, typeUnknown); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF), err == nil && len(names) == 0:
			return nil
		case err != nil:
			return err
		}
	}
}

// readDir returns the entries of a directory below root, in no order.
func readDir(root *os.Root, rel string) ([]fs.DirEntry, error) {
	f, err := root.Open(rel)
	if err != nil {
		return nil, err
	}
	defer f.Close() // nothing is written
	return f.ReadDir(-1)
}
