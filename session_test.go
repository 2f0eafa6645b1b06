package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"
)

// sessionBench is a connector on fake time and the server that it dials: each
// test writes the server by hand.
type sessionBench struct {
	t         *testing.T
	connector *connector
	accepted  []handshakeResult
	dials     []time.Time
}

// newSessionBench serves every dial with answer; it gets the number of the
// dial, from 1.
func newSessionBench(t *testing.T, answer func(n int, w http.ResponseWriter, r *http.Request)) *sessionBench {
	t.Helper()
	network := newPipeNet()
	b := &sessionBench{t: t}
	var mu sync.Mutex
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		b.dials = append(b.dials, time.Now())
		n := len(b.dials)
		mu.Unlock()
		answer(n, w, r)
	})}
	served := make(chan struct{})
	go func() { defer close(served); _ = server.Serve(network) }()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	s := &service{methods: map[string]*method{}, maxConcurrent: 1, log: log}
	s.activity = newActivity(func() int { return 0 })
	b.connector = &connector{
		server: &url.URL{Scheme: "ws", Host: "pipe", Path: linkPath}, client: network.client(), token: "t0ken",
		maxMessage: 1 << 20, attempts: 5, heartbeat: defaultHeartbeatInterval, times: defaultLinkTimes(),
		handshake: handshakeParams{MachineID: "m", InstanceID: "i", ProtocolVersion: protocolVersion, Version: programVersion()},
		service:   s, onState: func(string) {}, onAccepted: func(r handshakeResult) { b.accepted = append(b.accepted, r) },
		began: time.Now(), log: log,
	}
	t.Cleanup(func() {
		_ = server.Close()
		<-served
	})
	return b
}

// run runs the connector to its end.
func (b *sessionBench) run(ctx context.Context) error { return b.connector.run(ctx, ctx) }

// greet accepts the upgrade, reads the handshake and answers it.
func greet(t *testing.T, w http.ResponseWriter, r *http.Request, answer string) *websocket.Conn {
	conn, err := websocket.Accept(w, r, nil)
	if err != nil {
		t.Error(err)
		return nil
	}
	_, data, err := conn.Read(context.Background())
	var m struct {
		ID     int
		Method string
		Params handshakeParams
	}
	if err != nil || json.Unmarshal(data, &m) != nil || m.ID != 1 || m.Method != "daemon/handshake" || m.Params.MachineID != "m" {
		t.Errorf("the first message is %s, %v, want the handshake of machine m with the id 1", data, err)
	}
	if answer != "" {
		if err := conn.Write(context.Background(), websocket.MessageText, []byte(`{"jsonrpc":"2.0","id":1,"result":`+answer+`}`)); err != nil {
			t.Error(err)
		}
	}
	return conn
}

// discard reads a connection to its end.
func discard(conn *websocket.Conn) (ended chan struct{}) {
	ended = make(chan struct{})
	go func() {
		defer close(ended)
		for {
			if _, _, err := conn.Read(context.Background()); err != nil {
				return
			}
		}
	}()
	return ended
}

func TestReconnectGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newSessionBench(t, func(_ int, w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "not now", http.StatusServiceUnavailable)
		})
		if err := b.run(t.Context()); !errors.Is(err, errGaveUp) {
			t.Errorf("run ended with %v, want %v", err, errGaveUp)
		}
		if len(b.dials) != 5 {
			t.Fatalf("%d dials, want 5", len(b.dials))
		}
		base := 2 * time.Second
		for n := 1; n < len(b.dials); n++ {
			if d := b.dials[n].Sub(b.dials[n-1]); d < base/2 || d > base {
				t.Errorf("attempt %d came after %v, want %v to %v", n, d, base/2, base)
			}
			base = min(2*base, 30*time.Second)
		}
	})
}

func TestRefusedTokenIsFinal(t *testing.T) {
	for _, status := range []int{http.StatusUnauthorized, http.StatusForbidden} {
		synctest.Test(t, func(t *testing.T) {
			b := newSessionBench(t, func(_ int, w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Authorization") != "Bearer t0ken" || r.Header.Get(machineIDHeader) != "m" || r.Header.Get("User-Agent") != "c4a-daemon/"+programVersion() {
					t.Errorf("the dial has the headers %v, want the token, the machine id m and the version", r.Header)
				}
				http.Error(w, "no", status)
			})
			err := b.run(t.Context())
			// A 403 may have many reasons; only a 401 is about the token.
			aboutToken := strings.Contains(err.Error(), "--token-file")
			if !errors.Is(err, errRefused) || len(b.dials) != 1 || strings.Contains(err.Error(), "t0ken") || aboutToken != (status == http.StatusUnauthorized) {
				t.Errorf("status %d: run ended with %v after %d dials, want %v after 1, without the token", status, err, len(b.dials), errRefused)
			}
		})
	}
}

func TestRedirectIsNotFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newSessionBench(t, func(_ int, w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://elsewhere/", http.StatusFound)
		})
		b.connector.attempts = 1
		if err := b.run(t.Context()); !errors.Is(err, errGaveUp) || len(b.dials) != 1 {
			t.Errorf("run ended with %v after %d dials, want %v after 1", err, len(b.dials), errGaveUp)
		}
	})
}

// TestAcceptAndHangUp: a session that ends at once does not reset the count of
// failed attempts; one that lives for 10 s does.
func TestAcceptAndHangUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newSessionBench(t, func(n int, w http.ResponseWriter, r *http.Request) {
			conn := greet(t, w, r, `{"accepted":true}`)
			ended := discard(conn)
			if n == 3 {
				time.Sleep(provenAfter)
			}
			_ = conn.Close(websocket.StatusGoingAway, "restarting")
			<-ended
		})
		if err := b.run(t.Context()); !errors.Is(err, errGaveUp) {
			t.Errorf("run ended with %v, want %v", err, errGaveUp)
		}
		if len(b.dials) != 3+5 {
			t.Errorf("%d dials, want 3 and 5 more after the good session", len(b.dials))
		}
		if d := b.dials[3].Sub(b.dials[2]) - provenAfter; d < time.Second || d > 2*time.Second {
			t.Errorf("the first attempt after a good session came after %v, want 1 to 2 s", d)
		}
	})
}

func TestHandshakeRefusedIsRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newSessionBench(t, func(n int, w http.ResponseWriter, r *http.Request) {
			conn := greet(t, w, r, `{"accepted":false,"reason":"a duplicate"}`)
			_ = conn.Close(websocket.StatusPolicyViolation, "a duplicate")
		})
		b.connector.attempts = 3
		if err := b.run(t.Context()); !errors.Is(err, errGaveUp) || !strings.Contains(err.Error(), "a duplicate") || len(b.dials) != 3 {
			t.Errorf("run ended with %v after %d dials, want %v and the server's reason after 3", err, len(b.dials), errGaveUp)
		}
	})
}

func TestHandshakeUnanswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newSessionBench(t, func(n int, w http.ResponseWriter, r *http.Request) {
			conn := greet(t, w, r, "")
			<-discard(conn)
		})
		b.connector.attempts = 1
		start := time.Now()
		if err := b.run(t.Context()); !errors.Is(err, errGaveUp) || !strings.Contains(err.Error(), "did not answer the handshake") {
			t.Errorf("run ended with %v, want %v for want of an answer", err, errGaveUp)
		}
		if took := time.Since(start); took < handshakeTimeout || took > handshakeTimeout+time.Second {
			t.Errorf("run ended after %v, want %v", took, handshakeTimeout)
		}
	})
}

func TestReplacedEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newSessionBench(t, func(n int, w http.ResponseWriter, r *http.Request) {
			conn := greet(t, w, r, `{"accepted":true}`)
			ended := discard(conn)
			_ = conn.Close(closeReplaced, "replaced")
			<-ended
		})
		if err := b.run(t.Context()); !errors.Is(err, errReplaced) || len(b.dials) != 1 {
			t.Errorf("run ended with %v after %d dials, want %v after 1", err, len(b.dials), errReplaced)
		}
	})
}

// TestReplacedDuringHandshake: close code 4001 ends a daemon before the handshake
// is answered, too; else two daemons of one machine id would replace each other
// for ever.
func TestReplacedDuringHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newSessionBench(t, func(n int, w http.ResponseWriter, r *http.Request) {
			conn := greet(t, w, r, "")
			ended := discard(conn)
			_ = conn.Close(closeReplaced, "replaced")
			<-ended
		})
		if err := b.run(t.Context()); !errors.Is(err, errReplaced) || len(b.dials) != 1 {
			t.Errorf("run ended with %v after %d dials, want %v after 1", err, len(b.dials), errReplaced)
		}
	})
}

func TestHeartbeats(t *testing.T) {
	for _, test := range []struct {
		answer string
		every  time.Duration
	}{
		{`{"accepted":true,"lib_id":"lib"}`, defaultHeartbeatInterval},
		{`{"accepted":true,"lib_id":"lib","heartbeat_interval_ms":2000}`, 2 * time.Second},
		{`{"accepted":true,"lib_id":"lib","heartbeat_interval_ms":1}`, minHeartbeat},
		{`{"accepted":true,"lib_id":"lib","heartbeat_interval_ms":-1}`, defaultHeartbeatInterval},
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, stop := context.WithCancel(t.Context())
			closed := make(chan error, 1)
			began := time.Now()
			b := newSessionBench(t, func(n int, w http.ResponseWriter, r *http.Request) {
				conn := greet(t, w, r, test.answer)
				last := time.Now()
				for seq := int64(1); seq <= 4; seq++ {
					_, data, err := conn.Read(context.Background())
					var m struct {
						ID     json.RawMessage
						Method string
						Params heartbeat
					}
					if err != nil || json.Unmarshal(data, &m) != nil {
						t.Errorf("reading beat %d: %s, %v, want a heartbeat", seq, data, err)
						break
					}
					want := heartbeat{MachineID: "m", InstanceID: "i", Seq: seq, UptimeSeconds: int64(time.Since(began).Seconds())}
					if m.Params.MemoryBytes == 0 && residentBytes() != 0 {
						t.Errorf("%s, want memory_bytes", data)
					}
					m.Params.MemoryBytes = 0 // differs each time
					if m.ID != nil || m.Method != heartbeatMethod || m.Params != want {
						t.Errorf("%s, want %+v and memory_bytes", data, want)
					}
					if pause := time.Since(last); seq > 1 && pause != test.every || seq == 1 && pause != 0 {
						t.Errorf("beat %d came after %v, want %v, and the first at once", seq, pause, test.every)
					}
					last = time.Now()
				}
				stop()
				_, _, err := conn.Read(context.Background())
				closed <- err
			})
			if err := b.run(ctx); err != nil {
				t.Errorf("run ended with %v, want no error after a stop", err)
			}
			if err := <-closed; websocket.CloseStatus(err) != websocket.StatusGoingAway {
				t.Errorf("the server read %v at the end, want close code %d", err, websocket.StatusGoingAway)
			}
			if fmt.Sprint(b.accepted) != "[{true lib "+fmt.Sprint(b.accepted[0].HeartbeatIntervalMS)+" }]" {
				t.Errorf("onAccepted got %v, want one answer with lib_id lib", b.accepted)
			}
		})
	}
}

func TestParseServer(t *testing.T) {
	for _, test := range []struct{ given, want string }{
		{"ws://h:1/x", "ws://h:1/x"},
		{"wss://example.com", "wss://example.com/ws/daemon"},
		{"wss://example.com/", "wss://example.com/ws/daemon"},
		{"http://example.com:80/a/b", "ws://example.com:80/a/b"},
		{"https://example.com", "wss://example.com/ws/daemon"},
		{"127.0.0.1:5100", "ws://127.0.0.1:5100/ws/daemon"},
		{"127.0.0.1", "ws://127.0.0.1/ws/daemon"},
		{"[::1]:5100", "ws://[::1]:5100/ws/daemon"},
		{"::1", "ws://[::1]/ws/daemon"},
		{"10.1.2.3", "ws://10.1.2.3/ws/daemon"},
		{"192.168.0.1:80", "ws://192.168.0.1:80/ws/daemon"},
		{"172.16.0.1", "ws://172.16.0.1/ws/daemon"},
		{"169.254.1.1", "ws://169.254.1.1/ws/daemon"},
		{"[fe80::1]:80", "ws://[fe80::1]:80/ws/daemon"},
		{"[fd00::1]", "ws://[fd00::1]/ws/daemon"},
		{"[fe80::1%eth0]:5110", "ws://[fe80::1%25eth0]:5110/ws/daemon"},
		{"[fe80::1%25eth0]:5110", "ws://[fe80::1%25eth0]:5110/ws/daemon"},
		{"[fe80::1%eth0]", "ws://[fe80::1%25eth0]/ws/daemon"},
		{"fe80::1%eth0", "ws://[fe80::1%25eth0]/ws/daemon"},
		{"wss://[fe80::1%eth0]:5110/x", "wss://[fe80::1%25eth0]:5110/x"},
		{"ws://[fe80::1%25eth0]:5110", "ws://[fe80::1%25eth0]:5110/ws/daemon"},
		{"localhost:5100", "ws://localhost:5100/ws/daemon"},
		{"c4a-server", "ws://c4a-server/ws/daemon"},
		{"c4a-server:5100", "ws://c4a-server:5100/ws/daemon"},
		{"box.local", "ws://box.local/ws/daemon"},
		{"a.localhost:1", "ws://a.localhost:1/ws/daemon"},
		{"x.internal", "ws://x.internal/ws/daemon"},
		{"example.com", "wss://example.com/ws/daemon"},
		{"example.com:5100", "wss://example.com:5100/ws/daemon"},
		{"8.8.8.8:80", "wss://8.8.8.8:80/ws/daemon"},
		{"172.32.0.1", "wss://172.32.0.1/ws/daemon"},
		{"local.example.com", "wss://local.example.com/ws/daemon"},
	} {
		u, err := parseServer(test.given)
		if err != nil || u.String() != test.want {
			t.Errorf("%s: %v, %v, want %s", test.given, u, err, test.want)
		}
	}
	for _, test := range []struct{ given, part string }{
		{"", "address"}, {"ftp://h", "scheme"}, {"unix:///x", "scheme"}, {"h/path", "/"}, {"h?x=1", "?"}, {"h#x", "#"}, {"user@h", "@"},
		{"ws://user:s3cret@h", "user or password"}, {"ws://h?x=s3cret", "query"}, {"ws://h/?", "query"}, {"ws://h#f", "fragment"}, {"ws://h#", "fragment"},
		{"ws://", "host is empty"}, {"ws:///x", "host is empty"}, {":5100", "host is empty"}, {"ws://:5100", "host is empty"},
		{"h:0", "port"}, {"h:65536", "port"}, {"h:x", "port"}, {"h:", "port"}, {"h:-1", "port"}, {"ws://h:99999", "port"}, {"h:1:2", "host"}, {"h%eth0", "character"}, {"[fe80::1%]:1", "IPv6"}, {"[0]", "IPv6"}, {"a\x16b", "character"}, {"[fe80::1%a b]:1", "character"},
		{"a b", "character"}, {"ws://s3cret:pw%zz@h", "not a URL"},
	} {
		u, err := parseServer(test.given)
		if err == nil || !strings.Contains(err.Error(), test.part) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%q: %v, %v, want an error about %q", test.given, u, err, test.part)
		}
	}
}
