package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"sync"
	"sync/atomic"
)

// This file reads the frames of a link below the WebSocket library.

// errEarlyCompression reports a compressed message before the handshake was
// accepted.
var errEarlyCompression = errors.New("the other side sent a compressed message before the handshake was accepted")

// maxFrameHeader is the largest header of a frame (RFC 6455, section 5.2).
const maxFrameHeader = 14

// maxControlPayload is the largest payload of a control frame (RFC 6455, section
// 5.5).
const maxControlPayload = 125

// The first bytes of frames that are a whole message.
const (
	finalText  = 0x81
	finalClose = 0x88
	finalPing  = 0x89
	finalPong  = 0x8a
)

// partPrice is how many bytes a part of a message must have to be worth its header, on
// the average, and maxPaid what long parts pay for short ones behind them. The library
// writes a compressed message in parts of 4 and of some 235 bytes: what compress/flate
// writes at once, and its last bytes.
const (
	partPrice = 100
	maxPaid   = 1 << 10
)

// readBuffer is how much is read at once: some twenty short messages.
const readBuffer = 4 << 10

// frameGuard reads the frames of a connection and refuses compressed ones (RFC
// 7692, section 6: RSV1 is set) until it is opened. One call of Read returns bytes
// of one frame: the frame that follows the accepted handshake may be compressed,
// and the library must keep nothing that await would wait for.
type frameGuard struct {
	source  io.Reader
	late    *lateReader // the same source, read without memory of its own; nil if that is not possible
	buffers *sync.Pool  // of *[readBuffer]byte, shared with other links; nil for none
	server  bool        // this is the end of a server; it answers most pings itself
	link    *link       // nil before newLink
	open    atomic.Bool

	// turn guards the fields below: the library reads in the goroutine that closes,
	// too.
	turn   turn
	buffer []byte            // was read and not yet returned
	lent   *[readBuffer]byte // holds the buffer; nil if it is elsewhere
	left   uint64            // bytes of the current frame that were not yet returned
	paid   uint64            // bytes of parts of messages beyond partPrice, at most maxPaid
	err    error             // of the source, after the buffer

	// arrived counts what was read. Together with the number of messages that were
	// taken it says whether another is at hand.
	arrived frameCounter
}

// turn is a lock that goroutines wait for in a channel operation. A test with fake
// time (testing/synctest) knows then that they wait; a sync.Mutex is not meant to be
// held while a goroutine waits for the network.
type turn struct {
	goroutines atomic.Int32  // that have it or wait for it
	next       chan struct{} // 1-buffered: passes it on
}

func (t *turn) take() {
	if t.goroutines.Add(1) > 1 {
		<-t.next
	}
}

func (t *turn) pass() {
	if t.goroutines.Add(-1) > 0 {
		t.next <- struct{}{}
	}
}

// newFrameGuard returns a guard of a connection of which early was read already.
func newFrameGuard(source io.Reader, early []byte) *frameGuard {
	g := &frameGuard{source: source, turn: turn{next: make(chan struct{}, 1)}, buffer: bytes.Clone(early)}
	g.arrived.count(early)
	return g
}

// messages returns how many data messages were read to their end.
func (g *frameGuard) messages() int {
	g.turn.take()
	defer g.turn.pass()
	return g.arrived.messages
}

func (g *frameGuard) Read(p []byte) (int, error) {
	g.turn.take()
	defer g.turn.pass()
	if g.left == 0 {
		if err := g.nextFrame(); err != nil {
			return 0, err
		}
	}
	p = p[:min(uint64(len(p)), g.left)]
	if len(g.buffer) == 0 {
		if g.err != nil {
			return 0, g.err
		}
		if !g.open.Load() || len(p) >= readBuffer {
			var n int
			n, g.err = g.source.Read(p)
			g.came(p[:n])
			g.left -= uint64(n)
			return n, g.err
		}
		if g.fill(); len(g.buffer) == 0 {
			return 0, g.err
		}
	}
	n := copy(p, g.buffer)
	g.buffer = g.buffer[n:]
	g.left -= uint64(n)
	if len(g.buffer) == 0 {
		g.giveBack()
	}
	return n, nil
}

// await returns when a frame is at hand, or reading has failed. The library would
// wait, too, but in a deep stack: most of the memory of an idle link. A frame that is
// at hand as a whole, and is a message of at most limit bytes, is taken and returned:
// the library would take three times as long. For any other message is nil.
func (g *frameGuard) await(limit int) (message []byte) {
	g.turn.take()
	defer g.turn.pass()
	if g.left == 0 && g.nextFrame() != nil {
		return nil // Read returns the error
	}
	header, payload := frameSize(g.buffer)
	switch {
	case header == 0 || len(g.buffer) < header || g.left != uint64(header)+payload || payload > uint64(min(limit, len(g.buffer)-header)):
		return nil
	case g.buffer[0] != finalText || g.buffer[1]&0x80 != 0 != g.server || g.link.ending.Load():
		return nil // the library knows what to do
	}
	message = make([]byte, payload)
	rest := g.buffer[header+copy(message, g.buffer[header:]):]
	if g.server {
		maskBytes(message, message, binary.LittleEndian.Uint32(g.buffer[header-4:]))
	}
	if g.buffer, g.left = rest, 0; len(rest) == 0 {
		g.giveBack()
	}
	return message
}

// nextFrame reads the header of a frame into the buffer and checks it.
func (g *frameGuard) nextFrame() error {
	for {
		if size, payload := frameSize(g.buffer); size > 0 {
			if g.buffer[0]&0x40 != 0 && !g.open.Load() { // opened while this read waited
				return errEarlyCompression
			}
			g.left = uint64(size) + payload
			g.noteFrame(g.buffer[0], payload)
			return nil
		}
		switch {
		case g.err != nil:
			return g.err
		case g.open.Load() && len(g.buffer) == 0:
			g.fill()
		default:
			var n int
			more := make([]byte, maxFrameHeader)
			n, g.err = g.source.Read(more)
			g.arrived.count(more[:n])
			g.buffer = append(g.buffer, more[:n]...)
		}
	}
}

// fill reads into an empty buffer. A link that waits for data has none: a hub has
// thousands.
func (g *frameGuard) fill() {
	var n int
	if g.late != nil {
		n, g.err = g.late.read()
	} else {
		n, g.err = g.source.Read(g.borrow())
	}
	if n == 0 {
		return
	}
	g.buffer = g.lent[:n]
	g.came(g.buffer)
	if g.left == 0 && g.server && g.link != nil {
		g.answerPings()
	}
	if len(g.buffer) == 0 {
		g.giveBack()
	}
}

// came counts what was read. Any byte shows that the other side is there: a slow link
// takes longer for a frame than a ping may stay unanswered, and the pong waits behind
// that frame.
func (g *frameGuard) came(data []byte) {
	g.arrived.count(data)
	if g.link != nil && len(data) > 0 {
		g.link.noteRead()
	}
}

// answerPings takes the pings, and the pongs without a payload, that the buffer
// begins with. The library would do the same with several timers for each. It gets
// all other frames, those that break the protocol, too.
func (g *frameGuard) answerPings() {
	const header = 6 // with the mask of a client
	for len(g.buffer) >= header && g.buffer[1]&0x80 != 0 {
		size := int(g.buffer[1] & 0x7f)
		if size > maxControlPayload || len(g.buffer) < header+size {
			return
		}
		switch {
		case g.buffer[0] == finalPong && size == 0:
			g.link.noteRead()
		case g.buffer[0] == finalPing:
			var pong [maxControlPayload]byte
			for i, c := range g.buffer[header : header+size] {
				pong[i] = c ^ g.buffer[2+i%4]
			}
			if !g.link.sendControl(finalPong, pong[:size]) {
				return
			}
			g.noteFrame(finalPing, 0)
			g.link.noteRead()
		default:
			return
		}
		g.buffer = g.buffer[header+size:]
	}
}

// noteFrame tells the link of a control frame, and of a part of a message after the
// first if such parts are short: a flood of them is no message. A long message ends
// with a short part and an empty one, for which its first part has paid.
func (g *frameGuard) noteFrame(first byte, payload uint64) {
	const opcode, control = 0x0f, 0x08
	if first&control == 0 {
		g.paid = min(g.paid+min(payload, maxPaid), maxPaid)
		if first&opcode != 0 {
			return
		}
		if g.paid >= partPrice {
			g.paid -= partPrice
			return
		}
	}
	if g.link != nil && g.link.unasked != nil {
		g.link.unasked(0)
	}
}

// lender lends memory to a lateReader.
type lender interface {
	borrow() []byte
	giveBack()
}

// borrow returns memory for what is read next.
func (g *frameGuard) borrow() []byte {
	if g.lent == nil && g.buffers != nil {
		g.lent, _ = g.buffers.Get().(*[readBuffer]byte)
	}
	if g.lent == nil {
		g.lent = new([readBuffer]byte)
	}
	return g.lent[:]
}

// giveBack lends the memory to the next link that has something to read.
func (g *frameGuard) giveBack() {
	if g.lent == nil || g.buffers == nil || g.late == nil {
		return
	}
	g.buffers.Put(g.lent)
	g.lent, g.buffer = nil, nil
}

// maskBytes writes the bytes of from to to, which is as long or the same, masked or
// unmasked (RFC 6455, section 5.3). The key is that of the frame in little endian.
func maskBytes(to, from []byte, key uint32) {
	word := uint64(key)<<32 | uint64(key)
	const step = 64 // a file of 64 KiB takes a third of the time with steps of 8
	for len(from) >= step && len(to) >= step {
		f, t := (*[step]byte)(from), (*[step]byte)(to)
		binary.LittleEndian.PutUint64(t[0:], binary.LittleEndian.Uint64(f[0:])^word)
		binary.LittleEndian.PutUint64(t[8:], binary.LittleEndian.Uint64(f[8:])^word)
		binary.LittleEndian.PutUint64(t[16:], binary.LittleEndian.Uint64(f[16:])^word)
		binary.LittleEndian.PutUint64(t[24:], binary.LittleEndian.Uint64(f[24:])^word)
		binary.LittleEndian.PutUint64(t[32:], binary.LittleEndian.Uint64(f[32:])^word)
		binary.LittleEndian.PutUint64(t[40:], binary.LittleEndian.Uint64(f[40:])^word)
		binary.LittleEndian.PutUint64(t[48:], binary.LittleEndian.Uint64(f[48:])^word)
		binary.LittleEndian.PutUint64(t[56:], binary.LittleEndian.Uint64(f[56:])^word)
		to, from = to[step:], from[step:]
	}
	for len(from) >= 8 && len(to) >= 8 {
		binary.LittleEndian.PutUint64(to, binary.LittleEndian.Uint64(from)^word)
		to, from = to[8:], from[8:]
	}
	for i, c := range from {
		to[i] = c ^ byte(word>>(8*(i&3)))
	}
}

// frameSize returns the sizes of a frame's header and payload, 0 for a header
// that is not complete.
func frameSize(data []byte) (header int, payload uint64) {
	if len(data) < 2 {
		return 0, 0
	}
	header = 2
	if data[1]&0x80 != 0 {
		header += 4 // the mask
	}
	payload = uint64(data[1] & 0x7f)
	switch {
	case payload == 126 && len(data) >= 4:
		return header + 2, uint64(binary.BigEndian.Uint16(data[2:]))
	case payload == 127 && len(data) >= 10:
		return header + 8, binary.BigEndian.Uint64(data[2:])
	case payload >= 126:
		return 0, 0
	}
	return header, payload
}

// frameCounter finds the frames in a stream of bytes.
type frameCounter struct {
	messages int                  // data messages that have ended
	closed   bool                 // a close frame has begun
	header   [maxFrameHeader]byte // the part of a frame's header that has come
	headed   int                  // its length
	payload  uint64               // bytes of a payload that are to come
	last     bool                 // the frame ends a data message
}

// between reports whether the next byte begins a frame.
func (c *frameCounter) between() bool { return c.headed == 0 && c.payload == 0 }

// count takes the next bytes.
func (c *frameCounter) count(data []byte) {
	for len(data) > 0 {
		if c.payload > 0 {
			n := min(c.payload, uint64(len(data)))
			data = data[n:]
			c.payload -= n
		} else {
			c.header[c.headed] = data[0]
			c.headed++
			data = data[1:]
			size, payload := frameSize(c.header[:c.headed])
			if size == 0 || c.headed < size {
				continue
			}
			c.payload, c.last = payload, c.header[0]&0x88 == 0x80 // final, and no control frame
			c.closed = c.closed || c.header[0] == finalClose
			c.headed = 0
		}
		if c.payload == 0 && c.last {
			c.messages++
			c.last = false
		}
	}
}
