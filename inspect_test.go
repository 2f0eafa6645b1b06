package main

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// newTestGitReader returns a gitReader for the allowed directories.
func newTestGitReader(t testing.TB, allowed ...string) *gitReader {
	t.Helper()
	a, err := openAccess(allowed, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.close)
	git := newGitRunner(os.Getenv, "")
	return newGitReader(git, a, newRemotes(git, a, &credentials{}, nil), slog.New(slog.DiscardHandler))
}

// at returns the params for a path.
func at(path string) pathParam { return pathParam{Path: path} }

// asJSON returns a value as the caller receives it.
func asJSON(t testing.TB, v any) string {
	t.Helper()
	data, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestInfoOfAnEditedRepository(t *testing.T) {
	t.Parallel()
	dir := realTempDir(t)
	origin := newTestRepoAt(t, filepath.Join(dir, "origin"), nil)
	origin.write("a.txt", "a\n")
	origin.write("sub/b.txt", "b\n")
	first := origin.commit("first", nil)
	clone := &testRepo{t: t, dir: dir}
	clone.git("clone", "-q", origin.dir, "clone")
	clone.dir = filepath.Join(dir, "clone")
	clone.git("remote", "set-url", "origin", "https://oauth2:s3cret@example.org/x.git")
	clone.write("c.txt", "c\n")
	head := clone.commit("second\n\nwith a body", nil)
	clone.write("a.txt", "changed\n")
	clone.write("staged.txt", "s\n")
	clone.git("add", "staged.txt")
	clone.write("untracked/u.txt", "u\n")

	g := newTestGitReader(t, dir)
	for _, path := range []string{clone.dir, filepath.Join(clone.dir, "sub"), filepath.Join(clone.dir, "sub", "b.txt")} {
		got, err := g.info(t.Context(), infoParams{at(path)})
		if err != nil {
			t.Fatal(err)
		}
		ahead, behind := 1, 0
		name := func(s string) *string { return &s }
		want := infoResult{
			Path: clone.dir, Head: &head, Branch: name("main"), DefaultBranch: name("main"),
			Remotes: []remoteInfo{{"origin", "https://example.org/x.git"}},
			Dirty:   &dirtyCounts{Staged: 1, Unstaged: 1, Untracked: 1}, Ahead: &ahead, Behind: &behind,
			LastCommit: &commitEntry{
				OID: head, Parents: []string{first}, Subject: "second", Body: "with a body",
				Author:    commitPerson{"Ada", "ada@example.org", "2024-05-06T05:08:09Z"},
				Committer: commitPerson{"Bob", "bob@example.org", "2024-05-06T05:08:10Z"},
			},
		}
		if asJSON(t, got) != asJSON(t, want) {
			t.Errorf("info of %s: %s\nwant %s", path, asJSON(t, got), asJSON(t, want))
		}
	}
	if strings.Contains(asJSON(t, must(g.info(context.Background(), infoParams{at(clone.dir)}))), "s3cret") {
		t.Error("the answer has the remote's token, want none")
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// A value with a line break cannot bring further settings into the configuration
// that git runs with.
func TestHostileValuesAreNotCopied(t *testing.T) {
	t.Parallel()
	h := newHostileRepo(t)
	const more = "lf\n[filter \"x\"]\n\tclean = attack\n"
	for _, name := range []string{"core.eol", "core.autocrlf", "core.checkstat", "core.symlinks", "branch.main.merge", "branch.main.remote", "remote.origin.fetch"} {
		h.git("config", name, more)
	}
	v, err := newTestGitReader(t, h.allowed).open(at(h.dir), indexView)
	if err != nil {
		t.Fatal(err)
	}
	defer v.remove()
	text, err := os.ReadFile(filepath.Join(v.dir, "config"))
	if err != nil {
		t.Fatal(err)
	}
	settings, err := parseGitConfig(string(text))
	if err != nil || slices.ContainsFunc(settings, func(s gitSetting) bool { return s.section == "filter" }) {
		t.Errorf("got the configuration %s, %v, want none of filter", text, err)
	}
}

// Ignore rules and attributes of a git directory count for the state of its work
// tree.
func TestInfoFilesOfAGitDirectory(t *testing.T) {
	t.Parallel()
	dir := realTempDir(t)
	r := newTestRepoAt(t, dir, map[string]string{"a": "1\r\n"})
	r.write("ignored", "x")
	r.write(".git/info/exclude", "ignored\n")
	r.write(".git/info/attributes", "a -text\n")
	r.git("config", "core.autocrlf", "true")
	if err := os.Chtimes(filepath.Join(dir, "a"), time.Unix(1, 0), time.Unix(1, 0)); err != nil { // git has to compare it
		t.Fatal(err)
	}
	got, err := newTestGitReader(t, dir).info(t.Context(), infoParams{at(dir)})
	if err != nil || *got.Dirty != (dirtyCounts{}) {
		t.Errorf("got %s, %v, want a clean work tree, as git status shows it: %q", asJSON(t, got), err, r.git("status", "--porcelain"))
	}
}

// A change that keeps size and time of a file is seen when the file is not older
// than the index (git's racy-git.txt): the copy of the index has its time.
func TestInfoSeesAChangeAsOldAsTheIndex(t *testing.T) {
	t.Parallel()
	dir := realTempDir(t)
	r := newTestRepoAt(t, dir, nil)
	r.git("config", "core.trustctime", "false")
	then := time.Now().Add(-time.Hour).Truncate(time.Second)
	stamp := func(name string) {
		if err := os.Chtimes(filepath.Join(dir, name), then, then); err != nil {
			t.Fatal(err)
		}
	}
	r.write("f", "one")
	stamp("f")
	r.commit("first", nil)
	stamp(".git/index")
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("two"), 0o644); err != nil { // the same inode
		t.Fatal(err)
	}
	stamp("f")
	got, err := newTestGitReader(t, dir).info(t.Context(), infoParams{at(dir)})
	if err != nil || got.Dirty.Unstaged != 1 {
		t.Errorf("got %s, %v, want one changed file", asJSON(t, got), err)
	}
}

// A view serves requests until a fact of the repository changes, and is removed then
// or at the end.
func TestViewIsKept(t *testing.T) {
	t.Parallel()
	repo := newTestRepo(t, map[string]string{"a": "1"})
	g := newTestGitReader(t, repo.dir)
	views := &g.access.views
	log := func() (dir string) {
		t.Helper()
		r, err := g.history(t.Context(), logParams{pathParam: at(repo.dir)})
		if err != nil || r.Commits[0].OID != repo.head() {
			t.Fatalf("got %v, %v, want the commit %s", r.Commits, err, repo.head())
		}
		if len(views.views) != 1 || views.views[0].users != 0 {
			t.Fatalf("kept are %v, want one view that nobody uses", views.views)
		}
		return views.views[0].temp.path
	}
	first := log()
	if again := log(); again != first {
		t.Errorf("the second request made %s, want the kept %s", again, first)
	}
	repo.commit("second", map[string]string{"a": "2"})
	second := log()
	if _, err := os.Lstat(first); second == first || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after a commit: %s is used and the first view gave %v, want another one and the first removed", second, err)
	}
	if err := os.RemoveAll(second); err != nil {
		t.Fatal(err)
	}
	third := log()
	inUse := views.take(views.views[0].key, views.views[0].files, fileFacts{})
	views.close()
	if _, err := os.Lstat(third); err != nil {
		t.Errorf("a view in use was removed: %v", err)
	}
	views.give(inUse)
	if _, err := os.Lstat(third); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the last view: got %v, want it removed", err)
	}
}
