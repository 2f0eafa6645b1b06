package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"
)

// errEnough ends a walk early: what was wanted has been found.
var errEnough = errors.New("enough")

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
		if id := identify(path); id.known() {
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

// namesAfter reads the directory from its start and returns the entries whose
// keys follow after, in the order of their bytes, at most `most` of them; more
// tells that others follow. It holds no more than twice `most` in memory,
// however large the directory is. keep sees every entry; it gives its key and
// its type as far as it knows it, or leaves it out.
func (d *dirHandle) namesAfter(ctx context.Context, after string, most int, keep func(name string, typ fs.FileMode) (e dirEntryName, ok bool)) (names []dirEntryName, more bool, err error) {
	byKey := func(x, y dirEntryName) int { return cmp.Compare(x.key, y.key) }
	limit := "" // the largest key that can still be among the smallest, once there are `most`
	seen := 0
	err = d.read(func(name string, typ fs.FileMode) error {
		// Asking each time would cost as much as reading the entry.
		if seen++; seen%1024 == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		e, ok := keep(name, typ)
		switch {
		case !ok || e.key <= after:
			return nil
		case limit != "" && e.key > limit:
			more = true
			return nil
		}
		names = append(names, e)
		if len(names) >= 2*most {
			slices.SortFunc(names, byKey)
			clear(names[most:]) // lets the strings go
			names, more = names[:most], true
			limit = names[most-1].key
		}
		return nil
	})
	if err != nil {
		return nil, false, err
	}
	slices.SortFunc(names, byKey)
	if len(names) > most {
		names, more = names[:most], true
	}
	return names, more, nil
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
