package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// deadMount is a directory that FUSE serves by a process of its own. While the
// process is stopped, every system call in the directory blocks.
type deadMount struct {
	dir    string
	server *exec.Cmd
}

// newDeadMount mounts a copy of files with bindfs(1). It skips the test where
// that is not possible.
func newDeadMount(t *testing.T, dir string, files map[string]string) *deadMount {
	t.Helper()
	bindfs, err := exec.LookPath("bindfs")
	if err != nil {
		t.Skip("bindfs is not installed")
	}
	source := realTempDir(t)
	writeFiles(t, source, files)
	writeFiles(t, dir, map[string]string{"./": ""})
	// Nothing may be answered from the kernel's cache.
	m := &deadMount{dir: dir, server: exec.Command(bindfs, "-f", "-o", "attr_timeout=0,entry_timeout=0", source, dir)}
	m.server.Stderr = t.Output()
	var before syscall.Stat_t
	if err := syscall.Stat(dir, &before); err != nil {
		t.Fatal(err)
	}
	if err := m.server.Start(); err != nil {
		t.Skipf("bindfs cannot be started: %v", err)
	}
	ended := make(chan struct{})
	go func() { // ends with bindfs
		defer close(ended)
		_ = m.server.Wait()
	}()
	t.Cleanup(func() {
		m.revive()
		_ = exec.Command("fusermount3", "-u", "-z", dir).Run()
		_ = m.server.Process.Kill()
		<-ended
	})
	for limit := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		var now syscall.Stat_t
		if syscall.Stat(dir, &now) == nil && now.Dev != before.Dev {
			return m
		}
		select {
		case <-ended:
			t.Skip("bindfs cannot mount here")
		default:
		}
		if time.Now().After(limit) {
			t.Fatal("bindfs does not mount")
		}
	}
}

// die returns when every thread of the server is stopped: a call that one of them
// has taken could not even be ended by a signal.
func (m *deadMount) die() {
	_ = m.server.Process.Signal(syscall.SIGSTOP)
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", m.server.Process.Pid)) // the pattern is well-formed
	for _, task := range tasks {
		for limit := time.Now().Add(patience); time.Now().Before(limit); time.Sleep(time.Millisecond) {
			text, err := os.ReadFile(task)
			if err != nil {
				break // the thread has ended
			}
			if stat, err := parseProcStat(text); err == nil && stat.state == 'T' {
				break
			}
		}
	}
}

func (m *deadMount) revive() { _ = m.server.Process.Signal(syscall.SIGCONT) }

// reviveBeforeClose lets blocked work end before the daemon of b is closed: while
// a file system blocks work, the daemon leaves its open directories to the end of
// the process.
func (m *deadMount) reviveBeforeClose(b *daemonBench) {
	b.t.Cleanup(func() {
		m.revive()
		for limit := time.Now().Add(patience); len(b.daemon.access.stuck()) > 0 && time.Now().Before(limit); {
			time.Sleep(10 * time.Millisecond) // the end of a system call reports nothing
		}
	})
}

// stuckAnswer is the answer to one request.
type stuckAnswer struct {
	ID     int             `json:"id"`
	Result json.RawMessage `json:"result"`
	Error  *rpcError       `json:"error"`
}

// next returns the next answer.
func (b *daemonBench) next() (a stuckAnswer) {
	b.t.Helper()
	for {
		select {
		case data := <-b.out:
			if strings.Contains(string(data), `"method"`) {
				continue // progress
			}
			if err := json.Unmarshal(data, &a); err != nil {
				b.t.Fatal(err)
			}
			return a
		case <-time.After(patience):
			b.t.Fatal("no answer")
		}
	}
}

func (b *daemonBench) send(id int, method, params string) {
	b.in <- fmt.Appendf(nil, `{"jsonrpc":"2.0","id":%d,"method":%q,"params":%s}`, id, method, params)
}

// wantCode checks the answer's data.code.
func (a stuckAnswer) wantCode(t *testing.T, what string, want errorCode) {
	t.Helper()
	if a.Error == nil || a.Error.name() != want {
		t.Errorf("%s: want %s, got %s %v", what, want, a.Result, a.Error)
	}
}

// readingMethods are requests that read the directory dir in every way.
func readingMethods(dir, more string) map[string]string {
	path := fmt.Sprintf(`"path":%q`, dir)
	file := fmt.Sprintf(`"path":%q`, dir+"/f")
	calls := map[string]string{
		"fs/readFile": file, "fs/stat": file, "fs/listDir": path, "fs/glob": path, "fs/search": path + `,"pattern":"x"`,
		"fs/repoScan": fmt.Sprintf(`"paths":[%q]`, dir), "vcs/info": path, "vcs/diff": path, "vcs/blame": path + `,"file":"f"`, "vcs/log": path, "vcs/refs": path, "index/manifest": path,
	}
	for method, params := range calls {
		calls[method] = "{" + params + more + "}"
	}
	return calls
}

// An allowed directory has 16 places, and work that waits comes before work that
// only tries.
func TestPlacesOfADirectory(t *testing.T) {
	p := newDirPlaces()
	for n := range 16 {
		if !p.tryEnter() {
			t.Fatalf("place %d is refused, want 16 places", n+1)
		}
	}
	if p.tryEnter() {
		t.Error("a place is free beyond 16, want none")
	}
	waiting := make(chan bool, 1)
	blocked := make(chan struct{})
	go func() { // ends with its place
		entered, _ := p.enter(t.Context(), func() { close(blocked) })
		waiting <- entered
	}()
	<-blocked
	p.leave()
	if !<-waiting {
		t.Error("the one that waited got no place, want the one that was given back")
	}
	if p.tryEnter() {
		t.Error("a place is free although the one that waited has it, want none")
	}
	for range 16 {
		p.strand(true)
	}
	if entered, err := p.enter(t.Context(), func() {}); entered || err != nil {
		t.Errorf("with 16 stuck calls: got %v, %v, want no place and no wait", entered, err)
	}
	p.recover()
	if n := p.stuckWork(); n != 15 || !p.tryEnter() || p.tryEnter() {
		t.Errorf("after one has ended: got %d stuck, want 15 and one place", n)
	}
}

// A file system that does not answer holds up the requests that read it, until
// their limit, and nothing else.
func TestDeadFileSystemIsAnsweredAtTheLimit(t *testing.T) {
	skipShort(t, "it takes seconds")
	t.Parallel()
	top := realTempDir(t)
	writeFiles(t, top, map[string]string{"alive/f": "x"})
	m := newDeadMount(t, top+"/dead", map[string]string{"f": "x", "sub/g": "x"})
	b := newDaemonBench(t, &daemonConfig{allow: []string{top + "/alive", m.dir}})
	m.reviveBeforeClose(b)
	m.die()

	id := 0
	for method, params := range readingMethods(m.dir, `,"timeout_ms":400`) {
		id++
		begin := time.Now()
		b.send(id, method, params)
		b.send(1000, "fs/readFile", fmt.Sprintf(`{"path":%q}`, top+"/alive/f"))
		if a := b.next(); a.ID != 1000 || a.Error != nil {
			t.Errorf("%s: want the answer from the other directory first, got %d %v", method, a.ID, a.Error)
		}
		b.next().wantCode(t, method, codeTimeout)
		if took := time.Since(begin); took < 400*time.Millisecond || took > 5*time.Second {
			t.Errorf("%s: want an answer after 400 ms, got one after %v", method, took)
		}
	}
	if got := b.daemon.service.stuck(); got != id {
		t.Errorf("want %d stuck calls, got %d", id, got)
	}
	// A scan of all allowed directories gets stuck as well.
	b.send(1, "fs/repoScan", `{"timeout_ms":400}`)
	b.next().wantCode(t, "a scan of everything", codeTimeout)

	begin := time.Now()
	b.send(1, "fs/readFile", fmt.Sprintf(`{"path":%q}`, m.dir+"/f"))
	b.in <- []byte(`{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":1}}`)
	b.next().wantCode(t, "a canceled request", codeCancelled)
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("want the canceled request answered at once, got it after %v", took)
	}
	m.revive()
	awaitThat(t, "no call is stuck", func() bool { return b.daemon.service.stuck() == 0 })
	b.send(1, "fs/readFile", fmt.Sprintf(`{"path":%q}`, m.dir+"/f"))
	if a := b.next(); a.Error != nil {
		t.Errorf("want the file once the file system answers again, got %v", a.Error)
	}
}

// Requests to a dead file system have at most 16 places of their own, however
// many they are, and take none from others.
func TestDeadFileSystemTakesNoPlacesFromOthers(t *testing.T) {
	t.Parallel()
	for method, params := range readingMethods("DEAD", `,"timeout_ms":1500`) {
		t.Run(strings.ReplaceAll(method, "/", "-"), func(t *testing.T) {
			t.Parallel()
			top := realTempDir(t)
			writeFiles(t, top, map[string]string{"alive/f": "x"})
			m := newDeadMount(t, top+"/dead", map[string]string{"f": "x"})
			b := newDaemonBench(t, &daemonConfig{allow: []string{top + "/alive", m.dir}})
			m.reviveBeforeClose(b)
			m.die()
			const requests = 100
			params := strings.ReplaceAll(params, "DEAD", m.dir)
			for id := range requests {
				b.send(id, method, params)
			}
			begin := time.Now()
			b.send(1000, "fs/readFile", fmt.Sprintf(`{"path":%q}`, top+"/alive/f"))
			if a := b.next(); a.ID != 1000 || a.Error != nil {
				t.Errorf("want the answer from the other directory first, got %d %v", a.ID, a.Error)
			}
			t.Logf("the other directory answered after %v", time.Since(begin))
			for range requests {
				a := b.next()
				if a.Error == nil || a.Error.name() != codeTimeout && a.Error.name() != codeServerBusy {
					t.Errorf("want TIMEOUT or SERVER_BUSY, got %s %v", a.Result, a.Error)
				}
			}
			b.send(1, method, params)
			b.next().wantCode(t, "one more request", codeServerBusy)
			b.send(1, "config/get", `{}`)
			a := b.next()
			want := fmt.Sprintf(`[{"path":%q,"count":%d}]`, m.dir, maxStuck)
			if got := string(field[json.RawMessage](t, a.Result, "stuck")); got != want {
				t.Errorf("config/get: want stuck %s, got %s", want, got)
			}
			m.revive()
			awaitThat(t, "no call is stuck", func() bool { return b.daemon.service.stuck() == 0 })
			b.send(1, "fs/stat", fmt.Sprintf(`{"path":%q}`, m.dir+"/f"))
			if a := b.next(); a.Error != nil {
				t.Errorf("want an answer once the file system answers again, got %v", a.Error)
			}
		})
	}
}

// A walk that reaches a dead file system below its path ends with TIMEOUT, and
// many of them leave places for others.
func TestWalkIntoADeadFileSystem(t *testing.T) {
	skipShort(t, "it takes seconds")
	t.Parallel()
	top := realTempDir(t)
	writeFiles(t, top, map[string]string{"a/f": "x", "z/f": "x"})
	m := newDeadMount(t, filepath.Join(top, "m/dead"), map[string]string{"f": "x"})
	b := newDaemonBench(t, &daemonConfig{allow: []string{top}})
	m.reviveBeforeClose(b)
	b.daemon.service.maxConcurrent = 4
	m.die()
	id := 0
	for range 10 {
		for method, params := range map[string]string{"fs/glob": "", "fs/search": `,"pattern":"x"`, "fs/repoScan": ""} {
			path := fmt.Sprintf(`"path":%q`, top)
			if method == "fs/repoScan" {
				path = fmt.Sprintf(`"paths":[%q]`, top)
			}
			id++
			b.send(id, method, "{"+path+params+`,"timeout_ms":2000}`)
		}
	}
	b.send(1000, "fs/readFile", fmt.Sprintf(`{"path":%q}`, top+"/a/f"))
	if a := b.next(); a.ID != 1000 || a.Error != nil {
		t.Errorf("want the file before the walks time out, got %d %v", a.ID, a.Error)
	}
	for range id {
		b.next().wantCode(t, "a walk", codeTimeout)
	}
	if got := b.daemon.service.stuck(); got < 1 || got > maxStuck {
		t.Errorf("want 1 to %d stuck calls, got %d", maxStuck, got)
	}
}

// A dead file system does not keep a daemon from its start. It is served as soon as
// it answers.
func TestDeadFileSystemDoesNotDelayTheStart(t *testing.T) {
	skipShort(t, "it takes seconds")
	t.Parallel()
	top := realTempDir(t)
	writeFiles(t, top, map[string]string{"alive/f": "x"})
	m := newDeadMount(t, top+"/dead", map[string]string{"f": "x"})
	if err := exec.Command("ln", "-s", m.dir, top+"/link").Run(); err != nil {
		t.Fatal(err)
	}
	m.die()
	_, address := startSchedulerProcess(t, nil)
	server := strings.Replace(address, "http", "ws", 1)
	check := start(t, daemonName, nil, "--server", server, "--allow", top+"/link", "--check")
	if code := check.exit(); code != exitFailure || !strings.Contains(check.stdout.String(), "FAIL path: "+top+"/link: its file system does not answer") {
		t.Errorf("--check: got exit %d and %s, want %d and the directory that does not answer", code, check.stdout.String(), exitFailure)
	}
	d := start(t, daemonName, nil, "--server", server, "--machine-id", "m", "--allow", top+"/link", "--allow", m.dir+"/f/..", "--allow", top+"/alive")
	d.says("an allowed directory does not answer")
	d.says("connected")
	if _, a := callRPC(t, address+"/machines/m", "fs/readFile", fmt.Sprintf(`{"path":%q}`, top+"/alive/f")); a.Error != nil {
		t.Errorf("the other directory: got %v, want its file", a.Error)
	}
	for _, path := range []string{top + "/link/f", m.dir + "/f"} {
		_, a := callRPC(t, address+"/machines/m", "fs/readFile", fmt.Sprintf(`{"path":%q,"timeout_ms":300}`, path))
		if a.Error == nil || a.Error.name() != codeTimeout {
			t.Errorf("%s: got %v, want TIMEOUT", path, a.Error)
		}
	}
	m.revive()
	awaitThat(t, "nothing is stuck", func() bool {
		_, a := callRPC(t, address+"/machines/m", "config/get", "{}")
		return strings.Contains(string(a.Result), `"stuck":[]`) && !strings.Contains(string(a.Result), top+"/link")
	})
	if _, a := callRPC(t, address+"/machines/m", "fs/readFile", fmt.Sprintf(`{"path":%q}`, top+"/link/f")); a.Error != nil {
		t.Errorf("once it answers: got %v, want its file", a.Error)
	}
	d.signal(syscall.SIGTERM)
	if code := d.exit(); code != exitStopped {
		t.Errorf("got exit %d, want %d", code, exitStopped)
	}
}

// Stuck work does not delay the daemon's exit.
func TestDeadFileSystemDoesNotDelayTheExit(t *testing.T) {
	skipShort(t, "it takes about a second")
	t.Parallel()
	top := realTempDir(t)
	m := newDeadMount(t, top+"/dead", map[string]string{"f": "x"})
	_, address := startSchedulerProcess(t, nil)
	d := start(t, daemonName, nil, "--server", strings.Replace(address, "http", "ws", 1), "--machine-id", "m", "--allow", m.dir, "--heartbeat-interval", "100ms")
	d.says("connected")
	m.die()
	_, a := callRPC(t, address+"/machines/m", "fs/readFile", fmt.Sprintf(`{"path":%q,"timeout_ms":300}`, m.dir+"/f"))
	if a.Error == nil || a.Error.name() != codeTimeout {
		t.Errorf("want TIMEOUT, got %v", a.Error)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-d.done:
	case <-ctx.Done():
		t.Error("want the daemon to end, it still runs")
	}
}
