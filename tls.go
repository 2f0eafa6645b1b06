package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"
)

// authorities returns the certificate authorities of the system and those in
// caFile, nil for the system's alone.
func authorities(caFile string) (*x509.CertPool, error) {
	if caFile == "" {
		return nil, nil
	}
	pem, err := readGiven(caFile)
	if err != nil {
		return nil, err
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s contains no PEM certificate", caFile)
	}
	return roots, nil
}

// keyPair names the PEM files of a certificate, which may be followed by those of
// the authorities between it and the root, and of its private key. The zero value
// stands for no certificate.
type keyPair struct{ certFile, keyFile string }

// load reads the pair. Errors name the file, and hold nothing of the key. The files
// must be regular: they are read again later, when a pipe would block.
func (k keyPair) load() (*tls.Certificate, error) {
	cert, err := readPEM(k.certFile)
	if err != nil {
		return nil, err
	}
	key, err := readPEM(k.keyFile)
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("the certificate %s with the key %s: %w", k.certFile, k.keyFile, err)
	}
	return &pair, nil
}

// readPEM reads a file of PEM blocks. It returns an error if the last block is cut
// off, as in a file that is being written: the decoders skip such a block.
func readPEM(path string) ([]byte, error) {
	data, err := readRegularAt(path, maxGivenFile)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	blocks := 0
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		blocks++
	}
	if blocks == 0 || blocks != bytes.Count(data, []byte("-----BEGIN ")) {
		return nil, fmt.Errorf("reading %s: it holds no PEM block, or one that is not complete", path)
	}
	return data, nil
}

// checkValidity returns an error if a certificate is not valid at this time. The
// error tells its reader whose clock was asked: that of "this machine" or "the
// server".
func checkValidity(cert *x509.Certificate, whose string) error {
	if now := time.Now(); now.Before(cert.NotBefore) || now.After(cert.NotAfter) {
		return validityError(cert, whose, now)
	}
	return nil
}

// validityError returns the error for a certificate that is not valid at now, by the
// clock of whose machine. Machines without a battery for their clock start in the past,
// so the clock is the first suspect.
func validityError(cert *x509.Certificate, whose string, now time.Time) error {
	const layout = time.RFC3339
	return fmt.Errorf("valid from %s to %s, but the clock of %s shows %s: set the clock if it is wrong, otherwise renew the certificate",
		cert.NotBefore.UTC().Format(layout), cert.NotAfter.UTC().Format(layout), whose, now.UTC().Format(layout))
}

// clientTLS returns the configuration of a client that trusts the authorities in
// caFile, if it is given, in addition to the system's, and that shows the
// certificate of pair to servers that ask for one. The pair is read for each
// connection, so that a renewed certificate is used at once. Without either the
// result is nil.
func clientTLS(caFile string, pair keyPair) (*tls.Config, error) {
	roots, err := authorities(caFile)
	if err != nil {
		return nil, err
	}
	config := &tls.Config{RootCAs: roots}
	if pair != (keyPair{}) {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			cert, err := pair.load()
			if err == nil {
				err = checkValidity(cert.Leaf, thisMachine)
			}
			if err != nil {
				return nil, fmt.Errorf("%w: %w", errClientCertificate, err)
			}
			return cert, nil
		}
	} else if roots == nil {
		return nil, nil
	}
	return config, nil
}

// thisMachine names the clock of this machine in an error.
const thisMachine = "this machine"

// errClientCertificate reports that this program's own certificate cannot be used.
var errClientCertificate = errors.New("the certificate of --client-cert cannot be used")
