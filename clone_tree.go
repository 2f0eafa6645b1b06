package main

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"strings"
	"time"
)

const (
	// dirSettles is the age from which a change of a directory gives it another
	// modification time: file systems count in steps of up to 10 ms.
	dirSettles = 100 * time.Millisecond
	// dirSettlesSlowly is that age where times are whole seconds, or even ones (FAT).
	dirSettlesSlowly = 3 * time.Second
)

// errOther ends the reading of a directory that holds something else.
var errOther = errors.New("not in the index")

// treeIndex is an index with which a work tree is compared.
type treeIndex struct {
	entries map[string][]byte // by path; what precedes the name (eachIndexEntry)
	dirs    []string          // of the entries and submodules, outer ones first; "" is the top
	isDir   map[string]bool
	isOdd   bool // some are deeper than maxTreeDepth, or it was not read to its end
	sha256  bool
}

func newTreeIndex(raw []byte, sha256 bool) *treeIndex {
	x := &treeIndex{entries: map[string][]byte{}, isDir: map[string]bool{}, sha256: sha256}
	add := func(dir string) {
		if !x.isDir[dir] {
			x.isDir[dir] = true
			x.dirs = append(x.dirs, dir)
		}
	}
	add("")
	last := ""
	whole := eachIndexEntry(raw, sha256, func(text, entry []byte) {
		name := string(text)
		x.entries[name] = entry
		if dir, _ := path.Split(name); dir != last { // git sorts by path
			last = dir
			x.isOdd = x.isOdd || strings.Count(dir, "/") >= maxTreeDepth
			for i := range dir {
				if dir[i] == '/' {
					add(dir[:i])
				}
			}
		}
		if indexMode(entry)>>12 == indexGitlink {
			add(name)
		}
	})
	x.isOdd = x.isOdd || !whole
	return x
}

// dirStamp changes when an entry of the directory is added, removed or renamed, if the
// directory is old enough.
type dirStamp struct {
	inode   uint64
	mtime   int64
	changed int64 // a program can set mtime back, but not this
	mode    fs.FileMode
}

// stamps returns the stamps of all directories, and of those that are old enough. ok
// reports whether all are there.
func (x *treeIndex) stamps(top *dirHandle) (all, settled map[string]dirStamp, ok bool) {
	now := time.Now()
	all, settled = make(map[string]dirStamp, len(x.dirs)), make(map[string]dirStamp, len(x.dirs))
	for _, dir := range x.dirs {
		info, err := top.lstat(path.Join(".", dir))
		if err != nil || !info.mode.IsDir() {
			return nil, nil, false
		}
		stamp := dirStamp{inode: info.id.ino, mtime: info.mtime.UnixNano(), changed: info.changed.UnixNano(), mode: info.mode}
		all[dir] = stamp
		age := now.Sub(info.mtime)
		if age > dirSettlesSlowly || age > dirSettles && info.mtime.Nanosecond() != 0 {
			settled[dir] = stamp
		}
	}
	return all, settled, true
}

// hasAll reports whether the directories of the index are there and hold nothing that
// it does not have. Those that are known are not read. It returns the stamps of those
// that are old enough.
func (x *treeIndex) hasAll(top *dirHandle, known map[string]dirStamp) (settled map[string]dirStamp, ok bool) {
	all, settled, ok := x.stamps(top)
	for dir, stamp := range all {
		if known[dir] != stamp && !x.holdsNoOther(top, dir) {
			return nil, false
		}
	}
	return settled, ok
}

func (x *treeIndex) holdsNoOther(top *dirHandle, name string) bool {
	dir, err := top.openDir(path.Join(".", name))
	if err != nil {
		return false
	}
	defer dir.close()
	return dir.read(func(entry string, _ fs.FileMode) error {
		at := path.Join(name, entry)
		if x.entries[at] == nil && !x.isDir[at] && at != ".git" {
			return errOther
		}
		return nil
	}) == nil
}

// indexOfSpare returns the index of a spare whose directories are as they were when it
// was retired, or nil.
func (r *clonedRepo) indexOfSpare(name string, dirs map[string]dirStamp) *treeIndex {
	if r.live == nil {
		return nil
	}
	index, top, err := r.openTree(name)
	if err != nil {
		return nil
	}
	defer top.close()
	all, _, ok := index.stamps(top)
	for dir, stamp := range all {
		known := dirs[dir]
		if dir == "" { // the exchange has changed it
			known.changed, ok = stamp.changed, ok && index.holdsNoOther(top, dir)
		}
		ok = ok && known == stamp
	}
	if !ok {
		return nil
	}
	return index
}

// linkChanges makes the new state, which has the files of a spare, those of the old one,
// where their indexes differ.
func (r *clonedRepo) linkChanges(ctx context.Context, spare *treeIndex) error {
	root, stays := r.store.root, false
	remove := func(name string) { stays = stays || removeTree(ctx, root, r.temp+"/"+name) != nil }
	for _, dir := range spare.dirs {
		if !r.live.isDir[dir] {
			remove(dir)
		}
	}
	for name := range spare.entries {
		if r.live.entries[name] == nil && !spare.isDir[name] {
			remove(name)
		}
	}
	for name, entry := range r.live.entries {
		const mtimeAt = 8 // what precedes it is the time of the last link
		other, to := spare.entries[name], r.temp+"/"+name
		if other != nil && string(other[mtimeAt:]) == string(entry[mtimeAt:]) {
			continue
		}
		if !spare.isDir[name] {
			remove(name)
		}
		// What fails here is made by git.
		if r.live.isDir[name] {
			_ = root.MkdirAll(to, 0o777)
		} else if root.MkdirAll(path.Dir(to), 0o777) == nil {
			_ = root.Link(r.name+"/"+name, to)
		}
	}
	if stays && ctx.Err() == nil {
		return errSpareStays
	}
	return nil
}
