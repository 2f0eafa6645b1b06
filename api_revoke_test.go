//go:build linux || darwin

package main

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// openEvents opens GET /events. The channel is closed when the stream ends.
func openEvents(t *testing.T, client *http.Client, url, token string) (ended <-chan struct{}) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	response, err := client.Do(r)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("GET /events: got %v, %v, want 200", response, err)
	}
	lines, end := bufio.NewReader(response.Body), make(chan struct{})
	if _, err := lines.ReadString('\n'); err != nil { // from now on it is a stream
		t.Fatal(err)
	}
	go func() {
		defer close(end)
		defer response.Body.Close()
		_, _ = io.Copy(io.Discard, lines)
	}()
	return end
}

// testLink is a daemon's link on which nothing happens after the handshake.
type testLink struct {
	ended chan struct{}
	err   error // why it ended
}

// openLink opens the link of a daemon.
func openLink(t *testing.T, client *http.Client, url, token, machineID string) *testLink {
	t.Helper()
	conn, _, err := websocket.Dial(t.Context(), url+linkPath, &websocket.DialOptions{HTTPClient: client, HTTPHeader: http.Header{"Authorization": {"Bearer " + token}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.CloseNow() })
	if err := conn.Write(t.Context(), websocket.MessageText, []byte(handshakeOf(machineID, "i"))); err != nil {
		t.Fatal(err)
	}
	if _, answer, err := conn.Read(t.Context()); err != nil || !strings.Contains(string(answer), `"accepted":true`) {
		t.Fatalf("the handshake: got %s, %v, want it accepted", answer, err)
	}
	l := &testLink{ended: make(chan struct{})}
	go func() {
		defer close(l.ended)
		_, _, l.err = conn.Read(context.Background())
	}()
	return l
}

// endsWithin reports whether a channel is closed within a time.
func endsWithin(ended <-chan struct{}, wait time.Duration) bool {
	select {
	case <-ended:
		return true
	case <-time.After(wait):
		return false
	}
}

// A link and a stream end when their token is revoked, and no other ends.
func TestRevokedTokens(t *testing.T) {
	t.Parallel()
	const moment = 100 * time.Millisecond
	laptops, reader := "laptops "+tokenHash("LAPTOPS"), "reader "+tokenHash("READER")
	before := laptops + " daemon machines=lap-*\n" + reader + " read\n"
	for _, test := range []struct {
		name, after  string
		link, stream string // what the close frame and the log say; "" if it stays
	}{
		{"nothing", "# comment\n" + before, "", ""},
		{"another token", before + "other " + tokenHash("OTHER") + " read\n", "", ""},
		{"removed", "", "the token laptops was removed", "token=reader"},
		{"new tokens of the same names", strings.NewReplacer(tokenHash("LAPTOPS"), tokenHash("new"), tokenHash("READER"), tokenHash("newer")).Replace(before), "the token laptops was removed", "token=reader"},
		{"another right", laptops + " read machines=lap-*\n" + reader + " call\n", "the token laptops lacks the right daemon", "token=reader"},
		{"fewer machines", laptops + " daemon machines=desk\n" + reader + " read machines=desk\n", "the token laptops is not for this machine_id", "token=reader"},
		{"more machines", laptops + " daemon machines=lap-*,desk\n" + reader + " read\n", "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			tokens := testTokens(t)
			use := func(text string) {
				set, err := parseTokens([]byte(text))
				if err != nil {
					t.Fatal(err)
				}
				tokens.set.Store(&set)
			}
			use(before)
			lines := newSyncBuffer()
			log := slog.New(slog.NewTextHandler(lines, nil))
			a := testAPI(t, func(c *apiConfig, _ *poolConfig) { c.tokens, c.token, c.log = tokens, "single", log })
			libs, err := openLibraries(filepath.Join(t.TempDir(), librariesFile), false, log)
			if err != nil {
				t.Fatal(err)
			}
			h := newHub(hubConfig{log: log, methods: methodsByName(builtinMethods()), libraryOf: libs.of, publish: a.events.publish, maxMessage: defaultMaxMessage, times: defaultLinkTimes()})
			t.Cleanup(h.close)
			(&hubAPI{callRouter: callRouter{hub: h, pool: a.pool, libraries: libs}, tokens: &childTokens{}, daemonToken: "daemon", tokensFile: tokens, log: log}).register(a)
			server := httptest.NewServer(a)
			t.Cleanup(server.Close)
			defer a.events.close()

			link, unnamed := openLink(t, http.DefaultClient, server.URL, "LAPTOPS", "lap-1"), openLink(t, http.DefaultClient, server.URL, "daemon", "other")
			stream, single := openEvents(t, http.DefaultClient, server.URL, "READER"), openEvents(t, http.DefaultClient, server.URL, "single")
			use(test.after)
			a.endRevoked()
			h.endRevoked()
			for what, end := range map[string]struct {
				ended <-chan struct{}
				want  string
			}{
				"the link": {link.ended, test.link}, "the stream": {stream, test.stream},
				"the link of the daemon token": {unnamed.ended, ""}, "the stream of the API token": {single, ""},
			} {
				wait := moment
				if end.want != "" {
					wait = eventually
				}
				if got := endsWithin(end.ended, wait); got != (end.want != "") {
					t.Errorf("%s: got ended %v, want %v", what, got, end.want != "")
				}
				if !strings.Contains(lines.String(), end.want) {
					t.Errorf("%s: the log is %s, want %q", what, lines, end.want)
				}
			}
			if test.link != "" && (websocket.CloseStatus(link.err) != websocket.StatusPolicyViolation || !strings.Contains(link.err.Error(), test.link)) {
				t.Errorf("the link ended with %v, want 1008 and %q", link.err, test.link)
			}
			if strings.Contains(lines.String(), "LAPTOPS") || strings.Contains(lines.String(), "READER") {
				t.Errorf("the log holds a token: %s", lines)
			}
		})
	}
}

// A token that is revoked between the upgrade and the handshake opens no link.
func TestRevokedBeforeHandshake(t *testing.T) {
	t.Parallel()
	tokens := testTokens(t, "laptops daemon")
	admitted := linkAdmission{token: tokens.find("LAPTOPS"), tokens: tokens}
	c := &hubConn{linkAdmission: admitted}
	params := handshakeParams{MachineID: "m", InstanceID: "i", ProtocolVersion: protocolVersion}
	if got := c.objection(params); got != "" {
		t.Errorf("a valid token: got %q, want no objection", got)
	}
	tokens.set.Store(&tokenSet{})
	if got := c.objection(params); !strings.Contains(got, "was removed") {
		t.Errorf("a token that was removed: got %q, want that it was removed", got)
	}
}

// A link and a stream end when the authority of their certificate is removed.
func TestRevokedAuthority(t *testing.T) {
	t.Parallel()
	ca, second := newTestCA(t), newTestCA(t)
	dir := t.TempDir()
	clientCA := dir + "/clients.pem"
	first, other := readTestFile(t, ca.file), readTestFile(t, second.file)
	writeTestFile(t, clientCA, append(append([]byte{}, first...), other...))
	s, err := openServerTLS(ca.issue("server", nil).write(dir), clientCA)
	if err != nil {
		t.Fatal(err)
	}
	url, endRevoked := certifiedAPI(t, s, "")
	goes, stays := certifiedClient(t, ca, ca.issue("goes", nil)), certifiedClient(t, ca, second.issue("stays", nil))
	link, kept := openLink(t, goes, url, "", "goes"), openLink(t, stays, url, "", "stays")
	stream, keptStream := openEvents(t, goes, url, "single"), openEvents(t, stays, url, "single")
	watchTLS(t, s, endRevoked)
	writeTestFile(t, clientCA, other)
	if !endsWithin(link.ended, eventually) || !endsWithin(stream, eventually) {
		t.Fatalf("the authority was removed: got the link or the stream of its certificate open, want both ended")
	}
	if websocket.CloseStatus(link.err) != websocket.StatusPolicyViolation || !strings.Contains(link.err.Error(), "the client certificate is refused") {
		t.Errorf("the link ended with %v, want 1008 and that the certificate is refused", link.err)
	}
	if endsWithin(kept.ended, 50*time.Millisecond) || endsWithin(keptStream, 50*time.Millisecond) {
		t.Error("the link or the stream of another authority ended, want both open")
	}
}
