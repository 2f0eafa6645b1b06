package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"
)

// hubBench is a hub on fake time; daemons dial it over connections in memory.
type hubBench struct {
	t      *testing.T
	hub    *hub
	net    *pipeNet // nil on real sockets
	server *url.URL
	log    *slog.Logger

	mu     sync.Mutex
	events []machineStatus
}

// newHubBench serves a hub until the test ends. A dial with the token
// "child:ID" is the pool's child of that machine id.
func newHubBench(t *testing.T) *hubBench {
	t.Helper()
	network := newPipeNet()
	b := newHubBenchOn(t, network, nil)
	b.net = network
	return b
}

// newHubBenchOn is newHubBench on any listener, with another configuration.
func newHubBenchOn(t *testing.T, listener net.Listener, configure func(*hubConfig)) *hubBench {
	t.Helper()
	b := &hubBench{t: t, server: &url.URL{Scheme: "ws", Host: listener.Addr().String(), Path: linkPath}, log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	config := hubConfig{
		maxMessage: 1 << 20, offlineThreshold: defaultOfflineThreshold, heartbeatInterval: defaultHeartbeatInterval, times: defaultLinkTimes(),
		libraryOf: func(machineID string) string { return "lib_of_" + machineID }, log: b.log,
		publish: func(name string, params any) {
			if status, ok := params.(machineStatus); ok && name == statusMethod {
				b.mu.Lock()
				defer b.mu.Unlock()
				b.events = append(b.events, status)
			}
		},
	}
	if configure != nil {
		configure(&config)
	}
	b.hub = newHub(config)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hooks := &linkHooks{}
		conn, err := websocket.Accept(hooks.wrapWriter(w), r, &websocket.AcceptOptions{CompressionMode: websocket.CompressionNoContextTakeover, OnPingReceived: hooks.ping, OnPongReceived: hooks.pong})
		if err != nil {
			t.Error(err)
			return
		}
		child, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer child:")
		if child == r.Header.Get("Authorization") {
			child = ""
		}
		claimed, _ := url.PathUnescape(r.Header.Get(machineIDHeader))
		certified, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer certificate:")
		if !ok {
			certified = ""
		}
		b.hub.serve(conn, hooks, linkAdmission{child: child, claimed: claimed, certified: certified})
	})}
	served := make(chan struct{})
	go func() { defer close(served); _ = server.Serve(listener) }()
	ctx, stop := context.WithCancel(context.Background())
	swept := make(chan struct{})
	go func() { defer close(swept); b.hub.sweep(ctx) }()
	t.Cleanup(func() {
		stop()
		<-swept
		b.hub.close()
		_ = server.Close()
		<-served
	})
	return b
}

// statuses are the machine's changes as they were published.
func (b *hubBench) statuses(machineID string) (all []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.events {
		if e.MachineID == machineID {
			all = append(all, e.Status)
		}
	}
	return all
}

// benchDaemon is the daemon's real side of the link.
type benchDaemon struct {
	*connector
	ended chan error
	stop  context.CancelFunc
	lines chan *gate
}

// daemon starts one that dials the hub over connections in memory.
func (b *hubBench) daemon(machineID, instanceID string, token secret, methods ...*method) *benchDaemon {
	b.t.Helper()
	lines := make(chan *gate, 100)
	network := &pipeNet{conns: b.net.conns, done: b.net.done, wrap: func(c net.Conn) net.Conn {
		g := &gate{Conn: c}
		lines <- g
		return g
	}}
	d := b.daemonVia(network.client(), func(c *connector) {
		c.handshake.MachineID, c.handshake.InstanceID, c.token = machineID, instanceID, token
	}, methods...)
	d.lines = lines
	return d
}

// daemonVia starts one that dials the hub with client; configure may change it
// first.
func (b *hubBench) daemonVia(client *http.Client, configure func(*connector), methods ...*method) *benchDaemon {
	b.t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	base, end := context.WithCancel(context.Background())
	tasks := newFlightGroup(base, taskKeep, maxTaskKept)
	s := &service{methods: map[string]*method{}, tasks: tasks, maxConcurrent: defaultMaxConcurrent, log: b.log}
	s.activity = newActivity(tasks.running)
	for _, m := range methods {
		s.methods[m.name] = m
	}
	d := &benchDaemon{ended: make(chan error, 1), stop: stop}
	d.connector = &connector{
		server: b.server, client: client,
		maxMessage: 1 << 20, heartbeat: defaultHeartbeatInterval, times: defaultLinkTimes(),
		handshake: handshakeParams{MachineID: "m", InstanceID: "i", ProtocolVersion: protocolVersion, Version: programVersion()},
		service:   s, onState: func(string) {}, onAccepted: func(handshakeResult) {}, began: time.Now(), log: b.log,
	}
	if configure != nil {
		configure(d.connector)
	}
	go func() { d.ended <- d.run(ctx, ctx) }()
	b.t.Cleanup(func() {
		stop()
		end()
		<-d.ended
		tasks.wait()
		s.wait()
	})
	return d
}

// end waits for the daemon to give up by itself.
func (d *benchDaemon) end() error {
	err := <-d.ended
	d.ended <- nil // for the cleanup
	return err
}

// online waits until the machine is connected.
func (b *hubBench) online(machineID string) *hubConn {
	b.t.Helper()
	for limit := time.Now().Add(time.Hour); time.Now().Before(limit); time.Sleep(time.Millisecond) { // fake time
		if c, err := b.hub.connected(b.t.Context(), machineID, 0, nil); err == nil {
			return c
		}
	}
	b.t.Fatalf("%s is not online, want it connected", machineID)
	return nil
}

func TestHubKnowsMachines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newHubBench(t)
		if _, ok := b.hub.view("m"); ok || len(allMachines(b.hub)) != 0 {
			t.Error("got a machine before it connected, want none")
		}
		d := b.daemon("m", "i", "")
		b.online("m")
		time.Sleep(time.Minute + time.Second)
		v, ok := b.hub.view("m")
		if !ok || v.Status != "online" || v.LibID != "lib_of_m" || v.InstanceID != shownInstance("i") || v.LastHeartbeatAt == nil || time.Since(*v.LastHeartbeatAt) > 2*time.Second {
			t.Errorf("got %+v, want it online with a recent heartbeat", v)
		}
		d.stop()
		_ = d.end()
		synctest.Wait()
		if v, ok := b.hub.view("m"); !ok || v.Status != "offline" {
			t.Errorf("got %+v, want it offline", v)
		}
		if got := b.statuses("m"); !slices.Equal(got, []string{"online", "offline"}) {
			t.Errorf("got %q, want online, offline", got)
		}
	})
}

// TestHandshakeRefusals: a refusal has its reason, and the link is closed with 1008.
func TestHandshakeRefusals(t *testing.T) {
	for _, test := range []struct{ name, token, claimed, params, reason string }{
		{"version", "", "m", `{"machine_id":"m","instance_id":"i","protocol_version":2}`, "protocol_version 2"},
		{"no version", "", "m", `{"machine_id":"m","instance_id":"i"}`, "protocol_version 0"},
		{"no machine", "", "", `{"instance_id":"i","protocol_version":1}`, "machine_id"},
		{"no instance", "", "m", `{"machine_id":"m","protocol_version":1}`, "instance_id"},
		{"another header", "", "x", `{"machine_id":"m","instance_id":"i","protocol_version":1}`, "header"},
		{"a user's cloud_", "", "", `{"machine_id":"cloud_x","instance_id":"i","protocol_version":1}`, "belong to the pool"},
		{"long path", "", "m", `{"machine_id":"m","instance_id":"i","protocol_version":1,"allowed_paths":["` + strings.Repeat("x", maxHandshakePath+1) + `"]}`, "at most"},
		{"long host name", "", "m", `{"machine_id":"m","instance_id":"i","protocol_version":1,"hostname":"` + strings.Repeat("x", maxHandshakeText+1) + `"}`, "hostname: must have at most"},
		{"names in capitals", "", "m", `{"MACHINE_ID":"m","instance_id":"i","protocol_version":1}`, "machine_id"},
		{"a certificate of another id", "certificate:x", "", `{"machine_id":"m","instance_id":"i","protocol_version":1}`, `certificate is for the machine id "x"`},
		{"a certificate in other letters", "certificate:M", "", `{"machine_id":"m","instance_id":"i","protocol_version":1}`, `certificate is for the machine id "M"`},
		{"a child of another id", "child:cloud_x", "", `{"machine_id":"cloud_y","instance_id":"i","protocol_version":1}`, "token is for another"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newHubBench(t)
				header := http.Header{}
				header.Set("Authorization", "Bearer "+test.token)
				if test.claimed != "" {
					header.Set(machineIDHeader, test.claimed)
				}
				conn, _, err := websocket.Dial(t.Context(), "ws://pipe/", &websocket.DialOptions{HTTPClient: b.net.client(), HTTPHeader: header})
				if err != nil {
					t.Fatal(err)
				}
				if err := conn.Write(t.Context(), websocket.MessageText, []byte(`{"jsonrpc":"2.0","id":1,"method":"daemon/handshake","params":`+test.params+`}`)); err != nil {
					t.Fatal(err)
				}
				_, data, err := conn.Read(t.Context())
				var m struct{ Result handshakeResult }
				if err != nil || json.Unmarshal(data, &m) != nil || m.Result.Accepted || !strings.Contains(m.Result.Reason, test.reason) {
					t.Errorf("got %s, %v, want a refusal with %q", data, err, test.reason)
				}
				if _, _, err := conn.Read(t.Context()); websocket.CloseStatus(err) != websocket.StatusPolicyViolation {
					t.Error(err)
				}
				if len(allMachines(b.hub)) != 0 {
					t.Error("a refused machine is listed, want none")
				}
			})
		})
	}
}

func TestHandshakeLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newHubBench(t)
		conn, _, err := websocket.Dial(t.Context(), "ws://pipe/", &websocket.DialOptions{HTTPClient: b.net.client()})
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if _, _, err := conn.Read(t.Context()); websocket.CloseStatus(err) != websocket.StatusPolicyViolation {
			t.Error(err)
		}
		if took := time.Since(start); took != handshakeTimeout {
			t.Errorf("got the end after %v, want %v", took, handshakeTimeout)
		}
	})
}

// TestDuplicateUserDaemon: the living keeps its place, a half-open one loses it.
func TestDuplicateUserDaemon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newHubBench(t)
		first := b.daemon("m", "first", "")
		b.online("m")
		line := <-first.lines
		second := b.daemon("m", "second", "")
		time.Sleep(10 * time.Second)
		if v, _ := b.hub.view("m"); v.InstanceID != shownInstance("first") || v.Status != "online" {
			t.Fatalf("got %+v, want the first daemon online", v)
		}
		// What callers are shown of the first is not enough to take its place.
		shown, _ := b.hub.view("m")
		third := b.daemon("m", shown.InstanceID, "")
		time.Sleep(10 * time.Second)
		if v, _ := b.hub.view("m"); v.InstanceID != shown.InstanceID || v.ConnectedAt == nil || !v.ConnectedAt.Equal(*shown.ConnectedAt) {
			t.Fatalf("a daemon with the instance_id that is shown: got %+v, want the link of %+v", v, shown)
		}
		third.stop()
		// The first one's machine is gone without a word.
		line.shut.Store(true)
		first.stop()
		time.Sleep(time.Minute)
		if v, _ := b.hub.view("m"); v.InstanceID != shownInstance("second") || v.Status != "online" {
			t.Errorf("got %+v, want the second daemon online", v)
		}
		second.stop()
	})
}

// TestSameInstanceReplacesItself: a reconnect of the same process is no
// duplicate, even while its old link seems to live.
func TestSameInstanceReplacesItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newHubBench(t)
		first := b.daemon("m", "i", "")
		old := b.online("m")
		b.daemon("m", "i", "") // the same process, as far as the hub can tell
		start := time.Now()
		<-old.done
		if took := time.Since(start); took > time.Second {
			t.Errorf("got the replacement after %v, want it at once", took)
		}
		if got := b.statuses("m"); !slices.Equal(got, []string{"online", "online"}) {
			t.Errorf("got %q, want online twice: its return must not look like a loss", got)
		}
		first.stop()
	})
}

// TestCloudDaemonIsReplaced: the newer wins, the older ends for good.
func TestCloudDaemonIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newHubBench(t)
		first := b.daemon("cloud_x", "first", "child:cloud_x")
		b.online("cloud_x")
		b.daemon("cloud_x", "second", "child:cloud_x")
		if err := first.end(); !errors.Is(err, errReplaced) {
			t.Error(err)
		}
		time.Sleep(5 * time.Minute)
		if v, _ := b.hub.view("cloud_x"); v.InstanceID != shownInstance("second") || v.Status != "online" {
			t.Errorf("got %+v, want the second daemon online", v)
		}
		if got := b.statuses("cloud_x"); !slices.Equal(got, []string{"online", "online"}) {
			t.Errorf("got %q, want online twice", got)
		}
	})
}

// TestSilentDaemonGoesOffline: pongs do not count, heartbeats do.
func TestSilentDaemonGoesOffline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newHubBench(t)
		network := b.net.client()
		conn, _, err := websocket.Dial(t.Context(), "ws://pipe/", &websocket.DialOptions{HTTPClient: network})
		if err != nil {
			t.Fatal(err)
		}
		say := func(text string) {
			if err := conn.Write(t.Context(), websocket.MessageText, []byte(text)); err != nil {
				t.Fatal(err)
			}
		}
		start := time.Now()
		say(`{"jsonrpc":"2.0","id":1,"method":"daemon/handshake","params":{"machine_id":"m","instance_id":"i","protocol_version":1}}`)
		if _, _, err := conn.Read(t.Context()); err != nil {
			t.Fatal(err)
		}
		go func() {
			time.Sleep(50 * time.Second)
			say(`{"jsonrpc":"2.0","method":"daemon/heartbeat","params":{"machine_id":"m","instance_id":"i","seq":1}}`)
		}()
		if _, _, err := conn.Read(t.Context()); websocket.CloseStatus(err) != closeHeartbeat {
			t.Error(err)
		}
		if took := time.Since(start); took < 110*time.Second || took > 116*time.Second {
			t.Errorf("got the end after %v, want 110 s to 116 s", took)
		}
		synctest.Wait()
		if v, _ := b.hub.view("m"); v.Status != "offline" {
			t.Errorf("got %+v, want it offline", v)
		}
	})
}

// allMachines returns the machines that the hub knows.
func allMachines(h *hub) []machineView {
	views, _ := h.page("", maxPage)
	return views
}

// Machines that are gone are remembered up to a number and a size, the latest; one
// with a library is always known.
func TestHubForgets(t *testing.T) {
	h := newHub(hubConfig{})
	now := time.Now()
	add := func(id string, n int, paths ...string) {
		at := now.Add(time.Duration(n) * time.Second)
		h.bound(id, "lib")
		h.bound(id, "") // forgets it again
		if m := h.machines[id]; m != nil {
			h.offline.remove(m)
		}
		h.machines[id] = &machine{view: machineView{handshakeParams: handshakeParams{MachineID: id, AllowedPaths: paths}, Status: "offline", ConnectedAt: &at}, changed: make(chan struct{})}
		h.offlineLocked(h.machines[id])
	}
	add("laptop", -1)
	h.bound("laptop", "lib")
	h.bound("never", "lib2")
	for n := range maxOffline + 10 {
		add(fmt.Sprint("m", n), n)
	}
	h.machines["here"] = &machine{conn: &hubConn{peer: newPeer(newWire(), nil, 1000, nil)}}
	if len(h.machines) != maxOffline+3 || h.machines["here"] == nil || h.machines["laptop"] == nil || h.machines["never"] == nil || h.machines["m9"] != nil || h.machines["m10"] == nil {
		t.Errorf("got %d machines, want %d, the latest and those with a library kept", len(h.machines), maxOffline+3)
	}
	long := strings.Repeat("x", maxHandshakePath)
	for n := range maxOffline {
		add(fmt.Sprint("m", n+10), n+10, long, long, long, long)
	}
	bytes := 0
	for _, m := range h.machines {
		bytes += m.view.bytes()
	}
	if bytes > maxOfflineBytes+4096 || h.machines["laptop"] == nil || h.machines["m1009"] == nil {
		t.Errorf("got %d machines of %d bytes, want at most %d bytes, the latest and those with a library kept", len(h.machines), bytes, maxOfflineBytes)
	}
	for _, id := range []string{"laptop", "never"} {
		if view, ok := h.view(id); !ok || view.Status != "offline" || view.LibID == "" {
			t.Errorf("%s: got %+v, %v, want it offline with its library", id, view, ok)
		}
		if _, err := h.connected(t.Context(), id, 0, nil); !errors.Is(err, errOffline) {
			t.Errorf("%s: got %v, want %v", id, err, errOffline)
		}
	}
	// Machines with a library are not forgotten however large their handshakes are.
	for n := range 200 {
		id := fmt.Sprint("bound", n)
		add(id, n, strings.Repeat(long, 40))
		h.bound(id, "lib")
	}
	bytes = 0
	for n := range 200 {
		m := h.machines[fmt.Sprint("bound", n)]
		if m == nil || m.view.LibID != "lib" || m.view.Status != "offline" {
			t.Fatalf("bound%d: got %+v, want it known with its library", n, m)
		}
		bytes += m.view.bytes()
	}
	if limit := maxOfflineBytes + 200*1024; bytes > limit { // and what is left of each
		t.Errorf("the machines with a library take %d bytes, want at most %d", bytes, limit)
	}
	h.bound("never", "")
	if _, ok := h.view("never"); ok {
		t.Error("a machine that was never connected is known without a library, want it forgotten")
	}
}

func TestMachinesAreListedInPages(t *testing.T) {
	h := newHub(hubConfig{})
	long := []string{strings.Repeat("x", maxMachinesPage/2)}
	var want []string
	for n := range 25 {
		id := fmt.Sprintf("m%02d", n)
		h.bound(id, "lib")
		if n < 5 {
			h.machines[id].view.AllowedPaths = long
		}
		want = append(want, id)
	}
	var got []string
	pages, after := 0, ""
	for more := true; more; pages++ {
		var views []machineView
		views, more = h.page(after, 10)
		for _, view := range views {
			got = append(got, view.MachineID)
			after = view.MachineID
		}
	}
	if !slices.Equal(got, want) || pages != 7 {
		t.Errorf("got %q in %d pages, want %q in 7: 4 with one long handshake, the others of at most 10", got, pages, want)
	}
}

// The number of active requests is that of now, not that of the last heartbeat.
func TestActiveRequestsAreThoseOfNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newHubBench(t)
		runs := 0
		b.daemon("m", "i", "", slowMethod(time.Minute+time.Second, &runs))
		conn := b.online("m")
		active := func(want int) {
			t.Helper()
			if view, _ := b.hub.view("m"); view.ActiveRequests != want {
				t.Errorf("got %d active requests, want %d", view.ActiveRequests, want)
			}
		}
		active(0)
		done := make(chan error)
		go func() {
			_, err := b.hub.perform(t.Context(), newCall(t, "test/slow", `{"timeout_ms":600000}`), b.hub.machineTarget("m"))
			done <- err
		}()
		synctest.Wait()
		active(1)
		time.Sleep(time.Minute) // two heartbeats
		active(1)
		if err := <-done; err != nil {
			t.Error(err)
		}
		active(0)
		b.hub.beat(conn, heartbeat{ActiveRequests: 2}) // nobody here waits for them
		active(2)
	})
}

// Without a token users' daemons come in from this machine, and through a Unix
// socket; not by a proxy of this machine, which speaks for anybody.
func TestAdmitWithoutAToken(t *testing.T) {
	h := &hubAPI{tokens: &childTokens{}}
	for _, test := range []struct {
		from, header string
		ok           bool
	}{
		{"127.0.0.1:1", "", true}, {"[::1]:1", "", true}, {"[::ffff:127.0.0.1]:1", "", true}, {"@", "", true},
		{"10.0.0.1:1", "", false}, {"[fe80::1]:1", "", false},
		{"127.0.0.1:1", "Forwarded", false}, {"127.0.0.1:1", "X-Forwarded-For", false}, {"127.0.0.1:1", "Via", false}, {"127.0.0.1:1", "X-Forwarded-Host", false}, {"@", "X-Real-Ip", true},
	} {
		r := &http.Request{RemoteAddr: test.from, Header: http.Header{}}
		if test.header != "" {
			r.Header.Set(test.header, "10.0.0.1")
		}
		if got, err := h.admit(r); (err == nil) != test.ok || got.child != "" {
			t.Errorf("%s with %q: got %q, %v, want admission %v", test.from, test.header, got.child, err, test.ok)
		}
	}
}

// A log handler and a subscriber are called without the hub's lock: either may
// block, or ask the hub.
func TestHubCallsOutWithoutItsLock(t *testing.T) {
	t.Parallel()
	probe := newLockProbe(t)
	h := newHub(hubConfig{
		libraryOf: func(string) string { return "" }, log: slog.New(probe),
		publish: func(_ string, params any) { probe.look("event " + params.(machineStatus).Status) },
	})
	probe.watch(func() { allMachines(h) })
	params := handshakeParams{MachineID: "m", InstanceID: "i"}
	c := &hubConn{hub: h, params: &params, peer: newPeer(newWire(), nil, 1000, h.log)}
	if reason := h.register(c, params); reason != "" {
		t.Errorf("got the refusal %q, want none", reason)
	}
	h.drop(c, errLinkLost)
	probe.wantSeen("machine online", "event online", "machine offline", "event offline")
}
