package main

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
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
		t.hooks.guard, t.hooks.gather = newFrameGuard(rwc, nil), newGatherer(rwc)
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
	w.hooks.guard, w.hooks.gather = newFrameGuard(conn, early), newGatherer(conn)
	w.hooks.guard.late = newLateReader(conn, w.hooks.guard)
	w.hooks.guard.server, w.hooks.gather.server = true, true
	w.hooks.gather.direct = directWrite(conn)
	guarded := linkConn{conn, linkBody{conn, w.hooks}}
	// Not the buffers of the HTTP server: guard and gatherer have theirs.
	return guarded, bufio.NewReadWriter(bufio.NewReaderSize(guarded, minReader), bufio.NewWriterSize(guarded, minWriter)), nil
}

const (
	// minReader is the smallest buffer of a bufio.Reader.
	minReader = 16
	// minWriter has room for a control frame (RFC 6455, section 5.5), which is then
	// written at once. Of a message it takes the header.
	minWriter = 128
)

// linkConn is the connection that the library takes from the HTTP server.
type linkConn struct {
	net.Conn
	body linkBody
}

func (c linkConn) Read(p []byte) (int, error)  { return c.body.Read(p) }
func (c linkConn) Write(p []byte) (int, error) { return c.body.Write(p) }
func (c linkConn) Close() error                { return c.body.Close() }

// maxDirectRecord is the most that is written through TLS without waiting. A
// kernel that reports a socket as writable takes at least a third of its buffer,
// which has 46 KiB or more.
const maxDirectRecord = 8 << 10
