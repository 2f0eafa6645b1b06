package main

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// keepNow reads a repository and keeps it as if its files were not new. A change after
// keepNow is later than every one before, by the clock of the file system.
func keepNow(t *testing.T, a *access, path string) *repository {
	t.Helper()
	r, err := findRepository(a, path)
	if err != nil {
		t.Fatal(err)
	}
	last := lastChange(r)
	r.seen.began = last.Add(clockDifference + 1)
	a.views.keepRepo(path, r)
	if a.views.findRepo(path) != r {
		if a.noQuick.Load() {
			t.Skip("the kernel or a filter of system calls refuses openat2")
		}
		t.Fatalf("%s is not kept, want it kept", path)
	}
	probe := filepath.Join(t.TempDir(), "probe")
	for changed := last; !changed.After(last); changed = factsChanged(t, probe) {
		if err := os.WriteFile(probe, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

func lastChange(r *repository) (last time.Time) {
	for _, l := range r.seen.list {
		if !l.place && l.info.changed.After(last) {
			last = l.info.changed
		}
	}
	return last
}

// factsChanged returns when a file was changed.
func factsChanged(t *testing.T, path string) time.Time {
	t.Helper()
	dir, err := os.OpenRoot(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	handle, err := openDirBelow(dir, ".")
	if err != nil {
		t.Fatal(err)
	}
	defer handle.close()
	info, err := handle.lstat(filepath.Base(path))
	if err != nil {
		t.Fatal(err)
	}
	return info.changed
}

const other = "1111111111111111111111111111111111111111"

// writeRepo makes a repository without objects, which none of its readers here needs.
func writeRepo(t *testing.T, dir, branch string) {
	t.Helper()
	writeFiles(t, dir, map[string]string{
		".git/HEAD": "ref: refs/heads/" + branch + "\n", ".git/config": "[core]\nbare = false\n",
		".git/refs/heads/" + branch: "2222222222222222222222222222222222222222\n", ".git/refs/tags/deep/old": other,
		".git/refs/tags/many/a": other, ".git/refs/tags/many/b": other, ".git/refs/tags/many/c": other, ".git/refs/tags/many/d": other,
		".git/objects/info/packs": "", ".git/objects/pack/y": "", "sub/file": "",
	})
}

// TestKeptRepositoryIsReadAgain changes one thing that a repository is read from, and
// wants its new state, or that it is refused where it now leads outside.
func TestKeptRepositoryIsReadAgain(t *testing.T) {
	t.Parallel()
	must := func(t *testing.T, errs ...error) {
		t.Helper()
		for _, err := range errs {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	ref := func(name, want string) func(*repository) bool {
		return func(r *repository) bool { return r.refID(name) == want }
	}
	type rig struct {
		dir, repo, outside string
		a                  *access
	}
	write := func(name, text string) func(*testing.T, rig) {
		return func(t *testing.T, g rig) { writeFiles(t, g.repo, map[string]string{name: text}) }
	}
	linkOut := func(name string) func(*testing.T, rig) {
		return func(t *testing.T, g rig) {
			path := filepath.Join(g.repo, name)
			must(t, os.RemoveAll(path), os.Symlink(g.outside, path))
		}
	}
	for name, test := range map[string]struct {
		sub    string // of the path in the request
		change func(*testing.T, rig)
		is     func(*repository) bool // nil if it is an error
	}{
		"a reference in its place, with its time": {"", func(t *testing.T, g rig) {
			path := filepath.Join(g.repo, ".git/refs/heads/main")
			info, err := os.Stat(path)
			must(t, err, os.WriteFile(path, []byte(other+"\n"), 0o600), os.Chtimes(path, info.ModTime(), info.ModTime()))
		}, ref("refs/heads/main", other)},
		"a new reference":         {"", write(".git/refs/heads/topic/x", other), ref("refs/heads/topic/x", other)},
		"a new one, deeper":       {"", write(".git/refs/tags/deep/er", other), ref("refs/tags/deep/er", other)},
		"one of many references":  {"", write(".git/refs/tags/many/d", "2222222222222222222222222222222222222222"), ref("refs/tags/many/d", "2222222222222222222222222222222222222222")},
		"one of many leading out": {"", linkOut(".git/refs/tags/many/c"), ref("refs/tags/many/c", "")},
		"many references less":    {"", func(t *testing.T, g rig) { must(t, os.RemoveAll(filepath.Join(g.repo, ".git/refs/tags/many"))) }, ref("refs/tags/many/a", "")},
		"packed-refs":             {"", write(".git/packed-refs", other+" refs/tags/p\n"), ref("refs/tags/p", other)},
		"a reference less":        {"", func(t *testing.T, g rig) { must(t, os.Remove(filepath.Join(g.repo, ".git/refs/tags/deep/old"))) }, ref("refs/tags/deep/old", "")},
		"HEAD":                    {"", write(".git/HEAD", other), func(r *repository) bool { return r.head == other }},
		"shallow":                 {"", write(".git/shallow", other), func(r *repository) bool { return string(r.shallow) == other }},
		"configuration":           {"", write(".git/config", "[core]\nbare = true\n"), func(r *repository) bool { return r.bare }},
		"an object directory":     {"", write(".git/objects/pack/x", ""), func(*repository) bool { return true }},
		"a pack that leads out":   {"", linkOut(".git/objects/pack/pack-1.pack"), nil},
		"packs that lead out":     {"", linkOut(".git/objects/pack"), nil},
		"objects that lead out":   {"", linkOut(".git/objects"), nil},
		"references leading out":  {"", linkOut(".git/refs"), nil},
		"HEAD that leads out":     {"", linkOut(".git/HEAD"), nil},
		".git that leads out":     {"", linkOut(".git"), nil},
		"a path that leads out":   {"", linkOut(""), nil},
		"alternates": {"", func(t *testing.T, g rig) {
			writeFiles(t, g.repo, map[string]string{".git/objects/info/alternates": g.outside + "\n"})
		}, nil},
		"a denied part": {"", func(_ *testing.T, g rig) { g.a.deny(filepath.Join(g.repo, ".git/objects")) }, nil},
		"a .git file": {"", func(t *testing.T, g rig) {
			must(t, os.Rename(filepath.Join(g.repo, ".git"), filepath.Join(g.dir, "in/moved")))
			writeFiles(t, g.repo, map[string]string{".git": "gitdir: ../moved\n"})
		}, func(r *repository) bool { return filepath.Base(r.gitDir.abs) == "moved" }},
		"another repository": {"", func(t *testing.T, g rig) {
			must(t, os.Rename(g.repo, g.repo+".old"), os.Rename(filepath.Join(g.dir, "in/two"), g.repo))
		}, func(r *repository) bool { return r.headRef == "refs/heads/two" }},
		"a repository below": {"sub", func(t *testing.T, g rig) {
			must(t, os.Rename(filepath.Join(g.dir, "in/two/.git"), filepath.Join(g.repo, "sub/.git")))
		}, func(r *repository) bool { return r.headRef == "refs/heads/two" }},
		"a git directory below that leads out": {"sub", func(t *testing.T, g rig) {
			write("sub/HEAD", other)(t, g)
			write("sub/refs/x", "")(t, g)
			linkOut("sub/objects")(t, g)
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := rig{dir: realTempDir(t)}
			g.repo, g.outside = filepath.Join(g.dir, "in/repo"), filepath.Join(g.dir, "out")
			for dir, branch := range map[string]string{g.repo: "main", filepath.Join(g.dir, "in/two"): "two"} {
				writeRepo(t, dir, branch)
			}
			writeFiles(t, g.outside, map[string]string{"f": ""})
			var err error
			g.a, err = openAccess([]string{filepath.Join(g.dir, "in")}, "")
			must(t, err)
			t.Cleanup(g.a.close)
			path := filepath.Join(g.repo, test.sub)
			first := keepNow(t, g.a, path)
			test.change(t, g)
			if r := g.a.views.findRepo(path); r != nil {
				t.Errorf("the first state is still in use, want the repository to be read again")
			}
			r, err := openRepository(g.a, at(path))
			switch {
			case test.is == nil && err == nil:
				t.Errorf("the repository was read, want an error")
			case test.is != nil && err != nil:
				t.Errorf("reading the repository again: %v", err)
			case test.is != nil && (r == first || !test.is(r)):
				t.Errorf("got HEAD %s %s, the references %v and the git directory %s, want the state after the change", r.headRef, r.head, r.refs, r.gitDir.abs)
			}
		})
	}
}

// TestKnownRevisions: git resolves a revision once for a state of a repository, and
// again after a change.
func TestKnownRevisions(t *testing.T) {
	t.Parallel()
	repo := newTestRepo(t, map[string]string{"a": "1"})
	repo.commit("second", map[string]string{"a": "2"})
	g := newTestGitReader(t, repo.dir)
	keepNow(t, g.access, repo.dir)
	canceled, cancel := context.WithCancel(t.Context())
	cancel() // git cannot run
	resolve := func(ctx context.Context) (string, error) {
		v, err := g.open(at(repo.dir), objectsView)
		if err != nil {
			t.Fatal(err)
		}
		defer v.remove()
		return g.commitOf(ctx, v, "ref", "main~1")
	}
	first, err := resolve(t.Context())
	again, errAgain := resolve(canceled)
	if first == "" || again != first || err != nil || errAgain != nil {
		t.Errorf("got %q, %v, and without git %q, %v, want the same commit", first, err, again, errAgain)
	}
	head := repo.head()
	repo.commit("third", nil)
	if commit, err := resolve(canceled); err == nil {
		t.Errorf("got %s without git after a new commit, want an error", commit)
	}
	if commit, err := resolve(t.Context()); commit != head || err != nil {
		t.Errorf("got %q, %v after a new commit, want %s", commit, err, head)
	}
	var known knownRevisions
	for n := range maxKnownRevisions + 1 {
		known.keep(string(rune('a'+n)), knownRevision{commit: first})
	}
	if n := len(known.known); n > maxKnownRevisions {
		t.Errorf("%d revisions are known, want at most %d", n, maxKnownRevisions)
	}
}

// TestSettled: a second change of a file within the resolution of its time would not be
// seen.
func TestSettled(t *testing.T) {
	t.Parallel()
	exact, rounded := time.Unix(100, 123456789), time.Unix(100, 120000000)
	for _, test := range []struct {
		l    lookedAt
		age  time.Duration
		want bool
	}{
		{lookedAt{info: entryInfo{changed: exact}, found: present}, clockTick, false},
		{lookedAt{info: entryInfo{changed: exact}, found: present}, clockTick + 1, true},
		{lookedAt{info: entryInfo{changed: rounded}, found: present}, clockTick + 1, false},
		{lookedAt{info: entryInfo{changed: rounded}, found: present}, clockDifference, false},
		{lookedAt{info: entryInfo{changed: rounded}, found: present}, clockDifference + 1, true},
		{lookedAt{found: missing}, 0, true},
		{lookedAt{found: present, place: true}, 0, true},
	} {
		if got := test.l.isSettled(test.l.info.changed.Add(test.age)); got != test.want {
			t.Errorf("%+v after %v: got settled %v, want %v", test.l, test.age, got, test.want)
		}
	}
}

// TestKeptRepositories: what is kept is bounded, nothing new is kept, and nothing that
// was found through a symlink.
func TestKeptRepositories(t *testing.T) {
	t.Parallel()
	dir := realTempDir(t)
	repo := filepath.Join(dir, "repo")
	writeRepo(t, repo, "main")
	if err := os.Symlink("repo", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	a := newTestGitReader(t, dir).access
	kept := keepNow(t, a, repo)
	if again, err := openRepository(a, at(repo)); again != kept || err != nil {
		t.Errorf("got another state, %v, want the one that is kept", err)
	}
	for _, test := range []struct {
		name, path string
		age        time.Duration // of the last change
	}{{"found through a symlink", filepath.Join(dir, "link"), clockDifference + 1}, {"changed just now", repo, 0}} {
		r, err := findRepository(a, test.path)
		if err != nil {
			t.Fatal(err)
		}
		r.seen.began = lastChange(r).Add(test.age)
		if a.views.keepRepo(test.path, r); a.views.findRepo(test.path) != nil {
			t.Errorf("a repository %s is kept, want it read for each request", test.name)
		}
	}
	for n := range maxKeptViews + 2 {
		name := string(rune('a' + n))
		writeFiles(t, repo, map[string]string{name + "/f": ""})
		keepNow(t, a, filepath.Join(repo, name))
	}
	if n := len(a.views.repos); n != maxKeptViews {
		t.Errorf("%d repositories are kept, want %d", n, maxKeptViews)
	}
	kept.top.root.quick.isRemote = true
	if r, err := findRepository(a, repo); err != nil || !r.seen.partial {
		t.Errorf("got %v, %v, want a repository on the network not to be kept", r, err)
	}
	a.views.close()
	if n := len(a.views.repos); n != 0 {
		t.Errorf("%d repositories are kept after close, want none", n)
	}
}
