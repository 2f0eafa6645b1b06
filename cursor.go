package main

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"slices"
	"sync"
	"time"
)

const (
	// cursorVersion changes with the meaning of a cursor's fields, so that the
	// cursor of another version of the daemon is rejected instead of misread.
	cursorVersion = 2
	// maxCursorLength bounds a cursor from the wire: a path of 4 KiB, twice in
	// base64, and some numbers.
	maxCursorLength = 16 << 10
)

// pageCursor is the position in a listing: after a number of entries, or after
// a name. It is complete in itself: the daemon stores nothing for it, and it
// stays valid across a restart.
type pageCursor struct {
	Version int    `json:"v"`
	Request string `json:"q"`           // fingerprint of the method and its params
	State   string `json:"s"`           // what was listed, such as the id of a tree
	At      int64  `json:"n,omitempty"` // number of entries delivered
	Total   int64  `json:"t,omitempty"` // total number of entries, if the method reports it
	After   []byte `json:"a,omitempty"` // last name delivered, if the listing is ordered by name
}

// readCursor parses the cursor of a request; without one it returns the cursor
// of the first page. request is a fingerprint of the request without cursor and
// limit, and a cursor of another request is an error (-32602). The caller
// compares the state.
func readCursor(given *string, request string) (pageCursor, error) {
	if given == nil {
		return pageCursor{Version: cursorVersion, Request: request}, nil
	}
	foreign := invalidParam("cursor", "was not returned by this method for these params")
	if len(*given) > maxCursorLength {
		return pageCursor{}, foreign
	}
	data, err := base64.RawURLEncoding.DecodeString(*given)
	var c pageCursor
	switch {
	case err != nil, decodeJSON(data, &c) != nil, c.Version != cursorVersion, c.Request != request, c.At < 0, c.Total < 0,
		(c.At > 0) == (len(c.After) > 0): // a cursor has exactly one kind of position
		return pageCursor{}, foreign
	}
	return c, nil
}

// startCursor is readCursor for a known state of the listing. The error is
// CONFLICT if the state has changed.
func startCursor(given *string, request, state string) (pageCursor, error) {
	c, err := readCursor(given, request)
	switch {
	case err != nil:
		return pageCursor{}, err
	case given != nil && c.State != state:
		return pageCursor{}, staleCursor()
	}
	c.State = state
	return c, nil
}

// staleCursor is the error for a cursor whose listing has changed.
func staleCursor() *rpcError {
	return failure(codeConflict, "the listing has changed since the cursor was created: start again without a cursor")
}

// next returns the cursor after count more entries.
func (c pageCursor) next(count int) *string {
	c.At += int64(count)
	return c.text()
}

// text encodes the cursor for the wire.
func (c pageCursor) text() *string {
	data, err := json.Marshal(c)
	if err != nil {
		return nil // impossible: the fields are plain
	}
	return new(base64.RawURLEncoding.EncodeToString(data))
}

// fingerprint returns 24 characters that differ for different lists of strings.
func fingerprint(parts ...string) string {
	h := sha256.New()
	var length [8]byte
	for _, part := range parts {
		binary.BigEndian.PutUint64(length[:], uint64(len(part)))
		h.Write(length[:])
		h.Write([]byte(part))
	}
	return hex.EncodeToString(h.Sum(nil)[:12])
}

// fingerprintList combines a list into one part of a fingerprint.
//
//go:noinline // each copy counts in the size of a release
func fingerprintList(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return fingerprint(list...)
}

const (
	// maxKeptLists and maxKeptBytes bound the lists of one method that are kept: one
	// of the largest, which ends with a whole block, or several others.
	maxKeptLists = 8
	maxKeptBytes = maxListingBytes + maxListingBytes/listingBlock
	// listIdle is how long lists are kept after the last page. A caller that needs
	// more pages requests them right away.
	listIdle = 30 * time.Second
)

// keptLists keeps the lists that callers are paging through, so that git runs once
// for all pages. It only saves time: a cursor is valid without it.
type keptLists struct {
	mu    sync.Mutex
	lists []keptList  // guarded by mu, most recently used last
	timer *time.Timer // guarded by mu, empties lists
}

type keptList struct {
	key   string
	list  any // not changed once it is kept
	bytes int
}

// find returns the list for key, or nil.
func (k *keptLists) find(key string) any {
	k.mu.Lock()
	defer k.mu.Unlock()
	l := k.takeLocked(key)
	if l.list != nil {
		k.addLocked(l)
	}
	return l.list
}

// keep keeps a list of some bytes in place of the previous one for its key.
func (k *keptLists) keep(key string, list any, bytes int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.takeLocked(key)
	k.addLocked(keptList{key, list, bytes})
	sum := 0
	for _, l := range k.lists {
		sum += l.bytes
	}
	for len(k.lists) > 1 && (sum > maxKeptBytes || len(k.lists) > maxKeptLists) {
		sum -= k.takeLocked(k.lists[0].key).bytes
	}
}

// drop forgets a list after its last page.
func (k *keptLists) drop(key string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.takeLocked(key)
}

func (k *keptLists) addLocked(l keptList) {
	k.lists = append(k.lists, l)
	if k.timer == nil {
		k.timer = time.AfterFunc(listIdle, k.empty)
	}
	k.timer.Reset(listIdle)
}

func (k *keptLists) takeLocked(key string) keptList {
	for n, l := range k.lists {
		if l.key == key {
			k.lists = slices.Delete(k.lists, n, n+1)
			return l
		}
	}
	return keptList{}
}

func (k *keptLists) empty() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.lists = nil
}
