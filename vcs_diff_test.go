package main

import (
	"bufio"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// allPatches returns the files of all pages.
func allPatches(t *testing.T, g *gitReader, p patchParams) (files []filePatch, pages int) {
	t.Helper()
	for {
		page, err := g.patches(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		size := 0
		for _, f := range page.Files {
			size += len(exactPatch(t, f))
		}
		if size > valueOr(p.MaxBytes, patchBytes) {
			t.Errorf("a page has %d bytes of patches, want at most %v", size, valueOr(p.MaxBytes, patchBytes))
		}
		files, pages = append(files, page.Files...), pages+1
		if p.Cursor = page.NextCursor; p.Cursor == nil {
			return files, pages
		}
	}
}

// exactPatch returns the bytes of a patch.
func exactPatch(t *testing.T, f filePatch) string {
	t.Helper()
	return exactName(t, valueOr(f.Patch, ""), f.PatchBase64)
}

// gitPatches returns the patches of git diff without those of binary files, and
// its counts by path.
func (r *testRepo) gitPatches(around int, args ...string) (patches string, counts map[string]string) {
	r.t.Helper()
	args = append([]string{"-c", "core.quotePath=false", "-c", "diff.context=" + strconv.Itoa(around), "diff", "--no-ext-diff", "--no-textconv"}, args...)
	for n, patch := range strings.Split("\n"+r.output("", args...), "\ndiff --git ") {
		if n > 0 && !strings.Contains(patch, "\nBinary files ") {
			patches += "diff --git " + strings.TrimSuffix(patch, "\n") + "\n"
		}
	}
	counts = map[string]string{}
	fields := splitNUL(r.output("", slices.Insert(slices.Clone(args), 7, "--numstat", "-z")...))
	for n := 0; n < len(fields); n++ {
		added, rest, _ := strings.Cut(fields[n], "\t")
		deleted, name, _ := strings.Cut(rest, "\t")
		if name == "" { // renamed
			name = fields[n+2]
			n += 2
		}
		counts[name] = added + " " + deleted
	}
	return patches, counts
}

func numstatText(f filePatch) string {
	text := func(n *int) string {
		if n == nil {
			return "-"
		}
		return strconv.Itoa(*n)
	}
	return text(f.Additions) + " " + text(f.Deletions)
}

// newPatchRepo is newOddRepo with a third commit of all that changes in text
// and with a work tree in which every kind of change is not committed.
func newPatchRepo(t *testing.T, dir string, initArgs ...string) (r *testRepo, first, second string) {
	t.Helper()
	r, first, second = newOddRepo(t, dir, initArgs...)
	for name, content := range map[string]string{
		".gitattributes": "*.data -diff\n*.txt text\nforced diff\n*.c diff=cpp\n", "x.data": "a\n", "crlf": "a\r\nb\r\n", "forced": "a\x00\nb\n", "n.c": "int f()\n{\n  a;\n  b;\n  c;\n  d;\n  e;\n}\n",
		"sub/no end": "a\nb", "late nul": strings.Repeat("line\n", 3000) + "\x00\n", "long": strings.Repeat("x", 200_000) + "\n", "dashes": "-- a\n++ b\n@@ c\n",
		"kind/a": "file\n", "kind/a.b": "1\n", "kind/b/x": "in a directory\n", "kind/b.c": "1\n",
	} {
		r.write(name, content)
	}
	r.commit("texts", nil)
	for name, content := range map[string]string{
		"README.md": "# odd\r\nmore\n", "x.data": "b\n", "crlf": "a\r\nb\r\nc\n", "forced": "a\x00\nc\n", "n.c": "int f()\n{\n  a;\n  b;\n  c;\n  d;\n  x;\n}\n",
		"sub/no end": "a\nb\n", "late nul": strings.Repeat("line\n", 3000) + "\x00\nx\n", "long": strings.Repeat("y", 200_000) + "\n", "dashes": "diff --git a/x b/x\n--- a\n+++ b\n@@ -1 +1 @@\nBinary files a and b differ\n",
		"latin1": "\xe8\nnow\n", "not utf-8 \xff\xfe": "v\n", "many/1/f001": "changed\n", "binary": "b\x00a", "untracked": "u\n", "touched": "",
	} {
		r.write(name, content)
	}
	for _, err := range []error{
		os.Chmod(filepath.Join(dir, "many/2/f002"), 0o755), os.Remove(filepath.Join(dir, "sub/deep/stays")),
		os.Remove(filepath.Join(dir, "kind/a")), os.RemoveAll(filepath.Join(dir, "kind/b")),
		os.Remove(filepath.Join(dir, "added")), os.Symlink("README.md", filepath.Join(dir, "added")),
		os.Chtimes(filepath.Join(dir, "many/3/f003"), patchTime(), patchTime()), // the same content
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	r.git("mv", "many/4/f004", "sub/moved")
	r.git("rm", "-q", "--cached", "many/5/f005") // stays in the work tree
	for name, content := range map[string]string{"kind/a/x": "now a directory\n", "kind/a.b": "2\n", "kind/b": "now a file\n", "kind/b.c": "2\n", "staged": "s\n"} {
		r.write(name, content)
		r.git("add", name)
	}
	return r, first, second
}

// The patches of all pages are those of git diff, byte for byte, and the counts
// those of git diff --numstat.
func TestPatchesEqualGitDiff(t *testing.T) {
	skipShort(t, "compares a hundred files in many ways")
	needsAnyName(t)
	needsLinks(t)
	t.Parallel()
	everyFormat(t, func(t *testing.T, dir string, initArgs ...string) {
		r, first, second := newPatchRepo(t, dir, initArgs...)

		kinds := r.git("commit-tree", "-m", "the index", r.git("write-tree"))
		g := newTestGitReader(t, dir)
		for _, c := range []struct {
			name  string
			below string
			from  string
			to    *string
			git   []string
			p     patchParams
			sizes []int // of pages; the first takes all
		}{
			{name: "two commits", sizes: []int{1 << 20, 2000}, from: first, to: &second, git: []string{first, second}},
			{name: "backwards", from: "HEAD", to: &first, git: []string{"HEAD", first}},
			{name: "with one line of context", from: first, to: new("HEAD"), git: []string{first, "HEAD"}, p: patchParams{ContextLines: new(1)}},
			{name: "a directory", below: "sub", from: first, to: new("HEAD"), git: []string{"--relative", first, "HEAD"}},
			{name: "a directory that is gone", below: "dir\nx", from: first, to: new("HEAD~1"), git: []string{"--relative", first, "HEAD~1"}},
			{name: "some files", from: "HEAD~1", to: new("HEAD"), git: []string{"HEAD~1", "HEAD", "--", "sub", "n.c"}, p: patchParams{Files: []string{"n.c", "sub", "*.data"}}},
			{name: "work tree", sizes: []int{1 << 20, 300_000, 5000}, from: "HEAD", git: []string{"HEAD"}},
			{name: "a file for a directory", sizes: []int{1 << 20, 250}, from: "HEAD", git: []string{"HEAD", "--", "kind"}, p: patchParams{Files: []string{"kind"}}},
			{name: "a file for a directory, in commits", sizes: []int{1 << 20, 250}, from: "HEAD", to: &kinds, git: []string{"HEAD", kinds, "--", "kind"}, p: patchParams{Files: []string{"kind"}}},
			{name: "work tree and an old commit", from: first, git: []string{first}},
			{name: "a directory of the work tree", below: "sub", from: "HEAD", git: []string{"--relative", "HEAD"}},
			{name: "work tree, an odd file", from: "HEAD", git: []string{"HEAD", "--", "not utf-8 \xff\xfe"}, p: patchParams{FilesBase64: []string{nameBase64("not utf-8 \xff\xfe")}}},
		} {
			where := &testRepo{t: t, dir: filepath.Join(dir, c.below)}
			want, counts := where.gitPatches(valueOr(c.p.ContextLines, 3), c.git...)
			if want == "" && c.below != "dir\nx" {
				t.Fatalf("%s: git prints no patch: this test proves nothing, want one", c.name)
			}
			if c.sizes == nil {
				c.sizes = []int{1 << 20}
			}
			c.p.pathParam, c.p.From, c.p.To = at(where.dir), &c.from, c.to
			for _, maxBytes := range c.sizes {
				c.p.MaxBytes = &maxBytes
				files, pages := allPatches(t, g, c.p)
				got, exact := "", true
				for _, f := range files {
					got += exactPatch(t, f)
					exact = exact && !f.TooLarge
					name := exactName(t, f.Path, f.PathBase64)
					if count, known := counts[name]; numstatText(f) != count || !known {
						t.Errorf("%s: %q has the counts %q, want %q", c.name, name, numstatText(f), count)
					}
					if f.IsBinary != (f.Additions == nil) || (f.Patch == nil) != (f.IsBinary || f.TooLarge) || f.Patch != nil && !utf8.ValidString(*f.Patch) {
						t.Errorf("%s: %s, want a patch of text unless binary or too large", c.name, asJSON(t, f))
					}
				}
				if len(files) != len(counts) {
					t.Errorf("%s, %d bytes: %d files, want %d", c.name, maxBytes, len(files), len(counts))
				}
				if exact && got != want {
					t.Errorf("%s, %d bytes: got\n%.3000q\nwant\n%.3000q", c.name, maxBytes, got, want)
				}
				if maxBytes == 1<<20 && (pages != 1 || !exact) || maxBytes <= 5000 && pages < 2 {
					t.Errorf("%s, %d bytes: %d pages for %d bytes, all of them exact: %v", c.name, maxBytes, pages, len(want), exact)
				}
			}
			c.p.MaxBytes, c.p.Stat = new(1000), true
			stat, _ := allPatches(t, g, c.p)
			for _, f := range stat {
				if name := exactName(t, f.Path, f.PathBase64); numstatText(f) != counts[name] || f.Patch != nil || f.TooLarge {
					t.Errorf("%s with stat: %s, want only the counts %q", c.name, asJSON(t, f), counts[name])
				}
			}
			if len(stat) != len(counts) {
				t.Errorf("%s with stat: %d files, want %d", c.name, len(stat), len(counts))
			}
		}
	})
}

func patchTime() time.Time { return time.Unix(1_700_000_000, 0) }

// What a file's entry says beside its patch.
func TestPatchEntries(t *testing.T) {
	needsAnyName(t)
	needsLinks(t)
	t.Parallel()
	dir := realTempDir(t)
	r, first, second := newPatchRepo(t, dir)
	g := newTestGitReader(t, dir)
	entry := func(name string, p patchParams) filePatch {
		t.Helper()
		p.pathParam = at(dir)
		files, _ := allPatches(t, g, p)
		for _, f := range files {
			if exactName(t, f.Path, f.PathBase64) == name {
				f.Patch, f.PatchBase64 = nil, ""
				return f
			}
		}
		t.Fatalf("%q is not listed, want it among %d files", name, len(files))
		return filePatch{}
	}
	commits := patchParams{From: &first, To: &second}
	for name, c := range map[string]struct {
		p    patchParams
		want filePatch
	}{
		"sub/new\nname":  {commits, filePatch{Status: "R", OldPath: "sub/deep/old name", Mode: "100644", OldMode: "100644", Additions: new(1), Deletions: new(0)}},
		"README.md":      {commits, filePatch{Status: "M", Mode: "100755", OldMode: "100644", Additions: new(0), Deletions: new(0)}},
		"empty":          {commits, filePatch{Status: "T", Mode: "120000", OldMode: "100644", Additions: new(1), Deletions: new(0)}},
		"sub/gone":       {commits, filePatch{Status: "D", Mode: "000000", OldMode: "100644", Additions: new(0), Deletions: new(1)}},
		"module":         {patchParams{From: &second, To: &first, Files: []string{"module"}}, filePatch{}},
		"x.data":         {patchParams{}, filePatch{Status: "M", Mode: "100644", OldMode: "100644", IsBinary: true}},
		"binary":         {patchParams{}, filePatch{Status: "M", Mode: "100644", OldMode: "100644", IsBinary: true}},
		"long":           {patchParams{MaxBytes: new(400_000)}, filePatch{Status: "M", Mode: "100644", OldMode: "100644", Additions: new(1), Deletions: new(1), TooLarge: true}},
		"sub/moved":      {patchParams{}, filePatch{Status: "R", OldPath: "many/4/f004", Mode: "100644", OldMode: "100644", Additions: new(0), Deletions: new(0)}},
		"many/2/f002":    {patchParams{}, filePatch{Status: "M", Mode: "100755", OldMode: "100644", Additions: new(0), Deletions: new(0)}},
		"added":          {patchParams{}, filePatch{Status: "T", Mode: "120000", OldMode: "100644", Additions: new(1), Deletions: new(1)}},
		"sub/deep/stays": {patchParams{}, filePatch{Status: "D", Mode: "000000", OldMode: "100644", Additions: new(0), Deletions: new(1)}},
		"latin1":         {patchParams{}, filePatch{Status: "M", Mode: "100644", OldMode: "100644", Additions: new(2), Deletions: new(1)}},
	} {
		if name == "module" {
			continue // its commit is the same in both
		}
		c.want.Path, c.want.PathBase64 = showName(name), nameBase64(name)
		if got := entry(name, c.p); asJSON(t, got) != asJSON(t, c.want) {
			t.Errorf("%q: %s, want %s", name, asJSON(t, got), asJSON(t, c.want))
		}
	}
	page, err := g.patches(t.Context(), patchParams{pathParam: at(dir)})
	if err != nil || *page.From != r.head() || page.To != nil {
		t.Errorf("from %v to %v, %v, want from HEAD to the work tree", page.From, page.To, err)
	}
	page, err = g.patches(t.Context(), patchParams{pathParam: at(dir), From: new("HEAD~1"), To: new("HEAD")})
	if err != nil || *page.From != second || *page.To != r.head() {
		t.Errorf("from %v to %v, %v, want the ids of both commits", page.From, page.To, err)
	}
}

// The work tree is compared as it lies on disk: no filter of the repository's
// configuration runs, and its conversion of line ends counts.
func TestPatchesOfConvertedFiles(t *testing.T) {
	t.Parallel()
	h := newHostileRepo(t)
	h.write(".gitattributes", "clean filter=x\n*.txt text\n")
	h.write("clean", "stored\n")
	h.write("a.txt", "one\ntwo\n")
	h.commit("attributes", nil)
	h.git("config", "filter.x.clean", h.attack()+"; sed s/disk/stored/")
	h.git("config", "core.autocrlf", "true")
	h.write("clean", "disk\n")
	h.write("a.txt", "one\r\n2\r\n")
	files, _ := allPatches(t, newTestGitReader(t, h.allowed), patchParams{pathParam: at(h.dir)})
	if len(files) != 2 || !strings.Contains(exactPatch(t, files[0]), "\n-two\n+2\n") || !strings.Contains(exactPatch(t, files[1]), "\n-stored\n+disk\n") {
		t.Errorf("got %s, want one line of a.txt changed, and the filtered file as on disk", asJSON(t, files))
	}
	if h.wasAttacked() {
		t.Error("the filter ran, want no program of the repository to run")
	}
	h.git("diff", "HEAD")
	if !h.wasAttacked() {
		t.Error("git itself does not run the filter: this test proves nothing, want it to run")
	}
}

// A file that a daemon must not show is not compared, whatever leads to it.
func TestPatchesHideWhatIsDenied(t *testing.T) {
	t.Parallel()
	h := newHostileRepo(t)
	for _, name := range []string{"hard", "soft/f", "denied/f", "private", ".git-daemon.old", "shown", "gone"} {
		h.write(name, "committed\n")
	}
	h.commit("all", nil)
	writeFiles(t, h.outside, map[string]string{"f": "s3cret\n", "token": "s3cret\n"})
	for _, name := range []string{"private", "denied/f", ".git-daemon.old", "shown"} {
		h.write(name, "s3cret "+name+"\n")
	}
	for _, err := range []error{
		os.Remove(filepath.Join(h.dir, "hard")), os.Link(filepath.Join(h.outside, "token"), filepath.Join(h.dir, "hard")),
		os.RemoveAll(filepath.Join(h.dir, "soft")), os.Symlink(h.outside, filepath.Join(h.dir, "soft")), os.Remove(filepath.Join(h.dir, "gone")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	g := newTestGitReader(t, h.allowed)
	for _, path := range []string{filepath.Join(h.outside, "token"), filepath.Join(h.dir, "private"), filepath.Join(h.dir, "denied")} {
		g.access.deny(path)
	}
	for _, p := range []patchParams{{}, {MaxBytes: new(1)}, {Stat: true}} {
		p.pathParam = at(h.dir)
		var got []string
		files, _ := allPatches(t, g, p)
		for _, f := range files {
			got = append(got, f.Status+" "+f.Path)
			if strings.Contains(valueOr(f.Patch, ""), "s3cret\n") {
				t.Errorf("%s: %s, want nothing of what is outside", f.Path, *f.Patch)
			}
		}
		if want := []string{"D gone", "M shown", "D soft/f"}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// A page of the work tree continues only if no listed file has changed since.
func TestPatchCursorOfAWorkTree(t *testing.T) {
	skipShort(t, "it takes a dozen requests")
	t.Parallel()
	dir := realTempDir(t)
	r := newTestRepoAt(t, dir, map[string]string{"a": "1", "b": "1", "c": "1", "d": "1"})
	writeFiles(t, dir, map[string]string{"a": "2", "b": "2", "c": "2"})
	g := newTestGitReader(t, dir)
	p := patchParams{pathParam: at(dir), MaxBytes: new(1)}
	first, err := g.patches(t.Context(), p)
	if err != nil || len(first.Files) != 1 || first.NextCursor == nil {
		t.Fatalf("%s, %v, want one file and a cursor", asJSON(t, first), err)
	}
	p.Cursor = first.NextCursor
	for name, c := range map[string]struct {
		change, undo func() error
		stale        bool
	}{
		"an untracked file":            {func() error { return os.WriteFile(dir+"/new", nil, 0o644) }, func() error { return os.Remove(dir + "/new") }, false},
		"a touched file that is clean": {func() error { return os.Chtimes(dir+"/d", patchTime(), patchTime()) }, nil, false},
		"another change":               {func() error { return os.WriteFile(dir+"/d", []byte("2"), 0o644) }, func() error { r.git("checkout", "-q", "d"); return nil }, true},
		"a listed file grew":           {func() error { return os.Rename(dir+"/b", dir+"/kept") }, func() error { return os.Rename(dir+"/kept", dir+"/b") }, true},
		"the next file is clean again": {func() error { r.git("mv", "b", "z"); return nil }, func() error { r.git("mv", "z", "b"); return nil }, true},
	} {
		if err := c.change(); err != nil {
			t.Fatal(err)
		}
		_, err := g.patches(t.Context(), p)
		if c.stale {
			wantFailure(t, err, codeConflict)
		} else if err != nil {
			t.Errorf("%s: %v, want the cursor valid", name, err)
		}
		if c.undo != nil {
			if err := c.undo(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := g.patches(t.Context(), p); err != nil {
		t.Errorf("with everything as before: %v, want the cursor valid", err)
	}
}

// Repositories without a commit or without a work tree, and wrong params.
func TestPatchesOfOddRepositories(t *testing.T) {
	t.Parallel()
	dir := realTempDir(t)
	r := newTestRepoAt(t, dir+"/unborn", nil)
	g := newTestGitReader(t, dir)
	page, err := g.patches(t.Context(), patchParams{pathParam: at(r.dir)})
	if err != nil || page.From != nil || page.To != nil || len(page.Files) != 0 {
		t.Errorf("nothing: %s, %v, want an empty page", asJSON(t, page), err)
	}
	r.write("staged", "s\n")
	r.git("add", "staged")
	r.write("untracked", "u\n")
	page, err = g.patches(t.Context(), patchParams{pathParam: at(r.dir)})
	if err != nil || len(page.Files) != 1 || page.Files[0].Status != "A" || !strings.HasSuffix(*page.Files[0].Patch, "\n+s\n") {
		t.Errorf("without commits: %s, %v, want the staged file added", asJSON(t, page), err)
	}
	full := newTestRepoAt(t, dir+"/full", map[string]string{"a": "1\n"})
	full.commit("second", map[string]string{"a": "2\n"})
	full.git("clone", "-q", "--bare", full.dir, dir+"/bare")
	bare := at(dir + "/bare")
	_, err = g.patches(t.Context(), patchParams{pathParam: bare})
	wantInvalid(t, err, "to")
	page, err = g.patches(t.Context(), patchParams{pathParam: bare, From: new("HEAD~1"), To: new("HEAD")})
	if err != nil || len(page.Files) != 1 || numstatText(page.Files[0]) != "1 1" {
		t.Errorf("bare: %s, %v, want one file", asJSON(t, page), err)
	}
	for param, p := range map[string]patchParams{
		"from":          {From: new("-x")},
		"to":            {To: new("a..b")},
		"files":         {Files: []string{"../x"}},
		"files_base64":  {FilesBase64: []string{"!"}},
		"context_lines": {ContextLines: new(-1)},
		"max_bytes":     {MaxBytes: new(0)},
		"path":          {pathParam: at(full.dir + "/a")},
		"cursor":        {Cursor: new("x")},
	} {
		if p.Path == "" {
			p.pathParam = at(full.dir)
		}
		_, err := g.patches(t.Context(), p)
		wantInvalid(t, err, param)
	}
	many := patchParams{pathParam: at(full.dir), Files: slices.Repeat([]string{strings.Repeat("x", 100)}, 300)}
	_, err = g.patches(t.Context(), many)
	wantInvalid(t, err, "files")
	_, err = g.patches(t.Context(), patchParams{pathParam: at(full.dir), Files: []string{".git-daemon.config"}})
	wantFailure(t, err, codeAccessDenied)
	_, err = g.patches(t.Context(), patchParams{pathParam: at(full.dir), From: new("none")})
	wantFailure(t, err, codeCommitNotFound)
}

// A submodule is compared by its commit and never entered.
func TestPatchesOfSubmodules(t *testing.T) {
	skipShort(t, "it takes a dozen processes of git")
	t.Parallel()
	h := newHostileRepo(t)
	sub := newTestRepoAt(t, filepath.Join(h.allowed, "sub"), map[string]string{"s": "s\n"})
	h.git("-c", "protocol.file.allow=always", "submodule", "add", "-q", sub.dir, "module")
	h.commit("module", nil)
	module := &testRepo{t: t, dir: filepath.Join(h.dir, "module")}
	old := module.head()
	module.git("config", "core.fsmonitor", h.attack())
	module.write("s", "dirty\n")
	g := newTestGitReader(t, h.allowed)
	list := func() []filePatch {
		t.Helper()
		files, _ := allPatches(t, g, patchParams{pathParam: at(h.dir)})
		return files
	}
	if files := list(); len(files) != 0 {
		t.Errorf("an edit in the submodule: %s, want no change", asJSON(t, files))
	}
	module.git("-c", "core.fsmonitor=false", "commit", "-q", "-a", "-m", "moved on")
	_ = os.Remove(h.marker) // the commit may have run it
	files := list()
	want, _ := h.gitPatches(patchContext, "--ignore-submodules=dirty", "HEAD", "--", "module")
	if len(files) != 1 || files[0].Mode != modeSubmodule || exactPatch(t, files[0]) != want || !strings.Contains(want, "-Subproject commit "+old) {
		t.Errorf("another commit: %s, want %q", asJSON(t, files), want)
	}
	_ = os.Remove(h.marker)
	if list(); h.wasAttacked() {
		t.Error("the submodule's configuration ran a program, want none to run")
	}
	if err := os.Rename(filepath.Join(h.dir, ".git", "modules", "module"), filepath.Join(h.allowed, "..", "gone")); err != nil {
		t.Fatal(err)
	}
	h.write("module/.git", "gitdir: ../../../gone\n")
	if files := list(); len(files) != 0 {
		t.Errorf("with its git directory outside: %s, want no change", asJSON(t, files))
	}
}

// Whatever git prints, the patches that are read are its bytes, and the reader
// stops where the next file begins.
func FuzzReadPatch(f *testing.F) {
	for _, seed := range []string{
		"diff --git a/a b/a\nindex 1..2 100644\n--- a/a\n+++ b/a\n@@ -1 +1,2 @@ f\n-x\n+y\n+diff --git\n\\ No newline at end of file\n",
		"diff --git a/b b/b\nBinary files a/b and b/b differ\n", "diff --git a/t b/t\ndeleted file mode 100644\n", "@@ x\n", "", "diff --git ", "diff --git a\n@@ \n+\n",
	} {
		f.Add(seed, 1, 100)
	}
	f.Fuzz(func(t *testing.T, text string, sections, limit int) {
		if sections < 1 || sections > 2 || limit < 0 || limit > 1<<20 {
			t.Skip()
		}
		const next = patchHeader + "a/next b/next\n"
		r := bufio.NewReaderSize(strings.NewReader(text+next), 16)
		p, err := readPatch(r, sections, limit)
		if err != nil {
			if !errors.Is(err, io.ErrUnexpectedEOF) && !strings.Contains(err.Error(), "git diff") {
				t.Errorf("%q: %v, want the end of the output or an unexpected record", text, err)
			}
			return
		}
		rest, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		read := strings.TrimSuffix(text+next, string(rest))
		if !strings.HasPrefix(string(rest), patchHeader) && len(rest) > 0 || !p.binary && !p.tooLarge && string(p.text) != read || p.tooLarge != (len(read) > limit) || len(p.text) > limit {
			t.Errorf("%q: %+v and the rest %q, want the bytes of the patch up to the next header", text, p, rest)
		}
		if p.additions+p.deletions > strings.Count(read, "\n") {
			t.Errorf("%q: %d lines, want at most as many as there are", text, p.additions+p.deletions)
		}
	})
}
