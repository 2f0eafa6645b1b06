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
	cursorVersion = 1
	// maxPageCursor bounds a cursor from the wire; ours have some 150 bytes.
	maxPageCursor = 1024
)

// pageCursor says where a listing goes on. It holds all there is to know:
// nothing is kept for it, and it outlives a restart.
type pageCursor struct {
	Version int    `json:"v"`
	Asked   string `json:"q"` // fingerprint of the method and its params
	State   string `json:"s"` // what was listed, such as a tree's id
	At      int64  `json:"n"` // how many entries were delivered
	Total   int64  `json:"t"` // of how many, where the method tells
}

// startCursor reads the cursor of a request; without one it is that of the
// first page. asked names the request without cursor and limit, state what it
// lists now. Another request's cursor is -32602, one whose listing has changed
// CONFLICT.
func startCursor(given *string, asked, state string) (pageCursor, error) {
	if given == nil {
		return pageCursor{Version: cursorVersion, Asked: asked, State: state}, nil
	}
	foreign := invalidParam("cursor", "is not one that this method returned for these params")
	if len(*given) > maxPageCursor {
		return pageCursor{}, foreign
	}
	data, err := base64.RawURLEncoding.DecodeString(*given)
	var c pageCursor
	switch {
	case err != nil, json.Unmarshal(data, &c) != nil, c.Version != cursorVersion, c.Asked != asked, c.At < 1, c.Total < 0:
		return pageCursor{}, foreign
	case c.State != state:
		return pageCursor{}, failure(codeConflict, "what the cursor lists has changed: start again without a cursor")
	}
	return c, nil
}

// next is the cursor behind count more entries.
func (c pageCursor) next(count int) *string {
	c.At += int64(count)
	data, err := json.Marshal(c)
	if err != nil {
		return nil // cannot be: the fields are plain
	}
	text := base64.RawURLEncoding.EncodeToString(data)
	return &text
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

// valueOr is an optional param's value.
func valueOr[T any](given *T, byDefault T) T {
	if given == nil {
		return byDefault
	}
	return *given
}
