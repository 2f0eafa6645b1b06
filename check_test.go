package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestCheckGit(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	for version, want := range map[string]string{
		"":                       "git was not found",
		"2.30.9":                 "git 2.30.9 is too old: install git 2.31 or newer",
		"1.99":                   "git 1.99 is too old",
		"2.31.0":                 "",
		"2.39.5 (Apple Git-154)": "",
		"2.45.windows.1":         "",
		"3.0.1":                  "",
		"unknown":                "",
	} {
		got := ""
		if err := checkGit(version); err != nil {
			got = err.Error()
		}
		if (want == "") != (got == "") || !strings.Contains(got, want) {
			t.Errorf("checkGit(%q) = %q, want %q", version, got, want)
		}
	}
}

func TestCheckTools(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if err := checkSSH(); err == nil || !strings.Contains(err.Error(), "install an ssh client") {
		t.Errorf("checkSSH() = %v, want what to install", err)
	}
}

func TestCheckWritable(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		dir:                           "",
		filepath.Join(dir, "a", "b"):  "",
		file:                          "not a directory",
		filepath.Join(file, "a", "b"): "not a directory",
	} {
		got := ""
		if err := checkWritable(path); err != nil {
			got = err.Error()
		}
		if (want == "") != (got == "") || !strings.Contains(got, want) {
			t.Errorf("checkWritable(%q) = %q, want %q", path, got, want)
		}
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) != 1 {
		t.Errorf("checkWritable left %v, %v, want nothing", names, err)
	}
}

// TestCheckClock: a clock that differs from the server's is a failure with advice.
func TestCheckClock(t *testing.T) {
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		server time.Time
		failed bool
		want   string
	}{
		{time.Time{}, false, ""},
		{now.Add(-30 * time.Second), false, "ok   clock: as the server's\n"},
		{now.Add(time.Hour), true, "FAIL clock: this machine's is 2026-11-26T12:00:00Z, the server's 2026-11-26T13:00:00Z: set the clock"},
		{now.Add(-time.Hour), true, "FAIL clock"},
	} {
		var text strings.Builder
		list := &checklist{w: &text}
		list.clock(test.server, now)
		if list.failed != test.failed || !strings.HasPrefix(text.String(), test.want) {
			t.Errorf("server at %v: got %q, failed %v, want %q, %v", test.server, text.String(), list.failed, test.want, test.failed)
		}
	}
}
