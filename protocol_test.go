package main

import (
	"encoding/json"
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

// FuzzHeartbeat: scan decodes a heartbeat as decodeParams does, but for the ids, or
// leaves it to that.
func FuzzHeartbeat(f *testing.F) {
	sent, err := json.Marshal(heartbeat{MachineID: "m", InstanceID: "i", Seq: 1, UptimeSeconds: 2, ActiveRequests: 3, Stuck: 4, Waiting: 5, DroppedLines: 6, MemoryBytes: 7})
	if err != nil {
		f.Fatal(err)
	}
	if !new(heartbeat).scan(sent) {
		f.Errorf("%s: got false, want the heartbeat of a daemon scanned", sent)
	}
	for _, seed := range []string{string(sent), `{"seq":1,"seq":-2}`, `{"seq":1.0}`, `{"seq":null}`, `{"s\u0065q":1}`, `{"machine_id":1}`, `{"more":{"a":1}}`, `{}x`, `[]`, `{"stuck":99999999999999999999}`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, params string) {
		var got, want heartbeat
		if !got.scan([]byte(params)) {
			return
		}
		if err := decodeParams([]byte(params), &want); err != nil {
			t.Fatalf("%q: got %+v, want %v", params, got, err)
		}
		want.MachineID, want.InstanceID = "", ""
		if got != want {
			t.Errorf("%q: got %+v, want %+v", params, got, want)
		}
	})
}
