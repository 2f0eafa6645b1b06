package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Whatever setAuth creates in the work dir, temporary files too, has a name that
// every method denies.
func TestCredentialsTemporaryFileIsDenied(t *testing.T) {
	t.Parallel()
	w := newCloneWorld(t)
	watch, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		t.Skip("there is no inotify: ", err)
	}
	defer unix.Close(watch)
	if _, err := unix.InotifyAddWatch(watch, w.workDir, unix.IN_CREATE); err != nil {
		t.Fatal(err)
	}
	for _, token := range []string{`"first"`, `"second"`, `null`} {
		if _, err := w.cfg.credentials.setAuth(t.Context(), setAuthParams{Host: "h.example", Token: json.RawMessage(token)}); err != nil {
			t.Fatal(err)
		}
	}
	events := make([]byte, 64<<10)
	n, err := unix.Read(watch, events)
	if err != nil {
		t.Fatal(err)
	}
	created := 0
	for events = events[:n]; len(events) > 0; created++ {
		header := (*unix.InotifyEvent)(unsafe.Pointer(&events[0])) // inotify(7)
		end := unix.SizeofInotifyEvent + int(header.Len)
		name := string(bytes.TrimRight(events[unix.SizeofInotifyEvent:end], "\x00"))
		if events = events[end:]; !hasSecretName(name) {
			t.Errorf("setAuth creates %s, want a name that begins with %s", name, secretPrefix)
		}
		if _, err := w.cfg.access.resolvePath(name); asRPCError(err).name() != codeAccessDenied {
			t.Errorf("%s: error is %v, want %s", name, err, codeAccessDenied)
		}
	}
	if created < 3 {
		t.Errorf("%d files were created, want at least 3", created)
	}
}

// What a daemon leaves that is killed while it stores a token is removed by the
// next one.
func TestCredentialsTemporaryFileIsCleared(t *testing.T) {
	t.Parallel()
	w := newCloneWorld(t)
	w.stop()
	w.wait()
	left := []string{
		".git-daemon.credentials.tmp-123", ".git-daemon.config.tmp-456",
		"..git-daemon.credentials.tmp-789", "..git-daemon.config.tmp-012", // of an earlier version
	}
	for _, name := range left {
		writeFiles(t, w.workDir, map[string]string{name: "https://oauth2:s3cret@h\n"})
	}
	writeFiles(t, w.workDir, map[string]string{"credentials.tmp-1": "mine"})
	w.open()
	for _, name := range left {
		if _, err := os.Lstat(filepath.Join(w.workDir, name)); !os.IsNotExist(err) {
			t.Errorf("%s: error is %v, want that it is gone", name, err)
		}
	}
	if _, err := os.Lstat(filepath.Join(w.workDir, "credentials.tmp-1")); err != nil {
		t.Errorf("a file of the user's: %v, want it untouched", err)
	}
}
