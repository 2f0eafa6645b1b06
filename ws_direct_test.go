//go:build linux || darwin

package main

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
)

// TestDirectWrite: a write that must not wait writes what the kernel takes, and
// nothing when it takes nothing. What was written arrives once, also through TLS.
func TestDirectWrite(t *testing.T) {
	t.Parallel()
	for _, secure := range []bool{false, true} {
		type result struct {
			sent []byte
			err  error
		}
		ended := make(chan result, 1)
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close() // all was written
			write := directWrite(conn)
			if n, err := write(make([]byte, maxDirectRecord+1)); secure && (n != 0 || err != nil) {
				t.Errorf("a long record: %d bytes were written, %v, want 0", n, err)
			} else if !secure {
				ended <- result{make([]byte, n), err}
				return
			}
			var sent []byte
			for piece := 0; ; piece++ {
				p := bytes.Repeat([]byte{byte(piece)}, 4000)
				n, err := write(p)
				sent = append(sent, p[:n]...)
				if n == 0 || err != nil { // the other side reads nothing
					ended <- result{sent, err}
					return
				}
			}
		}))
		if secure {
			s.StartTLS()
		} else {
			s.Start()
		}
		var conn net.Conn
		var err error
		if address := s.Listener.Addr().String(); secure {
			conn, err = tls.Dial("tcp", address, &tls.Config{RootCAs: s.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs, ServerName: "example.com"})
		} else {
			conn, err = net.Dial("tcp", address)
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		want := <-ended
		got, err := io.ReadAll(conn)
		if err != nil || want.err != nil || len(want.sent) == 0 || !bytes.Equal(got, want.sent) {
			t.Errorf("TLS %v: %d bytes arrived, %v, want %d and no error, not %v", secure, len(got), err, len(want.sent), want.err)
		}
		_ = conn.Close() // read to the end
		s.Close()
	}
}
