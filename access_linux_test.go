package main

import (
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Kernel files under an allowed directory would reveal the daemon's
// environment.
func TestAccessProc(t *testing.T) {
	if _, err := os.Stat("/proc/self/environ"); err != nil {
		t.Skip("there is no /proc here: ", err)
	}
	f := fsOn(t, "/")
	for _, path := range []string{"/proc/self/environ", "/proc/1/cmdline", "/proc/self/task/../environ", "/sys/kernel/mm/transparent_hugepage/enabled"} {
		if _, err := f.readFile(t.Context(), readFileParams{pathParam: pathOf(path)}); err == nil {
			t.Errorf("read %s, want an error", path)
		}
	}
	if _, err := f.listDir(t.Context(), listDirParams{pathParam: pathOf("/proc/self")}); fsCode(err) != "SOURCE_ACCESS_DENIED" {
		t.Errorf("listing /proc/self: %v, want SOURCE_ACCESS_DENIED", err)
	}
}

// The same as TestAccessUnreadable when the tests run as root: the file
// accesses of this thread use another user's id. Those of git would not.
func TestAccessUnreadableAsRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can be somebody else")
	}
	dir, f := unreadable(t)
	runtime.LockOSThread()
	if _, err := unix.SetfsuidRetUid(65534); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if _, err := unix.SetfsuidRetUid(0); err == nil {
			runtime.UnlockOSThread()
		} // otherwise the thread ends with the test
	}()
	checkUnreadable(t, dir, f)
}

// In a tree 3,000 levels deep, paths that are too deep are refused or skipped,
// and no method fails.
func TestAccessDeep(t *testing.T) {
	skipShort(t, "makes and walks a tree of 3,000 levels")
	t.Parallel()
	dir := realTempDir(t)
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := root.MkdirAll(strings.Repeat("d/", 3000)+"d", 0o755); err != nil {
		t.Skip("no such deep tree here: ", err)
	}
	writeFiles(t, dir, map[string]string{"d/d/f": "foo"})
	f := fsOn(t, dir)
	if got := fsGlobAll(t, f, globParams{pathParam: pathOf(dir)}); len(got) != 1 {
		t.Errorf("glob: %v, want one file", got)
	}
	if _, err := f.repoScan(t.Context(), repoScanParams{MaxDepth: new(maxScanDepth)}); err != nil {
		t.Error(err)
	}
	if _, err := f.stat(t.Context(), statParams{pathParam: pathOf(dir + "/" + strings.Repeat("d/", 2999))}); fsCode(err) != "param path" {
		t.Errorf("stat: %v, want an error for the path", err)
	}
	if err := root.RemoveAll("d"); err != nil {
		t.Error(err)
	}
}
