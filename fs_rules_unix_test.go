//go:build linux || darwin

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// makePipes puts a named pipe at each path.
func makePipes(t *testing.T, paths ...string) {
	t.Helper()
	for _, path := range paths {
		_ = os.Remove(path)
		if err := syscall.Mkfifo(path, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// A named pipe in place of a file with rules holds nothing up: the walks list
// what they would list without it.
func TestPipesInPlaceOfRules(t *testing.T) {
	t.Parallel()
	for _, name := range []string{".gitignore", ".gitattributes", ".gitmodules", ".mailmap"} {
		for _, repository := range []bool{false, true} {
			t.Run(fmt.Sprint(name[1:], " repository ", repository), func(t *testing.T) {
				t.Parallel()
				dir := realTempDir(t)
				writeFiles(t, dir, map[string]string{"a": "x\n", "sub/b": "x\n", "sub/tracked.log": "x\n", "ignored/c": "x\n", "bin": "x\x00", "sub/deep/d": "x\n"})
				if name != ".gitignore" {
					writeFiles(t, dir, map[string]string{".gitignore": "ignored\n*.log\n"})
				}
				if repository {
					gitIn(t, dir, "init", "-q")
					gitIn(t, dir, "add", "-f", "a", "sub/tracked.log")
					gitIn(t, dir, "commit", "-q", "-m", "1")
					writeFiles(t, dir, map[string]string{"a": "changed x\n"})
				}
				makePipes(t, dir+"/"+name, dir+"/sub/"+name)
				want := []string{"a", "bin", "ignored/c", "sub/b", "sub/deep/d", "sub/tracked.log"}
				if name != ".gitignore" {
					want = []string{".gitignore", "a", "bin", "sub/b", "sub/deep/d"}
					if repository {
						want = append(want, "sub/tracked.log")
					}
				}
				begin := time.Now()
				paths, _ := walkedPaths(t, fsOn(t, dir), dir)
				if got := paths["glob, respect_gitignore true"]; !slices.Equal(got, want) {
					t.Errorf("glob: want %q, got %q", want, got)
				}
				found := slices.DeleteFunc(slices.Clone(want), func(path string) bool { return path == "bin" || path == ".gitignore" })
				slices.Sort(paths["search"])
				if got := paths["search"]; !slices.Equal(got, found) {
					t.Errorf("search: want %q, got %q", found, got)
				}
				below, _ := walkedPaths(t, fsOn(t, dir), dir+"/sub")
				if got := below["search"]; !slices.Contains(got, "b") || !slices.Contains(got, "deep/d") {
					t.Errorf("search below: want b and deep/d, got %q", got)
				}
				if repository {
					info, err := newTestGitReader(t, dir).info(t.Context(), infoParams{pathParam: pathOf(dir)})
					if err != nil || info.Head == nil {
						t.Errorf("info: want an answer, got %+v, %v", info, err)
					}
					// Git cannot be kept from reading the attributes of the files
					// that it compares.
					for _, to := range []*string{nil, new("HEAD")} {
						diff, err := newTestGitReader(t, dir).patches(t.Context(), patchParams{pathParam: pathOf(dir), To: to})
						if err != nil && (asRPCError(err).name() != codeGitFailed || !strings.Contains(err.Error(), name+": is not a regular file")) || err == nil && to == nil && len(diff.Files) != 1 {
							t.Errorf("diff: want an answer or an error that names %s, got %+v, %v", name, diff, err)
						}
					}
				}
				if took := time.Since(begin); took > 20*time.Second {
					t.Errorf("want the answers soon, got them after %v", took)
				}
			})
		}
	}
}

// Named pipes in place of a repository's own files are not waited for.
func TestPipesInPlaceOfAGitDirectorysFiles(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"HEAD", "config", "packed-refs", "index", "info/exclude", "info/attributes", "info/sparse-checkout", "shallow", "refs/heads/x", "objects/info/alternates", "commondir", "../.git"} {
		t.Run(strings.ReplaceAll(name, "/", " "), func(t *testing.T) {
			t.Parallel()
			dir := realTempDir(t)
			fsRepo(t, dir, map[string]string{"a": "x\n"})
			writeFiles(t, dir, map[string]string{".git/objects/info/": "", ".git/info/": ""})
			if name == "../.git" {
				if err := os.RemoveAll(dir + "/.git"); err != nil {
					t.Fatal(err)
				}
			}
			makePipes(t, filepath.Join(dir, ".git", name))
			begin := time.Now()
			f, g := fsOn(t, dir), newTestGitReader(t, dir)
			_, globErr := f.glob(t.Context(), globParams{pathParam: pathOf(dir)})
			_, searchErr := f.search(t.Context(), searchParams{pathParam: pathOf(dir), Pattern: "x"})
			_, scanErr := f.repoScan(t.Context(), repoScanParams{Paths: []string{dir}})
			_, infoErr := g.info(t.Context(), infoParams{pathParam: pathOf(dir)})
			_, logErr := g.history(t.Context(), logParams{pathParam: pathOf(dir)})
			_, manifestErr := g.manifest(t.Context(), manifestParams{pathParam: pathOf(dir)})
			if scanErr != nil {
				t.Errorf("repoScan: want no error, got %v", scanErr)
			}
			for method, err := range map[string]error{"glob": globErr, "search": searchErr, "info": infoErr, "log": logErr, "manifest": manifestErr} {
				if err == nil {
					continue
				}
				t.Logf("%s: %v", method, err)
				if code := asRPCError(err).Code; code == codeInternal || code == codeInvalidParams {
					t.Errorf("%s: want an answer or what is wrong with the repository, got %v", method, err)
				}
				if strings.HasPrefix(name, "info/") {
					t.Errorf("%s: want an answer without %s, got %v", method, name, err)
				}
			}
			if took := time.Since(begin); took > 20*time.Second {
				t.Errorf("want the answers soon, got them after %v", took)
			}
		})
	}
}

// Git reads the HEAD and the references of the repositories inside a work tree. A
// named pipe in one of those, or among the objects of a scanned repository, holds
// nothing up.
func TestPipesInNestedRepositories(t *testing.T) {
	skipShort(t, "git waits a moment for each pipe")
	t.Parallel()
	for name, set := range map[string]func(t *testing.T, top, sub string){
		"HEAD":   func(t *testing.T, _, sub string) { makePipes(t, sub+"/.git/HEAD") },
		"branch": func(t *testing.T, _, sub string) { makePipes(t, sub+"/.git/refs/heads/main") },
		"packed": func(t *testing.T, _, sub string) {
			gitIn(t, sub, "pack-refs", "--all")
			makePipes(t, sub+"/.git/packed-refs")
		},
		"link": func(t *testing.T, _, sub string) {
			makePipes(t, sub+"/pipe", sub+"/.git/HEAD")
			_ = os.Remove(sub + "/.git/HEAD")
			symlink(t, "../pipe", sub+"/.git/HEAD")
		},
		"common":  func(t *testing.T, _, sub string) { makePipes(t, sub+"/.git/commondir") },
		"objects": func(t *testing.T, _, sub string) { makePipes(t, sub+"/.git/objects/pack/multi-pack-index") },
		"tracked": func(t *testing.T, top, sub string) {
			gitIn(t, top, "add", "sub")
			gitIn(t, top, "commit", "-q", "-m", "2")
			makePipes(t, sub+"/.git/HEAD")
		},
		"modules": func(t *testing.T, top, sub string) {
			writeFiles(t, top, map[string]string{".gitmodules": "[submodule \"sub\"]\n\tpath = sub\n\turl = x\n"})
			gitIn(t, top, "add", "-A")
			gitIn(t, top, "commit", "-q", "-m", "2")
			makePipes(t, sub+"/.git/refs/heads/main")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := realTempDir(t)
			fsRepo(t, dir, map[string]string{"a": "x\n"})
			fsRepo(t, dir+"/sub", map[string]string{"b": "x\n"})
			gitIn(t, dir+"/sub", "branch", "-m", "main")
			set(t, dir, dir+"/sub")
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			f, g := fsOn(t, dir), newTestGitReader(t, dir)
			_, err := f.glob(ctx, globParams{pathParam: pathOf(dir)})
			_, searchErr := f.search(ctx, searchParams{pathParam: pathOf(dir), Pattern: "x"})
			scanned, scanErr := f.repoScan(ctx, repoScanParams{Paths: []string{dir, dir + "/sub"}})
			_, infoErr := g.info(ctx, infoParams{pathParam: pathOf(dir)})
			if err := errors.Join(err, searchErr, scanErr, infoErr); err != nil {
				t.Fatalf("want answers of glob, search, repoScan and info, got %v", err)
			}
			if len(scanned.Repos) == 0 || scanned.Repos[0].LastCommitAt == nil {
				t.Errorf("want the date of the other repository, got %+v", scanned.Repos)
			}
		})
	}
}

// A pipe that is merely listed is not opened: a program that waits to write to
// it would notice.
func TestPipesAreNotOpened(t *testing.T) {
	t.Parallel()
	dir := realTempDir(t)
	fsRepo(t, dir, map[string]string{"a": "x\n"})
	makePipes(t, dir+"/.gitignore", dir+"/pipe")
	opened := make(chan string, 2)
	for _, name := range []string{".gitignore", "pipe"} {
		go func() { // ends when a reader opens the pipe; the test does so at its end
			f, err := os.OpenFile(dir+"/"+name, os.O_WRONLY, 0)
			if err == nil {
				_ = f.Close()
			}
			opened <- name
		}()
	}
	f := fsOn(t, dir)
	respect := false
	if _, err := f.glob(t.Context(), globParams{pathParam: pathOf(dir), RespectGitignore: &respect}); err != nil {
		t.Error(err)
	}
	if _, err := f.listDir(t.Context(), listDirParams{pathParam: pathOf(dir)}); err != nil {
		t.Error(err)
	}
	for _, name := range []string{".gitignore", "pipe"} {
		if _, err := f.readFile(t.Context(), readFileParams{pathParam: pathOf(dir + "/" + name)}); fsCode(err) != "param path" {
			t.Errorf("%s: want it refused, got %v", name, err)
		}
		if _, err := f.stat(t.Context(), statParams{pathParam: pathOf(dir + "/" + name)}); err != nil {
			t.Error(err)
		}
	}
	select {
	case name := <-opened:
		t.Errorf("want no pipe opened, but %s was", name)
		opened <- name
	case <-time.After(100 * time.Millisecond):
	}
	for _, name := range []string{".gitignore", "pipe"} {
		reader, err := os.OpenFile(dir+"/"+name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer reader.Close()
	}
	<-opened
	<-opened
}
