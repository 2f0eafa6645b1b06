package main

import (
	"bytes"
	"strings"
)

const (
	// maxGlobs and maxGlobLength bound the work of matching each path against a
	// caller's patterns.
	maxGlobs      = 200
	maxGlobLength = 1024
)

// globs are git's ":(glob)" pathspecs (gitglossary(7), pathspec): "*" and "?"
// do not match a slash, "**/" matches any number of directories, "/**" matches
// everything inside, and a pattern that names a directory matches what is in
// it. Matching is bytewise.
type globs []globPattern

// globPattern is one compiled pattern.
type globPattern struct {
	text   string // cleaned as git does it; a trailing slash is kept
	prefix string // literal part before the first special character
	tokens []globToken
	wild   bool // contains special characters
	broken bool // malformed: matches only as a literal string
}

// globToken is one element of a pattern.
type globToken struct {
	kind  globKind
	char  byte
	class *[256]bool
}

type globKind uint8

const (
	globChar      globKind = iota
	globAny                // "?" or a class: one byte other than a slash
	globStar               // any bytes other than a slash
	globStarStar           // any bytes
	globDirectory          // "**/": nothing, or any bytes ending with a slash
)

// compileGlobs checks and compiles the patterns of the parameter called name.
// Without patterns the result matches nothing.
func compileGlobs(name string, patterns []string) (globs, error) {
	if len(patterns) > maxGlobs {
		return nil, invalidParam(name, "must be at most %d patterns, not %d", maxGlobs, len(patterns))
	}
	var g globs
	for _, pattern := range patterns {
		switch {
		case pattern == "":
			return nil, invalidParam(name, "a pattern must not be empty")
		case len(pattern) > maxGlobLength:
			return nil, invalidParam(name, "a pattern must have at most %d bytes", maxGlobLength)
		case strings.IndexByte(pattern, 0) >= 0:
			return nil, invalidParam(name, "a pattern must not contain a NUL byte")
		case pattern[0] == '/':
			return nil, invalidParam(name, "%q: a pattern must be relative to the path", pattern)
		}
		text, ok := cleanPattern(pattern)
		if !ok {
			return nil, invalidParam(name, "%q: a pattern must not lead outside the path", pattern)
		}
		g = append(g, parsePattern(text))
	}
	return g, nil
}

// cleanPattern removes "//", "." and ".." from a pattern, as git does before
// matching. It returns false if the pattern leads outside.
func cleanPattern(pattern string) (string, bool) {
	var parts []string
	slash := false
	for part := range strings.SplitSeq(pattern, "/") {
		slash = part == "" || part == "." || part == ".."
		switch part {
		case "", ".":
		case "..":
			if len(parts) == 0 {
				return "", false
			}
			parts = parts[:len(parts)-1]
		default:
			parts = append(parts, part)
		}
	}
	text := strings.Join(parts, "/")
	if slash && text != "" {
		text += "/"
	}
	return text, true
}

func parsePattern(text string) globPattern {
	p := globPattern{text: text}
	special := strings.IndexAny(text, `*?[\`)
	if special < 0 {
		return p
	}
	p.wild, p.prefix = true, text[:special]
	for at := special; at < len(text); {
		switch c := text[at]; c {
		case '*':
			end := at
			for end < len(text) && text[end] == '*' {
				end++
			}
			// Two stars are special only between slashes. Git matches the
			// literal prefix separately, so the end of the prefix counts as a
			// slash too.
			border := at == special || text[at-1] == '/'
			rest := text[end:]
			switch {
			case end-at < 2 || !border || rest != "" && rest[0] != '/' && !strings.HasPrefix(rest, `\/`):
				p.add(globToken{kind: globStar})
			case rest != "" && rest[0] == '/':
				p.add(globToken{kind: globDirectory})
				end++
			default:
				p.add(globToken{kind: globStarStar})
			}
			at = end
		case '?':
			p.add(globToken{kind: globAny, class: notSlash()})
			at++
		case '[':
			class, end := parseClass(text, at+1)
			if class == nil {
				p.broken = true
				return p
			}
			p.add(globToken{kind: globAny, class: class})
			at = end
		case '\\':
			if at+1 == len(text) {
				p.broken = true
				return p
			}
			p.add(globToken{kind: globChar, char: text[at+1]})
			at += 2
		default:
			p.add(globToken{kind: globChar, char: c})
			at++
		}
	}
	return p
}

func (p *globPattern) add(t globToken) { p.tokens = append(p.tokens, t) }

func notSlash() *[256]bool {
	var class [256]bool
	for c := range class {
		class[c] = c != '/'
	}
	return &class
}

// parseClass reads a bracket expression that starts behind its "[" (POSIX, with
// "^" as "!" and "\" as escape). It returns the class and the position behind
// it, or nil if the expression is malformed. No class matches a slash.
func parseClass(text string, at int) (*[256]bool, int) {
	var in [256]bool
	negated := at < len(text) && (text[at] == '!' || text[at] == '^')
	if negated {
		at++
	}
	previous := byte(0) // possible start of a range
	for first := true; ; first = false {
		if at >= len(text) {
			return nil, 0
		}
		c := text[at]
		if c == ']' && !first {
			at++
			break
		}
		switch {
		case c == '-' && previous != 0 && at+1 < len(text) && text[at+1] != ']':
			at++
			last := text[at]
			if last == '\\' {
				if at++; at >= len(text) {
					return nil, 0
				}
				last = text[at]
			}
			for b := int(previous); b <= int(last); b++ {
				in[b] = true
			}
			at++
			previous = 0
		case c == '[' && at+1 < len(text) && text[at+1] == ':':
			length := strings.IndexByte(text[at+2:], ']')
			if length < 0 {
				return nil, 0
			}
			name, ok := strings.CutSuffix(text[at+2:at+2+length], ":")
			if !ok {
				// Not a named class: the bracket is an ordinary character.
				in['['] = true
				previous = '['
				at++
				continue
			}
			member := namedClass(name)
			if member == nil {
				return nil, 0
			}
			for b := range in {
				in[b] = in[b] || member(byte(b))
			}
			at += 2 + length + 1
			previous = 0
		default:
			if c == '\\' {
				if at++; at >= len(text) {
					return nil, 0
				}
				c = text[at]
			}
			in[c] = true
			previous = c
			at++
		}
	}
	for b := range in {
		in[b] = in[b] != negated && b != '/'
	}
	return &in, at
}

// namedClass returns the membership test of [:name:] in ASCII, or nil if there
// is no such class.
func namedClass(name string) func(byte) bool {
	between := func(c, first, last byte) bool { return first <= c && c <= last }
	lower := func(c byte) bool { return between(c, 'a', 'z') }
	upper := func(c byte) bool { return between(c, 'A', 'Z') }
	digit := func(c byte) bool { return between(c, '0', '9') }
	alnum := func(c byte) bool { return lower(c) || upper(c) || digit(c) }
	switch name {
	case "alnum":
		return alnum
	case "alpha":
		return func(c byte) bool { return lower(c) || upper(c) }
	case "blank":
		return func(c byte) bool { return c == ' ' || c == '\t' }
	case "cntrl":
		return func(c byte) bool { return c < 0x20 || c == 0x7f }
	case "digit":
		return digit
	case "graph":
		return func(c byte) bool { return between(c, 0x21, 0x7e) }
	case "lower":
		return lower
	case "print":
		return func(c byte) bool { return between(c, 0x20, 0x7e) }
	case "punct":
		return func(c byte) bool { return between(c, 0x21, 0x7e) && !alnum(c) }
	case "space":
		// Git's isspace includes neither vertical tab nor form feed.
		return func(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }
	case "upper":
		return upper
	case "xdigit":
		return func(c byte) bool { return digit(c) || between(c, 'a', 'f') || between(c, 'A', 'F') }
	}
	return nil
}

// match reports whether a pattern matches the relative, slash-separated path of
// a file.
func (g globs) match(path string) bool {
	for i := range g {
		if g[i].match(path) {
			return true
		}
	}
	return false
}

func (p *globPattern) match(path string) bool {
	if rest, ok := strings.CutPrefix(path, p.text); ok {
		if rest == "" || p.text == "" || rest[0] == '/' || p.text[len(p.text)-1] == '/' {
			return true
		}
	}
	if !p.wild || p.broken {
		return false
	}
	rest, ok := strings.CutPrefix(path, p.prefix)
	return ok && matchTokens(p.tokens, rest)
}

// matchTokens reports whether the tokens match all of text. On a mismatch it
// backtracks to the last star of the current name, and then to the last "**".
// Earlier ones need no retry, because the later one can match whatever they
// could. This bounds the time by len(tokens)·len(text)².
func matchTokens(tokens []globToken, text string) bool {
	const none = -1
	at, pos := 0, 0
	star, starPos := none, 0 // token after the last star, and how far the star has matched
	deep, deepPos := none, 0 // the same for the last "**"
	for {
		if at == len(tokens) {
			if pos == len(text) {
				return true
			}
		} else {
			switch t := &tokens[at]; t.kind {
			case globChar:
				if pos < len(text) && text[pos] == t.char {
					at, pos = at+1, pos+1
					continue
				}
			case globAny:
				if pos < len(text) && t.class[text[pos]] {
					at, pos = at+1, pos+1
					continue
				}
			case globStar:
				at++
				star, starPos = at, pos
				continue
			case globStarStar, globDirectory:
				at++
				deep, deepPos = at, pos
				star = none
				continue
			}
		}
		if star != none && starPos < len(text) && text[starPos] != '/' {
			starPos++
			at, pos = star, starPos
			continue
		}
		if deep == none {
			return false
		}
		// Match one more byte, or for "**/" through the next slash.
		step := 1
		if tokens[deep-1].kind == globDirectory {
			step = strings.IndexByte(text[deepPos:], '/') + 1
		}
		if deepPos+step > len(text) || step == 0 {
			return false
		}
		deepPos += step
		at, pos, star = deep, deepPos, none
	}
}

// treeFilter selects files by include and exclude.
type treeFilter struct {
	include, exclude globs
	prune            globs // those of exclude that can match a whole directory
}

func newTreeFilter(include, exclude []string) (*treeFilter, error) {
	f := &treeFilter{}
	var err error
	if f.include, err = compileGlobs("include", include); err != nil {
		return nil, err
	}
	if f.exclude, err = compileGlobs("exclude", exclude); err != nil {
		return nil, err
	}
	f.prune = pruneGlobs(f.exclude)
	return f, nil
}

// pruneGlobs returns the patterns that can match everything in a directory:
// those without special characters, and those that end with "/**".
func pruneGlobs(exclude globs) globs {
	var prune globs
	for _, p := range exclude {
		if !p.wild || strings.HasSuffix(p.text, "/**") {
			prune = append(prune, p)
		}
	}
	return prune
}

// covers reports whether one of the patterns of pruneGlobs matches everything
// in the directory at path.
func (g globs) covers(path string) bool { return g.match(path) || g.match(path+"/") }

// file reports whether the filter selects the file at path.
func (f *treeFilter) file(path string) bool {
	return (len(f.include) == 0 || f.include.match(path)) && !f.exclude.match(path)
}

// entry is like file, for an entry of a tree object. It also rejects the names
// of the daemon's own files, which a commit may contain by mistake. Most trees
// have no such name, so it checks for a dot first.
func (f *treeFilter) entry(path []byte) bool {
	dotted := path[0] == '.' || bytes.Contains(path, []byte("/."))
	if len(f.include) == 0 && len(f.exclude) == 0 && !dotted {
		return true
	}
	name := string(path)
	return f.file(name) && !(dotted && hasSecretName(name))
}

// dir reports whether a directory can contain selected files.
func (f *treeFilter) dir(path string) bool {
	if f.prune.covers(path) {
		return false
	}
	path += "/"
	for _, p := range f.include {
		fixed := p.text
		if p.wild {
			fixed = p.prefix
		}
		if strings.HasPrefix(path, fixed) || strings.HasPrefix(fixed, path) {
			return true
		}
	}
	return len(f.include) == 0
}

// pathspecs returns the filter as git pathspecs.
func (f *treeFilter) pathspecs() []string {
	var specs []string
	for _, p := range f.include {
		specs = append(specs, ":(glob)"+p.text)
	}
	for _, p := range f.exclude {
		specs = append(specs, ":(exclude,glob)"+p.text)
	}
	// A temporary name has one more dot.
	return append(specs, ":(exclude,glob,icase)**/"+secretPrefix+"*", ":(exclude,glob,icase)**/."+secretPrefix+"*")
}
