package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Every part of a repository that can be lost or damaged makes a fresh clone.
func TestCloneCorruptRepository(t *testing.T) {
	skipShort(t, "clones a dozen times, for 2 s")
	t.Parallel()
	for name, damage := range map[string]func(git string) error{
		"HEAD gone":     func(git string) error { return os.Remove(git + "/HEAD") },
		"HEAD garbage":  func(git string) error { return os.WriteFile(git+"/HEAD", []byte("\x00\x01"), 0o644) },
		"index empty":   func(git string) error { return os.WriteFile(git+"/index", nil, 0o644) },
		"index garbage": func(git string) error { return os.WriteFile(git+"/index", []byte("DIRCgarbage garbage"), 0o644) },
		"config empty":  func(git string) error { return os.WriteFile(git+"/config", nil, 0o644) },
		"config broken": func(git string) error { return os.WriteFile(git+"/config", []byte("[core"), 0o644) },
		"objects gone":  func(git string) error { return os.RemoveAll(git + "/objects") },
		"packs gone":    func(git string) error { return os.RemoveAll(git + "/objects/pack") },
		"all gone":      os.RemoveAll,
		"git is a file": func(git string) error {
			return errors.Join(os.RemoveAll(git), os.WriteFile(git, []byte("gitdir: /elsewhere\n"), 0o644))
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newCloneWorld(t)
			remote := w.server.repo("lib", map[string]string{"a": "1"})
			p := cloneParams{URL: w.server.address("lib")}
			r := w.must(p, actionCloned, remote.head())
			if err := damage(r.Path + "/.git"); err != nil {
				t.Fatal(err)
			}
			again, err := w.try(p)
			if err != nil {
				t.Fatal(err)
			}
			if again.Action == actionCloned {
				t.Errorf("action is %s", again.Action)
			}
			w.must(p, actionUnchanged, remote.head())
		})
	}
}

// What a killed git leaves must not stop the next one.
func TestCloneStaleLocks(t *testing.T) {
	skipShort(t, "clones several times; TestCloneThenUpdate has the usual case")
	t.Parallel()
	w := newCloneWorld(t)
	remote := w.server.repo("lib", map[string]string{"a": "1"})
	p := cloneParams{URL: w.server.address("lib")}
	r := w.must(p, actionCloned, remote.head())
	for _, name := range []string{"shallow.lock", "index.lock", "HEAD.lock", "config.lock", "packed-refs.lock", "refs/heads/main.lock", "refs/daemon/target.lock", "objects/pack/tmp_pack_x", "objects/00/tmp_obj_x"} {
		path := filepath.Join(r.Path, ".git", name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, nil, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	w.must(p, actionUpdated, remote.commit("second", map[string]string{"a": "2"}))
}

// A crash between the two renames of a swap leaves the old repository aside.
func TestCloneCrashLeftovers(t *testing.T) {
	skipShort(t, "it clones many times")
	t.Parallel()
	w := newCloneWorld(t)
	remote := w.server.repo("lib", map[string]string{"a": "1"})
	p := cloneParams{URL: w.server.address("lib"), Name: "g/lib"}
	w.must(p, actionCloned, remote.head())
	w.stop()
	w.wait()
	repos := filepath.Join(w.workDir, reposDirName)
	for _, err := range []error{
		os.Rename(repos+"/g/lib", repos+"/"+oldPrefix+"ABC+g+lib"),
		os.MkdirAll(repos+"/"+oldPrefix+"DEF+other", 0o755),
		os.MkdirAll(repos+"/"+tempPrefix+"XYZ/.git", 0o755),
		os.MkdirAll(repos+"/"+tempPrefix+"RO/.git", 0o755),
		os.Chmod(repos+"/"+tempPrefix+"RO", 0o500), // which binds everybody but root
		os.MkdirAll(repos+"/.tmp-XYZ/.git", 0o755), // of an earlier version
		os.MkdirAll(repos+"/.old-XYZ+lib", 0o755),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	w.open()
	w.must(p, actionUnchanged, remote.head())
	w.noTemporaries()
	w.store.retired.Wait()
	if _, err := os.Lstat(filepath.Join(w.workDir, retiredDirName)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the leftovers: got %v, want them removed", err)
	}
}

func TestCloneTooLarge(t *testing.T) {
	skipShort(t, "it clones many times")
	t.Parallel()
	w := newCloneWorld(t)
	remote := w.server.repo("lib", map[string]string{"a": "1", "b": strings.Repeat("x", 1000), "d/c": "3"})
	p := cloneParams{URL: w.server.address("lib")}
	for _, limit := range []func(){
		func() { w.cfg.maxFiles, w.cfg.maxBytes = 2, 1<<30 },
		func() { w.cfg.maxFiles, w.cfg.maxBytes = 100, 500 },
	} {
		limit()
		_, err := w.try(p)
		wantGitFailure(t, err, gitTooLarge)
		w.noTemporaries()
	}
	w.cfg.maxFiles, w.cfg.maxBytes = 3, 1<<30
	w.must(p, actionCloned, remote.head())
	before := remote.head()
	remote.commit("more", map[string]string{"e": "5"})
	_, err := w.try(p)
	wantGitFailure(t, err, gitTooLarge)
	if at := (&testRepo{t: t, dir: filepath.Join(w.workDir, "repos/lib")}).head(); at != before {
		t.Errorf("the failed update moved HEAD to %s", at)
	}
}

// TestCloneDiskBelowTheFloor: nothing is begun that could fill the disk, and what
// is there stays.
func TestCloneDiskBelowTheFloor(t *testing.T) {
	skipShort(t, "it clones many times")
	t.Parallel()
	w := newCloneWorld(t)
	remote := w.server.repo("lib", map[string]string{"a": "1"})
	p := cloneParams{URL: w.server.address("lib")}
	first := w.must(p, actionCloned, remote.head())
	remote.commit("more", map[string]string{"b": "2"})
	w.cfg.minFreeDisk = 100 // no disk is that free: the test's own files are on it
	for _, p := range []cloneParams{p, {URL: p.URL, Name: "other"}} {
		_, err := w.try(p)
		wantGitFailure(t, err, gitDiskFull)
		if err != nil && !strings.Contains(err.Error(), "--min-free-disk") {
			t.Errorf("the message does not tell the flag: %v", err)
		}
	}
	w.noTemporaries()
	if at := (&testRepo{t: t, dir: first.Path}).head(); at != *first.Commit {
		t.Errorf("HEAD has moved to %s", at)
	}
	w.cfg.minFreeDisk = 0.0001
	w.must(p, actionUpdated, remote.head())
}

func TestCloneRemoteHangs(t *testing.T) {
	skipShort(t, "it clones many times")
	t.Parallel()
	for _, part := range []string{"info/refs", "git-upload-pack"} {
		w := newCloneWorld(t)
		w.server.repo("lib", map[string]string{"a": "1"})
		w.remotes.stall = 300 * time.Millisecond
		w.server.setHook(hang(part, nil))
		_, err := w.try(cloneParams{URL: w.server.address("lib")})
		wantGitFailure(t, err, gitNetwork)
		w.noTemporaries()
	}
}

// A cancelled clone is cleared away before it is answered.
func TestCloneCancelled(t *testing.T) {
	t.Parallel()
	w := newCloneWorld(t)
	w.server.repo("lib", map[string]string{"a": "1"})
	reached := make(chan struct{}, 1)
	w.server.setHook(func(rw http.ResponseWriter, r *http.Request) bool {
		return r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "git-upload-pack") && len(w.temporaries()) > 0 && hang("", reached)(rw, r)
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { // ends when the clone is answered, which is waited for below
		_, err := w.tryIn(ctx, cloneParams{URL: w.server.address("lib")})
		done <- err
	}()
	<-reached
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	w.noTemporaries()
}

func (w *cloneWorld) temporaries() []string {
	found, _ := filepath.Glob(filepath.Join(w.workDir, reposDirName, tempPrefix+"*")) // the pattern is well-formed
	return found
}

// Equal requests share one git; others for the name wait for their turn.
func TestCloneConcurrent(t *testing.T) {
	skipShort(t, "clones several times; TestCloneThenUpdate has the usual case")
	t.Parallel()
	w := newCloneWorld(t)
	one := w.server.repo("one", map[string]string{"a": "1"})
	two := w.server.repo("two", map[string]string{"b": "2"})
	begin := make(chan struct{})
	w.server.setHook(func(http.ResponseWriter, *http.Request) bool {
		<-begin
		return false
	})
	var boarded, wg sync.WaitGroup
	for i := range 10 {
		name, want := "one", one.head()
		if i%2 == 1 {
			name, want = "two", two.head()
		}
		boarded.Add(1)
		var first sync.Once
		ctx := withProgress(t.Context(), func(progress) { first.Do(boarded.Done) })
		wg.Go(func() { // ends with its answer
			r, err := w.tryIn(ctx, cloneParams{URL: w.server.address(name), Name: "same"})
			if err != nil {
				t.Error(err)
			} else if *r.Commit != want {
				t.Errorf("request %d got %+v", i, r)
			}
		})
	}
	boarded.Wait()
	close(begin)
	wg.Wait()
	w.noTemporaries()
	asked := 0
	var order []string // of the remotes
	for _, r := range w.server.requests() {
		if strings.Contains(r, "/one/info/refs") {
			asked++
		}
		if from := strings.Split(r, "/")[1]; len(order) == 0 || order[len(order)-1] != from {
			order = append(order, from)
		}
	}
	if len(order) != 2 {
		t.Errorf("the remotes were asked in turns, %v: two worked on one repository", order)
	}
	if asked != 1 {
		t.Errorf("five equal requests asked the server %d times, want once", asked)
	}
}

// Of names that are the same or inside one another, one is worked on at a time.
func TestRepoStoreLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, test := range []struct {
			held, asked string
			waits       bool
		}{
			{"a/b", "a/b", true}, {"a/b", "A/B", true}, {"a", "a/b", true}, {"a/b/c", "a/b", true}, {"a", "ab", false}, {"a/b", "a/c", false},
		} {
			s := &repoStore{held: map[string]chan struct{}{}}
			release, err := s.lock(t.Context(), test.held)
			if err != nil {
				t.Fatal(err)
			}
			locked := false
			go func() { // ends when it has the lock
				if _, err := s.lock(t.Context(), test.asked); err != nil {
					t.Error(err)
				}
				locked = true
			}()
			if synctest.Wait(); locked == test.waits {
				t.Errorf("%s held, %s asked for: locked %v", test.held, test.asked, locked)
			}
			release()
			if synctest.Wait(); !locked {
				t.Errorf("%s released, %s asked for: still waits", test.held, test.asked)
			}
			gone, leave := context.WithCancel(t.Context())
			leave()
			if _, err := s.lock(gone, test.asked); !errors.Is(err, context.Canceled) {
				t.Errorf("%s held, and the asker gone: %v", test.asked, err)
			}
		}
	})
}

// A tree that would write outside the work tree or into .git is refused.
func TestCloneEvilTree(t *testing.T) {
	skipShort(t, "it clones many times")
	t.Parallel()
	w := newCloneWorld(t)
	for i, entry := range []string{".git", ".GIT", "git~1", "..", "."} {
		name := fmt.Sprintf("evil%d", i)
		remote := w.server.repo(name, map[string]string{"a": "1"})
		blob := remote.git("rev-parse", "HEAD:a")
		raw := make([]byte, 0, 20)
		for j := 0; j < len(blob); j += 2 {
			var b byte
			if _, err := fmt.Sscanf(blob[j:j+2], "%02x", &b); err != nil {
				t.Fatal(err)
			}
			raw = append(raw, b)
		}
		tree, err := remote.tryGit("100644 "+entry+"\x00"+string(raw), "hash-object", "-t", "tree", "-w", "--literally", "--stdin")
		if err != nil {
			t.Fatal(err)
		}
		remote.git("update-ref", "refs/heads/main", remote.git("commit-tree", "-m", "evil", strings.TrimSpace(tree)))
		_, err = w.try(cloneParams{URL: w.server.address(name), Name: "x"})
		wantGitFailure(t, err, gitCorrupt)
		w.noTemporaries()
	}
}

// A file's content is lost while the checkout still looks whole.
func TestCloneMissingBlob(t *testing.T) {
	skipShort(t, "clones several times; TestCloneThenUpdate has the usual case")
	t.Parallel()
	w := newCloneWorld(t)
	remote := w.server.repo("lib", map[string]string{"a": "1"})
	p := cloneParams{URL: w.server.address("lib")}
	r := w.must(p, actionCloned, remote.head())
	packs, err := filepath.Glob(r.Path + "/.git/objects/pack/*.pack")
	if err != nil || len(packs) != 1 {
		t.Fatalf("packs %v, %v", packs, err)
	}
	pack, err := os.ReadFile(packs[0])
	if err != nil {
		t.Fatal(err)
	}
	clone := &testRepo{t: t, dir: r.Path}
	blob := clone.git("rev-parse", "HEAD:a")
	if err := os.RemoveAll(filepath.Dir(packs[0])); err != nil {
		t.Fatal(err)
	}
	if _, err := clone.tryGit(string(pack), "unpack-objects", "-q"); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(r.Path + "/.git/objects/" + blob[:2] + "/" + blob[2:]); err != nil {
		t.Fatal(err)
	}
	w.must(p, actionRecloned, remote.head())
}

// Two requests that differ in the token alone do not share an answer that one
// of them has no right to.
func TestCloneTokensAreNotShared(t *testing.T) {
	skipShort(t, "it clones many times")
	t.Parallel()
	w := newCloneWorld(t)
	w.server.repo("lib", map[string]string{"a": "1"})
	w.server.requireAuth("oauth2", "right-token")
	begin := make(chan struct{})
	w.server.setHook(func(http.ResponseWriter, *http.Request) bool {
		<-begin
		return false
	})
	var boarded, wg sync.WaitGroup
	errs := make([]error, 2)
	for i, token := range []string{"right-token", "wrong-token"} {
		boarded.Add(1)
		var first sync.Once
		ctx := withProgress(t.Context(), func(progress) { first.Do(boarded.Done) })
		wg.Go(func() { // ends with its answer
			_, errs[i] = w.tryIn(ctx, cloneParams{URL: w.server.addressAs("oauth2:"+token, "lib")})
		})
	}
	boarded.Wait()
	close(begin)
	wg.Wait()
	if errs[0] != nil {
		t.Error(errs[0])
	}
	wantGitFailure(t, errs[1], gitAuth)
}

// TestCloneOfAWebPage: a server that answers with something else is no empty
// repository, and the clone that is there stays.
func TestCloneOfAWebPage(t *testing.T) {
	skipShort(t, "clones several times; TestCloneThenUpdate has the usual case")
	t.Parallel()
	w := newCloneWorld(t)
	remote := w.server.repo("lib", map[string]string{"a.txt": "1\n"})
	p := cloneParams{URL: w.server.address("lib")}
	w.must(p, actionCloned, remote.head())
	for _, page := range []string{"", "ok", "<html>login</html>", "<html>\nlogin\n</html>\n"} {
		w.server.setHook(func(out http.ResponseWriter, r *http.Request) bool {
			_, _ = io.WriteString(out, page)
			return true
		})
		if r, err := w.try(p); err == nil {
			t.Errorf("%q made %+v", page, r)
		}
		if r, err := w.try(cloneParams{URL: p.URL, Name: "other"}); err == nil {
			t.Errorf("%q was cloned as %+v", page, r)
		}
	}
	w.server.setHook(nil)
	w.must(p, actionUnchanged, remote.head())
}

// TestCloneWithForeignSettings: what somebody wrote into the clone's own
// configuration runs nothing at the next update.
func TestCloneWithForeignSettings(t *testing.T) {
	skipShort(t, "clones several times; TestCloneThenUpdate has the usual case")
	t.Parallel()
	w := newCloneWorld(t)
	remote := w.server.repo("lib", map[string]string{".gitattributes": "* filter=x\n", "a.txt": "1\n"})
	p := cloneParams{URL: w.server.address("lib")}
	r := w.must(p, actionCloned, remote.head())
	marker := filepath.Join(t.TempDir(), "marker")
	config := filepath.Join(r.Path, ".git", "config")
	included := filepath.Join(t.TempDir(), "included")
	for _, text := range []string{
		"[filter \"x\"]\n\tsmudge = touch " + marker + "\n\tclean = touch " + marker + "\n",
		"[filter \"x\"]\n\tprocess = touch " + marker + "\n\trequired = true\n",
		"[include]\n\tpath = " + included + "\n",
		"[core]\n\tfsmonitor = touch " + marker + "\n\tsshCommand = touch " + marker + "\n[remote \"origin\"]\n\tuploadpack = touch " + marker + "\n",
	} {
		if err := os.WriteFile(included, []byte("[filter \"x\"]\n\tsmudge = touch "+marker+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(config, os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.WriteString(text)
		if err := errors.Join(err, f.Close(), os.WriteFile(filepath.Join(r.Path, "a.txt"), []byte("edited\n"), 0o600)); err != nil {
			t.Fatal(err)
		}
		if _, err := w.try(p); err != nil {
			t.Errorf("%s: %v", text, err)
		}
		if _, err := os.Stat(marker); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("it ran: %s", text)
			_ = os.Remove(marker)
		}
		if data, err := os.ReadFile(filepath.Join(r.Path, "a.txt")); string(data) != "1\n" {
			t.Errorf("%s: a.txt is %q, %v", text, data, err)
		}
	}
}

// At most four clones run at once; the others wait for one to end.
func TestCloneSlots(t *testing.T) {
	skipShort(t, "it clones nine times")
	t.Parallel()
	w := newCloneWorld(t)
	w.server.repo("lib", map[string]string{"a": "1"})
	const clones, most = 9, 4
	began, goOn := make(chan struct{}, 100), make(chan struct{})
	var first sync.Map // the repositories that were asked for
	w.server.setHook(func(_ http.ResponseWriter, r *http.Request) bool {
		if _, again := first.LoadOrStore(strings.Split(r.URL.Path, "/")[1], true); !again {
			began <- struct{}{}
			<-goOn
		}
		return false
	})
	for n := range clones - 1 {
		w.server.repo(fmt.Sprint("lib", n), map[string]string{"a": "1"})
	}
	var wg sync.WaitGroup
	for n := range clones {
		name := fmt.Sprint("lib", n)
		if n == clones-1 {
			name = "lib"
		}
		wg.Go(func() { // ends with its answer
			if _, err := w.try(cloneParams{URL: w.server.address(name)}); err != nil {
				t.Error(err)
			}
		})
	}
	for n := range clones {
		select {
		case <-began:
		case <-time.After(patience):
			t.Fatalf("%d clones have begun, want all %d", n, clones)
		}
		if n < most-1 {
			continue
		}
		select {
		case <-began:
			t.Errorf("clone %d begins beside %d others, want at most %d at once", n+2, most, most)
			began <- struct{}{}
		case <-time.After(50 * time.Millisecond): // nothing tells that none begins
		}
		goOn <- struct{}{} // one of them can go on to its end
	}
	close(goOn)
	wg.Wait()
}

// A remote that sends more than --max-clone-bytes is cut off, whatever its files
// come to.
func TestCloneRemoteSendsTooMuch(t *testing.T) {
	skipShort(t, "it sends megabytes")
	t.Parallel()
	w := newCloneWorld(t)
	w.cfg.maxBytes = 1 << 20
	repo := w.server.repo("lib", map[string]string{"a": noise(2 << 20)})
	for _, files := range []string{"large", "small"} { // the tree of the last commit
		if files == "small" { // all history is sent
			repo.commit("smaller", map[string]string{"a": ""})
		}
		_, err := w.try(cloneParams{URL: w.server.address("lib"), Depth: new(0)})
		wantGitFailure(t, err, gitTooLarge)
		if err == nil || !strings.Contains(err.Error(), "the remote sent more than 1048576 bytes") {
			t.Errorf("with %s files: got %v, want the end of the transfer", files, err)
		}
		w.noTemporaries()
	}
}
