//go:build linux || darwin

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// untouched reports whether the clone called lib passes without git looking at it.
func (w *cloneWorld) untouched() bool {
	w.t.Helper()
	r := &clonedRepo{cloner: w.cloner, cloneJob: cloneJob{name: "lib"}}
	var err error
	if r.old, err = r.readFacts(); err != nil {
		w.t.Fatal(err)
	}
	seal, ok := w.store.sealOf("lib", r.old.stamp)
	return ok && r.isUntouched(w.t.Context(), seal)
}

// A clone that nobody touched is known to be whole without git, right after it was
// made and after each update; whatever is done to it is seen and undone.
func TestCloneIsSealed(t *testing.T) {
	skipShort(t, "it clones dozens of times; TestCloneReadsWhatIsAsNewAsItsHead does it once")
	t.Parallel()
	for _, format := range []string{"sha1", "sha256"} {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			w := newCloneWorld(t)
			repo := w.server.repo("lib", map[string]string{"a": "1\n", "dir/b": "2\n", "run.sh": "3\n"}, "--object-format="+format)
			symlinks(t, map[string]string{filepath.Join(repo.dir, "link"): "dir/b"})
			repo.git("add", "link")
			repo.git("update-index", "--chmod=+x", "run.sh")
			repo.git("update-index", "--add", "--cacheinfo", "160000,"+repo.head()+",sub")
			repo.git("commit", "-q", "-m", "all kinds")
			head := repo.head()
			p := cloneParams{URL: w.server.address("lib")}
			dir := w.must(p, actionCloned, head).Path
			at := func(name string) string { return filepath.Join(dir, name) }
			for _, touch := range []struct {
				name    string
				do      func() error
				isClean bool // to git
			}{
				{"nothing", nil, true},
				{"an edit of the same size", func() error { return os.WriteFile(at("a"), []byte("5\n"), 0o644) }, false},
				{"a new time", func() error {
					return errors.Join(os.Remove(at("dir/b")), os.WriteFile(at("dir/b"), []byte("2\n"), 0o644))
				}, true},
				{"another mode", func() error { return os.Chmod(at("a"), 0o755) }, false},
				{"another target", func() error { return errors.Join(os.Remove(at("link")), os.Symlink("dir/c", at("link"))) }, false},
				{"a file less", func() error { return os.Remove(at("run.sh")) }, false},
				{"a file more", func() error { return os.WriteFile(at("dir/c"), nil, 0o600) }, false},
				{"an empty directory", func() error { return os.Mkdir(at("empty"), 0o700) }, false},
				{"a submodule less", func() error { return os.Remove(at("sub")) }, false},
				{"a file in a submodule", func() error { return os.WriteFile(at("sub/x"), nil, 0o600) }, false},
				{"a ref", func() error { return os.WriteFile(at(".git/refs/heads/x"), []byte(head+"\n"), 0o600) }, false},
				{"no index", func() error { return os.Remove(at(".git/index")) }, false},
			} {
				if touch.do != nil {
					if err := touch.do(); err != nil {
						t.Fatal(touch.name, err)
					}
				}
				if got := w.untouched(); got != (touch.do == nil) {
					t.Errorf("%s: untouched is %t, want %t", touch.name, got, !got)
				}
				w.must(p, actionUnchanged, head)
				if got, want := w.untouched(), !touch.isClean || touch.do == nil; got != want {
					t.Errorf("%s: untouched is %t after the clone, want %t", touch.name, got, want)
				}
			}
			head = repo.commit("next", map[string]string{"a": "6\n"})
			w.must(p, actionUpdated, head)
			if !w.untouched() {
				t.Error("untouched is false after an update, want true")
			}
			missing := filepath.Join(dir, ".git", "objects", "pack", "*.pack")
			packs, err := filepath.Glob(missing)
			if err != nil || len(packs) == 0 || os.Remove(packs[0]) != nil {
				t.Fatalf("found the packs %q, %v", packs, err)
			}
			w.must(p, actionRecloned, head)
		})
	}
}

// The time of a directory can be set back: what was put into it is seen all the same.
func TestCloneSeesAFileBehindTheTimeOfItsDirectory(t *testing.T) {
	skipShort(t, "it waits until directories are old enough")
	t.Parallel()
	w := newCloneWorld(t)
	repo := w.server.repo("lib", map[string]string{"dir/a": "1\n"})
	p := cloneParams{URL: w.server.address("lib")}
	dir := w.must(p, actionCloned, repo.head()).Path
	for _, below := range []string{"dir", "."} {
		awaitThat(t, "the directories to be old enough to be known", func() bool {
			w.must(p, actionUnchanged, repo.head())
			w.store.mu.Lock()
			defer w.store.mu.Unlock()
			return len(w.store.seals["lib"].dirs) == 2
		})
		at := filepath.Join(dir, below)
		before, err := os.Stat(at)
		if err != nil {
			t.Fatal(err)
		}
		added := filepath.Join(at, "junk")
		if err := errors.Join(os.WriteFile(added, nil, 0o600), os.Chtimes(at, before.ModTime(), before.ModTime())); err != nil {
			t.Fatal(err)
		}
		w.must(p, actionUnchanged, repo.head())
		if _, err := os.Stat(added); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: the file is still there (%v), want it removed", below, err)
		}
	}
}

// Flags of an index that hide edits from git, and keep it from a checkout, are undone
// with the edits.
func TestCloneUndoesFlagsOfTheIndex(t *testing.T) {
	skipShort(t, "it clones many times")
	t.Parallel()
	for _, flag := range []string{"--assume-unchanged", "--skip-worktree"} {
		t.Run(flag, func(t *testing.T) {
			t.Parallel()
			w := newCloneWorld(t)
			repo := w.server.repo("lib", map[string]string{"a": "1\n", "b": "1\n"})
			p := cloneParams{URL: w.server.address("lib")}
			dir := w.must(p, actionCloned, repo.head()).Path
			for _, change := range []map[string]string{nil, {"b": "2\n"}, {"a": "3\n"}} {
				action, want := actionUnchanged, "1\n"
				if change != nil {
					repo.commit("next", change)
					action = actionUpdated
				}
				if change["a"] != "" {
					want = change["a"]
				}
				file := filepath.Join(dir, "a")
				(&testRepo{t: t, dir: dir}).git("update-index", flag, "a")
				if err := os.WriteFile(file, []byte("an edit\n"), 0o644); err != nil {
					t.Fatal(err)
				}
				w.must(p, action, repo.head())
				if text, err := os.ReadFile(file); err != nil || string(text) != want {
					t.Errorf("after the change %v: the file is %q, %v, want %q", change, text, err, want)
				}
			}
		})
	}
}

// A file of a clone is a hard link to that of the state before, in which a program may
// still have it open. What it writes there changes the clone too; the next vcs/clone
// finds that and writes the file anew.
func TestCloneFindsAnEditOfTheOldState(t *testing.T) {
	skipShort(t, "it clones several times")
	t.Parallel()
	w := newCloneWorld(t)
	repo := w.server.repo("lib", map[string]string{"a": "1\n", "kept": "2\n"})
	p := cloneParams{URL: w.server.address("lib")}
	dir := w.must(p, actionCloned, repo.head()).Path
	for _, change := range []string{"3\n", "4\n"} { // the second state is made out of the one before the first
		held, err := os.OpenFile(filepath.Join(dir, "kept"), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer held.Close()
		head := repo.commit("next", map[string]string{"a": change})
		w.must(p, actionUpdated, head)
		if _, err := held.WriteAt([]byte("x\n"), 0); err != nil {
			t.Fatal(err)
		}
		w.must(p, actionUnchanged, head)
		if text, err := os.ReadFile(filepath.Join(dir, "kept")); err != nil || string(text) != "2\n" {
			t.Errorf("the file is %q, %v, want what the commit has", text, err)
		}
		if _, err := held.WriteAt([]byte("y\n"), 0); err != nil {
			t.Fatal(err)
		}
		w.must(p, actionUnchanged, head)
	}
}

// The times of a file that was written just after the checkout say nothing: its
// content is compared.
func TestCloneReadsWhatIsAsNewAsItsHead(t *testing.T) {
	t.Parallel()
	w := newCloneWorld(t)
	repo := w.server.repo("lib", map[string]string{"a": "1\n"})
	symlinks(t, map[string]string{filepath.Join(repo.dir, "link"): "a"})
	dir := w.must(cloneParams{URL: w.server.address("lib")}, actionCloned, repo.commit("link", nil)).Path
	file, head := filepath.Join(dir, "a"), filepath.Join(dir, ".git", "HEAD")
	written, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	before := written.ModTime().Add(-time.Second)
	untouched := func() bool {
		r := &clonedRepo{cloner: w.cloner, cloneJob: cloneJob{name: "lib"}}
		if r.old, err = r.readFacts(); err != nil {
			t.Fatal(err)
		}
		return r.isUntouched(t.Context(), cloneSeal{})
	}
	if err := os.Chtimes(head, before, before); err != nil || !untouched() {
		t.Errorf("untouched is false, want true (%v)", err)
	}
	if err := errors.Join(os.WriteFile(file, []byte("2\n"), 0o644), os.Chtimes(file, written.ModTime(), written.ModTime())); err != nil || untouched() {
		t.Errorf("untouched is true after an edit at the time of the checkout, want false (%v)", err)
	}
}

// What was a file becomes a directory, a link or a submodule, and the other way round,
// while the state before the last one is used again by its index alone.
func TestCloneUpdateLinksWhatDiffers(t *testing.T) {
	skipShort(t, "it clones many times")
	t.Parallel()
	w := newCloneWorld(t)
	w.store.grace = 0
	repo := w.server.repo("lib", nil)
	const kinds, commits = 7, 6
	var stream importStream
	for n := range commits {
		files := []streamFile{{"100644", "same", "1"}, {"100644", "dir/same", "1"}, {"100644", "dir/new", fmt.Sprint(n)}}
		for k := range kinds {
			name := fmt.Sprint("dir/", k)
			files = append(files, [][]streamFile{
				{{"100644", name, "1"}}, nil, nil, {{"100755", name, "2"}}, {{"120000", name, "same"}}, {{modeSubmodule, name, strings.Repeat("1", 40)}},
				{{"100644", name + "/file", "1"}, {"100644", name + "/deep/file", "1"}},
			}[(k+n*(1+k%2))%kinds]...)
		}
		stream.commit(fmt.Sprint("refs/heads/v", n), fmt.Sprint(":", n+1), "next", "", "", files)
	}
	repo.output(stream.String(), "fast-import", "--quiet")
	p := cloneParams{URL: w.server.address("lib")}
	known := func() int {
		w.store.mu.Lock()
		defer w.store.mu.Unlock()
		return len(w.store.seals["lib"].dirs)
	}
	action := actionCloned
	for n := range commits {
		repo.git("update-ref", "refs/heads/main", fmt.Sprint("v", n))
		dir := w.must(p, action, repo.git("rev-parse", "main")).Path
		action = actionUpdated
		entries := strings.Count(repo.git("ls-tree", "-r", "-t", "main"), "\n") + 1
		_, dirs := w.treeOf(dir)
		awaitThat(t, "the directories to be old enough to be known", func() bool {
			w.must(p, actionUnchanged, repo.git("rev-parse", "main"))
			return known() == dirs
		})
		if names, _ := w.treeOf(dir); len(names) != entries {
			t.Errorf("commit %d: the clone has the entries %q, want %d", n, names, entries)
		}
	}
}

// treeOf returns what is in a work tree, and the number of its directories with the top.
func (w *cloneWorld) treeOf(dir string) (names []string, dirs int) {
	w.t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if d != nil && d.Name() == ".git" {
			return filepath.SkipDir
		}
		if path != dir {
			names = append(names, path)
		}
		if d != nil && d.IsDir() {
			dirs++
		}
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return names, dirs
}
