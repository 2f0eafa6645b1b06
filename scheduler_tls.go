package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync/atomic"
	"time"
)

// serverTLS holds the certificate of the scheduler's port, and the authorities of
// its clients' certificates. It reads them again when their files change.
type serverTLS struct {
	pair     keyPair
	clientCA string // a file; "" if clients need no certificate
	watched  *fileWatch
	current  atomic.Pointer[tls.Config]
}

// openServerTLS reads the files. clientCA may be "".
func openServerTLS(pair keyPair, clientCA string) (*serverTLS, error) {
	s := &serverTLS{pair: pair, clientCA: clientCA}
	paths := []string{pair.certFile, pair.keyFile}
	if clientCA != "" {
		paths = append(paths, clientCA)
	}
	s.watched = newFileWatch(paths...)
	return s, s.read()
}

// read takes what the files hold now. After an error everything is as before.
func (s *serverTLS) read() error {
	pair, err := s.pair.load()
	if err != nil {
		return err
	}
	config := &tls.Config{Certificates: []tls.Certificate{*pair}}
	if s.clientCA != "" {
		data, err := readPEM(s.clientCA)
		if err != nil {
			return err
		}
		config.ClientCAs = x509.NewCertPool()
		if !config.ClientCAs.AppendCertsFromPEM(data) {
			return fmt.Errorf("reading %s: it holds no certificate", s.clientCA)
		}
		// The certificate is not required here, and verified by clientCertificates: a
		// health check needs none, and a client whose certificate is refused gets a
		// sentence in place of an alert.
		config.ClientAuth = tls.RequestClientCert
	}
	s.current.Store(config)
	return nil
}

// leaf returns the certificate of the port.
func (s *serverTLS) leaf() *x509.Certificate { return s.current.Load().Certificates[0].Leaf }

// authorities returns those that may sign the certificates of clients.
func (s *serverTLS) authorities() *x509.CertPool { return s.current.Load().ClientCAs }

// listen returns a listener for TLS connections, each with the newest certificate.
func (s *serverTLS) listen(l net.Listener) net.Listener {
	return tls.NewListener(&plainHTTP{l}, &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return s.current.Load(), nil }})
}

// watch reads the files again when they change, and then calls changed, until ctx
// ends. Files that cannot be used, or do not belong together, leave everything as it is.
func (s *serverTLS) watch(ctx context.Context, log *slog.Logger, changed func()) {
	s.warn(log)
	s.watched.run(ctx, func() {
		if err := s.read(); err != nil {
			log.Error("the new certificates were not used, those of before stay in force: correct the files, which are read again then", "error", err)
			return
		}
		log.Info("read the certificates", "path", s.pair.certFile, "valid_until", s.leaf().NotAfter)
		s.warn(log)
		changed()
	})
}

// warn logs that clients will refuse the certificate, if it is not valid now.
func (s *serverTLS) warn(log *slog.Logger) {
	if err := checkValidity(s.leaf(), thisMachine); err != nil {
		log.Warn("clients refuse the certificate of --tls-cert", "path", s.pair.certFile, "error", err)
	}
}

const (
	// maxPlain and plainLimit bound what is read of a request without TLS after it was
	// answered. A connection that is closed before its client has written everything
	// is reset, and the answer may be lost.
	maxPlain   = 1 << 20
	plainLimit = time.Second
)

// errPlainHTTP ends the handshake with a client that speaks no TLS.
var errPlainHTTP = errors.New("the client sent an HTTP request without TLS")

// plainHTTP is a listener below TLS that answers clients that speak HTTP without it.
type plainHTTP struct{ net.Listener }

// Accept returns the next connection.
func (l *plainHTTP) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &firstRead{Conn: conn}, nil
}

// firstRead is a connection whose first byte is looked at.
type firstRead struct {
	net.Conn
	done bool // the goroutine that reads uses it
}

// NetConn returns the connection below.
func (c *firstRead) NetConn() net.Conn { return c.Conn }

// Read reads from the connection. A first byte that is a capital begins the method of
// an HTTP request: the records of TLS begin with other bytes (RFC 8446, section 5.1).
func (c *firstRead) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.done || n == 0 {
		return n, err
	}
	c.done = true
	if p[0] >= 'A' && p[0] <= 'Z' {
		c.answer()
		return 0, errPlainHTTP
	}
	return n, err
}

// answer says what is wrong with a request without TLS. Clients know it by the words
// of net/http, "HTTP request to an HTTPS server".
func (c *firstRead) answer() {
	_ = c.SetDeadline(time.Now().Add(plainLimit))
	_, _ = io.WriteString(c.Conn, "HTTP/1.1 400 Bad Request\r\nContent-Type: application/problem+json\r\nConnection: close\r\n\r\n"+
		`{"title":"Bad Request","status":400,"detail":"this was an HTTP request to an HTTPS server: use https://, or wss:// for a daemon","code":"BAD_REQUEST"}`+"\n")
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
	_, _ = io.CopyN(io.Discard, c.Conn, maxPlain)
}
