//go:build linux || darwin

package main

import (
	"errors"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// fullPipe returns the write end of a pipe that is full and that nobody reads.
func fullPipe(t *testing.T) *os.File {
	t.Helper()
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = reader.Close(), writer.Close() })
	// O_NONBLOCK belongs to the open pipe, so it would be the child's, too.
	if err := writer.SetWriteDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = writer.Write([]byte("x"))
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("filling a pipe: got %v, want it full", err)
	}
	writer.Fd() // blocking again
	return writer
}

// startUnread starts one of the programs with a standard error that nobody reads.
func startUnread(t *testing.T, name string, args ...string) *startedProgram {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, append(args, "--log-level", "debug")...)
	cmd.Args[0] = name
	cmd.Stderr = fullPipe(t)
	return startCommand(t, name, cmd, nil)
}

func (p *startedProgram) signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// TestUnreadLogStopsNothing: with a standard error that nobody reads the
// scheduler answers, its user's daemon connects, reconnects and answers, and a
// signal ends both.
func TestUnreadLogStopsNothing(t *testing.T) {
	skipShort(t, "it takes seconds")
	t.Parallel()
	port := strconv.Itoa(freePort(t))
	address := "http://127.0.0.1:" + port
	workspace := filepath.Join(realTempDir(t), "workspace")
	scheduler := startUnread(t, schedulerName, "--port", port, "--workspace", workspace, "--min-free-disk", "0")
	awaitThat(t, "the scheduler listens", func() bool {
		conn, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
	const requests = 500 // each is logged
	for range requests {
		if status, body := askHTTP(t, http.MethodGet, address+"/daemons", ""); status != 200 {
			t.Fatalf("GET /daemons: got %d %s, want 200", status, body)
		}
	}
	if status, a := callRPC(t, address+"/libraries/demo", "config/get", "{}"); status != 200 || a.Error != nil {
		t.Errorf("config/get: got status %d and %v, want 200", status, a.Error)
	}
	daemon := startUnread(t, daemonName, "--server", address, "--machine-id", "m")
	online := func() bool {
		status, body := askHTTP(t, http.MethodGet, address+"/machines/m", "")
		return status == 200 && strings.Contains(body, `"online"`)
	}
	awaitThat(t, "the daemon is online", online)
	if status, a := callRPC(t, address+"/machines/m", "config/get", "{}"); status != 200 || a.Error != nil {
		t.Errorf("config/get of the user's daemon: got status %d and %v, want 200", status, a.Error)
	}
	for _, p := range []*startedProgram{daemon, scheduler} {
		p.signal(syscall.SIGTERM)
		if code := p.exit(); code != exitStopped {
			t.Errorf("got exit %d, want %d", code, exitStopped)
		}
	}
}

// TestUnreadLogOfAFailure: the message of a failed start cannot block the exit.
func TestUnreadLogOfAFailure(t *testing.T) {
	skipShort(t, "it takes about a second")
	t.Parallel()
	if code := startUnread(t, daemonName, "--server", "ftp://x").exit(); code != exitUsage {
		t.Errorf("the daemon: got exit %d, want %d", code, exitUsage)
	}
	if code := startUnread(t, schedulerName, "--max-daemons", "0").exit(); code != exitUsage {
		t.Errorf("the scheduler: got exit %d, want %d", code, exitUsage)
	}
}

// watchOf runs a signalWatch in fake time and returns a function that sends it a
// signal, and the channel on which it reports to be overdue.
func watchOf(t *testing.T, limit time.Duration) (w *signalWatch, send func(), overdue <-chan bool) {
	w = newSignalWatch()
	signals := make(chan os.Signal, 8)
	result := make(chan bool, 1)
	go func() { result <- w.run(signals, limit) }()
	t.Cleanup(w.close)
	return w, func() {
		signals <- syscall.SIGTERM
		synctest.Wait()
	}, result
}

// TestSecondSignal: a signal within 100 ms of the first is the same one; a later
// one ends the program within a second.
func TestSecondSignal(t *testing.T) {
	for _, test := range []struct {
		after time.Duration
		force bool
	}{{0, false}, {time.Millisecond, false}, {sameSignal - 1, false}, {sameSignal, true}, {time.Minute, true}} {
		synctest.Test(t, func(t *testing.T) {
			w, send, overdue := watchOf(t, time.Hour)
			send()
			if w.stopping.Err() == nil || w.force.Err() != nil {
				t.Errorf("after one signal: stopping %v, force %v, want only the first", w.stopping.Err(), w.force.Err())
			}
			time.Sleep(test.after)
			send()
			if got := w.force.Err() != nil; got != test.force {
				t.Errorf("a second signal after %v: force %v, want %v", test.after, got, test.force)
			}
			if !test.force {
				return
			}
			begin := time.Now()
			if !<-overdue || time.Since(begin)+flushTime >= time.Second {
				t.Errorf("after %v with the flush, want the end within a second", time.Since(begin)+flushTime)
			}
		})
	}
}

// TestSignalLimit: a program that does not come to its end after the first signal
// is ended at its limit; the end of its parent counts as a signal here.
func TestSignalLimit(t *testing.T) {
	for _, bySignal := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			w, send, overdue := watchOf(t, time.Minute)
			begin := time.Now()
			if bySignal {
				send()
			} else {
				w.stop(nil)
			}
			if !<-overdue || time.Since(begin) != time.Minute {
				t.Errorf("by a signal %v: after %v, want the end after a minute", bySignal, time.Since(begin))
			}
		})
	}
}

// TestSecondSignalEndsWhatHangs: whatever a program waits for, a second signal
// ends it within a second, and what it has started with it.
func TestSecondSignalEndsWhatHangs(t *testing.T) {
	skipShort(t, "it takes seconds")
	t.Parallel()
	daemon, pid, answered := startStubbornHandler(t)
	daemon.signal(syscall.SIGTERM)
	daemon.says("waiting for running requests")
	time.Sleep(2 * sameSignal) // what is tested: a signal that is not the same
	daemon.signal(syscall.SIGTERM)
	begin := time.Now()
	if code, took := daemon.exit(), time.Since(begin); code != exitFailure || took > 5*time.Second {
		t.Errorf("got exit %d after %v, want %d within a second (of an idle machine)", code, took, exitFailure)
	}
	awaitThat(t, "the handler is killed", func() bool { return !alive(t, pid) })
	<-answered
}

// TestQuitDumpsStacksAndKills: SIGQUIT ends a program with the stacks of all
// goroutines on standard error, as it ends every Go program, and what it has
// started with it. SIGUSR1 and SIGUSR2 end nothing.
func TestQuitDumpsStacksAndKills(t *testing.T) {
	skipShort(t, "it starts three programs")
	t.Parallel()
	daemon, pid, answered := startStubbornHandler(t)
	daemon.signal(syscall.SIGUSR1)
	daemon.signal(syscall.SIGUSR2)
	daemon.signal(syscall.SIGQUIT)
	if code := daemon.exit(); code != exitFailure || !strings.Contains(daemon.stderr.String(), "goroutine ") {
		t.Errorf("got exit %d and the standard error %q, want %d and the stacks", code, daemon.stderr.String(), exitFailure)
	}
	awaitThat(t, "the handler is killed", func() bool { return !alive(t, pid) })
	<-answered
}

// startStubbornHandler starts a daemon that runs a handler which ignores SIGTERM.
// It returns the pid of the handler, and a channel that is closed when its request
// is answered.
func startStubbornHandler(t *testing.T) (daemon *startedProgram, pid int, answered chan struct{}) {
	t.Helper()
	pidFile := filepath.Join(realTempDir(t), "pid")
	stubborn := filepath.Join(realTempDir(t), "stubborn")
	script := "#!/bin/sh\ntrap '' TERM\necho $$ > " + pidFile + ".new\nmv " + pidFile + ".new " + pidFile + "\nwhile :; do sleep 1; done\n"
	if err := os.WriteFile(stubborn, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	_, address := startSchedulerProcess(t, nil)
	daemon = startUserDaemon(t, address, "m", nil, "--handler", "x/y="+stubborn)
	answered = make(chan struct{})
	go func() {
		defer close(answered)
		response, err := http.Post(address+"/machines/m/rpc", "application/json", strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"x/y"}`))
		if err == nil {
			_ = response.Body.Close()
		}
	}()
	awaitThat(t, "the handler runs", func() bool { _, err := os.Stat(pidFile); return err == nil })
	text, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	pid, err = strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	return daemon, pid, answered
}

// TestSignalBeforeTheToken: a daemon whose scheduler never sends the token ends by
// a signal.
func TestSignalBeforeTheToken(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "--server", "127.0.0.1:1", "--log-level", "debug")
	cmd.Args[0] = daemonName
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	p := startCommand(t, daemonName, cmd, []string{controlVariable + "=" + controlStdio})
	p.says("waiting for the scheduler's token")
	p.signal(syscall.SIGTERM)
	if code := p.exit(); code != exitStopped {
		t.Errorf("got exit %d, want %d", code, exitStopped)
	}
}

// TestHangup: SIGHUP drains like SIGTERM, unless the program was started with it
// ignored, as by nohup(1).
func TestHangup(t *testing.T) {
	t.Parallel()
	scheduler, address := startSchedulerProcess(t, nil)
	daemon := startUserDaemon(t, address, "m", nil)
	daemon.signal(syscall.SIGHUP)
	if code := daemon.exit(); code != exitStopped {
		t.Errorf("the daemon: got exit %d, want %d", code, exitStopped)
	}
	scheduler.signal(syscall.SIGHUP)
	if code := scheduler.exit(); code != exitStopped {
		t.Errorf("the scheduler: got exit %d, want %d", code, exitStopped)
	}

	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{daemonName, schedulerName} {
		link := filepath.Join(realTempDir(t), name) // sh knows no argv[0]
		if err := os.Symlink(self, link); err != nil {
			t.Fatal(err)
		}
		args, running := `--server 127.0.0.1:1`, "trying again"
		if name == schedulerName {
			args, running = "--port 0 --workspace "+filepath.Join(realTempDir(t), "w"), "msg=listening"
		}
		p := startCommand(t, name, exec.Command("/bin/sh", "-c", "trap '' HUP; exec "+link+" "+args), nil)
		p.says(running)
		p.signal(syscall.SIGHUP)
		p.signal(syscall.SIGTERM)
		if code := p.exit(); code != exitStopped || strings.Contains(p.stderr.String(), "hangup") {
			t.Errorf("%s with SIGHUP ignored: got exit %d, want %d", name, code, exitStopped)
		}
	}
}

// TestCallEndsBySignal: a call that a signal ends removes its workspace, and its
// exit status is that of the signal.
func TestCallEndsBySignal(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0") // accepts, and never answers
	if err != nil {
		t.Fatal(err)
	}
	connected := make(chan net.Conn, 100)
	go func() { // ends with the listener
		defer close(connected)
		for {
			conn, err := silent.Accept()
			if err != nil {
				return
			}
			connected <- conn
		}
	}()
	defer func() {
		_ = silent.Close()
		for conn := range connected {
			_ = conn.Close()
		}
	}()
	for signal, want := range map[syscall.Signal]int{syscall.SIGINT: 130, syscall.SIGTERM: 143, syscall.SIGHUP: 129} {
		temp := realTempDir(t)
		p := start(t, schedulerName, []string{"TMPDIR=" + temp}, "call", "--min-free-disk", "0", "demo", "vcs/clone", "url=http://"+silent.Addr().String()+"/x.git")
		before := len(connected)
		workspaces := func() int {
			names, err := filepath.Glob(filepath.Join(temp, "c4a-call-*"))
			if err != nil {
				t.Fatal(err)
			}
			return len(names)
		}
		awaitThat(t, "the call runs or refuses to", func() bool {
			select {
			case <-p.done:
				return true
			default:
				return len(connected) > before && workspaces() == 1
			}
		})
		if strings.Contains(p.stderr.String(), "already listens") || strings.Contains(p.stderr.String(), "querying") {
			t.Skip("something listens on the scheduler's default port of this machine: " + p.stderr.String())
		}
		p.signal(signal)
		if code, left := p.exit(), workspaces(); code != want || left != 0 {
			t.Errorf("%v: got exit %d and %d workspaces, want %d and none", signal, code, left, want)
		}
		if text := p.stderr.String(); strings.Count(text, "vcs/clone was cancelled, its daemon stops the work") != 1 {
			t.Errorf("%v: standard error is %q, want one line that says that the work is cancelled", signal, text)
		}
	}
}
