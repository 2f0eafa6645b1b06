package main

import (
	"encoding/binary"
	"encoding/hex"
	"slices"
	"strconv"
	"sync"
	"time"
)

const (
	// maxListingBytes bounds one kept listing: about 800,000 files, packed. A
	// longer one is kept from where it was asked for.
	maxListingBytes = 32 << 20
	// maxListings bounds how many are kept, maxListingBytes all together.
	maxListings = 8
	// listingIdle is how long they are kept after the last page: a caller that
	// pages on does so at once.
	listingIdle = 30 * time.Second
	// listingBlock is how many entries are decoded to find one.
	listingBlock = 512
)

// listing is a run of entries of a tree, packed: each path without what it
// shares with the one before, the id in binary.
type listing struct {
	key    string
	commit string // what is listed
	tree   string
	first  int64 // the number of its first entry
	count  int64
	total  int64 // of all entries
	blocks [][]byte
	bytes  int

	open []byte // the block being filled
	last []byte // the path before
}

// full tells that there is no room for more.
func (l *listing) full() bool { return l.bytes+len(l.open) >= maxListingBytes }

// holds tells whether entry n is in it, or would be the one behind the end.
func (l *listing) holds(n int64) bool {
	return n >= l.first && (n < l.first+l.count || n == l.total)
}

// add packs one more entry.
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

// seal ends a block: the next one begins with a whole path.
func (l *listing) seal() {
	if len(l.open) > 0 {
		l.blocks = append(l.blocks, slices.Clone(l.open))
		l.bytes += len(l.open)
		l.open, l.last = l.open[:0], l.last[:0]
	}
}

// files unpacks up to most entries from number n on.
func (l *listing) files(n int64, limit int) []manifestFile {
	skip := n - l.first
	limit = int(min(int64(limit), l.count-skip))
	files := make([]manifestFile, 0, max(limit, 0))
	for at := skip / listingBlock; at < int64(len(l.blocks)) && len(files) < limit; at++ {
		files = unpackBlock(l.blocks[at], int(max(skip-at*listingBlock, 0)), limit, files)
	}
	return files
}

// unpackBlock appends the entries of a block behind the first skip ones, until
// files are most.
func unpackBlock(block []byte, skip, limit int, files []manifestFile) []manifestFile {
	number := func() int {
		v, n := binary.Uvarint(block)
		block = block[n:]
		return int(v)
	}
	var path []byte
	sizes := make([]int64, 0, min(limit-len(files), listingBlock)) // in one piece
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
		f := manifestFile{Path: string(path), OID: hex.EncodeToString(oid), Mode: gitMode(mode)}
		f.PathBase64 = nameBase64(f.Path)
		f.Path = showName(f.Path)
		if size >= 0 {
			sizes = append(sizes, size)
			f.Size = &sizes[len(sizes)-1]
		}
		files = append(files, f)
	}
	return files
}

// gitMode is a mode in six octal digits.
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

// listingCache keeps the listings that callers are paging through, so that git
// runs once for all pages. It is only ever a shortcut: a cursor does not
// depend on it.
type listingCache struct {
	mu    sync.Mutex
	kept  []*listing  // under mu, the latest used last
	timer *time.Timer // under mu, empties kept
}

// find is a kept listing that holds entry n.
func (c *listingCache) find(key string, n int64) *listing {
	c.mu.Lock()
	defer c.mu.Unlock()
	at := slices.IndexFunc(c.kept, func(l *listing) bool { return l.key == key && l.holds(n) })
	if at < 0 {
		return nil
	}
	l := c.kept[at]
	c.kept = append(slices.Delete(c.kept, at, at+1), l)
	c.timer.Reset(listingIdle)
	return l
}

// of is the latest listing kept for key.
func (c *listingCache) of(key string) *listing {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range slices.Backward(c.kept) {
		if l.key == key {
			return l
		}
	}
	return nil
}

// keep puts a listing in the place of its predecessor.
func (c *listingCache) keep(l *listing) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dropLocked(l.key)
	c.kept = append(c.kept, l)
	sum := 0
	for n, l := range slices.Backward(c.kept) {
		if sum += l.bytes; sum > maxListingBytes+maxListingBytes/listingBlock || len(c.kept)-n > maxListings {
			c.kept = slices.Delete(c.kept, 0, min(n+1, len(c.kept)-1))
			break
		}
	}
	if c.timer == nil {
		c.timer = time.AfterFunc(listingIdle, c.empty)
	}
	c.timer.Reset(listingIdle)
}

// drop forgets a listing whose last page is out.
func (c *listingCache) drop(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dropLocked(key)
}

func (c *listingCache) dropLocked(key string) {
	c.kept = slices.DeleteFunc(c.kept, func(l *listing) bool { return l.key == key })
}

func (c *listingCache) empty() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kept = nil
}
