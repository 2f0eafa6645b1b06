package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/windows"
)

// One file has many paths on Windows. Those that lead into an allowed directory
// reach the file, the others are refused.
func TestWindowsAccess(t *testing.T) {
	top := realTempDir(t)
	writeFiles(t, top, map[string]string{"in/Dir/file.txt": "inside", "in/.git-daemon.credentials.tmp-7": "secret", "in/Dir/a rather long name.text": "long", "out/f": "outside"})
	in := filepath.Join(top, "in")
	a := accessOn(t, true, in)
	drive := filepath.VolumeName(in)
	withDrive := func(letter string) string { return letter + strings.TrimPrefix(in, drive) }
	server := `\\localhost\` + strings.Replace(drive, ":", "$", 1) + strings.TrimPrefix(in, drive)
	const outside, element, missing = "SOURCE_ACCESS_DENIED", "param path", "SOURCE_NOT_FOUND"
	for path, want := range map[string]string{
		in + `\Dir\file.txt`:                                "inside",
		filepath.ToSlash(in) + `/Dir/file.txt`:              "inside",
		withDrive(strings.ToLower(drive)) + `\Dir\file.txt`: "inside",
		withDrive(strings.ToUpper(drive)) + `\Dir\file.txt`: "inside",
		strings.ToUpper(in) + `\DIR\FILE.TXT`:               "inside",
		strings.ToLower(in) + `\dir\file.txt`:               "inside",
		`\\?\` + in + `\Dir\file.txt`:                       "inside",
		`Dir\file.txt`:                                      "inside",
		`dir/FILE.txt`:                                      "inside",
		`Dir\none`:                                          missing,
		`Dir\file.txt\x`:                                    missing,

		in + `\Dir\file.txt::$DATA`: element, in + `\Dir\file.txt:s`: element, in + `\Dir\file.txt.`: element, in + `\Dir\file.txt `: element, in + `\Dir.\file.txt`: element,
		in + `\NUL`: element, in + `\Dir\con`: element, `COM1`: element, `Dir\*`: element, in + `\Dir\` + strings.Repeat("n", 256): element,

		in + `\..\out\f`: outside, `..\out\f`: outside, top + `\out\f`: outside, top + `\in2`: outside, `\\?\` + top + `\out\f`: outside, drive + `Dir\file.txt`: outside,
		strings.TrimPrefix(in, drive) + `\Dir\file.txt`: outside, `\\.\` + in + `\Dir\file.txt`: outside, `\\.\NUL`: outside, server + `\Dir\file.txt`: outside, `\\server\share\f`: outside,
		in + `\.git-daemon.credentials.tmp-7`: outside, in + `\.GIT-DAEMON.credentials.tmp-7`: outside,
	} {
		got, err := readVia(t, a, path)
		if err != nil {
			got = fsCode(err)
		}
		if got != want {
			t.Errorf("reading %q: got %q, want %q", path, got, want)
		}
	}
}

// readVia reads a file by its path.
func readVia(t *testing.T, a *access, path string) (string, error) {
	t.Helper()
	got, err := (&fsService{access: a}).readFile(t.Context(), readFileParams{pathParam: pathOf(path)})
	if err != nil {
		return "", err
	}
	return string(got.Content), nil
}

// An allowed directory, the work dir and a denied directory are the same in each
// of their forms.
func TestWindowsAllowedForms(t *testing.T) {
	top := realTempDir(t)
	writeFiles(t, top, map[string]string{"In/f": "inside", "In/Denied/f": "secret", "In/Denied/Work/f": "work"})
	for _, form := range []func(string) string{
		func(dir string) string { return `\\?\` + dir },
		filepath.ToSlash,
		strings.ToUpper,
		func(dir string) string { return strings.ToLower(dir) + `\` },
		func(dir string) string { return dir + `\.\In\..` },
	} {
		allowed := form(top)
		a := accessOn(t, true, form(top+`\In\Denied\Work`), allowed)
		a.deny(form(top + `\In\Denied`))
		for path, want := range map[string]string{
			top + `\In\f`: "inside", strings.ToLower(top) + `\IN\F`: "inside", top + `\in\denied\f`: "SOURCE_ACCESS_DENIED", top + `\In\Denied\f`: "SOURCE_ACCESS_DENIED",
			`f`: "work", top + `\IN\DENIED\WORK\F`: "work", top + `\In\Denied\Work\f`: "work",
		} {
			got, err := readVia(t, a, path)
			if err != nil {
				got = fsCode(err)
			}
			if got != want {
				t.Errorf("allowed %q, reading %q: got %q, want %q", allowed, path, got, want)
			}
		}
	}
}

// The short name of a file (8.3) stands for its long one, also in the rules for
// names.
func TestWindowsShortNames(t *testing.T) {
	dir := realTempDir(t)
	writeFiles(t, dir, map[string]string{"a long directory/a long file.text": "inside", ".git-daemon.credentials.tmp-7": "secret", "tilde~1": "plain"})
	short := func(path string) string {
		from, err := windows.UTF16PtrFromString(path)
		if err != nil {
			t.Fatal(err)
		}
		buf := make([]uint16, windows.MAX_LONG_PATH)
		if n, err := windows.GetShortPathName(from, &buf[0], uint32(len(buf))); err != nil || n == 0 {
			t.Fatalf("the short name of %q: %v, want one", path, err)
		}
		return windows.UTF16ToString(buf)
	}
	a := accessOn(t, false, dir)
	if got, err := readVia(t, a, filepath.Join(dir, "tilde~1")); err != nil || got != "plain" {
		t.Errorf("a file with a tilde: got %q, %v, want its content", got, err)
	}
	long := filepath.Join(dir, "a long directory", "a long file.text")
	name := short(long)
	if strings.EqualFold(name, long) {
		t.Skip("needs a file system that makes short names")
	}
	at, err := a.resolvePath(filepath.Join(dir, filepath.Base(filepath.Dir(name)), filepath.Base(name)))
	if err != nil || at.abs != long {
		t.Errorf("resolving %q: got %q, %v, want %q", name, at.abs, err, long)
	}
	secret := filepath.Join(dir, filepath.Base(short(filepath.Join(dir, ".git-daemon.credentials.tmp-7"))))
	if got, err := readVia(t, a, secret); fsCode(err) != "SOURCE_ACCESS_DENIED" {
		t.Errorf("reading %q: got %q, %v, want SOURCE_ACCESS_DENIED", secret, got, err)
	}
}

// Paths of more than 260 characters are ordinary.
func TestWindowsLongPaths(t *testing.T) {
	dir := realTempDir(t)
	deep := dir + strings.Repeat(`\`+strings.Repeat("directory", 9), 4)
	if err := errors.Join(os.MkdirAll(deep, 0o755), os.WriteFile(deep+`\f`, []byte("deep"), 0o644)); err != nil {
		t.Fatal(err)
	}
	f := fsOn(t, dir)
	for _, path := range []string{deep + `\f`, `\\?\` + deep + `\f`} {
		if got, err := readVia(t, f.access, path); err != nil || got != "deep" {
			t.Errorf("reading a path of %d characters: got %q, %v, want deep", len(path), got, err)
		}
	}
	if page, err := f.listDir(t.Context(), listDirParams{pathParam: pathOf(deep)}); err != nil || len(page.Entries) != 1 || page.Entries[0].Name != "f" {
		t.Errorf("listing it: got %+v, %v, want f", page, err)
	}
	if got := fsGlobAll(t, f, globParams{pathParam: pathOf(dir), Include: []string{"**/f"}}); len(got) != 1 {
		t.Errorf("glob: got %v, want the one file", got)
	}
	if err := writeFileAtomic(deep+`\f`, []byte("new"), 0o600); err != nil {
		t.Errorf("replacing it: %v, want no error", err)
	}
}

// A directory has the size 0 in every method: what Windows reports depends on the
// file system.
func TestWindowsDirectorySize(t *testing.T) {
	dir := realTempDir(t)
	writeFiles(t, dir, map[string]string{"sub/f": "12345"})
	f := fsOn(t, dir)
	got, err := f.stat(t.Context(), statParams{Paths: []string{dir, dir + `\sub`, dir + `\sub\f`}})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []int64{0, 0, 5} {
		if size := got.Entries[i].Size; size == nil || *size != want {
			t.Errorf("%s: got the size %v, want %d", got.Entries[i].Path, size, want)
		}
	}
	page, err := f.listDir(t.Context(), listDirParams{pathParam: pathOf(dir)})
	if err != nil || len(page.Entries) != 1 || page.Entries[0].Size != 0 || page.Entries[0].Type != "dir" {
		t.Errorf("listed %+v, %v, want sub with the size 0", page, err)
	}
}

// openExclusively opens a file as programs do that let nobody else open it.
func openExclusively(t *testing.T, path string) (closeFile func()) {
	t.Helper()
	name, err := windows.UTF16PtrFromString(path)
	if err != nil {
		t.Fatal(err)
	}
	h, err := windows.CreateFile(name, windows.GENERIC_READ|windows.GENERIC_WRITE, 0, nil, windows.OPEN_EXISTING, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := windows.CloseHandle(h); err != nil {
			t.Error(err)
		}
	}
}

// A file that another program keeps to itself is a conflict, and is replaced as
// soon as it is closed.
func TestWindowsSharedFiles(t *testing.T) {
	dir := realTempDir(t)
	writeFiles(t, dir, map[string]string{"open": "old", "other": "x"})
	path := filepath.Join(dir, "open")
	f := fsOn(t, dir)
	closeFile := openExclusively(t, path)
	if got, err := readVia(t, f.access, path); fsCode(err) != "CONFLICT" {
		t.Errorf("reading an open file: got %q, %v, want CONFLICT", got, err)
	}
	if page, err := f.listDir(t.Context(), listDirParams{pathParam: pathOf(dir)}); err != nil || len(page.Entries) != 2 || page.Entries[0].Size != 3 {
		t.Errorf("listing an open file: got %+v, %v, want both files and their sizes", page, err)
	}
	if got, err := f.stat(t.Context(), statParams{pathParam: pathOf(path)}); err != nil || !got.Entries[0].Exists || *got.Entries[0].Size != 3 {
		t.Errorf("stat of an open file: got %+v, %v, want the size 3", got, err)
	}
	if got := fsGlobAll(t, f, globParams{pathParam: pathOf(dir)}); len(got) != 2 {
		t.Errorf("glob: got %v, want both files", got)
	}
	if err := writeFileAtomic(path, []byte("new"), 0o600); err == nil || !strings.Contains(err.Error(), "open there") {
		t.Errorf("replacing an open file: got %v, want an error that says that it is open", err)
	}
	timer := time.AfterFunc(20*sharedRetryInterval, closeFile)
	defer timer.Stop()
	if err := writeFileAtomic(path, []byte("new"), 0o600); err != nil {
		t.Errorf("replacing a file that is closed meanwhile: %v, want no error", err)
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "new" {
		t.Errorf("afterwards: got %q, %v, want new", got, err)
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) != 2 {
		t.Errorf("afterwards: got %v, %v, want no temporary file", names, err)
	}
}

// The read-only attribute protects no file of the daemon from itself.
func TestWindowsReadOnlyFiles(t *testing.T) {
	dir := realTempDir(t)
	writeFiles(t, dir, map[string]string{"f": "old", "tree/sub/f": "", "tree/g": ""})
	for _, name := range []string{"f", `tree\sub\f`, `tree\g`} {
		if err := os.Chmod(filepath.Join(dir, name), 0o400); err != nil {
			t.Fatal(err)
		}
	}
	if err := writeFileAtomic(filepath.Join(dir, "f"), []byte("new"), 0o600); err != nil {
		t.Errorf("replacing it: %v, want no error", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := removeTree(t.Context(), root, "tree"); err != nil {
		t.Errorf("removing a tree: %v, want no error", err)
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) != 1 {
		t.Errorf("afterwards: got %v, %v, want f alone", names, err)
	}
}

// A junction is a link: what it leads to inside is reached, and nothing outside.
func TestWindowsJunctions(t *testing.T) {
	top := realTempDir(t)
	writeFiles(t, top, map[string]string{"in/dir/f": "inside", "out/f": "outside"})
	for link, target := range map[string]string{`in\to-dir`: `in\dir`, `in\to-out`: `out`} {
		out, err := exec.Command("cmd", "/c", "mklink", "/J", filepath.Join(top, link), filepath.Join(top, target)).CombinedOutput()
		if info, statErr := os.Lstat(filepath.Join(top, link)); err != nil || statErr != nil || info.IsDir() {
			t.Skipf("needs junctions: %v, %s", err, out)
		}
	}
	f := fsOn(t, filepath.Join(top, "in"))
	for path, want := range map[string]string{`in\to-dir\f`: "inside", `in\to-out\f`: "SOURCE_ACCESS_DENIED", `in\to-out\none`: "SOURCE_ACCESS_DENIED"} {
		got, err := readVia(t, f.access, filepath.Join(top, path))
		if err != nil {
			got = fsCode(err)
		}
		if got != want {
			t.Errorf("reading %s: got %q, want %q", path, got, want)
		}
	}
	page, err := f.listDir(t.Context(), listDirParams{pathParam: pathOf(filepath.Join(top, "in"))})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range page.Entries {
		got = append(got, e.Name+" "+e.Type)
	}
	if list := strings.Join(got, ", "); list != "dir dir, to-dir symlink, to-out symlink" {
		t.Errorf("listed %s, want the links as symlinks", list)
	}
	if got := fsGlobAll(t, f, globParams{pathParam: pathOf(filepath.Join(top, "in"))}); len(got) != 1 {
		t.Errorf("glob: got %v, want the one file", got)
	}
}
