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
		conn, err := websocket.Accept(hooks.accepting(w), r, &websocket.AcceptOptions{CompressionMode: websocket.CompressionNoContextTakeover, OnPingReceived: hooks.ping, OnPongReceived: hooks.pong})
		if err != nil {
			t.Error(err)
			return
		}
		child, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer child:")
		if child == r.Header.Get("Authorization") {
			child = ""
		}
		claimed, _ := url.PathUnescape(r.Header.Get(machineIDHeader))
		b.hub.serve(conn, hooks, child, claimed)
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

// statuses are the machine's changes as they were told.
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
		c.hello.MachineID, c.hello.InstanceID, c.token = machineID, instanceID, token
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
		hello:   handshakeParams{MachineID: "m", InstanceID: "i", ProtocolVersion: protocolVersion, Version: programVersion},
		service: s, onState: func(string) {}, onAccepted: func(handshakeResult) {}, began: time.Now(), log: b.log,
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
		if _, ok := b.hub.view("m"); ok || len(b.hub.views()) != 0 {
			t.Error("got a machine before it connected, want none")
		}
		d := b.daemon("m", "i", "")
		b.online("m")
		time.Sleep(time.Minute + time.Second)
		v, ok := b.hub.view("m")
		if !ok || v.Status != "online" || v.LibID != "lib_of_m" || v.InstanceID != "i" || v.LastHeartbeatAt == nil || time.Since(*v.LastHeartbeatAt) > 2*time.Second {
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

// TestHandshakeRefusals: what cannot be accepted is told, and closed with 1008.
func TestHandshakeRefusals(t *testing.T) {
	for _, test := range []struct{ name, token, claimed, params, reason string }{
		{"version", "", "m", `{"machine_id":"m","instance_id":"i","protocol_version":2}`, "protocol_version 2"},
		{"no version", "", "m", `{"machine_id":"m","instance_id":"i"}`, "protocol_version 0"},
		{"no machine", "", "", `{"instance_id":"i","protocol_version":1}`, "machine_id"},
		{"no instance", "", "m", `{"machine_id":"m","protocol_version":1}`, "instance_id"},
		{"another header", "", "x", `{"machine_id":"m","instance_id":"i","protocol_version":1}`, "header"},
		{"a user's cloud_", "", "", `{"machine_id":"cloud_x","instance_id":"i","protocol_version":1}`, "belong to the pool"},
		{"too large", "", "m", `{"machine_id":"m","instance_id":"i","protocol_version":1,"allowed_paths":["` + strings.Repeat("x", maxHandshake) + `"]}`, "at most"},
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
				if len(b.hub.views()) != 0 {
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
		if v, _ := b.hub.view("m"); v.InstanceID != "first" || v.Status != "online" {
			t.Fatalf("got %+v, want the first daemon online", v)
		}
		// The first one's machine is gone without a word.
		line.shut.Store(true)
		first.stop()
		time.Sleep(time.Minute)
		if v, _ := b.hub.view("m"); v.InstanceID != "second" || v.Status != "online" {
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
		if v, _ := b.hub.view("cloud_x"); v.InstanceID != "second" || v.Status != "online" {
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

// newCall is a call as the HTTP API makes it.
func newCall(t *testing.T, method, params string) *call {
	t.Helper()
	c, err := parseCall([]byte(`{"jsonrpc":"2.0","id":1,"method":"`+method+`","params":`+params+`}`), methodsByName(builtinMethods()))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// slowMethod takes a while and counts its runs.
func slowMethod(took time.Duration, runs *int) *method {
	return newMethod("test/slow", "", func(ctx context.Context, _ none) (int, error) {
		*runs++
		select {
		case <-time.After(took):
			return *runs, nil
		case <-ctx.Done():
			*runs += 100
			return 0, ctx.Err()
		}
	})
}

// TestCallSurvivesLostLinks: a call whose link is cut is sent again, joins its
// own run, and is answered once.
func TestCallSurvivesLostLinks(t *testing.T) {
	for cut := 100 * time.Millisecond; cut < 3*time.Second; cut += 100 * time.Millisecond {
		synctest.Test(t, func(t *testing.T) {
			b := newHubBench(t)
			runs := 0
			d := b.daemon("m", "i", "", slowMethod(3*time.Second, &runs))
			b.online("m")
			go func() {
				time.Sleep(cut)
				_ = (<-d.lines).Close()
			}()
			result, err := b.hub.perform(t.Context(), newCall(t, "test/slow", "{}"), b.hub.machineTarget("m"))
			if err != nil || string(result) != "1" || runs != 1 {
				t.Errorf("cut at %v: got %s, %v, %d runs, want 1, no error, 1 run", cut, result, err, runs)
			}
		})
	}
}

// TestCallAnswerLost: the run is over, the answer was lost with the link; it
// comes from memory.
func TestCallAnswerLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newHubBench(t)
		runs := 0
		d := b.daemon("m", "i", "", slowMethod(time.Second, &runs))
		b.online("m")
		line := <-d.lines
		go func() {
			time.Sleep(500 * time.Millisecond)
			line.shut.Store(true) // nothing comes through any more, and nobody knows
		}()
		result, err := b.hub.perform(t.Context(), newCall(t, "test/slow", "{}"), b.hub.machineTarget("m"))
		if err != nil || string(result) != "1" || runs != 1 {
			t.Errorf("got %s, %v, %d runs, want 1, no error, 1 run", result, err, runs)
		}
	})
}

func TestCallThatCannotBeDelivered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newHubBench(t)
		runs := 0
		d := b.daemon("m", "i", "", slowMethod(time.Hour, &runs))
		b.online("m")
		for _, test := range []struct {
			machine, params string
			status          int
			code            errorCode
			after           time.Duration
		}{
			{"unknown", "{}", 404, codeDaemonOffline, 0},
			{"m", `{"timeout_ms":2000}`, 0, codeTimeout, 2 * time.Second}, // the daemon says so itself
		} {
			start := time.Now()
			_, err := b.hub.perform(t.Context(), newCall(t, "test/slow", test.params), b.hub.machineTarget(test.machine))
			status := 0
			if e, ok := errors.AsType[*apiError](err); ok {
				status, err = e.status, e.rpc()
			}
			if e, ok := errors.AsType[*rpcError](err); !ok || e.name() != test.code || status != test.status || time.Since(start) != test.after {
				t.Errorf("got %d %v after %v, want %+v", status, err, time.Since(start), test)
			}
		}
		// The client goes away: the request is cancelled.
		runs = 0
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		if _, err := b.hub.perform(ctx, newCall(t, "test/slow", "{}"), b.hub.machineTarget("m")); err == nil {
			t.Error("got a result, want the end of the context")
		}
		cancel()
		time.Sleep(time.Millisecond)
		synctest.Wait()
		if runs != 101 {
			t.Errorf("got runs %d, want 101: cancelled", runs)
		}
		d.stop()
		_ = d.end()
		synctest.Wait()
		_, err := b.hub.perform(t.Context(), newCall(t, "test/slow", "{}"), b.hub.machineTarget("m"))
		if e, ok := errors.AsType[*apiError](err); !ok || e.status != 503 || e.code != codeDaemonOffline {
			t.Error(err)
		}
	})
}

// TestCallToDrainingDaemon: its successor is asked.
func TestCallToDrainingDaemon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newHubBench(t)
		runs := 0
		first := b.daemon("cloud_x", "first", "child:cloud_x", slowMethod(time.Second, &runs))
		b.online("cloud_x")
		first.service.activity.drain()
		go func() {
			time.Sleep(time.Second)
			first.stop() // as the pool does with one that agreed to quiesce
			b.daemon("cloud_x", "second", "child:cloud_x", slowMethod(time.Second, &runs))
		}()
		result, err := b.hub.perform(t.Context(), newCall(t, "test/slow", "{}"), b.hub.machineTarget("cloud_x"))
		if err != nil || string(result) != "1" || runs != 1 {
			t.Errorf("got %s, %v, %d runs, want 1, no error, 1 run", result, err, runs)
		}
	})
}

// TestCallToDaemonThatResumes: it was about to be evicted, and was then told to
// stay.
func TestCallToDaemonThatResumes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newHubBench(t)
		runs := 0
		d := b.daemon("cloud_x", "first", "child:cloud_x", slowMethod(time.Second, &runs))
		b.online("cloud_x")
		d.service.activity.quiesce(0)
		time.AfterFunc(time.Second, d.service.activity.resume)
		begin := time.Now()
		result, err := b.hub.perform(t.Context(), newCall(t, "test/slow", "{}"), b.hub.machineTarget("cloud_x"))
		if took := time.Since(begin); err != nil || string(result) != "1" || took > 2*time.Second+drainPause {
			t.Errorf("got %s, %v, after %v, want 1 once it has resumed", result, err, took)
		}
		d.service.activity.drain() // and stays so
		begin = time.Now()
		_, err = b.hub.perform(t.Context(), newCall(t, "test/slow", "{}"), b.hub.machineTarget("cloud_x"))
		if took := time.Since(begin); asRPCError(err).name() != codeDraining || took > returnTimeout+drainPause {
			t.Errorf("got %v after %v, want %s within %v", err, took, codeDraining, returnTimeout+drainPause)
		}
	})
}

// TestProgressReachesTheCall: by its task_id, the newest first.
func TestProgressReachesTheCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newHubBench(t)
		work := newMethod("test/work", "", func(ctx context.Context, _ none) (none, error) {
			for i := range 10 {
				reportProgress(ctx, progress{Phase: "p", Percent: i * 10})
				time.Sleep(time.Second)
			}
			return none{}, nil
		})
		b.daemon("m", "i", "", work)
		b.online("m")
		c := newCall(t, "test/work", `{"task_id":"T"}`)
		mine, stop := b.hub.watch(c)
		defer stop()
		other, stopOther := b.hub.watch(newCall(t, "test/work", `{"task_id":"X"}`))
		defer stopOther()
		seen := make(chan []int)
		done := make(chan struct{})
		go func() {
			var percents []int
			for {
				select {
				case raw := <-mine.newest:
					var p taskProgress
					if err := json.Unmarshal(raw, &p); err != nil || p.TaskID != "T" {
						t.Errorf("got %s, %v, want progress of T", raw, err)
					}
					percents = append(percents, p.Percent)
				case <-done:
					seen <- percents
					return
				}
			}
		}()
		if _, err := b.hub.perform(t.Context(), c, b.hub.machineTarget("m")); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		close(done)
		if percents := <-seen; len(percents) < 10 || !slices.IsSorted(percents) || percents[len(percents)-1] != 100 {
			t.Errorf("got the percents %v, want at least 10 that rise to 100", percents)
		}
		if len(other.newest) != 0 {
			t.Error("a call got the progress of another, want none")
		}
	})
}

// Task ids are each daemon's own: the progress of another's task of the same name
// is not the call's, and what falls behind is left out.
func TestProgressOfAnotherDaemon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newHubBench(t)
		report := func(percents ...int) *method {
			return newMethod("test/work", "", func(ctx context.Context, _ none) (none, error) {
				for _, percent := range percents {
					reportProgress(ctx, progress{Phase: "p", Percent: percent})
					time.Sleep(time.Second)
				}
				return none{}, nil
			})
		}
		b.daemon("m", "i", "", report(10, 20, 30))
		b.daemon("other", "i", "", report(55, 56, 57))
		b.online("m")
		b.online("other")
		c := newCall(t, "test/work", `{"task_id":"T"}`)
		watch, stop := b.hub.watch(c)
		defer stop()
		var calls sync.WaitGroup
		for machine, call := range map[string]*call{"m": c, "other": newCall(t, "test/work", `{"task_id":"T"}`)} {
			calls.Go(func() {
				if _, err := b.hub.perform(t.Context(), call, b.hub.machineTarget(machine)); err != nil {
					t.Error(err)
				}
			})
		}
		var seen []int
		for len(seen) == 0 || seen[len(seen)-1] != 100 {
			var p taskProgress
			if err := json.Unmarshal(<-watch.newest, &p); err != nil {
				t.Fatal(err)
			}
			seen = append(seen, p.Percent)
		}
		calls.Wait()
		if !slices.IsSorted(seen) || slices.ContainsFunc(seen, func(percent int) bool { return percent > 50 && percent < 60 }) {
			t.Errorf("got the percents %v, want rising ones of its own daemon", seen)
		}
		// Sent again to another daemon it begins anew.
		b.hub.progressed(c.via.Load(), json.RawMessage(`{"task_id":"T","percent":5}`))
		if len(watch.newest) != 0 {
			t.Error("got a percent that fell, want it left out")
		}
	})
}

// Machines that are gone are remembered up to a number, the latest.
func TestHubForgets(t *testing.T) {
	h := newHub(hubConfig{})
	now := time.Now()
	for n := range maxOffline + 10 {
		id := fmt.Sprint("m", n)
		h.machines[id] = &machine{view: machineView{handshakeParams: handshakeParams{MachineID: id}, ConnectedAt: now.Add(time.Duration(n) * time.Second)}}
	}
	h.machines["here"] = &machine{conn: &hubConn{}, view: machineView{handshakeParams: handshakeParams{MachineID: "here"}}}
	h.forgetLocked()
	if len(h.machines) != maxOffline+1 || h.machines["here"] == nil || h.machines["m9"] != nil || h.machines["m10"] == nil {
		t.Errorf("got %d machines, want %d and the latest kept", len(h.machines), maxOffline+1)
	}
}

func TestParseCall(t *testing.T) {
	methods := methodsByName(builtinMethods())
	for _, test := range []struct {
		body, method, id, task string
		timeout                time.Duration
	}{
		{`{"jsonrpc":"2.0","id":1,"method":"a/b","params":{"task_id":"T","timeout_ms":5}}`, "a/b", "1", "T", 5 * time.Millisecond},
		{`{"jsonrpc":"2.0","id":null,"method":"vcs/clone","params":{ "url":"x" }}`, "vcs/clone", "null", "", cloneMethodTimeout},
		{`{"jsonrpc":"2.0","id":"x","method":"a/b"}`, "a/b", `"x"`, "", defaultMethodTimeout},
		{`{"jsonrpc":"2.0","id":"x","method":"a/b","params":{ }}`, "a/b", `"x"`, "", defaultMethodTimeout},
	} {
		c, err := parseCall([]byte(test.body), methods)
		if err != nil || c.method != test.method || string(c.id) != test.id || c.timeout != test.timeout || (test.task != "" && c.taskID != test.task) || c.taskID == "" {
			t.Errorf("%s: got %+v, %v, want %+v", test.body, c, err, test)
			continue
		}
		var common commonParams
		if err := decodeParams(c.params, &common); err != nil || common.TaskID == nil || *common.TaskID != c.taskID {
			t.Errorf("%s: got the params %s, %v, want the task_id %s in them", test.body, c.params, err, c.taskID)
		}
	}
	for _, body := range []string{``, `x`, `[]`, "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"a\",\"params\":{\"path\":\"\xff\"}}", `[{"jsonrpc":"2.0","id":1,"method":"a"}]`, `{}`, `{"jsonrpc":"2.0","method":"a"}`, `{"jsonrpc":"2.0","id":{},"method":"a"}`, `{"jsonrpc":"2.0","id":1}`, `{"jsonrpc":"2.0","id":1,"result":1}`} {
		if c, err := parseCall([]byte(body), methods); err == nil {
			t.Errorf("%s: got %+v, want an error", body, c)
		}
	}
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
		{"127.0.0.1:1", "Forwarded", false}, {"127.0.0.1:1", "X-Forwarded-For", false}, {"@", "X-Real-Ip", false},
	} {
		r := &http.Request{RemoteAddr: test.from, Header: http.Header{}}
		if test.header != "" {
			r.Header.Set(test.header, "10.0.0.1")
		}
		if child, ok := h.admit(r); ok != test.ok || child != "" {
			t.Errorf("%s with %q: got %q, %v, want %v", test.from, test.header, child, ok, test.ok)
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
	probe.watch(func() { h.views() })
	params := handshakeParams{MachineID: "m", InstanceID: "i"}
	c := &hubConn{hub: h, params: &params}
	if reason := h.register(c, params); reason != "" {
		t.Errorf("got the refusal %q, want none", reason)
	}
	h.drop(c, errLinkLost)
	probe.wantSeen("machine online", "event online", "machine offline", "event offline")
}

// Bindings can be read while one is written: the disk may be slow.
func TestLibrariesAreReadDuringAWrite(t *testing.T) {
	t.Parallel()
	l, err := openLibraries(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	l.writing <- struct{}{} // a write is under way
	written := make(chan error)
	go func() { written <- l.set("x", "m") }() // ends when it has its turn
	if id, ok := l.get("x"); ok {
		t.Errorf("got the binding %q, want none before it is written", id)
	}
	<-l.writing
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	if id, _ := l.get("x"); id != "m" {
		t.Errorf("got the binding %q, want m", id)
	}
}
