package main

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// heapNow returns the bytes of the live heap.
func heapNow() int {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// TestDaemonDoesNotGrow: 100,000 calls that only read leave nothing in the daemon,
// and calls with a task_id leave what fits in its bound. It is not parallel,
// because it measures the heap.
func TestDaemonDoesNotGrow(t *testing.T) {
	skipShort(t, "100,000 calls take seconds; TestParseCall and TestKeptResultsAreBounded have the same subject")
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	client, err := newLinkClient("", keyPair{})
	if err != nil {
		t.Fatal(err)
	}
	b := newHubBenchOn(t, listener, nil)
	stat := newMethod("fs/stat", "", func(context.Context, none) (none, error) { return none{}, nil })
	d := b.daemonVia(client, nil, stat)
	b.online("m")
	methods, tasks := methodsByName(builtinMethods()), d.service.tasks
	perform := func(calls int, params func(i int) string) (grown int) {
		before := heapNow()
		var wg sync.WaitGroup
		var next atomic.Int64
		for range 64 {
			wg.Go(func() {
				for i := int(next.Add(1)); i <= calls; i = int(next.Add(1)) {
					c, err := parseCall([]byte(`{"jsonrpc":"2.0","id":`+strconv.Itoa(i)+`,"method":"fs/stat","params":`+params(i)+`}`), methods)
					if err == nil {
						_, err = b.hub.perform(t.Context(), c, b.hub.machineTarget("m"))
					}
					if err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		return heapNow() - before
	}
	state := func() (kept, byKey int, timer *time.Timer) {
		tasks.mu.Lock()
		defer tasks.mu.Unlock()
		return len(tasks.kept), len(tasks.byKey), tasks.oldest
	}

	reads, most := 100_000, 4<<20
	if underRace() {
		reads, most = reads/10, 3*most
	}
	grown := perform(reads, func(int) string { return "{}" })
	if kept, byKey, timer := state(); kept != 0 || byKey != 0 || timer != nil {
		t.Errorf("after %d reads the daemon keeps %d outcomes, %d tasks and the timer %v, want none", reads, kept, byKey, timer)
	}
	if grown > most {
		t.Errorf("after %d reads the heap has grown by %d bytes, want at most %d", reads, grown, most)
	}

	const bound = 2000
	tasks.mu.Lock()
	tasks.maxKept = bound * keptOverhead * 5 / 4 // a result, with its share of the overhead
	tasks.mu.Unlock()
	grown = perform(3*bound, func(i int) string { return fmt.Sprintf(`{"task_id":"%0256d"}`, i) })
	kept, byKey, timer := state()
	if kept > bound*5/4 || kept < bound || byKey != kept || timer == nil {
		t.Errorf("after %d calls with a task_id the daemon keeps %d outcomes, %d tasks and the timer %v, want %d to %d and one timer", 3*bound, kept, byKey, timer, bound, bound*5/4)
	}
	if grown > tasks.maxKept+most {
		t.Errorf("after %d calls with a task_id the heap has grown by %d bytes, want at most %d", 3*bound, grown, tasks.maxKept+most)
	}
}
