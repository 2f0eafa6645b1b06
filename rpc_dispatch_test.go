package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestLostLinkEndsActivity: a request whose link is lost does not count as
// active once it has stopped; the daemon would never be idle again.
func TestLostLinkEndsActivity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newRPCBench(t, nil)
		b.put(`{"jsonrpc":"2.0","id":1,"method":"test/wait"}`)
		synctest.Wait()
		if active, _, _ := b.service.activity.state(); active != 1 {
			t.Fatalf("%d requests are active while one runs, want 1", active)
		}
		b.close()
		<-b.ended
		synctest.Wait()
		if active, _, _ := b.service.activity.state(); active != 0 {
			t.Errorf("%d requests are active after the link was lost, want 0", active)
		}
	})
}

// TestTaskIDOfAnotherMethod: the same params under the same task_id are another
// task where the method differs.
func TestTaskIDOfAnotherMethod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newRPCBench(t, nil, newMethod("test/upper", "", func(_ context.Context, p echoParams) (string, error) {
			return strings.ToUpper(p.Text), nil
		}))
		for id, test := range []struct{ method, want string }{
			{"test/upper", `"result":"A"`},
			{"test/echo", `"code":"CONFLICT"`},
		} {
			b.put(`{"jsonrpc":"2.0","id":%d,"method":%q,"params":{"task_id":"T","text":"a"}}`, id, test.method)
			if got := b.get(); !strings.Contains(got, test.want) {
				t.Errorf("%s answered %s, want %s", test.method, got, test.want)
			}
		}
	})
}

// unwritten is a wire whose messages are not written until release is closed.
type unwritten struct {
	*wire
	release chan struct{}
}

func (u *unwritten) send(message []byte, sent func(error)) {
	u.out <- message
	go func() { // ends with release
		<-u.release
		if sent != nil {
			sent(nil)
		}
	}()
}

// TestNoNewRequestBeforeAnswersAreWritten: a request keeps its place until its
// answer is written, so that a client that does not read starts nothing more.
func TestNoNewRequestBeforeAnswersAreWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var runs atomic.Int64
		b := newRPCBench(t, nil, newMethod("test/count", "", func(context.Context, none) (int64, error) { return runs.Add(1), nil }))
		slow := &unwritten{wire: newWire(), release: make(chan struct{})}
		p := newPeer(slow, b.service.newDispatcher(), 1000, b.service.log)
		ended := make(chan struct{})
		go func() { defer close(ended); _ = p.run() }()
		const all = 5
		for id := range all {
			slow.in <- fmt.Appendf(nil, `{"jsonrpc":"2.0","id":%d,"method":"test/count"}`, id)
		}
		synctest.Wait()
		if n, want := runs.Load(), int64(b.service.maxConcurrent); n != want {
			t.Errorf("%d requests ran before an answer was written, want %d", n, want)
		}
		close(slow.release)
		synctest.Wait()
		if n := runs.Load(); n != all {
			t.Errorf("%d requests ran after all answers were written, want %d", n, all)
		}
		slow.close()
		<-ended
	})
}

// TestBatchOfExactlyAMessage: the answers to a batch may fill a message to the
// last byte, with the brackets and commas; a byte more and the last answer is
// replaced by an error that has its id.
func TestBatchOfExactlyAMessage(t *testing.T) {
	const maxMessage = 1000 // newRPCBench's
	empty := len(`{"jsonrpc":"2.0","id":1,"result":""}`)
	first := 300
	exactly := maxMessage - len(`[,]`) - (empty + first) - empty
	for _, test := range []struct {
		name   string
		second int // bytes of the second result
		fits   bool
	}{{"exactly", exactly, true}, {"one byte more", exactly + 1, false}, {"two bytes more", exactly + 2, false}, {"much more", 700, false}} {
		t.Run(test.name, func(t *testing.T) {
			// Of one request at a time the answers come in order.
			b := newRPCBench(t, nil)
			b.service.maxConcurrent = 1
			b.put(`[{"jsonrpc":"2.0","id":1,"method":"test/big","params":{"count":%d}},{"jsonrpc":"2.0","id":2,"method":"test/big","params":{"count":%d}}]`, first, test.second)
			got := b.get()
			var answers []struct {
				ID    json.RawMessage
				Error *rpcError
			}
			if err := json.Unmarshal([]byte(got), &answers); err != nil || len(answers) != 2 {
				t.Fatalf("the batch was answered by %s (%v), want two answers", got, err)
			}
			if len(got) > maxMessage || test.fits && len(got) != maxMessage {
				t.Errorf("the answer has %d bytes, want at most %d, and all of them: %v", len(got), maxMessage, test.fits)
			}
			if string(answers[0].ID) != "1" || string(answers[1].ID) != "2" {
				t.Errorf("the answers have the ids %s and %s, want 1 and 2", answers[0].ID, answers[1].ID)
			}
			if answers[0].Error != nil || (answers[1].Error == nil) != test.fits {
				t.Errorf("the errors are %v and %v, want none, and none of the second: %v", answers[0].Error, answers[1].Error, test.fits)
			}
			if e := answers[1].Error; e != nil && e.name() != codeResultTooLarge {
				t.Errorf("the second answer is %v, want %s", e, codeResultTooLarge)
			}
		})
	}
}

// TestBatchOfMoreThanThePlaces: a batch may hold more requests than run at once.
func TestBatchOfMoreThanThePlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newRPCBench(t, nil)
		all := make([]string, 3*b.service.maxConcurrent)
		for id := range all {
			all[id] = fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"test/big","params":{"count":1}}`, id)
		}
		b.put("[%s]", strings.Join(all, ","))
		got := b.get()
		if n := strings.Count(got, `"result":"x"`); n != len(all) {
			t.Errorf("the batch was answered by %s with %d results, want %d", got, n, len(all))
		}
	})
}

// TestMixedBatchOfMoreThanThePlaces: a batch holds whatever its caller likes, with
// any number of places.
func TestMixedBatchOfMoreThanThePlaces(t *testing.T) {
	for _, places := range []int{1, 2, 64} {
		synctest.Test(t, func(t *testing.T) {
			b := newRPCBench(t, nil)
			b.service.maxConcurrent, b.peer.maxMessage = places, 1<<20
			var all []string
			add := func(id int, format string, args ...any) {
				all = append(all, fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,`+format+"}", append([]any{id}, args...)...))
			}
			for id := range 65 {
				add(id, `"method":"test/big","params":{"count":1}`)
			}
			for id := 65; id < 75; id++ {
				add(id, `"method":"test/big","params":{"count":1,"task_id":"t%d"}`, id%2) // five join one run
			}
			add(75, `"method":"test/echo"`)
			add(76, `"method":"test/wait","params":{"timeout_ms":2000}`)
			add(77, `"method":"test/wait"`)
			add(78, `"method":"no/such"`)
			add(79, `"method":5`)
			add(77, `"method":"test/echo"`) // an id that is in use
			all = append(all, `{"jsonrpc":"2.0","method":"x/y"}`, `{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":77}}`, `1`)
			begin := time.Now()
			b.put("[%s]", strings.Join(all, ","))
			got := b.get()
			for strings.Contains(got, progressMethod) {
				got = b.get()
			}
			if n, want := strings.Count(got, `"jsonrpc"`), len(all)-2; n != want || time.Since(begin) > 3*time.Second {
				t.Errorf("%d places: the batch was answered by %s with %d answers after %v, want %d within 3 s", places, got, n, time.Since(begin), want)
			}
			for text, want := range map[string]int{`"result":"x"`: 75, "TIMEOUT": 1, "REQUEST_CANCELLED": 1, "-32601": 1, "-32600": 3} {
				if n := strings.Count(got, text); n != want {
					t.Errorf("%d places: got %d answers with %s, want %d: %s", places, n, text, want, got)
				}
			}
		})
	}
}
