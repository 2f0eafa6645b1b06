//go:build linux || darwin

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// wholeReader calls reading methods as the dispatcher does.
type wholeReader struct {
	t       *testing.T
	methods map[string]*method
}

func (w *cloneWorld) reader() *wholeReader {
	d := &daemon{cfg: &daemonConfig{log: w.cfg.log}, access: w.cfg.access, git: w.cfg.git, cloner: w.cloner}
	r := &wholeReader{t: w.t, methods: map[string]*method{}}
	for _, m := range d.reading() {
		r.methods[m.name] = m
	}
	return r
}

// read is a result, or false for CONFLICT.
func (r *wholeReader) read(method string, params any) (json.RawMessage, bool) {
	raw, _ := json.Marshal(params)
	result, err := r.methods[method].call(context.Background(), raw)
	if err != nil {
		if e := asRPCError(err); e.name() != codeConflict {
			r.t.Errorf("%s of %s: error is %v %v, want a result or CONFLICT", method, raw, e, e.Data)
		}
		return nil, false
	}
	text, err := json.Marshal(result)
	if err != nil {
		r.t.Error(err)
	}
	return text, true
}

// Those who read a clone while it is updated, cloned afresh from another remote
// or after it was damaged get one state or CONFLICT.
func TestCloneReadersSeeOneState(t *testing.T) {
	if testing.Short() {
		t.Skip("reads and clones for seconds")
	}
	t.Parallel()
	w := newCloneWorld(t)
	const files = 60
	content := func(state string) map[string]string {
		all := map[string]string{}
		for i := range files {
			all[fmt.Sprintf("dir%d/file%d", i%7, i)] = "state " + state + "\n"
		}
		return all
	}
	urls := map[string]string{}
	states := map[string]string{} // by commit
	for _, name := range []string{"one", "two"} {
		remote := w.server.repo(name, content(name+" 0"))
		states[remote.head()] = name + " 0"
		states[remote.commit("second", content(name+" 1"))] = name + " 1"
		remote.git("branch", "first", "HEAD~1")
		urls[name] = w.server.address(name)
	}
	clone := func(name, ref string) {
		t.Helper()
		if _, err := w.try(cloneParams{URL: urls[name], Name: "lib", Ref: ref}); err != nil {
			t.Fatal(err)
		}
	}
	clone("one", "main")
	r := w.reader()
	stop := make(chan struct{})
	var readers sync.WaitGroup
	var mu sync.Mutex
	seen := map[string]int{} // under mu: answers by method
	loop := func(method string, params any, check func(result json.RawMessage)) {
		readers.Go(func() { // ends with stop
			for {
				select {
				case <-stop:
					return
				default:
				}
				result, ok := r.read(method, params)
				mu.Lock()
				if ok {
					seen[method]++
				} else {
					seen[method+" CONFLICT"]++
				}
				mu.Unlock()
				if ok {
					check(result)
				}
			}
		})
	}
	path := map[string]any{"path": "repos/lib"}
	loop("fs/search", map[string]any{"path": "repos/lib", "pattern": "state"}, func(result json.RawMessage) {
		matches, head := field[[]searchMatch](t, result, "matches"), field[string](t, result, "head")
		texts := map[string]int{}
		for _, m := range matches {
			texts[m.Text]++
		}
		if texts["state "+states[head]] != files || len(texts) != 1 {
			t.Errorf("fs/search at %s gave %v, want %d times %s", head, texts, files, states[head])
		}
	})
	loop("fs/glob", path, func(result json.RawMessage) {
		if got := len(field[[]globFile](t, result, "files")); got != files {
			t.Errorf("fs/glob gave %d files, want %d", got, files)
		}
	})
	loop("fs/readFile", map[string]any{"path": "repos/lib/dir0/file0"}, func(result json.RawMessage) {
		got, head := field[string](t, result, "content"), field[string](t, result, "head")
		if got != "state "+states[head]+"\n" {
			t.Errorf("fs/readFile at %s gave %q, want %q", head, got, states[head])
		}
	})
	loop("index/manifest", path, func(result json.RawMessage) {
		if got := field[int](t, result, "total"); got != files {
			t.Errorf("index/manifest gave %d files, want %d", got, files)
		}
	})
	loop("vcs/info", path, func(result json.RawMessage) {
		head, remotes := field[string](t, result, "head"), field[[]map[string]string](t, result, "remotes")
		branch, dirty := field[*string](t, result, "branch"), field[map[string]int](t, result, "dirty")
		name, _, _ := strings.Cut(states[head], " ")
		if branch == nil || *branch != "main" && *branch != "first" || remotes[0]["url"] != urls[name] {
			t.Errorf("vcs/info gave %s", result)
		}
		for what, n := range dirty {
			if n != 0 {
				t.Errorf("vcs/info gave %d files %s, want 0", n, what)
			}
		}
	})
	loop("fs/repoScan", map[string]any{"paths": []string{"repos"}}, func(result json.RawMessage) {
		repos := field[[]repoFacts](t, result, "repos")
		if len(repos) != 1 || repos[0].Head == nil || repos[0].RemoteURL == nil || !strings.HasPrefix(states[*repos[0].Head], strings.TrimPrefix(*repos[0].RemoteURL, w.server.URL+"/")) {
			t.Errorf("fs/repoScan gave %s", result)
		}
	})
	loop("vcs/refs", map[string]any{"url": "file://" + w.workDir + "/repos/lib"}, func(result json.RawMessage) {
		head := field[refsHead](t, result, "head")
		if head.OID == nil || states[*head.OID] == "" {
			t.Errorf("vcs/refs by URL gave %s, want a head of the remotes", result)
		}
		for _, ref := range field[[]refEntry](t, result, "refs") {
			if ref.Name == *head.Ref && ref.OID != *head.OID {
				t.Errorf("vcs/refs by URL gave %s, want the same commit for %s and the head", result, ref.Name)
			}
		}
	})
	for range 4 {
		clone("one", "first")
		clone("one", "main")
		clone("two", "main")
		symlinks(t, map[string]string{w.workDir + "/repos/lib/.git/refs/link": "missing"}) // corrupt for an update, nothing to those who read
		clone("two", "first")
		clone("one", "main")
	}
	close(stop)
	readers.Wait()
	t.Log(seen)
	for _, method := range []string{"fs/search", "fs/glob", "fs/readFile", "index/manifest", "vcs/info", "fs/repoScan", "vcs/refs"} {
		if seen[method] == 0 {
			t.Errorf("%s never had an answer: %v", method, seen)
		}
	}
}

// A clone of a local clone that is replaced meanwhile has the old state, the new one
// or CONFLICT.
func TestCloneOfACloneThatIsReplaced(t *testing.T) {
	if testing.Short() {
		t.Skip("clones for seconds")
	}
	t.Parallel()
	w := newCloneWorld(t)
	w.store.grace = 0             // the old state is gone at once
	states := map[string]string{} // by commit
	for _, name := range []string{"one", "two"} {
		remote := w.server.repo(name, map[string]string{"a": name, "b/c": noise(100 << 10)})
		states[remote.head()] = name
	}
	replace := func(name string) {
		t.Helper()
		if _, err := w.try(cloneParams{URL: w.server.address(name), Name: "lib"}); err != nil {
			t.Fatal(err)
		}
	}
	replace("one")
	stop, ended := make(chan struct{}), make(chan struct{})
	outcomes := map[string]int{}
	go func() { // ends with stop
		defer close(ended)
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			r, err := w.try(cloneParams{URL: filepath.Join(w.workDir, reposDirName, "lib"), Name: fmt.Sprint("copy", n%2)})
			switch {
			case err == nil && r.Commit != nil && w.file(r, "a") == states[*r.Commit]:
				outcomes[string(r.Action)]++
			case err != nil && asRPCError(err).name() == codeConflict:
				outcomes["CONFLICT"]++
			default:
				t.Errorf("got %+v, %v, want a commit of the remotes with its files, or CONFLICT", r, err)
			}
		}
	}()
	for range 6 {
		replace("two")
		replace("one")
	}
	close(stop)
	<-ended
	t.Log(outcomes)
	if len(outcomes) == 0 {
		t.Error("no clone had an outcome, want some")
	}
}

// What fails because its source is being replaced is CONFLICT, and what fails otherwise
// keeps its error.
func TestCloneSourceIsReplaced(t *testing.T) {
	skipShort(t, "it clones many times")
	t.Parallel()
	w := newCloneWorld(t)
	w.server.repo("lib", map[string]string{"a": "1"})
	lib, err := w.try(cloneParams{URL: w.server.address("lib")})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(lib.Path, ".git", "objects", "pack")); err != nil {
		t.Fatal(err)
	}
	for _, replaced := range []bool{true, false} {
		ended := func() {}
		if replaced {
			ended = w.cfg.access.replaced.begin(lib.Path)
		}
		for _, url := range []string{lib.Path, "file://" + lib.Path} {
			_, err := w.try(cloneParams{URL: url, Name: "copy"})
			if err == nil || replaced != (asRPCError(err).name() == codeConflict) {
				t.Errorf("vcs/clone of %s, replaced %v: error is %v, want %s only while it is replaced", url, replaced, err, codeConflict)
			}
			if _, ok := w.reader().read("vcs/refs", map[string]any{"url": url}); replaced && ok {
				t.Errorf("vcs/refs of %s, replaced %v: got a result, want %s", url, replaced, codeConflict)
			}
		}
		ended()
	}
}

func TestReplacementsSince(t *testing.T) {
	var r replacements
	mark := r.mark()
	if paths, known := r.since(mark); len(paths) > 0 || !known {
		t.Errorf("at first: %v, %v, want none", paths, known)
	}
	ended := r.begin("/a")
	if paths, _ := r.since(r.mark()); !slices.Equal(paths, []string{"/a"}) {
		t.Errorf("while it runs: %v, want /a", paths)
	}
	during := r.mark()
	ended()
	for _, at := range []int{mark, during} {
		if paths, _ := r.since(at); !slices.Equal(paths, []string{"/a"}) {
			t.Errorf("begun at %d, it ended: %v, want /a", at, paths)
		}
	}
	if paths, known := r.since(r.mark()); len(paths) > 0 || !known {
		t.Errorf("after it: %v, %v, want none", paths, known)
	}
	for range maxReplacedKept {
		r.begin("/b")()
	}
	if _, known := r.since(mark); known {
		t.Error("a read that began before all that is remembered is known to be whole")
	}
}

// The old state of a repository stays for a moment: for those that read it.
func TestOldStateStaysForItsReaders(t *testing.T) {
	dir := realTempDir(t)
	synctest.Test(t, func(t *testing.T) {
		base, stop := context.WithCancel(t.Context())
		s, err := openRepoStore(base, dir)
		if err != nil {
			t.Fatal(err)
		}
		defer s.close()
		defer stop()
		old, err := s.temp()
		if err != nil {
			t.Fatal(err)
		}
		kept := func() int {
			synctest.Wait()
			names, err := os.ReadDir(filepath.Join(dir, retiredDirName))
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
			return len(names)
		}
		if err := s.retire(old, "lib", false, nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(retiredGrace / 2)
		if n := kept(); n != 1 {
			t.Errorf("got %d old states before their time is over, want 1", n)
		}
		time.Sleep(retiredGrace)
		if n := kept(); n != 0 {
			t.Errorf("got %d old states after their time, want none", n)
		}
		keep := func() {
			if old, err = s.temp(); err == nil {
				err = s.retire(old, "lib", true, nil)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		for _, sooner := range []func(){func() {}, func() { s.dropSpare("lib") }} {
			keep()
			time.Sleep(spareIdle / 2)
			if n := kept(); n != 1 {
				t.Errorf("got %d old states that the next update may use, want 1", n)
			}
			sooner()
			time.Sleep(spareIdle)
			if n := kept(); n != 0 {
				t.Errorf("got %d old states after that time, want none", n)
			}
		}
		keep()
		s.dropSpare("lib")
		if n := kept(); n != 1 {
			t.Errorf("got %d old states right after they were replaced, want 1: they may be read", n)
		}
		keep()
		if any := s.dropSpares(t.Context()); !any || kept() != 0 {
			t.Errorf("got %v and %d old states for want of disk space, want true and none", any, kept())
		}
		keep()
		stop()
		if n := kept(); n != 0 {
			t.Errorf("got %d old states at the end of the daemon, want none", n)
		}
		if spareIdle >= defaultIdleTimeout {
			t.Errorf("an old state is kept for %v, want less than the %v after which a daemon stops", spareIdle, defaultIdleTimeout)
		}
		if retiredGrace < time.Second {
			t.Errorf("an old state stays for %v, want at least a second", retiredGrace)
		}
	})
}

// Where two directories cannot be exchanged, a new state that cannot be moved to its
// place leaves the old one there.
func TestMoveAsideRestoresTheOldState(t *testing.T) {
	t.Parallel()
	dir := realTempDir(t)
	base, stop := context.WithCancel(t.Context())
	s, err := openRepoStore(base, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	defer stop()
	writeFiles(t, dir, map[string]string{reposDirName + "/a/lib/f": "old"})
	if err := s.moveAside("missing", "a/lib"); err == nil {
		t.Error("moving a missing state into place: got no error, want one")
	}
	if text, err := os.ReadFile(filepath.Join(dir, reposDirName, "a/lib/f")); err != nil || string(text) != "old" {
		t.Errorf("got %q, %v, want the old state in its place", text, err)
	}
	writeFiles(t, dir, map[string]string{reposDirName + "/" + tempPrefix + "1/f": "new"})
	if err := s.moveAside(tempPrefix+"1", "a/lib"); err != nil {
		t.Error(err)
	}
	for name, want := range map[string]string{"a/lib/f": "new", tempPrefix + "1/f": "old"} {
		if text, err := os.ReadFile(filepath.Join(dir, reposDirName, name)); err != nil || string(text) != want {
			t.Errorf("%s: got %q, %v, want %q", name, text, err, want)
		}
	}
}

// A request reads a repository also by a path above or below it, in another case,
// relative to the work dir or through a link.
func TestOverlaps(t *testing.T) {
	t.Parallel()
	dir := realTempDir(t)
	writeFiles(t, dir, map[string]string{"repos/lib/f": "x"})
	a, err := openAccess(nil, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer a.close()
	repo := []string{filepath.Join(dir, "repos", "lib")}
	for text, want := range map[string]bool{
		"repos/lib": true, "repos/lib/f": true, "repos/lib/sub/g": true, "repos": true, ".": true, dir: true, repo[0]: true,
		filepath.Dir(dir): true, "repos/LIB/f": true, "repos/./lib/": true, "repos/other/../lib": true,
		"repos/lib2": false, "repos/li": false, "repos/other": false, "f": false,
	} {
		if got := a.overlaps(text, repo); got != want {
			t.Errorf("%s: got %v, want %v", text, got, want)
		}
	}
}
