package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"
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

// TestFramesFillWrites: the parts of long messages fill each write, and none is sent
// behind a close frame.
func TestFramesFillWrites(t *testing.T) {
	t.Parallel()
	var sizes []int
	l := &link{began: time.Now(), gather: newGatherer(writerFunc(func(p []byte) (int, error) {
		sizes = append(sizes, len(p))
		return len(p), nil
	}))}
	const messages, length = 10, maxFrame + maxFrame/10
	for range messages {
		if err := l.writeMessage(make([]byte, length)); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.flush(); err != nil {
		t.Fatal(err)
	}
	for i, size := range sizes {
		if size > maxGathered+maxFrameHeader || size < maxGathered-minPart && i < len(sizes)-1 {
			t.Errorf("got writes of %d bytes, want all but the last of about %d", sizes, maxGathered)
			break
		}
	}
	l.gather.hold()
	if _, err := l.gather.Write([]byte{finalClose, 0x80, 0, 0, 0, 0}); err != nil {
		t.Fatal(err)
	}
	if err := l.writeMessage([]byte("{}")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a message behind a close frame: got %v, want %v", err, net.ErrClosed)
	}
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

// TestGathererDoesNotWaitBehindABlockedWrite: what a goroutine may not wait for, it
// leaves to the writer; control frames of a server go between frames only.
func TestGathererDoesNotWaitBehindABlockedWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &heldWriter{release: make(chan error)}
		g := newGatherer(w)
		g.server = true
		var direct []string
		g.direct = func(p []byte) (int, error) { direct = append(direct, string(p)); return len(p), nil }
		if sent, complete := g.tryControl(finalPing, []byte("a")); !sent || !complete {
			t.Errorf("idle: got a ping sent %v, complete %v, want both", sent, complete)
		}
		wrote := make(chan error, 1)
		go func() { _, err := g.Write([]byte("\x81\x02x")); wrote <- err }() // a frame without its last byte
		synctest.Wait()
		if g.tryHold() {
			t.Error("a blocked write: got the gatherer held, want false")
		}
		if sent, _ := g.tryControl(finalPing, nil); sent {
			t.Error("a blocked write: got a ping sent, want false")
		}
		w.release <- nil
		if err := <-wrote; err != nil {
			t.Error(err)
		}
		if sent, _ := g.tryControl(finalPing, nil); sent {
			t.Error("within a frame: got a ping sent, want false")
		}
		if !g.tryHold() {
			t.Error("idle: got false, want the gatherer held")
		}
		if _, err := g.Write([]byte("y")); err != nil || !g.tryFlush() {
			t.Errorf("got %v, want the rest of the frame written at once", err)
		}
		if sent, complete := g.tryControl(finalPong, nil); !sent || !complete {
			t.Errorf("after the frame: got a pong sent %v, complete %v, want both", sent, complete)
		}
		if got, want := fmt.Sprintf("%q %q", w.writes, direct), `["\x81\x02x"] ["\x89\x01a" "y" "\x8a\x00"]`; got != want {
			t.Errorf("got the writes %s, want %s", got, want)
		}
		g.direct = func(p []byte) (int, error) { return 1, nil }
		if sent, complete := g.tryControl(finalPing, nil); !sent || complete {
			t.Errorf("a full socket: got a ping sent %v, complete %v, want the rest left for flush", sent, complete)
		}
		go func() { w.release <- nil }()
		if err := g.flush(); err != nil || w.writes[1] != "\x00" {
			t.Errorf("got %v and %q, want the rest flushed", err, w.writes)
		}
	})
}
