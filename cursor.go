package main

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
)

const (
	// cursorVersion changes with the meaning of a cursor's fields: one of
	// another version of the daemon is refused, not misread.
	cursorVersion = 2
	// maxCursorLength bounds a cursor from the wire: a path of 4 KiB in two
	// layers of base64, and some figures.
	maxCursorLength = 16 << 10
)

// pageCursor says where a listing goes on: after so many entries, or after a
// name. It holds all there is to know: nothing is kept for it, and it outlives
// a restart.
type pageCursor struct {
	Version int    `json:"v"`
	Request string `json:"q"`           // fingerprint of the method and its params
	State   string `json:"s"`           // what was listed, such as a tree's id
	At      int64  `json:"n,omitempty"` // how many entries were delivered
	Total   int64  `json:"t,omitempty"` // of how many, where the method tells
	After   []byte `json:"a,omitempty"` // the last name, where names are the order
}

// readCursor reads the cursor of a request; without one it is that of the first
// page. asked names the request without cursor and limit; another request's
// cursor is -32602. The caller compares the state.
func readCursor(given *string, request string) (pageCursor, error) {
	if given == nil {
		return pageCursor{Version: cursorVersion, Request: request}, nil
	}
	foreign := invalidParam("cursor", "is not one that this method returned for these params")
	if len(*given) > maxCursorLength {
		return pageCursor{}, foreign
	}
	data, err := base64.RawURLEncoding.DecodeString(*given)
	var c pageCursor
	switch {
	case err != nil, json.Unmarshal(data, &c) != nil, c.Version != cursorVersion, c.Request != request, c.At < 0, c.Total < 0,
		(c.At > 0) == (len(c.After) > 0): // it has one position
		return pageCursor{}, foreign
	}
	return c, nil
}

// startCursor is readCursor where the state of what is listed is known: CONFLICT
// when it has changed.
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

// staleCursor is the answer when what a cursor lists has changed.
func staleCursor() *rpcError {
	return failure(codeConflict, "what the cursor lists has changed: start again without a cursor")
}

// next is the cursor behind count more entries.
func (c pageCursor) next(count int) *string {
	c.At += int64(count)
	return c.text()
}

// text is what the caller hands back to go on.
func (c pageCursor) text() *string {
	data, err := json.Marshal(c)
	if err != nil {
		return nil // cannot be: the fields are plain
	}
	return new(base64.RawURLEncoding.EncodeToString(data))
}

// fingerprint tells lists of strings apart, in 24 characters.
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

// fingerprintList makes one part of a list.
func fingerprintList(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return fingerprint(list...)
}
