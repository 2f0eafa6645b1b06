package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"testing/synctest"
)

// heldWriter blocks each write until it is released.
type heldWriter struct {
	release chan error
	mu      sync.Mutex
	writes  []string
}

func (w *heldWriter) Write(p []byte) (int, error) {
	text := string(p)
	err := <-w.release
	w.mu.Lock()
	defer w.mu.Unlock()
	w.writes = append(w.writes, text)
	return len(p), err
}

// TestGathererJoinsFrames: frames between hold and flush leave in one write, and a
// control frame that comes while a write is blocked does not wait for it: it
// leaves right after it.
func TestGathererJoinsFrames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &heldWriter{release: make(chan error)}
		g := newGatherer(w)
		g.hold()
		for _, frame := range []string{"one ", "two "} {
			if _, err := g.Write([]byte(frame)); err != nil {
				t.Fatal(err)
			}
		}
		flushed := make(chan error, 1)
		go func() { flushed <- g.flush() }()
		synctest.Wait()
		if _, err := g.Write([]byte("ping")); err != nil {
			t.Fatal(err)
		}
		select {
		case <-flushed:
			t.Error("flush returned before its write, want it to wait")
		default:
		}
		w.release <- nil
		w.release <- nil
		if err := <-flushed; err != nil {
			t.Error(err)
		}
		if got, want := fmt.Sprintf("%q", w.writes), `["one two " "ping"]`; got != want {
			t.Errorf("the writes were %s, want %s", got, want)
		}
	})
}

// TestGathererBoundsControls: control frames behind a blocked write do not grow
// without end.
func TestGathererBoundsControls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &heldWriter{release: make(chan error)}
		g := newGatherer(w)
		go func() {
			for {
				if _, err := g.Write(make([]byte, 1000)); err != nil {
					return
				}
			}
		}()
		go func() { _, _ = g.Write(make([]byte, 1000)) }()
		synctest.Wait()
		if n := g.waiting(); n > maxControls {
			t.Errorf("%d bytes wait behind a blocked write, want at most %d", n, maxControls)
		}
		w.release <- io.ErrClosedPipe
		synctest.Wait()
		if err := g.flush(); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("flush returned %v, want the error of the write", err)
		}
	})
}

// TestGathererFreesBuffers: each flush is one write, and an idle link keeps no buffer.
func TestGathererFreesBuffers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &heldWriter{release: make(chan error)}
		g := newGatherer(w)
		for _, size := range []int{10, maxGathered, 3 * maxGathered} {
			g.hold()
			if _, err := g.Write(bytes.Repeat([]byte("x"), size)); err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() { done <- g.flush() }()
			w.release <- nil
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if len(w.writes) != 3 {
			t.Errorf("%d writes, want 3", len(w.writes))
		}
		g.trim()
		g.trim()
		if g.spare != nil {
			t.Errorf("an idle link keeps a buffer of %d bytes, want none", cap(g.spare))
		}
	})
}
