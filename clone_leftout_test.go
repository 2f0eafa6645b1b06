package main

import (
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
		_, attributes := scanIndex(index, sha256)
		for _, name := range attributes {
			if filepath.Base(name) != ".gitattributes" || strings.Contains(name, "\x00") {
				t.Errorf("got the name %q, want one of a .gitattributes file", name)
			}
		}
	})
}

// previous_commit is where an updated clone was before.
func TestClonePreviousCommit(t *testing.T) {
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
