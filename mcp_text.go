package main

import (
	"encoding/base64"
	"fmt"
	"path"
	"strconv"
	"strings"
	"unicode/utf8"
)

// This file renders answers as text for a model. The first line, in brackets, is
// the server's own: what is shown, of how much, and how to continue. It comes
// first because clients cut long texts in the middle or at the end.

const (
	// mcpTextBudget bounds a text in bytes unless the call says otherwise: the
	// strictest client keeps about 10,000 tokens, the next one 16 KiB.
	mcpTextBudget = 16_000
	// mcpMinBudget is the least that a call may ask for: a first line and a line.
	mcpMinBudget = 2_000
	// mcpHeadRoom is kept for the first line, without its cursor.
	mcpHeadRoom = 600
	// mcpShownPath bounds a path in the first line.
	mcpShownPath = 300
	// mcpOIDLength is how much of a commit id is shown; every method takes it.
	mcpOIDLength = 12
)

// base64Prefix begins a path argument that a JSON string cannot hold.
const base64Prefix = "base64:"

// mcpPath is a path argument as the daemon's methods take it.
type mcpPath struct {
	Path       string `json:"path,omitempty"`
	PathBase64 string `json:"path_base64,omitempty"`
}

// newMCPPath reads a path argument. On Windows a backslash is a separator like
// any other.
func newMCPPath(given string) mcpPath {
	if encoded, ok := strings.CutPrefix(given, base64Prefix); ok {
		return mcpPath{PathBase64: encoded}
	}
	if len(given) > 2 && given[1] == ':' {
		given = strings.ReplaceAll(given, `\`, "/")
	}
	return mcpPath{Path: given}
}

// bytes returns the path itself; base64 that cannot be read is left to the daemon.
func (p mcpPath) bytes() string {
	if raw, err := base64.StdEncoding.DecodeString(p.PathBase64); err == nil && p.PathBase64 != "" {
		return string(raw)
	}
	return p.Path
}

// shown returns the path for the first line.
func (p mcpPath) shown() string { return cutText(cleanText(p.bytes()), mcpShownPath) }

// mcpPathOf returns a path as an argument, in base64 if it is not UTF-8.
func mcpPathOf(raw string) mcpPath {
	if encoded := nameBase64(raw); encoded != "" {
		return mcpPath{PathBase64: encoded}
	}
	return mcpPath{Path: raw}
}

// listedName returns a name below a directory for a list. A name that is not
// UTF-8, or that would break the line, is quoted, with the argument that stands
// for its path.
func listedName(dir mcpPath, name, nameBase64 string) string {
	raw := name
	if decoded, err := base64.StdEncoding.DecodeString(nameBase64); err == nil && nameBase64 != "" {
		raw = string(decoded)
	}
	if utf8.ValidString(raw) && cleanText(raw) == raw && !strings.Contains(raw, "\t") {
		return raw
	}
	full := raw
	if dir.bytes() != "" {
		full = path.Join(dir.bytes(), raw)
	}
	return strconv.Quote(raw) + " (path: " + base64Prefix + base64.StdEncoding.EncodeToString([]byte(full)) + ")"
}

// cutText returns at most limit bytes of a text, in whole characters, with an
// ellipsis where it was cut.
//
//go:noinline // each copy counts in the size of a release
func cutText(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	end := max(limit-len("…"), 0)
	for end > 0 && !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + "…"
}

// sizeText returns a size in bytes for people.
func sizeText(bytes int64) string {
	switch {
	case bytes < 1000:
		return fmt.Sprintf("%d B", bytes)
	case bytes < 1000_000:
		return fmt.Sprintf("%.1f kB", float64(bytes)/1e3)
	case bytes < 1000_000_000:
		return fmt.Sprintf("%.1f MB", float64(bytes)/1e6)
	}
	return fmt.Sprintf("%.1f GB", float64(bytes)/1e9)
}

// countNoun returns a number and a noun, such as "1 file" and "2 files".
func countNoun(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	if rest, ok := strings.CutSuffix(noun, "y"); ok {
		noun = rest + "ie"
	}
	if strings.HasSuffix(noun, "ch") {
		noun += "e"
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// shortOID shortens a commit id.
func shortOID(oid string) string { return oid[:min(len(oid), mcpOIDLength)] }

// dayOf returns the day of an RFC 3339 time.
func dayOf(at string) string {
	day, _, _ := strings.Cut(at, "T")
	return day
}

// fitLines returns how many of the lines fit in a number of bytes, with their line
// ends.
func fitLines(lines []string, bytes int) int {
	for i, line := range lines {
		if bytes -= len(line) + 1; bytes < 0 {
			return i
		}
	}
	return len(lines)
}

// mcpPage is a list that continues with a cursor.
type mcpPage struct {
	lines []string
	next  *string // the cursor behind lines; nil at the end
}

// fetchPage asks for a page and, if its text does not fit, for as many entries as
// do: only then does the cursor continue behind the last line that is shown.
func fetchPage(limit int, fetch func(limit int) (mcpPage, error)) (mcpPage, error) {
	page, err := fetch(limit)
	if err != nil {
		return page, err
	}
	room := mcpTextBudget - mcpHeadRoom
	if page.next != nil {
		room -= len(*page.next)
	}
	fit := fitLines(page.lines, room)
	if fit == len(page.lines) {
		return page, nil
	}
	if page.next == nil {
		// The cursor of the shorter page may have the length of its last line, twice.
		fit = fitLines(page.lines, room-2*len(page.lines[max(fit-1, 0)])-mcpHeadRoom)
	}
	if fit == 0 {
		page.lines, fit = []string{cutText(page.lines[0], room/2)}, 1
		first := page.lines
		if page, err = fetch(1); err == nil {
			page.lines = first
		}
		return page, err
	}
	if page, err = fetch(fit); err != nil {
		return page, err
	}
	page.lines = page.lines[:min(len(page.lines), fit)]
	return page, nil
}

// continuation says how to get the next page, or that there is none.
func (p *mcpPage) continuation() string {
	if p.next == nil {
		return "end of the list"
	}
	return fmt.Sprintf("continue with cursor %q", *p.next)
}

// joinText is a first line and lines below it.
//
//go:noinline // it is called in many places, and each copy counts in the size of a release
func joinText(head string, lines []string) string {
	if len(lines) == 0 {
		return head
	}
	return head + "\n" + strings.Join(lines, "\n")
}

// limitArgument checks a limit that a model gave.
func limitArgument(name string, given *int, byDefault, most int) (int, error) {
	n := valueOr(given, byDefault)
	if n < 1 || n > most {
		return 0, badArgument("%s must be 1 to %d, not %d", name, most, n)
	}
	return n, nil
}

// skippedText mentions what could not be read.
func skippedText(skipped int) string {
	if skipped == 0 {
		return ""
	}
	return fmt.Sprintf("; %d skipped, which cannot be read", skipped)
}
