package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"strings"
	"sync"
	"sync/atomic"
)

// errSpareStays means that files of the spare cannot be removed from the new state.
var errSpareStays = errors.New("files of an earlier state cannot be removed")

const (
	// maxTreeDepth bounds how deep files are linked, with two open directories for
	// each level; git checks out what lies deeper.
	maxTreeDepth = 64
	// linkHelpers is how many goroutines link directories at the same time, besides the
	// first: most of the time goes to the file system, which takes two at once.
	linkHelpers = 3
)

// linkFiles gives the new state the files of the old one, as hard links: git
// removes a file before it writes it anew, so the old state keeps its own. Only a
// program that has a file of the old state open and writes into it changes the new
// state too, as if it had opened it there; the next run sees the file's new time and
// checks everything out. A file
// that cannot be linked is left out, and git checks it out. After errSpareStays the
// new state has other files.
func (r *clonedRepo) linkFiles(ctx context.Context) error {
	reused, index := r.moveSpare()
	if index != nil {
		return r.linkChanges(ctx, index)
	}
	from, err1 := openDirBelow(r.store.root, r.name)
	to, err2 := openDirBelow(r.store.root, r.temp)
	if err1 == nil && err2 == nil {
		l := &treeLinker{ctx: ctx, root: r.store.root, top: r.temp + "/", helpers: make(chan struct{}, linkHelpers)}
		if info, err := r.store.root.Lstat(r.temp + "/.git/objects"); err == nil {
			l.mode = info.Mode().Perm()
		}
		l.link(from, to, l.top, reused, maxTreeDepth)
		if l.stays.Load() {
			err1 = errSpareStays
		}
	}
	for _, dir := range []*dirHandle{from, to} {
		if dir != nil {
			dir.close()
		}
	}
	if reused {
		return errors.Join(err1, err2)
	}
	return nil
}

// moveSpare moves the files of the spare, if there is one, to the new state, which
// has none yet. It returns their index if that is still true.
func (r *clonedRepo) moveSpare() (moved bool, index *treeIndex) {
	old, dirs := r.store.takeSpare(r.name)
	if old == "" {
		return false, nil
	}
	defer r.store.remove(old) // the next clear removes what stays
	index = r.indexOfSpare(old, dirs)
	entries, err := fs.ReadDir(r.store.root.FS(), old)
	for _, e := range entries {
		if e.Name() != ".git" && renameIn(r.store.root, old+"/"+e.Name(), r.temp+"/"+e.Name()) != nil {
			index = nil // it is linked
		}
	}
	if err != nil {
		index = nil
	}
	return err == nil, index
}

// treeLinker makes a tree of hard links.
type treeLinker struct {
	ctx     context.Context
	root    *os.Root
	top     string        // path of the new state, with a slash
	mode    fs.FileMode   // of the directories that are made
	helpers chan struct{} // holds a token for each goroutine besides the first
	stays   atomic.Bool   // something could not be removed
}

// link makes the files of a directory, and of those below it, hard links to those in
// from. path is that of the directory to, with a slash. It is empty unless reused: then
// links that are there stay, and everything else is removed. What cannot be linked is
// checked out later.
func (l *treeLinker) link(from, to *dirHandle, path string, reused bool, depth int) {
	if l.ctx.Err() != nil {
		return
	}
	there := map[string]uint64{} // inodes by name
	if reused {
		if info, err := to.info(); err == nil && info.mode.Perm() != l.mode && path != l.top {
			_ = l.root.Chmod(strings.TrimSuffix(path, "/"), l.mode) // it may have been made read-only
		}
		if to.readInodes(func(name string, _ fs.FileMode, inode uint64) error {
			there[name] = inode
			return nil
		}) != nil {
			l.stays.Store(true)
		}
	}
	if path == l.top {
		delete(there, ".git")
	}
	var below sync.WaitGroup
	defer below.Wait() // they use the handles of this directory
	_ = from.readInodes(func(name string, typ fs.FileMode, inode uint64) error {
		if name == ".git" {
			return nil
		}
		old, exists := there[name]
		delete(there, name)
		typ = from.typeOf(name, typ)
		switch {
		case typ.IsDir() && depth > 1:
			linkDir := func() { l.linkDir(from, to, path+name, name, exists, depth-1) }
			select {
			case l.helpers <- struct{}{}:
				below.Go(func() {
					defer func() { <-l.helpers }()
					linkDir()
				})
			default:
				linkDir()
			}
		case exists && old == inode && inode != 0:
		case exists && !l.remove(path+name):
		case typ.IsRegular(), typ&fs.ModeSymlink != 0:
			_ = from.link(name, to)
		}
		return nil
	})
	for name := range there {
		l.remove(path + name)
	}
}

// remove removes what the spare has at a path, and reports whether that worked.
func (l *treeLinker) remove(path string) bool {
	if removeTree(l.ctx, l.root, path) != nil {
		l.stays.Store(true)
		return false
	}
	return true
}

// linkDir links the directory called name; reused reports whether to has something of
// that name.
func (l *treeLinker) linkDir(from, to *dirHandle, path, name string, reused bool, depth int) {
	below, err := from.openDir(name)
	if err != nil {
		return
	}
	defer below.close()
	beside, err := to.openDir(name)
	if err != nil {
		if reused && !l.remove(path) || to.mkdir(name) != nil {
			return
		}
		reused = false
		if beside, err = to.openDir(name); err != nil {
			return
		}
	}
	defer beside.close()
	l.link(below, beside, path+"/", reused, depth)
}
