package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// quickTest is a method whose quick version blocks when the params say so.
func quickTest(release <-chan bool) *method {
	regular := newMethod("test/quick", "", func(context.Context, none) (string, error) { return "regular", nil })
	return regular.quickly(func(to []byte, params json.RawMessage) ([]byte, bool) {
		switch string(params) {
		case `{"block":true}`:
			ok := <-release
			return append(to, `"late"`...), ok
		case `{"long":true}`:
			return append(append(append(to, '"'), strings.Repeat("x", minLent)...), '"'), true
		case `{}`:
			return append(to, `"quick"`...), true
		case `{"panic":1}`:
			panic("quick")
		}
		return append(to, "part of an answer"...), false
	})
}

func TestQuickAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		plain := newMethod("test/plain", "", func(context.Context, none) (string, error) { return "plain", nil }).quickWithoutParams()
		b := newRPCBench(t, nil, quickTest(nil), plain)
		for _, test := range []struct{ message, want string }{
			{`{"jsonrpc":"2.0","id":1,"method":"test/quick","params":{}}`, `{"jsonrpc":"2.0","id":1,"result":"quick"}`},
			{`{"jsonrpc":"2.0","id":"a b","method":"test/quick","params":{}}`, `{"jsonrpc":"2.0","id":"a b","result":"quick"}`},
			{`{"jsonrpc":"2.0","id":2,"method":"test/quick","params":{"x":1}}`, `{"jsonrpc":"2.0","id":2,"result":"regular"}`},
			{`{"jsonrpc":"2.0","id":4,"method":"test/quick","params":{"panic":1}}`, `{"jsonrpc":"2.0","id":4,"result":"regular"}`},
			{`{"jsonrpc":"2.0","id":5,"method":"test/plain"}`, `{"jsonrpc":"2.0","id":5,"result":"plain"}`},
			{`{"jsonrpc":"2.0","id":6,"method":"test/plain","params":{"x":1}}`, `{"jsonrpc":"2.0","id":6,"result":"plain"}`},
			{`[{"jsonrpc":"2.0","id":3,"method":"test/quick","params":{}}]`, `[{"jsonrpc":"2.0","id":3,"result":"regular"}]`},
		} {
			b.put("%s", test.message)
			if got := b.get(); got != test.want {
				t.Errorf("%s was answered with %s, want %s", test.message, got, test.want)
			}
		}
		synctest.Wait() // the last one ends after its answer
		if active, _, _ := b.service.activity.state(); active != 0 {
			t.Errorf("%d requests are active, want 0", active)
		}
		b.peer.maxMessage = 1 << 20
		b.put(`{"jsonrpc":"2.0","id":7,"method":"test/quick","params":{"long":true}}`)
		if got := b.get(); len(got) < minLent || b.peer.quickBytes.Load() != 0 {
			t.Errorf("a long answer has %d bytes, and %d are left to be written, want %d and none", len(got), b.peer.quickBytes.Load(), minLent)
		}
		b.peer.quickBytes.Store(maxQuickBytes)
		b.put(`{"jsonrpc":"2.0","id":8,"method":"test/quick","params":{}}`)
		if got := b.get(); !strings.Contains(got, "regular") {
			t.Errorf("with many long answers to be written came %s, want a regular one", got)
		}
		b.peer.quickBytes.Store(0)
		b.service.activity.drain()
		b.put(`{"jsonrpc":"2.0","id":1,"method":"test/quick","params":{}}`)
		if got := b.get(); !strings.Contains(got, "DRAINING") {
			t.Errorf("a daemon that stops answered %s, want DRAINING", got)
		}
	})
}

// TestQuickMethodBlocks: requests behind a quick one that blocks are answered soon,
// and the blocked one keeps the rules of a regular request: its result, its time
// limit, its cancellation, its id.
func TestQuickMethodBlocks(t *testing.T) {
	const blocked = `{"jsonrpc":"2.0","id":1,"method":"test/quick","params":{"block":true}}`
	for _, test := range []struct {
		name, then string
		release    bool // before the request has ended
		ok         bool
		want       string
	}{
		{"its result", "", true, true, `{"jsonrpc":"2.0","id":1,"result":"late"}`},
		{"not of its kind", "", true, false, `{"jsonrpc":"2.0","id":1,"result":"regular"}`},
		{"time limit", "", false, true, `{"jsonrpc":"2.0","id":1,"error":{"code":-32006,`},
		{"cancelled", `{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":1}}`, false, true, `{"jsonrpc":"2.0","id":1,"error":{"code":-32800,`},
		{"same id", `{"jsonrpc":"2.0","id":1,"method":"test/echo"}`, true, true, `{"jsonrpc":"2.0","id":null,"error":{"code":-32600,`},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				release := make(chan bool, 1)
				b := newRPCBench(t, nil, quickTest(release))
				began := time.Now()
				b.put("%s", blocked)
				for id := 2; id < 10; id++ {
					b.put(`{"jsonrpc":"2.0","id":%d,"method":"test/quick","params":{}}`, id)
					if got, want := b.get(), fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"result":"quick"}`, id); got != want {
						t.Errorf("behind a blocked request came %s, want %s", got, want)
					}
				}
				if took := time.Since(began); took > 2*reliefTime {
					t.Errorf("requests behind a blocked one took %v, want at most %v", took, 2*reliefTime)
				}
				if test.then != "" {
					b.put("%s", test.then)
				}
				if test.release && test.then == "" {
					release <- test.ok
				}
				for {
					got := b.getWithin(2 * defaultMethodTimeout)
					if strings.Contains(got, "task/progress") {
						continue
					}
					if !strings.HasPrefix(got, test.want) {
						t.Errorf("the blocked request was answered with %s, want %s", got, test.want)
					}
					break
				}
				if !test.release || test.then != "" {
					release <- test.ok
				}
				synctest.Wait()
				if test.name == "same id" {
					b.get()
				}
				if n := len(b.out); n != 0 {
					t.Errorf("%d more messages came, want none: the first is %s", n, <-b.out)
				}
				if active, _, _ := b.service.activity.state(); active != 0 {
					t.Errorf("%d requests are active in the end, want 0", active)
				}
			})
		})
	}
}

// TestQuickMethodsBlockInTurn: each further request that blocks is relieved too,
// and a link that is lost meanwhile ends.
func TestQuickMethodsBlockInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan bool)
		b := newRPCBench(t, nil, quickTest(release))
		for id := range 10 {
			b.put(`{"jsonrpc":"2.0","id":%d,"method":"test/quick","params":{"block":true}}`, id)
		}
		b.put(`{"jsonrpc":"2.0","id":"last","method":"test/quick","params":{}}`)
		if got := b.get(); !strings.Contains(got, `"last"`) {
			t.Errorf("first came %s, want the answer to the last request", got)
		}
		b.close()
		select {
		case <-b.ended:
		case <-time.After(time.Second):
			t.Error("the peer of a lost link has not ended after 1 s")
		}
		close(release)
	})
}

// TestIdlePeerHasNoTimer: the checks of the reading goroutine end with the
// requests.
func TestIdlePeerHasNoTimer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newRPCBench(t, nil, quickTest(nil))
		for range 3 {
			b.put(`{"jsonrpc":"2.0","id":1,"method":"test/quick","params":{}}`)
			b.get()
			time.Sleep(4 * reliefTime)
			if b.peer.watched.Load() {
				t.Error("an idle peer is still checked, want no timer")
			}
		}
	})
}
