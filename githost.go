package main

import (
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// checkHostPattern holds one value of --allow-git-host against the rule: a
// host name, an IP address, or *.example.org for every host below it.
func checkHostPattern(pattern string) error {
	if _, ok := cleanHost(strings.TrimPrefix(pattern, "*.")); !ok {
		return fmt.Errorf("--allow-git-host %q: must be a host name, an IP address or *.example.org, without a port", pattern)
	}
	return nil
}

// hostAllowed tells whether host, as in remoteURL, fits one of the patterns.
// Without patterns every host does.
func hostAllowed(patterns []string, host string) bool {
	return len(patterns) == 0 || slices.ContainsFunc(patterns, func(pattern string) bool {
		if domain, ok := strings.CutPrefix(pattern, "*."); ok {
			domain, _ = cleanHost(domain)
			return domain != "" && strings.HasSuffix(host, "."+domain)
		}
		exact, ok := cleanHost(pattern)
		return ok && exact == host
	})
}

// splitHostPort reads host[:port] as a credential names it.
func splitHostPort(scheme, text string) (host, port string, ok bool) {
	if strings.ContainsAny(text, "/@?#\\ ") {
		return "", "", false
	}
	parsed, err := url.Parse(scheme + "://" + text)
	if err != nil || strings.HasSuffix(text, ":") {
		return "", "", false
	}
	if host, ok = cleanHost(parsed.Hostname()); !ok {
		return "", "", false
	}
	port, ok = cleanPort(scheme, parsed.Port())
	return host, port, ok
}

// isPrivateHost tells a host of this machine or its own network by its text
// alone: loopback, private, link-local and unspecified addresses, names that
// are never in the public DNS (RFC 6762, RFC 6761, ICANN's .internal) and
// single labels. It decides where a link needs no TLS by itself, and where a
// token may go over http.
func isPrivateHost(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if ip, err := netip.ParseAddr(host); err == nil {
		ip = ip.Unmap()
		return ip.IsLoopback() || ip.IsPrivate() || ip.IsLinkLocalUnicast() || ip.IsUnspecified()
	}
	for _, suffix := range []string{".local", ".localhost", ".internal"} {
		if strings.HasSuffix(host, suffix) {
			return true
		}
	}
	return host != "" && !strings.Contains(host, ".")
}
