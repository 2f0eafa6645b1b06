package main

import (
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A walk enters the file systems that are mounted below its path, such as a
// /home on its own partition.
func TestWalkEntersMountedFileSystems(t *testing.T) {
	skipShort(t, "it takes about a second")
	t.Parallel()
	for _, repository := range []bool{false, true} {
		top := realTempDir(t)
		writeFiles(t, top, map[string]string{"a/f": "x"})
		if repository {
			gitIn(t, top, "init", "-q")
		}
		newDeadMount(t, top+"/home", map[string]string{"me/f": "x"})
		fsRepo(t, top+"/home/me/repo", map[string]string{"g": "y"})
		f := fsOn(t, top)
		paths, _ := walkedPaths(t, f, top)
		for walk, want := range map[string]string{"glob, respect_gitignore true": "home/me/f", "glob, respect_gitignore false": "home/me/f", "search": "home/me/f", "repoScan": "home/me/repo"} {
			if repository && walk == "repoScan" {
				continue // it does not descend into what it found
			}
			if !slices.Contains(paths[walk], want) {
				t.Errorf("repository %v: %s: want %s, got %q", repository, walk, want, paths[walk])
			}
		}
	}
}

// What a walk cannot read is counted, and the rest is there.
func TestWalkCountsWhatItCannotRead(t *testing.T) {
	t.Parallel()
	for _, repository := range []bool{false, true} {
		top := realTempDir(t)
		writeFiles(t, top, map[string]string{"a/f": "x", "z/f": "x"})
		m := newDeadMount(t, top+"/disk", map[string]string{"f": "x"})
		if repository {
			gitIn(t, top, "init", "-q")
		}
		f := fsOn(t, top, m.dir)
		if err := m.server.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		awaitThat(t, "the disk is gone", func() bool { _, err := os.Stat(m.dir); return err != nil })
		paths, skipped := walkedPaths(t, f, top)
		for _, walk := range []string{"glob, respect_gitignore true", "glob, respect_gitignore false", "search"} {
			if got := strings.Join(paths[walk], " "); got != "a/f z/f" || skipped[walk] != 1 {
				t.Errorf("repository %v: %s: want a/f z/f and 1 skipped, got %q and %d", repository, walk, got, skipped[walk])
			}
		}
		if want := 1; !repository && skipped["repoScan"] != want {
			t.Errorf("repoScan: want %d skipped, got %d", want, skipped["repoScan"])
		}
		// An allowed directory that is unplugged does not fail a scan of all.
		got, err := f.repoScan(t.Context(), repoScanParams{})
		if err != nil || got.Skipped < 1 {
			t.Errorf("repository %v: a scan of everything: want at least 1 skipped, got %+v, %v", repository, got, err)
		}
	}
}

// No walk enters a file system of the kernel.
func TestWalkStaysOutOfTheKernelsFileSystems(t *testing.T) {
	skipShort(t, "it takes seconds")
	t.Parallel()
	for _, repository := range []bool{false, true} {
		top := realTempDir(t)
		writeFiles(t, top, map[string]string{"a/f": "x", "odd \\name/proc/": ""})
		if repository {
			gitIn(t, top, "init", "-q")
		}
		proc := top + "/odd \\name/proc"
		if err := unix.Mount("proc", proc, "proc", 0, ""); err != nil {
			t.Skip("proc cannot be mounted here: ", err)
		}
		t.Cleanup(func() { _ = unix.Unmount(proc, unix.MNT_DETACH) })
		if got := kernelMountsBelow(top); !slices.Equal(got, []string{"odd \\name/proc"}) {
			t.Errorf("want the mount of proc, got %q", got)
		}
		paths, skipped := walkedPaths(t, fsOn(t, top), top)
		for _, walk := range []string{"glob, respect_gitignore true", "glob, respect_gitignore false", "search"} {
			if got := strings.Join(paths[walk], " "); got != "a/f" || walk != "glob, respect_gitignore true" && skipped[walk] != 0 {
				t.Errorf("repository %v: %s: want a/f and nothing skipped, got %q and %d", repository, walk, got, skipped[walk])
			}
		}
	}
}
