package main

import (
	"log/slog"
	"path/filepath"
	"testing"
)

// Bindings can be read while one is written: the disk may be slow.
func TestLibrariesAreReadDuringAWrite(t *testing.T) {
	t.Parallel()
	l, err := openLibraries(filepath.Join(t.TempDir(), librariesFile), false, slog.Default())
	if err != nil {
		t.Fatal(err)
	}
	l.file.busy <- struct{}{} // a write is under way
	written := make(chan error)
	go func() { written <- l.set("x", "m") }() // ends when it has its turn
	if id, ok := l.get("x"); ok {
		t.Errorf("got the binding %q, want none before it is written", id)
	}
	<-l.file.busy
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	if id, _ := l.get("x"); id != "m" {
		t.Errorf("got the binding %q, want m", id)
	}
}

// A daemon's token is valid for its own machine id, until the daemon has ended or
// has got another one.
func TestChildTokens(t *testing.T) {
	var tokens childTokens
	first, other := tokens.issue("cloud_a"), tokens.issue("cloud_b")
	if a, b := tokens.machineFor(string(first)), tokens.machineFor(string(other)); a != "cloud_a" || b != "cloud_b" {
		t.Errorf("got the machines %q and %q, want cloud_a and cloud_b", a, b)
	}
	for _, token := range []string{"", "x", string(first)[1:], string(first) + "0"} {
		if got := tokens.machineFor(token); got != "" {
			t.Errorf("%q: got the machine %q, want none", token, got)
		}
	}
	second := tokens.issue("cloud_a")
	if old, got := tokens.machineFor(string(first)), tokens.machineFor(string(second)); old != "" || got != "cloud_a" || first == second {
		t.Errorf("after a new token: got %q for the old one and %q for the new one, want none and cloud_a", old, got)
	}
	tokens.revoke("cloud_a")
	if a, b := tokens.machineFor(string(second)), tokens.machineFor(string(other)); a != "" || b != "cloud_b" {
		t.Errorf("after the daemon's end: got %q and %q, want none and cloud_b", a, b)
	}
}

// A machine with several libraries is shown with the first by name, in whatever
// order they were bound, and a binding outlives the process.
func TestLibraryOfAMachine(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), librariesFile)
	l, err := openLibraries(path, false, slog.Default())
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"b", "a", "c"} {
		if err := l.set(id, "m"); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.set("other", "n"); err != nil {
		t.Fatal(err)
	}
	again, err := openLibraries(path, false, slog.Default())
	if err != nil {
		t.Fatal(err)
	}
	for name, l := range map[string]*libraries{"at once": l, "after a restart": again} {
		if got := l.of("m"); got != "a" {
			t.Errorf("%s: got the library %q, want a", name, got)
		}
		if got := l.of("cloud_x"); got != "x" {
			t.Errorf("%s: got the library %q of the pool's daemon, want x", name, got)
		}
		if got := l.of("unknown"); got != "" {
			t.Errorf("%s: got the library %q of an unknown machine, want none", name, got)
		}
	}
	if err := again.set("a", ""); err != nil {
		t.Fatal(err)
	}
	if got := again.of("m"); got != "b" {
		t.Errorf("after the first was freed: got the library %q, want b", got)
	}
}
