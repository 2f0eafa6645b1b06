//go:build unix

package main

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// git-upload-pack opens a local remote with the remote's own configuration and
// follows every link in it. What would lead it outside, or make it wait, is
// refused before git runs.
func TestLocalRemoteThatGitWouldFollow(t *testing.T) {
	t.Parallel()
	allowed := realTempDir(t)
	outside := newTestRepo(t, map[string]string{"secret": "s"})
	outside.write("oid", outside.head()+"\n")
	outside.write("config", "[core]\n\tlogAllRefUpdates = true\n")
	fifo := filepath.Join(allowed, "fifo")
	makeFIFO(t, fifo)
	g := newTestGitReader(t, allowed)
	for name, row := range map[string]struct {
		set  func(r *testRepo)
		want errorCode
	}{
		"nothing":                  {func(r *testRepo) {}, ""},
		"a link to a ref":          {func(r *testRepo) { symlink(r.t, "refs/heads/main", r.dir+"/.git/refs/heads/x") }, ""},
		"a link to a file of refs": {func(r *testRepo) { symlink(r.t, "main", r.dir+"/.git/refs/heads/x") }, ""},
		"a link that leads nowhere": {func(r *testRepo) {
			symlink(r.t, "refs/remotes/origin/main", r.dir+"/.git/refs/heads/x")
		}, ""},
		"an included file":         {func(r *testRepo) { r.write(".git/more", "[x]\n\ty = z\n"); r.git("config", "include.path", "more") }, ""},
		"an included file of home": {func(r *testRepo) { r.git("config", "include.path", "~/.gitconfig-work") }, ""}, // git runs without HOME
		"a missing included file":  {func(r *testRepo) { r.git("config", "include.path", "no/such/file") }, ""},
		"a ref outside":            {func(r *testRepo) { symlink(r.t, outside.dir+"/oid", r.dir+"/.git/refs/heads/x") }, codeAccessDenied},
		"refs outside":             {func(r *testRepo) { symlink(r.t, outside.dir+"/.git/refs", r.dir+"/.git/refs/heads/x") }, codeAccessDenied},
		"a directory of refs":      {func(r *testRepo) { symlink(r.t, "..", r.dir+"/.git/refs/heads/x") }, codeGitFailed},
		"a tag outside, deep": {func(r *testRepo) {
			r.write(".git/refs/tags/a/b", "")
			symlink(r.t, outside.dir+"/oid", r.dir+"/.git/refs/tags/a/c")
		}, codeAccessDenied},
		"a ref that waits":       {func(r *testRepo) { makeFIFO(r.t, r.dir+"/.git/refs/heads/x") }, codeGitFailed},
		"a link to what waits":   {func(r *testRepo) { symlink(r.t, fifo, r.dir+"/.git/refs/heads/x") }, codeGitFailed},
		"an odd name that waits": {func(r *testRepo) { makeFIFO(r.t, r.dir+"/.git/refs/heads/a..b") }, codeGitFailed},
		"packed-refs that wait":  {func(r *testRepo) { makeFIFO(r.t, r.dir+"/.git/packed-refs") }, codeGitFailed},
		"shallow that waits":     {func(r *testRepo) { makeFIFO(r.t, r.dir+"/.git/shallow") }, codeGitFailed},
		"grafts that wait":       {func(r *testRepo) { makeFIFO(r.t, r.dir+"/.git/info/grafts") }, codeGitFailed},
		"grafts outside":         {func(r *testRepo) { symlink(r.t, outside.dir+"/oid", r.dir+"/.git/info/grafts") }, codeAccessDenied},
		"attributes that wait":   {func(r *testRepo) { makeFIFO(r.t, r.dir+"/.git/.gitattributes") }, codeGitFailed},
		"alternates that wait":   {func(r *testRepo) { makeFIFO(r.t, r.dir+"/.git/objects/info/alternates") }, codeGitFailed},
		"an object that waits": {func(r *testRepo) {
			r.write(".git/objects/00/x", "")
			makeFIFO(r.t, r.dir+"/.git/objects/00/"+strings.Repeat("1", 38))
		}, codeGitFailed},
		"a link to such an object": {func(r *testRepo) {
			r.write(".git/objects/00/x", "")
			symlink(r.t, fifo, r.dir+"/.git/objects/00/"+strings.Repeat("1", 38))
		}, codeGitFailed},
		"a pack that waits":        {func(r *testRepo) { makeFIFO(r.t, r.dir+"/.git/objects/pack/multi-pack-index") }, codeGitFailed},
		"an included file outside": {func(r *testRepo) { r.git("config", "include.path", outside.dir+"/config") }, codeAccessDenied},
		"a condition for it":       {func(r *testRepo) { r.git("config", "includeIf.gitdir:**.path", outside.dir+"/config") }, codeAccessDenied},
		"included by the included": {func(r *testRepo) {
			r.write(".git/more", "[include]\n\tpath = "+outside.dir+"/config\n")
			r.git("config", "include.path", "more")
		}, codeAccessDenied},
		"an included file of root":  {func(r *testRepo) { r.git("config", "include.path", "~root/x") }, codeAccessDenied},
		"an included file, waiting": {func(r *testRepo) { r.git("config", "include.path", fifo) }, codeGitFailed},
		"included by itself":        {func(r *testRepo) { r.git("config", "include.path", "config") }, ""}, // git itself says so
		"attributes outside":        {func(r *testRepo) { r.git("config", "core.attributesFile", outside.dir+"/oid") }, codeAccessDenied},
		"links that multiply": {func(r *testRepo) {
			r.write(".git/objects/zz/x", "")
			for _, name := range []string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p"} {
				symlink(r.t, ".", r.dir+"/.git/objects/zz/"+name)
			}
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newTestRepoAt(t, filepath.Join(allowed, strings.ReplaceAll(name, " ", "-")), map[string]string{"f": "x"})
			row.set(r)
			_, err := g.remotes.open("file://" + r.dir)
			switch {
			case row.want == "" && err != nil:
				t.Errorf("opening it as a remote: %v, want no error", err)
			case row.want != "" && (err == nil || asRPCError(err).name() != row.want):
				t.Errorf("opening it as a remote: %v, want %s", err, row.want)
			}
		})
	}
}

func makeFIFO(t testing.TB, path string) {
	t.Helper()
	_ = os.MkdirAll(filepath.Dir(path), 0o755) // what follows fails if this does
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
}

func symlink(t testing.TB, target, path string) {
	t.Helper()
	_ = os.MkdirAll(filepath.Dir(path), 0o755) // what follows fails if this does
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
}
