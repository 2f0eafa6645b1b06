package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"
)

// pipeNet is a network in memory, for tests on fake time: a listener whose
// connections are net.Pipes.
type pipeNet struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
	wrap  func(net.Conn) net.Conn // of the dialling side, unless nil
}

func newPipeNet() *pipeNet { return &pipeNet{conns: make(chan net.Conn), done: make(chan struct{})} }

func (p *pipeNet) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipeNet) Close() error   { p.once.Do(func() { close(p.done) }); return nil }
func (p *pipeNet) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }

// client dials the listener whatever the address.
func (p *pipeNet) client() *http.Client {
	client, err := newLinkClient("", keyPair{})
	if err != nil {
		panic(err) // only a CA file can be wrong
	}
	client.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		pipe, there := net.Pipe()
		here := newBuffered(pipe)
		select {
		case p.conns <- newBuffered(there):
		case <-p.done:
			return nil, net.ErrClosed
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if p.wrap != nil {
			return p.wrap(here), nil
		}
		return here, nil
	}}
	return client
}

// buffered is a connection that takes some writes before they are read, as a
// socket does: two ends that answer each other's pings at once would wait for
// each other for ever.
type buffered struct {
	net.Conn
	writes chan []byte
	done   chan struct{}
	once   sync.Once
}

func newBuffered(c net.Conn) *buffered {
	b := &buffered{Conn: c, writes: make(chan []byte, 16), done: make(chan struct{})}
	go func() { // ends with the connection
		for {
			select {
			case p := <-b.writes:
				if _, err := c.Write(p); err != nil {
					return
				}
			case <-b.done:
				return
			}
		}
	}()
	return b
}

func (b *buffered) Write(p []byte) (int, error) {
	select {
	case <-b.done:
		return 0, net.ErrClosed
	default:
	}
	select {
	case b.writes <- append([]byte(nil), p...):
		return len(p), nil
	case <-b.done:
		return 0, net.ErrClosed
	}
}

func (b *buffered) Close() error {
	b.once.Do(func() { close(b.done) })
	return b.Conn.Close()
}

// linkPair is two ends of one WebSocket connection in memory.
func linkPair(t *testing.T, wrap func(net.Conn) net.Conn, times linkTimes) (client, server *link) {
	t.Helper()
	network := newPipeNet()
	network.wrap = wrap
	got := make(chan *link, 1)
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hooks := &linkHooks{}
		conn, err := websocket.Accept(hooks.wrapWriter(w), r, &websocket.AcceptOptions{OnPingReceived: hooks.ping, OnPongReceived: hooks.pong})
		if err != nil {
			t.Error(err)
			return
		}
		l := newLink(conn, hooks, 1<<20, times, nil, log)
		l.trust()
		got <- l
	})}
	served := make(chan struct{})
	go func() { defer close(served); _ = s.Serve(network) }()
	hooks := &linkHooks{}
	httpClient := network.client()
	conn, _, err := websocket.Dial(t.Context(), "ws://pipe/", &websocket.DialOptions{HTTPClient: hooks.wrapClient(httpClient), OnPingReceived: hooks.ping, OnPongReceived: hooks.pong})
	if err != nil {
		t.Fatal(err)
	}
	client, server = newLink(conn, hooks, 1<<20, times, nil, log), <-got
	client.trust()
	t.Cleanup(func() {
		_, _ = client.fail(errors.New("the test is over")), server.fail(errors.New("the test is over"))
		client.wg.Wait()
		server.wg.Wait()
		_ = s.Close()
		<-served
	})
	return client, server
}

// drain reads a link to its end; ended receives the reason.
func drain(l *link) (messages chan []byte, ended chan error) {
	messages, ended = make(chan []byte, 100), make(chan error, 1)
	go func() {
		for {
			m, err := l.read()
			if err != nil {
				ended <- err
				return
			}
			messages <- m
		}
	}()
	return messages, ended
}

func TestLinkCarriesMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := linkPair(t, nil, defaultLinkTimes())
		for _, ends := range [][2]*link{{client, server}, {server, client}} {
			messages, ended := drain(ends[1])
			for _, n := range []int{0, 1, 9, 125, 126, 1000, maxFrame - 1, maxFrame, maxFrame + 1, 3*maxFrame + 5, 1 << 20} {
				want := strings.Repeat("0123456789a", n/11+1)[:n]
				written := make(chan error, 1)
				ends[0].send([]byte(want), func(err error) { written <- err })
				if got := <-messages; string(got) != want {
					t.Errorf("a message of %d bytes came with %d, want the same bytes", n, len(got))
				}
				if err := <-written; err != nil {
					t.Error(err)
				}
			}
			select {
			case err := <-ended:
				t.Fatal(err)
			default:
			}
		}
	})
}

// gate is a connection that can drop all bytes: a peer that vanished without a
// FIN or RST.
type gate struct {
	net.Conn
	shut atomic.Bool
}

func (g *gate) Read(p []byte) (int, error) {
	for {
		n, err := g.Conn.Read(p)
		if !g.shut.Load() || err != nil {
			return n, err
		}
	}
}

func (g *gate) Write(p []byte) (int, error) {
	if g.shut.Load() {
		return len(p), nil
	}
	return g.Conn.Write(p)
}

// TestPacketsDroppedBothWays: when packets are lost in both directions, both ends
// notice within 30 s.
func TestPacketsDroppedBothWays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var wall *gate
		client, server := linkPair(t, func(c net.Conn) net.Conn { wall = &gate{Conn: c}; return wall }, defaultLinkTimes())
		_, clientEnded := drain(client)
		_, serverEnded := drain(server)
		time.Sleep(5 * time.Minute) // an idle link lives by its pings
		synctest.Wait()
		select {
		case err := <-clientEnded:
			t.Fatalf("an idle link ended with %v, want it to live by its pings", err)
		case err := <-serverEnded:
			t.Fatalf("an idle link ended with %v, want it to live by its pings", err)
		default:
		}
		wall.shut.Store(true)
		start := time.Now()
		for _, ended := range []chan error{clientEnded, serverEnded} {
			if err := <-ended; !errors.Is(err, errPingTimeout) && !errors.Is(err, errHungUp) {
				t.Errorf("the link ended with %v, want %v or %v", err, errPingTimeout, errHungUp)
			}
			if took := time.Since(start); took > 30*time.Second {
				t.Errorf("noticed after %v, want at most 30 s", took)
			}
		}
	})
}

// TestPeerThatTakesNothing: the link is given up when the peer does not read a
// frame within 10 s, and the messages that wait get the reason.
func TestPeerThatTakesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, _ := linkPair(t, nil, defaultLinkTimes())
		_, ended := drain(client)
		start := time.Now()
		lost := make(chan error, 2)
		client.send(make([]byte, 4<<20), func(err error) { lost <- err }) // nobody reads, and the connection takes 16 writes of 64 KiB
		synctest.Wait()                                                   // it is being written; else the short one goes first
		client.send([]byte("{}"), func(err error) { lost <- err })
		for range 2 {
			if err := <-lost; !errors.Is(err, errWriteTimeout) {
				t.Errorf("a message that waits was told %v, want %v", err, errWriteTimeout)
			}
		}
		if err := <-ended; !errors.Is(err, errWriteTimeout) {
			t.Errorf("the link ended with %v, want %v", err, errWriteTimeout)
		}
		if took := time.Since(start); took != 10*time.Second {
			t.Errorf("the link was given up after %v, want 10 s", took)
		}
		after := make(chan error, 1)
		client.send([]byte("{}"), func(err error) { after <- err })
		if err := <-after; !errors.Is(err, errWriteTimeout) {
			t.Errorf("a message to a dead link was told %v, want %v", err, errWriteTimeout)
		}
	})
}

// slowly is a connection that writes 64 KiB/s.
type slowly struct{ net.Conn }

func (s slowly) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		part := min(len(p), 4<<10)
		time.Sleep(time.Second / 16)
		m, err := s.Conn.Write(p[:part])
		n += m
		if err != nil {
			return n, err
		}
		p = p[part:]
	}
	return n, nil
}

// TestSlowLink: a long message keeps a slow link alive; a short message waits for
// the one that is being written, not for the long ones behind it.
func TestSlowLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := linkPair(t, func(c net.Conn) net.Conn { return slowly{c} }, defaultLinkTimes())
		_, clientEnded := drain(client)
		messages, serverEnded := drain(server)
		for range 4 {
			client.send(make([]byte, 1<<20), nil) // 16 s each
		}
		synctest.Wait()
		client.send([]byte("{}"), nil)
		for i, want := range []int{1 << 20, 2, 1 << 20, 1 << 20, 1 << 20} {
			select {
			case m := <-messages:
				if len(m) != want {
					t.Errorf("message %d has %d bytes, want %d", i, len(m), want)
				}
			case err := <-clientEnded:
				t.Fatal(err)
			case err := <-serverEnded:
				t.Fatal(err)
			}
			if quiet := server.silence(); quiet > time.Second {
				t.Errorf("silence() = %v while pieces come, want at most a second", quiet)
			}
		}
	})
}

// trickle is a connection from which 4 KiB/s are read: of the path there, the buffers
// have taken more.
type trickle struct{ net.Conn }

func (c trickle) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p[:min(len(p), 1<<10)])
	time.Sleep(time.Duration(n) * time.Second / (4 << 10))
	return n, err
}

// TestFrameThatTakesLong: a link lives while bytes of a frame arrive, though the pong
// waits behind the frame for longer than a pong may take.
func TestFrameThatTakesLong(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		client, server := linkPair(t, func(c net.Conn) net.Conn { return trickle{c} }, defaultLinkTimes())
		messages, ended := drain(client)
		_, _ = drain(server)
		server.send(make([]byte, 256<<10), nil) // 64 s, 16 for a frame
		select {
		case m := <-messages:
			if len(m) != 256<<10 {
				t.Errorf("got a message of %d bytes, want %d", len(m), 256<<10)
			}
			_ = client.fail(errors.New("the test is over"))
			<-ended // a read may be asleep
		case err := <-ended:
			t.Fatalf("the link has ended: %v, want the message", err)
		}
	})
}

// TestCrowdedLinkStopsReading: a link stops reading from a peer that does not read
// its answers, until it does.
func TestCrowdedLinkStopsReading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := linkPair(t, nil, defaultLinkTimes())
		const all = maxUnsent + 100              // some of which the connection takes
		message := make([]byte, maxGathered/2+1) // no two of them leave in one write
		for range all {
			server.send(message, nil)
		}
		messages, _ := drain(server)
		go client.send([]byte(`{"a":1}`), nil)
		time.Sleep(time.Second)
		if len(messages) != 0 {
			t.Errorf("%d messages were read from a crowded link, want 0", len(messages))
		}
		answers, _ := drain(client)
		for range all {
			<-answers
		}
		<-messages
	})
}

func TestBinaryMessageClosesWith1003(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := linkPair(t, nil, defaultLinkTimes())
		_, serverEnded := drain(server)
		_, clientEnded := drain(client)
		if err := client.conn.Write(t.Context(), websocket.MessageBinary, []byte("{}")); err != nil {
			t.Fatal(err)
		}
		if err := <-clientEnded; websocket.CloseStatus(err) != websocket.StatusUnsupportedData {
			t.Errorf("the sender's link ended with %v, want close code %d", err, websocket.StatusUnsupportedData)
		}
		if err := <-serverEnded; !errors.Is(err, errBinary) {
			t.Errorf("the receiver's link ended with %v, want %v", err, errBinary)
		}
	})
}

func TestOversizedMessageClosesWith1009(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := linkPair(t, nil, defaultLinkTimes())
		_, serverEnded := drain(server)
		_, clientEnded := drain(client)
		client.send(make([]byte, 1<<20+1), nil)
		if err := <-serverEnded; !errors.Is(err, websocket.ErrMessageTooBig) {
			t.Errorf("the receiver's link ended with %v, want %v", err, websocket.ErrMessageTooBig)
		}
		if err := <-clientEnded; websocket.CloseStatus(err) != websocket.StatusMessageTooBig {
			t.Errorf("the sender's link ended with %v, want close code %d", err, websocket.StatusMessageTooBig)
		}
	})
}

// TestWallClockJump: after the machine slept, the link pings the peer at once.
func TestWallClockJump(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var offset atomic.Int64
		times := defaultLinkTimes()
		times.ping = time.Hour // so that no ping is due for another reason
		times.wall = func() time.Time { return time.Now().Add(time.Duration(offset.Load())) }
		var wall *gate
		client, server := linkPair(t, func(c net.Conn) net.Conn { wall = &gate{Conn: c}; return wall }, times)
		_, ended := drain(client)
		_, serverEnded := drain(server)
		time.Sleep(time.Minute)
		offset.Store(int64(wallJump / 2)) // an adjustment is no sleep
		time.Sleep(time.Minute)
		wall.shut.Store(true)
		time.Sleep(time.Minute)
		select {
		case err := <-ended:
			t.Fatal(err)
		default:
		}
		offset.Store(int64(-time.Hour))
		start := time.Now()
		if err := <-ended; !errors.Is(err, errPingTimeout) && !errors.Is(err, errHungUp) { // the other end noticed too
			t.Errorf("the link ended with %v, want %v or %v", err, errPingTimeout, errHungUp)
		}
		if took := time.Since(start); took > wallCheck+times.pong {
			t.Errorf("noticed after %v, want at most %v", took, wallCheck+times.pong)
		}
		<-serverEnded
	})
}

// TestCrowdedLinkLives: while a link pauses reading it sees no pongs; it lives as
// long as the peer reads what it writes.
func TestCrowdedLinkLives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := linkPair(t, func(c net.Conn) net.Conn { return slowly{c} }, defaultLinkTimes())
		_, clientEnded := drain(client)
		messages, serverEnded := drain(server)
		const all = maxUnsent + 800 // the link is crowded until 800 are written, 50 s
		for range all {
			client.send(make([]byte, 4<<10), nil)
		}
		server.send([]byte("{}"), nil) // what was being read before the crowd still comes
		for range all {
			select {
			case <-messages:
			case err := <-clientEnded:
				t.Fatal(err)
			case err := <-serverEnded:
				t.Fatal(err)
			}
		}
	})
}

// TestLibraryCause checks that the prefixes of the WebSocket library do not reach
// a log, and that the cause can still be recognised.
func TestLibraryCause(t *testing.T) {
	const lost = "the link was lost: "
	plain := errors.New("failed to read")
	inner := fmt.Errorf("failed to read frame header: %w", io.ErrUnexpectedEOF)
	for _, test := range []struct {
		err  error
		want string
	}{
		{fmt.Errorf("failed to get reader: %w", inner), lost + "unexpected EOF"},
		{plain, lost + plain.Error()},
		{fmt.Errorf("failed to write: %w", errPingTimeout), lost + errPingTimeout.Error()},
	} {
		got := sessionError(test.err)
		if got.Error() != test.want {
			t.Errorf("sessionError(%q): got %q, want %q", test.err, got, test.want)
		}
	}
	if err := sessionError(fmt.Errorf("failed to write: %w", errPingTimeout)); !errors.Is(err, errPingTimeout) {
		t.Errorf("got %v, want an error that wraps %v", err, errPingTimeout)
	}
	client, err := newLinkClient("", keyPair{})
	if err != nil {
		t.Fatal(err)
	}
	c := &connector{server: &url.URL{Scheme: "ws", Host: "127.0.0.1:1", Path: linkPath}, client: client, log: slog.New(slog.DiscardHandler)}
	if _, err := c.dial(t.Context()); err == nil || strings.Contains(err.Error(), "failed to") || !strings.HasPrefix(err.Error(), "dialling 127.0.0.1:1: ") {
		t.Errorf("got %v, want the cause of the failed dial after %q", err, "dialling 127.0.0.1:1: ")
	}
}
