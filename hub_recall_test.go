//go:build linux || darwin

package main

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// switchedProxy passes connections on to one of two schedulers, as a proxy does
// that sends the calls of a machine elsewhere after a change.
type switchedProxy struct {
	address  string
	target   atomic.Pointer[string]
	accepted atomic.Int64 // connections
}

func newSwitchedProxy(t *testing.T, target string) *switchedProxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &switchedProxy{address: l.Addr().String()}
	p.target.Store(&target)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			p.accepted.Add(1)
			to, err := net.Dial("tcp", *p.target.Load())
			if err != nil {
				_ = from.Close()
				continue
			}
			for _, pair := range [][2]net.Conn{{from, to}, {to, from}} {
				wg.Go(func() {
					_, _ = io.Copy(pair[0], pair[1])
					_ = pair[0].Close()
					_ = pair[1].Close()
				})
			}
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
	return p
}

// TestRecall: a machine is called at a scheduler that it is not connected to. The
// other one closes its link after its call, and the machine dials the way of the
// calls.
func TestRecall(t *testing.T) {
	skipShort(t, "waits for 2 s until a daemon dials again")
	t.Parallel()
	var urls [2]string
	var ports [2]string
	for i := range ports {
		port := freePort(t)
		ports[i] = strings.TrimSpace(string(mustJSON(t, port)))
		urls[i] = "http://127.0.0.1:" + ports[i]
	}
	for i := range ports {
		p, _ := startSchedulerProcess(t, nil, "--port", ports[i], "--cluster", "--peers", urls[1-i])
		p.url()
	}
	proxy := newSwitchedProxy(t, strings.TrimPrefix(urls[0], "http://"))
	dir := realTempDir(t)
	daemon := start(t, daemonName, nil, "--server", proxy.address, "--machine-id", "Ann's Mac", "--work-dir", dir+"/w", "--handler", "test/wait=/bin/sleep 2")
	t.Cleanup(func() { _ = daemon.cmd.Process.Kill() })
	const path = "/machines/Ann%27s%20Mac"
	awaitThat(t, "the machine is online", func() bool {
		status, body := askHTTP(t, http.MethodGet, urls[0]+path, "")
		return status == http.StatusOK && strings.Contains(body, `"online"`)
	})
	if status, a := callRPC(t, urls[0]+path, "config/get", "{}"); status != http.StatusOK {
		t.Errorf("the call where the machine is: got %d %v, want 200", status, a.Error)
	}
	var running sync.WaitGroup
	running.Go(func() { // it ends, although the machine is wanted elsewhere
		if status, a := callRPC(t, urls[0]+path, "test/wait", "{}"); status != http.StatusOK {
			t.Errorf("the call that ran: got %d %v, want the answer of its program", status, a.Error)
		}
	})
	awaitThat(t, "the call runs", func() bool {
		_, body := askHTTP(t, http.MethodGet, urls[0]+"/activity", "")
		return strings.Contains(body, "test/wait")
	})
	target := strings.TrimPrefix(urls[1], "http://")
	proxy.target.Store(&target)
	if status, a := callRPC(t, urls[1]+path, "config/get", "{}"); status != http.StatusOK || a.Error != nil {
		t.Errorf("the call elsewhere: got %d %v, want 200", status, a.Error)
	}
	running.Wait()
	for i, want := range []string{"offline", "online"} {
		if _, body := askHTTP(t, http.MethodGet, urls[i]+path, ""); field[string](t, []byte(body), "status") != want {
			t.Errorf("the machine at scheduler %d: got %s, want it %s", i, body, want)
		}
	}
	// A call that came late is sent to where the machine is.
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, Transport: &http.Transport{DisableKeepAlives: true}}
	for query, want := range map[string]int{"": http.StatusTemporaryRedirect, "?a=b": http.StatusTemporaryRedirect} {
		response, err := client.Post(urls[0]+path+"/rpc"+query, "application/json", strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"config/get"}`))
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		to := path + "/rpc" + query + map[bool]string{true: "?moved=1", false: "&moved=1"}[query == ""]
		if got := response.Header.Get("Location"); response.StatusCode != want || got != to {
			t.Errorf("a late call: got %d to %q, want %d to %q", response.StatusCode, got, want, to)
		}
	}
}

// TestRelease: a scheduler says whether it has a machine, or may have had it just now.
func TestRelease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newHubBench(t)
		want := func(what, machineID string, want int) {
			t.Helper()
			if got := b.hub.release(machineID); got != want {
				t.Errorf("%s: got %d, want %d", what, got, want)
			}
		}
		time.Sleep(time.Second)
		want("a machine that the scheduler before may have had", "m", http.StatusNoContent)
		time.Sleep(returnTimeout)
		want("an unknown machine", "m", http.StatusNotFound)
		d := b.daemon("m", "i", "")
		b.daemon(cloudPrefix+"x", "j", "child:"+secret(cloudPrefix+"x"))
		conn := b.online("m")
		b.online(cloudPrefix + "x")
		want("a machine that has just come", "m", http.StatusConflict)
		time.Sleep(recallStay)
		want("a daemon of the pool", cloudPrefix+"x", http.StatusNotFound)
		want("a machine that is connected", "m", http.StatusNoContent)
		want("a machine that is leaving", "m", http.StatusNoContent)
		<-conn.done
		want("a machine that has just left", "m", http.StatusNoContent)
		if !b.hub.moved("m") {
			t.Error("a machine that has just left: got false, want that it has moved")
		}
		b.online("m") // it dials again
		if b.hub.moved("m") {
			t.Error("a machine that came back: got that it has moved, want not")
		}
		d.stop()
		_ = d.end()
		time.Sleep(2 * returnTimeout)
		want("a machine that left long ago", "m", http.StatusNotFound)
	})
}

// TestRecallOfPeers: what a scheduler makes of the answers of the others.
func TestRecallOfPeers(t *testing.T) {
	t.Parallel()
	answer := func(status int) string {
		return newHTTPServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodPost || r.URL.EscapedPath() != "/machines/a%2Fb/release" || r.Header.Get("Authorization") != "Bearer t" {
				status = http.StatusTeapot
				t.Errorf("got %s %s with %q, want the release of the machine with the caller's token", r.Method, r.URL.EscapedPath(), r.Header.Get("Authorization"))
			}
			w.WriteHeader(status)
		}))
	}
	closed := httptest.NewServer(nil)
	closed.Close()
	for _, test := range []struct {
		name  string
		peers []string
		want  time.Duration
	}{
		{"has it", []string{answer(http.StatusNotFound), answer(http.StatusNoContent)}, recallWait},
		{"has just got it", []string{answer(http.StatusNotFound), answer(http.StatusConflict)}, recallSoon},
		{"none has it", []string{answer(http.StatusNotFound), answer(http.StatusForbidden)}, 0},
		{"one does not answer", []string{answer(http.StatusNotFound), closed.URL}, recallWait},
		{"another program", []string{answer(http.StatusOK)}, 0},
	} {
		c := newPeers(test.peers, nil)
		r := httptest.NewRequest(http.MethodPost, "/machines/x/rpc", nil)
		r.Header.Set("Authorization", "Bearer t")
		if got := c.recall(r, "a/b"); got != test.want {
			t.Errorf("%s: got %v, want %v", test.name, got, test.want)
		}
		for i, url := range test.peers {
			if url != closed.URL {
				continue
			}
			c.silent[i].since.Store(time.Now().Add(-recallGrace - time.Second).UnixNano())
			if c.recall(r, "a/b") != 0 {
				t.Errorf("%s: got a machine of a scheduler that is gone for long, want none", test.name)
			}
		}
		c.client.CloseIdleConnections()
	}
}
