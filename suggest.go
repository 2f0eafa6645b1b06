package main

import (
	"cmp"
	"fmt"
	"log/slog"
	"slices"
	"strings"
)

// This file finds the name that was probably meant by a wrong one.

// didYouMean returns the end of an error about a wrong name: the name that was
// probably meant, "" if none is near.
func didYouMean(wrong string, names []string) string {
	if len(names) == 0 || len(wrong) > maxShown {
		return ""
	}
	folded := make([]string, len(names))
	for i, name := range names {
		folded[i] = strings.ToLower(name)
	}
	best, least := -1, 0
	for i, name := range folded {
		if d := editDistance(strings.ToLower(wrong), name); best < 0 || d < least {
			best, least = i, d
		}
	}
	// A third of the name may be wrong, and in a short name two characters.
	if least > max(2, len(names[best])/3) || least >= len(names[best]) {
		return ""
	}
	return " (did you mean " + names[best] + "?)"
}

// nearest returns the name with the smallest distance to name.
func nearest(name string, names []string) string {
	return slices.MinFunc(names, func(a, b string) int { return cmp.Compare(editDistance(name, a), editDistance(name, b)) })
}

// editDistance returns how many bytes must be inserted, deleted or replaced to
// make b of a (Levenshtein).
func editDistance(a, b string) int {
	row := make([]int, len(b)+1) // of the prefix of a
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// parseLevel returns the level with a name.
func parseLevel(name string) (level slog.Level, err error) {
	if err := level.UnmarshalText([]byte(name)); err != nil || strings.ContainsAny(name, "+-") {
		return 0, fmt.Errorf("must be debug, info, warn or error%s", didYouMean(name, []string{"debug", "info", "warn", "error"}))
	}
	return level, nil
}

// levelName returns the name of a level as flags have it.
func levelName(level slog.Level) string { return strings.ToLower(level.String()) }
