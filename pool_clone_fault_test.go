//go:build linux || darwin

package main

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
)

func TestFaultFullOfClones(t *testing.T) {
	skipShort(t, "it takes about a second")
	t.Parallel()
	git := newGitServer(t)
	repo := git.repo("lib.git", map[string]string{"a": "1"})
	h := openHouse(t, realTempDir(t), "--max-daemons", "1")
	asked, release := make(chan struct{}, 10), make(chan struct{})
	git.setHook(func(_ http.ResponseWriter, r *http.Request) bool {
		select {
		case asked <- struct{}{}:
		default:
		}
		select {
		case <-release:
			return false
		case <-r.Context().Done():
			return true
		}
	})
	cloned := h.askLater(http.MethodPost, "/libraries/busy/rpc", cloneCall(git.address("lib.git")))
	<-asked
	h.want(http.StatusServiceUnavailable, http.MethodPut, "/daemons/other", "", string(codeCapacity))
	close(release)
	if body := wantAnswer(t, cloned); !strings.Contains(body, repo.head()) {
		t.Errorf("got %s, want the commit %s", body, repo.head())
	}
	// It takes the place of the one that has nothing to do any more: a moment after
	// its answer it may still seem to have.
	awaitThat(t, "there is room for the other", func() bool {
		status, _ := h.ask(http.MethodPut, "/daemons/other", "")
		return status == http.StatusCreated
	})
	h.wantNothingLeft()
}

// A daemon is killed while its git waits for a silent server: no git is left,
// and the next daemon clones.
func TestFaultKilledInAStalledClone(t *testing.T) {
	skipShort(t, "kills daemons in clones, for 2 s")
	t.Parallel()
	git := newGitServer(t)
	repo := git.repo("lib.git", map[string]string{"a": "1"})
	h := openHouse(t, realTempDir(t))
	asked := make(chan struct{}, 10)
	for range 2 { // the second time there is a clone
		git.setHook(hang("", asked))
		pid := h.ensure("x")
		cloned := h.askLater(http.MethodPost, "/libraries/x/rpc", cloneCall(git.address("lib.git")))
		<-asked
		gits := 0
		for _, p := range h.processes() {
			if strings.Contains(p, "git") {
				gits++
			}
		}
		if _, err := os.Stat("/proc/self"); err == nil && gits == 0 {
			t.Error("no git runs, want one: else the test sees nothing")
		}
		git.setHook(nil)
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if body := wantAnswer(t, cloned); !strings.Contains(body, repo.head()) { // from the next daemon
			t.Errorf("got %s, want the commit %s from the next daemon", body, repo.head())
		}
		for _, p := range h.processes() {
			if strings.Contains(p, "git ") || strings.Contains(p, "remote-http") {
				t.Errorf("the process %s is left, want no git", p)
			}
		}
		repo.commit("more", map[string]string{"a": "2"})
		for len(asked) > 0 {
			<-asked
		}
	}
	h.wantNothingLeft()
}

// The kernel takes the daemon and then the scheduler, which had no time to clear
// up after it: once the next one listens no git is left.
func TestFaultBothKilledInAStalledClone(t *testing.T) {
	t.Parallel()
	git, _, asked := newStalledGitServer(t)
	dir := realTempDir(t)
	h := openHouse(t, dir)
	pid := h.ensure("x")
	var asking sync.WaitGroup
	defer asking.Wait()
	asking.Go(func() { h.askInVain(t.Context(), "/libraries/x/rpc", cloneCall(git.address("lib.git"))) })
	<-asked
	h.kill(syscall.SIGSTOP)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	h.kill(syscall.SIGKILL)
	<-h.done
	next := openHouse(t, dir)
	if left := next.processes(); len(left) > 0 {
		t.Errorf("the processes %v are left, want none", left)
	}
	git.setHook(nil)
	next.wantNothingLeft()
}

// A user's daemon has no scheduler to clear up behind it: the next daemon in
// the work dir does.
func TestFaultUserDaemonKilledInAStalledClone(t *testing.T) {
	skipShort(t, "it takes about a second")
	t.Parallel()
	if _, err := os.Stat("/proc/self"); err != nil {
		t.Skip("without /proc nobody finds the git of a killed daemon")
	}
	git := newGitServer(t)
	repo := git.repo("lib.git", map[string]string{"a": "1"})
	h := openHouse(t, realTempDir(t))
	workDir := filepath.Join(h.dir, "user")
	first := startUserDaemon(t, h.url, "m", nil, "--work-dir", workDir)
	asked := make(chan struct{}, 10)
	git.setHook(hang("", asked))
	cloned := h.askLater(http.MethodPost, "/machines/m/rpc", cloneCall(git.address("lib.git")))
	<-asked
	git.setHook(nil)
	if err := first.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	first.exit()
	left := h.processes()
	if len(left) == 0 {
		t.Error("no git outlives its daemon, want one: else the test sees nothing")
	}
	second := startUserDaemon(t, h.url, "m", nil, "--work-dir", workDir)
	if body := wantAnswer(t, cloned); !strings.Contains(body, repo.head()) {
		t.Errorf("got %s, want the commit %s", body, repo.head())
	}
	awaitThat(t, "the git of the first daemon is gone", func() bool {
		return !slices.ContainsFunc(h.processes(), func(p string) bool { return slices.Contains(left, p) })
	})
	if err := second.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	second.exit()
	h.wantNothingLeft()
}

// cloneCall is a JSON-RPC call of vcs/clone.
func cloneCall(url string) string {
	return `{"jsonrpc":"2.0","id":1,"method":"vcs/clone","params":{"url":"` + url + `"}}`
}

// halfPack answers a fetch with half of its pack and then with nothing more.
func halfPack(git *gitServer, reached chan<- struct{}) gitHook {
	const whole = "X-Whole"
	return func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPost || r.Header.Get(whole) != "" {
			return false
		}
		inner := r.Clone(r.Context())
		inner.Header.Set(whole, "1")
		recorder := httptest.NewRecorder()
		git.Config.Handler.ServeHTTP(recorder, inner)
		data := recorder.Body.Bytes()
		at := strings.Index(string(data), "PACK")
		if at < 0 { // another command of the protocol
			w.Header().Set("Content-Type", recorder.Header().Get("Content-Type"))
			_, _ = w.Write(data)
			return true
		}
		w.Header().Set("Content-Type", recorder.Header().Get("Content-Type"))
		_, _ = w.Write(data[:at+(len(data)-at)/2])
		_ = http.NewResponseController(w).Flush()
		select {
		case reached <- struct{}{}:
		default:
		}
		<-r.Context().Done()
		return true
	}
}

// A daemon is killed in the middle of a fetch, and git's lock stays: the next
// fetch in the same directory succeeds.
func TestFaultKilledInAFetch(t *testing.T) {
	skipShort(t, "it takes seconds")
	t.Parallel()
	git := newGitServer(t)
	repo := git.repo("lib.git", map[string]string{"a": "1"})
	h := openHouse(t, realTempDir(t))
	wantAnswer(t, h.askLater(http.MethodPost, "/libraries/x/rpc", cloneCall(git.address("lib.git"))))
	path := filepath.Join(h.workspace, "x", reposDirName, "lib")
	before, err := os.Stat(path + "/a")
	if err != nil {
		t.Fatal(err)
	}
	repo.commit("big", map[string]string{"b": noise(1 << 20)})
	reached := make(chan struct{}, 10)
	git.setHook(halfPack(git, reached))
	cloned := h.askLater(http.MethodPost, "/libraries/x/rpc", cloneCall(git.address("lib.git")))
	<-reached
	awaitThat(t, "git has its lock", func() bool {
		locks, _ := filepath.Glob(filepath.Join(h.workspace, "x", reposDirName, tempPrefix+"*", ".git", "shallow.lock")) // the pattern is well-formed
		return len(locks) > 0
	})
	git.setHook(nil)
	if err := syscall.Kill(h.ensure("x"), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if body := wantAnswer(t, cloned); !strings.Contains(body, repo.head()) || !strings.Contains(body, string(actionUpdated)) {
		t.Errorf("got %s, want an update to %s", body, repo.head())
	}
	after, err := os.Stat(path + "/a")
	if err != nil || !os.SameFile(before, after) {
		t.Errorf("the clone was made anew (%v), want an update that keeps its files", err)
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
		t.Errorf("beside the clone: got %v, %v, want nothing", entries, err)
	}
	h.wantNothingLeft()
}
