package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func FuzzScanIndex(f *testing.F) {
	repo := newTestRepo(f, map[string]string{"a": "1", ".gitattributes": "* filter=x\n", "d/.gitattributes": ""})
	index, err := os.ReadFile(filepath.Join(repo.dir, ".git", "index"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(index, false)
	f.Add(index, true)
	f.Add([]byte("DIRC\x00\x00\x00\x02\xff\xff\xff\xff"+strings.Repeat("x", 100)), false)
	f.Fuzz(func(t *testing.T, index []byte, sha256 bool) {
		for _, name := range scanIndex(index, sha256).attributes {
			if filepath.Base(name) != ".gitattributes" || strings.Contains(name, "\x00") {
				t.Errorf("got the name %q, want one of a .gitattributes file", name)
			}
		}
	})
}

// previous_commit is where an updated clone was before.
func TestClonePreviousCommit(t *testing.T) {
	skipShort(t, "it clones many times")
	t.Parallel()
	w := newCloneWorld(t)
	remote := w.server.repo("lib", map[string]string{"a": "1"})
	empty := w.server.repo("empty", nil)
	w.server.repo("other", map[string]string{"b": "1"})
	p := cloneParams{URL: w.server.address("lib"), Name: "x"}
	check := func(p cloneParams, action cloneAction, want string) {
		t.Helper()
		r, err := w.try(p)
		got := "null"
		if r.PreviousCommit != nil {
			got = *r.PreviousCommit
		}
		if err != nil || r.Action != action || got != want {
			t.Errorf("got %s, %v with the previous commit %s, want %s with %s", r.Action, err, got, action, want)
		}
	}
	first := remote.head()
	check(p, actionCloned, "null")
	check(p, actionUnchanged, first)
	second := remote.commit("second", map[string]string{"a": "2"})
	check(p, actionUpdated, first)
	check(p, actionUnchanged, second)
	check(cloneParams{URL: p.URL, Name: "x", Ref: first}, actionUpdated, second)
	check(cloneParams{URL: w.server.address("other"), Name: "x"}, actionRecloned, "null")
	check(cloneParams{URL: w.server.address("empty")}, actionCloned, "null")
	check(cloneParams{URL: w.server.address("empty")}, actionUnchanged, "null")
	empty.commit("first", map[string]string{"a": "1"})
	check(cloneParams{URL: w.server.address("empty")}, actionUpdated, "null")
}

// What git status does not show is removed like every other untracked file: empty
// directories, what is called .git, what is in a submodule's directory or in its place.
func TestCloneRemovesEmptyDirectories(t *testing.T) {
	skipShort(t, "it clones many times")
	t.Parallel()
	w := newCloneWorld(t)
	module := w.server.repo("module", map[string]string{"m": "1"})
	remote := w.server.repo("lib", map[string]string{"a": "1", "dir/b": "2", ".gitmodules": "[submodule \"m\"]\n\tpath = dir/m\n\turl = " + w.server.address("module") + "\n"})
	remote.git("update-index", "--add", "--cacheinfo", "160000,"+module.head()+",dir/m")
	remote.git("commit", "-q", "-m", "submodule")
	p := cloneParams{URL: w.server.address("lib")}
	r := w.must(p, actionCloned, remote.head())
	files := func(dir string) string {
		t.Helper()
		var all []string
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			all = append(all, fmt.Sprint(d.Type(), " ", path))
			if path == dir+"/.git" {
				return fs.SkipDir
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(all, "\n")
	}
	want := files(r.Path)
	inDir := func(path string) error { return os.MkdirAll(path, 0o755) }
	for _, c := range []struct {
		path string
		make func(path string) error
	}{
		{"empty", inDir}, {"dir/empty/below", inDir}, {"dir/m/file", inDir}, {"dir/m/empty", inDir}, {".gitx", inDir},
		{"dir/.git/junk", func(path string) error {
			return errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, nil, 0o600))
		}},
		{"dir/m/gone", func(path string) error { return os.RemoveAll(filepath.Dir(path)) }},
		{"dir/m/instead", func(path string) error {
			return errors.Join(os.RemoveAll(filepath.Dir(path)), os.WriteFile(filepath.Dir(path), nil, 0o600))
		}},
	} {
		path := c.path
		for _, update := range []bool{false, true} {
			if err := c.make(filepath.Join(r.Path, path)); err != nil {
				t.Fatal(err)
			}
			action := actionUnchanged
			if update {
				remote.git("commit", "-q", "--allow-empty", "-m", "more")
				action = actionUpdated
			}
			w.must(p, action, remote.head())
			if got := files(r.Path); got != want {
				t.Errorf("%s, %s: the tree is\n%s\nwant\n%s", path, action, got, want)
			}
		}
	}
}
