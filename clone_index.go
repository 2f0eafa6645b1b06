package main

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"slices"
	"strings"
)

const (
	// maxAttributeFiles and maxAttributeFile bound the .gitattributes that are read.
	maxAttributeFiles = 1000
	maxAttributeFile  = 1 << 20
)

// leftOut is something that a commit names and a clone leaves out on purpose.
type leftOut string

const (
	leftOutSubmodules leftOut = "submodules" // each is an empty directory
	leftOutFilters    leftOut = "filters"    // such as that of Git LFS: its files stay pointers
)

func (leftOut) values() []string { return []string{string(leftOutSubmodules), string(leftOutFilters)} }

// findLeftOut returns what the commit names that is checked out in the directory
// dir of the store, and the clone leaves out. An index that cannot be read names
// nothing: this is information beside the result.
func (r *clonedRepo) findLeftOut(dir string) []leftOut {
	found := []leftOut{}
	index, err := r.store.readRegular(dir+"/.git/index", maxIndexFile)
	if err != nil {
		return found
	}
	facts := scanIndex(index, r.usesSHA256())
	if len(facts.submodules) > 0 {
		found = append(found, leftOutSubmodules)
	}
	if slices.ContainsFunc(facts.attributes, func(name string) bool {
		text, err := r.store.readRegular(dir+"/"+name, maxAttributeFile)
		return err == nil && setsFilter(string(text))
	}) {
		found = append(found, leftOutFilters)
	}
	return found
}

// readRegular reads a file of the store. Opening another kind of file could block.
func (s *repoStore) readRegular(name string, limit int64) ([]byte, error) {
	info, err := s.root.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	f, err := s.root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close() // only read
	return readRegular(f, limit)
}

// indexFacts are the paths of an index that are not those of ordinary files.
type indexFacts struct {
	submodules map[string]bool
	attributes []string // .gitattributes files, the first ones
}

// scanIndex reads an index, as far as eachIndexEntry can.
func scanIndex(index []byte, sha256 bool) indexFacts {
	facts := indexFacts{submodules: map[string]bool{}}
	eachIndexEntry(index, sha256, func(name, entry []byte) {
		switch {
		case indexMode(entry)>>12 == indexGitlink:
			facts.submodules[string(name)] = true
		case path.Base(string(name)) == ".gitattributes" && len(facts.attributes) < maxAttributeFiles:
			facts.attributes = append(facts.attributes, string(name))
		}
	})
	return facts
}

// hasPlainIndex reports whether git looks at all files of the old state: the flags of
// git update-index hide edits from it, and make a checkout fail.
func (r *clonedRepo) hasPlainIndex() bool {
	index, err := r.store.readRegular(r.name+"/.git/index", maxIndexFile)
	return err != nil || eachIndexEntry(index, r.usesSHA256(), func(_, _ []byte) {})
}

// setsFilter reports whether a .gitattributes file sets a filter for some files
// (gitattributes(5)).
func setsFilter(text string) bool {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		if slices.ContainsFunc(strings.Fields(line), func(word string) bool { return strings.HasPrefix(word, "filter=") }) {
			return true
		}
	}
	return false
}

// hasOthers reports whether the work tree at the name has something that git would not
// have made and git status does not show: an empty directory, a pipe, whatever is
// called .git, what is in the directory of a submodule or in its place. Directories
// that cannot be read, or are too deep to be linked, count too.
func (r *clonedRepo) hasOthers(ctx context.Context) bool {
	index, err := r.store.readRegular(r.name+"/.git/index", maxIndexFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // a repository without commits has none
		return true
	}
	top, err := openDirBelow(r.store.root, r.name)
	if err != nil {
		return true
	}
	defer top.close()
	walk := dirWalk{ctx: ctx, submodules: scanIndex(index, r.old.sha256).submodules}
	_, err = walk.holds(top, "", maxTreeDepth-1)
	return walk.found || err != nil || walk.empty != len(walk.submodules)
}

// dirWalk looks for what git would not have made.
type dirWalk struct {
	ctx        context.Context
	submodules map[string]bool
	empty      int // directories of submodules that were met
	found      bool
}

// holds reports whether a directory has any entry, apart from the git directory at
// the top. name is its path.
func (w *dirWalk) holds(dir *dirHandle, name string, depth int) (any bool, err error) {
	err = dir.read(func(entry string, typ fs.FileMode) error {
		if name == "" && entry == ".git" {
			return nil
		}
		any = true
		if typ = dir.typeOf(entry, typ); !typ.IsDir() {
			w.found = w.found || entry == ".git" || typ&^fs.ModeSymlink != 0 || len(w.submodules) > 0 && w.submodules[path.Join(name, entry)]
			return w.ctx.Err()
		}
		if w.found = w.found || entry == ".git" || depth == 0; w.found {
			return w.ctx.Err()
		}
		below, err := dir.openDir(entry)
		if err != nil {
			return err
		}
		defer below.close()
		at := path.Join(name, entry)
		holds, err := w.holds(below, at, depth-1)
		if w.submodules[at] {
			w.empty++
		}
		w.found = w.found || holds == w.submodules[at]
		return err
	})
	return any, err
}
