package main

import (
	"crypto/rand"
	"encoding/binary"
	"io"
	"math"
	"net"
	"slices"
	"sync"
	"time"
)

const (
	// maxGathered is how many bytes of frames are gathered before they are
	// written: with 64 KiB the system calls no longer matter.
	maxGathered = 64 << 10
	// maxDirect bounds a long message that is written without the writer: a file of 64
	// KiB has about 70 in JSON. What the kernel does not take is left for one write,
	// which must not take longer than linkTimes.piece.
	maxDirect = 96 << 10
	// minPart is the smallest part of a message that is made to fill a write.
	minPart = 4 << 10
	// maxControls bounds what other goroutines may add to the frames that wait
	// while a write is blocked. A control frame has at most 125 bytes.
	maxControls = maxGathered + maxFrame
	// maskKeys is how many keys of masks are drawn at once: the call takes longer than
	// a short message.
	maskKeys = 32
)

// gatherer collects the frames of a connection, so that many of them leave in
// one system call. It stands below the WebSocket library, which writes each
// frame by itself and a long one in pieces of 4 KiB, and above TLS. The frames of
// messages that are not compressed do not come from the library, which would copy
// them three times.
//
// The goroutine that writes messages calls hold, writes some frames and calls
// flush. Other goroutines write control frames at any time. The library holds a
// lock of its own during each write, so a write must not wait for the network:
// the frame joins those that the current writer sends.
type gatherer struct {
	conn  io.Writer
	piece time.Duration // limit for one write; 0 before watch
	late  *time.Timer   // calls slow when a write has lasted that long; nil before the first that may
	slow  func()

	server bool // sends control frames by tryControl

	// direct writes what conn takes without waiting; nil if that is not possible.
	direct func([]byte) (int, error)

	mu      sync.Mutex   // guards the fields below; not held while conn is written
	sent    frameCounter // what the library has written
	keys    []byte       // for the masks of the next frames of a client
	changed sync.Cond    // broadcast when a write has ended
	frames  []byte       // what waits to be written
	spare   []byte       // the buffer of the last write, for reuse
	used    bool         // something was written since the last trim
	held    bool         // frames wait for flush
	busy    bool         // a goroutine writes to conn
	err     error        // of a write; final
}

func newGatherer(conn io.Writer) *gatherer {
	g := &gatherer{conn: conn}
	g.changed.L = &g.mu
	return g
}

// watch makes slow be called when a write takes longer than piece.
func (g *gatherer) watch(piece time.Duration, slow func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.piece, g.slow = piece, slow
}

// Write adds bytes of the library to the frames that wait. If nobody writes
// them soon, it does so itself.
func (g *gatherer) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.busy && len(g.frames)+len(p) > maxControls && g.err == nil {
		g.changed.Wait() // the other side sends pings and takes no pong
	}
	if g.err != nil {
		return 0, g.err
	}
	g.frames = append(g.frames, p...)
	g.sent.count(p)
	if !g.held && !g.busy {
		g.drainLocked()
	}
	return len(p), g.err
}

// addFrame adds a frame of a message to the frames that wait for flush, between two of
// the library. first is its first byte (RFC 6455, section 5.2).
func (g *gatherer) addFrame(first byte, payload []byte) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.err != nil:
		return g.err
	case g.sent.closed:
		return net.ErrClosed
	}
	header, size := [maxFrameHeader]byte{first, byte(len(payload))}, 2
	switch n := len(payload); {
	case n > math.MaxUint16:
		header[1], size = 127, 10
		binary.BigEndian.PutUint64(header[2:], uint64(n))
	case n > 125:
		header[1], size = 126, 4
		binary.BigEndian.PutUint16(header[2:], uint16(n))
	}
	key := uint32(0) // of a server: leaves the payload as it is
	if !g.server {
		if len(g.keys) == 0 {
			g.keys = make([]byte, 4*maskKeys)
			_, _ = rand.Read(g.keys) // never fails
		}
		key = binary.LittleEndian.Uint32(g.keys)
		header[1] |= 0x80
		size += copy(header[size:], g.keys[:4])
		g.keys = g.keys[4:]
	}
	g.frames = append(g.frames, header[:size]...)
	begin := len(g.frames)
	g.frames = slices.Grow(g.frames, len(payload))[:begin+len(payload)]
	maskBytes(g.frames[begin:], payload, key)
	return nil
}

// hold makes frames wait for flush.
func (g *gatherer) hold() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.held = true
}

// tryHold is hold for a goroutine that must not wait: it returns false if a write is
// blocked, behind which the library would make it wait.
func (g *gatherer) tryHold() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.busy || g.err != nil || g.direct == nil {
		return false
	}
	g.held = true
	return true
}

// waiting returns the number of bytes that wait.
func (g *gatherer) waiting() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.frames)
}

// flush writes all frames that wait, and ends hold. It returns when they were
// written.
func (g *gatherer) flush() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.held = false
	for g.busy && g.err == nil {
		g.changed.Wait()
	}
	if g.err == nil {
		g.drainLocked()
	}
	return g.err
}

// tryFlush is flush for a goroutine that must not wait. It returns false if
// frames are left: flush writes them.
func (g *gatherer) tryFlush() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.held = false
	if g.busy || g.err != nil || g.direct == nil {
		return false
	}
	g.directLocked()
	return g.err == nil && len(g.frames) == 0
}

// tryControl writes a control frame of a server, whose first byte is given, if
// nothing else is being written. complete reports whether the connection took all of
// it at once; flush must write the rest.
func (g *gatherer) tryControl(first byte, payload []byte) (written, complete bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.server || g.held || g.busy || g.err != nil || g.direct == nil || len(g.frames) > 0 || !g.sent.between() {
		return false, false
	}
	g.frames = append(append(g.frames, first, byte(len(payload))), payload...)
	g.directLocked()
	return true, g.err == nil && len(g.frames) == 0
}

// directLocked writes what the connection takes without waiting.
func (g *gatherer) directLocked() {
	g.busy, g.used = true, true
	out := g.frames
	g.frames, g.spare = g.spare[:0], nil
	g.mu.Unlock()
	n, err := g.direct(out)
	g.mu.Lock()
	g.busy, g.err = false, err
	if n == len(out) {
		g.spare = out
	} else {
		g.frames = append(out[n:], g.frames...) // others may have added to them
	}
	g.changed.Broadcast()
}

// drainLocked writes until no frames wait.
func (g *gatherer) drainLocked() {
	g.busy = true
	for len(g.frames) > 0 && g.err == nil {
		out := g.frames
		g.frames, g.spare, g.used = g.spare[:0], nil, true
		switch {
		case g.late != nil:
			g.late.Reset(g.piece)
		case g.piece > 0:
			g.late = time.AfterFunc(g.piece, g.slow)
		}
		g.mu.Unlock()
		_, err := g.conn.Write(out)
		g.mu.Lock()
		if g.late != nil {
			g.late.Stop()
		}
		g.spare, g.err = out, err
		g.changed.Broadcast()
	}
	g.busy = false
	g.changed.Broadcast()
}

// awaitWritten waits until the frames that wait were written, such as a close
// frame, but not longer than limit.
func (g *gatherer) awaitWritten(limit time.Duration) {
	late := false
	timer := time.AfterFunc(limit, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		late = true
		g.changed.Broadcast()
	})
	defer timer.Stop()
	g.mu.Lock()
	defer g.mu.Unlock()
	for (g.busy || len(g.frames) > 0) && g.err == nil && !late {
		g.changed.Wait()
	}
}

// trim frees large buffers if nothing was written since the last call: a hub
// has thousands of idle links.
func (g *gatherer) trim() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.used && !g.busy && len(g.frames) == 0 {
		g.frames, g.spare = nil, nil
	}
	g.used = false
}
