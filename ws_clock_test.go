//go:build linux || darwin

package main

import (
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// rawMachine makes the handshake of a machine by hand.
func rawMachine(t *testing.T, b *hubBench, id string) *rawClient {
	t.Helper()
	c := dialRaw(t, b.server.Host)
	c.put(whole(frameFin|frameText, strings.Replace(userHandshake, `"m"`, `"`+id+`"`, 1)))
	c.says(`{"jsonrpc":"2.0","id":1,"result":{"accepted":true`)
	return c
}

// TestClockFindsTheDead: of many links those are lost whose other side answers no
// ping, within the time of ping and pong, and no others. A ping is sent again after
// a pong.
func TestClockFindsTheDead(t *testing.T) {
	skipShort(t, "waits 1.5 s for pongs, which a busy machine may need; TestServerAnswersPings and TestClockAfterSuspension are quick")
	t.Parallel()
	b := newSocketHub(t, func(c *hubConfig) {
		c.times = defaultLinkTimes()
		c.times.ping, c.times.pong = 300*time.Millisecond, 1500*time.Millisecond
	})
	var wg sync.WaitGroup
	pings := make(chan int, 40)
	for i := range 40 {
		c := rawMachine(t, b, fmt.Sprint("m", i))
		wg.Go(func() { // ends with the link
			n := 0
			defer func() { pings <- n }()
			for {
				first, _, err := c.next()
				if err != nil {
					return
				}
				if first == finalPing {
					if n++; i%2 == 0 {
						c.put(whole(frameFin|0xa, ""))
					}
					if n == 3 { // it has outlived the others
						_ = c.Close()
						return
					}
				}
			}
		})
	}
	wg.Wait()
	close(pings)
	alive, dead := 0, 0
	for n := range pings {
		switch n {
		case 3:
			alive++
		case 1:
			dead++
		default:
			t.Errorf("a link got %d pings, want 3 with pongs and 1 without", n)
		}
	}
	if alive != 20 || dead != 20 {
		t.Errorf("got %d links that lived for 3 pings and %d that ended after one, want 20 of each", alive, dead)
	}
}

// TestClockAfterSuspension: a jump of the wall clock pings all links at once, and
// is logged once.
func TestClockAfterSuspension(t *testing.T) {
	t.Parallel()
	var jump atomic.Int64
	log := newSyncBuffer()
	b := newSocketHub(t, func(c *hubConfig) {
		c.times.ping = 2 * time.Second // it looks every half second, and pings no link in this test without the jump
		c.times.wall = func() time.Time { return time.Now().Add(time.Duration(jump.Load())) }
		c.log = slog.New(slog.NewTextHandler(log, nil))
	})
	var clients []*rawClient
	for i := range 3 {
		clients = append(clients, rawMachine(t, b, fmt.Sprint("m", i)))
	}
	jump.Store(int64(time.Minute))
	began := time.Now()
	for i, c := range clients {
		if first, _, err := c.next(); err != nil || first != finalPing {
			t.Errorf("link %d: got %#x, %v, want a ping", i, first, err)
		}
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("the pings took %v, want them within the next look", took)
	}
	if n := strings.Count(log.String(), "clock jumped"); n != 1 {
		t.Errorf("the log names the jump %d times, want once: %s", n, log)
	}
}

// TestIdleLinkHasOneGoroutine: thousands of links are idle. It is not parallel,
// because it looks at all goroutines.
func TestIdleLinkHasOneGoroutine(t *testing.T) {
	const links = 10
	b := newSocketHub(t, nil)
	for i := range links {
		rawMachine(t, b, fmt.Sprint("m", i))
	}
	var of map[string]int
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) { // the last answer may still be written
		of = map[string]int{}
		for _, stack := range otherGoroutines() {
			for _, name := range []string{".(*hubConn).run(", ".(*link).", "net/http.(*conn).serve("} {
				if strings.Contains(stack, name) {
					of[name]++
				}
			}
		}
		if of[".(*hubConn).run("] == links && of[".(*link)."] == links && of["net/http.(*conn).serve("] == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("got goroutines %v, want %d that read and no other", of, links)
		}
	}
}
