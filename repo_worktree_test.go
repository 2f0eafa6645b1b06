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
