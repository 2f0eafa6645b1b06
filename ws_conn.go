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

// This file covers the connection below the library, which lacks three things.
// It takes io.EOF for the end of the message, so that a connection that ends
// within one hands over the part that came as if it were whole
// (readFramePayload passes the error up to its reader): the end of a connection
// has another name here, and a message that is cut short is a lost link, never
// a request. And its CloseNow only waits while a Close is under way, for 5 s
// and more: the socket itself can be closed here. And it can be reset, which the
// other side hears of at once: a FIN has to wait until what was sent before it
// is acknowledged, and of a link whose packets are lost one way nothing is.

// errHungUp is the end of a connection without a close frame.
var errHungUp = errors.New("the connection ended without a goodbye")

// hungUp is err with the end of the connection by its own name.
func hungUp(err error) error {
	if err == io.EOF {
		return errHungUp
	}
	return err
}

// dialling is client for one link: it covers the connection that the upgrade
// answers with, over TLS and proxies as well.
func (h *linkHooks) dialling(client *http.Client) *http.Client {
	one := *client
	one.Transport = wholeTransport{client.Transport, h}
	return &one
}

// bottom is the TCP connection below TLS, a proxy's too; nil where there is none.
func bottom(conn net.Conn) *net.TCPConn {
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

type wholeTransport struct {
	http.RoundTripper
	hooks *linkHooks
}

func (t wholeTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	trace := &httptrace.ClientTrace{GotConn: func(got httptrace.GotConnInfo) { t.hooks.tcp = bottom(got.Conn) }}
	response, err := t.RoundTripper.RoundTrip(r.WithContext(httptrace.WithClientTrace(r.Context(), trace)))
	if err != nil {
		return nil, err
	}
	if rwc, ok := response.Body.(io.ReadWriteCloser); ok && response.StatusCode == http.StatusSwitchingProtocols {
		t.hooks.socket = rwc
		response.Body = wholeBody{rwc}
	}
	return response, nil
}

type wholeBody struct{ io.ReadWriteCloser }

func (b wholeBody) Read(p []byte) (int, error) {
	n, err := b.ReadWriteCloser.Read(p)
	return n, hungUp(err)
}

// accepting is w for one link: it covers the connection that is taken over from
// the HTTP server.
func (h *linkHooks) accepting(w http.ResponseWriter) http.ResponseWriter { return wholeWriter{w, h} }

type wholeWriter struct {
	http.ResponseWriter
	hooks *linkHooks
}

func (w wholeWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffers, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	w.hooks.socket, w.hooks.tcp = conn, bottom(conn)
	if tcp := w.hooks.tcp; tcp != nil {
		if raw, err := tcp.SyscallConn(); err == nil {
			limitUnsent(raw)
		}
	}
	return wholeConn{conn}, buffers, nil
}

type wholeConn struct{ net.Conn }

func (c wholeConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	return n, hungUp(err)
}
