package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// newSmallCloneWorld is a cloner whose work dir is on a disk of its own, of 8 MiB
// and with few inodes.
func newSmallCloneWorld(t *testing.T) *cloneWorld {
	t.Helper()
	w := &cloneWorld{t: t, server: newGitServer(t), workDir: smallDisk(t)}
	if err := unix.Mount("", w.workDir, "", unix.MS_REMOUNT, "size=8m,nr_inodes=500,mode=0700"); err != nil {
		t.Skip("a small disk takes root: ", err)
	}
	w.open()
	return w
}

// useUp leaves no inode free until free is called.
func (w *cloneWorld) useUp() (free func()) {
	w.t.Helper()
	dir := filepath.Join(w.workDir, "used")
	if err := os.Mkdir(dir, 0o700); err != nil {
		w.t.Fatal(err)
	}
	var err error
	for n := 0; err == nil; n++ {
		err = os.WriteFile(filepath.Join(dir, fmt.Sprint(n)), nil, 0o600)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		w.t.Fatal(err)
	}
	return func() {
		if err := os.RemoveAll(dir); err != nil {
			w.t.Error(err)
		}
	}
}

// Without a free inode a clone and an update are disk_full, and the old state
// stays; so they are when the inodes run out in the middle.
func TestCloneWithoutInodes(t *testing.T) {
	skipShort(t, "it clones many times")
	t.Parallel()
	w := newSmallCloneWorld(t)
	remote := w.server.repo("lib", map[string]string{"a": "1"})
	p := cloneParams{URL: w.server.address("lib")}
	r := w.must(p, actionCloned, remote.head())
	before := treeState(t, r.Path)
	remote.commit("second", map[string]string{"a": "2"})
	for _, p := range []cloneParams{p, {URL: p.URL, Name: "new"}, {URL: p.URL, Name: "group/new"}} {
		free := w.useUp()
		_, err := w.try(p)
		wantGitFailure(t, err, gitDiskFull)
		w.noTemporaries()
		if got := treeState(t, r.Path); got != before {
			t.Errorf("got the state\n%s\nwant\n%s", got, before)
		}
		free()
	}
	many := map[string]string{}
	for n := range 600 {
		many[fmt.Sprint("d", n%50, "/", n)] = "x"
	}
	third := remote.commit("third", many)
	for _, p := range []cloneParams{p, {URL: p.URL, Name: "new"}} {
		asked := w.server.fetches()
		_, err := w.try(p)
		wantGitFailure(t, err, gitDiskFull)
		w.noTemporaries()
		if got := treeState(t, r.Path); got != before {
			t.Errorf("got the state\n%s\nwant\n%s", got, before)
		}
		if n := w.server.fetches() - asked; n != 1 {
			t.Errorf("commit %s was fetched %d times, want once", third, n)
		}
	}
	remote.git("reset", "-q", "--hard", "HEAD~1")
	w.must(p, actionUpdated, remote.head())
}

// A disk that becomes full during an update ends it after one fetch, with the old
// state in its place.
func TestCloneUpdateOnAFullDisk(t *testing.T) {
	skipShort(t, "it clones many times")
	t.Parallel()
	w := newSmallCloneWorld(t)
	remote := w.server.repo("lib", map[string]string{"a": "1"})
	p := cloneParams{URL: w.server.address("lib")}
	r := w.must(p, actionCloned, remote.head())
	before := treeState(t, r.Path)
	for what, content := range map[string]string{
		"the pack":  noise(12 << 20),
		"the files": noise(5 << 20), // pack and file together are too much
	} {
		remote.commit(what, map[string]string{"big": content})
		asked := w.server.fetches()
		_, err := w.try(p)
		wantGitFailure(t, err, gitDiskFull)
		if n := w.server.fetches() - asked; n != 1 {
			t.Errorf("%s: it was fetched %d times, want once", what, n)
		}
		w.noTemporaries()
		if got := treeState(t, r.Path); got != before {
			t.Errorf("%s: got the state\n%s\nwant\n%s", what, got, before)
		}
		remote.git("reset", "-q", "--hard", "HEAD~1")
	}
	w.must(p, actionUpdated, remote.commit("small", map[string]string{"a": "2"}))
}

// Old states that are kept for the next update make room for a clone.
func TestCloneOnADiskFullOfSpares(t *testing.T) {
	skipShort(t, "it clones many times")
	t.Parallel()
	for _, c := range []struct {
		kept, other int // bytes
		fails       bool
	}{
		{kept: 1900 << 10, other: 800 << 10},
		{kept: 1500 << 10, other: 1300 << 10, fails: true}, // the disk looks empty enough
	} {
		w := newSmallCloneWorld(t)
		remote := w.server.repo("lib", map[string]string{"big": noise(c.kept)})
		w.must(cloneParams{URL: w.server.address("lib")}, actionCloned, remote.head())
		w.must(cloneParams{URL: w.server.address("lib")}, actionUpdated, remote.commit("second", map[string]string{"big": noise(c.kept + 1)}))
		other := w.server.repo("other", map[string]string{"big": noise(c.other)})
		p := cloneParams{URL: w.server.address("other")}
		if c.fails {
			_, err := w.try(p)
			wantGitFailure(t, err, gitDiskFull)
		}
		w.must(p, actionCloned, other.head())
	}
}

// What cannot be removed from an old state does not come back with the next update.
func TestCloneUpdateWithoutTheSpare(t *testing.T) {
	skipShort(t, "it clones many times")
	t.Parallel()
	w := newCloneWorld(t)
	w.store.grace = 0
	remote := w.server.repo("lib", map[string]string{"dir/a": "1"})
	p := cloneParams{URL: w.server.address("lib")}
	w.must(p, actionCloned, remote.head())
	w.must(p, actionUpdated, remote.commit("second", map[string]string{"dir/a": "2"}))
	spares, err := filepath.Glob(filepath.Join(w.workDir, retiredDirName, "*"))
	if err != nil || len(spares) != 1 {
		t.Fatalf("kept are %v, %v, want one old state", spares, err)
	}
	writeFiles(t, spares[0], map[string]string{"dir/stays": "x"})
	f, err := os.Open(spares[0] + "/dir/stays")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, unix.STATX_ATTR_IMMUTABLE); err != nil {
		t.Skip("a file that cannot be removed takes root and a file system that knows such: ", err)
	}
	remote.commit("third", map[string]string{"dir/a": "3"})
	r, err := w.try(p)
	w.stop()
	w.wait()
	w.open() // with the file in the way
	remote.commit("fourth", map[string]string{"dir/a": "4"})
	if _, err := w.try(p); err != nil {
		t.Errorf("after a restart: got %v, want it updated", err)
	}
	if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, 0); err != nil {
		t.Fatal(err)
	}
	if err != nil || r.Action != actionUpdated {
		t.Fatalf("got %+v, %v, want it updated", r, err)
	}
	if entries, err := os.ReadDir(r.Path + "/dir"); err != nil || len(entries) != 1 || w.file(r, "dir/a") != "4" {
		t.Errorf("dir has %v, %v, want a alone, with 4", entries, err)
	}
}
