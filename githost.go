package main

import (
	"fmt"
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
