//go:build linux || darwin

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestParsePIDRecord(t *testing.T) {
	good := pidRecord{pid: 4711, identity: identity{start: "99", boot: "b-1", group: 4711}}
	for _, test := range []struct {
		text string
		ok   bool
	}{
		{good.text(), true},
		{"4711\nstart=99 boot=b-1 pgid=4711 later=x\nmore\n", true},
		{"", false},
		{"4711\n", false}, // proves nothing
		{"4711\nstart=99 boot=b-1 pgid=1\n", false},
		{"4711\nstart= boot=b-1 pgid=4711\n", false},
		{"4711\nboot=b-1 pgid=4711\n", false},
		{"4711\nstart=99 pgid=4711\n", false},
		{"4711\nstart=99 boot=b-1 pgid=x\n", false},
		{"-1\nstart=99 boot=b-1 pgid=-1\n", false},
		{"0\nstart=99 boot=b-1 pgid=0\n", false},
		{"1\nstart=99 boot=b-1 pgid=1\n", false},
		{"99999999999999999999\nstart=99 boot=b-1 pgid=1\n", false},
		{"garbage\x00\xff", false},
	} {
		got, err := parsePIDRecord(test.text)
		if (err == nil) != test.ok || (test.ok && got != good) {
			t.Errorf("%q: got %+v, %v, want it accepted: %v", test.text, got, err, test.ok)
		}
	}
}

func FuzzParsePIDRecord(f *testing.F) {
	f.Add("4711\nstart=99 boot=b pgid=4711\n")
	f.Add("4711\nstart=99 boot=b pgid=4711 number=5\n")
	f.Add("-1\n\n")
	f.Add("1\nstart=1 boot=1 pgid=1")
	f.Fuzz(func(t *testing.T, text string) {
		r, err := parsePIDRecord(text)
		if err != nil {
			return
		}
		if r.pid <= 1 || r.group != r.pid || r.start == "" || r.boot == "" {
			t.Fatalf("got %+v, want a record without a process of its own group refused", r)
		}
		if again, err := parsePIDRecord(r.text()); err != nil || again != r {
			t.Fatalf("got %+v, %v, want %+v as it was written", again, err, r)
		}
	})
}

// startOrphan starts a session leader that the pool did not start, and records it
// as an earlier scheduler would have done. It is ready when it has printed that.
func startOrphan(t *testing.T, workspace, libID, script string) *process {
	t.Helper()
	dir := filepath.Join(workspace, libID)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd := exec.Command("/bin/sh", "-c", script)
	cmd.Stdout = in
	setSession(cmd)
	p, err := startProcess(cmd)
	_ = in.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.kill(); <-p.done })
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("got %v, want the orphan ready", err)
	}
	if err := writePIDFile(dir, p.pid()); err != nil {
		t.Fatal(err)
	}
	return p
}

func hasEnded(p *process) bool {
	select {
	case <-p.done:
		return true
	case <-time.After(eventually):
		return false
	}
}

func TestOrphansOfAKilledSchedulerAreEnded(t *testing.T) {
	skipShort(t, "waits 2 s for processes that ignore SIGTERM")
	t.Parallel()
	workspace := t.TempDir()
	polite := startOrphan(t, workspace, "polite", "echo; exec sleep 1000")
	var stubborn []*process
	for i := range 5 {
		stubborn = append(stubborn, startOrphan(t, workspace, fmt.Sprint("stubborn", i), "trap '' TERM; echo; while :; do sleep 1000; done"))
	}
	begin := time.Now()
	p := testPoolIn(t, workspace)
	if took := time.Since(begin); took > 3*orphanGrace {
		t.Errorf("the ends took %v, want them side by side within %v", took, 3*orphanGrace)
	}
	for _, orphan := range append(stubborn, polite) {
		if !hasEnded(orphan) {
			t.Fatalf("process %d lives, want it ended", orphan.pid())
		}
	}
	if _, err := p.root.Lstat(filepath.Join("polite", pidFileName)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the record: got %v, want it removed", err)
	}
}

// The record names a live process that is not the one recorded: its pid was
// reused.
func TestOrphanPIDReusedByAStranger(t *testing.T) {
	for name, change := range map[string]func(*pidRecord){
		"started at another time":  func(r *pidRecord) { r.start = "1" },
		"recorded in another boot": func(r *pidRecord) { r.boot = "0-0" },
	} {
		t.Run(name, func(t *testing.T) {
			workspace := t.TempDir()
			stranger := startOrphan(t, workspace, "x", "echo; exec sleep 1000")
			path := filepath.Join(workspace, "x", pidFileName)
			id, err := identify(stranger.pid())
			if err != nil {
				t.Fatal(err)
			}
			r := pidRecord{stranger.pid(), id}
			change(&r)
			if err := os.WriteFile(path, []byte(r.text()), 0o600); err != nil {
				t.Fatal(err)
			}
			testPoolIn(t, workspace)
			if !alive(t, stranger.pid()) {
				t.Error("a stranger was killed, want it untouched")
			}
			if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the record: got %v, want it removed", err)
			}
		})
	}
}

func TestOrphanRecordsThatAreNotOurs(t *testing.T) {
	t.Parallel()
	workspace, elsewhere := t.TempDir(), t.TempDir()
	// A directory that no lib_id can name, and a link to a record.
	foreign := []*process{
		startOrphan(t, workspace, "-x", "echo; exec sleep 1000"),
		startOrphan(t, workspace, "a b", "echo; exec sleep 1000"),
		startOrphan(t, elsewhere, "y", "echo; exec sleep 1000"),
	}
	if err := os.MkdirAll(filepath.Join(workspace, "linked"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(elsewhere, "y", pidFileName), filepath.Join(workspace, "linked", "record")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("record", filepath.Join(workspace, "linked", pidFileName)); err != nil {
		t.Fatal(err)
	}
	testPoolIn(t, workspace)
	for _, p := range foreign {
		if !alive(t, p.pid()) {
			t.Errorf("process %d was ended, want it left alone", p.pid())
		}
	}
}

func TestOrphanRecordIsGarbage(t *testing.T) {
	for name, text := range map[string]string{
		"empty": "", "text": "hello", "every process": "-1\nstart=1 boot=1 pgid=-1\n", "own group": "0\n", "huge": strings.Repeat("9", 1<<20),
	} {
		t.Run(name, func(t *testing.T) {
			workspace := t.TempDir()
			if err := os.MkdirAll(filepath.Join(workspace, "x"), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(workspace, "x", pidFileName), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			testPoolIn(t, workspace)
		})
	}
}

func TestOrphanThatIsAZombie(t *testing.T) {
	cmd := exec.Command("sleep", "1000")
	setSession(cmd)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	id, err := identify(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	awaitExit(cmd.Process.Pid)
	if fate, err := endOrphan(pidRecord{cmd.Process.Pid, id}); fate != orphanGone || err != nil {
		t.Errorf("got the fate %q, %v, want %q", fate, err, orphanGone)
	}
}

func TestTwoSchedulersOneWorkspace(t *testing.T) {
	t.Parallel()
	workspace := t.TempDir()
	first := testPoolIn(t, workspace)
	_, err := newPool(poolConfig{workspace: workspace, log: testLog(t)})
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("pid %d ", os.Getpid())) {
		t.Errorf("the second scheduler: got %v, want an error that names the first", err)
	}
	if first.stopping() {
		t.Error("the first scheduler stops, want it undisturbed")
	}
}

func TestWorkspaceLockThatWasDeleted(t *testing.T) {
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for range 2 {
		lock, err := lockWorkspace(root)
		if err != nil {
			t.Fatal(err)
		}
		defer lock.Close()
		text, err := io.ReadAll(io.NewSectionReader(lock, 0, 100))
		if want := fmt.Sprintln(os.Getpid()); err != nil || string(text) != want {
			t.Errorf("the lock holds %q, %v, want %q", text, err, want)
		}
		if err := root.Remove(lockFileName); err != nil {
			t.Fatal(err)
		}
	}
}

func testPoolIn(t *testing.T, workspace string) *pool {
	return testPool(t, scriptGood, func(c *poolConfig) { c.workspace = workspace })
}

// TestPoolSchedulerHelper is no test: it is a scheduler that runs until it is
// killed.
func TestPoolSchedulerHelper(t *testing.T) {
	workspace := os.Getenv("POOL_TEST_WORKSPACE")
	if workspace == "" {
		t.Skip("only as a child of another test")
	}
	p, err := newPool(poolConfig{workspace: workspace, daemonBin: os.Getenv("POOL_TEST_BIN"), server: "ws://x", maxDaemons: 5,
		spawnTimeout: eventually, stopTimeout: time.Second, environ: os.Environ(), log: testLog(t)})
	if err != nil {
		t.Fatal(err)
	}
	for i := range p.maxDaemons {
		mustEnsure(t, p, fmt.Sprint("lib", i))
	}
	fmt.Println("scheduler is ready")
	_, _ = io.Copy(io.Discard, os.Stdin) // until the test ends
}

// killScheduler runs a scheduler with five children of the script, kills it
// without warning and returns the pids of the children.
func killScheduler(t *testing.T, workspace, script string) []int {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run=^TestPoolSchedulerHelper$")
	cmd.Env = append(os.Environ(), "POOL_TEST_WORKSPACE="+workspace, "POOL_TEST_BIN="+writeScript(t, script))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() && lines.Text() != "scheduler is ready" {
	}
	root, err := os.OpenRoot(workspace)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	var pids []int
	for i := range 5 {
		record, err := readPIDFile(root, fmt.Sprint("lib", i))
		if err != nil {
			t.Errorf("child %d: got %v, want its record", i, err)
			continue
		}
		pids = append(pids, record.pid)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // "signal: killed"
	return pids
}

func TestSchedulerKilledAndItsDaemonsEndWithIt(t *testing.T) {
	for _, pid := range killScheduler(t, t.TempDir(), scriptGood) {
		awaitThat(t, "the daemon ends with its standard input", func() bool { return !alive(t, pid) })
	}
}

func TestSchedulerKilledAndItsDaemonsDoNotCare(t *testing.T) {
	skipShort(t, "waits 2 s for processes that ignore SIGTERM")
	t.Parallel()
	workspace := t.TempDir()
	pids := killScheduler(t, workspace, scriptSleeper(t)+scriptStubborn)
	for _, pid := range pids {
		if !alive(t, pid) {
			t.Errorf("process %d is gone, want it to outlive its scheduler: else the test sees nothing", pid)
		}
	}
	var sleepers []int
	for i := range pids {
		sleepers = append(sleepers, sleeperOf(t, filepath.Join(workspace, fmt.Sprint("lib", i))))
	}
	// A stranger with a pid that a record names must survive the clean-up.
	stranger := startOrphan(t, workspace, "reused", "echo; exec sleep 1000")
	old := pidRecord{stranger.pid(), identity{start: "1", boot: "0-0", group: stranger.pid()}}
	if err := os.WriteFile(filepath.Join(workspace, "reused", pidFileName), []byte(old.text()), 0o600); err != nil {
		t.Fatal(err)
	}
	testPoolIn(t, workspace)
	for _, pid := range pids {
		if alive(t, pid) {
			t.Errorf("process %d lives, want it ended", pid)
		}
	}
	for _, pid := range sleepers {
		awaitThat(t, "what a daemon had started ends with it", func() bool { return !alive(t, pid) })
	}
	if !alive(t, stranger.pid()) {
		t.Error("a stranger was killed, want it untouched")
	}
}
