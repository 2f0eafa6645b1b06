package main

import (
	"testing"
)

// Bindings can be read while one is written: the disk may be slow.
func TestLibrariesAreReadDuringAWrite(t *testing.T) {
	t.Parallel()
	l, err := openLibraries(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	l.writing <- struct{}{} // a write is under way
	written := make(chan error)
	go func() { written <- l.set("x", "m") }() // ends when it has its turn
	if id, ok := l.get("x"); ok {
		t.Errorf("got the binding %q, want none before it is written", id)
	}
	<-l.writing
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	if id, _ := l.get("x"); id != "m" {
		t.Errorf("got the binding %q, want m", id)
	}
}
