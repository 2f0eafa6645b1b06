package main

import (
	"encoding/base64"
	"encoding/json"
)

// maxCursorLength bounds a cursor from the wire: a path of 4 KiB in two layers
// of base64, and some figures.
const maxCursorLength = 16 << 10

// encodeCursor makes the text that a caller hands back to go on after v.
func encodeCursor(v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		return "" // v is one of our own plain structs
	}
	return base64.RawURLEncoding.EncodeToString(data)
}

// decodeCursor reads what encodeCursor made; anything else is -32602.
func decodeCursor(s string, v any) error {
	if len(s) > maxCursorLength {
		return invalidParam("cursor", "is not one that this method returned")
	}
	data, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil || json.Unmarshal(data, v) != nil {
		return invalidParam("cursor", "is not one that this method returned")
	}
	return nil
}

// staleCursor is the answer when what a cursor goes through has changed.
func staleCursor() *rpcError {
	return failure(codeConflict, "what the cursor goes through has changed: start again without a cursor")
}
