package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
)

// What Windows or Wine may lack. A test that needs it calls one of these functions,
// or a helper that does; elsewhere it must be there, so that a machine without it
// fails and does not skip most of the suite.

// lacks skips the test on Windows and fails it on other systems.
func lacks(t testing.TB, what string) {
	t.Helper()
	if runtime.GOOS != "windows" {
		t.Fatal("this machine lacks " + what)
	}
	t.Skip("needs " + what)
}

// needsGit needs a git program.
func needsGit(t testing.TB) {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		lacks(t, "git in the PATH")
	}
}

// needsLinks needs symlinks: Windows allows them to administrators and in
// developer mode, and Wine 8 reports success without making one.
func needsLinks(t testing.TB) {
	t.Helper()
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink("target", link); err == nil {
		if info, err := os.Lstat(link); err == nil && info.Mode()&os.ModeSymlink != 0 {
			return
		}
	}
	lacks(t, "symbolic links")
}

// needsModes needs the permission bits of Unix.
func needsModes(t testing.TB) {
	t.Helper()
	if runtime.GOOS == "windows" {
		lacks(t, "the permission bits of Unix")
	}
}

// needsShell needs programs that are shell scripts.
func needsShell(t testing.TB) {
	t.Helper()
	if runtime.GOOS == "windows" {
		lacks(t, "shell scripts that run as programs")
	}
}

// needsUnixPaths needs absolute paths that start with a slash; the rules for those
// of Windows have tests of their own (TestWindows…).
func needsUnixPaths(t testing.TB) {
	t.Helper()
	if runtime.GOOS == "windows" {
		lacks(t, "paths as Unix writes them")
	}
}

// needsWholeWrites needs a file system where a read sees a write whole or not at
// all; on Windows it can see zeros in a file that is growing.
func needsWholeWrites(t testing.TB) {
	t.Helper()
	if runtime.GOOS == "windows" {
		lacks(t, "writes that a read never sees half done")
	}
}

// needsAnyName needs file names that are no Unicode text, or that have characters
// that Windows refuses.
func needsAnyName(t testing.TB) {
	t.Helper()
	if runtime.GOOS == "windows" {
		lacks(t, "file names of any bytes")
	}
}
