package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
)

const (
	// defaultMaxMessage is the default of --max-message, the size limit of a
	// message in either direction.
	defaultMaxMessage = 16 << 20
	// maxFrame is the frame size of a long message. Control frames can be sent
	// between two frames of a message (RFC 6455, section 5.4), so a ping or
	// pong does not wait for the whole message.
	maxFrame = 64 << 10
	// maxUnsent and maxUnsentBytes bound the messages that wait to be written.
	// Above either, reading pauses: the other side must take its responses
	// before it sends more requests.
	maxUnsent      = 1000
	maxUnsentBytes = 64 << 20
	// minCompressed is the size from which messages are compressed. The answer to
	// a handshake is shorter.
	minCompressed = 512
	// earlyBuffer is the size from which the buffer of a message before the
	// handshake grows to its limit at once: what each step leaves for the garbage
	// collector counts, too.
	earlyBuffer = 4 << 10
	// closeTimeout bounds the closing handshake, because the other side may no
	// longer respond.
	closeTimeout = 500 * time.Millisecond
	// closeReplaced and closeHeartbeat are the close codes of this protocol.
	closeReplaced  = websocket.StatusCode(4001)
	closeHeartbeat = websocket.StatusCode(4002)
)

// linkTimes are the time limits of a link, and its wall clock.
type linkTimes struct {
	ping  time.Duration // a ping is sent after this long without a byte from the other side
	pong  time.Duration // limit for the pong, or for any other byte
	piece time.Duration // limit for writing one frame
	wall  func() time.Time
}

func defaultLinkTimes() linkTimes {
	// A dead peer is detected after ping + pong = 30 s.
	return linkTimes{ping: 20 * time.Second, pong: 10 * time.Second, piece: 10 * time.Second, wall: time.Now}
}

var (
	errReplaced     = errors.New("another daemon with the same machine id has replaced this one")
	errPingTimeout  = errors.New("the other side did not answer a ping")
	errWriteTimeout = errors.New("the other side does not accept data")
	errBinary       = errors.New("the other side sent a binary message")
)

// link implements transport over a WebSocket connection. It has no goroutine while
// nothing is to be written or pinged: a hub has thousands of idle links. close
// waits for those that it has. The caller does the reading.
type link struct {
	conn       *websocket.Conn
	socket     io.ReadCloser // the connection below the WebSocket library
	tcp        *net.TCPConn  // the TCP connection below TLS; nil if there is none
	times      linkTimes
	log        *slog.Logger
	wg         sync.WaitGroup
	done       chan struct{} // closed when the link has failed
	written    chan struct{} // 1-buffered: something was written
	lastRead   atomic.Int64  // ns since began: last byte received, including pongs
	lastData   atomic.Int64  // ns since began: last byte of a message received
	lastSent   atomic.Int64  // ns since began: last frame written, or ping answered
	receiving  atomic.Bool   // part of a message has been received
	sending    atomic.Bool   // a long message is being written
	broken     atomic.Bool   // a write has failed
	known      atomic.Bool   // the handshake was accepted
	ending     atomic.Bool   // the link has failed, or this side closes it: messages that arrive go to the library
	pinged     atomic.Int64  // ns since began: ping that the clock has sent
	pinging    atomic.Bool   // a ping of the library is on its way
	clock      *linkClock
	place      int // guarded by the clock
	guard      *frameGuard
	gather     *gatherer
	buffers    *bufferPool // for long messages that arrive; nil for none
	unasked    func(int)   // called for each small frame that begins no message, as peer.unasked; nil for none
	compresses bool        // the two sides have agreed on compression
	began      time.Time
	maxMessage int

	taken   int         // data messages that were read; used by the reading goroutine
	replied atomic.Bool // reply has queued a message since the last read

	mu          sync.Mutex // guards the fields below
	err         error      // why the link failed
	closeReason error      // why this side is closing the link, or nil
	short       []outMessage
	long        []outMessage
	unflushed   []outMessage // left by writeShort to the writer
	writing     bool         // the writer runs
	replying    bool         // writeShort does its work
	yielding    bool         // sendSoon is about to call writeShort
	unsent      int          // messages that are queued or being written
	pending     int          // bytes of these messages
}

// linkHooks connects a link to its WebSocket connection before either exists:
// it holds the ping and pong callbacks, and wraps the connection (see
// wrapClient and wrapWriter).
type linkHooks struct {
	link   atomic.Pointer[link]
	conn   net.Conn      // of the upgrade, on the side that dials
	socket io.ReadCloser // below the library; like tcp set before newLink
	tcp    *net.TCPConn  // below TLS; nil if there is none

	guard      *frameGuard // refuses compressed messages before the handshake
	gather     *gatherer
	compresses bool // the upgrade has agreed on compression

	refusal struct { // of the upgrade; status is 0 without one
		status int // of HTTP
		reason string
	}
}

func (h *linkHooks) ping(context.Context, []byte) bool {
	h.noteRead()
	if l := h.link.Load(); l != nil {
		l.lastSent.Store(int64(time.Since(l.began))) // the library sends the pong
	}
	return true
}

func (h *linkHooks) pong(context.Context, []byte) { h.noteRead() }

func (h *linkHooks) noteRead() {
	if l := h.link.Load(); l != nil {
		l.noteRead()
	}
}

func (l *link) noteRead() { l.lastRead.Store(int64(time.Since(l.began))) }

// newLink returns a link for an open connection that was made with the hooks.
// It owns the connection from then on. Until trust is called, a message that
// arrives has at most maxHandshake bytes and is not compressed, so that a peer
// that is not yet known costs little.
//
// The clock sends its pings. nil makes one for this link alone.
func newLink(conn *websocket.Conn, hooks *linkHooks, maxMessage int, times linkTimes, clock *linkClock, log *slog.Logger) *link {
	l := &link{
		conn: conn, socket: hooks.socket, tcp: hooks.tcp, guard: hooks.guard, gather: hooks.gather, compresses: hooks.compresses, times: times, clock: clock, log: log, began: time.Now(), maxMessage: maxMessage,
		done: make(chan struct{}), written: make(chan struct{}, 1),
	}
	conn.SetReadLimit(int64(l.readLimit()))
	hooks.link.Store(l)
	l.gather.watch(times.piece, func() { l.fail(errWriteTimeout) })
	l.guard.link = l
	if clock == nil {
		l.clock = newLinkClock(times, log)
		l.wg.Go(func() { l.clock.run(l.done) })
	}
	l.clock.add(l)
	return l
}

// trust lifts the limits of a link whose handshake was accepted. The server
// calls it before it sends its answer, the daemon before it reads the next
// message.
func (l *link) trust() {
	l.known.Store(true)
	l.conn.SetReadLimit(int64(l.readLimit()))
	l.guard.open.Store(true)
}

func (l *link) trusted() bool { return l.known.Load() }

// readLimit returns the size limit of a message that arrives.
func (l *link) readLimit() int {
	if l.trusted() {
		return l.maxMessage
	}
	return min(l.maxMessage, maxHandshake)
}

// read returns the next message. A message that is too long closes the link
// with 1009, a binary one with 1003. A connection that ends within a message is
// an error, because of the wrappers in ws_conn.go.
func (l *link) read() ([]byte, error) {
	if l.replied.Load() && (l.guard.messages() == l.taken || l.queued() >= maxGathered) {
		l.writeShort()
	}
	for l.overloaded() {
		select {
		case <-l.written:
		case <-l.done:
		}
	}
	if message := l.guard.await(l.readLimit()); message != nil {
		l.lastData.Store(l.lastRead.Load())
		l.taken++
		return message, nil
	}
	return l.readMessage()
}

// readMessage is read for a message that has begun to arrive, through the library.
// The stack of a link that waits for a message does not have its frame.
func (l *link) readMessage() ([]byte, error) {
	typ, r, err := l.conn.Reader(context.Background())
	if errors.Is(err, errEarlyCompression) {
		l.sendClose(websocket.StatusPolicyViolation, "no compression before the handshake is accepted")
	}
	if err != nil {
		return nil, l.fail(err)
	}
	if typ != websocket.MessageText {
		l.sendClose(websocket.StatusUnsupportedData, "text messages only")
		return nil, l.fail(errBinary)
	}
	l.receiving.Store(true)
	defer l.receiving.Store(false)
	var message []byte
	for {
		if len(message) == cap(message) {
			message = l.grow(message)
		}
		space := message[len(message):cap(message)]
		// The library fills the whole buffer before it returns. Short reads
		// show that data still arrives over a slow link.
		n, err := r.Read(space[:min(len(space), maxFrame)])
		now := int64(time.Since(l.began))
		l.lastRead.Store(now)
		l.lastData.Store(now)
		message = message[:len(message)+n]
		if err == io.EOF {
			l.taken++
			return message, nil
		}
		if errors.Is(err, websocket.ErrMessageTooBig) {
			l.drainUnread()
		}
		if err != nil {
			return nil, l.fail(err)
		}
	}
}

// grow returns a message that is being received, with room for more of it.
func (l *link) grow(message []byte) []byte {
	limit := l.readLimit() + 512 // not far beyond the limit of a message
	next := min(2*cap(message)+512, limit)
	switch {
	case !l.trusted() && cap(message) >= earlyBuffer:
		next = limit
	case l.buffers != nil && next > minLent:
		return l.buffers.grow(message, limit)
	}
	return append(make([]byte, 0, next), message...)
}

// drainUnread reads what the other side still sends after the library has sent
// the close frame. Closing a connection with unread bytes makes TCP reset it,
// and the close frame may be lost with it (RFC 9112, section 9.6, describes
// this for HTTP).
func (l *link) drainUnread() {
	timer := time.AfterFunc(closeTimeout, func() { _ = l.socket.Close() })
	defer timer.Stop()
	_, _ = io.Copy(io.Discard, l.socket) // until the other side closes or the timer fires
}

// overloaded reports whether too much waits to be written.
func (l *link) overloaded() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err == nil && !l.broken.Load() && (l.unsent >= maxUnsent || l.pending >= maxUnsentBytes)
}

// silence returns the time since the last byte of a message was received.
func (l *link) silence() time.Duration {
	return time.Since(l.began) - time.Duration(l.lastData.Load())
}

// fail ends the link at once and returns the first reason that was given. After
// this side has closed the link, that is closeReason: the reader only sees a
// closed connection.
func (l *link) fail(err error) error {
	l.mu.Lock()
	if l.err != nil {
		err = l.err
		l.mu.Unlock()
		return err
	}
	if l.closeReason != nil {
		err = l.closeReason
	}
	l.err = err
	l.mu.Unlock()
	l.ending.Store(true)
	close(l.done)
	l.clock.remove(l)
	l.startWriter() // reports the loss of what waits
	if l.tcp != nil && (err == errPingTimeout || err == errWriteTimeout) {
		_ = l.tcp.SetLinger(0) // reset: a FIN would wait for unacknowledged data (see ws_conn.go)
	}
	l.abort()
	return err
}

// abort closes the connection at once, without a close frame.
func (l *link) abort() {
	_ = l.socket.Close() // first, because CloseNow waits for a running Close
	_ = l.conn.CloseNow()
}

// sendClose sends a close frame and waits at most closeTimeout for the
// response.
func (l *link) sendClose(code websocket.StatusCode, reason string) {
	l.ending.Store(true)
	timer := time.AfterFunc(closeTimeout, func() { _ = l.socket.Close() })
	defer timer.Stop()
	if err := l.conn.Close(code, reason); err != nil {
		l.log.Debug("closing the link failed", "error", err)
	}
}

// closeWith sends a close frame and fails the link with the reason.
func (l *link) closeWith(code websocket.StatusCode, reason string) {
	l.mu.Lock()
	healthy := l.err == nil
	if healthy && l.closeReason == nil {
		l.closeReason = fmt.Errorf("closed: %s", reason)
	}
	l.mu.Unlock()
	if healthy {
		l.sendClose(code, reason)
		_ = l.fail(net.ErrClosed) // returns closeReason
	}
}

// close closes the link with a close frame and waits for its goroutines. The
// goroutine that reads notices the end of the link itself.
func (l *link) close(code websocket.StatusCode, reason string) {
	l.closeWith(code, reason)
	l.wg.Wait()
}

// sessionError returns an error for people that says why a session ended.
func sessionError(err error) error {
	switch {
	case websocket.CloseStatus(err) == closeReplaced:
		return errReplaced
	case errors.Is(err, errHungUp):
		return errHungUp
	}
	if e, ok := errors.AsType[websocket.CloseError](err); ok {
		return fmt.Errorf("the other side closed the link (%d %s)", e.Code, cleanText(e.Reason))
	}
	if e, ok := errors.AsType[*net.OpError](err); ok {
		err = e // keep the cause, drop the prefixes of the library
	}
	return fmt.Errorf("the link was lost: %w", libraryCause(err))
}

// libraryCause returns err without the prefixes of the WebSocket library, which
// puts one in front of each step ("failed to get reader: …"). They do not help
// the reader of a log.
func libraryCause(err error) error {
	for strings.HasPrefix(err.Error(), "failed to ") {
		inner := errors.Unwrap(err)
		if inner == nil {
			break
		}
		err = inner
	}
	return err
}
