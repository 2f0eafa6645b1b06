package main

import (
	"context"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// The tests of this file put a faultProxy between real daemons and a real hub.
// The clocks of the link run ten times as fast; the delay before a reconnect is
// the real one.

const clockScale = 10

// newSocketBench serves a hub on a real port with faster clocks.
func newSocketBench(t *testing.T, configure func(*hubConfig)) *hubBench {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return newHubBenchOn(t, listener, func(c *hubConfig) {
		c.maxMessage, c.times = defaultMaxMessage, defaultLinkTimes().dividedBy(clockScale)
		c.offlineThreshold, c.heartbeatInterval = defaultOfflineThreshold/clockScale, defaultHeartbeatInterval/clockScale
		if configure != nil {
			configure(c)
		}
	})
}

// socketDaemon starts a daemon that dials address; states receives the states of
// its link in words.
func (b *hubBench) socketDaemon(address, machineID string, methods ...*method) (d *benchDaemon, states chan string) {
	b.t.Helper()
	return b.socketInstance(address, machineID, "instance of "+machineID, methods...)
}

// socketInstance is socketDaemon with an instance id, for a machine id that
// several processes claim.
func (b *hubBench) socketInstance(address, machineID, instanceID string, methods ...*method) (d *benchDaemon, states chan string) {
	b.t.Helper()
	client, err := newLinkClient("", keyPair{})
	if err != nil {
		b.t.Fatal(err)
	}
	states = make(chan string, 1000)
	d = b.daemonVia(client, func(c *connector) {
		server := *b.server
		server.Host = address
		c.server, c.times, c.maxMessage, c.heartbeat = &server, b.hub.times, defaultMaxMessage, defaultHeartbeatInterval/clockScale
		c.handshake.MachineID, c.handshake.InstanceID = machineID, instanceID
		c.onState = func(state string) { states <- state }
	}, methods...)
	return d, states
}

// await waits for a state that begins with begin.
func await(t *testing.T, states <-chan string, begin string) {
	t.Helper()
	limit := time.After(patience)
	for {
		select {
		case state := <-states:
			if strings.HasPrefix(state, begin) {
				return
			}
		case <-limit:
			t.Fatalf("the daemon did not get into the state wanted within %v: want one that begins with %q", patience, begin)
		}
	}
}

// workMethod returns a method that runs for took, returns the number of its run
// and stops when it is cancelled.
func workMethod(took time.Duration, runs *atomic.Int64) *method {
	return newMethod("test/work", "", func(ctx context.Context, _ none) (int64, error) {
		n := runs.Add(1)
		select {
		case <-time.After(took):
			return n, nil
		case <-ctx.Done():
			runs.Add(100)
			return 0, ctx.Err()
		}
	})
}

// bigMethod returns a method whose result has as many bytes as its param count
// says.
func bigMethod(name string) *method {
	return newMethod(name, "", func(_ context.Context, p echoParams) (string, error) { return strings.Repeat("x", p.Count), nil })
}

// TestBlackHole: packets are lost in both directions or in one, without a FIN or
// RST. Both ends notice within the times of ping and pong, and connect again.
func TestBlackHole(t *testing.T) {
	skipShort(t, "waits 4 s until links are given up; TestPacketsDroppedBothWays does it in memory")
	t.Parallel()
	for _, test := range []struct {
		name     string
		up, down bool
	}{{"both ways", true, true}, {"from the hub", false, true}, {"to the hub", true, false}} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b := newSocketBench(t, nil)
			proxy := newFaultProxy(t, b.server.Host)
			_, states := b.socketDaemon(proxy.address, "m")
			await(t, states, "connected")
			old := b.online("m")
			proxy.up.set(toxics{drop: test.up})
			proxy.down.set(toxics{drop: test.down})
			start := time.Now()
			await(t, states, "reconnecting")
			daemonKnew := time.Since(start)
			select {
			case <-old.done:
			case <-time.After(patience):
				t.Fatalf("the hub has not dropped the dead link after %v, want it dropped within 30 s by its clocks", patience)
			}
			hubKnew := time.Since(start)
			// 30 s at the clocks' scale, and some for a slow machine.
			if limit := 30*time.Second/clockScale + 5*time.Second; daemonKnew > limit || hubKnew > limit {
				t.Errorf("the daemon noticed after %v, the hub after %v, want at most %v", daemonKnew, hubKnew, limit)
			}
			proxy.up.set(toxics{})
			proxy.down.set(toxics{})
			await(t, states, "connected")
			if got := b.statuses("m"); !slices.Equal(got, []string{"online", "offline", "online"}) {
				t.Errorf("the machine was %q, want online, offline, online", got)
			}
		})
	}
}

// wsaConnReset is WSAECONNRESET, the reset of a connection on Windows.
const wsaConnReset = syscall.Errno(10054)

// TestDeadPeerIsReset: the hub and a daemon close a link with RST when its peer
// does not answer pings. Where packets are lost in one direction, a FIN would
// never be sent, because the data before it is never acknowledged; the peer, which
// still receives, would keep the link until its own ping is due.
func TestDeadPeerIsReset(t *testing.T) {
	skipShort(t, "waits 3 s for the limit of a ping; TestPacketsDroppedBothWays does it in memory")
	t.Parallel()
	b := newSocketBench(t, nil)
	ended := make(chan error, 100)
	hearsAll := func(r io.Reader) {
		_, err := io.Copy(io.Discard, r)
		ended <- err
	}
	c := dialRaw(t, b.server.Host)
	c.put(whole(frameFin|frameText, `{"jsonrpc":"2.0","id":1,"method":"daemon/handshake","params":{"machine_id":"raw","instance_id":"i","protocol_version":1}}`))
	go hearsAll(c.r)
	mute := newAcceptingServer(t, func(_ net.Conn, r io.Reader) { hearsAll(r) })
	d, states := b.socketDaemon(mute, "m")
	await(t, states, "reconnecting")
	d.stop()
	for range 2 {
		select {
		case err := <-ended:
			if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, wsaConnReset) {
				t.Errorf("the connection ended with %v, want %v", err, syscall.ECONNRESET)
			}
		case <-time.After(patience):
			t.Fatalf("the connection is open after %v, want a reset", patience)
		}
	}
}

// newAcceptingServer serves without the hub: it upgrades each connection, accepts
// the handshake without reading it, and calls then.
func newAcceptingServer(t *testing.T, then func(conn net.Conn, r io.Reader)) (address string) {
	t.Helper()
	return strings.TrimPrefix(newHTTPServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, buffers, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		key := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) // RFC 6455, section 4.2.2
		_, _ = fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n", base64.StdEncoding.EncodeToString(key[:]))
		_, _ = conn.Write(unmasked(whole(frameFin|frameText, `{"jsonrpc":"2.0","id":1,"result":{"accepted":true}}`)))
		then(conn, buffers)
	})), "http://")
}

// unmasked turns a client's frame into a server's, which has no mask.
func unmasked(frame []byte) []byte {
	head := 2
	switch frame[1] & 0x7f {
	case 126:
		head += 2
	case 127:
		head += 8
	}
	sent := append([]byte{frame[0], frame[1] & 0x7f}, frame[2:head]...)
	return append(sent, frame[head+4:]...)
}

// TestMessageToDaemonCutShort: the hub's end of the link closes within a message
// whose first part would be a request by itself. The daemon treats the link as
// lost: it runs nothing, answers nothing and connects again.
func TestMessageToDaemonCutShort(t *testing.T) {
	t.Parallel()
	const request = `{"jsonrpc":"2.0","id":"cut","method":"test/mark"}`
	for _, reset := range []bool{false, true} {
		for name, bytes := range map[string][]byte{
			"in a frame":       frame(frameFin|frameText, []byte(request), len(request)+10),
			"after a fragment": whole(frameText, request),
		} {
			t.Run(fmt.Sprintf("%s, reset %v", name, reset), func(t *testing.T) {
				t.Parallel()
				b := newSocketBench(t, nil)
				heard := make(chan []byte, 100)
				address := newAcceptingServer(t, func(conn net.Conn, r io.Reader) {
					tcp := conn.(*net.TCPConn)
					_, _ = tcp.Write(unmasked(bytes))
					if reset {
						_ = tcp.SetLinger(0)
						return
					}
					_ = tcp.CloseWrite()
					said, _ := io.ReadAll(r)
					heard <- said
				})
				var runs atomic.Int64
				d, states := b.socketDaemon(address, "m", newMethod("test/mark", "", func(context.Context, none) (int64, error) { return runs.Add(1), nil }))
				await(t, states, "reconnecting")
				await(t, states, "reconnecting") // it connected again and was cut again
				d.stop()
				if n := runs.Load(); n != 0 {
					t.Errorf("the cut request ran %d times, want 0", n)
				}
				for !reset && len(heard) > 0 {
					// A daemon's messages are masked with a key that stands before them.
					for _, m := range clientMessages(t, <-heard) {
						if !strings.Contains(m, `"method":"daemon/`) {
							t.Errorf("the daemon answered a cut request with %s, want only its own messages", m)
						}
					}
				}
			})
		}
	}
}

// clientMessages returns the texts of a client's short frames.
func clientMessages(t *testing.T, data []byte) (all []string) {
	t.Helper()
	for len(data) >= 6 {
		n, head := int(data[1]&0x7f), 2
		if n == 126 {
			n, head = int(binary.BigEndian.Uint16(data[2:])), 4
		}
		if len(data) < head+4+n {
			break
		}
		key, payload := data[head:head+4], data[head+4:head+4+n]
		for i := range payload {
			payload[i] ^= key[i%4]
		}
		if data[0] == frameFin|frameText {
			all = append(all, string(payload))
		}
		data = data[head+4+n:]
	}
	return all
}

// cutter is a connection that breaks after a number of bytes in one direction.
type cutter struct {
	net.Conn
	mu          sync.Mutex // guards the fields below
	armed       bool
	read, write int // what may still pass
}

func (c *cutter) arm(read, write int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.armed, c.read, c.write = true, read, write
}

// take counts n bytes of one direction and returns how many of them may pass.
func (c *cutter) take(left *int, n int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.armed {
		return n
	}
	n = min(n, *left)
	*left -= n
	return n
}

func (c *cutter) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if passed := c.take(&c.read, n); passed < n {
		_ = c.Conn.Close()
		return passed, net.ErrClosed
	}
	return n, err
}

func (c *cutter) Write(p []byte) (int, error) {
	passed := c.take(&c.write, len(p))
	n, err := c.Conn.Write(p[:passed])
	if err == nil && passed < len(p) {
		_ = c.Conn.Close()
		err = net.ErrClosed
	}
	return n, err
}

// TestCutAfterEachByte: wherever the link breaks within a request or an answer,
// the call is answered and the method runs once.
func TestCutAfterEachByte(t *testing.T) {
	skipShort(t, "it takes seconds")
	t.Parallel()
	const enough = 1 << 20
	// A request has about 120 bytes, progress and an answer about 200.
	for n := range 400 {
		for _, up := range []bool{true, false} {
			synctest.Test(t, func(t *testing.T) {
				b := newHubBench(t)
				b.log = slog.New(slog.DiscardHandler) // 800 runs
				b.hub.log = b.log
				lines := make(chan *cutter, 100)
				network := &pipeNet{conns: b.net.conns, done: b.net.done, wrap: func(c net.Conn) net.Conn {
					line := &cutter{Conn: c}
					lines <- line
					return line
				}}
				var runs atomic.Int64
				b.daemonVia(network.client(), nil, workMethod(1500*time.Millisecond, &runs))
				b.online("m")
				time.Sleep(time.Second) // the first heartbeat is through
				if up {
					(<-lines).arm(enough, n)
				} else {
					(<-lines).arm(n, enough)
				}
				result, err := b.hub.perform(t.Context(), newCall(t, "test/work", "{}"), b.hub.machineTarget("m"))
				if err != nil || string(result) != "1" || runs.Load() != 1 {
					t.Errorf("cut after %d bytes, up %v: got %s, %v of %d runs, want the result 1 of 1 run", n, up, result, err, runs.Load())
				}
			})
		}
	}
}

// throttled is a connection that writes rate bytes a second.
type throttled struct {
	net.Conn
	rate int
}

func (c throttled) Write(p []byte) (n int, err error) {
	for piece := range slices.Chunk(p, 4<<10) {
		time.Sleep(time.Second * time.Duration(len(piece)) / time.Duration(c.rate))
		m, err := c.Conn.Write(piece)
		n += m
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// TestSlowLinkWithBigAnswer: an answer of 16 MiB over 256 KiB/s, with the real
// limits, is delivered. The machine is never offline, and the heartbeat that was
// due meanwhile follows at once.
func TestSlowLinkWithBigAnswer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const rate, size = 256 << 10, defaultMaxMessage - 100
		network := newPipeNet()
		b := newHubBenchOn(t, network, func(c *hubConfig) { c.maxMessage = defaultMaxMessage })
		slow := &pipeNet{conns: network.conns, done: network.done, wrap: func(c net.Conn) net.Conn { return throttled{c, rate} }}
		b.daemonVia(slow.client(), func(c *connector) { c.maxMessage = defaultMaxMessage }, bigMethod("test/big"))
		link := b.online("m")
		start := time.Now()
		result, err := b.hub.perform(t.Context(), newCall(t, "test/big", fmt.Sprintf(`{"count":%d,"timeout_ms":120000}`, size)), b.hub.machineTarget("m"))
		if err != nil || len(result) != size+2 {
			t.Errorf("got %d bytes, %v, want %d", len(result), err, size+2)
		}
		if took := time.Since(start); took < size/rate*time.Second {
			t.Errorf("the answer took %v, want at least %v over the slow link", took, size/rate*time.Second)
		}
		time.Sleep(time.Second)
		if v, _ := b.hub.view("m"); v.LastHeartbeatAt == nil || time.Since(*v.LastHeartbeatAt) > time.Second {
			t.Errorf("a second after the answer, at %v: the last heartbeat was at %v, want one within that second", time.Now(), v.LastHeartbeatAt)
		}
		if got := b.statuses("m"); !slices.Equal(got, []string{"online"}) || b.online("m") != link {
			t.Errorf("the machine was %q, the link is the same: %v, want online and the same", got, b.online("m") == link)
		}
	})
}

// TestSlowSocketWithBigAnswer is TestSlowLinkWithBigAnswer over real sockets, whose
// buffers hold a part of the answer. It has an eighth of the size, and the clocks
// run eight times as fast.
func TestSlowSocketWithBigAnswer(t *testing.T) {
	skipShort(t, "takes 8 s; TestSlowLinkWithBigAnswer does it in memory")
	t.Parallel()
	const scale, rate = 8, 256 << 10
	const size = defaultMaxMessage/scale - 100
	b := newSocketBench(t, func(c *hubConfig) {
		c.times = defaultLinkTimes().dividedBy(scale)
		c.times.piece = defaultLinkTimes().piece // a busy machine may leave a piece for a second
		c.offlineThreshold, c.heartbeatInterval = defaultOfflineThreshold/scale, defaultHeartbeatInterval/scale
	})
	proxy := newFaultProxy(t, b.server.Host)
	_, states := b.socketDaemon(proxy.address, "m", bigMethod("test/big"))
	await(t, states, "connected")
	link := b.online("m")
	proxy.up.set(toxics{rate: rate})
	result, err := b.hub.perform(t.Context(), newCall(t, "test/big", fmt.Sprintf(`{"count":%d}`, size)), b.hub.machineTarget("m"))
	if err != nil || len(result) != size+2 {
		t.Errorf("got %d bytes, %v, want %d", len(result), err, size+2)
	}
	if got := b.statuses("m"); !slices.Equal(got, []string{"online"}) || b.online("m") != link {
		t.Errorf("the machine was %q, the link is the same: %v, want online and the same", got, b.online("m") == link)
	}
}

// TestLinkInSlices: requests, answers and pings pass over a network that delivers
// every byte separately, and another daemon's link is not slower for it.
func TestLinkInSlices(t *testing.T) {
	t.Parallel()
	b := newSocketBench(t, func(c *hubConfig) { c.times = defaultLinkTimes() })
	proxy := newFaultProxy(t, b.server.Host)
	proxy.up.set(toxics{slice: 1})
	proxy.down.set(toxics{slice: 1})
	echo := newMethod("test/echo", "", func(_ context.Context, p echoParams) (echoParams, error) { return p, nil })
	b.socketDaemon(proxy.address, "sliced", echo)
	_, states := b.socketDaemon(b.server.Host, "neighbour", echo)
	await(t, states, "connected")
	sliced, neighbour := b.online("sliced"), b.online("neighbour")
	text := strings.Repeat("é", 10_000)
	answered := make(chan error, 1)
	go func() {
		result, err := b.hub.perform(t.Context(), newCall(t, "test/echo", `{"text":"`+text+`"}`), b.hub.machineTarget("sliced"))
		if err == nil && string(result) != `{"text":"`+text+`","count":0}` {
			err = fmt.Errorf("got %.100s, want the text back", result)
		}
		answered <- err
	}()
	for pending := true; pending; {
		if err := neighbour.link.ping(5 * time.Second); err != nil {
			t.Errorf("the neighbour's ping: %v, want an answer", err)
		}
		select {
		case err := <-answered:
			if err != nil {
				t.Error(err)
			}
			pending = false
		default:
		}
	}
	if err := sliced.link.ping(5 * time.Second); err != nil || b.online("sliced") != sliced {
		t.Errorf("a ping of the sliced link: %v, the same link: %v, want an answer over the same", err, b.online("sliced") == sliced)
	}
}

// TestHubThatStopsReading: the hub stops reading in the middle of a big answer.
// The daemon gives the link up after 10 s (1 s by its faster clock) and delivers
// the remembered answer after the reconnect.
func TestHubThatStopsReading(t *testing.T) {
	skipShort(t, "waits 2 s for the limits of a link; TestPeerThatTakesNothing does it in memory")
	t.Parallel()
	// No ping is due: only the piece that is not taken can end the link.
	const size = 4 << 20 // more than any buffer on the way
	b := newSocketBench(t, func(c *hubConfig) { c.times.ping, c.offlineThreshold = time.Hour, time.Hour })
	proxy := newFaultProxy(t, b.server.Host)
	var runs atomic.Int64
	big := newMethod("test/big", "", func(context.Context, none) (string, error) {
		runs.Add(1)
		return strings.Repeat("x", size), nil
	})
	_, states := b.socketDaemon(proxy.address, "m", big)
	await(t, states, "connected")
	proxy.up.set(toxics{hold: true})
	start := time.Now()
	type answer struct {
		result json.RawMessage
		err    error
	}
	answered := make(chan answer, 1)
	go func() {
		result, err := b.hub.perform(t.Context(), newCall(t, "test/big", "{}"), b.hub.machineTarget("m"))
		answered <- answer{result, err}
	}()
	await(t, states, "reconnecting")
	if took := time.Since(start); took < 10*time.Second/clockScale {
		t.Errorf("the link was given up after %v, want at least %v", took, 10*time.Second/clockScale)
	}
	proxy.up.set(toxics{})
	select {
	case a := <-answered:
		if a.err != nil || len(a.result) != size+2 || runs.Load() != 1 {
			t.Errorf("got %d bytes, %v of %d runs, want %d of 1 run", len(a.result), a.err, runs.Load(), size+2)
		}
	case <-time.After(patience):
		t.Errorf("the call got no answer within %v, want one after the reconnect", patience)
	}
}

// TestHalfOpenLinkIsReplaced: a daemon claims a machine id while the hub still has
// its old link. The same process gets the machine id at once; another process gets
// it only if the old link does not answer a ping.
func TestHalfOpenLinkIsReplaced(t *testing.T) {
	t.Parallel()
	// Pings are not scaled: only the claim can make the hub ask.
	unscaled := func(c *hubConfig) { c.times, c.offlineThreshold = defaultLinkTimes(), defaultOfflineThreshold }
	const delay = 200 * time.Millisecond
	blackHole := toxics{drop: true}
	for _, test := range []struct {
		name, claimant string
		line           toxics // of the old link, both ways
		got            bool   // the machine id
		why            error  // the end of the old link
		atLeast        time.Duration
		statuses       []string
	}{
		{"by the same process", "first", blackHole, true, errReplaced, 0, []string{"online", "online"}},
		{"by another, the old one lives", "second", toxics{latency: delay}, false, nil, 2 * delay, []string{"online"}},
		{"by another, the old one is dead", "second", blackHole, true, errPingTimeout, oldLinkTimeout, []string{"online", "offline", "online"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b := newSocketBench(t, unscaled)
			proxy := newFaultProxy(t, b.server.Host)
			_, states := b.socketInstance(proxy.address, "m", "first")
			await(t, states, "connected")
			old := b.online("m")
			proxy.up.set(test.line)
			proxy.down.set(test.line)
			start := time.Now()
			_, claims := b.socketInstance(b.server.Host, "m", test.claimant)
			if !test.got {
				await(t, claims, "reconnecting")
			} else {
				await(t, claims, "connected")
				<-old.done
			}
			if took := time.Since(start); took < test.atLeast {
				t.Errorf("the hub decided after %v, want at least %v: it has to ask the old link", took, test.atLeast)
			}
			old.link.mu.Lock()
			why := old.link.err
			old.link.mu.Unlock()
			if why != test.why || (b.online("m") == old) == test.got {
				t.Errorf("the old link ended with %v and was replaced: %v, want %v and %v", why, b.online("m") != old, test.why, test.got)
			}
			if got := b.statuses("m"); !slices.Equal(got, test.statuses) {
				t.Errorf("the machine was %q, want %q", got, test.statuses)
			}
		})
	}
}

// TestRequestsAtOnce: each of 2,000 large requests gets one answer, some of them
// SERVER_BUSY, over one link that is never given up. While they run and wait, the
// heartbeats go on and report their number.
func TestRequestsAtOnce(t *testing.T) {
	skipShort(t, "sends 2,000 large requests")
	t.Parallel()
	const beat = 200 * time.Millisecond
	b := newSocketBench(t, func(c *hubConfig) {
		c.times, c.heartbeatInterval = defaultLinkTimes(), beat // a busy machine may take a second for all
	})
	proxy := newFaultProxy(t, b.server.Host)
	var ran atomic.Int64
	release := make(chan struct{})
	work := newMethod("test/work", "", func(ctx context.Context, p echoParams) (int, error) {
		ran.Add(1)
		select {
		case <-release:
			return len(p.Text), nil
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	})
	_, states := b.socketDaemon(proxy.address, "m", work)
	await(t, states, "connected")
	link := b.online("m")
	const all, size = 2000, 8 << 10
	text := strings.Repeat("x", size)
	outcomes := make(chan error, all)
	for range all {
		go func() {
			result, err := b.hub.perform(t.Context(), newCall(t, "test/work", `{"text":"`+text+`"}`), b.hub.machineTarget("m"))
			if err == nil && string(result) != fmt.Sprint(size) {
				err = fmt.Errorf("got the answer %s, want %d", result, size)
			}
			outcomes <- err
		}()
	}
	busy, served := 0, 0
	limit := time.After(patience)
	for range all {
		select {
		case err := <-outcomes:
			e, isAnswer := errors.AsType[*rpcError](err)
			switch {
			case err == nil:
				served++
			case isAnswer && e.name() == codeServerBusy:
				busy++
			default:
				t.Fatal(err)
			}
			if busy == all-defaultMaxConcurrent-maxQueue && served == 0 {
				for range 2 {
					refused := time.Now().UTC()
					awaitThat(t, "a heartbeat of the crowded daemon", func() bool {
						v, _ := b.hub.view("m")
						return v.LastHeartbeatAt != nil && v.LastHeartbeatAt.After(refused) && v.ActiveRequests == defaultMaxConcurrent+maxQueue
					})
				}
				close(release)
			}
		case <-limit:
			t.Fatalf("%d requests were served and %d refused within %v, want %d in all", served, busy, patience, all)
		}
	}
	if served != defaultMaxConcurrent+maxQueue || ran.Load() != int64(served) {
		t.Errorf("%d requests were served by %d runs and %d refused, want %d served by as many", served, ran.Load(), busy, defaultMaxConcurrent+maxQueue)
	}
	if b.online("m") != link || proxy.dialled() != 1 {
		t.Errorf("the daemon dialled %d times, want the same link all the time", proxy.dialled())
	}
}
