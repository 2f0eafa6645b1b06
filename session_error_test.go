//go:build linux || darwin

package main

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
)

// tryDial dials a server once and returns the error.
func tryDial(t *testing.T, address string, client *http.Client) string {
	t.Helper()
	server, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	c := &connector{server: server, client: client, maxMessage: defaultMaxMessage, times: defaultLinkTimes(), log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	if err = c.try(); err == nil {
		t.Fatalf("dialling %s succeeded, want an error", address)
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("the error has several lines: %q, want one sentence", err)
	}
	return err.Error()
}

// A machine whose clock is wrong is told so, with its time and that of the
// certificate.
func TestDialWithAWrongClock(t *testing.T) {
	t.Parallel()
	caFile, certificate := authority(t)
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	server.StartTLS()
	defer server.Close()
	for _, off := range []time.Duration{-48 * time.Hour, 48 * time.Hour} {
		client, err := newLinkClient(caFile, keyPair{})
		if err != nil {
			t.Fatal(err)
		}
		transport, _ := client.Transport.(proxyTransport)
		transport.TLSClientConfig.Time = func() time.Time { return time.Now().Add(off) }
		got := tryDial(t, strings.Replace(server.URL, "https", "wss", 1), client)
		_, rest, _ := strings.Cut(got, "the clock of this machine shows ")
		shown, _, _ := strings.Cut(rest, ": ")
		if at, err := time.Parse(time.RFC3339, shown); err != nil || time.Since(at) > time.Hour || !strings.Contains(got, "set the clock") {
			t.Errorf("%v off: got %q, want the local time and to set the clock", off, got)
		}
	}
}

// A server that insists on a client certificate in the TLS handshake, as ours does
// not, answers with an alert.
func TestDialWithoutAClientCertificate(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t)
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.TLS = &tls.Config{Certificates: []tls.Certificate{ca.issue("server", nil).tls()}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: x509.NewCertPool()}
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	server.StartTLS()
	defer server.Close()
	stranger := newTestCA(t).issue("m", nil).write(t.TempDir())
	late := ca.issue("m", expired).write(t.TempDir())
	for _, test := range []struct {
		what string
		pair keyPair
		want string
	}{
		{"no certificate", keyPair{}, "certificate required): check --client-cert and --client-key"},
		{"one of another authority", stranger, "check --client-cert and --client-key"},
		{"an expired one", late, "the certificate of --client-cert cannot be used: valid from"},
	} {
		client, err := newLinkClient(ca.file, test.pair)
		if err != nil {
			t.Fatal(err)
		}
		if got := tryDial(t, strings.Replace(server.URL, "https", "wss", 1), client); !strings.Contains(got, test.want) {
			t.Errorf("%s: got %q, want %q in it", test.what, got, test.want)
		}
	}
}

func TestDialSomethingElse(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		kind   string
		status int
		want   string
	}{
		{"text/html; charset=utf-8", 200, "a web page was returned by squid (200 OK)"},
		{"text/html", 404, "check --server, its path, and HTTPS_PROXY"},
		{"text/html", 502, "the server returned 502 Bad Gateway"}, // a proxy before our server
		{"text/plain", 200, "the server returned 200 OK"},
		{"text/html", 400, "set --client-cert and --client-key"}, // nginx with ssl_verify_client on
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", test.kind)
			w.Header().Set("Server", "squid")
			w.WriteHeader(test.status)
			title := "Sign in"
			if test.status == 400 {
				title = "400 No required SSL certificate was sent"
			}
			_, _ = io.WriteString(w, "<!DOCTYPE html><title>"+title+"</title>")
		}))
		if got := tryDial(t, strings.Replace(server.URL, "http", "ws", 1), &http.Client{Transport: &http.Transport{}}); !strings.Contains(got, test.want) {
			t.Errorf("%d %s: got %q, want %q in it", test.status, test.kind, got, test.want)
		}
		if test.status == 200 && test.kind == "text/plain" {
			client, err := newLinkClient("", keyPair{})
			if err != nil {
				t.Fatal(err)
			}
			if got := tryDial(t, strings.Replace(server.URL, "http", "wss", 1), client); !strings.Contains(got, "does not speak TLS") {
				t.Errorf("wss to a port without TLS: got %q, want that it has no TLS", got)
			}
		}
		server.Close()
	}
}
