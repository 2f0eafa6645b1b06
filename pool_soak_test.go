//go:build linux

package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// soakTime is how long TestSoakKills goes on; -soak 1h is for a night.
const soakTime = 6 * time.Second

// TestSoakKills kills daemons and the scheduler at random moments of real
// clones, over and over. After every round the next clone of each library
// works, git finds nothing wrong with it, no process and nothing temporary is
// left, and the disk does not fill.
func TestSoakKills(t *testing.T) {
	skipShort(t, "kills processes for some 7 s")
	t.Parallel()
	limit := soakTime
	if given := flag.Lookup("soak").Value.(flag.Getter).Get().(time.Duration); given > 0 {
		limit = given
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	s := &soak{t: t, rnd: rand.New(rand.NewPCG(seed, 0)), git: newGitServer(t), dir: realTempDir(t), libs: []string{"a", "b", "c"}}
	files := map[string]string{}
	for n := range 200 {
		files[fmt.Sprintf("d%d/f%d", n%7, n)] = noise(2000)
	}
	s.remote = s.git.repo("lib.git", files)
	symlinks(t, map[string]string{filepath.Join(s.git.root, "moved"): "."})
	s.url, s.other = s.git.address("lib.git"), s.git.address("moved/lib.git")
	s.house = openHouse(t, s.dir)
	s.clones() // how long they take undisturbed, and how much room
	first := s.size()
	var kills []func()
	for begun := time.Now(); time.Since(begun) < limit && !t.Failed(); {
		if len(kills) == 0 {
			// Each daemon once, then the scheduler, then all: a daemon that dies again
			// within a minute is started after a delay, which is another test's matter.
			for _, n := range s.rnd.Perm(len(s.libs)) {
				kills = append(kills, func() { s.killDaemon(s.libs[n]) })
			}
			kills = append(kills, s.killScheduler, s.killAll)
		}
		s.round(kills[0])
		kills = kills[1:]
		// Each round adds a commit of a small file to each library. What was replaced
		// stays for a second, and what killed daemons left goes beside their start.
		most := 2*first + int64(s.serial*len(s.libs))*(64<<10)
		size := s.size()
		for deadline := time.Now().Add(patience); size > most && time.Now().Before(deadline); size = s.size() {
			time.Sleep(50 * time.Millisecond) // a directory on a disk reports no change
		}
		if size > most {
			t.Errorf("the workspace: got %d bytes after round %d, want at most %d (at first it took %d)", size, s.serial, most, first)
		}
	}
	t.Logf("%d kills", s.serial)
	s.house.wantNothingLeft()
}

type soak struct {
	t      *testing.T
	rnd    *rand.Rand
	git    *gitServer
	remote *testRepo
	dir    string
	libs   []string
	house  *house
	url    string        // what is cloned: one address of remote
	other  string        // the other one
	took   time.Duration // by the last undisturbed clones
	serial int
}

// round lets kill do its work at a random moment of clones, then looks at what
// is left.
func (s *soak) round(kill func()) {
	s.serial++
	s.remote.commit(fmt.Sprint("round ", s.serial), map[string]string{"changing": noise(5000)})
	if s.rnd.IntN(3) == 0 { // this one from nothing
		status, body := s.house.ask(http.MethodDelete, "/daemons/"+s.libs[s.rnd.IntN(len(s.libs))], "")
		if status != http.StatusNoContent && status != http.StatusNotFound {
			s.t.Errorf("DELETE: got %d %s, want 204 or 404", status, body)
		}
	}
	if s.rnd.IntN(3) == 0 { // each cloned afresh, in the place of what is there
		s.url, s.other = s.other, s.url
	}
	if s.rnd.IntN(2) == 0 { // what is left of a killed daemon does not end by itself
		silent := hang("git-upload-pack", nil)
		s.git.setHook(func(w http.ResponseWriter, r *http.Request) bool { return rand.IntN(4) == 0 && silent(w, r) })
	}
	ctx, giveUp := context.WithCancel(s.t.Context())
	var askers sync.WaitGroup
	// Not the clone that is asked for afterwards, which would join this one.
	inVain := `{"jsonrpc":"2.0","id":1,"method":"vcs/clone","params":{"depth":2,"url":"` + s.url + `"}}`
	for _, lib := range s.libs {
		askers.Go(func() { s.house.askInVain(ctx, "/libraries/"+lib+"/rpc", inVain) })
	}
	time.Sleep(rand.N(s.took + s.took/4 + 1)) // the moment is what the test is about
	kill()
	giveUp()
	askers.Wait()
	s.git.setHook(nil)
	s.clones()
}

func (s *soak) killDaemon(lib string) {
	status, body := s.house.ask(http.MethodGet, "/daemons/"+lib, "")
	if status != http.StatusOK {
		return // not there yet
	}
	var entry poolEntry
	if err := json.Unmarshal([]byte(body), &entry); err != nil {
		s.t.Errorf("got %s, %v, want an entry", body, err)
	}
	if entry.PID > 0 { // else it has no process yet
		_ = syscall.Kill(entry.PID, syscall.SIGKILL) // it may just have ended
	}
	s.wantWhole(lib)
}

// killScheduler kills it, and starts the next one in the same workspace.
func (s *soak) killScheduler() {
	s.house.kill(syscall.SIGKILL)
	<-s.house.done
	s.house = openHouse(s.t, s.dir)
}

// killAll kills the daemons beside their scheduler, as a lack of memory may: none
// of them can end its git any more.
func (s *soak) killAll() {
	s.house.kill(syscall.SIGSTOP)
	for _, lib := range s.libs {
		if record, err := os.ReadFile(filepath.Join(s.house.workspace, lib, pidFileName)); err == nil {
			if r, err := parsePIDRecord(string(record)); err == nil {
				_ = syscall.Kill(r.pid, syscall.SIGKILL) // it may just have ended
			}
		}
	}
	s.killScheduler()
}

// clones brings every library up to date, as it must always be possible.
func (s *soak) clones() {
	begun := time.Now()
	var clones sync.WaitGroup
	for _, lib := range s.libs {
		clones.Go(func() {
			status, body := s.house.ask(http.MethodPost, "/libraries/"+lib+"/rpc", cloneCall(s.url))
			if status != http.StatusOK || !strings.Contains(body, `"commit":"`+s.remote.head()+`"`) {
				s.t.Errorf("the clone of %s after round %d: got %d %s, want the commit %s", lib, s.serial, status, body, s.remote.head())
			}
		})
	}
	clones.Wait()
	s.took = time.Since(begun)
	for _, lib := range s.libs {
		repo := &testRepo{t: s.t, dir: filepath.Join(s.house.workspace, lib, reposDirName, "lib")}
		if _, err := repo.tryGit("", "fsck", "--full", "--no-dangling"); err != nil {
			s.t.Errorf("round %d: git fsck: got %v, want no error", s.serial, err)
		}
		if status := repo.git("status", "--porcelain"); status != "" {
			s.t.Errorf("round %d: the files of %s: got the changes %s, want none", s.serial, lib, status)
		}
	}
	awaitThat(s.t, "only the daemons run", func() bool { return len(s.house.processes()) == len(s.libs) })
	s.wantNothingTemporary()
}

// wantWhole wants a repository that is in its place to have a commit, whatever
// was going on in it.
func (s *soak) wantWhole(lib string) {
	repo := &testRepo{t: s.t, dir: filepath.Join(s.house.workspace, lib, reposDirName, "lib")}
	var err error
	for range 2 { // a swap may just be between its two renames
		if _, statErr := os.Stat(repo.dir); statErr != nil {
			return
		}
		if _, err = repo.tryGit("", "rev-parse", "--verify", "HEAD^{commit}"); err == nil {
			return
		}
	}
	s.t.Errorf("round %d: %s: got %v, want no error", s.serial, lib, err)
}

// wantNothingTemporary looks for what a killed git, clone or deletion leaves.
func (s *soak) wantNothingTemporary() {
	err := filepath.WalkDir(s.house.workspace, func(path string, d fs.DirEntry, err error) error {
		name := d.Name()
		inGit := strings.Contains(path, "/.git/")
		switch {
		case err != nil:
			return err
		case strings.HasPrefix(name, tempPrefix), strings.HasPrefix(name, oldPrefix), strings.HasPrefix(name, trashPrefix),
			inGit && (strings.HasSuffix(name, ".lock") || strings.HasPrefix(name, "tmp_")):
			s.t.Errorf("round %d left %s, want it removed", s.serial, path)
		}
		return nil
	})
	if err != nil && !os.IsNotExist(err) {
		s.t.Error(err)
	}
}

func (s *soak) size() int64 {
	size, err := sizeOf(s.t.Context(), s.house.workspace)
	if err != nil {
		s.t.Fatal(err)
	}
	return size
}
