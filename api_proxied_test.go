//go:build linux || darwin

package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// The tests of this file do to the API what proxies in front of it do.

// TestCallersOfOneConnection: a proxy that pools its connections sends requests of
// many callers by one. Each has the rights and the limits of its own token.
func TestCallersOfOneConnection(t *testing.T) {
	t.Parallel()
	b := newSocketHub(t, nil)
	limits := newAPILimits(1, 0, 0, 0)
	a := newAPI(apiConfig{events: newEvents(b.log), tokens: testTokens(t, "one read", "two read", "three call"), limits: limits, log: b.log})
	(&hubAPI{callRouter: callRouter{hub: b.hub}, tokens: &childTokens{}, log: b.log}).register(a)
	conn, err := net.Dial("tcp", strings.TrimPrefix(newHTTPServer(t, a), "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	busy, err := limits.begin(nil, &http.Request{}, "token one", "GET /machines") // the first token has a request in flight
	if err != nil {
		t.Fatal(err)
	}
	defer busy.end()
	want := []struct {
		token  string
		status int
	}{{"ONE", 429}, {"TWO", 200}, {"THREE", 403}, {"ONE", 429}, {"FOUR", 401}, {"TWO", 200}}
	var all strings.Builder
	for _, r := range want {
		fmt.Fprintf(&all, "GET /machines HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\nX-Forwarded-For: 10.0.0.1\r\n\r\n", r.token)
	}
	if _, err := io.WriteString(conn, all.String()); err != nil { // at once: the proxy pipelines
		t.Fatal(err)
	}
	answers := bufio.NewReader(conn)
	for n, r := range want {
		response, err := http.ReadResponse(answers, nil)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(response.Body)
		_ = response.Body.Close()
		if response.StatusCode != r.status {
			t.Errorf("request %d, of %s: got %d %s, want %d", n, r.token, response.StatusCode, body, r.status)
		}
	}
}

// TestRepeatedByAProxy: a proxy that had no answer in time sends a POST again. With
// a task_id the second joins the first; without one it runs twice.
func TestRepeatedByAProxy(t *testing.T) {
	for params, want := range map[string]int64{`{"task_id":"T"}`: 1, `{}`: 2} {
		synctest.Test(t, func(t *testing.T) {
			b := newHubBench(t)
			var runs atomic.Int64
			b.daemon("m", "i", "", newMethod("fs/stat", "", func(context.Context, none) (int, error) {
				runs.Add(1)
				time.Sleep(10 * time.Second)
				return 7, nil
			}))
			b.online("m")
			b.hub.methods = methodsByName(builtinMethods())
			a := newAPI(apiConfig{events: newEvents(b.log), log: b.log})
			(&hubAPI{callRouter: callRouter{hub: b.hub}, tokens: &childTokens{}, log: b.log}).register(a)
			body := `{"jsonrpc":"2.0","id":1,"method":"fs/stat","params":` + params + `}`
			done := make(chan string, 2)
			for range 2 {
				go func() { done <- askFrom(a, "10.0.0.1:1", "POST", "/machines/m/rpc", body).Body.String() }()
				time.Sleep(time.Second)
			}
			for range 2 {
				if got := <-done; !strings.Contains(got, `"result":7`) {
					t.Errorf("%s: got %s, want the result", params, got)
				}
			}
			if got := runs.Load(); got != want {
				t.Errorf("%s: got %d runs, want %d", params, got, want)
			}
		})
	}
}

// TestStrippedUpgrade: an upgrade without its headers, as by a proxy that does not
// know WebSocket, gets a problem that says what is missing. A handshake without
// the machine's id in a header is accepted.
func TestStrippedUpgrade(t *testing.T) {
	t.Parallel()
	b := newSocketHub(t, nil)
	a := newAPI(apiConfig{events: newEvents(b.log), log: b.log})
	(&hubAPI{callRouter: callRouter{hub: b.hub}, tokens: &childTokens{}, log: b.log}).register(a)
	for _, header := range [][]string{
		nil,
		{"Connection", "close"},
		{"Upgrade", "websocket"},
		{"Connection", "Upgrade"},
		{"Connection", "Upgrade", "Upgrade", "websocket"},
		{"Connection", "Upgrade", "Upgrade", "websocket", "Sec-WebSocket-Version", "13"},
		{"Connection", "Upgrade", "Upgrade", "h2c", "Sec-WebSocket-Version", "13", "Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="},
	} {
		w := askFrom(a, "127.0.0.1:1", "GET", linkPath, "", header...)
		want := http.StatusUpgradeRequired
		if w.Code == http.StatusBadRequest && len(header) > 2 {
			want = http.StatusBadRequest
		}
		checkProblem(t, w, want, codeBadRequest)
	}
	c := dialRaw(t, strings.TrimPrefix(newHTTPServer(t, a), "http://")) // without the header
	c.put(whole(frameFin|frameText, userHandshake))
	c.says(`{"jsonrpc":"2.0","id":1,"result":{"accepted":true`)
}
