//go:build linux

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The tests of this file run deploy/nginx-cluster.conf and deploy/haproxy.cfg with
// the real programs, and only with the flag -cluster (scripts/test-cluster.sh).

// balancers returns the proxies that -cluster names.
func balancers(t *testing.T) []string {
	t.Helper()
	given := flag.Lookup("cluster").Value.String()
	if given == "" {
		t.Skip("needs -cluster nginx,haproxy and these programs: scripts/test-cluster.sh")
	}
	return strings.Split(given, ",")
}

// startBalancer runs a proxy with its file of deploy/ in front of three nodes, and
// returns its address. Only names, ports and the TLS lines of the file are changed,
// and each answer says in X-Upstream which nodes were asked; edits are pairs of a
// text and another one in its place.
func startBalancer(t *testing.T, kind string, nodes []string, edits ...string) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	file, err := listener.(*net.TCPListener).File() // the proxy inherits it, so that no port is free for a moment
	if err != nil {
		t.Fatal(err)
	}
	address = listener.Addr().String()
	defer listener.Close()
	defer file.Close()
	dir := realTempDir(t)
	name := map[string]string{"nginx": "nginx-cluster.conf", "haproxy": "haproxy.cfg"}[kind]
	data, err := os.ReadFile(filepath.Join("deploy", name))
	if err != nil {
		t.Fatal(err)
	}
	config := string(data)
	change := func(from, to string) {
		if !strings.Contains(config, from) {
			t.Fatalf("deploy/%s: got no %q, want it, because the test replaces it", name, from)
		}
		config = strings.ReplaceAll(config, from, to)
	}
	for i := 0; i+1 < len(edits); i += 2 {
		change(edits[i], edits[i+1])
	}
	for i, node := range nodes {
		change(fmt.Sprintf("c4a-%d.internal:5110", i+1), node)
	}
	path := filepath.Join(dir, name)
	program, args, env := "haproxy", []string{"-db", "-f", path}, []string(nil)
	if kind == "nginx" {
		change("\tlisten [::]:443 ssl;\n", "")
		change("listen 443 ssl;", "listen "+address+";")
		change("\tssl_certificate /etc/ssl/c4a/fullchain.pem;\n\tssl_certificate_key /etc/ssl/c4a/key.pem;\n", "")
		// As root its workers would be another user, who cannot enter the directory.
		main := "daemon off;\npid " + dir + "/pid;\nerror_log stderr warn;\nworker_processes 2;\nworker_rlimit_nofile 8192;\nevents { worker_connections 4096; }\nhttp {\naccess_log off;\n"
		if os.Geteuid() == 0 {
			main = "user root;\n" + main
		}
		for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
			main += kind + "_temp_path " + dir + "/" + kind + ";\n"
		}
		change("\tdefault_type application/problem+json;\n", "\tdefault_type application/problem+json;\n\tadd_header X-Upstream $upstream_addr always;\n")
		config = main + config + "}\n"
		program, args, env = "nginx", []string{"-p", dir, "-c", path}, []string{"NGINX=3;"}
	} else {
		change("bind :443 ssl crt /etc/ssl/c4a/haproxy.pem alpn http/1.1", "bind fd@3")
		change("X-Forwarded-Proto https", "X-Forwarded-Proto http")
		change("\tdefault_backend", "\thttp-response set-header X-Upstream %si:%sp\n\tdefault_backend")
	}
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, args...)
	cmd.ExtraFiles = []*os.File{file}
	p := startCommand(t, kind, cmd, env)
	// To pass it on made it blocking, and then all but one of nginx's workers hang.
	if err := syscall.SetNonblock(int(file.Fd()), true); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // with its workers, unlike SIGKILL
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		p.exit()
	})
	return address
}

// upstream is a node that only notes the requests it got, as "METHOD path".
type upstream struct {
	address string
	answer  http.HandlerFunc // nil means 200 with the name

	mu  sync.Mutex // guards the field below
	got []string
}

func startUpstreams(t *testing.T, answer func(node int) http.HandlerFunc) (nodes []*upstream, addresses []string) {
	t.Helper()
	for i := range 3 {
		u := &upstream{}
		if answer != nil {
			u.answer = answer(i)
		}
		base := newHTTPServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/readyz" {
				return
			}
			_, _ = io.Copy(io.Discard, r.Body)
			u.mu.Lock()
			u.got = append(u.got, r.Method+" "+r.URL.EscapedPath())
			u.mu.Unlock()
			w.Header().Set("X-Node", fmt.Sprint(i))
			if u.answer != nil {
				u.answer(w, r)
			}
		}))
		u.address = strings.TrimPrefix(base, "http://")
		nodes, addresses = append(nodes, u), append(addresses, u.address)
	}
	return nodes, addresses
}

func (u *upstream) requests() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.got)
}

// throughProxy makes a request and returns the status, the node and the body.
func throughProxy(t *testing.T, method, url, body string, header ...string) (status int, node, text string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	response, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, response.Header.Get("X-Node"), string(data)
}

// TestProxyRoutes: all requests for a library or a machine reach one node, however
// its id is encoded, and the proxy answers those that it cannot route.
func TestProxyRoutes(t *testing.T) {
	for _, kind := range balancers(t) {
		t.Run(kind, func(t *testing.T) {
			nodes, addresses := startUpstreams(t, nil)
			base := "http://" + startBalancer(t, kind, addresses)
			seen := map[string]int{}
			same := func(what string, requests ...[]string) {
				t.Helper()
				want := ""
				for _, r := range requests {
					status, node, text := throughProxy(t, r[0], base+r[1], "{}", r[2:]...)
					if want == "" {
						want = node
						seen[node]++
					}
					if status != 200 || node != want {
						t.Errorf("%s: %q: got %d from node %q: %s, want 200 from node %q", what, r, status, node, text, want)
					}
				}
			}
			for i := range 60 {
				id := fmt.Sprintf("machine-%d.example", i)
				same(id, []string{"GET", linkPath, machineIDHeader, id}, []string{"POST", "/machines/" + id + "/rpc"}, []string{"GET", "/machines/" + id})
				lib := fmt.Sprintf("lib_%d", i)
				same(lib, []string{"POST", "/libraries/" + lib + "/rpc"}, []string{"PUT", "/daemons/" + lib}, []string{"POST", "/libraries/" + lib + "/mcp/read"},
					[]string{"PUT", "/libraries/" + lib}, []string{"GET", "/daemons/" + lib + "/log?follow=1"}, []string{"POST", "/machines/" + cloudPrefix + lib + "/rpc"})
			}
			for node, count := range seen {
				if count < 20 {
					t.Errorf("node %s: got %d of 120 keys, want a fair part", node, count)
				}
			}
			if len(seen) != 3 {
				t.Errorf("got keys on %d nodes, want 3", len(seen))
			}
			for _, id := range []string{"Ann's Mac", "Büro-Mac (2)", "日本語の計算機", "50% off", "a b+c", "x=1&y", "tel:+49;a,b", "!first", "~a_b.c-d", "say \"hi\"", "per%20cent"} {
				// As Go, JavaScript's encodeURIComponent, and a client that encodes all it may.
				script := strings.NewReplacer("%21", "!", "%27", "'", "%28", "(", "%29", ")", "%2A", "*").Replace(url.PathEscape(id))
				script = strings.NewReplacer("$", "%24", "&", "%26", "+", "%2B", ":", "%3A", "=", "%3D", "@", "%40").Replace(script)
				all := ""
				for _, b := range []byte(id) {
					if strings.ContainsRune("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~", rune(b)) {
						all += string(rune(b))
					} else {
						all += fmt.Sprintf("%%%02X", b)
					}
				}
				same(id, []string{"GET", linkPath, machineIDHeader, url.PathEscape(id)}, []string{"POST", "/machines/" + url.PathEscape(id) + "/rpc"},
					[]string{"POST", "/machines/" + script + "/rpc"}, []string{"POST", "/machines/" + all + "/rpc"})
			}
			before := len(nodes[0].requests()) + len(nodes[1].requests()) + len(nodes[2].requests())
			for _, refused := range []struct {
				method, path string
				status       int
				says         string
			}{
				{"POST", "/daemons", 400, "PUT /daemons/{lib_id}"}, {"GET", linkPath, 400, machineIDHeader},
				{"POST", "/drain", 403, "the node itself"}, {"POST", "/stop", 403, "the node itself"}, {"PUT", "/log-level", 403, "the node itself"},
			} {
				status, node, text := throughProxy(t, refused.method, base+refused.path, "{}")
				var p problem
				if err := json.Unmarshal([]byte(text), &p); err != nil || status != refused.status || p.Status != status || node != "" || !strings.Contains(p.Detail, refused.says) {
					t.Errorf("%s %s: got %d from node %q: %s, want %d from the proxy with %q", refused.method, refused.path, status, node, text, refused.status, refused.says)
				}
			}
			if after := len(nodes[0].requests()) + len(nodes[1].requests()) + len(nodes[2].requests()); after != before {
				t.Errorf("got %d requests at the nodes after refusals, want none", after-before)
			}
			if status, _, _ := throughProxy(t, "GET", base+"/daemons", ""); status != 200 {
				t.Errorf("GET /daemons: got %d, want 200", status)
			}
		})
	}
}

// TestProxySendsNothingTwice: a POST that was sent is not sent again when its node
// cuts it or answers 503; only a node that could not be reached is passed over.
func TestProxySendsNothingTwice(t *testing.T) {
	for _, kind := range balancers(t) {
		t.Run(kind, func(t *testing.T) {
			nodes, addresses := startUpstreams(t, func(int) http.HandlerFunc {
				return func(w http.ResponseWriter, r *http.Request) {
					switch {
					case strings.Contains(r.URL.Path, "cut"):
						panic(http.ErrAbortHandler)
					case strings.Contains(r.URL.Path, "full"):
						w.WriteHeader(http.StatusServiceUnavailable)
						_, _ = io.WriteString(w, string(codeCapacity))
					}
				}
			})
			// The third node is down: its port was that of a listener that is closed.
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			addresses[2] = l.Addr().String()
			_ = l.Close()
			base := "http://" + startBalancer(t, kind, addresses)
			for i := range 30 {
				for _, test := range []struct {
					name   string
					status int
				}{{"cut", http.StatusBadGateway}, {"full", http.StatusServiceUnavailable}, {"ok", http.StatusOK}} {
					path := fmt.Sprintf("/libraries/%s-%d/rpc", test.name, i)
					status, _, text := throughProxy(t, http.MethodPost, base+path, "{}")
					times := 0
					for _, u := range nodes {
						for _, r := range u.requests() {
							if r == "POST "+path {
								times++
							}
						}
					}
					if status != test.status || times != 1 {
						t.Errorf("POST %s: got %d after %d requests at the nodes: %s, want %d after one", path, status, times, text, test.status)
					}
					if test.name == "full" && !strings.Contains(text, string(codeCapacity)) {
						t.Errorf("POST %s: got %q, want the node's own answer", path, text)
					}
				}
			}
		})
	}
}

// TestProxyStreams: an event arrives while its stream is open, and a client that
// goes away ends the stream at the node.
func TestProxyStreams(t *testing.T) {
	for _, kind := range balancers(t) {
		t.Run(kind, func(t *testing.T) {
			next, gone := make(chan struct{}), make(chan struct{}, 1)
			_, addresses := startUpstreams(t, func(int) http.HandlerFunc {
				return func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Content-Type", "text/event-stream")
					for i := range 3 {
						_, _ = fmt.Fprintf(w, "id: %d\ndata: x\n\n", i)
						_ = http.NewResponseController(w).Flush()
						<-next
					}
					<-r.Context().Done()
					gone <- struct{}{}
				}
			})
			base := "http://" + startBalancer(t, kind, addresses)
			ctx, leave := context.WithTimeout(t.Context(), patience)
			defer leave()
			r, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/libraries/x/rpc", strings.NewReader("{}"))
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Accept", "text/event-stream")
			response, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			events := bufio.NewReader(response.Body)
			for i := range 3 {
				for _, want := range []string{fmt.Sprintf("id: %d\n", i), "data: x\n", "\n"} {
					if got, err := events.ReadString('\n'); got != want {
						t.Fatalf("event %d: got %q, %v, want %q before the next one is sent", i, got, err, want)
					}
				}
				next <- struct{}{}
			}
			leave()
			select {
			case <-gone:
			case <-time.After(patience):
				t.Errorf("got no end of the stream at the node within %v after the client left, want it", patience)
			}
		})
	}
}

// TestProxyPoolsConnections: a proxy that keeps its connections to the scheduler and
// sends the requests of all callers on them changes nothing in who may do what.
func TestProxyPoolsConnections(t *testing.T) {
	if !slices.Contains(balancers(t), "nginx") {
		t.Skip("needs nginx")
	}
	file := filepath.Join(realTempDir(t), "tokens")
	reader, manager := "reader-t0ken", "manager-t0ken"
	if err := os.WriteFile(file, fmt.Appendf(nil, "reader %s read\nmanager %s read,manage\n", tokenHash(reader), tokenHash(manager)), 0o600); err != nil {
		t.Fatal(err)
	}
	_, url := startSchedulerProcess(t, nil, "--tokens-file", file)
	pool := newSwitchedProxy(t, strings.TrimPrefix(url, "http://"))
	node := pool.address
	base := "http://" + startBalancer(t, "nginx", []string{node, node, node},
		"	# No keepalive here.", "	keepalive 2;\n	# No keepalive here.", "	'' close;", "	'' '';")
	var wg sync.WaitGroup
	for i, test := range []struct {
		token  string
		status int
	}{{reader, http.StatusForbidden}, {manager, http.StatusOK}, {"wrong", http.StatusUnauthorized}, {"", http.StatusUnauthorized}} {
		wg.Go(func() {
			for range 50 {
				status, _, text := throughProxy(t, http.MethodPut, fmt.Sprintf("%s/libraries/lib-%d", base, i), `{"machine_id":"m"}`, "Authorization", "Bearer "+test.token)
				if status != test.status {
					t.Errorf("with the token %q: got %d %s, want %d", test.token, status, text, test.status)
				}
			}
		})
	}
	wg.Wait()
	if n := pool.accepted.Load(); n > 100 {
		t.Errorf("got %d connections for 200 requests, want that most share one", n)
	}
}
