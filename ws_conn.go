package main

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
)

// This file wraps the connection below the WebSocket library, for three reasons.
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
		secured, ok := conn.(*tls.Conn)
		if !ok {
			break
		}
		conn = secured.NetConn()
	}
	tcp, _ := conn.(*net.TCPConn)
	return tcp
}

type linkTransport struct {
	http.RoundTripper
	hooks *linkHooks
}

func (t linkTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	trace := &httptrace.ClientTrace{GotConn: func(got httptrace.GotConnInfo) { t.hooks.tcp = tcpOf(got.Conn) }}
	response, err := t.RoundTripper.RoundTrip(r.WithContext(httptrace.WithClientTrace(r.Context(), trace)))
	if err != nil {
		return nil, err
	}
	if rwc, ok := response.Body.(io.ReadWriteCloser); ok && response.StatusCode == http.StatusSwitchingProtocols {
		t.hooks.socket = rwc
		response.Body = linkBody{rwc}
	}
	return response, nil
}

type linkBody struct{ io.ReadWriteCloser }

func (b linkBody) Read(p []byte) (int, error) {
	n, err := b.ReadWriteCloser.Read(p)
	return n, hungUp(err)
}

// wrapWriter returns a copy of w for one link. It wraps the connection that is
// hijacked from the HTTP server.
func (h *linkHooks) wrapWriter(w http.ResponseWriter) http.ResponseWriter { return linkWriter{w, h} }

type linkWriter struct {
	http.ResponseWriter
	hooks *linkHooks
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
	return linkConn{conn}, buffers, nil
}

type linkConn struct{ net.Conn }

func (c linkConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	return n, hungUp(err)
}
