//go:build linux

package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	clusterAPIToken    = "api-t0ken"
	clusterDaemonToken = "daemon-t0ken"
	// 200 of the 300 libraries are bound to a machine each, the others are the pool's.
	clusterMachines = 200
	clusterPool     = 100
	// clusterCallers call without end, each with a pause of clusterPause.
	clusterCallers = 8
	clusterPause   = 8 * time.Millisecond
)

// threeNodes are schedulers behind a proxy, with machines, and callers of all
// libraries.
type threeNodes struct {
	t     *testing.T
	nodes [3]*clusterNode
	proxy string // base URL
	keys  []*clusterKey
	http  *http.Client

	mu       sync.Mutex // guards the fields below
	failures []clusterFailure
	took     []time.Duration
	calls    [clusterCallers]int // that each caller has made
}

// clusterNode is a scheduler that keeps its port and its workspace when it is
// started again.
type clusterNode struct {
	name, address, workspace string
	program                  *startedProgram
}

func (n *clusterNode) url() string { return "http://" + n.address }

// clusterKey names a library, or a machine by its id, that the callers call.
type clusterKey struct {
	path      string // without /rpc
	machineID string // that must answer

	mu    sync.Mutex // guards the fields below
	route string     // the nodes that the last call came by
	moved int        // how often that was another one than before
}

type clusterFailure struct {
	at   time.Time
	key  *clusterKey
	text string
}

// clusterIDs returns the ids of the machines; some need encoding.
func clusterIDs() (ids []string) {
	ids = []string{"Ann's Mac", "Büro-Mac (2)", "50% off", "a b+c"}
	for i := len(ids); i < clusterMachines; i++ {
		ids = append(ids, fmt.Sprintf("laptop-%d", i))
	}
	return ids
}

// startThreeNodes starts the schedulers, the proxy and the machines, and binds a
// library to each machine.
func startThreeNodes(t *testing.T, kind string) *threeNodes {
	t.Helper()
	c := &threeNodes{t: t, http: &http.Client{
		Timeout: patience, Transport: &http.Transport{MaxIdleConnsPerHost: 2 * clusterCallers},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	t.Cleanup(c.http.CloseIdleConnections)
	dir := realTempDir(t)
	var addresses []string
	for i := range c.nodes { // their ports first, because each names the others
		address := "127.0.0.1:" + strconv.Itoa(freePort(t))
		c.nodes[i] = &clusterNode{name: fmt.Sprintf("node %d", i+1), address: address, workspace: filepath.Join(dir, strconv.Itoa(i), "workspace")}
		addresses = append(addresses, address)
	}
	for _, n := range c.nodes {
		c.start(n)
	}
	c.proxy = "http://" + startBalancer(t, kind, addresses)
	silent := slog.New(slog.DiscardHandler)
	server, err := url.Parse("ws" + strings.TrimPrefix(c.proxy, "http") + linkPath)
	if err != nil {
		t.Fatal(err)
	}
	client, err := newLinkClient("", keyPair{})
	if err != nil {
		t.Fatal(err)
	}
	b := &hubBench{t: t, server: server, log: silent}
	for i, id := range clusterIDs() {
		answer := configResult{MachineID: id}
		b.daemonVia(client, func(d *connector) {
			d.handshake.MachineID, d.handshake.InstanceID, d.token = id, fmt.Sprint("instance", i), clusterDaemonToken
		}, newMethod("config/get", "", func(context.Context, none) (configResult, error) { return answer, nil }))
		c.keys = append(c.keys, &clusterKey{path: "/machines/" + url.PathEscape(id), machineID: id}, &clusterKey{path: "/libraries/bound-" + strconv.Itoa(i), machineID: id})
		if status, body, _ := c.ask(http.MethodPut, c.proxy, "/libraries/bound-"+strconv.Itoa(i), string(mustJSON(t, map[string]string{"machine_id": id}))); status != http.StatusOK {
			t.Fatalf("binding a library: got %d %s, want 200", status, body)
		}
	}
	for i := range clusterPool {
		c.keys = append(c.keys, &clusterKey{path: "/libraries/pool-" + strconv.Itoa(i), machineID: machineIDOf("pool-" + strconv.Itoa(i))})
	}
	return c
}

// start runs the scheduler of a node.
func (c *threeNodes) start(n *clusterNode) {
	c.t.Helper()
	var peers []string
	for _, other := range c.nodes {
		if other != nil && other != n {
			peers = append(peers, other.url())
		}
	}
	_, port, _ := strings.Cut(n.address, ":")
	cmd := exec.Command(flag.Lookup("cluster-program").Value.String(), "--port", port, "--workspace", n.workspace, "--max-daemons", strconv.Itoa(clusterPool),
		"--idle-timeout", "1h", "--spawn-timeout", "30s", "--min-free-disk", "0", "--cluster", "--bindings", filepath.Join(filepath.Dir(n.workspace), "..", "bindings"),
		"--peers", strings.Join(peers, ","))
	n.program = startCommand(c.t, schedulerName, cmd, []string{"C4A_API_TOKEN=" + clusterAPIToken, "C4A_DAEMON_TOKEN=" + clusterDaemonToken})
	n.program.url()
}

// ask makes an API request and follows redirects. route names the nodes that
// answered, if a proxy was asked.
func (c *threeNodes) ask(method, base, path, body string) (status int, text, route string) {
	for range 2 + maxMoved {
		r, err := http.NewRequest(method, base+path, strings.NewReader(body))
		if err != nil {
			return 0, err.Error(), route
		}
		r.Header.Set("Authorization", "Bearer "+clusterAPIToken)
		response, err := c.http.Do(r)
		if err != nil {
			return 0, err.Error(), route
		}
		data, err := io.ReadAll(response.Body)
		_ = response.Body.Close() // was read
		if err != nil {
			return 0, err.Error(), route
		}
		asked := strings.Split(response.Header.Get("X-Upstream"), ", ") // those before refused the connection
		route += strconv.Itoa(1 + slices.IndexFunc(c.nodes[:], func(n *clusterNode) bool { return n.address == asked[len(asked)-1] }))
		if response.StatusCode != http.StatusTemporaryRedirect {
			return response.StatusCode, string(data), route
		}
		path = response.Header.Get("Location")
	}
	return http.StatusTemporaryRedirect, "too many redirects", route
}

// call calls a key through the proxy and notes which nodes answered. It returns ""
// or what went wrong.
func (c *threeNodes) call(k *clusterKey) string {
	status, body, route := c.ask(http.MethodPost, c.proxy, k.path+"/rpc", `{"jsonrpc":"2.0","id":1,"method":"config/get"}`)
	var answer struct {
		Result *configResult
	}
	if err := json.Unmarshal([]byte(body), &answer); err != nil || answer.Result == nil || answer.Result.MachineID != k.machineID {
		return fmt.Sprintf("%d by %s %.300s", status, route, body)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.route != route && k.route != "" {
		k.moved++
	}
	k.route = route
	return ""
}

// callers call random keys until stop is called.
func (c *threeNodes) callers() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for i := range clusterCallers {
		wg.Go(func() {
			for ctx.Err() == nil {
				k := c.keys[rand.IntN(len(c.keys))]
				begun := time.Now()
				text := c.call(k)
				took := time.Since(begun)
				c.mu.Lock()
				c.took = append(c.took, took)
				c.calls[i]++
				if text != "" {
					c.failures = append(c.failures, clusterFailure{begun, k, text})
				}
				c.mu.Unlock()
				select {
				case <-time.After(clusterPause):
				case <-ctx.Done():
				}
			}
		})
	}
	return func() {
		cancel()
		wg.Wait()
	}
}

// settle waits until the calls that run now have ended.
func (c *threeNodes) settle() {
	c.t.Helper()
	made := func() [clusterCallers]int {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.calls
	}
	before := made()
	c.await("the callers have made another call", func() bool {
		for i, n := range made() {
			if n == before[i] {
				return false
			}
		}
		return true
	})
}

// callAll calls each key once, many at a time, and those that are not right again
// until they are. It returns how many failed at first.
func (c *threeNodes) callAll(what string, right func(*clusterKey) bool) (failed int) {
	c.t.Helper()
	keys := c.keys
	for deadline := time.Now().Add(2 * patience); ; {
		work := make(chan *clusterKey)
		var mu sync.Mutex
		var wrong []*clusterKey
		var last string
		var wg sync.WaitGroup
		for range clusterMachines / 2 { // most of them wait until a machine dials again
			wg.Go(func() {
				for k := range work {
					text := c.call(k)
					if text == "" && right(k) {
						continue
					}
					mu.Lock()
					wrong, last = append(wrong, k), k.path+": "+text
					if text != "" && len(keys) == len(c.keys) {
						failed++
					}
					mu.Unlock()
				}
			})
		}
		for _, k := range keys {
			work <- k
		}
		close(work)
		wg.Wait()
		if len(wrong) == 0 {
			return failed
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("%s: got %d keys that are not within %v, such as %s, want none", what, len(wrong), 2*patience, last)
		}
		keys = wrong
	}
}

func anyRoute(*clusterKey) bool { return true }

// links returns since when each user's machine is connected.
func (c *threeNodes) links() map[string]time.Time {
	c.t.Helper()
	since := map[string]time.Time{}
	for _, n := range c.nodes {
		for cursor := ""; ; {
			status, body, _ := c.ask(http.MethodGet, n.url(), "/machines?cursor="+url.QueryEscape(cursor), "")
			if status != http.StatusOK {
				break // the node is down
			}
			for _, m := range field[[]machineView](c.t, []byte(body), "machines") {
				if m.Status == "online" && !strings.HasPrefix(m.MachineID, cloudPrefix) {
					since[m.MachineID] = *m.ConnectedAt
				}
			}
			next := field[*string](c.t, []byte(body), "next_cursor")
			if next == nil {
				break
			}
			cursor = *next
		}
	}
	return since
}

// last returns how a key was reached last.
func (k *clusterKey) last() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.route
}

// await waits for a change that takes the processes seconds.
func (c *threeNodes) await(what string, condition func() bool) {
	c.t.Helper()
	for deadline := time.Now().Add(2 * patience); !condition(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			c.t.Fatalf("waited %v, want within that: %s", 2*patience, what)
		}
	}
}

// TestThreeNodes kills a node behind a proxy and starts it again, and then restarts
// all, while callers call 300 libraries and 200 machines.
func TestThreeNodes(t *testing.T) {
	for _, kind := range balancers(t) {
		t.Run(kind, func(t *testing.T) {
			t.Parallel() // most of the time is that of waits
			c := startThreeNodes(t, kind)
			c.await("all machines are connected", func() bool { return len(c.links()) == clusterMachines })
			c.callAll("all answer", anyRoute)
			before, since, count := map[*clusterKey]string{}, c.links(), map[string]int{}
			for _, k := range c.keys {
				before[k] = k.last()
				count[k.last()]++
			}
			asBefore := func(k *clusterKey) bool { return k.last() == before[k] }
			t.Logf("keys of each route: %v", count)
			for _, node := range []string{"1", "2", "3"} {
				if count[node] < len(c.keys)/10 {
					t.Errorf("node %s: got %d of %d keys, want a fair part", node, count[node], len(c.keys))
				}
			}
			stop := c.callers()
			defer func() { stop() }()
			time.Sleep(2 * time.Second) // of load
			c.phase("undisturbed", anyRoute)

			killed, name := c.nodes[1], "2"
			spared := func(k *clusterKey) bool { return !strings.Contains(before[k], name) }
			begun := time.Now()
			_ = killed.program.cmd.Process.Kill()
			killed.program.exit()
			c.await("the machines of the killed node are connected to the others", func() bool { return len(c.links()) == clusterMachines })
			t.Logf("kill -9: its machines were back after %v", time.Since(begun).Round(10*time.Millisecond))
			c.callAll("all answer with a node less", anyRoute)
			c.settle()
			c.phase("kill -9", spared)
			c.wantUnmoved("kill -9", spared, before, since)

			begun = time.Now()
			c.start(killed)
			c.callAll("the killed node has its libraries again", asBefore)
			t.Logf("the return of the node: its libraries were back after %v", time.Since(begun).Round(10*time.Millisecond))
			c.phase("return", anyRoute)
			c.wantUnmoved("return", spared, before, since)

			for i, n := range c.nodes {
				begun = time.Now()
				if status, body, _ := c.ask(http.MethodPost, n.url(), "/drain", ""); status != http.StatusAccepted {
					t.Fatalf("POST /drain: got %d %s, want 202", status, body)
				}
				if code := n.program.exit(); code != 0 {
					t.Errorf("%s after POST /drain: got exit %d, want 0", n.name, code)
				}
				t.Logf("restart of %s: it ended after %v", n.name, time.Since(begun).Round(10*time.Millisecond))
				if i == 0 { // the others are back before all machines have dialled again
					c.callAll("all answer without "+n.name, anyRoute)
				}
				begun = time.Now()
				c.start(n)
				c.callAll(n.name+" has its libraries again", asBefore)
				t.Logf("restart of %s: its libraries were back after %v", n.name, time.Since(begun).Round(10*time.Millisecond))
				c.settle()
				c.phase("restart of "+n.name, anyRoute)
			}
			stop()
			stop = func() {}
			if failed := c.callAll("all answer at last", asBefore); failed > 0 {
				t.Errorf("at last: got %d keys that fail, want none", failed)
			}
		})
	}
}

// phase reports what was called since the last phase, and wants no failure of the
// keys that must answer.
func (c *threeNodes) phase(what string, must func(*clusterKey) bool) {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	slices.Sort(c.took)
	n := len(c.took)
	if n == 0 {
		c.t.Fatalf("%s: got no call, want some", what)
	}
	c.t.Logf("%s: %d calls, %d failed, median %v, p99 %v, longest %v", what, n, len(c.failures),
		c.took[n/2].Round(time.Microsecond), c.took[n*99/100].Round(time.Microsecond), c.took[n-1].Round(time.Millisecond))
	shown := 0
	for _, f := range c.failures {
		if shown < 5 && must(f.key) {
			c.t.Errorf("%s: %s at %s: got %s, want an answer", what, f.key.path, f.at.Format("15:04:05.000"), f.text)
			shown++
		}
	}
	c.failures, c.took = nil, nil
}

// wantUnmoved wants the keys that were spared to have been answered by the same
// nodes, and by the same links, all the time.
func (c *threeNodes) wantUnmoved(what string, spared func(*clusterKey) bool, before map[*clusterKey]string, since map[string]time.Time) {
	c.t.Helper()
	now := c.links()
	for _, k := range c.keys {
		k.mu.Lock()
		if spared(k) && (k.moved > 0 || !now[k.machineID].Equal(since[k.machineID])) {
			c.t.Errorf("%s: %s: got route %s, moved %d times, its link from %v, want route %s and the link from %v", what, k.path, k.route, k.moved, now[k.machineID], before[k], since[k.machineID])
		}
		k.mu.Unlock()
	}
}
