package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// fsOn returns the fs/* methods for the given allowed directories.
func fsOn(t testing.TB, allowed ...string) *fsService {
	t.Helper()
	a, err := openAccess(allowed, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.close)
	return newFSService(a, newGitRunner(os.Getenv, ""), slog.New(slog.DiscardHandler))
}

// fsCode returns the error as the caller sees it: data.code, or the parameter
// that -32602 names.
func fsCode(err error) string {
	if err == nil {
		return ""
	}
	e := asRPCError(err)
	if e.Code == codeInvalidParams {
		return fmt.Sprint("param ", e.Data["param"])
	}
	if e.name() == "" {
		return err.Error()
	}
	return string(e.name())
}

func pathOf(path string) pathParam { return pathParam{Path: path} }

func TestStat(t *testing.T) {
	needsLinks(t)
	needsModes(t)
	dir := realTempDir(t)
	writeFiles(t, dir, map[string]string{"a.txt": "hello", "sub/": "", ".git-daemon.config": "s"})
	for _, link := range [][2]string{{"a.txt", "link"}, {"/etc", "out"}, {"gone", "dangling"}, {"/nowhere/x", "out-dangling"}} {
		if err := os.Symlink(link[0], filepath.Join(dir, link[1])); err != nil {
			t.Fatal(err)
		}
	}
	when := time.Date(2001, 2, 3, 4, 5, 6, 789, time.UTC)
	if err := errors.Join(os.Chtimes(filepath.Join(dir, "a.txt"), when, when), os.Chmod(filepath.Join(dir, "a.txt"), 0o640),
		os.Chmod(filepath.Join(dir, "sub"), 0o755|os.ModeSetgid|os.ModeSticky)); err != nil {
		t.Fatal(err)
	}
	f := fsOn(t, dir)

	got, err := f.stat(t.Context(), statParams{Paths: []string{dir + "/a.txt", dir + "/link", dir + "/sub", dir + "/none", dir + "/a.txt/x", dir + "/dangling"}})
	if err != nil {
		t.Fatal(err)
	}
	file := statEntry{Path: dir + "/a.txt", Exists: true, Type: "file", Size: new(int64(5)), Mode: "0640", Mtime: "2001-02-03T04:05:06.000000789Z"}
	want := []statEntry{file, file, {}, {Path: dir + "/none"}, {Path: dir + "/a.txt/x"}, {Path: dir + "/gone"}}
	for i, e := range got.Entries {
		if i == 2 {
			if e.Type != "dir" || e.Mode != "3755" {
				t.Errorf("a directory: %+v, want the type dir and the mode 3755", e)
			}
			continue
		}
		g, _ := json.Marshal(e)
		w, _ := json.Marshal(want[i])
		if !bytes.Equal(g, w) {
			t.Errorf("entry %d:\n got %s\nwant %s", i, g, w)
		}
	}

	for _, test := range []struct {
		name string
		p    statParams
		want string
	}{
		{"outside", statParams{pathParam: pathOf("/etc/passwd")}, "SOURCE_ACCESS_DENIED"},
		{"outside and missing", statParams{pathParam: pathOf("/nowhere/at/all")}, "SOURCE_ACCESS_DENIED"},
		{"link out", statParams{pathParam: pathOf(dir + "/out/passwd")}, "SOURCE_ACCESS_DENIED"},
		{"link out to nothing", statParams{pathParam: pathOf(dir + "/out-dangling")}, "SOURCE_ACCESS_DENIED"},
		{"one denied of two", statParams{Paths: []string{dir + "/a.txt", "/etc"}}, "SOURCE_ACCESS_DENIED"},
		{"own file", statParams{pathParam: pathOf(dir + "/.git-daemon.config")}, "SOURCE_ACCESS_DENIED"},
		{"own file that is missing", statParams{pathParam: pathOf(dir + "/sub/.Git-Daemon.x/y")}, "SOURCE_ACCESS_DENIED"},
		{"empty", statParams{}, "param path"},
		{"NUL", statParams{Paths: []string{dir + "/a\x00"}}, "param paths[0]"},
		{"both", statParams{pathParam: pathOf(dir), Paths: []string{dir}}, "param paths"},
		{"too many", statParams{Paths: make([]string, maxStatPaths+1)}, "param paths"},
		{"relative without a work dir", statParams{pathParam: pathOf("a.txt")}, "NOT_CONFIGURED"},
		{"too deep", statParams{pathParam: pathOf(dir + strings.Repeat("/d", 3000))}, "param path"},
		{"long name", statParams{pathParam: pathOf(dir + "/" + strings.Repeat("n", 300))}, "param path"},
		{"bad base64", statParams{pathParam: pathParam{PathBase64: "%%"}}, "param path_base64"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := f.stat(t.Context(), test.p)
			if got := fsCode(err); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestListDir(t *testing.T) {
	needsLinks(t)
	dir := realTempDir(t)
	writeFiles(t, dir, map[string]string{"b": "22", "a": "1", "B": "", "c/": "", ".git-daemon.credentials": "s", "c.d": ""})
	for _, link := range [][2]string{{"a", "to-a"}, {"/etc", "to-etc"}, {"gone", "to-gone"}, {dir + "/c", "to-c"}, {".git-daemon.credentials", "to-secret"}} {
		if err := os.Symlink(link[0], filepath.Join(dir, link[1])); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(filepath.Join(dir, ".git-daemon.credentials"), filepath.Join(dir, "hard")); err != nil {
		t.Fatal(err)
	}
	f := fsOn(t, dir)
	f.access.keepSecret(filepath.Join(dir, ".git-daemon.credentials"))
	want := "B:file: a:file: b:file: c:dir: c.d:file: to-a:symlink:a to-c:symlink:" + dir + "/c to-etc:symlink: to-gone:symlink:gone to-secret:symlink:"
	for limit := 1; limit < 12; limit++ {
		var got []string
		p := listDirParams{pathParam: pathOf(dir), Limit: &limit}
		for {
			page, err := f.listDir(t.Context(), p)
			if err != nil {
				t.Fatal(err)
			}
			if len(page.Entries) > limit {
				t.Fatalf("a page of %d, limit %d, want at most the limit", len(page.Entries), limit)
			}
			for _, e := range page.Entries {
				got = append(got, e.Name+":"+e.Type+":"+e.Target)
			}
			if page.NextCursor == nil {
				break
			}
			p.Cursor = page.NextCursor
		}
		if got := strings.Join(got, " "); got != want {
			t.Errorf("limit %d:\n got %s\nwant %s", limit, got, want)
		}
	}
}

func TestListDirStaleCursor(t *testing.T) {
	dir := realTempDir(t)
	writeFiles(t, dir, map[string]string{"d/a": "", "d/b": "", "d/c": "", "e/a": "", "e/b": ""})
	f := fsOn(t, dir)
	first := func(name string) string {
		page, err := f.listDir(t.Context(), listDirParams{pathParam: pathOf(filepath.Join(dir, name)), Limit: new(1)})
		if err != nil || page.NextCursor == nil {
			t.Fatalf("got %+v, %v, want a page with a cursor", page, err)
		}
		return *page.NextCursor
	}
	next := func(name, cursor string) string {
		_, err := f.listDir(t.Context(), listDirParams{pathParam: pathOf(filepath.Join(dir, name)), Cursor: &cursor})
		return fsCode(err)
	}
	cursor := first("d")
	if got := next("d", cursor); got != "" {
		t.Errorf("unchanged: %s, want no error", got)
	}
	if got := next("e", cursor); got != "CONFLICT" {
		t.Errorf("another directory: %q, want CONFLICT", got)
	}
	old := time.Now().Add(-time.Hour)
	if err := errors.Join(os.WriteFile(dir+"/d/bb", nil, 0o644), os.Chtimes(dir+"/d", old, old)); err != nil {
		t.Fatal(err)
	}
	if got := next("d", cursor); got != "CONFLICT" {
		t.Errorf("changed: %q, want CONFLICT", got)
	}
	for _, garbage := range []string{"x", "%", "e30", "Nw", *pageCursor{Version: cursorVersion, Request: fingerprint("fs/glob"), After: []byte("a")}.text(), *pageCursor{Version: cursorVersion, Request: fingerprint("fs/listDir")}.text(), strings.Repeat("A", maxCursorLength+1)} {
		if got := next("d", garbage); got != "param cursor" {
			t.Errorf("cursor %.20q: %q, want an error for the cursor", garbage, got)
		}
	}
}

// Names that are not valid UTF-8 are returned in two forms, and the base64 form
// leads back to the file.
func TestListDirNotUTF8(t *testing.T) {
	needsAnyName(t)
	dir := realTempDir(t)
	name := "caf\xe9"
	if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o644); err != nil {
		t.Skip("this file system takes no such name: ", err)
	}
	f := fsOn(t, dir)
	page, err := f.listDir(t.Context(), listDirParams{pathParam: pathOf(dir)})
	if err != nil {
		t.Fatal(err)
	}
	e := page.Entries[0]
	if e.Name != "caf\uFFFD" || e.NameBase64 != base64.StdEncoding.EncodeToString([]byte(name)) {
		t.Errorf("got %+v, want the name in both forms", e)
	}
	read, err := f.readFile(t.Context(), readFileParams{pathParam: pathParam{PathBase64: base64.StdEncoding.EncodeToString([]byte(filepath.Join(dir, name)))}})
	if err != nil || string(read.Content) != "x" || read.PathBase64 == "" {
		t.Errorf("got %+v, %v, want the content and the exact path", read, err)
	}
}

// namesAfter returns the same names as sorting all of them.
func TestNamesAfter(t *testing.T) {
	skipShort(t, "it takes about a second")
	t.Parallel()
	dir := realTempDir(t)
	var all []string
	for i := range 200 {
		name := fmt.Sprintf("n%03d", (i*37)%200)
		writeFiles(t, dir, map[string]string{name: ""})
		all = append(all, name)
	}
	slices.Sort(all)
	f := fsOn(t, dir)
	at, err := f.access.resolvePath(dir)
	if err != nil {
		t.Fatal(err)
	}
	d, err := f.access.openDir(at)
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	for _, most := range []int{1, 2, 7, 99, 100, 101, 199, 200, 201, 500} {
		var got []string
		for after := ""; ; {
			names, more, err := d.namesAfter(t.Context(), after, most, func(name string, _ os.FileMode) (dirEntryName, bool) {
				return dirEntryName{key: name, name: name}, true
			})
			if err != nil {
				t.Fatal(err)
			}
			for _, n := range names {
				got = append(got, n.name)
				after = n.key
			}
			if !more {
				break
			}
		}
		if !slices.Equal(got, all) {
			t.Errorf("most %d: %v, want %v", most, got, all)
		}
	}
}

// After a million names no more than two pages are in memory.
func TestSmallestBound(t *testing.T) {
	t.Parallel()
	page := topK{after: "n0000999", limit: 100}
	for i := range 1_000_000 {
		name := fmt.Sprintf("n%07d", (i*7_919)%1_000_000)
		page.add(dirEntryName{key: name})
		if len(page.kept) > 2*page.limit || cap(page.kept) > 4*page.limit {
			t.Fatalf("%d held, room for %d, want at most two pages", len(page.kept), cap(page.kept))
		}
	}
	got := page.sorted()
	if len(got) != 100 || got[0].key != "n0001000" || got[99].key != "n0001099" || !page.more {
		t.Errorf("%d from %s, more %v, want 100 from n0001000 and more", len(got), got[0].key, page.more)
	}
}

// walkedPaths are the files of each walk below dir: fs/glob with and without
// git's rules, fs/search for x, and the repositories of fs/repoScan.
func walkedPaths(t *testing.T, f *fsService, dir string) (paths map[string][]string, skipped map[string]int) {
	t.Helper()
	paths, skipped = map[string][]string{}, map[string]int{}
	for _, respect := range []bool{true, false} {
		name := fmt.Sprintf("glob, respect_gitignore %v", respect)
		got, err := f.glob(t.Context(), globParams{pathParam: pathOf(dir), RespectGitignore: &respect})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, file := range got.Files {
			paths[name] = append(paths[name], file.Path)
		}
		skipped[name] = got.Skipped
	}
	if got, err := f.search(t.Context(), searchParams{pathParam: pathOf(dir), Pattern: "x"}); err != nil {
		t.Errorf("search: %v", err)
	} else {
		for _, m := range got.Matches {
			paths["search"] = append(paths["search"], m.Path)
		}
		skipped["search"] = got.Skipped
	}
	if got, err := f.repoScan(t.Context(), repoScanParams{Paths: []string{dir}}); err != nil {
		t.Errorf("repoScan: %v", err)
	} else {
		for _, r := range got.Repos {
			paths["repoScan"] = append(paths["repoScan"], strings.TrimPrefix(r.Path, dir+"/"))
		}
		skipped["repoScan"] = got.Skipped
	}
	return paths, skipped
}

// One of several paths that cannot be described does not keep the others from
// being described, and says which it is and why.
func TestStatOfSeveralPathsWithBrokenOnes(t *testing.T) {
	needsLinks(t)
	t.Parallel()
	dir := realTempDir(t)
	writeFiles(t, dir, map[string]string{"a": "x", "z": "xy"})
	symlinks(t, map[string]string{dir + "/loop": "loop", dir + "/loop-a": "loop-b", dir + "/loop-b": "loop-a"})
	f := fsOn(t, dir)
	long, deep := dir+"/"+strings.Repeat("n", 300), dir+strings.Repeat("/d", maxPathDepth+1)
	paths := []string{dir + "/a", dir + "/loop", dir + "/loop-a/x", long, deep, dir + "/a/none", dir + "/z"}
	got, err := f.stat(t.Context(), statParams{Paths: paths})
	if err != nil || len(got.Entries) != len(paths) {
		t.Fatalf("want %d entries, got %+v, %v", len(paths), got, err)
	}
	for i, e := range got.Entries {
		if e.Path != paths[i] {
			t.Errorf("want the path %s, got %s", paths[i], e.Path)
		}
		switch i {
		case 0, 6:
			if !e.Exists || e.Error != nil {
				t.Errorf("%s: want it described, got %+v", e.Path, e)
			}
		case 5:
			if e.Exists || e.Error != nil {
				t.Errorf("%s: want it missing, got %+v", e.Path, e)
			}
		default:
			name := fmt.Sprintf("paths[%d]", i)
			if e.Exists || e.Error == nil || e.Error.Code != codeInvalidParams || e.Error.Data["param"] != name || !strings.Contains(e.Error.Message, name) {
				t.Errorf("%s: want an error for %s, got %+v", e.Path, name, e)
			}
		}
	}
	for _, path := range []string{"/etc/passwd", "", "x\x00", "relative"} {
		if _, err := f.stat(t.Context(), statParams{Paths: []string{dir + "/a", path}}); err == nil {
			t.Errorf("%q: want the request to fail, got no error", path)
		}
	}
	if _, err := f.stat(t.Context(), statParams{pathParam: pathOf(dir + "/loop")}); fsCode(err) != "param path" {
		t.Errorf("a single loop: want an error for path, got %v", err)
	}
	if _, err := f.repoScan(t.Context(), repoScanParams{Paths: []string{dir, dir + "/loop"}}); fsCode(err) != "param paths[1]" {
		t.Errorf("repoScan: want an error for paths[1], got %v", err)
	}
}

// RFC 3339 has the years 0 to 9999; the times of files and commits do not end
// there.
func TestTimesOutsideTheYearsOfRFC3339(t *testing.T) {
	for seconds, want := range map[int64]string{
		-1:              "1969-12-31T23:59:59Z",
		-62167219200:    "0000-01-01T00:00:00Z",
		-62167219201:    "0000-01-01T00:00:00Z",
		253402300799:    "9999-12-31T23:59:59Z",
		253402300800:    "9999-12-31T23:59:59Z",
		316517347200:    "9999-12-31T23:59:59Z",
		1 << 62:         "9999-12-31T23:59:59Z",
		-67768040609740: "0000-01-01T00:00:00Z",
	} {
		got := wireTime(time.Unix(seconds, 0))
		if _, err := time.Parse(time.RFC3339, got); err != nil || got != want {
			t.Errorf("%d seconds: got %s (%v), want %s", seconds, got, err, want)
		}
	}
}
