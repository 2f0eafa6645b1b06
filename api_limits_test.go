//go:build linux || darwin

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// limitedAPI is the API of a hub on fake time, with limits. Its machine m has
// test/wait, which runs for an hour, and test/big, whose result has as many bytes
// as are asked for.
func limitedAPI(t *testing.T, limits *apiLimits, tokens *tokensFile) (*api, *hubBench) {
	t.Helper()
	b := newHubBench(t)
	big := newMethod("test/big", "", func(_ context.Context, p echoParams) (string, error) { return strings.Repeat("x", p.Count), nil })
	wait := newMethod("test/wait", "", func(ctx context.Context, _ echoParams) (int, error) {
		select {
		case <-time.After(30 * time.Second):
		case <-ctx.Done():
		}
		return 1, nil
	})
	b.daemon("m", "i", "", big, wait)
	b.online("m")
	a := newAPI(apiConfig{events: newEvents(b.log), tokens: tokens, limits: limits, log: b.log})
	h := &hubAPI{callRouter: callRouter{hub: b.hub}, tokens: &childTokens{}, limits: limits, log: b.log}
	h.register(a)
	newMCPAPI(h, nil).register(a)
	return a, b
}

// askFrom is one request of a caller with an address or a token.
func askFrom(a http.Handler, caller, method, target, body string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	r.Host = "127.0.0.1:5110"
	if r.RemoteAddr = caller; !strings.Contains(caller, ":") {
		r.RemoteAddr = "10.0.0.1:9"
		r.Header.Set("Authorization", "Bearer "+caller)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	if strings.HasPrefix(body, "chunked") {
		r.ContentLength = -1
	}
	w := httptest.NewRecorder()
	a.ServeHTTP(w, r)
	return w
}

// rpcBody is a call with params of at least some bytes.
func rpcBody(method string, count, padding int) string {
	return fmt.Sprintf(`{"jsonrpc":"2.0","id":"x7","method":%q,"params":{"count":%d,"text":%q}}`, method, count, strings.Repeat("p", padding))
}

// wantBusy checks the refusal of a call.
func wantBusy(t *testing.T, what string, w *httptest.ResponseRecorder) {
	t.Helper()
	var got struct {
		ID    string
		Error rpcError
	}
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") != "1" ||
		got.ID != "x7" || got.Error.Code != -32005 || got.Error.name() != codeServerBusy || got.Error.Data["retry_after_ms"] != 1000.0 {
		t.Errorf("%s: got %d %v %s, %v, want 429 with Retry-After: 1 and SERVER_BUSY under the id x7", what, w.Code, w.Header(), w.Body, err)
	}
}

// A caller that has as much in flight as it may have is refused, and no other.
func TestCallerLimits(t *testing.T) {
	const one, other, route = "10.0.0.1:1000", "10.0.0.2:1000", "/machines/m/rpc"
	for _, test := range []struct {
		name     string
		limits   *apiLimits
		inFlight []string // bodies of calls that run
		header   []string
		body     string // of the call that is refused
	}{
		{"requests", newAPILimits(2, 0, 0, 0), []string{rpcBody("test/wait", 0, 0), rpcBody("test/wait", 0, 0)}, nil, rpcBody("test/big", 1, 0)},
		{"requests, with a long body", newAPILimits(1, 0, 0, 0), []string{rpcBody("test/wait", 0, 0)}, nil, rpcBody("test/big", 1, 5000)},
		{"bytes of a body", newAPILimits(0, 1000, 0, 0), []string{rpcBody("test/wait", 0, 600)}, nil, rpcBody("test/big", 1, 600)},
		{"bytes of an answer", newAPILimits(0, 1000, 0, 0), []string{rpcBody("test/wait", 0, 600)}, nil, rpcBody("test/big", 800, 0)},
		{"streams", newAPILimits(0, 0, 1, 0), []string{rpcBody("test/wait", 0, 0)}, []string{"Accept", "text/event-stream"}, rpcBody("test/big", 1, 0)},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, _ := limitedAPI(t, test.limits, nil)
				done := make(chan *httptest.ResponseRecorder, len(test.inFlight))
				for _, body := range test.inFlight {
					go func() { done <- askFrom(a, one, "POST", route, body, test.header...) }()
				}
				synctest.Wait()
				wantBusy(t, "the same caller", askFrom(a, "10.0.0.1:2000", "POST", route, test.body, test.header...))
				if w := askFrom(a, other, "POST", route, test.body, test.header...); w.Code != http.StatusOK {
					t.Errorf("another caller: got %d %s, want 200", w.Code, w.Body)
				}
				if w := askFrom(a, one, "GET", "/livez", ""); w.Code != http.StatusOK {
					t.Errorf("/livez: got %d %s, want 200: it is never refused", w.Code, w.Body)
				}
				for range test.inFlight {
					if w := <-done; w.Code != http.StatusOK {
						t.Errorf("in flight: got %d %s, want 200", w.Code, w.Body)
					}
				}
				if w := askFrom(a, one, "POST", route, test.body, test.header...); w.Code != http.StatusOK {
					t.Errorf("when nothing is in flight: got %d %s, want 200", w.Code, w.Body)
				}
				if len(test.limits.callers) != 0 {
					t.Errorf("got %v, want no caller kept", test.limits.callers)
				}
				var page metricsPage
				test.limits.writeMetrics(&page)
				limit, _, _ := strings.Cut(test.name, " ")
				if want := fmt.Sprintf("c4a_refused_requests_total{limit=%q} 1\n", "caller-"+strings.TrimSuffix(limit, ",")); !strings.Contains(page.text.String(), want) {
					t.Errorf("got the metrics\n%s\nwant %s", &page.text, want)
				}
			})
		})
	}
}

// What is no call gets a problem: other routes, and a call whose id is not known.
func TestCallerLimitsOfOtherRoutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limits := newAPILimits(1, 0, 0, 0)
		a, _ := limitedAPI(t, limits, nil)
		done := make(chan bool)
		go func() { askFrom(a, "10.0.0.1:1", "POST", "/machines/m/rpc", rpcBody("test/wait", 0, 0)); close(done) }()
		synctest.Wait()
		for _, r := range []struct{ method, target, body string }{
			{"GET", "/machines", ""}, {"POST", "/machines/m/mcp", `{}`}, {"POST", "/machines/m/rpc", `[]`}, {"POST", "/machines/m/rpc", ``}, {"POST", "/machines/m/rpc", `chunked`},
		} {
			w := askFrom(a, "10.0.0.1:2", r.method, r.target, r.body)
			checkProblem(t, w, 429, codeTooManyRequests)
			if w.Header().Get("Retry-After") != "1" {
				t.Errorf("%s %s: got the header %v, want Retry-After: 1", r.method, r.target, w.Header())
			}
		}
		<-done
	})
}

// A caller that repeats what was refused gets its refusals at a bounded rate.
func TestRefusalsArePaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := limitedAPI(t, newAPILimits(1, 0, 0, 0), nil)
		done := make(chan bool)
		go func() { askFrom(a, "10.0.0.1:1", "POST", "/machines/m/rpc", rpcBody("test/wait", 0, 0)); close(done) }()
		synctest.Wait()
		began := time.Now()
		for n := range refusedBurst + 2*refusedRate {
			if n == refusedBurst && time.Since(began) != 0 {
				t.Errorf("the first %d refusals: got them after %v, want them at once", n, time.Since(began))
			}
			wantBusy(t, "the same caller", askFrom(a, "10.0.0.1:2", "POST", "/machines/m/rpc", rpcBody("test/big", 1, 0)))
			if n == 2*refusedBurst {
				before := time.Now()
				if w := askFrom(a, "10.0.0.2:2", "POST", "/machines/m/rpc", rpcBody("test/big", 1, 0)); w.Code != http.StatusOK || time.Since(before) != 0 {
					t.Errorf("another caller: got %d after %v, want 200 at once", w.Code, time.Since(before))
				}
			}
		}
		if took := time.Since(began); took < 1900*time.Millisecond || took > 2100*time.Millisecond {
			t.Errorf("%d refusals: got them in %v, want 2 s", refusedBurst+2*refusedRate, took)
		}
		<-done
	})
}

// Requests without a valid token are refused at a bounded rate, all together; those
// with one do not wait.
func TestStrangersArePaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := limitedAPI(t, newAPILimits(0, 0, 0, 0), testTokens(t, "one read"))
		began := time.Now()
		for n := range refusedBurst + 2*refusedRate {
			if w := askFrom(a, fmt.Sprint("stranger", n), "GET", "/machines", ""); w.Code != http.StatusUnauthorized {
				t.Fatalf("got %d, want 401", w.Code)
			}
		}
		if took := time.Since(began); took < 1900*time.Millisecond || took > 2100*time.Millisecond {
			t.Errorf("%d refusals: got them in %v, want 2 s", refusedBurst+2*refusedRate, took)
		}
		began = time.Now()
		if w := askFrom(a, "ONE", "GET", "/machines", ""); w.Code != http.StatusOK || time.Since(began) != 0 {
			t.Errorf("with a token: got %d after %v, want 200 at once", w.Code, time.Since(began))
		}
	})
}

// A body whose length is not declared counts as it arrives; a batch counts each of
// its requests.
func TestCallerLimitsWhileReading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limits := newAPILimits(10, 2000, 0, 0)
		a, _ := limitedAPI(t, limits, nil)
		done := make(chan bool)
		go func() { askFrom(a, "10.0.0.1:1", "POST", "/machines/m/rpc", rpcBody("test/wait", 0, 600)); close(done) }()
		synctest.Wait()
		checkProblem(t, askFrom(a, "10.0.0.1:2", "POST", "/machines/m/rpc", "chunked"+strings.Repeat("x", 1600)), 429, codeTooManyRequests)
		if w := askFrom(a, "10.0.0.1:2", "POST", "/machines/m/rpc", "chunked"+strings.Repeat("x", 60)); w.Code != http.StatusBadRequest {
			t.Errorf("a short body: got %d %s, want 400", w.Code, w.Body)
		}
		ping := `{"jsonrpc":"2.0","id":1,"method":"ping"}`
		batch := func(n int) string { return "[" + strings.TrimSuffix(strings.Repeat(ping+",", n), ",") + "]" }
		checkProblem(t, askFrom(a, "10.0.0.1:2", "POST", "/machines/m/mcp", batch(10), "MCP-Protocol-Version", "2025-03-26"), 429, codeTooManyRequests)
		if w := askFrom(a, "10.0.0.1:2", "POST", "/machines/m/mcp", batch(9), "MCP-Protocol-Version", "2025-03-26"); w.Code != http.StatusOK {
			t.Errorf("a batch of 9 beside a request: got %d %s, want 200", w.Code, w.Body)
		}
		<-done
		if len(limits.callers) != 0 {
			t.Errorf("got %v, want no caller kept", limits.callers)
		}
	})
}

// A caller is its token, else its address; connections do not matter, for a proxy
// sends the requests of many callers by one.
func TestCallerIDs(t *testing.T) {
	t.Parallel()
	listed := &apiToken{name: "ci", caller: "token ci"}
	for _, test := range []struct {
		from  string
		token *apiToken
		want  string
	}{
		{"10.0.0.1:5", listed, "token ci"},
		{"10.0.0.1:5", unrestricted("api"), "10.0.0.1"},
		{"[::ffff:10.0.0.1]:5", nil, "10.0.0.1"},
		{"[2001:db8:1:2:3:4:5:6]:5", nil, "2001:db8:1:2::"},
		{"[fe80::1%eth0]:5", nil, "fe80::"},
		{"@", nil, ""}, {"", listed, "token ci"},
	} {
		if got := callerOfRequest(&http.Request{RemoteAddr: test.from}, test.token); got != test.want {
			t.Errorf("%s with %v: got %q, want %q", test.from, test.token, got, test.want)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		a, _ := limitedAPI(t, newAPILimits(1, 0, 0, 0), testTokens(t, "one call", "two call"))
		done := make(chan bool)
		go func() { askFrom(a, "ONE", "POST", "/machines/m/rpc", rpcBody("test/wait", 0, 0)); close(done) }()
		synctest.Wait()
		wantBusy(t, "one", askFrom(a, "ONE", "POST", "/machines/m/rpc", rpcBody("test/big", 1, 0)))
		if w := askFrom(a, "TWO", "POST", "/machines/m/rpc", rpcBody("test/big", 1, 0)); w.Code != http.StatusOK {
			t.Errorf("another token at the same address: got %d %s, want 200", w.Code, w.Body)
		}
		<-done
	})
}

// The streams of GET /events end for others of the same caller.
func TestEventStreamsOfACaller(t *testing.T) {
	t.Parallel()
	s := newEvents(nil)
	one, two := "one", "two"
	open := func(caller string, most int) *subscriber {
		sub, _ := s.subscribe(nil, caller, most)
		<-sub.wake
		return sub
	}
	ended := func(sub *subscriber) bool {
		select {
		case _, open := <-sub.wake:
			return !open
		default:
			return false
		}
	}
	quiet, first := open(two, 2), open(one, 2)
	second := open(one, 2)
	open(one, 2)
	if !ended(first) || ended(second) || ended(quiet) {
		t.Error("the third stream of a caller: want its first one ended, and no other")
	}
	for range 2 * maxSubscribers {
		open(one, 2)
	}
	if len(s.subscribers) != 3 || ended(quiet) {
		t.Errorf("got %d streams, that of another caller ended: %v, want 3 and false", len(s.subscribers), ended(quiet))
	}
}

// Handshakes over the limit are refused before the upgrade.
func TestHandshakeLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := limitedAPI(t, newAPILimits(0, 0, 0, 5), nil)
		dial := func() int { return askFrom(a, "127.0.0.1:1", "GET", linkPath, "").Code }
		for n := range 5 * handshakeBurst {
			if got := dial(); got != http.StatusUpgradeRequired {
				t.Fatalf("handshake %d: got %d, want 426: it passes the limit", n, got)
			}
		}
		w := askFrom(a, "127.0.0.1:1", "GET", linkPath, "")
		checkProblem(t, w, 429, codeTooManyRequests)
		if w.Header().Get("Retry-After") != "1" {
			t.Errorf("got the header %v, want Retry-After: 1", w.Header())
		}
		if w := askFrom(a, "127.0.0.1:1", "POST", "/machines/m/rpc", rpcBody("test/big", 1, 0)); w.Code != http.StatusOK {
			t.Errorf("a call: got %d %s, want 200", w.Code, w.Body)
		}
		time.Sleep(time.Second)
		for n := range 6 {
			if got, want := dial(), map[bool]int{true: 426, false: 429}[n < 5]; got != want {
				t.Errorf("handshake %d a second later: got %d, want %d", n, got, want)
			}
		}
	})
}

// The writer of a limited request passes everything on that net/http can do.
func TestCallerRequestPassesOn(t *testing.T) {
	t.Parallel()
	a := newAPI(apiConfig{events: newEvents(nil)})
	a.handle("GET /file", func(w http.ResponseWriter, _ *http.Request) {
		control := http.NewResponseController(w)
		if err := control.SetWriteDeadline(time.Now().Add(patience)); err != nil {
			t.Errorf("a deadline: got %v, want none", err)
		}
		n, err := io.Copy(w, strings.NewReader("abc"))
		if n != 3 || err != nil || control.Flush() != nil {
			t.Errorf("got %d bytes, %v, want 3, flushed", n, err)
		}
	})
	response, err := http.Get(newHTTPServer(t, a) + "/file")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if body, err := io.ReadAll(response.Body); err != nil || string(body) != "abc" {
		t.Errorf("got %q, %v, want abc", body, err)
	}
}
