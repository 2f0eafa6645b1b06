package main

import (
	"cmp"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

const redacted = "[redacted]"

// secret is a string that must not be shown: every way of printing it gives
// "[redacted]". Convert it to string only where it is used.
type secret string

func (secret) String() string               { return redacted }
func (secret) GoString() string             { return redacted }
func (secret) LogValue() slog.Value         { return slog.StringValue(redacted) }
func (secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// forms returns the encodings in which a secret can appear in a text: plain,
// percent-encoded as package url and git do it, and in base64 as in an
// Authorization header, with and without the user name.
func (s secret) forms(username string) []string {
	t := string(s)
	forms := []string{
		t,
		url.QueryEscape(t),
		url.PathEscape(t),
		percentEncode(t),
		base64.StdEncoding.EncodeToString([]byte(t)),
		base64.StdEncoding.EncodeToString([]byte(username + ":" + t)),
		base64.StdEncoding.EncodeToString([]byte(":" + t)),
		base64.StdEncoding.EncodeToString([]byte(t + ":")),
	}
	for _, f := range forms[:4] {
		forms = append(forms, strings.ToLower(f))
	}
	return forms
}

// percentEncode encodes every byte outside RFC 3986's unreserved set as %xx in
// lower case, as git's credential store does.
func percentEncode(s string) string {
	const hex = "0123456789abcdef"
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		switch {
		case c >= '0' && c <= '9', c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', strings.IndexByte("-._~", c) >= 0:
			b.WriteByte(c)
		default:
			b.WriteByte('%')
			b.WriteByte(hex[c>>4])
			b.WriteByte(hex[c&15])
		}
	}
	return b.String()
}

// redactor removes secrets from texts that other programs wrote, such as errors
// of git and messages of a server.
type redactor struct{ forms []string }

// newRedactor returns a redactor that removes the credentials in URLs and in
// Authorization headers.
func newRedactor() *redactor { return &redactor{} }

// withSecret returns a redactor that also removes s in all its forms. username
// is the user name that belongs to s, or "".
func (r *redactor) withSecret(username string, s secret) *redactor {
	if s == "" {
		return r
	}
	more := *r
	more.forms = append(slices.Clip(r.forms), s.forms(username)...)
	// The longest first: replacing a shorter form could leave the rest of a
	// longer one.
	sortBy(more.forms, func(a, b string) int { return cmp.Or(len(b)-len(a), strings.Compare(a, b)) })
	more.forms = slices.Compact(more.forms)
	return &more
}

// text returns s without credentials.
func (r *redactor) text(s string) string {
	for _, f := range r.forms {
		s = strings.ReplaceAll(s, f, redacted)
	}
	return withoutHeaders(withoutUserinfo(s))
}

// withoutUserinfo removes the user information of all URLs in s: what is between
// the scheme and the last @ before a space, quote or slash. A user name alone can
// be a token.
func withoutUserinfo(s string) string {
	var kept strings.Builder
	for {
		before, rest, found := strings.Cut(s, "://")
		kept.WriteString(before)
		if !found {
			return kept.String()
		}
		kept.WriteString("://")
		scheme := before[len(strings.TrimRightFunc(before, isSchemeRune)):]
		if strings.ContainsFunc(scheme, isLetter) {
			end := strings.IndexAny(rest, " \t\n\f\r'\"<>/")
			if end < 0 {
				end = len(rest)
			}
			rest = rest[strings.LastIndexByte(rest[:end], '@')+1:]
		}
		s = rest
	}
}

// isSchemeRune reports whether r may be in the scheme of a URL (RFC 3986, section
// 3.1).
func isSchemeRune(r rune) bool {
	return r < 0x80 && (isAlphanumeric(byte(r)) || r == '+' || r == '.' || r == '-')
}

func isLetter(r rune) bool { return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' }

func isAlphanumeric(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

// withoutHeaders replaces the credentials that follow the words Basic and Bearer,
// in any case: 8 characters or more of those that tokens have (RFC 9110, section
// 11.2).
func withoutHeaders(s string) string {
	const least = 8
	var kept strings.Builder
	for at := 0; at < len(s); {
		word := schemeWord(s[at:])
		if word == 0 || at > 0 && (isAlphanumeric(s[at-1]) || s[at-1] == '_') {
			kept.WriteByte(s[at])
			at++
			continue
		}
		token := strings.TrimLeft(s[at+word:], " \t\n\f\r")
		length := len(token) - len(strings.TrimLeftFunc(token, isTokenRune))
		if length < least || len(token) == len(s)-at-word {
			kept.WriteString(s[at : at+word])
			at += word
			continue
		}
		kept.WriteString(s[at:at+word] + " " + redacted)
		at = len(s) - len(token) + length
	}
	return kept.String()
}

// schemeWord returns the length of the word Basic or Bearer at the start of s, 0
// if it is another.
func schemeWord(s string) int {
	for _, word := range []string{"basic", "bearer"} {
		if len(s) >= len(word) && strings.EqualFold(s[:len(word)], word) {
			return len(word)
		}
	}
	return 0
}

func isTokenRune(r rune) bool {
	return r < 0x80 && (isAlphanumeric(byte(r)) || strings.ContainsRune("+/_.~=-", r))
}

// The functions below make foreign texts safe to show.

// cleanText removes control characters, because what a remote writes can reach
// a terminal, and the characters that change the direction of a text: with them a
// name can show as another (Unicode Technical Report 36, section 2.10).
func cleanText(s string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 && r != '\t' || r >= 0x7f && r < 0xa0 || unicode.Is(unicode.Bidi_Control, r) || r == '\u2028' || r == '\u2029' {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
}

// cleanLines is cleanText for a text of several lines.
func cleanLines(s string) string {
	lines := strings.Split(s, "\n")
	for i, line := range lines {
		lines[i] = cleanText(line)
	}
	return strings.Join(lines, "\n")
}

// maxShown bounds a text of the other side in a log line or an error.
const maxShown = 256

// shownText returns a text of the other side as a log line or an error may show
// it: without control characters, and cut to maxShown bytes.
func shownText(s string) string {
	if len(s) > maxShown {
		s = strings.ToValidUTF8(s[:maxShown], "") + "…"
	}
	return cleanText(s)
}

// showName makes a file name valid UTF-8 for JSON; invalid bytes become U+FFFD.
//
//go:noinline // it is called in many places, and each copy counts in the size of a release
func showName(name string) string { return strings.ToValidUTF8(name, string(utf8.RuneError)) }

// nameBase64 returns the base64 of a name that showName changes, and "" for
// other names.
func nameBase64(name string) string {
	if utf8.ValidString(name) {
		return ""
	}
	return base64.StdEncoding.EncodeToString([]byte(name))
}

// randomHex returns random bytes in hexadecimal digits, for an id or a token
// that cannot be guessed.
func randomHex(bytes int) string {
	random := make([]byte, bytes)
	_, _ = rand.Read(random) // never fails, according to its documentation
	return hex.EncodeToString(random)
}
