package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"
)

// dialCause returns the cause of a failed dial without the prefixes of the
// library and of net/http ("Get …"): the caller says what was dialled. Where the
// cause is known to have a remedy, the error names it.
func dialCause(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err
	}
	invalid, ok := errors.AsType[x509.CertificateInvalidError](err)
	if ok && invalid.Reason == x509.Expired {
		return fmt.Errorf("the server's certificate is %w", validityError(invalid.Cert, thisMachine, time.Now()))
	}
	if errors.Is(err, errClientCertificate) {
		return err
	}
	// The other side sent an alert (RFC 8446, section 6.2). Those of its own
	// certificate would come from this side.
	if alert, ok := errors.AsType[*net.OpError](err); ok && alert.Op == "remote error" && strings.Contains(err.Error(), "certificate") {
		return fmt.Errorf("the server refused the connection (%w): check --client-cert and --client-key", alert.Err)
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok || errors.Is(err, http.ErrSchemeMismatch) {
		return errors.New("the server does not speak TLS on this port: check the port, or use ws:// if it has no TLS")
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return fmt.Errorf("%w: if the server has a certificate of an authority of your own, name it with --ca-file", libraryCause(err))
	}
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return fmt.Errorf("%w: use a name that the certificate is for", libraryCause(err))
	}
	if missing, ok := errors.AsType[*net.DNSError](err); ok && missing.IsNotFound {
		return fmt.Errorf("%w: check the name of the host", libraryCause(err))
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("%w: check the address and the port, and that a server listens there", libraryCause(err))
	}
	return libraryCause(err)
}

// isForeignPage reports whether a response is a web page of a server that is not
// ours. A proxy in front of our server sends pages too, but with 5xx.
func isForeignPage(response *http.Response) bool {
	kind, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type"))
	return response.StatusCode < http.StatusInternalServerError && (kind == "text/html" || kind == "application/xhtml+xml")
}

// foreignPage describes a page for which isForeignPage is true.
func foreignPage(response *http.Response) string {
	by := ""
	if server := cleanText(response.Header.Get("Server")); server != "" {
		by = " by " + server[:min(len(server), 100)]
	}
	return fmt.Sprintf("not a WebSocket but a web page was returned%s (%s), so another server, a proxy or a login page answers: check --server, its path, and HTTPS_PROXY", by, response.Status)
}
