package main

import (
	"context"
	"strconv"
	"testing"
	"testing/synctest"
	"time"
)

// TestStoppedCallIsNotRemembered: when the last caller leaves, it gets the result
// of a run that ends well all the same, but that result is not kept. The next
// caller of the key starts a new run.
func TestStoppedCallIsNotRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		group := newFlightGroup(t.Context(), taskKeep, maxTaskKept)
		runs := 0
		run := func(ctx context.Context) (any, error) {
			runs++
			if runs == 1 {
				<-ctx.Done() // the caller has left, and the work is done all the same
			}
			return runs, nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		var got any
		var err error
		done := make(chan struct{})
		go func() {
			defer close(done)
			got, err = group.do(ctx, "key", "", run)
		}()
		synctest.Wait()
		cancel()
		if <-done; err != nil || got != 1 {
			t.Errorf("the caller that left got %v, %v, want the result 1 of the run that ended well", got, err)
		}
		if got, err := group.do(t.Context(), "key", "", run); err != nil || got != 2 {
			t.Errorf("the next caller got %v, %v, want the result 2 of a second run", got, err)
		}
		group.wait()
	})
}

// TestCallerWaitsForStoppingRun: a caller that comes while a stopped run still
// cleans up does not get that run's error. It waits and starts a new one.
func TestCallerWaitsForStoppingRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		group := newFlightGroup(t.Context(), taskKeep, maxTaskKept)
		cleanedUp := make(chan struct{})
		runs := 0
		run := func(ctx context.Context) (any, error) {
			runs++
			if runs > 1 {
				return "second run", nil
			}
			<-ctx.Done()
			<-cleanedUp
			return nil, context.Cause(ctx)
		}
		ctx, cancel := context.WithCancel(t.Context())
		left := make(chan error, 1)
		go func() {
			_, err := group.do(ctx, "key", "", run)
			left <- err
		}()
		synctest.Wait()
		cancel()
		synctest.Wait() // the run is cleaning up
		type outcome struct {
			value any
			err   error
		}
		second := make(chan outcome, 1)
		go func() {
			value, err := group.do(t.Context(), "key", "", run)
			second <- outcome{value, err}
		}()
		synctest.Wait()
		if runs != 1 {
			t.Errorf("%d runs while the first one cleans up, want 1", runs)
		}
		close(cleanedUp)
		if err := <-left; err != context.Canceled {
			t.Errorf("the caller that left got %v, want %v", err, context.Canceled)
		}
		if got := <-second; got.err != nil || got.value != "second run" {
			t.Errorf("the caller that came meanwhile got %v, %v, want the result of a second run", got.value, got.err)
		}
		group.wait()
	})
}

// TestKeptResultsAreBounded: results are kept up to maxKept with their overhead,
// the newest of them, and one timer drops them all when they are too old.
func TestKeptResultsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const bound, calls = 100, 1000
		group := newFlightGroup(t.Context(), taskKeep, bound*keptOverhead)
		runs := 0
		do := func(key int) {
			t.Helper()
			if _, err := group.do(t.Context(), strconv.Itoa(key), "", func(context.Context) (any, error) { runs++; return nil, nil }); err != nil {
				t.Fatal(err)
			}
		}
		check := func(when string, want int) {
			t.Helper()
			synctest.Wait()
			if group.mu.Lock(); len(group.kept) != want || len(group.byKey) != want || group.keptLen != want*keptOverhead {
				t.Errorf("%s: %d results kept, %d keys, %d bytes, want %d, %d, %d", when, len(group.kept), len(group.byKey), group.keptLen, want, want, want*keptOverhead)
			}
			group.mu.Unlock()
		}
		for key := range calls {
			do(key)
		}
		check("at once", bound)
		for key := calls - bound; key < calls; key++ {
			do(key)
		}
		if runs != calls {
			t.Errorf("%d runs, want %d: the newest %d are kept", runs, calls, bound)
		}
		time.Sleep(taskKeep / 2)
		do(0)
		check("half of the time later", bound) // the oldest made room
		time.Sleep(taskKeep/2 + time.Nanosecond)
		check("when all but one are too old", 1)
		time.Sleep(taskKeep / 2)
		check("when all are too old", 0)
		do(1)
		check("a new one", 1)
		time.Sleep(taskKeep + time.Nanosecond)
		check("when it is too old as well", 0)
	})
}
