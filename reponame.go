package main

import (
	"path/filepath"
	"strings"
)

// checkRepoName holds name against the rule: one to four segments of
// [A-Za-z0-9._-], none beginning with a dot or dash.
func checkRepoName(name string) error {
	segments := strings.Split(name, "/")
	if len(segments) > maxNameSegments {
		return invalidParam("name", "must have at most %d segments", maxNameSegments)
	}
	for _, s := range segments {
		switch {
		case s == "":
			return invalidParam("name", "must not be empty nor have an empty segment")
		case s[0] == '.' || s[0] == '-':
			return invalidParam("name", "no segment may begin with a dot or a dash")
		case len(s) > maxSegmentLength:
			return invalidParam("name", "a segment is longer than %d bytes", maxSegmentLength)
		case strings.ContainsFunc(s, func(r rune) bool { return !isNameRune(r) }):
			return invalidParam("name", "may only hold letters, digits, dots, dashes, underscores and slashes (A-Z a-z 0-9 . _ - /)")
		}
	}
	if !filepath.IsLocal(filepath.FromSlash(name)) {
		return invalidParam("name", "is reserved on this system") // such as NUL on Windows
	}
	return nil
}

func isNameRune(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '_' || r == '-'
}

// checkRef holds a branch, tag or full ref name against the rules of
// git-check-ref-format(1); a leading dash, legal there, would be an option.
func checkRef(ref string) error {
	switch {
	case len(ref) > maxRefLength:
		return invalidParam("ref", "is longer than %d bytes", maxRefLength)
	case strings.HasPrefix(ref, "-"), ref == "@", strings.HasSuffix(ref, "."),
		strings.Contains(ref, ".."), strings.Contains(ref, "@{"), strings.ContainsAny(ref, " ~^:?*[\\"), hasControl(ref):
		return invalidParam("ref", "is no branch, tag or full commit id: see git-check-ref-format for the names that are allowed")
	}
	for s := range strings.SplitSeq(ref, "/") {
		if s == "" || s[0] == '.' || strings.HasSuffix(s, ".lock") {
			return invalidParam("ref", "is no branch, tag or full commit id: see git-check-ref-format for the names that are allowed")
		}
	}
	return nil
}
