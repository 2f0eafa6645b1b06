package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// isBare returns git's own answer.
func (r *testRepo) isBare() bool {
	r.t.Helper()
	bare, err := strconv.ParseBool(r.git("rev-parse", "--is-bare-repository"))
	if err != nil {
		r.t.Fatal(err)
	}
	return bare
}

// changes returns the number of lines of git status, -1 if it fails.
func (r *testRepo) changes() int {
	out, err := r.tryGit("", "status", "--porcelain")
	if err != nil {
		return -1
	}
	return strings.Count(out, "\n")
}

// vcs/info, fs/repoScan and git itself agree whether a repository is bare and
// what has changed.
func TestBareAndWorkTreeAsGitSees(t *testing.T) {
	skipShort(t, "it takes seconds")
	t.Parallel()
	dir := realTempDir(t)
	src := newTestRepoAt(t, filepath.Join(dir, "src"), map[string]string{"a": "a\n", "sub/b": "b\n"})
	clone := func(name string, args ...string) *testRepo {
		gitIn(t, dir, append(append([]string{"clone", "-q"}, args...), src.dir, name)...)
		return &testRepo{t: t, dir: filepath.Join(dir, name)}
	}
	clone("plain")
	for name, value := range map[string]string{"true": "true", "number": "2", "zero": "0", "off": "off", "yes": "YES"} {
		clone("core-bare-"+name).git("config", "core.bare", value)
	}
	clone("unset").git("config", "--unset", "core.bare")
	clone("bare.git", "--bare")
	clone("bare-false.git", "--bare").git("config", "core.bare", "false")
	clone("bare-unset.git", "--bare").git("config", "--unset", "core.bare")

	container := &testRepo{t: t, dir: filepath.Join(dir, "container")}
	clone("container/.bare", "--bare")
	container.write(".git", "gitdir: ./.bare\n")
	container.git("worktree", "add", "-q", "main", "main")
	container.git("worktree", "add", "-q", "-b", "side", "side")
	container.write("notes.txt", "notes\n")
	writeFiles(t, filepath.Join(dir, "container", "side"), map[string]string{"new": "n\n"})

	clone("moved").git("config", "core.worktree", filepath.Join(dir, "elsewhere"))
	writeFiles(t, dir, map[string]string{"elsewhere/a": "changed\n"})
	clone("upwards").git("config", "core.worktree", "../..")
	gitIn(t, filepath.Join(dir, "plain"), "worktree", "add", "-q", "-b", "own", filepath.Join(dir, "linked-bare"))
	gitIn(t, filepath.Join(dir, "plain"), "config", "extensions.worktreeConfig", "true")
	gitIn(t, filepath.Join(dir, "linked-bare"), "config", "--worktree", "core.bare", "true")

	g, f := newTestGitReader(t, dir), fsOn(t, dir)
	for _, name := range []string{
		"plain", "plain/sub", "core-bare-true", "core-bare-true/sub", "core-bare-number", "core-bare-zero", "core-bare-off", "core-bare-yes", "unset", "bare.git",
		"bare-false.git", "bare-unset.git", "container", "container/main", "container/side", "container/.bare", "moved", "moved/sub", "upwards", "upwards/sub", "linked-bare",
	} {
		at := filepath.Join(dir, name)
		r := &testRepo{t: t, dir: at}
		got, err := g.info(t.Context(), infoParams{pathParam{Path: at}})
		if err != nil {
			t.Errorf("%s: got %v, want no error", name, err)
			continue
		}
		if want := r.isBare(); got.IsBare != want {
			t.Errorf("%s: got is_bare %t, want %t", name, got.IsBare, want)
		}
		changes := -1
		if got.Dirty != nil {
			changes = got.Dirty.Staged + got.Dirty.Unstaged + got.Dirty.Untracked
		}
		if want := r.changes(); changes != want {
			t.Errorf("%s: got %d changes (-1: null), want %d", name, changes, want)
		}
		if strings.HasSuffix(name, "/sub") {
			continue
		}
		if got.Path != at {
			t.Errorf("%s: got the path %s, want %s", name, got.Path, at)
		}
		scan, err := f.repoScan(t.Context(), repoScanParams{Paths: []string{at}, MaxDepth: new(0)})
		if err != nil || len(scan.Repos) != 1 || scan.Repos[0].IsBare != got.IsBare || scan.Repos[0].Path != got.Path {
			t.Errorf("%s: got the scan %s, %v, want is_bare %t as in vcs/info", name, asJSON(t, scan), err, got.IsBare)
		}
	}
	for _, inside := range []string{"container/.bare/refs", "container/.bare/worktrees/main", "plain/.git", "bare.git/objects"} {
		_, err := g.info(t.Context(), infoParams{pathParam{Path: filepath.Join(dir, inside)}})
		wantFailure(t, err, codeRepoNotFound)
	}
	// A path in the repository is relative to git's own work tree.
	for name, want := range map[string]string{"plain/sub": "[b]", "upwards/sub": "[]", "moved/sub": "[a sub/b]", "moved": "[a sub/b]", "core-bare-true/sub": "[a sub/b]"} {
		got, err := g.manifest(t.Context(), manifestParams{pathParam: pathParam{Path: filepath.Join(dir, name)}})
		var files []string
		for _, file := range got.Files {
			files = append(files, file.Path)
		}
		if err != nil || fmt.Sprint(files) != want {
			t.Errorf("%s: got the files %q, %v, want %s", name, files, err, want)
		}
	}
}

// The git directory that a .git file names is not among the files of the
// directory that holds both.
func TestGitDirectoryBesideItsWorkTreesIsNotListed(t *testing.T) {
	t.Parallel()
	dir := realTempDir(t)
	src := newTestRepoAt(t, filepath.Join(dir, "src"), map[string]string{"a": "needle\n", ".gitignore": "skipped\n"})
	for _, place := range []string{"one", "deep/two"} {
		container := &testRepo{t: t, dir: filepath.Join(dir, "all", place)}
		if err := os.MkdirAll(container.dir, 0o755); err != nil {
			t.Fatal(err)
		}
		container.git("clone", "-q", "--bare", src.dir, ".store/git")
		container.write(".git", "gitdir: .store/git\n")
		container.write(".store/notes", "needle\n")
		container.write(".store/git/info/needle", "needle\n")
		container.git("worktree", "add", "-q", "main", "main")
		container.write("main/skipped", "needle\n")
	}
	f := fsOn(t, dir)
	for start, want := range map[string][]string{
		"all/one": {".store/notes", "main/.gitignore", "main/a"},
		"all":     {"deep/two/.store/notes", "deep/two/main/.gitignore", "deep/two/main/a", "one/.store/notes", "one/main/.gitignore", "one/main/a"},
	} {
		p := at(filepath.Join(dir, start))
		if got := fsGlobAll(t, f, globParams{pathParam: p}); !slices.Equal(got, want) {
			t.Errorf("glob in %s: got %q, want %q", start, got, want)
		}
		if got := fsGlobAll(t, f, globParams{pathParam: p, Limit: new(1)}); !slices.Equal(got, want) {
			t.Errorf("glob in %s, page by page: got %q, want %q", start, got, want)
		}
		found, err := f.search(t.Context(), searchParams{pathParam: p, Pattern: "needle"})
		if err != nil {
			t.Fatal(err)
		}
		var files []string
		for _, m := range found.Matches {
			files = append(files, m.Path)
		}
		want = slices.DeleteFunc(slices.Clone(want), func(name string) bool { return strings.HasSuffix(name, ".gitignore") })
		if !slices.Equal(files, want) {
			t.Errorf("search in %s: got %q, want %q", start, files, want)
		}
	}
}

// A linked work tree has its own references below refs/bisect, refs/worktree and
// refs/rewritten, and shares the others.
func TestPrivateRefsOfALinkedWorkTree(t *testing.T) {
	skipShort(t, "it takes about a second")
	t.Parallel()
	dir := realTempDir(t)
	r := newTestRepoAt(t, filepath.Join(dir, "repo"), map[string]string{"a": "a\n"})
	second := r.commit("second", map[string]string{"a": "b\n"})
	linked := &testRepo{t: t, dir: filepath.Join(dir, "linked")}
	r.git("worktree", "add", "-q", "-b", "side", linked.dir, "HEAD~")
	bare := &testRepo{t: t, dir: filepath.Join(dir, "linked2")}
	r.git("worktree", "add", "-q", "--detach", bare.dir)
	for _, name := range []string{"refs/bisect/bad", "refs/worktree/x", "refs/rewritten/y", "refs/bisecting/z"} {
		r.git("update-ref", name, "HEAD")
		linked.git("update-ref", name, "HEAD")
	}
	r.git("update-ref", "refs/bisect/good-main", second)
	linked.git("update-ref", "refs/bisect/good-linked", second)
	linked.git("symbolic-ref", "refs/worktree/sym", "refs/bisect/bad")
	check := func() {
		t.Helper()
		g := newTestGitReader(t, dir)
		for _, tree := range []*testRepo{r, linked, bare} {
			want := tree.git("for-each-ref", "--format=%(refname) %(objectname)")
			got, err := g.listRefs(t.Context(), refsParams{pathParam: at(tree.dir)})
			if err != nil {
				t.Fatal(err)
			}
			var lines []string
			for _, ref := range got.Refs {
				lines = append(lines, ref.Name+" "+ref.OID)
			}
			if strings.Join(lines, "\n") != want {
				t.Errorf("%s: got the references\n%s\nwant\n%s", tree.dir, strings.Join(lines, "\n"), want)
			}
		}
	}
	check()
	r.git("pack-refs", "--all")
	check()
	// The work tree is on a branch of its own, which is private too.
	linked.git("symbolic-ref", "HEAD", "refs/worktree/x")
	want := linked.head()
	scan, err := fsOn(t, dir).repoScan(t.Context(), repoScanParams{Paths: []string{linked.dir}})
	if err != nil || len(scan.Repos) != 1 || scan.Repos[0].Head == nil || *scan.Repos[0].Head != want {
		t.Errorf("got the scan %s, %v, want the head %s", asJSON(t, scan), err, want)
	}
	info, err := newTestGitReader(t, dir).info(t.Context(), infoParams{at(linked.dir)})
	if err != nil || info.Head == nil || *info.Head != want {
		t.Errorf("got %s, %v, want the head %s", asJSON(t, info.Head), err, want)
	}
}

// HEAD and references may be symlinks instead of symbolic references, as git
// still writes them with core.preferSymlinkRefs.
func TestHeadAndRefsThatAreSymlinks(t *testing.T) {
	t.Parallel()
	dir := realTempDir(t)
	r := newTestRepoAt(t, filepath.Join(dir, "repo"), map[string]string{"a": "a\n"})
	r.git("branch", "topic/one")
	link := func(name, target string) {
		t.Helper()
		path := filepath.Join(r.dir, ".git", filepath.FromSlash(name))
		if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		if err := os.Symlink(target, path); err != nil {
			t.Skipf("this system makes no symlinks: %v", err)
		}
	}
	secret := filepath.Join(dir, "secret")
	writeFiles(t, dir, map[string]string{"secret": strings.Repeat("ab", 20) + "\n"})
	link("refs/heads/by-name", "refs/heads/topic/one")
	link("refs/heads/by-path", "topic/one")
	link("refs/heads/outside", secret)
	link("refs/heads/upwards", "../../../../secret")
	g, f := newTestGitReader(t, r.dir), fsOn(t, r.dir)
	for target, branch := range map[string]string{"refs/heads/main": "main", "refs/heads/topic/one": "topic/one", "refs/heads/unborn/x": "unborn/x"} {
		link("HEAD", target)
		for _, packed := range []bool{false, true} {
			if packed {
				r.git("pack-refs", "--all")
			}
			head, _ := r.tryGit("", "rev-parse", "--verify", "-q", "HEAD")
			head = strings.TrimSpace(head)
			info, err := g.info(t.Context(), infoParams{at(r.dir)})
			if err != nil || info.Branch == nil || *info.Branch != branch || info.Head == nil != (head == "") || head != "" && *info.Head != head {
				t.Errorf("HEAD to %s, packed %t: got %s, %v, want the branch %s at %q", target, packed, asJSON(t, info), err, branch, head)
			}
			scan, err := f.repoScan(t.Context(), repoScanParams{})
			if err != nil || len(scan.Repos) != 1 || asJSON(t, scan.Repos[0].Branch) != asJSON(t, info.Branch) || asJSON(t, scan.Repos[0].Head) != asJSON(t, info.Head) {
				t.Errorf("HEAD to %s, packed %t: got the scan %s, %v, want what vcs/info says", target, packed, asJSON(t, scan), err)
			}
		}
	}
	got, err := g.listRefs(t.Context(), refsParams{pathParam: at(r.dir)})
	var names []string
	for _, ref := range got.Refs {
		names = append(names, strings.TrimPrefix(ref.Name, "refs/heads/"))
	}
	if want := []string{"by-name", "by-path", "main", "topic/one"}; err != nil || !slices.Equal(names, want) {
		t.Errorf("got the references %q, %v, want %q", names, err, want)
	}
	// What git does not take for a repository is none.
	link("HEAD", filepath.Join(r.dir, "a"))
	if scan, err := f.repoScan(t.Context(), repoScanParams{}); err != nil || len(scan.Repos) != 0 {
		t.Errorf("HEAD to another file: got the scan %s, %v, want none", asJSON(t, scan), err)
	}
	_, err = g.info(t.Context(), infoParams{at(r.dir)})
	wantGitFailure(t, err, gitCorrupt)
}
