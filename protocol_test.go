package main

import (
	"net/url"
	"strings"
	"testing"
)

// FuzzParseServer: whatever --server is, its URL is one that net/http can dial and
// that means the same when it is given again.
func FuzzParseServer(f *testing.F) {
	for _, seed := range []string{
		"", "h", "h:1", "::1", "[::1]:5100", "[fe80::1%eth0]:5110", "[fe80::1%25eth0]", "fe80::1%eth0", "ws://h:1/x", "wss://[fe80::1%a]/p",
		"ws://user:pw@h", "ws://h?x", "h%zz", "[fe80::1%]:1", "http://[::1", "[%25]", "[::1%25%25a]",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		u, err := parseServer(text)
		if err != nil {
			return
		}
		if u.Scheme != "ws" && u.Scheme != "wss" || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
			t.Errorf("%q: got %#v, want a scheme, a host and a path alone", text, u)
		}
		if _, err := url.Parse(u.String()); err != nil {
			t.Errorf("%q: got %s, which is not a URL: %v", text, u, err)
		}
		again, err := parseServer(u.String())
		if err != nil || again.String() != u.String() {
			t.Errorf("%q: got %s, and from that %v (%v), want the same", text, u, again, err)
		}
		if strings.ContainsAny(u.Host, " \r\n\x00") {
			t.Errorf("%q: got the host %q, want no space in it", text, u.Host)
		}
	})
}
