package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
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
