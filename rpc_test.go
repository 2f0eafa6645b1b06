package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"
)

// wire is a transport in memory: in holds the messages to read, out those sent.
type wire struct {
	in   chan []byte
	out  chan []byte
	once sync.Once
}

func newWire() *wire { return &wire{in: make(chan []byte, 4096), out: make(chan []byte, 4096)} }

func (w *wire) read() ([]byte, error) {
	data, ok := <-w.in
	if !ok {
		return nil, io.EOF
	}
	return data, nil
}

func (w *wire) send(message []byte, sent func(error)) {
	w.out <- bytes.Clone(message) // the caller reuses it
	if sent != nil {
		sent(nil)
	}
}

func (w *wire) sendSoon(message []byte, sent func(error)) { w.send(message, sent) }

func (w *wire) reply(message []byte, sent func(error)) { w.send(message, sent) }

func (w *wire) trusted() bool { return true }

func (w *wire) close() { w.once.Do(func() { close(w.in) }) }

// rpcBench is a peer whose requests a real dispatcher answers.
type rpcBench struct {
	*wire
	t       *testing.T
	peer    *peer
	service *service
	ended   chan struct{}
}

type echoParams struct {
	Text  string `json:"text"`
	Count int    `json:"count"`
}

// newRPCBench serves test/echo, test/wait (until it is cancelled or released),
// test/panic, test/fail, test/big and the methods in more.
func newRPCBench(t *testing.T, release <-chan struct{}, more ...*method) *rpcBench {
	t.Helper()
	base, end := context.WithCancel(t.Context())
	tasks := newFlightGroup(base, taskKeep, maxTaskKept)
	s := &service{methods: map[string]*method{}, tasks: tasks, maxConcurrent: 2, log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	s.activity = newActivity(tasks.running)
	echo := newMethod("test/echo", "", func(_ context.Context, p echoParams) (echoParams, error) { return p, nil })
	echo.inline = true
	wait := newMethod("test/wait", "", func(ctx context.Context, p echoParams) (echoParams, error) {
		select {
		case <-release:
			return p, nil
		case <-ctx.Done():
			return p, ctx.Err()
		}
	})
	for _, m := range append(more, echo, wait,
		newMethod("test/panic", "", func(context.Context, none) (none, error) { panic("secret detail") }),
		newMethod("test/fail", "", func(context.Context, none) (none, error) {
			return none{}, errors.New("an internal secret detail")
		}),
		newMethod("test/big", "", func(_ context.Context, p echoParams) (string, error) { return strings.Repeat("x", p.Count), nil }),
	) {
		s.methods[m.name] = m
	}
	b := &rpcBench{wire: newWire(), t: t, service: s, ended: make(chan struct{})}
	b.peer = newPeer(b.wire, s.newDispatcher(), 1000, s.log)
	go func() { // ends with the wire
		defer close(b.ended)
		_ = b.peer.run()
	}()
	t.Cleanup(func() {
		b.close()
		<-b.ended
		end()
		s.tasks.wait()
		s.wait()
	})
	return b
}

func (b *rpcBench) put(format string, args ...any) { b.in <- fmt.Appendf(nil, format, args...) }

func (b *rpcBench) get() string { b.t.Helper(); return b.getWithin(10 * time.Second) }

func (b *rpcBench) getWithin(limit time.Duration) string {
	b.t.Helper()
	select {
	case data := <-b.out:
		return string(data)
	case <-time.After(limit):
		b.t.Fatalf("no message was sent within %v, want one", limit)
		return ""
	}
}

func TestMessages(t *testing.T) {
	deep := strings.Repeat("[", 100_000)
	var batch []string
	for i := range maxBatch + 1 {
		batch = append(batch, fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"test/echo"}`, i))
	}
	const (
		nullID  = `{"jsonrpc":"2.0","id":null,"error":{"code":%d,"message":`
		emptied = `"result":{"text":"","count":0}}`
	)
	for _, test := range []struct{ name, message, want string }{
		{"request", `{"jsonrpc":"2.0","id":7,"method":"test/echo","params":{"text":"<é&>"}}`, `{"jsonrpc":"2.0","id":7,"result":{"text":"<é&>","count":0}}`},
		{"no params", `{"jsonrpc":"2.0","id":7,"method":"test/echo"}`, `{"jsonrpc":"2.0","id":7,` + emptied},
		{"unknown keys", `{"jsonrpc":"2.0","id":7,"x":1,"method":"test/echo","params":{"y":[]}}`, `{"jsonrpc":"2.0","id":7,` + emptied},
		{"space around", " \r\n\t{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"test/echo\"} ", `{"jsonrpc":"2.0","id":7,` + emptied},
		{"id string", `{"jsonrpc":"2.0","id":"a\u0041\"","method":"test/echo"}`, `{"jsonrpc":"2.0","id":"a\u0041\"",` + emptied},
		{"id fraction", `{"jsonrpc":"2.0","id":1.50,"method":"test/echo"}`, `{"jsonrpc":"2.0","id":1.50,` + emptied},
		{"id exponent", `{"jsonrpc":"2.0","id":1e3,"method":"test/echo"}`, `{"jsonrpc":"2.0","id":1e3,` + emptied},
		{"id large", `{"jsonrpc":"2.0","id":18446744073709551616,"method":"test/echo"}`, `{"jsonrpc":"2.0","id":18446744073709551616,` + emptied},
		{"id minus zero", `{"jsonrpc":"2.0","id":-0,"method":"test/echo"}`, `{"jsonrpc":"2.0","id":-0,` + emptied},
		{"id null", `{"jsonrpc":"2.0","id":null,"method":"test/echo"}`, `{"jsonrpc":"2.0","id":null,` + emptied},
		{"id true", `{"jsonrpc":"2.0","id":true,"method":"test/echo"}`, fmt.Sprintf(nullID, -32600)},
		{"id object", `{"jsonrpc":"2.0","id":{},"method":"test/echo"}`, fmt.Sprintf(nullID, -32600)},
		{"id array", `{"jsonrpc":"2.0","id":[1],"method":"test/echo"}`, fmt.Sprintf(nullID, -32600)},
		{"no version", `{"id":1,"method":"test/echo"}`, `{"jsonrpc":"2.0","id":1,"error":{"code":-32600,"message":`},
		{"version 1.0", `{"jsonrpc":"1.0","id":1,"method":"test/echo"}`, `{"jsonrpc":"2.0","id":1,"error":{"code":-32600,"message":`},
		{"version number", `{"jsonrpc":2.0,"id":1,"method":"test/echo"}`, `{"jsonrpc":"2.0","id":1,"error":{"code":-32600,"message":`},
		{"method number", `{"jsonrpc":"2.0","id":1,"method":1}`, `{"jsonrpc":"2.0","id":1,"error":{"code":-32600,"message":`},
		{"method null", `{"jsonrpc":"2.0","id":1,"method":null}`, `{"jsonrpc":"2.0","id":1,"error":{"code":-32600,"message":`},
		{"no method", `{"jsonrpc":"2.0","id":1}`, `{"jsonrpc":"2.0","id":1,"error":{"code":-32600,"message":`},
		{"notification without a method", `{"jsonrpc":"2.0","params":{}}`, fmt.Sprintf(nullID, -32600)},
		{"empty object", `{}`, fmt.Sprintf(nullID, -32600)},
		{"readable id in a batch", `[{"id":1,"method":"test/echo"}]`, `[{"jsonrpc":"2.0","id":1,"error":{"code":-32600,`},
		{"names in capitals", `{"JSONRPC":"2.0","ID":1,"METHOD":"test/echo"}`, fmt.Sprintf(nullID, -32600)},
		{"method in capitals beside", `{"jsonrpc":"2.0","id":7,"method":"test/echo","METHOD":"test/panic","Params":{"text":"x"}}`, `{"jsonrpc":"2.0","id":7,` + emptied},
		{"param in capitals", `{"jsonrpc":"2.0","id":7,"method":"test/echo","params":{"TEXT":"x","Timeout_ms":0}}`, `{"jsonrpc":"2.0","id":7,` + emptied},
		{"params null", `{"jsonrpc":"2.0","id":7,"method":"test/echo","params":null}`, `{"jsonrpc":"2.0","id":7,` + emptied},
		{"error null beside a request", `{"jsonrpc":"2.0","id":7,"method":"test/echo","error":null}`, `{"jsonrpc":"2.0","id":7,` + emptied},
		{"integer with a fraction", `{"jsonrpc":"2.0","id":7,"method":"test/echo","params":{"count":5.0,"timeout_ms":6e4}}`, `{"jsonrpc":"2.0","id":7,"result":{"text":"","count":5}}`},
		{"number with a fraction for an integer", `{"jsonrpc":"2.0","id":7,"method":"test/echo","params":{"count":5.5}}`, `{"jsonrpc":"2.0","id":7,"error":{"code":-32602,"message":"invalid params: count: must be an integer, not number 5.5","data":{"param":"count"}}}`},
		{"unknown method", `{"jsonrpc":"2.0","id":1,"method":"no/such"}`, `{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"method not found: \"no/such\"`},
		{"params array", `{"jsonrpc":"2.0","id":1,"method":"test/echo","params":[]}`, `{"jsonrpc":"2.0","id":1,"error":{"code":-32602,`},
		{"params text", `{"jsonrpc":"2.0","id":1,"method":"test/echo","params":"x"}`, `{"jsonrpc":"2.0","id":1,"error":{"code":-32602,`},
		{"param of a wrong type", `{"jsonrpc":"2.0","id":1,"method":"test/echo","params":{"count":"x"}}`, `{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"invalid params: count: must be an integer, not string","data":{"param":"count"}}}`},
		{"timeout of zero", `{"jsonrpc":"2.0","id":1,"method":"test/echo","params":{"timeout_ms":0}}`, `{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"invalid params: timeout_ms: `},
		{"task_id empty", `{"jsonrpc":"2.0","id":1,"method":"test/echo","params":{"task_id":""}}`, `{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"invalid params: task_id: `},
		{"task_id number", `{"jsonrpc":"2.0","id":1,"method":"test/echo","params":{"task_id":5}}`, `{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"invalid params: task_id: `},
		{"panic", `{"jsonrpc":"2.0","id":1,"method":"test/panic"}`, `{"jsonrpc":"2.0","id":1,"error":{"code":-32603,"message":"internal error: see the daemon's log"}}`},
		{"internal error", `{"jsonrpc":"2.0","id":1,"method":"test/fail"}`, `{"jsonrpc":"2.0","id":1,"error":{"code":-32603,"message":"internal error: see the daemon's log"}}`},
		{"result too large", `{"jsonrpc":"2.0","id":1,"method":"test/big","params":{"count":1000}}`, `{"jsonrpc":"2.0","id":1,"error":{"code":-32007,`},
		{"not JSON", `{"jsonrpc":`, fmt.Sprintf(nullID, -32700)},
		{"two values", `{} {}`, fmt.Sprintf(nullID, -32700)},
		{"a word", `hello`, fmt.Sprintf(nullID, -32700)},
		{"nothing", ``, fmt.Sprintf(nullID, -32700)},
		{"a number", `12`, fmt.Sprintf(nullID, -32600)},
		{"not UTF-8", "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"test/echo\",\"params\":{\"text\":\"\xff\"}}", fmt.Sprintf(nullID, -32700)},
		{"too deep", deep, fmt.Sprintf(nullID, -32700)},
		{"batch", `[{"jsonrpc":"2.0","id":1,"method":"test/echo"},{"jsonrpc":"2.0","method":"x/y"},7]`, `[{"jsonrpc":"2.0","id":1,` + emptied + `,{"jsonrpc":"2.0","id":null,"error":{"code":-32600`},
		{"batch of rubbish", `[1,{}]`, `[{"jsonrpc":"2.0","id":null,"error":{"code":-32600`},
		{"empty batch", `[]`, fmt.Sprintf(nullID, -32600)},
		{"batch too long", "[" + strings.Join(batch, ",") + "]", fmt.Sprintf(nullID, -32600)},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newRPCBench(t, nil)
			b.put("%s", test.message)
			if got := b.get(); !strings.HasPrefix(got, test.want) || !json.Valid([]byte(got)) {
				t.Errorf("got  %.300s\nwant %.300s", got, test.want)
			}
			// The link stays, and nothing else was said.
			b.put(`{"jsonrpc":"2.0","id":"after","method":"test/echo"}`)
			if got := b.get(); !strings.HasPrefix(got, `{"jsonrpc":"2.0","id":"after","result"`) {
				t.Errorf("the next request got %s, want its result", got)
			}
		})
	}
}

func TestSilence(t *testing.T) {
	for _, message := range []string{
		`{"jsonrpc":"2.0","method":"test/echo"}`, // a notification has no answer, not even an error
		`{"jsonrpc":"2.0","method":"no/such","params":[]}`,
		`{"jsonrpc":"2.0","method":"$/whatever"}`,
		`{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":99}}`,
		`{"jsonrpc":"2.0","method":"$/cancelRequest"}`,
		`{"jsonrpc":"2.0","id":5,"result":{}}`, // an answer to nothing
		`{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"x"}}`,
		`[{"jsonrpc":"2.0","method":"a"},{"jsonrpc":"2.0","method":"b"}]`,
	} {
		b := newRPCBench(t, nil)
		b.put("%s", message)
		b.put(`{"jsonrpc":"2.0","id":1,"method":"test/echo"}`)
		if got := b.get(); !strings.HasPrefix(got, `{"jsonrpc":"2.0","id":1,"result"`) {
			t.Errorf("%s: got %s, want no answer to it and the result of the next request", message, got)
		}
	}
}

func TestDuplicateID(t *testing.T) {
	release := make(chan struct{})
	b := newRPCBench(t, release)
	b.put(`{"jsonrpc":"2.0","id":1,"method":"test/wait"}`)
	b.put(`{"jsonrpc":"2.0","id":1,"method":"test/echo"}`)
	if got := b.get(); !strings.HasPrefix(got, `{"jsonrpc":"2.0","id":null,"error":{"code":-32600,`) {
		t.Errorf("the second request of an id got %s, want -32600", got)
	}
	close(release)
	if got := b.get(); !strings.HasPrefix(got, `{"jsonrpc":"2.0","id":1,"result"`) {
		t.Errorf("the first request of an id got %s, want its result", got)
	}
	b.put(`{"jsonrpc":"2.0","id":1,"method":"test/echo"}`) // free again
	if got := b.get(); !strings.HasPrefix(got, `{"jsonrpc":"2.0","id":1,"result"`) {
		t.Errorf("a request with an id that is free again got %s, want its result", got)
	}
}

func TestCancel(t *testing.T) {
	b := newRPCBench(t, nil)
	// Two take the places, the third waits; each is cancelled.
	for id := range 3 {
		b.put(`{"jsonrpc":"2.0","id":%d,"method":"test/wait"}`, id)
	}
	for _, id := range []int{2, 0, 1} {
		b.put(`{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":%d}}`, id)
		want := fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"error":{"code":-32800,"message":"the request was cancelled","data":{"code":"REQUEST_CANCELLED"}}}`, id)
		if got := b.get(); got != want {
			t.Errorf("got %s\nwant %s", got, want)
		}
	}
	awaitThat(t, "no request to be active after all were cancelled", func() bool { active, _, _ := b.service.activity.state(); return active == 0 })
}

func TestRequestTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newRPCBench(t, nil)
		start := time.Now()
		b.put(`{"jsonrpc":"2.0","id":1,"method":"test/wait","params":{"timeout_ms":300}}`)
		if got := b.get(); !strings.Contains(got, `"code":-32006`) {
			t.Errorf("got %s, want -32006 after timeout_ms", got)
		}
		if took := time.Since(start); took != 300*time.Millisecond {
			t.Errorf("the timeout came after %v, want 300ms", took)
		}
		start = time.Now()
		b.put(`{"jsonrpc":"2.0","id":1,"method":"test/wait"}`)
		for got := b.getFor(2 * defaultMethodTimeout); !strings.Contains(got, `"code":-32006`); got = b.getFor(2 * defaultMethodTimeout) {
			if !strings.Contains(got, "task/progress") {
				t.Fatalf("got %s, want progress or -32006", got)
			}
		}
		if took := time.Since(start); took != defaultMethodTimeout {
			t.Errorf("the timeout came after %v by default, want %v", took, defaultMethodTimeout)
		}
	})
}

func (b *rpcBench) getFor(most time.Duration) string {
	b.t.Helper()
	select {
	case data := <-b.out:
		return string(data)
	case <-time.After(most):
		b.t.Fatalf("no message was sent within %v, want one", most)
		return ""
	}
}

func TestServerBusy(t *testing.T) {
	release := make(chan struct{})
	b := newRPCBench(t, release)
	const all = 2 + maxQueue + 10
	for id := range all {
		b.put(`{"jsonrpc":"2.0","id":%d,"method":"test/wait"}`, id)
	}
	for range 10 { // the ten too many are refused at once
		if got := b.get(); !strings.Contains(got, `"code":"SERVER_BUSY","retry_after_ms":1000`) {
			t.Fatalf("a request too many got %s, want SERVER_BUSY with retry_after_ms", got)
		}
	}
	b.put(`{"jsonrpc":"2.0","id":"quick","method":"test/echo"}`)
	if got := b.get(); !strings.HasPrefix(got, `{"jsonrpc":"2.0","id":"quick","result"`) {
		t.Errorf("a request that needs no place got %s, want its result at once", got)
	}
	close(release)
	for range all - 10 {
		if got := b.get(); !strings.Contains(got, `"result"`) {
			t.Fatalf("a request that waited got %s, want its result", got)
		}
	}
}

func TestDraining(t *testing.T) {
	release := make(chan struct{})
	b := newRPCBench(t, release)
	b.put(`{"jsonrpc":"2.0","id":1,"method":"test/wait"}`)
	b.put(`{"jsonrpc":"2.0","id":2,"method":"test/echo"}`)
	b.get() // both were taken
	if b.service.activity.quiesce(0) {
		t.Fatal("quiesce(0) = true while a request runs, want false")
	}
	b.service.activity.drain()
	b.put(`{"jsonrpc":"2.0","id":3,"method":"test/echo"}`)
	if got := b.get(); !strings.Contains(got, `"code":-32011`) || !strings.Contains(got, `"DRAINING"`) {
		t.Errorf("a request to a draining daemon got %s, want -32011 and DRAINING", got)
	}
	close(release)
	if got := b.get(); !strings.HasPrefix(got, `{"jsonrpc":"2.0","id":1,"result"`) {
		t.Errorf("the running request got %s, want its result", got)
	}
}

// TestTasks: a task runs once, however many callers on however many links request
// it.
func TestTasks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		runs := 0
		count := newMethod("test/count", "", func(ctx context.Context, p echoParams) (int, error) {
			runs++
			select {
			case <-release:
				return runs, nil
			case <-ctx.Done():
				return 0, ctx.Err()
			}
		})
		b := newRPCBench(t, release, count)
		ask := func(b *rpcBench, id int, text string) {
			b.put(`{"jsonrpc":"2.0","id":%d,"method":"test/count","params":{"task_id":"T","text":%q}}`, id, text)
			synctest.Wait()
		}
		ask(b, 1, "x")
		ask(b, 2, "y")
		if got := b.get(); !strings.Contains(got, `"id":2,"error"`) || !strings.Contains(got, `"CONFLICT"`) {
			t.Errorf("other params under the same task_id got %s, want CONFLICT", got)
		}
		b.put(`{"jsonrpc":"2.0","id":3,"method":"test/echo","params":{"task_id":"T"}}`)
		synctest.Wait()
		if got := b.get(); !strings.Contains(got, `"id":3,"error"`) || !strings.Contains(got, `"CONFLICT"`) {
			t.Errorf("another method under the same task_id got %s, want CONFLICT", got)
		}
		// The link is lost; the task goes on and a new link joins it.
		b.close()
		<-b.ended
		second := &rpcBench{wire: newWire(), t: t, service: b.service, ended: make(chan struct{})}
		second.peer = newPeer(second.wire, b.service.newDispatcher(), 1000, b.service.log)
		go func() { defer close(second.ended); _ = second.peer.run() }()
		defer func() { second.close(); <-second.ended }()
		ask(second, 1, "x")
		ask(second, 2, "x")
		close(release)
		for range 2 {
			if got := second.get(); !strings.Contains(got, `"result":1}`) {
				t.Errorf("a caller of the task got %s, want the result of the one run", got)
			}
		}
		// Answered from memory for a minute, then run anew.
		time.Sleep(taskKeep - time.Millisecond)
		ask(second, 3, "x")
		if got := second.get(); !strings.Contains(got, `"id":3,"result":1}`) {
			t.Errorf("within %v got %s, want the remembered result", taskKeep, got)
		}
		time.Sleep(time.Millisecond)
		ask(second, 4, "x")
		if got := second.get(); !strings.Contains(got, `"id":4,"result":2}`) {
			t.Errorf("after %v got %s, want the result of a new run", taskKeep, got)
		}
	})
}

// TestLargestTaskIsRemembered: a result that only --max-message allows, larger than
// the default limit of remembered results, is remembered too.
func TestLargestTaskIsRemembered(t *testing.T) {
	t.Parallel()
	const size = maxTaskKept + 1
	b := newDaemonBench(t, &daemonConfig{allow: []string{t.TempDir()}, limitFlags: limitFlags{maxMessage: 2 * size}})
	var runs atomic.Int64
	b.daemon.service.methods["test/big"] = newMethod("test/big", "", func(context.Context, none) (string, error) {
		runs.Add(1)
		return strings.Repeat("x", size), nil
	})
	for id := range 2 {
		got := b.ask(fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"test/big","params":{"task_id":"T"}}`, id), nil)
		if len(got) < size || runs.Load() != 1 {
			t.Errorf("got %d bytes of %d runs, want %d of 1", len(got), runs.Load(), size)
		}
	}
}

// TestTaskCancelledByLastAsker: a task stops when its last caller cancels, not
// before.
func TestTaskCancelledByLastAsker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newRPCBench(t, nil)
		b.service.maxConcurrent = 10
		for id := range 2 {
			b.put(`{"jsonrpc":"2.0","id":%d,"method":"test/wait","params":{"task_id":"T"}}`, id)
		}
		synctest.Wait() // both have asked
		for id, left := range []int{1, 0} {
			b.put(`{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":%d}}`, id)
			synctest.Wait()
			if got := b.get(); !strings.Contains(got, fmt.Sprintf(`"id":%d,"error":{"code":-32800`, id)) {
				t.Fatalf("cancelling request %d: got %s, want -32800", id, got)
			}
			if n := b.service.tasks.running(); n != left {
				t.Fatalf("%d tasks run after the cancel of request %d, want %d", n, id, left)
			}
		}
	})
}

// TestLostLinkCancels: the requests of a lost link are cancelled.
func TestLostLinkCancels(t *testing.T) {
	b := newRPCBench(t, nil)
	b.put(`{"jsonrpc":"2.0","id":1,"method":"test/wait"}`)
	b.put(`{"jsonrpc":"2.0","id":2,"method":"test/echo"}`)
	b.get()
	b.close()
	<-b.ended
	b.service.wait() // returns only when the request has ended
	if len(b.out) != 0 {
		t.Errorf("%s was sent into a lost link, want nothing", <-b.out)
	}
}

func TestProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type step struct {
			after   time.Duration
			percent int
		}
		steps := make(chan step)
		work := func(ctx context.Context, _ none) (none, error) {
			for s := range steps {
				time.Sleep(s.after)
				reportProgress(ctx, progress{Phase: "p", Percent: s.percent})
			}
			return none{}, nil
		}
		clones := newMethod("test/clone", "", work)
		clones.clones = true
		b := newRPCBench(t, nil, clones, newMethod("test/work", "", work))
		type seen struct {
			at time.Duration
			taskProgress
		}
		watch := func(method, id string) (all []seen) {
			start := time.Now()
			b.put(`{"jsonrpc":"2.0","id":%s,"method":"%s"}`, id, method)
			for {
				var m struct {
					Params taskProgress    `json:"params"`
					Result json.RawMessage `json:"result"`
				}
				if err := json.Unmarshal([]byte(b.getFor(time.Hour)), &m); err != nil {
					t.Fatal(err)
				}
				if m.Result != nil {
					return all
				}
				all = append(all, seen{time.Since(start), m.Params})
			}
		}
		feed := func(all ...step) {
			for _, s := range all {
				steps <- s
			}
		}
		// A clone tells from the start, at most 4 a second, never backwards, and 100
		// before its answer.
		go func() {
			for i := range 100 {
				feed(step{10 * time.Millisecond, i})
			}
			feed(step{0, 10}, step{40 * time.Second, 99})
			close(steps)
		}()
		all := watch("test/clone", `"abc"`)
		if all[0].at != 0 || all[0].Percent != 0 || all[0].Phase != "connecting" || all[0].TaskID != "abc" || all[0].Method != "test/clone" {
			t.Errorf("the first progress is %+v, want 0 percent, connecting, at once", all[0])
		}
		if last := all[len(all)-1]; last.Percent != 100 {
			t.Errorf("the last progress is %+v, want 100 percent", last)
		}
		for i := 1; i < len(all); i++ {
			pause := all[i].at - all[i-1].at
			if all[i].Percent < all[i-1].Percent {
				t.Errorf("progress went from %d to %d, want it never to fall", all[i-1].Percent, all[i].Percent)
			}
			if last := i == len(all)-1; (pause < progressPause && !last) || pause > progressBeat {
				t.Errorf("pause of %v before progress %d, want %v to %v", pause, i, progressPause, progressBeat)
			}
		}
		// Another method tells only once it has run for a second.
		steps = make(chan step)
		go func() { feed(step{900 * time.Millisecond, 50}); close(steps) }()
		if all := watch("test/work", "1"); len(all) != 0 {
			t.Errorf("a short request reported %+v, want no progress", all)
		}
		steps = make(chan step)
		go func() { feed(step{100 * time.Millisecond, 50}, step{2 * time.Second, 60}); close(steps) }()
		all = watch("test/work", "1.5")
		if len(all) < 2 || all[0].at != progressAfter || all[0].Percent != 50 || all[0].TaskID != "1.5" {
			t.Errorf("a long request reported %+v, want 50 percent after %v, then more", all, progressAfter)
		}
	})
}

func TestCall(t *testing.T) {
	a := newWire()
	p := newPeer(a, nil, 1000, slog.New(slog.DiscardHandler))
	ended := make(chan struct{})
	go func() { defer close(ended); _ = p.run() }()
	reply := func(want, answer string) {
		if got := string(<-a.out); got != want {
			t.Errorf("sent %s, want %s", got, want)
		}
		if answer != "" {
			a.in <- []byte(answer)
		}
	}
	go reply(`{"jsonrpc":"2.0","id":1,"method":"m","params":{"a":1}}`, `{"jsonrpc":"2.0","id":1,"result":{"b":2}}`)
	if got, err := p.call(t.Context(), "m", map[string]int{"a": 1}); err != nil || string(got) != `{"b":2}` {
		t.Errorf("call = %s, %v, want the result", got, err)
	}
	go reply(`{"jsonrpc":"2.0","id":2,"method":"m","params":{}}`, `{"jsonrpc":"2.0","id":2,"error":{"code":-32001,"message":"no","data":{"code":"SOURCE_ACCESS_DENIED"}}}`)
	_, err := p.call(t.Context(), "m", none{})
	if e, ok := errors.AsType[*rpcError](err); !ok || e.Code != -32001 || e.name() != codeAccessDenied {
		t.Errorf("call failed with %v, want -32001 and %s", err, codeAccessDenied)
	}
	for id, answer := range map[int]string{3: `"result":{"b":2},"error":null`, 4: `"method":null,"params":null,"result":{"b":2},"error":null`} {
		p.lastID = int64(id - 1)
		go reply(fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"m","params":{}}`, id), fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,%s}`, id, answer))
		if got, err := p.call(t.Context(), "m", none{}); err != nil || string(got) != `{"b":2}` {
			t.Errorf("a call that was answered with %s = %s, %v, want the result", answer, got, err)
		}
	}
	p.lastID = 2
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("had enough")
	go func() {
		reply(`{"jsonrpc":"2.0","id":3,"method":"m","params":{}}`, "")
		cancel(why)
		reply(`{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":3}}`, "")
		reply(`{"jsonrpc":"2.0","id":4,"method":"m","params":{}}`, "")
		a.close()
	}()
	if _, err := p.call(ctx, "m", none{}); !errors.Is(err, why) {
		t.Errorf("a cancelled call failed with %v, want %v", err, why)
	}
	if _, err := p.call(t.Context(), "m", none{}); !errors.Is(err, errLinkLost) {
		t.Errorf("a call on a lost link failed with %v, want %v", err, errLinkLost)
	}
	if _, err := p.call(t.Context(), "m", none{}); !errors.Is(err, errLinkLost) {
		t.Errorf("a call after the end failed with %v, want %v", err, errLinkLost)
	}
	if _, err := p.call(t.Context(), "m", strings.Repeat("x", 1000)); err == nil {
		t.Error("a request over the limit was sent, want an error")
	}
	<-ended
}

// FuzzReceive: for any message the answer is JSON-RPC, and there is at most one.
func FuzzReceive(f *testing.F) {
	for _, seed := range []string{
		`{"jsonrpc":"2.0","id":1,"method":"test/echo","params":{"text":"x"}}`, `[{"jsonrpc":"2.0","id":1,"method":"test/echo"},1]`,
		`[]`, `{}`, `{"id":{}}`, `nul`, "\xff", `{"jsonrpc":"2.0","id":1e999,"method":"\ud800"}`, `{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":1}}`,
		`{"jsonrpc":"2.0","id":1,"method":"test/echo","params":{"text":"` + "\xff" + `"}}`,
	} {
		f.Add([]byte(seed))
	}
	echo := newMethod("test/echo", "", func(_ context.Context, p echoParams) (echoParams, error) { return p, nil })
	echo.inline = true
	f.Fuzz(func(t *testing.T, data []byte) {
		s := &service{methods: map[string]*method{echo.name: echo}, maxConcurrent: 1, log: slog.New(slog.DiscardHandler)}
		s.activity = newActivity(func() int { return 0 })
		w := newWire()
		p := newPeer(w, s.newDispatcher(), 1<<20, s.log)
		p.receive(data)
		if len(w.out) > 1 {
			t.Fatalf("%d messages answer one, want at most 1", len(w.out))
		}
		if len(w.out) == 1 {
			answer := <-w.out
			var one envelope
			var many []envelope
			if json.Unmarshal(answer, &one) != nil && json.Unmarshal(answer, &many) != nil {
				t.Fatalf("got %s, want a JSON-RPC answer", answer)
			}
			if one.Result != nil && !utf8.Valid(data) {
				t.Fatalf("%q was answered by %s, want an error: it is not UTF-8", data, answer)
			}
		}
		if active, _, _ := s.activity.state(); active != 0 {
			t.Fatal("a request is still active, want none")
		}
	})
}
