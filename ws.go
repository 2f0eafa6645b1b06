package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
)

const (
	// defaultMaxMessage bounds a message each way, --max-message changes it.
	defaultMaxMessage = 16 << 20
	// maxFrame is the size of the frames of a long message. Control frames pass
	// between two of them (RFC 6455, section 5.4).
	maxFrame = 64 << 10
	// maxUnsent and maxUnsentBytes are what may wait to be written before no more
	// is read: the other side shall take its answers before it asks for more.
	maxUnsent      = 1000
	maxUnsentBytes = 64 << 20
	// closeTimeout bounds the closing handshake: the other side may be gone.
	closeTimeout = 500 * time.Millisecond
	// wallCheck is how often the wall clock is looked at, wallJump how far it
	// must be off: the machine slept, and the link with it.
	wallCheck = 5 * time.Second
	wallJump  = 15 * time.Second

	// closeReplaced and closeHeartbeat are this protocol's own close codes.
	closeReplaced  = websocket.StatusCode(4001)
	closeHeartbeat = websocket.StatusCode(4002)
)

// linkTimes are the clocks of a link.
type linkTimes struct {
	ping  time.Duration // a ping goes out after so long without a byte
	pong  time.Duration // and must be answered within
	piece time.Duration // a frame must be taken within
	wall  func() time.Time
}

func defaultLinkTimes() linkTimes {
	// A dead peer is known after ping + pong = 30 s.
	return linkTimes{ping: 20 * time.Second, pong: 10 * time.Second, piece: 10 * time.Second, wall: time.Now}
}

var (
	errReplaced     = errors.New("another daemon with the same machine id has taken this one's place")
	errPingTimeout  = errors.New("the other side does not answer pings")
	errWriteTimeout = errors.New("the other side takes no data")
	errBinary       = errors.New("the other side sent a binary message")
)

// link is the transport over one WebSocket connection. Two goroutines belong
// to it, the writer and the pinger; both end when the link fails or is closed,
// and close waits for them. Reading is the caller's.
type link struct {
	conn       *websocket.Conn
	socket     io.ReadCloser // below the library
	tcp        *net.TCPConn  // at the bottom; nil in memory
	times      linkTimes
	log        *slog.Logger
	wg         sync.WaitGroup
	done       chan struct{} // closed when the link has failed
	wake       chan struct{} // 1-buffered: something waits to be written
	room       chan struct{} // 1-buffered: something was written
	lastRead   atomic.Int64  // since began, ns: any byte, a pong's too
	lastData   atomic.Int64  // since began, ns: a byte of a message
	lastSaid   atomic.Int64  // since began, ns: a frame of ours was taken, or a ping answered
	receiving  atomic.Bool   // a message has begun to come and has not ended
	sending    atomic.Bool   // a long message is being written
	broken     atomic.Bool   // nothing can be written any more
	began      time.Time
	maxMessage int

	mu          sync.Mutex // guards the fields below
	err         error      // why it failed
	closeReason error      // why this side is about to hang up, nil while it is not
	short       []outMessage
	long        []outMessage
	unsent      int // messages that wait or are being written
	pending     int // bytes of them
}

// outMessage waits to be written.
type outMessage struct {
	data []byte
	sent func(error)
}

// linkHooks are what a connection needs from its start: the callbacks, and its
// cover (see dialling and accepting).
type linkHooks struct {
	link   atomic.Pointer[link]
	socket io.ReadCloser // below the library; set before the link is made, as is the next
	tcp    *net.TCPConn  // at the bottom; nil where there is none
}

func (h *linkHooks) ping(context.Context, []byte) bool {
	h.alive()
	if l := h.link.Load(); l != nil {
		l.lastSaid.Store(int64(time.Since(l.began))) // with the pong
	}
	return true
}

func (h *linkHooks) pong(context.Context, []byte) { h.alive() }

func (h *linkHooks) alive() {
	if l := h.link.Load(); l != nil {
		l.lastRead.Store(int64(time.Since(l.began)))
	}
}

// newLink takes over an open connection that was made with the hooks.
func newLink(conn *websocket.Conn, hooks *linkHooks, maxMessage int, times linkTimes, log *slog.Logger) *link {
	l := &link{
		conn: conn, socket: hooks.socket, tcp: hooks.tcp, times: times, log: log, began: time.Now(), maxMessage: maxMessage,
		done: make(chan struct{}), wake: make(chan struct{}, 1), room: make(chan struct{}, 1),
	}
	conn.SetReadLimit(int64(maxMessage))
	hooks.link.Store(l)
	l.wg.Go(l.write)
	l.wg.Go(l.keepAlive)
	return l
}

// read returns the next message. Too long a one closes the link with 1009, a
// binary one with 1003. A connection that ends within a message is an error
// because the hooks cover it.
func (l *link) read() ([]byte, error) {
	for l.overloaded() {
		select {
		case <-l.room:
		case <-l.done:
		}
	}
	typ, r, err := l.conn.Reader(context.Background())
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
			// Twice as much, but never much more than a message may have.
			message = append(make([]byte, 0, min(2*cap(message), l.maxMessage)+512), message...)
		}
		space := message[len(message):cap(message)]
		// The library fills what it is given before it returns. Over a slow link the
		// pieces must be small enough to tell that the other side lives.
		n, err := r.Read(space[:min(len(space), maxFrame)])
		now := int64(time.Since(l.began))
		l.lastRead.Store(now)
		l.lastData.Store(now)
		message = message[:len(message)+n]
		if err == io.EOF {
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

// drainUnread takes in what the other side still sends after the library has told it
// why the link ends: a connection that is closed with bytes unread is reset, and
// the close frame may be lost with it (RFC 7230, section 6.6, tells the same of
// HTTP).
func (l *link) drainUnread() {
	timer := time.AfterFunc(closeTimeout, func() { _ = l.socket.Close() })
	defer timer.Stop()
	_, _ = io.Copy(io.Discard, l.socket) // until the other side closes, or the time is over
}

// overloaded tells that too much waits to be written.
func (l *link) overloaded() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err == nil && !l.broken.Load() && (l.unsent >= maxUnsent || l.pending >= maxUnsentBytes)
}

// silence is how long no piece of a message has come.
func (l *link) silence() time.Duration {
	return time.Since(l.began) - time.Duration(l.lastData.Load())
}

// send queues a message. A short one overtakes the long ones that wait, not
// the one that is being written.
func (l *link) send(message []byte, sent func(error)) {
	l.mu.Lock()
	if l.err != nil {
		err := l.err
		l.mu.Unlock()
		if sent != nil {
			sent(err)
		}
		return
	}
	m := outMessage{data: message, sent: sent}
	if len(message) <= maxFrame {
		l.short = append(l.short, m)
	} else {
		l.long = append(l.long, m)
	}
	l.unsent++
	l.pending += len(message)
	l.mu.Unlock()
	wake(l.wake)
}

// wake wakes the reader of a 1-buffered channel.
func wake(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default: // it will wake already
	}
}

// write is the one writer of the connection. It ends when the link fails, and
// then tells all that waits.
func (l *link) write() {
	watchdog := time.AfterFunc(l.times.piece, func() { l.fail(errWriteTimeout) })
	watchdog.Stop()
	for {
		m, ok := l.next()
		if !ok {
			return
		}
		err := l.writeMessage(m.data, watchdog)
		if err != nil {
			err = l.failAfterLastWords(err)
		}
		l.mu.Lock()
		l.unsent--
		l.pending -= len(m.data)
		l.mu.Unlock()
		wake(l.room)
		if m.sent != nil {
			m.sent(err)
		}
	}
}

// failAfterLastWords fails the link for a broken write once the reader has had
// its time: what the other side said before it hung up tells more, and its
// close code may forbid to come back.
func (l *link) failAfterLastWords(err error) error {
	l.broken.Store(true)
	wake(l.room)
	timer := time.NewTimer(closeTimeout)
	defer timer.Stop()
	select {
	case <-l.done:
	case <-timer.C:
	}
	return l.fail(err)
}

// next waits for a message to write; false when the link has failed.
func (l *link) next() (outMessage, bool) {
	for {
		l.mu.Lock()
		queue := &l.short
		if len(*queue) == 0 {
			queue = &l.long
		}
		if l.err != nil {
			lost, err := append(l.short, l.long...), l.err
			l.short, l.long = nil, nil
			l.mu.Unlock()
			for _, m := range lost {
				if m.sent != nil {
					m.sent(err)
				}
			}
			return outMessage{}, false
		}
		if len(*queue) > 0 {
			m := (*queue)[0]
			(*queue)[0] = outMessage{} // lets go of the message
			*queue = (*queue)[1:]
			l.mu.Unlock()
			return m, true
		}
		l.mu.Unlock()
		select {
		case <-l.wake:
		case <-l.done:
		}
	}
}

// writeMessage writes one message, a long one in frames. The watchdog fails
// the link when a frame is not taken in time; a context for each would cost
// more.
func (l *link) writeMessage(data []byte, watchdog *time.Timer) error {
	defer watchdog.Stop()
	ctx := context.Background()
	watchdog.Reset(l.times.piece)
	if len(data) <= maxFrame {
		err := l.conn.Write(ctx, websocket.MessageText, data)
		l.lastSaid.Store(int64(time.Since(l.began)))
		return err
	}
	l.sending.Store(true)
	defer l.sending.Store(false)
	w, err := l.conn.Writer(ctx, websocket.MessageText)
	if err != nil {
		return err
	}
	for len(data) > 0 {
		n := min(len(data), maxFrame)
		if _, err := w.Write(data[:n]); err != nil {
			return err
		}
		watchdog.Reset(l.times.piece)
		l.lastSaid.Store(int64(time.Since(l.began)))
		data = data[n:]
	}
	return w.Close()
}

// keepAlive pings when nothing has come for a while, and at once when the wall
// clock jumped. It ends when the link fails.
//
// While a long message comes it pings when it has not said anything itself for
// half that while: the other side's own ping waits behind its message in all
// the buffers on the way, so that a slow link would look like a dead one.
func (l *link) keepAlive() {
	wall := l.times.wall().Round(0) // without the monotonic reading, which stands still in sleep
	mono := time.Now()
	for {
		quiet := time.Since(l.began) - time.Duration(l.lastRead.Load())
		timer := time.NewTimer(max(0, min(wallCheck, l.times.ping/4, l.times.ping-quiet)))
		select {
		case <-l.done:
			timer.Stop()
			return
		case <-timer.C:
		}
		nowWall, nowMono := l.times.wall().Round(0), time.Now()
		jump := (nowWall.Sub(wall) - nowMono.Sub(mono)).Abs() > wallJump
		wall, mono = nowWall, nowMono
		quiet = time.Since(l.began) - time.Duration(l.lastRead.Load())
		mute := time.Since(l.began) - time.Duration(l.lastSaid.Load())
		switch {
		case l.overloaded():
			// Pongs cannot be read while reading pauses; the writer's watchdog rules.
			l.lastRead.Store(int64(time.Since(l.began)))
		case jump || quiet >= l.times.ping || l.receiving.Load() && mute >= l.times.ping/2:
			if jump {
				l.log.Info("the clock jumped: the machine slept, asking the other side for a sign of life")
			}
			switch err := l.ping(l.times.pong); {
			case errors.Is(err, net.ErrClosed):
				<-l.done // the reader knows why, and says so
				return
			case err != nil:
				l.fail(err)
				return
			}
		}
	}
}

// ping asks for a sign of life; any byte that comes within the limit is one.
// While a long message is being written an unanswered ping tells nothing, for
// it may still wait behind the frames before it; the watchdog does.
func (l *link) ping(limit time.Duration) error {
	before := l.lastRead.Load()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	err := l.conn.Ping(ctx)
	l.lastSaid.Store(int64(time.Since(l.began)))
	switch {
	case err == nil, l.lastRead.Load() != before:
		return nil
	case errors.Is(err, net.ErrClosed):
		return err
	case l.sending.Load():
		return nil
	case ctx.Err() != nil:
		return errPingTimeout
	}
	return nil
}

// fail ends the link at once. The first reason counts and is returned; the
// reader of a link that is hung up on only knows that it is closed.
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
	close(l.done)
	if l.tcp != nil && (err == errPingTimeout || err == errWriteTimeout) {
		_ = l.tcp.SetLinger(0) // it may hear us all the same, but no FIN (see ws_conn.go)
	}
	l.abort()
	return err
}

// abort closes the connection at once: it is given up, there is nobody to tell.
func (l *link) abort() {
	_ = l.socket.Close() // CloseNow waits for a Close that is under way
	_ = l.conn.CloseNow()
}

// sendClose says goodbye with a close code, for as long as closeTimeout.
func (l *link) sendClose(code websocket.StatusCode, reason string) {
	timer := time.AfterFunc(closeTimeout, func() { _ = l.socket.Close() })
	defer timer.Stop()
	if err := l.conn.Close(code, reason); err != nil {
		l.log.Debug("closing the link", "err", err)
	}
}

// closeWith says goodbye and ends the link for that reason.
func (l *link) closeWith(code websocket.StatusCode, reason string) {
	l.mu.Lock()
	healthy := l.err == nil
	if healthy && l.closeReason == nil {
		l.closeReason = fmt.Errorf("closed: %s", reason)
	}
	l.mu.Unlock()
	if healthy {
		l.sendClose(code, reason)
		_ = l.fail(net.ErrClosed) // for the reason above
	}
}

// close ends the link politely and waits for its goroutines. The reader
// notices by itself.
func (l *link) close(code websocket.StatusCode, reason string) {
	l.closeWith(code, reason)
	l.wg.Wait()
}

// sessionError is why a session ended, in words.
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
		err = e // without the library's steps on the way there
	}
	return fmt.Errorf("the link was lost: %w", err)
}
