package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A caller that has hundreds of calls in flight does not make the calls of another to
// the same machine wait, but has the machine for itself where it is the only one.
func TestCallersShareAMachine(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newHubBench(t)
		const work, many = time.Second, 200
		b.daemon("m", "i", "", newMethod("test/work", "", func(context.Context, none) (none, error) { time.Sleep(work); return none{}, nil }))
		conn := b.online("m")
		ctx, cancel := context.WithCancel(t.Context())
		var calls sync.WaitGroup
		perform := func(ctx context.Context, caller string) (time.Duration, error) {
			began := time.Now()
			c := newCall(t, "test/work", `{}`)
			c.caller = caller
			_, err := b.hub.perform(ctx, c, b.hub.machineTarget("m"))
			return time.Since(began), err
		}
		for range many {
			calls.Go(func() {
				for ctx.Err() == nil {
					if _, err := perform(ctx, "flood"); err != nil && ctx.Err() == nil {
						t.Errorf("a call of the flood: got %v, want no error", err)
					}
				}
			})
		}
		synctest.Wait()
		if got := conn.peer.pending(); got != many {
			t.Errorf("a caller alone: got %d calls at the daemon, want %d", got, many)
		}
		var took []time.Duration
		for range 4 {
			d, err := perform(t.Context(), "quiet")
			if err != nil {
				t.Fatal(err)
			}
			took = append(took, d)
			time.Sleep(shareKeep / 2)
		}
		// The first one waits behind the calls that were there.
		if most := (many/defaultMaxConcurrent + 2) * work; took[0] > most || slices.Max(took[1:]) > work {
			t.Errorf("the calls of a quiet caller took %v, want at most %v for the first and %v for the others", took, most, work)
		}
		if got, want := conn.peer.pending(), sharedCalls/2; got != want {
			t.Errorf("beside another: got %d calls of the flood at the daemon, want %d", got, want)
		}
		waiting, stop := context.WithCancel(t.Context())
		gone := make(chan error)
		go func() { _, err := perform(waiting, "flood"); gone <- err }()
		synctest.Wait()
		stop()
		if err := <-gone; !errors.Is(err, context.Canceled) {
			t.Errorf("a client that went away: got %v, want that it was cancelled", err)
		}
		// Another caller comes and stays away: the first one gets its whole share again.
		time.Sleep(shareKeep + 2*work)
		synctest.Wait()
		if got := conn.peer.pending(); got != many {
			t.Errorf("alone again: got %d calls at the daemon, want %d", got, many)
		}
		cancel()
		calls.Wait()
		time.Sleep(2 * work) // the daemon ends what was cancelled
		if l := &conn.load; l.calls != 0 || l.waiting != 0 || len(l.shares) != 1 || l.shares[0].calls != 0 {
			t.Errorf("after all calls: got %d calls, %d waiting and the shares %+v, want none", l.calls, l.waiting, l.shares)
		}
	})
}

// Calls that wait for their turn go on by the next link when theirs is lost.
func TestWaitingCallsSurviveALostLink(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newHubBench(t)
		d := b.daemon("m", "i", "", newMethod("test/work", "", func(context.Context, none) (none, error) { time.Sleep(time.Minute); return none{}, nil }))
		conn := b.online("m")
		var calls sync.WaitGroup
		for i := range 2*sharedCalls + 20 {
			calls.Go(func() {
				c := newCall(t, "test/work", `{"timeout_ms":600000}`)
				c.caller = fmt.Sprint("caller", i%2)
				if _, err := b.hub.perform(t.Context(), c, b.hub.machineTarget("m")); err != nil {
					t.Errorf("a call that waited: got %v, want no error", err)
				}
			})
		}
		synctest.Wait()
		if conn.load.mu.Lock(); conn.load.waiting == 0 {
			t.Error("got no call that waits, want some")
		}
		conn.load.mu.Unlock()
		_ = (<-d.lines).Close()
		calls.Wait()
		if l := &conn.load; l.calls != 0 || l.waiting != 0 {
			t.Errorf("the lost link: got %d calls and %d waiting, want none", l.calls, l.waiting)
		}
	})
}

// Where there are many callers each has at least minShare, and a caller that has had
// no call for shareKeep has none.
func TestSharesOfManyCallers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var l machineLoad
		for i := range 100 {
			if l.queue(fmt.Sprint(i)) != nil {
				t.Fatalf("the first call of caller %d waits, want it to begin", i)
			}
		}
		for n := 1; n < minShare; n++ {
			if l.queue("0") != nil {
				t.Fatalf("call %d of a caller waits, want %d to begin", n+1, minShare)
			}
		}
		turn := l.queue("0")
		if turn == nil {
			t.Fatalf("call %d of a caller began, want it to wait", minShare+1)
		}
		for i := range 99 {
			l.leave(fmt.Sprint(i + 1))
		}
		time.Sleep(shareKeep)
		l.leave("0")
		select {
		case <-turn:
		default:
			t.Error("the call still waits, want it to begin: no other caller is there")
		}
		if len(l.shares) != 1 {
			t.Errorf("got %d shares, want 1", len(l.shares))
		}
	})
}
