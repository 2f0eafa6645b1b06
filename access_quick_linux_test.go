package main

import (
	"encoding/json"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestQuickStatEqualsStat: the quick version of fs/stat answers plain paths like
// the regular one, byte for byte, and leaves every other path to it.
func TestQuickStatEqualsStat(t *testing.T) {
	t.Parallel()
	dir := realTempDir(t)
	work, outside := filepath.Join(dir, "work"), filepath.Join(dir, "outside")
	writeFiles(t, dir, map[string]string{
		"work/a.txt": "hello", "work/sub/deep/er/b": "b", "work/\"quoted\" \\ \u2028 é": "q", "work/keys/key": "k",
		"outside/token": "secret", "work/.git-daemon.notes": "n", "work/first": "two names", "work/own-token": "t",
	})
	for _, link := range [][2]string{
		{"a.txt", "work/link"}, {outside, "work/out"}, {"sub", "work/dirlink"},
	} {
		if err := os.Symlink(link[0], filepath.Join(dir, link[1])); err != nil {
			t.Fatal(err)
		}
	}
	for _, link := range [][2]string{{"work/first", "work/second"}, {"outside/token", "work/hard"}, {"work/own-token", "work/hard2"}} {
		if err := os.Link(filepath.Join(dir, link[0]), filepath.Join(dir, link[1])); err != nil {
			t.Fatal(err)
		}
	}
	odd := time.Date(2001, 2, 3, 4, 5, 6, 789, time.UTC)
	if err := os.Chtimes(filepath.Join(work, "a.txt"), odd, odd); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(work, "a.txt"), 0o4711); err != nil {
		t.Fatal(err)
	}
	a, err := openAccess(nil, work)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.close)
	a.deny(outside + "/token")
	a.keepSecret(work + "/own-token")
	f := newFSService(a, nil, nil)
	if _, ok := a.quickStat(work + "/a.txt"); !ok {
		t.Skip("the kernel or a filter of system calls refuses openat2")
	}
	for _, test := range []struct {
		path  string
		quick bool
	}{
		{work + "/a.txt", true}, {"a.txt", true}, {"sub", true}, {work + "/sub/deep/er/b", true}, {"sub/deep", true},
		{"first", true}, {"second", true}, {"\"quoted\" \\ \u2028 é", true}, {"keys/key", true},
		// Not plain.
		{"./a.txt", false}, {"sub/../a.txt", false}, {"sub//deep", false}, {"sub/", false}, {work, false}, {".", false}, {"", false},
		{"a\x00b", false}, {strings.Repeat("x/", maxPathDepth+1), false}, {strings.Repeat("n", 300), false},
		// Links, secrets, other directories, missing ones.
		{"link", false}, {"dirlink/deep", false}, {"out/token", false}, {"hard", false}, {"own-token", false}, {"hard2", false},
		{".git-daemon.notes", false}, {".GIT-daemon.x/y", false}, {outside + "/token", false}, {dir, false}, {"missing", false}, {"a.txt/x", false},
	} {
		params, err := json.Marshal(statParams{pathParam: pathParam{Path: test.path}})
		if err != nil {
			t.Fatal(err)
		}
		info, ok := a.quickStat(test.path)
		if ok != test.quick {
			t.Errorf("%q: the quick look-up returned %v and %+v, want %v", test.path, ok, info, test.quick)
		}
		if _, file, got, ok := a.openPlain(test.path, math.MaxInt64); ok != (test.quick && info.mode.IsRegular()) {
			t.Errorf("%q: it was opened: %v, want %v", test.path, ok, test.quick)
		} else if ok {
			if got.Size() != info.size {
				t.Errorf("%q: %d bytes are open, want %d", test.path, got.Size(), info.size)
			}
			_ = file.Close() // only read
		}
		answer, ok := f.quickStat([]byte("before "), params)
		if !ok {
			continue
		}
		a.noQuick.Store(true)
		want, err := f.stat(t.Context(), statParams{pathParam: pathParam{Path: test.path}})
		a.noQuick.Store(false)
		if err != nil {
			t.Errorf("%q: the quick version answered %s, the regular one failed with %v", test.path, answer, err)
			continue
		}
		if got := strings.TrimPrefix(string(answer), "before "); got != reflected(t, want) {
			t.Errorf("%q: the quick version answered %s, want %s", test.path, got, reflected(t, want))
		}
	}
	// What is denied below a directory turns quick look-ups off there: its name may
	// be written in another way.
	a.deny(work + "/keys")
	for _, path := range []string{"keys/key", "a.txt"} {
		if _, ok := a.quickStat(path); ok {
			t.Errorf("%s was looked up although something in its directory is denied, want the regular way", path)
		}
	}
}

// TestQuickReadEqualsRead: the quick version of fs/readFile answers for small files like
// the regular one, byte for byte, and leaves the others to it.
func TestQuickReadEqualsRead(t *testing.T) {
	t.Parallel()
	dir := realTempDir(t)
	const head = "0123456789012345678901234567890123456789"
	writeFiles(t, dir, map[string]string{
		"text": "a \"quoted\" line\n\u2028", "empty": "", "binary": "\x00\xff", "cut": "\xe4\xb8", "sub/controls": strings.Repeat("\x01", maxQuickRead),
		"largest": strings.Repeat("x", maxQuickRead), "large": strings.Repeat("x", maxQuickRead+1), ".git-daemon.token": "t",
		"repo/.git/HEAD": head + "\n", "repo/.git/refs/heads/x": "", "repo/.git/objects/x": "", "repo/src/a.go": "package a\n",
	})
	if err := os.Symlink("text", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	a, err := openAccess(nil, dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.close)
	a.keepSecret(dir + "/.git-daemon.token")
	f := newFSService(a, nil, slog.New(slog.DiscardHandler))
	if _, ok := a.quickStat("text"); !ok {
		t.Skip("the kernel or a filter of system calls refuses openat2")
	}
	for _, test := range []struct {
		path  string
		quick bool
	}{
		{"text", true}, {"empty", true}, {"binary", true}, {"cut", true}, {"sub/controls", true}, {"largest", true}, {dir + "/text", true}, {"repo/src/a.go", true},
		{"large", false}, {"sub", false}, {"link", false}, {"missing", false}, {".git-daemon.token", false}, {"sub/../text", false}, {".", false},
	} {
		params, err := json.Marshal(map[string]string{"path": test.path})
		if err != nil {
			t.Fatal(err)
		}
		a.roots[0].quick.slow = 0 // a busy machine reads slowly
		a.roots[0].quick.pause.Store(0)
		answer, ok := f.quickReadFile([]byte("before "), params)
		if ok != test.quick {
			t.Errorf("%q: answered quickly: %v, want %v", test.path, ok, test.quick)
		}
		if !ok {
			continue
		}
		want, err := f.readFile(t.Context(), readFileParams{pathParam: pathParam{Path: test.path}})
		if err != nil {
			t.Fatal(err)
		}
		if got, want := strings.TrimPrefix(string(answer), "before "), reflected(t, want); got != want {
			t.Errorf("%q: the quick version answered %.300q, want %.300q", test.path, got, want)
		}
		if strings.HasPrefix(test.path, "repo/") && !strings.Contains(string(answer), head) {
			t.Errorf("%q: got %s, want the commit %s in it", test.path, answer, head)
		}
		ended := a.replaced.begin(dir)
		if _, ok := f.quickReadFile(nil, params); ok {
			t.Errorf("%q: answered quickly while it was being replaced, want the regular way, which asks again", test.path)
		}
		ended()
	}
}

// TestQuickLookupOfSlowDirectory: after look-ups that took long, and while one is
// blocked, the others go the regular way, which runs side by side.
func TestQuickLookupOfSlowDirectory(t *testing.T) {
	t.Parallel()
	var q quickRoot
	const now = time.Hour
	if !q.begin(now) {
		t.Fatal("the first look-up was refused, want it to begin")
	}
	if q.begin(now) {
		t.Error("a second look-up began while one was running, want it refused")
	}
	q.end(now, now, slowLookup)
	slow := func() {
		if !q.begin(now) {
			t.Error("a look-up was refused before too many were slow, want it to begin")
		}
		q.end(now, now-time.Minute, slowLookup)
	}
	slow()
	for range 2 { // a fast one lies between
		if !q.begin(now) {
			t.Error("a look-up was refused after one slow look-up, want it to begin")
		}
		q.end(now, now, slowLookup)
	}
	for range maxSlow + 1 {
		slow()
	}
	if q.begin(now) {
		t.Error("a look-up began after too many slow ones, want it refused")
	}
	if pause := time.Duration(q.pause.Load()) - now; pause != slowPause*time.Minute {
		t.Errorf("the pause after a look-up of a minute lasts %v, want %v", pause, slowPause*time.Minute)
	}
}
