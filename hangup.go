package main

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
)

// The library takes io.EOF below it for the end of the message, so that a
// connection that ends within one hands over the part that came as if it were
// whole (readFramePayload passes the error up to its reader). What is in this
// file gives the end of a connection another name: a message that is cut short
// is then a lost link, never a request.

// errHungUp is the end of a connection without a close frame.
var errHungUp = errors.New("the connection ended without a goodbye")

// hungUp is err with the end of the connection by its own name.
func hungUp(err error) error {
	if err == io.EOF {
		return errHungUp
	}
	return err
}

// wholeTransport is the dialling side's: it covers the connection that a
// WebSocket upgrade answers with, below TLS and proxies as well.
type wholeTransport struct{ *http.Transport }

func (t wholeTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := t.Transport.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if rwc, ok := response.Body.(io.ReadWriteCloser); ok && response.StatusCode == http.StatusSwitchingProtocols {
		response.Body = wholeBody{rwc}
	}
	return response, nil
}

type wholeBody struct{ io.ReadWriteCloser }

func (b wholeBody) Read(p []byte) (int, error) {
	n, err := b.ReadWriteCloser.Read(p)
	return n, hungUp(err)
}

// wholeWriter is the accepting side's: it covers the connection that is taken
// over from the HTTP server.
type wholeWriter struct{ http.ResponseWriter }

func (w wholeWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffers, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	socket := conn
	if secured, ok := conn.(*tls.Conn); ok {
		socket = secured.NetConn()
	}
	if tcp, ok := socket.(*net.TCPConn); ok {
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
