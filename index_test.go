package main

import (
	"cmp"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// newOddRepo is a repository with every kind of entry that git knows and names
// that need care; it returns its two commits. One git fast-import writes it, for
// a process for each of its files would take seconds.
func newOddRepo(t testing.TB, dir string, initArgs ...string) (r *testRepo, first, second string) {
	t.Helper()
	r = newTestRepoAt(t, dir, nil, initArgs...)
	long := strings.Repeat("a line of text that is long enough to be found again\n", 40)
	files := []streamFile{
		{"100644", "README.md", "# odd\n"},
		{"100755", "bin/run me", "#!/bin/sh\n"},
		{"120000", "link", "README.md"},
		{"100644", `quo"te's`, "q"},
		{"100644", "new\nline", "nl"},
		{"100644", "dir\nx/return\r", "cr"},
		{"100644", "tab\there", "t"},
		{"100644", "not utf-8 \xff\xfe", "u"},
		{"100644", "日本/über.txt", "ü"},
		{"100644", "--output=x", "option"},
		{"100644", ":(icase)readme", "magic"},
		{"100644", "empty", ""},
		{"100644", "binary", "a\x00b"},
		{"100644", "latin1", "\xe9t\xe9"},
		{"100644", "sub/deep/old name", long},
		{"100644", "sub/deep/stays", "s"},
		{"100644", "sub/gone", "g"},
	}
	for n := range 120 {
		files = append(files, streamFile{"100644", fmt.Sprintf("many/%d/f%03d", n%7, n), strconv.Itoa(n)})
	}
	id := strings.Repeat("12", 20)
	if slices.Contains(initArgs, "--object-format=sha256") {
		id = strings.Repeat("12", 32)
	}
	var stream importStream
	stream.commit("refs/heads/main", ":1", "first", "", "", append(files, streamFile{modeSubmodule, "module", id}))
	stream.commit("refs/heads/side", ":2", "side", ":1", "", nil)
	stream.commit("refs/heads/main", ":3", "second\n\nbody\n\nmore", ":1", "", []streamFile{
		{"", "sub/gone", ""},
		{"", "sub/deep/old name", ""},
		{"100644", "sub/new\nname", long + "and one more\n"},
		{"120000", "empty", "now a link"},
		{"100755", "README.md", "# odd\n"},
		{"100644", "added", "a"},
	})
	stream.commit("refs/heads/main", ":4", "merge", ":3", ":2", nil)
	r.output(stream.String(), "fast-import", "--quiet")
	r.git("checkout", "-q", "-f", "main")
	ids := strings.Fields(r.git("rev-parse", "HEAD~2", "HEAD"))
	r.git("tag", "light")
	r.git("tag", "-m", "a tag", "annotated")
	r.git("tag", "-m", "a tag of a tag", "nested", "annotated")
	r.git("tag", "-m", "of a blob", "blob-tag", "HEAD:README.md")
	r.git("symbolic-ref", "refs/remotes/origin/HEAD", "refs/remotes/origin/main")
	r.git("update-ref", "refs/remotes/origin/main", "HEAD")
	return r, ids[0], ids[1]
}

// exactName returns the original of a name that is not valid UTF-8.
func exactName(t testing.TB, name, name64 string) string {
	t.Helper()
	if name64 == "" {
		return name
	}
	raw, err := base64.StdEncoding.DecodeString(name64)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// everyFormat runs a test on SHA-1 and SHA-256 repositories; with -short on SHA-1
// alone.
func everyFormat(t *testing.T, test func(t *testing.T, dir string, initArgs ...string)) {
	formats := []string{"sha1", "sha256"}
	if testing.Short() {
		formats = formats[:1]
	}
	for _, format := range formats {
		t.Run(format, func(t *testing.T) { test(t, realTempDir(t), "--object-format="+format) })
	}
}

// allPages returns the manifest of all pages in the format of git ls-tree -z.
func allPages(t *testing.T, g *gitReader, p manifestParams) []string {
	t.Helper()
	var lines []string
	for {
		got, err := g.manifest(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range got.Files {
			size, kind := "-", "commit"
			if f.Size != nil {
				size, kind = strconv.FormatInt(*f.Size, 10), "blob"
			}
			lines = append(lines, fmt.Sprintf("%s %s %s %7s\t%s", f.Mode, kind, f.OID, size, exactName(t, f.Path, f.PathBase64)))
		}
		if p.Cursor = got.NextCursor; p.Cursor == nil {
			if got.Total != int64(len(lines)) {
				t.Errorf("total %d of %d files, want them equal", got.Total, len(lines))
			}
			return lines
		}
	}
}

func splitNUL(out string) []string {
	if out == "" {
		return nil
	}
	return strings.Split(strings.TrimSuffix(out, "\x00"), "\x00")
}

func TestManifestEqualsLsTreeOverAllPages(t *testing.T) {
	skipShort(t, "it takes about a second")
	t.Parallel()
	everyFormat(t, func(t *testing.T, dir string, initArgs ...string) {
		r, first, _ := newOddRepo(t, dir, initArgs...)
		g := newTestGitReader(t, dir)
		for _, commit := range []string{"HEAD", "HEAD^2~0", "annotated", first[:12]} {
			want := splitNUL(r.output("", "ls-tree", "-r", "-l", "-z", commit))
			for _, limit := range []int{137, len(want) - 1, len(want)} {
				if got := allPages(t, g, manifestParams{pathParam: at(dir), Commit: &commit, Limit: &limit}); !slices.Equal(got, want) {
					t.Errorf("commit %s, limit %d: %q\nwant %q", commit, limit, got, want)
				}
			}
			// Every page comes from git, none from the cache.
			var lines []string
			for p := (manifestParams{pathParam: at(dir), Commit: &commit, Limit: new(140)}); ; {
				g.listings.empty()
				got, err := g.manifest(t.Context(), p)
				if err != nil {
					t.Fatal(err)
				}
				for _, f := range got.Files {
					lines = append(lines, exactName(t, f.Path, f.PathBase64))
				}
				if p.Cursor = got.NextCursor; p.Cursor == nil {
					break
				}
			}
			if names := splitNUL(r.output("", "ls-tree", "-r", "--name-only", "-z", commit)); !slices.Equal(lines, names) {
				t.Errorf("without memory: %q\nwant %q", lines, names)
			}
		}
	})
}

func TestManifestOfADirectoryAndGlobs(t *testing.T) {
	skipShort(t, "it takes about a second")
	t.Parallel()
	dir := realTempDir(t)
	r, _, _ := newOddRepo(t, dir)
	r.git("checkout", "-q", "-f", "main")
	g := newTestGitReader(t, dir)
	got := allPages(t, g, manifestParams{pathParam: at(filepath.Join(dir, "many", "3")), Limit: new(2)})
	if want := splitNUL(r.output("", "ls-tree", "-r", "-l", "-z", "HEAD:many/3")); !slices.Equal(got, want) {
		t.Errorf("directory: %q\nwant %q", got, want)
	}
	odd := filepath.Join(dir, "dir\nx")
	if got := allPages(t, g, manifestParams{pathParam: at(odd)}); len(got) != 1 || !strings.HasSuffix(got[0], "return\r") {
		t.Errorf("directory with a line break: %q, want one file", got)
	}
	for _, c := range []struct{ include, exclude []string }{
		{[]string{"**/*.txt"}, nil}, {nil, []string{"many"}}, {[]string{"many/**", "sub"}, []string{"many/[0-4]/*", "**/f00?"}}, {[]string{"*"}, nil}, {[]string{":(icase)readme"}, nil},
	} {
		args := []string{"ls-files", "-z", "--"}
		for _, pattern := range c.include {
			args = append(args, ":(glob)"+pattern)
		}
		for _, pattern := range c.exclude {
			args = append(args, ":(exclude,glob)"+pattern)
		}
		var names []string
		for _, line := range allPages(t, g, manifestParams{pathParam: at(dir), Include: c.include, Exclude: c.exclude, Limit: new(5)}) {
			_, name, _ := strings.Cut(line, "\t")
			names = append(names, name)
		}
		if want := splitNUL(r.output("", args...)); !slices.Equal(names, want) {
			t.Errorf("%q without %q: %q\nwant %q", c.include, c.exclude, names, want)
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "untracked"), 0o755); err != nil {
		t.Fatal(err)
	}
	if got := allPages(t, g, manifestParams{pathParam: at(filepath.Join(dir, "untracked"))}); len(got) != 0 {
		t.Errorf("untracked directory: %q, want no file", got)
	}
	_, err := g.manifest(t.Context(), manifestParams{pathParam: at(filepath.Join(dir, "README.md"))})
	wantInvalid(t, err, "path")
}

// A cursor continues its own listing or fails; it never shows another one.
func TestManifestCursorOfAChangedRepository(t *testing.T) {
	skipShort(t, "it takes about a second")
	t.Parallel()
	dir := realTempDir(t)
	r, first, _ := newOddRepo(t, dir)
	g := newTestGitReader(t, dir)
	p := manifestParams{pathParam: at(dir), Limit: new(10)}
	fixed := p
	fixed.Commit = &first
	page, err := g.manifest(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	fixedPage, err := g.manifest(t.Context(), fixed)
	if err != nil {
		t.Fatal(err)
	}
	r.git("checkout", "-q", "-f", "main")
	r.write("one more", "x")
	r.git("add", "one more")
	r.git("commit", "-q", "-m", "third")

	p.Cursor, fixed.Cursor = page.NextCursor, fixedPage.NextCursor
	_, err = g.manifest(t.Context(), p)
	wantFailure(t, err, codeConflict)
	if _, err = g.manifest(t.Context(), fixed); err != nil {
		t.Errorf("the commit that the cursor lists has not changed: %v, want no error", err)
	}
	other := fixed
	other.Include = []string{"*"}
	_, err = g.manifest(t.Context(), other)
	wantInvalid(t, err, "cursor")
	_, err = g.diff(t.Context(), diffParams{pathParam: at(dir), From: first, Cursor: fixed.Cursor})
	wantInvalid(t, err, "cursor")
	for _, garbage := range []string{"", "x", "e30", "!!", strings.Repeat("A", 5000), base64.RawURLEncoding.EncodeToString([]byte(`{"v":1,"q":"x","s":"y","n":-1}`))} {
		bad := fixed
		bad.Cursor = &garbage
		_, err = g.manifest(t.Context(), bad)
		wantInvalid(t, err, "cursor")
	}
}

func TestReadBlobsEqualsCatFile(t *testing.T) {
	skipShort(t, "reads thousands of blobs; TestReadBlobsByNamesInBase64 has the same subject")
	t.Parallel()
	everyFormat(t, func(t *testing.T, dir string, initArgs ...string) {
		r, first, _ := newOddRepo(t, dir, initArgs...)
		g := newTestGitReader(t, dir)
		var oids, files, want []string
		for _, line := range splitNUL(r.output("", "ls-tree", "-r", "-z", first)) {
			head, name, _ := strings.Cut(line, "\t")
			if fields := strings.Fields(head); fields[1] == "blob" && !strings.Contains(name, "\xff") {
				oids, files = append(oids, fields[2]), append(files, name)
				want = append(want, r.output("", "cat-file", "blob", fields[2]))
			}
		}
		for _, p := range []blobsParams{
			{OIDs: oids},
			{Files: files, Commit: &first},
			{Files: files, Commit: &first, MaxBytes: new(2500)},
		} {
			p.pathParam = at(dir)
			var got []string
			for {
				page, err := g.readBlobs(t.Context(), p)
				if err != nil {
					t.Fatal(err)
				}
				for _, b := range page.Blobs {
					if b.Error != nil {
						t.Fatalf("%s: %v, want no error", b.Path, b.Error)
					}
					content := *b.Content
					if b.Encoding == "base64" {
						content = exactName(t, "", content)
					}
					if int64(len(content)) != *b.Size || *b.OID != oids[len(got)] || p.Files != nil && b.Path != p.Files[0] {
						t.Errorf("blob %d: %s, want the size, and the id %s", len(got), asJSON(t, b), oids[len(got)])
					}
					if p.Files != nil {
						p.Files = p.Files[1:]
					}
					got = append(got, content)
				}
				if page.NextIndex == nil {
					break
				}
				if *page.NextIndex != len(page.Blobs) || *page.NextIndex == 0 {
					t.Fatalf("next_index %d of %d blobs, want it to be the number of blobs", *page.NextIndex, len(page.Blobs))
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("%d contents, want %d, or they differ", len(got), len(want))
			}
		}
	})
}

func TestReadBlobsTellsOfEachThatCannotBeRead(t *testing.T) {
	t.Parallel()
	dir := realTempDir(t)
	r, first, _ := newOddRepo(t, dir)
	g := newTestGitReader(t, dir)
	got, err := g.readBlobs(t.Context(), blobsParams{pathParam: at(dir), Commit: &first, MaxBytes: new(100),
		Files: []string{"binary", "no such file", "sub", "module", "sub/deep/old name", "no\nsuch", "latin1", "README.md"}})
	if err != nil {
		t.Fatal(err)
	}
	for n, want := range []string{"YQBi", "SOURCE_NOT_FOUND", "SOURCE_NOT_FOUND", "SOURCE_NOT_FOUND", "RESULT_TOO_LARGE", "SOURCE_NOT_FOUND", "6XTp", "# odd\n"} {
		b := got.Blobs[n]
		if b.Error != nil && string(b.Error.name()) != want || b.Error == nil && *b.Content != want {
			t.Errorf("%s: %s, want %s", b.Path, asJSON(t, b), want)
		}
	}
	// Below the caller's directory.
	r.git("checkout", "-q", "-f", "main")
	got, err = g.readBlobs(t.Context(), blobsParams{pathParam: at(filepath.Join(dir, "sub")), Files: []string{"deep/stays"}})
	if err != nil || *got.Blobs[0].Content != "s" {
		t.Errorf("%s, %v, want the content s", asJSON(t, got), err)
	}
	missing := strings.Repeat("ab", 20)
	commit := r.git("rev-parse", "HEAD")
	got, err = g.readBlobs(t.Context(), blobsParams{pathParam: at(dir), OIDs: []string{missing, commit}})
	if err != nil || got.Blobs[0].Error.name() != codeSourceNotFound || got.Blobs[1].Error.name() != codeSourceNotFound || *got.Blobs[0].OID != missing {
		t.Errorf("%s, %v, want %s for both", asJSON(t, got), err, codeSourceNotFound)
	}
	for param, p := range map[string]blobsParams{
		"oids":      {OIDs: []string{"abcd"}},
		"files":     {Files: []string{"a", "../x"}},
		"max_bytes": {Files: []string{"a"}, MaxBytes: new(0)},
	} {
		p.pathParam = at(dir)
		_, err := g.readBlobs(t.Context(), p)
		wantInvalid(t, err, param)
	}
	for _, file := range []string{"/etc/passwd", "..", "a/../../b", "a//b", "./a", "", "a\x00"} {
		_, err := g.readBlobs(t.Context(), blobsParams{pathParam: at(dir), Files: []string{file}})
		wantInvalid(t, err, "files")
	}
	_, err = g.readBlobs(t.Context(), blobsParams{pathParam: at(dir)})
	wantInvalid(t, err, "oids")
	_, err = g.readBlobs(t.Context(), blobsParams{pathParam: at(dir), OIDs: []string{missing}, Files: []string{"a"}})
	wantInvalid(t, err, "files")
}

func TestDiffEqualsDiffTreeOverAllPages(t *testing.T) {
	skipShort(t, "reads thousands of pages; TestDiffOfADirectory has the same subject")
	t.Parallel()
	everyFormat(t, func(t *testing.T, dir string, initArgs ...string) {
		r, first, second := newOddRepo(t, dir, initArgs...)
		g := newTestGitReader(t, dir)
		for _, c := range []struct {
			from, to string
			renames  bool
		}{{first, second, true}, {first, "HEAD", false}, {"HEAD", first, true}, {first, first, true}} {
			find := "--no-renames"
			if c.renames {
				find = "-M"
			}
			want := splitNUL(r.output("", "diff-tree", "-r", "-z", "--raw", "--no-abbrev", find, c.from, c.to))
			for _, limit := range []int{2, 1000} {
				var got []string
				var totals []int64
				changes := int64(0)
				for p := (diffParams{pathParam: at(dir), From: c.from, To: &c.to, Renames: &c.renames, Limit: &limit}); ; {
					page, err := g.diff(t.Context(), p)
					if err != nil {
						t.Fatal(err)
					}
					for _, change := range page.Changes {
						got = append(got, rawChange(t, r, change)...)
						changes++
					}
					totals = append(totals, page.Total)
					if p.Cursor = page.NextCursor; p.Cursor == nil {
						break
					}
				}
				if !slices.Equal(got, want) {
					t.Errorf("%v, limit %d: %q\nwant %q", c, limit, got, want)
				}
				if slices.ContainsFunc(totals, func(total int64) bool { return total != changes }) {
					t.Errorf("%v, limit %d: totals %d, want %d on every page", c, limit, totals, changes)
				}
			}
		}
		renamed, err := g.diff(t.Context(), diffParams{pathParam: at(dir), From: first})
		if err != nil || !slices.ContainsFunc(renamed.Changes, func(c diffChange) bool {
			return c.Status == "R" && c.OldPath == "sub/deep/old name" && c.Path == "sub/new\nname" && *c.Score > 90
		}) {
			t.Errorf("no rename in %s, %v, want one of sub/deep/old name", asJSON(t, renamed), err)
		}
	})
}

// rawChange returns a change in the format of git diff-tree --raw -z.
func rawChange(t *testing.T, r *testRepo, c diffChange) []string {
	t.Helper()
	zero := strings.Repeat("0", len(cmp.Or(valueOr(c.OldOID, ""), valueOr(c.OID, ""))))
	status := c.Status
	if c.Score != nil {
		status += fmt.Sprintf("%03d", *c.Score)
	}
	lines := []string{fmt.Sprintf(":%s %s %s %s %s", c.OldMode, c.Mode, valueOr(c.OldOID, zero), valueOr(c.OID, zero), status)}
	if c.OldPath != "" {
		lines = append(lines, exactName(t, c.OldPath, c.OldPathBase64))
	}
	if c.OID != nil && c.Mode != modeSubmodule {
		if size := r.git("cat-file", "-s", *c.OID); c.Size == nil || strconv.FormatInt(*c.Size, 10) != size {
			t.Errorf("size of %s: %v, want %s", c.Path, c.Size, size)
		}
	}
	return append(lines, exactName(t, c.Path, c.PathBase64))
}

func TestDiffOfADirectory(t *testing.T) {
	t.Parallel()
	dir := realTempDir(t)
	r, first, _ := newOddRepo(t, dir)
	r.git("checkout", "-q", "-f", "main")
	got, err := newTestGitReader(t, dir).diff(t.Context(), diffParams{pathParam: at(filepath.Join(dir, "sub")), From: first})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, c := range got.Changes {
		names = append(names, c.Status+c.OldPath+">"+c.Path)
	}
	if want := []string{"D>gone", "Rdeep/old name>new\nname"}; !slices.Equal(names, want) {
		t.Errorf("%q, want %q", names, want)
	}
}

// Files in a commit with the name of one of the daemon's own files are not
// shown.
func TestNamesOfTheDaemonsFilesAreNotListed(t *testing.T) {
	t.Parallel()
	dir := realTempDir(t)
	r := newTestRepoAt(t, dir, nil)
	r.write("a", "a")
	r.commit("first", nil)
	r.write("x/.git-daemon.credentials", "https://oauth2:s3cret@example.org")
	r.write(".GIT-DAEMON.config", "c")
	r.write(".gitignore", "i")
	r.commit("second", nil)
	g := newTestGitReader(t, dir)
	if got := allPages(t, g, manifestParams{pathParam: at(dir), Limit: new(1)}); len(got) != 2 {
		t.Errorf("manifest: %q, want two files", got)
	}
	got, err := g.diff(t.Context(), diffParams{pathParam: at(dir), From: "HEAD~1"})
	if err != nil || len(got.Changes) != 1 || got.Changes[0].Path != ".gitignore" {
		t.Errorf("diff: %s, %v, want .gitignore alone", asJSON(t, got), err)
	}
	_, err = g.readBlobs(t.Context(), blobsParams{pathParam: at(dir), Files: []string{"x/.git-daemon.credentials"}})
	wantFailure(t, err, codeAccessDenied)
}
