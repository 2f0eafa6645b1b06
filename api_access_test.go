//go:build linux || darwin

package main

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// accessAPI is an API with the hub's routes and a tokens file.
func accessAPI(t *testing.T, tokens *tokensFile) *api {
	t.Helper()
	a := testAPI(t, func(c *apiConfig, _ *poolConfig) { c.tokens, c.token, c.onDrain = tokens, "single", func() {} })
	libs, err := openLibraries(filepath.Join(t.TempDir(), librariesFile), false, a.log)
	if err != nil {
		t.Fatal(err)
	}
	h := newHub(hubConfig{log: a.log, methods: methodsByName(builtinMethods()), libraryOf: libs.of})
	t.Cleanup(h.close)
	libs.watchMachines(func(machineID string) { h.bound(machineID, libs.of(machineID)) })
	(&hubAPI{callRouter: callRouter{hub: h, pool: a.pool, libraries: libs}, tokens: &childTokens{}, tokensFile: tokens, log: a.log}).register(a)
	return a
}

// Each token opens what its rights and patterns say, on every route that there is.
func TestTokensOnEveryRoute(t *testing.T) {
	t.Parallel()
	a := accessAPI(t, testTokens(t,
		"reader read", "caller call", "cloner clone", "manager manage", "tools mcp", "connects daemon",
		"mine read,call,clone,manage libraries=mine*", "lap read,call,manage machines=lap",
	))
	body := func(pattern string) string {
		switch {
		case strings.HasSuffix(pattern, "/rpc"):
			return `{"jsonrpc":"2.0","id":1,"method":"fs/stat","params":{}}`
		case pattern == "POST /daemons":
			return `{"lib_id":"crash-x"}`
		}
		return `{"machine_id":"other"}`
	}
	// What a token with a right and without patterns may use.
	right := map[string]func(pattern string) bool{
		"READER": func(p string) bool { return strings.HasPrefix(p, "GET ") },
		"CALLER": func(p string) bool { return strings.HasSuffix(p, "/rpc") || strings.HasSuffix(p, "/release") },
		"CLONER": func(p string) bool { return strings.HasSuffix(p, "/release") }, // fs/stat is a call
		"MANAGER": func(p string) bool {
			return !strings.HasPrefix(p, "GET ") && !strings.HasSuffix(p, "/rpc") && !strings.HasSuffix(p, "/release")
		},
		"CONNECTS": func(string) bool { return false },
		"single":   func(string) bool { return true },
		// Of a restricted token: another library, and what concerns all.
		"MINE": func(p string) bool { return strings.HasPrefix(p, "GET ") && !strings.Contains(p, "{") },
		"LAP":  func(p string) bool { return strings.HasPrefix(p, "GET ") && !strings.Contains(p, "{") },
	}
	const drain = "POST /drain" // the last one: then new work is refused
	last := slices.DeleteFunc(slices.Clone(a.patterns), func(p string) bool { return p == drain })
	for _, pattern := range append(last, drain) {
		if a.open[pattern] || pattern == "GET /events" || strings.Contains(pattern, "/mcp") { // /events does not end
			continue
		}
		method, path, _ := strings.Cut(pattern, " ")
		path = strings.NewReplacer("{lib_id}", "crash-x", "{machine_id}", "other").Replace(path)
		for _, given := range []string{"", "wrong", tokenHash("READER")} {
			if w := ask(a, method, path, body(pattern), "Authorization", "Bearer "+given); w.Code != http.StatusUnauthorized {
				t.Errorf("%s with the token %q: got %d, want 401", pattern, given, w.Code)
			}
		}
		for name, allowed := range right {
			w := ask(a, method, path, body(pattern), "Authorization", "Bearer "+name)
			if got := w.Code != http.StatusForbidden; got != allowed(pattern) || w.Code == http.StatusUnauthorized {
				t.Errorf("%s as %s: got %d %s, want allowed %v", pattern, name, w.Code, w.Body, allowed(pattern))
			}
			if strings.Contains(w.Body.String(), name) && name != "single" {
				t.Errorf("%s: the answer %s holds the token", pattern, w.Body)
			}
		}
	}
}

func TestTokensAndTheirPatterns(t *testing.T) {
	t.Parallel()
	a := accessAPI(t, testTokens(t, "mine read,call,clone,manage libraries=mine*", "lap read,call machines=lap", "both manage machines=lap libraries=mine*", "nocall read,clone"))
	call := func(method string) string {
		return `{"jsonrpc":"2.0","id":1,"method":"` + method + `","params":{}}`
	}
	for _, test := range []struct {
		token, method, path, body string
		want                      int
	}{
		{"MINE", "GET", "/daemons/mine1", "", 404}, {"MINE", "GET", "/daemons/other", "", 403},
		{"MINE", "DELETE", "/daemons/mine1", "", 404}, {"MINE", "DELETE", "/daemons/other", "", 403},
		{"MINE", "POST", "/daemons", `{"lib_id":"other"}`, 403}, {"MINE", "PUT", "/daemons/other", "", 403},
		{"MINE", "POST", "/stop", "", 403},
		{"MINE", "POST", "/libraries/other/rpc", call("fs/stat"), 403},
		{"MINE", "POST", "/machines/cloud_mine1/rpc", call("fs/stat"), 403},
		{"MINE", "PUT", "/libraries/mine1", `{"machine_id":"lap"}`, 403}, // through it the machine could be used
		{"BOTH", "PUT", "/libraries/mine1", `{"machine_id":"lap"}`, 200},
		{"BOTH", "PUT", "/libraries/other", `{"machine_id":"lap"}`, 403},
		{"MINE", "POST", "/libraries/mine1/rpc", call("fs/stat"), 503}, // bound to a machine that is offline
		{"LAP", "POST", "/machines/lap/rpc", call("fs/stat"), 503},
		{"LAP", "POST", "/machines/desk/rpc", call("fs/stat"), 403},
		{"LAP", "POST", "/machines/lap/rpc", call("vcs/clone"), 403}, // lacks clone
		{"LAP", "POST", "/machines/lap/rpc", call("config/setAuth"), 403},
		{"NOCALL", "POST", "/libraries/mine1/rpc", call("vcs/clone"), 503},
		{"NOCALL", "POST", "/libraries/mine1/rpc", call("fs/stat"), 403},
	} {
		w := ask(a, test.method, test.path, test.body, "Authorization", "Bearer "+test.token)
		if w.Code != test.want {
			t.Errorf("%s %s %s as %s: got %d %s, want %d", test.method, test.path, test.body, test.token, w.Code, w.Body, test.want)
		}
	}
	for token, want := range map[string]string{"MINE": "mine1", "LAP": "", "single": "mine1"} {
		if w := ask(a, "GET", "/libraries", "", "Authorization", "Bearer "+token); strings.Contains(w.Body.String(), "mine1") != (want != "") {
			t.Errorf("GET /libraries as %s: got %s, want %q in it", token, w.Body, want)
		}
	}
	if w := ask(a, "GET", "/machines", "", "Authorization", "Bearer MINE"); strings.Contains(w.Body.String(), "lap") {
		t.Errorf("GET /machines as MINE: got %s, want no machine", w.Body)
	}
}

func TestTokenMayUseEvents(t *testing.T) {
	t.Parallel()
	token := &apiToken{machines: []string{"lap"}, libraries: []string{"mine*"}}
	for data, want := range map[string]bool{
		`{"machine_id":"lap","lib_id":""}`: true, `{"machine_id":"desk","lib_id":""}`: false, `{"lib_id":"mine1"}`: true,
		`{"lib_id":"other"}`: false, `{}`: false, `[`: false, `{"machine_id":"cloud_mine1","lib_id":"mine1"}`: true,
	} {
		if got := token.mayUse(event{data: []byte(data)}); got != want {
			t.Errorf("%s: got %v, want %v", data, got, want)
		}
	}
}

// The programs with a tokens file: a daemon takes no other machine's id, and a token
// that is taken out of the file is refused from then on; the daemon that is connected
// with it ends.
func TestTokensFileOfAScheduler(t *testing.T) {
	skipShort(t, "waits 3 s for the file and for the daemon; TestTokensFileIsReadAgain and TestRevokedTokens are quick")
	t.Parallel()
	made := start(t, schedulerName, nil, "token", "ci", "read")
	if got := made.exit(); got != exitStopped || !strings.Contains(made.stdout.String(), "ci sha256:") {
		t.Errorf("token: got exit %d and %s, want %d and a line", got, made.stdout, exitStopped)
	}
	tokens := testTokens(t, "laptops daemon machines=lap-*", "ci read,call", "gone read")
	_, url := startSchedulerProcess(t, nil, "--tokens-file", tokens.path)
	laptop := startUserDaemon(t, url, "lap-1", []string{"C4A_TOKEN=LAPTOPS"}, "--allow", t.TempDir())
	other := start(t, daemonName, []string{"C4A_TOKEN=LAPTOPS"}, "--server", url, "--machine-id", "desk", "--allow", t.TempDir())
	other.says("the token laptops is not for this machine_id")
	refused := start(t, daemonName, []string{"C4A_TOKEN=CI"}, "--server", url, "--machine-id", "lap-2", "--allow", t.TempDir())
	if got := refused.exit(); got != exitRefused {
		t.Errorf("a daemon whose token lacks the right: exit %d, want %d", got, exitRefused)
	}
	authorized := func(token, path string) int {
		status, _ := askHTTP(t, http.MethodGet, url+path, "", "Authorization", "Bearer "+token)
		return status
	}
	for _, test := range []struct {
		token, path string
		want        int
	}{{"CI", "/machines/lap-1", 200}, {"LAPTOPS", "/machines/lap-1", 403}, {"GONE", "/machines", 200}, {"", "/machines", 401}} {
		if got := authorized(test.token, test.path); got != test.want {
			t.Errorf("GET %s as %q: got %d, want %d", test.path, test.token, got, test.want)
		}
	}
	if err := os.WriteFile(tokens.path, []byte("ci "+tokenHash("CI")+" read\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(patience)
	for authorized("GONE", "/machines") != 401 && time.Now().Before(deadline) {
		time.Sleep(100 * time.Millisecond) // nothing reports that the file was read
	}
	if got := authorized("GONE", "/machines"); got != 401 {
		t.Errorf("a token that was taken out of the file: got %d, want 401", got)
	}
	if got := authorized("CI", "/machines"); got != 200 {
		t.Errorf("a token that stayed: got %d, want 200", got)
	}
	if got, want := laptop.exit(), "closed the link (1008 the token laptops was removed from the tokens file)"; got != exitRefused || !strings.Contains(laptop.stderr.String(), want) {
		t.Errorf("the daemon of a token that was taken out: exit %d, want %d and %q: %s", got, exitRefused, want, laptop.stderr)
	}
}

// A file that is half written, broken or gone leaves the tokens as they are.
func TestTokensFileIsReadAgain(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "tokens")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("a " + tokenHash("A") + " read\n")
	f, err := openTokensFile(path)
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		log := testLog(t)
		go f.watch(t.Context(), log, func() {})
		synctest.Wait()
		for _, step := range []struct {
			text string
			want string // the tokens that are valid then
		}{
			{"a " + tokenHash("A") + " read\nb " + tokenHash("B") + " read\n", "AB"},
			{"c " + tokenHash("C") + " read\nb " + tokenHash("B"), "AB"},
			{"nonsense\n", "AB"},
			{"c " + tokenHash("C") + " read\n", "C"},
		} {
			write(step.text)
			time.Sleep(3 * fileWatchInterval)
			synctest.Wait()
			got := ""
			for _, text := range []string{"A", "B", "C"} {
				if f.find(text) != nil {
					got += text
				}
			}
			if got != step.want {
				t.Errorf("after %q: got %s, want %s", step.text, got, step.want)
			}
		}
	})
	if _, err := openTokensFile(path + "-absent"); err == nil {
		t.Error("a file that does not exist: got no error")
	}
}

// The log, the events and the activity name the token of a tokens file, and hold no
// token.
func TestTokensAreNamed(t *testing.T) {
	t.Parallel()
	var text bytes.Buffer
	var mu sync.Mutex
	log := slog.New(slog.NewTextHandler(lockedWriter{&mu, &text}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	tokens := testTokens(t, "ci read,call,clone,manage,mcp,daemon", "laptops daemon", "calls call")
	a := testAPI(t, func(c *apiConfig, _ *poolConfig) { c.tokens, c.token, c.log = tokens, "single", log })
	libs, err := openLibraries(filepath.Join(t.TempDir(), librariesFile), false, log)
	if err != nil {
		t.Fatal(err)
	}
	h := newHub(hubConfig{
		log: log, methods: methodsByName(builtinMethods()), libraryOf: libs.of, publish: a.events.publish, requests: a.requests,
		maxMessage: defaultMaxMessage, times: defaultLinkTimes(),
	})
	t.Cleanup(h.close)
	hub := &hubAPI{callRouter: callRouter{hub: h, pool: a.pool, libraries: libs}, tokens: &childTokens{}, tokensFile: tokens, log: log}
	hub.register(a)
	mcp := newMCPAPI(hub, newMCPTools())
	mcp.register(a)
	t.Cleanup(mcp.close)
	server := httptest.NewServer(a)
	t.Cleanup(server.Close)

	link := dialRaw(t, strings.TrimPrefix(server.URL, "http://"), "Authorization: Bearer LAPTOPS")
	link.put(whole(frameFin|frameText, userHandshake))
	link.says(`{"jsonrpc":"2.0","id":1,"result":{"accepted":true`)
	call := `{"jsonrpc":"2.0","id":1,"method":"fs/stat","params":{}}`
	tool := `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"call_method","arguments":{"method":"fs/listDir","params":{"path":"/a"}}}}`
	for _, test := range []struct{ token, method, path, body string }{
		{"CI", "PUT", "/libraries/bound", `{"machine_id":"offline"}`},
		{"CI", "POST", "/libraries/bound/rpc", call},
		{"CALLS", "POST", "/libraries/bound/rpc", call},
		{"CI", "POST", "/libraries/bound/mcp", tool},
		{"CI", "DELETE", "/libraries/bound", ""},
		{"single", "PUT", "/libraries/other", `{"machine_id":"offline"}`},
		{"single", "POST", "/libraries/other/rpc", call},
	} {
		ask(a, test.method, test.path, test.body, "Authorization", "Bearer "+test.token, "Content-Type", "application/json", "Accept", "application/json, text/event-stream")
	}
	view := a.requests.view(time.Now())
	_ = link.Close()
	awaitThat(t, "the machine is offline", func() bool {
		m, _ := h.view("m")
		return m.Status == "offline"
	})
	h.close() // waits for the link, whose last lines are then written
	mu.Lock()
	defer mu.Unlock()
	lines := strings.Split(text.String(), "\n")
	for _, want := range [][]string{
		{"machine online", "machine_id=m", "token=laptops"}, {"machine offline", "machine_id=m", "token=laptops"},
		{"PUT /libraries/{lib_id}", "lib_id=bound", "token=ci"}, {"DELETE /libraries/{lib_id}", "lib_id=bound", "token=ci"},
		{"a request ended", "method=fs/stat", "token=ci"}, {"a request ended", "token=calls"}, {"a request ended", "method=fs/listDir", "token=ci"},
	} {
		if !slices.ContainsFunc(lines, func(line string) bool {
			return !slices.ContainsFunc(want, func(part string) bool { return !strings.Contains(line, part) })
		}) {
			t.Errorf("the log has no line with %q: %s", want, text.String())
		}
	}
	for _, line := range lines {
		if strings.Contains(line, "=other") && strings.Contains(line, "token=") {
			t.Errorf("the single token has a name: %s", line)
		}
	}
	failures, err := json.Marshal(view)
	if err != nil || strings.Count(string(failures), `"token":"ci"`) < 2 || !strings.Contains(string(failures), `"token":"calls"`) {
		t.Errorf("the activity is %s, %v, want the names of the tokens", failures, err)
	}
	events := ""
	a.events.mu.Lock()
	defer a.events.mu.Unlock()
	for _, e := range a.events.ring[:] {
		events += string(e.data)
	}
	if strings.Count(events, `"token":"laptops"`) != 2 {
		t.Errorf("the events are %s, want the token's name when the machine came and went", events)
	}
	for _, token := range []string{"CI", "LAPTOPS", "CALLS", tokenHash("CI")[7:], "single"} {
		if strings.Contains(text.String()+string(failures)+events, token) {
			t.Errorf("the token %s is in the log, the activity or the events", token)
		}
	}
}
