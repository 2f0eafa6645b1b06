//go:build linux || darwin

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
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

// Every fault that processes, git and disks can have, by the number of its row
// in the fault matrix, and the tests that make it happen. Names that begin with
// TestFault are real processes from the HTTP request to git, and end with
// wantNothingLeft.
//
//	 1 agent crash while ready            TestPoolCrashWhileReadyStartsAnew, TestPoolCrashTakesTheSessionAlong, TestDaemonDiesInACall
//	 2 crash before ready                 TestPoolCrashBeforeReadyTellsTheLastLogLines, TestFaultDaemonPrograms, TestFaultKilledWhileStarting
//	 3 crash loop                         TestPoolCrashLoop, TestPoolBackoffLongerThanTheSpawnTimeout, TestFaultCrashLoop
//	 4 never ready                        TestPoolChildThatIsNeverReady, TestFaultDaemonPrograms
//	 5 program missing, not executable    TestPoolProgramMissing, TestFaultDaemonProgramThatCannotRun
//	 6 ignores SIGTERM on stop            TestPoolKillsAChildThatIgnoresSIGTERM, TestFaultDaemonPrograms
//	 7 stopped by SIGSTOP, then DELETE    TestPoolEndsAStoppedChild, TestFaultStoppedDaemonIsDeleted, TestPoolHungDaemon
//	 8 scheduler kill -9, five agents     TestFaultSchedulerKilled, TestSchedulerKilledAndItsDaemonsEndWithIt, TestSchedulerIsKilled
//	 9 the same, they ignore the EOF      TestFaultSchedulerKilled, TestOrphansOfAKilledSchedulerAreEnded
//	10 the same, and SIGTERM              TestFaultSchedulerKilled, TestSchedulerKilledAndItsDaemonsDoNotCare
//	11 daemon.pid names a stranger        TestOrphanPIDReusedByAStranger, TestOrphanRecordIsGarbage
//	12 reused pid, same start tick        TestFaultPIDReusedInTheSameTick
//	13 zombie agent                       TestOrphanThatIsAZombie
//	14 two schedulers, one workspace      TestTwoSchedulersOneWorkspace, TestSchedulerIsKilled
//	15 two agents, one work dir           TestTwoDaemonsInOneWorkDir
//	16 scheduler kill -9 after the fork   TestFaultSchedulerKilledRightAfterTheFork
//	17 SIGTERM with 20 agents, 5 ignoring TestFaultSchedulerStopsTwenty, TestPoolShutdownStopsSideBySide
//	18 second SIGTERM                     TestFaultSecondSignal, TestPoolShutdownKillsAtOnceOnASecondSignal
//	19 DELETE during spawn                TestPoolDeleteDuringSpawn, TestFaultDeleteDuringSpawn
//	20 ensure during stopping             TestPoolEnsureDuringStop, TestPoolEnsureDuringAStopThatLasts, TestFaultEnsureDuringStop
//	21 100 ensures of one id              TestPoolHundredEnsuresStartOne, TestFaultHundredEnsures
//	22 full of busy ones                  TestPoolFullAllBusy, TestPoolFullOfBusyDaemons, TestFaultFullOfClones, TestFaultOnePlaceForTwo
//	23 request while eviction asks        TestPoolStress, TestPoolEnsureWhileTheDaemonIsAsked, TestPoolStaleStatusIsNoAnswer, TestCallToDrainingDaemon, TestCallToDaemonThatResumes
//	24 idle sweep during a long clone     TestPoolIdleSweepSparesTheBusy
//	25 kill -9 in a stalled clone         TestFaultKilledInAStalledClone, TestFaultUserDaemonKilledInAStalledClone, TestFaultBothKilledInAStalledClone
//	26 kill -9 in a fetch, shallow.lock   TestFaultKilledInAFetch, TestCloneStaleLocks
//	27 cancel or SIGTERM in a clone       TestCloneCancelled, TestCloneDaemonStops, TestClientGoesAway, TestSignals
//	28 silent server                      TestCloneRemoteHangs, TestCloneSSHHangs
//	29 disk full in a clone               TestFaultDiskFullInAClone
//	30 disk full on the small files       TestFaultDiskFullOnSmallFiles, TestPoolPIDFileThatCannotBeWritten
//	50 no descriptors left                TestFaultNoDescriptors, TestOrphanWithoutADescriptorToProveIt
//	51 killed for its memory              TestFaultOutOfMemory

// house is a scheduler's process, where it lives, and what it held before the
// fault.
type house struct {
	*startedProgram
	dir         string // the workspace and, in some tests, user daemons' work dirs
	workspace   string
	url         string
	descriptors int
}

// openHouse starts a scheduler in dir/workspace.
func openHouse(t *testing.T, dir string, args ...string) *house {
	t.Helper()
	h := &house{dir: dir, workspace: filepath.Join(dir, "workspace")}
	t.Cleanup(h.clear) // after the scheduler is killed
	h.startedProgram = start(t, schedulerName, nil, append([]string{"--port", "0", "--workspace", h.workspace, "--min-free-disk", "0"}, args...)...)
	h.url = h.startedProgram.url()
	h.wantHealth(http.StatusOK)
	h.descriptors = h.openDescriptors()
	return h
}

// ask is one request to the scheduler.
func (h *house) ask(method, path, body string) (int, string) {
	h.t.Helper()
	return askHTTP(h.t, method, h.url+path, body)
}

// want is ask with the status that must come; it returns the body.
func (h *house) want(status int, method, path, body string, texts ...string) string {
	h.t.Helper()
	got, answer := h.ask(method, path, body)
	if got != status {
		h.t.Errorf("%s %s: %d %s, want %d", method, path, got, answer, status)
	}
	for _, text := range texts {
		if !strings.Contains(answer, text) {
			h.t.Errorf("%s %s does not say %q: %s", method, path, text, answer)
		}
	}
	return answer
}

func (h *house) wantHealth(status int) {
	h.t.Helper()
	h.want(status, http.MethodGet, "/health", "")
}

// ensure starts libID's daemon, or takes the one that is there.
func (h *house) ensure(libID string) (pid int) {
	h.t.Helper()
	status, body := h.ask(http.MethodPut, "/daemons/"+libID, "")
	if status != http.StatusCreated && status != http.StatusOK {
		h.t.Fatalf("ensure %s: %d %s", libID, status, body)
	}
	return field[int](h.t, []byte(body), "pid")
}

func (h *house) kill(signal syscall.Signal) {
	h.t.Helper()
	if err := h.cmd.Process.Signal(signal); err != nil {
		h.t.Fatal(err)
	}
}

// openDescriptors counts the scheduler's; 0 where /proc does not tell.
func (h *house) openDescriptors() int {
	dir := fmt.Sprintf("/proc/%d/fd", h.cmd.Process.Pid)
	names, _ := os.ReadDir(dir) // no /proc, no names
	n := 0
	for _, name := range names {
		target, err := os.Readlink(filepath.Join(dir, name.Name()))
		if err == nil && !strings.HasPrefix(target, "anon_inode:[event") { // the runtime's poller
			n++
		}
	}
	return n
}

// processes lists what runs in the house, but the scheduler: daemons, git, and
// whatever they started. It is known by its directory, its command line or its
// environment; none where /proc does not tell.
func (h *house) processes() []string {
	all, _ := filepath.Glob("/proc/[0-9]*") // the pattern is well-formed
	var found []string
	for _, dir := range all {
		pid := filepath.Base(dir)
		if pid == fmt.Sprint(os.Getpid()) || (h.startedProgram != nil && pid == fmt.Sprint(h.cmd.Process.Pid)) {
			continue
		}
		line, _ := os.ReadFile(dir + "/cmdline") // it may have ended
		environ, _ := os.ReadFile(dir + "/environ")
		cwd, _ := os.Readlink(dir + "/cwd")
		if strings.Contains(string(line)+"\x00"+string(environ)+"\x00"+cwd, h.dir) {
			found = append(found, pid+" "+strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return found
}

// clear ends what a test that failed has left.
func (h *house) clear() {
	for _, p := range h.processes() {
		var pid int
		if _, err := fmt.Sscan(p, &pid); err == nil {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
		}
	}
}

// wantNothingLeft checks what every fault must leave: a scheduler that is well
// or has ended, and, once its daemons are told to stop, no process, no lock and
// no descriptor.
func (h *house) wantNothingLeft() {
	h.t.Helper()
	select {
	case <-h.done:
		root, err := os.OpenRoot(h.workspace)
		if err != nil {
			h.t.Fatal(err)
		}
		lock, err := lockWorkspace(root)
		if err != nil {
			h.t.Error(err)
		} else {
			_ = lock.Close()
		}
		_ = root.Close()
	default:
		h.want(http.StatusNoContent, http.MethodPost, "/stop", "")
		h.want(http.StatusOK, http.MethodGet, "/health", "", `"status":"ok"`, `"running":0`)
		awaitThat(h.t, "the scheduler's descriptors are as before", func() bool { return h.openDescriptors() <= h.descriptors })
	}
	awaitThat(h.t, "no process is left", func() bool { return len(h.processes()) == 0 })
	locks, err := filepath.Glob(filepath.Join(h.workspace, "*", workLockName))
	for _, path := range locks {
		lock, _, lockErr := lockWorkDir(filepath.Dir(path), testLog(h.t))
		err = errors.Join(err, lockErr)
		if lock != nil {
			_ = lock.Close()
		}
	}
	if records, globErr := filepath.Glob(filepath.Join(h.workspace, "*", pidFileName)); globErr != nil || len(records) > 0 {
		h.t.Errorf("records of processes are left: %v, %v", records, globErr)
	}
	if err != nil {
		h.t.Error(err)
	}
}

// mixedDaemon is a --daemon-bin that is the real daemon, but for lib_ids that
// begin with a name of bad: those run that script, which may go on as the real
// daemon by execDaemon.
func mixedDaemon(t *testing.T, bad map[string]string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Symlink(self, filepath.Join(dir, daemonName)); err != nil {
		t.Fatal(err)
	}
	var script strings.Builder
	fmt.Fprintf(&script, "PATH='%s':$PATH\ncase \"$*\" in\n", dir)
	for name, text := range bad {
		fmt.Fprintf(&script, "*' cloud_%s'*)\n%s\nexit ;;\n", name, text)
	}
	script.WriteString("esac\n" + execDaemon)
	return writeScript(t, script.String())
}

// execDaemon ends a script of mixedDaemon as the real daemon.
const execDaemon = `exec ` + daemonName + ` "$@"`

// scriptDeaf does not care for the end of its input, but for SIGTERM.
const scriptDeaf = `read -r token
echo '{"event":"ready","pid":'$$',"instance_id":"i"}'
exec sleep 1000`

// The kernel takes the scheduler away: whatever its daemons are like, none is
// left once the next scheduler listens.
func TestFaultSchedulerKilled(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, script string
		stay         bool // until the next scheduler comes
	}{
		{"real ones", "", false},
		{"they ignore the end of input", scriptDeaf, true},
		{"they ignore SIGTERM too", scriptStubborn, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			bad := map[string]string{}
			if test.script != "" {
				bad["lib"] = test.script
			}
			dir, bin := realTempDir(t), mixedDaemon(t, bad)
			h := openHouse(t, dir, "--daemon-bin", bin)
			var pids []int
			for i := range 5 {
				pids = append(pids, h.ensure(fmt.Sprint("lib", i)))
			}
			h.kill(syscall.SIGKILL)
			h.exit()
			if !test.stay {
				awaitThat(t, "the daemons end with their input", func() bool { return len(h.processes()) == 0 })
			}
			next := openHouse(t, dir, "--daemon-bin", bin)
			for _, pid := range pids {
				if alive(t, pid) {
					t.Errorf("process %d lives while the next scheduler listens", pid)
				}
				if fate := fmt.Sprintf("pid=%d fate=ended", pid); test.stay != strings.Contains(next.stderr.String(), fate) {
					t.Errorf("%q, want %v in the log", fate, test.stay)
				}
			}
			next.ensure("lib0")
			next.wantNothingLeft()
		})
	}
}

// wantPortFree checks that the scheduler's port can be taken again.
func (h *house) wantPortFree() {
	h.t.Helper()
	l, err := net.Listen("tcp", strings.TrimPrefix(h.url, "http://"))
	if err != nil {
		h.t.Error(err)
		return
	}
	_ = l.Close()
}

func TestFaultSchedulerStopsTwenty(t *testing.T) {
	t.Parallel()
	h := openHouse(t, realTempDir(t), "--daemon-bin", mixedDaemon(t, map[string]string{"stubborn": scriptStubborn}), "--spawn-timeout", "60s")
	var pids []int
	for i := range 20 {
		name := "real"
		if i%4 == 0 {
			name = "stubborn"
		}
		pids = append(pids, h.ensure(fmt.Sprint(name, i)))
	}
	h.kill(syscall.SIGTERM)
	if code := h.exit(); code != exitStopped {
		t.Errorf("exit %d", code)
	}
	for _, pid := range pids {
		if alive(t, pid) {
			t.Errorf("process %d lives", pid)
		}
	}
	if killed := strings.Count(h.stderr.String(), "did not stop in time and is killed"); killed != 5 {
		t.Errorf("%d were killed, want the 5 that ignore SIGTERM", killed)
	}
	h.wantPortFree()
	h.wantNothingLeft()
}

func TestFaultSecondSignal(t *testing.T) {
	t.Parallel()
	h := openHouse(t, realTempDir(t), "--daemon-bin", mixedDaemon(t, map[string]string{"stubborn": scriptStubborn}), "--stop-timeout", "24h")
	pids := []int{h.ensure("stubborn1"), h.ensure("stubborn2")}
	h.kill(syscall.SIGTERM)
	h.says("msg=stopping")
	h.kill(syscall.SIGTERM)
	if code := h.exit(); code != exitFailure {
		t.Errorf("exit %d", code)
	}
	for _, pid := range pids {
		if alive(t, pid) {
			t.Errorf("process %d lives", pid)
		}
	}
	h.wantPortFree()
	h.wantNothingLeft()
}

// answer is what an HTTP request brought.
type answer struct {
	status int
	body   string
}

// askLater makes a request whose answer comes later.
func (h *house) askLater(method, path, body string) <-chan answer {
	ch := make(chan answer, 1)
	go func() { // ends with the answer, or with askHTTP's limit
		defer close(ch) // a failure is no answer
		status, text := askHTTP(h.t, method, h.url+path, body)
		ch <- answer{status, text}
	}()
	return ch
}

// askInVain posts a request whose answer may never come.
func (h *house) askInVain(ctx context.Context, path, body string) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, h.url+path, strings.NewReader(body))
	if err != nil {
		h.t.Error(err)
		return
	}
	transport := &http.Transport{DisableKeepAlives: true}
	if response, err := transport.RoundTrip(r); err == nil {
		_ = response.Body.Close() // what it says is of no interest
	}
}

// status is a lib_id's, "" where it is in no pool.
func (h *house) status(libID string) string {
	h.t.Helper()
	status, body := h.ask(http.MethodGet, "/daemons/"+libID, "")
	if status != http.StatusOK {
		return ""
	}
	return field[string](h.t, []byte(body), "status")
}

func TestFaultDeleteDuringSpawn(t *testing.T) {
	t.Parallel()
	h := openHouse(t, realTempDir(t), "--daemon-bin", mixedDaemon(t, map[string]string{"hang": "exec sleep 1000"}), "--spawn-timeout", "24h")
	joined := h.askLater(http.MethodPut, "/daemons/hang", "")
	awaitThat(t, "it starts", func() bool { return h.status("hang") == string(statusStarting) })
	h.want(http.StatusNoContent, http.MethodDelete, "/daemons/hang", "")
	if a := <-joined; a.status != http.StatusConflict || !strings.Contains(a.body, string(codeDeleted)) {
		t.Errorf("%d %s", a.status, a.body)
	}
	if _, err := os.Stat(filepath.Join(h.workspace, "hang")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the directory: %v", err)
	}
	h.wantNothingLeft()
}

func TestFaultStoppedDaemonIsDeleted(t *testing.T) {
	t.Parallel()
	h := openHouse(t, realTempDir(t), "--stop-timeout", "24h")
	pid := h.ensure("x")
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	// Without SIGCONT this would last until SIGKILL, a day from now.
	h.want(http.StatusNoContent, http.MethodDelete, "/daemons/x", "")
	if alive(t, pid) {
		t.Error("it lives")
	}
	h.wantNothingLeft()
}

func TestFaultEnsureDuringStop(t *testing.T) {
	t.Parallel()
	h := openHouse(t, realTempDir(t), "--daemon-bin", mixedDaemon(t, map[string]string{"stubborn": scriptStubborn}), "--stop-timeout", "300ms")
	first := h.ensure("stubborn")
	stopped := h.askLater(http.MethodPost, "/stop", "")
	awaitThat(t, "it stops", func() bool { return h.status("stubborn") != string(statusReady) })
	if second := h.ensure("stubborn"); second == first || alive(t, first) || !alive(t, second) {
		t.Errorf("the first one, %d, alive %v; the second, %d, alive %v", first, alive(t, first), second, alive(t, second))
	}
	if a := <-stopped; a.status != http.StatusNoContent {
		t.Errorf("%d %s", a.status, a.body)
	}
	h.wantNothingLeft()
}

func TestFaultHundredEnsures(t *testing.T) {
	t.Parallel()
	h := openHouse(t, realTempDir(t))
	var mu sync.Mutex
	var statuses, pids []int
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			status, body := h.ask(http.MethodPut, "/daemons/x", "")
			pid := field[int](t, []byte(body), "pid")
			mu.Lock()
			defer mu.Unlock()
			statuses, pids = append(statuses, status), append(pids, pid)
		})
	}
	wg.Wait()
	slices.Sort(statuses)
	slices.Sort(pids)
	if statuses[98] != http.StatusOK || statuses[99] != http.StatusCreated || pids[0] != pids[99] {
		t.Errorf("the statuses are %v, the pids %v", statuses, pids)
	}
	h.wantNothingLeft()
}

// A daemon that dies again and again is started with growing pauses, however
// often it is asked for.
func TestFaultCrashLoop(t *testing.T) {
	t.Parallel()
	h := openHouse(t, realTempDir(t), "--daemon-bin", mixedDaemon(t, map[string]string{"crash": "echo x >>starts; exit 4", "good": scriptGood}), "--spawn-timeout", "1900ms")
	good := h.ensure("good")
	for range 30 { // those that would wait longer than --spawn-timeout return at once
		h.want(http.StatusServiceUnavailable, http.MethodPut, "/daemons/crash", "", string(codeAutoStartFailed), "exit status 4")
	}
	starts, err := os.ReadFile(filepath.Join(h.workspace, "crash", "starts"))
	if n := strings.Count(string(starts), "x"); err != nil || n < 2 || n > 10 {
		t.Errorf("%d starts, %v", n, err)
	}
	if h.ensure("good") != good {
		t.Error("a daemon beside it was harmed")
	}
	h.wantNothingLeft()
}

// With one place for two libraries each call ends the other's daemon, which has
// just answered: that is no reason for a refusal, but where the machine has no
// time for the daemon to notice.
func TestFaultOnePlaceForTwo(t *testing.T) {
	t.Parallel()
	h := openHouse(t, realTempDir(t), "--max-daemons", "1")
	refused := 0
	for n := range 60 {
		status, body := h.ask(http.MethodPost, fmt.Sprintf("/libraries/lib%d/rpc", n%2), configCall)
		switch {
		case status == http.StatusServiceUnavailable && strings.Contains(body, string(codeCapacity)):
			refused++
		case status != http.StatusOK || strings.Contains(body, `"error"`):
			t.Errorf("%d %s", status, body)
		}
	}
	if refused > 5 {
		t.Errorf("%d calls were refused", refused)
	}
	h.wantNothingLeft()
}

// A call that runs when its library is deleted does not bring it back, not even
// when its daemon had to be killed.
func TestFaultDeletedUnderACall(t *testing.T) {
	t.Parallel()
	git, _, asked := newStalledGitServer(t)
	h := openHouse(t, realTempDir(t), "--stop-timeout", "100ms")
	h.ensure("x")
	cloned := h.askLater(http.MethodPost, "/libraries/x/rpc", cloneCall(git.address("lib.git")))
	<-asked
	git.setHook(nil)
	h.want(http.StatusNoContent, http.MethodDelete, "/daemons/x", "")
	if a := <-cloned; a.status != http.StatusConflict || !strings.Contains(a.body, string(codeDeleted)) {
		t.Errorf("%d %s", a.status, a.body)
	}
	h.want(http.StatusOK, http.MethodGet, "/daemons", "", `"daemons":[]`)
	if _, err := os.Stat(filepath.Join(h.workspace, "x")); !errors.Is(err, fs.ErrNotExist) {
		t.Error("its directory is back:", err)
	}
	h.wantNothingLeft()
}

// A daemon that is killed once while it starts costs its callers nothing: the
// next one answers. An ensure tells of the death.
func TestFaultKilledWhileStarting(t *testing.T) {
	t.Parallel()
	const once = "[ -e died ] || { touch died; kill -9 $$; }\n" + execDaemon
	h := openHouse(t, realTempDir(t), "--daemon-bin", mixedDaemon(t, map[string]string{"once": once, "crash": "echo x >>starts; exit 4"}))
	var answers []<-chan answer
	for range 10 {
		answers = append(answers, h.askLater(http.MethodPost, "/libraries/once/rpc", configCall))
	}
	for _, answered := range answers {
		wantAnswer(t, answered)
	}
	h.want(http.StatusServiceUnavailable, http.MethodPut, "/daemons/once-ensured", "", string(codeAutoStartFailed), "signal: killed")
	h.want(http.StatusServiceUnavailable, http.MethodPost, "/libraries/crash/rpc", configCall, string(codeAutoStartFailed), "exit status 4")
	if starts, err := os.ReadFile(filepath.Join(h.workspace, "crash", "starts")); err != nil || strings.Count(string(starts), "x") != 2 {
		t.Errorf("started: %q, %v", starts, err)
	}
	h.wantNothingLeft()
}

// wantAnswer waits for the answer to a call.
func wantAnswer(t *testing.T, answered <-chan answer) string {
	t.Helper()
	a := <-answered
	if a.status != http.StatusOK || strings.Contains(a.body, `"error"`) {
		t.Errorf("%d %s", a.status, a.body)
	}
	return a.body
}

// configCall is a JSON-RPC call of config/get.
const configCall = `{"jsonrpc":"2.0","id":1,"method":"config/get"}`

// cloneCall is a JSON-RPC call of vcs/clone.
func cloneCall(url string) string {
	return `{"jsonrpc":"2.0","id":1,"method":"vcs/clone","params":{"url":"` + url + `"}}`
}

func TestFaultFullOfClones(t *testing.T) {
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
		t.Error(body)
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
			t.Error("no git runs: the test sees nothing")
		}
		git.setHook(nil)
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if body := wantAnswer(t, cloned); !strings.Contains(body, repo.head()) { // from the next daemon
			t.Error(body)
		}
		for _, p := range h.processes() {
			if strings.Contains(p, "git ") || strings.Contains(p, "remote-http") {
				t.Errorf("left: %s", p)
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
		t.Errorf("left: %v", left)
	}
	git.setHook(nil)
	next.wantNothingLeft()
}

// A user's daemon has no scheduler to clear up behind it: the next daemon in
// the work dir does.
func TestFaultUserDaemonKilledInAStalledClone(t *testing.T) {
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
		t.Error("no git outlives its daemon: the test sees nothing")
	}
	second := startUserDaemon(t, h.url, "m", nil, "--work-dir", workDir)
	if body := wantAnswer(t, cloned); !strings.Contains(body, repo.head()) {
		t.Error(body)
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

// noise is a text of n bytes that does not get smaller.
func noise(n int) string {
	data := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{}).Read(data) // it never fails
	return string(data)
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
	t.Parallel()
	git := newGitServer(t)
	repo := git.repo("lib.git", map[string]string{"a": "1"})
	h := openHouse(t, realTempDir(t))
	wantAnswer(t, h.askLater(http.MethodPost, "/libraries/x/rpc", cloneCall(git.address("lib.git"))))
	path := filepath.Join(h.workspace, "x", reposDirName, "lib")
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	repo.commit("big", map[string]string{"b": noise(1 << 20)})
	reached := make(chan struct{}, 10)
	git.setHook(halfPack(git, reached))
	cloned := h.askLater(http.MethodPost, "/libraries/x/rpc", cloneCall(git.address("lib.git")))
	<-reached
	lock := filepath.Join(path, ".git", "shallow.lock")
	awaitThat(t, "git has its lock", func() bool { _, err := os.Stat(lock); return err == nil })
	git.setHook(nil)
	if err := syscall.Kill(h.ensure("x"), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if body := wantAnswer(t, cloned); !strings.Contains(body, repo.head()) || !strings.Contains(body, string(actionUpdated)) {
		t.Error(body)
	}
	after, err := os.Stat(path)
	if err != nil || !os.SameFile(before, after) {
		t.Errorf("the clone was made anew: %v", err)
	}
	if _, err := os.Stat(lock); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("git's lock: %v", err)
	}
	h.wantNothingLeft()
}
