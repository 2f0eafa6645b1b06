package main

import (
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"
)

// accessOn opens the allowed directories; the first one is the work dir if work
// is set.
func accessOn(t testing.TB, work bool, dirs ...string) *access {
	t.Helper()
	workDir := ""
	if work {
		workDir, dirs = dirs[0], dirs[1:]
	}
	a, err := openAccess(dirs, workDir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.close)
	return a
}

func symlinks(t testing.TB, links map[string]string) {
	t.Helper()
	needsLinks(t)
	for name, target := range links {
		if err := os.Symlink(target, name); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAccessResolve(t *testing.T) {
	needsUnixPaths(t)
	top := realTempDir(t)
	in, out, other := top+"/in", top+"/out", top+"/other"
	writeFiles(t, top, map[string]string{
		"in/f": "", "in/d/e/f": "", "in2/f": "", "out/f": "", "out/sub/f": "", "other/f": "", "in/inner/f": "", "in/x/y": "",
	})
	symlinks(t, map[string]string{
		in + "/abs-in": in + "/d", in + "/rel-in": "d/e/f", in + "/out": out, in + "/rel-out": "../out/f", in + "/up": "../in/f",
		in + "/loop": "loop", in + "/loop-a": "loop-b", in + "/loop-b": "loop-a", in + "/dangling": "d/none", in + "/dangling-out": "../none",
		in + "/to-other": other + "/f", in + "/root": "/", in + "/via-out": out + "/back/f", out + "/back": in,
		in + "/deep": "d/e", in + "/x/dotdot": "../deep/../f", top + "/alias": in, in + "/to-alias": top + "/alias/f",
	})
	for i := range 60 {
		symlinks(t, map[string]string{in + "/chain" + strings.Repeat("x", i): "chain" + strings.Repeat("x", i+1)})
	}
	writeFiles(t, in, map[string]string{"chain" + strings.Repeat("x", 60): ""})
	writeFiles(t, in, map[string]string{"d/f": "the right one"})
	a := accessOn(t, true, in, other, in+"/inner")

	const deniedCode, loop, missing = "SOURCE_ACCESS_DENIED", "param path", "SOURCE_NOT_FOUND"
	for _, test := range []struct{ path, want string }{
		{in, in},
		{in + "/", in},
		{in + "/f", in + "/f"},
		{in + "/./d//e/../f", in + "/d/f"},
		{in + "/none/at/all", in + "/none/at/all"},
		{"f", in + "/f"},
		{".", in},
		{"d/../f", in + "/f"},
		{"../in/f", in + "/f"},
		{"../out/f", deniedCode},
		{"../in2/f", deniedCode},
		{top, deniedCode},
		{top + "/in2/f", deniedCode},
		{"/", deniedCode},
		{"/etc/passwd", deniedCode},
		{"/no/such/place", deniedCode},
		{in + "/../out/f", deniedCode},
		{in + "/abs-in/e/f", in + "/d/e/f"},
		{in + "/rel-in", in + "/d/e/f"},
		{in + "/rel-in/x", missing},
		{in + "/f/x", missing},
		{in + "/up", in + "/f"},
		{in + "/out", deniedCode},
		{in + "/out/f", deniedCode},
		{in + "/out/none", deniedCode},
		{in + "/rel-out", deniedCode},
		{in + "/dangling", in + "/d/none"},
		{in + "/dangling-out", deniedCode},
		{in + "/to-other", other + "/f"},
		{in + "/root/etc/passwd", deniedCode},
		{in + "/root" + in + "/f", in + "/f"},
		{in + "/via-out", deniedCode},
		{in + "/loop", loop},
		{in + "/loop-a/x", loop},
		{in + "/chain", loop},
		{in + "/chain" + strings.Repeat("x", 30), in + "/chain" + strings.Repeat("x", 60)},
		{in + "/x/dotdot", in + "/d/f"},
		{in + "/to-alias", deniedCode}, // the alias is outside and must not be accessed
		{in + "/inner/f", in + "/inner/f"},
		{in + "/.git-daemon.credentials", deniedCode},
		{in + "/d/.GIT-DAEMON.x/y", deniedCode},
		{strings.Repeat("d/", 20_000), loop},
		{strings.Repeat("n", 5000), loop},
	} {
		got, err := a.resolvePath(test.path)
		if code := fsCode(err); err != nil && code != test.want || err == nil && got.abs != test.want {
			t.Errorf("%.80s: got %q %s, want %q", test.path, got.abs, code, test.want)
		}
	}
	// The error is the same for files outside that exist and that do not.
	_, there := a.resolvePath("/etc/passwd")
	_, notThere := a.resolvePath("/etc/none")
	if there.Error() != notThere.Error() {
		t.Errorf("a path outside that exists and one that does not: %v and %v, want one answer for both", there, notThere)
	}
}

func TestAccessText(t *testing.T) {
	for _, test := range []struct {
		p    pathParam
		want string
	}{
		{pathParam{}, "param path"},
		{pathParam{Path: "a\x00b"}, "param path"},
		{pathParam{PathBase64: base64.StdEncoding.EncodeToString([]byte("a\x00"))}, "param path_base64"},
		{pathParam{PathBase64: "!"}, "param path_base64"},
		{pathParam{Path: "a", PathBase64: "YQ=="}, "param path"},
	} {
		if _, err := test.p.text("path"); fsCode(err) != test.want {
			t.Errorf("%+v: got %q, want %q", test.p, fsCode(err), test.want)
		}
	}
}

// A root that was given through a symlink is known by both names. It stays the
// same directory when the symlink or the directory is replaced.
func TestAccessRootReplaced(t *testing.T) {
	needsLinks(t)
	top := realTempDir(t)
	writeFiles(t, top, map[string]string{"v1/f": "old", "evil/f": "new"})
	symlinks(t, map[string]string{top + "/current": "v1"})
	f := fsOn(t, top+"/current")
	read := func(path string) string {
		got, err := f.readFile(t.Context(), readFileParams{pathParam: pathOf(path)})
		if err != nil {
			return fsCode(err)
		}
		return string(got.Content)
	}
	if read(top+"/current/f") != "old" || read(top+"/v1/f") != "old" {
		t.Errorf("by the link %q, by the real name %q, want old by both", read(top+"/current/f"), read(top+"/v1/f"))
	}
	if err := errors.Join(os.Rename(top+"/v1", top+"/moved"), os.Symlink(top+"/evil", top+"/v1")); err != nil {
		t.Fatal(err)
	}
	if got := read(top + "/v1/f"); got != "old" {
		t.Errorf("after a swap: got %q, want old", got)
	}
	if got := read(top + "/evil/f"); got != "SOURCE_ACCESS_DENIED" {
		t.Errorf("the directory in its place: got %q, want SOURCE_ACCESS_DENIED", got)
	}
}

func TestAccessEverything(t *testing.T) {
	needsUnixPaths(t)
	a := accessOn(t, false, "/")
	dir := realTempDir(t)
	writeFiles(t, dir, map[string]string{"f": "", ".git-daemon.config": ""})
	if got, err := a.resolvePath(dir + "/f"); err != nil || got.abs != dir+"/f" {
		t.Errorf("resolvePath(%q) = %+v, %v, want the same path", dir+"/f", got, err)
	}
	if _, err := a.resolvePath(dir + "/.git-daemon.config"); fsCode(err) != "SOURCE_ACCESS_DENIED" {
		t.Errorf("the daemon's own file: %v, want SOURCE_ACCESS_DENIED", err)
	}
	if _, err := a.resolvePath("/../../etc/../" + dir + "/f"); err != nil {
		t.Error(err)
	}
}

// The daemon's own files are denied by identity, also through hard links and
// under other names.
func TestAccessSecretIdentity(t *testing.T) {
	needsLinks(t)
	dir := realTempDir(t)
	writeFiles(t, dir, map[string]string{"token": "s3cret", "f": "x"})
	if err := os.Link(dir+"/token", dir+"/hard"); err != nil {
		t.Fatal(err)
	}
	symlinks(t, map[string]string{dir + "/soft": "token"})
	f := fsOn(t, dir)
	f.access.keepSecret(dir + "/token")
	for _, name := range []string{"token", "hard", "soft"} {
		if _, err := f.readFile(t.Context(), readFileParams{pathParam: pathOf(dir + "/" + name)}); fsCode(err) != "SOURCE_ACCESS_DENIED" {
			t.Errorf("reading %s: %v, want SOURCE_ACCESS_DENIED", name, err)
		}
		if _, err := f.stat(t.Context(), statParams{pathParam: pathOf(dir + "/" + name)}); fsCode(err) != "SOURCE_ACCESS_DENIED" {
			t.Errorf("stat of %s: %v, want SOURCE_ACCESS_DENIED", name, err)
		}
	}
	page, err := f.listDir(t.Context(), listDirParams{pathParam: pathOf(dir)})
	if err != nil || len(page.Entries) != 2 { // f and soft
		t.Errorf("listed %+v, %v, want f and soft", page, err)
	}
	if got := fsGlobAll(t, f, globParams{pathParam: pathOf(dir)}); len(got) != 1 {
		t.Errorf("glob found %v, want f alone", got)
	}
	if got, err := f.search(t.Context(), searchParams{pathParam: pathOf(dir), Pattern: "s3cret"}); err != nil || len(got.Matches) != 0 {
		t.Errorf("search found %+v, %v, want nothing", got, err)
	}
}

// A file and a directory are swapped for symlinks to the outside 20,000 times
// while they are read. No read returns a byte from outside.
func TestAccessSwapRace(t *testing.T) {
	skipShort(t, "it takes about a second")
	t.Parallel()
	dir, out := realTempDir(t), realTempDir(t)
	writeFiles(t, out, map[string]string{"secret": "OUTSIDE", "secret-2": "OUTSIDE"})
	writeFiles(t, dir, map[string]string{"file": "inside", "d/secret": "inside"})
	symlinks(t, map[string]string{dir + "/file-link": out + "/secret", dir + "/d-link": out})
	swaps := 20_000
	if testing.Short() {
		swaps = 2000
	}
	done := make(chan struct{})
	// Ends after its swaps; the test waits for done.
	go func() {
		defer close(done)
		for range swaps {
			for _, name := range []string{"/file", "/d"} {
				swap(dir+name, dir+name+"-link")
			}
		}
	}()
	f := fsOn(t, dir)
	read := 0
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		for _, path := range []string{dir + "/file", dir + "/d/secret"} {
			got, err := f.readFile(t.Context(), readFileParams{pathParam: pathOf(path)})
			if err == nil && string(got.Content) != "inside" {
				t.Fatalf("read %q from outside, want inside", got.Content)
			}
			if err == nil {
				read++
			}
		}
		page, err := f.listDir(t.Context(), listDirParams{pathParam: pathOf(dir + "/d")})
		if err == nil && len(page.Entries) != 1 {
			t.Fatalf("listed %+v of the outside, want one entry", page.Entries)
		}
		all, err := f.glob(t.Context(), globParams{pathParam: pathOf(dir), RespectGitignore: new(false), Include: []string{"d", "d-link"}})
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range all.Files {
			if filepath.Base(file.Path) != "secret" {
				t.Fatalf("glob shows %+v, want secret alone", all.Files)
			}
		}
	}
	t.Logf("%d reads went well meanwhile", read)
}

// A path has at most 256 names and is followed through at most 40 symbolic links:
// the work of looking one up grows with the square.
func TestAccessBounds(t *testing.T) {
	dir := realTempDir(t)
	a := accessOn(t, false, dir)
	for names, accepted := range map[int]bool{256: true, 257: false} {
		_, err := a.resolvePath(dir + strings.Repeat("/d", names))
		if accepted && err != nil && asRPCError(err).name() != codeSourceNotFound {
			t.Errorf("a path of %d names: %v, want it to be looked up", names, err)
		}
		if !accepted {
			wantInvalid(t, err, "path")
		}
	}
	writeFiles(t, dir, map[string]string{"link0": "the end"})
	for n := range 41 {
		symlinks(t, map[string]string{fmt.Sprintf("%s/link%d", dir, n+1): fmt.Sprintf("link%d", n)})
	}
	for links, accepted := range map[int]bool{40: true, 41: false} {
		if _, err := a.resolvePath(fmt.Sprintf("%s/link%d", dir, links)); (err == nil) != accepted {
			t.Errorf("a path through %d links: %v, want it to be found: %v", links, err, accepted)
		}
	}
}

// swap tries to exchange two names with three renames.
func swap(a, b string) {
	_ = os.Rename(a, a+"-tmp") // a failed rename works the next time
	_ = os.Rename(b, a)
	_ = os.Rename(a+"-tmp", b)
}

// Whatever path is resolved, its real path lies below a root, and the file is
// the one that the system finds there.
func FuzzAccessResolve(f *testing.F) {
	top := realTempDir(f)
	root, out := top+"/root", top+"/out"
	writeFiles(f, top, map[string]string{"root/a/b/f": "", "root/f": "", "out/secret": "", "root/.git-daemon.config": "", "roots/f": ""})
	symlinks(f, map[string]string{
		root + "/abs": root + "/a", root + "/rel": "a/b", root + "/up": "..", root + "/out": out, root + "/a/up2": "../../out",
		root + "/all": "/", root + "/a/self": "..", root + "/loop": "loop", root + "/own": ".git-daemon.config",
		root + "/gone": "none/../../out/secret",
	})
	a := accessOn(f, true, root)
	for _, seed := range []string{
		root, "f", "a/b/f", "abs/b/f", "rel/f", "up/root/f", "out/secret", "a/up2/secret", "all" + root + "/f", "a/self/a/self/f", "loop/x", "own",
		"../root/f", "../roots/f", root + "/../out/secret", "./a//b/../b/f", "", "\x00", "a/\xff", "/proc/self/cwd", "up/../../out/secret", strings.Repeat("a/self/", 50) + "f", "gone", "up/f", "up/a/b/f",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, path []byte) {
		got, err := a.resolve(pathParam{PathBase64: base64.StdEncoding.EncodeToString(path)})
		if err != nil {
			if !utf8.ValidString(err.Error()) {
				t.Errorf("%q: the error is %q, want UTF-8", path, err)
			}
			return
		}
		if rel, err := filepath.Rel(root, got.abs); err != nil || !filepath.IsLocal(rel) || rel != got.rel {
			t.Fatalf("%q: found %+v, want it below %s", path, got, root)
		}
		info, err := a.stat(got)
		if err != nil {
			return
		}
		real, err := filepath.EvalSymlinks(got.abs)
		if err != nil || real != got.abs {
			t.Fatalf("%q: found %s, whose real path is %s, %v; want them equal", path, got.abs, real, err)
		}
		if there, err := os.Stat(real); err != nil || !os.SameFile(there, info) {
			t.Fatalf("%q: stat found another file, want %s", path, real)
		}
		asked := string(path)
		if !filepath.IsAbs(asked) {
			asked = filepath.Join(root, asked)
		}
		if there, err := os.Stat(filepath.Clean(asked)); err != nil || !os.SameFile(there, info) {
			t.Fatalf("%q: found %s, want the file that the system finds there", path, got.abs)
		}
		if strings.Contains(got.abs, ".git-daemon.") {
			t.Fatalf("%q: found %s, want none of the daemon's own files", path, got.abs)
		}
	})
}
