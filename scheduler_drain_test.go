//go:build linux || darwin

package main

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// A client whose connection was accepted gets its answer, whenever the listener ends.
func TestListenerEndsWithoutResettingConnections(t *testing.T) {
	t.Parallel()
	for range 3 {
		inner, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		l := &endingListener{Listener: inner}
		var served, wg sync.WaitGroup
		served.Go(func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					if !errors.Is(err, net.ErrClosed) {
						t.Errorf("got %v at the end, want %v", err, net.ErrClosed)
					}
					return
				}
				time.Sleep(100 * time.Microsecond) // the others wait in the backlog
				_, _ = conn.Write([]byte("x"))
				_ = conn.Close()
			}
		})
		var answers atomic.Int32
		begun := make(chan struct{}, 1)
		for range 8 {
			wg.Go(func() {
				for {
					conn, err := net.Dial("tcp", inner.Addr().String())
					if err != nil {
						return // refused: a proxy asks another
					}
					if data, err := io.ReadAll(conn); string(data) != "x" {
						t.Errorf("got %q, %v on a connection that was accepted, want x", data, err)
					}
					_ = conn.Close()
					if answers.Add(1) == 20 {
						begun <- struct{}{}
					}
				}
			})
		}
		<-begun
		l.end()
		wg.Wait()
		served.Wait()
	}
}

// With --cluster a drain begins with a notice: /readyz fails and work is taken. Then
// no connection is accepted, and a user's daemon is sent away when its last call has
// ended. SIGTERM drains in the same way.
func TestDrainOfACluster(t *testing.T) {
	t.Parallel()
	skipShort(t, "it waits for the notice")
	for _, by := range []string{"POST /drain", "SIGTERM"} {
		t.Run(by, func(t *testing.T) {
			t.Parallel()
			p, url := startSchedulerProcess(t, nil, "--cluster")
			dir := realTempDir(t)
			begun, end := filepath.Join(dir, "begun"), filepath.Join(dir, "end")
			handler := filepath.Join(dir, "wait.sh")
			if err := os.WriteFile(handler, []byte("#!/bin/sh\ncat >/dev/null\n: >'"+begun+"'\nuntil [ -e '"+end+"' ]; do sleep 0.05; done\necho '{}'\n"), 0o700); err != nil {
				t.Fatal(err)
			}
			daemon := start(t, daemonName, nil, "--server", url, "--machine-id", "m", "--allow", dir, "--work-dir", filepath.Join(dir, "w"), "--handler", "test/wait="+handler)
			daemon.says("msg=connected")
			var calls sync.WaitGroup
			calls.Go(func() {
				if status, a := callRPC(t, url+"/machines/m", "test/wait", "{}"); status != 200 || a.Error != nil {
					t.Errorf("the call that ran during the drain: got %d %+v, want 200 and a result", status, a.Error)
				}
			})
			awaitThat(t, "the call", func() bool { _, err := os.Stat(begun); return err == nil })
			before := time.Now()
			if by == "SIGTERM" {
				if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
					t.Fatal(err)
				}
				p.says("draining")
			} else if status, _ := askHTTP(t, "POST", url+"/drain", ""); status != 202 {
				t.Fatalf("POST /drain: got %d, want 202", status)
			}
			if status, _ := askHTTP(t, "GET", url+"/readyz", ""); status != 503 {
				t.Errorf("/readyz during the notice: got %d, want 503", status)
			}
			// Its calls come here, too, until the proxy notices.
			late := start(t, daemonName, nil, "--server", url, "--machine-id", "late", "--allow", dir)
			late.says("msg=connected")
			for _, path := range []string{"/machines/m", "/libraries/x"} {
				if status, a := callRPC(t, url+path, "config/get", "{}"); status != 200 {
					t.Errorf("a call of %s during the notice: got %d %+v, want 200", path, status, a.Error)
				}
			}
			refused := func() bool {
				conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
				if err == nil {
					_ = conn.Close()
				}
				return err != nil
			}
			awaitThat(t, "connections to be refused", refused)
			if took := time.Since(before); took < drainNotice {
				t.Errorf("connections were refused after %v, want %v of notice", took, drainNotice)
			}
			if strings.Contains(daemon.stderr.String(), "not connected") {
				t.Errorf("the daemon lost its link while a call ran: %s", daemon.stderr)
			}
			if err := os.WriteFile(end, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			calls.Wait()
			daemon.says("dial again")
			late.says("dial again")
			if code := p.exit(); code != 0 {
				t.Errorf("exit %d, want 0", code)
			}
		})
	}
}
