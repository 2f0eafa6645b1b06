//go:build linux || darwin

package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/coder/websocket"
)

// A link without TLS goes through a proxy by CONNECT, too (RFC 6455, section 4.1):
// the proxy does not understand the upgrade.
func TestPlainLinkThroughProxy(t *testing.T) {
	t.Parallel()
	connected := make(chan struct{}, 10)
	server := newHTTPServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.CloseNow()
		if _, _, err := conn.Read(context.Background()); err != nil {
			t.Errorf("reading the handshake: %v", err)
		}
		_ = conn.Write(context.Background(), websocket.MessageText, []byte(`{"jsonrpc":"2.0","id":1,"result":{"accepted":true}}`))
		connected <- struct{}{}
		_ = conn.Close(websocket.StatusGoingAway, "")
	}))
	proxy, asked := connectProxy(t)
	host := "c4a.test:" + port(t, server)
	for _, name := range []string{"HTTP_PROXY", "http_proxy"} {
		before := len(asked())
		p := start(t, daemonName, []string{name + "=" + strings.Replace(proxy, "://", "://user:proxy-s3cret@", 1)}, "--server", "ws://"+host, "--machine-id", "m", "--max-reconnect-attempts", "1", "--allow", t.TempDir())
		if code := p.exit(); code != exitGaveUp || len(connected) != 1 || strings.Contains(p.stderr.String(), "s3cret") {
			t.Fatalf("%s: exit %d and %d connections, want %d and 1: %s", name, code, len(connected), exitGaveUp, p.stderr)
		}
		<-connected
		if got := asked()[before:]; len(got) != 1 || !strings.HasPrefix(got[0], "CONNECT "+host) {
			t.Errorf("%s: the proxy was asked for %q, want one CONNECT %s", name, got, host)
		}
	}
}

// What a proxy answers is the proxy's: no status of it is final.
func TestProxyThatRefuses(t *testing.T) {
	skipShort(t, "it takes about a second")
	t.Parallel()
	for _, status := range []int{http.StatusUnauthorized, http.StatusForbidden, http.StatusProxyAuthRequired, http.StatusBadGateway, http.StatusServiceUnavailable} {
		proxy := newHTTPServer(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", status) }))
		for _, scheme := range []string{"ws", "wss"} {
			p := start(t, daemonName, []string{"HTTP_PROXY=" + proxy, "HTTPS_PROXY=" + proxy}, "--server", scheme+"://c4a.test:5110", "--machine-id", "m", "--max-reconnect-attempts", "1", "--allow", t.TempDir())
			want := fmt.Sprintf("the proxy %s refused the connection (%d", strings.TrimPrefix(proxy, "http://"), status)
			if code := p.exit(); code != exitGaveUp || !strings.Contains(p.stderr.String(), want) {
				t.Errorf("%s, %d: exit %d, want %d and %q: %s", scheme, status, code, exitGaveUp, want, p.stderr)
			}
		}
	}
}
