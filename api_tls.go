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
		v.by, v.err = roots, verifyChain(r.TLS.PeerCertificates, roots)
	}
	return verdictOf(leaf, v.err)
}

// verifyChain returns an error unless an authority has signed a client's certificate,
// which the certificates of authorities between them follow.
func verifyChain(chain []*x509.Certificate, roots *x509.CertPool) error {
	options := x509.VerifyOptions{
		Roots: roots, Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	for _, cert := range chain[1:] {
		options.Intermediates.AddCert(cert)
	}
	_, err := chain[0].Verify(options)
	return err
}

// verdictOf returns an *apiError if a certificate is not valid now, or err is not nil.
func verdictOf(leaf *x509.Certificate, err error) error {
	if err := cmp.Or(checkValidity(leaf, "the server"), err); err != nil {
		return refusedCertificate("the client certificate is refused: " + cleanText(strings.TrimPrefix(err.Error(), "x509: ")))
	}
	return nil
}

// acceptedChain is a client's certificate that was accepted, with those that follow
// it. A nil one stands for none.
type acceptedChain struct {
	clients clientCertificates
	certs   []*x509.Certificate
	by      *x509.CertPool // the authorities that have accepted it; nil if they may have changed
}

// newest returns the authorities that are in force, nil if no certificate is required.
func (c clientCertificates) newest() *x509.CertPool {
	if c.authorities == nil {
		return nil
	}
	return c.authorities()
}

// chainOf returns the client's certificate of a request, nil if none is required.
//
//go:noinline // each copy counts in the size of a release
func (c clientCertificates) chainOf(r *http.Request, by *x509.CertPool) *acceptedChain {
	if c.authorities == nil || r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return nil
	}
	return &acceptedChain{clients: c, certs: r.TLS.PeerCertificates, by: by}
}

// revoked returns an *apiError if the authorities have changed since and do not accept
// the certificate any more. It may be called at any time, unlike check.
func (a *acceptedChain) revoked() error {
	if a == nil {
		return nil
	}
	roots := a.clients.newest()
	if roots == a.by {
		return nil
	}
	return verdictOf(a.certs[0], verifyChain(a.certs, roots))
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
