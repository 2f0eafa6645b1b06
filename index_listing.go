package main

import (
	"encoding/binary"
	"encoding/hex"
	"slices"
	"strconv"
)

const (
	// maxListingBytes bounds one cached listing: about 800,000 files in packed
	// form. A longer listing is cached from the requested position.
	maxListingBytes = 32 << 20
	// listingBlock is the number of entries in a block; a whole block is
	// decoded to find one entry.
	listingBlock = 512
)

// listing is a range of consecutive entries of a tree in packed form: each path
// without the prefix that it shares with the previous one, the id in binary.
type listing struct {
	key    string
	commit string // the commit that is listed
	tree   string
	first  int64 // index of the first entry
	count  int64
	total  int64 // number of entries in the tree
	blocks [][]byte
	bytes  int

	open []byte // the block being filled
	last []byte // the previous path
}

// full reports whether the listing has reached its maximum size.
func (l *listing) full() bool { return l.bytes+len(l.open) >= maxListingBytes }

// holds reports whether the listing contains entry n, or n is the end of the
// tree.
func (l *listing) holds(n int64) bool {
	return n >= l.first && (n < l.first+l.count || n == l.total)
}

// add appends an entry.
func (l *listing) add(e treeEntry) error {
	mode, err := strconv.ParseUint(e.mode, 8, 32)
	if err != nil {
		return badOutput("ls-tree", []byte(e.mode))
	}
	shared := 0
	for shared < len(l.last) && shared < len(e.path) && l.last[shared] == e.path[shared] {
		shared++
	}
	l.open = binary.AppendUvarint(l.open, mode)
	l.open = binary.AppendUvarint(l.open, uint64(e.size+1))
	l.open = append(l.open, byte(len(e.oid)/2))
	if l.open, err = hex.AppendDecode(l.open, e.oid); err != nil {
		return badOutput("ls-tree", e.oid)
	}
	l.open = binary.AppendUvarint(l.open, uint64(shared))
	l.open = binary.AppendUvarint(l.open, uint64(len(e.path)-shared))
	l.open = append(l.open, e.path[shared:]...)
	l.last = append(l.last[:0], e.path...)
	if l.count++; l.count%listingBlock == 0 {
		l.seal()
	}
	return nil
}

// seal ends a block. The next block starts with a complete path, so it can be
// decoded by itself.
func (l *listing) seal() {
	if len(l.open) > 0 {
		l.blocks = append(l.blocks, slices.Clone(l.open))
		l.bytes += len(l.open)
		l.open, l.last = l.open[:0], l.last[:0]
	}
}

// files decodes up to limit entries starting with entry n.
func (l *listing) files(n int64, limit int) []manifestFile {
	skip := n - l.first
	limit = int(min(int64(limit), l.count-skip))
	files := make([]manifestFile, 0, max(limit, 0))
	for at := skip / listingBlock; at < int64(len(l.blocks)) && len(files) < limit; at++ {
		files = unpackBlock(l.blocks[at], int(max(skip-at*listingBlock, 0)), limit, files)
	}
	return files
}

// unpackBlock decodes a block, skips its first entries and appends the others
// to files, until files has limit entries.
func unpackBlock(block []byte, skip, limit int, files []manifestFile) []manifestFile {
	number := func() int {
		v, n := binary.Uvarint(block)
		block = block[n:]
		return int(v)
	}
	var path []byte
	// One allocation for all sizes, and one for all ids.
	most := min(limit-len(files), listingBlock)
	sizes := make([]int64, 0, most)
	var ids []byte
	first := len(files)
	for len(block) > 0 && len(files) < limit {
		mode := number()
		size := int64(number()) - 1
		width := int(block[0])
		oid := block[1 : 1+width]
		block = block[1+width:]
		shared := number()
		more := number()
		path = append(path[:shared], block[:more]...)
		block = block[more:]
		if skip > 0 {
			skip--
			continue
		}
		if ids == nil {
			ids = make([]byte, 0, 2*width*most)
		}
		ids = hex.AppendEncode(ids, oid)
		f := manifestFile{Path: string(path), Mode: gitMode(mode)}
		if f.PathBase64 = nameBase64(f.Path); f.PathBase64 != "" {
			f.Path = showName(f.Path)
		}
		if size >= 0 {
			sizes = append(sizes, size)
			f.Size = &sizes[len(sizes)-1]
		}
		files = append(files, f)
	}
	if listed := files[first:]; len(listed) > 0 {
		text, width := string(ids), len(ids)/len(listed) // the same for all
		for n := range listed {
			listed[n].OID = text[n*width : (n+1)*width]
		}
	}
	return files
}

// gitMode formats a mode as six octal digits.
func gitMode(mode int) string {
	switch mode {
	case 0o100644:
		return "100644"
	case 0o100755:
		return "100755"
	}
	text := strconv.FormatInt(int64(mode), 8)
	for len(text) < 6 {
		text = "0" + text
	}
	return text
}
