//go:build linux || darwin

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/coder/websocket"
)

const userHandshake = `{"jsonrpc":"2.0","id":1,"method":"daemon/handshake","params":{"machine_id":"m","instance_id":"i","protocol_version":1}}`

// newSocketHub serves a hub on a real socket.
func newSocketHub(t *testing.T, configure func(*hubConfig)) *hubBench {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return newHubBenchOn(t, listener, configure)
}

// A peer that is not known yet can make the hub do little work.
func TestBeforeTheHandshakeAMessageCostsLittle(t *testing.T) {
	b := newSocketHub(t, nil)
	dial := func(t *testing.T, header ...string) *rawClient { return dialRaw(t, b.server.Host, header...) }
	t.Run("compressed", func(t *testing.T) {
		c := dial(t, deflate)
		c.put(whole(frameFin|frameText|frameRSV1, deflated(t, userHandshake)))
		c.closes(websocket.StatusPolicyViolation)
	})
	t.Run("compressed with the upgrade", func(t *testing.T) {
		conn, err := net.Dial("tcp", b.server.Host)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(patience))
		request := "GET " + linkPath + " HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" + deflate + "\r\n\r\n"
		if _, err := conn.Write(append([]byte(request), whole(frameFin|frameText|frameRSV1, deflated(t, userHandshake))...)); err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(conn)
		if err != nil || !bytes.Contains(answer, []byte("no compression")) || bytes.Contains(answer, []byte("accepted\":")) {
			t.Errorf("got %q, %v, want a close frame that names compression", answer, err)
		}
	})
	t.Run("too long", func(t *testing.T) {
		c := dial(t)
		c.put(frame(frameFin|frameText, bytes.Repeat([]byte{' '}, maxHandshake+1), 1<<20))
		c.closes(websocket.StatusMessageTooBig)
	})
	t.Run("too long in fragments", func(t *testing.T) {
		c := dial(t)
		c.put(whole(frameText, strings.Repeat(" ", maxHandshake)))
		c.put(whole(frameContinue, "  "))
		c.closes(websocket.StatusMessageTooBig)
	})
	t.Run("batch", func(t *testing.T) {
		c := dial(t)
		c.put(whole(frameFin|frameText, "["+userHandshake+"]"))
		c.says(`{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"invalid request: no batch before`)
		c.put(whole(frameFin|frameText, userHandshake))
		c.says(`{"jsonrpc":"2.0","id":1,"result":{"accepted":true`)
		c.put(whole(frameFin|frameText, `[1]`))
		c.says(`[{"jsonrpc":"2.0","id":null,"error":{"code":-32600`)
	})
	t.Run("afterwards", func(t *testing.T) {
		c := dial(t, deflate)
		c.put(whole(frameFin|frameText, strings.Replace(userHandshake, `"m"`, `"m2"`, 1)))
		c.says(`{"jsonrpc":"2.0","id":1,"result":{"accepted":true`)
		c.put(whole(frameFin|frameText|frameRSV1, deflated(t, `{"jsonrpc":"2.0","id":2,"method":"no/such","params":{}}`)))
		c.says(`{"jsonrpc":"2.0","id":2,"error":{"code":-32601`)
		c.put(whole(frameFin|frameText, `{"jsonrpc":"2.0","id":3,"method":"no/such"`+strings.Repeat(" ", 2*maxHandshake)+"}"))
		c.says(`{"jsonrpc":"2.0","id":3,"error":{"code":-32601`)
	})
}

func TestRefusedMachineIDIsLoggedShortened(t *testing.T) {
	var log bytes.Buffer
	var mu sync.Mutex
	b := newSocketHub(t, func(c *hubConfig) { c.log = slog.New(slog.NewTextHandler(lockedWriter{&mu, &log}, nil)) })
	c := dialRaw(t, b.server.Host)
	c.put(whole(frameFin|frameText, strings.Replace(userHandshake, `"m"`, `"`+strings.Repeat("x", maxHandshake/2)+`"`, 1)))
	c.says(`{"jsonrpc":"2.0","id":1,"result":{"accepted":false,"reason":"machine_id`)
	c.closes(websocket.StatusPolicyViolation)
	mu.Lock()
	defer mu.Unlock()
	if log.Len() > 1000 || !strings.Contains(log.String(), "refused") {
		t.Errorf("the log has %d bytes, want the refusal in less than 1000: %.300s", log.Len(), log.String())
	}
}

type lockedWriter struct {
	mu *sync.Mutex
	w  io.Writer
}

func (w lockedWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.w.Write(p)
}

// Connections that make no handshake do not keep others out: the oldest goes.
func TestUnfinishedHandshakesAreBounded(t *testing.T) {
	skipShort(t, "it takes seconds")
	t.Parallel()
	b := newSocketHub(t, nil)
	first := dialRaw(t, b.server.Host)
	for range maxUnfinished - 1 {
		dialRaw(t, b.server.Host)
	}
	for !b.hub.agedBy(unfinishedGrace) {
		time.Sleep(10 * time.Millisecond)
	}
	dialRaw(t, b.server.Host)
	if _, err := io.Copy(io.Discard, first); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !strings.Contains(err.Error(), "reset") {
		t.Errorf("the oldest connection ended with %v, want its end", err)
	}
	c := dialRaw(t, b.server.Host)
	c.put(whole(frameFin|frameText, userHandshake))
	c.says(`{"jsonrpc":"2.0","id":1,"result":{"accepted":true`)
}

// agedBy reports whether the youngest link is at least that old.
func (h *hub) agedBy(age time.Duration) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for c := range h.conns {
		if time.Since(c.link.began) < age {
			return false
		}
	}
	return true
}

// A daemon takes as little from a server that has not accepted it yet.
func TestDaemonTakesLittleBeforeItIsAccepted(t *testing.T) {
	accepted := `{"jsonrpc":"2.0","id":1,"result":{"accepted":true}}`
	for _, test := range []struct{ name, message, want string }{
		{"compressed", strings.Replace(accepted, "}}", `,"x":"`+strings.Repeat("x", 2*minCompressed)+`"}}`, 1), "compressed"},
		{"too long", accepted + strings.Repeat(" ", maxHandshake), "read limited"},
		{"batch", "[" + accepted + "]", "without a close frame"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			server := newHTTPServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{CompressionMode: websocket.CompressionNoContextTakeover})
				if err != nil {
					t.Error(err)
					return
				}
				defer conn.CloseNow()
				if _, _, err := conn.Read(r.Context()); err != nil {
					return
				}
				if test.name == "too long" {
					w, err := conn.Writer(r.Context(), websocket.MessageText)
					if err != nil {
						return
					}
					_, _ = w.Write([]byte{test.message[0]}) // so that it is not compressed
					_, _ = io.WriteString(w, test.message[1:])
					_ = w.Close()
				} else {
					_ = conn.Write(r.Context(), websocket.MessageText, []byte(test.message))
				}
				_, _, _ = conn.Read(r.Context())
			}))
			u, err := url.Parse(server)
			if err != nil {
				t.Fatal(err)
			}
			u.Scheme = "ws"
			client, err := newLinkClient("", keyPair{})
			if err != nil {
				t.Fatal(err)
			}
			b := &hubBench{t: t, server: u, log: slog.New(slog.NewTextHandler(t.Output(), nil))}
			d := b.daemonVia(client, func(c *connector) {
				c.compress, c.attempts = true, 1
				c.onAccepted = func(handshakeResult) { t.Error("the daemon was accepted, want the link refused") }
			})
			if err := d.end(); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want an error with %q", err, test.want)
			}
		})
	}
}

// The guard passes on every byte, one frame at a time, however they arrive.
func TestFrameGuard(t *testing.T) {
	var stream []byte
	for _, size := range []int{0, 1, 125, 126, 200, 65535, 65536, 3} {
		stream = append(stream, frame(frameFin|frameText, bytes.Repeat([]byte{'x'}, size), size)...)
		stream = append(stream, frameFin|frameText, 2, 'a', 'b') // of a server, without a mask
	}
	compressed := append(bytes.Clone(stream), whole(frameFin|frameText|frameRSV1, "zzz")...)
	for name, wrap := range map[string]func(io.Reader) io.Reader{"at once": func(r io.Reader) io.Reader { return r }, "byte by byte": iotest.OneByteReader, "halves": iotest.HalfReader, "error with data": iotest.DataErrReader} {
		for early := range 20 {
			guard := newFrameGuard(wrap(bytes.NewReader(compressed[early:])), compressed[:early])
			got, err := io.ReadAll(guard)
			if !errors.Is(err, errEarlyCompression) || !bytes.Equal(got, stream) {
				t.Errorf("%s: got %d bytes and %v, want %d and %v", name, len(got), err, len(stream), errEarlyCompression)
			}
			guard = newFrameGuard(wrap(bytes.NewReader(compressed[early:])), compressed[:early])
			part := make([]byte, rand.IntN(len(stream)))
			if _, err := io.ReadFull(guard, part); err != nil {
				t.Fatal(err)
			}
			guard.open.Store(true)
			rest, err := io.ReadAll(guard)
			if err != nil || !bytes.Equal(append(part, rest...), compressed) {
				t.Errorf("%s: opened after %d bytes: got %d bytes and %v, want all %d", name, len(part), len(part)+len(rest), err, len(compressed))
			}
		}
	}
}

func TestMachineIDs(t *testing.T) {
	for id, ok := range map[string]bool{
		"MacBook-Pro": true, "Büro 7": true, strings.Repeat("x", 255): true, "a.b": true, "👩‍💻": true,
		"": false, strings.Repeat("x", 256): false, "a/b": false, " a": false, "a ": false, "a\tb": false, "a\x00": false, "a\x7f": false, "a\u0085": false,
		"\xff": false, ".": false, "..": false, "a\u00a0": false,
	} {
		if err := checkMachineID(id); (err == nil) != ok {
			t.Errorf("%q: got %v, want accepted: %v", id, err, ok)
		}
	}
}

func TestHandshakeOfADaemonFits(t *testing.T) {
	p := handshakeParams{MachineID: "m", InstanceID: "i"}
	if err := p.checkSize(); err != nil {
		t.Errorf("got %v, want a short handshake accepted", err)
	}
	for n := range 700 {
		p.AllowedPaths = append(p.AllowedPaths, fmt.Sprint("/", n, strings.Repeat("x", 100)))
	}
	if err := p.checkSize(); err == nil || !strings.Contains(err.Error(), "--allow") {
		t.Errorf("got %v, want an error that names --allow", err)
	}
}
