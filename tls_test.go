//go:build linux || darwin

package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// testCA is a private certificate authority.
type testCA struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string // its certificate
}

func newTestCA(t testing.TB) *testCA {
	t.Helper()
	ca := &testCA{t: t, cert: &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "a private authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}}
	own := ca.issue("", func(c *x509.Certificate) { *c = *ca.cert })
	ca.key, ca.cert, ca.file = own.key, own.leaf, filepath.Join(t.TempDir(), "ca.pem")
	writeTestFile(t, ca.file, own.certPEM)
	return ca
}

// testCert is a certificate with its key.
type testCert struct {
	t               testing.TB
	leaf            *x509.Certificate
	key             *ecdsa.PrivateKey
	certPEM, keyPEM []byte
}

// issue makes a certificate of 127.0.0.1 and a DNS name that is valid for an hour;
// change may alter it.
func (ca *testCA) issue(name string, change func(*x509.Certificate)) *testCert {
	ca.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		ca.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if change != nil {
		change(template)
	}
	parent, signer := ca.cert, ca.key
	if signer == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		ca.t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		ca.t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		ca.t.Fatal(err)
	}
	block := func(kind string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}) }
	return &testCert{ca.t, leaf, key, block("CERTIFICATE", der), block("PRIVATE KEY", keyDER)}
}

// write writes the pair into a directory.
func (c *testCert) write(dir string) keyPair {
	c.t.Helper()
	pair := keyPair{filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")}
	writeTestFile(c.t, pair.certFile, c.certPEM)
	writeTestFile(c.t, pair.keyFile, c.keyPEM)
	return pair
}

func (c *testCert) tls() tls.Certificate {
	return tls.Certificate{Certificate: [][]byte{c.leaf.Raw}, PrivateKey: c.key, Leaf: c.leaf}
}

func writeTestFile(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// authority makes a private certificate authority and a server certificate that
// it signed.
func authority(t *testing.T) (caFile string, server tls.Certificate) {
	t.Helper()
	ca := newTestCA(t)
	return ca.file, ca.issue("c4a.test", nil).tls()
}

func expired(c *x509.Certificate) {
	c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
}

func TestKeyPairLoad(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t)
	one, other := ca.issue("one", nil), ca.issue("other", nil)
	dir := t.TempDir()
	good := one.write(dir)
	file := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		writeTestFile(t, path, data)
		return path
	}
	chain := append(append([]byte{}, one.certPEM...), other.certPEM...)
	for _, test := range []struct {
		what string
		pair keyPair
		want string // in the error; "" for none
	}{
		{"a pair", good, ""},
		{"a chain", keyPair{file("chain", chain), good.keyFile}, ""},
		{"a chain without its last line", keyPair{file("cut", chain[:len(chain)-10]), good.keyFile}, "not complete"},
		{"half a certificate", keyPair{file("half", one.certPEM[:100]), good.keyFile}, "not complete"},
		{"an empty file", keyPair{file("empty", nil), good.keyFile}, "holds no PEM block"},
		{"no file", keyPair{filepath.Join(dir, "absent"), good.keyFile}, "no such file"},
		{"the key of another", keyPair{good.certFile, file("other.key", other.keyPEM)}, "does not match"},
		{"key and certificate exchanged", keyPair{good.keyFile, good.certFile}, "certificate"},
		{"a directory", keyPair{dir, good.keyFile}, "not a regular file"},
		{"a device", keyPair{good.certFile, os.DevNull}, "not a regular file"},
	} {
		cert, err := test.pair.load()
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want an error with %q", test.what, err, test.want)
		}
		if err == nil && !cert.Leaf.Equal(one.leaf) {
			t.Errorf("%s: got the certificate of %v, want that of one", test.what, cert.Leaf.DNSNames)
		}
		if err != nil && strings.Contains(err.Error(), strings.Split(string(one.keyPEM), "\n")[1]) {
			t.Errorf("%s: the error %v holds the key", test.what, err)
		}
	}
}

func TestCheckValidity(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t)
	if err := checkValidity(ca.issue("now", nil).leaf, thisMachine); err != nil {
		t.Errorf("a valid certificate: got %v, want no error", err)
	}
	later := ca.issue("later", func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(time.Hour), time.Now().Add(2*time.Hour)
	})
	for _, cert := range []*testCert{ca.issue("past", expired), later} {
		if err := checkValidity(cert.leaf, thisMachine); err == nil || !strings.Contains(err.Error(), "renew the certificate") {
			t.Errorf("valid from %v to %v: got %v, want an error that says what to do", cert.leaf.NotBefore, cert.leaf.NotAfter, err)
		}
	}
}

func readTestFile(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
