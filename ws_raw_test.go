package main

import (
	"bufio"
	"bytes"
	"compress/flate"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// The tests of this file write WebSocket frames themselves, over real sockets, to
// send what no library would.

// linkServer answers requests on each connection, as a daemon does on its own.
type linkServer struct {
	address string
	runs    atomic.Int64 // of test/mark
	ended   chan error   // why a link ended
}

// newLinkServer serves test/mark, test/echo and more with a message limit of
// 1 MiB.
func newLinkServer(t *testing.T, more ...*method) *linkServer {
	t.Helper()
	s := &linkServer{ended: make(chan error, 100)}
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	base, end := context.WithCancel(context.Background())
	service := &service{methods: map[string]*method{}, tasks: newFlightGroup(base, taskKeep, maxTaskKept), maxConcurrent: defaultMaxConcurrent, log: log}
	service.activity = newActivity(service.tasks.running)
	mark := newMethod("test/mark", "", func(context.Context, none) (int64, error) { return s.runs.Add(1), nil })
	echo := newMethod("test/echo", "", func(_ context.Context, p echoParams) (echoParams, error) { return p, nil })
	for _, m := range append(more, mark, echo) {
		service.methods[m.name] = m
	}
	var links sync.WaitGroup // those whose clients were closed: the server does not wait for them
	server := newHTTPServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		links.Add(1)
		defer links.Done()
		hooks := &linkHooks{}
		conn, err := websocket.Accept(hooks.wrapWriter(w), r, &websocket.AcceptOptions{
			CompressionMode: websocket.CompressionNoContextTakeover, OnPingReceived: hooks.ping, OnPongReceived: hooks.pong,
		})
		if err != nil {
			t.Error(err)
			return
		}
		l := newLink(conn, hooks, 1<<20, defaultLinkTimes(), nil, log)
		l.trust()
		err = newPeer(l, service.newDispatcher(), 1<<20, log).run()
		l.close(websocket.StatusNormalClosure, "")
		s.ended <- err
	}))
	s.address = strings.TrimPrefix(server, "http://")
	t.Cleanup(func() {
		links.Wait()
		end()
		service.tasks.wait()
		service.wait()
	})
	return s
}

// end waits for the end of a link.
func (s *linkServer) end(t *testing.T) error {
	t.Helper()
	select {
	case err := <-s.ended:
		return err
	case <-time.After(patience):
		t.Fatalf("the link has not ended after %v, want its end", patience)
		return nil
	}
}

// rawClient is a connection after the upgrade.
type rawClient struct {
	*net.TCPConn
	t *testing.T
	r *bufio.Reader
}

// Bits of a frame's first byte (RFC 6455, section 5.2).
const (
	frameFin      = 0x80
	frameRSV1     = 0x40
	frameContinue = 0x0
	frameText     = 0x1
	frameBinary   = 0x2
	frameClose    = 0x8
	framePing     = 0x9
)

// dialRaw opens a WebSocket with further header lines.
func dialRaw(t *testing.T, address string, header ...string) *rawClient {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	c := &rawClient{TCPConn: conn.(*net.TCPConn), t: t, r: bufio.NewReader(conn)}
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	// The key is the example of RFC 6455, section 1.3.
	lines := append([]string{
		"GET " + linkPath + " HTTP/1.1", "Host: " + address, "Upgrade: websocket", "Connection: Upgrade",
		"Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
	}, header...)
	c.put([]byte(strings.Join(lines, "\r\n") + "\r\n\r\n"))
	response, err := http.ReadResponse(c.r, nil)
	if err != nil || response.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("the upgrade was answered by %v, %v, want status 101", response, err)
	}
	return c
}

func (c *rawClient) put(data []byte) {
	c.t.Helper()
	if _, err := c.Write(data); err != nil {
		c.t.Fatal(err)
	}
}

// frame is a client's frame; its mask is zero, so that the payload stands as
// it is. announced is the length that the header tells.
func frame(first byte, payload []byte, announced int) []byte {
	head := []byte{first}
	switch {
	case announced < 126:
		head = append(head, 0x80|byte(announced))
	case announced < 1<<16:
		head = binary.BigEndian.AppendUint16(append(head, 0x80|126), uint16(announced))
	default:
		head = binary.BigEndian.AppendUint64(append(head, 0x80|127), uint64(announced))
	}
	return append(append(head, 0, 0, 0, 0), payload...)
}

// whole is a frame of its payload's length.
func whole(first byte, payload string) []byte { return frame(first, []byte(payload), len(payload)) }

// next reads one frame of the server, which sends short answers in one.
func (c *rawClient) next() (first byte, payload []byte, err error) {
	var head [2]byte
	if _, err := io.ReadFull(c.r, head[:]); err != nil {
		return 0, nil, err
	}
	n := int(head[1])
	switch n {
	case 126:
		var size [2]byte
		if _, err := io.ReadFull(c.r, size[:]); err != nil {
			return 0, nil, err
		}
		n = int(binary.BigEndian.Uint16(size[:]))
	case 127:
		var size [8]byte
		if _, err := io.ReadFull(c.r, size[:]); err != nil {
			return 0, nil, err
		}
		n = int(binary.BigEndian.Uint64(size[:]))
	}
	payload = make([]byte, n)
	_, err = io.ReadFull(c.r, payload)
	return head[0], payload, err
}

// message reads one message of the server, in any number of frames, past control frames.
func (c *rawClient) message() (message []byte, err error) {
	for {
		first, payload, err := c.next()
		if err != nil {
			return nil, err
		}
		if first&0x08 != 0 {
			continue
		}
		if message = append(message, payload...); first&frameFin != 0 {
			return message, nil
		}
	}
}

// says checks that the next message begins with text.
func (c *rawClient) says(text string) {
	c.t.Helper()
	first, payload, err := c.next()
	for err == nil && first == finalPing { // a busy machine takes longer than the test's pings
		first, payload, err = c.next()
	}
	if err != nil || first != frameFin|frameText || !bytes.HasPrefix(payload, []byte(text)) {
		c.t.Errorf("got %#x %.300s %v\nwant %.300s", first, payload, err, text)
	}
}

// closes skips messages up to a close frame and checks its code.
func (c *rawClient) closes(code websocket.StatusCode) {
	c.t.Helper()
	for {
		first, payload, err := c.next()
		if err != nil {
			c.t.Errorf("reading ended with %v, want a close frame", err)
			return
		}
		if first == frameFin|frameClose {
			if len(payload) < 2 || websocket.StatusCode(binary.BigEndian.Uint16(payload)) != code {
				c.t.Errorf("closed with %q, want %d", payload, code)
			}
			return
		}
	}
}

// deflated is text as permessage-deflate sends it (RFC 7692, section 7.2.1).
func deflated(t *testing.T, text string) string {
	t.Helper()
	var buf bytes.Buffer
	w, err := flate.NewWriter(&buf, flate.BestSpeed)
	if err == nil {
		_, err = io.WriteString(w, text)
	}
	if err == nil {
		err = w.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSuffix(buf.String(), "\x00\x00\xff\xff")
}

const (
	markRequest = `{"jsonrpc":"2.0","id":1,"method":"test/mark"}`
	deflate     = "Sec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover; server_no_context_takeover"
)

// TestMessageCutShort: the connection ends within a message whose first part would
// be a request by itself. The link is lost; no method runs and no answer is sent.
func TestMessageCutShort(t *testing.T) {
	padded := len(markRequest) + 10
	for _, test := range []struct {
		name   string
		header string
		bytes  []byte
	}{
		{"after a header", "X-Y: z", frame(frameFin|frameText, nil, padded)},
		{"in a header", "X-Y: z", frame(frameFin|frameText, nil, padded)[:3]},
		{"in a frame", "X-Y: z", frame(frameFin|frameText, []byte(markRequest), padded)},
		{"in a long frame", "X-Y: z", frame(frameFin|frameText, []byte(markRequest+strings.Repeat(" ", 4<<10)), 100<<10)},
		{"after a fragment", "X-Y: z", whole(frameText, markRequest)},
		{"after fragments", "X-Y: z", append(whole(frameText, markRequest), whole(frameContinue, " ")...)},
		{"in a later fragment", "X-Y: z", append(whole(frameText, markRequest), frame(frameContinue, []byte(" "), 2)...)},
		{"after an empty fragment", "X-Y: z", whole(frameText, "")},
		{"after a compressed fragment", deflate, whole(frameText|frameRSV1, deflated(t, markRequest))},
		{"in a compressed frame", deflate, frame(frameFin|frameText|frameRSV1, []byte(deflated(t, markRequest)), padded)},
	} {
		for _, reset := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, reset %v", test.name, reset), func(t *testing.T) {
				s := newLinkServer(t)
				c := dialRaw(t, s.address, test.header)
				c.put(test.bytes)
				if reset {
					_ = c.SetLinger(0)
					_ = c.Close()
				} else if err := c.CloseWrite(); err != nil {
					t.Fatal(err)
				}
				if err := s.end(t); err == nil {
					t.Error("the link ended without a reason, want an error")
				}
				if n := s.runs.Load(); n != 0 {
					t.Errorf("the cut request ran %d times, want 0", n)
				}
				if !reset {
					if first, payload, err := c.next(); err == nil {
						t.Errorf("the cut request was answered by %#x %s, want nothing", first, payload)
					}
				}
			})
		}
	}
}

// TestStrangeFrames: unusual frames that RFC 6455 allows are accepted; the link
// still answers, and so does another one.
func TestStrangeFrames(t *testing.T) {
	s := newLinkServer(t)
	const nullID = `{"jsonrpc":"2.0","id":null,"error":{"code":`
	var slices bytes.Buffer
	for i, b := range []byte(markRequest) {
		first := byte(frameContinue)
		if i == 0 {
			first = frameText
		}
		slices.Write(whole(first, string(b)))
		slices.Write(whole(frameFin|framePing, ""))
	}
	slices.Write(whole(frameFin, ""))
	for _, test := range []struct {
		name  string
		bytes []byte
		says  []string
	}{
		{"100,000 empty fragments", slicesOf(100_000), []string{`{"jsonrpc":"2.0","id":1,"result":`}},
		{"a request in two fragments", append(whole(frameText, markRequest[:9]), whole(frameFin, markRequest[9:])...), []string{`{"jsonrpc":"2.0","id":1,"result":`}},
		{"an empty message", whole(frameFin|frameText, ""), []string{nullID + `-32700`}},
		{"not JSON", whole(frameFin|frameText, "{"), []string{nullID + `-32700`}},
		{"not UTF-8", whole(frameFin|frameText, "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"test/mark\",\"x\":\"\xff\"}"), []string{nullID + `-32700`}},
		{"a character across two fragments", append(whole(frameText, `{"jsonrpc":"2.0","id":2,"method":"test/echo","params":{"text":"`+"\xc3"), whole(frameFin, "\xa9\"}}")...), []string{`{"jsonrpc":"2.0","id":2,"result":{"text":"é"`}},
		{"too deep", whole(frameFin|frameText, strings.Repeat("[", 100_000)), []string{nullID + `-32700`}},
		{"too deep an object", whole(frameFin|frameText, strings.Repeat(`{"a":`, 100_000)), []string{nullID + `-32700`}},
		{"a number", whole(frameFin|frameText, "1"), []string{nullID + `-32600`}},
		{"ids of wrong kinds", append(whole(frameFin|frameText, `{"jsonrpc":"2.0","id":{},"method":"test/mark"}`), whole(frameFin|frameText, `{"jsonrpc":"2.0","id":true,"method":"test/mark"}`)...), []string{nullID + `-32600`, nullID + `-32600`}},
		{"an empty batch", whole(frameFin|frameText, "[]"), []string{nullID + `-32600`}},
		{"notifications", append(whole(frameFin|frameText, `{"jsonrpc":"2.0","method":"no/such"}`), whole(frameFin|frameText, `[{"jsonrpc":"2.0","method":"$/x"}]`)...), nil},
		{"a notification without a method", whole(frameFin|frameText, `{"jsonrpc":"2.0","params":{}}`), []string{nullID + `-32600`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, neighbour := dialRaw(t, s.address), dialRaw(t, s.address)
			c.put(test.bytes)
			start := time.Now()
			neighbour.put(whole(frameFin|frameText, `{"jsonrpc":"2.0","id":9,"method":"test/echo"}`))
			neighbour.says(`{"jsonrpc":"2.0","id":9,"result":`)
			if took := time.Since(start); took > patience {
				t.Errorf("the neighbour was answered after %v, want at most %v", took, patience)
			}
			for _, text := range test.says {
				c.says(text)
			}
			c.put(whole(frameFin|frameText, `{"jsonrpc":"2.0","id":"after","method":"test/echo"}`))
			c.says(`{"jsonrpc":"2.0","id":"after","result":`)
		})
	}
	t.Run("1-byte fragments with pings between", func(t *testing.T) {
		c := dialRaw(t, s.address)
		c.put(slices.Bytes())
		for {
			first, payload, err := c.next()
			if err != nil {
				t.Fatal(err)
			}
			if first == frameFin|frameText {
				if !bytes.HasPrefix(payload, []byte(`{"jsonrpc":"2.0","id":1,"result":`)) {
					t.Errorf("got the message %s, want the result of request 1", payload)
				}
				return
			}
		}
	})
}

// slicesOf is a request of which n empty fragments follow the first.
func slicesOf(n int) []byte {
	all := whole(frameText, markRequest)
	for range n {
		all = append(all, whole(frameContinue, "")...)
	}
	return append(all, whole(frameFin, "")...)
}

// TestForbiddenFrames: a forbidden frame closes the link with the close code for
// it, even while the peer is still sending.
func TestForbiddenFrames(t *testing.T) {
	t.Parallel()
	s := newLinkServer(t)
	large := make([]byte, 64<<20)
	for _, test := range []struct {
		name  string
		bytes []byte
		code  websocket.StatusCode
	}{
		{"binary", whole(frameFin|frameBinary, "{}"), websocket.StatusUnsupportedData},
		{"a long binary", frame(frameFin|frameBinary, large, len(large)), websocket.StatusUnsupportedData},
		{"oversized by a byte", frame(frameFin|frameText, large[:1<<20+1], 1<<20+1), websocket.StatusMessageTooBig},
		{"oversized by far", frame(frameFin|frameText, large, len(large)), websocket.StatusMessageTooBig},
		{"announced as 2^62 bytes", frame(frameFin|frameText, large, 1<<62), websocket.StatusMessageTooBig},
		{"compressed without having agreed on it", whole(frameFin|frameText|frameRSV1, "{}"), websocket.StatusProtocolError},
		{"a continuation of nothing", whole(frameFin, "{}"), websocket.StatusProtocolError},
		{"an unknown opcode", whole(frameFin|0x3, "{}"), websocket.StatusProtocolError},
		{"a fragmented ping", whole(framePing, ""), websocket.StatusProtocolError},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := dialRaw(t, s.address)
			written := make(chan struct{})
			go func() {
				defer close(written)
				_, _ = c.Write(test.bytes) // the link may be closed before the end
			}()
			c.closes(test.code)
			_ = c.Close()
			<-written
			if err := s.end(t); err == nil {
				t.Error("the link ended without a reason, want an error")
			}
		})
	}
}

// newHTTPServer serves on a free port of this machine until the test ends.
func newHTTPServer(t *testing.T, h http.Handler) (address string) {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	return server.URL
}
