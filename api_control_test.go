//go:build linux || darwin

package main

import (
	"bufio"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestControlRoutes: log, stop, activity and log level of a scheduler with real
// daemons.
func TestControlRoutes(t *testing.T) {
	t.Parallel()
	s := newExampleScheduler(t)
	url := s.url()
	check := func(method, path, body string, status int, wants ...string) string {
		t.Helper()
		got, text := askHTTP(t, method, url+path, body)
		if got != status {
			t.Errorf("%s %s: got status %d and %s, want %d", method, path, got, text, status)
		}
		for _, want := range wants {
			if !strings.Contains(text, want) {
				t.Errorf("%s %s: got %s, want %q in it", method, path, text, want)
			}
		}
		return text
	}
	check("GET", "/daemons/demo/log", "", 404, `"NOT_FOUND"`)
	check("GET", "/daemons/..%2Fx/log", "", 400, `"INVALID_LIB_ID"`)
	check("POST", "/daemons/demo/stop", "", 404, `"NOT_FOUND"`)
	check("POST", "/daemons/-x/stop", "", 400, `"INVALID_LIB_ID"`)
	check("PUT", "/daemons/demo", "", 201)
	check("GET", "/daemons/demo/log", "", 200, "machine_id=cloud_demo")
	check("GET", "/daemons/demo/log?bytes=-1", "", 400, "bytes must be")
	check("GET", "/daemons/demo/log?follow=maybe", "", 400, "follow must be")

	// What is added to the log follows, also after the log was cut.
	response, err := http.Get(url + "/daemons/demo/log?bytes=0&follow=1")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	lines := bufio.NewScanner(response.Body)
	log := filepath.Join(s.pool.workspace, "demo", logFileName)
	add := func(text string) {
		t.Helper()
		f, err := os.OpenFile(log, os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
	}
	next := func(want string) {
		t.Helper()
		for lines.Scan() {
			if lines.Text() == want {
				return
			}
			if lines.Text() == "second" {
				t.Error("the log that was cut was sent again")
			}
		}
		t.Fatalf("the log ended (%v), want %q", lines.Err(), want)
	}
	add("first\n")
	next("first")
	if err := os.Truncate(log, 0); err != nil {
		t.Fatal(err)
	}
	add("second\n")
	next("second")
	if err := os.WriteFile(log, []byte("second\n"), 0o600); err != nil { // cut, with its last line kept
		t.Fatal(err)
	}
	add("third\n")
	next("third")

	check("GET", "/log-level", "", 200, `{"level":"info"}`)
	check("PUT", "/log-level", `{"level":"loud"}`, 400, "must be debug")
	check("PUT", "/log-level", `{"level":"debug"}`, 200, `{"level":"debug"}`)
	check("GET", "/log-level", "", 200, `{"level":"debug"}`)
	awaitThat(t, "a debug line of the pool's daemon", func() bool {
		callRPC(t, url+"/libraries/demo", "fs/stat", `{"path":"/"}`)
		_, text := askHTTP(t, "GET", url+"/daemons/demo/log", "")
		return strings.Contains(text, "level=DEBUG")
	})

	callRPC(t, url+"/libraries/demo", "fs/stat", `{"path":"/etc","task_id":"x\u202e\u001b"}`)
	text := check("GET", "/activity", "", 200, `"requests":[]`, `"code":"SOURCE_ACCESS_DENIED"`, `"lib_id":"demo"`, `"machine_id":"cloud_demo"`, `"method":"fs/stat"`, `"task_id":"x"`)
	if failures := field[[]failedRequest](t, []byte(text), "failures"); len(failures) != 1 && len(failures) > 50 {
		t.Errorf("got %d failures, want one", len(failures))
	}
	_, entry := askHTTP(t, "GET", url+"/daemons/demo", "")
	if err := syscall.Kill(field[int](t, []byte(entry), "pid"), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	awaitThat(t, "the daemon's death", func() bool {
		_, text := askHTTP(t, "GET", url+"/activity", "")
		return strings.Contains(text, `"code":"DAEMON_DIED"`)
	})
	check("PUT", "/daemons/demo", "", 201)
	check("POST", "/daemons/demo/stop", "", 204)
	check("GET", "/daemons/demo", "", 404)
	check("GET", "/daemons/demo/log", "", 200, "cloud_demo")
	check("DELETE", "/daemons/demo", "", 204)
	check("GET", "/daemons/demo/log", "", 404)
}

// TestRequestLog: what is kept is bounded in number, age and size.
func TestRequestLog(t *testing.T) {
	l, now := newRequestLog(), time.Now()
	for range 2 * maxActivity {
		l.failed(failedRequest{At: now, Message: strings.Repeat("x\x1b", maxMessageKept)})
	}
	v := l.view(now)
	if len(v.Failures) != maxActivity || len(v.Failures[0].Message) > maxMessageKept || strings.Contains(v.Failures[0].Message, "\x1b") {
		t.Errorf("got %d failures with %d bytes, want %d with at most %d", len(v.Failures), len(v.Failures[0].Message), maxActivity, maxMessageKept)
	}
	if got := len(l.view(now.Add(failureAge + time.Second)).Failures); got != 0 {
		t.Errorf("after an hour: got %d failures, want none", got)
	}
	l.failed(failedRequest{At: now})
	if got := len(l.view(now.Add(-2 * failureAge)).Failures); got != 0 {
		t.Errorf("after the clock was set back: got %d failures, want none", got)
	}
	for n := range maxActivity + 5 {
		l.begin(&call{taskID: "t", began: now.Add(time.Duration(n))})
	}
	if v := l.view(now); len(v.Requests) != maxActivity || l.count() != maxActivity+5 {
		t.Errorf("got %d of %d requests, want %d of %d", len(v.Requests), l.count(), maxActivity, maxActivity+5)
	}
}

// TestDrain: a scheduler that drains takes no work, finishes what runs and ends.
func TestDrain(t *testing.T) {
	t.Parallel()
	skipShort(t, "starts programs")
	p, url := startSchedulerProcess(t, nil)
	askHTTP(t, "PUT", url+"/daemons/demo", "")
	if status, text := askHTTP(t, "POST", url+"/drain", ""); status != 202 || !strings.Contains(text, "draining") {
		t.Errorf("POST /drain: got status %d and %s, want 202", status, text)
	}
	if code := p.exit(); code != 0 || !strings.Contains(p.stderr.String(), "drained: nothing runs any more") {
		t.Errorf("exit %d, want 0: %s", code, p.stderr)
	}

	s := newExampleScheduler(t)
	c := &call{}
	s.requests.begin(c) // it is not idle
	for _, test := range []struct {
		method, path string
		status       int
	}{
		{"POST", "/drain", 202}, {"POST", "/drain", 202}, {"GET", "/readyz", 503}, {"GET", "/livez", 200}, {"PUT", "/daemons/x", 503}, {"POST", "/daemons", 503},
		{"POST", "/libraries/x/rpc", 503}, {"POST", "/machines/x/rpc", 503}, {"GET", "/ws/daemon", 503}, {"GET", "/daemons", 200},
	} {
		status, text := askHTTP(t, test.method, s.url()+test.path, "")
		if status != test.status || status == 503 && test.path != "/readyz" && !strings.Contains(text, `"DRAINING"`) {
			t.Errorf("%s %s: got status %d and %s, want %d", test.method, test.path, status, text, test.status)
		}
	}
	s.requests.end(c)
	select {
	case <-s.idle:
	case <-time.After(patience):
		t.Errorf("it is not idle after %v, want it to be", patience)
	}
}
