//go:build linux || darwin

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"
)

// rogue is a daemon that sends what a test tells it. It reads all and keeps the
// requests.
type rogue struct {
	t        *testing.T
	conn     *websocket.Conn
	requests chan string // ids of the hub's requests
	answers  chan string // answers of the hub; closed with the link
}

// rogue connects one as the machine.
func (b *hubBench) rogue(machineID string) *rogue {
	b.t.Helper()
	conn, _, err := websocket.Dial(b.t.Context(), "ws://pipe/", &websocket.DialOptions{HTTPClient: b.net.client()})
	if err != nil {
		b.t.Fatal(err)
	}
	r := &rogue{t: b.t, conn: conn, requests: make(chan string, 3000), answers: make(chan string, 3000)}
	go func() {
		for {
			_, data, err := conn.Read(context.Background())
			if err != nil {
				close(r.answers)
				return
			}
			var m struct {
				ID     json.RawMessage
				Method string
			}
			if json.Unmarshal(data, &m) == nil && m.Method != "" && m.ID != nil {
				r.requests <- string(m.ID)
			} else if m.Method == "" {
				r.answers <- string(data)
			}
		}
	}()
	b.t.Cleanup(func() { _ = conn.CloseNow() })
	r.say(handshakeOf(machineID, "rogue"))
	<-r.answers
	return r
}

// say sends a message; a link that the hub has closed takes none.
func (r *rogue) say(message string) {
	_ = r.conn.Write(context.Background(), websocket.MessageText, []byte(message))
}

// TestFloodingDaemonWaits: a daemon that floods is read as slowly as the rate
// says; the calls of the others take no longer.
func TestFloodingDaemonWaits(t *testing.T) {
	const progress = `{"jsonrpc":"2.0","method":"task/progress","params":{"task_id":"T","method":"m","percent":1%s}}`
	for _, test := range []struct {
		name, message string
		count         int
		atLeast       time.Duration
	}{
		{"progress", fmt.Sprintf(progress, ""), 1500, 2500 * time.Millisecond},
		{"heartbeats", `{"jsonrpc":"2.0","method":"daemon/heartbeat","params":{"machine_id":"rogue"}}`, 1500, 2500 * time.Millisecond},
		{"unknown notifications", `{"jsonrpc":"2.0","method":"x/y"}`, 1500, 2500 * time.Millisecond},
		{"answers to nothing", `{"jsonrpc":"2.0","id":4711,"result":1}`, 1500, 2500 * time.Millisecond},
		{"requests", `{"jsonrpc":"2.0","id":2,"method":"fs/stat"}`, 1500, 2500 * time.Millisecond},
		{"no JSON", `x`, 1500, 2500 * time.Millisecond},
		{"batches", `[` + strings.Repeat(`{"jsonrpc":"2.0","method":"x/y"},`, 99) + `1]`, 15, 2500 * time.Millisecond},
		{"long progress", fmt.Sprintf(progress, `,"message":"`+strings.Repeat("x", 900<<10)+`"`), 30, 500 * time.Millisecond},
		{"long nonsense", strings.Repeat(" ", 900<<10), 30, 500 * time.Millisecond},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newHubBench(t)
				b.daemon("quiet", "i", "", newMethod("test/echo", "", func(_ context.Context, p echoParams) (echoParams, error) { return p, nil }))
				b.online("quiet")
				r := b.rogue("rogue")
				conn := b.online("rogue")
				began := time.Now()
				done := make(chan time.Duration)
				go func() {
					for range test.count {
						r.say(test.message)
					}
					r.say(`{"jsonrpc":"2.0","id":"last","method":"x/y"}`)
				}()
				go func() {
					for answer := range r.answers {
						if strings.Contains(answer, `"last"`) {
							break
						}
					}
					done <- time.Since(began)
				}()
				for range 100 {
					before := time.Now()
					if _, err := b.hub.perform(t.Context(), newCall(t, "test/echo", `{}`), b.hub.machineTarget("quiet")); err != nil {
						t.Fatal(err)
					}
					if took := time.Since(before); took > 0 {
						t.Errorf("a call of another machine: got %v, want no wait", took)
					}
					time.Sleep(10 * time.Millisecond)
				}
				if took := <-done; took < test.atLeast || took > 3*test.atLeast {
					t.Errorf("%d messages: got them handled in %v, want %v to %v", test.count, took, test.atLeast, 3*test.atLeast)
				}
				if c := b.online("rogue"); c != conn {
					t.Error("the link was lost, want it to stay")
				}
			})
		})
	}
}

// Frames that are no messages are read at the same rate.
func TestFloodOfFramesWaits(t *testing.T) {
	const count = 3000
	for name, send := range map[string]func(*rogue){
		"pings": func(r *rogue) {
			for range count {
				if err := r.conn.Ping(context.Background()); err != nil {
					r.t.Error(err)
					return
				}
			}
		},
		"parts of a message": func(r *rogue) {
			w, err := r.conn.Writer(context.Background(), websocket.MessageText)
			for n := 0; n < count && err == nil; n++ {
				_, err = w.Write([]byte{' '})
			}
			if err != nil || w.Close() != nil {
				r.t.Error(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newHubBench(t)
				r := b.rogue("m")
				r.t = t
				conn := b.online("m")
				began := time.Now()
				send(r)
				r.say(`{"jsonrpc":"2.0","id":"last","method":"x/y"}`)
				for answer := range r.answers {
					if strings.Contains(answer, `"last"`) {
						break
					}
				}
				if took := time.Since(began); took < 5*time.Second || took > 15*time.Second {
					t.Errorf("%d frames: got them handled in %v, want 5 s to 15 s", count, took)
				}
				if b.online("m") != conn {
					t.Error("the link was lost, want it to stay")
				}
			})
		})
	}
}

// A link takes at once what a daemon that works may send.
func TestUsualMessagesAreNotSlowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newHubBench(t)
		r := b.rogue("m")
		b.online("m")
		time.Sleep(10 * time.Second)
		began := time.Now()
		for range 1064 { // answers to calls whose callers went away
			r.say(`{"jsonrpc":"2.0","id":4711,"error":{"code":-32800,"message":"cancelled"}}`)
		}
		for range 10 * 4 { // seconds of 64 requests with progress
			for n := range 64 {
				r.say(fmt.Sprintf(`{"jsonrpc":"2.0","method":"task/progress","params":{"task_id":"T%d","percent":1}}`, n))
			}
			time.Sleep(250 * time.Millisecond)
		}
		if took := time.Since(began); took > 10*time.Second+100*time.Millisecond {
			t.Errorf("got them taken in %v, want 10 s", took)
		}
	})
}

// The library writes a compressed message in thousands of short frames: a daemon with
// --compress that sends a long one is no flood.
func TestCompressedMessagesAreNotSlowed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newHubBench(t)
		d := b.daemonVia(b.net.client(), func(c *connector) { c.handshake.MachineID, c.compress = "m", true }, newMethod("test/hex", "", func(context.Context, none) (string, error) { return randomHex(450_000), nil }))
		defer d.stop()
		b.online("m")
		time.Sleep(10 * time.Second)
		began := time.Now()
		for range 8 {
			c := newCall(t, "test/hex", `{}`)
			if _, err := b.hub.perform(t.Context(), c, b.hub.machineTarget("m")); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(began); took > 100*time.Millisecond {
			t.Errorf("got 8 compressed answers of 900 kB in %v, want no pause", took)
		}
	})
}

// What a daemon says that was not asked, or is not its own, changes nothing for the
// calls of others, and is not published.
func TestLyingDaemonIsIgnored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newHubBench(t)
		var mu sync.Mutex
		published := map[string]int{}
		b.hub.publish = func(name string, params any) {
			mu.Lock()
			defer mu.Unlock()
			if p, ok := params.(machineProgress); ok {
				published[p.MachineID]++
			}
		}
		release := make(chan struct{})
		b.daemon("honest", "i", "", newMethod("test/slow", "", func(context.Context, none) (string, error) { <-release; return "mine", nil }))
		b.online("honest")
		r := b.rogue("rogue")
		b.online("rogue")
		c := newCall(t, "test/slow", `{"task_id":"T"}`)
		watch, stop := b.hub.watch(c)
		defer stop()
		done := make(chan string)
		go func() {
			result, err := b.hub.perform(t.Context(), c, b.hub.machineTarget("honest"))
			done <- fmt.Sprint(string(result), err)
		}()
		synctest.Wait()
		conn := b.online("honest")
		for _, message := range []string{
			fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"result":"stolen"}`, conn.peer.lastID),
			`{"jsonrpc":"2.0","id":1,"result":"stolen"}`,
			`{"jsonrpc":"2.0","method":"task/progress","params":{"task_id":"T","percent":99}}`,
			`{"jsonrpc":"2.0","method":"task/progress","params":{"task_id":"T","percent":99,"machine_id":"honest","lib_id":"x"}}`,
			`{"jsonrpc":"2.0","method":"task/progress","params":{"task_id":"T","percent":99,"message":"` + strings.Repeat("x", maxEvent) + `"}}`,
			`{"jsonrpc":"2.0","method":"task/progress","params":[]}`,
			`{"jsonrpc":"2.0","method":"daemon/heartbeat","params":{"machine_id":"honest","active_requests":1000}}`,
			handshakeOf("honest", "rogue"), // another machine's id, and a change of its own
			handshakeOf("rogue2", "rogue"),
		} {
			r.say(message)
		}
		synctest.Wait()
		for range 2 {
			if answer := <-r.answers; !strings.Contains(answer, "handshake was made already") {
				t.Errorf("another handshake: got %s, want it refused", answer)
			}
		}
		select {
		case p := <-watch.newest:
			t.Errorf("got the progress %s, want none", p)
		default:
		}
		if view, _ := b.hub.view("honest"); view.ActiveRequests != 1 || view.Status != "online" {
			t.Errorf("got %+v, want it online with 1 request", view)
		}
		close(release)
		if got := <-done; got != `"mine"<nil>` {
			t.Errorf("got %s, want the answer of the honest daemon", got)
		}
		if mu.Lock(); published["honest"] != 0 || published["rogue"] != 2 {
			t.Errorf("got %v published, want 2 of the rogue and none of the honest", published)
		}
		mu.Unlock()
		// A duplicate does not get in while the other is alive.
		second := &rogue{t: t, requests: make(chan string, 1), answers: make(chan string, 1)}
		var err error
		if second.conn, _, err = websocket.Dial(t.Context(), "ws://pipe/", &websocket.DialOptions{HTTPClient: b.net.client()}); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = second.conn.CloseNow() }()
		second.say(handshakeOf("honest", "rogue"))
		if _, data, err := second.conn.Read(t.Context()); err != nil || !strings.Contains(string(data), "connected already") {
			t.Errorf("the id of another machine: got %s, %v, want a refusal", data, err)
		}
		if b.online("honest") != conn {
			t.Error("the honest machine has another link, want its own")
		}
	})
}

// A daemon that answers a call twice, or uses an id of its own again, disturbs no
// other call of the same link.
func TestReusedIDsAreIgnored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newHubBench(t)
		r := b.rogue("m")
		b.online("m")
		results := make(chan string)
		perform := func() {
			result, err := b.hub.perform(t.Context(), newCall(t, "fs/stat", `{}`), b.hub.machineTarget("m"))
			results <- fmt.Sprint(string(result), err)
		}
		go perform()
		first := <-r.requests
		go perform()
		second := <-r.requests
		r.say(fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"result":1}`, first))
		r.say(fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"result":2}`, first))
		r.say(fmt.Sprintf(`{"jsonrpc":"2.0","id":%q,"result":3}`, second)) // a string is another id
		r.say(fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"result":4}`, second))
		got := []string{<-results, <-results}
		if slices.Sort(got); !slices.Equal(got, []string{"1<nil>", "4<nil>"}) {
			t.Errorf("got %q, want 1 and 4", got)
		}
	})
}

// The calls that wait for one machine are bounded, and so are their params; those
// to another machine are not refused.
func TestMachineLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newHubBench(t)
		r := b.rogue("stuck") // never answers
		b.online("stuck")
		b.rogue("other")
		b.online("other")
		var calls sync.WaitGroup
		ctx, cancel := context.WithCancel(t.Context())
		perform := func(machineID string) error {
			_, err := b.hub.perform(ctx, newCall(t, "fs/stat", `{}`), b.hub.machineTarget(machineID))
			return err
		}
		for range maxMachineCalls {
			calls.Go(func() { _ = perform("stuck") })
		}
		synctest.Wait()
		err := perform("stuck")
		if e, ok := errors.AsType[*apiError](err); !ok || e.status != 429 || e.rpc().name() != codeServerBusy || e.rpc().Data["retry_after_ms"] == nil {
			t.Errorf("got %v, want SERVER_BUSY with the status 429", err)
		}
		calls.Go(func() { _ = perform("other") })
		synctest.Wait()
		if n := b.online("other").peer.pending(); n != 1 {
			t.Errorf("another machine: got %d calls, want 1", n)
		}
		if len(r.requests) != maxMachineCalls {
			t.Errorf("got %d requests at the daemon, want %d", len(r.requests), maxMachineCalls)
		}
		cancel()
		calls.Wait()
		load := &b.online("stuck").load
		if load.calls != 0 || load.bytes != 0 {
			t.Errorf("got %d calls and %d bytes after all have ended, want none", load.calls, load.bytes)
		}
		if load.begin(maxMachineBytes+1) != nil {
			t.Error("the only call was refused for its params, want it accepted")
		}
		if load.begin(1) == nil {
			t.Error("got another call accepted, want it refused: the bytes are in use")
		}
	})
}

// A rate limit saves a burst, and tells how long to wait for more.
func TestRateLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newRateLimit(10, 20)
		l.left = 0
		take := func(n float64, most, want time.Duration, ok bool) {
			t.Helper()
			if got, gotOK := l.take(n, most); got.Round(time.Millisecond) != want || gotOK != ok {
				t.Errorf("got %v, %v, want %v, %v", got, gotOK, want, ok)
			}
		}
		take(1, 0, 0, false)
		take(1, time.Second, 100*time.Millisecond, true)
		take(1, time.Second, 200*time.Millisecond, true)
		time.Sleep(time.Hour)
		take(20, 0, 0, true) // no more than the burst was saved
		take(1, 0, 0, false)
		take(11, time.Second, time.Second, false)
		take(10, time.Second, time.Second, true)
	})
}

// TestLongAnswersAreNoFlood: the answers of a daemon take no part in the rate of the
// messages that answer nothing, not with the short part that ends a long one either.
func TestLongAnswersAreNoFlood(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newHubBench(t)
		b.daemon("m", "i", "", bigMethod("test/big"))
		b.online("m")
		start := time.Now()
		for range 2 * unaskedBegin {
			if _, err := b.hub.perform(t.Context(), newCall(t, "test/big", fmt.Sprintf(`{"count":%d}`, maxFrame+10)), b.hub.machineTarget("m")); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(start); took > 0 {
			t.Errorf("the calls waited for %v, want that none does", took)
		}
	})
}
