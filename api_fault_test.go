//go:build linux || darwin

package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A client that has closed its half of the connection may still read: it gets
// an answer, and not an empty success.
func TestFaultHalfClosedClient(t *testing.T) {
	t.Parallel()
	h := openHouse(t, realTempDir(t))
	h.ensure("x")
	for _, accept := range []string{"*/*", "text/event-stream"} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(h.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "POST /libraries/x/rpc HTTP/1.1\r\nHost: localhost\r\nAccept: %s\r\nContent-Length: %d\r\n\r\n%s", accept, len(configCall), configCall)
		if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		_ = conn.SetReadDeadline(time.Now().Add(patience))
		answer, err := io.ReadAll(conn)
		if text := string(answer); err != nil || !strings.Contains(text, `"jsonrpc":"2.0","id":1`) {
			t.Errorf("%s: got %s, %v, want a JSON-RPC answer", accept, text, err)
		}
		_ = conn.Close() // only read
	}
	h.wantNothingLeft()
}

// A client that asks and does not read is let go, and its answer with it.
func TestFaultClientThatDoesNotRead(t *testing.T) {
	skipShort(t, "takes as long as a piece of an answer may: 10 s")
	t.Parallel()
	dir := realTempDir(t)
	large := filepath.Join(dir, "large")
	if err := os.WriteFile(large, []byte(strings.Repeat("x", 8<<20)), 0o600); err != nil {
		t.Fatal(err)
	}
	h := openHouse(t, realTempDir(t), "--allow", dir)
	h.ensure("x")
	before := h.openDescriptors()
	call := `{"jsonrpc":"2.0","id":1,"method":"fs/readFile","params":{"max_bytes":8388608,"path":"` + large + `"}}`
	for _, accept := range []string{"*/*", "text/event-stream"} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(h.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.(*net.TCPConn).SetReadBuffer(4096) // the kernel's smallest will do
		fmt.Fprintf(conn, "POST /libraries/x/rpc HTTP/1.1\r\nHost: localhost\r\nAccept: %s\r\nContent-Length: %d\r\n\r\n%s", accept, len(call), call)
	}
	awaitThat(t, "the calls have come", func() bool { return before == 0 || h.openDescriptors() > before })
	awaitThat(t, "they are given up", func() bool { return h.openDescriptors() <= before })
	h.wantNothingLeft()
}

// No lib_id is a way out of the workspace, whichever route it takes.
func TestFaultLibIDs(t *testing.T) {
	skipShort(t, "it takes about a second")
	t.Parallel()
	h := openHouse(t, realTempDir(t))
	percent := func(id string) string { return strings.ReplaceAll(url.PathEscape(id), ".", "%2E") }
	for _, id := range []string{
		".", "..", ".hidden", "-flag", "--server=x", "a/b", "../x", "/etc", `a\b`, `..\x`, "a b", "a\tb", "a\nb", "a\x00b", "a\x7fb", "\xff", "ä", "日本", "a:b",
		"a*", "a?", "a%2Fb", "a%00", "$HOME", "`id`", "a;b", "a&b", "a|b", "~", "a'b", `a"b`, "<b>", "CON:", librariesFile, lockFileName, trashPrefix + "x", writableFile,
		strings.Repeat("x", maxLibID+1), strings.Repeat("x", 4000),
	} {
		if status, body := h.ask(http.MethodPost, "/daemons", string(mustJSON(t, map[string]string{"lib_id": id}))); status != http.StatusBadRequest || !strings.Contains(body, string(codeInvalidLibID)) {
			t.Errorf("POST /daemons with %q: got %d %s, want 400 %s", id, status, body, codeInvalidLibID)
		}
		for _, route := range []struct{ method, before, after, body string }{
			{http.MethodPut, "/daemons/", "", ""},
			{http.MethodGet, "/daemons/", "", ""},
			{http.MethodDelete, "/daemons/", "", ""},
			{http.MethodPut, "/libraries/", "", `{"machine_id":"m"}`},
			{http.MethodPost, "/libraries/", "/rpc", configCall},
		} {
			status, body := h.ask(route.method, route.before+percent(id)+route.after, route.body)
			if status != http.StatusBadRequest || !strings.Contains(body, string(codeInvalidLibID)) {
				t.Errorf("%s %s with %q: got %d %s, want 400 %s", route.method, route.before, id, status, body, codeInvalidLibID)
			}
		}
	}
	for _, id := range []string{"a", "A.b-c_9", "libraries.json.bak", strings.Repeat("x", maxLibID)} {
		h.want(http.StatusCreated, http.MethodPut, "/daemons/"+id, "")
		h.want(http.StatusNoContent, http.MethodDelete, "/daemons/"+percent(id), "")
	}
	names, err := os.ReadDir(h.workspace)
	if err != nil || len(names) != 1 || names[0].Name() != lockFileName {
		t.Errorf("in the workspace: got %v, %v, want the lock alone", names, err)
	}
	h.wantNothingLeft()
}

// Bodies that are no JSON, or not the JSON that is wanted, or too large.
func TestFaultBodies(t *testing.T) {
	skipShort(t, "it takes seconds")
	t.Parallel()
	h := openHouse(t, realTempDir(t))
	for _, route := range []struct{ method, path string }{
		{http.MethodPost, "/daemons"}, {http.MethodPut, "/libraries/x"}, {http.MethodPost, "/libraries/x/rpc"}, {http.MethodPost, "/machines/m/rpc"},
	} {
		isRPC := strings.HasSuffix(route.path, "/rpc")
		for _, body := range []string{
			"", " ", "{", "}", `{"lib_id":`, `{"lib_id":"x"`, `{"lib_id":"x"}{}`, `{"lib_id":"x"},`, "null", "true", "1", `"x"`, "x", "\x00", "\xff\xfe{\x00}\x00", "\xef\xbb\xbf{}",
			"{\"lib_id\":\"\xff\",\"machine_id\":\"\xff\",\"method\":\"\xff\"}", `{"lib_id":1,"machine_id":1,"method":1}`, `{"lib_id":null}`, `{"lib_id":["x"],"machine_id":{},"method":{}}`,
			strings.Repeat("[", 100_000), strings.Repeat(`{"a":`, 100_000), "{}",
		} {
			status, answer := h.ask(route.method, route.path, body)
			if isRPC && (status == http.StatusOK || status >= 500) || !isRPC && status != http.StatusBadRequest {
				t.Errorf("%s %s %.40q: got %d %s, want a refusal of the body", route.method, route.path, body, status, answer)
			}
			if !strings.Contains(answer, `"code"`) {
				t.Errorf("%s %s %.40q: got %s, want a code in it", route.method, route.path, body, answer)
			}
		}
		limit := maxBody
		if isRPC {
			limit = maxRPCBody
		}
		large := `{"lib_id":"` + strings.Repeat("x", limit) + `"}`
		for _, chunked := range []bool{false, true} {
			if status, answer := sendBody(t, route.method, h.url+route.path, large, chunked); status != http.StatusRequestEntityTooLarge {
				t.Errorf("%s %s, too large, chunked %v: got %d %s, want 413", route.method, route.path, chunked, status, answer)
			}
		}
	}
	h.want(http.StatusOK, http.MethodGet, "/daemons", "", `"daemons":[]`)
	h.wantNothingLeft()
}

// sendBody sends a body with its length, or in chunks.
func sendBody(t *testing.T, method, url, body string, chunked bool) (int, string) {
	t.Helper()
	var reader io.Reader = strings.NewReader(body)
	if chunked {
		reader = io.MultiReader(reader) // hides the length
	}
	r, err := http.NewRequestWithContext(t.Context(), method, url, reader)
	if err != nil {
		t.Fatal(err)
	}
	return doHTTP(t, r)
}

// A header that does not come to its end is cut off, and others are served
// meanwhile.
func TestFaultSlowHeaders(t *testing.T) {
	skipShort(t, "takes as long as a header may: 5 s")
	t.Parallel()
	h := openHouse(t, realTempDir(t))
	const slow = 100
	ended := make(chan error, slow)
	for i := range slow {
		conn, err := net.Dial("tcp", strings.TrimPrefix(h.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, "PUT /daemons/x HTTP/1.1\r\nHost: localhost\r\nX-Slow: "[:i%50]); err != nil {
			t.Fatal(err)
		}
		go func() { // ends with the connection, or at the deadline
			_ = conn.SetReadDeadline(time.Now().Add(patience))
			_, err := io.ReadAll(conn)
			ended <- err
		}()
	}
	h.want(http.StatusOK, http.MethodGet, "/health", "", `"running":0`)
	h.ensure("x")
	open := 0
	for range slow {
		if err := <-ended; errors.Is(err, os.ErrDeadlineExceeded) {
			open++
		}
	}
	if open > 0 {
		t.Errorf("got %d connections open, want all closed", open)
	}
	// One header that is too large.
	status, answer := askHTTP(t, http.MethodGet, h.url+"/health", "", "X-Large", strings.Repeat("x", 4*maxHeader))
	if status != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("a header that is too large: got %d %s, want 431", status, answer)
	}
	h.wantNothingLeft()
}
