//go:build linux || darwin

package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// The tests of this file need real processes: they kill and stop them, and put
// proxies and certificates between them.

// port returns the port of a URL.
func port(t *testing.T, address string) string {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	return u.Port()
}

// logTime returns the time of a log line.
func logTime(t *testing.T, line string) time.Time {
	t.Helper()
	_, rest, _ := strings.Cut(line, "time=")
	text, _, _ := strings.Cut(rest, " ")
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		t.Fatalf("the log line %q has no time (%v), want time=… in RFC 3339", line, err)
	}
	return at
}

// TestHubIsKilled: the hub is killed (SIGKILL) and a new one starts on the same
// port; the daemon connects to it within its first delay of 2 s. A call that was in
// flight is lost with its connection: asked again with its task_id until it is
// answered, it has run once.
func TestHubIsKilled(t *testing.T) {
	skipShort(t, "waits for a reconnect of processes, for seconds")
	t.Parallel()
	const calls = 5
	dir := realTempDir(t)
	runs, script := filepath.Join(dir, "runs"), filepath.Join(dir, "run.sh")
	if err := errors.Join(os.WriteFile(runs, nil, 0o600), os.WriteFile(script, []byte("echo >> '"+runs+"'; sleep 0.5; echo 1"), 0o600)); err != nil {
		t.Fatal(err)
	}
	begun := func() int { return strings.Count(readText(t, runs), "\n") }
	first, address := startSchedulerProcess(t, nil)
	d := startUserDaemon(t, address, "m", nil, "--handler", "test/run=sh '"+script+"'")
	client := &http.Client{Timeout: patience}
	defer client.CloseIdleConnections()
	var wg sync.WaitGroup
	var lost atomic.Int64
	for i := range calls {
		wg.Go(func() {
			request := fmt.Sprintf(`{"jsonrpc":"2.0","id":1,"method":"test/run","params":{"task_id":"t%d"}}`, i)
			for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) { // until the machine is back
				response, err := client.Post(address+"/machines/m/rpc", "application/json", strings.NewReader(request))
				if err == nil {
					answer, _ := io.ReadAll(response.Body)
					_ = response.Body.Close() // was read
					if response.StatusCode == http.StatusOK {
						if !strings.Contains(string(answer), `"result":1`) {
							t.Errorf("call %d: got %s, want the result 1", i, answer)
						}
						return
					}
				}
				if lost.Add(1); time.Now().After(deadline) {
					t.Errorf("call %d: got %v, want it answered within %v", i, err, patience)
					return
				}
			}
		})
	}
	awaitThat(t, "the calls to run", func() bool { return begun() == calls })
	if err := first.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	first.exit()
	second := start(t, schedulerName, nil, "--port", port(t, address), "--workspace", filepath.Join(realTempDir(t), "ws"))
	second.url()
	began := time.Now()
	second.says("machine online")
	t.Logf("the machine was online %v after the new hub listened", time.Since(began))
	wg.Wait()
	if n := begun(); n != calls || lost.Load() < calls {
		t.Errorf("%d calls ran %d times and were lost %d times, want each to run once and to be lost at least once", calls, n, lost.Load())
	}
	if line := d.says("trying again"); strings.Contains(line, "failed=2") {
		t.Errorf("got %q, want the daemon back after its first delay", line)
	}
	if status, a := callRPC(t, address+"/machines/m", "config/get", "{}"); status != 200 || a.Error != nil {
		t.Errorf("config/get over the second hub: status %d, %v, want 200", status, a.Error)
	}
}

// TestDaemonIsStopped: a daemon that is stopped (SIGSTOP) is offline after the
// threshold and online again after SIGCONT.
func TestDaemonIsStopped(t *testing.T) {
	skipShort(t, "waits for a threshold of 3 s; TestSilentDaemonGoesOffline does it in memory")
	t.Parallel()
	const threshold = 3 * time.Second // and half of it between two heartbeats
	hub, address := startSchedulerProcess(t, nil, "--offline-threshold", threshold.String())
	d := startUserDaemon(t, address, "m", nil)
	if err := d.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	line := hub.says(`msg="machine offline"`)
	if took := logTime(t, line).Sub(start); took < threshold/3 || took > threshold+5*time.Second || !strings.Contains(line, "no heartbeat") {
		t.Errorf("offline after %v by %q, want after %v for want of heartbeats", took, line, threshold)
	}
	if err := d.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	awaitThat(t, "the daemon to be back", func() bool { return strings.Count(d.stderr.String(), "msg=connected") > 1 })
	if status, a := callRPC(t, address+"/machines/m", "config/get", "{}"); status != 200 || a.Error != nil {
		t.Errorf("config/get after the daemon woke: status %d, %v, want 200", status, a.Error)
	}
}

// TestHubIsStoppedDuringBigResult: the hub's process is stopped (SIGSTOP) in the
// middle of a result of almost 16 MiB. The daemon gives the link up after 10 s
// without a write (2 s by its faster clock) and connects again when the hub goes
// on; it delivers the remembered result of the one run.
func TestHubIsStoppedDuringBigResult(t *testing.T) {
	skipShort(t, "waits 2 s for the limit of a piece; TestHubThatStopsReading does it without processes")
	t.Parallel()
	const scale = 5
	const size = defaultMaxMessage - 1000
	dir := realTempDir(t)
	script := filepath.Join(dir, "big.sh")
	if err := os.WriteFile(script, fmt.Appendf(nil, `echo >>'%s/runs'; printf '"'; head -c %d /dev/zero | tr '\0' a; printf '"'`, dir, size), 0o600); err != nil {
		t.Fatal(err)
	}
	hub, address := startSchedulerProcess(t, nil)
	proxy := newFaultProxy(t, address)
	proxy.up.set(toxics{rate: 8 << 20}) // slow enough to stop it in the middle
	d := startUserDaemon(t, proxy.address, "m", []string{fmt.Sprintf("%s=%d", testClockVariable, scale)}, "--handler", "test/big=sh '"+script+"'")
	type answer struct {
		bytes int64
		err   error
	}
	answered := make(chan answer, 1)
	go func() {
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 3 * patience}
		response, err := client.Post(address+"/machines/m/rpc", "application/json", strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"test/big"}`))
		if err != nil {
			answered <- answer{0, err}
			return
		}
		defer response.Body.Close()
		n, err := io.Copy(io.Discard, response.Body)
		answered <- answer{n, err}
	}()
	awaitThat(t, "the result to be on its way", func() bool { return proxy.up.carried() > 1<<20 })
	if err := hub.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	stopped := time.Now()
	line := d.says("trying again")
	if !strings.Contains(line, errWriteTimeout.Error()) || time.Since(stopped) < 9*time.Second/scale {
		t.Errorf("the link was given up after %v with %q, want %v at the earliest and %q", time.Since(stopped), line, 9*time.Second/scale, errWriteTimeout)
	}
	t.Logf("the link was given up after %v", time.Since(stopped))
	proxy.up.set(toxics{})
	if err := hub.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	select {
	case a := <-answered:
		if a.err != nil || a.bytes < size {
			t.Errorf("the call got %d bytes, %v, want at least %d", a.bytes, a.err, size)
		}
	case <-time.After(3 * patience):
		t.Fatalf("the call got no answer within %v, want the result after the reconnect", 3*patience)
	}
	hub.says("sending the request again")
	if runs, err := os.ReadFile(filepath.Join(dir, "runs")); err != nil || len(runs) != 1 {
		t.Errorf("the program ran %d times (%v), want once", len(runs), err)
	}
}

// TestIPv6: a user's daemon and one of the pool clone over ::1.
func TestIPv6(t *testing.T) {
	skipShort(t, "it takes about a second")
	t.Parallel()
	if l, err := net.Listen("tcp", "[::1]:0"); err != nil {
		t.Skip("this system has no ::1:", err)
	} else {
		_ = l.Close()
	}
	git := newGitServer(t)
	repo := git.repo("lib.git", map[string]string{"a": "1"})
	_, address := startSchedulerProcess(t, nil, "--host", "::1")
	if !strings.HasPrefix(address, "http://[::1]:") {
		t.Fatalf("the scheduler is at %q, want http://[::1]:PORT", address)
	}
	startUserDaemon(t, strings.TrimPrefix(address, "http://"), "m", nil, "--work-dir", filepath.Join(realTempDir(t), "w"))
	for _, target := range []string{"/machines/m", "/libraries/demo"} {
		_, a := callRPC(t, address+target, "vcs/clone", `{"url":"`+git.address("lib.git")+`"}`)
		if a.Error != nil || field[string](t, a.Result, "commit") != repo.head() {
			t.Errorf("cloning by %s: got %s, %v, want the commit %s", target, a.Result, a.Error, repo.head())
		}
	}
	for _, id := range []string{"m", "cloud_demo"} {
		if _, body := askHTTP(t, http.MethodGet, address+"/machines/"+id, ""); field[string](t, []byte(body), "status") != "online" {
			t.Errorf("machine %s is %s, want it online", id, body)
		}
	}
	p := start(t, schedulerName, nil, "call", "--url", address, "demo", "config/get")
	if code := p.exit(); code != 0 || !strings.Contains(p.stdout.String(), "cloud_demo") {
		t.Errorf("call over ::1: exit %d and %q, want 0 and the configuration of cloud_demo", code, p.stdout)
	}
}

// slowClone calls vcs/clone over the hub for a repository whose server waits for
// release. asked receives a value for each request of git, answered the answer.
func slowClone(t *testing.T, git *gitServer, address string) (asked chan struct{}, release func(), answered chan rpcAnswer) {
	t.Helper()
	asked, answered = make(chan struct{}, 100), make(chan rpcAnswer, 1)
	gate := make(chan struct{})
	release = sync.OnceFunc(func() { close(gate) })
	git.setHook(func(_ http.ResponseWriter, r *http.Request) bool {
		asked <- struct{}{}
		select {
		case <-gate:
			return false
		case <-r.Context().Done():
			return true
		}
	})
	go func() {
		_, a := callRPC(t, address+"/machines/m", "vcs/clone", `{"url":"`+git.address("lib.git")+`"}`)
		answered <- a
	}()
	t.Cleanup(release)
	select {
	case <-asked:
	case <-time.After(patience):
		t.Fatalf("the git server got no request within %v, want the clone's", patience)
	}
	return asked, release, answered
}

// TestLinkIsCutDuringClone: the link is reset twice during a clone. Git runs once,
// and its result is delivered.
func TestLinkIsCutDuringClone(t *testing.T) {
	skipShort(t, "waits for two reconnects, for seconds; TestCutAfterEachByte cuts links in memory")
	t.Parallel()
	git := newGitServer(t)
	repo := git.repo("lib.git", map[string]string{"a": "1"})
	_, address := startSchedulerProcess(t, nil)
	proxy := newFaultProxy(t, address)
	d := startUserDaemon(t, proxy.address, "m", nil, "--work-dir", filepath.Join(realTempDir(t), "w"))
	_, release, answered := slowClone(t, git, address)
	for cuts := 1; cuts <= 2; cuts++ {
		proxy.reset()
		awaitThat(t, "the daemon to be back", func() bool { return strings.Count(d.stderr.String(), "msg=connected") == cuts+1 })
	}
	if got := git.requests(); len(got) != 1 {
		t.Errorf("the git server got %q, want one request for all three links", got)
	}
	release()
	a := <-answered
	if a.Error != nil || field[string](t, a.Result, "commit") != repo.head() || field[string](t, a.Result, "action") != "cloned" {
		t.Errorf("the clone got %s, %v, want action cloned and the commit %s", a.Result, a.Error, repo.head())
	}
	fetches := slices.DeleteFunc(git.requests(), func(r string) bool { return !strings.HasPrefix(r, "GET ") })
	if len(fetches) != 1 {
		t.Errorf("the git server got %q, want the request of one git clone", fetches)
	}
}

// TestDaemonIsKilledDuringClone: the hub sends the request again to the machine's
// next daemon.
func TestDaemonIsKilledDuringClone(t *testing.T) {
	skipShort(t, "waits for a reconnect of processes; TestLinkLostWhileTasksWait does it in memory")
	t.Parallel()
	git := newGitServer(t)
	repo := git.repo("lib.git", map[string]string{"a": "1"})
	_, address := startSchedulerProcess(t, nil)
	workDir := filepath.Join(realTempDir(t), "w")
	first := startUserDaemon(t, address, "m", nil, "--work-dir", workDir)
	_, release, answered := slowClone(t, git, address)
	if err := first.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	first.exit()
	release()
	startUserDaemon(t, address, "m", nil, "--work-dir", workDir)
	if a := <-answered; a.Error != nil || field[string](t, a.Result, "commit") != repo.head() {
		t.Errorf("the clone got %s, %v, want the commit %s from the next daemon", a.Result, a.Error, repo.head())
	}
}

// TestTwoCloudDaemons: of two processes with one cloud machine id the newer stays
// connected; the older exits with status 5 and does not connect again.
func TestTwoCloudDaemons(t *testing.T) {
	t.Parallel()
	b := newSocketBench(t, func(c *hubConfig) { c.times, c.offlineThreshold = defaultLinkTimes(), defaultOfflineThreshold })
	proxy := newFaultProxy(t, b.server.Host) // counts the connections
	cloud := func() *startedProgram {
		p := start(t, daemonName, []string{"C4A_TOKEN=child:cloud_x"}, "--server", proxy.address, "--machine-id", "cloud_x", "--work-dir", filepath.Join(realTempDir(t), "w"))
		p.says("msg=connected")
		return p
	}
	older := cloud()
	newer := cloud()
	if code := older.exit(); code != exitReplaced {
		t.Errorf("the older daemon: exit %d, want %d: %s", code, exitReplaced, older.stderr)
	}
	v, _ := b.hub.view("cloud_x")
	if got := b.statuses("cloud_x"); v.PID != newer.cmd.Process.Pid || v.Status != "online" || !slices.Equal(got, []string{"online", "online"}) || proxy.dialled() != 2 {
		t.Errorf("the machine was %q over %d connections and is pid %d, %s; want online twice over 2 and pid %d, online", got, proxy.dialled(), v.PID, v.Status, newer.cmd.Process.Pid)
	}
}

// TestDaemonIsKilledDuringRead: a request that only reads runs again in the
// machine's next daemon.
func TestDaemonIsKilledDuringRead(t *testing.T) {
	t.Parallel()
	dir := realTempDir(t)
	script := filepath.Join(dir, "read.sh")
	// The first run waits until it is killed with its daemon.
	if err := os.WriteFile(script, fmt.Appendf(nil, `cd '%s'; if mkdir first; then cat wait; else echo '"again"'; fi`, dir), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "wait"), 0o600); err != nil {
		t.Fatal(err)
	}
	gate, err := os.OpenFile(filepath.Join(dir, "wait"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = gate.Close() }) // ends what the killed daemon left
	_, address := startSchedulerProcess(t, nil)
	handler := "test/read=sh '" + script + "'"
	first := startUserDaemon(t, address, "m", nil, "--handler", handler)
	answered := make(chan rpcAnswer, 1)
	go func() {
		_, a := callRPC(t, address+"/machines/m", "test/read", `{}`)
		answered <- a
	}()
	awaitThat(t, "the first run", func() bool { _, err := os.Stat(filepath.Join(dir, "first")); return err == nil })
	if err := first.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	first.exit()
	startUserDaemon(t, address, "m", nil, "--handler", handler)
	select {
	case a := <-answered:
		if a.Error != nil || string(a.Result) != `"again"` {
			t.Errorf("the call got %s, %v, want the second run's \"again\"", a.Result, a.Error)
		}
	case <-time.After(patience):
		t.Fatalf("the call got no answer within %v, want the second run's", patience)
	}
}

// TestReplacedDaemonExits: close code 4001 ends the process with status 5.
func TestReplacedDaemonExits(t *testing.T) {
	t.Parallel()
	address, connected := serveOneDaemon(t)
	p := start(t, daemonName, nil, "--server", address, "--machine-id", "m")
	s := <-connected
	if err := s.conn.Close(closeReplaced, "replaced"); err != nil {
		t.Error(err)
	}
	if code := p.exit(); code != exitReplaced || !strings.Contains(p.stderr.String(), errReplaced.Error()) {
		t.Errorf("exit %d, want %d and %q: %s", code, exitReplaced, errReplaced, p.stderr)
	}
}

// TestOversizedMessageMemory: a message over the limit, by a byte or by far, makes
// the daemon connect again; it does not keep what exceeds the limit in memory.
func TestOversizedMessageMemory(t *testing.T) {
	skipShort(t, "sends 200 MiB to a process; TestOversizedMessageClosesWith1009 does it in memory")
	t.Parallel()
	address, connected := serveOneDaemon(t)
	p := start(t, daemonName, nil, "--server", address, "--machine-id", "m")
	peak := func() (kib int64, err error) {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
		_, rest, _ := strings.Cut(string(status), "VmHWM:")
		if err == nil {
			_, err = fmt.Sscan(rest, &kib)
		}
		return kib, err
	}
	s := <-connected
	before, err := peak()
	for _, size := range []int{defaultMaxMessage + 1, 200 << 20} {
		w, err := s.conn.Writer(t.Context(), websocket.MessageText)
		for piece := make([]byte, 1<<20); err == nil && size > 0; size -= len(piece) {
			_, err = w.Write(piece[:min(len(piece), size)])
		}
		if err == nil {
			err = w.Close()
		}
		if size > defaultMaxMessage && err == nil {
			t.Error("the daemon took 200 MiB in a message, want the link closed")
		}
		select {
		case s = <-connected:
		case <-time.After(patience):
			t.Fatalf("the daemon did not connect again within %v, want a reconnect after a message over the limit", patience)
		}
		p.says("message too big")
	}
	if err != nil {
		t.Skip("no /proc to read the memory from:", err)
	}
	after, err := peak()
	t.Logf("%d KiB before, %d after", before, after)
	most := int64(defaultMaxMessage+64<<20) >> 10
	if underRace() {
		most *= 8 // the detector's own memory
	}
	if err != nil || after-before > most {
		t.Errorf("the daemon had %d KiB more, want at most %d", after-before, most)
	}
}

// connectProxy serves an HTTP proxy that only supports CONNECT and connects every
// host to 127.0.0.1. asked returns the hosts with the credentials for the proxy.
func connectProxy(t *testing.T) (address string, asked func() []string) {
	t.Helper()
	var mu sync.Mutex
	var all []string
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait)
	address = newHTTPServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		all = append(all, r.Method+" "+r.Host+" "+r.Header.Get("Proxy-Authorization"))
		mu.Unlock()
		_, port, err := net.SplitHostPort(r.Host)
		if r.Method != http.MethodConnect || err != nil {
			http.Error(w, "CONNECT only", http.StatusMethodNotAllowed)
			return
		}
		if r.Header.Get("Proxy-Authorization") == "" {
			w.Header().Set("Proxy-Authenticate", `Basic realm="proxy"`)
			http.Error(w, "who are you?", http.StatusProxyAuthRequired)
			return
		}
		there, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		here, buffers, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.WriteString(here, "HTTP/1.1 200 Connection established\r\n\r\n")
		pass := func(to, from net.Conn, r io.Reader) {
			_, _ = io.Copy(to, r)
			_, _ = to.Close(), from.Close()
		}
		wg.Go(func() { pass(there, here, bufio.NewReader(buffers)) })
		wg.Go(func() { pass(here, there, there) })
	}))
	return address, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(all)
	}
}

// TestTLSThroughProxy: a daemon and its git connect through an HTTP CONNECT proxy
// to a server with a certificate of a private authority.
func TestTLSThroughProxy(t *testing.T) {
	skipShort(t, "it takes about a second")
	t.Parallel()
	caFile, certificate := authority(t)
	git := newGitServer(t)
	repo := git.repo("lib.git", map[string]string{"a": "1"})
	connected := make(chan *websocket.Conn, 10)
	upgrades := make(chan http.Header, 10)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != linkPath {
			git.Config.Handler.ServeHTTP(w, r) // the same host is git's
			return
		}
		upgrades <- r.Header
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		_, data, err := conn.Read(context.Background())
		if err != nil || !strings.Contains(string(data), handshakeMethod) {
			t.Errorf("the first message is %s, %v, want the handshake", data, err)
			return
		}
		_ = conn.Write(context.Background(), websocket.MessageText, []byte(`{"jsonrpc":"2.0","id":1,"result":{"accepted":true}}`))
		connected <- conn
	}))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
	server.StartTLS()
	t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
	proxy, asked := connectProxy(t)
	withPassword := strings.Replace(proxy, "://", "://user:proxy-s3cret@", 1)
	host := "c4a.test:" + port(t, server.URL)
	run := func(address string, env ...string) *startedProgram {
		return start(t, daemonName, env, "--server", "wss://"+address, "--machine-id", "m", "--ca-file", caFile, "--max-reconnect-attempts", "1", "--work-dir", filepath.Join(realTempDir(t), "w"))
	}

	p := run(host, "HTTPS_PROXY="+withPassword)
	var conn *websocket.Conn
	select {
	case conn = <-connected:
	case <-time.After(patience):
		t.Fatalf("no daemon connected within %v, want one through the proxy", patience)
	}
	if header := <-upgrades; header.Get("Proxy-Authorization") != "" {
		t.Error("the server got the header Proxy-Authorization, want it at the proxy alone")
	}
	const basic = " Basic dXNlcjpwcm94eS1zM2NyZXQ="
	if got := asked(); !slices.Equal(got, []string{"CONNECT " + host + basic}) {
		t.Errorf("the proxy was asked for %q, want CONNECT to the server with the password", got)
	}
	if err := conn.Write(t.Context(), websocket.MessageText, []byte(`{"jsonrpc":"2.0","id":1,"method":"vcs/clone","params":{"url":"https://`+host+`/lib.git"}}`)); err != nil {
		t.Fatal(err)
	}
	for answer := ""; !strings.Contains(answer, `"id":1`); {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		_, data, err := conn.Read(ctx)
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		if answer = string(data); strings.Contains(answer, `"id":1`) && !strings.Contains(answer, repo.head()) {
			t.Errorf("the clone was answered by %s, want the commit %s", answer, repo.head())
		}
	}
	if got := asked(); len(got) < 2 || got[len(got)-1] != "CONNECT "+host+basic {
		t.Errorf("the proxy was asked for %q, want git's CONNECT as the last", got)
	}
	_ = conn.Close(websocket.StatusGoingAway, "")
	if code := p.exit(); code != exitGaveUp || strings.Contains(p.stderr.String(), "s3cret") {
		t.Errorf("exit %d, want %d and no password in the log: %s", code, exitGaveUp, p.stderr)
	}

	// NO_PROXY excludes the host.
	before := len(asked())
	direct := "127.0.0.1:" + port(t, server.URL) // Go never uses a proxy for it, git does: NO_PROXY names it
	p = run(direct, "HTTPS_PROXY="+proxy, "NO_PROXY=127.0.0.1")
	select {
	case conn = <-connected:
	case <-time.After(patience):
		t.Fatalf("no daemon connected within %v, want one past the proxy", patience)
	}
	_ = conn.Close(websocket.StatusGoingAway, "")
	p.exit()
	p = run(host, "HTTPS_PROXY="+proxy, "NO_PROXY=.test")
	if code := p.exit(); code != exitGaveUp { // nobody knows the name but the proxy
		t.Errorf("exit %d for a host in NO_PROXY that only the proxy knows, want %d", code, exitGaveUp)
	}
	if got := asked(); len(got) != before {
		t.Errorf("the proxy was asked for %q, want nothing for a host in NO_PROXY", got[before:])
	}

	// The errors for an unknown authority and an unusable proxy show no password.
	p = start(t, daemonName, []string{"HTTPS_PROXY=" + withPassword}, "--server", "wss://"+host, "--max-reconnect-attempts", "1")
	if code := p.exit(); code != exitGaveUp || !strings.Contains(p.stderr.String(), "certificate signed by unknown authority") || strings.Contains(p.stderr.String(), "s3cret") {
		t.Errorf("exit %d, want %d, an unknown authority and no password: %s", code, exitGaveUp, p.stderr)
	}
	for _, broken := range []string{"http://user:proxy-s3cret@host:port", "http://user:proxy-s3cret@127.0.0.1:1", "ftp://user:proxy-s3cret@127.0.0.1:1"} {
		p = run(host, "HTTPS_PROXY="+broken)
		if code := p.exit(); code != exitGaveUp || strings.Contains(p.stderr.String(), "s3cret") {
			t.Errorf("proxy %s: exit %d, want %d and no password: %s", broken, code, exitGaveUp, p.stderr)
		}
	}
}

// A scheduler that is started for one call accepts the scheduler's flags, such as
// those of TLS.
func TestCallCommandWithTLS(t *testing.T) {
	t.Parallel()
	pair := newTestCA(t).issue("localhost", nil).write(t.TempDir())
	p := start(t, schedulerName, nil, "call", "--tls-cert", pair.certFile, "--tls-key", pair.keyFile, "demo", "config/get")
	if code := p.exit(); code != 0 {
		if strings.Contains(p.stderr.String(), "querying the scheduler at") || strings.Contains(p.stderr.String(), "a scheduler already listens at") {
			t.Skip("something listens on the scheduler's default port of this machine: " + p.stderr.String())
		}
		t.Errorf("exit %d, want success: %s", code, p.stderr)
	}
}
