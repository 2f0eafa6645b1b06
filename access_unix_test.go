//go:build unix

package main

import (
	"net"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// Special files are refused at once: opening a pipe would wait for the other
// end, and reading a device could never end.
func TestAccessSpecialFiles(t *testing.T) {
	dir := realTempDir(t)
	if err := syscall.Mkfifo(dir+"/fifo", 0o600); err != nil {
		t.Fatal(err)
	}
	symlinks(t, map[string]string{dir + "/fifo-link": "fifo"})
	// The path of a socket must be short, and that of the directory may not be.
	t.Chdir(dir)
	listener, err := net.Listen("unix", "socket")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	names := []string{"fifo", "fifo-link", "socket"}
	if syscall.Mknod(dir+"/zero", syscall.S_IFCHR|0o600, 1<<8|5) == nil && runtime.GOOS == "linux" {
		names = append(names, "zero") // only root can create one
	}
	f := fsOn(t, dir)
	for _, name := range names {
		begin := time.Now()
		_, err := f.readFile(t.Context(), readFileParams{pathParam: pathOf(dir + "/" + name)})
		if took := time.Since(begin); fsCode(err) != "param path" || took > patience {
			t.Errorf("%s: %v after %v, want an error for the path within %v", name, err, took, patience)
		}
		got, err := f.stat(t.Context(), statParams{pathParam: pathOf(dir + "/" + name)})
		if err != nil || got.Entries[0].Type != "other" {
			t.Errorf("stat of %s: %+v, %v, want the type other", name, got, err)
		}
	}
	if got := fsGlobAll(t, f, globParams{pathParam: pathOf(dir)}); got != nil {
		t.Errorf("glob lists %v, want nothing", got)
	}
}

// unreadable returns a directory that contains a directory and a file that only
// root can read.
func unreadable(t *testing.T) (dir string, f *fsService) {
	t.Helper()
	dir = realTempDir(t)
	writeFiles(t, dir, map[string]string{"closed/f": "", "open/f": "", "file": ""})
	for _, name := range []string{"/closed", "/file"} {
		if err := os.Chmod(dir+name, 0); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { _ = os.Chmod(dir+"/closed", 0o755) })
	return dir, fsOn(t, dir)
}

// checkUnreadable checks that walks skip it and that a direct request reports
// it.
func checkUnreadable(t *testing.T, dir string, f *fsService) {
	t.Helper()
	if got := fsGlobAll(t, f, globParams{pathParam: pathOf(dir)}); len(got) != 2 {
		t.Errorf("glob: %v, want two files", got)
	}
	if _, err := f.repoScan(t.Context(), repoScanParams{}); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"/closed/f", "/file"} {
		if _, err := f.readFile(t.Context(), readFileParams{pathParam: pathOf(dir + name)}); fsCode(err) != "SOURCE_ACCESS_DENIED" {
			t.Errorf("reading %s: %v, want SOURCE_ACCESS_DENIED", name, err)
		}
	}
	if _, err := f.listDir(t.Context(), listDirParams{pathParam: pathOf(dir + "/closed")}); fsCode(err) != "SOURCE_ACCESS_DENIED" {
		t.Errorf("listing: %v, want SOURCE_ACCESS_DENIED", err)
	}
}

// Walks skip a directory that the daemon's user cannot read.
func TestAccessUnreadable(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root may read everything")
	}
	dir, f := unreadable(t)
	checkUnreadable(t, dir, f)
	if got, err := f.search(t.Context(), searchParams{pathParam: pathOf(dir), Pattern: "x"}); err != nil || len(got.Matches) != 0 {
		t.Errorf("search: %+v, %v, want no match and no error", got, err)
	}
}
