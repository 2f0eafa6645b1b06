//go:build linux || darwin

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Scripts that stand for a daemon. Each begins with the token from its input.
const (
	scriptGood = `read -r token
echo '{"event":"ready","pid":'$$',"instance_id":"i"}'
while read -r op; do
  ask=${op##*'"ask":'}
  ask=${ask%%[!0-9]*}
  case "$op" in
  *quiesce*) echo '{"event":"status","active":0,"idle_ms":999999999,"quiesced":true,"ask":'${ask:-0}'}' ;;
  *) echo '{"event":"status","active":0,"idle_ms":0,"quiesced":false,"ask":'${ask:-0}'}' ;;
  esac
done`
	scriptBusy = `read -r token
echo '{"event":"ready","pid":'$$',"instance_id":"i"}'
echo '{"event":"status","active":1,"idle_ms":0,"quiesced":false}'
while read -r op; do
  ask=${op##*'"ask":'}
  ask=${ask%%[!0-9]*}
  echo '{"event":"status","active":1,"idle_ms":0,"quiesced":false,"ask":'${ask:-0}'}'
done`
	scriptStubborn = `trap '' TERM HUP
read -r token
echo '{"event":"ready","pid":'$$',"instance_id":"i"}'
while :; do sleep 1000; done`
)

func testLog(t testing.TB) *slog.Logger { return slog.New(slog.NewTextHandler(t.Output(), nil)) }

func writeScript(t *testing.T, body string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "daemon")
	writeProgram(t, path, body+"\n")
	return path
}

// testPool is a pool of real processes that run the script; change may alter
// its configuration.
func testPool(t *testing.T, script string, change func(*poolConfig)) *pool {
	t.Helper()
	cfg := poolConfig{
		workspace: t.TempDir(), daemonBin: writeScript(t, script), server: "ws://127.0.0.1:1/ws/daemon", maxDaemons: 3,
		idleTimeout: time.Hour, spawnTimeout: eventually, stopTimeout: 500 * time.Millisecond,
		token: func(string) secret { return "t0ken" }, environ: os.Environ(), log: testLog(t),
	}
	if change != nil {
		change(&cfg)
	}
	p, err := newPool(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return p
}

func mustEnsure(t *testing.T, p *pool, libID string) poolEntry {
	t.Helper()
	d, err := p.ensure(t.Context(), libID)
	if err != nil {
		t.Fatalf("ensure %s: got %v, want a ready daemon", libID, err)
	}
	return d.view
}

// alive reports whether pid runs; a zombie does not.
func alive(t *testing.T, pid int) bool {
	t.Helper()
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	out, err := exec.Command("ps", "-o", "stat=", "-p", fmt.Sprint(pid)).Output()
	return err == nil && !strings.HasPrefix(strings.TrimSpace(string(out)), "Z")
}

func poolCode(err error) errorCode {
	if e, ok := errors.AsType[*apiError](err); ok {
		return e.code
	}
	return ""
}

func TestPoolStartsStopsAndDeletes(t *testing.T) {
	t.Setenv("C4A_TOKEN", "of the scheduler")
	p := testPool(t, `read -r token; echo "token=$token argv=$0 $*"; env >env; echo "$token" >token
`+strings.TrimPrefix(scriptGood, "read -r token"), func(c *poolConfig) {
		c.childArgs = []string{"--log-level", "debug"}
		c.environ = append(os.Environ(), "c4a_other=1", "NOTIFY_SOCKET=/run/x")
	})
	view := mustEnsure(t, p, "lib_1")
	dir := filepath.Join(p.workspace, "lib_1")
	if view.Status != statusReady || view.PID == 0 || view.MachineID != "cloud_lib_1" || view.WorkDir != dir {
		t.Errorf("got %+v, want a ready cloud_lib_1 with a pid in %s", view, dir)
	}
	info, err := os.Stat(dir)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the work dir: got %v, %v, want the mode 0700", info, err)
	}
	record, err := readPIDFile(p.root, "lib_1")
	if err != nil || record.pid != view.PID || record.group != view.PID {
		t.Errorf("daemon.pid: %+v, %v, want pid %d", record, err, view.PID)
	}
	if text, err := os.ReadFile(filepath.Join(dir, "token")); err != nil || string(text) != "t0ken\n" {
		t.Errorf("the child's token: got %q, %v, want t0ken", text, err)
	}
	env, err := os.ReadFile(filepath.Join(dir, "env"))
	ours := strings.NewReplacer(controlVariable+"="+controlStdio, "", formatDenied([]string{p.workspace}), "")
	if err != nil || strings.Contains(strings.ToUpper(ours.Replace(string(env))), "C4A_") || strings.Contains(string(env), "NOTIFY_SOCKET") {
		t.Errorf("got the environment %s, %v, want none of our variables or systemd's", env, err)
	}
	if again, err := p.ensure(t.Context(), "lib_1"); err != nil || again.started || again.view.PID != view.PID {
		t.Errorf("asked again: got pid %d, started %v, %v, want pid %d, not started", again.view.PID, again.started, err, view.PID)
	}
	if err := p.stopAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if alive(t, view.PID) {
		t.Error("the child lives after stopAll, want it ended")
	}
	if _, err := os.Stat(filepath.Join(dir, pidFileName)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("daemon.pid after the end: got %v, want it removed", err)
	}
	if _, found := p.get("lib_1"); found {
		t.Error("got an entry after stopAll, want none")
	}
	next := mustEnsure(t, p, "lib_1")
	if err := p.remove(t.Context(), "lib_1"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) || alive(t, next.PID) {
		t.Errorf("after DELETE: got %v and the child alive %v, want no directory and no child", err, alive(t, next.PID))
	}
	if err := p.remove(t.Context(), "lib_1"); poolCode(err) != codeNotFound {
		t.Errorf("DELETE of nothing: got %v, want %s", err, codeNotFound)
	}
}

func TestPoolKillsAChildThatIgnoresSIGTERM(t *testing.T) {
	skipShort(t, "it takes about a second")
	t.Parallel()
	p := testPool(t, scriptStubborn, nil)
	view := mustEnsure(t, p, "x")
	begin := time.Now()
	if err := p.remove(t.Context(), "x"); err != nil {
		t.Fatal(err)
	}
	if alive(t, view.PID) || time.Since(begin) < p.stopTimeout {
		t.Errorf("got the child alive %v after %v, want it killed after %v", alive(t, view.PID), time.Since(begin), p.stopTimeout)
	}
}

func TestPoolEndsAStoppedChild(t *testing.T) {
	// With the default action SIGTERM would end even a stopped process.
	p := testPool(t, "trap 'exit 0' TERM\n"+scriptGood, func(c *poolConfig) { c.stopTimeout = eventually })
	view := mustEnsure(t, p, "x")
	if err := syscall.Kill(view.PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if err := p.stopAll(t.Context()); err != nil || time.Since(begin) > eventually/2 {
		t.Errorf("a stopped child: got %v after %v, want it ended by SIGTERM and SIGCONT", err, time.Since(begin))
	}
}

func TestPoolCrashBeforeReadyShowsTheLastLogLines(t *testing.T) {
	p := testPool(t, `read -r token; echo "boom, and my token is $token" >&2; exit 4`, nil)
	_, err := p.ensure(t.Context(), "x")
	if poolCode(err) != codeAutoStartFailed || !strings.Contains(err.Error(), "boom") || !strings.Contains(err.Error(), "refused") {
		t.Errorf("got %v, want %s with the last log line and the exit status", err, codeAutoStartFailed)
	}
	if strings.Contains(err.Error(), "t0ken") {
		t.Errorf("got the token in %q, want it redacted", err)
	}
	view, found := p.get("x")
	if !found || view.Status != statusExited || !strings.Contains(view.LastError, "boom") || view.PID != 0 {
		t.Errorf("got %+v, %v, want an exited entry with the last log line", view, found)
	}
	if n := p.counts(); n.Running != 0 {
		t.Errorf("got %d running, want 0", n.Running)
	}
}

func TestPoolChildThatIsNeverReady(t *testing.T) {
	skipShort(t, "it takes about a second")
	t.Parallel()
	p := testPool(t, `trap '' TERM; while :; do sleep 1000; done`, func(c *poolConfig) { c.spawnTimeout = 300 * time.Millisecond })
	_, err := p.ensure(t.Context(), "x")
	if e, ok := errors.AsType[*apiError](err); !ok || e.code != codeSpawnTimeout || e.status != http.StatusGatewayTimeout {
		t.Errorf("got %v, want %s and 504", err, codeSpawnTimeout)
	}
	awaitThat(t, "the child is reaped", func() bool { return p.counts().Running == 0 })
}

func TestPoolProgramMissing(t *testing.T) {
	p := testPool(t, "", func(c *poolConfig) { c.daemonBin = "/nonexistent/daemon" })
	_, err := p.ensure(t.Context(), "x")
	if poolCode(err) != codeAutoStartFailed || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("got %v, want %s with the reason", err, codeAutoStartFailed)
	}
	if n := p.counts(); n.Running != 0 {
		t.Errorf("got %d running, want 0", n.Running)
	}
}

func TestPoolRubbishOnStandardOutput(t *testing.T) {
	p := testPool(t, "echo hello; head -c 200000 /dev/zero | tr '\\0' x; echo; echo '{}'\n"+scriptGood, nil)
	if view := mustEnsure(t, p, "x"); view.Status != statusReady {
		t.Errorf("got %+v, want a ready entry", view)
	}
}

func TestPoolCrashWhileReadyStartsAnew(t *testing.T) {
	p := testPool(t, scriptGood, nil)
	first := mustEnsure(t, p, "x")
	if err := syscall.Kill(first.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	awaitThat(t, "the crash is seen", func() bool { view, _ := p.get("x"); return view.Status == statusExited })
	view, _ := p.get("x")
	if !strings.Contains(view.LastError, "killed") {
		t.Errorf("got the last_error %q, want the signal in it", view.LastError)
	}
	second := mustEnsure(t, p, "x")
	if second.PID == first.PID || second.Restarts != 1 {
		t.Errorf("got %+v, want another pid and 1 restart", second)
	}
}

// TestPoolSleeperHelper is no test: it becomes a program in a group of its own.
func TestPoolSleeperHelper(t *testing.T) {
	if os.Getenv("POOL_TEST_SLEEPER") == "" {
		t.Skip("only as a child of another test")
	}
	path, err := exec.LookPath("sleep")
	if err == nil {
		err = syscall.Setpgid(0, 0)
	}
	if err == nil {
		err = syscall.Exec(path, []string{"sleep", "1000"}, nil)
	}
	t.Fatal(err)
}

// What a killed scheduler was about to delete is deleted by the next one.
func TestPoolEmptiesTheTrash(t *testing.T) {
	workspace := realTempDir(t)
	writeFiles(t, workspace, map[string]string{trashPrefix + "x/repos/lib/f": "1", "y/repos/lib/f": "1"})
	testPoolIn(t, workspace)
	awaitThat(t, "the trash is deleted", func() bool {
		_, err := os.Stat(filepath.Join(workspace, trashPrefix+"x"))
		return errors.Is(err, os.ErrNotExist)
	})
	if _, err := os.Stat(filepath.Join(workspace, "y", "repos", "lib", "f")); err != nil {
		t.Errorf("a work dir beside the trash: got %v, want it kept", err)
	}
}

// scriptSleeper begins a script that starts a process with a group of its own, as
// a daemon does for its git.
func scriptSleeper(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return "POOL_TEST_SLEEPER=1 '" + self + "' -test.run='^TestPoolSleeperHelper$' >&2 & echo $! >sleeper\n"
}

// sleeperOf is the pid of the one that was started in workDir; it must run.
func sleeperOf(t *testing.T, workDir string) int {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(workDir, "sleeper"))
	if err != nil {
		t.Fatal(err)
	}
	var sleeper int
	if _, err := fmt.Sscan(string(text), &sleeper); err != nil {
		t.Fatal(err)
	}
	// While a program of several threads becomes another (execve(2)) its first one
	// may be a zombie for a moment.
	awaitThat(t, "the sleeper runs", func() bool { return alive(t, sleeper) })
	return sleeper
}

// A daemon's git runs in groups of its own; it must not outlive the daemon.
func TestPoolCrashTakesTheSessionAlong(t *testing.T) {
	p := testPool(t, scriptSleeper(t)+scriptGood, nil)
	view := mustEnsure(t, p, "x")
	sleeper := sleeperOf(t, view.WorkDir)
	awaitThat(t, "the sleeper leads a group of its own", func() bool { group, err := syscall.Getpgid(sleeper); return err == nil && group == sleeper })
	if err := syscall.Kill(view.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	awaitThat(t, "the crash is seen", func() bool { view, _ := p.get("x"); return view.Status == statusExited })
	if alive(t, sleeper) {
		t.Error("what the daemon had started lives, want it ended with the daemon")
	}
}

func TestPoolEvictsTheIdleForTheNext(t *testing.T) {
	p := testPool(t, scriptGood, func(c *poolConfig) { c.maxDaemons = 1 })
	first := mustEnsure(t, p, "a")
	second := mustEnsure(t, p, "b")
	if alive(t, first.PID) || second.Status != statusReady {
		t.Errorf("got the first alive %v and the second %+v, want the second in its slot", alive(t, first.PID), second)
	}
	if _, err := os.Stat(first.WorkDir); err != nil {
		t.Errorf("the directory of an evicted daemon: got %v, want it kept", err)
	}
}

func TestPoolFullOfBusyDaemons(t *testing.T) {
	t.Parallel()
	p := testPool(t, scriptBusy, func(c *poolConfig) { c.maxDaemons = 1 })
	first := mustEnsure(t, p, "a")
	_, err := p.ensure(t.Context(), "b")
	e, ok := errors.AsType[*apiError](err)
	if !ok || e.code != codeCapacity || e.retryAfter < capacityRetryMin || e.retryAfter > capacityRetryMin+capacityRetrySpread {
		t.Errorf("got %+v, want %s with a Retry-After of %v to %v", err, codeCapacity, capacityRetryMin, capacityRetryMin+capacityRetrySpread)
	}
	if !alive(t, first.PID) {
		t.Error("a busy daemon was killed, want it kept")
	}
}

func TestPoolLogIsBounded(t *testing.T) {
	p := testPool(t, `i=0; line=$(head -c 1000 /dev/zero | tr '\0' x); while [ $i -lt 3000 ]; do echo "$i $line" >&2; i=$((i+1)); done
`+scriptGood, nil)
	view := mustEnsure(t, p, "x")
	path := filepath.Join(view.WorkDir, logFileName)
	awaitThat(t, "the log is cut to its newest part", func() bool {
		text, err := os.ReadFile(path)
		// Not the very last: what is written just while it is cut stands before what is
		// kept, or is lost.
		return err == nil && len(text) <= maxChildLog && len(text) > maxChildLog/4 && !strings.HasPrefix(string(text), "0 ")
	})
}

func TestPoolWorkDirThatIsALink(t *testing.T) {
	p := testPool(t, scriptGood, nil)
	outside := t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "precious"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(p.workspace, "x")); err != nil {
		t.Fatal(err)
	}
	if _, err := p.ensure(t.Context(), "x"); poolCode(err) != codeAutoStartFailed || !strings.Contains(err.Error(), "not a directory") {
		t.Errorf("ensure: got %v, want %s: not a directory", err, codeAutoStartFailed)
	}
	if err := p.remove(t.Context(), "x"); err != nil {
		t.Errorf("remove: got %v, want no error", err)
	}
	if _, err := os.Stat(filepath.Join(outside, "precious")); err != nil {
		t.Errorf("the target of the symlink: got %v, want it untouched by DELETE", err)
	}
	if _, err := os.Lstat(filepath.Join(p.workspace, "x")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the symlink: got %v, want it removed", err)
	}
}

func TestPoolPIDFileThatCannotBeWritten(t *testing.T) {
	p := testPool(t, scriptGood, nil)
	if err := os.MkdirAll(filepath.Join(p.workspace, "x", pidFileName, "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := p.ensure(t.Context(), "x")
	if poolCode(err) != codeAutoStartFailed || !strings.Contains(err.Error(), pidFileName) {
		t.Errorf("got %v, want %s that names %s", err, codeAutoStartFailed, pidFileName)
	}
	if n := p.counts(); n.Running != 0 {
		t.Errorf("got %d running, want 0", n.Running)
	}
}

func TestPoolShutdownKillsAtOnceOnASecondSignal(t *testing.T) {
	p := testPool(t, scriptStubborn, func(c *poolConfig) { c.stopTimeout = time.Hour })
	view := mustEnsure(t, p, "x")
	p.killNow()
	begin := time.Now()
	if err := p.stopAll(t.Context()); err != nil || alive(t, view.PID) || time.Since(begin) > eventually {
		t.Errorf("got %v, alive %v after %v, want it killed at once", err, alive(t, view.PID), time.Since(begin))
	}
}
