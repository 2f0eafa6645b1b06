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
)

// newCall is a call as the HTTP API makes it.
func newCall(t *testing.T, method, params string) *call {
	t.Helper()
	c, err := parseCall([]byte(`{"jsonrpc":"2.0","id":1,"method":"`+method+`","params":`+params+`}`), methodsByName(builtinMethods()))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// slowMethod takes a while and counts its runs.
func slowMethod(took time.Duration, runs *int) *method {
	return newMethod("test/slow", "", func(ctx context.Context, _ none) (int, error) {
		*runs++
		select {
		case <-time.After(took):
			return *runs, nil
		case <-ctx.Done():
			*runs += 100
			return 0, ctx.Err()
		}
	})
}

// TestCallSurvivesLostLinks: a call whose link is cut is sent again, joins its
// own run, and is answered once.
func TestCallSurvivesLostLinks(t *testing.T) {
	for cut := 100 * time.Millisecond; cut < 3*time.Second; cut += 100 * time.Millisecond {
		synctest.Test(t, func(t *testing.T) {
			b := newHubBench(t)
			runs := 0
			d := b.daemon("m", "i", "", slowMethod(3*time.Second, &runs))
			b.online("m")
			go func() {
				time.Sleep(cut)
				_ = (<-d.lines).Close()
			}()
			result, err := b.hub.perform(t.Context(), newCall(t, "test/slow", "{}"), b.hub.machineTarget("m"))
			if err != nil || string(result) != "1" || runs != 1 {
				t.Errorf("cut at %v: got %s, %v, %d runs, want 1, no error, 1 run", cut, result, err, runs)
			}
		})
	}
}

// TestReadSurvivesLostLinks: a call that only reads has no task_id, so that its run
// ends with the link. It is sent again, and answered once.
func TestReadSurvivesLostLinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newHubBench(t)
		runs := 0
		slow := slowMethod(3*time.Second, &runs)
		slow.name = "fs/stat"
		d := b.daemon("m", "i", "", slow)
		b.online("m")
		go func() {
			time.Sleep(time.Second)
			_ = (<-d.lines).Close()
		}()
		result, err := b.hub.perform(t.Context(), newCall(t, "fs/stat", "{}"), b.hub.machineTarget("m"))
		if err != nil || string(result) != "102" || runs != 102 {
			t.Errorf("got %s, %v, %d runs, want 102, no error: the second run after a cancelled one", result, err, runs)
		}
	})
}

// TestCallIsSentThreeTimes: a request that kills every daemon is not sent for ever.
func TestCallIsSentThreeTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newHubBench(t)
		runs := 0
		d := b.daemon("m", "i", "", slowMethod(time.Hour, &runs))
		b.online("m")
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var links sync.WaitGroup
		cuts := 0
		links.Go(func() {
			for {
				select {
				case line := <-d.lines:
					time.Sleep(time.Second)
					cuts++
					_ = line.Close()
				case <-ctx.Done():
					return
				}
			}
		})
		_, err := b.hub.perform(t.Context(), newCall(t, "test/slow", `{"timeout_ms":3600000}`), b.hub.machineTarget("m"))
		cancel()
		links.Wait()
		if e, ok := errors.AsType[*apiError](err); !ok || e.code != codeDaemonOffline || cuts != 3 {
			t.Errorf("got %v after %d cut links, want %s after 3", err, cuts, codeDaemonOffline)
		}
	})
}

// TestCallAnswerLost: the run is over, the answer was lost with the link; it
// comes from memory.
func TestCallAnswerLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newHubBench(t)
		runs := 0
		d := b.daemon("m", "i", "", slowMethod(time.Second, &runs))
		b.online("m")
		line := <-d.lines
		go func() {
			time.Sleep(500 * time.Millisecond)
			line.shut.Store(true) // nothing comes through any more, and nobody knows
		}()
		result, err := b.hub.perform(t.Context(), newCall(t, "test/slow", "{}"), b.hub.machineTarget("m"))
		if err != nil || string(result) != "1" || runs != 1 {
			t.Errorf("got %s, %v, %d runs, want 1, no error, 1 run", result, err, runs)
		}
	})
}

func TestCallThatCannotBeDelivered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newHubBench(t)
		runs := 0
		d := b.daemon("m", "i", "", slowMethod(time.Hour, &runs))
		b.online("m")
		for _, test := range []struct {
			machine, params string
			status          int
			code            errorCode
			after           time.Duration
		}{
			{"unknown", "{}", 404, codeDaemonOffline, 0},
			{"m", `{"timeout_ms":2000}`, 0, codeTimeout, 2 * time.Second}, // the daemon says so itself
		} {
			start := time.Now()
			_, err := b.hub.perform(t.Context(), newCall(t, "test/slow", test.params), b.hub.machineTarget(test.machine))
			status := 0
			if e, ok := errors.AsType[*apiError](err); ok {
				status, err = e.status, e.rpc()
			}
			if e, ok := errors.AsType[*rpcError](err); !ok || e.name() != test.code || status != test.status || time.Since(start) != test.after {
				t.Errorf("got %d %v after %v, want %+v", status, err, time.Since(start), test)
			}
		}
		// The client goes away: the request is cancelled.
		runs = 0
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		if _, err := b.hub.perform(ctx, newCall(t, "test/slow", "{}"), b.hub.machineTarget("m")); err == nil {
			t.Error("got a result, want the end of the context")
		}
		cancel()
		time.Sleep(time.Millisecond)
		synctest.Wait()
		if runs != 101 {
			t.Errorf("got runs %d, want 101: cancelled", runs)
		}
		d.stop()
		_ = d.end()
		synctest.Wait()
		_, err := b.hub.perform(t.Context(), newCall(t, "test/slow", "{}"), b.hub.machineTarget("m"))
		if e, ok := errors.AsType[*apiError](err); !ok || e.status != 503 || e.code != codeDaemonOffline {
			t.Error(err)
		}
	})
}

// TestCallToDrainingDaemon: its successor is asked.
func TestCallToDrainingDaemon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newHubBench(t)
		runs := 0
		first := b.daemon("cloud_x", "first", "child:cloud_x", slowMethod(time.Second, &runs))
		b.online("cloud_x")
		first.service.activity.drain()
		go func() {
			time.Sleep(time.Second)
			first.stop() // as the pool does with one that agreed to quiesce
			b.daemon("cloud_x", "second", "child:cloud_x", slowMethod(time.Second, &runs))
		}()
		result, err := b.hub.perform(t.Context(), newCall(t, "test/slow", "{}"), b.hub.machineTarget("cloud_x"))
		if err != nil || string(result) != "1" || runs != 1 {
			t.Errorf("got %s, %v, %d runs, want 1, no error, 1 run", result, err, runs)
		}
	})
}

// TestCallToDaemonThatResumes: it was about to be evicted, and was then told to
// stay.
func TestCallToDaemonThatResumes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newHubBench(t)
		runs := 0
		d := b.daemon("cloud_x", "first", "child:cloud_x", slowMethod(time.Second, &runs))
		b.online("cloud_x")
		d.service.activity.quiesce(0)
		time.AfterFunc(time.Second, d.service.activity.resume)
		begin := time.Now()
		result, err := b.hub.perform(t.Context(), newCall(t, "test/slow", "{}"), b.hub.machineTarget("cloud_x"))
		if took := time.Since(begin); err != nil || string(result) != "1" || took > 2*time.Second+drainPause {
			t.Errorf("got %s, %v, after %v, want 1 once it has resumed", result, err, took)
		}
		d.service.activity.drain() // and stays so
		begin = time.Now()
		_, err = b.hub.perform(t.Context(), newCall(t, "test/slow", "{}"), b.hub.machineTarget("cloud_x"))
		if took := time.Since(begin); asRPCError(err).name() != codeDraining || took > returnTimeout+drainPause {
			t.Errorf("got %v after %v, want %s within %v", err, took, codeDraining, returnTimeout+drainPause)
		}
	})
}

// TestProgressReachesTheCall: by its task_id, the newest first.
func TestProgressReachesTheCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newHubBench(t)
		work := newMethod("test/work", "", func(ctx context.Context, _ none) (none, error) {
			for i := range 10 {
				reportProgress(ctx, progress{Phase: "p", Percent: i * 10})
				time.Sleep(time.Second)
			}
			return none{}, nil
		})
		b.daemon("m", "i", "", work)
		b.online("m")
		c := newCall(t, "test/work", `{"task_id":"T"}`)
		mine, stop := b.hub.watch(c)
		defer stop()
		other, stopOther := b.hub.watch(newCall(t, "test/work", `{"task_id":"X"}`))
		defer stopOther()
		seen := make(chan []int)
		done := make(chan struct{})
		go func() {
			var percents []int
			for {
				select {
				case raw := <-mine.newest:
					var p taskProgress
					if err := json.Unmarshal(raw, &p); err != nil || p.TaskID != "T" {
						t.Errorf("got %s, %v, want progress of T", raw, err)
					}
					percents = append(percents, p.Percent)
				case <-done:
					seen <- percents
					return
				}
			}
		}()
		if _, err := b.hub.perform(t.Context(), c, b.hub.machineTarget("m")); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		close(done)
		if percents := <-seen; len(percents) < 10 || !slices.IsSorted(percents) || percents[len(percents)-1] != 100 {
			t.Errorf("got the percents %v, want at least 10 that rise to 100", percents)
		}
		if len(other.newest) != 0 {
			t.Error("a call got the progress of another, want none")
		}
	})
}

// TestProgressOfReads: calls without a task_id get the progress of their own run,
// under the caller's id, also when others run on the same and on another daemon
// under the same id, and after a link was lost.
func TestProgressOfReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newHubBench(t)
		type textParams struct {
			Text string `json:"text"`
		}
		work := newMethod("fs/stat", "", func(ctx context.Context, p textParams) (string, error) {
			for i := range 10 {
				reportProgress(ctx, progress{Percent: i * 10, Message: p.Text})
				time.Sleep(time.Second)
			}
			return p.Text, nil
		})
		cut := b.daemon("cut", "i", "", work)
		b.daemon("m", "i", "", work)
		b.online("cut")
		b.online("m")
		go func() {
			time.Sleep(5 * time.Second)
			_ = (<-cut.lines).Close()
		}()
		var calls sync.WaitGroup
		for _, name := range []string{"m 1", "m 2", "cut 1", "cut 2"} {
			calls.Go(func() {
				machine, _, _ := strings.Cut(name, " ")
				c := newCall(t, "fs/stat", `{"text":"`+name+`"}`)
				watch, stop := b.hub.watch(c)
				defer stop()
				done := make(chan struct{})
				go func() {
					defer close(done)
					if result, err := b.hub.perform(t.Context(), c, b.hub.machineTarget(machine)); err != nil || string(result) != `"`+name+`"` {
						t.Errorf("%s: got %s, %v, want its own result", name, result, err)
					}
				}()
				var last taskProgress
				for seen := 0; ; seen++ {
					select {
					case raw := <-watch.newest:
						if err := json.Unmarshal(raw, &last); err != nil || last.TaskID != "1" || last.Message != name {
							t.Errorf("%s: got %s, %v, want its own progress under its own id 1", name, raw, err)
						}
						continue
					case <-done:
					}
					if last.Percent < 90 || seen < 9 {
						t.Errorf("%s: got %d times progress, the last %+v, want at least 9 up to 90 percent or more", name, seen, last)
					}
					return
				}
			})
		}
		calls.Wait()
		if b.hub.mu.Lock(); len(b.hub.progress) != 0 {
			t.Errorf("the hub expects the progress %v after the calls, want none", b.hub.progress)
		}
		b.hub.mu.Unlock()
	})
}

// A daemon may use the task id of another's task. What it reports is published
// under its own machine, whatever it says, and only while it is connected.
func TestProgressIsPublishedUnderItsMachine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newHubBench(t)
		b.daemon("m", "i", "")
		published := make(chan string, 10)
		conn := b.online("m")
		b.hub.publish = func(name string, params any) {
			data, err := json.Marshal(params)
			if name == progressMethod {
				published <- fmt.Sprintf("%s %v", data, err)
			}
		}
		b.hub.progressed(conn, json.RawMessage(`{"task_id":"T","method":"m","machine_id":"other","lib_id":"x","Percent":9,"percent":5.0}`))
		const want = `{"machine_id":"m","lib_id":"lib_of_m","task_id":"T","method":"m","percent":5} <nil>`
		if got := <-published; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		// The token is that of the call, and of the one that began first.
		now := time.Now()
		for i, token := range []string{"second", "first", ""} {
			c := &call{taskID: "T", token: token, began: now.Add(time.Duration(1-i) * time.Minute)}
			if c.via.Store(conn); token == "" {
				c.began = now.Add(time.Hour)
			}
			b.hub.requests.begin(c)
		}
		b.hub.requests.begin(&call{taskID: "T", token: "other", began: now.Add(-time.Hour)}) // out by no link
		b.hub.progressed(conn, json.RawMessage(`{"task_id":"T","method":"m","percent":5,"token":"x"}`))
		const named = `{"machine_id":"m","lib_id":"lib_of_m","token":"first","task_id":"T","method":"m","percent":5} <nil>`
		if got := <-published; got != named {
			t.Errorf("got %s, want %s", got, named)
		}
		stranger := &hubConn{hub: b.hub}
		b.hub.progressed(stranger, json.RawMessage(`{"task_id":"T","percent":5}`))
		stranger.setHandshake(&handshakeParams{MachineID: "m"}) // not accepted
		b.hub.progressed(stranger, json.RawMessage(`{"task_id":"T","percent":5}`))
		if len(published) != 0 {
			t.Errorf("got %s of a link without a machine, want nothing", <-published)
		}
	})
}

// Task ids are each daemon's own: the progress of another's task of the same name
// is not the call's, and what falls behind is left out.
func TestProgressOfAnotherDaemon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newHubBench(t)
		report := func(percents ...int) *method {
			return newMethod("test/work", "", func(ctx context.Context, _ none) (none, error) {
				for _, percent := range percents {
					reportProgress(ctx, progress{Phase: "p", Percent: percent})
					time.Sleep(time.Second)
				}
				return none{}, nil
			})
		}
		b.daemon("m", "i", "", report(10, 20, 30))
		b.daemon("other", "i", "", report(55, 56, 57))
		b.online("m")
		b.online("other")
		c := newCall(t, "test/work", `{"task_id":"T"}`)
		watch, stop := b.hub.watch(c)
		defer stop()
		var calls sync.WaitGroup
		for machine, call := range map[string]*call{"m": c, "other": newCall(t, "test/work", `{"task_id":"T"}`)} {
			calls.Go(func() {
				if _, err := b.hub.perform(t.Context(), call, b.hub.machineTarget(machine)); err != nil {
					t.Error(err)
				}
			})
		}
		var seen []int
		for len(seen) == 0 || seen[len(seen)-1] != 100 {
			var p taskProgress
			if err := json.Unmarshal(<-watch.newest, &p); err != nil {
				t.Fatal(err)
			}
			seen = append(seen, p.Percent)
		}
		calls.Wait()
		if !slices.IsSorted(seen) || slices.ContainsFunc(seen, func(percent int) bool { return percent > 50 && percent < 60 }) {
			t.Errorf("got the percents %v, want rising ones of its own daemon", seen)
		}
		// Sent again to another daemon it begins anew.
		b.hub.progressed(b.online("m"), json.RawMessage(`{"task_id":"T","percent":5}`))
		if len(watch.newest) != 0 {
			t.Error("got a percent that fell, want it left out")
		}
	})
}

func TestParseCall(t *testing.T) {
	methods := methodsByName(builtinMethods())
	const noTask = "(none)" // "" stands for any
	for _, test := range []struct {
		body, method, id, task string
		timeout                time.Duration
	}{
		{`{"jsonrpc":"2.0","id":1,"method":"a/b","params":{"task_id":"T","timeout_ms":5}}`, "a/b", "1", "T", 5 * time.Millisecond},
		{`{"jsonrpc":"2.0","id":null,"method":"vcs/clone","params":{ "url":"x" }}`, "vcs/clone", "null", "", cloneMethodTimeout},
		{`{"jsonrpc":"2.0","id":"x","method":"a/b"}`, "a/b", `"x"`, "", defaultMethodTimeout},
		{`{"jsonrpc":"2.0","id":"x","method":"a/b","params":null}`, "a/b", `"x"`, "", defaultMethodTimeout},
		{`{"jsonrpc":"2.0","id":"x","method":"a/b","METHOD":"c/d","params":{"task_id":null,"TASK_ID":"T"}}`, "a/b", `"x"`, "", defaultMethodTimeout},
		{`{"jsonrpc":"2.0","id":"x","method":"a/b","params":{ }}`, "a/b", `"x"`, "", defaultMethodTimeout},
		{`{"jsonrpc":"2.0","id":1,"method":"fs/stat","params":{"task_id":"T"}}`, "fs/stat", "1", "T", defaultMethodTimeout},
		{`{"jsonrpc":"2.0","id":1,"method":"fs/stat","params":{"path":"/x"}}`, "fs/stat", "1", noTask, defaultMethodTimeout},
		{`{"jsonrpc":"2.0","id":1,"method":"vcs/log","params":{"path":"/x","task_id":null}}`, "vcs/log", "1", noTask, defaultMethodTimeout},
		{`{"jsonrpc":"2.0","id":1,"method":"fs/stat","params":{"t\u0061sk_id":"T","timeout_m\u0073":7}}`, "fs/stat", "1", "T", 7 * time.Millisecond},
		{`{"jsonrpc":"2.0","id":1,"method":"fs\/st\u0061t","params":{"timeout_ms":7,"path":"task_id"}}`, "fs/stat", "1", noTask, 7 * time.Millisecond},
		{`{"jsonrpc":"2.0","id":1,"method":"config/get"}`, "config/get", "1", noTask, defaultMethodTimeout},
	} {
		c, err := parseCall([]byte(test.body), methods)
		if err != nil || c.method != test.method || string(c.id) != test.id || c.timeout != test.timeout || (test.task != "" && test.task != noTask && c.taskID != test.task) || (c.taskID == "") != (test.task == noTask) {
			t.Errorf("%s: got %+v, %v, want %+v", test.body, c, err, test)
			continue
		}
		var common commonParams
		if test.task == noTask {
			if err := decodeParams(c.params, &common); err != nil || common.TaskID != nil {
				t.Errorf("%s: got the params %s, %v, want no task_id in them", test.body, c.params, err)
			}
			continue
		}
		if err := decodeParams(c.params, &common); err != nil || common.TaskID == nil || *common.TaskID != c.taskID {
			t.Errorf("%s: got the params %s, %v, want the task_id %s in them", test.body, c.params, err, c.taskID)
		}
	}
	for _, body := range []string{``, `x`, `[]`, "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"a\",\"params\":{\"path\":\"\xff\"}}", `[{"jsonrpc":"2.0","id":1,"method":"a"}]`, `{}`, `{"jsonrpc":"2.0","method":"a"}`, `{"jsonrpc":"2.0","id":{},"method":"a"}`, `{"jsonrpc":"2.0","id":1}`, `{"jsonrpc":"2.0","id":1,"result":1}`} {
		if c, err := parseCall([]byte(body), methods); err == nil {
			t.Errorf("%s: got %+v, want an error", body, c)
		}
	}
}
