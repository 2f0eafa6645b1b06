package main

import (
	"context"
	"encoding/json"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"
)

// TestLinkLostWhileTasksWait: tasks that wait for a place when their link is lost
// do not start. The next link requests them again, and each runs once.
func TestLinkLostWhileTasksWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const all = 50
		var runs atomic.Int64
		release := make(chan struct{})
		work := newMethod("test/work", "", func(ctx context.Context, _ none) (int64, error) {
			n := runs.Add(1)
			select {
			case <-release:
			case <-ctx.Done():
			}
			return n, ctx.Err()
		})
		b := newRPCBench(t, release, work) // with two places
		ask := func(b *rpcBench) {
			for id := range all {
				b.put(`{"jsonrpc":"2.0","id":%d,"method":"test/work","params":{"task_id":"T%d"}}`, id, id)
			}
			synctest.Wait()
		}
		ask(b)
		b.close()
		<-b.ended
		synctest.Wait()
		if n := runs.Load(); n != 2 {
			t.Errorf("%d tasks ran before their link was lost, want 2: there are 2 places", n)
		}
		second := &rpcBench{wire: newWire(), t: t, service: b.service, ended: make(chan struct{})}
		second.peer = newPeer(second.wire, b.service.newDispatcher(), 1000, b.service.log)
		go func() { defer close(second.ended); _ = second.peer.run() }()
		defer func() { second.close(); <-second.ended }()
		ask(second)
		close(release)
		for range all {
			if got := second.get(); !strings.Contains(got, `"result":`) {
				t.Errorf("a task on the second link got %s, want a result", got)
			}
		}
		if n := runs.Load(); n != all {
			t.Errorf("%d runs, want one of each of %d tasks", n, all)
		}
	})
}

// TestBothSidesCrowded: the hub sends more requests than the daemon has room for,
// while the daemon waits for the hub to read its answers. They do not block each
// other for ever.
func TestBothSidesCrowded(t *testing.T) {
	skipShort(t, "makes 5,000 calls")
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newHubBench(t)
		b.daemon("m", "i", "", bigMethod("test/big"))
		b.online("m")
		link := b.online("m")
		const all = 5000
		outcomes := make(chan error, all)
		for range all {
			go func() {
				_, err := b.hub.perform(t.Context(), newCall(t, "test/big", `{"count":5000}`), b.hub.machineTarget("m"))
				outcomes <- err
			}()
		}
		for range all {
			if err := <-outcomes; err != nil && !strings.Contains(err.Error(), "already waiting") && !strings.Contains(err.Error(), "too many calls wait") {
				t.Fatal(err)
			}
		}
		if b.online("m") != link {
			t.Error("the daemon has another link, want the same all the time")
		}
	})
}

// TestCallCancelledBeforeItIsWritten: a call that is cancelled before its request
// is written returns at once and leaves no entry in the table of calls.
func TestCallCancelledBeforeItIsWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, _ := linkPair(t, nil, defaultLinkTimes()) // nobody reads the other end
		p := newPeer(client, nil, 1<<20, client.log)
		ctx, cancel := context.WithCancel(t.Context())
		const all = 2 * maxUnsentCalls
		ended := make(chan error, all)
		for range all {
			go func() {
				_, err := p.call(ctx, "m", strings.Repeat("x", maxFrame))
				ended <- err
			}()
		}
		synctest.Wait()
		if client.overloaded() {
			t.Errorf("%d calls fill the link's queue, want at most %d in it", all, maxUnsentCalls)
		}
		cancel()
		for range all {
			if err := <-ended; err != context.Canceled {
				t.Errorf("a cancelled call returned %v, want %v", err, context.Canceled)
			}
		}
		if len(p.calls) != 0 {
			t.Errorf("%d calls are left, want 0", len(p.calls))
		}
	})
}

// TestCloseCodeBehindBrokenWrite: a daemon reads close code 4001 even when the
// server closes the connection while the daemon writes a long answer.
func TestCloseCodeBehindBrokenWrite(t *testing.T) {
	s := newLinkServer(t, bigMethod("test/big"))
	for range 10 {
		c := dialRaw(t, s.address)
		c.put(whole(frameFin|frameText, `{"jsonrpc":"2.0","id":1,"method":"test/big","params":{"count":1000000}}`))
		if _, err := c.r.Peek(1); err != nil { // the answer is on its way
			t.Fatal(err)
		}
		c.put(whole(frameFin|frameClose, "\x0f\xa1replaced"))
		_ = c.SetLinger(0)
		_ = c.Close()
		if err := s.end(t); websocket.CloseStatus(err) != closeReplaced {
			t.Fatalf("the link ended with %v, want close code %d", err, closeReplaced)
		}
	}
}

// TestWallClockJumpOfLivingLink: when the wall clock jumps by an hour, the link
// sends one ping and lives.
func TestWallClockJumpOfLivingLink(t *testing.T) {
	for _, jump := range []time.Duration{time.Hour, -time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			var offset time.Duration
			times := defaultLinkTimes()
			start := time.Now()
			times.wall = func() time.Time {
				if time.Since(start) > time.Minute {
					return time.Now().Add(offset)
				}
				return time.Now()
			}
			offset = jump
			var pings atomic.Int64
			client, server := linkPair(t, func(c net.Conn) net.Conn { return pingCounter{c, &pings} }, times)
			_, clientEnded := drain(client)
			_, serverEnded := drain(server)
			time.Sleep(time.Minute)
			before := pings.Load()
			time.Sleep(wallCheck + time.Second)
			if n := pings.Load() - before; n < 1 || n > 4 { // both sides ask and answer, none is due otherwise
				t.Errorf("%d control frames after a jump of %v, want 1 to 4", n, jump)
			}
			time.Sleep(time.Hour)
			select {
			case err := <-clientEnded:
				t.Errorf("the link ended with %v, want it to live", err)
			case err := <-serverEnded:
				t.Errorf("the link ended with %v, want it to live", err)
			default:
			}
		})
	}
}

// TestWallClockJumpOfMachine: the clocks of a daemon and its hub jump an hour
// forward and back, and the machine is never offline.
func TestWallClockJumpOfMachine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var offset atomic.Int64
		times := defaultLinkTimes()
		times.wall = func() time.Time { return time.Now().Add(time.Duration(offset.Load())) }
		network := newPipeNet()
		b := newHubBenchOn(t, network, func(c *hubConfig) { c.times = times })
		b.daemonVia(network.client(), func(c *connector) { c.times = times })
		first := b.online("m")
		for _, jump := range []time.Duration{time.Hour, -time.Hour, 0} {
			time.Sleep(2 * defaultOfflineThreshold)
			offset.Store(int64(jump))
			time.Sleep(2 * defaultOfflineThreshold)
			if got := b.statuses("m"); !slices.Equal(got, []string{"online"}) || b.online("m") != first {
				t.Fatalf("after a jump of %v the machine was %q, want online over the same link", jump, got)
			}
		}
	})
}

// pingCounter counts the pings and pongs that a connection sends.
type pingCounter struct {
	net.Conn
	n *atomic.Int64
}

func (c pingCounter) Write(p []byte) (int, error) {
	if len(p) > 0 && (p[0]&0xf == framePing || p[0]&0xf == framePing+1) {
		c.n.Add(1)
	}
	return c.Conn.Write(p)
}

// TestLongFrameOverSlowLink: a long message in one frame, which RFC 6455 allows and
// this protocol does not, keeps the link alive while it comes in.
func TestLongFrameOverSlowLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		times := defaultLinkTimes()
		times.piece = time.Hour // the frame is one piece
		client, server := linkPair(t, func(c net.Conn) net.Conn { return slowly{c} }, times)
		_, clientEnded := drain(client)
		messages, serverEnded := drain(server)
		message, err := json.Marshal(strings.Repeat("x", 1<<19-2))
		if err != nil {
			t.Fatal(err)
		}
		go func() { _ = client.conn.Write(context.Background(), websocket.MessageText, message) }()
		for step := range 10 {
			select {
			case m := <-messages:
				if len(m) != len(message) {
					t.Errorf("the message has %d bytes, want %d", len(m), len(message))
				}
				return
			case err := <-clientEnded:
				t.Fatal(err)
			case err := <-serverEnded:
				t.Fatal(err)
			case <-time.After(time.Second):
				if quiet := server.silence(); quiet > 2*time.Second {
					t.Fatalf("after %d s: %v without a piece, want at most 2 s", step, quiet)
				}
			}
		}
		t.Error("the message did not come within 10 s, want it after 8")
	})
}

// TestUnsentBytesStopReading: a peer that asks for large answers and takes none
// is not read any more once maxUnsentBytes wait for it.
func TestUnsentBytesStopReading(t *testing.T) {
	t.Parallel()
	if maxUnsentBytes != 64<<20 {
		t.Errorf("maxUnsentBytes is %d, want 64 MiB", maxUnsentBytes)
	}
	synctest.Test(t, func(t *testing.T) {
		times := defaultLinkTimes()
		times.piece = time.Hour // the link itself must live
		client, server := linkPair(t, nil, times)
		answer := make([]byte, 1<<20)
		const all = maxUnsentBytes>>20 + 1 // one of which the connection takes
		for range all {
			server.send(answer, nil)
		}
		messages, _ := drain(server)
		client.send([]byte(`{"a":1}`), nil)
		time.Sleep(time.Second)
		if len(messages) != 0 {
			t.Errorf("a link with %d MiB of unread answers was read, want reading to pause", all)
		}
		answers, _ := drain(client)
		for range all {
			<-answers
		}
		<-messages // and to go on
	})
}

// TestPingsDuringLongMessage: while a long message comes in, the receiver pings
// at half the usual interval, for the sender's own pings wait behind its message.
func TestPingsDuringLongMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		times := defaultLinkTimes()
		var pings atomic.Int64
		client, server := linkPair(t, func(c net.Conn) net.Conn { return pingsReceived{slowly{c}, &pings} }, times)
		messages, serverEnded := drain(server)
		_, clientEnded := drain(client)
		client.send(make([]byte, 1<<20), nil) // 16 s
		select {
		case <-messages:
		case err := <-clientEnded:
			t.Fatal(err)
		case err := <-serverEnded:
			t.Fatal(err)
		}
		if n := pings.Load(); n != 1 {
			t.Errorf("%d pings reached the sender during the 16 s of its message, want 1 after %v", n, times.ping/2)
		}
	})
}

// pingsReceived counts the pings that come to a client's connection.
type pingsReceived struct {
	net.Conn
	n *atomic.Int64
}

func (c pingsReceived) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 && p[0] == frameFin|framePing {
		c.n.Add(1)
	}
	return n, err
}
