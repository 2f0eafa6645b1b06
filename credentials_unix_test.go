//go:build unix

package main

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Even with umask 0 the daemon's own files and their temporary files are
// accessible only by its user.
func TestCredentialsModes(t *testing.T) {
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	w := newCloneWorld(t)
	if info, err := os.Stat(w.workDir); err != nil || !info.IsDir() {
		t.Fatal(err)
	}
	set := func() {
		t.Helper()
		if _, err := w.cfg.credentials.setAuth(t.Context(), setAuthParams{Host: "h.example.org", Token: json.RawMessage(`"t0ken"`)}); err != nil {
			t.Fatal(err)
		}
	}
	set()
	// The second write replaces a file whose permissions were widened.
	path := filepath.Join(w.workDir, credentialsFileName)
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	set()
	seen := 0
	err := filepath.WalkDir(w.workDir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasPrefix(d.Name(), secretPrefix) {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode() != 0o600 {
			t.Errorf("%s has the mode %v, want 0600", path, info.Mode())
		}
		seen++
		return err
	})
	if err != nil || seen < 2 {
		t.Errorf("%d files, %v, want at least 2", seen, err)
	}
	// A temporary file that cannot be renamed, because a directory has its
	// name, is never accessible by other users and is removed.
	dir := filepath.Join(w.workDir, "taken")
	writeFiles(t, dir, map[string]string{"full": ""})
	if err := writeFileAtomic(dir, []byte("t0ken"), 0o600); err == nil {
		t.Error("a directory was replaced by a file, want an error")
	}
	left, err := filepath.Glob(filepath.Join(w.workDir, "*tmp*"))
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v, want nothing", left, err)
	}
}

// A pipe in place of a file of credentials is not waited for.
func TestCredentialsInPlaceOfAPipe(t *testing.T) {
	t.Parallel()
	w := newCloneWorld(t)
	if err := os.Remove(filepath.Join(w.workDir, credentialsFileName)); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	makeFIFO(t, filepath.Join(w.workDir, credentialsFileName))
	if _, err := w.cfg.credentials.list(); err == nil {
		t.Error("listing credentials from a pipe: got no error, want one")
	}
}

// A token file may be a pipe, as the shell makes for <(command), and an endless one
// does not fill the memory.
func TestTokenFileIsBounded(t *testing.T) {
	t.Parallel()
	p := &program{getenv: func(string) string { return "" }}
	pipe := filepath.Join(realTempDir(t), "pipe")
	makeFIFO(t, pipe)
	written := make(chan error, 1)
	go func() { written <- os.WriteFile(pipe, []byte("t0ken\n"), 0) }()
	if got, err := p.readSecret("token-file", pipe, "C4A_TOKEN"); err != nil || got != "t0ken" {
		t.Errorf("from a pipe: got %q, %v, want the token", string(got), err)
	}
	if err := <-written; err != nil {
		t.Error(err)
	}
	if _, err := p.readSecret("token-file", "/dev/zero", "C4A_TOKEN"); err == nil || !strings.Contains(err.Error(), "is larger than") {
		t.Errorf("from an endless file: got %v, want an error that says so", err)
	}
	if _, err := newLinkClient("/dev/zero", keyPair{}); err == nil || !strings.Contains(err.Error(), "is larger than") {
		t.Errorf("certificates from an endless file: got %v, want an error that says so", err)
	}
}
