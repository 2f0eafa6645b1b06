package main

import (
	"cmp"
	"context"
	"crypto/x509"
	"net"
	"net/http"
	"strings"
)

// clientCertificates verifies the certificates of API clients and of users'
// daemons. The zero value requires none.
type clientCertificates struct {
	authorities func() *x509.CertPool // the newest ones; nil if no certificate is required
}

// verdict keeps the result of checking a certificate for the next requests of its
// connection. They come one after the other, so it needs no lock.
type verdict struct {
	by  *x509.CertPool
	err error
}

// verdictKey is the key of the *verdict in the context of a connection.
type verdictKey struct{}

// withVerdict is the ConnContext of an HTTP server. It saves a request from
// verifying the certificate that the request before had.
func withVerdict(ctx context.Context, _ net.Conn) context.Context {
	return context.WithValue(ctx, verdictKey{}, &verdict{})
}

// check returns an *apiError if r needs a client certificate and has none that is
// valid. After the authorities have changed it verifies again, so that a connection
// does not outlast them.
func (c clientCertificates) check(r *http.Request) error {
	if c.authorities == nil {
		return nil
	}
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return refusedCertificate("this scheduler requires a client certificate: set --client-cert and --client-key")
	}
	leaf := r.TLS.PeerCertificates[0]
	v, ok := r.Context().Value(verdictKey{}).(*verdict)
	if !ok {
		v = &verdict{}
	}
	if roots := c.authorities(); v.by != roots {
		options := x509.VerifyOptions{
			Roots: roots, Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		}
		for _, cert := range r.TLS.PeerCertificates[1:] {
			options.Intermediates.AddCert(cert)
		}
		v.by = roots
		_, v.err = leaf.Verify(options)
	}
	if err := cmp.Or(checkValidity(leaf, "the server"), v.err); err != nil {
		return refusedCertificate("the client certificate is refused: " + cleanText(strings.TrimPrefix(err.Error(), "x509: ")))
	}
	return nil
}

// machine returns the machine id that the client certificate of r is for: its first
// DNS name. It returns "" where no certificate is required.
func (c clientCertificates) machine(r *http.Request) (string, error) {
	if err := c.check(r); err != nil || c.authorities == nil {
		return "", err
	}
	names := r.TLS.PeerCertificates[0].DNSNames
	if len(names) == 0 || strings.Contains(names[0], "*") {
		return "", refusedCertificate("the first DNS name of a daemon's client certificate must be its machine id, and this certificate has none or a wildcard")
	}
	return names[0], nil
}

func refusedCertificate(message string) *apiError {
	return &apiError{code: codeForbidden, status: http.StatusForbidden, message: message}
}
