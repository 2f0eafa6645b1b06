package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// fsGlobAll returns the files of all pages.
func fsGlobAll(t testing.TB, f *fsService, p globParams) []string {
	t.Helper()
	var paths []string
	for range 10_000 {
		page, err := f.glob(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range page.Files {
			paths = append(paths, file.Path)
		}
		if page.NextCursor == nil {
			return paths
		}
		p.Cursor = page.NextCursor
	}
	t.Fatal("the pages have no end, want one")
	return nil
}

func TestGlob(t *testing.T) {
	needsLinks(t)
	dir := realTempDir(t)
	outside := realTempDir(t)
	writeFiles(t, outside, map[string]string{"secret.go": ""})
	tree := map[string]string{
		"a.go": "", "a/x.go": "", "a/y.txt": "", "a-b/z.go": "", "a/deep/er/w.go": "", "b/.git/config": "", "b/c.go": "",
		"node_modules/m.go": "", ".git-daemon.config": "s", ".git-daemon.d/x.go": "", ".hidden/h.go": "", "build/o.go": "", "build/keep.go": "",
		".gitignore": "build/*\n!keep.go\n/a/y.txt\n",
	}
	writeFiles(t, dir, tree)
	if err := errors.Join(os.Symlink(outside, dir+"/link"), os.Symlink(dir+"/a", dir+"/loop"), os.Symlink("a.go", dir+"/file-link")); err != nil {
		t.Fatal(err)
	}
	f := fsOn(t, dir)
	for _, test := range []struct {
		include, exclude []string
		plain            bool
		want             string
	}{
		{nil, nil, false, ".gitignore .hidden/h.go a-b/z.go a.go a/deep/er/w.go a/x.go b/c.go build/keep.go node_modules/m.go"},
		{nil, nil, true, ".gitignore .hidden/h.go a-b/z.go a.go a/deep/er/w.go a/x.go a/y.txt b/c.go build/keep.go build/o.go node_modules/m.go"},
		{[]string{"*.go"}, nil, true, "a.go"},
		{[]string{"**/*.go"}, []string{"node_modules/**", "a/deep"}, true, ".hidden/h.go a-b/z.go a.go a/x.go b/c.go build/keep.go build/o.go"},
		{[]string{"a/**"}, []string{"**/x.go"}, true, "a/deep/er/w.go a/y.txt"},
		{[]string{"a/deep", "b"}, nil, true, "a/deep/er/w.go b/c.go"},
		{[]string{"**/e?/*"}, nil, true, "a/deep/er/w.go"},
		{[]string{"none"}, nil, true, ""},
	} {
		for _, limit := range []int{1, 2, 100} {
			got := fsGlobAll(t, f, globParams{pathParam: pathOf(dir), Include: test.include, Exclude: test.exclude, RespectGitignore: new(!test.plain), Limit: &limit})
			if got := strings.Join(got, " "); got != test.want {
				t.Errorf("%v but %v, limit %d:\n got %s\nwant %s", test.include, test.exclude, limit, got, test.want)
			}
		}
	}
	for _, test := range []struct {
		p    globParams
		want string
	}{
		{globParams{pathParam: pathOf(dir + "/link")}, "SOURCE_ACCESS_DENIED"},
		{globParams{pathParam: pathOf(dir + "/none")}, "SOURCE_NOT_FOUND"},
		{globParams{pathParam: pathOf(dir + "/a.go")}, "param path"},
		{globParams{pathParam: pathOf(dir), Include: []string{"../x"}}, "param include"},
		{globParams{pathParam: pathOf(dir), Exclude: []string{"/x"}}, "param exclude"},
		{globParams{pathParam: pathOf(dir), Limit: new(maxGlobEntries + 1)}, "param limit"},
		{globParams{pathParam: pathOf(dir), Cursor: new("x")}, "param cursor"},
	} {
		if _, err := f.glob(t.Context(), test.p); fsCode(err) != test.want {
			t.Errorf("%+v: got %q, want %q", test.p, fsCode(err), test.want)
		}
	}
}

// A pattern with other pathspec magic of git is an ordinary name, and so is a
// directory with such a name.
func TestPathspecMagicIsLiteral(t *testing.T) {
	for _, repository := range []bool{true, false} {
		dir := realTempDir(t)
		if repository {
			gitIn(t, dir, "init", "-q")
		}
		writeFiles(t, dir, map[string]string{"README": "foo\n", "x": "foo\n", ":(icase)dir/f": "foo\n", ":!x": "foo\n", "--cached": "foo\n", "[x]": "foo\n"})
		f := fsOn(t, dir)
		for _, test := range []struct {
			path             string
			include, exclude []string
			want             string
		}{
			{"", []string{":(icase)readme", ":/README", ":(top)README", ":(attr:x)", ":^x"}, nil, ""},
			{"", []string{":!x"}, nil, ":!x"},
			{"", []string{":(icase)dir"}, nil, ":(icase)dir/f"},
			{"", []string{"--cached", "README"}, []string{":!README", ":(icase)readme"}, "--cached README"},
			{"", []string{"\\[x]"}, nil, "[x]"},
			{":(icase)dir", nil, nil, "f"},
		} {
			at := pathOf(filepath.Join(dir, test.path))
			if got := strings.Join(fsGlobAll(t, f, globParams{pathParam: at, Include: test.include, Exclude: test.exclude}), " "); got != test.want {
				t.Errorf("repository %v, glob of %q but %q: %q, want %q", repository, test.include, test.exclude, got, test.want)
			}
			found, err := f.search(t.Context(), searchParams{pathParam: at, Pattern: "foo", Include: test.include, Exclude: test.exclude})
			if err != nil {
				t.Errorf("repository %v, search of %q: %v, want no error", repository, test.include, err)
				continue
			}
			var paths []string
			for _, m := range found.Matches {
				paths = append(paths, m.Path)
			}
			if got := strings.Join(paths, " "); got != test.want {
				t.Errorf("repository %v, search of %q but %q: %q, want %q", repository, test.include, test.exclude, got, test.want)
			}
		}
	}
}

// Inside a repository git's own rules apply: tracked files are listed even if
// they are ignored, and info/exclude is respected.
func TestGlobRepository(t *testing.T) {
	t.Parallel()
	dir := realTempDir(t)
	top := dir + "/r"
	fsRepo(t, top, map[string]string{"tracked.log": "", "sub/a.go": "", "gone.go": ""})
	writeFiles(t, top, map[string]string{".gitignore": "*.log\n", "new.go": "", "x.log": "", "sub/.gitignore": "b.*\n", "sub/b.go": "", "excluded": "", ".git/info/exclude": "excluded\n", ".git-daemon.config": "s"})
	fsRepo(t, top+"/nested", map[string]string{"n.go": ""})
	if err := os.Remove(top + "/gone.go"); err != nil {
		t.Fatal(err)
	}
	f := fsOn(t, dir)
	if runtime.GOOS == "linux" {
		f.git.path = filepath.Join(dir, "no such git") // it is asked for what is rare alone
	}
	for path, want := range map[string]string{
		top:          ".gitignore new.go sub/.gitignore sub/a.go tracked.log",
		top + "/sub": ".gitignore a.go",
	} {
		for _, limit := range []int{1, 3, 100} {
			if got := strings.Join(fsGlobAll(t, f, globParams{pathParam: pathOf(path), Limit: &limit}), " "); got != want {
				t.Errorf("limit %d:\n got %s\nwant %s", limit, got, want)
			}
		}
	}
	// Nothing is listed below a tracked directory that was replaced by a
	// symlink.
	outside := realTempDir(t)
	writeFiles(t, outside, map[string]string{"a.go": "secret"})
	if err := errors.Join(os.RemoveAll(top+"/sub"), os.Symlink(outside, top+"/sub")); err != nil {
		t.Fatal(err)
	}
	if got := fsGlobAll(t, f, globParams{pathParam: pathOf(top), Include: []string{"sub/**"}}); got != nil {
		t.Errorf("behind a link: %v, want nothing", got)
	}
	entries, err := filepath.Glob(filepath.Join(os.TempDir(), "c4a-empty-*"))
	if err == nil && len(entries) > 0 {
		t.Logf("temporaries there now, perhaps another test's: %v", entries)
	}
}

// Split, sparse and SHA-256 indexes, linked work trees and submodules are read.
func TestGlobIndexKinds(t *testing.T) {
	skipShort(t, "makes an index of every kind; TestGlobRepository has the usual one")
	t.Parallel()
	dir := realTempDir(t)
	tree := map[string]string{"a/f": "", "b/c/f": "", "top": "", ".gitignore": "*.log", "a/x.log": ""}
	want := ".gitignore a/f b/c/f top"
	f := fsOn(t, dir)
	check := func(name, path, want string) {
		t.Helper()
		if got := strings.Join(fsGlobAll(t, f, globParams{pathParam: pathOf(path), Limit: new(2)}), " "); got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
	fsRepo(t, dir+"/split", tree)
	gitIn(t, dir+"/split", "update-index", "--split-index")
	check("split index", dir+"/split", want)

	fsRepo(t, dir+"/sparse", tree)
	gitIn(t, dir+"/sparse", "sparse-checkout", "set", "--cone", "--sparse-index", "a")
	check("sparse index", dir+"/sparse", ".gitignore a/f top")
	// The file is ignored but listed: only a tree object shows that it is
	// tracked.
	writeFiles(t, dir+"/sparse", map[string]string{"b/c/f": "", "b/c/g": "", ".git/info/exclude": "b\n"})
	check("sparse index, file there", dir+"/sparse", want)

	gitIn(t, dir, "init", "-q", "--object-format=sha256", "long")
	writeFiles(t, dir+"/long", tree)
	gitIn(t, dir+"/long", "add", "-A")
	check("SHA-256", dir+"/long", want)

	gitIn(t, dir+"/split", "worktree", "add", "-q", dir+"/linked")
	check("linked work tree", dir+"/linked", want)

	fsRepo(t, dir+"/super", map[string]string{"own": ""})
	gitIn(t, dir+"/super", "submodule", "--quiet", "add", dir+"/split", "sub")
	check("submodule", dir+"/super/sub", want)
	check("above a submodule", dir+"/super", ".gitmodules own")
	if err := os.Remove(dir + "/super/sub/.git"); err != nil {
		t.Fatal(err)
	}
	check("above a submodule without its repository", dir+"/super", ".gitmodules own")
}

// Programs that a repository's configuration names are not run.
func TestGlobHostileConfig(t *testing.T) {
	dir := realTempDir(t)
	fsRepo(t, dir, map[string]string{"a": "a", ".gitattributes": "* filter=x diff=x"})
	marker := filepath.Join(t.TempDir(), "ran")
	for _, key := range []string{"core.fsmonitor", "filter.x.clean", "diff.x.textconv", "core.pager", "core.hooksPath"} {
		gitIn(t, dir, "config", key, "touch "+marker)
	}
	writeFiles(t, dir, map[string]string{"a": "b"})
	f := fsOn(t, dir)
	if got := fsGlobAll(t, f, globParams{pathParam: pathOf(dir)}); len(got) != 2 {
		t.Errorf("got %v, want two files", got)
	}
	if _, err := os.Stat(marker); err == nil {
		t.Error("a command of the repository's configuration ran, want none to run")
	}
}

// latestChange returns the time of the last change of a directory or of others in it.
func latestChange(t *testing.T, dir string, names ...string) (latest time.Time) {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for _, name := range append(names, ".") {
		d, err := openDirBelow(root, name)
		if err != nil {
			t.Fatal(err)
		}
		info, err := d.info()
		d.close()
		if err != nil {
			t.Fatal(err)
		}
		if info.changed.After(latest) {
			latest = info.changed
		}
	}
	return latest
}

func TestGlobStaleCursor(t *testing.T) {
	for _, repository := range []bool{false, true} {
		dir := realTempDir(t)
		if repository {
			gitIn(t, dir, "init", "-q")
		}
		writeFiles(t, dir, map[string]string{"a/1": "", "a/2": "", "b/1": "", "b/2": ""})
		f := fsOn(t, dir)
		p := globParams{pathParam: pathOf(dir), Limit: new(3)}
		page, err := f.glob(t.Context(), p)
		if err != nil || page.NextCursor == nil || len(page.Files) != 3 {
			t.Fatalf("got %+v, %v, want a page of 3 files with a cursor", page, err)
		}
		p.Cursor = page.NextCursor
		other := p
		other.Include = []string{"b/**"}
		if _, err := f.glob(t.Context(), other); fsCode(err) != "param cursor" {
			t.Errorf("repository %v, other params: %v, want an error for the cursor", repository, err)
		}
		before := latestChange(t, dir, "a", "b")
		for _, l := range f.names.lists { // as if the directories had been old when they were listed
			l.list.(*nameList).began = before.Add(clockDifference)
		}
		old := time.Now().Add(-time.Hour)
		for !latestChange(t, dir, "b").After(before) { // the clock of a file system has ticks
			if err := errors.Join(os.WriteFile(dir+"/b/0", nil, 0o644), os.Chtimes(dir+"/b", old, old)); err != nil {
				t.Fatal(err)
			}
			if runtime.GOOS == "windows" { // which does not tell the time of a change
				f.names.empty()
				break
			}
		}
		if _, err := f.glob(t.Context(), p); fsCode(err) != "CONFLICT" {
			t.Errorf("repository %v, changed: %v, want CONFLICT", repository, err)
		}
	}
}

// randomIgnoreTree returns files in directories that have a random .gitignore each.
func randomIgnoreTree(rng *rand.Rand) map[string]string {
	names := []string{"a", "b", "c.log", "d.go", "a b", "logs", "x!y", "#h"}
	patterns := []string{"a", "*.log", "!c.log", "/b", "logs/", "a/b", "**/b", "a/**", "!a/", "!logs", "/logs", "*", "!*/", "!d.go", "x\\!y", "\\#h", "#h", "\\!z", "a b  ", "a\\ b", "[a-c]", "[!a]", "**", "a/**/b", "/*/a", "b/*", "?", "", " ", "/", "!", "!/a", "*/", "[", "a\\", "a\x00b"}
	tree := map[string]string{}
	for range 25 {
		path := ""
		for range 1 + rng.IntN(3) {
			path = filepath.Join(path, names[rng.IntN(len(names))]+[]string{"", "", "1"}[rng.IntN(3)])
		}
		clash := false
		for other := range tree {
			clash = clash || strings.HasPrefix(other, path+"/") || strings.HasPrefix(path, other+"/")
		}
		if !clash {
			tree[path] = ""
		}
	}
	dirs := map[string]bool{".": true}
	for path := range tree {
		dirs[filepath.Dir(path)] = true
	}
	for d := range dirs {
		var text strings.Builder
		for range rng.IntN(4) {
			text.WriteString(patterns[rng.IntN(len(patterns))] + []string{"\n", "\r\n"}[rng.IntN(2)])
		}
		tree[filepath.Join(d, ".gitignore")] = text.String()
	}
	return tree
}

// The walk reads .gitignore files as git does.
func TestGlobIgnoresAsGit(t *testing.T) {
	needsAnyName(t)
	skipShort(t, "compares with git many times, for 2 s; TestGlobRepository does it once")
	t.Parallel()
	rng := rand.New(rand.NewPCG(3, 4))
	for round := range 60 {
		dir, tree := realTempDir(t), randomIgnoreTree(rng)
		writeFiles(t, dir, tree)
		f := fsOn(t, dir)
		got := fsGlobAll(t, f, globParams{pathParam: pathOf(dir), Limit: new(7)})
		gitIn(t, dir, "init", "-q")
		var want []string
		if out := gitIn(t, dir, "ls-files", "-z", "--others", "--exclude-standard"); out != "" {
			want = strings.Split(strings.TrimSuffix(out, "\x00"), "\x00")
		}
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Fatalf("round %d:\n got %q\nwant %q\ntree %q", round, got, want, tree)
		}
		if again := fsGlobAll(t, f, globParams{pathParam: pathOf(dir)}); !slices.Equal(again, want) {
			t.Fatalf("round %d, in a work tree:\n got %q\nwant %q", round, again, want)
		}
	}
}

// What is listed of a work tree is what git lists of it, whether or not files are
// tracked that its rules ignore. The daemon asks git for no usual one.
func TestWorkTreesAreListedAsGitDoes(t *testing.T) {
	needsAnyName(t)
	skipShort(t, "compares with git many times, for 2 s; TestGlobRepository does it once")
	t.Parallel()
	rng := rand.New(rand.NewPCG(5, 6))
	for round := range 50 {
		dir, tree := realTempDir(t), randomIgnoreTree(rng)
		tree[".git/info/exclude"] = []string{"", "d.go\n!c.log\n", "/a\n*1\n"}[rng.IntN(3)]
		gitIn(t, dir, "init", "-q")
		writeFiles(t, dir, tree)
		dirs := []string{"."}
		for _, path := range slices.Sorted(maps.Keys(tree)) {
			if strings.HasPrefix(path, ".git/") {
				continue
			}
			if above := filepath.Dir(path); dirs[len(dirs)-1] != above {
				dirs = append(dirs, above)
			}
			if rng.IntN(3) == 0 {
				gitIn(t, dir, "add", "-f", "--", path)
			}
			if rng.IntN(8) == 0 && filepath.Base(path) != ".gitignore" {
				if err := os.Remove(filepath.Join(dir, path)); err != nil {
					t.Fatal(err)
				}
			}
		}
		f := fsOn(t, dir)
		if runtime.GOOS == "linux" {
			f.git.path = filepath.Join(dir, "no such git")
		}
		for _, below := range []string{".", dirs[rng.IntN(len(dirs))]} {
			at := filepath.Join(dir, below)
			var want []string
			for name := range strings.SplitSeq(gitIn(t, at, "ls-files", "-z", "--cached", "--others", "--exclude-standard"), "\x00") {
				if _, err := os.Stat(filepath.Join(at, name)); err == nil && name != "" {
					want = append(want, name)
				}
			}
			slices.Sort(want)
			for _, limit := range []int{3, 1000} {
				if got := fsGlobAll(t, f, globParams{pathParam: pathOf(at), Limit: &limit}); !slices.Equal(got, want) {
					t.Fatalf("round %d, %s, pages of %d:\n got %q\nwant %q\ntree %q\ntracked %q", round, below, limit, got, want, tree, gitIn(t, dir, "ls-files"))
				}
			}
		}
	}
}

// A directory of a work tree that becomes a symlink during the walk leads it nowhere.
func TestGlobFollowsNoSymlinkThatAppears(t *testing.T) {
	needsLinks(t)
	skipShort(t, "lists many times; TestGlobRepository has a symlink that is there")
	t.Parallel()
	dir, outside := realTempDir(t), realTempDir(t)
	const secret = 7777 // bytes
	for _, name := range []string{"tracked", "new"} {
		writeFiles(t, outside, map[string]string{"deep/" + name: strings.Repeat("x", secret)})
	}
	fsRepo(t, dir, map[string]string{"sub/deep/tracked": "1"})
	writeFiles(t, dir, map[string]string{"sub/deep/new": "1"})
	if err := os.Symlink(outside, dir+"/link"); err != nil {
		t.Fatal(err)
	}
	f := fsOn(t, dir)
	done := make(chan struct{})
	var swapping sync.WaitGroup
	defer swapping.Wait()
	defer close(done)
	swapping.Go(func() { // ends with done
		for {
			select {
			case <-done:
				return
			default:
			}
			_, _, _ = os.Rename(dir+"/sub", dir+"/was"), os.Rename(dir+"/link", dir+"/sub"), os.Rename(dir+"/was", dir+"/link")
		}
	})
	listed := 0
	for range 200 {
		page, err := f.glob(t.Context(), globParams{pathParam: pathOf(dir)})
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range page.Files {
			if listed++; file.Size == secret {
				t.Fatalf("got %s with %d bytes, want no file behind the symlink", file.Path, file.Size)
			}
		}
	}
	if listed == 0 {
		t.Error("no file was listed at all, want some")
	}
}

func TestGlobCancelled(t *testing.T) {
	skipShort(t, "makes a tree that takes long to walk")
	t.Parallel()
	dir := realTempDir(t)
	for i := range 2000 {
		writeFiles(t, dir, map[string]string{fmt.Sprintf("%d/%d", i%40, i): ""})
	}
	ctx, cancel := context.WithCancel(t.Context())
	var stopped time.Time
	ctx = withProgress(ctx, func(progress) {
		if stopped.IsZero() {
			stopped = time.Now()
			cancel()
		}
	})
	_, err := fsOn(t, dir).glob(ctx, globParams{pathParam: pathOf(dir)})
	if took := time.Since(stopped); fsCode(err) != "REQUEST_CANCELLED" || took > patience {
		t.Errorf("got %v after %v, want REQUEST_CANCELLED at most %v later", err, took, patience)
	}
}

// What exclude leaves out is the same with and without git: a bracket is a
// class there, also in the pattern of a whole directory.
func TestGlobExcludesTheSameWithAndWithoutGit(t *testing.T) {
	skipShort(t, "it takes about a second")
	t.Parallel()
	dir := realTempDir(t)
	gitIn(t, dir, "init", "-q")
	for _, name := range []string{"src/[id]/a", "src/[id]/deep/b", "src/i/a", "src/d/deep/b", "src/id/a", "a*b/f", "axb/f", "q?/f", "qx/f", `b\s/f`, "x/y/f", "[", "[x]/f"} {
		writeFiles(t, dir, map[string]string{name: ""})
	}
	gitIn(t, dir, "add", ".")
	f := fsOn(t, dir)
	for _, pattern := range []string{
		"src/[id]/**", "src/[id]", "src/[id]/", "src/[id]/*", "src/[[]id]/**", `src/\[id\]/**`, "src/*/**", "**/[id]/**", "[[]*/**", "a*b/**", "a*b", `a\*b/**`, "q?/**", `q\?/**`, `b\s/**`, `b\\s/**`,
		"src/**", "src", "src/", "src/**/deep/**", "**/deep/**", "[x]/**", "[/**", "[", "x/**/f", "x/y/**", "**",
	} {
		want := strings.Split(strings.TrimRight(gitIn(t, dir, "ls-files", "-z", "--", ".", ":(exclude,glob)"+pattern), "\x00"), "\x00")
		if want[0] == "" {
			want = nil
		}
		for _, respect := range []bool{true, false} {
			got := fsGlobAll(t, f, globParams{pathParam: pathOf(dir), Exclude: []string{pattern}, RespectGitignore: &respect})
			if !slices.Equal(got, want) {
				t.Errorf("exclude %s, respect_gitignore %v: want what git lists, %q, got %q", pattern, respect, want, got)
			}
		}
	}
}
