//go:build linux || darwin

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// gitWrapper is a program in git's place that counts the starts of git. The stopAt-th
// one touches reached and then waits for ever: before it starts git, or with
// after when git has ended.
type gitWrapper struct {
	t   testing.TB
	dir string
}

// wrapGit puts a wrapper in the place of the cloner's git.
func (w *cloneWorld) wrapGit() *gitWrapper {
	w.t.Helper()
	wrapper := newGitWrapper(w.t, w.cfg.git.path)
	w.cfg.git.version() // it must not count
	w.cfg.git.path = wrapper.path()
	return wrapper
}

func newGitWrapper(t testing.TB, git string) *gitWrapper {
	t.Helper()
	dir := realTempDir(t)
	wrapper := &gitWrapper{t: t, dir: dir}
	script := `#!/bin/sh
for word; do [ "$word" = version ] && exec ` + shellQuote(git) + ` "$@"; done
cd ` + shellQuote(dir) + ` || exit 1
n=1
until mkdir "n-$n" 2>/dev/null; do n=$((n+1)); done
echo "$*" >> starts
cd "$OLDPWD"
stop() { echo $$ > ` + shellQuote(dir) + `/pid; touch ` + shellQuote(dir) + `/reached; exec sleep 600; }
[ -e ` + shellQuote(dir) + `/before-$n ] && stop
if [ -e ` + shellQuote(dir) + `/after-$n ]; then ` + shellQuote(git) + ` "$@"; stop; fi
exec ` + shellQuote(git) + ` "$@"
`
	if err := os.WriteFile(wrapper.path(), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return wrapper
}

func (g *gitWrapper) path() string { return filepath.Join(g.dir, "git") }

// starts are the command lines since the last call.
func (g *gitWrapper) starts() []string {
	g.t.Helper()
	file := filepath.Join(g.dir, "starts")
	text, err := os.ReadFile(file)
	if err == nil {
		err = os.Remove(file)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		g.t.Fatal(err)
	}
	numbers, _ := filepath.Glob(filepath.Join(g.dir, "n-*")) // the pattern is well-formed
	for _, number := range numbers {
		if err := os.Remove(number); err != nil {
			g.t.Fatal(err)
		}
	}
	var starts []string
	for line := range strings.Lines(string(text)) {
		starts = append(starts, strings.TrimSpace(line))
	}
	return starts
}

// stopAt makes the n-th start from now wait for ever; when is before or after.
func (g *gitWrapper) stopAt(when string, n int) {
	g.t.Helper()
	g.starts()
	g.goOn()
	if err := os.WriteFile(filepath.Join(g.dir, fmt.Sprint(when, "-", n)), nil, 0o644); err != nil {
		g.t.Fatal(err)
	}
}

// goOn undoes stopAt.
func (g *gitWrapper) goOn() {
	g.t.Helper()
	for _, pattern := range []string{"before-*", "after-*", "reached"} {
		files, _ := filepath.Glob(filepath.Join(g.dir, pattern)) // the patterns are well-formed
		for _, file := range files {
			if err := os.Remove(file); err != nil {
				g.t.Fatal(err)
			}
		}
	}
}

// reached reports whether the start that stopAt names has come.
func (g *gitWrapper) reached() bool {
	_, err := os.Stat(filepath.Join(g.dir, "reached"))
	return err == nil
}

// end kills the program that stopAt stopped.
func (g *gitWrapper) end() {
	g.t.Helper()
	text, err := os.ReadFile(filepath.Join(g.dir, "pid"))
	if err != nil {
		g.t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		g.t.Fatal(err)
	}
	_ = syscall.Kill(pid, syscall.SIGKILL) // the next daemon may have been faster
}

// subcommands are the git subcommands of command lines, for a failure message.
func subcommands(starts []string) string {
	var names []string
	for _, line := range starts {
		for word := range strings.FieldsSeq(line) {
			if !strings.Contains(word, "=") && !strings.HasPrefix(word, "-") {
				names = append(names, word)
				break
			}
		}
	}
	return strings.Join(names, " ")
}

func TestCloneStartsFewProcesses(t *testing.T) {
	skipShort(t, "it clones many times")
	t.Parallel()
	w := newCloneWorld(t)
	wrapper := w.wrapGit()
	remote := w.server.repo("lib", map[string]string{"a": "1", "dir/b": "2"})
	remote.git("tag", "-a", "-m", "x", "v1")
	remote.git("branch", "feat/x")
	for _, depth := range []int{1, 0} {
		p := cloneParams{URL: w.server.address("lib"), Depth: &depth, Name: fmt.Sprint("depth", depth)}
		step := func(action cloneAction, most int, what string) {
			t.Helper()
			wrapper.starts()
			r, err := w.try(p)
			if err != nil || r.Action != action {
				t.Errorf("depth %d, %s: got %v, %v, want %s", depth, what, r.Action, err, action)
			}
			if starts := wrapper.starts(); len(starts) > most {
				t.Errorf("depth %d, %s: %d git processes, want at most %d: %s", depth, what, len(starts), most, subcommands(starts))
			}
		}
		step(actionCloned, 8, "fresh")
		step(actionUnchanged, 3, "unchanged")
		remote.commit("more", map[string]string{"a": fmt.Sprint("more", depth)})
		step(actionUpdated, 8, "one commit more")
		writeFiles(t, filepath.Join(w.workDir, reposDirName, p.Name), map[string]string{"a": "edited", "new": "x"})
		step(actionUnchanged, 8, "local edits")
		p.Ref = "v1"
		step(actionUpdated, 8, "a tag")
		step(actionUnchanged, 3, "the tag again")
		p.Ref = "feat/x"
		step(actionUpdated, 8, "a branch")
		step(actionUnchanged, 3, "the branch again")
	}
}

// An update that is cancelled, or whose time is up, before or after any of its git
// processes leaves the old state as it was.
func TestCloneUpdateCancelledAtEachStep(t *testing.T) {
	skipShort(t, "it clones many times")
	t.Parallel()
	w := newCloneWorld(t)
	wrapper := w.wrapGit()
	remote := w.server.repo("lib", map[string]string{"a": "1", "dir/b": "2", "gone": "3"})
	p := cloneParams{URL: w.server.address("lib")}
	first := remote.head()
	r := w.must(p, actionCloned, first)
	old := treeState(t, r.Path)
	remote.git("rm", "-q", "gone")
	second := remote.commit("second", map[string]string{"a": "2", "dir/b": "3", "new/c": "4"})
	stops := 0
	for _, test := range []struct {
		when  string
		cause error
	}{{"before", context.Canceled}, {"after", context.Canceled}, {"before", context.DeadlineExceeded}, {"after", context.DeadlineExceeded}} {
		when := test.when
		for n := 1; n <= 8; n++ {
			wrapper.stopAt(when, n)
			ctx, cancel := context.WithCancelCause(t.Context())
			done := make(chan error, 1)
			go func() { // ends with the answer, which is waited for below
				_, err := w.tryIn(ctx, p)
				done <- err
			}()
			var err error
			ended := false
			awaitThat(t, "the step to be reached or the update to end", func() bool {
				select {
				case err = <-done:
					ended = true
				default:
				}
				return ended || wrapper.reached()
			})
			cancel(test.cause)
			if ended {
				break // it has fewer steps
			}
			stops++
			if err = <-done; !errors.Is(err, test.cause) {
				t.Errorf("%s step %d: error is %v, want %v", when, n, err, test.cause)
			}
			if got := treeState(t, r.Path); got != old {
				t.Fatalf("%s step %d: got the state\n%s\nwant\n%s", when, n, got, old)
			}
			w.noTemporaries()
		}
		wrapper.goOn() // the last update went through: back to the old state
		remote.git("update-ref", "refs/heads/main", first)
		w.must(p, actionUpdated, first)
		remote.git("update-ref", "refs/heads/main", second)
		if got := treeState(t, r.Path); got != old {
			t.Fatalf("back at the first commit: got the state\n%s\nwant\n%s", got, old)
		}
	}
	if stops < 24 {
		t.Errorf("the update was stopped %d times, want at least 24", stops)
	}
	if _, err := w.try(p); err != nil {
		t.Fatal(err)
	}
	if got := (&testRepo{t: t, dir: r.Path}).head(); got != second {
		t.Errorf("at last HEAD is %s, want %s", got, second)
	}
}

// A remote that hangs up on any request of an update, in the head or the body of its
// answer, leaves the old state as it was, or the update succeeds because the request
// is repeated.
func TestCloneUpdateRemoteHangsUp(t *testing.T) {
	skipShort(t, "it clones many times")
	t.Parallel()
	w := newCloneWorld(t)
	remote := w.server.repo("lib", map[string]string{"a": "1", "dir/b": "2"})
	p := cloneParams{URL: w.server.address("lib")}
	first := remote.head()
	r := w.must(p, actionCloned, first)
	old := treeState(t, r.Path)
	second := remote.commit("second", map[string]string{"a": "2", "new/c": "3"})
	failed := 0
	for n := int64(1); ; n++ {
		for _, answer := range []string{"", "HTTP/1.1 200 OK\r\nContent-Le", "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n001e# service"} {
			var asked atomic.Int64
			w.server.setHook(func(rw http.ResponseWriter, r *http.Request) bool {
				if asked.Add(1) != n {
					return false
				}
				conn, _, err := http.NewResponseController(rw).Hijack()
				if err != nil {
					t.Error(err)
					return true
				}
				_, _ = io.WriteString(conn, answer) // the client sees what arrives
				_ = conn.Close()
				return true
			})
			_, err := w.try(p)
			w.server.setHook(nil)
			if err != nil {
				failed++
				if asRPCError(err).name() != codeGitFailed {
					t.Errorf("request %d, answer %q: error is %v, want %s", n, answer, err, codeGitFailed)
				}
				if got := treeState(t, r.Path); got != old {
					t.Fatalf("request %d, answer %q: got the state\n%s\nwant\n%s", n, answer, got, old)
				}
				w.noTemporaries()
				continue
			}
			w.must(p, actionUnchanged, second)
			if asked.Load() < n {
				if failed < 3 {
					t.Errorf("%d updates failed, want at least 3", failed)
				}
				return
			}
			remote.git("update-ref", "refs/heads/main", first)
			w.must(p, actionUpdated, first)
			remote.git("update-ref", "refs/heads/main", second)
		}
	}
}

// A commit that cannot be checked out leaves the old state as it was.
func TestCloneUpdateCannotBeCheckedOut(t *testing.T) {
	skipShort(t, "it clones many times")
	t.Parallel()
	w := newCloneWorld(t)
	remote := w.server.repo("lib", map[string]string{"a": "1"})
	p := cloneParams{URL: w.server.address("lib")}
	r := w.must(p, actionCloned, remote.head())
	old := treeState(t, r.Path)
	blob, err := remote.tryGit("2", "hash-object", "-w", "--stdin")
	if err != nil {
		t.Fatal(err)
	}
	blob = strings.TrimSpace(blob)
	remote.git("update-index", "--add", "--cacheinfo", "100644,"+blob+",a", "--cacheinfo", "100644,"+blob+","+strings.Repeat("x", 300))
	remote.git("commit", "-q", "-m", "too long")
	before := w.server.fetches()
	_, err = w.try(p)
	wantGitFailure(t, err, gitOther)
	if err != nil && !strings.Contains(err.Error(), "File name too long") {
		t.Errorf("error is %v, want git's words", err)
	}
	if n := w.server.fetches() - before; n != 1 {
		t.Errorf("it was fetched %d times, want once", n)
	}
	_, err = w.try(cloneParams{URL: p.URL, Name: "fresh"})
	wantGitFailure(t, err, gitOther)
	if got := treeState(t, r.Path); got != old {
		t.Errorf("got the state\n%s\nwant\n%s", got, old)
	}
	w.noTemporaries()
}

// A daemon that is killed at any moment of an update leaves the old state or the
// new one, and the next one goes on from there.
func TestCloneUpdateKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a daemon for each of twenty kills")
	}
	t.Parallel()
	server := newGitServer(t)
	remote := server.repo("lib", map[string]string{"a": "1", "dir/b": "2", "gone": "3"})
	remote.git("branch", "first")
	remote.git("rm", "-q", "gone")
	remote.commit("second", map[string]string{"a": "2", "dir/b": "3", "new/c": "4"})
	git, err := exec.LookPath("git")
	if err != nil {
		t.Fatal(err)
	}
	wrapper := newGitWrapper(t, git)
	_, hub := startSchedulerProcess(t, nil)
	workDir := realTempDir(t)
	env := []string{"PATH=" + wrapper.dir + ":" + os.Getenv("PATH")}
	daemon := func() *startedProgram {
		return startUserDaemon(t, hub, "m", env, "--work-dir", workDir, "--min-free-disk", "0")
	}
	clone := func(ref string) rpcAnswer {
		_, a := callRPC(t, hub+"/machines/m", "vcs/clone", `{"url":"`+server.address("lib")+`","ref":"`+ref+`"}`)
		return a
	}
	lib := filepath.Join(workDir, reposDirName, "lib")
	d := daemon()
	states := map[string]string{} // what a whole clone looks like, by branch
	var took time.Duration
	for _, ref := range []string{"first", "main"} {
		began := time.Now()
		if a := clone(ref); a.Error != nil {
			t.Fatal(a.Error)
		}
		took = time.Since(began)
		states[ref] = treeState(t, lib)
	}
	at := "main" // where the clone is
	// killWhile begins an update after prepare and kills the daemon after wait.
	killWhile := func(moment string, prepare, wait func()) {
		t.Helper()
		if at != "main" {
			if a := clone("main"); a.Error != nil {
				t.Fatalf("%s: %v", moment, a.Error)
			}
		}
		prepare()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		body := `{"jsonrpc":"2.0","id":"x","method":"vcs/clone","params":{"url":"` + server.address("lib") + `","ref":"first"}}`
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, hub+"/machines/m/rpc", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Content-Type", "application/json")
		done := make(chan struct{})
		go func() { // ends with the answer, or when ctx is cancelled
			defer close(done)
			if resp, err := http.DefaultClient.Do(request); err == nil {
				_ = resp.Body.Close() // nobody reads it
			}
		}()
		wait()
		if err := d.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		<-d.done
		switch got := treeState(t, lib); got {
		case states["main"]:
			at = "main"
		case states["first"]:
			at = "first"
		default:
			t.Fatalf("%s: got the state\n%s\nwant\n%s\nor\n%s", moment, got, states["main"], states["first"])
		}
		cancel() // or the hub sends it to the next daemon
		<-done
		wrapper.goOn()
		d = daemon()
	}
	for _, when := range []string{"before", "after"} {
		for n := 1; n <= 6; n++ {
			killWhile(fmt.Sprint(when, " process ", n), func() { wrapper.stopAt(when, n) }, func() {
				awaitThat(t, "the step to be reached", wrapper.reached)
			})
			wrapper.end()
		}
	}
	const rounds = 10 // at moments that differ from run to run; whatever they hit, the outcome is the same
	for n := range rounds {
		killWhile(fmt.Sprint("moment ", n), wrapper.goOn, func() { time.Sleep(took * time.Duration(n+1) / time.Duration(rounds)) })
	}
	if a := clone("first"); a.Error != nil {
		t.Fatal(a.Error)
	}
	if got := treeState(t, lib); got != states["first"] {
		t.Errorf("at last: got the state\n%s\nwant\n%s", got, states["first"])
	}
	entries, err := os.ReadDir(filepath.Join(workDir, reposDirName))
	if err != nil || len(entries) != 1 {
		t.Errorf("beside the repository there is %v, %v; want nothing", entries, err)
	}
}

// An update discards what is not tracked: ignored files and nested repositories.
func TestCloneUpdateRemovesWhatIsNotTracked(t *testing.T) {
	skipShort(t, "it clones nine times")
	t.Parallel()
	w := newCloneWorld(t)
	remote := w.server.repo("lib", map[string]string{"a": "1", ".gitignore": "*.log\nbuild/\n"})
	p := cloneParams{URL: w.server.address("lib")}
	r := w.must(p, actionCloned, remote.head())
	for name, litter := range map[string]func(){
		"x.log":     func() { writeFiles(t, r.Path, map[string]string{"x.log": "ignored"}) },
		"build":     func() { writeFiles(t, r.Path, map[string]string{"build/y": "ignored"}) },
		"untracked": func() { writeFiles(t, r.Path, map[string]string{"untracked": "u"}) },
		"nested":    func() { newTestRepoAt(t, filepath.Join(r.Path, "nested"), map[string]string{"n": "1"}) },
	} {
		for _, action := range []cloneAction{actionUnchanged, actionUpdated} {
			litter()
			if action == actionUpdated {
				remote.commit("more", map[string]string{"a": name})
			}
			w.must(p, action, remote.head())
			if _, err := os.Lstat(filepath.Join(r.Path, name)); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s: %s: got %v, want it removed", action, name, err)
			}
		}
	}
}

// When a repository has 40 packs, an update puts them together.
func TestCloneManyUpdatesArePacked(t *testing.T) {
	skipShort(t, "it makes forty packs")
	t.Parallel()
	w := newCloneWorld(t)
	remote := w.server.repo("lib", map[string]string{"a": "1"})
	p := cloneParams{URL: w.server.address("lib")}
	r := w.must(p, actionCloned, remote.head())
	clone := &testRepo{t: t, dir: r.Path}
	packs := func() int {
		names, err := filepath.Glob(filepath.Join(r.Path, ".git/objects/pack/*.pack"))
		if err != nil {
			t.Fatal(err)
		}
		return len(names)
	}
	for n := packs(); n < 40; n++ {
		oid := strings.TrimSpace(clone.output(fmt.Sprint("blob ", n), "hash-object", "-w", "--stdin"))
		clone.output(oid+"\n", "pack-objects", "-q", ".git/objects/pack/pack")
	}
	if n := packs(); n != 40 {
		t.Fatalf("made %d packs, want 40", n)
	}
	remote.commit("more", map[string]string{"a": "2"})
	w.must(p, actionUpdated, remote.head())
	if n := packs(); n > 2 {
		t.Errorf("got %d packs after the update, want them put together", n)
	}
}

// A full disk that git meets while it looks at the old state is no damage: nothing
// is cloned anew.
func TestCloneFullDiskIsNoDamage(t *testing.T) {
	skipShort(t, "it clones twice")
	t.Parallel()
	w := newCloneWorld(t)
	remote := w.server.repo("lib", map[string]string{"a": "1"})
	p := cloneParams{URL: w.server.address("lib")}
	r := w.must(p, actionCloned, remote.head())
	before := treeState(t, r.Path)
	remote.commit("more", map[string]string{"a": "2"})
	wrapper := filepath.Join(realTempDir(t), "git")
	writeProgram(t, wrapper, "for word; do [ \"$word\" = rev-list ] && echo 'fatal: write error: No space left on device' >&2 && exit 128; done\nexec "+shellQuote(w.cfg.git.path)+" \"$@\"\n")
	w.cfg.git.version()
	git := w.cfg.git.path
	w.cfg.git.path = wrapper
	asked := w.server.fetches()
	w.store.seal("lib", cloneSeal{}) // else git does not look at it
	_, err := w.try(p)
	wantGitFailure(t, err, gitDiskFull)
	if n := w.server.fetches() - asked; n != 0 {
		t.Errorf("it was fetched %d times, want no fetch", n)
	}
	if got := treeState(t, r.Path); got != before {
		t.Errorf("got the state\n%s\nwant\n%s", got, before)
	}
	w.cfg.git.path = git
	w.must(p, actionUpdated, remote.head())
}
