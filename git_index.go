package main

import (
	"bytes"
	"encoding/binary"
)

// Types of an entry of an index: the upper four bits of its mode.
const (
	indexFile    = 0o10
	indexSymlink = 0o12
	indexGitlink = 0o16
)

// indexIDAt is where an entry of an index has its object id.
const indexIDAt = 40

func indexMode(entry []byte) uint32 { return binary.BigEndian.Uint32(entry[24:]) }

// eachIndexEntry calls each for the entries of an index of version 2
// (gitformat-index(5)), in order, and reports whether these are all that git knows of the
// files: an index may be of another version, share entries with another file, tell git
// not to look at some files, or be broken. A path in conflict has several entries;
// each gets the part before the path as entry.
func eachIndexEntry(index []byte, sha256 bool, each func(name, entry []byte)) bool {
	const (
		headerSize      = 12
		extensionHeader = 8 // its name and its size
		flagsSize       = 2
		assumeUnchanged = 0x80 // of the first byte of the flags
	)
	idSize := 20
	if sha256 {
		idSize = 32
	}
	if len(index) < headerSize+idSize || !bytes.HasPrefix(index, []byte("DIRC\x00\x00\x00\x02")) {
		return false
	}
	rest := index[headerSize:]
	nameAt, plain := indexIDAt+idSize+flagsSize, true
	for entries := binary.BigEndian.Uint32(index[8:]); entries > 0; entries-- {
		if len(rest) <= nameAt {
			return false
		}
		length := bytes.IndexByte(rest[nameAt:], 0)
		if length <= 0 {
			return false
		}
		plain = plain && rest[nameAt-flagsSize]&assumeUnchanged == 0
		each(rest[nameAt:nameAt+length], rest[:nameAt])
		rest = rest[min((nameAt+length+8)/8*8, len(rest)):] // at least one NUL
	}
	// The name of an extension that a reader must know begins with a small letter.
	for len(rest) >= extensionHeader+idSize {
		size := uint64(binary.BigEndian.Uint32(rest[4:])) + extensionHeader
		if rest[0] >= 'a' || size > uint64(len(rest)) {
			return false
		}
		rest = rest[size:]
	}
	return plain && len(rest) == idSize
}
