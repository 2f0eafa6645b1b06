package main

import (
	"bytes"
	"encoding/binary"
	"errors"
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
	submodules, attributes := scanIndex(index, r.target.sha256 || r.old != nil && r.old.sha256)
	if submodules {
		found = append(found, leftOutSubmodules)
	}
	if slices.ContainsFunc(attributes, func(name string) bool {
		text, err := r.store.readRegular(dir+"/"+name, maxAttributeFile)
		return err == nil && setsFilter(string(text))
	}) {
		found = append(found, leftOutFilters)
	}
	return found
}

// readRegular reads a file of the store. Opening another kind of file could block.
func (s *repoStore) readRegular(name string, limit int64) ([]byte, error) {
	if info, err := s.root.Lstat(name); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(err, errors.ErrUnsupported)
	}
	f, err := s.root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close() // only read
	return readRegular(f, limit)
}

// scanIndex reports whether an index of version 2 (gitformat-index(5)) has
// submodules, and returns the first .gitattributes files in it.
func scanIndex(index []byte, sha256 bool) (submodules bool, attributes []string) {
	const (
		headerSize = 12
		modeAt     = 24      // in an entry
		gitlink    = 0o16000 // the mode without permissions, in units of 010
		idAt       = 40
		flagsSize  = 2
	)
	idSize := 20
	if sha256 {
		idSize = 32
	}
	if len(index) < headerSize || !bytes.HasPrefix(index, []byte("DIRC\x00\x00\x00\x02")) {
		return false, nil
	}
	entries := binary.BigEndian.Uint32(index[8:])
	rest := index[headerSize:]
	nameAt := idAt + idSize + flagsSize
	for ; entries > 0 && len(rest) > nameAt; entries-- {
		end := bytes.IndexByte(rest[nameAt:], 0)
		if end < 0 {
			break
		}
		submodules = submodules || binary.BigEndian.Uint32(rest[modeAt:])>>3 == gitlink
		if name := string(rest[nameAt : nameAt+end]); path.Base(name) == ".gitattributes" && len(attributes) < maxAttributeFiles {
			attributes = append(attributes, name)
		}
		size := (nameAt + end + 8) / 8 * 8 // at least one NUL
		rest = rest[min(size, len(rest)):]
	}
	return submodules, attributes
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
