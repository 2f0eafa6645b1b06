package main

import (
	"strings"
	"unicode"
)

// plainWidth is the width of a terminal that does not say how wide it is.
const plainWidth = 80

// columns returns how many columns of a terminal a text takes. It knows wide
// characters and those that combine with the one before.
//
//go:noinline // each copy counts in the size of a release
func columns(text string) (n int) {
	for _, r := range text {
		n += runeColumns(r)
	}
	return n
}

func runeColumns(r rune) int {
	switch {
	case unicode.Is(unicode.Mn, r), unicode.Is(unicode.Me, r):
		return 0
	case r < 0x1100:
		return 1
	case r <= 0x115f, r >= 0x2e80 && r <= 0xa4cf, r >= 0xac00 && r <= 0xd7a3, r >= 0xf900 && r <= 0xfaff,
		r >= 0xfe30 && r <= 0xfe6f, r >= 0xff00 && r <= 0xff60, r >= 0xffe0 && r <= 0xffe6,
		r >= 0x1f000 && r <= 0x1faff, r >= 0x20000 && r <= 0x3fffd:
		return 2
	}
	return 1
}

// cutColumns cuts a text to at most width columns and marks the cut.
func cutColumns(text string, width int) string {
	if columns(text) <= width {
		return text
	}
	var kept strings.Builder
	n := 0
	for _, r := range text {
		if n += runeColumns(r); n > width-1 {
			break
		}
		kept.WriteRune(r)
	}
	if width > 0 {
		kept.WriteString("…")
	}
	return kept.String()
}

// textTable is a table for people. Its cells may be texts of other programs.
type textTable struct {
	head []string
	rows [][]string
}

const (
	// maxCell bounds the columns of a cell but the last of its row, so that one long
	// name does not push all other columns out of sight.
	maxCell = 36
	// maxLastCell bounds the last cell where nothing else does.
	maxLastCell = 500
)

func (t *textTable) add(cells ...string) {
	for i, c := range cells {
		most := maxCell
		if i == len(cells)-1 {
			most = maxLastCell
		}
		cells[i] = cutColumns(strings.ReplaceAll(cleanText(c), "\t", " "), most)
	}
	t.rows = append(t.rows, cells)
}

// text returns the table with lines of at most width columns; 0 is no limit.
func (t *textTable) text(width int) string {
	all := append([][]string{t.head}, t.rows...)
	widths := make([]int, len(t.head))
	for _, row := range all {
		for i, c := range row {
			widths[i] = max(widths[i], columns(c))
		}
	}
	var text strings.Builder
	for _, row := range all {
		var line strings.Builder
		for i, c := range row {
			line.WriteString(c)
			if i < len(row)-1 {
				line.WriteString(strings.Repeat(" ", widths[i]-columns(c)+2))
			}
		}
		shown := strings.TrimRight(line.String(), " ")
		if width > 0 {
			shown = cutColumns(shown, width)
		}
		text.WriteString(shown + "\n")
	}
	return text.String()
}

// shellQuote quotes s as one word for a POSIX shell.
func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
