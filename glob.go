package main

import (
	"bytes"
	"strings"
)

const (
	// maxGlobs and maxGlobLength bound what a caller can make us match each
	// path against.
	maxGlobs      = 200
	maxGlobLength = 1024
)

// globs are git's ":(glob)" pathspecs (gitglossary(7), pathspec): "*" and "?"
// do not match a slash, "**/" matches any directories or none, "/**" all that
// is inside, and a pattern that names a directory matches what is in it.
// Matching is by bytes.
type globs []globPattern

// globPattern is one pattern.
type globPattern struct {
	text   string // as git compares it: cleaned, a slash at its end kept
	prefix string // the part before the first special character
	tokens []globToken
	wild   bool // has special characters
	broken bool // can match as a literal text only
}

// globToken is one step of a pattern.
type globToken struct {
	kind  globKind
	char  byte
	class *[256]bool
}

type globKind uint8

const (
	globChar      globKind = iota
	globAny                // ? or a class: one byte but no slash
	globStar               // any bytes but no slash
	globStarStar           // any bytes
	globDirectory          // "**/": nothing, or any bytes that end in a slash
)

// compileGlobs checks patterns from the wire; name is the parameter's. No
// patterns at all match nothing.
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
			return nil, invalidParam(name, "a pattern must not hold a NUL byte")
		case pattern[0] == '/':
			return nil, invalidParam(name, "%q: a pattern is relative to the path", pattern)
		}
		text, ok := cleanPattern(pattern)
		if !ok {
			return nil, invalidParam(name, "%q: leads outside the path", pattern)
		}
		g = append(g, parsePattern(text))
	}
	return g, nil
}

// cleanPattern takes out "//", "." and ".." as git does with a pathspec before
// it is matched.
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
			// Two are special between slashes only. Git matches the part before
			// the first special character apart, so that ends in a border too.
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

// parseClass reads a bracket expression from behind its "[" (POSIX, with "^"
// for "!" and "\" as escape) and tells where the pattern goes on; nil when it
// is malformed. No class matches a slash.
func parseClass(text string, at int) (*[256]bool, int) {
	var in [256]bool
	negated := at < len(text) && (text[at] == '!' || text[at] == '^')
	if negated {
		at++
	}
	previous := byte(0) // may begin a range
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
				// No class after all: the bracket stands for itself.
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

// namedClass tells the members of [:name:], in ASCII.
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
		// Git's own isspace has no vertical tab or form feed.
		return func(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }
	case "upper":
		return upper
	case "xdigit":
		return func(c byte) bool { return digit(c) || between(c, 'a', 'f') || between(c, 'A', 'F') }
	}
	return nil
}

// match tells whether one of the patterns matches path, a file's, relative,
// with slashes.
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

// matchTokens tells whether the tokens match all of text. A mismatch goes back
// to the last star of its name and, when that cannot take more, to the last
// "**": an earlier one could only take what the later can take as well. So the
// time is bounded by len(tokens)·len(text)².
func matchTokens(tokens []globToken, text string) bool {
	const none = -1
	at, pos := 0, 0
	star, starPos := none, 0 // where the tokens go on after a star, and what it has taken
	deep, deepPos := none, 0 // the same of the last "**"
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
		// Take one byte more, or for "**/" up to behind the next slash.
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

// treeFilter is what include and exclude say.
type treeFilter struct {
	include, exclude globs
	prune            globs // match directories of which exclude matches all that is inside
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

// pruneGlobs makes the patterns that match a directory when all that is inside
// it is excluded: a literal one, and "x/**" without its end.
func pruneGlobs(exclude globs) globs {
	var prune globs
	for _, p := range exclude {
		if dir, ok := strings.CutSuffix(p.text, "/**"); ok {
			prune = append(prune, parsePattern(dir))
		} else if !p.wild {
			prune = append(prune, p)
		}
	}
	return prune
}

// file tells whether a path is wanted.
func (f *treeFilter) file(path string) bool {
	return (len(f.include) == 0 || f.include.match(path)) && !f.exclude.match(path)
}

// entry is file for an entry of a tree object: never a name of the daemon's own
// files, which a commit may hold by mistake. Most trees have no such names, so
// it looks for the dot first.
func (f *treeFilter) entry(path []byte) bool {
	dotted := path[0] == '.' || bytes.Contains(path, []byte("/."))
	if len(f.include) == 0 && len(f.exclude) == 0 && !dotted {
		return true
	}
	name := string(path)
	return f.file(name) && !(dotted && hasSecretName(name))
}

// dir tells whether wanted files can lie in a directory.
func (f *treeFilter) dir(path string) bool {
	if f.prune.match(path) {
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

// pathspecs are the filter in git's own words.
func (f *treeFilter) pathspecs() []string {
	var specs []string
	for _, p := range f.include {
		specs = append(specs, ":(glob)"+p.text)
	}
	for _, p := range f.exclude {
		specs = append(specs, ":(exclude,glob)"+p.text)
	}
	return append(specs, ":(exclude,glob,icase)**/"+secretPrefix+"*")
}
