//go:build linux || darwin

package main

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The scheduler's --check names what is wrong, and changes nothing.
func TestCheckScheduler(t *testing.T) {
	t.Parallel()
	dir := realTempDir(t)
	workspace := filepath.Join(dir, "new", "workspace")
	p := start(t, schedulerName, nil, "--check", "--port", "0", "--workspace", workspace, "--allow", dir)
	if code := p.exit(); code != 0 || strings.Count(p.stdout.String(), "ok ") != 6 {
		t.Errorf("exit %d: %s%s, want 0 and six results", code, p.stdout, p.stderr)
	}
	if _, err := os.Stat(filepath.Dir(workspace)); err == nil {
		t.Error("--check created the workspace, want that it changes nothing")
	}

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	go func() { // ends with the listener
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_ = conn.Close()
		}
	}()
	defer l.Close()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("#!/bin/sh\necho something else\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	p = start(t, schedulerName, []string{"PATH=" + dir}, "--check", "--port", port, "--workspace", file, "--daemon-bin", file, "--server", "ws://127.0.0.1:"+port)
	code := p.exit()
	elsewhere := start(t, schedulerName, []string{"C4A_API_TOKEN=x"}, "--check", "--host", "192.0.2.1", "--workspace", workspace)
	if code := elsewhere.exit(); code != 1 || !strings.Contains(elsewhere.stdout.String(), "must be an address of this machine") {
		t.Errorf("an address of no machine: got exit %d and %s, want 1 and what to do", code, elsewhere.stdout)
	}
	gone := start(t, schedulerName, []string{"TMPDIR=" + filepath.Join(dir, "gone")}, "--check", "--port", "0", "--workspace", workspace)
	if code := gone.exit(); code != 0 || !strings.Contains(gone.stdout.String(), "note temporary files: ") {
		t.Errorf("TMPDIR is missing: got exit %d and %s, want 0 and a note: the daemons use their work dirs", code, gone.stdout)
	}
	pair := newTestCA(t).issue("late", expired).write(t.TempDir())
	late := start(t, schedulerName, nil, "--check", "--port", "0", "--workspace", workspace, "--tls-cert", pair.certFile, "--tls-key", pair.keyFile)
	if code := late.exit(); code != 1 || !strings.Contains(late.stdout.String(), "FAIL certificate of --tls-cert: valid from ") {
		t.Errorf("an expired certificate: got exit %d and %s, want 1 and until when it was valid", code, late.stdout)
	}
	for _, want := range []string{
		"FAIL address: ", "choose another --port", "FAIL workspace: ", "not a directory", "FAIL git: git was not found", "note ssh was not found",
		"FAIL daemon program: ", "check --daemon-bin", "FAIL server: ",
	} {
		if code != 1 || !strings.Contains(p.stdout.String(), want) {
			t.Errorf("exit %d: %s%s, want 1 and %q", code, p.stdout, p.stderr, want)
		}
	}

	// Another program that answers GET /health with 200 is not a scheduler.
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") }))
	defer page.Close()
	_, port, _ = strings.Cut(strings.TrimPrefix(page.URL, "http://"), ":")
	p = start(t, schedulerName, nil, "--check", "--port", port, "--workspace", dir)
	if code := p.exit(); code != 1 || !strings.Contains(p.stdout.String(), "choose another --port") {
		t.Errorf("exit %d: %s%s, want 1 and to choose another port", code, p.stdout, p.stderr)
	}
	p = start(t, schedulerName, nil, "--healthcheck", "--port", port)
	if code := p.exit(); code != 1 || !strings.Contains(p.stderr.String(), "another program answers") {
		t.Errorf("exit %d: %s, want 1 and that another program answers", code, p.stderr)
	}

	// A scheduler that runs there already is no failure.
	running, url := startSchedulerProcess(t, nil)
	_, port, _ = strings.Cut(strings.TrimPrefix(url, "http://"), ":")
	p = start(t, schedulerName, nil, "--check", "--port", port, "--workspace", dir, "--min-free-disk", "0")
	if code := p.exit(); code != 0 || !strings.Contains(p.stdout.String(), "(a scheduler is running there)") {
		t.Errorf("exit %d: %s%s, want 0 and that a scheduler is running; it said %s", code, p.stdout, p.stderr, running.stderr)
	}
}
