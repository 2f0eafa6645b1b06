//go:build linux || darwin

package main

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestPageHeaders: the page loads nothing, and its policy allows only its own script
// and style.
func TestPageHeaders(t *testing.T) {
	s := newExampleScheduler(t, func(c *schedulerConfig) { c.apiToken = "s3cret" })
	response := s.send(t.Context(), "GET", "/", "", "")
	defer response.Body.Close()
	body, err := readSome(response.Body, nil)
	if err != nil {
		t.Fatal(err)
	}
	policy := response.Header.Get("Content-Security-Policy")
	if response.StatusCode != 200 || !strings.HasPrefix(policy, "default-src 'none'; script-src 'sha256-") || strings.Contains(policy, "unsafe") || strings.Contains(policy, "*") {
		t.Errorf("got status %d and the policy %q, want 200 without a token and a strict one", response.StatusCode, policy)
	}
	for _, word := range []string{"src=", "http://", "https://", "innerHTML", " style=", "onclick=\"", "@import", "url("} {
		if strings.Contains(body, word) {
			t.Errorf("the page has %q, want nothing that loads or runs text", word)
		}
	}
	for _, word := range []string{"script", "style"} {
		if strings.Count(body, "<"+word) != 1 {
			t.Errorf("the page has %d elements %s, want one: its hash is in the policy", strings.Count(body, "<"+word), word)
		}
	}
	if status, _ := askHTTP(t, "GET", s.url()+"/index.html", "", "Authorization", "Bearer s3cret"); status != 404 {
		t.Errorf("GET /index.html: got status %d, want 404: only / is the page", status)
	}
}

// TestPageInBrowser drives the page of a real scheduler in a real Chromium.
func TestPageInBrowser(t *testing.T) {
	t.Parallel()
	skipShort(t, "starts a browser; TestPageHeaders has the policy")
	b := newBrowser(t)
	t.Run("live", func(t *testing.T) { testPageLive(t, b) })
	t.Run("reconnects", func(t *testing.T) { testPageReconnects(t, b) })
	t.Run("hostile", func(t *testing.T) { testPageHostile(t, b) })
	t.Run("nodes", func(t *testing.T) { testPageNodes(t, b) })
	t.Run("pictures", func(t *testing.T) { testPagePictures(t, b) })
}

// testPagePictures takes the screenshots of scripts/screenshots.sh.
func testPagePictures(t *testing.T, b *browser) {
	if os.Getenv("TEST_SCREENSHOTS") == "" {
		t.Skip("TEST_SCREENSHOTS names no directory for screenshots")
	}
	now := time.Now().UTC()
	ago := func(d time.Duration) *time.Time { at := now.Add(-d); return &at }
	machine := func(id, system, lib, status string, paths ...string) machineView {
		return machineView{
			handshakeParams: handshakeParams{MachineID: id, Version: programVersion(), OS: system, Arch: "arm64", AllowedPaths: paths},
			Status:          status, LibID: lib, LastHeartbeatAt: ago(7 * time.Second),
		}
	}
	daemon := func(id string, status entryStatus, active int, used time.Duration) poolEntry {
		return poolEntry{LibID: id, MachineID: machineIDOf(id), Status: status, PID: 4000 + len(id), Busy: active > 0, ActiveRequests: active, LastUsedAt: *ago(used), StartedAt: *ago(2 * used)}
	}
	died := daemon("billing", statusExited, 0, 12*time.Minute)
	died.PID, died.Restarts, died.LastError = 0, 2, "the daemon ended with signal: killed, not by the scheduler: was the machine or the container out of memory?"
	daemons := []poolEntry{died, daemon("docs", statusReady, 0, 3*time.Minute), daemon("linux", statusReady, 1, time.Second), daemon("website", statusStarting, 0, time.Second)}
	f := &fakeAPI{events: newEvents(slog.New(slog.NewTextHandler(t.Output(), nil))), answers: map[string]any{
		"/health":    healthView{Status: "ok", Version: programVersion(), UptimeSeconds: 93_784, Daemons: poolCounts{Running: 3, Ready: 2, Starting: 1, Busy: 1, Max: 20}, Disk: diskUsage{TotalBytes: 500 << 30, FreeBytes: 310 << 30, UsedPercent: 38}, Hub: true},
		"/daemons":   map[string]any{"daemons": daemons, "max": 20},
		"/machines":  map[string]any{"machines": []machineView{machine("MacBook-Pro", "darwin", "app", "online", "/Users/me/projects"), machine("build-7", "linux", "", "offline", "/srv/src")}, "next_cursor": nil},
		"/libraries": map[string]any{"libraries": []binding{{"app", "MacBook-Pro"}}, "next_cursor": nil},
		"/activity": activityView{
			Requests: []runningRequest{
				{Method: cloneMethod, LibID: "linux", MachineID: "cloud_linux", TaskID: "a", StartedAt: *ago(48 * time.Second), Progress: &progress{Phase: phaseReceiving, Percent: 41, Bytes: 187 << 20, BytesPerSecond: 4 << 20}},
				{Method: "fs/search", LibID: "app", MachineID: "MacBook-Pro", TaskID: "b", StartedAt: *ago(2 * time.Second)},
			},
			Failures: []failedRequest{
				{LibID: "billing", MachineID: "cloud_billing", At: *ago(12 * time.Minute), Code: "DAEMON_DIED", Message: died.LastError},
				{Method: cloneMethod, LibID: "docs", MachineID: "cloud_docs", At: *ago(3 * time.Minute), Code: "GIT_FAILED", Reason: "auth", Message: "git fetch: the remote asks for credentials: store a token with config/setAuth"},
			},
		},
	}}
	url := newHTTPServer(t, f)
	defer f.events.close()
	live := func(rows int) {
		t.Helper()
		b.await(fmt.Sprintf("document.getElementById('state').textContent === 'live' && document.querySelectorAll('#daemons tbody tr').length === %d", rows))
	}
	b.resize(1000, 620, "light")
	b.open(url + "/")
	live(len(daemons))
	b.screenshot("status")
	b.resize(1280, 1100, "light")
	b.screenshot("light")
	b.resize(1280, 1100, "dark")
	b.screenshot("dark")
	b.resize(1280, 420, "light")
	b.run("document.getElementById('h-failures').scrollIntoView()")
	b.screenshot("error")
	b.run("document.getElementById('h-requests').scrollIntoView()")
	b.screenshot("clone")
	b.resize(360, 740, "dark")
	b.run("scrollTo(0, 0)")
	b.screenshot("360px")
	for n := range 996 {
		daemons = append(daemons, daemon(fmt.Sprintf("library_%03d", n), statusReady, n%3, time.Duration(n)*time.Second))
	}
	f.mu.Lock()
	f.answers["/daemons"] = map[string]any{"daemons": daemons, "max": 1000}
	f.mu.Unlock()
	b.resize(1280, 1100, "light")
	b.open(url + "/")
	live(1000)
	b.run("document.getElementById('h-daemons').scrollIntoView()")
	b.screenshot("1000-daemons")
}

// testPageNodes shows the daemons of another scheduler, and one that does not answer.
func testPageNodes(t *testing.T, b *browser) {
	there := newExampleScheduler(t)
	b.open(there.url() + "/")
	b.await("document.getElementById('state').textContent === 'live'")
	b.await("getComputedStyle(document.querySelector('#daemons th.node')).display === 'none' && document.getElementById('lost').hidden")
	here := newExampleScheduler(t, func(c *schedulerConfig) { c.cluster, c.peers = true, list{there.url(), "http://127.0.0.1:1"} })
	askHTTP(t, "PUT", there.url()+"/daemons/demo", "")
	b.open(here.url() + "/")
	b.await("document.querySelector('#daemons tbody .node')?.textContent === '" + there.url() + "'")
	if text := b.text("#lost"); !strings.Contains(text, "http://127.0.0.1:1: ") {
		t.Errorf("got %q about the schedulers that do not answer, want http://127.0.0.1:1", text)
	}
	b.await("document.querySelectorAll('#machines tbody tr').length === 1") // cloud_demo
	askHTTP(t, "POST", there.url()+"/daemons/demo/stop", "")
	b.await("document.querySelectorAll('#daemons tbody tr').length === 0") // by an event of the other scheduler
}

func testPageLive(t *testing.T, b *browser) {
	s := newExampleScheduler(t, func(c *schedulerConfig) { c.apiToken = "s3cret" })
	b.resize(1200, 900, "light")
	b.open(s.url() + "/")
	b.await("document.getElementById('ask').open")
	b.typeInto("#token", "wrong")
	b.click("#ask-yes")
	b.await("document.getElementById('ask').open && document.getElementById('token').value === ''")
	b.typeInto("#token", "s3cret\n")
	b.await("document.getElementById('state').textContent === 'live'")
	if errors := b.consoleErrors("401 (Unauthorized)"); len(errors) > 0 {
		t.Errorf("the console says %q, want nothing but the refused token", errors)
	}
	if stored := b.run("return localStorage.length + ' ' + document.cookie"); stored != "0 " {
		t.Errorf("the page stores %q beyond the tab, want nothing", stored)
	}

	// A daemon appears and can be stopped and deleted.
	token := []string{"Authorization", "Bearer s3cret"}
	askHTTP(t, "PUT", s.url()+"/daemons/demo", "", token...)
	b.await("document.querySelector('#daemons td.ready')")
	if text := b.text("#daemons"); !strings.Contains(text, "cloud_demo") {
		t.Errorf("the table of daemons is %q, want demo in it", text)
	}
	b.click("#daemons button[aria-label='Stop demo']")
	b.click("#ask-no")
	b.click("#daemons button[aria-label='Stop demo']")
	b.click("#ask-yes")
	b.await("document.getElementById('daemons').hidden")
	if status, _ := askHTTP(t, "GET", s.url()+"/daemons/demo", "", token...); status != 404 {
		t.Errorf("after Stop: GET /daemons/demo got status %d, want 404", status)
	}

	// A request runs, its progress moves, and it fails.
	c := &call{method: cloneMethod, libID: "demo", taskID: "task", began: time.Now()}
	s.requests.begin(c)
	c.progress.Store(&progress{Phase: phaseReceiving, Percent: 12, Bytes: 5 << 20, BytesPerSecond: 1 << 20})
	b.await("document.querySelector('#requests progress')?.value === 12")
	next := progress{Phase: phaseReceiving, Percent: 57, Bytes: 21 << 20, BytesPerSecond: 3 << 20}
	c.progress.Store(&next) // the page may load the activity anew at any time
	s.events.publish(progressMethod, machineProgress{MachineID: "cloud_demo", LibID: "demo", taskProgress: taskProgress{TaskID: "task", progress: next}})
	b.await("document.querySelector('#requests progress').value === 57")
	if text := b.text("#requests"); !strings.Contains(text, "57 % receiving 21.0 MiB 3.0 MiB/s") {
		t.Errorf("the table of requests is %q, want percent, phase, bytes and rate", text)
	}
	s.requests.end(c)
	s.requests.failed(failedRequest{Method: cloneMethod, LibID: "demo", At: time.Now().UTC(), Code: "GIT_FAILED", Reason: "auth", Message: "the remote wants a token"})
	b.await("document.getElementById('requests').hidden && document.querySelector('#failures td')")
	if text := b.text("#failures"); !strings.Contains(text, "GIT_FAILED auth") || !strings.Contains(text, "wants a token") {
		t.Errorf("the table of failures is %q, want code, reason and message", text)
	}

	// Binding, by keyboard.
	b.run("document.getElementById('bind').focus()")
	b.typeInto("#bind", "\ue007") // Enter
	b.await("document.activeElement.id === 'bind-lib'")
	b.typeInto("#bind-lib", "mine\t")
	b.await("document.activeElement.id === 'bind-machine'")
	b.typeInto("#bind-machine", "laptop\ue007")
	b.await("document.querySelector('#libraries td') && document.querySelector('#machines td.offline')")
	b.typeInto("body", "/")
	b.await("document.activeElement.id === 'filter'")
	b.typeInto("#filter", "no such thing")
	b.await("document.getElementById('libraries').hidden && document.getElementById('failures').hidden && [...document.querySelectorAll('#events li')].every(e => e.hidden)")
	b.run("const f = document.getElementById('filter'); f.value = ''; f.oninput()")

	// The scheduler goes: the page says so.
	s.events.close()
	b.await("!document.getElementById('stale').hidden && document.getElementById('state').textContent === 'disconnected'")
	if text := b.text("#stale"); !strings.Contains(text, "Not up to date since") {
		t.Errorf("the banner says %q, want since when it is stale", text)
	}
	b.consoleErrors() // of the lost connection
}

// testPageReconnects kills a scheduler: the page shows the next one by itself.
func testPageReconnects(t *testing.T, b *browser) {
	workspace := realTempDir(t)
	first := start(t, schedulerName, nil, "--port", "0", "--workspace", workspace, "--min-free-disk", "0")
	address := first.url()
	b.open(address + "/")
	b.await("document.getElementById('state').textContent === 'live'")
	if err := first.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	b.await("!document.getElementById('stale').hidden")
	_, port, _ := strings.Cut(strings.TrimPrefix(address, "http://"), ":")
	next := start(t, schedulerName, nil, "--port", port, "--workspace", workspace, "--min-free-disk", "0")
	next.url()
	askHTTP(t, "PUT", address+"/daemons/after", "")
	b.await("document.getElementById('stale').hidden && document.getElementById('state').textContent === 'live' && document.querySelector('#daemons td.ready')")
	if text := b.text("#daemons"); !strings.Contains(text, "cloud_after") {
		t.Errorf("the table of daemons is %q, want that of the next scheduler", text)
	}
	b.consoleErrors() // of the lost connection
}

// fakeAPI answers the questions of the page with what a test sets.
type fakeAPI struct {
	mu      sync.Mutex
	answers map[string]any
	events  *events
}

func (f *fakeAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/events" {
		f.events.serve(w, r)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if answer, ok := f.answers[r.URL.Path]; ok {
		writeJSON(w, 200, answer)
		return
	}
	newStatusPage().serve(w, r)
}

// testPageHostile: hostile names and texts are text, a thousand daemons stay fluid,
// and no page is wider than the window.
func testPageHostile(t *testing.T, b *browser) {
	attack := `<img src=x onerror="document.title='attacked'"><script>document.title='attacked'</script>` + "\u202e\x1b[31m"
	huge := strings.Repeat("A", 1<<20)
	now := time.Now().UTC()
	daemons := []poolEntry{{LibID: attack, MachineID: attack, Status: statusExited, LastError: attack + "\n" + huge}}
	for n := range 999 {
		daemons = append(daemons, poolEntry{LibID: fmt.Sprintf("lib_%03d", n), MachineID: "cloud_x", Status: statusReady, PID: n + 1, LastUsedAt: now, StartedAt: now})
	}
	version := "0.1.0"
	machine := machineView{handshakeParams: handshakeParams{MachineID: attack, Version: version, AllowedPaths: []string{attack, huge}}, Status: "online", LibID: attack}
	f := &fakeAPI{events: newEvents(slog.New(slog.NewTextHandler(t.Output(), nil))), answers: map[string]any{
		"/health":    healthView{Status: "ok", Version: version, Daemons: poolCounts{Running: 999, Ready: 999, Max: 1000}, Disk: diskUsage{TotalBytes: 100 << 30, FreeBytes: 60 << 30, UsedPercent: 40}, Hub: true},
		"/daemons":   map[string]any{"daemons": daemons, "max": 1000},
		"/machines":  map[string]any{"machines": []machineView{machine}, "next_cursor": nil},
		"/libraries": map[string]any{"libraries": []binding{{attack, attack}}, "next_cursor": nil},
		"/activity": activityView{
			Requests: []runningRequest{{Method: attack, LibID: attack, TaskID: attack, StartedAt: now, Progress: &progress{Phase: attack, Percent: 1 << 30, Total: -1}}},
			Failures: []failedRequest{{Method: attack, LibID: attack, At: now, Code: attack, Message: attack + huge}},
		},
	}}
	url := newHTTPServer(t, f)
	defer f.events.close()
	b.resize(1200, 900, "dark")
	b.consoleErrors()
	b.open(url + "/")
	b.await("document.getElementById('state').textContent === 'live' && document.querySelectorAll('#daemons tbody tr').length === 1000")
	data, err := json.Marshal(map[string]string{"lib_id": attack, attack: attack, "status": "ready"})
	if err != nil {
		t.Fatal(err)
	}
	for range 500 {
		f.events.publish("pool/entry", json.RawMessage(data))
		f.events.publish(attack, json.RawMessage(data))
	}
	b.await("document.querySelectorAll('#events li').length === 200")
	for _, name := range []string{"document.title === 'c4a-daemon-scheduler'", "document.images.length === 0", "document.scripts.length === 1", "!/[\\u202e\\u001b]/.test(document.body.textContent)"} {
		if b.run("return "+name) != true {
			t.Errorf("%s is false, want hostile text to be shown as text", name)
		}
	}
	if length, ok := b.run("return Math.max(...[...document.querySelectorAll('td, li')].map(e => e.textContent.length))").(float64); !ok || length > 5000 {
		t.Errorf("the longest cell has %v characters, want long texts cut", length)
	}

	// The time that a filter and a thousand changes take until they are drawn.
	var took float64
	b.do("POST", "/execute/async", map[string]any{"args": []any{}, "script": `
		const done = arguments[0], filter = document.getElementById('filter'), begin = performance.now();
		filter.value = 'lib_5'; filter.oninput();
		requestAnimationFrame(() => requestAnimationFrame(() => requestAnimationFrame(() => {
			filter.value = ''; filter.oninput();
			requestAnimationFrame(() => requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - begin))));
		})));`}, &took)
	t.Logf("1,000 rows filtered and shown again in %.0f ms", took)
	if took > 5000 { // 100 ms on an idle machine
		t.Errorf("filtering 1,000 rows took %.0f ms, want a fluid page", took)
	}
	for _, width := range []int{360, 800, 1200} {
		b.resize(width, 740, "light")
		if got := b.run("const e = document.documentElement; return e.scrollWidth - e.clientWidth"); got != 0.0 {
			t.Errorf("at %d pixels the page is %v too wide, want no sideways scrolling", width, got)
		}
	}
	if errors := b.consoleErrors(); len(errors) > 0 {
		t.Errorf("the console says %q, want nothing", errors)
	}
}
