package main

import (
	"errors"
	"io"
	"io/fs"
	"strings"
)

// maxIgnoreFile bounds a .gitignore file; real ones have some KiB.
const maxIgnoreFile = 1 << 20

// ignoreRules are the rules of the .gitignore files that apply to a directory
// (gitignore(5)): its own file, and those of its parents up to the start of the
// walk.
type ignoreRules struct {
	parent *ignoreRules
	base   string // directory of the file relative to the walk: empty, or with a trailing slash
	rules  []ignoreRule
}

type ignoreRule struct {
	pattern globPattern
	negated bool
	dirOnly bool
}

// below adds the .gitignore of the directory d, if there is one. Like git, it
// does not follow a symlink. It returns false if git may know other rules there.
func (r *ignoreRules) below(d *dirHandle, base string) (*ignoreRules, bool) {
	f, err := d.openFile(".gitignore")
	if err != nil {
		return r, errors.Is(err, fs.ErrNotExist)
	}
	defer f.Close() // only read
	text, err := io.ReadAll(io.LimitReader(f, maxIgnoreFile))
	if err != nil {
		return r, false
	}
	below, whole := r.add(base, string(text))
	return below, whole && len(text) < maxIgnoreFile
}

// add adds the rules of a file in the directory base. It returns false if it does not
// know all of them.
func (r *ignoreRules) add(base, text string) (*ignoreRules, bool) {
	rules, whole := parseIgnore(text)
	if len(rules) == 0 {
		return r, whole
	}
	return &ignoreRules{parent: r, base: base, rules: rules}, whole
}

// ignored reports whether a path, relative to the walk, is ignored. The last
// matching rule of a file decides, and the file of a deeper directory takes
// precedence.
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

// match reports whether the rule matches the whole path. A rule that names a
// directory need not match the files in it: a walk that skips the directory
// never reaches them.
func (r *ignoreRule) match(path string) bool {
	p := &r.pattern
	if !p.wild {
		return path == p.text
	}
	rest, ok := strings.CutPrefix(path, p.prefix)
	return ok && !p.broken && matchTokens(p.tokens, rest)
}

// parseIgnore parses a .gitignore file. It returns false if it left out a rule for its
// length.
func parseIgnore(text string) (rules []ignoreRule, whole bool) {
	whole = true
	for line := range strings.SplitSeq(strings.TrimPrefix(text, "\ufeff"), "\n") {
		line, _, _ = strings.Cut(strings.TrimSuffix(line, "\r"), "\x00") // git is written in C
		line = trimIgnoreSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		var rule ignoreRule
		line, rule.negated = strings.CutPrefix(line, "!")
		line, rule.dirOnly = strings.CutSuffix(line, "/")
		if strings.IndexByte(line, '/') < 0 {
			line = "**/" + line // a name without a slash matches at any depth
		}
		line = strings.TrimPrefix(line, "/")
		if line == "" || line == "**/" || len(line) > maxGlobLength {
			whole = whole && len(line) <= maxGlobLength
			continue
		}
		rule.pattern = parsePattern(line)
		rules = append(rules, rule)
	}
	return rules, whole
}

// trimIgnoreSpace removes trailing spaces, except one that a backslash escapes.
func trimIgnoreSpace(line string) string {
	trimmed := strings.TrimRight(line, " ")
	slashes := len(trimmed) - len(strings.TrimRight(trimmed, `\`))
	if len(trimmed) < len(line) && slashes%2 == 1 {
		trimmed += " "
	}
	return trimmed
}

// escapeIgnore returns a rule of .gitignore that matches path alone. A path with
// a line break has no such rule; the result then matches nothing.
func escapeIgnore(path string) string {
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`, " ", `\ `).Replace(path)
}
