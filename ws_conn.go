package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
)

// This file wraps the connection below the WebSocket library, for five reasons.
//
// The library returns io.EOF both at the end of a message and when the
// connection ends within one (readFramePayload passes the error on to the
// reader). A truncated message would look complete and could be executed, so
// the wrapper returns errHungUp at the end of the connection.
//
// CloseNow of the library waits, for 5 s and more, while a Close is running. The
// link therefore closes the socket itself.
//
// A dead link is closed with a TCP reset. A FIN is only sent after all earlier
// data is acknowledged, which never happens when packets are lost in one
// direction; the other side would not notice that the link has ended.
//
// Until the handshake is accepted nothing is inflated: 16 KiB can inflate to 16
// MiB. The library inflates a message without asking, so frameGuard refuses
// compressed frames below it.
//
// The library writes each frame by itself, and a long one in pieces of 4 KiB. A
// gatherer joins them.

// errHungUp reports that a connection ended without a close frame.
var errHungUp = errors.New("the connection ended without a close frame")

// hungUp returns errHungUp for io.EOF, and any other error unchanged.
func hungUp(err error) error {
	if err == io.EOF {
		return errHungUp
	}
	return err
}

// wrapClient returns a copy of client for one link. It wraps the connection
// that the upgrade returns, which also works over TLS and proxies.
func (h *linkHooks) wrapClient(client *http.Client) *http.Client {
	one := *client
	one.Transport = linkTransport{client.Transport, h}
	return &one
}

// tcpOf returns the TCP connection below TLS, also that to a proxy; nil if
// there is none.
func tcpOf(conn net.Conn) *net.TCPConn {
	for {
		above, ok := conn.(interface{ NetConn() net.Conn }) // a *tls.Conn or a *firstRead
		if !ok {
			break
		}
		conn = above.NetConn()
	}
	tcp, _ := conn.(*net.TCPConn)
	return tcp
}

// directWrite returns a function that writes to conn what the kernel takes at
// once, nil where that is not possible. TLS can only write a whole record: it
// writes none unless the kernel has room for a short one.
func directWrite(conn net.Conn) func(p []byte) (int, error) {
	tcp := tcpOf(conn)
	if tcp == nil {
		return nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil
	}
	if conn == net.Conn(tcp) {
		return func(p []byte) (int, error) { return writeNow(raw, p) }
	}
	return func(p []byte) (int, error) {
		if len(p) > maxDirectRecord || !canWrite(raw) {
			return 0, nil
		}
		return conn.Write(p)
	}
}

type linkTransport struct {
	http.RoundTripper
	hooks *linkHooks
}

func (t linkTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	trace := &httptrace.ClientTrace{GotConn: func(got httptrace.GotConnInfo) { t.hooks.conn, t.hooks.tcp = got.Conn, tcpOf(got.Conn) }}
	response, err := t.RoundTripper.RoundTrip(r.WithContext(httptrace.WithClientTrace(r.Context(), trace)))
	if err != nil {
		return nil, err
	}
	if rwc, ok := response.Body.(io.ReadWriteCloser); ok && response.StatusCode == http.StatusSwitchingProtocols {
		t.hooks.socket = rwc
		t.hooks.compresses = response.Header.Get("Sec-WebSocket-Extensions") != ""
		t.hooks.guard, t.hooks.gather = &frameGuard{source: rwc}, newGatherer(rwc)
		t.hooks.gather.direct = directWrite(t.hooks.conn)
		response.Body = linkBody{rwc, t.hooks}
	}
	return response, nil
}

type linkBody struct {
	socket io.Closer
	hooks  *linkHooks
}

func (b linkBody) Read(p []byte) (int, error) {
	n, err := b.hooks.guard.Read(p)
	return n, hungUp(err)
}

func (b linkBody) Write(p []byte) (int, error) { return b.hooks.gather.Write(p) }

// Close is called by the library right after it has written a close frame.
func (b linkBody) Close() error {
	b.hooks.gather.awaitWritten(closeTimeout)
	return b.socket.Close()
}

// wrapWriter returns a copy of w for one link. It wraps the connection that is
// hijacked from the HTTP server.
func (h *linkHooks) wrapWriter(w http.ResponseWriter) http.ResponseWriter { return linkWriter{w, h} }

type linkWriter struct {
	http.ResponseWriter
	hooks *linkHooks
}

// WriteHeader and Write keep back the library's refusal of an upgrade, which is
// plain text: the caller writes it in the form of its other errors.
func (w linkWriter) WriteHeader(status int) {
	if status >= http.StatusBadRequest {
		w.hooks.refusal.status = status
		return
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w linkWriter) Write(p []byte) (int, error) {
	if w.hooks.refusal.status == 0 {
		return w.ResponseWriter.Write(p)
	}
	w.hooks.refusal.reason += string(p)
	return len(p), nil
}

func (w linkWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffers, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	w.hooks.socket, w.hooks.tcp = conn, tcpOf(conn)
	if tcp := w.hooks.tcp; tcp != nil {
		if raw, err := tcp.SyscallConn(); err == nil {
			limitUnsent(raw)
		}
	}
	w.hooks.compresses = w.Header().Get("Sec-WebSocket-Extensions") != ""
	// The HTTP server may have read the first frames already: they pass the guard
	// as well.
	early, err := buffers.Reader.Peek(buffers.Reader.Buffered())
	if err != nil {
		return nil, nil, err // cannot happen: Peek returns what is buffered
	}
	w.hooks.guard, w.hooks.gather = &frameGuard{source: conn, buffer: bytes.Clone(early)}, newGatherer(conn)
	w.hooks.gather.direct = directWrite(conn)
	guarded := linkConn{conn, linkBody{conn, w.hooks}}
	buffers.Reader.Reset(guarded)
	buffers.Writer.Reset(guarded)
	return guarded, buffers, nil
}

// linkConn is the connection that the library takes from the HTTP server.
type linkConn struct {
	net.Conn
	body linkBody
}

func (c linkConn) Read(p []byte) (int, error)  { return c.body.Read(p) }
func (c linkConn) Write(p []byte) (int, error) { return c.body.Write(p) }
func (c linkConn) Close() error                { return c.body.Close() }

// errEarlyCompression reports a compressed message before the handshake was
// accepted.
var errEarlyCompression = errors.New("the other side sent a compressed message before the handshake was accepted")

// maxDirectRecord is the most that is written through TLS without waiting. A
// kernel that reports a socket as writable takes at least a third of its buffer,
// which has 46 KiB or more.
const maxDirectRecord = 8 << 10

// maxFrameHeader is the largest header of a frame (RFC 6455, section 5.2).
const maxFrameHeader = 14

// frameGuard reads the frames of a connection and refuses compressed ones (RFC
// 7692, section 6: RSV1 is set) until it is opened. It returns one frame at a
// time, because the frame that follows the accepted handshake may be compressed.
// Calls of Read must not overlap.
type frameGuard struct {
	source io.Reader
	open   atomic.Bool
	buffer []byte // was read and not yet returned
	left   uint64 // bytes of the current frame that were not yet returned
	err    error  // of the source, after the buffer

	// messages is how many data messages were returned to their end. Together with
	// the number of those that were read it says whether another is at hand.
	messages int
	header   []byte // the part of a frame's header that was returned so far
	payload  uint64 // bytes of a payload that were not yet returned
	last     bool   // the frame ends a data message
}

func (g *frameGuard) Read(p []byte) (int, error) {
	if !g.open.Load() && g.left == 0 {
		if err := g.nextFrame(); err != nil {
			return 0, err
		}
	}
	limit := len(p)
	if !g.open.Load() {
		limit = int(min(uint64(limit), g.left))
	}
	n := copy(p[:limit], g.buffer)
	g.buffer = g.buffer[n:]
	if n == 0 {
		if g.err != nil {
			return 0, g.err
		}
		var err error
		if n, err = g.source.Read(p[:limit]); err != nil {
			g.err = err
			return n, err
		}
	}
	g.left -= min(g.left, uint64(n))
	g.count(p[:n])
	return n, nil
}

// count counts the data messages that end in data.
func (g *frameGuard) count(data []byte) {
	for len(data) > 0 {
		if g.payload > 0 {
			n := min(g.payload, uint64(len(data)))
			data = data[n:]
			g.payload -= n
		} else {
			g.header = append(g.header, data[0])
			data = data[1:]
			size, payload := frameSize(g.header)
			if size == 0 || len(g.header) < size {
				continue
			}
			g.payload, g.last = payload, g.header[0]&0x88 == 0x80 // final, and no control frame
			g.header = g.header[:0]
		}
		if g.payload == 0 && g.last {
			g.messages++
			g.last = false
		}
	}
}

// nextFrame reads the header of a frame into the buffer and checks it.
func (g *frameGuard) nextFrame() error {
	for {
		if size, payload := frameSize(g.buffer); size > 0 {
			if g.buffer[0]&0x40 != 0 && !g.open.Load() { // opened while this read waited
				return errEarlyCompression
			}
			g.left = uint64(size) + payload
			return nil
		}
		if g.err != nil {
			return g.err
		}
		var n int
		more := make([]byte, maxFrameHeader)
		n, g.err = g.source.Read(more)
		g.buffer = append(g.buffer, more[:n]...)
	}
}

// frameSize returns the sizes of a frame's header and payload, 0 for a header
// that is not complete.
func frameSize(data []byte) (header int, payload uint64) {
	if len(data) < 2 {
		return 0, 0
	}
	header = 2
	if data[1]&0x80 != 0 {
		header += 4 // the mask
	}
	payload = uint64(data[1] & 0x7f)
	switch {
	case payload == 126 && len(data) >= 4:
		return header + 2, uint64(binary.BigEndian.Uint16(data[2:]))
	case payload == 127 && len(data) >= 10:
		return header + 8, binary.BigEndian.Uint64(data[2:])
	case payload >= 126:
		return 0, 0
	}
	return header, payload
}

// grow returns a message that is being received, with room for more of it.
func (l *link) grow(message []byte) []byte {
	limit := l.readLimit() + 512 // not far beyond the limit of a message
	next := min(2*cap(message)+512, limit)
	switch {
	case !l.trusted() && cap(message) >= earlyBuffer:
		next = limit
	case l.buffers != nil && next > minLent:
		return l.buffers.grow(message, limit)
	}
	return append(make([]byte, 0, next), message...)
}
