//go:build linux || darwin

package main

import (
	"encoding/json"
	"net/http"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// jsonLines fails the test unless every line is a JSON object, and returns them.
func jsonLines(t *testing.T, text string) (lines []map[string]any) {
	t.Helper()
	for line := range strings.Lines(text) {
		var object map[string]any
		if err := json.Unmarshal([]byte(line), &object); err != nil {
			t.Errorf("got the line %q, want JSON", line)
		}
		lines = append(lines, object)
	}
	return lines
}

// TestJSONLog: with --log-format json every line is JSON, also before the flags are
// parsed; commands write for people.
func TestJSONLog(t *testing.T) {
	t.Parallel()
	skipShort(t, "starts programs")
	refusing := newHTTPServer(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusUnauthorized) }))
	for _, test := range []struct {
		name string
		env  []string
		args []string
		code int
		says string
	}{
		{daemonName, nil, []string{"--log-format", "json", "--servr", "h"}, 2, "did you mean --server?"},
		{daemonName, nil, []string{"--servr", "h", "-log-format=json"}, 2, "did you mean --server?"},
		{daemonName, []string{"C4A_LOG_FORMAT=json"}, nil, 2, "--server"},
		{daemonName, []string{"C4A_LOG_FORMAT=json", "C4A_SERVR=h"}, []string{"--server", refusing}, 4, "401"},
		{schedulerName, nil, []string{"--log-format=json", "--port", "1", "--workspace", filepath.Join(refusing, "none")}, 1, ""},
		{schedulerName, []string{"C4A_LOG_FORMAT=json"}, []string{"--max-daemons", "0"}, 2, "--max-daemons"},
	} {
		p := start(t, test.name, test.env, test.args...)
		if test.name == schedulerName && test.says == "" {
			p.cmd.Process.Signal(syscall.SIGTERM) // it may listen where the test is privileged
			p.exit()
		} else if code := p.exit(); code != test.code || !strings.Contains(p.stderr.String(), test.says) {
			t.Errorf("%s %q: exit %d, want %d and %q: %s", test.name, test.args, code, test.code, test.says, p.stderr)
		}
		for _, line := range jsonLines(t, p.stderr.String()) {
			if line["level"] == nil || line["msg"] == nil {
				t.Errorf("%s %q: got %v, want a level and a message", test.name, test.args, line)
			}
		}
	}
	p := start(t, schedulerName, []string{"C4A_LOG_FORMAT=json"}, "statsu")
	if p.exit(); strings.HasPrefix(p.stderr.String(), "{") {
		t.Errorf("a command says %q, want text for people", p.stderr)
	}
}

// TestWhatHappenedToMyClone: a clone has a line in the scheduler's log and in the
// daemon's, with the reason; SIGUSR1 adds a line for each request.
func TestWhatHappenedToMyClone(t *testing.T) {
	t.Parallel()
	skipShort(t, "starts programs")
	git := newGitServer(t)
	p, url := startSchedulerProcess(t, nil)
	callRPC(t, url+"/libraries/demo", "vcs/clone", `{"url":"`+git.address("none.git")+`","task_id":"my clone"}`)
	line := p.says(`msg="a clone ended"`)
	for _, want := range []string{"level=INFO", "method=vcs/clone", "machine_id=cloud_demo", "lib_id=demo", `task_id="my clone"`, "duration_ms=", "code=GIT_FAILED", "reason=not_found", "error="} {
		if !strings.Contains(line, want) {
			t.Errorf("the scheduler's log has %q, want %s in it", line, want)
		}
	}
	var log string
	awaitThat(t, "the reason in the daemon's log", func() bool { // lines are written in the background
		_, log = askHTTP(t, "GET", url+"/daemons/demo/log", "")
		return strings.Contains(log, "reason=not_found")
	})
	for line := range strings.Lines(log) {
		if strings.Count(line, " lib_id=demo") != 1 {
			t.Errorf("the daemon's log has %q, want lib_id=demo once in each line", line)
		}
	}
	_, page := askHTTP(t, "GET", url+"/metrics", "")
	metrics := metricsOf(t, page)
	for name, want := range map[string]float64{
		`c4a_clone_failures_total{reason="not_found"}`: 1, `c4a_requests_total{method="vcs/clone",code="GIT_FAILED"}`: 1,
		`c4a_request_duration_seconds_count{method="vcs/clone"}`: 1, `c4a_machines{status="online"}`: 1, `c4a_dropped_log_lines_total`: 0,
	} {
		if got, ok := metrics[name]; !ok || got != want {
			t.Errorf("%s is %v (there: %v), want %v", name, got, ok, want)
		}
	}
	if metrics["process_cpu_seconds_total"] <= 0 || runtime.GOOS == "linux" && (metrics["process_resident_memory_bytes"] < 1<<20 || metrics["c4a_daemon_resident_memory_bytes"] < 1<<20) {
		t.Errorf("got\n%s\nwant the memory and CPU of the processes", page)
	}
	p.signal(syscall.SIGUSR1)
	p.says(`msg="the log level was changed" level=debug`)
	callRPC(t, url+"/libraries/demo", "fs/stat", `{"path":"none"}`)
	line = p.says(`msg="a request ended" method=fs/stat`)
	if !strings.Contains(line, "code=OK") || !strings.Contains(line, "bytes=") {
		t.Errorf("the scheduler's log has %q, want code and bytes", line)
	}
	awaitThat(t, "the line in the daemon's log", func() bool {
		callRPC(t, url+"/libraries/demo", "fs/stat", `{"path":"none"}`)
		_, log = askHTTP(t, "GET", url+"/daemons/demo/log", "")
		return strings.Contains(log, `msg="a request ended"`) && strings.Contains(log, "method=fs/stat")
	})
	p.signal(syscall.SIGUSR1)
	p.says(`msg="the log level was changed" level=info`)
	daemon := start(t, daemonName, nil, "--server", strings.TrimPrefix(url, "http://"), "--allow", t.TempDir(), "--machine-id", "m")
	daemon.says("connected")
	daemon.signal(syscall.SIGUSR1)
	daemon.says(`level=debug`)

	second := start(t, daemonName, nil, "--server", strings.TrimPrefix(url, "http://"), "--allow", t.TempDir(), "--machine-id", "m")
	second.says("choose another --machine-id")
	busy := start(t, schedulerName, nil, "--port", url[strings.LastIndex(url, ":")+1:])
	if code := busy.exit(); code != 1 || !strings.Contains(busy.stderr.String(), "choose another --port") {
		t.Errorf("a second scheduler on the port: exit %d and %s, want 1 and advice", code, busy.stderr)
	}
}
