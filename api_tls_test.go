//go:build linux || darwin

package main

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// certifiedAPI is an API on a real port that requires client certificates of the
// authorities in a file. It returns its URL, and what ends streams and links whose
// certificates are no longer accepted.
func certifiedAPI(t *testing.T, s *serverTLS, daemonToken secret) (url string, endRevoked func()) {
	t.Helper()
	a := testAPI(t, func(c *apiConfig, _ *poolConfig) {
		c.token, c.clients.authorities = "single", s.authorities
	})
	libs, err := openLibraries(filepath.Join(t.TempDir(), librariesFile), false, a.log)
	if err != nil {
		t.Fatal(err)
	}
	h := newHub(hubConfig{log: a.log, methods: methodsByName(builtinMethods()), libraryOf: libs.of, publish: a.events.publish, maxMessage: defaultMaxMessage, times: defaultLinkTimes()})
	t.Cleanup(h.close)
	tokens := &childTokens{}
	(&hubAPI{callRouter: callRouter{hub: h, pool: a.pool, libraries: libs}, tokens: tokens, daemonToken: daemonToken, clients: a.clients, log: a.log}).register(a)
	return "https://" + serveTLS(t, s, a), func() { a.endRevoked(); h.endRevoked() }
}

// certifiedClient is a client that always shows the certificates, even if the server
// does not list their authority; none if there are none.
func certifiedClient(t *testing.T, ca *testCA, certs ...*testCert) *http.Client {
	t.Helper()
	config := trusting(ca)
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		all := tls.Certificate{}
		for _, c := range certs {
			all.Certificate = append(all.Certificate, c.leaf.Raw)
			if all.PrivateKey == nil {
				all.PrivateKey = c.key
			}
		}
		return &all, nil
	}
	transport := &http.Transport{TLSClientConfig: config}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// askCertified makes a request and returns the status and the body.
func askCertified(t *testing.T, client *http.Client, url string, header ...string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	response, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

// asAuthority makes a certificate one of an authority.
func asAuthority(c *x509.Certificate) {
	c.IsCA, c.BasicConstraintsValid, c.KeyUsage, c.ExtKeyUsage = true, true, x509.KeyUsageCertSign, nil
	c.SerialNumber = big.NewInt(2)
}

func TestClientCertificates(t *testing.T) {
	t.Parallel()
	ca, second, stranger := newTestCA(t), newTestCA(t), newTestCA(t)
	middle := ca.issue("", asAuthority)
	below := &testCA{t: t, cert: middle.leaf, key: middle.key}
	dir := t.TempDir()
	pair := ca.issue("server", nil).write(dir)
	clientCA := dir + "/clients.pem"
	var both []byte
	for range 20 { // a file may hold many
		both = append(both, newTestCA(t).issue("", asAuthority).certPEM...)
	}
	both = append(both, ca.issue("", nil).certPEM...) // and some that are of no use
	first := readTestFile(t, ca.file)
	writeTestFile(t, clientCA, append(append(both, first...), readTestFile(t, second.file)...))
	s, err := openServerTLS(pair, clientCA)
	if err != nil {
		t.Fatal(err)
	}
	url, _ := certifiedAPI(t, s, "")
	link := []string{"Connection", "Upgrade", "Upgrade", "websocket", "Sec-WebSocket-Version", "12"}
	const wrongVersion = "protocol version" // the certificate was accepted
	token := []string{"Authorization", "Bearer single"}
	for _, test := range []struct {
		what  string
		certs []*testCert
		path  string
		head  []string
		want  int
		says  string
	}{
		{"none", nil, "/livez", nil, 200, ""},
		{"none", nil, "/readyz", nil, 200, ""},
		{"none", nil, "/health", nil, 200, ""},
		{"none", nil, "/machines", token, 403, "requires a client certificate: set --client-cert"},
		{"none", nil, "/metrics", token, 403, "requires"},
		{"none", nil, "/nothing", token, 403, "requires"},
		{"none", nil, linkPath, link, 403, "requires"},
		{"one", []*testCert{ca.issue("m", nil)}, "/machines", token, 200, ""},
		{"one, without the token", []*testCert{ca.issue("m", nil)}, "/machines", nil, 401, "API token"},
		{"one of the second authority", []*testCert{second.issue("m", nil)}, "/machines", token, 200, ""},
		{"one with an authority between", []*testCert{below.issue("m", nil), middle}, "/machines", token, 200, ""},
		{"one without that authority", []*testCert{below.issue("m", nil)}, "/machines", token, 403, "unknown authority"},
		{"one of another authority", []*testCert{stranger.issue("m", nil)}, "/machines", token, 403, "unknown authority"},
		{"one of another authority", []*testCert{stranger.issue("m", nil)}, linkPath, link, 403, "unknown authority"},
		{"one of another authority", []*testCert{stranger.issue("m", nil)}, "/livez", nil, 200, ""},
		{"an expired one", []*testCert{ca.issue("m", expired)}, "/machines", token, 403, "the clock of the server shows"},
		{"an expired one", []*testCert{ca.issue("m", expired)}, linkPath, link, 403, "renew"},
		{"an expired one", []*testCert{ca.issue("m", expired)}, "/livez", nil, 200, ""},
		{"one for servers", []*testCert{ca.issue("m", func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] })}, "/machines", token, 403, "incompatible key usage"},
		{"one for anything", []*testCert{ca.issue("m", func(c *x509.Certificate) { c.ExtKeyUsage = nil })}, "/machines", token, 200, ""},
		{"one without a DNS name", []*testCert{ca.issue("", func(c *x509.Certificate) { c.DNSNames = nil })}, "/machines", token, 200, ""},
		{"one without a DNS name", []*testCert{ca.issue("", func(c *x509.Certificate) { c.DNSNames = nil })}, linkPath, link, 403, "has none or a wildcard"},
		{"a wildcard", []*testCert{ca.issue("*.example.com", nil)}, linkPath, link, 403, "has none or a wildcard"},
		{"a machine's", []*testCert{ca.issue("m", nil)}, linkPath, link, 400, wrongVersion},
		{"a machine's", []*testCert{ca.issue("m", nil)}, linkPath, append(link, machineIDHeader, "m"), 400, wrongVersion},
		{"another machine's", []*testCert{ca.issue("m", nil)}, linkPath, append(link, machineIDHeader, "x"), 403, `for the machine id \"m\"`},
		{"a machine's, in other letters", []*testCert{ca.issue("m", nil)}, linkPath, append(link, machineIDHeader, "M"), 403, `for the machine id \"m\"`},
		{"the second name", []*testCert{ca.issue("m", func(c *x509.Certificate) { c.DNSNames = []string{"m", "x"} })}, linkPath, append(link, machineIDHeader, "x"), 403, `for the machine id \"m\"`},
	} {
		client := certifiedClient(t, ca, test.certs...)
		for range 2 { // the second request of a connection, too
			if got, body := askCertified(t, client, url+test.path, test.head...); got != test.want || !strings.Contains(body, test.says) {
				t.Errorf("%s to %s: got %d %s, want %d and %q", test.what, test.path, got, body, test.want, test.says)
			}
		}
	}

	// The daemon token is asked for, too.
	guarded, _ := certifiedAPI(t, s, "t0ken")
	client := certifiedClient(t, ca, ca.issue("m", nil))
	for given, want := range map[string]int{"": 401, "wrong": 401, "t0ken": 400} {
		if got, body := askCertified(t, client, guarded+linkPath, append(link, "Authorization", "Bearer "+given)...); got != want {
			t.Errorf("a certificate and the daemon token %q: got %d %s, want %d", given, got, body, want)
		}
	}

	// A connection does not outlast the authority that its certificate needs.
	log := watchTLS(t, s, func() {})
	if got, body := askCertified(t, client, url+"/machines", token...); got != 200 {
		t.Fatalf("before the authority is removed: got %d %s, want 200", got, body)
	}
	writeTestFile(t, clientCA, readTestFile(t, second.file))
	awaitThat(t, "the authority is gone", func() bool {
		got, _ := askCertified(t, client, url+"/machines", token...)
		return got == 403
	})
	writeTestFile(t, clientCA, first[:len(first)/2])
	awaitThat(t, "half a file is logged", func() bool { return strings.Contains(log.String(), "not complete") })
	if got, body := askCertified(t, certifiedClient(t, ca, second.issue("m", nil)), url+"/machines", token...); got != 200 {
		t.Errorf("with half a file: got %d %s, want 200 by the authorities of before", got, body)
	}
	writeTestFile(t, clientCA, first)
	awaitThat(t, "the authority is back", func() bool {
		got, _ := askCertified(t, client, url+"/machines", token...)
		return got == 200
	})
}

// A connection does not outlast its certificate.
func TestClientCertificateExpires(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ca := newTestCA(t)
		roots := x509.NewCertPool()
		roots.AddCert(ca.cert)
		c := clientCertificates{authorities: func() *x509.CertPool { return roots }}
		r := httptest.NewRequest("GET", "/machines", nil).WithContext(withVerdict(t.Context(), nil))
		r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{ca.issue("m", nil).leaf}}
		if err := c.check(r); err != nil {
			t.Errorf("while it is valid: got %v, want no error", err)
		}
		time.Sleep(time.Hour + time.Second)
		if err := c.check(r); err == nil || !strings.Contains(err.Error(), "renew the certificate") {
			t.Errorf("afterwards: got %v, want an error that says so", err)
		}
	})
}

// An older version of TLS has the same checks.
func TestClientCertificatesOfTLS12(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t)
	s, err := openServerTLS(ca.issue("server", nil).write(t.TempDir()), ca.file)
	if err != nil {
		t.Fatal(err)
	}
	url, _ := certifiedAPI(t, s, "")
	for want, certs := range map[int][]*testCert{200: {ca.issue("m", nil)}, 403: nil} {
		client := certifiedClient(t, ca, certs...)
		config := client.Transport.(*http.Transport).TLSClientConfig
		config.MaxVersion = tls.VersionTLS12
		config.ClientSessionCache = tls.NewLRUClientSessionCache(1)
		for range 2 { // the second resumes the session
			client.CloseIdleConnections()
			if got, body := askCertified(t, client, url+"/machines", "Authorization", "Bearer single"); got != want {
				t.Errorf("TLS 1.2 with %d certificates: got %d %s, want %d", len(certs), got, body, want)
			}
		}
	}
}

// The programs with certificates: a daemon becomes its machine and no other, reads
// a renewed certificate at its next attempt, and the pool's daemons need none.
func TestClientCertificatesOfPrograms(t *testing.T) {
	skipShort(t, "real processes; TestClientCertificates has the checks")
	t.Parallel()
	ca := newTestCA(t)
	server := ca.issue("localhost", nil).write(t.TempDir())
	laptop, unnamed := ca.issue("laptop", nil).write(t.TempDir()), ca.issue("", func(c *x509.Certificate) { c.DNSNames = nil }).write(t.TempDir())
	p, url := startSchedulerProcess(t, nil, "--tls-cert", server.certFile, "--tls-key", server.keyFile, "--client-ca", ca.file)
	daemon := func(machineID string, pair keyPair, args ...string) *startedProgram {
		args = append(args, "--server", url, "--machine-id", machineID, "--ca-file", ca.file, "--allow", t.TempDir())
		if pair != (keyPair{}) {
			args = append(args, "--client-cert", pair.certFile, "--client-key", pair.keyFile)
		}
		return start(t, daemonName, nil, args...)
	}
	daemon("laptop", laptop).says("msg=connected")
	late := ca.issue("late", expired).write(t.TempDir())
	renewed := daemon("late", late)
	renewed.says("renew the certificate")
	for _, test := range []struct {
		what, machineID string
		pair            keyPair
		says            string
	}{
		{"without a certificate", "laptop", keyPair{}, "requires a client certificate: set --client-cert"},
		{"with another machine's", "desk", laptop, "is for the machine id"},
		{"without a DNS name", "desk", unnamed, "must be its machine id"},
	} {
		refused := daemon(test.machineID, test.pair)
		if got := refused.exit(); got != exitRefused || !strings.Contains(refused.stderr.String(), test.says) {
			t.Errorf("a daemon %s: exit %d, want %d and %q: %s", test.what, got, exitRefused, test.says, refused.stderr)
		}
	}
	ca.issue("late", nil).write(strings.TrimSuffix(late.certFile, "/tls.crt"))
	renewed.says("msg=connected")

	client := []string{"--url", url, "--ca-file", ca.file, "--client-cert", unnamed.certFile, "--client-key", unnamed.keyFile}
	call := start(t, schedulerName, nil, append([]string{"call"}, append(client, "demo", "config/get")...)...)
	if got := call.exit(); got != 0 || !strings.Contains(call.stdout.String(), "cloud_demo") {
		t.Errorf("call with a certificate: exit %d, want 0 and the answer of a daemon of the pool: %s %s", got, call.stdout, call.stderr)
	}
	status := start(t, schedulerName, nil, append([]string{"status"}, client[:4]...)...)
	if got := status.exit(); got != 1 || !strings.Contains(status.stderr.String(), "set --client-cert and --client-key") {
		t.Errorf("status without a certificate: exit %d, want 1 and what to do: %s", got, status.stderr)
	}
	check := daemon("laptop", laptop, "--check")
	if got := check.exit(); got != 0 || !strings.Contains(check.stdout.String(), "certificate of --client-cert: "+laptop.certFile+", valid until "+time.Now().UTC().Format("2006")) {
		t.Errorf("--check: exit %d, want 0 and the certificate: %s %s", got, check.stdout, check.stderr)
	}
	if log := p.stderr.String(); strings.Contains(log, "PRIVATE") {
		t.Errorf("the log holds a key: %s", log)
	}
}
