package main

import (
	"path"
	"slices"
	"strings"
	"testing"
)

// globNames are file names for which the patterns of these tests give different
// results.
func globNames() []string {
	return []string{
		"a", "b", "c/d", "ab", "abc.go", "main.go", "main_test.go", "README.md", "-x", ".hidden", "[x]", "a*b", "q?", `back\slash`,
		"src/a.go", "src/b/c.go", "src/b/d/e.go", "src/b/README.md", "src.go", "srcx/a.go", "x/src/a.go", "x/y/z", "x/y/w.txt",
		"deep/1/2/3/4/5.txt", "deep/1.txt", "docs/index.html", "docs/api/index.html", "über.txt", "日本/語.txt", "UPPER.TXT", "a b/c d.txt",
		"p/-", "p/]", "p/!", "p/^", "p/9", "p/a", "p/Z", "p/\t", "p/\v", "p/\f", "p/\x7f", "foo/bar/baz", "foo/bar", "foobar/baz",
	}
}

func globPatterns() []string {
	return []string{
		"*", "**", "**/*", "*.go", "**/*.go", "src", "src/", "src/*", "src/**", "src/**/", "src/*.go", "src/**/*.go", "**/src/**", "**/src/*",
		"s*", "s**", "*c*", "src*/*.go", "x/*/z", "x/**/z", "x/**/y/**/z", "deep/**/5.txt", "deep/**/3/**", "deep/*/*/*", "**/index.html", "docs/**/index.html",
		"?", "??", "?.?", "c?d", "[ab]", "[!ab]", "[^ab]", "[a-c]", "p/[]]", "p/[!]]", "p/[a-]", "p/[-a]", "p/[]-a]", "p/[[:digit:]]", "p/[[:alpha:]]",
		"p/[[:upper:][:digit:]]", "p/[![:alnum:]]", "p/[[:space:]]", "p/[[:blank:]]", "p/[[:cntrl:]]", "p/[[:print:]]", "p/[[:graph:]]", "p/[[:xdigit:]]", "p/[[:lower:]]", "p/[[:punct:]]", "p/[[:foo:]]", "p/[[:digit]", "p/[\\]]", "p/[\\!]", "p/[!-^]", "p/[9-a]", "p/[z-a]",
		"[", "[a", "[x]", `\[x\]`, `a\*b`, `a\`, `q\?`, `back\\slash`, `\a`, `s\rc/*`, `src\/*`, "a*b", "*b", "*/*", "*/*/*", "**/*/*", "**/b/**", "*/",
		"./src", "src//b", "src/./b", "src/x/../b", "src/../x/y", ".", "./", ".hidden", ".*", "-x", "über.*", "?ber.txt", "??ber.txt", "日本/*", "*.TXT", "*.txt",
		"a b/*", "*a*a*", "f*/b*/b*", "foo**/baz", "foo/**bar", "foo/**/bar", "**foo", "**/foo/**/baz", "***/a.go", "src/***", "*.g[o]", "m*[_]*", "[[]x]", "[a-c]/d", "c[/]d", "c[!a]d",
		"deep/**/**/5.txt", "**/**", "**/**/z", "x/**", "x/y/**/", "*o/b?r/*", "s[r]c**/c.go", "?oo**/baz",
	}
}

// The matcher must agree with git, which lists the names in an index that match
// a ":(glob)" pathspec.
func TestGlobsMatchAsGitDoes(t *testing.T) {
	skipShort(t, "it takes about a second")
	t.Parallel()
	repo := newTestRepoAt(t, realTempDir(t), nil)
	names := globNames()
	// No files are needed: an index can hold any name, except that one name
	// cannot be both a file and a directory.
	oid := strings.TrimSpace(repo.output("", "hash-object", "-w", "--stdin"))
	var index strings.Builder
	kept := names[:0]
	for _, name := range names {
		if slices.ContainsFunc(names, func(other string) bool { return strings.HasPrefix(other, name+"/") }) {
			continue
		}
		kept = append(kept, name)
		index.WriteString("100644 " + oid + "\t" + name + "\x00")
	}
	repo.output(index.String(), "update-index", "-z", "--index-info")
	for _, pattern := range globPatterns() {
		out := repo.git("ls-files", "-z", "--", ":(glob)"+pattern)
		want := strings.Split(strings.TrimSuffix(out, "\x00"), "\x00")
		if out == "" {
			want = nil
		}
		g, err := compileGlobs("include", []string{pattern})
		if err != nil {
			t.Errorf("%q: %v, want no error", pattern, err)
			continue
		}
		var got []string
		for _, name := range kept {
			if g.match(name) {
				got = append(got, name)
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%q matches %q\ngit says %q", pattern, got, want)
		}
	}
}

func TestGlobsRefuseWhatGitWould(t *testing.T) {
	for _, pattern := range []string{"", "/etc", "..", "../x", "a/../../x", "a\x00b", strings.Repeat("a", maxGlobLength+1)} {
		_, err := compileGlobs("exclude", []string{pattern})
		wantInvalid(t, err, "exclude")
	}
	if _, err := compileGlobs("include", make([]string, maxGlobs+1)); err == nil {
		t.Error("too many patterns were taken, want an error")
	}
}

// Pathspec magic is a sequence of plain characters here.
func TestGlobsKnowNoOtherMagic(t *testing.T) {
	g, err := compileGlobs("include", []string{":(icase)readme.md", ":!a", ":/", ":(top)"})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"README.md", "readme.md", "a", "b"} {
		if g.match(name) {
			t.Errorf("matches %q, want no match", name)
		}
	}
	if !g.match(":!a") {
		t.Error("does not match the name that the pattern is, want a match")
	}
}

// Git, and other matchers, took exponential time for a pattern with many stars.
func TestGlobsOfManyStarsEnd(t *testing.T) {
	g, err := compileGlobs("include", []string{strings.Repeat("a*", 500) + "b", strings.Repeat("**/a*/", 150) + "b"})
	if err != nil {
		t.Fatal(err)
	}
	if g.match(strings.Repeat("a", 4000)) || g.match(strings.Repeat("aa/", 1300)+"c") {
		t.Error("matches, want no match")
	}
}

// matchSlowly implements the definition of the tokens directly.
func matchSlowly(tokens []globToken, text string) bool {
	if len(tokens) == 0 {
		return text == ""
	}
	t, rest := tokens[0], tokens[1:]
	switch t.kind {
	case globChar, globAny:
		return text != "" && (t.kind == globChar && text[0] == t.char || t.kind == globAny && t.class[text[0]]) && matchSlowly(rest, text[1:])
	}
	for n := 0; n <= len(text); n++ {
		if t.kind == globStar && strings.Contains(text[:n], "/") {
			break
		}
		if t.kind == globDirectory && n > 0 && text[n-1] != '/' {
			continue
		}
		if matchSlowly(rest, text[n:]) {
			return true
		}
	}
	return false
}

func FuzzGlobs(f *testing.F) {
	for _, pattern := range globPatterns() {
		for _, name := range []string{"src/b/c.go", "p/a", "x/y/z"} {
			f.Add(pattern, name)
		}
	}
	f.Fuzz(func(t *testing.T, pattern, name string) {
		g, err := compileGlobs("include", []string{pattern})
		if err != nil || len(pattern) > 12 || len(name) > 12 || name != path.Clean(name) {
			return
		}
		p := &g[0]
		got := g.match(name)
		rest, ok := strings.CutPrefix(name, p.prefix)
		literal := p.text == "" || name == p.text || strings.HasPrefix(name, strings.TrimSuffix(p.text, "/")+"/")
		want := literal || p.wild && !p.broken && ok && matchSlowly(p.tokens, rest)
		if got != want {
			t.Errorf("%q on %q: %v, want %v", pattern, name, got, want)
		}
	})
}
