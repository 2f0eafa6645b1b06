package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func showMatches(r *searchResult) string {
	var b strings.Builder
	for _, m := range r.Matches {
		fmt.Fprintf(&b, "%s:%d:%d:%s %v %v\n", m.Path, m.Line, m.Column, m.Text, m.Before, m.After)
	}
	return b.String()
}

func TestSearch(t *testing.T) {
	needsGit(t)
	needsLinks(t)
	t.Parallel()
	tree := map[string]string{
		"a.txt": "one\ntwo foo\nthree\nfoo foo\nfive", "sub/b.go": "x.foo()\r\n", "sub/Upper": "FOO ÄPFEL\n", "bin": "foo\x00foo",
		".gitignore": "*.log\n", "x.log": "foo\n", ".git-daemon.config": "foo\n", "sub/.git-daemon.x/y": "foo\n", "nested/c": "foo\n",
		"new\nline": "foo\n", "-dash": "foo\n",
	}
	for _, repository := range []bool{false, true} {
		t.Run(fmt.Sprint("repository ", repository), func(t *testing.T) {
			dir := realTempDir(t)
			if repository {
				gitIn(t, dir, "init", "-q")
				writeFiles(t, dir, map[string]string{".git/info/exclude": "excluded\n", "excluded": "foo"})
			}
			writeFiles(t, dir, tree)
			if repository {
				gitIn(t, dir, "add", "a.txt", "sub/b.go")
			}
			outside := realTempDir(t)
			writeFiles(t, outside, map[string]string{"secret": "foo\n"})
			if err := errors.Join(os.Symlink(outside, dir+"/link"), os.Symlink(outside+"/secret", dir+"/file-link"), os.Link(dir+"/.git-daemon.config", dir+"/hard")); err != nil {
				t.Fatal(err)
			}
			f := fsOn(t, dir)
			f.access.keepSecret(dir + "/.git-daemon.config")
			for _, test := range []struct {
				name string
				p    searchParams
				want string
			}{
				{"fixed", searchParams{Pattern: "foo"}, "-dash:1:1:foo [] []\na.txt:2:5:two foo [] []\na.txt:4:1:foo foo [] []\nnested/c:1:1:foo [] []\nnew\nline:1:1:foo [] []\nsub/b.go:1:3:x.foo()\r [] []\n"},
				{"context", searchParams{Pattern: "foo", ContextLines: new(1), Include: []string{"a.txt"}}, "a.txt:2:5:two foo [one] [three]\na.txt:4:1:foo foo [three] [five]\n"},
				{"a dot is a dot", searchParams{Pattern: "x.f"}, "sub/b.go:1:1:x.foo()\r [] []\n"},
				{"regexp", searchParams{Pattern: "^(two|x)[. ]f", Regexp: true}, "a.txt:2:1:two foo [] []\nsub/b.go:1:1:x.foo()\r [] []\n"},
				{"case", searchParams{Pattern: "äpfel", CaseSensitive: new(false)}, "sub/Upper:1:5:FOO ÄPFEL [] []\n"},
				{"include, exclude", searchParams{Pattern: "foo", Include: []string{"sub/**", "*.txt"}, Exclude: []string{"**/*.go"}}, "a.txt:2:5:two foo [] []\na.txt:4:1:foo foo [] []\n"},
				{"an option as pattern", searchParams{Pattern: "--no-index"}, ""},
				{"nothing", searchParams{Pattern: "nothing"}, ""},
			} {
				test.p.pathParam = pathOf(dir)
				got, err := f.search(t.Context(), test.p)
				if err != nil {
					t.Errorf("%s: %v, want no error", test.name, err)
					continue
				}
				if show := showMatches(got); show != test.want || got.Truncated {
					t.Errorf("%s:\n got %q\nwant %q", test.name, show, test.want)
				}
			}
			got, err := f.search(t.Context(), searchParams{pathParam: pathOf(dir + "/sub"), Pattern: "foo"})
			if err != nil || showMatches(got) != "b.go:1:3:x.foo()\r [] []\n" {
				t.Errorf("below: %v, %v, want the match in b.go alone", got, err)
			}
			for limit := 1; limit < 8; limit++ {
				got, err := f.search(t.Context(), searchParams{pathParam: pathOf(dir), Pattern: "foo", Limit: &limit})
				if err != nil || len(got.Matches) != min(limit, 6) || got.Truncated != (limit < 6) {
					t.Errorf("limit %d: %+v, %v, want as many of 6 matches as the limit", limit, got, err)
				}
			}
			for _, test := range []struct {
				p    searchParams
				want string
			}{
				{searchParams{Pattern: "x("}, ""},
				{searchParams{Pattern: "x(", Regexp: true}, "param pattern"},
				{searchParams{Pattern: "[[:foo:]]", Regexp: true}, "param pattern"},
				{searchParams{Pattern: "a\nb"}, "param pattern"},
				{searchParams{Pattern: ""}, "param pattern"},
				{searchParams{Pattern: "x", ContextLines: new(-1)}, "param context_lines"},
				{searchParams{Pattern: "x", Include: []string{"../x"}}, "param include"},
			} {
				test.p.pathParam = pathOf(dir)
				if _, err := f.search(t.Context(), test.p); fsCode(err) != test.want {
					t.Errorf("%q: got %q (%v), want %q", test.p.Pattern, fsCode(err), err, test.want)
				}
			}
			if _, err := f.search(t.Context(), searchParams{pathParam: pathOf(dir + "/link"), Pattern: "x"}); fsCode(err) != "SOURCE_ACCESS_DENIED" {
				t.Errorf("outside: %v, want SOURCE_ACCESS_DENIED", err)
			}
		})
	}
}

// A line of many MiB is cut at a whole character.
func TestSearchLarge(t *testing.T) {
	needsGit(t)
	t.Parallel()
	dir := realTempDir(t)
	writeFiles(t, dir, map[string]string{"long": strings.Repeat("ä", 1<<20) + "\n" + strings.Repeat("a", 99) + "ä" + strings.Repeat("€", 1<<20) + "needle\n"})
	f := fsOn(t, dir)
	got, err := f.search(t.Context(), searchParams{pathParam: pathOf(dir), Pattern: "needle", ContextLines: new(1)})
	if err != nil || len(got.Matches) != 1 {
		t.Fatalf("got %+v, %v, want one match", got, err)
	}
	m := got.Matches[0]
	if m.Line != 2 || len(m.Text) > maxSearchText || len(m.Text) < maxSearchText-3 || strings.Contains(m.Text, "\uFFFD") || len(m.Before[0]) != maxSearchText {
		t.Errorf("line %d, %d bytes, before %d, want line 2 cut to %d bytes", m.Line, len(m.Text), len(m.Before[0]), maxSearchText)
	}
}

// One file that is larger than git may read is passed over and counted; all
// others are searched.
func TestSearchSkipsTooLargeFiles(t *testing.T) {
	needsAnyName(t)
	skipShort(t, "it takes about a second")
	t.Parallel()
	for _, repository := range []bool{false, true} {
		dir := realTempDir(t)
		files := map[string]string{"a": "needle\n", "large": "needle\n", "sub/lär\nge*": "needle\n", "z": "needle\n"}
		writeFiles(t, dir, files)
		if repository {
			gitIn(t, dir, "init", "-q")
			gitIn(t, dir, "add", ".")
		}
		for _, name := range []string{"large", "sub/lär\nge*"} {
			if err := os.Truncate(dir+"/"+name, 1<<40); err != nil {
				t.Skip("no file of 1 TiB here: ", err)
			}
		}
		f := fsOn(t, dir)
		got, err := f.search(t.Context(), searchParams{pathParam: pathOf(dir), Pattern: "needle"})
		want := "a:1:1:needle [] []\nz:1:1:needle [] []\n"
		if err != nil || showMatches(got) != want || got.Skipped != 2 {
			t.Errorf("repository %v: want %q and 2 skipped files, got %q, %+v, %v", repository, want, showMatches(got), got, err)
		}
		got, err = f.search(t.Context(), searchParams{pathParam: pathOf(dir), Pattern: "needle", Exclude: []string{"large", "sub/**"}})
		if err != nil || showMatches(got) != want || got.Skipped != 0 {
			t.Errorf("repository %v, without the large files: want %q and no skipped files, got %+v, %v", repository, want, got, err)
		}
	}
}

// Tracked files are searched whatever .gitignore says about them, as in a
// repository of dotfiles; other files only if no rule ignores them.
func TestSearchFindsTrackedFilesThatAreIgnored(t *testing.T) {
	skipShort(t, "it takes seconds")
	t.Parallel()
	dir := realTempDir(t)
	gitIn(t, dir, "init", "-q")
	writeFiles(t, dir, map[string]string{
		".gitignore": "*\n!shown\n", ".bashrc": "foo\n", "config/deep/rc": "x\nfoo\n", "not-tracked": "foo\n", "shown": "foo\n",
		"tracked-and-shown": "foo\n", "bin": "foo\x00",
	})
	gitIn(t, dir, "add", "-f", ".bashrc", "config", "tracked-and-shown", "bin")
	f := fsOn(t, dir)
	for _, test := range []struct {
		name string
		p    searchParams
		want string
	}{
		{"all", searchParams{pathParam: pathOf(dir), Pattern: "foo"}, ".bashrc:1:1:foo [] []\nconfig/deep/rc:2:1:foo [] []\nshown:1:1:foo [] []\ntracked-and-shown:1:1:foo [] []\n"},
		{"below", searchParams{pathParam: pathOf(dir + "/config"), Pattern: "foo"}, "deep/rc:2:1:foo [] []\n"},
		{"include", searchParams{pathParam: pathOf(dir), Pattern: "foo", Include: []string{"config/**"}}, "config/deep/rc:2:1:foo [] []\n"},
		{"exclude", searchParams{pathParam: pathOf(dir), Pattern: "foo", Exclude: []string{"config", "shown"}}, ".bashrc:1:1:foo [] []\ntracked-and-shown:1:1:foo [] []\n"},
	} {
		got, err := f.search(t.Context(), test.p)
		if err != nil || showMatches(got) != test.want || got.Truncated {
			t.Errorf("%s: want %q, got %q, %v", test.name, test.want, showMatches(got), err)
		}
	}
	for limit := 1; limit < 5; limit++ {
		got, err := f.search(t.Context(), searchParams{pathParam: pathOf(dir), Pattern: "foo", Limit: &limit})
		if err != nil || len(got.Matches) != limit || got.Truncated != (limit < 4) {
			t.Errorf("limit %d: want that many matches, truncated %v, got %+v, %v", limit, limit < 4, got, err)
		}
	}
}

// What POSIX does not have is refused with the way to write it: git would find
// nothing, and say nothing.
func TestSearchPatternsOfOtherDialects(t *testing.T) {
	needsGit(t)
	skipShort(t, "it takes about a second")
	t.Parallel()
	for pattern, instead := range map[string]string{
		`\d`: "[0-9]", `x\d+`: "[0-9]", `\D`: "[^0-9]", `(?i)x`: "case_sensitive", `a(?:b|c)`: "group", `x(?=y)`: "lookahead", `[\d]`: "0-9", `[a-z\w.]+@`: "[:alnum:]_",
		`[^\s]`: "[:space:]", `[\D]`: "themselves", `\t`: "tab", `\\\d`: "[0-9]", `x\Z`: "$", `\A`: "^", `\p{L}`: "[[:alpha:]]", `\x41`: "itself", `\h`: "[[:blank:]]", `[[:alpha:]\t]`: "itself", `x[a\]]`: "first", `[\[\]]+`: "first",
	} {
		err := checkPattern(pattern)
		if fsCode(err) != "param pattern" || !strings.Contains(err.Error(), instead) {
			t.Errorf("%s: want an error for pattern that names %s, got %v", pattern, instead, err)
		}
	}
	dir := realTempDir(t)
	writeFiles(t, dir, map[string]string{"f": "a1 \\d (?x) b]c w_w \\]\n"})
	f := fsOn(t, dir)
	for _, pattern := range []string{`\\d`, `[\\]d`, `[\\]]`, `\(\?`, `[(?]+x`, `[]c]{2}`, `\bw_w\b`, `\w\s\S`, `[[:alpha:]][0-9]`, `[\.d]`, `(a|b)1\>`, `a\W?1`} {
		got, err := f.search(t.Context(), searchParams{pathParam: pathOf(dir), Pattern: pattern, Regexp: true})
		if err != nil || len(got.Matches) != 1 {
			t.Errorf("%s: want one match, got %v, %v", pattern, got, err)
		}
	}
	if got, err := f.search(t.Context(), searchParams{pathParam: pathOf(dir), Pattern: `\d (?x)`}); err != nil || len(got.Matches) != 1 {
		t.Errorf("a fixed string: want one match, got %v, %v", got, err)
	}
}

// Whatever the pattern, the check neither fails nor takes an error's place.
func FuzzCheckPattern(f *testing.F) {
	for _, seed := range []string{`\d`, `[\d`, `[[:alpha:]\`, `\`, `[`, `(?`, `[^]`, `[[.`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, pattern string) {
		if err := checkPattern(pattern); err != nil && !strings.ContainsAny(pattern, `\?`) {
			t.Errorf("%q: want no error without a backslash or a question mark, got %v", pattern, err)
		}
	})
}

// The result fits a message, however many lines match.
func TestSearchManyMatches(t *testing.T) {
	needsGit(t)
	skipShort(t, "it takes about a second")
	t.Parallel()
	dir := realTempDir(t)
	writeFiles(t, dir, map[string]string{"f": strings.Repeat(strings.Repeat("<", 1000)+"\n", 20_000)})
	got, err := fsOn(t, dir).search(t.Context(), searchParams{pathParam: pathOf(dir), Pattern: "<", Limit: new(10_000), ContextLines: new(3)})
	if err != nil || !got.Truncated || len(got.Matches) < 100 {
		t.Fatalf("got %d matches, %v, want at least 100 and truncated", len(got.Matches), err)
	}
	if data, err := json.Marshal(got); err != nil || len(data) > 10<<20 {
		t.Errorf("%d bytes, %v, want at most 10 MiB", len(data), err)
	}
}

// Programs that a repository's configuration names are not run.
func TestSearchHostileConfig(t *testing.T) {
	t.Parallel()
	dir := realTempDir(t)
	fsRepo(t, dir, map[string]string{"a": "foo", ".gitattributes": "* filter=x diff=x"})
	marker := filepath.Join(t.TempDir(), "ran")
	for _, key := range []string{"core.fsmonitor", "filter.x.clean", "diff.x.textconv", "diff.external", "core.pager", "pager.grep", "alias.grep"} {
		gitIn(t, dir, "config", key, "touch "+marker)
	}
	got, err := fsOn(t, dir).search(t.Context(), searchParams{pathParam: pathOf(dir), Pattern: "foo"})
	if err != nil || len(got.Matches) != 1 {
		t.Errorf("got %+v, %v, want one match", got, err)
	}
	if _, err := os.Stat(marker); err == nil {
		t.Error("a command of the repository's configuration ran, want none to run")
	}
}

func TestSearchCancelled(t *testing.T) {
	needsGit(t)
	skipShort(t, "it takes about a second")
	t.Parallel()
	dir := realTempDir(t)
	for i := range 200 {
		writeFiles(t, dir, map[string]string{fmt.Sprint(i): strings.Repeat("foo\n", 100)})
	}
	ctx, cancel := context.WithCancel(t.Context())
	var stopped time.Time
	ctx = withProgress(ctx, func(progress) {
		if stopped.IsZero() {
			stopped = time.Now()
			cancel()
		}
	})
	_, err := fsOn(t, dir).search(ctx, searchParams{pathParam: pathOf(dir), Pattern: "foo", Limit: new(10_000)})
	if took := time.Since(stopped); fsCode(err) != "REQUEST_CANCELLED" || took > patience {
		t.Errorf("got %v after %v, want REQUEST_CANCELLED at most %v later", err, took, patience)
	}
}

// If a directory is swapped for a symlink while git runs, git may read files
// outside, but the caller does not see them.
func TestSearchSwapRace(t *testing.T) {
	skipShort(t, "swaps files for seconds; TestAccessSwapRace does it for every reader")
	t.Parallel()
	dir, out := realTempDir(t), realTempDir(t)
	writeFiles(t, out, map[string]string{"f": "foo OUTSIDE"})
	writeFiles(t, dir, map[string]string{"d/f": "foo inside"})
	symlinks(t, map[string]string{dir + "/d-link": out})
	stop, done := make(chan struct{}), make(chan struct{})
	// Ends when stop is closed; the test waits for done.
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				swap(dir+"/d", dir+"/d-link")
			}
		}
	}()
	defer func() { close(stop); <-done }()
	f := fsOn(t, dir)
	for range 100 {
		for _, path := range []string{dir, dir + "/d"} {
			got, err := f.search(t.Context(), searchParams{pathParam: pathOf(path), Pattern: "foo"})
			if err == nil && strings.Contains(showMatches(got), "OUTSIDE") {
				t.Fatalf("found the outside: %s, want nothing of it", showMatches(got))
			}
		}
	}
}

// The hits are the same however the output is cut into pieces.
func FuzzReadGrepHit(f *testing.F) {
	f.Add([]byte("a\nb\x0012\x003\x00text\x00more\nc\x001\x001\x00\n"), 3)
	f.Add([]byte("a\x000\x003\x00text\n"), 1)
	f.Add([]byte("--\na\x001\x00-1\x00text"), 2)
	f.Add([]byte("a\x001\x001\x00"+strings.Repeat("x", maxSearchText+1)+"\n"), 900)
	f.Fuzz(func(t *testing.T, out []byte, step int) {
		parse := func(bufferSize int) (hits []grepHit, err error) {
			r := bufio.NewReaderSize(bytes.NewReader(out), bufferSize)
			for {
				hit, err := readGrepHit(r)
				if err != nil {
					return hits, err
				}
				hits = append(hits, hit)
			}
		}
		whole, err := parse(len(out))
		pieces, err2 := parse(step)
		if err2.Error() != err.Error() || !slices.Equal(whole, pieces) {
			t.Fatalf("with a buffer of %d bytes: got %v, %v, want %v, %v", step, pieces, err2, whole, err)
		}
		for _, h := range whole {
			if h.line < 1 || h.column < 1 || len(h.text) > maxSearchText {
				t.Errorf("got the hit %+v, want positive numbers and at most %d bytes of text", h, maxSearchText)
			}
		}
	})
}
