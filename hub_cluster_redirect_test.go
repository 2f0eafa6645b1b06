//go:build linux || darwin

package main

import (
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// Where a library's call is redirected to, for which tokens, and where it is not.
func TestRedirectToTheMachine(t *testing.T) {
	t.Parallel()
	tokens := testTokens(t, "mine read,call,mcp libraries=mine*", "reader read")
	a := testAPI(t, func(c *apiConfig, _ *poolConfig) { c.tokens, c.token = tokens, "single" })
	libs := openBindings(t, filepath.Join(t.TempDir(), "shared"), true)
	mustSet(t, libs, "mine", "Ann's Mac 50%?")
	mustSet(t, libs, "other", "other")
	a.viaLibrary = libs.anyOf
	h := newHub(hubConfig{log: a.log, methods: methodsByName(builtinMethods()), libraryOf: libs.of})
	t.Cleanup(h.close)
	libs.watchMachines(func(machineID string) { h.bound(machineID, libs.of(machineID)) })
	hub := &hubAPI{callRouter: callRouter{hub: h, pool: a.pool, libraries: libs}, cluster: true, tokens: &childTokens{}, log: a.log}
	hub.register(a)
	mcp := newMCPAPI(hub, newMCPTools())
	t.Cleanup(mcp.close)
	mcp.register(a)
	const call = `{"jsonrpc":"2.0","id":1,"method":"fs/stat","params":{}}`
	const machine = "/machines/Ann%27s%20Mac%2050%25%3F"
	for _, test := range []struct {
		path, body, token string
		want              int
		location          string
	}{
		{"/libraries/mine/rpc", call, "single", 307, machine + "/rpc"},
		{"/libraries/mine/rpc?a=b%20c&d", call, "single", 307, machine + "/rpc?a=b%20c&d"},
		{"/libraries/mine/mcp", call, "single", 307, machine + "/mcp"},
		{"/libraries/mine/mcp/read", call, "single", 307, machine + "/mcp/read"},
		{"/libraries/mine/rpc", "{", "single", 400, ""},
		{"/libraries/mine/rpc", call, "MINE", 307, machine + "/rpc"},
		{"/libraries/mine/rpc", call, "READER", 403, ""},
		{"/libraries/other/rpc", call, "MINE", 403, ""},
		{"/libraries/free/rpc", call, "single", 503, ""}, // the pool's daemon, which never dials
		// The machine's own route redirects nothing, and a token for its library opens it.
		{machine + "/rpc", call, "single", 503, ""},
		{machine + "/rpc", call, "MINE", 503, ""},
		{machine + "/mcp", call, "READER", 403, ""},
		{"/machines/other/rpc", call, "MINE", 403, ""},
		{"/machines/unknown/rpc", call, "MINE", 403, ""},
	} {
		w := ask(a, "POST", test.path, test.body, "Authorization", "Bearer "+test.token)
		if got := w.Header().Get("Location"); w.Code != test.want || got != test.location {
			t.Errorf("%s as %s: got %d, the location %q and %s, want %d and %q", test.path, test.token, w.Code, got, w.Body, test.want, test.location)
		}
	}
	if w := ask(a, "GET", machine, "", "Authorization", "Bearer MINE"); w.Code != 403 {
		t.Errorf("GET of the machine with a token for its library: got %d, want 403", w.Code)
	}
	hub.cluster = false
	if w := ask(a, "POST", "/libraries/mine/rpc", call, "Authorization", "Bearer single"); w.Code != 503 {
		t.Errorf("without --cluster: got %d, want 503", w.Code)
	}
}

// A shared file of bindings that cannot be read is a matter for the operator, and not
// for the proxy: calls are served with the bindings that were read last.
func TestHealthOfBrokenBindings(t *testing.T) {
	t.Parallel()
	a := testAPI(t, nil)
	for broken, want := range map[bool]int{false: 200, true: 503} {
		a.degraded = func() bool { return broken }
		health, ready := ask(a, "GET", "/health", ""), ask(a, "GET", "/readyz", "")
		if health.Code != want || strings.Contains(health.Body.String(), "degraded") != broken || ready.Code != 200 {
			t.Errorf("broken bindings %v: got %d %s and /readyz %d, want %d and 200", broken, health.Code, health.Body, ready.Code, want)
		}
	}
}

// Two schedulers behind a proxy: a library is bound at one, its machine is at the
// other, and call follows the redirect with its body and its token.
func TestCallFollowsTheRedirect(t *testing.T) {
	skipShort(t, "it starts two schedulers, a daemon and calls")
	t.Parallel()
	bindings := filepath.Join(realTempDir(t), "shared.json")
	env := []string{"C4A_API_TOKEN=s3cret", "C4A_DAEMON_TOKEN=d"}
	var nodes [2]*url.URL
	for i := range nodes {
		_, address := startSchedulerProcess(t, env, "--bindings", bindings, "--cluster")
		var err error
		if nodes[i], err = url.Parse(address); err != nil {
			t.Fatal(err)
		}
	}
	var elsewhere string // a redirect there is refused
	proxy := newHTTPServer(t, &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		node := nodes[0]
		if strings.HasPrefix(r.In.URL.Path, "/machines/") || strings.HasPrefix(r.In.URL.Path, "/ws/") {
			node = nodes[1]
		}
		r.SetURL(node)
	}, ModifyResponse: func(r *http.Response) error {
		if elsewhere != "" && r.StatusCode == http.StatusTemporaryRedirect {
			r.Header.Set("Location", elsewhere+r.Header.Get("Location"))
		}
		return nil
	}})
	dir := realTempDir(t)
	start(t, daemonName, []string{"C4A_TOKEN=d"}, "--server", strings.Replace(proxy, "http:", "ws:", 1), "--machine-id", "Ann's Mac", "--allow", dir, "--work-dir", filepath.Join(dir, "w")).says("msg=connected")
	if status, body := askHTTP(t, http.MethodPut, proxy+"/libraries/demo", `{"machine_id":"Ann's Mac"}`, "Authorization", "Bearer s3cret"); status != 200 {
		t.Fatalf("binding: got %d and %s, want 200", status, body)
	}
	call := func() *startedProgram {
		return start(t, schedulerName, []string{"C4A_API_TOKEN=s3cret"}, "call", "--url", proxy, "demo", "fs/stat", "paths="+dir)
	}
	if p := call(); p.exit() != 0 || !strings.Contains(p.stdout.String(), `"exists": true`) {
		t.Errorf("got %s and %s, want the result", p.stdout, p.stderr)
	}
	awaitThat(t, "the library at the scheduler with the machine, which reads the bindings", func() bool {
		_, body := askHTTP(t, http.MethodGet, nodes[1].String()+"/machines/Ann's%20Mac", "", "Authorization", "Bearer s3cret")
		return strings.Contains(body, `"lib_id":"demo"`)
	})
	elsewhere = nodes[1].String()
	if p := call(); p.exit() != 1 || !strings.Contains(p.stderr.String(), "redirects to another server") {
		t.Errorf("a redirect to another server: got %s and %s, want an error", p.stdout, p.stderr)
	}
	elsewhere = proxy + "/libraries/demo/rpc?" // back to where it came from
	if p := call(); p.exit() != 1 || !strings.Contains(p.stderr.String(), "redirects") {
		t.Errorf("a redirect in a circle: got %s and %s, want an error", p.stdout, p.stderr)
	}
}

// Two schedulers change the bindings while one of them is killed: the other one has
// every binding that was answered, and goes on.
func TestBindingsSurviveAKill(t *testing.T) {
	skipShort(t, "it starts two schedulers; TestBindingsSurviveACutAtEveryByte is quick")
	t.Parallel()
	bindings := filepath.Join(realTempDir(t), "shared.json")
	killed, there := startSchedulerProcess(t, nil, "--bindings", bindings)
	_, here := startSchedulerProcess(t, nil, "--bindings", bindings)
	var wg sync.WaitGroup
	var answered [2]int
	for i, address := range []string{there, here} {
		wg.Go(func() {
			for n := range 60 {
				r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, fmt.Sprintf("%s/libraries/lib%d-%d", address, i, n), strings.NewReader(`{"machine_id":"m"}`))
				if err != nil {
					t.Error(err)
					return
				}
				response, err := http.DefaultClient.Do(r)
				if err != nil && i == 0 {
					return // killed
				}
				if err != nil || response.StatusCode != http.StatusOK {
					t.Errorf("scheduler %d: got %v, %v, want 200", i, response, err)
					return
				}
				_ = response.Body.Close()
				answered[i]++
				if i == 1 && n == 10 {
					_ = killed.cmd.Process.Kill()
				}
			}
		})
	}
	wg.Wait()
	got := openBindings(t, bindings, true)
	for i, n := range answered {
		for k := range n {
			if machineID, _ := got.get(fmt.Sprintf("lib%d-%d", i, k)); machineID != "m" {
				t.Errorf("scheduler %d answered %d bindings, number %d is lost", i, n, k)
			}
		}
	}
	if answered[1] != 60 || len(got.snapshot()) > answered[0]+1+answered[1] {
		t.Errorf("got %d bindings after %v answers, want all of these and at most one more", len(got.snapshot()), answered)
	}
}
