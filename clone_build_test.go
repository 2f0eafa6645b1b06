//go:build linux || darwin

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Every file of a clone is its blob, whatever the attributes of this commit and
// of the one before say.
func TestCloneFilesAreTheirBlobs(t *testing.T) {
	skipShort(t, "it clones many times")
	t.Parallel()
	w := newCloneWorld(t)
	remote := w.server.repo("lib", nil)
	remote.git("config", "core.autocrlf", "false")
	content := map[string]string{"id.txt": "$Id$\n", "crlf.txt": "a\r\nb\r\n", "lf.txt": "a\nb\n", "utf16.txt": "plain\n"}
	write := func(message, attributes string) string {
		t.Helper()
		writeFiles(t, remote.dir, content)
		remote.git("-c", "core.attributesFile=/dev/null", "add", "-A")
		if attributes != "" {
			blob, err := remote.tryGit(attributes, "hash-object", "-w", "--stdin")
			if err != nil {
				t.Fatal(err)
			}
			remote.git("update-index", "--add", "--cacheinfo", "100644,"+strings.TrimSpace(blob)+",.gitattributes")
		}
		remote.git("commit", "-q", "--allow-empty", "-m", message)
		return remote.head()
	}
	p := cloneParams{URL: w.server.address("lib")}
	reader := w.reader()
	check := func(r cloneResult) {
		t.Helper()
		for name := range content { // git has to look into the files
			if err := os.Chtimes(filepath.Join(r.Path, name), time.Time{}, time.Unix(1e9, 0)); err != nil {
				t.Fatal(err)
			}
		}
		info, _ := reader.read("vcs/info", map[string]string{"path": r.Path})
		if dirty := field[map[string]int](t, info, "dirty"); dirty["unstaged"] != 0 {
			t.Errorf("vcs/info gave dirty %v, want none", dirty)
		}
		for name, want := range content {
			if got := w.file(r, name); got != want {
				t.Errorf("%s is %q, want %q", name, got, want)
			}
		}
	}
	first := write("first", "")
	check(w.must(p, actionCloned, first))
	second := write("second", "*.txt text eol=crlf ident\nutf16.txt working-tree-encoding=UTF-16\n")
	check(w.must(p, actionUpdated, second))
	w.must(p, actionUnchanged, second)
	check(w.must(cloneParams{URL: p.URL, Name: "fresh"}, actionCloned, second))
	remote.git("rm", "-q", "--cached", ".gitattributes")
	check(w.must(p, actionUpdated, write("third", "")))
}

// An update leaves unchanged files the ones that they were, and packs the
// fetches together from time to time.
func TestCloneUpdateKeepsUnchangedFiles(t *testing.T) {
	if testing.Short() {
		t.Skip("makes as many updates as there may be packs")
	}
	t.Parallel()
	w := newCloneWorld(t)
	remote := w.server.repo("lib", map[string]string{"same": "1", "dir/same": "1", "changes": "0"})
	symlinks(t, map[string]string{remote.dir + "/link": "same"})
	remote.commit("link", nil)
	p := cloneParams{URL: w.server.address("lib")}
	r := w.must(p, actionCloned, remote.head())
	names := []string{"same", "dir/same", "link"}
	before := map[string]os.FileInfo{}
	for _, name := range names {
		info, err := os.Lstat(filepath.Join(r.Path, name))
		if err != nil {
			t.Fatal(err)
		}
		before[name] = info
	}
	for n := range maxPacks + 2 {
		r = w.must(p, actionUpdated, remote.commit("more", map[string]string{"changes": strings.Repeat("x", n+1)}))
	}
	for _, name := range names {
		info, err := os.Lstat(filepath.Join(r.Path, name))
		if err != nil || !os.SameFile(info, before[name]) {
			t.Errorf("%s is another file than before, %v", name, err)
		}
	}
	packs, err := filepath.Glob(r.Path + "/.git/objects/pack/*.pack")
	if err != nil || len(packs) > maxPacks {
		t.Errorf("%d packs, %v; want at most %d", len(packs), err, maxPacks)
	}
	w.must(p, actionUnchanged, remote.head())
}

// An update is made out of the state before the last one, whatever happened to it
// meanwhile, and every file that did not change stays the one that it was.
func TestCloneUpdateReusesTheSpare(t *testing.T) {
	skipShort(t, "it clones many times")
	t.Parallel()
	w := newCloneWorld(t)
	w.store.grace = 0
	remote := w.server.repo("lib", map[string]string{"same": "1", "dir/same": "1", "dir/gone": "1", "dir/edited": "1", "sub/same": "1", "old/deep/gone": "1", "changes": "0"})
	p := cloneParams{URL: w.server.address("lib")}
	w.must(p, actionCloned, remote.head())
	remote.git("rm", "-q", "-r", "old")
	r := w.must(p, actionUpdated, remote.commit("first", map[string]string{"changes": "1", "new/deep/file": "1"}))
	spares, err := filepath.Glob(filepath.Join(w.workDir, retiredDirName, "*"))
	if err != nil || len(spares) != 1 {
		t.Fatalf("kept are %v, %v, want one old state", spares, err)
	}
	stat := func(name string) os.FileInfo {
		t.Helper()
		info, err := os.Lstat(name)
		if err != nil {
			t.Fatal(err)
		}
		return info
	}
	dir := stat(spares[0] + "/dir")
	before := map[string]os.FileInfo{}
	for _, name := range []string{"same", "dir/same", "sub/same", "changes", "new/deep/file"} {
		before[name] = stat(filepath.Join(r.Path, name))
	}
	if err := errors.Join(os.Remove(spares[0]+"/dir/gone"), os.Remove(spares[0]+"/dir/edited"), os.RemoveAll(spares[0]+"/sub")); err != nil {
		t.Fatal(err)
	}
	writeFiles(t, spares[0], map[string]string{"dir/edited": "x", "dir/.git/HEAD": "x", "sub": "x", "other/deep/file": "x"})
	symlinks(t, map[string]string{spares[0] + "/dir/link": t.TempDir()})
	if err := errors.Join(syscall.Mkfifo(spares[0]+"/dir/pipe", 0o600), os.Mkdir(spares[0]+"/dir/locked", 0o500), os.Chmod(spares[0]+"/dir", 0o700)); err != nil {
		t.Fatal(err)
	}
	remote.git("rm", "-q", "dir/gone")
	r = w.must(p, actionUpdated, remote.commit("second", map[string]string{"dir/more": "1"}))
	if !os.SameFile(dir, stat(r.Path+"/dir")) {
		t.Error("the directory is a new one, want that of the old state")
	}
	if got, want := stat(r.Path+"/dir").Mode(), stat(r.Path+"/.git/objects").Mode(); got != want {
		t.Errorf("the directory is %v, want %v as git makes one", got, want)
	}
	for name, info := range before {
		if !os.SameFile(info, stat(filepath.Join(r.Path, name))) {
			t.Errorf("%s is another file than before, want the same", name)
		}
	}
	clone := &testRepo{t: t, dir: r.Path}
	if dirty := clone.git("status", "--porcelain", "--ignored"); dirty != "" {
		t.Errorf("git status shows %q, want nothing", dirty)
	}
	if entries, err := os.ReadDir(r.Path + "/dir"); err != nil || len(entries) != 3 {
		t.Errorf("dir has %v, %v, want edited, more and same", entries, err)
	}
	w.must(p, actionUnchanged, remote.head())
}

// Directories that are too deep to be linked are gone when the commit has none, and a
// pipe that somebody made, which git status does not show.
func TestCloneUpdateRemovesDeepDirectories(t *testing.T) {
	skipShort(t, "it clones several times")
	t.Parallel()
	w := newCloneWorld(t)
	files := map[string]string{"a": "1"}
	for n := maxTreeDepth - 1; n <= maxTreeDepth+1; n++ {
		files[fmt.Sprint("d", n, strings.Repeat("/d", n-1), "/file")] = "1"
	}
	remote := w.server.repo("lib", files)
	p := cloneParams{URL: w.server.address("lib")}
	r := w.must(p, actionCloned, remote.head())
	w.must(p, actionUnchanged, remote.head())
	update := func(action cloneAction) {
		t.Helper()
		w.must(p, action, remote.head())
		if entries, err := os.ReadDir(r.Path); err != nil || len(entries) != 2 {
			t.Errorf("%s: the clone has %v, %v, want .git and a", action, entries, err)
		}
	}
	remote.git("rm", "-q", "-r", "d*")
	remote.commit("flat", map[string]string{"a": "2"})
	update(actionUpdated)
	for _, action := range []cloneAction{actionUnchanged, actionUpdated} {
		if err := syscall.Mkfifo(r.Path+"/pipe", 0o600); err != nil {
			t.Fatal(err)
		}
		update(action)
		remote.commit("next", map[string]string{"a": "3"})
	}
}

// What others put into the clone's git directory goes with the next run.
func TestCloneGitDirectoryIsOurs(t *testing.T) {
	skipShort(t, "it clones many times")
	t.Parallel()
	w := newCloneWorld(t)
	remote := w.server.repo("lib", map[string]string{"a": "1"})
	p := cloneParams{URL: w.server.address("lib")}
	r := w.must(p, actionCloned, remote.head())
	for _, name := range []string{"hooks/post-checkout", "commondir", "config.worktree", "objects/info/alternates", "info/grafts", "index.lock", "refs/heads/other.lock", "objects/pack/tmp_pack_x"} {
		writeFiles(t, r.Path+"/.git", map[string]string{name: "..\n"})
		if _, err := w.try(p); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Lstat(r.Path + "/.git/" + name); err == nil {
			t.Errorf("%s is still there", name)
		}
		w.must(p, actionUnchanged, remote.head())
	}
}

// Files that somebody checked out with other attributes are blobs again after the
// next clone, although their index says that they are clean.
func TestCloneForeignAttributes(t *testing.T) {
	skipShort(t, "it clones twice")
	t.Parallel()
	w := newCloneWorld(t)
	remote := w.server.repo("lib", map[string]string{"a": "1\n2\n"})
	p := cloneParams{URL: w.server.address("lib")}
	r := w.must(p, actionCloned, remote.head())
	writeFiles(t, r.Path, map[string]string{".git/info/attributes": "* text eol=crlf\n"})
	if err := os.Remove(filepath.Join(r.Path, "a")); err != nil {
		t.Fatal(err)
	}
	(&testRepo{t: t, dir: r.Path}).git("checkout", "-q", "-f", "HEAD", "--", ".")
	later := time.Now().Add(time.Minute) // than the file, so that git does not compare it
	if err := os.Chtimes(filepath.Join(r.Path, ".git/index"), later, later); err != nil {
		t.Fatal(err)
	}
	if got := w.file(r, "a"); got != "1\r\n2\r\n" {
		t.Fatalf("got the file %q, want line ends as the attributes say", got)
	}
	w.must(p, actionUnchanged, remote.head())
	if got := w.file(r, "a"); got != "1\n2\n" {
		t.Errorf("got the file %q, want the blob", got)
	}
}
