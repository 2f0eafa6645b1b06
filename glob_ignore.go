package main

import (
	"io"
	"strings"
)

// maxIgnoreFile bounds a .gitignore; real ones have some KiB.
const maxIgnoreFile = 1 << 20

// ignoreRules are the patterns of the .gitignore files that apply to a
// directory (gitignore(5)): its own, and those of the directories above up to
// where the walk began.
type ignoreRules struct {
	parent *ignoreRules
	base   string // the directory of the file, relative to the walk, "" or with a slash at its end
	rules  []ignoreRule
}

type ignoreRule struct {
	pattern globPattern
	negated bool
	dirOnly bool
}

// below adds the .gitignore of a directory, if it has one. As git does, it
// follows no link there.
func (r *ignoreRules) below(d *dirHandle, base string) *ignoreRules {
	f, err := d.openFile(".gitignore")
	if err != nil {
		return r
	}
	defer f.Close() // nothing is written
	text, err := io.ReadAll(io.LimitReader(f, maxIgnoreFile))
	if err != nil {
		return r
	}
	rules := parseIgnore(string(text))
	if len(rules) == 0 {
		return r
	}
	return &ignoreRules{parent: r, base: base, rules: rules}
}

// ignored tells whether a path, relative to the walk, is left out: the last
// pattern that matches decides, and a nearer file before a farther one.
func (r *ignoreRules) ignored(path string, isDir bool) bool {
	for ; r != nil; r = r.parent {
		rel := path[len(r.base):]
		for i := len(r.rules) - 1; i >= 0; i-- {
			rule := &r.rules[i]
			if (isDir || !rule.dirOnly) && rule.match(rel) {
				return !rule.negated
			}
		}
	}
	return false
}

// match compares the whole path. A name alone does not match what is inside it:
// a walk that leaves a directory out does not get there.
func (r *ignoreRule) match(path string) bool {
	p := &r.pattern
	if !p.wild {
		return path == p.text
	}
	rest, ok := strings.CutPrefix(path, p.prefix)
	return ok && !p.broken && matchTokens(p.tokens, rest)
}

// parseIgnore reads a .gitignore.
func parseIgnore(text string) []ignoreRule {
	var rules []ignoreRule
	for line := range strings.SplitSeq(strings.TrimPrefix(text, "\ufeff"), "\n") {
		line = trimIgnoreSpace(strings.TrimSuffix(line, "\r"))
		if line == "" || line[0] == '#' {
			continue
		}
		var rule ignoreRule
		line, rule.negated = strings.CutPrefix(line, "!")
		line, rule.dirOnly = strings.CutSuffix(line, "/")
		if strings.IndexByte(line, '/') < 0 {
			line = "**/" + line // a name at any depth
		}
		line = strings.TrimPrefix(line, "/")
		if line == "" || line == "**/" || len(line) > maxGlobLength {
			continue
		}
		rule.pattern = parsePattern(line)
		rules = append(rules, rule)
	}
	return rules
}

// trimIgnoreSpace takes off spaces at the end, unless a backslash keeps them.
func trimIgnoreSpace(line string) string {
	trimmed := strings.TrimRight(line, " ")
	slashes := len(trimmed) - len(strings.TrimRight(trimmed, `\`))
	if len(trimmed) < len(line) && slashes%2 == 1 {
		trimmed += " "
	}
	return trimmed
}
