//go:build linux || darwin

package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// acceptLog is a listener that notes when connections came.
type acceptLog struct {
	net.Listener
	mu    sync.Mutex // guards the field below
	times []time.Time
}

func (l *acceptLog) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.times = append(l.times, time.Now())
	}
	return c, err
}

// peak is the most of these times, in order, within any 100 ms.
func peak(times []time.Time) int {
	most, first := 0, 0
	for i, at := range times {
		for at.Sub(times[first]) > 100*time.Millisecond {
			first++
		}
		most = max(most, i-first+1)
	}
	return most
}

// dialPlan is a daemon's log, of which it keeps when the daemon will dial. A busy
// machine dials and accepts late, and then many at once; the plan is what spreads
// them.
type dialPlan struct {
	slog.Handler
	mu    sync.Mutex // guards the field below
	times []time.Time
}

func (p *dialPlan) Enabled(context.Context, slog.Level) bool { return true }

func (p *dialPlan) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "delay_ms" {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.times = append(p.times, r.Time.Add(time.Duration(a.Value.Int64())*time.Millisecond))
		}
		return a.Key != "delay_ms"
	})
	return nil
}

// TestHubRestartsUnderThousandDaemons: it is gone for 3 s. All are back within
// 10 s of its end, and no 100 ms sees more than 100 of them.
func TestHubRestartsUnderThousandDaemons(t *testing.T) {
	skipShort(t, "runs 1,000 daemons, for 7 s") // and alone: it is about when they dial
	const all = 1000
	quiet := func(c *hubConfig) {
		c.times, c.log = defaultLinkTimes(), slog.New(slog.DiscardHandler)
	}
	address := "127.0.0.1:0"
	listen := func() *acceptLog {
		listener, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		return &acceptLog{Listener: listener}
	}
	before := listen()
	address = before.Addr().String()
	old := newHubBenchOn(t, before, quiet)
	old.log = slog.New(slog.DiscardHandler)
	var wg sync.WaitGroup
	connected := make(chan struct{}, 2*all)
	client, err := newLinkClient("", keyPair{})
	if err != nil {
		t.Fatal(err)
	}
	plans := make([]dialPlan, all)
	for i := range plans {
		plans[i].Handler = slog.DiscardHandler
		wg.Go(func() {
			old.daemonVia(client, func(c *connector) {
				c.log = slog.New(&plans[i])
				c.handshake.MachineID, c.handshake.InstanceID = fmt.Sprint("m", i), fmt.Sprint("i", i)
				c.onState = func(state string) {
					if strings.HasPrefix(state, "connected") {
						connected <- struct{}{}
					}
				}
			})
		})
	}
	wg.Wait()
	await := func() {
		limit := time.After(patience)
		for n := range all {
			select {
			case <-connected:
			case <-limit:
				t.Fatalf("got %d connected, want %d", n, all)
			}
		}
	}
	await()
	down := time.Now()
	_ = before.Close()
	old.hub.close()
	time.Sleep(3*time.Second - time.Since(down)) // the hub's absence
	after := listen()
	back := time.Now()
	newHubBenchOn(t, after, quiet)
	await()
	var dials []time.Time
	last := down
	for i := range plans {
		plans[i].mu.Lock()
		for _, at := range plans[i].times {
			if at.After(last) {
				last = at
			}
			if at.After(back) {
				dials = append(dials, at)
			}
		}
		plans[i].mu.Unlock()
	}
	slices.SortFunc(dials, time.Time.Compare)
	after.mu.Lock()
	accepts := peak(after.times)
	after.mu.Unlock()
	t.Logf("gone for %v, all dialled within %v and were back after %v, at most %d dialled within 100 ms and %d were accepted", back.Sub(down), last.Sub(down), time.Since(down), peak(dials), accepts)
	limit := 20 * time.Second // on an idle machine all have dialled after 7 s
	if gone := back.Sub(down); gone > 3100*time.Millisecond {
		limit = gone + 9*time.Second // on a machine that is too busy to hang up on all in 3 s the third attempt may fail, too
	}
	if last.Sub(down) > limit {
		t.Errorf("got the last dial after %v, want it within %v", last.Sub(down), limit)
	}
	if most := peak(dials); most > 100 || len(dials) < all*9/10 {
		t.Errorf("got %d of %d dials within 100 ms, want at most 100 of nearly %d", most, len(dials), all)
	}
}

// TestCompression: --compress is offered, agreed on and used both ways; without
// it nothing is offered, and a server that would like to does not get it.
func TestCompression(t *testing.T) {
	t.Parallel()
	for _, compress := range []bool{true, false} {
		t.Run(fmt.Sprint(compress), func(t *testing.T) {
			offers := make(chan string, 1)
			s := newLinkServer(t, bigMethod("test/big"))
			front := newHTTPServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { offers <- r.Header.Get("Sec-WebSocket-Extensions") }))
			var args []string
			if compress {
				args = []string{"--compress"}
			}
			p := start(t, daemonName, nil, append([]string{"--server", front, "--machine-id", "m", "--max-reconnect-attempts", "1"}, args...)...)
			p.exit()
			if offer := <-offers; strings.Contains(offer, "permessage-deflate") != compress || compress && !strings.Contains(offer, "no_context_takeover") {
				t.Errorf("got the offer %q, want compression: %v", offer, compress)
			}
			// The accepting side, by hand: a compressed request and its answer.
			header := "X-Y: z"
			if compress {
				header = deflate
			}
			c := dialRaw(t, s.address, header)
			request := `{"jsonrpc":"2.0","id":1,"method":"test/big","params":{"count":100000}}`
			if compress {
				c.put(whole(frameFin|frameText|frameRSV1, deflated(t, request)))
			} else {
				c.put(whole(frameFin|frameText, request))
			}
			size, compressed := 0, false
			for {
				first, payload, err := c.next()
				if err != nil {
					t.Fatal(err)
				}
				size += len(payload)
				compressed = compressed || first&frameRSV1 != 0
				if first&frameFin != 0 {
					break
				}
			}
			if compressed != compress || (size < 10_000) != compress {
				t.Errorf("got an answer of %d bytes, compressed %v, want compressed %v", size, compressed, compress)
			}
		})
	}
	// The daemon's own side writes and reads compressed messages, long and short.
	b := newSocketBench(t, func(c *hubConfig) { c.times = defaultLinkTimes() })
	echo := newMethod("test/echo", "", func(_ context.Context, p echoParams) (echoParams, error) { return p, nil })
	client, err := newLinkClient("", keyPair{})
	if err != nil {
		t.Fatal(err)
	}
	b.daemonVia(client, func(c *connector) { c.compress, c.maxMessage = true, defaultMaxMessage }, echo)
	b.online("m")
	for _, count := range []int{1, 600, maxFrame, 5 << 20} {
		text := strings.Repeat("é", count/2)
		result, err := b.hub.perform(t.Context(), newCall(t, "test/echo", `{"text":"`+text+`"}`), b.hub.machineTarget("m"))
		if err != nil || string(result) != `{"text":"`+text+`","count":0}` {
			t.Errorf("%d: got %d bytes, %v, want the echo", count, len(result), err)
		}
	}
	if got := b.statuses("m"); !slices.Equal(got, []string{"online"}) {
		t.Errorf("got %q, want online", got)
	}
}
