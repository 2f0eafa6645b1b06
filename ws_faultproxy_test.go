package main

import (
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// faultProxy is a TCP proxy on a free local port that simulates network faults on
// real sockets: low rates, latency, lost packets, cuts and resets.
//
//	proxy := newFaultProxy(t, "127.0.0.1:5110")
//	proxy.down.set(toxics{rate: 256 << 10}) // what the dialling side receives
//	… proxy.address …
type faultProxy struct {
	address  string
	up, down *lane // from the dialling side to the target, and back
	target   string
	listener net.Listener
	wg       sync.WaitGroup // the accept loop and all copies

	mu    sync.Mutex // guards the fields below
	open  map[*net.TCPConn]struct{}
	dials int
}

// toxics are the faults of one direction; the zero value has none.
type toxics struct {
	rate    int           // bytes a second, 0 for no limit
	latency time.Duration // of each piece
	slice   int           // bytes of a piece, 0 for what comes
	drop    bool          // takes all and passes nothing on: a black hole
	hold    bool          // takes nothing: a reader that stands still
	cut     int           // after so many bytes of a connection it is reset, 0 never
}

// lane is one direction of all connections; its toxics can change at any time.
type lane struct {
	mu      sync.Mutex // guards the fields below
	toxics  toxics
	changed chan struct{} // closed, and replaced, by set
	moved   int           // bytes of all connections
}

func newLane() *lane { return &lane{changed: make(chan struct{})} }

func (l *lane) set(x toxics) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.toxics = x
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *lane) now() (toxics, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.toxics, l.changed
}

// carried returns how many bytes passed in this direction.
func (l *lane) carried() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.moved
}

func (l *lane) carry(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.moved += n
}

// newFaultProxy passes connections on to target, host:port or a URL, until the
// test ends.
func newFaultProxy(t *testing.T, target string) *faultProxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, host, isURL := strings.Cut(target, "://")
	if !isURL {
		host = target
	}
	p := &faultProxy{address: listener.Addr().String(), up: newLane(), down: newLane(), target: host, listener: listener, open: map[*net.TCPConn]struct{}{}}
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		_ = listener.Close()
		for _, l := range []*lane{p.up, p.down} {
			l.set(toxics{}) // lets go of what is held
		}
		p.reset()
		p.wg.Wait()
	})
	return p
}

// accept ends with the listener.
func (p *faultProxy) accept() {
	for {
		here, err := p.listener.Accept()
		if err != nil {
			return
		}
		there, err := net.Dial("tcp", p.target)
		if err != nil {
			_ = here.Close() // as a host without a server does, after a moment
			continue
		}
		a, b := here.(*net.TCPConn), there.(*net.TCPConn)
		p.mu.Lock()
		p.dials++
		p.open[a], p.open[b] = struct{}{}, struct{}{}
		p.mu.Unlock()
		p.wg.Go(func() { p.copy(b, a, p.up) })
		p.wg.Go(func() { p.copy(a, b, p.down) })
	}
}

// copy moves bytes one way until either end is gone; then both are.
func (p *faultProxy) copy(to, from *net.TCPConn, l *lane) {
	defer p.forget(to, from)
	buf := make([]byte, 32<<10)
	passed := 0
	for {
		x, changed := l.now()
		for x.hold {
			<-changed
			x, changed = l.now()
		}
		piece := buf
		if x.slice > 0 {
			piece = buf[:x.slice]
		}
		if x.rate > 0 {
			piece = piece[:min(len(piece), max(1, x.rate/50))] // 50 pieces a second
		}
		n, err := from.Read(piece)
		if x, _ = l.now(); x.latency > 0 || x.rate > 0 {
			delay := x.latency
			if x.rate > 0 {
				delay += time.Second * time.Duration(n) / time.Duration(x.rate)
			}
			time.Sleep(delay) // this is the toxic
		}
		data := piece[:n]
		if x.cut > 0 && passed+n >= x.cut {
			data = data[:max(0, x.cut-passed)]
			err = io.ErrUnexpectedEOF
		}
		if !x.drop {
			if _, werr := to.Write(data); werr != nil {
				return
			}
			passed += len(data)
			l.carry(len(data))
		}
		if err != nil {
			for x, changed = l.now(); x.drop; x, changed = l.now() { // the end is not passed on either
				<-changed
			}
			return
		}
	}
}

// forget closes both ends of a connection, without a reset.
func (p *faultProxy) forget(ends ...*net.TCPConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range ends {
		delete(p.open, c)
		_ = c.Close()
	}
}

// reset ends all connections at once, as a host that crashed and came back
// does: with RST.
func (p *faultProxy) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.open {
		_ = c.SetLinger(0)
		_ = c.Close()
	}
	clear(p.open)
}

// dialled returns how many connections were made.
func (p *faultProxy) dialled() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.dials
}
