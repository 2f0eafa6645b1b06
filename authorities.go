package main

import (
	"crypto/x509"
	"fmt"
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
