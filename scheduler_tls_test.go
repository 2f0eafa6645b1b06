//go:build linux || darwin

package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// serveTLS serves the handler as a scheduler does, and returns the address.
func serveTLS(t *testing.T, s *serverTLS, handler http.Handler) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := (&scheduler{cfg: &schedulerConfig{log: slog.New(slog.DiscardHandler), tls: s}}).newServer(handler)
	server.ConnContext = withVerdict
	server.ReadHeaderTimeout = 3 * eventually // connections stay open while a test goes on
	served := make(chan error, 1)
	go func() { served <- server.Serve(s.listen(l)) }()
	t.Cleanup(func() {
		_ = server.Close()
		<-served
	})
	return l.Addr().String()
}

// watchTLS watches the files of s in short intervals until the test ends. The lines
// of its log go to the buffer.
func watchTLS(t *testing.T, s *serverTLS, changed func()) *syncBuffer {
	t.Helper()
	log := newSyncBuffer()
	s.watched.interval = 5 * time.Millisecond
	ctx, end := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.watch(ctx, slog.New(slog.NewTextHandler(log, nil)), changed)
	}()
	t.Cleanup(func() {
		end()
		<-done
	})
	return log
}

// presented returns the name of the certificate that a server presents.
func presented(t *testing.T, address string, ca *testCA) string {
	t.Helper()
	conn, err := tls.Dial("tcp", address, trusting(ca))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0].DNSNames[0]
}

// trusting returns the configuration of a client that trusts an authority.
func trusting(ca *testCA) *tls.Config {
	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	return &tls.Config{RootCAs: roots, ServerName: "127.0.0.1"}
}

// A pair is used as soon as both files are there and belong together, however they
// were replaced. Connections that are open stay.
func TestCertificateIsReadAgain(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t)
	dir := t.TempDir()
	// As the kubelet mounts a Secret: the files are links into a directory that a link
	// names, and that link is replaced.
	mount := func(name string, cert *testCert) {
		t.Helper()
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
		cert.write(filepath.Join(dir, name))
		if err := os.Symlink(name, filepath.Join(dir, "..data_tmp")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	mount("v1", ca.issue("one", nil))
	pair := keyPair{filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")}
	for _, path := range []string{pair.certFile, pair.keyFile} {
		if err := os.Symlink(filepath.Join("..data", filepath.Base(path)), path); err != nil {
			t.Fatal(err)
		}
	}
	s, err := openServerTLS(pair, "")
	if err != nil {
		t.Fatal(err)
	}
	log := watchTLS(t, s, func() {})
	address := serveTLS(t, s, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }))
	open, err := tls.Dial("tcp", address, trusting(ca))
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	begun, err := net.Dial("tcp", address) // its handshake is made at the end
	if err != nil {
		t.Fatal(err)
	}
	defer begun.Close()

	becomes := func(want, how string) {
		t.Helper()
		awaitThat(t, how+": the certificate is "+want, func() bool { return presented(t, address, ca) == want })
	}
	becomes("one", "at the start")
	mount("v2", ca.issue("two", nil))
	becomes("two", "the link was replaced")

	refused := func(how string, change func(certFile string)) {
		t.Helper()
		count := func() int { return strings.Count(log.String(), "stay in force") }
		before := count()
		change(filepath.Join(dir, "v2", "tls.crt"))
		awaitThat(t, how+" is logged", func() bool { return count() > before })
		if got := presented(t, address, ca); got != "two" {
			t.Errorf("%s: got the certificate %s, want two, which was valid before", how, got)
		}
	}
	three := ca.issue("three", nil)
	refused("a certificate without its key", func(path string) { writeTestFile(t, path, three.certPEM) })
	refused("half a certificate", func(path string) { writeTestFile(t, path, three.certPEM[:200]) })
	refused("no certificate", func(path string) {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	})
	v2 := filepath.Join(dir, "v2")
	three.write(v2)
	becomes("three", "the files were written")
	replacement := ca.issue("four", expired).write(t.TempDir())
	for from, to := range map[string]string{replacement.certFile: "tls.crt", replacement.keyFile: "tls.key"} {
		if err := os.Rename(from, filepath.Join(v2, to)); err != nil {
			t.Fatal(err)
		}
	}
	awaitThat(t, "the expired certificate is used and warned of", func() bool {
		return s.leaf().DNSNames[0] == "four" && strings.Contains(log.String(), "clients refuse the certificate") && strings.Contains(log.String(), "renew")
	})

	// The connection from before, and the one that began before.
	for name, conn := range map[string]net.Conn{"open": open, "begun": tls.Client(begun, &tls.Config{InsecureSkipVerify: true})} {
		_, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(conn); err != nil || !strings.HasSuffix(string(got), "hello") {
			t.Errorf("the connection that was %s: got %q and %v, want hello", name, got, err)
		}
	}
}

// Clients that begin a handshake and do not end it keep nobody out.
func TestUnfinishedTLSHandshakes(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t)
	s, err := openServerTLS(ca.issue("one", nil).write(t.TempDir()), "")
	if err != nil {
		t.Fatal(err)
	}
	address := serveTLS(t, s, http.NotFoundHandler())
	for range 200 {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := conn.Write([]byte{22, 3, 1, 1, 0}); err != nil { // the header of a ClientHello
			t.Fatal(err)
		}
	}
	if got := presented(t, address, ca); got != "one" {
		t.Errorf("beside 200 unfinished handshakes: got the certificate %q, want one", got)
	}
	conn, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || response.StatusCode != http.StatusNotFound {
		t.Errorf("TLS 1.2: got %v and %v, want 404", response, err)
	}
}

// A client without TLS gets an answer that says so, however much it sends and in
// whatever pieces, and the commands say what to do.
func TestPlainHTTPToATLSPort(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t)
	s, err := openServerTLS(ca.issue("one", nil).write(t.TempDir()), "")
	if err != nil {
		t.Fatal(err)
	}
	address := serveTLS(t, s, http.NotFoundHandler())
	head := "POST /daemons HTTP/1.1\r\nHost: " + address + "\r\nContent-Length: 600000\r\n\r\n"
	for name, pieces := range map[string][]string{
		"short":    {"GET / HTTP/1.1\r\nHost: x\r\n\r\n"},
		"long":     {head, "", strings.Repeat("x", 300_000), strings.Repeat("x", 300_000)},
		"in bytes": append(strings.Split(head, ""), strings.Repeat("x", 1000)),
	} {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		r := bufio.NewReader(conn)
		for _, piece := range pieces {
			if piece == "" { // the rest is sent after the answer
				if _, err := r.Peek(1); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
			}
			if _, err := io.WriteString(conn, piece); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		response, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatalf("%s: got %v, want an answer", name, err)
		}
		var p problem
		body, err := io.ReadAll(response.Body)
		if err != nil || json.Unmarshal(body, &p) != nil || response.StatusCode != 400 || p.Status != 400 || p.Code != codeBadRequest || !strings.Contains(p.Detail, "use https://") {
			t.Errorf("%s: got %d %s, %v, want a problem that names https", name, response.StatusCode, body, err)
		}
		if _, err := r.ReadByte(); err != io.EOF {
			t.Errorf("%s: after the answer got %v, want the end of the connection", name, err)
		}
	}
	link, err := newLinkClient("", keyPair{})
	if err != nil {
		t.Fatal(err)
	}
	if got := tryDial(t, "ws://"+address+linkPath, link); !strings.Contains(got, "use wss:// in --server") {
		t.Errorf("a daemon with ws://: got %q, want what to do", got)
	}
	for _, long := range []string{"", strings.Repeat("t", 4096)} {
		client := &apiClient{base: "http://" + address, shown: address, token: secret(long), http: &http.Client{Transport: &http.Transport{}}}
		for what, ask := range map[string]func() error{
			"send":  func() error { return client.send(t.Context(), http.MethodGet, "/machines", nil, nil) },
			"probe": func() error { _, err := client.probe(t.Context()); return err },
		} {
			if err := ask(); err == nil || !strings.Contains(err.Error(), "try https:// in --url") {
				t.Errorf("%s with a token of %d bytes: got %v, want what to do", what, len(long), err)
			}
		}
		client.close()
	}
}

// The TCP connection below TLS is found, which the queue of a link asks how much
// waits in it.
func TestTCPBelowTLS(t *testing.T) {
	t.Parallel()
	s, err := openServerTLS(newTestCA(t).issue("one", nil).write(t.TempDir()), "")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	conn, err := s.listen(l).Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if tcpOf(conn) == nil {
		t.Errorf("tcpOf(%T) found no TCP connection, want one", conn)
	}
}
