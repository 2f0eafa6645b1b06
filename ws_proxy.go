package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"
)

// maxProxyAnswer bounds a proxy's answer to CONNECT.
const maxProxyAnswer = 16 << 10

// proxyTransport dials through the proxies of the environment. net/http sends a
// plain request for a URL without TLS to the proxy itself, and a proxy does not
// forward the upgrade; RFC 6455, section 4.1, requires CONNECT for ws as well as
// for wss. It also makes clear which answers are the proxy's.
type proxyTransport struct{ *http.Transport }

type proxyKey struct{}

// newProxyTransport returns a transport that dials with dialer and trusts the
// certificate authorities of config, for servers and proxies.
func newProxyTransport(dialer *net.Dialer, config *tls.Config) proxyTransport {
	return proxyTransport{&http.Transport{
		Proxy: func(r *http.Request) (*url.URL, error) {
			if _, ok := r.Context().Value(proxyKey{}).(*url.URL); ok {
				return nil, nil // the dial goes through the proxy
			}
			return environmentProxy(r)
		},
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			if proxy, ok := ctx.Value(proxyKey{}).(*url.URL); ok {
				return dialProxy(ctx, dialer, config, proxy, address)
			}
			return dialer.DialContext(ctx, network, address)
		},
		TLSHandshakeTimeout: handshakeTimeout,
		TLSClientConfig:     config,
	}}
}

func (t proxyTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	proxy, err := environmentProxy(r)
	if err != nil {
		return nil, err
	}
	if proxy != nil && (proxy.Scheme == "http" || proxy.Scheme == "https") { // net/http knows SOCKS
		r = r.WithContext(context.WithValue(r.Context(), proxyKey{}, proxy))
	}
	return t.Transport.RoundTrip(r)
}

// environmentProxy is http.ProxyFromEnvironment with an error that does not
// contain the proxy's address, which may hold a password.
func environmentProxy(r *http.Request) (*url.URL, error) {
	proxy, err := http.ProxyFromEnvironment(r)
	if err != nil {
		return nil, errors.New("the proxy address in HTTP_PROXY or HTTPS_PROXY is not a valid URL")
	}
	return proxy, nil
}

// dialProxy opens a tunnel to address through an HTTP proxy. The errors name the
// proxy without its password.
func dialProxy(ctx context.Context, dialer *net.Dialer, config *tls.Config, proxy *url.URL, address string) (_ net.Conn, err error) {
	port := proxy.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[proxy.Scheme]
	}
	conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(proxy.Hostname(), port))
	if err != nil {
		return nil, fmt.Errorf("connecting to the proxy %s: %w", proxy.Host, err)
	}
	unregister := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) }) // ends the reads and writes below
	defer func() {
		if unregister() && err == nil {
			return
		}
		_ = conn.Close()
		if ctx.Err() != nil {
			err = fmt.Errorf("the proxy %s did not answer in time", proxy.Host)
		}
	}()
	tunnel := conn
	if proxy.Scheme == "https" {
		own := &tls.Config{}
		if config != nil {
			own = config.Clone()
		}
		own.ServerName, own.GetClientCertificate = proxy.Hostname(), nil // that is for the server
		tunnel = tls.Client(conn, own)
	}
	request := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: address}, Host: address, Header: http.Header{}}
	if user := proxy.User; user != nil {
		password, _ := user.Password()
		request.Header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(user.Username()+":"+password)))
	}
	if err := request.Write(tunnel); err != nil {
		return nil, fmt.Errorf("asking the proxy %s: %w", proxy.Host, err)
	}
	reader := bufio.NewReader(io.LimitReader(tunnel, maxProxyAnswer))
	response, err := http.ReadResponse(reader, request)
	if err != nil {
		return nil, fmt.Errorf("reading the answer of the proxy %s: %w", proxy.Host, err)
	}
	if response.StatusCode/100 != 2 { // RFC 9110, section 9.3.6
		advice := ""
		if response.StatusCode == http.StatusProxyAuthRequired {
			advice = ": check the user and the password in HTTP_PROXY or HTTPS_PROXY"
		}
		return nil, fmt.Errorf("the proxy %s refused the connection (%s)%s", proxy.Host, shownText(response.Status), advice)
	}
	if reader.Buffered() > 0 {
		return nil, fmt.Errorf("the proxy %s sent more than its answer", proxy.Host) // a server speaks only when asked
	}
	return tunnel, nil
}
