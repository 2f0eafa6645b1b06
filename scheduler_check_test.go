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
	broken := filepath.Join(dir, "broken.json")
	writeTestFile(t, broken, []byte(`{"a":1}`))
	bound := start(t, schedulerName, nil, "--check", "--port", "0", "--workspace", workspace, "--cluster", "--bindings", broken, "--peers", "http://10.0.0.2:5110")
	if code := bound.exit(); code != 1 || !strings.Contains(bound.stdout.String(), "FAIL bindings: "+broken) {
		t.Errorf("bindings that cannot be parsed: got exit %d and %s, want 1 and their path", code, bound.stdout)
	}
	peers := start(t, schedulerName, nil, "--check", "--port", "0", "--workspace", workspace, "--cluster", "--peers", "http://10.0.0.2:5110,10.0.0.3:5110")
	if code := peers.exit(); code != exitUsage || !strings.Contains(peers.stderr.String(), "URL 2 must be like http://10.0.0.2:5110") {
		t.Errorf("peers that are no URLs: got exit %d and %s, want %d and which", code, peers.stderr, exitUsage)
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

// The bindings are read as a scheduler would read them, and nothing is made.
func TestCheckBindings(t *testing.T) {
	t.Parallel()
	dir := realTempDir(t)
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		writeTestFile(t, path, []byte(text))
		return path
	}
	good, object, half := file("good", "{\"a\":\"laptop\"}\n{\"b\":\"desk\"}\n"), file("object", `{"a":1}`), file("half", `{"a":`)
	absent := filepath.Join(dir, "absent")
	for _, test := range []struct{ what, shared, own, want string }{
		{"a shared file", good, half, good + ", 2 libraries"},
		{"an own file", "", good, good + ", 2 libraries"},
		{"a shared file that is not there yet", absent, half, absent + " (it will be made)"},
		{"an own file that is not there yet", "", absent, ""},
		{"another form", object, "", "repair or remove it"},
		{"half a file", "", half, "repair or remove it"},
		{"a directory", dir, "", "not a regular file"},
		{"no directory", filepath.Join(dir, "gone", "f"), "", "must be in a directory that exists"},
	} {
		detail, err := checkBindings(test.shared, test.own)
		if got := fmt.Sprint(detail, err); err == nil && detail != test.want || err != nil && !strings.Contains(got, test.want) {
			t.Errorf("%s: got %q, %v, want %q", test.what, detail, err, test.want)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 3 {
		t.Errorf("got %d files, %v, want the 3 of before", len(entries), err)
	}
}
