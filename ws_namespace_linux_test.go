package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The test of this file drops packets between real programs: a scheduler and
// three daemons, each in a network namespace of its own, with a router between
// them. It needs root and ip(8).
//
// The namespaces have no names, so that they vanish with the last descriptor and
// process, however the test ends.

// namespace is a network namespace of this test.
type namespace struct {
	t    *testing.T
	ip   string // the program
	file *os.File
}

// newNamespace makes a network namespace; it skips the test where that is
// impossible.
func newNamespace(t *testing.T) *namespace {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can make a network namespace")
	}
	path, err := exec.LookPath("ip")
	if err != nil {
		if path, err = exec.LookPath("/usr/sbin/ip"); err != nil {
			t.Skip("ip(8) is not installed:", err)
		}
	}
	n := &namespace{t: t, ip: path}
	own := openNamespace(t)
	defer own.Close()
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		t.Skip("root is not allowed to make a network namespace here:", err)
	}
	n.file = openNamespace(t)
	t.Cleanup(func() { _ = n.file.Close() })
	n.back(own)
	return n
}

// openNamespace opens the network namespace of the calling thread.
func openNamespace(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Skip("no namespaces in /proc:", err)
	}
	return f
}

// back returns the thread to its own namespace.
func (n *namespace) back(own *os.File) {
	if err := unix.Setns(int(own.Fd()), unix.CLONE_NEWNET); err != nil {
		n.t.Error("leaving a network namespace:", err) // the thread stays locked, and ends with its goroutine
		return
	}
	runtime.UnlockOSThread()
}

// do calls f in the namespace: the sockets that f opens and the processes that
// it starts belong there.
func (n *namespace) do(f func()) {
	n.t.Helper()
	runtime.LockOSThread()
	own := openNamespace(n.t)
	defer own.Close()
	if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		n.t.Fatal("entering a network namespace:", err)
	}
	defer n.back(own)
	f()
}

// run runs ip(8) there.
func (n *namespace) run(args ...string) {
	n.t.Helper()
	n.do(func() {
		if out, err := exec.Command(n.ip, args...).CombinedOutput(); err != nil {
			n.t.Fatalf("ip %s: %v: %s, want success", args, err, out)
		}
	})
}

// router connects namespaces, each with a net of its own.
type router struct {
	*namespace
	nets int
}

func newRouter(t *testing.T) *router {
	t.Helper()
	r := &router{namespace: newNamespace(t)}
	r.do(func() {
		if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil { // of the namespace
			t.Skip("forwarding cannot be switched on here:", err)
		}
	})
	return r
}

// host makes a namespace behind the router with a number of addresses.
func (r *router) host(addresses int) (n *namespace, all []string) {
	r.t.Helper()
	n = newNamespace(r.t)
	r.nets++
	inside, outside := fmt.Sprint("host", r.nets), fmt.Sprint("port", r.nets)
	out, err := []byte(nil), error(nil)
	n.do(func() {
		out, err = exec.Command(n.ip, "link", "add", inside, "type", "veth", "peer", "name", outside, "netns", fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), r.file.Fd())).CombinedOutput()
	})
	if err != nil && strings.Contains(string(out), "not supported") {
		r.t.Skipf("this kernel has no virtual cables: %s", out)
	} else if err != nil {
		r.t.Fatalf("making a virtual cable: %v: %s, want success", err, out)
	}
	for i := range addresses {
		address := fmt.Sprintf("10.99.%d.%d", r.nets, 10+i)
		all = append(all, address)
		n.run("address", "add", address+"/24", "dev", inside)
	}
	gateway := fmt.Sprintf("10.99.%d.1", r.nets)
	r.run("address", "add", gateway+"/24", "dev", outside)
	r.run("link", "set", outside, "up")
	n.run("link", "set", "lo", "up")
	n.run("link", "set", inside, "up")
	n.run("route", "add", "default", "via", gateway)
	return n, all
}

// lose makes the router drop packets to an address without an error to the sender;
// find makes it forward them again.
func (r *router) lose(address string) { r.run("route", "add", "blackhole", address+"/32") }
func (r *router) find(address string) { r.run("route", "del", "blackhole", address+"/32") }

// subscription subscribes to the scheduler's events and returns the statuses of
// machines.
func (n *namespace) subscription(t *testing.T, address, token string) (statuses chan machineStatus) {
	t.Helper()
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, address string) (conn net.Conn, err error) {
		n.do(func() { conn, err = (&net.Dialer{}).DialContext(ctx, network, address) }) // one address, so in this goroutine
		return conn, err
	}}
	ctx, stop := context.WithCancel(context.Background())
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address+"/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+token)
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("GET /events: %v, %v, want status 200", response, err)
	}
	statuses = make(chan machineStatus, 1000)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer response.Body.Close()
		about := ""
		for lines := bufio.NewScanner(response.Body); lines.Scan(); {
			if name, ok := strings.CutPrefix(lines.Text(), "event: "); ok {
				about = name
			}
			var status machineStatus
			if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok && about == statusMethod && json.Unmarshal([]byte(data), &status) == nil {
				statuses <- status
			}
		}
	}()
	t.Cleanup(func() {
		stop()
		<-ended
	})
	return statuses
}

// TestPacketsDroppedByRouter: a router drops the packets of one daemon in both
// directions, of one those from the hub, and of one those to the hub, without a FIN
// or RST. Each daemon and the hub notice within 30 s, and subscribers are told.
// When the router forwards again, all daemons connect again. The clocks of the
// links run five times as fast.
func TestPacketsDroppedByRouter(t *testing.T) {
	skipShort(t, "waits until links are given up, for some 8 s; TestPacketsDroppedBothWays does it in memory")
	t.Parallel()
	const scale = 5
	clock := fmt.Sprintf("%s=%d", testClockVariable, scale)
	r := newRouter(t)
	const faults = 3
	server, serverAddresses := r.host(faults)
	const apiToken, daemonToken = "api-s3cret", "daemon-s3cret"
	type victim struct {
		machineID, address, server string
		up, down                   bool // what is dropped
		program                    *startedProgram
	}
	var victims []*victim
	for i, v := range []victim{{machineID: "both-ways", up: true, down: true}, {machineID: "from-the-hub", down: true}, {machineID: "to-the-hub", up: true}} {
		v.server = serverAddresses[i]
		victims = append(victims, &v)
	}
	var url string
	server.do(func() {
		_, url = startSchedulerProcess(t, []string{"C4A_API_TOKEN=" + apiToken, "C4A_DAEMON_TOKEN=" + daemonToken, clock}, "--host", "0.0.0.0")
	})
	statuses := server.subscription(t, "http://"+net.JoinHostPort(serverAddresses[0], port(t, url)), apiToken)
	// told waits until an event has reported the status of each machine, and returns
	// these events.
	told := func(status string) map[string]machineStatus {
		all := map[string]machineStatus{}
		limit := time.After(2 * patience)
		for len(all) < faults {
			select {
			case s := <-statuses:
				if s.Status != status {
					t.Fatalf("got the status %+v, want %s", s, status)
				}
				all[s.MachineID] = s
			case <-limit:
				t.Fatalf("%s are only %v, want %d machines", status, all, faults)
			}
		}
		return all
	}
	for _, v := range victims {
		daemon, addresses := r.host(1)
		v.address = addresses[0]
		daemon.do(func() {
			v.program = startUserDaemon(t, net.JoinHostPort(v.server, port(t, url)), v.machineID, []string{"C4A_TOKEN=" + daemonToken, clock})
		})
	}
	told("online")
	for _, v := range victims {
		if v.down {
			r.lose(v.address)
		}
		if v.up {
			r.lose(v.server)
		}
	}
	start := time.Now()
	offline := told("offline")
	const limit = 30*time.Second/scale + 10*time.Second // for a busy machine
	for _, v := range victims {
		line := v.program.says("trying again")
		daemonKnew := logTime(t, line).Sub(start)
		hubKnew := offline[v.machineID].At.Sub(start)
		t.Logf("%s: the daemon knew after %v, the hub after %v: %s", v.machineID, daemonKnew, hubKnew, offline[v.machineID].Reason)
		if daemonKnew > limit || hubKnew > limit {
			t.Errorf("%s: the daemon knew after %v, the hub after %v, want at most %v", v.machineID, daemonKnew, hubKnew, limit)
		}
		// A side that receives nothing can only notice the missing pong.
		if v.down && !strings.Contains(line, errPingTimeout.Error()) {
			t.Errorf("%s: the daemon gave up with %s, want %q", v.machineID, line, errPingTimeout)
		}
		if v.up && !strings.Contains(offline[v.machineID].Reason, errPingTimeout.Error()) {
			t.Errorf("%s: the hub gave up with %s, want %q", v.machineID, offline[v.machineID].Reason, errPingTimeout)
		}
	}
	for _, v := range victims {
		if v.down {
			r.find(v.address)
		}
		if v.up {
			r.find(v.server)
		}
	}
	told("online")
}
