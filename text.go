package main

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"strings"
	"unicode/utf8"
)

// This file makes texts of others fit to be shown.

// cleanText takes out control characters: what a remote says may end up on
// somebody's terminal.
func cleanText(s string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 && r != '\t' || r >= 0x7f && r < 0xa0 {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
}

// showName is a file name fit for JSON: what is not UTF-8 becomes U+FFFD.
func showName(name string) string { return strings.ToValidUTF8(name, string(utf8.RuneError)) }

// nameBase64 is the exact name where showName could not keep it, else "".
func nameBase64(name string) string {
	if utf8.ValidString(name) {
		return ""
	}
	return base64.StdEncoding.EncodeToString([]byte(name))
}

// randomHex is so many random bytes as hexadecimal digits: an id or a token that
// nobody guesses.
func randomHex(bytes int) string {
	random := make([]byte, bytes)
	_, _ = rand.Read(random) // never fails, as its documentation says
	return hex.EncodeToString(random)
}
