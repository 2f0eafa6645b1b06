//go:build linux || darwin

package main

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// This file gives a real scheduler what it cannot work with: each time there is
// a clear error, in the API and in the log, and nothing else is harmed.

// badWorkspace starts a scheduler in a directory that it cannot have.
func badWorkspace(t *testing.T, dir string, says ...string) {
	t.Helper()
	p := start(t, schedulerName, nil, "--port", "0", "--workspace", dir)
	code := p.exit()
	for _, text := range says {
		if !strings.Contains(p.stderr.String(), text) {
			t.Errorf("standard error: got %s, want %q in it", p.stderr, text)
		}
	}
	if code != exitFailure || strings.Count(p.stderr.String(), "\n") != 1 || p.stdout.String() != "" {
		t.Errorf("got exit %d: %s%s, want %d and one line of standard error", code, p.stdout, p.stderr, exitFailure)
	}
}

func TestFaultWorkspaceIsAFile(t *testing.T) {
	t.Parallel()
	file := filepath.Join(realTempDir(t), "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	badWorkspace(t, file, file, "not a directory")
	badWorkspace(t, filepath.Join(file, "below"), file, "not a directory")
	if data, err := os.ReadFile(file); string(data) != "precious" {
		t.Errorf("the file: got %q, %v, want it untouched", data, err)
	}
	lock := filepath.Join(realTempDir(t), lockFileName)
	if err := os.Mkdir(lock, 0o700); err != nil {
		t.Fatal(err)
	}
	badWorkspace(t, filepath.Dir(lock), filepath.Dir(lock), "is a directory")
}

// The bindings are a regular file, or none: a pipe would be waited for, and a
// device has no end.
func TestFaultLibrariesAreNoFile(t *testing.T) {
	skipShort(t, "it takes about a second")
	t.Parallel()
	for _, make := range []func(path string) error{
		func(path string) error { return syscall.Mkfifo(path, 0o600) },
		func(path string) error { return os.Mkdir(path, 0o700) },
		func(path string) error { return os.Symlink("/dev/zero", path) },
		func(path string) error { return os.Truncate(path, maxBindingsFile+1) },
		func(path string) error { return os.WriteFile(path, []byte(`{"a":1}`), 0o600) },
	} {
		dir := realTempDir(t)
		path := filepath.Join(dir, librariesFile)
		if err := make(path); errors.Is(err, os.ErrNotExist) {
			err = errors.Join(os.WriteFile(path, nil, 0o600), make(path))
			if err != nil {
				t.Fatal(err)
			}
		} else if err != nil {
			t.Fatal(err)
		}
		badWorkspace(t, dir, path)
	}
}

// The workspace is moved away while the scheduler runs: it says so, and works
// again once it is back.
func TestFaultWorkspaceMoved(t *testing.T) {
	t.Parallel()
	h := openHouse(t, realTempDir(t))
	away := h.workspace + "-away"
	if err := os.Rename(h.workspace, away); err != nil {
		t.Fatal(err)
	}
	h.want(http.StatusServiceUnavailable, http.MethodGet, "/readyz", "", "degraded")
	if err := os.Mkdir(h.workspace, 0o700); err != nil {
		t.Fatal(err)
	}
	h.want(http.StatusServiceUnavailable, http.MethodGet, "/readyz", "", "degraded")
	h.wantHealth(http.StatusServiceUnavailable)
	h.says("another directory has taken the place")
	if err := errors.Join(os.Remove(h.workspace), os.Rename(away, h.workspace)); err != nil {
		t.Fatal(err)
	}
	h.want(http.StatusOK, http.MethodGet, "/readyz", "")
	h.ensure("x")
	h.wantNothingLeft()
}

// A library's directory is deleted under its daemon: DELETE ends the daemon.
func TestFaultWorkDirDeleted(t *testing.T) {
	t.Parallel()
	h := openHouse(t, realTempDir(t))
	pid := h.ensure("x")
	if err := os.RemoveAll(filepath.Join(h.workspace, "x")); err != nil {
		t.Fatal(err)
	}
	h.want(http.StatusNoContent, http.MethodDelete, "/daemons/x", "")
	if alive(t, pid) {
		t.Error("the daemon lives, want it ended")
	}
	h.want(http.StatusNotFound, http.MethodDelete, "/daemons/x", "")
	h.ensure("x")
	h.wantNothingLeft()
}

// What stands in the way of one library's directory is no other's problem.
func TestFaultWorkDirIsAFile(t *testing.T) {
	t.Parallel()
	h := openHouse(t, realTempDir(t))
	good := h.ensure("good")
	file := filepath.Join(h.workspace, "x")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	h.want(http.StatusServiceUnavailable, http.MethodPut, "/daemons/x", "", string(codeAutoStartFailed), file+" is not a directory")
	if data, err := os.ReadFile(file); string(data) != "precious" {
		t.Errorf("the file: got %q, %v, want it untouched", data, err)
	}
	h.want(http.StatusNoContent, http.MethodDelete, "/daemons/x", "")
	h.ensure("x")
	if h.ensure("good") != good {
		t.Error("the daemon beside it was ended, want it untouched")
	}
	h.wantNothingLeft()
}
