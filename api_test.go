//go:build linux || darwin

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// testAPI is an API over a pool whose daemons are ready at once, unless their
// lib_id begins with "crash" or "slow".
func testAPI(t *testing.T, change func(*apiConfig, *poolConfig)) *api {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	w := &fakeWorld{running: map[string]*fakeDaemon{}, allowKillMid: true}
	pc := poolConfig{
		workspace: t.TempDir(), server: "ws://x", maxDaemons: 2, idleTimeout: time.Hour, spawnTimeout: 100 * time.Millisecond,
		stopTimeout: time.Second, log: log,
		start: func(spec childSpec) (child, error) {
			w.mu.Lock()
			w.crash, w.readyAfter = strings.HasPrefix(spec.libID, "crash"), 0
			if strings.HasPrefix(spec.libID, "slow") {
				w.readyAfter = -1
			}
			w.mu.Unlock()
			return w.start(spec)
		},
	}
	ac := apiConfig{events: newEvents(log), hosts: []string{"c4a.example.org"}, version: "0.0.0", log: log}
	if change != nil {
		change(&ac, &pc)
	}
	pc.onEvent = func(e poolEntry) { ac.events.publish("pool/entry", e) }
	p, err := newPool(pc)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ac.events.close()
		if !p.stopping() {
			if err := p.shutdown(context.Background()); err != nil {
				t.Error(err)
			}
		}
	})
	ac.pool = p
	ac.usage = newDiskSize(t.Context(), p.workspace, log)
	t.Cleanup(ac.usage.close)
	return newAPI(ac)
}

// ask is one request; header is name, value, ….
func ask(a http.Handler, method, target, body string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	r.Host = "127.0.0.1:5110"
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			r.Host = header[i+1]
		} else {
			r.Header.Add(header[i], header[i+1])
		}
	}
	w := httptest.NewRecorder()
	a.ServeHTTP(w, r)
	return w
}

// checkProblem holds an answer against RFC 9457 and the expected code.
func checkProblem(t *testing.T, w *httptest.ResponseRecorder, status int, code errorCode) {
	t.Helper()
	var p problem
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
		t.Fatalf("got %d %s (%v), want a problem", w.Code, w.Body, err)
	}
	if w.Code != status || p.Status != status || p.Code != code || p.Detail == "" || p.Title == "" || w.Header().Get("Content-Type") != "application/problem+json" {
		t.Errorf("got %d %s %s, want %d %s", w.Code, w.Header(), w.Body, status, code)
	}
}

func TestAPILife(t *testing.T) {
	t.Parallel()
	a := testAPI(t, nil)
	var entry poolEntry
	if w := ask(a, "POST", "/daemons", `{"lib_id":"x"}`); w.Code != 201 || json.Unmarshal(w.Body.Bytes(), &entry) != nil || entry.Status != statusReady {
		t.Errorf("the first POST: got %d %s, want 201 and a ready entry", w.Code, w.Body)
	}
	if w := ask(a, "POST", "/daemons", `{"lib_id":"x"}`); w.Code != 200 {
		t.Errorf("the second POST: got %d %s, want 200", w.Code, w.Body)
	}
	if w := ask(a, "PUT", "/daemons/y", ""); w.Code != 201 {
		t.Errorf("PUT: got %d %s, want 201", w.Code, w.Body)
	}
	if w := ask(a, "GET", "/daemons/x", ""); w.Code != 200 || !strings.Contains(w.Body.String(), `"machine_id":"cloud_x"`) {
		t.Errorf("GET one: got %d %s, want cloud_x", w.Code, w.Body)
	}
	var all struct {
		Daemons []poolEntry
		Max     int
	}
	if w := ask(a, "GET", "/daemons", ""); w.Code != 200 || json.Unmarshal(w.Body.Bytes(), &all) != nil || len(all.Daemons) != 2 || all.Max != 2 {
		t.Errorf("GET all: got %d %s, want 2 of 2", w.Code, w.Body)
	}
	var pages []string
	for cursor := ""; len(pages) < 3; {
		var page daemonList
		if w := ask(a, "GET", "/daemons?limit=1&cursor="+cursor, ""); w.Code != 200 || json.Unmarshal(w.Body.Bytes(), &page) != nil || len(page.Daemons) != 1 {
			t.Fatalf("GET a page: got %d %s, want one daemon", w.Code, w.Body)
		}
		pages = append(pages, page.Daemons[0].LibID)
		if page.NextCursor == nil {
			break
		}
		cursor = *page.NextCursor
	}
	if strings.Join(pages, " ") != "x y" {
		t.Errorf("got the pages %q, want x and y", pages)
	}
	checkProblem(t, ask(a, "GET", "/daemons?limit=0", ""), 400, codeBadRequest)
	checkProblem(t, ask(a, "GET", "/daemons?cursor=*", ""), 400, codeBadRequest)
	if w := ask(a, "POST", "/stop", ""); w.Code != 204 || w.Body.Len() != 0 {
		t.Errorf("POST /stop: got %d %s, want 204 without a body", w.Code, w.Body)
	}
	checkProblem(t, ask(a, "GET", "/daemons/x", ""), 404, codeNotFound)
	if w := ask(a, "DELETE", "/daemons/x", ""); w.Code != 204 {
		t.Errorf("DELETE: got %d %s, want 204", w.Code, w.Body)
	}
	if w := ask(a, "GET", "/daemons", ""); w.Body.String() != "{\"daemons\":[],\"max\":2,\"next_cursor\":null}\n" {
		t.Errorf("got %s, want an empty list", w.Body)
	}
}

func TestAPIRefusals(t *testing.T) {
	t.Parallel()
	a := testAPI(t, nil)
	for _, test := range []struct {
		name, method, target, body string
		status                     int
		code                       errorCode
	}{
		{"unknown path", "GET", "/nothing", "", 404, codeNotFound},
		{"unknown method", "PATCH", "/daemons", "", 405, codeMethodNotAllowed},
		{"other method on an entry", "POST", "/daemons/x", "", 405, codeMethodNotAllowed},
		{"no body", "POST", "/daemons", "", 400, codeBadRequest},
		{"null", "POST", "/daemons", "null", 400, codeBadRequest},
		{"array", "POST", "/daemons", "[]", 400, codeBadRequest},
		{"half a body", "POST", "/daemons", `{"lib_id":"x"`, 400, codeBadRequest},
		{"trailing data", "POST", "/daemons", `{"lib_id":"x"} {}`, 400, codeBadRequest},
		{"wrong type", "POST", "/daemons", `{"lib_id":1}`, 400, codeBadRequest},
		{"no lib_id", "POST", "/daemons", `{}`, 400, codeInvalidLibID},
		{"bad lib_id", "POST", "/daemons", `{"lib_id":"../x"}`, 400, codeInvalidLibID},
		{"bad lib_id in PUT", "PUT", "/daemons/..%2fx", "", 400, codeInvalidLibID},
		{"bad lib_id in GET", "GET", "/daemons/.x", "", 400, codeInvalidLibID},
		{"bad lib_id in DELETE", "DELETE", "/daemons/libraries.json", "", 400, codeInvalidLibID},
		{"big body", "POST", "/daemons", `{"lib_id":"` + strings.Repeat("x", maxBody) + `"}`, 413, codeBodyTooLarge},
		{"DELETE of nothing", "DELETE", "/daemons/x", "", 404, codeNotFound},
		{"crash", "POST", "/daemons", `{"lib_id":"crash"}`, 503, codeAutoStartFailed},
		{"never ready", "POST", "/daemons", `{"lib_id":"slow"}`, 504, codeSpawnTimeout},
		{"Last-Event-ID is none", "GET", "/events", "", 400, codeBadRequest},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := ask(a, test.method, test.target, test.body, "Last-Event-ID", "x")
			checkProblem(t, w, test.status, test.code)
			if test.status == 405 && w.Header().Get("Allow") == "" {
				t.Error("got 405 without Allow, want the header")
			}
		})
	}
	if w := ask(a, "GET", "/daemons/crash", ""); w.Code != 200 || !strings.Contains(w.Body.String(), `"status":"exited"`) || !strings.Contains(w.Body.String(), "its last line") {
		t.Errorf("after a crash: got %d %s, want an exited entry with the last log line", w.Code, w.Body)
	}
}

func TestAPIFullPool(t *testing.T) {
	t.Parallel()
	a := testAPI(t, func(_ *apiConfig, p *poolConfig) { p.maxDaemons = 0 })
	w := ask(a, "PUT", "/daemons/x", "")
	checkProblem(t, w, 503, codeCapacity)
	var seconds int
	if _, err := fmt.Sscan(w.Header().Get("Retry-After"), &seconds); err != nil || seconds < 5 || seconds > 15 {
		t.Errorf("got the Retry-After %q, want 5 to 15", w.Header().Get("Retry-After"))
	}
}

func TestAPIToken(t *testing.T) {
	t.Parallel()
	a := testAPI(t, func(c *apiConfig, _ *poolConfig) { c.token = "s3cret" })
	a.handleOpen("GET /bin/", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "a program") })
	for _, test := range []struct {
		method, target, authorization string
		want                          int
	}{
		{"GET", "/daemons", "", 401},
		{"GET", "/daemons", "Bearer wrong", 401},
		{"GET", "/daemons", "s3cret", 401},
		{"GET", "/daemons", "Basic s3cret", 401},
		{"GET", "/daemons", "Bearer s3cret2", 401},
		{"GET", "/daemons", "Bearer", 401},
		{"GET", "/daemons", "Bearer s3cret", 200},
		{"GET", "/daemons", "bearer s3cret", 200},
		{"DELETE", "/daemons/x", "", 401},
		{"GET", "/events", "", 401},
		{"GET", "/nothing", "", 401},
		{"GET", "/nothing", "Bearer s3cret", 404},
		{"GET", "/health", "", 200},
		{"GET", "/livez", "", 200},
		{"GET", "/readyz", "", 200},
		{"GET", "/bin/x", "", 200},
		{"POST", "/bin/x", "", 401},
		{"GET", "/bin/..%2fdaemons", "", 200}, // still the program
		{"GET", "/%64aemons", "", 401},
		{"GET", "//daemons", "", 401},
		{"POST", "/livez", "", 401},
	} {
		var header []string
		if test.authorization != "" {
			header = []string{"Authorization", test.authorization}
		}
		w := ask(a, test.method, test.target, "", header...)
		if w.Code != test.want || strings.Contains(w.Body.String(), "s3cret") || (w.Code == 200 && strings.HasPrefix(test.target, "/bin") && w.Body.String() != "a program") {
			t.Errorf("%s %s with %q: %d %s, want %d", test.method, test.target, test.authorization, w.Code, w.Body, test.want)
		}
		if w.Code == 401 && w.Header().Get("WWW-Authenticate") == "" {
			t.Error("got 401 without WWW-Authenticate, want the header")
		}
	}
}

// A form on a page of another site is sent as a navigation: it is refused, unless it
// changes nothing.
func TestAPINavigationFromAnotherSite(t *testing.T) {
	t.Parallel()
	a := testAPI(t, nil)
	for method, want := range map[string]int{"GET": 404, "POST": 403, "PUT": 403, "DELETE": 403} {
		w := ask(a, method, "/nothing", "", "Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate")
		if w.Code != want {
			t.Errorf("%s: got %d, want %d", method, w.Code, want)
		}
	}
}

func TestAPIForeignHostAndOrigin(t *testing.T) {
	t.Parallel()
	a := testAPI(t, nil)
	for _, test := range []struct {
		header []string
		ok     bool
	}{
		{[]string{"Host", "127.0.0.1:5110"}, true},
		{[]string{"Host", "localhost"}, true},
		{[]string{"Host", "LOCALHOST:1"}, true},
		{[]string{"Host", "[::1]:5110"}, true},
		{[]string{"Host", "10.1.2.3"}, true},
		{[]string{"Host", "c4a.example.org:443"}, true},
		{[]string{"Host", "C4A.example.org."}, true},
		{[]string{"Host", "evil.example"}, false},
		{[]string{"Host", "127.0.0.1.evil.example"}, false},
		{[]string{"Host", "c4a.example.org.evil.example"}, false},
		{[]string{"Host", ""}, false},
		{[]string{"Origin", "http://127.0.0.1:5110"}, true},
		{[]string{"Origin", "http://127.0.0.1:5111"}, false},
		{[]string{"Origin", "http://evil.example"}, false},
		{[]string{"Origin", "null"}, false},
		{[]string{"Origin", "http://127.0.0.1:5110", "Origin", "http://evil.example"}, false},
		{[]string{"Host", "evil.example", "Origin", "http://evil.example"}, false},
		{[]string{"Origin", "ftp://127.0.0.1:5110"}, false},
		{[]string{"Origin", "chrome-extension://127.0.0.1:5110"}, false},
		{[]string{"Sec-Fetch-Site", "cross-site"}, false},
		{[]string{"Sec-Fetch-Site", "same-site"}, false},
		{[]string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate"}, true},
		{[]string{"Sec-Fetch-Site", "same-origin"}, true},
		{[]string{"Sec-Fetch-Site", "none"}, true},
	} {
		for _, target := range []string{"/daemons", "/health", "/nothing", "/events"} {
			if target == "/events" && test.ok {
				continue // it would not return
			}
			w := ask(a, "GET", target, "", test.header...)
			if (w.Code != 403) != test.ok {
				t.Errorf("%s with %q: got %d, want it let through: %v", target, test.header, w.Code, test.ok)
			}
			if w.Code == 403 {
				checkProblem(t, w, 403, codeForbidden)
			}
		}
	}
}

// A proxy on the same host speaks for anybody: without a token everybody could call
// config/setAuth.
func TestForwardedRequestNeedsAToken(t *testing.T) {
	t.Parallel()
	a, secured := testAPI(t, nil), testAPI(t, func(c *apiConfig, _ *poolConfig) { c.token = "s3cret" })
	for _, name := range []string{"Forwarded", "X-Forwarded-For", "x-forwarded-proto", "X-Forwarded-Host", "X-Real-IP", "Via"} {
		for _, target := range []string{"/daemons", "/health", "/livez", "/nothing", "/metrics"} {
			checkProblem(t, ask(a, "GET", target, "", name, ""), 403, codeForbidden)
		}
		if w := ask(secured, "GET", "/daemons", "", name, "x", "Authorization", "Bearer s3cret"); w.Code != 200 {
			t.Errorf("%s with a token: got %d %s, want 200", name, w.Code, w.Body)
		}
		r := httptest.NewRequest("GET", "/daemons", nil)
		r.Host, r.RemoteAddr = "localhost", "@"
		r.Header.Set(name, "x")
		w := httptest.NewRecorder()
		if a.ServeHTTP(w, r); w.Code != 200 {
			t.Errorf("%s through a Unix socket: got %d %s, want 200", name, w.Code, w.Body)
		}
	}
}

func TestHealthCheckWithoutHost(t *testing.T) {
	t.Parallel()
	a := testAPI(t, nil)
	for target, want := range map[string]int{"/health": 200, "/livez": 200, "/readyz": 200, "/daemons": 403, "/nothing": 403} {
		for _, method := range []string{"GET", "HEAD"} {
			r := httptest.NewRequest(method, target, nil)
			r.Host, r.Proto, r.ProtoMinor = "", "HTTP/1.0", 0
			w := httptest.NewRecorder()
			if a.ServeHTTP(w, r); w.Code != want {
				t.Errorf("%s %s: got %d %s, want %d", method, target, w.Code, w.Body, want)
			}
		}
	}
}

func TestAPIHealth(t *testing.T) {
	t.Parallel()
	a := testAPI(t, nil)
	mustEnsure(t, a.pool, "x")
	w := ask(a, "GET", "/health", "")
	var health struct {
		Status  string
		Version string
		Daemons poolCounts
		Disk    map[string]any
	}
	if err := json.Unmarshal(w.Body.Bytes(), &health); err != nil {
		t.Fatal(err)
	}
	if w.Code != 200 || health.Status != "ok" || health.Daemons != (poolCounts{Running: 1, Ready: 1, Max: 2}) || health.Version != "0.0.0" {
		t.Errorf("got %d %s, want 200 and one ready daemon", w.Code, w.Body)
	}
	if total, ok := health.Disk["total_bytes"].(float64); !ok || total <= 0 || health.Disk["path"] != a.pool.workspace {
		t.Errorf("got the disk %v, want its size and %s", health.Disk, a.pool.workspace)
	}
	a.minFreeDisk = 101 // no disk is that free
	if w := ask(a, "GET", "/health", ""); w.Code != 503 || !strings.Contains(w.Body.String(), `"status":"degraded"`) {
		t.Errorf("a full disk: got %d %s, want 503 degraded", w.Code, w.Body)
	}
	a.minFreeDisk = 0
	// A directory in the way stands for a disk that takes no files.
	if err := os.MkdirAll(filepath.Join(a.pool.workspace, writableFile, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{"/health", "/readyz"} {
		if w := ask(a, "GET", target, ""); w.Code != 503 || !strings.Contains(w.Body.String(), `"status":"degraded"`) {
			t.Errorf("%s: a workspace that cannot be written: got %d %s, want 503 degraded", target, w.Code, w.Body)
		}
	}
	if err := a.pool.shutdown(context.Background()); err != nil {
		t.Fatal(err)
	}
	for target, want := range map[string]int{"/health": 503, "/readyz": 503, "/livez": 200} {
		if w := ask(a, "GET", target, ""); w.Code != want || (want == 503 && !strings.Contains(w.Body.String(), `"stopping"`)) {
			t.Errorf("%s after shutdown: got %d %s, want %d", target, w.Code, w.Body, want)
		}
	}
}

func TestDiskUsage(t *testing.T) {
	t.Parallel()
	// 100 blocks, 20 free, of which 5 are for root alone: 80 of 95 are used.
	got := newDiskUsage("/x", 4096, 100, 20, 15)
	if want := (diskUsage{"/x", 409600, 61440, 100 * 80.0 / 95}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if empty := newDiskUsage("/x", 0, 0, 0, 0); empty.UsedPercent != 0 {
		t.Errorf("a disk without blocks: got %+v, want 0 percent", empty)
	}
}

// openStream subscribes over a real connection and returns its lines.
func openStream(t *testing.T, url, lastID string) *bufio.Reader {
	t.Helper()
	return openStreamAt(t, url+"/events", lastID)
}

func openStreamAt(t *testing.T, url, lastID string) *bufio.Reader {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), eventually)
	r, err := http.NewRequestWithContext(ctx, "GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if lastID != "" {
		r.Header.Set("Last-Event-ID", lastID)
	}
	client := &http.Client{Transport: &http.Transport{}}
	answer, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); _ = answer.Body.Close(); client.CloseIdleConnections() })
	if answer.StatusCode != 200 || answer.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("got %d %v, want 200 and a stream", answer.StatusCode, answer.Header)
	}
	lines := bufio.NewReader(answer.Body)
	if line, err := lines.ReadString('\n'); err != nil || line != ": welcome\n" {
		t.Fatalf("got %q, %v, want the welcome", line, err)
	}
	return lines
}

// nextEvent reads one event.
func nextEvent(t *testing.T, lines *bufio.Reader) (id, name, data string) {
	t.Helper()
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatalf("got the end of the stream, %v, want an event", err)
		}
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		switch key {
		case "id":
			id = value
		case "event":
			name = value
		case "data":
			return id, name, value
		}
	}
}

func TestEventsStreamAndResume(t *testing.T) {
	t.Parallel()
	a := testAPI(t, nil)
	server := httptest.NewServer(a)
	defer server.Close()
	defer a.events.close() // before the server waits for its streams
	a.events.publish("daemon/status", map[string]string{"before": "it is not for those who come later"})
	lines := openStream(t, server.URL, "")
	a.events.publish("daemon/status", map[string]string{"text": "two\nlines"})
	first, name, data := nextEvent(t, lines)
	if name != "daemon/status" || data != `{"text":"two\nlines"}` {
		t.Errorf("got %s %s, want the status in two lines", name, data)
	}
	mustEnsure(t, a.pool, "x")
	second, name, data := nextEvent(t, lines)
	if name != "pool/entry" || !strings.Contains(data, `"status":"starting"`) || second <= first {
		t.Errorf("got %s %s %s after %s, want a starting entry with a higher id", second, name, data, first)
	}
	if id, _, again := nextEvent(t, openStream(t, server.URL, first)); id != second || again != data {
		t.Errorf("resumed with %s %s, want %s %s", id, again, second, data)
	}
	// An id of another run of the scheduler, earlier or later: all that is kept.
	for _, other := range []string{"1", "0", "9007199254740991", "18446744073709551615", "18446744073709551616"} {
		lines := openStream(t, server.URL, other)
		if id, name, _ := nextEvent(t, lines); name != "reset" || id == "" {
			t.Errorf("resumed after %s with %q %q, want reset with an id", other, name, id)
		}
		if _, _, oldest := nextEvent(t, lines); !strings.Contains(oldest, "before") {
			t.Errorf("resumed after %s with %s, want the oldest", other, oldest)
		}
	}
}

// A client that is cut off before its first event comes back with the id of the
// welcome and misses nothing.
func TestEventsBeforeTheFirstAreNotMissed(t *testing.T) {
	t.Parallel()
	a := testAPI(t, nil)
	server := httptest.NewServer(a)
	defer server.Close()
	defer a.events.close()
	line, err := openStream(t, server.URL, "").ReadString('\n')
	id, ok := strings.CutPrefix(strings.TrimSpace(line), "id: ")
	if err != nil || !ok {
		t.Fatalf("got %q, %v after the welcome, want an id", line, err)
	}
	a.events.publish("missed", 1)
	a.events.publish("missed", 2)
	lines := openStream(t, server.URL, id)
	for _, want := range []string{"1", "2"} {
		if _, name, data := nextEvent(t, lines); name != "missed" || data != want {
			t.Errorf("got %s %s, want missed %s", name, data, want)
		}
	}
	// With as many events as are kept it still resumes, with one more it does not.
	for range eventRing - 2 {
		a.events.publish("more", nil)
	}
	if _, name, _ := nextEvent(t, openStream(t, server.URL, id)); name != "missed" {
		t.Errorf("got %s, want missed", name)
	}
	a.events.publish("more", nil)
	if _, name, _ := nextEvent(t, openStream(t, server.URL, id)); name != "reset" {
		t.Errorf("got %s, want reset", name)
	}
}

func TestEventsEndWithTheScheduler(t *testing.T) {
	t.Parallel()
	a := testAPI(t, nil)
	server := httptest.NewServer(a)
	defer server.Close()
	lines := openStream(t, server.URL, "")
	a.events.publish("last", nil)
	a.events.close()
	a.events.publish("too late", nil)
	if _, name, _ := nextEvent(t, lines); name != "last" {
		t.Errorf("got %q, want last", name)
	}
	if rest, err := io.ReadAll(lines); err != nil || len(strings.TrimSpace(string(rest))) > 0 {
		t.Errorf("got %q, %v, want the end of the stream", rest, err)
	}
	checkProblem(t, ask(a, "GET", "/events", ""), 503, codeCapacity)
}

func TestEventsSlowSubscriberIsDropped(t *testing.T) {
	t.Parallel()
	s := newEvents(slog.New(slog.DiscardHandler))
	slow, _ := s.subscribe(nil, "", 0)
	quick, _ := s.subscribe(nil, "", 0)
	for i := range eventRing + 1 {
		s.publish("x", i)
		if news, ok := s.after(quick); !ok || len(news) != 1 || string(news[0].data) != fmt.Sprint(i) {
			t.Fatalf("event %d: got %v, %v, want it alone", i, news, ok)
		}
	}
	if _, ok := s.after(slow); ok {
		t.Error("a subscriber that is too slow goes on, want it dropped")
	}
	id := uint64(1)
	late, _ := s.subscribe(&id, "", 0)
	if news, ok := s.after(late); !ok || len(news) != eventRing {
		t.Errorf("%d events kept, %v, want %d", len(news), ok, eventRing)
	}
}

func TestEventsTooManySubscribers(t *testing.T) {
	t.Parallel()
	s := newEvents(slog.New(slog.DiscardHandler))
	first, _ := s.subscribe(nil, "", 0)
	first.started = first.started.Add(-time.Second) // clocks may not tell the others apart
	<-first.wake
	for range maxSubscribers {
		if _, ok := s.subscribe(nil, "", 0); !ok {
			t.Fatal("got a refusal, want a subscriber")
		}
	}
	if _, open := <-first.wake; open || len(s.subscribers) != maxSubscribers {
		t.Errorf("got %d subscribers, want %d: the oldest makes room", len(s.subscribers), maxSubscribers)
	}
	s.publish("too big", strings.Repeat("x", maxEvent))
	if s.kept != 0 {
		t.Error("got an event over the bound, want it dropped")
	}
}

// An event's data is one line, whatever line ends stand between its tokens.
func TestEventStream(t *testing.T) {
	t.Parallel()
	w := httptest.NewRecorder()
	s := newEventStream(w)
	defer s.beat.Stop()
	s.add(7, "a", []byte(`{"x":1}`))
	s.add(0, "b", []byte("{\r\n\"y\":\n2}"))
	if err := s.comment(" text"); err != nil {
		t.Fatal(err)
	}
	const want = "id: 7\nevent: a\ndata: {\"x\":1}\n\nevent: b\ndata: {  \"y\": 2}\n\n: text\n\n"
	if got := w.Body.String(); got != want {
		t.Errorf("got the stream %q, want %q", got, want)
	}
	if err := s.flush(); err != nil || w.Body.String() != want {
		t.Errorf("a flush without events: got %q, %v, want nothing more", w.Body, err)
	}
}

// A request without an upgrade is refused in the form of all errors.
func TestUpgradeErrorsAreProblems(t *testing.T) {
	t.Parallel()
	a := testAPI(t, nil)
	h := &hubAPI{tokens: &childTokens{}, refuses: a.draining.Load, log: slog.New(slog.DiscardHandler)}
	a.handleOpen("GET "+linkPath, h.connect)
	upgrade := []string{"Connection", "Upgrade", "Upgrade", "websocket"}
	for _, test := range []struct {
		status  int
		answers string // a header of the answer
		header  []string
	}{
		{426, "Upgrade", nil},
		{426, "Upgrade", []string{"Connection", "Upgrade", "Upgrade", "h2c"}},
		{400, "Sec-WebSocket-Version", append(upgrade, "Sec-WebSocket-Version", "12")},
		{400, "", append(upgrade, "Sec-WebSocket-Version", "13")},
		{400, "", append(upgrade, "Sec-WebSocket-Version", "13", "Sec-WebSocket-Key", "short")},
		{400, "", append(upgrade, machineIDHeader, "%zz")},
	} {
		r := httptest.NewRequest("GET", linkPath, nil)
		r.Host, r.RemoteAddr = "localhost", "127.0.0.1:1"
		for i := 0; i < len(test.header); i += 2 {
			r.Header.Set(test.header[i], test.header[i+1])
		}
		w := httptest.NewRecorder()
		a.ServeHTTP(w, r)
		checkProblem(t, w, test.status, codeBadRequest)
		if test.answers != "" && w.Header().Get(test.answers) == "" {
			t.Errorf("%q: got the header %v, want %s in it", test.header, w.Header(), test.answers)
		}
	}
}

// The write deadline of an answer ends no later one, however late it comes and
// whether a handler writes it or net/http does: one connection serves all.
func TestConnectionUsedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := newPipeNet()
		log := slog.New(slog.DiscardHandler)
		a := newAPI(apiConfig{events: newEvents(log), log: log})
		for route, answer := range map[string]http.HandlerFunc{
			"GET /test/send":   func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, http.StatusOK, "x") },
			"GET /test/long":   func(w http.ResponseWriter, _ *http.Request) { _ = send(w, make([]byte, 3*sendPiece)) },
			"GET /test/write":  func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 8*heldBack)) },
			"GET /test/status": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) },
			"GET /test/slow": func(w http.ResponseWriter, _ *http.Request) {
				time.Sleep(3 * sendLimit)
				writeJSON(w, http.StatusOK, "x")
			},
			"GET /test/slowstatus": func(w http.ResponseWriter, _ *http.Request) {
				time.Sleep(3 * sendLimit)
				w.WriteHeader(http.StatusNoContent)
			},
			"GET /test/stream": func(w http.ResponseWriter, _ *http.Request) {
				s := newEventStream(w)
				defer s.beat.Stop()
				for range 3 {
					_ = s.flush()
					time.Sleep(3 * sendLimit)
				}
			},
			"POST /test/body": func(w http.ResponseWriter, r *http.Request) {
				var body struct{}
				if err := readJSON(w, r, &body); err != nil {
					writeError(w, err)
					return
				}
				writeJSON(w, http.StatusOK, "x")
			},
		} {
			a.handle(route, answer)
		}
		server := &http.Server{Handler: a}
		served := make(chan struct{})
		go func() { defer close(served); _ = server.Serve(network) }()
		defer func() { _ = server.Close(); <-served }()
		dials := 0
		client := &http.Transport{MaxConnsPerHost: 1, ExpectContinueTimeout: time.Hour, DialContext: func(context.Context, string, string) (net.Conn, error) {
			dials++
			here, there := net.Pipe()
			network.conns <- there
			return here, nil
		}}
		defer client.CloseIdleConnections()
		for range 2 {
			for _, test := range []struct {
				method, path, expect string
				status               int
			}{
				{"GET", "/test/send", "", 200}, {"GET", "/test/long", "", 200}, {"GET", "/test/write", "", 200}, {"GET", "/test/status", "", 204}, {"GET", "/test/slow", "", 200}, {"GET", "/test/slowstatus", "", 204}, {"GET", "/test/stream", "", 200},
				{"POST", "/test/body", "", 200}, {"POST", "/test/body", "100-continue", 200}, {"GET", "/test//send", "", 307}, {"GET", "/none", "", 404}, {"PUT", "/test/send", "", 405},
			} {
				request, err := http.NewRequestWithContext(t.Context(), test.method, "http://localhost"+test.path, nil)
				if err != nil {
					t.Fatal(err)
				}
				if test.method == "POST" {
					request.Body, request.ContentLength = io.NopCloser(strings.NewReader("{}")), 2
				}
				if test.expect != "" {
					request.Header.Set("Expect", test.expect)
				}
				response, err := client.RoundTrip(request)
				if err != nil {
					t.Errorf("%s %s %s: got %v, want the status %d", test.method, test.path, test.expect, err, test.status)
					continue
				}
				_, err = io.Copy(io.Discard, response.Body)
				_ = response.Body.Close()
				if err != nil || response.StatusCode != test.status {
					t.Errorf("%s %s %s: got the status %d, %v, want %d", test.method, test.path, test.expect, response.StatusCode, err, test.status)
				}
				time.Sleep(3 * sendLimit)
			}
		}
		if dials != 1 {
			t.Errorf("got %d connections, want one for all requests", dials)
		}
	})
}
